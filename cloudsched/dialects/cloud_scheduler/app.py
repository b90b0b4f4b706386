"""How do the two listeners answer? One Flask app each: info and admin; REST and XML-RPC from one table.

    info_app(settings)    port 8111
    admin_app(settings)   port 8112

Who may call is decided before these apps; they hold no state but rendered texts.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from cloudsched.dialects.cloud_scheduler import rest, xmlrpc
from cloudsched.dialects.cloud_scheduler.admin import Admin
from cloudsched.dialects.cloud_scheduler.calls import Call
from cloudsched.dialects.cloud_scheduler.gate import Busy
from cloudsched.dialects.cloud_scheduler.info import Info
from cloudsched.dialects.cloud_scheduler.kept import Kept
from cloudsched.dialects.cloud_scheduler.rawpath import RawPath
from cloudsched.errors import CloudschedError, Unavailable
from cloudsched.services.pool_ops import WAIT_LIMIT_S
from cloudsched.settings import Settings

log = logging.getLogger(__name__)

RPC_PATH = "/RPC2"


def info_app(settings: Settings) -> Flask:
    """The info listener (contract 1.3, 2.2). `POST /` with a `text/xml` body is XML-RPC there too (2.1)."""
    return _app("cloud_scheduler_info", Info(settings).calls(), settings, rpc_at_root=True)


def admin_app(settings: Settings, *, wait_limit_s: float | None = None) -> Flask:
    """The admin listener (contract 1.5, 2.3). `wait_limit_s`: how long a shutdown waits for the engine's proof."""
    limit_s = WAIT_LIMIT_S if wait_limit_s is None else wait_limit_s
    return _app("cloud_scheduler_admin", Admin(settings, wait_limit_s=limit_s).calls(), settings)


def _app(name: str, calls: Sequence[Call], settings: Settings, *, rpc_at_root: bool = False) -> Flask:
    app = Flask(name, static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.web.max_body_mb * 1024 * 1024
    app.url_map.merge_slashes = False
    app.url_map.redirect_defaults = False
    rest.add_routes(app, calls, Kept())
    endpoint = xmlrpc.Endpoint(calls)
    app.add_url_rule(RPC_PATH, endpoint=RPC_PATH, view_func=lambda: _rpc(endpoint), methods=["POST"],
                     provide_automatic_options=False)
    if rpc_at_root:
        app.add_url_rule("/", endpoint="RPC at /", view_func=lambda: _rpc_at_root(endpoint), methods=["POST"],
                         provide_automatic_options=False)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(CloudschedError, _service_error)
    app.register_error_handler(Exception, _error)
    app.wsgi_app = RawPath(app.wsgi_app)  # type: ignore[method-assign]
    return app


def _rpc(endpoint: xmlrpc.Endpoint) -> Response:
    request.max_content_length = min(request.max_content_length or xmlrpc.LIMIT_BYTES, xmlrpc.LIMIT_BYTES)
    return Response(endpoint.answer(request.get_data(cache=False)), content_type=xmlrpc.CONTENT_TYPE)


def _rpc_at_root(endpoint: xmlrpc.Endpoint) -> Response:
    if request.mimetype == "text/xml":
        return _rpc(endpoint)
    return _text("None", 405, Allow="GET, HEAD")


def _http_error(error: HTTPException) -> Response:
    """404 and 405 in the original's words (contract 0.4), anything else in plain text."""
    status = error.code or 500
    if status == 405:
        allowed = getattr(error, "valid_methods", None) or ()
        return _text("None", status, Allow=", ".join(sorted(allowed)))
    if status == 413:
        return _text("the body is larger than allowed", status)
    return _text({404: rest.NOT_FOUND, 500: rest.ERROR}.get(status, error.name.lower()), status)


def _service_error(error: CloudschedError) -> Response:
    if isinstance(error, Unavailable):
        log.error("%s", error.message)
        text = error.message if isinstance(error, Busy) else "service unavailable"
        return _text(text, 503, **{"Retry-After": "1"})
    return _error(error)


def _error(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _text(rest.ERROR, 500)


def _text(body: str, status: int, **headers: str) -> Response:
    return Response(body, status, headers=headers, content_type=rest.TEXT)
