"""How are the live nodes of a cluster asked whether products fit? Through the executor of its centre."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cloudsched.domain import fitting as rules
from cloudsched.domain.fitting import NodeFree, Product
from cloudsched.domain.pricing import Refusal
from cloudsched.domain.stock import STANDARD
from cloudsched.drivers.pcapi import PcapiError
from cloudsched.services.centre import centre_calls, centre_clusters, executor
from cloudsched.services.centre.fitting import Labels, Live, as_resources
from cloudsched.settings import Settings
from cloudsched.store import centres, clusters
from cloudsched.store.centres import Host


def of_cluster(cluster_key: str, settings: Settings) -> Live:
    """The live check of one of our clusters, here or at its centre. The nodes' models are those of our hosts, where known.

    Asking raises NotFound, Conflict for a cluster that is not ready, and what the executor raises.
    """

    def ask(wanted: Sequence[Product], labels: Labels) -> Mapping[str, Refusal]:
        cluster = centre_clusters.find(cluster_key)
        where, asked = centre_clusters.where_of(cluster, settings), centre_clusters.executor_of(cluster, settings)
        try:
            nodes = asked.free_nodes(where)
        except PcapiError as error:
            if error.details.get("say") != "pcapi_strange":
                raise
            # An executor of another make knows the contract's own verb.
            given = {**centre_calls.to_params(where), "resources": json.dumps(as_resources(wanted)), "kyylabels": _told(labels)}
            return {str(key): Refusal("no_node") for key in asked.call("determine_accommodat", given)}
        hosts = {host.node_id: host for host in centres.hosts_of(centre_clusters.centre_of(cluster).key, cluster_key=cluster_key)}
        named = {name: hosts[node_id] for node_id, _, name, _ in clusters.members(cluster.id) if node_id in hosts}
        return rules.unfit_by_nodes(wanted, _with_models(nodes, named), labels)

    return ask


def free_nodes(given: Mapping[str, Any], settings: Settings) -> list[NodeFree]:
    """What is free on the nodes of the cluster that a call names: `kubeconfig`, or `host`, `port`, `user`, `password`.
    Raises Invalid, and what the executor raises."""
    return centre_calls.Local(settings).free_nodes(executor.where_from(given))


def _with_models(nodes: Iterable[NodeFree], hosts: Mapping[str, Host]) -> list[NodeFree]:
    """Nodes with the models that our books know their parts by."""
    return [_as_host(node, hosts[node.name]) if node.name in hosts else node for node in nodes]


def _as_host(node: NodeFree, host: Host) -> NodeFree:
    cards, named = sum(node.gpus.values()), (("cpu", host.cpu_model), ("memory", host.memory_model))
    models = {kind: model for kind, model in named if model != STANDARD}
    return replace(node, gpus={host.gpu_model: cards} if cards else {}, models=models)


def _told(labels: Labels) -> str:
    return ",".join(key if value is None else f"{key}={value}" for key, value in labels.items())
