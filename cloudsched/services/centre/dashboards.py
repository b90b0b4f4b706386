"""What runs in a cluster right now, and what is left of its nodes? The live dashboards (contract: get_cpcpod, get_cpcworker).

The executor collects facts from the cluster (`collect`), plain data with numbers in base units; the management side writes
them as people read them (`pod_rows`, `node_rows`), in Chinese or English. A Slurm cluster's jobs and nodes take the same form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any

from cloudsched import clock
from cloudsched.domain.instances import names_of
from cloudsched.drivers.base import DriverError
from cloudsched.errors import CloudschedError, Invalid
from cloudsched.services.centre import centre_clusters, instance_objects, instance_places
from cloudsched.services.centre.centre_calls import register_verb
from cloudsched.services.centre.executor_rows import age_text, pod_word
from cloudsched.settings import Settings

if TYPE_CHECKING:
    from cloudsched.drivers.kubernetes import KubernetesDriver

PODS, NODES = "pods", "nodes"
USAGE = "get_cluster_usage"
GPU = "nvidia.com/gpu"
ZH, EN = "zh", "en"
Facts = dict[str, Any]
_METRICS = "metrics.k8s.io/v1beta1"
_ROLE = "node-role.kubernetes.io/"
_SYSTEM_LABELS = ("kubernetes.io", "k8s.io", "kwok.x-k8s.io")
_CONTROL = frozenset({"control-plane", "master"})
_NONE = ("", "<none>", None)
_POD_FACTS = frozenset({"namespace", "name", "ready", "running", "restarts", "age", "ip", "node", "nominated", "cpu_used",
                        "memory_used", "gpus", "cpu_limit", "memory_limit", "gpu_limit"})
_NODE_FACTS = frozenset({"name", "ready", "cordoned", "roles", "age", "version", "internal_ip", "external_ip", "system", "kernel",
                         "runtime", "labels", "cpu_used", "memory_used", "cpu", "memory", "gpus", "gpus_used", "cpu_free",
                         "memory_free", "gpus_free"})
_MI, _GI = Decimal(2**20), Decimal(2**30)
# word -> (Chinese, English)
_WORDS: Mapping[str, tuple[str, str]] = {
    "none": ("无", "none"), "unassigned": ("未分配", "not assigned"), "unknown": ("未知", "unknown"),
    "unlimited": ("无限制", "not limited"), "ready": ("已就绪", "ready"), "not_ready": ("未就绪", "not ready"),
    "cordoned": ("暂停调度", "cordoned"), "control": ("控制节点", "control node"), "worker": ("工作节点", "worker node"),
    "cores": ("{}核", "{} cores"),
}


def collect(cluster: KubernetesDriver, what: str) -> list[Facts]:
    """Facts of all pods or all nodes of a cluster. Raises DriverError, Invalid for another `what`."""
    if what == PODS:
        return _pods(cluster)
    if what == NODES:
        return _nodes(cluster)
    raise Invalid.at("what", f"{what!r} is nothing to look at", f"{PODS}, {NODES}")


def pod_rows(facts: Iterable[Mapping[str, Any]], language: str = ZH) -> list[dict[str, Any]]:
    """Rows of get_cpcpod."""
    return [_pod_row(one, language) for one in facts]


def node_rows(facts: Iterable[Mapping[str, Any]], language: str = ZH) -> list[dict[str, Any]]:
    """Rows of get_cpcworker."""
    return [_node_row(one, language) for one in facts]


def of_batch_pods(rows: Iterable[Mapping[str, Any]]) -> list[Facts]:
    """Facts of the jobs of a Slurm cluster, from the rows of the executor's `pods` (contract pcapi, get_cluster_pods)."""
    return [{
        "namespace": str(row.get("pod_namespace") or ""), "name": str(row.get("pod_name") or ""),
        "ready": str(row.get("pod_ready") or ""), "running": str(row.get("pod_running") or ""),
        "restarts": str(row.get("pod_restart") or "0"), "age": str(row.get("pod_age") or ""), "ip": row.get("pod_ip") or "",
        "node": row.get("pod_node") or "", "nominated": row.get("pod_nominated_node") or "", "cpu_used": None,
        "memory_used": None, "gpus": _whole(row.get("pod_gpu")), "cpu_limit": str(row.get("pod_cpu_limit") or ""),
        "memory_limit": str(row.get("pod_memory_limit") or ""), "gpu_limit": _whole(row.get("pod_gpu_limit")),
    } for row in rows]


def of_batch_nodes(rows: Iterable[Mapping[str, Any]], free: Mapping[str, Mapping[str, Any]]) -> list[Facts]:
    """Facts of the nodes of a Slurm cluster, from the rows of the executor's `nodes` and what is free by node name:
    `cpu_m`, `memory_mi`, `gpus`."""
    found = []
    for row in rows:
        left = free.get(str(row.get("node_name") or ""), {})
        status = str(row.get("node_status") or "").split(",")
        found.append({
            "name": str(row.get("node_name") or ""), "ready": status[0] == "Ready",
            "cordoned": "SchedulingDisabled" in status, "roles": [str(row.get("node_role") or "")],
            "age": str(row.get("node_age") or ""), "version": row.get("node_version") or "",
            "internal_ip": row.get("node_internalip") or "", "external_ip": row.get("node_externalip") or "",
            "system": row.get("node_osversion") or "", "kernel": row.get("node_kernelversion") or "",
            "runtime": row.get("node_containeruntime") or "", "labels": list(row.get("node_labels") or ()),
            "cpu_used": None, "memory_used": None, "cpu": None, "memory": None, "gpus": None, "gpus_used": None,
            "cpu_free": left["cpu_m"] / 1000 if "cpu_m" in left else None,
            "memory_free": left["memory_mi"] * 2**20 if "memory_mi" in left else None, "gpus_free": _whole(left.get("gpus")),
        })
    return found


def of_cluster(key: str, what: str, settings: Settings, *, centre_key: str = "", scope: str | None = None) -> list[Facts]:
    """Facts of the pods or nodes of a cluster now, from its centre. Raises NotFound, Conflict for a cluster that is not ready,
    and what the centre says.

    `scope`: another organisation than the centre's own sees the pods of its instances alone, and no nodes.
    """
    # Before anything is said of it: whoever may not see it is not told how it is.
    centre_clusters.find(key, centre_key=centre_key, scope=scope if what == NODES else None)
    place = instance_places.of_cluster(key, settings, kind="")
    foreign = scope is not None and place.centre.org != scope
    found = _of_place(place, what)
    if not foreign:
        return found
    own = names_of("", cluster=key, org=scope or "", engine="").namespace
    return [pod for pod in found if pod["namespace"] == own]


def _of_place(place: instance_places.Place, what: str) -> list[Facts]:
    if place.cluster.kind == instance_places.KUBERNETES:
        return _checked(place.executor.call(USAGE, {**place.params, "what": what}), what)
    if what == PODS:
        return of_batch_pods(place.executor.pods(place.where))
    free = {one.name: {"cpu_m": one.cpu_m, "memory_mi": one.memory_mi, "gpus": sum(one.gpus.values())}
            for one in place.executor.free_nodes(place.where)}
    return of_batch_nodes(place.executor.nodes(place.where), free)


def look(params: Mapping[str, Any], settings: Settings) -> list[Facts]:
    """The executor's verb `get_cluster_usage`: facts of the pods or nodes (`what`) of a Kubernetes cluster."""
    cluster = instance_objects.open_cluster(instance_objects.kubeconfig_of(params), settings)
    return collect(cluster, str(params.get("what") or PODS))


register_verb(USAGE, look)


def _checked(rows: Any, what: str) -> list[Facts]:
    """Facts as another server sent them."""
    needed = _POD_FACTS if what == PODS else _NODE_FACTS
    if not isinstance(rows, list) or not all(isinstance(one, dict) and needed <= one.keys() for one in rows):
        raise CloudschedError("the centre answers in another shape than this server knows")
    return rows


# -- facts of pods ---------------------------------------------------------------------------------------------


def _pods(cluster: KubernetesDriver) -> list[Facts]:
    used = _measured(cluster, "PodMetrics")
    found = [_pod(one, used) for one in cluster.objects("Pod", namespace="")]
    return sorted(found, key=lambda one: (one["namespace"], one["name"]))


def _pod(pod: Facts, used: Mapping[tuple[str, str], Facts] | None) -> Facts:
    metadata, spec, status = pod["metadata"], pod["spec"], pod.get("status") or {}
    containers, states = spec.get("containers") or (), status.get("containerStatuses") or ()
    figures = None if used is None else used.get((metadata["namespace"], metadata["name"]))
    limits = _asked(pod, "limits")
    return {
        "namespace": metadata["namespace"], "name": metadata["name"], "running": pod_word(pod),
        "ready": f"{sum(bool(one.get('ready')) for one in states)}/{len(containers)}",
        "restarts": str(sum(int(one.get("restartCount") or 0) for one in states)), "age": _age_of(metadata),
        "ip": status.get("podIP") or "", "node": spec.get("nodeName") or "", "nominated": status.get("nominatedNodeName") or "",
        "cpu_used": None if figures is None else figures["cpu"], "memory_used": None if figures is None else figures["memory"],
        "gpus": int(_asked(pod, "requests").get(GPU, 0)), "cpu_limit": _limit(containers, limits, "cpu"),
        "memory_limit": _limit(containers, limits, "memory"), "gpu_limit": int(limits.get(GPU, 0)),
    }


def _limit(containers: Sequence[Facts], limits: Mapping[str, Decimal], name: str) -> str:
    """As it was written when one container has it all, else the sum."""
    given = [((one.get("resources") or {}).get("limits") or {}).get(name) for one in containers]
    if not any(given):
        return ""
    if len(given) == 1:
        return str(given[0])
    total = limits[name]
    if name == "memory":
        return f"{_trim(total / _MI)}Mi"
    return str(int(total)) if total == int(total) else f"{int(total * 1000)}m"


# -- facts of nodes --------------------------------------------------------------------------------------------


def _nodes(cluster: KubernetesDriver) -> list[Facts]:
    used = _measured(cluster, "NodeMetrics")
    asked: dict[str, dict[str, Decimal]] = {}
    for pod in cluster.objects("Pod", namespace=""):
        node = pod["spec"].get("nodeName")
        if node and (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed"):
            total = asked.setdefault(node, {})
            for name, value in _asked(pod, "requests").items():
                total[name] = total.get(name, Decimal(0)) + value
    found = [_node(one, used, asked.get(one["metadata"]["name"], {})) for one in cluster.objects("Node")]
    return sorted(found, key=lambda one: str(one["name"]))


def _node(node: Facts, used: Mapping[tuple[str, str], Facts] | None, asked: Mapping[str, Decimal]) -> Facts:
    metadata, status = node["metadata"], node.get("status") or {}
    facts, labels = status.get("nodeInfo") or {}, metadata.get("labels") or {}
    addresses = {one["type"]: one["address"] for one in reversed(status.get("addresses") or ())}
    has = {name: _number(value) for name, value in (status.get("allocatable") or status.get("capacity") or {}).items()}
    figures = None if used is None else used.get(("", metadata["name"]))
    cpu, memory, gpus = (has.get(name, Decimal(0)) for name in ("cpu", "memory", GPU))
    return {
        "name": metadata["name"], "cordoned": bool((node.get("spec") or {}).get("unschedulable")), "age": _age_of(metadata),
        "ready": any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ()),
        "roles": [key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE)],
        "version": facts.get("kubeletVersion", ""), "internal_ip": addresses.get("InternalIP", ""),
        "external_ip": addresses.get("ExternalIP", ""), "system": facts.get("osImage", ""),
        "kernel": facts.get("kernelVersion", ""), "runtime": facts.get("containerRuntimeVersion", ""),
        "labels": [f"{key}={value}" for key, value in sorted(labels.items())
                   if not key.partition("/")[0].endswith(_SYSTEM_LABELS) or "/" not in key],
        "cpu": float(cpu), "memory": int(memory), "gpus": int(gpus), "gpus_used": int(asked.get(GPU, 0)),
        "cpu_used": None if figures is None else figures["cpu"], "memory_used": None if figures is None else figures["memory"],
        "cpu_free": float(max(Decimal(0), cpu - asked.get("cpu", Decimal(0)))),
        "memory_free": int(max(Decimal(0), memory - asked.get("memory", Decimal(0)))),
        "gpus_free": int(max(Decimal(0), gpus - asked.get(GPU, Decimal(0)))),
    }


def _measured(cluster: KubernetesDriver, kind: str) -> dict[tuple[str, str], Facts] | None:
    """(namespace, name) -> cores and bytes in use; None when the cluster measures nothing."""
    try:
        found = cluster.objects(kind, namespace="", api_version=_METRICS)
    except Invalid:  # there is no such kind
        return None
    except DriverError as error:
        if getattr(error, "status", 0) in (403, 404, 503):  # not for us, or not up yet
            return None
        raise
    return {(one["metadata"].get("namespace", ""), one["metadata"]["name"]): _use(one) for one in found}


def _use(figures: Facts) -> Facts:
    parts = [one.get("usage") or {} for one in figures.get("containers") or ()] or [figures.get("usage") or {}]
    return {"cpu": float(sum(_number(one.get("cpu", 0)) for one in parts)),
            "memory": int(sum(_number(one.get("memory", 0)) for one in parts))}


def _asked(pod: Facts, sort: str) -> dict[str, Decimal]:
    from cloudsched.drivers.kubernetes.quantities import asked

    return asked(pod, sort)


def _number(value: Any) -> Decimal:
    from cloudsched.drivers.kubernetes.quantities import number

    return number(value)


def _age_of(metadata: Facts) -> str:
    stamp = metadata.get("creationTimestamp")
    if not stamp:
        return ""
    return age_text(clock.now() - datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp())


# -- as people read them ---------------------------------------------------------------------------------------


def _pod_row(one: Mapping[str, Any], language: str) -> dict[str, Any]:
    return {
        "pod_namespace": one["namespace"], "pod_name": one["name"], "pod_ready": one["ready"], "pod_running": one["running"],
        "pod_restart": one["restarts"], "pod_age": _or(one["age"], "unknown", language),
        "pod_ip": _or(one["ip"], "unassigned", language), "pod_node": _or(one["node"], "unassigned", language),
        "pod_nominated_node": _or(one["nominated"], "none", language), "pod_cpurate": _cores(one["cpu_used"], 3, language),
        "pod_memrate": _memory(one["memory_used"], _MI, "Mi", 3, language), "pod_gpu": str(one["gpus"] or 0),
        "pod_cpu_limit": _or(one["cpu_limit"], "unlimited", language),
        "pod_memory_limit": _or(one["memory_limit"], "unlimited", language), "pod_gpu_limit": str(one["gpu_limit"] or 0),
    }


def _node_row(one: Mapping[str, Any], language: str) -> dict[str, Any]:
    status = _say("ready" if one["ready"] else "not_ready", language)
    if one["cordoned"]:
        status += "," + _say("cordoned", language)
    return {
        "node_name": one["name"], "node_status": status,
        "node_role": _say("control" if _CONTROL.intersection(one["roles"]) else "worker", language),
        "node_age": _or(one["age"], "unknown", language), "node_version": _or(one["version"], "unknown", language),
        "node_internalip": _or(one["internal_ip"], "unassigned", language),
        "node_externalip": _or(one["external_ip"], "unassigned", language),
        "node_osversion": _or(one["system"], "unknown", language), "node_kernelversion": _or(one["kernel"], "unknown", language),
        "node_containeruntime": _or(one["runtime"], "unknown", language), "node_labels": list(one["labels"]),
        "node_cpurate": _percent(one["cpu_used"], one["cpu"], language),
        "node_memrate": _percent(one["memory_used"], one["memory"], language),
        "node_gpu": _gpus(one["gpus_used"], one["gpus"], language), "available_cpu": _cores(one["cpu_free"], 2, language),
        "available_memory": _memory(one["memory_free"], _GI, "Gi", 2, language), "available_gpu": one["gpus_free"] or 0,
    }


def _cores(value: float | None, places: int, language: str) -> str:
    return _say("unknown", language) if value is None else _say("cores", language).format(_fixed(Decimal(str(value)), places))


def _memory(value: int | None, unit: Decimal, name: str, places: int, language: str) -> str:
    return _say("unknown", language) if value is None else f"{_fixed(Decimal(value) / unit, places)}{name}"


def _percent(used: float | None, whole: float | None, language: str) -> str:
    if used is None or not whole:
        return _say("unknown", language)
    return f"{_fixed(Decimal(str(used)) * 100 / Decimal(str(whole)), 1)}%"


def _gpus(used: int | None, whole: int | None, language: str) -> str:
    if used is None or whole is None:
        return _say("unknown", language)
    return f"{_trim(Decimal(_fixed(Decimal(used) * 100 / whole, 1)))}%" if whole else "0%"


def _or(value: Any, word: str, language: str) -> str:
    return _say(word, language) if value in _NONE else str(value)


def _say(word: str, language: str) -> str:
    return _WORDS[word][language == EN]


def _fixed(value: Decimal, places: int) -> str:
    return str(value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN))


def _trim(value: Decimal) -> str:
    return f"{value.normalize():f}"


def _whole(value: Any) -> int:
    text = str(value or "")
    return int(text) if text.isascii() and text.isdigit() else 0
