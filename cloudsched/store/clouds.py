"""How are clouds, limits and aliases kept?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.domain.entities import Cloud, columns
from cloudsched.store import events
from cloudsched.store.db import Tx, read

COLUMNS = columns(Cloud)

_DEFAULTS: dict[str, Any] = {
    "title": "", "address": "", "state": "active", "enabled": 0, "error_text": "", "priority": 0, "memory_mb": -1,
    "storage_gb": -1, "cores": -1, "max_node_memory_mb": -1, "networks": "[]", "keep_alive_s": 0, "options": "{}",
    "credentials": "", "failed_images": "[]", "source": "api", "position": 0, "version": 1,
}


def insert(tx: Tx, values: Mapping[str, Any], *, at: float, actor: str = "") -> int:
    """Insert a cloud (`name`, `kind`, `max_slots` at least); returns its id."""
    given = {**_DEFAULTS, "created_at": at, **values}
    sql = f"INSERT INTO cloud ({', '.join(given)}) VALUES ({', '.join('?' * len(given))}) RETURNING id"
    number = int(tx.value(sql, tuple(given.values())))
    events.append(tx, "cloud.add", ("cloud", number), at=at, actor=actor, name=values["name"], kind=values["kind"])
    return number


def update(tx: Tx, number: int, *, at: float, event: str, actor: str = "", version: int | None = None,
           note: Mapping[str, Any] | None = None, **facts: Any) -> bool:
    """Set columns with an event; False when `version` (If-Match) is not the present one."""
    sets = ", ".join(f"{name} = ?" for name in facts)
    where, args = "id = ?", [number]
    if version is not None:
        where += " AND version = ?"
        args.append(version)
    if tx.run(f"UPDATE cloud SET {sets}, version = version + 1 WHERE {where}", (*facts.values(), *args)).rowcount != 1:
        return False
    events.append_many(tx, [(at, event, "cloud", number, actor, json.dumps(note or {}, default=str))])
    return True


def all_clouds(*, removed: bool = False) -> list[Cloud]:
    """Clouds in configuration order; the removed ones only when asked for."""
    where = "" if removed else " WHERE state = 'active'"
    return [Cloud(*row) for row in read().all(f"SELECT {COLUMNS} FROM cloud{where} ORDER BY position, id")]


def get(number: int) -> Cloud | None:
    """One cloud by id, removed or not."""
    row = read().one(f"SELECT {COLUMNS} FROM cloud WHERE id = ?", (number,))
    return Cloud(*row) if row else None


def by_name(name: str, *, removed: bool = False) -> Cloud | None:
    """One cloud by name in any case."""
    sql = f"SELECT {COLUMNS} FROM cloud WHERE name = ?" + ("" if removed else " AND state = 'active'")
    row = read().one(sql, (name.lower(),))
    return Cloud(*row) if row else None


# user limits and cloud aliases: replaced as a whole from their files


def limits() -> dict[str, int]:
    """user -> largest number of nodes, in file order."""
    return dict(read().all('SELECT "user", max_nodes FROM user_limit ORDER BY position'))


def set_limits(tx: Tx, limits: Mapping[str, int], *, at: float, actor: str = "") -> None:
    """Replace all user limits."""
    tx.run("DELETE FROM user_limit")
    tx.many('INSERT INTO user_limit ("user", max_nodes, position) VALUES (?, ?, ?)',
            [(user, most, index) for index, (user, most) in enumerate(limits.items())])
    events.append(tx, "limits.set", ("system", 0), at=at, actor=actor, limits=dict(limits))


def aliases() -> dict[str, list[str]]:
    """alias -> cloud names, in file order."""
    return {alias: json.loads(clouds) for alias, clouds in
            read().all("SELECT alias, clouds FROM cloud_alias ORDER BY position")}


def set_aliases(tx: Tx, aliases: Mapping[str, Sequence[str]], *, at: float, actor: str = "") -> None:
    """Replace all aliases."""
    tx.run("DELETE FROM cloud_alias")
    tx.many("INSERT INTO cloud_alias (alias, clouds, position) VALUES (?, ?, ?)",
            [(alias, json.dumps(list(clouds)), index) for index, (alias, clouds) in enumerate(aliases.items())])
    events.append(tx, "aliases.set", ("system", 0), at=at, actor=actor, aliases={k: list(v) for k, v in aliases.items()})


# image records (contract 9 B41)


def image_records() -> list[tuple[str, str, int, int, int]]:
    """(image, cloud, succeeded, failed, banned)."""
    return read().all("SELECT image, cloud, succeeded, failed, banned FROM image_record")


def count_image(tx: Tx, image: str, cloud: str, *, ok: bool) -> tuple[int, int]:
    """One more boot result of an image on a cloud; returns (succeeded, failed)."""
    column = "succeeded" if ok else "failed"
    row = tx.one(
        f"INSERT INTO image_record (image, cloud, succeeded, failed, banned) VALUES (?, ?, ?, ?, 0) "
        f"ON CONFLICT (image, cloud) DO UPDATE SET {column} = image_record.{column} + 1 RETURNING succeeded, failed",
        (image, cloud, int(ok), int(not ok)))
    assert row is not None
    return row[0], row[1]


def ban_image(tx: Tx, image: str, cloud: str, *, banned: bool) -> None:
    """Set or lift the ban of an image on a cloud."""
    tx.run("INSERT INTO image_record (image, cloud, succeeded, failed, banned) VALUES (?, ?, 0, 0, ?) "
           "ON CONFLICT (image, cloud) DO UPDATE SET banned = ?", (image, cloud, int(banned), int(banned)))
