"""Which requests need no HTTP server? A known heartbeat and a list that is in memory, from bytes to bytes.

The parser, the thread and the environment of a general server cost some ten times what these requests do. So the server
shows the first bytes of a request here; what is not exactly of the expected shape, not complete, or not answered from memory
alone is left to it, byte for byte. A head is read once and remembered: agents send the same one for ever.
"""

from __future__ import annotations

import re
import time
from email.utils import formatdate
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from cloudsched.dialects.logkit import asks, style
from cloudsched.dialects.logkit.style import ENVELOPE, Outcome
from cloudsched.errors import Invalid
from cloudsched.services.logagents import Fleet

MOST = 16 * 1024
_HEADS_KEPT, _FIELDS_MOST = 4096, 32
_STARTS = (b"POST /logkit/cluster/register HTTP/1.1\r\n", b"GET /logkit/cluster/slaves")
_LIST = re.compile(rb"GET /logkit/cluster/slaves(?:\?([!-~]*))? HTTP/1\.1\Z")
_FIELD = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([\x20-\x7e]*?)[ \t]*\Z")
# Whatever says more about the body, the connection or the style than we look at here.
_LEAVE = frozenset({b"transfer-encoding", b"expect", b"upgrade", b"x-logkit-style", b"content-encoding", b"trailer", b"te"})


class Head(NamedTuple):
    """What a head says: heartbeat or list with its filters, the length of the body, whether the connection stays."""

    heartbeat: bool
    length: int
    keep: bool
    tag: str = ""
    url: str = ""


class Quick:
    """The quick answers of one process."""

    def __init__(self, fleet: Fleet, default_style: str) -> None:
        self._fleet = fleet
        self._enveloped = default_style == ENVELOPE
        self._done = style.body(Outcome(), default_style)[1]
        self._heads: dict[bytes, Head | None] = {}
        self._date = (0, b"")

    def __call__(self, raw: bytes) -> tuple[int, bytes, bool] | None:
        """(bytes taken, the answer, keep the connection); None: not one of these, or not from memory."""
        if not raw.startswith(_STARTS):
            return None
        end = raw.find(b"\r\n\r\n") + 4
        if end < 4:
            return None
        key = raw[:end]
        head = self._heads.get(key, self)
        if head is self:
            head = self._remember(key)
        if not isinstance(head, Head) or len(raw) < end + head.length:
            return None
        if head.heartbeat:
            if not self._fleet.heard_of(raw[end:end + head.length]):
                return None
            body = self._done
        else:
            found = self._fleet.kept_list(head.tag, head.url)
            if found is None:
                return None
            body = b'{"code":"L200","data":%s}' % found if self._enveloped else found
        return end + head.length, self._answer(body, head.keep), head.keep

    def _answer(self, body: bytes, keep: bool) -> bytes:
        now = int(time.time())
        if self._date[0] != now:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return b"HTTP/1.1 200 OK\r\nDate: %s\r\nConnection: %s\r\nContent-Type: application/json; charset=UTF-8\r\n" \
               b"Content-Length: %d\r\n\r\n%s" % (self._date[1], b"keep-alive" if keep else b"close", len(body), body)

    def _remember(self, key: bytes) -> Head | None:
        if len(self._heads) >= _HEADS_KEPT:
            self._heads.clear()
        head = self._heads[key] = parse(key)
        return head


def parse(raw: bytes) -> Head | None:
    """A head up to its empty line; None when there is anything about it that a real server should look at."""
    line, *lines = raw[:-4].split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for one in lines:
        found = _FIELD.match(one)
        if found is None or found[1].lower() in fields:
            return None
        fields[found[1].lower()] = found[2]
    connection = fields.get(b"connection", b"keep-alive").lower()
    if len(fields) > _FIELDS_MOST or fields.keys() & _LEAVE or not fields.get(b"host"):
        return None
    if connection not in (b"keep-alive", b"close"):
        return None
    length = fields.get(b"content-length", b"0")
    if not length.isdigit() or len(length) > 5:
        return None
    keep = connection != b"close"
    if line.startswith(b"POST"):
        return Head(True, int(length), keep)
    listing = _LIST.match(line)
    if listing is None or int(length):
        return None
    return _listing(listing[1] or b"", keep)


def _listing(query: bytes, keep: bool) -> Head | None:
    try:
        unquote_to_bytes(query.replace(b"+", b" ")).decode()
        tag, url = asks.filters(query.decode())
    except (Invalid, UnicodeDecodeError):
        return None
    return Head(False, 0, keep, tag, url)
