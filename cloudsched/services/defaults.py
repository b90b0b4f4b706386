"""What does a job get that does not say? The `[job]` defaults of the configuration, as requests become shapes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloudsched.domain.submission import JobRequest, Wants
from cloudsched.settings import Settings


@dataclass(frozen=True)
class JobDefaults:
    """Values for members that a job leaves out (contract 6.1 `[job]`)."""

    vm_type: str = "default"
    network: str = ""
    cores: int = 1
    memory_mb: int = 512
    storage_gb: int = 0
    targets: tuple[str, ...] = ()
    job_per_core: bool = False
    maximum_price: float = 0.0
    image: str = ""
    extras: Mapping[str, Any] = field(default_factory=dict)
    spill_over: bool = False

    def shape(self, request: JobRequest, user: str) -> dict[str, Any]:
        """The request as a shape (store/shapes.py)."""
        placement: dict[str, Any] = {
            "targets": named(request.targets) or named(self.targets),
            "type_limit": request.vmtype_limit,
            "job_per_core": request.job_per_core or self.job_per_core,
            "keep_alive_s": request.keep_alive_s,
            "images": _by_cloud(request.image),
            "instance_types": _by_cloud(request.instance_type),
            "maximum_price": request.maximum_price or self.maximum_price,
            "security_groups": list(request.security_groups),
            "extras": {"gpus": request.gpus} if request.gpus else {},
        }
        if request.require is not None or not request.is_batch:
            return self._asking(request, user, placement)
        return {
            "source": "queue", "user": user, "vm_type": request.vm_type or self.vm_type,
            "cores": request.cores or self.cores,
            "memory_mb": self.memory_mb if request.memory_mb is None else request.memory_mb,
            "storage_gb": self.storage_gb if request.storage_gb is None else request.storage_gb,
            "network": self.network if request.network is None else request.network,
            "high_priority": request.high_priority, "placement": placement,
        }

    def _asking(self, request: JobRequest, user: str, placement: dict[str, Any]) -> dict[str, Any]:
        """A job that asks for more than room: for machines that are there. A task takes a slot and no room of its own; only
        where it may spill over to a booted machine, that machine needs what the task asks of it."""
        wants = request.require or Wants()
        spills = self.spill_over and may_spill(request.kind, wants)
        least = (wants.min_cores or 1, wants.min_memory_mb, math.ceil(wants.min_storage_gb)) if spills else (0, 0, 0)
        room = (self.cores, self.memory_mb, self.storage_gb) if request.is_batch else least
        asked = (request.cores, request.memory_mb, request.storage_gb)
        cores, memory_mb, storage_gb = (own if given is None else given for given, own in zip(asked, room, strict=True))
        return {
            "source": "queue" if spills else "task", "user": user, "vm_type": request.vm_type or self.vm_type, "cores": cores,
            "memory_mb": memory_mb, "storage_gb": storage_gb,
            "network": self.network if request.network is None else request.network,
            "high_priority": request.high_priority,
            "placement": {**placement, "require": {"kind": request.kind, **_given(wants)}},
        }


# What the agent of a booted machine runs without anybody having allowed it there.
SPILLING_KINDS = frozenset({"echo", "sleep", "system_info", "http_request", "command", "noop"})


def may_spill(kind: str, wants: Wants) -> bool:
    """Could a machine that is booted for it run such a job? It is a Linux machine of the role compute, without tags."""
    return (kind in SPILLING_KINDS and wants.node is None and wants.os in ("", "linux") and wants.role in ("", "compute")
            and not wants.tags and not wants.gpu)


def _given(wants: Wants) -> dict[str, Any]:
    found = msgspec.to_builtins(wants)
    found["tags"] = sorted(set(wants.tags))
    return {name: value for name, value in found.items() if value}


def named(targets: Iterable[str]) -> list[str]:
    """Target clouds as they are kept: without blanks around, no empty one; a list that is empty then names none."""
    return [name for target in targets if (name := target.strip())]


def _by_cloud(value: str | dict[str, str] | None) -> dict[str, str]:
    if not value:
        return {}
    return {"default": value} if isinstance(value, str) else value


_defaults = JobDefaults()


def set_job_defaults(defaults: JobDefaults) -> None:
    """Called once when a process starts, from its settings."""
    global _defaults
    _defaults = defaults


def job_defaults() -> JobDefaults:
    """The defaults in force."""
    return _defaults


def from_settings(settings: Settings) -> JobDefaults:
    """The `[job]` section of the configuration."""
    job = settings.cloud_scheduler.job
    return JobDefaults(
        vm_type=job.default_vm_type, network=job.default_vm_network, cores=job.default_vm_cpu_cores,
        memory_mb=job.default_vm_mem, storage_gb=job.default_vm_storage, targets=tuple(job.default_target_clouds),
        job_per_core=job.default_vm_job_per_core, maximum_price=job.default_vm_maximum_price,
        spill_over=settings.retire_cluster.spill_over)
