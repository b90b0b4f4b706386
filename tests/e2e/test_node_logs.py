"""Do logs outlive the machine? A whole instance whose nodes have log agents."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.testing.instance import Instance

from .conftest import Maker

CLOUDS = [{"name": "local-a", "slots": 2, "cores": 2, "memory_mb": 2048, "keep_alive_s": 600}]
SCRIPT = "i=0; while [ $i -lt 150 ]; do echo line $i; i=$((i+1)); sleep 0.02; done; echo bad >&2"


def log_agents(instance: Instance) -> list[int]:
    folders = instance.state.glob("local/*/*/work/logs")
    return [pid for folder in folders for pid, _ in processes.standing_in(str(folder))]


def shown(instance: Instance, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in instance.cli("logs", "show", *words, "--json").stdout.splitlines()]


@pytest.mark.skipif(not processes.LINUX, reason="looks through /proc")
def test_what_a_machine_wrote_is_read_when_it_is_gone(new_instance: Maker) -> None:
    instance = new_instance(config={"logkit": {"on_nodes": True}}, clouds=CLOUDS).start_all()
    job = instance.shell(SCRIPT)
    instance.until(lambda: log_agents(instance), "a log agent beside the agent")
    instance.until(lambda: shown(instance, str(job)), "first lines")
    for pid in log_agents(instance):
        os.kill(pid, signal.SIGKILL)
    instance.wait_state(job, "succeeded")
    followed = instance.cli("logs", "show", f"job:{job}", "--follow", "--stream", "stdout").stdout.splitlines()
    assert followed == [f"line {number}" for number in range(150)], "each line, each once, through a kill -9"
    agents = json.loads(instance.cli("logs", "agents", "--tag", "nodes", "--json").stdout)
    node = agents[0]["labels"]["node"]
    assert agents[0]["labels"]["cloud"] == "local-a"
    instance.cli("nodes", "destroy", node, "--yes", "--wait")
    instance.until(lambda: not instance.machine_directories(), "the machine is gone")
    assert not log_agents(instance)
    kept = shown(instance, node)
    assert any("goal=stop" in one["line"] for one in kept if one["stream"] == "agent"), "its last words"
    assert [one["line"] for one in shown(instance, node, "--job", str(job), "--stream", "stderr")] == ["bad"]
    assert len(shown(instance, "--job", str(job))) == 151
