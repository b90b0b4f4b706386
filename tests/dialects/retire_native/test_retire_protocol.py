"""Every exchange of the native protocol as its peers have it (contract 12): bytes in, bytes out, over a real database.

The worker here speaks from the contract alone: nothing of our own client side is used.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched import settings as settings_module
from cloudsched.dialects.retire_cluster import native
from cloudsched.dialects.retire_cluster.frames import FrameError
from cloudsched.services import devices, tasks
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store.db import Database
from tests.fleet import HOME, Fleet, made

FAR = "192.0.2.7"
TYPES = {"register", "heartbeat", "status", "list_devices", "device_info", "task_assign", "task_result", "task_status",
         "task_cancel", "task_request", "task_submit", "error", "ack"}
CAPABILITIES = {
    "platform": "linux", "role": "compute", "cpu_count": 8, "memory_total_gb": 16.0, "storage_total_gb": 500.0,
    "tags": ["linux", "x86"], "supported_task_types": ["echo", "sleep", "system_info", "python_eval"], "max_concurrent_tasks": 2}
TASK_KEYS = {"task_id", "task_type", "payload", "priority", "requirements", "metadata", "status", "created_at",
             "assigned_device_id", "assigned_at", "started_at", "completed_at", "retry_count", "error_history", "result"}
REQUIREMENTS = {"min_cpu_cores", "min_memory_gb", "min_storage_gb", "required_platform", "required_role", "required_tags",
                "gpu_required", "internet_required", "timeout_seconds", "max_retries"}
RECORD = {"device_id", "role", "status", "last_heartbeat", "ip_address", "platform", "platform_details", "capabilities", "tags",
          "description", "hardware", "last_updated", "registration_time"}


@pytest.fixture
def fleet(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """On SQLite and on PostgreSQL."""
    yield from made(database, tmp_state, monkeypatch)


@pytest.fixture
def small(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


class Worker:
    """Sends one object for each exchange, as the original serialises it. `address`: where it is."""

    def __init__(self, device_id: str, *, address: str = HOME, token: str | None = None) -> None:
        self.id, self.address, self.token = device_id, address, token

    def say(self, kind: str, data: dict[str, Any] | None = None, *, sent: bool = True) -> dict[str, Any]:
        """The whole reply. `sent`: did it reach the worker?"""
        found = dict(data or {}) | ({} if self.token is None else {"token": self.token})
        message = {"message_type": kind, "sender_id": self.id, "receiver_id": None, "message_id": str(uuid.uuid4()),
                   "timestamp": "2023-11-14T22:13:20.123456", "data": found}
        reply = native.answer(json.dumps(message).encode(), self.address)
        if reply.settle is not None:
            reply.settle(sent)
        said = checked(reply.data)
        if said["message_type"] in ("ack", "error"):
            assert said["data"]["original_message_id"] == message["message_id"]
        return said

    def ask(self, kind: str, data: dict[str, Any] | None = None) -> dict[str, Any]:
        """The result of an `ack`."""
        said = self.say(kind, data)
        assert said["message_type"] == "ack", said
        return dict(said["data"]["result"])

    def refused(self, kind: str, data: dict[str, Any] | None = None) -> str:
        said = self.say(kind, data)
        assert said["message_type"] == "error", said
        return str(said["data"]["error"])

    def profile(self, **more: Any) -> dict[str, Any]:
        """What an original worker registers with (contract 10.1)."""
        return {
            "device_id": self.id, "role": "compute", "platform": "linux", "timestamp": "2023-11-14T22:13:20",
            "platform_details": {"system": "Linux", "release": "6.1.0", "version": "#1 SMP", "machine": "x86_64",
                                 "processor": "", "python_version": "3.10.4", "is_android": False, "is_virtual": False},
            "has_psutil": True, "cpu_count": 4, "cpu_count_logical": 8, "cpu_freq_mhz": 2400.0, "memory_total_gb": 15.5,
            "memory_available_gb": 9.0, "storage_total_gb": 233.0, "storage_free_gb": 100.0, "hostname": self.id,
            "ip_address": "10.0.0.1", "network_interfaces": ["eth0", "wlan0"],
            "capabilities": {"computational": ["general_compute"], "services": ["network_tasks"],
                             "automation": ["file_operations", "script_execution"]},
            "tags": ["linux", "x86", "high_memory", "compute"], "max_concurrent_tasks": 2,
            "worker_config": {"heartbeat_interval": 60, "main_host": "127.0.0.1", "main_port": 8080}, **more}

    def register(self, **more: Any) -> dict[str, Any]:
        return self.ask("register", self.profile(**more))

    def beat(self, **more: Any) -> dict[str, Any]:
        metrics = {"timestamp": "2023-11-14T22:13:20", "device_id": self.id, "cpu_usage": 12.5, "memory_usage": 40.0,
                   "memory_available_gb": 9.0, "storage_usage": 50.0, "storage_free_gb": 100.0, "network_bytes_sent": 1,
                   "network_bytes_recv": 2, "load_average_1m": 0.5, "load_average_5m": 0.4, "load_average_15m": 0.3, **more}
        return self.ask("heartbeat", {"metrics": metrics})

    def take(self, **changes: Any) -> dict[str, Any] | None:
        """Ask for a task and get one, or None."""
        said = self.say("task_request", {"capabilities": {**CAPABILITIES, **changes}})
        if said["message_type"] == "ack":
            assert said["data"]["result"]["task"] is None
            return None
        assert (said["message_type"], said["receiver_id"]) == ("task_assign", self.id), said
        return dict(said["data"]["task"])

    def result(self, task: dict[str, Any], status: str = "success", data: Any = None, **more: Any) -> dict[str, Any]:
        found = {"task_id": task["task_id"], "status": status, "result_data": data, "error_message": None,
                 "error_traceback": None, "execution_time_seconds": 0.25, "worker_device_id": self.id,
                 "started_at": "2023-11-14T22:13:20+00:00", "completed_at": "2023-11-14T22:13:21+00:00", "logs": [], **more}
        return self.ask("task_result", {"result": found})


def checked(data: bytes) -> dict[str, Any]:
    """What holds for every reply: the original's client rejects any other."""
    said: dict[str, Any] = json.loads(data)
    assert set(said) == {"message_type", "sender_id", "receiver_id", "message_id", "timestamp", "data"}
    assert said["message_type"] in TYPES and said["sender_id"] == "main_server" and isinstance(said["data"], dict)
    assert uuid.UUID(said["message_id"]) and said["timestamp"].endswith("+00:00")
    return said


# the original's workers


def test_an_original_worker_joins_and_is_never_given_a_task(fleet: Fleet) -> None:
    worker = Worker("linux-box-x86_64")
    status = worker.ask("status", {})  # it stops when this is empty
    assert (status["online_devices"], status["device_list"]) == (0, []) and status["cluster_stats"]["total_devices"] == 0
    assert worker.register() == {"success": True, "device_id": worker.id, "message": f"Device {worker.id} registered"}
    tasks_waiting = [fleet.submit("echo"), fleet.submit("system_info")]
    for _ in range(3):
        fleet.clock.advance(61)
        beat = worker.beat()
        assert beat["success"] is True and beat["config"] == {"heartbeat_interval": 60} and isinstance(beat["message"], str)
    status = worker.ask("status", {})
    assert (status["online_devices"], status["device_list"]) == (1, [worker.id]) and status["timestamp"]
    assert status["cluster_stats"]["last_updated"] and status["cluster_stats"]["by_role"] == {"compute": 1}
    fleet.set()  # a restart: what was registered is still there, and it never registers again
    fleet.clock.advance(61)
    assert worker.beat()["success"] is True
    assert {fleet.word(task) for task in tasks_waiting} == {"queued"}
    fleet.clock.advance(301)
    assert worker.ask("status")["online_devices"] == 0
    assert worker.beat()["success"] is True and worker.ask("status")["online_devices"] == 1


def test_what_the_original_reads_of_a_device(fleet: Fleet) -> None:
    worker = Worker("box")
    worker.register(description="under the desk")
    for number in range(12):
        fleet.clock.advance(60)
        worker.beat(cpu_usage=float(number))
    (record,) = worker.ask("list_devices", {})["devices"]
    assert set(record) == RECORD and record["hardware"] == {
        "cpu_count": 4, "memory_total_gb": 15.5, "storage_total_gb": 233.0, "hostname": "box"}
    assert (record["status"], record["platform"], record["ip_address"], record["description"]) == (
        "online", "linux", HOME, "under the desk")  # the address is the peer's, not what it says
    assert record["registration_time"] == "2023-11-14T22:13:20.000+00:00" != record["last_heartbeat"]
    fleet.clock.advance(10)
    worker.register(role="storage")
    info = worker.ask("device_info", {"device_id": "box"})
    assert info["device"]["role"] == "storage" and info["device"]["registration_time"] == "2023-11-14T22:13:20.000+00:00"
    beats = info["recent_heartbeats"]
    assert len(beats) == 10 and [beat["metrics"]["cpu_usage"] for beat in beats[:2]] == [11.0, 10.0]
    assert set(beats[0]) == {"device_id", "timestamp", "metrics"} and beats[0]["timestamp"] > beats[9]["timestamp"]
    gone = worker.ask("device_info", {"device_id": "nobody"})
    assert gone["device"] is None and "nobody" in gone["error"]
    assert "device_id" in worker.refused("device_info", {})


def test_lists_by_status_and_role(small: Fleet) -> None:
    for name, role in (("old", "mobile"), ("new", "compute")):
        Worker(name).register(role=role)
        small.clock.advance(200)
    asker = Worker("status-client")
    small.clock.advance(50)

    def names(**data: Any) -> list[str]:
        found = asker.ask("list_devices", data)
        assert found["count"] == len(found["devices"]) and found["filters_applied"] == data
        return sorted(one["device_id"] for one in found["devices"])

    assert names() == ["new", "old"] and names(status="online") == ["new"] and names(status="offline") == ["old"]
    assert names(role="mobile") == ["old"] and names(status="all", role="compute") == ["new"] and names(role="nas") == []
    status = asker.ask("status", {"role": "mobile"})
    assert (status["device_list"], status["online_devices"]) == (["old"], 0)
    assert "status" in asker.refused("list_devices", {"status": "asleep"})


def test_the_legacy_worker_sends_three_members_alone(small: Fleet) -> None:
    def say(kind: str, data: Any) -> dict[str, Any]:
        text = json.dumps({"message_type": kind, "sender_id": "legacy-1", "data": data}).encode()
        said = checked(native.answer(text, HOME).data)
        assert said["message_type"] == "ack" and said["data"]["original_message_id"] is None
        return dict(said["data"]["result"])

    assert say("status", {})["online_devices"] == 0
    assert say("register", {"device_id": "legacy-1", "role": "worker", "platform": "linux", "cpu_count": 2})["success"] is True
    assert say("heartbeat", {"metrics": {"timestamp": "x", "device_id": "legacy-1", "note": "no psutil"}})["success"] is True
    assert Worker("a").ask("list_devices")["devices"][0]["status"] == "online"


def test_a_device_that_was_removed_or_never_came_is_told_so(small: Fleet) -> None:
    worker = Worker("ghost")
    beat = worker.beat()
    assert beat["success"] is False and beat["message"] and "config" not in beat
    worker.register()
    devices.remove("ghost", force=False, actor="me")
    assert worker.beat()["success"] is False
    assert worker.register()["success"] is True and worker.beat()["success"] is True


# tasks


def test_a_worker_runs_echo_sleep_and_a_failing_task(fleet: Fleet) -> None:
    worker = Worker("laptop")
    worker.register(supported_task_types=CAPABILITIES["supported_task_types"])
    assert worker.take() is None
    echo = fleet.submit("echo", {"message": "Hi", "repeat": 2}, priority="high", metadata={"for": "me"},
                        requirements={"min_cpu_cores": 2, "platform": "Linux"}, timeout=60)
    fleet.clock.advance(1)
    task = worker.take()
    assert task is not None and set(task) == TASK_KEYS and set(task["requirements"]) <= REQUIREMENTS
    assert (task["task_id"], task["task_type"], task["payload"], task["priority"], task["metadata"]) == (
        echo, "echo", {"message": "Hi", "repeat": 2}, 3, {"for": "me"})
    assert (task["assigned_device_id"], task["status"], task["retry_count"], task["error_history"], task["result"]) == (
        "laptop", "assigned", 0, [], None) and task["requirements"]["timeout_seconds"] == 60
    assert task["created_at"].endswith("+00:00") and task["assigned_at"].endswith("+00:00")
    assert fleet.word(echo) == "running"
    assert worker.ask("task_status", {"task_id": echo}) == {"task_id": echo, "status": "running"}
    assert worker.result(task, data={"echo": task["payload"]}, logs=["began"]) == {"success": True}
    view = tasks.get(echo)
    assert (view.word, view.result["output"], view.execution_s) == ("success", "Hi\nHi", 0.25) and "began" in view.log

    sleep = fleet.submit("sleep", {"duration": 0.5})
    assert (task := worker.take()) is not None and task["task_id"] == sleep
    usage = {"peak_cpu_percent": 1.5, "peak_memory_mb": 12.0, "total_cpu_time_seconds": 0.25}
    result = {"task_id": sleep, "status": "success", "result_data": {"slept_for": 0.5}}
    assert worker.ask("task_result", {"result": result, "resource_usage": usage, "detailed_log": ["slept"]}) == {"success": True}
    assert tasks.get(sleep).usage == usage and "slept" in tasks.get(sleep).log

    failing = fleet.submit("python_eval", {})
    assert (task := worker.take()) is not None
    assert worker.result(task, "failed", error_message="No expression provided")["success"] is True
    view = tasks.get(failing)
    assert (view.word, view.error, view.result["exit_code"]) == ("failed", "No expression provided", 1)
    assert worker.ask("task_status", {"task_id": failing})["status"] == "failed"
    late = fleet.submit("echo")
    assert (task := worker.take()) is not None
    assert worker.result(task, "timeout", started_at=None, completed_at=None)["success"] is True and fleet.word(late) == "timeout"


def test_no_more_than_it_has_room_for_and_asking_releases_nothing(small: Fleet) -> None:
    worker = Worker("laptop")
    worker.register()
    ids = [small.submit("echo") for _ in range(4)]
    first, second = worker.take(), worker.take()
    assert first is not None and second is not None and worker.take() is None and worker.take() is None
    assert [small.word(one) for one in ids] == ["running", "running", "queued", "queued"]
    worker.result(first, data={"echo": {}})
    third = worker.take()
    assert third is not None and third["task_id"] == ids[2]


def test_a_reply_that_does_not_arrive_gives_the_task_back(fleet: Fleet) -> None:
    worker = Worker("laptop")
    worker.register()
    task = fleet.submit("echo")
    assert worker.say("task_request", {"capabilities": CAPABILITIES}, sent=False)["message_type"] == "task_assign"
    assert fleet.word(task) == "queued"
    again = worker.take()
    assert again is not None and again["task_id"] == task and fleet.word(task) == "running"


def test_cancel_and_late_results(small: Fleet) -> None:
    worker, other = Worker("laptop"), Worker("other")
    worker.register()
    other.register()
    cancelled = small.submit("sleep", {"duration": 60})
    task = worker.take()
    assert task is not None
    assert tasks.cancel(cancelled, caller=LOCAL_ADMIN) is True
    assert worker.beat()["cancel"] == [cancelled]
    assert worker.ask("task_request", {"capabilities": CAPABILITIES}) == {"task": None, "cancel": [cancelled]}
    assert worker.ask("task_status", {"task_id": cancelled})["status"] == "cancelled"
    late = worker.result(task, data={"slept_for": 60})
    assert (late["success"], late["dropped"]) == (True, True) and small.word(cancelled) == "cancelled"
    assert "cancel" not in worker.beat()

    lost = small.submit("echo")
    task = worker.take()
    assert task is not None
    small.clock.advance(301)
    other.beat()
    small.loop.tick()
    assert small.word(lost) == "queued" and tasks.get(lost).retry_count == 1
    taken = other.take()
    assert taken is not None and taken["retry_count"] == 1 and taken["error_history"]
    assert worker.ask("task_status", {"task_id": lost})["status"] == "cancelled"
    assert worker.result(task, data={"echo": {}})["dropped"] is True
    assert small.word(lost) == "running" and other.result(taken, data={"echo": {}}) == {"success": True}


def test_only_its_own_device_may_speak_of_a_task(small: Fleet) -> None:
    worker, other = Worker("laptop"), Worker("other")
    worker.register()
    other.register()
    name = small.submit("echo")
    task = worker.take()
    assert task is not None
    assert other.result(task)["success"] is False and small.word(name) == "running"
    assert other.ask("task_status", {"task_id": name})["status"] is None
    assert worker.result({"task_id": "task-0123456789abcdef"})["success"] is False
    assert worker.ask("task_status", {"task_id": "no-task"})["success"] is False
    stranger = Worker("stranger")
    for kind, data in (("task_request", {}), ("task_status", {"task_id": name}), ("task_result", {"result": {
            "task_id": name, "status": "success"}})):
        assert "not registered" in stranger.refused(kind, data)
    assert "status" in worker.refused("task_result", {"result": {"task_id": name, "status": "splendid"}})
    assert "task_id" in worker.refused("task_result", {"result": {}})
    assert "result" in worker.refused("task_result", {}) and "task_id" in worker.refused("task_status", {})


# trust


def test_with_a_token_configured(small: Fleet) -> None:
    small.set(join_token="the secret")
    for token in (None, "", "wrong"):
        for kind in ("register", "heartbeat", "status", "list_devices", "device_info", "task_request"):
            assert "token" in Worker("phone", token=token).refused(kind, {"device_id": "phone"})
    worker = Worker("phone", token="the secret", address=FAR)
    worker.register(supported_task_types=["echo"])
    small.submit("echo")
    assert worker.take() is not None and worker.beat()["success"] is True

    small.set(join_token="the secret", allow_legacy_workers=True)
    legacy = Worker("legacy", address=FAR)
    assert legacy.ask("status")["online_devices"] == 1
    legacy.register()
    assert legacy.beat()["success"] is True
    assert "may not have tasks" in legacy.refused("task_request", {"capabilities": CAPABILITIES})
    thief = Worker("phone", address=FAR)
    assert "token" in thief.refused("register", thief.profile()) and "token" in thief.refused("heartbeat", {"metrics": {}})
    assert Worker("phone", token="wrong", address=FAR).refused("register", thief.profile())


def test_without_a_token_only_this_machine_is_trusted(small: Fleet) -> None:
    assert "this host" in Worker("phone", address=FAR).refused("register", {})
    Worker("phone").register()
    small.set(allow_legacy_workers=True)
    far = Worker("tablet", address=FAR)
    far.register()
    assert far.beat()["success"] is True and "may not have tasks" in far.refused("task_request", {})
    small.set(**{"access.retire_cluster_networks": ["192.0.2.0/24"]})
    small.submit("echo")
    assert far.take() is not None
    # once registered with a token, an id needs it, whatever is configured later
    small.set(join_token="a token")
    Worker("kept", token="a token").register()
    small.set()
    assert "token" in Worker("kept").refused("heartbeat", {"metrics": {}})
    assert Worker("kept", token="a token").beat()["success"] is True


@pytest.mark.parametrize(("flags", "said"), [
    ({}, {"agent_port": 8100}),
    ({"retire_cluster.join_token": "a token", "listen.retire_cluster_bind": "0.0.0.0"}, {"agent_port": 8081}),
    ({"retire_cluster.join_token": "a token", "listen.retire_cluster_bind": "0.0.0.0", "listen.retire_cluster": 0},
     {"agent_port": 8100}),
    ({"listen.public_url": "https://there.example:8443"}, {"agent_url": "https://there.example:8443"}),
])  # fmt: skip
def test_agents_are_told_a_port_that_they_can_reach(small: Fleet, flags: dict[str, Any], said: dict[str, Any]) -> None:
    given = {"state": str(small.state), "cloud_scheduler.config_file": "none", "access.require_keys": "yes", **flags}
    native.configure(settings_module.load(given, environ={}))
    found = Worker("joining").ask("status")
    assert {name: found[name] for name in ("agent_port", "agent_url") if name in found} == said


# sizes: the original reads 8192 bytes once


@pytest.mark.parametrize(("count", "whole"), [(1, True), (9, False), (40, False), (300, False)])
def test_replies_fit_what_the_original_reads(small: Fleet, count: int, whole: bool) -> None:
    for number in range(count):
        worker = Worker(f"device-number-{number:03d}")
        worker.register(description="d" * 200, tags=[f"tag-{one}" for one in range(10)])
    asker = Worker("status-client")
    for kind in ("status", "list_devices", "device_info"):
        said = asker.say(kind, {"device_id": "device-number-000"})
        assert len(json.dumps(said, separators=(",", ":"))) <= 8192, kind
    found = asker.ask("list_devices")
    assert found["count"] == count and found["devices"][0]["device_id"] == "device-number-000"
    assert ("truncated" in found) == (count > 70) and (set(found["devices"][0]) == RECORD) == whole
    assert {"device_id", "role", "status", "platform", "ip_address"} <= set(found["devices"][-1])
    assert len(found["devices"]) == count if count <= 40 else 40 < len(found["devices"]) < count
    status = asker.ask("status")
    assert status["online_devices"] == count and (len(status["device_list"]) == count or status["truncated"] is True)


def test_one_device_with_much_to_say_still_fits(small: Fleet) -> None:
    worker = Worker("wordy")
    details = {f"detail-{number}": "x" * 200 for number in range(50)}
    worker.register(platform_details=details, description="y" * 900, tags=[f"tag-{n}-{'z' * 100}" for n in range(60)])
    for _ in range(10):
        worker.beat(**{f"metric_{number}": "m" * 100 for number in range(20)})
    for kind in ("device_info", "list_devices"):
        said = worker.say(kind, {"device_id": "wordy"})
        assert len(json.dumps(said, separators=(",", ":"))) <= 8192
        assert "wordy" in json.dumps(said["data"]["result"])


# what is wrong


@pytest.mark.parametrize(("text", "word"), [
    (b"{nonsense}", "not JSON"), (b"[1]", "no JSON object"), (b"\xff{}", "not JSON"), (b"{}", "message_type"),
    (b'{"message_type": "dance", "sender_id": "a"}', "dance"), (b'{"message_type": 7, "sender_id": "a"}', "7"),
    (b'{"message_type": "status"}', "sender_id"), (b'{"message_type": "status", "sender_id": 5}', "sender_id"),
    (b'{"message_type": "register", "sender_id": "", "data": {}}', "sender_id"),
    (b'{"message_type": "register", "sender_id": "a b", "data": {}}', "id of a device"),
    (b'{"message_type": "register", "sender_id": "summary", "data": {}}', "id of a device"),
    (b'{"message_type": "status", "sender_id": "a", "data": [1]}', "data"),
    (b'{"message_type": "status", "sender_id": "a", "data": {"token": 5}}', "token"),
    (b'{"message_type": "heartbeat", "sender_id": "a", "data": {"metrics": 5}}', "metrics"),
    (b'{"message_type": "task_request", "sender_id": "a", "data": {"capabilities": 5}}', "capabilities"),
    (b'{"message_type": "status", "sender_id": "a", "data": {"role": 5}}', "role"),
    *[(f'{{"message_type": "{kind}", "sender_id": "a"}}'.encode(), "not served") for kind in
      ("task_submit", "task_cancel", "task_assign", "ack", "error")],
])  # fmt: skip
def test_what_is_wrong_is_an_error_reply_that_names_it(small: Fleet, text: bytes, word: str) -> None:
    said = checked(native.answer(text, HOME).data)
    assert said["message_type"] == "error" and word in said["data"]["error"]


def test_a_bad_frame_is_an_error_reply(small: Fleet) -> None:
    said = checked(native.answer(FrameError("too long"), HOME).data)
    assert (said["message_type"], said["data"]["error"]) == ("error", "too long")


def test_a_failure_inside_tells_nothing(small: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(_: Any) -> Any:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setitem(native._ANSWERS, "status", fails)
    assert Worker("a").refused("status") == "internal error"
    assert "status" in caplog.text


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20)
    | st.sampled_from(["phone", "task-0123456789abcdef", "success", "online", "\0", "x" * 2000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=8)
_data = st.dictionaries(
    st.sampled_from(["metrics", "status", "role", "device_id", "task_id", "result", "capabilities", "tags", "cpu_count", "token",
                     "memory_total_gb", "storage_total_gb", "platform", "platform_details", "supported_task_types",
                     "max_concurrent_tasks", "network_interfaces", "hostname", "has_gpu", "resource_usage", "detailed_log"]),
    _values, max_size=6) | _values
_metrics = st.fixed_dictionaries({"metrics": st.dictionaries(
    st.sampled_from(["cpu_usage", "memory_usage", "storage_usage", "network_bytes_sent", "battery_percent", "uptime_seconds"]),
    _values)})
_results = st.fixed_dictionaries({"result": st.fixed_dictionaries(
    {"task_id": _values, "status": st.sampled_from(["success", "failed", "timeout", "cancelled"]) | _values},
    optional={"result_data": _values, "error_message": _values, "execution_time_seconds": _values, "logs": _values})})


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(TYPES)) | _values, sender=st.sampled_from(["phone", "laptop", ""]) | _values,
       data=_data | _metrics | _results, message_id=_values)
def test_whatever_comes_there_is_a_known_reply(small: Fleet, kind: Any, sender: Any, data: Any, message_id: Any) -> None:
    text = json.dumps({"message_type": kind, "sender_id": sender, "message_id": message_id, "data": data}).encode()
    reply = native.answer(text, HOME)
    if reply.settle is not None:
        reply.settle(True)
    said = checked(reply.data)
    assert said["data"].get("error") != "internal error", text
    for question in ("status", "list_devices"):
        assert Worker("status-client").say(question)["message_type"] == "ack"


def test_the_nan_of_pythons_json_is_no_reason_to_refuse_a_heartbeat() -> None:
    reply = json.loads(native.answer(b'{"message_type": "nonsense", "sender_id": "d", "data": {"metrics": {"cpu_usage": NaN}}}',
                                     "127.0.0.1").data)
    assert "is not one of" in reply["data"]["error"]
