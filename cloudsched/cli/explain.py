"""Why is it so, and how did it come? `cloudsched why` and `cloudsched trace`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from cloudsched.cli.commands import EXIT_OK, add_common
from cloudsched.cli.events import facts
from cloudsched.cli.jobs import node_name
from cloudsched.cli.screen import Screen
from cloudsched.cli.session import open_session
from cloudsched.cli.table import STATE_COLOURS, Column
from cloudsched.cli.values import epoch_s, show_clock, show_duration, show_time

REASONS = (
    Column("WHERE"),
    Column("RULE"),
    Column("REASON"),
    Column("HAS", right=True),
    Column("NEEDS", right=True),
)
ATTEMPTS = (
    Column("ATTEMPT", right=True),
    Column("NODE"),
    Column("STATE", colours=STATE_COLOURS),
    Column("EXIT", right=True),
    Column("WAITED", right=True),
    Column("RAN", right=True),
    Column("REASON"),
)
JOBS = (
    Column("JOB", right=True),
    Column("STATE", colours=STATE_COLOURS),
    Column("ATTEMPT", right=True),
    Column("RAN", right=True),
)
BOOTS = (Column("TIME"), Column("CLOUD"), Column("CODE", right=True), Column("FAILED BOOT"))
NODES = (Column("NODE"), Column("CLOUD"), Column("STATE", colours=STATE_COLOURS), Column("SIZE"))


def configure(parser: argparse.ArgumentParser, name: str) -> None:
    parser.set_defaults(run=run_why if name == "why" else run_trace)
    parser.add_argument(
        "id", metavar="JOB|NODE", help="number or key of a job; name of a node, or node:NUMBER"
    )
    add_common(parser)


def run_why(args: argparse.Namespace) -> int:
    from cloudsched.client.http import segment

    session = open_session(args)
    noun, name = subject_of(args.id)
    answer = session.client.get(f"/why/{noun}/{segment(name)}")
    if args.as_json:
        session.screen.json(answer)
    else:
        show_why(session.screen, answer)
    return EXIT_OK


def run_trace(args: argparse.Namespace) -> int:
    from cloudsched.client.http import segment

    session = open_session(args)
    noun, name = subject_of(args.id)
    answer = session.client.get(f"/trace/{segment(name if noun == 'job' else f'node:{name}')}")
    if args.as_json:
        session.screen.json(answer)
    else:
        show_trace(session.screen, answer)
    return EXIT_OK


def subject_of(text: str) -> tuple[str, str]:
    """(`job` or `node`, its number, key or name): numbers and keys with # are jobs, other names nodes."""
    noun, sign, rest = text.partition(":")
    if sign and noun in ("job", "node") and rest:
        return noun, rest
    return ("job", text) if text.isdigit() or "#" in text else ("node", text)


def show_why(screen: Screen, answer: dict[str, Any]) -> None:
    """The verdict, then a line per reason, those of one place together."""
    screen.line(screen.paint(f"{_subject(answer.get('subject'))}: {answer['verdict']}", "bold"))
    reasons = answer.get("reasons") or []
    if not reasons:
        return
    screen.line()
    rows = []
    for one in sorted(reasons, key=_place):  # stable: the server's order within a place
        rows.append([_place(one) or "everywhere", str(one.get("rule", "")), str(one.get("text", "")),
                     _amount(one.get("have")), _amount(one.get("need"))])  # fmt: skip
    if screen.terminal:
        _name_once(rows)
    screen.table(REASONS, rows)


def show_trace(screen: Screen, answer: dict[str, Any]) -> None:
    """Everything in order, with the time since the step before; then attempts, nodes and the like as tables."""
    screen.line(screen.paint(_subject(answer.get("subject")), "bold"))
    for text in _steps(screen, answer.get("events") or []):
        screen.line(text)
    for name, columns, row in _PARTS:
        rows = [row(one) for one in answer.get(name) or []]
        if rows:
            screen.line()
            screen.table(columns, rows)


def _steps(screen: Screen, events: list[dict[str, Any]]) -> Iterator[str]:
    before: float | None = None
    kinds = max((len(str(one.get("kind", ""))) for one in events), default=0)
    for one in events:
        now = epoch_s(one.get("at"))
        passed = "+" + show_duration(now - before) if now is not None and before is not None else ""
        before = now if now is not None else before
        about = f"{one.get('subject_kind') or ''} {one.get('subject_id') or ''}".strip()
        if screen.terminal:
            time = screen.paint(f"{show_clock(one.get('at')):12} {passed:>8}", "dim")
            yield f"{time}  {one.get('kind', '')!s:<{kinds}}  {about:<10}  {facts(one.get('data'))}".rstrip()
        else:
            cells = [one.get("at"), passed, one.get("kind"), about, facts(one.get("data"))]
            yield "\t".join(str(cell or "-") for cell in cells)


def _attempt_row(one: dict[str, Any]) -> list[str]:
    number = one.get("attempt", one.get("number", ""))
    code = one.get("exit_code")
    return [
        str(number), node_name(one.get("node")), str(one.get("state") or ""), "" if code is None else str(code),
        show_duration(one.get("waited_s")), show_duration(one.get("ran_s")), str(one.get("reason") or ""),
    ]  # fmt: skip


def _node_row(one: Any) -> list[str]:
    if not isinstance(one, dict):
        return [str(one), "", "", ""]
    size = f"{one['cores']} cores, {one.get('memory_mb', '?')} MB" if one.get("cores") else ""
    return [node_name(one), str(one.get("cloud") or ""), str(one.get("state") or ""), size]


def _job_row(one: dict[str, Any]) -> list[str]:
    return [str(one["id"]), str(one.get("state") or ""), str(one.get("attempt", "")), show_duration(one.get("ran_s"))]


def _boot_row(one: dict[str, Any]) -> list[str]:
    return [show_time(one.get("at")), str(one.get("cloud") or ""), _amount(one.get("code")), str(one.get("text") or "")]


_PARTS: tuple[tuple[str, tuple[Column, ...], Callable[[Any], list[str]]], ...] = (
    ("attempts", ATTEMPTS, _attempt_row),
    ("nodes", NODES, _node_row),
    ("jobs", JOBS, _job_row),
    ("boot_failures", BOOTS, _boot_row),
)


def _subject(subject: Any) -> str:
    """`job 12 (running)`, from {"kind", "id", "name", "state"} or a text."""
    if not isinstance(subject, dict):
        return str(subject or "")
    kind = subject.get("kind") or "job"
    name = subject.get("id") if kind == "job" else subject.get("name")
    state = f" ({subject['state']})" if subject.get("state") else ""
    return f"{kind} {name}{state}"


def _place(reason: dict[str, Any]) -> str:
    return str(reason.get("node") or reason.get("cloud") or "")


def _amount(value: Any) -> str:
    return "" if value is None else str(value)


def _name_once(rows: list[list[str]]) -> None:
    """A place's name on its first line alone."""
    last = None
    for row in rows:
        if row[0] == last:
            row[0] = ""
        else:
            last = row[0]
