"""What can be asked of the executor of a compute centre? Install clusters on hosts over SSH; look at their nodes and pods.

It keeps nothing but its operations: a place to act on comes with every call, as an account on a host (`Access`) or a kubeconfig
(`Where`). Each process says `configure(settings)` once. Errors: Invalid naming the field, Conflict, NotFound, DriverError; their
messages name host and step, never a secret.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from cloudsched.domain.fitting import NodeFree
from cloudsched.domain.labels import parse_label
from cloudsched.drivers.installing.access import Access, access_from
from cloudsched.drivers.installing.job import KUBERNETES, NEW_CLUSTER, NEW_WORKER, SLURM, TAKE_APART
from cloudsched.errors import Invalid
from cloudsched.services import operations
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre.executor_ops import configure
from cloudsched.services.centre.executor_places import CORDON, STATES, UNCORDON, Where, place
from cloudsched.settings import Settings

__all__ = ["CORDON", "KUBERNETES", "SLURM", "STATES", "UNCORDON", "Access", "Where", "access_from", "check_switch", "configure",
           "delete_node", "forget", "free_nodes", "label", "new_cluster", "new_worker", "nodes", "pods", "result", "switch",
           "take_apart", "wait", "where_from"]  # fmt: skip

_ENDED = ("succeeded", "failed", "cancelled")
_LOOK_AGAIN_S = 0.2
_TOLD = ("node_name", "address", "version", "cores", "memory_mb", "slurm_conf")


# installing


def new_cluster(access: Access, *, kind: str, role: str = "", actor: str = "", org: str = "",
                options: Mapping[str, Any] | None = None) -> Any:
    """Make the host the controller of a new cluster; the number of the operation.

    `kind`: kubernetes or slurm. `org`: the organisation that the operation is of. `options`: those of
    `drivers.installing.given.Options`; with `dry_run` true nothing is done and the answer is the steps with their commands.
    """
    return _install(NEW_CLUSTER, access, kind=kind, role=role, actor=actor, org=org, options=options or {})


def new_worker(access: Access, *, kind: str, join_command: str, role: str = "", actor: str = "", org: str = "",
               options: Mapping[str, Any] | None = None) -> Any:
    """Make the host a node of the cluster whose join command this is; the number of the operation, or its dry run."""
    return _install(NEW_WORKER, access, kind=kind, role=role, actor=actor, org=org, options=options or {},
                    join_command=join_command)


def take_apart(access: Access, *, kind: str, role: str = "", actor: str = "", org: str = "",
               options: Mapping[str, Any] | None = None) -> Any:
    """Take off the host what was installed there from here; nothing there is no error. The operation's number, or its dry run."""
    return _install(TAKE_APART, access, kind=kind, role=role, actor=actor, org=org, options=options or {})


def wait(operation_id: int, limit_s: float) -> tuple[bool, bool, dict[str, Any], str]:
    """(done, ok, result, error) of an installation, after at most `limit_s` seconds.

    The result holds nothing secret: `kind`, `host`, `role`, `node_name`, `address`, `version`, and for Slurm `slurm_conf`, the
    path of its configuration there; `error` is '' or what the step that failed said. Raises NotFound.
    """
    until = time.monotonic() + limit_s
    while True:
        found = operations.one(operation_id)
        if found["state"] in _ENDED or time.monotonic() >= until:
            break
        time.sleep(min(_LOOK_AGAIN_S, max(0.0, until - time.monotonic())))
    done, ok = found["state"] in _ENDED, found["state"] == "succeeded"
    error = "" if ok or not done else found["error"] or f"the operation was {found['state']}"
    return done, ok, _plain_result(operation_id, found) if ok else {}, error


def result(operation_id: int, settings: Settings | None = None) -> dict[str, Any]:
    """What a finished installation gave, opened: `join_command`, and for Kubernetes `kubeconfig`, beside what `wait` tells.
    Raises NotFound, SealError."""
    if settings is not None:
        configure(settings)
    return {**_plain_result(operation_id, operations.one(operation_id)), **ops.state_of(operation_id).get("result", {})}


def forget(operation_id: int) -> None:
    """Keep no longer what an installation gave; for whoever has written it down elsewhere. Raises NotFound."""
    ops.forget(operation_id)


# looking and switching


def where_from(given: Mapping[str, Any]) -> Where:
    """From `kubeconfig`, or `host`, `port`, `user`, `password`; `cluster_type` may say which cluster is meant. Raises Invalid."""
    kubeconfig = str(given.get("kubeconfig") or "")
    account = {name: given[name] for name in Access.__dataclass_fields__ if given.get(name)}
    if not kubeconfig and not account.get("host"):
        raise Invalid.at("host", "is missing", "host, port, user and password, or kubeconfig")
    usable = bool(account.get("host")) and (not kubeconfig or bool(account.get("password") or account.get("key")))
    return Where(access_from(account) if usable else None, kubeconfig, str(given.get("cluster_type") or ""))


def nodes(where: Where) -> list[dict[str, str]]:
    """The cluster's nodes: `node_name`, `node_status`, `node_role`, `node_age`, `node_version`, `node_internalip`,
    `node_externalip`, `node_osversion`, `node_kernelversion`, `node_containeruntime`; `<none>` for what is not there."""
    return place(where).nodes()


def pods(where: Where) -> list[dict[str, str]]:
    """Its pods (its jobs, where it is Slurm): `pod_namespace`, `pod_name`, `pod_ready`, `pod_running`, `pod_restart`, `pod_age`,
    `pod_ip`, `pod_node`, `pod_nominated_node`, `pod_readiness_gates`."""
    return place(where).pods()


def check_switch(state: str, drain: bool) -> None:
    """Raises Invalid for what no node is switched to."""
    if state not in STATES:
        raise Invalid.at("state", f"{state!r} is nothing a node is switched to", ", ".join(STATES))
    if drain and state == UNCORDON:
        raise Invalid.at("drain", "belongs to cordon", "state=cordon")


def switch(where: Where, node: str, *, state: str, drain: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Cordon or uncordon a node; with `drain` what runs there goes elsewhere, as far as disruption budgets allow, else Conflict
    that names what stays. `dry_run` here and below: nothing is done, NotFound when there is no such node."""
    check_switch(state, drain)
    if dry_run:
        place(where).check(node)
    else:
        place(where).switch(node, state=state, drain=drain)
    return {"node_name": node, "state": state, "drain": drain}


def delete_node(where: Where, node: str, *, force: bool = False, dry_run: bool = False) -> dict[str, Any]:
    """Take a node out of its cluster. Without `force` Conflict while something runs there; with it, it is emptied first. The
    host itself keeps what is installed: `take_apart`. NotFound when there is no such node."""
    if dry_run:
        place(where).check(node, empty=not force)
    else:
        place(where).delete_node(node, force=force)
    return {"node_name": node, "force": force}


def label(where: Where, node: str, label: str, opt: str = "label", *, dry_run: bool = False) -> dict[str, str | None]:
    """Set (`label`) or take away (`unlabel`) a node's label; returns the node's labels as they are now (nothing in a dry run)."""
    key, value = parse_label(label, opt)
    if dry_run:
        place(where).check(node, label=key)
        return {}
    return place(where).label(node, key, value)


def free_nodes(where: Where) -> list[NodeFree]:
    """What is free on each node now: allocatable minus requested, with labels and GPUs."""
    return place(where).free_nodes()


def _install(action: str, access: Access, *, kind: str, role: str, actor: str, org: str, options: Mapping[str, Any],
             join_command: str = "") -> Any:
    if options.get("dry_run"):
        return ops.dry_run(action, access, kind=kind, options=options, join_command=join_command)
    return ops.begin(action, access, kind=kind, role=role, actor=actor, org=org, options=options, join_command=join_command)


def _plain_result(number: int, found: Mapping[str, Any]) -> dict[str, Any]:
    facts = ops.state_of(number)["facts"]
    request = found["request"]
    told = {name: facts[name] for name in _TOLD if name in facts}
    return {"kind": request["cluster"], "host": request["host"], "role": request["role"] or facts.get("role", ""), **told}
