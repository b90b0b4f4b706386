"""What does an event mean to readers of this API? Its level, component and sentence in the log, its type on the stream.

The running log of contract 9.5 is the event sequence of the whole system; nothing is logged twice.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import msgspec

from cloudsched.dialects.retire_cluster import render, schemas
from cloudsched.domain.tasks import task_id as task_id_of
from cloudsched.services import devices, tasks
from cloudsched.services.streams import Event

LEVELS = ("debug", "info", "warning", "error")
KEPT = 20_000
_REGISTRY, _SCHEDULER, _EXECUTOR, _API, _CONFIG = "device_registry", "scheduler", "task_executor", "api", "config"
# Members of an event's data that readers may see.
_SHOWN = ("attempt", "exit_code", "signal", "reason", "fields", "values", "address", "level", "state", "cancelled", "name",
          "retry_of", "new_task", "detail", "silent_s")
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Kind(NamedTuple):
    """`text` may name {task}, {device} and members of the event's data; `type`: contract 9.6, empty when it is only logged."""

    level: str
    component: str
    text: str
    type: str = ""


KINDS: Mapping[str, Kind] = {
    "device.register": Kind("info", _REGISTRY, "device {device} registered", "device_registered"),
    "device.online": Kind("info", _REGISTRY, "device {device} is online", "device_online"),
    "device.offline": Kind("warning", _REGISTRY, "device {device} is offline", "device_offline"),
    "device.remove": Kind("info", _REGISTRY, "device {device} was removed", "device_removed"),
    "job.submit": Kind("info", _SCHEDULER, "task {task} was submitted", "task_submitted"),
    "job.claim": Kind("debug", _SCHEDULER, "task {task} was given to {device}"),
    "job.start": Kind("info", _EXECUTOR, "task {task} started on {device}", "task_started"),
    "job.succeed": Kind("info", _EXECUTOR, "task {task} completed on {device}", "task_completed"),
    "job.fail": Kind("error", _EXECUTOR, "task {task} failed", "task_failed"),
    "job.time_out": Kind("error", _EXECUTOR, "task {task} exceeded its timeout", "task_failed"),
    "job.cancel": Kind("info", _SCHEDULER, "task {task} was cancelled", "task_cancelled"),
    "job.cancel_request": Kind("debug", _SCHEDULER, "task {task} is to be cancelled"),
    "job.lose": Kind("warning", _SCHEDULER, "task {task} was lost with {device} and waits again"),
    "job.give_back": Kind("info", _SCHEDULER, "task {task} was given back and waits again"),
    "job.retry": Kind("info", _SCHEDULER, "task {task} is tried again"),
    "job.retried": Kind("info", _SCHEDULER, "task {task} was retried as a new task"),
    "job.hold": Kind("debug", _SCHEDULER, "task {task} is held"),
    "job.release": Kind("debug", _SCHEDULER, "task {task} waits for a device"),
    "config.change": Kind("info", _CONFIG, "the configuration was changed"),
    "access.refused": Kind("warning", _API, "a caller was refused"),
    "key.create": Kind("info", _API, "an API key was made"),
    "key.revoke": Kind("info", _API, "an API key was revoked"),
    "engine.stop": Kind("info", _SCHEDULER, "an engine was stopped"),
    "system.log_level": Kind("info", _CONFIG, "the log level was changed"),
}


@dataclass(frozen=True, slots=True)
class Line:
    """An event in the words of this API. `spoken`: what the stream sends of it, by class."""

    id: int
    at: float
    device_id: str | None
    entry: schemas.LogEntry
    spoken: tuple[tuple[str, bytes], ...]


class Lines:
    """Events as lines, each made once. Safe for threads."""

    def __init__(self) -> None:
        self._made: dict[int, Line | None] = {}
        self._lock = threading.Lock()

    def of(self, found: Iterable[Event]) -> list[Line]:
        """Those of the events that mean something here, in their order."""
        wanted = [event for event in found if event.kind in KINDS]
        with self._lock:
            if len(self._made) > KEPT:
                self._made.clear()
            new = [event for event in wanted if event.id not in self._made]
            if new:
                self._made |= {line.id: line for line in lines(new)}
            return [line for event in wanted if (line := self._made[event.id]) is not None]


def lines(found: Iterable[Event]) -> list[Line]:
    """Events as lines, whatever they name looked up at once."""
    parsed = [(event, _data(event)) for event in found if event.kind in KINDS]
    jobs = tasks.labels({event.subject_id for event, _ in parsed if event.subject_kind == "job"})
    nodes = {event.subject_id for event, _ in parsed if event.subject_kind == "node"}
    nodes |= {data["node"] for _, data in parsed if isinstance(data.get("node"), int)}
    names = devices.ids_of(sorted(nodes)) if nodes else {}
    return [_line(event, data, jobs, names) for event, data in parsed]


def _data(event: Event) -> dict[str, Any]:
    found = json.loads(event.data or "{}")
    return found if isinstance(found, dict) else {}


def _line(event: Event, data: dict[str, Any], jobs: Mapping[int, tasks.Label], names: Mapping[int, str]) -> Line:
    kind, label, device_id = KINDS[event.kind], None, None
    if event.subject_kind == "job":
        label = jobs.get(event.subject_id)
        device_id = names.get(data.get("node", -1)) or (label.device_id if label else None)
    elif event.subject_kind == "node":
        device_id = data.get("device") or names.get(event.subject_id)
    task_id = label.task_id if label else (task_id_of(event.subject_id) if event.subject_kind == "job" else None)
    details: dict[str, Any] = {name: data[name] for name in _SHOWN if data.get(name) is not None}
    if label is not None:
        details = {"task_id": task_id, "task_type": label.type, **details}
    at = render.time(event.at) or ""
    entry = schemas.LogEntry(
        timestamp=at, level=cast(Any, kind.level), device_id=device_id, component=kind.component,
        message=kind.text.format(task=task_id, device=device_id or "a device"), details=details)
    return Line(event.id, event.at, device_id, entry, _spoken(kind, entry, task_id, label))


def _spoken(kind: Kind, entry: schemas.LogEntry, task_id: str | None, label: tasks.Label | None) -> tuple[tuple[str, bytes], ...]:
    """Contract 9.6: at most one event of its own and one log entry."""
    made: list[tuple[str, bytes]] = []
    if kind.type.startswith("device_"):
        made.append(("devices", _encode({"type": kind.type, "device_id": entry.device_id, "timestamp": entry.timestamp})))
    elif kind.type:
        said = {"type": kind.type, "task_id": task_id, "device_id": entry.device_id, "task_type": label.type if label else None,
                "status": _STATUS[kind.type], "timestamp": entry.timestamp}
        made.append(("tasks", _encode(said)))
    if kind.level != "debug":
        made.append(("logs", _encode({
            "type": "log_entry", "level": entry.level, "message": entry.message, "device_id": entry.device_id,
            "component": entry.component, "timestamp": entry.timestamp})))
    return tuple(made)


_STATUS = {"task_submitted": "pending", "task_started": "running", "task_completed": "completed", "task_failed": "failed",
           "task_cancelled": "cancelled"}


def kinds_from(level: str) -> list[str]:
    """The kinds of at least this level."""
    return [name for name, kind in KINDS.items() if LEVELS.index(kind.level) >= LEVELS.index(level)]
