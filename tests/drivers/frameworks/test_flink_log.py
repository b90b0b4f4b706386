"""Does the reason of a Flink cluster quote the cluster alone, and no job on it?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudsched.drivers.frameworks_local import flink_log
from cloudsched.drivers.frameworks_local.homes import Home
from cloudsched.drivers.frameworks_local.users import User

STAMP = "2026-01-02 03:04:05.678"
OWN = f"{STAMP} INFO  <> TaskManagerRunner: Starting TaskManager\n"
JOB = "0123456789abcdef" * 2
SECRET = "java.lang.IllegalStateException: the secret of a tenant"
FATAL = f"{STAMP} ERROR <> TaskManagerRunner: Fatal error occurred. Shutting it down\n"
TRACE = "java.lang.RuntimeException: no\n\tat a.B.c(D.java:1)\n\t... 3 more\nCaused by: java.net.BindException: taken\n\tat x.Y\n"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "flink-1", instance="test")
    made.write_facts({})
    return made


def _said(home: Home, text: str) -> str:
    home.log_path("worker-0").write_text(text)
    return flink_log.own_words(home, "worker-0")


@pytest.mark.parametrize("text", [
    f"{OWN}{STAMP} ERROR <{JOB}> Task: switched to FAILED\n{SECRET}\n\tat x.Y\n", f"{OWN}{SECRET}\n",
    f"{OWN}{STAMP} ERROR <> JarRunHandler: Unhandled exception.\n{SECRET}\n", f"{STAMP} WARN  <{JOB}> Task: x\n{SECRET}\n",
    f"{OWN}{STAMP} ERROR <> FatalExitExceptionHandler: FATAL\n{SECRET}\n", ""])
def test_words_of_jobs_are_not_quoted(home: Home, text: str) -> None:
    assert _said(home, text) == ""
    assert _said(home, f"{text}{FATAL}{TRACE}{STAMP} INFO  <> X: y\n{SECRET}\n") == "java.net.BindException: taken"
    assert SECRET not in _said(home, f"{text}{FATAL}printed by a job\n{SECRET}\n")


def test_what_java_says_before_it_starts_is_quoted(home: Home) -> None:
    said = 'Exception in thread "main" java.lang.OutOfMemoryError: heap\n'
    assert _said(home, said) == "java.lang.OutOfMemoryError: heap"
    assert _said(home, said + OWN) == "java.lang.OutOfMemoryError: heap"
    assert _said(home, "x" * (1 << 17) + f"\n{SECRET}\n") == "", "where the beginning is out of sight, it may be a job's"


def test_an_earlier_life_of_the_process_is_not_quoted(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.drivers.frameworks_local.homes import Start

    assert _said(home, FATAL + TRACE) == "java.net.BindException: taken"
    monkeypatch.setattr(Home, "_spawn", lambda *_: (1, 1))
    home.start("worker-0", Start(["true"], {}, home.path, User("me")))
    assert flink_log.own_words(home, "worker-0") == ""
    with home.log_path("worker-0").open("a") as log:
        log.write("java.lang.Error: now\n")
    assert flink_log.own_words(home, "worker-0") == "java.lang.Error: now"
