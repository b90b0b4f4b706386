"""How is a Spark or Flink cluster driven? The protocol of both places (this machine, Kubernetes), and its plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudsched.drivers.base import Check

SPARK, FLINK = "spark", "flink"
# States of a job of a framework, as drivers report them.
SUBMITTED, RUNNING, SUCCEEDED, FAILED, KILLED, LOST = "submitted", "running", "succeeded", "failed", "killed", "lost"
ENDED = frozenset({SUCCEEDED, FAILED, KILLED, LOST})
Handle = Mapping[str, Any]
Save = Callable[[Handle], None]


@dataclass(frozen=True, slots=True)
class ClusterWanted:
    """A cluster to run. `key` is its deterministic name, a DNS label: launching the same key twice is one cluster.

    Cores are thousandths (Kubernetes' m), memory MiB. `settings`: of Spark or Flink. `options`: what only some places know
    (on_demand_master, node_group, dynamic_disk_gb, namespace, image ...).
    """

    key: str
    kind: str
    cluster_id: int
    tenant: str
    workers: int
    worker_cores_m: int
    worker_memory_mb: int
    master_cores_m: int
    master_memory_mb: int
    settings: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """A cluster as its place sees it. `master`: is its master there and answering? `address`: where jobs go
    (`spark://host:port`, `http://host:port`); `busy`: does it run jobs, as far as the master knows?"""

    master: bool
    workers: int
    address: str = ""
    web_url: str = ""
    busy: bool = False
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobWanted:
    """A job for a cluster. `key` is deterministic: submitting it twice is one job. `entry`: a `.py` or `.jar` file on this
    machine, with `main_class` for a jar. `settings`: passed as configuration. Memory is MiB; `env` never holds a secret."""

    key: str
    job_id: int
    entry: str
    main_class: str = ""
    arguments: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    driver_memory_mb: int = 0
    executor_memory_mb: int = 0
    cores_max: int = 0
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A job as its place sees it. `application_id`: Spark's application or Flink's job id, once known."""

    state: str
    application_id: str = ""
    exit_code: int | None = None
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None


class Framework(Protocol):
    """Clusters of one kind in one place. Calls may block and are made with no transaction open; every call is safe to
    repeat, by this process or by another one after a crash. They raise drivers.base.DriverError."""

    kind: str

    def verify(self) -> list[Check]:
        """Can clusters of this kind be run here? What is missing is named, with what to install."""
        ...

    def launch(self, wanted: ClusterWanted, handle: Handle, save: Save) -> Handle:
        """Start whatever of master and workers is missing (a first launch and the healing of a lost worker are the same
        call), without waiting until they are ready. `save` is called with the handle after each irreversible step."""
        ...

    def look(self, wanted: ClusterWanted, handle: Handle) -> ClusterSeen:
        """How is the cluster now? A cluster that is not there is no error: no master, no workers."""
        ...

    def stop(self, wanted: ClusterWanted, handle: Handle) -> None:
        """Take the cluster away with all it holds; returns when it is proved gone. A missing cluster is no error."""
        ...

    def clusters(self) -> list[str]:
        """Keys of the clusters of this kind that are there and ours, for the sweep."""
        ...

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """Start the job unless it was (`handle` is what an earlier try saved); returns its handle."""
        ...

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        """How is the job now?"""
        ...

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        """End the job; returns when it is proved ended. An ended job is no error."""
        ...

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """A piece of the driver's log (standard output and error together); empty when there is none (yet)."""
        ...

    def forget(self, handle: Handle) -> None:
        """Remove what is kept of an ended job here (log, working directory); its log was kept elsewhere before."""
        ...
