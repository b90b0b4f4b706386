"""Which routes are there? A Flask application made from one table (contract 6); heartbeats and lists never reach it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from cloudsched import __version__
from cloudsched.dialects.logkit import asks, codes, style
from cloudsched.dialects.logkit.style import Outcome
from cloudsched.errors import Invalid
from cloudsched.incoming import read_body
from cloudsched.services.logagents_calls import OPERATIONS, Master
from cloudsched.settings import Settings

STYLE, BAD_STYLE = "cloudsched.logkit.style", "cloudsched.logkit.bad_style"
NOT_MASTER, OFF = "this is not master", "cluster function not configed"
SMALL_BODY = 64 * 1024
_CLUSTER = "/logkit/cluster"


class Route(NamedTuple):
    """`answer` gets the runner's raw name where the rule has one. `always`: answers also when the cluster is off."""

    method: str
    rule: str
    code: str
    answer: Callable[..., Any]
    off: str = OFF
    always: bool = False


class Handlers:
    """What each route does: parse, one service call; rendering is elsewhere."""

    def __init__(self, settings: Settings, master: Master) -> None:
        self.settings = settings
        self.master = master

    def routes(self) -> list[Route]:
        """The table."""
        runner = f"{_CLUSTER}/configs/<name>"
        changes = [
            Route(method, runner + more, codes.OF_OPERATION[operation], self._operation(operation))
            for operation, (method, more) in OPERATIONS.items()
        ]
        return [
            Route("GET", f"{_CLUSTER}/ping", "", lambda: None, always=True),
            Route("GET", f"{_CLUSTER}/ismaster", "", lambda: self.settings.logkit.enable, always=True),
            Route("POST", f"{_CLUSTER}/register", "L2004", self.register, off=NOT_MASTER),
            Route("GET", f"{_CLUSTER}/slaves", "L2001", self.slaves),
            Route("DELETE", f"{_CLUSTER}/slaves", "L2012", self.forget),
            Route("POST", f"{_CLUSTER}/slaves/tag", "L2013", self.retag),
            Route("GET", f"{_CLUSTER}/status", "L2002", lambda: self.master.status(**_filters())),
            Route("GET", f"{_CLUSTER}/configs", "L2003", lambda: self.master.configs(**_filters())),
            Route("GET", f"{_CLUSTER}/runners", "L2001", lambda: self.master.runners(**_filters())),
            Route("GET", runner, "L2014", lambda name: self.master.config(asks.name(name), **_filters())),
            *changes,
            Route("GET", "/logkit/version", "", lambda: {"version": __version__}, always=True),
            Route("GET", "/logkit/errorcode", "", lambda: codes.TEXTS, always=True),
        ]

    def register(self) -> None:
        self.master.fleet.register(read_body(request.environ, SMALL_BODY))

    def slaves(self) -> msgspec.Raw:
        return msgspec.Raw(self.master.fleet.listed(**_filters()))

    def forget(self) -> None:
        self.master.fleet.forget(**_filters(), actor=f"logkit {request.remote_addr or ''}".strip())

    def retag(self) -> None:
        self.master.retag(read_body(request.environ, SMALL_BODY), **_filters())

    def _operation(self, operation: str) -> Callable[[str], None]:
        def operate(name: str) -> None:
            body = read_body(request.environ, self.settings.logkit.config_max_mb << 20)
            self.master.operate(operation, asks.name(name), body, **_filters())

        return operate


def make_flask(settings: Settings, master: Master) -> Flask:
    """The application; it expects the raw path in PATH_INFO and the style in the environment (`front`)."""
    app = Flask("cloudsched_logkit", static_folder=None, template_folder=None)
    app.url_map.merge_slashes, app.url_map.strict_slashes = False, True
    app.url_map.redirect_defaults = False
    for route in Handlers(settings, master).routes():
        app.add_url_rule(route.rule, endpoint=f"{route.method} {route.rule}", methods=[route.method],
                         view_func=_view(route, settings), provide_automatic_options=False)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, lambda error: _response(style.of_error(error, "")))
    return app


def _view(route: Route, settings: Settings) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        bad = request.environ.get(BAD_STYLE)
        if bad is not None:
            return _response(Outcome(400, route.code, message=f"X-Logkit-Style: {bad!r} is none of {', '.join(asks.STYLES)}"))
        if not (settings.logkit.enable or route.always):
            return _response(Outcome(400, route.code, message=route.off))
        try:
            return _response(Outcome(payload=route.answer(**parts)))
        except Exception as error:
            return _response(style.of_error(error, route.code))

    return view


def _filters() -> dict[str, str]:
    tag, url = asks.filters(request.environ.get("QUERY_STRING", ""))
    if "\0" in tag + url:
        raise Invalid("a filter holds a character that no value can have")
    return {"tag": tag, "url": url}


def _http(error: HTTPException) -> Response:
    """404 and 405 (contract 4.1)."""
    status = error.code or 500
    path, said = request.environ.get("PATH_INFO", "")[:200], error.description or error.name
    text = {404: f"there is nothing at {path}", 405: f"{request.method} is not possible at {path}"}.get(status, said)
    allow = sorted(getattr(error, "valid_methods", None) or ())
    headers = (("Allow", ", ".join(allow)),) if status == 405 and allow else ()
    return _response(Outcome(status, "", message=text, enveloped_message=error.name, headers=headers))


def _response(outcome: Outcome) -> Response:
    status, body = style.body(outcome, request.environ.get(STYLE, style.DOCUMENT))
    return Response(body, status, headers=[*outcome.headers, style.JSON])
