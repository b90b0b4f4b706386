"""How does batch work run? As Jobs of the cluster, many in one call, found again by name after any crash."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cloudsched import clock
from cloudsched.drivers.base import REQUEST, DriverError, Place
from cloudsched.drivers.kubernetes import kinds, names, quantities
from cloudsched.drivers.kubernetes.client import Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.logs import logs
from cloudsched.drivers.kubernetes.options import Options
from cloudsched.drivers.kubernetes.podstates import state_of
from cloudsched.errors import Invalid

QUEUED, RUNNING, SUCCEEDED, FAILED, TIMEOUT, CANCELLED = "queued", "running", "succeeded", "failed", "timeout", "cancelled"
CONTAINER = "job"
_AT_ONCE = 8
_MAX_TASKS = 100_000


@dataclass(frozen=True, slots=True)
class BatchJob:
    """One job. `name` is unique and deterministic: the same name submitted twice is one job. `tasks` above 1 make an array
    (each task sees its number, from 0, in JOB_COMPLETION_INDEX); `resources` are extra ones, such as `nvidia.com/gpu`."""

    name: str
    command: Sequence[str]
    image: str = ""
    cores: float = 1
    memory_mb: int = 0
    storage_gb: int = 0
    env: Mapping[str, str] = field(default_factory=dict)
    time_limit_s: int | None = None
    tasks: int = 1
    parallel: int = 0
    retries: int = 0
    keep_s: int | None = None
    resources: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BatchState:
    """`state`: queued, running, succeeded, failed, timeout, cancelled (it is being taken away). `reason` as the cluster tells
    it; `exit_code` of the (first failed) task where known; counts of tasks."""

    name: str
    state: str
    reason: str = ""
    exit_code: int | None = None
    active: int = 0
    succeeded: int = 0
    failed: int = 0
    started_at: str = ""
    ended_at: str = ""
    external_id: str = ""
    handle: Mapping[str, str] = field(default_factory=dict)


class Batch:
    """The jobs of one place."""

    def __init__(self, api: Api, place: Place, options: Options, *, namespace: str) -> None:
        self._api, self._place, self._options, self._namespace = api, place, options, namespace
        self._mark = names.place_mark(place)

    def submit(self, jobs: Sequence[BatchJob]) -> list[BatchState]:
        """Submit all; one that is there already is not made again. The answers are in the order given. The first refusal is
        raised after all were tried, with `details["submitted"]` naming those that are there."""
        bodies = [self.manifest(job) for job in jobs]
        results = self._each(self._submit_one, bodies)
        refused = next((one for one in results if isinstance(one, DriverError)), None)
        if refused is not None:
            refused.details["submitted"] = [job.name for job, one in zip(jobs, results, strict=True)
                                            if not isinstance(one, DriverError)]
            raise refused
        return [_state(one, []) for one in results if not isinstance(one, DriverError)]

    def states(self, only: Iterable[str] | None = None) -> dict[str, BatchState]:
        """By name, of all or of those asked for; what is not there is not in the answer. Two lists, however many jobs."""
        wanted = None if only is None else set(only)
        selector = f"{names.BATCH}={self._mark}"
        pods: dict[str, list[Object]] = {}
        jobs = self._api.items(kinds.JOB.path(self._namespace), labelSelector=selector)
        for pod in self._api.items(kinds.POD.path(self._namespace), labelSelector=selector) if jobs else ():
            owner = next((one["uid"] for one in pod["metadata"].get("ownerReferences") or ()), "")
            pods.setdefault(owner, []).append(pod)
        found = (_state(job, pods.get(job["metadata"]["uid"], [])) for job in jobs)
        return {one.name: one for one in found if wanted is None or one.name in wanted}

    def cancel(self, job_names: Iterable[str]) -> None:
        """Take the jobs away with their pods; a missing one is no error."""
        results = self._each(self._cancel_one, list(job_names))
        refused = next((one for one in results if isinstance(one, DriverError)), None)
        if refused is not None:
            raise refused

    def logs(self, name: str, *, task: int = 0, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """The lines of the latest pod of a task. DriverError (REQUEST) when it has none (yet, or any more)."""
        title = self.title(name)
        found = self._api.items(kinds.POD.path(self._namespace), labelSelector=f"batch.kubernetes.io/job-name={title}")
        pods = [pod for pod in found if _task(pod) == task]
        if not pods:
            raise DriverError(f"{name} has no pod (task {task})", code=REQUEST)
        latest = max(pods, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))
        return logs(self._api, latest["metadata"]["name"], namespace=self._namespace, tail=tail, follow=follow)

    def title(self, name: str) -> str:
        """Under which name the cluster has it."""
        return names.dns_label(name, names.digest(self._place.instance, self._place.name, "job", name))

    def manifest(self, job: BatchJob) -> Object:
        """The Job as it would be made. Invalid names the field that is wrong."""
        _check(job)
        labels = {**job.labels, names.MANAGED: "cloudsched", names.BATCH: self._mark}
        notes = {names.JOB_NAME: job.name, names.CLOUD: self._place.name, names.INSTALLATION: self._place.instance}
        spec: Object = {"parallelism": min(job.tasks, job.parallel or job.tasks), "completions": job.tasks,
                        "completionMode": "Indexed" if job.tasks > 1 else "NonIndexed",
                        "backoffLimit": job.retries * job.tasks,
                        "template": {"metadata": {"labels": labels, "annotations": notes}, "spec": self._pod(job)}}
        for key, value in (("activeDeadlineSeconds", job.time_limit_s), ("ttlSecondsAfterFinished", job.keep_s)):
            if value is not None:
                spec[key] = value
        return {"apiVersion": "batch/v1", "kind": "Job", "spec": spec, "metadata": {
            "name": self.title(job.name), "namespace": self._namespace, "labels": labels, "annotations": notes}}

    def _pod(self, job: BatchJob) -> Object:
        options = self._options
        share = {"cpu": f"{job.cores:g}"} | ({"memory": f"{job.memory_mb}Mi"} if job.memory_mb else {})
        share |= {"ephemeral-storage": f"{job.storage_gb}Gi"} if job.storage_gb else {}
        share |= {**options.resources, **job.resources}
        spec: Object = {"restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False,
                        "containers": [{"name": CONTAINER, "image": job.image or options.image, "command": list(job.command),
                                        "env": [{"name": key, "value": value} for key, value in job.env.items()],
                                        "resources": {"requests": share, "limits": dict(share)}}]}
        for key, value in {"nodeSelector": dict(options.node_selector), "tolerations": [dict(one) for one in options.tolerations],
                           "serviceAccountName": options.service_account, "priorityClassName": options.priority_class,
                           "imagePullSecrets": [{"name": one} for one in options.pull_secrets]}.items():
            if value:
                spec[key] = value
        return spec

    def _submit_one(self, body: Object) -> Object:
        try:
            return self._api.send("POST", kinds.JOB.path(self._namespace), body)[1]
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists":
                raise
        return self._api.get(kinds.JOB.path(self._namespace, body["metadata"]["name"]))

    def _cancel_one(self, name: str) -> Object:
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        try:
            return self._api.send("DELETE", kinds.JOB.path(self._namespace, self.title(name)), options, repeat=True)[1]
        except ApiRefused as refused:
            if refused.status != 404:
                raise
            return {}

    def _each(self, do: Any, among: Sequence[Any]) -> list[Object | DriverError]:
        def one(item: Any) -> Object | DriverError:
            try:
                done: Object = do(item)
                return done
            except DriverError as error:
                return error

        if len(among) < 2:
            return [one(item) for item in among]
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="kubernetes-batch") as threads:
            return list(threads.map(one, among))


def _state(job: Object, pods: list[Object]) -> BatchState:
    metadata, status = job["metadata"], job.get("status") or {}
    ended = next((one for one in status.get("conditions") or ()
                  if one.get("type") in ("Complete", "Failed") and one.get("status") == "True"), None)
    seen = [state_of(pod, now=clock.now()) for pod in sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))]
    worst = next((one for one in seen if one.exit_code), next((one for one in seen if one.exit_code is not None), None))
    state, reason = _word(job, ended, [one.reason for one in seen if one.reason and one.exit_code != 0], pods)
    return BatchState(
        name=(metadata.get("annotations") or {}).get(names.JOB_NAME) or metadata["name"], state=state, reason=reason,
        exit_code=worst.exit_code if worst else None, active=int(status.get("active") or 0),
        succeeded=int(status.get("succeeded") or 0), failed=int(status.get("failed") or 0),
        started_at=status.get("startTime") or "",
        ended_at=status.get("completionTime") or (ended or {}).get("lastTransitionTime") or "", external_id=metadata["uid"],
        handle={"job": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]})


def _word(job: Object, ended: Object | None, reasons: list[str], pods: list[Object]) -> tuple[str, str]:
    if ended is not None and ended["type"] == "Complete":
        return SUCCEEDED, ""
    if ended is not None:
        late = ended.get("reason") == "DeadlineExceeded"
        detail = reasons[0] if reasons and not late else str(ended.get("message") or "")
        return (TIMEOUT if late else FAILED), f"{ended.get('reason') or 'Failed'}: {detail}"
    if job["metadata"].get("deletionTimestamp"):
        return CANCELLED, ""
    runs = any((pod.get("status") or {}).get("phase") in ("Running", "Succeeded") for pod in pods)
    return (RUNNING if runs else QUEUED), reasons[0] if reasons else ""


def _task(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", 0))


def _check(job: BatchJob) -> None:
    if not 1 <= len(job.name) <= 255 or not job.name.isprintable():
        raise Invalid.at("name", "must be 1 to 255 printable characters")
    if not job.command or not all(isinstance(one, str) for one in job.command):
        raise Invalid.at("command", "must be a list of at least one text")
    if not job.cores > 0:
        raise Invalid.at("cores", "must be more than 0")
    for name, least, most in (("memory_mb", 0, None), ("storage_gb", 0, None), ("retries", 0, 1000), ("parallel", 0, _MAX_TASKS),
                              ("tasks", 1, _MAX_TASKS)):
        value = getattr(job, name)
        if value < least or (most is not None and value > most):
            raise Invalid.at(name, f"{value} is out of range", f"{least} to {most}" if most else f"{least} or more")
    if job.time_limit_s is not None and job.time_limit_s < 1:
        raise Invalid.at("time_limit_s", "must be at least 1")
    for key, value in job.resources.items():
        quantities.number(value, f"resources.{key}")
