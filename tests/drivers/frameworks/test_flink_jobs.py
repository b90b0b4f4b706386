"""Are Flink jobs run once, told of rightly, and cancelled with proof? On a played job manager."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import ClusterSeen, JobWanted
from cloudsched.drivers.frameworks_local import web

from .conftest import Local, wait_until


@pytest.fixture
def jar(tmp_path: Path) -> Any:
    def make(word: str) -> Path:
        path = tmp_path / "code" / "job.jar"
        path.parent.mkdir(exist_ok=True)
        path.write_text(word + " \n")
        return path

    return make


def asked(cluster: Local, handle: dict[str, Any]) -> dict[str, Any]:
    """What the job manager was asked to run."""
    line = next(line for line in cluster.log(handle).splitlines() if "Played: run " in line)
    return dict(json.loads(line.partition("run ")[2]))


def test_a_job_finishes(cluster: Local, jar: Any) -> None:
    words = ["in put", "--x", "ü", ""]
    handle = cluster.submit(jar("FINISHED"), *words, main_class="a.B", settings={"pipeline.object-reuse": "true"})
    seen = cluster.await_end(handle)
    assert (seen.state, seen.application_id, seen.reason) == ("succeeded", handle["job_id"], "")
    assert (seen.started_at, seen.ended_at, seen.exit_code) == (1.0, 2.5, None)
    assert asked(cluster, handle) == {"entryClass": "a.B", "programArgsList": words, "jobId": handle["job_id"], "parallelism": 2,
                                    "flinkConfiguration": {"pipeline.object-reuse": "true"}}
    assert web.get(cluster.look().address + "/jars")["files"] == [], "the jar is not left there"
    log = cluster.log(handle)
    assert "==> master.out <==\nprinted by a task\n" in log and "another job's line" not in log
    assert log.endswith("==> the job is FINISHED\n")
    assert cluster.framework.log(cluster.look(), handle, offset=4, limit=6) == log.encode()[4:10]


def test_a_job_fails_and_says_why(cluster: Local, jar: Any) -> None:
    handle = cluster.submit(jar("FAILED"))
    seen = cluster.await_end(handle)
    assert (seen.state, seen.reason) == ("failed", "java.io.IOException: the inner cause")
    assert "\tat x.Z" in cluster.log(handle)


def test_a_program_that_cannot_be_run_is_a_failed_job(cluster: Local, jar: Any) -> None:
    seen = cluster.job(cluster.submit(jar("REFUSED")))
    assert (seen.state, seen.reason) == ("failed", "java.lang.IllegalArgumentException: usage: X")
    assert web.get(cluster.look().address + "/jars")["files"] == []


def test_a_job_manager_that_is_not_ready_is_tried_again(cluster: Local, jar: Any) -> None:
    with pytest.raises(DriverError, match="503") as caught:
        cluster.submit(jar("BUSY"))
    assert caught.value.transient
    [left] = web.get(cluster.look().address + "/jars")["files"]
    assert left["name"].startswith("job-1-")
    with pytest.raises(DriverError, match="503"):
        cluster.submit(jar("BUSY"))
    assert web.get(cluster.look().address + "/jars")["files"] == [left], "uploaded once"


def test_a_running_job_is_cancelled(cluster: Local, jar: Any) -> None:
    handle = cluster.submit(jar("RUNNING"))
    assert cluster.job(handle).state == "running" and cluster.look().busy
    assert "printed by a task" in cluster.log(handle), "the log is there while it runs"
    cluster.framework.kill(cluster.look(), handle)
    seen = cluster.job(handle)
    assert (seen.state, seen.ended_at) == ("killed", 3.0) and not cluster.look().busy
    cluster.framework.kill(cluster.look(), handle)


def test_a_job_is_found_again_after_a_crash_before_the_note(cluster: Local, jar: Any, monkeypatch: pytest.MonkeyPatch) -> None:

    def crash(*_: Any) -> None:
        raise KeyboardInterrupt

    send = web.send
    with monkeypatch.context() as patched:
        patched.setattr(web, "send", lambda *words, **more: (send(*words, **more), crash()))
        with pytest.raises(KeyboardInterrupt):
            cluster.submit(jar("RUNNING"))
    cluster.framework = cluster.another()
    assert cluster.job({"key": "job-1"}).state == "running"
    handle = cluster.submit(jar("RUNNING"))
    assert cluster.job(handle).state == "running" and cluster.log(handle).count("Played: run") == 1


@pytest.mark.engines
def test_submitting_twice_is_one_job(cluster: Local, jar: Any) -> None:
    first = cluster.submit(jar("FINISHED"))
    assert cluster.submit(jar("FAILED")) == first
    assert cluster.await_end(first).state == "succeeded"
    cluster.framework.forget(first)
    again = cluster.submit(jar("FAILED"))
    assert again["job_id"] != first["job_id"] and cluster.await_end(again).state == "failed"


@pytest.mark.engines
def test_what_ended_stays_known_when_the_cluster_is_gone(cluster: Local, jar: Any) -> None:
    handle = cluster.submit(jar("FINISHED"))
    before = cluster.await_end(handle)
    cluster.framework.stop(cluster.wanted, cluster.handle)
    cluster.framework = cluster.another()
    assert cluster.job(handle) == before and "printed by a task" in cluster.log(handle)
    cluster.framework.forget(handle)
    assert cluster.log(handle) == "" and cluster.job(handle).state == "lost"


@pytest.mark.engines
def test_a_job_ends_with_its_job_manager(cluster: Local, jar: Any) -> None:
    handle = cluster.submit(jar("RUNNING"))
    os.kill(cluster.pid("master"), signal.SIGKILL)
    wait_until(lambda: not cluster.look().master)
    seen = cluster.job(handle)
    assert seen.state == "lost" and "job manager" in seen.reason
    cluster.framework.kill(cluster.look(), handle)


@pytest.mark.engines
def test_a_job_that_the_new_job_manager_does_not_know_is_lost(cluster: Local, jar: Any) -> None:
    handle = cluster.submit(jar("RUNNING"))
    os.kill(cluster.pid("master"), signal.SIGKILL)
    wait_until(lambda: not cluster.look().master)
    cluster.whole()
    assert cluster.job(handle).state == "lost"


@pytest.mark.parametrize(("changes", "said"), [
    ({"entry": "/x/job.py"}, "entry: a Python job needs pyflink's Python API"), ({"main_class": "a b"}, "main_class"),
    ({"entry": "/nothing/job.jar"}, "entry: .*not a file"), ({"env": {"A": "b"}}, "env: .*no variables"),
    ({"arguments": ["\0"]}, r"arguments\[0\]"),
    ({"settings": {"rest.port": "1"}}, "rest.port cannot be set"), ({"cores_max": -1}, "cores_max")])
def test_bad_input_names_the_field(cluster: Local, jar: Any, changes: dict[str, Any], said: str) -> None:
    cluster.whole(workers=1)
    job = JobWanted(**{"key": "job-1", "job_id": 1, "entry": str(jar("FINISHED")), **changes})
    with pytest.raises(DriverError, match=said):
        cluster.framework.submit(cluster.look(), job, {}, lambda _: None)
    assert not (cluster.state_dir / "frameworks" / "flink-jobs" / "job-1").exists()


@pytest.mark.engines
def test_an_external_cluster_is_one_by_its_address(cluster: Local, jar: Any, tmp_path: Path) -> None:
    address = cluster.whole().address
    elsewhere = Local("flink", cluster.options, tmp_path / "other")
    seen = ClusterSeen(True, 1, address)
    handle = elsewhere.framework.submit(seen, JobWanted(key="job-1", job_id=1, entry=str(jar("FAILED"))), {}, lambda _: None)
    assert elsewhere.framework.job(seen, handle).reason == "java.io.IOException: the inner cause"
    assert b"the inner cause" in elsewhere.framework.log(seen, handle)


@pytest.mark.engines
def test_a_cluster_that_cannot_be_reached_is_no_end_of_a_job(cluster: Local, jar: Any, tmp_path: Path) -> None:
    seen = ClusterSeen(True, 1, f"http://127.0.0.1:{cluster.whole().address.rpartition(':')[2]}")
    elsewhere = Local("flink", cluster.options, tmp_path / "other")
    handle = elsewhere.framework.submit(seen, JobWanted(key="job-1", job_id=1, entry=str(jar("RUNNING"))), {}, lambda _: None)
    cluster.framework.stop(cluster.wanted, cluster.handle)
    with pytest.raises(DriverError, match="cannot be reached") as caught:
        elsewhere.framework.job(seen, handle)
    assert caught.value.transient
    with pytest.raises(DriverError, match="address: 'spark://x:1'"):
        job = JobWanted(key="j", job_id=1, entry=str(jar("FINISHED")))
        cluster.framework.submit(ClusterSeen(True, 1, "spark://x:1"), job, {}, lambda _: None)
