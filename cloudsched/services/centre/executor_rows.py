"""How are nodes and pods shown? Rows as `kubectl get -o wide` prints them, from objects as the API or Slurm tells them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from cloudsched import clock
from cloudsched.domain.fitting import NodeFree
from cloudsched.drivers.kubernetes import quantities

NONE = "<none>"
_ROLE = "node-role.kubernetes.io/"
_GPU_MODEL = "nvidia.com/gpu.product"
_ENDED = ("Succeeded", "Failed")
_SLURM_PODS = {"RUNNING": "Running", "PENDING": "Pending", "COMPLETING": "Terminating", "CONFIGURING": "ContainerCreating",
               "SUSPENDED": "Suspended", "COMPLETED": "Completed"}
_SLURM_DOWN = {"DOWN", "NOT_RESPONDING", "FAIL", "POWERED_DOWN", "POWER_DOWN", "POWERING_DOWN", "UNKNOWN", "INVALID_REG", "ERROR",
               "FUTURE"}
_SLURM_CLOSED = {"DRAIN", "DRAINED", "DRAINING", "MAINTENANCE", "RESERVED"}

Object = Mapping[str, Any]


def age_text(seconds: float) -> str:
    """As kubectl writes a duration: 45s, 3m20s, 17m, 5h30m, 17h, 5d18h, 40d, 2y40d."""
    total = max(0, int(seconds))
    minutes, hours, days = total // 60, total // 3600, total // 86_400
    if minutes < 2:
        return f"{total}s"
    if minutes < 10:
        return _two(minutes, "m", total % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d") if days < 8 * 365 else f"{days // 365}y"


# Kubernetes


def node_row(node: Object) -> dict[str, str]:
    metadata, spec, status = node["metadata"], node.get("spec") or {}, node.get("status") or {}
    facts = status.get("nodeInfo") or {}
    addresses = {one["type"]: one["address"] for one in reversed(status.get("addresses") or ())}
    roles = sorted(key.removeprefix(_ROLE) for key in metadata.get("labels") or {} if key.startswith(_ROLE))
    word = ("Ready" if is_ready(node) else "NotReady") + (",SchedulingDisabled" if spec.get("unschedulable") else "")
    return {
        "node_name": metadata["name"], "node_status": word, "node_role": ",".join(roles) or NONE,
        "node_age": _age(metadata.get("creationTimestamp")), "node_version": facts.get("kubeletVersion") or NONE,
        "node_internalip": addresses.get("InternalIP") or NONE, "node_externalip": addresses.get("ExternalIP") or NONE,
        "node_osversion": facts.get("osImage") or NONE, "node_kernelversion": facts.get("kernelVersion") or NONE,
        "node_containeruntime": facts.get("containerRuntimeVersion") or NONE,
    }


def pod_row(pod: Object) -> dict[str, str]:
    metadata, spec, status = pod["metadata"], pod.get("spec") or {}, pod.get("status") or {}
    containers = status.get("containerStatuses") or ()
    ready = sum(bool(one.get("ready")) for one in containers)
    gates = spec.get("readinessGates") or ()
    true = {one["type"] for one in status.get("conditions") or () if one.get("status") == "True"}
    return {
        "pod_namespace": metadata["namespace"], "pod_name": metadata["name"],
        "pod_ready": f"{ready}/{len(spec.get('containers') or ())}", "pod_running": pod_word(pod),
        "pod_restart": str(sum(int(one.get("restartCount") or 0) for one in containers)),
        "pod_age": _age(metadata.get("creationTimestamp")), "pod_ip": status.get("podIP") or NONE,
        "pod_node": spec.get("nodeName") or NONE, "pod_nominated_node": status.get("nominatedNodeName") or NONE,
        "pod_readiness_gates": f"{sum(one['conditionType'] in true for one in gates)}/{len(gates)}" if gates else NONE,
    }


def pod_word(pod: Object) -> str:
    """The column STATUS, as kubectl makes it up."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    word = _of_first_containers(pod) or _of_containers(status)
    return "Completed" if word == "Succeeded" else word


def _of_first_containers(pod: Object) -> str:
    """The init container that holds the pod up, if one does; one that stays beside the others does not once it has started."""
    states = (pod.get("status") or {}).get("initContainerStatuses") or ()
    staying = {one.get("name") for one in (pod.get("spec") or {}).get("initContainers") or ()
               if one.get("restartPolicy") == "Always"}
    for number, one in enumerate(states):
        state = one.get("state") or {}
        ended, waiting = state.get("terminated"), (state.get("waiting") or {}).get("reason")
        if (ended and not ended.get("exitCode")) or (one.get("started") and one.get("name") in staying):
            continue
        if ended:
            return f"Init:{_end_word(ended)}"
        return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else f"Init:{number}/{len(states)}"
    return ""


def _of_containers(status: Object) -> str:
    word, runs = str(status.get("reason") or status.get("phase") or "Pending"), False
    for one in reversed(status.get("containerStatuses") or ()):
        state = one.get("state") or {}
        waiting = (state.get("waiting") or {}).get("reason")
        if waiting or state.get("terminated"):
            word = str(waiting or _end_word(state["terminated"]))
        elif one.get("ready") and "running" in state:
            runs = True
    return "Running" if runs and word == "Completed" else word


def _end_word(ended: Object) -> str:
    if ended.get("reason"):
        return str(ended["reason"])
    return f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode', 0)}"


def is_ready(node: Object) -> bool:
    return any(one.get("type") == "Ready" and one.get("status") == "True"
               for one in (node.get("status") or {}).get("conditions") or ())  # fmt: skip


def is_at_home(pod: Object) -> bool:
    """Does it belong to its node (a daemon set's, or the node's own), or has it ended? Such pods keep nobody from leaving."""
    metadata = pod["metadata"]
    daemon = any(one.get("kind") == "DaemonSet" for one in metadata.get("ownerReferences") or ())
    mirror = "kubernetes.io/config.mirror" in (metadata.get("annotations") or {})
    return daemon or mirror or (pod.get("status") or {}).get("phase") in _ENDED


def free(nodes: Iterable[Object], pods: Iterable[Object]) -> list[NodeFree]:
    """Allocatable minus what the pods that have not ended ask for."""
    asked: dict[str, list[dict[str, Any]]] = {}
    for pod in pods:
        if (pod.get("status") or {}).get("phase") not in _ENDED:
            asked.setdefault((pod.get("spec") or {}).get("nodeName") or "", []).append(quantities.asked(pod))
    return [_free(node, asked.get(node["metadata"]["name"], ())) for node in nodes]


def _free(node: Object, asked: Sequence[Mapping[str, Any]]) -> NodeFree:
    metadata, status = node["metadata"], node.get("status") or {}
    labels = metadata.get("labels") or {}
    has = status.get("allocatable") or status.get("capacity") or {}
    taken = quantities.added(asked)
    left = {name: quantities.number(value) - taken.get(name, 0) for name, value in has.items()}
    gpus = int(left.get(quantities.GPU, 0))
    disk = left.get("ephemeral-storage")
    return NodeFree(
        name=metadata["name"], cpu_m=max(0, int(left.get("cpu", 0) * 1000)),
        memory_mi=max(0, int(left.get("memory", 0) / quantities.MIB)),
        disk_gi=None if disk is None else max(0, int(disk / quantities.GIB)),
        gpus={labels.get(_GPU_MODEL, ""): max(0, gpus)} if quantities.GPU in has else {}, labels=dict(labels),
        ready=is_ready(node), schedulable=not (node.get("spec") or {}).get("unschedulable"))  # fmt: skip


# Slurm: shapes differ between its versions


def slurm_node_row(node: Object, *, controller: str = "") -> dict[str, str]:
    """`controller`: the name of the node that is the controller as well."""
    words = _states(node)
    word = "NotReady" if words & _SLURM_DOWN else "Ready"
    system, began = str(node.get("operating_system") or ""), _number(node.get("slurmd_start_time"))
    return {
        "node_name": str(node["name"]), "node_status": word + (",SchedulingDisabled" if words & _SLURM_CLOSED else ""),
        "node_role": "control-plane" if controller and node.get("name") == controller else NONE,
        "node_age": age_text(clock.now() - began) if began else NONE,
        "node_version": f"slurm {_slurm_version(node)}", "node_internalip": str(node.get("address") or NONE),
        "node_externalip": NONE, "node_osversion": system.partition(" ")[0] or NONE,
        "node_kernelversion": system.split(" ")[1] if " " in system else NONE, "node_containeruntime": "slurmd",
    }


def slurm_pod_row(job: Object, addresses: Mapping[str, str]) -> dict[str, str]:
    """A job as a pod: its partition is the namespace, its number ends the name. `addresses`: of nodes."""
    raw = _word(job.get("job_state"))
    host = str(job.get("batch_host") or job.get("nodes") or "")
    began = _number(job.get("submit_time"))
    return {
        "pod_namespace": str(job.get("partition") or NONE), "pod_name": f"{job.get('name') or 'job'}-{job.get('job_id')}",
        "pod_ready": "1/1" if raw == "RUNNING" else "0/1", "pod_running": _SLURM_PODS.get(raw, raw.capitalize()),
        "pod_restart": str(int(_number(job.get("restart_cnt")))), "pod_age": age_text(clock.now() - began) if began else NONE,
        "pod_ip": addresses.get(host) or NONE, "pod_node": str(job.get("nodes") or NONE), "pod_nominated_node": NONE,
        "pod_readiness_gates": NONE,
    }


def slurm_free(node: Object) -> NodeFree:
    words = _states(node)
    gpus = max(0, _gpus(node.get("gres")) - _gpus(node.get("gres_used")))
    memory = _number(node.get("real_memory")) - _number(node.get("alloc_memory"))
    return NodeFree(
        name=str(node["name"]), cpu_m=max(0, int(_number(node.get("cpus")) - _number(node.get("alloc_cpus")))) * 1000,
        memory_mi=max(0, int(memory)), gpus={"": gpus} if _gpus(node.get("gres")) else {}, labels=slurm_labels(node),
        ready=not words & _SLURM_DOWN, schedulable=not words & _SLURM_CLOSED)  # fmt: skip


def slurm_labels(node: Object) -> dict[str, str]:
    """A node's features: `key=value`, or a word alone."""
    given = node.get("features") or ()
    words = given.split(",") if isinstance(given, str) else given
    return {key: value for key, _, value in (str(word).partition("=") for word in words) if key}


def _states(node: Object) -> set[str]:
    given = node.get("state")
    words = [given] if isinstance(given, str) else list(given or ())
    return {str(word).upper() for word in (*words, *(node.get("state_flags") or ()))}


def _word(given: Any) -> str:
    words = [given] if isinstance(given, str) else list(given or ["UNKNOWN"])
    return "COMPLETING" if "COMPLETING" in words else str(words[0]).upper()


def _number(given: Any) -> float:
    if isinstance(given, Mapping):
        return float(given.get("number") or 0) if given.get("set", True) else 0.0
    try:
        return float(given or 0)
    except (TypeError, ValueError):
        return 0.0


def _slurm_version(node: Object) -> str:
    return str(node.get("slurmd_version") or node.get("version") or "")


def _gpus(text: Any) -> int:
    """`gpu:a100:2(S:0),...`: how many."""
    total = 0
    for part in str(text or "").split(","):
        words = part.partition("(")[0].split(":")
        if words[0] == "gpu" and words[-1].isdigit():
            total += int(words[-1])
    return total


def _age(stamp: str | None) -> str:
    if not stamp:
        return NONE
    try:
        return age_text(clock.now() - datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp())
    except ValueError:
        return NONE


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}{small}{small_unit}" if small else f"{large}{unit}"
