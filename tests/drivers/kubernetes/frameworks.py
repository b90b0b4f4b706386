"""What do the tests of Spark and Flink clusters in Kubernetes share?"""

from __future__ import annotations

import copy
from typing import Any

from cloudsched.drivers.frameworks import FLINK, SPARK, ClusterSeen, ClusterWanted, Handle
from cloudsched.drivers.kubernetes.frameworks import KubernetesFramework, make
from cloudsched.settings.dcluster import Dcluster
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import place_on, until

KINDS = (SPARK, FLINK)
LEFT = ("ConfigMap", "Service", "StatefulSet", "Deployment", "ReplicaSet", "Pod", "Job", "PersistentVolumeClaim")


def wanted(key: str = "spark-dev-team-1", kind: str = SPARK, workers: int = 2, **facts: Any) -> ClusterWanted:
    return ClusterWanted(**{"key": key, "kind": kind, "cluster_id": 7, "tenant": "my team", "workers": workers,
                            "worker_cores_m": 500, "worker_memory_mb": 1024, "master_cores_m": 250, "master_memory_mb": 512,
                            **facts})


def on(kube: KubeApi, kind: str = SPARK, said: dict[str, Any] | None = None, **options: Any) -> KubernetesFramework:
    """One more process that drives clusters there."""
    return make(kind, place_on(kube, **options), Dcluster(**(said or {})))


class Saved(list[Handle]):
    def __call__(self, handle: Handle) -> None:
        self.append(copy.deepcopy(dict(handle)))


def up(framework: KubernetesFramework, asked: ClusterWanted) -> ClusterSeen:
    framework.launch(asked, {}, Saved())
    return until(lambda: (seen := framework.look(asked, {})).master and seen.workers == asked.workers and seen, "it is up")


def left(kube: KubeApi, namespace: str = "default") -> list[str]:
    return [f"{kind} {one['metadata']['name']}" for kind in LEFT for one in kube.things(kind, namespace)
            if one["metadata"]["name"] != "kube-root-ca.crt"]
