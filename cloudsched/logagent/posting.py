"""How do batches reach an HTTP receiver, whatever it does? POST, retry, and a queue on disk between reader and network.

With `fault_tolerant` (the default) a batch is accepted when it is in the queue; a thread of its own delivers. Without, a
batch is accepted when the receiver said 2xx. What the receiver refuses for good (400, 413 for a single record, 415, 422)
is kept in the folder `refused`, never silently dropped.
"""

from __future__ import annotations

import email.utils
import gzip
import http.client
import json
import os
import random
import ssl
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudsched.logagent import VERSION, disk, log
from cloudsched.logagent.diskqueue import DiskQueue
from cloudsched.logagent.errors import SendError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from cloudsched.logagent.batches import Batch
    from cloudsched.logagent.stats import Stage

FINAL = (400, 413, 415, 422)
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_RETRY_AFTER_S = 0.5, 30.0, 600.0
ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True)
class Target:
    """Where and how to post. `protocol`: json (one array) or ndjson."""

    url: str
    protocol: str = "json"
    gzip: bool = False
    timeout_s: float = 10.0
    authorization: str = ""
    authorization_file: str = ""
    queue_bytes: int = 1 << 30
    tries: int = 0
    longest_pause_s: float = LONGEST_PAUSE_S


class Refusal(Exception):
    """The receiver will not take this body, however often it is sent."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Later(SendError):
    """Not now; `pause_s` when the receiver said how long."""

    def __init__(self, text: str, pause_s: float | None = None) -> None:
        super().__init__(text)
        self.pause_s = pause_s


class HttpSender:
    """Delivers in order, one request at a time."""

    def __init__(self, name: str, target: Target, folder: str, *, queued: bool = True) -> None:
        self.name, self._target, self._folder, self._queued = name, target, folder, queued
        self._post = Poster(target)
        self._queue: DiskQueue | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self, stage: Stage) -> None:
        self._stage = stage
        disk.make_folder(self._folder)
        if self._queued:
            self._queue = DiskQueue(os.path.join(self._folder, "queue"), limit_bytes=self._target.queue_bytes)
            if self._queue.lost:
                stage.failed(self._queue.lost)
            self._thread = threading.Thread(target=self._deliver, name=f"post {self.name}", daemon=True)
            self._thread.start()

    def accept(self, batch: Batch, stop: threading.Event) -> bool:
        body = batch.array() if self._target.protocol == "json" else batch.lines()
        if self._queue is not None:
            return self._queue.put(body, len(batch.records), stop)
        self._send(body, len(batch.records), batch_id="")
        return True

    def backlog(self) -> int:
        return self._queue.records if self._queue is not None else 0

    def close(self) -> None:
        self._stop.set()
        if self._queue is not None:
            self._queue.wake()
        if self._thread is not None:
            self._thread.join(self._target.timeout_s + 1)
            if self._thread.is_alive():
                return
        self._post.close()
        if self._queue is not None:
            self._queue.close()

    def _deliver(self) -> None:
        assert self._queue is not None
        failures = 0
        entry = None
        while not self._stop.is_set():
            try:
                entry = self._queue.peek(0.5)
                if entry is None:
                    continue
                self._send(entry.body, entry.records, batch_id=f"{self._queue.id}-{entry.number}")
                self._queue.done(entry)
                failures = 0
            except (OSError, SendError, http.client.HTTPException) as error:
                failures += 1
                self._stage.failed(_text(error))
                if 0 < self._target.tries <= failures and entry is not None:
                    self._set_aside(entry.body, f"given up after {failures} tries")
                    self._queue.done(entry)
                    failures = 0
                    continue
                self._stop.wait(pause_s(failures, error, longest_s=self._target.longest_pause_s))

    def _send(self, body: bytes, records: int, *, batch_id: str) -> None:
        try:
            self._post(body, batch_id)
            self._stage.ok(records)
        except Refusal as refusal:
            if refusal.status == 413 and records > 1:
                self._halves(body, records, batch_id)
                return
            self._stage.failed(str(refusal), records)
            self._set_aside(body, str(refusal))

    def _halves(self, body: bytes, records: int, batch_id: str) -> None:
        half = records // 2
        if self._target.protocol == "json":
            items = json.loads(body)
            parts = [json.dumps(part, separators=(",", ":")).encode() for part in (items[:half], items[half:])]
        else:
            lines = body.splitlines(keepends=True)
            parts = [b"".join(lines[:half]), b"".join(lines[half:])]
        self._send(parts[0], half, batch_id=batch_id + "a" if batch_id else "")
        self._send(parts[1], records - half, batch_id=batch_id + "b" if batch_id else "")

    def _set_aside(self, body: bytes, why: str) -> None:
        folder = os.path.join(self._folder, "refused")
        disk.make_folder(folder)
        path = os.path.join(folder, f"{time.time_ns()}.json")
        disk.write_atomic(path, body)
        log.say("error", "a batch was set aside", sender=self.name, file=path, why=why)


class Poster:
    """One kept-alive connection. Follows no redirect and uses no proxy."""

    def __init__(self, target: Target) -> None:
        parts = urlsplit(target.url)
        self._target = target
        self._path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._connect: Callable[[], http.client.HTTPConnection] = _connector(target)
        self._connection: http.client.HTTPConnection | None = None

    def __call__(self, body: bytes, batch_id: str) -> None:
        """One attempt; Refusal, Later, or an OSError of the network."""
        headers = {"Content-Type": "application/json" if self._target.protocol == "json" else "application/x-ndjson",
                   "User-Agent": f"cloudsched-logagent/{VERSION}"}  # fmt: skip
        if batch_id:
            headers["X-Batch-Id"] = batch_id
        authorization = self._authorization()
        if authorization:
            headers["Authorization"] = authorization
        if self._target.gzip:
            headers["Content-Encoding"], body = "gzip", gzip.compress(body, 3)
        answer, text = self._exchange(body, headers)
        if 200 <= answer.status < 300:
            return
        if answer.status in FINAL:
            raise Refusal(answer.status, f"HTTP {answer.status}: {text}")
        raise Later(f"HTTP {answer.status}: {text}", retry_after_s(answer.getheader("Retry-After")))

    def _authorization(self) -> str:
        """From the file, if one is named, at every attempt: it may be replaced meanwhile."""
        if not self._target.authorization_file:
            return self._target.authorization
        with open(self._target.authorization_file, "rb") as file:
            found = file.read(4096).strip().decode("latin-1")
        if not found.isprintable():
            raise SendError(f"{self._target.authorization_file} holds no authorization: one line of text")
        return found

    def _exchange(self, body: bytes, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, str]:
        fresh = self._connection is None
        try:
            return self._request(body, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            # A kept connection that the receiver closed while it was idle.
            if fresh:
                raise
            return self._request(body, headers)

    def _request(self, body: bytes, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, str]:
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.request("POST", self._path, body=body, headers=headers)
            answer = self._connection.getresponse()
            text = answer.read(ANSWER_BYTES)
        except Exception:
            self.close()
            raise
        if not answer.isclosed() or answer.will_close:
            self.close()
        return answer, text[:200].decode("utf-8", "replace").strip()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def pause_s(failures: int, error: BaseException | None, *, longest_s: float = LONGEST_PAUSE_S) -> float:
    """What the receiver asked for, else twice as long each time, with some chance in it."""
    asked = getattr(error, "pause_s", None)
    if asked is not None:
        return min(float(asked), LONGEST_RETRY_AFTER_S)
    pause = FIRST_PAUSE_S * 2 ** min(failures - 1, 16)
    return float(min(longest_s, pause) * random.uniform(0.75, 1.0))  # noqa: S311 - not a secret


def retry_after_s(value: str | None) -> float | None:
    """Seconds, from a number or a date; None when there is neither."""
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _connector(target: Target) -> Callable[[], http.client.HTTPConnection]:
    parts = urlsplit(target.url)
    host, port, timeout_s = parts.hostname or "", parts.port, target.timeout_s
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return lambda: http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    return lambda: http.client.HTTPConnection(host, port, timeout=timeout_s)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
