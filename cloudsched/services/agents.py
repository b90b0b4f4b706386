"""What do nodes ask all the time? The one hot call: heartbeat, results, claim (docs/design/agent-protocol.md)."""

from __future__ import annotations

import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from cloudsched import __version__, clock
from cloudsched.domain import devices as domain
from cloudsched.domain import moves
from cloudsched.domain.admission import Machine, admits
from cloudsched.domain.scheduling.fit import called
from cloudsched.domain.submission import invalid
from cloudsched.drivers import agentfile
from cloudsched.errors import Conflict, Gone, Invalid, NotFound, Unauthenticated
from cloudsched.services import contacts, fleet_config, machines, settling, waiters
from cloudsched.services.agent_rules import bearer_of, rules
from cloudsched.services.caller import Caller
from cloudsched.services.joining import PROFILE_MAX, UNCLAIMED_GRACE_S
from cloudsched.store import checkpoints, clouds, events, external, jobs, nodes, shapes
from cloudsched.store import devices as device_rows
from cloudsched.store.db import Database, Tx, current, read, write

_EVENTS = {"succeeded": "succeed", "failed": "fail", "timeout": "time_out", "cancelled": "cancel"}
REASON_MAX = 2000
METRICS_MAX = 1 << 18
# A task's result may hold 1 MiB (contract 11.2), with its log and figures beside it.
RESULT_MAX = (1 << 20) + (1 << 16)
CHECKPOINT_MAX = 1 << 16
KINDS_MAX = 200
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
    profile: dict[str, Any] | None = None
    accept: Annotated[list[Annotated[str, Meta(max_length=100)]], Meta(max_length=KINDS_MAX)] | None = None
    progress: Annotated[list[tuple[Number, Small, msgspec.Raw]], Meta(max_length=1000)] = []
    pong: Annotated[list[Number], Meta(max_length=1000)] = []


@dataclass
class Reply:
    """What goes back; the dialect writes it as JSON without touching the specs."""

    jobs: list[jobs.Claimed] = field(default_factory=list)
    refused: list[tuple[int, int]] = field(default_factory=list)
    drop: list[tuple[int, int]] = field(default_factory=list)
    goal: str = "run"
    wait_s: float = 0.0
    ping: list[int] = field(default_factory=list)
    heartbeat_s: int | None = None
    upgrade: Upgrade | None = None
    news: bool = False  # told for the first time: the answer is not held


class Upgrade(msgspec.Struct):
    """The agent that this server serves."""

    version: str
    sha256: str


_sync = msgspec.json.Decoder(Sync)


def _never() -> bool:
    return False


def sync(bearer: str, body: bytes, *, gone: Callable[[], bool] = _never) -> Reply:
    """One call of a node: record what it reports, renew, and hand out work; waits up to `wait_s` when there is none.

    `gone`: has the caller hung up? A request that was held for an agent that was killed claims nothing.
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
    return _held(number, secret_hash, request, reply, began + wait_s, gone=gone)


class Call(NamedTuple):
    """A plain heartbeat: whose, and what it says."""

    node_id: int
    secret_hash: str
    request: Sync


def plain_beat(body: bytes) -> Sync | None:
    """A request that reports nothing that could be refused and is not to be held; None when it is another. Raises Invalid."""
    found = _parse_sync(body)
    if found.wait_s or found.done or found.returned or found.progress or found.profile:
        return None
    return found


def sync_many(calls: Sequence[Call]) -> list[Reply | Exception]:
    """What `sync` does for each of these heartbeats, in one transaction; what one of them raises stands in its place."""
    try:
        return write(lambda tx: [_serve_plain(tx, call) for call in calls])
    except Exception as error:
        if len(calls) == 1:
            return [error]
    # Nothing was kept: each for itself, so that one that cannot be recorded does not spoil the others.
    return [found for call in calls for found in sync_many([call])]


def _serve_plain(tx: Tx, call: Call) -> Reply | Exception:
    try:
        reply = _serve(tx, call.node_id, call.secret_hash, call.request, first=True)
    except (Unauthenticated, Gone) as error:  # known before anything is written
        return error
    reply.wait_s = rules.long_poll_s
    return reply


def _parse_sync(body: bytes) -> Sync:
    try:
        request = _sync.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Invalid("the body is nested too deeply") from None
    for index, done in enumerate(request.done):
        if done.state not in _EVENTS:
            raise Invalid.at(f"done[{index}].state", f"{done.state!r} is no end state", ", ".join(_EVENTS))
        if len(done.result) > RESULT_MAX:
            raise Invalid.at(f"done[{index}].result", f"has {len(done.result)} bytes", f"at most {RESULT_MAX}")
    for index, (_, _, checkpoint) in enumerate(request.progress):
        if len(checkpoint) > CHECKPOINT_MAX:
            raise Invalid.at(f"progress[{index}]", f"has {len(checkpoint)} bytes", f"at most {CHECKPOINT_MAX}")
    return request


def _has_news(reply: Reply) -> bool:
    return bool(reply.jobs or reply.drop or reply.refused or reply.goal != "run" or reply.ping or reply.news)


def _held(number: int, secret_hash: str, request: Sync, reply: Reply, until: float, *, gone: Callable[[], bool]) -> Reply:
    """Wait for work, a cancel, or a changed goal."""
    renewal = Sync(want=request.want, holding=request.holding, instance=request.instance, accept=request.accept)
    machine = _machine(number, request.accept)
    known = shapes.known()

    def fits(shape_id: int) -> bool:
        shape = known.get(shape_id) or shapes.known().get(shape_id)
        return (request.want > 0 and shape is not None and machine is not None and admits(machine, shape)
                and (not shape.gpus or shape.gpus <= machines.free_gpus(read(), machine)))

    in_hand = len(request.holding)
    with waiters.waiting(number, fits, load=in_hand / (in_hand + request.want or 1)) as waiter:
        if waiter is None:
            reply.wait_s = 0.0
            return reply
        # Registered first, then looked again: a job queued in between is not missed.
        while not _has_news(reply):
            if waiter.replaced:
                break
            if waiter.event.is_set() or _work_for(number, machine, request):
                waiter.event.clear()
                if gone():
                    break
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
    if row is None or row[1] != "run" or _is_asked(row[18]):
        return True
    if any(held[2] == "cancel" for held in jobs.in_hand(tx, number)):
        return True
    if request.holding and row[15] is not None and jobs.taken(tx, number, request.holding):
        return True
    if not request.want or machine is None:
        return False
    known = shapes.known()
    least = None
    for shape_id in jobs.queued_shapes(tx):
        if shape_id in known and admits(machine, known[shape_id]):
            gpus = known[shape_id].gpus
            if not gpus:
                return True
            least = gpus if least is None else min(least, gpus)
    return least is not None and least <= machines.free_gpus(tx, machine)


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
        if _machine_of(number, row, None).gpus:  # free again, and not by a job that was queued: its held request looks again
            tx.after.append(lambda: waiters.wake_node(number))
        refused = set(reply.refused)
        external.add_run_times(tx, number, [max(0.0, done.ran_s) for done in request.done
                                            if done.state != "cancelled" and (done.id, done.attempt) not in refused])
    if request.started:
        jobs.start(tx, [(j, a, at - _age(ago)) for j, a, ago in request.started], node_id=number, at=at)
    if request.returned:
        settling.give_back(tx, [(j, a) for j, a in request.returned if jobs.holds(tx, number, j, attempt=a)], at=at)
    held = jobs.in_hand(tx, number)
    reply.drop, kept = _compare(tx, held, request.holding, at) if first else _cancelled(tx, number, held, request.holding)
    reply.goal = _goal(tx, number, state, goal, kept, at)
    if reply.goal == "run" and request.want > 0 and state == "running":
        reply.jobs = _claim(tx, number, row, request, at)
    idle = None if reply.jobs or kept else (row[12] or at)
    metrics = json.dumps(request.metrics) if request.metrics else None
    if metrics and len(metrics) > METRICS_MAX:
        raise Invalid.at("metrics", f"has {len(metrics)} bytes", f"at most {METRICS_MAX}")
    if row[15] is not None:
        _tell(tx, number, row, request, reply, at, first=first)
    nodes.seen(tx, number, at=at, idle_since=idle, metrics=metrics)
    return reply


def _tell(tx: Tx, number: int, row: tuple[Any, ...], request: Sync, reply: Reply, at: float, *, first: bool) -> None:
    """What a machine with a row in `device` says beyond its jobs, and what it is told."""
    via, online_since, takes, asked, sent, received, device_id = row[15:22]
    sample = domain.sample_of(request.metrics)
    contacts.heard(tx, number, device_id, at=at, seen_at=row[11], online_since=online_since,
                   beats=1 if request.metrics and first else 0, sample=sample, counters=(sent, received))
    if first:
        wanted = "" if request.accept is None else json.dumps(sorted(set(request.accept)))
        if wanted != takes:
            device_rows.update(tx, number, takes=wanted)
            device_rows.changed(tx)
        if request.profile:
            _learn(tx, number, request.profile, at)
        if request.progress:
            _keep_progress(tx, number, request, at)
        if request.pong:
            device_rows.answer_pings(tx, number, request.pong, at=at)
    if asked:
        _tell_asked(tx, number, asked, reply, at)
    if via == device_rows.AGENT:
        reply.heartbeat_s = fleet_config.recent().heartbeat_interval_s


def _learn(tx: Tx, number: int, said: dict[str, Any], at: float) -> None:
    """Members of its profile that have changed."""
    merged = json.dumps({**json.loads(nodes.facts(number)), **said})
    if len(merged) > PROFILE_MAX or "\\u0000" in merged:
        raise Invalid.at("profile", "cannot be kept", f"at most {PROFILE_MAX} bytes with all its members, no NUL")
    facts = domain.facts_of(json.loads(merged))
    nodes.update(tx, number, event="node.profile", at=at, note={"members": sorted(said)[:50]}, facts=merged)
    device_rows.update(tx, number, os=facts.os, internet=int(facts.internet), accepts_tasks=int(facts.announced))
    device_rows.changed(tx)


def _keep_progress(tx: Tx, number: int, request: Sync, at: float) -> None:
    rows = [(job, attempt, bytes(data).decode()) for job, attempt, data in request.progress
            if jobs.holds(tx, number, job, attempt=attempt)]
    checkpoints.keep(tx, rows, at=at)


def _tell_asked(tx: Tx, number: int, asked: int, reply: Reply, at: float) -> None:
    if asked & device_rows.PING:
        reply.ping = device_rows.send_pings(tx, number, at=at)
    if asked & device_rows.UPGRADE:
        reply.upgrade = offered()
        if not asked & device_rows.UPGRADE_TOLD:
            device_rows.told(tx, number, mark=device_rows.UPGRADE_TOLD)
            reply.news = True


def _is_asked(asked: int | None) -> bool:
    """Is there something that this agent was not told yet?"""
    if not asked:
        return False
    return bool(asked & device_rows.PING) or asked & (device_rows.UPGRADE | device_rows.UPGRADE_TOLD) == device_rows.UPGRADE


def offered() -> Upgrade:
    """The agent file that this server serves."""
    return Upgrade(__version__, agentfile.agent_digest())


def upgrade(node_id: int, *, caller: Caller) -> Upgrade:
    """Have the agent of a node replace itself by the one served here, with its next call; it joins again when it has.

    Raises NotFound, Conflict (no agent of ours has joined there), Forbidden.
    """
    caller.require("operator")
    if nodes.get(node_id) is None:
        raise NotFound(f"there is no node {node_id}")
    if not write(lambda tx: _ask_upgrade(tx, node_id, caller)):
        raise Conflict(f"no agent that can be upgraded has joined on node {node_id}")
    waiters.wake_node(node_id)
    return offered()


def _ask_upgrade(tx: Tx, node_id: int, caller: Caller) -> bool:
    found = device_rows.of_node(tx, node_id)
    if found is None or found.via not in (device_rows.AGENT, device_rows.MACHINE) or found.state != "running":
        return False
    device_rows.told(tx, node_id, clear=device_rows.UPGRADE_TOLD)
    events.append(tx, "node.upgrade", ("node", node_id), at=clock.now(), actor=caller.name, version=__version__)
    return device_rows.ask(tx, node_id, device_rows.UPGRADE)


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


def _cancelled(tx: Tx, number: int, held: list[tuple[Any, ...]], holding: list[tuple[int, int]]) -> tuple[
        list[tuple[int, int]], int]:
    """The same for a held request: what it names is as old as itself, so only what was ended here is told."""
    named = {(job, attempt) for job, attempt in holding}
    wanted = [(row[0], row[1]) for row in held if row[2] == "cancel" and (row[0], row[1]) in named]
    ended = named - {(row[0], row[1]) for row in held}
    return wanted + (jobs.taken(tx, number, sorted(ended)) if ended else []), len(held)


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


def _claim(tx: Tx, number: int, row: tuple[Any, ...], request: Sync, at: float) -> list[jobs.Claimed]:
    return claim(tx, number, _machine_of(number, row, request.accept), request.want, at)


def claim(tx: Tx, number: int, machine: Machine, want: int, at: float) -> list[jobs.Claimed]:
    """Hand up to `want` jobs that the machine admits to its node, with what earlier attempts have left."""
    known = shapes.known()
    fitting = [shape_id for shape_id in jobs.queued_shapes(tx) if shape_id in known and admits(machine, known[shape_id])]
    if not fitting:
        return []
    gpus = {shape_id: known[shape_id].gpus for shape_id in fitting if known[shape_id].gpus}
    claimed = jobs.claim(tx, number, fitting, limit=want, at=at, gpus=(gpus, machines.free_gpus(tx, machine)) if gpus else None)
    waiters.note_ran(number, claimed)
    again = [job.id for job in claimed if job.attempt > 1]
    return _with_checkpoints(tx, claimed, again) if again else claimed


def _with_checkpoints(tx: Tx, claimed: list[jobs.Claimed], again: list[int]) -> list[jobs.Claimed]:
    left = checkpoints.of(tx, again)
    return [jobs.Claimed(job.id, job.attempt, f'{job.spec[:-1]},"checkpoint":{left[job.id]}}}') if job.id in left else job
            for job in claimed]


def _machine(number: int, accept: list[str] | None) -> Machine | None:
    row = nodes.contact(read(), number)
    return _machine_of(number, row, accept) if row is not None else None


def _machine_of(number: int, row: tuple[Any, ...], accept: list[str] | None) -> Machine:
    """The node as admission sees it, made once for each version of its row."""
    names = cloud_names(row[9])
    facts = machines.facts(number, row[14])
    kept = _machines.get(number)
    if kept is None or kept[0] is not facts or kept[1] is not names:
        if len(_machines) >= MACHINES_KEPT:
            _machines.clear()
        made = machines.machine(facts, number, user=row[4], vm_type=row[5], cores=row[6], memory_mb=row[7], storage_gb=row[8],
                                cloud_names=names)
        kept = _machines[number] = facts, names, made
    return kept[2] if accept is None else replace(kept[2], kinds=kept[2].kinds.intersection(accept))


_machines: dict[int, tuple[domain.Facts, frozenset[str], Machine]] = {}
MACHINES_KEPT = 20_000


# Numbers of clouds are those of one database.
_names: dict[int, tuple[float, Database, frozenset[str]]] = {}


def cloud_names(cloud_id: int) -> frozenset[str]:
    """The names by which a target means the cloud; looked up again after 5 s."""
    kept, database = _names.get(cloud_id), current()
    if kept is not None and kept[0] > time.monotonic() and kept[1] is database:
        return kept[2]
    cloud = clouds.get(cloud_id)
    names = called(clouds.aliases(), [cloud.name])[cloud.name] if cloud else frozenset()
    _names[cloud_id] = (time.monotonic() + 5.0, database, names)
    return names
