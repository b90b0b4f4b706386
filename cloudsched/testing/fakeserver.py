"""Does an agent keep to the protocol? A small server that speaks it and writes down every violation.

It keeps everything in memory, runs in threads of the test's process on a free loopback port, can be stopped and
started again on the same port, told to fail, and asked what it saw. `violations` must be empty at the end of a test.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from cloudsched.testing.fakelogs import LogCollector

PREFIX = "/api/v2/agent/"
Key = tuple[int, int]

_NUMBER = (int, float)
_PROFILE = {"cores": int, "memory_mb": int, "storage_gb": int, "platform": str, "arch": str, "hostname": str,
            "python_version": str, "agent_version": str, "tags": list, "kinds": list}  # fmt: skip
_SYNC = {"want": int, "wait_s": _NUMBER, "free": dict, "holding": list, "started": list, "done": list,
         "returned": list, "metrics": dict, "instance": str, "accept": list, "progress": list, "pong": list,
         "profile": dict}  # fmt: skip
_RESULT: dict[str, tuple[Any, bool]] = {  # type, may be null
    "id": (int, False), "attempt": (int, False), "state": (str, False), "exit_code": (int, True),
    "signal": (int, True), "reason": (str, True), "stdout": (str, False), "stderr": (str, False),
    "ran_s": (_NUMBER, False), "ended_ago_s": (_NUMBER, False), "cpu_s": (_NUMBER, True),
    "max_rss_mb": (int, True), "result": (dict, True),
}  # fmt: skip
_STATES = ("succeeded", "failed", "timeout", "cancelled")
INLINE_BYTES = 65_536
PIECE_BYTES = 1_048_576


@dataclass
class FakeNode:
    """A node as the server knows it."""

    id: int
    name: str
    secret: str
    token: str
    instance: str
    profile: dict[str, Any]
    goal: str = "run"
    gone: bool = False
    syncs: int = 0
    joins: int = 1
    last_want: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeJob:
    """A job and what became of it."""

    id: int
    spec: dict[str, Any]
    attempt: int = 1
    node: int | None = None
    assigned_at: float = 0.0
    unnamed: int = 0
    cancelled: bool = False
    started: bool = False
    result: dict[str, Any] | None = None
    answers: int = 0  # results accepted: must never be more than one
    returned: int = 0
    redelivered: int = 0
    streams: dict[str, bytearray] = field(default_factory=lambda: {"stdout": bytearray(), "stderr": bytearray()})
    inputs: dict[str, bytes] = field(default_factory=dict)
    outputs: dict[str, bytearray] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)

    def output(self, stream: str) -> bytes:
        """All of one stream: what was streamed and what came with the result."""
        tail = (self.result or {}).get(stream, "")
        return bytes(self.streams[stream]) + str(tail).encode()


class Refusal(Exception):
    """An HTTP error answer."""

    def __init__(self, status: int, detail: str, **facts: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"detail": detail, "status": status, **facts}


class FakeServer(LogCollector):
    """`with FakeServer() as server:`; then `token()`, `submit(...)`, `wait(...)`."""

    def __init__(self, *, redeliver_after_s: float = 5.0, long_poll_s: float = 20.0, limit: int = 1 << 24) -> None:
        super().__init__()
        self.nodes: dict[int, FakeNode] = {}
        self.jobs: dict[int, FakeJob] = {}
        self.violations: list[str] = []
        self.requests: list[str] = []
        self.faults: deque[str] = deque()  # each makes one request fail: a status, "garbage", "drop", "lost"
        self.can_hold = True
        self.redeliver_after_s = redeliver_after_s
        self.long_poll_s = long_poll_s
        self.limit = limit
        self.open_jobs = 0
        self._tokens: dict[str, str | None] = {}
        self._queue: deque[int] = deque()
        self._web: ThreadingHTTPServer | None = None
        self._handlers: list[Any] = []
        self.port = 0
        self.start()

    # -- for tests ---------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen (again, on the port of before)."""
        handler = type("Handler", (_Handler,), {"fake": self})
        self._web = _Web(("127.0.0.1", self.port), handler)
        self.port = self._web.server_address[1]
        threading.Thread(target=self._web.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening and break all connections; what was acknowledged stays."""
        web, self._web = self._web, None
        if web is None:
            return
        web.shutdown()
        web.server_close()
        for handler in list(self._handlers):
            handler.hang_up()
        with self.lock:
            self.lock.notify_all()

    def __enter__(self) -> FakeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def token(self, name: str | None = None) -> str:
        """A join token, for the node of that name or for any."""
        token = secrets.token_hex(8)
        self._tokens[token] = name
        return token

    def submit(self, *command: str, inputs: dict[str, bytes] | None = None, **spec: Any) -> int:
        """Queue one job; returns its id. `spec` members go over the defaults."""
        return self.submit_many(1, *command, inputs=inputs, **spec)[0]

    def submit_many(
        self, count: int, *command: str, inputs: dict[str, bytes] | None = None, **spec: Any
    ) -> list[int]:
        """Queue `count` equal jobs."""
        modes = spec.pop("modes", {})
        files = [
            {"name": name, "size": len(data), "mode": modes.get(name, 0o644)} for name, data in (inputs or {}).items()
        ]
        whole = {"kind": "command", "command": list(command), "env": {}, "stdin": None, "cores": 1, "memory_mb": 0,
                 "storage_gb": 0, "time_limit_s": None, "input_files": files, "output_files": [], "user": "tester",
                 "name": "test", **spec}  # fmt: skip
        with self.lock:
            first = len(self.jobs) + 1
            ids = list(range(first, first + count))
            for number in ids:
                job = FakeJob(number, {"key": f"job-{number}", **whole}, inputs=dict(inputs or {}))
                self.jobs[number] = job
                self._queue.append(number)
            self.open_jobs += count
            self.lock.notify_all()
        return ids

    def cancel(self, job_id: int) -> None:
        """Cancel; a queued job ends at once, a held one when its agent reports it."""
        with self.lock:
            job = self.jobs[job_id]
            job.cancelled = True
            if job.node is None and job_id in self._queue:
                self._queue.remove(job_id)
                self._settle(job, {"state": "cancelled"})
            self.lock.notify_all()

    def set_goal(self, goal: str) -> None:
        with self.lock:
            for node in self.nodes.values():
                node.goal = goal
            self.lock.notify_all()

    def lose_node(self, node_id: int) -> None:
        """The node is gone: its calls get 410, its jobs go back to the queue."""
        with self.lock:
            self.nodes[node_id].gone = True
            self._take_back(lambda job: job.node == node_id)
            self.lock.notify_all()

    def take_away(self, job_id: int) -> None:
        """The lease of that job was lost: it goes back to the end of the queue as a new attempt, not to be claimed
        before `release`."""
        with self.lock:
            self._requeue(self.jobs[job_id])
            self._queue.remove(job_id)
            self.lock.notify_all()

    def until(self, condition: Callable[[], object], what: str, *, timeout_s: float = 20.0) -> None:
        """Wait for `condition()` to hold."""
        deadline = time.monotonic() + timeout_s
        with self.lock:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not within {timeout_s} s: {what}; violations: {self.violations[:5]}")
                self.lock.wait(min(left, 0.05))

    def wait(self, *job_ids: int, timeout_s: float = 20.0) -> list[FakeJob]:
        """Wait for the results of these jobs (of all when none is named)."""
        wanted = [self.jobs[number] for number in job_ids] or list(self.jobs.values())
        if job_ids:
            self.until(lambda: all(job.result for job in wanted), f"results of {job_ids}", timeout_s=timeout_s)
        else:
            self.until(lambda: self.open_jobs == 0, "all results", timeout_s=timeout_s)
        return wanted

    # -- the protocol ------------------------------------------------------------------------------------------

    def join(self, body: Any) -> tuple[int, dict[str, Any]]:
        _check_join(body)
        with self.lock:
            if body["token"] not in self._tokens:
                raise Refusal(401, "unknown token")
            bound = self._tokens[body["token"]]
            name = bound or body["name"] or f"node-{len(self.nodes) + 1}"
            node = next((one for one in self.nodes.values() if one.name == name), None)
            if node is not None and node.gone:
                raise Refusal(409, "the node is gone")
            secret = secrets.token_hex(12)
            if node is None:
                node = FakeNode(len(self.nodes) + 1, name, secret, body["token"], body["instance"], body["profile"])
                self.nodes[node.id] = node
            else:
                node.secret, node.profile, node.joins = secret, body["profile"], node.joins + 1
            answer = {"node_id": node.id, "name": name, "secret": secret, "lease_s": 60, "heartbeat_s": 10}
            return 201, {**answer, "long_poll_s": self.long_poll_s, "logs": self.logs}

    def sync(self, node: FakeNode, body: Any, alive: Callable[[], bool]) -> tuple[int, dict[str, Any]]:
        _check_sync(body)
        with self.lock:
            node.syncs += 1
            node.last_want = body["want"]
            node.metrics.update(body.get("metrics", {}))
            holding = {tuple(key) for key in body.get("holding", [])}
            self._check_room(node, body, holding)
            first = body.get("instance", node.instance) != node.instance
            node.instance = body.get("instance", node.instance)
            refused = self._results(node, body.get("done", []))
            self._returned(node, body.get("returned", []))
            self._renew(node, holding, first)
            for number, attempt, _ in body.get("started", []):
                self._held(node, number, attempt).started = True
            answer = self._hold(node, body, holding, alive)
            self.lock.notify_all()
            return 200, {**answer, "refused": refused, "wait_s": self.long_poll_s if self.can_hold else 0,
                         "upgrade": None}  # fmt: skip

    def _hold(
        self, node: FakeNode, body: dict[str, Any], holding: set[Key], alive: Callable[[], bool]
    ) -> dict[str, Any]:
        deadline = time.monotonic() + (body.get("wait_s", 0) if self.can_hold else 0)
        while True:
            drop = [list(key) for key in holding if self._dropped(node, key)]
            given = self._claim(node, body["want"]) if node.goal == "run" else []
            left = deadline - time.monotonic()
            if given or drop or node.goal != "run" or left <= 0 or not self._web or node.gone or not alive():
                return {"jobs": given, "drop": drop, "goal": node.goal}
            self.lock.wait(min(left, 0.5))

    def _claim(self, node: FakeNode, want: int) -> list[dict[str, Any]]:
        given: list[dict[str, Any]] = []
        while self._queue and len(given) < want:
            job = self.jobs[self._queue.popleft()]
            job.node, job.assigned_at, job.unnamed = node.id, time.monotonic(), 0
            given.append({"id": job.id, "attempt": job.attempt, "lease_s": 60, "spec": job.spec})
        return given

    def _dropped(self, node: FakeNode, key: Key) -> bool:
        job = self.jobs.get(key[0])
        if job is None:
            return True
        if job.result is not None and job.attempt == key[1]:
            return False  # its result came while this request was on its way
        return job.cancelled or (job.node, job.attempt) != (node.id, key[1])

    def _results(self, node: FakeNode, results: list[dict[str, Any]]) -> list[list[int]]:
        refused = []
        for result in results:
            job = self.jobs.get(result["id"])
            if job is None or (job.node, job.attempt) != (node.id, result["attempt"]):
                refused.append([result["id"], result["attempt"]])
            elif job.result is None:
                self._settle(job, result)
        return refused

    def _settle(self, job: FakeJob, result: dict[str, Any]) -> None:
        job.result = result
        job.answers += 1
        self.open_jobs -= 1

    def _returned(self, node: FakeNode, keys: list[list[int]]) -> None:
        for number, attempt in keys:
            job = self.jobs[number]
            if (job.node, job.attempt) == (node.id, attempt) and job.result is None:
                if job.started:
                    self.violations.append(f"job {number} was returned after it had started")
                job.returned += 1
                self._requeue(job)

    def _renew(self, node: FakeNode, holding: set[Key], first: bool) -> None:
        now = time.monotonic()
        for job in self.jobs.values() if first or self.redeliver_after_s < 60 else ():
            if job.node != node.id or job.result is not None or (job.id, job.attempt) in holding:
                job.unnamed = 0
                continue
            job.unnamed += 1
            if first or (job.unnamed >= 2 and now - job.assigned_at > self.redeliver_after_s):
                job.redelivered += 1
                self._requeue(job)

    def _take_back(self, which: Callable[[FakeJob], bool]) -> None:
        for job in self.jobs.values():
            if job.result is None and which(job):
                self._requeue(job)

    def _requeue(self, job: FakeJob) -> None:
        job.node, job.started, job.unnamed = None, False, 0
        job.attempt += 1
        job.streams = {"stdout": bytearray(), "stderr": bytearray()}
        if job.cancelled:
            self._settle(job, {"state": "cancelled"})
        else:
            self._queue.appendleft(job.id)

    def _check_room(self, node: FakeNode, body: dict[str, Any], holding: set[Key]) -> None:
        done = {(one["id"], one["attempt"]) for one in body.get("done", [])}
        if done & holding:
            self.violations.append("holding names a job that is done in the same call")
        for name in ("cores", "memory_mb", "storage_gb"):
            if body.get("free", {}).get(name, 0) > node.profile[name]:
                self.violations.append(f"free {name} is more than the node has")

    def _held(self, node: FakeNode, number: int, attempt: int) -> FakeJob:
        job = self.jobs.get(number, FakeJob(0, {}))
        if (job.node, job.attempt) != (node.id, attempt):
            return FakeJob(0, {})
        return job

    def append(self, node: FakeNode, query: dict[str, str], body: bytes) -> tuple[int, dict[str, Any]]:
        with self.lock:
            job = self._mine(node, int(query["job"]), int(query["attempt"]))
            if query["stream"] not in job.streams:
                raise Refusal(400, "stream: stdout or stderr")
            self._check_piece(body)
            data = job.streams[query["stream"]]
            offset = int(query["offset"])
            if offset > len(data):
                raise Refusal(409, "gap", size=len(data))
            data += body[len(data) - offset :][: max(0, self.limit - len(data))]
            self.lock.notify_all()
            return 200, {"size": max(len(data), offset + len(body)), "limit": self.limit}

    def put_file(
        self, node: FakeNode, where: str, query: dict[str, str], body: bytes
    ) -> tuple[int, dict[str, Any]]:
        number, attempt, name = where.split("/", 2)
        with self.lock:
            job = self._mine(node, int(number), int(attempt))
            self._check_piece(body)
            data = job.outputs.setdefault(unquote(name), bytearray())
            offset = int(query["offset"])
            if offset > len(data):
                raise Refusal(409, "gap", size=len(data))
            data[offset:] = body
            if query["final"] == "1":
                job.complete.add(unquote(name))
            return 200, {"size": len(data)}

    def get_file(self, node: FakeNode, where: str) -> bytes:
        number, name = where.split("/", 1)
        with self.lock:
            job = self.jobs.get(int(number))
            if job is None or unquote(name) not in job.inputs or job.node != node.id:
                raise Refusal(404, "no such file")
            return job.inputs[unquote(name)]

    def authorized(self, header: str) -> FakeNode:
        scheme, _, rest = header.partition(" ")
        number, _, secret = rest.partition(".")
        with self.lock:
            node = self.nodes.get(int(number)) if scheme == "Bearer" and number.isdigit() else None
            if node is None or not secrets.compare_digest(node.secret, secret):
                raise Refusal(401, "unknown secret")
            if node.gone:
                raise Refusal(410, "the node is gone")
            return node

    def _mine(self, node: FakeNode, number: int, attempt: int) -> FakeJob:
        job = self.jobs.get(number)
        if job is None or (job.node, job.attempt) != (node.id, attempt):
            raise Refusal(409, "stale")
        if job.result is not None:
            self.violations.append(f"output of job {number} after its result")
        return job

    def _check_piece(self, body: bytes) -> None:
        if len(body) > PIECE_BYTES:
            self.violations.append("a piece is longer than 1 MiB")


class _Web(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A broken connection is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    fake: FakeServer

    def setup(self) -> None:
        super().setup()
        self.fake._handlers.append(self)

    def finish(self) -> None:
        self.fake._handlers.remove(self)
        super().finish()

    def hang_up(self) -> None:
        try:
            self.connection.shutdown(2)
        except OSError:
            pass

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.fake.requests.append(f"{self.command} {self.path}")
        fault = self.fake.faults.popleft() if self.fake.faults else ""
        if fault and fault != "lost":
            self._fail(fault)
            return
        try:
            status, facts = self._route(body)
        except Refusal as refusal:
            status, facts = refusal.status, refusal.body
            if status == 400:
                self.fake.violations.append(f"{self.command} {self.path}: {refusal}")
        except (KeyError, ValueError, TypeError) as error:
            self.fake.violations.append(f"{self.command} {self.path}: {error!r}")
            status, facts = 400, {"detail": repr(error)}
        if fault == "lost" or self.fake._web is None:
            self.close_connection = True  # done, and the answer never arrives
            return
        self._send(status, facts if isinstance(facts, bytes) else json.dumps(facts).encode())

    def _route(self, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(self.path)
        if not parts.path.startswith(PREFIX):
            raise Refusal(400, "unknown path")
        what = parts.path[len(PREFIX) :]
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if what == "join" and self.command == "POST":
            return self.fake.join(json.loads(body))
        node = self.fake.authorized(self.headers.get("Authorization", ""))
        if what == "sync" and self.command == "POST":
            return self.fake.sync(node, json.loads(body), lambda: True)
        if what == "output" and self.command == "POST":
            return self.fake.append(node, query, body)
        if what == "logs" and self.command == "POST":
            if self.fake.logs_away:
                raise Refusal(503, "not now")
            return 200, self.fake.take_logs(query, self.headers.get("X-Batch-Id", ""), body)
        if what == "logs/state" and self.command == "POST":
            return 200, {"logs": self.fake.logs}
        if what.startswith("files/") and self.command == "PUT":
            return self.fake.put_file(node, what[6:], query, body)
        if what.startswith("files/") and self.command == "GET":
            return 200, self.fake.get_file(node, what[6:])
        raise Refusal(400, "unknown call")

    def _fail(self, fault: str) -> None:
        if fault == "drop":
            self.close_connection = True
        elif fault == "garbage":
            self._send(200, b"<html>not json</html>")
        elif fault == "noise":
            self.wfile.write(b"\x00\xff\x00 hello\r\n\r\n")
            self.close_connection = True
        else:
            self._send(int(fault), b'{"detail": "a fault on purpose"}', {"Retry-After": "0.05"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _check_join(body: Any) -> None:
    _want(isinstance(body, dict), "join: an object")
    _want(set(body) == {"token", "name", "profile", "instance"}, f"join: members {sorted(body)}")
    _want(isinstance(body["token"], str) and isinstance(body["instance"], str), "join: token and instance are texts")
    _want(body["name"] is None or isinstance(body["name"], str), "join: name is text or null")
    for name, kind in _PROFILE.items():
        _want(_is(body["profile"].get(name), kind), f"profile.{name}: {kind}")
    slots = body["profile"].get("slots")
    _want(slots is None or _is(slots, int), "profile.slots: int or null")
    batch = {"command", "noop"}
    # A device takes batch jobs only where its owner allows them.
    _want("device_id" in body["profile"] or batch <= set(body["profile"]["kinds"]), "profile.kinds")


def _check_sync(body: Any) -> None:
    _want(isinstance(body, dict) and "want" in body, "sync: an object with want")
    for name, value in body.items():
        _want(name in _SYNC and _is(value, _SYNC[name]), f"sync.{name}: {value!r}"[:200])
    _want(0 <= body["want"] <= 1000, "sync.want: 0..1000")
    _want(0 <= body.get("wait_s", 0) <= 30, "sync.wait_s: 0..30")
    for name, kinds in (("holding", (int, int)), ("returned", (int, int)), ("started", (int, int, _NUMBER))):
        for entry in body.get(name, []):
            good = len(entry) == len(kinds) and all(_is(*pair) for pair in zip(entry, kinds, strict=True))
            _want(good, f"sync.{name}: {entry!r}")
    for result in body.get("done", []):
        _check_result(result)


def _check_result(result: dict[str, Any]) -> None:
    _want(set(result) == set(_RESULT), f"result: members {sorted(set(result) ^ set(_RESULT))}")
    for name, (kind, nullable) in _RESULT.items():
        value = result[name]
        _want((nullable and value is None) or _is(value, kind), f"result.{name}: {value!r}"[:200])
    _want(result["state"] in _STATES, f"result.state: {result['state']}")
    _want(result["ran_s"] >= 0 and result["ended_ago_s"] >= 0, "result: a negative age")
    for name in ("stdout", "stderr"):
        _want(len(result[name].encode()) <= INLINE_BYTES, f"result.{name}: longer than 64 KiB")


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _want(good: bool, message: str) -> None:
    if not good:
        raise Refusal(400, message)
