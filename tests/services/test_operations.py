"""Long work in steps: it survives a crash in each of them, waits, fails, is cancelled, and runs once at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from cloudsched.services import operations
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.services.operations import Later, Work
from cloudsched.store import db, events, migrations
from cloudsched.store import operations as store
from cloudsched.store.db import write


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def database(database_url: str) -> Iterator[None]:
    opened = db.open_database(database_url, synchronous="OFF")
    migrations.migrate(opened)
    yield
    opened.close()


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch, manual_clock: ManualClock) -> ManualClock:
    monkeypatch.setattr(clock, "now", manual_clock.now)
    return manual_clock


class Plan:
    """Three steps that note when they ran, and do as told."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.acts: dict[str, Callable[[], Any]] = {}
        operations.register("plan", [(name, self._step(name)) for name in ("a", "b", "c")])

    def _step(self, name: str) -> Callable[[Work], Any]:
        def step(told: Work) -> Any:
            self.ran.append(name)
            return self.acts.pop(name, lambda: None)()

        return step


@pytest.fixture
def plan(database: None, stepped: ManualClock) -> Plan:
    return Plan()


def crash() -> None:
    raise Crash


def test_all_steps_in_order(plan: Plan) -> None:
    number = operations.begin("plan", {"x": 1}, subject=("cloud", 3), actor="ada")
    assert operations.one(number)["state"] == "queued"
    assert operations.work("w1") == 1 and plan.ran == ["a", "b", "c"]
    done = operations.one(number)
    assert done["state"] == "succeeded" and {step["state"] for step in done["steps"]} == {"done"} and done["ended_at"]
    kinds = [event.kind for event in events.of([("operation", number)])]
    assert kinds == ["operation.create", "operation.start", *["operation.step"] * 3, "operation.succeed"]
    assert operations.work("w1") == 0


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_a_crash_in_each_step(plan: Plan, stepped: ManualClock, name: str) -> None:
    number = operations.begin("plan", {})
    plan.acts[name] = crash
    with pytest.raises(Crash):
        operations.work("w1")
    assert operations.work("w2") == 0  # its lease still holds
    stepped.advance(operations.LEASE_S + 1)
    assert operations.work("w2") == 1 and operations.one(number)["state"] == "succeeded"
    order = ["a", "b", "c"]
    at = order.index(name)
    assert plan.ran == [*order[:at + 1], *order[at:]]  # the step that died runs again, those before it do not


def test_a_crash_between_acting_and_recording(plan: Plan, stepped: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    number = operations.begin("plan", {})
    real = store.record
    monkeypatch.setattr(store, "record", lambda *_, **__: crash())
    with pytest.raises(Crash):
        operations.work("w1")
    monkeypatch.setattr(store, "record", real)
    stepped.advance(operations.LEASE_S + 1)
    operations.work("w2")
    assert plan.ran == ["a", "a", "b", "c"] and operations.one(number)["state"] == "succeeded"


def test_a_worker_that_lost_its_lease_writes_nothing(plan: Plan, stepped: ManualClock) -> None:
    number = operations.begin("plan", {})

    def slow() -> None:
        stepped.advance(operations.LEASE_S + 1)
        assert operations.work("w2") == 1

    plan.acts["a"] = slow
    operations.work("w1")
    assert plan.ran == ["a", "a", "b", "c"]
    assert [e.kind for e in events.of([("operation", number)])].count("operation.succeed") == 1


def test_waiting(plan: Plan, stepped: ManualClock) -> None:
    number = operations.begin("plan", {})
    plan.acts["b"] = lambda: Later(5, "two are left")
    operations.work("w1")
    assert operations.one(number)["steps"][1] == {"name": "b", "state": "waiting", "at": None, "detail": "two are left"}
    assert operations.work("w1") == 0
    stepped.advance(5)
    assert operations.work("w2") == 1 and operations.one(number)["state"] == "succeeded"


def test_failing_and_trying_again(plan: Plan, stepped: ManualClock) -> None:
    def away() -> None:
        raise Unavailable("the place is away")

    def wrong() -> None:
        raise Conflict("it cannot be")

    number = operations.begin("plan", {})
    plan.acts["a"] = away
    operations.work("w1")
    assert operations.one(number)["state"] == "running"
    stepped.advance(operations.RETRY_PAUSE_S)
    plan.acts["b"] = wrong
    operations.work("w1")
    failed = operations.one(number)
    assert (failed["state"], failed["error"], failed["steps"][1]["state"]) == ("failed", "it cannot be", "failed")


def test_an_unforeseen_error_fails_without_its_text(plan: Plan) -> None:
    def broken() -> None:
        raise ValueError("password=hunter2")

    number = operations.begin("plan", {})
    plan.acts["a"] = broken
    operations.work("w1")
    failed = operations.one(number)
    assert failed["state"] == "failed" and "hunter2" not in str(failed)


def test_cancel(plan: Plan, stepped: ManualClock) -> None:
    queued = operations.begin("plan", {})
    assert operations.cancel(queued, LOCAL_ADMIN)["state"] == "cancelled"
    running = operations.begin("plan", {})
    plan.acts["a"] = lambda: operations.cancel(running, LOCAL_ADMIN) and None
    operations.work("w1")
    assert operations.one(running)["state"] == "cancelled" and plan.ran == ["a"]
    with pytest.raises(Conflict):
        operations.cancel(running, LOCAL_ADMIN)
    with pytest.raises(NotFound):
        operations.cancel(99, LOCAL_ADMIN)
    with pytest.raises(Forbidden):
        operations.cancel(running, Caller("eve", "submitter"))


def test_bad_input(plan: Plan) -> None:
    with pytest.raises(Invalid):
        operations.begin("odd", {})
    with pytest.raises(Invalid):
        operations.page(states=["odd"])


def test_it_is_written_with_what_caused_it(plan: Plan) -> None:
    def undo(tx: Any) -> None:
        operations.begin("plan", {}, tx=tx)
        raise Conflict("no")

    with pytest.raises(Conflict):
        write(undo)
    assert operations.page() == []
