"""Is a local machine a process that is found, adopted and really destroyed, whatever dies in between?"""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers import base
from cloudsched.drivers.base import Machine, Place, Wanted
from cloudsched.drivers.local import LocalDriver
from cloudsched.errors import Invalid
from cloudsched.testing.fakeserver import FakeServer
from tests.drivers.contract import DriverCase, DriverContract

REPOSITORY = Path(__file__).parents[2]


def until(condition: Callable[[], Any], what: str, timeout_s: float = 15.0) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.01)
    return found


@contextmanager
def stranger(**env: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is none of ours."""
    with subprocess.Popen(["sleep", "1000"], env={**env, "PATH": os.defpath}) as process:
        try:
            yield process
        finally:
            process.kill()


class LocalCase(DriverCase):
    """A server that knows a token for each name, and a place below a temporary directory."""

    options: dict[str, Any] = {"run_as": ""}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _server(self, _world: Any) -> Iterator[None]:
        with FakeServer() as server:
            self.server = server
            yield
            assert server.violations == []
            for driver in self._drivers:  # while the server still answers
                for machine in driver.machines():
                    driver.destroy(machine.name, machine.handle)
        assert processes.standing_in(str(self.tmp)) == []

    def place(self, name: str) -> Place:
        return Place(name, "local", self.options, state_dir=str(self.tmp), server_url=self.server.url, instance="test")

    def make(self, place: Place) -> LocalDriver:
        return LocalDriver(place)

    def wanted(self, name: str = "node-1", **facts: Any) -> Wanted:
        token = facts.pop("join_token", None)
        return super().wanted(name, join_token=self.server.token(name) if token is None else token, **facts)

    def settle(self, driver: base.Driver, name: str) -> Machine:
        def running() -> Machine | None:
            return next((one for one in driver.machines() if one.name == name and one.state == "Running"), None)

        found: Machine = until(running, f"{name} runs")
        return found

    def home(self, name: str = "node-1") -> Path:
        return self.tmp / "local" / "one" / name


class TestLocalContract(LocalCase, DriverContract):
    def test_no_secret_is_shown(self) -> None:
        driver = self.driver()
        token = "very-secret-token"
        self.server._tokens[token] = "node-1"
        machine = driver.boot(self.wanted(join_token=token))
        assert token not in repr((machine, driver.machines(), driver.verify()))
        shown = Path(f"/proc/{machine.handle['pid']}/cmdline").read_bytes() + processes.environment(
            machine.handle["pid"]
        )
        assert token.encode() not in shown
        assert (self.home() / "token").stat().st_mode & 0o777 == 0o600
        self.settle(driver, "node-1")
        assert token not in (self.home() / "agent.log").read_text()


class TestLocal(LocalCase):
    """What is special here."""

    def test_the_share_is_what_the_node_offers(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted(cores=3, memory_mb=777, storage_gb=4, slots=2))
        self.settle(driver, "node-1")
        profile = self.server.nodes[1].profile
        assert [profile[name] for name in ("cores", "memory_mb", "storage_gb", "slots")] == [3, 777, 4, 2]

    def test_a_job_carries_the_marks_and_nothing_of_ours(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted())
        self.server.wait(self.server.submit("env"))
        env = dict(line.split("=", 1) for line in self.server.jobs[1].output("stdout").decode().splitlines())
        assert (env.pop("CLOUDSCHED_NODE"), env.pop("CLOUDSCHED_INSTANCE")) == ("node-1", "test")
        assert env.pop("HOME") == env.pop("TMPDIR")
        assert set(env) == {"PATH", "CLOUDSCHED_JOB", "CLOUDSCHED_JOB_ID", "CLOUDSCHED_ATTEMPT", "CLOUDSCHED_MACHINE"}

    def test_a_dead_agent_is_shutdown_and_boots_afresh(self) -> None:
        driver = self.driver()
        first = driver.boot(self.wanted())
        self.settle(driver, "node-1")
        os.kill(first.handle["pid"], signal.SIGKILL)
        until(lambda: [one for one in driver.machines() if one.state == "Shutdown"], "shutdown is seen")
        again = driver.boot(self.wanted())
        assert again.external_id != first.external_id
        assert self.settle(driver, "node-1").handle["pid"] == again.handle["pid"]

    def test_an_agent_that_is_refused_says_why(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted(join_token="unknown"))
        machine = until(lambda: [one for one in driver.machines() if one.state == "Shutdown"], "it ends")[0]
        assert "token" in machine.reason

    def test_destroy_after_kill_9_of_the_agent_leaves_no_job_process(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted(slots=2, cores=2))
        runaway = "(setsid sleep 1000 &); (setsid env -i sleep 1000 &); sleep 1000"
        jobs = self.server.submit_many(2, "sh", "-c", runaway)
        self.server.until(lambda: all(self.server.jobs[number].started for number in jobs), "started")
        until(lambda: len(processes.standing_in(str(self.home()))) >= 6, "all of them stand there")
        os.kill(machine.handle["pid"], signal.SIGKILL)  # what is left of them by now is not for us to say
        driver.destroy("node-1", machine.handle)
        assert processes.standing_in(str(self.home())) == []
        assert processes.marked({"CLOUDSCHED_MACHINE": machine.external_id}) == []
        assert not self.home().exists()

    def test_destroy_leaves_processes_of_others_alone(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted())
        env = {"CLOUDSCHED_NODE": "node-1", "CLOUDSCHED_INSTANCE": "test", "CLOUDSCHED_MACHINE": "of-somebody-else"}
        with stranger(**env) as other:
            driver.destroy("node-1", {"pid": other.pid, "started": 0})
            assert other.poll() is None

    def test_a_reused_process_id_is_not_our_machine(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted())
        facts = self.home() / "machine.json"
        self.settle(driver, "node-1")
        with stranger() as other:
            text = facts.read_text().replace(f'"pid": {driver.machines()[0].handle["pid"]}', f'"pid": {other.pid}')
            facts.write_text(text)
            assert driver.machines()[0].handle["pid"] != other.pid
            driver.destroy("node-1", {})
            assert other.poll() is None

    def test_files_that_resist_are_removed(self) -> None:
        driver = self.driver()
        driver.boot(self.wanted())
        self.server.submit("sh", "-c", "mkdir -p a/b; touch a/b/c; chmod 000 a/b a; sleep 1000")
        self.server.until(lambda: self.server.jobs[1].started, "started")
        driver.destroy("node-1", {})
        assert not self.home().exists()

    @pytest.mark.parametrize("step", ["_write_facts", "write_private", "_prepare", "_spawn", "_machine"])
    @pytest.mark.parametrize("then", ["boot", "destroy"])
    def test_kill_9_of_the_booter_between_any_two_steps(self, step: str, then: str) -> None:
        wanted = self.wanted()
        self._boot_and_die_after(step, wanted)
        driver = self.driver()
        if then == "boot":
            driver.boot(wanted)
            self.settle(driver, "node-1")
            one_agent_and_its_guard = 2
            assert len(processes.marked({"CLOUDSCHED_NODE": "node-1", "CLOUDSCHED_INSTANCE": "test"})) == one_agent_and_its_guard
        driver.destroy("node-1", {})
        assert driver.machines() == []
        assert processes.marked({"CLOUDSCHED_NODE": "node-1", "CLOUDSCHED_INSTANCE": "test"}) == []

    def _boot_and_die_after(self, step: str, wanted: Wanted) -> None:
        """A process that boots and kills itself right after `step` (a function, or a method of the driver)."""
        script = f"""
            import os, signal
            from cloudsched.drivers import local
            from cloudsched.drivers.base import Place, Wanted
            owner = local.LocalDriver if hasattr(local.LocalDriver, {step!r}) else local
            real = getattr(owner, {step!r})
            def die(*args, **facts):
                real(*args, **facts)
                os.kill(os.getpid(), signal.SIGKILL)
            setattr(owner, {step!r}, die)
            place = Place("one", "local", {{"run_as": ""}}, state_dir={str(self.tmp)!r},
                          server_url={self.server.url!r}, instance="test")
            local.LocalDriver(place).boot(Wanted({wanted.name!r}, node_id=1, cores=1, memory_mb=256, storage_gb=1,
                                                 join_token={wanted.join_token!r}))
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=REPOSITORY, check=False)
        assert done.returncode == -signal.SIGKILL

    def test_bad_options_are_refused_by_name(self) -> None:
        for options, field in (({"log_level": "loud"}, "log_level"), ({"orphan_timeout_s": "x"}, "orphan_timeout_s")):
            with pytest.raises(Invalid, match=field):
                LocalDriver(Place("c", "local", options, state_dir=str(self.tmp)))
        with pytest.raises(Invalid, match="state_dir"):
            LocalDriver(Place("c", "local", {}))

    def test_verify_says_what_is_missing(self) -> None:
        place = Place("c", "local", {"run_as": "no-such-user"}, state_dir=str(self.tmp))
        failed = [check for check in LocalDriver(place).verify() if not check.ok]
        assert [check.name for check in failed] == ["job user"]
        assert "no-such-user" in failed[0].detail


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestUnprivileged(LocalCase):
    """Agents of root become nobody when nobody can reach the place."""

    options: dict[str, Any] = {}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _world(self, tmp_path: Path) -> Iterator[None]:
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o711)
            self.tmp = Path(name)
            self._drivers: list[base.Driver] = []
            yield

    def test_jobs_run_as_nobody_and_are_destroyed(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        assert machine.reason == ""
        self.server.wait(self.server.submit("id", "-un"))
        assert self.server.jobs[1].output("stdout").decode().strip() == "nobody"
        self.server.submit("sh", "-c", "(setsid sleep 1000 &) ; sleep 1000")
        self.server.until(lambda: self.server.jobs[2].started, "started")
        assert self.settle(driver, "node-1").state == "Running"
        uid = pwd.getpwnam("nobody").pw_uid
        assert os.stat(f"/proc/{machine.handle['pid']}/stat").st_uid in (0, uid)
        driver.destroy("node-1", {})
        assert not self.home().exists()

    def test_where_nobody_cannot_go_jobs_stay_with_us_and_it_is_said(self) -> None:
        self.tmp.chmod(0o700)
        machine = self.driver().boot(self.wanted())
        assert "nobody cannot reach" in machine.reason
        self.server.wait(self.server.submit("id", "-u"))
        assert self.server.jobs[1].output("stdout").strip() == b"0"
