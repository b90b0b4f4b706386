"""What shall be done?  The answer of a pass: small orders, each with its rule and its reason as data.

The engine carries a plan out.  Lists are in the order in which to act; a plan holds at most one order of
Retire/Destroy per node.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Candidate:
    """One cloud to try for a boot, with all that is chosen per cloud (contract 7.7)."""

    cloud: str
    image: str = ""
    instance_type: str = ""
    security_groups: tuple[str, ...] = ()
    keep_alive_s: int = 0


@dataclass(frozen=True, slots=True)
class Boot:
    """Boot one node for a job: try `candidates` in order until one accepts, then mark the jobs Scheduled.

    The first candidate is charged in the plan's own capacity count; before trying a later one the engine asks
    `Capacity.has_room` again.  `also_schedule`: further jobs of a job-per-core node (7.6 step 3).
    """

    job_id: int
    shape_id: int
    user_type: str
    candidates: tuple[Candidate, ...]
    also_schedule: tuple[int, ...] = ()
    rule: str = "share"  # high_priority, share, over_allocation, fifo
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Retire:
    """Stop the node's machine peacefully.  `on_failure`: "keep" or "destroy" if that is refused.

    `then_destroy`: destroy at once after the stop was accepted (7.8 step 8).
    `to_shadow`: first move the node to the retired shadow (it is charged to no cloud any more).
    """

    node_id: int
    user_type: str
    rule: str
    reason: str
    on_failure: str = "keep"
    then_destroy: bool = False
    to_shadow: bool = False


@dataclass(frozen=True, slots=True)
class Destroy:
    """Destroy the node on its cloud.  `note_image`: its image goes to the cloud's failed-image set (T12)."""

    node_id: int
    user_type: str
    rule: str
    reason: str
    note_image: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Hold waiting jobs of a shape in the batch system.

    scope "unscheduled": its New/Idle Unscheduled jobs; "idle": all its New/Idle jobs.  `queued_before`: only
    jobs queued up to that time (None = all).  `override`: the word for the job's override state.
    """

    shape_id: int
    reason: str
    scope: str = "unscheduled"
    queued_before: float | None = None
    override: str = ""


@dataclass(frozen=True, slots=True)
class SetIdle:
    """Record since when the node is idle; None clears it."""

    node_id: int
    idle_since: float | None


@dataclass(frozen=True, slots=True)
class Register:
    """Record the machine under which the node is registered."""

    node_id: int
    name: str
    address: str
    master_address: str


@dataclass(frozen=True, slots=True)
class ForgetRegistration:
    """Forget the registration and set `register_clock_at` to now."""

    node_id: int


@dataclass(frozen=True, slots=True)
class Place:
    """Note for a running job the cloud and node it runs on."""

    job_id: int
    cloud: str
    node_id: int


@dataclass(frozen=True, slots=True)
class SwitchCloud:
    """Enable or disable a cloud for connection trouble.

    A disable sets `auto_disabled`; an enable clears it and `connection_failed_at`.
    """

    cloud: str
    enabled: bool
    reason: str


@dataclass(frozen=True, slots=True)
class StrayMachine:
    """A registered machine without a node (T17)."""

    name: str
    address: str


@dataclass(slots=True)
class Plan:
    """The orders of one pass.  Build it through its methods: they keep the promises named above.

    `deferred`: destroys left for a later pass because `max_destroys` are under way (contract 7.8, last line);
    a `then_destroy` beyond the limit becomes a plain retire.  `destroy_room` None = no limit.
    `invalidate`: strays whose ads shall be invalidated (`cleanup_missing`).
    `skipped`: why nothing (more) was booted, rule to sentence.
    """

    boots: list[Boot] = field(default_factory=list)
    retires: list[Retire] = field(default_factory=list)
    destroys: list[Destroy] = field(default_factory=list)
    deferred: list[Destroy] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)
    unschedule: list[int] = field(default_factory=list)
    mark_scheduled: list[int] = field(default_factory=list)
    set_idle: list[SetIdle] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    forgets: list[ForgetRegistration] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    switches: list[SwitchCloud] = field(default_factory=list)
    strays: list[StrayMachine] = field(default_factory=list)
    invalidate: list[StrayMachine] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    destroy_room: int | None = None
    going: dict[int, str] = field(default_factory=dict)  # node id to the rule that takes it
    leaving: dict[str, int] = field(default_factory=dict)  # user-type to how many nodes the plan takes

    def retire(self, order: Retire) -> bool:
        """Add a Retire unless the node is going already; tells whether it was added."""
        if not self._claim(order):
            return False
        if order.then_destroy and not self._take_destroy():
            order = replace(order, then_destroy=False)
        self.retires.append(order)
        return True

    def destroy(self, order: Destroy) -> bool:
        """Add a Destroy (deferred beyond `destroy_room`) unless the node is going already."""
        if not self._claim(order):
            return False
        (self.destroys if self._take_destroy() else self.deferred).append(order)
        return True

    def _claim(self, order: Retire | Destroy) -> bool:
        if order.node_id in self.going:
            return False
        self.going[order.node_id] = order.rule
        self.leaving[order.user_type] = self.leaving.get(order.user_type, 0) + 1
        return True

    def _take_destroy(self) -> bool:
        if self.destroy_room is None:
            return True
        self.destroy_room -= 1
        return self.destroy_room >= 0
