"""What can be asked of keys over HTTP? Make, list, end."""

from __future__ import annotations

from typing import Any

from flask import Response, request

from cloudsched.dialects.native import front, schemas, wire
from cloudsched.dialects.native.routing import Blueprint, caller, check_match, reply, route, tag_of
from cloudsched.errors import Invalid, NotFound
from cloudsched.services import keys

blueprint = Blueprint("keys", __name__, url_prefix="/api/v2", description="Who may call")


@route(blueprint, "/keys", role="admin", query=schemas.PageQuery, answer=schemas.page_of(schemas.Key))
def list_keys(_: dict[str, Any]) -> Response:
    """List keys, without the keys themselves."""
    return reply({"items": keys.listed(caller()), "next": None})


@route(blueprint, "/keys", "POST", role="admin", body=schemas.KeyBody, answer=schemas.NewKey, status=201, secret=True,
       also=[(409, "The first key must be an admin's")])
def create_key(body: dict[str, Any]) -> Response:
    """Make a key; it is shown this once."""
    made = keys.create(body["name"], body["role"], caller(), org=body["org"], ttl_s=body["ttl_s"])
    request.environ[front.GATE].forget()
    return reply(made, 201)


@route(blueprint, "/keys/<raw:key>", "DELETE", role="admin", status=204, also=[(404, "No such key in force"),
                                                                             (409, "It is the last admin key")])
def revoke_key(key: str) -> Response:
    """End a key."""
    try:
        number = wire.whole("key", key)
    except Invalid:
        raise NotFound(f"there is no key {key[:100]}") from None
    if request.headers.get("If-Match"):
        check_match(next((tag_of(one) for one in keys.listed(caller()) if one["id"] == number), ""))
    keys.revoke(number, caller())
    request.environ[front.GATE].forget()
    return Response(status=204)
