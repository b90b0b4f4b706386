"""Which Kubernetes objects are a resource instance? Its manifests as plain data, from what was asked for.

Namespace and service account belong to an organisation's instances in a cluster together; everything else belongs to one
instance and carries its label. The secret with user and password owns the rest, so that nothing outlives it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cloudsched.domain.instances import (
    CRON_JOB,
    DAEMON_SET,
    DATABASE,
    DEPLOYMENT,
    GPU,
    HOURLY,
    INGRESS,
    JOB,
    LOAD_BALANCER,
    NODE_PORT,
    SCALED,
    STANDALONE,
    STATEFUL_SET,
    Names,
    Spec,
)

Manifest = dict[str, Any]
MANAGER = "cloudsched"
MANAGED, INSTANCE = "app.kubernetes.io/managed-by", "cloudsched.io/resource-instance"
ENGINE = "cloudsched.io/engine"  # on controllers alone, not on their pods
TITLE, CREDENTIALS = "cloudsched.io/title", "cloudsched.io/credentials"
# Kinds an instance may have objects of, those that need others first: the order of deletion.
KINDS = ("HorizontalPodAutoscaler", "Ingress", "StatefulSet", "Deployment", "DaemonSet", "CronJob", "Job", "Pod", "Service",
         "PersistentVolumeClaim", "Secret")
CONTROLLER_OF = {"Standalone": "Pod"}
_DATA, _MAIN, _PORT = "data", "main", "service"
_CPU_TARGET_PERCENT = 80
_SAFE_KEY = re.compile(r"[A-Za-z][A-Za-z0-9._/-]*")
_YAML_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})

# Stays up, with the account as asked for; what the image has of a shell server answers on the port. The signal of the
# end is passed on at once.
_STAY_UP = r"""set -u
if ! id "$INSTANCE_USER" >/dev/null 2>&1; then
  useradd -m -s /bin/sh "$INSTANCE_USER" 2>/dev/null || adduser -D "$INSTANCE_USER"
fi
printf '%s:%s\n' "$INSTANCE_USER" "$INSTANCE_PASSWORD" | chpasswd
unset INSTANCE_PASSWORD
if [ -x /usr/sbin/sshd ]; then
  mkdir -p /run/sshd; ssh-keygen -A >/dev/null 2>&1
  /usr/sbin/sshd -p "$INSTANCE_PORT" -o PermitRootLogin=yes -o PasswordAuthentication=yes
fi
if [ -n "${INSTANCE_COMMAND:-}" ]; then exec /bin/sh -c "$INSTANCE_COMMAND"; fi
trap 'exit 0' TERM INT
while :; do sleep 3600 & wait $!; done
"""


def base(names: Names, spec: Spec, password: str, *, revision: str = "") -> list[Manifest]:
    """Namespace, service account and the secret that owns what `rest` makes. `revision`: of the credentials."""
    shared = {"labels": {MANAGED: MANAGER}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": names.namespace, **shared}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "automountServiceAccountToken": False,
         "metadata": {"name": names.account, "namespace": names.namespace, **shared}},
        {"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
         "data": {"user": _encoded(spec.source_authuser), "password": _encoded(password)},
         "metadata": _metadata(names, names.secret, spec, **({CREDENTIALS: revision} if revision else {}))},
    ]


def rest(names: Names, spec: Spec, *, revision: str = "", stopped: bool = False) -> list[Manifest]:
    """Volume claim, controller, service, and ingress and autoscaler where they are asked for. `stopped`: nothing runs, the
    data stays. `revision`: another one replaces the pods, as their credentials have changed."""
    made = [*_claims(names, spec), _service(names, spec)]
    if spec.source_portmode == INGRESS:
        made.append(_ingress(names, spec))
    if not (stopped and spec.source_podengine in (DAEMON_SET, STANDALONE)):
        made.append(_CONTROLLERS[spec.source_podengine](names, spec, revision, stopped))
    if spec.source_replicasetmax > spec.source_replicasetnum and not stopped:
        made.append(_autoscaler(names, spec))
    return made


def all_of(names: Names, spec: Spec, password: str, *, stopped: bool = False) -> list[Manifest]:
    """Everything, in the order in which it is made."""
    return [*base(names, spec, password), *rest(names, spec, stopped=stopped)]


def as_yaml(manifests: Iterable[Manifest]) -> str:
    """As documents of YAML; what a Secret holds is not shown."""
    return "---\n".join("".join(_lines(_hidden(one), 0)) for one in manifests)


# -- controllers -----------------------------------------------------------------------------------------------


def _replicated(kind: str) -> Callable[[Names, Spec, str, bool], Manifest]:
    def make(names: Names, spec: Spec, revision: str, stopped: bool) -> Manifest:
        body: Manifest = {"selector": {"matchLabels": _mark(names)}, "template": _template(names, spec, revision)}
        if stopped:
            body["replicas"] = 0
        elif kind in SCALED and spec.source_replicasetmax <= spec.source_replicasetnum:  # else the autoscaler decides
            body["replicas"] = spec.source_replicasetnum
        if kind == DEPLOYMENT and _claims(names, spec):
            body["strategy"] = {"type": "Recreate"}  # one pod at a time can have the volume
        if kind == STATEFUL_SET:
            body |= {"serviceName": names.service, "podManagementPolicy": "Parallel"}
            if spec.storage_gi:
                body["volumeClaimTemplates"] = [{
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": _DATA, "labels": _mark(names)},
                    "spec": _claim_spec(spec)}]
        return _controller("apps/v1", names, spec, body)

    return make


def _job(names: Names, spec: Spec, revision: str, stopped: bool) -> Manifest:
    return _controller("batch/v1", names, spec, {**_job_spec(names, spec, revision), "suspend": stopped})


def _cron_job(names: Names, spec: Spec, revision: str, stopped: bool) -> Manifest:
    return _controller("batch/v1", names, spec, {
        "schedule": spec.source_schedule or HOURLY, "concurrencyPolicy": "Forbid", "suspend": stopped,
        "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1,
        "jobTemplate": {"metadata": {"labels": _labels(names, spec)}, "spec": _job_spec(names, spec, revision)}})


def _job_spec(names: Names, spec: Spec, revision: str) -> Manifest:
    return {"parallelism": spec.source_replicasetnum, "completions": spec.source_replicasetnum, "backoffLimit": 3,
            "template": _template(names, spec, revision)}


def _pod(names: Names, spec: Spec, revision: str, _stopped: bool) -> Manifest:
    template = _template(names, spec, revision)
    made = _controller("v1", names, spec, template["spec"])
    made["metadata"]["annotations"] |= template["metadata"]["annotations"]
    return made


_CONTROLLERS: Mapping[str, Callable[[Names, Spec, str, bool], Manifest]] = {
    STATEFUL_SET: _replicated(STATEFUL_SET), DEPLOYMENT: _replicated(DEPLOYMENT), DAEMON_SET: _replicated(DAEMON_SET),
    JOB: _job, CRON_JOB: _cron_job, STANDALONE: _pod,
}

# -- pods ------------------------------------------------------------------------------------------------------


def _template(names: Names, spec: Spec, revision: str) -> Manifest:
    annotations = {TITLE: spec.source_name} | ({CREDENTIALS: revision} if revision else {})
    body: Manifest = {
        "serviceAccountName": names.account, "automountServiceAccountToken": False, "enableServiceLinks": False,
        "restartPolicy": spec.source_restartpolicy, "terminationGracePeriodSeconds": 30, "containers": [_container(names, spec)]}
    if spec.node_selector:
        body["nodeSelector"] = spec.node_selector
    volume = _volume(names, spec)
    if volume:
        body["volumes"] = [volume]
    return {"metadata": {"labels": _labels(names, spec), "annotations": annotations}, "spec": body}


def _container(names: Names, spec: Spec) -> Manifest:
    sizes = {"cpu": f"{spec.cpu_m}m" if spec.cpu_m % 1000 else str(spec.cpu_m // 1000), "memory": _mebibytes(spec.memory_mi)}
    if spec.system_gi:
        sizes["ephemeral-storage"] = f"{spec.system_gi}Gi"
    if spec.source_gpu:
        sizes[GPU] = str(spec.source_gpu)
    made: Manifest = {"name": _MAIN, "image": spec.pod_imagepath, "resources": {"limits": sizes, "requests": dict(sizes)},
                      "ports": [{"name": _PORT, "containerPort": spec.source_insideport}], **_program(names, spec)}
    if spec.storage_gi:
        mount = {"name": _DATA, "mountPath": spec.source_mountpath}
        # A new volume may hold a folder of its file system; a database wants an empty one.
        made["volumeMounts"] = [mount | ({"subPath": "data"} if spec.instance_type == DATABASE else {})]
    return made


def _program(names: Names, spec: Spec) -> Manifest:
    """What runs: the image's own program with user and password as it wants them, or a shell that stays up."""
    if spec.instance_type == DATABASE:
        return _postgres(names, spec) if "postgres" in spec.pod_imagepath else _mysql(names, spec)
    if "jupyter" in spec.pod_imagepath:
        return {"env": [_secret_env("JUPYTER_TOKEN", names, "password"),
                        {"name": "JUPYTER_PORT", "value": str(spec.source_insideport)}]}
    env = [_secret_env("INSTANCE_USER", names, "user"), _secret_env("INSTANCE_PASSWORD", names, "password"),
           {"name": "INSTANCE_PORT", "value": str(spec.source_insideport)}]
    if spec.source_command:
        env.append({"name": "INSTANCE_COMMAND", "value": _plain(spec.source_command)})
    return {"command": ["/bin/sh", "-c", _STAY_UP], "env": env}


def _mysql(names: Names, spec: Spec) -> Manifest:
    env = [_secret_env("MYSQL_ROOT_PASSWORD", names, "password"), {"name": "MYSQL_ROOT_HOST", "value": "%"}]
    if spec.source_authuser != "root":
        env += [_secret_env("MYSQL_USER", names, "user"), _secret_env("MYSQL_PASSWORD", names, "password")]
    arguments = [f"--port={spec.source_insideport}"]
    if spec.storage_gi and spec.source_mountpath != "/var/lib/mysql":
        arguments.append(f"--datadir={spec.source_mountpath}")
    return {"env": env, "args": arguments}


def _postgres(names: Names, spec: Spec) -> Manifest:
    env = [_secret_env("POSTGRES_USER", names, "user"), _secret_env("POSTGRES_PASSWORD", names, "password"),
           {"name": "PGPORT", "value": str(spec.source_insideport)}]
    if spec.storage_gi:
        env.append({"name": "PGDATA", "value": spec.source_mountpath})
    return {"env": env}


def _secret_env(name: str, names: Names, key: str) -> Manifest:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": names.secret, "key": key}}}


def _plain(text: str) -> str:
    """Kubernetes replaces `$(NAME)` in values; a doubled sign is one."""
    return text.replace("$(", "$$(")


# -- storage and network ---------------------------------------------------------------------------------------


def _claims(names: Names, spec: Spec) -> list[Manifest]:
    """The claim of an instance whose data is in one volume: those with one pod (a stateful set makes its own)."""
    alone = spec.pods == 1 and spec.source_podengine in (DEPLOYMENT, CRON_JOB, JOB, STANDALONE)
    if not spec.storage_gi or not alone:
        return []
    return [_object("v1", "PersistentVolumeClaim", names, names.claim, spec, _claim_spec(spec))]


def _volume(names: Names, spec: Spec) -> Manifest:
    if not spec.storage_gi or spec.source_podengine == STATEFUL_SET:
        return {}
    if _claims(names, spec):
        return {"name": _DATA, "persistentVolumeClaim": {"claimName": names.claim}}
    template = {"metadata": {"labels": _mark(names)}, "spec": _claim_spec(spec)}
    return {"name": _DATA, "ephemeral": {"volumeClaimTemplate": template}}


def _claim_spec(spec: Spec) -> Manifest:
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{spec.storage_gi}Gi"}}}


def _service(names: Names, spec: Spec) -> Manifest:
    port: Manifest = {"name": _PORT, "protocol": "TCP", "port": spec.source_apiport, "targetPort": spec.source_insideport}
    sort = {NODE_PORT: "NodePort", LOAD_BALANCER: "LoadBalancer", INGRESS: "ClusterIP"}[spec.source_portmode]
    if sort == "NodePort" and spec.source_outsideport:
        port["nodePort"] = spec.source_outsideport
    return _object("v1", "Service", names, names.service, spec, {"type": sort, "selector": _mark(names), "ports": [port]})


def _ingress(names: Names, spec: Spec) -> Manifest:
    """Reached under a path of its own, as all instances share the controller's address."""
    backend = {"service": {"name": names.service, "port": {"number": spec.source_apiport}}}
    return _object("networking.k8s.io/v1", "Ingress", names, names.of("ingress"), spec, {
        "rules": [{"http": {"paths": [{"path": f"/{names.key}", "pathType": "Prefix", "backend": backend}]}}]})


def _autoscaler(names: Names, spec: Spec) -> Manifest:
    target = {"apiVersion": "apps/v1", "kind": spec.source_podengine, "name": names.controller}
    busy = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization",
                                                                       "averageUtilization": _CPU_TARGET_PERCENT}}}
    return _object("autoscaling/v2", "HorizontalPodAutoscaler", names, names.of("hpa"), spec, {
        "scaleTargetRef": target, "minReplicas": spec.source_replicasetnum, "maxReplicas": spec.source_replicasetmax,
        "metrics": [busy]})


# -- parts -----------------------------------------------------------------------------------------------------


def _controller(api_version: str, names: Names, spec: Spec, body: Manifest) -> Manifest:
    kind = CONTROLLER_OF.get(spec.source_podengine, spec.source_podengine)
    made = _object(api_version, kind, names, names.controller, spec, body)
    made["metadata"]["labels"] |= {ENGINE: spec.source_podengine}
    return made


def _object(api_version: str, kind: str, names: Names, name: str, spec: Spec, body: Manifest) -> Manifest:
    return {"apiVersion": api_version, "kind": kind, "metadata": _metadata(names, name, spec), "spec": body}


def _metadata(names: Names, name: str, spec: Spec, **annotations: str) -> Manifest:
    return {"name": name, "namespace": names.namespace, "labels": _labels(names, spec),
            "annotations": {TITLE: spec.source_name, **annotations}}


def _mark(names: Names) -> dict[str, str]:
    return {INSTANCE: names.key}


def _labels(names: Names, spec: Spec) -> dict[str, str]:
    return {**spec.labels, MANAGED: MANAGER, **_mark(names)}


def _mebibytes(amount: int) -> str:
    return f"{amount}Mi" if amount % 1024 else f"{amount // 1024}Gi"


def _hidden(manifest: Manifest) -> Manifest:
    if manifest.get("kind") != "Secret":
        return manifest
    return {**manifest, "data": dict.fromkeys(manifest["data"], "***")}


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _lines(value: Any, depth: int) -> Iterable[str]:
    """Maps and lists in block form; every scalar as JSON writes it, which is YAML too."""
    pad = "  " * depth
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _entry(f"{pad}{_word(key)}:", one, depth + 1)
    else:
        for one in value:
            yield from _entry(f"{pad}-", one, depth + 1)


def _entry(head: str, value: Any, depth: int) -> Iterable[str]:
    if isinstance(value, Mapping | list) and value:
        yield head + "\n"
        yield from _lines(value, depth)
    else:
        yield f"{head} {json.dumps(value, ensure_ascii=False)}\n"


def _word(key: str) -> str:
    return key if _SAFE_KEY.fullmatch(key) and key.lower() not in _YAML_WORDS else json.dumps(key)
