"""What do all tests share? A state directory, databases of both kinds, a stepped clock, a free port."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from cloudsched.clock import ManualClock
from cloudsched.store.db import Database, open_database
from cloudsched.store.migrations import migrate

from .postgres import PostgresUnavailable, TestServer, find_server

if TYPE_CHECKING:
    import psycopg

_numbers = itertools.count(1)

# How long an example takes says something about the machine, not about the code.
hypothesis.settings.register_profile("here", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("here")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No CLOUDSCHED_* variable of the person who runs the tests changes what they see."""
    for name in list(os.environ):
        if name.startswith("CLOUDSCHED_") and not name.startswith("CLOUDSCHED_TEST_"):
            monkeypatch.delenv(name)


@pytest.fixture
def tmp_state(tmp_path: Path) -> Path:
    """An empty state directory of one instance."""
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    return state


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that only moves when told to."""
    return ManualClock()


@pytest.fixture
def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    return _free_port()


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """`free_ports(n)`: n different free TCP ports on 127.0.0.1."""
    return _free_ports


@pytest.fixture(scope="session")
def pg_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServer]:
    """A PostgreSQL server: the one of CLOUDSCHED_TEST_POSTGRES, or one of our own for this test session."""
    try:
        server = find_server(tmp_path_factory.mktemp("postgres"))
    except PostgresUnavailable as error:
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pg_template(pg_server: TestServer) -> Callable[[str, Callable[[str], None]], str]:
    """`pg_template(name, prepare)`: a database that `prepare(url)` filled once; returns its name.

    Tests that need the migrated schema copy it with `pg_server.create(..., template=name)`.
    """
    return pg_server.template


@pytest.fixture
def pg_url(pg_server: TestServer) -> Iterator[str]:
    """The URL of a fresh, empty PostgreSQL database, dropped after the test."""
    name = f"t_{os.getpid()}_{next(_numbers)}"
    yield pg_server.create(name)
    pg_server.drop(name)


@pytest.fixture
def pg_connection(pg_url: str) -> Iterator[psycopg.Connection]:
    """An open psycopg connection to the database of `pg_url`, in autocommit."""
    import psycopg

    with psycopg.connect(pg_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_state: Path) -> str:
    """The URL of a fresh, empty database: every test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_state / 'cloudsched.db'}"
    url: str = request.getfixturevalue("pg_url")
    return url


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: migrating once is enough for a session."""
    path = tmp_path_factory.mktemp("migrated") / "cloudsched.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database(request: pytest.FixtureRequest, tmp_state: Path) -> Iterator[Database]:
    """An open, migrated, empty database: every test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield from _opened(_copy(request.getfixturevalue("migrated_file"), tmp_state))
        return
    server: TestServer = request.getfixturevalue("pg_server")
    template = request.getfixturevalue("pg_template")("migrated", _migrate)
    name = f"t_{os.getpid()}_{next(_numbers)}"
    yield from _opened(server.create(name, template=template))
    server.drop(name)


@pytest.fixture
def sqlite_database(migrated_file: Path, tmp_state: Path) -> Iterator[Database]:
    """The same on SQLite alone, for tests whose subject is not the database."""
    yield from _opened(_copy(migrated_file, tmp_state))


def _copy(migrated: Path, state: Path) -> str:
    copy = state / "cloudsched.db"
    shutil.copy(migrated, copy)
    copy.chmod(0o600)
    return f"sqlite:///{copy}"


def _opened(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


def _migrate(url: str) -> None:
    opened = open_database(url)
    migrate(opened)
    opened.close()


def _free_port() -> int:
    return _free_ports(1)[0]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports
