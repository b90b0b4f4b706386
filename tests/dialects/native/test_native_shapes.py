"""What answers look like: problems, ids of requests, ETags, idempotency, limits, and the OpenAPI document."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest


def is_problem(answer: Any, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = answer.json
    assert {"type", "title", "status", "detail"} <= body.keys() and body["status"] == status
    assert body["type"].startswith("urn:cloudsched:problem:")
    return body


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/nothing", 404), ("GET", "/jobs/77", 404), ("GET", "/nodes/none", 404), ("GET", "/clouds/none", 404),
    ("GET", "/operations/9", 404), ("GET", "/operations/x", 404), ("GET", "/why/job/9", 404), ("GET", "/trace/node:9", 404),
    ("DELETE", "/jobs", 405), ("PUT", "/nodes", 405), ("GET", "/agent/sync", 405), ("GET", "/agent/nothing", 404),
    ("POST", "/agent/sync", 401), ("POST", "/agent/join", 400), ("GET", "/jobs/1/files/../../x", 404)])
def test_errors_are_problems(api: Any, method: str, path: str, status: int) -> None:
    answer = api(method, path)
    is_problem(answer, status)
    if status == 405:
        assert answer.headers["Allow"]


def test_a_mistake_of_ours_tells_nothing(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.services import listing, nodes

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(listing, "page", broken)
    monkeypatch.setattr(nodes, "page", broken)
    for path in ("/jobs", "/nodes"):
        answer = api.get(path, headers={"X-Request-Id": "my-id"})
        body = is_problem(answer, 500)
        assert "hunter2" not in answer.text and body["request_id"] == "my-id"


def test_request_ids(api: Any) -> None:
    for path in ("/jobs", "/nodes", "/nothing"):
        assert api.get(path, headers={"X-Request-Id": "abc-1"}).headers["X-Request-Id"] == "abc-1"
        assert len(api.get(path, headers={"X-Request-Id": "bad id\t"}).headers["X-Request-Id"]) == 16


def test_away_database_is_503(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.errors import Unavailable
    from cloudsched.services import listing, nodes

    def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("the database is away")

    monkeypatch.setattr(listing, "page", away)
    monkeypatch.setattr(nodes, "page", away)
    for path in ("/jobs", "/nodes"):
        answer = api.get(path)
        is_problem(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.parametrize(("path", "field"), [
    ("/jobs?x=1", "x"), ("/jobs?limit=0", "limit"), ("/jobs?limit=1001", "limit"), ("/jobs?limit=a", "limit"),
    ("/jobs?state=odd", "state"), ("/jobs?order=name", "order"), ("/jobs?cursor=zz", "cursor"),
    ("/jobs?user=a&user=b", "user"), ("/jobs?user=a%00", "user"), ("/nodes?x=1", "x"), ("/nodes?user=a&user=b", "user"),
    ("/clouds?limit=-1", "limit"), ("/events?since=-1", "since"), ("/events?since=99999999999999999999", "since"),
    ("/operations?state=odd", "state"), ("/loops?x=1", "x"), ("/healthz?x=1", "x"), ("/jobs/count?x=1", "x"),
    ("/nodes?user=%00", "user"), ("/events?kind=%00", "kind")])
def test_bad_queries_are_named(api: Any, path: str, field: str) -> None:
    body = is_problem(api.get(path), 400)
    assert body["errors"][0]["field"].startswith(field)


@pytest.mark.parametrize(("path", "body", "field"), [
    ("/jobs", {"command": ["x"], "colour": "red"}, "colour"), ("/jobs", {"command": []}, "command"),
    ("/jobs", {"jobs": [{"command": ["x"], "cores": 0}]}, "jobs[0].cores"), ("/jobs", {"command": ["x"], "user": "a\0"}, "user"),
    ("/jobs", {"jobs": [{"command": ["x"], "batch": "\0"}]}, "jobs[0].batch"), ("/jobs/cancel", {"colour": 1}, "colour"),
    ("/jobs/cancel", {}, "ids"), ("/jobs/cancel", {"ids": [1.5]}, "ids[0]"), ("/jobs/cancel", {"state": "odd"}, "state"),
    ("/jobs/cancel", {"ids": [1], "user": "a"}, "ids"), ("/keys", {"role": "admin"}, "name"),
    ("/keys", {"name": "x", "role": "king"}, "role"), ("/keys", {"name": "x\0", "role": "admin"}, "name"),
    ("/clouds", {"name": "x", "kind": "moon", "slots": 1}, "kind"), ("/clouds", {"kind": "local"}, "name"),
    ("/clouds", {"name": "x", "kind": "local", "slots": "2"}, "slots"), ("/nodes/tokens", {"uses": 0}, "uses"),
    ("/nodes/tokens", {"uses": True}, "uses"), ("/nodes/tokens", {"user": "a\0"}, "user"),
    ("/nodes/tokens", {"user": "a\nb"}, "user"), ("/jobs", {"command": ["x"], "name": "a\nb"}, "name"),
    ("/jobs", {"command": ["x"], "array": {"indices": [1, 1]}}, "array.indices"),
    ("/jobs", {"command": ["x"], "after_ok": ["a\0#1.0#2"]}, "after_ok"), ("/jobs/cancel", {"ids": ["\0"]}, "ids[0]"),
    ("/agent/join", {"token": "t", "name": "a\0", "profile": {}}, "name"),
    ("/nodes/tokens", {"user": ["a"]}, "user"), ("/keys", [1], "body")])
def test_bad_bodies_are_named(api: Any, path: str, body: Any, field: str) -> None:
    found = is_problem(api.post(path, json=body), 400)
    assert any(one["field"].startswith(field) for one in found["errors"]), found
    assert api.get("/jobs/count").json["total"] == 0 and api.get("/keys").json["items"] == []


@pytest.mark.parametrize("path", ["/jobs", "/keys", "/jobs/cancel"])
@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b'{"name": "\\ud800"}', b"nul", b'"text"', b"[" * 5000])
def test_broken_json(api: Any, path: str, raw: bytes) -> None:
    is_problem(api.post(path, data=raw, content_type="application/json"), 400)


@pytest.mark.parametrize("path", ["/jobs", "/keys"])
def test_other_media_are_refused(api: Any, path: str) -> None:
    is_problem(api.post(path, data=b"name=x", content_type="application/x-www-form-urlencoded"), 415)


class Endless(io.RawIOBase):
    """A body that counts what was read of it."""

    def __init__(self) -> None:
        self.taken = 0

    def read(self, size: int = -1) -> bytes:
        self.taken += size
        return b" " * size


@pytest.mark.parametrize(("method", "path"), [("POST", "/api/v2/jobs"), ("POST", "/api/v2/keys"),
                                              ("PUT", "/api/v2/jobs/1/files/x"), ("POST", "/api/v2/agent/join")])
@pytest.mark.parametrize("announced", [True, False])
def test_oversized_bodies_are_not_read(make_api: Callable[..., Any], method: str, path: str, announced: bool) -> None:
    api = make_api(**{"web.max_body_mb": 1})
    api.submit(input_files=[{"name": "x", "size": 1}])
    body, seen = Endless(), []
    environ = {"REQUEST_METHOD": method, "RAW_URI": path, "PATH_INFO": path, "REMOTE_ADDR": "127.0.0.1", "QUERY_STRING": "",
               "SERVER_NAME": "localhost", "SERVER_PORT": "80", "wsgi.url_scheme": "http", "SERVER_PROTOCOL": "HTTP/1.1",
               "wsgi.input": body, "CONTENT_TYPE": "application/json", "wsgi.errors": io.StringIO(), "HTTP_HOST": "localhost",
               **({"CONTENT_LENGTH": str(2 << 20)} if announced else {"wsgi.input_terminated": True})}
    b"".join(api.app(environ, lambda status, headers, *_: seen.append((status, dict(headers)))))
    assert seen[0][0].startswith("413") and seen[0][1]["Content-Type"] == "application/problem+json"
    assert body.taken <= (0 if announced else (1 << 20) + (1 << 17))


@pytest.mark.parametrize("name", ["a/b", "a#b", "a?b", "100%", "a b", "é中", "..", "%2F", "a+b", "x;y"])
def test_names_survive_in_paths(api: Any, name: str) -> None:
    made = api.post("/clouds?verify=0", json={"name": name, "kind": "local", "slots": 1})
    assert made.status_code == 201, made.text
    kept = made.json["name"]
    assert api.get(f"/clouds/{quote(kept, safe='')}").json["name"] == name.lower()
    assert api("DELETE", f"/clouds/{quote(kept, safe='')}").json["removed"] is True


@pytest.mark.parametrize("raw", ["%ff%fe", "%00", "a%00b", "%ed%a0%80", "%", "%zz", "x" * 5000])
@pytest.mark.parametrize("where", ["/jobs/{}", "/nodes/{}", "/clouds/{}", "/why/node/{}", "/trace/{}", "/jobs/{}/output",
                                   "/operations/{}"])
def test_binary_names_are_unknown_names(api: Any, raw: str, where: str) -> None:
    path = "/api/v2" + where.format(raw)
    is_problem(api.get(path, environ={"RAW_URI": path, "REQUEST_URI": path}), 404)


def test_etags(api: Any) -> None:
    api.post("/clouds?verify=0", json={"name": "c", "kind": "local", "slots": 1})
    tag = api.get("/clouds/c").headers["ETag"]
    assert api.get("/clouds/c", headers={"If-None-Match": tag}).status_code == 304
    changed = api("PATCH", "/clouds/c", json={"slots": 2}, headers={"If-Match": tag})
    assert changed.status_code == 200 and changed.headers["ETag"] != tag
    is_problem(api("PATCH", "/clouds/c", json={"slots": 3}, headers={"If-Match": tag}), 412)
    is_problem(api("DELETE", "/clouds/c", headers={"If-Match": tag}), 412)
    assert api("DELETE", "/clouds/c", headers={"If-Match": "*"}).status_code == 200


def test_etag_of_a_job_guards_its_changes(api: Any) -> None:
    job = api.submit()
    tag = api.get(f"/jobs/{job}").headers["ETag"]
    assert api.post(f"/jobs/{job}/hold", headers={"If-Match": tag}).json["state"] == "held"
    is_problem(api.post(f"/jobs/{job}/release", headers={"If-Match": tag}), 412)
    assert api.post(f"/jobs/{job}/release").json["state"] == "queued"


def test_idempotent_submission(api: Any) -> None:
    headers = {"Idempotency-Key": "one"}
    first = api.post("/jobs", json={"command": ["true"]}, headers=headers)
    again = api.post("/jobs", json={"command": ["true"]}, headers=headers)
    assert first.json == again.json and api.get("/jobs/count").json["total"] == 1
    is_problem(api.post("/jobs", json={"command": ["false"]}, headers=headers), 409)
    is_problem(api.post("/jobs", json={"command": ["true"]}, headers={"Idempotency-Key": "x" * 256}), 400)


def test_idempotent_posts_of_every_kind(api: Any, make_api: Callable[..., Any]) -> None:
    headers = {"Idempotency-Key": "one"}
    first = api.post("/keys", json={"name": "a", "role": "admin"}, headers=headers)
    api.key = first.json["key"]
    made = [api.post("/nodes/tokens", json={}, headers={"Idempotency-Key": "t"}) for _ in range(2)]
    assert made[0].json == made[1].json and made[1].status_code == 201
    is_problem(api.post("/nodes/tokens", json={"uses": 1}, headers={"Idempotency-Key": "t"}), 409)


def test_secrets_of_idempotent_answers_are_sealed(api: Any) -> None:
    from cloudsched.store.db import read

    made = api.post("/keys", json={"name": "a", "role": "admin"}, headers={"Idempotency-Key": "one"}).json
    kept = str(read().all("SELECT * FROM idempotency"))
    assert made["key"] not in kept and "sealed:" in kept


def test_errors_are_not_remembered(api: Any) -> None:
    headers = {"Idempotency-Key": "one"}
    body = {"name": "c", "kind": "local", "slots": 1}
    api.post("/clouds?verify=0", json=body)
    is_problem(api.post("/clouds?verify=0", json=body, headers=headers), 409)
    api("DELETE", "/clouds/c")
    assert api.post("/clouds?verify=0", json=body, headers=headers).status_code == 201
    assert api.post("/clouds?verify=0", json=body, headers=headers).status_code == 201


def test_credentials_are_never_read_back(api: Any) -> None:
    body = {"name": "c", "kind": "fake", "slots": 1, "credentials": {"password": "hunter2"},
            "options": {"api_token": "hunter3"}}
    assert api.post("/clouds?verify=0", json=body).status_code == 201
    texts = [api.get(path).text for path in ("/clouds", "/clouds/c", "/events?limit=100", "/config", "/why/job/1")]
    assert not any("hunter2" in text or "hunter3" in text for text in texts)
    assert api.get("/clouds/c").json["has_credentials"] is True


def test_document_is_whole(api: Any) -> None:
    document = api.get("/openapi.json").json
    assert document["openapi"] == "3.1.0" and document["info"]["title"] == "cloudsched"
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods
                 if method in ("get", "post", "put", "patch", "delete")}
    for rule in api.app.flask.url_map.iter_rules():
        if rule.endpoint in ("static", "api-docs.openapi_json"):
            continue
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        assert {(method, path) for method in rule.methods - {"HEAD", "OPTIONS"}} <= described, path
    for method, path in described:
        one = document["paths"][path][method.lower()]
        assert one["summary"] and one["responses"] and one["operationId"], path
        for name in re.findall(r"{(\w+)}", path):
            parameters = [*document["paths"][path].get("parameters", []), *one.get("parameters", [])]
            assert any(p.get("name") == name and p["in"] == "path" for p in parameters), path
    ids = [document["paths"][path][method.lower()]["operationId"] for method, path in described]
    assert len(set(ids)) == len(ids)


def test_every_reference_of_the_document_leads_somewhere(api: Any) -> None:
    document = api.get("/openapi.json").json

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_document_describes_what_is_answered(api: Any) -> None:
    job = api.submit()
    api.node()
    api.post("/clouds?verify=0", json={"name": "c", "kind": "local", "slots": 1})
    schemas = api.get("/openapi.json").json["components"]["schemas"]
    for path, name in ((f"/jobs/{job}", "Job"), ("/nodes/n1", "Node"), ("/clouds/c", "Cloud"), (f"/why/job/{job}", "Why"),
                       (f"/trace/{job}", "Trace"), ("/jobs/count", "Counts")):
        assert set(api.get(path).json) <= set(schemas[name]["properties"]), path


def test_job_request_fields_are_all_described(api: Any) -> None:
    from cloudsched.domain.submission import JobRequest

    described = set(api.get("/openapi.json").json["components"]["schemas"]["SubmitBody"]["properties"])
    assert described == {*JobRequest.__struct_fields__, "jobs"}


@pytest.mark.parametrize("prefix", ["", "/api/v2"])
def test_health(api: Any, prefix: str) -> None:
    assert api.get(prefix + "/healthz").json["status"] == "ok"
    ready = api.get(prefix + "/readyz")
    assert ready.status_code == 200 and {check["name"] for check in ready.json["checks"]} == {"database", "disk"}
    text = api.get(prefix + "/metrics").text
    assert 'cloudsched_jobs{state="queued"} 0' in text and "# TYPE cloudsched_http_answers_total counter" in text


def test_late_loops_are_not_ready(api: Any) -> None:
    from cloudsched.store import system
    from cloudsched.store.db import write

    write(lambda tx: system.start_loop(tx, "scheduler", interval_s=1, at=1000.0))
    answer = api.get("/readyz")
    assert "loop scheduler" in is_problem(answer, 503)["detail"] and answer.headers["Retry-After"]
    assert api.get("/loops").json["items"][0]["late"] is True


def test_settings_have_an_origin(api: Any) -> None:
    rows = {one["key"]: one for one in api.get("/config").json["items"]}
    assert rows["state.dir"]["origin"].startswith("flag") and rows["listen.native"]["origin"] == "default"


def test_head_has_no_body(api: Any) -> None:
    for path in ("/jobs", "/nodes", "/healthz"):
        answer = api("HEAD", path)
        assert answer.status_code == 200 and answer.data == b""
