"""A native API over a fresh SQLite database, called through WSGI as gunicorn would."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import Client

from cloudsched import settings as settings_module
from cloudsched.dialects.native import app as native_app
from cloudsched.dialects.native import front, make_app
from cloudsched.services import agent_rules, snapshot
from cloudsched.settings import Settings
from cloudsched.store import db, migrations


class Api:
    """Calls as from this machine; `key` is sent when set."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.key: str | None = None
        self.client = Client(app)

    def __call__(self, method: str, path: str, *, address: str = "127.0.0.1", key: str | None = None,
                 headers: dict[str, str] | None = None, **kw: Any) -> Any:
        found = dict(headers or {})
        key = key or self.key
        if key:
            found["X-API-Key"] = key
        if not path.startswith(("/api", "/health", "/ready", "/metrics", "/static", "/favicon")) and path != "/":
            path = "/api/v2" + path
        environ = {"REMOTE_ADDR": address, **kw.pop("environ", {})}
        return self.client.open(path, method=method, headers=found, environ_base=environ, **kw)

    def get(self, path: str, **kw: Any) -> Any:
        return self("GET", path, **kw)

    def post(self, path: str, **kw: Any) -> Any:
        return self("POST", path, **kw)

    def submit(self, **job: Any) -> int:
        answer = self.post("/jobs", json={"command": ["true"], **job})
        assert answer.status_code == 201, answer.text
        return int(answer.json["id"])

    def node(self, name: str = "n1", cores: int = 4) -> tuple[int, str]:
        """A machine that joined: (number, bearer)."""
        token = self.post("/nodes/tokens", json={}).json["token"]
        joined = self.post("/agent/join", json={
            "token": token, "name": name, "instance": "i1",
            "profile": {"cores": cores, "memory_mb": 4096, "storage_gb": 10, "hostname": name}})
        assert joined.status_code == 201, joined.text
        return joined.json["node_id"], f"{joined.json['node_id']}.{joined.json['secret']}"

    def sync(self, bearer: str, **said: Any) -> Any:
        return self.post("/agent/sync", json={"want": 0, "instance": "i1", **said},
                         headers={"Authorization": f"Bearer {bearer}"})


@pytest.fixture
def open_db() -> Iterator[Callable[[str], None]]:
    opened = []

    def start(url: str) -> None:
        opened.append(db.open_database(url, synchronous="OFF"))
        migrations.migrate(opened[-1])

    yield start
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file, to be copied: quicker than to make each table again."""
    file = tmp_path_factory.mktemp("native") / "cloudsched.db"
    database = db.open_database(f"sqlite:///{file}", synchronous="OFF")
    migrations.migrate(database)
    database.read().run("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    return file


_flask: list[Flask] = []


def _shared_flask(settings: Settings) -> Flask:
    if not _flask:
        _flask.append(native_app.make_flask(settings))
    native_app.set_up(_flask[0], settings)
    return _flask[0]


@pytest.fixture
def make_api(tmp_state: Path, empty_database: Path, open_db: Callable[[str], None]) -> Callable[..., Api]:
    def make(**flags: Any) -> Api:
        loaded = settings_module.load({"state": str(tmp_state), **flags}, environ={})
        if loaded.database.is_sqlite:
            shutil.copy(empty_database, loaded.database.url.removeprefix("sqlite:///"))
        open_db(loaded.database.url)
        snapshot.configure(loaded)
        vars(agent_rules.rules).update(vars(agent_rules.Rules()))
        # Making the application costs more than most tests: those that change no setting share one.
        return Api(make_app(loaded) if flags else front.Front(loaded, lambda: _shared_flask(loaded)))

    return make


@pytest.fixture
def settings(tmp_state: Path) -> Settings:
    return settings_module.load({"state": str(tmp_state)}, environ={})


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    return make_api()
