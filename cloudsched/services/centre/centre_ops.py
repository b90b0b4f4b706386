"""What long work is there for clusters of a compute centre? Operations put together from steps, and what sees to their ends.

What fails for good leaves the books as they were: the cluster failed, its hosts idle.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster
from cloudsched.errors import CloudschedError
from cloudsched.services import clusters as core
from cloudsched.services import operations
from cloudsched.services.centre import centre_clusters as cc
from cloudsched.services.centre import centre_growth as growth
from cloudsched.services.centre import centre_removal as removal
from cloudsched.services.centre import centre_work
from cloudsched.services.centre.centre_work import Step, Told, Work, step, waited
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clusters
from cloudsched.store import operations as rows
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

LOOK_BACK_S = 7 * 86400.0
KINDS = (cc.NEW_CLUSTER, cc.NEW_WORKER, cc.DELETE_WORKER, cc.DELETE_CLUSTER)


def configure(settings: Settings) -> None:
    """Which installation this is, and what the end of a cluster means. Said once by each process."""
    centre_work.configure(settings)
    core.on_end(cc.ORIGIN, lambda tx, cluster, actor, reason: _ended(tx, cluster, actor))


def settle() -> int:
    """Clusters and workers whose installation was cancelled have failed, and workers whose removal was stay; clusters whose end
    was asked for elsewhere are taken apart. Returns how many were found. Called by the engine."""
    count = _settle_workers()
    for cluster in _orphans():
        last = store.last_operation(cc.NEW_CLUSTER, cluster.id)
        found = rows.get(last) if last else None
        if found is not None:
            growth.cluster_failed(Told(Work(found, json.loads(found.request))), found.error or "the installation was cancelled")
            count += 1
    for cluster in clusters.find(origin=cc.ORIGIN, states=("running", "degraded"), limit=1000):
        if cluster.goal == "end" and not store.last_operation(cc.DELETE_CLUSTER, cluster.id):
            count += _end_asked_elsewhere(cluster)
    return count


def _settle_workers() -> int:
    """The newest operation about a host decides; one that ended without undoing what it began is undone here."""
    newest: dict[str, tuple[int, str]] = {}
    for number, state, request in store.operations_since((cc.NEW_WORKER, cc.DELETE_WORKER), clock.now() - LOOK_BACK_S):
        newest[json.loads(request)["host"]] = number, state
    return sum(_settle_worker(key, number) for key, (number, state) in newest.items() if state in ("failed", "cancelled"))


def _settle_worker(key: str, number: int) -> int:
    found, host = rows.get(number), store.host(key)
    if found is None or host is None or host.node_status == store.IDLE:
        return 0
    told = Told(Work(found, json.loads(found.request)))
    why = found.error or "the operation was cancelled"
    if found.kind == cc.NEW_WORKER and host.cluster_key == told.cluster.key and told.cluster.state in moves.CLUSTER_UP:
        growth.worker_failed(told, why)
        return 1
    if found.kind == cc.DELETE_WORKER and not host.cluster_key and told.cluster.state in moves.CLUSTER_UP:
        removal.worker_stays(told, why)
        return 1
    return 0


def _end_asked_elsewhere(cluster: Cluster) -> int:
    try:
        write(lambda tx: cc.begin_delete(tx, cluster, actor="system"))
    except CloudschedError as error:
        log.debug("cluster %s stays: %s", cluster.key, error.message)
        return 0
    return 1


def _orphans() -> list[Cluster]:
    return [cluster for cluster in clusters.find(origin=cc.ORIGIN, states=("pending", "launching"), limit=1000)
            if not cc.working_on(cluster, cc.NEW_CLUSTER)]


def _ended(tx: Tx, cluster: Cluster, actor: str) -> None:
    cc.begin_delete(tx, cc.find(cluster.key), actor=actor)


def _plan(failed: Callable[[Told, str], None], *steps: tuple[str, Step]) -> list[tuple[str, Callable[[Work], Any]]]:
    return [(name, step(do, failed)) for name, do in steps]


operations.register(cc.NEW_CLUSTER, _plan(
    growth.cluster_failed, ("ask the centre", growth.ask_new_cluster), ("wait for the centre", lambda told: waited(told, "new")),
    ("keep what it gave", growth.keep_result), ("register for the batch queue", growth.register_cloud)))
operations.register(cc.NEW_WORKER, _plan(
    growth.worker_failed, ("ask the centre", growth.ask_new_worker), ("wait for the centre", lambda told: waited(told, "worker")),
    ("write down", growth.worker_joined)))
operations.register(cc.DELETE_WORKER, _plan(
    removal.worker_stays, ("drain and remove the node", removal.remove_node), ("ask the centre", removal.ask_apart),
    ("wait for the centre", removal.wait_apart), ("set the host free", removal.worker_gone)))
operations.register(cc.DELETE_CLUSTER, _plan(
    removal.cluster_stays, ("stop what is under way", removal.stop_work), ("look for its instances", removal.look_for_instances),
    ("leave the batch queue", removal.leave_queue), ("take its workers apart", removal.ask_all_apart),
    ("wait for its workers", removal.wait_all_apart), ("take its controller apart", removal.controller_apart),
    ("set its hosts free", removal.cluster_gone)))
