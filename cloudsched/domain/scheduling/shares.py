"""How far is each user-type from its fair share?  Current, desired, difference (contract 7.5, T10)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloudsched.domain.scheduling.demand import Demand, TypeDemand, Waiting
from cloudsched.domain.scheduling.fleet import Tally, Use
from cloudsched.domain.scheduling.model import Policy, Snapshot

# A share this close to its target has reached it: sums of fractions do not cancel exactly.
EPSILON = 1e-9


@dataclass(frozen=True, slots=True)
class Shares:
    """User-type to share; negative `diff` = should grow.  `limited`: types that may not grow."""

    current: Mapping[str, float]
    desired: Mapping[str, float]
    diff: Mapping[str, float]
    limited: frozenset[str] = frozenset()

    def may_grow(self, user_type: str) -> bool:
        """Whether its diff is at most 0; a type that counts nowhere has no share to grow into."""
        return self.diff.get(user_type, 1.0) <= EPSILON


def shares(snapshot: Snapshot, policy: Policy) -> Shares:
    """The three tables of T10 for a snapshot."""
    demand = Demand(snapshot.groups, high_priority=policy.high_priority_support)
    return compute_shares(Tally.of(snapshot.nodes), demand, policy, limits=snapshot.limits)


def compute_shares(tally: Tally, demand: Demand, policy: Policy, *, limits: Mapping[str, int]) -> Shares:
    """As `shares`, over counts that are there already."""
    current = current_shares(tally.types, policy)
    desired = desired_shares(demand, policy)
    diff = differences(current, desired)
    limited = frozenset(
        user_type for user_type in diff if not _can_grow(user_type, tally=tally, demand=demand, limits=limits)
    )
    return Shares(current, desired, spread(diff, limited), limited)


def current_shares(types: Mapping[str, Use], policy: Policy) -> dict[str, float]:
    """Each type's part of what all nodes amount to under the metric; {} without nodes."""
    measure = _METRICS.get(policy.metric, _slot)
    amounts = {user_type: measure(use, policy) for user_type, use in types.items() if use.nodes > 0}
    total = sum(amounts.values())
    if total <= 0 and amounts:  # nodes without any memory: fall back to counting them
        amounts = {user_type: float(types[user_type].nodes) for user_type in amounts}
        total = sum(amounts.values())
    return {user_type: amount / total for user_type, amount in amounts.items()}


def desired_shares(demand: Demand, policy: Policy) -> dict[str, float]:
    """What each type should have, from the users' first waiting jobs; high priority counts again."""
    firsts = _split_types if policy.distribution == "split" else _first_type
    plain = {user: firsts([kind.first() for kind in kinds]) for user, kinds in demand.users.items()}
    high = {user: _high_types(demand, user, policy.distribution) for user in demand.high}
    plain = {user: types for user, types in plain.items() if types}
    weight = float(policy.high_priority_weight) if policy.high_priority_weight > 0 else 1.0
    desired: dict[str, float] = {}
    _count(desired, plain, 1.0 / weight if high else 1.0)
    _count(desired, high, weight)
    counted = len(plain) + len(high)
    return {user_type: part / counted for user_type, part in desired.items()}


def differences(current: Mapping[str, float], desired: Mapping[str, float]) -> dict[str, float]:
    """current - desired; only current: 1; only desired: -desired."""
    diff = {
        user_type: share - desired[user_type] if user_type in desired else 1.0
        for user_type, share in current.items()
    }
    diff.update({user_type: -share for user_type, share in desired.items() if user_type not in current})
    return diff


def spread(diff: dict[str, float], limited: frozenset[str]) -> dict[str, float]:
    """What the limited types may not grow into goes to the others, each an equal part."""
    free = len(diff.keys() - limited)
    unused = sum(diff[user_type] for user_type in limited if user_type in diff and diff[user_type] < 0)
    if not free or not unused:
        return diff
    each = unused / free
    return {key: value if key in limited else value + each for key, value in diff.items()}


def type_at_limit(kind: TypeDemand, nodes: int) -> bool:
    """Whether every waiting job of the type has a VMTypeLimit that its nodes have reached."""
    waiting = [group for group in kind.groups if group.unscheduled > 0]
    return bool(waiting) and all(0 <= group.shape.type_limit <= nodes for group in waiting)


def user_at_limit(user: str, tally: Tally, limits: Mapping[str, int]) -> bool:
    """Whether the user's nodes (any state, active clouds) are not below the limit (contract 6.4)."""
    limit = limits.get(user)
    return limit is not None and tally.users.get(user, 0) >= limit


def _can_grow(user_type: str, *, tally: Tally, demand: Demand, limits: Mapping[str, int]) -> bool:
    kind = demand.types.get(user_type)
    user = kind.user if kind else tally.types[user_type].user
    if user_at_limit(user, tally, limits):
        return False
    return kind is None or not type_at_limit(kind, tally.nodes_of(user_type))


def _count(desired: dict[str, float], users: Mapping[str, list[str]], weight: float) -> None:
    for types in users.values():
        for user_type in types:
            desired[user_type] = desired.get(user_type, 0.0) + weight / len(types)


def _high_types(demand: Demand, user: str, distribution: str) -> list[str]:
    jobs = demand.high_of_user(user)
    if distribution != "split":
        return [jobs[0].group.shape.user_type]
    top = (jobs[0].group.shape.high_priority, jobs[0].head.priority)
    best = [job for job in jobs if (job.group.shape.high_priority, job.head.priority) == top]
    return list(dict.fromkeys(job.group.shape.user_type for job in best))


def _first_type(firsts: list[Waiting | None]) -> list[str]:
    jobs = [job for job in firsts if job is not None]
    if not jobs:
        return []
    first = min(jobs, key=lambda job: (-job.head.priority, job.head.job_id))
    return [first.group.shape.user_type]


def _split_types(firsts: list[Waiting | None]) -> list[str]:
    jobs = [job for job in firsts if job is not None]
    top = max((job.head.priority for job in jobs), default=0)
    return [job.group.shape.user_type for job in jobs if job.head.priority == top]


def _slot(use: Use, policy: Policy) -> float:
    return float(use.nodes)


def _memory(use: Use, policy: Policy) -> float:
    return float(use.memory_mb)


def _memory_cpu(use: Use, policy: Policy) -> float:
    return float(use.memory_mb) * use.cores


def _memory_cpu_storage(use: Use, policy: Policy) -> float:
    amount = use.memory_mb * policy.memory_weight * use.cores * policy.cpu_weight
    return amount * use.storage_gb * policy.storage_weight if use.storage_gb else amount


_METRICS = {
    "slot": _slot,
    "memory": _memory,
    "memory_cpu": _memory_cpu,
    "memory_cpu_storage": _memory_cpu_storage,
}
