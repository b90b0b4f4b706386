"""What does the scheduling decision look at? Builds the domain's snapshot and policy from the store and the settings."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cloudsched.agent import profile
from cloudsched.domain.entities import UNDRIVEN, Cloud
from cloudsched.domain.scheduling.model import (
    DEFAULT,
    EC2_TYPES,
    CloudView,
    Head,
    JobGroup,
    NodeView,
    Policy,
    RunningJob,
    Shape,
    SlotView,
    Snapshot,
)
from cloudsched.garbage import uncollected
from cloudsched.settings import Settings
from cloudsched.store import clouds, picture, shapes, system
from cloudsched.store.db import Row, Tx, current

HEADS = 8
_KUBE_GPU = "nvidia.com/gpu"
# Blocked jobs must not hide those behind them: as many heads more are read, up to this.
BLOCKED_HEADS = 500


@dataclass
class _Rules:
    policy: Policy = field(default_factory=Policy)
    liveness_s: float = 60.0  # an agent that is silent for longer is no machine of the queue


_rules = _Rules()


def configure(settings: Settings) -> None:
    """Called once when a process starts."""
    _rules.policy = make_policy(settings)
    _rules.liveness_s = settings.agent.lease_s


def policy() -> Policy:
    """The scheduling policy in force."""
    return _rules.policy


def make_policy(settings: Settings) -> Policy:
    """The keys of `cloud_scheduler.conf` (contract 6.1) that the decisions use."""
    g, job = settings.cloud_scheduler.general, settings.cloud_scheduler.job
    return Policy(
        algorithm=g.scheduling_algorithm, metric=g.scheduling_metric, distribution=g.job_distribution_type,
        cpu_weight=g.cpu_distribution_weight, memory_weight=g.memory_distribution_weight,
        storage_weight=g.storage_distribution_weight, high_priority_support=g.high_priority_job_support,
        high_priority_weight=g.high_priority_job_weight, graceful_shutdown=g.graceful_shutdown,
        max_starting=g.max_starting_vm, max_destroys=g.max_destroy_threads, max_keep_alive_s=g.max_keepalive_s,
        boot_timeout_s=g.vm_start_running_timeout, register_time_limit_s=g.condor_register_time_limit_s,
        polling_error_threshold=g.polling_error_threshold, idle_threshold_s=g.vm_idle_threshold,
        clean_shutdown_idle=g.clean_shutdown_idle, cleanup_missing=g.cleanup_missing_vms,
        retire_before_lifetime=g.retire_before_lifetime, retire_before_lifetime_factor=g.retire_before_lifetime_factor,
        retire_reallocate=g.retire_reallocate, connection_fail_threshold_s=g.vm_connection_fail_threshold,
        connection_fail_disable_s=g.connection_fail_disable_time, proxy_shutdown_threshold_s=g.vm_proxy_shutdown_threshold,
        ban_tracking=g.ban_tracking, ban_min_track=g.ban_min_track, ban_failrate_threshold=g.ban_failrate_threshold,
        job_ban_timeout_s=g.job_ban_timeout_s, default_images=_pairs(job.default_vm_ami),
        default_instance_types={DEFAULT: "m1.small", **_pairs(job.default_vm_instance_type_list),
                                **_pairs(job.default_vm_instance_type)},
    )


def _pairs(text: str) -> dict[str, str]:
    """`value` or `cloud:value, cloud:value` as a mapping (the plain value under "default")."""
    found = {}
    for part in (piece.strip() for piece in text.split(",")):
        name, colon, value = part.partition(":")
        if part:
            found[name.strip().lower() if colon else DEFAULT] = value.strip() if colon else part
    return found


def build(now: float) -> Snapshot:
    """Everything one pass looks at, as one state of the database."""
    # A picture of 10,000 nodes is all new objects and no garbage: looking through them again and again took a third of the time.
    with uncollected(), current().snapshot() as tx:
        configured = clouds.all_clouds(removed=True)
        bans: dict[str, set[str]] = defaultdict(set)
        for image, cloud, _, _, banned in clouds.image_records():
            if banned:
                bans[cloud].add(image)
        active = [cloud for cloud in configured if cloud.state == "active" and cloud.kind not in UNDRIVEN]
        views = [cloud_view(cloud, frozenset(bans[cloud.name])) for cloud in active]
        names = {cloud.id: cloud.name for cloud in configured}
        managed = {cloud.id for cloud in configured if cloud.kind not in UNDRIVEN}
        rows = [row for row in picture.live_nodes(tx) if row[1] in managed]
        ends = {row[0]: _ends(*row[1:]) for row in picture.ending_nodes(tx)}
        groups, running = _groups(tx, now)
        slots = sum(max(0, view.max_slots) for view in views if view.enabled)
        pool_read = [system.setting(key, "off") != "waiting" for key in ("external_queue", "external_machines")]
        return Snapshot(
            clouds=views,
            nodes=[node_view(row, names, now, ends=ends.get(row[0], _ENDLESS)) for row in rows],
            groups=groups,
            slots=[*_agent_slots(rows, picture.busy_nodes(tx), _heard_since(now)), *_external_slots()],
            running_jobs=running,
            limits=clouds.limits(),
            aliases=clouds.aliases(),
            waiting=picture.first_waiting(tx, at=now, limit=slots) if _rules.policy.algorithm == "fifo" else None,
            queue_read=pool_read[0],
            machines_read=pool_read[1],
            active_destroys=sum(1 for row in rows if row[12] == "stopping" and not _pausing(row, now)),
        )


def _pausing(row: Row, now: float) -> bool:
    """A destroy that failed waits for its next try: it keeps no worker busy."""
    return not row[32] and row[33] > now


def cloud_view(cloud: Cloud, banned: frozenset[str] = frozenset()) -> CloudView:
    """A cloud as the decision sees it."""
    return CloudView(
        name=cloud.name, max_slots=cloud.max_slots, address=cloud.address, cloud_type=cloud.kind, enabled=bool(cloud.enabled),
        priority=cloud.priority, max_memory_mb=cloud.memory_mb, max_storage_gb=cloud.storage_gb, cpu_cores=cloud.cores,
        max_node_memory_mb=cloud.max_node_memory_mb, node_gpus=node_gpus(cloud), networks=cloud.network_names,
        boot_timeout_s=cloud.boot_timeout_s, keep_alive_s=cloud.keep_alive_s,
        security_groups=tuple(cloud.option.get("security_group", ())),
        requires_image=cloud.kind in EC2_TYPES and not any(map(cloud.option.get, ("image", "images"))), banned_images=banned,
        # Reachable again but still switched off for its trouble: `error_since` stays, the text is gone.
        connection_problem=cloud.error_since is not None and bool(cloud.error_text),
        connection_failed_at=cloud.error_since, auto_disabled=cloud.disabled_at is not None,
    )


def node_gpus(cloud: Cloud) -> int:
    """GPUs of a node that the cloud boots: its option `gpus`, else the most that one of its sizes has, as far as its options
    say that; of a cloud on this machine those of the machine."""
    given, sizes, extra = map(cloud.option.get, ("gpus", "instance_types", "resources"))
    if isinstance(given, int):
        return given
    if isinstance(sizes, dict):
        return max((size.get("gpus", 0) for size in sizes.values() if isinstance(size, dict)), default=0)
    if isinstance(extra, dict) and str(extra.get(_KUBE_GPU, "")).isdigit():
        return int(extra[_KUBE_GPU])
    return profile.gpus() if cloud.kind == "Local" else 0


class Ends(NamedTuple):
    """When a node's machine and its credentials end, and how long its jobs took, as far as known."""

    expires_at: float | None = None
    average_run_s: float | None = None
    proxy_expires_at: float | None = None


_ENDLESS = Ends()


def _ends(facts: str, run_times: str) -> Ends:
    known, times = json.loads(facts), json.loads(run_times)
    lifetime, proxy = known.get("expires_at"), known.get("proxy_expires_at")
    return Ends(_number(lifetime), sum(times) / len(times) if times else None, _number(proxy))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def node_view(row: Row, cloud_names: dict[int, str], now: float, *, ends: Ends = _ENDLESS) -> NodeView:
    """A node (store.picture.NODE_COLUMNS) as the decision sees it.

    A node of our own agents is registered under its own name; one of an external pool under its slot's. The boot
    timeout of a node that no worker has begun to boot has not begun either.
    """
    (number, cloud_id, user, vm_type, cores, memory_mb, storage_gb, network, status, override, force_retire, retired, state,
     _, job_per_core, image, requested_at, running_at, hostname, name, address, slot_name, slot_address, master, registered_at,
     idle_since, keep_alive_s, errors, _, _, _, changed_at, _, lease_until) = row
    return NodeView(
        number, cloud_names.get(cloud_id, ""), user, vm_type, cores, memory_mb, storage_gb, network, status, override or "",
        bool(force_retire), bool(retired), state == "stopping", bool(job_per_core), image,
        boot_requested_at=now if state == "requested" and not lease_until else requested_at or 0.0,
        running_since=running_at, hostname=hostname, alt_hostname=name, ip_address=address,
        registered_name=slot_name or (name if registered_at is not None else ""), registered_address=slot_address,
        registered_master=master, register_clock_at=changed_at if running_at is not None else None, idle_since=idle_since,
        keep_alive_s=keep_alive_s, error_polls=errors, expires_at=ends.expires_at, average_run_s=ends.average_run_s,
        proxy_expires_at=ends.proxy_expires_at,
    )


def _heard_since(now: float) -> float:
    """From when on a call of an agent counts; all time while a server that was away has just come back."""
    serving_s = now - float(system.setting("serving_since", "0"))
    return 0.0 if 0 <= serving_s < _rules.liveness_s else now - _rules.liveness_s


def _agent_slots(rows: list[Row], busy: dict[int, tuple[int, int]], since: float) -> list[SlotView]:
    """Our own agents as machines of the built-in queue: registered while they are heard from, a slot per job at a time."""
    found = []
    for row in rows:
        seen_at, slots = row[28], row[30]
        if not row[29] or seen_at is None or seen_at < since or (since == 0 and row[24] is None):
            continue
        count, job_id = busy.get(row[0], (0, 0))
        for index in range(max(1, slots)):
            taken = index < count
            found.append(SlotView(
                row[19] if slots <= 1 else f"slot{index + 1}@{row[19]}", row[19], "Claimed" if taken else "Unclaimed",
                "Busy" if taken else "Idle", row[25] or seen_at, user=row[2], vm_type=row[3], total_slots=slots,
                job_id=str(job_id) if taken else "", node_id=row[0]))
    return found


def _external_slots() -> list[SlotView]:
    return [SlotView(
        name=name, machine=f["machine"], state=f["state"], activity=f["activity"], since=f["entered_current_state"],
        address=f["address"], master_address=f["master_address"], user=f["user"] or "", vm_type=f["vm_type"],
        slot_type=f["slot_type"], total_slots=f["total_slots"], job_id=f["global_job_id"] or f["job_id"] or "",
        job_changed=bool(f.get("job_changed"))) for name, f in system.slots().items()]


def _groups(tx: Tx, now: float) -> tuple[list[JobGroup], list[RunningJob]]:
    known = shapes.known()
    queued, running = picture.queued_counts(tx), picture.running_by_shape(tx)
    placed: dict[int, list[int]] = defaultdict(list)
    for shape_id, job_id, _ in picture.placed_jobs(tx):
        placed[shape_id].append(job_id)
    banned: dict[int, int] = defaultdict(int)
    for shape_id, _ in picture.banned_jobs(tx, now):
        banned[shape_id] += 1
    blocked: dict[int, set[str]] = defaultdict(set)
    hidden: dict[int, set[int]] = defaultdict(set)
    for job_id, cloud, shape_id in picture.blocks(tx, now):
        blocked[job_id].add(cloud)
        hidden[shape_id].add(job_id)
    external = picture.external_running(tx)
    unmarked: dict[int, list[int]] = defaultdict(list)
    for job_id, shape_id, _, _, is_placed in external:
        if not is_placed:
            unmarked[shape_id].append(job_id)
    groups = []
    for shape_id in sorted(queued.keys() | running.keys()):
        shape = known[shape_id]
        if shape.source == "task":
            continue  # machines that are there take them; nothing is booted for them
        waiting = queued.get(shape_id, 0) - len(placed[shape_id]) - banned[shape_id]
        most = max(HEADS, shape.cores if shape.job_per_core else 1) + min(BLOCKED_HEADS, len(hidden[shape_id]))
        rows = picture.heads(tx, shape_id, at=now, limit=most) if waiting else []
        groups.append(JobGroup(
            shape=shape, unscheduled=max(waiting, len(rows)), scheduled_idle=len(placed[shape_id]),
            running=running.get(shape_id, 0), banned=banned[shape_id], heads=tuple(Head(row[0], row[1]) for row in rows),
            blocked={row[0]: frozenset(blocked[row[0]]) for row in rows if row[0] in blocked},
            scheduled_idle_ids=tuple(placed[shape_id]), running_unscheduled_ids=tuple(unmarked[shape_id]),
            oldest_idle_at=min((row[2] for row in rows if row[2] is not None), default=None),
        ))
    noted = [RunningJob(job_id, host or "", noted_node_id=node_id) for job_id, _, host, node_id, _ in external]
    return groups, noted


def with_job(snapshot: Snapshot, shape: Shape, job_id: int, priority: int) -> Snapshot:
    """The same snapshot in which this job waits among its group's heads (for `why`)."""
    head = Head(job_id, priority)
    others = [group for group in snapshot.groups if group.shape.id != shape.id]
    mine = next((group for group in snapshot.groups if group.shape.id == shape.id), JobGroup(shape))
    if all(known.job_id != job_id for known in mine.heads):
        mine = replace(mine, heads=(*mine.heads, head), unscheduled=max(1, mine.unscheduled))
    return replace(snapshot, groups=[*others, mine])
