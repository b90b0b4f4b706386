"""What does the agent do all day? One loop: hear, start, reap, report; it never waits for anything but all at once.

It is long because it is one state: what is held, what was told, what is due; apart, every method would carry it along.
"""

from __future__ import annotations

import gc
import os
import random
import select
import signal
import sys
import time
from collections import deque

from cloudsched.agent import (
    beside,
    guard,
    home,
    jobs,
    lines,
    log,
    logs,
    privileges,
    processes,
    profile,
    side,
    tasks,
    transfer,
)
from cloudsched.agent import book as books
from cloudsched.agent import options as command_line
from cloudsched.agent.book import Book
from cloudsched.agent.runner import Runner
from cloudsched.agent.scratch import Captures, Scratch
from cloudsched.agent.session import Busy, Gone, Session, Unknown
from cloudsched.agent.spawn import Launcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import Any

    from cloudsched.agent.jobs import Job

STREAM_S = 1.0
MAX_BACKOFF_S = 15.0
QUIET_S = 0.5  # nothing began or ended for so long: a poll that only listens is worth opening
STOP_GRACE_S = 0.5
LAST_WORDS_S = 2.0
DOUBT_S = 8.0  # a claim whose answer was lost is seen by the server after 5 s, by two requests that do not name it
DOUBT_POLL_S = 1.0
RUSH_S = 0.01  # while short jobs follow each other, everything but their processes waits that long
RUSH_JOBS = 32
GC_THRESHOLD = 20_000
LEAVE_PATIENCE_S = 10.0  # asked to leave, all done, and the server does not answer
TRANSFER_LINES = 4
DRAIN_PAUSE_S = 2.0  # between two looks while we drain: the server does not hold those
FULL_PAUSE_S = 1.0  # between two looks at a server that holds no more requests

_CHILD_ENDED = bytes([signal.SIGCHLD])

EXIT_OK, EXIT_LOST, EXIT_USAGE, EXIT_UPGRADED = 0, 1, 2, 75


def main(argv: Sequence[str] | None = None) -> int:
    """Run until told to stop. Status: 0 told so or the node is gone, 1 server lost, 2 cannot start at all."""
    options = command_line.parse(argv)
    log.set_level(options.log_level)
    if options.test:
        measured = profile.measure(".", override={"slots": options.slots}, tags=options.tags)
        return EXIT_OK if side.shown_profile(options, _facts(options, measured)) else EXIT_LOST
    own = os.getpid()
    start_beside = lambda: beside.run(options.work_dir, options.run_as, guard=own)  # noqa: E731
    status = guard.guarded(lambda asks: _run(options, own, asks), beside=start_beside)
    if status == EXIT_UPGRADED and os.getpid() == own:
        side.again()
    return status


def _run(options: argparse.Namespace, guard_pid: int, asks: int) -> int:
    try:
        agent = Agent(options, asks)
        guard.end_with_guard(guard_pid)
    except KeyboardInterrupt:  # stopped before there was anything to clean up
        return EXIT_OK
    except (OSError, privileges.CannotBecome, home.AlreadyRunning) as error:
        log.say("error", "cannot start", error=str(error))
        return EXIT_USAGE
    gc.freeze()  # what is loaded stays; of what comes and goes with jobs hardly anything is a cycle
    gc.set_threshold(GC_THRESHOLD)
    return agent.run()


class Agent:
    """One node's agent."""

    def __init__(self, options: argparse.Namespace, asks: int = guard.NO_GUARD) -> None:
        work = options.work_dir
        os.makedirs(work, 0o700, exist_ok=True)
        self._lock = home.lock(work)
        if options.run_as:
            privileges.become(options.run_as, work, secure=options.address.secure)
        self._options = options
        self._mark = home.machine_mark(work)
        home.kill_leftovers(self._mark, work)
        self._scratch = Scratch(os.path.join(work, "scratch"))
        self._scratch.clear()
        self._captures = Captures(os.path.join(work, "capture"))
        override = {name: getattr(options, name) for name in ("cores", "memory_mb", "storage_gb", "slots")}
        facts = _facts(options, profile.measure(work, override=override, tags=options.tags))
        self._side = side.Side(options, facts)
        self._session = Session(
            work, server=options.server, token=options.token, name=options.name, profile=facts
        )
        self._book = Book(facts)
        self._mail: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        for end in (self._wake_read, self._wake_write):
            os.set_blocking(end, False)
        self._report_line = lines.Line("report", options.address, self._post)
        self._poll_line = lines.Line("poll", options.address, self._post)
        self._pool = lines.Pool(TRANSFER_LINES, options.address, self._post)
        self._transfer = transfer.Transfer(self._session.headers, lambda: self._stopping)
        self._logs = logs.Logs(work, options.server, post=self._post, headers=self._session.headers, asks=asks)
        self._runner: Runner | None = None
        self._ends: list[Job] = []  # over, and not written down yet
        self._subreaper = False
        self._exit: int | None = None
        self._stopping = False
        self._leaving = False  # SIGTERM: end when nothing is in hand
        self._over = False  # the machine is no node any more
        self._joining = False
        self._failures = 0
        self._retry_at = 0.0
        self._heard = time.monotonic()  # the server answered
        self._last_move = self._heard  # a job began or ended
        self._listening = False  # the open poll asks for no job
        self._early = 0  # polls answered empty before their time, in a row
        self._poll_at = 0.0
        self._max_wait_s = 30.0
        self._streams_at = 0.0
        self._server_goal = books.RUN

    # -- the loop ----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Returns the exit status; whatever happens, no job process and no scratch directory is left."""
        self._listen_to_signals()
        self._subreaper = processes.become_subreaper()
        log.say("info", "agent starts", pid=os.getpid(), work_dir=self._options.work_dir)
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        try:
            while self._exit is None:
                self._talk()
                if poller.poll(self._pause_ms()):
                    self._rush(poller)
                self._read_mail()
                self._step()
            return self._exit
        finally:
            self._clean_up()

    def _rush(self, poller: select.poll) -> None:
        """Only reap and start, as long as nothing but ends of processes wakes us and more is waiting.

        After each switch to a job's process and back the memory of this one must be fetched again; so what need not be
        done between two jobs is done for several at once, and that costs a third."""
        until = time.monotonic() + RUSH_S
        while self._drain_wake() and self._book.waiting and not self._stopping and len(self._ends) < RUSH_JOBS:
            assert self._runner is not None
            self._runner.reap()
            self._start_waiting()
            left_ms = int((until - time.monotonic()) * 1000)
            if left_ms <= 0 or not poller.poll(left_ms):
                return

    def _step(self) -> None:
        now = time.monotonic()
        runner = self._runner
        if runner is None:
            return
        if runner.busy:
            runner.step()
        self._start_waiting()
        self._settle_ends()
        self._logs.step(now, runner.running.values())
        self._side.look(now, len(runner.running))
        if runner.running and now >= self._streams_at:
            self._streams_at = now + STREAM_S
            for job in list(runner.running.values()):
                if now - (job.started or now) >= STREAM_S:
                    self._stream(job)
        if self._book.waiting and self._book.give_back_late(now):
            log.say("debug", "waiting jobs are given back")
        self._check_end(now)

    def _pause_ms(self) -> int:
        now = time.monotonic()
        due = 5.0
        if self._runner is not None and self._runner.busy:
            due = min(due, self._runner.next_due_s(now))
        due = min(due, self._logs.due_s(now, self._runner is not None and self._runner.running))
        if not (self._report_line.busy or self._poll_line.busy) or self._book.unsent:
            due = min(due, max(0.0, self._retry_at - now) if self._retry_at > now else 1.0)
        report_s = self._book.report_due_s(now)
        if report_s is not None and not self._report_line.busy:
            due = min(due, max(report_s, self._retry_at - now))
        if not (self._poll_line.busy or self._report_line.busy):
            due = min(due, max(0.001, self._poll_at - now, self._last_move + QUIET_S - now, self._retry_at - now))
        if self._book.waiting:
            due = min(due, 0.5)
        return int(due * 1000) + 1 if due > 0 else 0

    def _post(self, work: Callable[..., None], *args: Any) -> None:
        """From any thread: let the loop call `work(*args)`."""
        self._mail.append((work, args))
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"x")
        except OSError:
            pass  # full: it will wake anyway

    def _drain_wake(self) -> bool:
        """Was it nothing but the end of processes?"""
        try:
            return not os.read(self._wake_read, 65_536).strip(_CHILD_ENDED)
        except OSError:
            return False

    def _read_mail(self) -> None:
        while self._mail:
            work, args = self._mail.popleft()
            work(*args)

    # -- signals and the end -----------------------------------------------------------------------------------

    def _listen_to_signals(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self._asked_to_leave())
        signal.signal(signal.SIGINT, lambda *_: self._stop("interrupted"))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _asked_to_leave(self) -> None:
        if self._leaving:
            self._stop("asked to leave twice")
            return
        self._leaving = True
        log.say("info", "drains: finishes what runs, then ends")
        self._set_goal(books.DRAIN)

    def _set_goal(self, goal: str) -> None:
        if self._leaving and goal == books.RUN:
            goal = books.DRAIN
        if goal == self._book.goal or self._stopping:
            return
        log.say("info", "goal", goal=goal)
        self._book.goal = goal
        if goal == books.STOP:
            self._over = True
            self._stop("the server says stop")
        elif goal == books.DRAIN:
            self._book.give_back_waiting()

    def _stop(self, why: str, *, status: int = EXIT_OK) -> None:
        """Kill everything; the loop ends when it is dead."""
        if self._stopping:
            return
        log.say("info", "stops", why=why)
        self._stopping = True
        self._stop_status = status
        self._stop_at = time.monotonic()
        self._book.goal = books.STOP
        self._book.give_back_waiting()
        if self._runner is None:
            return
        for job in list(self._runner.running.values()):
            job.dropped = True
            self._runner.kill(job, ("cancelled", "the agent stopped"), grace_s=STOP_GRACE_S)

    def _check_end(self, now: float) -> None:
        if not (self._stopping or self._leaving or self._options.once):
            return
        busy = self._runner is not None and self._runner.busy
        if self._stopping:
            waited_s = now - self._stop_at
            if not busy and (not self._book.unsent or waited_s > LAST_WORDS_S or self._failures):
                self._exit = self._stop_status
            return
        if self._leaving and not busy and self._failures and now - self._heard > LEAVE_PATIENCE_S:
            log.say("error", "ends with results that the server did not take: they will be computed again")
            self._exit = EXIT_LOST
            return
        done = self._leaving or (self._early and not self._report_line.busy)
        if done and self._book.idle and not busy:
            self._exit = self._upgraded() if self._side.upgrade else EXIT_OK

    def _upgraded(self) -> int | None:
        """The new version is in its place; or not, and we go on as we are."""
        assert self._side.upgrade
        try:
            side.fetch(self._options.server, self._side.upgrade["sha256"])
        except OSError as error:
            log.say("error", "the upgrade failed", error=str(error))
            self._side.upgrade = {}
            self._leaving = False
            self._set_goal(books.RUN)
            return None
        return EXIT_UPGRADED

    def _clean_up(self) -> None:
        signal.set_wakeup_fd(-1)
        self._poll_line.abandon()
        self._pool.abandon()
        if self._runner is not None:
            home.kill_leftovers(self._mark, self._options.work_dir)
        self._logs.close(self._book.in_hand.values(), for_good=self._over)
        self._scratch.clear()
        self._captures.close()
        log.say("info", "agent ends", status=self._exit)

    # -- jobs --------------------------------------------------------------------------------------------------

    def _start_waiting(self) -> None:
        while not self._stopping:
            job = self._book.next_to_start()
            if job is None:
                return
            if job.fault is None:
                tasks.prepare(job, self._side.rules, self._side.facts)
            if job.fault is not None:
                job.verdict = ("failed", job.fault)
                job.started = job.ended = time.monotonic()
                self._ended(job)
            elif job.instant:
                job.started = job.ended = time.monotonic()
                job.exit_code = 0
                self._ended(job)
            else:
                self._prepare(job)

    def _prepare(self, job: Job) -> None:
        try:
            job.scratch = self._scratch.take(job.label)
            job.captured = self._logs.take(job) or self._captures.take()
        except OSError as error:
            job.verdict = ("failed", "cannot start: no scratch directory: %s" % error.strerror)
            job.started = job.ended = time.monotonic()
            self._ended(job)
            return
        if not job.inputs:
            self._launch(job)
            return
        self._pool.call(
            lambda connection: self._transfer.fetch_inputs(connection, job),
            lambda result: self._fetched(job, result),
        )

    def _fetched(self, job: Job, result: Any) -> None:
        if isinstance(result, Exception) or job.dropped or self._stopping:
            reason = str(result) if isinstance(result, transfer.Refused) else None
            if isinstance(result, Exception) and not isinstance(result, (transfer.Refused, transfer.Stale)):
                reason = "input files could not be fetched: %s" % result
            job.verdict = job.verdict or ("failed" if reason else "cancelled", reason)
            job.started = job.ended = time.monotonic()
            self._ended(job)
            return
        self._launch(job)

    def _launch(self, job: Job) -> None:
        assert self._runner is not None
        self._runner.start(job)
        if job.phase == jobs.RUNNING:
            self._last_move = job.started or self._last_move
            self._book.begun(job)

    def _ended(self, job: Job) -> None:
        """No process of it is left (or it never had one)."""
        self._last_move = job.ended
        self._book.vacate(job)
        if not job.streaming:  # else a stream is under way, and _streamed comes back to it
            self._ends.append(job)

    def _settle_ends(self) -> None:
        rushed = len(self._ends) > 1
        while self._ends:
            ends, self._ends = self._ends, []
            for job in ends:
                self._settle(job)
        if rushed and self._book.waiting:
            self._scratch.make_ready(self._book.next_labels(RUSH_JOBS))

    def _settle(self, job: Job) -> None:
        """Tell the end of a job, with what it has left: later by a transfer when that is much."""
        left = (transfer.rest(job, 0), transfer.rest(job, 1))
        nothing_to_send = None not in left and (not job.outputs or job.pid == 0)
        if nothing_to_send or job.dropped or self._stopping:
            self._complete(job, left)
        else:
            self._pool.call(
                lambda connection: self._transfer.deliver(connection, job),
                lambda result: self._delivered(job, result),
            )

    def _delivered(self, job: Job, result: Any) -> None:
        if isinstance(result, transfer.Stale):
            job.dropped = True
        elif isinstance(result, Exception):
            job.verdict = job.verdict or ("failed", str(result))
        elif result is not None and job.exit_code == 0 and job.verdict is None:
            job.verdict = ("failed", result)
        self._complete(job, (transfer.rest(job, 0), transfer.rest(job, 1)))

    def _stream(self, job: Job) -> None:
        if job.streaming or job.captured is None or job.phase != jobs.RUNNING:
            return
        if not any(transfer.has_more(job, number) for number in (0, 1)):
            return
        job.streaming = True
        self._pool.call(
            lambda connection: self._transfer.stream(connection, job), lambda result: self._streamed(job, result)
        )

    def _streamed(self, job: Job, result: Any) -> None:
        job.streaming = False
        if isinstance(result, Exception):
            lines.complain("output was not taken", result)
        if job.phase == jobs.SENDING:
            self._ends.append(job)

    def _complete(self, job: Job, left: tuple[str | None, str | None]) -> None:
        self._book.finish(job, _result(job, left))
        self._side.forget(job)
        if job.captured is not None:
            if not self._logs.ended(job):
                self._captures.give_back(job.captured, untouched=left == ("", "") and not any(job.sent))
            job.captured = None
        if job.scratch is not None:
            self._scratch.give_back(job.scratch)
            job.scratch = None

    def _drop(self, key: tuple[int, int]) -> None:
        job = self._book.in_hand.get(key)
        if job is None or job.dropped:
            return
        job.dropped = True
        job.verdict = job.verdict or ("cancelled", None)
        if job.phase == jobs.WAITING:
            self._book.forget_waiting(job)
            job.started = job.ended = time.monotonic()
            self._book.finish(job, _result(job))
        elif self._runner is not None:
            self._runner.kill(job, ("cancelled", None))

    # -- talking -----------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        now = time.monotonic()
        if self._options.orphan_timeout and now - self._heard > self._options.orphan_timeout:
            self._stop("the server is out of reach", status=EXIT_LOST)
        if now < self._retry_at or self._joining:
            return
        if self._runner is None or not self._session.joined:
            self._join()
            return
        if not self._report_line.busy and self._report_due(now):
            body = self._book.report()
            self._with_metrics(body, now)
            self._report_line.call(lambda connection: self._session.sync(connection, body), self._reported)
        if self._listening and self._book.want() > 0 and not (self._book.unsent or self._report_line.busy):
            self._listening = False  # it asks for nothing, so nothing is lost with it
            self._poll_line.abandon()
        if not self._poll_line.busy and self._poll_due(now):
            self._open_poll(now)

    def _report_due(self, now: float) -> bool:
        due_s = self._book.report_due_s(now)
        if (due_s is not None and due_s <= 0) or self._side.urgent or self._side.due(now):
            return True
        return not self._poll_line.busy and now - self._heard > self._session.heartbeat_s

    def _poll_due(self, now: float) -> bool:
        if self._stopping or now < self._poll_at or self._report_line.busy:
            return False
        if self._leaving and not self._book.in_hand:
            return False
        if self._book.want() > 0 and not self._book.unsent:
            return True
        return now - self._last_move >= QUIET_S

    def _open_poll(self, now: float) -> None:
        wait_s = 0.0 if self._options.once else min(self._session.long_poll_s, self._max_wait_s, 30.0)
        self._listening = self._book.want() == 0
        if self._listening:
            # Abandoned when a job ends, and then it may hold a thread of the server until its time is over: so no
            # longer than it has been quiet already.
            wait_s = round(min(wait_s, max(QUIET_S, now - self._last_move)), 2)
        listening = self._listening
        if now - self._session.doubtful_at < DOUBT_S:
            wait_s = min(wait_s, DOUBT_POLL_S)
        body = self._book.poll(wait_s)
        self._with_metrics(body, now)
        self._poll_line.call(
            lambda connection: self._session.sync(connection, body),
            lambda result: self._polled(result, now, wait_s, listening),
        )

    def _with_metrics(self, body: dict[str, Any], now: float) -> None:
        self._side.extend(body, now, () if self._runner is None else list(self._runner.running.values()))

    def _reported(self, result: Any) -> None:
        if isinstance(result, Exception):
            self._book.report_failed()
            self._failed(result)
            return
        asked = self._book.report_done()
        self._heed(result, asked)

    def _polled(self, result: Any, began: float, wait_s: float, listening: bool) -> None:
        asked = self._book.poll_done()
        if listening and not self._listening:
            return  # abandoned
        self._listening = False
        if isinstance(result, Exception):
            self._failed(result)
            return
        held_s = time.monotonic() - began
        told = self._heed(result, asked)
        if told or held_s > wait_s * 0.8:
            self._early = 1 if self._options.once and not told else 0
        else:
            # Answered before its time with nothing: once may be a lost race, again and again means it cannot hold.
            self._early += 1
            most_s = self._max_wait_s if self._server_goal == books.RUN else DRAIN_PAUSE_S
            self._poll_at = max(self._poll_at, time.monotonic() + min(most_s, 0.05 * 2 ** min(self._early, 10)))

    def _heed(self, answer: dict[str, Any], asked: int) -> bool:
        """Do what an answer says; True when it said anything new."""
        self._failures = 0
        self._heard = time.monotonic()
        given = answer.get("jobs")
        given = given if isinstance(given, list) else []
        for complaint in self._book.take(given, asked):
            log.say("warning", "an answer was not understood", problem=complaint)
        if asked:
            self._book.more = len(given) >= asked
        if given and (self._book.goal != books.RUN):
            self._book.give_back_waiting()
        dropped = _keys(answer.get("drop"))
        for key in dropped:
            self._drop(key)
        for key in _keys(answer.get("refused")):
            log.say("info", "the server did not take a result: the attempt is not ours any more", job=key[0])
        wait_s = answer.get("wait_s")
        if isinstance(wait_s, (int, float)) and not isinstance(wait_s, bool) and 0 <= wait_s <= 3600:
            if wait_s >= FULL_PAUSE_S:
                self._max_wait_s = float(wait_s)
            else:  # it cannot hold requests now
                self._poll_at = time.monotonic() + FULL_PAUSE_S * random.uniform(0.5, 1.0)  # noqa: S311
        pinged = self._side.heed(answer)
        if self._side.upgrade and not self._leaving:
            self._leaving = True  # as when asked to leave; then main() starts the new version
            self._set_goal(books.DRAIN)
        goal = answer.get("goal")
        changed = goal in (books.RUN, books.DRAIN, books.STOP) and goal != self._server_goal
        if changed:
            self._server_goal = str(goal)
            self._set_goal(self._server_goal)
        return bool(given or dropped or changed or pinged)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, Gone):
            self._session.forget()
            self._over = True
            self._stop("the node is gone")
            self._failures += 1
            return
        if isinstance(error, Unknown):
            log.say("warning", "the secret is not valid any more: joins again")
            self._session.node_id = None
            self._retry_at = 0.0
            return
        self._back_off(error)

    def _back_off(self, error: Exception) -> None:
        if self._stopping:
            self._failures += 1
            return
        pause_s = min(1.0 if self._leaving else MAX_BACKOFF_S, 0.1 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0)  # noqa: S311
        if isinstance(error, Busy):
            pause_s = max(pause_s, error.retry_after_s)
        self._failures += 1
        self._retry_at = time.monotonic() + pause_s
        level = "warning" if self._failures in (1, 10) or self._failures % 100 == 0 else "debug"
        log.say(level, "the server is out of reach", error=str(error) or repr(error), retry_in_s=round(pause_s, 1))

    # -- joining -----------------------------------------------------------------------------------------------

    def _join(self) -> None:
        if self._stopping or self._leaving:
            self._failures += 1
            self._exit = EXIT_OK if self._runner is None else None
            return
        self._joining = True
        self._report_line.call(self._session.join, self._joined)

    def _joined(self, result: Any) -> None:
        self._joining = False
        if isinstance(result, Gone):
            self._session.forget()
            self._over = True
            if self._runner is None:  # what an earlier life left is still the server's
                self._logs.remembered()
            self._stop("the node is gone")
            self._failures += 1
            self._exit = EXIT_OK if self._runner is None else None
            return
        if isinstance(result, Unknown) and self._runner is None:
            if not self._session.joined:
                log.say("error", "the server refuses the token", detail=str(result))
                self._exit = EXIT_USAGE
                return
            log.say("info", "the token is used up: goes on with the secret of the last start")
            self._logs.remembered()
        elif isinstance(result, Exception):
            self._back_off(result)
            return
        else:
            self._session.welcome(result)
            self._heard = time.monotonic()
            self._failures = 0
            self._logs.told(result.get("logs"))
            log.say("info", "joined", node=self._session.name, node_id=self._session.node_id)
        if self._runner is None:
            self._runner = Runner(
                self._launcher(), self._ended, grace_s=self._options.grace, subreaper=self._subreaper, spared=self._logs.pids
            )

    def _launcher(self) -> Launcher:
        own = {"CLOUDSCHED_NODE": str(self._session.name), "CLOUDSCHED_MACHINE": self._mark}
        if os.environ.get("CLOUDSCHED_INSTANCE"):
            own["CLOUDSCHED_INSTANCE"] = os.environ["CLOUDSCHED_INSTANCE"]
        base = {"PATH": os.environ.get("PATH") or os.defpath}
        return Launcher(os.path.join(self._options.work_dir, "capture"), base_env=base, own_env=own)


def _result(job: Job, left: tuple[str | None, str | None] = ("", "")) -> dict[str, Any]:
    state, reason = job.verdict or (("succeeded", None) if job.exit_code == 0 else ("failed", _why_failed(job)))
    return {
        "id": job.id,
        "attempt": job.attempt,
        "state": state,
        "exit_code": job.exit_code,
        "signal": job.signal,
        "reason": reason,
        "stdout": left[0] or "",
        "stderr": left[1] or "",
        "ran_s": round(job.ended - (job.started or job.ended), 6),
        "cpu_s": job.cpu_s,
        "max_rss_mb": job.max_rss_mb,
        "result": None if job.payload is None else tasks.result(job),
    }


def _facts(options: argparse.Namespace, measured: dict[str, Any]) -> dict[str, Any]:
    """The profile of this agent: as a device it says more of itself."""
    measured["kinds"] = list(options.rules.kinds)
    if not options.device:
        return measured
    from cloudsched.agent import device  # loaded where a device needs it


    return device.describe(measured, options.work_dir, device_id=options.device_id, role=options.role, kinds=options.rules.kinds,
                           tags=options.tags, interval_s=options.heartbeat_interval or 60)


def _why_failed(job: Job) -> str:
    if job.signal is None:
        return "exit code %s" % job.exit_code
    try:
        return "killed by signal %d (%s)" % (job.signal, signal.Signals(job.signal).name)
    except ValueError:
        return "killed by signal %d" % job.signal


def _keys(value: Any) -> list[tuple[int, int]]:
    if not isinstance(value, list):
        return []
    return [(one[0], one[1]) for one in value if isinstance(one, list) and len(one) == 2]


if __name__ == "__main__":
    sys.exit(main())
