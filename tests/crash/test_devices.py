"""Is a task of a device lost or done twice when devices, the server or the database connection go at any moment?

The seed is printed; `CLOUDSCHED_TEST_CRASH_SEED` repeats it. `CLOUDSCHED_TEST_CRASH=full`: 5,000 tasks and 60 blows.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.client import HTTPException
from typing import Any

import pytest

from cloudsched.domain.tasks import job_number
from cloudsched.settings.sections import Listen
from cloudsched.testing.instance import Instance

from ..e2e.rows import rows, value
from .promises import FINAL_EVENTS, open_jobs

pytestmark = [pytest.mark.crash, pytest.mark.engines]

FULL = os.environ.get("CLOUDSCHED_TEST_CRASH") == "full"
TASKS, BLOWS = (5000, 60) if FULL else (500, 8)
DEVICES, BATCH = 4, 50
CONFIG = {
    "retire_cluster": {"rate_limit": False, "heartbeat_interval_s": 10, "offline_threshold_s": 30},
    "agent": {"lease_s": 5, "heartbeat_s": 0.5, "long_poll_s": 2},
}


@pytest.mark.timeout(900 if FULL else 300)
def test_nothing_is_lost_or_done_twice_on_sqlite(capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(config=CONFIG) as instance:
        _run(instance, ("device", "device", "serve", "worker", "engine"), _printer(capsys))


@pytest.mark.postgres
@pytest.mark.timeout(900 if FULL else 300)
def test_nothing_is_lost_or_done_twice_on_postgres(pg_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(config=CONFIG, database_url=pg_url) as instance:
        _run(instance, ("device", "device", "serve", "worker", "engine", "database"), _printer(capsys))


def _run(instance: Instance, targets: tuple[str, ...], say: Callable[[str], None]) -> None:
    seed = int(os.environ.get("CLOUDSCHED_TEST_CRASH_SEED") or random.SystemRandom().randrange(10**9))
    say(f"devices: {TASKS} tasks, {BLOWS} blows, CLOUDSCHED_TEST_CRASH_SEED={seed}")
    chance = random.Random(seed)
    instance.start_all()
    revenant = Revenant(instance)
    for number in range(DEVICES):
        instance.start("agent", "--server", instance.url, "--device-id", f"device-{number}", "--slots", "4", "--work-dir",
                       str(instance.state / "devices" / str(number)), name=f"device-{number}")  # fmt: skip
    instance.until(lambda: value(instance, "SELECT count(*) FROM device") == DEVICES + 1, "all devices have joined", limit_s=60)
    struck: Counter[str] = Counter()
    submitter = Submitter(instance, seed, lambda made: sum(struck.values()) >= BLOWS * made / TASKS - 1)
    submitter.start()
    began = time.monotonic()
    for number in range(BLOWS):
        target = targets[number] if number < len(targets) else chance.choice(targets)
        time.sleep(chance.uniform(0.0, 1.0))
        _STRIKE[target](instance, chance)
        struck[target] += 1
        _revive(instance)
    _finish(instance, submitter)
    revenant.comes_back()
    instance.until(lambda: _tended(instance) and open_jobs(instance) == 0, "all tasks have ended", limit_s=120, pause_s=0.2)
    say(f"blows {dict(struck)}; {len(submitter.acknowledged)} tasks acknowledged, {submitter.doubtful} in doubt, "
        f"{_count(instance, 'job.lose')} attempts lost, ended after {time.monotonic() - began:.0f} s")
    _check(instance, submitter, revenant)
    instance.stop()
    instance.check_clean()


class Revenant:
    """A device that takes tasks, is silent until it has been declared lost, and then comes back with results."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        profile = {"device_id": "revenant", "kinds": ["echo"], "max_concurrent_tasks": 3, "cores": 1, "memory_mb": 512}
        made = self._call("join", {"profile": profile, "instance": "first"}, "")
        self.bearer = f"{made['node_id']}.{made['secret']}"
        bodies = [{"task_type": "echo", "payload": {"number": -1 - index}} for index in range(3)]
        status, answer = _ask(instance, "POST", "/api/v1/tasks/batch", {"tasks": bodies})
        assert status == 201, answer
        self.tasks: list[str] = answer["data"]["task_ids"]
        found = self._call("sync", {"want": 3, "instance": "first"}, self.bearer)["jobs"]
        self.held = [(job["id"], job["attempt"]) for job in found]
        assert sorted(number for number, _ in self.held) == sorted(map(_number, self.tasks))

    def comes_back(self) -> None:
        """The results of the first attempts are refused, and told again they still are."""
        numbers = [number for number, _ in self.held]
        marks = ", ".join("?" * len(numbers))
        self.instance.until(
            lambda: _tended(self.instance)
            and value(self.instance, f"SELECT min(attempt) FROM job WHERE id IN ({marks}) AND node_id IS NOT NULL", *numbers) == 2
            and not value(self.instance, f"SELECT count(*) FROM job WHERE id IN ({marks}) AND state = 'queued'", *numbers),
            "the silent device is declared lost, others have its tasks", limit_s=120, pause_s=0.2)  # fmt: skip
        done = [{"id": number, "attempt": attempt, "state": "failed", "reason": "too late"} for number, attempt in self.held]
        for _ in range(2):
            answer = self._call("sync", {"want": 0, "instance": "first", "done": done}, self.bearer)
            assert sorted(map(tuple, answer["refused"])) == sorted(self.held)

    def _call(self, name: str, body: dict[str, Any], bearer: str) -> Any:
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        found: list[Any] = []

        def ask() -> bool:
            with contextlib.suppress(OSError, HTTPException):
                answer = self.instance.call("POST", f"/api/v2/agent/{name}", body, headers=headers)
                if answer.status != 503:
                    assert answer.status in (200, 201), answer.text
                    found.append(answer.json)
            return bool(found)

        self.instance.until(ask, f"an answer of {name}", limit_s=60)
        return found[0]


class Submitter(threading.Thread):
    """Sends tasks in batches, each once: of a batch without an answer nobody knows whether it is there."""

    def __init__(self, instance: Instance, seed: int, pace: Callable[[int], bool]) -> None:
        super().__init__(name="submitter", daemon=True)
        self.instance, self.chance, self.pace = instance, random.Random(seed + 1), pace
        self.acknowledged: dict[int, dict[str, Any]] = {}
        self.doubtful = 0
        self.failure: BaseException | None = None
        self._numbers = iter(range(10**9))

    def run(self) -> None:
        try:
            while len(self.acknowledged) < TASKS:
                self._send([self._task() for _ in range(min(BATCH, TASKS - len(self.acknowledged)))])
                until = time.monotonic() + 30
                while not self.pace(len(self.acknowledged)) and time.monotonic() < until:
                    time.sleep(0.02)
        except BaseException as error:  # the test reports it
            self.failure = error

    def _task(self) -> dict[str, Any]:
        kind, number = self.chance.choices(("echo", "sleep", "system_info"), (75, 20, 5))[0], next(self._numbers)
        payload = {"number": number} | ({"duration": round(self.chance.uniform(0.0, 0.4), 2)} if kind == "sleep" else {})
        return {"task_type": kind, "payload": payload, "requirements": {"max_retries": 10}}

    def _send(self, bodies: list[dict[str, Any]]) -> None:
        status, answer = 0, None
        self.instance.until(self.instance.answers, "the server answers", limit_s=60)
        with contextlib.suppress(OSError, HTTPException):
            status, answer = _ask(self.instance, "POST", "/api/v1/tasks/batch", {"tasks": bodies})
        if status == 201:
            self.acknowledged |= dict(zip(map(_number, answer["data"]["task_ids"]), bodies, strict=True))
            return
        assert status in (0, 503), (status, answer)
        self.doubtful += len(bodies)
        time.sleep(0.1)


def _number(task_id: str) -> int:
    found = job_number(task_id)
    assert found is not None, task_id
    return found


def _ask(instance: Instance, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    answer = instance.call(method, path, body, port=Listen().retire_cluster + instance.offset, timeout_s=20)
    return answer.status, json.loads(answer.body)


def _strike_device(instance: Instance, chance: random.Random) -> None:
    """One process of a device, whichever: its guard, the agent, what it runs."""
    places = [f"/devices/{number} " for number in range(DEVICES)]
    found = [pid for pid, line in instance.marked().items() if any(place in line for place in places)]
    _kill(found, chance)


def _strike_worker(instance: Instance, chance: random.Random) -> None:
    """A web process below `serve`; gunicorn makes another."""
    parent = instance.processes["serve"].pid
    _kill([pid for pid in _children(parent) if pid in instance.marked()], chance)


def _strike_database(instance: Instance, chance: random.Random) -> None:
    """All connections to the database break."""
    rows(instance, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                   "AND pid <> pg_backend_pid()")  # fmt: skip


_STRIKE: dict[str, Callable[[Instance, random.Random], None]] = {
    "device": _strike_device, "worker": _strike_worker, "database": _strike_database,
    "serve": lambda instance, _: instance.processes["serve"].restart(),
    "engine": lambda instance, _: instance.processes["engine"].restart(),
}  # fmt: skip


def _kill(pids: list[int], chance: random.Random) -> None:
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(sorted(pids)), signal.SIGKILL)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        yield from map(int, file.read().split())


def _revive(instance: Instance) -> None:
    """What ended is started again, as any supervisor would."""
    for process in instance.processes.values():
        if not process.running:
            process.start()


def _tended(instance: Instance) -> bool:
    _revive(instance)
    return instance.answers()


def _finish(instance: Instance, submitter: Submitter) -> None:
    until = time.monotonic() + 300
    while submitter.is_alive() and time.monotonic() < until:
        _revive(instance)
        submitter.join(0.5)
    assert submitter.failure is None, repr(submitter.failure)
    assert not submitter.is_alive()


def _check(instance: Instance, submitter: Submitter, revenant: Revenant) -> None:
    expected = set(submitter.acknowledged) | {number for number, _ in revenant.held}
    found = {row[0]: row[1:] for row in rows(instance, "SELECT id, state, reason, attempt FROM job")}
    assert not expected - found.keys(), f"acknowledged, and not in the record: {sorted(expected - found.keys())[:10]}"
    assert len(found) - len(expected) <= submitter.doubtful
    wrong = {number: row for number, row in found.items() if row[0] != "succeeded"}
    assert not wrong, f"{len(wrong)} tasks did not succeed: {list(wrong.items())[:5]}"
    finals = _events(instance, *FINAL_EVENTS)
    assert finals.keys() == found.keys()
    assert not {number: count for number, count in finals.items() if count != 1}, "more than one final event"
    claims = _events(instance, "job.claim")
    differ = {number: (claims[number], row[2]) for number, row in found.items() if claims[number] != row[2]}
    assert not differ, f"claims and attempts differ: {differ}"
    counted = value(instance, "SELECT sum(completed) FROM device")
    assert counted == len(found), f"devices count {counted} completed tasks, the record {len(found)}"
    _check_results(instance, submitter)


def _check_results(instance: Instance, submitter: Submitter) -> None:
    """The result kept is that of its own task."""
    echoes = [(number, body["payload"]) for number, body in submitter.acknowledged.items() if body["task_type"] == "echo"]
    for number, payload in echoes[:: max(1, len(echoes) // 50)]:
        result = instance.job(number)["result"]
        assert result["data"] == {"echo": payload}, (number, result)


def _events(instance: Instance, *kinds: str) -> Counter[int]:
    marks = ", ".join("?" * len(kinds))
    sql = f"SELECT subject_id FROM event WHERE subject_kind = 'job' AND kind IN ({marks})"
    return Counter(row[0] for row in rows(instance, sql, *kinds))


def _count(instance: Instance, kind: str) -> int:
    return int(value(instance, "SELECT count(*) FROM event WHERE kind = ?", kind))


def _printer(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)

    return say
