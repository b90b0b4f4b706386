"""An engine whose ticks are stepped by hand: manual clock, fake clouds, agents played by the test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.domain import submission
from cloudsched.drivers import registry
from cloudsched.drivers.fake import FakeDriver
from cloudsched.engine.run import Engine
from cloudsched.services import agents, defaults, jobs, snapshot, waiters
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, nodes
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
        self.settings = settings.load({"state": str(state), "database_url": database.url}, environ={"HOME": str(state)})
        snapshot.configure(self.settings)
        defaults.set_job_defaults(defaults.from_settings(self.settings))
        agents.rules.lease_s = self.settings.agent.lease_s
        waiters.configure(8)
        self.engine = self.new_engine()

    def new_engine(self) -> Engine:
        engine = Engine(self.settings)
        engine.upkeep._started_at = self.clock.now() - 1000
        return engine

    def add_cloud(self, name: str, *, slots: int = 4, **more: Any) -> int:
        values = {"name": name, "kind": "Fake", "max_slots": slots, "enabled": 1, **more}
        return self.database.write(lambda tx: clouds.insert(tx, values, at=self.clock.now()))

    def driver(self, name: str) -> FakeDriver:
        cloud = clouds.by_name(name)
        assert cloud is not None
        found = self.engine.places.driver(cloud)
        assert isinstance(found, FakeDriver)
        return found

    def submit(self, count: int = 1, caller: Caller = ADA, **fields: Any) -> list[int]:
        request = {"kind": "noop", **fields}
        parsed, _ = submission.parse(json.dumps({"jobs": [request] * count}).encode())
        return jobs.submit(parsed, caller).ids

    def cycle(self) -> None:
        """Every loop once, then a second passes."""
        self.engine.job.schedule()
        while self.engine.workers.step():
            pass
        self.engine.poller.tick()
        self.engine.job.clean_up()
        while self.engine.workers.step():
            pass
        self.engine.keep_up()
        self.engine.upkeep.lift()
        self.clock.advance(1.0)

    def join_all(self) -> list[Played]:
        """Every started node that has not joined does."""
        found = []
        for node in nodes.live():
            if not node.instance and node.state in ("starting", "running"):
                token = self.engine.places.token(node.name)
                body = {"token": token, "instance": "one", "profile": {"cores": node.cores, "memory_mb": node.memory_mb}}
                joined = agents.join(json.dumps(body).encode(), "127.0.0.1")
                found.append(Played(joined["node_id"], joined["secret"]))
        return found


@pytest.fixture
def house(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    before = registry.factory("Fake")
    made: dict[str, FakeDriver] = {}
    registry.register("Fake", lambda place: made.setdefault(place.name, FakeDriver(place, now=time.now)))
    yield House(database, tmp_state, time)
    registry.register("Fake", before)
