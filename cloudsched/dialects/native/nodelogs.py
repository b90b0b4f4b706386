"""What have nodes and jobs written? Collected logs over HTTP: a page at a time, or as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec
from flask import Response, current_app, request
from marshmallow import INCLUDE, Schema, fields, validate
from werkzeug.wsgi import ClosingIterator

from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.peer import gone
from cloudsched.dialects.native.routing import Blueprint, reply, route
from cloudsched.errors import Invalid
from cloudsched.services import nodelog_views
from cloudsched.services.nodelog_views import Wanted

blueprint = Blueprint("nodelogs", __name__, url_prefix="/api/v2", description="Logs that outlive the machine")
NDJSON = "application/x-ndjson"
_ATTEMPT = validate.Range(1, 2**31 - 1)
_encode = msgspec.json.Encoder().encode
Find = Callable[..., tuple[list[dict[str, Any]], int]]
Follow = Callable[..., Iterator[tuple[int, dict[str, Any]] | None]]


class LogQuery(schemas.PageQuery):
    attempt = fields.Integer(load_default=None, validate=_ATTEMPT)
    stream = fields.String(load_default="", validate=validate.OneOf(("stdout", "stderr", "agent", "")))
    since = fields.String(load_default="", metadata={"format": "date-time", "description": "records that came since then"})
    tail = fields.Integer(load_default=None, validate=validate.Range(0, 1000),
                          metadata={"description": "the last so many, and what comes after them"})
    follow = fields.Boolean(load_default=False, metadata={"description": f"as {NDJSON}, a record a line, as they come"})


class NodeLogQuery(LogQuery):
    job = fields.Integer(load_default=None, validate=validate.Range(0, 2**63 - 1))


class LogRecord(Schema):
    """What a runner sends; of job output and the agent's own log:"""

    class Meta:
        unknown = INCLUDE

    node = fields.String()
    cloud = fields.String()
    cluster = fields.String()
    job = fields.Integer()
    attempt = fields.Integer()
    stream = fields.String()
    offset = fields.Integer(metadata={"description": "where in the stream the line begins"})
    size = fields.Integer(metadata={"description": "bytes of the line in the stream"})
    line = fields.String()
    level = fields.String()
    time = fields.String(metadata={"format": "date-time", "description": "by the node's own clock"})
    received_at = fields.String(metadata={"format": "date-time", "description": "by the clock of the server"})


@route(blueprint, "/nodes/<raw:node>/logs", role="viewer", query=NodeLogQuery, answer=schemas.page_of(LogRecord),
       also=[(404, "No such node"), (503, "Too many streams are open")])
def node_logs(query: dict[str, Any], node: str) -> Response:
    """Collected logs of a node, by number or name, oldest first; also when the machine is gone.

    With `follow` as NDJSON until the caller leaves; each record then has the `cursor` behind it.
    """
    return _answer(query, node, nodelog_views.of_node, nodelog_views.follow_node)


@route(blueprint, "/jobs/<raw:job>/logs", role="viewer", query=LogQuery, answer=schemas.page_of(LogRecord),
       also=[(404, "No such job"), (503, "Too many streams are open")])
def job_logs(query: dict[str, Any], job: str) -> Response:
    """Collected output of a job, of all attempts, oldest first; beyond the limit of `output`, too.

    With `follow` as NDJSON until the job has ended.
    """
    return _answer(query, job, nodelog_views.of_job, nodelog_views.follow_job)


def _answer(query: dict[str, Any], reference: str, find: Find, follow: Follow) -> Response:
    pairs = wire.query(request.environ, request.args)
    most, after = paging.limit(pairs), paging.position(pairs) or 0
    wanted = Wanted(query.get("job"), query["attempt"], query["stream"], _epoch(query["since"]))
    if query["follow"]:
        records = follow(reference, wanted, after=after, tail=query["tail"], gone=gone(request.environ))
        leave = current_app.extensions["streams"].enter("logs")
        # The empty piece makes the server send the headers now: the first record may come late.
        return Response(ClosingIterator(chain((b"",), _lines(records, pairs)), leave), content_type=NDJSON,
                        headers={"X-Accel-Buffering": "no"})
    found, position = find(reference, wanted, after=after, tail=query["tail"], limit=most)
    more = query["tail"] is None
    return reply({"items": found, "next": paging.following(pairs, found, most, position) if more else None})


def _lines(records: Iterator[tuple[int, dict[str, Any]] | None], pairs: list[tuple[str, str]]) -> Iterator[bytes]:
    """Each with the cursor behind it, so that whoever was cut off goes on there."""
    for one in records:
        yield b"\n" if one is None else _encode({**one[1], "cursor": paging.following(pairs, [one], 1, one[0])}) + b"\n"


def _epoch(text: str) -> float:
    if not text:
        return 0.0
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Invalid.at("since", f"{text[:40]!r} is no time", "RFC 3339, e.g. 2026-01-31T12:00:00Z") from None
