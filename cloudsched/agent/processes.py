"""Which processes are ours, and are they really dead? Linux answers through /proc; elsewhere only groups are known.

A process is named by its id and its start time, so that a reused id is never mistaken for it. Jobs are found by
what their environment carries and by where they came from: a subreaper gets the orphans of its descendants.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LINUX = sys.platform.startswith("linux")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> bool:
    """Let orphans of our descendants come to us instead of to init; False where that does not exist."""
    return _prctl(PR_SET_CHILD_SUBREAPER, 1)


def signal_at_death_of_parent(number: int) -> bool:
    """Be sent this signal when our parent ends; forgotten by a change of user. False where that does not exist."""
    return _prctl(PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> bool:
    if not LINUX:
        return False
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        return bool(libc.prctl(option, value, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def start_time(pid: int) -> int | None:
    """Start of a living process in ticks since boot; None when there is none (a zombie is none).

    Without /proc the answer is 0 for any process that exists.
    """
    if not LINUX:
        return 0 if _exists(pid) else None
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    if len(fields) < 20 or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])


def alive(pid: int, started: int) -> bool:
    """Is the very process that had this id and start time still there?"""
    return start_time(pid) == started


def send(pid: int, started: int, signal_number: int) -> bool:
    """Signal exactly that process; False when it is gone. Race-free where process descriptors exist."""
    if not hasattr(os, "pidfd_open"):
        return alive(pid, started) and _kill(pid, signal_number)
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return alive(pid, started) and _kill(pid, signal_number)
    try:
        if not alive(pid, started):
            return False
        signal.pidfd_send_signal(handle, signal_number)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def environment(pid: int) -> bytes:
    """What /proc shows of its environment, entries ended by NUL; empty when unreadable."""
    try:
        with open("/proc/%d/environ" % pid, "rb") as file:
            return file.read()
    except OSError:
        return b""


def marked(marks: Mapping[str, str]) -> list[tuple[int, int]]:
    """Every living process but ourselves whose environment carries all `marks`: `(pid, start time)`."""
    wanted = [("%s=%s" % item).encode("utf-8", "surrogateescape") for item in marks.items()]
    found = []
    for pid in every_pid():
        started = start_time(pid)
        if started is None:
            continue
        entries = environment(pid).split(b"\0")
        if all(mark in entries for mark in wanted):
            found.append((pid, started))
    return found


def standing_in(folder: str) -> list[tuple[int, int]]:
    """Every living process but ourselves whose working directory is in `folder`: those that shed their marks."""
    root = os.path.realpath(folder)
    found = []
    for pid in every_pid():
        try:
            where = os.readlink("/proc/%d/cwd" % pid)
        except OSError:
            continue
        if where == root or where.startswith(root + "/"):
            started = start_time(pid)
            if started is not None:
                found.append((pid, started))
    return found


def every_pid() -> list[int]:
    """Ids of all processes that can be seen, without our own."""
    if not LINUX:
        return []
    own = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != own]


def children(pid: int) -> list[int]:
    """Direct children, zombies included."""
    found: list[int] = []
    try:
        threads = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return found
    for thread in threads:
        try:
            found += _children_of(pid, thread)
        except OSError:
            if not os.path.exists("/proc/self/task/%d/children" % os.getpid()):
                return _children_by_parent(pid)
    return found


def own_children() -> list[int]:
    """Children that the calling thread has started and orphans that came to us, zombies included: one file is read where
    `children` reads one for each thread, so jobs may be started by one thread alone."""
    own = os.getpid()
    found: list[int] = []
    for thread in {own, threading.get_native_id()}:
        try:
            found += _children_of(own, thread)
        except OSError:
            return children(own)
    return found


def descendants(roots: Iterable[int]) -> list[int]:
    """`roots` and everything below them, parents first."""
    found = list(roots)
    seen = set(found)
    for pid in found:
        for child in children(pid):
            if child not in seen:
                seen.add(child)
                found.append(child)
    return found


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of these processes together; pages they share count once for each."""
    pages = 0
    for pid in pids:
        try:
            with open("/proc/%d/statm" % pid, "rb") as file:
                pages += int(file.read().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 1_048_576


def proportional_mb(pids: Iterable[int]) -> float:
    """Like `resident_mb`, with shared pages divided among their users; slower, and exact before a kill."""
    total_kb = 0
    for pid in pids:
        try:
            with open("/proc/%d/smaps_rollup" % pid, "rb") as file:
                for line in file:
                    if line.startswith(b"Pss:"):
                        total_kb += int(line.split()[1])
                        break
        except (OSError, ValueError):
            total_kb += int(resident_mb([pid]) * 1024)
    return total_kb / 1024


def kill_until_gone(marks: Mapping[str, str], *, folder: str | None = None, timeout_s: float = 10.0) -> bool:
    """SIGKILL everything that carries `marks` (or stands in `folder`), and all that descends from it, until none is left;
    True when proved. Children go before parents: while an agent lives, what shed its marks is still below it."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.002
    while True:
        found = marked(marks) + (standing_in(folder) if folder else [])
        if not found:
            return True
        if time.monotonic() > deadline:
            return False
        below = [(pid, start_time(pid)) for pid in reversed(descendants(pid for pid, _ in found)) if pid != os.getpid()]
        for pid, started in below:
            if started is not None:
                send(pid, started, signal.SIGKILL)
        time.sleep(pause_s)
        pause_s = min(0.05, pause_s * 2)


def _children_of(pid: int, thread: int | str) -> list[int]:
    with open("/proc/%d/task/%s/children" % (pid, thread), "rb") as file:
        return [int(word) for word in file.read().split()]


def _children_by_parent(parent: int) -> list[int]:
    found = []
    for pid in every_pid():
        try:
            with open("/proc/%d/stat" % pid, "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                    found.append(pid)
        except (OSError, IndexError, ValueError):
            continue
    return found


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _kill(pid: int, signal_number: int) -> bool:
    try:
        os.kill(pid, signal_number)
    except OSError:
        return False
    return True
