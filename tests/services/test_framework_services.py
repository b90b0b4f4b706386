"""What the services of Spark and Flink clusters and jobs answer, and how their jobs look to everybody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched.domain import submission
from cloudsched.errors import CloudschedError, Conflict, Forbidden, Invalid, NotFound
from cloudsched.services import clusters, jobs, listing, pool_views, why
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.store import admin, dcluster
from cloudsched.store.db import Database, read
from tests.frameworks import ADA, ASKED, COUNT, Yard, made


@pytest.fixture
def yard(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    yield from made(sqlite_database, tmp_state, monkeypatch)


@pytest.fixture
def both(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    """The same on SQLite and PostgreSQL."""
    yield from made(database, tmp_state, monkeypatch)


# clusters


def test_names_are_unique_and_states_are_asked_by_number_and_name(both: Yard) -> None:
    first, second = both.launch(), both.launch()
    names = [both.cluster(number).key for number in (first, second)]
    assert names == ["spark-dev-my-team-1700000000000", "spark-dev-my-team-1700000000001"]
    assert framework_clusters.status(first, "spark") == framework_clusters.status(names[0]) == "PENDING"


@pytest.mark.parametrize(("reference", "kind"), [(1, "flink"), (999, ""), ("no-such", ""), ("1\0", ""), ("x" * 500, "")])
def test_an_unknown_cluster_or_one_of_the_other_kind_is_not_found(yard: Yard, reference: Any, kind: str) -> None:
    yard.launch("spark")
    with pytest.raises(NotFound):
        framework_clusters.status(reference, kind)
    with pytest.raises(NotFound):
        framework_clusters.terminate(reference, kind, ADA)


def test_clusters_are_those_of_the_whole_system(yard: Yard) -> None:
    number = yard.launch()
    (view,) = clusters.page(kind="spark")
    assert (view["id"], view["state"], view["org"]) == (number, "pending", "my-team")
    assert (view["origin"], view["place"]) == ("dcluster", "local")
    clusters.terminate(number, ADA)
    assert framework_clusters.status(number) == "TERMINATING"


def test_who_may_only_look_changes_nothing(yard: Yard) -> None:
    viewer = Caller("eve", "viewer")
    for act in (lambda: framework_clusters.launch("spark", ASKED, viewer), lambda: framework_clusters.check(viewer, wait_s=0),
                lambda: framework_jobs.submit({"client": "c", "module": "m"}, viewer, COUNT)):
        with pytest.raises(Forbidden):
            act()


# jobs


@pytest.mark.parametrize(("fields", "error", "words"), [
    ({"clusterName": "no-such"}, NotFound, "no-such"), ({"clusterName": "FLINK"}, Conflict, "runs no spark jobs"),
    ({"clusterName": "GONE"}, Conflict, "TERMINATING"), ({"numWorkers": -1}, Invalid, "numWorkers")])
def test_a_job_needs_a_cluster_that_takes_it(yard: Yard, fields: dict[str, Any], error: type[CloudschedError],
                                             words: str) -> None:
    flink, gone = yard.launch("flink"), yard.launch()
    framework_clusters.terminate(gone, "spark", ADA)
    names = {"FLINK": yard.cluster(flink).key, "GONE": yard.cluster(gone).key}
    with pytest.raises(error, match=words):
        yard.submit(**{key: names.get(value, value) for key, value in fields.items()})
    assert framework_jobs.listed() == []
    assert len(clusters.page()) == 2  # a refused job leaves no cluster behind


def test_of_many_at_once_one_job_of_a_pair_is_taken(both: Yard) -> None:
    taken, refused = [], []

    def submit() -> None:
        try:
            taken.append(both.submit()["jobId"])
        except Conflict as error:
            refused.append(error.details["jobId"])
        finally:
            both.database.close_thread()

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), refused) == (1, taken * 7)
    assert len(clusters.page()) == 1


def test_info_gives_back_what_was_submitted_and_what_is_known(yard: Yard) -> None:
    number = yard.submit(pipelineVersion="1.0.0", strange={"kept": [1]}, emailRecipients="a@example.com")["jobId"]
    yard.run(40)
    told = framework_jobs.info(str(number))
    assert {"pipelineVersion": "1.0.0", "strange": {"kept": [1]}, "client": "my-team", "module": "count",
            "jobStatus": "SUCCEEDED", "exitCode": 0, "applicationId": "app-0001", "jobId": number}.items() <= told.items()
    assert told["log"][-1] == "line 2"
    assert told["created"] < told["started"] < told["ended"]
    assert told["links"]["logs"] == f"/api/v2/jobs/{number}/output"


@pytest.mark.parametrize("reference", [99, "x", "-1", "1e3", "9" * 40])
def test_an_unknown_job_is_not_found(yard: Yard, reference: Any) -> None:
    for ask in (framework_jobs.status, framework_jobs.info, lambda number: framework_jobs.terminate(number, ADA)):
        with pytest.raises(NotFound):
            ask(reference)


def test_a_job_of_the_queue_is_none_of_ours(yard: Yard) -> None:
    (number,) = jobs.submit(submission.parse(b'{"jobs": [{"kind": "noop"}]}')[0], ADA).ids
    with pytest.raises(NotFound):
        framework_jobs.info(number)


def test_lists_by_state_newest_first_in_pages(both: Yard) -> None:
    cluster = both.launched()
    numbers = [both.submit(replace(COUNT, name=f"m{index}"), clusterName=cluster.key)["jobId"] for index in range(3)]
    both.run(2)
    own = both.submit(replace(COUNT, name="m3"))["jobId"]
    framework_jobs.terminate(numbers[0], ADA)

    def ids(**asked: Any) -> list[int]:
        return [one["jobId"] for one in framework_jobs.listed(**asked)]

    assert ids() == [own, *reversed(numbers)]
    assert ids(status="Running") == [numbers[2], numbers[1]]
    assert ids(status="terminating") == [numbers[0]]
    assert ids(status="submitted") == [own]
    assert ids(limit=2, offset=1) == [numbers[2], numbers[1]]
    assert ids(client="nobody") == []
    assert ids(job_type="flink") == [] and ids(job_type="Spark3", limit=1) == [own]
    for wrong in ({"status": "nonsense"}, {"job_type": "hadoop"}, {"limit": 0}, {"limit": 10**6}, {"offset": -1}):
        with pytest.raises(Invalid):
            framework_jobs.listed(**wrong)


def test_all_jobs_of_a_client_and_module_are_stopped(yard: Yard) -> None:
    yard.submit()
    assert framework_jobs.stop_client("my-team", "count", ADA) is True
    assert framework_jobs.stop_client("my-team", "count", ADA) is False
    assert framework_jobs.active("my-team", "count") == []


def test_jobs_that_run_for_too_long_are_told_of_once(yard: Yard) -> None:
    cluster = yard.launched()
    slow = replace(COUNT, arguments=("--fake-run-s=100000",))
    usual = yard.submit(slow, clusterName=cluster.key, emailRecipients=["a@example.com", "b@example.com"])["jobId"]
    short = yard.submit(replace(slow, name="short", alert_after_s=60.0), clusterName=cluster.key)["jobId"]
    yard.run(100)
    (one,) = framework_jobs.overdue()
    assert (one.job_id, one.limit_s, one.client) == (short, 60.0, "my-team")
    assert framework_jobs.note_alert(one)
    assert not framework_jobs.note_alert(one)
    yard.run(22_000, step_s=1000)
    (late,) = framework_jobs.overdue()
    assert (late.job_id, late.emails) == (usual, "a@example.com,b@example.com")
    assert yard.events("job", short).count("job.overdue") == 1


# how they look to everybody else


def test_jobs_are_those_of_the_whole_system(both: Yard) -> None:
    cluster = both.launched()
    number = both.submit(clusterName=cluster.key)["jobId"]

    def lists() -> dict[str, list[str]]:
        return {name: [row.key for row in pool_views.job_list(name)] for name in pool_views.JOB_LISTS}

    key = f"dcluster.{number}"
    assert [name for name, keys in lists().items() if keys] == ["new", "idle"]
    both.run(3)
    assert {name: keys for name, keys in lists().items() if keys} == {"sched": [key], "running": [key]}
    (row,) = pool_views.job_list("running")
    assert (row.user, row.vm_type, row.status) == ("my-team", "spark", 2)
    view = listing.one(key)
    assert (view.id, view.source, view.kind, view.user) == (number, "dcluster", "spark", "my-team")
    assert (view.state, view.node) == ("running", None)
    assert bytes(view.command).startswith(b'["/modules/count.py"')
    assert [one.id for one in listing.page(source="dcluster")] == [number]
    both.run(20)
    assert lists()["complete"] == [key]
    assert listing.one(number).output_size > 0
    assert pool_views.job_counts() == (0, 0)


def test_a_job_that_is_queued_for_its_cluster_is_idle(both: Yard) -> None:
    number = both.submit()["jobId"]
    both.run()
    key = f"dcluster.{number}"
    assert framework_jobs.status(number) == "QUEUED"
    assert [name for name in pool_views.JOB_LISTS if [row.key for row in pool_views.job_list(name)] == [key]] == ["sched", "idle"]
    (row,) = pool_views.job_list("idle")
    assert (row.status, row.scheduled) == (1, True)
    facts = pool_views.job_facts(key)
    assert facts is not None and (facts.status, facts.scheduled) == (1, True)
    assert pool_views.job_counts() == (0, 1)
    both.run(6)
    assert pool_views.job_list("idle") == [] and [row.status for row in pool_views.job_list("running")] == [2]


def test_why_says_what_it_waits_for(yard: Yard) -> None:
    yard.set(jobs_per_cluster=1)
    number = yard.submit()["jobId"]
    assert "which is PENDING: it waits for room" in why.job(number)["verdict"]
    yard.run()
    assert "which is LAUNCHING" in why.job(number)["verdict"]
    yard.run(5)
    assert "runs on cluster spark-dev-my-team" in why.job(number)["verdict"]
    other = yard.submit(replace(COUNT, name="other"), clusterName=framework_jobs.find(number).extra.cluster_name)["jobId"]
    yard.run(1)
    assert "waits for its turn" in why.job(other)["verdict"]
    framework_jobs.terminate(number, ADA)
    assert "being terminated" in why.job(number)["verdict"]


def test_the_database_is_sound_with_such_jobs_in_it(both: Yard) -> None:
    both.submit(replace(COUNT, arguments=("--fake-exit=1",), max_retries=3))
    both.run(30)
    both.submit(replace(COUNT, name="other"))
    assert [name for name, sql in admin._QUESTIONS.items() if not admin._ask(read(), name, sql)[1]] == []


def test_rows_go_when_retention_removes_their_jobs(yard: Yard) -> None:
    number = yard.submit()["jobId"]
    yard.run(40)
    cluster = framework_jobs.find(number).extra.cluster_id
    yard.database.write(lambda tx: tx.run("DELETE FROM job WHERE id = ?", (number,)))
    yard.clock.advance(400 * 86400)
    yard.loop.sweep()
    assert read().value("SELECT count(*) FROM dcluster_job") == 0
    assert dcluster.cluster(read(), cluster or 0) is None


def test_what_this_machine_could_not_start_is_refused_by_its_own_name(yard: Yard) -> None:
    with pytest.raises(Invalid) as refused:
        yard.launch(workerMemory="256Mi", masterMemory="64Mi")
    assert [error.field for error in refused.value.errors] == ["masterMemory", "workerMemory"]
    with pytest.raises(Invalid, match="workerMemGb: 256 MiB is too little"):
        yard.submit(workerMemGb=0.25)
    cluster = yard.launched()
    assert yard.submit(workerMemGb=0.25, clusterName=cluster.key)["jobId"]  # its driver judges that
    yard.set(place="kubernetes:x")
    assert yard.launch(workerMemory="256Mi")
