"""What else does the classic dialect show? The queue, shares, failures, stray machines, heart beats, the cloud file."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from cloudsched import clock
from cloudsched.classic import clouds_conf
from cloudsched.domain.entities import Job, Node, batch_status
from cloudsched.domain.frameworks import SOURCE
from cloudsched.domain.scheduling.matching import match_machines
from cloudsched.domain.scheduling.model import Shape
from cloudsched.domain.scheduling.shares import Shares, shares
from cloudsched.services import pool
from cloudsched.services.pool import CloudFacts
from cloudsched.settings import Settings
from cloudsched.store import pool as store
from cloudsched.store import shapes, system

IDLE, RUNNING = 1, 2
JOB_LISTS = store.LISTS


class JobRow(NamedTuple):
    """One line of a job list. `status` is the batch system's number (contract 5.3)."""

    key: str
    user: str
    vm_type: str
    status: int
    scheduled: bool
    override: str | None
    cloud: str


@dataclass(frozen=True, slots=True)
class JobFacts:
    """Everything J4 says of one job. `blocked`: (cloud, until) pairs."""

    job: Job
    shape: Shape
    status: int
    scheduled: bool
    cloud: str = ""
    blocked: Sequence[tuple[str, float]] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    host: str | None = None

    def detail(self, key: str) -> Any:
        """A member the job itself or its shape carries along, None when neither does."""
        value = self.attributes.get(key)
        return self.shape.extras.get(key) if value is None else value

    def text(self, key: str) -> str | None:
        """The same as text: whoever submits may have written anything there."""
        value = self.detail(key)
        return None if value is None else str(value)

    def number(self, key: str, default: float) -> int:
        """The same as a whole number; `default` for anything that is none."""
        value = self.detail(key)
        return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else int(default)


@dataclass(frozen=True, slots=True)
class Beat:
    """One loop: its pause, and the seconds since it last completed a cycle."""

    interval_s: float
    since_s: float


def job_list(which: str) -> list[JobRow]:
    """The jobs of one list of contract 5.4 in ascending id; an unknown list is empty."""
    if which not in JOB_LISTS:
        return []
    rows = store.job_rows(which)
    known = shapes.known()
    clouds = store.node_clouds([row[9] for row in rows if row[9] is not None and _status(row[1], row[5], row[6]) == RUNNING])
    found = []
    for _, source, key, user, shape_id, state, number, placed, override, node_id in rows:
        status = _status(source, state, number)
        running = status == RUNNING
        shape = known.get(shape_id) or shapes.get(shape_id)
        found.append(JobRow(key, user, shape.vm_type, status, running or state == "assigned" or bool(placed), override,
                            clouds.get(node_id, "") if running else ""))
    return found


def job_row(key: str) -> JobRow | None:
    """One job as a line of a list."""
    facts = job_facts(key)
    if facts is None:
        return None
    job = facts.job
    return JobRow(job.key, job.user, facts.shape.vm_type, facts.status, facts.scheduled, job.override, facts.cloud)


def job_facts(key: str) -> JobFacts | None:
    """One job by its id, built in or of another batch system."""
    job = store.job_by_key(key) if pool.storable(key) else None
    if job is None:
        return None
    return _all_facts([job], store.blocks(clock.now(), job.id))[0]


def job_pool() -> tuple[list[JobFacts], list[JobFacts]]:
    """(unscheduled, scheduled) jobs (J5)."""
    blocks = store.blocks(clock.now())
    return _all_facts(store.jobs_of("new"), blocks), _all_facts(store.jobs_of("sched"), blocks)


def job_counts() -> tuple[int, int]:
    """How many jobs are (unscheduled, scheduled)."""
    return store.job_count("new"), store.job_count("sched")


def _all_facts(jobs: Sequence[Job], blocks: dict[int, list[tuple[str, float]]]) -> list[JobFacts]:
    statuses = [_status(job.source, job.state, job.batch_status) for job in jobs]
    running_on = [job.node_id for job, status in zip(jobs, statuses, strict=True)
                  if status == RUNNING and job.node_id is not None]
    # The cloud as in the job lists: that of the node it was last seen on, be it gone meanwhile.
    clouds, hosts = store.node_clouds(running_on), _hosts(running_on)
    found = []
    for job, status in zip(jobs, statuses, strict=True):
        running = status == RUNNING
        cloud, host = (clouds.get(job.node_id or 0, ""), hosts.get(job.node_id or 0)) if running else ("", None)
        found.append(JobFacts(
            job, shapes.get(job.shape_id), status, running or job.state == "assigned" or bool(job.placed), cloud,
            blocks.get(job.id, ()),
            {} if job.attributes == "{}" else json.loads(job.attributes), job.remote_host if job.source != "queue" else host))
    return found


def _hosts(ids: Sequence[int]) -> dict[int, str]:
    if not ids:
        return {}
    wanted = set(ids)
    whole = pool.pool()
    return {node.id: node.hostname or node.name
            for cloud in (*whole.clouds, *whole.gone) for node in cloud.every() if node.id in wanted}


def _status(source: str, state: str, number: int | None) -> int:
    if source == SOURCE and state == "assigned":  # its cluster is not ready for it
        return IDLE
    if source == "queue" or number is None:
        return batch_status(state)
    return number


def share_table() -> Shares:
    """Current, desired and differing shares (T10), over the picture the scheduler has."""
    from cloudsched.services import snapshot

    return shares(snapshot.build(clock.now()), snapshot.policy())


def strays() -> list[tuple[str, str]]:
    """(name, start-daemon address) of registered machines no node owns (T17)."""
    from cloudsched.services import snapshot

    picture = snapshot.build(clock.now())
    return [(stray.name, stray.address) for stray in match_machines(picture.nodes, picture.slots).strays()]


def boot_failures() -> dict[str, list[str]]:
    """job id -> reasons why no node could be booted for it (T11)."""
    found: dict[str, list[str]] = {}
    for key, text in store.boot_failures():
        found.setdefault(key, []).append(text.partition("\n")[0])
    return found


def image_failures() -> dict[str, list[str]]:
    """cloud -> images that failed there (T12)."""
    clouds = pool.pool().clouds
    found = {cloud.name: list(json.loads(cloud.cloud.failed_images)) for cloud in clouds}
    return {name: images for name, images in found.items() if images}


# Name of a loop (store.system.pulses) -> the setting that is its pause.
LOOPS = {
    "scheduler": "scheduler_interval_s", "cleanup": "cleanup_interval_s", "node_poller": "node_poller_interval_s",
    "job_poller": "job_poller_interval_s", "machine_poller": "machine_poller_interval_s",
}


def heart_beats(settings: Settings, *, created_at: float) -> dict[str, Beat]:
    """The five loops (T13). `created_at` counts for a loop that no engine has started yet."""
    now, pulses, found = clock.now(), system.pulses(), {}
    for loop, setting in LOOPS.items():
        pulse = pulses.get(loop)
        if pulse is None:
            found[loop] = Beat(float(getattr(settings.engine, setting)), max(0.0, now - created_at))
            continue
        since = pulse.created_at if pulse.last_cycle_at is None else pulse.last_cycle_at
        found[loop] = Beat(pulse.interval_s, max(0.0, now - since))
    return found


def run_times(node: Node) -> list[int]:
    """Seconds each of the node's last ten jobs took."""
    return [int(value) for value in json.loads(node.run_times)][-10:]


def image_name(node: Node) -> str:
    """The name of the image that the job asked for, or empty."""
    named = json.loads(node.facts).get("image_name")
    if named is None and node.shape_id is not None:
        named = shapes.get(node.shape_id).extras.get("image_name")
    return str(named or "")


def cloud_settings(settings: Settings) -> list[tuple[str, list[tuple[str, str]]]]:
    """(section, [(key, value)]) of the cloud file, read now, secrets left out (T9). Without a file: the clouds
    that are kept, in the words of that file."""
    file = settings.cloud_scheduler.resources_file
    if file:
        return clouds_conf.raw_sections(file)
    return [(cloud.name, _as_section(cloud)) for cloud in pool.pool().clouds]


def _as_section(facts: CloudFacts) -> list[tuple[str, str]]:
    cloud = facts.cloud
    limits = (("memory", cloud.memory_mb), ("storage", cloud.storage_gb), ("cpu_cores", cloud.cores),
              ("max_vm_mem", cloud.max_node_memory_mb))
    return [
        ("host", cloud.address), ("cloud_type", facts.type_name), ("vm_slots", str(cloud.max_slots)),
        *((key, str(value)) for key, value in limits if value != pool.UNLIMITED),
        *((("networks", ",".join(cloud.network_names)),) if cloud.network_names else ()),
        ("priority", str(cloud.priority)),
    ]
