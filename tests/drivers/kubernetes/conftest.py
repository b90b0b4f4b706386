"""Which clusters do the tests run against? The stand-in always; a real one when CLOUDSCHED_TEST_KUBECONFIG names it.

A real cluster needs simulated nodes, not kubelets: pods must come to Running without anything being run. Everything is made
in namespaces with a random suffix, on nodes of our own, and taken away afterwards; what a run that was killed has left, the
next run takes along (see `leftovers`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.kubernetes import KubernetesDriver, make
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes import leftovers

VARIABLE = "CLOUDSCHED_TEST_KUBECONFIG"
SERVER_URL = "http://cloudsched.example:8100"
OWN = "cloudsched-test"
TOLERATED = [{"key": OWN, "operator": "Exists"}, {"key": "kwok.x-k8s.io/node", "operator": "Exists"}]
# Controllers of a real cluster work through queues, and its garbage collector stands still for half a minute at times.
PATIENCE = 6.0 if os.environ.get(VARIABLE) else 1.0
_PAUSE_S, _MAX_PAUSE_S = 0.01, 0.05 if PATIENCE == 1.0 else 0.25
_JOB_S = 5.0
REAL = (pytest.mark.kubernetes, pytest.mark.timeout(3600))


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    deadline, pause_s = time.monotonic() + timeout_s * PATIENCE, _PAUSE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(pause_s)
        pause_s = min(_MAX_PAUSE_S, pause_s * 1.2)
    return found


class Cluster:
    """One of them. `kube`: the stand-in, None when it is real; `nodes`: two simulated nodes for pods with `mark` that tolerate
    our taint; a third one is for pods with `open_mark`, which tolerate nothing."""

    def __init__(self, kube: KubeApi | None, options: dict[str, Any], credentials: dict[str, str]) -> None:
        self.kube = kube
        self.suffix = secrets.token_hex(4)
        self.mark, self.open_mark = {OWN: self.suffix}, {f"{OWN}-open": self.suffix}
        self._options, self._credentials = options, credentials
        self._spaces: list[str] = []
        self._running: dict[str, float] = {}
        self.admin = self.driver("default")
        self.nodes = [f"cs-{self.suffix}-{number}" for number in range(2)]

    def open(self) -> None:
        """Nothing is left of runs that were killed, and our nodes are there."""
        leftovers.sweep(self.admin)
        taint = {"key": OWN, "value": self.suffix, "effect": "NoSchedule"}  # pods of others stay away
        for name in self.nodes:
            self.add_node(name, self.mark, taint)
        self.add_node(f"cs-{self.suffix}-open", self.open_mark)

    def place(self, namespace: str, name: str = "kube", **options: Any) -> Place:
        given = {"namespace": namespace, "node_selector": self.mark, "tolerations": TOLERATED, "grace_s": 1, **self._options,
                 **options}
        return Place(name, "Kubernetes", given, credentials=self._credentials, server_url=SERVER_URL,
                     instance=f"test-{self.suffix}")

    def driver(self, namespace: str, name: str = "kube", **options: Any) -> KubernetesDriver:
        return make(self.place(namespace, name, **options))

    def namespace(self) -> str:
        name = f"cs-{self.suffix}-{secrets.token_hex(5)}"
        self._spaces.append(name)
        self.admin.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
        until(lambda: self.admin.get("ServiceAccount", "default", namespace=name), "the default account")
        return name

    def add_node(self, name: str, mark: dict[str, str], *taints: dict[str, str]) -> None:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "2000", "ephemeral-storage": "500Gi"}
        labels = {**mark, "type": "kwok", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        self.admin._api.send("POST", "/api/v1/nodes", {
            "apiVersion": "v1", "kind": "Node", "spec": {"taints": list(taints)},
            "status": {"capacity": capacity, "allocatable": capacity},
            "metadata": {"name": name, "labels": labels, "annotations": {
                "kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0", leftovers.RUN: leftovers.this_run()}}})

        def takes_pods() -> bool:
            node = self.admin.node(name)
            return node.ready and not any(one["key"].startswith("node.kubernetes.io/") for one in node.taints)

        until(takes_pods, f"the node {name} is Ready: does a simulator of nodes run (kwok.x-k8s.io/node=fake)?")

    def pod(self, namespace: str, name: str, **facts: Any) -> dict[str, Any]:
        """A pod that lands on our nodes."""
        labels = facts.pop("labels", {"app": name})
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": self.pod_spec(**facts)}

    def pod_spec(self, **facts: Any) -> dict[str, Any]:
        return {"nodeSelector": self.mark, "tolerations": TOLERATED,
                "containers": [{"name": "main", "image": "example/app:1", "command": ["sleep", "1000"]}], **facts}

    def deployment(self, namespace: str, name: str, replicas: int = 2, **facts: Any) -> dict[str, Any]:
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                         "template": {"metadata": {"labels": {"app": name}}, "spec": self.pod_spec(**facts)}}}

    def running(self, namespace: str, count: int, selector: str = "") -> None:
        until(lambda: sum(one.phase == "Running" for one in self.admin.pods(namespace, selector=selector)) == count,
              f"{count} pods run in {namespace}")

    def nodes_are_empty(self) -> bool:
        """No pod of a test that is over is on our nodes any more."""
        return not any(self.admin.pods("", node=name) for name in self.nodes)

    def help_jobs(self, namespace: str) -> None:
        """Some simulators let pods of jobs succeed, some let them run for ever: those succeed by our word."""
        for pod in self.admin.objects("Pod", namespace=namespace, selector="batch.kubernetes.io/job-name"):
            since = self._running.setdefault(pod["metadata"]["uid"], time.monotonic())
            if (pod.get("status") or {}).get("phase") != "Running":
                self._running.pop(pod["metadata"]["uid"])
            elif time.monotonic() - since > _JOB_S:
                _succeed(self.admin, pod)

    def clean(self) -> None:
        for name in self._spaces:
            with contextlib.suppress(*((DriverError,) if self.kube is not None else ())):
                leftovers.end_namespace(self.admin, name)
        self._spaces.clear()

    def close(self) -> None:
        if self.kube is None:
            leftovers.take_away(self.admin, self.suffix)


def _succeed(driver: KubernetesDriver, pod: dict[str, Any]) -> None:
    status, at = pod["status"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    ended = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": status.get("startTime") or at, "finishedAt": at}}
    containers = [{**one, "ready": False, "started": False, "state": ended} for one in status.get("containerStatuses") or ()]
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/status"
    driver._api.send("PATCH", path, {"status": {"phase": "Succeeded", "containerStatuses": containers}},
                     content_type="application/merge-patch+json", repeat=True)


@pytest.fixture(scope="session", params=["standin", pytest.param("real", marks=REAL)])
def _cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "standin":
        with KubeApi(metrics=True) as kube:
            cluster = Cluster(kube, {"timeout_s": 20}, {"kubeconfig": kube.kubeconfig()})
            cluster.open()
            yield cluster
        return
    path = os.environ.get(VARIABLE, "")
    if not path:
        pytest.skip(f"{VARIABLE} names no cluster")
    cluster = Cluster(None, {"kubeconfig": str(Path(path).expanduser()), "allow_exec": True, "timeout_s": 60,
                             "destroy_timeout_s": 180}, {})
    try:
        cluster.open()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def cluster(_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster; what was made in its namespaces is gone after the test."""
    yield _cluster
    if _cluster.kube is not None:
        _cluster.kube.heal()
    _cluster.clean()


@pytest.fixture
def space(cluster: Cluster) -> str:
    """A namespace of this test alone."""
    return cluster.namespace()


@pytest.fixture
def driver(cluster: Cluster, space: str) -> KubernetesDriver:
    return cluster.driver(space)


@pytest.fixture
def kube() -> Iterator[KubeApi]:
    """A stand-in of this test alone, with one node: for what cannot be done to a real cluster."""
    with KubeApi() as made:
        made.add_node("node-1")
        yield made


def place_on(kube: KubeApi, **facts: Any) -> Place:
    """A cloud on the stand-in."""
    name, token = facts.pop("name", "kube"), facts.pop("token", "")
    options = {"namespace": "default", "timeout_s": 5, "grace_s": 1, "destroy_timeout_s": 10, **facts}
    return Place(name, "Kubernetes", options, credentials={"kubeconfig": kube.kubeconfig(token=token)}, server_url=SERVER_URL,
                 instance="test")


def on(kube: KubeApi, **facts: Any) -> KubernetesDriver:
    return make(place_on(kube, **facts))


def in_thread(work: Callable[[], Any]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
