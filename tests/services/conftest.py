"""Fixtures of the tests of services: a fleet on both databases, and on SQLite alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.store.db import Database
from tests.fleet import Fleet, made


@pytest.fixture
def fleet(database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet on SQLite and on PostgreSQL."""
    yield from made(database, tmp_state, monkeypatch)


@pytest.fixture
def small(sqlite_database: Database, tmp_state: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet on SQLite alone, where the database is not the subject."""
    yield from made(sqlite_database, tmp_state, monkeypatch)
