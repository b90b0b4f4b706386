"""Who cleans up when the agent itself is killed? Its guard: a parent that does nothing but wait (Linux).

A job process may shed its environment, its directory and its session; then only descent tells whose it is. While the
agent lives, orphans come back to it. When it is killed they come to the guard, which kills them all and ends. When the
guard is killed, the agent is told to stop at once and does the same.
"""

from __future__ import annotations

import errno
import os
import signal
import time

from cloudsched.agent import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KILL_LIMIT_S = 10.0
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(run: Callable[[], int]) -> int:
    """Run `run` in a child of ours; returns its exit status (128 + signal when it was killed), nothing left behind."""
    if not processes.LINUX or not processes.become_subreaper():
        return run()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return run()
    for number in _FORWARDED:
        signal.signal(number, lambda number, _frame: _send(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    status = _wait_for(child)
    _kill_all()
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def end_with_guard(guard: int) -> None:
    """From now on the death of the guard is a SIGINT for us. Called after a change of user, which forgets it."""
    if guard == os.getpid():  # there is none here: we run by ourselves
        return
    processes.signal_at_death_of_parent(signal.SIGINT)
    if os.getppid() != guard:
        os.kill(os.getpid(), signal.SIGINT)


def _wait_for(child: int) -> int:
    """Reap orphans that come to us meanwhile; returns the child's own status."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return status


def _kill_all() -> None:
    """Everything that descends from us is a job's process without an agent."""
    deadline = time.monotonic() + KILL_LIMIT_S
    while time.monotonic() < deadline:
        left = processes.descendants(processes.children(os.getpid()))
        for pid in left:
            _send(pid, signal.SIGKILL)
        if not _reaped() and not left:
            return
        time.sleep(0.005)


def _reaped() -> bool:
    """Reap what has ended; False when we have no child at all."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except OSError as error:
        return error.errno != errno.ECHILD
    return True


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass
