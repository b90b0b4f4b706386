"""Are agents called as they should be, and are the small rules of runners and roll-outs right?"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.domain import rollout
from cloudsched.domain.rollout import Member, Plan
from cloudsched.drivers.logagent import Call, Limits, Line
from cloudsched.errors import Invalid
from cloudsched.services import runners_compare as compare
from cloudsched.services.logagents import status_of
from cloudsched.testing.logagents import FakeAgent


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line(Limits(connect_s=20, concurrent=8, answer_bytes=1 << 20))
    yield made
    made.close()


@pytest.fixture
def agents() -> Iterator[list[FakeAgent]]:
    made = [FakeAgent() for _ in range(3)]
    yield made
    for agent in made:
        agent.stop()


def test_answers_come_in_the_order_of_the_calls(line: Line, agents: list[FakeAgent]) -> None:
    for index, agent in enumerate(agents):
        agent.configs[f"r{index}"] = {}
    found = line.call([Call(agent.url, "GET", "/logkit/configs") for agent in agents], limit_s=30)
    assert [f"r{index}.conf" in answer.text for index, answer in enumerate(found)] == [True] * 3
    assert line.call([], limit_s=1) == []


def test_more_agents_than_slots(agents: list[FakeAgent]) -> None:
    line = Line(Limits(concurrent=1))
    try:
        found = line.call([Call(agents[index % 3].url, "GET", "/logkit/status") for index in range(30)], limit_s=60)
        assert [answer.status for answer in found] == [200] * 30 and line.opened <= 3
    finally:
        line.close()


def test_those_in_trouble_do_not_hold_up_the_others(agents: list[FakeAgent]) -> None:
    line = Line(Limits(concurrent=1))
    agents[0].trouble = "hang"
    calls = [Call(agent.url, "GET", "/logkit/status") for agent in agents]
    try:
        line.call(calls, limit_s=0.3)
        assert [answer.status for answer in line.call(calls, limit_s=1.5)] == [0, 200, 200]
    finally:
        agents[0].release.set()
        line.close()


def test_an_agent_that_closed_a_kept_connection_is_called_again(line: Line, agents: list[FakeAgent]) -> None:
    agent = agents[0]
    call = [Call(agent.url, "GET", "/logkit/status")]
    assert line.call(call, limit_s=30)[0].status == 200
    agent.trouble = "drop"
    assert line.call(call, limit_s=30)[0].error == "it closed the connection without an answer"
    agent.trouble = ""
    assert line.call(call, limit_s=30)[0].status == 200


def test_a_change_is_sent_once_and_on_a_connection_of_its_own(line: Line, agents: list[FakeAgent]) -> None:
    agent = agents[0]
    for number in range(3):
        assert line.call([Call(agent.url, "GET", "/logkit/status")], limit_s=30)[0].status == 200
        answer = line.call([Call(agent.url, "POST", f"/logkit/configs/r{number}", b'{"senders":[{}]}')], limit_s=30)[0]
        assert (answer.status, agent.connections) == (200, number + 2)
    agent.trouble = "drop"
    before = len(agent.seen)
    answer = line.call([Call(agent.url, "POST", "/logkit/configs/r9", b"{}")], limit_s=30)[0]
    assert (answer.error, len(agent.seen)) == ("it closed the connection without an answer", before + 1)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("http://no-such-host.invalid:1", ""),
        ("https://127.0.0.1:1", "connection refused"),
    ],
)
def test_agents_that_are_not_there(line: Line, url: str, said: str) -> None:
    answer = line.call([Call(url, "GET", "/x")], limit_s=30)[0]
    assert answer.status == 0 and answer.error and (not said or answer.error == said)


def test_chains_end_by_themselves(line: Line, agents: list[FakeAgent]) -> None:
    def chain(agent: FakeAgent) -> Any:
        first = yield Call(agent.url, "GET", "/logkit/status")
        second = yield Call(agent.url, "GET", "/nowhere")
        return first.status, second.status

    assert [line.start(chain(agent), limit_s=30).result(30) for agent in agents] == [(200, 404)] * 3


def test_calls_from_many_threads(line: Line, agents: list[FakeAgent]) -> None:
    found: list[int] = []

    def work() -> None:
        found.extend(answer.status for answer in line.call([Call(a.url, "GET", "/logkit/status") for a in agents], limit_s=30))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 24


def test_closing_ends_what_is_under_way(agents: list[FakeAgent]) -> None:
    line = Line()
    agents[0].trouble = "hang"

    def chain() -> Any:
        yield Call(agents[0].url, "GET", "/x")

    under_way = line.start(chain(), limit_s=60)
    while not agents[0].seen:
        time.sleep(0.01)
    line.close()
    assert under_way.done()
    agents[0].release.set()


def test_words_by_age() -> None:
    assert [status_of(age) for age in (0, 30.99, 31, 60, 60.01)] == ["ok", "ok", "bad", "bad", "lost"]


WANTED = {"name": "r", "batch_len": 1, "reader": {"a": "1"}, "senders": [{"t": "x"}], "flag": True}
REPORT = {
    "name": "r",
    "createtime": "now",
    "web_folder": True,
    "batch_len": 1,
    "reader": {"a": "1", "runner_name": "r"},
    "senders": [{"t": "x", "runner_name": "r"}],
    "flag": True,
    "extra": 5,
}


def test_a_report_is_compared_by_what_was_asked_for() -> None:
    assert compare.report_digest(REPORT, WANTED) == compare.digest(WANTED)
    assert compare.digest({"b": 1, "a": 2}) == compare.digest({"a": 2, "b": 1})
    for other in ({"batch_len": 2}, {"reader": {}}, {"senders": []}, {"senders": [{"t": "y"}]}, {"flag": 1}, {"batch_len": "1"}):
        assert compare.report_digest({**REPORT, **other}, WANTED) != compare.digest(WANTED), other
    assert compare.difference(REPORT, WANTED, name="r") == ""
    assert '+  "batch_len": 2,' in compare.difference(REPORT, {**WANTED, "batch_len": 2}, name="r")
    assert compare.difference(None, None, name="r") == ""


def test_waves() -> None:
    agents = list(range(10))
    assert [len(wave) for wave in rollout.split(agents, ("1", "10%", "50%", "100%"))] == [1, 4, 5]
    assert [len(wave) for wave in rollout.split(agents, ("3",))] == [3, 7]
    assert rollout.split([], ("1", "100%")) == []
    assert [one for wave in rollout.split(agents, ("20", "1", "5%")) for one in wave] == agents
    for bad in ((), ("0",), ("101%",), ("x",), ("-1",), ("1.5",)):
        with pytest.raises(Invalid):
            rollout.check_steps(bad)


@pytest.mark.parametrize(("members", "at", "healthy", "word"), [
    ([Member("a", "applied")], 1, None, "well"), ([Member("a", "applied")], 5, 1, "well"),
    ([Member("a", "applied")], 12, 1, "advance"),
    ([Member("a", "pending")], 1, None, "wait"), ([Member("a", "pending")], 101, None, "fail"),
    ([Member("a", "failed", "no")], 1, None, "fail"), ([Member("a", "applied", sick="x")], 1, 1, "fail"),
    ([Member("a", "pending", away=True)], 1, None, "wait"), ([Member("a", "pending", away=True)], 101, None, "fail"),
    ([Member("a", "pending", away=True), Member("b", "applied")], 1, None, "well"), ([], 1, None, "well")])  # fmt: skip
def test_the_gate(members: list[Member], at: float, healthy: float | None, word: str) -> None:
    plan = Plan(soak_s=10, wave_limit_s=100)
    assert rollout.judge(plan, members, wave_at=0, healthy_at=healthy, now=at).word == word
