"""How fast is the master of log agents? Heartbeats, lists of 1,000 agents and a fan-out to them, beside bare references.

Over kept connections, one client process beside the server: 1. a gunicorn application that does nothing, 2. a bare Flask
route, 3. heartbeats of known agents, 4. the list of all agents; then one connection per heartbeat, as the original's agents do
it; then the time of `GET status` to AGENTS simulated agents that each take 0.5 s, beside a bare loop that asks the same.
Usage: python bench/logkit.py [AGENTS [SECONDS]]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from common import ROOT, free_offset, free_port, get, show, wait_for

AGENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else 3.0
CONNECTIONS, ROUNDS, ANSWER_S = 32, 3, 0.5
BARE = """
from flask import Flask, request
flask_app = Flask(__name__)

@flask_app.post("/x")
def route():
    request.get_data()
    return "null"

def app(environ, start_response):
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", "4")])
    return [b"null"]
"""


@contextlib.contextmanager
def gunicorn(name: str) -> Iterator[int]:
    """A bare application under the same server with the same threads."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "bare.py").write_text(textwrap.dedent(BARE))
        port = free_port()
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "gunicorn",
                "--chdir",
                folder,
                "-b",
                f"127.0.0.1:{port}",
                "-k",
                "gthread",
                "--threads",
                "64",
                "--keep-alive",
                "75",
                "--log-level",
                "warning",
                "--no-control-socket",
                f"bare:{name}",
            ]
        )
        try:
            wait_for(lambda: get(port, "/x")[0] != 0, 20)
            yield port
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def master() -> Iterator[int]:
    """`cloudsched serve` in a directory of its own; yields the logkit port."""
    folder, offset = tempfile.mkdtemp(prefix="cloudsched-bench-"), free_offset()
    command = [sys.executable, "-m", "cloudsched", "serve", "--state", folder, "--port-offset", str(offset)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: get(8090 + offset, "/logkit/cluster/ping")[0] == 200, 30)
        yield 8090 + offset
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(folder, ignore_errors=True)


def heartbeat(number: int) -> bytes:
    """The request of one agent."""
    body = b'{"url":"http://10.%d.%d.%d:1222","tag":"first"}' % (number >> 16, number >> 8 & 255, number & 255)
    return request(b"POST", b"/logkit/cluster/register", body)


def request(method: bytes, path: bytes, body: bytes = b"") -> bytes:
    head = b"%s %s HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (method, path, len(body)) + body


def rate(port: int, make: Callable[[int], bytes], *, seconds: float = SECONDS, most: int = 1 << 60) -> float:
    """Answers per second over kept connections, each with one request under way."""
    sockets = {}
    poll = select.epoll()
    for _ in range(CONNECTIONS):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(one, select.EPOLLIN)
        sockets[one.fileno()] = one
    space, left = memoryview(bytearray(1 << 20)), dict.fromkeys(sockets, -1)
    sent = done = 0
    began = time.perf_counter()
    for one in sockets.values():
        one.sendall(make(sent))
        sent += 1
    while done < most and time.perf_counter() - began < seconds:
        for number, _ in poll.poll(1.0):
            one = sockets[number]
            size = one.recv_into(space)
            if left[number] < 0:
                head, _, _ = bytes(space[: min(size, 1000)]).partition(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200"):
                    raise SystemExit(f"not answered: {head[:200]!r}")
                left[number] = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]) + len(head) + 4
            left[number] -= size
            if left[number] == 0:
                left[number] = -1
                done += 1
                one.sendall(make(sent))
                sent += 1
    took = time.perf_counter() - began
    for one in sockets.values():
        one.close()
    return done / took


def short_rate(port: int, seconds: float) -> float:
    """Heartbeats per second with a new connection each."""
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(heartbeat(done % AGENTS))
            one.recv(4096)
        done += 1
    return done / (time.perf_counter() - began)


def play_agents(count: int, pipe: object) -> None:
    """Simulated agents in a process of their own: one port each, an answer after ANSWER_S."""
    body = json.dumps({"code": "L200", "data": {"r1": {"name": "r1", "runningStatus": "running"}}}).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(ANSWER_S)
                writer.write(answer)

    async def run() -> None:
        servers = [await asyncio.start_server(serve, "127.0.0.1", 0, backlog=16) for _ in range(count)]
        pipe.send([server.sockets[0].getsockname()[1] for server in servers])  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    asyncio.run(run())


def ask_all(agents: list[int]) -> float:
    """Seconds until all of them have answered a program that does nothing else: what this machine gives at this moment."""
    asked = request(b"GET", b"/logkit/status")
    began, poll, open_ = time.perf_counter(), select.epoll(), {}
    for port in agents:
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(("127.0.0.1", port))
        poll.register(one, select.EPOLLOUT)
        open_[one.fileno()] = one
    while open_:
        for number, happened in poll.poll():
            if happened & select.EPOLLOUT:
                open_[number].send(asked)
                poll.modify(number, select.EPOLLIN)
            else:
                assert open_[number].recv(65536).startswith(b"HTTP/1.1 200")
                poll.unregister(number)
                open_.pop(number).close()
    poll.close()
    return time.perf_counter() - began


def fan_out(port: int, count: int) -> tuple[list[float], list[float]]:
    """Seconds of `GET status` to `count` agents, and of a bare program that asks them in turn with it."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=play_agents, args=(count, there), daemon=True)
    process.start()
    agents = here.recv()
    bodies = [request(b"POST", b"/logkit/cluster/register", b'{"url":"http://127.0.0.1:%d","tag":"sim"}' % one) for one in agents]
    while len(json.loads(get(port, "/logkit/cluster/slaves?tag=sim")[1])) < count:
        rate(port, lambda number: bodies[number % count], most=count + 2 * CONNECTIONS, seconds=60)
    times, bare = [], []
    for _ in range(ROUNDS):
        bare.append(ask_all(agents))
        began = time.perf_counter()
        status, raw = get(port, "/logkit/cluster/status?tag=sim")
        times.append(time.perf_counter() - began)
        found = json.loads(raw)
        assert status == 200 and len(found) == count, (status, len(found))
        assert all(entry["status"] for entry in found.values()), next(e for e in found.values() if not e["status"])
    process.terminate()
    process.join()
    return times, bare


def main() -> None:
    with gunicorn("app") as port:
        bare = [rate(port, lambda _: request(b"POST", b"/x", b'{"url":"u"}')) for _ in range(ROUNDS)]
    show("bare gunicorn application", bare, unit="1/s")
    reference = sorted(bare)[len(bare) // 2]
    with gunicorn("flask_app") as port:
        show(
            "bare Flask route",
            [rate(port, lambda _: request(b"POST", b"/x", b'{"url":"u"}')) for _ in range(ROUNDS)],
            unit="1/s",
            reference=reference,
        )
    with master() as port:
        first = rate(port, heartbeat, most=AGENTS, seconds=60)
        rate(port, lambda n: heartbeat(n % AGENTS), most=AGENTS + 2 * CONNECTIONS, seconds=60)
        show(f"first registrations of {AGENTS} agents (durable)", [first], unit="1/s", reference=reference)
        show("heartbeats", [rate(port, lambda n: heartbeat(n % AGENTS)) for _ in range(ROUNDS)], unit="1/s", reference=reference)
        show("heartbeats, a connection each", [short_rate(port, SECONDS) for _ in range(ROUNDS)], unit="1/s", reference=reference)
        asked = request(b"GET", b"/logkit/cluster/slaves?tag=first")
        show(f"lists of {AGENTS} agents", [rate(port, lambda _: asked) for _ in range(ROUNDS)], unit="1/s", reference=reference)
        times, bare = fan_out(port, AGENTS)
        show(f"{AGENTS} agents that take {ANSWER_S} s, asked by a bare loop", [1000 * one for one in bare], unit="ms")
        reference = 1000 * sorted(bare)[len(bare) // 2]
        show(f"status of {AGENTS} agents that take {ANSWER_S} s", [1000 * one for one in times], unit="ms", reference=reference)
        print(f"at most allowed: {1000 * (2 * ANSWER_S + 1):,.0f} ms; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
