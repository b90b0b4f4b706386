"""May this node run a job of this shape? The start expression of a machine, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cloudsched.domain.scheduling.model import Require, Shape

# What an agent runs that does not say what it runs.
BATCH_KINDS = frozenset({"command", "noop"})
OURS = frozenset({"queue", "task"})


@dataclass(frozen=True, slots=True)
class Machine:
    """What admission looks at. Empty `user`/`vm_type` admit any; `cloud_names` are the names by which a target
    means its cloud (scheduling/fit.called).

    `kinds`: the jobs it takes now. From `os` on it is what the machine said of itself; the totals are those of the whole
    machine, 0 when it did not say.
    """

    user: str
    vm_type: str
    cores: int
    memory_mb: int
    storage_gb: int
    cloud_names: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    kinds: frozenset[str] = BATCH_KINDS
    node_id: int = 0
    os: str = ""
    role: str = ""
    gpus: int = 0
    internet: bool = True
    total_cores: int = 0
    total_memory_mb: int = 0
    total_storage_gb: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """One rule that refuses: what it has, what the job needs, and a sentence."""

    rule: str
    have: object
    need: object
    text: str


def refusals(machine: Machine, shape: Shape) -> list[Refusal]:
    """Every rule by which the machine refuses the shape; empty when it may run there."""
    found = []
    if shape.source not in OURS:
        found.append(Refusal("source", "built-in queue", shape.source, "the job belongs to an external batch system"))
    if machine.user and machine.user != shape.user:
        found.append(Refusal("owner", machine.user, shape.user, f"the node runs only jobs of {machine.user}"))
    if machine.vm_type and machine.vm_type != shape.vm_type:
        found.append(Refusal("type", machine.vm_type, shape.vm_type, f"the node is of type {machine.vm_type}"))
    for rule, have, need in (("cores", machine.cores, shape.cores), ("memory_mb", machine.memory_mb, shape.memory_mb),
                             ("storage_gb", machine.storage_gb, shape.storage_gb), ("gpus", machine.gpus, shape.gpus)):
        if have < need:
            found.append(Refusal(rule, have, need, f"{rule}: the node has {have}, the job needs {need}"))
    if shape.wanted and machine.cloud_names.isdisjoint(shape.wanted):
        found.append(Refusal("target", sorted(machine.cloud_names), list(shape.targets),
                             "the node's cloud is not among the job's target clouds"))
    return [*found, *unmet(machine, shape.require or _PLAIN)]


def unmet(machine: Machine, require: Require) -> Iterator[Refusal]:
    """What the machine lacks of what a job asks of it."""
    if require.node is not None and machine.node_id != require.node:
        yield Refusal("node", machine.node_id, require.node, f"the job asks for node {require.node}")
    if require.kind not in machine.kinds:
        yield Refusal("kind", sorted(machine.kinds), require.kind, f"the node does not run jobs of kind {require.kind}")
    if require.os and machine.os != require.os:
        yield Refusal("os", machine.os, require.os, f"the node runs {machine.os or 'an unknown system'}, not {require.os}")
    if require.role and machine.role != require.role:
        yield Refusal("role", machine.role, require.role, f"the node has the role {machine.role or 'none'}, not {require.role}")
    if not require.tags <= machine.tags:
        missing = sorted(require.tags - machine.tags)
        yield Refusal("tags", sorted(machine.tags), sorted(require.tags), f"the node has no tag {', '.join(missing)}")
    if require.gpu and not machine.gpus:
        yield Refusal("gpu", False, True, "the node has no GPU")
    if require.internet and not machine.internet:
        yield Refusal("internet", False, True, "the node has no internet")
    for rule, have, need in (("min_cores", machine.total_cores, require.min_cores),
                             ("min_memory_mb", machine.total_memory_mb, require.min_memory_mb),
                             ("min_storage_gb", machine.total_storage_gb, require.min_storage_gb)):
        if have < need:
            yield Refusal(rule, have, need, f"{rule}: the node has {have or 'not said how much'}, the job asks for {need}")


def admits(machine: Machine, shape: Shape) -> bool:
    """The same, quickly."""
    return (
        shape.source in OURS
        and (not machine.user or machine.user == shape.user)
        and (not machine.vm_type or machine.vm_type == shape.vm_type)
        and machine.cores >= shape.cores
        and machine.memory_mb >= shape.memory_mb
        and machine.storage_gb >= shape.storage_gb
        and machine.gpus >= shape.gpus
        and ("command" in machine.kinds if shape.require is None else meets(machine, shape.require))
        and (not shape.wanted or not machine.cloud_names.isdisjoint(shape.wanted))
    )


def meets(machine: Machine, require: Require) -> bool:
    """Does the machine have all that is asked of it (`unmet` says what is missing)?"""
    return (
        require.kind in machine.kinds
        and (require.node is None or machine.node_id == require.node)
        and (not require.os or machine.os == require.os)
        and (not require.role or machine.role == require.role)
        and require.tags <= machine.tags
        and (not require.gpu or machine.gpus > 0)
        and (not require.internet or machine.internet)
        and machine.total_cores >= require.min_cores
        and machine.total_memory_mb >= require.min_memory_mb
        and machine.total_storage_gb >= require.min_storage_gb
    )


_PLAIN = Require()
