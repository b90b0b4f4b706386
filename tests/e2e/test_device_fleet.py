"""Are plain heartbeats of many devices answered as all others are, over either port?"""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from cloudsched.settings.sections import Listen
from cloudsched.testing.devicefleet import DeviceFleet
from cloudsched.testing.instance import Instance

from .rows import rows, value

pytestmark = pytest.mark.e2e


def test_simulated_devices_beat_and_run_tasks_over_both_ports() -> None:
    with Instance(config={"retire_cluster": {"rate_limit": False}}) as instance:
        instance.start_all()
        retire = Listen().retire_cluster + instance.offset
        with (DeviceFleet(6, instance.url, heartbeat_s=0.1, tasks=True, prefix="one") as one,
              DeviceFleet(6, f"http://127.0.0.1:{retire}", heartbeat_s=0.1, prefix="two") as two):  # fmt: skip
            one.join_all()
            two.join_all()
            bodies = [{"task_type": kind, "payload": {"duration": 0.1}} for kind in ("echo", "sleep") * 6]
            answer = instance.call("POST", "/api/v1/tasks/batch", {"tasks": bodies}, port=retire)
            assert answer.status == 201, answer.text
            for _ in range(60):
                one.run(0.25)
                two.run(0.25)
                if one.counts["tasks"] + two.counts["tasks"] == 12 and min(_beats(instance)) >= 3:
                    break
            assert one.counts["tasks"] == 12 and not two.counts["tasks"]
            assert len(_beats(instance)) == 12 and min(_beats(instance)) >= 3
            counts = "SELECT (SELECT sum(heartbeats) FROM device), (SELECT sum(cpu_n) FROM device_series)"
            kept, samples = rows(instance, counts)[0]
            in_flight = kept - one.counts["beats"] - two.counts["beats"]
            assert kept == samples and 0 <= in_flight <= 12
            assert value(instance, "SELECT count(*) FROM job WHERE state = 'succeeded'") == 12
            _refusals(instance, one)


def _beats(instance: Instance) -> list[int]:
    return [row[0] for row in rows(instance, "SELECT heartbeats FROM device")]


def _refusals(instance: Instance, fleet: DeviceFleet) -> None:
    """On one kept connection: a wrong secret, a body in pieces, a wrong body, a heartbeat, a node that has ended."""
    device = fleet.devices[0]
    good = f"{device.node_id}.{device.secret}"
    with socket.create_connection(("127.0.0.1", instance.native), timeout=20) as connection:
        assert _ask(connection, good, {"want": 0})[0] == 200  # the first is read by the server itself
        status, _, problem = _ask(connection, f"{device.node_id}.wrong", {"want": 0, "metrics": {"cpu_usage": 1}})
        assert (status, problem["status"]) == (401, 401) and "join again" in problem["detail"]
        assert _ask(connection, good, {"want": 0}, pieces=3)[0] == 200
        status, _, problem = _ask(connection, good, {"want": "many"})
        assert status == 400 and problem["errors"][0]["field"] == "want"
        status, head, reply = _ask(connection, good, {"want": 0, "metrics": {"cpu_usage": 2.0}})
        assert status == 200 and reply["goal"] == "run" and reply["heartbeat_s"] == 60
        assert {"x-request-id", "date", "cache-control", "x-content-type-options"} <= head.keys()
        instance.call("DELETE", f"/api/v1/devices/{device.name}?force=true", port=Listen().retire_cluster + instance.offset)
        assert _ask(connection, good, {"want": 0})[0] in (401, 410) or _ask(connection, good, {"want": 0})[2]["goal"] == "stop"


def _ask(connection: socket.socket, bearer: str, body: Any, *, pieces: int = 1) -> tuple[int, dict[str, str], Any]:
    raw = json.dumps(body).encode()
    request = (f"POST /api/v2/agent/sync HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\n"
               f"Content-Length: {len(raw)}\r\n\r\n").encode() + raw  # fmt: skip
    size = -(-len(request) // pieces)
    for at in range(0, len(request), size):
        connection.sendall(request[at : at + size])
    read = connection.makefile("rb")
    status = int(read.readline().split()[1])
    head = {}
    while line := read.readline().strip():
        name, _, text = line.decode().partition(": ")
        head[name.lower()] = text
    return status, head, json.loads(read.read(int(head["content-length"])))
