"""Does what is wanted of log agents come about? Real HTTP agents in threads, a stepped clock, ticks by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.domain.rollout import Plan
from cloudsched.engine import runners as loop_module
from cloudsched.engine.runners import RunnerLoop
from cloudsched.errors import Conflict, NotFound
from cloudsched.services import nodes, rollout
from cloudsched.services.caller import Caller
from cloudsched.services.runners import Runners
from cloudsched.store import events, logagents
from cloudsched.store import runners as store
from cloudsched.store.db import Database, write
from cloudsched.testing.logagents import FakeAgent

ME = Caller("ada", "operator")
CONFIG: dict[str, Any] = {
    "batch_len": 10,
    "reader": {"mode": "file", "log_path": "/var/log/x"},
    "senders": [{"sender_type": "http", "token": "s3cret"}],
}
OTHER = {**CONFIG, "batch_len": 20}


class World:
    """A database, a clock, agents, and the loop stepped by hand."""

    def __init__(self, state: Path, time: ManualClock, database: Database) -> None:
        self.clock = time
        self.database = database
        self.settings = settings.load(
            {
                "state": str(state),
                "logkit.read_timeout_s": 0.5,
                "logkit.change_timeout_s": 0.5,
                "logkit.attempts_max": 3,
                "cloud_scheduler.config_file": "none",
                "database_url": database.url,
            },
            environ={},
        )
        self.runners = Runners(self.settings)
        self.loop = RunnerLoop(self.settings)
        self.agents: list[FakeAgent] = []

    def agent(self, tag: str = "t", **kw: Any) -> FakeAgent:
        made = FakeAgent(tag=tag, **kw)
        made.register = self.register
        self.agents.append(made)
        made.beat()
        return made

    def register(self, url: str, tag: str) -> bool:
        from cloudsched.services.logagents import _write_down

        write(lambda tx: _write_down(tx, url, tag, clock.now()))
        row = next(row for row in logagents.rows() if row.url == url)
        write(lambda tx: logagents.touch(tx, [(clock.now(), row.node_id)]))
        return True

    def number(self, agent: FakeAgent) -> int:
        return next(row.id for row in logagents.rows() if row.url == agent.url)

    def tick(self, times: int = 1, *, step_s: float = 1.0) -> None:
        for _ in range(times):
            self.loop.tick()
            self.clock.advance(step_s)

    def states(self, number: int) -> list[str]:
        return [target["state"] for target in self.runners.targets(number)]

    def apply(self, config: dict[str, Any] = CONFIG, *, tag: str = "t", plan: Plan | None = None, run: str = "running") -> Any:
        return self.runners.apply("r1", tag, config, ME, plan=plan, run=run)

    def beat(self) -> None:
        for agent in self.agents:
            agent.beat()


@pytest.fixture
def world(tmp_state: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    made = World(tmp_state, time, database)
    yield made
    made.loop.close()
    made.runners.close()
    for agent in made.agents:
        agent.stop()


def test_a_runner_applied_to_a_tag_is_wanted_there(world: World) -> None:
    one, two, other = world.agent(), world.agent(enveloped=False), world.agent("else")
    made = world.apply()
    assert made["targets"] == {"pending": 2, "applied": 0, "failed": 0, "by_hand": 0} and made["generation"] == 1
    world.tick()
    assert world.states(made["id"]) == ["applied", "applied"]
    assert one.configs["r1"]["batch_len"] == two.configs["r1"]["batch_len"] == 10 and not other.configs
    calls = len(one.seen)
    world.tick(3)
    assert len(one.seen) == calls, "nothing to do, nobody is called"
    again = world.apply(OTHER)
    assert again["id"] == made["id"] and again["generation"] == 2
    world.tick()
    assert one.configs["r1"]["batch_len"] == 20
    assert [call[0] for call in one.seen] == ["GET", "POST", "GET", "GET", "PUT", "GET"]


def test_an_agent_that_was_away_gets_it_when_it_is_back(world: World) -> None:
    one, away = world.agent(), world.agent()
    world.clock.advance(61)
    one.beat()
    made = world.apply()
    world.tick()
    assert world.states(made["id"]) == ["applied", "pending"] and not away.seen
    away.beat()
    world.tick()
    assert world.states(made["id"]) == ["applied", "applied"] and "r1" in away.configs


def test_an_agent_that_joins_or_leaves_a_tag(world: World) -> None:
    made = world.apply()
    late = world.agent()
    world.tick()
    assert "r1" in late.configs and world.states(made["id"]) == ["applied"]
    late.tag = "elsewhere"
    late.beat()
    world.tick(2)
    assert late.configs == {} and world.states(made["id"]) == []
    late.tag = "t"
    late.beat()
    world.tick()
    assert "r1" in late.configs


def test_what_an_agent_lost_or_changed_is_put_right(world: World) -> None:
    agent = world.agent()
    world.apply()
    world.tick()
    agent.configs.clear()
    world.tick(31)
    agent.beat()
    world.tick(2)
    assert "r1" in agent.configs
    agent.configs["r1"] = {**agent.configs["r1"], "batch_len": 99}
    world.tick(16)
    agent.beat()
    world.tick(16)
    assert agent.configs["r1"]["batch_len"] == 10


def test_an_agent_that_hides_tokens_is_not_updated_for_ever(world: World) -> None:
    agent = world.agent()
    plain = agent.answer

    def without_tokens(method: str, path: str, body: bytes) -> Any:
        status, code, found = plain(method, path, body)
        if method == "GET" and path == "/logkit/configs":
            found = {
                place: {**config, "senders": [{k: v for k, v in sender.items() if k != "token"} for sender in config["senders"]]}
                for place, config in found.items()
            }
        return status, code, found

    agent.answer = without_tokens  # type: ignore[method-assign]
    made = world.apply()
    for _ in range(4):
        world.tick()
        agent.beat()
        world.clock.advance(31)
        agent.beat()
    assert world.states(made["id"]) == ["applied"]
    assert [call[0] for call in agent.seen if call[0] != "GET"] == ["POST"]


def test_a_refusal_is_shown_tried_again_and_given_up(world: World) -> None:
    bad, good = world.agent(), world.agent()
    bad.refuse = "log_path does not exist"
    made = world.apply()
    world.tick()
    first = world.runners.targets(made["id"])[0]
    assert (first["state"], first["attempts"], first["gives_up"]) == ("failed", 1, False)
    assert "log_path does not exist" in first["reason"] and "r1" in good.configs
    for _ in range(4):
        world.tick(8)
        world.beat()
    first = world.runners.targets(made["id"])[0]
    assert (first["attempts"], first["gives_up"]) == (3, True)
    bad.refuse = ""
    world.runners.retry(made["id"], ME)
    world.tick()
    assert world.states(made["id"]) == ["applied", "applied"]
    assert {"runner.failed", "runner.applied"} <= {event.kind for event in events.since(0, limit=1000)}


@pytest.mark.parametrize("trouble", ["hang", "garbage", "redirect", "half", "drop", "empty500", "notjson", "nested"])
def test_one_bad_agent_blocks_nobody(world: World, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(loop_module, "WAIT_S", 0.1)
    bad, good, dead = world.agent(), world.agent(), world.agent()
    bad.trouble = trouble
    dead.stop()
    made = world.apply()
    for _ in range(20):
        world.tick(step_s=0.1)
        if "r1" in good.configs:
            break
    assert "r1" in good.configs
    bad.trouble = ""
    bad.release.set()
    for _ in range(40):
        world.tick(step_s=3)
        world.beat()
        if world.states(made["id"])[0] == "applied":
            break
    assert world.states(made["id"]) == ["applied", "applied", "pending"]
    assert "refused" in world.runners.targets(made["id"])[2]["reason"]


def test_stop_start_and_remove(world: World) -> None:
    agent = world.agent()
    number = world.apply()["id"]
    world.tick()
    assert world.runners.switch(number, "stopped", ME)["run"] == "stopped"
    world.tick()
    assert agent.configs["r1"]["is_stopped"] is True
    world.runners.switch(number, "running", ME)
    world.tick()
    assert agent.configs["r1"]["is_stopped"] is False
    world.runners.remove(number, ME)
    world.tick(2)
    world.tick(31)
    assert agent.configs == {}
    with pytest.raises(NotFound):
        world.runners.one(number)


def test_agents_managed_by_hand_are_left_alone(world: World) -> None:
    mine, theirs = world.agent(), world.agent()
    world.runners.set_by_hand(world.number(theirs), True, ME)
    world.apply()
    world.tick(3)
    assert "r1" in mine.configs and not theirs.seen
    world.runners.set_by_hand(world.number(theirs), False, ME)
    world.tick()
    assert "r1" in theirs.configs


def test_configs_are_sealed_and_come_back(world: World) -> None:
    number = world.apply()["id"]
    world.apply(OTHER)
    assert "s3cret" not in str(world.database.read().all("SELECT * FROM runner_config"))
    shown = world.runners.with_config(number)
    assert shown["config"] == OTHER and [one["generation"] for one in shown["versions"]] == [2, 1]
    assert world.runners.with_config(number, 1)["config"] == CONFIG
    world.runners.go_back(number, 1, ME)
    assert world.runners.with_config(number)["config"] == CONFIG


def test_a_dry_run_tells_what_would_change(world: World) -> None:
    new, old, dead = world.agent(), world.agent(), world.agent()
    old.answer(
        "POST",
        "/logkit/configs/r1",
        b'{"batch_len": 10, "reader": {"mode": "file", "log_path": "/var/log/x"}, '
        b'"senders": [{"sender_type": "http", "token": "s3cret"}]}',
    )
    dead.stop()
    found = {one["url"]: one for one in world.runners.diff("r1", "t", OTHER, ME)}
    assert (found[new.url]["action"], found[old.url]["action"], found[dead.url]["action"]) == ("add", "update", "unknown")
    assert '-  "batch_len": 10,' in found[old.url]["diff"] and '+  "batch_len": 20,' in found[old.url]["diff"]
    assert "createtime" not in found[old.url]["diff"] and found[dead.url]["error"] == "connection refused"
    assert {one["url"]: one for one in world.runners.diff("r1", "t", CONFIG, ME)}[old.url]["action"] == "none"
    assert {one["url"]: one for one in world.runners.diff("r1", "t", None, ME)}[old.url]["action"] == "delete"
    assert not new.configs and store.page() == []


@pytest.mark.parametrize("desired", ["no", "yes"])
def test_operations_over_the_dialect(world: World, desired: str, tmp_state: Path) -> None:
    agent = world.agent()
    number = world.apply()["id"]
    world.tick()
    own = settings.load(
        {"state": str(tmp_state), "logkit.desired_state": desired, "cloud_scheduler.config_file": "none"}, environ={}
    )
    runners = Runners(own)

    def asked(operation: str, name: str, body: bytes = b"") -> None:
        from cloudsched.services.logagents import Fleet

        runners.note(Fleet().select(), operation, name, body)

    asked("stop", "r1")
    asked("add", "r2", b'{"senders": [{"sender_type": "discard"}]}')
    world.tick(12)
    if desired == "no":
        assert world.states(number) == ["by_hand"] and list(agent.configs) == ["r1"]
        assert not agent.configs["r1"].get("is_stopped")
        world.apply()
        world.tick()
        assert world.states(number) == ["applied"]
    else:
        assert agent.configs["r1"]["is_stopped"] is True and set(agent.configs) == {"r1", "r2"}
        asked("delete", "r2")
        world.tick(12)
        assert set(agent.configs) == {"r1"}


# roll-outs


PLAN = Plan(steps=("1", "50%", "100%"), soak_s=5, wave_limit_s=60)


def begin(world: World, count: int = 4, *, plan: Plan = PLAN) -> tuple[list[FakeAgent], int, int]:
    """`count` agents that have CONFIG, and a roll-out of OTHER: (agents, runner, roll-out)."""
    agents = [world.agent() for _ in range(count)]
    world.apply()
    world.tick(2)
    made = world.apply(OTHER, plan=plan)
    return agents, made["id"], made["rollout"]


def have(agents: list[FakeAgent]) -> int:
    return sum(1 for agent in agents if agent.configs.get("r1", {}).get("batch_len") == 20)


def test_waves_with_a_gate(world: World) -> None:
    agents, number, rolling = begin(world)
    sizes = []
    for _ in range(40):
        world.tick()
        world.beat()
        sizes.append(have(agents))
        if rollout.one(rolling)["state"] == "done":
            break
    assert sorted(set(sizes)) == [1, 2, 4] and sizes.count(1) >= 5 and sizes.count(2) >= 5
    assert world.runners.one(number)["generation"] == 2 and rollout.one(rolling)["waves"] == [1, 1, 2]


def test_only_one_at_a_time(world: World) -> None:
    _, number, rolling = begin(world)
    for attempt in (world.apply, lambda: world.runners.remove(number, ME), lambda: world.runners.switch(number, "stopped", ME)):
        with pytest.raises(Conflict, match=f"roll-out {rolling} "):
            attempt()


@pytest.mark.parametrize("on_failure", ["pause", "roll_back"])
def test_a_refusal_stops_it(world: World, on_failure: str) -> None:
    agents, number, rolling = begin(world, plan=Plan(steps=("1", "100%"), soak_s=2, on_failure=on_failure))
    agents[2].refuse = "no"
    for _ in range(12):
        world.tick()
        world.beat()
    found = rollout.one(rolling)
    if on_failure == "pause":
        assert found["state"] == "paused" and "refused" in found["reason"] and agents[2].url in found["reason"]
        agents[2].refuse = ""
        world.runners.retry(number, ME)
        world.tick()
        rollout.resume(rolling, ME)
        for _ in range(8):
            world.tick()
            world.beat()
        assert rollout.one(rolling)["state"] == "done" and have(agents) == 4
    else:
        agents[2].refuse = ""
        for _ in range(12):
            world.tick()
            world.beat()
        assert rollout.one(rolling)["state"] == "rolled_back" and have(agents) == 0
        assert world.runners.one(number)["generation"] == 1 and world.states(number) == ["applied"] * 4


def test_a_runner_that_is_not_well_stops_it(world: World) -> None:
    agents, _, rolling = begin(world)
    plain = agents[0]._status
    agents[0]._status = lambda name: {**plain(name), "error": "cannot open /var/log/x"}  # type: ignore[method-assign]
    world.tick(2)
    found = rollout.one(rolling)
    assert found["state"] == "paused" and "cannot open /var/log/x" in found["reason"] and have(agents) == 1


def test_new_errors_during_the_soak_stop_it(world: World) -> None:
    agents, _, rolling = begin(world)
    world.tick(2)
    plain = agents[0]._status
    agents[0]._status = lambda name: {**plain(name), "parserStats": {"errors": 7}}  # type: ignore[method-assign]
    world.tick(2)
    assert "7 new errors" in rollout.one(rolling)["reason"]


def test_pause_resume_and_roll_back(world: World) -> None:
    agents, number, rolling = begin(world)
    world.tick(2)
    assert rollout.pause(rolling, ME)["state"] == "paused"
    for _ in range(10):
        world.tick()
        world.beat()
    assert have(agents) == 1
    with pytest.raises(Conflict):
        rollout.pause(rolling, ME)
    assert rollout.resume(rolling, ME)["state"] == "running"
    for _ in range(8):
        world.tick()
        world.beat()
    assert have(agents) == 2
    assert rollout.roll_back(rolling, ME)["state"] == "rolling_back"
    world.tick(3)
    assert rollout.one(rolling)["state"] == "rolled_back" and have(agents) == 0
    assert world.states(number) == ["applied"] * 4
    with pytest.raises(Conflict):
        rollout.roll_back(rolling, ME)


def test_a_first_roll_out_taken_back_leaves_nothing(world: World) -> None:
    agents = [world.agent() for _ in range(3)]
    made = world.apply(plan=PLAN)
    world.tick(2)
    assert sum(bool(agent.configs) for agent in agents) == 1
    rollout.roll_back(made["rollout"], ME)
    world.tick(3)
    assert not any(agent.configs for agent in agents) and rollout.one(made["rollout"])["state"] == "rolled_back"


def test_agents_that_are_away_are_not_waited_for(world: World) -> None:
    agents, _, rolling = begin(world)
    here = agents[:3]
    world.clock.advance(61)
    for _ in range(40):
        for agent in here:
            agent.beat()
        world.tick()
    assert rollout.one(rolling)["state"] == "done" and have(agents) == 3
    agents[3].beat()
    world.tick()
    assert have(agents) == 4


def test_an_engine_that_died_goes_on(world: World) -> None:
    agents, _, rolling = begin(world)
    for _ in range(40):
        world.loop.close()
        world.loop = RunnerLoop(world.settings)
        world.tick()
        world.beat()
    assert rollout.one(rolling)["state"] == "done" and have(agents) == 4


def test_a_log_agent_destroyed_as_a_node_is_off_the_list(world: World) -> None:
    agent = world.agent()
    nodes.destroy(logagents.rows()[0].node_id, Caller("root", "operator"))
    world.tick()
    assert logagents.rows() == []
    agent.beat()
    assert len(logagents.rows()) == 1
