"""What can be asked of nodes? Look, drain, resume, destroy, one or many; and wait until it is so."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Node
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services import lifecycle
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, clusters, nodes
from cloudsched.store.db import Tx, write

STATES = moves.NODE_STATES
_LOOK_FIRST_S, _LOOK_MOST_S = 0.05, 0.5


def find(reference: int | str) -> Node:
    """One node by number or name. Raises NotFound."""
    text = str(reference)
    node = nodes.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
    node = node or nodes.by_name(text)
    if node is None:
        raise NotFound(f"there is no node {text}")
    return node


def page(*, states: Sequence[str] = (), cloud: str = "", user: str = "", vm_type: str = "", after: int | None = None,
         limit: int = 100) -> list[dict[str, Any]]:
    """Nodes under filters, newest first, keyset-paged by id. Raises Invalid for an unknown state."""
    for state in states:
        if state not in STATES:
            raise Invalid.at("state", f"{state!r} is no node state", ", ".join(STATES))
    cloud_id = None
    if cloud:
        found = clouds.by_name(cloud, removed=True)
        if found is None:
            return []
        cloud_id = found.id
    rows = nodes.find(states=states, after=after, limit=limit, cloud_id=cloud_id, user=user, vm_type=vm_type)
    return views(rows)


def one(reference: int | str) -> dict[str, Any]:
    """One node as readers see it. Raises NotFound."""
    return views([find(reference)])[0]


def views(rows: Sequence[Node]) -> list[dict[str, Any]]:
    """Nodes as readers see them."""
    names = {cloud.id: cloud.name for cloud in clouds.all_clouds(removed=True)} if rows else {}
    busy = nodes.counts_in_hand() if rows else {}
    at, member_of = clock.now(), clusters.of_nodes(node.id for node in rows)
    return [{**_view(node, names.get(node.cloud_id, ""), busy.get(node.id, 0), at),
             "cluster": member_of[node.id][1] if node.id in member_of else None} for node in rows]


def _view(node: Node, cloud: str, busy: int, at: float) -> dict[str, Any]:
    plain = ("id", "name", "state", "goal", "status", "override", "user", "vm_type", "cores", "memory_mb", "storage_gb",
             "network", "image", "instance_type", "slots", "hostname", "address", "keep_alive_s", "external_id",
             "job_id", "error_count", "version")
    times = ("created_at", "boot_requested_at", "running_at", "registered_at", "last_seen_at", "idle_since",
             "status_changed_at", "ended_at")
    return {
        **{name: getattr(node, name) for name in plain}, "cloud": cloud, "jobs": busy,
        "force_retire": bool(node.force_retire), "retired": bool(node.retired), "boot_s": node.boot_s,
        **{name: clock.rfc3339(getattr(node, name)) for name in times},
        "silent_s": None if node.last_seen_at is None else round(max(0.0, at - node.last_seen_at), 3),
        "reason": node.reason or None, "profile": json.loads(node.facts or "{}"),
        "metrics": json.loads(node.metrics or "{}"),
    }


# change


def drain(reference: int | str, caller: Caller, *, wait_s: float = 0) -> Node:
    """Finish what runs, take nothing new. Raises NotFound, Conflict (never registered, ended)."""
    caller.require("operator")
    node = find(reference)
    if not write(lambda tx: lifecycle.drain(tx, node.id, at=clock.now(), actor=caller.name, reason="asked for")):
        raise Conflict(f"node {node.name} is {_state(node)}: only a running node that has joined can be drained")
    return _wait(node.id, wait_s, lambda now: now.state in moves.NODE_FINAL or _idle(now))


def resume(reference: int | str, caller: Caller, *, wait_s: float = 0) -> Node:
    """Take jobs again. Raises NotFound, Conflict when it does not drain. `wait_s` is accepted: it is so at once."""
    caller.require("operator")
    node = find(reference)
    if not write(lambda tx: lifecycle.resume(tx, node.id, at=clock.now(), actor=caller.name)):
        raise Conflict(f"node {node.name} is {_state(node)}: only a draining node can be resumed")
    return find(node.id)


def destroy(reference: int | str, caller: Caller, *, wait_s: float = 0) -> Node:
    """Have the node destroyed; its jobs go back to the queue. Asking again is no error. Raises NotFound, Conflict.

    A machine that joined by itself is told to stop, and forgotten when it has.
    """
    caller.require("operator")
    node = find(reference)
    if node.state in moves.NODE_FINAL:
        raise Conflict(f"node {node.name} is {node.state} already")
    write(lambda tx: _stop(tx, node, caller))
    return _wait(node.id, wait_s, lambda now: now.state in moves.NODE_FINAL)


def _stop(tx: Tx, node: Node, caller: Caller) -> None:
    lifecycle.stop(tx, node.id, at=clock.now(), actor=caller.name, reason="asked for")


def _idle(node: Node) -> bool:
    return not nodes.counts_in_hand().get(node.id)


def _wait(number: int, wait_s: float, done: Callable[[Node], bool]) -> Node:
    until, pause_s = time.monotonic() + wait_s, _LOOK_FIRST_S
    while True:
        node = find(number)
        left_s = until - time.monotonic()
        if left_s <= 0 or done(node):
            return node
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 1.5, _LOOK_MOST_S)


def _state(node: Node) -> str:
    return f"{node.state}, goal {node.goal}" if node.goal != "run" else node.state
