"""Where are logs of nodes kept when the machines are gone? Files below `<state dir>/logs/<cloud>/<node>/`.

A segment `00000001.log` holds batches as they came: a line `#{...}` with the batch's id, time and length, then one line for
each record, `<milliseconds> <JSON object>`. A batch that a kill left half written was never acknowledged and is cut off by
whoever writes next. What is sent twice is kept once: batches are known by their ids, records of job output by the bytes of
the stream they stand for. Several processes may write: they take turns by a lock, and read what the others wrote.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec

IDS_KEPT, STREAMS_KEPT, FOLDERS_KEPT = 64, 4096, 2000
OFFSET_BITS = 32
READ_BYTES = 1 << 20
_SEGMENT = re.compile(r"\d{8}\.log")
_FOLDER_MAX = 180

Key = tuple[int, int, str]


class Record(msgspec.Struct):
    """What is looked at of a record; other members are kept as they are."""

    job: int | None = None
    attempt: int | None = None
    stream: str = ""
    offset: int | None = None
    size: int | None = None


class _Batch(msgspec.Struct):
    ids: list[str] = []
    id: str = ""
    bytes: int = 0


class Given(NamedTuple):
    """One record to be kept: the text, and what it says of itself."""

    raw: bytes
    record: Record


class Kept(NamedTuple):
    """What became of a batch."""

    kept: int
    dropped: int
    repeated: bool


class Entry(NamedTuple):
    """One record as it is read. `after`: the position behind it; `at`: epoch seconds when it came."""

    after: int
    at: float
    raw: bytes


class Limits(NamedTuple):
    file_bytes: int = 8 << 20
    node_bytes: int = 64 << 20


_record = msgspec.json.Decoder(Record).decode
_batch = msgspec.json.Decoder(_Batch).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)


def parse(raw: bytes) -> Record:
    """What a record says of itself. A member of another type says nothing. Raises ValueError: it is no JSON object."""
    try:
        return _record(raw)
    except msgspec.ValidationError:
        if not isinstance(msgspec.json.decode(raw), dict):
            raise ValueError("not a JSON object") from None
        return Record()


def folder_of(root: Path, cloud: str, node: str) -> Path:
    """Where the logs of a node are."""
    return root / _name(cloud) / _name(node)


def find(root: Path, node: str) -> list[Path]:
    """Folders of nodes of that name, on whichever cloud."""
    return sorted(path for path in root.glob(f"*/{_name(node).replace('[', '[[]')}") if path.is_dir())


class NodeFolder:
    """The logs of one node, as one process writes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = threading.Lock()
        self._number = self._size = 0
        self._ids: OrderedDict[str, None] = OrderedDict()
        self._spans: OrderedDict[Key, list[list[int]]] = OrderedDict()

    def append(self, batch_id: str, given: Sequence[Given], *, at: float, limits: Limits) -> Kept:
        """Keep a batch, on the disk when this returns; a batch or record that is here already is not kept again. OSError."""
        with self._turn, self._locked():
            self._catch_up()
            if batch_id and batch_id in self._ids:
                return Kept(0, len(given), repeated=True)
            fresh = [one for one in given if not self._covers(one.record)]
            self._write(batch_id, [one.raw for one in fresh], at=at, limits=limits)
            for one in fresh:
                self._cover(one.record)
            self._remember(batch_id)
            return Kept(len(fresh), len(given) - len(fresh), repeated=False)

    def _write(self, batch_id: str, raws: list[bytes], *, at: float, limits: Limits) -> None:
        stamp = b"%d " % int(at * 1000)
        body = b"".join([stamp + raw + b"\n" for raw in raws])
        head = msgspec.json.encode({"id": batch_id, "at": round(at, 3), "bytes": len(body)})
        data = b"#" + head + b"\n" + body
        if not self._number or (self._size and self._size + len(data) > limits.file_bytes):
            self._number, self._size = self._number + 1, 0
            data = b"#" + msgspec.json.encode({"ids": list(self._ids)}) + b"\n" + data
            self._make_room(limits)
        fd = os.open(self._segment(self._number), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, data)
            os.fdatasync(fd)
            self._size += len(data)
        except OSError:
            os.ftruncate(fd, self._size)
            raise
        finally:
            os.close(fd)

    def _make_room(self, limits: Limits) -> None:
        """The oldest segments go, so that with a full new one there are not more than the node may have."""
        found = [(number, self._segment(number).stat().st_size) for number in segments(self.path)]
        total = sum(size for _, size in found) + limits.file_bytes
        for number, size in found:
            if total <= limits.node_bytes:
                break
            self._segment(number).unlink(missing_ok=True)
            total -= size

    # what is here already

    def _catch_up(self) -> None:
        """Read what was written since the last time: by another process, or before this one began."""
        newer = [number for number in segments(self.path) if number >= self._number]
        if not newer and self._number:
            self._number, self._size = self._number + 1, 0  # retention took it: numbers are not used again
        for number in newer if self._number else newer[-2:]:
            start = self._size if number == self._number else 0
            size = self._segment(number).stat().st_size
            if size != start:
                size = self._learn(number, start, size)
            self._number, self._size = number, size

    def _learn(self, number: int, start: int, size: int) -> int:
        """Ids and streams of the batches from `start` on; returns the size without a torn end."""
        path = self._segment(number)
        with path.open("rb") as file:
            file.seek(start)
            whole = start
            while line := file.readline():
                if not line.startswith(b"#"):
                    whole = max(whole, file.tell()) if line.endswith(b"\n") else whole
                    self._learn_record(line)
                    continue
                head = _head(line)
                if head is None or file.tell() + head.bytes > size:
                    break
                whole = file.tell() + head.bytes
                for one in (*head.ids, head.id):
                    self._remember(one)
        if whole != size:
            os.truncate(path, whole)
        return whole

    def _learn_record(self, line: bytes) -> None:
        with contextlib.suppress(*_UNREADABLE):
            self._cover(_record(line.partition(b" ")[2]))

    def _remember(self, batch_id: str) -> None:
        if batch_id:
            self._ids[batch_id] = None
            self._ids.move_to_end(batch_id)
            while len(self._ids) > IDS_KEPT:
                self._ids.popitem(last=False)

    def _covers(self, record: Record) -> bool:
        key = _key(record)
        if key is None or record.offset is None:
            return False
        return any(start <= record.offset < end for start, end in self._spans.get(key, ()))

    def _cover(self, record: Record) -> None:
        key = _key(record)
        if key is None or record.offset is None:
            return
        spans = self._spans.setdefault(key, [])
        self._spans.move_to_end(key)
        if len(self._spans) > STREAMS_KEPT:
            self._spans.popitem(last=False)
        start, end = record.offset, record.offset + (record.size or 0)
        if spans and spans[-1][1] == start:  # the next line, as nearly always
            spans[-1][1] = end
            return
        spans.append([start, end])
        _join(spans)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time. The lock lies beside the folder, so that retention may take the folder away."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _lock(self.path):
            self.path.mkdir(mode=0o700, exist_ok=True)
            yield

    def _segment(self, number: int) -> Path:
        return self.path / f"{number:08d}.log"


class Folders:
    """The folders that this process writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: OrderedDict[Path, NodeFolder] = OrderedDict()
        self._turn = threading.Lock()

    def of(self, cloud: str, node: str) -> NodeFolder:
        """The folder of a node; the longest unused one is let go of when there are many."""
        path = folder_of(self.root, cloud, node)
        with self._turn:
            found = self._known.setdefault(path, NodeFolder(path))
            self._known.move_to_end(path)
            if len(self._known) > FOLDERS_KEPT:
                self._known.popitem(last=False)
            return found


# reading


def read(folder: Path, after: int, *, wanted: Callable[[bytes], bool], limit: int, since: float = 0.0) -> tuple[
        list[Entry], int]:
    """(records that are wanted, position behind the last one looked at), in the order in which they came."""
    found: list[Entry] = []
    at_segment, at_offset = after >> OFFSET_BITS, after & ((1 << OFFSET_BITS) - 1)
    for number in segments(folder):
        if number < at_segment:
            continue
        for entry in _entries(folder / f"{number:08d}.log", number, at_offset if number == at_segment else 0, since):
            after = entry.after
            if entry.raw and entry.at >= since and wanted(entry.raw):
                found.append(entry)
                if len(found) >= limit:
                    return found, after
    return found, after


def segments(folder: Path) -> list[int]:
    """Numbers of the segments of a folder, oldest first."""
    try:
        return sorted(int(name[:8]) for name in os.listdir(folder) if _SEGMENT.fullmatch(name))
    except FileNotFoundError:
        return []


def _entries(path: Path, number: int, offset: int, since: float) -> Iterator[Entry]:
    """Every line of a segment; `raw` is empty for what is no record."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if since and os.fstat(file.fileno()).st_mtime < since:
            yield Entry((number << OFFSET_BITS) + os.fstat(file.fileno()).st_size, 0.0, b"")
            return
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written
            offset += len(line)
            stamp, _, raw = line.rstrip(b"\n").partition(b" ")
            good = stamp.isdigit() and len(stamp) < 16
            yield Entry((number << OFFSET_BITS) + offset, int(stamp) / 1000 if good else 0.0, raw if good else b"")


# retention


def forget(root: Path, *, before: float, most_bytes: int) -> int:
    """Remove segments not written since `before`, then the oldest until `most_bytes` are left; returns how many."""
    found = sorted(_all_segments(root))
    total, gone = sum(size for _, size, _ in found), 0
    for changed, size, path in found:
        if changed >= before and total <= most_bytes:
            break
        with _lock(path.parent):
            path.unlink(missing_ok=True)
        total -= size
        gone += 1
        _remove_empty(path.parent)
    return gone


def _all_segments(root: Path) -> Iterator[tuple[float, int, Path]]:
    for path in root.glob("*/*/*.log"):
        with contextlib.suppress(FileNotFoundError):
            state = path.stat()
            yield state.st_mtime, state.st_size, path


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError), _lock(folder):
        if not segments(folder):
            for name in os.listdir(folder):
                (folder / name).unlink()
            folder.rmdir()
            folder.with_name(folder.name + ".lock").unlink(missing_ok=True)


# parts


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path = folder.with_name(folder.name + ".lock")
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            # Whoever held it may have removed it, with the folder.
            if not _is_at(fd, path):
                continue
            yield
            return
        finally:
            os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def _head(line: bytes) -> _Batch | None:
    try:
        return _batch(line[1:]) if line.endswith(b"\n") else None
    except _UNREADABLE:
        return None


def _key(record: Record) -> Key | None:
    if record.job is None or record.offset is None or record.offset < 0 or not record.size or record.size < 0:
        return None
    return record.job, record.attempt or 0, record.stream


def _join(spans: list[list[int]]) -> None:
    """Sorted, and no two that touch."""
    spans.sort()
    joined = spans[:1]
    for start, end in spans[1:]:
        if start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    spans[:] = joined


def _name(text: str) -> str:
    """A folder's name for any text: readable where possible, never `.`, `..`, a lock, or too long."""
    plain = quote(text, safe=" @+=,")
    if not plain or plain.startswith(".") or plain.endswith(".lock"):
        plain = plain.replace(".", "%2E") or "%"
    if len(plain) <= _FOLDER_MAX:
        return plain
    return plain[:140] + "~" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def write_note(folder: Path, name: str, value: object) -> None:
    """A small file beside the segments, replaced in one step."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = folder / f"{name}.new"
    beside.write_text(json.dumps(value))
    os.replace(beside, folder / name)


def read_note(folder: Path, name: str) -> object:
    """What `write_note` wrote; None when there is nothing."""
    try:
        return json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return None
