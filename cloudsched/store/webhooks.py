"""How are webhooks kept? The hooks, and one row for each event that one of them is to be sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import columns
from cloudsched.store import events
from cloudsched.store.db import Tx, read

PENDING, DELIVERED, DEAD = "pending", "delivered", "dead"
STATES = (PENDING, DELIVERED, DEAD)
NOUN = "webhook"


@dataclass(frozen=True, slots=True)
class Hook:
    """A row of `webhook` (tables_webhooks.py says what the columns mean)."""

    id: int
    name: str
    shown: str
    sealed: str
    kinds: str
    enabled: int
    position: int
    failures: int
    not_before: float
    lease_holder: str
    lease_until: float
    last_ok_at: float | None
    last_error: str
    actor: str
    version: int
    created_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """A row of `webhook_delivery`."""

    id: int
    webhook_id: int
    event_id: int
    kind: str
    state: str
    body: str
    attempts: int
    not_before: float
    status: int | None
    error: str
    took_s: float | None
    created_at: float
    tried_at: float | None
    ended_at: float | None


_HOOK, _DELIVERY = columns(Hook), columns(Delivery)


def insert(tx: Tx, values: Mapping[str, Any], *, at: float, actor: str) -> int | None:
    """A new hook; None when there is one of that name."""
    given = {"not_before": 0.0, "lease_until": 0.0, **values, "actor": actor, "created_at": at}
    number = tx.value(f"INSERT INTO webhook ({', '.join(given)}) VALUES ({', '.join('?' * len(given))}) "
                      "ON CONFLICT (name) DO NOTHING RETURNING id", tuple(given.values()))
    if number is None:
        return None
    events.append(tx, "webhook.add", (NOUN, int(number)), at=at, actor=actor, name=values["name"], to=values["shown"])
    return int(number)


def change(tx: Tx, number: int, *, event: str = "", at: float = 0.0, actor: str = "", note: Mapping[str, Any] | None = None,
           **facts: Any) -> bool:
    """Set columns of a hook, with an event if one is named. False when it is gone."""
    sets = ", ".join(f"{name} = ?" for name in facts)
    done = tx.run(f"UPDATE webhook SET {sets}, version = version + 1 WHERE id = ?", (*facts.values(), number)).rowcount == 1
    if done and event:
        events.append(tx, event, (NOUN, number), at=at, actor=actor, **(note or {}))
    return bool(done)


def remove(tx: Tx, hook: Hook, *, at: float, actor: str) -> bool:
    """Forget a hook with its deliveries. False when it is gone already."""
    if tx.run("DELETE FROM webhook WHERE id = ?", (hook.id,)).rowcount != 1:
        return False
    tx.run("DELETE FROM webhook_delivery WHERE webhook_id = ?", (hook.id,))
    events.append(tx, "webhook.remove", (NOUN, hook.id), at=at, actor=actor, name=hook.name)
    return True


def hooks() -> list[Hook]:
    """All of them by name."""
    return [Hook(*row) for row in read().all(f"SELECT {_HOOK} FROM webhook ORDER BY name")]


def get(number: int) -> Hook | None:
    """One hook by its number."""
    row = read().one(f"SELECT {_HOOK} FROM webhook WHERE id = ?", (number,))
    return Hook(*row) if row else None


def by_name(name: str) -> Hook | None:
    """One hook."""
    row = read().one(f"SELECT {_HOOK} FROM webhook WHERE name = ?", (name,))
    return Hook(*row) if row else None


def ready(at: float) -> list[Hook]:
    """Hooks that may be worked on: enabled, not waiting for their receiver, in nobody's hands."""
    return [Hook(*row) for row in read().all(
        f"SELECT {_HOOK} FROM webhook WHERE enabled = 1 AND not_before <= ? AND lease_until < ? ORDER BY id", (at, at))]


def claim(tx: Tx, number: int, *, holder: str, at: float, lease_s: float) -> bool:
    """Take a hook in hand; False when somebody has it or it is not to be worked on."""
    return bool(tx.run("UPDATE webhook SET lease_holder = ?, lease_until = ? WHERE id = ? AND enabled = 1 AND lease_until < ? "
                       "AND not_before <= ?", (holder, at + lease_s, number, at, at)).rowcount == 1)


def renew(tx: Tx, number: int, *, holder: str, at: float, lease_s: float) -> bool:
    """Keep it in hand; False when it is not ours any more, or was switched off."""
    return bool(tx.run("UPDATE webhook SET lease_until = ? WHERE id = ? AND lease_holder = ? AND lease_until >= ? "
                       "AND enabled = 1", (at + lease_s, number, holder, at)).rowcount == 1)


def unclaim(tx: Tx, number: int, *, holder: str) -> None:
    """Let go of it."""
    tx.run("UPDATE webhook SET lease_until = 0 WHERE id = ? AND lease_holder = ?", (number, holder))


# deliveries


def enqueue(tx: Tx, number: int, rows: Sequence[tuple[int, str, str]], *, position: int, at: float) -> bool:
    """Write down (event id, kind, body) for a hook and that all up to `position` was looked at.

    False when another process was faster: nothing is written then.
    """
    if tx.run("UPDATE webhook SET position = ? WHERE id = ? AND position < ?", (position, number, position)).rowcount != 1:
        return False
    tx.many("INSERT INTO webhook_delivery (webhook_id, event_id, kind, body, state, attempts, not_before, error, created_at) "
            "VALUES (?, ?, ?, ?, 'pending', 0, 0, '', ?) ON CONFLICT (webhook_id, event_id) DO NOTHING",
            [(number, event_id, kind, body, at) for event_id, kind, body in rows])
    return True


def add(tx: Tx, number: int, event_id: int, kind: str, body: str, *, at: float) -> int:
    """One delivery outside the order of the log (a test); returns its id."""
    return int(tx.value(
        "INSERT INTO webhook_delivery (webhook_id, event_id, kind, body, state, attempts, not_before, error, created_at) "
        "VALUES (?, ?, ?, ?, 'pending', 0, 0, '', ?) RETURNING id", (number, event_id, kind, body, at)))


def due(number: int, at: float, *, limit: int) -> list[Delivery]:
    """What is to be sent to a hook now, in the order of the events."""
    return [Delivery(*row) for row in read().all(
        f"SELECT {_DELIVERY} FROM webhook_delivery WHERE webhook_id = ? AND state = 'pending' AND not_before <= ? "
        "ORDER BY id LIMIT ?", (number, at, limit))]


def pending(number: int) -> int:
    """How many deliveries of a hook have not ended."""
    return int(read().value("SELECT count(*) FROM webhook_delivery WHERE webhook_id = ? AND state = 'pending'", (number,)))


def tried(tx: Tx, delivery: Delivery, *, state: str, at: float, **facts: Any) -> bool:
    """Note how an attempt went; False when the delivery has ended or is gone."""
    given = {"state": state, "attempts": delivery.attempts + 1, "tried_at": at, **facts}
    if state != PENDING:
        given["ended_at"] = at
    sets = ", ".join(f"{name} = ?" for name in given)
    return bool(tx.run(f"UPDATE webhook_delivery SET {sets} WHERE id = ? AND state = 'pending'",
                       (*given.values(), delivery.id)).rowcount == 1)


def revive(tx: Tx, number: int) -> int:
    """Deliveries of a hook that were given up begin anew; how many."""
    return int(tx.run("UPDATE webhook_delivery SET state = 'pending', attempts = 0, not_before = 0, ended_at = NULL "
                      "WHERE webhook_id = ? AND state = 'dead'", (number,)).rowcount)


def deliveries(number: int, *, state: str = "", after: int | None = None, limit: int = 100) -> list[Delivery]:
    """The log of a hook, newest first, paged by id."""
    where, args = "webhook_id = ?", [number]  # type: tuple[str, list[Any]]
    if state:
        where, args = where + " AND state = ?", [*args, state]
    if after is not None:
        where, args = where + " AND id < ?", [*args, after]
    return [Delivery(*row) for row in read().all(
        f"SELECT {_DELIVERY} FROM webhook_delivery WHERE {where} ORDER BY id DESC LIMIT ?", (*args, limit))]


def delivery(number: int) -> Delivery | None:
    """One delivery."""
    row = read().one(f"SELECT {_DELIVERY} FROM webhook_delivery WHERE id = ?", (number,))
    return Delivery(*row) if row else None


def counts() -> dict[int, dict[str, int]]:
    """Hook -> state -> how many deliveries are in the log."""
    found: dict[int, dict[str, int]] = {}
    for number, state, count in read().all("SELECT webhook_id, state, count(*) FROM webhook_delivery GROUP BY webhook_id, state"):
        found.setdefault(number, {})[state] = int(count)
    return found


def forget(tx: Tx, before: float, *, limit: int = 2000) -> int:
    """Remove deliveries that ended before; returns how many."""
    return int(tx.run("DELETE FROM webhook_delivery WHERE id IN (SELECT id FROM webhook_delivery WHERE state <> 'pending' "
                      "AND ended_at < ? LIMIT ?)", (before, limit)).rowcount)
