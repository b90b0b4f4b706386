"""What time is it, and what is a new id? The one door to both, so that tests can step them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Epoch seconds, and a pause that a stop can interrupt."""

    def now(self) -> float: ...

    def wait(self, stop: threading.Event, seconds: float) -> bool: ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Sleep up to `seconds`; True when `stop` was set meanwhile."""
        return stop.wait(seconds)


class ManualClock:
    """A clock that only moves when told to."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self._now += seconds
        return stop.is_set()


system = SystemClock()
now: Callable[[], float] = time.time


def rfc3339(epoch_s: float | None) -> str | None:
    """Epoch seconds as RFC 3339 UTC with milliseconds; None stays None."""
    if epoch_s is None:
        return None
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_token(n_bytes: int = 24) -> str:
    """A random URL-safe secret."""
    return secrets.token_urlsafe(n_bytes)


def new_suffix(n_chars: int = 8) -> str:
    """A short random lower-case suffix for names."""
    return secrets.token_hex((n_chars + 1) // 2)[:n_chars]
