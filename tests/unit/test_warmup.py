"""Is there anything left to wait for at the first request? What is built early, once, in which order, and what if it fails?"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import settings as settings_module
from cloudsched.app import warmup, wsgi
from cloudsched.dialects.native.front import Front
from cloudsched.incoming import Once
from cloudsched.services.caller import LOCAL_ADMIN, Caller

NOTHING_YET = 3600.0


def now(builds: dict[str, Callable[[], object]], stopping: threading.Event | None = None) -> None:
    warmup.run(builds, stopping or threading.Event(), first_after_s=0, pause_s=0)


def an_application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"made"]


def native_front(settings: settings_module.Settings, make: Callable[[], Any], asked: threading.Event | None = None) -> Front:
    """A native API whose application is `make`'s; `asked` is set when a request has come as far as asking for it."""
    front = Front(settings, make)

    def caller(_: object) -> Caller:
        if asked:
            asked.set()
        return LOCAL_ADMIN

    front.gate.caller = caller  # type: ignore[method-assign,assignment]
    return front


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """How often what is loaded was frozen: not in the process of the tests."""
    times: list[bool] = []
    monkeypatch.setattr(warmup.gc, "freeze", lambda: times.append(True))
    return times


@pytest.fixture
def settings(tmp_state: Path) -> settings_module.Settings:
    return settings_module.load({"state": str(tmp_state)}, environ={"HOME": str(tmp_state)})


def test_every_dialect_with_something_to_build_is_built_the_native_api_first(settings: settings_module.Settings,
                                                                             frozen: list[bool]) -> None:
    front = wsgi.make(settings)
    assert next(iter(front.builds)) == "native"
    assert set(front.builds) == {"native", "logkit", "retire_cluster", "kboss", "dcluster"}
    builds = {name: build for name, build in front.builds.items() if isinstance(build, Once)}
    assert builds.keys() == front.builds.keys() and not any(build._made for build in builds.values())
    now(front.builds)
    assert all(build._made for build in builds.values())
    assert all(build() is build() for build in builds.values())
    assert frozen == [True] and gc.isenabled()


def test_a_listener_that_is_off_is_not_built(tmp_state: Path) -> None:
    off = settings_module.load({"state": str(tmp_state), "listen.kboss": 0}, environ={"HOME": str(tmp_state)})
    assert "kboss" not in wsgi.make(off).builds


def test_a_request_meanwhile_waits_for_the_same_application(settings: settings_module.Settings) -> None:
    begun, asked, go_on, made = threading.Event(), threading.Event(), threading.Event(), []

    def make() -> Any:
        begun.set()
        assert go_on.wait(30)
        made.append(1)
        return an_application

    front, answers = native_front(settings, make, asked), []
    early = threading.Thread(target=now, args=({"native": front.build},))
    early.start()
    assert begun.wait(30)
    request = threading.Thread(target=lambda: answers.append(_get(front)))
    request.start()
    assert asked.wait(30) and not answers
    go_on.set()
    for thread in (early, request):
        thread.join(30)
    assert answers == [(200, b"made")] and made == [1]


def test_what_fails_is_logged_and_the_request_tells_its_own_error(settings: settings_module.Settings,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    tries: list[str] = []

    def make() -> Any:
        assert gc.isenabled() is bool(tries)
        tries.append("")
        if len(tries) < 3:
            raise RuntimeError(f"no views, try {len(tries)}")
        return an_application

    front, others = native_front(settings, make), []
    with caplog.at_level(logging.WARNING):
        now({"native": front.build, "logkit": lambda: others.append("built")})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "native" in record.getMessage()
    assert record.exc_info and str(record.exc_info[1]) == "no views, try 1"
    assert others == ["built"]
    assert _get(front)[0] == 500 and tries == ["", ""]
    assert "try 2" in caplog.text
    assert _get(front) == (200, b"made")


def test_it_stops_before_the_next_one(frozen: list[bool]) -> None:
    stopping, built = threading.Event(), []

    def first() -> None:
        built.append("first")
        stopping.set()

    now({"first": first, "second": lambda: built.append("second")}, stopping)
    assert built == ["first"] and not frozen


def test_a_worker_that_stops_does_not_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warmup, "_stopping", threading.Event())
    monkeypatch.setattr(warmup, "FIRST_AFTER_S", NOTHING_YET)
    built: list[str] = []
    thread = warmup.start({"native": lambda: built.append("native")})
    assert thread.daemon and thread.is_alive()
    warmup.stop()
    thread.join(30)
    assert not thread.is_alive() and not built


def _get(front: Front) -> tuple[int, bytes]:
    answer = Client(front).get("/api/v2/clouds", environ_overrides={"REMOTE_ADDR": "127.0.0.1"})
    return answer.status_code, answer.data
