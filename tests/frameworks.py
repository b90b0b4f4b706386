"""What tests of Spark and Flink clusters share: an installation with a stepped clock, and a played world of clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.domain.entities import Cluster, Job
from cloudsched.domain.frameworks import ModuleSpec
from cloudsched.engine.dcluster import DclusterLoop
from cloudsched.engine.framework_places import Frameworks
from cloudsched.engine.places import Places
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.store import clusters, events, jobs
from cloudsched.store.db import Database
from cloudsched.testing.fakeframework import FakeFramework, World

ADA = Caller("ada", "operator")
COUNT = ModuleSpec("count", "spark", "/modules/count.py", arguments=("--config=big.json", "--client=my-team"))
ASKED = {"tenant": "my-team", "workers": 2, "workerCpu": "1", "workerMemory": "1Gi", "masterCpu": "1", "masterMemory": "1Gi"}


class Played(Frameworks):
    """Drivers of one played world, whatever the place."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.kinds = {kind: FakeFramework(kind, world) for kind in ("spark", "flink")}

    def get(self, place: str, kind: str) -> FakeFramework:
        return self.kinds[kind]

    def close(self) -> None:
        pass


class Yard:
    """One installation without processes; `loop` is its engine, `world` what really runs."""

    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database, self.state, self.clock = database, state, time
        self.world = World(ready_s=3.0, job_s=10.0)
        self._loops = 0
        self.set()

    def set(self, **keys: Any) -> None:
        """Settings of `[dcluster]`, with a new engine on the same world."""
        given = {"clusters_max": 50, "capacity_cores_m": 1_000_000, "capacity_memory_mb": 1_000_000, **keys}
        flags = {"state": str(self.state), "database_url": self.database.url,
                 **{f"dcluster.{key}": value for key, value in given.items()}}
        self.settings = settings.load(flags, environ={"HOME": str(self.state)})
        framework_clusters.configure(self.settings)
        self.loop = self.new_loop()

    def new_loop(self) -> DclusterLoop:
        self._loops += 1
        return DclusterLoop(self.settings, Places(self.settings), holder=f"engine-{self._loops}",
                            frameworks=Played(self.world))

    def run(self, seconds: float = 0.0, *, step_s: float = 1.0) -> None:
        """Work until nothing is due, then let time pass, and so on."""
        self.loop.step()
        left = seconds
        while left > 0:
            self.clock.advance(min(step_s, left))
            left -= step_s
            self.loop.step()

    def launch(self, kind: str = "spark", **fields: Any) -> int:
        return framework_clusters.launch(kind, {**ASKED, **fields}, ADA)

    def launched(self, kind: str = "spark", **fields: Any) -> Cluster:
        """A cluster that runs."""
        number = self.launch(kind, **fields)
        self.run(6)
        found = self.cluster(number)
        assert found.state == "running", found
        return found

    def submit(self, module: ModuleSpec = COUNT, **fields: Any) -> dict[str, Any]:
        return framework_jobs.submit({"client": "my-team", "module": module.name, **fields}, ADA, module)

    def cluster(self, number: int) -> Cluster:
        found = clusters.get(number)
        assert found is not None
        return found

    def job(self, number: int) -> Job:
        found = jobs.get(number)
        assert found is not None
        return found

    def events(self, noun: str, number: int) -> list[str]:
        return [event.kind for event in events.since(0, limit=1000, subject_kind=noun, subject_id=number)]


def made(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """A yard whose clock is stepped by hand."""
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    before = framework_clusters.section()
    yield Yard(database, tmp_state, time)
    framework_clusters._configured.section = before
