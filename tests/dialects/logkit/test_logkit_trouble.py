"""Does trouble stay where it is? Bad requests, agents that misbehave, several masters, restarts, a cluster that is off."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cloudsched.clock import ManualClock
from cloudsched.store import db, logagents
from cloudsched.testing.logagents import TROUBLES, FakeAgent

SMALL, SHORT = {"logkit.answer_max_mb": 2}, {"logkit.read_timeout_s": 0.6, "logkit.change_timeout_s": 0.6}
ENDLESS = ("hang", "drip")
CONFIG = {"reader": {"mode": "file"}, "senders": [{"sender_type": "discard"}]}


@pytest.fixture
def quick(make_master: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    """A master with a small limit for answers, and a short time limit for those who hang."""
    return make_master(**SMALL, **(SHORT if request.node.callspec.params["trouble"] in ENDLESS else {}))


def register(master: Any, body: Any, **kw: Any) -> Any:
    return master.post("/cluster/register", data=body if isinstance(body, (str, bytes)) else json.dumps(body), **kw)


@pytest.mark.parametrize("style", ["document", "envelope"])
@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        '"http://h:1"',
        "5",
        "[" * 5000,
        b"\xff\xfe",
        '{"url":"http://h:1","tag":5}',
        '{"url":5,"tag":"t"}',
        '{"url":null}',
        "{}",
        '{"url":""}',
        '{"url":"http://"}',
        '{"url":"http:///x"}',
        '{"url":"h:99999"}',
        '{"url":"http://user:secret@h:1"}',
        '{"url":"http://h:1/?a=b"}',
        '{"url":"http://h h:1"}',
        '{"url":"h\\u0000:1"}',
        '{"url":"http://[::1"}',
        '{"url":"h:1","tag":"\\u0000"}',
        '{"url":"h:1","tag":"' + "t" * 1001 + '"}',
        '{"url":"h' + "x" * 3000 + ':1"}',
        '{"url":"h:1\\r\\nX: y"}',
        '{"url":"h:0"}',
    ],
)
def test_heartbeats_that_are_refused(master: Any, style: str, body: Any) -> None:
    master.style = style
    answer = register(master, body)
    assert answer.status_code == 400, answer.text
    if style == "envelope":
        assert set(answer.json) == {"code", "message"} and answer.json["code"] == "L2004"
    else:
        assert set(answer.json) == {"error"}
    assert isinstance(next(iter(answer.json.values())), str) and "secret" not in answer.text
    assert master.slaves() == []


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("10.0.0.1:1222", "http://10.0.0.1:1222"),
        ("http://h:1/", "http://h:1"),
        ("https://h:1//", "https://h:1"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://h:1/base/", "http://h:1/base"),
    ],
)
def test_urls_are_registered_in_one_form(master: Any, given: str, kept: str) -> None:
    assert register(master, {"url": given, "tag": "t", "more": [1]}, content_type="text/plain").status_code == 200
    assert register(master, {"url": kept}).json is None
    assert [(row["url"], row["tag"]) for row in master.slaves()] == [(kept, "")]


def test_the_same_url_again_keeps_its_place_and_takes_the_tag(master: Any) -> None:
    for url, tag in (("h:1", "a"), ("h:2", "a"), ("h:1", "b"), ("h:1", "b"), ("h:1", "a"), ("h:1", "b")):
        assert register(master, {"url": url, "tag": tag}).status_code == 200
    assert [(row["url"], row["tag"]) for row in master.slaves()] == [("http://h:1", "b"), ("http://h:2", "a")]


@pytest.mark.parametrize(
    ("trouble", "style"),
    [(trouble, "document") for trouble in TROUBLES] + [(trouble, "envelope") for trouble in TROUBLES if trouble not in ENDLESS],
)
def test_one_bad_agent_hides_nobody(quick: Any, make_agent: Callable[..., FakeAgent], trouble: str, style: str) -> None:
    quick.style = style
    good, bad, dead = make_agent(quick, tag="t"), make_agent(quick, tag="t"), make_agent(quick, tag="t")
    dead.stop()
    bad.trouble = trouble
    for key in ("status", "configs"):
        found = quick.data(f"/cluster/{key}")
        assert list(found) == [good.url, bad.url, dead.url]
        assert found[good.url] == {key: {}, "tag": "t", "error": ""}
        for agent in (bad, dead):
            assert found[agent.url][key] == {} and isinstance(found[agent.url]["error"], str) and found[agent.url]["error"]
        assert found[dead.url]["error"] == "connection refused"
    assert quick.data("/cluster/runners") == []
    answer = quick.post("/cluster/configs/r1?tag=t", data=json.dumps(CONFIG))
    assert answer.status_code == 503 and "r1" in good.configs
    told = answer.json["message"] if style == "envelope" else answer.json
    assert good.url not in told and dead.url in told
    # Only the status counts there: whatever a 200 carries is fine.
    assert (bad.url in told) == (trouble not in ("notjson", "list", "nested"))
    assert quick.data("/cluster/configs/r1") == good.configs["r1"]
    bad.release.set()


def test_what_is_said_of_each_trouble(make_master: Callable[..., Any], make_agent: Callable[..., FakeAgent]) -> None:
    patient, hurried = make_master(**SMALL), make_master(**SMALL, **SHORT)
    bad = make_agent(patient, tag="t")
    said = {}
    for trouble in TROUBLES:
        bad.trouble = trouble
        said[trouble] = (hurried if trouble in ENDLESS else patient).data("/cluster/status")[bad.url]["error"]
    bad.release.set()
    assert said["hang"] == said["drip"] == "no answer within 0.6 s"
    assert said["head_without_end"] == "its answer is no HTTP, or has too large a head"
    assert said["half_chunk"] == "it closed the connection half-way through its answer"
    assert said["huge_chunk"] == "its answer is larger than 2 MiB"
    assert said["no_chunks"] == "its answer is not chunked as it says"
    assert said["elsewhere"].startswith("HTTP 307") and len(bad.seen) == len(TROUBLES)  # nothing is followed
    assert said["garbage"] == "its answer is no HTTP"
    assert said["redirect"].startswith("HTTP 302")
    assert said["huge"] == "its answer is larger than 2 MiB"
    assert said["half"] == "it closed the connection after 18 of 1000 bytes of its answer"
    assert said["drop"] == "it closed the connection without an answer"
    assert said["empty500"] == "HTTP 500: the answer is empty"
    assert said["notjson"].startswith("its answer is not JSON")
    assert said["list"].startswith("its answer is not an object")


def test_a_failed_operation_says_why_in_words(master: Any, make_agent: Callable[..., FakeAgent]) -> None:
    bad = make_agent(master, tag="t")
    bad.trouble = "empty500"
    answer = master.post("/cluster/configs/r1/start")
    assert answer.json == {
        bad.url: {"url": bad.url, "tag": "t", "mgrType": "start runner r1", "error": "HTTP 500: the answer is empty"}
    }


@pytest.mark.parametrize(
    "name", ["..", ".", "%2e%2e", "a%2Fb", "..%2f..%2fetc", "a%5Cb", "a%00", "a%0a", "%", "%zz", "%ff", "x" * 201, "a%2F..%2Fb"]
)
def test_names_that_no_runner_may_have(master: Any, make_agent: Callable[..., FakeAgent], name: str) -> None:
    agent = make_agent(master, tag="t")
    for method, more in (("POST", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/start"), ("GET", "")):
        answer = master.client.open(
            "/logkit/cluster/x",
            method=method,
            data=json.dumps(CONFIG),
            environ_overrides={"RAW_URI": f"/logkit/cluster/configs/{name}{more}"},
        )
        assert answer.status_code == 400 and set(answer.json) == {"error"}, (method, answer.text)
    assert agent.seen == []


@pytest.mark.parametrize(
    ("raw", "name"), [("50%25", "50%"), ("a%20b", "a b"), ("%E4%B8%AD", "中"), ("a+b", "a+b"), ("code", "code")]
)
def test_names_survive(master: Any, make_agent: Callable[..., FakeAgent], raw: str, name: str) -> None:
    agent = make_agent(master, tag="t")
    answer = master.client.post("/x", data=json.dumps(CONFIG), environ_overrides={"RAW_URI": f"/logkit/cluster/configs/{raw}"})
    assert answer.status_code == 200 and list(agent.configs) == [name]
    assert master.data("/cluster/runners") == [name]
    assert list(master.data("/cluster/status")[agent.url]["status"]) == [name]


@pytest.mark.parametrize("body", ["", "nothing", "[]", "5", '"text"', "null", "{", "[" * 5000, b"\xff"])
def test_configs_that_are_no_objects_reach_nobody(master: Any, make_agent: Callable[..., FakeAgent], body: Any) -> None:
    agent = make_agent(master, tag="t")
    for method in ("POST", "PUT"):
        answer = master(method, "/cluster/configs/r1", data=body)
        assert answer.status_code == 400 and "error" in answer.json
    assert agent.seen == []


def test_a_config_that_is_too_large(make_master: Callable[..., Any], make_agent: Callable[..., FakeAgent]) -> None:
    master = make_master(**{"logkit.config_max_mb": 1})
    agent = make_agent(master, tag="t")
    answer = master.post("/cluster/configs/r1", data=b'{"a":"' + b"x" * (1 << 20) + b'"}')
    assert answer.status_code == 413 and "1048576" in answer.json["error"] and agent.seen == []


def test_no_input_makes_a_mistake_of_ours(master: Any, make_agent: Callable[..., FakeAgent]) -> None:
    make_agent(master, tag="t")
    chance = random.Random(4)
    pieces = [
        "configs",
        "slaves",
        "tag",
        "status",
        "register",
        "r1",
        "..",
        "%2f",
        "%",
        "\u4e2d",
        "'",
        '"',
        "start",
        "",
        "?",
        "&",
        "=",
    ]
    for _ in range(300):
        path = "/logkit/cluster/" + "/".join(chance.choices(pieces, k=chance.randint(1, 4)))
        query = "&".join(
            chance.choices(["tag=t", "url=%00", "tag=%", "url=//", "tag=\u4e2d", "=", "&", "tag"], k=chance.randint(0, 3))
        )
        body = chance.choice([b"", b"{}", b'{"tag":"x"}', b"\x00\xff", b"[]", b'{"url":"h:1"}'])
        answer = master.client.open(
            "/x",
            method=chance.choice(["GET", "POST", "PUT", "DELETE", "PATCH"]),
            data=body,
            environ_overrides={
                "RAW_URI": f"{path}?{query}".encode().decode("latin-1"),
                "QUERY_STRING": query.encode().decode("latin-1"),
            },
            headers={"X-Logkit-Style": chance.choice(["document", "envelope", "no such"])},
        )
        assert answer.status_code in (200, 400, 404, 405, 413, 503), (path, query, answer.text)
        json.loads(answer.data)


def test_the_style_of_an_answer(make_master: Callable[..., Any]) -> None:
    master = make_master(**{"logkit.response_style": "envelope"})
    get = master.client.get
    assert get("/logkit/cluster/slaves").json == {"code": "L200", "data": []}
    assert get("/logkit/cluster/ping").json == {"code": "L200"}
    assert get("/document/logkit/cluster/slaves").json == []
    assert get("/logkit/cluster/slaves", headers={"X-Logkit-Style": "document"}).json == []
    assert get("/envelope/logkit/cluster/slaves", headers={"X-Logkit-Style": "document"}).json == {"code": "L200", "data": []}
    assert get("/logkit/cluster/slaves", headers={"X-Logkit-Style": "other"}).status_code == 400
    assert get("/logkit/cluster/ping", headers={"X-Logkit-Style": "other"}).status_code == 400
    assert get("/envelope/logkit/nothing").json == {"message": "Not Found"}
    assert get("/envelope/cluster/slaves").status_code == 404


@pytest.mark.parametrize("style", ["document", "envelope"])
def test_a_cluster_that_is_off(make_master: Callable[..., Any], style: str) -> None:
    master = make_master(**{"logkit.enable": "no"})
    master.style = style
    key = "message" if style == "envelope" else "error"
    assert master.get("/cluster/ping").status_code == 200
    assert master.data("/cluster/ismaster") is False
    answer = register(master, {"url": "h:1", "tag": "t"})
    assert answer.status_code == 400 and answer.json[key] == "this is not master"
    for method, path in (("GET", "slaves"), ("DELETE", "slaves"), ("GET", "status"), ("POST", "configs/r1")):
        answer = master(method, f"/cluster/{path}")
        assert answer.status_code == 400 and answer.json[key] == "cluster function not configed"


def test_refuse_not_ok(time_passes: ManualClock, make_master: Callable[..., Any], make_agent: Callable[..., FakeAgent]) -> None:
    master = make_master(**{"logkit.refuse_not_ok": "yes"})
    one, two = make_agent(master, tag="t"), make_agent(master, tag="t")
    time_passes.advance(40)
    two.beat()
    answer = master.post("/cluster/configs/r1?tag=t", data=json.dumps(CONFIG))
    assert answer.status_code == 400
    assert answer.json == {"error": f"the slaves(tag = 't', url = '{one.url}') status is bad, options are terminated"}
    assert not one.seen and not two.seen


def test_two_masters_on_one_database(make_master: Callable[..., Any], make_agent: Callable[..., FakeAgent]) -> None:
    one, two = make_master(), make_master()
    agent = make_agent(one, tag="first")
    assert [row["url"] for row in two.slaves()] == [agent.url]
    agent.register = two.register
    agent.tag = "second"
    agent.beat()
    assert [row["tag"] for row in one.slaves()] == ["second"]
    assert one.post("/cluster/slaves/tag?tag=second", data='{"tag":"third"}').status_code == 200
    assert one.slaves("?tag=third") and two.slaves("?tag=third")
    two("DELETE", "/cluster/slaves")
    assert one.slaves() == []
    agent.register = one.register
    agent.beat()
    assert len(one.slaves()) == len(two.slaves()) == 1


def test_contacts_reach_the_other_master(time_passes: ManualClock, make_master: Callable[..., Any]) -> None:
    one, two = make_master(), make_master()
    assert register(one, {"url": "h:1", "tag": "t"}).status_code == 200
    assert two.slaves()[0]["status"] == "ok"
    time_passes.advance(20)
    register(one, {"url": "h:1", "tag": "t"})
    one.app.fleet.flush()
    time_passes.advance(20)
    assert [row["status"] for row in (*one.slaves(), *two.slaves())] == ["ok", "ok"]
    assert one.slaves() == two.slaves()


def test_a_master_remembers(time_passes: ManualClock, make_master: Callable[..., Any]) -> None:
    one = make_master()
    for number in range(3):
        register(one, {"url": f"h:{number + 1}", "tag": "t"})
    before = one.slaves()
    one.app.close()
    after = make_master()
    assert after.slaves() == before
    time_passes.advance(100)
    assert {row["status"] for row in after.slaves()} == {"lost"}


def test_registrations_at_once_are_all_kept(master: Any) -> None:
    problems: list[Any] = []

    def work(start: int) -> None:
        for number in range(start, start + 25):
            answer = register(master, {"url": f"http://10.0.0.1:{1000 + number}", "tag": "t"})
            if answer.status_code != 200:
                problems.append(answer.text)
        db.current().close_thread()

    threads = [threading.Thread(target=work, args=(index * 20,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and len(master.slaves()) == len({row["url"] for row in master.slaves()}) == 85


def test_a_log_agent_is_a_node(master: Any) -> None:
    register(master, {"url": "http://10.0.0.7:1222", "tag": "web"})
    row = logagents.rows()[0]
    from cloudsched.services import nodes

    node = nodes.one(row.node_id)
    assert node["name"] == "10.0.0.7:1222" and node["state"] == "running" and node["cloud"] == "log-agents"
    assert node["profile"] == {"log_agent": True, "url": "http://10.0.0.7:1222", "tag": "web"} and node["slots"] == 0
    register(master, {"url": "http://10.0.0.7:1222", "tag": "db"})
    assert nodes.one(row.node_id)["profile"]["tag"] == "db"
    master("DELETE", "/cluster/slaves")
    assert nodes.page() == []


def test_the_list_has_an_end(make_master: Callable[..., Any]) -> None:
    master = make_master(**{"logkit.agents_max": 2})
    assert [register(master, {"url": f"h:{n}"}).status_code for n in (1, 2, 3, 1)] == [200, 200, 400, 200]


def test_connections_are_kept(master: Any, make_agent: Callable[..., FakeAgent]) -> None:
    agent = make_agent(master, tag="t")
    for _ in range(5):
        master.data("/cluster/status")
    assert agent.connections == 1
    # A change has one of its own: a kept one may be closing, and it must not be sent twice.
    for number in (2, 3):
        master.post(f"/cluster/configs/r{number}", data=json.dumps(CONFIG))
        assert agent.connections == number
    master.data("/cluster/configs")
    assert agent.connections == 3


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_tag_that_an_agent_in_trouble_does_not_take(quick: Any, make_agent: Callable[..., FakeAgent], trouble: str) -> None:
    good, bad = make_agent(quick, tag="t"), make_agent(quick, tag="t")
    bad.trouble = trouble
    answer = quick.post("/cluster/slaves/tag?tag=t", data='{"tag":"new"}')
    bad.release.set()
    tags = {row["url"]: row["tag"] for row in quick.slaves()}
    assert tags == {good.url: "new", bad.url: "t"}
    if trouble in ("notjson", "list", "nested"):  # a 200 counts, whatever it carries; the heartbeat tells the truth
        assert answer.status_code == 200
    else:
        entry = answer.json[bad.url]
        assert answer.status_code == 503 and entry["error"] and (entry["tag"], entry["mgrType"]) == ("t", "change tag")


def test_the_slowest_is_not_waited_for_by_the_others(master: Any, make_agent: Callable[..., FakeAgent]) -> None:
    """Each of them answers when all have been asked."""
    together = threading.Barrier(12)
    agents = [make_agent(master, tag="t") for _ in range(12)]
    for agent in agents:
        agent.answer = partial(_when_all_are_asked, together, agent.answer)  # type: ignore[method-assign]
    found = master.data("/cluster/status")
    assert [entry["error"] for entry in found.values()] == [""] * 12


def _when_all_are_asked(together: threading.Barrier, answer: Callable[..., Any], *asked: Any) -> Any:
    together.wait(30)
    return answer(*asked)
