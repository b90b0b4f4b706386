"""Which cluster is meant, and how is it asked? A kubeconfig through the Kubernetes driver, else commands on its controller.

Over SSH `kubectl -o json`, or Slurm's commands with `--json`; never a table that is made for people.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.base import REQUEST, DriverError, Place
from cloudsched.drivers.installing import slurm
from cloudsched.drivers.installing.access import Access
from cloudsched.drivers.installing.hosts import Host, Progress, Script, StepFailed, cleaned
from cloudsched.drivers.installing.hosts import parsed as parsed_progress
from cloudsched.drivers.installing.job import KUBERNETES, SLURM
from cloudsched.drivers.kubernetes import ApiRefused, Drained, KubernetesDriver
from cloudsched.drivers.kubernetes import make as make_driver
from cloudsched.errors import Conflict, Invalid, NotFound, Unsupported
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre import executor_rows as rows

CORDON, UNCORDON = "cordon", "uncordon"
STATES = (CORDON, UNCORDON)
DRAIN_S = 120.0
_NODE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,251}[A-Za-z0-9])?\Z")
_DETECT = r"""
mark=$HOME/.cloudsched-install/installed
if [ -f "$mark" ]; then cat "$mark"
elif [ -f /etc/kubernetes/admin.conf ]; then echo kind=kubernetes
elif [ -f /etc/slurm/slurm.conf ]; then echo kind=slurm
fi
exit 0
"""
_KUBECTL = r"""
KUBECONFIG=/etc/kubernetes/admin.conf; export KUBECONFIG
PATH=$PATH:/usr/local/bin; export PATH
command -v kubectl >/dev/null || { echo "kubectl is not there" >&2; exit 127; }
"""


@dataclass(frozen=True)
class Where:
    """A cluster: a kubeconfig, else an account on its controller. `kind` '' is found out on the host."""

    access: Access | None = None
    kubeconfig: str = field(default="", repr=False)
    kind: str = ""


class ClusterPlace(Protocol):
    """One cluster; see the functions of the same names in `executor`."""

    def nodes(self) -> list[dict[str, str]]: ...
    def pods(self) -> list[dict[str, str]]: ...
    def switch(self, node: str, *, state: str, drain: bool) -> None: ...
    def delete_node(self, node: str, *, force: bool) -> None: ...
    def label(self, node: str, key: str, value: str | None) -> dict[str, str | None]: ...
    def free_nodes(self) -> list[NodeFree]: ...
    def check(self, node: str, *, empty: bool = False, label: str = "") -> None: ...


def place(where: Where) -> ClusterPlace:
    """Raises Invalid, DriverError."""
    if where.kubeconfig:
        return _Api(where.kubeconfig)
    if where.access is None:
        raise Invalid.at("host", "is missing", "host, port, user and password, or kubeconfig")
    found, kind, prefix = _detected(where.access)
    if not kind:
        raise DriverError(f"{found.label}: no cluster is installed on this host", code=REQUEST)
    if where.kind and where.kind != kind:
        raise Conflict(f"{found.label}: this host is of a {kind} cluster, not of a {where.kind} one")
    return _Slurm(found, prefix) if kind == SLURM else _Kubectl(found)


def _detected(access: Access) -> tuple[Host, str, str]:
    """(the host, as whoever may look at its cluster; kind; prefix). What an account installed for itself comes first."""
    found = ops.host(access, prefix="own")
    for host in (found, *([ops.host(access)] if access.user != "root" else [])):
        lines = host.asked(Script(_DETECT, limit_s=30), "what is there").splitlines()
        marks = dict(line.split("=", 1) for line in lines if "=" in line)
        if marks.get("kind") in (KUBERNETES, SLURM):
            return host, marks["kind"], marks.get("prefix", "")
    return found, "", ""


class _Api:
    """A Kubernetes cluster that is reached by its kubeconfig."""

    def __init__(self, kubeconfig: str) -> None:
        self._driver: KubernetesDriver = make_driver(
            Place("cluster", "Kubernetes", {"timeout_s": 30, "allow_exec": False}, credentials={"kubeconfig": kubeconfig}))

    def nodes(self) -> list[dict[str, str]]:
        return [rows.node_row(one) for one in self._sorted("Node")]

    def pods(self) -> list[dict[str, str]]:
        return [rows.pod_row(one) for one in self._sorted("Pod")]

    def free_nodes(self) -> list[NodeFree]:
        return rows.free(self._sorted("Node"), self._driver.objects("Pod", namespace=""))

    def switch(self, node: str, *, state: str, drain: bool) -> None:
        self._known(node)
        if state == UNCORDON:
            self._driver.uncordon(node)
        elif drain:
            _check(self._driver.drain(node, timeout_s=DRAIN_S, delete_local_data=True))
        else:
            self._driver.cordon(node)

    def delete_node(self, node: str, *, force: bool) -> None:
        self.check(node, empty=not force)
        if force:
            self._empty(node)
        self._driver.delete_node(node)

    def check(self, node: str, *, empty: bool = False, label: str = "") -> None:
        """Is there such a node, and with `empty`: does nothing run there? Raises NotFound, Conflict."""
        self._known(node)
        if empty:
            _refuse_busy(node, self._driver.objects("Pod", namespace="", fields=f"spec.nodeName={node}"))

    def label(self, node: str, key: str, value: str | None) -> dict[str, str | None]:
        self._known(node)
        return dict(self._driver.label(node, {key: value}).labels)

    def _empty(self, node: str) -> None:
        """Evict; what budgets hold back, or does not end, is deleted."""
        left = self._driver.drain(node, timeout_s=DRAIN_S / 4, force=True, delete_local_data=True, grace_s=0)
        for one in left.blocked:
            body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": one.name, "namespace": one.namespace}}
            self._driver.delete([body], namespace=one.namespace, wait=False, grace_s=0)

    def _known(self, node: str) -> None:
        checked_node(node)
        try:
            self._driver.node(node)
        except ApiRefused as refused:
            if refused.status == 404:
                raise NotFound(f"there is no node {node}") from None
            raise

    def _sorted(self, kind: str) -> list[dict[str, Any]]:
        found = self._driver.objects(kind, namespace="")
        return sorted(found, key=lambda one: (one["metadata"].get("namespace", ""), one["metadata"]["name"]))


class _Kubectl:
    """A Kubernetes cluster that is reached by kubectl on its controller."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def nodes(self) -> list[dict[str, str]]:
        return [rows.node_row(one) for one in self._items("nodes")]

    def pods(self) -> list[dict[str, str]]:
        return [rows.pod_row(one) for one in self._items("pods", "--all-namespaces")]

    def free_nodes(self) -> list[NodeFree]:
        return rows.free(self._items("nodes"), self._items("pods", "--all-namespaces"))

    def switch(self, node: str, *, state: str, drain: bool) -> None:
        if state == CORDON and drain:
            self._run("drain", checked_node(node), "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAIN_S:.0f}s")
        else:
            self._run(state, checked_node(node))

    def delete_node(self, node: str, *, force: bool) -> None:
        if force:
            self._run("drain", checked_node(node), "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=0",
                      "--disable-eviction", f"--timeout={DRAIN_S:.0f}s")  # fmt: skip
        else:
            self.check(node, empty=True)
        self._run("delete", "node", node)

    def check(self, node: str, *, empty: bool = False, label: str = "") -> None:
        """As `_Api.check`."""
        self._run("get", "node", checked_node(node), "-o", "name")
        if empty:
            _refuse_busy(node, self._items("pods", "--all-namespaces", f"--field-selector=spec.nodeName={node}"))

    def label(self, node: str, key: str, value: str | None) -> dict[str, str | None]:
        word = f"{key}-" if value is None else f"{key}={value}"
        self._run("label", "node", checked_node(node), word, *([] if value is None else ["--overwrite"]))
        found = self._json("get", "node", node, "-o", "json")
        return dict(found["metadata"].get("labels") or {})

    def _items(self, kind: str, *words: str) -> list[dict[str, Any]]:
        return list(self._json("get", kind, *words, "-o", "json").get("items") or ())

    def _json(self, *words: str) -> dict[str, Any]:
        return _decoded(self._run(*words), self._host, "kubectl")

    def _run(self, *words: str) -> str:
        said = self._host.ask(Script(f"{_KUBECTL}exec kubectl {shlex.join(words)} < /dev/null", limit_s=DRAIN_S + 30))
        if said.code == 0:
            return said.stdout
        lines = [line.strip() for line in said.stderr.splitlines() if line.strip()]
        why = cleaned(lines[-1] if lines else f"exit status {said.code}")[:400]
        if "NotFound" in why or "not found" in why:
            raise NotFound(f"{self._host.label}: {why}")
        if words[0] == "drain":
            raise Conflict(f"{self._host.label}: {why}")
        raise StepFailed(f"{self._host.label}: kubectl {words[0]}: {why}", code=REQUEST)


class _Slurm:
    """A Slurm cluster that is reached by its commands on its controller."""

    def __init__(self, host: Host, prefix: str) -> None:
        self._host, self._prefix = host, prefix

    def nodes(self) -> list[dict[str, str]]:
        controller = self._host.asked(slurm.controller_node(self._prefix), "its configuration").strip()
        return [rows.slurm_node_row(one, controller=controller) for one in self._nodes()]

    def pods(self) -> list[dict[str, str]]:
        addresses = {str(one["name"]): str(one.get("address") or "") for one in self._nodes()}
        found = self._json(slurm.command(self._prefix, "squeue", "--json"), "squeue")
        return [rows.slurm_pod_row(one, addresses) for one in found.get("jobs") or ()]

    def free_nodes(self) -> list[NodeFree]:
        return [rows.slurm_free(one) for one in self._nodes()]

    def switch(self, node: str, *, state: str, drain: bool) -> None:
        self._checked(slurm.switch(self._prefix, node=checked_node(node), state=state, drain=drain, reason="cordon"), node)

    def delete_node(self, node: str, *, force: bool) -> None:
        told = self._checked(slurm.remove_node(self._prefix, node=checked_node(node), force=force), node)
        ops.tell_others(ops.read_members(told.facts.get("members", "")), slurm.decoded(told.facts.get("nodes", "")))

    def label(self, node: str, key: str, value: str | None) -> dict[str, str | None]:
        labels: dict[str, str | None] = {**self._labels(node, key), key: value}
        words = [f"{name}={word}" if word else name for name, word in sorted(labels.items()) if word is not None]
        self._checked(slurm.features(self._prefix, node=node, words=words), node)
        return {name: word for name, word in labels.items() if word is not None}

    def check(self, node: str, *, empty: bool = False, label: str = "") -> None:
        """As `_Api.check`, with jobs; Unsupported for a label that cannot be a feature."""
        self._labels(node, label)
        if empty:
            script = slurm.command(self._prefix, "squeue", "-h", "-w", node, "-t", "R,CG,S,CF", "-o", "%A")
            jobs = set(self._host.asked(script, "squeue").split())
            if jobs:
                raise Conflict(f"{self._host.label}: {len(jobs)} jobs run on {node}")

    def _labels(self, node: str, key: str) -> dict[str, str]:
        """The labels of a node that may have `key` among them."""
        now = next((rows.slurm_labels(one) for one in self._nodes() if one["name"] == checked_node(node)), None)
        if now is None:
            raise NotFound(f"there is no node {node}")
        if "/" in key:
            raise Unsupported("a Slurm cluster's nodes have features, which have no prefix")
        return now

    def _nodes(self) -> list[dict[str, Any]]:
        # Newer versions tell hosts by scontrol; older ones do not know the word there.
        told = self._json(slurm.nodes_json(self._prefix), "sinfo")
        return sorted(told.get("nodes") or (), key=lambda one: str(one["name"]))

    def _json(self, script: Script, what: str) -> dict[str, Any]:
        return _decoded(self._host.asked(script, what), self._host, what)

    def _checked(self, script: Script, node: str) -> Progress:
        said = self._host.ask(script)
        told = parsed_progress(said.code, cleaned(f"{said.stdout}\n{said.stderr}"))
        if said.code == 0:
            return told
        if "gone" in told.facts or "Invalid node name" in told.text or "there is no node" in told.text:
            raise NotFound(f"there is no node {node}")
        if "busy" in told.facts:
            raise Conflict(f"{self._host.label}: {told.short()}")
        raise StepFailed(f"{self._host.label}: {node}: {told.short() or f'exit status {said.code}'}", code=REQUEST)


def checked_node(name: str) -> str:
    """Raises Invalid for what is no name of a node."""
    if not _NODE.match(name):
        raise Invalid.at("node_name", f"{name[:80]!r} is not the name of a node", "letters, digits, '-', '.', '_'")
    return name


def _check(result: Drained) -> None:
    if not result.complete:
        left = "; ".join(str(one) for one in (*result.refused, *result.blocked)[:5])
        raise Conflict(f"node {result.node} is cordoned, but not empty: {left}")


def _refuse_busy(node: str, pods: Iterable[Mapping[str, Any]]) -> None:
    names = [f"{one['metadata']['namespace']}/{one['metadata']['name']}" for one in pods if not rows.is_at_home(one)]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise Conflict(f"{len(names)} pods run on {node}: {', '.join(names[:5])}{more}")


def _decoded(text: str, host: Host, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        raise StepFailed(f"{host.label}: the answer of {what} is not JSON", code=REQUEST) from None
    return found if isinstance(found, Mapping) else {"items": found}  # type: ignore[return-value]
