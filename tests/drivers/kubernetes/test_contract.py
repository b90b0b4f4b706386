"""Does the Kubernetes driver keep what every driver promises?"""

from __future__ import annotations

from typing import Any

import pytest

from cloudsched.drivers.base import Driver, Machine, Place
from cloudsched.drivers.kubernetes import make
from tests.drivers.contract import DriverContract
from tests.drivers.kubernetes.conftest import Cluster, until


class TestKubernetesContract(DriverContract):
    @pytest.fixture(autouse=True)
    def _space(self, _world: Any, cluster: Cluster, space: str) -> Any:
        self.cluster, self.space = cluster, space
        yield
        for driver in self._drivers:
            for machine in driver.machines():
                driver.destroy(machine.name, machine.handle)
        left = [one for kind in ("Pod", "Secret")
                for one in cluster.admin.objects(kind, namespace=space, selector="app.kubernetes.io/managed-by=cloudsched")]
        assert left == []

    def place(self, name: str) -> Place:
        return self.cluster.place(self.space, name)

    def make(self, place: Place) -> Driver:
        return make(place)

    def settle(self, driver: Driver, name: str) -> Machine:
        def running() -> Machine | None:
            return next((one for one in driver.machines() if one.name == name and one.state == "Running"), None)

        found: Machine = until(running, f"{name} runs")
        return found
