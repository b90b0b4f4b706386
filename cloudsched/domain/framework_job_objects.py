"""What is a job on a Spark or Flink cluster in Kubernetes? Its manifests, as plain data.

A Job whose pod is the driver (Spark) or the client (Flink), and a configuration map that brings the code. The pod runs
programs with lists of arguments, never a shell.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import urlsplit

from cloudsched.domain.framework_objects import (
    CODE,
    CONF,
    CONFINED,
    CONTAINER,
    END_ROLE,
    FLINK,
    INSTANCE,
    JOB,
    JOB_ROLE,
    KEY,
    MANAGED,
    PORTS,
    ROLE,
    SHORT,
    SPARK,
    TYPE,
    WORK,
    Build,
    Manifest,
    check_settings,
    digest,
    environment,
    plain,
    pod_spec,
    refuse,
    resources,
    title,
)
from cloudsched.errors import FieldError

CODE_LIMIT_BYTES = 1_000_000  # of an object that Kubernetes takes
DRIVER_MB, DRIVER_CORES_M = 1024, 500


class Job(Protocol):
    """What these functions read of a job that is wanted (drivers.frameworks.JobWanted)."""

    @property
    def key(self) -> str: ...
    @property
    def job_id(self) -> int: ...
    @property
    def entry(self) -> str: ...
    @property
    def main_class(self) -> str: ...
    @property
    def arguments(self) -> Sequence[str]: ...
    @property
    def settings(self) -> Mapping[str, str]: ...
    @property
    def driver_memory_mb(self) -> int: ...
    @property
    def executor_memory_mb(self) -> int: ...
    @property
    def cores_max(self) -> int: ...
    @property
    def env(self) -> Mapping[str, str]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster a job goes to. `key` and `owner_uid` are empty for one that is not ours; `executor_mb`: what a worker of it has
    for executors, 0 when that is not known."""

    address: str
    namespace: str
    key: str = ""
    owner_uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    executor_mb: int = 0


def job_title(key: str) -> str:
    """The name of a job's objects; any text is a key."""
    slug = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")
    if slug == key and len(slug) <= SHORT and slug[:1].isalpha():
        return slug
    return f"j-{slug[:SHORT - 11].strip('-')}-{digest(key)[:8]}".replace("--", "-")


def flink_job_id(key: str) -> str:
    """The id a Flink job gets: the same however often it is submitted."""
    return digest("flink", key)[:32]


def job_object(job: Job, target: Target, build: Build, *, code: str) -> Manifest:
    """The Job whose pod runs `spark-submit` or `flink run` against the target. `code`: where the pod has the code (a path, or
    for Spark a URL it fetches)."""
    _check_job(job, build)
    name, sent = job_title(job.key), code.startswith(f"{CODE}/")
    memory_mb = job.driver_memory_mb or DRIVER_MB
    share = resources(DRIVER_CORES_M, memory_mb + max(384, memory_mb // 10))
    container: Manifest = {
        "name": CONTAINER, "image": target.image or build.image, "command": _COMMANDS[build.kind](job, target, build, code),
        "env": environment({**_JOB_ENV[build.kind](memory_mb), **job.env}), "resources": share, "securityContext": CONFINED,
        "terminationMessagePolicy": "FallbackToLogsOnError", "volumeMounts": [{"name": "work", "mountPath": WORK}]}
    volumes: list[Manifest] = [{"name": "work", "emptyDir": {}}]
    if sent:
        container["volumeMounts"].append({"name": "code", "mountPath": CODE, "readOnly": True})
        volumes.append({"name": "code", "configMap": {"name": f"{name}-code"}})
    if target.key:  # what the cluster's settings say to drivers
        container["volumeMounts"].append({"name": "conf", "mountPath": CONF, "readOnly": True})
        volumes.append({"name": "conf", "configMap": {"name": f"{title(target.key)}-conf"}})
        container["env"].append({"name": f"{build.kind.upper()}_CONF_DIR", "value": CONF})
    if build.kind == FLINK:  # the client's end is not the job's
        container["lifecycle"] = {"preStop": {"exec": {"command": [
            f"{build.home}/bin/flink", "cancel", *_flink_target(target), flink_job_id(job.key)]}}}
    grace_s = 60 if build.kind == FLINK else 15
    spec = pod_spec(build, container, volumes, grace_s=grace_s) | {"restartPolicy": "Never"}
    labels, notes = job_labels(job, target, build), {KEY: job.key}
    metadata: Manifest = {"name": name, "namespace": target.namespace, "labels": labels, "annotations": notes}
    if target.owner_uid:
        metadata["ownerReferences"] = [_owned_by("ConfigMap", "v1", title(target.key), target.owner_uid)]
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": {
        "backoffLimit": 0, "completions": 1, "parallelism": 1,
        "template": {"metadata": {"labels": labels, "annotations": notes}, "spec": spec}}}


def code_object(job: Job, target: Target, build: Build, *, content: bytes, job_uid: str) -> Manifest:
    """The configuration map that brings the code, gone with its job."""
    name = job_title(job.key)
    return {"apiVersion": "v1", "kind": "ConfigMap", "immutable": True, "metadata": {
        "name": f"{name}-code", "namespace": target.namespace, "labels": job_labels(job, target, build),
        "ownerReferences": [_owned_by("Job", "batch/v1", name, job_uid)]},
        "binaryData": {code_name(job): base64.b64encode(content).decode()}}


def end_object(name: str, key: str, labels: Mapping[str, str], *, namespace: str, owners: Sequence[Manifest], state: str, at: str,
               log: str) -> Manifest:
    """What is left of a job that was ended: that it was, when, and the end of its log."""
    metadata: Manifest = {"name": f"{name}-end", "namespace": namespace, "labels": {**labels, ROLE: END_ROLE},
                          "annotations": {KEY: key}}
    if owners:
        metadata["ownerReferences"] = [dict(one) for one in owners]
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"state": state, "at": at, "log": log}}


def job_labels(job: Job, target: Target, build: Build) -> dict[str, str]:
    """Of everything that belongs to a job."""
    return {**target.labels, MANAGED: "cloudsched", INSTANCE: build.instance, TYPE: build.kind, ROLE: JOB_ROLE,
            JOB: job_title(job.key)}


def code_name(job: Job) -> str:
    """Under which name the code lies in the pod."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", job.entry.rsplit("/", 1)[-1]).strip("-.") or "code"


def _owned_by(kind: str, version: str, name: str, uid: str) -> Manifest:
    return {"apiVersion": version, "kind": kind, "name": name, "uid": uid, "controller": True, "blockOwnerDeletion": True}


def _spark_submit(job: Job, target: Target, build: Build, code: str) -> list[str]:
    # An executor that is larger than any worker would be waited for without end.
    executor_mb = min(filter(None, (job.executor_memory_mb, target.executor_mb)), default=0)
    given = {"spark.cores.max": str(job.cores_max) if job.cores_max else "",
             "spark.executor.memory": f"{executor_mb}m" if executor_mb else "", **job.settings}
    told = [f"--conf={key}={plain(value)}" for key, value in given.items() if value]
    return [f"{build.home}/bin/spark-submit", "--master", target.address, "--deploy-mode", "client", "--name", job_title(job.key),
            "--driver-memory", f"{job.driver_memory_mb or DRIVER_MB}m", *told, "--conf=spark.driver.host=$(POD_IP)",
            *(["--class", job.main_class] if job.main_class else []), code, *(plain(one) for one in job.arguments)]


def _flink_run(job: Job, target: Target, build: Build, code: str) -> list[str]:
    told = [part for key, value in job.settings.items() for part in ("-D", f"{key}={plain(value)}")]
    return [f"{build.home}/bin/flink", "run", *_flink_target(target), *told,
            "-D", f"$internal.pipeline.job-id={flink_job_id(job.key)}",
            *(["-p", str(job.cores_max)] if job.cores_max else []), *(["-c", job.main_class] if job.main_class else []), code,
            *(plain(one) for one in job.arguments)]


def _flink_target(target: Target) -> list[str]:
    parts = urlsplit(target.address)
    return ["-t", "remote", "-D", f"rest.address={parts.hostname}", "-D", f"rest.port={parts.port or PORTS[FLINK][0]}"]


_COMMANDS = {SPARK: _spark_submit, FLINK: _flink_run}
_JOB_ENV: dict[str, Callable[[int], dict[str, str]]] = {
    SPARK: lambda memory_mb: {"HOME": WORK, "SPARK_LOCAL_DIRS": WORK, "PYSPARK_PYTHON": "python3"},
    FLINK: lambda memory_mb: {"HOME": WORK, "JVM_ARGS": f"-Xmx{memory_mb}m", "FLINK_LOG_DIR": WORK}}


def _check_job(job: Job, build: Build) -> None:
    faults = check_settings(build.kind, job.settings)
    ending = job.entry.rsplit(".", 1)[-1].lower()
    allowed = ("py", "jar") if build.kind == SPARK else ("jar",)
    if ending not in allowed:
        faults.append(FieldError("entry", f"{job.entry.rsplit('/', 1)[-1]!r} is nothing that {build.kind} runs here",
                                 " or ".join(f".{one}" for one in allowed)))
    if ending == "jar" and build.kind == SPARK and not job.main_class:
        faults.append(FieldError("main_class", "is missing", "the class whose main a .jar runs"))
    for name in ("driver_memory_mb", "executor_memory_mb", "cores_max"):
        if getattr(job, name) < 0:
            faults.append(FieldError(name, f"{getattr(job, name)} is out of range", "0 or more"))
    for number, one in enumerate(job.arguments):
        if "\0" in one:
            faults.append(FieldError(f"arguments[{number}]", "holds a NUL"))
    for name in job.env:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            faults.append(FieldError(f"env.{name}"[:300], "is not the name of a variable"))
    refuse(faults)
