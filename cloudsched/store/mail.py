"""How are letters kept until they are sent?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import columns
from cloudsched.store.db import Tx, read

PENDING, SENT, DEAD = "pending", "sent", "dead"


@dataclass(frozen=True, slots=True)
class Letter:
    """A row of `mail` (tables_webhooks.py)."""

    id: int
    subject_kind: str
    subject_id: int
    recipients: str
    title: str
    body: str
    state: str
    attempts: int
    not_before: float
    error: str
    created_at: float
    ended_at: float | None

    @property
    def to(self) -> tuple[str, ...]:
        return tuple(json.loads(self.recipients))


_COLUMNS = columns(Letter)


def insert(tx: Tx, recipients: Sequence[str], title: str, body: str, *, subject: tuple[str, int], at: float) -> int:
    """Write a letter down; returns its id."""
    return int(tx.value(
        "INSERT INTO mail (subject_kind, subject_id, recipients, title, body, state, attempts, not_before, error, created_at) "
        "VALUES (?, ?, ?, ?, ?, 'pending', 0, 0, '', ?) RETURNING id",
        (subject[0], subject[1], json.dumps(list(recipients)), title, body, at)))


def due(at: float, *, limit: int = 20) -> list[Letter]:
    """Letters to be sent now, the oldest first."""
    return [Letter(*row) for row in read().all(
        f"SELECT {_COLUMNS} FROM mail WHERE state = 'pending' AND not_before <= ? ORDER BY id LIMIT ?", (at, limit))]


def of(subject_kind: str, subject_id: int) -> list[Letter]:
    """Letters about something, in order."""
    return [Letter(*row) for row in read().all(
        f"SELECT {_COLUMNS} FROM mail WHERE subject_kind = ? AND subject_id = ? ORDER BY id", (subject_kind, subject_id))]


def claim(tx: Tx, letter: Letter, *, until: float) -> bool:
    """Take a letter in hand until then; False when another process has."""
    return bool(tx.run("UPDATE mail SET not_before = ? WHERE id = ? AND state = 'pending' AND not_before = ?",
                       (until, letter.id, letter.not_before)).rowcount == 1)


def tried(tx: Tx, letter: Letter, *, at: float, state: str, **facts: Any) -> bool:
    """Note how an attempt went. False when another process has noted one meanwhile."""
    given: dict[str, Any] = {"state": state, "attempts": letter.attempts + 1, **facts}
    if state != PENDING:
        given["ended_at"] = at
    sets = ", ".join(f"{name} = ?" for name in given)
    return bool(tx.run(f"UPDATE mail SET {sets} WHERE id = ? AND state = 'pending' AND attempts = ?",
                       (*given.values(), letter.id, letter.attempts)).rowcount == 1)


def forget(tx: Tx, before: float, *, limit: int = 2000) -> int:
    """Remove letters that ended before; returns how many."""
    return int(tx.run("DELETE FROM mail WHERE id IN (SELECT id FROM mail WHERE state <> 'pending' AND ended_at < ? LIMIT ?)",
                      (before, limit)).rowcount)
