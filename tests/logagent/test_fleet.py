"""Do simulated agents answer as the contract says, and register as fast as a bench needs?"""

from __future__ import annotations

import http.client
import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cloudsched.testing.logfleet import Behaviour, LogFleet, SimulatedAgent


class Master:
    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        master = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                value = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                master.tags[value["url"]] = value["tag"]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@pytest.fixture
def master():
    found = Master()
    yield found
    found.server.shutdown()
    found.server.server_close()


def call(agent: SimulatedAgent, method: str, path: str, body: Any = None, *, limit_s: float = 30.0) -> tuple[int, Any]:
    host, _, prefix = agent.url[len("http://"):].partition("/")
    connection = http.client.HTTPConnection(host, timeout=limit_s)
    try:
        connection.request(method, ("/" + prefix if prefix else "") + path, body=None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.mark.parametrize("by_path", [False, True])
def test_a_fleet_registers_and_answers(master: Master, by_path: bool) -> None:
    with LogFleet(30, [master.url], by_path=by_path) as fleet:
        done = fleet.register_all(concurrency=4, keep_alive=not by_path)
        assert (done.accepted, done.refused, len(master.tags)) == (30, 0, 30)
        assert len(fleet.of_tag("second")) == 10
        agent = fleet.agents[17]
        config = {"senders": [{"sender_type": "discard"}]}
        steps = [("POST", "", 200), ("POST", "", 400), ("PUT", "", 200), ("POST", "/start", 400), ("POST", "/stop", 200),
                 ("POST", "/stop", 400), ("POST", "/reset", 200), ("GET", "", 200), ("DELETE", "", 200), ("DELETE", "", 400)]
        for method, verb, status in steps:
            assert call(agent, method, "/logkit/configs/r%201" + verb, config)[0] == status, (method, verb)
        assert call(agent, "GET", "/logkit/status") == (200, {"code": "L200", "data": {}})
        assert call(agent, "GET", "/logkit/nothing")[0] == 404


def test_a_tag_is_registered_before_the_answer(master: Master) -> None:
    with LogFleet(2, [master.url]) as fleet:
        fleet.register_all()
        assert call(fleet.agents[0], "POST", "/logkit/cluster/tag", {"tag": "new"})[0] == 200
        assert master.tags[fleet.agents[0].url] == fleet.agents[0].tag == "new"


def test_agents_that_misbehave(master: Master) -> None:
    with LogFleet(1, [master.url]) as fleet:
        (agent,) = fleet.agents
        expected: dict[str, Any] = {"half": http.client.IncompleteRead, "garbage": ValueError, "hang": socket.timeout}
        for mode, error in expected.items():
            agent.behaviour = Behaviour(mode)
            with pytest.raises(error):
                call(agent, "GET", "/logkit/status", limit_s=0.5 if mode == "hang" else 30.0)
        agent.behaviour = Behaviour("error", delay_s=0.01)
        assert call(agent, "GET", "/logkit/status")[0] == 500


def test_a_fleet_without_a_master_says_so() -> None:
    with LogFleet(3, ["http://127.0.0.1:1"]) as fleet:
        assert fleet.register_all().refused == 3


def test_heartbeats(master: Master) -> None:
    with LogFleet(5, [master.url]) as fleet:
        fleet.beat(0.05)
        for _ in range(3000):
            if len(master.tags) == 5:
                break
            threading.Event().wait(0.01)
        assert len(master.tags) == 5
