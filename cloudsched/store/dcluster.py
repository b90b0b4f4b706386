"""How are Spark and Flink jobs kept, and what does the engine ask about them and their clusters?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster, Job, columns
from cloudsched.store.clusters import COLUMNS as CLUSTER_COLUMNS
from cloudsched.store.db import EVENT_LOCK_KEY, Row, Tx, read

# A job of ours waits for something that no job meets: so nothing but the engine of this dialect lets it go on.
NEED, NEED_KIND = -1, "cluster"
# Clusters that wait for room are not due before somebody launches them, or wants them gone.
WAITING = 1e12
ORIGIN = "dcluster"
_UP = "('launching', 'running', 'degraded', 'terminating')"
_FINAL = ", ".join(f"'{state}'" for state in moves.JOB_FINAL)


@dataclass(frozen=True, slots=True)
class Extra:
    """A row of `dcluster_job`, in the order of its columns."""

    job_id: int
    client: str
    module: str
    kind: str
    active: str | None
    request: str
    cluster_id: int | None
    cluster_name: str
    address: str
    keep_alive: int
    handle: str
    application_id: str
    end_reason: str
    alert_after_s: float | None
    alerted_at: float | None
    submitted_at: float | None
    deadline: float | None
    log_offset: int
    log_at: float
    tail: str
    done: int
    not_before: float
    lease_holder: str
    lease_until: float


@dataclass(frozen=True, slots=True)
class FrameworkJob:
    """A job and what is kept of it beside."""

    job: Job
    extra: Extra


_EXTRA = ", ".join(f"d.{one.name}" for one in fields(Extra))
_JOB = ", ".join(f"j.{name.strip()}" for name in columns(Job).split(","))
_BOTH = f"{_JOB}, {_EXTRA}"
_SPLIT = len(fields(Job))


def _pair(row: Row) -> FrameworkJob:
    return FrameworkJob(Job(*row[:_SPLIT]), Extra(*row[_SPLIT:]))


# jobs


def serialize(tx: Tx) -> None:
    """From here to the end of the transaction no other one hands out names or active pairs (SQLite has one writer anyway)."""
    if tx.pg:
        tx.run("SELECT pg_advisory_xact_lock(?)", (EVENT_LOCK_KEY,))


def insert(tx: Tx, values: Mapping[str, Any]) -> None:
    """What is kept of a job beside its row in `job` (see tables_dcluster)."""
    given = {"request": "{}", "cluster_name": "", "address": "", "keep_alive": 0, "handle": "{}", "application_id": "",
             "end_reason": "", "log_offset": 0, "log_at": 0.0, "tail": "", "done": 0, "not_before": 0.0, "lease_holder": "",
             "lease_until": 0.0, **values}
    tx.run(f"INSERT INTO dcluster_job ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})", tuple(given.values()))


def active_job(tx: Tx, key: str) -> int | None:
    """The job that is active under this key; one that has ended meanwhile gives it up."""
    row = tx.one("SELECT d.job_id, j.state FROM dcluster_job d LEFT JOIN job j ON j.id = d.job_id WHERE d.active = ?", (key,))
    if row is None:
        return None
    if row[1] is not None and row[1] not in moves.JOB_FINAL:
        return int(row[0])
    tx.run("UPDATE dcluster_job SET active = NULL WHERE job_id = ?", (row[0],))
    return None


def active_ids(client: str, module: str) -> list[int]:
    """Jobs of this pair that have not ended."""
    sql = (f"SELECT d.job_id FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE d.client = ? AND d.module = ? "
           f"AND d.done = 0 AND j.state NOT IN ({_FINAL}) ORDER BY d.job_id")
    return [row[0] for row in read().all(sql, (client, module))]


def get(number: int, tx: Tx | None = None) -> FrameworkJob | None:
    """One job by its number."""
    row = (tx or read()).one(f"SELECT {_BOTH} FROM job j JOIN dcluster_job d ON d.job_id = j.id WHERE j.id = ?", (number,))
    return _pair(row) if row else None


def page(*, states: Sequence[str] = (), goal: str = "", client: str = "", kind: str = "", limit: int = 100,
         offset: int = 0) -> list[FrameworkJob]:
    """Jobs, newest first."""
    where, args = ["j.source = ?"], [ORIGIN]  # type: tuple[list[str], list[Any]]
    if states:
        where.append(f"j.state IN ({', '.join('?' * len(states))})")
        args += states
    if goal:
        where.append("j.goal = ?")
        args.append(goal)
    for name, value in (("client", client), ("kind", kind)):
        if value:
            where.append(f"d.{name} = ?")
            args.append(value)
    sql = (f"SELECT {_BOTH} FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE {' AND '.join(where)} "
           "ORDER BY d.job_id DESC LIMIT ? OFFSET ?")
    return [_pair(row) for row in read().all(sql, (*args, limit, offset))]


_NEW = "EXISTS (SELECT 1 FROM job j WHERE j.id = dcluster_job.job_id AND j.state = 'pending' AND j.attempt = 0)"


def any_new(tx: Tx, at: float) -> bool:
    """Is a job due that was never given to its cluster?"""
    sql = f"SELECT 1 FROM dcluster_job WHERE done = 0 AND not_before <= ? AND lease_until < ? AND {_NEW} LIMIT 1"
    return tx.one(sql, (at, at)) is not None


def claim(tx: Tx, *, holder: str, at: float, lease_s: float, limit: int, new: bool = False) -> list[FrameworkJob]:
    """Lease jobs that are due and in nobody's hands, the longest due first, then the oldest. `new`: those alone that were
    never given to their cluster."""
    rows = tx.all("SELECT job_id FROM dcluster_job WHERE done = 0 AND not_before <= ? AND lease_until < ? "
                  f"{'AND ' + _NEW if new else ''} ORDER BY not_before, job_id LIMIT ?{tx.for_update}", (at, at, limit))
    ids = [row[0] for row in rows]
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    # Who wakes it from now on sets 0: `unlease` leaves that.
    tx.run(f"UPDATE dcluster_job SET lease_holder = ?, lease_until = ?, not_before = ? WHERE job_id IN ({marks})",
           (holder, at + lease_s, at + lease_s, *ids))
    sql = f"SELECT {_BOTH} FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE d.job_id IN ({marks}) ORDER BY d.job_id"
    return [_pair(row) for row in tx.all(sql, ids)]


def update(tx: Tx, number: int, *, lease: str | None = None, at: float = 0.0, **facts: Any) -> bool:
    """Set columns; `lease`: only while this holder has the job. False when that does not hold."""
    where, args = "job_id = ?", [number]  # type: tuple[str, list[Any]]
    if lease is not None:
        where += " AND lease_holder = ? AND lease_until >= ?"
        args += [lease, at]
    sets = ", ".join(f"{name} = ?" for name in facts)
    return bool(tx.run(f"UPDATE dcluster_job SET {sets} WHERE {where}", (*facts.values(), *args)).rowcount == 1)


def say(tx: Tx, number: int, reason: str | None, *, lease: str, at: float) -> bool:
    """What keeps a job that is under way waiting, for its readers; only while this holder has it."""
    sql = ("UPDATE job SET reason = ? WHERE id = ? AND state IN ('assigned', 'running') AND EXISTS (SELECT 1 FROM dcluster_job d "
           "WHERE d.job_id = job.id AND d.lease_holder = ? AND d.lease_until >= ?)")
    return bool(tx.run(sql, (reason, number, lease, at)).rowcount == 1)


def unlease(tx: Tx, number: int, *, holder: str, not_before: float) -> bool:
    """Let go of it until `not_before`, unless it was woken meanwhile. False when the lease is lost."""
    sql = ("UPDATE dcluster_job SET lease_until = 0, not_before = CASE WHEN not_before = 0 THEN 0 ELSE ? END WHERE job_id = ? "
           "AND lease_holder = ?")
    return bool(tx.run(sql, (not_before, number, holder)).rowcount == 1)


def wake(tx: Tx, cluster_id: int) -> None:
    """All jobs on a cluster are looked at at once."""
    tx.run("UPDATE dcluster_job SET not_before = 0 WHERE cluster_id = ? AND done = 0 AND not_before > 0", (cluster_id,))


def wake_waiting(tx: Tx, cluster_id: int, *, limit: int) -> None:
    """There is a place on a cluster: the oldest jobs that wait for it are looked at at once."""
    tx.run("UPDATE dcluster_job SET not_before = 0 WHERE not_before > 0 AND job_id IN (SELECT job_id FROM dcluster_job "
           "WHERE cluster_id = ? AND done = 0 AND submitted_at IS NULL AND active IS NOT NULL ORDER BY job_id LIMIT ?)",
           (cluster_id, limit))


def told_to_stop(tx: Tx, pausing_until: float) -> list[int]:
    """Jobs that pause for longer than that though they are to be cancelled, or have ended."""
    sql = ("SELECT d.job_id FROM dcluster_job d WHERE d.done = 0 AND d.not_before > ? AND d.lease_until = 0 AND NOT EXISTS "
           f"(SELECT 1 FROM job j WHERE j.id = d.job_id AND j.state NOT IN ({_FINAL}) "
           "AND (j.goal <> 'cancel' OR j.state NOT IN ('assigned', 'running')))")
    return [row[0] for row in tx.all(sql, (pausing_until,))]


def pick_up(tx: Tx, ids: Sequence[int], at: float) -> None:
    """These are due now, unless they are about to be looked at anyway."""
    tx.many("UPDATE dcluster_job SET not_before = 0 WHERE job_id = ? AND not_before > ?", [(number, at) for number in ids])


def of_cluster(tx: Tx, cluster_id: int) -> list[Row]:
    """(job, state, goal) of jobs on a cluster that have not ended."""
    return tx.all(f"SELECT j.id, j.state, j.goal FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE d.cluster_id = ? "
                  f"AND d.done = 0 AND j.state NOT IN ({_FINAL}) ORDER BY j.id", (cluster_id,))


def take_slot(tx: Tx, number: int, *, cluster_id: int | None, address: str, most: int, at: float, holder: str) -> bool:
    """The job is handed to its cluster now, when fewer than `most` are there and no older one waits for the place."""
    same, key = ("cluster_id = ?", cluster_id) if cluster_id is not None else ("cluster_id IS NULL AND address = ?", address)
    if tx.pg and cluster_id is not None:
        tx.run("SELECT 1 FROM cluster WHERE id = ? FOR UPDATE", (cluster_id,))
    there, older = tx.one(
        "SELECT count(CASE WHEN d.submitted_at IS NOT NULL THEN 1 END), "
        "count(CASE WHEN d.submitted_at IS NULL AND d.job_id < ? AND j.state = 'assigned' AND j.goal = 'run' THEN 1 END) "
        f"FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE d.done = 0 AND d.job_id <> ? AND {same}",
        (number, number, key)) or (0, 0)
    if there + older >= most:
        return False
    return update(tx, number, lease=holder, at=at, submitted_at=at)


def overdue(at: float, default_after_s: float) -> list[FrameworkJob]:
    """Running jobs that take longer than they should and were not told of yet."""
    sql = (f"SELECT {_BOTH} FROM dcluster_job d JOIN job j ON j.id = d.job_id WHERE d.done = 0 AND d.alerted_at IS NULL "
           "AND j.state = 'running' AND j.started_at + COALESCE(d.alert_after_s, ?) < ? ORDER BY j.id")
    return [_pair(row) for row in read().all(sql, (default_after_s, at))]


def note_alert(tx: Tx, number: int, at: float) -> bool:
    """It is told of now; False when it was before."""
    return bool(tx.run("UPDATE dcluster_job SET alerted_at = ? WHERE job_id = ? AND alerted_at IS NULL", (at, number)).rowcount)


def forget(tx: Tx, *, clusters_before: float | None, limit: int = 2000) -> None:
    """Rows whose jobs retention has removed go; so do clusters that ended before a time."""
    tx.run("DELETE FROM dcluster_job WHERE job_id IN (SELECT d.job_id FROM dcluster_job d LEFT JOIN job j ON j.id = d.job_id "
           "WHERE j.id IS NULL LIMIT ?)", (limit,))
    if clusters_before is not None:
        tx.run("DELETE FROM cluster WHERE id IN (SELECT id FROM cluster WHERE state IN ('terminated', 'failed') AND origin = ? "
               "AND ended_at < ? LIMIT ?)", (ORIGIN, clusters_before, limit))


# clusters


def is_free(tx: Tx, key: str) -> bool:
    """Has no cluster this name, nor had?"""
    return tx.one("SELECT 1 FROM cluster WHERE key = ?", (key,)) is None


def long_living(tx: Tx, name: str, kind: str, tenant: str) -> Cluster | None:
    """The tenant's cluster of this name that lives and is to live on."""
    sql = (f"SELECT {CLUSTER_COLUMNS} FROM cluster WHERE name = ? AND org = ? AND origin = ? AND kind = ? AND goal = 'run' "
           "AND state IN ('pending', 'launching', 'running', 'degraded') ORDER BY id DESC LIMIT 1")
    row = tx.one(sql, (name, tenant, ORIGIN, kind))
    return Cluster(*row) if row else None


def cluster(tx: Tx, number: int) -> Cluster | None:
    """One cluster, as this transaction sees it."""
    row = tx.one(f"SELECT {CLUSTER_COLUMNS} FROM cluster WHERE id = ?", (number,))
    return Cluster(*row) if row else None


def any_waiting(tx: Tx) -> bool:
    """Does a cluster wait to be launched?"""
    return tx.one("SELECT 1 FROM cluster WHERE state = 'pending' AND origin = ? AND goal = 'run' LIMIT 1", (ORIGIN,)) is not None


def waiting(tx: Tx, *, each: int) -> list[Row]:
    """(id, org, spec) of the oldest clusters that wait to be launched, up to `each` of every tenant, in order."""
    sql = ("SELECT id, org, spec FROM cluster WHERE id IN (SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY org "
           "ORDER BY id) AS place FROM cluster WHERE state = 'pending' AND origin = ? AND goal = 'run') AS q WHERE place <= ?) "
           "ORDER BY id")
    return tx.all(sql, (ORIGIN, each))


def taking_room(tx: Tx) -> list[Row]:
    """(org, spec) of clusters that take room now."""
    return tx.all(f"SELECT org, spec FROM cluster WHERE state IN {_UP} AND origin = ?", (ORIGIN,))


def outlived(tx: Tx) -> list[Row]:
    """(cluster, job, state of the job) of clusters that were for a job that has ended."""
    sql = ("SELECT c.id, c.job_id, j.state FROM cluster c JOIN job j ON j.id = c.job_id WHERE c.origin = ? AND c.goal = 'run' "
           f"AND c.state IN ('pending', 'launching', 'running', 'degraded') AND j.state IN ({_FINAL})")
    return tx.all(sql, (ORIGIN,))


def idle(tx: Tx, at: float) -> list[Row]:
    """(cluster, idle limit) of clusters that run nothing for longer than they may."""
    sql = ("SELECT id, idle_limit_s FROM cluster WHERE origin = ? AND goal = 'run' AND state IN ('running', 'degraded') "
           "AND idle_since IS NOT NULL AND idle_limit_s > 0 AND idle_since + idle_limit_s <= ? AND NOT EXISTS "
           "(SELECT 1 FROM dcluster_job d WHERE d.cluster_id = cluster.id AND d.done = 0)")
    return tx.all(sql, (ORIGIN, at))


def look_again(tx: Tx) -> None:
    """Every cluster that is up is looked at at once, and mended though that was given up."""
    tx.run("UPDATE cluster SET not_before = 0, attempts = CASE WHEN state = 'degraded' THEN 0 ELSE attempts END "
           f"WHERE origin = ? AND state IN {_UP}", (ORIGIN,))


def not_looked_at() -> int:
    """How many of them were not looked at since `look_again`."""
    return int(read().value(f"SELECT count(*) FROM cluster WHERE origin = ? AND state IN {_UP} AND not_before = 0", (ORIGIN,)))


def live_keys() -> dict[str, str]:
    """key -> state of all clusters that have not ended."""
    sql = "SELECT key, state FROM cluster WHERE origin = ? AND state NOT IN ('terminated', 'failed')"
    return {row[0]: row[1] for row in read().all(sql, (ORIGIN,))}


def counts() -> dict[str, int]:
    """state -> how many clusters."""
    return {row[0]: int(row[1]) for row in read().all("SELECT state, count(*) FROM cluster WHERE origin = ? GROUP BY state",
                                                      (ORIGIN,))}


def renew(tx: Tx, noun: str, ids: Sequence[int], *, holder: str, until: float) -> None:
    """Extend the leases of clusters or jobs whose calls take long."""
    table, column = ("cluster", "id") if noun == "cluster" else ("dcluster_job", "job_id")
    tx.many(f"UPDATE {table} SET lease_until = ? WHERE {column} = ? AND lease_holder = ? AND lease_until > 0",
            [(until, number, holder) for number in ids])


def any_due(tx: Tx, at: float) -> bool:
    """Is a cluster or a job due and in nobody's hands?"""
    live = ", ".join(f"'{state}'" for state in moves.CLUSTER_LIVE)
    due = "not_before <= ? AND lease_until < ? LIMIT 1"
    due_clusters = f"cluster{tx.using('cluster_due')}"
    return (tx.one(f"SELECT 1 FROM {due_clusters} WHERE state IN ({live}) AND origin = ? AND {due}", (ORIGIN, at, at)) is not None
            or tx.one("SELECT 1 FROM dcluster_job WHERE done = 0 AND not_before <= ? AND lease_until < ? LIMIT 1",
                      (at, at)) is not None)
