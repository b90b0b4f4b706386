"""What happens to a job's processes from start to proof of death? One thread, no waiting: `step` and come back.

When the main process of a job has ended, everything it left behind is killed before the result is told: its
process group, then whatever came to us as an orphan (we are its subreaper) and carries the job's mark.
"""

from __future__ import annotations

import os
import signal
import time

from cloudsched.agent import jobs, log, processes, scratch
from cloudsched.agent.spawn import CannotStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudsched.agent.jobs import Job
    from cloudsched.agent.spawn import Launcher

SAMPLE_S = 1.0
STORAGE_SAMPLE_S = 5.0
SWEEP_S = 0.01


class Runner:
    """Runs jobs; `on_end(job)` is called when the last of its processes is dead."""

    def __init__(
        self, launcher: Launcher, on_end: Callable[[Job], None], *, grace_s: float = 5.0, subreaper: bool = False,
        spared: set[int] | None = None,
    ) -> None:
        self.running: dict[int, Job] = {}
        self._ending: list[Job] = []
        self._launcher = launcher
        self._on_end = on_end
        self._grace_s = grace_s
        self._subreaper = subreaper
        self._spared = set() if spared is None else spared  # children of ours that are no job's
        self._sampled = time.monotonic()

    @property
    def busy(self) -> bool:
        return bool(self.running or self._ending)

    def start(self, job: Job) -> None:
        """Start the process; one that cannot start ends at once, with the reason as its verdict."""
        now = time.monotonic()
        job.started = now
        try:
            job.pid = self._launcher.start(job)
        except CannotStart as error:
            job.verdict = ("failed", "cannot start: %s" % error)
            job.ended = now
            self._on_end(job)
            return
        job.phase = jobs.RUNNING
        self.running[job.pid] = job

    def kill(self, job: Job, verdict: tuple[str, str | None], *, grace_s: float | None = None) -> None:
        """End `job` with `verdict`: SIGTERM to the group, after the grace SIGKILL to all of it."""
        if job.verdict is None:
            job.verdict = verdict
        if job.phase != jobs.RUNNING or job.kill_at is not None:
            return
        grace = self._grace_s if grace_s is None else grace_s
        job.kill_at = time.monotonic() + grace
        if grace > 0:
            _kill_group(job.pid, signal.SIGTERM)
            _kill_group(job.pid, signal.SIGCONT)
        else:
            self._kill_all_of(job)

    def reap(self) -> None:
        """Tell the end of jobs whose processes have ended, and kill what they left behind."""
        self._reap()
        if self._ending:
            self._sweep()

    def step(self) -> None:
        """Reap what ended, enforce limits that are due."""
        self.reap()
        now = time.monotonic()
        for job in list(self.running.values()):
            self._enforce(job, now)
        if now - self._sampled >= SAMPLE_S:
            self._sampled = now
            for job in list(self.running.values()):
                self._sample(job, now)

    def next_due_s(self, now: float) -> float:
        """In how many seconds must `step` be called even when nothing is heard of?"""
        if self._ending:
            return SWEEP_S
        if not self.running:
            return 3600.0
        due = self._sampled + SAMPLE_S
        for job in self.running.values():
            if job.kill_at is not None:
                due = min(due, job.kill_at)
            elif job.time_limit_s is not None and job.started is not None:
                due = min(due, job.started + job.time_limit_s)
        return max(0.0, due - now)

    def _reap(self) -> None:
        ended: list[Job] = []
        childless = False
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                childless = self._subreaper
                break
            if not pid:
                childless = self._subreaper and bool(self._spared and ended) and self._only_spared()
                break
            job = self.running.pop(pid, None)
            if job is None:
                continue  # an orphan that came to us
            _note_end(job, status)
            job.cpu_s = round(usage.ru_utime + usage.ru_stime, 6)
            job.max_rss_mb = max(job.max_rss_mb or 0, _rss_mb(usage.ru_maxrss))
            ended.append(job)
        if childless and not self._ending:  # nothing at all is left: the quick way of a short job
            for job in ended:
                self._on_end(job)
            return
        for job in ended:
            _kill_group(job.pid, signal.SIGKILL)  # while it has a member, its number is not given to others
        self._ending += ended

    def _only_spared(self) -> bool:
        return not self.running and processes.LINUX and self._spared.issuperset(processes.own_children())

    def _sweep(self) -> None:
        """Tell the end of jobs that have no process left, kill what the others have."""
        owners = self._kill_leftovers() if processes.LINUX else set()
        ended, self._ending = self._ending, []
        for job in ended:
            if job.key in owners or None in owners:
                self._ending.append(job)
            else:
                self._on_end(job)

    def _kill_leftovers(self) -> set[tuple[int, int] | None]:
        """Kill orphans of jobs that ended; returns whose they were (None: nobody's that still runs)."""
        current = {job.key for job in self.running.values()}
        owners: set[tuple[int, int] | None] = set()
        for child in processes.own_children():
            if child in self.running or child in self._spared or processes.start_time(child) is None:
                continue
            owner = _owner(child) or self._owner_by_traces(child)
            if owner in current or (owner is None and self._may_be_of_running(child)):
                continue
            owners.add(owner)
            for pid in processes.descendants([child]):
                _kill(pid, signal.SIGKILL)
        return owners

    def _owner_by_traces(self, pid: int) -> tuple[int, int] | None:
        """It shed its mark: whose directory does it stand in, whose output does it hold?"""
        try:
            where = os.readlink("/proc/%d/cwd" % pid) + "/"
        except OSError:
            return None
        held = _held_inodes(pid)
        for job in [*self._ending, *self.running.values()]:
            if job.scratch is not None and where.startswith(os.path.realpath(job.scratch) + "/"):
                return job.key
            if held and any(os.fstat(one).st_ino in held for one in job.captured or ()):
                return job.key
        return None

    def _may_be_of_running(self, pid: int) -> bool:
        """Without mark and trace: could a job that still runs have started it?"""
        started = processes.start_time(pid)
        if started is None:
            return True
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
        now = time.monotonic()
        return any(now - (job.started or now) >= age_s - 0.05 for job in self.running.values())

    def _enforce(self, job: Job, now: float) -> None:
        if job.kill_at is not None:
            if now >= job.kill_at:
                self._kill_all_of(job)
                job.kill_at = now + 0.2
        elif job.time_limit_s is not None and now >= (job.started or now) + job.time_limit_s:
            self.kill(job, ("timeout", "time limit"))

    def _kill_all_of(self, job: Job) -> None:
        below = processes.descendants([job.pid])[1:] if processes.LINUX else []
        _kill_group(job.pid, signal.SIGKILL)
        for pid in below:
            _kill(pid, signal.SIGKILL)

    def _sample(self, job: Job, now: float) -> None:
        if not processes.LINUX or now - (job.started or now) < SAMPLE_S / 2:
            return
        if job.memory_mb:
            family = processes.descendants([job.pid])
            used_mb = processes.resident_mb(family)
            if used_mb > job.memory_mb and len(family) > 1:
                used_mb = processes.proportional_mb(family)
            job.max_rss_mb = max(job.max_rss_mb or 0, int(used_mb))
            if used_mb > job.memory_mb:
                log.say("info", "memory limit", job=job.id, used_mb=int(used_mb), limit_mb=job.memory_mb)
                self.kill(job, ("failed", "memory limit"), grace_s=0)
        if job.storage_gb and now - job.storage_seen >= STORAGE_SAMPLE_S and job.scratch is not None:
            job.storage_seen = now
            used = scratch.used_bytes(job.scratch) + sum(_used_bytes(job, one) for one in job.captured or ())
            if used > job.storage_gb * 1e9:
                self.kill(job, ("failed", "storage limit"), grace_s=0)


def _used_bytes(job: Job, handle: int) -> int:
    """Of a stream that is collected, some may be given back to the disk already."""
    state = os.fstat(handle)
    return state.st_size if job.logged is None else min(state.st_size, state.st_blocks * 512)


def _note_end(job: Job, status: int) -> None:
    job.ended = time.monotonic()
    job.phase = jobs.ENDING
    if os.WIFSIGNALED(status):
        job.signal = os.WTERMSIG(status)
        job.exit_code = 128 + job.signal
    else:
        job.exit_code = os.WEXITSTATUS(status)


def _owner(pid: int) -> tuple[int, int] | None:
    marks = {}
    for entry in processes.environment(pid).split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name in (b"CLOUDSCHED_JOB_ID", b"CLOUDSCHED_ATTEMPT") and value.isdigit():
            marks[name] = int(value)
    if len(marks) < 2:
        return None
    return marks[b"CLOUDSCHED_JOB_ID"], marks[b"CLOUDSCHED_ATTEMPT"]


def _held_inodes(pid: int) -> set[int]:
    found = set()
    for number in (1, 2):
        try:
            found.add(os.stat("/proc/%d/fd/%d" % (pid, number)).st_ino)
        except OSError:
            continue
    return found


def _rss_mb(maxrss: int) -> int:
    return int(maxrss // 1024) if processes.LINUX else int(maxrss // 1_048_576)


def _kill_group(group: int, signal_number: int) -> None:
    try:
        os.killpg(group, signal_number)
    except OSError:
        pass


def _kill(pid: int, signal_number: int) -> None:
    try:
        os.kill(pid, signal_number)
    except OSError:
        pass
