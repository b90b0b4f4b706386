"""How does a test or benchmark play log agents? Small HTTP servers that keep runner configurations and can misbehave.

They speak the slave side of the logkit contract (section 7), as bare JSON or in the envelope; nothing is collected.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

CODES = {"POST": "L1002", "PUT": "L1007", "DELETE": "L1003", "start": "L1004", "stop": "L1005", "reset": "L1006"}


class FakeAgent:
    """One agent on a free port. `register(url, tag)` is how it reaches its masters; returns whether one took it.

    `trouble`: how it misbehaves on every request, one of TROUBLES.
    """

    def __init__(self, *, tag: str = "", enveloped: bool = True, register: Callable[[str, str], bool] | None = None) -> None:
        self.tag = tag
        self.enveloped = enveloped
        self.register = register
        self.trouble = ""
        self.delay_s = 0.0
        self.refuse: str = ""
        self.configs: dict[str, dict[str, Any]] = {}
        self.seen: list[tuple[str, str, bytes]] = []
        self.connections = 0
        self.release = threading.Event()
        agent = self

        class Handler(_Handler):
            owner = agent

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def beat(self) -> bool:
        """One heartbeat."""
        assert self.register is not None
        return self.register(self.url, self.tag)

    def path_of(self, name: str) -> str:
        return f"/home/agent/.logkitconfs/{name}.conf"

    def stop(self) -> None:
        """Stop answering: the port is closed."""
        self.release.set()
        self.server.shutdown()
        self.server.server_close()

    # what the routes do: (status, code of a refusal, payload or text)

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, str, Any]:
        if method == "GET":
            return self._read(path)
        if path == "/logkit/cluster/tag":
            return self._retag(json.loads(body)["tag"])
        name, _, verb = path.removeprefix("/logkit/configs/").partition("/")
        return self._change(method, verb, unquote(name), body)

    def _read(self, path: str) -> tuple[int, str, Any]:
        if path == "/logkit/status":
            return 200, "", {name: self._status(name) for name in self.configs}
        if path == "/logkit/configs":
            return 200, "", {self.path_of(name): config for name, config in self.configs.items()}
        if path == "/logkit/runners" and self.enveloped:
            return 200, "", list(self.configs)
        name = unquote(path.removeprefix("/logkit/configs/"))
        if path.startswith("/logkit/configs/") and name in self.configs:
            return 200, "", self.configs[name]
        if path.startswith("/logkit/configs/"):
            return 400, "L1001", f"config {name} is not found"
        return 404, "", "Not Found"

    def _status(self, name: str) -> dict[str, Any]:
        stopped = self.configs[name].get("is_stopped", False)
        return {"name": name, "logpath": "/var/log/x", "readDataSize": 12, "readDataCount": 3, "elaspedtime": 1.5,
                "lag": {"size": 0, "sizeunit": "bytes", "ftlags": 0, "total": 0}, "readerStats": _stats(),
                "parserStats": _stats(), "senderStats": {"file": _stats()}, "something_new": [1],
                "runningStatus": "stopped" if stopped else "running"}

    def _retag(self, tag: str) -> tuple[int, str, Any]:
        if self.register is not None and not self.register(self.url, tag):
            return 503, "L2005", "no master took it"
        self.tag = tag
        return 200, "", None

    def _change(self, method: str, verb: str, name: str, body: bytes) -> tuple[int, str, Any]:
        code = CODES[verb or method]
        known = name in self.configs
        if self.refuse:
            return 400, code, self.refuse
        if method == "POST" and not verb and known and not self.configs[name].get("is_stopped"):
            return 400, code, f"file {name} runner is running"
        if not known and (verb or method != "POST"):
            return 400, code, f"runner {name} not found"
        if method == "DELETE":
            del self.configs[name]
        elif not verb:
            given = json.loads(body)
            if not given.get("senders"):
                return 400, code, "senders must not be empty"
            self.configs[name] = _completed(given, name)
        elif verb in ("start", "stop"):
            if bool(self.configs[name].get("is_stopped")) == (verb == "stop"):
                return 400, code, f"runner {self.path_of(name)} has already {'started' if verb == 'start' else 'stopped'}"
            self.configs[name] = {**self.configs[name], "is_stopped": verb == "stop"}
        return 200, "", None


def _completed(given: dict[str, Any], name: str) -> dict[str, Any]:
    """A configuration as an agent keeps it."""
    made = {**given, "name": name, "createtime": "2026-01-02T08:04:44.00516633Z", "web_folder": True}
    made.setdefault("batch_interval", 60)
    if "reader" in given:
        made["reader"] = {**given["reader"], "name": name, "runner_name": name}
    made["senders"] = [{**sender, "runner_name": name} for sender in given["senders"]]
    return made


def _stats() -> dict[str, Any]:
    return {"errors": 0, "success": 3, "speed": 0, "trend": "stable", "last_error": ""}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that leaves early is no error here."""


class _Handler(BaseHTTPRequestHandler):
    owner: FakeAgent
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.owner.connections += 1

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.owner.seen.append((self.command, self.path, body))
        if self.owner.delay_s:
            time.sleep(self.owner.delay_s)
        trouble = _TROUBLES.get(self.owner.trouble)
        if trouble is not None:
            self.close_connection = True
            trouble(self)
            return
        status, code, found = self.owner.answer(self.command, self.path, body)
        if not self.owner.enveloped:
            shown = found if status == 200 else {"message": found}
        elif status != 200:
            shown = {"code": code, "message": found}
        else:
            shown = {"code": "L200"} if found is None else {"code": "L200", "data": found}
        self._send(status, json.dumps(shown).encode())

    do_GET = do_POST = do_PUT = do_DELETE = _serve

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:  # said, as servers do: else the next caller may meet a connection that is just closing
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is printed."""

    def huge(self) -> None:
        self.send_response(200)
        self.end_headers()
        piece = b"x" * (1 << 20)
        for _ in range(100):
            if self.owner.release.is_set():
                return
            self.wfile.write(piece)

    def drip(self) -> None:
        """A byte now and then, for ever."""
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.owner.release.wait(0.05):
            self.wfile.write(b" ")

    def head_without_end(self) -> None:
        while not self.owner.release.is_set():
            self.wfile.write(b"X-More: " + b"y" * 1000 + b"\r\n")

    def chunks(self, *pieces: bytes) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"".join(pieces))

    def half(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"code":"L200","da')


_TROUBLES: dict[str, Callable[[_Handler], object]] = {
    "hang": lambda one: one.owner.release.wait(60),
    "garbage": lambda one: one.wfile.write(b"\x00\xff not http at all\r\n\r\n" * 4),
    "redirect": lambda one: one._send(302, b"", Location="http://127.0.0.1:1/elsewhere"),
    "huge": _Handler.huge,
    "half": _Handler.half,
    "drip": _Handler.drip,
    "head_without_end": _Handler.head_without_end,
    "half_chunk": lambda one: one.chunks(b"5\r\n{\"cod"),
    "huge_chunk": lambda one: one.chunks(b"fffffff\r\n", b" " * 1000),
    "no_chunks": lambda one: one.chunks(b"{\"code\":\"L200\"}\r\n"),
    "elsewhere": lambda one: one._send(307, b"", Location=f"{one.owner.url}/logkit/status"),
    "drop": lambda one: None,
    "empty500": lambda one: one._send(500, b""),
    "notjson": lambda one: one._send(200, b"<html>hello</html>"),
    "list": lambda one: one._send(200, b"[1, 2]"),
    "nested": lambda one: one._send(200, b"[" * 100_000),
}
TROUBLES = tuple(_TROUBLES)
