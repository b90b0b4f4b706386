"""How are jobs kept? The hot statements: insert, claim, finish, give back; and the reads.

Hand-written SQL on tuples: this is where the rate of the whole system is decided.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import Job, columns
from cloudsched.store import events, inputs
from cloudsched.store.db import Row, Tx, read

COLUMNS = columns(Job)

NEW_COLUMNS = (
    "id, source, key, batch_id, proc, name, label, \"user\", org, kind, shape_id, state, priority, max_retries, backoff_s, "
    "time_limit_s, needs, depends_fail, not_before, submitted_at, queued_at, spec, attributes, retry_of"
)
INSERT = (
    f"INSERT INTO job ({NEW_COLUMNS}, goal, placed, attempt, retries, has_dependents) "
    f"VALUES ({', '.join('?' * 24)}, 'run', 0, 0, 0, 0)"
)

LIVE = "('assigned', 'running')"
CUT = ".cut"


@dataclass(slots=True)
class Result:
    """What an agent reports of one attempt. `event` is a moves.JOB event: succeed, fail, time_out, cancel."""

    id: int
    attempt: int
    event: str
    state: str
    exit_code: int | None = None
    signal: int | None = None
    reason: str | None = None
    ran_s: float | None = None
    ended_at: float = 0.0
    cpu_s: float | None = None
    max_rss_mb: int | None = None
    stdout: str = ""
    stderr: str = ""
    result: str | None = None


@dataclass(frozen=True, slots=True)
class Claimed:
    """A job handed to a node; `spec` is JSON text."""

    id: int
    attempt: int
    spec: str


def allocate(tx: Tx, name: str, count: int) -> int:
    """Take `count` consecutive numbers of the counter `name`; returns the first."""
    last = tx.value("UPDATE counter SET value = value + ? WHERE name = ? RETURNING value", (count, name))
    return int(last) - count + 1


def batch_is_free(tx: Tx, number: int) -> bool:
    """Was this batch number handed out, and has no job yet?"""
    last = tx.value("SELECT value FROM counter WHERE name = 'batch'" + tx.lock_rows)
    return number <= int(last) and tx.one("SELECT 1 FROM job WHERE batch_id = ? LIMIT 1", (number,)) is None


def insert(tx: Tx, rows: Sequence[Row], *, at: float, actor: str) -> None:
    """Insert jobs given as tuples in the order of NEW_COLUMNS, with one event each."""
    tx.many(INSERT, rows)
    events.append_many(tx, [(at, "job.submit", "job", row[0], actor, f'{{"state": "{row[11]}"}}') for row in rows])


def add_needs(tx: Tx, needs: Sequence[tuple[int, int, str]]) -> None:
    """Record (job, on, kind) dependencies."""
    tx.many("INSERT INTO job_need (job_id, on_id, kind) VALUES (?, ?, ?)", needs)
    tx.many("UPDATE job SET has_dependents = 1 WHERE id = ?", sorted({(on,) for _, on, _ in needs}))


# claim


def queued_shapes(tx: Tx) -> list[int]:
    """Ids of the shapes that have a queued job: one index step per shape, however long the queue."""
    queue = f"FROM job{tx.using('job_queue')} WHERE state = 'queued'"
    sql = (
        f"WITH RECURSIVE step(id) AS (SELECT min(shape_id) {queue} UNION ALL "
        f"SELECT (SELECT min(shape_id) {queue} AND shape_id > step.id) FROM step "
        "WHERE step.id IS NOT NULL) SELECT id FROM step WHERE id IS NOT NULL"
    )
    return [row[0] for row in tx.all(sql)]


def claim(tx: Tx, node_id: int, shape_ids: Sequence[int], *, limit: int, at: float,
          gpus: tuple[Mapping[int, int], int] | None = None) -> list[Claimed]:
    """Hand up to `limit` queued jobs of these shapes to a node: highest priority first, then oldest.

    `gpus`: what a job of each shape takes of so many that are free on the node; jobs that need more are passed over.
    """
    chosen = _choose(tx, shape_ids, limit) if gpus is None else _choose_within(tx, shape_ids, limit, *gpus)
    if not chosen:
        return []
    sql = (
        "UPDATE job SET state = 'assigned', node_id = ?, attempt = attempt + 1, assigned_at = ?, started_at = NULL, "
        f"not_before = NULL WHERE id IN ({_marks(chosen)}) AND state = 'queued' RETURNING id, attempt, spec"
    )
    claimed = [Claimed(*row) for row in tx.all(sql, (node_id, at, *chosen))]
    order = {number: index for index, number in enumerate(chosen)}
    claimed.sort(key=lambda job: order[job.id])
    events.append_many(tx, [
        (at, "job.claim", "job", job.id, "", f'{{"node": {node_id}, "attempt": {job.attempt}}}') for job in claimed
    ])
    return claimed


def _choose(tx: Tx, shape_ids: Sequence[int], limit: int) -> list[int]:
    heads = [_heads(tx, shape_id, limit) for shape_id in shape_ids]
    merged = heapq.merge(*heads) if len(heads) > 1 else iter(heads[0] if heads else ())
    return [row[1] for _, row in zip(range(limit), merged, strict=False)]


def _heads(tx: Tx, shape_id: int, limit: int) -> list[Row]:
    sql = (f"SELECT -priority, id FROM job{tx.using('job_queue')} WHERE shape_id = ? AND state = 'queued' "
           "ORDER BY priority DESC, id LIMIT ?" + tx.for_update)
    return tx.all(sql, (shape_id, limit))


def _choose_within(tx: Tx, shape_ids: Sequence[int], limit: int, needs: Mapping[int, int], room: int) -> list[int]:
    """As `_choose`, as long as the room lasts."""
    ordered = sorted((row, shape_id) for shape_id in shape_ids for row in _heads(tx, shape_id, limit))
    chosen: list[int] = []
    for (_, number), shape_id in ordered:
        need = needs.get(shape_id, 0)
        if need <= room and len(chosen) < limit:
            room -= need
            chosen.append(number)
    return chosen


def shapes_in_hand(tx: Tx, node_id: int) -> list[Row]:
    """(shape_id, how many) of the jobs that a node holds."""
    sql = f"SELECT shape_id, count(*) FROM job WHERE node_id = ? AND state IN {LIVE} GROUP BY shape_id"
    return tx.all(sql, (node_id,))


# what comes back


def locked(tx: Tx, ids: Sequence[int]) -> dict[int, Row]:
    """Lock jobs and read what settling needs: id -> (id, state, attempt, node_id, goal, retries, max_retries,
    backoff_s, has_dependents, started_at, shape_id)."""
    if not ids:
        return {}
    sql = (
        "SELECT id, state, attempt, node_id, goal, retries, max_retries, backoff_s, has_dependents, started_at, shape_id "
        f"FROM job WHERE id IN ({_marks(ids)}) ORDER BY id" + tx.lock_rows
    )
    return {row[0]: row for row in tx.all(sql, ids)}


def finish(tx: Tx, results: Sequence[Result], *, node_id: int) -> None:
    """Settle results already checked against `locked`: state, facts, output and one event each."""
    tx.many(
        "UPDATE job SET state = ?, ended_at = ?, started_at = COALESCE(started_at, ?), exit_code = ?, signal = ?, "
        "reason = ?, ran_s = ?, cpu_s = ?, max_rss_mb = ?, result = ?, override = NULL WHERE id = ?",
        [(r.state, r.ended_at, r.ended_at - (r.ran_s or 0.0), r.exit_code, r.signal, r.reason, r.ran_s, r.cpu_s,
          r.max_rss_mb, r.result, r.id) for r in results],
    )
    append_output(tx, [(r.id, r.attempt, name, text.encode()) for r in results
                       for name, text in (("stdout", r.stdout), ("stderr", r.stderr)) if text])
    events.append_many(tx, [
        (r.ended_at, f"job.{r.event}", "job", r.id, "", _finish_note(r, node_id)) for r in results
    ])


def _finish_note(r: Result, node_id: int) -> str:
    if r.reason is None and r.signal is None:
        code = "null" if r.exit_code is None else r.exit_code
        return f'{{"node": {node_id}, "attempt": {r.attempt}, "exit_code": {code}}}'
    return json.dumps({"node": node_id, "attempt": r.attempt, "exit_code": r.exit_code, "signal": r.signal,
                       "reason": r.reason})


def start(tx: Tx, items: Iterable[tuple[int, int, float]], *, node_id: int, at: float) -> None:
    """Note that (job, attempt, started_at) run now on this node; stale ones change nothing."""
    for number, attempt, started_at in items:
        sql = ("UPDATE job SET state = 'running', started_at = ? WHERE id = ? AND attempt = ? AND node_id = ? "
               "AND state = 'assigned'")
        if tx.run(sql, (started_at, number, attempt, node_id)).rowcount:
            note = f'{{"node": {node_id}, "attempt": {attempt}}}'
            events.append_many(tx, [(at, "job.start", "job", number, "", note)])


def requeue(tx: Tx, items: Sequence[tuple[int, int]], event: str, *, at: float, reason: str = "") -> list[int]:
    """Put (job, attempt) back in the queue by `lose` or `give_back`; returns the ids that were really in hand.

    A job that somebody wants cancelled ends as cancelled instead. A job lost more often than its limit allows is up to
    the caller (services.jobs decides what to pass here).
    """
    done: list[int] = []
    for number, attempt in items:
        row = tx.one(f"SELECT goal, node_id FROM job WHERE id = ? AND attempt = ? AND state IN {LIVE}" + tx.lock_rows,
                     (number, attempt))
        if row is None:
            continue
        cancelled = row[0] == "cancel"
        tx.run("UPDATE job SET state = ?, queued_at = ?, ended_at = ?, started_at = NULL, placed = 0 WHERE id = ?",
               ("cancelled" if cancelled else "queued", at, at if cancelled else None, number))
        note = json.dumps({"node": row[1], "attempt": attempt, "reason": reason})
        events.append_many(tx, [(at, "job.cancel" if cancelled else f"job.{event}", "job", number, "", note)])
        done.append(number)
    return done


def in_hand(tx: Tx, node_id: int) -> list[Row]:
    """(id, attempt, goal, assigned_at, state) of what a node holds."""
    return tx.all(f"SELECT id, attempt, goal, assigned_at, state FROM job WHERE node_id = ? AND state IN {LIVE}", (node_id,))


def holds(tx: Tx, node_id: int, job_id: int, *, attempt: int | None = None, lock: bool = False) -> bool:
    """Is the job (in this attempt, now in hand) this node's? Without `attempt`: was it ever handed to it last?"""
    sql, args = "SELECT 1 FROM job WHERE id = ? AND node_id = ?", [job_id, node_id]
    if attempt is not None:
        sql += f" AND attempt = ? AND state IN {LIVE}"
        args.append(attempt)
    return tx.one(sql + (tx.lock_rows if lock else ""), args) is not None


def taken(tx: Tx, node_id: int, held: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those of (job, attempt) that ended here, not there: cancelled, or over their time."""
    if not held:
        return []
    wanted = set(held)
    sql = f"SELECT id, attempt FROM job WHERE id IN ({_marks(held)}) AND node_id = ? AND state IN ('cancelled', 'timeout')"
    return [(row[0], row[1]) for row in tx.all(sql, (*(job for job, _ in held), node_id)) if (row[0], row[1]) in wanted]


def doubt(tx: Tx, node_id: int, *, at: float) -> None:
    """What a node holds counts as handed out at `at`: unless the node names it, it goes back to the queue."""
    tx.run(f"UPDATE job SET assigned_at = ? WHERE node_id = ? AND state IN {LIVE}", (at, node_id))


def want_cancelled(tx: Tx, number: int) -> bool:
    """A job in hand is to be cancelled; False when that is wanted already or the job is in nobody's hands."""
    sql = f"UPDATE job SET goal = 'cancel' WHERE id = ? AND goal <> 'cancel' AND state IN {LIVE}"
    return bool(tx.run(sql, (number,)).rowcount)


def retries(tx: Tx, number: int) -> int:
    """How often the job was tried again."""
    return int(tx.value("SELECT retries FROM job WHERE id = ?", (number,)))


def losses(tx: Tx, number: int) -> int:
    """How often a job was taken from a node that had lost it, as far as events are kept."""
    sql = "SELECT count(*) FROM event WHERE subject_kind = 'job' AND subject_id = ? AND kind = 'job.lose'"
    return int(tx.value(sql, (number,)))


def tasks_among(tx: Tx, ids: Sequence[int], batch_kinds: Sequence[str]) -> dict[int, tuple[int | None, int, int | None]]:
    """Those that are tasks (not of `batch_kinds`): id -> (node, retries, how often it may be lost; None: not said)."""
    if not ids:
        return {}
    sql = (f"SELECT id, node_id, retries, max_retries, attributes FROM job WHERE id IN ({_marks(ids)}) "
           f"AND kind NOT IN ({_marks(batch_kinds)})")
    found: dict[int, tuple[int | None, int, int | None]] = {}
    for number, node_id, retries, max_retries, attributes in tx.all(sql, (*ids, *batch_kinds)):
        given = max_retries or None
        if '"task"' in attributes:
            given = json.loads(attributes).get("task", {}).get("max_retries", given)
        found[number] = node_id, retries, given
    return found


def set_retries(tx: Tx, number: int, retries_: int) -> None:
    """How often a job was tried again so far."""
    tx.run("UPDATE job SET retries = ? WHERE id = ?", (retries_, number))


# what the scheduling job notes


def place(tx: Tx, number: int) -> bool:
    """Mark a waiting job Scheduled; False when it is not waiting, or is Scheduled already."""
    sql = "UPDATE job SET placed = 1 WHERE id = ? AND state = 'queued' AND placed = 0"
    return bool(tx.run(sql, (number,)).rowcount == 1)


def set_placed(tx: Tx, ids: Iterable[int], placed: bool) -> None:
    """Mark jobs Scheduled, or waiting ones Unscheduled."""
    sql = "UPDATE job SET placed = 1 WHERE id = ?" if placed else "UPDATE job SET placed = 0 WHERE id = ? AND state = 'queued'"
    tx.many(sql, [(number,) for number in ids])


def set_nodes(tx: Tx, pairs: Iterable[tuple[int, int]]) -> None:
    """Note (job, node) of jobs that an external batch system runs."""
    tx.many("UPDATE job SET node_id = ? WHERE id = ?", [(node, job) for job, node in pairs])


def queued_of(tx: Tx, shape_id: int, *, unscheduled: bool, before: float | None) -> list[int]:
    """Waiting jobs of a shape."""
    sql, args = "SELECT id FROM job WHERE shape_id = ? AND state = 'queued'", [shape_id]  # type: tuple[str, list[Any]]
    if unscheduled:
        sql += " AND placed = 0"
    if before is not None:
        sql += " AND queued_at <= ?"
        args.append(before)
    return [row[0] for row in tx.all(sql, args)]


# bytes of a job


def append_output(tx: Tx, pieces: Iterable[tuple[int, int, str, bytes]]) -> None:
    """Append (job, attempt, stream, bytes) after what is there. An empty piece makes an empty stream, once."""
    tx.many(
        'INSERT INTO job_data (job_id, attempt, name, "offset", size, data) '
        'SELECT ?, ?, ?, COALESCE(max("offset" + size), 0), ?, ? FROM job_data '
        "WHERE job_id = ? AND attempt = ? AND name = ? "
        # Only an empty piece can stand where the next one comes.
        'ON CONFLICT (job_id, attempt, name, "offset") DO UPDATE SET size = excluded.size, data = excluded.data',
        [(j, a, name, len(data), data, j, a, name) for j, a, name, data in pieces],
    )


def mark_cut(tx: Tx, job_id: int, attempt: int, stream: str) -> None:
    """Note that more of this stream came than is kept."""
    append_output(tx, [(job_id, attempt, stream + CUT, b"")])


def data_size(tx: Tx, job_id: int, attempt: int, name: str) -> int:
    """How many bytes are there."""
    sql = 'SELECT COALESCE(max("offset" + size), 0) FROM job_data WHERE job_id = ? AND attempt = ? AND name = ?'
    return int(tx.value(sql, (job_id, attempt, name)))


def read_data(job_id: int, attempt: int, name: str, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
    """Up to about `limit` bytes from `offset` (whole pieces are read and cut)."""
    sql = ('SELECT "offset", data FROM job_data WHERE job_id = ? AND attempt = ? AND name = ? AND "offset" + size > ? '
           'ORDER BY "offset"')
    found = bytearray()
    for start_at, data in read().run(sql, (job_id, attempt, name, offset)):
        found += bytes(data)[max(0, offset - start_at):]
        if len(found) >= limit:
            break
    return bytes(found[:limit])


def data_names(job_id: int) -> list[Row]:
    """(attempt, name, size) of every stream kept for a job."""
    sql = "SELECT attempt, name, sum(size) FROM job_data WHERE job_id = ? GROUP BY attempt, name ORDER BY name, attempt"
    return [(a, n, int(s)) for a, n, s in read().all(sql, (job_id,))]


# dependencies


def dependents(tx: Tx, on_id: int) -> list[Row]:
    """(job_id, kind, depends_fail) of jobs that wait for `on_id`."""
    sql = ("SELECT n.job_id, n.kind, j.depends_fail FROM job_need n JOIN job j ON j.id = n.job_id WHERE n.on_id = ? "
           "AND j.state IN ('pending', 'held')")
    return tx.all(sql, (on_id,))


def needs_of(tx: Tx, job_id: int) -> list[tuple[int, str]]:
    """(on_id, kind) of what a job still waits for, or waited for when it ended."""
    return [(row[0], row[1]) for row in tx.all("SELECT on_id, kind FROM job_need WHERE job_id = ? ORDER BY on_id", (job_id,))]


def line(tx: Tx, number: int) -> list[int]:
    """A job and those that are retries of it, and of these, by number."""
    sql = ("WITH RECURSIVE line(id) AS (SELECT id FROM job WHERE id = ? UNION "
           "SELECT job.id FROM job JOIN line ON job.retry_of = line.id) SELECT id FROM line ORDER BY id")
    return [row[0] for row in tx.all(sql, (number,))]


def need_met(tx: Tx, job_id: int, on_id: int) -> int:
    """One dependency is met; returns how many are left."""
    tx.run("DELETE FROM job_need WHERE job_id = ? AND on_id = ?", (job_id, on_id))
    return count_needs(tx, job_id)


def count_needs(tx: Tx, job_id: int) -> int:
    """Note, and return, how much a job still waits for."""
    left = int(tx.value("SELECT count(*) FROM job_need WHERE job_id = ?", (job_id,)))
    tx.run("UPDATE job SET needs = ? WHERE id = ?", (left, job_id))
    return left


def release(tx: Tx, ids: Sequence[int], *, at: float, actor: str = "") -> list[int]:
    """Pending jobs whose needs are met and whose pause is over become queued; returns those that did, with shapes."""
    done = []
    for number in ids:
        sql = ("UPDATE job SET state = 'queued', queued_at = ?, not_before = NULL WHERE id = ? AND state = 'pending' "
               "AND needs = 0 AND (not_before IS NULL OR not_before <= ?)")
        if tx.run(sql, (at, number, at)).rowcount:
            done.append(number)
    events.append_many(tx, [(at, "job.release", "job", number, actor, "{}") for number in done])
    return done


def due(tx: Tx, at: float, *, limit: int = 1000) -> list[int]:
    """Pending jobs whose pause is over."""
    sql = (f"SELECT id FROM job{tx.using('job_due')} WHERE state = 'pending' AND not_before IS NOT NULL "
           "AND not_before <= ? AND needs = 0 ORDER BY not_before LIMIT ?")
    return [row[0] for row in tx.all(sql, (at, limit))]


# reads


def get(number: int) -> Job | None:
    """One job by id."""
    row = read().one(f"SELECT {COLUMNS} FROM job WHERE id = ?", (number,))
    return Job(*row) if row else None


def by_key(source: str, key: str) -> Job | None:
    """One job by its external key; built-in keys are found by their batch and index."""
    if source != "queue":
        row = read().one(f"SELECT {COLUMNS} FROM job WHERE source = ? AND key = ?", (source, key))
        return Job(*row) if row else None
    try:
        batch, proc = key.rsplit("#", 2)[-2].split(".")
        args = (int(batch), int(proc), key)
        if max(args[0], args[1]) >= 2**63:
            return None
    except (ValueError, IndexError):
        return None
    row = read().one(f"SELECT {COLUMNS} FROM job WHERE batch_id = ? AND proc = ? AND key = ?", args)
    return Job(*row) if row else None


def select(where: str = "", args: Sequence[Any] = (), *, order: str = "id DESC", limit: int = 100) -> list[Job]:
    """Jobs by an SQL condition built from constants by the caller inside the store."""
    sql = f"SELECT {COLUMNS} FROM job{' WHERE ' + where if where else ''} ORDER BY {order} LIMIT ?"
    return [Job(*row) for row in read().all(sql, (*args, limit))]


_EQUAL = {"user": '"user" = ?', "node": "node_id = ?", "source": "source = ?", "name": "name = ?"}


def find(*, states: Sequence[str] = (), limit: int = 100, **equal: Any) -> list[Job]:
    """The oldest jobs by filters (states, user, vm_type, batch, node, source, name)."""
    where, args = conditions(equal, states)
    return select(" AND ".join(where), args, order="id", limit=limit)


def count(*, states: Sequence[str] = (), **equal: Any) -> dict[str, int]:
    """Number of jobs by state under the same filters."""
    where, args = conditions(equal, states)
    sql = f"SELECT state, count(*) FROM job{' WHERE ' + ' AND '.join(where) if where else ''} GROUP BY state"
    return {state: int(n) for state, n in read().all(sql, args)}


def conditions(equal: dict[str, Any], states: Sequence[str] = ()) -> tuple[list[str], list[Any]]:
    """SQL conditions and their arguments for filters; a `batch` is a number, or the label its jobs were given."""
    given = {name: value for name, value in equal.items() if value is not None and value != ""}
    where: list[str] = []
    args: list[Any] = []
    if states:
        where.append(f"state IN ({_marks(states)})")
        args += states
    if vm_type := given.pop("vm_type", None):
        where.append("shape_id IN (SELECT id FROM shape WHERE vm_type = ?)")
        args.append(vm_type)
    if batch := str(given.pop("batch", "")):
        numbered = batch.isascii() and batch.isdigit() and len(batch) < 19
        where.append("batch_id = ?" if numbered else "label = ? AND label <> ''")
        args.append(int(batch) if numbered else batch)
    for name, value in given.items():
        where.append(_EQUAL[name])
        args.append(value)
    return where, args


def forget(tx: Tx, before: float, *, limit: int = 2000, not_kinds: Sequence[str] = ()) -> int:
    """Delete jobs (of any but `not_kinds`) that ended before `before`, with their bytes; returns how many."""
    other = f" AND kind NOT IN ({_marks(not_kinds)})" if not_kinds else ""
    ids = [row[0] for row in tx.all(
        f"SELECT id FROM job WHERE state IN ('succeeded', 'failed', 'timeout', 'cancelled') AND ended_at < ?{other} "
        "ORDER BY id LIMIT ?", (before, *not_kinds, limit))]
    inputs.forget(tx, ids)
    for table, column in (("job_data", "job_id"), ("job_checkpoint", "job_id"), ("job_need", "job_id"), ("job_need", "on_id"),
                          ("job_boot_failure", "job_id"), ("job_block", "job_id"), ("job", "id")):
        tx.many(f"DELETE FROM {table} WHERE {column} = ?", [(number,) for number in ids])
    return len(ids)


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
