"""The example client of contract 14.2, step by step, with a device that runs tasks (contract 18.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

TERMINAL = ("success", "failed", "cancelled", "timeout")


class Example:
    """Sends what the example client sends, and stops at any status of 400 or more as it does."""

    def __init__(self, api: Any, devices: list[Any]) -> None:
        self.api = api
        self.devices = devices

    def call(self, method: str, path: str, **kw: Any) -> Any:
        headers = {"Content-Type": "application/json", "User-Agent": "retire-cluster-python-client/1.0.0",
                   "X-API-Key": "example-key"}
        answer = self.api(method, path, headers=headers, **kw)
        assert answer.status_code < 400, answer.text
        return answer.json

    def get(self, path: str) -> Any:
        return self.call("GET", path)["data"]

    def submit(self, task_type: str, payload: dict[str, Any], **more: Any) -> str:
        body = {"task_type": task_type, "payload": payload, **more}
        return str(self.call("POST", "/tasks", json=body)["data"]["task_id"])

    def wait(self, task_id: str) -> dict[str, Any]:
        for _ in range(30):
            found = self.get(f"/tasks/{task_id}/status")
            if found["is_terminal"] or found["status"] in TERMINAL:
                result = self.get(f"/tasks/{task_id}/result")
                assert f"{result['execution_time_seconds']:.2f}" and result["worker_device_id"]
                return {**result, "status": found["status"]}
            for device in self.devices:
                device.work()
        raise AssertionError("the task does not end")


def test_the_example_client(api: Any, make_device: Callable[..., Any]) -> None:
    mobile = make_device("phone", tags=["android", "gpu-capable"])
    laptop = make_device("laptop", role="compute", platform_details={"machine": "x86_64"}, cpu_count=8, memory_total_gb=16.0)
    client = Example(api, [mobile, laptop])
    health = client.call("GET", "/health")
    assert health["status"] and health["components"]
    stats = client.get("/cluster/status")["cluster_stats"]
    assert (stats["total_devices"], stats["online_devices"], stats["health_percentage"]) == (2, 2, 100.0)
    assert stats["total_resources"]["cpu_cores"] == 16 and stats["total_resources"]["memory_gb"] == 24
    rows = client.get("/devices?status=online&page_size=10")
    assert {row["device_id"]: (row["role"], row["platform"], row["capabilities"]["cpu_count"],
                               row["capabilities"]["memory_total_gb"]) for row in rows} == {
        "laptop": ("compute", "linux", 8, 16.0), "phone": ("mobile", "android", 8, 8.0)}
    shown = client.get(f"/devices/{rows[0]['device_id']}")
    assert all(isinstance(shown[name], str) for name in ("device_id", "role", "platform", "status", "last_heartbeat", "uptime"))
    assert {"echo", "system_info", "sleep"} <= set(client.get("/tasks/types")["supported_types"])

    tasks = [client.submit("echo", {"message": "Hello"}, priority="normal", metadata={"source": "example"}),
             client.submit("system_info", {}, priority="high", requirements={"required_role": "mobile"}),
             client.submit("sleep", {"duration": 2.0}, priority="low")]
    results = [client.wait(task) for task in tasks]
    assert [one["status"] for one in results] == ["success"] * 3
    assert results[0]["result_data"] == {"echo": {"message": "Hello"}} and results[1]["worker_device_id"] == "phone"
    assert results[2]["result_data"] == {"slept_for": 2.0}

    queue = client.get("/tasks/statistics")["queue_stats"]
    assert queue["total_tasks"] == 3 and queue["by_status"] == {"success": 3}
    assert {level: count for level, count in queue["by_priority"].items() if count} == {"1": 1, "2": 1, "3": 1}
    listed = client.get("/tasks?page=1&page_size=5")
    assert [one["task_id"] for one in listed] == tasks[::-1]
    assert ("system_info", "success", "phone") in {(one["task_type"], one["status"], one["assigned_device_id"]) for one in listed}
    summary = client.get("/devices/summary")
    assert (summary["total_devices"], summary["by_role"], summary["by_platform"]) == (
        2, {"mobile": 1, "compute": 1}, {"android": 1, "linux": 1})

    powers = [client.submit("python_eval", {"expression": f"2 ** {i}"}) for i in range(5)]
    assert all(client.wait(task)["result_data"] for task in powers)
    assert len(client.get("/devices?role=mobile&status=online")) == 1 and len(client.get("/devices?tags=gpu-capable")) == 1
    assert client.submit("system_info", {}, requirements={"min_cpu_cores": 4, "min_memory_gb": 8, "required_platform": "linux"})
