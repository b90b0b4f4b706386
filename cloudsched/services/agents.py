"""What do nodes ask all the time? The one hot call: heartbeat, results, claim (docs/design/agent-protocol.md)."""

from __future__ import annotations

import hmac
import json
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.admission import Machine, admits
from cloudsched.domain.submission import invalid
from cloudsched.errors import Gone, Invalid, Unauthenticated
from cloudsched.services import settling, waiters
from cloudsched.services.agent_rules import bearer_of, rules
from cloudsched.services.joining import UNCLAIMED_GRACE_S
from cloudsched.store import clouds, external, jobs, nodes, shapes
from cloudsched.store.db import Tx, read, write

_EVENTS = {"succeeded": "succeed", "failed": "fail", "timeout": "time_out", "cancelled": "cancel"}
REASON_MAX = 2000
RESULT_MAX = METRICS_MAX = 1 << 18
# What a node says is stored and shown: a wild number must not make a job unreadable.
_AGE_MAX_S = 10 * 366 * 86_400.0
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Small = Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)]
Seconds = Annotated[float, Meta(le=1e12)]
Text = Annotated[str, Meta(max_length=1 << 16)]
Pairs = Annotated[list[tuple[Number, Small]], Meta(max_length=100_000)]


class Done(msgspec.Struct):
    """One result (see the protocol)."""

    id: Number
    attempt: Small
    state: str
    exit_code: Small | None = None
    signal: Small | None = None
    reason: str | None = None
    stdout: Text = ""
    stderr: Text = ""
    ran_s: Seconds = 0.0
    ended_ago_s: float = 0.0
    cpu_s: Seconds | None = None
    max_rss_mb: Annotated[int, Meta(ge=0, le=1 << 40)] | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")  # a union with None would refuse objects


class Sync(msgspec.Struct):
    """One call of a node."""

    want: Annotated[int, Meta(ge=0, le=1000)]
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0
    free: dict[str, float] = {}
    holding: Pairs = []
    started: Annotated[list[tuple[Number, Small, float]], Meta(max_length=10_000)] = []
    done: Annotated[list[Done], Meta(max_length=10_000)] = []
    returned: Pairs = []
    metrics: dict[str, Any] | None = None
    instance: str = ""


@dataclass
class Reply:
    """What goes back; the dialect writes it as JSON without touching the specs."""

    jobs: list[jobs.Claimed] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    drop: list[tuple[int, int]] = field(default_factory=list)
    goal: str = "run"
    wait_s: float = 0.0


_sync = msgspec.json.Decoder(Sync)


def sync(bearer: str, body: bytes) -> Reply:
    """One call of a node: record what it reports, renew, and hand out work; waits up to `wait_s` when there is none.

    Raises Unauthenticated (join again), Gone (end), Invalid.
    """
    number, secret_hash = bearer_of(bearer)
    request = _parse_sync(body)
    began = time.monotonic()
    reply = write(lambda tx: _serve(tx, number, secret_hash, request, first=True))
    wait_s = min(request.wait_s, rules.long_poll_s)
    if wait_s <= 0 or _has_news(reply):
        reply.wait_s = rules.long_poll_s
        return reply
    return _held(number, secret_hash, request, reply, began + wait_s)


def _parse_sync(body: bytes) -> Sync:
    try:
        request = _sync.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    for index, done in enumerate(request.done):
        if done.state not in _EVENTS:
            raise Invalid.at(f"done[{index}].state", f"{done.state!r} is no end state", ", ".join(_EVENTS))
        if len(done.result) > RESULT_MAX:
            raise Invalid.at(f"done[{index}].result", f"has {len(done.result)} bytes", f"at most {RESULT_MAX}")
    return request


def _has_news(reply: Reply) -> bool:
    return bool(reply.jobs or reply.drop or reply.refused or reply.goal != "run")


def _held(number: int, secret_hash: str, request: Sync, reply: Reply, until: float) -> Reply:
    """Wait for work, a cancel, or a changed goal."""
    renewal = Sync(want=request.want, holding=request.holding, instance=request.instance)
    machine = _machine(number)
    known = shapes.known()

    def fits(shape_id: int) -> bool:
        shape = known.get(shape_id) or shapes.known().get(shape_id)
        return request.want > 0 and shape is not None and machine is not None and admits(machine, shape)

    with waiters.waiting(number, fits) as waiter:
        if waiter is None:
            reply.wait_s = 0.0
            return reply
        # Registered first, then looked again: a job queued in between is not missed.
        while not _has_news(reply):
            if waiter.replaced:
                break
            if waiter.event.is_set() or _work_for(number, machine, request):
                waiter.event.clear()
                reply = write(lambda tx: _serve(tx, number, secret_hash, renewal, first=False))
                if _has_news(reply):
                    break
            left = until - time.monotonic()
            if left <= 0:
                break
            waiter.event.wait(min(left, rules.recheck_s or left))
    reply.wait_s = rules.long_poll_s
    return reply


def _work_for(number: int, machine: Machine | None, request: Sync) -> bool:
    """A cheap look, without a transaction, whether a claim could bring anything."""
    tx = read()
    row = nodes.contact(tx, number)
    if row is None or row[1] != "run":
        return True
    if any(held[2] == "cancel" for held in jobs.in_hand(tx, number)):
        return True
    if not request.want or machine is None:
        return False
    known = shapes.known()
    return any(shape_id in known and admits(machine, known[shape_id]) for shape_id in jobs.queued_shapes(tx))


def _serve(tx: Tx, number: int, secret_hash: str, request: Sync, *, first: bool) -> Reply:
    at = clock.now()
    row = nodes.contact(tx, number)
    if row is None or not hmac.compare_digest(row[2], secret_hash):
        raise Unauthenticated("the node's secret is not valid any more: join again")
    state, goal = row[0], row[1]
    if state in moves.NODE_FINAL:
        raise Gone("this node has ended")
    reply = Reply()
    if request.done:
        reply.refused = settling.settle(tx, [_result(done, at) for done in request.done], node_id=number, at=at)
        refused = set(reply.refused)
        external.add_run_times(tx, number, [max(0.0, done.ran_s) for done in request.done
                                            if done.state != "cancelled" and (done.id, done.attempt) not in refused])
    if request.started:
        jobs.start(tx, [(j, a, at - _age(ago)) for j, a, ago in request.started], node_id=number, at=at)
    if request.returned:
        settling.give_back(tx, [(j, a) for j, a in request.returned if jobs.holds(tx, number, j, attempt=a)], at=at)
    held = jobs.in_hand(tx, number)
    reply.drop, kept = _compare(tx, held, request.holding, at) if first else _cancelled(held, request.holding)
    reply.goal = _goal(tx, number, state, goal, kept, at)
    if reply.goal == "run" and request.want > 0 and state == "running":
        reply.jobs = _claim(tx, number, row, request.want, at)
    idle = None if reply.jobs or kept else (row[12] or at)
    metrics = json.dumps(request.metrics) if request.metrics else None
    if metrics and len(metrics) > METRICS_MAX:
        raise Invalid.at("metrics", f"has {len(metrics)} bytes", f"at most {METRICS_MAX}")
    nodes.seen(tx, number, at=at, idle_since=idle, metrics=metrics)
    return reply


def _result(done: Done, at: float) -> jobs.Result:
    return jobs.Result(
        done.id, done.attempt, _EVENTS[done.state], done.state, done.exit_code, done.signal,
        done.reason and done.reason.replace("\0", "\ufffd")[:REASON_MAX], max(0.0, done.ran_s),
        at - _age(done.ended_ago_s), done.cpu_s, done.max_rss_mb, done.stdout, done.stderr,
        None if bytes(done.result) == b"null" else bytes(done.result).decode())


def _age(ago_s: float) -> float:
    return min(max(0.0, ago_s), _AGE_MAX_S)


def _compare(tx: Tx, held: list[tuple[Any, ...]], holding: list[tuple[int, int]], at: float) -> tuple[
        list[tuple[int, int]], int]:
    """What the node must kill, and how many jobs stay its own. Jobs it does not know of go back to the queue."""
    ours = {(row[0], row[1]): row for row in held}
    named = {(job, attempt) for job, attempt in holding}
    drop = [item for item in named if item not in ours or ours[item][2] == "cancel"]
    lost = [item for item, row in ours.items() if item not in named and (row[3] or 0) <= at - UNCLAIMED_GRACE_S]
    if lost:
        settling.redeliver(tx, lost, at=at, reason="the node does not know of it")
    return drop, len(ours) - len(lost)


def _cancelled(held: list[tuple[Any, ...]], holding: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """The same for a held request: what it names is as old as itself, so only cancels are told."""
    named = {(job, attempt) for job, attempt in holding}
    return [(row[0], row[1]) for row in held if row[2] == "cancel" and (row[0], row[1]) in named], len(held)


def _goal(tx: Tx, number: int, state: str, goal: str, kept: int, at: float) -> str:
    if goal == "gone" or state == "stopping":
        return "stop"
    if goal != "drain" or kept:
        return goal
    if not nodes.is_booted(tx, number):
        return "drain"
    # Drained: from here on it is no machine of the queue any more, and the cleanup destroys it.
    nodes.update(tx, number, event="node.drained", at=at, where="instance <> ''", instance="")
    return "stop"


def _claim(tx: Tx, number: int, row: tuple[Any, ...], want: int, at: float) -> list[jobs.Claimed]:
    machine = _machine_of(row)
    known = shapes.known()
    fitting = [shape_id for shape_id in jobs.queued_shapes(tx) if shape_id in known and admits(machine, known[shape_id])]
    return jobs.claim(tx, number, fitting, limit=want, at=at) if fitting else []


def _machine(number: int) -> Machine | None:
    row = nodes.contact(read(), number)
    return _machine_of(row) if row is not None else None


def _machine_of(row: tuple[Any, ...]) -> Machine:
    return Machine(row[4], row[5], row[6], row[7], row[8], _cloud_names(row[9]))


_names: dict[int, tuple[float, frozenset[str]]] = {}


def _cloud_names(cloud_id: int) -> frozenset[str]:
    """The cloud's name, address and aliases; looked up again after 5 s."""
    kept = _names.get(cloud_id)
    if kept is not None and kept[0] > time.monotonic():
        return kept[1]
    cloud = clouds.get(cloud_id)
    found = {cloud.name} if cloud else set()
    for alias, members in clouds.aliases().items():
        if cloud and cloud.name in (member.lower() for member in members):
            found.add(alias.lower())
    _names[cloud_id] = (time.monotonic() + 5.0, frozenset(found))
    return _names[cloud_id][1]
