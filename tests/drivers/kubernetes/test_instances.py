"""Do resource instances come, change and go on an API server, the stand-in and a real one? Pods are simulated on our nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.domain import instances
from cloudsched.domain.instance_manifests import INSTANCE, KINDS
from cloudsched.drivers.base import DriverError
from cloudsched.services.centre import dashboards, instance_objects
from tests.drivers.kubernetes.conftest import PATIENCE, Cluster, until
from tests.unit.test_instances import SEED

PASSWORD = "pa55-of-the-instance"
LIMIT_S = 90.0 * PATIENCE


class Here:
    """One namespace of the cluster for instances, and what is asked for by default: no volume, as simulated pods get none."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.names = instances.names_of(instances.new_key(), cluster=f"t{cluster.suffix}", org=instances.new_key(), engine="")
        selector = ",".join(f"{key}={value}" for key, value in cluster.open_mark.items())
        self.given = {**SEED, "source_nodeselector": selector, "source_storagelimits": "0", "source_outsideport": "",
                      "disk_sys_limit": "0"}

    def spec(self, **fields: Any) -> instances.Spec:
        engine = fields.get("source_podengine", "StatefulSet")
        return instances.read({**self.given, "source_restartpolicy": instances.ENGINES[engine][0], **fields})

    def of(self, spec: instances.Spec) -> instances.Names:
        one = self.names
        return instances.Names(one.key, one.namespace, one.account, f"{one.key}-{spec.source_podengine.lower()}", one.service)

    def apply(self, password: str = PASSWORD, *, stopped: bool = False, **fields: Any) -> dict[str, Any]:
        spec = self.spec(**fields)
        return instance_objects.apply(self.cluster.admin, self.of(spec), spec, password, stopped=stopped, limit_s=LIMIT_S)

    def delete(self) -> list[dict[str, str]]:
        return instance_objects.delete(self.cluster.admin, self.of(self.spec()), limit_s=LIMIT_S)

    def phase(self) -> str:
        return str(instance_objects.look(self.cluster.admin).get(self.names.key, {}).get("phase", "missing"))

    def left(self) -> list[str]:
        return [one["metadata"]["name"] for kind in KINDS
                for one in self.cluster.admin.objects(kind, namespace="", selector=f"{INSTANCE}={self.names.key}")]


@pytest.fixture
def here(cluster: Cluster) -> Iterator[Here]:
    made = Here(cluster)
    yield made
    made.delete()


@pytest.mark.parametrize(("engine", "mode"), list(zip(instances.ENGINES, instances.PORT_MODES * 2, strict=True)))
def test_every_engine_comes_and_goes(here: Here, engine: str, mode: str) -> None:
    done = here.apply(source_podengine=engine, source_portmode=mode)
    assert (done["node_port"] in instances.NODE_PORTS) == (mode == "NodePort")
    until(lambda: here.phase() in ("running", "ended"), f"{engine} runs")
    assert {one["action"] for one in here.apply(source_podengine=engine, source_portmode=mode)["objects"]} <= {"unchanged"}
    assert here.delete()
    assert here.left() == []
    assert here.cluster.admin.get("Namespace", here.names.namespace) is None


def test_changes_in_place_and_anew(here: Here) -> None:
    here.apply(source_podengine="Deployment")
    before = here.cluster.admin.get("Deployment", f"{here.names.key}-deployment", namespace=here.names.namespace)
    here.apply(source_podengine="Deployment", source_replicasetnum="2", source_cpurate="250m")
    after = here.cluster.admin.get("Deployment", f"{here.names.key}-deployment", namespace=here.names.namespace)
    assert before is not None and after is not None
    assert (after["metadata"]["uid"], after["spec"]["replicas"]) == (before["metadata"]["uid"], 2)
    here.apply(source_podengine="Job", source_portmode="Ingress")
    job = here.cluster.admin.get("Job", f"{here.names.key}-job", namespace=here.names.namespace)
    here.apply(source_podengine="Job", source_portmode="LoadBalancer", pod_imagepath="docker.io/library/ubuntu:24.04")
    anew = here.cluster.admin.get("Job", f"{here.names.key}-job", namespace=here.names.namespace)
    assert job is not None and anew is not None and job["metadata"]["uid"] != anew["metadata"]["uid"]
    assert here.cluster.admin.objects("Ingress", namespace=here.names.namespace) == []
    assert here.cluster.admin.objects("Deployment", namespace=here.names.namespace) == []


def test_volumes_of_a_stateful_set_go_with_it(here: Here) -> None:
    here.apply(source_storagelimits="1Gi")
    claims = f"{INSTANCE}={here.names.key}"
    until(lambda: here.cluster.admin.objects("PersistentVolumeClaim", namespace=here.names.namespace, selector=claims), "claims")
    here.apply(source_storagelimits="1Gi", stopped=True)
    until(lambda: here.phase() == "stopped", "it is stopped")
    assert here.cluster.admin.objects("PersistentVolumeClaim", namespace=here.names.namespace, selector=claims)
    here.delete()
    assert here.left() == []


def test_a_port_is_given_once(here: Here, cluster: Cluster) -> None:
    other = Here(cluster)
    port = here.apply()["node_port"]
    try:
        with pytest.raises(instances.InvalidInstance, match="source_outsideport"):
            other.apply(source_outsideport=str(port))
        assert other.left() == []
    finally:
        other.delete()


def test_a_quota_refuses(here: Here) -> None:
    here.apply()
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": here.names.namespace},
             "spec": {"hard": {"count/ingresses.networking.k8s.io": "0", "services": "0"}}}
    here.cluster.admin.apply([quota])

    def counted() -> bool:
        live = here.cluster.admin.get("ResourceQuota", "few", namespace=here.names.namespace) or {}
        return "services" in ((live.get("status") or {}).get("used") or {})

    until(counted, "the quota is in force")
    other = Here(here.cluster)
    other.names = instances.Names(other.names.key, here.names.namespace, here.names.account, "", f"{other.names.key}-service")
    with pytest.raises(DriverError, match="few"):
        other.apply()
    here.cluster.admin.delete([quota])
    other.delete()
    assert other.left() == []


def test_dashboards(here: Here) -> None:
    here.apply(source_cpurate="500m")

    def mine() -> list[dict[str, Any]]:
        rows = dashboards.pod_rows(dashboards.collect(here.cluster.admin, "pods"))
        return [one for one in rows if one["pod_namespace"] == here.names.namespace and one["pod_running"] == "Running"]

    [row] = until(mine, "it runs")
    assert (row["pod_ready"], row["pod_cpu_limit"], row["pod_memory_limit"]) == ("1/1", "500m", "512Mi")
    nodes = {one["node_name"]: one for one in dashboards.node_rows(dashboards.collect(here.cluster.admin, "nodes"))}
    assert nodes[row["pod_node"]]["node_status"] == "已就绪"
