"""How is long work done? In recorded steps: claimed with a lease, resumed after a crash, cancelled between steps.

A step may run more than once (its process can die right after acting), so every step is safe to repeat. What is done is
a table: kind of operation -> its steps. `work` is called by the engine; no transaction is open while a step runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Operation
from cloudsched.errors import CloudschedError, Conflict, Invalid, NotFound, Unavailable
from cloudsched.services import lifecycle
from cloudsched.services.caller import Caller
from cloudsched.store import nodes, operations
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

LEASE_S = 60.0
LOOK_AGAIN_S = 1.0
RETRY_PAUSE_S = 5.0
ATTEMPTS_MOST = 20
STATES = tuple(moves.OPERATION)


@dataclass(frozen=True, slots=True)
class Later:
    """A step that is not done yet: look again after the pause; `detail` is shown."""

    pause_s: float = LOOK_AGAIN_S
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """What a step is told."""

    operation: Operation
    request: Mapping[str, Any]

    @property
    def actor(self) -> str:
        return self.operation.actor


Step = Callable[[Work], Later | str | None]
_kinds: dict[str, Sequence[tuple[str, Step]]] = {}


def register(kind: str, steps: Sequence[tuple[str, Step]]) -> None:
    """Say how operations of a kind are done."""
    _kinds[kind] = steps


def begin(kind: str, request: Mapping[str, Any], *, subject: tuple[str, int | None] = ("", None),
          actor: str = "", tx: Tx | None = None) -> int:
    """Write an operation down; the engine does it. `tx`: in that transaction. Raises Invalid for an unknown kind."""
    if kind not in _kinds:
        raise Invalid.at("kind", f"{kind!r} is no kind of operation", ", ".join(sorted(_kinds)))
    steps = [name for name, _ in _kinds[kind]]

    def create(tx: Tx) -> int:
        return operations.create(tx, kind, subject=subject, request=request, steps=steps, actor=actor, at=clock.now())

    return create(tx) if tx is not None else write(create)


def work(holder: str, *, most: int = 10, lease_s: float = LEASE_S) -> int:
    """Do what is due, up to `most` operations; returns how many were looked at."""
    done = 0
    while done < most:
        found = write(lambda tx: operations.claim(tx, holder, at=clock.now(), lease_s=lease_s))
        if found is None:
            break
        _go_on(found, holder, lease_s)
        done += 1
    return done


def _go_on(operation: Operation, holder: str, lease_s: float) -> None:
    """From the first step that is not done, as far as it goes now."""
    rows: list[dict[str, Any]] = json.loads(operation.steps)
    doing = dict(_kinds.get(operation.kind, ()))
    told = Work(operation, json.loads(operation.request))
    for row in rows:
        if row["state"] == "done":
            continue
        if operations.goal(operation.id) == "cancel":
            _settle(operation, "cancel", holder)
            return
        outcome = _try(doing.get(row["name"]), told)
        if isinstance(outcome, Later):
            row |= {"state": "waiting", "detail": outcome.detail}
            _let_go(operation, rows, holder, outcome.pause_s)
            return
        if isinstance(outcome, CloudschedError):
            _failed(operation, row, rows, outcome, holder=holder, lease_s=lease_s)
            return
        row |= {"state": "done", "at": clock.rfc3339(clock.now()), "detail": outcome or ""}
        if not _record(operation, row, rows, holder=holder, lease_s=lease_s):
            return  # somebody else has taken it over: what we know is old
    _settle(operation, "succeed", holder)


def _try(step: Step | None, told: Work) -> Later | str | CloudschedError | None:
    if step is None:
        return Unavailable("this version does not know how to do this step")
    try:
        return step(told)
    except CloudschedError as error:
        return error
    except Exception as error:
        log.exception("operation %s failed", told.operation.id)
        return CloudschedError(f"{type(error).__name__} in this step; the log has the details")


def _failed(operation: Operation, row: dict[str, Any], rows: list[dict[str, Any]], error: CloudschedError, *,
            holder: str, lease_s: float) -> None:
    if isinstance(error, Unavailable) and operation.attempt < ATTEMPTS_MOST:
        row |= {"detail": error.message}
        _let_go(operation, rows, holder, RETRY_PAUSE_S)
        return
    row |= {"state": "failed", "at": clock.rfc3339(clock.now()), "detail": error.message}
    if _record(operation, row, rows, holder=holder, lease_s=lease_s):
        _settle(operation, "fail", holder, error=error.message)


def _let_go(operation: Operation, rows: Sequence[Mapping[str, Any]], holder: str, pause_s: float) -> None:
    write(lambda tx: operations.later(tx, operation.id, rows, holder=holder, at=clock.now(), pause_s=pause_s))


def _record(operation: Operation, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *, holder: str,
            lease_s: float) -> bool:
    note = {"step": row["name"], "state": row["state"], "detail": row["detail"]}
    return write(lambda tx: operations.record(tx, operation.id, rows, holder=holder, at=clock.now(), lease_s=lease_s,
                                              note=note))


def _settle(operation: Operation, event: str, holder: str, *, error: str | None = None) -> None:
    write(lambda tx: operations.settle(tx, operation.id, event, holder=holder, at=clock.now(), error=error))


# asking


def cancel(number: int, caller: Caller) -> dict[str, Any]:
    """Stop before the next step. Raises NotFound, Conflict when it has ended."""
    caller.require("operator")
    found = one(number)
    if not write(lambda tx: operations.ask_cancel(tx, number, at=clock.now(), actor=caller.name)):
        raise Conflict(f"operation {number} has ended as {found['state']}")
    return one(number)


def one(number: int) -> dict[str, Any]:
    """One operation. Raises NotFound."""
    found = operations.get(number)
    if found is None:
        raise NotFound(f"there is no operation {number}")
    return view(found)


def page(*, states: Sequence[str] = (), after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Operations, newest first. Raises Invalid for an unknown state."""
    for state in states:
        if state not in STATES:
            raise Invalid.at("state", f"{state!r} is no state of an operation", ", ".join(STATES))
    return [view(found) for found in operations.page(states=states, after=after, limit=limit)]


def view(found: Operation) -> dict[str, Any]:
    """An operation as readers see it."""
    return {
        "id": found.id, "kind": found.kind, "state": found.state, "goal": found.goal,
        "subject_kind": found.subject_kind, "subject_id": found.subject_id, "actor": found.actor,
        "request": json.loads(found.request), "steps": json.loads(found.steps),
        "result": json.loads(found.result) if found.result else None, "error": found.error, "attempt": found.attempt,
        "created_at": clock.rfc3339(found.created_at), "ended_at": clock.rfc3339(found.ended_at),
        "version": found.version,
    }


# kinds


def _stop_nodes(told: Work) -> str:
    numbers = _live(told)

    def stop(tx: Tx) -> None:
        for number in numbers:
            lifecycle.stop(tx, number, at=clock.now(), actor=told.actor, reason=told.request.get("reason", "asked for"))

    write(stop)
    return f"{len(numbers)} nodes told to go"


def _drain_nodes(told: Work) -> str:
    numbers = _live(told)

    def drain(tx: Tx) -> int:
        return sum(lifecycle.drain(tx, number, at=clock.now(), actor=told.actor, reason="asked for")
                   for number in numbers)

    return f"{write(drain)} nodes told to finish"


def _wait_gone(told: Work) -> Later | str:
    left = _live(told)
    return Later(detail=f"{len(left)} nodes are left") if left else "all nodes are gone"


def _wait_idle(told: Work) -> Later | str:
    busy = nodes.counts_in_hand()
    left = [number for number in _live(told) if busy.get(number)]
    return Later(detail=f"{len(left)} nodes still run jobs") if left else "no node runs a job"


def _live(told: Work) -> list[int]:
    """Those of the operation's nodes (`ids`, or all of `cloud_id`) that are not ended."""
    cloud_id = told.request.get("cloud_id")
    if cloud_id is not None:
        return [node.id for node in nodes.live(cloud_id=cloud_id)]
    wanted = set(told.request.get("ids", ()))
    return [node.id for node in nodes.live() if node.id in wanted]


register("nodes.destroy", [("tell the nodes", _stop_nodes), ("wait until they are gone", _wait_gone)])
register("nodes.drain", [("tell the nodes", _drain_nodes), ("wait until they are idle", _wait_idle)])
register("cloud.remove", [("tell its nodes", _stop_nodes), ("wait until they are gone", _wait_gone)])
