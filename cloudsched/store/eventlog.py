"""How is the event sequence read as a log? Newest first, by kinds, device and time, with the number of all matches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.store.db import Row, read
from cloudsched.store.events import COLUMNS, Event


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events. `nodes`: those of these machines and of their jobs, `shapes`: of jobs of these shapes too; None: of all."""

    kinds: Sequence[str]
    nodes: Sequence[int] | None = None
    shapes: Sequence[int] = ()
    since: float | None = None


def newest(wanted: Wanted, *, limit: int) -> list[Event]:
    """The last `limit` matches, newest first."""
    where, args = _where(wanted)
    sql = f"SELECT {COLUMNS} FROM event WHERE {where} ORDER BY id DESC LIMIT ?"
    return [Event(*row) for row in read().all(sql, (*args, limit))]


def count(wanted: Wanted, *, after: int = 0, until: int | None = None) -> int:
    """How many there are with an id above `after`, up to `until`."""
    where, args = _where(wanted)
    where, args = where + " AND id > ?", [*args, after]
    if until is not None:
        where, args = where + " AND id <= ?", [*args, until]
    return int(read().value(f"SELECT count(*) FROM event WHERE {where}", tuple(args)) or 0)


def nodes_called(device_id: str) -> list[int]:
    """All machines that have or had this id, as devices or by name."""
    found: list[Row] = read().all("SELECT node_id FROM device WHERE device_id = ? UNION SELECT id FROM node WHERE name = ?",
                                  (device_id, device_id))
    return [int(row[0]) for row in found]


def _where(wanted: Wanted) -> tuple[str, list[Any]]:
    where, args = f"kind IN ({_marks(wanted.kinds)})", [*wanted.kinds]  # type: tuple[str, list[Any]]
    if wanted.since is not None:
        where, args = where + " AND at >= ?", [*args, wanted.since]
    if wanted.nodes is not None:
        jobs = f"node_id IN ({_marks(wanted.nodes)})"
        if wanted.shapes:
            jobs += f" OR shape_id IN ({_marks(wanted.shapes)})"
        where += (f" AND ((subject_kind = 'node' AND subject_id IN ({_marks(wanted.nodes)})) OR "
                  f"(subject_kind = 'job' AND subject_id IN (SELECT id FROM job WHERE {jobs})))")
        args += [*wanted.nodes, *wanted.nodes, *wanted.shapes]
    return where, args


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values)) or "NULL"
