"""Do jobs run as the protocol says, and does nothing of them stay?"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import scratch
from cloudsched.testing.fakeserver import FakeServer
from tests.agent.conftest import Start


def run(server: FakeServer, *command: str, **spec: Any) -> dict[str, Any]:
    job = server.wait(server.submit(*command, **spec))[0]
    assert job.answers == 1
    assert job.result is not None
    return job.result


def sh(server: FakeServer, script: str, **spec: Any) -> dict[str, Any]:
    return run(server, "sh", "-c", script, **spec)


def test_results_exit_codes_and_output(server: FakeServer, start: Start) -> None:
    agent = start("--slots", "2")
    good = sh(server, "echo out; echo err >&2; printf 'ü'")
    assert (good["state"], good["exit_code"], good["stdout"], good["stderr"]) == ("succeeded", 0, "out\nü", "err\n")
    assert good["cpu_s"] is not None
    assert good["max_rss_mb"] is not None
    bad = sh(server, "exit 3")
    assert (bad["state"], bad["exit_code"], bad["signal"], bad["reason"]) == ("failed", 3, None, "exit code 3")
    killed = sh(server, "kill -SEGV $$")
    assert (killed["state"], killed["exit_code"], killed["signal"]) == ("failed", 139, 11)
    assert "SIGSEGV" in killed["reason"]
    noop = run(server, kind="noop")
    assert (noop["state"], noop["exit_code"]) == ("succeeded", 0)
    agent.send(signal.SIGTERM)
    assert agent.wait() == 0
    assert agent.scratch() == []


def test_a_job_gets_stdin_its_environment_and_default_signals(server: FakeServer, start: Start) -> None:
    start("--name", "box")
    assert sh(server, "cat", stdin="grüße\n")["stdout"] == "grüße\n"
    assert sh(server, "cat")["stdout"] == ""
    env = {"A": "b c", "CLOUDSCHED_NODE": "lie", "PATH": "/usr/bin:/bin", "CLOUDSCHED_ARRAY_INDEX": "7"}
    lines = sh(server, "env; pwd; grep SigIgn /proc/self/status", env=env)["stdout"].splitlines()
    given = dict(line.split("=", 1) for line in lines if "=" in line)
    assert given["A"] == "b c"
    assert (given["CLOUDSCHED_NODE"], given["CLOUDSCHED_JOB"], given["CLOUDSCHED_ATTEMPT"]) == ("box", "job-3", "1")
    assert given["CLOUDSCHED_ARRAY_INDEX"] == "7"
    assert given["HOME"] == given["TMPDIR"] == lines[-2]
    assert given["PATH"] == "/usr/bin:/bin"
    assert not {name for name in given if "TOKEN" in name or name == "PYTHONPATH"}
    assert int(lines[-1].split()[1], 16) & 1 << (signal.SIGPIPE - 1) == 0


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"command": ["no-such-program"]}, "cannot start: no-such-program: not found in PATH"),
        ({"command": ["/no/such/file"]}, "cannot start: /no/such/file: no such file"),
        ({"command": ["/etc/passwd"]}, "cannot start: /etc/passwd: permission denied"),
        ({"command": []}, "cannot start: command is empty"),
        ({"command": ["a\0b"]}, "cannot start: command has a NUL in it"),
        ({"kind": "spark"}, "the task type spark is not enabled on this device"),
        ({"cores": 5}, "cannot start: it asks for 5 cores, this node has 4"),
        ({"output_files": ["../x"]}, "cannot start: '../x' leaves the scratch directory or is not in plain form"),
        ({"input_files": [{"name": "/etc/x", "size": 1, "mode": 420}]},
         "input file '/etc/x' is not relative to the scratch directory"),
        ({"input_files": [{"name": "gone", "size": 1, "mode": 420}]}, "input file gone: no such file"),
        ({"env": {"A=B": "x"}}, "cannot start: env: 'A=B' is not a variable that can be set"),
    ],
)  # fmt: skip
def test_what_cannot_start_says_why(server: FakeServer, start: Start, spec: dict[str, Any], reason: str) -> None:
    start("--cores", "4")
    result = run(server, **{"command": ["true"], **spec})
    assert (result["state"], result["reason"]) == ("failed", reason)


def test_files_come_and_go(server: FakeServer, start: Start) -> None:
    agent = start()
    big = os.urandom(3_000_000)
    inputs = {"run.sh": b"#!/bin/sh\ncp in/big big.copy\nmkdir d; echo 1 > d/1; echo 2 > d/2; : > empty", "in/big": big}
    outputs = ["big.copy", "d/*", "empty"]
    result = run(server, "./run.sh", inputs=inputs, modes={"run.sh": 0o755}, output_files=outputs)
    assert result["state"] == "succeeded"
    job = server.jobs[1]
    assert {name: bytes(data) for name, data in job.outputs.items()} == {
        "big.copy": big, "d/1": b"1\n", "d/2": b"2\n", "empty": b""
    }  # fmt: skip
    assert job.complete == set(job.outputs)
    missing = run(server, "true", output_files=["*.txt"])
    assert (missing["state"], missing["reason"]) == ("failed", "output file *.txt is missing")
    link = sh(server, "ln -s /etc/passwd p", output_files=["p"])
    assert link["state"] == "failed"
    assert "leads out" in link["reason"]
    assert server.jobs[3].outputs == {}
    server.until(lambda: agent.scratch() in ([], ["3.1"], ["2.1"]), "scratch is empty")


def test_a_directory_that_cannot_be_read_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "o1" / "closed").mkdir(parents=True)
    (tmp_path / "o1" / "file").write_text("x")
    assert scratch.matches(str(tmp_path), "o1") == ["o1/file"]
    scan = os.scandir

    def refuse(path: Any) -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        scratch.matches(str(tmp_path), "o1")


def test_long_and_binary_output_is_exact(server: FakeServer, start: Start) -> None:
    start()
    sh(server, "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377\\000\\376' >&2")
    assert server.jobs[1].output("stdout") == b"x" * 3_000_000
    assert server.jobs[1].output("stderr") == b"\xff\x00\xfe"


def test_output_beyond_the_limit_is_dropped_and_fills_no_disk(server: FakeServer, start: Start) -> None:
    server.limit = 100_000
    agent = start("--grace", "0.1")
    job = server.jobs[server.submit("sh", "-c", "yes 0123456789 & sleep 2.5; kill $!; echo end")]
    server.until(lambda: len(job.streams["stdout"]) == server.limit, "the limit is reached")
    server.wait(job.id)
    assert job.output("stdout") == (b"0123456789\n" * 10_000)[: server.limit]
    server.submit("true")
    server.wait()
    left = [os.stat(f"/proc/{agent.pid}/fd/{number}") for number in os.listdir(f"/proc/{agent.pid}/fd")]
    assert max(facts.st_size for facts in left) < 100_000


def test_output_is_streamed_while_it_runs(server: FakeServer, start: Start) -> None:
    start()
    job = server.jobs[server.submit("sh", "-c", "echo early; sleep 1000")]
    server.until(lambda: bytes(job.streams["stdout"]) == b"early\n", "streamed")
    assert job.result is None
    server.cancel(job.id)
    server.wait(job.id)
    assert job.output("stdout") == b"early\n"


def test_time_limit_ends_the_whole_family(server: FakeServer, start: Start) -> None:
    agent = start("--grace", "0.2")
    family = "trap '' TERM; (setsid sleep 1000 &); (setsid env -i sleep 1000 &); sleep 1000 & wait; sleep 1000"
    result = sh(server, family, time_limit_s=0.3)
    assert (result["state"], result["reason"]) == ("timeout", "time limit")
    assert agent.job_processes() == []


def test_memory_limit(server: FakeServer, start: Start) -> None:
    start("--grace", "0.2")
    eater = "x=$(head -c 200000000 /dev/zero | tr '\\0' x); sleep 1000"
    result = sh(server, eater, memory_mb=50)
    assert (result["state"], result["reason"]) == ("failed", "memory limit")
    assert result["max_rss_mb"] > 50


def test_leftovers_of_a_job_that_ended_well_are_killed(server: FakeServer, start: Start) -> None:
    agent = start("--slots", "2")
    other = server.submit("sleep", "1000")
    server.until(lambda: server.jobs[other].started, "the other runs")
    before = agent.job_processes()
    result = sh(server, "(setsid sleep 1000 &); (setsid env -i sleep 1000 &); sleep 1000 & exit 0")
    assert result["state"] == "succeeded"
    assert agent.job_processes() == before
    assert server.jobs[other].result is None


def test_cancel_is_told_when_it_is_dead(server: FakeServer, start: Start) -> None:
    agent = start("--slots", "1", "--grace", "0.2")
    running = server.submit("sh", "-c", "trap '' TERM; while :; do sleep 1000; done")
    server.until(lambda: server.jobs[running].started, "started")
    server.cancel(running)
    result = server.wait(running)[0].result
    assert result is not None
    assert result["state"] == "cancelled"
    assert agent.job_processes() == []


def test_a_lost_job_is_killed_and_its_result_is_not_insisted_on(server: FakeServer, start: Start) -> None:
    agent = start("--grace", "0.2")
    lost = server.submit("sleep", "1000")
    server.until(lambda: server.jobs[lost].started, "started")
    server.take_away(lost)
    assert sh(server, "echo next")["stdout"] == "next\n"
    server.until(lambda: not agent.job_processes(), "killed")
    assert server.jobs[lost].result is None


def test_room_is_kept_to(server: FakeServer, start: Start) -> None:
    start("--cores", "4", "--memory-mb", "1000", "--slots", "3")
    script = "echo $(ls -d ../*.1 | wc -l) > n; sleep 0.2; cat n"
    ids = server.submit_many(6, "sh", "-c", script, memory_mb=500)
    counts = [int(job.result["stdout"]) for job in server.wait(*ids) if job.result]
    assert len(counts) == 6
    assert max(counts) <= 2 + 1  # two at once by memory; a scratch directory may be kept for the next
