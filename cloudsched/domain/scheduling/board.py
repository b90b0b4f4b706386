"""What do all rules of one pass share?  Counts, free capacity, queue and shares, built once."""

from __future__ import annotations

from functools import cached_property

from cloudsched.domain.scheduling.demand import Demand, TypeDemand, Waiting
from cloudsched.domain.scheduling.fit import Fitting
from cloudsched.domain.scheduling.fleet import Capacity, Tally
from cloudsched.domain.scheduling.model import Policy, Shape, Snapshot
from cloudsched.domain.scheduling.plan import Boot
from cloudsched.domain.scheduling.shares import Shares, compute_shares, type_at_limit, user_at_limit


class Board:
    """One pass's working state over a snapshot.  Planned boots are charged here at once."""

    def __init__(self, snapshot: Snapshot, policy: Policy) -> None:
        self.snapshot = snapshot
        self.policy = policy
        self.tally = Tally.of(snapshot.nodes)
        self.capacity = Capacity(snapshot.clouds, snapshot.nodes)
        self.fitting = Fitting(self.capacity, snapshot.aliases, policy)
        self.demand = Demand(snapshot.groups, high_priority=policy.high_priority_support)

    @cached_property
    def shares(self) -> Shares:
        """The shares as they were before anything was planned."""
        return compute_shares(self.tally, self.demand, self.policy, limits=self.snapshot.limits)

    def starting_limit_reached(self) -> bool:
        """`max_starting_vm`: looked at once per cycle, before the first boot (contract 7.6)."""
        return 0 <= self.policy.max_starting <= self.tally.starting

    def user_full(self, user: str) -> bool:
        return user_at_limit(user, self.tally, self.snapshot.limits)

    def type_full(self, kind: TypeDemand) -> bool:
        return type_at_limit(kind, self.tally.nodes_of(kind.user_type))

    def shape_full(self, shape: Shape) -> bool:
        return 0 <= shape.type_limit <= self.tally.nodes_of(shape.user_type)

    def bootable(self, job: Waiting) -> bool:
        """Whether only free room can be in the way: limits are kept and some enabled cloud could take it."""
        shape = job.group.shape
        if self.user_full(shape.user) or self.shape_full(shape):
            return False
        blocked = job.blocked
        return any(room.cloud.name not in blocked for room in self.fitting.usable(shape))

    def boot(self, job: Waiting, rule: str, *, reason: str) -> Boot | None:
        """Plan a boot for the job and charge it; None when no cloud has room (limits are the caller's)."""
        shape = job.group.shape
        rooms = self.fitting.candidates(shape, job.blocked)
        if not rooms:
            return None
        candidates = tuple(self.fitting.choose(shape, room) for room in rooms)
        rooms[0].charge(shape)
        self.tally.add(shape)
        self.demand.taken.add(job.head.job_id)
        return Boot(
            job_id=job.head.job_id,
            shape_id=shape.id,
            user_type=shape.user_type,
            candidates=candidates,
            also_schedule=self._companions(shape),
            rule=rule,
            reason=reason,
        )

    def _companions(self, shape: Shape) -> tuple[int, ...]:
        """The n-1 further jobs that a job-per-core node with n cores serves (contract 7.6 step 3)."""
        if not shape.job_per_core or shape.cores < 2:
            return ()
        found: list[int] = []
        for job in self.demand.left(self.demand.types[shape.user_type].queue()):
            if len(found) == shape.cores - 1:
                break
            if _alike(job.group.shape, shape):
                found.append(job.head.job_id)
        self.demand.taken.update(found)
        return tuple(found)


def _alike(one: Shape, other: Shape) -> bool:
    return (one.cores, one.memory_mb, one.storage_gb, one.network) == (
        other.cores,
        other.memory_mb,
        other.storage_gb,
        other.network,
    )
