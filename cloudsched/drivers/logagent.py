"""How are log agents called? Many at once, over kept connections, each with a time limit, none waited for by the others.

One event loop in a thread of its own does all the calls of a process. An answer is whatever the agent said; what went
wrong on the way is a text. Redirects are not followed, proxies not asked, bodies cut off at their limit.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar
from urllib.parse import urlsplit

from cloudsched.drivers.logagent_http import Closed as _Closed
from cloudsched.drivers.logagent_http import Connection, Reading
from cloudsched.drivers.logagent_http import Refused as _Refused

log = logging.getLogger(__name__)

# Agents of ours close what is idle for 75 s.
IDLE_S, IDLE_PER_HOST = 60.0, 4
TROUBLE_S = 60.0
_SAFE = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `path` is percent-encoded already and is put behind the agent's URL."""

    url: str
    method: str
    path: str
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: a status with its body, or (status 0) why nothing usable did."""

    status: int
    body: bytes = b""
    error: str = ""

    @property
    def text(self) -> str:
        """The body as text, shortened: it goes into messages."""
        return self.body[:8192].decode("utf-8", "replace").strip()


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes. `total_bytes` is for all answers of one round together."""

    connect_s: float = 3.0
    concurrent: int = 1000
    answer_bytes: int = 16 << 20
    total_bytes: int = 256 << 20


class _Round:
    """One fan-out: when it ends, how many bytes its answers may still have."""

    def __init__(self, until: float, limit_s: float, bytes_left: int) -> None:
        self.until = until
        self.limit_s = limit_s
        self.bytes_left = bytes_left


R = TypeVar("R")
Chain = Generator[Call, Answer, R]
Place = tuple[str, str, int]


class Line:
    """The connections of one process to its agents. Safe for threads."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._slots: asyncio.Semaphore | None = None
        self._idle: dict[Place, list[tuple[float, Connection]]] = {}
        self._trouble: dict[str, float] = {}
        self.opened = 0

    def call(self, calls: Sequence[Call], *, limit_s: float) -> list[Answer]:
        """Make all calls at once; the answers in the same order, after `limit_s` at the latest."""
        if not calls:
            return []
        loop = self._running()
        return asyncio.run_coroutine_threadsafe(self._all(calls, limit_s), loop).result()

    def start(self, chain: Chain[R], *, limit_s: float) -> concurrent.futures.Future[R]:
        """Begin a chain of calls to one agent: each answer is sent into the generator, which yields the next call. It runs
        beside all others, in the thread of the loop: it must not wait for anything else."""
        return asyncio.run_coroutine_threadsafe(self._chain(chain, limit_s), self._running())

    def close(self) -> None:
        """Close all connections and end the thread."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._drop_all(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        self._loop = self._thread = None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid, self._idle = asyncio.new_event_loop(), os.getpid(), {}
                self._slots = asyncio.Semaphore(_most_open(self.limits.concurrent))
                self._thread = threading.Thread(target=self._loop.run_forever, name="logagent-calls", daemon=True)
                self._thread.start()
            return self._loop

    # in the loop

    async def _all(self, calls: Sequence[Call], limit_s: float) -> list[Answer]:
        now = time.monotonic()
        told = _Round(now + limit_s, limit_s, self.limits.total_bytes)
        self._close_old(now)
        found: list[Answer | None] = [None] * len(calls)

        async def one(index: int) -> None:
            found[index] = await self._one(calls[index], told)

        # Those in trouble last: when there are more agents than slots, they do not hold up the others.
        order = sorted(range(len(calls)), key=lambda index: self._trouble.get(calls[index].url, 0.0) > now)
        await asyncio.gather(*(one(index) for index in order))
        return [answer or Answer(0, error="not called") for answer in found]

    async def _chain(self, chain: Chain[R], limit_s: float) -> R:
        now = time.monotonic()
        self._close_old(now)
        told = _Round(now + limit_s, limit_s, self.limits.total_bytes)
        try:
            call = next(chain)
            while True:
                call = chain.send(await self._one(call, told))
        except StopIteration as end:
            found: R = end.value
            return found

    async def _one(self, call: Call, told: _Round) -> Answer:
        called = False
        try:
            async with asyncio.timeout_at(self._loop_time(told.until)):
                assert self._slots is not None
                async with self._slots:
                    called = True
                    answer = await self._ask(call, told)
        except TimeoutError:
            why = "no answer" if called else "not called, because too many others do not answer,"
            answer = Answer(0, error=f"{why} within {told.limit_s:g} s")
        except _Refused as error:
            answer = Answer(0, error=str(error))
        except (OSError, ValueError) as error:
            answer = Answer(0, error=_transport(error))
        except Exception as error:  # whatever an agent sends, the others' answers are delivered
            log.exception("a call to a log agent failed")
            answer = Answer(0, error=f"{type(error).__name__} while calling it")
        if answer.status:
            self._trouble.pop(call.url, None)
        elif called:
            self._trouble[call.url] = time.monotonic() + TROUBLE_S
        return answer

    def _loop_time(self, until: float) -> float:
        assert self._loop is not None
        return self._loop.time() + (until - time.monotonic())

    async def _ask(self, call: Call, told: _Round) -> Answer:
        parts = urlsplit(call.url)
        place = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        request = _request(call, parts.netloc, parts.path)
        # A change has a connection of its own and is sent once: the agent may be closing a kept one, and nobody would know
        # whether the change had arrived. A read is sent again.
        kept = self._take_idle(place) if call.method in _SAFE else None
        if kept is not None:
            with contextlib.suppress(_Closed, ConnectionError):
                return await self._exchange(kept, place, request, told, may_repeat=True)
        return await self._exchange(await self._open(place), place, request, told)

    async def _open(self, place: Place) -> Connection:
        self.opened += 1
        try:
            async with asyncio.timeout(self.limits.connect_s):
                return await _connect(*place)
        except TimeoutError:
            raise _Refused(f"not reached within {self.limits.connect_s:g} s") from None

    async def _exchange(self, connection: Connection, place: Place, request: bytes, told: _Round, *,
                        may_repeat: bool = False) -> Answer:
        """One request and its answer. With `may_repeat` _Closed when nothing at all came back."""
        reading = Reading(self._account(told), may_repeat=may_repeat)
        try:
            await connection.ask(request, reading)
            return Answer(reading.status, reading.body)
        finally:
            if reading.reusable and not connection.lost:
                self._idle.setdefault(place, []).append((time.monotonic(), connection))
            else:
                connection.abort()

    def _account(self, told: _Round) -> Callable[[int, int], None]:
        """Called with the size of a body so far and how much has just been added; raises _Refused beyond a limit."""
        most = self.limits.answer_bytes

        def more(size: int, added: int) -> None:
            told.bytes_left -= added
            if size > most:
                raise _Refused(f"its answer is larger than {most >> 20} MiB")
            if told.bytes_left < 0:
                raise _Refused(f"the answers of all agents together are larger than {self.limits.total_bytes >> 20} MiB")

        return more

    # kept connections

    def _take_idle(self, place: Place) -> Connection | None:
        kept = self._idle.get(place, [])
        while kept:
            since, connection = kept.pop()
            if time.monotonic() - since < IDLE_S and not connection.lost:
                return connection
            connection.abort()
        return None

    def _close_old(self, now: float) -> None:
        for place, kept in list(self._idle.items()):
            fresh = [one for one in kept[-IDLE_PER_HOST:] if now - one[0] < IDLE_S and not one[1].lost]
            for one in kept:
                if one not in fresh:
                    one[1].abort()
            if fresh:
                self._idle[place] = fresh
            else:
                del self._idle[place]
        if len(self._trouble) > 100_000:
            self._trouble = {url: until for url, until in self._trouble.items() if until > now}

    async def _drop_all(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for kept in self._idle.values():
            for _, connection in kept:
                connection.abort()
        self._idle = {}
        await asyncio.sleep(0)


async def _connect(scheme: str, host: str, port: int) -> Connection:
    loop = asyncio.get_running_loop()
    family = _family(host) if scheme == "http" else None
    if family is None:
        _, connection = await loop.create_connection(Connection, host, port, ssl=_tls() if scheme == "https" else None)
        return connection
    # An address: no names to be resolved, nothing to be tried in turn. Half the price when a thousand are opened at once.
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await loop.sock_connect(sock, (host, port))
        _, connection = await loop.create_connection(Connection, sock=sock)
    except BaseException:
        sock.close()
        raise
    return connection


@lru_cache(maxsize=4096)
def _family(host: str) -> socket.AddressFamily | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError, ValueError):
            socket.inet_pton(family, host)
            return family
    return None


def _request(call: Call, netloc: str, base: str) -> bytes:
    length = f"Content-Length: {len(call.body)}\r\n" if call.body or call.method not in _SAFE else ""
    return (f"{call.method} {base}{call.path} HTTP/1.1\r\nHost: {netloc}\r\nContent-Type: application/json\r\n"
            f"Accept-Encoding: identity\r\nUser-Agent: cloudsched\r\n{length}\r\n").encode("utf-8", "replace") + call.body


def _transport(error: BaseException) -> str:
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionError):
        return "it closed the connection"
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return str(error)[:300] or type(error).__name__


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _most_open(wanted: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 2))
