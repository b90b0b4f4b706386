"""Does an SSH pool keep what every driver promises, on real sshd?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched.agent import processes
from cloudsched.drivers.base import Driver, Machine, Place
from cloudsched.drivers.ssh import make
from cloudsched.drivers.ssh.driver import SshDriver
from cloudsched.testing.fakeserver import FakeServer
from tests.drivers.contract import DriverCase, DriverContract
from tests.drivers.ssh.sshd import Sshd, Sshds
from tests.drivers.test_local import until

pytestmark = pytest.mark.engines


class SshCase(DriverCase):
    """Two hosts, a server that knows a token for each name, and a place below a temporary directory."""

    options: dict[str, Any] = {"run_as": ""}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def _house(self, _world: Any, sshds: Sshds) -> Iterator[None]:
        self.house = sshds
        self.servers = self.make_servers()
        with FakeServer() as server:
            self.server = server
            yield
            for driver in self._drivers:  # while the server still answers
                assert isinstance(driver, SshDriver)
                self.calm(driver)
                for machine in driver.machines():
                    driver.destroy(machine.name, machine.handle)
                driver.close()
            for host in self.servers:
                assert processes.standing_in(str(host.work_dir)) == []
                assert self.machine_files(host) == []
            self._drivers.clear()

    def make_servers(self) -> list[Sshd]:
        """The two of the module, started when first needed."""
        while len(self.house.made) < 2:
            self.house.start()
        return self.house.made[:2]

    def machine_files(self, host: Sshd) -> list[Path]:
        """What machines have left on a host."""
        return [path for path in host.work_dir.glob("*/**/*") if path.is_file()] if host.work_dir.exists() else []

    def place(self, name: str) -> Place:
        hosts = [host.option(cores=64, memory_mb=64_000, storage_gb=100) for host in self.servers]
        credentials = {"key": self.house.key.read_text()}
        return Place(name, "SSH", {**self.options, "hosts": hosts}, credentials, state_dir=str(self.tmp),
                     server_url=self.server.url, instance="test")  # fmt: skip

    def make(self, place: Place) -> SshDriver:
        return make(place)

    def wanted(self, name: str = "node-1", **facts: Any) -> Any:
        token = facts.pop("join_token", None)
        return super().wanted(name, join_token=self.server.token(name) if token is None else token, **facts)

    def settle(self, driver: Driver, name: str) -> Machine:
        def running() -> Machine | None:
            return next((one for one in driver.machines() if one.name == name and one.state == "Running"), None)

        found: Machine = until(running, f"{name} runs", 60.0)
        return found


class TestSshContract(SshCase, DriverContract):
    def test_no_secret_is_shown(self) -> None:
        token = "very-secret-token"
        self.server._tokens[token] = "node-1"
        place = self.place("one")
        driver = self.make(replace(place, credentials={**place.credentials, "password": "very-secret-password"}))
        self._drivers.append(driver)
        machine = driver.boot(self.wanted(join_token=token))
        self.settle(driver, "node-1")
        shown = repr((driver, place, machine, driver.machines(), driver.verify(), driver.hosts()))
        shown += Path(f"/proc/{machine.handle['pid']}/cmdline").read_text()
        shown += processes.environment(machine.handle["pid"]).decode()
        home = Path(next(iter(self.servers[0].work_dir.parent.parent.glob("h*/work/*/*/machine.json")))).parent
        shown += (home / "agent.log").read_text() + (home / "machine.json").read_text()
        assert (home / "token").stat().st_mode & 0o777 == 0o600
        for secret in (token, "very-secret-password", "PRIVATE KEY"):
            assert secret not in shown
