"""How busy is the API, and whom did it refuse? Requests of all processes, summed by the minute.

Each process adds its own every few seconds (and before it reads them), so a crash loses at most those.
"""

from __future__ import annotations

import logging
import threading

from cloudsched import clock
from cloudsched.domain.devices import percent, rounded
from cloudsched.errors import Unavailable
from cloudsched.store import events, series
from cloudsched.store.db import Database, current, write

log = logging.getLogger(__name__)
FLUSH_S = 3.0
MINUTES = 15

_lock = threading.Lock()
_sums: dict[int, list[float]] = {}
_counted_in: list[Database] = []  # the database that was open then: figures of another are not its own
_flusher: list[threading.Thread] = []


def count_request(took_ms: float, status: int) -> None:
    """One API request was answered."""
    minute, here = int(clock.now() // 60) * 60, current()
    with _lock:
        if _counted_in != [here]:
            _counted_in[:] = [here]
            _sums.clear()
        sums = _sums.setdefault(minute, [0, 0, 0.0])
        sums[0] += 1
        sums[1] += status >= 500
        sums[2] += max(0.0, took_ms)
        if not _flusher:
            thread = threading.Thread(target=_flush_on, name="api-requests", daemon=True)
            _flusher.append(thread)
            thread.start()


def flush() -> None:
    """Write down what this process has counted."""
    with _lock:
        taken = dict(_sums) if _counted_in == [current()] else {}
        _sums.clear()
    if not taken:
        return
    rows = [(minute, int(sums[0]), int(sums[1]), sums[2]) for minute, sums in taken.items()]
    try:
        write(lambda tx: series.add_requests(tx, rows))
    except BaseException:
        with _lock:
            for minute, sums in taken.items():
                kept = _sums.setdefault(minute, [0, 0, 0.0])
                _sums[minute] = [one + more for one, more in zip(kept, sums, strict=True)]
        raise


def _flush_on() -> None:
    while True:
        threading.Event().wait(FLUSH_S)
        try:
            if _sums:
                flush()
                current().close_thread()
        except Unavailable as error:
            log.debug("request figures were not written: %s", error)
        except Exception:
            log.exception("request figures were not written")


def performance() -> dict[str, float]:
    """average_response_time (ms), request_rate (per second), error_rate (percent) of the last 15 minutes: of this minute and
    the 14 before, divided by the time they have lasted (contract 15)."""
    flush()
    at = clock.now()
    first = int(at // 60) * 60 - (MINUTES - 1) * 60
    count, errors, took_ms = series.requests(first)
    return {"average_response_time": rounded(took_ms / count, 1) if count else 0.0,
            "request_rate": rounded(count / max(1.0, at - first), 3), "error_rate": percent(errors, count)}


def note_refused(address: str, reason: str) -> None:
    """A caller without a good key was refused: an event `access.refused`. The caller of this bounds how often."""
    at = clock.now()
    write(lambda tx: events.append(tx, "access.refused", ("system", 0), at=at, address=address[:100], reason=reason[:100]))
