"""How are resource instances kept? Insert, guarded moves, lists, what is due, running periods."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain import instances as domain
from cloudsched.domain import moves
from cloudsched.domain.entities import columns
from cloudsched.domain.instances import Spec
from cloudsched.store import events
from cloudsched.store.db import Row, Tx, read


@dataclass(frozen=True, slots=True)
class Instance:
    """One resource instance (store.tables_instances says what the columns mean); field order is column order."""

    id: int
    key: str
    centre_key: str
    cluster_key: str
    org: str
    user: str
    name: str
    engine: str
    state: str
    stopped: int
    reason: str
    spec: str
    password: str
    previous: str
    amounts: str
    node_port: int
    namespace: str
    account: str
    controller: str
    service: str
    sweep: int
    live: str
    live_ready: int
    live_reason: str
    live_at: float | None
    not_before: float
    version: int
    created_at: float
    updated_at: float
    applied_at: float | None
    ended_at: float | None

    @property
    def asked(self) -> dict[str, Any]:
        """What was asked for by wire name."""
        fields: dict[str, Any] = json.loads(self.spec)
        return fields

    @property
    def wanted(self) -> Spec:
        return Spec(**self.asked)

    @property
    def held(self) -> domain.Amounts:
        return [(sort, model, int(amount)) for sort, model, amount in json.loads(self.amounts)]

    @property
    def names(self) -> domain.Names:
        return domain.Names(domain.dns_label(self.key), self.namespace, self.account, self.controller, self.service)


COLUMNS = columns(Instance)
_HOLDING = ", ".join(f"'{state}'" for state in domain.HOLDING)
_KEPT = ", ".join(f"'{state}'" for state in domain.KEPT)


# changes


def insert(tx: Tx, values: Mapping[str, Any], *, at: float, actor: str) -> int:
    """A new instance in the state `wanted`; returns its id."""
    given = {"state": "wanted", "created_at": at, "updated_at": at, **values}
    names = ", ".join(_quoted(name) for name in given)
    number = int(tx.value(f"INSERT INTO instance ({names}) VALUES ({', '.join('?' * len(given))}) RETURNING id",
                          tuple(given.values())))
    events.append(tx, "instance.add", ("instance", number), at=at, actor=actor, org=given["org"], id=given["key"],
                  name=given["name"], cluster=given["cluster_key"], amounts=json.loads(given["amounts"]))
    return number


def move(tx: Tx, found: Instance, event: str, *, at: float, actor: str, note: Mapping[str, Any] | None = None,
         **facts: Any) -> bool:
    """Move a row by `event`, setting columns; the event is recorded with it. False when it was changed meanwhile."""
    new_state, from_states = moves.target(domain.STATES, event), moves.sources(domain.STATES, event)
    sets = ", ".join(f"{_quoted(name)} = ?" for name in facts)
    sql = (f"UPDATE instance SET state = ?, updated_at = ?, version = version + 1{', ' if sets else ''}{sets} "
           f"WHERE id = ? AND version = ? AND state IN ({', '.join('?' * len(from_states))})")
    args = (new_state, at, *facts.values(), found.id, found.version, *from_states)
    if tx.run(sql, args).rowcount != 1:
        return False
    data = {"org": found.org, "id": found.key, "name": found.name, **(note or {})}
    events.append(tx, f"instance.{event}", ("instance", found.id), at=at, actor=actor, **data)
    return True


def update(tx: Tx, found: Instance, *, at: float, event: str = "", actor: str = "", note: Mapping[str, Any] | None = None,
           **facts: Any) -> bool:
    """Set columns that are not the state; False when the row was changed meanwhile."""
    sets = ", ".join(f"{_quoted(name)} = ?" for name in facts)
    sql = f"UPDATE instance SET {sets}, updated_at = ?, version = version + 1 WHERE id = ? AND version = ?"
    if tx.run(sql, (*facts.values(), at, found.id, found.version)).rowcount != 1:
        return False
    if event:
        data = {"org": found.org, "id": found.key, "name": found.name, **(note or {})}
        events.append(tx, f"instance.{event}", ("instance", found.id), at=at, actor=actor, **data)
    return True


def claim(tx: Tx, number: int, *, at: float, until: float) -> bool:
    """Take a due row, so that nobody else takes it before `until`; False when somebody was quicker."""
    return bool(tx.run("UPDATE instance SET not_before = ? WHERE id = ? AND not_before <= ?", (until, number, at)).rowcount == 1)


def put_off(tx: Tx, number: int, *, until: float) -> None:
    """It is looked after again from then on."""
    tx.run("UPDATE instance SET not_before = ? WHERE id = ?", (until, number))


def see(tx: Tx, rows: Sequence[tuple[Instance, Mapping[str, Any]]], *, at: float) -> None:
    """Write down how instances are, and an event for each that is in another phase than before."""
    tx.many("UPDATE instance SET live = ?, live_ready = ?, live_reason = ?, live_at = ? WHERE id = ?",
            [(seen["phase"], seen["ready"], seen["reason"], at, found.id) for found, seen in rows])
    changed = [(found, seen) for found, seen in rows if found.live != seen["phase"]]
    events.append_many(tx, [(at, "instance.live", "instance", found.id, "", json.dumps({
        "org": found.org, "id": found.key, "name": found.name, "from": found.live or None, "to": seen["phase"],
        "reason": seen["reason"]})) for found, seen in changed])


# running periods


def open_period(tx: Tx, found: Instance, amounts: domain.Amounts, *, at: float) -> None:
    """From now on these amounts run; what ran before ends now, unless it is the same."""
    text = json.dumps(amounts, ensure_ascii=False)
    running = tx.value("SELECT amounts FROM instance_period WHERE instance_key = ? AND ended_at IS NULL", (found.key,))
    if running == text:
        return
    close_period(tx, found.key, at=at, why="changed")
    if amounts:
        tx.run("INSERT INTO instance_period (instance_key, org, centre_key, cluster_key, amounts, began_at) "
               "VALUES (?, ?, ?, ?, ?, ?)", (found.key, found.org, found.centre_key, found.cluster_key, text, at))


def close_period(tx: Tx, key: str, *, at: float, why: str) -> bool:
    """Nothing of the instance runs from now on; False when nothing did."""
    return bool(tx.run("UPDATE instance_period SET ended_at = ?, why = ? WHERE instance_key = ? AND ended_at IS NULL",
                       (at, why, key)).rowcount == 1)


def running_keys() -> set[str]:
    """Instances with an open period."""
    return {row[0] for row in read().all("SELECT instance_key FROM instance_period WHERE ended_at IS NULL")}


def periods(key: str) -> list[Row]:
    """(began_at, ended_at, amounts, why) of an instance, in order."""
    return read().all("SELECT began_at, ended_at, amounts, why FROM instance_period WHERE instance_key = ? ORDER BY began_at, id",
                      (key,))


# asking


def get(number: int) -> Instance | None:
    """One instance by id."""
    row = read().one(f"SELECT {COLUMNS} FROM instance WHERE id = ?", (number,))
    return Instance(*row) if row else None


def by_key(key: str) -> Instance | None:
    """One instance by key, deleted ones too."""
    row = read().one(f"SELECT {COLUMNS} FROM instance WHERE key = ?", (key,))
    return Instance(*row) if row else None


def listed(*, centre: str = "", cluster: str = "", org: str | None = None, limit: int | None = None, offset: int = 0,
           order: str = "id", down: bool = False) -> tuple[int, list[Instance]]:
    """(how many there are, one page) of those not deleted; `order` is a column."""
    where, args = [f"state IN ({_KEPT})"], []  # type: tuple[list[str], list[Any]]
    for column, value in (("centre_key", centre), ("cluster_key", cluster)):
        if value:
            where.append(f"{column} = ?")
            args.append(value)
    if org is not None:
        where.append("org = ?")
        args.append(org)
    condition, way = " AND ".join(where), " DESC" if down else ""
    sql = f"SELECT {COLUMNS} FROM instance WHERE {condition} ORDER BY {_quoted(order)}{way}, id{way}"
    if limit is None:
        rows = read().all(sql, args)
        return len(rows), [Instance(*row) for row in rows]
    total = int(read().value(f"SELECT count(*) FROM instance WHERE {condition}", args))
    return total, [Instance(*row) for row in read().all(f"{sql} LIMIT ? OFFSET ?", (*args, limit, offset))]


def count(cluster: str) -> int:
    """How many instances a cluster has that hold something of it."""
    return int(read().value(f"SELECT count(*) FROM instance WHERE cluster_key = ? AND state IN ({_HOLDING})", (cluster,)))


def held(tx: Tx, centre: str) -> list[Row]:
    """(cluster key, amounts as JSON) of everything in a centre that the books hold."""
    return tx.all("SELECT cluster_key, amounts FROM instance WHERE centre_key = ? AND amounts <> '[]'", (centre,))


def with_node_port(tx: Tx, cluster: str, port: int, *, but: str = "") -> str | None:
    """The key of the instance that has this port in the cluster."""
    value = tx.value(f"SELECT key FROM instance WHERE cluster_key = ? AND node_port = ? AND key <> ? AND state IN ({_HOLDING})",
                     (cluster, port, but))
    return None if value is None else str(value)


def in_namespace(namespace: str, cluster: str, *, but: str) -> int:
    """How many other instances have their objects in this namespace."""
    return int(read().value(f"SELECT count(*) FROM instance WHERE cluster_key = ? AND namespace = ? AND key <> ? "
                            f"AND state IN ({_HOLDING})", (cluster, namespace, but)))


def due(at: float, *, limit: int) -> list[Instance]:
    """What was left on its way (a process died, a cluster was away), the longest due first."""
    return [Instance(*row) for row in read().all(
        f"SELECT {COLUMNS} FROM instance WHERE (state IN ('wanted', 'deleting') OR sweep > 0) AND not_before <= ? "
        "ORDER BY not_before, id LIMIT ?", (at, limit))]


def clusters_in_use() -> list[str]:
    """Clusters in which instances have objects."""
    return [row[0] for row in read().all("SELECT DISTINCT cluster_key FROM instance WHERE state IN ('applied', 'stopped') "
                                         "ORDER BY cluster_key")]


def to_look_at(cluster: str) -> list[Instance]:
    """Instances of a cluster whose objects are in it, by id."""
    return [Instance(*row) for row in read().all(
        f"SELECT {COLUMNS} FROM instance WHERE cluster_key = ? AND state IN ('applied', 'stopped') ORDER BY id", (cluster,))]


def of_org(org: str, *, states: Iterable[str]) -> list[Instance]:
    """An organisation's instances in these states."""
    wanted = tuple(states)
    sql = f"SELECT {COLUMNS} FROM instance WHERE org = ? AND state IN ({', '.join('?' * len(wanted))}) ORDER BY id"
    return [Instance(*row) for row in read().all(sql, (org, *wanted))]


def _quoted(name: str) -> str:
    return '"user"' if name == "user" else name
