"""Do requests become clusters and jobs in Kubernetes, through the engine's own loop, and nothing that stays behind?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched.engine.dcluster import DclusterLoop
from cloudsched.engine.places import Places
from cloudsched.services import jobs, pool_clouds
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.store import clouds
from cloudsched.store.db import Database, write
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import until
from tests.drivers.kubernetes.frameworks import left
from tests.frameworks import ADA, COUNT, Yard, made


@pytest.fixture
def yard(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch, kube: KubeApi) -> Iterator[Yard]:
    """An installation whose clusters run in the stand-in."""
    for yard in made(sqlite_database, tmp_state, monkeypatch):
        values = {"name": "k8s", "kind": "Kubernetes", "max_slots": 1, "enabled": 1, "options": json.dumps({"timeout_s": 20}),
                  "credentials": pool_clouds.seal({"kubeconfig": kube.kubeconfig()}, yard.settings)}
        write(lambda tx, values=values: clouds.insert(tx, values, at=1.0))  # type: ignore[misc]
        yard.set(place="kubernetes:k8s")
        another_engine(yard)
        yield yard
        yard.loop.close()


def another_engine(yard: Yard) -> None:
    """One that knows nothing but the database."""
    yard.clock.advance(60)
    yard.loop = DclusterLoop(yard.settings, Places(yard.settings), holder=f"engine-{yard.clock.now()}")


def comes(yard: Yard, condition: Callable[[], Any], what: str) -> None:
    def stepped() -> Any:
        yard.run(2)
        return condition()

    until(stepped, what)


@pytest.mark.parametrize("kind", ["spark", "flink"])
def test_from_the_request_to_the_end(yard: Yard, kube: KubeApi, tmp_path: Path, kind: str) -> None:
    kube.habits.job_s = None
    entry = tmp_path / "count.jar"
    entry.write_bytes(b"PK")
    module = replace(COUNT, kind=kind, entry=str(entry), main_class="org.example.Count")
    number = yard.launch(kind, type=kind, useExternalNamespace=False, extraConfigs="{}")
    comes(yard, lambda: framework_clusters.status(number) == "RUNNING", "the cluster runs")
    cluster = yard.cluster(number)
    assert (cluster.workers_ready, cluster.address.partition("://")[0]) == (2, "spark" if kind == "spark" else "http")
    told = yard.submit(module, clusterName=cluster.key)
    comes(yard, lambda: framework_jobs.status(told["jobId"]) == "RUNNING", "the job runs")
    pod = next(one["metadata"]["name"] for one in kube.things("Pod") if "Job" in str(one["metadata"]["ownerReferences"]))
    kube.write_log(f"default/{pod}", "framework", "the answer is 42\n")
    another_engine(yard)
    yard.run(4)
    assert framework_jobs.status(told["jobId"]) == "RUNNING"
    kube.end_pod("default", pod, exit_code=0)
    comes(yard, lambda: framework_jobs.status(told["jobId"]) == "SUCCEEDED", "the job has succeeded")
    assert b"the answer is 42" in jobs.output(yard.job(told["jobId"]), "stdout")
    framework_clusters.terminate(number, kind, ADA)
    comes(yard, lambda: framework_clusters.status(number) == "TERMINATED", "the cluster is gone")
    assert left(kube) == []


def test_a_cluster_without_a_record_is_swept(yard: Yard, kube: KubeApi) -> None:
    number = yard.launch()
    comes(yard, lambda: framework_clusters.status(number) == "RUNNING", "the cluster runs")
    write(lambda tx: tx.run("DELETE FROM cluster WHERE id = ?", (number,)))
    for _ in range(4):
        yard.clock.advance(100)
        yard.loop.sweep()
    assert left(kube) == []


def test_a_request_that_kubernetes_cannot_take_has_failed_with_its_reason(yard: Yard, kube: KubeApi) -> None:
    number = yard.launch(workerMemory="256Mi")
    comes(yard, lambda: framework_clusters.status(number) == "FAILED", "it is refused")
    assert "worker_memory_mb" in yard.cluster(number).reason
    assert left(kube) == []
