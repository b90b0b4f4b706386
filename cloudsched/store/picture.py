"""What does the scheduling job read? The live nodes and the queue by shape, in a few indexed statements.

The cost depends on the number of shapes and nodes, not on the number of queued jobs (but for counting them, which is one
pass over a covering index).
"""

from __future__ import annotations

from cloudsched.store.db import Row, Tx

NODE_COLUMNS = (
    "id, cloud_id, \"user\", vm_type, cores, memory_mb, storage_gb, network, status, override, force_retire, retired, state, "
    "goal, job_per_core, image, boot_requested_at, running_at, hostname, name, address, slot_name, slot_address, "
    "master_address, registered_at, idle_since, keep_alive_s, error_count, last_seen_at, instance, slots, status_changed_at, "
    "lease_holder, lease_until"
)


def live_nodes(tx: Tx) -> list[Row]:
    """All nodes that are not ended, as tuples of NODE_COLUMNS in boot order."""
    return tx.all(f"SELECT {NODE_COLUMNS} FROM node WHERE state IN ('requested', 'starting', 'running', 'stopping') ORDER BY id")


def ending_nodes(tx: Tx) -> list[Row]:
    """(id, facts, run_times) of live nodes whose machine, or whose credentials, say when they end."""
    return tx.all("SELECT id, facts, run_times FROM node WHERE state IN ('requested', 'starting', 'running', 'stopping') "
                  "AND facts LIKE '%expires_at%'")


def queued_counts(tx: Tx) -> dict[int, int]:
    """shape -> queued jobs (Scheduled or not, banned or not)."""
    sql = f"SELECT shape_id, count(*) FROM job{tx.using('job_queue')} WHERE state = 'queued' GROUP BY shape_id"
    return {row[0]: int(row[1]) for row in tx.all(sql)}


def placed_jobs(tx: Tx) -> list[Row]:
    """(shape_id, id, priority) of queued jobs that are Scheduled: first to be unscheduled first."""
    return tx.all(f"SELECT shape_id, id, priority FROM job{tx.using('job_placed')} "
                  "WHERE state = 'queued' AND placed = 1 ORDER BY priority, id DESC")


def banned_jobs(tx: Tx, at: float) -> list[Row]:
    """(shape_id, id) of queued, Unscheduled jobs under a ban."""
    return tx.all(f"SELECT shape_id, id FROM job{tx.using('job_banned')} WHERE ban_until IS NOT NULL AND ban_until > ? "
                  "AND state = 'queued' AND placed = 0", (at,))


def running_by_shape(tx: Tx) -> dict[int, int]:
    """shape -> jobs in the hands of nodes."""
    sql = "SELECT shape_id, count(*) FROM job WHERE state IN ('assigned', 'running') GROUP BY shape_id"
    return {row[0]: int(row[1]) for row in tx.all(sql)}


def external_running(tx: Tx) -> list[Row]:
    """(id, shape_id, remote_host, node_id, placed) of running jobs of an external batch system."""
    return tx.all("SELECT id, shape_id, remote_host, node_id, placed FROM job WHERE state = 'running' AND source <> 'queue' "
                  "AND batch_status IS NOT NULL")


def heads(tx: Tx, shape_id: int, *, at: float, limit: int) -> list[Row]:
    """(id, priority, queued_at) of the first Unscheduled jobs of a shape that are not banned."""
    return tx.all(
        "SELECT id, priority, queued_at FROM job WHERE shape_id = ? AND state = 'queued' AND placed = 0 "
        "AND (ban_until IS NULL OR ban_until <= ?) ORDER BY priority DESC, id LIMIT ?", (shape_id, at, limit))


def first_waiting(tx: Tx, *, at: float, limit: int) -> list[tuple[int, int]]:
    """(id, shape_id) of the oldest Unscheduled jobs (first in, first out)."""
    return [(row[0], row[1]) for row in tx.all(
        "SELECT id, shape_id FROM job WHERE state = 'queued' AND placed = 0 AND (ban_until IS NULL OR ban_until <= ?) "
        "ORDER BY id LIMIT ?", (at, limit))]


def blocks(tx: Tx, at: float) -> list[Row]:
    """(job_id, cloud name, shape_id): not to be tried now."""
    return tx.all("SELECT b.job_id, c.name, (SELECT shape_id FROM job WHERE id = b.job_id) FROM job_block b "
                  "JOIN cloud c ON c.id = b.cloud_id WHERE b.until > ?", (at,))


def busy_nodes(tx: Tx) -> dict[int, tuple[int, int]]:
    """node -> (jobs in hand, one of them)."""
    sql = (f"SELECT node_id, count(*), max(id) FROM job{tx.using('job_in_hand')} WHERE state IN ('assigned', 'running') "
           "AND node_id IS NOT NULL GROUP BY node_id")
    return {row[0]: (int(row[1]), int(row[2])) for row in tx.all(sql)}
