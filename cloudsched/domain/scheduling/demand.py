"""Who wants what?  The job groups by user and user-type, and the waiting jobs in the order they are taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from cloudsched.domain.scheduling.model import Head, JobGroup, Shape


@dataclass(slots=True)
class Waiting:
    """One waiting job (a head of its group)."""

    head: Head
    group: JobGroup

    @property
    def blocked(self) -> frozenset[str]:
        return self.group.blocked.get(self.head.job_id, frozenset())


@dataclass(slots=True)
class TypeDemand:
    """All jobs of one user-type; banned and held ones count nowhere (contract 7.5, 7.8 step 8)."""

    user: str
    vm_type: str
    user_type: str
    groups: list[JobGroup] = field(default_factory=list)
    waiting: int = 0
    scheduled_idle: int = 0
    running: int = 0
    _queue: list[Waiting] | None = None

    @property
    def jobs(self) -> int:
        return self.waiting + self.scheduled_idle + self.running

    @property
    def nodes_wanted(self) -> int:
        """How many nodes the waiting jobs could use: one each, or one per n with n cores job-per-core."""
        return sum(-(-group.unscheduled // jobs_per_node(group.shape)) for group in self.groups)

    def queue(self) -> list[Waiting]:
        """The known waiting jobs, descending priority then ascending id."""
        if self._queue is None:
            self._queue = in_order(self.groups)
        return self._queue

    def first(self) -> Waiting | None:
        queue = self.queue()
        return queue[0] if queue else None


class Demand:
    """The groups indexed by user-type and by user; `taken` are the jobs this pass has found a node for."""

    def __init__(self, groups: Iterable[JobGroup], *, high_priority: bool = False) -> None:
        self.types: dict[str, TypeDemand] = {}
        self.users: dict[str, list[TypeDemand]] = {}
        self.taken: set[int] = set()
        self.high: dict[str, list[JobGroup]] = {}
        for group in groups:
            self._add(group)
            if high_priority and group.shape.high_priority and group.heads:
                self.high.setdefault(group.shape.user, []).append(group)

    def left(self, queue: Iterable[Waiting]) -> Iterator[Waiting]:
        """The jobs of a queue this pass has not taken yet."""
        return (job for job in queue if job.head.job_id not in self.taken)

    def first_of_user(self, user: str) -> Waiting | None:
        """The user's first waiting job over all types, in priority order."""
        firsts = (next(self.left(kind.queue()), None) for kind in self.users.get(user, ()))
        return min((job for job in firsts if job is not None), key=_urgency, default=None)

    def high_of_user(self, user: str) -> list[Waiting]:
        """The user's high-priority jobs: highest high-priority value, then priority, then oldest first."""
        jobs = in_order(self.high.get(user, ()))
        return sorted(jobs, key=lambda job: (-job.group.shape.high_priority, _urgency(job)))

    def _add(self, group: JobGroup) -> None:
        shape = group.shape
        kind = self.types.get(shape.user_type)
        if kind is None:
            kind = self.types[shape.user_type] = TypeDemand(shape.user, shape.vm_type, shape.user_type)
            self.users.setdefault(shape.user, []).append(kind)
        kind.groups.append(group)
        kind.waiting += group.unscheduled
        kind.scheduled_idle += group.scheduled_idle
        kind.running += group.running


def jobs_per_node(shape: Shape) -> int:
    """How many jobs one node of the shape serves."""
    return max(1, shape.cores) if shape.job_per_core else 1


def in_order(groups: Sequence[JobGroup]) -> list[Waiting]:
    """The heads of the groups as one queue, descending priority then ascending id."""
    jobs = [Waiting(head, group) for group in groups for head in group.heads]
    if len(groups) > 1:
        jobs.sort(key=_urgency)
    return jobs


def _urgency(job: Waiting) -> tuple[int, int]:
    return -job.head.priority, job.head.job_id
