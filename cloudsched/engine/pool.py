"""What does an external HTCondor pool say? Its queue becomes jobs, its machines become slots (contract 7.2, 7.3)."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import Any

from cloudsched import clock
from cloudsched.domain.scheduling.plan import Hold
from cloudsched.drivers.condor import (
    CondorCommands,
    CondorError,
    CondorPool,
    JobDefaults,
    Machines,
    QueuedJob,
)
from cloudsched.services.snapshot import make_policy
from cloudsched.settings import Settings
from cloudsched.store import external, jobs, shapes, system
from cloudsched.store.db import Tx, read, write

log = logging.getLogger(__name__)
SOURCE = "condor"

# Batch status -> our state. 6 and 7 are neither waiting nor done for us; they are shown by their number (B23).
_STATES = {0: "queued", 1: "queued", 2: "running", 3: "cancelled", 4: "succeeded", 5: "held"}


class ExternalPool:
    """The configured pool; reads are explicit, what they remember is in the store."""

    def __init__(self, commands: CondorPool) -> None:
        self.commands = commands
        self._machines = Machines()

    @classmethod
    def from_settings(cls, settings: Settings) -> ExternalPool | None:
        """The pool, when a queue command is configured anywhere; None otherwise."""
        if settings.origin("cloud_scheduler.condor_q_command") == "default":
            return None
        general = settings.cloud_scheduler.general
        section = {key: getattr(general, key) for key in general.__dataclass_fields__}
        return cls(CondorPool(
            CondorCommands.from_mapping(section), _job_defaults(settings),
            max_keep_alive_s=general.max_keepalive_s, reqs_from_requirements=general.vm_reqs_from_condor_reqs))

    def read_queue(self) -> int:
        """One JobPoller cycle for the pool; a failing command leaves the old picture. Returns the number of jobs."""
        queue = self.commands.read_queue()
        for warning in queue.warnings[:20]:
            log.warning("queue: %s", warning)
        write(lambda tx: _take_over(tx, queue.jobs))
        return len(queue.jobs)

    def read_machines(self) -> int:
        """One MachinePoller cycle; returns the number of slots."""
        before = {slot.name: slot.global_job_id or slot.job_id for slot in self._machines.slots}
        self._machines = self.commands.read_machines(self._machines)
        facts: dict[str, dict[str, Any]] = {}
        for slot in self._machines.slots:
            facts[slot.name] = {**asdict(slot), "job_changed": before.get(slot.name) not in (None, slot.global_job_id or slot.job_id)}
        if facts != system.slots():
            write(lambda tx: system.set_slots(tx, facts, at=clock.now()))
        return len(facts)

    def off(self, address: str, master: str) -> str | None:
        """Stop a machine peacefully; None when it accepted, else why not."""
        answer = self.commands.off(address, master)
        return None if answer.ok else answer.detail

    def invalidate(self, machine: str) -> None:
        """Make the pool forget a machine; a failure is logged."""
        try:
            self.commands.invalidate(machine)
        except CondorError as error:
            log.warning("invalidating %s: %s", machine, error)

    def hold(self, order: Hold) -> None:
        """Hold the waiting jobs of a shape. Raises CondorError."""
        rows = external.held_by(read(), order.shape_id, unscheduled=order.scope == "unscheduled", before=order.queued_before)
        if not rows:
            return
        self.commands.hold(order.reason, [f"{batch}.{proc}" for _, batch, proc in rows])
        if order.override:
            write(lambda tx: external.set_override(tx, [row[0] for row in rows], order.override))


def _job_defaults(settings: Settings) -> JobDefaults:
    job = settings.cloud_scheduler.job
    kinds = make_policy(settings)
    return JobDefaults(
        vm_type=job.default_vm_type, network=job.default_vm_network, image_name=job.default_vm_name, amis=kinds.default_images,
        instance_types=kinds.default_instance_types, memory_mb=job.default_vm_mem, cores=job.default_vm_cpu_cores,
        storage_gb=job.default_vm_storage, maximum_price=job.default_vm_maximum_price,
        proxy_non_boot=job.default_vm_proxy_non_boot, user_data=job.default_vm_user_data, targets=job.default_target_clouds,
        ami_config=job.default_vm_ami_config or None, inject_ca=job.default_vm_inject_ca,
        job_per_core=job.default_vm_job_per_core)


def _take_over(tx: Tx, queue: tuple[QueuedJob, ...]) -> None:
    at = clock.now()
    known = external.known(tx, SOURCE)
    for job in queue:
        row = known.pop(job.id, None)
        shape_id = shapes.ensure(tx, _shape(job))
        state = _STATES.get(job.status, "held")
        if row is None:
            external.add(tx, _columns(job, state, shape_id, jobs.allocate(tx, "job", 1)), at=at)
        else:
            _update(tx, row, job, state=state, shape_id=shape_id, at=at)
    for row in known.values():
        _vanished(tx, row, at)


def _columns(job: QueuedJob, state: str, shape_id: int, number: int) -> dict[str, Any]:
    return {
        "id": number, "source": SOURCE, "key": job.id, "batch_id": job.cluster_id, "proc": job.proc_id, "user": job.user,
        "shape_id": shape_id, "state": state, "priority": job.priority, "placed": int(job.status == 2),
        "attributes": json.dumps(asdict(job), default=list), "batch_status": job.status, "remote_host": job.remote_host,
        "started_at": job.job_start_time or None,
    }


def _update(tx: Tx, row: tuple[Any, ...], job: QueuedJob, *, state: str, shape_id: int, at: float) -> None:
    number, status, _, _, _, old_shape, priority, host, attributes = row
    fresh = {"shape_id": shape_id, "priority": job.priority, "remote_host": job.remote_host,
             "started_at": job.job_start_time or None, "attributes": json.dumps(asdict(job), default=list)}
    if status != job.status:
        if state == "queued":
            fresh["node_id"] = None
        external.change(tx, number, {**fresh, "state": state}, at=at, status=job.status)
    elif (old_shape, priority, host, attributes) != (shape_id, job.priority, job.remote_host, fresh["attributes"]):
        external.change(tx, number, fresh, at=at, status=None)


def _vanished(tx: Tx, row: tuple[Any, ...], at: float) -> None:
    number, status, _, started_at, node_id, *_ = row
    if status == 2 and node_id is not None and started_at:
        external.add_run_time(tx, node_id, [max(0, int(at - started_at))])
    external.drop(tx, number, at=at)


def _shape(job: QueuedJob) -> dict[str, Any]:
    return {
        "source": SOURCE, "user": job.user, "vm_type": job.vm_type, "cores": job.cores, "memory_mb": job.memory_mb,
        "storage_gb": job.storage_gb, "network": job.network, "high_priority": job.high_priority,
        "placement": {
            "targets": list(job.targets), "type_limit": job.vm_type_limit, "job_per_core": job.job_per_core,
            "keep_alive_s": job.keep_alive_s or None, "images": dict(job.amis), "instance_types": dict(job.instance_types),
            "maximum_price": job.maximum_price, "security_groups": list(job.security_groups),
            "extras": {"image_name": job.image_name, "key_name": job.key_name, "user_data": list(job.user_data)},
        },
    }
