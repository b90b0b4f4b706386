"""Which waiting jobs get a node this cycle, by fair share?  (contract 7.6)

High-priority jobs first, one node per user; then at most one node per user-type, the types furthest below
their share first; a type above its share only when nobody below theirs could use the room.
"""

from __future__ import annotations

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import TypeDemand, Waiting
from cloudsched.domain.scheduling.plan import Plan


def boot_by_share(board: Board, plan: Plan, *, skip_types: frozenset[str] = frozenset()) -> None:
    """Add this cycle's boots.  `skip_types`: user-types the same pass takes nodes away from."""
    if board.starting_limit_reached():
        have = board.tally.starting
        plan.skipped["max_starting"] = f"{have} nodes are Starting; the limit is {board.policy.max_starting}."
        return
    boot_high_priority(board, plan, skip_types=skip_types)
    if waiting := waiting_high_priority(board):
        text = f"{len(waiting)} users have high-priority jobs waiting; others wait until these have a node."
        plan.skipped["high_priority"] = text
        return
    boot_normal(board, plan, skip_types=skip_types)


def boot_high_priority(board: Board, plan: Plan, *, skip_types: frozenset[str] = frozenset()) -> None:
    """At most one node per user with bootable high-priority jobs, the highest value first (B42)."""
    queues = [board.demand.high_of_user(user) for user in board.demand.high]
    for queue in sorted(queues, key=_high_rank):
        for job in queue:
            if job.group.shape.user_type in skip_types or not board.bootable(job):
                continue
            reason = f"high-priority job (value {job.group.shape.high_priority})"
            boot = board.boot(job, "high_priority", reason=reason)
            if boot is not None:
                plan.boots.append(boot)
                break


def waiting_high_priority(board: Board) -> list[str]:
    """The users who still have a bootable high-priority job without a node."""
    demand = board.demand
    return [
        user
        for user in demand.high
        if any(board.bootable(job) for job in demand.left(demand.high_of_user(user)))
    ]


def boot_normal(board: Board, plan: Plan, *, skip_types: frozenset[str] = frozenset()) -> None:
    """One attempt per user-type, most below its share first; limits are looked at before each boot (B44)."""
    over = _OverAllocation(board)
    for kind in sorted(board.demand.types.values(), key=lambda kind: _rank(board, kind)):
        if not kind.waiting or kind.user_type in skip_types or board.user_full(kind.user):
            continue
        job = suitable_job(board, kind)
        if job is None:
            continue
        diff = board.shares.diff.get(kind.user_type, 1.0)
        if board.shares.may_grow(kind.user_type):
            rule, reason = "share", f"{kind.user_type} is {-diff:.6f} below its share"
        elif over.allowed(job):
            rule, reason = (
                "over_allocation",
                "nobody below their share could use this room",
            )
        else:
            continue
        boot = board.boot(job, rule, reason=reason)
        if boot is not None:
            plan.boots.append(boot)
            over.look_again(kind.user)


def suitable_job(board: Board, kind: TypeDemand) -> Waiting | None:
    """The type's first job that only lack of room can stop: below its limits, some cloud open to it."""
    return next((job for job in board.demand.left(kind.queue()) if board.bootable(job)), None)


class _OverAllocation:
    """The second condition of contract 7.6 step 2.

    During a pass room and limits only shrink, so a user found not to want the room stays so until one of the
    user's own jobs is taken: the users are walked through once, and the walk waits at the one who does.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._users = list(board.demand.users)
        self._next = 0

    def allowed(self, job: Waiting) -> bool:
        return self._board.fitting.fits_now(job.group.shape, job.blocked) and not self._someone_below_wants()

    def look_again(self, user: str) -> None:
        """A job of the user was taken: the next one may want the room."""
        self._users.append(user)

    def _someone_below_wants(self) -> bool:
        while self._next < len(self._users):
            if self._wants(self._users[self._next]):
                return True
            self._next += 1
        return False

    def _wants(self, user: str) -> bool:
        board = self._board
        if board.user_full(user):
            return False
        job = board.demand.first_of_user(user)
        if job is None or board.shape_full(job.group.shape):
            return False
        shape = job.group.shape
        return board.shares.may_grow(shape.user_type) and board.fitting.fits_now(shape, job.blocked)


def _rank(board: Board, kind: TypeDemand) -> tuple[float, str]:
    return board.shares.diff.get(kind.user_type, 1.0), kind.user_type


def _high_rank(queue: list[Waiting]) -> tuple[int, int, int]:
    first = queue[0]
    return -first.group.shape.high_priority, -first.head.priority, first.head.job_id
