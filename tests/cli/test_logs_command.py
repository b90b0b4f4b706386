"""`cloudsched logs` against a real native API and agents in threads, the engine's loop stepped by hand."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from cloudsched import settings as settings_module
from cloudsched.cli.main import main
from cloudsched.dialects.native import make_app
from cloudsched.engine.runners import RunnerLoop
from cloudsched.services.logagents import Fleet
from cloudsched.store import db
from cloudsched.testing.logagents import FakeAgent

CONFIG = {"batch_len": 1, "senders": [{"sender_type": "discard"}]}


class Said(NamedTuple):
    status: int
    out: str
    err: str


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""


class World:
    def __init__(self, url: str, folder: Path, loop: RunnerLoop, capsys: pytest.CaptureFixture[str]) -> None:
        self.url, self.folder, self.loop, self.capsys = url, folder, loop, capsys
        self.agents: list[FakeAgent] = []
        self.fleet = Fleet()

    def agent(self, tag: str = "web") -> FakeAgent:
        made = FakeAgent(tag=tag)
        self.agents.append(made)
        self.fleet.register(json.dumps({"url": made.url, "tag": tag}).encode())
        return made

    def file(self, config: Any) -> str:
        path = self.folder / "runner.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return str(path)

    def __call__(self, *words: str) -> Said:
        self.capsys.readouterr()
        status = main(["logs", *words, "--server", self.url])
        said = self.capsys.readouterr()
        return Said(status, said.out, said.err)


@pytest.fixture
def logs(tmp_state: Path, migrated_file: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[World]:
    settings = settings_module.load({"state": str(tmp_state), "cloud_scheduler.config_file": "none"}, environ={})
    shutil.copy(migrated_file, settings.database.url.removeprefix("sqlite:///"))
    database = db.open_database(settings.database.url, synchronous="OFF")
    server = make_server("127.0.0.1", 0, make_app(settings), handler_class=_Silent)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    loop = RunnerLoop(settings)
    world = World(f"http://127.0.0.1:{server.server_port}", tmp_state, loop, capsys)
    yield world
    loop.close()
    world.fleet.close()
    for agent in world.agents:
        agent.stop()
    server.shutdown()
    server.server_close()
    thread.join()
    database.close()


@pytest.fixture
def number(logs: World) -> Callable[..., str]:
    """The number of the newest runner or roll-out."""

    def find(what: str = "runners") -> str:
        return str(json.loads(logs(what, "--json").out)[0]["id"])

    return find


def test_agents(logs: World) -> None:
    assert (
        logs("agents").out == "ID\tURL\tTAG\tSTATUS\tSEEN\tBY HAND\n"
        or "no log agents" in logs("agents").out + logs("agents").err
    )
    one = logs.agent()
    logs.agent("db")
    lines = logs("agents", "--tag", "web").out.splitlines()
    assert len(lines) == 2 and lines[1].split("\t")[1:4] == [one.url, "web", "ok"]
    assert logs("by-hand", "1").out == f"{one.url}: managed by hand\n"
    assert json.loads(logs("agents", "--json").out)[0]["by_hand"] is True
    assert logs("take", "1").out == f"{one.url}: managed here\n"
    assert logs("forget", "2").status == 0 and len(json.loads(logs("agents", "--json").out)) == 1
    assert logs("forget", "99").status == 4 and logs("agents", "--status", "lost", "--json").out.strip() == "[]"


def test_apply_status_change_remove(logs: World, number: Callable[..., str]) -> None:
    agent = logs.agent()
    said = logs("diff", "r1", "--tag", "web", logs.file(CONFIG))
    assert said.status == 0 and f"+ {agent.url}: add" in said.out and '+  "batch_len": 1,' in said.out
    said = logs("apply", "r1", "--tag", "web", logs.file(CONFIG))
    assert said.status == 0 and "version 1, wanted running): 1 pending" in said.out
    logs.loop.tick()
    row = logs("status", number()).out.splitlines()[1].split("\t")
    assert row[0] == agent.url and row[4] == "applied" and "r1" in agent.configs
    assert logs("apply", "r1", "--tag", "web", logs.file({**CONFIG, "batch_len": 2})).status == 0
    logs.loop.tick()
    assert agent.configs["r1"]["batch_len"] == 2
    assert '"batch_len": 2' in logs("config", number()).out and '"batch_len": 1' in logs("config", number(), "--version", "1").out
    assert logs("back", number(), "1").status == 0
    logs.loop.tick()
    assert agent.configs["r1"]["batch_len"] == 1
    assert "wanted stopped" in logs("stop", number()).out and "wanted running" in logs("start", number()).out
    assert logs("retry", number()).status == 0
    assert f"- {agent.url}: delete" in logs("remove", number(), "--dry-run").out and "r1" in agent.configs
    assert "wanted nowhere" in logs("remove", number(), "--yes").out
    logs.loop.tick()
    assert agent.configs == {}


def test_roll_out(logs: World, number: Callable[..., str]) -> None:
    for _ in range(3):
        logs.agent()
    said = logs("rollout", "r1", "--tag", "web", logs.file(CONFIG), "--steps", "1,100%", "--soak", "1s", "--dry-run")
    assert said.out.count(": add") == 3
    said = logs("rollout", "r1", "--tag", "web", logs.file(CONFIG), "--steps", "1,100%", "--soak", "1s")
    assert said.status == 0 and "2 waves of 1, 2 agents" in said.out
    logs.loop.tick()
    assert logs("rollouts").out.splitlines()[1].split("\t")[1:5] == ["r1", "web", "running", "1/2"]
    assert (
        "409" in logs("apply", "r1", "--tag", "web", logs.file(CONFIG)).err
        or logs("apply", "r1", "--tag", "web", logs.file(CONFIG)).status == 1
    )
    assert "paused" in logs("pause", number("rollouts")).out and "running" in logs("resume", number("rollouts")).out
    assert "rolling_back" in logs("rollback", number("rollouts")).out
    logs.loop.tick()
    logs.loop.tick()
    assert json.loads(logs("rollouts", "--json").out)[0]["state"] == "rolled_back"
    assert not any(agent.configs for agent in logs.agents)


def test_bad_input(logs: World) -> None:
    assert logs("apply", "r1", "--tag", "web", logs.file("{")).status == 2
    assert "is not JSON" in logs("apply", "r1", "--tag", "web", logs.file("{")).err
    assert logs("apply", "r1", "--tag", "web", "/no/such/file").status == 2
    assert logs("diff", "r1", "--tag", "web").status == 2
    said = logs("apply", "../r1", "--tag", "web", logs.file(CONFIG))
    assert said.status == 1 and "cannot be a runner's name" in said.err
    said = logs("apply", "r1", "--tag", "", logs.file(CONFIG))
    assert said.status == 1 and "tag" in said.err
    said = logs("apply", "r1", "--tag", "web", logs.file("[1]"))
    assert said.status == 1 and "config" in said.err
    assert "steps" in logs("rollout", "r1", "--tag", "web", logs.file(CONFIG), "--steps", "x").err
    assert logs("status", "99").status == 4 and logs("pause", "99").status == 4
