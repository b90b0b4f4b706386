"""What was accepted and could not be delivered yet? A queue of batches on disk: bounded, in order, kill-proof.

Segments `00000001.seg`, ... hold entries one after the other: a header with length, checksum, record count and number,
then the body. An entry exists when it is whole and synchronised; a torn one at the end was never acknowledged and is cut
off at the next start. `head.json` says which entry is next; it is written after the delivery, so a kill between both
delivers that entry twice, under the same number.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import threading
import uuid
import zlib
from dataclasses import dataclass

from cloudsched.logagent import disk, log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADER = struct.Struct(">4sIIIQ")
_MAGIC = b"LQ01"
_SEGMENT = re.compile(r"\d{8}\.seg")


@dataclass(frozen=True)
class Entry:
    """One batch. `number` counts up for the life of the queue."""

    number: int
    records: int
    body: bytes
    size: int


class DiskQueue:
    """One writer (the runner) and one reader (the delivery)."""

    def __init__(self, folder: str, *, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self._segment_bytes = max(1 << 16, min(16 << 20, limit_bytes // 8))
        self._changed = threading.Condition()
        self.bytes = self.records = self.entries = 0
        self.lost = ""
        self._number = 1
        self._head_segment, self._head_offset = 0, 0
        self._tail_fd = self._head_fd = -1
        self._tail_size = 0
        disk.make_folder(folder)
        self._recover()

    def put(self, body: bytes, records: int, stop: threading.Event) -> bool:
        """Append and synchronise; waits while the queue is full. False: gave up because of `stop`."""
        size = _HEADER.size + len(body)
        with self._changed:
            while self.entries and self.bytes + size > self.limit_bytes:
                if stop.is_set():
                    return False
                self._changed.wait(0.2)
            number = self._number
        header = _HEADER.pack(_MAGIC, len(body), zlib.crc32(body), records, number)
        self._append(header + body)
        with self._changed:
            self._number += 1
            self.bytes, self.records, self.entries = self.bytes + size, self.records + records, self.entries + 1
            self._changed.notify_all()
        return True

    def full(self) -> bool:
        return self.entries > 0 and self.bytes >= self.limit_bytes

    def peek(self, timeout_s: float) -> Entry | None:
        """The oldest entry, which stays; None when there is none within the time."""
        with self._changed:
            if not self.entries:
                self._changed.wait(timeout_s)
            if not self.entries:
                return None
        entry = self._read(self._head_segment, self._head_offset)
        while entry is None:
            # The segment ends here, the queue does not.
            self._next_segment()
            entry = self._read(self._head_segment, self._head_offset)
        return entry

    def done(self, entry: Entry) -> None:
        """It was delivered: forget it."""
        self._head_offset += entry.size
        self._save_head()
        with self._changed:
            self.bytes, self.records = self.bytes - entry.size, self.records - entry.records
            self.entries -= 1
            self._changed.notify_all()

    def wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        for fd in (self._tail_fd, self._head_fd):
            if fd >= 0:
                os.close(fd)
        self._tail_fd = self._head_fd = -1

    # ---- the files

    def _append(self, data: bytes) -> None:
        if self._tail_fd < 0 or self._tail_size >= self._segment_bytes:
            self._new_segment()
        try:
            disk.write_all(self._tail_fd, data)
            os.fsync(self._tail_fd)
        except OSError:
            os.ftruncate(self._tail_fd, self._tail_size)
            raise
        self._tail_size += len(data)

    def _new_segment(self) -> None:
        segments = self._segments()
        number = (segments[-1] if segments else self._head_segment) + 1
        fd = os.open(self._path(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if self._tail_fd >= 0:
            os.close(self._tail_fd)
        self._tail_fd, self._tail_size = fd, 0
        disk.sync_folder(self.folder)
        if not self._head_segment:
            self._head_segment = number

    def _next_segment(self) -> None:
        following = [number for number in self._segments() if number > self._head_segment]
        if not following:
            raise OSError("the queue ends before its last entry")
        finished = self._head_segment
        self._use_head(following[0], 0)
        self._save_head()
        if os.path.exists(self._path(finished)):
            os.unlink(self._path(finished))

    def _use_head(self, segment: int, offset: int) -> None:
        if self._head_fd >= 0:
            os.close(self._head_fd)
        self._head_segment, self._head_offset, self._head_fd = segment, offset, -1

    def _read(self, segment: int, offset: int) -> Entry | None:
        """None: nothing whole is there."""
        if self._head_fd < 0:
            self._head_fd = os.open(self._path(segment), os.O_RDONLY | os.O_CLOEXEC)
        return _entry(self._head_fd, offset)

    def _save_head(self) -> None:
        value = {"segment": self._head_segment, "offset": self._head_offset, "next": self._number, "id": self.id}
        # Not synchronised: after a power cut an older head means delivering again, never skipping.
        temporary = os.path.join(self.folder, "head.new")
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(value, file)
        os.replace(temporary, os.path.join(self.folder, "head.json"))

    def _segments(self) -> list[int]:
        return sorted(int(name[:8]) for name in os.listdir(self.folder) if _SEGMENT.fullmatch(name))

    def _path(self, number: int) -> str:
        return os.path.join(self.folder, f"{number:08d}.seg")

    def _recover(self) -> None:
        """Count what is there; cut off the torn end; start where `head.json` says."""
        head = self._load_head()
        self.id = str(head.get("id") or uuid.uuid4().hex[:12])
        self._number = int(head.get("next", 1))
        segments = self._segments()
        self._head_segment = int(head.get("segment", segments[0] if segments else 0))
        self._head_offset = int(head.get("offset", 0))
        for number in segments:
            if number < self._head_segment:
                os.unlink(self._path(number))
                continue
            self._count(number, last=number == segments[-1])
        if segments and self._head_segment not in segments:
            self._head_segment, self._head_offset = next((n for n in segments if n >= self._head_segment), segments[0]), 0

    def _load_head(self) -> dict[str, Any]:
        try:
            value = disk.read_json(os.path.join(self.folder, "head.json"))
            return value if isinstance(value, dict) else {}
        except ValueError:
            return {}

    def _count(self, number: int, *, last: bool) -> None:
        offset = self._head_offset if number == self._head_segment else 0
        fd = os.open(self._path(number), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        entry = _entry(fd, offset)
        while entry is not None:
            self.entries, self.records, self.bytes = self.entries + 1, self.records + entry.records, self.bytes + entry.size
            offset += entry.size
            self._number = max(self._number, entry.number + 1)
            entry = _entry(fd, offset)
        size = os.fstat(fd).st_size
        if size > offset and not last:
            # Not a torn end: the disk lost something. Kept for a person to look at.
            self.lost = f"{size - offset} bytes of {self._path(number)} are damaged"
            log.say("error", "a queue segment is damaged", detail=self.lost)
            with contextlib.suppress(FileExistsError):
                os.link(self._path(number), self._path(number) + ".damaged")
        elif size > offset:
            os.ftruncate(fd, offset)
        if last:
            self._tail_fd, self._tail_size = fd, min(size, offset)
        else:
            os.close(fd)


def waiting(folder: str) -> int:
    """Entries of a queue that nobody works on."""
    if not os.path.isdir(folder):
        return 0
    queue = DiskQueue(folder, limit_bytes=1 << 30)
    queue.close()
    return queue.entries


def _entry(fd: int, offset: int) -> Entry | None:
    header = os.pread(fd, _HEADER.size, offset)
    if len(header) < _HEADER.size:
        return None
    magic, length, checksum, records, number = _HEADER.unpack(header)
    if magic != _MAGIC:
        return None
    body = os.pread(fd, length, offset + _HEADER.size)
    if len(body) < length or zlib.crc32(body) != checksum:
        return None
    return Entry(number, records, body, _HEADER.size + length)
