"""What do the boot and destroy workers keep? Due rows, leases, failures, bans and blocks; and what is cleared away."""

from __future__ import annotations

from collections.abc import Sequence

from cloudsched.domain.entities import Node
from cloudsched.store import events, nodes
from cloudsched.store.db import Row, Tx

# Reasons kept per job for T11; a job that fails each cycle for days would fill the table.
FAILURES_KEPT = 20
_DUE = {"boot": "state = 'requested' AND goal = 'run'", "destroy": "state = 'stopping'"}


def has_due(tx: Tx, kind: str, at: float) -> bool:
    """Is there a node to boot (or destroy) that nobody works on?"""
    return tx.one(f"SELECT 1 FROM node WHERE {_DUE[kind]} AND lease_until < ? LIMIT 1", (at,)) is not None


def claim_due(tx: Tx, kind: str, *, holder: str, at: float, lease_s: float, limit: int) -> list[Node]:
    """Lease nodes to boot or destroy."""
    return nodes.claim(tx, _DUE[kind], (), holder=holder, at=at, lease_s=lease_s, limit=limit)


def renew(tx: Tx, ids: Sequence[int], *, holder: str, until: float) -> None:
    """A call takes longer than the lease: it is still worked on. A lease that another took is left alone."""
    tx.many("UPDATE node SET lease_until = ? WHERE id = ? AND lease_holder = ?", [(until, number, holder) for number in ids])


def boot_under_way(tx: Tx, number: int, at: float) -> bool:
    """Is somebody booting this node now? Locks the row, so that the answer holds until the transaction ends."""
    row = tx.one("SELECT state, lease_until FROM node WHERE id = ?" + tx.lock_rows, (number,))
    return row is not None and row[0] == "requested" and row[1] >= at


def used(tx: Tx, cloud_id: int) -> tuple[int, int, int]:
    """(nodes, memory_mb, storage_gb) charged to a cloud now."""
    row: Row | None = tx.one(
        "SELECT count(*), COALESCE(sum(memory_mb), 0), COALESCE(sum(storage_gb), 0) FROM node WHERE cloud_id = ? AND retired = 0 "
        "AND state IN ('requested', 'starting', 'running', 'stopping')", (cloud_id,))
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def held_jobs(tx: Tx, node_id: int) -> list[tuple[int, int]]:
    """(job, attempt) of the built-in queue in the hands of a node."""
    return [(row[0], row[1]) for row in tx.all(
        "SELECT id, attempt FROM job WHERE node_id = ? AND state IN ('assigned', 'running') AND source = 'queue'", (node_id,))]


# what a failed boot leaves


def add_failure(tx: Tx, job_id: int, *, cloud: str, code: int, text: str, at: float) -> None:
    """One more reason why no machine came up for a job (T11)."""
    tx.run("INSERT INTO job_boot_failure (job_id, cloud, code, text, at) VALUES (?, ?, ?, ?, ?)", (job_id, cloud, code, text, at))
    tx.run("DELETE FROM job_boot_failure WHERE job_id = ? AND id NOT IN "
           "(SELECT id FROM job_boot_failure WHERE job_id = ? ORDER BY id DESC LIMIT ?)", (job_id, job_id, FAILURES_KEPT))


def failures(tx: Tx, job_id: int, cloud: str, *, since: float) -> int:
    """How often a cloud refused a job a machine since then (at most FAILURES_KEPT are known)."""
    sql = "SELECT count(*) FROM job_boot_failure WHERE job_id = ? AND cloud = ? AND at >= ?"
    return int(tx.value(sql, (job_id, cloud, since)))


def clear_failures(tx: Tx, job_id: int) -> None:
    """A boot succeeded: the reasons are history."""
    tx.run("DELETE FROM job_boot_failure WHERE job_id = ?", (job_id,))


def waits(tx: Tx, job_id: int) -> bool:
    """Is the job still waiting for a machine?"""
    return tx.one("SELECT 1 FROM job WHERE id = ? AND state = 'queued'", (job_id,)) is not None


def unplace(tx: Tx, job_id: int) -> None:
    """No machine is coming for this job: it is Unscheduled again."""
    tx.run("UPDATE job SET placed = 0 WHERE id = ? AND state = 'queued'", (job_id,))


def ban(tx: Tx, job_id: int, *, until: float, override: str, at: float) -> None:
    """The job is not tried until then."""
    if tx.run("UPDATE job SET ban_until = ?, override = ? WHERE id = ? AND state = 'queued'", (until, override, job_id)).rowcount:
        events.append(tx, "job.ban", ("job", job_id), at=at, until=until, override=override)


def block(tx: Tx, job_id: int, cloud_id: int, *, until: float) -> None:
    """The cloud is not tried for this job until then."""
    tx.run("INSERT INTO job_block (job_id, cloud_id, until) VALUES (?, ?, ?) "
           "ON CONFLICT (job_id, cloud_id) DO UPDATE SET until = excluded.until", (job_id, cloud_id, until))


# upkeep


# A job that runs or has ended needs no machine any more: why there was none is history.
_ANSWERED = ("job_id IN (SELECT f.job_id FROM job_boot_failure f LEFT JOIN job j ON j.id = f.job_id "
             "WHERE j.id IS NULL OR j.state NOT IN ('queued', 'pending', 'held'))")


def to_lift(tx: Tx, at: float) -> bool:
    """Is there a ban or block whose time is over, or a reason that nobody asks for any more?"""
    return (tx.one("SELECT 1 FROM job WHERE ban_until IS NOT NULL AND ban_until <= ? LIMIT 1", (at,)) is not None
            or tx.one("SELECT 1 FROM job_block WHERE until <= ? LIMIT 1", (at,)) is not None
            or tx.one(f"SELECT 1 FROM job_boot_failure WHERE {_ANSWERED} LIMIT 1") is not None)


def lift(tx: Tx, at: float) -> int:
    """End bans and blocks whose time is over; returns how many jobs are free again."""
    rows = tx.all("SELECT id FROM job WHERE ban_until IS NOT NULL AND ban_until <= ?", (at,))
    for (number,) in rows:
        tx.run("UPDATE job SET ban_until = NULL, override = NULL WHERE id = ?", (number,))
        events.append(tx, "job.unban", ("job", number), at=at)
    tx.run("DELETE FROM job_block WHERE until <= ?", (at,))
    tx.run(f"DELETE FROM job_boot_failure WHERE {_ANSWERED}")
    return len(rows)


def forget_nodes(tx: Tx, before: float, *, limit: int = 2000) -> int:
    """Delete nodes that ended before `before`; returns how many."""
    sql = ("DELETE FROM node WHERE id IN (SELECT id FROM node WHERE state IN ('gone', 'failed', 'released') AND ended_at < ? "
           "AND id NOT IN (SELECT node_id FROM job WHERE node_id IS NOT NULL AND state IN ('assigned', 'running')) LIMIT ?)")
    return int(tx.run(sql, (before, limit)).rowcount)


def forget_processes(tx: Tx, before: float) -> None:
    """Delete pulses and leases of engine processes that are long gone (their names hold a colon)."""
    tx.run("DELETE FROM loop WHERE name LIKE '%:%' AND COALESCE(last_cycle_at, created_at) < ?", (before,))
    tx.run("DELETE FROM lease WHERE name LIKE '%:%' AND until < ?", (before,))
