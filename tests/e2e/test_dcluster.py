"""Spark and Flink clusters and jobs through a real server and engine: played clusters by default, real ones with `engines`."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.frameworks_local.users import own_name
from cloudsched.testing.instance import Instance

from .conftest import Maker
from .rows import rows, value

pytestmark = [pytest.mark.e2e]

MODULES = """\
[long]
type = "spark"
entry = "long.py"
arguments = ["--fake-run-s={pipelineConfig}"]
"""
SMALL = {"tenant": "my-team", "workers": 2, "workerCpu": "500m", "workerMemory": "640Mi", "masterCpu": "500m",
         "masterMemory": "512Mi"}
WORDS = ("spark", "flink", "cluster", "worker", "job")
TEXT_MB = 100


def _ask(instance: Instance, method: str, path: str, body: Any = None, *, expect: int = 200) -> Any:
    answer = instance.call(method, f"/cluster{path}", body)
    assert answer.status == expect, answer.text
    return answer.json


def _status(instance: Instance, kind: str, number: int) -> str:
    return str(_ask(instance, "GET", f"/status/{'spark/' if kind == 'spark' else ''}cluster/{number}"))


def _job(instance: Instance, number: int) -> str:
    return str(_ask(instance, "GET", f"/job/status/{number}"))


def test_a_job_outlives_the_engine_and_is_seen_everywhere(new_instance: Callable[..., Instance], tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("")
    (tmp_path / "modules.toml").write_text(MODULES)
    instance = new_instance(config={"dcluster": {"place": "fake", "modules": str(tmp_path), "poll_interval_s": 0.2}}).start_all()
    cluster = _ask(instance, "POST", "/launch/spark/cluster", SMALL)
    name = instance.until(lambda: value(instance, "SELECT key FROM cluster WHERE id = ?", cluster), "its name")
    number = _ask(instance, "POST", "/job/submit", {
        "client": "my-team", "module": "long", "pipelineConfig": "4", "clusterName": name})["jobId"]
    assert _ask(instance, "POST", "/job/submit", {"client": "my-team", "module": "long"}, expect=409)["error"].count(str(number))
    instance.until(lambda: _job(instance, number) == "RUNNING", "the job runs")
    instance.processes["engine"].restart(signal.SIGKILL)

    key = f"dcluster.{number}"
    assert key in instance.cli("status", "-q", "running").stdout + instance.call("GET", "/api/v2/jobs?state=running").text
    assert instance.api("GET", f"/clusters/{cluster}")["state"] == "running"
    assert "spark" in instance.cli("jobs", "list").stdout

    instance.until(lambda: _job(instance, number) == "SUCCEEDED", "its result was recorded")
    assert "line 2" in instance.output(number)
    assert value(instance, "SELECT attempt FROM job WHERE id = ?", number) == 1
    assert _ask(instance, "DELETE", f"/terminate/spark/{cluster}") in ("TERMINATING", "TERMINATED")
    instance.until(lambda: _status(instance, "spark", cluster) == "TERMINATED", "the cluster is gone")
    assert json.loads((instance.state / "fakeframework.json").read_text())["clusters"] == {}
    assert "Traceback" not in instance.log_text()
    instance.stop()


# real engines


@pytest.fixture
def folder() -> Iterator[Path]:
    """Readable for everybody: jobs run as somebody else than root's server."""
    made = Path(tempfile.mkdtemp(prefix="cs-words-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


def _homes() -> dict[str, str]:
    """Where Spark, Flink and Java are, or why not."""
    found = {}
    for kind, package in (("spark", "pyspark"), ("flink", "pyflink")):
        spec = importlib.util.find_spec(package)
        home = os.environ.get(f"CLOUDSCHED_TEST_{kind.upper()}_HOME") or (
            next(iter(spec.submodule_search_locations or ()), "") if spec else "")
        if not home:
            pytest.skip(f"{package} is not here: install cloudsched[{kind}] or set CLOUDSCHED_TEST_{kind.upper()}_HOME")
        found[f"{kind}_home"] = home
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Java 17 is not here: install openjdk-17-jre-headless")
    return found


def _text_file(path: Path) -> Counter[str]:
    """A text of at least 100 MB, made on the spot, and how often each word is in it."""
    lines = [" ".join(WORDS[(index * step) % len(WORDS)] for step in range(1, 12)) + "\n" for index in range(1000)]
    block = "".join(lines)
    times = TEXT_MB * (1 << 20) // len(block) + 1
    with path.open("w") as out:
        for _ in range(times):
            out.write(block)
    return Counter({word: count * times for word, count in Counter(block.split()).items()})


def _counts(text: str) -> dict[str, int]:
    """What a word count printed: `word<TAB>count` or `(word,count)` lines."""
    found = {}
    for line in text.splitlines():
        word, _, count = line.strip("()").replace(",", "\t").partition("\t")
        if word in WORDS and count.isdigit():
            found[word] = int(count)
    return found


@pytest.mark.engines
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["spark", "flink"])
def test_real_clusters_count_words_heal_outlive_the_server_and_leave_nothing(new_instance: Maker, folder: Path,
                                                                            kind: str) -> None:
    instance = new_instance(config={"dcluster": {
        **_homes(), "run_as": own_name(), "launch_timeout_s": 240, "capacity_cores_m": 16_000,
        "capacity_memory_mb": 65_536}}).start_all()
    text = folder / "words.txt"
    expected = _text_file(text)
    number = _ask(instance, "POST", f"{'/v2' if kind == 'spark' else ''}/launch/{kind}/cluster", SMALL)
    _until_up(instance, kind, number)

    name = value(instance, "SELECT key FROM cluster WHERE id = ?", number)
    job = _ask(instance, "POST", "/job/submit", {
        "client": "my-team", "module": f"{kind}-wordcount", "clusterName": name, "pipelineConfig": str(text),
        "numWorkers": 2, "workerCpu": 1, "workerMemGb": "640Mi", "driverMemGb": "512Mi"})["jobId"]
    instance.until(lambda: _job(instance, job) == "RUNNING", "the job runs", limit_s=60)
    for process in instance.processes.values():
        process.restart(signal.SIGKILL)
    instance.until(lambda: value(instance, "SELECT state FROM job WHERE id = ?", job) in ("succeeded", "failed"),
                   "the adopted job has ended", limit_s=240, pause_s=0.5)
    instance.wait_ready(60)
    told = _ask(instance, "GET", f"/job/info/{job}")
    assert told["jobStatus"] == "SUCCEEDED", json.dumps({**told, "log": told["log"][-15:]}, indent=1)
    assert _counts(instance.output(job)) == expected

    worker = next(pid for pid, line in instance.marked().items() if "deploy.worker.Worker" in line or "TaskManager" in line)
    os.kill(worker, signal.SIGKILL)
    instance.until(lambda: "cluster.degrade" in _events(instance, number), "it is degraded", limit_s=120, pause_s=0.3)
    _until_up(instance, kind, number)

    _ask(instance, "DELETE" if kind == "spark" else "GET", f"/terminate/{kind}/{number}")
    instance.until(lambda: _status(instance, kind, number) == "TERMINATED", "it is terminated", limit_s=120)
    assert not [line for line in instance.marked().values() if "java" in line]
    instance.stop()
    instance.check_clean()


def _until_up(instance: Instance, kind: str, number: int) -> None:
    instance.until(lambda: _status(instance, kind, number) in ("RUNNING", "FAILED"), "the cluster is up", limit_s=240,
                   pause_s=0.3)
    assert _status(instance, kind, number) == "RUNNING", rows(instance, "SELECT reason FROM cluster WHERE id = ?", number)


def _events(instance: Instance, number: int) -> list[str]:
    found = rows(instance, "SELECT kind FROM event WHERE subject_kind = 'cluster' AND subject_id = ?", number)
    return [row[0] for row in found]
