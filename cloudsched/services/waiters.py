"""Who waits for work in this process? Held requests of agents, woken when a job of a fitting shape appears.

Other processes are not seen from here: a waiter looks again every second when there are several (Postgres).
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from cloudsched.store.jobs import Claimed


class Waiter:
    """One held request. `replaced`: a newer one of the same node has come; this one must end without claiming.
    `load`: the part of its room that is taken."""

    __slots__ = ("event", "fits", "load", "node_id", "replaced")

    def __init__(self, node_id: int, fits: Callable[[int], bool], load: float) -> None:
        self.node_id = node_id
        self.fits = fits
        self.load = load
        self.event = threading.Event()
        self.replaced = False


_lock = threading.Lock()
_waiting: dict[int, Waiter] = {}
_slots = threading.BoundedSemaphore(48)
_stopping = threading.Event()
# Kind of job -> the node of this process's agents that was last handed one: what it needs may still be there.
_ran: dict[str, int] = {}
_KINDS_KEPT = 1000
_COMMAND = '{"kind":"command"'


def configure(most: int) -> None:
    """Set how many requests may be held at once in this process."""
    global _slots
    _slots = threading.BoundedSemaphore(max(1, most))
    _stopping.clear()


def stop() -> None:
    """Wake everybody: the process is ending."""
    _stopping.set()
    with _lock:
        for waiter in _waiting.values():
            waiter.event.set()


@contextmanager
def waiting(node_id: int, fits: Callable[[int], bool], *, load: float = 0.0) -> Iterator[Waiter | None]:
    """Register a waiter; None when too many wait already (answer at once instead)."""
    if _stopping.is_set() or not _slots.acquire(blocking=False):
        yield None
        return
    waiter = Waiter(node_id, fits, load)
    try:
        with _lock:
            older = _waiting.get(node_id)
            if older is not None:
                older.replaced = True
                older.event.set()
            _waiting[node_id] = waiter
        yield waiter
    finally:
        with _lock:
            if _waiting.get(node_id) is waiter:
                del _waiting[node_id]
        _slots.release()


def wake_node(node_id: int) -> None:
    """Something changed for this node (goal, cancel)."""
    waiter = _waiting.get(node_id)
    if waiter is not None:
        waiter.event.set()


def wake_shapes(counts: Iterable[tuple[int, int]], *, kind: str = "command") -> None:
    """Jobs of these shapes were queued: wake at most as many fitting waiters as there are jobs. The least loaded come
    first, then the one that last ran this kind, then by number (contract 11.4)."""
    if not _waiting:
        return
    last = _ran.get(kind)
    with _lock:
        for shape_id, jobs in counts:
            free = [waiter for waiter in _waiting.values() if not waiter.event.is_set() and waiter.fits(shape_id)]
            if len(free) > jobs:
                free = heapq.nsmallest(jobs, free, key=lambda one: (one.load, one.node_id != last, one.node_id))
            for waiter in free:
                waiter.event.set()


def note_ran(node_id: int, claimed: Sequence[Claimed]) -> None:
    """Remember which node runs what; commands leave nothing behind that the next one could use."""
    for job in claimed:
        if not job.spec.startswith(_COMMAND):
            if len(_ran) >= _KINDS_KEPT:
                _ran.clear()
            _ran[job.spec[9:job.spec.find('"', 9)]] = node_id


def held() -> int:
    """How many requests are held now."""
    return len(_waiting)
