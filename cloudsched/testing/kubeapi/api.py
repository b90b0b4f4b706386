"""What do the verbs of the API do to the objects? Create, read, write, apply, delete, evict; no HTTP here."""

from __future__ import annotations

import base64
import copy
import json
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudsched.testing.kubeapi import admission, answers, checks, fields, patches, selectors
from cloudsched.testing.kubeapi.kinds import Kind, Object
from cloudsched.testing.kubeapi.store import Store

_FIXED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "name", "namespace")
_GENERATED = "bcdfghjklmnpqrstvwxz2456789"
NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}
_FOREGROUND, _ORPHAN = "foregroundDeletion", "orphan"


class Api:
    """The verbs, each for a moment alone with the store. `manager` is the field manager of a write."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- reading -----------------------------------------------------------------------------------------------

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        found = self.store.get(kind, namespace, name)
        if found is None:
            raise answers.not_found(kind, name)
        return found

    def list(self, kind: Kind, namespace: str, query: Mapping[str, str]) -> Object:
        """A list body: a page of at most `limit`, and the token to go on with."""
        with self.store.lock:
            version, after = self._position(kind, query)
            things = [one for one in self.store.all(kind, namespace) if after is None or _key(one) > after]
            things = [one for one in things if self._wanted(query)(one)]
            limit = int(query.get("limit") or 0)
            metadata: dict[str, Any] = {"resourceVersion": str(version)}
            if limit and len(things) > limit:
                last = _key(things[limit - 1])
                metadata["continue"] = base64.urlsafe_b64encode(json.dumps([version, *last]).encode()).decode()
                if not (query.get("labelSelector") or query.get("fieldSelector")):
                    metadata["remainingItemCount"] = len(things) - limit
                things = things[:limit]
        return {"kind": kind.kind + "List", "apiVersion": kind.api_version, "metadata": metadata, "items": things}

    def _position(self, kind: Kind, query: Mapping[str, str]) -> tuple[int, tuple[str, str] | None]:
        token = query.get("continue")
        if not token:
            asked = int(query.get("resourceVersion") or 0)
            if asked > self.store.version:
                raise answers.too_large(asked, self.store.version)
            return self.store.version, None
        try:
            version, namespace, name = json.loads(base64.urlsafe_b64decode(token))
            self.store.since(kind, version)
        except LookupError:
            raise answers.Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list "
                                  "result. You can start a new list without the continue parameter.") from None
        except ValueError:
            raise answers.bad_request("continue key is not valid: it is not one of this server") from None
        return version, (namespace, name)

    def _wanted(self, query: Mapping[str, str]) -> selectors.Test:
        by_labels = selectors.by_labels(query.get("labelSelector", ""))
        by_fields = selectors.by_fields(query.get("fieldSelector", ""))
        return lambda thing: by_labels(thing) and by_fields(thing)

    # -- writing -----------------------------------------------------------------------------------------------

    def create(self, kind: Kind, namespace: str, body: Object, *, manager: str = "test", dry_run: bool = False) -> Object:
        with self.store.lock:
            thing = self._accepted(kind, namespace, copy.deepcopy(body))
            if thing["metadata"].get("resourceVersion"):
                raise answers.bad_request("resourceVersion should not be set on objects to be created")
            if kind.status and kind.kind not in ("Node", "PersistentVolume"):
                thing.pop("status", None)
            return self._settle_new(kind, fields.updated(kind, None, thing, manager=manager, at=now()), dry_run=dry_run)

    def update(self, kind: Kind, namespace: str, name: str, body: Object, *, subresource: str = "", manager: str = "test",
               dry_run: bool = False) -> Object:
        with self.store.lock:
            live = self.get(kind, namespace, name)
            asked = (body.get("metadata") or {}).get("resourceVersion")
            if asked and asked != live["metadata"]["resourceVersion"]:
                raise answers.conflict(kind, name)
            uid = (body.get("metadata") or {}).get("uid")
            if uid and uid != live["metadata"]["uid"]:
                raise answers.conflict(kind, name, f"Precondition failed: UID in precondition: {uid}, UID in object meta: "
                                       f"{live['metadata']['uid']}")
            body = {**copy.deepcopy(body), "apiVersion": kind.api_version, "kind": kind.kind}
            new = _only(kind, live, body, subresource)
            return self._settle(kind, live, fields.updated(kind, live, new, manager=manager, subresource=subresource, at=now()),
                                dry_run=dry_run)

    def patch(self, kind: Kind, namespace: str, name: str, body: Any, *, sort: str, subresource: str = "",
              manager: str = "test", dry_run: bool = False) -> Object:
        """`sort`: merge, strategic or json."""
        with self.store.lock:
            live = self.get(kind, namespace, name)
            if sort == "strategic" and kind.custom:
                raise answers.Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format - "
                                      "accepted media types include: application/json-patch+json, "
                                      "application/merge-patch+json, application/apply-patch+yaml")
            patched = {"merge": patches.merge, "strategic": patches.strategic, "json": patches.json_patch}[sort](live, body)
            return self.update(kind, namespace, name, patched, subresource=subresource, manager=manager, dry_run=dry_run)

    def apply(self, kind: Kind, namespace: str, name: str, body: Object, *, manager: str, force: bool = False,
              dry_run: bool = False) -> tuple[Object, bool]:
        """Server-side apply; returns the object and whether it is new."""
        with self.store.lock:
            config = self._accepted(kind, namespace, copy.deepcopy(body), name=name)
            if (body.get("metadata") or {}).get("managedFields"):
                raise answers.bad_request("metadata.managedFields must be nil")
            checks_input(kind, config)
            live = self.store.get(kind, namespace, name)
            asked = config["metadata"].pop("resourceVersion", None)
            if asked and asked != (live or {"metadata": {"resourceVersion": ""}})["metadata"]["resourceVersion"]:
                raise answers.conflict(kind, name)
            new = fields.apply(kind, live, config, manager=manager, force=force, at=now())
            if live is None:
                return self._settle_new(kind, new, dry_run=dry_run), True
            return self._settle(kind, live, _only(kind, live, new, ""), dry_run=dry_run), False

    def _accepted(self, kind: Kind, namespace: str, body: Object, *, name: str = "") -> Object:
        """The body with the identity that its path gives it; 400 when they differ."""
        if not isinstance(body, dict):
            raise answers.bad_request("the object provided is unrecognized: it is not a map")
        for key, value in (("apiVersion", kind.api_version), ("kind", kind.kind)):
            if body.setdefault(key, value) != value:
                raise answers.bad_request(
                    f"{kind.kind} in version \"{kind.version}\" cannot be handled as a {kind.kind}: {key} does not match")
        metadata = body.setdefault("metadata", {})
        if kind.namespaced and metadata.setdefault("namespace", namespace) != namespace:
            raise answers.bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if not kind.namespaced and metadata.pop("namespace", None):
            raise answers.bad_request("namespace must not be set on a cluster-scoped resource")
        if name and metadata.setdefault("name", name) != name:
            raise answers.bad_request(f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})")
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                raise answers.invalid(kind, "", ("metadata.name", "Required value: name or generateName is required"))
            metadata["name"] = metadata["generateName"] + "".join(secrets.choice(_GENERATED) for _ in range(5))
        return body

    def _settle_new(self, kind: Kind, thing: Object, *, dry_run: bool) -> Object:
        metadata = thing["metadata"]
        namespace, name = metadata.get("namespace", ""), metadata["name"]
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        if "spec" in thing and kind.kind != "Node":
            metadata["generation"] = 1
        for key in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(key, None)
        if kind.kind in _FIRST_STATUS:
            thing.setdefault("status", copy.deepcopy(_FIRST_STATUS[kind.kind]))
        if kind.kind == "Node" and not _is_ready(thing):
            spec = thing.setdefault("spec", {})
            spec["taints"] = [*(spec.get("taints") or ()), dict(NOT_READY)]
        asked = admission.node_ports(thing)
        checks.default(kind, thing)
        checks.check(kind, thing, None)
        if self.store.get(kind, namespace, name) is not None:
            raise answers.already_exists(kind, name)
        admission.admit(self.store, kind, thing)
        admission.allocate(self.store, kind, thing, asked)
        return thing if dry_run else self.store.put(kind, thing)

    def _settle(self, kind: Kind, live: Object, new: Object, *, dry_run: bool) -> Object:
        """Keep a changed object; the same one is no change, and one without its last finalizer is gone."""
        metadata = new["metadata"]
        metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
        asked = admission.node_ports(new)
        checks.default(kind, new)
        checks.check(kind, new, live)
        admission.allocate(self.store, kind, new, asked)
        if _plain(new) == _plain(live):
            return live
        if new.get("spec") != live.get("spec") and "generation" in live["metadata"]:
            metadata["generation"] = live["metadata"]["generation"] + 1
        if dry_run:
            return new
        if metadata.get("deletionTimestamp") and not _held(kind, new):
            self.store.drop(kind, metadata.get("namespace", ""), metadata["name"])
            return new
        return self.store.put(kind, new)

    # -- ending ------------------------------------------------------------------------------------------------

    def delete(self, kind: Kind, namespace: str, name: str, options: Mapping[str, Any] | None = None, *,
               dry_run: bool = False) -> Object:
        """The object while something holds it, a Status when it is gone."""
        options = options or {}
        with self.store.lock:
            live = self.get(kind, namespace, name)
            conditions = options.get("preconditions") or {}
            for key, title in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
                wanted, there = conditions.get(key), live["metadata"][key]
                if wanted and wanted != there:
                    raise answers.conflict(kind, name, f"Precondition failed: {title} in precondition: {wanted}, "
                                           f"{title} in object meta: {there}")
            if dry_run:
                return live
            new = _dying(kind, live, options)
            if _held(kind, new):
                return live if _plain(new) == _plain(live) else self.store.put(kind, new)
            self.store.drop(kind, namespace, name)
            return answers.success(kind, name, live["metadata"]["uid"]) if kind.kind != "Pod" else new

    def delete_all(self, kind: Kind, namespace: str, query: Mapping[str, str], options: Mapping[str, Any] | None = None,
                   *, dry_run: bool = False) -> Object:
        """Delete what a list with the same query shows; returns that list."""
        with self.store.lock:
            found = self.list(kind, namespace, query)
            for one in found["items"]:
                self.delete(kind, *_key(one), options, dry_run=dry_run)
            return found

    def evict(self, kind: Kind, namespace: str, name: str, body: Mapping[str, Any], *, dry_run: bool = False) -> Object:
        """The eviction subresource: a deletion that asks the disruption budgets."""
        with self.store.lock:
            pod = self.get(kind, namespace, name)
            if not pod["metadata"].get("deletionTimestamp"):
                admission.spend_budget(self.store, pod, dry_run=dry_run)
                self.delete(kind, namespace, name, body.get("deleteOptions"), dry_run=dry_run)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def checks_input(kind: Kind, config: Object) -> None:
    """What an applied configuration must have been before anything is merged."""
    for sort in ("labels", "annotations"):
        values = config["metadata"].get(sort) or {}
        bad = [key for key, value in values.items() if not isinstance(value, str)]
        if bad:
            raise answers.bad_request(f"failed to create typed patch object ({config['metadata']['name']}; "
                                      f"{kind.api_version}, Kind={kind.kind}): .metadata.{sort}.{bad[0]}: expected string")


_FIRST_STATUS: dict[str, Object] = {
    "Pod": {"phase": "Pending", "qosClass": "Burstable"},
    "Namespace": {"phase": "Active"},
    "PersistentVolumeClaim": {"phase": "Pending"},
    "Service": {"loadBalancer": {}},
    "Deployment": {}, "StatefulSet": {"replicas": 0}, "ReplicaSet": {"replicas": 0}, "DaemonSet": {}, "Job": {},
}


def _is_ready(node: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in (node.get("status") or {}).get("conditions") or ())


def _key(thing: Object) -> tuple[str, str]:
    return thing["metadata"].get("namespace", ""), thing["metadata"]["name"]


def _only(kind: Kind, live: Object, new: Object, subresource: str) -> Object:
    """What a write to this subresource may change; the rest is as it was."""
    kept = {key: live["metadata"].get(key) for key in _FIXED}
    if subresource == "status":
        return {**copy.deepcopy(live), "status": new.get("status")}
    result = {**new, "metadata": {**(new.get("metadata") or {})}}
    for key, value in kept.items():
        result["metadata"].pop(key, None)
        if value is not None:
            result["metadata"][key] = value
    if kind.status:
        result.pop("status", None)
        if "status" in live:
            result["status"] = copy.deepcopy(live["status"])
    return result


def _plain(thing: Object) -> Object:
    """An object without the times of its field managers: those alone are no change."""
    managed = [{key: value for key, value in one.items() if key != "time"}
               for one in thing["metadata"].get("managedFields") or ()]
    return {**thing, "metadata": {**thing["metadata"], "managedFields": managed, "resourceVersion": ""}}


def _held(kind: Kind, thing: Object) -> bool:
    """Something still has to be done before the object may go."""
    metadata = thing["metadata"]
    if metadata.get("finalizers") or (kind.kind == "Namespace" and (thing.get("spec") or {}).get("finalizers")):
        return True
    return bool(kind.kind == "Pod" and metadata.get("deletionGracePeriodSeconds"))


def _dying(kind: Kind, live: Object, options: Mapping[str, Any]) -> Object:
    new = copy.deepcopy(live)
    metadata = new["metadata"]
    policy = options.get("propagationPolicy") or ("Orphan" if kind.kind == "Job" else "Background")
    finalizers = [one for one in metadata.get("finalizers") or [] if one not in (_FOREGROUND, _ORPHAN)]
    finalizers += {"Foreground": [_FOREGROUND], "Orphan": [_ORPHAN]}.get(policy, [])
    metadata["finalizers"] = finalizers
    if not finalizers:
        metadata.pop("finalizers")
    grace = _grace_s(kind, live, options)
    before = metadata.get("deletionGracePeriodSeconds")
    if before is None or grace < before:
        when = datetime.now(UTC) + timedelta(seconds=grace)
        metadata |= {"deletionTimestamp": when.strftime("%Y-%m-%dT%H:%M:%SZ"), "deletionGracePeriodSeconds": grace}
    if kind.kind == "Namespace":
        new["status"] = {**(new.get("status") or {}), "phase": "Terminating"}
    if "generation" in metadata and before is None:
        metadata["generation"] += 1
    return new


def _grace_s(kind: Kind, live: Object, options: Mapping[str, Any]) -> int:
    if kind.kind != "Pod" or not live["spec"].get("nodeName"):
        return 0
    if (live.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return 0
    given = options.get("gracePeriodSeconds")
    return int(live["spec"].get("terminationGracePeriodSeconds", 30) if given is None else given)
