"""What do the tests with real processes share? An instance that runs, and a way to make more of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.testing.instance import Instance

CLOUDS = [{"name": f"local-{letter}", "slots": 4, "cores": 2, "memory_mb": 4096, "keep_alive_s": 600} for letter in "ab"]


@pytest.fixture(scope="session")
def _running() -> Iterator[Instance]:
    with Instance(clouds=CLOUDS) as instance:
        instance.start_all()
        instance.until(lambda: len(instance.api("GET", "/clouds")["items"]) == len(CLOUDS), "the engine's entry of the clouds")
        yield instance
        instance.stop()


@pytest.fixture
def house(_running: Instance, request: pytest.FixtureRequest) -> Iterator[Instance]:
    """One instance for all tests whose subject is not its start or stop; its log must stay free of tracebacks."""
    before = len(_running.log_text())
    yield _running
    written = _running.log_text()[before:]
    assert "Traceback" not in written, written[-4000:]


class Maker:
    """Makes instances that are gone after the test, with their logs in its report when it fails."""

    def __init__(self) -> None:
        self.made: list[Instance] = []

    def __call__(self, **how: Any) -> Instance:
        self.made.append(Instance(**how))
        return self.made[-1]


@pytest.fixture
def new_instance(request: pytest.FixtureRequest) -> Iterator[Maker]:
    """`new_instance(config=..., clouds=..., database_url=...)`: an instance that is not started yet."""
    maker = Maker()
    yield maker
    for instance in maker.made:
        report = getattr(request.node, "_report_of_call", None)
        if report is not None and report.failed:
            report.sections.append((f"logs of {instance.root}", instance.tails()))
        instance.destroy()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    if report.when == "call":
        item._report_of_call = report  # type: ignore[attr-defined]
    return report
