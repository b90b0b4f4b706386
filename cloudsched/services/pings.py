"""Is a device really there? Probes over our agent's own channel, or to its address (contract 9.3 ping)."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cloudsched import clock
from cloudsched.domain import devices as domain
from cloudsched.drivers import probe
from cloudsched.services import waiters
from cloudsched.store import devices as store
from cloudsched.store.db import write

LOOK_S = 0.02
COUNT_MAX, TIMEOUT_MIN_S, TIMEOUT_MAX_S = 20, 0.1, 30.0


@dataclass(frozen=True, slots=True)
class Probe:
    """One answered probe; `seq` counts from 1."""

    seq: int
    time_ms: float


@dataclass(frozen=True, slots=True)
class Ping:
    """What a ping found. `duration_ms`: how long all of it took."""

    device_id: str
    reachable: bool
    average_latency_ms: float | None
    packet_loss: float
    results: list[Probe]
    at: float
    duration_ms: float


def ping(node_id: int, device_id: str, *, count: int, timeout_s: float, online: bool, own_channel: bool, address: str) -> Ping:
    """Probe `count` times, one after the other; once one was not answered, the rest go out together, so that a device that
    is gone costs two time limits and not `count`."""
    count, timeout_s = min(max(count, 1), COUNT_MAX), min(max(timeout_s, TIMEOUT_MIN_S), TIMEOUT_MAX_S)
    at, began = clock.now(), time.monotonic()
    found: list[float | None] = []
    if online:
        while len(found) < count and (not found or found[-1] is not None):
            found += _probe(node_id, 1, timeout_s, own_channel, address)
        if len(found) < count:
            found += _probe(node_id, count - len(found), timeout_s, own_channel, address)
    answered = [Probe(seq, domain.rounded(ms, 1)) for seq, ms in enumerate(found, start=1) if ms is not None]
    mean = sum(ms for ms in found if ms is not None) / len(answered) if answered else None
    return Ping(device_id, bool(answered), None if mean is None else domain.rounded(mean, 1),
                domain.percent(count - len(answered), count), answered, at, domain.rounded((time.monotonic() - began) * 1000, 1))


def _probe(node_id: int, count: int, timeout_s: float, own_channel: bool, address: str) -> list[float | None]:
    if own_channel:
        return _over_agent(node_id, count, timeout_s)
    if count == 1:
        return [probe.tcp_ms(address, timeout_s=timeout_s)]
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: probe.tcp_ms(address, timeout_s=timeout_s), range(count)))


def _over_agent(node_id: int, count: int, timeout_s: float) -> list[float | None]:
    """Probes handed to the agent with its next answer; it sends them back at once. Timed from the one to the other."""
    at = clock.now()
    ids = write(lambda tx: [store.add_ping(tx, node_id, at=at) for _ in range(count)])
    waiters.wake_node(node_id)
    until = time.monotonic() + timeout_s
    while True:
        seen = store.pings(ids)
        done = all(number in seen and seen[number][1] is not None for number in ids)
        if done or time.monotonic() >= until:
            break
        time.sleep(LOOK_S)
    write(lambda tx: store.close_pings(tx, ids))
    return [_ms(*seen.get(number, (None, None))) for number in ids]


def _ms(sent_at: float | None, answered_at: float | None) -> float | None:
    return None if sent_at is None or answered_at is None else max(0.0, answered_at - sent_at) * 1000
