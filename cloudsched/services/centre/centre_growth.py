"""How is a cluster of a compute centre made, and grown by a worker? The steps; centre_ops puts them together."""

from __future__ import annotations

import json
from typing import Any

from cloudsched import clock
from cloudsched.domain.entities import Cluster
from cloudsched.errors import CloudschedError, Conflict, Invalid
from cloudsched.services import pool_clouds
from cloudsched.services.centre import centre_clusters as cc
from cloudsched.services.centre import centre_hosts, centres
from cloudsched.services.centre.centre_calls import access_of
from cloudsched.services.centre.centre_work import Told, asked, leave, workers
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters, events
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

# Why a cluster's cloud is switched from here; whatever else switched it was somebody.
CAN_BE_USED, CANNOT_BE_USED = "its cluster can be used", "its cluster has nothing to run jobs on"


def ask_new_cluster(told: Told) -> str:
    """The centre is asked to make the host a controller."""
    if told.cluster.goal == "end":
        raise Conflict("the cluster is not wanted any more")
    host = told.host
    number = asked(told, "new", lambda reference: told.executor.new_cluster(
        access_of(host, told.settings), kind=told.cluster.kind, role=cc.MASTER, actor=told.actor, options=told.options(host),
        reference=reference))
    return f"the centre does it as its operation {number}"


def keep_result(told: Told) -> str:
    """What the centre gave is sealed and kept; the cluster runs."""
    number = store.begun(told.reference("new") + "*")
    found = told.executor.result(number or 0)
    join = str(found.get("join_command") or found.get("join") or "")
    if not join:
        raise Conflict("the centre gave no join command")
    kept = {"join_command": join, "kubeconfig": str(found.get("kubeconfig") or "")}
    sealed = centres.seal(json.dumps(kept), told.settings)
    facts = {**json.loads(told.cluster.facts), **{name: value for name, value in found.items()
                                                  if name in ("version", "node_name", "address")}}

    def keep(tx: Tx) -> None:
        at = clock.now()
        clusters.update(tx, told.cluster.id, secrets=sealed, facts=json.dumps(facts))
        if move(tx, "cluster", told.cluster.id, "run", at=at, actor=told.actor, running_at=at, reason=""):
            store.note(tx, "centre.cluster_ready", ("cluster", told.cluster.id), at=at, actor=told.actor, org=told.centre.org,
                       id=told.cluster.key, name=told.cluster.name)

    write(keep)
    return "join command and kubeconfig are kept, sealed"


def register_cloud(told: Told) -> str:
    """The cluster is a cloud for the batch queue from now on; that this cannot be done is no failure of the cluster."""
    if not told.settings.centres.batch_clouds:
        return "not wanted (centres.batch_clouds)"
    if told.cluster.made_cloud_id:
        return "it is one already"
    try:
        return _made_cloud(told)
    except CloudschedError as error:
        return f"not registered for the batch queue: {error.message}"


def _made_cloud(told: Told) -> str:
    name = centres.slug(told.cluster.name, "cluster")
    if clouds.by_name(name, removed=True) is not None:
        name = f"{name}-{centres.slug(told.cluster.key, 'c')[:8]}"
    given = {"name": name, "title": told.cluster.name, "slots": _slots(told.cluster), "enabled": True, **_cloud_of(told)}
    checks_failed = ""
    try:
        change = pool_clouds.add_cloud(given, settings=told.settings, actor=told.actor, verify=True)
    except Invalid as error:
        checks_failed = error.message
        change = pool_clouds.add_cloud({**given, "enabled": False}, settings=told.settings, actor=told.actor, verify=False)
    made = change.cloud
    assert made is not None
    write(lambda tx: clusters.update(tx, told.cluster.id, made_cloud_id=made.id, event="cluster.cloud", at=clock.now(),
                                     actor=told.actor, note={"cloud": name}))
    if checks_failed and told.cluster.kind == "slurm" and not workers(told.cluster.id):
        return f"cloud {name}, disabled: no workers yet; verified again when one joins"
    return f"cloud {name}, disabled: {checks_failed}"[:400] if checks_failed else f"cloud {name}"


def _cloud_of(told: Told) -> dict[str, Any]:
    """Kind, options and credentials of the cloud that a cluster is."""
    where = told.where
    if told.cluster.kind == "kubernetes":
        return {"kind": "Kubernetes", "credentials": {"kubeconfig": where.kubeconfig}}
    access = where.access
    assert access is not None
    options: dict[str, Any] = {"host": access.host, "user": access.user, "port": access.port}
    if access.host_key:
        options["host_key"] = access.host_key
    controller = store.host(str(cc.spec_of(told.cluster).get("controllerid", "")))
    prefix = (told.options(controller) if controller else {}).get("prefix")
    if prefix:
        options["env"] = {"SLURM_CONF": f"{prefix}/etc/slurm.conf"}
    credentials = {"key": access.key} if access.key else {"password": access.password}
    return {"kind": "Slurm", "options": options, "credentials": credentials}


def _slots(cluster: Cluster) -> int:
    """How many nodes of ours may lie in a cluster at once: as many as it has cores, or hosts where none are known."""
    hosts = [host for node_id, *_ in clusters.members(cluster.id) if (host := store.host_of_node(node_id)) is not None]
    return max(sum(host.cpu_stock for host in hosts), len(hosts), 1)


def resize(cluster: Cluster, settings: Settings, *, actor: str) -> None:
    """The cloud of the batch queue is as large as the cluster is now."""
    made = clouds.get(cluster.made_cloud_id or 0)
    if made is not None and made.state == "active":
        pool_clouds.set_cloud(made.name, {"slots": _slots(cluster)}, settings=settings, actor=actor, verify=False)


def follow_cloud(cluster: Cluster, settings: Settings, *, actor: str) -> str:
    """Verify the cloud again when a worker came or the last one went: it is enabled once jobs can run there, and disabled when
    none can any more. What people switched stays as they want it. Says what became of it, or nothing."""
    made = clouds.get(cluster.made_cloud_id or 0)
    if made is None or made.state != "active" or not _untouched(made.id) or (made.enabled and workers(cluster.id)):
        return ""
    try:
        failed = [f"{check.name}: {check.detail}" for check in pool_clouds.verify_cloud(made.name, settings=settings)
                  if not check.ok]
    except CloudschedError as error:
        failed = [error.message]
    if bool(failed) is not bool(made.enabled):
        return f"cloud {made.name} stays disabled: {'; '.join(failed)}"[:400] if failed else ""
    word, reason = ("disable", CANNOT_BE_USED) if failed else ("enable", CAN_BE_USED)
    now = write(lambda tx: clouds.update(tx, made.id, at=clock.now(), event=f"cloud.{word}", actor=actor, version=made.version,
                                         note={"name": made.name, "reason": reason}, enabled=int(not failed)))
    return f"cloud {made.name} is {word}d" if now else f"cloud {made.name} was changed meanwhile"


def _untouched(cloud_id: int) -> bool:
    """Has nobody but us switched the cloud since it was made? Not when that is not known any more."""
    found = events.since(0, limit=10_000, subject_kind="cloud", subject_id=cloud_id)
    return bool(found) and found[0].kind == "cloud.add" and not any(
        _switched(event.kind, json.loads(event.data)) for event in found)


def _switched(kind: str, data: dict[str, Any]) -> bool:
    if kind in ("cloud.enable", "cloud.disable"):
        return data.get("reason") not in (CAN_BE_USED, CANNOT_BE_USED)
    return "enabled" in (data.get("changed") or ())


def cluster_failed(told: Told, why: str) -> None:
    """The cluster failed; its host is idle again."""
    host = store.host(str(told.work.request["host"]))

    def fail(tx: Tx) -> None:
        at = clock.now()
        if not move(tx, "cluster", told.cluster.id, "fail", at=at, actor=told.actor, reason=why[:1000]):
            return
        if host is not None and host.cluster_key == told.cluster.key:
            centre_hosts.free(tx, host, actor=told.actor)
            clusters.remove_node(tx, told.cluster.id, host.node_id, at=at, actor=told.actor)
        store.note(tx, "centre.cluster_fail", ("cluster", told.cluster.id), at=at, actor=told.actor, org=told.centre.org,
                   id=told.cluster.key, why=why[:1000])

    write(fail)


# a new worker


def ask_new_worker(told: Told) -> str:
    """The centre is asked to make the host a worker."""
    host, join = told.host, cc.secrets_of(told.cluster, told.settings).get("join_command", "")
    if told.cluster.goal == "end" or host.cluster_key != told.cluster.key:
        raise Conflict("the worker is not wanted any more")
    number = asked(told, "worker", lambda reference: told.executor.new_worker(
        access_of(host, told.settings), kind=told.cluster.kind, role=cc.WORKER, join_command=join, actor=told.actor,
        options=told.options(host), reference=reference))
    return f"the centre does it as its operation {number}"


def worker_joined(told: Told) -> str:
    """The worker counts."""
    host = told.host

    def keep(tx: Tx) -> None:
        at = clock.now()
        found = clusters.get(told.cluster.id)
        ready = workers(told.cluster.id)
        clusters.update(tx, told.cluster.id, workers_ready=min(ready, found.workers_wanted if found else ready))
        store.note(tx, "centre.worker_ready", ("cluster", told.cluster.id), at=at, actor=told.actor, org=told.centre.org,
                   id=told.cluster.key, host=host.key)

    write(keep)
    resize(told.cluster, told.settings, actor=told.actor)
    enabled = follow_cloud(told.cluster, told.settings, actor=told.actor)
    return f"it is in the cluster; {enabled}" if enabled else "it is in the cluster"


def worker_failed(told: Told, why: str) -> None:
    """The host did not become a worker: it is idle again."""
    host = store.host(str(told.work.request["host"]))

    def fail(tx: Tx) -> None:
        at = clock.now()
        if host is None or not centre_hosts.free(tx, host, actor=told.actor):
            return
        leave(tx, told, host, at)
        store.note(tx, "centre.worker_fail", ("cluster", told.cluster.id), at=at, actor=told.actor, org=told.centre.org,
                   id=told.cluster.key, host=host.key, why=why[:1000])

    write(fail)
