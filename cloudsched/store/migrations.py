"""How does a database get from any earlier version to this one? Numbered steps, each in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import partial

from cloudsched import clock
from cloudsched.errors import Conflict
from cloudsched.store import (
    tables,
    tables_centres,
    tables_clusters,
    tables_dcluster,
    tables_devices,
    tables_inputs,
    tables_instances,
    tables_logkit,
    tables_parts,
    tables_webhooks,
)
from cloudsched.store.db import Database, Tx

SCHEMA_KEY = "schema_version"


def _foundation(database: Database, tx: Tx) -> None:
    for model in tables.ALL:
        model._schema.create_all(safe=False)  # type: ignore[attr-defined]
    for index in tables.INDEXES:
        tx.run(index)
    for name in ("job", "batch"):
        tx.run("INSERT INTO counter (name, value) VALUES (?, 0)", (name,))
    tx.run("INSERT INTO setting (key, value) VALUES ('instance', ?)", (uuid.uuid4().hex[:12],))
    tx.run("INSERT INTO setting (key, value) VALUES ('created_at', ?)", (clock.rfc3339(clock.now()),))


def _log_agents(_database: Database, tx: Tx) -> None:
    for model in tables_logkit.ALL:
        model._schema.create_all(safe=False)  # type: ignore[attr-defined]
    for index in tables_logkit.INDEXES:
        tx.run(index)
    tx.run("INSERT INTO counter (name, value) VALUES ('log_agents', 0)")


def _devices(_database: Database, tx: Tx) -> None:
    for model in tables_devices.ALL:
        model._schema.create_all(safe=False)
    for index in tables_devices.INDEXES:
        tx.run(index)
    for name in ("devices", "stream_place", "device_ping"):
        tx.run("INSERT INTO counter (name, value) VALUES (?, 0)", (name,))


def _clusters(_database: Database, tx: Tx) -> None:
    for part in (tables_clusters, tables_centres, tables_parts, tables_instances, tables_dcluster, tables_webhooks):
        for model in part.ALL:
            model._schema.create_all(safe=False)
        for index in part.INDEXES:
            tx.run(index)


def _inputs(_database: Database, tx: Tx) -> None:
    for model in tables_inputs.ALL:
        model._schema.create_all(safe=False)  # type: ignore[attr-defined]
    for index in tables_inputs.INDEXES:
        tx.run(index)


def _retries(_database: Database, tx: Tx) -> None:
    tx.run("CREATE INDEX job_retry ON job (retry_of) WHERE retry_of IS NOT NULL")


STEPS: tuple[Callable[[Database, Tx], None], ...] = (_foundation, _log_agents, _devices, _clusters, _retries, _inputs)


def version(database: Database) -> int:
    """The schema version of the database; 0 when it is empty. Raises Unavailable when it cannot be reached."""
    database.read().one("SELECT 1")
    if "setting" not in database.orm.get_tables():
        return 0
    return int(database.read().value("SELECT value FROM setting WHERE key = ?", (SCHEMA_KEY,)) or 0)


def migrate(database: Database) -> list[int]:
    """Apply the missing steps; returns their numbers. Safe when several processes start at once.

    Raises Conflict when the database was made by a newer cloudsched.
    """
    if version(database) > len(STEPS):
        raise Conflict(f"the database has schema {version(database)}, this cloudsched knows {len(STEPS)}: upgrade it first")
    applied = []
    while (done := version(database)) < len(STEPS):
        database.write(partial(_apply, database=database, number=done))
        applied.append(done + 1)
    return applied


def _apply(tx: Tx, *, database: Database, number: int) -> None:
    if tx.pg:
        tx.run("SELECT pg_advisory_xact_lock(716253)")
    if version(database) != number:
        return
    STEPS[number](database, tx)
    if number == 0:
        tx.run("INSERT INTO setting (key, value) VALUES (?, '1')", (SCHEMA_KEY,))
    else:
        tx.run("UPDATE setting SET value = ? WHERE key = ?", (str(number + 1), SCHEMA_KEY))
