"""What do the tests of the log agent share? A real agent in this process or in its own, a receiver that can go away."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloudsched.logagent import log
from cloudsched.logagent.agent import LogAgent
from cloudsched.logagent.config import check

ROOT = Path(__file__).resolve().parents[2]
log.set_level("error")


def wait_for(done: Callable[[], Any], limit_s: float = 30.0) -> Any:
    until = time.monotonic() + limit_s
    while not (found := done()):
        assert time.monotonic() < until, "not within the time limit"
        time.sleep(0.02)
    return found


class Caller:
    """The agent's API over a real connection."""

    def __init__(self, port: int) -> None:
        self.port = port

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, body=data, headers={"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, json.loads(text) if text else None

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self.call(method, "/logkit" + path, body)
        assert (status, answer["code"]) == (200, "L200"), answer
        return answer.get("data")

    def runner(self, name: str) -> dict[str, Any]:
        return self.ok("GET", "/status")[name]

    def add(self, name: str, config: dict[str, Any]) -> None:
        self.ok("POST", "/configs/" + quote(name, safe=""), config)


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[tuple[LogAgent, Caller]]:
    """An agent in this process."""
    agent = LogAgent(check({"bind_host": "127.0.0.1:0", **settings}, base=str(folder)))
    agent.start()
    try:
        yield agent, Caller(agent.port)
    finally:
        agent.stop()


class Process:
    """An agent in a process of its own, which can be killed."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        (folder / "agent.conf").write_text(json.dumps({"bind_host": "127.0.0.1:0", **settings}))
        self.start()

    def start(self) -> None:
        port_file = self.folder / "port"
        port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "cloudsched.logagent", "--config", str(self.folder / "agent.conf"),
                   "--port-file", str(port_file), "--log-level", "error"]
        self.process = subprocess.Popen(command, cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
        wait_for(port_file.exists)
        self.caller = Caller(int(port_file.read_text()))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that is killed leaves in the middle of a request."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Receiver:
    """Takes batches over HTTP. `answers`: what to say to the next requests instead of 200; `away`: nobody listens."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.requests: list[dict[str, Any]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        self.port = 0
        self._server: ThreadingHTTPServer | None = None
        self.back()

    def take(self, records: list[Any], headers: Any) -> None:
        """A batch that is acknowledged after this."""
        self.records += records

    def back(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # whoever sent it was killed
                    self.close_connection = True
                    return
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                lines = self.headers["Content-Type"] == "application/x-ndjson"
                records = [json.loads(line) for line in body.splitlines()] if lines else json.loads(body)
                status, headers = receiver.answers.pop(0) if receiver.answers else (200, {})
                receiver.requests.append({"headers": dict(self.headers), "count": len(records), "status": status})
                if status == 200:
                    receiver.take(records, self.headers)
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def away(self) -> None:
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/in"


def sent(path: Path) -> list[dict[str, Any]]:
    """All records in a file sender's file."""
    if not path.exists():
        return []
    return [record for line in path.read_text().splitlines() for record in json.loads(line)]


def texts(path: Path) -> list[str]:
    return [record["raw"] for record in sent(path)]


def file_runner(source: Path | str, target: Path, **more: Any) -> dict[str, Any]:
    reader = {"mode": "file", "log_path": str(source), "stat_interval": "50ms", **more.pop("reader", {})}
    return {"batch_interval": 1, "reader": reader, "parser": {"type": "raw"},
            "senders": [{"sender_type": "file", "file_send_path": str(target)}], **more}


def duplicates(items: list[str]) -> int:
    return sum(count - 1 for count in Counter(items).values())


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)
