"""Which task types are there, what may a request hold, and what do requirements mean? Contract 11, as data.

A task type is a kind of job; `command` of the contract is the kind `program` (an argument vector from the device's own
list), because `command` is what batch jobs are. Words, priorities and ids of the contract are tables here too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloudsched.errors import FieldError, Invalid

# In the order in which the contract lists them.
BUILTIN = ("echo", "sleep", "system_info", "python_eval", "http_request", "command")
BUILTIN_KINDS = ("echo", "sleep", "system_info", "python_eval", "http_request", "program")
ALIASES = {"execute_command": "command", "shell_command": "command"}
# Shown as tasks of the type `command` too: batch jobs, and those of an external batch system.
COMMAND_KINDS = ("program", "command", "external", "spark", "flink")
BATCH_KINDS = ("command", "noop", "external", "spark", "flink")

PRIORITIES = ("low", "normal", "high", "urgent")
LOWEST = -1  # the job priority of `low`
DEFAULT_TIMEOUT_S, DEFAULT_RETRIES = 300, 3
SERVER_GRACE_S = 10.0
PAYLOAD_MAX, RESULT_MAX, METADATA_MAX = 1 << 18, 1 << 20, 1 << 18
MAX_BATCH = 10_000

# State of a job -> code word, document word (contract 11.5).
WORDS = {
    "pending": ("pending", "pending"), "held": ("pending", "pending"), "queued": ("queued", "pending"),
    "assigned": ("assigned", "pending"), "running": ("running", "running"), "succeeded": ("success", "completed"),
    "failed": ("failed", "failed"), "timeout": ("timeout", "failed"), "cancelled": ("cancelled", "cancelled"),
}
DOCUMENT_WORDS = ("pending", "running", "completed", "failed", "cancelled")
CODE_WORDS = ("pending", "queued", "assigned", "running", "success", "failed", "cancelled", "timeout")
# A word of a filter -> states. `pending` and `failed` are words of both lists: the document's meaning, the wider one.
STATES_OF = {
    "pending": ("pending", "held", "queued", "assigned"), "queued": ("queued",), "assigned": ("assigned",),
    "running": ("running",), "completed": ("succeeded",), "success": ("succeeded",), "failed": ("failed", "timeout"),
    "timeout": ("timeout",), "cancelled": ("cancelled",),
}
# The word of a worker's result -> (event of moves.JOB, state).
RESULT_WORDS = {"success": ("succeed", "succeeded"), "failed": ("fail", "failed"), "timeout": ("time_out", "timeout"),
                "cancelled": ("cancel", "cancelled")}

# Ids look opaque and need no column: the job's number times an odd constant, modulo 2**64.
_ODD, _WORD = 0x9E3779B97F4A7C15, 1 << 64
_INVERSE = pow(_ODD, -1, _WORD)
_ID = re.compile(r"task-([0-9a-f]{16})\Z")

Name = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
Gigabytes = Annotated[float, Meta(ge=0.1, le=1e9)]


class Requirements(msgspec.Struct, kw_only=True):
    """What a task asks of a device (contract 11.3). Unknown members are ignored."""

    min_cpu_cores: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    min_memory_gb: Gigabytes | None = None
    min_storage_gb: Gigabytes | None = None
    required_platform: Text | None = None
    platform: Text | None = None
    required_role: Text | None = None
    role: Text | None = None
    required_tags: Annotated[list[Text], Meta(max_length=100)] | None = None
    tags: Annotated[list[Text], Meta(max_length=100)] | None = None
    gpu_required: bool = False
    internet_required: bool = False
    timeout_seconds: Annotated[int, Meta(ge=1, le=3600)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=10)] | None = None

    def require(self) -> dict[str, Any]:
        """The same as `require` of a job (docs/design/native-api.md), without kind and node."""
        platform, role = self.required_platform or self.platform, self.required_role or self.role
        found: dict[str, Any] = {
            "os": platform.lower() if platform else None, "role": role.lower() if role else None,
            "tags": sorted(set(self.required_tags or self.tags or ())), "gpu": self.gpu_required,
            "internet": self.internet_required, "min_cores": self.min_cpu_cores,
            "min_memory_mb": None if self.min_memory_gb is None else int(self.min_memory_gb * 1024 + 1e-6),
            "min_storage_gb": self.min_storage_gb}
        return {name: value for name, value in found.items() if value}

    def shown(self) -> dict[str, Any]:
        """The ten members under their own names, defaults filled in (contract 12.6)."""
        return {
            "min_cpu_cores": self.min_cpu_cores, "min_memory_gb": self.min_memory_gb, "min_storage_gb": self.min_storage_gb,
            "required_platform": self.required_platform or self.platform, "required_role": self.required_role or self.role,
            "required_tags": list(self.required_tags or self.tags or ()), "gpu_required": self.gpu_required,
            "internet_required": self.internet_required,
            "timeout_seconds": DEFAULT_TIMEOUT_S if self.timeout_seconds is None else self.timeout_seconds,
            "max_retries": DEFAULT_RETRIES if self.max_retries is None else self.max_retries}


class TaskRequest(msgspec.Struct, kw_only=True):
    """A task as asked for (contract 9.4). Unknown members are ignored."""

    task_type: Name
    payload: dict[str, Any]
    priority: str = "normal"
    device_id: str | None = None
    requirements: Requirements | None = None
    timeout: Annotated[int, Meta(ge=1, le=86400)] | None = None
    metadata: dict[str, Any] | None = None


_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<where>.*)`)?$", re.S)


def checked(request: Mapping[str, Any], prefix: str = "") -> TaskRequest:
    """The request, checked field by field. Raises Invalid (VALIDATION_ERROR) naming the first bad one."""
    try:
        found = msgspec.convert(request, TaskRequest)
    except msgspec.ValidationError as error:
        raise _unfit(error, prefix) from None
    found.priority = found.priority.lower()
    for field, good, message, allowed in (
            ("priority", found.priority in PRIORITIES, "is no priority", ", ".join(PRIORITIES)),
            ("payload", _size(found.payload) <= PAYLOAD_MAX, "is too large", f"at most {PAYLOAD_MAX >> 10} KiB as JSON"),
            ("metadata", _size(found.metadata) <= METADATA_MAX, "is too large", f"at most {METADATA_MAX >> 10} KiB as JSON")):
        if not good:
            raise _refused(prefix + field, message, allowed)
    return found


def _unfit(error: msgspec.ValidationError, prefix: str) -> Invalid:
    match = _WHERE.match(str(error))
    assert match is not None
    where, what = (match["where"] or "").lstrip("."), match["what"]
    missing = re.search(r"missing required field `(.+)`", what)
    if missing:
        where, what = f"{where}.{missing[1]}".lstrip("."), "is missing"
    return _refused(prefix + (where or "body"), what, None)


def _refused(field: str, message: str, allowed: str | None) -> Invalid:
    text = f"{field}: {message}" + (f" (allowed: {allowed})" if allowed else "")
    return Invalid(text, errors=[FieldError(field, message, allowed)], details={"code": "VALIDATION_ERROR"})


def _size(value: Any) -> int:
    return len(msgspec.json.encode(value)) if value else 0


def kind_of(task_type: str) -> str:
    """The kind of job of a task type; aliases count as what they stand for."""
    name = ALIASES.get(task_type, task_type)
    return "program" if name == "command" else name


def type_of(kind: str) -> str:
    """The task type of a kind of job."""
    return "command" if kind in COMMAND_KINDS else kind


def kinds_of(task_type: str) -> tuple[str, ...]:
    """All kinds of jobs shown as this type."""
    name = ALIASES.get(task_type, task_type)
    return COMMAND_KINDS if name == "command" else (name,)


def task_id(number: int) -> str:
    """The id of the job with this number."""
    return f"task-{number * _ODD % _WORD:016x}"


def job_number(text: str) -> int | None:
    """The number behind an id; None when it is none of ours."""
    found = _ID.match(text)
    if found is None:
        return None
    number = int(found[1], 16) * _INVERSE % _WORD
    return number if 0 < number < 1 << 53 else None


def job_priority(name: str) -> int:
    """The priority of a job: low -1, normal 0, high 1, urgent 2."""
    return PRIORITIES.index(name) + LOWEST


def level(priority: int) -> int:
    """1..4 of a job's priority; others by the nearest."""
    return min(max(priority - LOWEST, 0), len(PRIORITIES) - 1) + 1


# results


def result_of(kind: str, payload: Mapping[str, Any], data: Any, *, exit_code: int | None, error: str | None,
              output: str | None = None, truncated: bool = False) -> dict[str, Any]:
    """The `result` of contract 11.2: the members of the code result, with `output` and `exit_code`; of a failure
    {output, exit_code, error}."""
    if error is not None:
        # A program that ended with another code has its output all the same.
        members = dict(data) if isinstance(data, Mapping) and kind in COMMAND_KINDS else {}
        found = {**members, "output": output if output is not None else str(members.get("stdout") or ""),
                 "exit_code": exit_code if exit_code not in (None, 0) else 1, "error": error}
    else:
        members = dict(data) if isinstance(data, Mapping) else {"value": data} if data is not None else {}
        found = {**members, "output": output if output is not None else output_of(kind, payload, data),
                 "exit_code": _exit_code(kind, data, exit_code)}
    return {**found, "truncated": True} if truncated else found


def _exit_code(kind: str, data: Any, exit_code: int | None) -> int:
    if kind in COMMAND_KINDS and isinstance(data, Mapping) and isinstance(data.get("return_code"), int):
        return int(data["return_code"])
    return exit_code or 0


def output_of(kind: str, payload: Mapping[str, Any], data: Any) -> str:
    """The text of a success, by its type (contract 11.2)."""
    make = _OUTPUT.get(kind)
    if make is not None:
        return make(payload, data)
    if isinstance(data, Mapping) and isinstance(data.get("output"), str):
        return str(data["output"])
    return "" if data is None else _text_of(data)


def _echoed(payload: Mapping[str, Any], data: Any) -> str:
    if "message" not in payload:
        return _text_of(dict(payload))
    repeat = payload.get("repeat", 1)
    times = min(max(int(repeat), 1), 1000) if isinstance(repeat, (int, float)) and not isinstance(repeat, bool) else 1
    return "\n".join([_text_of(payload["message"])] * times)


def _member(name: str, data: Any) -> str:
    return _text_of(data.get(name)) if isinstance(data, Mapping) and data.get(name) is not None else ""


def _text_of(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


_OUTPUT: Mapping[str, Any] = {
    "echo": _echoed, "sleep": lambda payload, data: "", "system_info": lambda payload, data: _text_of(data),
    "python_eval": lambda payload, data: _member("result", data), "http_request": lambda payload, data: _member("content", data),
    "program": lambda payload, data: _member("stdout", data), "command": lambda payload, data: _member("stdout", data),
}


def bounded(data: Any, most: int = RESULT_MAX) -> tuple[Any, bool]:
    """(the result, was it cut?): at most `most` bytes as JSON; the longest texts are cut first (contract 11.2)."""
    size = len(msgspec.json.encode(data))
    if size <= most:
        return data, False
    texts = sorted((len(text) for text in _all_texts(data)), reverse=True)
    for limit in (1 << 19, 1 << 18, 1 << 16, 1 << 14, 1 << 12, 1 << 10, 64):
        if texts and texts[0] > limit:
            data = _cut(data, limit)
            if len(msgspec.json.encode(data)) <= most:
                return data, True
    return None, True


def _all_texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for member in value.values():
            yield from _all_texts(member)
    elif isinstance(value, (list, tuple)):
        for member in value:
            yield from _all_texts(member)


def _cut(value: Any, limit: int) -> Any:
    if isinstance(value, str):
        return value[:limit]
    if isinstance(value, Mapping):
        return {name: _cut(member, limit) for name, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(member, limit) for member in value]
    return value
