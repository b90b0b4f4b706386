"""What can be asked over HTTP of what is told to others? Webhooks with their logs, and whether a client's jobs raise alerts."""

from __future__ import annotations

from typing import Any

from flask import Response, current_app, request
from marshmallow import fields, validate

from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.routing import Blueprint, caller, reply, route
from cloudsched.services.notices import alerts, webhooks

blueprint = Blueprint("hooks", __name__, url_prefix="/api/v2", description="Who is told")
_SECRET = validate.Length(max=webhooks.SECRET_MOST)


class WebhookBody(schemas.Strict):
    """A webhook: who wants which events."""

    name = fields.String(required=True)
    url = fields.String(required=True, metadata={"description": "https, or http to this machine; never shown in full again"})
    kinds = fields.List(fields.String(), load_default=[], metadata={
        "description": "kinds of events, or how they begin (`job.`); none: all"})
    secret = fields.String(load_default="", validate=_SECRET, metadata={"description": "signs deliveries; made when not given"})
    since = fields.Integer(load_default=None, allow_none=True, metadata={
        "description": "also the events after this sequence number"})


class Webhook(schemas.Strict):
    id = fields.Integer()
    name = fields.String()
    url = fields.String(metadata={"description": "without what may be secret in it"})
    kinds = fields.List(fields.String())
    enabled = fields.Boolean()
    position = fields.Integer(metadata={"description": "the last event that was looked at"})
    failures = fields.Integer(metadata={"description": "attempts in a row that the receiver did not answer"})
    last_ok_at = fields.String(allow_none=True)
    last_error = fields.String(allow_none=True)
    retry_at = fields.String(allow_none=True)
    pending = fields.Integer()
    delivered = fields.Integer()
    dead = fields.Integer()
    created_by = fields.String()
    created_at = fields.String(allow_none=True)


class NewWebhook(Webhook):
    secret = fields.String(metadata={"description": "shown this once"})


class Delivery(schemas.Strict):
    id = fields.Integer()
    event_id = fields.Integer()
    kind = fields.String()
    state = fields.String()
    attempts = fields.Integer()
    status = fields.Integer(allow_none=True)
    error = fields.String(allow_none=True)
    took_s = fields.Float(allow_none=True)
    created_at = fields.String(allow_none=True)
    tried_at = fields.String(allow_none=True)
    ended_at = fields.String(allow_none=True)


class DeliveryQuery(schemas.PageQuery):
    state = fields.String(load_default="", validate=validate.OneOf(("", *webhooks.STATES)))


class Retried(schemas.Strict):
    retried = fields.Integer()


class Monitored(schemas.Strict):
    """Are the client's long-running jobs told of?"""

    client = fields.String(dump_only=True)
    on = fields.Boolean(required=True)


@route(blueprint, "/webhooks", role="operator", query=schemas.PageQuery, answer=schemas.page_of(Webhook))
def list_webhooks(_: dict[str, Any]) -> Response:
    """List webhooks, without secrets."""
    return reply({"items": webhooks.listed(caller()), "next": None})


@route(blueprint, "/webhooks", "POST", role="admin", body=WebhookBody, answer=NewWebhook, status=201, secret=True,
       also=[(409, "The name is taken")])
def add_webhook(body: dict[str, Any]) -> Response:
    """Add a webhook; its secret is shown this once."""
    made = webhooks.add(body["name"], body["url"], caller(), settings=current_app.extensions["settings"], kinds=body["kinds"],
                        secret=body["secret"], since=body["since"])
    return reply(made, 201)


@route(blueprint, "/webhooks/<raw:hook>", role="operator", answer=Webhook, also=[(404, "No such webhook")])
def show_webhook(hook: str) -> Response:
    """Show a webhook."""
    return reply(webhooks.one(hook))


@route(blueprint, "/webhooks/<raw:hook>", "DELETE", role="admin", status=204, also=[(404, "No such webhook")])
def remove_webhook(hook: str) -> Response:
    """Remove a webhook with its log."""
    webhooks.remove(hook, caller())
    return Response(status=204)


@route(blueprint, "/webhooks/<raw:hook>/enable", "POST", role="admin", answer=Webhook, also=[(404, "No such webhook")])
def enable_webhook(hook: str) -> Response:
    """Go on sending, from where it was left."""
    return reply(webhooks.switch(hook, True, caller()))


@route(blueprint, "/webhooks/<raw:hook>/disable", "POST", role="admin", answer=Webhook, also=[(404, "No such webhook")])
def disable_webhook(hook: str) -> Response:
    """Send no more for now; what happens meanwhile is sent later."""
    return reply(webhooks.switch(hook, False, caller()))


@route(blueprint, "/webhooks/<raw:hook>/test", "POST", role="operator", answer=Delivery, status=202,
       also=[(404, "No such webhook"), (409, "It is switched off")])
def test_webhook(hook: str) -> Response:
    """Send an event made for it; the delivery tells later how it went."""
    return reply(webhooks.test(hook, caller()), 202)


@route(blueprint, "/webhooks/<raw:hook>/retry", "POST", role="operator", answer=Retried, also=[(404, "No such webhook")])
def retry_webhook(hook: str) -> Response:
    """Begin anew with what was given up, and try the receiver at once."""
    return reply({"retried": webhooks.retry(hook, caller())})


@route(blueprint, "/webhooks/<raw:hook>/deliveries", role="operator", query=DeliveryQuery, answer=schemas.page_of(Delivery),
       also=[(404, "No such webhook")])
def list_deliveries(query: dict[str, Any], hook: str) -> Response:
    """List what a webhook was sent, newest first."""
    pairs = wire.query(request.environ, request.args)
    most, after = paging.limit(pairs), paging.position(pairs)
    found = webhooks.deliveries(hook, caller(), state=query["state"], after=after, limit=most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1]["id"] if found else None)})


@route(blueprint, "/alerts/clients/<raw:client>", role="viewer", answer=Monitored)
def show_monitoring(client: str) -> Response:
    """Tell whether long-running Spark and Flink jobs of a client raise alerts."""
    on = alerts.is_monitored(client, current_app.extensions["settings"])
    return reply({"client": client, "on": on})


@route(blueprint, "/alerts/clients/<raw:client>", "PUT", role="operator", body=Monitored, answer=Monitored)
def switch_monitoring(body: dict[str, Any], client: str) -> Response:
    """Switch alerts of a client's long-running jobs on or off."""
    alerts.switch(client, body["on"], caller())
    return reply({"client": client, "on": body["on"]})
