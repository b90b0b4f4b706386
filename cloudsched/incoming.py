"""How is an HTTP request read below Flask, whatever the dialect? The raw path, the body with a limit, what is made once."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from cloudsched.errors import Invalid, TooLarge

Environ = dict[str, Any]
T = TypeVar("T")
_SAFE = "/:@!$&'()*+,;=~-._"
_PIECE = 1 << 16
_FIELDS_MOST = 32
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
