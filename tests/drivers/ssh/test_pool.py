"""Is a machine on a host an agent that is found, kept and really destroyed, whatever dies in between?"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Machine, Place
from cloudsched.drivers.ssh import driver as module
from cloudsched.drivers.ssh import keeper
from cloudsched.drivers.ssh.connection import Connection
from cloudsched.drivers.ssh.driver import SshDriver
from tests.drivers.ssh.sshd import Account, Sshd, Sshds, silent_listener
from tests.drivers.ssh.test_contract import SshCase
from tests.drivers.test_local import until

pytestmark = pytest.mark.engines
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
LIMIT_S = 60.0


class PoolCase(SshCase):
    """Hosts by label, and what lies on them."""

    def on(self, machine: Machine) -> Sshd:
        return next(host for host in self.servers if f"127.0.0.1:{host.port}" == machine.handle["host"])

    def home(self, machine: Machine) -> Path:
        return next(path.parent for path in self.on(machine).work_dir.glob("*/*/machine.json")
                    if machine.handle["mark"] in path.read_text())  # fmt: skip

    def one(self, **options: Any) -> SshDriver:
        """A driver whose place has these options."""
        place = self.place("one")
        made = self.make(Place("one", "SSH", {**place.options, **options}, place.credentials, state_dir=str(self.tmp),
                               server_url=self.server.url, instance="test"))  # fmt: skip
        self._drivers.append(made)
        return made


class TestMachines(PoolCase):
    def test_it_offers_its_share_and_runs_jobs_with_nothing_of_ours(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted(cores=3, memory_mb=777, storage_gb=4, slots=2))
        self.settle(driver, "node-1")
        profile = self.server.nodes[1].profile
        assert [profile[name] for name in ("cores", "memory_mb", "storage_gb", "slots")] == [3, 777, 4, 2]
        self.server.wait(self.server.submit("env"))
        env = dict(line.split("=", 1) for line in self.server.jobs[1].output("stdout").decode().splitlines())
        assert (env["CLOUDSCHED_NODE"], env["CLOUDSCHED_INSTANCE"]) == ("node-1", "test")
        assert set(env) == {"PATH", "HOME", "TMPDIR", "CLOUDSCHED_JOB", "CLOUDSCHED_JOB_ID", "CLOUDSCHED_ATTEMPT",
                            "CLOUDSCHED_MACHINE", "CLOUDSCHED_NODE", "CLOUDSCHED_INSTANCE"}  # fmt: skip

    def test_it_outlives_the_connection_and_the_server_on_its_host(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        driver.close()
        host = self.on(machine)
        host.stop()
        self.server.wait(self.server.submit("echo", "alive"))
        told = {one.name: one for one in driver.machines()}
        assert (told["node-1"].state, told["node-1"].external_id) in (("Unreachable", machine.external_id),
                                                                      ("Starting", machine.external_id))  # fmt: skip
        assert driver.boot(self.wanted("node-2")).handle["host"] != machine.handle["host"]
        with pytest.raises(DriverError) as caught:
            driver.destroy("node-1", machine.handle)
        assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
        host.start()
        assert self.settle(driver, "node-1").handle["pid"] == machine.handle["pid"]

    def test_a_dead_agent_is_shutdown_and_boots_afresh(self) -> None:
        driver = self.driver()
        first = driver.boot(self.wanted())
        self.settle(driver, "node-1")
        os.kill(first.handle["pid"], signal.SIGKILL)
        until(lambda: [one for one in driver.machines() if one.state == "Shutdown"], "shutdown is seen", LIMIT_S)
        again = driver.boot(self.wanted())
        assert again.external_id != first.external_id and again.handle["host"] == first.handle["host"]
        self.settle(driver, "node-1")

    def test_an_agent_that_is_refused_says_why(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted(join_token="unknown"))
        machine = until(lambda: [one for one in driver.machines() if one.state == "Shutdown"], "it ends", LIMIT_S)[0]
        assert "token" in machine.reason

    def test_destroy_after_kill_9_of_the_agent_leaves_no_job_process(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted(slots=2, cores=2))
        runaway = "(setsid sleep 1000 &); (setsid env -i sleep 1000 &); sleep 1000"
        jobs = self.server.submit_many(2, "sh", "-c", runaway)
        self.server.until(lambda: all(self.server.jobs[number].started for number in jobs), "started")
        home = self.home(machine)
        os.kill(machine.handle["pid"], signal.SIGKILL)
        driver.destroy("node-1", machine.handle)
        assert processes.standing_in(str(home)) == []
        assert processes.marked({"CLOUDSCHED_MACHINE": machine.external_id}) == []
        assert not home.exists()

    @pytest.mark.parametrize("step", ["_make_folders", "_why_full", "_write_intent", "subprocess.Popen", "_start"])
    @pytest.mark.parametrize("then", ["boot", "destroy"])
    def test_the_program_on_the_host_dies_between_any_two_steps(self, step: str, then: str,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
        whole = keeper._source()
        dying = f"\n_real = {step}\ndef _dies(*a, **k):\n    _real(*a, **k)\n    os.kill(os.getpid(), 9)\n{step} = _dies\n"
        driver, wanted = self.driver(), self.wanted()
        with monkeypatch.context() as patched:
            patched.setattr(keeper, "_source", lambda: whole + dying.encode())
            with pytest.raises(DriverError, match="failed there") as caught:
                driver._placements.intend("node-1", driver.hosts()[0].label)
                driver.boot(wanted)
            assert caught.value.transient
        if then == "boot":
            booted = driver.boot(wanted)
            self.settle(driver, "node-1")
            one_agent_and_its_guard = 2
            assert len(processes.marked({"CLOUDSCHED_MACHINE": booted.external_id})) == one_agent_and_its_guard
        driver.destroy("node-1", {})
        assert driver.machines() == []
        there = str(self.servers[0].work_dir).encode()
        assert [pid for pid in processes.every_pid() if there in processes.environment(pid)] == []

    def test_a_silent_host_holds_up_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with silent_listener() as port:
            hosts = [{"host": "127.0.0.1", "port": port}, *self.place("one").options["hosts"]]
            driver = self.one(hosts=hosts, connect_timeout_s=1)
            driver.boot(self.wanted())
            assert self.settle(driver, "node-1").state == "Running"
            checks = {check.name: check for check in driver.verify()}
            silent = checks.pop(f"127.0.0.1:{port} login")
            assert not silent.ok and "did not begin to speak SSH" in silent.detail
            assert all(check.ok for check in checks.values())


class TestAgents(PoolCase):
    """The agent's file."""

    def test_it_travels_once_and_again_when_it_was_touched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sent: list[str] = []
        real = Connection.put

        def put(self: Connection, data: bytes, remote: str, **how: Any) -> None:
            sent.append(remote)
            real(self, data, remote, **how)

        monkeypatch.setattr(Connection, "put", put)
        for host in self.servers:
            shutil.rmtree(host.work_dir, ignore_errors=True)
        driver = self.driver()
        for number in range(3):
            driver.boot(self.wanted(f"node-{number}"))
        assert len(sent) == len(self.servers)
        name = Path(sent[0]).name
        (self.servers[0].work_dir / name).write_bytes(b"tampered")
        driver.machines()
        assert len(sent) == len(self.servers) + 1
        assert (self.servers[0].work_dir / name).read_bytes() == keeper.agent_pyz()

    def test_upgrade_restarts_what_is_idle_and_leaves_what_works(self, monkeypatch: pytest.MonkeyPatch) -> None:
        driver = self.one(hosts=self.place("one").options["hosts"][:1])
        with monkeypatch.context() as old:
            old.setattr(keeper, "agent_pyz", lambda: b"#!/usr/bin/env python3 \n" + self.agent()[23:])
            old.setattr(keeper, "agent_digest", lambda: _digest(keeper.agent_pyz()))
            idle, busy = (driver.boot(self.wanted(name)) for name in ("idle", "busy"))
            self.settle(driver, "idle")
            self.settle(driver, "busy")
            job = self.server.submit("sleep", "1000")
            self.server.until(lambda: self.server.jobs[job].started, "started")
            worker = next(node.name for node in self.server.nodes.values() if node.id == self.server.jobs[job].node)
        result = driver.upgrade_agents()[0]
        other = {"idle": "busy", "busy": "idle"}[worker]
        assert result.ok
        assert (result.value["busy"], result.value["restarted"], result.value["removed"]) == ([worker], [other], [])
        machines = {one.name: one for one in driver.machines()}
        assert machines[other].external_id in (idle.external_id, busy.external_id)
        self.settle(driver, other)
        again = driver.upgrade_agents(busy=True)[0].value
        assert again["restarted"] == [worker] and again["current"] == [other] and len(again["removed"]) == 1
        self.settle(driver, worker)
        assert len(list(self.servers[0].work_dir.glob("agent-*.pyz"))) == 1

    def agent(self) -> bytes:
        from cloudsched.drivers.agentfile import agent_pyz

        return agent_pyz()

    def test_remove_leaves_nothing(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        kept = {one.host: one.value for one in driver.remove_agents()}
        assert kept[machine.handle["host"]]["machines"] == ["node-1"]
        driver.destroy("node-1", {})
        assert all(one.value == {"removed": True, "python": one.value["python"]} for one in driver.remove_agents())
        assert not [host for host in self.servers if host.work_dir.exists()]

    def test_an_old_python_is_named_and_a_chosen_one_taken(self, tmp_path: Path) -> None:
        old = tmp_path / "old-python"
        old.write_text('#!/bin/sh\ncase "$*" in *version_info*) exit 1;; esac\n')
        old.chmod(0o755)
        driver = self.one(python=str(old))
        with pytest.raises(DriverError, match=r"is no Python 3\.8 or later.*option python") as caught:
            driver.boot(self.wanted())
        assert (caught.value.code, caught.value.transient) == (base.REQUEST, False)
        failed = [check.detail for check in driver.verify() if not check.ok]
        assert len(failed) == 2 and "option python" in failed[0]
        driver.close()
        self._drivers.clear()

    @pytest.mark.parametrize("version", ["3.8", "3.9", "3.12", "3.13"])
    def test_agents_run_on_other_pythons(self, version: str) -> None:
        python = _python(version)
        if not python:
            pytest.skip(f"Python {version} is not installed")
        driver = self.one(python=python)
        driver.boot(self.wanted())
        self.server.wait(self.server.submit("echo", "hello"))
        assert self.server.nodes[1].profile["python_version"].startswith(version)


class TestAccounts(PoolCase):
    """Who jobs run as."""

    @as_root
    def test_agents_of_root_run_jobs_as_nobody(self) -> None:
        driver = self.one(run_as="auto")
        machine = driver.boot(self.wanted())
        assert machine.reason == ""
        self.server.wait(self.server.submit("id", "-un"))
        assert self.server.jobs[1].output("stdout").decode().strip() == "nobody"
        assert any("jobs run as nobody" in check.detail for check in driver.verify())

    @as_root
    def test_where_nobody_cannot_go_it_is_said(self) -> None:
        self.servers[0].folder.chmod(0o700)
        try:
            driver = self.one(run_as="auto", hosts=self.place("one").options["hosts"][:1])
            assert "nobody cannot reach" in driver.boot(self.wanted()).reason
        finally:
            self.servers[0].folder.chmod(0o755)

    @as_root
    @pytest.mark.parametrize("sudo", ["password", "nopasswd"])
    def test_an_account_that_becomes_root(self, sshds: Sshds, sudo: str) -> None:
        with Account(sshds.folder / f"pool-{sudo}", sudo=sudo) as who:
            self.servers[0].home.chmod(0o1777)
            host = self.servers[0].option(cores=64, memory_mb=64_000, storage_gb=100)
            secrets = {"key": self.house.key.read_text(), "sudo_password": who.password if sudo == "password" else ""}
            driver = self.make(Place("one", "SSH", {"hosts": [host], "user": who.name, "sudo": True}, secrets,
                                     state_dir=str(self.tmp), server_url=self.server.url, instance="test"))  # fmt: skip
            assert [check for check in driver.verify() if not check.ok] == []
            driver.boot(self.wanted())
            self.server.wait(self.server.submit("id", "-un"))
            assert self.server.jobs[1].output("stdout").decode().strip() == "nobody"
            driver.destroy("node-1", {})
            assert driver.machines() == []
            driver.remove_agents()
            driver.close()

    @as_root
    def test_an_account_without_rights_runs_jobs_itself(self, sshds: Sshds) -> None:
        with Account(sshds.folder / "pool-plain") as who:
            host = {**self.servers[0].option(), "work_dir": str(who.home / "agents"), "cores": 8, "storage_gb": 9}
            driver = self.make(Place("one", "SSH", {"hosts": [host], "user": who.name}, {"key": self.house.key.read_text()},
                                     state_dir=str(self.tmp), server_url=self.server.url, instance="test"))  # fmt: skip
            driver.boot(self.wanted())
            self.server.wait(self.server.submit("id", "-un"))
            assert self.server.jobs[1].output("stdout").decode().strip() == who.name
            driver.destroy("node-1", {})
            assert driver.machines() == []
            driver.close()


class TestHosts(PoolCase):
    """Five hosts at once, and what services ask of them."""

    def make_servers(self) -> list[Sshd]:
        while len(self.house.made) < 5:
            self.house.start()
        return self.house.made[:5]

    def test_facts_ping_and_commands_on_all(self) -> None:
        driver = self.driver()
        labels = [host.label for host in driver.hosts()]
        assert [one.host for one in driver.ping_all()] == labels
        assert all(one.ok and one.value > 0 for one in driver.ping_all())
        assert [one.value.cores for one in driver.facts_all()] == [os.cpu_count()] * 5
        heard: dict[str, str] = {}
        results = driver.run_all("echo $CLOUDSCHED_TEST_HOST", timeout_s=LIMIT_S,
                                 on_output=lambda host, stream, text: heard.update({host: text}))  # fmt: skip
        assert [one.value.stdout for one in results] == [f"{host.name}\n" for host in self.servers]
        assert heard == {label: f"{host.name}\n" for label, host in zip(labels, self.servers, strict=True)}
        assert [one.host for one in driver.run_all(["true"], hosts=[labels[3]], timeout_s=LIMIT_S)] == [labels[3]]
        slow = driver.run_all(f'[ "$CLOUDSCHED_TEST_HOST" = {self.servers[1].name} ] && sleep 50; echo done', timeout_s=2.0)
        assert [one.error for one in slow] == ["", "timeout", "", "", ""]

    def test_machines_spread_over_the_hosts(self) -> None:
        driver = self.driver()
        placed = [driver.boot(self.wanted(f"n{number}")).handle["host"] for number in range(5)]
        assert len(set(placed)) == 5
        ends = [driver.boot(self.wanted(f"n{number}")).handle["host"] for number in range(5)]
        assert ends == placed

    def test_the_key_of_one_host_changes(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        host = self.on(machine)
        old = host.fingerprint()
        driver.close()
        host.stop()
        kept = host._host_key("ed25519").read_bytes(), host._host_key("ed25519").with_suffix(".pub").read_bytes()
        host.make_host_key()
        host.start()
        told = next(one for one in driver.machines() if one.name == "node-1")
        assert told.state in ("Unreachable", "Starting") and old in told.reason and host.fingerprint() in told.reason
        failed = [check for check in driver.verify() if not check.ok]
        assert [check.name for check in failed] == [f"{machine.handle['host']} login"]
        assert "ssh-keygen -R" in failed[0].detail
        with pytest.raises(DriverError) as caught:
            driver.destroy("node-1", machine.handle)
        assert (caught.value.code, caught.value.transient) == (base.AUTH, False)
        host.stop()
        host._host_key("ed25519").write_bytes(kept[0])
        host._host_key("ed25519").with_suffix(".pub").write_bytes(kept[1])
        host.start()
        self.settle(driver, "node-1")

    def test_hosts_that_cannot_reach_the_server_are_told_apart(self) -> None:
        driver = self.one(server_url="http://127.0.0.1:1")
        failed = [check for check in driver.verify() if not check.ok]
        assert len(failed) == 5 and all("server_url" in check.detail for check in failed)


@pytest.fixture
def namespaces(sshds: Sshds) -> Iterator[list[tuple[str, str]]]:
    """Two network namespaces, each with an address of its own: (name, address)."""
    made: list[tuple[str, str]] = []
    try:
        for number in (1, 2):
            name = f"cst{os.getpid() % 100000}n{number}"
            block = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
            outer, inner = f"{block}.{4 * number + 1}", f"{block}.{4 * number + 2}"
            for words in (f"netns add {name}", f"link add {name}o type veth peer name {name}i netns {name}",
                          f"addr add {outer}/30 dev {name}o", f"link set {name}o up",
                          f"-n {name} addr add {inner}/30 dev {name}i", f"-n {name} link set {name}i up",
                          f"-n {name} link set lo up"):  # fmt: skip
                done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
                if words.startswith("netns add") and not done.returncode:
                    made.append((name, inner))
                if done.returncode:
                    pytest.skip(f"no network namespaces here: ip {words}: {done.stderr.strip()}")
        yield made
    finally:
        for name, _ in made:
            subprocess.run(["ip", "netns", "del", name], check=False)


class TestNamespaces(PoolCase):
    """Hosts with addresses of their own; one of them loses its network."""

    @pytest.fixture(autouse=True)
    def _netns(self, namespaces: list[tuple[str, str]], _house: Any, sshds: Sshds) -> Iterator[None]:
        self.names = [name for name, _ in namespaces]
        self.servers = [sshds.start(address=address, port=22, prefix=("ip", "netns", "exec", name))
                        for name, address in namespaces]  # fmt: skip
        yield
        for driver in self._drivers:
            for machine in driver.machines():
                driver.destroy(machine.name, machine.handle)
            driver.close()  # type: ignore[attr-defined]
        self._drivers.clear()
        for host in self.servers:
            host.stop()

    def test_a_host_that_is_cut_off(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "AWAY_S", 0.0)
        driver = self.one(connect_timeout_s=2)
        told = driver.run_all("cat /proc/net/dev", timeout_s=LIMIT_S)
        assert all(f"{name}i" in one.value.stdout for name, one in zip(self.names, told, strict=True))
        machines = {driver.boot(self.wanted(f"n{number}")).handle["host"]: f"n{number}" for number in (1, 2)}
        assert set(machines) == {host.address for host in self.servers}
        driver.close()  # an open connection would wait for an answer for the whole of the call's limit
        subprocess.run(["ip", "link", "set", f"{self.names[0]}o", "down"], check=True)
        states = {one.name: one.state for one in driver.machines()}
        assert states[machines[self.servers[0].address]] in ("Unreachable", "Starting")
        assert driver.boot(self.wanted("n3")).handle["host"] == self.servers[1].address
        subprocess.run(["ip", "link", "set", f"{self.names[0]}o", "up"], check=True)
        until(lambda: all(one.state != "Unreachable" for one in driver.machines()), "it is back", LIMIT_S)


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _python(version: str) -> str:
    """A Python of that version, also one that is not first in PATH."""
    roots = [Path("~/.pyenv/versions").expanduser(), Path("/opt"), Path("/usr/local")]
    found = [str(path) for root in roots if root.is_dir() for path in root.glob(f"{version}*/bin/python{version}")]
    return next(iter(found), None) or shutil.which(f"python{version}") or ""
