"""Where do batches go? Files, standard output, nowhere; HTTP is in `posting`.

`accept` returns True when the batch is the sender's responsibility: it would survive a kill of this process. It returns
False when it gave up because the runner stops, and raises OSError or SendError when it may be tried again.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import threading

from cloudsched.logagent.disk import write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    from cloudsched.logagent.batches import Batch
    from cloudsched.logagent.stats import Stage

    class Sender(Protocol):
        """What a runner asks of a sender. `backlog`: records accepted and not yet delivered."""

        name: str

        def open(self, stage: Stage) -> None: ...

        def accept(self, batch: Batch, stop: threading.Event) -> bool: ...

        def backlog(self) -> int: ...

        def close(self) -> None: ...


class FileSender:
    """Appends each batch as one line, a JSON array (contract 15)."""

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path

    def open(self, stage: Stage) -> None:
        self._stage = stage

    def accept(self, batch: Batch, stop: threading.Event) -> bool:
        line = batch.array() + b"\n"
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            # Other runners may append to the same file.
            fcntl.flock(fd, fcntl.LOCK_EX)
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                write_all(fd, line)
            else:
                _append(fd, line)
        finally:
            os.close(fd)
        self._stage.ok(len(batch.records))
        return True

    def backlog(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held between two batches."""


class DiscardSender:
    """Counts and forgets."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, stage: Stage) -> None:
        self._stage = stage

    def accept(self, batch: Batch, stop: threading.Event) -> bool:
        self._stage.ok(len(batch.records))
        return True

    def backlog(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is held."""


class StdoutSender:
    """One JSON object a line on standard output."""

    _lock = threading.Lock()

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, stage: Stage) -> None:
        self._stage = stage

    def accept(self, batch: Batch, stop: threading.Event) -> bool:
        with self._lock:
            sys.stdout.flush()
            write_all(sys.stdout.fileno(), batch.lines())
        self._stage.ok(len(batch.records))
        return True

    def backlog(self) -> int:
        return 0

    def close(self) -> None:
        """Standard output is not ours to close."""


def _append(fd: int, line: bytes) -> None:
    """All of the line or nothing of it, and on the disk."""
    size = _without_torn_tail(fd)
    try:
        write_all(fd, line)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise


def _without_torn_tail(fd: int) -> int:
    """Cut off a batch that a kill left half written: it was never acknowledged and comes again. Returns the size."""
    size = os.fstat(fd).st_size
    if not size or os.pread(fd, 1, size - 1) == b"\n":
        return size
    start = _last_line(fd, size)
    if os.pread(fd, 1, start) != b"[":
        # Not ours: somebody's last line that lacks its newline.
        write_all(fd, b"\n")
        return size + 1
    os.ftruncate(fd, start)
    return start


def _last_line(fd: int, size: int) -> int:
    """Where the last line begins."""
    at = size
    while at > 0:
        begin = max(0, at - (1 << 16))
        newline = os.pread(fd, at - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        at = begin
    return 0
