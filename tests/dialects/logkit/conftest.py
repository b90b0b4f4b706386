"""A master over a fresh SQLite database, called through WSGI, with agents that are small HTTP servers in threads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.dialects.logkit import make_app
from cloudsched.services import logagents
from cloudsched.store import db
from cloudsched.testing.logagents import FakeAgent


class Master:
    """Calls of one master; `style`: document or envelope, asked for by path."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.client = Client(app)
        self.style = ""

    def __call__(self, method: str, path: str, **kw: Any) -> Any:
        prefix = f"/{self.style}" if self.style else ""
        return self.client.open(f"{prefix}/logkit{path}", method=method, **kw)

    def get(self, path: str, **kw: Any) -> Any:
        return self("GET", path, **kw)

    def post(self, path: str, **kw: Any) -> Any:
        return self("POST", path, **kw)

    def register(self, url: str, tag: str) -> bool:
        body = json.dumps({"url": url, "tag": tag})
        return bool(self.client.post("/logkit/cluster/register", data=body).status_code == 200)

    def data(self, path: str) -> Any:
        """The payload of a read in this master's style."""
        answer = self.get(path)
        assert answer.status_code == 200, answer.text
        if self.style != "envelope":
            return answer.json
        assert answer.json["code"] == "L200"
        return answer.json.get("data")

    def slaves(self, query: str = "") -> list[dict[str, Any]]:
        return self.data(f"/cluster/slaves{query}")


@pytest.fixture
def time_passes(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """The clock that the master looks at; it only moves when told to."""
    manual = ManualClock(1_767_341_084.0)
    monkeypatch.setattr(clock, "now", manual.now)
    monkeypatch.setattr(logagents, "steady", manual.now)
    return manual


@pytest.fixture
def make_master(tmp_state: Path, migrated_file: Path) -> Iterator[Callable[..., Master]]:
    made: list[Master] = []

    def make(**flags: Any) -> Master:
        settings = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none", **flags}, environ={})
        if not made:
            shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
            db.open_database(settings.database.url, synchronous="OFF")
        made.append(Master(make_app(settings)))
        return made[-1]

    yield make
    for master in made:
        master.app.close()
    db.current().close()


@pytest.fixture
def master(make_master: Callable[..., Master]) -> Master:
    return make_master()


@pytest.fixture
def make_agent() -> Iterator[Callable[..., FakeAgent]]:
    made: list[FakeAgent] = []

    def make(master: Master | None = None, **kw: Any) -> FakeAgent:
        made.append(FakeAgent(register=master.register if master else None, **kw))
        if master is not None:
            assert made[-1].beat()
        return made[-1]

    yield make
    for agent in made:
        agent.stop()
