"""What does the server fill in, and what does it refuse? Defaults and validation, as far as clients notice them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from typing import Any

from cloudsched.testing.kubeapi import answers
from cloudsched.testing.kubeapi.kinds import Kind, Object

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_QUANTITY = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(([eE][+-]?\d+)|[numkMGTPE]|[KMGTPE]i)?")
_LABEL_NAMED = {"Namespace", "Service"}
_FREE_NAMED = {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
_MAX_DATA = 1_048_576


def default(kind: Kind, thing: Object) -> None:
    """Fill in, in place."""
    spec = thing.get("spec")
    filler = _FILLERS.get(kind.kind)
    if filler is not None and (isinstance(spec, dict) or kind.kind in ("Secret", "Namespace")):
        filler(thing)


def check(kind: Kind, thing: Object, live: Object | None) -> None:
    """422 with the fields that are wrong."""
    name = thing["metadata"]["name"]
    faults = [*_metadata_faults(kind, thing), *_CHECKS.get(kind.kind, _no_faults)(thing)]
    if live is not None:
        faults += _changed_faults(kind, thing, live)
    if faults:
        raise answers.invalid(kind, name, *faults)


def pod_template(thing: Object) -> Object:
    template: Object = thing["spec"]["template"]
    return template


def digest(value: Any) -> str:
    """The hash in the names of what a controller makes."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


# -- defaults ------------------------------------------------------------------------------------------------


def _fill_pod_spec(spec: Object, *, restart: str = "Always") -> None:
    given = {"restartPolicy": restart, "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
             "terminationGracePeriodSeconds": 30, "securityContext": {}}
    for key, value in given.items():
        spec.setdefault(key, value)
    for one in [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]:
        one.setdefault("imagePullPolicy", "IfNotPresent" if ":" in one.get("image", "") else "Always")
        one.setdefault("terminationMessagePath", "/dev/termination-log")
        one.setdefault("terminationMessagePolicy", "File")
        resources = one.setdefault("resources", {})
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
        for port in one.get("ports") or ():
            port.setdefault("protocol", "TCP")
    for volume in spec.get("volumes") or ():
        for sort in ("secret", "configMap"):
            if isinstance(volume.get(sort), dict):
                volume[sort].setdefault("defaultMode", 420)


def _fill_pod(thing: Object) -> None:
    spec = thing["spec"]
    _fill_pod_spec(spec)
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    spec.setdefault("tolerations", [])
    for key in ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"):
        if not any(one.get("key") == key for one in spec["tolerations"]):
            spec["tolerations"].append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _fill_template(thing: Object, **how: Any) -> None:
    template = thing["spec"].get("template")
    if isinstance(template, dict) and isinstance(template.get("spec"), dict):
        _fill_pod_spec(template["spec"], **how)


def _fill_deployment(thing: Object) -> None:
    for key, value in {"replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
                       "strategy": {"type": "RollingUpdate",
                                    "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}}.items():
        thing["spec"].setdefault(key, value)
    _fill_template(thing)


def _fill_replicas(thing: Object) -> None:
    thing["spec"].setdefault("replicas", 1)
    if thing.get("kind") == "StatefulSet":
        thing["spec"].setdefault("podManagementPolicy", "OrderedReady")
        thing["spec"].setdefault("serviceName", "")
        thing["spec"].setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    _fill_template(thing)


def _fill_job(thing: Object) -> None:
    spec = thing["spec"]
    for key, value in {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False}.items():
        spec.setdefault(key, value)
    if spec["parallelism"] == 1:
        spec.setdefault("completions", 1)
    spec.setdefault("selector", {"matchLabels": {"batch.kubernetes.io/controller-uid": thing["metadata"]["uid"]}})
    _fill_template(thing)
    labels = spec["template"].setdefault("metadata", {}).setdefault("labels", {})
    uid, name = thing["metadata"]["uid"], thing["metadata"]["name"]
    labels |= {"batch.kubernetes.io/controller-uid": uid, "controller-uid": uid,
               "batch.kubernetes.io/job-name": name, "job-name": name}


def _fill_service(thing: Object) -> None:
    spec = thing["spec"]
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    number = int(hashlib.sha256(thing["metadata"]["uid"].encode()).hexdigest()[:6], 16)
    if spec["type"] != "ExternalName":
        spec.setdefault("clusterIP", f"10.96.{number // 250 % 250}.{number % 250 + 1}")
        spec.setdefault("clusterIPs", [spec["clusterIP"]])
    for place, port in enumerate(spec.get("ports") or ()):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
        if spec["type"] in ("NodePort", "LoadBalancer"):
            port.setdefault("nodePort", 30000 + (number + place) % 2768)


def _fill_claim(thing: Object) -> None:
    thing["spec"].setdefault("volumeMode", "Filesystem")


def _fill_secret(thing: Object) -> None:
    import base64

    thing.setdefault("type", "Opaque")
    given = thing.pop("stringData", None)
    if given:
        thing["data"] = (thing.get("data") or {}) | {
            key: base64.b64encode(str(value).encode()).decode() for key, value in given.items()}


def _fill_namespace(thing: Object) -> None:
    thing.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    labels = thing["metadata"].get("labels") or {}
    thing["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": thing["metadata"]["name"]}


def _fill_daemon_set(thing: Object) -> None:
    _fill_template(thing)


_FILLERS = {"Pod": _fill_pod, "Deployment": _fill_deployment, "StatefulSet": _fill_replicas, "ReplicaSet": _fill_replicas,
            "Job": _fill_job, "Service": _fill_service, "PersistentVolumeClaim": _fill_claim, "Secret": _fill_secret,
            "Namespace": _fill_namespace, "DaemonSet": _fill_daemon_set}


# -- validation ----------------------------------------------------------------------------------------------

Faults = list[tuple[str, str]]


def _no_faults(_thing: Object) -> Faults:
    return []


def _metadata_faults(kind: Kind, thing: Object) -> Faults:
    metadata = thing["metadata"]
    name = str(metadata["name"])
    faults = []
    if kind.kind in _LABEL_NAMED:
        good = bool(_DNS_LABEL.fullmatch(name)) and len(name) <= 63
    else:
        good = kind.kind in _FREE_NAMED or (bool(_DNS_NAME.fullmatch(name)) and len(name) <= 253)
    if not good:
        sort = "label" if kind.kind in _LABEL_NAMED else "subdomain"
        faults.append(("metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 {sort} must consist of lower '
                       "case alphanumeric characters or '-', and must start and end with an alphanumeric character"))
    for key, value in (metadata.get("labels") or {}).items():
        if not _LABEL_KEY.fullmatch(key) or not isinstance(value, str) or len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
            faults.append(("metadata.labels", f'Invalid value: "{value}": a valid label must be an empty string or consist '
                           "of alphanumeric characters, '-', '_' or '.', and must start and end with one"))
    for place, one in enumerate(metadata.get("ownerReferences") or ()):
        faults += [(f"metadata.ownerReferences[{place}].{key}", "Required value: must not be empty")
                   for key in ("apiVersion", "kind", "name", "uid") if not one.get(key)]
    return faults


def _pod_faults(thing: Object, path: str = "spec") -> Faults:
    spec = thing.get("spec") or {}
    faults: Faults = []
    if not spec.get("containers"):
        return [(f"{path}.containers", "Required value")]
    volumes = {one.get("name") for one in spec.get("volumes") or ()}
    for place, one in enumerate(spec["containers"]):
        where = f"{path}.containers[{place}]"
        if not one.get("name"):
            faults.append((f"{where}.name", "Required value"))
        if not one.get("image"):
            faults.append((f"{where}.image", "Required value"))
        faults += [(f"{where}.volumeMounts[{number}].name", f'Not found: "{mount.get("name")}"')
                   for number, mount in enumerate(one.get("volumeMounts") or ()) if mount.get("name") not in volumes]
        for sort, values in (one.get("resources") or {}).items():
            faults += [(f"{where}.resources.{sort}", f'Invalid value: "{value}": quantities must match the regular expression')
                       for value in (values or {}).values() if not _QUANTITY.fullmatch(str(value))]
    if spec.get("restartPolicy", "Always") not in ("Always", "OnFailure", "Never"):
        faults.append((f"{path}.restartPolicy", f'Unsupported value: "{spec["restartPolicy"]}": supported values: '
                       '"Always", "OnFailure", "Never"'))
    return faults


def _template_faults(thing: Object) -> Faults:
    spec = thing.get("spec") or {}
    if not isinstance(spec.get("template"), dict):
        return [("spec.template.spec.containers", "Required value")]
    faults = _pod_faults(_with_claims(spec["template"], spec.get("volumeClaimTemplates") or ()), "spec.template.spec")
    if thing["kind"] != "Job":
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        wanted = (spec.get("selector") or {}).get("matchLabels")
        if wanted is None and not (spec.get("selector") or {}).get("matchExpressions"):
            faults.append(("spec.selector", "Required value"))
        elif any(labels.get(key) != value for key, value in (wanted or {}).items()):
            faults.append(("spec.template.metadata.labels", f"Invalid value: {json.dumps(labels)}: `selector` does not "
                           "match template `labels`"))
    elif (spec["template"].get("spec") or {}).get("restartPolicy", "Always") not in ("Never", "OnFailure"):
        faults.append(("spec.template.spec.restartPolicy", 'Required value: valid values: "OnFailure", "Never"'))
    return faults


def _with_claims(template: Object, claims: Iterable[Object]) -> Object:
    """The template, with the volumes that a StatefulSet's claims bring."""
    brought = [{"name": claim["metadata"]["name"], "emptyDir": {}} for claim in claims]
    spec = template.get("spec") or {}
    return {**template, "spec": {**spec, "volumes": [*(spec.get("volumes") or ()), *brought]}} if brought else template


def _data_faults(thing: Object) -> Faults:
    size = sum(len(str(value)) for sort in ("data", "binaryData") for value in (thing.get(sort) or {}).values())
    if size > _MAX_DATA * 4 / 3:
        return [("data", f"Too long: may not be more than {_MAX_DATA} bytes")]
    return []


def _claim_faults(thing: Object) -> Faults:
    spec = thing.get("spec") or {}
    faults: Faults = []
    if not spec.get("accessModes"):
        faults.append(("spec.accessModes", "Required value: at least 1 access mode is required"))
    if not ((spec.get("resources") or {}).get("requests") or {}).get("storage"):
        faults.append(("spec.resources[storage]", "Required value"))
    return faults


def _service_faults(thing: Object) -> Faults:
    spec = thing.get("spec") or {}
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        return [("spec.ports", "Required value")]
    return []


_CHECKS = {"Pod": _pod_faults, "Deployment": _template_faults, "StatefulSet": _template_faults, "ReplicaSet": _template_faults,
           "DaemonSet": _template_faults, "Job": _template_faults, "ConfigMap": _data_faults, "Secret": _data_faults,
           "PersistentVolumeClaim": _claim_faults, "Service": _service_faults}
_IMMUTABLE = "field is immutable"
_POD_MUTABLE = ("tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds")


def _changed_faults(kind: Kind, thing: Object, live: Object) -> Faults:
    spec, old = thing.get("spec") or {}, live.get("spec") or {}
    contents = ("data", "binaryData", "immutable")
    if live.get("immutable") and kind.kind in ("ConfigMap", "Secret") and any(
            thing.get(one) != live.get(one) for one in contents):
        return [("data", "Forbidden: field is immutable when `immutable` is set")]
    if kind.kind == "Job" and spec.get("template") != old.get("template"):
        return [("spec.template", f"Invalid value: core.PodTemplateSpec{json.dumps(spec.get('template'))}: {_IMMUTABLE}")]
    if kind.kind in ("Deployment", "DaemonSet") and spec.get("selector") != old.get("selector"):
        return [("spec.selector", f"Invalid value: {json.dumps(spec.get('selector'))}: {_IMMUTABLE}")]
    if kind.kind == "StatefulSet":
        fixed = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
        if any(spec.get(one) != old.get(one) for one in fixed):
            return [("spec", "Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', "
                     "'template', 'updateStrategy', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' "
                     "are forbidden")]
    if kind.kind == "Pod" and _fixed_pod(spec) != _fixed_pod(old) and old.get("nodeName"):
        return [("spec", "Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"
                 "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
                 "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
                 "previously negative)")]
    return []


def _fixed_pod(spec: Object) -> Object:
    kept = {key: value for key, value in spec.items() if key not in _POD_MUTABLE}
    kept["containers"] = [{**one, "image": ""} for one in spec.get("containers") or ()]
    return kept
