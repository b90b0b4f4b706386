"""How is a Kubernetes cluster a cloud, and what else can be done with it? A context of a kubeconfig; machines are pods.

`make(place)` gives the driver. What it takes and gives back is here too; its modules are its own business.
"""

from __future__ import annotations

from cloudsched.drivers.base import Place
from cloudsched.drivers.kubernetes.batch import BatchJob, BatchState
from cloudsched.drivers.kubernetes.client import ApiRefused
from cloudsched.drivers.kubernetes.deletion import NotGone, Removed, Selection
from cloudsched.drivers.kubernetes.drain import Drained, Left
from cloudsched.drivers.kubernetes.driver import KIND, KubernetesDriver
from cloudsched.drivers.kubernetes.listing import PodInfo
from cloudsched.drivers.kubernetes.metrics import NamespaceUsage, Used
from cloudsched.drivers.kubernetes.nodes import Amount, NodeInfo
from cloudsched.drivers.kubernetes.watch import Change
from cloudsched.drivers.kubernetes.workloads import Applied, ApplyConflict

__all__ = ["KIND", "Amount", "ApiRefused", "Applied", "ApplyConflict", "BatchJob", "BatchState", "Change", "Drained",
           "KubernetesDriver", "Left", "NamespaceUsage", "NodeInfo", "NotGone", "PodInfo", "Removed", "Selection", "Used", "make"]


def make(place: Place) -> KubernetesDriver:
    """The driver of one cloud. Credentials: `kubeconfig` (its text). Options: `kubeconfig` (a path), `context`, `in_cluster`,
    `namespace`, `image` and the others of `options.Options`. Invalid names the one that is wrong; nothing is asked yet."""
    return KubernetesDriver(place)
