"""May this node run a job of this shape? The start expression of a machine, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cloudsched.domain.scheduling.model import Shape


@dataclass(frozen=True, slots=True)
class Machine:
    """What admission looks at. Empty `user`/`vm_type` admit any; `cloud_names` are its cloud's name and aliases."""

    user: str
    vm_type: str
    cores: int
    memory_mb: int
    storage_gb: int
    cloud_names: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


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
    if shape.source != "queue":
        found.append(Refusal("source", "built-in queue", shape.source, "the job belongs to an external batch system"))
    if machine.user and machine.user != shape.user:
        found.append(Refusal("owner", machine.user, shape.user, f"the node runs only jobs of {machine.user}"))
    if machine.vm_type and machine.vm_type != shape.vm_type:
        found.append(Refusal("type", machine.vm_type, shape.vm_type, f"the node is of type {machine.vm_type}"))
    for rule, have, need in (("cores", machine.cores, shape.cores), ("memory_mb", machine.memory_mb, shape.memory_mb),
                             ("storage_gb", machine.storage_gb, shape.storage_gb)):
        if have < need:
            found.append(Refusal(rule, have, need, f"{rule}: the node has {have}, the job needs {need}"))
    if shape.targets and not machine.cloud_names & {name.lower() for name in shape.targets}:
        found.append(Refusal("target", sorted(machine.cloud_names), list(shape.targets),
                             "the node's cloud is not among the job's target clouds"))
    return found


def admits(machine: Machine, shape: Shape) -> bool:
    """The same, quickly."""
    return (
        shape.source == "queue"
        and (not machine.user or machine.user == shape.user)
        and (not machine.vm_type or machine.vm_type == shape.vm_type)
        and machine.cores >= shape.cores
        and machine.memory_mb >= shape.memory_mb
        and machine.storage_gb >= shape.storage_gb
        and (not shape.targets or not machine.cloud_names.isdisjoint(_lower(shape.targets)))
    )


def _lower(names: Sequence[str]) -> list[str]:
    return [name.lower() for name in names]
