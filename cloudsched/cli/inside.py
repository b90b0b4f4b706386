"""How is the server itself? `cloudsched operations`, `loops` and `version`."""

from __future__ import annotations

import argparse
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_OK, add_common
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Listing, add_watch, open_session, show_list
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import positive, show_duration, show_time, whole

OPERATIONS = (
    Column("ID", right=True),
    Column("KIND"),
    Column("STATE", colours=STATE_COLOURS),
    Column("SUBJECT"),
    Column("BY"),
    Column("STARTED"),
    Column("ENDED"),
    Column("ERROR"),
)
LOOPS = (
    Column("LOOP"),
    Column("LEADER"),
    Column("EVERY", right=True),
    Column("LAST RUN"),
    Column("TOOK", right=True),
    Column("ERROR"),
)


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    add_common(parser)
    if name == "version":
        parser.set_defaults(run=run_version)
        return
    add_watch(parser)
    if name == "loops":
        parser.set_defaults(run=run_loops)
        return
    parser.set_defaults(run=run_operations)
    parser.add_argument("id", nargs="?", type=whole, metavar="ID", help="one operation with its steps")
    parser.add_argument("--limit", type=positive, default=50, metavar="N", help="at most N (default 50)")


def run_operations(args: argparse.Namespace) -> int:
    session = open_session(args)
    if args.id is not None:
        found = session.client.get(f"/operations/{args.id}")
        if args.as_json:
            session.screen.json(found)
            return EXIT_OK
        session.screen.fields([(name, value) for name, value in found.items() if name != "steps"])
        for at, step in enumerate(found.get("steps") or [], 1):
            session.screen.line(f"  {at}. {_step(step)}")
        return EXIT_OK
    listing = Listing(OPERATIONS, operation_row, "no operations")
    return show_list(
        args, session, listing, fetch=lambda: session.client.items("/operations", limit=args.limit)
    )


def run_loops(args: argparse.Namespace) -> int:
    session = open_session(args)
    listing = Listing(LOOPS, loop_row, "no loops (is an engine running? cloudsched engine)")
    return show_list(args, session, listing, fetch=lambda: session.client.items("/loops"))


def run_version(args: argparse.Namespace) -> int:
    """Ours always; the server's when it answers."""
    from cloudsched import __version__
    from cloudsched.client import ApiError, ServerAway

    session = open_session(args)
    found: dict[str, Any] = {"client": __version__, "server": None, "server_url": session.client.base_url}
    try:
        answer = session.client.get("/")
        found["server"] = str(answer["version"])
    except (ServerAway, ApiError) as error:  # our own version is told all the same
        found["error"] = str(error)
    if args.as_json:
        session.screen.json(found)
        return EXIT_OK
    session.screen.line(f"cloudsched {__version__}")
    at = f"{found['server']} at {found['server_url']}" if found["server"] else f"unknown: {found['error']}"
    session.screen.line(f"server {at}")
    if found["server"] and found["server"] != __version__:
        return fail("client and server are of different versions", EXIT_FAILED)
    return EXIT_OK


def operation_row(one: dict[str, Any]) -> list[str]:
    """An operation as the cells of OPERATIONS."""
    about = f"{one.get('subject_kind') or ''} {one.get('subject_id') or ''}".strip()
    return [
        str(one["id"]), str(one.get("kind", "")), str(one.get("state", "")), about, str(one.get("actor") or ""),
        show_time(one.get("created_at")), show_time(one.get("ended_at")), str(one.get("error") or ""),
    ]  # fmt: skip


def loop_row(one: dict[str, Any]) -> list[str]:
    """A loop as the cells of LOOPS."""
    interval = one.get("interval_s", one.get("interval"))
    last = one.get("last_cycle_at", one.get("last_cycle"))
    error = one.get("last_error", one.get("error")) or ""
    return [
        str(one.get("name", "")), str(one.get("leader") or ""), show_duration(interval), show_time(last),
        show_duration(one.get("took_s")), str(error),
    ]  # fmt: skip


def _step(step: Any) -> str:
    if not isinstance(step, dict):
        return str(step)
    return "  ".join(
        show_time(value) if name == "at" else str(value) for name, value in step.items() if value
    )
