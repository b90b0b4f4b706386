"""What happens by itself to devices and their tasks: going offline, losing tasks, time limits, and what is taken away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.domain import tasks as domain
from cloudsched.engine.run import Engine
from cloudsched.services import devices, fleet_config, joining, nodes, ratelimits, tasks
from cloudsched.services.caller import LOCAL_ADMIN
from cloudsched.store import events, system
from cloudsched.store.db import Database, write
from tests.fleet import Fleet, made


@pytest.fixture
def fleet(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    yield from made(database, tmp_state, monkeypatch)


@pytest.fixture
def small(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


def told(kind: str) -> list[str]:
    return [event.kind for event in events.since(0, kind=kind)]


def test_the_engine_has_the_loop(small: Fleet) -> None:
    engine = Engine(small.settings)
    (loop,) = [loop for loop in engine.runner.loops if loop.name == "devices"]
    assert loop.interval_s <= 5
    loop.tick()


def test_transitions_are_told_within_a_cycle(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    fleet.register("laptop")
    fleet.clock.advance(300)
    fleet.loop.tick()
    assert "device.offline" not in told("device.")
    fleet.clock.advance(0.1)
    fleet.loop.tick()
    fleet.loop.tick()
    assert told("device.offline") == ["device.offline"] * 2
    phone.sync()
    assert told("device.")[-1] == "device.online" and devices.get("phone").online_since == fleet.clock.now()


def test_a_device_keeps_its_tasks_until_it_is_offline(fleet: Fleet) -> None:
    phone, tablet = fleet.join("phone"), fleet.join("tablet")
    task = fleet.submit("sleep", timeout=3600)
    (job,) = phone.claim()
    engine = Engine(fleet.settings)
    engine.upkeep._started_at = fleet.clock.now() - 1000
    fleet.clock.advance(200)  # an ordinary machine would have lost it after 60 s
    engine.upkeep.lost()
    fleet.loop.tick()
    assert fleet.word(task) == "assigned"
    fleet.clock.advance(101)
    tablet.sync()
    fleet.loop.tick()
    view = tasks.get(task)
    assert view.word == "queued" and view.retry_count == 1 and "offline" in view.error_history[0]
    (again,) = tablet.claim()
    assert again.id == job.id and again.attempt == 2
    reply = phone.sync(holding=[[job.id, job.attempt]], done=[{"id": job.id, "attempt": 1, "state": "succeeded"}])
    assert reply.refused == [(job.id, 1)] and fleet.word(task) == "assigned"
    tablet.done(again)
    assert fleet.word(task) == "success" and tasks.get(task).device_id == "tablet"


def test_ordinary_machines_lose_theirs_after_a_lease(small: Fleet) -> None:
    token = joining.new_pool_token(LOCAL_ADMIN)["token"]
    box = small.join(None, token=token, name="box")
    task = small.submit("sleep")
    box.claim()
    engine = Engine(small.settings)
    engine.upkeep._started_at = small.clock.now() - 1000
    small.clock.advance(61)
    engine.upkeep.lost()
    assert small.word(task) == "queued"


def test_after_a_restart_devices_have_time_to_report(small: Fleet) -> None:
    small.register("laptop")
    task = small.submit("sleep", timeout=3600)
    small.ask("laptop")
    small.clock.advance(1000)
    write(lambda tx: system.put_setting(tx, "serving_since", str(small.clock.now())))
    small.loop.tick()
    assert small.word(task) == "running"
    assert small.beat("laptop").known
    small.clock.advance(299)
    small.loop.tick()
    assert small.word(task) == "running"
    small.clock.advance(10)
    small.loop.tick()
    assert small.word(task) == "queued"
    small.register("laptop")
    assert small.beat("laptop").cancel == [task]  # its worker may still be at it
    assert small.report("laptop", task).dropped


@pytest.mark.parametrize(("asked", "losses"), [({}, 3), ({"max_retries": 0}, 0), ({"max_retries": 1}, 1)])
def test_a_task_is_lost_only_so_often(small: Fleet, asked: dict[str, int], losses: int) -> None:
    task = small.submit("sleep", requirements=asked, timeout=3600)
    for _ in range(losses + 1):
        small.register("laptop")
        assert small.ask("laptop").task is not None
        small.clock.advance(301)
        small.loop.tick()
    view = tasks.get(task)
    assert (view.word, view.retry_count, view.error) == ("failed", losses, "the device went offline")
    assert devices.get("laptop").failed == 1


def test_overdue_tasks_are_ended_by_the_server(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    fleet.register("laptop")
    ours = fleet.submit("sleep", timeout=30, device_id="phone")
    (job,) = phone.claim()
    phone.sync(started=[[job.id, job.attempt, 0]], holding=[[job.id, job.attempt]])
    theirs = fleet.submit("sleep", timeout=30, requirements={"max_retries": 1})
    fleet.ask("laptop")
    fleet.clock.advance(40)
    fleet.loop.time_out()
    assert fleet.word(ours) == fleet.word(theirs) == "running"
    fleet.clock.advance(0.5)
    fleet.loop.time_out()
    assert fleet.word(ours) == "timeout" and fleet.word(theirs) == "queued"
    view = tasks.get(ours)
    assert view.error == "the task took longer than 30 s" and view.document_word == "failed" and view.execution_s == 40.5
    assert phone.sync(holding=[[job.id, job.attempt]]).drop == [(job.id, job.attempt)]
    assert fleet.beat("laptop").cancel == [theirs]
    assert fleet.ask("laptop").task["task_id"] == theirs


def test_the_longest_time_limit_is_configured(small: Fleet) -> None:
    fleet_config.change({"cluster": {"task_timeout": 20}}, actor="me")
    assert tasks.get(small.submit("sleep", timeout=600)).timeout_s == 20


def test_a_node_that_ends_takes_its_device_along(fleet: Fleet) -> None:
    fleet.join("phone")
    task = fleet.submit("echo", device_id="phone")
    node = nodes.find("phone")
    fleet.database.write(lambda tx: tx.run("UPDATE node SET state = 'gone' WHERE id = ?", (node.id,)))
    fleet.loop.tick()
    assert told("device.")[-1] == "device.remove" and fleet.word(task) == "cancelled"
    assert fleet.join("phone").node_id != node.id


def test_counters_probes_and_old_tasks_go(fleet: Fleet) -> None:
    phone = fleet.join("phone")
    task, batch = fleet.submit("echo"), fleet.submit("sleep")
    for job in phone.claim(2):
        phone.sync(progress=[[job.id, job.attempt, 1]], holding=[[job.id, job.attempt]])
        if domain.task_id(job.id) == task:
            phone.done(job)
    ratelimits.count("somebody", "read", limit=5, window_s=60)
    assert ratelimits.take_stream("somebody", limit=1)
    fleet.clock.advance(31 * 86400)
    fleet.loop.tidy()
    fleet.loop.forget()
    counts = {name: fleet.database.read().value(f"SELECT count(*) FROM {name}")
              for name in ("rate_window", "stream_place", "device_ping", "job_checkpoint", "job")}
    assert counts == {"rate_window": 0, "stream_place": 0, "device_ping": 0, "job_checkpoint": 1, "job": 1}
    assert tasks.get(batch).task_id == batch
