"""How are resource instances bought, changed and given back by this API, and what do the live dashboards show?

Contract: `/dev/cpcc/cpcpodyaml/...`, get_cpcpod, get_cpcworker of the managing half; yaml_apply_delete of the executor's, with
two verbs beside it that managing servers of ours use.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from cloudsched.dialects.kboss import render, words
from cloudsched.dialects.kboss.calls import PCAPI, Answer, Call, Refusal, Route, no, ok, register_texts
from cloudsched.dialects.kboss.texts import EN
from cloudsched.domain.instances import FIELDS, Fault, InvalidInstance
from cloudsched.errors import CloudschedError
from cloudsched.services.centre import dashboards, instance_objects, instance_watch, instances
from cloudsched.services.centre.instances import Instance, NotDone, Planned

_PATH, _EXECUTOR = "/dev/cpcc/cpcpodyaml", "/pcapi/api/v1/cluster/common"
_EXECUTOR_FIELDS = (*FIELDS, "action", "id", "namespace_name", "serviceaccount_name", "podcd_name", "service_name", "clusterid",
                    "cpcid", "orgid", "source_authpasswd", "source_stopped", "kubeconfig", "what", "limit_s")
# What answers show of an instance, in the contract's order.
_NEW = ("pod_imagepath", "source_apiport", "source_authpasswd", "source_authuser", "source_cpurate", "source_insideport",
        "source_memrate", "source_mountpath", "source_name", "source_outsideport", "source_podengine", "source_portmode",
        "source_replicasetnum", "source_restartpolicy", "source_selflabel", "source_storagelimits", "source_nodeselector")
_CHANGED = (*_NEW[:15], "source_nodeselector", "source_storagelimits")
_LISTED = ("source_podengine", "source_replicasetnum", "pod_imagepath", "source_memrate", "source_cpurate", "source_selflabel",
           "source_portmode", "source_restartpolicy", "source_apiport", "source_insideport", "source_outsideport",
           "source_mountpath", "source_storagelimits", "instance_type", "source_nodeselector")
_BESIDE = ("source_gpu", "cpu_model", "gpu_model", "memory_model", "disk_sys_limit", "source_replicasetmax", "source_schedule")
_USER = re.compile(r"[\w.@+:-]{1,64}")
Handler = Callable[[Call], Answer]


def _told(handler: Handler) -> Handler:
    """Wrong fields and refusals of the cluster, in the caller's language."""

    @wraps(handler)
    def told(call: Call) -> Answer:
        try:
            return handler(call)
        except NotDone as error:
            return no(call, str(error.details["say"]), {"id": error.found.key, "state": error.found.state},
                      reason=_reason(call, error.cause))
        except InvalidInstance as error:
            return no(call, "instance_invalid", faults=_faults(call, error))

    return told


# -- the managing half -----------------------------------------------------------------------------------------


@_told
def new(call: Call) -> Answer:
    """Buy an instance; with `dry_run` its YAML."""
    cluster = call.required("clusterid").strip()
    instances.check_centre((call.text("cpcid") or "").strip(), cluster)
    who: dict[str, Any] = {"org": call.org, "user": _user(call), "actor": call.actor, "settings": call.settings}
    if call.dry_run:
        planned = instances.plan(_given(call), cluster_key=cluster, **who)
        return ok(call, "instance_planned", {**_made(call, planned.found), "yaml": planned.yaml})
    found = instances.add(_given(call), cluster_key=cluster, **who)
    return ok(call, "instance_new", _made(call, found))


def listed(call: Call) -> Answer:
    """The instances of a cluster as they were asked for."""
    centre, cluster = call.required("cpcid", "missing_centre_id").strip(), call.required("clusterid").strip()
    order, down = call.page.order(instances.COLUMNS, "id")
    total, rows = instances.listed(centre=centre, cluster=cluster, scope=call.scope, limit=call.page.rows,
                                   offset=call.page.offset, order=order, down=down)
    return ok(call, "instances_listed", call.page.numbered((_row(call, one) for one in rows), total))


@_told
def change(call: Call) -> Answer:
    """Change an instance; one that was stopped or failed is started with it."""
    key = _key(call)
    instances.check_centre((call.text("cpcid") or "").strip(), instances.find(key, scope=call.scope).cluster_key)
    changed = instances.change(key, _given(call), scope=call.scope, actor=call.actor, settings=call.settings,
                               force=call.boolean("force"), dry_run=call.dry_run)
    if isinstance(changed, Planned):
        return ok(call, "instance_planned", {**_updated(call, changed.found), "yaml": changed.yaml})
    return ok(call, "instance_changed", _updated(call, changed))


@_told
def remove(call: Call) -> Answer:
    """Take an instance away with everything of it."""
    key = call.required("id").strip()
    gone = instances.remove(key, scope=call.scope, actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    if call.dry_run:
        gone = [{**one, "action": call.say("instance_would_go")} for one in gone]
    return ok(call, "instance_removed", {"id": key}, more={"objects": gone})


@_told
def stop(call: Call) -> Answer:
    """Nothing of an instance runs any more; its data stays."""
    found = instances.stop(_key(call), scope=call.scope, actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    return ok(call, "instance_stopped", {"id": found.key, "state": found.state})


@_told
def start(call: Call) -> Answer:
    """A stopped or failed instance again, as it was asked for."""
    changed = instances.change(_key(call), {}, scope=call.scope, actor=call.actor, settings=call.settings, dry_run=call.dry_run)
    found = changed.found if isinstance(changed, Planned) else changed
    return ok(call, "instance_started", {"id": found.key, "state": found.state})


def pods(call: Call) -> Answer:
    """What runs in a cluster now."""
    return ok(call, "pods_seen", _paged(call, dashboards.pod_rows(_facts(call, dashboards.PODS), call.language)))


def nodes(call: Call) -> Answer:
    """The nodes of a cluster now, and what is left of them."""
    return ok(call, "nodes_seen", _paged(call, dashboards.node_rows(_facts(call, dashboards.NODES), call.language)))


def _facts(call: Call, what: str) -> list[dict[str, Any]]:
    centre, cluster = call.required("cpcid", "missing_centre_id").strip(), call.required("clusterid").strip()
    return dashboards.of_cluster(cluster, what, call.settings, centre_key=centre, scope=call.scope)


def _paged(call: Call, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """These lists have no row numbers in the contract."""
    paged = call.page.of(rows)
    return {**paged, "rows": [{key: value for key, value in row.items() if key != "row_num_"} for row in paged["rows"]]}


# -- the executor's half ---------------------------------------------------------------------------------------


def apply_delete(call: Call) -> Answer:
    """Have an instance's objects in the cluster that the kubeconfig leads to, or gone from it. `detail=1`: what was done."""
    try:
        done = instance_objects.yaml_apply_delete({**_executor_given(call), "dry_run": call.dry_run}, call.settings)
    except InvalidInstance as error:
        return no(call, "executor_failed", None, reason=_faults(call, error))
    except CloudschedError as error:
        if isinstance(error, Refusal):
            raise
        return no(call, "executor_failed", None, reason=_reason(call, error))
    return ok(call, "executor_done", done if call.boolean("detail") or call.dry_run else None)


def states(call: Call) -> Answer:
    """How the instances of a cluster are (asked by the managing server every few seconds)."""
    return ok(call, "executor_done", instance_watch.look(_executor_given(call), call.settings))


def usage(call: Call) -> Answer:
    """Facts of the pods or nodes of a cluster, for the dashboards of the managing server."""
    return ok(call, "executor_done", dashboards.look(_executor_given(call), call.settings))


def _executor_given(call: Call) -> dict[str, Any]:
    found = {name: call.text(name) for name in _EXECUTOR_FIELDS if call.given(name)}
    for name in ("cluster_type", "host", "port", "user", "psssword", "key", "host_key", "options"):
        if call.given(name):
            found[name] = call.text(name)
    return found


# -- rows ------------------------------------------------------------------------------------------------------


def _given(call: Call) -> dict[str, str | None]:
    names = (*FIELDS, "source_authpasswd", "clusterid")
    return {name: call.text(name) for name in names if call.given(name)}


def _user(call: Call) -> str:
    """Who buys: `userid`, or the caller. Raises Refusal."""
    user = (call.text("userid") or "").strip()
    if user and not _USER.fullmatch(user):
        raise Refusal("bad_userid", field="userid", value=user[:80])
    return user or call.actor


def _key(call: Call) -> str:
    """The instance's id; without one the only instance of that name in the cluster."""
    key = (call.text("id", most=100) or "").strip()
    if key:
        return key
    cluster, name = call.required("clusterid").strip(), call.required("source_name", "instance_which")
    found = [one for one in instances.listed(cluster=cluster, scope=call.scope)[1] if one.name == name.strip()]
    if len(found) != 1:
        raise Refusal("instance_which", field="id")
    return found[0].key


def _fields(call: Call, found: Instance) -> dict[str, Any]:
    fields = found.asked
    fields["source_authpasswd"] = call.secret(found.password)
    if found.node_port:
        fields["source_outsideport"] = found.node_port
    return fields


def _made(call: Call, found: Instance) -> dict[str, Any]:
    fields = {name: str(value) for name, value in _fields(call, found).items()}
    return {"action": "apply", "namespace_name": found.namespace, "serviceaccount_name": found.account,
            "podcd_name": found.controller, "service_name": found.service, "instance_type": fields["instance_type"],
            "clusterid": found.cluster_key, "orgid": found.org, **{name: fields[name] for name in _NEW}, "id": found.key,
            "cpcid": found.centre_key}


def _updated(call: Call, found: Instance) -> dict[str, Any]:
    fields = {name: str(value) for name, value in _fields(call, found).items()}
    return {"clusterid": found.cluster_key, "cpcid": found.centre_key, "id": found.key, "instance_type": fields["instance_type"],
            "orgid": found.org, **{name: fields[name] for name in _CHANGED}}


def _row(call: Call, found: Instance) -> dict[str, Any]:
    fields = _fields(call, found)
    row = {"id": found.key, "namespace_name": found.namespace, "serviceaccount_name": found.account,
           "podcd_name": found.controller, "service_name": found.service, "clusterid": found.cluster_key,
           "cpcid": found.centre_key, "source_name": found.name, "source_authuser": fields["source_authuser"],
           "source_authpasswd": fields["source_authpasswd"]}
    for name in _LISTED:
        row[name] = fields[name]
    row["username"] = found.user
    for name in _BESIDE:
        row[name] = fields.get(name, "")
    row |= {"orgid": found.org, "state": found.state, "state_text": _TEXTS[f"instance_state_{found.state}"][call.language == EN],
            "live": found.live, "reason": words.told(found.reason, call.language)}
    return row


def _faults(call: Call, error: InvalidInstance) -> str:
    return "; ".join(_fault(call, one) for one in error.faults)


def _fault(call: Call, one: Fault) -> str:
    said = call.say(f"instance_{one.sort}", field=one.field, given=one.given)
    return said + (call.say("instance_allowed", allowed=one.allowed) if one.allowed else "")


def _reason(call: Call, error: CloudschedError) -> str:
    return _faults(call, error) if isinstance(error, InvalidInstance) else render.told(error, call.language)


_TEXTS: Mapping[str, tuple[str, str]] = {
    "instance_new": ("新增资源实例参数成功,请10秒后查看实时资源实例面板",
                     "resource instance added; look at the live dashboard in 10 seconds"),
    "instances_listed": ("获取资源实例静态配置成功", "resource instances listed"),
    "instance_changed": ("资源参数更新成功,请10秒后查看实时资源实例面板",
                         "resource instance updated; look at the live dashboard in 10 seconds"),
    "instance_removed": ("级联删除集群资源成功,请10秒后查看实时资源实例面板",
                         "resource instance deleted with everything of it; look at the live dashboard in 10 seconds"),
    "instance_would_go": ("将删除", "would be deleted"),
    "instance_planned": ("参数校验通过, 未执行任何操作", "everything is right; nothing was done"),
    "instance_stopped": ("资源实例已停止", "resource instance stopped"),
    "instance_started": ("资源实例已启动", "resource instance started"),
    "pods_seen": ("获取集群实时资源实例成功", "live resource instances of the cluster"),
    "nodes_seen": ("获取集群实时成员节点成功", "live nodes of the cluster"),
    "executor_done": ("operate success", "operate success"),
    "executor_failed": ("operate failed: {reason}", "operate failed: {reason}"),
    "no_instance": ("资源实例不存在: {id}", "there is no resource instance {id}"),
    "instance_which": ("缺少参数: id (该名称的资源实例不唯一或不存在)", "parameter missing: id (the name does not tell which)"),
    "bad_userid": ("参数 {field} 错误: {value} (允许: 1到64个字母、数字或 . _ - @ + :)",
                   "parameter {field}: {value} (allowed: 1 to 64 letters, digits and . _ - @ + :)"),
    "not_its_centre": ("算力集群 {cluster} 不属于算力中心 {centre}", "cluster {cluster} is not of the compute centre {centre}"),
    "instance_kind": ("集群 {name} 的类型是 {sort}, 资源实例需要kubernetes集群",
                      "cluster {name} is a {sort} cluster: resource instances need a Kubernetes cluster"),
    "instance_busy": ("资源实例 {id} 正在变更中 (状态: {state}), 请稍后再试",
                      "resource instance {id} is being changed (state {state})"),
    "instance_not_applied": ("资源实例部署失败, 库存已退回: {reason}",
                             "the cluster did not do it, the stock is given back: {reason}"),
    "instance_left_over": ("资源实例删除未完成, 将自动重试: {reason}", "something is left, it is tried again: {reason}"),
    "instance_invalid": ("参数错误: {faults}", "wrong parameters: {faults}"),
    "instance_missing": ("缺少参数 {field}", "parameter {field} is missing"),
    "instance_choice": ("参数 {field} 的值 {given} 不可用", "parameter {field}: {given} cannot be used"),
    "instance_quantity": ("参数 {field} 的值 {given} 不是有效数量", "parameter {field}: {given} is no quantity"),
    "instance_range": ("参数 {field} 的值 {given} 超出范围", "parameter {field}: {given} is out of range"),
    "instance_form": ("参数 {field} 的值 {given} 格式错误", "parameter {field}: {given} has not the right form"),
    "instance_clash": ("参数 {field} 的值 {given} 已被占用", "parameter {field}: {given} is taken"),
    "instance_fixed": ("参数 {field} 不能修改为 {given}", "parameter {field} cannot be changed to {given}"),
    "instance_allowed": (" (允许: {allowed})", " (allowed: {allowed})"),
    "instance_state_wanted": ("部署中", "being deployed"), "instance_state_applied": ("已部署", "deployed"),
    "instance_state_failed": ("部署失败", "failed"), "instance_state_stopped": ("已停止", "stopped"),
    "instance_state_deleting": ("删除中", "being deleted"),
}
register_texts(_TEXTS)

ROUTES = (
    Route(f"{_PATH}/new_cpcpodyaml.dspy", new),
    Route(f"{_PATH}/get_cpcpodyaml.dspy", listed, role="viewer"),
    Route(f"{_PATH}/update_cpcpodyaml.dspy", change),
    Route(f"{_PATH}/delete_cpcpodyaml.dspy", remove),
    Route(f"{_PATH}/stop_cpcpodyaml.dspy", stop),
    Route(f"{_PATH}/start_cpcpodyaml.dspy", start),
    Route("/dev/cpcc/cpcpod/get_cpcpod.dspy", pods, role="viewer"),
    Route("/dev/cpcc/cpcworker/get_cpcworker.dspy", nodes, role="viewer"),
    Route(f"{_EXECUTOR}/yaml_apply_delete", apply_delete, half=PCAPI),
    Route(f"{_EXECUTOR}/{instance_watch.STATES}", states, half=PCAPI, changes=False),
    Route(f"{_EXECUTOR}/{dashboards.USAGE}", usage, half=PCAPI, changes=False),
)
