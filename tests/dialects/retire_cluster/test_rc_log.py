"""The event sequence as a log, on both databases: newest first, filters, and totals that stay true when events go."""

from __future__ import annotations

from typing import Any

from cloudsched.services import fleet_log
from cloudsched.store import eventlog, events
from cloudsched.store.db import write
from cloudsched.store.eventlog import Wanted


def happen(kind: str, subject: tuple[str, int], at: float) -> None:
    write(lambda tx: events.append(tx, kind, subject, at=at, node=1))


def test_newest_first_and_how_many(database: Any) -> None:
    for number in range(10):
        happen("job.submit" if number % 2 else "job.hold", ("job", number), 100.0 + number)
    found, total = fleet_log.entries(("job.submit",), limit=2)
    assert [event.subject_id for event in found] == [9, 7] and total == 5
    found, total = fleet_log.entries(("job.submit", "job.hold"), since=105.0, limit=100)
    assert [event.subject_id for event in found] == [9, 8, 7, 6, 5] and total == 5
    assert fleet_log.entries((), limit=5) == ([], 0)
    assert fleet_log.entries(("job.submit",), device_id="nobody", limit=5) == ([], 0)


def test_totals_follow(database: Any) -> None:
    kinds = ("job.submit",)
    for expected in (0, 1, 2, 3):
        assert fleet_log.entries(kinds, limit=1)[1] == expected
        happen("job.submit", ("job", expected), 100.0)
        happen("job.hold", ("job", expected), 100.0)
    write(lambda tx: tx.run("DELETE FROM event WHERE id <= 4"))
    assert fleet_log.entries(kinds, limit=1)[1] == 2
    happen("job.submit", ("job", 9), 100.0)
    assert fleet_log.entries(kinds, limit=1)[1] == 3


def test_one_device(database: Any) -> None:
    happen("device.online", ("node", 7), 1.0)
    happen("device.online", ("node", 8), 2.0)
    wanted = Wanted(("device.online", "job.submit"), nodes=[7], shapes=[3])
    assert [event.subject_id for event in eventlog.newest(wanted, limit=5)] == [7] and eventlog.count(wanted) == 1
    assert eventlog.nodes_called("nobody") == []
