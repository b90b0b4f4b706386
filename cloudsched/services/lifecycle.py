"""How does a node come and go? The few steps every asker shares: request, drain, stop; engine and services alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.domain.scheduling.model import RETIRING
from cloudsched.services import nodelogs, waiters
from cloudsched.services.settling import redeliver
from cloudsched.store import boots, nodes
from cloudsched.store.db import Tx
from cloudsched.store.moves import move


def request(tx: Tx, values: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]], *, at: float, actor: str,
            note: Mapping[str, Any]) -> int:
    """Write down a node that is to be booted: the row is there before any cloud is touched.

    `candidates`: the clouds to try in order, this one among them, each with what is chosen for it.
    """
    return nodes.insert(tx, {
        "state": "requested", "status": "Starting", "boot_requested_at": at, "candidates": json.dumps(list(candidates)),
        **values}, at=at, actor=actor, note=note)


def drain(tx: Tx, number: int, *, at: float, actor: str, reason: str, forced: bool = False) -> bool:
    """Let the node finish what runs and take nothing new (Retiring). False when it never registered or has ended."""
    facts: dict[str, Any] = {"goal": "drain", "override": RETIRING}
    if forced:
        facts["force_retire"] = 1
    done = nodes.update(tx, number, event="node.drain", at=at, actor=actor, note={"reason": reason}, **facts,
                        where="registered_at IS NOT NULL AND state = 'running' AND goal <> 'gone'")
    if done:
        tx.after.append(lambda: waiters.wake_node(number))
    return done


def resume(tx: Tx, number: int, *, at: float, actor: str) -> bool:
    """Take a drain back. False when the node does not drain."""
    return nodes.update(tx, number, event="node.resume", at=at, actor=actor, goal="run", override=None, force_retire=0,
                        where="goal = 'drain' AND state = 'running' AND instance <> ''")


def stop(tx: Tx, number: int, *, at: float, actor: str, reason: str) -> bool:
    """Have the node destroyed: its goal is to be gone, and the engine sees to it. False when that is so already."""
    # A boot under way keeps its lease: destroying waits for its end, or for the lease's, and misses no machine.
    facts: dict[str, Any] = {}
    if not boots.boot_under_way(tx, number, at):  # nobody destroys it before its logs had time to leave it
        facts = {"lease_until": nodelogs.wait_until(tx, number, at), "lease_holder": ""}
    done = move(tx, "node", number, "stop", at=at, actor=actor, goal="gone", reason=reason, error_count=0,
                note={"reason": reason}, **facts)
    if done:
        tx.after.append(lambda: waiters.wake_node(number))
    return done


def forget(tx: Tx, number: int, *, at: float, actor: str) -> bool:
    """Forget the node but leave the machine running; its jobs go back to the queue. False when it has ended."""
    done = move(tx, "node", number, "release", at=at, actor=actor)
    if done:
        give_up_jobs(tx, number, at=at, reason="the node was removed")
    return done


def end(tx: Tx, number: int, event: str, *, at: float, reason: str = "", note: Mapping[str, Any] | None = None,
        holder: str | None = None) -> bool:
    """The machine is proved gone (`destroy`, `vanish`) or never came (`boot_fail`): jobs it held go back."""
    facts: dict[str, Any] = {"goal": "gone"}
    if reason:
        facts["reason"] = reason
    done = move(tx, "node", number, event, at=at, lease=holder, note=dict(note or {"reason": reason}), **facts)
    if done:
        give_up_jobs(tx, number, at=at, reason=reason or "the node is gone")
    return done


def give_up_jobs(tx: Tx, number: int, *, at: float, reason: str) -> list[int]:
    """Everything of the built-in queue a lost node held goes back there."""
    held = boots.held_jobs(tx, number)
    return redeliver(tx, held, at=at, reason=reason) if held else []
