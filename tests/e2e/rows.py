"""What does the database itself say? Rows of a running instance, read beside the server."""

from __future__ import annotations

import sqlite3
from typing import Any

from cloudsched.testing.instance import Instance


def rows(instance: Instance, sql: str, *args: Any) -> list[tuple[Any, ...]]:
    """Rows of a query (`?` marks parameters) in the instance's own database, committed ones alone."""
    if instance.database_url:
        import psycopg

        with psycopg.connect(instance.database_url, autocommit=True) as connection:
            return connection.execute(sql.replace("?", "%s").encode(), args).fetchall()
    connection = sqlite3.connect(f"file:{instance.state / 'cloudsched.db'}?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(sql, args).fetchall()
    finally:
        connection.close()


def value(instance: Instance, sql: str, *args: Any) -> Any:
    """The first column of the first row."""
    return rows(instance, sql, *args)[0][0]


def live_nodes(instance: Instance) -> list[tuple[Any, ...]]:
    """(name, state) of nodes that are there or should be."""
    return rows(instance, "SELECT name, state FROM node WHERE state NOT IN ('gone', 'failed', 'released')")
