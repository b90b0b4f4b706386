"""How often may one caller ask? 1000 reads and 100 writes in 15 minutes, 10 streams at once (contract 6)."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from cloudsched import clock
from cloudsched.dialects.retire_cluster.envelope import Headers, Refused
from cloudsched.services import ratelimits
from cloudsched.settings import Settings

KEEP_EVERY_S = 15.0


class Limits:
    """The limits of one process; counters are shared by all (services/ratelimits)."""

    def __init__(self, settings: Settings) -> None:
        own = settings.retire_cluster
        self.on = own.rate_limit
        self._most = {"read": own.read_limit, "write": own.write_limit}
        self._window_s, self._streams = own.rate_window_s, own.streams_max

    def count(self, identity: str, method: str) -> Headers:
        """Count a request: the headers of its answer. Raises Refused (429) when it is one too many."""
        if not self.on:
            return []
        kind = "read" if method in ("GET", "HEAD") else "write"
        found = ratelimits.count(identity, kind, limit=self._most[kind], window_s=self._window_s)
        headers = _headers(found.limit, found.remaining, found.reset_at)
        if not found.allowed:
            raise _too_many(f"at most {found.limit} {kind} requests in {self._window_s / 60:g} minutes", found.limit,
                            found.reset_at - clock.now(), headers)
        return headers

    def enter(self, identity: str) -> tuple[Headers, Callable[[], None]]:
        """Open a stream: (headers, how to give its place back). Raises Refused (429) when all places are taken."""
        if not self.on:
            return [], _nothing
        place = ratelimits.take_stream(identity, limit=self._streams)
        if place is None:
            raise _too_many(f"at most {self._streams} streams at once", self._streams, 1.0,
                            _headers(self._streams, 0, clock.now()))
        _kept.add(place.id)
        return (_headers(self._streams, max(0, self._streams - place.open), clock.now()),
                lambda: _kept.remove(place.id))


def _headers(limit: int, remaining: int, reset_at: float) -> Headers:
    return [("X-RateLimit-Limit", str(limit)), ("X-RateLimit-Remaining", str(remaining)),
            ("X-RateLimit-Reset", str(math.ceil(reset_at)))]


def _too_many(text: str, limit: int, wait_s: float, headers: Headers) -> Refused:
    retry_s = max(1, math.ceil(wait_s))
    return Refused("RATE_LIMIT_EXCEEDED", f"{text}; try again in {retry_s} s", details={"limit": limit, "retry_after": retry_s},
                   headers=[*headers, ("Retry-After", str(retry_s))])


def _nothing() -> None:
    """There is no place to give back."""


class _Kept:
    """The places of this process's streams; they stay ours as long as we say so now and then."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._lock = threading.Lock()
        self._renewed_at = 0.0

    def add(self, number: int) -> None:
        with self._lock:
            self._ids.add(number)

    def remove(self, number: int) -> None:
        with self._lock:
            self._ids.discard(number)
        ratelimits.leave_stream(number)

    def renew(self) -> None:
        """Called often by whoever feeds streams; works now and then."""
        now = time.monotonic()
        with self._lock:
            if now - self._renewed_at < KEEP_EVERY_S:
                return
            self._renewed_at, ids = now, sorted(self._ids)
        if ids:
            ratelimits.keep_streams(ids)


_kept = _Kept()
renew_places = _kept.renew
