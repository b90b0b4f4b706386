"""What can be asked of tasks? Submit, look, cancel, retry. A task is a job; every job of the system is a task here.

Errors carry the code of contract 4 in `details["code"]`: VALIDATION_ERROR, INVALID_TASK_TYPE, DEVICE_NOT_FOUND,
DEVICE_OFFLINE, INSUFFICIENT_RESOURCES (`reason`, `requirements`), TASK_NOT_FOUND, CANNOT_CANCEL_TASK, CANNOT_RETRY_TASK.

Callers: `submitter` may submit, cancel and retry its own tasks, `operator` any.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain import tasks as domain
from cloudsched.domain.admission import Machine, meets
from cloudsched.domain.devices import types_of
from cloudsched.domain.scheduling.model import Require
from cloudsched.domain.submission import JobRequest, Wants
from cloudsched.domain.tasks import TaskRequest
from cloudsched.errors import Conflict, FieldError, Invalid, NotFound
from cloudsched.services import figures, fleet_config, jobs, machines, task_estimates, task_views, waiters
from cloudsched.services.caller import Caller
from cloudsched.services.settling import after_end
from cloudsched.services.task_views import Label, TaskView
from cloudsched.store import devices as device_rows
from cloudsched.store import jobs as job_rows
from cloudsched.store import shapes
from cloudsched.store import tasks as store
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move
from cloudsched.store.tasks import Wanted

__all__ = [
    "Label",
    "Submitted",
    "TaskFilter",
    "TaskView",
    "Tasks",
    "cancel",
    "get",
    "labels",
    "listed",
    "retry",
    "statistics",
    "submit",
    "submit_many",
    "types",
]
_encode = msgspec.json.Encoder().encode
IDS_SHOWN = 20
STOP_S = 600.0


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks are wanted; empty members want all. `words`: document words or code words, lower case."""

    words: tuple[str, ...] = ()
    device_id: str | None = None
    type: str | None = None
    since: float | None = None
    priority: int | None = None  # 1..4


@dataclass(frozen=True, slots=True)
class Tasks:
    """A page, newest first. `total`: all matches; `counts`: by document word, of the filters other than the status."""

    items: list[TaskView]
    total: int
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task that was taken. `estimated_at`: epoch seconds (contract 15, estimated_completion)."""

    task: TaskView
    estimated_at: float


# submitting


def submit(request: Mapping[str, Any], *, caller: Caller) -> Submitted:
    """Take one task (contract 9.4): durable when this returns. Raises the errors above, in the contract's order."""
    caller.require("submitter")
    asked = domain.checked(request)
    made = jobs.submit([_job(asked, _Checks(), "")], caller)
    view = task_views.one(made.ids[0])
    return Submitted(view, task_estimates.completion(view))


def submit_many(requests: Sequence[Mapping[str, Any]], *, caller: Caller) -> list[str]:
    """Take up to 10,000 tasks, all or none; returns their ids in order. Errors name `tasks[N].field`."""
    caller.require("submitter")
    if not 0 < len(requests) <= domain.MAX_BATCH:
        raise Invalid(f"tasks: {len(requests)} tasks in one request", details={"code": "VALIDATION_ERROR"},
                      errors=[FieldError("tasks", "has too many or no members", f"1 to {domain.MAX_BATCH} tasks")])
    asked = [domain.checked(request, f"tasks[{index}].") for index, request in enumerate(requests)]
    checks = _Checks()
    made = jobs.submit([_job(one, checks, f"tasks[{index}].") for index, one in enumerate(asked)], caller)
    return [domain.task_id(number) for number in made.ids]


class _Needs(NamedTuple):
    """Requirements, as a job has them (`wanted`) and as they are shown."""

    key: bytes
    asked: domain.Requirements
    wanted: dict[str, Any]
    shown: dict[str, Any]


class _Checks:
    """What the checks of one call have found out already."""

    def __init__(self) -> None:
        self.cap_s = fleet_config.recent().task_timeout_s
        self.pinned: set[tuple[str, str, str]] = set()
        self.nodes: dict[str, int] = {}
        self.roomy: set[tuple[str, bytes]] = set()
        self._needs: dict[bytes, _Needs] = {}

    def needs(self, asked: domain.Requirements | None) -> _Needs:
        """What was asked of a device, worked out once for all tasks of the call that ask the same."""
        key = b"" if asked is None else _encode(asked)
        found = self._needs.get(key)
        if found is None:
            given = asked or domain.Requirements()
            found = self._needs[key] = _Needs(key, given, given.require(), given.shown())
        return found


def _job(asked: TaskRequest, checks: _Checks, prefix: str) -> JobRequest:
    """The job of a task. Raises in the order of contract 9.4."""
    kind = domain.kind_of(asked.task_type)
    if kind not in domain.BUILTIN_KINDS and kind not in machines.board().announced:
        raise _named(Invalid, "INVALID_TASK_TYPE", f"{prefix}task_type: no device runs tasks of the type {asked.task_type!r}",
                     task_type=asked.task_type, supported_types=types()["supported_types"])
    found = checks.needs(asked.requirements)
    needs, wanted = found.asked, found.wanted
    node_id = _pin(asked.device_id, kind, needs, wanted, checks) if asked.device_id is not None else None
    if node_id is None and (kind, found.key) not in checks.roomy:
        _check_room(kind, needs, wanted)
        checks.roomy.add((kind, found.key))
    timeout_s = min(asked.timeout or needs.timeout_seconds or domain.DEFAULT_TIMEOUT_S, checks.cap_s)
    given = {} if needs.max_retries is None else {"max_retries": needs.max_retries}
    return JobRequest(
        kind=kind, payload=asked.payload, require=Wants(node=node_id, **wanted), priority=domain.job_priority(asked.priority),
        time_limit_s=float(timeout_s), max_retries=needs.max_retries or 0, attributes={"task": {
            "metadata": asked.metadata or {}, "requirements": {**found.shown, "timeout_seconds": timeout_s}, **given}})


def _pin(device_id: str, kind: str, needs: domain.Requirements, wanted: Mapping[str, Any], checks: _Checks) -> int:
    """The node of the device a task is pinned to: there, online, and able to run it; looked at once in a call."""
    asked = (device_id, kind, repr(sorted(wanted.items())))
    if asked in checks.pinned:
        return checks.nodes[device_id]
    node_id = device_rows.node_of(device_id)
    rows = device_rows.listed(node_id=node_id) if node_id is not None else []
    if not rows:
        raise unknown_device(device_id)
    row = rows[0]
    if row.last_seen_at is None or clock.now() - row.last_seen_at > fleet_config.current().offline_threshold_s:
        raise _named(Invalid, "DEVICE_OFFLINE", f"the device {device_id} is offline", device_id=device_id,
                     last_seen=clock.rfc3339(row.last_seen_at))
    said = machines.facts(row.node_id, row.version)
    one = machines.machine(said, row.node_id, user="", vm_type="", cores=row.cores, memory_mb=row.memory_mb,
                           storage_gb=row.storage_gb, cloud_names=frozenset())
    reason = _refusal(one, kind, wanted) if machines.accepts_tasks(row, said) else "device_does_not_run_tasks"
    if reason:
        raise _no_room(reason, needs, f"the device {device_id} cannot run this task", device_id=device_id)
    checks.pinned.add(asked)
    checks.nodes[device_id] = row.node_id
    return row.node_id


def _refusal(one: Machine, kind: str, wanted: Mapping[str, Any]) -> str:
    if kind not in one.kinds:
        return "task_type_not_enabled"
    return "" if meets(one, require_of(kind, wanted)) else "requirements"


def _check_room(kind: str, needs: domain.Requirements, wanted: Mapping[str, Any]) -> None:
    """Refuse what no device that takes tasks could ever run; without such a device a task waits (contract 11.3)."""
    board = machines.board()
    if board.could_run(require_of(kind, wanted)) is not False:
        return
    enabled = any(kind in one.kinds for _, _, one in board.takers())
    raise _no_room("requirements" if enabled else "task_type_not_enabled", needs, "no device here could run this task")


def require_of(kind: str, wanted: Mapping[str, Any]) -> Require:
    """What a task asks of a machine, as admission takes it."""
    return Require(kind=kind, **{**wanted, "tags": frozenset(wanted.get("tags", ()))})


def _no_room(reason: str, needs: domain.Requirements, text: str, **more: Any) -> Invalid:
    asked = {name: value for name, value in needs.shown().items()
             if value and name not in ("timeout_seconds", "max_retries")}
    return _named(Invalid, "INSUFFICIENT_RESOURCES", text, reason=reason, requirements=asked, **more)


def _named(kind: type[Any], code: str, text: str, **details: Any) -> Any:
    return kind(text, details={"code": code, **details})


def unknown_device(device_id: str) -> NotFound:
    """The error for a device that is not here (contract 3 names some that are)."""
    found: NotFound = _named(NotFound, "DEVICE_NOT_FOUND", f"there is no device {device_id[:200]}", device_id=device_id[:200],
                             available_devices=device_rows.some_ids(IDS_SHOWN))
    return found


# looking


def get(task_id: str) -> TaskView:
    """One task with its log and history. Raises NotFound."""
    return task_views.one(number_of(task_id), whole=True)


def number_of(task_id: str) -> int:
    """The job behind an id. Raises NotFound."""
    number = domain.job_number(task_id)
    if number is None or job_rows.get(number) is None:
        raise _named(NotFound, "TASK_NOT_FOUND", f"there is no task {task_id[:200]}", task_id=task_id[:200])
    return number


def listed(wanted: TaskFilter, *, limit: int, offset: int = 0) -> Tasks:
    """Tasks under filters, newest first. A device's tasks are those it has or had last, and those that are pinned to it."""
    states = tuple(dict.fromkeys(state for word in wanted.words for state in domain.STATES_OF.get(word, ())))
    node_id = device_rows.node_of(wanted.device_id) if wanted.device_id is not None else None
    if wanted.device_id is not None and node_id is None:
        return Tasks([], 0, dict.fromkeys(domain.DOCUMENT_WORDS, 0))
    chosen = Wanted(
        states=states, kinds=domain.kinds_of(wanted.type) if wanted.type else (), node_id=node_id,
        pinned_shapes=tuple(pinned_shapes(node_id)) if node_id is not None else (), since=wanted.since,
        priorities=_priorities(wanted.priority))
    by_state = store.counts(chosen)
    counts = dict.fromkeys(domain.DOCUMENT_WORDS, 0)
    for state, count in by_state.items():
        counts[domain.WORDS[state][1]] += count
    total = sum(count for state, count in by_state.items() if not states or state in states)
    return Tasks(task_views.of(store.page(chosen, limit=limit, offset=offset)), total, counts)


def pinned_shapes(node_id: int) -> list[int]:
    """Shapes of jobs that ask for this very node."""
    return [number for number, shape in shapes.known().items() if shape.require is not None and shape.require.node == node_id]


def _priorities(level: int | None) -> tuple[int | None, int | None]:
    """Least and most job priority of a level; the outer ones are open (contract 11.4)."""
    if level is None:
        return None, None
    priority = level - 1 + domain.LOWEST
    return (None if level == 1 else priority), (None if level == len(domain.PRIORITIES) else priority)


def types() -> dict[str, Any]:
    """supported_types, builtin_types, custom_types, available_types, total_count, online_devices (contract 9.4)."""
    board, threshold_s, at = machines.board(), fleet_config.current().offline_threshold_s, clock.now()
    announced = set(types_of(board.announced - set(domain.BATCH_KINDS)))
    available: set[str] = set()
    online = 0
    for row, said, _ in machines.here():
        if row.last_seen_at is None or at - row.last_seen_at > threshold_s:
            continue
        online += 1
        if machines.accepts_tasks(row, said) and row.goal == "run":
            takes = machines.takes_of(row.takes)
            available |= said.kinds if takes is None else said.kinds & takes
    supported = sorted({*domain.BUILTIN, *announced})
    return {"supported_types": supported, "builtin_types": list(domain.BUILTIN),
            "custom_types": sorted(announced - set(domain.BUILTIN)), "total_count": len(supported),
            "available_types": list(types_of(available - set(domain.BATCH_KINDS))), "online_devices": online}


def statistics() -> dict[str, Any]:
    """queue_stats, performance_metrics, current_load (contract 9.4, 15)."""
    return figures.queue_statistics()


def labels(job_ids: Iterable[int]) -> dict[int, Label]:
    """What events say of jobs, by job number; those that were removed are missing."""
    return task_views.labels(job_ids)


# changing


def cancel(task_id: str, *, caller: Caller) -> bool:
    """End a task at once; its device is told to stop it. True when it was running. Raises NotFound, Conflict, Forbidden.

    A batch job in hand is ended when its agent has proved it dead, as everywhere; this waits a little for that.
    """
    number = number_of(task_id)
    found = jobs.find(number)
    if found.state in moves.JOB_FINAL:
        raise _named(Conflict, "CANNOT_CANCEL_TASK", f"the task has ended: {domain.WORDS[found.state][0]}", task_id=task_id,
                     status=domain.WORDS[found.state][0])
    was_running = found.state in moves.JOB_ACTIVE
    try:
        jobs.check_owner(found, caller)
        if found.kind in domain.BATCH_KINDS or not was_running:
            jobs.cancel(number, caller, wait_s=2.0)
        elif not write(lambda tx: end_task(tx, number, "cancel", at=clock.now(), actor=caller.name)):
            raise Conflict("the task has ended meanwhile")
    except Conflict as error:
        raise _named(Conflict, "CANNOT_CANCEL_TASK", error.message, task_id=task_id) from None
    return was_running


def end_task(tx: Tx, number: int, event: str, *, at: float, actor: str = "", reason: str = "") -> bool:
    """End a task in hand here and now (`cancel`); its device stops it when it hears of it. False when it has ended."""
    row = job_rows.locked(tx, [number]).get(number)
    if row is None or row[1] not in moves.JOB_ACTIVE:
        return False
    facts: dict[str, Any] = {"reason": reason} if reason else {}
    if not move(tx, "job", number, event, at=at, actor=actor, goal="cancel", note={"node": row[3], "attempt": row[2]}, **facts):
        return False
    after_end(tx, [(number, "cancelled")], at=at)
    tell_to_stop(tx, row[3], number, at=at)
    return True


def tell_to_stop(tx: Tx, node_id: int | None, number: int, *, at: float) -> None:
    """A task is no longer this node's: its worker is told with the next answers, our agent by what it holds."""
    device = device_rows.of_node(tx, node_id) if node_id is not None else None
    if device is not None and device.via == device_rows.WORKER:
        device_rows.stop_task(tx, device, domain.task_id(number), until=at + STOP_S, at=at)
    if node_id is not None:
        tx.after.append(lambda: waiters.wake_node(node_id))


def retry(task_id: str, *, priority: str | None = None, caller: Caller) -> TaskView:
    """A new task like an ended one (contract 9.4). Raises NotFound, Conflict, Forbidden, Invalid (priority)."""
    number = number_of(task_id)
    if priority is not None and (not isinstance(priority, str) or priority.lower() not in domain.PRIORITIES):
        raise Invalid("priority: is no priority", details={"code": "VALIDATION_ERROR"},
                      errors=[FieldError("priority", "is no priority", ", ".join(domain.PRIORITIES))])
    try:
        made = jobs.retry(number, caller, priority=None if priority is None else domain.job_priority(priority.lower()))
    except Conflict:
        found = task_views.one(number)
        if found.can_retry:  # what it waits for stands in the way
            raise
        word = found.word
        raise _named(Conflict, "CANNOT_RETRY_TASK", f"the task is {word}: only a task that failed, timed out or was cancelled "
                     "can be tried again", task_id=task_id, status=word) from None
    return task_views.one(made.id)
