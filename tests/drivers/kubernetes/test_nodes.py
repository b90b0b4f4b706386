"""Are nodes shown as they are, and emptied without breaking what runs there?"""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import KubernetesDriver
from cloudsched.errors import Invalid
from cloudsched.testing.kubeapi import KubeApi
from tests.drivers.kubernetes.conftest import PATIENCE, Cluster, in_thread, on, until


def budget(name: str, least: int) -> dict[str, Any]:
    return {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"minAvailable": least, "selector": {"matchLabels": {"app": name}}}}


@pytest.fixture
def node(cluster: Cluster) -> Any:
    """One of our nodes, alone open to pods; both are as they were afterwards."""
    first, second = cluster.nodes
    until(cluster.nodes_are_empty, "pods of earlier tests are gone")
    cluster.admin.cordon(second)
    yield first
    for name in cluster.nodes:
        cluster.admin.uncordon(name)


def test_nodes_with_all_that_is_known_of_them(cluster: Cluster, driver: KubernetesDriver) -> None:
    found = {one.name: one for one in driver.nodes(f"cloudsched-test={cluster.suffix}")}
    assert sorted(found) == cluster.nodes
    one = found[cluster.nodes[0]]
    assert one.ready
    assert not one.unschedulable
    live = (driver.get("Node", one.name) or {})["status"]  # a simulator may have its own mind about what we asked for
    assert (one.capacity.raw, one.allocatable.raw) == (live["capacity"], live["allocatable"])
    if one.capacity.raw["cpu"] == "64":
        assert (one.capacity.cores, one.capacity.memory_mb, one.capacity.pods) == (64.0, 262_144, 2000)
        assert one.allocatable.storage_gb == 500
    assert one.labels["cloudsched-test"] == cluster.suffix
    assert any(condition["type"] == "Ready" for condition in one.conditions)
    assert set(found) <= {node.name for node in driver.nodes()}


def test_labels_and_cordon(cluster: Cluster, driver: KubernetesDriver) -> None:
    name = cluster.nodes[0]
    assert driver.label(name, {"example.com/rack": "r1"}).labels["example.com/rack"] == "r1"
    assert "example.com/rack" not in driver.label(name, {"example.com/rack": None}).labels
    assert driver.cordon(name).unschedulable
    assert driver.cordon(name).unschedulable
    assert not driver.uncordon(name).unschedulable
    for labels in ({"a b": "x"}, {"a": "x y"}, {"a": "x" * 64}, {"/a": "x"}, {"A.b/": "x"}):
        with pytest.raises(Invalid, match="labels"):
            driver.label(name, labels)
    with pytest.raises(DriverError, match="not found"):
        driver.label("no-such-node", {"a": "b"})


def test_a_drained_node_is_empty_and_the_pods_run_elsewhere(cluster: Cluster, driver: KubernetesDriver, space: str,
                                                            node: str) -> None:
    driver.apply([cluster.deployment(space, "web", replicas=3), budget("web", 1)])
    cluster.running(space, 3)
    assert {one.node for one in driver.pods()} == {node}
    driver.uncordon(cluster.nodes[1])
    drained = driver.drain(node, timeout_s=60 * PATIENCE, grace_s=0)
    assert drained.complete
    assert len([one for one in drained.evicted if one.startswith(space + "/")]) == 3
    assert driver.node(node).unschedulable
    cluster.running(space, 3)
    assert {one.node for one in driver.pods()} == {cluster.nodes[1]}


def test_a_budget_holds_pods_back_and_is_named(cluster: Cluster, driver: KubernetesDriver, space: str, node: str) -> None:
    driver.apply([cluster.deployment(space, "web", replicas=2), budget("web", 2)])
    cluster.running(space, 2)
    until(lambda: (driver.get("PodDisruptionBudget", "web") or {}).get("status", {}).get("currentHealthy") == 2, "counted")
    drained = driver.drain(node, timeout_s=0.5, grace_s=0)
    assert not drained.complete
    assert [one.namespace for one in drained.blocked] == [space, space]
    assert all("budget" in one.reason for one in drained.blocked)
    assert len(driver.pods()) == 2
    driver.delete([budget("web", 2)])
    assert driver.drain(node, timeout_s=60 * PATIENCE, grace_s=0).complete


def test_a_budget_lets_pods_go_one_after_another(cluster: Cluster, driver: KubernetesDriver, space: str, node: str) -> None:
    driver.apply([cluster.deployment(space, "web", replicas=3), budget("web", 2)])
    cluster.running(space, 3)
    driver.uncordon(cluster.nodes[1])
    assert driver.drain(node, timeout_s=60 * PATIENCE, grace_s=0).complete


def test_pods_that_need_a_word_of_the_caller(cluster: Cluster, driver: KubernetesDriver, space: str, node: str) -> None:
    scratch = [{"name": "scratch", "emptyDir": {}}]
    daemon = cluster.deployment(space, "daemon")
    daemon = {**daemon, "kind": "DaemonSet", "spec": {key: one for key, one in daemon["spec"].items() if key != "replicas"}}
    driver.apply([cluster.pod(space, "alone"), cluster.deployment(space, "web", replicas=1, volumes=scratch), daemon])
    cluster.running(space, 2, "app!=daemon")
    until(lambda: [one for one in driver.pods(selector="app=daemon") if one.node == node and one.phase == "Running"], "daemon")
    refused = driver.drain(node, timeout_s=60 * PATIENCE)
    reasons = {one.name.split("-")[0]: one.reason for one in refused.refused if one.namespace == space}
    assert "no owner" in reasons["alone"]
    assert "emptyDir" in reasons["web"]
    assert len(driver.pods(selector="app!=daemon")) == 2
    strict = driver.drain(node, timeout_s=60 * PATIENCE, force=True, delete_local_data=True, ignore_daemon_sets=False)
    assert [one.name.split("-")[0] for one in strict.refused if one.namespace == space] == ["daemon"]
    done = driver.drain(node, timeout_s=60 * PATIENCE, force=True, delete_local_data=True, grace_s=0)
    assert done.complete
    assert "daemon set daemon" in next(one.reason for one in done.kept if one.namespace == space)


def test_usage_of_namespaces(cluster: Cluster, driver: KubernetesDriver, space: str) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "10"}}}
    spec = cluster.pod_spec()
    spec["containers"][0]["resources"] = {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    driver.apply([quota, {**cluster.pod(space, "one"), "spec": spec}])
    cluster.running(space, 1)
    until(lambda: driver.namespace_usage(space)[space].quotas["q"]["pods"] == ("1", "10"), "the quota has counted")
    used = driver.namespace_usage()[space]
    assert (used.pods, used.running) == (1, 1)
    assert (float(used.requests["cpu"]), used.limits["memory"]) == (0.5, 2 * 2**30)
    if cluster.kube is not None:
        assert used.used is not None
        assert used.used.memory_mb == 512
        measured = driver.usage()
        assert measured is not None
        assert set(cluster.nodes) <= set(measured)
        assert driver.pod_usage() is not None


# -- what only the stand-in can do ---------------------------------------------------------------------------------


def test_no_metrics_is_none(kube: KubeApi) -> None:
    driver = on(kube)
    assert driver.usage() is None
    assert driver.pod_usage() is None
    assert driver.namespace_usage("default")["default"].used is None


def test_a_node_that_is_silent_says_so(kube: KubeApi) -> None:
    kube.lose_node("node-1")
    [node] = on(kube).nodes()
    assert (node.ready, node.reason) == (False, "Kubelet stopped posting node status.")


def test_pilots_are_evicted_without_being_asked_for(kube: KubeApi) -> None:
    from cloudsched.drivers.base import Wanted

    driver = on(kube)
    driver.boot(Wanted("n", node_id=1, cores=1, memory_mb=64, storage_gb=1, join_token="t"))
    until(lambda: driver.machines()[0].state == "Running", "it runs")
    assert driver.drain("node-1", timeout_s=20, grace_s=0).complete
    assert driver.machines() == []
    until(lambda: not kube.things("Secret", "default"), "its secret has gone with it")


def test_a_throttled_eviction_is_asked_again(kube: KubeApi) -> None:
    driver = on(kube)
    driver.apply([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "r"}, "spec": {
        "replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}}])
    until(lambda: [one for one in driver.pods() if one.phase == "Running"], "it runs")
    kube.fail("server_error", method="POST", path="eviction", times=1)
    assert driver.drain("node-1", timeout_s=30, grace_s=0).complete


def test_one_drain_while_another_takes_the_budget(kube: KubeApi) -> None:
    """Two nodes drained at once: each pod goes, never two at a time."""
    kube.add_node("node-2")
    driver = on(kube)
    template = {"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}
    driver.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": {
        "replicas": 4, "selector": {"matchLabels": {"app": "w"}}, "template": template}}, budget("w", 3)])
    until(lambda: sum(one.phase == "Running" for one in driver.pods()) == 4, "they run")
    until(lambda: kube.things("PodDisruptionBudget")[0]["status"].get("currentHealthy") == 4, "counted")
    kube.add_node("node-3")
    results: list[Any] = []
    threads = [in_thread(lambda name=name: results.append(driver.drain(name, timeout_s=30, grace_s=0)))  # type: ignore[misc]
               for name in ("node-1", "node-2")]
    for thread in threads:
        thread.join()
    assert [one.complete for one in results] == [True, True]
    until(lambda: [one.node for one in driver.pods() if one.phase == "Running"] == ["node-3"] * 4, "they run on the third")


def test_a_pod_that_is_ending_anyway_needs_no_word(kube: KubeApi) -> None:
    driver = on(kube)
    driver.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                   "spec": {"containers": [{"name": "c", "image": "i:1"}]}}])
    until(lambda: driver.pods()[0].phase == "Running", "it runs")
    kube.habits.stop_s = 0.5
    driver.delete([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}}], wait=False)
    drained = driver.drain("node-1", timeout_s=30)
    assert (drained.complete, drained.evicted) == (True, ["default/p"])
