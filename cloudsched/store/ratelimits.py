"""How are request counters kept? One row for each window that runs, one for each stream that is open."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cloudsched.store.db import Tx


def digest(identity: str, kind: str) -> bytes:
    """The key of a counter: whoever asks may be named by a secret, so only a hash is kept."""
    return hashlib.sha256(f"{kind}\0{identity}".encode("utf-8", "replace")).digest()[:20]


def count(tx: Tx, key: bytes, *, at: float, window_s: float) -> tuple[int, float]:
    """Count once; (number of this request in its window, the window's end). A window that is over begins anew."""
    row = tx.one(
        "INSERT INTO rate_window (identity, ends_at, n) VALUES (?, ?, 1) ON CONFLICT (identity) DO UPDATE SET "
        "n = CASE WHEN rate_window.ends_at <= ? THEN 1 ELSE rate_window.n + 1 END, "
        "ends_at = CASE WHEN rate_window.ends_at <= ? THEN excluded.ends_at ELSE rate_window.ends_at END "
        "RETURNING n, ends_at", (key, at + window_s, at, at))
    assert row is not None
    return int(row[0]), float(row[1])


def take_place(tx: Tx, key: bytes, *, limit: int, at: float, until: float) -> tuple[int, int] | None:
    """(id, places taken with this one), or None when all are taken. Numbered places make it exact without a lock."""
    rows = tx.all("SELECT place FROM stream_place WHERE identity = ? AND ends_at > ?", (key, at))
    taken = {int(row[0]) for row in rows}
    for place in range(limit):
        if place in taken:
            continue
        row = tx.one(
            "INSERT INTO stream_place (identity, place, id, ends_at) VALUES (?, ?, ?, ?) ON CONFLICT (identity, place) "
            "DO UPDATE SET id = excluded.id, ends_at = excluded.ends_at WHERE stream_place.ends_at <= ? RETURNING id",
            (key, place, _number(tx), until, at))
        if row is not None:
            return int(row[0]), len(taken) + 1
        taken.add(place)  # another process was faster
    return None


def _number(tx: Tx) -> int:
    return int(tx.value("UPDATE counter SET value = value + 1 WHERE name = 'stream_place' RETURNING value"))


def keep_places(tx: Tx, ids: Sequence[int], *, until: float) -> None:
    """Renew places."""
    tx.many("UPDATE stream_place SET ends_at = ? WHERE id = ?", [(until, number) for number in ids])


def leave_place(tx: Tx, number: int) -> None:
    """Give a place back."""
    tx.run("DELETE FROM stream_place WHERE id = ?", (number,))


def forget(tx: Tx, at: float) -> int:
    """Remove windows and places that are over; returns how many."""
    return int(tx.run("DELETE FROM rate_window WHERE ends_at <= ?", (at,)).rowcount
               + tx.run("DELETE FROM stream_place WHERE ends_at <= ?", (at,)).rowcount)
