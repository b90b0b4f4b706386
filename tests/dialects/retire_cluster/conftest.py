"""A Retire-Cluster API over a fresh SQLite database, called through WSGI; devices are played by the services they talk to.

Every answer is held against the route table: its status must be documented, its body must be what the row says.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from werkzeug.test import Client

from cloudsched import settings as settings_module
from cloudsched.dialects.retire_cluster import make_app, openapi, schemas
from cloudsched.dialects.retire_cluster.routing import Route
from cloudsched.services import agent_rules, devices, fleet_config, ratelimits, snapshot
from cloudsched.store import db

PROFILE: dict[str, Any] = {
    "role": "mobile", "platform": "linux", "hostname": "pixel-phone", "has_psutil": True, "cpu_count": 8, "cpu_count_logical": 8,
    "platform_details": {"system": "Linux", "machine": "aarch64", "python_version": "3.11.0", "is_android": True},
    "memory_total_gb": 8.0, "memory_available_gb": 4.8, "storage_total_gb": 128.0, "storage_free_gb": 82.4,
    "network_interfaces": ["wlan0"], "sensors": ["accelerometer", "gyroscope"], "tags": ["android", "mobile"],
    "capabilities": {"computational": ["mobile_compute"], "services": ["network_tasks"], "automation": []},
    "supported_task_types": ["echo", "sleep", "system_info", "python_eval"], "max_concurrent_tasks": 2, "has_gpu": False,
}
METRICS = {"cpu_usage": 42.5, "memory_usage": 40.0, "storage_usage": 35.6, "memory_available_gb": 4.8, "storage_free_gb": 82.4,
           "network_bytes_sent": 1000, "network_bytes_recv": 2000, "battery_percent": 85, "battery_charging": False,
           "uptime_seconds": 86400}
ERROR_KEYS = {"status", "error", "error_code", "message", "data", "timestamp", "request_id"}


class Device:
    """A device that runs tasks when it is told to."""

    def __init__(self, device_id: str = "android-001", **changes: Any) -> None:
        self.id = device_id
        self.profile = {**PROFILE, "device_id": device_id, **changes}
        self.address = "127.0.0.1"
        devices.register(self.profile, device_id=device_id, via="worker", address=self.address)
        self.beat()

    def beat(self, **metrics: Any) -> devices.Beat:
        return devices.heartbeat(self.id, {**METRICS, **metrics}, address=self.address)

    def take(self) -> dict[str, Any] | None:
        """Ask for a task; it runs from now on."""
        claimed = devices.request_work(self.id, {"supported_task_types": self.profile.get("supported_task_types", []),
                                                 "max_concurrent_tasks": 2}, address=self.address)
        if claimed.task is not None:
            devices.delivered(claimed)
        return claimed.task

    def done(self, task: dict[str, Any], data: Any, *, status: str = "success", **more: Any) -> devices.Outcome:
        usage = {"peak_cpu_percent": 25.6, "peak_memory_mb": 128.0, "total_cpu_time_seconds": 4.8}
        result = {"task_id": task["task_id"], "status": status, "result_data": data, "error_message": None,
                  "error_traceback": None, "execution_time_seconds": 5.2, "worker_device_id": self.id, "started_at": None,
                  "completed_at": None, "logs": ["task began", "task ended"], **more}
        return devices.report(self.id, result, address=self.address, usage=usage)

    def work(self) -> str | None:
        """Take one task and end it as the original's executor would."""
        task = self.take()
        if task is None:
            return None
        payload = task["payload"]
        data = {"echo": {"echo": payload}, "sleep": {"slept_for": payload.get("duration", 1.0)},
                "system_info": self.profile}.get(task["task_type"], {"result": 1, "expression": payload.get("expression")})
        assert self.done(task, data).success
        return str(task["task_id"])


class Api:
    """Calls of one application; `key` is sent when set."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.key: str | None = None
        self.client = Client(app)
        self._rows = [(route, re.compile(re.sub("<[a-z_]+>", "[^/]+", route.rule) + r"/?\Z")) for route in app.routes]

    def __call__(self, method: str, path: str, *, key: str | None = None, address: str = "127.0.0.1",
                 headers: dict[str, str] | None = None, **kw: Any) -> Any:
        found = dict(headers or {})
        if key or self.key:
            found["X-API-Key"] = key or self.key or ""
        if not path.startswith(("/api", "/health", "/text", "/stream", "/nothing", "/cli")) and path != "/":
            path = "/api/v1" + path
        answer = self.client.open(path, method=method, headers=found, environ_base={"REMOTE_ADDR": address}, **kw)
        self._check(method, path.partition("?")[0], answer)
        return answer

    def get(self, path: str, **kw: Any) -> Any:
        return self("GET", path, **kw)

    def post(self, path: str, **kw: Any) -> Any:
        return self("POST", path, **kw)

    def put(self, path: str, **kw: Any) -> Any:
        return self("PUT", path, **kw)

    def delete(self, path: str, **kw: Any) -> Any:
        return self("DELETE", path, **kw)

    def data(self, path: str, **kw: Any) -> Any:
        """The data of a read."""
        answer = self.get(path, **kw)
        assert answer.status_code == 200, answer.text
        return answer.json["data"]

    def submit(self, task_type: str = "echo", payload: Any = None, **more: Any) -> str:
        body = {"task_type": task_type, "payload": {"message": "Hello"} if payload is None else payload, **more}
        answer = self.post("/tasks", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json["data"]["task_id"])

    # what holds for every answer

    def _check(self, method: str, path: str, answer: Any) -> None:
        assert uuid.UUID(answer.headers["X-Request-ID"])
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if method in ("OPTIONS", "HEAD"):
            return
        route = next((route for route, rule in self._rows if route.method == method and rule.match(path)), None)
        if route is not None:
            described = openapi._responses(route, {repr(part): {} for part in openapi._types(route.answer)})
            assert str(answer.status_code) in described, (method, path, answer.status_code, answer.text)
        if answer.status_code >= 400 and not (answer.is_json and answer.json["status"] == "success"):
            check_error(answer)
        elif route is not None:
            check_success(route, answer)


def check_error(answer: Any) -> None:
    body = answer.json
    msgspec.convert(body, schemas.Error)
    assert set(body) - {"error_details"} == ERROR_KEYS and body["status"] == "error"
    assert set(body["error"]) == {"code", "message", "details"}
    assert (body["error_code"], body["message"]) == (body["error"]["code"], body["error"]["message"])
    assert body.get("error_details", {}) == body["error"]["details"] and body["data"] is None
    assert body["timestamp"].endswith("Z") and body["request_id"] == answer.headers["X-Request-ID"]


def check_success(route: Route, answer: Any) -> None:
    if route.media != "application/json":
        return
    body = answer.json
    if route.answer is None:
        return
    if route.bare:
        msgspec.convert(body, route.answer)
        return
    assert body["status"] == "success" and body["timestamp"].endswith("Z")
    assert body["request_id"] == answer.headers["X-Request-ID"]
    assert set(body) <= {"status", "data", "message", "timestamp", "request_id", "pagination"}
    types = openapi._types(route.answer)
    msgspec.convert(body["data"], types[-1] if isinstance(body["data"], list) else types[0])
    if isinstance(body["data"], list):
        msgspec.convert(body["pagination"], schemas.Pagination)


@pytest.fixture
def make_api(tmp_state: Path, migrated_file: Path) -> Iterator[Callable[..., Api]]:
    opened: list[Any] = []

    def make(**flags: Any) -> Api:
        settings = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none", **flags}, environ={})
        if not opened:
            shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
            opened.append(db.open_database(settings.database.url, synchronous="OFF"))
        ratelimits.reset()
        snapshot.configure(settings)
        fleet_config.configure(settings)
        vars(agent_rules.rules).update(vars(agent_rules.Rules()))
        return Api(make_app(settings))

    yield make
    for database in opened:
        database.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api(**{"retire_cluster.rate_limit": False})


@pytest.fixture
def device(api: Api) -> Device:
    return Device()


@pytest.fixture
def make_device(api: Api) -> Callable[..., Device]:
    return Device
