"""How is the database cared for? `cloudsched db`, on the machine (and as the user) of the instance."""

from __future__ import annotations

import argparse
import importlib
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_action, add_actions
from cloudsched.cli.problems import fail
from cloudsched.cli.screen import Screen
from cloudsched.cli.servers import add_instance, flags
from cloudsched.cli.session import confirm
from cloudsched.cli.table import STATE_COLOURS, Column

CHECKS = (Column("CHECK"), Column("RESULT", colours=STATE_COLOURS), Column("DETAIL"))


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    actions = add_actions(parser)
    for name, text in (
        ("migrate", "bring the tables to this version"),
        ("check", "is the database whole, and do its rows fit together?"),
        ("rebuild", "make counters and other derived rows again from the records"),
        ("rekey", "a new secret key, and every stored secret under it (with the server stopped)"),
    ):
        _add(actions, name, text)
    saved = _add(actions, "backup", "copy the database to FILE while it is used")
    saved.add_argument("file", metavar="FILE")
    restored = _add(actions, "restore", "put a backup in place of the database (with the server stopped)")
    restored.add_argument("file", metavar="FILE")
    restored.add_argument("--yes", "-y", action="store_true", help="do not ask")


def run_db(args: argparse.Namespace) -> int:
    from cloudsched import settings

    loaded = settings.load(flags(args))
    admin = importlib.import_module("cloudsched.store.admin")
    screen = Screen(as_json=args.as_json)
    if args.action == "check":
        return show_checks(screen, admin.check(loaded))
    if args.action == "restore" and not confirm("Replace the database?", assume_yes=args.yes):
        return fail("nothing was changed")
    given = [args.file] if args.action in ("backup", "restore") else []
    answer = getattr(admin, args.action)(loaded, *given)
    return _tell(screen, args.action, answer)


def show_checks(screen: Screen, checks: Any) -> int:
    """(name, ok, detail) a line; the exit status is bad when one is not ok."""
    checks = [tuple(one) for one in checks]
    if screen.as_json:
        screen.json([{"name": name, "ok": bool(ok), "detail": detail} for name, ok, detail in checks])
    else:
        screen.table(
            CHECKS, [[str(name), "ok" if ok else "refused", str(detail or "")] for name, ok, detail in checks]
        )
    return EXIT_OK if all(ok for _, ok, _ in checks) else EXIT_FAILED


def _add(actions: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser = add_action(actions, name, run_db, text, client=False)
    add_instance(parser)
    parser.add_argument(
        "--json", action="store_true", dest="as_json", default=argparse.SUPPRESS, help="answer in JSON"
    )
    return parser


def _tell(screen: Screen, action: str, answer: Any) -> int:
    if screen.as_json:
        screen.json({"action": action, "done": True, "detail": answer if _plain(answer) else str(answer)})
    else:
        screen.line(f"{action}: done" + (f" ({answer})" if answer not in (None, "", []) else ""))
    return EXIT_OK


def _plain(answer: Any) -> bool:
    return answer is None or isinstance(answer, (str, int, float, bool, list, dict))
