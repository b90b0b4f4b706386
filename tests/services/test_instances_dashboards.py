"""Do the dashboards show what kubectl would, with the contract's words, in both languages?"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.domain.fitting import NodeFree
from cloudsched.errors import CloudschedError, NotFound
from cloudsched.services.centre import centre_clusters, dashboards, instance_objects, instance_watch
from cloudsched.testing.kubeapi import KubeApi, kinds
from tests.fleet import Fleet
from tests.services import shop as shops
from tests.services.shop import Shop

POD: dict[str, Any] = {
    "namespace": "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps", "name": "q2aodptfquogblu5nzblt-statefulset-0", "ready": "1/1",
    "running": "Running", "restarts": "0", "age": "16h", "ip": "10.244.5.36", "node": "k8s-worker-20250408132243",
    "nominated": "", "cpu_used": 0.0041, "memory_used": 2_662_400, "gpus": 0, "cpu_limit": "2", "memory_limit": "5Gi",
    "gpu_limit": 0}
NODE: dict[str, Any] = {
    "name": "k8s-master", "ready": True, "cordoned": False, "roles": ["control-plane"], "age": "70d", "version": "v1.28.2",
    "internal_ip": "192.168.0.3", "external_ip": "", "system": "Ubuntu 22.04.1 LTS", "kernel": "5.15.0-91-generic",
    "runtime": "containerd://1.7.24", "labels": ["kyy-gpu=false"], "cpu": 4.0, "memory": 16_660_000_000, "gpus": 0,
    "gpus_used": 0, "cpu_used": 0.85, "memory_used": 233_240_000, "cpu_free": 3.15, "memory_free": 16_428_250_000, "gpus_free": 0}


def test_the_pod_of_the_contract() -> None:
    assert dashboards.pod_rows([POD]) == [{
        "pod_namespace": "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps", "pod_name": "q2aodptfquogblu5nzblt-statefulset-0",
        "pod_ready": "1/1", "pod_running": "Running", "pod_restart": "0", "pod_age": "16h", "pod_ip": "10.244.5.36",
        "pod_node": "k8s-worker-20250408132243", "pod_nominated_node": "无", "pod_cpurate": "0.004核", "pod_memrate": "2.539Mi",
        "pod_gpu": "0", "pod_cpu_limit": "2", "pod_memory_limit": "5Gi", "pod_gpu_limit": "0"}]
    waiting = {**POD, "ip": "", "node": "", "cpu_used": None, "memory_used": None, "cpu_limit": "", "memory_limit": ""}
    [chinese], [english] = dashboards.pod_rows([waiting]), dashboards.pod_rows([waiting], "en")
    assert [chinese[name] for name in ("pod_ip", "pod_node", "pod_cpurate", "pod_memrate", "pod_cpu_limit")] == [
        "未分配", "未分配", "未知", "未知", "无限制"]
    assert [english[name] for name in ("pod_ip", "pod_nominated_node", "pod_cpurate", "pod_cpu_limit")] == [
        "not assigned", "none", "unknown", "not limited"]


def test_the_node_of_the_contract() -> None:
    assert dashboards.node_rows([NODE]) == [{
        "node_name": "k8s-master", "node_status": "已就绪", "node_role": "控制节点", "node_age": "70d", "node_version": "v1.28.2",
        "node_internalip": "192.168.0.3", "node_externalip": "未分配", "node_osversion": "Ubuntu 22.04.1 LTS",
        "node_kernelversion": "5.15.0-91-generic", "node_containeruntime": "containerd://1.7.24",
        "node_labels": ["kyy-gpu=false"], "node_cpurate": "21.2%", "node_memrate": "1.4%", "node_gpu": "0%",
        "available_cpu": "3.15核", "available_memory": "15.30Gi", "available_gpu": 0}]
    other = {**NODE, "ready": False, "cordoned": True, "roles": [], "cpu_used": None, "gpus": 4, "gpus_used": 1, "gpus_free": 3}
    [chinese], [english] = dashboards.node_rows([other]), dashboards.node_rows([other], "en")
    assert [chinese[name] for name in ("node_status", "node_role", "node_cpurate", "node_gpu", "available_gpu")] == [
        "未就绪,暂停调度", "工作节点", "未知", "25%", 3]
    assert [english[name] for name in ("node_status", "node_role", "node_cpurate", "available_cpu")] == [
        "not ready,cordoned", "worker node", "unknown", "3.15 cores"]


def test_jobs_and_nodes_of_slurm_take_the_same_form() -> None:
    [job] = dashboards.pod_rows(dashboards.of_batch_pods([{
        "pod_namespace": "batch", "pod_name": "12", "pod_ready": "1/1", "pod_running": "RUNNING", "pod_restart": "0",
        "pod_age": "17h", "pod_ip": "<none>", "pod_node": "n1", "pod_nominated_node": "<none>",
        "pod_readiness_gates": "<none>"}]))
    assert job.keys() == dashboards.pod_rows([POD])[0].keys()
    assert (job["pod_ip"], job["pod_nominated_node"], job["pod_cpurate"], job["pod_gpu"]) == ("未分配", "无", "未知", "0")
    [node] = dashboards.node_rows(dashboards.of_batch_nodes([{
        "node_name": "n1", "node_status": "Ready,SchedulingDisabled", "node_role": "control-plane", "node_age": "5d18h",
        "node_version": "25.05", "node_internalip": "10.0.0.1", "node_externalip": "<none>", "node_osversion": "Debian",
        "node_kernelversion": "6.12", "node_containeruntime": "<none>"}], {"n1": {"cpu_m": 1500, "memory_mi": 2048, "gpus": 1}}))
    assert node.keys() == dashboards.node_rows([NODE])[0].keys()
    assert (node["node_status"], node["node_role"], node["available_cpu"], node["available_memory"], node["available_gpu"]) == (
        "已就绪,暂停调度", "控制节点", "1.50核", "2.00Gi", 1)
    assert node["node_cpurate"] == node["node_gpu"] == "未知"


@pytest.fixture
def shop(small: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setattr(clock, "now", time.time)
    with shops.opened(small.settings) as made:
        yield made


def test_a_live_cluster(shop: Shop) -> None:
    found = shop.add(source_gpu="1", source_cpurate="2", source_memrate="4Gi")
    deadline = time.monotonic() + 30
    rows: list[dict[str, Any]] = []
    while not (rows and rows[0]["pod_running"] == "Running"):
        assert time.monotonic() < deadline
        rows = dashboards.pod_rows(dashboards.of_cluster(shop.cluster, "pods", shop.settings))
    [row] = rows
    assert (row["pod_name"], row["pod_namespace"]) == (f"{found.key}-statefulset-0", found.namespace)
    assert (row["pod_cpurate"], row["pod_memrate"], row["pod_gpu"]) == ("1.000核", "2048.000Mi", "1")
    assert (row["pod_cpu_limit"], row["pod_memory_limit"], row["pod_gpu_limit"]) == ("2", "4Gi", "1")
    assert re.fullmatch(r"\d+s", row["pod_age"])
    nodes = {one["node_name"]: one for one in dashboards.node_rows(dashboards.of_cluster(shop.cluster, "nodes", shop.settings))}
    busy = nodes[row["pod_node"]]
    assert (busy["available_cpu"], busy["available_memory"], busy["available_gpu"]) == ("14.00核", "60.00Gi", 1)
    assert (busy["node_cpurate"], busy["node_memrate"], busy["node_gpu"]) == ("6.2%", "3.1%", "50%")
    [free] = [one for name, one in nodes.items() if name != row["pod_node"]]
    assert (free["available_cpu"], free["node_cpurate"], free["node_labels"]) == ("16.00核", "0.0%", ["kyy-gpu=false"])


def test_without_metrics_usage_is_unknown(small: Fleet) -> None:
    with KubeApi() as kube:
        kube.add_node("one")
        kube.api.create(kinds.of("Pod"), "default", {"metadata": {"name": "p"}, "spec": {"containers": [
            {"name": "a", "image": "i", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}},
            {"name": "b", "image": "i", "resources": {"limits": {"cpu": "1", "memory": "512Mi"}}}]}})
        cluster = instance_objects.open_cluster(kube.kubeconfig(), small.settings)
        [pod] = dashboards.pod_rows(dashboards.collect(cluster, "pods"))
        [node] = dashboards.node_rows(dashboards.collect(cluster, "nodes"))
    assert (pod["pod_cpurate"], pod["pod_memrate"], pod["pod_cpu_limit"], pod["pod_memory_limit"]) == (
        "未知", "未知", "1500m", "1536Mi")
    assert (node["node_cpurate"], node["node_memrate"], node["node_gpu"]) == ("未知", "未知", "0%")


def test_a_slurm_cluster_has_the_same_dashboards(small: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slurm:
        def pods(self, where: Any) -> list[dict[str, str]]:
            return [{"pod_namespace": "batch", "pod_name": "12", "pod_running": "RUNNING", "pod_node": "n1"}]

        def nodes(self, where: Any) -> list[dict[str, str]]:
            return [{"node_name": "n1", "node_status": "Ready", "node_role": "<none>"}]

        def free_nodes(self, where: Any) -> list[NodeFree]:
            return [NodeFree("n1", 500, 1024, gpus={"V100": 2})]

    monkeypatch.setattr(centre_clusters, "executor_for", lambda *_, **__: Slurm())
    shop = Shop(small.settings, KubeApi())
    cluster = shop.new_cluster("batch", "", kind="slurm")
    [job] = dashboards.pod_rows(dashboards.of_cluster(cluster, "pods", small.settings))
    assert (job["pod_name"], job["pod_running"], job["pod_age"]) == ("12", "RUNNING", "未知")
    [node] = dashboards.node_rows(dashboards.of_cluster(cluster, "nodes", small.settings), "en")
    assert (node["node_role"], node["available_cpu"], node["available_gpu"]) == ("worker node", "0.50 cores", 2)
    with pytest.raises(NotFound):
        dashboards.of_cluster(cluster, "pods", small.settings, centre_key="another")


@pytest.mark.parametrize("answer", [None, {}, [1], [{"name": "x"}]])
def test_an_answer_of_another_shape_is_an_error(small: Fleet, monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    class Strange:
        def call(self, verb: str, params: Any, **_how: Any) -> Any:
            return answer

    monkeypatch.setattr(centre_clusters, "executor_for", lambda *_, **__: Strange())
    shop = Shop(small.settings, KubeApi())
    for what in ("pods", "nodes"):
        with pytest.raises(CloudschedError, match="another shape"):
            dashboards.of_cluster(shop.cluster, what, small.settings)
    if answer != {}:
        with pytest.raises(CloudschedError, match="another shape"):
            instance_watch.states(shop.cluster, small.settings)
    assert shop.add().state == "applied"  # done, without a word of how
