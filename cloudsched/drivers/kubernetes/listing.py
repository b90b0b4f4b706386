"""Which pods are there, where, and how are they? As people look at them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from cloudsched import clock
from cloudsched.drivers.kubernetes import kinds, quantities
from cloudsched.drivers.kubernetes.client import Api, Object
from cloudsched.drivers.kubernetes.podstates import epoch, state_of


@dataclass(frozen=True, slots=True)
class PodInfo:
    """One pod. `state`, `reason` as in `podstates`; `ready` such as `1/2`; `age_s` by the server's clock and ours."""

    namespace: str
    name: str
    uid: str
    node: str
    phase: str
    state: str
    reason: str
    ready: str
    restarts: int
    address: str
    age_s: float
    owner: str
    labels: Mapping[str, str]
    requests: Mapping[str, Decimal]
    limits: Mapping[str, Decimal]


def pods(api: Api, *, namespace: str = "", selector: str = "", node: str = "") -> list[PodInfo]:
    """Of one namespace or of all, by namespace and name."""
    found = api.items(kinds.POD.path(namespace), labelSelector=selector, fieldSelector=f"spec.nodeName={node}" if node else "")
    return sorted((info(one) for one in found), key=lambda one: (one.namespace, one.name))


def info(pod: Object) -> PodInfo:
    metadata, status = pod["metadata"], pod.get("status") or {}
    now = clock.now()
    seen = state_of(pod, now=now)
    containers = status.get("containerStatuses") or ()
    owner = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
    return PodInfo(
        namespace=metadata["namespace"], name=metadata["name"], uid=metadata["uid"], node=pod["spec"].get("nodeName") or "",
        phase=status.get("phase") or "Pending", state=seen.state, reason=seen.reason,
        ready=f"{sum(bool(one.get('ready')) for one in containers)}/{len(pod['spec'].get('containers') or ())}",
        restarts=sum(int(one.get("restartCount") or 0) for one in containers), address=status.get("podIP") or "",
        age_s=max(0.0, now - (epoch(metadata.get("creationTimestamp")) or now)),
        owner=f"{owner['kind']}/{owner['name']}" if owner else "", labels=metadata.get("labels") or {},
        requests=quantities.asked(pod), limits=quantities.asked(pod, "limits"))
