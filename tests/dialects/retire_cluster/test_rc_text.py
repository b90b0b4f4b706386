"""Text views and the command endpoint: the real operation, under the same level as its route (contract 9.9)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from cloudsched.dialects.retire_cluster import commands


def text(api: Any, path: str, **headers: str) -> str:
    answer = api.get(path, headers=headers)
    assert answer.status_code == 200, answer.text
    return str(answer.text)


def test_devices(api: Any, device: Any) -> None:
    device.beat(cpu_usage=42.0, memory_usage=26.0)
    assert text(api, "/text/devices") == "android-001|online|42|2.1|0"
    assert text(api, "/text/devices?status=", Accept="text/csv") == "id,status,cpu,memory,tasks\nandroid-001,online,42,2.1,0"
    assert text(api, "/text/devices", Accept="text/tab-separated-values").split("\n")[1] == "android-001\tonline\t42\t2.1\t0"
    assert text(api, "/text/devices?status=offline") == ""
    assert api.get("/text/devices").headers["Content-Type"] == "text/plain; charset=utf-8"
    assert api.get("/text/devices", headers={"Accept": "text/csv"}).headers["Content-Type"] == "text/csv; charset=utf-8"
    assert api.get("/text/devices?status=x").status_code == 400


def test_status_metrics_logs(api: Any, device: Any) -> None:
    api.submit()
    device.work()
    lines = text(api, "/text/status").split("\n")
    assert [line.partition(":")[0] for line in lines] == ["STATUS", "NODES", "CPU", "MEMORY", "TASKS", "UPTIME"]
    assert lines[1] == "NODES: 1/1 online" and lines[2] == "CPU: 8 cores (43% utilized)" and lines[3] == "MEMORY: 8GB (40% used)"
    assert lines[4] == "TASKS: 0 active, 1 completed today"
    metrics = text(api, "/text/metrics")
    for name in ("cluster_devices_total", "cluster_devices_online", "cluster_cpu_usage_percent", "cluster_memory_usage_percent",
                 "cluster_tasks_active"):
        assert re.search(rf"^# HELP {name} .+\n# TYPE {name} gauge\n{name} [0-9.]+$", metrics, re.M)
    logs = text(api, "/text/logs").split("\n")
    assert all(re.fullmatch(r"\[[0-9TZ:.-]+\] [A-Z]+: .+", line) for line in logs) and "completed" in logs[-1]


def run(api: Any, command: str, **more: Any) -> Any:
    answer = api.post("/command", json={"command": command, **more})
    assert answer.status_code == 200, answer.text
    assert set(answer.json) == {"status", "command", "format", "output", "exit_code"} and answer.json["command"] == command
    return answer.json["output"]


def test_devices_by_command(api: Any, device: Any) -> None:
    assert run(api, "devices list --status=online").startswith("android-001|online|42.5|3.2|0")
    assert run(api, "devices list --status=offline") == ""
    found = run(api, "devices list --format=json")
    assert found["devices"][0]["id"] == "android-001" and found["total"] == 1
    assert run(api, "device show android-001", format="json")["device"]["id"] == "android-001"
    assert "device.hostname: pixel-phone" in run(api, "devices show android-001").split("\n")
    assert run(api, "devices list", format="csv").split("\n")[0] == "id,status,cpu_usage,resources.memory_used_gb,tasks.active"
    ping = run(api, "device ping android-001 --count=1 --timeout=0.2", format="json")
    assert ping["ping_results"]["device_id"] == "android-001"
    assert run(api, "device remove android-001", format="json")["removed_device"] == "android-001"
    assert api.get("/devices/android-001").status_code == 404


def test_tasks_by_command(api: Any, device: Any) -> None:
    line = "tasks submit echo --payload='{\"message\": \"hi\"}' --priority=high -d android-001 --timeout=60"
    made = run(api, line, format="json")
    task = api.data(f"/tasks/{made['task_id']}")
    assert (task["payload"], task["priority"], task["task"]["timeout"]) == ({"message": "hi"}, "high", 60)
    assert made["task_id"] in run(api, "tasks list --status=pending") and run(api, "tasks query --type=sleep") == ""
    assert run(api, f"task cancel {made['task_id']}", format="json")["was_running"] is False
    assert run(api, f"task retry {made['task_id']}", format="json")["original_task_id"] == made["task_id"]
    assert "task_id,task_type" in run(api, "export tasks --format=csv")
    assert f"task {made['task_id']} was cancelled" in run(api, "monitor logs")
    assert run(api, "monitor alerts") == ""


THE_OTHERS = [
    "help", "echo a b", "clear", "exit", "cluster status", "cluster health", "cluster metrics", "cluster config", "devices stats",
    "devices monitor", "tasks metrics", "tasks monitor", "monitor devices", "monitor tasks", "monitor metrics", "monitor events",
    "export devices", "export logs",
]


def test_the_others(api: Any, device: Any) -> None:
    for command in THE_OTHERS:
        for shape in commands.FORMATS:
            output = run(api, command, format=shape)
            assert isinstance(output, dict if shape == "json" else str)


BAD_COMMANDS = [
    ({}, "MISSING_COMMAND"), ({"command": ""}, "MISSING_COMMAND"), ({"command": "  "}, "MISSING_COMMAND"),
    ({"command": 5}, "INVALID_COMMAND"), ({"command": "fly"}, "INVALID_COMMAND"), ({"command": "devices"}, "INVALID_COMMAND"),
    ({"command": "devices fly"}, "INVALID_COMMAND"), ({"command": "device show"}, "INVALID_COMMAND"),
    ({"command": "devices list x"}, "INVALID_COMMAND"), ({"command": "echo 'x"}, "INVALID_COMMAND"),
    ({"command": "help", "format": "xml"}, "INVALID_COMMAND"), ({"command": "help", "format": 7}, "INVALID_COMMAND"),
    ({"command": "tasks submit echo --payload={"}, "INVALID_COMMAND"), ({"command": "device show nobody"}, "EXECUTION_ERROR"),
    ({"command": "devices list --limit=x"}, "EXECUTION_ERROR"), ({"command": "tasks submit juggle"}, "EXECUTION_ERROR"),
    ({"command": "tasks submit echo --payload=5"}, "EXECUTION_ERROR"), ({"command": "task cancel x"}, "EXECUTION_ERROR"),
]


def test_bad_commands(api: Any) -> None:
    for body, code in BAD_COMMANDS:
        answer = api.post("/command", json=body)
        assert (answer.status_code, answer.json["error_code"]) == (400, code), answer.text
        if code == "EXECUTION_ERROR":
            assert answer.json["error"]["details"]["code"]


def test_commands_need_the_level_of_their_route(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"retire_cluster.auth": "yes", "retire_cluster.rate_limit": False,
                      "retire_cluster.api_keys": "key-r:read,key-w:write,key-a:admin"})
    wanted = {"devices list": "key-r", "tasks submit echo": "key-w", "task cancel x": "key-w", "device ping x": "key-w",
              "device remove x": "key-a"}
    for command, least in wanted.items():
        found = [api.post("/command", json={"command": command}, key=key).status_code for key in ("key-r", "key-w", "key-a")]
        first = ("key-r", "key-w", "key-a").index(least)
        assert all(status == 403 for status in found[:first]) and all(status in (200, 400) for status in found[first:]), command
    assert api.post("/command", json={"command": "help"}).status_code == 401


def test_the_terminal_is_one_page(api: Any) -> None:
    answer = api.get("/cli")
    assert answer.status_code == 200 and "/api/v1/command" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"] and "src=" not in answer.text


def test_values_cannot_break_lines(api: Any, make_device: Callable[..., Any]) -> None:
    make_device("x", hostname="a|b\r\nc\td", role="mo|bile")
    assert json.dumps(text(api, "/text/devices")).count("|") == 4
    shown = run(api, "device show x")
    assert "device.hostname: a b  c d" in shown.split("\n")
