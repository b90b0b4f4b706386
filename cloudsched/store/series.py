"""How are samples and request figures kept? Sums in buckets that grow coarser with age, at a bounded cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cloudsched.store.db import Row, Tx, read

MINUTE, TEN, HOUR = 60, 600, 3600
# Each width is kept this long, and then rolled into the next one.
KEPT_S = {MINUTE: 2 * 3600, TEN: 26 * 3600, HOUR: 31 * 86400}
_NEXT = {MINUTE: TEN, TEN: HOUR}
_SUMS = ("cpu_n", "cpu_sum", "memory_n", "memory_sum", "disk_n", "disk_sum", "sent", "received")
_PEAKS = ("cpu_max", "memory_max", "disk_max")
_BITE_NODES = 500

_ADD = (
    "INSERT INTO device_series (node_id, width_s, start, cpu_n, cpu_sum, cpu_max, memory_n, memory_sum, memory_max, disk_n, "
    "disk_sum, disk_max, sent, received) VALUES (?, 60, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (node_id, width_s, start) DO UPDATE SET "
    + ", ".join(f"{name} = device_series.{name} + excluded.{name}" for name in _SUMS) + ", "
    + ", ".join(f"{name} = CASE WHEN excluded.{name} > device_series.{name} THEN excluded.{name} ELSE device_series.{name} END"
                for name in _PEAKS)
)


class Sums(NamedTuple):
    """What samples add up to; a mean is sum / n."""

    cpu_n: int
    cpu_sum: float
    cpu_max: float
    memory_n: int
    memory_sum: float
    memory_max: float
    disk_n: int
    disk_sum: float
    disk_max: float
    sent: float
    received: float


_TOTALS = ", ".join(f"{'max' if name in _PEAKS else 'sum'}({name})" for name in Sums._fields)
NONE = Sums(0, 0.0, 0.0, 0, 0.0, 0.0, 0, 0.0, 0.0, 0.0, 0.0)


def add(tx: Tx, node_id: int, at: float, *, cpu: float | None, memory: float | None, disk: float | None, sent: float,
        received: float) -> None:
    """Add one sample to its minute; `sent`, `received`: the steps of the counters."""
    values: list[float] = []
    for one in (cpu, memory, disk):
        values += (0, 0.0, 0.0) if one is None else (1, one, one)
    tx.run(_ADD, (node_id, int(at // MINUTE) * MINUTE, *values, sent, received))


def roll(tx: Tx, width_s: int, at: float, *, first: int, last: int) -> int:
    """Buckets of this width that are old enough become those of the next (or go), of nodes first..last; how many went."""
    wider = _NEXT.get(width_s)
    before = int((at - KEPT_S[width_s]) // (wider or width_s)) * (wider or width_s)
    where = "width_s = ? AND start < ? AND node_id BETWEEN ? AND ?"
    args = (width_s, before, first, last)
    if wider is not None:
        names = (*_SUMS, *_PEAKS)
        sums = ", ".join([*(f"sum({name})" for name in _SUMS), *(f"max({name})" for name in _PEAKS)])
        tx.run(
            f"INSERT INTO device_series (node_id, width_s, start, {', '.join(names)}) "
            f"SELECT node_id, {wider}, start - start % {wider}, {sums} FROM device_series WHERE {where} "
            f"GROUP BY node_id, start - start % {wider} ON CONFLICT (node_id, width_s, start) DO UPDATE SET "
            + ", ".join(f"{name} = device_series.{name} + excluded.{name}" for name in _SUMS) + ", "
            + ", ".join(f"{name} = CASE WHEN excluded.{name} > device_series.{name} THEN excluded.{name} "
                        f"ELSE device_series.{name} END" for name in _PEAKS), args)
    return int(tx.run(f"DELETE FROM device_series WHERE {where}", args).rowcount)


def due(width_s: int, at: float) -> list[tuple[int, int]]:
    """Ranges of nodes that have buckets of this width to roll."""
    wider = _NEXT.get(width_s) or width_s
    before = int((at - KEPT_S[width_s]) // wider) * wider
    row = read().one("SELECT min(node_id), max(node_id) FROM device_series WHERE width_s = ? AND start < ?", (width_s, before))
    if row is None or row[0] is None:
        return []
    return [(begin, begin + _BITE_NODES - 1) for begin in range(row[0], row[1] + 1, _BITE_NODES)]


def total(since: float) -> Sums:
    """All samples of all machines since then."""
    parts, args = _each_width(since)
    row = read().one(f"SELECT {_TOTALS} FROM device_series WHERE {parts}", args)
    return _sums(row)


def by_node(since: float) -> dict[int, Sums]:
    """The same for each machine that has samples."""
    parts, args = _each_width(since)
    return {row[0]: _sums(row[1:]) for row in
            read().all(f"SELECT node_id, {_TOTALS} FROM device_series WHERE {parts} GROUP BY node_id", args)}


def buckets(node_id: int, since: float, width_s: int) -> dict[int, Sums]:
    """start -> samples of one machine, in buckets of `width_s` (a multiple of those that are kept)."""
    rows = read().all(
        f"SELECT start - start % {int(width_s)}, {_TOTALS} FROM device_series WHERE node_id = ? AND start >= ? GROUP BY 1",
        (node_id, int(since)))
    return {int(row[0]): _sums(row[1:]) for row in rows}


def latest(node_id: int, limit: int) -> list[tuple[int, Sums]]:
    """The newest minutes of one machine with samples: (start, sums)."""
    names = ", ".join(Sums._fields)
    sql = f"SELECT start, {names} FROM device_series WHERE node_id = ? AND width_s = 60 ORDER BY start DESC LIMIT ?"
    return [(int(row[0]), Sums(*row[1:])) for row in read().all(sql, (node_id, limit))]


def forget_nodes(tx: Tx) -> None:
    """Samples of nodes that were forgotten."""
    tx.run("DELETE FROM device_series WHERE NOT EXISTS (SELECT 1 FROM node n WHERE n.id = device_series.node_id)")


def _each_width(since: float) -> tuple[str, list[int]]:
    """Buckets that begin since then; of each width the bucket that `since` lies in counts as a whole."""
    args: list[int] = []
    for width_s in (MINUTE, TEN, HOUR):
        args += (width_s, int(since // width_s) * width_s)
    return "(width_s = ? AND start >= ?) OR (width_s = ? AND start >= ?) OR (width_s = ? AND start >= ?)", args


def _sums(row: Row | None) -> Sums:
    return NONE if row is None else Sums(*(value or 0 for value in row))


# requests of the API


def add_requests(tx: Tx, rows: Sequence[tuple[int, int, int, float]]) -> None:
    """Add (minute, requests, errors, milliseconds in all)."""
    tx.many("INSERT INTO api_minute (minute, n, errors, took_ms) VALUES (?, ?, ?, ?) ON CONFLICT (minute) DO UPDATE SET "
            "n = api_minute.n + excluded.n, errors = api_minute.errors + excluded.errors, "
            "took_ms = api_minute.took_ms + excluded.took_ms", rows)


def requests(since_minute: int) -> tuple[int, int, float]:
    """(requests, errors, milliseconds in all) from this minute on."""
    row = read().one("SELECT sum(n), sum(errors), sum(took_ms) FROM api_minute WHERE minute >= ?", (since_minute,))
    return (int(row[0] or 0), int(row[1] or 0), float(row[2] or 0.0)) if row else (0, 0, 0.0)


def forget_requests(tx: Tx, before: float) -> None:
    """Delete old minutes."""
    tx.run("DELETE FROM api_minute WHERE minute < ?", (int(before),))
