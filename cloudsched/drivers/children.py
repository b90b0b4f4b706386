"""Which processes of this machine did this very process start? They are zombies until it asks for their status."""

from __future__ import annotations

import os

_own: set[int] = set()


def started(pid: int) -> None:
    """Remember a child that nobody waits for."""
    _own.add(pid)


def reap() -> None:
    """Let children that have ended go."""
    for pid in list(_own):
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                _own.discard(pid)
        except ChildProcessError:
            _own.discard(pid)
