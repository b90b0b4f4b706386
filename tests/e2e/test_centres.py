"""Compute centres with real servers: one that manages, one that is the executor of a centre elsewhere; and real hosts.

The first test needs nothing but processes. The others need sshd and Slurm: three hosts become a cluster, run work, and are
idle again, whoever is killed meanwhile.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from cloudsched.drivers.installing import slurm
from cloudsched.drivers.installing.hosts import Host
from cloudsched.services.centre import executor_ops
from cloudsched.services.centre.executor import Access
from cloudsched.settings import load
from cloudsched.testing.faultproxy import FaultProxy
from cloudsched.testing.instance import Instance
from tests.drivers.slurm.cluster import missing
from tests.drivers.ssh.sshd import Account, Sshd, Sshds, free_port, why_not

from .conftest import Maker

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]
KBOSS = 8088
LIMIT_S = 180.0
API = {"api_user": "apiuser", "api_password": "Pa55-w0rd-api"}


class Manager:
    """The kboss API of an instance."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.port = KBOSS + instance.offset

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def do(self, path: str, **params: Any) -> dict[str, Any]:
        form = urlencode({name: value for name, value in params.items() if value is not None})
        answer = self.instance.call("POST", path, form, port=self.port, timeout_s=120, headers={
            "Content-Type": "application/x-www-form-urlencoded", "Accept-Language": "en"})
        assert answer.status == 200, answer.text
        found: dict[str, Any] = answer.json
        return found

    def ok(self, path: str, **params: Any) -> Any:
        found = self.do(path, **params)
        assert found["status"] is True, found
        return found["data"]

    def operation(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.ok("/dev/cpcc/cpccluster/get_operation.dspy", id=number)
        return found

    def ended(self, number: int, *, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """An operation once it has ended, however often the server goes away meanwhile."""
        def look() -> dict[str, Any] | None:
            with contextlib.suppress(OSError):
                found = self.operation(number)
                return found if found["state"] in ("succeeded", "failed", "cancelled") else None
            return None

        return self.instance.until(look, f"the end of operation {number}", limit_s=limit_s, pause_s=0.2)

    def done(self, data: dict[str, Any], *, limit_s: float = LIMIT_S) -> dict[str, Any]:
        """What an operation that was begun came to; it must be good."""
        found = self.ended(data["operation"], limit_s=limit_s)
        assert found["state"] == "succeeded", found
        return found

    def centre(self, **facts: Any) -> str:
        return str(self.ok("/dev/cpcc/cpclist/add_cpclist.dspy", **{"name": "east", "pcapi_url": "local", **facts})["id"])

    def hosts(self, centre: str) -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in self.ok("/dev/cpcc/cpcnode/get_cpcnode.dspy", cpcid=centre)["rows"]}


def test_a_centre_on_another_server(new_instance: Maker) -> None:
    """Wrong password, time limits, a restart of the remote in the middle: each said clearly, none of it in the way."""
    near = new_instance(config={"centres": {"connect_timeout_s": 2, "read_timeout_s": 3, "away_limit_s": 60,
                                            "install_limit_s": 60}})
    far = new_instance(config={"centres": API})
    for one in (near, far):
        one.start("serve")
        one.start("engine")
    near.wait_ready()
    far.wait_ready()
    manager = Manager(near)
    with FaultProxy(Manager(far).url) as between:
        centre = manager.centre(pcapi_url=between.url, api_user="apiuser", api_pwd="wrong-pa55")
        host = manager.ok("/dev/cpcc/cpcnode/add_cpcnode.dspy", cpcid=centre, ip="127.0.0.1", name="a", adminuser="nobody",
                          adminpwd="Pa55-w0rd-host", sshport=free_port())["id"]
        new = {"cpcid": centre, "ctl_nodeid": host, "cluster_type": "slurm", "cluster_name": "c"}

        def answer() -> str:
            return str(manager.do("/dev/cpcc/cpccluster/new_cluster.dspy", **new)["msg"])

        # a wrong password
        assert answer() == (f"the compute centre failed: the pcapi at {between.url} refuses the name and password (401)")
        assert manager.hosts(centre)["a"]["node_status"] == "0"
        manager.ok("/dev/cpcc/cpclist/update_cpclist.dspy", id=centre, api_pwd=API["api_password"])

        # it is not there, stalls, loses its answer; then it is asked, once
        for kind in ("unreachable", "stall", "answer_lost"):
            between.schedule(kind, pause_s=5.0, when=lambda asked: asked.path.endswith("/new_cluster"))
        begun = manager.ok("/dev/cpcc/cpccluster/new_cluster.dspy", **new, **{"async": "1"})
        near.until(lambda: manager.operation(begun["operation"])["steps"][0]["state"] == "done", "the centre was asked",
                   limit_s=60)
        assert [step["state"] for step in manager.operation(begun["operation"])["steps"]][:2] == ["done", "waiting"]
        assert len(far.api("GET", "/operations")["items"]) == 1

        # the far server goes away and comes back: both go on
        for name in ("serve", "engine"):
            far.processes[name].kill()
        near.until(lambda: "cannot be reached" in manager.operation(begun["operation"])["steps"][1]["detail"],
                   "it is away", limit_s=60)
        for name in ("serve", "engine"):
            far.processes[name].start()
        far.wait_ready()
        near.until(lambda: "no connection" in manager.operation(begun["operation"])["steps"][1]["detail"]
                   or "127.0.0.1" in manager.operation(begun["operation"])["steps"][1]["detail"], "it goes on", limit_s=60)
        number = far.api("GET", "/operations")["items"][0]["id"]
        far.api("POST", f"/operations/{number}/cancel")
        ended = manager.ended(begun["operation"], limit_s=120)
        assert ended["state"] == "failed" and manager.hosts(centre)["a"]["node_status"] == "0"
    nothing_secret([near, far], ["Pa55-w0rd-host", "Pa55-w0rd-api", "wrong-pa55"], but=far.config_file)


def nothing_secret(instances: list[Instance], secrets: list[str], *, but: Path | None = None) -> None:
    """Nothing that was kept or logged holds one of these."""
    for instance in instances:
        for path in instance.root.rglob("*"):
            if path.is_file() and path not in (but, instance.state / "secret.key", instance.state / "admin.key"):
                raw = path.read_bytes()
                for secret in secrets:
                    assert secret.encode() not in raw, f"{secret} is in {path}"


# real hosts


class Site:
    """Three hosts with sshd, each with directories and ports of its own, and an instance that manages them."""

    def __init__(self, root: Path, house: Sshds, account: Account | None, instance: Instance) -> None:
        self.root, self.account, self.instance = root, account, instance
        self.manager = Manager(instance)
        self.machines = [house.start(password=account is not None) for _ in range(3)]
        self.port = free_port()
        for machine in self.machines:
            (machine.folder / "slurm").mkdir()
            if account is not None:
                os.chown(machine.folder / "slurm", *account.ids)
                os.chown(machine.home, *account.ids)
        self.centre = self.manager.centre()

    def add(self, number: int) -> str:
        """Register a host; its id."""
        machine = self.machines[number]
        options = {"prefix": str(machine.folder / "slurm" / "all"), "node_name": f"n{number}", "slurmd_port": free_port(),
                   "cores": 4, "memory_mb": 4000, "host_key": machine.host_key()}
        return str(self.manager.ok(
            "/dev/cpcc/cpcnode/add_cpcnode.dspy", cpcid=self.centre, ip=machine.address, sshport=machine.port,
            name=f"host {number}",
            adminuser=self.user, adminpwd=self.secret(machine), cpu_stock=4, memory_stock=4, options=json.dumps(options))["id"])

    @property
    def user(self) -> str:
        return self.account.name if self.account is not None else getpass.getuser()

    def secret(self, machine: Sshd) -> str:
        return self.account.password if self.account is not None else Path(machine.client_key).read_text()

    def slurm(self, *words: str) -> str:
        """A command on the controller."""
        machine = self.machines[0]
        password = self.account.password if self.account is not None else ""
        access = Access(machine.address, machine.port, self.user, password, "" if password else machine.client_key.read_text(),
                        host_key=machine.host_key())
        executor_ops.configure(load({"state": str(self.root / "looking")}, environ={}))
        found = Host(executor_ops.connect(access, sudo=False))
        return found.asked(slurm.command(str(machine.folder / "slurm" / "all"), *words), words[0])

    def close(self) -> None:
        executor_ops._connections.close()


@pytest.fixture
def site(new_instance: Maker) -> Iterator[Site]:
    if why := why_not() or missing():
        pytest.skip(why)
    instance = new_instance(config={"centres": {"install_limit_s": 120}, "engine": {"lease_s": 2},
                                    "local": {"clouds": []}})
    instance.start_all()
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cs-site-", ignore_cleanup_errors=True)))
        root.chmod(0o711)
        account = stack.enter_context(Account(root / "home")) if os.geteuid() == 0 else None
        made = Site(root, stack.enter_context(Sshds(root)), account, instance)
        stack.callback(made.close)
        yield made


def test_three_hosts_become_a_cluster_and_are_idle_again(site: Site) -> None:
    manager, instance = site.manager, site.instance
    hosts = [site.add(number) for number in range(3)]
    options = {"slurmctld_port": site.port, "compute": True}

    # the server is killed in the middle of the installation, which then goes on
    begun = manager.ok("/dev/cpcc/cpccluster/new_cluster.dspy", cpcid=site.centre, ctl_nodeid=hosts[0], cluster_type="1",
                       cluster_name="demo", options=json.dumps(options), **{"async": "1"})
    instance.until(lambda: manager.operation(begun["operation"])["steps"][1]["detail"], "it is being installed", limit_s=60)
    for name in ("engine", "serve"):
        instance.processes[name].kill()
    for name in ("serve", "engine"):
        instance.processes[name].start()
    manager.done(begun)
    cluster = begun["clusterid"]
    for number in (1, 2):
        manager.done(manager.ok("/dev/cpcc/cpcworker/new_cpcworker.dspy", cpcid=site.centre, clusterid=cluster,
                                worker_nodeid=hosts[number], **{"async": "1"}))
    rows = {row["name"]: row for row in manager.ok("/dev/cpcc/cpccluster/get_cpccluster.dspy", cpcid=site.centre)["rows"]}
    assert rows["demo"]["ready"] == 1 and rows["demo"]["clusterjoin"].startswith("sealed:1:")
    assert {row["role"] for row in manager.hosts(site.centre).values()} == {"master", "worker"}

    # a job of Slurm's own, and one of the batch queue
    def nodes() -> dict[str, str]:
        found = manager.ok("/dev/cpcc/cpcworker/get_cpcworker.dspy", cpcid=site.centre, clusterid=cluster)["rows"]
        return {row["node_name"]: row["node_status"] for row in found}

    instance.until(lambda: set(nodes()) == {"n0", "n1", "n2"} and len(set(nodes().values())) == 1, "all nodes answer", limit_s=60)
    out = site.machines[0].folder / "slurm" / "all" / "state" / "out"
    site.slurm("sbatch", "-D", "/", "-N3", "-W", "-o", str(out), "--wrap", "srun -l sh -c 'echo $SLURMD_NODENAME'")
    assert sorted(line.split()[-1] for line in out.read_text().splitlines()) == ["n0", "n1", "n2"]
    made = next(cloud for cloud in instance.api("GET", "/clouds")["items"] if cloud["kind"] == "Slurm")
    assert made["enabled"] is True, made
    job = instance.shell("echo here")
    instance.wait_state(job, "succeeded", limit_s=120)
    assert instance.output(job) == "here\n"
    assert {node["cloud"] for node in instance.api("GET", "/nodes")["items"] if not node["cloud"].startswith("east")} == {"demo"}

    # one node is drained and removed, its host idle
    manager.done(manager.ok("/dev/cpcc/cpcworker/delete_cpcworker.dspy", cpcid=site.centre, clusterid=cluster,
                            worker_nodeid=hosts[2], **{"async": "1"}))
    assert set(nodes()) == {"n0", "n1"} and manager.hosts(site.centre)["host 2"]["node_status"] == "0"

    # all of it goes
    manager.done(manager.ok("/computing/cpcluster_delete.dspy", id=cluster, **{"async": "1"}))
    assert {row["node_status"] for row in manager.hosts(site.centre).values()} == {"0"}
    assert not any((machine.folder / "slurm" / "all").exists() for machine in site.machines)
    for host in hosts:
        manager.ok("/dev/cpcc/cpcnode/delete_cpcnode.dspy", id=host)
    manager.ok("/dev/cpcc/cpclist/delete_cpclist.dspy", id=site.centre)
    if site.account is not None:
        nothing_secret([instance], [site.account.password])
