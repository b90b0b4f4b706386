"""What does one whole pass decide?  `schedule` boots, `clean_up` takes away, `decide` does both."""

from __future__ import annotations

from cloudsched.domain.scheduling import cleanup, fairshare, fifo, rebalance, upkeep
from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.matching import Matches, match_machines
from cloudsched.domain.scheduling.model import Policy, Snapshot
from cloudsched.domain.scheduling.plan import Destroy, Plan, Retire

# The rules of `clean_up` that take nodes because of their user-type.
TYPE_RULES = frozenset({"unneeded", "excess", "rebalance", "fifo", "idle_misfit"})


def schedule(
    snapshot: Snapshot,
    policy: Policy,
    now: float,
    *,
    skip_types: frozenset[str] = frozenset(),
    board: Board | None = None,
) -> Plan:
    """The Scheduler cycle (contract 7.6): the boots of this cycle.

    `skip_types`: user-types that get no node this time.  `now` is not looked at today; bans and blocks are in
    the snapshot.
    """
    plan = Plan()
    boot = fifo.boot_in_order if policy.algorithm == "fifo" else fairshare.boot_by_share
    boot(board or Board(snapshot, policy), plan, skip_types=skip_types)
    return plan


def clean_up(
    snapshot: Snapshot,
    policy: Policy,
    now: float,
    *,
    matches: Matches | None = None,
    board: Board | None = None,
) -> Plan:
    """The Cleanup cycle (contract 7.8), all steps in order.

    Before the queue has been read only steps 1 to 3 and 14 are done: nothing is known about what is needed.
    `matches`: the machines if they are matched already.
    """
    board = board or Board(snapshot, policy)
    plan = Plan(destroy_room=max(0, policy.max_destroys - snapshot.active_destroys))
    cleanup.retire_before_lifetime(board, plan, now=now)
    cleanup.destroy_expiring_proxies(board, plan, now=now)
    cleanup.destroy_slow_boots(board, plan, now=now)
    if snapshot.queue_read:
        if matches is None:
            matches = match_machines(snapshot.nodes, snapshot.slots)
        _after_reading(board, plan, matches, now=now)
    upkeep.switch_clouds(board, plan, now=now)
    return plan


def decide(snapshot: Snapshot, policy: Policy, now: float) -> Plan:
    """Both cycles over one snapshot: a user-type that loses nodes by its type gets none in the same plan."""
    board = Board(snapshot, policy)
    plan = clean_up(snapshot, policy, now, board=board)
    orders: list[Retire | Destroy] = [*plan.retires, *plan.destroys, *plan.deferred]
    losing = frozenset(order.user_type for order in orders if order.rule in TYPE_RULES)
    booted = schedule(snapshot, policy, now, skip_types=losing, board=board)
    plan.boots, plan.skipped = booted.boots, booted.skipped
    return plan


def _after_reading(board: Board, plan: Plan, matches: Matches, *, now: float) -> None:
    upkeep.hold_impossible(board, plan)
    plan.strays = matches.strays()
    if board.policy.cleanup_missing:
        plan.invalidate = list(plan.strays)
    cleanup.check_machines(board, plan, matches, now=now, retired=False)
    cleanup.check_machines(board, plan, matches, now=now, retired=True)
    cleanup.retire_unneeded_types(board, plan, matches, now=now)
    cleanup.clean_shutdown_idle(board, plan, matches, now=now)
    if board.policy.algorithm == "fifo":
        fifo.retire_unwanted(board, plan, matches)
    elif board.snapshot.slots:
        cleanup.retire_excess(board, plan, matches, now=now)
        rebalance.rebalance(board, plan, matches)
    upkeep.schedule_running(board, plan)
    upkeep.unschedule_surplus(board, plan)
    upkeep.place_running(board, plan)
