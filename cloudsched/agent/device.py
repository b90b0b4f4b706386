"""What is this machine as a device, and how does it fare? Profile and metrics in the words of contract 10.1.

Read from /proc and /sys, on Termux also from its API's commands, on macOS from what the system's own tools print. What cannot be
measured is left out: an unknown figure is not a zero.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time

from cloudsched.agent import profile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

ROLES = ("worker", "compute", "storage", "mobile", "nas")
TOOL_TIMEOUT_S = 3.0
TOOLS_EVERY_S = 60.0
GIB = 1024.0**3


def is_termux() -> bool:
    """Are we on Android, inside Termux?"""
    return "com.termux" in os.environ.get("PREFIX", "")


def default_id() -> str:
    """`system-hostname-machine`, dots as dashes; on Termux `android-...` (contract 13)."""
    system = "android" if is_termux() else platform.system().lower()
    text = "%s-%s-%s" % (system, socket.gethostname(), platform.machine())
    return re.sub(r"[^A-Za-z0-9_:@-]+", "-", text.replace(".", "-"))[:128]


def default_role() -> str:
    """Android: mobile; Linux with docker or systemd: compute; else worker (contract 10.3)."""
    if is_termux():
        return "mobile"
    if platform.system() == "Linux" and (shutil.which("docker") or os.path.isdir("/run/systemd/system")):
        return "compute"
    return "worker"


def describe(measured: dict[str, Any], work_dir: str, *, device_id: str, role: str, kinds: Sequence[str], tags: Sequence[str],
             interval_s: float) -> dict[str, Any]:
    """The profile of a join request: what profile.py measured, and what a device says beside it."""
    total, free = _disk_gb(work_dir)
    memory_gb, memory_free_gb = _memory_gb()
    android = is_termux()
    machine = platform.machine()
    cores, logical = _physical_cores(), os.cpu_count() or 1
    own_tags = _tags(machine, memory_gb, logical, role=role, android=android)
    found = {
        **measured,
        "device_id": device_id,
        "role": role,
        "platform": "android" if android else platform.system().lower(),
        "platform_details": {
            "system": platform.system(), "release": platform.release(), "version": platform.version(), "machine": machine,
            "processor": platform.processor(), "python_version": platform.python_version(), "is_android": android,
            "is_virtual": _is_virtual(), **({"android_version": _android_version()} if android else {}),
        },
        "cpu_count": cores, "cpu_count_logical": logical, "memory_total_gb": memory_gb, "memory_available_gb": memory_free_gb,
        "storage_total_gb": total, "storage_free_gb": free, "hostname": socket.gethostname(),
        "network_interfaces": interfaces(),
        "capabilities": _capabilities(total, android=android, gpus=int(measured.get("gpus") or 0)),
        "sensors": [], "has_gpu": bool(measured.get("gpus")), "kinds": list(kinds), "max_concurrent_tasks": measured.get("slots"),
        "supported_task_types": ["command" if kind == "program" else kind for kind in kinds if kind not in ("command", "noop")],
        "tags": list(dict.fromkeys([*own_tags, *tags])), "worker_config": {"heartbeat_interval": interval_s},
        "agent": "cloudsched",
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


class Meter:
    """The metrics of heartbeats. Usage of processors is measured between two calls."""

    def __init__(self, work_dir: str) -> None:
        self._work_dir = work_dir
        self._ticks = _cpu_ticks()
        self._tools: dict[str, Any] = {}
        self._tools_at = float("-inf")

    def read(self, *, running: int = 0) -> dict[str, Any]:
        """What is known now; names and units of contract 10.1."""
        _, free = _disk_gb(self._work_dir)
        memory_gb, memory_free_gb = _memory_gb()
        found: dict[str, Any] = {
            "cpu_usage": self._cpu_percent(),
            "memory_usage": _percent(memory_gb, memory_free_gb), "memory_available_gb": memory_free_gb,
            "storage_usage": _disk_percent(self._work_dir), "storage_free_gb": free,
            "uptime_seconds": _uptime_s(), "running_tasks": running, **_network(), **_load(), **_temperatures(), **_battery(),
        }  # fmt: skip
        for name, value in self._from_tools().items():
            if found.get(name) is None:
                found[name] = value
        return {name: value for name, value in found.items() if value is not None}

    def _cpu_percent(self) -> float | None:
        before, self._ticks = self._ticks, _cpu_ticks()
        if before is None or self._ticks is None:
            return None
        busy, total = (now - then for now, then in zip(self._ticks, before))  # noqa: B905 - Python 3.8
        return round(100.0 * busy / total, 1) if total > 0 else None

    def _from_tools(self) -> dict[str, Any]:
        """What only a command tells (Termux, macOS): asked once a minute, and never waited for long."""
        if not (is_termux() or platform.system() == "Darwin"):
            return {}
        now = time.monotonic()
        if now - self._tools_at >= TOOLS_EVERY_S:
            self._tools_at = now
            self._tools = _termux_battery() if is_termux() else _mac_figures()
        return self._tools


def interfaces() -> list[str]:
    """Names of the network interfaces, the loopback left out."""
    try:
        return [name for _, name in socket.if_nameindex() if name not in ("lo", "lo0")]
    except (OSError, AttributeError):
        return []


def _capabilities(storage_gb: float | None, *, android: bool, gpus: int) -> dict[str, list[str]]:
    """Groups of contract 10.1; only what is so."""
    computational = ["mobile_compute", "low_power"] if android else ["general_compute"]
    if gpus:
        computational.append("gpu_compute")
    if (os.cpu_count() or 1) >= 4:
        computational.append("parallel_processing")
    services = ["network_tasks"]
    if storage_gb is not None and storage_gb >= 100:
        services += ["storage", "large_storage"] if storage_gb >= 1000 else ["storage"]
    return {"computational": computational, "services": services, "automation": ["file_operations"]}


def _tags(machine: str, memory_gb: float | None, logical: int, *, role: str, android: bool) -> list[str]:
    found = [platform.system().lower()]
    if android:
        found += ["android", "mobile", "termux"]
    low = machine.lower()
    if low.startswith(("arm", "aarch")):
        found.append("arm")
    elif low in ("x86_64", "amd64", "i686", "i386"):
        found.append("x86")
    if memory_gb is not None:
        found += ["low_memory"] if memory_gb < 2 else ["high_memory"] if memory_gb > 8 else []
    found += ["low_cpu"] if logical <= 2 else ["high_cpu"] if logical >= 8 else []
    if _is_virtual():
        found.append("virtual")
    return [*found, role]


def _physical_cores() -> int:
    """Pairs of (package, core) where the system tells; else the logical ones."""
    pairs = set()
    for folder in glob.glob("/sys/devices/system/cpu/cpu[0-9]*/topology"):
        pairs.add((_line(folder + "/physical_package_id"), _line(folder + "/core_id")))
    return len(pairs) or os.cpu_count() or 1


def _is_virtual() -> bool:
    """Does the processor say that a hypervisor is below it?"""
    try:
        with open("/proc/cpuinfo") as file:
            return " hypervisor" in file.read(65_536)
    except OSError:
        return False


def _android_version() -> str | None:
    return _tool(["getprop", "ro.build.version.release"]) or None


def _memory_gb() -> tuple[float | None, float | None]:
    """(total, available) in GiB."""
    found = {}
    try:
        with open("/proc/meminfo") as file:
            for line in file:
                words = line.split()
                found[words[0].rstrip(":")] = int(words[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    total = found.get("MemTotal")
    if total is None:
        return round(profile.memory_mb() / 1024.0, 2), None
    free = found.get("MemAvailable")
    return round(total / GIB, 2), None if free is None else round(free / GIB, 2)


def _percent(total: float | None, free: float | None) -> float | None:
    return None if not total or free is None else round(100.0 * (total - free) / total, 1)


def _disk_gb(path: str) -> tuple[float | None, float | None]:
    """(total, free for us) in GiB."""
    try:
        facts = os.statvfs(path)
    except OSError:
        return None, None
    return round(facts.f_blocks * facts.f_frsize / GIB, 2), round(facts.f_bavail * facts.f_frsize / GIB, 2)


def _disk_percent(path: str) -> float | None:
    """As `df` counts: what is used, of what is used and what we may use."""
    try:
        facts = os.statvfs(path)
    except OSError:
        return None
    used = facts.f_blocks - facts.f_bfree
    return round(100.0 * used / (used + facts.f_bavail), 1) if used + facts.f_bavail else None


def _cpu_ticks() -> tuple[int, int] | None:
    """(busy, all) since the system started."""
    try:
        with open("/proc/stat") as file:
            numbers = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(numbers) - numbers[3] - numbers[4], sum(numbers)) if len(numbers) >= 5 else None


def _network() -> dict[str, int]:
    sent = received = 0
    try:
        with open("/proc/net/dev") as file:
            for line in file:
                name, _, rest = line.partition(":")
                words = rest.split()
                if len(words) >= 9 and name.strip() != "lo":
                    received, sent = received + int(words[0]), sent + int(words[8])
    except (OSError, ValueError):
        return {}
    return {"network_bytes_sent": sent, "network_bytes_recv": received}


def _load() -> dict[str, float]:
    try:
        found = os.getloadavg()
    except OSError:
        return {}
    return {"load_average_1m": round(found[0], 2), "load_average_5m": round(found[1], 2), "load_average_15m": round(found[2], 2)}


def _uptime_s() -> int | None:
    try:
        with open("/proc/uptime") as file:
            return int(float(file.read().split()[0]))
    except (OSError, ValueError, IndexError):
        return None


def _temperatures() -> dict[str, float]:
    """Zones that report something a machine can have."""
    found = []
    for name in glob.glob("/sys/class/thermal/thermal_zone*/temp"):
        try:
            value = float(_line(name)) / 1000
        except ValueError:
            continue
        if 0 < value < 150:
            found.append(value)
    if not found:
        return {}
    return {"temperature_avg": round(sum(found) / len(found), 1), "temperature_max": round(max(found), 1)}


def _battery() -> dict[str, Any]:
    for folder in sorted(glob.glob(os.path.join(os.path.dirname(os.path.dirname(profile.BATTERY_GLOB)), "*"))):
        level = _line(folder + "/capacity")
        if level.isdigit() and _line(folder + "/scope").lower() != "device":  # a mouse has one, too
            return {"battery_percent": int(level), "battery_charging": _line(folder + "/status") in ("Charging", "Full")}
    return {}


def _termux_battery() -> dict[str, Any]:
    try:
        found = json.loads(_tool(["termux-battery-status"]))
        temperature = round(float(found["temperature"]), 1)
        return {"battery_percent": int(found["percentage"]), "battery_charging": found.get("plugged") != "UNPLUGGED",
                "temperature_max": temperature, "temperature_avg": temperature}
    except (ValueError, KeyError, TypeError):
        return {}


def _mac_figures() -> dict[str, Any]:
    text = _tool(["pmset", "-g", "batt"])
    match = re.search(r"(\d+)%", text)
    return {} if match is None else {"battery_percent": int(match[1]), "battery_charging": "AC Power" in text}


def _tool(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                              timeout=TOOL_TIMEOUT_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


def _line(path: str) -> str:
    try:
        with open(path) as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""
