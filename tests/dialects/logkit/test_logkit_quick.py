"""Do quick answers say what the usual ones say, and leave everything else alone? And over a real socket?"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.clock import ManualClock
from cloudsched.dialects.logkit.quick import parse
from cloudsched.testing.instance import Instance

HEAD = b"POST /logkit/cluster/register HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%s\r\n"
LIST = b"GET /logkit/cluster/slaves%s HTTP/1.1\r\nHost: m\r\n\r\n"
BODY = b'{"url":"http://h:1","tag":"t"}'


def beat(more: bytes = b"", body: bytes = BODY) -> bytes:
    return HEAD % (len(body), more) + body


def test_a_known_heartbeat_is_taken(time_passes: ManualClock, master: Any) -> None:
    quick = master.app.quick
    assert quick(beat()) is None, "a new agent must be made durable first"
    assert master.register("http://h:1", "t")
    assert master.client.post("/logkit/cluster/register", data=BODY).status_code == 200
    time_passes.advance(0.1)
    taken, answer, keep = quick(beat() + b"GET / HTTP/1.1\r\n")
    assert taken == len(beat()) and keep and answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nnull")
    assert master.slaves()[0]["last_touch"].endswith("44.100Z")
    assert quick(beat(b"Connection: close\r\n"))[2] is False
    assert quick(beat(body=b'{"url":"http://h:1","tag":"u"}')) is None
    time_passes.advance(1)
    assert quick(beat()) is None, "now and then the database is looked at"


def test_the_list_is_the_same(make_master: Callable[..., Any], time_passes: ManualClock) -> None:
    master = make_master(**{"logkit.response_style": "envelope"})
    master.register("http://h:1", "t")
    assert master.app.quick(LIST % b"") is None
    for query in ("", "?tag=t", "?tag=nobody", "?url=h%3A1"):
        usual = master.client.get(f"/logkit/cluster/slaves{query}").data
        assert master.app.quick(LIST % query.encode())[1].endswith(b"\r\n\r\n" + usual)
    time_passes.advance(40)
    assert master.app.quick(LIST % b"") is None
    assert master.client.get("/logkit/cluster/slaves").json["data"][0]["status"] == "bad"


@pytest.mark.parametrize("raw", [
    b"", b"P", b"POST /logkit/cluster/register HTTP/1.1\r\n", beat()[:-1], beat(b"Transfer-Encoding: chunked\r\n"),
    beat(b"Content-Length: 3\r\n"), beat(b"X-Logkit-Style: envelope\r\n"), beat(b"Expect: 100-continue\r\n"),
    beat(b" folded: x\r\n"),
    beat(b"Bad Name: x\r\n"), beat(b"Upgrade: h2c\r\n"), beat(b"Connection: keep-alive, upgrade\r\n"), beat(b"A: \x00\r\n"),
    beat().replace(b"Host: m\r\n", b""), beat().replace(b"HTTP/1.1", b"HTTP/1.0"), beat().replace(b"\r\n", b"\n"),
    b"GET /logkit/cluster/slaves/ HTTP/1.1\r\nHost: m\r\n\r\n", b"GET /logkit/cluster/slavesx HTTP/1.1\r\nHost: m\r\n\r\n",
    LIST % b"?tag=%zz", LIST % b"?tag=%ff", LIST % b"?tag=\xff", LIST % b"?a b",
    b"GET /logkit/cluster/slaves HTTP/1.1\r\nHost: m\r\nContent-Length: 2\r\n\r\nab",
])  # fmt: skip
def test_everything_else_is_left_alone(master: Any, raw: bytes) -> None:
    master.register("http://h:1", "t")
    master.client.post("/logkit/cluster/register", data=BODY)
    master.client.get("/logkit/cluster/slaves")
    assert master.app.quick(raw) is None


def test_what_a_head_says() -> None:
    head = parse(b"GET /logkit/cluster/slaves?tag=a+b&url=h%3a1&tag=c HTTP/1.1\r\nhost:m\r\nAccept: */*\r\n\r\n")
    assert head is not None and (head.heartbeat, head.tag, head.url, head.keep) == (False, "a b", "h:1", True)


@pytest.mark.e2e
def test_over_real_connections() -> None:
    instance = Instance()
    instance.start("serve")
    stack = contextlib.ExitStack()
    try:
        instance.wait_ready()
        port = 8090 + instance.offset
        one = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)))
        for number in range(200):
            body = json.dumps({"url": f"http://h:{number % 20 + 1}", "tag": "t"})
            one.request("POST", "/logkit/cluster/register", body, {"Content-Type": "application/json"})
            answer = one.getresponse()
            assert (answer.status, answer.read()) == (200, b"null")
            if number % 10 == 0:
                one.request("GET", "/logkit/cluster/slaves?tag=t")
                assert len(json.loads(one.getresponse().read())) == min(number + 1, 20)
                one.request("GET", "/logkit/cluster/ping")
                assert one.getresponse().read() == b"null"
        for _ in range(30):
            two = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            two.request("POST", "/logkit/cluster/register", '{"url": "http://h:1", "tag": "t"}', {"Connection": "close"})
            assert two.getresponse().read() == b"null"
            two.close()
        one.request("POST", "/envelope/logkit/cluster/register", "nothing")
        answer = one.getresponse()
        assert answer.status == 400 and json.loads(answer.read())["code"] == "L2004"
    finally:
        stack.close()
        instance.stop()
