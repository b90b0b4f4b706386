"""How does a real API misbehave on demand? A proxy before it that loses answers, refuses, stalls or is not there."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cloudsched.testing.httpserver import HttpServer

UPSTREAM_TIMEOUT_S = 60.0
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "te", "upgrade"}


@dataclass(frozen=True)
class Asked:
    """One request as it came in. `params`: of the query and of a form body."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    params: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Answered:
    """One answer."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "text/xml"})


@dataclass
class Fault:
    """What goes wrong, how often (-1: always) and for which requests.

    `kind`: `answer_lost` (it is done, and the connection breaks), `unreachable` (the connection breaks at once),
    `answer` (`answer` is given, nothing is done), `stall` (nothing is said for `pause_s`, then the connection breaks).
    """

    kind: str
    times: int = 1
    when: Callable[[Asked], bool] = lambda asked: True
    answer: Answered = Answered(500)
    pause_s: float = 1.0


class FaultProxy(HttpServer):
    """Stands before the server at `upstream` (`http://127.0.0.1:PORT`) on a free port of its own. A context manager.

    `between`: looks at each request that is let through, and may answer in the server's place.
    """

    def __init__(self, upstream: str, *, between: Callable[[Asked, Callable[[Asked], Answered]], Answered] | None = None) -> None:
        self.upstream = upstream
        self.asked: list[Asked] = []
        self.faults: list[Fault] = []
        self.between = between
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        super().__init__(Handler)

    def schedule(self, kind: str, **facts: Any) -> Fault:
        """Let a fault show; see Fault."""
        fault = Fault(kind, **facts)
        with self._lock:
            self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """No fault any more."""
        with self._lock:
            self.faults.clear()

    def take(self, asked: Asked) -> Fault | None:
        """The fault that this request shows; notes the request."""
        with self._lock:
            self.asked.append(asked)
            for fault in self.faults:
                if fault.times != 0 and fault.when(asked):
                    fault.times -= 1 if fault.times > 0 else 0
                    return fault
        return None

    def forward(self, asked: Asked) -> Answered:
        """Ask the real server."""
        parts = urlsplit(self.upstream)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=UPSTREAM_TIMEOUT_S)
        try:
            headers = {key: value for key, value in asked.headers.items() if key.lower() != "content-length"}
            connection.request(asked.method, asked.path, body=asked.body or None, headers=headers)
            answer = connection.getresponse()
            kept = {key: value for key, value in answer.getheaders() if key.lower() not in _HOP}
            return Answered(answer.status, answer.read(), kept)
        finally:
            connection.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # head and body in one packet: no waiting for acknowledgements
    owner: FaultProxy

    def _serve(self) -> None:
        asked = self._read()
        fault = self.owner.take(asked)
        if fault is None or fault.kind == "answer_lost":
            between = self.owner.between
            answer = between(asked, self.owner.forward) if between else self.owner.forward(asked)
        if fault is not None and fault.kind != "answer":
            time.sleep(fault.pause_s if fault.kind == "stall" else 0)
            self._break()
            return
        self._say(fault.answer if fault is not None else answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = _serve

    def _read(self) -> Asked:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pairs = parse_qsl(urlsplit(self.path).query, keep_blank_values=True)
        if "form-urlencoded" in self.headers.get("Content-Type", ""):
            pairs += parse_qsl(body.decode(), keep_blank_values=True)
        return Asked(self.command, self.path, dict(self.headers.items()), body, dict(pairs))

    def _say(self, answer: Answered) -> None:
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _break(self) -> None:
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other side was quicker

    def log_message(self, format: str, *args: Any) -> None:
        """Tests say what they expect."""
