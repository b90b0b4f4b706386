"""What happened, in order? The append-only event sequence.

An event's id is handed out under one lock that is held until the commit (SQLite has one writer anyway), so ids become
visible in order and a reader that has seen N has seen everything below N: the stream has no silent gap.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.store.db import EVENT_LOCK_KEY, Tx, read

INSERT = "INSERT INTO event (at, kind, subject_kind, subject_id, actor, data) VALUES (?, ?, ?, ?, ?, ?)"
COLUMNS = "id, at, kind, subject_kind, subject_id, actor, data"


@dataclass(frozen=True, slots=True)
class Event:
    """One row of the sequence; `data` is a JSON object as text."""

    id: int
    at: float
    kind: str
    subject_kind: str
    subject_id: int
    actor: str
    data: str


def append(tx: Tx, kind: str, subject: tuple[str, int], /, *, at: float, actor: str = "", **data: Any) -> None:
    """Write one event in the caller's transaction; `subject` is (noun, id)."""
    append_many(tx, [(at, kind, subject[0], subject[1], actor, json.dumps(data, default=str) if data else "{}")])


def append_many(tx: Tx, rows: Sequence[tuple[float, str, str, int, str, str]]) -> None:
    """Write events given as (at, kind, subject_kind, subject_id, actor, data JSON)."""
    if not rows:
        return
    if tx.pg:
        tx.run("SELECT pg_advisory_xact_lock(?)", (EVENT_LOCK_KEY,))
    tx.many(INSERT, rows)


def last_id() -> int:
    """The newest sequence number; 0 when nothing ever happened."""
    return int(read().value("SELECT max(id) FROM event") or 0)


def first_id() -> int:
    """The oldest sequence number still kept; 0 when there is none."""
    return int(read().value("SELECT min(id) FROM event") or 0)


def since(after: int, *, limit: int = 500, subject_kind: str = "", subject_id: int | None = None,
          kind: str = "") -> list[Event]:
    """Events with id > `after` in order; filters by noun, id, and kind (`job.` matches by prefix)."""
    where, args = ["id > ?"], [after]  # type: tuple[list[str], list[Any]]
    if subject_kind:
        where.append("subject_kind = ?")
        args.append(subject_kind)
    if subject_id is not None:
        where.append("subject_id = ?")
        args.append(subject_id)
    if kind:
        where.append("kind LIKE ?")
        args.append(kind.replace("%", "") + "%")
    sql = f"SELECT {COLUMNS} FROM event WHERE {' AND '.join(where)} ORDER BY id LIMIT ?"
    return [Event(*row) for row in read().all(sql, (*args, limit))]


def of(subjects: Iterable[tuple[str, int]], *, limit: int = 1000) -> list[Event]:
    """All events of the given (noun, id) pairs, in order."""
    found: list[Event] = []
    for noun, number in subjects:
        found += since(0, limit=limit, subject_kind=noun, subject_id=number)
    return sorted(found, key=lambda event: event.id)


def forget(tx: Tx, before: float, *, limit: int = 10_000) -> int:
    """Delete events older than `before`, the newest one never; returns how many."""
    sql = ("DELETE FROM event WHERE id IN (SELECT id FROM event WHERE at < ? AND id < (SELECT max(id) FROM event) "
           "ORDER BY id LIMIT ?)")
    return int(tx.run(sql, (before, limit)).rowcount)
