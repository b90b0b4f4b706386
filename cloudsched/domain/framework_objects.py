"""What is a Spark or Flink cluster made of in Kubernetes, and what is a job on it? Their manifests, as plain data.

One configuration map, the *owner*, stands for the cluster: it says what was asked for and owns everything else, so that
deleting it removes all. The master is a stateful set of one behind a headless service; workers are a deployment, or a
stateful set when each has a disk of its own. A job is a Job whose pod is the driver (Spark) or the client (Flink).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudsched.errors import FieldError, Invalid

SPARK, FLINK = "spark", "flink"
DOMAIN = "cloudsched.io"
MANAGED = "app.kubernetes.io/managed-by"
CLUSTER, CLUSTER_ID, TENANT, TYPE, ROLE, INSTANCE, JOB = (
    f"{DOMAIN}/{one}" for one in ("cluster", "cluster-id", "tenant", "type", "role", "instance", "framework-job"))
KEY, TENANT_NAME, RUN_BY = f"{DOMAIN}/key", f"{DOMAIN}/tenant-name", f"{DOMAIN}/run-by"
OWNER, MASTER, WORKER, JOB_ROLE, END_ROLE = "cluster", "master", "worker", "job", "job-end"
CONF, WORK, CODE = "/cloudsched/conf", "/cloudsched/work", "/cloudsched/code"
CONTAINER = "framework"
# Port of jobs and of the web pages.
PORTS = {SPARK: (7077, 8080), FLINK: (8081, 8081)}
_WORKER_PORT = {SPARK: 8081, FLINK: 6122}
_FLINK_RPC, _FLINK_BLOB = 6123, 6124
_SPARK_WORKER_RPC = 7078
LEAST_MB = {SPARK: {MASTER: 384, WORKER: 768}, FLINK: {MASTER: 512, WORKER: 1024}}
# What Flink needs of Java 17 and later; its own configuration file, which ours stands for, has them too.
_OPENED = ("lang", "net", "io", "nio", "lang.reflect", "text", "time", "util", "util.concurrent", "util.concurrent.atomic",
           "util.concurrent.locks")
_EXPORTED = ("java.base/sun.net.util", "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5",
             *(f"jdk.compiler/com.sun.tools.javac.{one}" for one in ("api", "file", "parser", "tree", "util")))
_JAVA_OPENINGS = " ".join((*(f"--add-exports={one}=ALL-UNNAMED" for one in _EXPORTED),
                           *(f"--add-opens=java.base/java.{one}=ALL-UNNAMED" for one in _OPENED),
                           "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED"))
_LEAST_EXECUTOR_MB = 450  # Spark's memory manager refuses less
# Flink's own defaults for what lies beside the heap leave nothing of a small process.
_FLINK_ROOMY_MB = 1600
_FLINK_SMALL = {"jvm-metaspace.size": "128m", "jvm-overhead.min": "64m"}
SHORT = 40  # of a name to which others append
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SETTING = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.*-]{0,252}")
_LABEL_VALUE = re.compile(r"[^A-Za-z0-9_.-]+")
# What the driver itself has to say; another value would part the cluster from its master.
_OURS = {
    SPARK: frozenset({"spark.master", "spark.driver.host", "spark.driver.bindAddress", "spark.submit.deployMode"}),
    FLINK: frozenset({"jobmanager.rpc.address", "jobmanager.rpc.port", "jobmanager.bind-host", "rest.address", "rest.port",
                      "rest.bind-address", "blob.server.port", "taskmanager.rpc.port", "taskmanager.host",
                      "taskmanager.bind-host", "jobmanager.memory.process.size", "taskmanager.memory.process.size"})}
_CONSOLE = """\
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = Console
appender.console.name = Console
appender.console.type = CONSOLE
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss,SSS} %-5p %-60c %x - %m%n
"""

Manifest = dict[str, Any]


class Cluster(Protocol):
    """What these functions read of a cluster that is wanted (drivers.frameworks.ClusterWanted)."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def cluster_id(self) -> int: ...
    @property
    def tenant(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def worker_cores_m(self) -> int: ...
    @property
    def worker_memory_mb(self) -> int: ...
    @property
    def master_cores_m(self) -> int: ...
    @property
    def master_memory_mb(self) -> int: ...
    @property
    def settings(self) -> Mapping[str, str]: ...
    @property
    def options(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True)
class Build:
    """How an installation builds clusters of one kind: image, user and directory of the engine in it, and where pods go.

    `instance` tells installations apart. `on_demand`: the node label (key, value) of machines that nobody takes away;
    `node_group_label`: the label and taint of nodes that are launched for clusters. `code_dir`: where the image keeps code
    that is too large to be sent along. `operator`: an operator runs the clusters, where there is one.
    """

    kind: str
    image: str
    home: str
    user: int
    instance: str
    namespace: str = "default"
    on_demand: tuple[str, str] = ("eks.amazonaws.com/capacityType", "ON_DEMAND")
    node_group_label: str = f"{DOMAIN}/node-group"
    node_group: str = "dcluster"
    storage_class: str = ""
    disk_gb: int = 50
    code_dir: str = ""
    operator: bool = False
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    service_account: str = ""
    priority_class: str = ""
    pull_secrets: Sequence[str] = ()


# names


def title(key: str) -> str:
    """The name of a cluster's objects: its key, shortened when names made of it would be too long. Invalid for no DNS label."""
    if not _LABEL.fullmatch(key):
        raise Invalid.at("key", f"{key!r} is not a DNS label", "lower-case letters, digits and '-', at most 63")
    plain = key if key[0].isalpha() else f"c-{key}"
    return plain if len(plain) <= SHORT else f"{plain[:SHORT - 9].rstrip('-')}-{digest(key)[:8]}"


def namespace_of(wanted: Cluster, build: Build) -> str:
    """Where the cluster goes: the shared namespace, or with the option `namespace` (a name) or `external_namespace` (True: the
    tenant's own) another one."""
    asked = _asked(wanted, "namespace", "external_namespace")
    if not asked:
        return build.namespace
    name = _tenant_namespace(wanted.tenant) if asked is True else str(asked)
    if not _LABEL.fullmatch(name):
        raise Invalid.at("namespace", f"{name!r} is not a namespace", "lower-case letters, digits and '-', at most 63")
    return name


def _tenant_namespace(tenant: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", tenant.lower()).strip("-")[:63].strip("-")


def labels_of(wanted: Cluster, build: Build, role: str = "") -> dict[str, str]:
    """What every object of the cluster carries (contract dcluster, "Clusters")."""
    found = {MANAGED: "cloudsched", INSTANCE: build.instance, CLUSTER: wanted.key, CLUSTER_ID: str(wanted.cluster_id),
             TYPE: wanted.kind}
    tenant = _LABEL_VALUE.sub("-", wanted.tenant)[:63].strip("-_.")
    return found | ({TENANT: tenant} if tenant else {}) | ({ROLE: role} if role else {})


def selector(build: Build, key: str = "", **more: str) -> str:
    """The label selector of our clusters of this kind, or of one of them."""
    parts = {INSTANCE: build.instance, TYPE: build.kind} | ({CLUSTER: key} if key else {})
    parts |= {f"{DOMAIN}/{name}": value for name, value in more.items()}
    return ",".join(f"{name}={value}" for name, value in parts.items())


def address(key: str, kind: str, namespace: str) -> str:
    """Where jobs go, from inside of Kubernetes."""
    host = f"{title(key)}-master.{namespace}"
    return f"spark://{host}:{PORTS[SPARK][0]}" if kind == SPARK else f"http://{host}:{PORTS[FLINK][0]}"


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


# the cluster


def owner_object(wanted: Cluster, build: Build, *, run_by: str = "") -> Manifest:
    """The object that stands for the cluster: what was asked for, so that any process can go on from it. `run_by`: the kind of
    the operator's object that it is run by."""
    asked = {name: getattr(wanted, name) for name in (
        "key", "kind", "cluster_id", "tenant", "workers", "worker_cores_m", "worker_memory_mb", "master_cores_m",
        "master_memory_mb")} | {"settings": dict(wanted.settings), "options": dict(wanted.options)}
    metadata = _metadata(wanted, build, title(wanted.key), OWNER)
    if run_by:
        metadata["annotations"][RUN_BY] = run_by
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            "data": {"wanted.json": json.dumps(asked, sort_keys=True)}}


def cluster_objects(wanted: Cluster, build: Build) -> list[Manifest]:
    """Everything that the owner owns. Invalid names each field that is wrong."""
    _check(wanted)
    name = title(wanted.key)
    return [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(wanted, build, f"{name}-conf", "conf"),
         "data": _configuration(wanted)},
        _service(wanted, build), _master(wanted, build), _workers(wanted, build)]


def _metadata(wanted: Cluster, build: Build, name: str, role: str) -> Manifest:
    return {"name": name, "namespace": namespace_of(wanted, build), "labels": labels_of(wanted, build, role),
            "annotations": {KEY: wanted.key, TENANT_NAME: wanted.tenant}}


def _service(wanted: Cluster, build: Build) -> Manifest:
    """Headless: its name is the master's own address, before it is ready too, as workers come first at times."""
    name = f"{title(wanted.key)}-master"
    ports = ({"rpc": PORTS[SPARK][0], "web": PORTS[SPARK][1]} if wanted.kind == SPARK
             else {"rpc": _FLINK_RPC, "blob": _FLINK_BLOB, "web": PORTS[FLINK][1]})
    return {"apiVersion": "v1", "kind": "Service", "metadata": _metadata(wanted, build, name, MASTER), "spec": {
        "clusterIP": "None", "publishNotReadyAddresses": True, "selector": _selects(wanted, MASTER),
        "ports": [{"name": one, "port": port, "targetPort": port, "protocol": "TCP"} for one, port in ports.items()]}}


def _master(wanted: Cluster, build: Build) -> Manifest:
    name = f"{title(wanted.key)}-master"
    heap_mb = wanted.master_memory_mb - max(128, wanted.master_memory_mb // 4)
    pod = _pod(wanted, build, MASTER, command=_MASTER_COMMANDS[wanted.kind](build), port=PORTS[wanted.kind][0],
               env={"SPARK_DAEMON_MEMORY": f"{heap_mb}m"} if wanted.kind == SPARK else {},
               cores_m=wanted.master_cores_m, memory_mb=wanted.master_memory_mb)
    if wanted.options.get("on_demand_master"):
        key, value = build.on_demand
        pod["spec"]["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": "In", "values": [value]}]}]}}}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": _metadata(wanted, build, name, MASTER), "spec": {
        "replicas": 1, "serviceName": name, "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": _selects(wanted, MASTER)}, "template": pod}}


def _workers(wanted: Cluster, build: Build) -> Manifest:
    name = f"{title(wanted.key)}-worker"
    disk_gb = _disk_gb(wanted, build)
    daemon_mb, _ = spark_worker_memory(wanted)
    pod = _pod(wanted, build, WORKER, command=_WORKER_COMMANDS[wanted.kind](wanted, build), port=_WORKER_PORT[wanted.kind],
               env={"SPARK_DAEMON_MEMORY": f"{daemon_mb}m"} if wanted.kind == SPARK else {},
               cores_m=wanted.worker_cores_m, memory_mb=wanted.worker_memory_mb, disk=bool(disk_gb))
    spec: Manifest = {"replicas": wanted.workers, "selector": {"matchLabels": _selects(wanted, WORKER)}, "template": pod}
    metadata = _metadata(wanted, build, name, WORKER)
    if not disk_gb:
        return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}
    claim: Manifest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": f"{disk_gb}Gi"}}}
    if build.storage_class:
        claim["storageClassName"] = build.storage_class
    spec |= {"serviceName": f"{title(wanted.key)}-master", "podManagementPolicy": "Parallel",
             "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
             "volumeClaimTemplates": [{"metadata": {"name": "work", "labels": labels_of(wanted, build, WORKER)}, "spec": claim}]}
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": metadata, "spec": spec}


def _selects(wanted: Cluster, role: str) -> dict[str, str]:
    return {CLUSTER: wanted.key, ROLE: role}


def _disk_gb(wanted: Cluster, build: Build) -> int:
    """Options `dynamic_disk_gb`, `dynamic_disk`: the size of each worker's own disk; True: as the installation has it."""
    asked = _asked(wanted, "dynamic_disk_gb", "dynamic_disk")
    return build.disk_gb if asked is True else int(asked or 0)


# what runs in the pods


def _spark_master(build: Build) -> list[str]:
    return [f"{build.home}/bin/spark-class", "org.apache.spark.deploy.master.Master", "--host", "$(POD_IP)",
            "--port", str(PORTS[SPARK][0]), "--webui-port", str(PORTS[SPARK][1])]


def _spark_worker(wanted: Cluster, build: Build) -> list[str]:
    _, offer_mb = spark_worker_memory(wanted)
    return [f"{build.home}/bin/spark-class", "org.apache.spark.deploy.worker.Worker", "--host", "$(POD_IP)",
            "--port", str(_SPARK_WORKER_RPC), "--webui-port", str(_WORKER_PORT[SPARK]),
            "--cores", str(whole_cores(wanted.worker_cores_m)), "--memory", f"{offer_mb}M", "--work-dir", WORK,
            f"spark://{title(wanted.key)}-master:{PORTS[SPARK][0]}"]


def _flink_master(build: Build) -> list[str]:
    return [f"{build.home}/bin/jobmanager.sh", "start-foreground"]


def _flink_worker(wanted: Cluster, build: Build) -> list[str]:
    return [f"{build.home}/bin/taskmanager.sh", "start-foreground", "-D", "taskmanager.host=$(POD_IP)"]


_MASTER_COMMANDS = {SPARK: _spark_master, FLINK: _flink_master}
_WORKER_COMMANDS = {SPARK: _spark_worker, FLINK: _flink_worker}


def whole_cores(cores_m: int) -> int:
    """Slots of a worker: what is left of a core runs one task, too."""
    return max(1, cores_m // 1000)


def spark_worker_memory(wanted: Cluster) -> tuple[int, int]:
    """(heap of the worker itself, memory it offers to executors), MiB, of its pod's memory: an executor's own overhead, a tenth
    and at least 128, lies beside what is offered. Option `worker_daemon_memory_mb`: the first of them."""
    daemon_mb = int(wanted.options.get("worker_daemon_memory_mb") or min(1024, max(128, wanted.worker_memory_mb // 8)))
    left_mb = wanted.worker_memory_mb - daemon_mb
    return daemon_mb, left_mb - max(128, left_mb // 10)


def _asked(wanted: Cluster, *options: str) -> Any:
    """The first of these options that is there and not empty."""
    return next((wanted.options[name] for name in options if wanted.options.get(name)), None)


def _pod(wanted: Cluster, build: Build, role: str, *, command: list[str], port: int, env: Mapping[str, str], cores_m: int,
         memory_mb: int, disk: bool = False) -> Manifest:
    container = {
        "name": CONTAINER, "image": str(wanted.options.get("image") or build.image), "command": command,
        "env": environment({**_BASE_ENV[wanted.kind], **env}), "ports": [{"name": "main", "containerPort": port}],
        "readinessProbe": {"tcpSocket": {"port": port}, "periodSeconds": 5, "failureThreshold": 6},
        "resources": resources(cores_m, memory_mb), "securityContext": CONFINED,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "conf", "mountPath": CONF, "readOnly": True}, {"name": "work", "mountPath": WORK}]}
    volumes: list[Manifest] = [{"name": "conf", "configMap": {"name": f"{title(wanted.key)}-conf"}}]
    if not disk:
        volumes.append({"name": "work", "emptyDir": {}})
    spec = pod_spec(build, container, volumes, grace_s=10) | _node_group(wanted, build)
    # An autoscaler that moves a master or a worker with shuffle data has the jobs begin again.
    notes = {KEY: wanted.key, TENANT_NAME: wanted.tenant, "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}
    return {"metadata": {"labels": labels_of(wanted, build, role), "annotations": notes}, "spec": spec}


def pod_spec(build: Build, container: Manifest, volumes: list[Manifest], *, grace_s: int) -> Manifest:
    """Allowed where only restricted pods are."""
    spec: Manifest = {
        "automountServiceAccountToken": False, "enableServiceLinks": False, "terminationGracePeriodSeconds": grace_s,
        "securityContext": {"runAsNonRoot": True, "runAsUser": build.user, "runAsGroup": build.user, "fsGroup": build.user,
                            "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container], "volumes": volumes}
    for key, value in {"nodeSelector": dict(build.node_selector), "tolerations": [dict(one) for one in build.tolerations],
                       "serviceAccountName": build.service_account, "priorityClassName": build.priority_class,
                       "imagePullSecrets": [{"name": one} for one in build.pull_secrets]}.items():
        if value:
            spec[key] = value
    return spec


def _node_group(wanted: Cluster, build: Build) -> Manifest:
    """Options `node_group` (a name), `launch_new_node` (True: the installation's): nodes launched for clusters, no others."""
    asked = _asked(wanted, "node_group", "launch_new_node")
    if not asked:
        return {}
    group = build.node_group if asked is True else str(asked)
    return {"nodeSelector": {**build.node_selector, build.node_group_label: group},
            "tolerations": [*(dict(one) for one in build.tolerations),
                            {"key": build.node_group_label, "operator": "Equal", "value": group, "effect": "NoSchedule"}]}


CONFINED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_BASE_ENV = {
    SPARK: {"SPARK_CONF_DIR": CONF, "SPARK_LOCAL_DIRS": WORK, "HOME": WORK, "SPARK_NO_DAEMONIZE": "1"},
    FLINK: {"FLINK_CONF_DIR": CONF, "HOME": WORK}}


def environment(given: Mapping[str, str]) -> list[Manifest]:
    return [{"name": "POD_IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}},
            *({"name": name, "value": plain(value)} for name, value in given.items())]


def resources(cores_m: int, memory_mb: int) -> Manifest:
    share = {"cpu": f"{cores_m}m", "memory": f"{memory_mb}Mi"}
    return {"requests": share, "limits": dict(share)}


def plain(text: str) -> str:
    """`$(X)` would be replaced by a variable."""
    return text.replace("$(", "$$(")


# settings


def spark_settings(wanted: Cluster) -> dict[str, str]:
    """Of masters, workers and drivers."""
    _, offer_mb = spark_worker_memory(wanted)
    return {"spark.executor.memory": f"{offer_mb}m", "spark.worker.cleanup.enabled": "true", **wanted.settings}


def flink_settings(wanted: Cluster) -> dict[str, str]:
    """Of job managers, task managers and clients."""
    name = title(wanted.key)
    ours = {"jobmanager.rpc.address": f"{name}-master", "jobmanager.rpc.port": str(_FLINK_RPC),
            "jobmanager.bind-host": "0.0.0.0", "rest.address": f"{name}-master", "rest.port": str(PORTS[FLINK][0]),  # noqa: S104
            "rest.bind-address": "0.0.0.0", "blob.server.port": str(_FLINK_BLOB),  # noqa: S104 - in a pod of its own
            "taskmanager.rpc.port": str(_WORKER_PORT[FLINK]), "taskmanager.bind-host": "0.0.0.0",  # noqa: S104
            "jobmanager.memory.process.size": f"{wanted.master_memory_mb}m",
            "taskmanager.memory.process.size": f"{wanted.worker_memory_mb}m",
            "env.java.opts.all": f"{_JAVA_OPENINGS} {wanted.settings.get('env.java.opts.all', '')}".strip()}
    small = {f"{role}.memory.{part}": value for role, size_mb in (("jobmanager", wanted.master_memory_mb),
                                                                  ("taskmanager", wanted.worker_memory_mb))
             if size_mb < _FLINK_ROOMY_MB for part, value in _FLINK_SMALL.items()}
    return {"taskmanager.numberOfTaskSlots": str(whole_cores(wanted.worker_cores_m)), "io.tmp.dirs": WORK, **small,
            **wanted.settings, **ours}


def _configuration(wanted: Cluster) -> dict[str, str]:
    if wanted.kind == SPARK:
        return {"spark-defaults.conf": "".join(f"{key} {value}\n" for key, value in sorted(spark_settings(wanted).items()))}
    text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in sorted(flink_settings(wanted).items()))
    return {"config.yaml": text, "log4j-console.properties": _CONSOLE, "log4j-cli.properties": _CONSOLE}


def check_settings(kind: str, settings: Mapping[str, str], field_name: str = "settings") -> list[FieldError]:
    """What is wrong with settings of Spark or Flink: names, line ends, and what the driver itself has to say."""
    faults = []
    for key, value in settings.items():
        where = f"{field_name}.{key}"[:300]
        if not _SETTING.fullmatch(key):
            faults.append(FieldError(where, "is not the name of a setting", "letters, digits, '.', '-' and '_'"))
        elif key in _OURS[kind]:
            faults.append(FieldError(where, "is said by cloudsched itself", "other settings"))
        elif kind == SPARK and not key.startswith("spark."):
            faults.append(FieldError(where, "is no setting of Spark", "names that begin with spark."))
        elif not isinstance(value, str) or any(ord(one) < 32 or ord(one) == 127 for one in value) or len(value) > 10_000:
            faults.append(FieldError(where, "must be one line of text"))
    return faults


def _check(wanted: Cluster) -> None:
    faults = check_settings(wanted.kind, wanted.settings)
    if not 0 <= wanted.workers <= 10_000:
        faults.append(FieldError("workers", f"{wanted.workers} is out of range", "0 to 10000"))
    for role, cores_m, memory_mb in ((MASTER, wanted.master_cores_m, wanted.master_memory_mb),
                                     (WORKER, wanted.worker_cores_m, wanted.worker_memory_mb)):
        least = LEAST_MB[wanted.kind][role]
        if cores_m < 1:
            faults.append(FieldError(f"{role}_cores_m", f"{cores_m} is too little", "at least 1"))
        if memory_mb < least:
            faults.append(FieldError(f"{role}_memory_mb", f"{memory_mb} is too little for {wanted.kind}", f"at least {least}"))
    if wanted.kind == SPARK and spark_worker_memory(wanted)[1] < _LEAST_EXECUTOR_MB and not faults:
        faults.append(FieldError("worker_daemon_memory_mb", "leaves nothing for executors", "less, or more memory of a worker"))
    disk = _asked(wanted, "dynamic_disk_gb", "dynamic_disk")
    if not isinstance(disk, bool | None) and (not isinstance(disk, int) or not 0 <= disk <= 65_536):
        faults.append(FieldError("dynamic_disk_gb", f"{disk!r} is not a size of a disk", "0 to 65536"))
    refuse(faults)


def refuse(faults: list[FieldError]) -> None:
    if faults:
        raise Invalid("; ".join(f"{one.field}: {one.message}" + (f" (allowed: {one.allowed})" if one.allowed else "")
                                for one in faults), errors=faults)
