"""What can be asked of devices over HTTP? Lists, details, status, summary, ping, removal (contract 9.3)."""

from __future__ import annotations

from typing import Any

from cloudsched.dialects.retire_cluster import params, render, schemas, views
from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.dialects.retire_cluster.routing import Answer, Call
from cloudsched.services import devices, figures

SORTS = ("name", "cpu", "memory", "last_seen")
PING_TIMEOUT_S, PING_COUNT = (0.1, 30.0), (1, 20)
LIST_QUERY: tuple[params.Param, ...] = (
    params.Word("status", ("online", "offline", "all"), "all"), params.Text("role"), params.Word("sort", SORTS, "name"),
    params.Whole("limit", 1, 1000, 100), params.Text("platform"), params.Texts("tags"), *views.VIEW)
REMOVE_QUERY = (params.Flag("force"),)
PING_BODY: dict[str, Any] = {
    "type": "object",
    "properties": {"timeout": {"type": "number", "minimum": PING_TIMEOUT_S[0], "maximum": PING_TIMEOUT_S[1], "default": 5},
                   "count": {"type": "integer", "minimum": PING_COUNT[0], "maximum": PING_COUNT[1], "default": 3}}}


def listed(call: Call) -> Answer:
    """List the devices."""
    query = call.query
    role = query["role"] if query["role"] != "all" else None
    page = views.page_of(call, "platform", "tags")
    most, offset = (query["limit"], 0) if page is None else (page.size, page.offset)
    found = devices.listed(status=query["status"], role=role, os=query["platform"], tags=query["tags"], sort=query["sort"],
                           limit=most, offset=offset)
    if page is not None:
        rows = [render.device_row(view) for view in found.items]
        return Answer(rows, more={"pagination": page.pagination(found.total)})
    shown = [render.device(view) for view in found.items]
    return Answer(schemas.Devices(devices=shown, total=found.total, online=found.online, offline=found.offline,
                                  count=len(shown), timestamp=render.now()))


def shown(call: Call) -> Answer:
    """Show one device, with what it reported and what it did in the last day."""
    view = devices.get(call.parts["device_id"])
    samples = [schemas.Sample(timestamp=render.time(one["at"]) or "", metrics=one["metrics"])
               for one in figures.samples(view.node_id)]
    return Answer(render.device_detail(view, figures.history(view.node_id), samples))


def status(call: Call) -> Answer:
    """Show whether a device is there, and how busy it is."""
    view = devices.get(call.parts["device_id"])
    load = schemas.Load(active_tasks=view.active, capacity=view.capacity, cpu_usage=view.cpu_usage,
                        memory_usage=view.memory_usage)
    return Answer(schemas.DeviceStatus(
        device_id=view.device_id, status=render.status_word(view), last_heartbeat=render.time(view.last_seen_at),
        uptime=render.uptime(view.uptime_s), is_online=view.online, response_time_ms=None, current_load=load,
        last_metrics=dict(view.metrics), timestamp=render.now()))


def summary(_: Call) -> Answer:
    """Count the devices and add up what they have."""
    return Answer(devices.summary())


def ping(call: Call) -> Answer:
    """Probe a device."""
    body = call.json()
    timeout_s = number(body, "timeout", 5.0, *PING_TIMEOUT_S)
    count = number(body, "count", 3, *PING_COUNT)
    if count != int(count):
        raise _wrong("count", "an integer", *PING_COUNT)
    found = devices.ping(call.parts["device_id"], count=int(count), timeout_s=timeout_s)
    results = [schemas.Probe(seq=one.seq, time_ms=one.time_ms) for one in found.results]
    return Answer(schemas.Ping(
        ping_results=schemas.PingResults(
            device_id=found.device_id, reachable=found.reachable, average_latency_ms=found.average_latency_ms,
            packet_loss=found.packet_loss, results=results),
        device_id=found.device_id, ping_successful=found.reachable, response_time_ms=found.average_latency_ms,
        ping_timestamp=render.time(found.at) or "", duration_ms=found.duration_ms))


def removed(call: Call) -> Answer:
    """Remove a device; with `force` its tasks are cancelled."""
    found = devices.remove(call.parts["device_id"], force=call.query["force"], actor=call.caller.name)
    return Answer(schemas.Removed(
        removed_device=found.device_id, cancelled_tasks=found.cancelled, device_id=found.device_id,
        removed_at=render.time(found.at) or "", was_online=found.was_online, removal_reason="manual_removal_via_api"))


def number(body: dict[str, Any], name: str, default: float, low: float, high: float) -> float:
    """A number of a body within bounds. Raises Refused (VALIDATION_ERROR)."""
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _wrong(name, "a number", low, high)
    return float(value)


def _wrong(name: str, what: str, low: float, high: float) -> Refused:
    allowed = f"{what} from {low:g} to {high:g}"
    return Refused("VALIDATION_ERROR", f"{name}: must be {allowed}",
                   details={"field": [name], "message": f"must be {allowed}", "allowed": allowed})
