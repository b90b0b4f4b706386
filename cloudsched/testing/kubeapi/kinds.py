"""Which resources does the stand-in serve, and what is known of each?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource. `status`: it has a status subresource, so that plain writes leave its status alone."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    custom: bool = False
    virtual: bool = False  # answered, never kept

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """As messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


BUILT_IN = (
    Kind("", "v1", "namespaces", "Namespace", namespaced=False, status=True),
    Kind("", "v1", "nodes", "Node", namespaced=False, status=True),
    Kind("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False, status=True),
    Kind("", "v1", "pods", "Pod", status=True),
    Kind("", "v1", "services", "Service", status=True),
    Kind("", "v1", "configmaps", "ConfigMap"),
    Kind("", "v1", "secrets", "Secret"),
    Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    Kind("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", status=True),
    Kind("", "v1", "resourcequotas", "ResourceQuota", status=True),
    Kind("", "v1", "limitranges", "LimitRange"),
    Kind("", "v1", "events", "Event"),
    Kind("apps", "v1", "deployments", "Deployment", status=True),
    Kind("apps", "v1", "replicasets", "ReplicaSet", status=True),
    Kind("apps", "v1", "statefulsets", "StatefulSet", status=True),
    Kind("apps", "v1", "daemonsets", "DaemonSet", status=True),
    Kind("apps", "v1", "controllerrevisions", "ControllerRevision"),
    Kind("batch", "v1", "jobs", "Job", status=True),
    Kind("batch", "v1", "cronjobs", "CronJob", status=True),
    Kind("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", status=True),
    Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Kind("networking.k8s.io", "v1", "ingresses", "Ingress", status=True),
    Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", status=True),
    Kind("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    Kind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    Kind("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    Kind("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False),
    Kind("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False),
    Kind("coordination.k8s.io", "v1", "leases", "Lease"),
    Kind("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False,
         status=True),
    Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False,
         virtual=True),
    Kind("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False, virtual=True),
)
METRICS = (
    Kind("metrics.k8s.io", "v1beta1", "nodes", "NodeMetrics", namespaced=False, virtual=True),
    Kind("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", virtual=True),
)

_BY_KIND = {kind.kind: kind for kind in BUILT_IN}


def of(name: str) -> Kind:
    """A built-in kind by its name, e.g. `Pod`."""
    return _BY_KIND[name]


def from_definition(definition: Object) -> list[Kind]:
    """The kinds that a CustomResourceDefinition declares, one for each served version."""
    spec = definition["spec"]
    return [Kind(spec["group"], version["name"], spec["names"]["plural"], spec["names"]["kind"],
                 namespaced=spec["scope"] == "Namespaced", status="status" in (version.get("subresources") or {}),
                 custom=True)
            for version in spec["versions"] if version.get("served", True)]
