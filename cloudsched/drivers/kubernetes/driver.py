"""What can be done with a cluster? The verbs of a Kubernetes cloud, each in the module that knows how."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, Machine, Place, Wanted
from cloudsched.drivers.kubernetes import deletion, drain, listing, logs, metrics, nodes, verify, watch, workloads
from cloudsched.drivers.kubernetes.access import open_access
from cloudsched.drivers.kubernetes.batch import Batch, BatchJob, BatchState
from cloudsched.drivers.kubernetes.client import MANAGER, Api, Object
from cloudsched.drivers.kubernetes.deletion import Removed, Selection
from cloudsched.drivers.kubernetes.drain import Drained
from cloudsched.drivers.kubernetes.kinds import Kinds
from cloudsched.drivers.kubernetes.listing import PodInfo
from cloudsched.drivers.kubernetes.metrics import NamespaceUsage, Used
from cloudsched.drivers.kubernetes.nodes import NodeInfo
from cloudsched.drivers.kubernetes.options import read
from cloudsched.drivers.kubernetes.pods import Pilots
from cloudsched.drivers.kubernetes.watch import Change
from cloudsched.drivers.kubernetes.workloads import Applied

KIND = "Kubernetes"


class KubernetesDriver:
    """One cluster, and one namespace in it for what is ours. Every verb raises DriverError with a result code when the
    cluster says no or cannot be reached, and Invalid for arguments that cannot be right. Safe to use from several threads.

    `namespace`: where pilots and jobs are made, and the default of the other verbs.
    """

    kind = KIND
    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST, base.NODES, base.DRAIN, base.APPLY, base.WATCH, base.BATCH,
                              base.LOGS, base.USAGE})

    def __init__(self, place: Place, *, pause: Callable[[float], None] = time.sleep) -> None:
        options = read(place)
        access = open_access(place, options)
        self.namespace = options.namespace or access.namespace
        self._place, self._options, self._pause = place, options, pause
        self._api = Api(access, timeout_s=options.timeout_s, pause=pause)
        self._kinds = Kinds(self._api)
        self._pilots = Pilots(self._api, place, options, namespace=self.namespace, pause=pause)
        self._batch = Batch(self._api, place, options, namespace=self.namespace)

    def __repr__(self) -> str:
        return f"KubernetesDriver({self._place.name!r}, {self._api.access.server!r}, namespace={self.namespace!r})"

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Version, permissions, namespace, and a pod as we make it, tried without making it."""
        return verify.verify(self._api, self._pilots, self._place, self._options, namespace=self.namespace)

    def boot(self, wanted: Wanted) -> Machine:
        """A pod with our agent; the one that is there when it lives, a new one when it has ended."""
        return self._pilots.boot(wanted)

    def machines(self) -> list[Machine]:
        """Every pilot of this place, ended ones included."""
        return self._pilots.machines()

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """The pod and its secret are gone when this returns. The handle is not needed: the name leads there."""
        self._pilots.destroy(name)

    # -- nodes and what runs on them ---------------------------------------------------------------------------

    def nodes(self, selector: str = "") -> list[NodeInfo]:
        """All nodes, or those with these labels."""
        return nodes.nodes(self._api, selector)

    def node(self, name: str) -> NodeInfo:
        return nodes.node(self._api, name)

    def label(self, node: str, labels: Mapping[str, str | None]) -> NodeInfo:
        """Set labels of a node; None takes one away."""
        return nodes.label(self._api, node, labels)

    def cordon(self, node: str) -> NodeInfo:
        """No new pods on it."""
        return nodes.set_unschedulable(self._api, node, on=True)

    def uncordon(self, node: str) -> NodeInfo:
        """New pods again."""
        return nodes.set_unschedulable(self._api, node, on=False)

    def drain(self, node: str, *, timeout_s: float = 300.0, force: bool = False, delete_local_data: bool = False,
              ignore_daemon_sets: bool = True, grace_s: int | None = None) -> Drained:
        """Cordon, then evict; `complete` of the answer says whether the node is empty, and its lists what is left and why."""
        return drain.drain(self._api, node, timeout_s=timeout_s, force=force, delete_local_data=delete_local_data,
                           ignore_daemon_sets=ignore_daemon_sets, grace_s=grace_s, pause=self._pause)

    def delete_node(self, node: str) -> None:
        """Take the node out of the cluster's books; drain it first."""
        nodes.delete(self._api, node)

    def usage(self) -> dict[str, Used] | None:
        """Measured use by node; None when the cluster has no metrics."""
        return metrics.node_usage(self._api)

    def pod_usage(self, namespace: str | None = None, selector: str = "") -> dict[tuple[str, str], Used] | None:
        """Measured use by (namespace, pod); None when the cluster has no metrics. All namespaces with ''."""
        return metrics.pod_usage(self._api, self._where(namespace), selector)

    def namespace_usage(self, namespace: str = "") -> dict[str, NamespaceUsage]:
        """Requests, limits, quotas and measured use by namespace, of all or of one."""
        return metrics.namespace_usage(self._api, namespace)

    def pods(self, namespace: str | None = None, *, selector: str = "", node: str = "") -> list[PodInfo]:
        """Pods of a namespace (ours by default; all with '')."""
        return listing.pods(self._api, namespace=self._where(namespace), selector=selector, node=node)

    # -- objects -----------------------------------------------------------------------------------------------

    def apply(self, manifests: Sequence[Mapping[str, Any]], *, owner: Mapping[str, Any] | None = None, dry_run: bool = False,
              force: bool = False, namespace: str | None = None, manager: str = MANAGER) -> list[Applied]:
        """Server-side apply; see `workloads.apply`."""
        return workloads.apply(self._api, self._kinds, manifests, namespace=self._where(namespace) or self.namespace, owner=owner,
                               dry_run=dry_run, force=force, manager=manager)

    def delete(self, what: Sequence[Mapping[str, Any]] | Selection, *, wait: bool = True, timeout_s: float = 120.0,
               grace_s: int | None = None, namespace: str | None = None) -> list[Removed]:
        """Delete manifests or a selection with all they own, and prove it; see `deletion.delete`."""
        return deletion.delete(self._api, self._kinds, what, namespace=self._where(namespace) or self.namespace, wait=wait,
                               timeout_s=timeout_s, grace_s=grace_s, pause=self._pause)

    def get(self, kind: str, name: str, *, namespace: str | None = None, api_version: str = "") -> Object | None:
        """One object as the server has it; None when it is not there."""
        resource = self._kinds.named(kind, api_version)
        return self._api.find(resource.path(self._where(namespace) or self.namespace, name))

    def objects(self, kind: str, *, namespace: str | None = None, selector: str = "", fields: str = "",
                api_version: str = "") -> list[Object]:
        """All objects of a kind in a namespace (ours by default; all with '')."""
        resource = self._kinds.named(kind, api_version)
        return self._api.items(resource.path(self._where(namespace)), labelSelector=selector, fieldSelector=fields)

    def watch(self, kind: str, namespace: str | None = None, selector: str = "", since: str = "", *, fields: str = "",
              api_version: str = "", stop: threading.Event | None = None) -> Iterator[Change]:
        """Changes of a kind, until `stop` is set; see `watch.watch`."""
        resource = self._kinds.named(kind, api_version)
        return watch.watch(self._api, resource, namespace=self._where(namespace), selector=selector, fields=fields, since=since,
                           stop=stop)

    def logs(self, pod: str, *, namespace: str | None = None, container: str = "", follow: bool = False,
             tail: int | None = None, since_s: float | None = None, previous: bool = False, timestamps: bool = False,
             stop: threading.Event | None = None) -> Iterator[str]:
        """Lines of a container's log; see `logs.logs`."""
        return logs.logs(self._api, pod, namespace=self._where(namespace) or self.namespace, container=container, follow=follow,
                         tail=tail, since_s=since_s, previous=previous, timestamps=timestamps, stop=stop)

    # -- batch work --------------------------------------------------------------------------------------------

    def submit(self, jobs: Sequence[BatchJob]) -> list[BatchState]:
        """Jobs of the cluster, made once however often they are submitted."""
        return self._batch.submit(jobs)

    def states(self, names: Iterable[str] | None = None) -> dict[str, BatchState]:
        """By name; what is not there is not in the answer."""
        return self._batch.states(names)

    def cancel(self, names: Iterable[str]) -> None:
        """Take jobs away with their pods; a missing one is no error."""
        self._batch.cancel(names)

    def job_logs(self, name: str, *, task: int = 0, tail: int | None = None, follow: bool = False) -> Iterator[str]:
        """Lines of a task's latest pod."""
        return self._batch.logs(name, task=task, tail=tail, follow=follow)

    def _where(self, namespace: str | None) -> str:
        return self.namespace if namespace is None else namespace
