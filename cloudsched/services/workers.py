"""What do workers of the native protocol ask, and what are they told? Register, report, ask for a task, return its result.

Contract 12.5 to 12.7. Such a worker has no channel of its own and names no attempts: a task in its hands stays there until a
result comes, its time is over, it is cancelled, or the worker goes offline. A worker that only reports (`legacy`) never gets
a task.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.domain import devices as domain
from cloudsched.domain import moves
from cloudsched.domain import tasks as words
from cloudsched.errors import Forbidden, Invalid, NotFound
from cloudsched.services import agents, contacts, fleet_config, machines, registering, settling, task_views
from cloudsched.services.registering import OPEN, TOKEN
from cloudsched.store import devices as store
from cloudsched.store import jobs, nodes
from cloudsched.store import tasks as task_rows
from cloudsched.store.db import Tx, write
from cloudsched.store.devices import WORKER, Device

PROFILE_MAX, METRICS_MAX, LOG_LINES_MAX = 1 << 18, 1 << 16, 1000
_UNKNOWN = "the device is not registered"


@dataclass(frozen=True, slots=True)
class Registered:
    """A registration that was accepted; `new`: nobody of this id was here before."""

    device_id: str
    node_id: int
    new: bool


@dataclass(frozen=True, slots=True)
class Beat:
    """The answer to a heartbeat. `known` False: register first. `cancel`: task ids to stop."""

    known: bool
    message: str
    cancel: list[str] = field(default_factory=list)
    interval_s: int = 60


@dataclass(frozen=True, slots=True)
class Claimed:
    """The answer to a task request. `task`: the dict of contract 12.6, or None when there is none. Call `delivered` when
    the reply has gone out, `undelivered` when it could not."""

    task: dict[str, Any] | None
    cancel: list[str] = field(default_factory=list)
    job_id: int = 0
    attempt: int = 0
    node_id: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to a result. `dropped`: acknowledged, but it was no longer this device's task."""

    success: bool
    dropped: bool = False
    message: str = ""


def register(profile: Mapping[str, Any], *, device_id: str, via: str = WORKER, address: str, token: str = "") -> Registered:
    """A worker of the native protocol registers (contract 12.3); again: the record is renewed, `registered_at` kept.

    `profile`: contract 10.1; `via`: `worker` or `legacy`: what it would be; the token decides what it is (12.7).
    Raises Invalid (id, values), Unauthenticated and Forbidden (token), Conflict (the id belongs to a machine with an agent).
    """
    if not domain.is_id(device_id):
        raise Invalid.at("sender_id", "is no id of a device", domain.ID_RULE)
    if not isinstance(profile, Mapping):
        raise Invalid.at("data", "is no object")
    said = {**domain.cleaned(profile), "device_id": device_id, "ip_address": address}
    if len(json.dumps(said)) > PROFILE_MAX:
        raise Invalid.at("data", "is too large", f"at most {PROFILE_MAX} bytes")
    number, new = write(lambda tx: registering.worker_registers(tx, device_id, said, via=via, token=token, address=address))
    return Registered(device_id, number, new)


def heartbeat(device_id: str, metrics: Mapping[str, Any], *, address: str, token: str = "") -> Beat:
    """A worker reports (contract 12.3). Raises Unauthenticated, Forbidden (token)."""
    kept = domain.cleaned(metrics) if isinstance(metrics, Mapping) else {}
    return write(lambda tx: _heartbeat(tx, device_id, kept, address, token))


def _heartbeat(tx: Tx, device_id: str, metrics: dict[str, Any], address: str, token: str) -> Beat:
    at = clock.now()
    rank = registering.standing(token, address)
    known = registering.present(tx, device_id)
    if known is None or known.state != "running" or known.via not in (WORKER, store.LEGACY):
        return Beat(False, _UNKNOWN)
    registering.check_owner(known, rank, token)
    sample = domain.sample_of(metrics)
    _heard(tx, known, at, beats=1, sample=sample, metrics=metrics if sample else None)
    return Beat(True, "heartbeat received", _stops(known, at), fleet_config.recent().heartbeat_interval_s)


def _heard(tx: Tx, known: Device, at: float, *, beats: int = 0, sample: domain.Sample = contacts.NO_SAMPLE,
           metrics: Mapping[str, Any] | None = None) -> None:
    contacts.heard(tx, known.node_id, known.device_id, at=at, seen_at=known.last_seen_at, online_since=known.online_since,
                   beats=beats, sample=sample, counters=(known.sent, known.received))
    text = json.dumps(metrics) if metrics else None
    nodes.seen(tx, known.node_id, at=at, idle_since=None, metrics=text if text and len(text) <= METRICS_MAX else None)


def _stops(known: Device, at: float) -> list[str]:
    return [task for task, until in json.loads(known.stops or "{}").items() if until > at]


# tasks


def request_work(device_id: str, capabilities: Mapping[str, Any], *, address: str, token: str = "") -> Claimed:
    """A worker asks for a task (contract 12.5). Raises NotFound (register first), Unauthenticated, Forbidden (token, legacy)."""
    said = domain.cleaned(capabilities) if isinstance(capabilities, Mapping) else {}
    claimed = write(lambda tx: _request(tx, device_id, said, address, token))
    if claimed.job_id == 0:
        return claimed
    return Claimed(_task_dict(claimed.job_id), claimed.cancel, claimed.job_id, claimed.attempt, claimed.node_id)


def _request(tx: Tx, device_id: str, said: dict[str, Any], address: str, token: str) -> Claimed:
    at = clock.now()
    known = _worker(tx, device_id, address, token)
    row = nodes.contact(tx, known.node_id)
    assert row is not None
    version = _learn(tx, known, said, row[14])
    _heard(tx, known, at)
    stops, held = _stops(known, at), jobs.in_hand(tx, known.node_id)
    slots = int(tx.value("SELECT slots FROM node WHERE id = ?", (known.node_id,)))
    if known.goal != "run" or len(held) >= slots:
        return Claimed(None, stops)
    machine = machines.machine(machines.facts(known.node_id, version), known.node_id, user=row[4], vm_type=row[5], cores=row[6],
                               memory_mb=row[7], storage_gb=row[8], cloud_names=agents.cloud_names(row[9]))
    got = agents.claim(tx, known.node_id, machine, 1, at)
    return Claimed(None, stops, got[0].id, got[0].attempt, known.node_id) if got else Claimed(None, stops)


def _worker(tx: Tx, device_id: str, address: str, token: str) -> Device:
    """The worker that speaks, when it may have tasks."""
    rank = registering.standing(token, address)
    known = registering.present(tx, device_id)
    if known is None or known.state != "running":
        raise NotFound(_UNKNOWN, details={"code": "DEVICE_NOT_FOUND"})
    registering.check_owner(known, rank, token)
    if rank not in (TOKEN, OPEN) or known.via not in (WORKER, store.LEGACY):
        raise Forbidden("this device may not have tasks")
    return known


def _learn(tx: Tx, known: Device, said: Mapping[str, Any], version: int) -> int:
    """What a request for work says of the worker, kept when it is new; the version of its node after that.

    A worker that asks has said that it takes tasks; one that does not say which takes the built-in ones.
    """
    profile = machines.profile(nodes.facts(known.node_id))
    fresh = {name: value for name, value in said.items() if value is not None and profile.get(name) != value}
    if "supported_task_types" not in {**profile, **said}:
        fresh["supported_task_types"] = list(words.BUILTIN)
    if not fresh and known.accepts_tasks and known.via == WORKER:
        return version
    profile.update(fresh)
    facts = domain.facts_of(profile)
    if len(text := json.dumps(profile)) > PROFILE_MAX:
        return version
    nodes.update(tx, known.node_id, facts=text, **registering.columns(facts, profile))
    store.update(tx, known.node_id, via=WORKER, accepts_tasks=1, os=facts.os, role=facts.role or known.role,
                 internet=int(facts.internet))
    store.changed(tx)
    return version + 1


def _task_dict(number: int) -> dict[str, Any]:
    """A task as the original's parser takes it (contract 12.6): priority by number, times with `+00:00`."""
    view = task_views.one(number, whole=True)
    return {
        "task_id": view.task_id, "task_type": view.type, "payload": dict(view.payload), "priority": view.priority,
        "requirements": {**view.requirements, "timeout_seconds": int(view.timeout_s or words.DEFAULT_TIMEOUT_S)},
        "metadata": dict(view.metadata), "status": view.word, "created_at": _iso(view.created_at),
        "assigned_device_id": view.device_id, "assigned_at": _iso(view.assigned_at), "started_at": _iso(view.started_at),
        "completed_at": None, "retry_count": view.retry_count, "error_history": list(view.error_history), "result": None}


def _iso(at: float | None) -> str | None:
    text = clock.rfc3339(at)
    return None if text is None else text.replace("Z", "+00:00")


def delivered(claimed: Claimed) -> None:
    """The reply with the task has reached the worker: the task runs."""
    at = clock.now()
    write(lambda tx: jobs.start(tx, [(claimed.job_id, claimed.attempt, at)], node_id=claimed.node_id, at=at))


def undelivered(claimed: Claimed) -> None:
    """The reply could not be sent: the task waits again."""
    write(lambda tx: settling.give_back(tx, [(claimed.job_id, claimed.attempt)], at=clock.now()))


def task_word(device_id: str, task_id: str, *, address: str, token: str = "") -> str | None:
    """The code word of a task that this device holds or held last; None: it has nothing to do with it.

    A task it held that is another's now reads `cancelled`: it is to stop. Raises NotFound, Unauthenticated, Forbidden.
    """
    known = write(lambda tx: _seen(tx, device_id, address, token))
    number = words.job_number(task_id)
    row = task_rows.one(number) if number is not None else None
    if row is None:
        return None
    if row.node_id == known.node_id and row.state not in moves.JOB_WAITING:
        return words.WORDS[row.state][0]
    return "cancelled" if task_rows.was_held(row.id, known.node_id) else None


def _seen(tx: Tx, device_id: str, address: str, token: str) -> Device:
    known = _worker(tx, device_id, address, token)
    _heard(tx, known, clock.now())
    return known


# results


def report(device_id: str, result: Mapping[str, Any], *, address: str, token: str = "",
           usage: Mapping[str, Any] | None = None, log: Sequence[str] = ()) -> Outcome:
    """A worker's result (contract 12.6). Raises NotFound, Unauthenticated, Forbidden, Invalid (no task id, unknown status)."""
    task_id, status = result.get("task_id"), result.get("status")
    if not isinstance(task_id, str):
        raise Invalid.at("result.task_id", "is missing", "the id of a task")
    if status not in words.RESULT_WORDS:
        raise Invalid.at("result.status", f"{str(status)[:40]!r} is no end of a task", ", ".join(words.RESULT_WORDS))
    kept = _kept(result, usage, log)
    return write(lambda tx: _report(tx, device_id, task_id, result, kept, address, token))


def _report(tx: Tx, device_id: str, task_id: str, result: Mapping[str, Any], kept: str, address: str, token: str) -> Outcome:
    at = clock.now()
    known = _worker(tx, device_id, address, token)
    _heard(tx, known, at)
    _heed(tx, known, task_id)
    number = words.job_number(task_id)
    row = jobs.locked(tx, [number]).get(number) if number is not None else None
    if row is None or number is None:
        return Outcome(False, message=f"there is no task {task_id[:100]}")
    mine = row[3] == known.node_id
    if not mine or row[1] not in moves.JOB_ACTIVE:
        if (mine and row[1] in moves.JOB_FINAL) or task_rows.was_held(number, known.node_id):
            return Outcome(True, dropped=True, message="the task is no longer this device's")
        return Outcome(False, message="this device does not hold the task")
    settling.settle(tx, [_result(number, row, result, kept, at)], node_id=known.node_id, at=at)
    return Outcome(True)


def _heed(tx: Tx, known: Device, task_id: str) -> None:
    """It has told of this task: it need not be told to stop it any more."""
    stops = json.loads(known.stops or "{}")
    if stops.pop(task_id, None) is not None:
        store.update(tx, known.node_id, stops=json.dumps(stops))


def _result(number: int, row: tuple[Any, ...], result: Mapping[str, Any], kept: str, at: float) -> jobs.Result:
    event, state = words.RESULT_WORDS[result["status"]]
    ran_s = result.get("execution_time_seconds")
    measured = isinstance(ran_s, (int, float)) and not isinstance(ran_s, bool) and 0 <= ran_s < 1e9
    message = result.get("error_message")
    data = result.get("result_data")
    code = data.get("return_code") if isinstance(data, Mapping) else None
    return jobs.Result(
        number, row[2], event, state, exit_code=code if isinstance(code, int) and -(2**31) <= code < 2**31 else None,
        reason=str(domain.cleaned(message)) if isinstance(message, str) and state != "succeeded" else None,
        ran_s=float(ran_s) if measured and isinstance(ran_s, (int, float)) else max(0.0, at - (row[9] or at)),
        ended_at=at, result=kept)


def _kept(result: Mapping[str, Any], usage: Mapping[str, Any] | None, log: Sequence[str]) -> str:
    """The result as it is kept with its job, within its bounds."""
    data, truncated = words.bounded(_plain(result.get("result_data")))
    lines = [str(line)[:domain.TEXT_MAX] for line in (log or result.get("logs") or ()) if isinstance(line, str)][:LOG_LINES_MAX]
    message = result.get("error_message")
    found = task_views.Kept(
        data=data, error=str(domain.cleaned(message)) if isinstance(message, str) and result.get("status") != "success" else None,
        truncated=truncated, log=lines, usage=_usage(usage))
    return msgspec.json.encode(found).decode().replace("\\u0000", "\\ufffd")


def _plain(value: Any) -> Any:
    """JSON as it may be kept: numbers that are none (Python's `NaN`) become null."""
    try:
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return _without_nan(value, 100)
    return value


def _without_nan(value: Any, depth: int) -> Any:
    if depth <= 0:
        return None
    if isinstance(value, Mapping):
        return {str(name): _without_nan(member, depth - 1) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(member, depth - 1) for member in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else None


def _usage(usage: Mapping[str, Any] | None) -> dict[str, float]:
    names = ("peak_cpu_percent", "peak_memory_mb", "total_cpu_time_seconds")
    given = usage if isinstance(usage, Mapping) else {}
    return {name: float(value) for name in names
            if isinstance(value := given.get(name), (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12}
