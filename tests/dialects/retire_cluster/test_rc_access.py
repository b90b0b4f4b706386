"""Who may do what? 401 and 403 over every route of the table, and keys of both kinds (contract 5, 18.7)."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cloudsched.dialects.retire_cluster import routes
from cloudsched.dialects.retire_cluster.access import ADMIN, LEVELS, OPEN, READ, WRITE
from cloudsched.services import keys
from cloudsched.services.caller import SYSTEM

KEYS = {READ: "read-key-1", WRITE: "write-key-1", ADMIN: "admin-key-1"}
TABLE = [(one.method, re.sub("<[a-z_]+>", "nobody", one.rule), one.level)
         for one in routes.table(SimpleNamespace(door=None, limits=None))]  # type: ignore[arg-type]
OPEN_ROUTES = {("GET", "/"), ("GET", "/health"), ("GET", "/api/v1"), ("GET", "/cli")}
WRITES = {"/api/v1/tasks", "/api/v1/tasks/batch", "/api/v1/tasks/nobody", "/api/v1/tasks/nobody/cancel",
          "/api/v1/tasks/nobody/retry", "/api/v1/devices/nobody/ping"}


@pytest.fixture
def guarded(make_api: Callable[..., Any]) -> Any:
    return make_api(**{"retire_cluster.auth": "yes", "retire_cluster.rate_limit": False,
                       "retire_cluster.api_keys": ",".join((KEYS[READ] + ":read", KEYS[WRITE] + ":write", KEYS[ADMIN]))})


def code(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json["error_code"] if answer.is_json and answer.status_code >= 400 else ""


def test_levels_are_those_of_the_contract() -> None:
    for method, path, level in TABLE:
        expected = OPEN if (method, path) in OPEN_ROUTES else READ if method == "GET" or path == "/api/v1/command" else (
            WRITE if path in WRITES else ADMIN)
        assert level == expected, (method, path)


def test_every_route(guarded: Any) -> None:
    for method, path, level in TABLE:
        check(guarded, method, path, level)


def check(guarded: Any, method: str, path: str, level: str) -> None:
    where = f"{method} {path}"

    def call(**kw: Any) -> tuple[int, str]:
        answer = guarded(method, path, buffered=False, **kw)
        found = code(answer)
        answer.close()
        return found

    if level == OPEN:
        assert call()[0] == 200, where
        return
    assert call() == (401, "AUTHENTICATION_REQUIRED"), where
    assert call(key="wrong") == (401, "AUTHENTICATION_REQUIRED")
    assert call(headers={"Authorization": "Basic cmVhZC1rZXktMTp4"})[0] == 401
    for given, key in KEYS.items():
        found = call(key=key)
        if LEVELS.index(given) < LEVELS.index(level):
            assert found == (403, "PERMISSION_DENIED"), (where, given)
        else:
            assert found[0] not in (401, 403, 500), (where, given)
    assert call(headers={"Authorization": f"Bearer {KEYS[ADMIN]}"})[0] not in (401, 403)
    assert call(headers={"Authorization": KEYS[ADMIN]})[0] not in (401, 403)


def test_reasons_and_precedence(guarded: Any) -> None:
    missing, wrong = guarded.get("/devices"), guarded.get("/devices", key="x")
    assert missing.json["error"]["details"] == {"reason": "missing_api_key"} and missing.headers["WWW-Authenticate"]
    assert wrong.json["error"]["details"] == {"reason": "invalid_api_key"} and "x" not in wrong.json["error"]["details"]
    both = guarded.get("/devices", key="wrong", headers={"Authorization": f"Bearer {KEYS[READ]}"})
    assert both.status_code == 401
    assert guarded.get("/devices", key=KEYS[READ], headers={"Authorization": "Bearer wrong"}).status_code == 200
    assert guarded.put("/config", key=KEYS[READ]).json["error"]["details"] == {"required_level": "admin"}


def test_what_is_not_there_needs_a_key_too(guarded: Any) -> None:
    assert code(guarded.get("/nowhere"))[0] == 401 and code(guarded.get("/nowhere", key=KEYS[READ]))[0] == 404
    assert code(guarded.put("/devices"))[0] == 401 and code(guarded.put("/devices", key=KEYS[READ]))[0] == 405
    assert guarded.get("/nothing").status_code == 404
    for path in ("/devices", "/config", "/nowhere", "/text/status"):
        preflight = guarded("OPTIONS", path)
        assert (preflight.status_code, preflight.data) == (200, b"")


def test_a_refusal_is_in_the_log_once(guarded: Any) -> None:
    for _ in range(5):
        guarded.get("/devices", key="wrong")
        guarded.get("/devices")
    found = [one for one in guarded.data("/logs", key=KEYS[READ])["logs"] if one["component"] == "api"]
    assert sorted(one["details"]["reason"] for one in found) == ["invalid_api_key", "missing_api_key"]
    assert "wrong" not in str(found)


def test_keys_of_the_whole_system(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"retire_cluster.rate_limit": False})
    assert api.get("/devices").status_code == 200 and api.get("/api/v1").json["features"]["authentication"] is False
    made = {role: keys.create(role, role, SYSTEM)["key"] for role in ("admin", "viewer", "submitter", "operator")}
    api.app.door._system.forget()
    assert code(api.get("/devices"))[0] == 401 and api.get("/api/v1").json["features"]["authentication"] is True
    assert api.get("/devices", key=made["viewer"]).status_code == 200
    body = {"task_type": "echo", "payload": {}}
    assert code(api.post("/tasks", json=body, key=made["viewer"]))[0] == 403
    for role in ("submitter", "operator", "admin"):
        assert api.post("/tasks", json=body, key=made[role]).status_code == 201
        changed = api.put("/config", json={"cluster": {"task_timeout": 99}}, key=made[role])
        assert changed.status_code == (200 if role == "admin" else 403)


def test_off_means_off(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"retire_cluster.auth": "no", "retire_cluster.rate_limit": False})
    keys.create("admin", "admin", SYSTEM)
    api.app.door._system.forget()
    assert api.put("/config", json={"cluster": {"task_timeout": 99}}).status_code == 200
    assert api.get("/devices", key="wrong").status_code == 200


def test_networks(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"access.retire_cluster_networks": "10.0.0.0/8"})
    assert api.get("/health").status_code == api.get("/health", address="10.1.2.3").status_code == 200
    assert api.get("/health", address="::ffff:10.1.2.3").status_code == 200
    assert code(api.get("/health", address="192.0.2.1")) == (403, "PERMISSION_DENIED")
    assert code(api("OPTIONS", "/health", address="192.0.2.1"))[0] == 403
