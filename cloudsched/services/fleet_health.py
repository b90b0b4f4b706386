"""Is the fleet well? Contract 9.2 health: database, devices and their load, and what keeps them going: loops, disk, server."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain.devices import rounded
from cloudsched.drivers import probe
from cloudsched.services.health import DISK_FREE_MIN_MB, MISSED_BEATS
from cloudsched.settings import Settings
from cloudsched.store import system

HEALTHY, WARNING, UNHEALTHY, DEGRADED = "healthy", "warning", "unhealthy", "degraded"
OFF = "not_configured"
DATABASE_SLOW_MS = 1000.0
NETWORK_GOOD, NETWORK_FAIR = 0.8, 0.5
LOAD_HIGH, LOAD_TOO_HIGH = 80.0, 95.0
SERVER_LOOK_S, SERVER_LIMIT_S = 5.0, 0.5
# What devices and their tasks depend on.
LOOPS = ("devices", "upkeep")


@dataclass
class _Place:
    state_dir: str = ""
    host: str = ""
    port: int = 0
    looked_at: float = float("-inf")
    answered: bool = False


_place = _Place()


def configure(settings: Settings) -> None:
    """Called once when a process starts."""
    tcp = settings.listener("retire_cluster_tcp")
    _place.__init__(settings.state.dir, tcp.host if tcp else "", tcp.port if tcp else 0)  # type: ignore[misc]


def health(*, online: int, total: int, cpu_usage: float, memory_usage: float) -> dict[str, Any]:
    """overall_health, status, checks, components, unhealthy_components (contract 9.2, 15)."""
    checks = {"database": database(), "network": network(online, total), "resources": resources(cpu_usage, memory_usage),
              "engine": engine(), "disk": disk()}
    overall = overall_of({name: check["status"] for name, check in checks.items()})
    components = {
        "api": HEALTHY, "cluster_server": server(), "task_scheduler": checks["engine"]["status"],
        "device_registry": checks["database"]["status"]}
    return {"overall_health": overall, "status": overall, "checks": checks,
            "components": {**components, "device_count": total, "timestamp": clock.rfc3339(clock.now())},
            "unhealthy_components": sorted(name for name, status in components.items() if status == UNHEALTHY)}


def overall_of(checks: Mapping[str, str]) -> str:
    """Contract 15: without the database unhealthy; with anything else unhealthy degraded; a warning lowers nothing."""
    if checks["database"] == UNHEALTHY:
        return UNHEALTHY
    return DEGRADED if UNHEALTHY in checks.values() else HEALTHY


def database() -> dict[str, Any]:
    """One trivial read and how long it took."""
    began = time.monotonic()
    try:
        system.setting("instance")
    except Exception:
        return {"status": UNHEALTHY, "response_time_ms": None}
    took_ms = (time.monotonic() - began) * 1000
    return {"status": HEALTHY if took_ms <= DATABASE_SLOW_MS else WARNING, "response_time_ms": rounded(took_ms, 1)}


def network(online: int, total: int) -> dict[str, Any]:
    """The part of the devices that is online."""
    part = online / total if total else 1.0
    status = HEALTHY if part >= NETWORK_GOOD else WARNING if part >= NETWORK_FAIR else UNHEALTHY
    return {"status": status, "connected_devices": online}


def resources(cpu_usage: float, memory_usage: float) -> dict[str, Any]:
    """How loaded the devices are."""
    most = max(cpu_usage, memory_usage)
    status = UNHEALTHY if most >= LOAD_TOO_HIGH else WARNING if most >= LOAD_HIGH else HEALTHY
    return {"status": status, "cpu_usage": cpu_usage, "memory_usage": memory_usage}


def engine() -> dict[str, Any]:
    """Do the loops beat that devices and tasks depend on? A warning where no engine has ever run."""
    try:
        pulses, at = system.pulses(), clock.now()
    except Exception:
        return {"status": UNHEALTHY, "late": list(LOOPS)}
    found = [pulses[name] for name in LOOPS if name in pulses]
    late = [pulse.name for pulse in found
            if at - (pulse.last_cycle_at or pulse.created_at) > MISSED_BEATS * pulse.interval_s + (pulse.took_s or 0.0) + 1.0]
    return {"status": UNHEALTHY if late else HEALTHY if found else WARNING, "late": late}


def disk() -> dict[str, Any]:
    """Room where this instance keeps everything."""
    try:
        free_mb = shutil.disk_usage(_place.state_dir or ".").free >> 20
    except OSError:
        return {"status": UNHEALTHY, "free_mb": None}
    return {"status": HEALTHY if free_mb >= DISK_FREE_MIN_MB else UNHEALTHY, "free_mb": free_mb}


def server() -> str:
    """Does the server of the native protocol answer? Looked at every few seconds."""
    if not _place.port:
        return OFF
    if time.monotonic() - _place.looked_at > SERVER_LOOK_S:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(_place.host, _place.host)  # noqa: S104
        _place.answered = probe.accepts(host.strip("[]"), _place.port, timeout_s=SERVER_LIMIT_S)
        _place.looked_at = time.monotonic()
    return HEALTHY if _place.answered else UNHEALTHY
