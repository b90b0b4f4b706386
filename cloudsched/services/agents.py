"""What do nodes ask? Join, and the one hot call: heartbeat, results, claim (docs/design/agent-protocol.md)."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.admission import Machine, admits
from cloudsched.errors import Conflict, Gone, Invalid, NotFound, TooLarge, Unauthenticated
from cloudsched.services import settling, waiters
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, external, jobs, nodes, shapes
from cloudsched.store.db import Tx, read, write
from cloudsched.store.moves import move

UNCLAIMED_GRACE_S = 5.0
PIECE_MAX = 1 << 20
AGENT_CLOUD = "agents"


@dataclass
class Rules:
    """What the server tells its agents; set once when a process starts, from the settings."""

    lease_s: float = 60
    heartbeat_s: float = 10
    long_poll_s: float = 20
    output_limit: int = 16 << 20
    recheck_s: float | None = None  # look again this often while waiting: other web processes queue jobs too


rules = Rules()

_EVENTS = {"succeeded": "succeed", "failed": "fail", "timeout": "time_out", "cancelled": "cancel"}


class Profile(msgspec.Struct):
    """What a machine says of itself. Unknown members are kept in `facts`."""

    cores: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    storage_gb: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    slots: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    hostname: str = ""


class JoinRequest(msgspec.Struct):
    token: str
    profile: msgspec.Raw
    name: Annotated[str, Meta(max_length=200)] | None = None
    instance: Annotated[str, Meta(max_length=100)] = ""


class Done(msgspec.Struct):
    """One result (see the protocol)."""

    id: int
    attempt: int
    state: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    stdout: str = ""
    stderr: str = ""
    ran_s: float = 0.0
    ended_ago_s: float = 0.0
    cpu_s: float | None = None
    max_rss_mb: int | None = None
    result: msgspec.Raw = msgspec.Raw(b"null")  # a union with None would refuse objects


class Sync(msgspec.Struct):
    """One call of a node."""

    want: Annotated[int, Meta(ge=0, le=1000)]
    wait_s: Annotated[float, Meta(ge=0, le=30)] = 0
    free: dict[str, float] = {}
    holding: list[tuple[int, int]] = []
    started: list[tuple[int, int, float]] = []
    done: list[Done] = []
    returned: list[tuple[int, int]] = []
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


_join = msgspec.json.Decoder(JoinRequest)
_sync = msgspec.json.Decoder(Sync)
_profile = msgspec.json.Decoder(Profile)


def digest(secret: str) -> str:
    """How tokens and secrets are kept: they are random, so a plain hash is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


# join


def join(body: bytes, address: str) -> dict[str, Any]:
    """A machine comes in with a token; returns what it needs from now on. Raises Unauthenticated, Gone, Invalid."""
    request, profile = _parse_join(body)
    secret = clock.new_token()
    number, name = write(lambda tx: _admit(tx, request, profile, digest(secret), address))
    return {"node_id": number, "name": name, "secret": secret, "lease_s": rules.lease_s,
            "heartbeat_s": rules.heartbeat_s, "long_poll_s": rules.long_poll_s}


def _parse_join(body: bytes) -> tuple[JoinRequest, Profile]:
    from cloudsched.domain.submission import invalid

    try:
        request = _join.decode(body)
        profile = _profile.decode(request.profile)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    for field, text in (("name", request.name), ("instance", request.instance), ("profile.hostname", profile.hostname)):
        if text and "\0" in text:
            raise Invalid.at(field, "holds a NUL character")
    return request, profile


def _admit(tx: Tx, request: JoinRequest, profile: Profile, secret_hash: str, address: str) -> tuple[int, str]:
    at = clock.now()
    token_hash = digest(request.token)
    booted = nodes.by_token(tx, token_hash)
    if booted is not None:
        return _booted_joins(tx, booted, request, profile, secret_hash, address, at)
    return _machine_joins(tx, token_hash, request, profile, secret_hash, address, at)


def _booted_joins(tx: Tx, row: tuple[Any, ...], request: JoinRequest, profile: Profile, secret_hash: str, address: str,
                  at: float) -> tuple[int, str]:
    number, state = row
    if state not in ("requested", "starting", "running"):
        raise Gone("this node has ended")
    facts = _registration(request, profile, secret_hash, address, at)
    node = nodes.get(number)
    assert node is not None
    move(tx, "node", number, "run", at=at, status="Running", running_at=at, status_changed_at=at,
         boot_s=at - (node.boot_requested_at or at), note={"by": "join"})
    if node.hostname:  # the cloud's word counts more than what a machine calls itself
        facts.pop("hostname")
    nodes.update(tx, number, event="node.join", at=at, note={"address": address}, **facts)
    _doubt_earlier(tx, number, at)
    return number, node.name


def _machine_joins(tx: Tx, token_hash: str, request: JoinRequest, profile: Profile, secret_hash: str, address: str,
                   at: float) -> tuple[int, str]:
    name = request.name or f"{profile.hostname or 'node'}-{clock.new_suffix(6)}"
    known = nodes.by_name(name)
    again = known is not None and known.state in ("starting", "running")
    found = nodes.use_join_token(tx, token_hash, at=at, new_node=not again)
    if found is None:
        raise Unauthenticated("the join token is not valid (unknown, used up or expired)")
    facts = _registration(request, profile, secret_hash, address, at)
    if again and known is not None:
        if json.loads(known.handle).get("pool") != token_hash:
            raise Conflict(f"another machine named {name} is here: choose another name")
        nodes.update(tx, known.id, event="node.join", at=at, note={"address": address}, **facts)
        _doubt_earlier(tx, known.id, at)
        return known.id, name
    if known is not None:
        name = f"{name}-{clock.new_suffix(4)}"
    cloud_id, user, vm_type = found
    number = nodes.insert(tx, {
        "name": name, "external_id": name, "cloud_id": cloud_id, "state": "running", "status": "Running", "user": user,
        "vm_type": vm_type, "cores": profile.cores, "memory_mb": profile.memory_mb, "storage_gb": profile.storage_gb,
        "slots": profile.slots or profile.cores, "boot_requested_at": at, "running_at": at, "handle": json.dumps({"pool": token_hash}),
        **facts}, at=at, event="node.join", note={"address": address})
    return number, name


def _registration(request: JoinRequest, profile: Profile, secret_hash: str, address: str, at: float) -> dict[str, Any]:
    return {"secret_hash": secret_hash, "instance": request.instance or "-", "facts": bytes(request.profile).decode(),
            "hostname": profile.hostname, "address": address, "registered_at": at, "last_seen_at": at, "idle_since": at}


def _doubt_earlier(tx: Tx, number: int, at: float) -> None:
    """The agent may have kept its jobs over a reconnect: its first `holding` says so; what it does not name goes back."""
    jobs.doubt(tx, number, at=at - UNCLAIMED_GRACE_S)


# sync


def sync(bearer: str, body: bytes) -> Reply:
    """One call of a node: record what it reports, renew, and hand out work; waits up to `wait_s` when there is none.

    Raises Unauthenticated (join again), Gone (end), Invalid.
    """
    number, secret_hash = _bearer(bearer)
    request = _parse_sync(body)
    began = time.monotonic()
    reply = write(lambda tx: _serve(tx, number, secret_hash, request, first=True))
    wait_s = min(request.wait_s, rules.long_poll_s)
    if wait_s <= 0 or _has_news(reply):
        reply.wait_s = rules.long_poll_s
        return reply
    return _held(number, secret_hash, request, reply, began + wait_s)


def _bearer(text: str) -> tuple[int, str]:
    number, _, secret = text.partition(".")
    if not number.isdigit() or not secret or len(number) > 18:
        raise Unauthenticated("the node's secret is missing")
    return int(number), digest(secret)


def _parse_sync(body: bytes) -> Sync:
    from cloudsched.domain.submission import invalid

    try:
        request = _sync.decode(body)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    for index, done in enumerate(request.done):
        if done.state not in _EVENTS:
            raise Invalid.at(f"done[{index}].state", f"{done.state!r} is no end state", ", ".join(_EVENTS))
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
        external.add_run_times(tx, number, [done.ran_s for done in request.done
                                            if done.state != "cancelled" and (done.id, done.attempt) not in reply.refused])
    if request.started:
        jobs.start(tx, [(j, a, at - max(0.0, ago)) for j, a, ago in request.started], node_id=number, at=at)
    if request.returned:
        jobs.requeue(tx, [(j, a) for j, a in request.returned if jobs.holds(tx, number, j, attempt=a)], "give_back", at=at)
    held = jobs.in_hand(tx, number)
    reply.drop, kept = _compare(tx, held, request.holding, at) if first else _cancelled(held, request.holding)
    reply.goal = _goal(tx, number, state, goal, kept, at)
    if reply.goal == "run" and request.want > 0 and state == "running":
        reply.jobs = _claim(tx, number, row, request.want, at)
    idle = None if reply.jobs or kept else (row[12] or at)
    metrics = json.dumps(request.metrics) if request.metrics else None
    nodes.seen(tx, number, at=at, idle_since=idle, metrics=metrics)
    return reply


def _result(done: Done, at: float) -> jobs.Result:
    return jobs.Result(
        done.id, done.attempt, _EVENTS[done.state], done.state, done.exit_code, done.signal,
        done.reason and done.reason.replace("\0", "\ufffd"), done.ran_s,
        at - max(0.0, done.ended_ago_s), done.cpu_s, done.max_rss_mb, done.stdout, done.stderr,
        None if bytes(done.result) == b"null" else bytes(done.result).decode())


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
    found |= {alias.lower() for alias, members in clouds.aliases().items() if cloud and cloud.name in (m.lower() for m in members)}
    _names[cloud_id] = (time.monotonic() + 5.0, frozenset(found))
    return _names[cloud_id][1]


# bytes


def put_output(bearer: str, job_id: int, attempt: int, stream: str, offset: int, data: bytes) -> dict[str, int]:
    """Append to a stream of a running job; what is there already is not written twice. Raises Conflict."""
    number, secret_hash = _bearer(bearer)
    if stream not in ("stdout", "stderr"):
        raise Invalid.at("stream", f"{stream!r} is no stream", "stdout, stderr")
    return _put(number, secret_hash, job_id, attempt, stream, offset, data)


def put_file(bearer: str, job_id: int, attempt: int, name: str, offset: int, data: bytes) -> dict[str, int]:
    """Append to an output file of a running job."""
    number, secret_hash = _bearer(bearer)
    return _put(number, secret_hash, job_id, attempt, f"out/{name}", offset, data)


def _put(number: int, secret_hash: str, job_id: int, attempt: int, name: str, offset: int, data: bytes) -> dict[str, int]:
    if len(data) > PIECE_MAX:
        raise TooLarge(f"a piece may have {PIECE_MAX} bytes")
    return write(lambda tx: _append(tx, number, secret_hash, job_id, attempt, name, offset, data))


def _append(tx: Tx, number: int, secret_hash: str, job_id: int, attempt: int, name: str, offset: int, data: bytes) -> dict[str, int]:
    _authentic(tx, number, secret_hash)
    if not jobs.holds(tx, number, job_id, attempt=attempt, lock=True):
        raise Conflict("stale: the job is not this node's any more")
    size = jobs.data_size(tx, job_id, attempt, name)
    if offset > size:
        raise Conflict(f"a gap: {size} bytes are here", details={"size": size})
    fresh = data[size - offset:]
    room = rules.output_limit - size if not name.startswith("out/") else len(fresh)
    if fresh and room > 0:
        jobs.append_output(tx, [(job_id, attempt, name, fresh[:room])])
        size += min(len(fresh), room)
    elif data and not fresh:
        pass
    return {"size": max(size, offset + len(data)) if room <= 0 or len(fresh) > room else size, "limit": rules.output_limit}


def get_input(bearer: str, job_id: int, name: str) -> tuple[int, Any]:
    """(size, iterator of bytes) of an input file of a job in this node's hands. Raises NotFound."""
    number, secret_hash = _bearer(bearer)
    tx = read()
    _authentic(tx, number, secret_hash)
    if not jobs.holds(tx, number, job_id):
        raise NotFound("the job is not this node's")
    size = jobs.data_size(tx, job_id, 0, f"in/{name}")
    if not size and not any(row[1] == f"in/{name}" for row in jobs.data_names(job_id)):
        raise NotFound(f"job {job_id} has no input file {name}")
    return size, _pieces(job_id, 0, f"in/{name}", size)


def _pieces(job_id: int, attempt: int, name: str, size: int) -> Any:
    offset = 0
    while offset < size:
        piece = jobs.read_data(job_id, attempt, name, offset=offset)
        if not piece:
            return
        yield piece
        offset += len(piece)


def _authentic(tx: Tx, number: int, secret_hash: str) -> None:
    row = nodes.contact(tx, number)
    if row is None or not hmac.compare_digest(row[2], secret_hash):
        raise Unauthenticated("the node's secret is not valid any more: join again")


# tokens


def new_pool_token(caller: Caller, *, cloud: str = AGENT_CLOUD, user: str = "", vm_type: str = "", ttl_s: float | None = 86_400,
                   uses: int | None = None) -> dict[str, Any]:
    """A token with which machines may join the given cloud (default: the pool of machines that came by themselves)."""
    caller.require("operator")
    token = clock.new_token()
    at = clock.now()
    expires = at + ttl_s if ttl_s else None

    def make(tx: Tx) -> None:
        found = clouds.by_name(cloud)
        if found is None and cloud != AGENT_CLOUD:
            raise NotFound(f"there is no cloud {cloud}")
        cloud_id = found.id if found else clouds.insert(
            tx, {"name": AGENT_CLOUD, "title": AGENT_CLOUD, "kind": "Agent", "max_slots": -1, "enabled": 1, "position": 9999,
                 "address": "", "source": "system"}, at=at, actor=caller.name)
        nodes.add_join_token(tx, digest(token), cloud_id=cloud_id, user=user, vm_type=vm_type, uses=uses, expires_at=expires, at=at)

    write(make)
    return {"token": token, "expires_at": clock.rfc3339(expires)}


def instance_id() -> str:
    """A name for this process in leases: host, process, random."""
    return f"{os.uname().nodename}:{os.getpid()}:{clock.new_suffix(6)}"
