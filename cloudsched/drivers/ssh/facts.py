"""What is a host like? One small shell script asks for everything; plain parsing of its answer."""

from __future__ import annotations

from dataclasses import dataclass

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

MIN_PYTHON = (3, 8)
_PYTHONS = " ".join(["python3", *(f"python3.{minor}" for minor in range(14, 7, -1)), "/usr/bin/python3", "python"])

# $1: the path whose disk is meant, $2: a Python to use instead of the usual names.
SCRIPT = """
say() { printf '%s=%s\\n' "$1" "$2"; }
p=$1
case $p in '~/'*) p=$HOME/${p#??};; esac
while [ ! -d "$p" ]; do p=$(dirname "$p"); done
say hostname "$(hostname 2>/dev/null || uname -n)"
say kernel "$(uname -sr)"
say arch "$(uname -m)"
say os "$(sed -n 's/^PRETTY_NAME=//p' /etc/os-release 2>/dev/null | tr -d '"' || true)"
say cores "$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null)"
say memory_kb "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo 2>/dev/null)"
say memory_bytes "$(sysctl -n hw.memsize 2>/dev/null)"
say free_kb "$(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo 2>/dev/null)"
say disk "$(df -Pk "$p" 2>/dev/null | tail -n 1 | tr -s ' ' | cut -d' ' -f2,4)"
say load "$(cut -d' ' -f1 /proc/loadavg 2>/dev/null)"
say uptime "$(cut -d' ' -f1 /proc/uptime 2>/dev/null)"
say user "$(id -un)"
say uid "$(id -u)"
say home "$HOME"
for name in ${2:-PYTHONS}; do
  found=$(command -v "$name" 2>/dev/null) || continue
  version=$("$found" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) || continue
  say python "$version $found"
  "$found" -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>/dev/null && break
done
exit 0
""".replace("PYTHONS", _PYTHONS)


@dataclass(frozen=True)
class Facts:
    """A host as it is now. `python` is the path of the newest usable one; '' with the reason in `python_problem`."""

    host: str
    hostname: str
    cores: int
    memory_mb: int
    memory_free_mb: int
    disk_gb: int
    disk_free_gb: int
    os: str
    kernel: str
    arch: str
    user: str
    uid: int
    home: str
    python: str
    python_version: str
    python_problem: str = ""
    load_1m: float = 0.0
    uptime_s: float = 0.0


def parse_facts(host: str, text: str) -> Facts:
    """The answer of `SCRIPT`; what a host does not tell is 0 or ''. DriverError when it is no answer at all."""
    lines = [line.partition("=") for line in text.splitlines() if "=" in line]
    said = {name: value.strip() for name, _, value in lines}
    if not said.get("arch"):
        raise DriverError(f"{host}: its answer about itself cannot be read: {text[:100]!r}", code=base.OTHER)
    disk = said.get("disk", "").split()
    memory_kb = _int(said.get("memory_kb")) or _int(said.get("memory_bytes")) // 1024
    python, version, problem = _python([value.strip() for name, _, value in lines if name == "python"])
    return Facts(
        host=host, hostname=said.get("hostname", ""), cores=max(1, _int(said.get("cores"))), memory_mb=memory_kb // 1024,
        memory_free_mb=_int(said.get("free_kb")) // 1024, disk_gb=_gb(disk, 0), disk_free_gb=_gb(disk, 1),
        os=said.get("os", ""), kernel=said.get("kernel", ""), arch=said["arch"], user=said.get("user", ""),
        uid=_int(said.get("uid"), -1), home=said.get("home", ""), python=python, python_version=version,
        python_problem=problem, load_1m=_float(said.get("load")), uptime_s=_float(said.get("uptime")))  # fmt: skip


def _python(found: list[str]) -> tuple[str, str, str]:
    least = ".".join(map(str, MIN_PYTHON))
    if not found:
        return "", "", f"there is no Python; {least} or later is needed (or say where it is: option python)"
    version, _, path = found[-1].partition(" ")
    if tuple(map(int, version.split(".")[:2])) < MIN_PYTHON:
        return "", version, f"{path} is Python {version}; {least} or later is needed"
    return path, version, ""


def _gb(words: list[str], index: int) -> int:
    return _int(words[index]) // 1_000_000 if len(words) > index else 0


def _int(text: str | None, default: int = 0) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default


def _float(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
