"""How are shapes kept? One immutable row per distinct request; a process remembers those it has seen."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from cloudsched.domain.scheduling.model import Require, Shape
from cloudsched.store.db import Database, Tx, current, read

_COLUMNS = 'id, "user", vm_type, source, cores, memory_mb, storage_gb, network, high_priority, placement'

# The members of `placement` JSON; anything else an asker wants carried along is under "extras".
PLACEMENT = ("targets", "type_limit", "job_per_core", "keep_alive_s", "images", "instance_types", "maximum_price",
             "security_groups", "extras", "require")


class _Cache:
    def __init__(self) -> None:
        self.database: Database | None = None
        self.by_id: dict[int, Shape] = {}
        self.by_digest: dict[str, int] = {}
        self.last = 0


_cache = _Cache()


def ensure(tx: Tx, request: dict[str, Any]) -> int:
    """The id of the shape with exactly this request; made when new.

    `request`: source, user, vm_type, cores, memory_mb, storage_gb, network, high_priority, placement (dict).
    """
    text = json.dumps(request, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    cache = _fresh()
    if (known := cache.by_digest.get(digest)) is not None:
        return known
    row = tx.one("SELECT id FROM shape WHERE digest = ?", (digest,))
    if row is None:
        sql = ('INSERT INTO shape (digest, source, "user", vm_type, cores, memory_mb, storage_gb, network, high_priority, '
               "placement) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (digest) DO UPDATE SET digest = shape.digest "
               "RETURNING id")
        row = tx.one(sql, (digest, request["source"], request["user"], request["vm_type"], request["cores"],
                           request["memory_mb"], request["storage_gb"], request["network"], request["high_priority"],
                           json.dumps(request["placement"], sort_keys=True)))
    assert row is not None
    number = int(row[0])
    tx.after.append(lambda: cache.by_digest.__setitem__(digest, number))
    return number


def known() -> dict[int, Shape]:
    """All shapes by id (rows never change, so only new ones are read)."""
    cache = _fresh()
    for row in read().all(f"SELECT {_COLUMNS} FROM shape WHERE id > ? ORDER BY id", (cache.last,)):
        if row[0] not in cache.by_id:
            cache.by_id[row[0]] = _shape(row)
        # A lower id may be committed later (Postgres sequences): look a little behind.
        cache.last = max(cache.last, row[0] - 64)
    return cache.by_id


def get(number: int) -> Shape:
    """One shape; KeyError when there is none."""
    shape = _fresh().by_id.get(number)
    if shape is None:
        row = read().one(f"SELECT {_COLUMNS} FROM shape WHERE id = ?", (number,))
        if row is None:
            raise KeyError(number)
        shape = _cache.by_id[number] = _shape(row)
    return shape


def _fresh() -> _Cache:
    if _cache.database is not current():
        _cache.__init__()  # type: ignore[misc]
        _cache.database = current()
    return _cache


def _shape(row: tuple[Any, ...]) -> Shape:
    number, user, vm_type, source, cores, memory_mb, storage_gb, network, high_priority, placement = row
    asked = json.loads(placement)
    extras = asked.get("extras", {})
    return Shape(
        id=number, user=user, vm_type=vm_type, source=source, cores=cores, memory_mb=memory_mb, storage_gb=storage_gb,
        gpus=extras.get("gpus", 0), network=network, high_priority=high_priority,
        targets=tuple(asked.get("targets", ())), type_limit=asked.get("type_limit", -1),
        job_per_core=bool(asked.get("job_per_core")), keep_alive_s=asked.get("keep_alive_s"),
        images=asked.get("images", {}), instance_types=asked.get("instance_types", {}),
        maximum_price=asked.get("maximum_price", 0.0), security_groups=tuple(asked.get("security_groups", ())),
        extras=extras, require=_require(asked.get("require")),
    )


def _require(asked: dict[str, Any] | None) -> Require | None:
    return None if asked is None else Require(**{**asked, "tags": frozenset(asked.get("tags", ()))})
