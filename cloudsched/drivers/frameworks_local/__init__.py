"""How do Spark and Flink run as processes of this machine? What both kinds share is here."""
