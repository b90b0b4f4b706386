"""The contract's examples of the executor inside a compute centre."""

from __future__ import annotations

import json
from typing import Any

import paramiko

from cloudsched import clock
from tests.dialects.kboss.seed.form import EXAMPLES, Differs, Entry
from tests.dialects.kboss.seed.instances import GIVEN
from tests.dialects.kboss.seed.quotes import product
from tests.dialects.kboss.seed.world import CENTRE, CLUSTER, COMMON, JOIN, KUBECONFIG, NODE, SSH, SWAP, SWAP_ZH, World

_LABEL, _NEW, _WORKER, _DELETE, _SWITCH, _APPLY = (f"POST {COMMON}/{name}" for name in (
    "node_label_opt", "new_cluster", "new_worker", "delete_cluster_node", "node_state_switch", "yaml_apply_delete"))
_FIT, _PODS, _NODES = (f"GET {COMMON}/{name}" for name in ("determine_accommodat", "get_cluster_pods", "get_cluster_nodes"))
_WHY = "the message says why: it names the field, host or object (contract: calls)"
_PASTED = "the contract's example is another route's, pasted here"
_NAMES = {name: GIVEN.get(name) or EXAMPLES["POST /dev/cpcc/cpcpodyaml/new_cpcpodyaml.dspy"]["answers"][0]["data"].get(name)
          for name in EXAMPLES[_APPLY]["parameters"]}
_INSTANCE: dict[str, Any] = {**_NAMES, **SSH, "cluster_type": "kubernetes", "action": "apply", "cpcid": CENTRE,
                             "clusterid": CLUSTER, "kubeconfig": ""}
_LABELLED = {**SSH, "port": "true", "worker_node": NODE, "label": "kyy-gpu=false", "opt": "label"}
_LEAVING = {**SSH, "node_name": NODE, "force": "true"}
_SWITCHED = {**SSH, "port": "true", "state": "cordon", "darin": "false"}
_HOST = {**SSH, "cluster_type": "kubernetes"}
_GREY = ("置灰产品id_2", "置灰产品id_3", "置灰产品id_4")


def _nothing(world: World) -> None:
    """The far end is there already."""


def _nodes(world: World) -> None:
    now = clock.now()
    world.hosts.nodes = [_node("k8s-master", "192.168.0.3", now - 5 * 86400 - 18 * 3600 - 60, controller=True),
                         _node(NODE, "192.168.0.2", now - 21 * 3600 - 60)]


def _node(name: str, address: str, created: float, *, controller: bool = False) -> dict[str, Any]:
    role = {"node-role.kubernetes.io/control-plane": ""} if controller else {}
    return {"metadata": {"name": name, "labels": role, "creationTimestamp": clock.rfc3339(created)}, "status": {
        "conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "InternalIP", "address": address}],
        "nodeInfo": {"kubeletVersion": "v1.28.2", "osImage": "Ubuntu 22.04.1 LTS", "kernelVersion": "5.15.0-91-generic",
                     "containerRuntimeVersion": "containerd://1.7.24"}}}


def _pods(world: World) -> None:
    created = clock.rfc3339(clock.now() - 17 * 3600 - 60)
    world.hosts.pods = [
        {"metadata": {"name": f"mysql-deployment-{end}", "namespace": "my-namespace", "creationTimestamp": created},
         "spec": {"nodeName": NODE, "containers": [{}]}, "status": {"phase": "Pending", "podIP": address, "containerStatuses": [
             {"ready": False, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}
        for end, address in (("548dbbfc8f-dxltl", "10.244.5.3"), ("6fc6584bd6-6prqc", "10.244.5.6"))]


def _three_do_not_fit(world: World) -> dict[str, Any]:
    world.kube.add_node("node-0", cores=8)
    return {"kubeconfig": world.kube.kubeconfig()}


def _kubeconfig(world: World) -> dict[str, Any]:
    world.kube.add_node("node-0", labels={"kyy-gpu": "false"})
    return {"kubeconfig": world.kube.kubeconfig()}


def _gone(world: World) -> None:
    _nodes(world)
    world.hosts.errors = dict.fromkeys(("label", "drain", "uncordon", "get"), _FOREIGN)


_FOREIGN = f'Error from server (NotFound): nodes "{NODE}" not found'


def _swap_is_on(world: World) -> None:
    world.hosts.errors["step"] = SWAP


def _wrong_password(world: World) -> None:
    world.hosts.refuses = paramiko.AuthenticationException("Authentication failed.")


def _silent(world: World) -> None:
    world.hosts.refuses = TimeoutError()


def _no_cluster(world: World) -> None:
    world.hosts.installed = ""


_SWAP = f"operate failed: 192.168.0.3: look at the host: {SWAP}"
_SWAP_ZH = f"operate failed: 192.168.0.3: 检查主机: {SWAP_ZH}"
_NO_HOST = {"info": "operate failed: parameter missing: host"}
_MISSING = (Differs("info", "operate failed: 缺少参数: host", _WHY),)
_MUCH = {**_INSTANCE, "source_cpurate": "much"}

ENTRIES = (
    Entry(_LABEL, 1, _LABELLED, _nothing, {"info": "node label set"}),
    Entry(_LABEL, 1, {**_LABELLED, "opt": "unlabel"}, _nothing, {"info": "node label taken away"},
          (Differs("info", "节点解绑标签成功", "the label is taken away here"),), name="unlabel"),
    Entry(_LABEL, 2, _LABELLED, _gone, {"info": f"the node's label could not be changed: 192.168.0.3: {_FOREIGN}"}, (
        Differs("info", f"节点标签设置失败: 192.168.0.3: 「{_FOREIGN}」", _PASTED), Differs("data", {}, _PASTED)),
        foreign=(_FOREIGN,)),
    Entry(_FIT, 1, {"kubeconfig": "", "resources": json.dumps([product("fits", 4), *(product(key, 16) for key in _GREY)],
                                                              ensure_ascii=False)},
          _three_do_not_fit, {}),
    Entry(_NEW, 1, {**_HOST, "role": "master"}, _nothing, {}, (
        Differs("data", f"{JOIN} \n {KUBECONFIG}", "the contract's has lost its lines, and its hash is blacked out"),)),
    Entry(_NEW, 2, {**_HOST, "role": "master"}, _swap_is_on, {"info": _SWAP}, (Differs("info", _SWAP_ZH, _WHY),)),
    Entry(_WORKER, 1, {**_HOST, "role": "worker", "join_command": JOIN}, _nothing, {}),
    Entry(_WORKER, 2, {**_HOST, "role": "worker", "join_command": JOIN}, _swap_is_on, {"info": _SWAP},
          (Differs("info", _SWAP_ZH, _WHY),)),
    Entry(_PODS, 1, SSH, _pods, {}),
    Entry(_PODS, 2, SSH, _wrong_password, {
        "info": "operate failed: 192.168.0.3: user root is not let in with the password"}, (
        Differs("info", "operate failed: 192.168.0.3: 用户 root 登录被拒绝 (已尝试: 密码)", _WHY),)),
    Entry(_PODS, 2, {**SSH, "host": ""}, _nothing, _NO_HOST, _MISSING, name="missing"),
    Entry(_NODES, 1, SSH, _nodes, {}),
    Entry(_NODES, 2, SSH, _silent, {"info": "operate failed: 192.168.0.3: no answer within 10 s"}, (
        Differs("info", "operate failed: 192.168.0.3: 10 秒内没有回答", _WHY),)),
    Entry(_NODES, 2, SSH, _no_cluster, {"info": "operate failed: 192.168.0.3: no cluster is installed on this host"}, (
        Differs("info", "operate failed: 192.168.0.3: 该主机上没有安装集群", _WHY),), name="no-cluster"),
    Entry(_NODES, 2, {**SSH, "host": ""}, _nothing, _NO_HOST, _MISSING, name="missing"),
    Entry(_DELETE, 1, _LEAVING, _nodes, {}),
    Entry(_DELETE, 2, _LEAVING, _gone, {"info": f"delete node failed: 192.168.0.3: {_FOREIGN}"}, (
        Differs("info", f"delete node failed: 192.168.0.3: 「{_FOREIGN}」", _WHY),), foreign=(_FOREIGN,)),
    Entry(_SWITCH, 1, _SWITCHED, _nodes, {}),
    Entry(_SWITCH, 2, {**_SWITCHED, "state": "uncordon", "node_name": NODE}, _gone,
          {"info": f"switch node failed: 192.168.0.3: {_FOREIGN}"},
          (Differs("info", f"switch node failed: 192.168.0.3: 「{_FOREIGN}」", _WHY),), foreign=(_FOREIGN,)),
    Entry(_APPLY, 1, _INSTANCE, _kubeconfig, {}),
    Entry(_APPLY, 2, _MUCH, _kubeconfig, {
        "info": "operate failed: parameter source_cpurate: much is no quantity (allowed: 500m, 2, 0.5)"}, (
        Differs("info", "operate failed: 参数 source_cpurate 的值 much 不是有效数量 (允许: 500m, 2, 0.5)", _WHY),)),
)
