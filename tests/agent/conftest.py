"""What do the agent's tests share? A strict server and real agent processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.testing.fakeserver import FakeServer

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as made:
        yield made
        assert made.violations == []


class AgentProcess:
    """A real agent; `work` is its work directory."""

    def __init__(self, server: FakeServer, work: Path, *options: str, **facts: Any) -> None:
        self.work = work
        env = {"PATH": facts.get("path", os.environ["PATH"]), "PYTHONPATH": str(REPOSITORY)}
        env["CLOUDSCHED_AGENT_TOKEN"] = facts.get("token") or server.token()
        command = [facts.get("python", sys.executable), "-m", "cloudsched.agent", "--server", server.url]
        command += ["--work-dir", str(work), "--log-level", "debug", *options]
        self.log_file = work.parent / "agent.log"
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(command, env=env, stderr=log)
        self.pid = self._below_the_guard()

    def _below_the_guard(self) -> int:
        """The agent itself: the process that was started guards it (Linux)."""
        until = time.monotonic() + 10.0
        while time.monotonic() < until and self.process.poll() is None:
            for child in processes.children(self.process.pid):
                return child
            time.sleep(0.005)
        return self.process.pid

    def kill_with_guard(self) -> None:
        """kill -9 of both at once: nobody is there to clean up."""
        self.send(signal.SIGSTOP)
        os.kill(self.pid, signal.SIGKILL)
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 15.0) -> int:
        return self.process.wait(timeout_s)

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def scratch(self) -> list[str]:
        """What lies in the scratch directory."""
        return sorted(os.listdir(self.work / "scratch"))

    def job_processes(self) -> list[int]:
        """Everything that stands below the work directory, without the agent and its guard."""
        own = (self.pid, self.process.pid)
        return [pid for pid, _ in processes.standing_in(str(self.work)) if pid not in own]


Start = Callable[..., AgentProcess]


@pytest.fixture
def start(server: FakeServer, tmp_path: Path) -> Iterator[Start]:
    """`start(*options, token=..., python=...)`: an agent that is ended after the test; no process may be left."""
    agents: list[AgentProcess] = []

    def start_one(*options: str, **facts: Any) -> AgentProcess:
        agents.append(AgentProcess(server, tmp_path / "work", *options, **facts))
        return agents[-1]

    yield start_one
    for agent in agents:
        if agent.process.poll() is None:
            agent.send(signal.SIGINT)
            agent.wait()
    for agent in agents:
        assert "Traceback" not in agent.log
        assert processes.standing_in(str(agent.work)) == []
