"""Are the promises kept when any process is killed at any moment?

The seed is printed; `CLOUDSCHED_TEST_CRASH_SEED` repeats it. `CLOUDSCHED_TEST_CRASH=full` is the long run: 2,000
jobs and 50 kills. What is random is the moment: nothing here waits a fixed time for something to be done.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

import pytest

from cloudsched.testing.instance import Instance
from cloudsched.testing.load import EventFollower, Submitter

from ..e2e.rows import live_nodes, rows
from .promises import check_gone, check_outputs, check_record, check_stream, open_jobs

pytestmark = pytest.mark.crash

FULL = os.environ.get("CLOUDSCHED_TEST_CRASH") == "full"
JOBS, KILLS = (2000, 50) if FULL else (150, 6)
CLOUDS = [{"name": f"local-{letter}", "slots": 4, "cores": 1, "memory_mb": 2048, "keep_alive_s": 3} for letter in "ab"]
TARGETS = ("agent", "serve", "engine", "agent", "worker", "agent")


@pytest.mark.timeout(900 if FULL else 150)
def test_processes_killed_at_random_on_sqlite(capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(clouds=CLOUDS) as instance:
        _run(instance, engines=["engine"], say=_printer(capsys))


@pytest.mark.timeout(900)
@pytest.mark.postgres
@pytest.mark.skipif(not FULL, reason="the long run alone: CLOUDSCHED_TEST_CRASH=full")
def test_processes_killed_at_random_on_postgres(pg_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Instance(clouds=CLOUDS, database_url=pg_url) as instance:
        _run(instance, engines=["engine-1", "engine-2"], say=_printer(capsys))


@pytest.mark.timeout(150)
def test_what_up_started_is_started_again(capsys: pytest.CaptureFixture[str]) -> None:
    """`up` alone sees to it that its processes come back."""
    with Instance(clouds=CLOUDS) as instance:
        instance.start("up")
        instance.wait_ready()
        submitter, follower = Submitter(instance, 40, seed=7), EventFollower(instance)
        submitter.start()
        follower.start()
        for name in ("serve", "engine"):
            pid = _child(instance, name)
            os.kill(pid, signal.SIGKILL)
            instance.until(lambda pid=pid, name=name: _child(instance, name) not in (0, pid), f"a new {name}")
        _finish(instance, submitter)
        check_record(instance, submitter.load)
        check_outputs(instance, submitter.load)
        instance.until(lambda: not live_nodes(instance), "idle machines are retired")
        check_stream(instance, follower)
        assert instance.processes["up"].stop(signal.SIGINT) == 0
        check_gone(instance)


@pytest.mark.parametrize("which", [0, 1], ids=["guard", "agent"])
@pytest.mark.timeout(60)
def test_what_sheds_everything_ends_with_a_killed_agent(which: int) -> None:
    with Instance(clouds=CLOUDS) as instance:
        instance.start_all()
        away = f"cd /; exec env -i setsid sh -c 'trap \"\" TERM; sleep 3600; : {instance.mark}'"
        number = instance.shell(f"({away}) > /dev/null 2>&1 & echo started; sleep 3600")
        instance.until(lambda: instance.output(number) == "started\n", "the job runs")
        os.kill(instance.agent_processes()[which], signal.SIGKILL)
        instance.until(lambda: instance.job(number)["attempt"] == 2, "the job is run again")
        instance.stop()


def _run(instance: Instance, *, engines: list[str], say: Callable[[str], None]) -> None:
    seed = int(os.environ.get("CLOUDSCHED_TEST_CRASH_SEED") or random.SystemRandom().randrange(10**9))
    say(f"crash test: {JOBS} jobs, {KILLS} kills, CLOUDSCHED_TEST_CRASH_SEED={seed}")
    instance.start("serve")
    for name in engines:
        instance.start("engine", name=name)
    instance.wait_ready()
    killed: Counter[str] = Counter()
    submitter = Submitter(instance, JOBS, seed=seed, pace=lambda: sum(killed.values()) >= _share(submitter))
    follower = EventFollower(instance)
    submitter.start()
    follower.start()
    began = time.monotonic()
    _kill_at_random(instance, random.Random(seed), engines=engines, killed=killed)
    _finish(instance, submitter)
    say(f"{sum(killed.values())} kills {dict(killed)}, all jobs ended after {time.monotonic() - began:.1f} s")
    check_record(instance, submitter.load)
    check_outputs(instance, submitter.load, every=20 if FULL else 1)
    instance.until(lambda: not live_nodes(instance), "idle machines are retired", limit_s=60)
    check_stream(instance, follower)
    lost = rows(instance, "SELECT count(*) FROM event WHERE kind = 'job.lose'")[0][0]
    say(f"{len(submitter.load.acknowledged)} acknowledged, {submitter.load.doubtful} in doubt, {lost} attempts lost, "
        f"{len(follower.ids)} events over {follower.connections} connections")
    instance.stop()
    check_gone(instance)


def _share(submitter: Submitter) -> float:
    """Kills that must have been made before the next jobs go in: the work is spread over the whole run."""
    return KILLS * len(submitter.load.acknowledged) / JOBS - 1


def _kill_at_random(instance: Instance, chance: random.Random, *, engines: list[str], killed: Counter[str]) -> None:
    for _ in range(KILLS):
        target = chance.choice(TARGETS)
        pause_s = chance.uniform(0.0, 1.2)
        deadline = time.monotonic() + pause_s
        while time.monotonic() < deadline:
            time.sleep(0.01)
        _KILL[target](instance, chance, engines)
        killed[target] += 1


def _kill_serve(instance: Instance, chance: random.Random, engines: list[str]) -> None:
    instance.processes["serve"].restart()


def _kill_engine(instance: Instance, chance: random.Random, engines: list[str]) -> None:
    instance.processes[chance.choice(engines)].restart()


def _kill_worker(instance: Instance, chance: random.Random, engines: list[str]) -> None:
    """A web process below `serve`; gunicorn makes another."""
    _kill(_pids(instance, "serve", below=instance.processes["serve"].pid), chance)


def _kill_agent(instance: Instance, chance: random.Random, engines: list[str]) -> None:
    _kill(instance.agent_processes(), chance)


_KILL: dict[str, Callable[[Instance, random.Random, list[str]], None]] = {
    "serve": _kill_serve, "engine": _kill_engine, "worker": _kill_worker, "agent": _kill_agent,
}


def _kill(pids: list[int], chance: random.Random) -> None:
    if pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(pids), signal.SIGKILL)


def _finish(instance: Instance, submitter: Submitter) -> None:
    submitter.join(300)
    assert submitter.failure is None, repr(submitter.failure)
    assert not submitter.is_alive()

    # A `serve` whose port was still held by the one before it may have given up: it is started again, as any
    # supervisor would.
    def ended() -> bool:
        for process in instance.processes.values():
            if not process.running:
                process.start()
        return instance.answers() and open_jobs(instance) == 0

    instance.until(ended, "all jobs have ended", limit_s=180, pause_s=0.1)


def _pids(instance: Instance, command: str, *, below: int) -> list[int]:
    return [pid for pid, line in instance.marked().items()
            if line.rstrip().endswith(f"cloudsched {command}") and _parent(pid) == below]


def _child(instance: Instance, command: str) -> int:
    found = _pids(instance, command, below=instance.processes["up"].pid)
    return found[0] if found else 0


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
    return 0


def _printer(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)

    return say
