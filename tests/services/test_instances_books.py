"""Whatever happens to resource instances: are the books always what the instances hold, and never more than there is?"""

from __future__ import annotations

import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from cloudsched import settings as settings_module
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.base import DriverError
from cloudsched.errors import CloudschedError
from cloudsched.services.centre import centre_calls, instance_watch, instances
from cloudsched.services.centre.instances import NotDone
from cloudsched.store import instances as store
from cloudsched.store.db import open_database, read
from cloudsched.testing.kubeapi import KubeApi
from tests.fleet import Fleet
from tests.services.shop import Shop


class Played:
    """A centre that does at once what it is asked, or fails; `there`: what is in the cluster."""

    def __init__(self) -> None:
        self.fails = 0
        self.there: dict[str, dict[str, Any]] = {}

    def call(self, verb: str, params: Any, *, limit_s: float | None = None) -> Any:
        if self.fails:
            self.fails -= 1
            raise DriverError("the cluster says no", transient=True)
        if verb == "get_instance_states":
            return dict(self.there)
        if verb != "yaml_apply_delete":
            return []
        key = params["id"]
        if params["action"] == "delete":
            self.there.pop(key, None)
            return {"objects": []}
        stopped = params["source_stopped"] == "1"
        self.there[key] = {"phase": "stopped" if stopped else "running", "ready": 0, "wanted": 1, "reason": ""}
        return {"objects": [], "node_port": 0}

    def free_nodes(self, where: Any) -> list[NodeFree]:
        return [NodeFree("n", 1000, 1000, labels={"kyy-gpu": "false"})]


class Life(RuleBasedStateMachine):
    """Instances are bought, changed, stopped, given back; the centre fails now and then, processes die."""

    migrated: Path

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        shutil.copy(self.migrated, self.folder / "cloudsched.db")
        self.database = open_database(f"sqlite:///{self.folder / 'cloudsched.db'}", synchronous="OFF")
        config = settings_module.load({"state": str(self.folder), "database_url": self.database.url}, environ={})
        self.centre = Played()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(centre_calls, "executor_for", lambda *_, **__: self.centre)
        from cloudsched.services.centre import centre_clusters

        self.patch.setattr(centre_clusters, "executor_for", lambda *_, **__: self.centre)
        self.shop = Shop(config, KubeApi(), cores=4)
        self.keys: list[str] = []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.patch.undo()
            self.database.close()
            shutil.rmtree(self.folder)

    def one(self, number: int) -> str | None:
        return self.keys[number % len(self.keys)] if self.keys else None

    sizes = st.sampled_from(["250m", "1", "3"])

    @rule(cpu=sizes, gpus=st.integers(0, 2), replicas=st.integers(1, 3), fails=st.sampled_from([0, 0, 0, 1, 2]))
    def buy(self, cpu: str, gpus: int, replicas: int, fails: int) -> None:
        self.centre.fails = fails
        try:
            found = self.shop.add(source_cpurate=cpu, source_gpu=str(gpus), source_replicasetnum=str(replicas))
        except NotDone as error:
            found = error.found
        except CloudschedError:
            return
        self.keys.append(found.key)

    @rule(number=st.integers(0, 99), cpu=sizes, gpus=st.integers(0, 2), storage=st.sampled_from(["49Gi", "60Gi"]),
          fails=st.sampled_from([0, 0, 1, 2]))
    def change(self, number: int, cpu: str, gpus: int, storage: str, fails: int) -> None:
        key = self.one(number)
        if key is not None:
            self.centre.fails = fails
            self.tried(lambda: self.shop.change(key, source_cpurate=cpu, source_gpu=str(gpus), source_storagelimits=storage))

    @rule(number=st.integers(0, 99), fails=st.sampled_from([0, 0, 1]))
    def stop(self, number: int, fails: int) -> None:
        key = self.one(number)
        if key is not None:
            self.centre.fails = fails
            self.tried(lambda: self.shop.stop(key))

    @rule(number=st.integers(0, 99), fails=st.sampled_from([0, 0, 1]))
    def give_back(self, number: int, fails: int) -> None:
        key = self.one(number)
        if key is not None:
            self.centre.fails = fails
            self.tried(lambda: self.shop.remove(key))

    @rule(number=st.integers(0, 99))
    def die_in_the_middle(self, number: int) -> None:
        key = self.one(number)
        if key is None:
            return
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(instances, "carry_out", lambda found, *_, **__: found)
            self.tried(lambda: self.shop.change(key, source_cpurate="2"))

    @rule(fails=st.sampled_from([0, 0, 1]))
    def time_passes(self, fails: int) -> None:
        self.centre.fails = fails
        read().run("UPDATE instance SET not_before = 0")
        self.shop.tick()

    @rule()
    def somebody_takes_something_away(self) -> None:
        if self.centre.there:
            self.centre.there.pop(next(iter(self.centre.there)))

    @invariant()
    def books_are_the_sum(self) -> None:
        if hasattr(self, "shop"):
            self.shop.check_books()
            assert all(amount >= 0 for amount in self.shop.free().values())
            held = {row[0] for row in read().all("SELECT state FROM instance WHERE amounts <> '[]'")}
            assert held <= {"wanted", "applied", "stopped", "deleting"}
            running = store.running_keys()
            assert all(self.shop.row(key).state in ("wanted", "applied", "stopped") for key in running)

    def tried(self, work: Any) -> None:
        try:
            work()
        except CloudschedError:
            pass
        self.centre.fails = 0


def test_the_books_are_always_the_sum_of_the_instances(migrated_file: Path) -> None:
    Life.migrated = migrated_file
    run_state_machine_as_test(Life, settings=settings(  # type: ignore[no-untyped-call]
        max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)))


def test_many_buyers_at_once(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """On both databases: no more is sold than there is, and a port is taken once."""
    from cloudsched.services.centre import centre_clusters

    played = Played()
    monkeypatch.setattr(centre_clusters, "executor_for", lambda *_, **__: played)
    shop = Shop(fleet.settings, KubeApi(), cores=10)

    def buy(number: int) -> str:
        try:
            found = shop.add(source_name=f"n{number}", source_outsideport=str(30000 + number // 2))
        except CloudschedError as error:
            return type(error).__name__
        finally:
            fleet.database.close_thread()
        return found.state

    with ThreadPoolExecutor(16) as pool:
        ends = list(pool.map(buy, range(50)))
    assert ends.count("applied") == 10
    assert set(ends) <= {"applied", "StockShort", "InvalidInstance"}
    rows = instances.listed(cluster=shop.cluster)[1]
    assert len({one.node_port for one in rows}) == len(rows) == 10
    shop.check_books()
    instance_watch._look_next.clear()
