"""Does a step on a host run once at a time, whatever is lost meanwhile? Scripts on a real sshd."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.installing.hosts import STARTS_MOST, Host, Progress, Script, StepFailed
from cloudsched.drivers.ssh.connection import Connection
from tests.drivers.ssh.sshd import Sshd, Sshds

pytestmark = pytest.mark.engines
SECRET = "correct-horse-battery"


@pytest.fixture
def server(house: Sshds) -> Sshd:
    return house.start()


@pytest.fixture
def host(server: Sshd) -> Iterator[Host]:
    with Connection(server.target()) as connection:
        yield Host(connection)


def ended(host: Host, run: str, script: Script) -> Progress:
    deadline = time.monotonic() + 60
    while not (progress := host.step(run, script, wait_s=0.2)).done:
        assert time.monotonic() < deadline
    return progress


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def base(server: Sshd) -> Path:
    return server.home / ".cloudsched-install"


def test_output_facts_and_end(host: Host, server: Sshd) -> None:
    progress = ended(host, "a-1", Script('echo "::name=$who"; echo "$who was here"; echo late >&2', {"who": "it's me"}))
    assert progress.code == 0 and progress.facts == {"name": "it's me"} and progress.short() == "late"
    assert ended(host, "a-2", Script("exit 3")).code == 3 and ended(host, "a-3", Script("exit 75")).again
    left = sorted(path.name for path in (base(server) / "runs" / "a-1").iterdir())
    assert left == ["code", "out", "running", "starting", "tries"]
    host.forget("a")
    assert list((base(server) / "runs").iterdir()) == []


def test_many_ask_and_one_runs(host: Host, server: Sshd) -> None:
    script = Script(f"echo x >> {server.home}/ran; sleep 1; echo done")
    threads = [threading.Thread(target=ended, args=(host, "one-1", script)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (server.home / "ran").read_text() == "x\n" and ended(host, "one-1", script).short() == "done"
    assert (server.home / "ran").read_text() == "x\n"


def test_it_outlives_the_connection(host: Host, server: Sshd) -> None:
    script = Script(f"echo x >> {server.home}/ran; while [ ! -f {server.home}/go ]; do sleep 0.1; done; echo late")
    assert not host.step("c-1", script, wait_s=0.1).done
    until((server.home / "ran").exists)
    server.kill_sessions()
    host.connection.close()
    with Connection(server.target()) as other:
        assert not Host(other).step("c-1", script, wait_s=0.1).done
        (server.home / "go").write_text("")
        assert ended(Host(other), "c-1", script).short() == "late"
    assert (server.home / "ran").read_text() == "x\n"


def test_what_was_cut_short_is_started_again_but_not_for_ever(host: Host, server: Sshd) -> None:
    """As after a restart of the host: everything of the step is gone, and no end is written down."""
    script = Script(f"echo x >> {server.home}/ran; sleep 600")
    for started in range(1, STARTS_MOST + 1):
        assert not host.step("r-1", script, wait_s=0.1).done
        until(lambda started=started: (server.home / "ran").exists()  # type: ignore[misc]
              and len((server.home / "ran").read_text().split()) == started)
        kill_all(str(server.home))
    with pytest.raises(StepFailed, match="cut short 5 times"):
        ended(host, "r-1", script)


def kill_all(home: str) -> None:
    """What runs for steps of that home, without the sessions."""
    while True:
        found = []
        for pid in processes.every_pid():
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text()
                if f"HOME={home}".encode() in Path(f"/proc/{pid}/environ").read_bytes() and not name.startswith("sshd"):
                    found.append(pid)
        if not found:
            return
        for number in (signal.SIGSTOP, signal.SIGKILL):  # nobody sees another one die
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        time.sleep(0.02)


def test_steps_of_two_installations_take_turns(host: Host, server: Sshd) -> None:
    first = Script(f"echo a+ >> {server.home}/log; sleep 1; echo a- >> {server.home}/log")
    second = Script(f"echo b >> {server.home}/log")
    host.step("x-1", first, wait_s=0.1)
    until((server.home / "log").exists)
    host.step("y-1", second, wait_s=0.1)
    ended(host, "y-1", second)
    assert (server.home / "log").read_text().split() == ["a+", "a-", "b"]


def test_one_that_takes_too_long(host: Host) -> None:
    with pytest.raises(StepFailed, match="not done within 1 s; it said: begun"):
        ended(host, "t-1", Script("echo begun; exec sleep 60", limit_s=1))


def test_a_daemon_does_not_keep_the_step_open(host: Host, server: Sshd) -> None:
    progress = ended(host, "d-1", Script(f"setsid sleep 300 > /dev/null 2>&1 & echo $! > {server.home}/pid; echo started"))
    assert progress.code == 0
    assert ended(host, "d-2", Script("echo next")).short() == "next"  # the daemon holds no lock
    os.kill(int((server.home / "pid").read_text()), signal.SIGKILL)


def test_where_a_secret_is_seen(host: Host, server: Sshd) -> None:
    """In the script's own file while it runs, and nowhere else."""
    script = Script(f'printf %s "$KEY" > {server.home}/kept; while [ ! -f {server.home}/go ]; do sleep 0.1; done; echo "$KEY"',
                    secrets={"KEY": SECRET})  # fmt: skip
    assert not host.step("s-1", script, wait_s=0.1).done
    until((server.home / "kept").exists)
    for pid in processes.every_pid():
        if pid == os.getpid():
            continue
        with contextlib.suppress(OSError):
            assert SECRET.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            assert SECRET.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    file = base(server) / "runs" / "s-1" / "script"
    assert file.stat().st_mode & 0o777 == 0o600 and base(server).stat().st_mode & 0o077 == 0
    (server.home / "go").write_text("")
    progress = ended(host, "s-1", script)
    assert SECRET not in progress.text and progress.short() == "***" and not file.exists()


def test_a_host_without_what_is_needed(house: Sshds) -> None:
    empty = house.folder / "empty"
    empty.mkdir()
    for name in ("sh", "env", "timeout", "true", "mkdir", "cat"):
        (empty / name).symlink_to(Path("/usr/bin") / name)
    server = house.start(settings=(f"ForceCommand PATH={empty} /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"",))
    with Connection(server.target()) as connection, pytest.raises(StepFailed, match="flock is not installed"):
        Host(connection).step("a-1", Script("echo x"))


def test_a_host_that_is_not_there(server: Sshd) -> None:
    server.stop()
    with Connection(server.target(connect_timeout_s=2)) as connection, pytest.raises(DriverError) as caught:
        Host(connection).step("a-1", Script("echo x"))
    assert caught.value.transient
