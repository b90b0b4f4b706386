"""How does the workers' own protocol speak? One JSON object in, one out (contract 12); the socket is not its business."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.dialects.retire_cluster.frames import FrameError
from cloudsched.errors import CloudschedError, Invalid
from cloudsched.services import devices, figures, registering
from cloudsched.settings import Settings, is_loopback

log = logging.getLogger(__name__)

SERVER_ID = "main_server"
REPLY_MAX = 8192  # what the original's clients read at most
TEXT_MAX = 256
HEARTBEATS_SHOWN = 10
NOT_SERVED = ("task_submit", "task_cancel", "task_assign", "error", "ack")
_HEAVY = ("platform_details", "capabilities", "hardware", "description")
_LIGHT = ("device_id", "role", "status", "platform", "ip_address")


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back; `settle(sent)` is called once it is known whether it has left."""

    data: bytes
    settle: Callable[[bool], None] | None = None


@dataclass(frozen=True, slots=True)
class _Ask:
    """A request that can be read."""

    kind: str
    sender: str
    message_id: str | None
    data: Mapping[str, Any]
    token: str
    address: str


# Where our own agents find us (agent/doors.py).
_agents_knock: dict[str, Any] = {}


def configure(settings: Settings) -> None:
    """Called once when a process starts."""
    _agents_knock.clear()
    port = _agent_port(settings)
    if settings.listen.public_url:
        _agents_knock["agent_url"] = settings.listen.public_url
    elif port is not None:
        _agents_knock["agent_port"] = port


def _agent_port(settings: Settings) -> int | None:
    """The native API's port; where only this dialect is open to other machines, its HTTP port, which takes agents too."""
    native, ours, tcp = (settings.listener(name) for name in ("native", "retire_cluster", "retire_cluster_tcp"))
    if native is not None and (ours is None or tcp is None or not is_loopback(native.host) or is_loopback(tcp.host)):
        return native.port
    return ours.port if ours is not None else None


def answer(request: bytes | FrameError, address: str) -> Reply:
    """The reply to one request; what is wrong with it is an `error` reply, never an exception."""
    if isinstance(request, FrameError):
        return _error(str(request))
    try:
        ask = _parse(request, address)
    except Invalid as error:
        return _error(str(error), _identity(request))
    try:
        return _ANSWERS[ask.kind](ask)
    except CloudschedError as error:
        return _error(str(error), ask)
    except Exception:
        log.exception("native protocol: %s of %r failed", ask.kind, ask.sender[:TEXT_MAX])
        return _error("internal error", ask)


def _parse(request: bytes, address: str) -> _Ask:
    try:
        found = _decoded(request)
    except (UnicodeDecodeError, ValueError) as error:
        raise Invalid(f"the request is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise Invalid("the request is no JSON object")
    kind, sender, data = found.get("message_type"), found.get("sender_id"), found.get("data")
    if kind in NOT_SERVED:
        raise Invalid(f"message_type {kind} is not served here: tasks are given and cancelled through the HTTP API")
    if not isinstance(kind, str) or kind not in _ANSWERS:
        raise Invalid(f"message_type {_short(kind)} is not one of {', '.join(_ANSWERS)}")
    if not isinstance(sender, str):
        raise Invalid("sender_id is missing: the id of the device, a string")
    if data is not None and not isinstance(data, dict):
        raise Invalid("data is not an object")
    data = dict(data or {})
    token = data.pop("token", "")
    if not isinstance(token, str):
        raise Invalid("data.token is not a string")
    return _Ask(kind, sender, _message_id(found), data, token, address)


def _identity(request: bytes) -> _Ask | None:
    """Whom to answer when the request could be read but not understood."""
    try:
        found = _decoded(request)
    except (UnicodeDecodeError, ValueError):
        return None
    if not isinstance(found, dict):
        return None
    sender = found.get("sender_id")
    return _Ask("", sender if isinstance(sender, str) else "", _message_id(found), {}, "", "")


def _decoded(request: bytes) -> Any:
    """JSON as the original's peers write it: their NaN and Infinity are no JSON, and count as null here."""
    try:
        return msgspec.json.decode(request)
    except msgspec.DecodeError:
        return json.loads(request, parse_constant=lambda _word: None)


def _message_id(found: Mapping[str, Any]) -> str | None:
    given = found.get("message_id")
    return given[:TEXT_MAX] if isinstance(given, str) else None


def _short(value: object) -> str:
    return repr(value)[:TEXT_MAX]


# answers


def _register(ask: _Ask) -> Reply:
    if not ask.sender:
        raise Invalid("sender_id is empty: the id of the device")
    asks = bool(ask.token) or isinstance(ask.data.get("supported_task_types"), list)
    done = devices.register(ask.data, device_id=ask.sender, via="worker" if asks else "legacy", address=ask.address,
                            token=ask.token)
    return _ack(ask, {"success": True, "device_id": done.device_id,
                      "message": f"Device {done.device_id} {'registered' if done.new else 'registered again'}"})


def _heartbeat(ask: _Ask) -> Reply:
    metrics = ask.data.get("metrics")
    if metrics is not None and not isinstance(metrics, dict):
        raise Invalid("data.metrics is not an object")
    beat = devices.heartbeat(ask.sender, metrics or {}, address=ask.address, token=ask.token)
    found: dict[str, Any] = {"success": beat.known, "message": beat.message}
    if beat.known:
        found["config"] = {"heartbeat_interval": beat.interval_s}
    if beat.cancel:
        found["cancel"] = beat.cancel
    return _ack(ask, found)


def _status(ask: _Ask) -> Reply:
    registering.standing(ask.token, ask.address)
    role = _word(ask, "role")
    listed = devices.listed(role=role)
    stats = dict(figures.cluster()["cluster_stats"])
    stats["last_updated"] = _now()
    names = [item.device_id for item in listed.items]
    found = {"cluster_stats": stats, "online_devices": listed.online, "device_list": names, "timestamp": _now(), **_agents_knock}
    while True:
        reply = _ack(ask, found)
        if len(reply.data) <= REPLY_MAX or not names:
            return reply
        names = names[: len(names) * 3 // 4]
        found |= {"device_list": names, "truncated": True}


def _list_devices(ask: _Ask) -> Reply:
    registering.standing(ask.token, ask.address)
    status, role = _word(ask, "status") or "all", _word(ask, "role")
    if status not in devices.STATUSES:
        raise Invalid(f"data.status {_short(status)} is not one of {', '.join(devices.STATUSES)}")
    listed = devices.listed(status=status, role=role)
    records = [_record(item) for item in listed.items]
    found: dict[str, Any] = {"devices": records, "count": listed.total,
                             "filters_applied": {key: ask.data[key] for key in ("status", "role") if ask.data.get(key)}}
    for shrink in (_whole, _without_heavy, _only_light):
        found["devices"] = [shrink(record) for record in records]
        reply = _ack(ask, found)
        if len(reply.data) <= REPLY_MAX:
            return reply
    found["truncated"] = True
    while len(reply.data) > REPLY_MAX and found["devices"]:
        found["devices"] = found["devices"][: len(found["devices"]) * 7 // 8]
        reply = _ack(ask, found)
    return reply


def _device_info(ask: _Ask) -> Reply:
    registering.standing(ask.token, ask.address)
    wanted = ask.data.get("device_id")
    if not isinstance(wanted, str) or not wanted:
        raise Invalid("data.device_id is missing")
    try:
        view = devices.get(wanted)
    except CloudschedError:
        return _ack(ask, {"device": None, "error": f"Device {wanted[:TEXT_MAX]} not found"})
    beats = [{"device_id": view.device_id, "timestamp": _time(sample["at"]), "metrics": sample["metrics"]}
             for sample in figures.samples(view.node_id, limit=HEARTBEATS_SHOWN)]
    record = _record(view)
    while True:
        reply = _ack(ask, {"device": record, "recent_heartbeats": beats})
        if len(reply.data) <= REPLY_MAX:
            return reply
        if beats:
            beats = beats[:-1]
        elif record.keys() & set(_HEAVY):
            record = _without_heavy(record)
        else:
            return _ack(ask, {"device": _only_light(record), "recent_heartbeats": []})


def _task_request(ask: _Ask) -> Reply:
    capabilities = ask.data.get("capabilities")
    if capabilities is not None and not isinstance(capabilities, dict):
        raise Invalid("data.capabilities is not an object")
    claimed = devices.request_work(ask.sender, capabilities or {}, address=ask.address, token=ask.token)
    if claimed.task is None:
        return _ack(ask, {"task": None, "cancel": claimed.cancel})
    data = _message("task_assign", ask.sender, {"task": claimed.task})

    def settle(sent: bool) -> None:
        (devices.delivered if sent else devices.undelivered)(claimed)

    return Reply(data, settle)


def _task_status(ask: _Ask) -> Reply:
    task_id = _task_id(ask.data.get("task_id"), "data.task_id")
    word = devices.task_word(ask.sender, task_id, address=ask.address, token=ask.token)
    found: dict[str, Any] = {"task_id": task_id, "status": word}
    if word is None:
        found |= {"success": False, "message": f"Task {task_id[:TEXT_MAX]} is not one of this device"}
    return _ack(ask, found)


def _task_result(ask: _Ask) -> Reply:
    result = ask.data.get("result")
    if not isinstance(result, dict):
        raise Invalid("data.result is not an object")
    _task_id(result.get("task_id"), "data.result.task_id")
    usage, lines = ask.data.get("resource_usage"), ask.data.get("detailed_log")
    done = devices.report(ask.sender, result, address=ask.address, token=ask.token,
                          usage=usage if isinstance(usage, dict) else None,
                          log=[str(line)[:1000] for line in lines[:1000]] if isinstance(lines, list) else ())
    found: dict[str, Any] = {"success": done.success}
    if done.dropped:
        found["dropped"] = True
    if done.message:
        found["message"] = done.message
    return _ack(ask, found)


_ANSWERS: dict[str, Callable[[_Ask], Reply]] = {
    "register": _register, "heartbeat": _heartbeat, "status": _status, "list_devices": _list_devices,
    "device_info": _device_info, "task_request": _task_request, "task_status": _task_status, "task_result": _task_result,
}


def _word(ask: _Ask, name: str) -> str | None:
    given = ask.data.get(name)
    if given in (None, "", "all"):
        return None
    if not isinstance(given, str):
        raise Invalid(f"data.{name} is not a string")
    return given


def _task_id(given: object, where: str) -> str:
    if not isinstance(given, str) or not given:
        raise Invalid(f"{where} is missing: a string")
    return given


# records


def _record(view: devices.DeviceView) -> dict[str, Any]:
    """A device as contract 12.3 has it, about 900 bytes."""
    return {
        "device_id": view.device_id, "role": view.role, "status": "online" if view.online else "offline",
        "last_heartbeat": _time(view.last_seen_at), "ip_address": view.address, "platform": view.os,
        "platform_details": dict(view.platform_details), "capabilities": dict(view.groups), "tags": list(view.tags),
        "description": view.description,
        "hardware": {"cpu_count": view.cores, "memory_total_gb": view.memory_gb, "storage_total_gb": view.storage_gb,
                     "hostname": view.hostname},
        "last_updated": _time(view.last_seen_at), "registration_time": _time(view.registered_at)}


def _whole(record: dict[str, Any]) -> dict[str, Any]:
    return record


def _without_heavy(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in _HEAVY}


def _only_light(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in _LIGHT}


# messages


def _ack(ask: _Ask, result: Mapping[str, Any]) -> Reply:
    return Reply(_message("ack", ask.sender or None, {"original_message_id": ask.message_id, "result": result}))


def _error(text: str, ask: _Ask | None = None) -> Reply:
    data: dict[str, Any] = {"error": text[:1000]}
    if ask is not None:
        data["original_message_id"] = ask.message_id
    return Reply(_message("error", (ask.sender or None) if ask else None, data))


def _message(kind: str, receiver: str | None, data: Mapping[str, Any]) -> bytes:
    found = {"message_type": kind, "sender_id": SERVER_ID, "receiver_id": receiver[:TEXT_MAX] if receiver else None,
             "message_id": str(uuid.uuid4()), "timestamp": _now(), "data": data}
    return json.dumps(found, separators=(",", ":")).encode()


def _now() -> str:
    return _time(clock.now()) or ""


def _time(at: float | None) -> str | None:
    """With `+00:00`: peers on Python 3.10 cannot read `Z` (contract 2)."""
    return (clock.rfc3339(at) or "").replace("Z", "+00:00") or None
