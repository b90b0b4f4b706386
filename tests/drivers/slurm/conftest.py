"""What do the tests on a real cluster share? One cluster for all of them, and a server that agents can join."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloudsched.testing.fakeserver import FakeServer
from tests.drivers.slurm.cluster import SlurmCluster, cluster_in
from tests.drivers.ssh.sshd import Sshd, Sshds, why_not


def open_folder() -> Path:
    """A directory that other users pass through, as shared file systems are; pytest's own are closed."""
    folder = Path(tempfile.mkdtemp(prefix="cs-slurm-"))
    folder.chmod(0o711)
    return folder


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where clusters and shared directories of this session are."""
    made = open_folder()
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(scope="session")
def _cluster(folder: Path) -> Iterator[SlurmCluster]:
    with cluster_in(folder / "cluster") as cluster:
        yield cluster


@pytest.fixture
def cluster(_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """Two hosts of eight cores; empty at the end of each test."""
    yield _cluster
    _cluster.clear()


@pytest.fixture(scope="session")
def _rest_cluster(folder: Path) -> Iterator[SlurmCluster]:
    with cluster_in(folder / "rest", rest=True, name="rest") as cluster:
        yield cluster


@pytest.fixture
def rest_cluster(_rest_cluster: SlurmCluster) -> Iterator[SlurmCluster]:
    """One with a slurmrestd on a socket file."""
    yield _rest_cluster
    _rest_cluster.clear()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as made:
        yield made
        assert made.violations == []


@pytest.fixture(scope="session")
def _login_host(folder: Path) -> Iterator[Sshd]:
    if why := why_not():
        pytest.skip(why)
    with Sshds(folder) as house:
        yield house.start()


@pytest.fixture
def login_host(_login_host: Sshd) -> Iterator[Sshd]:
    """A host that is reached by SSH and has Slurm's commands; it listens again after each test."""
    yield _login_host
    _login_host.stop()
    _login_host.start()
