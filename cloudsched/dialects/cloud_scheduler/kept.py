"""Which answers may be shown again? Those that change with events alone, while none was written.

Everything that changes what a list shows writes an event, so one look at the newest event number (taken before
rendering) tells whether a kept text still holds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from cloudsched.services.pool import last_event

# Nothing larger is kept: a body of many megabytes is rare and would hold its memory for ever.
_LARGEST_BYTES = 16 * 1024 * 1024


class _Kept(NamedTuple):
    event: int
    until: float
    body: bytes


class Kept:
    """Rendered bodies of one process."""

    def __init__(self) -> None:
        self._bodies: dict[Hashable, _Kept] = {}
        self._lock = threading.Lock()

    def body(self, key: Hashable, render: Callable[[], str], *, for_s: float) -> bytes:
        """The body of `key`: the kept one while no event was written, for at most `for_s` seconds; else rendered."""
        event, now = last_event(), time.monotonic()
        kept = self._bodies.get(key)
        if kept is not None and kept.event == event and now < kept.until:
            return kept.body
        body = render().encode("utf-8", errors="replace")
        with self._lock:
            if len(body) <= _LARGEST_BYTES:
                self._bodies[key] = _Kept(event, now + for_s, body)
            else:
                self._bodies.pop(key, None)
        return body
