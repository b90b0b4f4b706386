"""What do the tests of the dialect share? A stopped clock, the files, the fixed pool, both apps."""

from __future__ import annotations

from pathlib import Path

import pytest
from flask.testing import FlaskClient

from cloudsched import clock
from cloudsched.dialects.cloud_scheduler import admin_app, info_app
from cloudsched.services import snapshot
from cloudsched.settings import Settings, load
from cloudsched.store.db import Database
from cloudsched.testing.factories import AT

from .pool import FixedPool, build

NOW = AT + 1000.0


@pytest.fixture
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> float:
    """Now is always NOW."""
    monkeypatch.setattr(clock, "now", lambda: NOW)
    return NOW


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory with a cloud file, limits and aliases."""
    (tmp_path / "cloud_resources.conf").write_text(CLOUD_FILE)
    (tmp_path / "limits.json").write_text('{"alice": 5, "bob": "10", "carol": "many"}')
    (tmp_path / "aliases.json").write_text('{"east": ["alpha", "beta"], "west": "gamma"}')
    return tmp_path


@pytest.fixture
def settings(files: Path, tmp_state: Path) -> Settings:
    """Settings of an instance that uses these files."""
    found = load({
        "state": str(tmp_state), "cloud_scheduler.config_file": "none",
        "cloud_scheduler.cloud_resource_config": str(files / "cloud_resources.conf"),
        "cloud_scheduler.user_limit_file": str(files / "limits.json"),
        "cloud_scheduler.target_cloud_alias_file": str(files / "aliases.json"),
    }, environ={"HOME": str(files)})
    snapshot.configure(found)
    return found


@pytest.fixture
def pool(database: Database, stopped_clock: float) -> FixedPool:
    """The pool of the golden tests."""
    return build()


@pytest.fixture
def info(database: Database, settings: Settings) -> FlaskClient:
    return info_app(settings).test_client()


@pytest.fixture
def admin(database: Database, settings: Settings) -> FlaskClient:
    """Shutdowns wait for nobody: there is no engine in these tests, unless one starts it."""
    return admin_app(settings, wait_limit_s=0.0).test_client()


CLOUD_FILE = """\
# the clouds of the physics department
[alpha]
host: alpha.example.org
cloud_type: OpenStack
vm_slots: 10  ; was 20
memory: 20480
storage: 500
regions: one
security_group: default
access_key_id: AKIA
secret_access_key: %secret

[Beta]
Host = beta.example.org
cloud_type = Local
vm_slots = 4
enabled = yes
note = 50% off
password = hunter2
"""
