"""What changes when a machine is heard from? It is online (again), its sample is counted; at the cost of two statements."""

from __future__ import annotations

from cloudsched.domain.devices import Sample
from cloudsched.services import fleet_config
from cloudsched.store import devices as store
from cloudsched.store import series
from cloudsched.store.db import Tx

NO_SAMPLE = Sample()


def heard(tx: Tx, node_id: int, device_id: str, *, at: float, seen_at: float | None, online_since: float | None,
          beats: int = 0, sample: Sample = NO_SAMPLE, counters: tuple[float | None, float | None] = (None, None)) -> None:
    """A machine with a row in `device` was heard from at `at`, before that at `seen_at`. Its node is written by the caller.

    `beats`: heartbeats to count; `counters`: network counters (sent, received) of its sample before this one.
    """
    since = came_back(tx, node_id, device_id, at=at, seen_at=seen_at, online_since=online_since)
    if beats or since is not None:
        store.beat(tx, node_id, beats=beats, sent=sample.sent, received=sample.received, online_since=since)
    if sample:
        series.add(tx, node_id, at, cpu=sample.cpu, memory=sample.memory, disk=sample.disk,
                   sent=_step(counters[0], sample.sent), received=_step(counters[1], sample.received))


def came_back(tx: Tx, node_id: int, device_id: str, *, at: float, seen_at: float | None,
              online_since: float | None) -> float | None:
    """Since when it is online, when that begins now; None when it was online all the time."""
    if online_since is not None:
        if seen_at is None or at - seen_at <= fleet_config.recent().offline_threshold_s:
            return None
        # It was away for longer than the threshold, and no engine has noticed yet.
        store.end_period(tx, node_id, online_since, seen_at)
        store.note_offline(tx, node_id, device_id, at=at, seen_at=seen_at)
    store.came_online(tx, node_id, device_id, at=at)
    return at


def _step(before: float | None, now: float | None) -> float:
    """A positive step of a counter; one that began anew (a restart) counts as none."""
    return max(0.0, now - before) if before is not None and now is not None else 0.0
