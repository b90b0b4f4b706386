"""What happened, as a log? The event sequence newest first, and how many entries there are in all (contract 9.5)."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from cloudsched.services import tasks
from cloudsched.store import eventlog, events
from cloudsched.store.db import Database, current
from cloudsched.store.eventlog import Wanted
from cloudsched.store.events import Event

__all__ = ["Event", "entries"]
_COUNTS_KEPT = 64


def entries(kinds: Sequence[str], *, device_id: str | None = None, since: float | None = None, limit: int) -> tuple[
        list[Event], int]:
    """(the newest `limit` events of these kinds, how many there are).

    `device_id`: only those of this device and of tasks that it has, had last or that are pinned to it; a device that was
    removed still has its entries. `since`: epoch seconds.
    """
    nodes, shapes = None, ()  # type: tuple[list[int] | None, Sequence[int]]
    if device_id is not None:
        nodes = eventlog.nodes_called(device_id)
        if not nodes:
            return [], 0
        shapes = [shape for node in nodes for shape in tasks.pinned_shapes(node)]
    wanted = Wanted(tuple(kinds), nodes, shapes, since)
    return eventlog.newest(wanted, limit=limit), _count(wanted)


def _count(wanted: Wanted) -> int:
    """The number of all; without further filters only what is new since the last time is counted."""
    if wanted.nodes is not None or wanted.since is not None:
        return eventlog.count(wanted)
    first, last, kinds = events.first_id(), events.last_id(), tuple(wanted.kinds)
    with _lock:
        known = _counts.get(kinds)
    if known is None or known[0] is not current() or known[1] != first or known[2] > last:
        total = eventlog.count(wanted, until=last)
    else:
        total = known[3] + eventlog.count(wanted, after=known[2], until=last)
    with _lock:
        if len(_counts) >= _COUNTS_KEPT:
            _counts.clear()
        _counts[kinds] = (current(), first, last, total)
    return total


_lock = threading.Lock()
# kinds -> (database, oldest id, newest id, how many between them).
_counts: dict[tuple[str, ...], tuple[Database, int, int, int]] = {}
