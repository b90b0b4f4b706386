"""How is an error said to a person, and with which exit status does the command end?"""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from cloudsched.cli.commands import EXIT_AWAY, EXIT_FAILED, EXIT_NOT_ALLOWED, EXIT_NOT_FOUND, EXIT_USAGE

if TYPE_CHECKING:
    from cloudsched.client import ApiError, ServerAway


def fail(message: str, code: int = EXIT_FAILED) -> int:
    """Say what is wrong on standard error; returns the exit status to end with."""
    print(f"cloudsched: {message}", file=sys.stderr)
    return code


def fail_with(error: Exception, args: argparse.Namespace) -> int | None:
    """Say an error that a user can do something about; None when it is not one of those (a bug of ours)."""
    from cloudsched import client
    from cloudsched.errors import CloudschedError, Invalid

    if isinstance(error, argparse.ArgumentTypeError):
        return fail(str(error), EXIT_USAGE)
    if isinstance(error, client.ServerAway):
        return fail(_away(error, args), EXIT_AWAY)
    if isinstance(error, client.ApiError):
        return fail(refusal(error), refusal_status(error))
    if isinstance(error, client.ClientError):
        return fail(str(error), EXIT_USAGE)
    if isinstance(error, Invalid):
        return fail(_invalid(error), EXIT_USAGE)
    if isinstance(error, CloudschedError):
        return fail(error.message)
    if isinstance(error, OSError):
        named = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        return fail(named + (error.strerror or str(error) or type(error).__name__))
    return None


def refusal(error: ApiError) -> str:
    """What the server said, with each bad field and what is allowed there."""
    lines = [error.title + (f": {error.detail}" if error.detail and error.detail != error.title else "")]
    lines += [text for text in map(_field, error.errors) if text not in lines[0]]
    if error.status == 401:
        lines.append("a key is needed: --key-file FILE, CLOUDSCHED_KEY, or the instance's own (--state DIR)")
    return "\n  ".join(lines)


def refusal_status(error: ApiError) -> int:
    from cloudsched import client

    if isinstance(error, client.NotFoundError):
        return EXIT_NOT_FOUND
    return EXIT_NOT_ALLOWED if isinstance(error, client.NotAllowedError) else EXIT_FAILED


def _away(error: ServerAway, args: argparse.Namespace) -> str:
    """Which address was tried, why that one, and how a server is started."""
    from cloudsched.client.where import find_server, state_dir

    state = getattr(args, "state", None)
    origin = find_server(getattr(args, "server", None), state).origin
    start = "cloudsched up" + (
        f" --state {state_dir(state)}" if state or os.environ.get("CLOUDSCHED_STATE") else ""
    )
    return (
        f"no answer from {error.url} ({error.reason}); the address is from {origin}\n"
        f"  start a server with: {start}\n"
        "  or name another one: --server URL, CLOUDSCHED_SERVER_URL"
    )


def _invalid(error: object) -> str:
    message, errors = getattr(error, "message", ""), getattr(error, "errors", ())
    fields = [_field({"field": one.field, "message": one.message, "allowed": one.allowed}) for one in errors]
    return "\n  ".join([message, *(text for text in fields if text != message)])


def _field(error: dict[str, object]) -> str:
    allowed = f" (allowed: {error['allowed']})" if error.get("allowed") else ""
    return f"{error.get('field')}: {error.get('message')}{allowed}"
