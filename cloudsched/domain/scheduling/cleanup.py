"""Which nodes go, apart from fair share, and what is noted about the others?  (contract 7.8 steps 1 to 10)

Each public function is one step; `passes.clean_up` runs them in the contract's order.
"""

from __future__ import annotations

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import TypeDemand
from cloudsched.domain.scheduling.matching import Matches
from cloudsched.domain.scheduling.model import (
    ERROR,
    RETIRING,
    RUNNING,
    SHUTDOWN,
    STARTING,
    JobGroup,
    NodeView,
    Shape,
)
from cloudsched.domain.scheduling.plan import (
    Destroy,
    ForgetRegistration,
    Hold,
    Plan,
    Register,
    Retire,
    SetIdle,
)

FINISHED_RETIRING = "VM Finished Retiring."
POLL_ERROR = "VM is in an Error state."
BAD_REQUIREMENTS = "Bad job requirements."
HELD_BAD_REQUIREMENTS = "HeldBadReqs"


def destroy(board: Board, plan: Plan, order: Destroy, node: NodeView) -> bool:
    """Plan a destroy unless one is under way or the cloud has connection trouble (7.8, last line)."""
    if not destroyable(board, node):
        return False
    return plan.destroy(order)


def destroyable(board: Board, node: NodeView) -> bool:
    room = board.capacity.by_name.get(node.cloud)
    return not node.destroying and not (room is not None and room.cloud.connection_problem)


def retire_before_lifetime(board: Board, plan: Plan, *, now: float) -> None:
    """Step 1: the node's remaining lifetime is below its average run time times the factor."""
    policy = board.policy
    if not policy.retire_before_lifetime:
        return
    for node in board.snapshot.nodes:
        if node.expires_at is None or not node.average_run_s or node.override == RETIRING or node.retired:
            continue
        left_s, need_s = node.expires_at - now, node.average_run_s * policy.retire_before_lifetime_factor
        if left_s < need_s:
            reason = f"{left_s:.0f} s of lifetime left, a job takes {need_s:.0f} s"
            plan.retire(Retire(node.id, node.user_type, "lifetime", reason))


def destroy_expiring_proxies(board: Board, plan: Plan, *, now: float) -> None:
    """Step 2: the node's proxy expires within `vm_proxy_shutdown_threshold`."""
    for node in board.snapshot.nodes:
        if node.proxy_expires_at is None:
            continue
        left_s = node.proxy_expires_at - now
        if left_s <= board.policy.proxy_shutdown_threshold_s:
            reason = f"its proxy expires in {left_s:.0f} s"
            destroy(board, plan, Destroy(node.id, node.user_type, "proxy", reason), node)


def destroy_slow_boots(board: Board, plan: Plan, *, now: float) -> None:
    """Step 3: Starting longer than the cloud's boot timeout; the image is noted."""
    for node in board.snapshot.nodes:
        if node.state != STARTING:
            continue
        timeout_s, waited_s = boot_timeout(board, node), now - node.boot_requested_at
        if 0 <= timeout_s < waited_s:
            reason = f"Starting for {waited_s:.0f} s; the boot timeout is {timeout_s} s"
            order = Destroy(node.id, node.user_type, "boot_timeout", reason, note_image=True)
            destroy(board, plan, order, node)


def boot_timeout(board: Board, node: NodeView) -> int:
    """The cloud's boot timeout in seconds, else the policy's; -1 = none."""
    room = board.capacity.by_name.get(node.cloud)
    own = room.cloud.boot_timeout_s if room is not None else None
    return board.policy.boot_timeout_s if own is None else own


def destroy_bad_polls(board: Board, plan: Plan) -> None:
    """7.4: as many bad polls in a row as `polling_error_threshold`.  Not a step of 7.8; for the poller."""
    for node in board.snapshot.nodes:
        bad = node.state in (ERROR, SHUTDOWN)
        if bad and node.error_polls >= board.policy.polling_error_threshold:
            destroy(board, plan, Destroy(node.id, node.user_type, "polling_errors", POLL_ERROR), node)


def check_machines(board: Board, plan: Plan, matches: Matches, *, now: float, retired: bool) -> None:
    """Steps 6 (active nodes) and 7 (retired shadow): registrations, idle clocks, machines that vanished."""
    for node in board.snapshot.nodes:
        if node.retired != retired or node.state != RUNNING:
            continue
        if matches.slots_of(node.id):
            _note_registration(plan, node, matches)
            _note_idle(plan, node, matches, now=now)
            if retired and node.override != RETIRING:
                reason = "in the retired shadow and still taking jobs"
                plan.retire(Retire(node.id, node.user_type, "shadow", reason))
        elif board.snapshot.machines_read:
            _without_machine(board, plan, node, now=now)


def _note_registration(plan: Plan, node: NodeView, matches: Matches) -> None:
    slot = matches.slots_of(node.id)[0]
    name = slot.machine or slot.name
    seen = (name, slot.address, slot.master_address)
    if seen != (node.registered_name, node.registered_address, node.registered_master):
        plan.registers.append(Register(node.id, *seen))


def _note_idle(plan: Plan, node: NodeView, matches: Matches, *, now: float) -> None:
    if matches.idle(node.id):
        if node.idle_since is None:
            plan.set_idle.append(SetIdle(node.id, now))
    elif node.idle_since is not None and matches.claimed(node.id):
        plan.set_idle.append(SetIdle(node.id, None))


def _without_machine(board: Board, plan: Plan, node: NodeView, *, now: float) -> None:
    if node.override == RETIRING:
        destroy(board, plan, Destroy(node.id, node.user_type, "retired", FINISHED_RETIRING), node)
        return
    if node.idle_since is not None:
        plan.set_idle.append(SetIdle(node.id, None))
    if node.registered_name:
        plan.forgets.append(ForgetRegistration(node.id))
        return
    since = register_clock(node)
    if since is not None and now - since > board.policy.register_time_limit_s:
        limit_s = board.policy.register_time_limit_s
        reason = f"Running for {now - since:.0f} s without registering; the limit is {limit_s} s"
        order = Destroy(node.id, node.user_type, "not_registered", reason, note_image=True)
        destroy(board, plan, order, node)


def register_clock(node: NodeView) -> float | None:
    """Since when the node is Running without a registration."""
    return node.running_since if node.register_clock_at is None else node.register_clock_at


def retire_unneeded_types(board: Board, plan: Plan, matches: Matches, *, now: float) -> None:
    """Step 8: no job needs the user-type and the node is idle longer than its keep-alive."""
    for node in board.snapshot.nodes:
        if node.retired or node.override == RETIRING or _jobs(board.demand.types.get(node.user_type)):
            continue
        if idle_for(node, matches, now=now) <= node.keep_alive_s:
            continue
        reason = f"no job needs {node.user_type} and it was idle longer than {node.keep_alive_s} s"
        if destroyable(board, node):
            order = Retire(
                node.id, node.user_type, "unneeded", reason, on_failure="destroy", then_destroy=True
            )
            plan.retire(order)


def idle_for(node: NodeView, matches: Matches, *, now: float) -> float:
    """Seconds the node is idle; -1 when it is not, or not known to be."""
    if node.idle_since is None or (matches.slots_of(node.id) and not matches.idle(node.id)):
        return -1.0
    return now - node.idle_since


def clean_shutdown_idle(board: Board, plan: Plan, matches: Matches, *, now: float) -> None:
    """Step 9 (B49): a node idle for long while its owner has idle jobs: nodes that fit none of them retire;
    jobs that should have run there are held."""
    threshold_s = board.policy.idle_threshold_s
    if not board.policy.clean_shutdown_idle:
        return
    held: set[int] = set()
    for node in board.snapshot.nodes:
        if node.retired or node.override == RETIRING or not matches.idle(node.id):
            continue
        if idle_for(node, matches, now=now) <= threshold_s:
            continue
        groups = _idle_groups(board, node.user)
        fitting = [group for group in groups if runs_on(group.shape, node, board=board)]
        if groups and not fitting:
            reason = f"idle longer than {threshold_s} s and none of {node.user}'s idle jobs fits it"
            plan.retire(Retire(node.id, node.user_type, "idle_misfit", reason))
        held.update(group.shape.id for group in fitting if _waited(group, now - threshold_s))
    for shape_id in sorted(held):
        order = Hold(shape_id, BAD_REQUIREMENTS, "idle", now - threshold_s, HELD_BAD_REQUIREMENTS)
        plan.holds.append(order)


def runs_on(shape: Shape, node: NodeView, *, board: Board) -> bool:
    """Whether a job of the shape could run on the node as it is."""
    if shape.user_type != node.user_type or (shape.network and shape.network != node.network):
        return False
    if shape.cores > node.cores or shape.memory_mb > node.memory_mb or shape.storage_gb > node.storage_gb:
        return False
    room = board.fitting.capacity.by_name.get(node.cloud)
    if shape.gpus > (room.cloud.node_gpus if room else 0):
        return False
    targets = board.fitting.targets(shape)
    return targets is None or node.cloud in targets


def _idle_groups(board: Board, user: str) -> list[JobGroup]:
    kinds = board.demand.users.get(user, ())
    return [group for kind in kinds for group in kind.groups if group.unscheduled + group.scheduled_idle]


def _waited(group: JobGroup, limit: float) -> bool:
    return group.oldest_idle_at is None or group.oldest_idle_at <= limit


def retire_excess(board: Board, plan: Plan, matches: Matches, *, now: float) -> None:
    """Step 10: more registered slots of a user-type than jobs for it: idle nodes go after their keep-alive.

    A node goes only if all its slots are in excess; those idle longest go first.
    """
    slots: dict[str, int] = {}
    idle: dict[str, list[tuple[float, NodeView]]] = {}
    for node in board.snapshot.nodes:
        count = len(matches.slots_of(node.id))
        if not count or node.retired or node.override == RETIRING or node.id in plan.going:
            continue
        slots[node.user_type] = slots.get(node.user_type, 0) + count
        idle_s = idle_for(node, matches, now=now)
        if idle_s > node.keep_alive_s and matches.idle(node.id):
            idle.setdefault(node.user_type, []).append((idle_s, node))
    for user_type, nodes in idle.items():
        kind = board.demand.types.get(user_type)
        _retire_excess_of(plan, nodes, matches, excess=slots[user_type] - _jobs(kind))


def _jobs(kind: TypeDemand | None) -> int:
    return kind.jobs if kind else 0


def _retire_excess_of(
    plan: Plan, nodes: list[tuple[float, NodeView]], matches: Matches, *, excess: int
) -> None:
    for _, node in sorted(nodes, key=lambda pair: (-pair[0], pair[1].id)):
        count = len(matches.slots_of(node.id))
        if count <= excess:
            reason = f"{excess} slots of {node.user_type} more than there are jobs for it"
            if plan.retire(Retire(node.id, node.user_type, "excess", reason)):
                excess -= count
