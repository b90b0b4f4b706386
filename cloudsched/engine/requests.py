"""On which cloud is a node asked for? The first candidate that can still take it, looked at inside the transaction."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cloudsched import clock
from cloudsched.domain.entities import Cloud
from cloudsched.domain.scheduling.model import Shape
from cloudsched.domain.scheduling.plan import Candidate
from cloudsched.services import lifecycle
from cloudsched.store import boots as kept
from cloudsched.store import clouds
from cloudsched.store.db import Tx

ACTOR = "scheduler"


class Rooms:
    """What is left on the clouds: each is read once in a transaction and charged with every request."""

    def __init__(self, tx: Tx, *, out: Container[str] = ()) -> None:
        self._tx = tx
        self._out = out
        self._left: dict[str, tuple[Cloud, list[float]] | None] = {}

    def take(self, name: str, shape: Shape) -> Cloud | None:
        """The cloud, charged with one node of the shape; None when it is off, gone, out of reach, full or left `out`."""
        if name not in self._left:
            self._left[name] = self._look(name)
        found = self._left[name]
        needs = (1, shape.memory_mb, shape.storage_gb)
        if found is None or any(have < need for have, need in zip(found[1], needs, strict=True)):
            return None
        found[1][:] = [have - need for have, need in zip(found[1], needs, strict=True)]
        return found[0]

    def _look(self, name: str) -> tuple[Cloud, list[float]] | None:
        cloud = None if name in self._out else clouds.by_name(name)
        if cloud is None or not cloud.enabled or (cloud.error_since is not None and cloud.error_text):
            return None  # the poller asks one that is out of reach in each cycle, and says when it answers
        limits = (cloud.max_slots, cloud.memory_mb, cloud.storage_gb)
        used = kept.used(self._tx, cloud.id)
        left = [float("inf") if limit < 0 else limit - taken for limit, taken in zip(limits[1:], used[1:], strict=True)]
        return cloud, [cloud.max_slots - used[0], *left]


def request_node(tx: Tx, shape: Shape, candidates: Sequence[Candidate], *, rooms: Rooms, job_id: int | None, at: float,
                 note: Mapping[str, object], after: str = "") -> int | None:
    """Write down a node for a job on the first candidate (behind cloud `after`) with room; None when there is none."""
    names = [candidate.cloud for candidate in candidates]
    for candidate in candidates[names.index(after) + 1 if after in names else 0:]:
        cloud = rooms.take(candidate.cloud, shape)
        if cloud is not None:
            values = _columns(shape, cloud, candidate) | {"job_id": job_id}
            return lifecycle.request(tx, values, [asdict(one) for one in candidates], at=at, actor=ACTOR,
                                     note={**note, "cloud": cloud.name, "job": job_id})
    return None


def candidates_of(text: str) -> list[Candidate]:
    """The candidates as a node keeps them."""
    return [Candidate(**{**item, "security_groups": tuple(item["security_groups"])}) for item in json.loads(text)]


def _columns(shape: Shape, cloud: Cloud, candidate: Candidate) -> dict[str, Any]:
    cores = max(1, shape.cores)
    return {
        "name": f"{cloud.name.replace('_', '-')}-{clock.new_suffix(10)}", "cloud_id": cloud.id, "user": shape.user,
        "vm_type": shape.vm_type, "cores": cores, "memory_mb": shape.memory_mb, "storage_gb": shape.storage_gb,
        "network": shape.network, "image": candidate.image, "instance_type": candidate.instance_type,
        "slots": cores if shape.job_per_core else 1, "job_per_core": int(shape.job_per_core), "shape_id": shape.id,
        "keep_alive_s": candidate.keep_alive_s,
    }
