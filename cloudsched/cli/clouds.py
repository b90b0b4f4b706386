"""How are clouds listed, added and changed? `cloudsched clouds ...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cloudsched.cli import place_actions
from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, EXIT_USAGE, add_action, add_actions
from cloudsched.cli.nodes import ALIVE
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, Session, add_watch, confirm, for_each, open_session, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import duration_s, memory_mb, pair, show_mb, signed, storage_gb, whole

COLUMNS = (
    Column("NAME"),
    Column("KIND"),
    Column("STATE", colours=STATE_COLOURS),
    Column("PRIORITY", right=True),
    Column("SLOTS", right=True),
    Column("CORES", right=True),
    Column("MEMORY", right=True),
    Column("STORAGE", right=True),
    Column("NODES", right=True),
    Column("ERROR"),
)
CHECKS = (Column("CHECK"), Column("RESULT", colours=STATE_COLOURS), Column("DETAIL"))


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    add_watch(add_action(actions, "list", run_list, "list clouds"))
    _add_names(add_action(actions, "show", run_show, "everything about clouds (credentials are never shown)"))

    added = add_action(actions, "add", run_add, "add a cloud; its credentials are tried first")
    added.add_argument("name", metavar="NAME")
    added.add_argument("--kind", required=True, metavar="KIND", help="what drives it: Local, Fake, ...")
    _add_fields(added)
    added.add_argument("--disabled", action="store_true", help="add it, but do not use it yet")
    added.add_argument("--dry-run", action="store_true", help="check everything, change nothing")
    added.add_argument("--no-verify", action="store_true", help="do not try the credentials")

    changed = add_action(actions, "set", run_set, "change a cloud; what is not named stays")
    changed.add_argument("name", metavar="NAME")
    _add_fields(changed)
    changed.add_argument(
        "--if-match", metavar="ETAG", help="only if it is still this version (see `clouds show`)"
    )

    removed = add_action(actions, "remove", run_remove, "remove clouds; with --force also those that have nodes")
    _add_names(removed)
    removed.add_argument("--yes", "-y", action="store_true", help="do not ask")
    removed.add_argument(
        "--force", action="store_true", help="also with nodes: they are destroyed, their jobs go back to the queue"
    )
    for name, run, text in (
        ("enable", run_enable, "use clouds for new nodes"),
        ("disable", run_disable, "boot nothing more on clouds"),
        ("verify", run_verify, "try clouds and their credentials"),
    ):
        _add_names(add_action(actions, name, run, text))
    place_actions.configure(actions)


def run_list(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(
        COLUMNS, cloud_row, "no clouds (add one with: cloudsched clouds add NAME --kind Local --slots 4)"
    )
    return show_list(args, session, listing, fetch=lambda: session.client.items("/clouds"))


def run_show(args: argparse.Namespace) -> int:
    session = open_session(args)
    answers = [session.client.call("GET", cloud_path(name)) for name in args.names]
    if args.as_json:
        found = [answer.data for answer in answers]
        session.screen.json(found if len(found) > 1 else found[0])
        return EXIT_OK
    for answer in answers:
        session.screen.fields([*answer.data.items(), ("etag", answer.etag)])
        session.screen.line()
    return EXIT_OK


def run_add(args: argparse.Namespace) -> int:
    body = {"name": args.name, "kind": args.kind, **fields(args)}
    if args.disabled:
        body["enabled"] = False
    session = open_session(args)
    answer = session.client.create(
        "/clouds", body, dry_run=1 if args.dry_run else None, verify=0 if args.no_verify else None
    )
    if args.as_json:
        session.screen.json(answer)
        return EXIT_OK
    _show_checks(session, answer)
    session.screen.line(f"{args.name}: {'would be added (dry run)' if args.dry_run else 'added'}")
    return EXIT_OK


def run_set(args: argparse.Namespace) -> int:
    body = fields(args)
    if not body:
        return fail(
            "nothing to change: name at least one field (see cloudsched clouds set --help)", EXIT_USAGE
        )
    session = open_session(args)
    for merged in ("options",):
        if merged in body:
            body[merged] = {**(session.client.get(cloud_path(args.name)).get(merged) or {}), **body[merged]}
    answer = session.client.patch(cloud_path(args.name), body, if_match=args.if_match)
    if args.as_json:
        session.screen.json(answer)
    else:
        _show_checks(session, answer)
        session.screen.line(f"{args.name}: changed {', '.join(sorted(body))}")
    return EXIT_OK


def run_remove(args: argparse.Namespace) -> int:
    session = open_session(args)
    return for_each(args.names, lambda name: _remove(session, name, args))


def run_enable(args: argparse.Namespace) -> int:
    session = open_session(args)
    return for_each(
        args.names,
        lambda name: _done(session, name, "enabled", session.client.post(f"{cloud_path(name)}/enable")),
    )


def run_disable(args: argparse.Namespace) -> int:
    session = open_session(args)
    return for_each(
        args.names,
        lambda name: _done(session, name, "disabled", session.client.post(f"{cloud_path(name)}/disable")),
    )


def run_verify(args: argparse.Namespace) -> int:
    session = open_session(args)
    return for_each(args.names, lambda name: _verify(session, name))


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The cloud's fields named by options, as the API calls them."""
    names = (
        "title", "address", "max_node_memory_mb", "slots",
        "memory_mb",
        "storage_gb",
        "cores",
        "networks",
        "priority",
        "keep_alive_s",
        "boot_timeout_s",
    )
    body = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if args.option:
        body["options"] = {key: _literal(value) for key, value in args.option}
    secrets = _credentials(args)
    return {**body, "credentials": secrets} if secrets else body


def cloud_path(name: str) -> str:
    """The path of a cloud by name."""
    from cloudsched.client.http import segment

    return f"/clouds/{segment(name)}"


def cloud_row(cloud: dict[str, Any]) -> list[str]:
    """A cloud as the cells of COLUMNS; `-1` of the API (no limit) is an empty cell."""
    storage = cloud.get("storage_gb")
    return [
        str(cloud["name"]), str(cloud.get("kind", "")), "enabled" if cloud.get("enabled") else "disabled",
        str(cloud.get("priority", "")), _limit(cloud.get("slots")), _limit(cloud.get("cores")),
        show_mb(cloud["memory_mb"]) if _limit(cloud.get("memory_mb")) else "",
        f"{storage}G" if _limit(storage) else "", _nodes(cloud),
        str(cloud.get("error_text") or cloud.get("error") or ""),
    ]  # fmt: skip


def show_checks(session: Session, checks: list[dict[str, Any]]) -> bool:
    """A line per check; True when all are good."""
    rows = [
        [str(one.get("name", "")), "ok" if one.get("ok") else "refused", str(one.get("detail") or "")]
        for one in checks
    ]
    session.screen.table(CHECKS, rows, none="no checks for this kind")
    return all(one.get("ok") for one in checks)


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="names of clouds")


def _add_fields(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--title", metavar="TEXT", help="a name for people")
    parser.add_argument("--address", metavar="ADDRESS", help="where the place is reached")
    parser.add_argument("--slots", type=whole, metavar="N", help="at most N nodes")
    parser.add_argument(
        "--cores", type=_or_none(whole), metavar="N", help="cores of all nodes together (none: no limit)"
    )
    parser.add_argument(
        "--node-memory", dest="max_node_memory_mb", type=_or_none(memory_mb), metavar="SIZE", help="largest memory of a node"
    )
    parser.add_argument(
        "--memory", dest="memory_mb", type=_or_none(memory_mb), metavar="SIZE", help="memory of all nodes together"
    )
    parser.add_argument(
        "--storage", dest="storage_gb", type=_or_none(storage_gb), metavar="SIZE", help="storage of all together"
    )
    parser.add_argument(
        "--network", dest="networks", action="append", metavar="NAME", help="a network; repeatable"
    )
    parser.add_argument("--priority", type=signed, metavar="N", help="which cloud is tried first")
    parser.add_argument(
        "--keep-alive", dest="keep_alive_s", type=duration_s, metavar="TIME", help="idle nodes stay"
    )
    parser.add_argument(
        "--boot-timeout", dest="boot_timeout_s", type=duration_s, metavar="TIME", help="longest boot"
    )
    parser.add_argument(
        "--option", action="append", type=pair, metavar="K=V", help="an option of this kind; repeatable"
    )
    secret = parser.add_argument_group("credentials (never as an argument: others see those)")
    secret.add_argument(
        "--credential", action="append", metavar="K", help="asked for, or a line of standard input"
    )
    secret.add_argument(
        "--credential-env", action="append", type=pair, metavar="K=VARIABLE", help="from the environment"
    )
    secret.add_argument("--credential-file", action="append", type=pair, metavar="K=FILE", help="from a file")


def _or_none(read: Callable[[str], int]) -> Callable[[str], int]:
    """`none` lifts a limit; the API writes that as -1."""
    return lambda text: -1 if text.lower() in ("none", "-1") else read(text)


def _credentials(args: argparse.Namespace) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, variable in args.credential_env or []:
        if variable not in os.environ:
            raise argparse.ArgumentTypeError(
                f"--credential-env {key}={variable}: no such variable in the environment"
            )
        found[key] = os.environ[variable]
    for key, path in args.credential_file or []:
        found[key] = Path(path).read_text(encoding="utf-8").rstrip("\n")
    for key in args.credential or []:
        if "=" in key:
            raise argparse.ArgumentTypeError("--credential takes the name alone; the value is asked for")
        found[key] = _ask(key)
    return found


def _ask(key: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    from getpass import getpass

    return getpass(f"{key}: ")


def _literal(text: str) -> Any:
    """An option's value: JSON where it is JSON, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _limit(number: Any) -> str:
    return "" if number is None or number == -1 else str(number)


def _nodes(cloud: dict[str, Any]) -> str:
    nodes = cloud.get("nodes")
    return str(len(nodes)) if isinstance(nodes, list) else str("" if nodes is None else nodes)


def _show_checks(session: Session, answer: Any) -> None:
    checks = answer.get("checks") if isinstance(answer, dict) else None
    if checks:
        show_checks(session, checks)


def _verify(session: Session, name: str) -> int:
    answer = session.client.post(f"{cloud_path(name)}/verify")
    checks: list[dict[str, Any]] = answer.get("checks") or []
    good = all(one.get("ok") for one in checks)
    if session.screen.as_json:
        session.screen.json_line(answer)
    else:
        show_checks(session, checks)
    return EXIT_OK if good else fail(f"{name}: cannot be used as it is configured", EXIT_FAILED)


def _remove(session: Session, name: str, args: argparse.Namespace) -> int:
    """A cloud in use goes only by --force, or when somebody says so at a terminal."""
    cloud = session.client.get(cloud_path(name))
    nodes = int(cloud.get("nodes") or 0) + int(cloud.get("retiring") or 0)
    if not nodes:
        if not confirm(f"Remove {name}?", assume_yes=args.yes or args.force):
            return fail(f"{name}: not removed")
        return _done(session, name, "removed", session.client.delete(cloud_path(name)))
    jobs = sum(int(node.get("jobs") or 0) for node in session.client.items("/nodes", cloud=name, state=ALIVE))
    has = f"{_count(nodes, 'node')} with {_count(jobs, 'running job')}"
    if not args.force and (args.yes or not sys.stdin.isatty()):
        return fail(f"{name}: it has {has}; --force destroys them (the jobs go back to the queue)")
    if not confirm(f"Remove {name}, and destroy its {has}?", assume_yes=args.force):
        return fail(f"{name}: not removed")
    return _done(session, name, f"removed; being destroyed: {has}; the jobs go back to the queue",
                 session.client.delete(cloud_path(name)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _done(session: Session, name: str, verb: str, answer: Any) -> int:
    if session.screen.as_json:
        session.screen.json_line(answer if answer is not None else {"name": name})
    else:
        operation = answer.get("operation") if isinstance(answer, dict) else None
        session.screen.line(f"{name}: {verb}" + (f" (operation {operation})" if operation else ""))
    return EXIT_OK
