"""Does the Slurm driver keep what every driver promises, on a real cluster, in each way that there is to reach one?"""

from __future__ import annotations

import getpass
from typing import Any

import pytest

from cloudsched.drivers import base
from tests.drivers.contract import DriverContract
from tests.drivers.slurm.cases import SlurmCase
from tests.drivers.slurm.cluster import SlurmCluster
from tests.drivers.ssh.sshd import Sshd

pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]


class TestSharedDirectory(SlurmCase, DriverContract):
    """Slurm's commands on this machine; the agent lies in a shared directory."""


class TestCarried(SlurmCase, DriverContract):
    """No shared directory: the batch script carries the agent."""

    def options(self) -> dict[str, Any]:
        return {"env": self.cluster.env, "scratch_dir": str(self.scratch), "destroy_limit_s": 60}


class TestRest(TestCarried):
    """slurmrestd on a socket file, which knows its caller by the socket."""

    @pytest.fixture
    def cluster(self, rest_cluster: SlurmCluster) -> SlurmCluster:
        return rest_cluster

    def options(self) -> dict[str, Any]:
        return {"rest_url": f"unix:{self.cluster.rest_socket}", "rest_version": "v0.0.38", "scratch_dir": str(self.scratch),
                "destroy_limit_s": 60}  # fmt: skip

    def test_hosts_cannot_be_drained_over_this_version(self) -> None:
        driver = self.slurm()
        assert base.DRAIN not in driver.capabilities
        with pytest.raises(base.DriverError, match=r"v0\.0\.39"):
            driver.drain("n1", "why")


class TestOverSsh(SlurmCase, DriverContract):
    """Slurm's commands on a host that is reached by SSH."""

    @pytest.fixture(autouse=True)
    def _login_host(self, login_host: Sshd) -> None:
        self.login_host = login_host

    def options(self) -> dict[str, Any]:
        host = self.login_host
        return {**super().options(), "host": f"{host.address}:{host.port}", "user": getpass.getuser(),
                "key": str(host.client_key), "host_key": host.host_key()}  # fmt: skip
