"""Where do a cluster's resource instances go, and who does it there? The cluster, its centre, and the centre's executor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import Cluster
from cloudsched.errors import Conflict
from cloudsched.services.centre import centre_clusters
from cloudsched.services.centre.centre_calls import Executor, to_params
from cloudsched.services.centre.centres import refused
from cloudsched.services.centre.executor import Where
from cloudsched.settings import Settings
from cloudsched.store import clusters
from cloudsched.store.centres import Centre

KUBERNETES = "kubernetes"


@dataclass(frozen=True)
class Place:
    """A cluster that can be worked on."""

    cluster: Cluster
    centre: Centre
    where: Where
    executor: Executor

    @property
    def params(self) -> Mapping[str, Any]:
        """The place as the executor's parameters."""
        return to_params(self.where)


def of_cluster(key: str, settings: Settings, *, kind: str = KUBERNETES) -> Place:
    """A cluster that takes resource instances (of any organisation). Raises NotFound; Conflict for one that is not ready, or
    of another kind (any kind with '')."""
    cluster = centre_clusters.find(key)
    if kind and cluster.kind != kind:
        raise refused(Conflict, "instance_kind", f"cluster {cluster.name} is a {cluster.kind} cluster: resource instances need a "
                      "Kubernetes cluster", name=cluster.name, sort=cluster.kind)
    where = centre_clusters.where_of(cluster, settings)
    return Place(cluster, centre_clusters.centre_of(cluster), where, centre_clusters.executor_of(cluster, settings))


def is_gone(key: str) -> bool:
    """Has the cluster ended, with everything that was in it?"""
    cluster = clusters.by_key(key)
    return cluster is None or cluster.state == "terminated"
