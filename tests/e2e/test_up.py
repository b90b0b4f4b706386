"""Does one command start everything, keep to its place, and leave nothing behind?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from cloudsched import settings
from cloudsched.testing.instance import Instance

from .conftest import Maker
from .rows import live_nodes

pytestmark = pytest.mark.e2e

# Where a careless server writes. Its HOME and TMPDIR are empty directories of the test's own.
ELSEWHERE = ("/tmp", "/var/tmp", "/dev/shm", "/run", "/var/run", "/var/lib", "/var/log", "/etc", "/root", "/home")
BLAND = ("pipe:", "socket:", "anon_inode:", "/dev/null", "/dev/urandom", "/memfd:")


def test_up_starts_works_and_stops_without_a_trace(new_instance: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    instance = new_instance(quick=False)
    before = _entries()
    began = time.monotonic()
    instance.start("up")
    instance.wait_ready()
    with capsys.disabled():
        print(f"\n  `up` answers after {time.monotonic() - began:.2f} s", end="")
    _check_listeners(instance)
    _check_welcome(instance)

    number = instance.shell("echo $((6 * 7)); touch file; sleep 600")
    instance.until(lambda: instance.output(number) == "42\n", "output while the job runs")
    assert instance.agents() and instance.scratch_directories()
    _check_open_files(instance)

    assert instance.processes["up"].stop(signal.SIGINT) == 0
    instance.check_clean()
    assert live_nodes(instance) == []
    assert not instance.answers()
    ours = ("cloudsched", "gunicorn", instance.mark)
    strange = [path for path in _entries() - before if any(word in path for word in ours)]
    assert not [path for path in strange if not path.startswith(str(instance.root)) and "/cs-" not in path], strange
    assert not list(instance.state.glob("server.json"))
    assert "Traceback" not in instance.log_text()


def test_two_instances_side_by_side(new_instance: Maker) -> None:
    first, second = new_instance(), new_instance()
    for instance in (first, second):
        instance.start("up")
    for instance in (first, second):
        instance.wait_ready()
    numbers = [instance.shell(f"echo {instance.mark}") for instance in (first, second)]
    assert numbers == [1, 1]
    for instance in (first, second):
        instance.wait_state(1, "succeeded")
        assert instance.output(1) == f"{instance.mark}\n"
    # Same cloud names, same job numbers: stopping one takes nothing from the other.
    for instance in (first, second):
        assert instance.shell("sleep 600") == 2
        instance.wait_state(2, "running")
    assert first.processes["up"].stop(signal.SIGINT) == 0
    first.check_clean()
    kept = second.job(2)
    assert (kept["state"], kept["attempt"]) == ("running", 1)
    assert any("sleep 600" in line for line in second.marked().values())
    assert second.processes["up"].stop(signal.SIGTERM) == 0
    second.check_clean()


def test_up_refuses_ports_in_use_and_says_what_to_do(new_instance: Maker) -> None:
    instance = new_instance()
    with socket.create_server(("127.0.0.1", instance.info)):
        done = instance.cli("up")
    assert done.returncode == 1
    assert str(instance.info) in done.stderr
    assert "--port-offset" in done.stderr
    assert "Traceback" not in done.stderr
    instance.check_clean()


def test_up_killed_takes_its_processes_along(new_instance: Maker) -> None:
    """kill -9 of the parent: the others stop by themselves, machines included."""
    instance = new_instance()
    instance.start("up")
    instance.wait_ready()
    number = instance.shell("sleep 600")
    instance.wait_state(number, "running")
    instance.processes["up"].kill()
    instance.until(lambda: not instance.marked(), "all processes end", limit_s=60)
    assert not instance.machine_directories()
    # The record stands, and the job runs again when the instance comes back.
    instance.start("up")
    instance.wait_ready()
    assert instance.wait_state(number, "running")["attempt"] == 2
    assert instance.processes["up"].stop(signal.SIGINT) == 0
    instance.check_clean()


@pytest.mark.parametrize("variables, told", [
    ({"CLOUDSCHED_LISTEN_BIND": "0.0.0.0"}, "access.cloud_scheduler_networks"),
    ({"CLOUDSCHED_LISTEN_CLOUD_SCHEDULER_BIND": "0.0.0.0"}, "access.cloud_scheduler_networks"),
    ({"CLOUDSCHED_LISTEN_NATIVE_BIND": "0.0.0.0", "CLOUDSCHED_ACCESS_REQUIRE_KEYS": "no"}, "access.require_keys"),
])
@pytest.mark.parametrize("command", ["up", "serve"])
def test_no_open_door_by_accident(new_instance: Maker, command: str, variables: dict[str, str], told: str) -> None:
    instance = new_instance()
    done = instance.cli(command, env=variables)
    assert done.returncode == 1
    assert told in done.stderr
    assert not instance.marked()
    assert not instance.state.exists()


def test_beyond_loopback_nobody_comes_in_without_a_key(new_instance: Maker) -> None:
    config = {"listen": {"native_bind": "0.0.0.0"}}
    instance = new_instance(config=config)
    instance.start("serve")
    instance.wait_ready()
    assert instance.call("GET", "/api/v2/jobs").status == 401
    assert instance.call("POST", "/api/v2/jobs", {"kind": "noop"}).status == 401
    instance.stop()


def _check_listeners(instance: Instance) -> None:
    """The shifted ports of loopback answer, each with its own dialect; nothing else of ours listens."""
    assert instance.api("GET", "/jobs") == {"items": [], "next": None}
    assert instance.call("GET", "/", port=instance.info).text.startswith("Cloud Scheduler")
    assert instance.call("GET", "/user-limits", port=instance.admin).status == 200
    assert instance.call("GET", "/clusters", port=instance.admin).status == 404
    inodes = {os.readlink(link)[8:-1] for pid in instance.marked() for link in _links(pid)
              if os.readlink(link).startswith("socket:")}
    listening = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, _, port = fields[1].partition(":")
                listening.add((address, int(port, 16)))
    expected = {item.port for item in settings.load(environ=instance.environment()).listeners()}
    assert {instance.native, instance.info, instance.admin} <= expected
    assert listening == {("0100007F", port) for port in expected}


def _check_welcome(instance: Instance) -> None:
    def said() -> bool:
        text = instance.processes["up"].log.read_text()
        return all(f":{port}/" in text for port in (instance.native, instance.info, instance.admin)) and str(
            instance.state) in text

    instance.until(said, "the addresses are printed")


def _check_open_files(instance: Instance) -> None:
    """Whatever a process holds open for writing lies in the state directory (or is the test's own log)."""
    allowed = (str(instance.state), str(instance.logs))
    strange = set()
    for pid in instance.marked():
        for link in _links(pid):
            try:
                target, flags = os.readlink(link), _flags(pid, os.path.basename(link))
            except OSError:
                continue
            if flags & os.O_ACCMODE != os.O_RDONLY and not target.startswith((*BLAND, *allowed)):
                strange.add(target)
    assert not strange


def _links(pid: int) -> list[str]:
    try:
        return [f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return []


def _flags(pid: int, number: str) -> int:
    for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
        if line.startswith("flags:"):
            return int(line.split()[1], 8)
    return 0


def _entries() -> set[str]:
    found = set()
    for folder in ELSEWHERE:
        try:
            found |= {f"{folder}/{name}" for name in os.listdir(folder)}
        except OSError:
            continue
    return found


def test_serve_and_engine_stop_by_themselves_in_any_order(new_instance: Maker) -> None:
    instance = new_instance()
    instance.start_all()
    number = instance.shell("sleep 600")
    instance.wait_state(number, "running")
    stream = subprocess.Popen(["curl", "-sN", "-H", "Accept: text/event-stream", f"{instance.url}/api/v2/events"],
                              stdout=subprocess.DEVNULL) if _has_curl() else None
    assert instance.processes["serve"].stop(limit_s=15) == 0  # an open stream does not keep it
    assert instance.processes["engine"].stop(limit_s=30) == 0
    instance.check_clean()
    if stream is not None:
        stream.wait(timeout=10)


def _has_curl() -> bool:
    return any(os.access(f"{folder}/curl", os.X_OK) for folder in os.environ["PATH"].split(":"))
