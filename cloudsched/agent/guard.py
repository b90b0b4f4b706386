"""Who cleans up when the agent itself is killed? Its guard: a parent that does nothing but wait (Linux).

A job process may shed its environment, its directory and its session; then only descent tells whose it is. While the
agent lives, orphans come back to it. When it is killed they come to the guard, which kills them all and ends. When the
guard is killed, the agent is told to stop at once and does the same.

The guard also starts what runs beside the agent, when the agent asks for it: it has not become another user, so it can
still read the program. It takes no orders: there is one thing to start, once at a time, and that becomes the user first.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from cloudsched.agent import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

KILL_LIMIT_S = 10.0
NO_GUARD = -1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def guarded(run: Callable[[int], int], *, beside: Callable[[], int]) -> int:
    """Run `run(asks)` in a child of ours; returns its exit status (128 + signal when it was killed), nothing left behind.

    A byte written to `asks` has `beside()` run in another child, unless it still runs. NO_GUARD: there is nobody to ask.
    """
    if not processes.LINUX or not processes.become_subreaper():
        return run(NO_GUARD)
    asked, asks = os.pipe()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        os.close(asked)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        return run(asks)
    os.close(asks)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _frame: _send(child, number))
    wake = _wake_at_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    status = _wait_for(child, asked, wake, beside)
    _kill_all()
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)


def end_with_guard(guard: int) -> None:
    """From now on the death of the guard is a SIGINT for us. Called after a change of user, which forgets it."""
    if guard == os.getpid():  # there is none here: we run by ourselves
        return
    processes.signal_at_death_of_parent(signal.SIGINT)
    if os.getppid() != guard:
        os.kill(os.getpid(), signal.SIGINT)


def _wake_at_signals() -> int:
    """A descriptor that can be read when a child has ended."""
    wake, end = os.pipe()
    for one in (wake, end):
        os.set_blocking(one, False)
    signal.set_wakeup_fd(end, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return wake


def _wait_for(child: int, asked: int, wake: int, beside: Callable[[], int]) -> int:
    """Reap orphans that come to us meanwhile, start what is asked for; returns the child's own status."""
    poller = select.poll()
    poller.register(wake, select.POLLIN)
    poller.register(asked, select.POLLIN)
    other, wanted = 0, False
    while True:
        for pid, status in _ended():
            if pid == child:
                return status
            if pid == other:
                other = 0
        ready = dict(poller.poll())
        if wake in ready:
            os.read(wake, 4096)
        if asked in ready and not os.read(asked, 4096):  # the agent is about to end
            poller.unregister(asked)
        elif asked in ready:
            wanted = True
        if wanted and not other:
            other, wanted = _start(beside, (asked, wake)), False


def _ended() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status))


def _start(beside: Callable[[], int], close: tuple[int, ...]) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (*_FORWARDED, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        for handle in close:
            os.close(handle)
        os.setpgid(0, 0)  # Ctrl-C is for the agent, which ends it
        status = beside()
    finally:
        os._exit(status)


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
