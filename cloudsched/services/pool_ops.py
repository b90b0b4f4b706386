"""What can be done to clouds and their nodes? Enable, adjust, shut down, retire, reset, release (contract 4.1 to 4.6).

A service writes what is wanted and leaves the doing to the engine. Shutting down waits for the engine's proof, with no
transaction open and nothing locked, up to a limit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cloudsched import clock
from cloudsched.classic import vm_slots
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.scheduling.model import RETIRING
from cloudsched.drivers.condor import CondorCommands, CondorPool
from cloudsched.errors import Invalid
from cloudsched.services import lifecycle, pool, waiters
from cloudsched.settings import Settings
from cloudsched.store import clouds, events, nodes
from cloudsched.store import pool as store
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

WAIT_LIMIT_S = 300.0
MOST_SLOTS = 2**31 - 1

_STOPPABLE = ("requested", "starting", "running")
_POLL_FIRST_S = 0.05
_POLL_MOST_S = 0.5


@dataclass(frozen=True, slots=True)
class Shutdown:
    """One node that was to be destroyed; `gone`: it is proved gone."""

    node: Node
    gone: bool

    @property
    def shown_id(self) -> str:
        """The id the node is listed under."""
        return pool.shown_id(self.node)


@dataclass(frozen=True, slots=True)
class Retirement:
    """One node that was to finish its job and stop; `detail` says why it was refused."""

    node: Node
    accepted: bool
    detail: str = ""

    @property
    def shown_id(self) -> str:
        """The id the node is listed under."""
        return pool.shown_id(self.node)


@dataclass(frozen=True, slots=True)
class Adjustment:
    """`changed` is False when the cloud had that many slots; `retired`: the nodes beyond the new maximum."""

    changed: bool
    retired: Sequence[Retirement] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """A node that was forgotten and left running; `retired`: it was in the retired shadow."""

    node: Node
    retired: bool


# clouds


def switch_cloud(name: str, *, enabled: bool, actor: str = "") -> Cloud:
    """Allow or forbid new nodes on a cloud; those there are left alone (contract 4.1). Raises UnknownCloud."""
    facts = pool.cloud_facts(name)
    word, at = ("enable" if enabled else "disable"), clock.now()
    # An administrator's word ends what the scheduling job decided by itself (B47).
    write(lambda tx: clouds.update(tx, facts.cloud.id, at=at, event=f"cloud.{word}", actor=actor,
                                   note={"name": facts.name}, enabled=int(enabled), disabled_at=None,
                                   error_since=None, error_text=""))
    return facts.cloud


def adjust_allocation(name: str, slots: int, *, settings: Settings, actor: str = "") -> Adjustment:
    """Set how many nodes a cloud may have (contract 4.2). Nodes beyond it, newest first, go to the retired shadow and
    are retired; the number is written into the cloud file when the cloud came from there.

    Raises UnknownCloud; Invalid for a number below 0 or beyond any database (B14).
    """
    if not 0 <= slots <= MOST_SLOTS:
        raise Invalid.at("slots", f"{slots} slots", f"0 to {MOST_SLOTS}")
    cloud = pool.cloud_facts(name).cloud
    excess = write(lambda tx: _adjust(tx, cloud, slots, actor=actor))
    if excess is None:
        return Adjustment(False)
    _write_back(cloud, slots, settings)
    return Adjustment(True, tuple(_retire(node, settings, actor=actor) for node in excess))


def _adjust(tx: Tx, cloud: Cloud, slots: int, *, actor: str) -> list[Node] | None:
    """The nodes beyond the new maximum, newest first; None when it is the maximum already."""
    row, at = store.lock_cloud(tx, cloud.id), clock.now()
    if row is None or row[1] == slots:
        return None
    note = {"name": cloud.name, "slots": slots, "before": row[1]}
    clouds.update(tx, cloud.id, at=at, event="cloud.adjust", actor=actor, note=note, max_slots=slots)
    return _shadow_excess(tx, cloud.id, slots, actor=actor)


def _shadow_excess(tx: Tx, number: int, slots: int, *, actor: str) -> list[Node]:
    excess = [node for node in nodes.live(cloud_id=number) if not node.retired][slots:][::-1]
    for node in excess:
        _to_shadow(tx, node, actor=actor, reason=f"the cloud has {slots} slots")
    return excess


def _to_shadow(tx: Tx, node: Node, *, actor: str, reason: str) -> None:
    nodes.update(tx, node.id, event="node.shadow", at=clock.now(), actor=actor, note={"reason": reason}, retired=1)


def retire_excess(cloud: Cloud, *, settings: Settings, actor: str = "") -> list[Retirement]:
    """Nodes beyond the cloud's present maximum, newest first, go to the retired shadow and are retired."""
    def shadow(tx: Tx) -> list[Node]:
        row = store.lock_cloud(tx, cloud.id)
        return [] if row is None else _shadow_excess(tx, cloud.id, row[1], actor=actor)

    return [_retire(node, settings, actor=actor) for node in write(shadow)]


def retire_to_shadow(number: int, *, settings: Settings, reason: str, actor: str = "", or_destroy: bool = False) -> None:
    """One node that does not fit any more: into the shadow, then retired; destroyed if that is refused and asked."""
    node = nodes.get(number)
    if node is None or not pool.is_live(node.state):
        return
    write(lambda tx: _to_shadow(tx, node, actor=actor, reason=reason))
    if not _retire(node, settings, actor=actor).accepted and or_destroy:
        stop_nodes([node], actor=actor, reason=reason)


def _write_back(cloud: Cloud, slots: int, settings: Settings) -> None:
    file = settings.cloud_scheduler.resources_file
    if cloud.source != "file" or not file:
        return
    try:
        vm_slots.set_vm_slots(file, cloud.name, slots)
    except (OSError, ValueError) as error:
        log.error("vm_slots of %s could not be written to %s: %s", cloud.name, file, error)


# shutting down


def shut_down_node(name: str, node_id: str, *, limit_s: float = WAIT_LIMIT_S, actor: str = "") -> Shutdown:
    """Destroy one node, jobs or not, and wait for the proof (contract 4.3). Raises UnknownCloud, UnknownNode."""
    node = pool.find_node(pool.cloud_or_shadow(name), node_id)
    return _shut_down([node], limit_s, actor=actor)[0]


def shut_down_nodes(name: str, count: int | None = None, *, limit_s: float = WAIT_LIMIT_S,
                    actor: str = "") -> list[Shutdown]:
    """The first `count` active nodes in boot order (negative = 0, B12), or all. Raises UnknownCloud."""
    return _shut_down(_first(pool.cloud_facts(name).nodes, count), limit_s, actor=actor)


def _first(found: Sequence[Node], count: int | None) -> list[Node]:
    return list(found if count is None else found[:max(0, count)])


def _shut_down(chosen: Sequence[Node], limit_s: float, *, actor: str) -> list[Shutdown]:
    if not chosen:
        return []
    before = events.last_id()
    stop_nodes(chosen, actor=actor)
    states = _wait([node.id for node in chosen], before, limit_s=limit_s)
    return [Shutdown(node, states.get(node.id) in ("gone", "failed")) for node in chosen]


def stop_nodes(chosen: Iterable[Node], *, actor: str = "", reason: str = "asked for", retired: bool = False) -> None:
    """Note that these nodes shall be gone; the engine destroys them. `retired`: they move to the shadow first."""
    chosen = list(chosen)

    def stop(tx: Tx) -> None:
        for node in chosen:
            if retired:
                nodes.update(tx, node.id, retired=1)
            lifecycle.stop(tx, node.id, at=clock.now(), actor=actor, reason=reason)

    write(stop)


def _wait(ids: Sequence[int], before: int, *, limit_s: float) -> dict[int, str]:
    """Look until each node is no longer live or its destroy failed after event `before`; its last state each."""
    deadline, pause_s, idle = time.monotonic() + limit_s, _POLL_FIRST_S, threading.Event()
    while True:
        states = store.states_of(ids)
        left = [number for number in ids if pool.is_live(states.get(number, "gone"))]
        if not left or store.failed_destroys(before).issuperset(left) or time.monotonic() >= deadline:
            return states
        idle.wait(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(pause_s * 1.5, _POLL_MOST_S)


# retiring


def retire_node(name: str, node_id: str, *, settings: Settings, actor: str = "") -> Retirement:
    """Let one node finish its job and stop (contract 4.4). Raises UnknownCloud, UnknownNode."""
    return _retire(pool.find_node(pool.cloud_or_shadow(name), node_id), settings, actor=actor)


def retire_nodes(name: str, count: int | None = None, *, settings: Settings, actor: str = "") -> list[Retirement]:
    """The first `count` active nodes in boot order (negative = 0), or all. Raises UnknownCloud."""
    return [_retire(node, settings, actor=actor) for node in _first(pool.cloud_facts(name).nodes, count)]


def _retire(node: Node, settings: Settings, *, actor: str) -> Retirement:
    """Tell the machine; note it only when it was told."""
    accepted, detail = _tell(node, settings)
    at = clock.now()
    if not accepted:
        write(lambda tx: events.append(tx, "node.retire_refuse", ("node", node.id), at=at, actor=actor, detail=detail))
        return Retirement(node, False, detail)
    noted = write(lambda tx: _note_retired(tx, node, at=at, actor=actor))
    return Retirement(node, noted, "" if noted else f"it is {node.state}")


def _note_retired(tx: Tx, node: Node, *, at: float, actor: str) -> bool:
    if not is_external(node):
        return lifecycle.drain(tx, node.id, at=at, actor=actor, reason="force retire", forced=True)
    return nodes.update(tx, node.id, event="node.drain", at=at, actor=actor, note={"reason": "force retire"},
                        where="state IN ('requested', 'starting', 'running')",
                        goal="drain", override=RETIRING, force_retire=1)


def _tell(node: Node, settings: Settings) -> tuple[bool, str]:
    if node.state not in _STOPPABLE:
        return False, f"it is {node.state}"
    if not is_external(node):
        # Our own agent hears of it with its next call.
        return node.registered_at is not None, "it never registered"
    answer = condor_pool(settings).off(node.slot_address, node.master_address)
    if not answer.ok:
        log.warning("node %s could not be retired: %s", node.name, answer.detail)
    return answer.ok, answer.detail


def is_external(node: Node) -> bool:
    """Does the node's machine belong to an external batch system, and not to an agent of ours?"""
    return bool(node.slot_address or node.slot_name)


def condor_pool(settings: Settings) -> CondorPool:
    """The external pool with the configured commands."""
    general = settings.cloud_scheduler.general
    return CondorPool(CondorCommands.from_mapping(asdict(general)))


# resetting and releasing


def reset_override(name: str, node_id: str, *, actor: str = "") -> Node:
    """Clear the override and the forced flag (contract 4.5). A drain our agent was only asked for is withdrawn; a stop
    already sent to an external machine is not. Raises UnknownCloud, UnknownNode."""
    node = pool.find_node(pool.cloud_or_shadow(name), node_id)
    facts: dict[str, Any] = {"override": None, "force_retire": 0}
    if node.goal == "drain" and not is_external(node):
        facts["goal"] = "run"
    write(lambda tx: nodes.update(tx, node.id, event="node.reset", at=clock.now(), actor=actor, **facts))
    waiters.wake_node(node.id)
    return replace(node, **facts)


def release_node(name: str, node_id: str, *, actor: str = "") -> Release:
    """Forget one node and leave it running (contract 4.6). Raises UnknownCloud, UnknownNode."""
    facts = pool.cloud_or_shadow(name)
    node = pool.find_node(facts, node_id)
    _release([node], actor)
    return Release(node, node in facts.retired)


def release_nodes(name: str, *, actor: str = "") -> int:
    """Forget all active nodes of a cloud; returns how many. Raises UnknownCloud."""
    chosen = pool.cloud_facts(name).nodes
    _release(chosen, actor)
    return len(chosen)


def _release(chosen: Sequence[Node], actor: str) -> None:
    def release(tx: Tx) -> None:
        for node in chosen:
            lifecycle.forget(tx, node.id, at=clock.now(), actor=actor)

    write(release)
