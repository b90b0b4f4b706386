"""Who is told of what happens: alerts, mail, webhooks."""
