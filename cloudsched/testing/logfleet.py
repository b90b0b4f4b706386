"""What do a thousand log agents do to a master? Simulated agents in one process: they register and answer its calls.

Each has an address of its own (a port on 127.0.0.1, or with `by_path` a path on a common port, for ten thousand of them),
keeps the runner configurations it is given, and follows the operations of contract 7.1. A `Behaviour` makes one slow,
silent or a liar. Everything runs on one event loop in a thread of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

Answer = tuple[int, Any]
T = TypeVar("T")

NOT_FOUND: Answer = (404, {"message": "Not Found"})
MODES = ("ok", "error", "garbage", "redirect", "huge", "half", "hang", "refuse_tag")
HUGE_BYTES = 100 << 20
TIMEOUT_S = 10.0


@dataclass
class Behaviour:
    """How an agent answers. `delay_s` passes before any answer; `mode` is one of MODES."""

    mode: str = "ok"
    delay_s: float = 0.0


@dataclass
class SimulatedAgent:
    """One agent and what it was told. `calls` counts requests by `METHOD path`."""

    url: str
    tag: str
    behaviour: Behaviour = field(default_factory=Behaviour)
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)

    def answer(self, method: str, path: str, body: bytes) -> Answer:
        """Status and payload; None is success without data."""
        parts = path.split("/")[2:]
        self.calls[f"{method} {path}"] = self.calls.get(f"{method} {path}", 0) + 1
        if method == "GET":
            return self._read(parts)
        if parts[:1] == ["configs"] and len(parts) in (2, 3):
            return self._change(method, unquote(parts[1]), parts[2] if len(parts) == 3 else "", body)
        return NOT_FOUND

    def _read(self, parts: list[str]) -> Answer:
        if parts == ["status"]:
            return 200, {name: self._status(name, config) for name, config in self.configs.items()}
        if parts == ["configs"]:
            return 200, {f"/var/lib/logagent/{name}.conf": config for name, config in self.configs.items()}
        if parts == ["runners"]:
            return 200, list(self.configs)
        if parts == ["version"]:
            return 200, {"version": "simulated"}
        if len(parts) == 2 and parts[0] == "configs":
            config = self.configs.get(unquote(parts[1]))
            return (200, config) if config else refused("L1001", f"config {unquote(parts[1])} is not found")
        return NOT_FOUND

    def _status(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        return {"name": name, "logpath": config.get("reader", {}).get("log_path", ""), "readDataSize": 0, "readDataCount": 0,
                "elaspedtime": 1.0, "lag": {"size": 0, "sizeunit": "bytes", "ftlags": 0, "total": 0},
                "runningStatus": "stopped" if config.get("is_stopped") else "running", "tag": self.tag, "url": self.url}

    def _change(self, method: str, name: str, verb: str, body: bytes) -> Answer:
        config = self.configs.get(name)
        operation = _OPERATIONS.get((method, verb))
        if operation is None:
            return NOT_FOUND
        return operation(self, name, config, body)

    def _add(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        if config is not None and not config.get("is_stopped"):
            return refused("L1002", f"file {name} runner is running")
        return self._store(name, body, "L1002")

    def _update(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        return self._store(name, body, "L1007") if config is not None else unknown("L1007", name)

    def _store(self, name: str, body: bytes, code: str) -> Answer:
        try:
            value = json.loads(body)
        except ValueError:
            value = None
        if not isinstance(value, dict) or not value.get("senders"):
            return refused(code, "senders must be an array of at least one object")
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.configs[name] = {**value, "name": name, "web_folder": True, "createtime": created}
        return 200, None

    def _delete(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        if self.configs.pop(name, None) is None:
            return unknown("L1003", name)
        return 200, None

    def _start(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        if config is None:
            return unknown("L1004", name)
        if not config.pop("is_stopped", False):
            return refused("L1004", f"runner {name} has already started")
        return 200, None

    def _stop(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        if config is None:
            return unknown("L1005", name)
        if config.get("is_stopped"):
            return refused("L1005", f"runner {name} has already stopped")
        config["is_stopped"] = True
        return 200, None

    def _reset(self, name: str, config: dict[str, Any] | None, body: bytes) -> Answer:
        if config is None:
            return unknown("L1006", name)
        config.pop("is_stopped", None)
        return 200, None


Operation = Callable[[SimulatedAgent, str, dict[str, Any] | None, bytes], Answer]
_OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", ""): SimulatedAgent._add, ("PUT", ""): SimulatedAgent._update, ("DELETE", ""): SimulatedAgent._delete,
    ("POST", "start"): SimulatedAgent._start, ("POST", "stop"): SimulatedAgent._stop, ("POST", "reset"): SimulatedAgent._reset,
}  # fmt: skip


def refused(code: str, text: str) -> Answer:
    return 400, {"code": code, "message": text}


def unknown(code: str, name: str) -> Answer:
    return refused(code, f"runner {name} not found")


@dataclass(frozen=True)
class Registered:
    """One round of registrations."""

    accepted: int
    refused: int
    elapsed_s: float

    def per_second(self) -> float:
        return self.accepted / self.elapsed_s if self.elapsed_s else 0.0


class LogFleet:
    """`with LogFleet(1000, [master_url]) as fleet:` starts to listen; `register_all` makes them known."""

    def __init__(self, count: int, masters: list[str], *, tags: tuple[str, ...] = ("first", "second", "third"),
                 by_path: bool = False, style: str = "envelope") -> None:  # fmt: skip
        self.masters = [master.rstrip("/") for master in masters]
        self.agents: list[SimulatedAgent] = []
        self._count, self._tags, self._by_path, self.style = count, tags, by_path, style
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log fleet", daemon=True)
        self._servers: list[asyncio.Server] = []
        self.transports: set[asyncio.Transport] = set()
        self._beating: asyncio.Task[None] | None = None

    def __enter__(self) -> LogFleet:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def register_all(self, *, concurrency: int = 64, keep_alive: bool = True) -> Registered:
        """Register every agent at every master, `concurrency` at a time. Real agents keep no connection alive."""
        return self._run(self._register_all(concurrency, keep_alive))

    def beat(self, interval_s: float = 15.0) -> None:
        """Heartbeats from now on, spread evenly over the interval."""
        async def begin() -> None:
            self._beating = asyncio.create_task(self._beat(interval_s))

        self._run(begin())

    def of_tag(self, tag: str) -> list[SimulatedAgent]:
        return [agent for agent in self.agents if agent.tag == tag]

    async def register(self, agent: SimulatedAgent, tag: str) -> bool:
        """At all masters at once; was it accepted by any?"""
        answers = await asyncio.gather(*(self._post(_Connection(master), agent, tag, False) for master in self.masters))
        return any(answers)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        common = 0
        for number in range(self._count):
            if not self._by_path or not self._servers:
                server = await self._loop.create_server(lambda number=number: _Protocol(self, number), "127.0.0.1", 0)  # type: ignore[misc]
                self._servers.append(server)
                common = server.sockets[0].getsockname()[1]
            url = f"http://127.0.0.1:{common}" + (f"/agents/{number}" if self._by_path else "")
            self.agents.append(SimulatedAgent(url, self._tags[number % len(self._tags)]))

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for transport in list(self.transports):
            transport.abort()
        await asyncio.sleep(0.01)  # closed transports say so in the next rounds of the loop

    async def _register_all(self, concurrency: int, keep_alive: bool) -> Registered:
        work = [(master, agent) for master in self.masters for agent in self.agents]
        work.reverse()
        began, accepted = time.monotonic(), 0

        async def worker() -> None:
            nonlocal accepted
            connections = {master: _Connection(master) for master in self.masters}
            while work:
                master, agent = work.pop()
                known = await self._post(connections[master], agent, agent.tag, keep_alive)
                accepted += known  # only now read: others counted while this one waited
            for connection in connections.values():
                connection.close()

        total = len(work)
        await asyncio.gather(*(worker() for _ in range(min(concurrency, total))))
        return Registered(accepted, total - accepted, time.monotonic() - began)

    async def _beat(self, interval_s: float) -> None:
        began, rounds = time.monotonic(), 0
        running: set[asyncio.Task[bool]] = set()
        while True:
            for number, agent in enumerate(self.agents):
                due = began + interval_s * (rounds + number / len(self.agents))
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                task = asyncio.create_task(self.register(agent, agent.tag))
                running.add(task)
                task.add_done_callback(running.discard)
            rounds += 1

    async def _post(self, connection: _Connection, agent: SimulatedAgent, tag: str, keep_alive: bool) -> bool:
        body = json.dumps({"url": agent.url, "tag": tag}).encode()
        try:
            return await asyncio.wait_for(connection.post("/logkit/cluster/register", body, keep_alive), TIMEOUT_S) == 200
        except BaseException as error:
            connection.close()
            if isinstance(error, (OSError, ValueError, asyncio.IncompleteReadError)):
                return False
            raise


class _Connection:
    """A client connection to one master."""

    def __init__(self, master: str) -> None:
        parts = urlsplit(master)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, path: str, body: bytes, keep_alive: bool) -> int:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        kept = "keep-alive" if keep_alive else "close"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nContent-Type: application/json\r\n"
                     f"Connection: {kept}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)  # fmt: skip
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0].strip()
        if not keep_alive or b"connection: close" in head or not length:
            self.close()
        else:
            await reader.readexactly(int(length))
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class _Protocol(asyncio.Protocol):
    """The server side of one connection; requests are answered in order."""

    def __init__(self, fleet: LogFleet, number: int) -> None:
        self._fleet, self._number = fleet, number
        self._buffer = b""
        self._busy: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._fleet.transports.add(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fleet.transports.discard(self._transport)
        if self._busy:
            self._busy.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        while self._busy is None and (request := self._request()):
            agent, method, path, body = request
            if agent.behaviour == _PLAIN and path != "/logkit/cluster/tag":
                self._write(*agent.answer(method, path, body))
            else:
                self._busy = asyncio.create_task(self._slowly(agent, method, path, body))

    def _request(self) -> tuple[SimulatedAgent, str, str, bytes] | None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < length:
            return None
        self._buffer = rest[length:]
        method, target = head.split(b" ", 2)[:2]
        path, number = target.decode("latin-1").partition("?")[0], self._number
        if path.startswith("/agents/"):
            text, _, path = path[len("/agents/") :].partition("/")
            number, path = int(text), "/" + path
        return self._fleet.agents[number], method.decode("latin-1"), path, rest[:length]

    async def _slowly(self, agent: SimulatedAgent, method: str, path: str, body: bytes) -> None:
        await asyncio.sleep(agent.behaviour.delay_s)
        mode = agent.behaviour.mode
        if mode in _LIES:
            _LIES[mode](self._transport)
        elif mode == "error":
            self._write(500, {"message": "simulated failure"})
        elif path == "/logkit/cluster/tag":
            self._write(*await self._set_tag(agent, body))
        elif mode != "hang":
            self._write(*agent.answer(method, path, body))
        if mode != "hang":
            self._busy = None
            self._next()

    async def _set_tag(self, agent: SimulatedAgent, body: bytes) -> Answer:
        """Registers with the new tag first, and only then answers (contract 6.5)."""
        try:
            tag = json.loads(body)["tag"]
        except (ValueError, KeyError, TypeError):
            return refused("L2005", "tag is missing")
        if agent.behaviour.mode == "refuse_tag" or not await self._fleet.register(agent, tag):
            return 503, {"code": "L2005", "message": "no master accepted the tag"}
        agent.tag = tag
        return 200, None

    def _write(self, status: int, payload: Any) -> None:
        if status == 200 and self._fleet.style == "envelope":
            payload = {"code": "L200"} if payload is None else {"code": "L200", "data": payload}
        body = json.dumps(payload).encode()
        self._transport.write(_head(status, len(body)) + body)


def _head(status: int, length: int, more: str = "") -> bytes:
    return (f"HTTP/1.1 {status} x\r\nContent-Type: application/json; charset=UTF-8\r\nContent-Length: {length}\r\n"
            f"{more}\r\n").encode()  # fmt: skip


def _half(transport: asyncio.Transport) -> None:
    transport.write(_head(200, 1000) + b'{"code":"L200","da')
    transport.close()


_PLAIN = Behaviour()
_LIES: dict[str, Callable[[asyncio.Transport], None]] = {
    "garbage": lambda transport: transport.write(_head(200, 9) + b"\xff<html>\x00{"),
    "redirect": lambda transport: transport.write(_head(302, 0, "Location: http://127.0.0.1:1/elsewhere\r\n")),
    "huge": lambda transport: transport.write(_head(200, HUGE_BYTES) + b" " * HUGE_BYTES),
    "half": _half,
}


def main(argv: list[str] | None = None) -> int:
    """`python -m cloudsched.testing.logfleet --master URL`: register a fleet, say how long it took, keep beating."""
    parser = argparse.ArgumentParser(prog="logfleet", description="Simulated log agents for a logkit master.")
    parser.add_argument("--master", action="append", required=True, metavar="URL")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--tags", default="first,second,third")
    parser.add_argument("--by-path", action="store_true", help="one port for all, http://127.0.0.1:PORT/agents/N")
    parser.add_argument("--seconds", type=float, default=0.0, help="keep beating so long")
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between two heartbeats of an agent")
    options = parser.parse_args(argv)
    tags = tuple(options.tags.split(","))
    with LogFleet(options.agents, options.master, tags=tags, by_path=options.by_path) as fleet:
        done = fleet.register_all()
        sys.stdout.write(f"{done.accepted} registered, {done.refused} refused, {done.per_second():,.0f}/s\n")
        fleet.beat(options.interval)
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(options.seconds)
    return 0 if not done.refused else 1


if __name__ == "__main__":
    sys.exit(main())
