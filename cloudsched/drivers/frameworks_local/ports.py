"""Which port of this machine is free, and likely to stay so until a slow process takes it?

Ports that the kernel gives to outgoing connections could be gone by then; these are from below them.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Container, Iterable

LOW, HIGH = 20000, 29999
TRIES = 2000


def free(taken: Container[int] = ()) -> int:
    """A port that nothing listens on, none of `taken`."""
    for _ in range(TRIES):
        port = random.randint(LOW, HIGH)  # noqa: S311
        if port not in taken and is_free(port):
            return port
    raise OSError(98, f"no port between {LOW} and {HIGH} is free", "127.0.0.1")


def come_free(wanted: Iterable[int], *, within_s: float = 2.0) -> bool:
    """Are all of them free? Threads of a process that was killed hold its ports for a moment after it is seen dead."""
    deadline = time.monotonic() + within_s
    while not all(map(is_free, wanted)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def is_free(port: int) -> bool:
    """Could somebody listen there now?"""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
