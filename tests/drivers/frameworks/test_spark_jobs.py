"""Are Spark jobs run once, told of rightly, and ended with proof? On a played Spark with real drivers of Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import ClusterSeen, JobWanted
from cloudsched.drivers.frameworks_local.homes import MARK

from .conftest import Local, wait_until

Program = Callable[[str], Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    def make(text: str) -> Path:
        path = tmp_path / "code" / "job.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("import os, sys, time\n" + text)
        return path

    return make


def home(local: Local, key: str = "job-1") -> Path:
    return local.state_dir / "frameworks" / "spark-jobs" / key


def settings(local: Local) -> dict[str, str]:
    lines = (home(local) / "conf" / "spark.conf").read_text().splitlines()
    return dict(line.replace("\\", "").split("=", 1) for line in lines)


def test_a_job_succeeds(cluster: Local, program: Program) -> None:
    words = ["two words", "--class", "*", "$HOME", "line\nbreak", "", "ü"]
    job = program("print(sys.argv[1:], flush=True); print('to stderr', file=sys.stderr)")
    handle = cluster.submit(job, *words, env={"FOO": "bar"}, cores_max=2, driver_memory_mb=600)
    seen = cluster.await_end(handle)
    assert (seen.state, seen.exit_code, seen.reason) == ("succeeded", 0, "")
    assert seen.application_id.startswith("app-2026") and seen.started_at and seen.ended_at and seen.ended_at >= seen.started_at
    log = cluster.log(handle)
    assert str(words) in log and "to stderr" in log
    assert cluster.framework.log(cluster.look(), handle, offset=3, limit=5) == log.encode()[3:8]
    given = settings(cluster)
    assert given["spark.master"] == cluster.look().address and given["spark.executor.memory"] == "512m"
    assert (given["spark.cores.max"], given["spark.driver.memory"], given["spark.executorEnv.FOO"]) == ("2", "600m", "bar")
    assert given["spark.driver.bindAddress"] == "127.0.0.1" and given["spark.authenticate"] == "true"
    cluster.framework.forget(handle)
    assert not home(cluster).exists() and cluster.log(handle) == "" and cluster.job(handle).state == "lost"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640)])
def test_results_are_as_open_as_what_the_server_writes_and_logs_are_not(cluster: Local, program: Program, tmp_path: Path,
                                                                        mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        handle = cluster.submit(program(f"open({str(tmp_path / 'result')!r}, 'w').write('x'); os.mkdir({str(tmp_path / 'd')!r})"))
        assert cluster.await_end(handle).state == "succeeded"
    finally:
        os.umask(before)
    assert (tmp_path / "result").stat().st_mode & 0o777 == mode
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o777 & ~mask
    kept = [*(home(cluster) / "logs").iterdir(), *(home(cluster) / "conf").iterdir(), home(cluster) / "driver.exit",
            home(cluster) / "work", home(cluster) / "tmp"]
    assert len(kept) >= 5
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


def test_a_job_fails_with_its_exit_code_and_why(cluster: Local, program: Program) -> None:
    seen = cluster.await_end(cluster.submit(program("raise ValueError('no such column: prize')")))
    assert (seen.state, seen.exit_code, seen.reason) == ("failed", 1, "exit code 1: ValueError: no such column: prize")
    seen = cluster.await_end(cluster.submit(program("os.kill(os.getpid(), 9)"), key="job-2"))
    assert (seen.state, seen.exit_code, seen.reason) == ("failed", 137, "exit code 137: killed by signal 9")
    assert not cluster.look().busy


def test_a_running_job_is_told_of_and_killed_with_all_it_started(cluster: Local, program: Program) -> None:
    handle = cluster.submit(program(
        "import subprocess; subprocess.Popen(['sleep', '1000'], start_new_session=True, env={}); time.sleep(1000)"))
    seen = cluster.await_state(handle, "running")
    assert seen.application_id and wait_until(lambda: cluster.look().busy)
    mark = json.loads((home(cluster) / "facts.json").read_text())["mark"]
    assert processes.marked({MARK: mark})
    cluster.framework.kill(cluster.look(), handle)
    assert processes.marked({MARK: mark}) == [] and not processes.standing_in(str(home(cluster)))
    seen = cluster.job(handle)
    assert seen.state == "killed" and seen.ended_at and not cluster.look().busy
    cluster.framework.kill(cluster.look(), handle)


@pytest.mark.engines
def test_a_job_that_does_not_listen_is_killed_too(cluster: Local, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.drivers.frameworks_local import spark_jobs

    monkeypatch.setattr(spark_jobs, "KILL_TIMEOUT_S", 0.3)
    cluster.whole()
    handle = cluster.submit(program("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n"
                                  "time.sleep(1000)"))
    wait_until(lambda: "deaf" in cluster.log(handle))
    cluster.framework.kill(cluster.look(), handle)
    assert cluster.job(handle).state == "killed"


@pytest.mark.engines
def test_an_ended_job_stays_what_it_was(cluster: Local, program: Program) -> None:
    handle = cluster.submit(program("pass"))
    cluster.await_end(handle)
    cluster.framework.kill(cluster.look(), handle)
    cluster.framework.stop(cluster.wanted, cluster.handle)
    assert cluster.job(handle).state == "succeeded" and "app ID" in cluster.log(handle)


def test_submitting_twice_is_one_job(cluster: Local, program: Program, tmp_path: Path) -> None:
    job = program(f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    first = cluster.submit(job)
    again = dict(cluster.another().submit(cluster.look(), JobWanted(key="job-1", job_id=1, entry=str(job)), {}, lambda _: None))
    assert first == again
    cluster.await_end(first)
    assert cluster.submit(job) == first and cluster.job(first).state == "succeeded"
    assert (tmp_path / "ran").read_text() == "x"


@pytest.mark.engines
def test_an_interrupted_submission_begins_again(cluster: Local, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    job = program("print('once')")

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_spawn", crash)
        with pytest.raises(KeyboardInterrupt):
            cluster.submit(job)
    assert cluster.job({"key": "job-1"}).state == "lost"
    assert cluster.await_end(cluster.submit(job)).state == "succeeded"


@pytest.mark.engines
def test_the_code_is_that_of_the_submission(cluster: Local, program: Program) -> None:
    go = home(cluster).parent / "go"
    handle = cluster.submit(program(f"while not os.path.exists({str(go)!r}): time.sleep(0.01)\nprint(open(__file__).read())"))
    cluster.await_state(handle, "running")
    program("print('another version')")
    go.touch()
    cluster.await_end(handle)
    assert "another version" not in cluster.log(handle)


@pytest.mark.engines
def test_the_result_is_known_after_the_death_of_who_submitted(cluster: Local, program: Program, tmp_path: Path) -> None:
    job = program(f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.01)\nprint('the answer is 42'); sys.exit(3)")
    code = textwrap.dedent("""
        import json, os, sys
        from cloudsched.drivers import spark_local
        from cloudsched.drivers.base import Place
        from cloudsched.drivers.frameworks import ClusterSeen, JobWanted
        options, state, address, entry = json.loads(sys.argv[1])
        made = spark_local.make(Place("local", "spark", options, state_dir=state, instance="test"))
        made.submit(ClusterSeen(True, 2, address), JobWanted(key="job-1", job_id=1, entry=entry), {}, lambda _: None)
        os.kill(os.getpid(), 9)
    """)
    given = json.dumps([cluster.options, str(cluster.state_dir), cluster.look().address, str(job)])
    done = subprocess.run([sys.executable, "-c", code, given], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
                          check=False)
    assert done.returncode == -signal.SIGKILL
    handle = {"key": "job-1"}
    cluster.await_state(handle, "running")
    (tmp_path / "go").touch()
    seen = cluster.await_end(handle)
    assert (seen.state, seen.exit_code) == ("failed", 3) and "the answer is 42" in cluster.log(handle)


def test_a_job_whose_supervisor_is_killed_dies_and_is_lost(cluster: Local, program: Program) -> None:
    handle = cluster.submit(program("time.sleep(1000)"))
    cluster.await_state(handle, "running")
    facts = json.loads((home(cluster) / "roles" / "driver.json").read_text())
    os.kill(facts["pid"], signal.SIGKILL)
    mark = json.loads((home(cluster) / "facts.json").read_text())["mark"]
    wait_until(lambda: not processes.marked({MARK: mark}), "the death of the driver")
    seen = cluster.await_end(handle)
    assert seen.state == "lost" and "supervisor" in seen.reason
    assert cluster.submit(program("pass")) == handle and cluster.job(handle).state == "lost", "at most once"


@pytest.mark.engines
def test_what_a_job_leaves_behind_is_killed(cluster: Local, program: Program) -> None:
    handle = cluster.submit(program(
        "import subprocess; left = subprocess.Popen(['sleep', '1000'], start_new_session=True, cwd='/', env={})\n"
        "print('left', left.pid, flush=True)"))
    cluster.await_end(handle)
    left = int(cluster.log(handle).split("left ")[1].split()[0])
    assert processes.start_time(left) is None


@pytest.mark.engines
def test_a_job_without_cores_waits(cluster: Local, program: Program) -> None:
    handle = cluster.submit(program("time.sleep(1000)"), settings={"spark.played.state": "WAITING"})
    seen = wait_until(lambda: found if (found := cluster.job(handle)).application_id else None)
    assert (seen.state, seen.reason) == ("submitted", "waits for cores of the cluster")


def test_settings_of_cluster_and_job_meet(cluster: Local, program: Program) -> None:
    given = {"spark.executor.memory": "480m", "spark.sql.shuffle.partitions": "7", "spark.deploy.spreadOut": "false"}
    cluster.whole(settings=given)
    more = {"spark.sql.shuffle.partitions": "9", "spark.a.path": "C:\\x = #1!"}
    cluster.await_end(cluster.submit(program("pass"), settings=more))
    given = settings(cluster)
    assert (given["spark.executor.memory"], given["spark.sql.shuffle.partitions"]) == ("480m", "9")
    text = (home(cluster) / "conf" / "spark.conf").read_text()
    assert "spark.a.path=C\\:\\\\x\\ \\=\\ \\#1\\!" in text
    daemon = (cluster.state_dir / "frameworks" / "spark" / cluster.wanted.key / "conf" / "daemon.conf").read_text()
    assert "spark.deploy.spreadOut=false" in daemon and "spark.executor.memory" not in daemon
    assert "spark.master.rest.enabled=false" in daemon


@pytest.mark.parametrize(("changes", "said"), [
    ({"entry": "/x/job.txt"}, "entry: .*\\.py or \\.jar"), ({"entry": "/nothing/job.py"}, "entry: .*not a file"),
    ({"entry": "job.py"}, "entry: .*full path"), ({"main_class": "a;b"}, "main_class"),
    ({"arguments": ["a\0b"]}, r"arguments\[0\]"),
    ({"driver_memory_mb": 100}, "driver_memory_mb: .*512 to"), ({"executor_memory_mb": 513}, "executor_memory_mb: .*512 to 512"),
    ({"cores_max": -1}, "cores_max"), ({"env": {"LD_PRELOAD": "x"}}, "env: LD_PRELOAD"), ({"key": "a/b"}, "key: .*DNS label"),
    ({"settings": {"spark.master": "local"}}, "spark.master cannot be set"), ({"env": {"a b": "x"}}, "env: 'a b'")])
def test_bad_input_names_the_field(cluster: Local, program: Program, changes: dict[str, Any], said: str) -> None:
    cluster.whole(workers=1)
    job = JobWanted(**{"key": "job-1", "job_id": 1, "entry": str(program("pass")), **changes})
    with pytest.raises(DriverError, match=said) as caught:
        cluster.framework.submit(cluster.look(), job, {}, lambda _: None)
    assert not caught.value.transient and not home(cluster).exists()


def test_a_jar_needs_its_class(cluster: Local, tmp_path: Path) -> None:
    (tmp_path / "job.jar").touch()
    with pytest.raises(DriverError, match=r"main_class: a \.jar needs"):
        cluster.submit(tmp_path / "job.jar")


@pytest.mark.parametrize(("address", "said"), [("local[*]", "not spark://"), ("spark://10.1.2.3:7077", "driver_host")])
def test_external_masters(cluster: Local, program: Program, address: str, said: str) -> None:
    with pytest.raises(DriverError, match=said):
        cluster.framework.submit(ClusterSeen(True, 1, address), JobWanted(key="j", job_id=1, entry=str(program("pass"))), {},
                               lambda _: None)


@pytest.mark.engines
def test_an_external_master_of_this_machine_gets_no_secret_of_ours(cluster: Local, program: Program) -> None:
    address = cluster.whole().address
    cluster.framework.stop(cluster.wanted, cluster.handle)
    job = JobWanted(key="job-1", job_id=1, entry=str(program("pass")))
    handle = cluster.framework.submit(ClusterSeen(True, 1, address), job, {}, lambda _: None)
    seen = cluster.await_end(dict(handle))
    assert seen.state == "failed" and "ConnectionRefusedError" in seen.reason
    assert "spark.authenticate" not in settings(cluster)


@pytest.mark.engines
def test_jobs_do_not_wait_for_each_other(cluster: Local, program: Program) -> None:
    slow = cluster.submit(program("time.sleep(1000)"))
    began = time.monotonic()
    assert cluster.await_end(cluster.submit(program("pass"), key="job-2")).state == "succeeded"
    assert cluster.job(slow).state in ("submitted", "running") and time.monotonic() > began
