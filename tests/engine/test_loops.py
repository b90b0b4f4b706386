"""Do the loops go on, whatever happens? Exceptions, a database that is away, another engine, leases, beats."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloudsched import settings
from cloudsched.drivers import registry
from cloudsched.drivers.fake import FakeDriver
from cloudsched.engine.loops import Loop, LostLead, Runner, run_once
from cloudsched.engine.run import PRESENCE, Engine
from cloudsched.services import lifecycle, pool_views, snapshot
from cloudsched.store import clouds, events, nodes, shapes, system
from cloudsched.store.db import Database, Tx
from cloudsched.testing.factories import make_job

from .conftest import House

LIMIT_S = 20.0


def until(holds: Callable[[], object]) -> None:
    """Look again until it holds."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def runners(database: Database) -> Iterator[Callable[..., Runner]]:
    made: list[Runner] = []

    def make(holder: str, *loops: Loop, lease_s: float = 1.0) -> Runner:
        made.append(Runner(list(loops), holder=holder, lease_s=lease_s, presence=PRESENCE + holder))
        made[-1].start()
        return made[-1]

    yield make
    for runner in made:
        runner.stop()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_loop_survives_any_exception(runners: Callable[..., Runner]) -> None:
    problems = iter([ZeroDivisionError("nothing"), sqlite3.DatabaseError("odd"), OSError(28, "full"), KeyError("gone")])
    done: list[int] = []

    def tick() -> None:
        for problem in problems:
            raise problem
        done.append(1)

    runners("one", Loop("cleanup", 0.02, tick))
    until(lambda: len(done) >= 3)
    until(lambda: system.pulses()["cleanup"].last_cycle_at is not None)
    assert "KeyError" in system.pulses()["cleanup"].last_error


def test_a_cycle_that_fails_does_not_beat(light: House) -> None:
    light.database.write(lambda tx: system.start_loop(tx, "cleanup", interval_s=5, at=light.clock.now()))
    began = light.clock.now()
    light.clock.advance(5)
    assert run_once(Loop("cleanup", 5, lambda: None))
    assert system.pulses()["cleanup"].last_cycle_at == began + 5
    light.clock.advance(5)

    def fail() -> None:
        raise RuntimeError("no")

    assert not run_once(Loop("cleanup", 5, fail))
    pulse = system.pulses()["cleanup"]
    assert (pulse.last_cycle_at, pulse.last_error, pulse.last_error_at) == (began + 5, "RuntimeError: no", began + 10)


def test_the_loops_of_the_contract_are_there(light: House) -> None:
    names = {loop.name: loop.interval_s for loop in light.engine.runner.loops if loop.led}
    assert names == {"job_poller": 5, "machine_poller": 5, "node_poller": 5, "scheduler": 5, "cleanup": 5,
                     "upkeep": 1, "retention": 300, "sweep": 60, "log_runners": 1, "devices": 2, "centres": 5,
                     "dcluster": 0.5, "notices": 1, "cloud_nodes": 300}


def test_one_leads_and_another_takes_over(runners: Callable[..., Runner]) -> None:
    ran: list[str] = []
    first = runners("one", Loop("scheduler", 0.05, lambda: ran.append("one")))
    until(lambda: "one" in ran)
    runners("two", Loop("scheduler", 0.05, lambda: ran.append("two")))
    time.sleep(1.3)
    assert "two" not in ran
    assert {name for name, _, _, _ in system.leases()} >= {"scheduler", PRESENCE + "one", PRESENCE + "two"}
    first.stopping.set()  # silent, without giving anything back
    until(lambda: "two" in ran)
    last = len(ran)
    assert ran[:last].count("one") == ran.index("two")
    assert next(row[3] for row in system.leases() if row[0] == "scheduler") == 2


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_long_tick_keeps_its_lease(runners: Callable[..., Runner]) -> None:
    ran: list[str] = []
    go_on = threading.Event()
    runners("one", Loop("scheduler", 0.05, lambda: (ran.append("one"), go_on.wait(10))))
    until(lambda: ran)
    runners("two", Loop("scheduler", 0.05, lambda: ran.append("two")))
    time.sleep(1.6)
    go_on.set()
    assert ran == ["one"]


def test_a_leader_that_was_replaced_drops_its_plan(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit()
    house.database.write(lambda tx: system.take_lease(tx, "scheduler", "another", at=house.clock.now(), lease_s=60))
    with pytest.raises(LostLead):
        house.engine.job.schedule()
    assert not house.nodes()
    assert house.job(number).placed == 0
    house.database.write(lambda tx: system.take_lease(tx, "cleanup", "another", at=house.clock.now(), lease_s=60))
    with pytest.raises(LostLead):
        house.engine.job.clean_up()
    assert not run_once(Loop("cleanup", 5, house.engine.job.clean_up))
    house.clock.advance(61)
    house.database.write(lambda tx: system.take_lease(tx, "scheduler", house.engine.holder, at=house.clock.now(), lease_s=60))
    house.engine.job.schedule()
    assert len(house.nodes()) == 1


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)  # it alone can cut connections
def test_loops_go_on_after_the_connections_were_cut(runners: Callable[..., Runner], database: Database) -> None:
    import psycopg

    ran: list[int] = []

    def reads() -> None:
        shapes.known()
        with database.snapshot() as tx:
            assert tx.value("SELECT 1") == 1
        ran.append(len(nodes.live()))

    runners("one", Loop("scheduler", 0.05, reads), Loop("cleanup", 0.05, lambda: database.write(_touch)))
    until(lambda: len(ran) > 2)
    for _ in range(3):
        with psycopg.connect(database.url, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                          "AND pid <> pg_backend_pid()")
        before = len(ran)
        database.close_thread()
        until(lambda before=before: len(ran) > before + 2)  # type: ignore[misc]
    began = time.time()
    until(lambda: all((pulse.last_cycle_at or 0) > began for pulse in system.pulses().values()))


def test_loops_go_on_after_the_file_was_locked(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_database._writer.execute("PRAGMA busy_timeout = 50")
    ran: list[int] = []

    def writes() -> None:
        sqlite_database.write(_touch)
        ran.append(1)

    runner = Runner([Loop("cleanup", 0.05, writes)], holder="one", lease_s=2.0)
    runner.start()
    try:
        until(lambda: ran)
        other = sqlite3.connect(sqlite_database.url.removeprefix("sqlite:///"), isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        time.sleep(0.3)
        before = len(ran)
        time.sleep(0.3)
        assert len(ran) <= before + 1
        other.execute("ROLLBACK")
        other.close()
        until(lambda: len(ran) > before + 3)
    finally:
        runner.stop()


def _touch(tx: Tx) -> None:
    system.put_setting(tx, "touched", str(time.time()))


# two whole engines


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, FakeDriver]]:
    """Fake clouds that outlive every engine."""
    before = registry.factory("Fake")
    made: dict[str, FakeDriver] = {}
    registry.register("Fake", lambda place: made.setdefault(place.name, FakeDriver(place)))
    yield made
    registry.register("Fake", before)


@pytest.mark.postgres
@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_two_engines_on_one_database_double_nothing(database: Database, tmp_state: Path,
                                                    world: dict[str, FakeDriver]) -> None:
    pace = {f"engine.{name}_interval_s": 0.05 for name in ("job_poller", "machine_poller", "node_poller", "scheduler", "cleanup")}
    chosen = settings.load({"state": str(tmp_state), "database_url": database.url, "engine.lease_s": 1, **pace},
                           environ={"HOME": str(tmp_state)})
    snapshot.configure(chosen)
    for name in ("alpha", "beta"):
        database.write(lambda tx, name=name: clouds.insert(  # type: ignore[misc]
            tx, {"name": name, "kind": "Fake", "max_slots": 5, "enabled": 1}, at=time.time()))
    for count in range(10):
        make_job(user=f"user{count}", at=time.time())
    engines = [Engine(chosen), Engine(chosen)]
    for engine in engines:
        engine.start()
    try:
        until(lambda: len(nodes.live()) == 10 and all(node.state == "running" for node in nodes.live()))
        leader = _leader("scheduler")
        assert leader in {engine.holder for engine in engines}
        (dead,) = [engine for engine in engines if engine.holder == leader]
        dead.runner.stopping.set()  # as if killed: nothing is given back
        until(lambda: _leader("scheduler") not in (leader, None))
        for node in nodes.live()[:4]:
            database.write(lambda tx, node=node: lifecycle.stop(tx, node.id, at=time.time(), actor="", reason="test"))  # type: ignore[misc]
        until(lambda: len(nodes.select("state = 'gone'")) == 4)
        until(lambda: len(nodes.live()) == 10 and all(node.state == "running" for node in nodes.live()))
        assert sum(driver.counters["created"] for driver in world.values()) == 14
        assert _names(world) == sorted(node.name for node in nodes.live())
    finally:
        left = [engine.stop(destroy=engine is engines[1]) for engine in engines]
    assert left == [0, 0]
    assert _names(world) == []
    boots = [event.subject_id for event in events.since(0, kind="node.boot", limit=1000) if event.kind == "node.boot"]
    assert len(boots) == len(set(boots)) >= 14


def _names(world: dict[str, FakeDriver]) -> list[str]:
    return sorted(machine.name for driver in world.values() for machine in driver.machines())


def _leader(loop: str) -> str | None:
    now = time.time()
    return next((holder for name, holder, until, _ in system.leases() if name == loop and until > now), None)


# stopping


def test_nodes_with_credential_trouble_are_reported_as_left(light: House) -> None:
    light.add_cloud("alpha")
    light.submit(1)
    light.submit(1, vm_type="b")
    light.cycle()
    first, second = light.nodes()
    light.database.write(lambda tx: nodes.update(tx, first.id, override="ExpiredProxy"))
    assert light.engine.destroy_all(limit_s=10) == 1
    assert light.machines() == [first.name]
    assert light.node(second.id).state == "gone"


def test_pulses_of_processes_long_gone_are_forgotten(light: House) -> None:
    at = light.clock.now()
    light.database.write(lambda tx: system.start_loop(tx, "workers:dead", interval_s=0.1, at=at))
    light.database.write(lambda tx: system.start_loop(tx, "cleanup", interval_s=5, at=at))
    light.clock.advance(2 * 86400)
    light.engine.upkeep.forget()
    assert list(system.pulses()) == ["cleanup"]


def test_heart_beats_of_the_classic_dialect_find_their_loops(light: House) -> None:
    names = {loop.name for loop in light.engine.runner.loops}
    assert set(pool_views.LOOPS) <= names
