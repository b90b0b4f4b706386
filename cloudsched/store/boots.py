"""What do the boot and destroy workers keep? Due rows, failures, bans and blocks."""

from __future__ import annotations

from cloudsched.domain.entities import Node
from cloudsched.store import events, nodes
from cloudsched.store.db import Row, Tx

_DUE = {"boot": "state = 'requested' AND goal = 'run'", "destroy": "state = 'stopping'"}


def has_due(tx: Tx, kind: str, at: float) -> bool:
    """Is there a node to boot (or destroy) that nobody works on?"""
    return tx.one(f"SELECT 1 FROM node WHERE {_DUE[kind]} AND lease_until < ? LIMIT 1", (at,)) is not None


def claim_due(tx: Tx, kind: str, *, holder: str, at: float, lease_s: float, limit: int) -> list[Node]:
    """Lease nodes to boot or destroy."""
    return nodes.claim(tx, _DUE[kind], (), holder=holder, at=at, lease_s=lease_s, limit=limit)


def used(tx: Tx, cloud_id: int) -> tuple[int, int, int]:
    """(nodes, memory_mb, storage_gb) charged to a cloud now."""
    row: Row | None = tx.one(
        "SELECT count(*), COALESCE(sum(memory_mb), 0), COALESCE(sum(storage_gb), 0) FROM node WHERE cloud_id = ? AND retired = 0 "
        "AND state IN ('requested', 'starting', 'running', 'stopping')", (cloud_id,))
    assert row is not None
    return int(row[0]), int(row[1]), int(row[2])


def add_failure(tx: Tx, job_id: int, *, cloud: str, code: int, text: str, at: float) -> None:
    """One more reason why no machine came up for a job (T11)."""
    tx.run("INSERT INTO job_boot_failure (job_id, cloud, code, text, at) VALUES (?, ?, ?, ?, ?)", (job_id, cloud, code, text, at))


def clear_failures(tx: Tx, job_id: int) -> None:
    """A boot succeeded: the reasons are history."""
    tx.run("DELETE FROM job_boot_failure WHERE job_id = ?", (job_id,))


def failed_clouds(tx: Tx, job_id: int) -> list[str]:
    """Clouds on which the job's boots failed since the last success."""
    return [row[0] for row in tx.all("SELECT DISTINCT cloud FROM job_boot_failure WHERE job_id = ?", (job_id,))]


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


def to_lift(tx: Tx, at: float) -> bool:
    """Is there a ban or block whose time is over?"""
    return (tx.one("SELECT 1 FROM job WHERE ban_until IS NOT NULL AND ban_until <= ? LIMIT 1", (at,)) is not None
            or tx.one("SELECT 1 FROM job_block WHERE until <= ? LIMIT 1", (at,)) is not None)


def lift(tx: Tx, at: float) -> int:
    """End bans and blocks whose time is over; returns how many jobs are free again."""
    rows = tx.all("SELECT id FROM job WHERE ban_until IS NOT NULL AND ban_until <= ?", (at,))
    for (number,) in rows:
        tx.run("UPDATE job SET ban_until = NULL, override = NULL WHERE id = ?", (number,))
        events.append(tx, "job.unban", ("job", number), at=at)
    tx.run("DELETE FROM job_block WHERE until <= ?", (at,))
    return len(rows)
