"""Whose work directory is it? One agent's at a time: its lock, its mark on processes, what an earlier life left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time

from cloudsched.agent import log, processes
from cloudsched.agent.session import write_private


class AlreadyRunning(Exception):
    """Another agent uses the work directory."""


def lock(work_dir: str) -> int:
    """Only one agent in a work directory; the lock goes with the process."""
    handle = os.open(os.path.join(work_dir, "agent.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise AlreadyRunning("another agent uses the work directory %s" % work_dir) from None
    os.ftruncate(handle, 0)
    os.write(handle, json.dumps({"pid": os.getpid()}).encode())
    return handle


def machine_mark(work_dir: str) -> str:
    """What tells this work directory's job processes from all others, over restarts."""
    given = os.environ.get("CLOUDSCHED_MACHINE")
    if given:
        return given
    path = os.path.join(work_dir, "machine")
    try:
        with open(path) as file:
            mark = file.read().strip()
        if mark:
            return mark
    except OSError:
        pass
    mark = os.urandom(8).hex()
    write_private(path, mark)
    return mark


def kill_leftovers(mark: str, work_dir: str) -> None:
    """Processes of jobs that an earlier life of this agent left behind."""
    if not processes.LINUX:
        return
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        left = [one for one in processes.marked({"CLOUDSCHED_MACHINE": mark}) if _is_job(one[0])]
        left += processes.standing_in(os.path.join(work_dir, "scratch"))
        if not left:
            return
        for pid, started in left:
            processes.send(pid, started, signal.SIGKILL)
        time.sleep(0.01)
    log.say("error", "processes of earlier jobs cannot be killed", pids=sorted({pid for pid, _ in left}))


def _is_job(pid: int) -> bool:
    return b"CLOUDSCHED_JOB_ID=" in processes.environment(pid)
