"""Is there a machine at this address? A TCP probe: a refused connection is an answer too."""

from __future__ import annotations

import errno
import socket
import time

# The echo port: hardly anybody serves it, and a machine that is there refuses at once.
PORT = 7
_ANSWERS = (errno.ECONNREFUSED, errno.ECONNRESET)


def tcp_ms(address: str, *, timeout_s: float, port: int = PORT) -> float | None:
    """Milliseconds until the machine answered; None when it did not within `timeout_s`, or cannot be reached."""
    if not address:
        return None
    began = time.monotonic()
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            pass
    except OSError as error:
        if error.errno not in _ANSWERS:
            return None
    return (time.monotonic() - began) * 1000


def accepts(address: str, port: int, *, timeout_s: float) -> bool:
    """Does anybody take connections there?"""
    try:
        with socket.create_connection((address, port), timeout=timeout_s):
            return True
    except OSError:
        return False
