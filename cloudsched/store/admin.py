"""How is the database itself cared for? Migrate, back up, restore, check, rebuild, rekey: for `cloudsched db`.

Each function opens the database of the given settings, does its work and closes it. Backups of SQLite are one file made
while the server runs; of Postgres an archive made by `pg_dump`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.errors import Conflict, Invalid, NotFound, Unavailable
from cloudsched.sealed import PREFIX, VARIABLE, Sealer
from cloudsched.settings import Settings
from cloudsched.store import migrations
from cloudsched.store.db import Database, Tx, open_database

Check = tuple[str, bool, str]


def migrate(settings: Settings) -> str:
    """Apply missing schema steps; says which."""
    with _opened(settings, migrated=False) as database:
        done = migrations.migrate(database)
        return f"schema {migrations.version(database)}, steps applied: {', '.join(map(str, done)) or 'none'}"


def backup(settings: Settings, path: str) -> str:
    """Copy the database to `path` while it is used. Raises Conflict when the file exists, Unavailable when it fails."""
    target = os.path.abspath(path)
    if os.path.exists(target):
        raise Conflict(f"{target} exists: a backup never overwrites")
    part = f"{target}.part"
    try:
        os.close(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600))
    except OSError as error:
        raise Invalid.at("file", f"{target} cannot be written: {error.strerror}") from None
    try:
        if settings.database.is_sqlite:
            _copy_sqlite(_existing(settings), part)
        else:
            _postgres(settings, ["pg_dump", "--format=custom", f"--file={part}"])
        os.replace(part, target)
    finally:
        if os.path.exists(part):
            os.remove(part)
    return f"{os.path.getsize(target):,} bytes in {target}"


def restore(settings: Settings, path: str) -> str:
    """Put a backup in place of the database, with the server stopped. What was there is kept beside it (SQLite).

    Raises NotFound, Invalid (not a backup), Conflict (the server runs, or the backup is newer than this program).
    """
    if not os.path.isfile(path):
        raise NotFound(f"there is no file {path}")
    _refuse_while_served(settings)
    if not settings.database.is_sqlite:
        _postgres(settings, ["pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", path])
        return migrate(settings)
    _check_backup(path)
    target, kept = _path(settings), ""
    if os.path.exists(target):
        kept = f"{target}.before-restore-{int(clock.now())}"
        _copy_sqlite(target, kept)
        os.chmod(kept, 0o600)
    os.makedirs(os.path.dirname(target), mode=0o711, exist_ok=True)
    fresh = f"{target}.restoring"
    shutil.copyfile(path, fresh)
    os.chmod(fresh, 0o600)
    for suffix in ("-wal", "-shm"):
        if os.path.exists(target + suffix):
            os.remove(target + suffix)
    os.replace(fresh, target)
    return migrate(settings) + (f"; the old one is {kept}" if kept else "")


def check(settings: Settings) -> list[Check]:
    """Is the database whole, and do its rows fit together? (name, ok, detail) for each question."""
    with _opened(settings, migrated=False) as database:
        found = migrations.version(database)
        rows = [("schema", found == len(migrations.STEPS), f"{found} of {len(migrations.STEPS)}")]
        if found != len(migrations.STEPS):
            return rows
        tx = database.read()
        if not database.pg:
            text = str(tx.value("PRAGMA integrity_check"))
            rows.append(("file", text == "ok", text))
        return rows + [_ask(tx, name, sql) for name, sql in _QUESTIONS.items()]


def rebuild(settings: Settings) -> str:
    """Make counters and other derived columns again from the records; says what differed."""
    with _opened(settings) as database:
        changed = database.write(_rebuild)
    return ", ".join(f"{name}: {count}" for name, count in changed.items() if count) or "nothing differed"


def rekey(settings: Settings) -> str:
    """A new key in front of `secret.key`, and every stored secret under it, with the server stopped.

    Keys of the environment are not changed: the first of them is taken. Raises Conflict (the server runs), SealError.
    """
    _refuse_while_served(settings)
    sealer = Sealer.load(settings.state.dir)
    if not os.environ.get(VARIABLE):
        sealer = sealer.rotate()
    with _opened(settings) as database:
        count = database.write(lambda tx: sum(_reseal(tx, sealer, *place) for place in _SEALED))
    return f"{count} secrets are under the first of {len(sealer)} keys; the others can be removed"


# Table, its key, and the column that may hold a sealed text, or sealed texts among others.
_SEALED = (
    ("cloud", "id", "credentials"), ("runner_config", "hash", "body"), ("idempotency", "key", "body"),
    ("centre", "id", "api_pwd"), ("centre_host", "id", "adminpwd"), ("cluster", "id", "secrets"), ("instance", "id", "password"),
    ("webhook", "id", "sealed"),
    ("instance", "id", "previous"), ("operation", "id", "request"), ("operation", "id", "result"), ("setting", "key", "value"))
_TOKEN = re.compile(re.escape(PREFIX) + r"[A-Za-z0-9_=-]+")


def _reseal(tx: Tx, sealer: Sealer, table: str, key: str, column: str) -> int:
    count = 0

    def again(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        # What was sealed may hold sealed texts itself (a join command among a cluster's secrets).
        return sealer.seal(_TOKEN.sub(again, sealer.open(found[0])))

    for number, text in tx.all(f"SELECT {key}, {column} FROM {table} WHERE {column} LIKE '%{PREFIX}%'"):
        tx.run(f"UPDATE {table} SET {column} = ? WHERE {key} = ?", (_TOKEN.sub(again, text), number))
    return count


_FINAL = ", ".join(f"'{state}'" for state in moves.JOB_FINAL)
_STATES = ", ".join(f"'{state}'" for state in moves.JOB_STATES)
# Each selects what should not be there.
_QUESTIONS = {
    "jobs are in a known state": f"SELECT id FROM job WHERE state NOT IN ({_STATES})",
    "ended jobs have a time, others none": f"SELECT id FROM job WHERE source = 'queue' AND (ended_at IS NOT NULL) <> "
                                           f"(state IN ({_FINAL}))",
    "jobs in hand belong to a node": "SELECT j.id FROM job j LEFT JOIN node n ON n.id = j.node_id "
                                     "WHERE j.state IN ('assigned', 'running') AND j.source = 'queue' AND n.id IS NULL",
    "jobs ended once": "SELECT subject_id FROM event WHERE subject_kind = 'job' AND kind IN ('job.succeed', 'job.fail', "
                       "'job.time_out', 'job.cancel') GROUP BY subject_id HAVING count(*) > 1",
    "jobs have a shape": "SELECT j.id FROM job j LEFT JOIN shape s ON s.id = j.shape_id WHERE s.id IS NULL",
    "dependencies are counted": "SELECT id FROM job WHERE state = 'pending' AND needs <> "
                                "(SELECT count(*) FROM job_need WHERE job_id = job.id)",
    "input files have their content": "SELECT i.job_id FROM job_input i LEFT JOIN content_piece p ON p.content_id = i.content_id "
                                      'AND p."offset" = 0 WHERE p.content_id IS NULL',
    "contents belong to a job": "SELECT id FROM content WHERE NOT EXISTS (SELECT 1 FROM job_input WHERE content_id = content.id)",
    "nodes have a cloud": "SELECT n.id FROM node n LEFT JOIN cloud c ON c.id = n.cloud_id WHERE c.id IS NULL",
    "job numbers are ahead": "SELECT id FROM job WHERE id > (SELECT value FROM counter WHERE name = 'job')",
}


def _ask(tx: Tx, name: str, sql: str) -> Check:
    rows = tx.all(f"{sql} LIMIT 5")
    return (name, not rows, "" if not rows else "not so: " + ", ".join(str(row[0]) for row in rows))


def _rebuild(tx: Tx) -> dict[str, int]:
    steps: dict[str, str] = {
        "job counter": "UPDATE counter SET value = (SELECT COALESCE(max(id), 0) FROM job) WHERE name = 'job' "
                       "AND value < (SELECT COALESCE(max(id), 0) FROM job)",
        "batch counter": "UPDATE counter SET value = (SELECT COALESCE(max(batch_id), 0) FROM job WHERE source = 'queue') "
                         "WHERE name = 'batch' AND value < (SELECT COALESCE(max(batch_id), 0) FROM job WHERE source = 'queue')",
        "needs": "UPDATE job SET needs = (SELECT count(*) FROM job_need WHERE job_id = job.id) WHERE state = 'pending' "
                 "AND needs <> (SELECT count(*) FROM job_need WHERE job_id = job.id)",
        "dependents": "UPDATE job SET has_dependents = 1 WHERE has_dependents = 0 "
                      "AND id IN (SELECT on_id FROM job_need)",
    }
    return {name: int(tx.run(sql).rowcount) for name, sql in steps.items()}


@contextmanager
def _opened(settings: Settings, *, migrated: bool = True) -> Iterator[Database]:
    database = open_database(settings.database.url)
    try:
        if migrated:
            migrations.migrate(database)
        yield database
    finally:
        database.close()


def _refuse_while_served(settings: Settings) -> None:
    """Raises Conflict while the server that wrote server.json lives; one that was killed leaves the file behind."""
    path = os.path.join(settings.state.dir, "server.json")
    try:
        with open(path, encoding="utf-8") as file:
            number = int(json.load(file)["pid"])
        os.kill(number, 0)
    except (FileNotFoundError, ProcessLookupError):
        return
    except (OSError, ValueError, KeyError, TypeError):
        pass  # it cannot be told: better stop here
    raise Conflict(f"the server runs: stop it first (if none does, remove {path})")


def _path(settings: Settings) -> str:
    return settings.database.url.removeprefix("sqlite:///").removeprefix("sqlite://")


def _existing(settings: Settings) -> str:
    path = _path(settings)
    if not os.path.exists(path):
        raise NotFound(f"there is no database {path}")
    return path


def _copy_sqlite(source: str, target: str) -> None:
    there, copy = sqlite3.connect(source, timeout=30), sqlite3.connect(target)
    try:
        there.backup(copy)
    except sqlite3.Error as error:
        raise Unavailable(f"the copy failed: {error}") from None
    finally:
        there.close()
        copy.close()


def _check_backup(path: str) -> None:
    one = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        whole = one.execute("PRAGMA integrity_check").fetchone()[0]
        found = int(one.execute("SELECT value FROM setting WHERE key = ?", (migrations.SCHEMA_KEY,)).fetchone()[0])
    except (sqlite3.Error, TypeError):
        raise Invalid.at("file", f"{path} is no backup of a cloudsched database") from None
    finally:
        one.close()
    if whole != "ok":
        raise Invalid.at("file", f"{path} is damaged: {whole}")
    if found > len(migrations.STEPS):
        raise Conflict(f"the backup has schema {found}, this cloudsched knows {len(migrations.STEPS)}: upgrade it first")


def _postgres(settings: Settings, command: list[str]) -> None:
    """Run a Postgres tool; the password goes by the environment, never in the arguments."""
    if shutil.which(command[0]) is None:
        raise Unavailable(f"{command[0]} is not installed: it comes with the PostgreSQL client programs")
    url, password = _without_password(settings.database.url)
    environ = {**os.environ, **({"PGPASSWORD": password} if password else {})}
    ended = subprocess.run([command[0], f"--dbname={url}", *command[1:]], env=environ, capture_output=True, text=True,
                           check=False)
    if ended.returncode:
        raise Unavailable(f"{command[0]} failed: {ended.stderr.strip()[:500]}")


def _without_password(url: str) -> tuple[str, str | None]:
    """(the URL with all but its password, the password), wherever in the URL it stands."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    query = parse_qsl(parts.query, keep_blank_values=True)
    found = [value for key, value in query if key == "password"] or ([unquote(password)] if password else [])
    kept = urlencode([pair for pair in query if pair[0] != "password"], quote_via=quote)
    return f"postgresql://{name}{at}{host}{parts.path}{'?' if kept else ''}{kept}", found[-1] if found else None
