"""Devices: who may come in, what a contact changes, liveness, lists, pings, removal; workers of the native protocol."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest

from cloudsched.domain import tasks as domain
from cloudsched.errors import Conflict, Forbidden, Gone, Invalid, NotFound, Unauthenticated
from cloudsched.services import agents, devices, fleet_config, joining, nodes, tasks
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store import events
from tests.fleet import Fleet

FAR = "192.0.2.7"


def kinds(prefix: str = "device.") -> list[str]:
    return [event.kind.removeprefix(prefix) for event in events.since(0, kind=prefix)]


# coming in


def test_a_device_joins_from_near_without_a_token(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    view = devices.get("phone")
    assert (view.node_id, view.online, view.role, view.os, view.cores, view.memory_gb, view.capacity) == (
        phone.node_id, True, "mobile", "android", 4, 8.0, 2)
    assert view.cloud == "devices" and view.via == "agent" and view.accepts_tasks and view.kinds == ("echo", "sleep")
    assert nodes.one("phone")["cloud"] == "devices" and kinds() == ["register", "online"]
    registered = view.registered_at
    fleet.clock.advance(10)
    again = fleet.join("phone", cores=8)
    view = devices.get("phone")
    assert again.node_id == phone.node_id and view.cores == 8 and view.registered_at == registered
    with pytest.raises(Unauthenticated):
        phone.sync()
    with pytest.raises(Unauthenticated):
        fleet.join("tablet", address=FAR)
    with pytest.raises(Invalid, match="device_id"):
        fleet.join("no spaces please")
    with pytest.raises(Invalid, match="device_id"):
        fleet.join("summary")


def test_names_that_no_node_can_have(small: Fleet) -> None:
    small.join("4711")
    assert nodes.one("device-4711")["state"] == "running" and devices.get("4711").device_id == "4711"
    devices.remove("4711", force=False, actor="me")
    assert small.join("4711").node_id and devices.get("4711").online
    small.join("phone")
    devices.remove("phone", force=False, actor="me")
    small.join("phone")
    assert nodes.one("device-phone")["state"] == "running" and devices.get("phone").device_id == "phone"


def test_tokens_and_networks(small: Fleet) -> None:
    small.set(**{"access.retire_cluster_networks": "192.0.2.0/24"})
    small.join("near", address=FAR)
    small.set(join_token="the right one")
    with pytest.raises(Unauthenticated):
        small.join("phone")
    with pytest.raises(Unauthenticated):
        small.join("phone", token="the wrong one")
    small.join("phone", token="the right one", address=FAR)
    small.set()  # no token is asked for any more, but this id was registered with one
    with pytest.raises(Forbidden):
        small.join("phone")
    with pytest.raises(Forbidden):
        small.register("phone")
    small.join("phone", token="the right one")
    pool = joining.new_pool_token(LOCAL_ADMIN, user="ada")["token"]
    tablet = small.join("tablet", token=pool, address=FAR)
    assert nodes.one("tablet")["cloud"] == "agents" and nodes.one("tablet")["user"] == "ada"
    assert small.join("tablet", token=pool, address=FAR).node_id == tablet.node_id
    with pytest.raises(Forbidden):
        small.join("tablet")


def test_workers_of_the_native_protocol_and_their_trust(small: Fleet) -> None:
    small.register("laptop")
    assert not devices.get("laptop").accepts_tasks and devices.get("laptop").via == "worker"
    with pytest.raises(Unauthenticated):
        small.register("far", address=FAR)
    small.set(allow_legacy_workers=True)
    small.register("far", address=FAR)
    assert devices.get("far").via == "legacy"
    with pytest.raises(Forbidden):
        small.ask("far", address=FAR)
    small.set(allow_legacy_workers=True, join_token="secret token")
    small.register("mine", token="secret token", address=FAR)
    assert small.ask("mine", token="secret token", address=FAR).task is None
    for call in (small.beat, small.ask):
        with pytest.raises(Forbidden):
            call("mine", address=FAR)
        with pytest.raises(Unauthenticated):
            call("mine", token="another", address=FAR)
    with pytest.raises(Forbidden):  # a stranger does not displace it
        small.register("mine", address=FAR)
    assert small.beat("laptop").known
    with pytest.raises(Forbidden):
        small.ask("laptop")
    small.set()
    phone = small.join("phone")
    with pytest.raises(Conflict):
        small.register("phone")
    small.clock.advance(1000)
    small.register("phone")
    with pytest.raises(Unauthenticated):
        phone.sync()


def test_what_strangers_send_is_made_fit(small: Fleet) -> None:
    small.register("odd", cpu_count=None, memory_total_gb="lots", tags=["a", 7, "b\0"], platform_details=[1], note="x" * 5000,
                   capabilities={"computational": ["gpu_compute"], "services": "no"}, max_concurrent_tasks=-3)
    view = devices.get("odd")
    assert (view.cores, view.memory_gb, view.capacity, view.has_gpu) == (0, 0.0, 2, True)
    assert view.tags == ("a", "b\ufffd") and len(view.profile["note"]) == 1000 and view.capabilities == ("computational",)
    assert small.beat("odd", cpu_usage=float("nan"), memory_usage=101, storage_usage=20, x=float("inf")).known
    view = devices.get("odd")
    assert (view.cpu_usage, view.memory_usage, view.disk_usage) == (0.0, 0.0, 20.0)
    with pytest.raises(Invalid):
        small.register("bad id")
    assert small.beat("nobody").known is False
    with pytest.raises(NotFound):
        small.ask("nobody")


def test_android_below_linux_and_derived_figures(small: Fleet) -> None:
    small.register("termux", platform="linux", platform_details={"is_android": True, "machine": "aarch64"},
                   capabilities={"computational": ["x"], "services": ["y"], "automation": []}, storage_total_gb=128.0)
    small.beat("termux", cpu_usage=42.5, memory_usage=20, storage_usage=35.625, battery_percent=85, battery_charging=False,
               uptime_seconds=86400)
    view = devices.get("termux")
    assert view.os == "android" and view.arch == "aarch64" and view.capabilities == ("computational", "network_services")
    assert (view.memory_used_gb, view.storage_used_gb, view.uptime_s) == (3.2, 45.6, 86400)
    assert view.battery == {"level": 85, "charging": False} and view.heartbeats == 1


# being there


def test_online_offline_and_back(fleet: Fleet) -> None:
    fleet.join("phone")
    fleet.register("laptop")
    fleet.clock.advance(300)
    assert devices.get("laptop").online
    fleet.beat("laptop")
    fleet.clock.advance(0.5)
    found = devices.listed()
    assert [(one.device_id, one.online) for one in found.items] == [("laptop", True), ("phone", False)]
    assert (found.total, found.online, found.offline) == (2, 1, 1)
    assert [one.device_id for one in devices.listed(status="offline").items] == ["phone"]
    assert devices.get("phone").uptime_s == 0.0
    fleet_config.change({"cluster": {"offline_threshold": 600}}, actor="me")
    assert devices.get("phone").online  # in force at once
    fleet.clock.advance(700)
    fleet.beat("laptop")  # nobody had noticed that it was away
    assert kinds()[-2:] == ["offline", "online"] and devices.get("laptop").online


def test_lists_are_filtered_and_sorted(small: Fleet) -> None:
    for name, cpu, memory, tags in (("b", 10, 90, ["x", "y"]), ("a", 10, 10, ["x"]), ("c", 80, 20, [])):
        agent = small.join(name, tags=tags, role="mobile" if name == "c" else "compute")
        small.clock.advance(1)
        agent.sync(metrics={"cpu_usage": cpu, "memory_usage": memory})

    def ids(**wanted: Any) -> list[str]:
        return [one.device_id for one in devices.listed(**wanted).items]

    assert ids() == ["a", "b", "c"] and ids(sort="cpu") == ["c", "a", "b"] and ids(sort="memory") == ["b", "c", "a"]
    assert ids(sort="last_seen") == ["c", "a", "b"] and ids(tags=["x", "y"]) == ["b"] and ids(role="MOBILE") == ["c"]
    assert ids(os="android", limit=1, offset=1) == ["b"] and ids(os="linux") == [] and ids(role="all", limit=2) == ["a", "b"]
    assert devices.listed(role="compute", limit=1).total == 2
    assert [one.device_id for one in devices.updates(small.clock.now() - 1.5)] == ["a", "c"]
    with pytest.raises(Invalid):
        devices.listed(sort="size")
    found = devices.summary()
    assert found["by_role"] == {"compute": 2, "mobile": 1} and found["resource_totals"]["cpu_cores"] == 12
    assert found["capabilities"] == {"gpu_enabled": 0, "mobile_devices": 1, "server_grade": 0}


def test_ordinary_machines_are_shown_too(small: Fleet) -> None:
    token = joining.new_pool_token(LOCAL_ADMIN)["token"]
    small.join(None, token=token, name="box")
    view = devices.get("box")
    assert view.via == "machine" and view.online and view.role == "mobile"
    with pytest.raises(Conflict):
        small.join("box")
    nodes.destroy("box", LOCAL_ADMIN)
    assert devices.get("box").state == "stopping"


# the agent's channel


def test_a_ping_goes_over_the_agents_own_channel(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    done = threading.Event()

    def answer() -> None:
        while not done.is_set():
            ids = phone.sync(wait_s=1).ping
            if ids:
                phone.sync(pong=ids)
            time.sleep(0.01)
        fleet.database.close_thread()

    thread = threading.Thread(target=answer)
    thread.start()
    found = devices.ping("phone", count=3, timeout_s=20)
    done.set()
    thread.join()
    assert found.reachable and found.packet_loss == 0.0 and [one.seq for one in found.results] == [1, 2, 3]
    assert found.average_latency_ms == 0.0  # by the stepped clock
    lost = devices.ping("phone", count=2, timeout_s=0.1)
    assert (lost.reachable, lost.packet_loss, lost.average_latency_ms, lost.results) == (False, 100.0, None, [])


def test_pings_of_workers_and_of_those_that_are_away(small: Fleet) -> None:
    small.register("laptop")
    found = devices.ping("laptop", count=2, timeout_s=5)
    assert found.reachable and len(found.results) == 2  # a refused connection is an answer
    small.clock.advance(1000)
    assert devices.ping("laptop", count=20, timeout_s=30).packet_loss == 100.0
    with pytest.raises(NotFound):
        devices.ping("nobody")


def test_an_upgrade_is_told_once_and_then_kept_in_mind(small: Fleet) -> None:
    phone = small.join("phone")
    offered = agents.upgrade(phone.node_id, caller=LOCAL_ADMIN)
    first = phone.sync(wait_s=1)
    assert first.upgrade == offered and first.news
    assert phone.sync().upgrade == offered and not phone.sync().news
    fresh = small.join("phone")
    assert fresh.sync().upgrade is None
    small.register("laptop")
    with pytest.raises(Conflict):
        agents.upgrade(devices.get("laptop").node_id, caller=LOCAL_ADMIN)


def test_checkpoints_come_back_with_the_next_attempt(fleet: Fleet) -> None:
    phone, tablet = fleet.join("phone"), fleet.join("tablet")
    fleet.submit("sleep")
    (job,) = phone.claim()
    phone.sync(holding=[[job.id, job.attempt]], progress=[[job.id, job.attempt, {"step": 1}]])
    phone.sync(holding=[[job.id, job.attempt]], progress=[[job.id, job.attempt, {"step": 2}], [job.id, 99, {"step": 3}]])
    with pytest.raises(Invalid, match="progress"):
        phone.sync(progress=[[job.id, job.attempt, "x" * 70_000]])
    fleet.clock.advance(10)
    phone.sync()  # it does not hold it any more
    (again,) = tablet.claim()
    assert json.loads(again.spec)["checkpoint"] == {"step": 2} and again.attempt == 2


# workers


def test_a_worker_takes_and_returns_tasks(fleet: Fleet) -> None:
    fleet.register("laptop")
    task, other = fleet.submit("echo", {"message": "hi"}, requirements={"min_cpu_cores": 8}), fleet.submit("sleep")
    claimed = fleet.ask("laptop", supported_task_types=["echo"])
    told = claimed.task
    assert (told["task_id"], told["task_type"], told["priority"], told["assigned_device_id"]) == (task, "echo", 2, "laptop")
    assert set(told["requirements"]) == {
        "min_cpu_cores", "min_memory_gb", "min_storage_gb", "required_platform", "required_role", "required_tags", "gpu_required",
        "internet_required", "timeout_seconds", "max_retries"} and told["created_at"].endswith("+00:00")
    assert fleet.word(task) == "running" and fleet.ask("laptop").task is None and fleet.word(other) == "queued"
    assert devices.task_word("laptop", task, address="127.0.0.1") == "running"
    assert devices.task_word("laptop", other, address="127.0.0.1") is None
    done = fleet.report("laptop", task, result_data={"echo": {"message": "hi"}}, execution_time_seconds=1.25)
    view = tasks.get(task)
    assert done.success and not done.dropped and (view.word, view.execution_s) == ("success", 1.25)
    assert view.result == {"echo": {"message": "hi"}, "output": "hi", "exit_code": 0}
    assert devices.get("laptop").completed == 1 and devices.get("laptop").active == 0
    assert fleet.report("laptop", task).dropped and not fleet.report("laptop", other).success
    with pytest.raises(Invalid):
        fleet.report("laptop", task, "finished")


def test_a_worker_gets_no_more_than_it_has_room_for(small: Fleet) -> None:
    small.register("laptop", max_concurrent_tasks=2)
    for _ in range(4):
        small.submit("echo")
    taken = [small.ask("laptop").task for _ in range(4)]
    assert [one is not None for one in taken] == [True, True, False, False]
    claimed = devices.request_work("laptop", {}, address="127.0.0.1")
    assert claimed.task is None
    small.report("laptop", taken[0]["task_id"], "failed", error_message="no luck", result_data={"x": float("nan")})
    view = tasks.get(taken[0]["task_id"])
    assert view.word == "failed" and view.error == "no luck" and view.result == {"output": "", "exit_code": 1, "error": "no luck"}
    assert devices.get("laptop").failed == 1 and devices.get("laptop").last_error == "no luck"
    lost = devices.request_work("laptop", {}, address="127.0.0.1")
    devices.undelivered(lost)
    assert small.word(lost.task["task_id"]) == "queued"


def test_a_worker_is_told_what_was_cancelled(small: Fleet) -> None:
    small.register("laptop")
    task = small.submit("sleep")
    small.ask("laptop")
    assert tasks.cancel(task, caller=LOCAL_ADMIN) is True
    assert small.beat("laptop").cancel == [task] and small.ask("laptop").cancel == [task]
    assert devices.task_word("laptop", task, address="127.0.0.1") == "cancelled"
    assert small.report("laptop", task).dropped and small.word(task) == "cancelled"
    assert small.beat("laptop").cancel == []


def test_large_results_are_cut(small: Fleet) -> None:
    small.register("laptop")
    task = small.submit("http_request")
    small.ask("laptop")
    small.report("laptop", task, result_data={"status_code": 200, "content": "x" * 3_000_000})
    view = tasks.get(task)
    assert view.result is not None and view.result["truncated"] is True and len(view.result["output"]) == 1 << 19
    assert view.result_data["status_code"] == 200


# removing


def test_removal(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    active, pinned, free = fleet.submit("echo", priority="urgent"), fleet.submit("echo", device_id="phone"), fleet.submit("echo")
    (job,) = phone.claim()
    assert domain.task_id(job.id) == active
    with pytest.raises(Conflict) as caught:
        devices.remove("phone", force=False, actor="me")
    assert caught.value.details == {"code": "DEVICE_BUSY", "device_id": "phone", "active_tasks": 1}
    removed = devices.remove("phone", force=True, actor="me")
    assert removed.cancelled == 2 and removed.was_online
    assert [fleet.word(task) for task in (active, pinned, free)] == ["cancelled", "cancelled", "queued"]
    with pytest.raises(Gone):
        phone.sync()
    with pytest.raises(NotFound):
        devices.get("phone")
    assert kinds()[-1] == "remove" and devices.ids_of([phone.node_id]) == {phone.node_id: "phone"}
    assert tasks.get(active).device_id == "phone"
    fleet.register("laptop")
    devices.remove("laptop", force=False, actor="me")
    assert not fleet.beat("laptop").known
    assert fleet.register("laptop").new


def test_a_registration_outlives_a_restart(small: Fleet) -> None:
    small.register("laptop")
    small.beat("laptop", cpu_usage=5)
    small.set()
    assert small.beat("laptop", cpu_usage=6).known and devices.get("laptop").heartbeats == 2


