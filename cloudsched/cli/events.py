"""What happened, and what happens now? `cloudsched events`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from cloudsched.cli.commands import EXIT_OK, add_common
from cloudsched.cli.screen import Screen
from cloudsched.cli.session import Session, open_session
from cloudsched.cli.table import Column
from cloudsched.cli.values import positive, show_time, whole

COLUMNS = (
    Column("SEQ", right=True),
    Column("TIME"),
    Column("KIND"),
    Column("SUBJECT"),
    Column("BY"),
    Column("FACTS"),
)


def configure(parser: argparse.ArgumentParser, _: str) -> None:
    parser.set_defaults(run=run_events)
    parser.add_argument(
        "--follow", "-f", action="store_true", help="go on with what happens now, until Ctrl-C"
    )
    parser.add_argument(
        "--since", type=whole, metavar="SEQ", help="after this sequence number (0: from the oldest)"
    )
    parser.add_argument(
        "--limit", type=positive, default=50, metavar="N", help="the newest N; with --since: the first N"
    )
    parser.add_argument("--kind", metavar="KIND", help="events of this kind")
    parser.add_argument(
        "--subject", metavar="NOUN[:ID]", help="about job, node, cloud ...; or one: job:12, node:3"
    )
    add_common(parser)


def run_events(args: argparse.Namespace) -> int:
    session = open_session(args)
    filters = _filters(args)
    if args.follow:
        return _follow(session, args.since, filters)
    found = _found(session, args.since, args.limit, filters)
    if args.as_json:
        session.screen.json(found)
    else:
        session.screen.table(COLUMNS, [event_row(one) for one in found], none="no such events")
    return EXIT_OK


def event_row(event: dict[str, Any]) -> list[str]:
    """An event as the cells of COLUMNS."""
    return [
        str(event.get("id", event.get("sequence", ""))), show_time(event.get("at")), str(event.get("kind", "")),
        subject(event), str(event.get("actor") or ""), facts(event.get("data")),
    ]  # fmt: skip


def subject(event: dict[str, Any]) -> str:
    """`job 12`"""
    found = event.get("subject")
    if found is None:
        found = f"{event.get('subject_kind') or ''} {event.get('subject_id') or ''}"
    return str(found).strip()


def facts(data: Any) -> str:
    """`state=running node=vm-3` from the data of an event."""
    if not isinstance(data, dict):
        return "" if data is None else str(data)
    return " ".join(f"{key}={_fact(value)}" for key, value in data.items() if value not in (None, "", [], {}))


def _filters(args: argparse.Namespace) -> dict[str, Any]:
    kind, sign, number = (args.subject or "").partition(":")
    if sign and not number.isdigit():
        raise argparse.ArgumentTypeError(
            f"--subject {args.subject}: no number (allowed: job, node, job:12, node:3)"
        )
    return {"kind": args.kind, "subject_kind": kind or None, "subject_id": number or None}


def _found(session: Session, since: int | None, limit: int, filters: dict[str, Any]) -> list[dict[str, Any]]:
    """The first `limit` after `since`, or the newest ones."""
    if since is not None:
        return list(session.client.items("/events", limit=limit, since=since, **filters))
    last, span = _last(session, filters), limit
    while True:
        found = list(session.client.items("/events", since=max(0, last - span), **filters))
        if len(found) >= limit or span >= last:
            return found[-limit:]
        span *= 8


def _last(session: Session, filters: dict[str, Any]) -> int:
    """The newest matching sequence number. The list goes forward alone, so it is found by halving: there may be
    millions of events, and "is there one after N" is cheap."""

    def any_after(number: int) -> bool:
        return bool(session.client.get("/events", since=number, limit=1, **filters)["items"])

    low, high = 0, 1
    while any_after(high):
        low, high = high, high * 16
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if any_after(middle) else (low, middle)
    return low


def _follow(session: Session, since: int | None, filters: dict[str, Any]) -> int:
    try:
        for event in session.client.events(since, **filters):
            _show(session.screen, event.id, event.kind, event.data)
    except KeyboardInterrupt:
        pass  # the normal end of following
    return EXIT_OK


def _show(screen: Screen, sequence: str | None, kind: str, data: Any) -> None:
    event = dict(data) if isinstance(data, dict) else {"data": data}
    event.setdefault("id", int(sequence) if sequence and sequence.isdigit() else sequence)
    event.setdefault("kind", kind)
    if screen.as_json:
        screen.json_line(event)
        return
    if kind == "gap":
        screen.line(screen.paint(f"(events are missing here: {facts(event.get('data') or data)})", "yellow"))
        return
    row = event_row(event)
    if not screen.terminal:
        screen.line("\t".join(cell or "-" for cell in row))
        return
    head = f"{row[0]:>7}  {row[1]}  "
    screen.line(screen.paint(head, "dim") + f"{row[2]:<22}  {row[3]:<12}  {row[5]}")


def _fact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
