"""Every example of the document: same keys, same JSON types, the envelope around them (contract 18.1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .shapes import FREE, same

COUNTS = {FREE: 1}
DEVICE = {
    "id": "android-001", "hostname": "pixel-phone", "status": "online", "role": "mobile",
    "platform": {"os": "android", "arch": "aarch64", "python_version": "3.11.0"},
    "resources": {"cpu_cores": 8, "cpu_usage": 42.5, "memory_total_gb": 8, "memory_used_gb": 3.2, "storage_total_gb": 128,
                  "storage_used_gb": 45.6},
    "tasks": {"active": 2, "completed": 15, "failed": 0}, "last_seen": "2023-01-01T12:00:00Z", "uptime_seconds": 86400}
TASK = {
    "task_id": "task-abc123", "task_type": "echo", "status": "completed", "device_id": "android-001", "priority": "normal",
    "created_at": "2023-01-01T12:00:00Z", "started_at": "2023-01-01T12:00:05Z", "completed_at": "2023-01-01T12:00:10Z",
    "execution_time_seconds": 5.2, "result": {"output": "Hello World", "exit_code": 0}}
READS = {
    "/cluster/status": {"cluster_stats": {
        "total_devices": 5, "online_devices": 4, "offline_devices": 1, "health_percentage": 80.0,
        "total_resources": {"cpu_cores": 32, "memory_gb": 128, "storage_gb": 2000}, "by_role": COUNTS, "uptime": "15d 6h 42m"}},
    "/cluster/health": {"overall_health": "healthy", "checks": {
        "database": {"status": "healthy", "response_time_ms": 5}, "network": {"status": "healthy", "connected_devices": 4},
        "resources": {"status": "warning", "cpu_usage": 85, "memory_usage": 70}}},
    "/cluster/metrics": {"metrics": {
        "cpu": {"average_usage": 45.2, "peak_usage": 89.1, "total_cores": 32},
        "memory": {"average_usage": 62.8, "peak_usage": 87.3, "total_gb": 128},
        "tasks": {"completed": 156, "failed": 3, "average_duration_seconds": 42.5}}, "period": "1h"},
    "/devices": {"devices": [DEVICE], "total": 5, "online": 4, "offline": 1},
    "/devices/android-001": {"device": {
        "id": "android-001",
        "detailed_info": {"capabilities": ["computational"], "network_interfaces": ["wlan0"], "sensors": ["gyroscope"],
                          "battery": {"level": 85, "charging": False}},
        "performance_history": {"cpu_usage_24h": [45], "memory_usage_24h": [38], "task_count_24h": [2]}}},
    "/tasks": {"tasks": [TASK], "total": 156, "pending": 3, "running": 2, "completed": 148, "failed": 3},
    "/logs": {"logs": [{"timestamp": "2023-01-01T12:00:00Z", "level": "info", "component": "task_executor", "message": "x",
                        "details": {}}], "total": 1024},
    "/config": {"config": {"server": {"host": "0.0.0.0", "port": 8080, "max_connections": 100},
                           "cluster": {"heartbeat_interval": 60, "offline_threshold": 300, "task_timeout": 3600},
                           "logging": {"level": "info", "max_size": "10MB"}}},
    "/stats/tasks": {"task_stats": {
        "period": "24h", "total_tasks": 156, "by_status": {"completed": 148, "failed": 3, "cancelled": 5},
        "by_device": {FREE: {"completed": 45, "failed": 1}}, "average_execution_time": 42.5, "success_rate": 94.9}},
    "/stats/devices": {"device_stats": {
        "utilization": {FREE: {"cpu_avg": 42.5, "memory_avg": 38.2, "uptime_percent": 98.5}},
        "performance_ranking": [{"device_id": "laptop-002", "score": 95.2}]}},
}


@pytest.fixture
def fleet(api: Any, device: Any) -> Any:
    """One device and one task that it has done."""
    api.done = api.submit("echo", {"message": "Hello World", "repeat": 3})
    assert device.work() == api.done
    return api


def test_reads(fleet: Any) -> None:
    for path, example in READS.items():
        same(example, fleet.data(path), path)


def test_the_fleet_as_the_document_shows_it(fleet: Any) -> None:
    device = fleet.data("/devices")["devices"][0]
    assert device["platform"] == {"os": "android", "arch": "aarch64", "python_version": "3.11.0"}
    assert device["resources"] == {"cpu_cores": 8, "cpu_usage": 42.5, "memory_total_gb": 8.0, "memory_used_gb": 3.2,
                                   "storage_total_gb": 128.0, "storage_used_gb": 45.57}
    assert (device["status"], device["tasks"]) == ("online", {"active": 0, "completed": 1, "failed": 0})
    full = fleet.data("/devices/android-001")
    assert full["device"]["detailed_info"] == {
        "capabilities": ["computational", "network_services"], "network_interfaces": ["wlan0"],
        "sensors": ["accelerometer", "gyroscope"], "battery": {"level": 85, "charging": False}}
    assert full["device"]["platform"]["os"] == full["platform"] == "android"
    assert full["capabilities"] == {"cpu_count": 8, "memory_total_gb": 8.0, "storage_total_gb": 128.0, "has_gpu": False,
                                    "computational": ["mobile_compute"], "services": ["network_tasks"], "automation": []}
    assert full["total_heartbeats"] == 1 and full["metrics_history"][0]["metrics"]["cpu_usage"] == 42.5
    assert full["device"]["performance_history"]["task_count_24h"][-1] == 1


def test_the_task_as_the_document_shows_it(fleet: Any) -> None:
    task = fleet.data("/tasks")["tasks"][0]
    assert task["result"]["output"] == "Hello World\nHello World\nHello World" and task["result"]["exit_code"] == 0
    assert (task["execution_time_seconds"], task["device_id"], task["status"]) == (5.2, "android-001", "completed")
    full = fleet.data(f"/tasks/{fleet.done}")
    same({"task": {"task_id": "x", "detailed_log": ["x"], "payload": {"message": "x", "repeat": 3},
                   "resource_usage": {"peak_cpu_percent": 25.6, "peak_memory_mb": 128, "total_cpu_time_seconds": 4.8}}}, full)
    assert full["task"]["resource_usage"]["peak_cpu_percent"] == 25.6
    assert all(line[:2] == "20" and "Z: " in line for line in full["task"]["detailed_log"])
    assert full["result"]["result_data"] == {"echo": {"message": "Hello World", "repeat": 3}}
    assert set(full["requirements"]) == {
        "min_cpu_cores", "min_memory_gb", "min_storage_gb", "required_platform", "required_role", "required_tags", "gpu_required",
        "internet_required", "timeout_seconds", "max_retries"}


def test_submit(api: Any, device: Any) -> None:
    answer = api.post("/tasks", json={
        "task_type": "echo", "payload": {"message": "Hello World", "repeat": 3}, "priority": "normal", "device_id": "android-001",
        "requirements": {"min_cpu_cores": 2, "min_memory_gb": 1, "platform": "android"}, "timeout": 300})
    assert answer.status_code == 201, answer.text
    same({"task_id": "task-abc123", "assigned_device": "android-001", "estimated_completion": "2023-01-01T12:05:00Z",
          "task": {"status": "queued"}, "submitted_at": "x"}, answer.json["data"])
    assert answer.json["data"]["assigned_device"] == "android-001"


def test_submit_many(api: Any, device: Any) -> None:
    tasks = [{"task_type": "echo", "payload": {"message": str(n)}} for n in range(5)]
    answer = api.post("/tasks/batch", json={"tasks": tasks})
    assert answer.status_code == 201 and answer.json["data"]["count"] == 5
    assert [api.data(f"/tasks/{one}")["payload"]["message"] for one in answer.json["data"]["task_ids"]] == list("01234")
    assert len({device.work() for _ in range(5)}) == 5


def test_ping(api: Any, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = api.post("/devices/android-001/ping", json={"timeout": 0.2, "count": 3})
    assert answer.status_code == 200, answer.text
    data = answer.json["data"]
    same({"ping_results": {"device_id": "android-001", "reachable": True, "packet_loss": 0.0,
                           "results": [{"seq": 1, "time_ms": 14.8}]}, "ping_successful": True}, data)
    assert data["ping_successful"] is data["ping_results"]["reachable"]


def test_cancel_and_retry(api: Any, device: Any) -> None:
    first = api.submit()
    task = device.take()
    assert task and task["task_id"] == first
    gone = api.delete(f"/tasks/{first}").json["data"]
    assert (gone["cancelled_task"], gone["was_running"], gone["task_id"]) == (first, True, first)
    assert gone["cancelled_by"] == "api_request"
    again = api.post(f"/tasks/{first}/retry", json={"priority": "high"}).json["data"]
    assert again["original_task_id"] == first and again["new_task_id"] == again["task_id"] != first
    full = api.data(f"/tasks/{again['task_id']}")
    assert (full["priority"], full["task"]["retry_of"], full["payload"]) == ("high", first, {"message": "Hello"})
    second = api.post(f"/tasks/{again['task_id']}/cancel").json["data"]
    assert (second["was_running"], second["task_id"]) == (False, again["task_id"])


def test_remove(api: Any, device: Any) -> None:
    api.submit(device_id="android-001")
    device.take()
    refused = api.delete("/devices/android-001")
    assert (refused.status_code, refused.json["error_code"], refused.json["error"]["details"]["active_tasks"]) == (
        409, "DEVICE_BUSY", 1)
    api.submit(device_id="android-001")
    data = api.delete("/devices/android-001?force=true").json["data"]
    same({"removed_device": "android-001", "cancelled_tasks": 2}, data)
    assert (data["removed_device"], data["cancelled_tasks"], data["was_online"]) == ("android-001", 2, True)
    assert api.get("/devices/android-001").status_code == 404 and not device.beat().known


def test_configure(api: Any) -> None:
    answer = api.put("/config", json={"cluster": {"heartbeat_interval": 30, "offline_threshold": 180}})
    assert answer.json["data"] == {"updated_fields": ["cluster.heartbeat_interval", "cluster.offline_threshold"],
                                   "restart_required": False}
    assert api.data("/config")["config"]["cluster"]["offline_threshold"] == 180
    assert api.data("/cluster/config")["heartbeat"] == {"interval": 30, "timeout": 180, "max_missed": 6}
    assert api.put("/config", json={"server": {"port": 9999}}).json["data"]["restart_required"] is True


def test_unknown_device_names_some_that_are_known(make_device: Callable[..., Any], api: Any) -> None:
    for name in ("android-001", "laptop-002"):
        make_device(name)
    answer = api.get("/devices/invalid-device")
    assert (answer.status_code, answer.json["error"]["code"]) == (404, "DEVICE_NOT_FOUND")
    assert answer.json["error"]["details"] == {"device_id": "invalid-device", "available_devices": ["android-001", "laptop-002"]}


def test_about(api: Any) -> None:
    same({"status": "healthy", "timestamp": "x", "uptime_seconds": 2.58, "components": {
        "api_server": "healthy", "cluster_server": "healthy", "task_scheduler": "healthy"}}, api.get("/health").json)
    assert set(api.get("/").json["endpoints"]) == {"cluster", "devices", "tasks", "docs"}
    info = api.get("/api/v1").json
    assert "GET /api/v1/devices" in info["endpoints"]["devices"] and info["api_version"] == "1.0.0"
    assert api.get("/docs").json["documentation"]["endpoints"]["tasks"]["POST /api/v1/tasks"] == "Submit a task"


def test_other_reads(fleet: Any) -> None:
    status = fleet.data("/devices/android-001/status")
    assert (status["is_online"], status["current_load"]["active_tasks"]) == (True, 0)
    summary = fleet.data("/devices/summary")
    assert summary["resource_totals"] == {"cpu_cores": 8, "memory_gb": 8.0, "storage_gb": 128.0}
    assert summary["capabilities"] == {"gpu_enabled": 0, "mobile_devices": 1, "server_grade": 0}
    types = fleet.data("/tasks/types")
    assert types["builtin_types"] == ["echo", "sleep", "system_info", "python_eval", "http_request", "command"]
    assert types["supported_types"] == sorted(types["supported_types"]) and types["available_types"]
    assert types["online_devices"] == 1 and types["total_count"] == len(types["supported_types"])
    statistics = fleet.data("/tasks/statistics")
    assert statistics["queue_stats"]["by_status"] == {"success": 1} and statistics["queue_stats"]["by_priority"]["2"] == 1
    flat = fleet.data("/cluster/status")
    assert (flat["nodes_online"], flat["cpu_cores"], flat["tasks_completed"]) == (1, 8, 1)
    for kind in ("cpu", "memory", "disk", "network"):
        assert list(fleet.data(f"/cluster/metrics?type={kind}&period=24h")["metrics"]) == [kind]
    for group in ("task_type", "hour", "device"):
        assert f"by_{group}" in fleet.data(f"/stats/tasks?group_by={group}")["task_stats"]


def test_results(api: Any, device: Any) -> None:
    good = api.submit("sleep", {"duration": 2.0})
    refused = api.get(f"/tasks/{good}/result")
    assert (refused.status_code, refused.json["error_code"]) == (404, "NO_TASK_RESULT")
    device.work()
    result = api.data(f"/tasks/{good}/result")
    assert (result["status"], result["result_data"], result["worker_device_id"]) == ("success", {"slept_for": 2.0}, "android-001")
    assert result["execution_time_seconds"] == 5.2 and result["error_traceback"] is None
    bad = api.submit("python_eval", {"expression": "1/0"})
    device.done(device.take(), None, status="failed", error_message="division by zero", error_traceback="a secret path")
    result = api.get(f"/tasks/{bad}/result")
    assert "secret" not in result.text and result.json["data"]["error_message"] == "division by zero"
    task = api.data(f"/tasks/{bad}")["task"]
    assert task["status"] == "failed" and task["result"]["exit_code"] == 1 and task["result"]["output"] == ""


def test_logs(fleet: Any) -> None:
    data = fleet.data("/logs?limit=3")
    assert len(data["logs"]) == 3 < data["total"]
    messages = [one["message"] for one in fleet.data("/logs")["logs"]]
    for text in (f"task {fleet.done} completed on android-001", f"task {fleet.done} started on android-001",
                 f"task {fleet.done} was submitted", "device android-001 registered"):
        assert text in messages
    assert messages.index(f"task {fleet.done} completed on android-001") < messages.index("device android-001 registered")
    started = next(one for one in fleet.data("/logs?device_id=android-001")["logs"] if "started" in one["message"])
    assert (started["component"], started["device_id"]) == ("task_executor", "android-001")
    assert started["details"]["task_type"] == "echo"
    assert fleet.data("/logs?level=ERROR") == {"logs": [], "total": 0}
    assert fleet.data("/logs?since=2100-01-01T00:00:00Z")["total"] == 0
    assert fleet.data("/logs?device_id=nobody")["logs"] == []
