"""The contract's examples of clusters, their workers, and the live dashboards."""

from __future__ import annotations

from typing import Any

from cloudsched import clock
from cloudsched.testing.kubeapi import KubeApi, kinds
from tests.dialects.kboss.seed.form import SEALED, TOKEN, Differs, Entry, Form
from tests.dialects.kboss.seed.world import (
    CENTRE,
    CLUSTER,
    CPCCLUSTER,
    CPCWORKER,
    JOIN,
    KUBECONFIG,
    MASTER,
    NODE,
    SWAP,
    SWAP_ZH,
    WORKER,
    World,
)

_LIST, _UPDATE, _NEW, _APART = (f"GET {CPCCLUSTER}/get_cpccluster.dspy", f"POST {CPCCLUSTER}/update_cpccluster.dspy",
                                f"POST {CPCCLUSTER}/new_cluster.dspy", "POST /computing/cpcluster_delete.dspy")
_PODS, _NODES = "GET /dev/cpcc/cpcpod/get_cpcpod.dspy", f"GET {CPCWORKER}/get_cpcworker.dspy"
_JOIN, _LEAVE = f"POST {CPCWORKER}/new_cpcworker.dspy", "POST /"
_SEALED = "join command and kubeconfig are read as sealed tokens (contract: calls)"
_HASH = "the contract has its hash blacked out"
_REVEAL = {"centres.reveal_secrets": "yes"}
_EMPTY = "the contract's example is an empty object: it was not built there"
_NEW_GIVEN = {"cpcid": CENTRE, "ctl_nodeid": MASTER, "cluster_type": "0", "cluster_name": "测试离线安装控制节点",
              "enable_date": "2025-04-03", "export_date": "2025-05-10"}
NAMESPACE = "4hbm8atruisou2bs24t-n-miwuhbeedm8mwafpiq8ps"
_READY = (Differs("data.rows.0.ready", 1, "the table of the answer has it", before="row_num_"),
          Differs("data.rows.0.state", "running", "tells what `ready` cannot: why a cluster is not", before="row_num_"))


def _host(world: World) -> None:
    world.centre()
    world.master()
    world.keys.ids.append(CLUSTER)


def _swap_is_on(world: World) -> None:
    _host(world)
    world.hosts.errors["step"] = SWAP


def _installed(world: World) -> None:
    world.centre()
    world.master()
    world.cluster(export_date="2025-05-10")


def _with_idle(world: World) -> None:
    _installed(world)
    world.worker()


def _with_worker(world: World) -> None:
    _ = world.kube
    _with_idle(world)
    world.join()
    world.kube.add_node("2-ubuntu2204")


def _live(world: World) -> KubeApi:
    """A cluster where nothing happens by itself."""
    world.kube.controllers.paused = True
    world.one_cluster()
    return world.kube


def _one_pod(world: World) -> None:
    kube = _live(world)
    limits = {"cpu": "2", "memory": "5Gi"}
    name = "q2aodptfquogblu5nzblt-statefulset-0"
    put(kube, "Pod", name, namespace=NAMESPACE, age_s=16 * 3600 + 60, spec={
        "nodeName": NODE, "containers": [{"name": "c", "image": "ubuntu", "resources": {"limits": limits, "requests": limits}}]},
        status={"phase": "Running", "podIP": "10.244.5.36", "containerStatuses": [
            {"name": "c", "ready": True, "restartCount": 0, "state": {"running": {}}}]})
    figures = {"metadata": {"name": name, "namespace": NAMESPACE}, "containers": [{"usage": {"cpu": "4m", "memory": "2600Ki"}}]}
    measured(kube, [figures])


def _two_nodes(world: World) -> None:
    kube = _live(world)
    node(kube, "k8s-master", age_s=70 * 86400, address="192.168.0.3", controller=True)
    node(kube, NODE, age_s=65 * 86400, address="192.168.0.2")
    for number, (where, cpu, memory) in enumerate((("k8s-master", "850m", "205Mi"), (NODE, "2400m", "5519Mi"))):
        asked = {"requests": {"cpu": cpu, "memory": memory}}
        put(kube, "Pod", f"p{number}", namespace="default", spec={
            "nodeName": where, "containers": [{"name": "c", "image": "x", "resources": asked}]}, status={"phase": "Running"})
    measured(kube, [{"metadata": {"name": "k8s-master"}, "usage": {"cpu": "848m", "memory": "222Mi"}},
                    {"metadata": {"name": NODE}, "usage": {"cpu": "2400m", "memory": "5523Mi"}}])


def node(kube: KubeApi, name: str, *, age_s: float, address: str, controller: bool = False) -> None:
    """A node of the contract's: 4 cores, 15.5 Gi."""
    role = {"node-role.kubernetes.io/control-plane": ""} if controller else {}
    put(kube, "Node", name, age_s=age_s, labels={"kyy-gpu": "false", "kubernetes.io/hostname": name, **role}, status={
        "allocatable": {"cpu": "4", "memory": "15872Mi"}, "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": address}], "nodeInfo": {
            "kubeletVersion": "v1.28.2", "osImage": "Ubuntu 22.04.1 LTS", "kernelVersion": "5.15.0-91-generic",
            "containerRuntimeVersion": "containerd://1.7.24"}})


def put(kube: KubeApi, kind: str, name: str, *, namespace: str = "", age_s: float = 0.0, labels: dict[str, str] | None = None,
        **body: Any) -> None:
    """An object as it is found there."""
    created = clock.rfc3339(clock.now() - age_s)
    metadata = {"name": name, "labels": labels or {}, "uid": f"uid-{name}", "creationTimestamp": created,
                **({"namespace": namespace} if namespace else {})}
    with kube.store.lock:
        kube.store.put(kinds.of(kind), {"apiVersion": "v1", "kind": kind, "metadata": metadata, **body})


def measured(kube: KubeApi, items: list[dict[str, Any]]) -> None:
    """What metrics.k8s.io tells."""
    answer = {"kind": "List", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items}
    kube.metrics = lambda kind, namespace, name: answer  # type: ignore[method-assign]


def _answered(data: dict[str, Any], msg: str) -> tuple[Differs, ...]:
    return (Differs("status", True, _EMPTY), Differs("msg", msg, _EMPTY), Differs("data", data, _EMPTY))


ENTRIES = (
    Entry(_LIST, 1, {"cpcid": CENTRE}, _installed, {"msg": "clusters listed"}, (
        Differs("data.rows.0.clusterjoin", SEALED, _SEALED), Differs("data.rows.0.kubeconfig", SEALED, _SEALED), *_READY)),
    Entry(_LIST, 1, {"cpcid": CENTRE}, _installed, {"msg": "clusters listed"}, (
        Differs("data.rows.0.clusterjoin", JOIN, _HASH),
        Differs("data.rows.0.kubeconfig", KUBECONFIG, "the contract's has lost the spaces that its lines begin with"), *_READY),
        flags=_REVEAL, name="revealed"),
    Entry(_UPDATE, 1, {"cpcid": CENTRE, "id": CLUSTER, "controllerid": MASTER, "name": "朝阳区", "cluster_type": "0",
                       "clusterjoin": JOIN, "enable_date": "2025-04-03", "export_date": "2035-05-10"}, _installed,
          {"msg": "cluster updated"}, _answered({"id": CLUSTER, "cpcid": CENTRE, "name": "朝阳区", "enable_date": "2025-04-03",
                                                 "export_date": "2035-05-10"}, "更新算力集群成功")),
    Entry(_NEW, 1, _NEW_GIVEN, _host, {"msg": Form(f"done\njoin command: {TOKEN}")},
          (Differs("msg", Form(f"操作成功!\n加入集群凭证: {TOKEN}"), _SEALED),)),
    Entry(_NEW, 1, _NEW_GIVEN, _host, {"msg": f"done\njoin command: {JOIN}"},
          (Differs("msg", f"操作成功!\n加入集群凭证: {JOIN}", _HASH),), flags=_REVEAL, name="revealed"),
    Entry(_NEW, 2, _NEW_GIVEN, _swap_is_on, {
        "msg": f"the compute centre failed: 192.168.0.3: look at the host: {SWAP}"}, (
        Differs("msg", f"算力中心服务操作失败: 192.168.0.3: 检查主机: {SWAP_ZH}",
                "the message says why (contract: calls)"),)),
    Entry(_APART, 1, {"id": CLUSTER}, _installed, {"msg": "cluster removed"}, _answered({"id": CLUSTER}, "移除算力集群成功")),
    Entry(_JOIN, 1, {"cpcid": CENTRE, "clusterid": CLUSTER, "worker_nodeid": WORKER}, _with_idle, {"msg": "worker added"},
          _answered({"id": WORKER, "node_status": "1", "clusterid": CLUSTER, "cpcid": CENTRE, "role": "worker"},
                    "新增工作节点成功")),
    Entry(_LEAVE, 1, {"cpcid": CENTRE, "clusterid": CLUSTER, "worker_nodeid": WORKER}, _with_worker, {"msg": "worker removed"},
          _answered({"id": WORKER, "clusterid": CLUSTER, "cpcid": CENTRE, "node_status": "0"}, "移除工作节点成功"),
          ours=f"{CPCWORKER}/delete_cpcworker.dspy"),
    Entry(_PODS, 1, {"cpcid": CENTRE, "clusterid": CLUSTER}, _one_pod, {
        "msg": "live resource instances of the cluster", "data.rows.0.pod_nominated_node": "none",
        "data.rows.0.pod_cpurate": "0.004 cores"}),
    Entry(_NODES, 1, {"cpcid": CENTRE, "clusterid": CLUSTER}, _two_nodes, {
        "msg": "live nodes of the cluster", "data.rows.*.node_status": "ready", "data.rows.*.node_externalip": "not assigned",
        "data.rows.0.node_role": "control node", "data.rows.1.node_role": "worker node",
        "data.rows.0.available_cpu": "3.15 cores", "data.rows.1.available_cpu": "1.60 cores"}),
)
