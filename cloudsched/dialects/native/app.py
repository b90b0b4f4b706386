"""What is the Flask application behind the cold routes? Blueprints, converters, the OpenAPI document, error shapes."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from flask import Flask, Response, request
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from cloudsched import __version__
from cloudsched.dialects.native import (
    clusters,
    front,
    hooks,
    jobs,
    keys,
    look,
    nodelogs,
    places,
    pool,
    problems,
    root,
    routing,
    runners,
    schemas,
)
from cloudsched.errors import CloudschedError
from cloudsched.services.watch import Streams
from cloudsched.settings import Settings

BLUEPRINTS = (jobs.blueprint, pool.blueprint, places.blueprint, clusters.blueprint, look.blueprint, keys.blueprint,
              hooks.blueprint, runners.blueprint, nodelogs.blueprint, root.blueprint)
SECURITY = {
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "bearer": {"type": "http", "scheme": "bearer"},
    "basic": {"type": "http", "scheme": "basic", "description": "the key as password, any user name"},
}
SPARE_THREADS = 4
WEB = "cloudsched.web"
_TEXT = "Bodies are JSON, times RFC 3339 UTC, errors RFC 9457 problems. `x-role` is the least role a route needs."


class _Api(Api):  # type: ignore[misc]
    """Errors are described as the problems they are."""

    ERROR_SCHEMA = schemas.Problem


def make_flask(settings: Settings) -> Flask:
    """The application. It expects the caller in the WSGI environment (`front`)."""
    app = Flask("cloudsched", static_folder=str(files(WEB) / "static"), static_url_path="/static")
    app.config.update(
        API_TITLE="cloudsched", API_VERSION=__version__, OPENAPI_VERSION="3.1.0", OPENAPI_URL_PREFIX="/api/v2",
        OPENAPI_JSON_PATH="openapi.json", PROPAGATE_EXCEPTIONS=False, SEND_FILE_MAX_AGE_DEFAULT=3600,
        API_SPEC_OPTIONS={"info": {"description": _TEXT}, "components": {"securitySchemes": SECURITY}},
    )
    set_up(app, settings)
    app.url_map.merge_slashes, app.url_map.strict_slashes = False, False
    app.url_map.converters |= {"raw": routing.RawSegment, "rest": routing.RawPath}
    api = _Api(app)
    for converter in (routing.RawSegment, routing.RawPath):
        api.register_converter(converter, lambda _: {"type": "string"})
    for blueprint in BLUEPRINTS:
        api.register_blueprint(blueprint)
    _describe_hot(api)
    _describe_errors(api)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(CloudschedError, _ours)
    app.register_error_handler(Exception, _ours)
    return app


def set_up(app: Flask, settings: Settings) -> None:
    """What of the application depends on the settings. Tests that share one call it again."""
    app.config.update(MAX_CONTENT_LENGTH=settings.web.max_body_mb << 20, STATE_DIR=settings.state.dir)
    app.extensions["settings"] = settings
    app.extensions["streams"] = Streams(_most_streams(settings))


def _most_streams(settings: Settings) -> int:
    """Half of the threads, and never so many that held agents and streams together leave none for others."""
    spare = settings.web.threads - settings.web.long_poll_waiting_max - SPARE_THREADS
    return max(2, min(settings.web.threads // 2, spare))


def _describe_hot(api: Any) -> None:
    """The routes that never reach Flask: their query and body, as `hot.py` takes them."""
    path = api.spec._paths["/api/v2/jobs"]
    resolver = api.spec.plugins[-1].converter if hasattr(api.spec.plugins[-1], "converter") else None
    resolver = resolver or next(p.converter for p in api.spec.plugins if hasattr(p, "converter"))
    path["get"]["parameters"] = resolver.schema2parameters(schemas.JobListQuery(), location="query")
    header = {"in": "header", "name": "Idempotency-Key", "schema": {"type": "string", "maxLength": 255}}
    path["post"]["parameters"] = [header]
    body = {"schema": resolver.resolve_nested_schema(schemas.SubmitBody())}
    path["post"]["requestBody"] = {"required": True, "content": {"application/json": body}}


def _describe_errors(api: Any) -> None:
    """Shared error answers are problem documents too."""
    components = api.spec.components
    for kept in (*components.responses.values(), *components.responses_lazy.values()):
        content = kept.get("content", {})
        if "application/json" in content:
            content[problems.CONTENT_TYPE] = content.pop("application/json")


def _http(error: HTTPException) -> Response:
    status = error.code or 500
    if status < 400:
        return Response(status=status, headers=list(error.get_headers()))
    headers = [pair for pair in error.get_headers() if pair[0] in ("Allow", "Retry-After", "WWW-Authenticate")]
    path = request.environ.get("PATH_INFO", "")[:200]
    text = {404: f"there is nothing at {path}", 405: f"{request.method} is not possible at {path}"}.get(
        status, error.description or "")
    return _response(*problems.render(problems.HttpProblem(status, text, headers=headers)))


def _ours(error: Exception) -> Response:
    return _response(*problems.render(error, request_id=request.environ.get(front.REQUEST_ID, "")))


def _response(status: int, headers: problems.Headers, body: bytes) -> Response:
    return Response(body, status, headers=headers)
