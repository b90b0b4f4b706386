"""What do the SSH tests share? Real servers, a place below a temporary directory, a server for the agents."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drivers.ssh.sshd import Sshds, why_not


@pytest.fixture(scope="module")
def sshds() -> Iterator[Sshds]:
    """A house of servers for one module; skips with a reason where none can be started."""
    if why := why_not():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="cloudsched-ssh-") as name:
        Path(name).chmod(0o711)  # other users log in as well
        with Sshds(Path(name)) as house:
            yield house
