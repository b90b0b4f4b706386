"""How does a task look to a reader? Jobs in the words of contract 11, with the result in both of its shapes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain import tasks as domain
from cloudsched.errors import NotFound
from cloudsched.store import devices, shapes
from cloudsched.store import jobs as job_rows
from cloudsched.store import tasks as store
from cloudsched.store.tasks import TaskRow

# Of batch jobs lists show the beginning of the output; one task by itself shows what a result may hold.
LIST_OUTPUT, WHOLE_OUTPUT = 4096, domain.RESULT_MAX
_NO_USAGE = {"peak_cpu_percent": 0.0, "peak_memory_mb": 0.0, "total_cpu_time_seconds": 0.0}


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as readers see it. Times are epoch seconds or None."""

    task_id: str
    job_id: int
    type: str
    word: str  # code word: pending queued assigned running success failed timeout cancelled
    document_word: str  # pending running completed failed cancelled
    priority: int  # 1 low .. 4 urgent
    payload: Mapping[str, Any]
    requirements: Mapping[str, Any]  # the ten members of contract 11.3, as asked for
    metadata: Mapping[str, Any]
    timeout_s: float | None
    device_id: str | None  # the device it is on, was on, or is pinned to while it waits
    node_id: int | None
    created_at: float
    assigned_at: float | None
    started_at: float | None
    ended_at: float | None
    execution_s: float | None
    retry_count: int
    retry_of: str | None  # task id
    result: Mapping[str, Any] | None  # None before the end; output, exit_code, members of the code result, error, truncated
    result_data: Any  # the code result of contract 11.2
    error: str | None
    error_history: tuple[str, ...]  # only of one task by itself
    log: tuple[str, ...]  # `TIMESTAMP: text`; only of one task by itself
    usage: Mapping[str, float]  # peak_cpu_percent, peak_memory_mb, total_cpu_time_seconds
    is_terminal: bool
    can_retry: bool
    user: str
    name: str
    shape_id: int

    @property
    def priority_name(self) -> str:
        """low, normal, high, urgent."""
        return domain.PRIORITIES[self.priority - 1]


@dataclass(frozen=True, slots=True)
class Label:
    """What a log line or a stream says of a task."""

    task_id: str
    type: str
    device_id: str | None
    word: str


class Kept(msgspec.Struct, omit_defaults=True):
    """The result of a task as it is kept with its job (docs/design/agent-protocol.md)."""

    data: Any = None
    output: str | None = None
    exit_code: int | None = None
    error: str | None = None
    truncated: bool = False
    log: list[str] = []
    usage: dict[str, float] = {}


class _Spec(msgspec.Struct):
    payload: dict[str, Any] | None = None
    command: list[str] = []


class _Task(msgspec.Struct):
    metadata: dict[str, Any] = {}
    requirements: dict[str, Any] = {}


class _Attributes(msgspec.Struct):
    task: _Task | None = None


_spec = msgspec.json.Decoder(_Spec).decode
_kept = msgspec.json.Decoder(Kept).decode
_attributes = msgspec.json.Decoder(_Attributes).decode


def one(number: int, *, whole: bool = False) -> TaskView:
    """One task; `whole`: with its log, its history and all of its output. Raises NotFound."""
    row = store.one(number)
    if row is None:
        raise NotFound(f"there is no task {domain.task_id(number)}", details={"code": "TASK_NOT_FOUND"})
    return of([row], whole=whole)[0]


def of(rows: Sequence[TaskRow], *, whole: bool = False) -> list[TaskView]:
    """Rows as readers see them."""
    pins = {row.id: _pin(row) for row in rows}
    names = devices.ids([number for number in pins.values() if number is not None])
    batch = [(row.id, row.attempt) for row in rows if row.kind in domain.BATCH_KINDS and row.state in moves.JOB_FINAL]
    outputs = _outputs(batch, whole)
    return [_view(row, pins[row.id], names, outputs.get(row.id, ""), whole) for row in rows]


def _pin(row: TaskRow) -> int | None:
    """The node a task is or was on; of one that waits, the one it asks for."""
    if row.state not in moves.JOB_WAITING:
        return row.node_id
    require = shapes.get(row.shape_id).require
    return require.node if require is not None else None


def _outputs(batch: list[tuple[int, int]], whole: bool) -> dict[int, str]:
    if not whole:
        return store.outputs(batch, LIST_OUTPUT)
    return {number: job_rows.read_data(number, attempt, "stdout", limit=WHOLE_OUTPUT).decode("utf-8", "replace")
            for number, attempt in batch}


def _view(row: TaskRow, node_id: int | None, names: Mapping[int, str], output: str, whole: bool) -> TaskView:
    spec, asked = _spec(row.spec), _asked(row.attributes)
    kept = _result_kept(row.result)
    word, document_word = domain.WORDS[row.state]
    final = row.state in moves.JOB_FINAL
    payload = spec.payload if spec.payload is not None else {"command": spec.command} if spec.command else {}
    error = _error(row, kept) if final else None
    data, result = _results(row, kept, payload, output, error) if final and row.state != "cancelled" else (None, None)
    log, history = _story(row) if whole else ((), ())
    return TaskView(
        task_id=domain.task_id(row.id), job_id=row.id, type=domain.type_of(row.kind), word=word, document_word=document_word,
        priority=domain.level(row.priority), payload=payload, requirements=_requirements(row, asked),
        metadata=asked.metadata if asked else {}, timeout_s=row.time_limit_s,
        device_id=names.get(node_id) if node_id is not None else None, node_id=node_id, created_at=row.submitted_at,
        assigned_at=row.assigned_at if row.state not in moves.JOB_WAITING else None, started_at=row.started_at,
        ended_at=row.ended_at, execution_s=_execution_s(row) if final else None, retry_count=row.retries,
        retry_of=None if row.retry_of is None else domain.task_id(row.retry_of), result=result, result_data=data, error=error,
        error_history=history, log=(*log, *kept.log) if whole else (), usage=_usage(row, kept), is_terminal=final,
        can_retry=row.state in ("failed", "timeout", "cancelled"), user=row.user, name=row.name, shape_id=row.shape_id)


def _asked(attributes: str) -> _Task | None:
    """What the submitter said of a task; jobs that came another way may have anything there."""
    if '"task"' not in attributes:
        return None
    try:
        return _attributes(attributes).task
    except msgspec.MsgspecError:
        return None


def _requirements(row: TaskRow, asked: _Task | None) -> Mapping[str, Any]:
    if asked is not None and asked.requirements:
        return asked.requirements
    found = domain.Requirements().shown()
    require = shapes.get(row.shape_id).require
    if require is not None:
        found |= {"min_cpu_cores": require.min_cores or None, "min_memory_gb": require.min_memory_mb / 1024 or None,
                  "min_storage_gb": require.min_storage_gb or None, "required_platform": require.os or None,
                  "required_role": require.role or None, "required_tags": sorted(require.tags), "gpu_required": require.gpu,
                  "internet_required": require.internet}
    return {**found, "max_retries": row.max_retries or found["max_retries"]}


def _result_kept(text: str | None) -> Kept:
    """The result as it is kept; what an agent sent in another shape is its data."""
    if text is None:
        return Kept()
    try:
        return _kept(text)
    except msgspec.MsgspecError:
        try:
            return Kept(data=json.loads(text))
        except ValueError:
            return Kept()


def _error(row: TaskRow, kept: Kept) -> str | None:
    if row.state not in ("failed", "timeout"):
        return None
    if kept.error:
        return kept.error
    if row.state == "timeout":
        return row.reason or f"the task took longer than {row.time_limit_s or 0:g} s"
    return row.reason or (f"exit code {row.exit_code}" if row.exit_code is not None else "the task failed")


def _results(row: TaskRow, kept: Kept, payload: Mapping[str, Any], output: str, error: str | None) -> tuple[Any, dict[str, Any]]:
    """(code result, the union that the document shows)."""
    data = kept.data
    if row.kind in domain.BATCH_KINDS and data is None:
        data = {"return_code": row.exit_code, "stdout": output, "stderr": "", "command": payload.get("command", [])}
    truncated = kept.truncated or len(output) >= (LIST_OUTPUT if row.kind in domain.BATCH_KINDS else WHOLE_OUTPUT)
    exit_code = kept.exit_code if kept.exit_code is not None else row.exit_code
    result = domain.result_of(row.kind, payload, data, exit_code=exit_code, error=error, output=kept.output,
                              truncated=truncated)
    return (None if error is not None and row.kind not in domain.COMMAND_KINDS else data), result


def _execution_s(row: TaskRow) -> float | None:
    """Contract 15: measured by the worker, else the end minus the start."""
    if row.ran_s is not None:
        return row.ran_s
    return max(0.0, row.ended_at - row.started_at) if row.ended_at is not None and row.started_at is not None else None


def _usage(row: TaskRow, kept: Kept) -> Mapping[str, float]:
    found = {**_NO_USAGE, **{name: value for name, value in kept.usage.items() if name in _NO_USAGE}}
    if not found["total_cpu_time_seconds"] and row.cpu_s:
        found["total_cpu_time_seconds"] = row.cpu_s
    if not found["peak_memory_mb"] and row.max_rss_mb:
        found["peak_memory_mb"] = float(row.max_rss_mb)
    return found


# what happened

_STORY = {
    "job.submit": "submitted", "job.claim": "handed to {node} (attempt {attempt})", "job.start": "started on {node}",
    "job.give_back": "given back by {node} before it started", "job.lose": "lost with {node}: {reason}",
    "job.retry": "failed on {node}, tried again: {reason}", "job.succeed": "completed", "job.fail": "failed: {reason}",
    "job.time_out": "timed out: {reason}", "job.cancel": "cancelled", "job.cancel_request": "asked to be cancelled",
    "job.release": "waits for a device", "job.hold": "held",
}
_TROUBLE = ("job.lose", "job.retry", "job.fail", "job.time_out")


def _story(row: TaskRow) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(log lines, errors) from the events of the job."""
    happened = [(kind, at, json.loads(data)) for kind, at, data in store.history(row.id) if kind in _STORY]
    names = devices.ids([note["node"] for _, _, note in happened if isinstance(note.get("node"), int)])
    log, errors = [], []
    for kind, at, note in happened:
        code = f"exit code {note['exit_code']}" if note.get("exit_code") else ""
        reason = note.get("reason") or code or row.reason or "no reason given"
        node = names.get(note.get("node"), "a device")
        stamp = clock.rfc3339(at)
        log.append(f"{stamp}: {_STORY[kind].format(node=node, attempt=note.get('attempt'), reason=reason)}")
        if kind in _TROUBLE:
            errors.append(f"{stamp}: {reason}")
    return tuple(log), tuple(errors)


def labels(job_ids: Iterable[int]) -> dict[int, Label]:
    """What events say of jobs, by job number; those that were removed are missing."""
    rows = store.many(sorted(set(job_ids)))
    pins = {row.id: _pin(row) for row in rows}
    names = devices.ids([number for number in pins.values() if number is not None])
    return {row.id: Label(domain.task_id(row.id), domain.type_of(row.kind),
                          names.get(node_id) if (node_id := pins[row.id]) is not None else None, domain.WORDS[row.state][0])
            for row in rows}
