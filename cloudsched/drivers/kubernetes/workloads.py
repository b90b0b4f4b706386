"""How do manifests become objects? Server-side apply: what changed, what would change, and whose fields are in the way."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers.base import OTHER, DriverError
from cloudsched.drivers.kubernetes import kinds
from cloudsched.drivers.kubernetes.client import APPLY, MANAGER, Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.diff import difference, owned
from cloudsched.drivers.kubernetes.kinds import Kinds, Resource
from cloudsched.errors import FieldError, Invalid

CREATED, CONFIGURED, UNCHANGED = "created", "configured", "unchanged"
# What others need comes first; deletion goes the other way.
ORDER = ("Namespace", "CustomResourceDefinition", "PriorityClass", "StorageClass", "ResourceQuota", "LimitRange",
         "ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "NetworkPolicy", "Secret", "ConfigMap",
         "PersistentVolume", "PersistentVolumeClaim", "Service", "PodDisruptionBudget")
_LAST = ("HorizontalPodAutoscaler", "Ingress")


@dataclass(frozen=True, slots=True)
class Target:
    """One manifest and where it goes."""

    resource: Resource
    namespace: str
    name: str
    manifest: Object

    @property
    def path(self) -> str:
        return self.resource.path(self.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.resource.kind} " + (f"{self.namespace}/" if self.namespace else "") + self.name


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of one manifest. `action`: created, configured, unchanged (in a dry run: what would be); `diff`: what a
    dry run found, as a unified diff; `object`: as it is now (in a dry run: as it would be)."""

    kind: str
    namespace: str
    name: str
    action: str
    diff: str
    object: Object


class ApplyConflict(DriverError):
    """Fields belong to somebody else. `conflicts`: `[{"field", "manager"}]`; `details["applied"]`: what was done before."""

    def __init__(self, target: Target, conflicts: list[dict[str, str]]) -> None:
        shown = "; ".join(f'{one["field"]} is managed by {one["manager"]!r}' for one in conflicts)
        super().__init__(f"{target}: {shown} (force takes it over)", code=OTHER)
        self.conflicts = conflicts


def apply(api: Api, known: Kinds, manifests: Sequence[Mapping[str, Any]], *, namespace: str,
          owner: Mapping[str, Any] | None = None, dry_run: bool = False, force: bool = False,
          manager: str = MANAGER) -> list[Applied]:
    """Apply all, those that others need first; results in the order of the manifests.

    Objects without a namespace go to `namespace`. `owner`: an object (at least kind, name) that all of them shall go with;
    it is looked up. A dry run changes nothing and shows differences. Raises Invalid for manifests that cannot be read,
    ApplyConflict for fields of other managers unless `force`; the first refusal ends the run, and its
    `details["applied"]` names what was done.
    """
    targets = targets_of(known, manifests, namespace=namespace)
    if owner is not None:
        reference, home = _owner(api, known, owner, namespace)
        targets = [_owned(one, reference, home) for one in targets]
    done: dict[int, Applied] = {}
    coming = {one.name for one in targets if one.resource == kinds.NAMESPACE}
    for number, target in sorted(enumerate(targets), key=lambda one: rank(one[1].resource.kind)):
        try:
            done[number] = _apply_one(api, target, dry_run=dry_run, force=force, manager=manager, coming=coming)
        except DriverError as error:
            error.details["applied"] = [f"{one.kind} {one.name}" for one in done.values()]
            error.details.setdefault("object", str(target))
            raise
    return [done[number] for number in range(len(targets))]


def targets_of(known: Kinds, manifests: Sequence[Mapping[str, Any]], *, namespace: str) -> list[Target]:
    """Checked manifests with their paths; a `List` stands for what is in it. Invalid names each bad one."""
    faults: list[FieldError] = []
    found = []
    for number, manifest in enumerate(_flat(manifests)):
        missing = _missing(manifest)
        if missing:
            faults.append(FieldError(f"manifests[{number}].{missing}", "is missing"))
            continue
        resource = known.of(manifest)
        own = str(manifest["metadata"].get("namespace") or "")
        if own and not resource.namespaced:
            faults.append(FieldError(f"manifests[{number}].metadata.namespace", f"a {resource.kind} has no namespace"))
            continue
        body = copy.deepcopy(dict(manifest))
        where = (own or namespace) if resource.namespaced else ""
        if where:
            body["metadata"]["namespace"] = where
        for noise in ("managedFields", "uid", "resourceVersion", "creationTimestamp", "generation"):
            body["metadata"].pop(noise, None)
        body.pop("status", None)
        found.append(Target(resource, where, str(manifest["metadata"]["name"]), body))
    if faults:
        raise Invalid("; ".join(f"{one.field}: {one.message}" for one in faults), errors=faults)
    return found


def rank(kind: str) -> int:
    if kind in _LAST:
        return len(ORDER) + 1
    return ORDER.index(kind) if kind in ORDER else len(ORDER)


def _apply_one(api: Api, target: Target, *, dry_run: bool, force: bool, manager: str, coming: set[str]) -> Applied:
    before = api.find(target.path)
    query = {"fieldManager": manager, "force": str(force).lower()} | ({"dryRun": "All"} if dry_run else {})
    try:
        after = api.send("PATCH", target.path, target.manifest, query=query, content_type=APPLY, repeat=True)[1]
    except ApiRefused as refused:
        conflicts = _conflicts(refused)
        if conflicts:
            raise ApplyConflict(target, conflicts) from refused
        if not (dry_run and refused.status == 404 and target.namespace in coming):
            refused.message = f"{target}: {refused.message}"
            refused.args = (refused.message,)
            raise
        after = target.manifest  # its namespace is one of those that this run would make
    action = CREATED if before is None else UNCHANGED if _same(before, after, manager, dry_run=dry_run) else CONFIGURED
    return Applied(target.resource.kind, target.namespace, target.name, action,
                   difference(before, after) if dry_run else "", after)


def _same(before: Object, after: Object, manager: str, *, dry_run: bool) -> bool:
    """A dry run has no version of its own; another version may come from a status, or from a controller's own note, that was
    written between our look and our apply."""
    if not dry_run and before["metadata"].get("resourceVersion") == after["metadata"].get("resourceVersion"):
        return True
    if not difference(before, after):
        return True
    ours = owned(before, manager)
    return not dry_run and ours[0] is not None and ours == owned(after, manager)


def _conflicts(refused: ApiRefused) -> list[dict[str, str]]:
    return [{"field": str(one.get("field", "")), "manager": _manager(str(one.get("message", "")))}
            for one in refused.causes if one.get("reason") == "FieldManagerConflict"]


def _manager(message: str) -> str:
    """`conflict with "kubectl" using apps/v1 at ...` -> `kubectl`."""
    return message.split('"')[1] if message.count('"') >= 2 else message


def _owner(api: Api, known: Kinds, owner: Mapping[str, Any], namespace: str) -> tuple[Object, str]:
    metadata = owner.get("metadata") or {}
    kind, name = str(owner.get("kind") or ""), str(metadata.get("name") or owner.get("name") or "")
    if not kind or not name:
        raise Invalid.at("owner", "needs kind and name")
    resource = known.named(kind, str(owner.get("apiVersion") or ""))
    home = str(metadata.get("namespace") or namespace) if resource.namespaced else ""
    uid = metadata.get("uid") or owner.get("uid")
    if not uid:
        live = api.find(resource.path(home, name))
        if live is None:
            raise Invalid.at("owner", f"{kind} {name} is not there")
        uid = live["metadata"]["uid"]
    return {"apiVersion": resource.api_version, "kind": kind, "name": name, "uid": uid, "controller": True,
            "blockOwnerDeletion": True}, home


def _owned(target: Target, reference: Object, home: str) -> Target:
    if not target.resource.namespaced or (home and target.namespace != home):
        raise Invalid.at("owner", f"{target} cannot belong to a {reference['kind']} of the namespace {home}")
    others = [one for one in target.manifest["metadata"].get("ownerReferences") or () if one.get("uid") != reference["uid"]]
    target.manifest["metadata"]["ownerReferences"] = [*others, dict(reference)]
    return target


def _flat(manifests: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    for one in manifests:
        if not isinstance(one, Mapping):
            raise Invalid.at("manifests", f"{type(one).__name__} is not a manifest", "maps with apiVersion, kind and metadata")
        if one.get("kind") == "List" and isinstance(one.get("items"), list):
            yield from _flat(one["items"])
        else:
            yield one


def _missing(manifest: Mapping[str, Any]) -> str:
    for name in ("apiVersion", "kind"):
        if not manifest.get(name) or not isinstance(manifest[name], str):
            return name
    metadata = manifest.get("metadata")
    return "" if isinstance(metadata, Mapping) and metadata.get("name") else "metadata.name"
