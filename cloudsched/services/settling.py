"""What follows when an attempt ends? Results settled, retries, jobs that waited for it, jobs taken from lost nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cloudsched.domain import moves
from cloudsched.domain.tasks import BATCH_KINDS, DEFAULT_RETRIES
from cloudsched.services import waiters
from cloudsched.store import devices, jobs
from cloudsched.store.db import Tx
from cloudsched.store.moves import move

BACKOFF_MAX_S = 3600.0
LOST_LIMIT = 20



def after_end(tx: Tx, ended: Sequence[tuple[int, str]], *, at: float) -> list[int]:
    """Jobs that waited for the given (id, state) are released, cancelled or held; returns those released."""
    released: list[int] = []
    pending = list(ended)
    while pending:
        on, state = pending.pop()
        for number, kind, on_fail in jobs.dependents(tx, on):
            if kind == "any" or state == "succeeded":
                if jobs.need_met(tx, number, on) == 0:
                    released += jobs.release(tx, [number], at=at)
            elif on_fail == "hold":
                _stop_waiting(tx, number, "hold", at=at, reason=f"job {on} ended as {state}")
            elif _stop_waiting(tx, number, "cancel", at=at, reason=f"job {on} ended as {state}"):
                pending.append((number, "cancelled"))
    if released:
        _wake_after(tx, released)
    return released


def _stop_waiting(tx: Tx, number: int, event: str, *, at: float, reason: str) -> bool:
    return move(tx, "job", number, event, at=at, reason=reason, note={"reason": reason})


def _wake_after(tx: Tx, released: Sequence[int]) -> None:
    shape_of = {number: row[10] for number, row in jobs.locked(tx, released).items()}
    tx.after.append(lambda: waiters.wake_shapes(Counter(shape_of.values()).items()))


def settle(tx: Tx, results: Sequence[jobs.Result], *, node_id: int, at: float) -> list[tuple[int, int]]:
    """Record what a node reports; returns (job, attempt) pairs it must forget because they are no longer its own.

    A result that was recorded before (its answer was lost) is accepted silently.
    """
    rows = jobs.locked(tx, [r.id for r in results])
    refused: list[tuple[int, int]] = []
    final: list[jobs.Result] = []
    again: list[tuple[jobs.Result, float]] = []
    ends: list[tuple[int, str]] = []
    stopped: list[tuple[int, int]] = []
    seen: set[int] = set()
    for r in results:
        if r.id in seen:  # told twice in one call: the first counts
            continue
        seen.add(r.id)
        row = rows.get(r.id)
        if row is None or row[2] != r.attempt or row[3] != node_id or row[1] not in moves.JOB_ACTIVE:
            if row is None or row[2] != r.attempt or row[3] != node_id or row[1] not in moves.JOB_FINAL:
                refused.append((r.id, r.attempt))
            continue
        if r.event == "cancel" and row[4] != "cancel":  # nobody wanted that: the node stopped under the job
            stopped.append((r.id, r.attempt))
            continue
        if r.event in ("fail", "time_out") and row[4] == "run" and row[5] < row[6]:
            again.append((r, min(BACKOFF_MAX_S, row[7] * 2.0 ** row[5])))
            continue
        final.append(r)
        if row[8]:
            ends.append((r.id, r.state))
    if final:
        jobs.finish(tx, final, node_id=node_id)
        _count(tx, final, node_id)
    for r, pause_s in again:
        _try_again(tx, r, pause_s, node_id=node_id, at=at)
    if ends:
        after_end(tx, ends, at=at)
    if stopped:
        redeliver(tx, stopped, at=at, reason="the node stopped")
    return refused


def _count(tx: Tx, final: Sequence[jobs.Result], node_id: int) -> None:
    """What the node has done so far, where that is kept."""
    completed = sum(1 for r in final if r.event == "succeed")
    failed = [r.reason or r.state for r in final if r.event in ("fail", "time_out")]
    devices.count_tasks(tx, node_id, completed=completed, failed=len(failed), error=failed[-1] if failed else "")


def _try_again(tx: Tx, r: jobs.Result, pause_s: float, *, node_id: int, at: float) -> None:
    jobs.append_output(tx, [(r.id, r.attempt, name, text.encode())
                            for name, text in (("stdout", r.stdout), ("stderr", r.stderr)) if text])
    move(tx, "job", r.id, "retry", at=at, retries=jobs.retries(tx, r.id) + 1, not_before=at + pause_s, placed=0, started_at=None,
         reason=r.reason, exit_code=r.exit_code,
         note={"node": node_id, "attempt": r.attempt, "exit_code": r.exit_code, "reason": r.reason, "state": r.state,
               "pause_s": pause_s})
    if pause_s <= 0 and jobs.release(tx, [r.id], at=at):
        _wake_after(tx, [r.id])


def release_due(tx: Tx, at: float) -> list[int]:
    """Pending jobs whose pause is over are queued; returns them."""
    released = jobs.release(tx, jobs.due(tx, at), at=at)
    if released:
        _wake_after(tx, released)
    return released


def redeliver(tx: Tx, items: Sequence[tuple[int, int]], *, at: float, reason: str) -> list[int]:
    """Take (job, attempt) away from a node that has lost them: back to the queue, or failed after too many losses."""
    back = []
    tasks = jobs.tasks_among(tx, [number for number, _ in items], BATCH_KINDS)
    for number, attempt in items:
        if number in tasks:
            node_id, retries, limit = tasks[number]
            if retries >= (DEFAULT_RETRIES if limit is None else limit):
                _lost_for_good(tx, number, attempt, node_id, at=at, reason=reason)
                continue
            jobs.set_retries(tx, number, retries + 1)
        # Attempts also count retries and jobs given back: only a job that was claimed so often can have been lost so often.
        losses = jobs.losses(tx, number) + 1 if attempt > LOST_LIMIT else 0
        if losses > LOST_LIMIT:
            guard = ("attempt = ?", (attempt,))
            if move(tx, "job", number, "fail", at=at, reason=f"lost {losses} times, last: {reason}", guard=guard):
                after_end(tx, [(number, "failed")], at=at)
        else:
            back.append((number, attempt))
    done = jobs.requeue(tx, back, "lose", at=at, reason=reason)
    _after_requeue(tx, done, at)
    return done


def _lost_for_good(tx: Tx, number: int, attempt: int, node_id: int | None, *, at: float, reason: str) -> None:
    """A task that was lost more often than it may be (contract 11.5); one that is to be cancelled is cancelled."""
    if move(tx, "job", number, "cancel", at=at, guard=("attempt = ? AND goal = 'cancel'", (attempt,)), note={"reason": reason}):
        after_end(tx, [(number, "cancelled")], at=at)
    elif move(tx, "job", number, "fail", at=at, reason=reason, guard=("attempt = ?", (attempt,)),
              note={"node": node_id, "attempt": attempt, "reason": reason}):
        after_end(tx, [(number, "failed")], at=at)
        if node_id is not None:
            devices.count_tasks(tx, node_id, failed=1, error=reason)


def give_back(tx: Tx, items: Sequence[tuple[int, int]], *, at: float) -> None:
    """(job, attempt) that a node never started go back to the queue; what somebody wants cancelled ends."""
    _after_requeue(tx, jobs.requeue(tx, items, "give_back", at=at), at)


def _after_requeue(tx: Tx, done: Sequence[int], at: float) -> None:
    rows = jobs.locked(tx, done)
    after_end(tx, [(n, "cancelled") for n, row in rows.items() if row[1] == "cancelled" and row[8]], at=at)
    counts = Counter(row[10] for row in rows.values() if row[1] == "queued")
    tx.after.append(lambda: waiters.wake_shapes(counts.items()))
