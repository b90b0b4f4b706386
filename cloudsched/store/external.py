"""How are the jobs of an external batch system kept? As observed: that system owns their state, not MOVES."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.store import events
from cloudsched.store.db import Row, Tx

RUN_TIMES_KEPT = 10


def known(tx: Tx, source: str) -> dict[str, Row]:
    """key -> (id, batch_status, state, started_at, node_id, shape_id, priority, remote_host, attributes)."""
    sql = ("SELECT key, id, batch_status, state, started_at, node_id, shape_id, priority, remote_host, attributes "
           "FROM job WHERE source = ?")
    return {row[0]: row[1:] for row in tx.all(sql, (source,))}


def add(tx: Tx, values: Mapping[str, Any], *, at: float) -> None:
    """A job seen for the first time (all NOT NULL columns of `job` that have no default must be in `values`)."""
    given = {"org": "", "name": "", "kind": "external", "goal": "run", "spec": "{}", "attempt": 0, "retries": 0,
             "max_retries": 0, "backoff_s": 0, "needs": 0, "has_dependents": 0, "depends_fail": "cancel", "placed": 0,
             "submitted_at": at, "queued_at": at, **values}
    names = ", ".join('"user"' if name == "user" else name for name in given)
    tx.run(f"INSERT INTO job ({names}) VALUES ({', '.join('?' * len(given))})", tuple(given.values()))
    events.append(tx, "job.appear", ("job", int(given["id"])), at=at, status=given["batch_status"])


def change(tx: Tx, number: int, values: Mapping[str, Any], *, at: float, status: int | None) -> None:
    """A known job looks different now; a changed status is an event and clears the override."""
    facts = dict(values)
    if status is not None:
        facts.update(batch_status=status, override=None, ban_until=None)
    sets = ", ".join('"user" = ?' if name == "user" else f"{name} = ?" for name in facts)
    tx.run(f"UPDATE job SET {sets} WHERE id = ?", (*facts.values(), number))
    if status is not None:
        events.append(tx, "job.observe", ("job", number), at=at, status=status, state=facts.get("state"))


def drop(tx: Tx, number: int, *, at: float) -> None:
    """The job has vanished from the external queue."""
    tx.run("DELETE FROM job_boot_failure WHERE job_id = ?", (number,))
    tx.run("DELETE FROM job_block WHERE job_id = ?", (number,))
    tx.run("DELETE FROM job WHERE id = ?", (number,))
    events.append(tx, "job.vanish", ("job", number), at=at)


def held_by(tx: Tx, shape_id: int, *, unscheduled: bool, before: float | None) -> list[Row]:
    """(id, batch_id, proc) of waiting external jobs of a shape."""
    sql = "SELECT id, batch_id, proc FROM job WHERE shape_id = ? AND state = 'queued' AND source <> 'queue'"
    args: list[Any] = [shape_id]
    if unscheduled:
        sql += " AND placed = 0"
    if before is not None:
        sql += " AND queued_at <= ?"
        args.append(before)
    return tx.all(sql, args)


def set_held(tx: Tx, ids: Sequence[int], *, at: float, override: str) -> None:
    """The batch system took our order to hold these jobs: so it is until its next answer says otherwise."""
    for number in ids:
        change(tx, number, {"state": "held"}, at=at, status=5)
    if override:
        tx.many("UPDATE job SET override = ? WHERE id = ?", [(override, number) for number in ids])


def add_run_times(tx: Tx, node_id: int, seconds: Sequence[float]) -> None:
    """Append whole seconds to a node's last ten job run times (contract 7.2, T20)."""
    if not seconds:
        return
    fresh = [max(0, int(value)) for value in seconds[-RUN_TIMES_KEPT:]]
    if len(fresh) < RUN_TIMES_KEPT:
        text = tx.value("SELECT run_times FROM node WHERE id = ?", (node_id,))
        fresh = [*json.loads(text or "[]"), *fresh][-RUN_TIMES_KEPT:]
    tx.run("UPDATE node SET run_times = ? WHERE id = ?", (json.dumps(fresh), node_id))
