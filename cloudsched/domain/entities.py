"""What are the nouns made of? Frozen records of Cloud, Node, Cluster, Job, Operation as the store keeps them.

Field order is column order. Times are epoch seconds; structured members are JSON text (`facts`, `options`, ...), decoded
where they are needed with the properties below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any

# Kinds of clouds that nothing here boots on: machines that joined by themselves, hosts of a compute centre.
UNDRIVEN = frozenset({"Agent", "Centre"})


@dataclass(frozen=True, slots=True)
class Cloud:
    """A place nodes come from. -1 = not limited. `credentials` is a sealed token, never clear text."""

    id: int
    name: str
    title: str
    address: str
    kind: str
    state: str
    enabled: int
    disabled_at: float | None
    error_since: float | None
    error_text: str
    priority: int
    max_slots: int
    memory_mb: int
    storage_gb: int
    cores: int
    max_node_memory_mb: int
    networks: str
    keep_alive_s: int
    boot_timeout_s: int | None
    options: str
    credentials: str
    failed_images: str
    source: str
    position: int
    version: int
    created_at: float

    @property
    def network_names(self) -> tuple[str, ...]:
        return tuple(json.loads(self.networks))

    @property
    def option(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.options)
        return value


@dataclass(frozen=True, slots=True)
class Node:
    """A machine. `state` is ours (moves.NODE); `status` is the place's word (contract 5.1)."""

    id: int
    name: str
    cloud_id: int
    external_id: str
    state: str
    goal: str
    status: str
    override: str | None
    force_retire: int
    retired: int
    user: str
    vm_type: str
    cores: int
    memory_mb: int
    storage_gb: int
    network: str
    image: str
    instance_type: str
    slots: int
    job_per_core: int
    shape_id: int | None
    job_id: int | None
    hostname: str
    address: str
    ssh_port: int
    handle: str
    facts: str
    metrics: str
    keep_alive_s: int
    idle_since: float | None
    error_count: int
    error_since: float | None
    last_poll_at: float | None
    status_changed_at: float | None
    boot_requested_at: float | None
    running_at: float | None
    registered_at: float | None
    boot_s: float | None
    last_seen_at: float | None
    instance: str
    token_hash: str
    secret_hash: str
    lease_holder: str
    lease_until: float
    candidates: str
    slot_name: str
    slot_address: str
    master_address: str
    run_times: str
    reason: str
    version: int
    created_at: float
    ended_at: float | None

    @property
    def user_type(self) -> str:
        return f"{self.user}:{self.vm_type}"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Many nodes as one. `key`: its name in the outside world; `name`: what people call it; `origin`: the dialect it came by.

    `kind`: kubernetes, slurm, spark, flink. `place`: where it runs (`local`, `kubernetes:CLOUD`, `hosts`). `cloud_id`: the
    cloud it lies in; `made_cloud_id`: the cloud that it is for the batch queue. `job_id`: it ends with this job. `secrets`
    is a sealed token. `spec` (what was asked for), `facts` (what is known of it) and `handle` (the driver's) are JSON text.
    """

    id: int
    key: str
    name: str
    kind: str
    origin: str
    org: str
    user: str
    place: str
    cloud_id: int | None
    made_cloud_id: int | None
    job_id: int | None
    state: str
    goal: str
    workers_wanted: int
    workers_ready: int
    address: str
    web_url: str
    spec: str
    facts: str
    handle: str
    secrets: str
    reason: str
    idle_limit_s: float | None
    idle_since: float | None
    attempts: int
    not_before: float
    lease_holder: str
    lease_until: float
    version: int
    created_at: float
    launched_at: float | None
    running_at: float | None
    ended_at: float | None


@dataclass(frozen=True, slots=True)
class Job:
    """One piece of work. `batch_status` is set only for jobs of an external batch system."""

    id: int
    source: str
    key: str
    batch_id: int
    proc: int
    name: str
    label: str
    user: str
    org: str
    kind: str
    shape_id: int
    state: str
    goal: str
    priority: int
    placed: int
    ban_until: float | None
    override: str | None
    node_id: int | None
    attempt: int
    retries: int
    max_retries: int
    backoff_s: float
    time_limit_s: float | None
    needs: int
    has_dependents: int
    depends_fail: str
    not_before: float | None
    submitted_at: float
    queued_at: float | None
    assigned_at: float | None
    started_at: float | None
    ended_at: float | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    ran_s: float | None
    cpu_s: float | None
    max_rss_mb: int | None
    result: str | None
    spec: str
    attributes: str
    retry_of: int | None
    batch_status: int | None
    remote_host: str | None


@dataclass(frozen=True, slots=True)
class Operation:
    """A long piece of work in recorded steps (`steps`: JSON list of {name, state, at, detail})."""

    id: int
    kind: str
    state: str
    goal: str
    subject_kind: str
    subject_id: int | None
    actor: str
    request: str
    steps: str
    result: str | None
    error: str | None
    attempt: int
    not_before: float
    lease_holder: str
    lease_until: float
    created_at: float
    ended_at: float | None
    version: int


def columns(kind: type) -> str:
    """The column list of a record for a SELECT, quoted where SQL needs it."""
    return ", ".join('"user"' if f.name == "user" else f.name for f in fields(kind))


def batch_status(state: str) -> int:
    """The batch-system number of a built-in job's state (contract 5.3)."""
    return _BATCH_STATUS[state]


_BATCH_STATUS = {
    "pending": 1, "queued": 1, "assigned": 2, "running": 2, "cancelled": 3,
    "succeeded": 4, "failed": 4, "timeout": 4, "held": 5,
}
