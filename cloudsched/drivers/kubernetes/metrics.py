"""How much is used, asked for and allowed? Figures of metrics.k8s.io where the cluster has them, requests and quotas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from cloudsched.drivers.kubernetes import kinds, quantities
from cloudsched.drivers.kubernetes.client import Api, ApiRefused

_NODES = "/apis/metrics.k8s.io/v1beta1/nodes"
_ENDED = ("Succeeded", "Failed")


@dataclass(frozen=True, slots=True)
class Used:
    """Measured use."""

    cores: float
    memory_mb: int


@dataclass(frozen=True, slots=True)
class NamespaceUsage:
    """What the pods of a namespace ask for (`requests`, `limits`, by resource), what is measured (None without metrics),
    and its quotas: name -> resource -> (used, hard)."""

    namespace: str
    pods: int
    running: int
    requests: Mapping[str, Decimal]
    limits: Mapping[str, Decimal]
    used: Used | None = None
    quotas: Mapping[str, Mapping[str, tuple[str, str]]] = field(default_factory=dict)


def node_usage(api: Api) -> dict[str, Used] | None:
    """Measured use by node; None when the cluster measures nothing (or not yet)."""
    found = _figures(api, _NODES)
    return None if found is None else {one["metadata"]["name"]: _used([one.get("usage") or {}]) for one in found}


def pod_usage(api: Api, namespace: str = "", selector: str = "") -> dict[tuple[str, str], Used] | None:
    """Measured use by (namespace, pod); None when the cluster measures nothing."""
    where = f"/namespaces/{namespace}" if namespace else ""
    found = _figures(api, f"/apis/metrics.k8s.io/v1beta1{where}/pods", labelSelector=selector)
    if found is None:
        return None
    return {(one["metadata"]["namespace"], one["metadata"]["name"]):
            _used([container.get("usage") or {} for container in one.get("containers") or ()]) for one in found}


def namespace_usage(api: Api, namespace: str = "") -> dict[str, NamespaceUsage]:
    """By namespace, of all or of one; ended pods ask for nothing any more."""
    pods: dict[str, list[Any]] = {}
    for pod in api.items(kinds.POD.path(namespace)):
        pods.setdefault(pod["metadata"]["namespace"], []).append(pod)
    quotas: dict[str, dict[str, Any]] = {}
    for quota in api.items(kinds.QUOTA.path(namespace)):
        status = quota.get("status") or {}
        hard = status.get("hard") or (quota.get("spec") or {}).get("hard") or {}
        used = status.get("used") or {}
        quotas.setdefault(quota["metadata"]["namespace"], {})[quota["metadata"]["name"]] = {
            name: (str(used.get(name, "0")), str(value)) for name, value in hard.items()}
    measured = pod_usage(api, namespace)
    names = {*pods, *quotas, *([namespace] if namespace else ())}
    return {name: _namespace(name, pods.get(name, []), quotas.get(name, {}), measured) for name in sorted(names)}


def _namespace(name: str, pods: list[Any], quotas: Mapping[str, Any],
               measured: Mapping[tuple[str, str], Used] | None) -> NamespaceUsage:
    live = [one for one in pods if (one.get("status") or {}).get("phase") not in _ENDED]
    mine = None if measured is None else [one for key, one in measured.items() if key[0] == name]
    return NamespaceUsage(
        name, pods=len(live), running=sum((one.get("status") or {}).get("phase") == "Running" for one in live),
        requests=_sum(live, "requests"), limits=_sum(live, "limits"), quotas=quotas,
        used=None if mine is None else Used(sum(one.cores for one in mine), sum(one.memory_mb for one in mine)))


def _sum(pods: list[Any], sort: str) -> dict[str, Decimal]:
    return quantities.added(quantities.asked(one, sort) for one in pods)


def _figures(api: Api, path: str, **query: Any) -> list[Any] | None:
    try:
        return api.items(path, **query)
    except ApiRefused as refused:
        if refused.status in (403, 404, 503):  # not installed, not for us, or not up yet
            return None
        raise


def _used(parts: list[Mapping[str, Any]]) -> Used:
    total = quantities.added(parts)
    return Used(float(total.get("cpu", 0)), int(total.get("memory", Decimal(0)) / quantities.MIB))
