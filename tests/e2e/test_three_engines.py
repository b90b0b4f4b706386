"""Does one queue use three kinds of clouds at once, by priority, and lose nothing when one of them goes away?

Real processes: this machine (Local), three sshd (SSH), a Slurm cluster, all from one cloud_resources.conf.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.testing.instance import Instance
from tests.drivers.slurm import cluster as slurm
from tests.drivers.slurm.cluster import SlurmCluster, cluster_in
from tests.drivers.ssh.sshd import Sshd, Sshds, why_not

from .conftest import Maker
from .rows import live_nodes, rows

pytestmark = [pytest.mark.engines, pytest.mark.e2e]

JOBS = 200
SLOTS = {"desk": 2, "lab": 6, "hpc": 4}  # in the order of their priorities
PATIENCE_S = 120.0
SUBMIT = """\
executable = /bin/sh
arguments = "-c 'echo $(Cluster).$(Process) >&1; sleep 0.4'"
request_memory = 64
output = out/$(Process)
priority = 0
queue 100
priority = 5
queue 100
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Passable, as the homes of other users are."""
    made = Path(tempfile.mkdtemp(prefix="cs-three-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def hosts(folder: Path) -> Iterator[list[Sshd]]:
    if why := why_not():
        pytest.skip(why)
    with Sshds(folder) as house:
        yield house.start_many(3)


@pytest.fixture
def cluster(folder: Path) -> Iterator[SlurmCluster]:
    if why := slurm.missing():
        pytest.skip(why)
    with cluster_in(folder / "slurm") as made:
        yield made


def clouds_conf(hosts: list[Sshd], cluster: SlurmCluster) -> str:
    pool = json.dumps([host.option(cores=2) for host in hosts])
    return f"""\
[desk]
cloud_type: Local
vm_slots: {SLOTS["desk"]}
priority: 0
enabled: true

[lab]
cloud_type: SSH
hosts: {pool}
user: {getpass.getuser()}
key: {hosts[0].client_key}
connect_timeout_s: 3
vm_slots: {SLOTS["lab"]}
priority: 1
enabled: true

[hpc]
cloud_type: Slurm
env: SLURM_CONF={cluster.conf}
vm_slots: {SLOTS["hpc"]}
priority: 2
enabled: true
"""


@pytest.mark.timeout(420)
def test_a_queue_over_three_clouds_of_which_one_goes_away(
        new_instance: Maker, folder: Path, hosts: list[Sshd], cluster: SlurmCluster, capsys: pytest.CaptureFixture[str]) -> None:
    conf = folder / "cloud_resources.conf"
    conf.write_text(clouds_conf(hosts, cluster))
    instance = new_instance(config={"cloud_scheduler": {"config_file": "none", "cloud_resource_config": str(conf)}})
    instance.start_all()
    assert {cloud["name"] for cloud in instance.api("GET", "/clouds")["items"]} >= set(SLOTS)
    _look_around(instance, cluster)
    began = time.monotonic()
    _submit(instance, folder)
    instance.until(lambda: _states(instance)["succeeded"] >= 60 and _ended_on(instance).keys() >= set(SLOTS),
                   "all clouds are at work", limit_s=PATIENCE_S)

    _die(hosts)
    targeted = instance.shell("echo back", targets=["lab"])
    said = instance.until(lambda: _why_unreachable(instance, targeted), "why tells that lab is away", limit_s=PATIENCE_S)
    assert "cannot be reached" in said
    instance.until(lambda: _states(instance)["succeeded"] >= JOBS, "all jobs of the queue ended well", limit_s=PATIENCE_S)
    took_s = time.monotonic() - began
    assert instance.job(targeted)["state"] == "queued"  # it may run on lab alone, and waits for it

    for host in hosts:
        host.start()
    instance.wait_state(targeted, "succeeded", limit_s=PATIENCE_S)
    assert dict(_states(instance)) == {"succeeded": JOBS + 1}
    _check_order(instance)
    with capsys.disabled():
        lost = rows(instance, "SELECT count(*) FROM event WHERE kind IN ('job.lose', 'job.give_back')")[0][0]
        print(f"\n  {JOBS} jobs in {took_s:.1f} s: {dict(_ended_on(instance))}, {lost} handed out again; why: {said}", end="")
    instance.until(lambda: not live_nodes(instance), "idle machines go", limit_s=PATIENCE_S)
    _check_nothing_left(instance, hosts, cluster)
    instance.stop()


def _look_around(instance: Instance, cluster: SlurmCluster) -> None:
    """What more these kinds of clouds can do, over HTTP and by the command line."""
    ran = instance.api("POST", "/clouds/lab/run", {"command": "echo on $CLOUDSCHED_TEST_HOST"})
    assert [one["stdout"] for one in ran["items"]] == [f"on h{number}\n" for number in (1, 2, 3)]
    assert all(one["facts"]["cores"] for one in instance.api("GET", "/clouds/lab/hosts")["items"])
    assert {one["name"] for one in instance.api("GET", "/clouds/hpc/nodes")["items"]} == set(cluster.nodes)
    for verb, state in (("drain", "drained"), ("resume", "idle")):
        done = instance.cli("clouds", verb, "hpc", cluster.nodes[0])
        assert done.returncode == 0, done.stdout + done.stderr
        instance.until(lambda state=state: state in {  # type: ignore[misc]
            one["state"] for one in instance.api("GET", "/clouds/hpc/nodes")["items"] if one["name"] == cluster.nodes[0]}, state)
    ids = instance.api("POST", "/clouds/hpc/batch", {"jobs": [{"command": ["true"]}] * 3})["ids"]
    instance.until(lambda: all(one["state"] == "succeeded" for one in instance.api(
        "GET", "/clouds/hpc/batch", ids=",".join(ids))["items"]), "batch jobs have ended")
    refused = instance.call("POST", "/api/v2/clouds/desk/run", {"command": "true"})
    assert (refused.status, refused.json["capability"]) == (409, "run")


def _submit(instance: Instance, folder: Path) -> None:
    """As a user of Cloud Scheduler does: a submit file."""
    place = folder / "work"
    (place / "out").mkdir(parents=True)
    (place / "job.sub").write_text(SUBMIT)
    done = instance.cli("submit", "job.sub", cwd=place)
    assert done.returncode == 0, done.stdout + done.stderr


def _states(instance: Instance) -> Counter[str]:
    return Counter({state: count for state, count in instance.api("GET", "/jobs/count")["by_state"].items() if count})


def _ended_on(instance: Instance) -> Counter[str]:
    return Counter(dict(rows(instance, "SELECT c.name, count(*) FROM job j JOIN node n ON n.id = j.node_id "
                                       "JOIN cloud c ON c.id = n.cloud_id WHERE j.state = 'succeeded' GROUP BY c.name")))


def _die(hosts: list[Sshd]) -> None:
    """The hosts lose power: what runs on them is gone without a word, and nobody listens."""
    for host in hosts:
        host.stop()
    for pid in _on(hosts):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _on(hosts: list[Sshd]) -> list[int]:
    """What runs on the hosts, but for their sshd."""
    marks = [str(host.folder).encode() + b"/" for host in hosts]
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            words, there = Path(f"/proc/{pid}/cmdline").read_bytes(), os.readlink(f"/proc/{pid}/cwd").encode()
            if any(mark in words or there.startswith(mark) for mark in marks) and b"sshd" not in words.split(b"\0")[0]:
                found.append(pid)
    return found


def _why_unreachable(instance: Instance, number: int) -> str:
    told: dict[str, Any] = instance.api("GET", f"/why/job/{number}")
    found = any(one["rule"] == "unreachable" and one["cloud"] == "lab" for one in told["reasons"])
    return str(told["verdict"]) if found and "lab cannot be reached" in told["verdict"] else ""


def _check_order(instance: Instance) -> None:
    """Clouds were filled by their priority, jobs began by theirs."""
    first = [name for (name,) in rows(instance, "SELECT c.name FROM node n JOIN cloud c ON c.id = n.cloud_id ORDER BY n.id")]
    assert first[:sum(SLOTS.values())] == [name for name, count in SLOTS.items() for _ in range(count)]
    begun = [priority for (priority,) in rows(
        instance, "SELECT j.priority FROM event e JOIN job j ON j.id = e.subject_id WHERE e.kind = 'job.claim' "
                  "AND e.subject_kind = 'job' ORDER BY e.id LIMIT 100")]
    assert begun.count(5) >= 90, begun


def _check_nothing_left(instance: Instance, hosts: list[Sshd], cluster: SlurmCluster) -> None:
    instance.until(lambda: not cluster.queue(), "Slurm has no job", limit_s=30)
    instance.until(lambda: not _on(hosts), "nothing runs on the hosts", limit_s=30)
    assert instance.agents() == []
