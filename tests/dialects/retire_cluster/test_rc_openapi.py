"""Is the OpenAPI document true? It has every route, is well formed, and its schemas hold real answers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from cloudsched.dialects.retire_cluster import schemas
from cloudsched.dialects.retire_cluster.envelope import STATUS


@pytest.fixture
def document(api: Any) -> Any:
    return api.get("/openapi.json").json


def test_it_has_every_route(api: Any, document: Any) -> None:
    served = {(route.method.lower(), re.sub("<([a-z_]+)>", r"{\1}", route.rule)) for route in api.app.routes}
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert served == described and document["openapi"].startswith("3.1")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"{([a-z_]+)}", path))
            assert operation["summary"] and {"500", "503"} <= set(operation["responses"])
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


def test_references_lead_somewhere(document: Any) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].removeprefix("#/components/schemas/") in document["components"]["schemas"]
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(document)


def test_every_code_has_a_status() -> None:
    words = {"DEVICE_NOT_FOUND": 404, "TASK_NOT_FOUND": 404, "INVALID_TASK_TYPE": 400, "DEVICE_OFFLINE": 400,
             "INSUFFICIENT_RESOURCES": 400, "AUTHENTICATION_REQUIRED": 401, "PERMISSION_DENIED": 403, "RATE_LIMIT_EXCEEDED": 429,
             "INTERNAL_ERROR": 500}
    assert words.items() <= STATUS.items()


def test_bodies_of_the_document_are_taken(api: Any, document: Any, device: Any) -> None:
    """A value for every parameter and body that the document allows does not become a 500, nor an undocumented status."""
    parts = {"device_id": "android-001", "task_id": api.submit()}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "delete" or "stream" in path:
                continue
            query = {one["name"]: _example(one["schema"]) for one in operation["parameters"] if one["in"] == "query"}
            body = operation.get("requestBody")
            more = {"json": {"task_type": "echo", "payload": {}} if path.endswith("tasks") else {}} if body else {}
            answer = api(method.upper(), path.format(**parts), query_string=query, **more)
            assert str(answer.status_code) in operation["responses"], (path, answer.text)
            assert answer.status_code < 500


def _example(schema: dict[str, Any]) -> Any:
    if "enum" in schema:
        return schema["enum"][0]
    return {"integer": schema.get("minimum", 1), "string": "x", "array": "devices"}.get(schema.get("type", ""), "0")


def test_the_error_of_the_document() -> None:
    assert set(schemas.ErrorBody.__struct_fields__) == {"code", "message", "details"}
