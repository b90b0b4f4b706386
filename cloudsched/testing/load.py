"""What work does a test give an instance while things break, and what must be true of it afterwards?

Jobs of known outcome, a submitter that says which of them were acknowledged, and a reader of the event stream that
reconnects for ever and remembers every id it was given.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any

from cloudsched.client.sse import EventReader
from cloudsched.testing.instance import Instance

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Expected:
    """How a job must end: `stdout` and `exit_code` are those of its last attempt; None: whatever."""

    kind: str
    state: str
    stdout: str | None = None
    exit_code: int | None = None


@dataclass
class Load:
    """Jobs of a mixed run: `acknowledged` maps id -> what must become of it; `doubtful`: jobs whose answer was lost."""

    acknowledged: dict[int, Expected] = field(default_factory=dict)
    to_cancel: set[int] = field(default_factory=set)
    doubtful: int = 0


def make_job(number: int, chance: random.Random, *, mark: str) -> tuple[dict[str, Any], Expected]:
    """The body of one job and how it must end; `mark` finds whatever processes it leaves."""
    kind = chance.choices(tuple(_KINDS), weights=[row[0] for row in _KINDS.values()])[0]
    fields, expected = _KINDS[kind][1](number, chance, mark)
    return {"memory_mb": 64, "user": chance.choice(("ada", "grace")), "name": f"{kind}-{number}", **fields}, expected


def _noop(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    return {"kind": "noop"}, Expected("noop", "succeeded", "")


def _echo(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    return _shell(f"echo {number}"), Expected("echo", "succeeded", f"{number}\n", 0)


def _slow(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    script = f"echo {number}; sleep {chance.uniform(0.05, 0.8):.2f}; echo end"
    return _shell(script), Expected("slow", "succeeded", f"{number}\nend\n", 0)


def _fails(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    return _shell(f"echo {number}; exit 3"), Expected("fails", "failed", f"{number}\n", 3)


def _child(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    """Leaves a process in a session of its own, far away, deaf to all signals that can be ignored."""
    away = f"cd /; exec setsid sh -c 'trap \"\" TERM HUP INT; sleep 3600; : {mark}'"
    script = f"({away}) > /dev/null 2>&1 & sleep {chance.uniform(0.05, 0.3):.2f}; echo {number}"
    return _shell(script), Expected("child", "succeeded", f"{number}\n", 0)


def _endless(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    return _shell("trap '' TERM; while :; do sleep 1; done"), Expected("endless", "cancelled")


def _limited(number: int, chance: random.Random, mark: str) -> tuple[dict[str, Any], Expected]:
    return {**_shell("sleep 3600"), "time_limit_s": 1}, Expected("limited", "timeout")


def _shell(script: str) -> dict[str, Any]:
    return {"command": ["/bin/sh", "-c", script]}


_Maker = Callable[[int, random.Random, str], tuple[dict[str, Any], Expected]]
_KINDS: dict[str, tuple[int, _Maker]] = {
    "noop": (30, _noop), "echo": (25, _echo), "slow": (25, _slow), "fails": (6, _fails), "child": (10, _child),
    "endless": (2, _endless), "limited": (2, _limited),
}


class Submitter(threading.Thread):
    """Submits `count` jobs while the server comes and goes; endless ones are cancelled, and that is acknowledged too.

    Most requests carry an Idempotency-Key and are repeated until they are answered; the others are sent once, and
    what they carried is `doubtful` when no answer came.
    """

    def __init__(self, instance: Instance, count: int, *, seed: int, pace: Callable[[], bool] = lambda: True) -> None:
        super().__init__(name="submitter", daemon=True)
        self.instance, self.count, self.pace = instance, count, pace
        self.chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
        self.load = Load()
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._submit_all()
        except BaseException as error:  # the test that joins us reports it
            self.failure = error

    def _submit_all(self) -> None:
        made = 0
        while made < self.count:
            size = min(self.count - made, self.chance.choice((1, 1, 2, 5, 20, 40)))
            items = [make_job(made + index, self.chance, mark=self.instance.mark) for index in range(size)]
            made += size
            ids = self._send([body for body, _ in items])
            if ids is None:
                self.load.doubtful += size
                continue
            for number, (_, expected) in zip(ids, items, strict=True):
                self.load.acknowledged[number] = expected
                if expected.state == "cancelled":
                    self._cancel(number)
            until = time.monotonic() + 30
            while not self.pace() and time.monotonic() < until:
                time.sleep(0.02)

    def _send(self, bodies: Sequence[dict[str, Any]]) -> list[int] | None:
        once = self.chance.random() < 0.1
        headers = {} if once else {"Idempotency-Key": f"load-{self.chance.getrandbits(64):x}"}
        body = {"jobs": list(bodies)}
        if once:
            with contextlib.suppress(OSError, HTTPException):
                answer = self.instance.call("POST", "/api/v2/jobs", body, headers=headers, timeout_s=15)
                return _ids(answer.status, answer.body)
            return None
        return patiently(lambda: self._try(body, headers))

    def _try(self, body: dict[str, Any], headers: dict[str, str]) -> list[int] | None:
        answer = self.instance.call("POST", "/api/v2/jobs", body, headers=headers, timeout_s=15)
        return _ids(answer.status, answer.body)

    def _cancel(self, number: int) -> None:
        def ask() -> bool | None:
            status = self.instance.call("POST", f"/api/v2/jobs/{number}/cancel", timeout_s=15).status
            if status in (429, 503):
                return None
            # 409: an earlier try, whose answer was lost, has ended it already.
            assert status in (200, 202, 409), f"cancel of job {number}: {status}"
            return True

        patiently(ask)


def _ids(status: int, body: bytes) -> list[int] | None:
    if status in (429, 503):
        return None
    assert status in (200, 201), f"{status} {body[:500]!r}"
    return list(json.loads(body)["ids"])


def patiently(ask: Callable[[], Any], *, limit_s: float = PATIENCE_S) -> Any:
    """Call until there is an answer that is not None; connection errors are waited out."""
    deadline = time.monotonic() + limit_s
    while True:
        with contextlib.suppress(OSError, HTTPException):
            found = ask()
            if found is not None:
                return found
        if time.monotonic() > deadline:
            raise AssertionError(f"no answer within {limit_s:g} s")
        time.sleep(0.05)


class EventFollower(threading.Thread):
    """Reads /api/v2/events as a stream from the beginning; after a break it goes on behind the last id it has seen."""

    def __init__(self, instance: Instance) -> None:
        super().__init__(name="event-follower", daemon=True)
        self.instance = instance
        self.ids: list[int] = []
        self.kinds: list[str] = []
        self.connections = 0
        self.refusals: list[str] = []
        self._ending = threading.Event()

    def run(self) -> None:
        reader = EventReader("0")
        while not self._ending.is_set():
            with contextlib.suppress(OSError, HTTPException, ValueError):
                self._read(reader)
            self._ending.wait(0.1)

    def _read(self, reader: EventReader) -> None:
        connection = HTTPConnection("127.0.0.1", self.instance.native, timeout=20)
        try:
            connection.request("GET", "/api/v2/events", headers={
                "Accept": "text/event-stream", "Last-Event-ID": reader.last_id or "0"})
            answer = connection.getresponse()
            if answer.status != 200:
                self.refusals.append(f"{answer.status} {answer.read()[:200]!r}")
                return
            self.connections += 1
            for event in reader.read(answer):
                self.kinds.append(event.kind)
                if event.id is not None:
                    self.ids.append(int(event.id))
                if self._ending.is_set():
                    return
        finally:
            connection.close()

    def wait_for(self, number: int, *, limit_s: float = 30.0) -> bool:
        """Until event `number` has come; then the reading ends."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and (not self.ids or self.ids[-1] < number):
            time.sleep(0.05)
        self._ending.set()
        return bool(self.ids) and self.ids[-1] >= number
