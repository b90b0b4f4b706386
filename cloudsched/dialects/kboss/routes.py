"""Which routes are there, and what happens to a request? One table over both halves; a WSGI callable in front of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from werkzeug.datastructures import MultiDict
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request

from cloudsched.dialects.kboss import centres, clusters, hosts, instances, labels, parts, pcapi, render
from cloudsched.dialects.kboss.access import CHALLENGE, Door
from cloudsched.dialects.kboss.calls import KBOSS, PCAPI, Answer, Call, Refusal, Route
from cloudsched.dialects.kboss.texts import language_of
from cloudsched.services import health
from cloudsched.services.centre import centre_ops, executor
from cloudsched.settings import Settings

log = logging.getLogger(__name__)
Environ = dict[str, Any]
JSON = ("Content-Type", "application/json; charset=utf-8")
_SAFETY = [("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store")]
_PARTS_MOST = 1000
# Parameters whose type in the contract is an array: given several times, each gives members.
LISTS = frozenset({"resources"})


def table() -> dict[str, Route]:
    """path -> route, of everything that is answered on this port. Raises ValueError for a path that is there twice."""
    found: dict[str, Route] = {}
    for module in (pcapi, centres, hosts, labels, clusters, instances, parts):
        for route in module.ROUTES:
            if found.setdefault(route.path, route) is not route:
                raise ValueError(f"two routes for {route.path}")
    return found


class Front:
    """The WSGI callable of the kboss port."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        centre_ops.configure(settings)
        executor.configure(settings)
        self.routes = table()
        self.door = Door(settings)
        self.max_body = settings.web.max_body_mb << 20

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        language = language_of(environ.get("HTTP_ACCEPT_LANGUAGE", ""))
        path = environ.get("PATH_INFO", "/").encode("latin-1", "replace").decode("utf-8", "replace")
        headers = [JSON, *_SAFETY, ("Content-Language", language), ("Vary", "Accept-Language")]
        try:
            answer = self._answer(environ, path, language)
        except Exception as error:
            answer = render.of_error(error, language, _half(path))
            headers += _headers(error, answer, self.routes.get(path))
        return _sent(environ, start_response, answer, headers)

    def _answer(self, environ: Environ, path: str, language: str) -> Answer:
        address, method = environ.get("REMOTE_ADDR", ""), environ["REQUEST_METHOD"]
        self.door.check_network(address)
        route = self.routes.get(path)
        if route is None:
            raise Refusal("no_route", http=404, path=path[:200])
        if method not in route.methods and not (method == "HEAD" and "GET" in route.methods):
            raise Refusal("bad_method", http=405, path=path[:200], method=method[:20])
        caller = self.door.caller(environ, route)
        call = Call(params(environ, self.max_body), caller=caller, settings=self.settings, language=language, half=route.half,
                    address=address)
        return route.handler(call)


def params(environ: Environ, limit: int) -> Mapping[str, Any]:
    """Everything that the request says by name: query, form and JSON body; the later of these first. Raises Refusal (400)."""
    request = Request(environ)
    request.max_content_length, request.max_form_memory_size, request.max_form_parts = limit, limit, _PARTS_MOST
    found = _once(request.args)
    length = request.content_length
    if length is not None and length > limit:
        raise Refusal("too_large", http=413, most=limit)
    if request.mimetype in ("application/x-www-form-urlencoded", "multipart/form-data"):
        try:
            if request.mimetype == "multipart/form-data":
                _check_boundary(request)
            return {**found, **_once(request.form)}
        except HTTPException as error:
            raise _unreadable(error, limit) from None
    try:
        raw = request.get_data()
    except HTTPException as error:
        raise _unreadable(error, limit) from None
    return {**found, **_json(raw)} if raw.strip() else found


def _check_boundary(request: Request) -> None:
    """A body whose parts cannot be told apart is no empty one. Raises Refusal (400)."""
    boundary = request.mimetype_params.get("boundary", "").encode("latin-1", "replace")
    body = request.get_data(parse_form_data=False)
    if body.strip() and (not boundary or b"--" + boundary not in body):
        raise Refusal("bad_body", http=400, reason="multipart/form-data without its boundary")


def _once(given: MultiDict[str, str]) -> dict[str, Any]:
    """Each name once; a list that is given by its members (contract: `resources` is an array) is put together as JSON."""
    found: dict[str, Any] = {}
    for name in given:
        values = given.getlist(name)
        if len(values) == 1:
            found[name] = values[0]
        elif name in LISTS:
            found[name] = f"[{','.join(one.strip().removeprefix('[').removesuffix(']') for one in values)}]"
        elif len(set(values)) > 1:
            raise Refusal("twice", http=400, field=name[:100])
        else:
            found[name] = values[0]
    return found


def _json(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} ({error.lineno}:{error.colno})" if isinstance(error, json.JSONDecodeError) else "not JSON in UTF-8"
        raise Refusal("bad_body", http=400, reason=reason) from None
    if not isinstance(body, dict):
        raise Refusal("bad_body", http=400, reason="not a JSON object")
    return body


def _unreadable(error: HTTPException, limit: int) -> Refusal:
    if error.code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return Refusal("too_large", http=413, most=limit)
    return Refusal("bad_body", http=400, reason=error.name)


def _half(path: str) -> str:
    return PCAPI if path.startswith("/pcapi/") else KBOSS


def _headers(error: Exception, answer: Answer, route: Route | None) -> list[tuple[str, str]]:
    if answer.http == HTTPStatus.UNAUTHORIZED:
        return [CHALLENGE]
    if answer.http == HTTPStatus.METHOD_NOT_ALLOWED and route is not None:
        return [("Allow", ", ".join(route.methods))]
    if answer.http in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return [("Retry-After", str(int(getattr(error, "retry_after_s", 1.0)) or 1))]
    return []


def _sent(environ: Environ, start_response: Any, answer: Answer, headers: list[tuple[str, str]]) -> Iterable[bytes]:
    raw = isinstance(answer.data, bytes) and answer.bare
    body = answer.data if raw else render.body(answer)
    if raw:
        headers = [*answer.more.items(), *headers[1:]]
    health.count_answer(answer.http)
    status = HTTPStatus(answer.http)
    start_response(f"{status.value} {status.phrase}", [*headers, ("Content-Length", str(len(body)))])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


