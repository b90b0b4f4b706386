"""Are Spark and Flink jobs lost, run twice or left behind when engine and server are killed at any moment?

The clusters are played, in a file that outlives every process. The seed is printed; `CLOUDSCHED_TEST_CRASH_SEED` repeats it;
`CLOUDSCHED_TEST_CRASH=full` is the long run.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance

from ..e2e.rows import rows, value
from .promises import FINAL_EVENTS, open_jobs

pytestmark = [pytest.mark.crash, pytest.mark.engines]

FULL = os.environ.get("CLOUDSCHED_TEST_CRASH") == "full"
JOBS, KILLS = (200, 40) if FULL else (30, 6)
MODULES = """\
[good]
type = "spark"
entry = "job.py"
arguments = ["--fake-run-s={pipelineConfig}"]
[bad]
type = "flink"
entry = "job.jar"
main_class = "a.B"
arguments = ["--fake-run-s={pipelineConfig}", "--fake-exit=3"]
"""


@pytest.mark.timeout(600 if FULL else 300)
def test_on_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(config=_config(tmp_path)) as instance:
        _run(instance, capsys)


@pytest.mark.postgres
@pytest.mark.timeout(600 if FULL else 300)
def test_on_postgres(tmp_path: Path, pg_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(config=_config(tmp_path), database_url=pg_url) as instance:
        _run(instance, capsys)


def _config(folder: Path) -> dict[str, dict[str, Any]]:
    for name in ("job.py", "job.jar"):
        (folder / name).write_text("")
    (folder / "modules.toml").write_text(MODULES)
    return {"dcluster": {"place": "fake", "modules": str(folder), "poll_interval_s": 0.2, "job_poll_interval_s": 0.2,
                         "clusters_max": 6, "sweep_interval_s": 1, "long_living_idle_limit_s": 2}}


def _run(instance: Instance, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("CLOUDSCHED_TEST_CRASH_SEED") or random.SystemRandom().randrange(10**9))
    with capsys.disabled():
        print(f"\nSpark and Flink: {JOBS} jobs, {KILLS} kills, CLOUDSCHED_TEST_CRASH_SEED={seed}")
    chance = random.Random(seed)
    instance.start_all()
    acknowledged: dict[int, str] = {}
    cancelled: set[int] = set()
    for number in range(KILLS):
        for index in range(JOBS // KILLS):
            module = chance.choice(("good", "good", "bad"))
            answer = _post(instance, "/cluster/job/submit", {
                "client": f"team-{number}-{index}", "module": module, "pipelineConfig": f"{chance.uniform(0, 3):.2f}",
                "useLongLivingCluster": chance.random() < 0.3})
            if answer is not None:
                acknowledged[answer["jobId"]] = module
        time.sleep(chance.uniform(0.0, 2.0))
        if acknowledged and chance.random() < 0.5:
            some = chance.choice(sorted(acknowledged))
            if _post(instance, f"/cluster/job/terminate/{some}", None) is not None:
                cancelled.add(some)
        instance.processes[chance.choice(("engine", "engine", "serve"))].restart()
    instance.until(lambda: open_jobs(instance) == 0, "all jobs have ended", limit_s=200, pause_s=0.3)
    _check(instance, acknowledged, cancelled)
    instance.stop()


def _check(instance: Instance, acknowledged: dict[int, str], cancelled: set[int]) -> None:
    found = dict(rows(instance, "SELECT id, state FROM job"))
    assert acknowledged.keys() <= found.keys()
    expected = {"good": "succeeded", "bad": "failed"}
    wrong = {number: found[number] for number, module in acknowledged.items()
             if found[number] != expected[module] and not (number in cancelled and found[number] == "cancelled")}
    assert not wrong, rows(instance, f"SELECT id, state, reason FROM job WHERE id IN ({', '.join(map(str, wrong))})")
    marks = ", ".join("?" * len(FINAL_EVENTS))
    ends = Counter(row[0] for row in rows(
        instance, f"SELECT subject_id FROM event WHERE subject_kind = 'job' AND kind IN ({marks})", *FINAL_EVENTS))
    assert ends == Counter(found.keys())
    assert {row[0] for row in rows(instance, "SELECT attempt FROM job WHERE state <> 'cancelled'")} == {1}  # none ran twice
    instance.until(lambda: value(instance, "SELECT count(*) FROM dcluster_job WHERE done = 0 OR active IS NOT NULL") == 0,
                   "nothing is left to do for them")
    instance.until(lambda: value(instance, "SELECT count(*) FROM cluster WHERE job_id IS NOT NULL AND state NOT IN "
                                           "('terminated', 'failed')") == 0, "their clusters are gone", limit_s=60)
    live = {row[0] for row in rows(instance, "SELECT key FROM cluster WHERE state NOT IN ('terminated', 'failed')")}
    instance.until(lambda: set(_world(instance)["clusters"]) == live, "what runs has a record, and the reverse", limit_s=30)
    assert _world(instance)["jobs"] == {}  # forgotten: their logs are kept here
    assert all(instance.output(number) for number, module in acknowledged.items() if number not in cancelled)


def _world(instance: Instance) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((instance.state / "fakeframework.json").read_text())
    return facts


def _post(instance: Instance, path: str, body: Any) -> Any:
    """What was acknowledged; None when nobody was there to do so."""
    with contextlib.suppress(OSError, HTTPException):
        answer = instance.call("POST", path, body)
        if answer.status == 200:
            return answer.json
    return None
