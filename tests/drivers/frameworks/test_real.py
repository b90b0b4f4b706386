"""Do Spark and Flink themselves run here? Two small workers each, the words of 100 MB counted, workers and callers killed.

Spark and Flink are the installed packages, or what CLOUDSCHED_TEST_SPARK_HOME and CLOUDSCHED_TEST_FLINK_HOME name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cloudsched import samples
from cloudsched.agent import processes
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import JobWanted
from cloudsched.drivers.frameworks_local import engines, users
from cloudsched.drivers.frameworks_local.homes import MARK

from .conftest import Local, wait_until

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
MEGABYTES = 100
Text = tuple[Path, Counter[str]]
LONG_S = 240.0
SUBMIT_AND_DIE = """
import json, os, sys
from cloudsched.drivers import flink_local, spark_local
from cloudsched.drivers.base import Place
from cloudsched.drivers.frameworks import ClusterSeen, JobWanted
kind, options, state, seen, wanted = json.loads(sys.argv[1])
make = {"spark": spark_local.make, "flink": flink_local.make}[kind]
made = make(Place("local", kind, options, state_dir=state, instance="test"))
made.submit(ClusterSeen(**seen), JobWanted(**wanted), {}, lambda _: None)
os.kill(os.getpid(), 9)
"""


def home_of(kind: str) -> dict[str, Any]:
    """Options that lead to the real engine; the test is skipped where it is not."""
    options = {"java_home": os.environ.get("CLOUDSCHED_TEST_JAVA_HOME", ""),
               f"{kind}_home": os.environ.get(f"CLOUDSCHED_TEST_{kind.upper()}_HOME", "")}
    options = {name: value for name, value in options.items() if value}
    try:
        engines.java(options)
        (engines.spark if kind == "spark" else engines.flink)(options)
    except DriverError as error:
        pytest.skip(error.message)
    return options


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A directory that other users pass through: pytest's own are closed."""
    made = Path(tempfile.mkdtemp(prefix="cs-frameworks-"))
    made.chmod(0o755)
    (made / "out").mkdir()
    (made / "out").chmod(0o777)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def text(folder: Path) -> Text:
    """A text of a little more than 100 MB, and how often plain Python finds each word in it."""
    path, counts = folder / "text.txt", Counter[str]()
    line = "word{0} the\tquick  brown{1} fox jumps over the lazy dog number {2}\n"
    block = "".join(line.format(number % 9973, number % 31, number) for number in range(20_000)).encode()
    with open(path, "wb") as file:
        while file.tell() <= MEGABYTES << 20:
            file.write(block)
    with open(path, encoding="utf-8") as read:
        for line in read:
            counts.update(line.split())
    return path, counts


@pytest.fixture(scope="module", params=["spark", "flink"])
def real(request: pytest.FixtureRequest, folder: Path) -> Iterator[Local]:
    """A cluster of two small workers."""
    options = home_of(request.param)
    made = Local(request.param, options, folder / "state")
    quick = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # short jobs on few cores
    named = ("spark.driver.extraJavaOptions", "spark.executor.extraJavaOptions") if request.param == "spark" else ()
    made.launch(settings=dict.fromkeys(named, quick))
    made.await_workers(2, deadline_s=LONG_S)
    yield made
    for key in ("job-1", "job-2", "job-3"):
        made.framework.forget({"key": key})
    made.framework.stop(made.wanted, made.handle)


def sample(real: Local, *arguments: str, key: str) -> dict[str, Any]:
    """A word count."""
    entry = samples.SPARK_WORDCOUNT if real.kind == "spark" else samples.FLINK_WORDCOUNT
    return {"key": key, "job_id": 1, "entry": str(entry), "arguments": arguments,
            "main_class": samples.FLINK_MAIN_CLASS if real.kind == "flink" else ""}


def counted(path: Path) -> Counter[str]:
    with open(path, encoding="utf-8") as file:
        return Counter({word: int(count) for word, count in (line.rstrip("\n").split("\t") for line in file)})


def test_everything_listens_on_this_machine_alone_and_is_no_root(real: Local) -> None:
    found = [psutil.Process(pid) for pid, _ in real.processes()]
    assert len(found) >= 3
    listening = [link.laddr.ip for one in found for link in one.net_connections() if link.status == psutil.CONN_LISTEN]
    assert len(listening) >= 3 and {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert {one.username() for one in found} == {users.own_name() if os.geteuid() else users.UNPRIVILEGED}


def test_100_mb_are_counted_rightly_though_the_caller_was_killed(real: Local, text: Text, folder: Path) -> None:
    path, right = text
    assert path.stat().st_size > MEGABYTES << 20
    out, seen = folder / "out" / f"{real.kind}.txt", real.look()
    given = json.dumps([real.kind, real.options, str(real.state_dir),
                        {"master": True, "workers": 2, "address": seen.address, "facts": dict(seen.facts)},
                        sample(real, str(path), str(out), key="job-1")])
    root = str(Path(samples.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", SUBMIT_AND_DIE, given], env={**os.environ, "PYTHONPATH": root}, check=False)
    assert done.returncode == -signal.SIGKILL
    real.framework, handle = real.another(), {"key": "job-1"}
    real.await_state(handle, "running", deadline_s=LONG_S)
    ended = real.await_end(handle, deadline_s=LONG_S)
    assert ended.state == "succeeded", (ended, real.log(handle)[-3000:])
    assert counted(out) == right
    os.umask(mask := os.umask(0o077))
    assert out.stat().st_mode & 0o777 == 0o666 & ~mask
    assert ended.application_id and ended.started_at and ended.ended_at and real.log(handle)
    if real.kind == "spark":
        assert f"the\t{right['the']}\n" in real.log(handle), "the most frequent word is printed"


def test_a_killed_worker_is_seen_and_replaced(real: Local) -> None:
    before = real.look().facts["pids"]
    os.kill(before["worker-1"], signal.SIGKILL)
    seen = wait_until(lambda: found if (found := real.look()).workers == 1 else None)
    assert seen.master and "worker-1" in seen.reason
    real.launch()
    after = real.await_workers(2, deadline_s=LONG_S).facts["pids"]
    assert after["worker-0"] == before["worker-0"] and after["worker-1"] != before["worker-1"]


def test_a_running_job_is_killed_with_proof(real: Local, text: Text) -> None:
    long = {"entry": str(samples.SPARK_PI), "arguments": ["100000000000", "4"]} if real.kind == "spark" else {}
    wanted = {**sample(real, str(text[0]), key="job-2"), **long}
    handle = dict(real.framework.submit(real.look(), JobWanted(**wanted), {}, lambda _: None))
    real.await_state(handle, "running", deadline_s=LONG_S)
    wait_until(lambda: real.look().busy, "the job on the master")
    real.framework.kill(real.look(), handle)
    assert real.job(handle).state == "killed"
    wait_until(lambda: not real.look().busy, "an idle master")


def test_a_job_fails_and_says_why(real: Local) -> None:
    handle = dict(real.framework.submit(real.look(), JobWanted(**sample(real, key="job-3")), {}, lambda _: None))
    ended = real.await_end(handle, deadline_s=LONG_S)
    assert ended.state == "failed" and "usage: " in ended.reason + real.log(handle)
    assert ended.exit_code == (2 if real.kind == "spark" else None)


def test_nothing_is_left(real: Local) -> None:
    mark = real.handle["mark"]
    assert processes.marked({MARK: mark})
    real.framework.stop(real.wanted, real.handle)
    assert processes.marked({MARK: mark}) == [] and not processes.standing_in(str(real.state_dir))
    assert real.framework.clusters() == []


def test_the_flink_sample_is_made_from_its_source(tmp_path: Path) -> None:
    options = home_of("flink")
    if not shutil.which("javac"):
        pytest.skip("there is no javac on this machine")
    from cloudsched.samples import build_flink

    with pytest.MonkeyPatch.context() as patched:
        home = Path(options["flink_home"]) if "flink_home" in options else build_flink.flink_home()
        patched.setattr(build_flink, "flink_home", lambda: home)
        build_flink.main([str(tmp_path / "made.jar")])
    with zipfile.ZipFile(tmp_path / "made.jar") as made, zipfile.ZipFile(samples.FLINK_WORDCOUNT) as shipped:
        assert made.namelist() == shipped.namelist()
