"""How are short requests answered without a general server's parser and a thread each? By a few threads of one queue.

A submission or an agent's report takes less time than reading it, handing it to a thread and taking it back do in a server
that must be ready for anything. So the loop shows us its first bytes (app/quick.py). What an application calls `short`, with
a head that holds nothing unusual and a small body, is taken here and goes through the same WSGI application as all others.
Whatever is not exactly of that shape, or comes while the queue is long, is left to the server.
"""

from __future__ import annotations

import logging
import queue
import re
import sys
import threading
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from typing import Any, NamedTuple

from cloudsched.incoming import Environ, Heads, answer_bytes, plain_fields

log = logging.getLogger(__name__)

THREADS, LONG_QUEUE = 4, 64
BODY_MOST = 8 * 1024
_HEADS_KEPT = 5000
_LINE = re.compile(rb"POST (/[A-Za-z0-9/._-]{0,200}) HTTP/1\.1\r\n")
_BASE: Environ = {
    "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.multithread": True, "wsgi.multiprocess": True,
    "wsgi.run_once": False, "wsgi.input_terminated": True, "SCRIPT_NAME": "", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1",
}
Send = Callable[[bytes, bool], None]
Later = Callable[[bytes, str, Send], "int | None"]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]
# Is a POST to this path with this body answered at once?
Short = Callable[[str, bytes], bool]


class Head(NamedTuple):
    """What a head says: the environment it makes, and the length of the body."""

    environ: Environ
    length: int


class Task(NamedTuple):
    """A request and who takes its answer."""

    environ: Environ
    answer: Send


class Lane:
    """The short requests of one listener. `before`: who is asked first."""

    def __init__(self, application: Application, port: str, short: Short, *, before: Later | None = None) -> None:
        self._application = application
        self._name = f"lane-{port}"
        self._short = short
        self._before = before
        self._heads = Heads(partial(parse, port=port), most=_HEADS_KEPT)
        self._queue: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._threads = 0

    def __call__(self, raw: bytes, address: str, answer: Send) -> int | None:
        """Bytes taken of a request whose answer comes later (`answer` is called on another thread); -N: it is one of these
        when N bytes are there; None: it is not."""
        if self._before is not None and (taken := self._before(raw, address, answer)) is not None:
            return taken
        if raw[:5] != b"POST " or self._queue.qsize() >= LONG_QUEUE:
            return None
        found = self._heads.of(raw)
        if found is None:
            return None
        head, end = found
        whole = end + head.length
        if len(raw) < whole:
            return -whole
        body = raw[end:whole]
        if not self._short(head.environ["RAW_URI"], body):
            return None
        self._queue.put(Task({**head.environ, "REMOTE_ADDR": address, "wsgi.input": BytesIO(body)}, answer))
        if self._threads < THREADS:
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
            self._threads += 1
        return whole

    def _run(self) -> None:
        while True:
            task = self._queue.get()
            try:
                raw, keep = self._answered(task.environ), True
            except Exception:
                log.exception("a request failed")
                raw, keep = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False
            try:
                task.answer(raw, keep)
            except Exception:
                log.exception("a request was not answered")

    def _answered(self, environ: Environ) -> bytes:
        told: list[Any] = ["", []]

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            told[:] = status, headers

        found = self._application(environ, start)
        try:
            body = b"".join(found)
        finally:
            if hasattr(found, "close"):
                found.close()
        status, headers = told
        sized = any(name.lower() == "content-length" for name, _ in headers)
        return answer_bytes(status, headers if sized else [*headers, ("Content-Length", str(len(body)))], body)


def parse(raw: bytes, *, port: str) -> Head | None:
    """A head up to its empty line; None when there is anything about it that a real server should look at."""
    line = _LINE.match(raw)
    fields = plain_fields(raw[line.end() : -4]) if line else None
    if line is None or fields is None:
        return None
    length = fields.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 4 or int(length) > BODY_MOST:
        return None
    target = line[1].decode()
    named = {f"HTTP_{name.decode().upper().replace('-', '_')}": value.decode("ascii") for name, value in fields.items()}
    kind = named.pop("HTTP_CONTENT_TYPE", "")
    del named["HTTP_CONTENT_LENGTH"]
    environ = {**_BASE, **named, "wsgi.errors": sys.stderr, "REQUEST_METHOD": "POST", "RAW_URI": target,
               "PATH_INFO": target, "SERVER_NAME": named["HTTP_HOST"].partition(":")[0], "SERVER_PORT": port,
               "CONTENT_LENGTH": str(int(length)), **({"CONTENT_TYPE": kind} if kind else {})}
    return Head(environ, int(length))
