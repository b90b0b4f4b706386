"""How is long work kept? One row per operation: its steps as a JSON list, a lease while somebody works on it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.domain.entities import Operation, columns
from cloudsched.store import events
from cloudsched.store.db import Tx, read
from cloudsched.store.filters import newest_first
from cloudsched.store.moves import move

COLUMNS = columns(Operation)
_HELD = "lease_holder = ? AND lease_until >= ?"


def create(tx: Tx, kind: str, *, subject: tuple[str, int | None], request: Mapping[str, Any], steps: Sequence[str],
           actor: str, at: float) -> int:
    """A new operation with all its steps still to do; returns its id."""
    rows = [{"name": name, "state": "waiting", "at": None, "detail": ""} for name in steps]
    sql = ("INSERT INTO operation (kind, state, goal, subject_kind, subject_id, actor, request, steps, attempt, not_before, "
           "lease_until, created_at, version) VALUES (?, 'queued', 'run', ?, ?, ?, ?, ?, 0, 0, 0, ?, 1) RETURNING id")
    number = int(tx.value(sql, (kind, subject[0], subject[1], actor, json.dumps(dict(request)), json.dumps(rows), at)))
    events.append(tx, "operation.create", ("operation", number), at=at, actor=actor, operation=kind)
    return number


def claim(tx: Tx, holder: str, *, at: float, lease_s: float) -> Operation | None:
    """Lease the oldest operation that is due and that nobody works on (or whose worker is gone)."""
    row = tx.one("SELECT id, state FROM operation WHERE state IN ('queued', 'running') AND not_before <= ? "
                 "AND lease_until < ? ORDER BY not_before, id LIMIT 1" + tx.for_update, (at, at))
    if row is None:
        return None
    tx.run("UPDATE operation SET lease_holder = ?, lease_until = ?, attempt = attempt + 1, version = version + 1 "
           "WHERE id = ?", (holder, at + lease_s, row[0]))
    if row[1] == "queued":
        move(tx, "operation", row[0], "start", at=at, lease=holder)
    found = tx.one(f"SELECT {COLUMNS} FROM operation WHERE id = ?", (row[0],))
    return Operation(*found) if found else None


def record(tx: Tx, number: int, steps: Sequence[Mapping[str, Any]], *, holder: str, at: float, lease_s: float,
           note: Mapping[str, Any]) -> bool:
    """Write the steps as they are now and renew the lease; False when the lease is lost."""
    return move(tx, "operation", number, "step", at=at, lease=holder, note=dict(note), steps=json.dumps(list(steps)),
                lease_until=at + lease_s)


def later(tx: Tx, number: int, steps: Sequence[Mapping[str, Any]], *, holder: str, at: float, pause_s: float) -> bool:
    """Let go of it until `pause_s` from now; False when the lease is lost. No event: waiting is no news."""
    sql = (f"UPDATE operation SET steps = ?, not_before = ?, lease_until = 0, version = version + 1 "
           f"WHERE id = ? AND state = 'running' AND {_HELD}")
    return bool(tx.run(sql, (json.dumps(list(steps)), at + pause_s, number, holder, at)).rowcount == 1)


def settle(tx: Tx, number: int, event: str, *, holder: str, at: float, error: str | None = None,
           result: Mapping[str, Any] | None = None) -> bool:
    """End it by `succeed`, `fail` or `cancel`; False when the lease is lost."""
    return move(tx, "operation", number, event, at=at, lease=holder, error=error, lease_until=0,
                result=None if result is None else json.dumps(dict(result)), note={"error": error} if error else None)


def ask_cancel(tx: Tx, number: int, *, at: float, actor: str) -> bool:
    """Want it cancelled: at once when nobody works on it, else before its next step. False when it has ended."""
    done = tx.run("UPDATE operation SET goal = 'cancel', not_before = 0, version = version + 1 "
                  "WHERE id = ? AND state IN ('queued', 'running')", (number,)).rowcount == 1
    if done and not move(tx, "operation", number, "cancel", at=at, actor=actor, guard=("state = 'queued'", ())):
        events.append(tx, "operation.cancel_request", ("operation", number), at=at, actor=actor)
    return done


def goal(number: int) -> str:
    """What is wanted of it now."""
    return str(read().value("SELECT goal FROM operation WHERE id = ?", (number,)) or "run")


def get(number: int) -> Operation | None:
    """One operation by id."""
    row = read().one(f"SELECT {COLUMNS} FROM operation WHERE id = ?", (number,))
    return Operation(*row) if row else None


def page(*, states: Sequence[str] = (), after: int | None = None, limit: int = 100) -> list[Operation]:
    """Operations, newest first, keyset-paged by id."""
    where, args = newest_first(states, after, {}, {})
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    sql = f"SELECT {COLUMNS} FROM operation{condition} ORDER BY id DESC LIMIT ?"
    return [Operation(*row) for row in read().all(sql, (*args, limit))]
