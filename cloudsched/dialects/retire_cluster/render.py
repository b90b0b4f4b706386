"""How do devices and tasks look in this API? Views of the services as the objects of contract 9.3 and 9.4."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from cloudsched import clock
from cloudsched.dialects.retire_cluster import schemas
from cloudsched.domain.tasks import Requirements
from cloudsched.services.devices import DeviceView
from cloudsched.services.tasks import TaskView

_STAMPED = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(Z|[+-]\d\d:\d\d): ")
GROUPS = ("computational", "services", "automation")


def now() -> str:
    """The time of an answer."""
    return time(clock.now()) or ""


def time(epoch_s: float | None) -> str | None:
    """ISO 8601 UTC with `Z`; whole seconds without a fraction, as in the document."""
    if epoch_s is None:
        return None
    found = datetime.fromtimestamp(epoch_s, UTC)
    return found.isoformat(timespec="milliseconds" if found.microsecond >= 1000 else "seconds").replace("+00:00", "Z")


def uptime(seconds: float) -> str:
    """`15d 6h 42m`, `6h 42m` or `42m` (contract 2)."""
    minutes = int(max(0.0, seconds) // 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    if days:
        return f"{days}d {hours}h {minutes % 60}m"
    return f"{hours}h {minutes % 60}m" if hours else f"{minutes}m"


# devices


def device(view: DeviceView) -> schemas.Device:
    """The document view."""
    return schemas.Device(**_device(view))


def device_row(view: DeviceView) -> schemas.DeviceRow:
    """The list view."""
    return schemas.DeviceRow(**_device_row(view))


def device_detail(view: DeviceView, history: Mapping[str, list[Any]], samples: list[schemas.Sample]) -> schemas.DeviceDetail:
    """Document and list fields at once (contract 9.3)."""
    full = schemas.DeviceWithHistory(
        **_device(view), detailed_info=_detailed_info(view),
        performance_history=schemas.PerformanceHistory(
            cpu_usage_24h=list(history["cpu_usage_24h"]), memory_usage_24h=list(history["memory_usage_24h"]),
            task_count_24h=list(history["task_count_24h"])))
    return schemas.DeviceDetail(
        **_device_row(view), device=full, registration_time=time(view.registered_at), total_heartbeats=view.heartbeats,
        last_error=view.last_error or None, metrics_history=samples, full_capabilities=dict(view.profile))


def status_word(view: DeviceView) -> schemas.Online:
    return "online" if view.online else "offline"


def _device(view: DeviceView) -> dict[str, Any]:
    seen = time(view.last_seen_at)
    return {
        "id": view.device_id, "hostname": view.hostname, "status": status_word(view), "role": view.role,
        "platform": schemas.Platform(os=view.os, arch=view.arch, python_version=view.python_version),
        "resources": schemas.DeviceResources(
            cpu_cores=view.cores, cpu_usage=view.cpu_usage, memory_total_gb=view.memory_gb, memory_used_gb=view.memory_used_gb,
            storage_total_gb=view.storage_gb, storage_used_gb=view.storage_used_gb),
        "tasks": schemas.DeviceTasks(active=view.active, completed=view.completed, failed=view.failed),
        "last_seen": seen, "uptime_seconds": int(view.uptime_s), "device_id": view.device_id, "ip_address": view.address,
        "tags": list(view.tags), "last_heartbeat": seen, "cpu_usage": view.cpu_usage, "memory_usage": view.memory_usage,
        "disk_usage": view.disk_usage, "accepts_tasks": view.accepts_tasks,
    }


def _device_row(view: DeviceView) -> dict[str, Any]:
    groups = {name: list(view.groups.get(name, ())) for name in GROUPS}
    return {
        "device_id": view.device_id, "role": view.role, "platform": view.os, "status": status_word(view),
        "ip_address": view.address, "last_heartbeat": time(view.last_seen_at),
        "capabilities": schemas.Capabilities(cpu_count=view.cores, memory_total_gb=view.memory_gb,
                                             storage_total_gb=view.storage_gb, has_gpu=view.has_gpu, **groups),
        "tags": list(view.tags), "uptime": uptime(view.uptime_s),
    }


def _detailed_info(view: DeviceView) -> schemas.DetailedInfo:
    battery = view.battery
    return schemas.DetailedInfo(
        capabilities=list(view.capabilities), network_interfaces=list(view.network_interfaces), sensors=list(view.sensors),
        battery=None if battery is None else schemas.Battery(level=battery.get("level"), charging=battery.get("charging")))


# tasks


def task(view: TaskView) -> schemas.Task:
    """The document view."""
    return schemas.Task(**_task(view))


def task_row(view: TaskView) -> schemas.TaskRow:
    """The list view."""
    return schemas.TaskRow(**row_members(view))


def task_detail(view: TaskView) -> schemas.TaskDetail:
    """Document and list fields at once (contract 9.4)."""
    usage = view.usage or {}
    full = schemas.TaskWithLog(
        **_task(view), detailed_log=detailed_log(view),
        resource_usage=schemas.Usage(peak_cpu_percent=usage.get("peak_cpu_percent") or 0.0,
                                     peak_memory_mb=usage.get("peak_memory_mb") or 0.0,
                                     total_cpu_time_seconds=usage.get("total_cpu_time_seconds") or 0.0),
        payload=dict(view.payload), requirements=dict(view.requirements), metadata=dict(view.metadata),
        timeout=view.timeout_s, retry_of=view.retry_of, error=view.error or None)
    return schemas.TaskDetail(
        **row_members(view), task=full, payload=dict(view.payload), requirements=requirements(view),
        metadata=dict(view.metadata), error_history=list(view.error_history),
        result=task_result(view) if view.is_terminal and view.word != "cancelled" else None)


def detailed_log(view: TaskView) -> list[str]:
    """Lines as `TIMESTAMP: text`; what a device said without a time was said when it reported."""
    at = time(view.ended_at) or now()
    return [line if _STAMPED.match(line) else f"{at}: {line}" for line in view.log]


def row_members(view: TaskView) -> dict[str, Any]:
    """The members of the list view, which other answers hold too."""
    return {
        "task_id": view.task_id, "task_type": view.type, "status": view.word, "priority": view.priority_name,
        "created_at": time(view.created_at), "assigned_device_id": view.device_id, "assigned_at": time(view.assigned_at),
        "started_at": time(view.started_at), "completed_at": time(view.ended_at),
        "execution_time_seconds": view.execution_s, "retry_count": view.retry_count,
    }


def requirements(view: TaskView) -> schemas.RequirementsShown:
    """All ten members of contract 11.3, those not given with their defaults."""
    given = Requirements().shown() | dict(view.requirements)
    return schemas.RequirementsShown(**{name: given[name] for name in schemas.RequirementsShown.__struct_fields__})


def task_result(view: TaskView) -> schemas.TaskResult:
    """The task-result object of contract 12.6."""
    return schemas.TaskResult(
        task_id=view.task_id, status=cast(schemas.CodeWord, view.word),
        result_data=view.result_data if view.word == "success" else None,
        error_message=view.error or None, error_traceback=None, execution_time_seconds=view.execution_s,
        worker_device_id=view.device_id, started_at=time(view.started_at), completed_at=time(view.ended_at),
        logs=[str(line) for line in view.log])


def _task(view: TaskView) -> dict[str, Any]:
    created, ended = time(view.created_at), time(view.ended_at)
    return {
        "task_id": view.task_id, "task_type": view.type, "status": view.document_word, "device_id": view.device_id,
        "priority": view.priority_name, "created_at": created, "started_at": time(view.started_at),
        "completed_at": ended, "execution_time_seconds": view.execution_s,
        "result": None if view.result is None else dict(view.result),
        "id": view.task_id, "type": view.type, "created": created, "completed": ended,
    }
