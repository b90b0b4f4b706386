"""A dCluster API over a fresh SQLite database, called through WSGI as gunicorn would; what really runs is said by the test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.clock import ManualClock
from cloudsched.dialects.dcluster import make_app
from cloudsched.store import db
from cloudsched.store.moves import move

SPARK = {"tenant": "my-team", "workers": 3, "workerCpu": "2", "workerMemory": "8Gi", "masterCpu": "1", "masterMemory": "4Gi",
         "type": "spark3", "extraConfigs": '{"spark.executor.instances": 2}'}
FLINK = {"tenant": "my-team", "workers": 2, "workerCpu": "2", "workerMemory": "8Gi", "type": "flink"}
JOB = {"client": "my-team", "module": "spark-pi", "numWorkers": 3, "workerMemGb": 8, "driverMemGb": 4, "jobType": "spark",
       "emailRecipients": "team@example.com", "pipelineConfig": "1000"}


class Api:
    """Calls of one server; `prefix` goes before every path."""

    def __init__(self, state: Path, time: ManualClock) -> None:
        self.state, self.clock, self.prefix = state, time, ""
        self.set()

    def set(self, **keys: Any) -> None:
        """As a restart with these settings of [dcluster]."""
        flags = {"state": str(self.state), "cloud_scheduler.config_file": "none",
                 **{f"dcluster.{key}": value for key, value in keys.items()}}
        self.settings = settings_module.load(flags, environ={"HOME": str(self.state)})
        self.app = make_app(self.settings)
        self.client = Client(self.app)

    def __call__(self, method: str, path: str, **kw: Any) -> Any:
        kw.setdefault("environ_base", {"REMOTE_ADDR": "127.0.0.1"})
        return self.client.open(self.prefix + path, method=method, **kw)

    def get(self, path: str, **kw: Any) -> Any:
        return self("GET", path, **kw)

    def post(self, path: str, body: Any = None, **kw: Any) -> Any:
        return self("POST", path, **({"json": body} if body is not None else {}), **kw)

    def cluster(self, kind: str = "spark", state: str = "pending", **fields: Any) -> int:
        """A cluster that has come to a state."""
        path, body = ("/v2/launch/spark/cluster", SPARK) if kind == "spark" else ("/launch/flink/cluster", FLINK)
        answer = self.post(path, {**body, **fields})
        assert answer.status_code == 200, answer.text
        number = int(answer.json)
        ways = {"pending": (), "launching": ("launch",), "running": ("launch", "run"), "degraded": ("launch", "run", "degrade"),
                "failed": ("fail",), "terminating": ("terminate",), "terminated": ("terminate", "end")}
        for event in ways[state]:
            assert db.write(lambda tx, event=event: move(tx, "cluster", number, event, at=clock.now()))  # type: ignore[misc]
        return number

    def job(self, **fields: Any) -> int:
        answer = self.post("/job/submit", {**JOB, **fields})
        assert answer.status_code == 200, answer.text
        return int(answer.json["jobId"])

    def run(self, job: int, **columns: Any) -> None:
        """The job is in this state, as if the engine had brought it there."""
        columns = {"state": "running", "started_at": clock.now(), **columns}
        sets = ", ".join(f"{name} = ?" for name in columns)
        db.write(lambda tx: tx.run(f"UPDATE job SET {sets} WHERE id = ?", (*columns.values(), job)))


@pytest.fixture
def api(tmp_state: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    time = ManualClock(1_767_341_084.0)
    monkeypatch.setattr(clock, "now", time.now)
    shutil.copy(migrated_file, tmp_state / "cloudsched.db")
    opened = db.open_database(f"sqlite:///{tmp_state / 'cloudsched.db'}", synchronous="OFF")
    yield Api(tmp_state, time)
    opened.close()
