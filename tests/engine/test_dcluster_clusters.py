"""Spark and Flink clusters look after themselves: launched in turn, mended, ended, adopted; played with a stepped clock."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.engine.dcluster import LEASE_S
from cloudsched.services import clusters
from cloudsched.services.frameworks import framework_clusters
from cloudsched.store import dcluster
from cloudsched.store.db import Database
from tests.frameworks import ADA, ASKED, Yard, made


@pytest.fixture
def yard(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


@pytest.fixture
def both(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """The same on SQLite and PostgreSQL."""
    yield from made(database, tmp_state, monkeypatch)


def _crash(verb: str, key: str) -> None:
    raise KeyboardInterrupt  # the process dies: nothing here catches that


# launch


@pytest.mark.parametrize("kind", ["spark", "flink"])
def test_a_cluster_is_launched_and_runs_when_all_of_it_is_there(both: Yard, kind: str) -> None:
    number = both.launch(kind, workers=3)
    assert framework_clusters.status(number) == "PENDING"
    both.run()
    assert framework_clusters.status(number, kind) == "LAUNCHING"
    both.run(5)
    found = both.cluster(number)
    assert found.state == "running"
    assert (found.workers_wanted, found.workers_ready, found.org) == (3, 3, "my-team")
    assert found.address.startswith("spark://" if kind == "spark" else "http://")
    assert both.world.count("launch") == 1
    assert both.events("cluster", number) == ["cluster.request", "cluster.launch", "cluster.run"]


def test_what_is_not_complete_in_time_has_failed_and_nothing_is_left(yard: Yard) -> None:
    yard.set(launch_timeout_s=60)
    yard.world.ready_s = 1000
    number = yard.launch()
    yard.run(58)
    assert framework_clusters.status(number) == "LAUNCHING"
    yard.run(5)
    found = yard.cluster(number)
    assert (found.state, yard.world.keys()) == ("failed", [])
    assert "not complete after 60 s" in found.reason


def test_a_refusal_is_said_and_only_a_passing_one_is_tried_again(yard: Yard) -> None:
    yard.world.refuse["launch"] = [DriverError("Java 17 is missing: install openjdk-17-jre-headless")]
    first = yard.launch()
    yard.run(1)
    assert yard.cluster(first).state == "failed"
    assert "openjdk-17" in yard.cluster(first).reason
    yard.world.refuse["launch"] = [DriverError("busy", transient=True)] * 3
    second = yard.launch()
    yard.run(1)
    assert (yard.cluster(second).state, yard.cluster(second).reason) == ("launching", "busy")
    yard.run(120)
    assert (yard.cluster(second).state, yard.cluster(second).reason) == ("running", "")


def test_a_worker_that_dies_while_the_cluster_comes_up_is_started_again(yard: Yard) -> None:
    yard.world.ready_s = 10
    number = yard.launch()
    yard.run(3)
    yard.world.kill_worker(yard.cluster(number).key)
    yard.run(40)
    assert yard.cluster(number).state == "running"


# in turn


def test_launches_wait_for_room_and_are_fair_to_tenants(yard: Yard) -> None:
    yard.set(clusters_max=3)
    greedy = [yard.launch(tenant="greedy") for _ in range(5)]
    modest = [yard.launch(tenant="modest") for _ in range(2)]
    yard.run(6)
    running = [number for number in (*greedy, *modest) if yard.cluster(number).state == "running"]
    assert running == [greedy[0], greedy[1], modest[0]]
    framework_clusters.terminate(greedy[0], "spark", ADA)
    yard.run(6)
    assert yard.cluster(modest[1]).state == "pending"  # both have one: the older request is next
    assert yard.cluster(greedy[2]).state == "running"
    framework_clusters.terminate(greedy[1], "spark", ADA)
    yard.run(6)
    assert yard.cluster(modest[1]).state == "pending"
    framework_clusters.terminate(greedy[2], "spark", ADA)
    framework_clusters.terminate(greedy[3], "spark", ADA)
    yard.run(6)
    assert yard.cluster(modest[1]).state == "running"


def test_cores_and_memory_limit_too_and_a_large_one_is_not_overtaken_for_ever(yard: Yard) -> None:
    yard.set(capacity_cores_m=6000, capacity_memory_mb=100_000)
    first = yard.launch(tenant="a")  # 3 cores
    large = yard.launch(tenant="b", workers=4)  # 5 cores
    small = yard.launch(tenant="c", workers=1)  # 2 cores
    yard.run(6)
    assert [yard.cluster(number).state for number in (first, large, small)] == ["running", "pending", "pending"]
    framework_clusters.terminate(first, "spark", ADA)
    yard.run(6)
    assert [yard.cluster(number).state for number in (large, small)] == ["running", "pending"]


def test_what_never_fits_has_failed_at_once_and_says_what_to_set(yard: Yard) -> None:
    yard.set(capacity_cores_m=4000)
    number = yard.launch(workers=8)
    other = yard.launch()
    yard.run(6)
    assert yard.cluster(number).state == "failed"
    assert "9 cores" in yard.cluster(number).reason
    assert "dcluster.capacity_cores_m" in yard.cluster(number).reason
    assert yard.cluster(other).state == "running"


# mended


def test_a_lost_worker_degrades_the_cluster_and_is_replaced(both: Yard) -> None:
    found = both.launched(workers=3)
    both.clock.advance(400)
    both.world.kill_worker(found.key, 2)
    both.run()
    assert (both.cluster(found.id).state, both.cluster(found.id).workers_ready) == ("degraded", 1)
    assert framework_clusters.status(found.key) == "DEGRADED"
    assert both.cluster(found.id).reason == "1 of 3 workers are there"
    both.run(8)
    assert (both.cluster(found.id).state, both.cluster(found.id).workers_ready) == ("running", 3)
    assert both.events("cluster", found.id)[-3:] == ["cluster.degrade", "cluster.heal", "cluster.run"]


def test_a_master_that_does_not_come_back_is_given_up_and_nothing_is_left(yard: Yard) -> None:
    yard.set(heal_attempts=3)
    found = yard.launched()
    yard.world.ready_s = 1e6
    yard.world.kill_master(found.key)
    yard.run(30)
    assert yard.cluster(found.id).state == "degraded"
    yard.run(30)
    assert (yard.cluster(found.id).state, yard.world.keys()) == ("failed", [])
    assert "3 attempts" in yard.cluster(found.id).reason
    assert yard.events("cluster", found.id).count("cluster.heal") == 3


def test_a_cluster_that_keeps_breaking_is_mended_ever_more_slowly(yard: Yard) -> None:
    yard.world.ready_s = 0
    found = yard.launched()
    for _ in range(200):
        if yard.cluster(found.id).state == "running":
            yard.world.kill_worker(found.key)
        yard.run(1)
    assert yard.events("cluster", found.id).count("cluster.heal") <= 5
    assert yard.cluster(found.id).state == "degraded"  # the master is there: it goes on with what it has
    framework_clusters.check(ADA, wait_s=0)  # somebody asks: tried anew
    yard.run(4)
    assert yard.cluster(found.id).state == "running"


def test_a_place_that_does_not_answer_changes_nothing(yard: Yard) -> None:
    found = yard.launched()
    yard.world.refuse["look"] = [DriverError("away", transient=True)] * 3
    yard.run(4)
    assert (yard.cluster(found.id).state, yard.cluster(found.id).reason) == ("running", "away")
    yard.run(60)
    assert yard.cluster(found.id).state == "running"
    assert yard.world.count("launch") == 1


# ended


def test_terminate_is_proved_and_can_be_asked_again(both: Yard) -> None:
    found = both.launched()
    both.world.refuse["stop"] = [DriverError("still there")]
    assert framework_clusters.terminate(found.id, "spark", ADA) == "TERMINATING"
    both.run()
    assert framework_clusters.terminate(found.key, "spark", ADA) == "TERMINATING"
    both.run(5)
    assert framework_clusters.terminate(found.id, "spark", ADA) == "TERMINATED"
    assert both.world.keys() == []
    assert both.cluster(found.id).ended_at is not None


@pytest.mark.parametrize("seconds", [None, 0, 1, 6])
def test_terminate_in_every_state(yard: Yard, seconds: float | None) -> None:
    number = yard.launch()
    if seconds is not None:
        yard.run(seconds)
    assert framework_clusters.terminate(number, "spark", ADA) == "TERMINATING"
    yard.run(2)
    assert (framework_clusters.status(number), yard.world.keys()) == ("TERMINATED", [])
    assert yard.world.count("stop") == (seconds is not None)


def test_a_failed_cluster_can_be_taken_away_through_the_native_service(yard: Yard) -> None:
    yard.world.refuse["launch"] = [DriverError("no")]
    number = yard.launch()
    yard.run(1)
    assert framework_clusters.terminate(number, "spark", ADA) == "FAILED"
    clusters.terminate(number, ADA)
    yard.run(2)
    assert framework_clusters.status(number) == "TERMINATED"


def test_terminate_while_the_launch_is_under_way_leaves_nothing(yard: Yard) -> None:
    number = yard.launch()

    def ended(verb: str, key: str) -> None:
        if verb == "launch":
            yard.world.after = None
            framework_clusters.terminate(number, "spark", ADA)

    yard.world.after = ended
    yard.run(3)
    assert (framework_clusters.status(number), yard.world.keys()) == ("TERMINATED", [])


def test_an_idle_cluster_is_ended_when_it_has_a_limit(yard: Yard) -> None:
    limited, unlimited = yard.launch(idleLimitSeconds=60), yard.launch()
    yard.run(5)
    yard.submit(clusterName=yard.cluster(limited).key)
    yard.run(55)
    assert yard.cluster(limited).state == "running"  # it ran a job meanwhile
    yard.run(30)
    assert yard.cluster(limited).state == "terminated"
    assert "ran nothing for 60 s" in yard.cluster(limited).reason
    yard.run(1000, step_s=100)
    assert yard.cluster(unlimited).state == "running"


def test_a_job_that_comes_just_before_an_idle_cluster_is_ended_keeps_it(yard: Yard) -> None:
    number = yard.launch(idleLimitSeconds=60)
    yard.run(5)
    yard.clock.advance(100)  # nobody has looked meanwhile
    job = yard.submit(clusterName=yard.cluster(number).key)["jobId"]
    yard.run(15)
    assert (yard.job(job).state, yard.cluster(number).state) == ("succeeded", "running")


# other processes


def test_a_new_process_goes_on_where_one_was_killed_in_the_middle_of_a_launch(both: Yard) -> None:
    number = both.launch()
    both.world.after = lambda verb, key: _crash(verb, key) if verb == "launch" else None
    with pytest.raises(KeyboardInterrupt):
        both.run()
    both.world.after = None
    other = both.loop = both.new_loop()
    assert other.step() == 0  # the lease of the dead one
    both.clock.advance(LEASE_S + 1)
    both.run(2)
    assert (both.cluster(number).state, len(both.world.keys())) == ("running", 1)


def test_a_new_process_adopts_what_runs(both: Yard) -> None:
    found = both.launched()
    both.loop = both.new_loop()
    both.run(10)
    assert both.cluster(found.id).state == "running"
    assert both.world.count("launch") == 1
    framework_clusters.terminate(found.id, "spark", ADA)
    both.run(2)
    assert (framework_clusters.status(found.id), both.world.keys()) == ("TERMINATED", [])


def test_who_has_lost_its_lease_writes_nothing(both: Yard) -> None:
    number = both.launch()
    both.run()
    slow, other = both.loop, both.new_loop()

    def overtaken(verb: str, key: str) -> None:
        if verb == "look":
            both.world.after = None
            both.clock.advance(LEASE_S + 1)
            other.step()

    both.world.after = overtaken
    both.clock.advance(1)
    slow.step()
    found = both.cluster(number)
    assert found.state == "running"
    assert both.events("cluster", number).count("cluster.run") == 1


def test_a_cluster_without_a_record_is_stopped_at_the_second_sight(yard: Yard) -> None:
    found = yard.launched()
    with yard.world.open() as facts:
        facts["clusters"]["stray"] = {**facts["clusters"][found.key]}
    assert yard.loop.sweep() == 0
    assert yard.loop.sweep() == 1
    assert yard.world.keys() == [found.key]


def test_the_loop_on_its_threads(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tick` as the engine calls it: the threads do what `step` does in the other tests."""
    yard.world.ready_s = 0
    numbers = [yard.launch(tenant=f"team-{index}") for index in range(5)]
    for _ in range(300):
        yard.loop.tick()
        yard.clock.advance(1)
        if all(yard.cluster(number).state == "running" for number in numbers):
            break
        threading.Event().wait(0.01)
    assert {yard.cluster(number).state for number in numbers} == {"running"}
    yard.loop.close()


def test_check_says_what_there_is(yard: Yard) -> None:
    yard.launched()
    text = framework_clusters.check(ADA, wait_s=0)
    assert "1 running" in text
    assert "1 could not be looked at yet" in text  # the engine does not run in this test
    yard.run()
    assert dcluster.not_looked_at() == 0


def test_the_request_is_kept_with_the_record(yard: Yard) -> None:
    number = yard.launch(extraConfigs='{"spark.executor.instances": 2, "spark.ui.enabled": false}', unknownField="kept")
    spec = json.loads(yard.cluster(number).spec)
    assert spec["settings"] == {"spark.executor.instances": "2", "spark.ui.enabled": "false"}
    assert spec["request"]["unknownField"] == "kept"
    assert {**ASKED}.items() <= spec["request"].items()
