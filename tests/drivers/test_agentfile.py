"""Does the one-file agent run by itself, on nothing but a Python?"""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from cloudsched.drivers import agentfile


@pytest.mark.parametrize(("first", "said"),
                         [([], "cloudsched agent"), (["agent"], "cloudsched agent"), (["logagent"], "logagent")])
def test_it_runs_where_nothing_else_of_the_project_is(tmp_path: Path, first: list[str], said: str) -> None:
    file = tmp_path / agentfile.FILE_NAME
    file.write_bytes(agentfile.agent_pyz())
    command = [sys.executable, "-I", "-S", str(file), *first, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_same_sources_give_the_same_bytes() -> None:
    first = agentfile.agent_pyz()
    agentfile.agent_pyz.cache_clear()
    assert agentfile.agent_pyz() == first
    assert agentfile.agent_digest() == hashlib.sha256(first).hexdigest()
