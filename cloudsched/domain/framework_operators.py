"""How is a cluster said to an operator? A SparkCluster of Apache's Spark operator, a FlinkDeployment of its Flink operator.

The operator makes masters and workers; the pods are those of framework_objects: the same labels, sizes, users and node
choices, laid over the operator's own pods by the names of their containers.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from cloudsched.domain.framework_objects import (
    CONF,
    FLINK,
    MASTER,
    PORTS,
    SPARK,
    WORK,
    WORKER,
    Build,
    Cluster,
    Manifest,
    cluster_objects,
    flink_settings,
    spark_settings,
    spark_worker_memory,
    title,
    whole_cores,
)
from cloudsched.errors import Invalid

VERSIONS = {SPARK: "spark.apache.org/v1", FLINK: "flink.apache.org/v1beta1"}
KINDS = {SPARK: "SparkCluster", FLINK: "FlinkDeployment"}
_CONTAINERS = {SPARK: {MASTER: "master", WORKER: "worker"}, FLINK: dict.fromkeys((MASTER, WORKER), "flink-main-container")}
# What the operator says itself.
_LEFT_OUT = ("command", "ports", "readinessProbe", "image")
_OPERATORS = ("jobmanager.rpc.", "jobmanager.bind-host", "rest.", "blob.server.port", "taskmanager.rpc.port",
              "taskmanager.bind-host", "jobmanager.memory.process.size", "taskmanager.memory.process.size")
_VERSION = re.compile(r":v?(\d+)\.(\d+)(?:\.(\d+))?")


def operated_objects(wanted: Cluster, build: Build) -> list[Manifest]:
    """What the owner owns when an operator runs the cluster: the settings (for jobs) and the operator's object. Invalid names
    each field that is wrong; the version comes from the image's tag."""
    made = {one["kind"] + one["metadata"]["name"].rsplit("-", 1)[-1]: one for one in cluster_objects(wanted, build)}
    settings, master = made["ConfigMapconf"], made["StatefulSetmaster"]
    workers = made.get("StatefulSetworker") or made["Deploymentworker"]
    body = _SPECS[wanted.kind](wanted, build, master["spec"], workers["spec"])
    metadata = {**copy.deepcopy(master["metadata"]), "name": title(wanted.key)}
    return [settings, {"apiVersion": VERSIONS[wanted.kind], "kind": KINDS[wanted.kind], "metadata": metadata, "spec": body}]


def operated_address(key: str, kind: str, namespace: str) -> str:
    """Where jobs go."""
    name = title(key)
    return (f"spark://{name}-master-svc.{namespace}:{PORTS[SPARK][0]}" if kind == SPARK
            else f"http://{name}-rest.{namespace}:{PORTS[FLINK][0]}")


def _spark(wanted: Cluster, build: Build, master: Manifest, workers: Manifest) -> Manifest:
    daemon_mb, offer_mb = spark_worker_memory(wanted)
    image = str(wanted.options.get("image") or build.image)
    told = {"SPARK_WORKER_CORES": str(whole_cores(wanted.worker_cores_m)), "SPARK_WORKER_MEMORY": f"{offer_mb}m",
            "SPARK_WORKER_DIR": WORK, "SPARK_DAEMON_MEMORY": f"{daemon_mb}m"}
    claims = {key: workers[key] for key in ("volumeClaimTemplates", "persistentVolumeClaimRetentionPolicy") if key in workers}
    return {
        "runtimeVersions": {"sparkVersion": ".".join(_version(image, 3, "kube_spark_image"))},
        "clusterTolerations": {"instanceConfig": dict.fromkeys(("initWorkers", "minWorkers", "maxWorkers"), wanted.workers)},
        "sparkConf": {"spark.kubernetes.container.image": image, **spark_settings(wanted)},
        "masterSpec": {"statefulSetSpec": {"template": _template(master, SPARK, MASTER, {})}},
        "workerSpec": {"statefulSetSpec": {"template": _template(workers, SPARK, WORKER, told), **claims}}}


def _flink(wanted: Cluster, build: Build, master: Manifest, workers: Manifest) -> Manifest:
    image = str(wanted.options.get("image") or build.image)
    settings = {key: value for key, value in flink_settings(wanted).items() if not key.startswith(_OPERATORS)}
    claims = {"volumeClaimTemplates": workers["volumeClaimTemplates"]} if "volumeClaimTemplates" in workers else {}
    return {
        "image": image, "flinkVersion": "v" + "_".join(_version(image, 2, "kube_flink_image")), "mode": "standalone",
        "serviceAccount": build.service_account or "flink", "flinkConfiguration": settings,
        "jobManager": {"replicas": 1, "resource": _resource(wanted.master_cores_m, wanted.master_memory_mb),
                       "podTemplate": _template(master, FLINK, MASTER, {})},
        "taskManager": {"replicas": wanted.workers, "resource": _resource(wanted.worker_cores_m, wanted.worker_memory_mb),
                        "podTemplate": _template(workers, FLINK, WORKER, {}), **claims}}


_SPECS = {SPARK: _spark, FLINK: _flink}


def _template(of: Manifest, kind: str, role: str, told: Mapping[str, str]) -> Manifest:
    """Our pod without what the operator says: command, configuration, image."""
    pod: Manifest = copy.deepcopy(of["template"])
    container = {key: value for key, value in pod["spec"]["containers"][0].items() if key not in _LEFT_OUT}
    kept = [one for one in container["env"] if not one["name"].endswith("_CONF_DIR") and one["name"] not in told]
    container |= {"name": _CONTAINERS[kind][role],
                  "env": [*kept, *({"name": name, "value": value} for name, value in told.items())],
                  "volumeMounts": [one for one in container["volumeMounts"] if one["mountPath"] != CONF]}
    if kind == FLINK:  # its operator counts them itself
        del container["resources"]
    pod["spec"]["containers"] = [container]
    pod["spec"]["volumes"] = [one for one in pod["spec"]["volumes"] if one["name"] != "conf"]
    if kind == FLINK:  # it asks the API server
        pod["spec"].pop("automountServiceAccountToken", None)
        pod["spec"].pop("serviceAccountName", None)
    return pod


def _resource(cores_m: int, memory_mb: int) -> dict[str, Any]:
    return {"cpu": cores_m / 1000, "memory": f"{memory_mb}m"}


def _version(image: str, parts: int, setting: str) -> list[str]:
    found = _VERSION.search(image.rsplit("/", 1)[-1])
    if found is None or None in found.groups()[:parts]:
        raise Invalid.at(f"dcluster.{setting}", f"{image!r} does not tell its version, which the operator needs",
                         "a tag that begins with the version, such as " + ".".join("431"[:parts]))
    return [str(one) for one in found.groups()[:parts]]
