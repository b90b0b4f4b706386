"""Who may change a state? `move`, the one guarded UPDATE with its event in the same transaction."""

from __future__ import annotations

import json
from typing import Any

from cloudsched.domain import moves as legal
from cloudsched.store import events
from cloudsched.store.db import Tx

_ENDS = {"job": legal.JOB_FINAL, "node": legal.NODE_FINAL, "operation": ("succeeded", "failed", "cancelled"),
         "cluster": legal.CLUSTER_FINAL}


def move(tx: Tx, table: str, number: int, event: str, *, at: float, lease: str | None = None, actor: str = "",
         guard: tuple[str, tuple[Any, ...]] | None = None, note: dict[str, Any] | None = None, **facts: Any) -> bool:
    """Move row `number` of `table` by `event`, setting the columns in `facts`; one event row goes with it.

    `lease`: only if this holder still has the row's lease. `guard`: an extra SQL condition and its arguments.
    `note`: data of the event. Returns False when the row is not in a state the event may leave, or lease or guard do
    not hold: the caller's view is stale and its result is dropped. Unknown events raise ValueError.
    """
    moves = legal.ALL[table]
    new_state = legal.target(moves, event)
    from_states = legal.sources(moves, event)
    if new_state in _ENDS.get(table, ()):
        facts.setdefault("ended_at", at)
    columns = ["state = ?", *(f"{_quoted(name)} = ?" for name in facts)]
    where = f"id = ? AND state IN ({', '.join('?' * len(from_states))})"
    args: list[Any] = [new_state, *facts.values(), number, *from_states]
    if lease is not None:
        where += " AND lease_holder = ? AND lease_until >= ?"
        args += [lease, at]
    if guard is not None:
        where += f" AND ({guard[0]})"
        args += guard[1]
    if tx.run(f"UPDATE {table} SET {', '.join(columns)} WHERE {where}", args).rowcount != 1:
        return False
    data = json.dumps(note, default=str) if note else "{}"
    events.append_many(tx, [(at, f"{table}.{event}", table, number, actor, data)])
    return True


def _quoted(name: str) -> str:
    return '"user"' if name == "user" else name
