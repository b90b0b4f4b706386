"""How do Spark and Flink clusters run in Kubernetes? Applied, looked at, taken away; and jobs on them.

Everything follows from a cluster's key and its labels: any process finds again what another one launched. What may be
asked of a master through the API server (its workers, whether it is busy, a Flink job's state) is asked where the right
`pods/proxy` is given; without it the pods and Jobs themselves tell.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.domain import framework_objects as objects
from cloudsched.domain import framework_operators as operators
from cloudsched.domain.framework_objects import FLINK, MASTER, PORTS, SPARK, WORKER, Build
from cloudsched.drivers.base import OTHER, REQUEST, Check, DriverError, Place
from cloudsched.drivers.frameworks import (
    ClusterSeen,
    ClusterWanted,
    Handle,
    JobSeen,
    JobWanted,
    Save,
)
from cloudsched.drivers.kubernetes import kinds, names, quantities
from cloudsched.drivers.kubernetes.client import Api, ApiRefused, Object
from cloudsched.drivers.kubernetes.deletion import Selection
from cloudsched.drivers.kubernetes.driver import KubernetesDriver
from cloudsched.drivers.kubernetes.framework_jobs import FrameworkJobs, Masters, bare, has_ended
from cloudsched.drivers.kubernetes.options import read
from cloudsched.drivers.kubernetes.podstates import epoch, state_of
from cloudsched.errors import Invalid
from cloudsched.settings.dcluster import Dcluster
from cloudsched.settings.declare import convert, declared

STOP_S = 120.0
_STRAY = ("StatefulSet", "Deployment", "Job", "Service", "ConfigMap", "Pod", "PersistentVolumeClaim")
# Settings of [dcluster] that a cloud may say for itself.
_OF_CLOUDS = frozenset({"kube_namespace", "kube_spark_image", "kube_spark_home", "kube_spark_user", "kube_flink_image",
                        "kube_flink_home", "kube_flink_user", "kube_code_dir", "kube_operator", "on_demand_label",
                        "node_group_label", "node_group", "storage_class", "dynamic_disk_gb"})
_SAMPLE_MB = {SPARK: (512, 1024), FLINK: (1024, 1728)}


def make(kind: str, place: Place, said: Dcluster | None = None) -> KubernetesFramework:
    """Clusters of a kind (`spark`, `flink`) in the cluster that `place` is. `said`: the settings `[dcluster]`; an option of the
    cloud with the name of one of them goes before it. Invalid names the option or setting that is wrong."""
    return KubernetesFramework(KubernetesDriver(place), build_of(kind, place, said or Dcluster()))


def build_of(kind: str, place: Place, said: Dcluster) -> Build:
    """How clusters are built, from the cloud's options and `[dcluster]`."""
    options, said = read(place), replace(said, **_overrides(place))
    of = {SPARK: (said.kube_spark_image, said.kube_spark_home, said.kube_spark_user),
          FLINK: (said.kube_flink_image, said.kube_flink_home, said.kube_flink_user)}
    if kind not in of:
        raise Invalid.at("kind", f"{kind!r} is no kind of cluster", ", ".join(of))
    image, home, user = of[kind]
    key, sign, value = said.on_demand_label.partition("=")
    if not key or not sign:
        raise Invalid.at("dcluster.on_demand_label", f"{said.on_demand_label!r} is no label", "KEY=VALUE")
    return Build(
        kind=kind, image=image, home=home.rstrip("/"), user=user, instance=names.instance_mark(place),
        namespace=said.kube_namespace or options.namespace or "default", on_demand=(key, value),
        node_group_label=said.node_group_label, node_group=said.node_group, storage_class=said.storage_class,
        disk_gb=said.dynamic_disk_gb, code_dir=said.kube_code_dir.rstrip("/"), operator=said.kube_operator,
        node_selector=options.node_selector, tolerations=options.tolerations, service_account=options.service_account,
        priority_class=options.priority_class, pull_secrets=options.pull_secrets)


def _overrides(place: Place) -> dict[str, Any]:
    found = {}
    for name, key in declared(Dcluster).items():
        if name in _OF_CLOUDS and place.options.get(name) not in (None, ""):
            try:
                found[name] = convert(key, place.options[name])
            except ValueError as error:
                raise Invalid.at(name, f"{place.options[name]!r} {error}") from None
    return found


class KubernetesFramework:
    """Clusters of one kind in one Kubernetes cluster (drivers.frameworks.Framework). Safe to use from several threads.

    A handle holds `namespace` and is a convenience: without it the labels lead to the cluster.
    """

    def __init__(self, driver: KubernetesDriver, build: Build, *, pause: Callable[[float], None] = time.sleep) -> None:
        self.kind = build.kind
        self.build = build
        self._driver, self._pause = driver, pause
        self._api: Api = driver._api
        self._masters = Masters(driver, pause=pause)
        self._jobs = FrameworkJobs(driver, build, self._masters, pause=pause)

    def __repr__(self) -> str:
        return f"KubernetesFramework({self.kind!r}, {self._driver!r})"

    # -- clusters ----------------------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """The server's version, and a cluster as we make it, tried without making it; whether masters can be asked."""
        try:
            version = self._api.get("/version")
        except DriverError as error:
            return [Check("api server", ok=False, detail=str(error))]
        checks = [Check("api server", ok=True, detail=f"{version.get('gitVersion', '')} at {self._api.access.server}")]
        master_mb, worker_mb = _SAMPLE_MB[self.kind]
        sample = ClusterWanted("cloudsched-verify", self.kind, 0, "verify", 1, 1000, worker_mb, 1000, master_mb)
        try:
            run_by = self._operator()
            self._apply([objects.owner_object(sample, self.build), *self._manifests(sample, run_by)], dry_run=True)
            how = f", run by an operator ({run_by})" if run_by else ""
            checks.append(Check(f"{self.kind} cluster", ok=True, detail=f"accepted, with the image {self.build.image}{how}"))
        except DriverError as error:
            checks.append(Check(f"{self.kind} cluster", ok=False, detail=str(error)))
        return checks

    def launch(self, wanted: ClusterWanted, handle: Handle, save: Save) -> Handle:
        """Apply the owner, then what it owns. Kubernetes itself brings lost pods back; what somebody deleted or changed is made
        as it was. DriverError (REQUEST) names what is wrong."""
        namespace = self._namespace(wanted)
        found = self._owner(wanted.key, namespace)
        run_by = self._operator() if found is None else _run_by(found)
        manifests = self._manifests(wanted, run_by)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            raise DriverError(f"{wanted.key} is still being taken away", code=OTHER, transient=True)
        self._give_namespace(namespace)
        owner = self._apply([objects.owner_object(wanted, self.build, run_by=run_by)])[0].object
        made = {"namespace": namespace, "owner": owner["metadata"]["name"], "owner_uid": owner["metadata"]["uid"]}
        if made != dict(handle):
            save(made)
        self._apply(manifests, owner=owner, namespace=namespace)
        return made

    def look(self, wanted: ClusterWanted, handle: Handle) -> ClusterSeen:
        """Its pods by role; `facts` hold `pending` (pods that no node takes, with the reason and since when), `pods`,
        `restarts`, and what a job needs to know of it."""
        namespace, owner = self._home(wanted, handle)
        if owner is None:
            return ClusterSeen(master=False, workers=0, reason="it is not there")
        pods = self._pods(wanted.key, namespace)
        masters, workers = ([pod for pod in pods if _role(pod) == role] for role in (MASTER, WORKER))
        ready = sum(_is_ready(pod) for pod in workers)
        leads = any(_is_ready(pod) for pod in masters)
        page = self._page(wanted.key, namespace, owner)
        told = self._ask_master(page) if leads else None
        if told is not None:
            ready = min(ready, told[0])
        busy = leads and (bool(told and told[1]) or self._has_jobs(wanted.key, namespace))
        ending = bool(owner["metadata"].get("deletionTimestamp"))
        place_of = operators.operated_address if _run_by(owner) else objects.address
        address = place_of(wanted.key, self.kind, namespace)
        web = f"http://{urlsplit(address).hostname}:{PORTS[self.kind][1]}"
        return ClusterSeen(
            master=leads and not ending, workers=ready, address=address, web_url=web,
            busy=busy, reason="it is being taken away" if ending else self._why([*masters, *workers]),
            facts={"key": wanted.key, "namespace": namespace, "page": page, "owner_uid": owner["metadata"]["uid"],
                   "image": str(wanted.options.get("image") or ""),
                   "executor_mb": objects.spark_worker_memory(wanted)[1] if self.kind == SPARK else 0,
                   "labels": dict(owner["metadata"].get("labels") or {}),
                   "pending": _pending(pods), "restarts": sum(map(_restarts, pods)), "pods": [_shown(pod) for pod in pods]})

    def stop(self, wanted: ClusterWanted, handle: Handle) -> None:
        """Delete the owner and wait for the end of all it owned; then whatever else carries the cluster's label."""
        namespace, owner = self._home(wanted, handle)
        if owner is not None:
            self._driver.delete([_plain_owner(owner)], namespace=namespace)
        self._driver.delete(Selection(objects.selector(self.build, wanted.key), namespace, _STRAY), namespace=namespace)
        self._wait_for_pods(wanted.key, namespace)

    def clusters(self) -> list[str]:
        """Keys of all in the namespaces that we may look into."""
        return sorted({str((one["metadata"].get("annotations") or {}).get(objects.KEY) or one["metadata"]["name"])
                       for one in self._owners()})

    def wanted(self, key: str) -> ClusterWanted | None:
        """What was asked for when a cluster was launched, from the cluster itself; None when there is none of that key."""
        found = self._owner(key, "")
        if found is None:
            return None
        return ClusterWanted(**json.loads(found["data"]["wanted.json"]))

    # -- jobs --------------------------------------------------------------------------------------------------

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """See `framework_jobs`."""
        return self._jobs.submit(cluster, job, handle, save)

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        return self._jobs.job(cluster, handle)

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        self._jobs.kill(cluster, handle)

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        return self._jobs.log(cluster, handle, offset=offset, limit=limit)

    def forget(self, handle: Handle) -> None:
        self._jobs.forget(handle)

    # -- finding -----------------------------------------------------------------------------------------------

    def _home(self, wanted: ClusterWanted, handle: Handle) -> tuple[str, Object | None]:
        """(namespace, owner): where the handle says, where it was wanted, or wherever its label is."""
        first = str(handle.get("namespace") or "") or self._namespace(wanted)
        found = self._owner(wanted.key, first) or self._owner(wanted.key, "")
        return (found["metadata"]["namespace"], found) if found is not None else (first, None)

    def _namespace(self, wanted: ClusterWanted) -> str:
        try:
            return objects.namespace_of(wanted, self.build)
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error

    def _owner(self, key: str, namespace: str) -> Object | None:
        """In a namespace, or with '' in any. DriverError when an object of that name is not ours."""
        if namespace:
            found = self._api.find(kinds.CONFIG_MAP.path(namespace, self._title(key)))
            if found is None:
                return None
            marks = found["metadata"].get("labels") or {}
            if (marks.get(objects.INSTANCE), marks.get(objects.CLUSTER)) != (self.build.instance, key):
                raise DriverError(f"the ConfigMap {namespace}/{self._title(key)} is there and is not ours", code=OTHER)
            return found
        return next(iter(self._owners(key)), None)

    def _owners(self, key: str = "") -> list[Object]:
        wanted = objects.selector(self.build, key, role=objects.OWNER)
        try:
            return self._api.items(kinds.CONFIG_MAP.path(), labelSelector=wanted)
        except ApiRefused as refused:
            if refused.status != 403:
                raise
        return self._api.items(kinds.CONFIG_MAP.path(self.build.namespace), labelSelector=wanted)

    def _title(self, key: str) -> str:
        try:
            return objects.title(key)
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error

    def _pods(self, key: str, namespace: str) -> list[Object]:
        found = self._api.items(kinds.POD.path(namespace), labelSelector=objects.selector(self.build, key))
        return sorted((pod for pod in found if _role(pod) in (MASTER, WORKER)), key=lambda pod: str(pod["metadata"]["name"]))

    def _has_jobs(self, key: str, namespace: str) -> bool:
        found = self._api.items(kinds.JOB.path(namespace), labelSelector=objects.selector(self.build, key))
        return any(not has_ended(one) for one in found)

    def _wait_for_pods(self, key: str, namespace: str) -> None:
        """An operator takes its pods away in its own time."""
        deadline = time.monotonic() + STOP_S
        while pods := self._pods(key, namespace):
            if time.monotonic() >= deadline:
                names_left = ", ".join(pod["metadata"]["name"] for pod in pods[:10])
                raise DriverError(f"pods of {key} are still there: {names_left}", code=OTHER, transient=True)
            self._pause(0.5)

    # -- making ------------------------------------------------------------------------------------------------

    def _manifests(self, wanted: ClusterWanted, run_by: str) -> list[Object]:
        make_of = operators.operated_objects if run_by else objects.cluster_objects
        try:
            return make_of(wanted, self.build)
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error

    def _apply(self, manifests: list[Object], **how: Any) -> list[Any]:
        try:
            return self._driver.apply(manifests, force=True, **how)  # what we made is ours, whoever scaled it
        except Invalid as error:
            raise DriverError(error.message, code=REQUEST) from error

    def _operator(self) -> str:
        """The kind of object that an operator runs clusters by here; empty when we make them ourselves."""
        kind, version = operators.KINDS[self.kind], operators.VERSIONS[self.kind]
        if not self.build.operator:
            return ""
        served = self._api.find(f"/apis/{version}") or {}
        return kind if any(one.get("kind") == kind for one in served.get("resources") or ()) else ""

    def _give_namespace(self, namespace: str) -> None:
        """A namespace other than the shared one is made for its tenant; it stays when the cluster goes."""
        if namespace in (self.build.namespace, self._driver.namespace):
            return
        try:
            self._api.send("POST", kinds.NAMESPACE.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": namespace, "labels": {objects.MANAGED: "cloudsched"}}})
        except ApiRefused as refused:
            if refused.reason != "AlreadyExists" and refused.status != 403:  # one we may not make may be there
                raise

    def _why(self, pods: list[Object]) -> str:
        """What keeps pods from being ready, the master's first. Logs of Flink's processes hold the words of everybody's jobs:
        those are not quoted."""
        shown = pods if self.kind == SPARK else [_without_words(pod) for pod in pods]
        told = ((pod, state_of(pod, now=clock.now()).reason) for pod in shown if not _is_ready(pod))
        return "; ".join(f"{pod['metadata']['name']}: {reason}" for pod, reason in told if reason)[:1000]

    # -- the master itself -------------------------------------------------------------------------------------

    def _page(self, key: str, namespace: str, owner: Object) -> str:
        """The path of the master's web pages behind the API server."""
        name, port = self._title(key), PORTS[self.kind][1]
        if self.kind == FLINK and _run_by(owner):
            return f"/api/v1/namespaces/{namespace}/services/{name}-rest:{port}/proxy"
        return f"/api/v1/namespaces/{namespace}/pods/{name}-master-0:{port}/proxy"

    def _ask_master(self, page: str) -> tuple[int, bool] | None:
        """(workers that have joined, does it run jobs); None when it cannot be asked."""
        told = self._masters.ask("GET", page, "/json/" if self.kind == SPARK else "/overview")
        if told is None:
            return None
        if self.kind == SPARK:
            return int(told.get("aliveworkers") or 0), bool(told.get("activeapps"))
        return int(told.get("taskmanagers") or 0), int(told.get("jobs-running") or 0) > 0



def _plain_owner(owner: Object) -> Object:
    return bare("v1", "ConfigMap", owner["metadata"]["name"], owner["metadata"]["namespace"])


def _run_by(owner: Object) -> str:
    return str((owner["metadata"].get("annotations") or {}).get(objects.RUN_BY) or "")


def _role(pod: Object) -> str:
    return str((pod["metadata"].get("labels") or {}).get(objects.ROLE) or "")


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return not pod["metadata"].get("deletionTimestamp") and any(
        one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def _restarts(pod: Object) -> int:
    return sum(int(one.get("restartCount") or 0) for one in (pod.get("status") or {}).get("containerStatuses") or ())


def _without_words(pod: Object) -> Object:
    """The pod without what its containers wrote last."""
    status = pod.get("status") or {}
    ends = [{**one, "state": _wordless(one.get("state")), "lastState": _wordless(one.get("lastState"))}
            for one in status.get("containerStatuses") or ()]
    return {**pod, "status": {**status, "containerStatuses": ends}}


def _wordless(state: Object | None) -> Object:
    ended = (state or {}).get("terminated")
    return {**(state or {}), "terminated": {**ended, "message": ""}} if ended else dict(state or {})


def _pending(pods: list[Object]) -> list[dict[str, Any]]:
    """Pods that no node takes: `pod`, `role`, `reason`, `since` (epoch seconds), `cores`, `memory_mb` of each."""
    found = []
    for pod in pods:
        conditions = (pod.get("status") or {}).get("conditions") or ()
        refused = next((one for one in conditions if one.get("type") == "PodScheduled" and one.get("status") == "False"), None)
        if refused is not None and not pod["spec"].get("nodeName"):
            asked = quantities.asked(pod)
            found.append({"pod": pod["metadata"]["name"], "role": _role(pod), "reason": str(refused.get("message") or ""),
                          "since": epoch(refused.get("lastTransitionTime")), "cores": quantities.cores(asked.get("cpu")),
                          "memory_mb": quantities.megabytes(asked.get("memory"))})
    return found


def _shown(pod: Object) -> Mapping[str, Any]:
    return {"name": pod["metadata"]["name"], "role": _role(pod), "node": pod["spec"].get("nodeName") or "",
            "ready": _is_ready(pod), "address": (pod.get("status") or {}).get("podIP") or ""}
