"""Are the lines of a container told once each, also while it goes on and the connection does not?"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import BatchJob, KubernetesDriver
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import Cluster, in_thread, on, until


@pytest.fixture
def pod(kube: KubeApi) -> str:
    """A pod that runs on the stand-in and has written three lines."""
    on(kube).apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                     "spec": {"containers": [{"name": "main", "image": "i:1"}, {"name": "side", "image": "i:1"}]}}])
    until(lambda: kube.runs("default/p"), "it runs")
    kube.write_log("default/p", "main", "one\ntwo\nthree\n")
    return "p"


def test_lines_of_a_running_pod(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    driver.apply([cluster.pod(space, "talks")])
    cluster.running(space, 1)
    if cluster.kube is not None:
        cluster.kube.write_log(f"{space}/talks", "main", "hello\n")
    try:
        lines = list(driver.logs("talks"))
    except DriverError as error:
        if cluster.kube is not None:
            raise
        pytest.skip(f"the nodes of this cluster have no logs: {error}")
    assert lines == ["hello"] or cluster.kube is None


def test_a_pod_that_is_not_there(driver: KubernetesDriver) -> None:
    with pytest.raises(DriverError, match="not found") as caught:
        list(driver.logs("no-such-pod"))
    assert caught.value.code == base.REQUEST


# -- what only the stand-in can do ---------------------------------------------------------------------------------


def test_the_last_ones_and_the_other_container(kube: KubeApi, pod: str) -> None:
    driver = on(kube)
    assert list(driver.logs(pod)) == ["one", "two", "three"]
    assert list(driver.logs(pod, tail=2)) == ["two", "three"]
    assert list(driver.logs(pod, container="side")) == []
    assert next(driver.logs(pod, tail=1, timestamps=True)).endswith("Z three")
    with pytest.raises(DriverError, match="container none is not valid"):
        list(driver.logs(pod, container="none"))


def test_a_pod_that_has_not_started(kube: KubeApi) -> None:
    driver = on(kube)
    kube.habits.images["bad:1"] = "ImagePullBackOff"
    driver.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "w"},
                   "spec": {"containers": [{"name": "main", "image": "bad:1"}]}}])
    with pytest.raises(DriverError, match="is waiting to start"):
        list(driver.logs("w", follow=True))


class Follower:
    def __init__(self, driver: KubernetesDriver, pod: str) -> None:
        self.lines: list[str] = []
        self.stop = threading.Event()
        self.thread = in_thread(lambda: self.lines.extend(driver.logs(pod, follow=True, stop=self.stop)))


def test_following_over_restarts_until_the_end(kube: KubeApi, pod: str) -> None:
    follower = Follower(on(kube), pod)
    until(lambda: len(follower.lines) == 3, "what was there")
    for number in range(3):
        kube.restart()
        kube.write_log("default/p", "main", f"line {number}\n")
        until(lambda number=number: len(follower.lines) == 4 + number, f"line {number}: {follower.lines}")
    kube.end_pod("default", "p", exit_code=0)
    follower.thread.join(20)
    assert not follower.thread.is_alive()
    assert follower.lines == ["one", "two", "three", "line 0", "line 1", "line 2"]


def test_following_stops_when_told(kube: KubeApi, pod: str) -> None:
    follower = Follower(on(kube), pod)
    until(lambda: len(follower.lines) == 3, "what was there")
    follower.stop.set()
    follower.thread.join(20)
    assert not follower.thread.is_alive()


def test_the_log_of_a_job(kube: KubeApi) -> None:
    driver = on(kube)
    kube.habits.job_s = None
    driver.submit([BatchJob("talks", ["true"], image="i:1", tasks=2)])
    pods: list[Any] = until(lambda: [one for one in driver.pods() if one.phase == "Running"][1:] and driver.pods(), "both run")
    for one in pods:
        kube.write_log(f"default/{one.name}", "job", one.name)
    second = next(one.name for one in pods if "-1-" in one.name)
    assert list(driver.job_logs("talks", task=1)) == [second]
    with pytest.raises(DriverError, match=r"talks has no pod \(task 7\)"):
        driver.job_logs("talks", task=7)
