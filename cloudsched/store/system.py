"""What does the installation itself keep? Settings, leader leases, pulses of loops, keys, idempotent answers, slots."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cloudsched.store.db import Row, Tx, read


def setting(key: str, default: str = "") -> str:
    """One kept fact (`instance`, `quick_shutdown`, `queue_read_at`, ...)."""
    value = read().value("SELECT value FROM setting WHERE key = ?", (key,))
    return default if value is None else str(value)


def put_setting(tx: Tx, key: str, value: str) -> None:
    """Keep a fact."""
    tx.run("INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value))


def locked_setting(tx: Tx, key: str, default: str = "") -> str:
    """The same, kept from changing until this transaction ends: the row is made when it is missing."""
    tx.run("INSERT INTO setting (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING", (key, default))
    return str(tx.value("SELECT value FROM setting WHERE key = ?" + tx.lock_rows, (key,)))


# leases: who leads a loop


def take_lease(tx: Tx, name: str, holder: str, *, at: float, lease_s: float) -> int | None:
    """Take or renew the lease `name`; returns its fence number (grows with each new holder), None when another has it."""
    row = tx.one(
        "INSERT INTO lease (name, holder, until, fence) VALUES (?, ?, ?, 1) ON CONFLICT (name) DO UPDATE SET "
        "fence = lease.fence + CASE WHEN lease.holder = excluded.holder THEN 0 ELSE 1 END, holder = excluded.holder, "
        "until = excluded.until WHERE lease.holder = excluded.holder OR lease.until < ? RETURNING fence",
        (name, holder, at + lease_s, at))
    return int(row[0]) if row else None


def may_lead(tx: Tx, name: str, holder: str, *, at: float) -> bool:
    """Does nobody else hold the lease `name` (and `holder`'s, if it has one, still last)?"""
    row = tx.one("SELECT holder, until FROM lease WHERE name = ?", (name,))
    return row is None or (row[0] == holder and row[1] >= at)


def drop_leases(tx: Tx, holder: str) -> None:
    """Give back everything a process that stops holds."""
    tx.run("UPDATE lease SET until = 0 WHERE holder = ?", (holder,))


def leases() -> list[Row]:
    """(name, holder, until, fence)."""
    return read().all("SELECT name, holder, until, fence FROM lease ORDER BY name")


# loops: their pulse (T13)


@dataclass(frozen=True, slots=True)
class Pulse:
    """When a loop last completed a cycle."""

    name: str
    interval_s: float
    created_at: float
    last_cycle_at: float | None
    last_error: str
    last_error_at: float | None
    took_s: float | None


def start_loop(tx: Tx, name: str, *, interval_s: float, at: float) -> None:
    """A loop was created: its pulse counts from here."""
    tx.run("INSERT INTO loop (name, interval_s, created_at, last_error) VALUES (?, ?, ?, '') ON CONFLICT (name) DO UPDATE SET "
           "interval_s = excluded.interval_s, created_at = excluded.created_at, last_cycle_at = NULL",
           (name, interval_s, at))


def beat(tx: Tx, name: str, *, at: float, took_s: float, error: str = "") -> None:
    """A loop completed a cycle (or failed in it: `error`)."""
    if error:
        tx.run("UPDATE loop SET last_error = ?, last_error_at = ?, took_s = ? WHERE name = ?", (error, at, took_s, name))
    else:
        tx.run("UPDATE loop SET last_cycle_at = ?, took_s = ? WHERE name = ?", (at, took_s, name))


def pulses() -> dict[str, Pulse]:
    """All loops by name."""
    sql = "SELECT name, interval_s, created_at, last_cycle_at, last_error, last_error_at, took_s FROM loop ORDER BY name"
    return {row[0]: Pulse(*row) for row in read().all(sql)}


# keys


def add_key(tx: Tx, *, name: str, prefix: str, digest: str, role: str, org: str, at: float, expires_at: float | None) -> int:
    """Keep a key's hash; returns its id."""
    return int(tx.value("INSERT INTO api_key (name, prefix, hash, role, org, created_at, expires_at) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id", (name, prefix, digest, role, org, at, expires_at)))


def key_by_hash(digest: str) -> Row | None:
    """(id, name, role, org, expires_at, revoked_at)."""
    return read().one("SELECT id, name, role, org, expires_at, revoked_at FROM api_key WHERE hash = ?", (digest,))


def keys() -> list[Row]:
    """(id, name, prefix, role, org, created_at, expires_at, revoked_at, last_used_at)."""
    return read().all("SELECT id, name, prefix, role, org, created_at, expires_at, revoked_at, last_used_at FROM api_key "
                      "ORDER BY id")


def revoke_key(tx: Tx, number: int, *, at: float) -> bool:
    """End a key; False when there is none that still works."""
    return bool(tx.run("UPDATE api_key SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL", (at, number)).rowcount == 1)


def key_used(tx: Tx, number: int, *, at: float) -> None:
    """Note when a key was last used (the caller does this at most once a minute)."""
    tx.run("UPDATE api_key SET last_used_at = ? WHERE id = ?", (at, number))


def has_keys() -> bool:
    """Is any key in force?"""
    return bool(read().value("SELECT count(*) FROM api_key WHERE revoked_at IS NULL"))


# slots of an external batch system


def set_slots(tx: Tx, slots: dict[str, dict[str, Any]], *, at: float) -> None:
    """Replace the picture of the external batch system's slots."""
    tx.run("DELETE FROM slot")
    tx.many("INSERT INTO slot (name, facts, seen_at) VALUES (?, ?, ?)",
            [(name, json.dumps(facts), at) for name, facts in slots.items()])


def slots() -> dict[str, dict[str, Any]]:
    """name -> facts."""
    return {name: json.loads(facts) for name, facts in read().all("SELECT name, facts FROM slot ORDER BY name")}
