"""A real server with few threads: hundreds of idle streams keep none of them, hear what happens, and end with the server."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from cloudsched.testing.instance import Instance

THREADS, STREAMS = 8, 200
PORT = 8081
pytestmark = pytest.mark.e2e


@pytest.fixture
def served() -> Iterator[Instance]:
    config = {"web": {"threads": THREADS, "long_poll_waiting_max": 2}, "retire_cluster": {"rate_limit": False}}
    with Instance(config=config) as instance:
        instance.start("serve")
        instance.wait_ready()
        yield instance


def opened(port: int, path: str) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=60)
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())
    return made


def read_until(sock: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


def test_idle_streams_starve_nobody(served: Instance) -> None:
    port = PORT + served.offset
    monitors = [opened(port, "/api/v1/monitor/stream?types=tasks") for _ in range(STREAMS)]
    events = [opened(served.native, "/api/v2/events?kind=job.") for _ in range(STREAMS)]
    for one in (*monitors, *events):
        read_until(one, b"retry: 2000")
    assert served.call("GET", "/health", port=port).status == 200
    made = served.call("POST", "/api/v1/tasks", {"task_type": "echo", "payload": {"message": "hi"}}, port=port)
    assert made.status == 201, made.text
    task = made.json["data"]["task_id"].encode()
    for one in monitors:
        assert b"event:" not in read_until(one, task + b'"')
    for one in events:
        read_until(one, b"job.submit")
    for one in (*monitors[1:], *events):
        one.close()
    deadline = time.monotonic() + 60
    while 'streams{kind="events"} 1\n' not in served.call("GET", "/metrics").text and time.monotonic() < deadline:
        time.sleep(0.05)
    assert 'streams{kind="events"} 1\n' in served.call("GET", "/metrics").text
    served.stop(check=False)
    left = b"".join(iter(lambda: monitors[0].recv(65536), b""))
    assert b"HTTP/1.1" not in left
    monitors[0].close()
    assert "Traceback" not in served.log_text()
