"""May this caller ask once more? Counters of fixed windows and places for streams, exact across all processes.

A window begins with the first request of its identity and class; a count is one row, written by one statement. Once a
window is used up this process remembers it, so that a flood of refused requests writes nothing. The place of a stream is a
lease: a process that is killed gives its places back by not renewing them (contract 6).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cloudsched import clock
from cloudsched.store import ratelimits as store
from cloudsched.store.db import write

STREAM_LEASE_S = 60.0
USED_UP_KEPT = 10_000
FORGET_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The answer to one request: `remaining` of `limit` until `reset_at` (epoch seconds)."""

    allowed: bool
    limit: int
    remaining: int
    reset_at: float


@dataclass(frozen=True, slots=True)
class Place:
    """A place for a stream. `id`: for `keep_streams` and `leave_stream`; `open`: streams of this identity, this one included."""

    id: int
    open: int


def count(identity: str, kind: str, *, limit: int, window_s: float) -> Allowance:
    """Count one request of `identity` in the class `kind` (`read`, `write`). Exact across processes.

    `identity`: any text, kept as its hash. Raises Unavailable when the database is away.
    """
    at = clock.now()
    key = store.digest(identity, kind)
    used_up = _used_up.get(key)
    if used_up is not None and at < used_up[0] and limit <= used_up[1]:
        return Allowance(False, limit, 0, used_up[0])
    counted, ends_at = write(lambda tx: store.count(tx, key, at=at, window_s=window_s))
    _forget_now_and_then(at)
    if counted > limit:
        _remember(key, ends_at, counted)
    return Allowance(counted <= limit, limit, max(0, limit - counted), ends_at)


def take_stream(identity: str, *, limit: int) -> Place | None:
    """A place for one more stream of `identity`, for STREAM_LEASE_S; None when `limit` are taken. Exact across processes."""
    at = clock.now()
    key = store.digest(identity, "stream")
    found = write(lambda tx: store.take_place(tx, key, limit=limit, at=at, until=at + STREAM_LEASE_S))
    return None if found is None else Place(*found)


def keep_streams(ids: Sequence[int]) -> None:
    """These streams are still open: called at least every STREAM_LEASE_S / 2 for all streams of a process together."""
    until = clock.now() + STREAM_LEASE_S
    write(lambda tx: store.keep_places(tx, ids, until=until))


def leave_stream(number: int) -> None:
    """The stream has ended. Giving back twice is no error."""
    write(lambda tx: store.leave_place(tx, number))


# what this process remembers

_lock = threading.Lock()
_used_up: dict[bytes, tuple[float, int]] = {}
_forgotten_at = [0.0]


def _remember(key: bytes, ends_at: float, limit: int) -> None:
    with _lock:
        if len(_used_up) >= USED_UP_KEPT:
            now = clock.now()
            for known in [known for known, (until, _) in _used_up.items() if until <= now] or list(_used_up):
                del _used_up[known]
        _used_up[key] = (ends_at, limit - 1)


def _forget_now_and_then(at: float) -> None:
    """Windows that are over are removed, also where no engine runs."""
    now = time.monotonic()
    if now - _forgotten_at[0] < FORGET_EVERY_S:
        return
    _forgotten_at[0] = now
    write(lambda tx: store.forget(tx, at))


def reset() -> None:
    """Forget what this process remembers (tests: another database)."""
    _used_up.clear()
