"""How are compute centres, their hosts and labels kept? Insert, change, look up, lists by page; who did what there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import columns
from cloudsched.store import events
from cloudsched.store.db import Row, Tx, read


@dataclass(frozen=True, slots=True)
class Centre:
    """A compute centre; `api_pwd` is a sealed token."""

    id: int
    key: str
    cloud_id: int
    name: str
    org: str
    pcapi_url: str
    api_user: str
    api_pwd: str
    enable_date: str
    expire_date: str
    contactname: str
    contactphone: str
    expiry_noted: str
    created_at: float
    updated_at: float
    removed_at: float | None


@dataclass(frozen=True, slots=True)
class Host:
    """A machine of a centre; `adminpwd` is a sealed token. Memory and disks in Gi, GPUs in cards, CPUs in cores."""

    id: int
    key: str
    node_id: int
    centre_key: str
    name: str
    cluster_key: str
    node_status: str
    ip: str
    devicetype: str
    sshport: int
    adminuser: str
    adminpwd: str
    enable_date: str
    export_date: str
    external_ip: str
    cpu_model: str
    cpu_stock: int
    memory_model: str
    memory_stock: int
    sysdisk_stock: int
    datadisk_stock: int
    gpu_model: str
    gpu_stock: int
    role: str
    options: str
    created_at: float
    updated_at: float
    removed_at: float | None


@dataclass(frozen=True, slots=True)
class Label:
    """A label of an organisation."""

    id: int
    key: str
    name: str
    org: str
    labeltype: str
    label_key: str
    label_value: str
    updated_at: float


CENTRE, HOST, LABEL = columns(Centre), columns(Host), columns(Label)
_TABLES = {"centre": CENTRE, "centre_host": HOST, "centre_label": LABEL}
IDLE, OCCUPIED = "0", "1"


# any of the three


def insert(tx: Tx, table: str, values: Mapping[str, Any]) -> int:
    """Insert a row of `centre`, `centre_host` or `centre_label`; returns its id."""
    assert table in _TABLES
    sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))}) RETURNING id"
    return int(tx.value(sql, tuple(values.values())))


def update(tx: Tx, table: str, number: int, *, where: str = "", args: Sequence[Any] = (), **facts: Any) -> bool:
    """Set columns; False when there is no such row, or `where` (made from constants) does not hold."""
    assert table in _TABLES
    sets = ", ".join(f"{name} = ?" for name in facts)
    sql = f"UPDATE {table} SET {sets} WHERE id = ?{f' AND ({where})' if where else ''}"
    return bool(tx.run(sql, (*facts.values(), number, *args)).rowcount == 1)


def note(tx: Tx, kind: str, subject: tuple[str, int], *, at: float, actor: str, org: str, **data: Any) -> None:
    """One line of the audit: an event that names who did it, for which organisation."""
    events.append(tx, kind, subject, at=at, actor=actor, org=org, **data)


# centres


def centre(key: str, *, removed: bool = False) -> Centre | None:
    """One centre by key; one that was removed only when asked for."""
    row = read().one(f"SELECT {CENTRE} FROM centre WHERE key = ?{'' if removed else ' AND removed_at IS NULL'}", (key,))
    return Centre(*row) if row else None


def centre_of_cloud(cloud_id: int) -> Centre | None:
    """The centre behind a cloud of kind Centre, removed or not."""
    row = read().one(f"SELECT {CENTRE} FROM centre WHERE cloud_id = ?", (cloud_id,))
    return Centre(*row) if row else None


def all_centres(*, org: str | None = None) -> list[Centre]:
    """The centres there are, of one organisation or of all, in the order in which they were made."""
    where, args = (" AND org = ?", (org,)) if org is not None else ("", ())
    return [Centre(*row) for row in read().all(f"SELECT {CENTRE} FROM centre WHERE removed_at IS NULL{where} ORDER BY id", args)]


def centre_named(name: str, org: str) -> Centre | None:
    """A centre by the name it has in its organisation."""
    row = read().one(f"SELECT {CENTRE} FROM centre WHERE name = ? AND org = ? AND removed_at IS NULL", (name, org))
    return Centre(*row) if row else None


def key_taken(table: str, key: str) -> bool:
    """Does a row have this key already?"""
    assert table in _TABLES
    return read().one(f"SELECT 1 FROM {table} WHERE key = ?", (key,)) is not None


# hosts


def host(key: str, *, removed: bool = False) -> Host | None:
    """One host by key; one that was removed only when asked for."""
    row = read().one(f"SELECT {HOST} FROM centre_host WHERE key = ?{'' if removed else ' AND removed_at IS NULL'}", (key,))
    return Host(*row) if row else None


def host_of_node(node_id: int) -> Host | None:
    """The host behind a node, removed or not."""
    row = read().one(f"SELECT {HOST} FROM centre_host WHERE node_id = ?", (node_id,))
    return Host(*row) if row else None


def hosts_of(centre_key: str, *, cluster_key: str | None = None) -> list[Host]:
    """All hosts of a centre (or of one cluster of it), in the order in which they were added."""
    where, args = (" AND cluster_key = ?", (centre_key, cluster_key)) if cluster_key is not None else ("", (centre_key,))
    return [Host(*row) for row in read().all(
        f"SELECT {HOST} FROM centre_host WHERE centre_key = ? AND removed_at IS NULL{where} ORDER BY id", args)]


def hosts_with_nodes(centre_key: str, states: Sequence[str]) -> list[Host]:
    """The hosts of a centre whose node is in one of these states."""
    names = ", ".join(f"h.{name.strip()}" for name in HOST.split(","))
    marks = ", ".join("?" * len(states))
    return [Host(*row) for row in read().all(
        f"SELECT {names} FROM centre_host h JOIN node n ON n.id = h.node_id WHERE h.centre_key = ? AND h.removed_at IS NULL "
        f"AND n.state IN ({marks}) ORDER BY h.id", (centre_key, *states))]


def hosts_at(ip: str, sshport: int) -> list[Host]:
    """The hosts of all centres that are reached there: one look at the index for each centre."""
    names = ", ".join(f"h.{name.strip()}" for name in HOST.split(","))
    return [Host(*row) for row in read().all(
        f"SELECT {names} FROM centre c CROSS JOIN centre_host h WHERE c.removed_at IS NULL AND h.centre_key = c.key "
        "AND h.ip = ? AND h.sshport = ? AND h.removed_at IS NULL ORDER BY h.id", (ip, sshport))]


def host_of_both(centre_key: str, others: Sequence[str]) -> tuple[Host, Host] | None:
    """A host of a centre and one of other centres that are reached at the same address; None when there are none."""
    if not others:
        return None
    marks = ", ".join("?" * len(others))
    row = read().one("SELECT a.key, b.key FROM centre_host a JOIN centre_host b ON b.ip = a.ip AND b.sshport = a.sshport "
                     f"WHERE a.centre_key = ? AND a.removed_at IS NULL AND b.centre_key IN ({marks}) AND b.removed_at IS NULL "
                     "ORDER BY a.id LIMIT 1", (centre_key, *others))
    found = [host(key) for key in row] if row else []
    return (found[0], found[1]) if len(found) == 2 and found[0] and found[1] else None


# What a list of hosts may be sorted by.
HOST_ORDER = ("name", "ip", "role", "node_status", "devicetype", "sshport", "enable_date", "export_date", "cpu_stock",
              "memory_stock", "sysdisk_stock", "datadisk_stock", "gpu_model", "gpu_stock", "cpu_model", "memory_model", "id")


# What a long list reads of each host, in the order of the tuples of `host_page`; the name of its cluster comes last.
HOST_LISTED = ("key", "name", "cluster_key", "node_status", "ip", "devicetype", "sshport", "adminuser", "adminpwd", "enable_date",
               "export_date", "external_ip", "cpu_model", "cpu_stock", "memory_model", "memory_stock", "sysdisk_stock",
               "datadisk_stock", "gpu_model", "gpu_stock", "role")


def host_page(centre_key: str, *, order: str = "id", down: bool = False, limit: int | None = None, offset: int = 0,
              status: str | None = None) -> tuple[int, list[Row]]:
    """(how many there are, one page): tuples of HOST_LISTED and the cluster's name."""
    assert order in HOST_ORDER
    where, args = "h.centre_key = ? AND h.removed_at IS NULL", [centre_key]  # type: tuple[str, list[Any]]
    if status is not None:
        where += " AND h.node_status = ?"
        args.append(status)
    way = " DESC" if down else ""
    sql = (f"SELECT {', '.join(f'h.{name}' for name in HOST_LISTED)}, c.name FROM centre_host h LEFT JOIN cluster c "
           f"ON c.key = h.cluster_key WHERE {where} ORDER BY h.{order}{way}{'' if order == 'id' else ', h.id'}")
    if limit is not None:
        sql += f" LIMIT {int(limit)} OFFSET {int(offset)}"
    rows = read().all(sql, args)
    if limit is None:
        return len(rows), rows
    return int(read().value(f"SELECT count(*) FROM centre_host h WHERE {where}", args)), rows


def count_hosts(centre_key: str) -> int:
    """How many hosts a centre has."""
    return int(read().value("SELECT count(*) FROM centre_host WHERE centre_key = ? AND removed_at IS NULL", (centre_key,)))


# labels


def label(key: str) -> Label | None:
    """One label by key."""
    row = read().one(f"SELECT {LABEL} FROM centre_label WHERE key = ?", (key,))
    return Label(*row) if row else None


def labels(*, org: str | None = None, labeltype: str | None = None) -> list[Label]:
    """The labels of an organisation, or of all."""
    where, args = ["1 = 1"], []  # type: tuple[list[str], list[Any]]
    if org is not None:
        where.append("org = ?")
        args.append(org)
    if labeltype is not None:
        where.append("labeltype = ?")
        args.append(labeltype)
    return [Label(*row) for row in read().all(
        f"SELECT {LABEL} FROM centre_label WHERE {' AND '.join(where)} ORDER BY id", args)]


def delete_label(tx: Tx, number: int) -> bool:
    """Forget a label."""
    return bool(tx.run("DELETE FROM centre_label WHERE id = ?", (number,)).rowcount == 1)


# requests of managing servers


def begun(reference: str) -> int | None:
    """The operation that a request began."""
    value = read().value("SELECT operation_id FROM centre_request WHERE reference = ?", (reference,))
    return None if value is None else int(value)


def begun_at(reference: str) -> tuple[int, float]:
    """The operation that a request began, and when; zeros for none."""
    row = read().one("SELECT operation_id, at FROM centre_request WHERE reference = ?", (reference,))
    return (int(row[0]), float(row[1])) if row else (0, 0.0)


def remember(tx: Tx, reference: str, operation_id: int, *, at: float) -> None:
    """A request began this operation (instead of any earlier one)."""
    tx.run("DELETE FROM centre_request WHERE reference = ?", (reference,))
    tx.run("INSERT INTO centre_request (reference, operation_id, at) VALUES (?, ?, ?)", (reference, operation_id, at))


def forget_requests(tx: Tx, before: float) -> None:
    """Drop what was asked before a time."""
    tx.run("DELETE FROM centre_request WHERE at < ?", (before,))


# the audit


AUDITED = ("centre.", "part.", "instance.", "budget.", "cluster.")


def audit(*, org: str | None = None, limit: int = 100, offset: int = 0, kind: str = "", actor: str = "",
          since: float = 0.0) -> tuple[int, list[dict[str, Any]]]:
    """(how many there are, one page): who did what to centres, hosts, clusters, parts and instances, newest first.

    With `org` only what was done for that organisation: the event's data say which.
    """
    prefixes = [prefix for prefix in AUDITED if prefix.startswith(kind) or kind.startswith(prefix)] or ["\x01"]
    where = [f"({' OR '.join([_LIKE.format('kind')] * len(prefixes))})", "at >= ?", "actor <> ''"]
    args: list[Any] = [*(f"{_plain(kind if kind.startswith(prefix) else prefix)}%" for prefix in prefixes), since]
    if actor:
        where.append("actor = ?")
        args.append(actor)
    if org is not None:
        where.append(_LIKE.format("data"))
        args.append("%" + _plain('"org": ' + json.dumps(org)) + "%")
    condition = " AND ".join(where)
    total = int(read().value(f"SELECT count(*) FROM event WHERE {condition}", args))
    rows = read().all(f"SELECT id, at, kind, subject_kind, subject_id, actor, data FROM event WHERE {condition} "
                      "ORDER BY id DESC LIMIT ? OFFSET ?", (*args, limit, offset))
    names = ("id", "at", "kind", "subject_kind", "subject_id", "actor")
    return total, [{**dict(zip(names, row, strict=False)), "data": json.loads(row[6])} for row in rows]


_LIKE = "{} LIKE ? ESCAPE '!'"


def _plain(text: str) -> str:
    """A text that LIKE takes as it is."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


# what lies beside


def operation_on(kind: str, cluster_id: int) -> int:
    """The newest operation of a kind that is under way for a cluster; 0 when there is none."""
    return int(read().value("SELECT id FROM operation WHERE kind = ? AND subject_kind = 'cluster' AND subject_id = ? "
                            "AND state IN ('queued', 'running') ORDER BY id DESC LIMIT 1", (kind, cluster_id)) or 0)


def operations_on(cluster_id: int) -> list[int]:
    """All operations that are under way for a cluster."""
    return [int(row[0]) for row in read().all("SELECT id FROM operation WHERE subject_kind = 'cluster' AND subject_id = ? "
                                              "AND state IN ('queued', 'running') ORDER BY id", (cluster_id,))]


def last_operation(kind: str, cluster_id: int) -> int:
    """The newest operation of a kind for a cluster, ended or not; 0 when there was none."""
    return int(read().value("SELECT id FROM operation WHERE kind = ? AND subject_kind = 'cluster' AND subject_id = ? "
                            "ORDER BY id DESC LIMIT 1", (kind, cluster_id)) or 0)


def operations_since(kinds: Sequence[str], since: float) -> list[tuple[int, str, str]]:
    """(id, state, request as JSON) of operations of these kinds that were begun since then, the oldest first."""
    marks = ", ".join("?" * len(kinds))
    return [(int(row[0]), str(row[1]), str(row[2])) for row in read().all(
        f"SELECT id, state, request FROM operation WHERE kind IN ({marks}) AND created_at >= ? ORDER BY id", (*kinds, since))]
