"""What do the tests of both clients share? A recording server, a home of one's own, a way to run a client."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from cloudsched.classic import server_conf

from .recording_server import RecordingServer

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module", name="listening")
def listening_fixture() -> Iterator[RecordingServer]:
    server = RecordingServer()
    yield server
    server.close()


@pytest.fixture(name="server")
def server_fixture(listening: RecordingServer) -> RecordingServer:
    listening.reset()
    return listening


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in which the clients look for their files."""
    monkeypatch.setattr(server_conf, "search_directories", lambda environ=None: (str(tmp_path),))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/client"])
    return tmp_path


@pytest.fixture(name="free_port")
def free_port_fixture() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def runner(main: Callable[[Sequence[str]], int], port_option: str, *, server: RecordingServer,
           capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `main` against the server; gives (exit status, standard output)."""
    def run(*argv: str, port: int = 0) -> tuple[int, str]:
        status = main(["-s", "127.0.0.1", port_option, str(port or server.port), *argv])
        return status, capsys.readouterr().out

    return run
