"""Do the layers of DESIGN.md hold, and do small programs stay small?"""

from __future__ import annotations

import subprocess
import sys

import pytest

from .source import ROOT


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint('\\n'.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                              cwd=ROOT).stdout.split())


def test_import_contracts() -> None:
    code = "from importlinter.cli import lint_imports_command as run; run(['--no-cache'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout[done.stdout.find("Contracts\n"):] + done.stderr


@pytest.mark.parametrize("module", ["cloudsched.cli.main", "cloudsched.cli.cloud_status",
                                    "cloudsched.cli.cloud_admin", "cloudsched.client"])
def test_command_lines_load_nothing_of_the_server(module: str) -> None:
    loaded = _loaded_by(f"import {module}")
    assert not loaded & {"flask", "peewee", "marshmallow", "msgspec", "cryptography", "requests",
                         "cloudsched.store", "cloudsched.settings", "cloudsched.app"}


def test_the_agent_loads_the_standard_library_alone() -> None:
    loaded = {name.partition(".")[0] for name in _loaded_by("import cloudsched.agent")}
    before = {name.partition(".")[0] for name in _loaded_by("pass")}
    assert loaded - before - set(sys.stdlib_module_names) == {"cloudsched"}


def test_settings_are_cheap_to_import() -> None:
    assert not _loaded_by("import cloudsched.settings") & {"requests", "flask", "peewee", "msgspec",
                                                           "cryptography", "cloudsched.settings.machine"}
