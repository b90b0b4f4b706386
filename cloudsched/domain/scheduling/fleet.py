"""What do the active nodes use, and what is left on each cloud?

Nodes of the retired shadow are charged to no cloud and count for no share and no limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloudsched.domain.scheduling.model import STARTING, CloudView, NodeView, Shape


@dataclass(slots=True)
class Use:
    """Sums over the nodes of one user-type."""

    nodes: int = 0
    cores: int = 0
    memory_mb: int = 0
    storage_gb: int = 0
    user: str = ""

    def plus(self, times: int, each: Shape | Use) -> Use:
        """The sums with `times` nodes like `each` more (or fewer, when negative)."""
        return Use(
            self.nodes + times,
            self.cores + times * each.cores,
            self.memory_mb + times * each.memory_mb,
            self.storage_gb + times * each.storage_gb,
            self.user or each.user,
        )


@dataclass(slots=True)
class Tally:
    """Counts over the active nodes: per user-type, per user, and how many are Starting."""

    types: dict[str, Use] = field(default_factory=dict)
    users: dict[str, int] = field(default_factory=dict)
    starting: int = 0
    total: int = 0

    @classmethod
    def of(cls, nodes: Iterable[NodeView]) -> Tally:
        tally = cls()
        types, users = tally.types, tally.users
        for node in nodes:
            if node.retired:
                continue
            use = types.get(node.user_type)
            if use is None:
                use = types[node.user_type] = Use(user=node.user)
            use.nodes += 1
            use.cores += node.cores
            use.memory_mb += node.memory_mb
            use.storage_gb += node.storage_gb
            users[node.user] = users.get(node.user, 0) + 1
            tally.total += 1
            if node.state == STARTING:
                tally.starting += 1
        return tally

    def nodes_of(self, user_type: str) -> int:
        use = self.types.get(user_type)
        return use.nodes if use else 0

    def add(self, shape: Shape) -> None:
        """Count one node that is being booted for `shape`."""
        self.types[shape.user_type] = self.types.get(shape.user_type, Use()).plus(1, shape)
        self.users[shape.user] = self.users.get(shape.user, 0) + 1
        self.total += 1
        self.starting += 1


@dataclass(slots=True)
class Room:
    """What is left on one cloud; `math.inf` where the cloud sets no limit."""

    cloud: CloudView
    order: int
    used_slots: int
    free_slots: int
    free_memory_mb: float
    free_storage_gb: float

    @property
    def fill(self) -> float:
        """Used slots over the maximum; a cloud without slots is full."""
        return self.used_slots / self.cloud.max_slots if self.cloud.max_slots > 0 else 1.0

    def holds(self, each: Shape | NodeView) -> bool:
        return (
            self.free_slots > 0
            and each.memory_mb <= self.free_memory_mb
            and each.storage_gb <= self.free_storage_gb
        )

    def holds_count(self, each: Shape) -> int:
        """How many nodes like `each` the rest holds: the minimum over slots, memory and storage."""
        counts: list[float] = [self.free_slots]
        if each.memory_mb > 0:
            counts.append(self.free_memory_mb // each.memory_mb)
        if each.storage_gb > 0:
            counts.append(self.free_storage_gb // each.storage_gb)
        return max(0, int(min(counts)))

    def charge(self, each: Shape | NodeView, times: int = 1) -> None:
        """Take the resources of `times` nodes (negative: give them back)."""
        self.used_slots += times
        self.free_slots -= times
        self.free_memory_mb -= times * each.memory_mb
        self.free_storage_gb -= times * each.storage_gb


class Capacity:
    """What is left on every cloud, kept up to date while a plan is made (contract J2: maximum minus use)."""

    def __init__(self, clouds: Sequence[CloudView], nodes: Iterable[NodeView]) -> None:
        self.rooms = tuple(_empty_room(cloud, order) for order, cloud in enumerate(clouds))
        self.by_name = {room.cloud.name: room for room in self.rooms}
        for node in nodes:
            if not node.retired and (room := self.by_name.get(node.cloud)) is not None:
                room.charge(node)

    def has_room(self, cloud: str, shape: Shape) -> bool:
        """Whether the named cloud has a slot, memory and storage left for one node of `shape`."""
        room = self.by_name.get(cloud)
        return room is not None and room.holds(shape)

    def any_slot(self) -> bool:
        return any(room.free_slots > 0 and room.cloud.enabled for room in self.rooms)


def _empty_room(cloud: CloudView, order: int) -> Room:
    return Room(cloud, order, 0, cloud.max_slots, _limit(cloud.max_memory_mb), _limit(cloud.max_storage_gb))


def _limit(maximum: int) -> float:
    return math.inf if maximum < 0 else maximum
