"""How do files and long output travel? Input down before the start, output up while it runs and after the end.

All of it runs on transfer threads; every piece may be sent twice, the server knows by its offset. Whatever can be
tried again is tried again until it works or the job is taken away from us.
"""

from __future__ import annotations

import json
import os
import random
import time
from urllib.parse import quote

from cloudsched.agent import log, scratch, spool
from cloudsched.agent.wire import Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cloudsched.agent.jobs import Job
    from cloudsched.agent.wire import Answer, Connection

PIECE_BYTES = 1_048_576
SMALL_BYTES = 65_536
TIMEOUT_S = 60.0
STREAMS = ("stdout", "stderr")


class Refused(Exception):
    """The server will not have it, now or later; the text goes into the job's reason."""


class Stale(Exception):
    """The attempt is not ours any more."""


class Transfer:
    """Work for transfer threads. `headers()` gives the current authorization; `stopping()` ends all retries."""

    def __init__(
        self, headers: Callable[[], dict[str, str]], stopping: Callable[[], bool], *, prefix: str = "/api/v2/agent"
    ) -> None:
        self._headers = headers
        self._stopping = stopping
        self._prefix = prefix
        self._limit: int | None = None

    def fetch_inputs(self, connection: Connection, job: Job) -> None:
        """All input files into the scratch directory; raises Refused (with `input file ...`) or Stale."""
        assert job.scratch is not None
        for facts in job.inputs:
            name = facts["name"]
            try:
                self._fetch(connection, job, facts)
            except (OSError, ValueError, TypeError, Refused) as error:
                raise Refused("input file %s: %s" % (name, _words(error))) from None

    def stream(self, connection: Connection, job: Job) -> None:
        """What a running job has written since the last time."""
        for number in (0, 1):
            self._send_stream(connection, job, number)

    def deliver(self, connection: Connection, job: Job) -> str | None:
        """After the end: long output and the declared output files; returns what is wrong with them, or None."""
        for number in (0, 1):
            if rest(job, number) is None:
                self._send_stream(connection, job, number)
        return self._send_outputs(connection, job)

    # -- input -------------------------------------------------------------------------------------------------

    def _fetch(self, connection: Connection, job: Job, facts: dict[str, Any]) -> None:
        assert job.scratch is not None
        path = "%s/files/%d/%s" % (self._prefix, job.id, quote(facts["name"], safe="/"))
        handle = scratch.create_input(job.scratch, facts["name"], mode=int(facts.get("mode") or 0o644))
        try:
            answer = self._again(job, lambda: _download(connection, path, self._headers(), handle))
            if answer.status != 200:
                raise ValueError(_detail(answer))
            size = os.fstat(handle).st_size
            if facts.get("size") is not None and size != facts["size"]:
                raise ValueError("%d bytes came, %s were announced" % (size, facts["size"]))
        finally:
            os.close(handle)

    # -- output ------------------------------------------------------------------------------------------------

    def _send_stream(self, connection: Connection, job: Job, number: int) -> None:
        assert job.captured is not None
        handle = job.captured[number]
        while True:
            if self._limit is not None and job.sent[number] > self._limit:
                job.cut[number] = True  # the server has its fill and says so to whoever reads it
            if job.cut[number]:
                _give_back(job, number)
                return
            piece = os.pread(handle, PIECE_BYTES, job.sent[number])
            if not piece:
                return
            path = "%s/output?job=%d&attempt=%d&stream=%s&offset=%d" % (
                self._prefix,
                job.id,
                job.attempt,
                STREAMS[number],
                job.sent[number],
            )
            answer = self._send(connection, job, "POST", path, piece)
            self._note_output(job, number, len(piece), answer)

    def _note_output(self, job: Job, number: int, length: int, answer: Answer) -> None:
        facts = _facts(answer)
        size = facts.get("size")
        if answer.status == 200:
            job.sent[number] += length
            if isinstance(facts.get("limit"), int):
                self._limit = facts["limit"]
        elif answer.status == 409 and isinstance(size, int) and size < job.sent[number]:
            job.sent[number] = size  # a gap: the server lost the end of it
        elif answer.status in (404, 409, 410):
            raise Stale()
        else:
            raise Refused("output refused: %s" % _detail(answer))

    def _send_outputs(self, connection: Connection, job: Job) -> str | None:
        assert job.scratch is not None
        for pattern in job.outputs:
            try:
                names = scratch.matches(job.scratch, pattern)
            except (ValueError, OSError) as error:
                return "output file %s: %s" % (pattern, _words(error))
            if not names:
                return "output file %s is missing" % pattern
            for name in names:
                try:
                    self._send_file(connection, job, name)
                except (OSError, ValueError, Refused) as error:  # ValueError: a name that is no text
                    return "output file %s: %s" % (ascii(name) if isinstance(error, ValueError) else name, _words(error))
        return None

    def _send_file(self, connection: Connection, job: Job, name: str) -> None:
        assert job.scratch is not None
        handle = os.open(os.path.join(job.scratch, name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        base = "%s/files/%d/%d/%s" % (self._prefix, job.id, job.attempt, quote(name, safe="/"))
        try:
            offset, final = 0, False
            while not final:
                piece = os.pread(handle, PIECE_BYTES, offset)
                final = len(piece) < PIECE_BYTES or not os.pread(handle, 1, offset + len(piece))
                path = "%s?offset=%d&final=%d" % (base, offset, final)
                answer = self._send(connection, job, "PUT", path, piece)
                if answer.status in (404, 409, 410):
                    raise Stale()
                if answer.status // 100 != 2:
                    raise Refused(_detail(answer))
                offset += len(piece)
        finally:
            os.close(handle)

    def _send(self, connection: Connection, job: Job, method: str, path: str, piece: bytes) -> Answer:
        def send() -> Answer:
            headers = dict(self._headers())
            headers["Content-Type"] = "application/octet-stream"
            return connection.request(method, path, body=piece, headers=headers, timeout_s=TIMEOUT_S)

        return self._again(job, send)

    def _again(self, job: Job, call: Callable[[], Answer]) -> Answer:
        """Until there is an answer that means something; Stale when the job is taken away meanwhile."""
        pause_s = 0.2
        while True:
            try:
                answer = call()
                if answer.status < 500 and answer.status not in (401, 408, 429):
                    return answer
                problem, pause_s = "status %d" % answer.status, answer.retry_after_s(pause_s)
            except Unreachable as error:
                problem = str(error)
            if job.dropped or self._stopping():
                raise Stale()
            log.say("debug", "transfer is tried again", job=job.id, problem=problem)
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311
            pause_s = min(10.0, pause_s * 2)


def has_more(job: Job, number: int) -> bool:
    """Is there anything of that stream that was not sent (or, when it is cut, not thrown away)?"""
    assert job.captured is not None
    size = os.fstat(job.captured[number]).st_size
    return size > (0 if job.cut[number] else job.sent[number])


def rest(job: Job, number: int) -> str | None:
    """What of that stream was not sent by itself and goes into the result; None when it cannot: it is long, or no text
    that JSON can carry."""
    if job.captured is None or job.cut[number]:
        return ""
    data = os.pread(job.captured[number], SMALL_BYTES + 1, job.sent[number])
    if len(data) > SMALL_BYTES or b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _give_back(job: Job, number: int) -> None:
    """Nobody needs what was written so far of a stream that is cut; what is to be collected stays until it was."""
    assert job.captured is not None
    if job.logged is None:
        os.ftruncate(job.captured[number], 0)  # it is opened for appending: what comes starts at 0 again
    else:
        spool.give_back(job.captured[number], job.logged[number])


def _download(connection: Connection, path: str, headers: dict[str, str], handle: int) -> Answer:
    os.ftruncate(handle, 0)
    os.lseek(handle, 0, os.SEEK_SET)

    def keep(piece: bytes) -> None:
        try:
            while piece:
                piece = piece[os.write(handle, piece) :]
        except OSError as error:  # ours, not the connection's: no use in trying again
            raise Refused(_words(error)) from None

    return connection.request("GET", path, headers=headers, timeout_s=TIMEOUT_S, sink=keep)


def _facts(answer: Answer) -> dict[str, Any]:
    try:
        facts = json.loads(answer.body)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _detail(answer: Answer) -> str:
    facts = _facts(answer)
    return str(facts.get("detail") or facts.get("title") or "the server answered %d" % answer.status)


def _words(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number).lower() if isinstance(number, int) else str(error)
