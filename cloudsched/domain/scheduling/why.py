"""Why does this job wait, and why is this node kept or taken?  The same rules as the passes, as data."""

from __future__ import annotations

from typing import NamedTuple

from cloudsched.domain.scheduling import cleanup
from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.demand import Waiting
from cloudsched.domain.scheduling.fairshare import waiting_high_priority
from cloudsched.domain.scheduling.fit import Refusal
from cloudsched.domain.scheduling.matching import Matches, match_machines
from cloudsched.domain.scheduling.model import (
    RETIRING,
    RUNNING,
    STARTING,
    Head,
    JobGroup,
    NodeView,
    Policy,
    Snapshot,
)
from cloudsched.domain.scheduling.passes import clean_up, schedule
from cloudsched.domain.scheduling.rebalance import balance


class JobAnswer(NamedTuple):
    """Why a job waits.  `verdict`: "boots" (this very cycle), "waits", "banned" or "impossible".

    `general`: refusals that hold on every cloud (limits, share, order), first one first.
    `clouds`: per cloud in configuration order what refuses; () = it would fit there now.
    """

    verdict: str
    text: str
    general: tuple[Refusal, ...]
    clouds: dict[str, tuple[Refusal, ...]]

    def first(self, cloud: str) -> Refusal | None:
        """The first rule that refuses on the cloud."""
        refusals = self.clouds.get(cloud.lower(), ())
        return refusals[0] if refusals else None


class NodeAnswer(NamedTuple):
    """Why a node is kept or taken.  `verdict`: "kept", "retiring", "retire" or "destroy".

    `rule` and `text` name the deciding rule; `reasons` lists, for a kept node, each rule that could take it
    and why it does not.
    """

    verdict: str
    rule: str
    text: str
    reasons: tuple[Refusal, ...]


def why_job(
    snapshot: Snapshot,
    policy: Policy,
    now: float,
    *,
    shape_id: int,
    job_id: int | None = None,
    banned: bool = False,
) -> JobAnswer:
    """Why the job (without an id: the group's first one) has no node yet; KeyError: unknown shape."""
    board = Board(snapshot, policy)
    group = _group(snapshot, shape_id)
    head = _head(group, job_id)
    job = Waiting(head, group)
    clouds = board.fitting.refusals(group.shape, job.blocked)
    general = _job_reasons(board, job, banned=banned)
    if snapshot.clouds and not board.fitting.possible(group.shape):
        return JobAnswer("impossible", "No cloud could ever take this job.", general, clouds)
    if banned:
        return JobAnswer("banned", "The job is banned for a while after a failed boot.", general, clouds)
    for boot in schedule(snapshot, policy, now).boots:
        if head.job_id == boot.job_id or head.job_id in boot.also_schedule:
            text = f"A node is being booted for it on {boot.candidates[0].cloud}: {boot.reason}."
            return JobAnswer("boots", text, general, clouds)
    return JobAnswer("waits", _job_text(general, clouds), general, clouds)


def why_node(snapshot: Snapshot, policy: Policy, now: float, *, node_id: int) -> NodeAnswer:
    """What the next clean-up does with the node and why; KeyError for an unknown node."""
    node = next((node for node in snapshot.nodes if node.id == node_id), None)
    if node is None:
        raise KeyError(node_id)
    board = Board(snapshot, policy)
    matches = match_machines(snapshot.nodes, snapshot.slots)
    plan = clean_up(snapshot, policy, now, matches=matches)
    for destroy in (*plan.destroys, *plan.deferred):
        if destroy.node_id == node_id:
            return NodeAnswer("destroy", destroy.rule, destroy.reason, ())
    for retire in plan.retires:
        if retire.node_id == node_id:
            return NodeAnswer("retire", retire.rule, retire.reason, ())
    if node.override == RETIRING:
        text = "It was told to finish its job; it is destroyed when its machine has left the batch system."
        return NodeAnswer("retiring", "retiring", text, ())
    reasons = _node_reasons(board, node, matches, now=now)
    return NodeAnswer("kept", "", reasons[0].text if reasons else "No rule takes it.", reasons)


def _group(snapshot: Snapshot, shape_id: int) -> JobGroup:
    for group in snapshot.groups:
        if group.shape.id == shape_id:
            return group
    raise KeyError(shape_id)


def _head(group: JobGroup, job_id: int | None) -> Head:
    if job_id is None:
        return group.heads[0] if group.heads else Head(-1)
    return next((head for head in group.heads if head.job_id == job_id), Head(job_id))


def _job_text(general: tuple[Refusal, ...], clouds: dict[str, tuple[Refusal, ...]]) -> str:
    if general:
        return general[0].text
    if not clouds:
        return "No cloud is configured."
    if all(clouds.values()):
        return "No cloud can take it now: " + " ".join(refusals[0].text for refusals in clouds.values())
    return "A cloud has room; its turn comes in one of the next cycles."


def _job_reasons(board: Board, job: Waiting, *, banned: bool) -> tuple[Refusal, ...]:
    shape, tally, policy = job.group.shape, board.tally, board.policy
    found: list[Refusal] = []
    if banned:
        found.append(Refusal("", "banned", "banned", "not banned", "The job is banned after a failed boot."))
    if board.starting_limit_reached():
        text = f"{tally.starting} nodes are Starting; the limit is {policy.max_starting}."
        found.append(Refusal("", "max_starting", tally.starting, policy.max_starting, text))
    limit = board.snapshot.limits.get(shape.user)
    if limit is not None and board.user_full(shape.user):
        have = tally.users.get(shape.user, 0)
        found.append(
            Refusal(
                "", "user_limit", have, limit, f"{shape.user} has {have} nodes; the user's limit is {limit}."
            )
        )
    if board.shape_full(shape):
        have = tally.nodes_of(shape.user_type)
        text = f"{shape.user_type} has {have} nodes; the job's VMTypeLimit is {shape.type_limit}."
        found.append(Refusal("", "type_limit", have, shape.type_limit, text))
    if policy.algorithm != "fifo":
        found.extend(_share_reasons(board, job))
    return tuple(found)


def _share_reasons(board: Board, job: Waiting) -> list[Refusal]:
    shape, found = job.group.shape, []
    high = board.policy.high_priority_support and shape.high_priority
    if not high and (users := waiting_high_priority(board)):
        text = f"{len(users)} users have high-priority jobs waiting, which go first."
        found.append(Refusal("", "high_priority", len(users), 0, text))
    if not high and not board.shares.may_grow(shape.user_type):
        diff = round(board.shares.diff.get(shape.user_type, 1.0), 6)
        text = f"{shape.user_type} is {diff:.6f} above its share; it gets only room others cannot use."
        found.append(Refusal("", "share", diff, 0, text))
    kind = board.demand.types[shape.user_type]
    first = kind.first()
    if first is not None and first.head.job_id != job.head.job_id:
        text = f"Job {first.head.job_id} of {shape.user_type} is in front; one node per user-type and cycle."
        found.append(Refusal("", "order", first.head.job_id, job.head.job_id, text))
    return found


def _node_reasons(board: Board, node: NodeView, matches: Matches, *, now: float) -> tuple[Refusal, ...]:
    """For a node that stays: the rules that could take it, each with how far it is from doing so."""
    found = []
    if node.destroying:
        found.append(Refusal(node.cloud, "destroying", 1, 0, "A destroy is under way."))
    if node.state == STARTING:
        found.append(_starting_reason(board, node, now=now))
    elif node.state == RUNNING:
        found.extend(_running_reasons(board, node, matches, now=now))
    if node.override != RETIRING and not node.retired:
        found.append(_balance_reason(board, node))
    return tuple(found)


def _starting_reason(board: Board, node: NodeView, *, now: float) -> Refusal:
    waited_s, timeout_s = int(now - node.boot_requested_at), cleanup.boot_timeout(board, node)
    limit = f"the boot timeout is {timeout_s} s" if timeout_s >= 0 else "there is no boot timeout"
    return Refusal(
        node.cloud, "boot_timeout", waited_s, timeout_s, f"It is Starting for {waited_s} s; {limit}."
    )


def _running_reasons(board: Board, node: NodeView, matches: Matches, *, now: float) -> list[Refusal]:
    if not matches.slots_of(node.id):
        since, limit_s = cleanup.register_clock(node), board.policy.register_time_limit_s
        waited_s = 0 if since is None else int(now - since)
        text = f"It is Running for {waited_s} s without registering; the limit is {limit_s} s."
        return [Refusal(node.cloud, "not_registered", waited_s, limit_s, text)]
    kind = board.demand.types.get(node.user_type)
    jobs = kind.jobs if kind else 0
    found = []
    if matches.claimed(node.id):
        found.append(Refusal(node.cloud, "busy", 1, 0, "It is running a job."))
    else:
        idle_s = int(max(0.0, cleanup.idle_for(node, matches, now=now)))
        text = f"It is idle for {idle_s} s; its keep-alive is {node.keep_alive_s} s."
        found.append(Refusal(node.cloud, "keep_alive", idle_s, node.keep_alive_s, text))
    text = f"{jobs} jobs need {node.user_type}." if jobs else f"No job needs {node.user_type} any more."
    found.append(Refusal(node.cloud, "needed", jobs, 1, text))
    return found


def _balance_reason(board: Board, node: NodeView) -> Refusal:
    result = balance(board)
    number = result.too_many.get(node.user_type, 0)
    if result.why_nothing:
        text = f"Rebalancing takes nothing: {result.why_nothing}."
    elif number:
        text = f"{node.user_type} gives {number} nodes; others are cheaper to lose or are going already."
    else:
        text = f"{node.user_type} is not above its share."
    return Refusal(node.cloud, "rebalance", number, 0, text)
