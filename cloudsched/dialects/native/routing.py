"""How is a cold route declared? One decorator says its rule, role, query, body and answer; it checks and documents.

Order of checks: method and path (Flask), the caller's role, query, body, `If-Match`, then the view.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any
from urllib.parse import unquote

import msgspec
from flask import Response, current_app, request
from flask_smorest import Blueprint as SmorestBlueprint
from marshmallow import RAISE, Schema
from webargs.flaskparser import FlaskParser
from werkzeug.routing import BaseConverter, ValidationError

from cloudsched.dialects.native import front, hot, problems, schemas, wire
from cloudsched.errors import FieldError, Invalid, Stale, Unauthenticated
from cloudsched.incoming import read_body
from cloudsched.services import answers
from cloudsched.services.caller import Caller

_encode = msgspec.json.Encoder().encode
View = Callable[..., Any]
# Query parameters that may be given more than once.
REPEATABLE = frozenset({"state"})


class RawSegment(BaseConverter):
    """One path segment, decoded here and nowhere else: `%2F`, `#`, `?` and `%` survive in names."""

    regex = "[^/]+"

    def to_python(self, value: str) -> str:
        text = unquote(value, errors="replace")
        if "\0" in text:
            raise ValidationError
        return text


class RawPath(RawSegment):
    """The rest of the path, slashes included."""

    regex = ".+?"
    part_isolating = False


class Parser(FlaskParser):
    """Bodies by msgspec, unknown members refused, complaints as Invalid."""

    DEFAULT_UNKNOWN_BY_LOCATION = {"query": RAISE, "json": RAISE}  # noqa: RUF012 - the base class has it so

    def load_json(self, req: Any, schema: Any) -> Any:
        hot.check_json(req.environ)
        raw = read_body(req.environ, current_app.config["MAX_CONTENT_LENGTH"])
        if not raw.strip():
            return {}
        try:
            found = msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Invalid(f"the body is not JSON: {error}",
                          errors=[FieldError("body", str(error), "a JSON object")]) from None
        if b"\\u0000" in raw:
            _check_text(found, "")
        return found

    def handle_error(self, error: Any, req: Any, schema: Any, **_: Any) -> Any:
        raise _invalid(error.normalized_messages(), schema)


def _check_text(value: Any, field: str) -> None:
    """Raise Invalid where a text holds a NUL, which no database column takes."""
    if isinstance(value, str) and "\0" in value:
        raise Invalid.at(field or "body", "holds a NUL character")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name, field)
            _check_text(inner, f"{field}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_text(inner, f"{field}[{index}]")


class Blueprint(SmorestBlueprint):  # type: ignore[misc]
    ARGUMENTS_PARSER = Parser()


def caller() -> Caller:
    """Who makes this request. Raises Unauthenticated on a route that is open to nobody in particular."""
    found: Caller | None = request.environ.get(front.CALLER)
    if found is None:
        raise Unauthenticated("a key is needed: send it as X-API-Key or Authorization: Bearer")
    return found


def route(blueprint: Blueprint, rule: str, method: str = "GET", *, role: str | None, answer: type[Schema] | None = None,
          status: int = 200, query: type[Schema] | None = None, body: type[Schema] | None = None,
          media: str = "application/json", secret: bool = False, also: Iterable[tuple[int, str]] = ()) -> Callable[[View], View]:
    """Declare a route; the view gets the parsed query, then the body, then the path's parts by name.

    `role` None: open to all. `secret`: the answer is shown once (kept sealed for an Idempotency-Key).
    """

    def declare(view: View) -> View:
        inner = view
        if body is not None:
            inner = blueprint.arguments(body, location="json", description=body.__doc__ or "")(inner)
        if query is not None:
            inner = blueprint.arguments(query, location="query")(inner)
        for code, text in also:
            shown = {"schema": answer} if code < 300 else {"schema": schemas.Problem, "content_type": problems.CONTENT_TYPE}
            inner = blueprint.alt_response(code, description=text, **shown)(inner)
        described = {} if answer is not None or media == "application/json" else {"content_type": media}
        inner = blueprint.response(status, answer, **described)(inner)
        inner = _checked(inner, role, takes_query=query is not None, secret=secret)
        inner = blueprint.doc(**_described(view, role))(inner)
        blueprint.route(rule, methods=[method])(inner)
        return view

    return declare


def _described(view: View, role: str | None) -> dict[str, Any]:
    lines = (view.__doc__ or view.__name__).strip().splitlines()
    described: dict[str, Any] = {"summary": lines[0].rstrip("."), "operationId": view.__name__}
    if len(lines) > 1:
        described["description"] = " ".join(line.strip() for line in lines[1:]).strip()
    described["security"] = [{"key": []}, {"bearer": []}, {"basic": []}] if role else []
    if role:
        described["x-role"] = role
    return described


def _checked(view: View, role: str | None, *, takes_query: bool, secret: bool) -> View:
    @wraps(view)
    def checked(*args: Any, **parts: Any) -> Any:
        if role is not None:
            caller().require(role)
        _check_query(takes_query)
        given = request.headers.get("Idempotency-Key")
        if request.method == "POST" and given is not None and role is not None:
            return _once(lambda: current_app.make_response(view(*args, **parts)), given, secret=secret)
        return view(*args, **parts)

    checked.role = role  # type: ignore[attr-defined]
    return checked


def _check_query(takes_query: bool) -> None:
    if not request.query_string:
        return
    pairs = wire.query(request.environ, request.args)
    if pairs and not takes_query:
        raise Invalid.at(pairs[0][0][:100], "unknown query parameter", "none")
    for name, _ in pairs:
        if name not in REPEATABLE:
            wire.single(pairs, name)


def _once(work: Callable[[], Response], given: str, *, secret: bool) -> Response:
    """The answer of `work`, done once for this Idempotency-Key of this caller."""
    key = hot.idempotency_key(given, caller())
    raw = read_body(request.environ, current_app.config["MAX_CONTENT_LENGTH"])
    request.environ |= {"wsgi.input": _Again(raw), "CONTENT_LENGTH": str(len(raw))}
    about = f"{request.method} {request.environ.get('PATH_INFO')}?{request.environ.get('QUERY_STRING', '')}\n"
    digest = hashlib.sha256(about.encode() + raw).hexdigest()
    first: list[Response] = []

    def do() -> tuple[int, str]:
        first.append(work())
        return first[0].status_code, first[0].get_data(as_text=True)

    status, text = answers.once(key, digest, do, state_dir=current_app.config["STATE_DIR"], secret=secret)
    return first[0] if first else Response(text, status, content_type="application/json")


class _Again:
    """A body that was read once, to be read again."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        cut = len(self._raw) if size < 0 else size
        piece, self._raw = self._raw[:cut], self._raw[cut:]
        return piece


# answers


def reply(value: Any, status: int = 200, **headers: str) -> Response:
    """A JSON answer; Struct and Raw members are written as they are."""
    made = Response(_encode(value), status, content_type="application/json")
    for name, text in headers.items():
        made.headers[name.replace("_", "-")] = text
    return made


def single(value: Any, tag: str, status: int = 200) -> Response:
    """One object with its ETag; 304 when the caller has it already."""
    etag = f'"{tag}"'
    if request.method in ("GET", "HEAD") and etag in _tags(request.headers.get("If-None-Match", "")):
        return Response(status=304, headers={"ETag": etag})
    return reply(value, status, ETag=etag)


def tag_of(value: Any) -> str:
    """A tag that changes with the content."""
    return hashlib.blake2b(_encode(value), digest_size=9).hexdigest()


def check_match(tag: str) -> None:
    """Raise Stale (412) when If-Match names another version than this one."""
    given = request.headers.get("If-Match", "")
    if given and "*" not in (tags := _tags(given)) and f'"{tag}"' not in tags:
        raise Stale("it was changed meanwhile: read it again, its ETag is not the one of If-Match")


def matched_version(tag: str) -> int | None:
    """The version to insist on while changing, when If-Match was given and holds; else None. Raises Stale."""
    check_match(tag)
    given = request.headers.get("If-Match", "")
    return int(tag) if given and "*" not in _tags(given) else None


def _tags(header: str) -> list[str]:
    return [part.strip().removeprefix("W/") for part in header.split(",") if part.strip()]


# complaints


def _invalid(messages: Any, schema: Schema) -> Invalid:
    """marshmallow's nested messages as one error per field."""
    found = list(_flat(messages.get("json", messages.get("query", messages)), ""))
    if "query" in messages:  # `state[0]` is the first of a comma list: its name is enough
        found = [(field.partition("[")[0], text) for field, text in found]
    errors = [FieldError(field or "body", text, _allowed(text, field, schema)) for field, text in found]
    return Invalid("; ".join(f"{e.field}: {e.message}" for e in errors[:5]), errors=errors[:100])


def _flat(messages: Any, field: str) -> Iterable[tuple[str, str]]:
    if isinstance(messages, dict):
        for name, inner in messages.items():
            shown = "" if name == "_schema" else f"[{name}]" if isinstance(name, int) else f".{name}"
            yield from _flat(inner, (field + shown).lstrip("."))
    elif isinstance(messages, list):
        for inner in messages:
            yield from _flat(inner, field)
    else:
        yield field, str(messages).rstrip(".").lower()


def _allowed(text: str, field: str, schema: Schema) -> str | None:
    if text == "unknown field" and "." not in field:
        return ", ".join(sorted(schema.fields))
    return text.partition(": ")[2].rstrip(".") or None if text.startswith("must be one of") else None

