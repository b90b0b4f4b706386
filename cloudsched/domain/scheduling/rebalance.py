"""Which nodes are taken from types above their share so that others get room?  (contract 7.9)

`balance` computes how many, `rebalance` picks the nodes.  Positive numbers mean too many, negative ones that
a type wants more.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.cleanup import destroyable
from cloudsched.domain.scheduling.demand import TypeDemand
from cloudsched.domain.scheduling.fleet import Room, Use
from cloudsched.domain.scheduling.matching import Matches
from cloudsched.domain.scheduling.model import ERROR, RETIRING, STARTING, NodeView
from cloudsched.domain.scheduling.plan import Destroy, Plan, Retire
from cloudsched.domain.scheduling.shares import current_shares, differences, spread

# The type of machines that were launched for nobody's queue: nobody's share, so nobody's to give.
UNOWNED = ":"


@dataclass(slots=True)
class Balance:
    """How many nodes each type has too many and how many the others want, after all of 7.9 steps 1 to 5.

    `why_nothing` says which step found nothing to do ("" = something is to be taken).
    """

    too_many: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)
    why_nothing: str = ""


def rebalance(board: Board, plan: Plan, matches: Matches) -> Balance:
    """Steps 6 and 7: take the nodes, the cheapest to lose first, where a wanting type could be hosted."""
    result = balance(board)
    if result.why_nothing:
        return result
    clouds = {room.cloud.name for user_type in result.wanted for room in _hosts(board, user_type)}
    nodes = _nodes_of(board.snapshot.nodes, result.too_many, clouds)
    for user_type in sorted(result.too_many):
        mine = nodes.get(user_type, [])
        count = result.too_many[user_type] - sum(_going(node, plan) for node in mine)
        _take(board, plan, matches, nodes=mine, count=count)
    return result


def balance(board: Board) -> Balance:
    """Steps 1 to 5 over the board's counts, shares, free capacity and limits."""
    total = board.tally.total
    numbers = {user_type: rounded(diff * total) for user_type, diff in board.shares.diff.items()}
    positive = {
        user_type: min(number, board.tally.nodes_of(user_type))
        for user_type, number in numbers.items()
        if number > 0 and user_type != UNOWNED
    }
    wishes = {user_type: -number for user_type, number in numbers.items() if number < 0}
    wanted = _usable_wishes(board, wishes)
    wanted = {
        user_type: number for user_type, number in wanted.items() if number and _hosts(board, user_type)
    }
    if not wanted:
        return Balance(why_nothing="no type could use more nodes than it has")
    if all(_has_room(board, user_type) for user_type in wanted):
        return Balance(why_nothing="every type that wants nodes still finds room")
    wanted = _less_free_room(board, wanted)
    positive, wanted = damped(board, _no_more_than(positive, wanted), wanted)
    positive = _no_more_than(positive, wanted)
    positive = {user_type: number for user_type, number in positive.items() if number > 0}
    if not positive:
        return Balance(why_nothing="no type has nodes to give")
    return Balance(positive, {key: number for key, number in wanted.items() if number > 0})


def rounded(value: float) -> int:
    """To the nearest whole number, halves away from zero; the last digits of a sum are forgiven."""
    return int(math.copysign(math.floor(abs(value) + 0.5 + 1e-9), value))


def lessen_evenly(numbers: Mapping[str, int], by: int) -> dict[str, int]:
    """Reduce the numbers by `by` in all, each by the same until it is 0; odd ones come from the largest."""
    left = dict(numbers)
    by = min(by, sum(left.values()))
    while by > 0:
        open_keys = sorted((key for key in left if left[key] > 0), key=lambda key: (-left[key], key))
        each = by // len(open_keys)
        for key in open_keys if each else open_keys[:by]:
            part = min(each or 1, left[key])
            left[key] -= part
            by -= part
    return left


def damped(
    board: Board, positive: Mapping[str, int], wanted: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int]]:
    """Step 4: where the numbers after the change have the other sign, the two are added."""
    numbers = {**positive, **{user_type: -number for user_type, number in wanted.items()}}
    after = {user_type: _use_after(board, user_type, number) for user_type, number in numbers.items()}
    types = {**board.tally.types, **after}
    current = current_shares(types, board.policy)
    total = sum(use.nodes for use in types.values())
    again = spread(differences(current, board.shares.desired), board.shares.limited)
    for user_type, number in numbers.items():
        back = rounded(again.get(user_type, 0.0) * total)
        if number * back < 0:
            numbers[user_type] = number + back
    return (
        {user_type: max(0, numbers[user_type]) for user_type in positive},
        {user_type: max(0, -numbers[user_type]) for user_type in wanted},
    )


def room_for(board: Board, kind: TypeDemand) -> int:
    """How many nodes for the type's own first job fit now (B46), over all clouds that could take it."""
    job = kind.first()
    if job is None:
        return 0
    shape = job.group.shape
    return sum(
        room.holds_count(shape) for room in board.fitting.usable(shape) if room.cloud.name not in job.blocked
    )


def _no_more_than(positive: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    """Whatever was given up reduces the positive types evenly: only what can be used is taken (B43)."""
    return lessen_evenly(positive, sum(positive.values()) - sum(wanted.values()))


def _usable_wishes(board: Board, wishes: Mapping[str, int]) -> dict[str, int]:
    """Steps 1 and 5: no more than the type has jobs for, than its limit and than its user's limit allow."""
    by_user: dict[str, dict[str, int]] = {}
    for user_type in sorted(wishes):
        kind = board.demand.types[user_type]
        number = min(wishes[user_type], kind.nodes_wanted, _type_growth(board, kind))
        by_user.setdefault(kind.user, {})[user_type] = number
    left: dict[str, int] = {}
    for user, numbers in by_user.items():
        limit = board.snapshot.limits.get(user)
        growth = math.inf if limit is None else max(0, limit - board.tally.users.get(user, 0))
        left.update(lessen_evenly(numbers, int(max(0, sum(numbers.values()) - growth))))
    return left


def _type_growth(board: Board, kind: TypeDemand) -> int:
    nodes = board.tally.nodes_of(kind.user_type)
    limits = [group.shape.type_limit for group in kind.groups if group.unscheduled > 0]
    if not limits or any(limit < 0 for limit in limits):
        return kind.nodes_wanted
    return max(0, max(limits) - nodes)


def _has_room(board: Board, user_type: str) -> bool:
    return room_for(board, board.demand.types[user_type]) > 0


def _less_free_room(board: Board, wanted: Mapping[str, int]) -> dict[str, int]:
    """Step 2: what can be booted now is no longer wanted; the types take from the free room in turn."""
    rooms = {room.cloud.name: copy.copy(room) for room in board.capacity.rooms}
    left = {}
    for user_type in sorted(wanted, key=lambda key: (-wanted[key], key)):
        number = wanted[user_type]
        job = board.demand.types[user_type].first()
        if job is not None:
            for host in _hosts(board, user_type):
                room = rooms[host.cloud.name]
                booted = min(number, room.holds_count(job.group.shape))
                room.charge(job.group.shape, booted)
                number -= booted
        left[user_type] = number
    return left


def _hosts(board: Board, user_type: str) -> list[Room]:
    """The clouds that could host the type's first job if they were empty."""
    job = board.demand.types[user_type].first()
    if job is None:
        return []
    return [room for room in board.fitting.usable(job.group.shape) if room.cloud.name not in job.blocked]


def _use_after(board: Board, user_type: str, number: int) -> Use:
    """The type's sums after giving `number` nodes (negative: getting), of the size it has or asks for."""
    use = board.tally.types.get(user_type)
    if use is not None and use.nodes:
        part = (use.nodes - number) / use.nodes
        return Use(
            use.nodes - number,
            round(use.cores * part),
            round(use.memory_mb * part),
            round(use.storage_gb * part),
            use.user,
        )
    kind = board.demand.types.get(user_type)
    job = kind.first() if kind else None
    return Use().plus(-number, job.group.shape) if job else Use(-number)


def _nodes_of(
    nodes: Iterable[NodeView], types: Mapping[str, int], clouds: set[str]
) -> dict[str, list[NodeView]]:
    found: dict[str, list[NodeView]] = {}
    for node in nodes:
        if not node.retired and node.user_type in types and node.cloud in clouds:
            found.setdefault(node.user_type, []).append(node)
    return found


def _going(node: NodeView, plan: Plan) -> bool:
    """Leaves anyway: Retiring without the forced flag, being destroyed, or taken earlier in this plan."""
    if node.id in plan.going or node.destroying:
        return True
    return node.override == RETIRING and not node.force_retire


def _take(board: Board, plan: Plan, matches: Matches, *, nodes: list[NodeView], count: int) -> None:
    graceful = board.policy.graceful_shutdown
    ranked = sorted(
        (node for node in nodes if node.override != RETIRING and not _going(node, plan)),
        key=lambda node: (_loss(node, matches), -node.id),
    )
    if not graceful:
        ranked = [node for node in ranked if _cheap(node, matches)]
    for node in ranked:
        if count <= 0:
            return
        if node.state in (ERROR, STARTING) or not graceful:
            taken = _destroy(board, plan, node)
        else:
            taken = _retire(board, plan, node)
        count -= taken


def _loss(node: NodeView, matches: Matches) -> int:
    """The cheapest to lose first: in Error, Starting, idle, busy."""
    if node.state == ERROR:
        return 0
    if node.state == STARTING:
        return 1
    return 3 if matches.claimed(node.id) else 2


def _cheap(node: NodeView, matches: Matches) -> bool:
    """Step 7: without graceful shutdown only what loses little work: not busy, or its jobs just changed."""
    claimed = [slot for slot in matches.slots_of(node.id) if slot.state == "Claimed"]
    return node.state in (ERROR, STARTING) or all(slot.job_changed for slot in claimed)


def _destroy(board: Board, plan: Plan, node: NodeView) -> bool:
    if not destroyable(board, node):
        return False
    reason = f"{node.user_type} is above its share and others find no room"
    return plan.destroy(Destroy(node.id, node.user_type, "rebalance", reason))


def _retire(board: Board, plan: Plan, node: NodeView) -> bool:
    last = board.tally.nodes_of(node.user_type) - plan.leaving.get(node.user_type, 0) <= 1
    reason = f"{node.user_type} is above its share and others find no room"
    return plan.retire(
        Retire(node.id, node.user_type, "rebalance", reason, on_failure="keep" if last else "destroy")
    )
