"""How does job output survive the death of the agent? Captures with names, emptied when what they hold is in the spool.

A pair of files is used by one job after the other and renamed for each, so its name says whose output it holds. What is
not empty when an agent starts was left by one that was killed.
"""

from __future__ import annotations

import os
import re

from cloudsched.agent import spool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudsched.agent.jobs import Job

STREAMS = ("stdout", "stderr")
MAX_SPARE = 40
CHUNK_BYTES = 256 << 10
_NAME = re.compile(r"(?:left\.)?(\d+)\.(\d+)\.(stdout|stderr)")


class Stream:
    """One file of a job attempt, and how much of it is in the spool."""

    __slots__ = ("fd", "key", "name", "path")

    def __init__(self, fd: int, path: str, key: tuple[int, int], name: str) -> None:
        self.fd, self.path, self.key, self.name = fd, path, key, name

    def remove(self) -> None:
        """It is not needed any more."""
        os.close(self.fd)
        try:
            os.unlink(self.path)
        except OSError:
            pass


class NamedCaptures:
    """The files below `folder`."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        os.makedirs(folder, 0o700, exist_ok=True)
        self._spare: list[tuple[Stream, Stream]] = []
        self._pairs: dict[tuple[int, int], tuple[Stream, Stream]] = {}

    def take(self, job: Job) -> tuple[int, int]:
        """Two empty files for `job`, opened for appending and reading: (stdout, stderr). Raises OSError."""
        pair = self._spare.pop() if self._spare else None
        if pair is None:
            first = self._make(job, 0)
            try:
                pair = first, self._make(job, 1)
            except OSError:
                first.remove()
                raise
        else:
            self._rename(pair, job)
        self._pairs[job.key] = pair
        job.logged = [0, 0]
        return pair[0].fd, pair[1].fd

    def pair(self, job: Job) -> tuple[Stream, Stream] | None:
        """The files of a job, while they are its own."""
        return self._pairs.get(job.key)

    def give_back(self, key: tuple[int, int]) -> None:
        """All of it is in the spool, and no process of the job is left."""
        pair = self._pairs.pop(key)
        if len(self._spare) >= MAX_SPARE:
            for one in pair:
                one.remove()
            return
        for one in pair:
            if os.fstat(one.fd).st_size:
                os.ftruncate(one.fd, 0)
        self._spare.append(pair)

    def left_behind(self) -> list[Stream]:
        """What an agent that was killed has left, opened for reading; `remove` each one when it is in the spool."""
        found = []
        for name in sorted(os.listdir(self.folder)):
            path = os.path.join(self.folder, name)
            match = _NAME.fullmatch(name)
            try:
                if match is None or not os.stat(path).st_size:
                    os.unlink(path)
                    continue
                if not name.startswith("left."):
                    os.rename(path, os.path.join(self.folder, "left." + name))
                    path = os.path.join(self.folder, "left." + name)
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError:
                continue
            found.append(Stream(fd, path, (int(match[1]), int(match[2])), match[3]))
        return found

    def close(self) -> None:
        """Close everything and remove the empty files; what is not empty is found again at the next start."""
        for pair in [*self._spare, *self._pairs.values()]:
            for one in pair:
                if os.fstat(one.fd).st_size:
                    os.close(one.fd)
                else:
                    one.remove()
        self._spare, self._pairs = [], {}

    def _make(self, job: Job, number: int) -> Stream:
        path = os.path.join(self.folder, "%s.%s" % (job.label, STREAMS[number]))
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return Stream(os.open(path, flags, 0o600), path, job.key, STREAMS[number])

    def _rename(self, pair: tuple[Stream, Stream], job: Job) -> None:
        for one in pair:
            path = os.path.join(self.folder, "%s.%s" % (job.label, one.name))
            os.rename(one.path, path)
            one.path, one.key = path, job.key


def copy(stream: Stream, offset: int, write: Callable[[bytes], None], *, head: str, final: bool, budget: int) -> int:
    """Move records from `offset` on into the spool, some `budget` bytes of source; returns the new offset."""
    while budget > 0:
        data = os.pread(stream.fd, CHUNK_BYTES, offset)
        if not data:
            break
        lines, length = spool.records(data, offset, final=final and len(data) < CHUNK_BYTES, head=head)
        if not length:
            break
        write(lines)
        offset += length
        budget -= length
    return offset
