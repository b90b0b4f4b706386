"""Which routes are there? One table (contract 9): served, guarded by level, counted and described from here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cloudsched.dialects.retire_cluster import about, cluster, commands, devices, monitor, schemas, tasks, terminal, text
from cloudsched.dialects.retire_cluster.access import ADMIN, OPEN, READ, WRITE
from cloudsched.dialects.retire_cluster.routing import Route
from cloudsched.domain.tasks import TaskRequest

if TYPE_CHECKING:
    from cloudsched.dialects.retire_cluster.front import Front

# Answered without Flask.
HOT = frozenset({("POST", "/api/v1/tasks"), ("POST", "/api/v1/tasks/batch")})
_EVENTS, _PLAIN = "text/event-stream", "text/plain"
_DEVICE, _TASK = ("DEVICE_NOT_FOUND",), ("TASK_NOT_FOUND",)
_SUBMIT = ("INVALID_CONTENT_TYPE", "INVALID_TASK_TYPE", "DEVICE_NOT_FOUND", "DEVICE_OFFLINE", "INSUFFICIENT_RESOURCES")


def table(front: Front) -> list[Route]:
    """The rows, in the order of the contract."""
    return [*_about(front), *_cluster(front), *_devices(), *_tasks(), *_rest(front)]


def _about(front: Front) -> list[Route]:
    it = about.About(front)
    return [
        Route("GET", "/", OPEN, it.root, schemas.Root, bare=True),
        Route("GET", "/health", OPEN, it.health, schemas.HealthBody, bare=True, counted=False),
        Route("GET", "/api/v1", OPEN, it.info, schemas.ApiInfo, bare=True),
        Route("GET", "/api/v1/docs", READ, it.docs, schemas.Docs, bare=True),
        Route("GET", "/api/v1/openapi.json", READ, it.openapi, bare=True),
    ]


def _cluster(front: Front) -> list[Route]:
    prefix = "/api/v1/cluster"
    configuration = cluster.ClusterConfig(front.door)
    return [
        Route("GET", f"{prefix}/status", READ, cluster.status, schemas.ClusterStatus),
        Route("GET", f"{prefix}/health", READ, cluster.health, schemas.ClusterHealth),
        Route("GET", f"{prefix}/metrics", READ, cluster.metrics, schemas.ClusterMetrics, cluster.METRICS_QUERY),
        Route("GET", f"{prefix}/config", READ, configuration.show, schemas.ClusterConfig),
    ]


def _devices() -> list[Route]:
    prefix = "/api/v1/devices"
    return [
        Route("GET", prefix, READ, devices.listed, (schemas.Devices, list[schemas.DeviceRow]), devices.LIST_QUERY),
        Route("GET", f"{prefix}/summary", READ, devices.summary, schemas.DeviceSummary),
        Route("GET", f"{prefix}/<device_id>", READ, devices.shown, schemas.DeviceDetail, codes=_DEVICE),
        Route("DELETE", f"{prefix}/<device_id>", ADMIN, devices.removed, schemas.Removed, devices.REMOVE_QUERY,
              codes=("DEVICE_NOT_FOUND", "DEVICE_BUSY")),
        Route("GET", f"{prefix}/<device_id>/status", READ, devices.status, schemas.DeviceStatus, codes=_DEVICE),
        Route("POST", f"{prefix}/<device_id>/ping", WRITE, devices.ping, schemas.Ping, body=devices.PING_BODY, codes=_DEVICE),
    ]


def _tasks() -> list[Route]:
    prefix = "/api/v1/tasks"
    cancel = ("TASK_NOT_FOUND", "CANNOT_CANCEL_TASK")
    return [
        Route("POST", prefix, WRITE, tasks.submit, schemas.Submitted, status=201, body=TaskRequest, needs_body=True,
              codes=_SUBMIT),
        Route("POST", f"{prefix}/batch", WRITE, tasks.submit_many, schemas.SubmittedMany, status=201, body=tasks.Batch,
              needs_body=True, codes=_SUBMIT),
        Route("GET", prefix, READ, tasks.listed, (schemas.Tasks, list[schemas.TaskRow]), tasks.LIST_QUERY,
              codes=("INVALID_STATUS_FILTER",)),
        Route("GET", f"{prefix}/types", READ, tasks.types, schemas.TaskTypes),
        Route("GET", f"{prefix}/statistics", READ, tasks.statistics, schemas.TaskStatistics),
        Route("GET", f"{prefix}/<task_id>", READ, tasks.shown, schemas.TaskDetail, codes=_TASK),
        Route("DELETE", f"{prefix}/<task_id>", WRITE, tasks.cancelled, schemas.Cancelled, codes=cancel),
        Route("GET", f"{prefix}/<task_id>/status", READ, tasks.status, schemas.TaskStatus, codes=_TASK),
        Route("GET", f"{prefix}/<task_id>/result", READ, tasks.result, schemas.TaskResult, codes=(*_TASK, "NO_TASK_RESULT")),
        Route("POST", f"{prefix}/<task_id>/cancel", WRITE, tasks.cancelled, schemas.Cancelled, codes=cancel),
        Route("POST", f"{prefix}/<task_id>/retry", WRITE, tasks.retried, schemas.Retried, body=tasks.RETRY_BODY,
              codes=("TASK_NOT_FOUND", "CANNOT_RETRY_TASK")),
    ]


def _rest(front: Front) -> list[Route]:
    streams, command = monitor.Shared(front.limits), commands.Commands(front)
    return [
        Route("GET", "/api/v1/logs", READ, cluster.logs, schemas.Logs, cluster.LOGS_QUERY),
        Route("GET", "/api/v1/monitor/stream", READ, streams.monitor, query=monitor.QUERY, media=_EVENTS, codes=_DEVICE),
        Route("GET", "/api/v1/config", READ, cluster.config, schemas.Configured),
        Route("PUT", "/api/v1/config", ADMIN, cluster.configure, schemas.ConfigChanged, body=cluster.CONFIG_BODY,
              needs_body=True, codes=("INVALID_PARAMETER", "MISSING_REQUEST_BODY")),
        Route("GET", "/api/v1/stats/tasks", READ, cluster.task_stats, schemas.TaskStats, cluster.TASKS_QUERY),
        Route("GET", "/api/v1/stats/devices", READ, cluster.device_stats, schemas.DeviceStats, cluster.DEVICES_QUERY),
        Route("POST", "/api/v1/command", READ, command.run, schemas.CommandOutput, bare=True, body=commands.BODY,
              needs_body=True, codes=("MISSING_COMMAND", "INVALID_COMMAND", "EXECUTION_ERROR")),
        Route("GET", "/text/devices", READ, text.device_lines, query=text.DEVICES_QUERY, media=_PLAIN),
        Route("GET", "/text/status", READ, text.status_lines, media=_PLAIN),
        Route("GET", "/text/metrics", READ, text.metric_lines, media=_PLAIN),
        Route("GET", "/text/logs", READ, text.log_lines, query=text.LOGS_QUERY, media=_PLAIN),
        Route("GET", "/cli", OPEN, terminal.page, media="text/html"),
        Route("GET", "/stream/devices", READ, streams.web_devices, media=_EVENTS),
        Route("GET", "/stream/logs", READ, streams.web_logs, query=monitor.LOGS_QUERY, media=_EVENTS, codes=_DEVICE),
    ]
