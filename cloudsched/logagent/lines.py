"""Where does a record begin and end in bytes read from a file?

`cut` takes what lies between the last delivered byte and as far as was read, and returns whole records only. What is
not delivered stays in the file: nothing is kept in memory between two reads, so a position in the file is the whole
state of a reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from re import Pattern

MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class Framing:
    """How bytes become records. `head`: a record begins at each line it matches (multi-line)."""

    encoding: str = "utf-8"
    head: Pattern[str] | None = None
    max_line_bytes: int = MAX_LINE_BYTES


class Records:
    """Records in order, and at which byte (counted from the start of the data) each of them ends."""

    __slots__ = ("_data", "_ends", "size", "texts")

    def __init__(self, data: bytes, texts: list[str], ends: list[int] | None = None) -> None:
        self._data, self.texts, self._ends = data, texts, ends
        self.size = ends[-1] if ends else len(data)

    def end(self, count: int) -> int:
        """Bytes taken by the first `count` records; where each ends is found only when a batch ends inside."""
        if count >= len(self.texts):
            return self.size
        if self._ends is None:
            self._ends = list(accumulate(map(len, _split(self._data))))
        return self._ends[count - 1] if count else 0


def cut(data: bytes, framing: Framing, *, complete: bool, quiet: bool) -> Records | None:
    """The whole records in `data`; None when there is none yet.

    complete: `data` reaches the end of the file (otherwise there is more behind it).
    quiet: the file has not grown for a while, so an unterminated line or record is delivered as it is.
    """
    if framing.head is not None:
        return _multi_line(data, framing, complete=complete, quiet=quiet)
    length = data.rfind(b"\n") + 1
    if complete and quiet:
        length = len(data)
    elif not length and len(data) >= framing.max_line_bytes:
        length = _character_end(data, framing.max_line_bytes)
    if not length:
        return None
    data = data[:length]
    if length > framing.max_line_bytes:
        pieces = _pieces(data, framing.max_line_bytes)
        if pieces is not None:
            return _decoded(pieces, framing.encoding)
    return Records(data, _lines(data, framing.encoding))


def _lines(data: bytes, encoding: str) -> list[str]:
    """Lines with their newlines. A block of UTF-8 is decoded at once: its bytes never contain a foreign newline."""
    if encoding != "utf-8":
        return [line.decode(encoding, "replace") for line in _split(data)]
    lines = data.decode("utf-8", "replace").split("\n")
    last = lines.pop()
    texts = [line + "\n" for line in lines]
    if last:
        texts.append(last)
    return texts


def _split(data: bytes) -> list[bytes]:
    lines = data.split(b"\n")
    last = lines.pop()
    whole = [line + b"\n" for line in lines]
    return [*whole, last] if last else whole


def _pieces(data: bytes, limit: int) -> list[bytes] | None:
    """Lines cut into pieces of at most `limit` bytes; None when no line is that long."""
    lines = _split(data)
    if max(map(len, lines)) <= limit:
        return None
    pieces: list[bytes] = []
    for line in lines:
        pieces += _cut_up(line, limit)
    return pieces


def _cut_up(line: bytes, limit: int) -> list[bytes]:
    pieces = []
    while len(line) > limit:
        end = _character_end(line, limit)
        pieces.append(line[:end])
        line = line[end:]
    return [*pieces, line]


def _character_end(data: bytes, limit: int) -> int:
    """At most `limit`, not inside a UTF-8 character; of bytes that are no UTF-8, `limit`."""
    for end in range(limit, max(limit - 4, 0), -1):
        if end == len(data) or data[end] & 0xC0 != 0x80:
            return end
    return limit


def _decoded(pieces: list[bytes], encoding: str) -> Records:
    return Records(b"", [piece.decode(encoding, "replace") for piece in pieces], list(accumulate(map(len, pieces))))


def _multi_line(data: bytes, framing: Framing, *, complete: bool, quiet: bool) -> Records | None:
    """Join lines up to the next one that matches `head`. The last record waits for its successor, or for quiet."""
    assert framing.head is not None
    lines = _split(data)
    ended = complete and quiet
    if lines and not ended and not lines[-1].endswith(b"\n") and len(lines[-1]) < framing.max_line_bytes:
        lines.pop()
    records: list[bytearray] = []
    for line in lines:
        starts = framing.head.search(line.decode(framing.encoding, "replace")) is not None
        if starts or not records or len(records[-1]) + len(line) > framing.max_line_bytes:
            records.append(bytearray(line))
        else:
            records[-1] += line
    if records and not ended and len(records[-1]) < framing.max_line_bytes:
        records.pop()
    if not records:
        return None
    pieces = [piece for record in records for piece in _cut_up(bytes(record), framing.max_line_bytes)]
    return _decoded(pieces, framing.encoding)


def head_pattern(text: str) -> Pattern[str] | None:
    """The compiled pattern; None when none is given; ValueError when it is no regular expression."""
    if not text:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"head_pattern is not a regular expression: {error}") from None


def known_encoding(name: str) -> str:
    """A codec in which a newline is the byte 10; ValueError otherwise."""
    import codecs

    try:
        found = codecs.lookup(name or "utf-8").name
        if "\n".encode(found) == b"\n" and b"\na".decode(found) == "\na":
            return found
    except (LookupError, UnicodeError, TypeError, AttributeError):
        pass
    raise ValueError(f"encoding {name!r} is unknown, or its newline is not the byte 10 (allowed: utf-8, gbk, latin-1, ...)")
