"""Is every line complete, in its form, and free of secrets?"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched import logs
from cloudsched.errors import Invalid
from cloudsched.settings import Settings


@pytest.fixture(autouse=True)
def _quiet_afterwards() -> Iterator[None]:
    yield
    logs._replace_handlers([])
    logging.captureWarnings(False)


@pytest.fixture
def written() -> Callable[..., Callable[[], str]]:
    """`read = written(format="json", ...)` sets logging up; `read()` gives what was written."""

    def make(**log: Any) -> Callable[[], str]:
        stream = io.StringIO()
        logs.setup(replace(Settings(), log=replace(Settings().log, **log)), stream=stream)
        return stream.getvalue

    return make


log = logging.getLogger("cloudsched.test")


def test_json_line(written: Any) -> None:
    read = written()
    with logs.bound(request="r1"), logs.bound(job=7):
        log.info("booted %s", "n1", extra={"cloud": "local-a", "nothing": None})
    line = json.loads(read())
    assert line["message"] == "booted n1"
    assert (line["request"], line["job"], line["cloud"]) == ("r1", 7, "local-a")
    assert (line["level"], line["logger"]) == ("INFO", "cloudsched.test")
    assert line["time"].endswith("Z")
    assert "nothing" not in line


def test_bound_fields_end_with_their_block_and_stay_in_their_thread(written: Any) -> None:
    read = written()
    with logs.bound(job=1):
        thread = threading.Thread(target=log.info, args=("elsewhere",))
        thread.start()
        thread.join()
    log.info("after")
    assert all("job" not in json.loads(line) for line in read().splitlines())
    assert logs.about() == {}


def test_text_stays_on_one_line(written: Any) -> None:
    read = written(format="text")
    log.warning("first\nsecond\x1b[31m", extra={"name_of": "a b\n"})
    text = read()
    assert text.count("\n") == 1
    assert "first\\nsecond\\x1b[31m" in text
    assert 'name_of="a b' in text
    assert "WARNING" in text


def test_classic_pattern(written: Any) -> None:
    read = written(pattern="%(levelname)s|%(threadName)s|%(message)s")
    log.error("x")
    assert read() == "ERROR|MainThread|x\n"


def test_text_on_a_terminal_json_elsewhere(written: Any) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    logs.setup(Settings(), stream=terminal)
    log.info("seen")
    assert not terminal.getvalue().startswith("{")


SECRETS = [
    "Authorization: Bearer hidden-value-1", "authorization: hidden-value-1", "Bearer hidden-value-1",
    "Basic aGlkZGVuLXZhbHVlLTE=", "X-API-Key: hidden-value-1", '{"token": "hidden-value-1"}',
    "{'join_token': 'hidden-value-1'}", "password=hidden-value-1", "secret_access_key = hidden-value-1",
    "postgresql://app:hidden-value-1@db/prod", "api_key=hidden-value-1&x=1", "run --token hidden-value-1 now",
    "CLOUDSCHED_SECRET_KEY=hidden-value-1", 'password: "hidden-value-1 with blanks"',
    "run --api-key=hidden-value-1", "{'Authorization': 'Bearer hidden-value-1'}",
    "http://hidden:hidden-value-1@proxy:3128/",
]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("secret", SECRETS)
def test_secrets_are_taken_out(written: Any, secret: str, form: str) -> None:
    read = written(format=form)
    log.info("called with %s", secret)
    log.info("called", extra={"detail": secret, "list": [secret], "map": {"deep": secret}})
    try:
        raise ValueError(secret)
    except ValueError:
        log.exception("failed")
    text = read()
    assert "hidden-value-1" not in text
    assert "aGlkZGVuLXZhbHVlLTE" not in text
    assert text.count(logs.MASK) >= 5


def test_fields_named_like_secrets_are_masked(written: Any) -> None:
    read = written()
    log.info("x", extra={"password": "abc", "join_token": "abc", "authorization": "abc", "token_count": 3})
    line = json.loads(read())
    assert (line["password"], line["join_token"], line["authorization"]) == (logs.MASK,) * 3
    assert line["token_count"] == 3


@pytest.mark.parametrize("harmless", [
    "job 12 has key host#12.0#1700000000", "http://127.0.0.1:8100/api/v2/jobs?state=queued",
    "tokens given back",
    "secretary: Ann", "basic work", "a@b:c",
])
def test_other_text_stays(harmless: str) -> None:
    assert logs.redact(harmless) == harmless


def test_level_at_run_time(written: Any) -> None:
    read = written(level="WARNING")
    log.info("one")
    logs.set_level("verbose")
    assert logs.level() == "VERBOSE"
    log.log(logs.VERBOSE, "two")
    logging.getLogger("some.library").info("three")
    assert [json.loads(line)["message"] for line in read().splitlines()] == ["two"]
    with pytest.raises(Invalid, match="VERBOSE, DEBUG"):
        logs.set_level("LOUD")
    assert logs.level() == "VERBOSE"


def test_rotation_by_size(written: Any, tmp_path: Path) -> None:
    file = tmp_path / "logs" / "server.log"
    written(file=str(file), max_size_mb=1 / 1024, keep=2)
    for number in range(60):
        log.info("%04d %s", number, "x" * 100)
    names = sorted(place.name for place in file.parent.iterdir() if place.suffix != ".lock")
    assert names == ["server.log", "server.log.1", "server.log.2"]
    assert all(place.stat().st_size < 2048 for place in file.parent.iterdir())
    assert "0059" in file.read_text()
    assert file.stat().st_mode & 0o007 == 0


def test_two_writers_of_one_file_lose_nothing(tmp_path: Path) -> None:
    file = str(tmp_path / "server.log")
    writers = [logs._LogFile(file, max_bytes=2000, keep=50) for _ in range(2)]
    for number in range(100):
        for writer in writers:
            writer.emit(logging.makeLogRecord({"msg": f"{id(writer)} {number} {'x' * 50}"}))
    for writer in writers:
        writer.close()
    lines = [line for place in tmp_path.glob("server.log*") for line in place.read_text().splitlines()]
    assert len(lines) == len(set(lines)) == 200


def test_hangup_reopens(written: Any, tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    written(file=str(file))
    before = signal.getsignal(signal.SIGHUP)
    try:
        logs.reopen_on_hangup()
        log.info("one")
        file.rename(tmp_path / "moved")
        os.kill(os.getpid(), signal.SIGHUP)
        assert file.exists()
        log.info("two")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "one" in (tmp_path / "moved").read_text()
    assert "two" in file.read_text()


def test_setup_twice_writes_once(written: Any) -> None:
    written()
    read = written()
    log.info("x")
    assert len(read().splitlines()) == 1
