"""What can be looked at over HTTP? Events (also as a stream), operations, why, trace, loops, settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from flask import Response, current_app, request
from werkzeug.wsgi import ClosingIterator

from cloudsched.dialects.native import paging, schemas, wire
from cloudsched.dialects.native.peer import gone
from cloudsched.dialects.native.problems import HttpProblem
from cloudsched.dialects.native.routing import Blueprint, caller, reply, route, single
from cloudsched.errors import Invalid
from cloudsched.services import health, operations, streams, trace, watch, why
from cloudsched.services.watch import EventView, Filter, Gap

blueprint = Blueprint("look", __name__, url_prefix="/api/v2", description="What happened, what happens, and why")
RETRY_MS = 2000
_SECRET_KEYS = ("password", "secret", "token")
_encode = msgspec.json.Encoder().encode


@route(blueprint, "/events", role="viewer", query=schemas.EventQuery, answer=schemas.page_of(schemas.Event),
       also=[(503, "Too many streams are open")])
def list_events(query: dict[str, Any]) -> Response:
    """Events in order; with `Accept: text/event-stream` the stream of what happens.

    The stream's `id:` is the sequence number; `Last-Event-ID` (or `since`) resumes after it; an event named `gap` tells
    what retention has removed in between.
    """
    wanted = Filter(query["subject_kind"], query["subject_id"], query["kind"])
    if request.accept_mimetypes.best_match(["application/json", "text/event-stream"]) == "text/event-stream":
        return _stream(query["since"], wanted)
    pairs = wire.query(request.environ, request.args)
    most = paging.limit(pairs)
    after = paging.position(pairs)
    found = watch.page(query["since"] or 0 if after is None else after, wanted, limit=most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1].id if found else None)})


def _stream(since: int | None, wanted: Filter) -> Response:
    resume = request.headers.get("Last-Event-ID", "").strip()
    if resume:
        since = wire.whole("Last-Event-ID", resume)
    if streams.shared():
        body: Any = streams.Stream(_Events(since, wanted), request.environ, kind="events")
    else:
        leave = current_app.extensions["streams"].enter("events")
        body = ClosingIterator(_lines(since, wanted, request.environ), leave)
    return Response(body, content_type="text/event-stream; charset=utf-8", headers={"X-Accel-Buffering": "no"})


class _Events:
    """The stream on the thread that all streams share (services/streams.py)."""

    heartbeat = b": alive\n\n"

    def __init__(self, since: int | None, wanted: Filter) -> None:
        newest = watch.last_id()
        self._wanted = wanted
        self._head = _head(newest if since is None else None)
        self._position = newest if since is None else min(since, newest)
        # Seen in another life of this database: a backup was restored.
        self._lost = Gap(newest + 1, since, newest) if since is not None and since > newest else None

    def first(self) -> bytes:
        return self._head + (_gap(self._lost) if self._lost else b"")

    def more(self, feed: streams.Feed, now: float) -> bytes:
        found, gap = feed.after(self._position)
        pieces = [_line(watch.view(event)) for event in found if self._wanted.holds(event)]
        self._position = found[-1].id if found else gap.position if gap else self._position
        return b"".join([_gap(gap), *pieces] if gap else pieces)

    def closed(self) -> None:
        """Nothing is held."""


def _lines(since: int | None, wanted: Filter, environ: dict[str, Any]) -> Iterator[bytes]:
    newest = watch.last_id() if since is None else None
    yield _head(newest)
    since = newest if since is None else since
    for one in watch.follow(since, wanted, gone=gone(environ)):
        if one is None:
            yield b": alive\n\n"
        elif isinstance(one, Gap):
            yield _gap(one)
        else:
            yield _line(one)


def _head(newest: int | None) -> bytes:
    """`newest`: where a stream begins that was asked for no place, so that it is resumed there before its first event."""
    return b"retry: %d\n" % RETRY_MS + (b"\n" if newest is None else b"id: %d\n\n" % newest)


def _gap(one: Gap) -> bytes:
    return b'id: %d\nevent: gap\ndata: {"kind":"gap","data":{"from":%d,"to":%d}}\n\n' % (one.position, one.first, one.last)


def _line(event: EventView) -> bytes:
    return b"id: %d\ndata: %s\n\n" % (event.id, _encode(event))


@route(blueprint, "/operations", role="viewer", query=schemas.OperationListQuery,
       answer=schemas.page_of(schemas.Operation))
def list_operations(_: dict[str, Any]) -> Response:
    """List operations, newest first."""
    pairs = wire.query(request.environ, request.args)
    most = paging.limit(pairs)
    found = operations.page(states=wire.words(pairs, "state"), after=paging.position(pairs), limit=most)
    return reply({"items": found, "next": paging.following(pairs, found, most, found[-1]["id"] if found else None)})


@route(blueprint, "/operations/<raw:operation>", role="viewer", answer=schemas.Operation,
       also=[(404, "No such operation")])
def show_operation(operation: str) -> Response:
    """One operation with its steps."""
    found = operations.one(_number("operation", operation))
    return single(found, str(found["version"]))


@route(blueprint, "/operations/<raw:operation>/cancel", "POST", role="operator", answer=schemas.Operation,
       also=[(409, "It has ended")])
def cancel_operation(operation: str) -> Response:
    """Stop an operation before its next step."""
    return reply(operations.cancel(_number("operation", operation), caller()), 202)


@route(blueprint, "/why/job/<raw:job>", role="viewer", answer=schemas.Why)
def why_job(job: str) -> Response:
    """Why a job is where it is: every rule that refuses it."""
    return reply(why.job(job))


@route(blueprint, "/why/node/<raw:node>", role="viewer", answer=schemas.Why)
def why_node(node: str) -> Response:
    """Why a node is kept or taken."""
    return reply(why.node(node))


@route(blueprint, "/trace/<raw:subject>", role="viewer", answer=schemas.Trace)
def show_trace(subject: str) -> Response:
    """Everything about a job (number or key) or a node (`node:ID`), in order."""
    return reply(trace.of(subject))


@route(blueprint, "/loops", role="viewer", query=schemas.PageQuery, answer=schemas.page_of(schemas.Loop))
def list_loops(_: dict[str, Any]) -> Response:
    """The loops of the engines."""
    return reply({"items": health.loops(), "next": None})


@route(blueprint, "/config", role="admin", query=schemas.PageQuery, answer=schemas.page_of(schemas.Setting))
def show_config(_: dict[str, Any]) -> Response:
    """The settings in force with their origin, secrets masked."""
    rows = current_app.extensions["settings"].show(origin=True)
    items = [{"key": row[0], "value": _shown(row[0], row[1]), "origin": row[2]} for row in rows]
    return reply({"items": items, "next": None})


def _shown(key: str, value: str) -> str:
    return "***" if value and any(word in key for word in _SECRET_KEYS) else value


def _number(name: str, text: str) -> int:
    try:
        return wire.whole(name, text)
    except Invalid:
        raise HttpProblem(404, f"there is no {name} {text[:100]}") from None
