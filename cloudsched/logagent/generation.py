"""Which file is it, and how far is it read? One generation: what one writer wrote between two rotations.

A generation is known by its inode and two fingerprints: its first bytes (`head`) and the bytes just before the position
(`guard`). The guard is read again with every read, in the same system call, so a file that was truncated and has grown
past the old position is noticed although its size says nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass

from cloudsched.logagent.lines import cut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.lines import Framing, Records

    Key = tuple[int, int]

HEAD_BYTES, GUARD_BYTES = 256, 64
READ_BYTES = 256 * 1024
QUIET_S = 1.0


class Replaced(Exception):
    """The file no longer continues what was read: truncated, or other bytes stand there."""


@dataclass(frozen=True)
class Position:
    """The next byte to deliver, and the bytes just before it."""

    offset: int = 0
    guard: bytes = b""

    def after(self, data: bytes, length: int) -> Position:
        """The position when the first `length` bytes of `data` are delivered."""
        return Position(self.offset + length, (self.guard + data[max(0, length - GUARD_BYTES) : length])[-GUARD_BYTES:])


START = Position()


class Chunk:
    """Records read from one generation, and the position after each of them."""

    __slots__ = ("_body", "_start", "generation", "records", "taken")

    def __init__(self, generation: Generation, start: Position, body: bytes, records: Records) -> None:
        self.generation, self._start, self._body, self.records = generation, start, body, records
        self.taken = 0

    def position(self, count: int) -> Position:
        return self._start.after(self._body, self.records.end(count))


class Generation:
    """One file, wherever it was moved to. `read` runs ahead of `acked`; only `acked` is written down."""

    def __init__(self, path: str, *, key: Key, position: Position = START, head: bytes = b"") -> None:
        self.path = self.location = path
        self.key, self.head = key, head
        self.read = self.acked = position
        self.moved = False
        self.fd: int | None = None
        self.size = 0  # when it was last looked at
        self.found_bytes = 0  # when it was found: known before the first look
        self.mtime_ns = 0
        self.grown_at = 0.0
        self.used_at = 0.0

    def open(self) -> bool:
        """Have a descriptor of exactly this file; False when another one lies there now."""
        if self.fd is not None:
            return True
        try:
            fd = os.open(self.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return False
        if key_of(os.fstat(fd)) != self.key:
            os.close(fd)
            return False
        self.fd = fd
        return True

    def close(self) -> None:
        if self.fd is not None:
            with contextlib.suppress(OSError):
                os.close(self.fd)
            self.fd = None

    def lag(self) -> tuple[int, int]:
        """(bytes that are not acknowledged, bytes in all). Asked for by other threads: touches no descriptor."""
        size = self.size if self.grown_at else max(self.size, self.found_bytes)
        return max(0, size - self.acked.offset), size

    def look(self, now: float) -> int:
        """Bytes not yet read. Notices growth; raises Replaced when the file is shorter than what was read."""
        state = self._stat()
        if state is None:
            return 0
        if state.st_size != self.size or not self.grown_at:
            self.size, self.grown_at = state.st_size, now
        self.mtime_ns = state.st_mtime_ns
        if state.st_size < self.read.offset:
            raise Replaced
        return state.st_size - self.read.offset

    def next(self, framing: Framing, now: float) -> Chunk | None:
        """The next records, or None. The descriptor is open. Raises Replaced as `look` does, or for other bytes."""
        assert self.fd is not None
        limit = READ_BYTES
        while True:
            body = self._body(limit)
            complete = len(body) < limit
            quiet = complete and now - self.grown_at >= QUIET_S
            records = cut(body, framing, complete=complete, quiet=quiet)
            if records is not None or complete or limit > framing.max_line_bytes:
                break
            limit = framing.max_line_bytes + 4
        if records is None:
            return None
        chunk = Chunk(self, self.read, body, records)
        self.read = chunk.position(len(records.texts))
        self.used_at = now
        return chunk

    def nameless(self) -> bool:
        """Is it deleted, and only our descriptor keeps it?"""
        return self.fd is not None and os.fstat(self.fd).st_nlink == 0

    def ended(self) -> bool:
        """Is there nothing behind what was acknowledged?"""
        return self.fd is not None and os.fstat(self.fd).st_size == self.acked.offset

    def saved(self) -> dict[str, Any]:
        """What the checkpoint keeps: digests, not bytes of the log."""
        head = self.head
        return {
            "path": self.path, "inode": self.key[1], "offset": self.acked.offset, "moved": self.moved,
            "mtime_ns": self.mtime_ns, "head": [len(head), digest(head)],
            "guard": [len(self.acked.guard), digest(self.acked.guard)],
        }  # fmt: skip

    def _stat(self) -> os.stat_result | None:
        if self.fd is not None:
            return os.fstat(self.fd)
        try:
            state = os.stat(self.location)
        except OSError:
            return None
        return state if key_of(state) == self.key else None

    def _body(self, limit: int) -> bytes:
        assert self.fd is not None
        guard = self.read.guard
        data = os.pread(self.fd, len(guard) + limit, self.read.offset - len(guard))
        if not data.startswith(guard):
            raise Replaced
        if len(self.head) < HEAD_BYTES and len(self.head) < self.read.offset + len(data):
            head = os.pread(self.fd, HEAD_BYTES, 0)
            if not head.startswith(self.head):
                raise Replaced
            self.head = head
        return data[len(guard) :]


@dataclass(frozen=True)
class Saved:
    """One file of a checkpoint."""

    path: str
    inode: int
    offset: int
    moved: bool
    mtime_ns: int
    head: tuple[int, str]
    guard: tuple[int, str]

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Saved:
        """ValueError, KeyError or TypeError when it is not what `saved` wrote."""
        head, guard = value["head"], value["guard"]
        return cls(str(value["path"]), int(value["inode"]), int(value["offset"]), bool(value["moved"]),
                   int(value["mtime_ns"]), (int(head[0]), str(head[1])), (int(guard[0]), str(guard[1])))  # fmt: skip

    def fits(self, path: str) -> Generation | None:
        """The generation, when the file at `path` begins as it did and still has what was delivered."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        state = os.fstat(fd)
        head = os.pread(fd, self.head[0], 0)
        guard = os.pread(fd, self.guard[0], self.offset - self.guard[0])
        same = (state.st_size >= self.offset and digest(head) == self.head[1] and digest(guard) == self.guard[1])
        if not same:
            os.close(fd)
            return None
        found = Generation(self.path, key=key_of(state), position=Position(self.offset, guard), head=head)
        found.location, found.fd, found.moved, found.mtime_ns = path, fd, self.moved, self.mtime_ns
        found.found_bytes = state.st_size
        return found


def begins_like(path: str, head: bytes, position: Position, *, key: Key | None = None) -> bool | None:
    """Is the file at `path` a copy? None: it begins alike, but does not reach the position yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        state = os.fstat(fd)
        if key is not None and key_of(state) != key:
            return False
        size = state.st_size
        wanted = head[: min(size, len(head))]
        if os.pread(fd, len(wanted), 0) != wanted:
            return False
        if size < position.offset:
            return None
        guard = position.guard
        return os.pread(fd, len(guard), position.offset - len(guard)) == guard
    finally:
        os.close(fd)


def key_of(state: os.stat_result) -> Key:
    return state.st_dev, state.st_ino


def digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest() if data else ""
