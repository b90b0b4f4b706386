"""How is an HTTP request read below Flask, whatever the dialect? The raw path, the body with a limit, what is made once; and
heads and answers as bytes, where no server stands between."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable
from email.utils import formatdate
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from cloudsched.errors import Invalid, TooLarge

Environ = dict[str, Any]
T = TypeVar("T")
_SAFE = "/:@!$&'()*+,;=~-._"
_PIECE = 1 << 16
_FIELDS_MOST = 32
_HEAD_KEPT, _HEAD_MOST = 512, 2048
_FIELD = re.compile(rb"([A-Za-z0-9-]+):([\x20-\x7e\t]*)\Z")
# Whatever says more about the body, the connection or the answer than is looked at here.
_UNUSUAL = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"content-encoding", b"trailer", b"te"})


def raw_path(environ: Environ) -> str:
    """The path as it was sent, still percent-encoded, in ASCII: `%2F` inside a name survives."""
    target = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    if not target:
        return quote(environ.get("PATH_INFO", "/").encode("latin-1"), safe=_SAFE) or "/"
    if not target.startswith("/"):  # absolute form, as proxies send it
        target = "/" + target.partition("://")[2].partition("/")[2]
    path = str(target).partition("?")[0]
    return path if path.isascii() else quote(path.encode("latin-1", "replace"), safe="%" + _SAFE)


def read_body(environ: Environ, limit: int) -> bytes:
    """The whole body. Raises TooLarge before more than the limit is read, Invalid when it was cut off."""
    length = environ.get("CONTENT_LENGTH")
    stream = environ["wsgi.input"]
    if length:
        if not (length.isascii() and length.isdigit()):
            raise Invalid.at("Content-Length", f"{length[:40]!r} is no number")
        wanted = int(length) if len(length) < 19 else limit + 1
        if wanted > limit:
            raise TooLarge(f"the body has {length[:40]} bytes; at most {limit} are allowed", details={"limit": limit})
        found = _read(stream, wanted)
        if len(found) < wanted:
            raise Invalid("the body ended before its announced length")
        return found
    if not environ.get("wsgi.input_terminated"):
        return b""
    pieces, size = [], 0
    while piece := _read(stream, _PIECE):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"the body has more than {limit} bytes", details={"limit": limit})
        pieces.append(piece)
    return b"".join(pieces)


def _read(stream: Any, size: int) -> bytes:
    try:
        found: bytes = stream.read(size)
    except OSError:
        raise Invalid("the client went away within the body") from None
    return found


def plain_fields(lines: bytes) -> dict[bytes, bytes] | None:
    """The header fields of an HTTP/1.1 request that holds nothing unusual, by name in lower case; None for any other: one that
    a real server should look at."""
    fields: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n"):
        found = _FIELD.match(line)
        if found is None or found[1].lower() in fields:
            return None
        value = found[2].strip(b" \t")
        if b"\t" in value:
            return None
        fields[found[1].lower()] = value
    usual = len(fields) <= _FIELDS_MOST and not fields.keys() & _UNUSUAL and fields.get(b"host")
    return fields if usual and fields.get(b"connection", b"keep-alive").lower() == b"keep-alive" else None


class Heads(Generic[T]):
    """What heads of requests say, by their bytes: clients send the same one again and again. `parse`: None for a head that a
    real server should look at; `most`: how many common ones are kept."""

    def __init__(self, parse: Callable[[bytes], T | None], *, most: int) -> None:
        self._parse = parse
        self._most = most
        self._kept: dict[bytes, T] = {}

    def of(self, raw: bytes) -> tuple[T, int] | None:
        """What the head at the beginning says, and where the body begins; None without a whole head that is taken."""
        end = raw.find(b"\r\n\r\n") + 4
        if not 4 <= end <= _HEAD_MOST:
            return None
        key = raw[:end]
        found = self._kept.get(key) or self._parse(key)
        if found is None:
            return None
        if end <= _HEAD_KEPT:
            if len(self._kept) >= self._most:
                self._kept.clear()
            self._kept[key] = found
        return found, end

    def __len__(self) -> int:
        return len(self._kept)


_date = 0, ""


def answer_bytes(status: str, headers: Iterable[tuple[str, str]], body: bytes) -> bytes:
    """An answer on a connection that stays, its Date added. `headers` hold the length of the body."""
    global _date
    second = int(time.time())
    if _date[0] != second:
        _date = second, formatdate(second, usegmt=True)
    lines = [f"HTTP/1.1 {status}", f"Date: {_date[1]}", "Connection: keep-alive",
             *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


class Once(Generic[T]):
    """What is made when it is first asked for, once, whichever thread asks: hot routes do not wait for its imports."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: T | None = None
        self._lock = threading.Lock()

    def __call__(self) -> T:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made
