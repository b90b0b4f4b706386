"""What can be asked of Spark and Flink clusters? Launch, status, terminate, check; the engine (engine/dcluster.py) does the rest.

`configure(settings)` is called once when a process starts, by the dialect and by the engine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from cloudsched import clock
from cloudsched.domain import framework_objects, moves
from cloudsched.domain import frameworks as domain
from cloudsched.domain.entities import Cluster
from cloudsched.domain.frameworks import KINDS, ClusterAsk, Sizes
from cloudsched.drivers import flink_local, spark_local
from cloudsched.drivers.frameworks_local import conf
from cloudsched.drivers.frameworks_local.place import is_loopback
from cloudsched.errors import Conflict, FieldError, Invalid, NotFound
from cloudsched.services import clusters
from cloudsched.services.caller import SYSTEM, Caller
from cloudsched.services.frameworks import framework_prices
from cloudsched.services.settling import after_end
from cloudsched.settings import Settings
from cloudsched.settings import hosts as host_lists
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import clouds, events, jobs
from cloudsched.store import clusters as rows
from cloudsched.store import dcluster as store
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

CHECK_WAIT_S = 10.0


class _Configured:
    def __init__(self) -> None:
        self.section = Dcluster()


_configured = _Configured()


def configure(settings: Settings) -> None:
    """Take over the `[dcluster]` section."""
    _configured.section = settings.dcluster


def section() -> Dcluster:
    """The `[dcluster]` section in force."""
    return _configured.section


def sizes() -> Sizes:
    """What clusters get that do not say."""
    given = section()
    return Sizes(worker_cores_m=given.worker_cores_m, worker_memory_mb=given.worker_memory_mb,
                 master_cores_m=given.master_cores_m, master_memory_mb=given.master_memory_mb, workers_max=given.workers_max)


# asking


def launch(kind: str, fields: Mapping[str, Any], caller: Caller) -> int:
    """A new cluster of `kind` (spark, flink) from the fields of a ClusterEntity; returns its id at once, durable.

    The engine launches it. Raises Invalid naming every wrong field.
    """
    caller.require("submitter")
    if kind not in KINDS:
        raise Invalid.at("kind", f"{kind!r} is no kind of cluster here", ", ".join(KINDS))
    ask = domain.cluster_ask(kind, fields, sizes())
    check_sizes(ask, worker_field="workerMemory")
    check_settings(kind, ask.settings, place=section().place, field="extraConfigs")
    return write(lambda tx: insert(tx, ask, fields, actor=caller.name)).id


def check_sizes(ask: ClusterAsk, *, worker_field: str) -> None:
    """Refuse what processes on this machine could not start with, before anything is written. Raises Invalid (field: what the
    request calls it)."""
    if section().place != "local":
        return
    driver = {"spark": spark_local, "flink": flink_local}[ask.kind]
    wrong = [FieldError(field, f"{found} MiB is too little", f"at least {least} MiB for {ask.kind} on this machine")
             for field, found, least in (("masterMemory", ask.master_memory_mb, driver.LEAST_MASTER_MB),
                                         (worker_field, ask.worker_memory_mb, driver.LEAST_WORKER_MB)) if found < least]
    if wrong:
        raise _invalid(wrong)


def check_settings(kind: str, settings: Mapping[str, str], *, place: str, field: str) -> None:
    """Refuse settings that the driver of that place would refuse later. Raises Invalid naming every one of them (`FIELD.KEY`)."""
    sort = place.partition(":")[0]
    wrong: list[FieldError] = []
    if sort == "local":
        trusted = section().trusted_settings
        wrong = [FieldError(f"{field}.{key}"[:300], why) for key, why in conf.refused(kind, settings, trusted=trusted)]
    elif sort == "kubernetes":
        wrong = framework_objects.check_settings(kind, settings, field)
    if wrong:
        raise _invalid(wrong)


def check_external(kind: str, address: str, *, field: str) -> None:
    """Refuse the address of a cluster of others that the operator did not name: a server must not be sent anywhere. Raises
    Invalid."""
    given = section()
    if address.rstrip("/") == (given.external_spark_url if kind == domain.SPARK else given.external_flink_url).rstrip("/"):
        return
    hosts = domain.external_hosts(kind, address)
    for host, port in hosts:
        if not host_lists.names(given.external_clusters, host, port):
            raise Invalid.at(field, f"jobs may not be sent to {host}:{port}", "what the setting dcluster.external_clusters lists")


def check_reachable(kind: str, address: str, *, field: str) -> None:
    """Refuse a master elsewhere whose executors could not call drivers on this machine. Raises Invalid."""
    given = section()
    if kind != domain.SPARK or given.place != "local" or given.driver_host or is_loopback(address.partition(",")[0]):
        return
    raise Invalid.at(field, f"{address[:200]} is not on this machine, and jobs listen on 127.0.0.1 alone",
                     "a cluster on this machine, unless the setting dcluster.driver_host says where its executors reach us")


def _invalid(wrong: list[FieldError]) -> Invalid:
    shown = [f"{one.field}: {one.message}" + (f" (allowed: {one.allowed})" if one.allowed else "") for one in wrong]
    return Invalid("; ".join(shown), errors=wrong)


def insert(tx: Tx, ask: ClusterAsk, request: Mapping[str, Any], *, actor: str, job_id: int | None = None, name: str = "",
           idle_limit_s: float | None = None) -> Cluster:
    """In a transaction: a cluster that waits to be launched. `job_id`: it ends with this job; `name`: what people call it."""
    at, given = clock.now(), section()
    store.serialize(tx)
    stamp = int(at * 1000)
    while not store.is_free(tx, key := domain.cluster_key(ask, given.env, stamp)):
        stamp += 1
    limit_s = ask.idle_limit_s or idle_limit_s or given.idle_limit_s or None
    number = rows.insert(tx, {
        "key": key, "name": name or key, "kind": ask.kind, "origin": domain.ORIGIN, "org": ask.tenant, "user": actor,
        "place": given.place, "cloud_id": _cloud_id(given.place), "job_id": job_id, "workers_wanted": ask.workers,
        "idle_limit_s": limit_s,
        "spec": json.dumps(ask.spec(request, long_living=bool(name)), default=str), "not_before": store.WAITING,
    }, at=at, actor=actor)
    made = store.cluster(tx, number)
    assert made is not None
    return made


def _cloud_id(place: str) -> int | None:
    cloud = clouds.by_name(place.partition(":")[2]) if ":" in place else None
    return cloud.id if cloud else None


def find(reference: int | str, kind: str = "") -> Cluster:
    """One of our clusters by number, key or name. Raises NotFound, also for one of another kind than `kind`."""
    try:
        cluster = clusters.find(str(reference)[:200])
    except NotFound:
        cluster = None
    if cluster is None or cluster.origin != domain.ORIGIN or (kind and cluster.kind != kind):
        raise NotFound(f"there is no {kind + ' ' if kind else ''}cluster {str(reference)[:200]}")
    return cluster


def status(reference: int | str, kind: str = "") -> str:
    """PENDING, LAUNCHING, RUNNING, DEGRADED, TERMINATING, TERMINATED or FAILED. Raises NotFound."""
    return find(reference, kind).state.upper()


def terminate(reference: int | str, kind: str, caller: Caller) -> str:
    """Have a cluster taken away, its jobs first; returns its state now. A second call just answers the state."""
    caller.require("submitter")
    cluster = find(reference, kind)
    if cluster.state not in moves.CLUSTER_FINAL:
        write(lambda tx: clusters.end(tx, cluster, actor=caller.name, reason=f"terminated by {caller.name}"))
    return find(cluster.id).state.upper()


def check(caller: Caller, *, wait_s: float = CHECK_WAIT_S) -> str:
    """One pass of the cluster check: what is idle for too long and what outlived its job is ended, everything else compared
    with what really runs (by the engine; this waits up to `wait_s` for it). Answers a sentence with the counts."""
    caller.require("submitter")
    at = clock.now()
    ended = write(lambda tx: reap(tx, at))
    write(store.look_again)
    until = time.monotonic() + wait_s
    while (left := store.not_looked_at()) and time.monotonic() < until:
        time.sleep(0.05)
    found = store.counts()
    parts = [f"{found.get(state, 0)} {state}" for state in moves.CLUSTER_LIVE]
    text = f"Clusters: {', '.join(parts)}. {ended} ended because they were idle or outlived their job."
    return text + (f" {left} could not be looked at yet." if left else "")


# what the engine asks


def reap(tx: Tx, at: float) -> int:
    """Clusters whose job has ended, and those that were idle for too long, are wanted gone; returns how many."""
    store.serialize(tx)  # no job is given to a cluster that is being ended
    done = 0
    for number, job, state in store.outlived(tx):
        done += _end(tx, number, f"job {job} has ended as {state}")
    for number, limit_s in store.idle(tx, at):
        done += _end(tx, number, f"it ran nothing for {limit_s:g} s")
    return done


def _end(tx: Tx, number: int, reason: str) -> bool:
    cluster = store.cluster(tx, number)
    return cluster is not None and clusters.end(tx, cluster, actor=SYSTEM.name, reason=reason)


def usable(cluster: Cluster) -> None:
    """Raise Conflict unless the cluster lives and is to live on."""
    if cluster.state in moves.CLUSTER_FINAL or cluster.state == "terminating" or cluster.goal != "run":
        raise Conflict(f"cluster {cluster.key} is {cluster.state.upper()}: it takes no jobs",
                       details={"clusterId": cluster.id, "state": cluster.state.upper()})


def stop_jobs(tx: Tx, cluster: Cluster, *, at: float, actor: str, reason: str) -> None:
    """The jobs of a cluster that goes are terminated first; their record says why."""
    for number, state, goal in store.of_cluster(tx, cluster.id):
        if goal == "cancel":
            continue
        text = f"cluster {cluster.key} was ended: {reason}"
        if state in moves.JOB_WAITING:
            if move(tx, "job", number, "cancel", at=at, actor=actor, goal="cancel", reason=text, note={"reason": text},
                    guard=("state IN ('pending', 'held', 'queued')", ())):
                after_end(tx, [(number, "cancelled")], at=at)
        elif jobs.want_cancelled(tx, number):
            events.append(tx, "job.cancel_request", ("job", number), at=at, actor=actor, reason=text)
            store.update(tx, number, end_reason=text)
    store.wake(tx, cluster.id)


def begin_end(tx: Tx, cluster: Cluster, actor: str, reason: str) -> None:
    """Its end is wanted (services.clusters.end): it says so at once."""
    at = clock.now()
    if move(tx, "cluster", cluster.id, "terminate", at=at, actor=actor, goal="end", reason=reason, not_before=0.0, attempts=0,
            ended_at=None, note={"reason": reason}):
        stop_jobs(tx, cluster, at=at, actor=actor, reason=reason)


clusters.on_end(domain.ORIGIN, begin_end)
clusters.on_cost(domain.ORIGIN, lambda cluster: framework_prices.cost(cluster, section()))
