"""What does the pod of a pilot look like? Our agent as an unprivileged user, with the share that was asked for."""

from __future__ import annotations

import json
from typing import Any

from cloudsched.drivers.agentfile import FILE_NAME, agent_digest
from cloudsched.drivers.base import Place, Wanted
from cloudsched.drivers.kubernetes import names
from cloudsched.drivers.kubernetes.client import Object
from cloudsched.drivers.kubernetes.nodes import check_labels
from cloudsched.drivers.kubernetes.options import CARRIED, Options
from cloudsched.drivers.kubernetes.quantities import GPU

CONTAINER = "agent"
BIN, TOKEN, WORK = "/cloudsched/bin", "/cloudsched/token", "/cloudsched/work"


def manifest(wanted: Wanted, place: Place, options: Options, *, namespace: str, server_url: str, agent_map: str) -> Object:
    """The pod for `wanted`. Its secret has the pod's own name."""
    title = names.pod_name(place, wanted.name)
    spec: Object = {
        "restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False,
        "terminationGracePeriodSeconds": options.grace_s, "securityContext": _pod_security(options),
        "containers": [{
            "name": CONTAINER, "image": wanted.image or options.image, "command": _command(wanted, options, server_url),
            "env": _environment(wanted, place, title), "resources": _resources(wanted, options),
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "terminationMessagePolicy": "FallbackToLogsOnError", "volumeMounts": _mounts(options)}],
        "volumes": _volumes(title, agent_map, wanted, options)}
    label = options.instance_type_label
    selector = {**options.node_selector, **({label: wanted.instance_type} if label and wanted.instance_type else {})}
    check_labels(selector)
    for key, value in {"nodeSelector": selector, "tolerations": [dict(one) for one in options.tolerations],
                       "serviceAccountName": options.service_account, "priorityClassName": options.priority_class,
                       "imagePullSecrets": [{"name": one} for one in options.pull_secrets]}.items():
        if value:
            spec[key] = value
    return {"apiVersion": "v1", "kind": "Pod", "metadata": _metadata(title, namespace, wanted, place, options), "spec": spec}


def _metadata(title: str, namespace: str, wanted: Wanted, place: Place, options: Options) -> Object:
    labels = {names.MANAGED: "cloudsched", names.ROLE: names.PILOT, names.PLACE: names.place_mark(place),
              names.INSTANCE: names.instance_mark(place)}
    if options.agent == CARRIED:
        labels[names.AGENT] = agent_digest()[:16]
    notes = {names.NAME: wanted.name, names.CLOUD: place.name, names.INSTALLATION: place.instance,
             names.NODE_ID: str(wanted.node_id),
             # An autoscaler would move it; its jobs would have to begin again.
             "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    if wanted.labels:
        notes[f"{names.DOMAIN}/labels"] = json.dumps(dict(wanted.labels), sort_keys=True)
    return {"name": title, "namespace": namespace, "labels": labels, "annotations": notes}


def _command(wanted: Wanted, options: Options, server_url: str) -> list[str]:
    program = ["python3", f"{BIN}/{FILE_NAME}"] if options.agent == CARRIED else ["cloudsched-agent"]
    command = [*program, "--server", server_url, "--token-file", f"{TOKEN}/token", f"--name={wanted.name}",
               "--work-dir", WORK, "--cores", str(wanted.cores), "--slots", str(max(1, wanted.slots)),
               "--orphan-timeout", f"{options.orphan_timeout_s:g}", "--log-level", options.log_level]
    for flag, value in (("--memory-mb", wanted.memory_mb), ("--storage-gb", wanted.storage_gb)):
        command += [flag, str(value)] if value else []
    return [_plain(one) for one in command + ([f"--tags={options.tags}"] if options.tags else [])]


def _environment(wanted: Wanted, place: Place, title: str) -> list[Object]:
    facts = {"CLOUDSCHED_NODE": wanted.name, "CLOUDSCHED_INSTANCE": place.instance, "CLOUDSCHED_MACHINE": title,
             "HOME": WORK, "TMPDIR": WORK, "PYTHONDONTWRITEBYTECODE": "1"}
    return [{"name": name, "value": _plain(value)} for name, value in facts.items()]


def _plain(text: str) -> str:
    """`$(X)` would be replaced by a variable."""
    return text.replace("$(", "$$(")


def _resources(wanted: Wanted, options: Options) -> Object:
    share = {"cpu": str(wanted.cores)}
    share |= {"memory": f"{wanted.memory_mb}Mi"} if wanted.memory_mb else {}
    share |= {"ephemeral-storage": f"{wanted.storage_gb}Gi"} if wanted.storage_gb else {}
    share |= {GPU: str(wanted.gpus)} if wanted.gpus else {}
    share |= options.resources
    return {"requests": share, "limits": dict(share)}


def _pod_security(options: Options) -> Object:
    user = options.run_as_user
    if user == 0:
        return {"seccompProfile": {"type": "RuntimeDefault"}}
    return {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"}}


def _mounts(options: Options) -> list[Object]:
    found: list[Object] = [{"name": "token", "mountPath": TOKEN, "readOnly": True}, {"name": "work", "mountPath": WORK}]
    return [*found, {"name": "agent", "mountPath": BIN, "readOnly": True}] if options.agent == CARRIED else found


def _volumes(title: str, agent_map: str, wanted: Wanted, options: Options) -> list[Object]:
    room: dict[str, Any] = {"sizeLimit": f"{wanted.storage_gb}Gi"} if wanted.storage_gb else {}
    found: list[Object] = [{"name": "token", "secret": {"secretName": title, "defaultMode": 0o440}},
                           {"name": "work", "emptyDir": room}]
    return [*found, {"name": "agent", "configMap": {"name": agent_map}}] if options.agent == CARRIED else found
