"""What is kept of webhooks and mail? Who wants which events, what was sent them, and letters on their way."""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, DoubleField, IntegerField, TextField

from cloudsched.store.tables import Table, number, text


class Webhook(Table):
    """Somebody wants events posted. `sealed`: URL and secret; `shown`: the URL without what may be secret in it.

    `kinds`: JSON list of kinds, or how they begin; `position`: the last event that was looked at; `not_before`: nothing is
    sent earlier (the receiver is away).
    """

    id = BigAutoField()
    name = TextField(unique=True)
    shown = TextField()
    sealed = TextField()
    kinds = text("[]")
    enabled = number(1)
    position = BigIntegerField(default=0)
    failures = number()
    not_before = DoubleField(default=0)
    lease_holder = text()
    lease_until = DoubleField(default=0)
    last_ok_at = DoubleField(null=True)
    last_error = text()
    actor = text()
    version = number(1)
    created_at = DoubleField()


class WebhookDelivery(Table):
    """One event for one webhook. `state`: pending, delivered, dead. `body`: what is sent, so that retention of events does
    not take it away."""

    id = BigAutoField()
    webhook_id = BigIntegerField()
    event_id = BigIntegerField()
    kind = TextField()
    state = text("pending")
    body = TextField()
    attempts = number()
    not_before = DoubleField(default=0)
    status = IntegerField(null=True)
    error = text()
    took_s = DoubleField(null=True)
    created_at = DoubleField()
    tried_at = DoubleField(null=True)
    ended_at = DoubleField(null=True)


class Mail(Table):
    """A letter. `state`: pending, sent, dead; `recipients`: JSON list, without those that have it already."""

    id = BigAutoField()
    subject_kind = text()
    subject_id = BigIntegerField(default=0)
    recipients = TextField()
    title = TextField()
    body = TextField()
    state = text("pending")
    attempts = number()
    not_before = DoubleField(default=0)
    error = text()
    created_at = DoubleField()
    ended_at = DoubleField(null=True)


ALL: tuple[type[Table], ...] = (Webhook, WebhookDelivery, Mail)

INDEXES = (
    "CREATE UNIQUE INDEX webhook_delivery_once ON webhook_delivery (webhook_id, event_id)",
    "CREATE INDEX webhook_delivery_due ON webhook_delivery (webhook_id, id) WHERE state = 'pending'",
    "CREATE INDEX webhook_delivery_ended ON webhook_delivery (ended_at) WHERE state <> 'pending'",
    "CREATE INDEX mail_due ON mail (not_before, id) WHERE state = 'pending'",
    "CREATE INDEX mail_ended ON mail (ended_at) WHERE state <> 'pending'",
)
