"""How much of a job's log is kept? Its beginning as it comes, its end once it has ended, the last lines at any time.

What is kept only grows, so that a reader may follow it by offset; a long middle is left out, and it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

TAIL_LINES, TAIL_BYTES = 100, 16 * 1024
PIECE = 1 << 20
PIECES_AT_ONCE, PIECES_MOST = 4, 4096
Read = Callable[[int, int], bytes]


class Log:
    """One reading of a log. `read(offset, limit)`: its bytes; `offset`: how far it was read before; `tail`: its last lines
    then; `keep`: bytes that are kept in all. Afterwards `pieces` are to be appended to what is kept."""

    PAUSE_S: ClassVar[float] = 5.0

    def __init__(self, read: Read, *, offset: int, tail: str, keep: int) -> None:
        self._read, self.offset, self.tail = read, offset, tail
        self._head, self._end = keep // 4, keep - keep // 4
        self.pieces: list[bytes] = []

    def go_on(self) -> None:
        """What is new, a few pieces of it: the next reading goes on there."""
        self._advance(PIECES_AT_ONCE)

    def finish(self) -> None:
        """All that is left: nothing comes any more."""
        kept = min(self.offset, self._head)
        self._advance(PIECES_MOST)
        kept += sum(len(piece) for piece in self.pieces)
        if self.offset <= kept:
            return
        first = max(kept, self.offset - self._end)
        if first > kept:
            self.pieces.append(f"\n[... {first - kept} bytes are left out here ...]\n".encode())
        while first < self.offset and (piece := self._read(first, min(PIECE, self.offset - first))):
            self.pieces.append(piece)
            first += len(piece)

    def _advance(self, most: int) -> None:
        for _ in range(most):
            piece = self._read(self.offset, PIECE)
            if not piece:
                return
            if self.offset < self._head:
                self.pieces.append(piece[:self._head - self.offset])
            self.offset += len(piece)
            self._add_tail(piece)

    def _add_tail(self, piece: bytes) -> None:
        text = piece[-TAIL_BYTES:].decode("utf-8", "replace").replace("\0", "")
        lines = (self.tail + text).splitlines(keepends=True)[-TAIL_LINES:]
        self.tail = "".join(lines)[-TAIL_BYTES:]
