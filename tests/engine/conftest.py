"""An engine whose ticks are stepped by hand: manual clock, fake clouds, agents played by the test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.domain import submission
from cloudsched.domain.entities import Cloud, Job, Node
from cloudsched.domain.scheduling.model import Snapshot
from cloudsched.drivers import registry
from cloudsched.drivers.base import Machine, Wanted
from cloudsched.drivers.fake import FakeDriver
from cloudsched.engine.run import Engine
from cloudsched.services import agents, defaults, jobs, joining, snapshot, waiters
from cloudsched.services.agent_rules import rules
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, nodes
from cloudsched.store import jobs as job_rows
from cloudsched.store.db import Database

ADA = Caller("ada", "operator")


@dataclass
class Played:
    """An agent played by the test: joins by its node's token and syncs through the service."""

    node_id: int
    secret: str

    def sync(self, **members: Any) -> agents.Reply:
        body = json.dumps({"want": 0, "holding": [], **members}).encode()
        return agents.sync(f"{self.node_id}.{self.secret}", body)

    def run_all(self) -> list[int]:
        """Claim one job at a time and succeed with it until there is none."""
        done: list[int] = []
        reply = self.sync(want=1)
        while reply.jobs:
            job = reply.jobs[0]
            done.append(job.id)
            result = {"id": job.id, "attempt": job.attempt, "state": "succeeded", "exit_code": 0, "ran_s": 1.0, "stdout": "out\n"}
            reply = self.sync(want=1, done=[result])
        return done


class House:
    """One instance without processes."""

    def __init__(self, database: Database, state: Path, time: ManualClock) -> None:
        self.database = database
        self.clock = time
        self.state = state
        self.set()
        waiters.configure(8)

    def set(self, **keys: Any) -> None:
        """Settings by field of `cloud_scheduler.conf` (any others: with a dot), with a new engine on the same world."""
        flags = {"state": str(self.state), "database_url": self.database.url,
                 **{key if "." in key else f"cloud_scheduler.{key}": value for key, value in keys.items()}}
        self.settings = settings.load(flags, environ={"HOME": str(self.state)})
        snapshot.configure(self.settings)
        defaults.set_job_defaults(defaults.from_settings(self.settings))
        rules.lease_s = self.settings.agent.lease_s
        self.restart()

    def restart(self) -> None:
        """The engine is gone without a word; a new one takes its place."""
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        engine = Engine(self.settings)
        engine.upkeep._started_at = self.clock.now() - 1000
        return engine

    def add_cloud(self, name: str, *, slots: int = 4, **more: Any) -> int:
        values = {"name": name, "kind": "Fake", "max_slots": slots, "enabled": 1, **more}
        return self.database.write(lambda tx: clouds.insert(tx, values, at=self.clock.now()))

    def driver(self, name: str) -> Scripted:
        cloud = clouds.by_name(name, removed=True)
        assert cloud is not None
        found = self.engine.places.driver(cloud)
        assert isinstance(found, Scripted)
        return found

    def submit(self, count: int = 1, caller: Caller = ADA, **fields: Any) -> list[int]:
        request = {"kind": "noop", **fields}
        parsed, _ = submission.parse(json.dumps({"jobs": [request] * count}).encode())
        return jobs.submit(parsed, caller).ids

    def cycle(self, times: int = 1) -> None:
        """Every loop once, then a second passes."""
        for _ in range(times):
            self._cycle()

    def _cycle(self) -> None:
        if self.engine.pool is not None:
            self.engine.poll_jobs()
            self.engine.poll_machines()
        self.engine.job.schedule()
        self.work()
        self.engine.poller.tick()
        self.engine.job.clean_up()
        self.work()
        self.engine.keep_up()
        self.engine.upkeep.lift()
        self.clock.advance(1.0)

    def work(self) -> None:
        """The workers, until nothing is due."""
        while self.engine.workers.step():
            pass

    def picture(self) -> Snapshot:
        """What the next pass would look at."""
        return snapshot.build(self.clock.now())

    def nodes(self, cloud: str | None = None) -> list[Node]:
        """Live nodes, of all clouds or of one, in boot order."""
        found = clouds.by_name(cloud) if cloud else None
        return nodes.live(cloud_id=found.id if found else None)

    def node(self, number: int) -> Node:
        found = nodes.get(number)
        assert found is not None
        return found

    def job(self, number: int) -> Job:
        found = job_rows.get(number)
        assert found is not None
        return found

    def jobs_of(self, node_id: int | None) -> list[Job]:
        """Jobs in the hands of a node (None: all jobs)."""
        states = ("assigned", "running") if node_id is not None else ()
        return job_rows.find(states=states, node=node_id, limit=1000)

    def cloud(self, name: str) -> Cloud:
        found = clouds.by_name(name)
        assert found is not None
        return found

    def machines(self, *names: str) -> list[str]:
        """What really runs on these clouds (all, when none is named)."""
        wanted = names or [cloud.name for cloud in clouds.all_clouds(removed=True) if cloud.kind == "Fake"]
        return sorted(machine.name for name in wanted for machine in self.driver(name).world())

    def join_all(self) -> list[Played]:
        """Every started node that has not joined does."""
        found = []
        for node in nodes.live():
            if not node.instance and node.state in ("starting", "running"):
                token = self.engine.places.token(node.name)
                body = {"token": token, "instance": "one", "profile": {"cores": node.cores, "memory_mb": node.memory_mb}}
                joined = joining.join(json.dumps(body).encode(), "127.0.0.1")
                found.append(Played(joined["node_id"], joined["secret"]))
        return found


@pytest.fixture
def house(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house on SQLite and on PostgreSQL."""
    yield from _house(database, tmp_state, monkeypatch)


@pytest.fixture
def light(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    """A house on SQLite alone, where the database is not the subject."""
    yield from _house(sqlite_database, tmp_state, monkeypatch)


class Scripted(FakeDriver):
    """The fake cloud, with hooks around the real effect of a boot and a look at the world that is no call."""

    before_boot: Callable[[], None] | None = None
    after_boot: Callable[[], None] | None = None

    def boot(self, wanted: Wanted) -> Machine:
        if self.before_boot is not None:
            self.before_boot()
        machine = super().boot(wanted)
        if self.after_boot is not None:
            self.after_boot()
        return machine

    def world(self) -> list[Machine]:
        with self._using() as world:
            return [self._machine(facts) for facts in world["machines"].values()]


def _house(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    before = registry.factory("Fake")
    made: dict[str, Scripted] = {}
    registry.register("Fake", lambda place: made.setdefault(place.name, Scripted(place, now=time.now)))
    yield House(database, tmp_state, time)
    registry.register("Fake", before)
