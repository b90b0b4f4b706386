"""Metering: every hour once, at the prices of its time, however late; budgets that are noted, refuse and stop."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.errors import Invalid
from cloudsched.services.centre import metering, parts
from cloudsched.services.centre.metering import BudgetSpent
from cloudsched.store import events
from cloudsched.store import metering as store
from cloudsched.store.db import Database, read, write

CENTRE = "centre-1"
HOUR = 3600
# The first of a month, so that hours and months begin together.
START = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
HELD = '[["cpu", "X", 1500], ["gpu", "A", 2]]'
YUAN = 10**9


@pytest.fixture
def stepped(database: Database, monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock at the beginning of a month; a core costs 2 元 an hour, a card 3 分 a minute."""
    return begin(monkeypatch)


@pytest.fixture
def small(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ManualClock]:
    """The same on SQLite alone."""
    yield begin(monkeypatch)
    metering._stops.clear()


def begin(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    time = ManualClock(START)
    monkeypatch.setattr(clock, "now", time.now)
    parts.add(CENTRE, kind="cpu", model="X", unit_price="2", actor="t")
    parts.add(CENTRE, kind="gpu", model="A", unit_price="3", charge_unit="分钟", account_unit="分", actor="t")
    return time


def period(instance: str, began: float, ended: float | None, *, org: str = "acme", held: str = HELD) -> None:
    write(lambda tx: tx.run(
        "INSERT INTO instance_period (instance_key, org, centre_key, cluster_key, amounts, began_at, ended_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)", (instance, org, CENTRE, "c1", held, START + began,
                                         None if ended is None else START + ended)))


def end(instance: str, at: float) -> None:
    write(lambda tx: tx.run("UPDATE instance_period SET ended_at = ? WHERE instance_key = ? AND ended_at IS NULL",
                            (START + at, instance)))


def rows() -> list[tuple[Any, ...]]:
    return read().all("SELECT hour, instance, org, seconds, cpu_s, gpu_s, cost_nano FROM usage_hour ORDER BY hour, instance")


def run_to(time: ManualClock, at: float) -> int:
    time.advance(START + at - time.now())
    done = 0
    while (found := metering.tick()).hours:
        done += found.rows
    return done


# 1.5 cores at 2 元, and 2 cards at 60 x 3 分.
FULL = 3 * YUAN + 3_600_000_000


def test_whole_and_broken_hours(stepped: ManualClock) -> None:
    period("a", 900, None)
    period("b", 0, 1800, org="beta")
    period("b", 2700, 3000, org="beta", held='[["cpu", "X", 4000]]')
    assert run_to(stepped, 2 * HOUR + metering.GRACE_S) == 3
    assert rows() == [
        (START, "a", "acme", 2700, 1500 * 2700, 2 * 2700, FULL * 3 // 4),
        (START, "b", "beta", 2100, 1500 * 1800 + 4000 * 300, 2 * 1800, FULL // 2 + 2 * YUAN * 4 // 12 + 1),
        (START + HOUR, "a", "acme", 3600, 1500 * 3600, 2 * 3600, FULL),
    ]
    kept = json.loads(read().value("SELECT parts FROM usage_hour WHERE instance = 'b'"))
    assert kept == [["cpu", "X", 3_900_000, 2_166_666_667], ["gpu", "A", 3600, 1_800_000_000]]
    assert write(lambda tx: store.month_cost(tx, "acme", "2026-03")) == FULL * 7 // 4


def test_each_hour_once_whoever_ticks_and_however_late(database: Database, stepped: ManualClock) -> None:
    period("a", 0, None)
    stepped.advance(30 * HOUR + metering.GRACE_S)
    together = threading.Barrier(4)

    def work() -> None:
        together.wait(30)
        while metering.tick().hours:
            pass
        database.close_thread()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run_to(stepped, 30 * HOUR + metering.GRACE_S) == 0
    assert [row[0] for row in rows()] == [START + number * HOUR for number in range(30)]
    assert write(lambda tx: store.month_cost(tx, "acme", "2026-03")) == 30 * FULL


def test_not_before_its_grace_is_over(small: ManualClock) -> None:
    period("a", 0, None)
    assert run_to(small, HOUR + metering.GRACE_S - 1) == 0
    assert run_to(small, HOUR + metering.GRACE_S) == 1


def test_a_long_pause_in_which_nothing_ran_is_one_step(small: ManualClock) -> None:
    period("a", 0, 1800)
    run_to(small, 2 * HOUR)
    period("b", 9000 * HOUR, None)
    small.advance(START + 9001 * HOUR + metering.GRACE_S - small.now())
    assert metering.tick().rows == 1
    assert [row[1] for row in rows()] == ["a", "b"]


def test_each_second_at_the_price_of_its_time(small: ManualClock) -> None:
    period("a", 0, None, held='[["cpu", "X", 1000]]')
    small.advance(1200)
    parts.set_price(CENTRE, kind="cpu", model="X", unit_price="5", actor="t")
    run_to(small, HOUR + metering.GRACE_S)
    assert rows()[0][-1] == round((2 / 3 + 5 * 2 / 3) * YUAN)


def test_what_a_part_cost_is_known_when_it_is_gone(small: ManualClock) -> None:
    period("a", 0, HOUR, held='[["cpu", "X", 1000], ["cpu", "never", 1000]]')
    small.advance(HOUR)
    parts.remove(CENTRE, parts.find(CENTRE, kind="cpu", model="X").key, actor="t")
    run_to(small, HOUR + metering.GRACE_S)
    assert rows()[0][-1] == 2 * YUAN


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 5 * HOUR), st.integers(0, 3 * HOUR)), min_size=1, max_size=5),
       st.lists(st.integers(0, 9 * HOUR), max_size=4))
def test_the_sum_of_the_hours_is_what_ran(small: ManualClock, spans: list[tuple[int, int]], ticks: list[int]) -> None:
    for table in ("usage_hour", "usage_month", "instance_period", "counter"):
        where = " WHERE name = 'metered_until'" if table == "counter" else ""
        write(lambda tx, table=table, where=where: tx.run(f"DELETE FROM {table}{where}"))
    small.advance(START - small.now())
    for number, (began, length) in enumerate(spans):
        period(f"i{number}", began, began + length)
    for at in sorted(ticks):
        run_to(small, at)
    run_to(small, 10 * HOUR + metering.GRACE_S)
    ran = sum(length for _, length in spans)
    found = rows()
    assert sum(row[3] for row in found) == ran
    assert sum(row[4] for row in found) == 1500 * ran
    assert abs(sum(row[6] for row in found) - FULL * ran / HOUR) <= 2 * len(found)
    assert sum(row[6] for row in found) == write(lambda tx: store.month_cost(tx, "acme", "2026-03"))


# budgets


def budget(**values: Any) -> None:
    metering.set_budget("acme", **{"amount": "10", "actor": "t", **values})


def test_a_budget_counts_what_runs_now(stepped: ManualClock) -> None:
    budget()
    period("a", 0, None)
    write(lambda tx: metering.check_budget(tx, "acme"))
    stepped.advance(1.5 * HOUR)
    assert metering.spending("acme").spent_nano == FULL * 3 // 2
    run_to(stepped, 1.5 * HOUR)
    assert metering.spending("acme").spent_nano == FULL * 3 // 2, "metered or not, it is the same"
    stepped.advance(HOUR)
    with pytest.raises(BudgetSpent, match=r"acme for 2026-03 is spent: 16\.5 of 10 yuan"):
        write(lambda tx: metering.check_budget(tx, "acme"))
    write(lambda tx: metering.check_budget(tx, "others"))
    budget(hard=False)
    write(lambda tx: metering.check_budget(tx, "acme"))
    budget(amount="")
    assert metering.budgets() == []


def test_a_new_month_begins_at_nothing(small: ManualClock) -> None:
    budget(amount=1)
    period("a", 31 * 86400 - 2 * HOUR, None)
    run_to(small, 31 * 86400 + 900)
    assert metering.spending("acme").month == "2026-04"
    assert metering.spending("acme").spent_nano == FULL // 4
    assert write(lambda tx: store.month_cost(tx, "acme", "2026-03")) == 2 * FULL


def test_it_is_noted_once_and_what_runs_is_stopped_when_that_is_wanted(small: ManualClock) -> None:
    asked: list[str] = []

    def stop(org: str) -> int:
        asked.append(org)
        return 1

    metering.on_overspent(stop)
    metering.on_overspent(stop)
    budget(amount=FULL / YUAN, warn_percent=50)
    period("a", 0, None)
    found = [(small.advance(900), metering.tick())[1] for _ in range(5)]
    assert [(one.warned, one.spent) for one in found] == [((), ()), (("acme",), ()), ((), ()), ((), ("acme",)), ((), ())]
    assert asked == []
    budget(amount=FULL / YUAN, stop=True)
    small.advance(60)
    assert metering.tick().stopped == 1 and asked == ["acme"]
    assert metering.tick().stopped == 0, "looked at once a minute"
    kinds = [event.kind for event in events.since(0) if event.kind.startswith("budget")]
    assert kinds == ["budget.set", "budget.warn", "budget.spent", "budget.set", "budget.warn", "budget.spent"]


@pytest.mark.parametrize(("wrong", "field"), [
    ({"amount": "-1"}, "amount"), ({"amount": "x"}, "amount"), ({"warn_percent": 0}, "warn"), ({"warn_percent": 101}, "warn"),
    ({"stop": True, "hard": False}, "stop"),
])
def test_what_is_no_budget(small: ManualClock, wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}"):
        budget(**wrong)
    with pytest.raises(Invalid, match=r"^orgid"):
        metering.set_budget("", amount=1, actor="t")


def test_a_budget_only_tried(small: ManualClock) -> None:
    assert metering.set_budget("acme", amount=5, actor="t", dry_run=True).budget is not None
    assert metering.spending("acme").budget is None


# reading


def test_use_put_together(stepped: ManualClock) -> None:
    period("a", 0, 30 * HOUR)
    period("b", 0, HOUR, org="beta", held='[["memory", "M", 512]]')
    run_to(stepped, 40 * HOUR)
    days = metering.usage(org="acme", by="day")
    assert [(row["at"], row["instance"], row["seconds"], row["core_hours"], row["gpu_hours"]) for row in days["rows"]] == [
        (START, "a", 86400, 36, 48), (START + 86400, "a", 6 * HOUR, 9, 12)]
    assert (days["total"], days["cost_nano"]) == (2, 30 * FULL)
    both = metering.usage(org=None, by="org")
    assert [(row["org"], row["memory_gi_hours"]) for row in both["rows"]] == [("acme", 0), ("beta", 0.5)]
    hours = metering.usage(org="acme", by="hour", limit=10, offset=25)
    assert (hours["total"], len(hours["rows"]), hours["rows"][0]["at"]) == (30, 5, START + 25 * HOUR)
    assert metering.usage(org=None, by="cluster", since=START + HOUR, until=START + 2 * HOUR)["cost_nano"] == FULL
    assert metering.usage(org=None, by="instance", instance="b")["total"] == 1
    assert metering.usage(org="nobody", by="hour") == {"total": 0, "cost_nano": 0, "rows": []}
    with pytest.raises(Invalid, match="by"):
        metering.usage(org=None, by="year")
    with pytest.raises(Invalid, match="to"):
        metering.usage(org=None, by="day", since=START, until=START - 1)


def test_export(small: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    period("a", 0, 1.5 * HOUR, org="=cmd")
    run_to(small, 3 * HOUR)
    lines = list(csv.DictReader(io.StringIO(metering.export(org="=cmd"))))
    assert len(lines) == 4 and lines[0] == {
        "hour": "2026-03-01T00:00:00.000Z", "org": "'=cmd", "instance": "a", "centre": CENTRE, "cluster": "c1", "type": "cpu",
        "model": "X", "unit": "core_hours", "amount_hours": "1.500000", "cost_yuan": "3", "unpriced": ""}
    assert lines[3]["cost_yuan"] == "1.8" and lines[3]["amount_hours"] == "1.000000"
    assert metering.export(org="nobody").splitlines() == [",".join(metering._EXPORT)]
    monkeypatch.setattr(metering, "EXPORT_ROWS", 1)
    with pytest.raises(Invalid, match="too many"):
        metering.export(org=None)
