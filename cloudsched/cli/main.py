"""What happens between a typed line and its exit status? Reading, running, and saying errors in words."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from cloudsched.cli.commands import EXIT_OK, build_parser, command_in

EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status (table in `cloudsched --help`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _silence()
        return EXIT_OK


def _run(words: list[str]) -> int:
    name = command_in(words)
    if name in ("agent", "logagent", "simulate"):
        from cloudsched.cli.servers import (
            run_agent,
        )  # its options are its own: it also runs without this program

        return run_agent(name, words[words.index(name) + 1 :])
    parser = build_parser(name or "")
    words, command = _cut(words) if name == "submit" else (words, None)
    try:
        args = parser.parse_args(words)
    except SystemExit as stop:
        return int(stop.code or 0)
    if not args.command:
        parser.print_help()
        return EXIT_OK
    if command is not None:
        args.job_command = command
    if getattr(args, "no_color", False):
        os.environ["NO_COLOR"] = "1"
    return _guarded(args)


def _guarded(args: argparse.Namespace) -> int:
    try:
        with ExitStack() as args.closing:
            status: int = args.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        raise
    except Exception as error:
        from cloudsched.cli.problems import fail_with

        said = fail_with(error, args)
        if said is None:
            raise
        return said


def _cut(words: list[str]) -> tuple[list[str], list[str] | None]:
    """What stands before and behind `--`; None behind when there is none."""
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _silence() -> None:
    """The reader has left: let the interpreter's last flush go nowhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
