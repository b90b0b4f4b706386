"""How do resource instances get into a Kubernetes cluster, and out of it again? The executor's verb `yaml_apply_delete`.

Stateless: what is asked for comes with the call, fields by the names of contract pcapi. Applying and deleting again is the
same as once. Answers are plain data, as they may go over HTTP.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cloudsched.domain import instance_manifests as manifests
from cloudsched.domain import instances
from cloudsched.domain.instance_manifests import CREDENTIALS, ENGINE, INSTANCE, KINDS, MANAGED, MANAGER, Manifest
from cloudsched.domain.instances import Fault, InvalidInstance, Names, Spec
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.installing.hosts import Script
from cloudsched.errors import Invalid
from cloudsched.services.centre import executor, executor_ops
from cloudsched.services.centre.centre_calls import register_verb
from cloudsched.settings import Settings

if TYPE_CHECKING:
    from cloudsched.drivers.kubernetes import KubernetesDriver

Told = list[dict[str, str]]  # kind, name, action
APPLY, DELETE = "apply", "delete"
ACTIONS = {"": APPLY, "apply": APPLY, "create": APPLY, "new": APPLY, "update": APPLY, "delete": DELETE, "remove": DELETE}
DELETE_LIMIT_S = 120.0
_REQUEST_LIMIT_S, _LIMIT_MOST_S = 30.0, 600.0
_READ_KUBECONFIG = "cat /etc/kubernetes/admin.conf\n"
_CONTROLLERS = ("StatefulSet", "Deployment", "DaemonSet", "CronJob", "Job", "Pod")
# What a namespace has by itself, or for all instances in it.
_OWN_CONTENT = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt")}
_CONTENT_KINDS = (*KINDS, "ServiceAccount", "ConfigMap", "ReplicaSet", "NetworkPolicy", "RoleBinding", "Role")


def apply_delete(given: Mapping[str, Any], *, kubeconfig: str, settings: Settings, dry_run: bool = False,
                 limit_s: float = DELETE_LIMIT_S) -> dict[str, Any]:
    """Have one instance in the cluster as `given` says, or have it gone (`action` delete).

    Answers `{"action", "objects": [{"kind", "name", "action"}], "node_port", "yaml"}` (`yaml` in a dry run, which changes
    nothing and needs no cluster). Raises InvalidInstance, Invalid at `kubeconfig`; DriverError when the cluster says no,
    cannot be reached, or something is left (`details["left"]`).
    """
    action = ACTIONS.get(str(given.get("action") or "").strip().lower())
    if action is None:
        raise InvalidInstance([Fault("action", "choice", "apply, delete", str(given.get("action"))[:40])])
    names = named(given)
    if action == DELETE:
        gone = [] if dry_run else delete(open_cluster(kubeconfig, settings), names, limit_s=limit_s)
        return {"action": DELETE, "objects": gone}
    spec, password = instances.read(given), instances.check_password(given.get("source_authpasswd"))
    stopped = str(given.get("source_stopped") or "") == "1"
    if dry_run:
        made = manifests.all_of(names, spec, password, stopped=stopped)
        return {"action": APPLY, "objects": [{"kind": one["kind"], "name": one["metadata"]["name"], "action": "dry run"}
                                             for one in made], "node_port": spec.source_outsideport,
                "yaml": manifests.as_yaml(made)}
    return apply(open_cluster(kubeconfig, settings), names, spec, password, stopped=stopped, limit_s=limit_s)


def named(given: Mapping[str, Any]) -> Names:
    """The names that came with the call, or those that follow from its ids. Raises InvalidInstance."""
    engine = str(given.get("source_podengine") or instances.STATEFUL_SET)
    controller = str(given.get("podcd_name") or "").strip()
    key = str(given.get("id") or "").strip() or controller.rpartition("-")[0]
    if not key:
        raise InvalidInstance([Fault("podcd_name", "missing", "<id>-statefulset")])
    made = instances.names_of(key, cluster=str(given.get("clusterid") or ""), org=str(given.get("orgid") or ""), engine=engine)
    found = {"namespace": given.get("namespace_name"), "account": given.get("serviceaccount_name"), "controller": controller,
             "service": given.get("service_name")}
    names = Names(made.key, **{part: str(value or getattr(made, part)).strip() for part, value in found.items()})
    faults = [Fault(wire, "form", "[a-z0-9]([-a-z0-9]*[a-z0-9])?", getattr(names, part)[:80]) for part, wire in (
        ("namespace", "namespace_name"), ("account", "serviceaccount_name"), ("controller", "podcd_name"),
        ("service", "service_name")) if not instances.is_label(getattr(names, part), 253 if part == "account" else 63)]
    if not given.get("namespace_name") and not given.get("clusterid"):
        faults.append(Fault("namespace_name", "missing"))
    if names.namespace == "default" or names.namespace.startswith("kube-"):
        faults.append(Fault("namespace_name", "choice", "<clusterid>-<orgid>", names.namespace))
    if faults:
        raise InvalidInstance(faults)
    return names


def open_cluster(kubeconfig: str, settings: Settings) -> KubernetesDriver:
    """The driver of the cluster that a kubeconfig (its text) leads to. Raises Invalid at `kubeconfig`."""
    from cloudsched.drivers.kubernetes import make

    if not kubeconfig.strip():
        raise Invalid.at("kubeconfig", "is missing", "the text of a kubeconfig")
    options = {"timeout_s": _REQUEST_LIMIT_S, "allow_exec": False}
    return make(Place("centre", "Kubernetes", options, credentials={"kubeconfig": kubeconfig}, state_dir=settings.state.dir))


# -- apply -----------------------------------------------------------------------------------------------------


def apply(cluster: KubernetesDriver, names: Names, spec: Spec, password: str, *, stopped: bool = False,
          limit_s: float = DELETE_LIMIT_S) -> dict[str, Any]:
    """Create or change the objects; what cannot be changed in place is made anew, what is no longer asked for goes."""
    deadline = time.monotonic() + limit_s
    _check_node_port(cluster, names, spec)
    revision = _revision(cluster, names, spec, password)
    owner = manifests.base(names, spec, password, revision=revision)
    wanted = manifests.rest(names, spec, revision=revision, stopped=stopped)
    try:
        done = _made(cluster, owner, wanted, names, deadline)
    except DriverError:
        _check_node_port(cluster, names, spec)  # somebody may have taken it meanwhile
        raise
    _grow_claims(cluster, names, spec)
    done += _prune(cluster, names, spec, [*owner, *wanted], deadline)
    service = cluster.get("Service", names.service, namespace=names.namespace) or {}
    ports = [int(one.get("nodePort") or 0) for one in (service.get("spec") or {}).get("ports") or ()]
    port = ports[0] if ports and spec.source_portmode == instances.NODE_PORT else 0
    return {"action": APPLY, "objects": done, "node_port": port}


def _check_node_port(cluster: KubernetesDriver, names: Names, spec: Spec) -> None:
    """A port that another service of the cluster has is found before anything is made."""
    wanted = spec.source_outsideport
    if spec.source_portmode != instances.NODE_PORT or not wanted:
        return
    for service in _listed(cluster, "Service", "", denied_is_none=True):
        metadata = service["metadata"]
        mine = (metadata["namespace"], metadata["name"]) == (names.namespace, names.service)
        if not mine and any(one.get("nodePort") == wanted for one in (service.get("spec") or {}).get("ports") or ()):
            where = f"{wanted} ({metadata['namespace']}/{metadata['name']})"
            raise InvalidInstance([Fault("source_outsideport", "clash", "", where)])


def _revision(cluster: KubernetesDriver, names: Names, spec: Spec, password: str) -> str:
    """Another word when user or password are others than before: the pods are then replaced."""
    live = cluster.get("Secret", names.secret, namespace=names.namespace)
    if live is None:
        return ""
    data = {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in (live.get("data") or {}).items()}
    if data == {"user": spec.source_authuser, "password": password}:
        return str((live["metadata"].get("annotations") or {}).get(CREDENTIALS, ""))
    return secrets.token_hex(4)


def _made(cluster: KubernetesDriver, owner: list[Manifest], wanted: list[Manifest], names: Names, deadline: float) -> Told:
    """All of it. A namespace that is still going (its last instance went a moment ago) is waited for, and made again."""
    while True:
        try:
            done = _told(cluster.apply(owner, force=True, manager=MANAGER, namespace=names.namespace))
            return done + _apply_or_replace(cluster, wanted, names, deadline)
        except (DriverError, Invalid) as error:
            if not _is_going(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _is_going(error: DriverError | Invalid) -> bool:
    if isinstance(error, Invalid):
        return any(one.field == "owner" for one in error.errors)  # the secret went with its namespace
    gone = getattr(error, "status", 0) == 404 and "namespaces " in error.message
    return gone or any(one.get("reason") == "NamespaceTerminating" for one in getattr(error, "causes", ()))


def _apply_or_replace(cluster: KubernetesDriver, wanted: list[Manifest], names: Names, deadline: float) -> Told:
    owner = {"apiVersion": "v1", "kind": "Secret", "name": names.secret, "metadata": {"name": names.secret,
                                                                                     "namespace": names.namespace}}
    for last in (False, True):
        try:
            return _told(cluster.apply(wanted, owner=owner, force=True, manager=MANAGER, namespace=names.namespace))
        except DriverError as error:
            controller = _fixed(error, wanted)
            if last or controller is None:
                raise
            cluster.delete([_reference(controller)], namespace=names.namespace, timeout_s=_left_s(deadline))
    raise AssertionError("the second time ends it")


def _fixed(error: DriverError, wanted: Iterable[Manifest]) -> Manifest | None:
    """The controller whose fields cannot be changed in place, when that is what was refused."""
    if getattr(error, "status", 0) != 422 or not any(
            word in error.message for word in ("immutable", "Forbidden", "may not change", "forbidden")):
        return None
    refused = str(error.details.get("object", ""))
    return next((one for one in wanted if one["kind"] in _CONTROLLERS
                 and refused == f"{one['kind']} {one['metadata']['namespace']}/{one['metadata']['name']}"), None)


def _grow_claims(cluster: KubernetesDriver, names: Names, spec: Spec) -> None:
    """Volumes of a stateful set that were made smaller than is asked for now."""
    if spec.source_podengine != instances.STATEFUL_SET or not spec.storage_gi:
        return
    size = f"{spec.storage_gi}Gi"
    claims = cluster.objects("PersistentVolumeClaim", namespace=names.namespace, selector=f"{INSTANCE}={names.key}")
    grown = [{"apiVersion": "v1", "kind": "PersistentVolumeClaim",
              "metadata": {"name": one["metadata"]["name"], "namespace": names.namespace},
              "spec": {"resources": {"requests": {"storage": size}}}}
             for one in claims if instances.disk_gi(str(one["spec"]["resources"]["requests"]["storage"])) < spec.storage_gi]
    if grown:
        cluster.apply(grown, force=True, manager=MANAGER, namespace=names.namespace)


def _prune(cluster: KubernetesDriver, names: Names, spec: Spec, wanted: Sequence[Manifest], deadline: float) -> Told:
    """Objects of the instance that are not asked for any more: another engine's, an ingress, an autoscaler."""
    keep = {(one["kind"], one["metadata"]["name"]) for one in wanted}
    if spec.source_podengine == instances.STATEFUL_SET and spec.storage_gi:
        keep |= {("PersistentVolumeClaim", f"data-{names.controller}-{number}") for number in range(spec.pods)}
    extra = [one for one in _own(cluster, names) if (one["kind"], one["metadata"]["name"]) not in keep]
    if not extra:
        return []
    gone = cluster.delete([_reference(one) for one in extra], namespace=names.namespace, timeout_s=_left_s(deadline))
    return [{"kind": one.kind, "name": one.name, "action": "deleted"} for one in gone]


# -- delete ----------------------------------------------------------------------------------------------------


def delete(cluster: KubernetesDriver, names: Names, *, limit_s: float = DELETE_LIMIT_S) -> Told:
    """Take away everything of the instance, users before what they use, and prove it; returns what went.

    Namespace and account go with the last instance in them. What is not there is no error. Raises DriverError
    (`details["left"]`) when something is left after `limit_s`.
    """
    deadline = time.monotonic() + limit_s
    space = cluster.get("Namespace", names.namespace)
    if space is None:
        return []
    gone: Told = []
    for _ in range(3):  # a controller may have made something while we looked
        found = _own(cluster, names)
        if not found:
            break
        try:
            removed = cluster.delete([_reference(one) for one in found], namespace=names.namespace, timeout_s=_left_s(deadline))
        except DriverError as error:
            error.details.setdefault("left", list(getattr(error, "left", ())))
            raise
        gone += [{"kind": one.kind, "name": one.name, "action": "deleted"} for one in removed]
    _prove(cluster, names, deadline)
    return gone + _namespace_too(cluster, names, space, deadline)


def _prove(cluster: KubernetesDriver, names: Names, deadline: float) -> None:
    """Nothing carries the instance's label any more; what controllers made may take a moment longer to go."""
    while True:
        left = [f"{kind} {one['metadata']['name']}" for kind in KINDS
                for one in _listed(cluster, kind, names.namespace, f"{INSTANCE}={names.key}")]
        if not left:
            return
        if time.monotonic() >= deadline:
            raise DriverError(f"still there: {', '.join(left[:10])}", transient=True, details={"left": left})
        time.sleep(0.1)


def _namespace_too(cluster: KubernetesDriver, names: Names, space: Manifest, deadline: float) -> Told:
    """The namespace, when we made it and nothing is in it any more."""
    if (space["metadata"].get("labels") or {}).get(MANAGED) != MANAGER:
        return []
    own = _OWN_CONTENT | {("ServiceAccount", names.account)}
    try:
        if any((kind, one["metadata"]["name"]) not in own for kind in _CONTENT_KINDS
               for one in _listed(cluster, kind, names.namespace)):
            return []
    except DriverError as error:
        if getattr(error, "status", 0) == 403:  # what we may not see may be somebody's
            return []
        raise
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": names.account, "namespace": names.namespace}}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.namespace}}
    removed = cluster.delete([account, namespace], namespace=names.namespace, timeout_s=_left_s(deadline))
    return [{"kind": one.kind, "name": one.name, "action": "deleted"} for one in removed]


def _own(cluster: KubernetesDriver, names: Names) -> list[Manifest]:
    """What we made for the instance, and the volumes of its stateful set; not what its controllers made."""
    found = []
    for kind in KINDS:
        for one in _listed(cluster, kind, names.namespace, f"{INSTANCE}={names.key}"):
            owners = [owner for owner in one["metadata"].get("ownerReferences") or () if owner.get("controller")]
            if all(owner["kind"] == "Secret" and owner["name"] == names.secret for owner in owners):
                found.append({**one, "kind": kind})
    return found


# -- look ------------------------------------------------------------------------------------------------------


def look(cluster: KubernetesDriver) -> dict[str, dict[str, Any]]:
    """How all instances of a cluster are, by their label: `{"phase", "ready", "wanted", "reason"}`.

    `phase`: running, starting, stopped, ended, failed. Six requests (and their pages), however many instances there are.
    """
    found: dict[str, dict[str, Any]] = {}
    for kind in _CONTROLLERS:
        for one in _listed(cluster, kind, "", f"{INSTANCE},{ENGINE}"):
            if not one["metadata"].get("deletionTimestamp"):
                found[one["metadata"]["labels"][INSTANCE]] = _LOOKS[kind](one.get("spec") or {}, one.get("status") or {})
    return found


def _replicas(spec: Manifest, status: Manifest) -> dict[str, Any]:
    wanted, ready = int(spec.get("replicas", 1)), int(status.get("readyReplicas") or 0)
    return _seen("stopped" if not wanted else "running" if ready >= wanted else "starting", ready, wanted,
                 "" if ready >= wanted else _condition(status, "Progressing", "ReplicaFailure"))


def _daemons(_spec: Manifest, status: Manifest) -> dict[str, Any]:
    wanted, ready = int(status.get("desiredNumberScheduled") or 0), int(status.get("numberReady") or 0)
    return _seen("running" if ready >= wanted else "starting", ready, wanted)


def _cron(spec: Manifest, status: Manifest) -> dict[str, Any]:
    return _seen("stopped" if spec.get("suspend") else "running", len(status.get("active") or ()), 0)


def _job(spec: Manifest, status: Manifest) -> dict[str, Any]:
    conditions = {one["type"]: one for one in status.get("conditions") or () if one.get("status") == "True"}
    ready, wanted = int(status.get("active") or 0), int(spec.get("completions") or 1)
    if "Complete" in conditions:
        return _seen("ended", 0, wanted)
    if "Failed" in conditions:
        return _seen("failed", 0, wanted, str(conditions["Failed"].get("message") or conditions["Failed"].get("reason") or ""))
    return _seen("stopped" if spec.get("suspend") else "running" if ready else "starting", ready, wanted)


def _pod(_spec: Manifest, status: Manifest) -> dict[str, Any]:
    phase = {"Running": "running", "Succeeded": "ended", "Failed": "failed"}.get(status.get("phase", ""), "starting")
    ready = all(one.get("ready") for one in status.get("containerStatuses") or ()) and phase == "running"
    return _seen(phase, int(ready), 1, str(status.get("message") or status.get("reason") or ""))


def _condition(status: Manifest, *sorts: str) -> str:
    bad = (one for one in status.get("conditions") or () if one.get("type") in sorts
           and (one.get("type") == "ReplicaFailure") == (one.get("status") == "True"))
    return next((str(one.get("message") or "") for one in bad), "")


def _seen(phase: str, ready: int, wanted: int, reason: str = "") -> dict[str, Any]:
    return {"phase": phase, "ready": ready, "wanted": wanted, "reason": reason[:400]}


_LOOKS = {"StatefulSet": _replicas, "Deployment": _replicas, "DaemonSet": _daemons, "CronJob": _cron, "Job": _job, "Pod": _pod}


# -- as verbs --------------------------------------------------------------------------------------------------


def yaml_apply_delete(params: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The verb of that name, with the parameters of contract pcapi; `limit_s`: how long it may take."""
    dry_run = params.get("dry_run") is True
    return apply_delete(params, kubeconfig="" if dry_run else kubeconfig_of(params), settings=settings, dry_run=dry_run,
                        limit_s=_limit_s(params.get("limit_s")))


def _limit_s(given: Any) -> float:
    try:
        limit_s = float(given or DELETE_LIMIT_S)
    except ValueError:
        limit_s = -1.0
    if not 0 < limit_s <= _LIMIT_MOST_S:
        raise InvalidInstance([Fault("limit_s", "range", f"0..{_LIMIT_MOST_S:g}", str(given)[:40])])
    return limit_s


def kubeconfig_of(params: Mapping[str, Any]) -> str:
    """The kubeconfig that came with a call, or the one on the host that came instead. Raises Invalid at `host`, DriverError."""
    where = executor.where_from({**params, "password": params.get("psssword") or params.get("password") or ""})
    if where.kubeconfig or where.access is None:
        return where.kubeconfig
    return executor_ops.host(where.access).asked(Script(_READ_KUBECONFIG, limit_s=_REQUEST_LIMIT_S), "read its kubeconfig")


register_verb("yaml_apply_delete", yaml_apply_delete)


# -- parts -----------------------------------------------------------------------------------------------------


def _listed(cluster: KubernetesDriver, kind: str, namespace: str, selector: str = "", *,
            denied_is_none: bool = False) -> list[Manifest]:
    """Objects of a kind; none of a kind that the cluster does not have."""
    try:
        return cluster.objects(kind, namespace=namespace, selector=selector)
    except DriverError as error:
        status = getattr(error, "status", 0)
        if status == 404 or (status == 403 and denied_is_none):
            return []
        raise


def _reference(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"],
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]}}


def _told(applied: Iterable[Any]) -> Told:
    return [{"kind": one.kind, "name": one.name, "action": one.action} for one in applied]


def _left_s(deadline: float) -> float:
    return max(0.1, deadline - time.monotonic())
