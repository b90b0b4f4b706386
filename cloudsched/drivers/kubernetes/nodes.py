"""What machines does the cluster have, and which of them take new pods? Nodes, their labels, cordon and uncordon."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudsched.drivers.kubernetes import kinds, quantities
from cloudsched.drivers.kubernetes.client import MANAGER, MERGE, Api, ApiRefused, Object
from cloudsched.errors import Invalid

_ROLE = "node-role.kubernetes.io/"
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_PART = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Amount:
    """Of a node or of what is used there; memory in MiB, storage in GiB."""

    cores: float = 0.0
    memory_mb: int = 0
    storage_gb: int = 0
    pods: int = 0
    gpus: int = 0
    raw: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node. `reason`: why it is not ready, or which pressure it reports; empty when all is well."""

    name: str
    uid: str
    ready: bool
    reason: str
    unschedulable: bool
    capacity: Amount
    allocatable: Amount
    conditions: tuple[Mapping[str, Any], ...]
    labels: Mapping[str, str]
    taints: tuple[Mapping[str, Any], ...]
    roles: tuple[str, ...]
    address: str
    version: str
    system: str
    created_at: str


def nodes(api: Api, selector: str = "") -> list[NodeInfo]:
    """All nodes, or those with these labels, by name."""
    found = api.items(kinds.NODE.path(), labelSelector=selector)
    return sorted((info(one) for one in found), key=lambda one: one.name)


def node(api: Api, name: str) -> NodeInfo:
    """One node; DriverError (REQUEST) when it is not there."""
    return info(api.get(kinds.NODE.path(name=name)))


def label(api: Api, name: str, labels: Mapping[str, str | None]) -> NodeInfo:
    """Set labels; None takes one away. Invalid (field `labels`) for what Kubernetes would refuse."""
    check_labels(labels)
    return info(_patched(api, name, {"metadata": {"labels": dict(labels)}}))


def set_unschedulable(api: Api, name: str, *, on: bool) -> NodeInfo:
    """Cordon, uncordon; doing it again changes nothing."""
    return info(_patched(api, name, {"spec": {"unschedulable": True if on else None}}))


def delete(api: Api, name: str) -> None:
    """Take the node's object away; a missing one is no error. Its machine is not touched."""
    try:
        api.send("DELETE", kinds.NODE.path(name=name), repeat=True)
    except ApiRefused as refused:
        if refused.status != 404:
            raise


def check_labels(labels: Mapping[str, str | None]) -> None:
    for key, value in labels.items():
        prefix, slash, part = key.rpartition("/")
        good = bool(_PART.fullmatch(part)) and len(part) <= 63
        if not good or (slash and (not _PREFIX.fullmatch(prefix) or len(prefix) > 253)):
            raise Invalid.at("labels", f"{key!r} is not a label key", "[prefix/]name, at most 63 letters, digits, '-', '_', '.'")
        if value is None or value == "":
            continue
        if not isinstance(value, str) or not _PART.fullmatch(value) or len(value) > 63:
            raise Invalid.at("labels", f"{value!r} is not a value for {key}", "at most 63 letters, digits, '-', '_', '.'")


def info(thing: Object) -> NodeInfo:
    """A node object as we show it."""
    metadata, spec, status = thing["metadata"], thing.get("spec") or {}, thing.get("status") or {}
    conditions = tuple(status.get("conditions") or ())
    labels = metadata.get("labels") or {}
    addresses = {one["type"]: one["address"] for one in reversed(status.get("addresses") or ())}
    facts = status.get("nodeInfo") or {}
    ready, reason = _readiness(conditions)
    return NodeInfo(
        name=metadata["name"], uid=metadata.get("uid", ""), ready=ready, reason=reason,
        unschedulable=bool(spec.get("unschedulable")), capacity=amount(status.get("capacity") or {}),
        allocatable=amount(status.get("allocatable") or status.get("capacity") or {}), conditions=conditions, labels=labels,
        taints=tuple(spec.get("taints") or ()),
        roles=tuple(sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))),
        address=addresses.get("InternalIP") or addresses.get("ExternalIP") or addresses.get("Hostname") or "",
        version=facts.get("kubeletVersion", ""), system=facts.get("osImage", ""),
        created_at=metadata.get("creationTimestamp") or "")


def amount(raw: Mapping[str, Any]) -> Amount:
    """A resource map in our units."""
    return Amount(cores=quantities.cores(raw.get("cpu")), memory_mb=quantities.megabytes(raw.get("memory")),
                  storage_gb=quantities.gigabytes(raw.get("ephemeral-storage")),
                  pods=int(quantities.number(raw.get("pods") or 0)),
                  gpus=int(quantities.number(raw.get(quantities.GPU) or 0)), raw={key: str(one) for key, one in raw.items()})


def _readiness(conditions: tuple[Mapping[str, Any], ...]) -> tuple[bool, str]:
    by_type = {one.get("type"): one for one in conditions}
    ready = by_type.get("Ready")
    if ready is None:
        return False, "the node has not reported yet"
    if ready.get("status") != "True":
        return False, str(ready.get("message") or ready.get("reason") or "not ready")
    bad = [str(one.get("message") or one.get("reason") or sort) for sort, one in by_type.items()
           if sort != "Ready" and one.get("status") == "True"]
    return True, "; ".join(bad)


def _patched(api: Api, name: str, patch: Object) -> Object:
    return api.send("PATCH", kinds.NODE.path(name=name), patch, query={"fieldManager": MANAGER}, content_type=MERGE,
                    repeat=True)[1]
