"""Which changes of state are legal? One MOVES table per entity: {state: {event: next state}}."""

from __future__ import annotations

from collections.abc import Mapping

Moves = Mapping[str, Mapping[str, str]]

_END = {"succeed": "succeeded", "fail": "failed", "time_out": "timeout", "cancel": "cancelled"}
_BACK = {"give_back": "queued", "lose": "queued", "retry": "pending"}

JOB: Moves = {
    "pending": {"release": "queued", "hold": "held", "cancel": "cancelled", "fail": "failed"},
    "held": {"release": "queued", "wait": "pending", "cancel": "cancelled"},
    "queued": {"claim": "assigned", "hold": "held", "cancel": "cancelled"},
    "assigned": {"start": "running", **_BACK, **_END},
    "running": {**_BACK, **_END},
    "succeeded": {},
    "failed": {},
    "timeout": {},
    "cancelled": {},
}
JOB_ACTIVE = ("assigned", "running")
JOB_WAITING = ("pending", "held", "queued")
JOB_FINAL = ("succeeded", "failed", "timeout", "cancelled")
JOB_STATES = tuple(JOB)

NODE: Moves = {
    "requested": {"boot": "starting", "run": "running", "boot_fail": "failed", "stop": "stopping", "release": "released"},
    "starting": {"run": "running", "stop": "stopping", "vanish": "gone", "release": "released"},
    "running": {"stop": "stopping", "vanish": "gone", "release": "released"},
    "stopping": {"destroy": "gone", "destroy_fail": "stopping", "release": "released"},
    "gone": {},
    "failed": {},
    "released": {},
}
NODE_LIVE = ("requested", "starting", "running", "stopping")
NODE_FINAL = ("gone", "failed", "released")
NODE_STATES = tuple(NODE)

OPERATION: Moves = {
    "queued": {"start": "running", "cancel": "cancelled"},
    "running": {"step": "running", "succeed": "succeeded", "fail": "failed", "requeue": "queued", "cancel": "cancelled"},
    "succeeded": {},
    "failed": {},
    "cancelled": {},
}

CLOUD: Moves = {
    "active": {"remove": "removed"},
    "removed": {"restore": "active"},
}

# A cluster that failed holds nothing any more; one that was installed on hosts may still be taken apart.
CLUSTER: Moves = {
    "pending": {"launch": "launching", "fail": "failed", "terminate": "terminating"},
    "launching": {"run": "running", "degrade": "degraded", "wait": "pending", "fail": "failed", "terminate": "terminating"},
    "running": {"degrade": "degraded", "fail": "failed", "terminate": "terminating"},
    "degraded": {"run": "running", "fail": "failed", "terminate": "terminating"},
    "failed": {"launch": "launching", "terminate": "terminating"},
    "terminating": {"end": "terminated"},
    "terminated": {},
}
CLUSTER_LIVE = ("pending", "launching", "running", "degraded", "terminating")
CLUSTER_UP = ("running", "degraded")
CLUSTER_FINAL = ("failed", "terminated")
CLUSTER_STATES = tuple(CLUSTER)

ALL: Mapping[str, Moves] = {"job": JOB, "node": NODE, "operation": OPERATION, "cloud": CLOUD, "cluster": CLUSTER}


def sources(moves: Moves, event: str) -> tuple[str, ...]:
    """The states that `event` may leave."""
    return tuple(state for state, events in moves.items() if event in events)


def target(moves: Moves, event: str) -> str:
    """The one state that `event` leads to; ValueError when there is none or more than one."""
    found = {events[event] for events in moves.values() if event in events}
    if len(found) != 1:
        raise ValueError(f"event {event!r} leads to {sorted(found) or 'nothing'}")
    return found.pop()
