"""Spark and Flink jobs from submission to their end: clusters, slots, retries, limits, cancelling, logs, adoption."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cloudsched.domain import submission
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import KILLED, Handle, Save
from cloudsched.engine.dcluster import LEASE_S
from cloudsched.errors import Conflict, Invalid
from cloudsched.services import jobs, snapshot, why
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.store import dcluster, picture
from cloudsched.store import jobs as rows
from cloudsched.store.db import Database, read
from tests.frameworks import ADA, COUNT, Yard, made


@pytest.fixture
def yard(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


@pytest.fixture
def both(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """The same on SQLite and PostgreSQL."""
    yield from made(database, tmp_state, monkeypatch)


def _states(yard: Yard, numbers: list[int]) -> list[str]:
    return [framework_jobs.status(number) for number in numbers]


def test_a_job_with_a_cluster_of_its_own_from_submission_to_the_end_of_both(both: Yard) -> None:
    told = both.submit(numWorkers="2", workerCpu=1, workerMemGb="1.5", masterMemory="1g", pipelineConfig="big.json")
    number = told["jobId"]
    assert told["jobStatus"] == framework_jobs.status(number) == "SUBMITTED"
    both.run()
    assert framework_jobs.status(number) == "QUEUED"
    both.run(6)
    assert framework_jobs.status(number) == "RUNNING"
    cluster = both.cluster(framework_jobs.find(number).extra.cluster_id or 0)
    assert (cluster.key, cluster.workers_wanted, cluster.job_id) == (told["clusterName"], 2, number)
    both.run(20)
    found = both.job(number)
    assert (found.state, found.exit_code, found.ran_s is not None) == ("succeeded", 0, True)
    assert jobs.output(found, "stdout").startswith(b"/modules/count.py --config=big.json --client=my-team\nline 1")
    assert (both.cluster(cluster.id).state, both.world.keys()) == ("terminated", [])
    assert both.world.count("forget") == 1
    assert both.events("job", number) == ["job.submit", "job.release", "job.claim", "job.start", "job.succeed"]
    assert dcluster.get(number).extra.done == 1  # type: ignore[union-attr]


def test_neither_scheduler_nor_agents_see_it(yard: Yard) -> None:
    snapshot.configure(yard.settings)
    for _ in range(3):
        yard.submit(replace(COUNT, name=f"m{_}"))
    yard.loop.step(1)
    assert rows.queued_shapes(read()) == []
    assert picture.external_running(read()) == []
    yard.run(8)
    built = snapshot.build(yard.clock.now())
    assert (list(built.groups), picture.external_running(read())) == ([], [])


def test_a_job_may_keep_its_cluster(yard: Yard) -> None:
    number = yard.submit(keepAlive=True)["jobId"]
    yard.run(60)
    found = framework_jobs.find(number)
    assert found.job.state == "succeeded"
    assert framework_clusters.status(found.extra.cluster_name) == "RUNNING"


def test_the_long_living_cluster_of_a_client_is_launched_once_and_used_again(both: Yard) -> None:
    first = both.submit(useLongLivingCluster=True)
    second = both.submit(replace(COUNT, name="other"), useLongLivingCluster="true")
    assert first["clusterName"] == second["clusterName"]
    both.run(40)
    assert _states(both, [first["jobId"], second["jobId"]]) == ["SUCCEEDED"] * 2
    assert framework_clusters.status("spark-dev-my-team-long-living") == "RUNNING"
    third = both.submit(useLongLivingCluster=True)
    assert third["clusterName"] == first["clusterName"]
    assert both.submit(client="another", useLongLivingCluster=True)["clusterName"] != first["clusterName"]


def test_an_external_cluster_is_used_as_it_is(yard: Yard) -> None:
    yard.set(external_clusters="elsewhere", driver_host="10.0.0.1")
    told = yard.submit(useExternalCluster=True, extraCmd='{"spark.master": "spark://elsewhere:7077", "spark.x": 1}')
    yard.run(3)
    assert framework_jobs.status(told["jobId"]) == "RUNNING"
    with yard.world.open() as facts:
        (job,) = facts["jobs"].values()
    assert (job["address"], job["settings"]) == ("spark://elsewhere:7077", {"spark.x": "1"})
    yard.run(15)
    assert framework_jobs.status(told["jobId"]) == "SUCCEEDED"
    assert yard.world.count("launch") == 0


EXTERNAL = {"useExternalCluster": True, "extraCmd": '{"spark.master": "spark://elsewhere:7077"}'}
AWAY = DriverError("http://elsewhere: cannot be reached", transient=True)
OUTSIDE = {"external_clusters": "elsewhere", "driver_host": "10.0.0.1", "external_give_up_s": 60.0}


def test_an_external_cluster_that_was_struck_off_gets_no_job_that_waits(yard: Yard) -> None:
    yard.set(**OUTSIDE)
    number = yard.submit(**EXTERNAL)["jobId"]
    yard.set(driver_host="10.0.0.1")
    yard.run(3)
    assert (yard.job(number).state, yard.world.count("submit")) == ("failed", 0)
    assert "dcluster.external_clusters" in (yard.job(number).reason or "")
    with pytest.raises(Invalid, match=r"dcluster\.external_clusters"):
        jobs.retry(number, ADA)


def test_an_external_cluster_that_is_away_is_said_and_given_up(both: Yard) -> None:
    both.set(**OUTSIDE)
    both.world.refuse["submit"] = [AWAY] * 500
    number = both.submit(**EXTERNAL)["jobId"]
    both.run(30)
    told = framework_jobs.info(number)
    assert told["jobStatus"] == "QUEUED"
    assert "spark://elsewhere:7077 cannot be asked since 2023-" in told["reason"]
    assert "given up 60 s after that" in told["reason"] and told["reason"] in why.job(number)["verdict"]
    both.run(60)
    assert framework_jobs.status(number) == "FAILED"
    assert "cannot be reached; given up after 60 s" in (both.job(number).reason or "")


def test_a_job_on_an_external_cluster_that_comes_back_goes_on(yard: Yard) -> None:
    yard.set(**OUTSIDE)
    number = yard.submit(replace(COUNT, arguments=("--fake-run-s=120",)), **EXTERNAL)["jobId"]
    yard.run(3)
    yard.world.refuse["job"] = [AWAY] * 15
    yard.run(20)
    assert framework_jobs.status(number) == "RUNNING"
    assert "cannot be asked since" in framework_jobs.info(number)["reason"]
    yard.run(60)
    assert framework_jobs.info(number)["reason"] is None
    yard.run(60)
    assert framework_jobs.status(number) == "SUCCEEDED"


@pytest.mark.parametrize("how", ["terminate", "limit"])
def test_the_end_on_an_external_cluster_that_stays_away_is_not_waited_for_without_end(yard: Yard, how: str) -> None:
    yard.set(**OUTSIDE)
    limit_s = 20.0 if how == "limit" else None
    module = replace(COUNT, arguments=("--fake-run-s=1000",), time_limit_s=limit_s, max_retries=3)
    number = yard.submit(module, **EXTERNAL)["jobId"]
    yard.run(3)
    for verb in ("job", "kill"):
        yard.world.refuse[verb] = [AWAY] * 500
    if how == "terminate":
        framework_jobs.terminate(number, ADA)
    yard.run(40)
    assert framework_jobs.status(number) == ("TERMINATING" if how == "terminate" else "RUNNING")
    assert "given up 60 s after that" in framework_jobs.info(number)["reason"]
    yard.run(60)
    assert yard.job(number).state == ("cancelled" if how == "terminate" else "timeout")
    assert "not proved ended after 60 s" in (yard.job(number).reason or "")


def test_a_cluster_takes_so_many_jobs_at_once_and_the_oldest_first(yard: Yard) -> None:
    yard.set(jobs_per_cluster=2)
    cluster = yard.launched()
    numbers = [yard.submit(replace(COUNT, name=f"m{index}"), clusterName=cluster.key)["jobId"] for index in range(5)]
    yard.run(2)
    assert _states(yard, numbers) == ["RUNNING"] * 2 + ["QUEUED"] * 3
    yard.run(12)
    assert _states(yard, numbers) == ["SUCCEEDED"] * 2 + ["RUNNING"] * 2 + ["QUEUED"]
    yard.run(25)
    assert _states(yard, numbers) == ["SUCCEEDED"] * 5


# ends


def test_a_failed_attempt_is_tried_again_after_growing_pauses(both: Yard) -> None:
    module = replace(COUNT, arguments=("--fake-exit=3",), max_retries=2, backoff_s=30.0)
    cluster = both.launched()
    number = both.submit(module, clusterName=cluster.key)["jobId"]
    both.run(15)
    assert (both.job(number).state, both.job(number).retries, both.job(number).exit_code) == ("pending", 1, 3)
    both.run(45)
    assert (both.job(number).state, both.job(number).retries) == ("pending", 2)
    assert both.job(number).attempt == 2
    both.run(100)
    found = both.job(number)
    assert (found.state, found.retries, found.attempt, found.exit_code) == ("failed", 2, 3, 3)
    assert framework_jobs.status(number) == "FAILED"
    assert both.events("job", number).count("job.retry") == 2
    assert b"--fake-exit=3" in jobs.output(found, "stdout", attempt=1)


def test_a_time_limit_ends_it_for_real(yard: Yard) -> None:
    cluster = yard.launched()
    number = yard.submit(replace(COUNT, arguments=("--fake-run-s=1000",), time_limit_s=30.0), clusterName=cluster.key)["jobId"]
    yard.run(25)
    assert framework_jobs.status(number) == "RUNNING"
    yard.run(10)
    assert (yard.job(number).state, framework_jobs.status(number)) == ("timeout", "FAILED")
    assert "limit of 30 s" in (yard.job(number).reason or "")
    assert yard.world.running_jobs() == []


@pytest.mark.parametrize(("seconds", "killed"), [(None, False), (0, False), (8, True)])
def test_terminate_in_every_state_is_proved(both: Yard, seconds: float | None, killed: bool) -> None:
    number = both.submit(replace(COUNT, arguments=("--fake-run-s=1000",)))["jobId"]
    if seconds is not None:
        both.run(seconds)
    word = framework_jobs.terminate(number, ADA)
    assert word == ("TERMINATED" if seconds is None else "TERMINATING")
    both.run(8)
    assert framework_jobs.status(number) == framework_jobs.terminate(number, ADA) == "TERMINATED"
    assert (both.world.running_jobs(), both.world.keys()) == ([], [])
    assert (both.world.count("kill") == 1) is killed
    assert framework_jobs.active("my-team", "count") == []


def test_it_is_not_ended_before_there_is_proof(yard: Yard) -> None:
    cluster = yard.launched()
    number = yard.submit(replace(COUNT, arguments=("--fake-run-s=1000",)), clusterName=cluster.key)["jobId"]
    yard.run(3)
    yard.world.refuse["kill"] = [DriverError("it hangs", transient=True)] * 2
    jobs.cancel(number, ADA)  # the native API
    yard.run(4)
    assert framework_jobs.status(number) == "TERMINATING"
    yard.run(15)
    assert framework_jobs.status(number) == "TERMINATED"


def test_what_ended_by_itself_before_it_was_killed_keeps_its_result(yard: Yard) -> None:
    cluster = yard.launched()
    number = yard.submit(clusterName=cluster.key)["jobId"]
    yard.run(3)
    with yard.world.open() as facts:
        (key,) = facts["jobs"]
    yard.world.end_job(key)
    framework_jobs.terminate(number, ADA)
    yard.run(3)
    assert framework_jobs.status(number) == "SUCCEEDED"


@pytest.mark.parametrize(("act", "words"), [("kill", "was killed"), ("lose", "nothing is known")])
def test_what_others_end_has_failed(yard: Yard, act: str, words: str) -> None:
    cluster = yard.launched()
    number = yard.submit(clusterName=cluster.key)["jobId"]
    yard.run(3)
    with yard.world.open() as facts:
        (key,) = facts["jobs"]
    yard.world.end_job(key, KILLED, exit_code=143) if act == "kill" else yard.world.lose_job(key)
    yard.run(3)
    assert yard.job(number).state == "failed"
    assert words in (yard.job(number).reason or "")


def test_jobs_of_a_terminated_cluster_end_first_and_say_so(both: Yard) -> None:
    both.set(jobs_per_cluster=1)
    cluster = both.launched()
    long = replace(COUNT, arguments=("--fake-run-s=1000",))
    running, waiting = (both.submit(replace(long, name=name), clusterName=cluster.key)["jobId"] for name in "ab")
    both.run(3)
    submitted = both.submit(replace(long, name="c"), clusterName=cluster.key)["jobId"]
    framework_clusters.terminate(cluster.id, "spark", ADA)
    both.run(5)
    assert _states(both, [running, waiting, submitted]) == ["TERMINATED"] * 3
    assert framework_clusters.status(cluster.id) == "TERMINATED"
    for number in (running, waiting, submitted):
        assert both.job(number).reason == f"cluster {cluster.key} was ended: terminated by ada"
    kills = [verb for verb, _ in both.world.calls if verb in ("kill", "stop")]
    assert kills == ["kill", "stop"]
    assert b"line 1" in jobs.output(both.job(running), "stdout")  # its log was kept before the cluster went


def test_a_cluster_that_failed_takes_its_jobs_along_or_they_try_another_one(yard: Yard) -> None:
    yard.set(heal_attempts=0)
    once = yard.submit(replace(COUNT, arguments=("--fake-run-s=30",)))
    again = yard.submit(replace(COUNT, name="again", max_retries=1, backoff_s=1.0, arguments=("--fake-run-s=30",)))
    yard.run(8)
    for told in (once, again):
        yard.world.kill_master(told["clusterName"])
    yard.run(6)
    assert framework_jobs.status(once["jobId"]) == "FAILED"
    assert f"cluster {once['clusterName']} failed" in (yard.job(once["jobId"]).reason or "")
    yard.run(50)
    found = framework_jobs.find(again["jobId"])
    assert (found.job.state, found.job.attempt) == ("succeeded", 2)
    assert found.extra.cluster_name != again["clusterName"]
    assert yard.world.keys() == []


@pytest.mark.parametrize("ended", ["failed", "terminated"])
def test_a_job_that_nobody_can_be_asked_about_ends_with_its_cluster(yard: Yard, ended: str) -> None:
    yard.set(heal_attempts=0)
    cluster = yard.launched()
    number = yard.submit(replace(COUNT, arguments=("--fake-run-s=1000",)), clusterName=cluster.key)["jobId"]
    yard.run(3)
    for verb in ("job", "kill", "log"):
        yard.world.refuse[verb] = [DriverError("nobody answers", transient=True)] * 500
    if ended == "failed":
        yard.world.kill_master(cluster.key)
    else:
        framework_clusters.terminate(cluster.id, "spark", ADA)
    yard.run(90)
    assert yard.cluster(cluster.id).state == ended
    assert framework_jobs.status(number) == ("FAILED" if ended == "failed" else "TERMINATED")
    assert cluster.key in (yard.job(number).reason or "")


def test_a_cluster_that_is_gone_before_the_job_begins_fails_it(yard: Yard) -> None:
    yard.world.refuse["launch"] = [DriverError("Java 17 is missing")]
    number = yard.submit()["jobId"]
    yard.run(20)
    assert yard.job(number).state == "failed"
    assert "Java 17 is missing" in (yard.job(number).reason or "")


@pytest.mark.parametrize("transient", [False, True])
def test_a_refused_submission(yard: Yard, transient: bool) -> None:
    cluster = yard.launched()
    yard.world.refuse["submit"] = [DriverError("no such entry", transient=transient)]
    number = yard.submit(clusterName=cluster.key)["jobId"]
    yard.run(25)
    assert yard.job(number).state == ("succeeded" if transient else "failed")
    if not transient:
        assert yard.job(number).reason == "no such entry"


def test_jobs_of_the_queue_that_wait_for_it_go_on(yard: Yard) -> None:
    cluster = yard.launched()
    first = yard.submit(clusterName=cluster.key)["jobId"]
    text = f'{{"jobs": [{{"kind": "noop", "after_ok": [{first}]}}]}}'
    (second,) = jobs.submit(submission.parse(text.encode())[0], ADA).ids
    assert yard.job(second).state == "pending"
    yard.run(20)
    assert (yard.job(first).state, yard.job(second).state) == ("succeeded", "queued")


# held, again, duplicates


def test_held_and_released(yard: Yard) -> None:
    number = yard.submit()["jobId"]
    jobs.hold(number, ADA)
    yard.run(10)
    assert (yard.job(number).state, framework_jobs.status(number)) == ("held", "SUBMITTED")
    jobs.release(number, ADA)
    assert yard.job(number).state == "pending"  # not queued: nobody but this engine lets it go on
    yard.run(30)
    assert yard.job(number).state == "succeeded"


def test_a_second_job_of_the_pair_is_refused_until_the_first_has_ended(both: Yard) -> None:
    first = both.submit()["jobId"]
    with pytest.raises(Conflict) as refused:
        both.submit()
    assert refused.value.details == {"jobId": first}
    assert framework_jobs.active("my-team", "count") == [first]
    framework_jobs.terminate(first, ADA)
    second = both.submit()["jobId"]
    both.run(25)
    assert _states(both, [first, second]) == ["TERMINATED", "SUCCEEDED"]
    assert both.submit()["jobId"] > second


def test_an_ended_job_can_be_submitted_again_as_it_was(yard: Yard) -> None:
    number = yard.submit(replace(COUNT, arguments=("--fake-exit=2",)), special="kept")["jobId"]
    yard.run(30)
    new = jobs.retry(number, ADA)
    assert (new.source, new.retry_of, new.state) == ("dcluster", number, "pending")
    with pytest.raises(Conflict):
        jobs.retry(number, ADA)
    assert framework_jobs.info(new.id)["special"] == "kept"
    yard.run(30)
    assert yard.job(new.id).state == "failed"


# logs


def test_a_log_is_followed_and_of_a_long_one_the_beginning_and_the_end_are_kept(yard: Yard) -> None:
    yard.set(log_keep_kb=16)
    cluster = yard.launched()
    number = yard.submit(replace(COUNT, arguments=("--fake-log=20000", "--fake-run-s=20")), clusterName=cluster.key)["jobId"]
    yard.run(8)
    early = jobs.output(yard.job(number), "stdout")
    assert len(early) == 4096
    assert framework_jobs.info(number)["log"][-1] == "line 20000"
    yard.run(20)
    whole = jobs.output(yard.job(number), "stdout")
    assert whole.startswith(early)
    assert whole.endswith(b"line 19999\nline 20000\n")
    assert b"bytes are left out here" in whole
    assert len(whole) < 16 * 1024 + 100
    assert len(framework_jobs.info(number)["log"]) == 100


# other processes


def test_a_process_that_dies_before_it_kept_the_handle_makes_no_second_job(both: Yard) -> None:
    cluster = both.launched()
    number = both.submit(clusterName=cluster.key)["jobId"]

    def crash(verb: str, key: str) -> None:
        if verb == "submit":
            raise KeyboardInterrupt

    both.world.after = crash
    with pytest.raises(KeyboardInterrupt):
        both.run(2)
    both.world.after = None
    both.loop = both.new_loop()
    both.clock.advance(LEASE_S + 1)
    both.run(3)
    with both.world.open() as facts:
        assert len(facts["jobs"]) <= 1
    assert both.job(number).state == "succeeded"
    assert both.job(number).attempt == 1


def test_a_running_job_is_adopted_and_its_result_recorded(both: Yard) -> None:
    cluster = both.launched()
    number = both.submit(clusterName=cluster.key)["jobId"]
    both.run(3)
    both.loop = both.new_loop()
    both.clock.advance(120)
    both.run()
    assert both.job(number).state == "succeeded"
    assert framework_jobs.info(number)["applicationId"] == "app-0001"
    assert both.world.count("submit") == 1


def test_killed_while_it_was_cancelled_before_its_handle_was_kept(yard: Yard) -> None:
    """Handed over, the handle lost with the process, and meanwhile somebody cancels: it is found and killed."""
    cluster = yard.launched()
    number = yard.submit(replace(COUNT, arguments=("--fake-run-s=1000",)), clusterName=cluster.key)["jobId"]
    driver = yard.loop._frameworks.get("local", "spark")
    real = driver.submit

    def dies(*args: object) -> Handle:
        def lost(_: Handle) -> None:
            raise KeyboardInterrupt

        save: Save = lost
        return real(*args[:3], save)  # type: ignore[arg-type]

    driver.submit = dies  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        yard.run(2)
    assert len(yard.world.running_jobs()) == 1
    framework_jobs.terminate(number, ADA)
    yard.loop = yard.new_loop()
    yard.clock.advance(LEASE_S + 1)
    yard.run(3)
    assert (framework_jobs.status(number), yard.world.running_jobs()) == ("TERMINATED", [])


