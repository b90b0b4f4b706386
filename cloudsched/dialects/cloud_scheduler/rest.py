"""How does a request become a call? Flask routes made from the table of calls, and the parameters of contract 1.1."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flask import Flask, Response, request
from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge

from cloudsched.dialects.cloud_scheduler.calls import Call, NoSuchValue, Rest
from cloudsched.dialects.cloud_scheduler.kept import Kept
from cloudsched.dialects.cloud_scheduler.layout import Layout
from cloudsched.dialects.cloud_scheduler.rawpath import decoded

NOT_FOUND = "not found"
ERROR = "internal server error"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")
_PIECE = re.compile("<([a-z]+)>")


class Row(NamedTuple):
    """One REST request of a call; `json`: the call that answers when the path ends in `.json`."""

    rest: Rest
    call: Call
    json: Call | None
    pieces: tuple[str, ...]


def add_routes(app: Flask, calls: Iterable[Call], kept: Kept) -> None:
    """One Flask rule per path; which row of it acts is decided by method and parameters."""
    calls = list(calls)
    by_name = {call.name: call for call in calls}
    paths: dict[str, list[Row]] = defaultdict(list)
    for call in calls:
        for rest in call.rest:
            paths[rest.path].append(Row(rest, call, by_name[rest.json] if rest.json else None,
                                        tuple(_PIECE.findall(rest.path))))
    for path, rows in paths.items():
        methods = sorted({row.rest.method for row in rows})
        app.add_url_rule(path, endpoint=path, view_func=_view(rows, kept), methods=methods,
                         provide_automatic_options=False)


def _view(rows: list[Row], kept: Kept) -> Callable[..., Response]:
    by_method: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_method[row.rest.method].append(row)
    by_method["HEAD"] = by_method["GET"]

    def view(**pieces: str) -> Response:
        params = parameters()
        for row in by_method[request.method]:
            arguments = row.rest.arguments(params)
            if arguments is not None:
                return _answer(row, pieces, arguments, kept)
        return not_found()

    return view


def parameters() -> Mapping[str, str]:
    """Query string over body, the last of repeated values; GET has none in its body (contract 1.1)."""
    query = _last(request.args) if request.query_string else {}
    if request.method in ("GET", "HEAD"):
        return query
    return {**_form(), **query}


def _form() -> dict[str, str]:
    """The parameters of the body. One that was cut off on its way is no request: `count=1` may have been `count=10`."""
    if request.mimetype not in _FORMS:
        return {}
    body = request.get_data()
    if len(body) < (request.content_length or 0):
        raise BadRequest
    # A body without a length (in chunks) is silently cut off at the limit.
    if request.max_content_length is not None and len(body) >= request.max_content_length:
        raise RequestEntityTooLarge
    return _last(request.form)


def _last(values: MultiDict[str, str]) -> dict[str, str]:
    return {name: found[-1] for name, found in values.lists()}


def _answer(row: Row, pieces: Mapping[str, str], arguments: list[str], kept: Kept) -> Response:
    call, content_type = row.call, row.rest.content_type
    names = [pieces[name] for name in row.pieces]
    if row.json is not None and names[-1].endswith(".json"):
        call, content_type = row.json, JSON
        names[-1] = names[-1].removesuffix(".json")
    if call.kept_s and not names:
        body = kept.body((call.name, Layout.R), lambda: str(call.answer(Layout.R)), for_s=call.kept_s)
        return Response(body, content_type=content_type)
    try:
        answer = call.answer(Layout.R, *map(decoded, names), *arguments)
    except NoSuchValue:
        return not_found()
    return Response(_encoded(answer), content_type=content_type)


def _encoded(answer: Any) -> bytes:
    """Text as UTF-8; a boolean as the word clients compare with (K9). What no encoding has is replaced."""
    return str(answer).encode("utf-8", errors="replace")


def not_found() -> Response:
    """Contract 0.4."""
    return Response(NOT_FOUND, 404, content_type=TEXT)
