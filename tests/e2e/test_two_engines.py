"""Do two engines on one Postgres share the work, and does one go on when the other is killed? Nothing is doubled."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest

from cloudsched.testing.instance import Instance
from cloudsched.testing.load import EventFollower, Submitter

from ..crash.promises import check_gone, check_outputs, check_record, check_stream, open_jobs
from .conftest import Maker
from .rows import live_nodes, rows, value

pytestmark = [pytest.mark.e2e, pytest.mark.postgres]

CLOUDS = [{"name": f"local-{letter}", "slots": 3, "cores": 1, "memory_mb": 2048, "keep_alive_s": 2} for letter in "ab"]
LED = ("scheduler", "cleanup", "node_poller", "job_poller", "sweep", "upkeep")


@pytest.mark.timeout(180)
def test_the_other_engine_takes_over(new_instance: Maker, pg_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    instance = new_instance(clouds=CLOUDS, database_url=pg_url)
    instance.start("serve")
    instance.wait_ready()
    instance.start("engine", name="engine-1")
    leader = instance.until(lambda: _leader(instance), "a leader of all loops")
    instance.start("engine", name="engine-2")
    instance.until(lambda: len(_present(instance)) == 2, "both engines are there")
    assert _leader(instance) == leader  # a newcomer takes nothing away

    submitter, follower = Submitter(instance, 80, seed=11), EventFollower(instance)
    submitter.start()
    follower.start()
    instance.until(lambda: _ended(instance) >= 5, "work is under way")
    assert _pid_of(leader) == instance.processes["engine-1"].pid
    os.kill(instance.processes["engine-1"].pid, signal.SIGKILL)
    killed = time.monotonic()
    instance.processes["engine-1"].popen.wait(10)  # type: ignore[union-attr]
    successor = instance.until(lambda: _leader(instance, other_than=leader), "the other leads", limit_s=60)
    assert _pid_of(successor) == instance.processes["engine-2"].pid
    with capsys.disabled():
        print(f"\n  the second engine leads all loops {time.monotonic() - killed:.1f} s after the kill", end="")

    most = 0
    submitter.join(60)
    assert submitter.failure is None, repr(submitter.failure)

    def done() -> bool:
        nonlocal most
        most = max(most, _check_machines(instance))
        return open_jobs(instance) == 0

    instance.until(done, "all jobs have ended", limit_s=90)
    assert most > 0
    check_record(instance, submitter.load)
    check_outputs(instance, submitter.load)
    instance.until(lambda: not live_nodes(instance), "idle machines are retired", limit_s=60)
    check_stream(instance, follower)
    instance.stop()
    check_gone(instance)


@pytest.mark.timeout(120)
def test_the_last_engine_to_stop_takes_the_machines_along(new_instance: Maker, pg_url: str) -> None:
    instance = new_instance(clouds=[{**CLOUDS[0], "keep_alive_s": 600}], database_url=pg_url)
    instance.start("serve")
    instance.wait_ready()
    for name in ("engine-1", "engine-2"):
        instance.start("engine", name=name)
    instance.until(lambda: len(_present(instance)) == 2, "both engines are there")
    number = instance.shell("sleep 3600")
    instance.wait_state(number, "running")
    assert instance.processes["engine-1"].stop() == 0
    assert instance.job(number)["state"] == "running"  # the other goes on with it
    assert len(instance.agents()) == 1
    # Now the other is killed and comes back: its own ghost must not keep it from cleaning up.
    instance.processes["engine-2"].restart()
    pid = instance.processes["engine-2"].pid
    instance.until(lambda: pid in map(_pid_of, _present(instance)), "it is back")
    assert instance.processes["engine-2"].stop() == 0
    assert instance.agents() == []
    assert live_nodes(instance) == []
    assert instance.job(number)["state"] == "queued"
    instance.stop()


def _leader(instance: Instance, *, other_than: str = "") -> str:
    """The one that leads all loops now; '' while there is none, or several."""
    held = dict(rows(instance, "SELECT name, holder FROM lease WHERE until > ?", time.time()))
    holders = {held.get(name, "") for name in LED}
    return holders.pop() if len(holders) == 1 and other_than not in holders else ""


def _present(instance: Instance) -> set[str]:
    return {row[0] for row in rows(
        instance, "SELECT holder FROM lease WHERE name LIKE ? AND until > ?", "engine:%", time.time())}


def _pid_of(holder: str) -> int:
    return int(holder.split(":")[-2])


def _ended(instance: Instance) -> int:
    return int(value(instance, "SELECT count(*) FROM job WHERE state IN ('succeeded', 'failed', 'timeout', 'cancelled')"))


def _check_machines(instance: Instance) -> int:
    """Machines are there once, for rows that know of them; returns how many."""
    folders = [path.name for path in instance.machine_directories()]
    known = {row[0] for row in rows(instance, "SELECT name FROM node")}
    assert max(Counter(folders).values(), default=1) == 1, folders
    assert set(folders) <= known, f"machines without a row: {set(folders) - known}"
    counted = Counter(path.parent.name for path in instance.machine_directories())
    assert all(count <= 3 for count in counted.values()), counted
    marked, guards = instance.marked(), instance.agents()
    lines = Counter(marked[pid].split(" --name ")[1].split()[0] for pid in guards if pid in marked)
    assert max(lines.values(), default=1) == 1, f"two agents of one machine: {lines}"
    return len(folders)
