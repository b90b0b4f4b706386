"""How are keys made, listed and ended? A key is shown once; only its hash is kept."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from cloudsched import clock
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services.caller import ROLES, SYSTEM, Caller
from cloudsched.store import events, system
from cloudsched.store.db import Row, Tx, write

PREFIX = "cs_"
SHOWN_CHARS = 8
FILE_NAME = "admin.key"
_NAME_MAX = 100


def create(name: str, role: str, caller: Caller, *, org: str = "", ttl_s: float | None = None) -> dict[str, Any]:
    """Make a key; the answer holds it under `key`, never again. Raises Invalid, Forbidden, Conflict.

    The first key must be an admin's: from then on nobody comes in without a key.
    """
    caller.require("admin")
    _check(name, role, org)
    key = PREFIX + clock.new_token(32)
    at = clock.now()
    expires_at = at + ttl_s if ttl_s else None
    number = write(lambda tx: _create(tx, key, name, role, org, caller, at=at, expires_at=expires_at))
    return {"id": number, "name": name, "role": role, "org": org, "key": key, "prefix": key[:SHOWN_CHARS],
            "created_at": clock.rfc3339(at), "expires_at": clock.rfc3339(expires_at)}


def _create(tx: Tx, key: str, name: str, role: str, org: str, caller: Caller, *, at: float,
            expires_at: float | None) -> int:
    if role != "admin" and not _admins(at):
        raise Conflict("the first key must have the role admin: with any key in force, callers need one")
    digest = hashlib.sha256(key.encode()).hexdigest()
    number = system.add_key(tx, name=name, prefix=key[:SHOWN_CHARS], digest=digest, role=role, org=org, at=at,
                            expires_at=expires_at)
    events.append(tx, "key.create", ("key", number), at=at, actor=caller.name, name=name, role=role)
    return number


def revoke(number: int, caller: Caller) -> None:
    """End a key. Raises NotFound, and Conflict when the keys left would have no admin among them."""
    caller.require("admin")
    write(lambda tx: _revoke(tx, number, caller))


def _revoke(tx: Tx, number: int, caller: Caller) -> None:
    at = clock.now()
    working = _working(at)
    if number not in working:
        raise NotFound(f"there is no key {number} in force")
    left = [role for key, role in working.items() if key != number]
    if left and "admin" not in left:
        raise Conflict("this is the last admin key while others are in force: make another, or revoke those first")
    system.revoke_key(tx, number, at=at)
    events.append(tx, "key.revoke", ("key", number), at=at, actor=caller.name)


def listed(caller: Caller) -> list[dict[str, Any]]:
    """All keys, without the keys themselves."""
    caller.require("admin")
    return [{
        "id": number, "name": name, "prefix": prefix, "role": role, "org": org, "created_at": clock.rfc3339(created),
        "expires_at": clock.rfc3339(expires), "revoked_at": clock.rfc3339(revoked), "last_used_at": clock.rfc3339(used),
    } for number, name, prefix, role, org, created, expires, revoked, used in _rows()]


def ensure_admin_key_file(state_dir: str | Path) -> Path:
    """Make sure an admin key exists; a new one is written to `admin.key` (mode 0600) in the state directory.

    For installations that always need keys: without this nobody could make the first one.
    """
    file = Path(state_dir) / FILE_NAME
    if not _admins(clock.now()):
        made = create("admin", "admin", SYSTEM)
        file.unlink(missing_ok=True)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(made["key"] + "\n")
    return file


def _working(at: float) -> dict[int, str]:
    """id -> role of the keys in force."""
    return {row[0]: row[3] for row in _rows() if row[7] is None and (row[6] is None or row[6] > at)}


def _rows() -> list[Row]:
    return system.keys()


def _admins(at: float) -> list[int]:
    return [number for number, role in _working(at).items() if role == "admin"]


def _check(name: str, role: str, org: str) -> None:
    if role not in ROLES:
        raise Invalid.at("role", f"{role!r} is no role", ", ".join(ROLES))
    for field, value in (("name", name), ("org", org)):
        if len(value) > _NAME_MAX or (value and not value.isprintable()):
            raise Invalid.at(field, "cannot be used", f"at most {_NAME_MAX} printable characters")
    if not name.strip():
        raise Invalid.at("name", "is empty", "whose key it is")
