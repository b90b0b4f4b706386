"""How far has a job come? What an agent keeps with the server while it runs, for the next attempt."""

from __future__ import annotations

from collections.abc import Sequence

from cloudsched.store.db import Tx


def keep(tx: Tx, rows: Sequence[tuple[int, int, str]], *, at: float) -> None:
    """Keep (job, attempt, JSON); the newest one counts."""
    tx.many("INSERT INTO job_checkpoint (job_id, attempt, at, data) VALUES (?, ?, ?, ?) ON CONFLICT (job_id) DO UPDATE SET "
            "attempt = excluded.attempt, at = excluded.at, data = excluded.data",
            [(number, attempt, at, data) for number, attempt, data in rows])


def of(tx: Tx, ids: Sequence[int]) -> dict[int, str]:
    """job -> JSON, for those that have one."""
    if not ids:
        return {}
    marks = ", ".join("?" * len(ids))
    return {row[0]: row[1] for row in tx.all(f"SELECT job_id, data FROM job_checkpoint WHERE job_id IN ({marks})", ids)}


def forget(tx: Tx) -> int:
    """Those of jobs that have ended, or are gone."""
    return int(tx.run("DELETE FROM job_checkpoint WHERE job_id NOT IN (SELECT id FROM job WHERE state IN "
                      "('pending', 'held', 'queued', 'assigned', 'running'))").rowcount)
