"""Does the agent live through restarts, lost answers, signals and kill -9 without losing or doubling a job?"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from cloudsched.agent import processes
from cloudsched.testing.fakeserver import FakeServer
from tests.agent.conftest import AgentProcess, Start

OLD_PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.8*/bin/python")) + [
    Path(found) for found in [shutil.which("python3.8")] if found
]


def until(agent: AgentProcess, text: str) -> None:
    deadline = time.monotonic() + 15
    while text not in agent.log:
        assert time.monotonic() < deadline, agent.log
        time.sleep(0.01)


def test_short_jobs_travel_in_batches(server: FakeServer, start: Start) -> None:
    start("--slots", "2")
    server.submit_many(400, "true")
    server.submit_many(2000, kind="noop")
    server.wait()
    assert all(job.answers == 1 and job.attempt == 1 for job in server.jobs.values())
    assert len(server.requests) < 200


def test_faults_of_all_kinds_lose_and_double_nothing(server: FakeServer, start: Start) -> None:
    start("--slots", "2")
    server.until(lambda: server.nodes, "joined")
    server.redeliver_after_s = 0.2
    for fault in ("drop", "500", "garbage", "lost", "noise", "503", "lost", "429", "400"):
        server.faults.append(fault)
        server.submit_many(20, "true")
        server.wait()
    assert all(job.answers == 1 for job in server.jobs.values())


def test_a_server_that_cannot_hold_requests_is_not_flooded(server: FakeServer, start: Start) -> None:
    server.can_hold = False
    start()
    server.until(lambda: server.nodes, "joined")
    time.sleep(1.0)
    assert len(server.requests) < 10
    server.wait(server.submit("true"))


def test_jobs_survive_a_restart_of_the_server(server: FakeServer, start: Start) -> None:
    start()
    job = server.submit("sh", "-c", "sleep 0.5; echo done")
    server.until(lambda: server.jobs[job].started, "started")
    server.stop()
    time.sleep(0.6)
    server.start()
    result = server.wait(job)[0].result
    assert result is not None
    assert (result["stdout"], server.jobs[job].attempt) == ("done\n", 1)


def test_a_secret_that_is_refused_means_join_again(server: FakeServer, start: Start) -> None:
    start("--name", "me")
    job = server.submit("sh", "-c", "sleep 0.5; echo kept")
    server.until(lambda: server.jobs[job].started, "started")
    server.nodes[1].secret = "another"
    result = server.wait(job)[0].result
    assert result is not None
    assert (result["stdout"], server.nodes[1].joins, server.jobs[job].attempt) == ("kept\n", 2, 1)


def test_a_node_that_is_gone_ends_its_agent(server: FakeServer, start: Start) -> None:
    agent = start("--name", "me")
    server.submit("sh", "-c", "(setsid sleep 1000 &); sleep 1000")
    server.until(lambda: server.jobs[1].started, "started")
    server.lose_node(1)
    assert agent.wait() == 0
    assert agent.scratch() == []
    assert not (agent.work / "agent.json").exists()
    assert start("--name", "me").wait() == 0  # 409 at the join


def test_a_refused_token_is_told_at_once(server: FakeServer, start: Start) -> None:
    agent = start(token="wrong")
    assert agent.wait() == 2
    assert "refuses the token" in agent.log
    assert "wrong" not in agent.log


@pytest.mark.parametrize("how", ["signal", "goal"])
def test_drain_gives_back_what_waits_and_finishes_what_runs(server: FakeServer, start: Start, how: str) -> None:
    agent = start("--slots", "1")
    server.submit_many(60, "true")
    server.wait()  # it asks for more than its slots now
    ids = server.submit_many(8, "sh", "-c", "sleep 0.7; echo finished")
    server.until(lambda: any(server.jobs[number].started for number in ids), "one runs")
    if how == "signal":
        agent.send(signal.SIGTERM)
        assert agent.wait() == 0
    else:
        server.set_goal("drain")
    finished = [number for number in ids if server.jobs[number].result]
    server.until(lambda: sum(1 for number in ids if server.jobs[number].result) >= 1, "the running one ends")
    server.until(lambda: all(server.jobs[n].result or server.jobs[n].node is None for n in ids), "the rest is back")
    assert len(finished) <= 2
    if how == "goal":
        assert agent.process.poll() is None
        server.set_goal("run")
        server.wait()
        server.set_goal("stop")
        assert agent.wait() == 0
    assert agent.scratch() == []


def test_jobs_behind_a_long_one_are_given_back(server: FakeServer, start: Start) -> None:
    start("--slots", "1")
    server.submit_many(60, "true")
    server.wait()
    ids = server.submit_many(4, "sleep", "1000")
    server.until(lambda: sum(server.jobs[number].node is not None for number in ids) > 1, "taken ahead")
    server.until(lambda: sum(server.jobs[number].node is not None for number in ids) == 1, "given back")
    for number in ids:
        server.cancel(number)
    server.wait()


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]])
def test_stop_kills_all_and_cleans_up(server: FakeServer, start: Start, signals: list[int]) -> None:
    agent = start()
    server.submit("sh", "-c", "trap '' TERM; touch f; (setsid sleep 1000 &); while :; do sleep 1000; done")
    server.until(lambda: server.jobs[1].started, "started")
    for number in signals:
        agent.send(number)
        time.sleep(0.1)
    assert agent.wait() == 0
    assert agent.scratch() == []
    assert agent.job_processes() == []


def test_kill_9_and_a_new_life(server: FakeServer, start: Start) -> None:
    token = server.token("me")
    first = start("--name", "me", "--slots", "2", token=token)
    ids = server.submit_many(2, "sh", "-c", "(setsid sleep 1000 &); test $CLOUDSCHED_ATTEMPT = 2 || sleep 1000")
    server.until(lambda: all(server.jobs[number].started for number in ids), "started")
    first.kill_with_guard()
    first.wait()
    assert len(first.job_processes()) >= 4
    second = start("--name", "me", "--slots", "2", token=token)
    jobs = server.wait(*ids)
    assert [(job.attempt, job.answers) for job in jobs] == [(2, 1), (2, 1)]
    assert second.job_processes() == []
    assert len(server.nodes) == 1


def test_two_agents_cannot_share_a_work_directory(server: FakeServer, start: Start) -> None:
    first = start()
    server.until(lambda: server.nodes, "joined")
    second = start()
    assert second.wait() == 2
    assert "another agent uses" in second.log
    assert first.process.poll() is None


def test_an_orphan_ends_itself(server: FakeServer, start: Start) -> None:
    agent = start("--orphan-timeout", "0.5")
    server.submit("sleep", "1000")
    server.until(lambda: server.jobs[1].started, "started")
    server.stop()
    assert agent.wait() == 1
    assert agent.scratch() == []


def test_once_ends_when_there_is_nothing_to_do(server: FakeServer, start: Start) -> None:
    ids = server.submit_many(5, "true")
    assert start("--once").wait() == 0
    assert all(server.jobs[number].result for number in ids)


def test_the_secret_is_private_and_the_memory_small(server: FakeServer, start: Start) -> None:
    agent = start()
    server.submit_many(100, "true")
    server.wait()
    kept = agent.work / "agent.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    secret = json.loads(kept.read_text())["secret"]
    assert secret not in agent.log
    status = Path(f"/proc/{agent.pid}/status").read_text()
    resident_kb = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert resident_kb < 25_000
    assert server.nodes[1].metrics["memory_used_mb"] > 0


def test_the_agent_imports_nothing_of_the_server() -> None:
    code = "import sys, cloudsched.agent.agent; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [os.sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True,  # type: ignore[attr-defined]
        cwd=Path(__file__).parents[2],
    ).stdout.split()  # fmt: skip
    ours = {name for name in loaded if name.startswith("cloudsched")}
    assert {name for name in ours if not name.startswith("cloudsched.agent")} == {"cloudsched"}
    assert not {"ssl", "asyncio", "http.client", "email", "subprocess", "logging", "dataclasses"} & set(loaded)


def test_the_guard_of_a_killed_agent_leaves_nothing(server: FakeServer, start: Start) -> None:
    agent = start("--slots", "1")
    away = "cd /; exec env -i setsid sh -c 'trap \"\" TERM; sleep 3600'"
    server.submit("sh", "-c", f"({away}) > /dev/null 2>&1 & echo $!; sleep 3600")
    server.until(lambda: server.jobs[1].started, "started")
    server.until(lambda: len(processes.descendants([agent.pid])) >= 4, "the job's family is there")
    family = [(pid, processes.start_time(pid) or 0) for pid in processes.descendants([agent.pid])[1:]]
    os.kill(agent.pid, signal.SIGKILL)
    assert agent.wait() == 128 + signal.SIGKILL
    assert [pid for pid, started in family if processes.alive(pid, started)] == []


@pytest.mark.skipif(not OLD_PYTHONS, reason="no Python 3.8 on this machine")
def test_it_runs_on_python_3_8(server: FakeServer, start: Start) -> None:
    start(python=str(OLD_PYTHONS[0]))
    job = server.submit("sh", "-c", "cat in > out; sleep 1000 & exit 0", inputs={"in": b"x"}, output_files=["out"])
    server.wait(job)
    assert server.jobs[job].outputs == {"out": bytearray(b"x")}
    assert server.nodes[1].profile["python_version"].startswith("3.8")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_run_as_gives_up_root_for_good(server: FakeServer) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o711)
        agent = AgentProcess(server, Path(name) / "work", "--run-as", "nobody")
        job = server.wait(server.submit("sh", "-c", "id -u; id -G; (setsid sleep 1000 &)"))[0]
        uid = pwd.getpwnam("nobody").pw_uid
        assert job.output("stdout").decode().split() == [str(uid), str(pwd.getpwnam("nobody").pw_gid)]
        assert agent.job_processes() == []
        agent.send(signal.SIGTERM)
        assert agent.wait() == 0
        os.chmod(name, 0o700)
        refused = AgentProcess(server, Path(name) / "work", "--run-as", "nobody")
        assert refused.wait() == 2
        assert "nobody cannot reach" in refused.log
        assert AgentProcess(server, Path(name) / "work", "--run-as", "no-such-user").wait() == 2
        assert processes.standing_in(name) == []
