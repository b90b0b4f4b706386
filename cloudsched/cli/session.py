"""What does a client command start with? The client and the screen that its arguments ask for."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudsched.cli.commands import EXIT_OK
from cloudsched.cli.screen import Screen, watch
from cloudsched.cli.table import Column

if TYPE_CHECKING:
    from cloudsched.client import Client, ServerAway


class Session(NamedTuple):
    """One command's client and screen."""

    client: Client
    screen: Screen


class Listing(NamedTuple):
    """A list as a table: its columns, a row of texts per item, and what is said when there is none."""

    columns: tuple[Column, ...]
    row: Callable[[dict[str, Any]], list[str]]
    none: str


def open_session(args: argparse.Namespace) -> Session:
    """The client is closed when the command ends.

    ClientError: the address or key file named in the arguments or environment cannot be used.
    """
    from cloudsched.client import locate

    client = locate(args.server, state=args.state, key_file=args.key_file)
    client.on_away = lambda error: _tell_away(error, client.follow_patience_s)
    args.closing.callback(client.close)
    return Session(client, Screen(as_json=args.as_json))


def _tell_away(error: ServerAway, patience_s: float) -> None:
    from cloudsched.cli.problems import fail
    from cloudsched.cli.values import show_duration

    fail(f"{error}; trying again for {show_duration(patience_s)}")


def show_list(
    args: argparse.Namespace,
    session: Session,
    listing: Listing,
    *,
    fetch: Callable[[], Iterable[dict[str, Any]]],
) -> int:
    """A list as table, tab-separated text or one JSON array; with --watch again and again."""

    def draw(screen: Screen) -> None:
        items = list(fetch())
        if screen.as_json:
            (screen.json_line if getattr(args, "watch", None) else screen.json)(items)
            return
        lines = screen.table_lines(listing.columns, [listing.row(item) for item in items], none=listing.none)
        if screen.terminal and getattr(args, "watch", None):
            lines.insert(0, screen.paint(f"{time.strftime('%H:%M:%S')}  {session.client.base_url}", "dim"))
        for line in lines:
            screen.line(line)

    if getattr(args, "watch", None):
        return watch(session.screen, args.watch, draw)
    draw(session.screen)
    return EXIT_OK


def for_each(ids: Iterable[Any], act: Callable[[Any], int]) -> int:
    """`act` on every id, also when one is refused; the first bad exit status is the command's."""
    from cloudsched.cli.problems import fail, refusal, refusal_status
    from cloudsched.client import ApiError

    worst = EXIT_OK
    for one in ids:
        try:
            status = act(one)
        except ApiError as error:
            status = fail(f"{one}: {refusal(error)}", refusal_status(error))
        worst = worst or status
    return worst


def show_each(args: argparse.Namespace, session: Session, path_of: Callable[[str], str],
              show: Callable[[Session, Any], int]) -> int:
    """Everything about each of `args.ids`: as JSON one object, or an array of several, when all are there; else `show`n one by
    one."""
    if args.as_json:
        found = [session.client.get(path_of(one)) for one in args.ids]
        session.screen.json(found if len(found) > 1 else found[0])
        return EXIT_OK
    return for_each(args.ids, lambda one: show(session, session.client.get(path_of(one))))


def add_watch(parser: argparse.ArgumentParser) -> None:
    from cloudsched.cli.values import duration_s

    parser.add_argument(
        "--watch",
        nargs="?",
        const=2,
        type=duration_s,
        metavar="S",
        help="draw again every S seconds (default 2)",
    )


def confirm(question: str, *, assume_yes: bool) -> bool:
    """Ask in a terminal; in a script the command itself is the yes."""
    if assume_yes or not sys.stdin.isatty():
        return True
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
