"""Does SIGHUP open the log files of a whole instance again, and stop nothing?"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .conftest import Maker

pytestmark = pytest.mark.e2e


def test_hangup_reopens_the_logs_of_all_processes(new_instance: Maker, tmp_path: Path) -> None:
    log = tmp_path / "cloudsched.log"
    instance = new_instance(config={"log": {"file": str(log)}})
    process = instance.start("up")
    instance.wait_ready()
    instance.until(lambda: "leads" in log.read_text(), "a line of the engine")
    log.rename(tmp_path / "moved")
    os.kill(process.pid, signal.SIGHUP)
    instance.until(log.exists, "a new log file")
    instance.until(instance.answers, "the server")
    number = instance.shell("echo still here")
    instance.wait_state(number, "succeeded")
    assert process.running
    assert process.stop(signal.SIGINT) == 0
    instance.check_clean()
