"""What do the tests of Spark and Flink on this machine share? Played engines that start in no time, and ways to wait."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers import flink_local, spark_local
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.frameworks import ClusterSeen, ClusterWanted, Framework, JobSeen, JobWanted
from cloudsched.drivers.frameworks_local.homes import MARK

HERE = Path(__file__).parent
DEADLINE_S = 60.0


def wait_until(ask: Callable[[], Any], what: str = "it", *, deadline_s: float = DEADLINE_S) -> Any:
    """Ask until the answer is true; the answer."""
    deadline = time.monotonic() + deadline_s
    while not (found := ask()):
        assert time.monotonic() < deadline, f"{what} did not come: {found}"
        time.sleep(0.02)
    return found


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def played(folder: Path) -> dict[str, Any]:
    """Options that lead to played engines: a Java that says it is 17, a Spark and a Flink."""
    say = "if [ \"$1\" = -version ]; then echo 'openjdk version \"17.0.1\" 2026-01-01' >&2; exit 0; fi"
    run = {name: f"exec '{sys.executable}' -S '{HERE / f'{name}.py'}' \"$@\"\n" for name in ("playedspark", "playedflink")}
    script(folder / "java" / "bin" / "java", f"#!/bin/sh\n{say}\n{run['playedflink']}")
    script(folder / "spark" / "bin" / "spark-class", run["playedspark"])
    for jar in ("spark/jars/spark-core_2.13-4.9.9.jar", "flink/lib/flink-dist-2.9.9.jar"):
        (folder / jar).parent.mkdir(parents=True, exist_ok=True)
        (folder / jar).touch()
    return {"java_home": str(folder / "java"), "spark_home": str(folder / "spark"), "flink_home": str(folder / "flink"),
            "python": sys.executable, "run_as": ""}


class Local:
    """One driver with one cluster, and what tests do with them."""

    def __init__(self, kind: str, options: dict[str, Any], state_dir: Path) -> None:
        self.kind, self.options, self.state_dir = kind, options, state_dir
        self.framework: Framework = self.another()
        self.wanted = ClusterWanted(key=f"{kind}-dev-acme", kind=kind, cluster_id=7, tenant="acme", workers=2, worker_cores_m=500,
                                    worker_memory_mb=512, master_cores_m=500, master_memory_mb=512)
        self.handle: dict[str, Any] = {}
        self.saved: list[dict[str, Any]] = []

    def another(self) -> Framework:
        """The driver as another process would have it."""
        make: Callable[[Place], Any] = {"spark": spark_local.make, "flink": flink_local.make}[self.kind]
        return make(Place("local", self.kind, self.options, state_dir=str(self.state_dir), instance="test"))

    def save(self, handle: Any) -> None:
        self.handle = dict(handle)
        self.saved.append(self.handle)

    def launch(self, **changes: Any) -> None:
        self.wanted = ClusterWanted(**{**{name: getattr(self.wanted, name) for name in ClusterWanted.__slots__}, **changes})
        self.save(self.framework.launch(self.wanted, self.handle, self.save))

    def look(self) -> ClusterSeen:
        return self.framework.look(self.wanted, self.handle)

    def whole(self, **changes: Any) -> ClusterSeen:
        """Launched, and all of it there."""
        self.launch(**changes)
        return self.await_workers(self.wanted.workers)

    def await_workers(self, count: int, *, deadline_s: float = DEADLINE_S) -> ClusterSeen:
        return wait_until(lambda: seen if (seen := self.look()).master and seen.workers == count else None,
                          f"{count} workers", deadline_s=deadline_s)

    def submit(self, entry: Path, *arguments: str, key: str = "job-1", **more: Any) -> dict[str, Any]:
        job = JobWanted(key=key, job_id=1, entry=str(entry), arguments=arguments, **more)
        return dict(self.framework.submit(self.look(), job, {}, lambda _: None))

    def await_end(self, handle: dict[str, Any], *, deadline_s: float = DEADLINE_S) -> JobSeen:
        return wait_until(lambda: seen if (seen := self.job(handle)).state not in ("submitted", "running") else None, "the end",
                          deadline_s=deadline_s)

    def await_state(self, handle: dict[str, Any], state: str, *, deadline_s: float = DEADLINE_S) -> JobSeen:
        return wait_until(lambda: seen if (seen := self.job(handle)).state == state else None, state, deadline_s=deadline_s)

    def job(self, handle: dict[str, Any]) -> JobSeen:
        return self.framework.job(self.look(), handle)

    def log(self, handle: dict[str, Any]) -> str:
        return self.framework.log(self.look(), handle).decode()

    def processes(self) -> list[tuple[int, int]]:
        return processes.marked({MARK: self.handle["mark"]})

    def forget_jobs(self) -> None:
        for home in (self.state_dir / "frameworks" / f"{self.kind}-jobs").glob("*/"):
            with contextlib.suppress(DriverError):
                self.framework.kill(self.look(), {"key": home.name})
            self.framework.forget({"key": home.name})

    def clear(self) -> None:
        self.forget_jobs()
        for key in self.framework.clusters():
            self.framework.stop(ClusterWanted(key, self.kind, 0, "", 0, 0, 0, 0, 0), {})
        assert not processes.standing_in(str(self.state_dir)), "a process was left behind"

    def pid(self, role: str) -> int:
        return int(self.look().facts["pids"][role])


@pytest.fixture(params=["spark", "flink"])
def local(request: pytest.FixtureRequest, tmp_path: Path, tmp_state: Path) -> Iterator[Local]:
    """A driver on played engines with nothing running yet, of both kinds in turn; nothing of it is left afterwards."""
    made = Local(request.param, played(tmp_path), tmp_state)
    yield made
    made.clear()


@pytest.fixture(scope="module")
def _shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    kind = "flink" if "flink" in request.module.__name__ else "spark"
    folder = tmp_path_factory.mktemp(kind)
    made = Local(kind, played(folder), folder / "state")
    yield made
    made.clear()


@pytest.fixture
def cluster(_shared: Local) -> Iterator[Local]:
    """A cluster of two workers for tests of jobs, of the kind that the module is about; no jobs on it at the end."""
    _shared.framework = _shared.another()
    _shared.whole(workers=2, settings={})
    yield _shared
    _shared.forget_jobs()
