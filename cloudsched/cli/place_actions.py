"""What more can be asked of a cloud? `cloudsched clouds run|hosts|ping|nodes|drain|types|apply|batch ...`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, EXIT_USAGE, Subparsers, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Session, confirm, open_session
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, whole

SLACK_S = 60.0  # beyond the limit that the server keeps itself
# Members that a table of unknown shape shows first.
_FIRST = ("id", "name", "kind", "namespace", "instance_type", "state", "action", "ready", "unschedulable", "reason")
_WIDEST = 40


def configure(actions: Subparsers) -> None:
    """Add the actions to those of `cloudsched clouds`."""
    _cloud(add_action(actions, "capabilities", run_capabilities, "what a cloud can do"))
    _configure_hosts(actions)
    _configure_nodes(actions)
    for name, text in (("types", "sizes of machine that a cloud has"), ("prices", "prices that a cloud or its options tell")):
        _cloud(add_action(actions, name, _lister(f"/{name}"), text))
    _configure_objects(actions)
    _configure_batch(actions)


def _configure_hosts(actions: Subparsers) -> None:
    run = _cloud(add_action(actions, "run", run_run, "run a command on the hosts of a cloud"))
    run.add_argument("words", nargs="+", metavar="COMMAND", help="words as they are; one single word is for the shell")
    run.add_argument("--host", dest="hosts", action="append", metavar="HOST", help="only there; repeatable")
    run.add_argument("--sudo", action="store_true", help="as root")
    run.add_argument("--timeout", dest="timeout_s", type=duration_s, default=60, metavar="TIME", help="per host (60s)")
    _cloud(add_action(actions, "hosts", run_hosts, "the hosts of a cloud with their facts"))
    _cloud(add_action(actions, "ping", run_ping, "reach each host of a cloud"))


def _configure_nodes(actions: Subparsers) -> None:
    _cloud(add_action(actions, "nodes", _lister("/nodes"), "a cloud's own nodes (of Kubernetes, of Slurm)"))
    for verb, text in (("cordon", "let nothing new begin on nodes of a cloud"), ("uncordon", "use cordoned nodes again"),
                       ("drain", "empty nodes of a cloud"), ("resume", "use drained nodes again")):
        made = _cloud(add_action(actions, verb, run_node_verb, text))
        made.add_argument("nodes", nargs="+", metavar="NODE")
        made.set_defaults(verb=verb)
        if verb == "drain":
            made.add_argument("--reason", metavar="TEXT", help="kept by the place (Slurm)")
            made.add_argument("--timeout", dest="timeout_s", type=duration_s, metavar="TIME", help="for evictions (Kubernetes)")
            made.add_argument("--force", action="store_true", default=None, help="pods that nobody makes anew too")
            made.add_argument("--delete-local-data", action="store_true", default=None, help="pods with data of their own too")


def _configure_objects(actions: Subparsers) -> None:
    applied = _cloud(add_action(actions, "apply", run_apply, "make objects as manifests say"))
    applied.add_argument("files", nargs="+", metavar="FILE", help="YAML or JSON; - is standard input")
    applied.add_argument("--dry-run", action="store_true", help="show the differences, change nothing")
    applied.add_argument("--force", action="store_true", help="take over fields of other managers")
    applied.add_argument("--namespace", metavar="NAME", help="of objects that name none")
    gone = _cloud(add_action(actions, "delete", run_delete, "delete objects of a cloud with all they own"))
    gone.add_argument("files", nargs="*", metavar="FILE", help="manifests that name them; - is standard input")
    gone.add_argument("--labels", default="", metavar="SELECTOR", help="all with these labels: app=web,tier=front")
    gone.add_argument("--namespace", metavar="NAME")
    gone.add_argument("--no-wait", action="store_true", help="do not wait until they are gone")
    gone.add_argument("--timeout", dest="timeout_s", type=duration_s, default=120, metavar="TIME", help="wait so long (120s)")
    gone.add_argument("--yes", "-y", action="store_true", help="do not ask")
    log = _cloud(add_action(actions, "pod-log", run_pod_log, "the last lines of a pod's log"))
    log.add_argument("namespace", metavar="NAMESPACE")
    log.add_argument("pod", metavar="POD")
    log.add_argument("--container", metavar="NAME")
    log.add_argument("--tail", type=whole, default=1000, metavar="N", help="so many lines (1000)")
    log.add_argument("--previous", action="store_true", help="of the one before the last restart")


def _configure_batch(actions: Subparsers) -> None:
    parser = actions.add_parser("batch", help="batch jobs of the engine itself", description="Batch jobs of the engine itself.")
    batch = add_actions(parser)
    submitted = _cloud(add_action(batch, "submit", run_batch_submit, "hand jobs to the engine of a cloud"))
    submitted.add_argument("file", metavar="FILE", help="JSON: a job or a list of jobs; - is standard input")
    submitted.add_argument("--key", metavar="KEY", help="with a key it is safe to repeat (Slurm)")
    for name, run, text in (("states", run_batch_states, "what became of jobs"), ("cancel", run_batch_cancel, "end jobs")):
        _ids(_cloud(add_action(batch, name, run, text)))


def _cloud(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("cloud", metavar="CLOUD", help="name of the cloud")
    return parser


def _ids(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID")


# hosts

_HOSTS = (Column("HOST"), Column("RESULT", colours=STATE_COLOURS), Column("SECONDS", right=True), Column("MESSAGE"))
_FACTS = (Column("HOST"), Column("RESULT", colours=STATE_COLOURS), Column("CORES", right=True), Column("MEMORY MB", right=True),
          Column("FREE MB", right=True), Column("DISK GB", right=True), Column("SYSTEM"), Column("MESSAGE"))


def run_capabilities(args: argparse.Namespace) -> int:
    session = open_session(args)
    found = session.client.get(_path(args, "/capabilities"))
    if args.as_json:
        session.screen.json(found)
    else:
        for one in found["capabilities"]:
            session.screen.line(one)
    return EXIT_OK


def run_run(args: argparse.Namespace) -> int:
    session = open_session(args)
    body = {"command": args.words[0] if len(args.words) == 1 else args.words, "sudo": args.sudo, "timeout_s": args.timeout_s}
    body |= {"hosts": args.hosts} if args.hosts else {}
    # Not repeated when the answer is lost: the command may have run.
    answer = session.client.call("POST", _path(args, "/run"), body=body, repeatable=False,
                                 timeout_s=10 * (args.timeout_s + SLACK_S)).data
    if args.as_json:
        session.screen.json(answer)
        return _verdict(answer)
    for one in answer["items"]:
        status = f"exit status {one['code']}" if "code" in one else f"{one['error']}: {one['message']}"
        session.screen.line(session.screen.paint(f"== {one['host']}: {status}, {one['seconds']:.1f} s", "bold"))
        for stream in ("stdout", "stderr"):
            for line in (one.get(stream) or "").splitlines():
                session.screen.line(line)
    return _verdict(answer)


def run_hosts(args: argparse.Namespace) -> int:
    def row(one: dict[str, Any]) -> list[str]:
        facts = one.get("facts") or {}
        sizes = (str(facts.get(name, "")) for name in ("cores", "memory_mb", "memory_free_mb", "disk_gb"))
        return [one["host"], _word(one), *sizes, str(facts.get("os", "")), one["message"]]

    session = open_session(args)
    answer = session.client.call("GET", _path(args, "/hosts"), timeout_s=10 * SLACK_S).data
    _show(session, answer, _FACTS, row)
    return _verdict(answer)


def run_ping(args: argparse.Namespace) -> int:
    def row(one: dict[str, Any]) -> list[str]:
        took_s = one.get("ping_s")
        return [one["host"], _word(one), "" if took_s is None else f"{took_s:.3f}", one["message"]]

    session = open_session(args)
    answer = session.client.call("POST", _path(args, "/ping"), repeatable=True, timeout_s=10 * SLACK_S).data
    _show(session, answer, _HOSTS, row)
    return _verdict(answer)


def _word(one: dict[str, Any]) -> str:
    return "ok" if one["ok"] else str(one["error"])


def _show(session: Session, answer: dict[str, Any], columns: tuple[Column, ...],
          row: Callable[[dict[str, Any]], list[str]]) -> None:
    if session.screen.as_json:
        session.screen.json(answer)
    else:
        session.screen.table(columns, [row(one) for one in answer["items"]], none="no hosts")


def _verdict(answer: dict[str, Any]) -> int:
    failed, count = answer["failed"], len(answer["items"])
    return fail(f"{failed} of {count} hosts failed", EXIT_FAILED) if failed else EXIT_OK


# nodes, types, prices


def _lister(path: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        session = open_session(args)
        return show_items(session, session.client.get(_path(args, path))["items"])

    return run


def show_items(session: Session, items: list[dict[str, Any]]) -> int:
    """Objects of a kind that only the server knows: their plain members as a table, or all as JSON."""
    if session.screen.as_json:
        session.screen.json(items)
        return EXIT_OK
    names = [name for one in items[:1] for name, value in one.items() if not isinstance(value, (dict, list)) and name != "diff"]
    names.sort(key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST))
    columns = tuple(Column(name.upper().replace("_", " "), colours=STATE_COLOURS if name == "state" else None) for name in names)
    session.screen.table(columns or (Column("NAME"),), [[_cell(one.get(name)) for name in names] for one in items])
    for one in items:
        if one.get("diff"):
            session.screen.line(f"\n{one.get('kind', '')} {one.get('name', '')}\n{one['diff'].rstrip()}")
    return EXIT_OK


def _cell(value: Any) -> str:
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= _WIDEST else text[:_WIDEST - 3] + "..."


def run_node_verb(args: argparse.Namespace) -> int:
    from cloudsched.cli.session import for_each

    names = ("reason", "timeout_s", "force", "delete_local_data")
    how = {name: getattr(args, name) for name in names if getattr(args, name, None) is not None}
    session = open_session(args)

    def act(node: str) -> int:
        answer = session.client.call("POST", _path(args, f"/nodes/{_segment(node)}/{args.verb}"), body=how or None,
                                     repeatable=True, timeout_s=(args.timeout_s if how.get("timeout_s") else 300) + SLACK_S).data
        return _done(session, node, args.verb, answer)

    return for_each(args.nodes, act)


def _done(session: Session, node: str, verb: str, answer: dict[str, Any]) -> int:
    if session.screen.as_json:
        session.screen.json_line(answer)
        return EXIT_OK
    result = answer.get("result")
    told = result if isinstance(result, dict) else {}
    left = [one for kind in ("refused", "blocked") for one in told.get(kind) or ()]
    session.screen.line(f"{node}: {verb} done" if not left else f"{node}: not empty")
    for one in left:
        session.screen.line(f"  {one.get('namespace')}/{one.get('name')}: {one.get('reason')}")
    return EXIT_FAILED if left else EXIT_OK


# objects


def run_apply(args: argparse.Namespace) -> int:
    session = open_session(args)
    body = {"manifests": _texts(args.files), "dry_run": args.dry_run, "force": args.force, "namespace": args.namespace}
    answer = session.client.call("POST", _path(args, "/apply"), body=body, repeatable=True, timeout_s=10 * SLACK_S).data
    return show_items(session, answer["items"])


def run_delete(args: argparse.Namespace) -> int:
    if bool(args.files) == bool(args.labels):
        return fail("name files of manifests, or --labels", EXIT_USAGE)
    if not confirm(f"Delete {', '.join(args.files) or args.labels} on {args.cloud}?", assume_yes=args.yes):
        return fail("nothing was deleted")
    session = open_session(args)
    what = {"manifests": _texts(args.files)} if args.files else {"labels": args.labels}
    body = {**what, "namespace": args.namespace, "wait": not args.no_wait, "timeout_s": args.timeout_s}
    answer = session.client.call("POST", _path(args, "/delete"), body=body, repeatable=True, timeout_s=args.timeout_s + SLACK_S)
    return show_items(session, answer.data["items"])


def run_pod_log(args: argparse.Namespace) -> int:
    session = open_session(args)
    path = _path(args, f"/pods/{_segment(args.namespace)}/{_segment(args.pod)}/log")
    session.client.download(path, sys.stdout.buffer, container=args.container, tail=args.tail,
                            previous=1 if args.previous else None)
    return EXIT_OK


def _texts(files: Sequence[str]) -> str:
    return "\n---\n".join(_text(file) for file in files)


def _text(file: str) -> str:
    return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")


# batch work


def run_batch_submit(args: argparse.Namespace) -> int:
    try:
        given = json.loads(_text(args.file))
    except ValueError as error:
        return fail(f"{args.file} is not JSON: {error}", EXIT_USAGE)
    session = open_session(args)
    body = {"jobs": given if isinstance(given, list) else [given], "key": args.key or ""}
    answer = session.client.call("POST", _path(args, "/batch"), body=body, repeatable=bool(args.key), timeout_s=10 * SLACK_S).data
    if args.as_json:
        session.screen.json(answer)
    else:
        for number in answer["ids"]:
            session.screen.line(number)
    return EXIT_OK


def run_batch_states(args: argparse.Namespace) -> int:
    session = open_session(args)
    return show_items(session, session.client.get(_path(args, "/batch"), ids=args.ids)["items"])


def run_batch_cancel(args: argparse.Namespace) -> int:
    session = open_session(args)
    answer = session.client.post(_path(args, "/batch/cancel"), {"ids": args.ids})
    if args.as_json:
        session.screen.json(answer)
    else:
        session.screen.line(f"cancelled: {', '.join(args.ids)}")
    return EXIT_OK


def _path(args: argparse.Namespace, rest: str) -> str:
    return f"/clouds/{_segment(args.cloud)}{rest}"


def _segment(name: str) -> str:
    from cloudsched.client.http import segment

    return segment(name)
