"""Does anybody still listen? Long answers ask, so that a thread is not kept for a client that has gone."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

_HANG_UP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


def gone(environ: dict[str, Any]) -> Callable[[], bool]:
    """A look at the client's socket, where the server hands it out; else nobody is ever gone."""
    sock = environ.get("gunicorn.socket")
    if sock is None or not hasattr(select, "poll"):
        return lambda: False
    poll = select.poll()
    poll.register(sock.fileno(), _HANG_UP)
    return lambda: bool(poll.poll(0))
