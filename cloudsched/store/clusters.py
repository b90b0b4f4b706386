"""How are clusters kept? Insert, look up, lease; who is in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster, columns
from cloudsched.store import events
from cloudsched.store.db import Row, Tx, read
from cloudsched.store.filters import newest_first

COLUMNS = columns(Cluster)
_LIVE = ", ".join(f"'{state}'" for state in moves.CLUSTER_LIVE)
_DEFAULTS: dict[str, Any] = {
    "name": "", "org": "", "user": "", "place": "", "state": "pending", "goal": "run", "workers_wanted": 0, "workers_ready": 0,
    "address": "", "web_url": "", "spec": "{}", "facts": "{}", "handle": "{}", "secrets": "", "reason": "", "attempts": 0,
    "not_before": 0.0, "lease_holder": "", "lease_until": 0.0, "version": 1,
}


def insert(tx: Tx, values: Mapping[str, Any], *, at: float, actor: str = "") -> int:
    """Insert a cluster (`key`, `kind`, `origin` at least); returns its id."""
    given = {**_DEFAULTS, "created_at": at, **values}
    names = ", ".join(_quoted(name) for name in given)
    number = int(tx.value(f"INSERT INTO cluster ({names}) VALUES ({', '.join('?' * len(given))}) RETURNING id",
                          tuple(given.values())))
    events.append(tx, "cluster.request", ("cluster", number), at=at, actor=actor, key=given["key"], cluster_kind=given["kind"],
                  workers=given["workers_wanted"])
    return number


def update(tx: Tx, number: int, *, event: str = "", at: float = 0.0, actor: str = "", lease: str | None = None,
           note: Mapping[str, Any] | None = None, where: str = "", args: Sequence[Any] = (), **facts: Any) -> bool:
    """Set columns that are not the state; `event` (if any) goes with it. False when the lease or `where` does not hold."""
    sets = ", ".join(f"{_quoted(name)} = ?" for name in facts)
    condition = "id = ?"
    values: list[Any] = [number]
    if lease is not None:
        condition += " AND lease_holder = ? AND lease_until >= ?"
        values += [lease, at]
    if where:
        condition += f" AND ({where})"
        values += args
    if tx.run(f"UPDATE cluster SET {sets}, version = version + 1 WHERE {condition}", (*facts.values(), *values)).rowcount != 1:
        return False
    if event:
        events.append_many(tx, [(at, event, "cluster", number, actor, json.dumps(dict(note or {}), default=str))])
    return True


def want_end(tx: Tx, number: int, *, at: float, actor: str, reason: str) -> bool:
    """It is wanted gone: looked at without delay. False when it has ended, or that is wanted already."""
    return update(tx, number, event="cluster.terminate_request", at=at, actor=actor, note={"reason": reason},
                  where=f"goal = 'run' AND (state IN ({_LIVE}) OR state = 'failed')", goal="end", not_before=0.0)


def claim(tx: Tx, origin: str, *, holder: str, at: float, lease_s: float, limit: int) -> list[Cluster]:
    """Lease clusters of a dialect that are live, due and in nobody's hands, the longest due first."""
    rows = tx.all(f"SELECT id FROM cluster WHERE state IN ({_LIVE}) AND origin = ? AND not_before <= ? AND lease_until < ? "
                  f"ORDER BY not_before, id LIMIT ?{tx.for_update}", (origin, at, at, limit))
    ids = [row[0] for row in rows]
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    tx.run(f"UPDATE cluster SET lease_holder = ?, lease_until = ? WHERE id IN ({marks})", (holder, at + lease_s, *ids))
    return [Cluster(*row) for row in tx.all(f"SELECT {COLUMNS} FROM cluster WHERE id IN ({marks}) ORDER BY id", ids)]


def unlease(tx: Tx, number: int, *, holder: str, not_before: float) -> bool:
    """Let go of it until `not_before`; False when the lease is lost. What is wanted gone meanwhile is looked at at once."""
    sql = ("UPDATE cluster SET lease_until = 0, not_before = CASE WHEN goal = 'end' AND state <> 'terminating' THEN 0 ELSE ? END "
           "WHERE id = ? AND lease_holder = ?")
    return bool(tx.run(sql, (not_before, number, holder)).rowcount == 1)


def get(number: int) -> Cluster | None:
    """One cluster by id."""
    row = read().one(f"SELECT {COLUMNS} FROM cluster WHERE id = ?", (number,))
    return Cluster(*row) if row else None


def by_key(key: str) -> Cluster | None:
    """One cluster by its name in the outside world."""
    row = read().one(f"SELECT {COLUMNS} FROM cluster WHERE key = ?", (key,))
    return Cluster(*row) if row else None


def by_name(name: str) -> Cluster | None:
    """The newest cluster that people call so."""
    row = read().one(f"SELECT {COLUMNS} FROM cluster WHERE name = ? ORDER BY id DESC LIMIT 1", (name,))
    return Cluster(*row) if row else None


_EQUAL = {name: f"{name} = ?" for name in ("kind", "origin", "org", "cloud_id", "made_cloud_id", "job_id", "place")}


def find(*, states: Sequence[str] = (), after: int | None = None, limit: int = 100, **equal: Any) -> list[Cluster]:
    """Clusters by filters, newest first, keyset-paged by id."""
    where, args = newest_first(states, after, equal, _EQUAL)
    condition = f" WHERE {' AND '.join(where)}" if where else ""
    sql = f"SELECT {COLUMNS} FROM cluster{condition} ORDER BY id DESC LIMIT ?"
    return [Cluster(*row) for row in read().all(sql, (*args, limit))]


# who is in it


def add_node(tx: Tx, number: int, node_id: int, *, role: str, name: str, at: float, actor: str = "") -> bool:
    """A node is in the cluster from now on; False when it is in one already (this one or another)."""
    done = tx.run("INSERT INTO cluster_node (cluster_id, node_id, role, name, joined_at) VALUES (?, ?, ?, ?, ?) "
                  "ON CONFLICT DO NOTHING", (number, node_id, role, name, at)).rowcount == 1
    if done:
        events.append(tx, "cluster.node_join", ("cluster", number), at=at, actor=actor, node=node_id, role=role, name=name)
    return done


def remove_node(tx: Tx, number: int, node_id: int, *, at: float, actor: str = "") -> bool:
    """A node is in the cluster no more; False when it was not."""
    done = tx.run("DELETE FROM cluster_node WHERE cluster_id = ? AND node_id = ?", (number, node_id)).rowcount == 1
    if done:
        events.append(tx, "cluster.node_leave", ("cluster", number), at=at, actor=actor, node=node_id)
    return done


def members(number: int) -> list[Row]:
    """(node_id, role, name, joined_at) in the order they joined."""
    return read().all("SELECT node_id, role, name, joined_at FROM cluster_node WHERE cluster_id = ? ORDER BY joined_at, node_id",
                      (number,))


def of_nodes(ids: Iterable[int]) -> dict[int, tuple[int, str, str]]:
    """node -> (cluster id, cluster name, role), for those that are in one."""
    wanted = list(ids)
    found: dict[int, tuple[int, str, str]] = {}
    for start in range(0, len(wanted), 500):
        part = wanted[start:start + 500]
        rows = read().all("SELECT m.node_id, c.id, c.name, m.role FROM cluster_node m JOIN cluster c ON c.id = m.cluster_id "
                          f"WHERE m.node_id IN ({', '.join('?' * len(part))})", part)
        found.update({row[0]: (row[1], row[2], row[3]) for row in rows})
    return found


def _quoted(name: str) -> str:
    return '"user"' if name == "user" else name
