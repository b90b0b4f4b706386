"""Which nodes still fit when a cloud's limits are read anew?  Restart, reconfig and a changed allocation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cloudsched.domain.scheduling.fleet import Capacity
from cloudsched.domain.scheduling.model import ERROR, CloudView, NodeView, Policy
from cloudsched.domain.scheduling.plan import Destroy, Plan, Retire


class Allocation(NamedTuple):
    """The answer to "change this cloud to N slots" (contract 4.2).

    `kind`: "same", "grow", "shrink" (fits in the free slots) or "evict".  `retire`: newest first, the nodes
    that move to the retired shadow and are force-retired.
    """

    kind: str
    max_slots: int
    free_slots: int
    retire: tuple[int, ...] = ()


class Reconfig(NamedTuple):
    """The answer to a cloud file read again (contract 4.11): names in configuration order, and the plan."""

    added: tuple[str, ...]
    vanished: tuple[str, ...]
    kept: tuple[str, ...]
    plan: Plan


def recharge(clouds: Sequence[CloudView], nodes: Iterable[NodeView], policy: Policy) -> Plan:
    """Contract 7.10: charge each remembered node against its cloud again, in boot order.

    What does not fit is retired (into the shadow; `retire_reallocate`) or destroyed; nodes of clouds that are
    gone are destroyed.  Nodes of the shadow are charged to nothing.
    """
    plan = Plan()
    misfits = _charge(clouds, sorted(nodes, key=lambda node: node.id), plan)
    for node in misfits:
        reason = f"does not fit {node.cloud} any more"
        if policy.retire_reallocate:
            plan.retire(Retire(node.id, node.user_type, "recharge", reason, "destroy", to_shadow=True))
        else:
            plan.destroy(Destroy(node.id, node.user_type, "recharge", reason))
    return plan


def reconfig(old: Sequence[CloudView], new: Sequence[CloudView], nodes: Iterable[NodeView]) -> Reconfig:
    """Contract 4.11: nodes of vanished clouds, and those that no longer fit, are destroyed; those in Error
    give way first, then the newest."""
    plan = Plan()
    before, after = {cloud.name for cloud in old}, {cloud.name for cloud in new}
    ranked = sorted(nodes, key=lambda node: (node.state == ERROR, node.id))
    for node in reversed(_charge(new, ranked, plan)):
        reason = f"does not fit {node.cloud} any more"
        plan.destroy(Destroy(node.id, node.user_type, "recharge", reason))
    return Reconfig(
        added=tuple(cloud.name for cloud in new if cloud.name not in before),
        vanished=tuple(cloud.name for cloud in old if cloud.name not in after),
        kept=tuple(cloud.name for cloud in new if cloud.name in before),
        plan=plan,
    )


def allocate(cloud: CloudView, nodes: Iterable[NodeView], slots: int) -> Allocation:
    """Contract 4.2 for `slots` >= 0; `nodes` may hold those of other clouds and of the shadow as well."""
    if slots < 0:
        raise ValueError(f"slots: {slots} is negative; 0 or more is allowed")
    mine = sorted((node.id for node in nodes if node.cloud == cloud.name and not node.retired), reverse=True)
    free = max(0, slots - len(mine))
    if slots == cloud.max_slots:
        return Allocation("same", slots, free)
    if slots > cloud.max_slots:
        return Allocation("grow", slots, free)
    surplus = len(mine) - slots
    return Allocation("evict" if surplus > 0 else "shrink", slots, free, tuple(mine[: max(0, surplus)]))


def _charge(clouds: Sequence[CloudView], nodes: Iterable[NodeView], plan: Plan) -> list[NodeView]:
    """The nodes that do not fit; those of unknown clouds are destroyed in `plan`."""
    capacity = Capacity(clouds, ())
    misfits = []
    for node in nodes:
        room = capacity.by_name.get(node.cloud)
        if room is None:
            reason = f"its cloud {node.cloud} is not configured any more"
            plan.destroy(Destroy(node.id, node.user_type, "cloud_gone", reason))
        elif not node.retired:
            if room.holds(node):
                room.charge(node)
            else:
                misfits.append(node)
    return misfits
