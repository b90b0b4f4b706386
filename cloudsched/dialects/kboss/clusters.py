"""How are clusters of a centre listed, made, changed and taken apart by this API, and workers added and removed?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudsched.dialects.kboss import words
from cloudsched.dialects.kboss.calls import Answer, Call, Refusal, Route, no, ok, register_texts
from cloudsched.dialects.kboss.pcapi import kind_of
from cloudsched.domain.entities import Cluster
from cloudsched.sealed import SealError
from cloudsched.services import operations
from cloudsched.services.centre import centre_calls, centre_clusters, centre_hosts, centres
from cloudsched.services.centre.centre_clusters import Begun

TYPES = {"kubernetes": "0", "slurm": "1"}
_PATH = "/dev/cpcc/cpccluster"


def listed(call: Call) -> Answer:
    """The clusters of a centre; `all=1`: also those that have ended."""
    centre = centres.find(call.required("cpcid", "missing_centre_id").strip(), scope=call.scope)
    addresses = {host.key: host.ip for host in centre_hosts.of_centre(centre)}
    rows = [_row(call, centre.key, cluster, addresses)
            for cluster in centre_clusters.listed(centre, history=call.boolean("all"))]
    return ok(call, "clusters_listed", call.page.of(rows))


def new(call: Call) -> Answer:
    """An idle machine becomes the controller of a new cluster."""
    centre = centres.find(call.required("cpcid", "missing_centre_id").strip(), scope=call.scope)
    host = centre_hosts.find_host(call.required("ctl_nodeid").strip(), centre=centre)
    call.required("cluster_type")
    kind, options = kind_of(call), _options(call)
    begun = centre_clusters.new(
        centre, host, kind=kind, name=call.required("cluster_name"), enable_date=call.text("enable_date") or "",
        export_date=call.text("export_date") or "", options=options, actor=call.actor, settings=call.settings,
        dry_run=call.dry_run)
    if call.dry_run:
        plan = centre_calls.plan(centre_calls.access_of(host, call.settings), worker=False, kind=kind,
                                 options=centre_clusters.options_for(begun.cluster, begun.host, {}))
        return ok(call, "cluster_planned", {**_host(begun), "cluster_name": begun.cluster.name,
                                           "steps": words.steps(plan["steps"], call.language)})
    return _waited(call, begun, "cluster_made")


def change(call: Call) -> Answer:
    """Another name or other days of a cluster; nothing else of it changes."""
    cluster = _cluster(call, "id")
    controller = centre_clusters.spec_of(cluster).get("controllerid", "")
    if call.text("controllerid") and (call.text("controllerid") or "").strip() != controller:
        raise Refusal("cluster_fixed", field="controllerid")
    if call.text("cluster_type") and kind_of(call) != cluster.kind:
        raise Refusal("cluster_fixed", field="cluster_type")
    if not _same_join(call, cluster):
        raise Refusal("cluster_fixed", field="clusterjoin")
    given = {name: value for name in ("name", "enable_date", "export_date") if (value := call.text(name, most=4096)) is not None}
    changed = centre_clusters.change(cluster, given, actor=call.actor, dry_run=call.dry_run)
    spec = centre_clusters.spec_of(changed)
    return ok(call, "cluster_changed", {
        "id": changed.key, "cpcid": centre_clusters.centre_of(changed).key, "name": changed.name,
        "enable_date": spec["enable_date"], "export_date": spec["export_date"]})


def delete(call: Call) -> Answer:
    """A cluster is taken apart; its machines become idle."""
    cluster = _cluster(call, "id")
    begun = centre_clusters.delete(cluster, force=call.boolean("force"), actor=call.actor, dry_run=call.dry_run)
    data = {"id": cluster.key, **({"cancelled": list(begun.stopped)} if begun.stopped else {})}
    if call.dry_run:
        return _removal_planned(call, cluster, data)
    if begun.stopped and call.boolean("async"):
        return ok(call, "cluster_cancelled", {**data, "operation": begun.operation, "ready": 0})
    answer = _waited(call, begun, "cluster_deleted", data)
    left = centre_clusters.left_of(begun.operation) if answer.status and not call.boolean("async") else []
    left = [words.told(one, call.language) for one in left]
    return ok(call, "cluster_deleted_left", {**data, "left": left}, left="; ".join(left)) if left else answer


def _removal_planned(call: Call, cluster: Cluster, data: dict[str, Any]) -> Answer:
    """What taking a cluster apart would cancel, and which hosts and instances it would touch."""
    hosts = centre_clusters.hosts_in(cluster)
    instances = centre_clusters.count_instances(cluster)
    data |= {"hosts": [{"id": host.key, "name": host.name, "ip": host.ip, "role": host.role} for host in hosts],
             "instances": instances}
    said = [call.say("cluster_would_cancel", operations=", ".join(map(str, data["cancelled"])))] if "cancelled" in data else []
    said += [call.say("cluster_would_clean", hosts=", ".join(host.name for host in hosts))] if hosts else []
    said += [call.say("cluster_would_delete", count=instances)] if instances else []
    return ok(call, "cluster_removal_planned", data, plan="; ".join(said)) if said else ok(call, "cluster_deleted", data)


def new_worker(call: Call) -> Answer:
    """An idle machine becomes a worker of a cluster."""
    cluster = _cluster(call, "clusterid")
    host = centre_hosts.find_host(call.required("worker_nodeid").strip(), centre=centre_clusters.centre_of(cluster))
    options = _options(call)
    begun = centre_clusters.new_worker(cluster, host, options=options, actor=call.actor, settings=call.settings,
                                       dry_run=call.dry_run)
    if call.dry_run:
        join = centre_clusters.secrets_of(cluster, call.settings).get("join_command", "")
        steps = centre_calls.worker_steps(
            centre_clusters.centre_of(cluster), centre_calls.access_of(host, call.settings), kind=cluster.kind,
            options=centre_clusters.options_for(begun.cluster, begun.host, options), join_command=join, settings=call.settings)
        return ok(call, "cluster_planned", {**_host(begun), "steps": words.steps(steps, call.language)})
    return _waited(call, begun, "worker_added")


def delete_worker(call: Call) -> Answer:
    """A worker is drained and taken out of its cluster; its machine becomes idle."""
    cluster = _cluster(call, "clusterid")
    name = (call.text("worker_nodeid") or call.text("worker_node") or call.text("node_name") or "").strip()
    if not name:
        raise Refusal("missing", field="worker_nodeid")
    host = centre_clusters.host_named(cluster, name)
    begun = centre_clusters.delete_worker(cluster, host, force=call.boolean("force"), actor=call.actor, dry_run=call.dry_run)
    data = {"id": host.key, "clusterid": cluster.key, "cpcid": host.centre_key}
    if call.dry_run:
        checked = centre_clusters.check_worker_idle(cluster, host, call.settings, force=call.boolean("force"))
        return ok(call, "worker_removed", data if checked else {**data, "checked": False})
    return _waited(call, begun, "worker_removed", {**data, "node_status": "0"})


def switch(call: Call) -> Answer:
    """A node of a cluster takes nothing new, or again."""
    cluster = _cluster(call, "clusterid")
    name, state = call.required("worker_node").strip(), call.word("state", ("cordon", "uncordon")) or call.required("state")
    drain = call.boolean("drain")
    centre_clusters.switch(cluster, name, state=state, drain=drain, actor=call.actor, settings=call.settings,
                           dry_run=call.dry_run)
    return ok(call, "node_switched", {"clusterid": cluster.key, "worker_node": name, "state": state, "drain": drain})


def operation(call: Call) -> Answer:
    """How far something long is that a call began."""
    number = call.integer("id", low=1)
    if number is None:
        raise Refusal("missing", field="id")
    found = operations.one(number)
    cluster = centre_clusters.of_operation(found, scope=call.scope)
    return ok(call, "operation_shown", {
        "id": number, "clusterid": cluster.key, "kind": found["kind"], "state": found["state"],
        "steps": words.steps(found["steps"], call.language),
        "error": found["error"] and words.told(found["error"], call.language),
        "created_at": found["created_at"], "ended_at": found["ended_at"]})


def _cluster(call: Call, name: str) -> Cluster:
    key = call.required(name, "missing_cluster_id").strip()
    return centre_clusters.find(key, centre_key=(call.text("cpcid") or "").strip(), scope=call.scope)


def _same_join(call: Call, cluster: Cluster) -> bool:
    """Is the join command that was given, in the clear or as it was read, the cluster's? None was given: it is."""
    given = (call.text("clusterjoin") or "").strip()
    kept = centre_clusters.secrets_of(cluster, call.settings).get("join_command", "")
    if not given or given == kept:
        return True
    try:
        return centres.opened(given, call.settings) == kept
    except SealError:
        return False


def _options(call: Call) -> dict[str, Any]:
    found = call.json("options", {})
    if not isinstance(found, Mapping):
        raise Refusal("bad_json", field="options", where="not an object")
    return dict(found)


def _waited(call: Call, begun: Begun, key: str, data: dict[str, Any] | None = None) -> Answer:
    """The answer when it is done; at once with `async=1`, and when the limit is over."""
    if call.boolean("async"):
        return ok(call, "operation_begun", {**(data or _host(begun)), "operation": begun.operation, "ready": 0})
    ended = centre_clusters.wait(begun.operation, call.settings.centres.install_limit_s)
    if not ended.done:
        return no(call, "operation_late", {"operation": begun.operation, "clusterid": begun.cluster.key},
                  id=begun.operation)
    if not ended.ok:
        return no(call, "centre_failed", why=ended.error)
    cluster = centre_clusters.find(begun.cluster.key)
    join = centre_clusters.secrets_of(cluster, call.settings).get("join_command", "")
    return ok(call, key, data or _host(begun), join=_hidden(call, join))


def _host(begun: Begun) -> dict[str, Any]:
    host = begun.host
    return {"id": host.key, "node_status": host.node_status, "clusterid": begun.cluster.key, "cpcid": host.centre_key,
            "role": host.role}


def _hidden(call: Call, text: str) -> str:
    """A secret as it may be shown (contract: reads give the encrypted token)."""
    return call.secret(centres.seal(text, call.settings))


def _row(call: Call, centre_key: str, cluster: Cluster, addresses: Mapping[str, str]) -> dict[str, Any]:
    spec, secrets = centre_clusters.spec_of(cluster), centre_clusters.secrets_of(cluster, call.settings)
    controller = str(spec.get("controllerid", ""))
    return {
        "id": cluster.key, "name": cluster.name, "cpcid": centre_key, "clustertype": TYPES[cluster.kind],
        "controllerid": controller, "enable_date": spec.get("enable_date", ""), "export_date": spec.get("export_date", ""),
        "clusterjoin": _hidden(call, secrets.get("join_command", "")), "kubeconfig": _hidden(call, secrets.get("kubeconfig", "")),
        "clustertype_text": cluster.kind, "controllerid_text": addresses.get(controller, cluster.address),
        "ready": int(centre_clusters.is_ready(cluster)), "state": cluster.state,
    }


register_texts({
    "clusters_listed": ("获取算力集群成功", "clusters listed"),
    "cluster_made": ("操作成功!\n加入集群凭证: {join}", "done\njoin command: {join}"),
    "cluster_planned": ("操作可行", "this can be done"),
    "cluster_changed": ("更新算力集群成功", "cluster updated"),
    "cluster_deleted": ("移除算力集群成功", "cluster removed"),
    "cluster_removal_planned": ("移除算力集群: {plan}", "removing the cluster: {plan}"),
    "cluster_would_cancel": ("将取消操作 {operations}", "operations {operations} would be cancelled"),
    "cluster_would_clean": ("将清理并释放设备 {hosts}", "these hosts would be taken apart and set free: {hosts}"),
    "cluster_would_delete": ("将删除 {count} 个资源实例", "{count} resource instances would be deleted"),
    "worker_added": ("新增工作节点成功", "worker added"),
    "worker_removed": ("移除工作节点成功", "worker removed"),
    "node_switched": ("切换节点状态成功", "node switched"),
    "operation_shown": ("获取操作进度成功", "operation shown"),
    "operation_begun": ("操作已开始, 请稍后查看", "begun, look again later"),
    "operation_late": ("操作仍在进行 (操作编号: {id}), 请稍后查看", "still at work as operation {id}, look again later"),
    "centre_failed": ("算力中心服务操作失败: {why}", "the compute centre failed: {why}"),
    "missing_cluster_id": ("无算力集群ID", "no cluster id"),
    "no_cluster": ("算力集群不存在: {id}", "there is no cluster {id}"),
    "no_node": ("集群 {name} 没有节点 {node}", "cluster {name} has no node {node}"),
    "not_a_worker": ("设备 {name} 不是集群 {cluster} 的工作节点", "device {name} is no worker of cluster {cluster}"),
    "cluster_exists": ("该算力中心已有同名集群: {name}", "there is a cluster named {name} in this centre"),
    "cluster_not_ready": ("集群 {name} 未就绪", "cluster {name} is not ready"),
    "cluster_installing": ("集群 {name} 未就绪: 正在安装, 不能移除 (可用 force=1 取消安装并移除)",
                           "cluster {name} is being installed and stays (force=1 cancels that and removes it)"),
    "cluster_cancelled": ("已取消正在进行的操作, 正在移除集群; 无法连接的设备上可能有残留, 请稍后查看操作进度",
                          "what was under way is cancelled and the cluster is being removed; hosts that cannot be reached may "
                          "keep something: the operation tells which"),
    "cluster_deleted_left": ("移除算力集群成功, 但以下设备未能清理, 可能有残留: {left}",
                             "cluster removed; on these hosts something may be left: {left}"),
    "cluster_gone": ("集群 {name} 已移除", "cluster {name} is gone"),
    "cluster_in_use": ("集群 {name} 还有 {instances} 个资源实例, 不能移除 (可用 force=1)",
                       "cluster {name} has {instances} resource instances and stays (unless force=1)"),
    "cluster_fixed": ("参数 {field} 不允许修改", "{field} of a cluster cannot be changed"),
})

ROUTES = (
    Route(f"{_PATH}/get_cpccluster.dspy", listed, role="viewer"),
    Route(f"{_PATH}/new_cluster.dspy", new),
    Route(f"{_PATH}/update_cpccluster.dspy", change),
    Route("/computing/cpcluster_delete.dspy", delete),
    Route(f"{_PATH}/get_operation.dspy", operation, role="viewer"),
    Route("/dev/cpcc/cpcworker/new_cpcworker.dspy", new_worker),
    Route("/dev/cpcc/cpcworker/delete_cpcworker.dspy", delete_worker),
    Route("/dev/cpcc/cpcworker/switch_cpcworker.dspy", switch),
)

