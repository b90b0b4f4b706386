"""Who does what a compute centre is asked to do? This process, or the pcapi of a server elsewhere, with the same verbs.

`executor_for(centre)` answers the one or the other; whoever calls does not see which. `call` is for verbs beyond those below:
`register_verb` says what does them here, the pcapi route of that name does them there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from cloudsched import clock
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.installing.access import Access
from cloudsched.drivers.pcapi import Pcapi
from cloudsched.errors import CloudschedError, Conflict, Invalid, NotFound
from cloudsched.services.centre import executor
from cloudsched.services.centre.centres import is_local, opened, refused
from cloudsched.services.centre.executor import Where
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import operations
from cloudsched.store.centres import Centre, Host
from cloudsched.store.db import Tx, write

__all__ = ["CANCEL", "CHECK_NODE", "ENDED", "FORGET", "Access", "Executor", "Local", "Progress", "Remote",
           "Where", "access_of", "cancel", "executor_for", "forget", "free_from", "free_to", "once",
           "options_of", "plan", "plan_apart", "progress_of", "register_verb", "to_params", "worker_steps"]
Params = Mapping[str, Any]
DRAIN_LIMIT_S = 600.0
EXECUTOR_KINDS = "hosts."
FORGET, CANCEL, CHECK_NODE = "forget", "cancel", "check_node"
ENDED = ("succeeded", "failed", "cancelled")
_verbs: dict[str, Callable[[Params, Settings], Any]] = {}


class Progress(NamedTuple):
    """How far an operation of the executor is. `detail`: the step it is at; `error`: why it failed."""

    done: bool
    ok: bool = False
    detail: str = ""
    error: str = ""


class Executor(Protocol):
    """What a centre can be asked. All raise CloudschedError whose message names host and step, never a secret."""

    def new_cluster(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        """Begin to make a host the controller of a new cluster; the operation's number. The same `reference` begins it once."""

    def new_worker(self, access: Access, *, kind: str, role: str, join_command: str, actor: str, options: Params,
                   reference: str) -> int:
        """Begin to make a host a worker of the cluster that the join command names."""

    def take_apart(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        """Begin to take from a host what made it part of a cluster."""

    def progress(self, operation: int) -> Progress:
        """How far it is. Raises NotFound for an operation that is not there."""

    def result(self, operation: int) -> dict[str, Any]:
        """What it gave: `join_command`, `kubeconfig`, `node_name`, ... in the clear."""

    def nodes(self, where: Where) -> list[dict[str, Any]]:
        """The nodes of a cluster (contract: get_cluster_nodes)."""

    def pods(self, where: Where) -> list[dict[str, Any]]:
        """The pods, or jobs, of a cluster (contract: get_cluster_pods)."""

    def switch(self, where: Where, node: str, *, state: str, drain: bool) -> dict[str, Any]:
        """cordon or uncordon a node; `drain`: what runs there goes elsewhere."""

    def delete_node(self, where: Where, node: str, *, force: bool) -> dict[str, Any]:
        """Take a node out of a cluster; without `force` only when nothing runs there."""

    def label(self, where: Where, node: str, label: str, action: str) -> dict[str, Any]:
        """Set a label of a node, or take it away."""

    def free_nodes(self, where: Where) -> list[NodeFree]:
        """What is free on each node of a cluster."""

    def call(self, verb: str, params: Params, *, limit_s: float | None = None) -> Any:
        """A verb by its name with the contract's parameters."""


def register_verb(name: str, do: Callable[[Params, Settings], Any]) -> None:
    """Say what does a verb in this process: called with parameters and settings, answers plain data."""
    _verbs[name] = do


def executor_for(centre: Centre, settings: Settings, *, language: str = "en") -> Executor:
    """Who is asked for a centre. Raises SealError when its password cannot be opened."""
    if is_local(centre, settings):
        return Local(settings, org=centre.org)
    section = settings.centres
    return Remote(Pcapi(
        centre.pcapi_url, user=centre.api_user, password=opened(centre.api_pwd, settings),
        connect_timeout_s=section.connect_timeout_s, read_timeout_s=section.read_timeout_s, verify_tls=section.verify_tls,
        language=language))


class Local:
    """This process. `org`: the organisation that what is begun is of."""

    def __init__(self, settings: Settings, *, org: str = "") -> None:
        self._settings, self._org = settings, org
        executor.configure(settings)

    def new_cluster(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        return once(reference, lambda: _number(executor.new_cluster(
            access, kind=kind, role=role, actor=actor, org=self._org, options=options)))

    def new_worker(self, access: Access, *, kind: str, role: str, join_command: str, actor: str, options: Params,
                   reference: str) -> int:
        return once(reference, lambda: _number(executor.new_worker(
            access, kind=kind, role=role, join_command=join_command, actor=actor, org=self._org, options=options)))

    def take_apart(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        return once(reference, lambda: _number(executor.take_apart(
            access, kind=kind, role=role, actor=actor, org=self._org, options=options)))

    def progress(self, operation: int) -> Progress:
        return progress_of(operation)

    def result(self, operation: int) -> dict[str, Any]:
        return dict(executor.result(operation, self._settings))

    def nodes(self, where: Where) -> list[dict[str, Any]]:
        return list(executor.nodes(where))

    def pods(self, where: Where) -> list[dict[str, Any]]:
        return list(executor.pods(where))

    def switch(self, where: Where, node: str, *, state: str, drain: bool) -> dict[str, Any]:
        return dict(executor.switch(where, node, state=state, drain=drain))

    def delete_node(self, where: Where, node: str, *, force: bool) -> dict[str, Any]:
        return dict(executor.delete_node(where, node, force=force))

    def label(self, where: Where, node: str, label: str, action: str) -> dict[str, Any]:
        return dict(executor.label(where, node, label, action))

    def free_nodes(self, where: Where) -> list[NodeFree]:
        return list(executor.free_nodes(where))

    def call(self, verb: str, params: Params, *, limit_s: float | None = None) -> Any:
        if verb not in _verbs:
            raise CloudschedError(f"this server does not know how to do {verb}")
        return _verbs[verb](params, self._settings)


class Remote:
    """The pcapi of a server elsewhere."""

    def __init__(self, pcapi: Pcapi) -> None:
        self.pcapi = pcapi

    def new_cluster(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        return self._begin("new_cluster", access, kind, role, options, reference)

    def new_worker(self, access: Access, *, kind: str, role: str, join_command: str, actor: str, options: Params,
                   reference: str) -> int:
        return self._begin("new_worker", access, kind, role, options, reference, join_command=join_command)

    def take_apart(self, access: Access, *, kind: str, role: str, actor: str, options: Params, reference: str) -> int:
        return self._begin("take_apart", access, kind, role, options, reference)

    def progress(self, operation: int) -> Progress:
        data = self.pcapi.call("operation", {"id": operation})
        return Progress(bool(data.get("done")), bool(data.get("ok")), str(data.get("detail") or ""), str(data.get("error") or ""))

    def result(self, operation: int) -> dict[str, Any]:
        return dict(self.pcapi.call("operation", {"id": operation, "result": "1"}).get("result") or {})

    def nodes(self, where: Where) -> list[dict[str, Any]]:
        return list(self.pcapi.call("get_cluster_nodes", to_params(where))["rows"])

    def pods(self, where: Where) -> list[dict[str, Any]]:
        return list(self.pcapi.call("get_cluster_pods", to_params(where))["rows"])

    def switch(self, where: Where, node: str, *, state: str, drain: bool) -> dict[str, Any]:
        given = {**to_params(where), "node_name": node, "state": state, "darin": drain}
        return dict(self.pcapi.call("node_state_switch", given, read_timeout_s=DRAIN_LIMIT_S) or {})

    def delete_node(self, where: Where, node: str, *, force: bool) -> dict[str, Any]:
        given = {**to_params(where), "node_name": node, "force": force}
        return dict(self.pcapi.call("delete_cluster_node", given, read_timeout_s=DRAIN_LIMIT_S) or {})

    def label(self, where: Where, node: str, label: str, action: str) -> dict[str, Any]:
        given = {**to_params(where), "worker_node": node, "label": label, "opt": action}
        return dict(self.pcapi.call("node_label_opt", given) or {})

    def free_nodes(self, where: Where) -> list[NodeFree]:
        return [free_from(row) for row in self.pcapi.call("free_nodes", to_params(where))["rows"]]

    def call(self, verb: str, params: Params, *, limit_s: float | None = None) -> Any:
        return self.pcapi.call(verb, params, read_timeout_s=limit_s)

    def _begin(self, verb: str, access: Access, kind: str, role: str, options: Params, reference: str, **more: Any) -> int:
        given = {**to_params(Where(access, kind=kind)), "role": role, "options": json.dumps(dict(options)), "async": "1",
                 "reference": reference, **more}
        return int(self.pcapi.call(verb, given)["operation"])


# between the two


def once(reference: str, begin: Callable[[], int]) -> int:
    """The operation that a reference began, now or before: both are written down together."""
    def start(tx: Tx) -> int:
        known = store.begun(reference) if reference else None
        if known is not None:
            return known
        number = begin()
        if reference:
            store.remember(tx, reference, number, at=clock.now())
        return number

    return write(start)


def _number(begun: int | dict[str, Any]) -> int:
    assert isinstance(begun, int), "a dry run is asked for elsewhere"
    return begun


def plan(access: Access, *, worker: bool, kind: str, options: Params, join_command: str = "") -> dict[str, Any]:
    """What installing would do: `steps` with their commands, without what is secret. Raises Invalid."""
    given = {**options, "dry_run": True}
    found = executor.new_worker(access, kind=kind, join_command=join_command, options=given) if worker else (
        executor.new_cluster(access, kind=kind, options=given))
    assert isinstance(found, dict)
    return found


def plan_apart(access: Access, *, kind: str, role: str, options: Params) -> dict[str, Any]:
    """What taking apart would do, as `plan`."""
    found = executor.take_apart(access, kind=kind, role=role, options={**options, "dry_run": True})
    assert isinstance(found, dict)
    return found


def worker_steps(centre: Centre, access: Access, *, kind: str, options: Params, join_command: str,
                 settings: Settings) -> list[dict[str, Any]]:
    """The steps of `plan` for a worker; none where only a centre elsewhere can read the join command. Raises Invalid."""
    try:
        steps: list[dict[str, Any]] = plan(access, worker=True, kind=kind, options=options, join_command=join_command)["steps"]
    except Invalid as error:
        # A centre elsewhere is not asked: an older one may not know of dry runs, and would do it.
        if is_local(centre, settings) or not any(one.field == "join_command" for one in error.errors):
            raise
        return []
    return steps


def forget(number: int) -> None:
    """What an operation of this process's executor gave is kept here no more. Raises NotFound; Conflict while it is at work."""
    if not progress_of(number).done:
        raise refused(Conflict, "still_working", f"operation {number} is still at work", id=number)
    executor.forget(number)


def cancel(number: int, *, actor: str) -> bool:
    """An operation of this process's executor stops before its next step; False when it has ended. Raises NotFound."""
    progress_of(number)
    return write(lambda tx: operations.ask_cancel(tx, number, at=clock.now(), actor=actor))


def check_node(params: Params, settings: Settings) -> dict[str, Any]:
    """Could a node be taken out of its cluster? Refused as `delete_cluster_node` without force would be: NotFound, Conflict."""
    executor.configure(settings)
    where = executor.where_from({**params, "password": params.get("psssword") or params.get("password") or ""})
    return executor.delete_node(where, str(params["node_name"]), dry_run=True)


def progress_of(number: int) -> Progress:
    """How far an operation of this process's executor is. Raises NotFound; one of another kind is not there."""
    found = operations.get(number)
    if found is None or not found.kind.startswith(EXECUTOR_KINDS):
        raise refused(NotFound, "no_operation", f"there is no operation {number}", id=number)
    steps = json.loads(found.steps)
    now = next((step for step in steps if step["state"] != "done"), steps[-1] if steps else {"name": "", "detail": ""})
    detail = f"{now['name']}: {now['detail']}" if now["detail"] else str(now["name"])
    return Progress(found.state in ENDED, found.state == "succeeded", detail, found.error or "")


def to_params(where: Where) -> dict[str, Any]:
    """A place as the contract's parameters."""
    given: dict[str, Any] = {"cluster_type": where.kind or None, "kubeconfig": where.kubeconfig or None}
    if where.access is not None:
        access = where.access
        given |= {"host": access.host, "port": access.port, "user": access.user, "psssword": access.password,
                  "key": access.key or None, "host_key": access.host_key or None}
    return given


def free_to(node: NodeFree) -> dict[str, Any]:
    """What is free on a node as plain data."""
    return asdict(node)


def free_from(row: Params) -> NodeFree:
    """What `free_to` made. Raises CloudschedError for data of another shape."""
    try:
        return NodeFree(**{name: row[name] for name in NodeFree.__dataclass_fields__ if name in row})
    except (TypeError, KeyError):
        raise CloudschedError("the centre answers in another shape than this server knows") from None


def access_of(host: Host, settings: Settings) -> Access:
    """The account on a host, its password opened. A password that is a private key in PEM is one."""
    options = json.loads(host.options)
    secret = opened(host.adminpwd, settings)
    key = secret if secret.lstrip().startswith("-----BEGIN") else ""
    return Access(host.ip, host.sshport, host.adminuser, "" if key else secret, key, host_key=str(options.get("host_key") or ""))


def options_of(host: Host) -> dict[str, Any]:
    """What is said of a host for installations."""
    options: dict[str, Any] = json.loads(host.options)
    return {name: value for name, value in options.items() if name != "host_key"}


register_verb(FORGET, lambda params, _: forget(int(params["id"])))
register_verb(CANCEL, lambda params, _: {"cancelled": cancel(int(params["id"]), actor=str(params.get("actor") or "system"))})
register_verb(CHECK_NODE, check_node)
