"""How is something done on many hosts at once, with an answer for each, and none waiting for one that hangs?"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh.targets import Target

log = logging.getLogger(__name__)
PARALLEL = 16
_KINDS = {base.AUTH: "auth", base.ENDPOINT: "unreachable", base.REQUEST: "request", base.QUOTA: "quota", base.DENIED: "denied"}


@dataclass(frozen=True)
class HostResult:
    """What became of one host. `error` is '' or `auth`, `unreachable`, `timeout`, `request`, `quota`, `denied`, `other`."""

    host: str
    value: Any = None
    error: str = ""
    message: str = ""
    transient: bool = False
    seconds: float = 0.0
    failure: DriverError | None = None

    @property
    def ok(self) -> bool:
        return not self.error


class GaveUp(DriverError):
    """The host took too long; what it did of the work is not known."""


def on_all(targets: Sequence[Target], work: Callable[[Target], Any], *, parallel: int = PARALLEL,
           timeout_s: float) -> list[HostResult]:
    """`work(target)` for each, `parallel` at a time; results in the order of `targets`, never raises for a host.

    A host that takes longer than `timeout_s` from its own start is given up (`timeout`): its thread is left behind, and
    another takes its place. So the whole takes at most `timeout_s` for every `parallel` hosts.
    """
    return _Round(targets, work, timeout_s).results(min(max(1, parallel), len(targets)))


class _Round:
    """One call of `on_all`; results of threads that were given up are not looked at any more."""

    def __init__(self, targets: Sequence[Target], work: Callable[[Target], Any], timeout_s: float) -> None:
        self._targets, self._work, self._timeout_s = targets, work, timeout_s
        self._waiting = list(reversed(range(len(targets))))
        self._running: dict[int, float] = {}
        self._done: queue.Queue[tuple[int, HostResult]] = queue.Queue()

    def results(self, parallel: int) -> list[HostResult]:
        found: dict[int, HostResult] = {}
        while len(found) < len(self._targets):
            while self._waiting and len(self._running) < parallel:
                self._start(self._waiting.pop())
            try:
                number, result = self._done.get(timeout=max(0.0, min(self._running.values()) - time.monotonic()))
            except queue.Empty:
                self._give_up(found)
                continue
            if self._running.pop(number, None) is not None:
                found[number] = result
        return [found[number] for number in range(len(self._targets))]

    def _start(self, number: int) -> None:
        self._running[number] = time.monotonic() + self._timeout_s
        threading.Thread(target=self._one, args=(number,), daemon=True, name=f"ssh-{self._targets[number].label}").start()

    def _one(self, number: int) -> None:
        target, began = self._targets[number], time.monotonic()
        try:
            result = HostResult(target.label, self._work(target), seconds=time.monotonic() - began)
        except DriverError as error:
            kind = "timeout" if getattr(error, "timed_out", False) else _KINDS.get(error.code, "other")
            result = HostResult(target.label, None, kind, error.message, error.transient, time.monotonic() - began, error)
        except Exception as error:
            log.exception("%s", target.label)
            result = HostResult(target.label, None, "other", type(error).__name__, False, time.monotonic() - began)
        self._done.put((number, result))

    def _give_up(self, found: dict[int, HostResult]) -> None:
        now = time.monotonic()
        for number in [one for one, until in self._running.items() if until <= now]:
            del self._running[number]
            label = self._targets[number].label
            message = f"{label}: no answer within {self._timeout_s:g} s"
            error = GaveUp(message, code=base.ENDPOINT, transient=True)
            found[number] = HostResult(label, None, "timeout", message, True, self._timeout_s, error)
