"""What is this machine? Measured at the start, and a few figures of its load later."""

from __future__ import annotations

import glob
import os
import socket
import sys

from cloudsched.agent import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

KINDS = ["command", "noop"]
BATTERY_GLOB = "/sys/class/power_supply/*/capacity"


def measure(
    work_dir: str, *, override: Mapping[str, int | None] | None = None, tags: Sequence[str] = ()
) -> dict[str, Any]:
    """The `profile` of a join request; `override` holds cores, memory_mb, storage_gb, slots that were set."""
    profile: dict[str, Any] = {
        "cores": cores(),
        "memory_mb": memory_mb(),
        "storage_gb": int(disk_free_gb(work_dir)),
        "slots": None,
        "platform": platform_name(),
        "arch": os.uname().machine,
        "hostname": socket.gethostname(),
        "python_version": "%d.%d.%d" % sys.version_info[:3],
        "agent_version": VERSION,
        "tags": list(tags),
        "kinds": list(KINDS),
        "gpus": gpus(),
    }
    profile.update({name: value for name, value in (override or {}).items() if value is not None})
    battery = battery_percent()
    if battery is not None:
        profile["battery_percent"] = battery
    return profile


def metrics(work_dir: str) -> dict[str, Any]:
    """The `metrics` of a sync request: what is cheap to read."""
    found: dict[str, Any] = {}
    try:
        found["load_1m"] = round(os.getloadavg()[0], 2)
    except OSError:
        pass
    memory = _meminfo_kb()
    if "MemTotal" in memory and "MemAvailable" in memory:
        found["memory_used_mb"] = (memory["MemTotal"] - memory["MemAvailable"]) // 1024
    found["disk_free_gb"] = round(disk_free_gb(work_dir), 1)
    battery = battery_percent()
    if battery is not None:
        found["battery_percent"] = battery
    return found


def cores() -> int:
    """Cores this process may use (a container's or taskset's share), at least 1."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except (AttributeError, OSError):
        return max(1, os.cpu_count() or 1)


def memory_mb() -> int:
    """Memory of the machine, or the limit of our control group when that is smaller."""
    total_mb = _meminfo_kb().get("MemTotal", 0) // 1024
    if not total_mb:
        try:
            total_mb = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1_048_576
        except (ValueError, OSError):
            total_mb = 1024
    limit_mb = _cgroup_limit_mb()
    return min(total_mb, limit_mb) if limit_mb else total_mb


def disk_free_gb(path: str) -> float:
    """Free space for us where `path` is, in 10^9 bytes."""
    try:
        facts = os.statvfs(path)
    except OSError:
        return 0.0
    return facts.f_bavail * facts.f_frsize / 1e9


def platform_name() -> str:
    """`linux`, `darwin`, ... or `android` (Termux included)."""
    if "com.termux" in os.environ.get("PREFIX", "") or os.path.exists("/system/build.prop"):
        return "android"
    return sys.platform


def battery_percent() -> int | None:
    """Charge of the first battery; None on a machine without."""
    for name in sorted(glob.glob(BATTERY_GLOB)):
        try:
            with open(name) as file:
                return int(file.read())
        except (OSError, ValueError):
            continue
    return None


def gpus() -> int:
    """NVIDIA devices that can be opened."""
    return sum(1 for name in glob.glob("/dev/nvidia*") if name[len("/dev/nvidia") :].isdigit())


def _meminfo_kb() -> dict[str, int]:
    try:
        with open("/proc/meminfo") as file:
            lines = [line.split() for line in file]
    except OSError:
        return {}
    return {words[0].rstrip(":"): int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _cgroup_limit_mb() -> int:
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(name) as file:
                return int(file.read()) // 1_048_576
        except (OSError, ValueError):
            continue
    return 0
