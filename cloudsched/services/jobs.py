"""What can be asked of jobs? Submit, look, cancel, hold, release, retry; and what follows when one ends."""

from __future__ import annotations

import base64
import binascii
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Job
from cloudsched.domain.submission import BATCH, MAX_ARRAY, JobRequest
from cloudsched.domain.tasks import BUILTIN_KINDS
from cloudsched.errors import Conflict, FieldError, Forbidden, Invalid, NotFound
from cloudsched.services import machines, waiters
from cloudsched.services.caller import Caller
from cloudsched.services.defaults import JobDefaults, job_defaults
from cloudsched.services.settling import after_end
from cloudsched.store import answers, events, inputs, jobs, nodes, shapes
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

# A job that waits for its input files to be uploaded has a need on this number, which is no job's.
FILES = 0
# What one request may write: an array copies its command and environment for each job. Files that jobs share count once.
WRITTEN_MAX = 512 << 20
# Jobs that are ours to change: of the queue, and of Spark and Flink clusters. Others belong to an external batch system.
_OURS = ("queue", "dcluster")
_retries: dict[str, Callable[[Job, Caller], int]] = {}
_POSITION = re.compile(r"#[0-9]{1,9}\Z")
_HOST = socket.gethostname() or "localhost"
_encode = msgspec.json.Encoder().encode


class Submitted(msgspec.Struct):
    """What a submission made: numbers and keys in the order asked for."""

    ids: list[int]
    keys: list[str]


# submit


def submit(requests: Sequence[JobRequest], caller: Caller, *, idempotency: tuple[str, str] | None = None) -> Submitted:
    """Queue jobs, all or nothing, durable when this returns.

    `idempotency`: (key, digest of the request); the same pair again answers what the first one made. Raises Invalid
    naming the field (an unknown dependency too), Conflict when the key was used for another request.
    """
    caller.require("submitter")
    total = sum(request.count() for request in requests)
    if total > MAX_ARRAY:
        raise Invalid.at("jobs", f"{total} jobs in one request", f"at most {MAX_ARRAY}")
    _check_order(requests)
    _check_kinds(requests)
    made, queued = write(lambda tx: _submit(tx, requests, caller, total, idempotency))
    waiters.wake_shapes(queued.items(), kind=requests[0].kind)
    return made


def _submit(tx: Tx, requests: Sequence[JobRequest], caller: Caller, total: int,
            idempotency: tuple[str, str] | None) -> tuple[Submitted, Counter[int]]:
    at = clock.now()
    if idempotency is not None:
        earlier = answers.reserve(tx, idempotency[0], idempotency[1], at=at, abandoned_before=0.0)
        if earlier is not None:
            return _earlier(earlier, idempotency), Counter()
    rows, needs, files = _rows(tx, requests, caller, total, at)
    if files:  # before events are written: others wait for those
        inputs.add(tx, files)
    jobs.insert(tx, rows, at=at, actor=caller.name)
    if needs:
        jobs.add_needs(tx, needs)
    made = Submitted([row[0] for row in rows], [row[2] for row in rows])
    if idempotency is not None:
        answers.keep(tx, idempotency[0], status=201, body=_encode(made).decode())
    return made, Counter(row[10] for row in rows if row[11] == "queued")


def _earlier(row: tuple[Any, ...], idempotency: tuple[str, str]) -> Submitted:
    digest, _, body = row
    if digest != idempotency[1]:
        raise Conflict("this Idempotency-Key was used for another request")
    if body is None:
        raise Conflict("the first request with this Idempotency-Key is still at work")
    return msgspec.json.decode(body, type=Submitted)


def _rows(tx: Tx, requests: Sequence[JobRequest], caller: Caller, total: int, at: float) -> tuple[
        list[tuple[Any, ...]], list[tuple[int, int, str]], list[tuple[int, str, inputs.Content]]]:
    defaults = job_defaults()
    first = jobs.allocate(tx, "job", total)
    batch = _batch_number(tx, requests)
    epoch = int(at)
    rows: list[tuple[Any, ...]] = []
    needs: list[tuple[int, int, str]] = []
    files: list[tuple[int, str, inputs.Content]] = []
    starts = _starts(requests, first)
    shape_ids: dict[Any, int] = {}
    decoded: dict[str, inputs.Content] = {}
    shared: set[str] = set()
    number, written = first, 0
    for position, request in enumerate(requests):
        user = _user(request, caller)
        shape_id = _shape(tx, request, user, defaults, shape_ids)
        contents, waits_for_files = _contents(request, decoded, f"jobs[{position}]." if len(requests) > 1 else "")
        for _, one in contents:
            if one.digest and one.digest not in shared:
                shared.add(one.digest)
                written += len(one.data)
        attributes = _encode(request.attributes).decode() if request.attributes else "{}"
        sizes = {name: len(one.data) for name, one in contents}
        own = sum(len(one.data) for _, one in contents if not one.digest)
        for index in _indices(request):
            proc = number - first
            key = f"{_HOST}#{batch}.{proc}#{epoch}"
            wanted = _needs(tx, request, number, starts)
            if waits_for_files:
                wanted.append((number, FILES, "files"))
            state = "held" if request.hold else "pending" if wanted else "queued"
            spec = _spec(request, defaults, key, user, index, sizes)
            written += len(spec) + own
            if written > WRITTEN_MAX:
                raise Invalid.at("array", f"its jobs together would take more than {WRITTEN_MAX >> 20} MB",
                                 "smaller files and texts, or fewer jobs at once")
            rows.append((
                number, "queue", key, batch, proc, request.name, request.batch, user, caller.org, request.kind, shape_id,
                state, request.priority, request.max_retries, request.backoff_s, request.time_limit_s, len(wanted),
                request.depends_fail, None, at, at if state == "queued" else None,
                spec, attributes, None))
            needs += wanted
            files += [(number, name, one) for name, one in contents]
            number += 1
    return rows, needs, files


def reserve_batch(caller: Caller) -> int:
    """A batch number for a submission to come, for names that carry it (`$(Cluster)` of submit files)."""
    caller.require("submitter")
    return write(lambda tx: jobs.allocate(tx, "batch", 1))


def _batch_number(tx: Tx, requests: Sequence[JobRequest]) -> int:
    """A new number, or the reserved one that all requests name."""
    named = {request.batch_id for request in requests}
    if named == {None}:
        return jobs.allocate(tx, "batch", 1)
    number = named.pop()
    if named or number is None:
        raise Invalid.at("batch_id", "differs between the jobs of one request", "the same reserved number")
    if not jobs.batch_is_free(tx, number):
        raise Invalid.at("batch_id", f"{number} was not reserved, or has jobs already", "a number from POST /batches")
    return number


def _check_order(requests: Sequence[JobRequest]) -> None:
    """`#N` names another job of the same request, and nothing waits for itself in a circle."""
    waits: dict[int, set[int]] = {}
    for index, request in enumerate(requests):
        waits[index] = set()
        for field, references in (("after_ok", request.after_ok), ("after_any", request.after_any)):
            for reference in references:
                if not (isinstance(reference, str) and reference.startswith("#")):
                    continue
                if not _POSITION.match(reference) or int(reference[1:]) >= len(requests):
                    raise _no_other(index, field, f"{reference[:100]} is no job of this request", len(requests))
                if int(reference[1:]) == index:
                    raise _no_other(index, field, f"{reference} is this job itself", len(requests))
                waits[index].add(int(reference[1:]))
    if any(waits.values()):
        _check_circle(waits)


def _no_other(index: int, field: str, message: str, count: int) -> Invalid:
    others = f", or another of #0 to #{count - 1}" if count > 1 else ""
    return Invalid.at(f"jobs[{index}].{field}", message, f"the number or key of a job{others}")


def _check_kinds(requests: Sequence[JobRequest]) -> None:
    """Kinds that nobody runs are mistakes; nodes that jobs are pinned to become their numbers."""
    for index, request in enumerate(requests):
        if not request.is_batch and request.kind not in BUILTIN_KINDS and request.kind not in machines.board().announced:
            known = sorted({*BATCH, *BUILTIN_KINDS, *machines.board().announced})
            raise Invalid.at(f"jobs[{index}].kind" if len(requests) > 1 else "kind", f"no machine here runs {request.kind!r}",
                             ", ".join(known))
        if request.require is not None and request.require.node is not None:
            request.require.node = _node_number(request.require.node)
        if request.require is not None:
            request.require.os, request.require.role = request.require.os.lower(), request.require.role.lower()


def _node_number(reference: int | str) -> int:
    text = str(reference)
    node = nodes.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else nodes.by_name(text)
    if node is None or node.state in moves.NODE_FINAL:
        raise Invalid.at("require.node", f"there is no node {text[:100]}", "the number or name of a node that has not ended")
    return node.id


def _check_circle(waits: dict[int, set[int]]) -> None:
    left = {index: set(on) for index, on in waits.items()}
    while left:
        free = {index for index, on in left.items() if not on & left.keys()}
        if not free:
            raise Invalid.at(f"jobs[{min(left)}].after_ok", "waits for itself in a circle")
        left = {index: on for index, on in left.items() if index not in free}


def _starts(requests: Sequence[JobRequest], first: int) -> list[range]:
    ranges, number = [], first
    for request in requests:
        ranges.append(range(number, number + request.count()))
        number += request.count()
    return ranges


def _user(request: JobRequest, caller: Caller) -> str:
    if request.user is None or request.user == caller.name:
        return caller.name
    if not caller.may("operator"):
        raise Forbidden(f"user: the key of {caller.name} may submit for {caller.name} only")
    return request.user


def _shape(tx: Tx, request: JobRequest, user: str, defaults: JobDefaults, seen: dict[Any, int]) -> int:
    plain = not (request.targets or request.image or request.instance_type or request.security_groups or request.gpus
                 or request.keep_alive_s is not None or request.vmtype_limit != -1 or request.maximum_price)
    require = b"" if request.require is None else _encode(request.require)
    quick = (user, request.vm_type, request.cores, request.memory_mb, request.storage_gb, request.network,
             request.high_priority, request.job_per_core, "" if request.is_batch else request.kind, require) if plain else None
    if quick is not None and quick in seen:
        return seen[quick]
    number = shapes.ensure(tx, defaults.shape(request, user))
    if quick is not None:
        seen[quick] = number
    return number


def _contents(request: JobRequest, decoded: dict[str, inputs.Content],
              prefix: str) -> tuple[list[tuple[str, inputs.Content]], bool]:
    """The files given in the request, and whether others are still to be uploaded. `decoded`: texts seen before."""
    given, missing = [], False
    for index, item in enumerate(request.input_files):
        text = item.content_base64
        if text is None:
            missing = True
            continue
        if text not in decoded:
            try:
                decoded[text] = inputs.content(base64.b64decode(text, validate=True))
            except (binascii.Error, ValueError):
                raise Invalid.at(f"{prefix}input_files[{index}].content_base64", "is not base64") from None
        size = len(decoded[text].data)
        if item.size is not None and item.size != size:
            raise Invalid.at(f"{prefix}input_files[{index}].size", f"{item.size}, but the content has {size} bytes",
                             "the size of the content, or none")
        given.append((item.name, decoded[text]))
    return given, missing


def _indices(request: JobRequest) -> Sequence[int | None]:
    if request.array is None:
        return (None,)
    return request.array.indices or range(request.array.size or 0)


def _needs(tx: Tx, request: JobRequest, number: int, starts: Sequence[range]) -> list[tuple[int, int, str]]:
    found: dict[int, str] = {}
    for kind, references in (("any", request.after_any), ("ok", request.after_ok)):
        for reference in references:
            for on in _resolve(reference, starts, field=f"after_{kind}"):
                found[on] = kind
    return [(number, on, kind) for on, kind in found.items() if _still_open(tx, on, kind, starts)]


def _resolve(reference: int | str, starts: Sequence[range], *, field: str) -> Sequence[int]:
    if isinstance(reference, str) and reference.startswith("#"):
        return starts[int(reference[1:])]
    try:
        return (find(reference).id,)
    except NotFound as error:
        raise Invalid.at(field, error.message, "the number or key of a job, or #N within the request") from None


def _still_open(tx: Tx, on: int, kind: str, starts: Sequence[range]) -> bool:
    if starts and on >= starts[0].start:
        return True
    state = jobs.locked(tx, [on])[on][1]
    if state not in moves.JOB_FINAL:
        return True
    if kind == "ok" and state != "succeeded":
        raise Conflict(f"after_ok: job {on} has ended as {state}")
    return False


class _Spec(msgspec.Struct, omit_defaults=True):
    """What the agent is told (docs/design/agent-protocol.md)."""

    kind: str
    key: str
    user: str
    cores: int
    memory_mb: int
    storage_gb: int
    command: list[str] = []
    env: dict[str, str] = {}
    name: str = ""
    stdin: str | None = None
    time_limit_s: float | None = None
    input_files: list[dict[str, Any]] = []
    output_files: list[str] = []
    gpus: int = 0
    payload: dict[str, Any] | None = None


def _spec(request: JobRequest, defaults: JobDefaults, key: str, user: str, index: int | None,
          sizes: dict[str, int]) -> str:
    env = request.env if index is None else {**request.env, "CLOUDSCHED_ARRAY_INDEX": str(index)}
    files = [{"name": item.name, "size": sizes.get(item.name, item.size), "mode": item.mode} for item in request.input_files]
    # A task takes a slot of its machine and, unless it says so, no room of its own.
    room = (defaults.cores, defaults.memory_mb, defaults.storage_gb) if request.is_batch else (0, 0, 0)
    spec = _Spec(
        request.kind, key, user, request.cores or room[0], room[1] if request.memory_mb is None else request.memory_mb,
        room[2] if request.storage_gb is None else request.storage_gb,
        request.command, env, request.name, request.stdin, request.time_limit_s, files, request.output_files, request.gpus,
        None if request.is_batch else request.payload or {})
    return _encode(spec).decode()


# look


def find(reference: int | str) -> Job:
    """One job by number or key. Raises NotFound."""
    text = str(reference)
    job = jobs.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if job is None:
        job = jobs.by_key("queue", text) or jobs.by_key("condor", text) or jobs.by_key("dcluster", text)
    if job is None:
        raise NotFound(f"there is no job {text}")
    return job


def output(job: Job, stream: str, *, offset: int = 0, attempt: int | None = None, limit: int = 1 << 20) -> bytes:
    """Bytes of a job's output stream of the latest (or the given) attempt."""
    return jobs.read_data(job.id, job.attempt if attempt is None else attempt, stream, offset=offset, limit=limit)


# change


def cancel(reference: int | str, caller: Caller, *, wait_s: float = 0) -> Job:
    """Cancel a job. A waiting one is cancelled at once; a running one when its agent has proved it dead (or is lost).

    Waits up to `wait_s` for that; the state of the returned job tells. Raises NotFound, Forbidden, Conflict (ended).
    """
    job = check_owner(find(reference), caller)
    if job.state in moves.JOB_FINAL and job.state != "cancelled":
        raise Conflict(f"job {job.id} has ended as {job.state}")
    write(lambda tx: _cancel(tx, job.id, caller))
    if job.node_id is not None:
        waiters.wake_node(job.node_id)
    return _wait_final(job.id, wait_s)


def _cancel(tx: Tx, number: int, caller: Caller) -> None:
    at = clock.now()
    if cancel_waiting(tx, number, actor=caller.name):
        return
    if jobs.want_cancelled(tx, number):
        events.append(tx, "job.cancel_request", ("job", number), at=at, actor=caller.name)


def cancel_waiting(tx: Tx, number: int, *, actor: str) -> bool:
    """Cancel a job that nobody has in hand; False when somebody has, or it has ended. How an earlier attempt went, or why it
    was held, is not why it ended."""
    at = clock.now()
    if not move(tx, "job", number, "cancel", at=at, actor=actor, goal="cancel", reason=None, exit_code=None,
                guard=("state IN ('pending', 'held', 'queued')", ())):
        return False
    after_end(tx, [(number, "cancelled")], at=at)
    return True


def _wait_final(number: int, wait_s: float) -> Job:
    until = time.monotonic() + wait_s
    while True:
        job = jobs.get(number)
        if job is None:
            raise NotFound(f"there is no job {number}")
        if job.state in moves.JOB_FINAL or time.monotonic() >= until:
            return job
        time.sleep(0.05)


def cancel_many(caller: Caller, *, ids: Sequence[int | str] = (), states: Sequence[str] = (), **filters: Any) -> int:
    """Cancel jobs by id, or all that match the filters (batch, user, ...); returns how many were told so."""
    if ids:
        chosen = [find(reference) for reference in ids]
    else:
        if not any(filters.values()) and not states:
            raise Invalid.at("ids", "name jobs or a filter", "ids, batch, user, name or state")
        open_states = [s for s in (states or moves.JOB_WAITING + moves.JOB_ACTIVE) if s not in moves.JOB_FINAL]
        chosen = jobs.find(states=open_states, limit=MAX_ARRAY, **filters) if open_states else []
    done = 0
    for job in chosen:  # before the first is cancelled: a refusal changes nothing
        if job.state not in moves.JOB_FINAL:
            check_owner(job, caller)
    for job in chosen:
        if job.state not in moves.JOB_FINAL:
            write(partial(_cancel, number=job.id, caller=caller))
            done += 1
            if job.node_id is not None:
                waiters.wake_node(job.node_id)
    return done


def hold(reference: int | str, caller: Caller, *, reason: str = "held by hand") -> Job:
    """Keep a waiting job from being handed out. Raises Conflict when it runs or has ended."""
    job = check_owner(find(reference), caller)
    if not write(lambda tx: move(tx, "job", job.id, "hold", at=clock.now(), actor=caller.name, reason=reason,
                                 note={"reason": reason})) and job.state != "held":
        raise Conflict(f"job {job.id} is {job.state}: only a pending or queued job can be held")
    return find(job.id)


def release(reference: int | str, caller: Caller) -> Job:
    """Let a held job go on: it is queued, or waits on for what can still come (jobs, input files, the end of a pause). A job
    that it needs and that has ended badly does not stop it any more. Raises Conflict when it is not held."""
    job = check_owner(find(reference), caller)
    if job.state != "held":
        raise Conflict(f"job {job.id} is {job.state}: only a held job can be released")
    write(lambda tx: _release_held(tx, job, caller))
    waiters.wake_shapes([(job.shape_id, 1)])
    return find(job.id)


def _release_held(tx: Tx, job: Job, caller: Caller) -> None:
    at = clock.now()
    dropped = [on for on, kind in jobs.needs_of(tx, job.id) if kind == "ok" and _ended_badly(tx, on)]
    for on in dropped:
        jobs.need_met(tx, job.id, on)
    facts: dict[str, Any] = {"reason": None, "override": None, "note": {"dropped_needs": dropped} if dropped else None}
    paused = ("not_before > ?", (at,))
    if jobs.count_needs(tx, job.id):
        move(tx, "job", job.id, "wait", at=at, actor=caller.name, **facts)
    elif not move(tx, "job", job.id, "wait", at=at, actor=caller.name, guard=paused, **facts):
        move(tx, "job", job.id, "release", at=at, actor=caller.name, queued_at=at, not_before=None,
             guard=("state = 'held'", ()), **facts)


def _ended_badly(tx: Tx, number: int) -> bool:
    row = jobs.locked(tx, [number]).get(number)
    return row is None or (row[1] in moves.JOB_FINAL and row[1] != "succeeded")


def on_retry(source: str, again: Callable[[Job, Caller], int]) -> None:
    """Say how ended jobs of another source than the queue are submitted once more; `again` returns the new number."""
    _retries[source] = again


def retry(reference: int | str, caller: Caller, *, priority: int | None = None, ignore_dependencies: bool = False) -> Job:
    """Queue an ended job again as a new one (`retry_of` names the old). It waits for what the old one still waited for, or for
    the retries of that. Raises Conflict unless it ended badly, and when such a job has ended badly with no retry under way:
    `ignore_dependencies` waits for no job.
    """
    old = check_owner(find(reference), caller)
    if old.state not in ("failed", "timeout", "cancelled"):
        raise Conflict(f"job {old.id} is {old.state}: only a failed, timed-out or cancelled job can be retried")
    if old.source in _retries:
        return find(_retries[old.source](old, caller))
    number = write(lambda tx: _retry(tx, old, caller, old.priority if priority is None else priority,
                                     ignore=ignore_dependencies))
    waiters.wake_shapes([(old.shape_id, 1)])
    return find(number)


def _retry(tx: Tx, old: Job, caller: Caller, priority: int, *, ignore: bool) -> int:
    at = clock.now()
    needed = [(on, kind) for on, kind in jobs.needs_of(tx, old.id) if on != FILES]
    needs = {} if ignore else _needs_again(tx, old, needed)
    number, batch = jobs.allocate(tx, "job", 1), jobs.allocate(tx, "batch", 1)
    key = f"{_HOST}#{batch}.0#{int(at)}"
    spec = json.loads(old.spec)
    spec["key"] = key
    inputs.copy(tx, old.id, number)
    waits = not _declared(spec) <= inputs.names(tx, old.id)  # the old one ended before its files had come
    state = "pending" if waits or needs else "queued"
    jobs.insert(tx, [(
        number, "queue", key, batch, 0, old.name, old.label, old.user, old.org, old.kind, old.shape_id, state, priority,
        old.max_retries, old.backoff_s, old.time_limit_s, int(waits) + len(needs), old.depends_fail, None, at,
        at if state == "queued" else None,
        json.dumps(spec, separators=(",", ":")), old.attributes, old.id)], at=at, actor=caller.name)
    ignored = {"ignored_needs": [on for on, _ in needed]} if ignore and needed else {}
    events.append(tx, "job.retried", ("job", old.id), at=at, actor=caller.name, new=number, **ignored)
    if waits:
        needs[FILES] = "files"
    if needs:
        jobs.add_needs(tx, [(number, on, kind) for on, kind in needs.items()])
    return number


def _needs_again(tx: Tx, old: Job, needed: Sequence[tuple[int, str]]) -> dict[int, str]:
    """What a retry of a job waits for: what the job had not got, each need on the newest retry of what it was on."""
    found: dict[int, str] = {}
    for on, kind in needed:
        number = _stands_for(tx, old, on, kind)
        if number is not None:
            found[number] = "ok" if "ok" in (kind, found.get(number)) else kind
    return found


def _stands_for(tx: Tx, old: Job, on: int, kind: str) -> int | None:
    """The job that a need on `on` is about now; None: it is met. Raises Conflict when nothing can meet it any more."""
    states = {number: row[1] for number, row in jobs.locked(tx, jobs.line(tx, on) if kind == "ok" else [on]).items()}
    still_open = [number for number, state in states.items() if state not in moves.JOB_FINAL]
    if kind == "ok" and "succeeded" in states.values():
        return None
    if still_open:
        return max(still_open)
    if kind == "ok" and states:
        last = max(states)
        raise Conflict(f"job {old.id} waits for job {last}, which has ended as {states[last]}: retry that one first, "
                       "or say ignore_dependencies")
    return None


def _declared(spec: dict[str, Any]) -> set[str]:
    return {item["name"] for item in spec.get("input_files", [])}


def put_input(reference: int | str, name: str, data: bytes, caller: Caller) -> None:
    """Upload one declared input file of a job that has not started; the last one missing lets the job go on.

    The same file again replaces it. Raises Invalid (not declared, not the announced size), Conflict (too late).
    """
    job = check_owner(find(reference), caller)
    spec = json.loads(job.spec)
    declared = _declared(spec)
    if name not in declared:
        raise Invalid(f"{name}: not among the input files of job {job.id}",
                      errors=[FieldError("name", "not declared", ", ".join(sorted(declared)) or "none")])
    announced = next(item["size"] for item in spec["input_files"] if item["name"] == name)
    if announced is not None and len(data) != announced:
        raise Invalid.at("body", f"{len(data)} bytes came for {name}", f"{announced} bytes, as announced")
    content = inputs.content(data)
    write(lambda tx: _put_input(tx, job, name, content, declared))
    waiters.wake_shapes([(job.shape_id, 1)])


def _put_input(tx: Tx, job: Job, name: str, content: inputs.Content, declared: set[str]) -> None:
    at = clock.now()
    state = jobs.locked(tx, [job.id])[job.id][1]
    if state not in ("pending", "held"):
        raise Conflict(f"job {job.id} is {state}: its input files cannot change any more")
    inputs.drop(tx, job.id, name)
    inputs.add(tx, [(job.id, name, content)])
    events.append(tx, "job.input", ("job", job.id), at=at, name=name)
    if declared <= inputs.names(tx, job.id):
        jobs.need_met(tx, job.id, FILES)
        jobs.release(tx, [job.id], at=at)


def check_owner(job: Job, caller: Caller) -> Job:
    """The job, when the caller may change it. Raises Forbidden."""
    if job.source not in _OURS and not caller.may("operator"):
        raise Forbidden(f"job {job.id} belongs to an external queue; this needs the role operator")
    if caller.may("operator") or (caller.may("submitter") and job.user == caller.name):
        return job
    raise Forbidden(f"job {job.id} belongs to {job.user}; the key of {caller.name} may change only its own jobs")
