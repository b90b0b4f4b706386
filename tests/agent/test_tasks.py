"""Do tasks do what the contract says, and nothing that the owner of the device did not allow?"""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.agent import expressions, fetching
from cloudsched.agent.policies import Policies
from cloudsched.testing.fakeserver import FakeServer
from tests.agent.conftest import Start

# expressions


@pytest.mark.parametrize(("text", "value"), [
    ("2 ** 64", 2**64), ("sum(range(1000000))", 499999500000), ("'profile'", "profile"), ("[1, *range(3)]", [1, 0, 1, 2]),
    ("1 if 2 > 1 else 0", 1), ("sorted([3, 1], reverse=True)", [3, 1]), ("{'a': (1, 2)}", {"a": (1, 2)}), ("not 0", True),
    ("1 < 2 < 3 and 2 in [2]", True), ("round(2.567, ndigits=1)", 2.6), ("0 or 'x'", "x"), ("1 and 0", 0), ("max(1, 2) * 3", 6),
    ("pow(2, 10, 1000)", 24), ("-2 + +3", 1), ("str(12) + 'a'", "12a"), ("{1, 1}", {1}), ("int('7') // 2", 3),
])  # fmt: skip
def test_expressions_that_are_allowed(text: str, value: Any) -> None:
    assert expressions.evaluate(text) == value


@pytest.mark.parametrize("text", [
    "(1).__class__", "__import__('os')", "open('/etc/passwd')", "9**9**9", "'a' * 10**9", "[0] * 10**9", "lambda: 1",
    "[x for x in range(3)]", "'%s' % 1", "f'{1}'", "x", "().__class__.__bases__", "print(1)", "1; 2", "import os",
    "range(10**12)",
    "1 << 10**9", "sorted(range(10**9))", "(" * 400 + ")" * 400, "eval('1')", "min(*[1], key=abs)", "2**100000 * 2**100000",
    "a := 1", "x.y", "[1][0]", "str(7 ** 20000)", "1" * 1001,
])  # fmt: skip
def test_expressions_that_are_refused(text: str) -> None:
    with pytest.raises(expressions.NotAllowed):
        expressions.evaluate(text)


@given(st.text(alphabet="0123456789+-*/%()[]{}<>=!&|^~.,:'\" absmintrueflo_", max_size=60))
def test_no_text_breaks_out_of_the_evaluator(text: str) -> None:
    try:
        expressions.evaluate(text)
    except (ArithmeticError, TypeError, ValueError, LookupError):
        pass


# http_request


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
            return
        body = b"x" * 2_000_000 if self.path == "/big" else json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("url", [
    "http://127.0.0.1:1/", "http://localhost:1/", "http://[::1]:1/", "http://169.254.169.254/latest", "http://10.0.0.1/",
    "http://0.0.0.0/", "http://2130706433/", "http://[::ffff:127.0.0.1]/", "file:///etc/passwd", "ftp://example.org/", "http://",
    "http://u:p@example.org/", "gopher://x/", "http://[64:ff9b::7f00:1]/", "http://a b/", "http://x:99999/",
])  # fmt: skip
def test_addresses_that_are_not_reached(url: str) -> None:
    with pytest.raises(fetching.Refused):
        fetching.fetch({"url": url}, allow_private=False)


def test_a_request_that_is_allowed(page: str) -> None:
    found = fetching.fetch({"url": page + "/a", "headers": {"X-A": "1", "Host": "lie"}}, allow_private=True)
    seen = json.loads(found["content"])
    assert (found["status_code"], found["url"], seen["X-A"]) == (200, page + "/a", "1")
    assert seen["Host"] == page[7:]
    posted = fetching.fetch({"url": page, "method": "post", "data": {"b": 2}}, allow_private=True)
    assert (posted["status_code"], json.loads(posted["content"])) == (201, {"b": 2})
    big = fetching.fetch({"url": page + "/big"}, allow_private=True)
    assert big["truncated"] is True
    assert len(big["content"]) == fetching.MAX_BYTES
    with pytest.raises(fetching.Refused, match="redirects"):
        fetching.fetch({"url": page + "/loop"}, allow_private=True)
    with pytest.raises(fetching.Refused, match="headers"):
        fetching.fetch({"url": page, "headers": {"X": "a\r\nB: c"}}, allow_private=True)


# policies


def test_battery_with_two_thresholds() -> None:
    rules = Policies(battery_min=20, battery_resume=40)
    levels = [(50, False), (20, False), (19, False), (30, False), (39, False), (40, False), (25, False)]
    told = [bool(rules.look({"battery_percent": level, "battery_charging": charging})) for level, charging in levels]
    assert told == [False, False, True, True, True, False, False]
    assert rules.look({"battery_percent": 5, "battery_charging": True}) == []
    assert rules.look({}) == []


def test_temperature_and_charging() -> None:
    rules = Policies(temperature_max=45, only_charging=True)
    charging = {"battery_percent": 90, "battery_charging": True}
    told = [rules.look({**charging, "temperature_max": value}) for value in (44, 46, 43, 41, 40)]
    assert [bool(reasons) for reasons in told] == [False, True, True, True, False]
    assert "goes on at 40" in told[1][0]
    assert rules.look({"battery_percent": 90, "battery_charging": False}) == ["not charging"]
    assert rules.look({"temperature_max": 20}) == []  # no battery: mains
    with pytest.raises(ValueError, match="better"):
        Policies(battery_min=50, battery_resume=20)


# with a real agent


def run(server: FakeServer, kind: str, payload: dict[str, Any], **spec: Any) -> dict[str, Any]:
    result = server.wait(server.submit(kind=kind, payload=payload, **spec))[0].result
    assert result is not None
    return result


def test_each_type(server: FakeServer, start: Start, page: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("#!/bin/sh\nread line\nprintf '{\"seen\": %s}' \"$line\"\n")
    own.chmod(0o755)
    start("--device-id", "d", "--allow", "python_eval", "--allow", "http_request", "--allow-private", "--program", "ls",
          "--program", "sh", "--handler", f"mine={own}")  # fmt: skip
    echo = run(server, "echo", {"message": "hi", "repeat": 2})
    assert (echo["state"], echo["result"]["data"]) == ("succeeded", {"echo": {"message": "hi", "repeat": 2}})
    info = run(server, "system_info", {})["result"]["data"]
    assert info["device_id"] == "d"
    assert info["cpu_count"] >= 1
    assert set(info["supported_task_types"]) == {"echo", "sleep", "system_info", "http_request", "python_eval", "command", "mine"}
    slept = run(server, "sleep", {"duration": 0.2})
    assert slept["result"]["data"] == {"slept_for": 0.2}
    assert slept["ran_s"] >= 0.2
    assert run(server, "python_eval", {"expression": "2 ** 10"})["result"]["data"] == {"result": 1024, "expression": "2 ** 10"}
    assert run(server, "python_eval", {"expression": "1 + 2j"})["result"]["data"]["result"] == "(1+2j)"
    got = run(server, "http_request", {"url": page})["result"]["data"]
    assert got["status_code"] == 200
    listed = run(server, "program", {"command": "sh -c 'echo out; echo err >&2; exit 3'"})
    assert listed["state"] == "failed"
    assert listed["result"]["data"] == {"return_code": 3, "stdout": "out\n", "stderr": "err\n",
                                        "command": "sh -c 'echo out; echo err >&2; exit 3'"}
    assert run(server, "mine", {"a": 1})["result"]["data"] == {"seen": {"payload": {"a": 1}, "checkpoint": None}}


@pytest.mark.parametrize(("kind", "payload", "said"), [
    ("echo", {"repeat": 0}, "repeat"), ("sleep", {"duration": -1}, "duration"), ("sleep", {"duration": 1e9}, "duration"),
    ("python_eval", {}, "No expression provided"), ("python_eval", {"expression": "open('x')"}, "can be called"),
    ("python_eval", {"expression": "1/0"}, "division"), ("http_request", {"url": "http://127.0.0.1:1"}, "does not allow"),
    ("program", {"command": "rm -rf /"}, "not among the programs"), ("program", {"command": "ls; rm x"}, "not among"),
    ("program", {"command": "'"}, "cannot be read"), ("program", {}, "missing"), ("command", None, "not enabled"),
    ("nothing", {}, "not enabled"),
])  # fmt: skip
def test_what_a_device_refuses(server: FakeServer, start: Start, kind: str, payload: Any, said: str) -> None:
    start("--device-id", "d", "--allow", "python_eval", "--allow", "http_request", "--program", "ls")
    spec = {"command": ["ls"]} if kind == "command" else {"payload": payload}
    result = server.wait(server.submit(kind=kind, **spec))[0].result
    assert result is not None
    assert result["state"] == "failed"
    assert said in ((result["result"] or {}).get("error") or result["reason"])


def test_a_time_limit_kills_and_progress_is_told(server: FakeServer, start: Start) -> None:
    agent = start("--device-id", "d", "--program", "sh", "--grace", "0.2")
    late = run(server, "program", {"command": "sh -c 'sleep 60'", "timeout": 0.5})
    assert (late["state"], late["result"]["error"]) == ("timeout", "time limit")
    half = run(server, "sleep", {"duration": 30.0}, checkpoint={"slept_s": 29.8}, time_limit_s=60)
    assert half["result"]["data"] == {"slept_for": 30.0}
    assert half["ran_s"] < 20
    until = time.monotonic() + 10
    while agent.job_processes() and time.monotonic() < until:
        time.sleep(0.05)
    assert agent.job_processes() == []


def test_refused_tasks_take_no_slot(server: FakeServer, start: Start) -> None:
    start("--device-id", "d", "--slots", "1", "--allow", "python_eval")
    bad = [server.submit(kind=kind, payload=payload) for kind, payload in [
        ("sleep", {"duration": -1}), ("echo", {"repeat": 0}), ("python_eval", {}), ("program", {"command": "ls"}), ("echo", {})]]
    assert [server.wait(number)[0].result["state"] for number in bad] == ["failed"] * 4 + ["succeeded"]  # type: ignore[index]
    assert run(server, "sleep", {"duration": 0.05})["state"] == "succeeded"
    assert run(server, "sleep", {"duration": 0.05})["state"] == "succeeded"
