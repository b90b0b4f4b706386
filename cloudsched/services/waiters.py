"""Who waits for work in this process? Held requests of agents, woken when a job of a fitting shape appears.

Other processes are not seen from here: a waiter looks again every second when there are several (Postgres).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager


class Waiter:
    """One held request. `replaced`: a newer one of the same node has come; this one must end without claiming."""

    __slots__ = ("event", "fits", "node_id", "replaced")

    def __init__(self, node_id: int, fits: Callable[[int], bool]) -> None:
        self.node_id = node_id
        self.fits = fits
        self.event = threading.Event()
        self.replaced = False


_lock = threading.Lock()
_waiting: dict[int, Waiter] = {}
_slots = threading.BoundedSemaphore(48)
_stopping = threading.Event()


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
def waiting(node_id: int, fits: Callable[[int], bool]) -> Iterator[Waiter | None]:
    """Register a waiter; None when too many wait already (answer at once instead)."""
    if _stopping.is_set() or not _slots.acquire(blocking=False):
        yield None
        return
    waiter = Waiter(node_id, fits)
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


def wake_shapes(counts: Iterable[tuple[int, int]]) -> None:
    """Jobs of these shapes were queued: wake at most as many fitting waiters as there are jobs."""
    if not _waiting:
        return
    with _lock:
        for shape_id, jobs in counts:
            left = jobs
            for waiter in _waiting.values():
                if left <= 0:
                    break
                if not waiter.event.is_set() and waiter.fits(shape_id):
                    waiter.event.set()
                    left -= 1


def held() -> int:
    """How many requests are held now."""
    return len(_waiting)
