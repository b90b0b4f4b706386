"""Does care for the database work: backup while in use, restore, check, rebuild?"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from cloudsched import settings
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.sealed import Sealer
from cloudsched.settings import Settings
from cloudsched.store import admin, db, operations, system


@pytest.fixture
def found(tmp_state: Path, migrated_file: Path) -> Settings:
    loaded = settings.load({"state": str(tmp_state)}, environ={"HOME": str(tmp_state)})
    (tmp_state / "cloudsched.db").write_bytes(migrated_file.read_bytes())
    return loaded


def put(found: Settings, value: str) -> None:
    opened = db.open_database(found.database.url)
    opened.write(lambda tx: system.put_setting(tx, "k", value))
    opened.close()


def get(found: Settings) -> str:
    opened = db.open_database(found.database.url)
    value = system.setting("k")
    opened.close()
    return value


def test_a_backup_brings_back_what_was_there(found: Settings, tmp_path: Path) -> None:
    put(found, "old")
    copy = tmp_path / "copy.db"
    assert str(copy) in admin.backup(found, str(copy))
    assert copy.stat().st_mode & 0o777 == 0o600
    put(found, "new")
    assert "the old one is" in admin.restore(found, str(copy))
    assert get(found) == "old"
    assert all(ok for _, ok, _ in admin.check(found))


def test_a_backup_overwrites_nothing(found: Settings, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("mine")
    with pytest.raises(Conflict, match="never overwrites"):
        admin.backup(found, str(tmp_path / "copy.db"))


def test_what_is_no_backup_is_refused(found: Settings, tmp_path: Path) -> None:
    put(found, "kept")
    (tmp_path / "no.db").write_text("no database at all" * 100)
    with pytest.raises(Invalid, match="no backup"):
        admin.restore(found, str(tmp_path / "no.db"))
    with pytest.raises(NotFound):
        admin.restore(found, str(tmp_path / "none.db"))
    assert get(found) == "kept"


def test_a_running_server_is_not_replaced_under_its_feet(found: Settings, tmp_path: Path) -> None:
    admin.backup(found, str(tmp_path / "copy.db"))
    Path(found.state.dir, "server.json").write_text("{}")
    with pytest.raises(Conflict, match="stop it first"):
        admin.restore(found, str(tmp_path / "copy.db"))


def test_a_killed_server_is_not_in_the_way(found: Settings, tmp_path: Path) -> None:
    put(found, "old")
    admin.backup(found, str(tmp_path / "copy.db"))
    gone = subprocess.Popen(["true"])
    gone.wait()
    Path(found.state.dir, "server.json").write_text(f'{{"pid": {gone.pid}}}')
    admin.restore(found, str(tmp_path / "copy.db"))


def test_rekey_seals_everything_with_a_new_key(found: Settings) -> None:
    before = Sealer.load(found.state.dir, {})
    opened = db.open_database(found.database.url)
    opened.write(lambda tx: tx.run("INSERT INTO runner_config (hash, body) VALUES ('h', ?)", (before.seal("token"),)))
    asked = {"password": before.seal("inside"), "host": before.seal("join " + before.seal("nested"))}
    opened.write(lambda tx: operations.create(tx, "k", subject=("", None), request=asked, steps=[], actor="", at=1.0))
    opened.close()
    assert "4 secrets are under the first of 2 keys" in admin.rekey(found)
    file = Path(found.state.dir, "secret.key")
    file.write_text(file.read_text().splitlines()[0] + "\n")
    opened = db.open_database(found.database.url)
    assert Sealer.load(found.state.dir, {}).open(opened.read().value("SELECT body FROM runner_config")) == "token"
    request = json.loads(opened.read().value("SELECT request FROM operation"))
    sealer = Sealer.load(found.state.dir, {})
    nested = sealer.open(request["host"]).removeprefix("join ")
    assert (sealer.open(request["password"]), sealer.open(nested)) == ("inside", "nested")
    opened.close()


@pytest.mark.parametrize(
    ("url", "kept", "password"),
    [("postgresql://u:p%40w@h:5433/d?sslmode=require", "postgresql://u@h:5433/d?sslmode=require", "p@w"),
     ("postgresql:///d?host=%2Frun%2Fpg&password=x", "postgresql:///d?host=%2Frun%2Fpg", "x"),
     ("postgresql://u@/d", "postgresql://u@/d", None)],
)  # fmt: skip
def test_postgres_tools_get_the_whole_url_but_the_password(url: str, kept: str, password: str | None) -> None:
    assert admin._without_password(url) == (kept, password)


def test_what_does_not_fit_is_found_and_rebuilt(found: Settings) -> None:
    opened = db.open_database(found.database.url)
    opened.write(lambda tx: tx.run(
        'INSERT INTO job (id, key, batch_id, proc, "user", shape_id, state, priority, attempt, retries, max_retries, backoff_s, '
        "needs, submitted_at, spec) VALUES (7, 'k', 3, 0, 'ada', 99, 'pending', 0, 0, 0, 0, 0, 2, 1.0, '{}')"))
    opened.close()
    bad = {name for name, ok, _ in admin.check(found) if not ok}
    assert bad == {"jobs have a shape", "dependencies are counted", "job numbers are ahead"}
    assert admin.rebuild(found) == "job counter: 1, batch counter: 1, needs: 1"
    assert {name for name, ok, _ in admin.check(found) if not ok} == {"jobs have a shape"}
