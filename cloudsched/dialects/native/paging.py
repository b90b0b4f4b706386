"""How does a list go on? Opaque cursors that say where the next page begins and for which filters."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Any

from cloudsched.dialects.native import wire
from cloudsched.errors import Invalid

LIMIT_DEFAULT, LIMIT_MOST = 100, 1000
PAGED = ("limit", "cursor")
Pairs = list[tuple[str, str]]


def limit(pairs: Pairs) -> int:
    """How many items a page may have."""
    return wire.integer(pairs, "limit", LIMIT_DEFAULT, low=1, high=LIMIT_MOST)


def position(pairs: Pairs) -> int | None:
    """The id after which the page begins; None for the first page. Raises Invalid for a cursor of another list."""
    text = wire.single(pairs, "cursor")
    if not text:
        return None
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
        place, _, mark = raw.partition(".")
        if place.isdigit() and len(place) < 19 and int(mark, 16) == _mark(pairs):
            return int(place)
    except (binascii.Error, ValueError):
        pass
    raise Invalid.at("cursor", "is not one of this list with these filters", "the `next` of the page before")


def following(pairs: Pairs, items: Sequence[Any], most: int, last_id: int | None) -> str | None:
    """The cursor of the next page; None when this one was not full."""
    if len(items) < most or last_id is None:
        return None
    return base64.urlsafe_b64encode(f"{last_id}.{_mark(pairs):x}".encode()).rstrip(b"=").decode()


def _mark(pairs: Pairs) -> int:
    """A sum over the filters, so that a cursor is not taken to another list by mistake."""
    return zlib.crc32(repr(sorted(pair for pair in pairs if pair[0] not in PAGED)).encode())
