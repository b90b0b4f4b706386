"""Do short requests get through, however their bytes come in? On connections that stay open, against the real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance

pytestmark = pytest.mark.e2e
JOB = b'{"kind":"noop","hold":true,"name":"short"}'


class Line:
    """A connection on which requests are written by hand. Its first request has been answered: the others may be short ones."""

    def __init__(self, house: Instance) -> None:
        self.sock = socket.create_connection(("127.0.0.1", house.native), timeout=40)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.rest = b""
        self.closes = False
        self.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert self.answer()[0] == 200

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        while b"\r\n\r\n" not in self.rest:
            self._more()
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        self.closes = b"connection: close" in lines
        length = next(int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:"))
        while len(self.rest) < length:
            self._more()
        body, self.rest = self.rest[:length], self.rest[length:]
        return int(head.split(b" ")[1]), body

    def _more(self) -> None:
        found = self.sock.recv(65536)
        assert found, "the server hung up"
        self.rest += found

    def close(self) -> None:
        self.sock.close()


def asked(body: bytes = JOB, *, more: bytes = b"") -> bytes:
    return b"POST /api/v2/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n%sContent-Length: %d\r\n\r\n%s" % (more, len(body), body)


@pytest.fixture
def line(house: Instance) -> Iterator[Line]:
    with closing(Line(house)) as made:
        yield made
    for job in house.api("GET", "/jobs", state="held", limit=1000)["items"]:
        house.api("POST", f"/jobs/{job['id']}/cancel")


def _made(line: Line) -> int:
    status, body = line.answer()
    assert status == 201, body
    return int(json.loads(body)["id"])


def test_one_after_the_other(line: Line) -> None:
    found = []
    for _ in range(5):
        line.send(asked())
        found.append(_made(line))
    assert found == sorted(set(found))


def test_head_and_body_apart(line: Line) -> None:
    for cut in (len(asked()) - len(JOB), len(asked()) - 1, 40):
        line.send(asked()[:cut])
        time.sleep(0.05)
        line.send(asked()[cut:])
        assert _made(line)


def test_a_long_body_then_a_short_one_and_another_kind(line: Line) -> None:
    """What was waited for does not hold up what comes next."""
    head = len(asked()) - len(JOB)
    for _ in range(2):
        line.send(asked()[:head])
        time.sleep(0.05)
        line.send(JOB)
        assert _made(line)
        line.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert line.answer()[0] == 200
        line.send(asked(b"{}"))
        assert line.answer()[0] == 400


def test_two_at_once_on_one_connection(line: Line) -> None:
    line.send(asked() + asked() + b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + asked())
    first, second = _made(line), _made(line)
    assert line.answer()[0] == 200
    assert first < second < _made(line)


def test_refusals_and_unusual_requests(line: Line) -> None:
    line.send(asked(b"{"))
    assert line.answer()[0] == 400
    line.send(asked(more=b"Content-Type: text/plain\r\n"))
    assert line.answer()[0] == 415
    line.send(asked(more=b"X-API-Key: csk_nobody_nothing\r\n"))
    assert line.answer()[0] == 401
    head = b"POST /api/v2/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    line.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(JOB), JOB))
    assert _made(line)
    line.send(asked(more=b"Connection: close\r\n"))
    assert _made(line)
    assert line.sock.recv(1) == b""


def test_a_body_that_never_ends(line: Line, house: Instance) -> None:
    """Its connection is closed by the client: nothing was made, and the server goes on."""
    before = house.api("GET", "/jobs", state="held", limit=1000)["items"]
    line.send(asked()[:-5])
    time.sleep(0.1)
    line.sock.shutdown(socket.SHUT_WR)
    assert line.sock.recv(1 << 16)[:12] in (b"", b"HTTP/1.1 400")
    assert house.api("GET", "/jobs", state="held", limit=1000)["items"] == before


def test_many_connections_at_once(house: Instance, line: Line) -> None:
    found: list[int] = []

    def work() -> None:
        with closing(Line(house)) as own:
            for _ in range(20):
                own.send(asked())
                found.append(_made(own))

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 320


DEEP = b'{"want":0,"x":' + b"[" * 5000


def test_nothing_that_a_request_brings_ends_the_server(line: Line, house: Instance) -> None:
    before = house.processes["serve"].pid, _workers(house)
    for body in (DEEP, b'{"want":0}', b"{", b'{"want":"\xff"}'):
        line.send(b"POST /api/v2/agent/sync HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer 1.abc\r\n"
                  b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        assert 400 <= line.answer()[0] < 500
    line.send(asked(more=b"X-A:" + b" " * 1900 + b"\xe9\r\n"))
    assert 200 <= line.answer()[0] < 500
    assert (house.processes["serve"].pid, _workers(house)) == before


def _workers(house: Instance) -> list[str]:
    pid = house.processes["serve"].pid
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_a_stop_leaves_no_request_without_an_answer(new_instance: Any) -> None:
    """Clients that are told that the connection stays may use it: what they send then is answered, and says that it ends."""
    instance: Instance = new_instance()
    instance.start_all()
    unanswered, made, told = [], [], []
    begun = threading.Barrier(9)

    def work() -> None:
        with closing(Line(instance)) as own:
            begun.wait()
            while True:
                own.send(asked())
                try:
                    made.append(_made(own))
                except (OSError, AssertionError) as error:
                    unanswered.append(error)
                    return
                if own.closes:
                    told.append(True)
                    return

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.5)
    instance.processes["serve"].popen.terminate()
    for thread in threads:
        thread.join()
    assert not unanswered and len(told) == 8
    instance.processes["serve"].popen.wait(timeout=60)
    instance.start("serve")
    instance.wait_ready()
    assert {job["id"] for job in _all_held(instance)} == set(made)


def _all_held(instance: Instance) -> list[dict[str, Any]]:
    found, page = [], instance.api("GET", "/jobs", state="held", limit=1000)
    while True:
        found += page["items"]
        if page["next"] is None:
            return found
        page = instance.api("GET", "/jobs", state="held", limit=1000, cursor=page["next"])
