"""How are long lists read? Keyset pages of jobs as plain tuples, and the small tables that go beside them.

A page costs the same wherever it lies: each wanted state is read from its own index in order, then merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from cloudsched.store.db import Row, read
from cloudsched.store.jobs import CUT, conditions

JOB_COLUMNS = (
    'id, source, key, batch_id, proc, name, "user", org, kind, shape_id, state, goal, priority, placed, node_id, '
    "attempt, retries, max_retries, backoff_s, time_limit_s, needs, depends_fail, not_before, submitted_at, "
    "queued_at, started_at, ended_at, exit_code, signal, reason, ran_s, cpu_s, max_rss_mb, result, spec, "
    "attributes, retry_of, override, ban_until, label"
)
_STREAMS = [f"'{stream}{end}'" for stream in ("stdout", "stderr") for end in ("", CUT)]


def job_rows(*, states: Sequence[str] = (), after: int | None = None, newest_first: bool = True,
             limit: int = 100, **equal: Any) -> list[Row]:
    """A page of jobs (JOB_COLUMNS), keyset-paged by id. Filters: user, vm_type, batch (number or label), node
    (number), source, name."""
    tx = read()
    where, args = conditions(equal)
    if after is not None:
        where.append("id < ?" if newest_first else "id > ?")
        args.append(after)
    order = "id DESC" if newest_first else "id"
    parts, all_args = [], []
    for state in states or (None,):
        own = where if state is None else ["state = ?", *where]
        condition = " WHERE " + " AND ".join(own) if own else ""
        parts.append(f"SELECT {JOB_COLUMNS} FROM job{condition} ORDER BY {order} LIMIT ?")
        all_args += [*([] if state is None else [state]), *args, limit]
    if len(parts) == 1:
        return tx.all(parts[0], all_args)
    union = " UNION ALL ".join(f"SELECT * FROM ({part}) AS s{index}" for index, part in enumerate(parts))
    return tx.all(f"{union} ORDER BY {order} LIMIT ?", (*all_args, limit))


def job_row(number: int) -> Row | None:
    """One job (JOB_COLUMNS)."""
    return read().one(f"SELECT {JOB_COLUMNS} FROM job WHERE id = ?", (number,))


def output_sizes(ids: Sequence[int]) -> tuple[dict[tuple[int, int, str], int], set[tuple[int, int, str]]]:
    """(job, attempt, stream) -> bytes of stdout and stderr, for those that have any; and those of which more came."""
    if not ids:
        return {}, set()
    sql = (f'SELECT job_id, attempt, name, max("offset" + size) FROM job_data WHERE job_id IN ({_marks(ids)}) '
           f"AND attempt > 0 AND name IN ({', '.join(_STREAMS)}) GROUP BY job_id, attempt, name")
    sizes, cut = {}, set()
    for number, attempt, name, size in read().all(sql, ids):
        if name.endswith(CUT):
            cut.add((number, attempt, name.removesuffix(CUT)))
        else:
            sizes[number, attempt, name] = int(size)
    return sizes, cut


def open_needs(ids: Sequence[int]) -> list[Row]:
    """(job, on, kind) of dependencies not met yet."""
    if not ids:
        return []
    sql = f"SELECT job_id, on_id, kind FROM job_need WHERE job_id IN ({_marks(ids)}) ORDER BY job_id, on_id"
    return read().all(sql, ids)


def node_places(ids: Iterable[int]) -> dict[int, tuple[str, str]]:
    """node id -> (node name, cloud name), ended nodes included."""
    wanted = list(ids)
    if not wanted:
        return {}
    sql = ("SELECT n.id, n.name, COALESCE(c.name, '') FROM node n LEFT JOIN cloud c ON c.id = n.cloud_id "
           f"WHERE n.id IN ({_marks(wanted)})")
    return {number: (name, cloud) for number, name, cloud in read().all(sql, wanted)}


def jobs_on(node_ids: Sequence[int]) -> dict[int, list[int]]:
    """node id -> jobs it holds, in order."""
    found: dict[int, list[int]] = {}
    if node_ids:
        sql = (f"SELECT node_id, id FROM job WHERE state IN ('assigned', 'running') AND node_id IN ({_marks(node_ids)}) "
               "ORDER BY id")
        for number, job in read().all(sql, tuple(node_ids)):
            found.setdefault(number, []).append(job)
    return found


def node_id_of(name: str) -> int | None:
    """The number of a node by name."""
    found = read().value("SELECT id FROM node WHERE name = ?", (name,))
    return None if found is None else int(found)


def node_counts() -> list[tuple[str, str, int]]:
    """(cloud name, state, number of nodes) of all nodes that are not ended, and the ended ones of today's table."""
    sql = ("SELECT COALESCE(c.name, ''), n.state, count(*) FROM node n LEFT JOIN cloud c ON c.id = n.cloud_id "
           "GROUP BY c.name, n.state ORDER BY 1, 2")
    return [(cloud, state, int(count)) for cloud, state, count in read().all(sql)]


def boot_failures(job_id: int, *, limit: int = 20) -> list[Row]:
    """(cloud, code, text, at) of the latest failed boots for a job, newest first."""
    sql = "SELECT cloud, code, text, at FROM job_boot_failure WHERE job_id = ? ORDER BY id DESC LIMIT ?"
    return read().all(sql, (job_id, limit))


def blocks(job_id: int, at: float) -> list[Row]:
    """(cloud name, until) of clouds that are not tried for a job now."""
    sql = ("SELECT c.name, b.until FROM job_block b JOIN cloud c ON c.id = b.cloud_id "
           "WHERE b.job_id = ? AND b.until > ? ORDER BY c.name")
    return read().all(sql, (job_id, at))


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
