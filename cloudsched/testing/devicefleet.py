"""What do ten thousand devices do to a server? Simulated devices in one process: they join, send heartbeats, run easy tasks.

Each speaks the agent protocol (docs/design/agent-protocol.md) over a connection of its own that is kept alive; their
heartbeats are spread evenly over the interval. One loop in the caller's thread does it all: `join_all`, then `run`.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import itertools
import json
import os
import random
import selectors
import socket
import sys
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

JOINING_AT_ONCE = 64
RETRY_S = 1.0
ANSWER_LIMIT_S = 60.0
SLOTS = 2
KINDS = ("echo", "sleep")
LATENCIES_KEPT = 200_000
READ_BYTES = 1 << 16
_PLACES = (
    ("android", "aarch64", "mobile", 8, 6.0), ("linux", "x86_64", "compute", 4, 8.0), ("darwin", "arm64", "worker", 8, 16.0),
)  # fmt: skip
Task = tuple[int, int]  # (job id, attempt)


@dataclass
class Device:
    """One simulated device and what it holds: tasks that sleep, results that were not acknowledged yet."""

    number: int
    name: str
    secret: str = ""
    node_id: int = 0
    wait_s: float = 0.0
    running: dict[Task, dict[str, Any]] = field(default_factory=dict)
    started: list[Task] = field(default_factory=list)
    done: list[dict[str, Any]] = field(default_factory=list)
    told: tuple[int, int] = (0, 0)  # of `done` and `started`: how many the call in flight carries
    connection: _Connection | None = None
    waiting: bool = False  # for a place among the calls in flight
    ended: bool = False
    sent_bytes: int = 0
    due: float = 0.0

    def profile(self, kinds: tuple[str, ...]) -> dict[str, Any]:
        """What it says of itself when it joins: a phone, a small server, or a laptop."""
        platform, machine, role, cores, memory_gb = _PLACES[self.number % len(_PLACES)]
        return {
            "device_id": self.name, "hostname": self.name, "role": role, "platform": platform, "cores": cores, "cpu_count": cores,
            "memory_mb": int(memory_gb * 1024), "memory_total_gb": memory_gb, "storage_gb": 64, "storage_total_gb": 64.0,
            "has_gpu": False, "internet": True, "max_concurrent_tasks": SLOTS, "kinds": list(kinds),
            "platform_details": {"machine": machine, "python_version": "3.11.0", "is_android": platform == "android"},
        }

    def metrics(self) -> dict[str, Any]:
        """A sample that moves a little with each heartbeat."""
        self.sent_bytes += 2000 + self.number % 500
        swing = (self.sent_bytes // 2000) % 20
        return {
            "cpu_usage": 5.0 + self.number % 40 + swing, "memory_usage": 30.0 + swing, "storage_usage": 41.5,
            "battery_percent": 80 - swing, "battery_charging": self.number % 2 == 0, "network_bytes_sent": self.sent_bytes,
            "network_bytes_recv": 3 * self.sent_bytes, "running_tasks": len(self.running),
        }


class DeviceFleet:
    """`DeviceFleet(1000, url)`: `join_all()` makes them known, `run(seconds)` sends heartbeats.

    `heartbeat_s` 0: each asks again as soon as it is answered. `in_flight`: at most so many calls at once (0: any number).
    `tasks`: echo and sleep tasks are taken and answered; `wait_s`: how long a call may be held for one. `counts`: `joined`,
    `beats` (answered with 200), `tasks`, `refused`, `dropped`, `failed` (no or a wrong answer), `status NNN`.
    """

    def __init__(self, count: int, server: str, *, token: str = "", heartbeat_s: float = 10.0, tasks: bool = False,
                 wait_s: float = 0.0, in_flight: int = 0, prefix: str = "sim") -> None:  # fmt: skip
        parts = urlsplit(server if "//" in server else f"http://{server}")
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._token, self.heartbeat_s, self._wait_s, self._limit = token, heartbeat_s, wait_s, in_flight
        self._kinds = KINDS if tasks else ()
        self.devices = [Device(number, f"{prefix}-{number:05d}") for number in range(count)]
        self.counts: Counter[str] = Counter()
        self.latencies_s: deque[float] = deque(maxlen=LATENCIES_KEPT)
        self._poller = selectors.DefaultSelector()
        self._due: list[tuple[float, int, Device]] = []
        self._order = itertools.count()
        self._queue: deque[Device] = deque()
        self._in_flight = 0

    def join_all(self, *, limit_s: float = 300.0) -> float:
        """Join those that have not joined; returns the seconds it took. Refused ones have ended. Raises TimeoutError."""
        began = time.monotonic()
        limit, self._limit = self._limit, JOINING_AT_ONCE
        missing = [device for device in self.devices if not device.secret]
        for device in missing:
            self._at(began, device)
        while any(not device.secret and not device.ended for device in missing):
            if time.monotonic() - began > limit_s:
                raise TimeoutError(f"{self.counts['joined']} of {len(missing)} devices have joined: {dict(self.counts)}")
            self._step(time.monotonic() + 0.5, beat=False)
        self._limit = limit
        return time.monotonic() - began

    def run(self, seconds: float) -> None:
        """Heartbeats for so long, spread evenly over the interval from the first."""
        self.begin()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._step(until)

    def begin(self) -> None:
        """Give every device the time of its next heartbeat."""
        now, self._due = time.monotonic(), []
        for device in self.devices:
            share = device.number / len(self.devices)
            if not device.ended and not (device.connection is not None and device.connection.busy):
                self._at(now + self.heartbeat_s * share, device)

    def latency_s(self, share: float) -> float:
        """Quantile of the times between a heartbeat and its answer."""
        found = sorted(self.latencies_s)
        return found[min(len(found) - 1, int(share * len(found)))] if found else 0.0

    def close(self) -> None:
        """Close all connections."""
        for device in self.devices:
            if device.connection is not None:
                self._close(device)
        self._poller.close()

    def __enter__(self) -> DeviceFleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # the loop

    def _at(self, when: float, device: Device) -> None:
        heapq.heappush(self._due, (when, next(self._order), device))

    def _step(self, until: float, *, beat: bool = True) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            due, _, device = heapq.heappop(self._due)
            if not device.ended and not device.waiting and (beat or not device.secret):
                device.waiting, device.due = True, due
                self._queue.append(device)
        while self._queue and (not self._limit or self._in_flight < self._limit):
            device = self._queue.popleft()
            device.waiting = False
            self._call(device)
        next_at = min(until, self._due[0][0] if self._due else until)
        for key, events in self._poller.select(max(0.0, min(next_at - time.monotonic(), 1.0))):
            self._ready(key.data, events)

    def _call(self, device: Device) -> None:
        """Send what is next: a join or a heartbeat."""
        connection = device.connection
        if connection is not None and connection.busy:  # an answer that never came, or a beat while one is held
            if time.monotonic() - connection.began < ANSWER_LIMIT_S:
                return
            self._lost(device)
            return
        path, body = self._join_body(device) if not device.secret else self._sync_body(device)
        bearer = f"Authorization: Bearer {device.node_id}.{device.secret}\r\n" if device.secret else ""
        request = (f"POST /api/v2/agent/{path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
                   f"{bearer}Content-Length: {len(body)}\r\n\r\n").encode() + body  # fmt: skip
        self._in_flight += 1
        try:
            if connection is None:
                connection = device.connection = _Connection((self._host, self._port))
                self._poller.register(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, device)
            connection.begin(request)
            if connection.open:
                self._write(device, connection)
        except OSError:
            self._lost(device)

    def _ready(self, device: Device, events: int) -> None:
        connection = device.connection
        if connection is None:
            return
        try:
            if events & selectors.EVENT_WRITE:
                self._write(device, connection)
            if events & selectors.EVENT_READ:
                found = connection.read()
                if found is not None:
                    self._answered(device, connection, *found)
        except (OSError, ValueError):
            self._lost(device)

    def _write(self, device: Device, connection: _Connection) -> None:
        if connection.write():
            self._poller.modify(connection.sock, selectors.EVENT_READ, device)
        else:
            self._poller.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, device)

    def _lost(self, device: Device) -> None:
        """The connection is gone. One that was idle is closed by a server now and then; a call without an answer is repeated."""
        busy = device.connection is not None and device.connection.busy
        self._close(device)
        if busy:
            self._in_flight -= 1
            self.counts["failed"] += 1
            self._at(time.monotonic() + RETRY_S * random.uniform(0.5, 1.5), device)  # noqa: S311 - no secret

    def _close(self, device: Device) -> None:
        connection, device.connection = device.connection, None
        if connection is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._poller.unregister(connection.sock)
            connection.sock.close()

    def _answered(self, device: Device, connection: _Connection, status: int, body: bytes, keep: bool) -> None:
        self._in_flight -= 1
        joining = not device.secret
        if not keep:
            self._close(device)
        now = time.monotonic()
        handler = self._joined if joining and status == 201 else self._synced if not joining and status == 200 else None
        if handler is None:
            self._refused(device, status)
            return
        if not joining:
            self.latencies_s.append(now - connection.began)
        handler(device, json.loads(body), now)

    def _refused(self, device: Device, status: int) -> None:
        self.counts[f"status {status}"] += 1
        if status in (409, 410) or (not device.secret and status in (400, 401, 403)):
            device.ended = True
            return
        if status == 401:
            device.secret = ""
        self._at(time.monotonic() + RETRY_S, device)

    # what is said

    def _join_body(self, device: Device) -> tuple[str, bytes]:
        said = {"profile": device.profile(self._kinds or ("echo",)), "token": self._token, "instance": device.name}
        return "join", json.dumps(said).encode()

    def _joined(self, device: Device, answer: dict[str, Any], now: float) -> None:
        device.node_id, device.secret = answer["node_id"], answer["secret"]
        self.counts["joined"] += 1
        self._at(now + self.heartbeat_s, device)

    def _sync_body(self, device: Device) -> tuple[str, bytes]:
        self._wake(device)
        holding = [list(task) for task in device.running]
        said: dict[str, Any] = {"want": 0, "holding": holding, "instance": device.name, "metrics": device.metrics()}
        if self._kinds:
            said["want"] = SLOTS - len(holding)
            said["wait_s"] = self._wait_s
        if device.started:
            said["started"] = [[*task, 0.0] for task in device.started]
        if device.done:
            said["done"] = device.done
        device.told = len(device.done), len(device.started)
        return "sync", json.dumps(said).encode()

    def _synced(self, device: Device, answer: dict[str, Any], now: float) -> None:
        self.counts["beats"] += 1
        self.counts["tasks"] += device.told[0]
        self.counts["refused"] += len(answer["refused"])
        del device.done[: device.told[0]], device.started[: device.told[1]]
        for number, attempt in answer["drop"]:
            self.counts["dropped"] += 1
            device.running.pop((number, attempt), None)
        if answer["goal"] == "stop":
            device.ended = True
            return
        for job in answer["jobs"]:
            self._take(device, job, now)
        again = device.done or device.started or (self._kinds and self._wait_s)
        self._at(now if again else max(now, device.due + self.heartbeat_s), device)

    def _take(self, device: Device, job: dict[str, Any], now: float) -> None:
        """An echo is done at once; a sleep is looked at again when it is over."""
        task, spec = (job["id"], job["attempt"]), job["spec"]
        payload = spec.get("payload") or {}
        device.started.append(task)
        if spec["kind"] != "sleep":
            device.done.append(_result(task, {"echo": payload}, 0.0))
            return
        seconds = float(payload.get("duration", payload.get("seconds", 1.0)) or 0.0)
        device.running[task] = {"until": now + seconds, "seconds": seconds}
        self._at(now + seconds, device)

    def _wake(self, device: Device) -> None:
        now = time.monotonic()
        for task, sleep in list(device.running.items()):
            if sleep["until"] <= now:
                del device.running[task]
                device.done.append(_result(task, {"slept_for": sleep["seconds"]}, sleep["seconds"]))


def _result(task: Task, data: dict[str, Any], ran_s: float) -> dict[str, Any]:
    return {"id": task[0], "attempt": task[1], "state": "succeeded", "exit_code": 0, "ran_s": ran_s, "result": {"data": data}}


class _Connection:
    """A connection that never blocks: one request, one answer."""

    def __init__(self, address: tuple[str, int]) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)
        self.open = self.busy = False
        self.began = time.monotonic()
        self._out = self._in = b""

    def begin(self, request: bytes) -> None:
        self._out, self.busy, self.began = request, True, time.monotonic()

    def write(self) -> bool:
        """Is all sent? Raises OSError, also when the connection was refused."""
        self.open = True
        try:
            self._out = self._out[self.sock.send(self._out) :] if self._out else b""
        except BlockingIOError:
            return False
        return not self._out

    def read(self) -> tuple[int, bytes, bool] | None:
        """(status, body, does it stay open) when the answer is whole. Raises OSError, ValueError when it is none."""
        try:
            data = self.sock.recv(READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            raise ConnectionResetError("closed by the server")
        self._in += data
        head, found, rest = self._in.partition(b"\r\n\r\n")
        if not found:
            return None
        lower = head.lower()
        length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(rest) < length:
            return None
        self._in, self.busy = b"", False
        return int(head[9:12]), rest[:length], b"connection: close" not in lower


def main(argv: list[str] | None = None) -> int:
    """`python -m cloudsched.testing.devicefleet --server URL`: join a fleet, keep it beating, say every 10 s what happened."""
    options = _parser().parse_args(argv)
    token = options.token or os.environ.get("CLOUDSCHED_AGENT_TOKEN", "")
    with DeviceFleet(options.count, options.server, token=token, heartbeat_s=options.heartbeat, tasks=options.tasks,
                     wait_s=options.wait, in_flight=options.in_flight, prefix=options.prefix) as fleet:  # fmt: skip
        took_s = fleet.join_all()
        _say(f"{fleet.counts['joined']} joined in {took_s:.1f} s")
        with contextlib.suppress(KeyboardInterrupt):
            _beat(fleet, options.seconds or float("inf"))
        _say(_summary(fleet, options.seconds))
    return 0 if not fleet.counts["failed"] and fleet.counts["joined"] >= options.count else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cloudsched simulate devices",
                                     description="Simulated devices for a Retire-Cluster server.")
    add = parser.add_argument
    add("--server", required=True, metavar="URL", help="its native or its Retire-Cluster port over HTTP")
    add("--count", type=int, default=1000, metavar="N", help="devices (default: 1000)")
    add("--heartbeat", type=float, default=10.0, metavar="S", help="seconds between two of a device; 0: no pause (default: 10)")
    add("--token", default="", help="join token; better in CLOUDSCHED_AGENT_TOKEN, where no process list shows it")
    add("--tasks", action="store_true", help="take echo and sleep tasks and answer them")
    add("--wait", type=float, default=0.0, metavar="S", help="with --tasks: how long a call may be held for one")
    add("--in-flight", type=int, default=0, metavar="N", help="at most so many calls at once")
    add("--prefix", default="sim", help="begin of the device ids")
    add("--seconds", type=float, default=0.0, metavar="S", help="end after so long (default: when interrupted)")
    return parser


def _beat(fleet: DeviceFleet, seconds: float, *, every_s: float = 10.0) -> None:
    fleet.begin()
    began = time.monotonic()
    next_at = began + every_s
    while time.monotonic() - began < seconds:
        fleet._step(min(next_at, began + seconds))
        if time.monotonic() >= next_at:
            next_at += every_s
            _say(_summary(fleet, time.monotonic() - began))


def _summary(fleet: DeviceFleet, seconds: float) -> str:
    counts = ", ".join(f"{value} {name}" for name, value in fleet.counts.items() if value)
    rate = fleet.counts["beats"] / seconds if seconds else 0.0
    return (f"{counts}; {rate:,.0f} beats/s; answered in {1000 * fleet.latency_s(0.5):.1f} ms (p50), "
            f"{1000 * fleet.latency_s(0.99):.1f} ms (p99)")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
