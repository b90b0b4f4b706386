"""Do the shared fixtures give what they promise?"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cloudsched.clock import ManualClock
from tests.postgres import TestServer


@pytest.mark.postgres
def test_each_test_has_an_empty_database(pg_url: str, pg_server: TestServer) -> None:
    import psycopg

    with psycopg.connect(pg_url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (0,)


@pytest.mark.postgres
def test_a_template_is_prepared_once(pg_server: TestServer,
                                     pg_template: Callable[[str, Callable[[str], None]], str]) -> None:
    import psycopg

    prepared = []

    def prepare(url: str) -> None:
        prepared.append(url)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE thing (id int)")

    names = {pg_template("demo", prepare), pg_template("demo", prepare)}
    url = pg_server.create("from_template", template=names.pop())
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM thing").fetchone() == (0,)
    pg_server.drop("from_template")
    assert len(prepared) == 1
    assert not names


def test_both_databases(database_url: str) -> None:
    assert database_url.startswith(("sqlite:///", "postgresql://"))


def test_ports_are_different(free_ports: Callable[[int], list[int]], free_port: int) -> None:
    assert len(set(free_ports(5))) == 5
    assert 0 < free_port < 65536


def test_state_and_clock(tmp_state: Path, manual_clock: ManualClock) -> None:
    before = manual_clock.now()
    manual_clock.advance(5)
    assert manual_clock.now() - before == 5
    assert list(tmp_state.iterdir()) == []
