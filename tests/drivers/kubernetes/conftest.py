"""Which clusters do the tests run against? The stand-in always; a real one when CLOUDSCHED_TEST_KUBECONFIG names it.

A real cluster needs simulated nodes, not kubelets: pods must come to Running without anything being run. Everything is made
in namespaces with a random suffix, on nodes of our own, and taken away afterwards.
"""

from __future__ import annotations

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

VARIABLE = "CLOUDSCHED_TEST_KUBECONFIG"
SERVER_URL = "http://cloudsched.example:8100"
TAINT = {"key": "kwok.x-k8s.io/node", "operator": "Exists"}


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found


class Cluster:
    """One of them. `kube`: the stand-in, None when it is real; `nodes`: two simulated nodes that belong to the tests."""

    def __init__(self, kube: KubeApi | None, options: dict[str, Any], credentials: dict[str, str]) -> None:
        self.kube = kube
        self.suffix = secrets.token_hex(4)
        self.mark = {"cloudsched-test": self.suffix}
        self._options, self._credentials = options, credentials
        self._spaces: list[str] = []
        self.admin = self.driver("default")
        self.nodes = [self.add_node(f"cs-{self.suffix}-{number}") for number in range(2)]

    def place(self, namespace: str, name: str = "kube", **options: Any) -> Place:
        given = {"namespace": namespace, "node_selector": self.mark, "tolerations": [TAINT], "grace_s": 1, **self._options,
                 **options}
        return Place(name, "Kubernetes", given, credentials=self._credentials, server_url=SERVER_URL, instance="test")

    def driver(self, namespace: str, name: str = "kube", **options: Any) -> KubernetesDriver:
        return make(self.place(namespace, name, **options))

    def namespace(self) -> str:
        name = f"cs-{secrets.token_hex(5)}"
        self.admin.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
        self._spaces.append(name)
        until(lambda: self.admin.get("ServiceAccount", "default", namespace=name), "the default account")
        return name

    def add_node(self, name: str) -> str:
        capacity = {"cpu": "64", "memory": "256Gi", "pods": "2000", "ephemeral-storage": "500Gi"}
        if self.kube is not None:
            self.kube.add_node(name, cores=64, memory_mb=262_144, pods=2000, storage_gb=500, labels=self.mark)
            return name
        self.admin._api.send("POST", "/api/v1/nodes", {
            "apiVersion": "v1", "kind": "Node", "status": {"capacity": capacity, "allocatable": capacity},
            "metadata": {"name": name, "labels": {**self.mark, "type": "kwok", "kubernetes.io/hostname": name},
                         "annotations": {"kwok.x-k8s.io/node": "fake", "node.alpha.kubernetes.io/ttl": "0"}}})
        until(lambda: self.admin.node(name).ready, f"the simulated node {name} is ready")
        return name

    def pod(self, namespace: str, name: str, **facts: Any) -> dict[str, Any]:
        """A pod that lands on our nodes."""
        labels = facts.pop("labels", {"app": name})
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": labels},
                "spec": self.pod_spec(**facts)}

    def pod_spec(self, **facts: Any) -> dict[str, Any]:
        return {"nodeSelector": self.mark, "tolerations": [TAINT],
                "containers": [{"name": "main", "image": "example/app:1", "command": ["sleep", "1000"]}], **facts}

    def deployment(self, namespace: str, name: str, replicas: int = 2, **facts: Any) -> dict[str, Any]:
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": namespace},
                "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}},
                         "template": {"metadata": {"labels": {"app": name}}, "spec": self.pod_spec(**facts)}}}

    def running(self, namespace: str, count: int, selector: str = "") -> None:
        until(lambda: sum(one.phase == "Running" for one in self.admin.pods(namespace, selector=selector)) == count,
              f"{count} pods run in {namespace}")

    def clean(self) -> None:
        for name in self._spaces:
            try:
                self.admin.delete([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}], wait=False)
            except DriverError:
                if self.kube is None:
                    raise
        self._spaces.clear()

    def close(self) -> None:
        if self.kube is None:
            for name in self.nodes:
                self.admin.delete_node(name)


@pytest.fixture(scope="session", params=["standin", pytest.param("real", marks=pytest.mark.kubernetes)])
def _cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if request.param == "standin":
        with KubeApi(metrics=True) as kube:
            yield Cluster(kube, {"timeout_s": 20}, {"kubeconfig": kube.kubeconfig()})
        return
    path = os.environ.get(VARIABLE, "")
    if not path:
        pytest.skip(f"{VARIABLE} names no cluster")
    cluster = Cluster(None, {"kubeconfig": str(Path(path).expanduser())}, {})
    yield cluster
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
