"""Do a live master and real log agents do together what the logkit document says? Answers are checked against the agents' own.

gunicorn, engine and each agent are processes. The lean test has three agents and runs always; the rest has twenty of them.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance, free_offset

from .conftest import Maker
from .logkit import Agent, Fleet, Master

pytestmark = pytest.mark.e2e

TAGS = ("web", "db", "edge")
LOGKIT = 8090
QUICK = {"logkit": {"read_timeout_s": 5, "check_interval_s": 1}}
Ports = Callable[[int], list[int]]


@pytest.fixture
def fleet(new_instance: Maker, tmp_path: Path) -> Fleet:
    """One master that runs, without agents."""
    instance = new_instance(config=QUICK).start_all()
    return Fleet(instance, tmp_path, [Master(instance, LOGKIT + instance.offset)])


def test_three_agents(fleet: Fleet, free_ports: Ports) -> None:
    fleet.add(free_ports(3), TAGS)
    walk(fleet)
    away = fleet.of("db")[0]
    away.kill()
    number = _apply(fleet, "wanted", "db")
    away.start()
    _until_states(fleet, number, {away.url: "applied"})
    assert away.runner("wanted")["runningStatus"] == "running"  # type: ignore[index]
    fleet.check_reads()
    _end(fleet)


@pytest.mark.engines
@pytest.mark.timeout(300)
def test_twenty_agents_and_the_calls_of_the_document(fleet: Fleet, free_ports: Ports) -> None:
    fleet.add(free_ports(20), TAGS)
    walk(fleet)
    _killed_in_between(fleet)
    _end(fleet)


@pytest.mark.engines
@pytest.mark.timeout(300)
def test_twenty_agents_get_what_is_wanted(fleet: Fleet, free_ports: Ports) -> None:
    """Some are away, one refuses, one hangs, some change their tag, the master and the engine are killed."""
    ports = free_ports(20)
    fleet.add(ports[:19], TAGS)
    (fenced,) = fleet.add(ports[19:], ("db",), read_roots=["/nowhere"])
    away, rest = fleet.of("db")[:2], [agent for agent in fleet.of("db")[2:] if agent is not fenced]
    for agent in away:
        agent.kill()
    lines = fleet.write(10)
    number = _apply(fleet, "wanted", "db")
    _until_states(fleet, number, {agent.url: "applied" for agent in rest} | {fenced.url: "failed"}, away=away)
    fleet.until_copies(lines, len(rest))
    targets = _targets(fleet, number)
    assert "read_roots" in targets[fenced.url]["reason"] and all(targets[agent.url]["reason"] for agent in away)
    assert fenced.own("/configs") == {}

    _restart_the_master(fleet, away=away)
    for agent in away:
        agent.start()
    fleet.until_registered()
    everybody = {agent.url: "applied" for agent in [*rest, *away]} | {fenced.url: "failed"}
    _until_states(fleet, number, everybody)
    fleet.until_copies(lines, len(rest) + len(away))
    fleet.check_reads()

    _hangs(fleet, fleet.of("web")[0])
    _moves(fleet, number, everybody)
    fleet.instance.api("POST", f"/runners/{number}/stop")
    _until(fleet, "all stopped", lambda: {agent.runner("wanted")["runningStatus"] for agent in [*rest, *away]} == {"stopped"})  # type: ignore[index]
    fleet.instance.api("DELETE", f"/runners/{number}")
    _until(fleet, "it is gone", lambda: not any(agent.own("/runners") for agent in fleet.agents))
    _end(fleet)


@pytest.mark.engines
@pytest.mark.timeout(300)
@pytest.mark.postgres
def test_two_masters_on_one_database(new_instance: Maker, tmp_path: Path, free_ports: Ports, pg_url: str) -> None:
    """Agents heartbeat to both; each does the half of the calls, each is killed once; they tell the same."""
    instance = new_instance(config={"logkit": {**QUICK["logkit"], "desired_state": True}}, database_url=pg_url).start_all()
    offset = free_offset()
    instance.start("serve", "--port-offset", str(offset), name="serve-2")
    masters = [Master(instance, LOGKIT + instance.offset), Master(instance, LOGKIT + offset)]
    _until(instance, "the second answers", lambda: _ping(masters[1]))
    fleet = Fleet(instance, tmp_path, masters)
    fleet.add(free_ports(12), TAGS)
    one, two = masters
    lines = fleet.write(10)
    one.done("POST", "/configs/access", fleet.config(), tag="web")
    two.done("POST", "/configs/access", fleet.config(), tag="db")
    assert set(one.failed("POST", "/configs/access", fleet.config())) == fleet.urls("web", "db")
    fleet.until_copies(lines, len(fleet.agents))
    fleet.check_reads()
    two.done("POST", "/slaves/tag", {"tag": "core"}, tag="edge")
    _now_have(fleet, "edge", "core")
    assert _order(one) == _order(two)
    _restart(instance, "serve")
    two.done("POST", "/configs/access/stop", tag="core")
    _until(instance, "the first answers again", lambda: _ping(one))
    fleet.until_registered()
    fleet.check_reads()
    _restart(instance, "serve-2")
    one.done("DELETE", "/configs/access", tag="web")
    _until(instance, "the second answers again", lambda: _ping(two))
    fleet.until_registered()
    fleet.check_reads()
    assert _order(one) == _order(two)
    _asked_for_while_away(fleet, one, two)
    one.done("DELETE", "/slaves")
    fleet.until_registered()
    assert _order(one) == _order(two)
    _end(fleet)


def walk(fleet: Fleet) -> None:
    """The calls of the document, one after the other, over agents of the three tags."""
    master, everybody = fleet.master, len(fleet.agents)
    _list(fleet)
    lines = fleet.write(20)
    master.done("POST", "/configs/access", fleet.config(), tag="web")
    fleet.until_copies(lines, len(fleet.of("web")))
    fleet.check_reads()
    _check_config(fleet, fleet.of("web"), batch_len=10)
    # Who has it already refuses; the others have it now.
    again = master.failed("POST", "/configs/access", fleet.config())
    assert set(again) == fleet.urls("web") and all("is running" in error for error in again.values())
    fleet.until_copies(lines, everybody)
    master.done("PUT", "/configs/access", fleet.config(batch_len=5), tag="db")
    _check_config(fleet, fleet.of("db"), batch_len=5)
    _check_config(fleet, fleet.of("web", "edge"), batch_len=10)
    assert master.get("/configs/access", tag="db") in [agent.own("/configs/access") for agent in fleet.of("db")]
    _stop_and_start(fleet)
    master.done("POST", "/configs/access/reset", tag="edge")
    fleet.until_copies(lines, everybody + len(fleet.of("edge")))
    fleet.check_reads()
    _retag(fleet)
    master.done("DELETE", "/configs/access", tag="web")
    gone = master.failed("DELETE", "/configs/access")
    assert set(gone) == fleet.urls("web") and all("not found" in error for error in gone.values())
    assert not any(agent.own("/runners") for agent in fleet.agents)
    fleet.check_reads()
    _forget(fleet)


def _list(fleet: Fleet) -> None:
    master = fleet.master
    found = master.get("/slaves")
    assert all(set(one) == {"url", "tag", "status", "last_touch"} and one["status"] == "ok" for one in found)
    for tag in TAGS:
        assert {one["url"] for one in master.get("/slaves", tag=tag)} == fleet.urls(tag)
    agent = fleet.of("db")[0]
    assert [one["tag"] for one in master.get("/slaves", tag="db", url=agent.url)] == ["db"]
    assert master.get("/slaves", tag="web", url=agent.url) == [] and master.get("/slaves", tag="nobody") == []
    assert master.get("/ping") is None and master.get("/ismaster") is True
    assert [agent.own("/cluster/ismaster") for agent in fleet.agents] == [False] * len(fleet.agents)
    assert master.call("PUT", "/configs/access", fleet.config(), tag="nobody") == (
        404, {"error": "the slaves(tag = 'nobody', url = '') are not found"})


def _check_config(fleet: Fleet, agents: list[Agent], **wanted: Any) -> None:
    told = fleet.master.get("/configs")
    for agent in agents:
        (config,) = agent.own("/configs").values()
        assert config["name"] == "access" and {key: config[key] for key in wanted} == wanted
        assert list(told[agent.url]["configs"].values()) == [config]


def _stop_and_start(fleet: Fleet) -> None:
    master, everybody = fleet.master, len(fleet.agents)
    master.done("POST", "/configs/access/stop", tag="web")
    assert {agent.runner("access")["runningStatus"] for agent in fleet.of("web")} == {"stopped"}  # type: ignore[index]
    lines = fleet.write(10)
    fleet.until_copies(lines, everybody - len(fleet.of("web")))
    fleet.check_reads()
    assert set(master.failed("POST", "/configs/access/stop", tag="web")) == fleet.urls("web")
    assert set(master.failed("POST", "/configs/access/start")) == fleet.urls("db", "edge")  # done by those of web
    fleet.until_copies(lines, everybody)
    assert {agent.runner("access")["runningStatus"] for agent in fleet.agents} == {"running"}  # type: ignore[index]


def _retag(fleet: Fleet) -> None:
    """Through the master for a whole tag, and at one agent as the document has it for the agent itself."""
    master = fleet.master
    master.done("POST", "/slaves/tag", {"tag": "core"}, tag="edge")
    _now_have(fleet, "edge", "core")
    one = fleet.of("core")[0]
    answer = fleet.instance.call("POST", "/logkit/cluster/tag", {"tag": "first"}, port=one.port)
    assert (answer.status, answer.json) == (200, {"code": "L200"})
    one.tag = "first"
    assert [found["url"] for found in master.get("/slaves", tag="first")] == [one.url]
    fleet.check_reads()
    master.done("POST", "/slaves/tag", {"tag": "edge"}, tag="core") if fleet.of("core") else None
    master.done("POST", "/slaves/tag", {"tag": "edge"}, url=one.url)
    one.tag = "core"
    _now_have(fleet, "core", "edge")


def _now_have(fleet: Fleet, before: str, after: str) -> None:
    """All that had one tag have the other, at once and at every master."""
    for agent in fleet.of(before):
        agent.tag = after
    wanted = {agent.url: agent.tag for agent in fleet.agents}
    for master in fleet.masters:
        assert master.tags() == wanted and master.get("/slaves", tag=before) == []
    assert {state["tag"] for agent in fleet.of(after) for state in agent.own("/status").values()} <= {after}


def _forget(fleet: Fleet) -> None:
    """Off the list; a living agent comes back with its next heartbeat, at the end."""
    master, agent = fleet.master, fleet.agents[0]
    master.done("DELETE", "/slaves", url=agent.url)
    fleet.until_registered()
    assert _order(master)[-1] == agent.url
    fleet.agents.append(fleet.agents.pop(0))


def _killed_in_between(fleet: Fleet) -> None:
    """Operations while some are dead name exactly those; what the others did stays, and who comes back has what it had."""
    master = fleet.master
    master.done("POST", "/configs/access", fleet.config())
    dead = [fleet.of(tag)[0] for tag in TAGS]
    for round_ in range(3):
        for agent in dead:
            agent.kill()
        failed = master.failed("PUT", "/configs/access", fleet.config(batch_len=20 + round_))
        assert failed == dict.fromkeys((agent.url for agent in dead), "connection refused")
        fleet.check_reads(away=dead)
        alive = [agent for agent in fleet.agents if agent not in dead]
        _check_config(fleet, alive, batch_len=20 + round_)
        for agent in dead:
            agent.start()
        fleet.until_registered()
        fleet.check_reads()
        _check_config(fleet, dead, batch_len=10)
        lines = fleet.write(20 + round_)
        _until(fleet, "all deliver", lambda lines=lines: min(fleet.copies(lines)) >= len(fleet.agents))
    master.done("DELETE", "/configs/access")


def _restart_the_master(fleet: Fleet, *, away: list[Agent]) -> None:
    """Killed and started again, it knows all agents, in their order, before any of them can have said a word to it."""
    instance, before = fleet.instance, _order(fleet.master)
    runners = instance.api("GET", "/runners")["items"]
    for name in ("serve", "engine"):
        _restart(instance, name)
    instance.wait_ready()
    assert _order(fleet.master) == before
    assert [(one["name"], one["tag"]) for one in instance.api("GET", "/runners")["items"]] == [
        (one["name"], one["tag"]) for one in runners]
    alive = {agent.url for agent in fleet.agents if agent not in away}
    _until(fleet, "all are ok", lambda: alive <= set(fleet.master.tags()))


def _restart(instance: Instance, name: str) -> None:
    """kill -9 of all its processes, and a new start."""
    process = instance.processes[name]
    os.killpg(process.pid, signal.SIGKILL)
    process.restart()


def _hangs(fleet: Fleet, agent: Agent) -> None:
    """Its entry says so; the others' are there. An operation on one of the others does not notice."""
    agent.pause(True)
    try:
        found = fleet.master.get("/status")
        assert found[agent.url] == {"status": {}, "tag": agent.tag, "error": "no answer within 5 s"}
        assert all(entry["error"] == "" for url, entry in found.items() if url != agent.url) and len(found) == 20
        other = fleet.of("edge")[0]
        fleet.master.done("POST", "/configs/extra", fleet.config(is_stopped=True), url=other.url)
        fleet.master.done("DELETE", "/configs/extra", url=other.url)
    finally:
        agent.pause(False)
    fleet.until_registered()
    fleet.check_reads()


def _moves(fleet: Fleet, number: int, everybody: dict[str, str]) -> None:
    """Who gets the tag gets the runner, who leaves it loses it."""
    come, go = fleet.of("edge")[0], next(agent for agent in fleet.of("db") if everybody[agent.url] == "applied")
    fleet.master.done("POST", "/slaves/tag", {"tag": "db"}, url=come.url)
    fleet.master.done("POST", "/slaves/tag", {"tag": "edge"}, url=go.url)
    come.tag, go.tag = "db", "edge"
    del everybody[go.url]
    _until_states(fleet, number, everybody | {come.url: "applied"})
    _until(fleet, "it is gone there", lambda: go.own("/runners") == [] and come.own("/runners") == ["wanted"])
    fleet.master.done("POST", "/slaves/tag", {"tag": "edge"}, url=come.url)
    fleet.master.done("POST", "/slaves/tag", {"tag": "db"}, url=go.url)
    come.tag, go.tag = "edge", "db"
    _until_states(fleet, number, everybody | {go.url: "applied"})
    fleet.check_reads()


def _asked_for_while_away(fleet: Fleet, one: Master, two: Master) -> None:
    """With desired state, what was asked for over the dialect is done when the agent is back, whoever was asked."""
    away = fleet.of("db")[0]
    away.kill()
    assert set(one.failed("POST", "/configs/late", fleet.config(is_stopped=True), tag="db")) == {away.url}
    assert set(two.failed("DELETE", "/configs/access", tag="db")) == {away.url}
    away.start()
    fleet.until_registered()
    _until(fleet, "it has caught up", lambda: away.own("/runners") == ["late"])
    _until(fleet, "as it was asked for", lambda: away.runner("late")["runningStatus"] == "stopped")  # type: ignore[index]
    fleet.check_reads()


def _apply(fleet: Fleet, name: str, tag: str) -> int:
    """Want a runner on a tag, over the native API; a dry run first, which changes nothing."""
    body = {"name": name, "tag": tag, "config": fleet.config()}
    dry = fleet.instance.api("POST", "/runners", body, dry_run=1)
    assert {one["url"] for one in dry["changes"]} == fleet.urls(tag)
    assert not any(name in agent.own("/runners") for agent in fleet.of(tag) if agent.answers())
    return int(fleet.instance.api("POST", "/runners", body)["id"])


def _targets(fleet: Fleet, number: int) -> dict[str, dict[str, Any]]:
    return {one["url"]: one for one in fleet.instance.api("GET", f"/runners/{number}/targets")["items"]}


def _until_states(fleet: Fleet, number: int, wanted: dict[str, str], *, away: list[Agent] = []) -> None:  # noqa: B006
    """Each agent has come as far as this; those that are away have not, and it says why."""
    every = wanted | {agent.url: "pending" for agent in away}

    def come() -> bool:
        return {url: one["state"] for url, one in _targets(fleet, number).items() if one["want"] == "present"} == every

    _until(fleet, f"targets are {every}", come)
    if away:
        _until(fleet, "why they wait", lambda: all(_targets(fleet, number)[agent.url]["reason"] for agent in away))


def _order(master: Master) -> list[str]:
    return [one["url"] for one in master.get("/slaves")]


def _ping(master: Master) -> bool:
    try:
        return master.call("GET", "/ping") == (200, None)
    except OSError:
        return False


def _until(where: Fleet | Instance, what: str, done: Callable[[], object]) -> None:
    instance = where.instance if isinstance(where, Fleet) else where
    instance.until(done, what, limit_s=60, pause_s=0.1)


def _end(fleet: Fleet) -> None:
    fleet.stop()
    fleet.instance.stop()
    assert "Traceback" not in fleet.instance.log_text()
    assert all(not (agent.folder / "agent.log").read_text() for agent in fleet.agents)
