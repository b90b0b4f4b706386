"""Which records travel together, and what may be written down once they have arrived?"""

from __future__ import annotations

import json
import math

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from cloudsched.logagent.generation import Chunk, Generation, Position

    Record = dict[str, Any]
    Records = list[Record]


class Batch:
    """Records on their way to the senders. Rendered once, however many senders want it."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._rendered: list[bytes] | None = None
        self._array: bytes | None = None

    def array(self) -> bytes:
        """A JSON array in UTF-8, without a newline."""
        if self._array is None:
            self._array = dump(self.records)
        return self._array

    def lines(self) -> bytes:
        """One JSON object a line."""
        if self._rendered is None:
            self._rendered = [dump(record) for record in self.records]
        return b"\n".join(self._rendered) + b"\n"


def dump(value: Any) -> bytes:
    """JSON that any reader takes: lone surrogates escaped, infinite and undefined numbers as strings."""
    try:
        return _compact(value).encode("utf-8")
    except UnicodeEncodeError:
        return _ascii(value).encode("ascii")
    except ValueError:
        return dump(_finite(value))


class Segment:
    """Records of one file inside a batch that is being filled."""

    __slots__ = ("generation", "texts")

    def __init__(self, generation: Generation, texts: list[str]) -> None:
        self.generation, self.texts = generation, texts


class Batcher:
    """Fills batches: closed by number of records, bytes of source, or age (contract 15)."""

    def __init__(self, *, batch_len: int, batch_size: int, batch_interval_s: float) -> None:
        self._len, self._size, self._interval_s = batch_len, batch_size, batch_interval_s
        self._began = 0.0
        self.clear()

    def clear(self) -> None:
        self.segments: list[Segment] = []
        self.positions: dict[Generation, Position] = {}
        self.count = self.bytes = 0

    def take(self, chunk: Chunk, now: float) -> bool:
        """Take as many records of the chunk as fit; True when the batch is then full (call again after sending)."""
        texts = chunk.records.texts
        first = chunk.taken
        last = self._fitting(chunk)
        if not self.count:
            self._began = now
        self.segments.append(Segment(chunk.generation, texts if last - first == len(texts) else texts[first:last]))
        self.positions[chunk.generation] = chunk.position(last)
        self.count += last - first
        self.bytes += chunk.records.end(last) - chunk.records.end(first)
        chunk.taken = last
        return self._full()

    def due(self, now: float) -> bool:
        return self.count > 0 and now - self._began >= self._interval_s

    def _full(self) -> bool:
        return (self._len > 0 and self.count >= self._len) or self.bytes >= self._size

    def _fitting(self, chunk: Chunk) -> int:
        """Index behind the last record that still goes in: at least one."""
        first, last = chunk.taken, len(chunk.records.texts)
        if self._len > 0:
            last = min(last, first + self._len - self.count)
        start = chunk.records.end(first)
        if self.bytes + chunk.records.end(last) - start <= self._size:
            return last
        room = self._size - self.bytes
        low, high = first + 1, last
        while low < high:
            middle = (low + high) // 2
            if chunk.records.end(middle) - start >= room:
                high = middle
            else:
                low = middle + 1
        return low


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str).encode
_ascii = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=str).encode


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
