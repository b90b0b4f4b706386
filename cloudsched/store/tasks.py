"""How are tasks read? Jobs under the filters of task lists, and what figures need, on indexes that exist anyway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from cloudsched.store.db import Row, read

ENDED = "('succeeded', 'failed', 'timeout', 'cancelled')"


class TaskRow(NamedTuple):
    """A job as task readers need it."""

    id: int
    kind: str
    state: str
    goal: str
    priority: int
    spec: str
    attributes: str
    time_limit_s: float | None
    node_id: int | None
    attempt: int
    submitted_at: float
    assigned_at: float | None
    started_at: float | None
    ended_at: float | None
    ran_s: float | None
    retries: int
    max_retries: int
    retry_of: int | None
    result: str | None
    reason: str | None
    exit_code: int | None
    cpu_s: float | None
    max_rss_mb: int | None
    shape_id: int
    user: str
    name: str


_COLUMNS = ('id, kind, state, goal, priority, spec, attributes, time_limit_s, node_id, attempt, submitted_at, assigned_at, '
            'started_at, ended_at, ran_s, retries, max_retries, retry_of, result, reason, exit_code, cpu_s, max_rss_mb, '
            'shape_id, "user", name')


class Wanted(NamedTuple):
    """Filters of a list; None or empty: any. `priorities`: (least, most), each may be None."""

    states: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    node_id: int | None = None
    pinned_shapes: tuple[int, ...] = ()
    since: float | None = None
    priorities: tuple[int | None, int | None] = (None, None)


def one(number: int) -> TaskRow | None:
    """One job."""
    row = read().one(f"SELECT {_COLUMNS} FROM job WHERE id = ?", (number,))
    return TaskRow(*row) if row else None


def many(numbers: Sequence[int]) -> list[TaskRow]:
    """Some jobs by number."""
    found: list[TaskRow] = []
    for begin in range(0, len(numbers), 500):
        part = numbers[begin:begin + 500]
        found += [TaskRow(*row) for row in read().all(f"SELECT {_COLUMNS} FROM job WHERE id IN ({_marks(part)})", part)]
    return found


def page(wanted: Wanted, *, limit: int, offset: int) -> list[TaskRow]:
    """Jobs under filters, newest first: each state from its own index, then merged."""
    tx, (where, args) = read(), _conditions(wanted)
    if len(wanted.states) <= 1:
        if wanted.states:
            where, args = ["state = ?", *where], [wanted.states[0], *args]
        sql = f"SELECT {_COLUMNS} FROM job{_where(where)} ORDER BY id DESC LIMIT ? OFFSET ?"
        return [TaskRow(*row) for row in tx.all(sql, (*args, limit, offset))]
    parts, all_args = [], []  # type: tuple[list[str], list[Any]]
    for index, state in enumerate(wanted.states):
        inner = f"SELECT {_COLUMNS} FROM job{_where(['state = ?', *where])} ORDER BY id DESC LIMIT ?"
        parts.append(f"SELECT * FROM ({inner}) AS s{index}")
        all_args += [state, *args, limit + offset]
    sql = f"{' UNION ALL '.join(parts)} ORDER BY id DESC LIMIT ? OFFSET ?"
    return [TaskRow(*row) for row in tx.all(sql, (*all_args, limit, offset))]


def counts(wanted: Wanted) -> dict[str, int]:
    """state -> jobs under the filters other than the state."""
    where, args = _conditions(wanted)
    return {row[0]: int(row[1]) for row in read().all(f"SELECT state, count(*) FROM job{_where(where)} GROUP BY state", args)}


def _conditions(wanted: Wanted) -> tuple[list[str], list[Any]]:
    where: list[str] = []
    args: list[Any] = []
    if wanted.kinds:
        where.append(f"kind IN ({_marks(wanted.kinds)})")
        args += wanted.kinds
    if wanted.node_id is not None:
        held = "(node_id = ? AND state NOT IN ('pending', 'held', 'queued'))"
        args.append(wanted.node_id)
        if wanted.pinned_shapes:
            held = f"({held} OR (state IN ('pending', 'held', 'queued') AND shape_id IN ({_marks(wanted.pinned_shapes)})))"
            args += wanted.pinned_shapes
        where.append(held)
    if wanted.since is not None:
        where += ["submitted_at >= ?", "id >= ?"]
        args += [wanted.since, first_since(wanted.since)]
    least, most = wanted.priorities
    if least is not None:
        where.append("priority >= ?")
        args.append(least)
    if most is not None:
        where.append("priority <= ?")
        args.append(most)
    return where, args


def first_since(at: float) -> int:
    """A number that no job submitted at `at` or later is below: numbers are handed out in the order of time, so halving
    finds it in a few steps. (Clocks that step back by less than a minute do no harm.)"""
    tx, wanted = read(), at - 60.0
    low, high = 0, int(tx.value("SELECT max(id) FROM job") or 0) + 1
    while low < high:
        middle = (low + high) // 2
        row = tx.one("SELECT id, submitted_at FROM job WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        if row is None or row[1] >= wanted:
            high = middle
        else:
            low = int(row[0]) + 1
    return low


# waiting and running


def pinned(states: Sequence[str], shape_ids: Sequence[int]) -> list[Row]:
    """(id, shape) of jobs of these shapes in these states."""
    found: list[Row] = []
    for begin in range(0, len(shape_ids), 500):
        part = shape_ids[begin:begin + 500]
        found += read().all(f"SELECT id, shape_id FROM job WHERE state IN ({_marks(states)}) AND shape_id IN ({_marks(part)}) "
                            "ORDER BY id", (*states, *part))
    return found


def waiting_by_shape() -> dict[int, int]:
    """shape -> queued jobs."""
    return {row[0]: int(row[1]) for row in
            read().all("SELECT shape_id, count(*) FROM job WHERE state = 'queued' GROUP BY shape_id")}


def active_by_node() -> dict[int, int]:
    """node -> jobs in hand (assigned and running)."""
    return {row[0]: int(row[1]) for row in
            read().all("SELECT node_id, count(*) FROM job WHERE state IN ('assigned', 'running') AND node_id IS NOT NULL "
                       "GROUP BY node_id")}


def overdue(at: float, grace_s: float, batch_kinds: Sequence[str]) -> list[Row]:
    """(id, attempt, node, time limit) of tasks that run longer than their limit and a grace."""
    sql = ("SELECT id, attempt, node_id, time_limit_s, started_at FROM job WHERE state = 'running' AND time_limit_s IS NOT NULL "
           f"AND started_at + time_limit_s + ? < ? AND kind NOT IN ({_marks(batch_kinds)})")
    return read().all(sql, (grace_s, at, *batch_kinds))


# figures


def ended(since: float, until: float) -> list[Row]:
    """(state, jobs, seconds in all of those that succeeded) of jobs that ended in [since, until)."""
    return read().all(
        "SELECT state, count(*), sum(CASE WHEN state = 'succeeded' THEN ran_s END) FROM job "
        "WHERE ended_at IS NOT NULL AND ended_at >= ? AND ended_at < ? GROUP BY state", (since, until))


def ended_by_node(since: float, until: float) -> list[Row]:
    """(node, state, jobs) of jobs that ended in [since, until)."""
    return read().all("SELECT node_id, state, count(*) FROM job WHERE ended_at IS NOT NULL AND ended_at >= ? AND ended_at < ? "
                      "AND node_id IS NOT NULL GROUP BY node_id, state", (since, until))


def ended_by_hour(node_id: int, since: float, until: float) -> dict[int, int]:
    """start of the hour -> jobs that ended on a node."""
    # Postgres rounds where SQLite cuts: floor makes both the same.
    hour = "CAST(floor(ended_at) AS bigint)" if read().pg else "CAST(ended_at AS integer)"
    rows = read().all(f"SELECT {hour} - {hour} % 3600, count(*) FROM job WHERE ended_at IS NOT NULL AND ended_at >= ? "
                      "AND ended_at < ? AND node_id = ? GROUP BY 1", (since, until, node_id))
    return {int(row[0]): int(row[1]) for row in rows}


def created(since: float, group: str) -> list[Row]:
    """(group, state, jobs) of jobs created since then. `group`: `node`, `kind`, `hour` (in which it ended) or `none`."""
    hour = "CAST(floor(ended_at) AS bigint)" if read().pg else "CAST(ended_at AS integer)"
    by = {"node": "node_id", "kind": "kind", "hour": f"{hour} - {hour} % 3600", "none": "0"}[group]
    return read().all(f"SELECT {by}, state, count(*) FROM job WHERE id >= ? AND submitted_at >= ? GROUP BY 1, 2",
                      (first_since(since), since))


def all_time() -> list[Row]:
    """(state, priority, node, jobs, seconds in all of those that succeeded) of everything on record, in one pass."""
    return read().all("SELECT state, priority, node_id, count(*), sum(CASE WHEN state = 'succeeded' THEN ran_s END) FROM job "
                      "GROUP BY state, priority, node_id")


def mean_durations(since: float) -> dict[str, float]:
    """kind -> mean seconds of jobs that succeeded since then."""
    rows = read().all("SELECT kind, sum(ran_s), count(ran_s) FROM job WHERE ended_at IS NOT NULL AND ended_at >= ? "
                      "AND state = 'succeeded' GROUP BY kind", (since,))
    return {row[0]: row[1] / row[2] for row in rows if row[2]}


# what a task has left behind


def outputs(pairs: Sequence[tuple[int, int]], most: int) -> dict[int, str]:
    """job -> the beginning of its standard output (at most about `most` bytes) of the given attempt."""
    found: dict[int, str] = {}
    for begin in range(0, len(pairs), 300):
        part = pairs[begin:begin + 300]
        where = " OR ".join(["(job_id = ? AND attempt = ?)"] * len(part))
        rows = read().all(f'SELECT job_id, data FROM job_data WHERE name = \'stdout\' AND "offset" = 0 AND ({where})',
                          [value for pair in part for value in pair])
        found.update({row[0]: bytes(row[1])[:most].decode("utf-8", "replace") for row in rows})
    return found


def history(number: int) -> list[Row]:
    """(kind, at, data) of what happened to a job."""
    return read().all("SELECT kind, at, data FROM event WHERE subject_kind = 'job' AND subject_id = ? ORDER BY id LIMIT 1000",
                      (number,))


def was_held(number: int, node_id: int) -> bool:
    """Did this node ever hold the job, as far as events are kept?"""
    rows = read().all("SELECT data FROM event WHERE subject_kind = 'job' AND subject_id = ? AND kind = 'job.claim'", (number,))
    return any(f'"node": {node_id},' in row[0] for row in rows)


def _where(conditions: Sequence[str]) -> str:
    return " WHERE " + " AND ".join(conditions) if conditions else ""


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
