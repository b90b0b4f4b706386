"""What if no node takes the pods of a cluster? One that was asked for with `launchNewNode` gets nodes launched (contract)."""

from __future__ import annotations

import json
import logging

from cloudsched import clock
from cloudsched.domain.entities import Cluster
from cloudsched.drivers.frameworks import ClusterSeen
from cloudsched.errors import CloudschedError
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import cloud_nodes
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import events
from cloudsched.store.db import write

log = logging.getLogger(__name__)
AGAIN_S = 900.0  # a node that was launched needs time to boot and to join


class MoreNodes:
    """Launches nodes for clusters whose pods find none; remembers for whom, so that one need is met once."""

    def __init__(self, section: Dcluster) -> None:
        self._section = section
        self._asked: dict[int, float] = {}

    def help(self, cluster: Cluster, seen: ClusterSeen) -> int:
        """How many nodes were asked for now; a refusal is an event of the cluster and nothing more."""
        at = clock.now()
        waiting = [pod for pod in seen.facts.get("pending", ())
                   if at - float(pod.get("since") or at) >= self._section.node_pending_s]
        if not waiting or not self._section.node_instance_type or not _asks(cluster):
            return 0
        if at - self._asked.get(cluster.id, _asked_at(cluster)) < AGAIN_S:
            return 0
        self._asked[cluster.id] = at
        asked = {"nodeCount": min(len(waiting), self._section.nodes_max), "instanceType": self._section.node_instance_type}
        try:
            names = cloud_nodes.launch(asked, Caller(f"cluster {cluster.key}", "operator"))
        except CloudschedError as error:
            log.warning("no nodes for cluster %s: %s", cluster.key, error)
            text = str(error)[:500]
            write(lambda tx: events.append(tx, "cluster.nodes_refused", ("cluster", cluster.id), at=at, reason=text))
            return 0
        write(lambda tx: events.append(tx, "cluster.nodes_requested", ("cluster", cluster.id), at=at, nodes=names))
        return len(names)


def _asks(cluster: Cluster) -> bool:
    return bool(json.loads(cluster.spec).get("options", {}).get("launch_new_node"))


def _asked_at(cluster: Cluster) -> float:
    """When nodes were asked for last, also by an engine before this one."""
    told = (event.at for event in events.since(0, limit=1000, subject_kind="cluster", subject_id=cluster.id,
                                               kind="cluster.nodes_requested"))
    return max(told, default=float("-inf"))
