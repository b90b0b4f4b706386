"""What do nodes deliver, what are they told, and who reads it? `/agent/logs`, `/nodes/ID/logs`, `/jobs/ID/logs`."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.services import lifecycle, nodelogs
from cloudsched.services.logagents import Fleet
from cloudsched.store import boots
from cloudsched.store import nodes as node_rows
from cloudsched.store.db import read, write

from .conftest import Api

Make = Callable[..., Api]


@pytest.fixture
def on(make_api: Make) -> Api:
    return make_api(**{"logkit.on_nodes": True})


def ndjson(*records: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in records)


def line(text: str, *, job: int = 1, offset: int = 0, stream: str = "stdout", **more: Any) -> dict[str, Any]:
    return {"job": job, "attempt": 1, "stream": stream, "offset": offset, "size": len(text) + 1, "line": text, **more}


def deliver(api: Api, bearer: str, body: bytes, batch: str = "", **headers: str) -> Any:
    given = {"Authorization": f"Bearer {bearer}", **({"X-Batch-Id": batch} if batch else {}), **headers}
    return api.post("/agent/logs", data=body, headers=given, content_type="application/x-ndjson")


def test_off_by_default(api: Api) -> None:
    token = api.post("/nodes/tokens", json={}).json["token"]
    joined = api.post("/agent/join", json={"token": token, "name": "n1", "instance": "i", "profile": {}}).json
    assert joined["logs"] is None
    refused = deliver(api, f"{joined['node_id']}.{joined['secret']}", ndjson(line("x")))
    assert refused.status_code == 403 and "not collected" in refused.json["detail"]


def test_what_a_node_is_told(on: Api) -> None:
    token = on.post("/nodes/tokens", json={}).json["token"]
    profile = {"tags": ["x", "cluster=blue"]}
    told = on.post("/agent/join", json={"token": token, "name": "n1", "instance": "i", "profile": profile}).json["logs"]
    assert told["tag"] == "nodes" and told["masters"] == ["http://127.0.0.1:8090"] and told["address"] == ""
    assert told["members"] == {"node": "n1", "cloud": "agents", "cluster": "blue"}
    assert told["labels"] == {**told["members"], "node_id": "1"} and told["flush_s"] == 10
    runner = told["runners"]["cloudsched-jobs"]["config"]
    assert runner["senders"][0]["http_sender_url"] == "${CLOUDSCHED_COLLECT}" and told["reader"] == "cloudsched-jobs"
    far = on.post("/agent/join", address="10.1.2.3", json={"token": token, "name": "n2", "instance": "i", "profile": {}})
    assert far.json["logs"]["masters"] == [], "a master on loopback is not its master"
    assert far.json["logs"]["address"] == "http://node-2.invalid"


@pytest.mark.parametrize(("everywhere", "option", "tag"), [
    (False, True, "nodes"), (False, "edge", "edge"), (True, False, None), (True, "", "nodes"), (False, None, None)])
def test_a_cloud_goes_first(make_api: Make, everywhere: bool, option: Any, tag: str | None) -> None:
    api = make_api(**{"logkit.on_nodes": everywhere})
    options = {} if option is None or option == "" else {"log_agent": option}
    assert api.post("/clouds", json={"name": "c", "kind": "Fake", "slots": 1, "options": {**options, "cluster": "k"}},
                    query_string={"verify": 0}).status_code == 201
    token = api.post("/nodes/tokens", json={"cloud": "c"}).json["token"]
    told = api.post("/agent/join", json={"token": token, "name": "n1", "instance": "i", "profile": {}}).json["logs"]
    assert (told and told["tag"]) == tag and (told is None or told["members"]["cluster"] == "k")


@pytest.mark.parametrize("options", [{"log_agent": 1}, {"log_agent": None}, {"cluster": ["x"]}])
def test_options_of_a_cloud_that_cannot_be(on: Api, options: dict[str, Any]) -> None:
    refused = on.post("/clouds", json={"name": "c", "kind": "Fake", "slots": 1, "options": options}, query_string={"verify": 0})
    assert refused.status_code == 400 and refused.json["errors"][0]["field"] == "options"
    assert "log_agent is true, false or a tag" in refused.json["errors"][0]["allowed"]


def test_records_are_kept_once_and_read(on: Api) -> None:
    _, bearer = on.node("n1")
    body = ndjson(line("one", node="somebody else", time="2026-01-01T00:00:00Z"), line("two", offset=4),
                  line("err", stream="stderr"))
    assert deliver(on, bearer, body, "q-1").json == {"kept": 3, "dropped": 0, "repeated": False}
    assert deliver(on, bearer, body, "q-1").json == {"kept": 0, "dropped": 3, "repeated": True}
    assert deliver(on, bearer, gzip.compress(ndjson(line("two", offset=4), line("three", offset=8))), "q-2",
                   **{"Content-Encoding": "gzip"}).json == {"kept": 1, "dropped": 1, "repeated": False}
    found = on.get("/nodes/n1/logs").json
    assert [one["line"] for one in found["items"]] == ["one", "two", "err", "three"] and found["next"] is None
    first = found["items"][0]
    assert (first["node"], first["cloud"], first["time"]) == ("n1", "agents", "2026-01-01T00:00:00Z")
    assert first["received_at"].endswith("Z")
    assert [one["line"] for one in on.get("/nodes/1/logs?stream=stderr").json["items"]] == ["err"]
    assert [one["line"] for one in on.get("/nodes/n1/logs?tail=2").json["items"]] == ["err", "three"]
    assert on.get("/nodes/n1/logs?job=2").json["items"] == [] == on.get("/nodes/n1/logs?attempt=2").json["items"]
    assert on.get("/nodes/n1/logs?since=2999-01-01T00:00:00Z").json["items"] == []
    page = on.get("/nodes/n1/logs?limit=3").json
    rest = on.get(f"/nodes/n1/logs?limit=3&cursor={page['next']}").json
    assert [one["line"] for one in page["items"] + rest["items"]] == ["one", "two", "err", "three"]
    array = on.post("/agent/logs", json=[{"message": "nginx\nline", "level": 3}], headers={"Authorization": f"Bearer {bearer}"})
    assert array.json["kept"] == 1 and on.get("/nodes/n1/logs?tail=1").json["items"][0]["message"] == "nginx\nline"


def test_a_job_is_read_over_all_its_nodes(on: Api) -> None:
    job = on.submit(max_retries=1)
    for name in ("n1", "n2"):
        _, bearer = on.node(name)
        claimed = on.sync(bearer, want=1).json["jobs"][0]
        assert claimed["id"] == job
        attempt = claimed["attempt"]
        deliver(on, bearer, ndjson(line(f"on {name}", job=job, attempt=attempt), line("not it", job=job + 1)), "q-1")
        on.sync(bearer, done=[{"id": job, "attempt": attempt, "state": "failed", "exit_code": 1}])
        if name == "n1":
            until = time.monotonic() + 20
            from cloudsched.services import settling
            while on.get(f"/jobs/{job}").json["state"] == "pending" and time.monotonic() < until:
                write(lambda tx: settling.release_due(tx, clock.now() + 10_000))
    found = on.get(f"/jobs/{job}/logs").json["items"]
    assert [(one["line"], one["node"], one["attempt"]) for one in found] == [("on n1", "n1", 1), ("on n2", "n2", 2)]
    page = on.get(f"/jobs/{job}/logs?limit=1").json
    assert on.get(f"/jobs/{job}/logs?limit=1&cursor={page['next']}").json["items"][0]["line"] == "on n2"
    assert on.get("/jobs/999/logs").status_code == 404 == on.get("/nodes/nobody/logs").status_code


def test_following_ends_with_the_job(on: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.services import nodelog_views

    monkeypatch.setattr(nodelog_views, "LATE_S", 0.0)
    job = on.submit()
    _, bearer = on.node("n1")
    on.sync(bearer, want=1)
    deliver(on, bearer, ndjson(line("a", job=job), line("b", job=job, offset=2)), "q-1")
    on.sync(bearer, done=[{"id": job, "attempt": 1, "state": "succeeded", "exit_code": 0}])
    answer = on.get(f"/jobs/{job}/logs?follow=1")
    assert answer.content_type == "application/x-ndjson"
    found = [json.loads(one) for one in answer.data.splitlines() if one]
    assert [one["line"] for one in found] == ["a", "b"]
    again = on.get(f"/jobs/{job}/logs?follow=1&cursor={found[0]['cursor']}")
    assert [json.loads(one)["line"] for one in again.data.splitlines() if one] == ["b"]


@pytest.mark.parametrize(("body", "headers", "status"), [
    (b"{", {}, 400), (b"[1,2]\n", {}, 400), (b'"x"\n', {}, 400), (b"\xff\xfe{}\n", {}, 400), (b'{"a":1}\n{"b"\n', {}, 400),
    (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}\n", {}, 400), (b"not gzip", {"Content-Encoding": "gzip"}, 400),
    (gzip.compress(b"{}\n" * 10, mtime=0)[:-9], {"Content-Encoding": "gzip"}, 400),
    (b"{}\n", {"Content-Encoding": "br"}, 400), (b"{}\n", {"X-Batch-Id": "x" * 201}, 400), (b"{}\n", {"X-Batch-Id": "a\tb"}, 400),
    (gzip.compress(b" " * (33 << 20), mtime=0), {"Content-Encoding": "gzip"}, 413), (b"x" * ((4 << 20) + 1), {}, 413),
    (json.dumps({"a": "x" * (1 << 20)}).encode(), {}, 413), (b"{}\n" * 100_001, {}, 413),
    (b'{"job":"x","attempt":-1,"offset":1.5,"size":[]}\n', {}, 200), (b"", {}, 200), (b'{"a\\u0000b":"\\u0000"}\n\n', {}, 200),
    (b'{"job":99999999999999999999999999}\n', {}, 200), (b'{"offset":-5,"size":-1,"job":1}\n', {}, 200)])
def test_whatever_comes_is_no_mistake_of_ours(on: Api, body: bytes, headers: dict[str, str], status: int) -> None:
    _, bearer = on.node("n1")
    answer = deliver(on, bearer, body, **headers)
    assert answer.status_code == status, answer.text
    assert on.get("/nodes/n1/logs").status_code == 200
    assert on.get("/nodes/n1/logs?job=1&stream=stdout").status_code == 200


def test_who_delivers_is_known_by_its_secret(on: Api) -> None:
    number, bearer = on.node("n1")
    assert deliver(on, f"{number}.wrong", ndjson(line("x"))).status_code == 401
    assert on.post("/agent/logs", data=b"{}").status_code == 401
    assert on.post("/agent/logs/state", data=b"{}").status_code == 401
    assert on.get("/agent/logs").status_code == 405
    assert deliver(on, bearer, ndjson(line("x"))).status_code == 200


def test_too_much_too_fast_is_told_to_wait(make_api: Make) -> None:
    api = make_api(**{"logkit.on_nodes": True, "logkit.node_rate_mb": 0.01})
    _, bearer = api.node("n1")
    big = ndjson({"line": "x" * 200_000})
    assert deliver(api, bearer, big).status_code == 200, "a batch is taken as a whole"
    refused = deliver(api, bearer, big)
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1


def test_a_disk_that_is_full_is_told(on: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from cloudsched.store import logfiles

    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    _, bearer = on.node("n1")
    monkeypatch.setattr(logfiles, "_write_all", full)
    assert deliver(on, bearer, ndjson(line("x")), "q-1").status_code == 503
    monkeypatch.undo()
    assert deliver(on, bearer, ndjson(line("x")), "q-1").json["kept"] == 1


@pytest.mark.parametrize("query", ["since=yesterday", "tail=-1", "tail=x", "job=x", "attempt=0", "stream=other", "cursor=x",
                                    "x=1"])
def test_bad_queries_name_the_field(on: Api, query: str) -> None:
    on.node("n1")
    answer = on.get(f"/nodes/n1/logs?{query}")
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == query.partition("=")[0]


def test_logs_of_a_node_that_is_forgotten_are_found_by_name(on: Api) -> None:
    number, bearer = on.node("n1")
    deliver(on, bearer, ndjson(line("still here")))
    write(lambda tx: tx.run("DELETE FROM node WHERE id = ?", (number,)))
    assert on.get("/nodes/n1/logs").json["items"][0]["line"] == "still here"


# runners wanted on the tag, of nodes that nobody can call


CONFIG = {"reader": {"mode": "tailx", "log_path": "/var/log/*.log"}, "senders": [{"sender_type": "discard"}]}


def test_runners_come_through_the_node_where_it_cannot_be_called(on: Api) -> None:
    token = on.post("/nodes/tokens", json={}).json["token"]
    joined = on.post("/agent/join", address="10.1.2.3", json={"token": token, "name": "n1", "instance": "i", "profile": {}}).json
    bearer = {"Authorization": f"Bearer {joined['node_id']}.{joined['secret']}"}
    fleet = Fleet()
    labels = joined["logs"]["labels"]
    fleet.register(json.dumps({"url": joined["logs"]["address"], "tag": "nodes", "labels": labels}).encode())
    fleet.close()
    [agent] = on.get("/log-agents").json["items"]
    assert agent["labels"] == {"node": "n1", "cloud": "agents", "node_id": str(joined["node_id"])} and agent["jobs"] == []
    runner = on.post("/runners", json={"name": "web", "tag": "nodes", "config": CONFIG}).json
    told = on.post("/agent/logs/state", json={"runners": {}}, headers=bearer).json["logs"]
    digest = told["runners"]["web"]["hash"]
    assert told["runners"]["web"]["config"] == CONFIG and digest and "cloudsched-jobs" in told["runners"]

    def say(**said: Any) -> Any:
        on.post("/agent/logs/state", json={"runners": {"web": said}}, headers=bearer)
        return on.get(f"/runners/{runner['id']}/targets").json["items"][0]

    assert say(hash="of before", state="applied")["state"] == "pending"
    failed = say(hash=digest, state="failed", reason="no such folder")
    assert (failed["state"], failed["reason"]) == ("failed", "no such folder")
    assert say(hash=digest, state="applied")["state"] == "applied"
    on("DELETE", f"/runners/{runner['id']}")
    told = on.post("/agent/logs/state", json={"runners": {"web": {"hash": digest}}}, headers=bearer).json["logs"]
    assert "web" not in told["runners"] and on.get(f"/runners/{runner['id']}/targets").json["items"]
    on.post("/agent/logs/state", json={"runners": {}}, headers=bearer)
    assert on.get(f"/runners/{runner['id']}/targets").json["items"] == []
    for body in (b"{", b"[]", b'{"runners":1}', b'{"runners":{"a":{"state":1}}}'):
        assert on.post("/agent/logs/state", data=body, headers=bearer).status_code == 400


def test_a_node_that_can_be_called_leaves_them_to_the_master(on: Api) -> None:
    _, secret = on.node("n1")
    on.post("/runners", json={"name": "cloudsched-jobs", "tag": "nodes", "config": CONFIG})
    told = on.post("/agent/logs/state", json={}, headers={"Authorization": f"Bearer {secret}"}).json["logs"]
    assert told["runners"] == {} and told["leave"] == ["cloudsched-jobs"], "operators may send it elsewhere"


def test_labels_of_a_node_gone_are_gone_with_it(on: Api) -> None:
    from cloudsched.store import logagents

    number, _ = on.node("n1")
    fleet = Fleet()
    beat = {"url": "http://127.0.0.1:1", "tag": "nodes", "labels": {"node_id": str(number), "node": "n1"}}
    fleet.register(json.dumps(beat).encode())
    fleet.register(json.dumps({**beat, "labels": {**beat["labels"], "cloud": "c"}}).encode())
    fleet.register(json.dumps({"url": "http://127.0.0.1:2", "tag": "other", "labels": "nonsense"}).encode())
    fleet.close()
    assert [one["labels"].get("cloud") for one in on.get("/log-agents").json["items"]] == ["c", None]
    assert logagents.of_ended_nodes(clock.now() + 60) == []
    write(lambda tx: tx.run("UPDATE node SET state = 'gone' WHERE id = ?", (number,)))
    assert len(logagents.of_ended_nodes(clock.now() + 60)) == 1 and logagents.of_ended_nodes(0) == []


# the end of a machine


def test_a_machine_is_left_to_deliver_its_last_words(on: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    on.post("/clouds", json={"name": "c", "kind": "Fake", "slots": 9}, query_string={"verify": 0})
    token = on.post("/nodes/tokens", json={"cloud": "c", "ttl_s": 1e6}).json["token"]

    def machine(name: str) -> tuple[int, str]:
        joined = on.post("/agent/join", json={"token": token, "name": name, "instance": "i", "profile": {}}).json
        return joined["node_id"], f"{joined['node_id']}.{joined['secret']}"

    def stopped(number: int) -> float:
        write(lambda tx: lifecycle.stop(tx, number, at=time.now(), actor="me", reason="over"))
        node = node_rows.get(number)
        assert node is not None and node.state == "stopping"
        return node.lease_until - time.now()

    talks, bearer = machine("talks")
    time.advance(1)
    deliver(on, bearer, ndjson(line("x")))
    assert stopped(talks) == 10 and not boots.has_due(read(), "destroy", time.now())
    said = on.post("/agent/logs?final=1", headers={"Authorization": f"Bearer {bearer}"})
    assert said.json == {"flushed": True} and boots.has_due(read(), "destroy", time.now())
    assert deliver(on, bearer, ndjson(line("late", offset=2))).json["kept"] == 1, "late words are still taken"
    silent, _ = machine("silent")
    time.advance(1000)
    assert stopped(silent) < 0, "nobody is there to be waited for"
    drained, bearer = machine("drained")
    time.advance(1)
    deliver(on, bearer, ndjson(line("x")))
    on.post("/agent/logs?final=1", headers={"Authorization": f"Bearer {bearer}"})
    time.advance(1)
    assert stopped(drained) < 0, "it has said goodbye already"


def test_nothing_is_waited_for_when_it_is_off(api: Api) -> None:
    number, _ = api.node("n1")
    assert nodelogs.wait_until(read(), number, clock.now()) == 0.0
