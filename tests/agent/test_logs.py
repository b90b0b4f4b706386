"""Do logs leave the machine, whatever is killed, and is nothing left of what brought them?"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cloudsched.agent import processes, spool
from cloudsched.agent.spool import Spool
from cloudsched.testing.fakeserver import FakeServer
from tests.agent.conftest import AgentProcess, Start
from tests.agent.test_life import OLD_PYTHONS

LINES = "i=0; while [ $i -lt {0} ]; do echo line $i; i=$((i+1)); done"


def wait_for(condition: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def log_agents(agent: AgentProcess) -> list[int]:
    """Processes that stand in the folder of the logs, the agent itself apart."""
    found = processes.standing_in(str(agent.work / "logs"))
    return [pid for pid, _ in found if pid not in (agent.pid, agent.process.pid)]


def lines_of(server: FakeServer, job: int, stream: str = "stdout") -> list[str]:
    return [one["line"] for one in server.collected(job, stream)]


def numbered(count: int) -> list[str]:
    return [f"line {number}" for number in range(count)]


def stop_for_good(server: FakeServer, agent: AgentProcess) -> None:
    server.set_goal("stop")
    assert agent.wait(30) == 0
    left = sorted(path.name for path in (agent.work / "logs").rglob("*"))
    assert not (agent.work / "logs").exists(), f"nothing is left of a machine that is no node any more: {left} {agent.log}"
    assert log_agents(agent) == []


def test_job_output_and_the_agents_own_log_arrive(server: FakeServer, start: Start) -> None:
    server.collecting()
    agent = start("--slots", "2")
    quiet = server.submit_many(20, "true")
    noisy = server.submit("sh", "-c", "echo one; echo two >&2; printf 'no newline'")
    server.wait()
    wait_for(lambda: len(lines_of(server, noisy)) == 2, "output")
    assert lines_of(server, noisy) == ["one", "no newline"] and lines_of(server, noisy, "stderr") == ["two"]
    record = server.collected(noisy)[0]
    assert {name: record[name] for name in ("node", "cloud", "job", "attempt", "stream", "offset", "size")} == {
        "node": "n", "cloud": "c", "job": noisy, "attempt": 1, "stream": "stdout", "offset": 0, "size": 4}  # fmt: skip
    assert record["time"].endswith("Z")
    assert not any(lines_of(server, job) for job in quiet)
    assert server.jobs[noisy].output("stdout") == b"one\nno newline", "the server has it as always, too"
    stop_for_good(server, agent)
    assert any("joined" in one["line"] for one in server.collected(None, "agent")) and server.goodbyes == 1


def test_a_short_life_is_told_too(server: FakeServer, start: Start) -> None:
    """The log agent is not even up when the machine is taken away."""
    server.collecting()
    agent = start()
    job = server.submit("sh", "-c", LINES.format(300))
    server.wait(job)
    stop_for_good(server, agent)
    assert lines_of(server, job) == numbered(300)


def test_off_costs_nothing(server: FakeServer, start: Start) -> None:
    agent = start()
    server.wait(server.submit("echo", "hello"))
    assert not (agent.work / "logs").exists() and len(processes.children(agent.process.pid)) == 1
    assert not any("/logs" in one for one in server.requests)


def test_kill_9_of_the_log_agent_loses_nothing(server: FakeServer, start: Start) -> None:
    server.collecting()
    agent = start()
    job = server.submit("sh", "-c", "i=0; while [ $i -lt 120 ]; do echo line $i; i=$((i+1)); sleep 0.02; done")
    wait_for(lambda: log_agents(agent) and server.collected(job), "a log agent at work")
    for pid in log_agents(agent):
        os.kill(pid, signal.SIGKILL)
    server.wait(job)
    wait_for(lambda: lines_of(server, job) == numbered(120), "all lines")
    ids = [batch for batch, _ in server.batches]
    assert all(ids) and len(set(ids)) >= 2
    stop_for_good(server, agent)


@pytest.mark.parametrize("with_guard", [False, True])
def test_kill_9_of_the_agent_loses_nothing(server: FakeServer, start: Start, with_guard: bool) -> None:
    """What lay in the captures, in the spool and in the queue is delivered by the next life."""
    server.collecting()
    server.logs_away = True
    token = server.token()
    agent = start(token=token)
    job = server.submit("sh", "-c", LINES.format(2000) + "; sleep 600")
    output = agent.work / "logs" / "jobs" / f"{job}.1.stdout"
    wait_for(lambda: output.exists() and output.read_bytes().endswith(b"line 1999\n"), "the job has written all")
    if with_guard:
        agent.kill_with_guard()
    else:
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
        assert log_agents(agent) == [], "the guard ends it"
    server.cancel(job)
    server.logs_away = False
    again = start(token=token)
    server.wait(job)
    wait_for(lambda: lines_of(server, job) == numbered(2000), "all lines")
    assert {one["attempt"] for one in server.collected(job)} == {1}
    stop_for_good(server, again)


def test_a_server_that_stays_away_is_not_waited_for_long(server: FakeServer, start: Start) -> None:
    server.collecting(flush_s=0.5, spool_bytes=4096)
    server.logs_away = True
    agent = start()
    jobs = server.submit_many(40, "sh", "-c", LINES.format(200))
    server.wait(*jobs)
    wait_for(lambda: sum(one.stat().st_size for one in (agent.work / "logs" / "spool").iterdir()) >= 4096, "the spool is full")
    server.logs_away = False
    wait_for(lambda: any("were not collected" in one["line"] for one in server.collected(None, "agent")), "the loss is told")
    server.logs_away = True
    stop_for_good(server, agent)


def test_a_long_stream_is_collected_beyond_the_limit_of_output(start: Start, server: FakeServer) -> None:
    """The server cuts a stream, and space is given back to the disk: the collected one goes on without a hole."""
    server.limit = 1000
    server.collecting()
    agent = start()
    script = "i=0; while [ $i -lt 30 ]; do echo line $i; head -c 5000 /dev/zero | tr '\\0' x; echo; i=$((i+1)); sleep 0.1; done"
    job = server.submit("sh", "-c", script)
    server.wait(job)
    wait_for(lambda: len(lines_of(server, job)) == 60, "all lines")
    assert lines_of(server, job)[::2] == numbered(30) and len(server.jobs[job].output("stdout")) == 1000
    stop_for_good(server, agent)


def test_no_secret_lies_open(server: FakeServer, start: Start) -> None:
    server.collecting(masters=["http://127.0.0.1:9"])
    agent = start()
    server.wait(server.submit("echo", "hello"))
    wait_for(lambda: (agent.work / "logs" / "configs" / "jobs.conf").exists() and log_agents(agent), "the runner is stored")
    secret = next(iter(server.nodes.values())).secret
    holding = [path.name for path in (agent.work / "logs").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert holding == ["authorization"] and (agent.work / "logs" / "authorization").stat().st_mode & 0o077 == 0
    for pid in log_agents(agent):
        assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert secret not in agent.log


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_run_as_another_user(server: FakeServer, start: Start, tmp_path: Path) -> None:
    """Also when that user cannot read the program: the guard starts the log agent, which becomes the user first."""
    for folder in (tmp_path, *tmp_path.parents):
        if not folder.stat().st_mode & 0o001:
            folder.chmod(folder.stat().st_mode | 0o011)
    server.collecting()
    agent = start("--run-as", "nobody")
    job = server.submit("sh", "-c", "id -un; echo done")
    server.wait(job)
    wait_for(lambda: lines_of(server, job) == ["nobody", "done"], "output")
    assert {os.stat(f"/proc/{pid}").st_uid for pid in log_agents(agent)} == {os.stat(agent.work).st_uid} != {0}
    stop_for_good(server, agent)


@pytest.mark.skipif(not OLD_PYTHONS, reason="there is no Python 3.8 here")
def test_on_python_38(server: FakeServer, start: Start) -> None:
    server.collecting()
    agent = start(python=str(OLD_PYTHONS[0]))
    job = server.submit("sh", "-c", LINES.format(50))
    server.wait(job)
    wait_for(lambda: lines_of(server, job) == numbered(50), "all lines")
    stop_for_good(server, agent)


# the spool


def parsed(data: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in data.decode().splitlines()]


HEAD = spool.head_of({"job": 1})


def test_lines_without_an_end_wait() -> None:
    lines, length = spool.records(b"a\nb\npart", 100, final=False, head=HEAD)
    assert length == 4 and [(one["offset"], one["size"], one["line"]) for one in parsed(lines)] == [(100, 2, "a"), (102, 2, "b")]
    lines, length = spool.records(b"part", 104, final=True, head=HEAD)
    assert length == 4 and parsed(lines)[0]["line"] == "part"
    assert spool.records(b"", 0, final=True, head=HEAD) == (b"", 0)


def test_long_lines_are_cut_between_characters_and_always_at_the_same_places() -> None:
    text = ("x" + "ä" * 100_000 + "\n" + "\x00\x1b\"\\ \udcff\n").encode("utf-8", "surrogateescape")
    whole = parsed(spool.records(text, 0, final=True, head=HEAD)[0])
    assert "".join(str(one["line"]) for one in whole[:-1]) == "x" + "ä" * 100_000
    assert whole[-1]["line"] == "\x00\x1b\"\\ \ufffd"
    assert sum(int(str(one["size"])) for one in whole) == len(text)
    pieces, at = [], 0
    for end in range(0, len(text) + 1, 7001):  # as it grows
        lines, length = spool.records(text[at:end], at, final=False, head=HEAD)
        pieces += parsed(lines)
        at += length
    pieces += parsed(spool.records(text[at:], at, final=True, head=HEAD)[0])
    assert pieces == whole


def test_segments_go_when_they_were_read(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.json"
    made = Spool(str(tmp_path / "spool"), str(checkpoint), limit_bytes=20 << 20)
    made.write(b"x" * (5 << 20))
    made.tidy()
    first = tmp_path / "spool" / "00000001.log"
    made.write(b"y")
    assert os.listdir(tmp_path / "spool") == [first.name], "not before it is nearly read"
    checkpoint.write_text(json.dumps({"files": [{"inode": first.stat().st_ino, "offset": 5 << 20}]}))
    made.tidy()
    made.write(b"z")
    assert first.exists(), "one byte is not read"
    checkpoint.write_text(json.dumps({"files": [{"inode": first.stat().st_ino, "offset": (5 << 20) + 1}]}))
    made.tidy()
    assert not first.exists() and not made.full
    made.write(b"x" * (20 << 20))
    assert made.full


def test_a_torn_segment_is_mended_and_left(tmp_path: Path) -> None:
    made = Spool(str(tmp_path), "", limit_bytes=1 << 20)
    made.write(b'{"a":1}\n{"b"')
    again = Spool(str(tmp_path), "", limit_bytes=1 << 20)
    again.write(b"{}\n")
    assert [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())] == [
        ("00000001.log", b'{"a":1}\n'), ("00000002.log", b"{}\n")]  # fmt: skip


def test_space_is_given_back_and_offsets_stay(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"a" * 100_000 + b"end")
    fd = os.open(path, os.O_RDWR)
    try:
        if not spool.give_back(fd, 100_000):
            pytest.skip("this file system cannot give space back")
        assert os.fstat(fd).st_size == 100_003 and os.pread(fd, 3, 100_000) == b"end"
        assert os.fstat(fd).st_blocks * 512 < 50_000
        assert spool.first_byte(fd) >= 90_000
    finally:
        os.close(fd)
