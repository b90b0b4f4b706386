"""How do objects go, and is really nothing left of them? Deletion with what belongs to them, waited for and proved."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers.base import OTHER, DriverError
from cloudsched.drivers.kubernetes.client import METADATA_LIST, METADATA_ONLY, Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.kinds import Kinds, Resource
from cloudsched.drivers.kubernetes.workloads import rank, targets_of
from cloudsched.errors import Invalid

GONE, ABSENT, LEAVING = "gone", "absent", "leaving"
# What workloads leave behind is of these kinds; a selection looks at the same when it names none.
OWNED_KINDS = ("Pod", "ReplicaSet", "Job", "ControllerRevision", "Secret", "ConfigMap", "PersistentVolumeClaim", "Service",
               "StatefulSet", "Deployment", "DaemonSet")
SELECTED_KINDS = ("Ingress", "HorizontalPodAutoscaler", "Deployment", "StatefulSet", "DaemonSet", "CronJob", "Job", "ReplicaSet",
                  "Pod", "PodDisruptionBudget", "Service", "PersistentVolumeClaim", "ConfigMap", "Secret", "NetworkPolicy",
                  "RoleBinding", "Role", "ServiceAccount")
_MAKERS = frozenset({"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "CronJob", "Job"})
_PAUSE_S, _MAX_PAUSE_S = 0.05, 2.0
_FEW = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything in a namespace with these labels, of these kinds."""

    labels: str
    namespace: str = ""
    kinds: tuple[str, ...] = SELECTED_KINDS


@dataclass(frozen=True, slots=True)
class Removed:
    """`state`: gone; absent (it was not there); leaving (asked to go, not waited for)."""

    kind: str
    namespace: str
    name: str
    state: str


class NotGone(DriverError):
    """Something is left after the time was over. `left`: what, and what it waits for."""

    def __init__(self, left: list[str]) -> None:
        shown = "; ".join(left[:10]) + (f"; and {len(left) - 10} more" if len(left) > 10 else "")
        super().__init__(f"still there: {shown}", code=OTHER, transient=True)
        self.left = left


@dataclass(frozen=True)
class _Going:
    resource: Resource
    namespace: str
    name: str
    uid: str

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.resource.kind} " + (f"{self.namespace}/" if self.namespace else "") + self.name


def delete(api: Api, known: Kinds, what: Sequence[Mapping[str, Any]] | Selection, *, namespace: str, wait: bool = True,
           timeout_s: float = 120.0, grace_s: int | None = None, pause: Callable[[float], None] = time.sleep) -> list[Removed]:
    """Delete manifests (by kind and name) or a selection, those that need others first; with all they own.

    With `wait`, returns when every object and everything it owned is gone, or raises NotGone with what is left and why
    after `timeout_s`. What is not there is no error. An object of the same name made anew meanwhile is not waited for.
    """
    deadline = time.monotonic() + timeout_s
    wanted = _selected(api, known, what, namespace) if isinstance(what, Selection) else _named(api, known, what, namespace)
    going = [one for one in wanted if one.uid]
    owned = _closure(api, known, going) if wait else []
    for one in sorted(going, key=lambda one: -rank(one.resource.kind)):
        _delete_one(api, one, grace_s)
    if wait:
        if any(one.resource.kind in _MAKERS for one in going):  # what they had just begun to make, while we see who made it
            owned = list({one.uid: one for one in [*owned, *_closure(api, known, [*going, *owned])]}.values())
        _wait(api, [*going, *owned], deadline, pause)
        _prove(api, known, [*going, *owned], deadline, pause)
    state = GONE if wait else LEAVING
    return [Removed(one.resource.kind, one.namespace, one.name, state if one.uid else ABSENT) for one in wanted]


def _named(api: Api, known: Kinds, manifests: Sequence[Mapping[str, Any]], namespace: str) -> list[_Going]:
    found = []
    for target in targets_of(known, manifests, namespace=namespace):
        live = api.find(target.path, accept=METADATA_ONLY)
        found.append(_Going(target.resource, target.namespace, target.name, live["metadata"]["uid"] if live else ""))
    return found


def _selected(api: Api, known: Kinds, what: Selection, namespace: str) -> list[_Going]:
    if not what.labels.strip():
        raise Invalid.at("labels", "an empty selection would be everything", "such as app=web")
    found = []
    for kind in what.kinds:
        resource = known.named(kind)
        where = (what.namespace or namespace) if resource.namespaced else ""
        listed = _metadata(api, resource.path(where), labelSelector=what.labels)
        found += [_Going(resource, one["metadata"].get("namespace", ""), one["metadata"]["name"], one["metadata"]["uid"])
                  for one in listed if not _is_owned(one)]
    return found


def _delete_one(api: Api, one: _Going, grace_s: int | None) -> None:
    body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground",
                    "preconditions": {"uid": one.uid}} | ({} if grace_s is None else {"gracePeriodSeconds": grace_s})
    try:
        api.send("DELETE", one.path, body, repeat=True)
    except ApiRefused as refused:
        if refused.status not in (404, 409):  # gone, or somebody else's by now
            raise


def _closure(api: Api, known: Kinds, going: Iterable[_Going]) -> list[_Going]:
    """Everything that belongs to them, and to that, and so on."""
    uids = {one.uid for one in going}
    spaces = sorted({one.namespace for one in going if one.namespace})
    belongings = [(known.named(kind), thing) for space in spaces for kind in OWNED_KINDS
                  for thing in _metadata(api, known.named(kind).path(space))]
    found: dict[str, _Going] = {}
    grown = True
    while grown:
        grown = False
        for resource, thing in belongings:
            metadata = thing["metadata"]
            if metadata["uid"] not in found and any(one["uid"] in uids for one in metadata.get("ownerReferences") or ()):
                found[metadata["uid"]] = _Going(resource, metadata["namespace"], metadata["name"], metadata["uid"])
                uids.add(metadata["uid"])
                grown = True
    return list(found.values())


def _wait(api: Api, going: list[_Going], deadline: float, pause: Callable[[float], None]) -> None:
    pause_s = _PAUSE_S
    left = going
    while True:
        there = _look(api, left)
        left = [one for one, live in there if live is not None and live["metadata"]["uid"] == one.uid]
        if not left:
            return
        if time.monotonic() >= deadline:
            raise NotGone([f"{one} ({_reason(live)})" for one, live in there if live is not None and one in left])
        pause(min(pause_s, max(0.0, deadline - time.monotonic())))
        pause_s = min(_MAX_PAUSE_S, pause_s * 1.5)


def _look(api: Api, going: list[_Going]) -> list[tuple[_Going, Object | None]]:
    """Each with what is there under its name; many of one kind are asked for at once."""
    groups: dict[tuple[Resource, str], list[_Going]] = {}
    for one in going:
        groups.setdefault((one.resource, one.namespace), []).append(one)
    found: list[tuple[_Going, Object | None]] = []
    for (resource, namespace), members in groups.items():
        if len(members) <= _FEW:
            found += [(one, api.find(one.path)) for one in members]
            continue
        by_name = {one["metadata"]["name"]: one for one in api.items(resource.path(namespace), accept=METADATA_LIST)}
        found += [(one, by_name.get(one.name)) for one in members]
    return found


def _prove(api: Api, known: Kinds, going: list[_Going], deadline: float, pause: Callable[[float], None]) -> None:
    """What was made after we had looked went too (a controller may have been quicker than our deletion)."""
    late = _closure(api, known, going)
    if late:
        _wait(api, late, deadline, pause)


def _reason(live: Object) -> str:
    """What an object that does not go waits for."""
    metadata, status = live["metadata"], live.get("status") or {}
    if not metadata.get("deletionTimestamp"):
        return "it was not asked to go"
    told = [str(one.get("message")) for one in status.get("conditions") or ()
            if live.get("kind") == "Namespace" and one.get("status") == "True" and one.get("message")]
    finalizers = [one for one in metadata.get("finalizers") or () if one != "foregroundDeletion"]
    if finalizers:
        told.append("waits for " + ", ".join(finalizers))
    return "; ".join(told) or "ending since " + str(metadata["deletionTimestamp"])


def _metadata(api: Api, path: str, **query: Any) -> list[Object]:
    """A list's metadata alone; empty when the server has no such kind or does not let us look."""
    try:
        return api.items(path, accept=METADATA_LIST, **query)
    except ApiRefused as refused:
        if refused.status in (403, 404):
            return []
        raise


def _is_owned(thing: Object) -> bool:
    """A controller takes it away, and would make it again."""
    return any(one.get("controller") for one in thing["metadata"].get("ownerReferences") or ())
