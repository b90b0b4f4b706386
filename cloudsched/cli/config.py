"""How is this instance set up, and is that sound? `cloudsched config show`, `config check` and `check`."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.screen import Screen
from cloudsched.cli.servers import add_instance, flags
from cloudsched.cli.table import Column

FINDINGS = (
    Column("RESULT", colours={"ok": "green", "warning": "yellow", "error": "red"}),
    Column("SETTING"),
    Column("FINDING"),
)


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    if name == "check":
        parser.set_defaults(run=run_check)
        _add_options(parser)
        return
    actions = add_actions(parser)
    shown = add_action(actions, "show", run_show, "every setting with its value", client=False)
    shown.add_argument("keys", nargs="*", metavar="KEY", help="only these: section.key, or a section")
    shown.add_argument("--origin", action="store_true", help="and where each value comes from")
    _add_options(shown)
    _add_options(
        add_action(actions, "check", run_check, "can an instance start with these settings?", client=False)
    )


def run_show(args: argparse.Namespace) -> int:
    from cloudsched import settings

    rows = settings.load(flags(args)).show(args.origin)
    known = {row.key for row in rows}
    wanted = [row for row in rows if not args.keys or any(_names(key, row.key) for key in args.keys)]
    for key in args.keys:
        if not any(_names(key, one) for one in known):
            sections = ", ".join(sorted({one.partition(".")[0] for one in known}))
            return fail(f"{key}: no such setting (allowed: section.key, or a section of: {sections})")
    screen = Screen(as_json=args.as_json)
    if args.as_json:
        screen.json([_row(row, args.origin) for row in wanted])
        return EXIT_OK
    columns = (Column("SETTING"), Column("VALUE"), *([Column("ORIGIN")] if args.origin else []))
    cells = [[row.key, row.value, row.origin] if args.origin else [row.key, row.value] for row in wanted]
    screen.table(columns, cells)
    return EXIT_OK


def run_check(args: argparse.Namespace) -> int:
    """A running server holds its ports itself, so they are looked at only when none answers."""
    from cloudsched import settings

    loaded = settings.load(flags(args))
    findings = settings.check(loaded, ports=not _answers(loaded))
    away = "" if loaded.database.is_sqlite else _database_problem(loaded)
    if away:
        findings = [one._replace(level="error", text=away) if one.key == "database.url" else one for one in findings]
    screen = Screen(as_json=args.as_json)
    if args.as_json:
        screen.json([one._asdict() for one in findings])
    else:
        screen.table(FINDINGS, [[one.level, one.key, one.text] for one in findings])
    return EXIT_FAILED if any(one.level == "error" for one in findings) else EXIT_OK


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_instance(parser)
    parser.add_argument(
        "--json", action="store_true", dest="as_json", default=argparse.SUPPRESS, help="answer in JSON"
    )


def _names(wanted: str, key: str) -> bool:
    return key == wanted or key.startswith(wanted + ".")


def _row(row: Any, origin: bool) -> dict[str, str]:
    return {"key": row.key, "value": row.value, **({"origin": row.origin} if origin else {})}


def _database_problem(loaded: Any) -> str:
    """Why the database cannot be used; empty when it can."""
    from cloudsched.errors import CloudschedError

    try:
        importlib.import_module("cloudsched.store.admin").check(loaded)
    except CloudschedError as error:
        return f"{error}"
    return ""


def _answers(loaded: Any) -> bool:
    from cloudsched.client import ApiError, Client, ServerAway

    if not loaded.local_url:
        return False
    try:
        with Client(loaded.local_url, timeout_s=2.0, patience_s=0.0) as client:
            client.get("/")
    except ServerAway:
        return False
    except ApiError:
        return True
    return True
