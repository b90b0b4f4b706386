"""What can be asked of devices? Register, report, look, ping, remove; and the exchanges of workers of the native protocol.

A device is a machine whose agent, or native worker, reports to us: its node and its row in `device`. Machines that were
booted and have not reported yet are shown too (offline, role `compute`).

Errors carry the code of contract 4 in `details["code"]`: DEVICE_NOT_FOUND (with `available_devices`, at most 20),
DEVICE_BUSY (with `active_tasks`), INVALID_PARAMETER.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain import devices as domain
from cloudsched.domain.devices import Facts
from cloudsched.domain.tasks import BATCH_KINDS
from cloudsched.errors import Conflict, Invalid
from cloudsched.services import fleet_config, jobs, lifecycle, machines, pings, tasks, workers
from cloudsched.services.caller import SYSTEM
from cloudsched.services.pings import Ping, Probe
from cloudsched.services.workers import Beat, Claimed, Outcome, Registered
from cloudsched.store import clouds, nodes
from cloudsched.store import devices as store
from cloudsched.store import jobs as job_rows
from cloudsched.store import tasks as task_rows
from cloudsched.store.db import Tx, write
from cloudsched.store.devices import Listed

__all__ = ["Beat", "Claimed", "DeviceView", "Devices", "Outcome", "Ping", "Probe", "Registered", "Removed", "Update", "delivered",
           "get", "heartbeat", "ids_of", "listed", "ping", "register", "remove", "report", "request_work", "summary", "task_word",
           "undelivered", "updates"]
STATUSES = ("all", "online", "offline")
SORTS = ("name", "cpu", "memory", "last_seen")


@dataclass(frozen=True, slots=True)
class DeviceView:
    """A device as readers see it. Times are epoch seconds (None: never); sizes GB; unknown numbers 0."""

    node_id: int
    device_id: str
    hostname: str
    online: bool
    role: str
    os: str
    profile: Mapping[str, Any]  # as reported
    platform_details: Mapping[str, Any]
    arch: str
    python_version: str
    cores: int
    memory_gb: float
    storage_gb: float
    has_gpu: bool
    tags: tuple[str, ...]
    groups: Mapping[str, Sequence[str]]  # computational, services, automation
    capabilities: tuple[str, ...]  # names of the groups that hold something, `services` as `network_services`
    kinds: tuple[str, ...]  # task types it announced, in the words of the contract
    accepts_tasks: bool
    capacity: int
    address: str
    network_interfaces: tuple[str, ...]
    sensors: tuple[str, ...]
    description: str
    metrics: Mapping[str, Any]  # the latest sample, names of contract 10.1
    cpu_usage: float  # percent of the latest sample, 0 when unknown
    memory_usage: float
    disk_usage: float
    memory_used_gb: float
    storage_used_gb: float
    battery: Mapping[str, Any] | None  # {"level", "charging"}
    active: int
    completed: int
    failed: int
    last_seen_at: float | None
    registered_at: float | None
    online_since: float | None
    uptime_s: float
    heartbeats: int
    last_error: str
    via: str  # agent, worker, legacy, machine
    state: str
    goal: str
    cloud: str


@dataclass(frozen=True, slots=True)
class Devices:
    """A list. `total`: all matches of all filters; `online`, `offline`: matches of the filters other than `status`."""

    items: list[DeviceView]
    total: int
    online: int
    offline: int


@dataclass(frozen=True, slots=True)
class Update:
    """A device was heard from: what a monitor shows of it."""

    device_id: str
    online: bool
    cpu_usage: float
    memory_usage: float
    at: float


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did. `cancelled`: tasks in hand and waiting ones pinned to it."""

    device_id: str
    cancelled: int
    was_online: bool
    at: float


# what workers of the native protocol say (services/workers.py)

register = workers.register
heartbeat = workers.heartbeat
request_work = workers.request_work
delivered = workers.delivered
undelivered = workers.undelivered
task_word = workers.task_word
report = workers.report


# looking


def get(device_id: str) -> DeviceView:
    """One device. Raises NotFound."""
    node_id = store.node_of(device_id)
    rows = store.listed(node_id=node_id) if node_id is not None else []
    if not rows:
        raise tasks.unknown_device(device_id)
    return _views(rows, clock.now(), fleet_config.current().offline_threshold_s)[0]


def listed(*, status: str = "all", role: str | None = None, os: str | None = None, tags: Sequence[str] = (), sort: str = "name",
           limit: int | None = None, offset: int = 0) -> Devices:
    """Devices under filters (contract 9.3). `role`, `os` compare in lower case; all `tags` must match."""
    if status not in STATUSES or sort not in SORTS:
        name, allowed = ("status", STATUSES) if status not in STATUSES else ("sort", SORTS)
        raise Invalid(f"{name}: unknown word",
                      details={"code": "INVALID_PARAMETER", "field": name, "allowed": ", ".join(allowed)})
    at, threshold_s = clock.now(), fleet_config.current().offline_threshold_s
    rows = [row for row, said, _ in machines.here() if _matches(row, said, role, os, tags)]
    online = [_is_online(row, at, threshold_s) for row in rows]
    chosen = [row for row, is_on in zip(rows, online, strict=True) if status == "all" or is_on == (status == "online")]
    ordered = _sorted(chosen, sort, None if limit is None else offset + limit)
    page = ordered[offset:] if limit is None else ordered[offset:offset + limit]
    return Devices(_views(page, at, threshold_s), len(chosen), sum(online), len(online) - sum(online))


def _matches(row: Listed, said: Facts, role: str | None, os: str | None, tags: Sequence[str]) -> bool:
    return ((not role or role == "all" or _role(row, said).lower() == role.lower()) and (not os or said.os == os.lower())
            and (not tags or said.tags.issuperset(tags)))


def _role(row: Listed, said: Facts) -> str:
    return row.role or said.role or domain.MACHINE_ROLE


def _is_online(row: Listed, at: float, threshold_s: float) -> bool:
    """Contract 10.4, by the server's clock."""
    return row.last_seen_at is not None and at - row.last_seen_at <= threshold_s


def _sorted(rows: list[Listed], sort: str, most: int | None) -> list[Listed]:
    """Contract 9.3: name ascending, the others descending, ties by id; only the first `most` are put in order."""
    if sort == "name":
        key: Any = _by_id
    elif sort == "last_seen":
        key = _by_contact
    else:
        texts = store.texts([row.node_id for row in rows], "metrics")
        used = {row.node_id: _used(row, texts.get(row.node_id, "{}"), sort) for row in rows}

        def key(row: Listed) -> tuple[float, str]:
            return -used[row.node_id], row.device_id

    return sorted(rows, key=key) if most is None else heapq.nsmallest(most, rows, key=key)


def _by_id(row: Listed) -> str:
    return row.device_id


def _by_contact(row: Listed) -> tuple[float, str]:
    return -(row.last_seen_at or 0.0), row.device_id


def _used(row: Listed, metrics: str, sort: str) -> float:
    sample = domain.sample_of(machines.profile(metrics))
    if sort == "cpu":
        return sample.cpu or 0.0
    total_mb = machines.facts(row.node_id, row.version).memory_mb or row.memory_mb
    return total_mb * (sample.memory or 0.0)


def _views(rows: Sequence[Listed], at: float, threshold_s: float) -> list[DeviceView]:
    ids = [row.node_id for row in rows]
    metrics, profiles = store.texts(ids, "metrics"), store.texts(ids, "facts")
    active = task_rows.active_by_node() if rows else {}
    names = {cloud.id: cloud.name for cloud in clouds.all_clouds(removed=True)}
    return [_view(row, machines.profile(metrics.get(row.node_id, "{}")), machines.profile(profiles.get(row.node_id, "{}")),
                  active.get(row.node_id, 0), names.get(row.cloud_id, ""), at, threshold_s) for row in rows]


def _view(row: Listed, metrics: dict[str, Any], said: dict[str, Any], active: int, cloud: str, at: float,
          threshold_s: float) -> DeviceView:
    facts, sample = machines.facts(row.node_id, row.version), domain.sample_of(metrics)
    online = _is_online(row, at, threshold_s)
    memory_gb = domain.rounded((facts.memory_mb or row.memory_mb) / 1024, 2)
    storage_gb = domain.rounded(facts.storage_gb or row.storage_gb, 2)
    details = said.get("platform_details")
    announced = facts.kinds - set(BATCH_KINDS) if facts.announced else frozenset()
    return DeviceView(
        node_id=row.node_id, device_id=row.device_id, hostname=facts.hostname or row.hostname, online=online,
        role=_role(row, facts), os=facts.os, profile=said, platform_details=details if isinstance(details, dict) else {},
        arch=facts.arch, python_version=facts.python_version, cores=_cores(row, facts), memory_gb=memory_gb,
        storage_gb=storage_gb, has_gpu=facts.gpu, tags=tuple(sorted(facts.tags)),
        groups=facts.groups or {"computational": (), "services": (), "automation": ()}, capabilities=facts.capabilities(),
        kinds=domain.types_of(announced), accepts_tasks=machines.accepts_tasks(row, facts), capacity=max(1, row.slots),
        address=row.address, network_interfaces=facts.interfaces, sensors=facts.sensors, description=facts.description,
        metrics=metrics, cpu_usage=sample.cpu or 0.0, memory_usage=sample.memory or 0.0, disk_usage=sample.disk or 0.0,
        memory_used_gb=domain.used_gb(memory_gb, sample.memory), storage_used_gb=domain.used_gb(storage_gb, sample.disk),
        battery=domain.battery_of(metrics), active=active, completed=row.completed or 0, failed=row.failed or 0,
        last_seen_at=row.last_seen_at, registered_at=row.registered_at or row.joined_at, online_since=row.online_since,
        uptime_s=_uptime_s(row, metrics, at) if online else 0.0, heartbeats=row.heartbeats or 0, last_error=row.last_error or "",
        via=row.via or store.MACHINE, state=row.state, goal=row.goal, cloud=cloud)


def _uptime_s(row: Listed, metrics: Mapping[str, Any], at: float) -> float:
    """Contract 10.2: what it reports, else since its present time of being online began."""
    reported = metrics.get("uptime_seconds")
    if isinstance(reported, (int, float)) and not isinstance(reported, bool) and reported >= 0:
        return float(reported)
    return max(0.0, at - row.online_since) if row.online_since is not None else 0.0


def _cores(row: Listed, facts: Facts) -> int:
    """As reported; a native worker that did not say has none here, though its node counts as one core."""
    return facts.cores or (0 if row.via in (store.WORKER, store.LEGACY) else row.cores)


def summary() -> dict[str, Any]:
    """Counts and sums (contract 9.3 summary): total_devices, online_devices, offline_devices, by_role, by_platform, by_status,
    resource_totals {cpu_cores, memory_gb, storage_gb} (online ones), capabilities {gpu_enabled, mobile_devices, server_grade}."""
    at, threshold_s = clock.now(), fleet_config.current().offline_threshold_s
    found = machines.here()
    online = [(row, said) for row, said, _ in found if _is_online(row, at, threshold_s)]
    sizes = [(_cores(row, said), (said.memory_mb or row.memory_mb) / 1024, said.storage_gb or row.storage_gb)
             for row, said in online]
    return {
        "total_devices": len(found), "online_devices": len(online), "offline_devices": len(found) - len(online),
        "by_role": _counted(_role(row, said) for row, said, _ in found),
        "by_platform": _counted(said.os or "unknown" for _, said, _ in found),
        "by_status": {"online": len(online), "offline": len(found) - len(online)},
        "resource_totals": {"cpu_cores": sum(size[0] for size in sizes),
                            "memory_gb": domain.rounded(sum(size[1] for size in sizes), 2),
                            "storage_gb": domain.rounded(sum(size[2] for size in sizes), 2)},
        "capabilities": {"gpu_enabled": sum(1 for _, said in online if said.gpu),
                         "mobile_devices": sum(1 for row, said in online if _role(row, said) == "mobile"),
                         "server_grade": sum(1 for size in sizes if size[0] >= 8 and size[1] >= 16)}}


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def ids_of(node_ids: Sequence[int]) -> dict[int, str]:
    """node id -> device id, for those that are or were devices (removed ones included)."""
    return store.ids(node_ids)


def updates(since: float, *, limit: int = 1000) -> list[Update]:
    """Devices heard from after `since` (epoch seconds), in the order of their last contact."""
    found = []
    for device_id, seen_at, text in store.heard_since(since, limit):
        sample = domain.sample_of(machines.profile(text))
        found.append(Update(device_id, True, sample.cpu or 0.0, sample.memory or 0.0, seen_at))
    return found


# acting


def ping(device_id: str, *, count: int = 3, timeout_s: float = 5.0) -> Ping:
    """Really probe: over our agent's own channel, else a TCP probe to the address. Raises NotFound.

    `count` 1..20, `timeout_s` 0.1..30 for each probe. A device that is offline is not probed.
    """
    found = get(device_id)
    return pings.ping(found.node_id, found.device_id, count=count, timeout_s=timeout_s, online=found.online,
                      own_channel=found.via in (store.AGENT, store.MACHINE), address=found.address)


def remove(device_id: str, *, force: bool, actor: str) -> Removed:
    """Take a device out (contract 9.3 DELETE). Raises NotFound, Conflict (DEVICE_BUSY: it has tasks and `force` is not set).

    A machine that was booted on a cloud is destroyed there; one that joined by itself is told to stop, and may join again.
    """
    found = get(device_id)
    at = clock.now()
    return write(lambda tx: _remove(tx, found, force, actor, at))


def _remove(tx: Tx, found: DeviceView, force: bool, actor: str, at: float) -> Removed:
    held = job_rows.in_hand(tx, found.node_id)
    if held and not force:
        raise Conflict(f"the device {found.device_id} has {len(held)} tasks in hand",
                       details={"code": "DEVICE_BUSY", "device_id": found.device_id, "active_tasks": len(held)})
    for row in held:
        tasks.end_task(tx, row[0], "cancel", at=at, actor=actor, reason="the device was removed")
    cancelled = len(held) + cancel_pinned(tx, found.node_id, actor=actor)
    device = store.of_node(tx, found.node_id)
    if device is not None:
        store.remove(tx, device, at=at, actor=actor, reason="asked for")
    if nodes.is_booted(tx, found.node_id):
        lifecycle.stop(tx, found.node_id, at=at, actor=actor, reason="the device was removed")
    else:
        lifecycle.forget(tx, found.node_id, at=at, actor=actor)
    return Removed(found.device_id, cancelled, found.online, at)


def cancel_pinned(tx: Tx, node_id: int, *, actor: str = "") -> int:
    """Waiting tasks that ask for this very node are cancelled: it will not be there; returns how many."""
    shape_ids = tasks.pinned_shapes(node_id)
    waiting = task_rows.pinned(("pending", "held", "queued"), shape_ids) if shape_ids else []
    for number, _ in waiting:
        jobs.cancel_waiting(tx, number, actor=actor or SYSTEM.name)
    return len(waiting)
