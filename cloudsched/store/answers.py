"""How are answers to POSTs with an Idempotency-Key kept?

Reserved first, filled in afterwards: in the transaction of the work, or, when the work is not one transaction, in one of its
own; then a reservation whose process died can be taken over.
"""

from __future__ import annotations

from cloudsched.store.db import Row, Tx


def reserve(tx: Tx, key: str, digest: str, *, at: float, abandoned_before: float) -> Row | None:
    """Take the key; None when it is ours now, else the earlier (digest, status, body)."""
    row = tx.one("INSERT INTO idempotency (key, digest, at) VALUES (?, ?, ?) ON CONFLICT (key) DO NOTHING RETURNING at",
                 (key, digest, at))
    if row is not None:
        return None
    taken = tx.run("UPDATE idempotency SET at = ? WHERE key = ? AND digest = ? AND status IS NULL AND at < ?",
                   (at, key, digest, abandoned_before))
    if taken.rowcount == 1:
        return None
    return tx.one("SELECT digest, status, body FROM idempotency WHERE key = ?", (key,))


def keep(tx: Tx, key: str, *, status: int, body: str) -> None:
    """Keep the answer."""
    tx.run("UPDATE idempotency SET status = ?, body = ? WHERE key = ?", (status, body, key))


def forget(tx: Tx, before: float) -> int:
    """Drop answers older than `before`; returns how many."""
    return int(tx.run("DELETE FROM idempotency WHERE at < ?", (before,)).rowcount)


def drop(tx: Tx, key: str) -> None:
    """Give a reservation back: nothing was done."""
    tx.run("DELETE FROM idempotency WHERE key = ? AND status IS NULL", (key,))
