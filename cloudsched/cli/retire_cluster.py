"""The `retire-cluster` command: devices and tasks of a Retire-Cluster server (contract 14.3). Its command line is one table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from cloudsched import __version__
from cloudsched.cli import retire_commands as do
from cloudsched.cli import retire_settings
from cloudsched.cli.cloud_scheduler_client import run_client
from cloudsched.cli.retire_commands import (
    EXIT_AUTH,
    EXIT_CONFIG,
    EXIT_CONNECTION,
    EXIT_DENIED,
    EXIT_ERROR,
    EXIT_NOT_FOUND,
    EXIT_TIMEOUT,
    EXIT_USAGE,
    Session,
    UsageError,
    fail,
)
from cloudsched.cli.retire_settings import FORMATS, SettingsError
from retire_cluster_client import ClusterClient, ClusterError

_EXITS = {"CONNECTION_FAILED": EXIT_CONNECTION, "TIMEOUT": EXIT_TIMEOUT, "AUTHENTICATION_REQUIRED": EXIT_AUTH,
          "PERMISSION_DENIED": EXIT_DENIED}  # fmt: skip
RETRIES = 2  # somebody sits and waits


def retire_cluster_main(argv: Sequence[str] | None = None) -> int:
    """The `retire-cluster` command; returns its exit status."""
    return run_client(lambda: _main(list(sys.argv[1:] if argv is None else argv)))


def _main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    _defaults(args)
    try:
        if args.noun == "config":
            return int(args.run(args))
        found = retire_settings.connection(args)
        form = found.form
        with ExitStack() as stack:
            out: Any = sys.stdout
            if args.output in FORMATS:
                form = args.output
            elif args.output not in (None, "-"):
                out = stack.enter_context(open(args.output, "w", encoding="utf-8", newline=""))
            client = stack.enter_context(ClusterClient(
                found.url, found.api_key, timeout=found.timeout_s, retries=RETRIES))
            return int(args.run(Session(args, client, out, form, no_color=found.no_color)))
    except UsageError as error:
        return fail(str(error), EXIT_USAGE)
    except (SettingsError, ValueError) as error:
        return fail(str(error), EXIT_CONFIG)
    except ClusterError as error:
        return _refused(error, args)
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail(f"{args.output}: {error.strerror}", EXIT_ERROR)


def _refused(error: ClusterError, args: argparse.Namespace) -> int:
    details = json.dumps(error.details, ensure_ascii=False) if error.details and error.http_status else ""
    if args.verbose and error.request_id:
        details = f"{details} request {error.request_id}".strip()
    status = EXIT_NOT_FOUND if error.http_status == 404 else EXIT_AUTH if error.http_status == 401 else (
        EXIT_DENIED if error.http_status == 403 else _EXITS.get(error.code, EXIT_ERROR))
    return fail(f"{error.message} ({error.code})" + (f" {details}" if details else ""), status)


# the command line

_PERIOD = {"choices": ("1h", "24h", "7d", "30d")}
_LIMIT = {"type": int, "metavar": "N"}
_DEVICE = {"metavar": "ID", "help": "of this device alone"}
_PRIORITY = {"choices": ("low", "normal", "high", "urgent")}
_Option = tuple[str, dict[str, Any]]
_WAIT: _Option = ("--wait-limit", {"type": float, "metavar": "S", "help": "give up after so many seconds (exit status 8)"})
_COUNT: _Option = ("--count", {"type": int, "metavar": "N", "help": "end after so many"})
_LISTS: dict[str, list[_Option]] = {
    "devices": [("--status", {"choices": ("online", "offline", "all")}), ("--role", {"metavar": "ROLE"}),
                ("--sort", {"choices": ("name", "cpu", "memory", "last_seen")}), ("--limit", _LIMIT)],
    "tasks": [("--status", {"metavar": "STATUS"}), ("--device", _DEVICE), ("--type", {"metavar": "TYPE"}),
              ("--since", {"metavar": "TIME"}), ("--limit", _LIMIT)],
    "logs": [("--level", {"choices": ("debug", "info", "warning", "error")}), ("--device", _DEVICE),
             ("--since", {"metavar": "TIME", "help": "RFC 3339, or epoch seconds"}), ("--limit", _LIMIT)],
}

# noun, verb, what it does, function, options (a positional one has no dashes)
COMMANDS: list[tuple[str, str, str, Callable[..., int], list[_Option]]] = [
    ("cluster", "status", "the cluster in figures", do.cluster_status, []),
    ("cluster", "health", "database, network, resources (exit status 1 when unhealthy)", do.cluster_health, []),
    ("cluster", "metrics", "averages and peaks of a period", do.cluster_metrics,
     [("--period", _PERIOD), ("--type", {"choices": ("cpu", "memory", "network", "disk", "all")})]),
    ("devices", "list", "the devices", do.devices_list, _LISTS["devices"]),
    ("devices", "show", "one device", do.devices_show, [("device", {})]),
    ("devices", "ping", "probe a device (exit status 1 when it does not answer)", do.devices_ping,
     [("device", {}), ("--count", {"type": int, "metavar": "N"}), ("--probe-timeout", {"type": float, "metavar": "S"})]),
    ("devices", "remove", "take a device out of the cluster", do.devices_remove,
     [("device", {}), ("--force", {"action": "store_true", "help": "cancel its tasks"})]),
    ("devices", "summary", "counts and sums", do.devices_summary, []),
    ("devices", "stats", "how well each device did", do.devices_stats, [("--period", _PERIOD)]),
    ("tasks", "submit", "submit a task; prints its id", do.tasks_submit,
     [("type", {}), ("--payload", {"metavar": "JSON|@FILE"}), ("--device", {"metavar": "ID", "help": "on this device alone"}),
      ("--priority", _PRIORITY), ("--requirements", {"metavar": "JSON|@FILE"}), ("--metadata", {"metavar": "JSON|@FILE"}),
      ("--task-timeout", {"type": int, "metavar": "S"}),
      ("--wait", {"action": "store_true", "help": "wait for its end and show it (exit status 1 when it failed)"}), _WAIT]),
    ("tasks", "list", "the tasks, newest first", do.tasks_list, _LISTS["tasks"]),
    ("tasks", "show", "one task", do.tasks_show, [("task", {})]),
    ("tasks", "logs", "what happened to a task", do.tasks_logs, [("task", {})]),
    ("tasks", "result", "the output of a task", do.tasks_result, [("task", {})]),
    ("tasks", "cancel", "cancel a task", do.tasks_cancel, [("task", {})]),
    ("tasks", "retry", "submit a failed task again; prints the new id", do.tasks_retry,
     [("task", {}), ("--priority", _PRIORITY)]),
    ("tasks", "wait", "wait for the end of a task (exit status 1 when it failed)", do.tasks_wait, [("task", {}), _WAIT]),
    ("tasks", "watch", "the same", do.tasks_wait, [("task", {}), _WAIT]),
    ("tasks", "types", "which types of task there are", do.tasks_types, []),
    ("tasks", "stats", "tasks of a period in figures", do.tasks_stats,
     [("--period", _PERIOD), ("--group-by", {"choices": ("device", "task_type", "hour")})]),
    ("logs", "list", "what happened, newest first", do.logs_list, _LISTS["logs"]),
    *[("monitor", what, f"live events of {what}, until Ctrl-C", do.monitor,
       [("--device", _DEVICE), _COUNT])
      for what in ("devices", "tasks", "logs")],
    *[("export", what, f"{what} as CSV (or --format)", do.export, _LISTS[what]) for what in ("devices", "tasks", "logs")],
    ("config", "set", "keep a setting: api_url, api_key, format, timeout", do.config_set, [("name", {}), ("value", {})]),
    ("config", "unset", "forget a setting", do.config_unset, [("name", {})]),
    ("config", "show", "the settings that are kept", do.config_show, []),
]
_NOUNS = {"cluster": "the cluster as a whole", "devices": "machines", "tasks": "work", "logs": "what happened",
          "monitor": "live events", "export": "lists for other programs", "config": "which server, which key"}
_EPILOG = """examples:
  retire-cluster config set api_url http://localhost:8081
  retire-cluster devices list --status online
  retire-cluster tasks submit echo --payload '{"message": "test"}' --wait
  retire-cluster tasks list --status failed --output json

variables: RETIRE_CLUSTER_SERVER, _API_KEY, _FORMAT, _NO_COLOR, _TIMEOUT, _CONFIG (the settings file)
exit status: 0 ok, 1 error, 2 usage, 3 configuration, 4 connection, 5 authentication, 6 not found, 7 not permitted, 8 timeout
"""


def parser() -> argparse.ArgumentParser:
    """The command line, made from COMMANDS."""
    shared = _shared()
    top = argparse.ArgumentParser(prog="retire-cluster", description="Devices and tasks of a Retire-Cluster server.",
                                  parents=[shared], epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    top.add_argument("--version", action="version", version=f"retire-cluster {__version__}")
    nouns = top.add_subparsers(dest="noun", metavar="NOUN", required=True)
    verbs: dict[str, Any] = {}
    for noun, verb, text, run, options in COMMANDS:
        if noun not in verbs:
            made = nouns.add_parser(noun, help=_NOUNS[noun], description=_NOUNS[noun], parents=[shared])
            verbs[noun] = made.add_subparsers(dest="verb", metavar="VERB", required=True)
        one = verbs[noun].add_parser(verb, help=text, description=text, parents=[shared])
        for name, rules in options:
            one.add_argument(name, **rules)
        one.set_defaults(run=run, **({"what": verb} if noun in ("monitor", "export") else {}))
    return top


def _shared() -> argparse.ArgumentParser:
    """Options that may stand anywhere; one that is not given says nothing."""
    made = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    group = made.add_argument_group("anywhere")
    group.add_argument("--server", metavar="URL", help="default: the setting api_url, else http://localhost:8081")
    group.add_argument("--api-key", "-k", metavar="KEY", help="better kept with `config set api_key`: command lines are public")
    group.add_argument("--format", "-f", choices=FORMATS)
    group.add_argument("--output", "-o", metavar="FORMAT|FILE", help="a format, or the file to write to")
    group.add_argument("--timeout", type=float, metavar="S", help="seconds for each answer (30)")
    group.add_argument("--quiet", "-q", action="store_true")
    group.add_argument("--verbose", "-v", action="store_true")
    group.add_argument("--no-color", action="store_true")
    return made


def _defaults(args: argparse.Namespace) -> None:
    for name, value in (("output", None), ("quiet", False), ("verbose", False), ("format", None), ("what", None),
                        ("wait_limit", None), ("limit", None)):
        if not hasattr(args, name):
            setattr(args, name, value)
