"""How are hundreds of streams held without a thread for each? One thread writes to all of them.

A stream begins as any answer does, on a thread of the server, which writes its head and first bytes. Then the socket is taken
over (`TakenOver`, caught by app/streaming.py), the server's thread is free again, and `_Shared` feeds it from the event
sequence, which it reads once for all. Under another server the stream keeps its thread and behaves the same.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import selectors
import socket
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from cloudsched.errors import Unavailable
from cloudsched.services import health
from cloudsched.services.watch import Gap
from cloudsched.store import events
from cloudsched.store.db import current
from cloudsched.store.events import Event

__all__ = ["Event", "Feed", "Source", "Stream", "TakenOver", "share", "shared", "stop"]
log = logging.getLogger(__name__)
LOOK_S = 0.25
HEARTBEAT_S = 15.0
PAGE = 500
KEPT = 2000
OPEN_MAX = 4000
SEND_BUFFER = 1 << 18
_AGAIN = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


class Source(Protocol):
    """What a stream says. Called by one thread at a time; what it answers is sent before it is asked again."""

    heartbeat: bytes

    def first(self) -> bytes:
        """What is sent at once, with the head of the answer."""

    def more(self, feed: Feed, now: float) -> bytes | None:
        """What is to be sent now (`now`: monotonic seconds), often nothing; None when the stream is over."""

    def closed(self) -> None:
        """The stream has ended, however it did. Called once."""


class Feed:
    """The event sequence, read once for all streams; the newest events are kept."""

    def __init__(self) -> None:
        self._kept: list[Event] = []
        self._ids: list[int] = []
        self._from = self.last = -1

    def refresh(self) -> None:
        """Read what is new."""
        newest = events.last_id()
        if self.last < 0 or newest < self.last or newest - self.last > KEPT:
            self._kept, self._ids, self._from, self.last = [], [], newest, newest
            return
        while self.last < newest and (found := events.since(self.last, limit=PAGE)):
            self._kept += found
            self.last = found[-1].id
            del self._kept[:-KEPT]
            if len(self._kept) == KEPT:
                self._from = self._kept[0].id - 1
        self._ids = [event.id for event in self._kept]

    def after(self, position: int) -> tuple[list[Event], Gap | None]:
        """Some events after a position, in order, and what is missing before them; none: the position is the newest."""
        if position >= self.last:
            return [], None
        if position >= self._from:
            start = bisect_right(self._ids, position)
            return self._kept[start:start + PAGE], None
        found, first = events.since(position, limit=PAGE), events.first_id() if position else 0
        if first > position + 1:
            return [event for event in found if event.id >= first], Gap(position + 1, first - 1, first - 1)
        return found, None


class TakenOver(OSError):
    """The socket of this request has gone to the shared thread: the server forgets it without closing it."""

    def __init__(self, stream: Stream) -> None:
        super().__init__(errno.EPIPE, "taken over")
        self.stream = stream


class Stream:
    """A WSGI body that goes on for long. `environ`: of the request, `kind`: how it is counted among the figures.

    Raises Unavailable when this process has no room for one more.
    """

    def __init__(self, source: Source, environ: dict[str, Any], *, kind: str) -> None:
        if _shared is not None:
            _shared.check_room()
        self.source = source
        self.chunked = environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
        self._kind = kind
        self._taken = False
        self._closed = False
        self._socket = environ.get("gunicorn.socket")
        health.stream_opened(kind)

    def __iter__(self) -> Iterator[bytes]:
        yield self.source.first()
        if _shared is not None and self._socket is not None:
            self._taken = True
            raise TakenOver(self)
        yield from _here(self.source)

    def close(self) -> None:
        """The server is done with the answer; a stream that was taken over goes on."""
        if not self._taken:
            self.end()

    def end(self) -> None:
        if not self._closed:
            self._closed = True
            health.stream_closed(self._kind)
            self.source.closed()


def _here(source: Source) -> Iterator[bytes]:
    """The stream on a thread of its own."""
    feed, last_sent = Feed(), time.monotonic()
    while not _stopping.is_set():
        piece = _asked(source, feed)
        if piece is None:
            return
        now = time.monotonic()
        if not piece and now - last_sent >= HEARTBEAT_S:
            piece = source.heartbeat
        if piece:
            last_sent = now
            yield piece
        else:
            with contextlib.suppress(Exception):
                current().close_thread()
            _stopping.wait(LOOK_S)


def _asked(source: Source, feed: Feed) -> bytes | None:
    try:
        feed.refresh()
        return source.more(feed, time.monotonic())
    except Unavailable as error:  # the database is away: the stream says nothing until it is back
        log.debug("nothing to stream: %s", error)
        return b""


class _Open:
    """One stream of the shared thread."""

    def __init__(self, stream: Stream, sock: socket.socket) -> None:
        self.stream = stream
        self.sock = sock
        self.rest = b""
        self.last_sent = time.monotonic()


class _Shared:
    """The thread, which is there while a stream is open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._coming: list[_Open] = []
        self._open: set[_Open] = set()
        self._thread: threading.Thread | None = None
        self._ours, self._wake = socket.socketpair()
        self._ours.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._ours, selectors.EVENT_READ, None)
        self._feed = Feed()
        # The other half of the open files is for requests.
        self._most = min(OPEN_MAX, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

    def check_room(self) -> None:
        """Raise Unavailable when all places are taken."""
        if len(self._open) + len(self._coming) >= self._most:
            raise Unavailable(f"{self._most} streams are open already; close one", details={"streams": self._most})

    def take(self, stream: Stream, sock: socket.socket) -> None:
        """Feed this stream from now on; the socket is ours."""
        sock.setblocking(False)
        with self._lock:
            if _stopping.is_set():
                stream.end()
                sock.close()
                return
            self._coming.append(_Open(stream, sock))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="streams", daemon=True)
                self._thread.start()
        self.wake()

    def close(self) -> None:
        """Give up what is held; no stream may be open any more."""
        self._selector.close()
        self._ours.close()
        self._wake.close()

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._wake.send(b"\0")

    def _run(self) -> None:
        look_at = 0.0
        while self._let_in():
            for key, mask in self._selector.select(max(0.0, min(LOOK_S, look_at - time.monotonic()))):
                if key.data is None:
                    with contextlib.suppress(OSError):
                        self._ours.recv(4096)
                else:
                    self._ready(key.data, mask)
            now = time.monotonic()
            if now >= look_at or self._coming:
                self._look(now)
                look_at = time.monotonic() + LOOK_S

    def _let_in(self) -> bool:
        """Take in what came; False when there is nothing to do any more."""
        with self._lock:
            coming, self._coming = self._coming, []
            if _stopping.is_set():
                for one in [*self._open, *coming]:
                    self._drop(one)
                coming = []
            if not coming and not self._open:
                self._thread = None
                with contextlib.suppress(Exception):
                    current().close_thread()
                return False
        for one in coming:
            self._open.add(one)
            self._selector.register(one.sock, selectors.EVENT_READ, one)
        return True

    def _look(self, now: float) -> None:
        """Ask every stream that has nothing left to send."""
        try:
            self._feed.refresh()
        except Exception as error:  # the database is away: streams say nothing until it is back
            log.debug("the newest events are not known: %s", error)
            with contextlib.suppress(Exception):
                current().close_thread()
        for one in tuple(self._open):
            if not one.rest:
                self._ask(one, now)

    def _ask(self, one: _Open, now: float) -> None:
        try:
            piece = one.stream.source.more(self._feed, now)
        except Unavailable as error:
            log.debug("nothing to stream: %s", error)
            piece = b""
        except Exception:
            log.exception("a stream failed")
            piece = None
        if piece is None:
            self._finish(one)
            return
        if not piece and now - one.last_sent >= HEARTBEAT_S:
            piece = one.stream.source.heartbeat
        if piece:
            one.last_sent = now
            self._send(one, b"%x\r\n%s\r\n" % (len(piece), piece) if one.stream.chunked else piece)

    def _finish(self, one: _Open) -> None:
        if one.stream.chunked:
            with contextlib.suppress(OSError):
                one.sock.send(b"0\r\n\r\n")
        self._drop(one)

    def _ready(self, one: _Open, mask: int) -> None:
        if mask & selectors.EVENT_READ and self._hung_up(one):
            self._drop(one)
        elif mask & selectors.EVENT_WRITE:
            self._send(one, one.rest)

    def _hung_up(self, one: _Open) -> bool:
        """Has the other side closed? What it may have sent otherwise is of no interest."""
        try:
            return not one.sock.recv(4096)
        except OSError as error:
            return error.errno not in _AGAIN

    def _send(self, one: _Open, data: bytes) -> None:
        try:
            sent = one.sock.send(data)
        except OSError as error:
            if error.errno not in _AGAIN:
                self._drop(one)
                return
            sent = 0
        waited, one.rest = bool(one.rest), data[sent:]
        if bool(one.rest) != waited:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if one.rest else 0)
            self._selector.modify(one.sock, wanted, one)

    def _drop(self, one: _Open) -> None:
        self._open.discard(one)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(one.sock)
        with contextlib.suppress(OSError):
            one.sock.close()
        try:
            one.stream.end()
        except Exception:  # its place is given back late, when its lease is over
            log.debug("a stream could not be signed off", exc_info=True)


_stopping = threading.Event()
_shared: _Shared | None = None


def share() -> Callable[[Stream, socket.socket], None]:
    """Tell that this server hands over sockets (see app/streaming.py); the answer takes one."""
    global _shared
    _shared = _shared or _Shared()
    return _shared.take


def shared() -> bool:
    """Do streams of this process share one thread?"""
    return _shared is not None


def stop() -> None:
    """The process is ending: all streams end."""
    _stopping.set()
    if _shared is not None:
        _shared.wake()
