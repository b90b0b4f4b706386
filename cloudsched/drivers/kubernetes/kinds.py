"""Where does an object live? From kind and version to path, known for the usual ones and asked for the rest."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from cloudsched.drivers.kubernetes.client import Api, ApiRefused
from cloudsched.errors import Invalid


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the server serves it."""

    api_version: str
    kind: str
    plural: str
    namespaced: bool

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of a list without a name; of all namespaces without a namespace."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [f"namespaces/{quote(namespace, safe='')}"] if self.namespaced and namespace else []
        parts += [self.plural, *(quote(one, safe="") for one in (name, subresource) if one)]
        return "/".join((root, *parts))

    @property
    def group(self) -> str:
        return self.api_version.rpartition("/")[0]


def _rows() -> dict[tuple[str, str], Resource]:
    table = {  # kind, and after a colon the ending of its plural where it is not `s`, and `!` when it has no namespace
        "v1": ("Pod Service ConfigMap Secret ServiceAccount PersistentVolumeClaim ResourceQuota LimitRange Event "
               "Namespace:! Node:! PersistentVolume:!"),
        "apps/v1": "Deployment StatefulSet DaemonSet ReplicaSet ControllerRevision",
        "batch/v1": "Job CronJob",
        "autoscaling/v2": "HorizontalPodAutoscaler",
        "networking.k8s.io/v1": "NetworkPolicy:ies Ingress:es IngressClass:es!",
        "policy/v1": "PodDisruptionBudget",
        "rbac.authorization.k8s.io/v1": "Role RoleBinding ClusterRole:! ClusterRoleBinding:!",
        "storage.k8s.io/v1": "StorageClass:es!",
        "scheduling.k8s.io/v1": "PriorityClass:es!",
        "apiextensions.k8s.io/v1": "CustomResourceDefinition:!",
    }
    found = {}
    for version, rows in table.items():
        for row in rows.split():
            kind, _, ending = row.partition(":")
            plural = kind.lower() + (ending.rstrip("!") or "s")
            if ending.startswith("ies"):
                plural = kind.lower()[:-1] + "ies"
            found[version, kind] = Resource(version, kind, plural, not ending.endswith("!"))
    return found


KNOWN = _rows()
_VERSIONS = {kind: version for version, kind in KNOWN}
POD, NODE, NAMESPACE = KNOWN["v1", "Pod"], KNOWN["v1", "Node"], KNOWN["v1", "Namespace"]
SECRET, CONFIG_MAP, QUOTA = KNOWN["v1", "Secret"], KNOWN["v1", "ConfigMap"], KNOWN["v1", "ResourceQuota"]
JOB = KNOWN["batch/v1", "Job"]


class Kinds:
    """The kinds of one server; what it was asked once is remembered."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._asked: dict[tuple[str, str], Resource] = {}
        self._lock = threading.Lock()

    def of(self, manifest: Mapping[str, Any]) -> Resource:
        """By `apiVersion` and `kind` of an object."""
        return self.named(str(manifest["kind"]), str(manifest["apiVersion"]))

    def named(self, kind: str, api_version: str = "") -> Resource:
        """By kind, with its version where it is none of the usual ones. Invalid (field `kind`) when the server has none."""
        version = api_version or _VERSIONS.get(kind, "")
        if not version:
            raise Invalid.at("kind", f"{kind!r} needs its apiVersion", ", ".join(sorted(_VERSIONS)))
        known = KNOWN.get((version, kind))
        return known if known is not None else self._ask(version, kind)

    def _ask(self, version: str, kind: str) -> Resource:
        with self._lock:
            found = self._asked.get((version, kind))
        if found is None:
            for one in self._served(version):
                if "/" not in one.plural:
                    with self._lock:
                        self._asked[version, one.kind] = one
            with self._lock:
                found = self._asked.get((version, kind))
        if found is None:
            raise Invalid.at("kind", f"this cluster has no {kind} of {version}; is its definition applied?")
        return found

    def _served(self, version: str) -> list[Resource]:
        try:
            listed = self._api.get(f"/apis/{version}" if "/" in version else f"/api/{version}")
        except ApiRefused as refused:
            if refused.status == 404:
                return []
            raise
        return [Resource(version, one["kind"], one["name"], bool(one["namespaced"])) for one in listed.get("resources") or ()]
