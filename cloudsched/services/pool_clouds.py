"""How do clouds come, change and go through the native API? Add, patch, remove, verify; credentials sealed.

Credentials are checked against the place before they are kept, and never read back.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain.entities import Cloud
from cloudsched.drivers import registry
from cloudsched.drivers.base import Check, DriverError, Place
from cloudsched.errors import Conflict, FieldError, Invalid, Stale
from cloudsched.sealed import Sealer, SealError
from cloudsched.services import pool, pool_ops
from cloudsched.services.pool import UnknownCloud
from cloudsched.settings import Settings
from cloudsched.store import clouds, nodes, system
from cloudsched.store import pool as store
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

__all__ = ["CloudChange", "SealError", "add_cloud", "open_text", "opened", "place_of", "put", "remove_cloud",
           "seal", "set_cloud", "verify_cloud"]

NAME_CHARS = 200
# Options of every kind of cloud that are for the server, not for its driver (services/nodelogs.py, snapshot.node_gpus).
OF_SERVER = ("log_agent", "cluster", "gpus")
MOST_GPUS = 1000
_MOST = pool_ops.MOST_SLOTS


@dataclass(frozen=True, slots=True)
class CloudChange:
    """What was, or with `dry_run` would be: the cloud (None for one not made yet) and what was verified."""

    cloud: Cloud | None
    checks: Sequence[Check] = ()
    dry_run: bool = False


def add_cloud(given: Mapping[str, Any], *, settings: Settings, actor: str = "", verify: bool = True,
              dry_run: bool = False) -> CloudChange:
    """Add a cloud from the members of the native API: `name`, `kind`, `slots`, and any of `memory_mb`, `storage_gb`,
    `cores`, `max_node_memory_mb`, `networks`, `priority`, `enabled`, `keep_alive_s`, `boot_timeout_s`, `options`,
    `credentials`, `address`, `title`. Sizes of -1 are no limit.

    Raises Invalid naming each wrong field, also when a check fails; Conflict when there is a cloud of that name.
    """
    values = _columns(given, required=("name", "kind", "slots"))
    values.setdefault("enabled", 1)
    values["title"] = values.get("title") or str(given["name"]).strip()
    credentials = _credentials(given)
    known = clouds.by_name(values["name"], removed=True)
    if known is not None and known.state == "active":
        raise Conflict(f"there is a cloud named {values['name']!r} already")
    _check_options(values["kind"], given.get("options") or {})
    checks = _verified(_place(values, credentials, settings)) if verify else []
    if dry_run:
        return CloudChange(None, checks, dry_run=True)
    values["credentials"] = seal(credentials, settings)
    values["source"] = "api"
    return CloudChange(write(lambda tx: put(tx, values, actor=actor)), checks)


def set_cloud(name: str, changes: Mapping[str, Any], *, settings: Settings, actor: str = "", version: int | None = None,
              verify: bool = True, dry_run: bool = False) -> CloudChange:
    """Change some members; `credentials` replaces all of them, `options` as well. With fewer slots than nodes the
    newest nodes are retired, as in contract 4.2. `version` is that of If-Match.

    Raises UnknownCloud, Stale, and Invalid (a cloud keeps its name and kind).
    """
    cloud = pool.cloud_facts(name).cloud
    if fixed := [key for key in ("name", "kind") if key in changes]:
        raise Invalid.at(fixed[0], "cannot be changed", "remove the cloud and add another")
    values = _columns(changes)
    _check_options(cloud.kind, (changes.get("options") or {}).keys() - cloud.option.keys())
    credentials = _credentials(changes) if "credentials" in changes else opened(cloud, settings)
    merged = {"name": cloud.name, "kind": cloud.kind, "options": cloud.options, **values}
    touched = bool({"credentials", "options"} & changes.keys())
    checks = _verified(_place(merged, credentials, settings)) if verify and touched else []
    if dry_run:
        return CloudChange(cloud, checks, dry_run=True)
    if "credentials" in changes:
        values["credentials"] = seal(credentials, settings)
    if values and not write(lambda tx: _change(tx, cloud, values, changes=changes, actor=actor, version=version)):
        raise Stale(f"cloud {cloud.name} was changed meanwhile")
    if "max_slots" in values:
        pool_ops.retire_excess(cloud, settings=settings, actor=actor)
    return CloudChange(clouds.get(cloud.id), checks)


def _change(tx: Tx, cloud: Cloud, values: Mapping[str, Any], *, changes: Mapping[str, Any], actor: str,
            version: int | None) -> bool:
    note = {"name": cloud.name, "changed": sorted(changes)}
    if "enabled" in values:
        values = {**values, "disabled_at": None}
    return clouds.update(tx, cloud.id, at=clock.now(), event="cloud.change", actor=actor, version=version, note=note,
                         **values)


def remove_cloud(name: str, *, actor: str = "", version: int | None = None) -> Cloud:
    """Take a cloud out of the pool; its nodes are destroyed. Raises UnknownCloud, Stale."""
    cloud = pool.cloud_facts(name).cloud
    guard = None if version is None else ("version = ?", (version,))
    gone = write(lambda tx: move(tx, "cloud", cloud.id, "remove", at=clock.now(), actor=actor, guard=guard,
                                 note={"name": cloud.name}))
    if not gone:
        raise Stale(f"cloud {cloud.name} was changed meanwhile")
    pool_ops.stop_nodes(nodes.live(cloud_id=cloud.id), actor=actor, reason=f"cloud {cloud.name} was removed", retired=True)
    return cloud


def verify_cloud(name: str, *, settings: Settings) -> list[Check]:
    """Ask the place whether it can be used. Raises UnknownCloud; Invalid when nothing drives its kind."""
    cloud = pool.cloud_facts(name).cloud
    return _ask(place_of(cloud, settings=settings))


def place_of(cloud: Cloud, *, settings: Settings) -> Place:
    """What the cloud's driver is made from, credentials opened. Raises SealError when no key fits."""
    return _place({"name": cloud.name, "kind": cloud.kind, "options": cloud.options}, opened(cloud, settings), settings)


def opened(cloud: Cloud, settings: Settings) -> dict[str, str]:
    """The cloud's credentials in the clear."""
    return open_text(cloud.credentials, settings) if cloud.credentials else {}


def open_text(sealed: str, settings: Settings) -> dict[str, str]:
    """What `seal` made, in the clear. Raises SealError when no key fits."""
    found: dict[str, str] = json.loads(Sealer.load(settings.state.dir).open(sealed))
    return found


def seal(credentials: Mapping[str, str], settings: Settings) -> str:
    """Credentials as they are kept; none are an empty text."""
    if not credentials:
        return ""
    return Sealer.load(settings.state.dir).seal(json.dumps(dict(credentials), sort_keys=True))


def put(tx: Tx, values: Mapping[str, Any], *, actor: str) -> Cloud:
    """Insert a cloud, or bring a removed one of the same name back with these columns."""
    at = clock.now()
    known = clouds.by_name(values["name"], removed=True)
    if known is None:
        position = values.get("position", store.next_position(tx))
        number = clouds.insert(tx, {**values, "position": position}, at=at, actor=actor)
    else:
        number = known.id
        if not move(tx, "cloud", number, "restore", at=at, actor=actor, note={"name": known.name}):
            raise Conflict(f"there is a cloud named {known.name!r} already")
        clouds.update(tx, number, at=at, event="cloud.change", actor=actor, note={"name": known.name},
                      **{key: value for key, value in values.items() if key != "name"})
    made = clouds.get(number)
    if made is None:
        raise UnknownCloud(f"there is no cloud {values['name']!r}")
    return made


def _place(values: Mapping[str, Any], credentials: Mapping[str, str], settings: Settings) -> Place:
    options = {name: value for name, value in json.loads(values.get("options") or "{}").items() if name not in OF_SERVER}
    return Place(name=values["name"], kind=values["kind"], options=options,
                 credentials=credentials, state_dir=settings.state.dir, server_url=settings.native_url,
                 instance=system.setting("instance", "cloudsched"))


def _check_options(kind: str, names: Iterable[str]) -> None:
    """Options that only the driver knows are its to refuse."""
    own = registry.options(kind)
    known = sorted({*(own or ()), *OF_SERVER})
    for name in sorted(names):
        if own is not None and name not in known:
            raise Invalid.at(f"options.{name}", f"is not an option of {kind} clouds", ", ".join(known))


def _verified(place: Place) -> list[Check]:
    checks = _ask(place)
    failed = [check for check in checks if not check.ok]
    if failed:
        text = "; ".join(f"{check.name}: {check.detail}" for check in failed)
        raise Invalid(f"the place cannot be used: {text}",
                      errors=[FieldError("credentials", f"{check.name}: {check.detail}") for check in failed])
    return checks


def _ask(place: Place) -> list[Check]:
    driver = registry.make(place)
    try:
        return driver.verify()
    except DriverError as error:
        return [Check("verify", False, error.message)]


# what the native API may say of a cloud


def _number(low: int, high: int = _MOST, *, none: bool = False) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is None and none:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}" + (" or null" if none else ""))
        return value

    return check


def _text(most: int) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, str) or len(value) > most or not pool.storable(value):
            raise ValueError(f"text of at most {most} characters")
        return value.strip()

    return check


def _name(value: Any) -> str:
    text: str = _text(NAME_CHARS)(value)
    if not text:
        raise ValueError(f"text of 1 to {NAME_CHARS} characters")
    return text.lower()


def _flag(value: Any) -> int:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return int(value)


def _networks(value: Any) -> str:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) and pool.storable(item) for item in value):
        raise ValueError("a list of names")
    return json.dumps(list(value))


def _options(value: Any) -> str:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError("an object")
    if not isinstance(value.get("log_agent", True), (bool, str)) or not isinstance(value.get("cluster", ""), str):
        raise ValueError("an object; log_agent is true, false or a tag, cluster is a name")
    gpus = value.get("gpus", 0)
    if isinstance(gpus, bool) or not isinstance(gpus, int) or not 0 <= gpus <= MOST_GPUS:
        raise ValueError(f"an object; gpus is a whole number from 0 to {MOST_GPUS}")
    return json.dumps(dict(value))


# Member of the native API -> (column, check that answers the column's value or raises what is allowed).
_MEMBERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": ("name", _name), "title": ("title", _text(NAME_CHARS)), "address": ("address", _text(1000)),
    "kind": ("kind", registry.canonical), "slots": ("max_slots", _number(0)), "memory_mb": ("memory_mb", _number(-1)),
    "storage_gb": ("storage_gb", _number(-1)), "cores": ("cores", _number(-1)),
    "max_node_memory_mb": ("max_node_memory_mb", _number(-1)), "networks": ("networks", _networks),
    "priority": ("priority", _number(-1_000_000, 1_000_000)), "enabled": ("enabled", _flag),
    "keep_alive_s": ("keep_alive_s", _number(0)), "boot_timeout_s": ("boot_timeout_s", _number(-1, none=True)),
    "options": ("options", _options),
}


def _columns(given: Mapping[str, Any], *, required: Sequence[str] = ()) -> dict[str, Any]:
    errors = [FieldError(name, "is missing") for name in required if given.get(name) is None]
    values: dict[str, Any] = {}
    for name, value in given.items():
        if name == "credentials" or (name in required and value is None):
            continue
        if name not in _MEMBERS:
            errors.append(FieldError(name, "is not a member of a cloud", ", ".join([*_MEMBERS, "credentials"])))
            continue
        column, check = _MEMBERS[name]
        try:
            values[column] = check(value)
        except ValueError as error:
            errors.append(FieldError(name, "is not right", str(error)))
        except Invalid as error:
            errors += error.errors
    if errors:
        raise Invalid("; ".join(f"{error.field}: {error.message}" + (f" (allowed: {error.allowed})" if error.allowed else "")
                                for error in errors), errors=errors)
    return values


def _credentials(given: Mapping[str, Any]) -> dict[str, str]:
    value = given.get("credentials") or {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and isinstance(text, str)
                                                 for key, text in value.items()):
        raise Invalid.at("credentials", "is not right", "an object of texts")
    return dict(value)
