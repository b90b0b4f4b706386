"""What do the commands of `retire-cluster` do and print? One function each, over `retire_cluster_client`."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.cli import retire_settings
from cloudsched.cli.retire_settings import SECRET
from cloudsched.cli.screen import Screen
from cloudsched.cli.table import Column
from retire_cluster_client import ClusterClient

EXIT_OK, EXIT_ERROR, EXIT_USAGE, EXIT_CONFIG, EXIT_CONNECTION, EXIT_AUTH, EXIT_NOT_FOUND, EXIT_DENIED, EXIT_TIMEOUT = range(9)
_FAILED = frozenset({"failed", "timeout", "cancelled"})
_STATES = {"online": "green", "offline": "red", "completed": "green", "success": "green", "running": "blue", "pending": "cyan",
           "failed": "red", "cancelled": "magenta", "healthy": "green", "warning": "yellow", "degraded": "yellow",
           "unhealthy": "red", "error": "red"}  # fmt: skip

_UTILIZATION = ("cpu_avg", "memory_avg", "uptime_percent")

Row = Sequence[Any]


class UsageError(Exception):
    """A value on the command line cannot be used; the text names the option."""


class Session:
    """One run: the options, the server, and where the output goes."""

    def __init__(self, args: argparse.Namespace, client: ClusterClient, out: Any, form: str, *, no_color: bool) -> None:
        self.args, self.client, self.form = args, client, form
        self.screen = Screen(out, as_json=form == "json")
        if no_color:
            self.screen.colour = False

    def rows(self, columns: Sequence[str], rows: Sequence[Row], whole: Any) -> None:
        """A list: a table, lines, CSV, TSV, or `whole` as JSON."""
        if self.form == "json":
            self.screen.json(whole)
        elif self.form in ("csv", "tsv"):
            self.screen.out.write(_separated([columns, *rows], "," if self.form == "csv" else "\t"))
        elif self.form == "text":
            for row in rows:
                self.screen.line("|".join(_cell(cell).replace("|", "/") for cell in row))
        else:
            shown = [Column(name.upper(), right=_numbers(rows, index), colours=_STATES) for index, name in enumerate(columns)]
            self.screen.table(shown, [[_cell(cell) for cell in row] for row in rows], none="none")

    def thing(self, pairs: Sequence[tuple[str, Any]], whole: Any) -> None:
        """One object: a name and a value for each line, or `whole` as JSON."""
        if self.form == "json":
            self.screen.json(whole)
        elif self.form in ("csv", "tsv"):
            self.screen.out.write(_separated([[name for name, _ in pairs], [value for _, value in pairs]],
                                             "," if self.form == "csv" else "\t"))
        elif self.form == "text":
            for name, value in pairs:
                self.screen.line(f"{name}: {_cell(value)}")
        else:
            self.screen.fields([(name, _cell(value)) for name, value in pairs])

    def told(self, text: str, whole: Any) -> None:
        """What the command was asked for, an id: always said."""
        if self.form == "json":
            self.screen.json(whole)
        else:
            self.screen.line(text)

    def say(self, text: str, whole: Any) -> None:
        """What was done: a sentence (nothing with --quiet), or `whole` as JSON."""
        if self.form == "json":
            self.screen.json(whole)
        elif not self.args.quiet:
            self.screen.line(text)


# commands


def devices_list(s: Session) -> int:
    found = s.client.devices.list(s.args.status, s.args.role, s.args.sort, s.args.limit)
    s.rows(("id", "status", "role", "platform", "cores", "cpu%", "memory_gb", "tasks", "last_seen"), [
        (d["id"], d["status"], d["role"], d["platform"]["os"], d["resources"]["cpu_cores"], d["resources"]["cpu_usage"],
         d["resources"]["memory_total_gb"], d["tasks"]["active"], d["last_seen"]) for d in found], found)
    return EXIT_OK


def devices_show(s: Session) -> int:
    d = s.client.devices.get(s.args.device)
    detail = d.get("detailed_info") or {}
    battery = detail.get("battery")
    s.thing([
        ("id", d["id"]), ("status", d["status"]), ("role", d["role"]), ("hostname", d["hostname"]),
        ("platform", " ".join(str(d["platform"][key]) for key in ("os", "arch", "python_version") if d["platform"].get(key))),
        *((key, d["resources"][key]) for key in ("cpu_cores", "cpu_usage", "memory_total_gb", "memory_used_gb",
                                                  "storage_total_gb", "storage_used_gb")),
        *((f"tasks_{key}", d["tasks"][key]) for key in ("active", "completed", "failed")),
        ("capabilities", detail.get("capabilities")), ("battery", battery and f"{battery['level']}%"
                                                      f"{' charging' if battery['charging'] else ''}"),
        ("last_seen", d["last_seen"]), ("uptime_seconds", d["uptime_seconds"])], d)
    return EXIT_OK


def devices_ping(s: Session) -> int:
    found = s.client.devices.ping(s.args.device, count=s.args.count, timeout=s.args.probe_timeout)
    text = (f"{found['device_id']}: {found['average_latency_ms']} ms on average, {found['packet_loss']}% lost"
            if found["reachable"] else f"{found['device_id']}: not reachable")
    s.say(text, found)
    return EXIT_OK if found["reachable"] else EXIT_ERROR


def devices_remove(s: Session) -> int:
    found = s.client.devices.remove(s.args.device, force=s.args.force)
    s.say(f"{found['removed_device']} removed, {found['cancelled_tasks']} tasks cancelled", found)
    return EXIT_OK


def devices_summary(s: Session) -> int:
    return _flat(s, s.client.devices.summary())


def devices_stats(s: Session) -> int:
    found = s.client.stats.devices(s.args.period)
    score = {item["device_id"]: item["score"] for item in found["performance_ranking"]}
    order = [*score, *sorted(set(found["utilization"]) - set(score))]
    s.rows(("device", "score", *_UTILIZATION), [
        (name, score.get(name), *(found["utilization"].get(name, {}).get(key) for key in _UTILIZATION)) for name in order], found)
    return EXIT_OK


def tasks_submit(s: Session) -> int:
    a = s.args
    task_id = s.client.tasks.submit(
        a.type, _object(a.payload, "--payload"), priority=a.priority, device_id=a.device, timeout=a.task_timeout,
        requirements=_object(a.requirements, "--requirements") or None, metadata=_object(a.metadata, "--metadata") or None)
    if not a.wait:
        s.told(task_id, {"task_id": task_id})
        return EXIT_OK
    return _ended(s, task_id)


def tasks_list(s: Session) -> int:
    a = s.args
    found = s.client.tasks.list(a.status, device_id=a.device, task_type=a.type, since=a.since, limit=a.limit)
    s.rows(("id", "type", "status", "device", "priority", "created", "seconds"), [
        (t["task_id"], t["task_type"], t["status"], t["device_id"], t["priority"], t["created_at"], t["execution_time_seconds"])
        for t in found], found)
    return EXIT_OK


def tasks_show(s: Session) -> int:
    return _task(s, s.client.tasks.get(s.args.task))


def tasks_logs(s: Session) -> int:
    found = s.client.tasks.get(s.args.task).get("detailed_log") or []
    s.rows(("line",), [(line,) for line in found], found)
    return EXIT_OK


def tasks_result(s: Session) -> int:
    found = s.client.tasks.result(s.args.task)
    if s.form != "json":
        output = (s.client.tasks.get(s.args.task).get("result") or {}).get("output")
        if found["error_message"]:
            print(f"retire-cluster: {found['error_message']}", file=sys.stderr)
        s.screen.line(output if isinstance(output, str) else json.dumps(found["result_data"], ensure_ascii=False))
    else:
        s.screen.json(found)
    return EXIT_ERROR if found["status"] in _FAILED else EXIT_OK


def tasks_cancel(s: Session) -> int:
    found = s.client.tasks.cancel(s.args.task)
    s.say(f"{found['cancelled_task']} cancelled{' while it ran' if found['was_running'] else ''}", found)
    return EXIT_OK


def tasks_retry(s: Session) -> int:
    new = s.client.tasks.retry(s.args.task, priority=s.args.priority)
    s.told(new, {"new_task_id": new, "original_task_id": s.args.task})
    return EXIT_OK


def tasks_wait(s: Session) -> int:
    return _ended(s, s.args.task)


def tasks_types(s: Session) -> int:
    found = s.client.tasks.types()
    now, built_in = set(found["available_types"]), set(found["builtin_types"])
    s.rows(("type", "built_in", "accepted_now"),
           [(name, name in built_in, name in now) for name in found["supported_types"]], found)
    return EXIT_OK


def tasks_stats(s: Session) -> int:
    found = s.client.stats.tasks(s.args.period, s.args.group_by)
    return _flat(s, found)


def cluster_status(s: Session) -> int:
    found = s.client.cluster.status()
    stats = found["cluster_stats"]
    s.thing([("status", found["cluster_status"]), ("devices", f"{stats['online_devices']}/{stats['total_devices']} online"),
             ("health", f"{stats['health_percentage']}%"), *stats["total_resources"].items(),
             ("by_role", stats["by_role"]), ("by_platform", stats["by_platform"]), ("tasks_active", found["tasks_active"]),
             ("tasks_completed_today", found["tasks_completed"]), ("uptime", stats["uptime"])], found)
    return EXIT_OK


def cluster_health(s: Session) -> int:
    found = s.client.cluster.health()
    s.rows(("check", "status", "figures"), [
        ("overall", found["overall_health"], ""),
        *((name, check["status"], ", ".join(f"{key} {value}" for key, value in check.items() if key != "status"))
          for name, check in found["checks"].items())], found)
    return EXIT_OK if found["overall_health"] != "unhealthy" else EXIT_ERROR


def cluster_metrics(s: Session) -> int:
    found = s.client.cluster.metrics(s.args.period, s.args.type)
    s.rows(("metric", "figure", "value"), [
        (name, figure, value) for name, group in found["metrics"].items() for figure, value in group.items()], found)
    return EXIT_OK


def logs_list(s: Session) -> int:
    found = s.client.logs.list(s.args.level, device_id=s.args.device, since=s.args.since, limit=s.args.limit)
    s.rows(("time", "level", "component", "device", "message"), [
        (e["timestamp"], e["level"], e["component"], e["device_id"], e["message"]) for e in found], found)
    return EXIT_OK


def monitor(s: Session) -> int:
    """Events until Ctrl-C (or `--count` of them), one line each."""
    left = s.args.count
    for event in s.client.monitor.stream([s.args.what] if s.args.what else None, device_id=s.args.device):
        if s.form in ("json", "csv", "tsv"):
            s.screen.json_line(event)
        else:
            rest = " ".join(f"{key}={_cell(value)}" for key, value in event.items() if key not in ("id", "type", "timestamp"))
            s.screen.line(f"{event.get('timestamp', '')} {event.get('type', '')} {rest}".strip())
        if left is not None and (left := left - 1) <= 0:
            return EXIT_OK
    return EXIT_OK


def export(s: Session) -> int:
    """Everything the list gives, as CSV unless another form was asked for."""
    if s.form == "table":
        s.form = "csv"
    s.args.limit = s.args.limit or 1000
    return {"devices": devices_list, "tasks": tasks_list, "logs": logs_list}[s.args.what](s)


def config_set(args: argparse.Namespace) -> int:
    path = retire_settings.file_path()
    value = retire_settings.put(path, args.name, args.value)
    if not args.quiet:
        print(f"{args.name} = {'***' if args.name in SECRET else value} ({path})")
    return EXIT_OK


def config_unset(args: argparse.Namespace) -> int:
    if not retire_settings.unset(retire_settings.file_path(), args.name):
        return fail(f"{args.name} is not set", EXIT_NOT_FOUND)
    return EXIT_OK


def config_show(args: argparse.Namespace) -> int:
    found = retire_settings.read(retire_settings.file_path())
    shown = {name: "***" if name in SECRET else value for name, value in found.items()}
    if args.output == "json" or args.format == "json":
        print(json.dumps(shown))
    else:
        for name, value in shown.items():
            print(f"{name} = {value}")
    return EXIT_OK


def _ended(s: Session, task_id: str) -> int:
    return _task(s, s.client.tasks.wait(task_id, timeout=s.args.wait_limit))


def _task(s: Session, t: Mapping[str, Any]) -> int:
    result = t.get("result") or {}
    s.thing([
        ("id", t["task_id"]), ("type", t["task_type"]), ("status", t["status"]), ("device", t["device_id"]),
        ("priority", t["priority"]), ("created", t["created_at"]), ("started", t["started_at"]), ("completed", t["completed_at"]),
        ("seconds", t["execution_time_seconds"]), ("payload", t.get("payload")), ("exit_code", result.get("exit_code")),
        ("error", t.get("error") or result.get("error")), ("output", result.get("output"))], t)
    return EXIT_ERROR if s.args.verb in ("submit", "wait", "watch") and t["status"] in _FAILED else EXIT_OK


def _flat(s: Session, found: Mapping[str, Any]) -> int:
    s.thing(list(found.items()), found)
    return EXIT_OK


def _object(text: str | None, option: str) -> dict[str, Any]:
    """A JSON object from the text, `@FILE`, or `@-` (standard input)."""
    if text is None:
        return {}
    try:
        if text == "@-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            with open(text[1:], encoding="utf-8") as file:
                text = file.read()
        found = json.loads(text)
    except OSError as error:
        raise UsageError(f"{option}: {text[1:]}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"{option}: is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise UsageError(f"{option}: is no JSON object")
    return found


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, Mapping) and all(not isinstance(item, (dict, list)) for item in value.values()):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def _numbers(rows: Sequence[Row], index: int) -> bool:
    cells = [row[index] for row in rows if row[index] is not None]
    return bool(cells) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in cells)


def _separated(rows: Sequence[Row], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    writer.writerows([[_cell(cell) for cell in row] for row in rows])
    return text.getvalue()


def fail(text: str, status: int) -> int:
    print(f"retire-cluster: {text}", file=sys.stderr)
    return status
