"""How do jobs run on Spark and Flink clusters in Kubernetes? Each as a Job, found again by its name after any crash."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from urllib3.exceptions import HTTPError

from cloudsched import clock
from cloudsched.domain import framework_job_objects as jobs
from cloudsched.domain import framework_objects as objects
from cloudsched.domain.framework_job_objects import Target
from cloudsched.domain.framework_objects import FLINK, SPARK, Build
from cloudsched.drivers.base import OTHER, REQUEST, DriverError
from cloudsched.drivers.frameworks import (
    ENDED,
    FAILED,
    KILLED,
    LOST,
    RUNNING,
    SUBMITTED,
    SUCCEEDED,
    ClusterSeen,
    Handle,
    JobSeen,
    JobWanted,
    Save,
)
from cloudsched.drivers.kubernetes import batch, kinds
from cloudsched.drivers.kubernetes.client import Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.driver import KubernetesDriver
from cloudsched.drivers.kubernetes.podstates import epoch
from cloudsched.errors import Invalid

LOG_KEPT_BYTES = 400_000  # of a job that was ended, beside the rest of a configuration map
NO_PROXY_S = 300.0  # after "you may not", before the right is tried again
PROXY_S, SILENT_S = 5.0, 30.0  # how long a master may take to answer; how long one that does not is left alone
_LOG_PIECE = 1 << 16
_APPLICATION = {SPARK: re.compile(rb"\bapp-\d{14}-\d{4,}\b"), FLINK: re.compile(rb"JobID ([0-9a-f]{32})\b")}
_JOB_STATES = {batch.QUEUED: SUBMITTED, batch.RUNNING: RUNNING, batch.SUCCEEDED: SUCCEEDED, batch.FAILED: FAILED,
               batch.TIMEOUT: FAILED, batch.CANCELLED: KILLED}
_FLINK_ENDED = ("FINISHED", "CANCELED", "FAILED")
_FLINK_STATES = {"FINISHED": SUCCEEDED, "CANCELED": KILLED, "FAILED": FAILED}


class Masters:
    """The web pages of masters, asked through the API server where that is allowed."""

    def __init__(self, driver: KubernetesDriver, *, pause: Callable[[float], None] = time.sleep) -> None:
        self._api = Api(driver._api.access, timeout_s=PROXY_S, pause=pause)
        self._not_before: dict[str, float] = {}

    def ask(self, method: str, page: str, path: str, **query: str) -> Object | None:
        """What the master answers through the API server; None when it cannot be asked that way."""
        if not page or time.monotonic() < max(self._not_before.get(one, 0.0) for one in ("", page)):
            return None
        try:
            return self._api.send(method, page + path, query=query)[1]
        except DriverError as error:
            status = error.status if isinstance(error, ApiRefused) else 0
            if status == 403:
                self._not_before[""] = time.monotonic() + NO_PROXY_S
            elif status != 404:  # it does not answer: others must not wait for it at every look
                self._not_before[page] = time.monotonic() + SILENT_S
            return None


class FrameworkJobs:
    """The jobs of one kind in one Kubernetes cluster."""

    def __init__(self, driver: KubernetesDriver, build: Build, masters: Masters, *, pause: Callable[[float], None]) -> None:
        self.kind, self.build = build.kind, build
        self._driver, self._masters, self._pause = driver, masters, pause
        self._api = driver._api
        self._applications: dict[str, str] = {}
        self._silent_until: dict[str, float] = {}  # jobs whose node does not give their log

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """Make the Job, then the map that brings its code: the pod waits for it. A `.py` or `.jar` of at most 1 MB travels along;
        a larger one must be in the image (setting dcluster.kube_code_dir) or be a URL that Spark fetches."""
        target = self._target(cluster)
        content, code = self._code(job)
        try:
            body = jobs.job_object(job, target, self.build, code=code)
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error
        made = {"namespace": target.namespace, "job": body["metadata"]["name"], "key": job.key,
                "page": str(cluster.facts.get("page") or "")}
        if dict(handle) != made:
            save(made)
        live = self._create(kinds.JOB, body)
        if live["metadata"]["annotations"].get(objects.KEY) != job.key:
            raise DriverError(f"the Job {target.namespace}/{body['metadata']['name']} is there and is not {job.key}", code=OTHER)
        if content is not None:
            brought = jobs.code_object(job, target, self.build, content=content, job_uid=live["metadata"]["uid"])
            self._create(kinds.CONFIG_MAP, brought)
        return made

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        """By its Job and pod; one that we ended by what is left of it; lost when neither is there."""
        namespace, name = str(handle["namespace"]), str(handle["job"])
        live = self._api.find(kinds.JOB.path(namespace, name))
        if live is None or live["metadata"].get("deletionTimestamp"):
            return self._ended_by_us(namespace, name, going=live is not None)
        pods = self._pods_of(namespace, name)
        seen = batch._state(live, pods)
        state = _JOB_STATES[seen.state]
        if self.kind == FLINK and state == FAILED:  # the client's end: the job itself may go on, or have gone well
            number = jobs.flink_job_id(str(handle["key"]))
            state = _of_flink(self._masters.ask("GET", str(handle.get("page") or ""), f"/jobs/{number}"), state)
        return JobSeen(state, application_id=self._application(handle, pods), exit_code=seen.exit_code, reason=seen.reason,
                       started_at=_started(pods), ended_at=epoch(seen.ended_at) if state in ENDED else None)

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        """Keep the end of the log, then delete the Job and wait until its pod is gone. A Flink job is cancelled first, on its
        master or (without the right to ask it) by the pod itself as it ends."""
        namespace, name = str(handle["namespace"]), str(handle["job"])
        live = self._api.find(kinds.JOB.path(namespace, name))
        if self.kind == FLINK and live is not None:  # it may have outlived its client
            self._cancel_flink(str(handle.get("page") or ""), str(handle["key"]))
        if live is None or has_ended(live):
            return
        self._keep_end(live, namespace)
        self._driver.delete([bare("batch/v1", "Job", name, namespace)], namespace=namespace)

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """The driver's (Spark) or the client's (Flink) output, as the node keeps it: a node that rotates logs keeps the latest
        10 MiB. Of a job that was ended, the end of it."""
        namespace, name = str(handle["namespace"]), str(handle["job"])
        pods = self._pods_of(namespace, name)
        if pods:
            return self._pod_log(namespace, pods[-1]["metadata"]["name"], offset=offset, limit=limit)
        kept = self._api.find(kinds.CONFIG_MAP.path(namespace, f"{name}-end"))
        return str((kept or {}).get("data", {}).get("log", "")).encode()[offset:offset + limit]

    def forget(self, handle: Handle) -> None:
        """The Job, its pod, its code, and what was kept of its end."""
        namespace, name = str(handle["namespace"]), str(handle["job"])
        self._driver.delete([bare("batch/v1", "Job", name, namespace), bare("v1", "ConfigMap", f"{name}-end", namespace)],
                            namespace=namespace)
        for known in (self._applications, self._silent_until):
            known.pop(f"{namespace}/{name}", None)

    # -- making ----------------------------------------------------------------------------------------------

    def _target(self, cluster: ClusterSeen) -> Target:
        """The cluster as `look` told of it, or one that is not ours, by its address alone."""
        facts = cluster.facts
        if not cluster.address:
            raise DriverError("the cluster has no address yet", code=OTHER, transient=True)
        if not facts.get("key"):
            return Target(cluster.address, self.build.namespace)
        carried = (objects.CLUSTER, objects.CLUSTER_ID, objects.TENANT)
        return Target(cluster.address, str(facts["namespace"]), key=str(facts["key"]),
                      owner_uid=str(facts.get("owner_uid") or ""),
                      labels={key: value for key, value in (facts.get("labels") or {}).items() if key in carried},
                      image=str(facts.get("image") or ""), executor_mb=max(0, int(facts.get("executor_mb") or 0)))

    def _code(self, job: JobWanted) -> tuple[bytes | None, str]:
        """(what is sent along, or None; where the pod has it)."""
        if "://" in job.entry:
            scheme, _, path = job.entry.partition("://")
            if scheme == "local":
                return None, f"/{path.lstrip('/')}"
            if self.kind == FLINK:
                raise DriverError(
                    "entry: Flink's client fetches nothing: give a file, or local:///path in the image",
                    code=REQUEST)
            return None, job.entry
        try:
            with Path(job.entry).open("rb") as file:
                content = file.read(jobs.CODE_LIMIT_BYTES + 1)
        except OSError as error:
            raise DriverError(f"entry: {job.entry} cannot be read: {error.strerror}", code=REQUEST) from None
        name = jobs.code_name(job)
        if len(content) <= jobs.CODE_LIMIT_BYTES:
            return content, f"{objects.CODE}/{name}"
        if self.build.code_dir:
            return None, f"{self.build.code_dir}/{name}"
        raise DriverError(f"entry: {name} has more than {jobs.CODE_LIMIT_BYTES} bytes, and no object of Kubernetes holds that: "
                          "put it into the image and set dcluster.kube_code_dir to its directory there", code=REQUEST)

    def _create(self, resource: kinds.Resource, body: Object) -> Object:
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            return self._api.send("POST", resource.path(namespace), body)[1]
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists":
                raise
        return self._api.get(resource.path(namespace, name))

    # -- how a job is ------------------------------------------------------------------------------------------

    def _ended_by_us(self, namespace: str, name: str, *, going: bool) -> JobSeen:
        kept = self._api.find(kinds.CONFIG_MAP.path(namespace, f"{name}-end"))
        if kept is None:
            return JobSeen(KILLED if going else LOST, reason="it is being taken away" if going else "its Job is gone")
        return JobSeen(str(kept["data"]["state"]), reason="it was ended", ended_at=epoch(kept["data"]["at"]))

    def _application(self, handle: Handle, pods: list[Object]) -> str:
        """Spark's application or Flink's job id, as its log tells; asked until it is known."""
        if self.kind == FLINK:
            return jobs.flink_job_id(str(handle["key"])) if pods and _phase(pods[-1]) != "Pending" else ""
        where = f"{handle['namespace']}/{handle['job']}"
        silent = time.monotonic() < self._silent_until.get(where, 0.0)
        if where not in self._applications and pods and _phase(pods[-1]) != "Pending" and not silent:
            try:
                text = self._pod_log(str(handle["namespace"]), pods[-1]["metadata"]["name"], offset=0, limit=256 * 1024,
                                     timeout_s=PROXY_S)
            except DriverError:  # its node does not answer: how the job is, is known without it
                self._silent_until[where] = time.monotonic() + SILENT_S
                return ""
            found = _APPLICATION[self.kind].search(text)
            if found is None:
                return ""
            self._applications[where] = found[found.lastindex or 0].decode()
        return self._applications.get(where, "")

    def _keep_end(self, live: Object, namespace: str) -> None:
        """That the job was ended, and the end of its log, before its pod is gone with it."""
        metadata = live["metadata"]
        pods = self._pods_of(namespace, metadata["name"])
        text = self._log_end(namespace, pods[-1]["metadata"]["name"]) if pods else ""
        body = jobs.end_object(metadata["name"], str(metadata["annotations"].get(objects.KEY)), metadata.get("labels") or {},
                               namespace=namespace, owners=metadata.get("ownerReferences") or (), state=KILLED,
                               at=clock.rfc3339(clock.now()) or "", log=text)
        self._create(kinds.CONFIG_MAP, body)

    def _pod_log(self, namespace: str, pod: str, *, offset: int, limit: int, timeout_s: float = 0.0) -> bytes:
        try:
            response = self._api.stream(kinds.POD.path(namespace, pod, "log"), read_timeout_s=timeout_s or self._api.timeout_s,
                                        container=objects.CONTAINER, limitBytes=offset + limit)
        except ApiRefused as refused:
            if refused.status in (400, 404):  # nothing was written yet, or nobody keeps it any more
                return b""
            raise
        found, skip = bytearray(), offset
        try:
            while len(found) < limit:
                piece = response.read1(_LOG_PIECE)
                if not piece:
                    break
                found += piece[skip:]
                skip = max(0, skip - len(piece))
        except (HTTPError, OSError) as error:
            raise self._api.unreachable(error) from None
        finally:
            response.close()
        return bytes(found[:limit])

    def _log_end(self, namespace: str, pod: str) -> str:
        try:
            lines = list(self._driver.logs(pod, namespace=namespace, container=objects.CONTAINER, tail=4000))
        except DriverError:
            return ""
        text = "".join(f"{line}\n" for line in lines).encode()[-LOG_KEPT_BYTES:]
        return text.decode("utf-8", "ignore")

    def _cancel_flink(self, page: str, job: str) -> None:
        """Cancel on the master and wait for the end; silently nothing when the master cannot be asked."""
        number = jobs.flink_job_id(job)
        told = self._masters.ask("GET", page, f"/jobs/{number}")
        if told is None or str(told.get("state")) in _FLINK_ENDED:
            return
        self._masters.ask("PATCH", page, f"/jobs/{number}", mode="cancel")
        deadline = time.monotonic() + 60.0
        while True:
            told = self._masters.ask("GET", page, f"/jobs/{number}")
            if told is None or str(told.get("state")) in _FLINK_ENDED:
                return
            if time.monotonic() >= deadline:
                raise DriverError(f"the Flink job {number} is {told.get('state')} a minute after its cancellation", code=OTHER,
                                  transient=True)
            self._pause(0.5)

    def _pods_of(self, namespace: str, job: str) -> list[Object]:
        """Of a job, oldest first."""
        found = self._api.items(kinds.POD.path(namespace), labelSelector=f"batch.kubernetes.io/job-name={job}")
        return sorted(found, key=lambda pod: (str(pod["metadata"].get("creationTimestamp")), str(pod["metadata"]["name"])))


def bare(version: str, kind: str, name: str, namespace: str) -> Object:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}}


def _of_flink(told: Object | None, otherwise: str) -> str:
    """A Flink job's state as its master has it; one that has not ended runs."""
    return otherwise if told is None else _FLINK_STATES.get(str(told.get("state")), RUNNING)


def has_ended(job: Object) -> bool:
    return any(one.get("type") in ("Complete", "Failed") and one.get("status") == "True"
               for one in (job.get("status") or {}).get("conditions") or ())


def _phase(pod: Object) -> str:
    return str((pod.get("status") or {}).get("phase") or "Pending")


def _started(pods: list[Object]) -> float | None:
    """Since when the latest pod's container runs (or ran)."""
    for one in (pods[-1].get("status") or {}).get("containerStatuses") or () if pods else ():
        state = one.get("state") or {}
        at = epoch((state.get("running") or state.get("terminated") or {}).get("startedAt"))
        if at is not None:
            return at
    return None
