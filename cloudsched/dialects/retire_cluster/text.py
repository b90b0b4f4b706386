"""How does it look as plain text? The text views of contract 9.9, and the output of commands."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from cloudsched.dialects.retire_cluster import cluster, params, render, words
from cloudsched.dialects.retire_cluster.routing import Answer, Call
from cloudsched.domain.devices import rounded
from cloudsched.services import devices, figures, fleet_log

PLAIN, CSV, TSV = "text/plain; charset=utf-8", "text/csv; charset=utf-8", "text/tab-separated-values; charset=utf-8"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEVICES_QUERY: tuple[params.Param, ...] = (params.Word("status", ("online", "offline", "all", ""), "all"), params.Text("role"))
LOGS_QUERY = cluster.LOGS_QUERY
COLUMNS = ("id", "status", "cpu", "memory", "tasks")
_BREAKS = re.compile(r"[|\t\r\n\x00-\x1f\x7f\u0085\u2028\u2029]")
_GAUGES = (
    ("cluster_devices_total", "Devices that are registered.", "nodes_total"),
    ("cluster_devices_online", "Devices that are online.", "nodes_online"),
    ("cluster_cpu_usage_percent", "Mean CPU usage of the devices that are online.", "cpu_usage"),
    ("cluster_memory_usage_percent", "Mean memory usage of the devices that are online.", "memory_usage"),
    ("cluster_tasks_active", "Tasks that are assigned or run.", "tasks_active"),
)


def device_lines(call: Call) -> Answer:
    """List the devices, one a line."""
    status, accept = call.query["status"] or "all", call.environ.get("HTTP_ACCEPT", "")
    found = devices.listed(status=status, role=call.query["role"])
    rows = [[view.device_id, render.status_word(view), _percent(view.cpu_usage), f"{view.memory_used_gb:.1f}", str(view.active)]
            for view in found.items]
    if "text/csv" in accept:
        return _text(separated([COLUMNS, *rows], ","), CSV)
    if "text/tab-separated-values" in accept:
        return _text(separated([COLUMNS, *rows], "\t"), TSV)
    return _text(joined(rows))


def status_lines(_: Call) -> Answer:
    """Show the state of the cluster in six lines."""
    found = figures.cluster()
    uptime = render.uptime(found["cluster_stats"]["uptime_s"])
    return _text("\n".join([
        f"STATUS: {found['cluster_status']}", f"NODES: {found['nodes_online']}/{found['nodes_total']} online",
        f"CPU: {found['cpu_cores']} cores ({_percent(found['cpu_usage'])}% utilized)",
        f"MEMORY: {found['memory_total']:g}GB ({_percent(found['memory_usage'])}% used)",
        f"TASKS: {found['tasks_active']} active, {found['tasks_completed']} completed today", f"UPTIME: {uptime}"]))


def metric_lines(_: Call) -> Answer:
    """Show figures of the cluster as Prometheus text."""
    found = figures.cluster()
    lines = [line for name, text, member in _GAUGES
             for line in (f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {found[member]:g}")]
    return _text("\n".join(lines) + "\n", METRICS_TYPE)


def log_lines(call: Call) -> Answer:
    """Show the newest entries of the log, oldest first."""
    query = call.query
    found, _ = fleet_log.entries(words.kinds_from(query["level"]), device_id=query["device_id"], since=query["since"],
                                 limit=query["limit"])
    return _text("\n".join(map(log_line, reversed([msgspec.to_builtins(line.entry) for line in words.lines(found)]))))


def log_line(entry: Mapping[str, Any]) -> str:
    return f"[{entry['timestamp']}] {entry['level'].upper()}: {plain(entry['message'])}"


def _percent(value: float) -> str:
    return f"{rounded(value, 0):.0f}"


def _text(text: str, kind: str = PLAIN) -> Answer:
    return Answer(body=[text.encode()], headers=[("Content-Type", kind)])


# rows and objects


def plain(value: Any) -> str:
    """A value that cannot break its line or column."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return _BREAKS.sub(" ", text)


def joined(rows: Iterable[Sequence[Any]]) -> str:
    """Rows with vertical bars."""
    return "\n".join("|".join(map(plain, row)) for row in rows)


def separated(rows: Iterable[Sequence[Any]], by: str) -> str:
    """Rows as CSV or TSV."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=by, lineterminator="\n")
    writer.writerows([plain(value) for value in row] for row in rows)
    return out.getvalue().rstrip("\n")


def flat(value: Any, name: str = "") -> Iterable[tuple[str, Any]]:
    """An object as (path, value) pairs; lists of plain values stay together."""
    if isinstance(value, Mapping) and value:
        for member, inner in value.items():
            yield from flat(inner, f"{name}.{member}" if name else str(member))
    elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
        for index, inner in enumerate(value):
            yield from flat(inner, f"{name}[{index}]")
    else:
        yield name, ", ".join(map(plain, value)) if isinstance(value, list) else value
