"""Every row of contract 4, the order of checks of 9.4, and the habits of HTTP: slashes, empty bodies, HEAD, 404, 405."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.errors import Unavailable
from cloudsched.services import devices, figures

JSON = {"Content-Type": "application/json"}
GOOD = {"task_type": "echo", "payload": {}}


def refused(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json["error"]["code"]) == (status, code), answer.text
    found: dict[str, Any] = answer.json["error"]["details"]
    return found


NOBODY = "task-0123456789abcdef"


UNKNOWN_DEVICES = [
    ("GET", "/devices/x"), ("GET", "/devices/x/status"), ("POST", "/devices/x/ping"), ("DELETE", "/devices/x"),
    ("GET", "/monitor/stream?device_id=x"), ("GET", "/stream/logs?device=x"), ("GET", "/devices/a%2Fb"), ("GET", "/devices/%00"),
]


def test_unknown_devices(api: Any) -> None:
    for method, path in UNKNOWN_DEVICES:
        refused(api(method, path), 404, "DEVICE_NOT_FOUND")


UNKNOWN_TASKS = [NOBODY, "x", "task-x", "%ff", "7", "9" * 40]


def test_unknown_tasks(api: Any) -> None:
    for task in UNKNOWN_TASKS:
        for call in ("GET ", "GET /status", "GET /result", "DELETE ", "POST /cancel", "POST /retry"):
            method, path = call.split(" ")
            refused(api(method, f"/tasks/{task}{path}"), 404, "TASK_NOT_FOUND")


def test_submissions_are_checked_in_order(api: Any, make_device: Callable[..., Any]) -> None:
    make_device("laptop", platform="linux", cpu_count=2, platform_details={"machine": "x86_64"})
    bad = {"task_type": "juggle", "payload": {}, "device_id": "nobody", "requirements": {"min_cpu_cores": 99}}
    refused(api.post("/tasks", data=b"{", headers=JSON), 400, "INVALID_JSON")
    assert refused(api.post("/tasks", json={**bad, "priority": "asap"}), 400, "VALIDATION_ERROR")["field"] == ["priority"]
    refused(api.post("/tasks", json=bad), 400, "INVALID_TASK_TYPE")
    refused(api.post("/tasks", json={**bad, "task_type": "echo"}), 404, "DEVICE_NOT_FOUND")
    details = refused(api.post("/tasks", json={**bad, "task_type": "echo", "device_id": "laptop"}), 400, "INSUFFICIENT_RESOURCES")
    assert details["reason"] == "requirements" and details["requirements"]
    command = {"task_type": "command", "payload": {"command": "ls"}, "device_id": "laptop"}
    details = refused(api.post("/tasks", json=command), 400, "INSUFFICIENT_RESOURCES")
    assert details["reason"] == "task_type_not_enabled"
    refused(api.post("/tasks", json={**GOOD, "requirements": {"required_role": "nas"}}), 400, "INSUFFICIENT_RESOURCES")


def test_devices_that_cannot(api: Any, make_device: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    make_device("old", supported_task_types=None)
    assert refused(api.post("/tasks", json={**GOOD, "device_id": "old"}), 400, "INSUFFICIENT_RESOURCES")["reason"] == (
        "device_does_not_run_tasks")
    api.submit()  # nobody runs tasks: an unpinned one waits
    make_device("phone")
    from cloudsched import clock

    later = clock.now() + 1000
    monkeypatch.setattr(clock, "now", lambda: later)
    refused(api.post("/tasks", json={**GOOD, "device_id": "phone"}), 400, "DEVICE_OFFLINE")
    assert api.data("/devices?status=offline")["total"] == 2


FIELDS_OF_A_SUBMISSION = [
    ({"task_type": None}, ["task_type"]), ({"task_type": ""}, ["task_type"]), ({"task_type": "x" * 101}, ["task_type"]),
    ({"task_type": 7}, ["task_type"]), ({"payload": None}, ["payload"]), ({"payload": "x"}, ["payload"]),
    ({"payload": []}, ["payload"]),
    ({"priority": "asap"}, ["priority"]), ({"priority": 3}, ["priority"]), ({"device_id": 5}, ["device_id"]),
    ({"timeout": 0}, ["timeout"]), ({"timeout": 86401}, ["timeout"]), ({"timeout": "5"}, ["timeout"]),
    ({"timeout": 1.5}, ["timeout"]),
    ({"metadata": []}, ["metadata"]), ({"requirements": []}, ["requirements"]),
    ({"requirements": {"min_cpu_cores": 0}}, ["requirements", "min_cpu_cores"]),
    ({"requirements": {"min_memory_gb": 0}}, ["requirements", "min_memory_gb"]),
    ({"requirements": {"required_tags": "gpu"}}, ["requirements", "required_tags"]),
    ({"requirements": {"timeout_seconds": 3601}}, ["requirements", "timeout_seconds"]),
    ({"requirements": {"max_retries": 11}}, ["requirements", "max_retries"]),
    ({"requirements": {"gpu_required": "yes"}}, ["requirements", "gpu_required"]),
]


def test_fields_of_a_submission(api: Any) -> None:
    for change, field in FIELDS_OF_A_SUBMISSION:
        details = refused(api.post("/tasks", json={**GOOD, **change}), 400, "VALIDATION_ERROR")
        assert details["field"] == field and details["message"]
        if list(change.values()) != [None]:
            details = refused(api.post("/tasks/batch", json={"tasks": [GOOD, {**GOOD, **change}]}), 400, "VALIDATION_ERROR")
            assert details["field"] == ["tasks", 1, *field]
        assert api.data("/tasks")["total"] == 0


def test_missing_fields_and_unknown_ones(api: Any) -> None:
    assert refused(api.post("/tasks", json={"payload": {}}), 400, "VALIDATION_ERROR")["field"] == ["task_type"]
    assert refused(api.post("/tasks", json={"task_type": "echo"}), 400, "VALIDATION_ERROR")["field"] == ["payload"]
    assert refused(api.post("/tasks", data=b"", headers=JSON), 400, "VALIDATION_ERROR")["field"] == ["task_type"]
    refused(api.post("/tasks", json=[]), 400, "VALIDATION_ERROR")
    assert api.post("/tasks", json={**GOOD, "colour": "red", "requirements": {"colour": "red"}}).status_code == 201


BATCHES_THAT_ARE_NONE = [{}, {"tasks": []}, {"tasks": {}}, {"tasks": [5]}, {"tasks": None}]


def test_batches_that_are_none(api: Any) -> None:
    for body in BATCHES_THAT_ARE_NONE:
        assert refused(api.post("/tasks/batch", json=body), 400, "VALIDATION_ERROR")["field"][0] == "tasks"


SUBMISSIONS_SAY_THAT_THEY_ARE_JSON = ["", "text/plain", "application/x-www-form-urlencoded"]


def test_submissions_say_that_they_are_json(api: Any) -> None:
    for kind in SUBMISSIONS_SAY_THAT_THEY_ARE_JSON:
        for path in ("/tasks", "/tasks/batch"):
            refused(api.post(path, data=b"{}", content_type=kind), 400, "INVALID_CONTENT_TYPE")


BAD_PARAMETERS = [
    "/devices?limit=0", "/devices?limit=1001", "/devices?limit=x", "/devices?page=0", "/devices?page=-1", "/devices?page_size=0",
    "/devices?page=x", "/devices?status=gone", "/devices?sort=size", "/devices?view=table", "/tasks?limit=0",
    "/tasks?since=yesterday",
    "/tasks?priority=asap", "/tasks?page_size=0", "/cluster/metrics?period=2h", "/cluster/metrics?type=gpu",
    "/stats/tasks?period=1y",
    "/stats/tasks?group_by=user", "/stats/devices?period=x", "/logs?level=loud", "/logs?limit=0", "/logs?since=x",
    "/monitor/stream?types=x", "/monitor/stream?types=devices,x",
]


def test_bad_parameters(api: Any) -> None:
    for path in BAD_PARAMETERS:
        details = refused(api.get(path), 400, "INVALID_PARAMETER")
        assert details["field"] in path and details["message"]


def test_other_bad_values(api: Any, device: Any) -> None:
    refused(api.get("/tasks?status=sleeping"), 400, "INVALID_STATUS_FILTER")
    refused(api.delete("/devices/android-001?force=maybe"), 400, "INVALID_PARAMETER")
    refused(api.get("/monitor/stream", headers={"Last-Event-ID": "x"}), 400, "INVALID_PARAMETER")
    for body, field in (({"timeout": 0}, "timeout"), ({"timeout": 31}, "timeout"), ({"count": 0}, "count"),
                        ({"count": 21}, "count"),
                        ({"count": 1.5}, "count"), ({"count": True}, "count"), ({"timeout": "5"}, "timeout")):
        assert refused(api.post("/devices/android-001/ping", json=body), 400, "VALIDATION_ERROR")["field"] == [field]
    refused(api.post("/devices/android-001/ping", data=b"{"), 400, "INVALID_JSON")


def test_tasks_that_have_ended(api: Any, device: Any) -> None:
    done = api.submit()
    refused(api.post(f"/tasks/{done}/retry"), 400, "CANNOT_RETRY_TASK")
    device.work()
    refused(api.post(f"/tasks/{done}/retry"), 400, "CANNOT_RETRY_TASK")
    refused(api.delete(f"/tasks/{done}"), 400, "CANNOT_CANCEL_TASK")
    gone = api.submit()
    api.delete(f"/tasks/{gone}")
    refused(api.post(f"/tasks/{gone}/cancel"), 400, "CANNOT_CANCEL_TASK")
    refused(api.get(f"/tasks/{gone}/result"), 404, "NO_TASK_RESULT")
    refused(api.post(f"/tasks/{gone}/retry", json={"priority": "asap"}), 400, "VALIDATION_ERROR")


BAD_CONFIGURATIONS_CHANGE_NOTHING = [
    ({"colour": 1}, "colour"), ({"cluster": {"colour": 1}}, "cluster.colour"), ({"cluster": 5}, "cluster"),
    ({"cluster": {"heartbeat_interval": 9}}, "cluster.heartbeat_interval"),
    ({"cluster": {"task_timeout": "x"}}, "cluster.task_timeout"),
    ({"server": {"port": 0}}, "server.port"), ({"server": {"host": ""}}, "server.host"),
    ({"logging": {"level": "loud"}}, "logging.level"),
    ({"logging": {"max_size": "big"}}, "logging.max_size"), ({"server": {"max_connections": 1001}}, "server.max_connections"),
    ({"cluster": {"heartbeat_interval": 200, "offline_threshold": 100}}, "cluster.offline_threshold"),
]


def test_bad_configurations_change_nothing(api: Any) -> None:
    for body, field in BAD_CONFIGURATIONS_CHANGE_NOTHING:
        before = api.data("/config")
        answer = api.put("/config", json={"cluster": {"task_timeout": 77}, **body})
        assert refused(answer, 400, "INVALID_PARAMETER")["field"] == field
        assert api.data("/config") == before


def test_configurations_without_anything(api: Any) -> None:
    for raw in (b"", b"{}", b'{"cluster": {}}'):
        refused(api.put("/config", data=raw, headers=JSON), 400, "MISSING_REQUEST_BODY")
    refused(api.put("/config", json=[1]), 400, "VALIDATION_ERROR")


# habits of HTTP


def test_routes_that_are_not(api: Any) -> None:
    for path in ("/nothing", "/nowhere", "/devices/a/b/c", "/cluster", "/suggest", "/cluster//status"):
        refused(api.get(path), 404, "NOT_FOUND")
    answer = api.post("/devices", json={})
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert set(answer.headers["Allow"].split(", ")) == {"GET", "HEAD"}
    refused(api.put("/tasks", json={}), 405, "METHOD_NOT_ALLOWED")
    refused(api("TRACE", "/tasks"), 405, "METHOD_NOT_ALLOWED")


A_SLASH_AT_THE_END = ["/devices/", "/cluster/status/", "/tasks/types/", "/health/", "/api/v1/", "/text/status/"]


def test_a_slash_at_the_end(api: Any) -> None:
    for path in A_SLASH_AT_THE_END:
        assert api.get(path).status_code == 200


def test_json_header_on_everything(api: Any, device: Any) -> None:
    """The example client sends it on requests without a body too (contract 2)."""
    task = api.submit()
    assert api.get("/devices", headers=JSON).status_code == 200
    assert api.post("/devices/android-001/ping", headers=JSON).status_code == 200
    assert api.post(f"/tasks/{task}/cancel", headers=JSON).status_code == 200
    assert api.post(f"/tasks/{task}/retry", headers=JSON).status_code == 200
    assert api.delete("/devices/android-001", headers=JSON).status_code in (200, 409)


def test_head(api: Any) -> None:
    for path in ("/devices", "/health", "/text/devices", "/monitor/stream", "/tasks"):
        answer = api("HEAD", path)
        assert answer.status_code == 200 and answer.data == b""


def test_mistakes_are_not_told(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(devices, "listed", explode)
    answer = api.get("/devices")
    refused(answer, 500, "INTERNAL_ERROR")
    assert "secret" not in answer.text

    def away(*_: Any, **__: Any) -> None:
        raise Unavailable("the database at a secret place is away")

    monkeypatch.setattr(figures, "cluster", away)
    answer = api.get("/cluster/status")
    refused(answer, 503, "SERVICE_UNAVAILABLE")
    assert "secret" not in answer.text and answer.headers["Retry-After"]


def test_bodies_have_a_limit(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"web.max_body_mb": 1})
    refused(api.post("/tasks", data=b" " * (1 << 21), headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    refused(api.post("/tasks", data=b'{"task_type":"echo","payload":{"a":"' + b"x" * 600_000 + b'"}}', headers=JSON), 400,
            "VALIDATION_ERROR")
