"""Where does job output wait for the log agent? Segments of JSON lines: bounded, in order, gone when they were read.

A record says whose line it is and where in its stream it began, so that what is sent twice is known for what it is. A line
without its end is left in the stream until it has one, grows too long, or the job is over: nothing is kept in memory.
"""

from __future__ import annotations

import json
import os
import re
import time
from json.encoder import encode_basestring as quoted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

LONGEST_LINE = 65_536
SEGMENT_BYTES = 4 << 20
LARGEST_SEGMENT_BYTES = 64 << 20
# The reader takes so much of every file in turn: with less than half of it left, the next segment is not begun too early.
NEARLY_READ_BYTES = 128 << 10
_SEGMENT = re.compile(r"\d{8}\.log")
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE, _BLOCK = 1, 2, 4096


class Spool:
    """Written by one thread. `checkpoint`: where the log agent notes how far it has come."""

    def __init__(self, folder: str, checkpoint: str, *, limit_bytes: int) -> None:
        self.folder, self._checkpoint, self.limit_bytes = folder, checkpoint, limit_bytes
        self._segment_bytes = min(SEGMENT_BYTES, limit_bytes // 4)
        os.makedirs(folder, 0o700, exist_ok=True)
        names = self._names()
        self._number = int(names[-1][:8]) if names else 0
        if names:
            _cut_torn_end(os.path.join(folder, names[-1]))
        self._old = {name: os.stat(os.path.join(folder, name)).st_size for name in names}
        self._fd, self._size = -1, 0

    @property
    def full(self) -> bool:
        return sum(self._old.values()) + self._size >= self.limit_bytes

    def write(self, data: bytes) -> None:
        """Append whole lines; raises OSError when the disk will not have them, and then has none of them."""
        if self._fd < 0:
            self._begin()
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def tidy(self) -> None:
        """Remove what was read; begin a new segment when this one is large and (nearly) read."""
        if not self._old and self._size < self._segment_bytes:
            return
        read = self._read()
        for name, size in list(self._old.items()):
            path = os.path.join(self.folder, name)
            if size == 0 or read.get(_inode(path), 0) >= size:
                _unlink(path)
                del self._old[name]
        if self._size and self._size >= self._segment_bytes:
            unread = self._size - read.get(os.fstat(self._fd).st_ino, 0)
            if unread < min(NEARLY_READ_BYTES, self._segment_bytes // 4) or self._size >= LARGEST_SEGMENT_BYTES:
                self.close()

    def close(self) -> None:
        """End this segment; the next write begins another."""
        if self._fd >= 0:
            os.close(self._fd)
            self._old[self._name()] = self._size
            self._fd, self._size = -1, 0

    def _begin(self) -> None:
        self._number += 1
        path = os.path.join(self.folder, self._name())
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0

    def _name(self) -> str:
        return "%08d.log" % self._number

    def _names(self) -> list[str]:
        return sorted(name for name in os.listdir(self.folder) if _SEGMENT.fullmatch(name))

    def _read(self) -> dict[int, int]:
        """How far the log agent has come, by inode."""
        try:
            with open(self._checkpoint, "rb") as file:
                return {int(one["inode"]): int(one["offset"]) for one in json.loads(file.read())["files"]}
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def records(data: bytes, offset: int, *, final: bool, head: str) -> tuple[bytes, int]:
    """(JSON lines, bytes they stand for) of what a stream has from `offset` on. `head`: how each record begins."""
    lines: list[str] = []
    at, length = 0, len(data)
    while at < length:
        end = data.find(b"\n", at, at + LONGEST_LINE) + 1
        if not end:
            if length - at > LONGEST_LINE:
                end = _character_end(data, at + LONGEST_LINE)
            elif final:
                end = length
            else:
                break
        text = data[at:end].decode("utf-8", "replace")
        lines.append('%s,"offset":%d,"size":%d,"line":%s}\n' % (head, offset + at, end - at, quoted(text.rstrip("\n"))))
        at = end
    return "".join(lines).encode(), at


def head_of(members: Mapping[str, Any]) -> str:
    """How a record with these members begins: JSON without its closing brace."""
    return json.dumps(members, ensure_ascii=False, separators=(",", ":"))[:-1]


def note(level: str, text: str, members: Mapping[str, Any]) -> bytes:
    """One record of the agent's own log."""
    whole = {"time": utc(), **members, "stream": "agent", "level": level, "line": text}
    return (json.dumps(whole, separators=(",", ":"), default=str) + "\n").encode()


def utc() -> str:
    now = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + ".%03dZ" % int(now % 1 * 1000)


def first_byte(fd: int) -> int:
    """Where the first byte is that was not given back to the disk."""
    try:
        return os.lseek(fd, 0, os.SEEK_DATA) if hasattr(os, "SEEK_DATA") else 0
    except OSError:
        return 0


def give_back(fd: int, end: int) -> bool:
    """Give the disk space before `end` back; offsets stay what they are. False where a file system cannot (Linux can)."""
    whole = end // _BLOCK * _BLOCK
    if whole <= 0:
        return True
    try:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        punch = libc.fallocate
        punch.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        return bool(punch(fd, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, 0, whole) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _character_end(data: bytes, limit: int) -> int:
    """At most `limit`, not inside a UTF-8 character."""
    for end in range(limit, limit - 4, -1):
        if data[end] & 0xC0 != 0x80:
            return end
    return limit


def _cut_torn_end(path: str) -> None:
    """A kill may have left half a line; what it stood for is read from its stream again."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        at = size
        while at > 0:
            begin = max(0, at - 65_536)
            newline = os.pread(fd, at - begin, begin).rfind(b"\n")
            if newline >= 0:
                at = begin + newline + 1
                break
            at = begin
        if at != size:
            os.ftruncate(fd, at)
    finally:
        os.close(fd)


def _inode(path: str) -> int:
    try:
        return os.stat(path).st_ino
    except OSError:
        return 0


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
