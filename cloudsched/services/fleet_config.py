"""Which values may be changed while we run? The configuration of contract 9.7: checked, kept, in force at once everywhere.

What was changed lies over the settings of the start, in the database, so it outlives a restart and holds for all
processes. `server.host` and `server.port` are the native listener's; what is changed there counts from the next start.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched import clock, logs
from cloudsched.errors import FieldError, Invalid
from cloudsched.services import pool_switches
from cloudsched.settings import Settings
from cloudsched.store import db, events, system
from cloudsched.store.db import Database, Tx, write

KEY = "fleet_config"
LOG_LEVELS = ("debug", "info", "warning", "error")
KEPT_S = 1.0  # how old `recent()` may be
_SIZE = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(KB|MB|GB)\s*\Z", re.IGNORECASE)
_HOST = re.compile(r"[0-9A-Za-z.:_\[\]-]{1,253}\Z")
_UNIT_MB = {"KB": 1 / 1024, "MB": 1.0, "GB": 1024.0}


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """The values in force. Times in seconds; `log_max_size` as `10MB`; `log_level` in lower case."""

    host: str = "127.0.0.1"
    port: int = 8082
    max_connections: int = 100
    heartbeat_interval_s: int = 60
    offline_threshold_s: int = 300
    task_timeout_s: int = 3600
    log_level: str = "info"
    log_max_size: str = "0MB"

    def nested(self) -> dict[str, dict[str, Any]]:
        """`{"server": {...}, "cluster": {...}, "logging": {...}}` as contract 9.7 shows it."""
        found: dict[str, dict[str, Any]] = {}
        for path, (name, *_) in FIELDS.items():
            section, _, member = path.partition(".")
            found.setdefault(section, {})[member] = getattr(self, name)
        return found


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change touched: the fields as `section.member` in the order of the request."""

    fields: tuple[str, ...]
    restart_required: bool


def configure(settings: Settings) -> None:
    """Called once when a process starts: the values of its settings, under what was changed since."""
    section, tcp = settings.retire_cluster, settings.listener("retire_cluster_tcp")
    level = str(settings.log.level).lower()
    _state.base = FleetConfig(
        host=tcp.host if tcp else settings.listen.retire_cluster_bind or settings.listen.bind,
        port=tcp.port if tcp else settings.listen.retire_cluster_tcp or 8082, max_connections=section.max_connections,
        heartbeat_interval_s=section.heartbeat_interval_s, offline_threshold_s=section.offline_threshold_s,
        task_timeout_s=section.task_timeout_s, log_level=_shown_level(level), log_max_size=_size(settings.log.max_size_mb))
    _state.forget()


def current() -> FleetConfig:
    """The values in force now, as the database has them. Raises Unavailable."""
    text = system.setting(KEY, "{}")
    if text != _state.text or _state.found is None or _state.database is not db.current():
        _state.keep(text)
    _state.looked_at = time.monotonic()
    assert _state.found is not None
    return _state.found


def recent() -> FleetConfig:
    """The same, at most a second old: for calls that come thousands of times a second."""
    if _state.found is None or _state.database is not db.current() or time.monotonic() - _state.looked_at > KEPT_S:
        return current()
    return _state.found


def change(nested: Mapping[str, Any], *, actor: str) -> Changed:
    """Change any subset, all or nothing; kept over a restart, in force at once.

    Raises Invalid with `details` {"code": "INVALID_PARAMETER", "field", "allowed"} for an unknown field or a bad value, or
    {"code": "MISSING_REQUEST_BODY"} when nothing is named.
    """
    given = list(_flattened(nested))
    if not given:
        raise Invalid("the body names no field", details={"code": "MISSING_REQUEST_BODY"})
    values = {path: _checked(path, value) for path, value in given}
    restart = write(lambda tx: _change(tx, values, actor))
    _state.forget()
    apply_logging()
    return Changed(tuple(path for path, _ in given), restart)


def apply_logging() -> None:
    """Bring the logging of this process to what was changed; called at the start and every few seconds by each process."""
    kept = json.loads(system.setting(KEY, "{}"))
    if kept == _state.applied:
        return
    before, _state.applied = _state.applied, kept
    if (level := kept.get("logging.level")) != before.get("logging.level") and level:
        logs.set_level(level.upper())
    if (size := kept.get("logging.max_size")) != before.get("logging.max_size") and size:
        logs.set_max_size(_bytes(size))


def _change(tx: Tx, values: Mapping[str, Any], actor: str) -> bool:
    """Keep the values; True when one of them, new, waits for a restart."""
    at = clock.now()
    kept = json.loads(system.locked_setting(tx, KEY, "{}"))
    before = _state.over(kept)
    after = _state.over({**kept, **values})
    if after.offline_threshold_s < after.heartbeat_interval_s:
        field = "cluster.offline_threshold" if "cluster.offline_threshold" in values else "cluster.heartbeat_interval"
        raise _refused(field, "the offline threshold would be below the heartbeat interval",
                       f"offline_threshold of at least {after.heartbeat_interval_s}")
    system.put_setting(tx, KEY, json.dumps({**kept, **values}))
    if "logging.level" in values:  # the level that somebody set by another way gives way
        system.put_setting(tx, pool_switches.LOG_LEVEL, values["logging.level"].upper())
    events.append(tx, "config.change", ("system", 0), at=at, actor=actor, fields=list(values), values=dict(values))
    return any(getattr(before, FIELDS[path][0]) != getattr(after, FIELDS[path][0]) for path in values if FIELDS[path][2])


def _flattened(nested: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not isinstance(nested, Mapping):
        raise _refused("body", "is no object", "an object")
    for section, members in nested.items():
        if not any(path.startswith(f"{section}.") for path in FIELDS):
            raise _refused(str(section)[:100], "is no section", "server, cluster, logging")
        if not isinstance(members, Mapping):
            known = [path.partition(".")[2] for path in FIELDS if path.startswith(f"{section}.")]
            raise _refused(str(section), "is no object", ", ".join(known))
        for member, value in members.items():
            yield f"{section}.{member}", value


def _checked(path: str, value: Any) -> Any:
    if path not in FIELDS:
        raise _refused(path[:200], "is no field that can be set", ", ".join(FIELDS))
    _, check, _ = FIELDS[path]
    try:
        return check(value)
    except ValueError as error:
        raise _refused(path, "cannot be that", str(error)) from None


def _refused(field: str, message: str, allowed: str) -> Invalid:
    return Invalid(f"{field}: {message} (allowed: {allowed})", errors=[FieldError(field, message, allowed)],
                   details={"code": "INVALID_PARAMETER", "field": field, "allowed": allowed})


# what a value may be


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def check(value: Any) -> int:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or int(value) != value or not low <= value <= high:
            raise ValueError(f"an integer from {low} to {high}")
        return int(value)

    return check


def _host(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.match(value):
        raise ValueError("an address or a host name")
    return value


def _level(value: Any) -> str:
    if not isinstance(value, str) or value.lower() not in LOG_LEVELS:
        raise ValueError(", ".join(LOG_LEVELS))
    return value.lower()


def _max_size(value: Any) -> str:
    found = _SIZE.match(value) if isinstance(value, str) else None
    if found is None or float(found[1]) * _UNIT_MB[found[2].upper()] > 1_000_000:
        raise ValueError("a number with KB, MB or GB, such as 10MB")
    return f"{found[1]}{found[2].upper()}"


def _bytes(size: str) -> int:
    found = _SIZE.match(size)
    assert found is not None
    return int(float(found[1]) * _UNIT_MB[found[2].upper()] * (1 << 20))


def _size(size_mb: float) -> str:
    return f"{size_mb:g}MB"


def _shown_level(level: str) -> str:
    return level if level in LOG_LEVELS else "debug" if level == "verbose" else "error"


# Path -> (member of FleetConfig, check, does a change wait for a restart?). Contract 9.7.
FIELDS: Mapping[str, tuple[str, Callable[[Any], Any], bool]] = {
    "server.host": ("host", _host, True),
    "server.port": ("port", _whole(1, 65535), True),
    "server.max_connections": ("max_connections", _whole(1, 1000), False),
    "cluster.heartbeat_interval": ("heartbeat_interval_s", _whole(10, 300), False),
    "cluster.offline_threshold": ("offline_threshold_s", _whole(30, 3600), False),
    "cluster.task_timeout": ("task_timeout_s", _whole(1, 86400), False),
    "logging.level": ("log_level", _level, False),
    "logging.max_size": ("log_max_size", _max_size, False),
}


class _State:
    """What this process knows: the settings of its start, and what lay over them when it last looked."""

    def __init__(self) -> None:
        self.base = FleetConfig()
        self.text = ""
        self.found: FleetConfig | None = None
        self.database: Database | None = None
        self.looked_at = 0.0
        self.applied: dict[str, Any] = {}

    def over(self, kept: Mapping[str, Any]) -> FleetConfig:
        values = {name: getattr(self.base, name) for name in FleetConfig.__slots__}
        for path, value in kept.items():
            if path in FIELDS:
                values[FIELDS[path][0]] = value
        return FleetConfig(**values)

    def keep(self, text: str) -> None:
        self.text, self.database, self.found = text, db.current(), self.over(json.loads(text))

    def forget(self) -> None:
        self.found = None


_state = _State()
