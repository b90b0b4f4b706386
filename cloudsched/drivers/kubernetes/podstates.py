"""In what state is a pod, in our words, and why? One table of Kubernetes' many reasons."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cloudsched.drivers.kubernetes.client import Object

STARTING, RUNNING, ERROR, SHUTDOWN = "Starting", "Running", "Error", "Shutdown"
# A container that waits for one of these will not start by itself.
_HOPELESS = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
                       "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
                       "RegistryUnavailable", "StartError", "ContainerCannotRun"})
_PLAIN = frozenset({"ContainerCreating", "PodInitializing", ""})
_DISRUPTED = {"PreemptionByScheduler": "Preempted", "TerminationByKubelet": "Evicted", "EvictionByEvictionAPI": "Evicted",
              "DeletionByTaintManager": "Evicted", "DeletionByPodGC": "NodeLost"}


@dataclass(frozen=True, slots=True)
class PodState:
    """`state`: Starting, Running, Error (it will not start), Shutdown (it has ended or is ending). `reason`: Kubernetes'
    word first (`OOMKilled`, `Evicted`, ...), then what there is to say; empty when all is as it should be."""

    state: str
    reason: str = ""
    exit_code: int | None = None


def state_of(pod: Object, *, now: float, pending_timeout_s: float = 300.0) -> PodState:
    """A pod that waits for a node longer than `pending_timeout_s` is in Error."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    phase = status.get("phase", "Pending")
    if phase in ("Failed", "Succeeded"):
        return _ended(pod, phase)
    if metadata.get("deletionTimestamp"):
        return PodState(SHUTDOWN, _disruption(status) or "Terminating")
    waiting = next((one for one in _waiting(status) if one[0] not in _PLAIN), None)
    if waiting is not None:
        reason, message = waiting
        return PodState(ERROR if reason in _HOPELESS else STARTING, _told(reason, message))
    if phase == "Running":
        return PodState(RUNNING)
    if phase == "Unknown":
        return PodState(ERROR, _told(status.get("reason") or "NodeLost", status.get("message", "its node does not report")))
    return _pending(status, now=now, timeout_s=pending_timeout_s)


def _pending(status: Object, *, now: float, timeout_s: float) -> PodState:
    scheduled: Object = next((one for one in status.get("conditions") or () if one.get("type") == "PodScheduled"), {})
    if scheduled.get("status") != "False":
        return PodState(STARTING)
    reason = _told(scheduled.get("reason") or "Unschedulable", scheduled.get("message", ""))
    since = epoch(scheduled.get("lastTransitionTime"))
    late = since is not None and now - since > timeout_s
    return PodState(ERROR if late else STARTING, reason)


def _ended(pod: Object, phase: str) -> PodState:
    status = pod.get("status") or {}
    ends = [end for one in status.get("containerStatuses") or ()
            for end in ((one.get("state") or {}).get("terminated") or (one.get("lastState") or {}).get("terminated"),) if end]
    worst = next((end for end in ends if end.get("exitCode")), ends[0] if ends else {})
    code = worst.get("exitCode")
    if phase == "Succeeded":
        return PodState(SHUTDOWN, "Completed", 0 if code is None else code)
    word = status.get("reason") or _disruption(status) or worst.get("reason") or "Failed"
    message = status.get("message") or worst.get("message") or ("" if code is None else f"exit status {code}")
    return PodState(SHUTDOWN, _told(word, message), code)


def _waiting(status: Object) -> list[tuple[str, str]]:
    found = []
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (one.get("state") or {}).get("waiting")
        if waiting:
            found.append((str(waiting.get("reason") or ""), str(waiting.get("message") or "")))
    return found


def _disruption(status: Object) -> str:
    target = next((one for one in status.get("conditions") or ()
                   if one.get("type") == "DisruptionTarget" and one.get("status") == "True"), None)
    if target is None:
        return ""
    return _told(_DISRUPTED.get(str(target.get("reason")), str(target.get("reason") or "Disrupted")), target.get("message", ""))


def _told(word: str, message: str) -> str:
    return f"{word}: {message}"[:400] if message else word


def epoch(stamp: str | None) -> float | None:
    """RFC 3339 as epoch seconds; None for none."""
    if not stamp:
        return None
    try:
        return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
