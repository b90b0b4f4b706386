"""How is a Slurm place made for a test, in each of the ways that there are to reach a cluster?"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.base import Driver, Machine, Place, Wanted
from cloudsched.drivers.slurm import make, pilot
from cloudsched.drivers.slurm.driver import SlurmDriver
from cloudsched.testing.fakeserver import FakeServer
from tests.drivers.contract import DriverCase
from tests.drivers.slurm.cluster import SlurmCluster, until

TOKEN = "very-secret-token"


class SlurmCase(DriverCase):
    """A place on the cluster with a shared directory; the agents of its pilots join a server that is real HTTP."""

    @pytest.fixture(autouse=True)
    def _slurm(self, _world: Any, cluster: SlurmCluster, server: FakeServer) -> Iterator[None]:
        self.cluster, self.server = cluster, server
        self.shared = cluster.root.parent / f"shared-{id(self):x}"
        self.scratch = cluster.root.parent / f"scratch-{id(self):x}"
        for folder, mode in ((self.shared, 0o755), (self.scratch, 0o1777)):
            folder.mkdir()
            folder.chmod(mode)
        yield
        for driver in self._drivers:  # while the server still answers
            self.calm(driver)
            for machine in driver.machines():
                driver.destroy(machine.name, machine.handle)
        until = time.monotonic() + 10
        while (left := [path for path in self.scratch.iterdir() if path.is_dir()]) and time.monotonic() < until:
            time.sleep(0.1)
        for path in left:  # of a pilot that Slurm killed the hard way: the next pilot on the host takes it along
            os.utime(path, (1, 1))
            pilot.remove_stale(str(path))
        left = [path for path in left if path.exists()]
        for folder in (self.shared, self.scratch):
            shutil.rmtree(folder, ignore_errors=True)
        assert not left, [str(path) for path in left]

    def options(self) -> dict[str, Any]:
        return {"env": self.cluster.env, "work_dir": str(self.shared), "destroy_limit_s": 60}

    def place(self, name: str, **more: Any) -> Place:
        return Place(name, "Slurm", {**self.options(), **more}, state_dir=str(self.tmp), server_url=self.server.url,
                     instance="test")  # fmt: skip

    def make(self, place: Place) -> SlurmDriver:
        return make(place)

    def slurm(self, name: str = "one", **more: Any) -> SlurmDriver:
        made = self.make(self.place(name, **more))
        self._drivers.append(made)
        return made

    def wanted(self, name: str = "node-1", **facts: Any) -> Wanted:
        token = facts.pop("join_token", None)
        return super().wanted(name, join_token=self.server.token(name) if token is None else token, **facts)

    def settle(self, driver: Driver, name: str) -> Machine:
        found: Machine = until(
            lambda: next((one for one in driver.machines() if one.name == name and one.state == "Running"), None),
            f"{name} runs", note=self.cluster.tails)  # fmt: skip
        return found

    def joined(self, name: str) -> Any:
        """The node, as soon as its agent has joined."""
        return until(lambda: next((one for one in self.server.nodes.values() if one.name == name), None), f"{name} joins",
                     note=self.tails)  # fmt: skip

    def ended(self, driver: Driver, name: str) -> Machine:
        """That machine, when Slurm is done with it."""

        def look() -> Machine | None:
            return next((one for one in driver.machines() if one.name == name and one.state in ("Error", "Shutdown")
                         and not one.reason.startswith("the pilot is being ended")), None)  # fmt: skip

        found: Machine = until(look, f"{name} ends", note=self.tails)
        return found

    def tails(self) -> str:
        logs = [path.read_text(errors="replace")[-2000:] for path in Path(self.shared).glob("machines/*/*/agent.log")]
        return "\n".join([*logs, self.cluster.tails()])
