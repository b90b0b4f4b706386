"""Does a pool of two hosts work behind a real server: added, used, in trouble, empty again?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.testing.instance import Instance
from tests.drivers.ssh.sshd import Sshd, Sshds

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
LIMIT_S = 120.0


@pytest.fixture
def instance() -> Iterator[Instance]:
    with Instance(config={"local": {"enabled": "no"}}) as made:
        yield made.start_all()


@pytest.fixture
def hosts(sshds: Sshds) -> Iterator[list[Sshd]]:
    made = sshds.start_many(2)
    yield made
    for host in made:
        host.stop()


def add(instance: Instance, hosts: list[Sshd], key: Path, *more: str) -> str:
    tables = [host.option(cores=4, memory_mb=4000, storage_gb=100, machines=2) for host in hosts]
    done = instance.cli("clouds", "add", "pool", "--kind", "ssh", "--slots", "4", "--cores", "8", "--memory", "8000M",
                        "--option", f"hosts={json.dumps(tables)}", "--credential-file", f"key={key}", *more)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def left_on(hosts: list[Sshd]) -> list[str]:
    """Directories, files and processes of machines."""
    found = [str(path) for host in hosts for path in host.work_dir.glob("*") if not path.name.startswith("agent-")]
    found = [one for one in found if not one.endswith("/lock")]
    for host in hosts:
        found += [f"process {pid}" for pid in processes.every_pid() if str(host.work_dir).encode() in processes.environment(pid)]
    return found


def live(instance: Instance) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = instance.api("GET", "/nodes", limit=100)["items"]
    return [node for node in nodes if node["state"] not in ("gone", "failed")]


def test_twenty_jobs_on_two_hosts(instance: Instance, hosts: list[Sshd], sshds: Sshds) -> None:
    said = add(instance, hosts, sshds.key)
    assert "PRIVATE" not in said
    jobs = [instance.shell(f"sleep 0.3; echo $CLOUDSCHED_NODE job {number}", cores=1) for number in range(20)]
    for job in jobs:
        instance.wait_state(job, "succeeded", limit_s=LIMIT_S)
    assert [instance.output(job).split()[1:] for job in jobs] == [["job", str(number)] for number in range(20)]
    names = {instance.output(job).split()[0] for job in jobs}
    assert len(names) >= 2
    pins = next((instance.state / "ssh").glob("known_hosts-pool"))
    assert {line.split()[0] for line in pins.read_text().splitlines()} == {f"[127.0.0.1]:{host.port}" for host in hosts}
    instance.until(lambda: not live(instance), "the machines retire", limit_s=LIMIT_S)
    instance.until(lambda: not left_on(hosts), "nothing is left on the hosts", limit_s=LIMIT_S)
    kept = next((instance.state / "ssh").glob("machines-*.json"))
    instance.until(lambda: json.loads(kept.read_text()) == {"machines": {}}, "nothing is remembered", limit_s=LIMIT_S)
    shown = instance.cli("clouds", "show", "pool").stdout + instance.log_text()
    assert "PRIVATE KEY" not in shown and "Traceback" not in shown
    instance.stop()
    assert left_on(hosts) == []


def test_one_of_two_hosts_dies_with_its_machines(instance: Instance, hosts: list[Sshd], sshds: Sshds) -> None:
    add(instance, hosts, sshds.key, "--keep-alive", "600s")
    job = instance.shell("sleep 600", cores=1)
    running = instance.wait_state(job, "running", limit_s=LIMIT_S)
    first = instance.api("GET", f"/nodes/{running['node']}")
    host = next(host for host in hosts if host.work_dir.exists() and list(host.work_dir.glob("*/*/machine.json")))
    other = next(one for one in hosts if one is not host)
    host.stop()
    for pid, _ in processes.standing_in(str(host.work_dir)):
        with contextlib.suppress(ProcessLookupError):  # it went with another
            os.kill(pid, signal.SIGKILL)
    # The job goes back when its node was silent for a lease; nobody claims that the machine is gone.
    again = instance.shell("echo on the other host", cores=3, memory_mb=3000)  # beside the first, should it be back
    instance.wait_state(again, "succeeded", limit_s=LIMIT_S)
    told = instance.until(lambda: (one := instance.api("GET", f"/nodes/{first['name']}"))["status"] != "Running" and one,
                          "its status", limit_s=LIMIT_S)  # fmt: skip
    assert (told["state"], told["status"]) == ("running", "Unreachable")
    assert instance.api("GET", "/clouds/pool")["enabled"]
    assert list(other.work_dir.glob("*/*/machine.json"))
    host.start()
    instance.until(lambda: instance.api("GET", f"/nodes/{first['name']}")["status"] != "Unreachable", "it is seen",
                   limit_s=LIMIT_S)  # fmt: skip
    instance.until(lambda: instance.api("GET", f"/nodes/{first['name']}")["state"] in ("gone", "failed"),
                   "it has no agent, and is taken away", limit_s=LIMIT_S)  # fmt: skip
    instance.api("POST", f"/jobs/{job}/cancel")
    assert instance.cli("clouds", "remove", "pool", "--yes", "--force").returncode == 0
    instance.until(lambda: not left_on(hosts), "nothing is left on the hosts", limit_s=LIMIT_S)
    assert "Traceback" not in instance.log_text()
