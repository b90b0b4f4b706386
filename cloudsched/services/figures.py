"""What is true of the fleet? Every figure of contract 15, computed from what was recorded; nothing is invented.

Samples are kept by the minute (two hours), by ten minutes (26 hours) and by the hour (31 days): a period begins with the
bucket it begins in. Figures of API requests are kept by the minute (services/api_requests.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain import devices as domain
from cloudsched.domain import tasks as words
from cloudsched.domain.devices import Sample, percent, rounded
from cloudsched.errors import Invalid
from cloudsched.services import fleet_config, fleet_health, machines
from cloudsched.services.api_requests import count_request, note_refused, performance
from cloudsched.store import devices as device_rows
from cloudsched.store import series, shapes, system
from cloudsched.store import tasks as task_rows
from cloudsched.store.devices import Listed
from cloudsched.store.series import NONE, Sums

__all__ = ["GROUPS", "PERIODS", "TYPES", "cluster", "count_request", "device_stats", "health", "history", "metrics",
           "note_refused", "performance", "queue_statistics", "samples", "task_stats", "uptime_s"]
PERIODS = {"1h": 3600.0, "24h": 86400.0, "7d": 7 * 86400.0, "30d": 30 * 86400.0}
TYPES = ("cpu", "memory", "network", "disk", "all")
GROUPS = {"device": "node", "task_type": "kind", "hour": "hour"}
HOUR_S, DAY_S, HISTORY_HOURS = 3600, 86_400, 24
FAILED = ("failed", "timeout")


@dataclass(frozen=True)
class _Machine:
    """A device as figures need it."""

    row: Listed
    online: bool
    role: str
    os: str
    cores: int
    memory_gb: float
    storage_gb: float


def _fleet(at: float) -> list[_Machine]:
    threshold_s = fleet_config.current().offline_threshold_s
    return [_Machine(row, row.last_seen_at is not None and at - row.last_seen_at <= threshold_s,
                     row.role or said.role or domain.MACHINE_ROLE, said.os or "unknown", said.cores or row.cores,
                     (said.memory_mb or row.memory_mb) / 1024, said.storage_gb or row.storage_gb)
            for row, said, _ in machines.here()]


@dataclass(frozen=True)
class _Load:
    """Means of the latest sample of each online device."""

    cpu: float
    memory: float
    disk: float


def _load(fleet: Iterable[_Machine]) -> _Load:
    texts = device_rows.texts([one.row.node_id for one in fleet if one.online], "metrics")
    found = [domain.sample_of(machines.profile(text)) for text in texts.values()]
    return _Load(_mean(found, "cpu"), _mean(found, "memory"), _mean(found, "disk"))


def _mean(found: list[Sample], name: str) -> float:
    values = [value for one in found if (value := getattr(one, name)) is not None]
    return rounded(sum(values) / len(values)) if values else 0.0


def _resources(fleet: Iterable[_Machine]) -> dict[str, Any]:
    """Sums over online devices; GB with 2 decimals."""
    online = [one for one in fleet if one.online]
    return {"cpu_cores": sum(one.cores for one in online), "memory_gb": rounded(sum(one.memory_gb for one in online), 2),
            "storage_gb": rounded(sum(one.storage_gb for one in online), 2)}


def _counted(found: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(found).items()))


# the cluster


def cluster() -> dict[str, Any]:
    """`cluster_stats` {total_devices, online_devices, offline_devices, health_percentage, total_resources, by_role, by_platform,
    by_status, uptime_s} and the flat members cluster_status, nodes_online, nodes_total, cpu_cores, cpu_usage, memory_total,
    memory_usage, tasks_active, tasks_completed (contract 9.2 status). `uptime_s` is in seconds."""
    at = clock.now()
    fleet = _fleet(at)
    online, load, sizes = sum(one.online for one in fleet), _load(fleet), _resources(fleet)
    midnight = at // DAY_S * DAY_S
    ended = {state: int(count) for state, count, _ in task_rows.ended(midnight, at)}
    stats = {
        "total_devices": len(fleet), "online_devices": online, "offline_devices": len(fleet) - online,
        "health_percentage": percent(online, len(fleet)), "total_resources": sizes,
        "by_role": _counted(one.role for one in fleet), "by_platform": _counted(one.os for one in fleet),
        "by_status": {"online": online, "offline": len(fleet) - online}, "uptime_s": uptime_s()}
    return {
        "cluster_stats": stats, "cluster_status": health(fleet, load)["overall_health"], "nodes_online": online,
        "nodes_total": len(fleet), "cpu_cores": sizes["cpu_cores"], "cpu_usage": load.cpu, "memory_total": sizes["memory_gb"],
        "memory_usage": load.memory, "tasks_active": sum(task_rows.active_by_node().values()),
        "tasks_completed": ended.get("succeeded", 0), "uptime_s": stats["uptime_s"]}


def health(fleet: list[_Machine] | None = None, load: _Load | None = None) -> dict[str, Any]:
    """overall_health, status, checks {database, network, resources, engine, disk}, components, unhealthy_components
    (contract 9.2 health). Works without the database too: then it says so."""
    if fleet is None:
        if fleet_health.database()["status"] == fleet_health.UNHEALTHY:
            return fleet_health.health(online=0, total=0, cpu_usage=0.0, memory_usage=0.0)
        fleet = _fleet(clock.now())
    load = load or _load(fleet)
    return fleet_health.health(online=sum(one.online for one in fleet), total=len(fleet), cpu_usage=load.cpu,
                               memory_usage=load.memory)


def uptime_s() -> float:
    """Seconds since the server started."""
    since = float(system.setting("serving_since", "0"))
    return max(0.0, clock.now() - since) if since else 0.0


def metrics(period: str = "1h", kind: str = "all") -> dict[str, Any]:
    """metrics {cpu, memory, tasks, network, disk}, period, devices, resources, performance, tasks (contract 9.2 metrics).

    Raises Invalid (INVALID_PARAMETER).
    """
    length_s = _length(period)
    _check("type", kind, TYPES)
    at = clock.now()
    fleet, sums = _fleet(at), series.total(at - length_s)
    load, sizes = _load(fleet), _resources(fleet)
    found = {
        "cpu": {**_usage(sums.cpu_n, sums.cpu_sum, sums.cpu_max), "total_cores": sizes["cpu_cores"]},
        "memory": {**_usage(sums.memory_n, sums.memory_sum, sums.memory_max), "total_gb": sizes["memory_gb"]},
        "tasks": _ended_tasks(at - length_s, at),
        "network": {"bytes_sent": int(sums.sent), "bytes_received": int(sums.received)},
        "disk": {**_usage(sums.disk_n, sums.disk_sum, sums.disk_max), "total_gb": sizes["storage_gb"]}}
    return {
        "metrics": found if kind == "all" else {kind: found[kind]}, "period": period,
        "devices": {"total": len(fleet), "online": sum(one.online for one in fleet),
                    "by_role": _counted(one.role for one in fleet), "by_platform": _counted(one.os for one in fleet),
                    "resource_utilization": {"cpu_usage": load.cpu, "memory_usage": load.memory, "disk_usage": load.disk}},
        "resources": {"total_cpu_cores": sizes["cpu_cores"], "total_memory_gb": sizes["memory_gb"],
                      "total_storage_gb": sizes["storage_gb"], "average_utilization": load.cpu},
        "performance": performance(), "tasks": queue_statistics()["queue_stats"]}


def _usage(count: int, total: float, peak: float) -> dict[str, float]:
    return {"average_usage": rounded(total / count) if count else 0.0, "peak_usage": rounded(peak)}


def _ended_tasks(since: float, until: float) -> dict[str, Any]:
    """Tasks that ended in [since, until); one that ran out of time counts as failed."""
    by_state = {state: (int(count), float(total or 0.0)) for state, count, total in task_rows.ended(since, until)}
    completed, total_s = by_state.get("succeeded", (0, 0.0))
    return {"completed": completed, "failed": sum(by_state.get(state, (0, 0.0))[0] for state in FAILED),
            "average_duration_seconds": rounded(total_s / completed) if completed else 0.0}


def _length(period: str) -> float:
    _check("period", period, PERIODS)
    return PERIODS[period]


def _check(name: str, value: str, allowed: Iterable[str]) -> None:
    known = tuple(allowed)
    if value not in known:
        raise Invalid(f"{name}: {str(value)[:40]!r} is none of {', '.join(known)}",
                      details={"code": "INVALID_PARAMETER", "field": name, "allowed": ", ".join(known)})


# statistics


def task_stats(period: str = "24h", group_by: str = "device") -> dict[str, Any]:
    """`task_stats` of contract 9.8. Groups hold {completed, failed, cancelled}. Raises Invalid (INVALID_PARAMETER)."""
    length_s = _length(period)
    _check("group_by", group_by, GROUPS)
    at = clock.now()
    by_status = dict.fromkeys(words.DOCUMENT_WORDS, 0)
    groups: dict[Any, dict[str, int]] = defaultdict(lambda: {"completed": 0, "failed": 0, "cancelled": 0})
    for key, state, count in task_rows.created(at - length_s, GROUPS[group_by]):
        word = words.WORDS[state][1]
        by_status[word] += int(count)
        if word in ("completed", "failed", "cancelled") and key is not None:
            groups[_group(group_by, key)][word] += int(count)
    named: dict[Any, dict[str, int]] = dict(sorted(groups.items()))
    if group_by == "device":
        names = device_rows.ids(named)
        named = {names.get(key, str(key)): found for key, found in named.items()}
    return {
        "period": period, "total_tasks": sum(by_status.values()), "by_status": by_status,
        f"by_{group_by}": named,
        "average_execution_time": _ended_tasks(at - length_s, at)["average_duration_seconds"],
        "success_rate": percent(by_status["completed"], by_status["completed"] + by_status["failed"] + by_status["cancelled"])}


def _group(group_by: str, key: Any) -> Any:
    if group_by == "hour":
        return (clock.rfc3339(float(key)) or "")[:19] + "Z"
    return words.type_of(key) if group_by == "task_type" else int(key)


def device_stats(period: str = "24h") -> dict[str, Any]:
    """`device_stats` of contract 9.8: utilization, performance_ranking. Raises Invalid (INVALID_PARAMETER)."""
    length_s = _length(period)
    at = clock.now()
    since = at - length_s
    sums, uptimes = series.by_node(since), _uptimes(since, at)
    ended: dict[int, Counter[str]] = defaultdict(Counter)
    for node_id, state, count in task_rows.ended_by_node(since, at):
        ended[node_id][words.WORDS[state][1]] += int(count)
    utilization, ranking = {}, []
    for row in device_rows.listed():
        found = sums.get(row.node_id, NONE)
        cpu, memory, uptime = _avg(found.cpu_n, found.cpu_sum), _avg(found.memory_n, found.memory_sum), uptimes[row.node_id]
        utilization[row.device_id] = {"cpu_avg": cpu, "memory_avg": memory, "uptime_percent": uptime}
        ranking.append({"device_id": row.device_id, "score": score(ended[row.node_id], uptime, cpu, memory)})
    ranking.sort(key=lambda one: (-one["score"], one["device_id"]))  # type: ignore[operator]
    return {"utilization": utilization, "performance_ranking": ranking}


def _avg(count: int, total: float) -> float:
    return rounded(total / count) if count else 0.0


def score(ended: Mapping[str, int], uptime_percent: float, cpu_avg: float, memory_avg: float) -> float:
    """Contract 15: 100 x (0.5 S + 0.3 U + 0.2 H); without an ended task the weight of S goes to the others in proportion."""
    completed, failed = ended.get("completed", 0), ended.get("failed", 0)
    rest = 0.3 * uptime_percent / 100 + 0.2 * (1 - (cpu_avg + memory_avg) / 200)
    if completed + failed == 0:
        return rounded(100 * rest / 0.5)
    return rounded(100 * (0.5 * completed / (completed + failed) + rest))


def _uptimes(since: float, at: float) -> dict[int, float]:
    """node -> uptime_percent: the union of [contact, contact + threshold] within the period, since it was registered."""
    threshold_s = fleet_config.current().offline_threshold_s
    times: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for node_id, began_at, last_at in device_rows.periods(since - threshold_s):
        times[node_id].append((began_at, last_at + threshold_s))
    found = {}
    for row in device_rows.listed():
        if row.online_since is not None and row.last_seen_at is not None:
            times[row.node_id].append((row.online_since, row.last_seen_at + threshold_s))
        registered = row.registered_at or row.joined_at or row.created_at
        begin = max(since, registered)
        covered = domain.covered(times[row.node_id], begin, at)
        found[row.node_id] = min(100.0, percent(covered, at - begin)) if at > begin else 100.0 * (row.online_since is not None)
    return found


def history(node_id: int) -> dict[str, list[float]]:
    """cpu_usage_24h, memory_usage_24h, task_count_24h: by the hour, oldest first, at most 24, from the hour of registration
    (contract 15)."""
    at = clock.now()
    rows = device_rows.listed(node_id=node_id)
    registered = (rows[0].registered_at or rows[0].joined_at or rows[0].created_at) if rows else at
    last = int(at // HOUR_S) * HOUR_S
    first = max(last - (HISTORY_HOURS - 1) * HOUR_S, int(registered // HOUR_S) * HOUR_S)
    hours = range(first, last + 1, HOUR_S)
    sums, ended = series.buckets(node_id, first, HOUR_S), task_rows.ended_by_hour(node_id, first, at)
    found = [sums.get(hour, NONE) for hour in hours]
    return {"cpu_usage_24h": [_avg(one.cpu_n, one.cpu_sum) for one in found],
            "memory_usage_24h": [_avg(one.memory_n, one.memory_sum) for one in found],
            "task_count_24h": [ended.get(hour, 0) for hour in hours]}


def samples(node_id: int, *, limit: int = 10) -> list[dict[str, Any]]:
    """The latest minutes with samples, newest first: {at, metrics {cpu_usage, memory_usage, storage_usage}}; what was not
    measured is left out."""
    return [{"at": float(start), "metrics": _means(sums)} for start, sums in series.latest(node_id, limit)]


def _means(sums: Sums) -> dict[str, float]:
    found = {"cpu_usage": (sums.cpu_n, sums.cpu_sum), "memory_usage": (sums.memory_n, sums.memory_sum),
             "storage_usage": (sums.disk_n, sums.disk_sum)}
    return {name: _avg(count, total) for name, (count, total) in found.items() if count}


# the queue


def queue_statistics() -> dict[str, Any]:
    """queue_stats, performance_metrics, current_load (contract 9.4 statistics): of everything on record."""
    at = clock.now()
    by_word: Counter[str] = Counter()
    by_priority: Counter[int] = Counter({1: 0, 2: 0, 3: 0, 4: 0})
    by_state: Counter[str] = Counter()
    by_node: Counter[int] = Counter()
    total_s = 0.0
    for state, priority, node_id, count, seconds in task_rows.all_time():
        by_state[state] += int(count)
        by_word[words.WORDS[state][0]] += int(count)
        by_priority[words.level(priority)] += int(count)
        total_s += float(seconds or 0.0)
        if node_id is not None and state not in ("pending", "held", "queued"):
            by_node[node_id] += int(count)
    completed, failed = by_state["succeeded"], sum(by_state[state] for state in FAILED)
    rows, active = _fleet(at), task_rows.active_by_node()
    names = device_rows.ids(by_node)
    return {
        "queue_stats": {
            "total_tasks": sum(by_state.values()), "by_status": dict(sorted(by_word.items())),
            "by_priority": {str(level): count for level, count in sorted(by_priority.items())},
            "by_device": {names[node_id]: count for node_id, count in sorted(by_node.items()) if node_id in names},
            "priority_queue_size": by_state["queued"], "device_queues": _device_queues(rows)},
        "performance_metrics": {
            "success_rate": percent(completed, completed + failed),
            "average_execution_time": rounded(total_s / completed) if completed else 0.0,
            "tasks_per_hour": rounded(sum(int(row[1]) for row in task_rows.ended(at - DAY_S, at)) / 24, 1),
            "device_utilization": {one.row.device_id: percent(active.get(one.row.node_id, 0), max(1, one.row.slots))
                                   for one in rows}},
        "current_load": {
            "pending_tasks": sum(by_state[state] for state in words.STATES_OF["pending"]), "running_tasks": by_state["running"],
            "capacity_utilization": percent(sum(active.get(one.row.node_id, 0) for one in rows if one.online),
                                            sum(max(1, one.row.slots) for one in rows if one.online))}}


def _device_queues(rows: list[_Machine]) -> dict[str, int]:
    """device -> tasks that wait for it alone."""
    names = {one.row.node_id: one.row.device_id for one in rows}
    known = shapes.known()
    found: Counter[str] = Counter()
    for shape_id, count in task_rows.waiting_by_shape().items():
        require = known[shape_id].require if shape_id in known else None
        if require is not None and require.node in names:
            found[names[require.node]] += count
    return dict(sorted(found.items()))
