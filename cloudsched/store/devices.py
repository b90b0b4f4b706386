"""How are machines that report to us kept? A row beside the node, times of being online, probes, and who is to be told what."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cloudsched.store import clouds, events
from cloudsched.store.db import Row, Tx, read

CLOUD, KIND = "devices", "Agent"
COUNTER = "devices"
AGENT, WORKER, LEGACY, MACHINE = "agent", "worker", "legacy", "machine"
PING, UPGRADE, UPGRADE_TOLD = 1, 2, 4
LIVE = "('requested', 'starting', 'running', 'stopping')"


class Device(NamedTuple):
    """A row of `device` with what of its node is needed beside it."""

    node_id: int
    device_id: str
    role: str
    os: str
    via: str
    token_hash: str
    accepts_tasks: int
    online_since: float | None
    takes: str
    asked: int
    stops: str
    sent: float | None
    received: float | None
    registered_at: float
    last_error: str
    state: str
    goal: str
    last_seen_at: float | None
    slots: int
    address: str
    version: int


_OWN = ("d.node_id, d.device_id, d.role, d.os, d.via, d.token_hash, d.accepts_tasks, d.online_since, d.takes, d.asked, d.stops, "
        "d.sent, d.received, d.registered_at, d.last_error, n.state, n.goal, n.last_seen_at, n.slots, n.address, n.version")


class Listed(NamedTuple):
    """A machine as lists read it: device members are None for one that has not reported yet."""

    node_id: int
    device_id: str
    hostname: str
    state: str
    goal: str
    cloud_id: int
    user: str
    vm_type: str
    cores: int
    memory_mb: int
    storage_gb: int
    slots: int
    address: str
    last_seen_at: float | None
    joined_at: float | None
    version: int
    role: str | None
    os: str | None
    via: str | None
    accepts_tasks: int | None
    online_since: float | None
    heartbeats: int | None
    completed: int | None
    failed: int | None
    last_error: str | None
    takes: str | None
    registered_at: float | None
    created_at: float


_LISTED = ('n.id, COALESCE(d.device_id, n.name), n.hostname, n.state, n.goal, n.cloud_id, n."user", n.vm_type, n.cores, '
           "n.memory_mb, n.storage_gb, n.slots, n.address, n.last_seen_at, n.registered_at, n.version, d.role, d.os, d.via, "
           "d.accepts_tasks, d.online_since, d.heartbeats, d.completed, d.failed, d.last_error, d.takes, d.registered_at, "
           "n.created_at")
_FROM = (" FROM node n LEFT JOIN device d ON d.node_id = n.id WHERE n.state IN " + LIVE +
         " AND n.slots > 0 AND NOT EXISTS (SELECT 1 FROM log_agent a WHERE a.node_id = n.id)")


def changed(tx: Tx) -> None:
    """The list has changed, or what a machine says of itself (see `version`)."""
    tx.run("UPDATE counter SET value = value + 1 WHERE name = ?", (COUNTER,))


def version() -> int:
    """Grows when a machine comes, goes, or says something else of itself."""
    return int(read().value("SELECT value FROM counter WHERE name = ?", (COUNTER,)) or 0)


# reading


def by_id(tx: Tx, device_id: str) -> Device | None:
    """The machine of this id that is here (its node may have ended without its row being told)."""
    row = tx.one(f"SELECT {_OWN} FROM device d JOIN node n ON n.id = d.node_id WHERE d.device_id = ? AND d.removed_at IS NULL",
                 (device_id,))
    return Device(*row) if row else None


def of_node(tx: Tx, node_id: int) -> Device | None:
    """The row of a node, if it is here."""
    row = tx.one(f"SELECT {_OWN} FROM device d JOIN node n ON n.id = d.node_id WHERE d.node_id = ? AND d.removed_at IS NULL",
                 (node_id,))
    return Device(*row) if row else None


def listed(*, node_id: int | None = None) -> list[Listed]:
    """All machines that have not ended (or one), in the order of their nodes; log agents are none."""
    where, args = ("", ()) if node_id is None else (" AND n.id = ?", (node_id,))
    return [Listed(*row) for row in read().all(f"SELECT {_LISTED}{_FROM}{where} ORDER BY n.id", args)]


def node_of(device_id: str) -> int | None:
    """The node of a device, or of a machine that is called so and has not reported yet."""
    tx = read()
    found = tx.value("SELECT d.node_id FROM device d JOIN node n ON n.id = d.node_id WHERE d.device_id = ? "
                     f"AND d.removed_at IS NULL AND n.state IN {LIVE}", (device_id,))
    if found is None:
        found = tx.value(f"SELECT n.id{_FROM} AND n.name = ? AND d.node_id IS NULL", (device_id,))
    return None if found is None else int(found)


def some_ids(limit: int) -> list[str]:
    """A few ids of devices that are here."""
    return [row[0] for row in read().all(f"SELECT COALESCE(d.device_id, n.name){_FROM} ORDER BY 1 LIMIT ?", (limit,))]


def ids(node_ids: Iterable[int]) -> dict[int, str]:
    """node -> device id, removed ones too; machines without a row by their name."""
    wanted = sorted(set(node_ids))
    found: dict[int, str] = {}
    for begin in range(0, len(wanted), 500):
        part = wanted[begin:begin + 500]
        sql = ("SELECT n.id, COALESCE(d.device_id, n.name) FROM node n LEFT JOIN device d ON d.node_id = n.id "
               f"WHERE n.id IN ({_marks(part)})")
        found.update(read().all(sql, part))
    return found


def texts(node_ids: Sequence[int], column: str) -> dict[int, str]:
    """node -> its `facts` or `metrics` as JSON text."""
    assert column in ("facts", "metrics")
    found: dict[int, str] = {}
    for begin in range(0, len(node_ids), 500):
        part = node_ids[begin:begin + 500]
        found.update(read().all(f"SELECT id, {column} FROM node WHERE id IN ({_marks(part)})", part))
    return found


def heard_since(since: float, limit: int) -> list[Row]:
    """(device id, last contact, metrics) of devices heard from after `since`, in that order."""
    return read().all(f"SELECT COALESCE(d.device_id, n.name), n.last_seen_at, n.metrics{_FROM} AND n.last_seen_at > ? "
                      "ORDER BY n.last_seen_at LIMIT ?", (since, limit))


def heard_from(since: float) -> frozenset[int]:
    """Nodes with a row here that were heard from since then."""
    rows = read().all("SELECT d.node_id FROM device d JOIN node n ON n.id = d.node_id WHERE n.last_seen_at >= ? "
                      f"AND n.state IN {LIVE}", (since,))
    return frozenset(row[0] for row in rows)


def periods(since: float, *, node_id: int | None = None) -> list[Row]:
    """(node, began, last contact) of times of being online that reach beyond `since`."""
    where, args = ("", [since]) if node_id is None else (" AND node_id = ?", [since, node_id])  # type: tuple[str, list[Any]]
    return read().all(f"SELECT node_id, began_at, last_contact_at FROM device_period WHERE last_contact_at >= ?{where}", args)


# writing


def insert(tx: Tx, node_id: int, values: Mapping[str, Any], *, at: float, note: Mapping[str, Any]) -> None:
    """A machine is here for the first time: its row, online from now on."""
    given = {"node_id": node_id, "role": "", "os": "", "token_hash": "", "accepts_tasks": 0, "internet": 1, "online_since": at,
             "heartbeats": 0, "completed": 0, "failed": 0, "last_error": "", "takes": "", "asked": 0, "stops": "",
             "registered_at": at, **values}
    tx.run(f"INSERT INTO device ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})", tuple(given.values()))
    changed(tx)
    facts = {"device": values["device_id"], **note}
    events.append(tx, "device.register", ("node", node_id), at=at, **facts)
    events.append(tx, "device.online", ("node", node_id), at=at, device=values["device_id"])


def update(tx: Tx, node_id: int, **facts: Any) -> None:
    """Set columns of the row."""
    tx.run(f"UPDATE device SET {', '.join(f'{name} = ?' for name in facts)} WHERE node_id = ?", (*facts.values(), node_id))


def beat(tx: Tx, node_id: int, *, beats: int, sent: float | None, received: float | None, online_since: float | None) -> None:
    """The machine was heard from; None leaves what is there."""
    tx.run("UPDATE device SET heartbeats = heartbeats + ?, sent = COALESCE(?, sent), received = COALESCE(?, received), "
           "online_since = COALESCE(?, online_since) WHERE node_id = ?", (beats, sent, received, online_since, node_id))


def count_tasks(tx: Tx, node_id: int, *, completed: int = 0, failed: int = 0, error: str = "") -> None:
    """Tasks ended on the machine; `error`: why the last one failed."""
    if completed or failed:
        tx.run("UPDATE device SET completed = completed + ?, failed = failed + ?, "
               "last_error = CASE WHEN ? = '' THEN last_error ELSE ? END WHERE node_id = ?",
               (completed, failed, error[:500], error[:500], node_id))


def went_offline(tx: Tx, device: Device, *, at: float) -> bool:
    """Its time of being online is over. False when somebody else has noted that already, or it was heard from meanwhile."""
    sql = ("UPDATE device SET online_since = NULL WHERE node_id = ? AND online_since = ? AND (SELECT last_seen_at FROM node "
           "WHERE id = ?) = ?")
    if tx.run(sql, (device.node_id, device.online_since, device.node_id, device.last_seen_at)).rowcount != 1:
        return False
    end_period(tx, device.node_id, device.online_since or at, device.last_seen_at or at)
    note_offline(tx, device.node_id, device.device_id, at=at, seen_at=device.last_seen_at or at)
    return True


def note_offline(tx: Tx, node_id: int, device_id: str, *, at: float, seen_at: float) -> None:
    """It is known now that the machine has gone offline."""
    events.append(tx, "device.offline", ("node", node_id), at=at, device=device_id, last_seen_at=seen_at)


def end_period(tx: Tx, node_id: int, began_at: float, last_contact_at: float) -> None:
    """Keep a time of being online."""
    tx.run("INSERT INTO device_period (node_id, began_at, last_contact_at) VALUES (?, ?, ?) ON CONFLICT (node_id, began_at) "
           "DO UPDATE SET last_contact_at = excluded.last_contact_at", (node_id, began_at, last_contact_at))


def came_online(tx: Tx, node_id: int, device_id: str, *, at: float) -> None:
    """It is heard from again; the row is written by `beat`."""
    events.append(tx, "device.online", ("node", node_id), at=at, device=device_id)


def remove(tx: Tx, device: Device, *, at: float, actor: str, reason: str) -> bool:
    """The machine is a device no more. False when it was removed before."""
    if tx.run("UPDATE device SET removed_at = ?, online_since = NULL, token_hash = '' WHERE node_id = ? AND removed_at IS NULL",
              (at, device.node_id)).rowcount != 1:
        return False
    if device.online_since is not None and device.last_seen_at is not None:
        end_period(tx, device.node_id, device.online_since, device.last_seen_at)
    changed(tx)
    events.append(tx, "device.remove", ("node", device.node_id), at=at, actor=actor, device=device.device_id, reason=reason)
    return True


def cloud_id(tx: Tx, at: float) -> int:
    """The cloud `devices`, made when the first one comes."""
    found = tx.value("SELECT id FROM cloud WHERE name = ?", (CLOUD,))
    if found is not None:
        return int(found)
    return clouds.insert(tx, {"name": CLOUD, "title": CLOUD, "kind": KIND, "max_slots": -1, "enabled": 1, "position": 9998,
                              "source": "system"}, at=at)


# who is to be told what


def ask(tx: Tx, node_id: int, bits: int) -> bool:
    """The agent of this node is to be told something with its next call."""
    return bool(tx.run("UPDATE device SET asked = asked | ? WHERE node_id = ? AND removed_at IS NULL", (bits, node_id)).rowcount)


def told(tx: Tx, node_id: int, *, clear: int = 0, mark: int = 0) -> None:
    """It was told."""
    tx.run("UPDATE device SET asked = (asked & ?) | ? WHERE node_id = ?", (~clear & 0xFF, mark, node_id))


def stop_task(tx: Tx, device: Device, task_id: str, *, until: float, at: float) -> None:
    """A worker without a channel of its own is told with each answer to stop a task."""
    stops = {name: end for name, end in json.loads(device.stops or "{}").items() if end > at}
    update(tx, device.node_id, stops=json.dumps({**stops, task_id: until}))


# probes


def add_ping(tx: Tx, node_id: int, *, at: float) -> int:
    """A probe for the agent's own channel; returns its id."""
    number = int(tx.value("UPDATE counter SET value = value + 1 WHERE name = 'device_ping' RETURNING value"))
    tx.run("INSERT INTO device_ping (id, node_id, asked_at) VALUES (?, ?, ?)", (number, node_id, at))
    ask(tx, node_id, PING)
    return number


def send_pings(tx: Tx, node_id: int, *, at: float) -> list[int]:
    """Probes that go out with this answer."""
    rows = tx.all("UPDATE device_ping SET sent_at = ? WHERE node_id = ? AND sent_at IS NULL AND answered_at IS NULL RETURNING id",
                  (at, node_id))
    told(tx, node_id, clear=PING)
    return [int(row[0]) for row in rows]


def answer_pings(tx: Tx, node_id: int, ids_: Sequence[int], *, at: float) -> None:
    """Probes that came back."""
    tx.many("UPDATE device_ping SET answered_at = ? WHERE id = ? AND node_id = ? AND sent_at IS NOT NULL AND answered_at IS NULL",
            [(at, number, node_id) for number in ids_])


def pings(ids_: Sequence[int]) -> dict[int, tuple[float | None, float | None]]:
    """id -> (sent, answered)."""
    if not ids_:
        return {}
    return {row[0]: (row[1], row[2]) for row in
            read().all(f"SELECT id, sent_at, answered_at FROM device_ping WHERE id IN ({_marks(ids_)})", ids_)}


def close_pings(tx: Tx, ids_: Sequence[int]) -> None:
    """Nobody waits for these any more."""
    tx.run(f"DELETE FROM device_ping WHERE id IN ({_marks(ids_)})", ids_)


def forget_pings(tx: Tx, before: float) -> None:
    """Delete old probes."""
    tx.run("DELETE FROM device_ping WHERE asked_at < ?", (before,))


# what the engine looks for


def silent(before: float) -> list[Device]:
    """Machines that count as online and were not heard from since `before`."""
    return [Device(*row) for row in read().all(
        f"SELECT {_OWN} FROM device d JOIN node n ON n.id = d.node_id WHERE d.online_since IS NOT NULL AND d.removed_at IS NULL "
        f"AND n.last_seen_at < ? AND n.state IN {LIVE}", (before,))]


def holding(tx: Tx, before: float) -> list[int]:
    """Devices that hold jobs but were not heard from since `before` (ordinary machines have leases: store.nodes.silent)."""
    sql = ("SELECT DISTINCT n.id FROM job j JOIN node n ON n.id = j.node_id JOIN device d ON d.node_id = n.id "
           f"WHERE j.state IN ('assigned', 'running') AND d.via <> '{MACHINE}' AND d.removed_at IS NULL AND n.last_seen_at < ?")
    return [row[0] for row in tx.all(sql, (before,))]


def ended(tx: Tx) -> list[Device]:
    """Devices whose node has ended."""
    return [Device(*row) for row in tx.all(
        f"SELECT {_OWN} FROM device d JOIN node n ON n.id = d.node_id WHERE d.removed_at IS NULL AND n.state NOT IN {LIVE}")]


def forget(tx: Tx, before: float) -> None:
    """Delete periods that ended before, and rows of nodes that were forgotten."""
    tx.run("DELETE FROM device_period WHERE last_contact_at < ?", (before,))
    tx.run("DELETE FROM device WHERE removed_at < ? AND NOT EXISTS (SELECT 1 FROM node n WHERE n.id = device.node_id)", (before,))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
