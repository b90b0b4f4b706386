"""How many calls may take minutes at once? As many as leave threads for everybody else.

Shutdowns, retirements and proxy renewals answer only when the work is done, and hold a thread of the process until
then. All listeners share these threads: without a bound a script that shuts hundreds of VMs down side by side would
silence the info port and the agents (contract 0.7).
"""

from __future__ import annotations

import threading
from typing import Any

from cloudsched.dialects.cloud_scheduler.calls import Answer, Text
from cloudsched.errors import Unavailable
from cloudsched.settings import Settings

# Threads that neither held requests of agents nor slow calls may take.
_SPARE = 4


class Busy(Unavailable):
    """Too many slow calls are under way."""


class Gate:
    """Lets `most` calls through at a time; the others are refused before they have done anything."""

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def slow(self, answer: Answer) -> Answer:
        """`answer` behind the gate. It raises Busy (503, or a fault) when too many are under way."""
        def gated(*arguments: Any) -> Text:
            if not self._free.acquire(blocking=False):
                raise Busy("too many operations are under way: nothing was done, try again")
            try:
                return answer(*arguments)
            finally:
                self._free.release()

        return gated


def places(settings: Settings) -> int:
    """How many slow calls one process takes: a quarter of its threads, less what held requests of agents may need."""
    web = settings.web
    return max(1, min(web.threads // 4, web.threads - web.long_poll_waiting_max - _SPARE))
