"""Which clouds can take a node of this shape, in which order, and which rule refuses the others?

One table of rules (contract 7.7) serves booting, holding, rebalancing and `why`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from cloudsched.domain.scheduling.fleet import Capacity, Room
from cloudsched.domain.scheduling.model import DEFAULT, CloudView, Policy, Shape, folded
from cloudsched.domain.scheduling.plan import Candidate

Aliases = Mapping[str, Sequence[str] | str]
Amount = int | float | str
NO_JOB_BLOCKS: frozenset[str] = frozenset()


class Refusal(NamedTuple):
    """One rule that says no: what is there, what is needed, a sentence.  `cloud` "" = not about a cloud."""

    cloud: str
    rule: str
    have: Amount
    need: Amount
    text: str


class Rule(NamedTuple):
    """`check` answers None (fine) or (have, need).

    `lasting`: "ever" = no change but of the configuration's sizes helps; "set" = a setting or ban; "now" =
    other nodes are in the way.
    """

    name: str
    lasting: str
    check: Callable[[Fitting, Shape, Room, frozenset[str]], tuple[Amount, Amount] | None]
    sentence: str


class Fitting:
    """Fit questions of one pass.  Answers that no boot can change are computed once per shape."""

    def __init__(self, capacity: Capacity, aliases: Aliases, policy: Policy) -> None:
        self.capacity = capacity
        self.policy = policy
        self._names = {room.cloud.name for room in capacity.rooms}
        self.aliases = expand_aliases(aliases, self._names)
        self._wider = _names_per_cloud(self.aliases)
        self._called = called(aliases, self._names)
        self._default_images = _lower(policy.default_images)
        self._default_types = _lower(policy.default_instance_types)
        self._targets: dict[int, frozenset[str] | None] = {}
        self._usable: dict[int, tuple[Room, ...]] = {}
        self._chosen: dict[tuple[int, int], Candidate] = {}

    def candidates(self, shape: Shape, blocked: frozenset[str] = NO_JOB_BLOCKS) -> list[Room]:
        """The clouds that can take it now: lowest `priority`, then emptiest, then configuration order."""
        rooms = [room for room in self.usable(shape) if room.holds(shape) and room.cloud.name not in blocked]
        rooms.sort(key=_preference)
        return rooms

    def fits_now(self, shape: Shape, blocked: frozenset[str] = NO_JOB_BLOCKS) -> bool:
        return any(room.holds(shape) and room.cloud.name not in blocked for room in self.usable(shape))

    def usable(self, shape: Shape) -> tuple[Room, ...]:
        """The clouds that could take it if they were empty: all rules but free room and the job's blocks."""
        found = self._usable.get(shape.id)
        if found is None:
            found = tuple(room for room in self.capacity.rooms if self._passes(shape, room, _LASTING_RULES))
            self._usable[shape.id] = found
        return found

    def possible(self, shape: Shape) -> bool:
        """Whether any cloud could ever take it; disabled clouds count as possible (B33)."""
        return any(self._passes(shape, room, _EVER_RULES) for room in self.capacity.rooms)

    def refusals(
        self, shape: Shape, blocked: frozenset[str] = NO_JOB_BLOCKS
    ) -> dict[str, tuple[Refusal, ...]]:
        """Per cloud in configuration order every rule that refuses, the first one first; () = it fits now."""
        return {
            room.cloud.name: tuple(
                refusal for rule in RULES if (refusal := _ask(rule, self, shape, room, blocked)) is not None
            )
            for room in self.capacity.rooms
        }

    def choose(self, shape: Shape, room: Room) -> Candidate:
        """Image, instance type, security groups and keep-alive of a boot there (contract 7.7)."""
        key = shape.id, room.order
        if key not in self._chosen:
            self._chosen[key] = self._choose(shape, room.cloud)
        return self._chosen[key]

    def image(self, shape: Shape, cloud: CloudView) -> str:
        return self._lookup(shape.images, self._default_images, cloud)

    def targets(self, shape: Shape) -> frozenset[str] | None:
        """The job's target clouds, aliases expanded, unknown names dropped; None = it names none."""
        if shape.id not in self._targets:
            self._targets[shape.id] = None if not shape.wanted else frozenset(
                name for name, names in self._called.items() if not shape.wanted.isdisjoint(names))
        return self._targets[shape.id]

    def _choose(self, shape: Shape, cloud: CloudView) -> Candidate:
        keep_alive_s = cloud.keep_alive_s if shape.keep_alive_s is None else shape.keep_alive_s
        listed = tuple(group for group in shape.security_groups if group in cloud.security_groups)
        return Candidate(
            cloud=cloud.name,
            image=self.image(shape, cloud),
            instance_type=self._lookup(shape.instance_types, self._default_types, cloud),
            security_groups=listed or cloud.security_groups,
            keep_alive_s=min(keep_alive_s, self.policy.max_keep_alive_s),
        )

    def _lookup(self, values: Mapping[str, str], defaults: Mapping[str, str], cloud: CloudView) -> str:
        for table in (_lower(values), defaults):
            if not table:
                continue
            for key in (cloud.name, *self._wider.get(cloud.name, ()), cloud.address.lower(), DEFAULT):
                if table.get(key):
                    return table[key]
        return ""

    def _passes(self, shape: Shape, room: Room, rules: Sequence[Rule]) -> bool:
        # A plain loop: `all` over a generator takes twice as long on this hot path.
        for rule in rules:  # noqa: SIM110
            if rule.check(self, shape, room, NO_JOB_BLOCKS) is not None:
                return False
        return True


def expand_aliases(aliases: Aliases, names: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Lower-case alias to the known clouds it stands for; a plain string is one name (B32, B35)."""
    expanded = {}
    for alias, value in aliases.items():
        listed = (value,) if isinstance(value, str) else value
        expanded[alias.strip().lower()] = tuple(name for name in folded(map(str, listed)) if name in names)
    return expanded


def called(aliases: Aliases, names: Collection[str]) -> dict[str, frozenset[str]]:
    """Each cloud with the names by which a target means it: its own, unless that is an alias of others, and its aliases.

    Where machines are booted and where jobs are handed to them, this one table decides: a node that was booted for a job's
    target is one that may take the job.
    """
    expanded = expand_aliases(aliases, names)
    return {name: frozenset({name} - expanded.keys() | {alias for alias, clouds in expanded.items() if name in clouds})
            for name in names}


def _names_per_cloud(aliases: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    wider: dict[str, list[str]] = {}
    for alias, clouds in aliases.items():
        for cloud in clouds:
            wider.setdefault(cloud, []).append(alias)
    return wider


def _lower(values: Mapping[str, str]) -> Mapping[str, str]:
    return {key.strip().lower(): value for key, value in values.items()} if values else values


def _preference(room: Room) -> tuple[int, float, int]:
    return room.cloud.priority, room.fill, room.order


def _ask(rule: Rule, fitting: Fitting, shape: Shape, room: Room, blocked: frozenset[str]) -> Refusal | None:
    answer = rule.check(fitting, shape, room, blocked)
    if answer is None:
        return None
    have, need = answer
    text = rule.sentence.format(cloud=room.cloud.name, have=have, need=need)
    return Refusal(room.cloud.name, rule.name, have, need, text)


Answer = tuple[Amount, Amount] | None
Blocked = frozenset[str]


def _target(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    targets = fitting.targets(shape)
    if targets is None or room.cloud.name in targets:
        return None
    return room.cloud.name, ", ".join(shape.targets)


def _enabled(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return None if room.cloud.enabled else ("disabled", "enabled")


def _blocked(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return ("blocked", "not blocked") if room.cloud.name in blocked else None


def _image(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    if not room.cloud.requires_image or fitting.image(shape, room.cloud):
        return None
    return "none", "an image"


def _image_ban(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    if not room.cloud.banned_images:
        return None
    image = fitting.image(shape, room.cloud)
    return (image, "an image that is not banned") if image in room.cloud.banned_images else None


def _slots(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return None if room.free_slots > 0 else (max(0, room.free_slots), 1)


def _node_memory(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return _above(shape.memory_mb, room.cloud.max_node_memory_mb)


def _memory_total(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return _above(shape.memory_mb, room.cloud.max_memory_mb)


def _memory(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return (room.free_memory_mb, shape.memory_mb) if shape.memory_mb > room.free_memory_mb else None


def _cores(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return _above(shape.cores, room.cloud.cpu_cores)


def _storage_total(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return _above(shape.storage_gb, room.cloud.max_storage_gb)


def _storage(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return (room.free_storage_gb, shape.storage_gb) if shape.storage_gb > room.free_storage_gb else None


def _network(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    networks = room.cloud.networks
    if not shape.network or not networks or shape.network in networks:
        return None
    return ", ".join(networks), shape.network


def _gpus(fitting: Fitting, shape: Shape, room: Room, blocked: Blocked) -> Answer:
    return _above(shape.gpus, room.cloud.node_gpus)


def _above(need: int, limit: int) -> Answer:
    return (limit, need) if 0 <= limit < need else None


# In the order of contract 7.7, and what it does not know at the end: the first one that refuses is the one named first.
RULES: tuple[Rule, ...] = (
    Rule("target", "ever", _target, "{cloud} is not among the job's target clouds ({need})."),
    Rule("disabled", "set", _enabled, "{cloud} is disabled."),
    Rule("blocked", "now", _blocked, "{cloud} is blocked for this job after a failed boot."),
    Rule("image", "set", _image, "{cloud} needs an image, and neither the job nor the defaults name one."),
    Rule("image_ban", "set", _image_ban, "Image {have} is banned on {cloud} after repeated failures."),
    Rule("slots", "now", _slots, "{cloud} has no free slot."),
    Rule("node_memory", "ever", _node_memory, "{cloud} allows {have} MB per node; the job asks {need} MB."),
    Rule("memory_total", "ever", _memory_total, "{cloud} has {have} MB in all; the job asks {need} MB."),
    Rule("memory", "now", _memory, "{cloud} has {have:g} MB left; the job asks {need} MB."),
    Rule("cores", "ever", _cores, "{cloud} allows {have} cores per node; the job asks {need}."),
    Rule(
        "storage_total",
        "ever",
        _storage_total,
        "{cloud} has {have} GB disk in all; the job asks {need} GB.",
    ),
    Rule("storage", "now", _storage, "{cloud} has {have:g} GB disk left; the job asks {need} GB."),
    Rule("network", "ever", _network, "{cloud} offers the networks {have}; the job asks {need}."),
    Rule("gpus", "ever", _gpus, "{cloud} has {have} GPUs per node; the job asks {need}."),
)
_EVER_RULES = tuple(rule for rule in RULES if rule.lasting == "ever")
_LASTING_RULES = tuple(rule for rule in RULES if rule.lasting != "now")
