"""How is the executor inside a compute centre called (the pcapi half)? It keeps nothing: what it acts on comes with the call.

Installing answers with its result, as the contract has it; with `async=1` it answers with a number that `operation` follows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from cloudsched.dialects.kboss import render, words
from cloudsched.dialects.kboss.calls import ABSENT, PCAPI, Answer, Call, Refusal, Route, no, ok, register_texts
from cloudsched.domain.labels import ACTIONS
from cloudsched.errors import CloudschedError, Forbidden, Unauthenticated, Unavailable
from cloudsched.services import operations
from cloudsched.services.centre import centre_calls, centre_clusters, executor
from cloudsched.services.centre.centre_calls import Local
from cloudsched.services.centre.executor import Access, Where

KINDS = {"": "kubernetes", "0": "kubernetes", "kubernetes": "kubernetes", "k8s": "kubernetes", "1": "slurm", "slurm": "slurm"}
_PATH = "/pcapi/api/v1/cluster/common"
Handler = Callable[[Call], Answer]


def kind_of(call: Call, *, default: str = "") -> str:
    """The kind of cluster that `cluster_type` names, 0 and 1 as well. Raises Refusal."""
    given = (call.text("cluster_type") or "").strip().lower()
    if not given and default:
        return default
    if given not in KINDS:
        raise Refusal("bad_word", field="cluster_type", value=given[:40], allowed="kubernetes, slurm, 0, 1")
    return KINDS[given]


def new_cluster(call: Call) -> Answer:
    """A host becomes the controller of a new cluster."""
    kind, access, options = kind_of(call), access_of(call), _options(call)
    role = call.word("role", ("master", "controller"), "master") or "master"
    if call.dry_run:
        return _planned(call, centre_calls.plan(access, worker=False, kind=kind, options=options))
    begun = _here(call).new_cluster(access, kind=kind, role=role, actor=call.actor,
                                    options=options, reference=_reference(call))
    return _installed(call, begun)


def new_worker(call: Call) -> Answer:
    """A host becomes a worker of the cluster that the join command names."""
    kind, access, options, join = kind_of(call), access_of(call), _options(call), call.required("join_command")
    role = call.word("role", ("worker",), "worker") or "worker"
    if call.dry_run:
        return _planned(call, centre_calls.plan(access, worker=True, kind=kind, options=options, join_command=join))
    begun = _here(call).new_worker(access, kind=kind, role=role, join_command=join, actor=call.actor,
                                   options=options, reference=_reference(call))
    return _installed(call, begun)


def take_apart(call: Call) -> Answer:
    """What made a host part of a cluster is taken off it."""
    kind, access, options = kind_of(call), access_of(call), _options(call)
    role = call.word("role", ("master", "controller", "worker"), "") or ""
    if call.dry_run:
        return _planned(call, centre_calls.plan_apart(access, kind=kind, role=role, options=options))
    begun = _here(call).take_apart(access, kind=kind, role=role, actor=call.actor, options=options, reference=_reference(call))
    return _installed(call, begun)


def operation(call: Call) -> Answer:
    """How far an installation is; with `result=1` also what it gave."""
    number = _own(call)
    progress = centre_calls.progress_of(number)
    found = operations.one(number)
    said = {name: words.told(value, call.language) if isinstance(value, str) else value
            for name, value in progress._asdict().items()}
    data = {"id": number, "kind": found["kind"], "state": found["state"], **said,
            "steps": words.steps(found["steps"], call.language), "created_at": found["created_at"], "ended_at": found["ended_at"]}
    if progress.ok and call.boolean("result"):
        data["result"] = Local(call.settings).result(number)
    return ok(call, "pcapi_ok", data)


def forget(call: Call) -> Answer:
    """What an installation gave is kept no more: whoever asked for it has written it down."""
    number = _own(call)
    if not call.dry_run:
        centre_calls.forget(number)
    return ok(call, "pcapi_ok", {"id": number})


def cancel(call: Call) -> Answer:
    """An installation stops before its next step."""
    number = _own(call)
    asked = False if call.dry_run else centre_calls.cancel(number, actor=call.actor)
    return ok(call, "pcapi_ok", {"id": number, "cancelled": asked})


def check_node(call: Call) -> Answer:
    """Could a node be taken out of its cluster? Refused as taking it out would be; nothing is done."""
    name, force = call.required("node_name").strip(), call.boolean("force")
    executor.delete_node(where_of(call), name, force=force, dry_run=True)
    return ok(call, "pcapi_ok", {"node_name": name, "force": force})


def nodes(call: Call) -> Answer:
    """The nodes of a cluster."""
    return ok(call, "pcapi_ok", _rows(executor.nodes(where_of(call))))


def pods(call: Call) -> Answer:
    """The pods of a cluster, or its jobs."""
    return ok(call, "pcapi_ok", _rows(executor.pods(where_of(call))))


def free_nodes(call: Call) -> Answer:
    """What is free on each node of a cluster."""
    return ok(call, "pcapi_ok", _rows([centre_calls.free_to(node) for node in executor.free_nodes(where_of(call))]))


def delete_node(call: Call) -> Answer:
    """A node is taken out of its cluster."""
    name = call.required("node_name").strip()
    where, force = where_of(call), call.boolean("force")
    executor.delete_node(where, name, force=force, **_tried(call))
    return ok(call, "pcapi_node_deleted", {"node_name": name, "force": force})


def switch(call: Call) -> Answer:
    """A node takes nothing new, or again."""
    state, where, drain = _state(call), where_of(call), call.boolean("drain")
    name = _node(call, where)
    executor.switch(where, name, state=state, drain=drain, **_tried(call))
    return ok(call, "pcapi_switched", {"state": state, "drain": drain})


def label(call: Call) -> Answer:
    """One label of a node is set, or taken away."""
    name, text = call.required("worker_node").strip(), call.required("label").strip()
    action, where = call.word("opt", ACTIONS) or call.required("opt"), where_of(call)
    executor.label(where, name, text, action, **_tried(call))
    return ok(call, "pcapi_labelled" if action == "label" else "pcapi_unlabelled", {})


# what a call acts on


def access_of(call: Call) -> Access:
    """The account on a host. Raises Refusal, Invalid."""
    for name in ("host", "user"):
        call.required(name)
    return executor.access_from(_given(call))


def where_of(call: Call) -> Where:
    """The cluster: by its kubeconfig, or the account on its controller. Raises Refusal, Invalid."""
    executor.configure(call.settings)
    if not (call.text("kubeconfig") or "").strip():
        call.required("host")
    given = (call.text("cluster_type") or "").strip()
    kind = {"cluster_type": kind_of(call)} if given else {}
    return executor.where_from({**_given(call), "kubeconfig": call.text("kubeconfig") or "", **kind})


def _given(call: Call) -> dict[str, Any]:
    port = (call.text("port") or "").strip()
    given = {"host": call.text("host"), "user": call.text("user"), "password": call.text("password"),
             "key": call.text("key"), "host_key": call.text("host_key"),
             # The contract's table calls it a boolean: those who sent one mean the usual port.
             "port": None if port.lower() in ("", "true", "false") else port}
    return {name: value for name, value in given.items() if value}


def _options(call: Call) -> dict[str, Any]:
    found = call.json("options", {})
    if not isinstance(found, Mapping):
        raise Refusal("bad_json", field="options", where="not an object")
    return dict(found)


def _reference(call: Call) -> str:
    """One organisation's word for an operation says nothing of another's."""
    text = call.text("reference", "", most=200) or ""
    whose = quote(call.org, safe="") or f"@{quote(call.actor, safe='')}"
    return f"asked:{whose}:{text}" if text else ""


def _here(call: Call) -> Local:
    return Local(call.settings, org=call.org)


def _own(call: Call) -> int:
    """The number of an operation that the caller may see: one of his organisation (his own, where it is of none);
    administrators and the configured pair see all. Raises Refusal, NotFound."""
    number = call.integer("id", low=1)
    if number is None:
        raise Refusal("missing", field="id")
    centre_calls.progress_of(number)
    found = operations.one(number)
    org = found["request"].get("org")
    own = org == call.caller.org if org else org is not None and found["actor"] == call.actor
    if not (own or call.caller.may("admin") or _is_pair(call)):
        raise Refusal("no_operation", id=number)
    return number


def _is_pair(call: Call) -> bool:
    """Was the configured name and password given? Every other caller without a key is an administrator."""
    section = call.settings.centres
    return bool(section.api_password) and call.caller.key_id is None and call.caller.name == (section.api_user or "pcapi")


def _tried(call: Call) -> dict[str, bool]:
    return {"dry_run": True} if call.dry_run else {}


def _state(call: Call) -> str:
    return call.word("state", executor.STATES) or call.required("state")


def _node(call: Call, where: Where) -> str:
    """The node that is meant; the contract names none: then it is the one at `host`."""
    given = (call.text("node_name") or call.text("worker_node") or "").strip()
    if given:
        return given
    host = (call.text("host") or "").strip()
    for row in executor.nodes(where):
        if host and host in (row["node_internalip"], row["node_externalip"], row["node_name"]):
            return row["node_name"]
    raise Refusal("missing", field="node_name")


def _rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"total": len(rows), "rows": rows}


# answers


def _planned(call: Call, plan: Mapping[str, Any]) -> Answer:
    return ok(call, "pcapi_ok", {**plan, "steps": words.steps(plan["steps"], call.language)})


def _installed(call: Call, number: int) -> Answer:
    """What installing gave: at once its number, or its end, waited for up to the limit."""
    if call.boolean("async"):
        return ok(call, "pcapi_ok", {"operation": number})
    ended = centre_clusters.wait(number, call.settings.centres.install_limit_s)
    if not ended.done:
        return no(call, "pcapi_failed_why", {"operation": number}, why=call.say("still_working", id=number))
    if not ended.ok:
        return no(call, "pcapi_failed_why", "", why=ended.error)
    found = _here(call).result(number)
    return ok(call, "pcapi_ok", " \n ".join(str(found[name]) for name in ("join_command", "kubeconfig") if found.get(name)))


def _failing(handler: Handler, key: str = "pcapi_failed_why", data: Callable[[Call], Any] = lambda call: "") -> Handler:
    """A handler whose refusals are told in the contract's words, with the reason behind, and the data that goes with them."""

    def handle(call: Call) -> Answer:
        try:
            return handler(call)
        except (Unauthenticated, Forbidden, Unavailable):
            raise
        except Refusal as error:
            if error.http != 200:
                raise
            return no(call, key, data(call) if error.data is ABSENT else error.data, why=render.told(error, call.language))
        except CloudschedError as error:
            return no(call, key, data(call), why=render.told(error, call.language))

    return handle


def _switched(call: Call) -> dict[str, Any]:
    return {"state": call.text("state") or "", "drain": _truth(call, "drain")}


def _deleted(call: Call) -> dict[str, Any]:
    return {"node_name": call.text("node_name") or "", "force": _truth(call, "force")}


def _truth(call: Call, name: str) -> bool:
    try:
        return call.boolean(name)
    except Refusal:
        return False


register_texts({
    "pcapi_ok": ("operate success", "operate success"),
    "pcapi_failed_why": ("operate failed: {why}", "operate failed: {why}"),
    "pcapi_switched": ("switch node success", "switch node success"),
    "pcapi_switch_failed": ("switch node failed: {why}", "switch node failed: {why}"),
    "pcapi_node_deleted": ("delete node success", "delete node success"),
    "pcapi_delete_failed": ("delete node failed: {why}", "delete node failed: {why}"),
    "pcapi_labelled": ("节点绑定标签成功", "node label set"),
    "pcapi_unlabelled": ("节点解绑标签成功", "node label taken away"),
    "pcapi_label_failed": ("节点标签设置失败: {why}", "the node's label could not be changed: {why}"),
    "pcapi_away": ("无法连接算力中心服务 {url}: {reason}", "the centre's pcapi at {url} cannot be reached: {reason}"),
    "pcapi_denied": ("算力中心服务 {url} 拒绝了账号或密码", "the centre's pcapi at {url} refuses the name and password"),
    "pcapi_strange": ("{url} 不是可识别的算力中心服务: {reason}", "what is at {url} is no pcapi that we know: {reason}"),
    "pcapi_said_no": ("{reason}", "{reason}"),
    "still_working": ("操作仍在进行, 请查询 operation?id={id}", "still at work, ask operation?id={id}"),
    "no_operation": ("操作不存在: {id}", "there is no operation {id}"),
})

ROUTES = (
    Route(f"{_PATH}/new_cluster", _failing(new_cluster), PCAPI),
    Route(f"{_PATH}/new_worker", _failing(new_worker), PCAPI),
    Route(f"{_PATH}/take_apart", _failing(take_apart), PCAPI),
    Route(f"{_PATH}/operation", _failing(operation), PCAPI, changes=False),
    Route(f"{_PATH}/{centre_calls.FORGET}", _failing(forget), PCAPI),
    Route(f"{_PATH}/{centre_calls.CANCEL}", _failing(cancel), PCAPI),
    Route(f"{_PATH}/{centre_calls.CHECK_NODE}", _failing(check_node), PCAPI, changes=False),
    Route(f"{_PATH}/get_cluster_nodes", _failing(nodes), PCAPI, changes=False),
    Route(f"{_PATH}/get_cluster_pods", _failing(pods), PCAPI, changes=False),
    Route(f"{_PATH}/free_nodes", _failing(free_nodes), PCAPI, changes=False),
    Route(f"{_PATH}/delete_cluster_node", _failing(delete_node, "pcapi_delete_failed", _deleted), PCAPI),
    Route(f"{_PATH}/node_state_switch", _failing(switch, "pcapi_switch_failed", _switched), PCAPI),
    Route(f"{_PATH}/node_label_opt", _failing(label, "pcapi_label_failed", lambda call: {}), PCAPI),
)

