"""How are events and output followed? Streams that wake when something was written; a bounded number of them.

One thread looks at the event sequence for all streams of the process; without streams it ends.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import msgspec
from msgspec import Raw

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.errors import Unavailable
from cloudsched.services import health
from cloudsched.services import jobs as job_service
from cloudsched.store import events
from cloudsched.store.db import Database, current
from cloudsched.store.events import Event

log = logging.getLogger(__name__)
LOOK_S = 0.25
HEARTBEAT_S = 15.0
PAGE = 500
PIECE = 1 << 18
_OUTPUT_LOOK_FIRST_S, _OUTPUT_LOOK_MOST_S = 0.1, 0.5


class EventView(msgspec.Struct):
    """An event as readers see it."""

    id: int
    at: str | None
    kind: str
    subject_kind: str
    subject_id: int
    actor: str
    data: Raw


@dataclass(frozen=True, slots=True)
class Gap:
    """Events from `first` to `last` were removed before they could be sent; the stream goes on after `position`."""

    first: int
    last: int
    position: int


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; empty members want all."""

    subject_kind: str = ""
    subject_id: int | None = None
    kind: str = ""

    def holds(self, event: Event) -> bool:
        """Is this event wanted?"""
        return (self.subject_kind in ("", event.subject_kind) and self.subject_id in (None, event.subject_id)
                and event.kind.startswith(self.kind))


def view(event: Event) -> EventView:
    """A row as readers see it."""
    return EventView(event.id, clock.rfc3339(event.at), event.kind, event.subject_kind, event.subject_id, event.actor,
                     Raw(event.data.encode()))


def page(after: int, wanted: Filter, *, limit: int) -> list[EventView]:
    """Events after a sequence number, in order."""
    return [view(event) for event in _since(after, wanted, limit)]


def last_id() -> int:
    """The newest sequence number."""
    return events.last_id()


def follow(after: int | None, wanted: Filter, *, gone: Callable[[], bool] = lambda: False) -> Iterator[
        EventView | Gap | None]:
    """Events after `after` (None: from now on), for ever; None is a sign of life, every 15 s of silence.

    Ends when `gone()` says that nobody listens any more, or when the process stops.
    """
    _look.attach()
    newest = events.last_id()
    position = newest if after is None else min(after, newest)
    if after is not None and after > newest:  # seen in another life of this database: a backup was restored
        yield Gap(newest + 1, after, newest)
    last_sent = time.monotonic()
    while not (_look.stopping or gone()):
        seen = _look.seen
        found, gap = _read(position, wanted)
        if gap is not None:
            yield gap
        for event in found:
            yield view(event)
        # Without a match the position still moves: what was looked at is not looked at again.
        position = found[-1].id if len(found) == PAGE else max(position, seen, found[-1].id if found else 0)
        if found or gap:
            last_sent = time.monotonic()
            continue
        current().close_thread()  # a stream is long: its thread keeps no connection while it sleeps
        _look.wait(position, LOOK_S * 8)
        if time.monotonic() - last_sent >= HEARTBEAT_S:
            last_sent = time.monotonic()
            yield None


def _read(position: int, wanted: Filter) -> tuple[list[Event], Gap | None]:
    found = _since(position, wanted, PAGE)
    first = events.first_id() if position else 0
    if first > position + 1:
        return [event for event in found if event.id >= first], Gap(position + 1, first - 1, first - 1)
    return found, None


def _since(after: int, wanted: Filter, limit: int) -> list[Event]:
    return events.since(after, limit=limit, subject_kind=wanted.subject_kind, subject_id=wanted.subject_id,
                        kind=wanted.kind)


class _Look:
    """The one thread that knows the newest sequence number."""

    def __init__(self) -> None:
        self.seen = 0
        self.stopping = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._database: Database | None = None

    def attach(self) -> None:
        """What was seen of another database of this process says nothing of this one."""
        with self._changed:
            if self._database is not current():
                self._database, self.seen = current(), 0

    def wait(self, position: int, most_s: float) -> None:
        """Until something newer than `position` was written, at most `most_s`."""
        with self._changed:
            if self.stopping or self.seen > position:
                return
            self._waiting += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="event-look", daemon=True)
                self._thread.start()
            self._changed.wait(most_s)
            self._waiting -= 1

    def stop(self) -> None:
        with self._changed:
            self.stopping = True
            self._changed.notify_all()

    def _run(self) -> None:
        idle = 0
        while True:
            newest = _newest()
            with self._changed:
                if newest is not None and newest != self.seen:
                    self.seen = newest
                    self._changed.notify_all()
                idle = 0 if self._waiting else idle + 1
                if self.stopping or idle > 40:
                    self._thread = None
                    break
            time.sleep(LOOK_S)
        current().close_thread()


def _newest() -> int | None:
    try:
        return events.last_id()
    except Exception as error:  # the database is away: the streams say nothing until it is back
        log.debug("the newest event is not known: %s", error)
        with contextlib.suppress(Exception):
            current().close_thread()
        return None


_look = _Look()


def stop() -> None:
    """The process is ending: all streams end."""
    _look.stop()


# output


class Stopping(ConnectionResetError):
    """The process ends, what was followed goes on. The web server takes it for a broken connection and cuts the answer off:
    a whole one would say that this was all."""


def follow_output(reference: int | str, stream: str, *, offset: int = 0, attempt: int | None = None,
                  gone: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
    """A job's output from `offset` on until the job has ended; without `attempt` a retry goes on with the new one's.

    Raises Stopping when the process ends before the job.
    """
    job = job_service.find(reference)
    at_attempt, pause_s = attempt or job.attempt, _OUTPUT_LOOK_FIRST_S
    while not gone():
        if _look.stopping:
            raise Stopping(errno.ECONNRESET, "the server stops")
        job = job_service.find(job.id)  # before the bytes: what an ended job has written is all there
        ended = job.state in moves.JOB_FINAL or (attempt is not None and job.attempt > attempt)
        piece = job_service.output(job, stream, offset=offset, attempt=at_attempt, limit=PIECE)
        if piece:
            offset, pause_s = offset + len(piece), _OUTPUT_LOOK_FIRST_S
            yield piece
        elif attempt is None and job.attempt > at_attempt:
            at_attempt, offset = job.attempt, (0 if at_attempt else offset)
        elif ended:
            return
        else:
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _OUTPUT_LOOK_MOST_S)


# how many


class Streams:
    """At most so many streams at once in this process: each keeps a thread."""

    def __init__(self, most: int) -> None:
        self.most = max(1, most)
        self._room = threading.BoundedSemaphore(self.most)

    def enter(self, kind: str) -> Callable[[], None]:
        """Take a place; the answer gives it back (once). Raises Unavailable when all are taken."""
        if not self._room.acquire(blocking=False):
            raise Unavailable(f"{self.most} streams are open already; close one, or raise web.threads",
                              details={"streams": self.most})
        health.stream_opened(kind)
        done = threading.Event()

        def leave() -> None:
            if not done.is_set():
                done.set()
                health.stream_closed(kind)
                self._room.release()

        return leave

    @contextmanager
    def inside(self, kind: str) -> Iterator[None]:
        """The same as a block."""
        leave = self.enter(kind)
        try:
            yield
        finally:
            leave()
