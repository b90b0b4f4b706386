"""How is this API described? An OpenAPI 3.1 document made from the rows that are served."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from cloudsched.dialects.retire_cluster import API_VERSION, schemas
from cloudsched.dialects.retire_cluster.access import OPEN
from cloudsched.dialects.retire_cluster.envelope import STATUS
from cloudsched.dialects.retire_cluster.routing import Route
from cloudsched.domain.tasks import PRIORITIES

REFS = "#/components/schemas/{name}"
_PART = re.compile(r"<([a-z_]+)>")
_TEXT = ("Answers are enveloped: `data` beside `status`, `timestamp`, `request_id`; errors carry `error.code` and, with the same "
         "value, `error_code`. Reads and writes are counted apart (`X-RateLimit-*`); keys have the levels read, write, admin "
         "(`x-level`).")
_PARTS = {"device_id": "An id as `GET /devices` lists it.", "task_id": "An id as `POST /tasks` answers it."}
_SECURITY = {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}, "bearer": {"type": "http", "scheme": "bearer"}}
_ENVELOPE = {"timestamp": {"type": "string", "format": "date-time"}, "request_id": {"type": "string", "format": "uuid"}}


def document(routes: Sequence[Route], *, title: str, task_types: Sequence[str]) -> dict[str, Any]:
    """The whole document. `task_types`: those that may be submitted now."""
    types = [part for route in routes for part in (*_types(route.answer), *_types(_struct(route.body)))]
    shown, components = msgspec.json.schema_components([*types, schemas.Pagination, schemas.Error], ref_template=REFS)
    known = dict(zip(map(repr, types), shown, strict=False))
    components["TaskRequest"]["properties"]["priority"]["enum"] = list(PRIORITIES)
    components["TaskRequest"]["properties"]["task_type"] = {"type": "string", "enum": list(task_types)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_PART.sub(r"{\1}", route.rule), {})[route.method.lower()] = _operation(route, known)
    return {"openapi": "3.1.0", "info": {"title": title, "version": API_VERSION, "description": _TEXT}, "paths": paths,
            "components": {"schemas": components, "securitySchemes": _SECURITY}}


def summary(route: Route) -> str:
    """One line on a route."""
    if route.text:
        return route.text
    return (route.handler.__doc__ or "").strip().split("\n")[0].rstrip(".")


def _types(answer: Any) -> list[Any]:
    if answer is None:
        return []
    return list(answer) if isinstance(answer, tuple) else [answer]


def _struct(body: Any) -> Any:
    return body if isinstance(body, type) else None


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "operationId": _operation_id(route), "summary": summary(route), "x-level": route.level,
        "security": [] if route.level == OPEN else [{}, {"key": []}, {"bearer": []}],
        "parameters": [*_path_parameters(route.rule), *({"name": param.name, "in": "query", "schema": param.schema()}
                                                        for param in route.query)],
        "responses": _responses(route, known)}
    if route.body is not None:
        content = {"application/json": {"schema": known.get(repr(route.body), route.body)}}
        made["requestBody"] = {"required": route.needs_body, "content": content}
    return made


def _operation_id(route: Route) -> str:
    words = [word for word in re.split(r"[^a-z0-9]+", route.rule.lower()) if word not in ("", "api", "v1")]
    return "_".join([route.method.lower(), *(words or ["info" if route.rule.startswith("/api") else "root"])])


def _path_parameters(rule: str) -> Iterable[dict[str, Any]]:
    for name in _PART.findall(rule):
        yield {"name": name, "in": "path", "required": True, "description": _PARTS[name],
               "schema": {"type": "string", "minLength": 1}}


def _responses(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    media = {route.media: {"schema": _body(route, known)}}
    found: dict[str, Any] = {str(route.status): {"description": "Done", "content": media}}
    if route.rule.endswith("/cluster/health"):
        found["503"] = {"description": "Unhealthy, or the server cannot answer now", "content": {route.media: {
            "schema": {"anyOf": [_body(route, known), {"$ref": REFS.format(name="Error")}]}}}}
    for status, codes in sorted(_errors(route).items()):
        content = {"application/json": {"schema": {"$ref": REFS.format(name="Error")}}}
        found.setdefault(str(status), {"description": ", ".join(codes), "content": content})
    return found


def _body(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    if route.answer is None:
        return {"type": "object"} if route.media == "application/json" else {"type": "string"}
    shown = [known[repr(part)] for part in _types(route.answer)]
    data = shown[0] if len(shown) == 1 else {"anyOf": shown}
    if route.bare:
        return dict(data)
    properties = {"status": {"const": "success"}, "data": data, "message": {"type": "string"}, **_ENVELOPE}
    if len(shown) > 1:
        properties["pagination"] = {"$ref": REFS.format(name="Pagination")}
    return {"type": "object", "required": ["status", "data", "timestamp", "request_id"], "properties": properties}


def _errors(route: Route) -> dict[int, list[str]]:
    codes = [*route.codes, "INTERNAL_ERROR", "SERVICE_UNAVAILABLE"]
    if route.counted:
        codes.append("RATE_LIMIT_EXCEEDED")
    if route.level != OPEN:
        codes.append("AUTHENTICATION_REQUIRED")
    codes.append("PERMISSION_DENIED")
    if route.query:
        codes.append("INVALID_PARAMETER")
    if route.body is not None:
        codes += ["INVALID_JSON", "VALIDATION_ERROR", "PAYLOAD_TOO_LARGE"]
    found: dict[int, list[str]] = {}
    for code in dict.fromkeys(codes):
        found.setdefault(STATUS[code], []).append(code)
    return found


