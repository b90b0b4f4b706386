"""How is one answer of a log agent read? Byte by byte as they come, with limits, and without trust in what it says.

`Reading` is the parser, fed by whoever has bytes; `Connection` feeds it from a socket of the event loop. Streams of asyncio
would do the same at twice the price, which counts when a thousand agents answer at once.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

HEAD_MAX = 64 * 1024
CHUNK_LINE_MAX = 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,12})[ \t]*(?:;[^\n]*)?\r?\n")
# How a body ends: with its length, with the last chunk, or with the connection.
_HEAD, _LENGTH, _CHUNKED, _TRAILER, _OPEN, _DONE = range(6)


class Refused(Exception):
    """An answer that cannot be used; the text says why."""


class Closed(Exception):
    """A kept connection had been closed by the other side before it took the request."""


class Reading:
    """One answer. `account(size, added)` is told of every piece of the body and raises Refused beyond a limit.

    `reusable`: it has ended, and the connection can take another request.
    """

    def __init__(self, account: Callable[[int, int], None], *, may_repeat: bool = False) -> None:
        self._account, self._may_repeat = account, may_repeat
        self._raw = bytearray()
        self._pieces: list[bytes] = []
        self._size = self._left = 0
        self._keeps = False
        self._state = _HEAD
        self.status = 0

    @property
    def body(self) -> bytes:
        return b"".join(self._pieces)

    @property
    def reusable(self) -> bool:
        return self._state == _DONE and self._keeps and not self._raw

    def feed(self, data: bytes) -> bool:
        """Take what has come; True when the answer is whole. Raises Refused."""
        self._raw += data
        while _STEPS[self._state](self):
            pass
        return self._state == _DONE

    def end(self) -> None:
        """The other side has closed. Raises Refused or Closed unless the answer is whole by that."""
        if self._state == _OPEN:
            self._state = _DONE
        elif self._state == _HEAD and not self._raw:
            raise Closed if self._may_repeat else Refused("it closed the connection without an answer")
        elif self._state == _HEAD:
            raise Refused("it closed the connection within the head of its answer")
        elif self._state == _LENGTH:
            raise Refused(f"it closed the connection after {self._size} of {self._size + self._left} bytes of its answer")
        elif self._state != _DONE:
            raise Refused("it closed the connection half-way through its answer")

    # each step: True when there may be more to do with the bytes that are here

    def _head(self) -> bool:
        end = self._raw.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_MAX:
            if len(self._raw) > HEAD_MAX:
                raise Refused("its answer is no HTTP, or has too large a head")
            return False
        head = bytes(self._raw[: end + 4])
        del self._raw[: end + 4]
        found = _STATUS.match(head)
        if found is None:
            raise Refused("its answer is no HTTP")
        self.status = int(found[1])
        if self.status >= 200:
            self._begin(_fields(head[found.end() :]))
        return True

    def _begin(self, fields: dict[bytes, bytes]) -> None:
        self._keeps = b"close" not in fields.get(b"connection", b"").lower()
        length = fields.get(b"content-length")
        if self.status in (204, 304):
            self._state = _DONE
        elif b"chunked" in fields.get(b"transfer-encoding", b"").lower():
            self._state = _CHUNKED
        elif length is None:
            self._state, self._keeps = _OPEN, False
        elif not length.isdigit() or len(length) > 18:
            raise Refused("its answer has no usable Content-Length")
        else:
            self._state, self._left = _LENGTH, int(length)
            self._account(self._left, 0)

    def _length(self) -> bool:
        self._take(self._left)
        if self._left:
            return False
        self._state = _DONE
        return False

    def _open(self) -> bool:
        self._left = len(self._raw)
        self._take(self._left)
        return False

    def _chunked(self) -> bool:
        """Chunks: a line with the size, so many bytes, a line end."""
        if self._left:
            self._take(self._left)
            if self._left:
                return False
        if self._pieces and self._raw.startswith((b"\r", b"\n")) and not self._line_end():
            return False
        found = _CHUNK.match(self._raw)
        if found is None:
            if len(self._raw) > CHUNK_LINE_MAX or b"\n" in self._raw:
                raise Refused("its answer is not chunked as it says")
            return False
        self._left = int(found[1], 16)
        del self._raw[: found.end()]
        self._account(self._size + self._left, 0)
        if not self._left:
            self._state = _TRAILER
        return True

    def _line_end(self) -> bool:
        """Cut off the line end behind a chunk; False when it is not all here."""
        if self._raw[:1] == b"\r" and len(self._raw) < 2:
            return False
        del self._raw[: 2 if self._raw[:2] == b"\r\n" else 1]
        return True

    def _trailer(self) -> bool:
        end = self._raw.find(b"\n")
        if end < 0:
            if len(self._raw) > HEAD_MAX:
                raise Refused("its answer is not chunked as it says")
            return False
        line = self._raw[:end].strip()
        del self._raw[: end + 1]
        if not line:
            self._state = _DONE
            return False
        return True

    def _take(self, most: int) -> None:
        """Up to so many bytes of the body."""
        piece = bytes(self._raw[:most]) if len(self._raw) > most else bytes(self._raw)
        del self._raw[: len(piece)]
        self._left -= len(piece)
        self._size += len(piece)
        self._account(self._size, len(piece))
        if piece:
            self._pieces.append(piece)


_STEPS: dict[int, Callable[[Reading], bool]] = {
    _HEAD: Reading._head, _LENGTH: Reading._length, _CHUNKED: Reading._chunked, _TRAILER: Reading._trailer,
    _OPEN: Reading._open, _DONE: lambda reading: False,
}  # fmt: skip


class Connection(asyncio.Protocol):
    """One connection to an agent, with one answer under way at most."""

    def __init__(self) -> None:
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._reading: Reading | None = None
        self._done: asyncio.Future[None] | None = None

    def ask(self, request: bytes, reading: Reading) -> asyncio.Future[None]:
        """Send; done when the answer is read, or with Refused, Closed or an OSError."""
        self._reading, self._done = reading, asyncio.get_running_loop().create_future()
        if self.lost or self._transport is None:
            self.connection_lost(None)
        else:
            self._transport.write(request)
        return self._done

    def abort(self) -> None:
        """Close it, whatever is under way."""
        self.lost = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._reading is None or self._done is None or self._done.done():
            self.abort()  # nobody asked
            return
        try:
            if self._reading.feed(data):
                self._done.set_result(None)
        except Refused as error:
            self._done.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._reading is None or self._done is None or self._done.done():
            return
        if exc is not None:
            self._done.set_exception(exc)
            return
        try:
            self._reading.end()
            self._done.set_result(None)
        except (Refused, Closed) as error:
            self._done.set_exception(error)


def _fields(raw: bytes) -> dict[bytes, bytes]:
    found = {}
    for line in raw.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found[name.strip().lower()] = value.strip()
    return found
