"""How do logs outlive the machine? A log agent beside this one, and what it is given to read.

The server says at joining whether that is wanted (docs/design/logagent.md). Then job output and the agent's own log go, as
records, into the spool, which a log agent of our own follows; it is started again when it dies, told the runners that the
server wants, and ended last, after it has delivered what there is or its time is over.

Everything here is called by the agent's one loop, `_note` apart; what must wait for an answer is done on a line.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque

from cloudsched.agent import captures, log, scratch, spool
from cloudsched.agent.captures import NamedCaptures, Stream
from cloudsched.agent.keeper import Keeper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from cloudsched.agent.jobs import Job

STEP_S = 0.5
TIDY_S = 1.0
STEP_BYTES = 1 << 20
QUICK_BYTES = 65_536
NOTES_KEPT = 1000
BLOCKED_S = 5.0


class Tail:
    """The end of a stream whose job is over: `offset` is how far it is in the spool."""

    __slots__ = ("head", "last", "offset", "stream")

    def __init__(self, stream: Stream, offset: int, head: str, *, last: Callable[[], None]) -> None:
        self.stream, self.offset, self.head, self.last = stream, offset, head, last


class Logs:
    """Off until the server wants it; then a job that writes nothing costs two renames."""

    def __init__(self, work: str, server: str, *, post: Callable[..., None], headers: Callable[[], dict[str, str]],
                 asks: int) -> None:  # fmt: skip
        self._folder = os.path.join(work, "logs")
        self._keeper = Keeper(self._folder, server, asks=asks, post=post, headers=headers, on_told=self.told)
        self.pids = self._keeper.pids
        self._wanted: dict[str, Any] | None = None
        self._members: dict[str, str] = {}
        self._files: NamedCaptures | None = None
        self._spool: spool.Spool | None = None
        self._tails: deque[Tail] = deque()
        self._notes: deque[bytes] = deque(maxlen=NOTES_KEPT)
        self._lost_bytes = 0
        self._told_lost = 0
        self._step_at = self._tidy_at = 0.0
        self._more = False
        self._blocked_until = 0.0

    # -- what the server wants -----------------------------------------------------------------------------------

    def told(self, wanted: object) -> None:
        """What a join answered: `logs` of the protocol, None when nothing is to be collected."""
        if not isinstance(wanted, dict):
            self._switch_off()
            return
        try:
            self._switch_on(wanted)
        except (OSError, KeyError, TypeError, ValueError) as error:
            log.say("error", "logs cannot be collected", error=str(error) or repr(error))

    def remembered(self) -> None:
        """The secret of the last start is used again: so is what was told then."""
        try:
            with open(os.path.join(self._folder, "told.json")) as file:
                self.told(json.load(file))
        except (OSError, ValueError):
            pass

    def _switch_on(self, wanted: dict[str, Any]) -> None:
        self._keeper.tell(wanted)
        self._wanted = wanted
        self._members = {name: str(value) for name, value in wanted["members"].items() if value}
        if self._spool is None:
            checkpoint = self._keeper.checkpoint(str(wanted["reader"]))
            self._spool = spool.Spool(os.path.join(self._folder, "spool"), checkpoint, limit_bytes=int(wanted["spool_bytes"]))
            if self._files is None:
                self._files = NamedCaptures(os.path.join(self._folder, "jobs"))
                self._rescue()
            log.tee(self._note)

    def _rescue(self) -> None:
        """Output that an earlier life had not put into the spool yet."""
        assert self._files is not None
        for stream in self._files.left_behind():
            self._add_tail(stream, spool.first_byte(stream.fd), last=stream.remove)

    def _switch_off(self) -> None:
        if self._wanted is None and not os.path.isdir(self._folder):
            return
        log.tee(None)
        self._wanted = None
        self._keeper.dismiss()
        self._tails.clear()
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        if self._files is None:
            scratch.remove_tree(self._folder)  # else jobs still write there; removed at the end

    # -- job output ----------------------------------------------------------------------------------------------

    def take(self, job: Job) -> tuple[int, int] | None:
        """Files for the output of `job`: (stdout, stderr); None when it is not collected. Raises OSError."""
        if self._spool is None or self._files is None:
            return None
        return self._files.take(job)

    def ended(self, job: Job) -> bool:
        """No process of `job` is left and its result is made; False when its files are not ours."""
        pair = self._files.pair(job) if self._files is not None else None
        if pair is None or job.logged is None:
            return False
        left = [os.fstat(one.fd).st_size - offset for one, offset in zip(pair, job.logged)]  # noqa: B905 - 3.8
        if self._spool is None or not any(left):
            self._give_back(job.key)
            return True
        count = [sum(1 for size in left if size)]

        def last() -> None:
            count[0] -= 1
            if not count[0]:
                self._give_back(job.key)

        for number in (0, 1):
            if left[number]:
                self._add_tail(pair[number], job.logged[number], last=last)
        if sum(left) <= QUICK_BYTES and len(self._tails) <= 2:
            self._copy_tails(QUICK_BYTES)
        return True

    def step(self, now: float, running: Iterable[Job]) -> None:
        """Some work for the loop; `due_s` says when more is due."""
        if self._spool is None:
            if self._keeper.there:
                self._keeper.watch(now)
            return
        if not self._more and now < self._step_at:
            return
        self._step_at, self._more = now + STEP_S, False
        self._write_notes()
        self._copy_tails(STEP_BYTES)
        for job in list(running):
            self._copy_running(job)
        if now >= self._tidy_at:
            self._tidy_at = now + TIDY_S
            self._spool.tidy()
            self._keeper.watch(now)
            self._keeper.talk(now)

    def due_s(self, now: float, running: object) -> float:
        """In how many seconds must `step` be called?"""
        if self._wanted is None:
            return TIDY_S if self._keeper.there else 3600.0
        if self._more:
            return 0.0
        return max(0.0, (self._step_at if running or self._tails or self._notes else self._tidy_at) - now)

    def _give_back(self, key: tuple[int, int]) -> None:
        assert self._files is not None
        self._files.give_back(key)

    def _add_tail(self, stream: Stream, offset: int, *, last: Callable[[], None]) -> None:
        self._tails.append(Tail(stream, offset, self._head(stream), last=last))

    def _head(self, stream: Stream) -> str:
        job, attempt = stream.key
        return spool.head_of({"time": spool.utc(), **self._members, "job": job, "attempt": attempt, "stream": stream.name})

    def _copy_tails(self, budget: int) -> None:
        while self._tails and budget > 0:
            tail = self._tails[0]
            before = tail.offset
            tail.offset = self._copy(tail.stream, tail.offset, tail.head, final=True, budget=budget)
            budget -= max(1, tail.offset - before)
            left = os.fstat(tail.stream.fd).st_size - tail.offset
            if left and not self._full():
                self._more = True
                return
            self._lost_bytes += left
            self._tails.popleft()
            tail.last()

    def _copy_running(self, job: Job) -> None:
        pair = self._files.pair(job) if self._files is not None else None
        if pair is None or job.logged is None or self._full():
            return
        for number in (0, 1):
            size = os.fstat(pair[number].fd).st_size
            if size == job.logged[number]:
                continue
            head = self._head(pair[number])
            job.logged[number] = self._copy(pair[number], job.logged[number], head, final=False, budget=STEP_BYTES)
            self._more = self._more or size - job.logged[number] > spool.LONGEST_LINE

    def _copy(self, stream: Stream, offset: int, head: str, *, final: bool, budget: int) -> int:
        if self._full() or self._spool is None:
            return offset
        try:
            return captures.copy(stream, offset, self._spool.write, head=head, final=final, budget=budget)
        except OSError as error:
            self._blocked_until = time.monotonic() + BLOCKED_S
            log.say("warning", "the spool cannot be written", error=error.strerror)
            return offset

    def _full(self) -> bool:
        return self._spool is None or self._spool.full or time.monotonic() < self._blocked_until

    # -- our own log ---------------------------------------------------------------------------------------------

    def _note(self, level: str, text: str) -> None:
        """From any thread."""
        self._notes.append(spool.note(level, text, self._members))

    def _write_notes(self) -> None:
        if self._full() or self._spool is None:
            return
        if self._lost_bytes > self._told_lost:
            lost, self._told_lost = self._lost_bytes - self._told_lost, self._lost_bytes
            self._note("warning", "%d bytes of job output were not collected: too much was waiting to be delivered" % lost)
        try:
            while self._notes:
                self._spool.write(self._notes[0])
                self._notes.popleft()
        except OSError:
            self._more = False

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, jobs: Iterable[Job], *, for_good: bool) -> None:
        """Put the rest into the spool, let the log agent deliver it within its limit, end it. `for_good`: the machine
        is no node any more, nothing of it is kept."""
        if self._spool is not None and self._wanted is not None:
            for job in jobs:
                self.ended(job)
            while self._tails and not self._full():
                self._copy_tails(STEP_BYTES)
            self._write_notes()
            self._spool.close()
            flush_s = float(self._wanted["flush_s"])
        else:
            flush_s = 0.0
        log.tee(None)
        until = time.monotonic() + flush_s
        if flush_s and for_good:
            self._keeper.make_ready(until)
        self._keeper.stop(until)
        if self._files is not None:
            self._files.close()
        if flush_s:
            self._keeper.say_goodbye()
        self._keeper.close()
        if for_good or self._wanted is None:
            scratch.remove_tree(self._folder)
