"""How are log agents kept? One row each beside its node; a counter that changes with the list, not with each contact."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from cloudsched.errors import Conflict
from cloudsched.store import clouds, events, nodes
from cloudsched.store.db import Tx, read
from cloudsched.store.moves import move

CLOUD = "log-agents"
KIND = "Agent"
COUNTER = "log_agents"


class Row(NamedTuple):
    """An agent as it is kept; times are epoch seconds."""

    id: int
    node_id: int
    url: str
    tag: str
    by_hand: int
    registered_at: float
    seen_at: float


_SELECT = ("SELECT a.id, a.node_id, a.url, a.tag, a.by_hand, a.registered_at, coalesce(n.last_seen_at, a.registered_at) "
           "FROM log_agent a JOIN node n ON n.id = a.node_id")


def version(tx: Tx | None = None) -> int:
    """Grows when an agent is added or removed, or its tag or switch changes."""
    return int((tx or read()).value("SELECT value FROM counter WHERE name = ?", (COUNTER,)) or 0)


def rows(*, tag: str = "", tx: Tx | None = None) -> list[Row]:
    """All agents, or those of a tag, in the order of their first registration."""
    where, args = (" WHERE a.tag = ?", (tag,)) if tag else ("", ())
    return [Row(*row) for row in (tx or read()).all(f"{_SELECT}{where} ORDER BY a.id", args)]


def get(number: int) -> Row | None:
    """One agent by its number."""
    row = read().one(f"{_SELECT} WHERE a.id = ?", (number,))
    return Row(*row) if row else None


def by_url(tx: Tx, url: str) -> Row | None:
    """One agent by its URL."""
    row = tx.one(f"{_SELECT} WHERE a.url = ?", (url,))
    return Row(*row) if row else None


def seen() -> list[tuple[int, float]]:
    """(id, last contact) of every agent."""
    return read().all("SELECT a.id, n.last_seen_at FROM log_agent a JOIN node n ON n.id = a.node_id")


def add(tx: Tx, url: str, tag: str, *, at: float, labels: Mapping[str, str] | None = None) -> Row:
    """A new agent at the end of the list, with its node. The list's counter is taken first: it keeps adders in line."""
    changed(tx)
    known = by_url(tx, url)
    if known is not None:
        return known
    node_id = nodes.insert(tx, {
        "name": _name(url), "external_id": url, "cloud_id": _cloud(tx, at), "state": "running", "status": "Running",
        "cores": 0, "slots": 0, "hostname": urlsplit(url).hostname or "", "address": urlsplit(url).hostname or "",
        "facts": _facts(url, tag, labels), "running_at": at, "last_seen_at": at, "boot_requested_at": at,
    }, at=at, event="node.join", note={"log_agent": url, "tag": tag})
    number = int(tx.value("INSERT INTO log_agent (node_id, url, tag, by_hand, registered_at) VALUES (?, ?, ?, 0, ?) "
                          "RETURNING id", (node_id, url, tag, at)))
    return Row(number, node_id, url, tag, 0, at, at)


def set_tag(tx: Tx, number: int, tag: str, *, at: float, labels: Mapping[str, str] | None = None) -> bool:
    """The agent said another tag. False when it is not on the list any more."""
    changed(tx)
    row = tx.one("SELECT node_id, url, tag FROM log_agent WHERE id = ?", (number,))
    if row is None:
        return False
    node_id, url, before = row
    tx.run("UPDATE log_agent SET tag = ? WHERE id = ?", (tag, number))
    note = {"from": before, "to": tag}
    nodes.update(tx, node_id, event="node.tag" if before != tag else "", at=at, note=note, facts=_facts(url, tag, labels),
                 last_seen_at=at)
    return True


def set_labels(tx: Tx, node_id: int, url: str, tag: str, labels: Mapping[str, str]) -> None:
    """The agent says something else of itself now."""
    nodes.update(tx, node_id, facts=_facts(url, tag, labels))


def labels(node_ids: Sequence[int]) -> dict[int, dict[str, str]]:
    """Node of the agent -> its labels, of those that have any."""
    if not node_ids:
        return {}
    rows = read().all(f"SELECT id, facts FROM node WHERE id IN ({', '.join('?' * len(node_ids))})", tuple(node_ids))
    found = {number: json.loads(facts or "{}").get("labels") for number, facts in rows}
    return {number: labels for number, labels in found.items() if labels}


def of_ended_nodes(silent_before: float) -> list[int]:
    """Numbers of agents that were not heard from since, and said to be on a node that has ended since."""
    rows = read().all("SELECT a.id, n.facts FROM log_agent a JOIN node n ON n.id = a.node_id "
                      "WHERE n.last_seen_at < ? AND n.facts LIKE ?", (silent_before, '%"node_id"%'))
    said = {number: (json.loads(facts).get("labels") or {}).get("node_id", "") for number, facts in rows}
    wanted = sorted({int(text) for text in said.values() if text.isdigit() and len(text) < 19})
    here = set()
    for start in range(0, len(wanted), 500):
        some = wanted[start:start + 500]
        here |= {row[0] for row in read().all(
            f"SELECT id FROM node WHERE state IN {nodes.LIVE} AND id IN ({', '.join('?' * len(some))})", tuple(some))}
    return [number for number, text in said.items() if text.isdigit() and int(text) not in here]


def set_by_hand(tx: Tx, number: int, by_hand: bool, *, at: float, actor: str) -> bool:
    """Switch desired state off (or on again) for an agent. False when it is not on the list."""
    changed(tx)
    row = tx.one("SELECT node_id FROM log_agent WHERE id = ?", (number,))
    if row is None:
        return False
    tx.run("UPDATE log_agent SET by_hand = ? WHERE id = ?", (int(by_hand), number))
    events.append(tx, "node.by_hand", ("node", row[0]), at=at, actor=actor, by_hand=by_hand)
    return True


def touch(tx: Tx, contacts: Sequence[tuple[float, int]]) -> None:
    """Agents were heard from: (epoch, node id) pairs. Sorted, so that two writers do not wait for each other in a ring."""
    ordered = sorted(contacts, key=lambda pair: pair[1])
    tx.many("UPDATE node SET last_seen_at = ? WHERE id = ? AND (last_seen_at IS NULL OR last_seen_at < ?)",
            [(at, node_id, at) for at, node_id in ordered])


def remove(tx: Tx, *, tag: str = "", url: str = "", number: int | None = None, at: float, actor: str = "") -> list[Row]:
    """Forget the matching agents (no filter: all) and their nodes; returns those that were there."""
    changed(tx)
    found = [row for row in rows(tag=tag, tx=tx)
             if (not url or row.url == url) and (number is None or row.id == number)]
    for row in found:
        move(tx, "node", row.node_id, "release", at=at, actor=actor, note={"log_agent": row.url})
        tx.run("DELETE FROM node WHERE id = ?", (row.node_id,))
        tx.run("DELETE FROM log_agent WHERE id = ?", (row.id,))
        tx.run("DELETE FROM runner_target WHERE agent_id = ?", (row.id,))
    return found


def told_to_go() -> list[int]:
    """Numbers of agents whose nodes somebody had destroyed: they are to be forgotten."""
    return [row[0] for row in read().all("SELECT a.id FROM log_agent a JOIN node n ON n.id = a.node_id "
                                         "WHERE n.state <> 'running'")]


def count() -> int:
    """How many agents there are."""
    return int(read().value("SELECT count(*) FROM log_agent"))


def changed(tx: Tx) -> None:
    """The list changes: every process that has it in memory reads it again."""
    tx.run("UPDATE counter SET value = value + 1 WHERE name = ?", (COUNTER,))


def _facts(url: str, tag: str, labels: Mapping[str, str] | None) -> str:
    return json.dumps({"log_agent": True, "url": url, "tag": tag, **({"labels": dict(labels)} if labels else {})})


def _cloud(tx: Tx, at: float) -> int:
    found = clouds.by_name(CLOUD)
    if found is None:
        return clouds.insert(tx, {"name": CLOUD, "title": CLOUD, "kind": KIND, "max_slots": -1, "enabled": 1,
                                  "position": 9999, "source": "system"}, at=at)
    if found.kind != KIND:
        raise Conflict(f"a cloud named {CLOUD} of kind {found.kind} is in the way of the log agents' own: rename it")
    return found.id


def _name(url: str) -> str:
    """The node's name: host and port, or the whole URL when another node is called so."""
    short = url.partition("://")[2]
    taken = read().one("SELECT 1 FROM node WHERE name = ?", (short,)) is not None
    return f"{url}#log-agent" if taken else short
