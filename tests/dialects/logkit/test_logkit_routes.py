"""Do all master routes answer as the document and contract section 6 say, in both styles? Two agents, tags first and second."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from cloudsched.clock import ManualClock
from cloudsched.testing.logagents import FakeAgent

CONFIG = {
    "name": "r1",
    "batch_interval": 5,
    "reader": {"mode": "file", "log_path": "/var/log/x"},
    "parser": {"type": "raw", "name": "p"},
    "senders": [{"sender_type": "file", "file_send_path": "/tmp/out"}],
    "tag": "kept",
    "machineUrl": "kept too",
}


@pytest.fixture(params=["document", "envelope"])
def style(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def fleet(master: Any, make_agent: Callable[..., FakeAgent], style: str) -> tuple[Any, FakeAgent, FakeAgent]:
    """A master in one of the styles and two agents, one that answers bare and one in the envelope."""
    master.style = style
    return master, make_agent(master, tag="first"), make_agent(master, tag="second", enveloped=False)


def refused(answer: Any, style: str, code: str, *, status: int = 404) -> str:
    """The text of a 400 or 404, whose shape is checked."""
    if style == "envelope":
        assert answer.status_code == 400 and set(answer.json) == {"code", "message"} and answer.json["code"] == code
        return str(answer.json["message"])
    assert answer.status_code == status and set(answer.json) == {"error"}
    return str(answer.json["error"])


def failed(answer: Any, style: str, code: str) -> Any:
    """The body of a 503: the map, or the lines of the message."""
    assert answer.status_code == 503
    if style == "envelope":
        assert set(answer.json) == {"code", "message"} and answer.json["code"] == code
        return answer.json["message"]
    for entry in answer.json.values():
        assert (
            set(entry) == {"url", "tag", "mgrType", "error"}
            and all(isinstance(v, str) for v in entry.values())
            and entry["error"]
        )
    return answer.json


def done(answer: Any, style: str) -> None:
    assert answer.status_code == 200
    assert answer.json == ({"code": "L200"} if style == "envelope" else None)


def test_both_appear_after_one_heartbeat(fleet: Any, style: str) -> None:
    master, one, two = fleet
    found = master.slaves()
    assert [(row["url"], row["tag"], row["status"]) for row in found] == [(one.url, "first", "ok"), (two.url, "second", "ok")]
    assert all(set(row) == {"url", "tag", "status", "last_touch"} and row["last_touch"].endswith("Z") for row in found)
    answer = master.get("/cluster/slaves")
    assert answer.headers["Content-Type"] == "application/json; charset=UTF-8"
    assert isinstance(answer.json, dict if style == "envelope" else list)


def test_filters(fleet: Any) -> None:
    master, one, two = fleet

    def urls(query: str) -> list[str]:
        found = {row["url"] for row in master.slaves(query)}
        for path in ("status", "configs"):
            assert set(master.data(f"/cluster/{path}{query}")) == found, query
        return [url for url in (one.url, two.url) if url in found]

    assert urls("?tag=first") == [one.url]
    assert urls(f"?url={two.url}") == [two.url]
    assert urls(f"?url={quote(two.url, safe='')}") == [two.url]
    assert urls(f"?tag=first&url={one.url}") == [one.url]
    assert urls(f"?tag=first&url={two.url}") == []
    assert urls("?tag=&url=") == [one.url, two.url]
    assert urls("?tag=nobody") == urls("?tag=undefined") == urls("?tag=First") == []
    assert urls("?TAG=first") == [one.url, two.url]
    assert urls("?tag=first&tag=second") == [one.url]
    assert urls(f"?url={one.url.removeprefix('http://')}") == [one.url]
    assert urls(f"?url={one.url}/") == [one.url]
    assert master.get("/cluster/slaves?tag=%zz").status_code == 400
    assert master.get("/cluster/status?tag=%4").status_code == 400


def test_idle_agents(fleet: Any) -> None:
    master, one, two = fleet
    assert master.data("/cluster/status") == {
        one.url: {"status": {}, "tag": "first", "error": ""},
        two.url: {"status": {}, "tag": "second", "error": ""},
    }
    assert master.data("/cluster/configs?tag=first") == {one.url: {"configs": {}, "tag": "first", "error": ""}}
    assert master.data("/cluster/runners") == []


def test_the_life_of_a_runner(fleet: Any, style: str) -> None:
    master, one, two = fleet
    body = json.dumps(CONFIG)

    def on(method: str, what: str, query: str, data: str | None = None) -> Any:
        return master(method, f"/cluster/configs/r1{what}{query}", data=data)

    done(on("POST", "", "?tag=first", body), style)
    assert one.seen[-1] == ("POST", "/logkit/configs/r1", body.encode()) and not two.configs
    found = master.data("/cluster/status")
    assert found[one.url]["status"]["r1"] | {"tag": "first", "url": one.url} == found[one.url]["status"]["r1"]
    assert found[one.url]["status"]["r1"]["something_new"] == [1] and found[two.url]["status"] == {}
    assert master.data("/cluster/configs?tag=first")[one.url]["configs"] == {one.path_of("r1"): one.configs["r1"]}
    assert master.data("/cluster/runners") == ["r1"]
    assert master.data("/cluster/configs/r1") == one.configs["r1"]

    again = failed(on("POST", "", "?tag=first", body), style, "L2006")
    if style == "document":
        assert again == {
            one.url: {
                "url": one.url,
                "tag": "first",
                "mgrType": "add runner r1",
                "error": '{"code": "L1002", "message": "file r1 runner is running"}',
            }
        }
    else:
        assert again == (
            f"url {one.url} add runner r1 occurred an error, resp is "
            '{"code": "L1002", "message": "file r1 runner is running"}, err is <nil>'
        )
    both = failed(on("POST", "", "", body), style, "L2006")
    assert one.url in both and two.url not in both and "r1" in two.configs

    done(on("PUT", "", "?tag=second", json.dumps({**CONFIG, "batch_interval": 9})), style)
    assert (one.configs["r1"]["batch_interval"], two.configs["r1"]["batch_interval"]) == (5, 9)
    done(on("POST", "/stop", ""), style)
    assert set(_urls(failed(on("POST", "/stop", ""), style, "L2009"), one, two)) == {one.url, two.url}
    done(on("POST", "/start", ""), style)
    failed(on("POST", "/start", "?tag=first"), style, "L2008")
    done(on("POST", "/reset", "?tag=second"), style)
    assert two.seen[-1] == ("POST", "/logkit/configs/r1/reset", b"")
    done(on("DELETE", "", ""), style)
    assert not one.configs and not two.configs
    assert set(_urls(failed(on("DELETE", "", ""), style, "L2007"), one, two)) == {one.url, two.url}
    failed(on("PUT", "", "?tag=first", body), style, "L2011")
    failed(on("POST", "/reset", "?tag=first"), style, "L2010")


def _urls(found: Any, *agents: FakeAgent) -> list[str]:
    return [agent.url for agent in agents if agent.url in found]


def test_nobody_matches(fleet: Any, style: str) -> None:
    master, _, _ = fleet
    calls = [
        ("POST", "/configs/r1", "L2006"),
        ("PUT", "/configs/r1", "L2011"),
        ("DELETE", "/configs/r1", "L2007"),
        ("POST", "/configs/r1/start", "L2008"),
        ("POST", "/configs/r1/stop", "L2009"),
        ("POST", "/configs/r1/reset", "L2010"),
        ("POST", "/slaves/tag", "L2013"),
    ]
    word = "is" if style == "envelope" else "are"
    for method, path, code in calls:
        answer = master(method, f"/cluster{path}?tag=nobody", data="{}")
        assert refused(answer, style, code) == f"the slaves(tag = 'nobody', url = '') {word} not found"
    assert refused(master.get("/cluster/configs/r1?url=http://x"), style, "L2014").startswith("the slaves(tag = '', url = 'http")
    assert refused(master.get("/cluster/configs/r1"), style, "L2014")
    done(master("DELETE", "/cluster/slaves?tag=nobody"), style)
    assert len(master.slaves()) == 2


def test_a_tag_is_changed_through_the_agent(fleet: Any, style: str) -> None:
    master, one, two = fleet
    done(master.post("/cluster/slaves/tag?tag=first", data='{"tag":"third"}'), style)
    assert one.seen[-1] == ("POST", "/logkit/cluster/tag", b'{"tag":"third"}')
    assert [row["tag"] for row in master.slaves()] == ["third", "second"]
    one.beat()
    assert [row["url"] for row in master.slaves("?tag=third")] == [one.url] and master.slaves("?tag=first") == []
    refused(master.post("/cluster/slaves/tag?tag=first", data='{"tag":"x"}'), style, "L2013")
    done(master.post(f"/cluster/slaves/tag?url={two.url}", data='{"tag":""}'), style)
    assert [row["tag"] for row in master.slaves()] == ["third", ""]
    for body in ('{"tag":5}', "[]", "nothing", ""):
        assert refused(master.post("/cluster/slaves/tag", data=body), style, "L2013", status=400)
    two.register = lambda url, tag: False
    assert two.url in failed(master.post(f"/cluster/slaves/tag?url={two.url}", data='{"tag":"x"}'), style, "L2013")


def test_slaves_are_forgotten_and_come_back_at_the_end(fleet: Any, style: str) -> None:
    master, one, two = fleet
    done(master("DELETE", "/cluster/slaves?tag=first"), style)
    assert [row["url"] for row in master.slaves()] == [two.url]
    one.beat()
    assert [row["url"] for row in master.slaves()] == [two.url, one.url]
    done(master("DELETE", f"/cluster/slaves?url={two.url}"), style)
    assert [row["url"] for row in master.slaves()] == [one.url]
    done(master("DELETE", "/cluster/slaves"), style)
    assert master.slaves() == []


def test_silence(time_passes: ManualClock, fleet: Any) -> None:
    master, one, _ = fleet
    one.beat()
    started = master.slaves()[0]["last_touch"]

    def word() -> str:
        return str(master.slaves(f"?url={one.url}")[0]["status"])

    seen = []
    for age in (0, 28, 30.9, 31.01, 45, 59.9, 60.1, 64):
        time_passes.advance(age - (time_passes.now() - 1_767_341_084.0))
        seen.append(word())
    assert seen == ["ok", "ok", "ok", "bad", "bad", "bad", "lost", "lost"]
    assert master.slaves()[0]["last_touch"] == started == "2026-01-02T08:04:44.000Z"
    one.beat()
    assert word() == "ok" and master.slaves()[0]["last_touch"] == "2026-01-02T08:05:48.000Z"


def test_lost_agents_are_not_called_for_reading_but_for_operations(time_passes: ManualClock, fleet: Any, style: str) -> None:
    master, one, two = fleet
    one.beat()
    time_passes.advance(61)
    two.beat()
    found = master.data("/cluster/status")
    assert found[one.url]["status"] == {} and found[one.url]["error"] == "lost: not heard from since 2026-01-02T08:04:44.000Z"
    assert found[two.url]["error"] == "" and not one.seen
    done(master.post("/cluster/configs/r1?tag=first", data=json.dumps(CONFIG)), style)
    assert one.configs


def test_small_routes(fleet: Any, style: str) -> None:
    master, _, _ = fleet
    done(master.get("/cluster/ping"), style)
    assert master.data("/cluster/ismaster") is True
    assert set(master.data("/version")) == {"version"}
    assert set(master.data("/errorcode")) >= {"L200", "L1008", "L1101", "L1401", "L2001", "L2014"}
    for path, status, text in (
        ("/cluster/nothing", 404, "Not Found"),
        ("/cluster/slaves/", 404, "Not Found"),
        ("/cluster/ping/", 404, "Not Found"),
    ):
        answer = master.get(path)
        assert answer.status_code == status
        assert answer.json == {"message": text} if style == "envelope" else set(answer.json) == {"error"}
    for method, path in (("PUT", "/cluster/slaves"), ("GET", "/cluster/register"), ("OPTIONS", "/cluster/ping")):
        answer = master(method, path)
        assert answer.status_code == 405
        assert answer.json == {"message": "Method Not Allowed"} if style == "envelope" else set(answer.json) == {"error"}
        assert answer.headers["Allow"]
