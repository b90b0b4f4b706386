"""How does a loop run? Led by one process at a time, beating, never dying of an exception, stepped by hand in tests."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cloudsched import clock
from cloudsched.errors import Unavailable
from cloudsched.store import system
from cloudsched.store.db import Tx, current, write

log = logging.getLogger(__name__)
# A loop with a shorter pause (the workers) beats no more often than this: each beat is a durable write.
BEAT_PAUSE_S = 1.0


class LostLead(Exception):
    """Another process leads this loop now: what was decided is dropped."""


@dataclass(frozen=True)
class Loop:
    """One thing that happens by itself. `led`: only the process that holds the loop's lease runs it."""

    name: str
    interval_s: float
    tick: Callable[[], object]
    led: bool = True


class Runner:
    """A thread per loop. `holder` names this process in leases; `presence`: a lease that says that it is alive."""

    def __init__(self, loops: list[Loop], *, holder: str, lease_s: float, presence: str = "") -> None:
        self.loops = loops
        self.holder = holder
        self.lease_s = lease_s
        self.presence = presence
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._renewed: dict[str, float] = {}  # lease -> when it was taken or renewed, by the monotonic clock

    def start(self) -> None:
        """Start all loops; they take up work as soon as they lead."""
        for loop in self.loops:
            self._thread(f"loop-{loop.name}", lambda loop=loop: self._run(loop))  # type: ignore[misc]
        self._thread("loop-leases", self._renew)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop after the ticks under way and give the leases back."""
        self.stopping.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        try:
            write(lambda tx: system.drop_leases(tx, self.holder))
        except Exception as error:
            log.warning("leases could not be given back (others take over when they are over): %s", error)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, loop: Loop) -> None:
        started = False
        beaten = 0.0
        while not self.stopping.is_set():
            try:
                if not loop.led or self._lead(loop.name):
                    started = started or self._announce(loop)
                    beat = loop.interval_s >= BEAT_PAUSE_S or time.monotonic() - beaten >= BEAT_PAUSE_S
                    if run_once(loop, beat=beat) and beat:
                        beaten = time.monotonic()
                else:
                    started = False
            except Exception:  # whatever it is, the next cycle comes (B48)
                log.exception("%s: the cycle could not be begun", loop.name)
                current().close_thread()
            clock.system.wait(self.stopping, loop.interval_s if started else min(loop.interval_s, self.lease_s / 5))
        current().close_thread()

    def _announce(self, loop: Loop) -> bool:
        try:
            write(lambda tx: system.start_loop(tx, loop.name, interval_s=loop.interval_s, at=clock.now()))
        except Unavailable:
            return False
        return True

    def _lead(self, name: str) -> bool:
        """Hold the lease, renewed when a third of it is over; `_renew` does the same while a tick takes long."""
        if time.monotonic() - self._renewed.get(name, float("-inf")) < self.lease_s / 3:
            return True
        return self._take(name)

    def _take(self, name: str) -> bool:
        began = time.monotonic()
        try:
            fence = write(lambda tx: system.take_lease(tx, name, self.holder, at=clock.now(), lease_s=self.lease_s))
        except Unavailable as error:
            log.warning("lease of %s: %s", name, error)
            if began - self._renewed.get(name, began) > self.lease_s:
                self._renewed.pop(name, None)
            return False
        if fence is None:
            if self._renewed.pop(name, None) is not None:
                log.warning("%s: another process leads now", name)
            return False
        if name not in self._renewed:
            log.info("leads %s (fence %s)", name, fence)
        self._renewed[name] = began
        return True

    def _renew(self) -> None:
        pause_s = self.lease_s / 6
        while not self.stopping.wait(pause_s):
            try:
                for name in [*self._renewed, *((self.presence,) if self.presence not in self._renewed else ())]:
                    if name and time.monotonic() - self._renewed.get(name, float("-inf")) >= self.lease_s / 4:
                        self._take(name)
            except Exception:
                log.exception("renewing leases; tried again")
                current().close_thread()
        current().close_thread()


def run_once(loop: Loop, *, beat: bool = True) -> bool:
    """One cycle with its beat; an exception is logged and kept beside the beat. True when it went well."""
    began = time.monotonic()
    error = ""
    try:
        loop.tick()
    except LostLead:
        log.info("%s: another process leads now", loop.name)
        return False
    except Unavailable as problem:
        error = str(problem)
        log.warning("%s: %s", loop.name, problem)
    except Exception as problem:
        error = f"{type(problem).__name__}: {problem}"
        log.exception("%s failed; it goes on with the next cycle", loop.name)
    if error:
        # The connection may be what is broken: the next cycle opens a new one.
        current().close_thread()
    if beat or error:
        _beat(loop, time.monotonic() - began, error)
    return not error


def _beat(loop: Loop, took_s: float, error: str) -> None:
    try:
        write(lambda tx: system.beat(tx, loop.name, at=clock.now(), took_s=took_s, error=error[:500]))
    except Exception as problem:
        log.warning("%s: no beat: %s", loop.name, problem)
        current().close_thread()


def assert_lead(tx: Tx, name: str, holder: str) -> None:
    """Raise LostLead unless `holder` leads `name` now; called inside the transaction that carries out a decision."""
    if not system.may_lead(tx, name, holder, at=clock.now()):
        raise LostLead(name)
