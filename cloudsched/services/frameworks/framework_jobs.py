"""What can be asked of Spark and Flink jobs? Submit, status, info, lists, terminate; which of them run for too long.

A job is a row of `job` (source `dcluster`, kind spark or flink, user = client) and one of `dcluster_job`. It is `pending`
with a need that nothing meets, so that neither the scheduler nor an agent sees it; the engine (engine/framework_jobs.py)
takes it on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain import frameworks as domain
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster, Job
from cloudsched.domain.frameworks import API_STATES, ClusterAsk, JobAsk, ModuleSpec
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services import jobs as core
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import framework_clusters as clusters
from cloudsched.services.frameworks import framework_prices
from cloudsched.services.listing import rfc3339
from cloudsched.store import clusters as cluster_rows
from cloudsched.store import dcluster as store
from cloudsched.store import events, jobs, shapes
from cloudsched.store.db import Tx, write
from cloudsched.store.dcluster import FrameworkJob

SOURCE = domain.SOURCE
ALERT_AFTER_S = 6 * 3600.0
LIST_MOST = 1000
TAIL_LINES = 100


@dataclass(frozen=True, slots=True)
class Place:
    """Where a job runs: a cluster of ours, or the address of one that is not."""

    cluster_id: int | None
    name: str
    address: str = ""


@dataclass(frozen=True, slots=True)
class Overdue:
    """A running job that takes longer than it should. `emails` as they were submitted."""

    job_id: int
    client: str
    module: str
    kind: str
    cluster_name: str
    started_at: float
    running_s: float
    limit_s: float
    emails: str


# submit


def submit(fields: Mapping[str, Any], caller: Caller, module: ModuleSpec) -> dict[str, Any]:
    """A job from the fields of a JobsTableEntity, durable when this returns: {jobId, jobStatus, clusterName, message}.

    Raises Invalid naming every wrong field, Conflict while a job of the same client and module is active (details
    `jobId`) or when the named cluster takes no jobs, NotFound when there is none of that name.
    """
    caller.require("submitter")
    given = clusters.section()
    external = given.external_spark_url if module.kind == domain.SPARK else given.external_flink_url
    ask = domain.job_ask(fields, module, clusters.sizes(), external_url=external)
    if not (ask.external or ask.cluster_name):
        clusters.check_sizes(ask.ask, worker_field="workerMemGb")
    _check_where(ask, module)
    spec = _spec(ask, module)
    number, place = write(lambda tx: _insert(tx, ask, spec, fields, caller, module.backoff_s, module.alert_after_s))
    where = f"on cluster {place.name}" if place.name else f"on the external cluster {place.address}"
    return {"jobId": number, "jobStatus": "SUBMITTED", "clusterName": place.name, "message": f"job {number} will run {where}"}


def _check_where(ask: JobAsk, module: ModuleSpec) -> None:
    """Refuse what the place of the job would refuse later. Raises Invalid, NotFound for a cluster that is not there."""
    if ask.external:
        clusters.check_external(ask.kind, ask.external, field="extraCmd")
        clusters.check_reachable(ask.kind, ask.external, field="extraCmd")
    named = not ask.external and ask.cluster_name
    place = clusters.find(ask.cluster_name).place if named else clusters.section().place
    own = {key: value for key, value in ask.settings.items() if module.settings.get(key) != value}
    of_module = {key: value for key, value in ask.settings.items() if key not in own}
    clusters.check_settings(ask.kind, own, place=place, field="extraCmd")
    clusters.check_settings(ask.kind, of_module, place=place, field=f"module.{module.name}")


def _insert(tx: Tx, ask: JobAsk, spec: Mapping[str, Any], request: Mapping[str, Any], caller: Caller, backoff_s: float,
            alert_after_s: float | None, *, retry_of: int | None = None) -> tuple[int, Place]:
    at = clock.now()
    store.serialize(tx)
    active = domain.active_key(ask.client, ask.module)
    if (other := store.active_job(tx, active)) is not None:
        raise Conflict(f"job {other} of client {ask.client} and module {ask.module} is active", details={"jobId": other})
    number, batch = jobs.allocate(tx, "job", 1), jobs.allocate(tx, "batch", 1)
    place = choose(tx, spec, number, actor=caller.name)
    key = f"{domain.SOURCE}.{number}"
    cores, memory_mb = math.ceil(ask.ask.cores_m / 1000), ask.ask.memory_mb
    shape_id = shapes.ensure(tx, {
        "source": "task", "user": ask.client, "vm_type": ask.kind, "cores": cores, "memory_mb": memory_mb, "storage_gb": 0,
        "network": "", "high_priority": 0, "placement": {}})
    text = json.dumps({"kind": ask.kind, "key": key, "user": ask.client, "cores": cores, "memory_mb": memory_mb,
                       "storage_gb": 0, "command": [spec["entry"], *spec["arguments"]], "name": ask.module, "payload": spec})
    jobs.insert(tx, [(
        number, domain.SOURCE, key, batch, 0, ask.module[:200], "", ask.client, caller.org, ask.kind, shape_id, "pending", 0,
        ask.max_retries, backoff_s, ask.time_limit_s, 1, "cancel", None, at, None, text, "{}", retry_of)],
        at=at, actor=caller.name)
    jobs.add_needs(tx, [(number, store.NEED, store.NEED_KIND)])
    store.insert(tx, {
        "job_id": number, "client": ask.client, "module": ask.module, "kind": ask.kind, "active": active,
        "request": json.dumps(dict(request), default=str), "cluster_id": place.cluster_id, "cluster_name": place.name,
        "address": place.address, "keep_alive": int(ask.keep_alive), "alert_after_s": alert_after_s})
    return number, place


def _spec(ask: JobAsk, module: ModuleSpec) -> dict[str, Any]:
    """Everything the engine needs, also to begin again on another cluster."""
    own = {**asdict(ask.ask), "settings": dict(ask.ask.settings), "options": dict(ask.ask.options)}
    return {"entry": module.entry, "main_class": module.main_class, "arguments": list(ask.arguments),
            "settings": dict(ask.settings), "driver_memory_mb": ask.driver_memory_mb,
            "executor_memory_mb": ask.executor_memory_mb, "cores_max": ask.cores_max, "cluster_name": ask.cluster_name,
            "long_living": ask.long_living, "external": ask.external, "keep_alive": ask.keep_alive, "own": own}


def choose(tx: Tx, spec: Mapping[str, Any], job_id: int, *, actor: str) -> Place:
    """Which cluster a job uses (contract "Jobs"): an external one, the named one, the client's long-living one, its own."""
    own = ClusterAsk(**spec["own"])
    if spec["external"]:
        return Place(None, "", spec["external"])
    if spec["cluster_name"]:
        named = clusters.find(spec["cluster_name"])
        if named.kind != own.kind:
            raise Conflict(f"cluster {named.key} is a {named.kind} cluster: it runs no {own.kind} jobs",
                           details={"clusterId": named.id})
        clusters.usable(named)
        return Place(named.id, named.key)
    if spec["long_living"]:
        return _long_living(tx, own, actor=actor)
    made = clusters.insert(tx, own, {"jobId": job_id}, actor=actor, job_id=None if spec["keep_alive"] else job_id)
    return Place(made.id, made.key)


def _long_living(tx: Tx, ask: ClusterAsk, *, actor: str) -> Place:
    given = clusters.section()
    store.serialize(tx)
    name = domain.long_living_name(ask.kind, given.env, ask.tenant)
    found = store.long_living(tx, name, ask.kind, ask.tenant)
    if found is None:
        found = clusters.insert(tx, ask, {}, actor=actor, name=name, idle_limit_s=given.long_living_idle_limit_s or None)
    return Place(found.id, found.key)


def again(old: Job, caller: Caller) -> int:
    """A new job like an ended one (services.jobs.retry); returns its number. Raises Conflict while another is active, Invalid
    when its external cluster is not allowed any more."""
    found = find(old.id)
    if found.extra.address:
        clusters.check_external(found.extra.kind, found.extra.address, field="useExternalCluster")
    number, _ = write(lambda tx: _again(tx, found, caller))
    return number


def _again(tx: Tx, found: FrameworkJob, caller: Caller) -> tuple[int, Place]:
    job, extra = found.job, found.extra
    spec = json.loads(job.spec)["payload"]
    own = ClusterAsk(**spec["own"])
    ask = JobAsk(kind=extra.kind, client=extra.client, module=extra.module, cluster_name=spec["cluster_name"],
                 long_living=spec["long_living"], external=spec["external"], keep_alive=spec["keep_alive"],
                 driver_memory_mb=spec["driver_memory_mb"], executor_memory_mb=spec["executor_memory_mb"],
                 cores_max=spec["cores_max"], settings=spec["settings"], arguments=tuple(spec["arguments"]),
                 time_limit_s=job.time_limit_s, max_retries=job.max_retries, ask=own)
    number, place = _insert(tx, ask, spec, json.loads(extra.request), caller, job.backoff_s, extra.alert_after_s, retry_of=job.id)
    events.append(tx, "job.retried", ("job", job.id), at=clock.now(), actor=caller.name, new=number)
    return number, place


# look


def find(reference: int | str, kind: str = "") -> FrameworkJob:
    """One job by its number. Raises NotFound, also for one of another kind than `kind`."""
    text = str(reference)
    found = store.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
    if found is None or (kind and found.extra.kind != kind):
        raise NotFound(f"there is no {kind + ' ' if kind else ''}job {text[:100]}")
    return found


def status(reference: int | str, kind: str = "") -> str:
    """SUBMITTED, QUEUED, RUNNING, SUCCEEDED, FAILED, TERMINATING or TERMINATED. Raises NotFound."""
    found = find(reference, kind)
    return domain.job_word(found.job.state, found.job.goal)


def info(reference: int | str) -> dict[str, Any]:
    """Everything of one job: the submitted fields, state, times, cluster, application, exit code, the last 100 lines of its
    log, links, what its cluster has cost so far. Raises NotFound."""
    found = find(reference)
    cluster = cluster_rows.get(found.extra.cluster_id) if found.extra.cluster_id else None
    cost = framework_prices.cost(cluster, clusters.section()) if cluster else None
    log = found.extra.tail.splitlines()[-TAIL_LINES:]
    return {**_view(found), "clusterCost": cost, "log": log, "links": _links(found, cluster)}


def listed(*, status: str = "", client: str = "", job_type: str = "", limit: int = 100, offset: int = 0) -> list[dict[str, Any]]:
    """Jobs, newest first; `status`: an API state, `job_type`: spark, spark3 (the same) or flink, in any case. Raises Invalid for
    an unknown one."""
    states, goal = domain.states_of(status) if status.strip() else ((), "")
    if status.strip() and not states:
        raise Invalid.at("status", f"{status[:100]!r} is no state of a job", ", ".join(API_STATES))
    kind = domain.TYPES.get(job_type.strip().lower(), "")
    if job_type.strip() and not kind:
        raise Invalid.at("jobType", f"{job_type[:100]!r} is no type of a job", ", ".join(domain.TYPES))
    if not 1 <= limit <= LIST_MOST:
        raise Invalid.at("limit", f"{limit} is out of range", f"1 to {LIST_MOST}")
    if not 0 <= offset < 2**31:
        raise Invalid.at("offset", f"{offset} is out of range", "0 to 2147483647")
    return [_view(found) for found in store.page(states=states, goal=goal, client=client, kind=kind, limit=limit, offset=offset)]


def active(client: str, module: str) -> list[int]:
    """Numbers of the active jobs of this pair."""
    return store.active_ids(client, module)


def _view(found: FrameworkJob) -> dict[str, Any]:
    job, extra = found.job, found.extra
    request = json.loads(extra.request)
    return {
        **request, "jobId": job.id, "client": extra.client, "module": extra.module,
        "jobType": request.get("jobType") or extra.kind,
        "jobStatus": domain.job_word(job.state, job.goal), "clusterName": extra.cluster_name or request.get("clusterName", ""),
        "clusterId": extra.cluster_id, "applicationId": extra.application_id or None, "exitCode": job.exit_code,
        "reason": job.reason or extra.end_reason or None, "attempt": job.attempt, "retries": job.retries,
        "created": rfc3339(job.submitted_at), "started": rfc3339(job.started_at), "ended": rfc3339(job.ended_at),
    }


def _links(found: FrameworkJob, cluster: Cluster | None) -> dict[str, str | None]:
    number = found.job.id
    return {"webUi": (cluster.web_url if cluster else "") or None, "logs": f"/api/v2/jobs/{number}/output",
            "job": f"/api/v2/jobs/{number}", "cluster": f"/api/v2/clusters/{cluster.id}" if cluster else None}


def explain(job: Job) -> tuple[str, list[dict[str, Any]]]:
    """(verdict, reasons) of services.why for a job that waits or runs."""
    found = find(job.id)
    cluster = cluster_rows.get(found.extra.cluster_id) if found.extra.cluster_id else None
    where = f"cluster {cluster.key}" if cluster else f"the external cluster {found.extra.address}"
    rule, text = _explained(found, cluster, where)
    return text, [{"rule": rule, **({"cluster": cluster.key} if cluster else {}), "text": text,
                   "have": cluster.workers_ready if cluster else None, "need": cluster.workers_wanted if cluster else None}]


def _explained(found: FrameworkJob, cluster: Cluster | None, where: str) -> tuple[str, str]:
    job, extra, at = found.job, found.extra, clock.now()
    away = f" {job.reason}" if extra.address and job.reason else ""
    if job.goal == "cancel":
        return "cancel", f"It is being terminated on {where}; it is not proved ended yet.{away}"
    if job.state == "running":
        known = f" as {extra.application_id}" if extra.application_id else ""
        return "running", f"It runs on {where}{known}, attempt {job.attempt}.{away}"
    if job.not_before is not None and job.not_before > at:
        return "pause", f"It pauses {job.not_before - at:.1f} s before retry {job.retries} of {job.max_retries}."
    if cluster is not None and cluster.state not in moves.CLUSTER_UP:
        text = {"pending": "waits for room (dcluster.clusters_max, capacity_cores_m, capacity_memory_mb)"}.get(
            cluster.state, cluster.reason or f"has {cluster.workers_ready} of {cluster.workers_wanted} workers")
        return "cluster", f"It waits for {where}, which is {cluster.state.upper()}: it {text}."
    if extra.submitted_at is None and job.state == "assigned":
        return "slots", f"It waits for its turn on {where}: dcluster.jobs_per_cluster jobs run there at once."
    return ("away", f"It waits for {where}.{away}") if away else ("begin", f"It is about to begin on {where}.")


# change


def terminate(reference: int | str, caller: Caller) -> str:
    """End a job: TERMINATED at once while nothing runs for it, else TERMINATING until it is proved ended; one that has
    ended stays what it is. Returns its state now. Raises NotFound, Forbidden."""
    found = find(reference)
    if found.job.state not in moves.JOB_FINAL:
        try:
            core.cancel(found.job.id, caller)
        except Conflict:
            pass  # it ended meanwhile
    return status(found.job.id)


def stop_client(client: str, module: str, caller: Caller) -> bool:
    """End all active jobs of this pair; was there any?"""
    caller.require("submitter")
    found = active(client, module)
    for number in found:
        terminate(number, caller)
    return bool(found)


# what runs for too long


def overdue(*, default_after_s: float = ALERT_AFTER_S) -> list[Overdue]:
    """Running jobs over their limit (the module's, else `default_after_s`) that nobody was told of."""
    at = clock.now()
    return [_overdue(found, at, default_after_s) for found in store.overdue(at, default_after_s)]


def _overdue(found: FrameworkJob, at: float, default_after_s: float) -> Overdue:
    job, extra = found.job, found.extra
    started_at = job.started_at or at
    limit_s = default_after_s if extra.alert_after_s is None else extra.alert_after_s
    emails = json.loads(extra.request).get("emailRecipients") or ""
    return Overdue(job.id, extra.client, extra.module, extra.kind, extra.cluster_name, started_at, at - started_at, limit_s,
                   emails if isinstance(emails, str) else ",".join(str(one) for one in emails))


def note_alert(one: Overdue, *, actor: str = "system", tx: Tx | None = None) -> bool:
    """Write down (event `job.overdue`) that the job runs for too long: True once per job. `tx`: in that transaction."""

    def note(tx: Tx) -> bool:
        at = clock.now()
        if not store.note_alert(tx, one.job_id, at):
            return False
        events.append(tx, "job.overdue", ("job", one.job_id), at=at, actor=actor, client=one.client, module=one.module,
                      running_s=round(one.running_s), limit_s=one.limit_s)
        return True

    return note(tx) if tx is not None else write(note)


core.on_retry(SOURCE, again)
