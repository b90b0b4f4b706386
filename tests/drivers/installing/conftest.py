"""What do the tests of installations share? A database, and somebody who does what is due."""

from __future__ import annotations

import getpass
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloudsched import settings as settings_module
from cloudsched.services import operations
from cloudsched.services.centre import executor
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre.executor import Access
from cloudsched.store import db, migrations
from tests.drivers.ssh.sshd import Sshd, Sshds, why_not


@pytest.fixture
def house() -> Iterator[Sshds]:
    if why := why_not():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(prefix="cs-install-") as name:
        Path(name).chmod(0o711)
        with Sshds(Path(name)) as made:
            yield made


@pytest.fixture
def done(tmp_state: Path) -> Iterator[Callable[[int], dict[str, Any]]]:
    """Works at operations until the one that is given has ended."""
    executor.configure(settings_module.load({"state": str(tmp_state)}, environ={"HOME": str(tmp_state)}))
    opened = db.open_database(f"sqlite:///{tmp_state}/x.db", synchronous="OFF")
    migrations.migrate(opened)

    def work(number: int) -> dict[str, Any]:
        deadline = time.monotonic() + 90
        while (found := operations.one(number))["state"] not in ("succeeded", "failed", "cancelled"):
            assert time.monotonic() < deadline, found
            operations.work("w")
            time.sleep(0.02)
        return found

    yield work
    ops._connections.close()
    opened.close()


def access(server: Sshd) -> Access:
    return Access(server.address, server.port, getpass.getuser(), key=server.client_key.read_text(), host_key=server.host_key())
