"""What is set right in the queue and on the clouds' switches?  (contract 7.8 steps 4, 12, 13 and 14)"""

from __future__ import annotations

from collections.abc import Sequence

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import TypeDemand
from cloudsched.domain.scheduling.matching import HostIndex
from cloudsched.domain.scheduling.model import NodeView
from cloudsched.domain.scheduling.plan import Hold, Place, Plan, SwitchCloud

NO_MATCHING_CLOUD = "Failed to find matching cloud:check targetcloud, memory, etc."


def hold_impossible(board: Board, plan: Plan) -> None:
    """Step 4: waiting jobs no cloud could ever take, even if enabled and empty (B32, B33, B34).

    With no cloud configured nothing is known and nothing is held.
    """
    if not board.snapshot.clouds:
        return
    for group in board.snapshot.groups:
        if group.unscheduled > 0 and not board.fitting.possible(group.shape):
            plan.holds.append(Hold(group.shape.id, NO_MATCHING_CLOUD))


def schedule_running(board: Board, plan: Plan) -> None:
    """Step 12, first half: running jobs become Scheduled."""
    for group in board.snapshot.groups:
        plan.mark_scheduled.extend(group.running_unscheduled_ids)


def unschedule_surplus(board: Board, plan: Plan) -> None:
    """Step 12, second half: a user-type has more Scheduled jobs than slots: idle ones wait for a node again.

    A node counts as one slot, or as its cores with job-per-core; nodes of the retired shadow still run jobs
    and count too.
    """
    slots = _slots_by_type(board.snapshot.nodes)
    for kind in board.demand.types.values():
        surplus = kind.scheduled_idle + kind.running - slots.get(kind.user_type, 0)
        if surplus > 0 and kind.scheduled_idle:
            plan.unschedule.extend(_idle_scheduled(kind)[:surplus])


def place_running(board: Board, plan: Plan) -> None:
    """Step 13: the cloud and node each running job is on; only what is not recorded already (B26)."""
    if not board.snapshot.running_jobs:
        return
    index = HostIndex(board.snapshot.nodes)
    clouds = {node.id: node.cloud for node in board.snapshot.nodes}
    for job in board.snapshot.running_jobs:
        node_id = index.find(job.remote_host)
        if node_id is None:
            continue
        if (job.noted_cloud, job.noted_node_id) != (clouds[node_id], node_id):
            plan.places.append(Place(job.job_id, clouds[node_id], node_id))


def switch_clouds(board: Board, plan: Plan, *, now: float) -> None:
    """Step 14 (B47): disable what cannot be reached for long; enable again only what was so disabled."""
    policy = board.policy
    for cloud in board.snapshot.clouds:
        if cloud.connection_failed_at is None:
            if cloud.auto_disabled and not cloud.enabled:
                plan.switches.append(SwitchCloud(cloud.name, True, "connections work again"))
            continue
        failing_s = now - cloud.connection_failed_at
        limit_s = policy.connection_fail_threshold_s
        if cloud.enabled and not cloud.auto_disabled and failing_s > limit_s:
            reason = f"connections fail for {failing_s:.0f} s; the limit is {limit_s} s"
            plan.switches.append(SwitchCloud(cloud.name, False, reason))
        elif cloud.auto_disabled and not cloud.enabled:
            pause_s = limit_s + policy.connection_fail_disable_s
            if failing_s > pause_s:
                reason = f"disabled for connection trouble; {pause_s} s are over"
                plan.switches.append(SwitchCloud(cloud.name, True, reason))


def _slots_by_type(nodes: Sequence[NodeView]) -> dict[str, int]:
    slots: dict[str, int] = {}
    for node in nodes:
        slots[node.user_type] = slots.get(node.user_type, 0) + (node.cores if node.job_per_core else 1)
    return slots


def _idle_scheduled(kind: TypeDemand) -> list[int]:
    """Newest first when several groups offer jobs; within one group the given order."""
    if len(kind.groups) == 1:
        return list(kind.groups[0].scheduled_idle_ids)
    return sorted((job for group in kind.groups for job in group.scheduled_idle_ids), reverse=True)
