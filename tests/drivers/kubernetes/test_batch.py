"""Is batch work handed over once, followed truly, and taken back without a trace?"""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import BatchJob, BatchState, KubernetesDriver
from cloudsched.errors import Invalid
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import Cluster, on, until


def job(name: str = "job 1", **facts: Any) -> BatchJob:
    return BatchJob(name, ["true"], **{"image": "example/job:1", "memory_mb": 64, **facts})


def ends(driver: KubernetesDriver, name: str = "job 1", cluster: Cluster | None = None) -> BatchState:
    def look() -> BatchState | None:
        if cluster is not None:
            cluster.help_jobs(driver.namespace)
        found = driver.states([name]).get(name)
        return found if found is not None and found.state not in ("queued", "running") else None

    ended: BatchState = until(look, f"{name} ends", 60)
    return ended


def test_many_jobs_in_one_call(cluster: Cluster, driver: KubernetesDriver) -> None:
    jobs = [job(f"job {number}") for number in range(20)]
    submitted = driver.submit(jobs)
    assert [one.name for one in submitted] == [one.name for one in jobs]
    again = driver.submit(jobs)
    assert [one.external_id for one in again] == [one.external_id for one in submitted]

    def all_have_ended() -> bool:
        cluster.help_jobs(driver.namespace)
        return {one.state for one in driver.states().values()} == {"succeeded"}

    until(all_have_ended, "all have ended", 90)
    states = driver.states(["job 3", "never there"])
    assert list(states) == ["job 3"]
    assert (states["job 3"].succeeded, states["job 3"].failed) == (1, 0)
    assert states["job 3"].ended_at >= states["job 3"].started_at > ""
    driver.cancel([one.name for one in jobs])
    until(lambda: not driver.states() and not driver.pods(), "nothing is left", 60)
    driver.cancel(["job 1", "never there"])


def test_an_array_is_one_job_with_numbered_tasks(cluster: Cluster, driver: KubernetesDriver) -> None:
    driver.submit([job(tasks=5, parallel=2)])
    ended = ends(driver, cluster=cluster)
    assert (ended.state, ended.succeeded) == ("succeeded", 5)


def test_who_fits_nowhere_waits_and_says_why(cluster: Cluster, space: str) -> None:
    driver = cluster.driver(space, node_selector={"no-such": "label"})
    driver.submit([job()])
    waiting = until(lambda: next((one for one in driver.states().values() if one.reason), None), "the scheduler has looked")
    assert waiting.state == "queued"
    assert waiting.reason.startswith("Unschedulable")
    driver.cancel(["job 1"])


def test_two_clouds_do_not_see_each_others_jobs(cluster: Cluster, space: str) -> None:
    one, two = cluster.driver(space, "one"), cluster.driver(space, "two")
    one.submit([job()])
    assert two.states() == {}
    two.cancel(["job 1"])
    assert list(one.states()) == ["job 1"]


@pytest.mark.parametrize(("facts", "field"), [
    ({"name": ""}, "name"), ({"command": []}, "command"), ({"cores": 0}, "cores"), ({"memory_mb": -1}, "memory_mb"),
    ({"tasks": 0}, "tasks"), ({"tasks": 10**6}, "tasks"), ({"time_limit_s": 0}, "time_limit_s"), ({"retries": -1}, "retries"),
    ({"resources": {"nvidia.com/gpu": "one"}}, "resources.nvidia.com/gpu")])
def test_bad_values_are_refused_by_name(driver: KubernetesDriver, facts: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}:"):
        driver.submit([job("fine"), BatchJob(**{"name": "x", "command": ["true"], **facts})])
    assert driver.states() == {}


# -- what only the stand-in can do ---------------------------------------------------------------------------------


@pytest.mark.engines
def test_how_jobs_fail(kube: KubeApi) -> None:
    driver = on(kube)
    kube.habits.exits["bad:1"] = 3
    kube.habits.job_s = None
    driver.submit([job("fails", image="bad:1"), job("late", time_limit_s=1), job("again", image="bad:1", retries=2)])
    failed, late, again = (ends(driver, name) for name in ("fails", "late", "again"))
    assert (failed.state, failed.exit_code, failed.failed) == ("failed", 3, 1)
    assert failed.reason == "BackoffLimitExceeded: Error: exit status 3"
    assert (late.state, late.reason.split(":")[0]) == ("timeout", "DeadlineExceeded")
    assert (again.state, again.failed) == ("failed", 3)


def test_kept_for_a_while_then_gone(kube: KubeApi) -> None:
    driver = on(kube)
    driver.submit([job(keep_s=0)])
    until(lambda: not kube.things("Job") and not kube.things("Pod"), "it went by itself")
    assert driver.states() == {}


def test_an_answer_that_is_lost_makes_no_second_job(kube: KubeApi) -> None:
    driver = on(kube)
    kube.fail("answer_lost", method="POST", path="/jobs")
    with pytest.raises(DriverError) as caught:
        driver.submit([job()])
    assert caught.value.transient
    driver.submit([job()])
    assert len(kube.things("Job")) == 1


def test_a_refusal_says_which_are_there(kube: KubeApi) -> None:
    driver = on(kube)
    kube.api.create(kube.kind_at("", "v1", "resourcequotas"), "default", {  # type: ignore[arg-type]
        "metadata": {"name": "q"}, "spec": {"hard": {"count/secrets": "0"}}})
    kube.fail("expired", method="POST", path="/jobs")
    with pytest.raises(DriverError) as caught:
        driver.submit([job("a"), job("b"), job("c")])
    assert caught.value.code == base.AUTH
    assert len(caught.value.details["submitted"]) == 2
