"""What is in hand, what must be told to the server, and how much more may be asked for? Plain bookkeeping, no I/O.

Two kinds of requests are made from it: a *report* (results, starts, returns, and a claim in the same request, never
held by the server) and a *poll* (a claim or mere listening that the server may hold). Both may be under way at the
same time on two connections, so a result never waits for a poll to end.
"""

from __future__ import annotations

import itertools
import time
from collections import deque

from cloudsched.agent import jobs
from cloudsched.agent.jobs import Batch, Job

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MAX_DEPTH = 200
QUICK_BATCH_S = 0.2  # whole batches that end sooner: ask for twice as many
SLOW_BATCH_S = 0.6  # later: for half as many
LONG_JOB_S = 1.0  # one job that runs longer: nothing beyond the free slots
WAIT_LIMIT_S = 2.0  # a job that waits longer behind others is given back
REPORT_PAUSE_S = 0.15  # results are collected that long while there is other work
TRICKLE_PAUSE_S = 0.015  # between reports while jobs come one by one: many short ones share a request
TELL_START_S = 0.3
MAX_DONE = 500
MAX_DONE_BYTES = 4_000_000

RUN, DRAIN, STOP = "run", "drain", "stop"


class Book:
    """Everything in hand on a machine with the given room."""

    def __init__(self, room: Mapping[str, Any]) -> None:
        self.cores = int(room["cores"])
        self.memory_mb = int(room["memory_mb"])
        self.storage_gb = float(room["storage_gb"])
        self.slots = int(room.get("slots") or 0) or max(1, self.cores)
        self.goal = RUN
        self.in_hand: dict[tuple[int, int], Job] = {}
        self.waiting: deque[Job] = deque()
        self.depth = self.slots
        self.more = False  # the last claim was answered in full: there is likely more
        self._used = 0
        self._free_cores = self.cores
        self._free_memory_mb = self.memory_mb
        self._free_storage_gb = self.storage_gb
        self._results: deque[dict[str, Any]] = deque()
        self._returned: list[tuple[int, int]] = []
        self._starts: list[Job] = []
        self._oldest_start = 0.0
        self._flying: _Report | None = None
        self._poll_want = 0
        self._last_report = 0.0

    # -- jobs in and out ---------------------------------------------------------------------------------------

    def take(self, items: list[Any], asked: int) -> list[str]:
        """Jobs of an answer; returns complaints about what could not be understood."""
        complaints = []
        batch = Batch(asked, 0, time.monotonic())
        for item in items:
            try:
                job = jobs.parse(item)
            except ValueError as error:
                complaints.append(str(error))
                continue
            if job.key in self.in_hand:
                continue  # told twice
            batch.size += 1
            batch.left += 1
            job.batch = batch
            self._refuse_too_big(job)
            self.in_hand[job.key] = job
            self.waiting.append(job)
        return complaints

    def next_to_start(self) -> Job | None:
        """The first waiting job if there is room for it now; it takes that room."""
        if not self.waiting:
            return None
        job = self.waiting[0]
        if job.fault is None and not job.instant and not self._fits(job):
            return None
        self.waiting.popleft()
        self._occupy(job, 1)
        job.phase = jobs.FETCHING
        return job

    def next_labels(self, count: int) -> list[str]:
        """Of the first jobs that wait and will run as processes."""
        return [job.label for job in itertools.islice(self.waiting, count) if not job.instant]

    def begun(self, job: Job) -> None:
        """Its process runs: worth telling if it runs on for a while."""
        if not self._starts:
            self._oldest_start = job.started or 0.0
        job.tell_start = True
        self._starts.append(job)

    def vacate(self, job: Job) -> None:
        """Its processes are dead: its room is free, though output may still be on its way."""
        self._occupy(job, -1)
        job.phase = jobs.SENDING

    def finish(self, job: Job, result: dict[str, Any]) -> None:
        """Its result is complete; it leaves the hand with the next report."""
        self.in_hand.pop(job.key, None)
        job.tell_start = False
        result["ended"] = job.ended
        self._results.append(result)
        self._learn(job)

    def give_back_waiting(self) -> int:
        """Everything not started goes back to the server's queue; returns how many."""
        count = len(self.waiting)
        for job in self.waiting:
            self._returned.append(job.key)
            self.in_hand.pop(job.key, None)
        self.waiting.clear()
        self.more = False
        return count

    def give_back_late(self, now: float) -> int:
        """What waits too long behind others goes back; ask for less from now on."""
        if not self.waiting or not self._used or now - self.waiting[0].received < WAIT_LIMIT_S:
            return 0
        self.depth = self.slots
        return self.give_back_waiting()

    def forget_waiting(self, job: Job) -> None:
        """A job that has not started is taken back by the server."""
        self.waiting.remove(job)

    # -- requests ----------------------------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing in hand and nothing to tell."""
        return not (self.in_hand or self.unsent)

    @property
    def unsent(self) -> bool:
        return bool(self._results or self._returned or self._flying)

    def want(self) -> int:
        """How many more jobs to ask for now; none while a poll that asks is open: its `holding` could not name what
        another request brings meanwhile, and the server would take that for lost."""
        if self.goal != RUN or self._poll_want:
            return 0
        ahead = self.depth - self.slots
        room = min(self.depth - self._used, max(0, self._free_cores) + ahead) if self.cores else 0
        return max(0, min(MAX_DEPTH, room - len(self.waiting)))

    def report_due_s(self, now: float) -> float | None:
        """In how many seconds is a report due; None: there is nothing to report."""
        if self._flying is not None:
            return None
        if self._results or self._returned:
            if len(self._results) >= MAX_DONE:
                return 0.0
            if len(self.waiting) <= self.depth // 4:
                return 0.0 if self.more else max(0.0, self._last_report + TRICKLE_PAUSE_S - now)
            return max(0.0, self._last_report + REPORT_PAUSE_S - now)
        if self.more and self.want() >= max(1, self.depth // 2):
            return 0.0
        self._starts = [job for job in self._starts if job.tell_start]
        if self._starts:
            return max(0.0, (self._starts[0].started or now) + TELL_START_S - now)
        return None

    def report(self) -> dict[str, Any]:
        """The body of a report; it is under way until `report_done` or `report_failed`."""
        now = time.monotonic()
        flying = _Report()
        size = 0
        while self._results and len(flying.results) < MAX_DONE and size < MAX_DONE_BYTES:
            result = self._results.popleft()
            size += len(result["stdout"]) + len(result["stderr"])
            flying.results.append(result)
        flying.returned, self._returned = self._returned, []
        flying.starts = [job for job in self._starts if job.tell_start]
        self._starts = []
        flying.want = self.want()
        self._flying = flying
        self._last_report = now
        body = self._common(flying.want)
        body["holding"] = [list(key) for key in self.in_hand] + [[r["id"], r["attempt"]] for r in self._results]
        body["started"] = [[job.id, job.attempt, _age(job.started, now)] for job in flying.starts]
        body["done"] = [_aged(result, now) for result in flying.results]
        body["returned"] = [list(key) for key in flying.returned]
        return body

    def report_done(self) -> int:
        """The report was answered; returns how many jobs it had asked for."""
        assert self._flying is not None
        flying, self._flying = self._flying, None
        for job in flying.starts:
            job.tell_start = False
        return flying.want

    def report_failed(self) -> None:
        """No answer: everything will be told again."""
        assert self._flying is not None
        flying, self._flying = self._flying, None
        self._results.extendleft(reversed(flying.results))
        self._returned = flying.returned + self._returned
        self._starts = flying.starts + self._starts

    def poll(self, wait_s: float) -> dict[str, Any]:
        """The body of a request that may be held; its claim counts as asked for until `poll_done`."""
        want = self.want()
        self._poll_want = want
        body = self._common(want)
        body["wait_s"] = wait_s
        holding = [list(key) for key in self.in_hand]
        unsent = list(self._results) + (self._flying.results if self._flying else [])
        body["holding"] = holding + [[result["id"], result["attempt"]] for result in unsent]
        return body

    def poll_done(self) -> int:
        """The poll was answered or failed; returns how many jobs it had asked for."""
        want, self._poll_want = self._poll_want, 0
        return want

    def _common(self, want: int) -> dict[str, Any]:
        free = {
            "cores": max(0, self._free_cores),
            "memory_mb": max(0, self._free_memory_mb),
            "storage_gb": max(0, int(self._free_storage_gb)),
        }
        return {"want": want, "free": free}

    # -- room --------------------------------------------------------------------------------------------------

    def _refuse_too_big(self, job: Job) -> None:
        for name, unit in (("cores", "cores"), ("memory_mb", "MB of memory"), ("storage_gb", "GB of storage")):
            asked, have = getattr(job, name), getattr(self, name)
            if asked > have and job.fault is None and not job.instant:
                job.fault = "cannot start: it asks for %g %s, this node has %g" % (asked, unit, have)

    def _fits(self, job: Job) -> bool:
        return (
            self._used < self.slots
            and job.cores <= self._free_cores
            and job.memory_mb <= self._free_memory_mb
            and job.storage_gb <= self._free_storage_gb
        )

    def _occupy(self, job: Job, sign: int) -> None:
        """Take room for a job, or give back what it took: what was found wrong with it in between does not matter."""
        if job.occupies == (sign > 0) or (sign > 0 and (job.fault is not None or job.instant)):
            return
        job.occupies = sign > 0
        self._used += sign
        self._free_cores -= sign * job.cores
        self._free_memory_mb -= sign * job.memory_mb
        self._free_storage_gb -= sign * job.storage_gb

    def _learn(self, job: Job) -> None:
        if job.started is not None and job.ended - job.started > LONG_JOB_S:
            self.depth = self.slots
        batch = job.batch
        if batch is None:
            return
        batch.left -= 1
        if batch.left:
            return
        took_s = time.monotonic() - batch.received
        if took_s > SLOW_BATCH_S:
            self.depth = max(self.slots, self.depth // 2)
        elif took_s < QUICK_BATCH_S and batch.size >= batch.asked:
            self.depth = max(self.depth, min(MAX_DEPTH, max(2 * self.depth, self.slots)))


class _Report:
    """What one report on its way carries."""

    __slots__ = ("results", "returned", "starts", "want")

    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []
        self.returned: list[tuple[int, int]] = []
        self.starts: list[Job] = []
        self.want = 0


def _aged(result: dict[str, Any], now: float) -> dict[str, Any]:
    told = {name: value for name, value in result.items() if name != "ended"}
    told["ended_ago_s"] = _age(result["ended"], now)
    return told


def _age(then: float | None, now: float) -> float:
    return round(max(0.0, now - (now if then is None else then)), 3)
