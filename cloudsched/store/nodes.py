"""How are nodes kept? Insert, lease, look up; and the agent's side: tokens, secrets, last contact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.domain.entities import Node, columns
from cloudsched.store import events
from cloudsched.store.db import Row, Tx, read
from cloudsched.store.filters import newest_first

COLUMNS = columns(Node)
LIVE = "('requested', 'starting', 'running', 'stopping')"


def insert(tx: Tx, values: Mapping[str, Any], *, at: float, event: str = "node.request", actor: str = "",
           note: Mapping[str, Any] | None = None) -> int:
    """Insert a node with these columns (`name`, `cloud_id`, `state` at least); returns its id."""
    given = {"created_at": at, **values}
    names = ", ".join('"user"' if name == "user" else name for name in given)
    sql = f"INSERT INTO node ({names}) VALUES ({', '.join('?' * len(given))}) RETURNING id"
    number = int(tx.value(_with_defaults(sql), tuple(given.values())))
    events.append_many(tx, [(at, event, "node", number, actor, json.dumps(note or {}, default=str))])
    return number


def _with_defaults(sql: str) -> str:
    """Columns without a database default that the caller may leave out."""
    names, values = sql.split(") VALUES (", 1)
    for column, default in _DEFAULTS.items():
        if f" {column}," not in names + "," and f"({column}," not in names + ",":
            names += f", {column}"
            values = values.replace(") RETURNING", f", {default}) RETURNING")
    return f"{names}) VALUES ({values}"


_DEFAULTS = {
    "cores": "1", "memory_mb": "0", "storage_gb": "0", "slots": "1", "ssh_port": "22", "keep_alive_s": "0",
    "error_count": "0", "lease_until": "0", "version": "1",
}


def update(tx: Tx, number: int, *, event: str = "", at: float = 0.0, actor: str = "",
           note: Mapping[str, Any] | None = None, where: str = "", args: Sequence[Any] = (), **facts: Any) -> bool:
    """Set columns that are not the state; `event` (if any) is recorded with it. False when `where` did not hold."""
    sets = ", ".join('"user" = ?' if name == "user" else f"{name} = ?" for name in facts)
    sql = f"UPDATE node SET {sets}, version = version + 1 WHERE id = ?{' AND ' + where if where else ''}"
    if tx.run(sql, (*facts.values(), number, *args)).rowcount != 1:
        return False
    if event:
        events.append_many(tx, [(at, event, "node", number, actor, json.dumps(note or {}, default=str))])
    return True


def claim(tx: Tx, where: str, args: Sequence[Any], *, holder: str, at: float, lease_s: float, limit: int) -> list[Node]:
    """Lease up to `limit` nodes that match `where` and are not leased; returns them."""
    ids = [row[0] for row in tx.all(
        f"SELECT id FROM node WHERE ({where}) AND lease_until < ? ORDER BY id LIMIT ?{tx.for_update}", (*args, at, limit))]
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    tx.run(f"UPDATE node SET lease_holder = ?, lease_until = ? WHERE id IN ({marks})", (holder, at + lease_s, *ids))
    return [Node(*row) for row in tx.all(f"SELECT {COLUMNS} FROM node WHERE id IN ({marks}) ORDER BY id", ids)]


def unlease(tx: Tx, number: int, *, holder: str) -> None:
    """Give a lease back early."""
    tx.run("UPDATE node SET lease_until = 0 WHERE id = ? AND lease_holder = ?", (number, holder))


def get(number: int) -> Node | None:
    """One node by id."""
    row = read().one(f"SELECT {COLUMNS} FROM node WHERE id = ?", (number,))
    return Node(*row) if row else None


def by_name(name: str) -> Node | None:
    """One node by its unique name."""
    row = read().one(f"SELECT {COLUMNS} FROM node WHERE name = ?", (name,))
    return Node(*row) if row else None


def live(*, cloud_id: int | None = None) -> list[Node]:
    """All nodes that are not ended, in boot order."""
    where, args = f"state IN {LIVE}", []  # type: tuple[str, list[Any]]
    if cloud_id is not None:
        where += " AND cloud_id = ?"
        args.append(cloud_id)
    return select(where, args)


def select(where: str = "", args: Sequence[Any] = (), *, order: str = "id", limit: int | None = None) -> list[Node]:
    """Nodes by an SQL condition built from constants by the caller inside the store."""
    sql = f"SELECT {COLUMNS} FROM node{' WHERE ' + where if where else ''} ORDER BY {order}"
    if limit is not None:
        sql += f" LIMIT {int(limit)}"
    return [Node(*row) for row in read().all(sql, args)]


_EQUAL = {"cloud_id": "cloud_id = ?", "user": '"user" = ?', "vm_type": "vm_type = ?", "name": "name = ?"}


def find(*, states: Sequence[str] = (), after: int | None = None, limit: int = 100, **equal: Any) -> list[Node]:
    """Nodes by filters, newest first, keyset-paged by id."""
    where, args = newest_first(states, after, equal, _EQUAL)
    return select(" AND ".join(where), args, order="id DESC", limit=limit)


def counts_in_hand() -> dict[int, int]:
    """node id -> number of jobs it holds (assigned or running)."""
    sql = "SELECT node_id, count(*) FROM job WHERE state IN ('assigned', 'running') GROUP BY node_id"
    return {row[0]: int(row[1]) for row in read().all(sql) if row[0] is not None}


# the agent's side


def by_token(tx: Tx, token_hash: str) -> Row | None:
    """(id, state) of the node this one-machine join token was made for."""
    return tx.one("SELECT id, state FROM node WHERE token_hash = ? AND token_hash <> ''", (token_hash,))


def contact(tx: Tx, number: int) -> Row | None:
    """What a sync needs: (state, goal, secret_hash, instance, user, vm_type, cores, memory_mb, storage_gb, cloud_id,
    registered_at, last_seen_at, idle_since, override, version), and of its row in `device` (via, online_since, takes, asked,
    sent, received, device_id), None when it has none."""
    return tx.one(_CONTACT, (number,))


_CONTACT = (
    'SELECT n.state, n.goal, n.secret_hash, n.instance, n."user", n.vm_type, n.cores, n.memory_mb, n.storage_gb, n.cloud_id, '
    "n.registered_at, n.last_seen_at, n.idle_since, n.override, n.version, d.via, d.online_since, d.takes, d.asked, d.sent, "
    "d.received, d.device_id FROM node n LEFT JOIN device d ON d.node_id = n.id WHERE n.id = ?")


def facts(number: int) -> str:
    """The profile of a node as JSON text."""
    return str(read().value("SELECT facts FROM node WHERE id = ?", (number,)) or "{}")


def is_booted(tx: Tx, number: int) -> bool:
    """Was the node booted on a cloud (and did not come by itself)?"""
    sql = "SELECT 1 FROM node n JOIN cloud c ON c.id = n.cloud_id WHERE n.id = ? AND c.kind <> 'Agent'"
    return tx.one(sql, (number,)) is not None


def set_idle(tx: Tx, rows: Sequence[tuple[int, float | None]]) -> None:
    """Note since when (node, epoch) is idle."""
    tx.many("UPDATE node SET idle_since = ? WHERE id = ?", [(since, number) for number, since in rows])


def seen(tx: Tx, number: int, *, at: float, idle_since: float | None, metrics: str | None) -> None:
    """The node was heard from."""
    if metrics is None:
        tx.run("UPDATE node SET last_seen_at = ?, idle_since = ? WHERE id = ?", (at, idle_since, number))
    else:
        tx.run("UPDATE node SET last_seen_at = ?, idle_since = ?, metrics = ? WHERE id = ?", (at, idle_since, metrics, number))


def silent(tx: Tx, before: float) -> list[int]:
    """Nodes that hold jobs but were not heard from since `before`, or have ended. Devices may be silent for longer
    (store.devices.holding)."""
    sql = ("SELECT DISTINCT n.id FROM node n JOIN job j ON j.node_id = n.id AND j.state IN ('assigned', 'running') "
           "LEFT JOIN device d ON d.node_id = n.id AND d.via <> 'machine' "
           "WHERE j.source = 'queue' AND (((n.last_seen_at IS NULL OR n.last_seen_at < ?) AND d.node_id IS NULL) "
           "OR n.state IN ('gone', 'failed', 'released'))")
    return [row[0] for row in tx.all(sql, (before,))]


def add_join_token(tx: Tx, token_hash: str, *, cloud_id: int, user: str, vm_type: str, uses: int | None,
                   expires_at: float | None, at: float) -> None:
    """A pool token with which new machines may join."""
    tx.run('INSERT INTO join_token (hash, cloud_id, "user", vm_type, uses_left, expires_at, created_at) '
           "VALUES (?, ?, ?, ?, ?, ?, ?)", (token_hash, cloud_id, user, vm_type, uses, expires_at, at))


def use_join_token(tx: Tx, token_hash: str, *, at: float, new_node: bool) -> Row | None:
    """(cloud_id, user, vm_type) when the token is good; a new node takes one of its uses."""
    row = tx.one('SELECT cloud_id, "user", vm_type, uses_left FROM join_token WHERE hash = ? '
                 "AND (expires_at IS NULL OR expires_at > ?)" + tx.lock_rows, (token_hash, at))
    if row is None or (new_node and row[3] is not None and row[3] <= 0):
        return None
    if new_node and row[3] is not None:
        tx.run("UPDATE join_token SET uses_left = uses_left - 1 WHERE hash = ?", (token_hash,))
    return row[:3]
