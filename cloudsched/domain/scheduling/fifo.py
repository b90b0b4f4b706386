"""Which waiting jobs get a node this cycle, and which nodes go, in plain order of arrival?  (B40)"""

from __future__ import annotations

from collections.abc import Iterator

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import Waiting, in_order
from cloudsched.domain.scheduling.matching import Matches
from cloudsched.domain.scheduling.model import RETIRING, RUNNING, Head
from cloudsched.domain.scheduling.plan import Plan, Retire


def boot_in_order(board: Board, plan: Plan, *, skip_types: frozenset[str] = frozenset()) -> None:
    """Boot for the waiting jobs in ascending id while slots last; user and type limits hold here too."""
    if board.starting_limit_reached():
        have = board.tally.starting
        plan.skipped["max_starting"] = f"{have} nodes are Starting; the limit is {board.policy.max_starting}."
        return
    full: set[int] = set()  # shapes without room: room only shrinks during a pass
    for job in board.demand.left(_all_waiting(board)):
        shape = job.group.shape
        if shape.id in full or shape.user_type in skip_types or not board.bootable(job):
            continue
        boot = board.boot(job, "fifo", reason="next in order of arrival")
        if boot is not None:
            plan.boots.append(boot)
        elif not board.capacity.any_slot():
            return
        elif not job.blocked:
            full.add(shape.id)


def waiting_jobs(board: Board) -> list[Waiting]:
    """The first waiting jobs in ascending id, as many as the enabled clouds have slots."""
    slots = sum(cloud.max_slots for cloud in board.snapshot.clouds if cloud.enabled)
    return (_by_arrival(board) if board.snapshot.waiting is None else _listed(board))[:slots]


def _all_waiting(board: Board) -> Iterator[Waiting]:
    """The listed jobs, then the other known heads: the first in line may all be at a limit."""
    listed = _listed(board)
    yield from listed
    seen = {job.head.job_id for job in listed}
    yield from (job for job in _by_arrival(board) if job.head.job_id not in seen)


def _listed(board: Board) -> list[Waiting]:
    groups = {group.shape.id: group for group in board.snapshot.groups}
    waiting = board.snapshot.waiting or ()
    return [Waiting(Head(job_id), groups[shape_id]) for job_id, shape_id in waiting if shape_id in groups]


def _by_arrival(board: Board) -> list[Waiting]:
    return sorted(in_order(board.snapshot.groups), key=lambda job: job.head.job_id)


def retire_unwanted(board: Board, plan: Plan, matches: Matches) -> None:
    """Retire running machines whose type none of the first waiting jobs wants.

    Only while one of those jobs finds no room: with room to spare nothing is gained.  Types with a job that
    still waits for its node to come up are wanted as well.
    """
    first = waiting_jobs(board)
    shapes = {job.group.shape.id: job.group.shape for job in first}
    if not any(
        board.fitting.usable(shape) and not board.fitting.fits_now(shape) for shape in shapes.values()
    ):
        return
    wanted = {shape.user_type for shape in shapes.values()}
    wanted.update(kind.user_type for kind in board.demand.types.values() if kind.scheduled_idle)
    for node in board.snapshot.nodes:
        if node.retired or node.state != RUNNING or node.override == RETIRING or node.user_type in wanted:
            continue
        if node.id in matches.by_node:
            reason = f"no job among the first {len(first)} waiting wants {node.user_type}"
            plan.retire(Retire(node.id, node.user_type, "fifo", reason))
