"""Where does one request of the native protocol end? At the brace that closes its object (contract 12.1).

There is no length before it and no mark behind it, so the bytes are followed as they come: each is looked at once,
however small the pieces are.
"""

from __future__ import annotations

import re

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
_SPACE = b" \t\r\n"
_OUTSIDE = re.compile(rb'["{}\[\]]')
_INSIDE = re.compile(rb'["\\]')


class FrameError(ValueError):
    """These bytes are no request; the message says why."""


class Frame:
    """One request as it comes in."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # looked at so far
        self._depth = 0
        self._in_text = False

    @property
    def empty(self) -> bool:
        """Nothing but blanks has come."""
        return not self._data.strip(_SPACE)

    def feed(self, data: bytes) -> bytes | None:
        """The whole object once it is there, None before. FrameError: no object, too long, or more than one."""
        self._data += data
        if len(self._data) > MAX_BYTES:
            raise FrameError(f"the request is longer than {MAX_BYTES} bytes")
        if self._depth == 0 and not self._begin():
            return None
        end = self._follow()
        if end is None:
            return None
        if self._data[end:].strip(_SPACE):
            raise FrameError("there is something behind the request: one JSON object for each connection")
        return bytes(self._data[:end])

    def _begin(self) -> bool:
        while self._at < len(self._data) and self._data[self._at] in _SPACE:
            self._at += 1
        if self._at == len(self._data):
            return False
        if self._data[self._at] != ord("{"):
            raise FrameError("a request is a JSON object: it begins with {")
        return True

    def _follow(self) -> int | None:
        while True:
            match = (_INSIDE if self._in_text else _OUTSIDE).search(self._data, self._at)
            if match is None:
                self._at = len(self._data)
                return None
            mark = match[0]
            if mark == b"\\":
                if match.end() == len(self._data):  # what it escapes has not come yet: look at it again then
                    self._at = match.start()
                    return None
                self._at = match.end() + 1
                continue
            self._at = match.end()
            if mark == b'"':
                self._in_text = not self._in_text
            elif mark in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                        raise FrameError(f"the request is nested deeper than {MAX_DEPTH}")
            else:
                self._depth -= 1
                if self._depth == 0:
                    return self._at
