"""What does the classic picture of the pool need from the tables? Job lists by batch status, boot failures, blocks.

Each list is a handful of short queries that an index answers, so that its cost follows its length and not the length
of the job table.
"""

from __future__ import annotations

from collections.abc import Sequence

from cloudsched.domain.entities import Job, Node
from cloudsched.domain.frameworks import SOURCE
from cloudsched.store import jobs, nodes
from cloudsched.store.db import Row, Tx, read

# Finished jobs are kept for months; a listing of them stops at the newest.
FINISHED_LISTED = 10_000
_ALL = 2**62

_LISTED = 'id, source, key, "user", shape_id, state, batch_status, placed, override, node_id'
_HIGH = "shape_id IN (SELECT id FROM shape WHERE high_priority <> 0)"
_WAITING = ("pending", "queued")
_ACTIVE = ("assigned", "running")
_ENDED = ("succeeded", "failed", "timeout")

# Name of the list -> conditions on our jobs (one query each), and the one on jobs of another batch system: those alone have
# a `batch_status`; jobs of Spark and Flink clusters are ours, and idle until they run on theirs.
# Contract 5.4; held and ended jobs count in `held`, `complete` and `high` alone (B22).
_LISTS: dict[str, tuple[tuple[str, ...], str]] = {
    "new": (tuple(f"state = '{state}' AND placed = 0" for state in _WAITING), "batch_status < 2 AND placed = 0"),
    "sched": ((*(f"state = '{state}'" for state in _ACTIVE),
               *(f"state = '{state}' AND placed = 1" for state in _WAITING)),
              "(batch_status = 2 OR (batch_status < 2 AND placed = 1))"),
    "idle": ((*(f"state = '{state}'" for state in _WAITING), f"state = 'assigned' AND source = '{SOURCE}'"),
             "batch_status = 1"),
    "running": (("state = 'running'", f"state = 'assigned' AND source <> '{SOURCE}'"), "batch_status = 2"),
    "complete": (tuple(f"state = '{state}'" for state in _ENDED), "batch_status = 4"),
    "held": (("state = 'held'",), "batch_status = 5"),
    "high": ((_HIGH,), _HIGH),
}
LISTS = tuple(_LISTS)


def job_rows(which: str) -> list[Row]:
    """The jobs of one list in ascending id, as (id, source, key, user, shape_id, state, batch_status, placed, override,
    node_id). `complete` and `high` stop at the newest `FINISHED_LISTED` of each state."""
    rows = [row for where in _conditions(which) for row in _select(_LISTED, where, limit=_limit(which))]
    rows.sort()
    return rows


def jobs_of(which: str) -> list[Job]:
    """The same with every column."""
    rows = [row for where in _conditions(which) for row in _select(jobs.COLUMNS, where, limit=_limit(which))]
    rows.sort(key=lambda row: row[0])
    return [Job(*row) for row in rows]


def job_count(which: str) -> int:
    """How many jobs a list has (no end at the newest here)."""
    return sum(int(read().value(f"SELECT count(*) FROM job WHERE {where}")) for where in _conditions(which))


def _conditions(which: str) -> list[str]:
    if which == "high" and not read().value("SELECT count(*) FROM shape WHERE high_priority <> 0"):
        return []
    built_in, external = _LISTS[which]
    return [*(f"batch_status IS NULL AND {where}" for where in built_in),
            f"source <> 'queue' AND batch_status IS NOT NULL AND {external}"]


def _limit(which: str) -> int:
    return FINISHED_LISTED if which in ("complete", "high") else _ALL


def _select(columns: str, where: str, *, limit: int) -> list[Row]:
    return read().all(f"SELECT {columns} FROM job WHERE {where} ORDER BY id DESC LIMIT ?", (limit,))


def job_by_key(key: str) -> Job | None:
    """The job with this id, built in or of another batch system."""
    job = jobs.by_key("queue", key)
    if job is not None:
        return job
    row = read().one(f"SELECT {jobs.COLUMNS} FROM job WHERE source <> 'queue' AND key = ? ORDER BY id DESC", (key,))
    return Job(*row) if row else None


def blocks(at: float, job_id: int | None = None) -> dict[int, list[tuple[str, float]]]:
    """job -> (cloud, until) of the clouds that are not tried for it now."""
    sql = ("SELECT b.job_id, c.name, b.until FROM job_block b JOIN cloud c ON c.id = b.cloud_id WHERE b.until > ?"
           + ("" if job_id is None else " AND b.job_id = ?") + " ORDER BY b.job_id, c.position, c.id")
    found: dict[int, list[tuple[str, float]]] = {}
    for number, cloud, until in read().all(sql, (at,) if job_id is None else (at, job_id)):
        found.setdefault(number, []).append((cloud, until))
    return found


def boot_failures() -> list[tuple[str, str]]:
    """(job key, reason) in the order of jobs, then of failures (T11)."""
    sql = "SELECT j.key, f.text FROM job_boot_failure f JOIN job j ON j.id = f.job_id ORDER BY f.job_id, f.id"
    return [(row[0], row[1]) for row in read().all(sql)]


def jobs_with_credentials(user: str) -> list[Job]:
    """Jobs of the user that have not ended and name MyProxy credentials (contract 4.12)."""
    sql = (f"SELECT {jobs.COLUMNS} FROM job WHERE \"user\" = ? AND attributes LIKE '%myproxy_creds_name%' "
           "AND state IN ('pending', 'held', 'queued', 'assigned', 'running') ORDER BY id")
    return [Job(*row) for row in read().all(sql, (user,))]


def nodes_with_credentials(user: str) -> list[Node]:
    """Live nodes of the user that name MyProxy credentials."""
    sql = (f"SELECT {nodes.COLUMNS} FROM node WHERE \"user\" = ? AND facts LIKE '%myproxy_creds_name%' "
           f"AND state IN {nodes.LIVE} ORDER BY id")
    return [Node(*row) for row in read().all(sql, (user,))]


def node_clouds(ids: Sequence[int]) -> dict[int, str]:
    """node -> name of its cloud, for these nodes."""
    found: dict[int, str] = {}
    for start in range(0, len(ids), 500):
        some = ids[start:start + 500]
        sql = ("SELECT n.id, c.name FROM node n JOIN cloud c ON c.id = n.cloud_id "
               f"WHERE n.id IN ({', '.join('?' * len(some))})")
        found.update((row[0], row[1]) for row in read().all(sql, some))
    return found


def states_of(ids: Sequence[int]) -> dict[int, str]:
    """node -> state, for these nodes."""
    found: dict[int, str] = {}
    for start in range(0, len(ids), 500):
        some = ids[start:start + 500]
        sql = f"SELECT id, state FROM node WHERE id IN ({', '.join('?' * len(some))})"
        found.update((row[0], row[1]) for row in read().all(sql, some))
    return found


def failed_destroys(after: int) -> set[int]:
    """Nodes whose destroy failed since event `after`."""
    sql = "SELECT subject_id FROM event WHERE id > ? AND subject_kind = 'node' AND kind = 'node.destroy_fail'"
    return {row[0] for row in read().all(sql, (after,))}


def lock_cloud(tx: Tx, number: int) -> Row | None:
    """(state, max_slots) of a cloud, locked until the transaction ends."""
    return tx.one("SELECT state, max_slots FROM cloud WHERE id = ?" + tx.lock_rows, (number,))


def next_position(tx: Tx) -> int:
    """Where a new cloud stands in the order of clouds."""
    return int(tx.value("SELECT COALESCE(max(position), -1) + 1 FROM cloud"))


def toggle(tx: Tx, key: str) -> bool:
    """Flip the kept flag `key` ("1" on, "0" off; missing = off) and return what it is now."""
    sql = ("INSERT INTO setting (key, value) VALUES (?, '1') ON CONFLICT (key) DO UPDATE SET "
           "value = CASE setting.value WHEN '1' THEN '0' ELSE '1' END RETURNING value")
    return bool(tx.value(sql, (key,)) == "1")


