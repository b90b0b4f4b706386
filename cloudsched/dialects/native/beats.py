"""How are ten thousand plain heartbeats answered? From bytes to bytes, and many of them in one transaction.

A general server's parser, thread and environment, and a commit for each, cost some times what a heartbeat does. So its first
bytes are shown here (app/quick.py): a `sync` that reports no results and is not to be held is taken, gathered with others
for some milliseconds, and answered from a thread of its own. Whatever is not exactly of that shape is left to the server.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from cloudsched.dialects.native import problems
from cloudsched.dialects.native.agent import encode_reply
from cloudsched.dialects.native.wire import JSON
from cloudsched.errors import CloudschedError
from cloudsched.incoming import Heads, answer_bytes, plain_fields
from cloudsched.services import agents, health
from cloudsched.services.access import Gate, Request
from cloudsched.services.agent_rules import bearer_of, rules

log = logging.getLogger(__name__)

GATHER_S = 0.01
MOST_AT_ONCE = 256
_SAFETY = (("X-Content-Type-Options", "nosniff"), ("Cache-Control", "no-store"))
_START = b"POST /api/v2/agent/sync HTTP/1.1\r\n"
_HEADS_KEPT = 20_000
Answer = Callable[[bytes, bool], None]


class Head(NamedTuple):
    """What a head says: the node and the hash of its secret, the length of the body."""

    node_id: int
    secret_hash: str
    length: int


class Beat(NamedTuple):
    """A heartbeat and who takes its answer (bytes, and whether the connection stays)."""

    call: agents.Call
    answer: Answer


class Beats:
    """The heartbeats of one process."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._heads = Heads(parse, most=_HEADS_KEPT)
        self._waiting: queue.SimpleQueue[Beat] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, raw: bytes, address: str, answer: Answer) -> int | None:
        """Bytes taken of a request whose answer comes later (`answer` is called on another thread); None: not one of these."""
        if not raw.startswith(_START):
            return None
        found = self._heads.of(raw)
        if found is None or len(raw) < found[1] + found[0].length:
            return None
        head, end = found
        try:
            self._gate.check_network(Request(address))
            request = agents.plain_beat(raw[end : end + head.length])
        except CloudschedError:
            return None  # said in full where all errors are
        if request is None:
            return None
        self._waiting.put(Beat(agents.Call(head.node_id, head.secret_hash, request), answer))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="heartbeats", daemon=True)
            self._thread.start()
        return end + head.length

    def _run(self) -> None:
        while True:
            beats = [self._waiting.get()]
            time.sleep(GATHER_S)
            while len(beats) < MOST_AT_ONCE and not self._waiting.empty():
                beats.append(self._waiting.get())
            try:
                found = agents.sync_many([beat.call for beat in beats])
            except Exception as error:
                found = [error] * len(beats)
            for beat, reply in zip(beats, found, strict=True):
                try:
                    beat.answer(_answer(reply), True)
                except Exception:
                    log.exception("a heartbeat was not answered")


def _answer(reply: agents.Reply | Exception) -> bytes:
    request_id = os.urandom(8).hex()
    if isinstance(reply, Exception):
        status, headers, body = problems.render(reply, request_id=request_id)
    else:
        status, headers, body = 200, JSON, encode_reply(reply, rules.lease_s)
    health.count_answer(status)
    headers = [*headers, ("X-Request-Id", request_id), *_SAFETY, ("Content-Length", str(len(body)))]
    return answer_bytes(problems.STATUS_LINE[status], headers, body)


def parse(raw: bytes) -> Head | None:
    """A head up to its empty line; None when there is anything about it that a real server should look at."""
    fields = plain_fields(raw[len(_START) : -4])
    if fields is None or b"x-request-id" in fields:  # an id of their own is answered where all are
        return None
    length = fields.get(b"content-length", b"")
    scheme, _, bearer = fields.get(b"authorization", b"").decode("ascii").partition(" ")
    if not length.isdigit() or len(length) > 5 or scheme.lower() != "bearer":
        return None
    try:
        return Head(*bearer_of(bearer.strip()), int(length))
    except CloudschedError:
        return None
