"""How is a node emptied without hurting what runs there? Evictions, which ask the disruption budgets.

The choices are those people know from `kubectl drain`: pods of daemon sets stay, pods of the node itself (mirror pods)
stay, pods that nobody would make again or that keep data on the node are refused unless the caller says so. Our own pilots
are made again by us, so they go without being asked for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cloudsched.drivers.kubernetes import kinds, nodes
from cloudsched.drivers.kubernetes.client import Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.names import PLACE

_MIRROR = "kubernetes.io/config.mirror"
_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0


@dataclass(frozen=True, slots=True)
class Left:
    """A pod that was not taken away, and why."""

    namespace: str
    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}: {self.reason}"


@dataclass
class Drained:
    """What became of a node's pods. `kept`: those that belong there; `refused`: those that need a word of the caller (then
    nothing was evicted); `blocked`: those that could not go in time."""

    node: str
    evicted: list[str] = field(default_factory=list)
    kept: list[Left] = field(default_factory=list)
    refused: list[Left] = field(default_factory=list)
    blocked: list[Left] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not self.refused and not self.blocked


def drain(api: Api, name: str, *, timeout_s: float = 300.0, force: bool = False, delete_local_data: bool = False,
          ignore_daemon_sets: bool = True, grace_s: int | None = None,
          pause: Callable[[float], None] = time.sleep) -> Drained:
    """Cordon the node, evict its pods, and wait until they are gone, at most `timeout_s`.

    `force`: also pods without an owner; `delete_local_data`: also pods with an emptyDir; `grace_s`: instead of each pod's
    own. A pod that a disruption budget holds back is asked again until the time is over, and then reported.
    """
    deadline = time.monotonic() + timeout_s
    nodes.set_unschedulable(api, name, on=True)
    found = api.items(kinds.POD.path(), fieldSelector=f"spec.nodeName={name}")
    result = Drained(name)
    leaving = []
    for pod in found:
        why, refused = _objection(pod, force=force, delete_local_data=delete_local_data, ignore_daemon_sets=ignore_daemon_sets)
        if not why:
            leaving.append(pod)
        else:
            (result.refused if refused else result.kept).append(_left(pod, why))
    if not result.refused:
        _empty(api, leaving, result, deadline, grace_s, pause)
    return result


def _empty(api: Api, pods: list[Object], result: Drained, deadline: float, grace_s: int | None,
           pause: Callable[[float], None]) -> None:
    waiting = {_key(pod): "not asked yet" for pod in pods}
    uids = {_key(pod): pod["metadata"]["uid"] for pod in pods}
    asked: set[tuple[str, str]] = set()
    pause_s = _PAUSE_S
    while waiting:
        for key in list(waiting):
            if key not in asked:
                waiting[key] = _evict(api, *key, uid=uids[key], grace_s=grace_s)
                if not waiting[key]:
                    asked.add(key)
            elif _is_gone(api, *key, uid=uids[key]):
                del waiting[key]
                result.evicted.append("/".join(key))
        if not waiting or time.monotonic() >= deadline:
            break
        pause(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(_MAX_PAUSE_S, pause_s * 1.5)
    result.blocked += [Left(*key, why or "it was evicted and is still ending") for key, why in waiting.items()]


def _evict(api: Api, namespace: str, name: str, *, uid: str, grace_s: int | None) -> str:
    """Why it does not go now; empty when it goes."""
    options: Object = {"preconditions": {"uid": uid}} | ({} if grace_s is None else {"gracePeriodSeconds": grace_s})
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": options}
    try:
        api.send("POST", kinds.POD.path(namespace, name, "eviction"), body)
    except ApiRefused as refused:
        if refused.status == 404 or (refused.status == 409 and "UID" in refused.message):
            return ""  # gone already, or made again elsewhere
        if refused.status in (409, 429) or refused.transient:
            return _why(refused)
        if refused.status == 403 and "terminating" in refused.message.lower():
            return ""
        raise
    return ""


def _why(refused: ApiRefused) -> str:
    causes = "; ".join(str(one["message"]) for one in refused.causes if one.get("message"))
    return causes or refused.message


def _is_gone(api: Api, namespace: str, name: str, *, uid: str) -> bool:
    pod = api.find(kinds.POD.path(namespace, name))
    return pod is None or pod["metadata"]["uid"] != uid


def _objection(pod: Object, *, force: bool, delete_local_data: bool, ignore_daemon_sets: bool) -> tuple[str, bool]:
    """Why the pod is not evicted, and whether the caller should know before anything is done."""
    metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase")
    if _MIRROR in (metadata.get("annotations") or {}):
        return "it belongs to the node itself (a mirror pod)", False
    owner = next((one for one in metadata.get("ownerReferences") or () if one.get("controller")), None)
    if owner is not None and owner["kind"] == "DaemonSet":
        return f"it belongs to the daemon set {owner['name']}", not ignore_daemon_sets
    if metadata.get("deletionTimestamp") or phase in ("Succeeded", "Failed") or PLACE in (metadata.get("labels") or {}):
        return "", False
    if owner is None and not force:
        return "nobody would make it again (it has no owner)", True
    if not delete_local_data and any("emptyDir" in one for one in pod["spec"].get("volumes") or ()):
        return "it keeps data on the node (emptyDir)", True
    return "", False


def _left(pod: Object, why: str) -> Left:
    return Left(*_key(pod), why)


def _key(pod: Object) -> tuple[str, str]:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]
