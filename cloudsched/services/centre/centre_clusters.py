"""What can be asked of the clusters of a compute centre? Make one of its hosts, add and remove workers, take one apart, label.

A cluster is written down with its host occupied before anything is done; what is done is an operation in recorded steps
(services/centre/centre_ops.py). What a centre gave for a cluster (join command, kubeconfig) is sealed in its row.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster
from cloudsched.domain.labels import parse_label
from cloudsched.drivers.pcapi import PcapiError
from cloudsched.errors import Conflict, NotFound
from cloudsched.services import operations
from cloudsched.services.centre import centre_hosts, centres, parts
from cloudsched.services.centre.centre_calls import (
    CHECK_NODE,
    Executor,
    Where,
    access_of,
    executor_for,
    options_of,
    to_params,
)
from cloudsched.services.centre.centres import LAST_DAY, attempt, checked_date, checked_name, in_order, new_key, refused, slug
from cloudsched.services.centre.executor import check_switch
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clusters, nodes
from cloudsched.store import instances as instance_rows
from cloudsched.store import operations as operation_rows
from cloudsched.store.centres import Centre, Host
from cloudsched.store.db import Tx
from cloudsched.store.moves import move

ORIGIN = "kboss"
KINDS = ("kubernetes", "slurm")
MASTER, WORKER = "master", "worker"
NEW_CLUSTER, NEW_WORKER, DELETE_WORKER, DELETE_CLUSTER = (
    "centre.new_cluster", "centre.new_worker", "centre.delete_worker", "centre.delete_cluster")
WAIT_FIRST_S, WAIT_MOST_S = 0.1, 1.0
HISTORY = ("failed", "terminated")
LISTED_MOST = 10_000
LEFT = "is left as it is"


@dataclass(frozen=True, slots=True)
class Begun:
    """What was written down: the cluster, the host, and the operation that does it (0 where it was only tried). `stopped`: what
    was under way for it and is not gone on with."""

    cluster: Cluster
    host: Host
    operation: int = 0
    stopped: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """What became of an operation. `done` is False when the time was over first."""

    done: bool
    ok: bool
    error: str = ""


# looking


def find(key: str, *, centre_key: str = "", scope: str | None = None) -> Cluster:
    """One cluster by its id. Raises NotFound, also for one of another centre, or of another organisation than `scope`."""
    cluster = clusters.by_key(key)
    if cluster is not None and cluster.origin == ORIGIN:
        centre = store.centre_of_cloud(cluster.cloud_id or 0)
        if centre is not None and centre_key in ("", centre.key) and scope in (None, centre.org):
            return cluster
    raise refused(NotFound, "no_cluster", f"there is no cluster {key}", id=key)


def centre_of(cluster: Cluster) -> Centre:
    """The centre that a cluster lies in. Raises NotFound."""
    centre = store.centre_of_cloud(cluster.cloud_id or 0)
    if centre is None:
        raise refused(NotFound, "no_cluster", f"there is no cluster {cluster.key}", id=cluster.key)
    return centre


def listed(centre: Centre, *, history: bool = False) -> list[Cluster]:
    """The clusters of a centre in the order in which they were made; those that have ended only with `history`."""
    found = clusters.find(origin=ORIGIN, cloud_id=centre.cloud_id, limit=LISTED_MOST)
    return [one for one in reversed(found) if history or one.state not in HISTORY]


def spec_of(cluster: Cluster) -> dict[str, Any]:
    """`controllerid` (host), `enable_date`, `export_date` and `options` of a cluster."""
    spec: dict[str, Any] = json.loads(cluster.spec or "{}")
    return spec


def secrets_of(cluster: Cluster, settings: Settings) -> dict[str, str]:
    """`join_command` and `kubeconfig` in the clear, as far as they are known. Raises SealError."""
    found: dict[str, str] = json.loads(centres.opened(cluster.secrets, settings) or "{}")
    return found


def is_ready(cluster: Cluster) -> bool:
    """Can it be used?"""
    return cluster.state in moves.CLUSTER_UP


def where_of(cluster: Cluster, settings: Settings) -> Where:
    """How the executor reaches a cluster. Raises Conflict for one that is not ready."""
    if not is_ready(cluster):
        raise refused(Conflict, "cluster_not_ready", f"cluster {cluster.name} is {cluster.state}", name=cluster.name)
    host = store.host(str(spec_of(cluster).get("controllerid", "")))
    kubeconfig = secrets_of(cluster, settings).get("kubeconfig", "")
    return Where(access_of(host, settings) if host else None, kubeconfig, cluster.kind)


def executor_of(cluster: Cluster, settings: Settings) -> Executor:
    """Who is asked for a cluster."""
    return executor_for(centre_of(cluster), settings)


def host_named(cluster: Cluster, name: str) -> Host:
    """The host behind a node of a cluster: by the node's name there, the host's id, or its name. Raises NotFound."""
    members = clusters.members(cluster.id)
    for node_id, _, there, _ in members:
        host = store.host_of_node(node_id)
        if host is not None and name in (there, host.key, host.name):
            return host
    raise refused(NotFound, "no_node", f"cluster {cluster.name} has no node {name}", name=cluster.name, node=name)


def hosts_in(cluster: Cluster) -> list[Host]:
    """The hosts of a cluster that are there, the controller last."""
    members = sorted(clusters.members(cluster.id), key=lambda row: row[1] == MASTER)
    return [host for node_id, *_ in members if (host := store.host_of_node(node_id)) is not None and host.removed_at is None]


def of_operation(operation: Mapping[str, Any], *, scope: str | None = None) -> Cluster:
    """The cluster that an operation of a centre (as `operations.one` answers it) is about. Raises NotFound."""
    cluster = clusters.get(operation["subject_id"] or 0) if operation["subject_kind"] == "cluster" else None
    try:
        if cluster is not None:
            return find(cluster.key, scope=scope)
    except NotFound:
        pass  # what is another organisation's is told of in no other words than what is not there
    raise refused(NotFound, "no_operation", f"there is no operation {operation['id']}", id=operation["id"])


# making and changing


def new(centre: Centre, host: Host, *, kind: str, name: str, enable_date: str = "", export_date: str = "",
        options: Mapping[str, Any] | None = None, actor: str, settings: Settings, dry_run: bool = False) -> Begun:
    """Begin a cluster with this host as its controller. Raises Invalid; Conflict for a host not idle, or a name taken."""
    begins = checked_date("enable_date", enable_date, centres.today())
    ends = checked_date("export_date", export_date, LAST_DAY)
    in_order("enable_date", begins, "export_date", ends)
    title, key = checked_name("cluster_name", name), new_key()
    spec = {"controllerid": host.key, "enable_date": begins, "export_date": ends, "options": dict(options or {})}

    def begin(tx: Tx) -> Begun:
        at = clock.now()
        _name_free(centre, title, None)
        number = clusters.insert(tx, {"key": key, "name": title, "kind": kind, "origin": ORIGIN, "org": centre.org, "user": actor,
                                      "place": "hosts", "cloud_id": centre.cloud_id, "address": host.ip,
                                      "spec": json.dumps(spec)}, at=at, actor=actor)
        move(tx, "cluster", number, "launch", at=at, actor=actor, launched_at=at)
        centre_hosts.reserve(tx, host, cluster_key=key, role=MASTER, actor=actor)
        clusters.add_node(tx, number, host.node_id, role=MASTER, name=node_name(host), at=at, actor=actor)
        store.note(tx, "centre.cluster_new", ("cluster", number), at=at, actor=actor, org=centre.org, id=key, name=title,
                   cluster_kind=kind, host=host.key)
        return _begun(tx, NEW_CLUSTER, number, host, actor=actor)

    return attempt(begin, dry_run=dry_run)


def change(cluster: Cluster, values: Mapping[str, str], *, actor: str, dry_run: bool = False) -> Cluster:
    """Change `name`, `enable_date`, `export_date` of a cluster. Raises Invalid, Conflict."""
    centre, spec = centre_of(cluster), spec_of(cluster)
    begins = checked_date("enable_date", values.get("enable_date"), spec.get("enable_date") or centres.today())
    ends = checked_date("export_date", values.get("export_date"), spec.get("export_date") or LAST_DAY)
    in_order("enable_date", begins, "export_date", ends)
    title = checked_name("name", values["name"]) if values.get("name") else cluster.name

    def update(tx: Tx) -> Cluster:
        at = clock.now()
        _name_free(centre, title, cluster.key)
        new_spec = {**spec, "enable_date": begins, "export_date": ends}
        if ends != spec.get("export_date"):
            new_spec.pop("expiry_noted", None)
        clusters.update(tx, cluster.id, name=title, spec=json.dumps(new_spec))
        store.note(tx, "centre.cluster_change", ("cluster", cluster.id), at=at, actor=actor, org=centre.org, id=cluster.key,
                   name=title, enable_date=begins, export_date=ends)
        return find(cluster.key)

    return attempt(update, dry_run=dry_run)


def new_worker(cluster: Cluster, host: Host, *, options: Mapping[str, Any] | None = None, actor: str, settings: Settings,
               dry_run: bool = False) -> Begun:
    """Begin to make an idle host of the centre a worker of the cluster. Raises Conflict, also for a cluster not ready."""
    centre = centre_of(cluster)
    _check_ready(cluster)

    def begin(tx: Tx) -> Begun:
        at = clock.now()
        centre_hosts.reserve(tx, host, cluster_key=cluster.key, role=WORKER, actor=actor)
        clusters.add_node(tx, cluster.id, host.node_id, role=WORKER, name=node_name(host), at=at, actor=actor)
        clusters.update(tx, cluster.id, workers_wanted=cluster.workers_wanted + 1)
        store.note(tx, "centre.worker_new", ("cluster", cluster.id), at=at, actor=actor, org=centre.org, id=cluster.key,
                   host=host.key)
        return _begun(tx, NEW_WORKER, cluster.id, host, actor=actor, options=dict(options or {}))

    return attempt(begin, dry_run=dry_run)


def delete_worker(cluster: Cluster, host: Host, *, force: bool = False, actor: str, dry_run: bool = False) -> Begun:
    """Begin to take a worker out: drained, removed, its host idle again. Its stock leaves the cluster at once.

    Raises Conflict for the controller, and when what the host holds is in use there."""
    centre = centre_of(cluster)
    if host.role != WORKER or host.cluster_key != cluster.key:
        raise refused(Conflict, "not_a_worker", f"host {host.name} is no worker of cluster {cluster.name}", name=host.name,
                      cluster=cluster.name)
    if not force:
        _check_ready(cluster)

    def begin(tx: Tx) -> Begun:
        at = clock.now()
        if not store.update(tx, "centre_host", host.id, cluster_key="", updated_at=at, where="cluster_key = ?",
                            args=(cluster.key,)):
            raise refused(Conflict, "host_changed", f"host {host.name} was changed meanwhile", name=host.name)
        parts.move_host(tx, centre.key, before=(cluster.key, centre_hosts.amounts(host)), after=("", centre_hosts.amounts(host)),
                        actor=actor)
        store.note(tx, "centre.worker_delete", ("cluster", cluster.id), at=at, actor=actor, org=centre.org, id=cluster.key,
                   host=host.key, force=force)
        return _begun(tx, DELETE_WORKER, cluster.id, host, actor=actor, force=force)

    return attempt(begin, dry_run=dry_run)


def delete(cluster: Cluster, *, force: bool = False, actor: str, reason: str = "asked for", dry_run: bool = False) -> Begun:
    """Begin to take a cluster apart; its hosts become idle, its row stays as history.

    Raises Conflict while it is being installed, and while it has instances, unless `force`: they are then deleted first, what is
    under way is cancelled, and a host that cannot be reached is left as it is (`left_of`)."""
    def begin(tx: Tx) -> Begun:
        clusters.want_end(tx, cluster.id, at=clock.now(), actor=actor, reason=reason)
        return begin_delete(tx, find(cluster.key), actor=actor, force=force)

    return attempt(begin, dry_run=dry_run)


def begin_delete(tx: Tx, cluster: Cluster, *, actor: str, force: bool = False) -> Begun:
    """In a transaction, once its end is wanted: the operation that takes the cluster apart. Raises Conflict as `delete` does."""
    centre = centre_of(cluster)
    if cluster.state == "terminated":
        raise refused(Conflict, "cluster_gone", f"cluster {cluster.name} is gone", name=cluster.name)
    if working_on(cluster, NEW_CLUSTER) and not force:
        raise refused(Conflict, "cluster_installing", f"cluster {cluster.name} is being installed", name=cluster.name)
    under_way = working_on(cluster, DELETE_CLUSTER)
    if under_way and (not force or _is_forced(under_way)):
        return Begun(cluster, _controller(cluster), under_way)
    instances = count_instances(cluster)
    if instances and not force:
        raise refused(Conflict, "cluster_in_use", f"cluster {cluster.name} has {instances} resource instances",
                      name=cluster.name, instances=instances)
    at = clock.now()
    stopped = _stop_work(tx, cluster, at=at, actor=actor) if force else []
    move(tx, "cluster", cluster.id, "terminate", at=at, actor=actor, reason="")
    store.note(tx, "centre.cluster_delete", ("cluster", cluster.id), at=at, actor=actor, org=centre.org, id=cluster.key,
               name=cluster.name, force=force, **({"cancelled": stopped} if stopped else {}))
    begun = _begun(tx, DELETE_CLUSTER, cluster.id, _controller(cluster), actor=actor, force=force, stopped=stopped)
    return replace(begun, stopped=tuple(stopped))


def left_of(operation: int) -> list[str]:
    """What a removal could not take off its hosts: "NAME is left as it is: why" for each."""
    steps = operations.one(operation)["steps"]
    return [said for step in steps for said in str(step["detail"]).split("; ") if LEFT in said]


def check_worker_idle(cluster: Cluster, host: Host, settings: Settings, *, force: bool) -> bool:
    """Could the worker be taken out now? Raises what taking it out would; False where its centre cannot be asked that."""
    name = next((name for node_id, _, name, _ in clusters.members(cluster.id) if node_id == host.node_id), node_name(host))
    if force:
        return True  # it goes whatever runs there, and whoever answers
    try:
        executor_of(cluster, settings).call(CHECK_NODE, {**to_params(where_of(cluster, settings)), "node_name": name})
    except PcapiError as error:
        if error.details.get("say") != "pcapi_strange":
            raise
        return False  # an executor of another make
    return True


def set_label(cluster: Cluster, node: str, label: str, action: str, *, actor: str, settings: Settings,
              dry_run: bool = False) -> None:
    """Set one label of a node of the cluster, or take it away. Raises Invalid, and what the centre says."""
    key, value = parse_label(label, action)
    where = where_of(cluster, settings)
    if dry_run:
        _check_node(cluster, node, where, settings)
    else:
        executor_of(cluster, settings).label(where, node, label, action)

    def note(tx: Tx) -> None:
        store.note(tx, "centre.node_label", ("cluster", cluster.id), at=clock.now(), actor=actor, org=centre_of(cluster).org,
                   id=cluster.key, node=node, label=key, value=value, action=action)

    attempt(note, dry_run=dry_run)


def switch(cluster: Cluster, node: str, *, state: str, drain: bool, actor: str, settings: Settings,
           dry_run: bool = False) -> None:
    """Let a node of the cluster take nothing new (`cordon`), or again (`uncordon`); `drain`: what runs there goes elsewhere."""
    where = where_of(cluster, settings)
    check_switch(state, drain)
    if dry_run:
        _check_node(cluster, node, where, settings)
    else:
        executor_of(cluster, settings).switch(where, node, state=state, drain=drain)

    def note(tx: Tx) -> None:
        store.note(tx, "centre.node_switch", ("cluster", cluster.id), at=clock.now(), actor=actor, org=centre_of(cluster).org,
                   id=cluster.key, node=node, to=state, drain=drain)

    attempt(note, dry_run=dry_run)


def wait(operation: int, limit_s: float) -> Ended:
    """Wait for an operation to end, with no transaction open."""
    deadline, pause_s = time.monotonic() + limit_s, WAIT_FIRST_S
    while True:
        found = operations.one(operation)
        if found["state"] in ("succeeded", "failed", "cancelled"):
            return Ended(True, found["state"] == "succeeded", found["error"] or found["state"])
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return Ended(False, False)
        time.sleep(min(pause_s, left_s))
        pause_s = min(pause_s * 2, WAIT_MOST_S)


# helpers


def options_for(cluster: Cluster, host: Host, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the installation of a host is told: of the cluster, of the host, of the call; the later count first."""
    title = slug(cluster.name, "cluster").replace("-", "_")[:40]
    own = {"node_name": node_name(host), **({"cluster_name": title} if cluster.kind == "slurm" else {})}
    spec = spec_of(cluster).get("options") or {}
    mine = {name: value for name, value in spec.items() if name in ("cluster_name",)} if host.role != MASTER else spec
    return {**own, **mine, **options_of(host), **given}


def node_name(host: Host) -> str:
    """What a host is called in a cluster: what its options say, else its own name made fit for one."""
    given = str(json.loads(host.options).get("node_name") or "")
    if given:
        return given
    node = nodes.get(host.node_id)
    return (node.name if node else slug(host.name, "host"))[:63].strip("-")


def count_instances(cluster: Cluster) -> int:
    """How many resource instances of a cluster are not deleted."""
    return instance_rows.count(cluster.key)


def working_on(cluster: Cluster, kind: str) -> int:
    """The operation of a kind that is under way for a cluster; 0 when there is none."""
    return store.operation_on(kind, cluster.id)


def _is_forced(operation: int) -> bool:
    return bool(operations.one(operation)["request"].get("force"))


def _stop_work(tx: Tx, cluster: Cluster, *, at: float, actor: str) -> list[int]:
    """Whatever is under way for a cluster stops before its next step; which operations these are."""
    found = [number for number in store.operations_on(cluster.id)
             if operation_rows.ask_cancel(tx, number, at=at, actor=actor)]
    return sorted(found)


def _check_node(cluster: Cluster, node: str, where: Where, settings: Settings) -> None:
    """Raises NotFound for a node that the cluster does not have."""
    if all(row["node_name"] != node for row in executor_of(cluster, settings).nodes(where)):
        raise refused(NotFound, "no_node", f"cluster {cluster.name} has no node {node}", name=cluster.name, node=node)


def _begun(tx: Tx, kind: str, number: int, host: Host, *, actor: str, **request: Any) -> Begun:
    operation = operations.begin(kind, {"cluster": number, "host": host.key, **request}, subject=("cluster", number),
                                 actor=actor, tx=tx)
    cluster = clusters.get(number)
    assert cluster is not None
    return Begun(cluster, store.host(host.key) or host, operation)


def _controller(cluster: Cluster) -> Host:
    host = store.host(str(spec_of(cluster).get("controllerid", "")), removed=True)
    if host is None:
        raise refused(NotFound, "no_host", f"the controller of cluster {cluster.name} is gone", id=cluster.key)
    return host


def _check_ready(cluster: Cluster) -> None:
    if not is_ready(cluster):
        raise refused(Conflict, "cluster_not_ready", f"cluster {cluster.name} is {cluster.state}", name=cluster.name)


def _name_free(centre: Centre, name: str, key: str | None) -> None:
    if any(one.name == name and one.key != key for one in listed(centre)):
        raise refused(Conflict, "cluster_exists", f"there is a cluster named {name} in this centre", name=name)
