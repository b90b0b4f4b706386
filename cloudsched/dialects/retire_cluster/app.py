"""How do the routes of the table come to Flask? One view for each; errors of routing in the envelope too."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.dialects.retire_cluster.routing import Route, segment

if TYPE_CHECKING:
    from cloudsched.dialects.retire_cluster.front import Found, Front

REQUEST_ID = "cloudsched.retire_cluster.request_id"


def make_flask(front: Front) -> Flask:
    """The application; it expects the raw path in PATH_INFO and the request id in the environment (`front`)."""
    app = Flask("cloudsched_retire_cluster", static_folder=None, template_folder=None)
    app.url_map.merge_slashes, app.url_map.strict_slashes, app.url_map.redirect_defaults = False, True, False
    for route in front.routes:
        app.add_url_rule(route.rule, endpoint=f"{route.method} {route.rule}", methods=[route.method],
                         view_func=_view(front, route), provide_automatic_options=False)

    def refuse(error: HTTPException) -> Response:
        environ = request.environ
        return _response(front.refused(environ, environ["PATH_INFO"], _refusal(error), environ[REQUEST_ID]))

    app.register_error_handler(HTTPException, refuse)
    return app


def _view(front: Front, route: Route) -> Callable[..., Response]:
    def view(**parts: str) -> Response:
        named = {name: segment(raw) for name, raw in parts.items()}
        return _response(front.answered(route, request.environ, named, request.environ[REQUEST_ID]))

    return view


def _refusal(error: HTTPException) -> Refused:
    path, method = request.environ["PATH_INFO"][:200], request.method
    if error.code == 405:
        allow = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
        return Refused("METHOD_NOT_ALLOWED", f"{method} is not possible at {path}",
                       headers=[("Allow", allow)] if allow else [])
    if error.code == 404:
        return Refused("NOT_FOUND", f"there is nothing at {path}")
    return Refused("INVALID_PARAMETER", "the request cannot be understood")


def _response(found: Found) -> Response:
    status, headers, body = found
    made: Any = Response(body, status)
    made.headers.clear()
    for name, value in headers:
        made.headers.add(name, value)
    if isinstance(body, list):
        made.headers["Content-Length"] = str(sum(map(len, body)))
    return made
