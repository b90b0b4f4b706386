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
    """A thread per loop. `holder` names this process in leases."""

    def __init__(self, loops: list[Loop], *, holder: str, lease_s: float) -> None:
        self.loops = loops
        self.holder = holder
        self.lease_s = lease_s
        self.stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self._held: set[str] = set()

    def start(self) -> None:
        """Start all loops; they take up work as soon as they lead."""
        for loop in self.loops:
            self._thread(f"loop-{loop.name}", lambda loop=loop: self._run(loop))
        self._thread("loop-leases", self._renew)

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop after the ticks under way and give the leases back."""
        self.stopping.set()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        try:
            write(lambda tx: system.drop_leases(tx, self.holder))
        except Unavailable as error:
            log.warning("leases could not be given back: %s", error)

    def _thread(self, name: str, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, loop: Loop) -> None:
        started = False
        while not self.stopping.is_set():
            if not loop.led or self._lead(loop):
                started = started or self._announce(loop)
                run_once(loop)
            else:
                started = False
            clock.system.wait(self.stopping, loop.interval_s if started else min(loop.interval_s, self.lease_s / 5))
        current().close_thread()

    def _announce(self, loop: Loop) -> bool:
        try:
            write(lambda tx: system.start_loop(tx, loop.name, interval_s=loop.interval_s, at=clock.now()))
        except Unavailable:
            return False
        return True

    def _lead(self, loop: Loop) -> bool:
        try:
            fence = write(lambda tx: system.take_lease(tx, loop.name, self.holder, at=clock.now(), lease_s=self.lease_s))
        except Unavailable as error:
            log.warning("%s: %s", loop.name, error)
            fence = None
        if fence is None:
            self._held.discard(loop.name)
            return False
        if loop.name not in self._held:
            log.info("leads %s (fence %s)", loop.name, fence)
            self._held.add(loop.name)
        return True

    def _renew(self) -> None:
        """A tick may take longer than the lease: renew what is held while it works."""
        while not self.stopping.wait(self.lease_s / 3):
            for name in sorted(self._held):
                try:
                    write(lambda tx, name=name: system.take_lease(tx, name, self.holder, at=clock.now(), lease_s=self.lease_s))
                except Unavailable as error:
                    log.warning("lease of %s not renewed: %s", name, error)


def run_once(loop: Loop) -> bool:
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
    took = time.monotonic() - began
    try:
        write(lambda tx: system.beat(tx, loop.name, at=clock.now(), took_s=took, error=error))
    except Unavailable as problem:
        log.warning("%s: no beat: %s", loop.name, problem)
    return not error


def assert_lead(tx: Tx, name: str, holder: str) -> None:
    """Raise LostLead unless `holder` leads `name` now; called inside the transaction that carries out a decision."""
    if not system.may_lead(tx, name, holder, at=clock.now()):
        raise LostLead(name)
