"""What happens by itself in a cluster? Garbage collection, namespaces that end, workloads, budgets, quotas.

One thread looks at each object that changed; what it writes makes it look again, until nothing is left to do.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import threading
import time
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import Any

from cloudsched.testing.kubeapi import admission, checks, kinds
from cloudsched.testing.kubeapi.answers import Refused
from cloudsched.testing.kubeapi.api import NOT_READY, Api, now
from cloudsched.testing.kubeapi.kinds import Kind, Object
from cloudsched.testing.kubeapi.kubelet import Kubelet
from cloudsched.testing.kubeapi.quantities import amount
from cloudsched.testing.kubeapi.selectors import selected
from cloudsched.testing.kubeapi.store import Place

POD, JOB, REPLICA_SET = kinds.of("Pod"), kinds.of("Job"), kinds.of("ReplicaSet")
NAMESPACE, NODE, BUDGET, QUOTA = (kinds.of(one) for one in ("Namespace", "Node", "PodDisruptionBudget", "ResourceQuota"))
CLAIM, CONFIG, ACCOUNT = (kinds.of(one) for one in ("PersistentVolumeClaim", "ConfigMap", "ServiceAccount"))
MANAGER = "kube-controller-manager"
REVISION = "deployment.kubernetes.io/revision"
TRACKED = "batch.kubernetes.io/job-tracking"
_BUILT_IN = {(one.api_version, one.kind): one for one in kinds.BUILT_IN}
log = logging.getLogger(__name__)


class Controllers:
    """Runs between `start` and `stop`; `paused` lets a test look at what would have been done next."""

    def __init__(self, api: Api, kubelet: Kubelet) -> None:
        self.api, self.store, self.kubelet = api, api.store, kubelet
        self.paused = False
        self._later: list[tuple[float, int, Place]] = []
        self._number = 0
        self._stop = False
        self._thread: threading.Thread | None = None
        self._by_kind: dict[str, Callable[[Object], None]] = {
            "Pod": self._pod, "Namespace": self._namespace, "Deployment": self._deployment, "ReplicaSet": self._replica_set,
            "StatefulSet": self._stateful_set, "DaemonSet": self._daemon_set, "Job": self._job, "Node": self._node,
            "PodDisruptionBudget": self._budget, "ResourceQuota": self._quota, "PersistentVolumeClaim": self._claim}

    def start(self) -> None:
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="kubeapi-controllers", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with self.store.lock:
            self._stop = True
            self.store.changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def later(self, place: Place, delay_s: float) -> None:
        """Look at it again after a while."""
        with self.store.lock:
            self._number += 1
            heappush(self._later, (time.monotonic() + delay_s, self._number, place))
            self.store.changed.notify_all()

    def _run(self) -> None:
        while True:
            with self.store.lock:
                if self._stop:
                    return
                place = None if self.paused else self._due()
                if place is None:
                    self.store.changed.wait(self._pause_s())
                    continue
                try:
                    self._look(*place)
                except Refused as refused:
                    log.debug("%s: %s", place, refused)
                    self.later(place, 0.05)

    def _due(self) -> Place | None:
        if self._later and self._later[0][0] <= time.monotonic():
            return heappop(self._later)[2]
        return self.store.next_dirty()

    def _pause_s(self) -> float:
        return 0.5 if not self._later else max(0.001, min(0.5, self._later[0][0] - time.monotonic()))

    def _look(self, kind: Kind, namespace: str, name: str) -> None:
        thing = self.store.get(kind, namespace, name)
        if thing is None:
            self._is_gone(kind, namespace, name)
            return
        metadata = thing["metadata"]
        if metadata.get("deletionTimestamp"):
            self._ending(kind, thing)
        elif metadata.get("ownerReferences") and not self._has_owner(thing):
            self._delete(kind, thing)
            return
        looker = self._by_kind.get(kind.kind)
        if looker is not None and not kind.custom:
            looker(thing)

    # -- garbage -----------------------------------------------------------------------------------------------

    def _is_gone(self, kind: Kind, namespace: str, name: str) -> None:
        if kind == POD:
            self.kubelet.forget(namespace, name)
            self._wake_waiting_pods()
        if kind == NODE:
            for pod in self._pods_on(name):
                self._delete(POD, pod, gracePeriodSeconds=0)
        last = self.store.gone.pop((kind, namespace, name), None)
        if last is not None:
            self._wake_owners(last)
            for owned_kind, owned in self.store.owned_by(last["metadata"]["uid"]):
                self._touch(owned_kind, owned)
        if namespace:
            self._touch_name(NAMESPACE, "", namespace)
            self._touch_all(QUOTA, namespace)
            if kind == POD:
                self._touch_all(BUDGET, namespace)

    def _wake_owners(self, thing: Object) -> None:
        """Their controllers see that something of theirs has gone."""
        for one in thing["metadata"].get("ownerReferences") or ():
            kind = self._kind_of(one)
            if kind is not None:
                self._touch_name(kind, thing["metadata"].get("namespace", "") if kind.namespaced else "", one["name"])

    def _has_owner(self, thing: Object) -> bool:
        """Is one of its owners there? An owner of a kind that is not served does not count as gone."""
        for one in thing["metadata"]["ownerReferences"]:
            kind = self._kind_of(one)
            if kind is None:
                return True
            owner = self.store.get(kind, thing["metadata"].get("namespace", "") if kind.namespaced else "", one["name"])
            if owner is not None and owner["metadata"]["uid"] == one["uid"]:
                return True
        return False

    def _kind_of(self, reference: Object) -> Kind | None:
        wanted = (reference["apiVersion"], reference["kind"])
        return _BUILT_IN.get(wanted) or next(
            (one for one in self.store.kinds() if (one.api_version, one.kind) == wanted), None)

    def _ending(self, kind: Kind, thing: Object) -> None:
        finalizers = thing["metadata"].get("finalizers") or []
        owned = self.store.owned_by(thing["metadata"]["uid"])
        if "orphan" in finalizers:
            for owned_kind, one in owned:
                self._disown(owned_kind, one, thing["metadata"]["uid"])
            self._without_finalizer(kind, thing, "orphan")
        elif "foregroundDeletion" in finalizers:
            blocking = [one for _, one in owned if self._blocks(one, thing["metadata"]["uid"])]
            for owned_kind, one in owned:
                if not one["metadata"].get("deletionTimestamp"):
                    policy = "Foreground" if self.store.owned_by(one["metadata"]["uid"]) else "Background"
                    self._delete(owned_kind, one, propagationPolicy=policy)
            if not blocking:
                self._without_finalizer(kind, thing, "foregroundDeletion")

    def _blocks(self, thing: Object, uid: str) -> bool:
        return any(one["uid"] == uid and one.get("blockOwnerDeletion") for one in thing["metadata"]["ownerReferences"])

    def _disown(self, kind: Kind, thing: Object, uid: str) -> None:
        def without(new: Object) -> None:
            new["metadata"]["ownerReferences"] = [one for one in new["metadata"]["ownerReferences"] if one["uid"] != uid]

        self._change(kind, thing, without)

    def _without_finalizer(self, kind: Kind, thing: Object, finalizer: str) -> None:
        def without(new: Object) -> None:
            left = [one for one in new["metadata"].get("finalizers") or () if one != finalizer]
            new["metadata"].pop("finalizers", None)
            if left:
                new["metadata"]["finalizers"] = left

        self._change(kind, thing, without)

    # -- namespaces --------------------------------------------------------------------------------------------

    def _namespace(self, thing: Object) -> None:
        name = thing["metadata"]["name"]
        if not thing["metadata"].get("deletionTimestamp"):
            young_s = self.kubelet.habits.account_s - (time.time() - _epoch(thing["metadata"]["creationTimestamp"]))
            if young_s > 0:
                self.later((NAMESPACE, "", name), young_s)
                return
            for kind, given in ((ACCOUNT, {"metadata": {"name": "default"}}),
                                (CONFIG, {"metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "none"}})):
                if self.store.get(kind, name, given["metadata"]["name"]) is None:
                    self.api.create(kind, name, given, manager=MANAGER)
            return
        left = [(kind, one) for kind in self.store.kinds() if kind.namespaced for one in self.store.all(kind, name)]
        for kind, one in left:
            if not one["metadata"].get("deletionTimestamp"):
                self._delete(kind, one)
        held = [f"{finalizer} in {kind.resource}" for kind, one in left for finalizer in one["metadata"].get("finalizers") or ()]
        if not left:
            self._change(NAMESPACE, thing, lambda new: new["spec"].pop("finalizers", None))
        elif held:
            self._status(NAMESPACE, thing, conditions=[{
                "type": "NamespaceFinalizersRemaining", "status": "True", "reason": "SomeFinalizersRemain",
                "message": f"Some content in the namespace has finalizers remaining: {', '.join(sorted(held))}",
                "lastTransitionTime": thing["metadata"]["deletionTimestamp"]}])

    # -- pods and nodes ----------------------------------------------------------------------------------------

    def _pod(self, thing: Object) -> None:
        if TRACKED in (thing["metadata"].get("finalizers") or ()) and self._is_counted(thing):
            self._without_finalizer(POD, thing, TRACKED)
            return
        again_s = self.kubelet.look(thing)
        if again_s is not None:
            self.later((POD, thing["metadata"]["namespace"], thing["metadata"]["name"]), again_s)
        if (thing.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            self._wake_waiting_pods()
        self._wake_owners(thing)
        self._touch_all(BUDGET, thing["metadata"]["namespace"])
        self._touch_all(QUOTA, thing["metadata"]["namespace"])

    def _is_counted(self, pod: Object) -> bool:
        """A job's pod is held until the job has counted it, or does not count any more."""
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return True
        metadata = pod["metadata"]
        jobs = [self.store.get(JOB, metadata["namespace"], one["name"]) for one in metadata.get("ownerReferences") or ()
                if one["kind"] == "Job"]
        return all(job is None or job["metadata"].get("deletionTimestamp") or metadata.get("deletionTimestamp") for job in jobs)

    def _node(self, thing: Object) -> None:
        if (thing["metadata"].get("annotations") or {}).get("kwok.x-k8s.io/node") == "fake":
            self._simulate(thing)
        self._wake_waiting_pods()
        for kind, sets in ((kinds.of("DaemonSet"), self.store.all(kinds.of("DaemonSet"))),):
            for one in sets:
                self._touch(kind, one)

    def _simulate(self, thing: Object) -> None:
        """A node that somebody made by hand: what its simulator says of it, and the taint that it then loses."""
        status, at = thing.get("status") or {}, now()
        if not any(one["type"] == "Ready" for one in status.get("conditions") or ()):
            self._status(NODE, thing, phase="Running", addresses=[{"type": "InternalIP", "address": "10.0.0.1"}],
                         nodeInfo={"kubeletVersion": "fake", "operatingSystem": "linux", "architecture": "amd64"},
                         conditions=[{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready",
                                      "lastHeartbeatTime": at, "lastTransitionTime": at}])
        elif NOT_READY in (thing["spec"].get("taints") or ()):
            self._change(NODE, thing, lambda new: new["spec"]["taints"].remove(NOT_READY))

    def _wake_waiting_pods(self) -> None:
        for namespace, name in list(self.kubelet.waiting):
            self._touch_name(POD, namespace, name)

    def _pods_on(self, node: str) -> list[Object]:
        return [pod for pod in self.store.all(POD) if pod["spec"].get("nodeName") == node]

    # -- workloads ---------------------------------------------------------------------------------------------

    def _deployment(self, thing: Object) -> None:
        if thing["metadata"].get("deletionTimestamp"):
            return
        template = checks.pod_template(thing)
        mark = checks.digest(template)
        name = f"{thing['metadata']['name']}-{mark}"
        owned = [one for kind, one in self.store.owned_by(thing["metadata"]["uid"]) if kind == REPLICA_SET]
        current = next((one for one in owned if one["metadata"]["name"] == name), None)
        if current is None:
            labels = {**(template["metadata"].get("labels") or {}), "pod-template-hash": mark}
            current = self._create(REPLICA_SET, thing, {
                "metadata": {"name": name, "labels": labels},
                "spec": {"replicas": thing["spec"]["replicas"], "selector": {"matchLabels": labels},
                         "template": {**template, "metadata": {**template["metadata"], "labels": labels}}}})
        for one in owned:
            self._scale(one, thing["spec"]["replicas"] if one["metadata"]["name"] == name else 0)
        owned = [one for kind, one in self.store.owned_by(thing["metadata"]["uid"]) if kind == REPLICA_SET]
        self._change(kinds.of("Deployment"), thing, lambda new: new["metadata"].setdefault("annotations", {}).update(
            {REVISION: str(len(owned))}))
        ready = sum((one.get("status") or {}).get("readyReplicas", 0) for one in owned)
        total = sum((one.get("status") or {}).get("replicas", 0) for one in owned)
        good = ready >= thing["spec"]["replicas"]
        self._status(kinds.of("Deployment"), thing, observedGeneration=thing["metadata"]["generation"], replicas=total,
                     readyReplicas=ready, availableReplicas=ready,
                     updatedReplicas=(current.get("status") or {}).get("replicas", 0),
                     conditions=[{"type": "Available", "status": str(good),
                                  "reason": "MinimumReplicasAvailable" if good else "MinimumReplicasUnavailable",
                                  "message": f"{ready} of {thing['spec']['replicas']} available"}])

    def _scale(self, replica_set: Object, replicas: int) -> None:
        if replica_set["spec"]["replicas"] != replicas:
            def scaled(new: Object) -> None:
                new["spec"]["replicas"] = replicas
                new["metadata"]["generation"] += 1

            self._change(REPLICA_SET, replica_set, scaled)

    def _replica_set(self, thing: Object) -> None:
        if thing["metadata"].get("deletionTimestamp"):
            return
        pods = self._live_pods(thing)
        wanted = thing["spec"]["replicas"]
        for _ in range(wanted - len(pods)):
            self._create_pod(thing, {"generateName": f"{thing['metadata']['name']}-"})
        for pod in sorted(pods, key=lambda one: (_is_ready(one), one["metadata"]["name"]))[:max(0, len(pods) - wanted)]:
            self._delete(POD, pod)
        pods = self._live_pods(thing)
        ready = sum(_is_ready(one) for one in pods)
        self._status(REPLICA_SET, thing, replicas=len(pods), readyReplicas=ready, availableReplicas=ready,
                     fullyLabeledReplicas=len(pods), observedGeneration=thing["metadata"]["generation"])
        self._wake_owners(thing)

    def _stateful_set(self, thing: Object) -> None:
        if thing["metadata"].get("deletionTimestamp"):
            return
        namespace, name = thing["metadata"]["namespace"], thing["metadata"]["name"]
        wanted, pods = thing["spec"]["replicas"], {one["metadata"]["name"]: one for one in self._live_pods(thing)}
        parallel = thing["spec"]["podManagementPolicy"] == "Parallel"
        for number in range(wanted):
            pod_name = f"{name}-{number}"
            if pod_name not in pods:
                if self.store.get(POD, namespace, pod_name) is None:
                    claims = self._claims(thing, pod_name)
                    self._create_pod(thing, {"name": pod_name, "labels": {"statefulset.kubernetes.io/pod-name": pod_name,
                                             "apps.kubernetes.io/pod-index": str(number)}}, claims=claims)
                if not parallel:
                    break
            elif not parallel and not _is_ready(pods[pod_name]):
                break
        for pod_name in sorted(set(pods) - {f"{name}-{number}" for number in range(wanted)}, reverse=True):
            self._delete(POD, pods[pod_name])
        live = self._live_pods(thing)
        ready = sum(_is_ready(one) for one in live)
        self._status(kinds.of("StatefulSet"), thing, replicas=len(live), readyReplicas=ready, availableReplicas=ready,
                     currentReplicas=len(live), updatedReplicas=len(live), observedGeneration=thing["metadata"]["generation"])

    def _claims(self, thing: Object, pod_name: str) -> list[Object]:
        """The volume claims of one pod of a stateful set; they are kept when it goes."""
        volumes = []
        for template in thing["spec"].get("volumeClaimTemplates") or ():
            name = f"{template['metadata']['name']}-{pod_name}"
            if self.store.get(CLAIM, thing["metadata"]["namespace"], name) is None:
                labels = (thing["spec"]["selector"].get("matchLabels") or {}) | (template["metadata"].get("labels") or {})
                self.api.create(CLAIM, thing["metadata"]["namespace"], {
                    "metadata": {"name": name, "labels": labels}, "spec": copy.deepcopy(template["spec"])}, manager=MANAGER)
            volumes.append({"name": template["metadata"]["name"], "persistentVolumeClaim": {"claimName": name}})
        return volumes

    def _daemon_set(self, thing: Object) -> None:
        if thing["metadata"].get("deletionTimestamp"):
            return
        pods = {one["spec"].get("nodeName"): one for one in self._live_pods(thing)}
        nodes = [node["metadata"]["name"] for node in self.store.all(NODE)]
        for node in nodes:
            if node not in pods:
                self._create_pod(thing, {"generateName": f"{thing['metadata']['name']}-"}, node=node)
        for node, pod in pods.items():
            if node not in nodes:
                self._delete(POD, pod)
        live = self._live_pods(thing)
        ready = sum(_is_ready(one) for one in live)
        self._status(kinds.of("DaemonSet"), thing, desiredNumberScheduled=len(nodes), currentNumberScheduled=len(live),
                     numberReady=ready, numberAvailable=ready, numberMisscheduled=0,
                     observedGeneration=thing["metadata"]["generation"])

    def _job(self, thing: Object) -> None:
        metadata, spec, status = thing["metadata"], thing["spec"], thing.get("status") or {}
        if metadata.get("deletionTimestamp"):
            return
        if any(one["type"] in ("Complete", "Failed") and one["status"] == "True" for one in status.get("conditions") or ()):
            if spec.get("ttlSecondsAfterFinished") is not None:
                self._expire(thing)
            return
        pods = self._live_pods(thing, ended=True)
        succeeded = [one for one in pods if one["status"].get("phase") == "Succeeded"]
        failed = [one for one in pods if one["status"].get("phase") == "Failed"]
        active = [one for one in pods if one not in succeeded and one not in failed]
        facts: dict[str, Any] = {"active": len(active), "succeeded": len(succeeded), "failed": len(failed),
                                 "ready": sum(_is_ready(one) for one in active),
                                 "startTime": status.get("startTime") or (None if spec["suspend"] else now())}
        completions = spec.get("completions")
        done = len(succeeded) >= completions if completions is not None else bool(succeeded) and not active
        if len(failed) > spec["backoffLimit"]:
            self._end_job(thing, facts, active, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif self._is_over(thing, facts["startTime"]):
            self._end_job(thing, facts, active, "DeadlineExceeded", "Job was active longer than specified deadline")
        elif done:
            self._end_job(thing, facts, [], "", "")
        else:
            made = 0 if spec["suspend"] else self._job_pods(thing, pods, active, succeeded)
            self._status(JOB, thing, **{**facts, "active": len(active) + made})

    def _job_pods(self, thing: Object, pods: list[Object], active: list[Object], succeeded: list[Object]) -> int:
        spec = thing["spec"]
        room = spec["parallelism"] - len(active)
        if spec["completionMode"] == "Indexed":
            taken = {_index(one) for one in [*active, *succeeded]}
            free = [number for number in range(spec["completions"]) if number not in taken][:max(0, room)]
            for number in free:
                mark = {"batch.kubernetes.io/job-completion-index": str(number)}
                self._create_pod(thing, {"generateName": f"{thing['metadata']['name']}-{number}-", "labels": mark,
                                         "annotations": mark}, env=[{"name": "JOB_COMPLETION_INDEX", "value": str(number)}])
            return len(free)
        if spec.get("completions") is not None:
            room = min(room, spec["completions"] - len(succeeded) - len(active))
        for _ in range(room):
            self._create_pod(thing, {"generateName": f"{thing['metadata']['name']}-"})
        return max(0, room)

    def _is_over(self, thing: Object, started: str | None) -> bool:
        limit_s = thing["spec"].get("activeDeadlineSeconds")
        if limit_s is None or started is None:
            return False
        left_s = _epoch(started) + limit_s - time.time()
        if left_s > 0:
            self.later((JOB, thing["metadata"]["namespace"], thing["metadata"]["name"]), left_s + 0.01)
        return left_s <= 0

    def _end_job(self, thing: Object, facts: dict[str, Any], active: list[Object], reason: str, message: str) -> None:
        for pod in active:
            self._delete(POD, pod)
        at = now()
        kind = "Failed" if reason else "Complete"
        condition = {"type": kind, "status": "True", "lastTransitionTime": at, "lastProbeTime": at}
        condition |= {"reason": reason, "message": message} if reason else {}
        facts = {**facts, "active": 0, "ready": 0, "conditions": [condition]}
        self._status(JOB, thing, **facts, **({} if reason else {"completionTime": at}))

    def _expire(self, thing: Object) -> None:
        ended = next(one["lastTransitionTime"] for one in thing["status"]["conditions"])
        left_s = _epoch(ended) + thing["spec"]["ttlSecondsAfterFinished"] - time.time()
        if left_s <= 0:
            self._delete(JOB, thing, propagationPolicy="Background")
        else:
            self.later((JOB, thing["metadata"]["namespace"], thing["metadata"]["name"]), left_s + 0.01)

    # -- budgets, quotas, claims -------------------------------------------------------------------------------

    def _budget(self, thing: Object) -> None:
        pods = [one for one in self.store.all(POD, thing["metadata"]["namespace"])
                if selected(thing["spec"].get("selector"), one["metadata"].get("labels") or {})
                and (one.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
                and not one["metadata"].get("deletionTimestamp")]
        healthy = sum(_is_ready(one) for one in pods)
        expected = max(len(pods), sum(self._expected_by_owner(pods)))
        if "maxUnavailable" in thing["spec"]:
            needed = expected - _part(thing["spec"]["maxUnavailable"], expected, up=True)
        else:
            needed = _part(thing["spec"].get("minAvailable", 1), expected, up=True)
        needed = max(0, needed)
        self._status(BUDGET, thing, currentHealthy=healthy, desiredHealthy=needed, expectedPods=expected,
                     disruptionsAllowed=max(0, healthy - needed), observedGeneration=thing["metadata"]["generation"])

    def _expected_by_owner(self, pods: Iterable[Object]) -> list[int]:
        owners = {(one["kind"], pod["metadata"]["namespace"], one["name"]) for pod in pods
                  for one in pod["metadata"].get("ownerReferences") or () if one.get("controller")}
        found = []
        for kind, namespace, name in owners:
            owner = self.store.get(kinds.of(kind), namespace, name) if kind in ("ReplicaSet", "StatefulSet") else None
            found.append(owner["spec"]["replicas"] if owner else 0)
        return found

    def _quota(self, thing: Object) -> None:
        used = {name: f"{value:g}" for name, value in admission.usage(self.store, thing).items()}
        self._status(QUOTA, thing, hard=thing["spec"].get("hard") or {}, used=used)

    def _claim(self, thing: Object) -> None:
        if self.kubelet.habits.storage and (thing.get("status") or {}).get("phase") != "Bound":
            self._status(CLAIM, thing, phase="Bound", accessModes=thing["spec"]["accessModes"],
                         capacity=thing["spec"]["resources"]["requests"])

    # -- writing -----------------------------------------------------------------------------------------------

    def _live_pods(self, owner: Object, *, ended: bool = False) -> list[Object]:
        return [one for kind, one in self.store.owned_by(owner["metadata"]["uid"]) if kind == POD
                and (ended or (one.get("status") or {}).get("phase") not in ("Succeeded", "Failed"))
                and (ended or not one["metadata"].get("deletionTimestamp"))]

    def _create_pod(self, owner: Object, metadata: Object, *, node: str = "", claims: Iterable[Object] = (),
                    env: Iterable[Object] = ()) -> None:
        template = copy.deepcopy(checks.pod_template(owner))
        given = template.get("metadata") or {}
        spec = template["spec"]
        if node:
            spec["nodeName"] = node
        if claims:
            spec["volumes"] = [*(spec.get("volumes") or ()), *claims]
        for container in spec["containers"] if env else ():
            container["env"] = [*(container.get("env") or ()), *env]
        held = {"finalizers": [TRACKED]} if owner["kind"] == "Job" else {}
        self._create(POD, owner, {"spec": spec, "metadata": {
            **metadata, **held, "labels": {**(given.get("labels") or {}), **metadata.get("labels", {})},
            "annotations": {**(given.get("annotations") or {}), **metadata.get("annotations", {})}}})

    def _create(self, kind: Kind, owner: Object, body: Object) -> Object:
        reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": owner["metadata"]["name"],
                     "uid": owner["metadata"]["uid"], "controller": True, "blockOwnerDeletion": True}
        body["metadata"]["ownerReferences"] = [reference]
        return self.api.create(kind, owner["metadata"]["namespace"], body, manager=MANAGER)

    def _delete(self, kind: Kind, thing: Object, **options: Any) -> None:
        metadata = thing["metadata"]
        options.setdefault("propagationPolicy", "Background")
        with contextlib.suppress(Refused):
            self.api.delete(kind, metadata.get("namespace", ""), metadata["name"], options)

    def _change(self, kind: Kind, thing: Object, how: Callable[[Object], Any]) -> None:
        """A write past the rules of the outside; the last finalizer taken away ends a dying object."""
        metadata = thing["metadata"]
        live = self.store.get(kind, metadata.get("namespace", ""), metadata["name"])
        if live is None:
            return
        new = copy.deepcopy(live)
        how(new)
        left = new["metadata"].get("finalizers") or (kind == NAMESPACE and new["spec"].get("finalizers"))
        if new["metadata"].get("deletionTimestamp") and not left and not new["metadata"].get("deletionGracePeriodSeconds"):
            self.store.drop(kind, metadata.get("namespace", ""), metadata["name"])
        elif new != live:
            self.store.put(kind, new)

    def _status(self, kind: Kind, thing: Object, **facts: Any) -> None:
        def told(new: Object) -> None:
            new["status"] = {**(new.get("status") or {}), **{key: one for key, one in facts.items() if one is not None}}

        self._change(kind, thing, told)

    def _touch(self, kind: Kind, thing: Object) -> None:
        self._touch_name(kind, thing["metadata"].get("namespace", ""), thing["metadata"]["name"])

    def _touch_name(self, kind: Kind, namespace: str, name: str) -> None:
        if self.store.get(kind, namespace, name) is not None:
            self.store.touch((kind, namespace, name))

    def _touch_all(self, kind: Kind, namespace: str) -> None:
        for one in self.store.all(kind, namespace) if self.store.count(kind) else ():
            self._touch(kind, one)


def _is_ready(pod: Object) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True"
               for one in (pod.get("status") or {}).get("conditions") or ())


def _index(pod: Object) -> int:
    return int((pod["metadata"].get("annotations") or {}).get("batch.kubernetes.io/job-completion-index", -1))


def _part(value: Any, whole: int, *, up: bool) -> int:
    """A number, or a percentage of the whole, rounded up."""
    if isinstance(value, str) and value.endswith("%"):
        exact = whole * int(value[:-1])
        return -(-exact // 100) if up else exact // 100
    return int(amount(value))


def _epoch(stamp: str) -> float:
    from datetime import UTC, datetime

    return datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
