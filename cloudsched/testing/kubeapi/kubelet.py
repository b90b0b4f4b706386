"""What would the scheduler and the kubelets do with a pod? Bring it to Running, to its end, and out of the way.

Nothing is run, as with simulated nodes, unless processes are asked for: then the command of a pod's first container is
a process of this machine, with its volumes as directories.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cloudsched.testing.kubeapi import kinds
from cloudsched.testing.kubeapi.api import Api, now
from cloudsched.testing.kubeapi.kinds import Object
from cloudsched.testing.kubeapi.processes import PodProcess, missing_source
from cloudsched.testing.kubeapi.quantities import amount, asked, missing

POD, NODE, CLAIM = kinds.of("Pod"), kinds.of("Node"), kinds.of("PersistentVolumeClaim")
MANAGER = "kubelet"
LOOK_S = 0.02
_ENDED = ("Succeeded", "Failed")
_WAITING = {"ImagePullBackOff": 'Back-off pulling image "{image}"', "ErrImagePull": 'failed to pull image "{image}"',
            "InvalidImageName": 'Failed to apply default image tag "{image}": couldn\'t parse image name',
            "CrashLoopBackOff": "back-off 10s restarting failed container"}


@dataclass
class Habits:
    """How nodes and controllers behave. `images`: image -> why its container does not start; `start_s`, `stop_s`: how long a
    pod takes; `job_s`: after how long a job's pod succeeds (None: never by itself); `processes`: where pods really run;
    `answers`: nodes and pods can be asked for logs and pages; `storage`: volume claims are bound; `account_s`: how old a
    namespace is when it gets its default account; `latency_s`: of each request."""

    images: dict[str, str] = field(default_factory=dict)
    exits: dict[str, int] = field(default_factory=dict)
    start_s: float = 0.0
    stop_s: float = 0.0
    job_s: float | None = 0.0
    processes: Path | None = None
    answers: bool = True
    storage: bool = True
    account_s: float = 0.0
    latency_s: float = 0.0


class Kubelet:
    """All nodes at once. Called with the store locked."""

    def __init__(self, api: Api, habits: Habits, *, write_log: Callable[[str, str, str], None]) -> None:
        self.api, self.store, self.habits = api, api.store, habits
        self.waiting: set[tuple[str, str]] = set()
        self.processes: dict[str, PodProcess] = {}
        self._write_log = write_log
        self._since: dict[str, float] = {}
        self._addresses = 0
        self._turn = 0
        self._used: dict[str, dict[str, float]] | None = None  # node -> what its pods ask for; None: to be counted

    def look(self, pod: Object) -> float | None:
        """Do what is next for a pod; returns in how many seconds to look again."""
        metadata, phase = pod["metadata"], (pod.get("status") or {}).get("phase", "Pending")
        if phase in _ENDED:
            self._used = None
        if not pod["spec"].get("nodeName"):
            return self._schedule(pod)
        if not self._is_alive(pod["spec"]["nodeName"]):
            return None
        if metadata.get("deletionTimestamp"):
            return self._end(pod)
        if phase == "Pending":
            return self._start(pod)
        return self._watch_over(pod) if phase == "Running" else None

    def forget(self, namespace: str, name: str) -> None:
        """The object is gone: whatever still runs for it goes too."""
        self.waiting.discard((namespace, name))
        self._used = None
        for uid, process in list(self.processes.items()):
            if (process.namespace, process.name) == (namespace, name) and self._uid(namespace, name) != uid:
                process.kill()
                del self.processes[uid]

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.processes.clear()

    # -- scheduling --------------------------------------------------------------------------------------------

    def _schedule(self, pod: Object) -> float | None:
        place = (pod["metadata"]["namespace"], pod["metadata"]["name"])
        if pod["metadata"].get("deletionTimestamp"):
            return None
        nodes = self.store.all(NODE)
        if self._lacks_volume(pod):
            self.waiting.add(place)
            self._conditions(pod, {"PodScheduled": ("False", "Unschedulable", f"0/{len(nodes)} nodes are available: pod has "
                                                    "unbound immediate PersistentVolumeClaims.")})
            return None
        refusals = {node["metadata"]["name"]: self._refusal(node, pod) for node in nodes}
        fitting = [name for name, why in refusals.items() if not why]
        if not fitting:
            self.waiting.add(place)
            counted: dict[str, int] = {}
            for why in refusals.values():
                counted[why] = counted.get(why, 0) + 1
            reasons = ", ".join(f"{count} {why}" for why, count in sorted(counted.items()))
            self._conditions(pod, {"PodScheduled": ("False", "Unschedulable",
                                                    f"0/{len(nodes)} nodes are available: {reasons or 'no nodes'}.")})
            return None
        self.waiting.discard(place)
        self._turn += 1
        new = copy.deepcopy(pod)
        new["spec"]["nodeName"] = fitting[self._turn % len(fitting)]
        _set_conditions(new, {"PodScheduled": ("True", "", "")})
        self._use(new)
        self.store.put(POD, new)
        return None

    def _lacks_volume(self, pod: Object) -> bool:
        claims = [one["persistentVolumeClaim"]["claimName"] for one in pod["spec"].get("volumes") or ()
                  if "persistentVolumeClaim" in one]
        found = [self.store.get(CLAIM, pod["metadata"]["namespace"], name) for name in claims]
        return not self.habits.storage and any(one and (one.get("status") or {}).get("phase") != "Bound" for one in found)

    def _refusal(self, node: Object, pod: Object) -> str:
        spec, labels = pod["spec"], node["metadata"].get("labels") or {}
        tolerations = spec.get("tolerations") or ()
        if (node.get("spec") or {}).get("unschedulable") and not _tolerated(
                {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}, tolerations):
            return "node(s) were unschedulable"
        for taint in (node.get("spec") or {}).get("taints") or ():
            if taint["effect"] in ("NoSchedule", "NoExecute") and not _tolerated(taint, tolerations):
                return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
        if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
            return "node(s) didn't match Pod's node affinity/selector"
        if not self._is_alive(node["metadata"]["name"]):
            return "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"
        return self._lack(node, pod)

    def _lack(self, node: Object, pod: Object) -> str:
        free = {name: amount(value) for name, value in (node.get("status") or {}).get("allocatable", {}).items()}
        for name, value in self._used_on(node["metadata"]["name"]).items():
            free[name] = free.get(name, 0.0) - value
        lacking = missing(asked(pod) | {"pods": 1.0}, free)
        return f"Insufficient {lacking[0]}" if lacking and lacking != ["pods"] else "Too many pods" if lacking else ""

    def _used_on(self, node: str) -> dict[str, float]:
        if self._used is None:
            self._used = {}
            for pod in self.store.all(POD):
                if pod["spec"].get("nodeName") and (pod.get("status") or {}).get("phase") not in _ENDED:
                    self._use(pod)
        return self._used.get(node, {})

    def _use(self, pod: Object) -> None:
        used = self._used.setdefault(pod["spec"]["nodeName"], {}) if self._used is not None else {}
        for name, value in (asked(pod) | {"pods": 1.0}).items():
            used[name] = used.get(name, 0.0) + value

    def _is_alive(self, name: str) -> bool:
        node = self.store.get(NODE, "", name)
        return node is not None and any(one["type"] == "Ready" and one["status"] == "True"
                                        for one in (node.get("status") or {}).get("conditions") or ())

    # -- running -----------------------------------------------------------------------------------------------

    def _start(self, pod: Object) -> float | None:
        uid = pod["metadata"]["uid"]
        since = self._since.setdefault(uid, time.monotonic())
        image = pod["spec"]["containers"][0]["image"]
        why = self.habits.images.get(image, "")
        lacking = missing_source(self.store, pod)
        if why or lacking:
            reason = why or "ContainerCreating"
            self._waiting(pod, reason, lacking or _WAITING.get(why, why).format(image=image))
            return LOOK_S
        if time.monotonic() - since < self.habits.start_s:
            self._waiting(pod, "ContainerCreating", "")
            return LOOK_S
        if self.habits.processes is not None:
            self.processes[uid] = PodProcess(self.store, pod, self.habits.processes, self._write_log)
        self._since[uid] = time.monotonic()
        self._running(pod)
        return LOOK_S

    def _running(self, pod: Object) -> None:
        self._addresses += 1
        new = copy.deepcopy(pod)
        at = now()
        new["status"] |= {
            "phase": "Running", "startTime": at, "hostIP": "10.0.0.1",
            "podIP": f"10.244.{self._addresses // 250}.{self._addresses % 250 + 1}",
            "containerStatuses": [{"name": one["name"], "image": one["image"], "imageID": "", "ready": True, "started": True,
                                   "restartCount": 0, "state": {"running": {"startedAt": at}}, "lastState": {}}
                                  for one in pod["spec"]["containers"]]}
        _set_conditions(new, dict.fromkeys(("Initialized", "ContainersReady", "Ready"), ("True", "", "")))
        self.store.put(POD, new)

    def _watch_over(self, pod: Object) -> float | None:
        uid = pod["metadata"]["uid"]
        process = self.processes.get(uid)
        if process is not None:
            code = process.poll()
            if code is None:
                return LOOK_S
            self.finish(pod, code)
            return None
        since = self._since.setdefault(uid, time.monotonic())
        image = pod["spec"]["containers"][0]["image"]
        is_job = any(one["kind"] == "Job" for one in pod["metadata"].get("ownerReferences") or ())
        if image in self.habits.exits or (is_job and self.habits.job_s is not None):
            if time.monotonic() - since < (self.habits.job_s or 0.0):
                return LOOK_S
            self.finish(pod, self.habits.exits.get(image, 0))
        return None

    def finish(self, pod: Object, exit_code: int, *, reason: str = "", message: str = "", of_pod: str = "") -> None:
        """All containers have ended; `of_pod` is the reason of the pod itself (Evicted, ...)."""
        new = copy.deepcopy(pod)
        at = now()
        status = new.setdefault("status", {})
        status["phase"] = "Failed" if exit_code else "Succeeded"
        if of_pod:
            status |= {"reason": of_pod, "message": message}
        ended = {"exitCode": exit_code, "reason": reason or ("Error" if exit_code else "Completed"),
                 "startedAt": status.get("startTime", at), "finishedAt": at}
        for one in status.get("containerStatuses") or ():
            one |= {"ready": False, "started": False, "state": {"terminated": ended}}
        why = "PodFailed" if exit_code else "PodCompleted"
        _set_conditions(new, dict.fromkeys(("Ready", "ContainersReady"), ("False", why, "")))
        self.store.put(POD, new)

    def _end(self, pod: Object) -> float | None:
        metadata = pod["metadata"]
        process = self.processes.get(metadata["uid"])
        if process is not None and not process.stopped(metadata.get("deletionGracePeriodSeconds") or 0):
            return LOOK_S
        since = self._since.setdefault("end:" + metadata["uid"], time.monotonic())
        if time.monotonic() - since < self.habits.stop_s:
            return LOOK_S
        if metadata.get("finalizers"):
            new = copy.deepcopy(pod)
            new["metadata"]["deletionGracePeriodSeconds"] = 0
            if new != pod:
                self.store.put(POD, new)
        else:
            self.api.delete(POD, metadata["namespace"], metadata["name"], {"gracePeriodSeconds": 0})
        return None

    def _waiting(self, pod: Object, reason: str, message: str) -> None:
        new = copy.deepcopy(pod)
        state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
        new["status"]["containerStatuses"] = [
            {"name": one["name"], "image": one["image"], "imageID": "", "ready": False, "started": False, "restartCount": 0,
             "state": state, "lastState": {}} for one in pod["spec"]["containers"]]
        if new != pod:
            self.store.put(POD, new)

    def _conditions(self, pod: Object, facts: dict[str, tuple[str, str, str]]) -> None:
        new = copy.deepcopy(pod)
        _set_conditions(new, facts)
        if new != pod:
            self.store.put(POD, new)

    def _uid(self, namespace: str, name: str) -> str:
        pod = self.store.get(POD, namespace, name)
        return str(pod["metadata"]["uid"]) if pod else ""


def _set_conditions(pod: Object, facts: dict[str, tuple[str, str, str]]) -> None:
    status = pod.setdefault("status", {})
    conditions = {one["type"]: one for one in status.get("conditions") or ()}
    for sort, (value, reason, message) in facts.items():
        old = conditions.get(sort, {})
        at = old.get("lastTransitionTime") if old.get("status") == value else None
        one = {"type": sort, "status": value, "lastProbeTime": None, "lastTransitionTime": at or now()}
        conditions[sort] = one | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})
    status["conditions"] = list(conditions.values())


def _tolerated(taint: Object, tolerations: list[Object] | tuple[Object, ...]) -> bool:
    for one in tolerations:
        if one.get("effect") not in (None, "", taint["effect"]):
            continue
        if one.get("key") in (None, "") and one.get("operator") == "Exists":
            return True
        if one.get("key") == taint["key"] and (
                one.get("operator", "Equal") == "Exists" or one.get("value", "") == taint.get("value", "")):
            return True
    return False
