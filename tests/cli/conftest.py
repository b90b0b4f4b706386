"""What do the tests of the command line share? A fake server, and a way to type at it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloudsched.cli.main import main

from .fake_api import FakeApi, FakeServer


class Said(NamedTuple):
    """What a command line did: exit status, standard output, standard error."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Cli = Callable[..., Said]


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def server(api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv("CLOUDSCHED_STATE", str(tmp_path / "no-state"))
    monkeypatch.setenv("TZ", "UTC")
    with FakeServer(api) as url:
        monkeypatch.setenv("CLOUDSCHED_SERVER_URL", url)
        yield url


@pytest.fixture
def cli(server: str, capfdbinary: pytest.CaptureFixture[bytes]) -> Cli:
    """`cli("jobs", "list")` types it at the fake server, output in a pipe."""

    def run(*words: str) -> Said:
        status = main(words)
        out, err = capfdbinary.readouterr()
        return Said(status, out.decode(), err.decode())

    return run
