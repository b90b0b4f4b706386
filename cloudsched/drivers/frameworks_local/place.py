"""What do the Spark and the Flink of this machine have in common? Options, homes, limits of what is wanted."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudsched.agent import processes
from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Place
from cloudsched.drivers.frameworks import SPARK, ClusterSeen, ClusterWanted, JobWanted
from cloudsched.drivers.frameworks_local import engines, users
from cloudsched.drivers.frameworks_local.engines import Engine
from cloudsched.drivers.frameworks_local.homes import Home, Homes, make_folder, read_piece
from cloudsched.errors import Invalid

OPTIONS = ("spark_home", "flink_home", "java_home", "python", "run_as", "trusted_settings", "driver_host")
MAX_WORKERS = 64
MAX_MEMORY_MB = 1 << 22
MAX_CORES_M = 1_000_000
TAIL = 64 << 10

_CLASS = re.compile(r"[A-Za-z_$][\w$]*(\.[A-Za-z_$][\w$]*)*")
_ERROR_LINE = re.compile(
    r"(?:: |Caused by: |Exception in thread \"[^\"]*\" )?((?:[\w$]+[.])*[\w$]*(?:Error|Exception|Interrupt)\b(?::.*|$))"
)
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


class LocalPlace:
    """This machine as a place for clusters of one kind."""

    def __init__(self, place: Place, *, kind: str, engine: Callable[[Mapping[str, Any]], Engine]) -> None:
        unknown = sorted(set(place.options) - set(OPTIONS))
        if unknown:
            raise Invalid.at(unknown[0], "is not an option of local Spark and Flink clusters", ", ".join(OPTIONS))
        if not place.state_dir:
            raise Invalid.at("state_dir", "local clusters need a directory")
        self.kind = kind
        self.options = place.options
        self.trusted = place.options.get("trusted_settings", False) in (True, 1, "1", "true", "yes", "on")
        self.root = Path(place.state_dir).absolute() / "frameworks"
        self.clusters = Homes(self.root / kind, instance=place.instance)
        self.jobs = Homes(self.root / f"{kind}-jobs", instance=place.instance)
        self._engine = engine

    def java(self) -> Engine:
        """Java, or a DriverError that says what to install."""
        return engines.java(self.options)

    def engine(self) -> Engine:
        """Spark or Flink, or a DriverError that says what to install; also when this machine is no Linux."""
        if not processes.LINUX or not os.path.isdir("/proc/self"):
            raise DriverError("local clusters need Linux with /proc: their processes are found there", code=base.REQUEST)
        return self._engine(self.options)

    def user(self, facts: Mapping[str, Any] | None = None) -> users.User:
        """Whom processes run as. `facts` of a cluster that runs already: it stays with whom it began with, who owns its files.
        DriverError names `run_as`."""
        run_as = str((facts or {}).get("user") or self.options.get("run_as", "auto") or "")
        return users.choose(run_as, [self._made() / "x", self.engine().home / "x", self.java().home / "bin" / "x"])

    def python(self, user: users.User) -> Path:
        """What runs `.py` jobs: the option's, our own, or one of the system where that user cannot reach ours. DriverError names
        `python`."""
        given = str(self.options.get("python") or "")
        own = Path(given or sys.executable).absolute()
        if users.reaches(user, own):
            return own
        found = None if given else engines.system_python(lambda path: users.reaches(user, path))
        if found is None:
            raise DriverError(f"python: {user.name} cannot reach {own}, which runs .py jobs: set dcluster.python to one that "
                              "everybody reaches, or dcluster.run_as to a user who reaches this", code=base.REQUEST)  # fmt: skip
        return found

    def verify(self) -> list[Check]:
        """Is everything here that a cluster needs?"""
        return [
            engines.check("java", engines.java, self.options),
            engines.check(self.kind, lambda _: self.engine(), self.options),
            self._check_directory(),
            self._check_user(),
        ]

    def own_cluster(self, cluster: ClusterSeen) -> Home | None:
        """The home of that cluster, when it is one of ours: by its key, else by its address."""
        keys = self.clusters.keys()
        if cluster.facts.get("key") in keys:
            home = self.clusters.at(str(cluster.facts["key"]))
            if home.facts().get("address") == cluster.address:
                return home
        return next((home for home in map(self.clusters.at, keys) if home.facts().get("address") == cluster.address), None)

    def taken_ports(self) -> set[int]:
        """Ports of all clusters of this machine that we know."""
        found: set[int] = set()
        for folder in self.root.glob("*"):
            for home in (Home(path, instance="") for path in folder.glob("*") if path.is_dir()):
                known = [home.facts(), *map(home.role, home.roles())]
                found |= {int(port) for facts in known for port in _ports(facts)}
        return found

    def _made(self) -> Path:
        make_folder(self.root)
        return self.root

    # -- verify ------------------------------------------------------------------------------------------------

    def _check_directory(self) -> Check:
        try:
            make_folder(self.root)
            free_gb = shutil.disk_usage(self.root).free / 1e9
        except OSError as error:
            return Check("state directory", ok=False, detail=f"{self.root}: {error.strerror}")
        return Check("state directory", ok=os.access(self.root, os.W_OK | os.X_OK), detail=f"{self.root}, {free_gb:.0f} GB free")

    def _check_user(self) -> Check:
        try:
            user = self.user()
            python = f", .py jobs with {self.python(user)}" if self.kind == SPARK else ""
        except DriverError as error:
            return Check("user", ok=False, detail=error.message)
        return Check("user", ok=True, detail=f"runs as {user.name}{python}")


def check_cluster(wanted: ClusterWanted, *, kind: str, least_master_mb: int, least_worker_mb: int) -> None:
    """Can this be a cluster of that kind here? DriverError names the field and what is allowed."""
    if wanted.kind != kind:
        raise _refused("kind", f"{wanted.kind!r} is not {kind}")
    for field, value, low, high in (
        ("workers", wanted.workers, 1, MAX_WORKERS),
        ("worker_cores_m", wanted.worker_cores_m, 1, MAX_CORES_M),
        ("master_cores_m", wanted.master_cores_m, 0, MAX_CORES_M),
        ("worker_memory_mb", wanted.worker_memory_mb, least_worker_mb, MAX_MEMORY_MB),
        ("master_memory_mb", wanted.master_memory_mb, least_master_mb, MAX_MEMORY_MB),
    ):
        check_number(field, value, low=low, high=high)


def check_job(job: JobWanted, suffixes: tuple[str, ...]) -> Path:
    """The job's file, proved to be one of these kinds. DriverError names the field."""
    entry = Path(job.entry)
    if entry.suffix not in suffixes:
        raise _refused("entry", f"{entry.name!r} does not end with {' or '.join(suffixes)}")
    if not entry.is_absolute() or not entry.is_file() or not os.access(entry, os.R_OK):
        raise _refused("entry", f"{job.entry!r} is not a file that can be read, by its full path")
    if job.main_class and not _CLASS.fullmatch(job.main_class):
        raise _refused("main_class", f"{job.main_class!r} is not a name of a Java class")
    check_number("cores_max", job.cores_max, low=0, high=MAX_CORES_M)
    return entry


def check_number(field: str, value: int, *, low: int, high: int) -> None:
    """DriverError when the number is outside."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _refused(field, f"{value!r} is not allowed: {low} to {high}")


def whole_cores(cores_m: int) -> int:
    """Spark and Flink know whole cores alone: thousandths are rounded up."""
    return max(1, -(-cores_m // 1000))


def is_loopback(address: str) -> bool:
    """Is `scheme://host:port` on this machine?"""
    return bool(_LOOPBACK.fullmatch(urlsplit(address).hostname or ""))


def last_words(path: Path) -> str:
    """The last line of a log that looks like an error, which is the innermost cause; empty when there is none."""
    try:
        size = path.stat().st_size
    except OSError:
        return ""
    return last_error(read_piece(path, max(0, size - TAIL), TAIL).decode("utf-8", "replace").splitlines())


def last_error(lines: Sequence[str]) -> str:
    """The last of these lines that looks like an error; empty when there is none."""
    for line in reversed(lines):
        if found := _ERROR_LINE.fullmatch(line.strip()):
            return found[1][:500]
    return next((line.strip()[:500] for line in reversed(lines) if " ERROR " in line), "")


def _ports(facts: Mapping[str, Any]) -> list[int]:
    return [*(facts.get("ports") or {}).values(), *([facts["port"]] if facts.get("port") else [])]


def _refused(field: str, problem: str) -> DriverError:
    return DriverError(f"{field}: {problem}", code=base.REQUEST)
