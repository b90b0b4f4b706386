"""What can be asked? The parts of a `ClusterClient`: devices, tasks, cluster, logs, config, stats, monitor.

Objects are the API's own, as dictionaries; times are its RFC 3339 texts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from retire_cluster_client import stream
from retire_cluster_client.errors import TaskWaitTimeoutError
from retire_cluster_client.transport import Transport

Json = dict[str, Any]
ENDED = frozenset({"success", "failed", "cancelled", "timeout"})


class _Part:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def _get(self, path: str, **params: Any) -> Any:
        return self._transport.call("GET", path, params=params)


class Devices(_Part):
    """Machines of the cluster."""

    def list(self, status: str | None = None, role: str | None = None, sort: str | None = None,
             limit: int | None = None) -> list[Json]:
        """Devices in the document's form. `status`: online, offline, all; `sort`: name, cpu, memory, last_seen."""
        found = self._get("/devices", view="document", status=status, role=role, sort=sort, limit=limit)
        return list(found["devices"])

    def get(self, device_id: str) -> Json:
        """One device with `detailed_info` and `performance_history`. Raises DeviceNotFoundError."""
        return dict(self._get(f"/devices/{_name(device_id)}")["device"])

    def status(self, device_id: str) -> Json:
        """Is it online, how loaded is it, what did it last report?"""
        return dict(self._get(f"/devices/{_name(device_id)}/status"))

    def summary(self) -> Json:
        """Counts by role and platform, sums of resources."""
        return dict(self._get("/devices/summary"))

    def ping(self, device_id: str, *, count: int | None = None, timeout: float | None = None) -> Json:
        """Probe it: `reachable`, `average_latency_ms`, `packet_loss`, `results`. `timeout` in seconds for each probe."""
        body = {key: value for key, value in (("count", count), ("timeout", timeout)) if value is not None}
        found = self._transport.call("POST", f"/devices/{_name(device_id)}/ping", body=body)
        return dict(found["ping_results"])

    def remove(self, device_id: str, *, force: bool = False) -> Json:
        """Take it out of the cluster; with `force` its tasks are cancelled."""
        return dict(self._transport.call("DELETE", f"/devices/{_name(device_id)}", params={"force": force}))


class Tasks(_Part):
    """Work for devices."""

    def submit(self, task_type: str, payload: Mapping[str, Any] | None = None, *, priority: str | None = None,
               device_id: str | None = None, requirements: Mapping[str, Any] | None = None, timeout: int | None = None,
               metadata: Mapping[str, Any] | None = None) -> str:
        """Submit one task; returns its id. `timeout` in whole seconds."""
        body = _task(task_type, payload, priority=priority, device_id=device_id, requirements=requirements, timeout=timeout,
                     metadata=metadata)
        return str(self._transport.call("POST", "/tasks", body=body)["task_id"])

    def submit_many(self, tasks: Sequence[Mapping[str, Any]]) -> list[str]:
        """Submit many at once, all or none; each as `submit` takes it (`task_type`, `payload`, ...). Returns their ids."""
        found = self._transport.call("POST", "/tasks/batch", body={"tasks": [dict(task) for task in tasks]})
        return [str(task_id) for task_id in found["task_ids"]]

    def list(self, status: str | None = None, *, device_id: str | None = None, task_type: str | None = None,
             since: str | float | None = None, limit: int | None = None) -> list[Json]:
        """Tasks in the document's form, newest first."""
        found = self._get("/tasks", view="document", status=status, device_id=device_id, task_type=task_type, since=since,
                          limit=limit)
        return list(found["tasks"])

    def get(self, task_id: str) -> Json:
        """One task with its log, resource usage and payload. Raises TaskNotFoundError."""
        return dict(self._get(f"/tasks/{_name(task_id)}")["task"])

    def status(self, task_id: str) -> Json:
        """How far is it: `status`, `is_terminal`, `can_retry`, times."""
        return dict(self._get(f"/tasks/{_name(task_id)}/status"))

    def result(self, task_id: str) -> Json:
        """What came out: `result_data`, `error_message`, `execution_time_seconds`. ClusterError NO_TASK_RESULT before the end."""
        return dict(self._get(f"/tasks/{_name(task_id)}/result"))

    def cancel(self, task_id: str) -> Json:
        """Cancel it; a running one is stopped on its device."""
        return dict(self._transport.call("DELETE", f"/tasks/{_name(task_id)}"))

    def retry(self, task_id: str, *, priority: str | None = None) -> str:
        """Submit a failed task again; returns the new task's id."""
        body = {"priority": priority} if priority is not None else {}
        return str(self._transport.call("POST", f"/tasks/{_name(task_id)}/retry", body=body)["new_task_id"])

    def wait(self, task_id: str, *, timeout: float | None = None, interval: float = 0.5) -> Json:
        """Wait until it has ended; returns `get(task_id)`. Raises TaskWaitTimeoutError after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        pause_s = min(0.05, interval)
        while not self.status(task_id)["is_terminal"]:
            left_s = None if until is None else until - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TaskWaitTimeoutError(f"task {task_id} has not ended within {timeout:g} s", details={"task_id": task_id})
            time.sleep(pause_s if left_s is None else min(pause_s, left_s))
            pause_s = min(interval, pause_s * 1.5)
        return self.get(task_id)

    def types(self) -> Json:
        """Which types of task are known, and which an online device accepts now (`available_types`)."""
        return dict(self._get("/tasks/types"))

    def statistics(self) -> Json:
        """The queue, its performance, its load."""
        return dict(self._get("/tasks/statistics"))


class Cluster(_Part):
    """The cluster as a whole."""

    def status(self) -> Json:
        """`cluster_stats`, `server_info` and the flat figures."""
        return dict(self._get("/cluster/status"))

    def health(self) -> Json:
        """`overall_health` and its `checks`; an unhealthy cluster is an answer here, no error."""
        return dict(self._transport.call("GET", "/cluster/health", also=(503,)))

    def metrics(self, period: str | None = None, type: str | None = None) -> Json:
        """Averages and peaks of a period (1h, 24h, 7d, 30d); `type`: cpu, memory, network, disk, all."""
        return dict(self._get("/cluster/metrics", period=period, type=type))


class Logs(_Part):
    """What happened."""

    def list(self, level: str | None = None, *, device_id: str | None = None, since: str | float | None = None,
             limit: int | None = None) -> list[Json]:
        """Entries of at least `level`, newest first."""
        return list(self._get("/logs", level=level, device_id=device_id, since=since, limit=limit)["logs"])


class Config(_Part):
    """Values that may be changed while the server runs."""

    def get(self) -> Json:
        """The configuration: `server`, `cluster`, `logging`."""
        return dict(self._get("/config")["config"])

    def update(self, changes: Mapping[str, Mapping[str, Any]]) -> Json:
        """Change some of it, all or nothing; returns `updated_fields` and `restart_required`."""
        return dict(self._transport.call("PUT", "/config", body=changes))


class Stats(_Part):
    """Figures over a period."""

    def tasks(self, period: str | None = None, group_by: str | None = None) -> Json:
        """`group_by`: device, task_type, hour."""
        return dict(self._get("/stats/tasks", period=period, group_by=group_by)["task_stats"])

    def devices(self, period: str | None = None) -> Json:
        """`utilization` and `performance_ranking`."""
        return dict(self._get("/stats/devices", period=period)["device_stats"])


class Monitor(_Part):
    """What happens now."""

    def stream(self, types: Sequence[str] | None = None, *, device_id: str | None = None, last_event_id: str | None = None,
               reconnect: bool = True) -> Iterator[Json]:
        """Events of these types (devices, tasks, logs; default all), for ever; goes on after a lost connection without a hole."""
        params = {"types": ",".join(types) if types else None, "device_id": device_id}
        return stream.events(self._transport, params, last_id=last_event_id, reconnect=reconnect)


def _name(given: str) -> str:
    return quote(given, safe="")


def _task(task_type: str, payload: Mapping[str, Any] | None, **given: Any) -> Json:
    return {"task_type": task_type, "payload": dict(payload or {}),
            **{key: value for key, value in given.items() if value is not None}}
