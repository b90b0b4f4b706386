"""What does an external HTCondor pool say? Its queue becomes jobs, its machines become slots (contract 7.2, 7.3)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
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
    Slot,
)
from cloudsched.services.snapshot import make_policy
from cloudsched.settings import Settings
from cloudsched.store import external, jobs, shapes, system
from cloudsched.store.db import Tx, read, write

log = logging.getLogger(__name__)
SOURCE = "condor"

# Batch status -> our state. 6 and 7 are neither waiting nor done for us; they are shown by their number (B23).
RUNNING = 2
_STATES = {0: "queued", 1: "queued", 2: "running", 3: "cancelled", 4: "succeeded", 5: "held"}


class ExternalPool:
    """The configured pool; reads are explicit, what they remember is in the store."""

    def __init__(self, commands: CondorPool) -> None:
        self.commands = commands
        self._machines: Machines | None = None

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
        take_over(queue.jobs)
        return len(queue.jobs)

    def read_machines(self) -> int:
        """One MachinePoller cycle; returns the number of slots."""
        if self._machines is None:
            # After a restart the picture that was kept is the previous one: an empty answer is not believed at once.
            self._machines = Machines(tuple(_slot(facts) for facts in system.slots().values()))
        before = {slot.name: slot.global_job_id or slot.job_id for slot in self._machines.slots}
        self._machines = self.commands.read_machines(self._machines)
        for warning in self._machines.warnings[:20]:
            log.warning("machines: %s", warning)
        facts = {slot.name: {**asdict(slot), "job_changed": before.get(slot.name, _job_of(slot)) != _job_of(slot)}
                 for slot in self._machines.slots}
        if _still(facts) != _still(system.slots()):
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
        write(lambda tx: external.set_held(tx, [row[0] for row in rows], at=clock.now(), override=order.override))


def _job_of(slot: Slot) -> str | None:
    return slot.global_job_id or slot.job_id


def _still(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the machine's clock, which is another one in each reading."""
    return {name: {**slot, "my_current_time": 0} for name, slot in facts.items()}


def _slot(facts: Mapping[str, Any]) -> Slot:
    return Slot(**{field.name: facts[field.name] for field in fields(Slot)})


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


# the queue


def take_over(queue: Sequence[QueuedJob]) -> None:
    """Make the picture of the queue what was read. What is the same is not written, so that the cost follows the change."""
    at, known = clock.now(), external.known(read(), SOURCE)
    fresh: list[tuple[QueuedJob, str]] = []
    changed: list[tuple[QueuedJob, tuple[Any, ...], str]] = []
    for job in queue:
        row, text = known.pop(job.id, None), _attributes(job)
        if row is None:
            fresh.append((job, text))
        elif _differs(row, job, text):
            changed.append((job, row, text))
    if fresh or changed or known:
        write(lambda tx: _write(tx, fresh, changed, list(known.values()), at))


def _write(tx: Tx, fresh: Sequence[tuple[QueuedJob, str]], changed: Sequence[tuple[QueuedJob, tuple[Any, ...], str]],
           vanished: Sequence[tuple[Any, ...]], at: float) -> None:
    for row in vanished:
        _note_run_time(tx, row, at)
        external.drop(tx, row[0], at=at)
    for job, row, text in changed:
        _update(tx, row, job, text, at)
    first = jobs.allocate(tx, "job", len(fresh)) if fresh else 0
    for index, (job, text) in enumerate(fresh):
        external.add(tx, {
            "id": first + index, "source": SOURCE, "key": job.id, "batch_id": job.cluster_id, "proc": job.proc_id,
            "user": job.user, "placed": int(job.status == 2), "batch_status": job.status,
            "state": _state(job.status), **_columns(tx, job, text)}, at=at)


def _attributes(job: QueuedJob) -> str:
    """What is kept of a job as JSON; the server's time comes last (see `_differs`)."""
    facts = asdict(job)
    server_time = facts.pop("server_time")
    return json.dumps({**facts, "server_time": server_time}, default=list)


def _differs(row: tuple[Any, ...], job: QueuedJob, text: str) -> bool:
    """Each reading has a new server time: it alone is written for running jobs only."""
    _, status, state, _, _, _, _, _, attributes = row
    if status != job.status or state != _state(job.status):
        return True
    if job.status == RUNNING:
        return bool(attributes != text)
    return bool(attributes.rpartition(", ")[0] != text.rpartition(", ")[0])


def _columns(tx: Tx, job: QueuedJob, text: str) -> dict[str, Any]:
    return {"shape_id": shapes.ensure(tx, _shape(job)), "priority": job.priority, "remote_host": job.remote_host,
            "started_at": job.job_start_time or None, "attributes": text}


def _update(tx: Tx, row: tuple[Any, ...], job: QueuedJob, text: str, at: float) -> None:
    number, status, state = row[:3]
    facts = {**_columns(tx, job, text), "state": _state(job.status)}
    if facts["state"] == "queued" and state != "queued":
        facts |= {"node_id": None, "queued_at": at}
    if job.status > RUNNING:
        _note_run_time(tx, row, at)
    external.change(tx, number, facts, at=at, status=job.status if status != job.status else None)


def _note_run_time(tx: Tx, row: tuple[Any, ...], at: float) -> None:
    """A job that was running on a node we know runs no more (B28)."""
    _, status, _, started_at, node_id, *_ = row
    if status == RUNNING and node_id is not None and started_at:
        external.add_run_times(tx, node_id, [at - started_at])


def _state(status: int) -> str:
    return _STATES.get(status, "held")


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
