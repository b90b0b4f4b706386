"""Which value counts? Flag, then environment, cloudsched.toml, the classic file, the default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cloudsched.errors import FieldError, Invalid

from . import classic, sources
from .declare import Key, convert, declared
from .rules import contradictions
from .sections import SECTIONS, LocalCloud, Settings, declared_keys, mask_url
from .sources import Raw


def load(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None,
         config_file: str | Path | None = None) -> Settings:
    """The settings of this process.

    `flags`: `section.key` (or `state`, `port_offset`, `database_url`, `config`) -> value, None = not given.
    `config_file`: the cloudsched.toml to read instead of the one that is found.
    Raises Invalid; each of its errors names the key, the origin of the value and what is allowed.
    """
    flags = flags or {}
    environ = os.environ if environ is None else environ
    path = str(config_file) if config_file is not None else sources.find_file(flags, environ)
    given = [sources.from_flags(flags), sources.from_environment(environ)]
    if path is not None:
        given.append(sources.from_file(path))
    errors = [error for source in given for error in source.errors]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for source in reversed(given):
        _take(source.values, values=values, origins=origins, errors=errors)
    found = _read_classic(values, environ, errors)
    for key, (value, origin) in found.values.items():
        if key not in values:
            values[key], origins[key] = value, origin
    _raise_for(errors)
    settings = _build(_with_run_time_defaults(values, environ))
    settings = replace(settings, config_file=path, classic_file=found.path, notes=found.notes,
                       origins=MappingProxyType(origins))
    _raise_for(contradictions(settings))
    return settings


def hand_over(settings: Settings) -> dict[str, str]:
    """The environment that makes a child process load the same settings; no secret is in its arguments."""
    handed = {sources.variable(key): _as_text(settings.value(key)) for key, origin in settings.origins.items()
              if origin.startswith(("flag", "environment")) and key != "local.clouds"}
    handed["CLOUDSCHED_STATE"] = settings.state.dir
    if settings.config_file:
        handed["CLOUDSCHED_CONFIG"] = settings.config_file
    return handed


def _take(given: Mapping[str, Raw], *, values: dict[str, Any], origins: dict[str, str],
          errors: list[FieldError]) -> None:
    known = _keys()
    for name, raw in given.items():
        try:
            value = _clouds(raw) if name == "local.clouds" else convert(known[name], raw.value)
        except ValueError as error:
            errors.append(_refusal(name, raw, str(error)))
            continue
        if name != "local.clouds" and known[name].kind in ("path", "optional path"):
            value = _absolute(value, raw.base)
        values[name], origins[name] = value, raw.origin


def _keys() -> dict[str, Key]:
    return declared_keys() | {key: item.key for key, item in classic.CLASSIC_KEYS.items()}


def _refusal(name: str, raw: Raw, message: str) -> FieldError:
    value = raw.value
    known = declared_keys().get(name)
    shown = mask_url(value) if name == "database.url" and isinstance(value, str) else repr(value)
    if known is not None and known.secret and known.kind != "url":
        shown = "what was given"
    return FieldError(name, f"{message}, not {shown} ({raw.origin})")


def _absolute(value: Any, base: str) -> str | None:
    # A bare word may be a program found in PATH, or `none`: only what has a directory is made absolute.
    if not value or ("/" not in value and not value.startswith(".")):
        return value
    return os.path.normpath(os.path.join(base, value))


def _clouds(raw: Raw) -> tuple[LocalCloud, ...]:
    """`[[local.clouds]]`: one table each. Raises ValueError naming the cloud and the key."""
    if isinstance(raw.value, tuple) and all(isinstance(item, LocalCloud) for item in raw.value):
        return raw.value
    if not isinstance(raw.value, list) or not all(isinstance(item, dict) for item in raw.value):
        raise ValueError("must be tables [[local.clouds]]")
    clouds = tuple(_cloud(table) for table in raw.value)
    names = [cloud.name.lower() for cloud in clouds]
    if len(set(names)) != len(names):
        raise ValueError("must have different names (upper and lower case are the same)")
    return clouds


def _cloud(table: Mapping[str, Any]) -> LocalCloud:
    name = table.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError("must each have a name")
    known = declared(LocalCloud)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key == "name":
            continue
        if key not in known:
            near = get_close_matches(key, [*known, "name"], n=1, cutoff=0.5)
            raise ValueError(f"have the keys name, {', '.join(known)}; {name} has {key}"
                             + (f" (did you mean {near[0]}?)" if near else ""))
        try:
            values[key] = convert(known[key], value)
        except ValueError as error:
            raise ValueError(f"{key} of {name} {error}") from None
    return LocalCloud(name, **values)


def _read_classic(values: Mapping[str, Any], environ: Mapping[str, str],
                  errors: list[FieldError]) -> classic.Found:
    try:
        return classic.read(values.get("cloud_scheduler.config_file", ""), environ)
    except classic.ClassicConfigError as error:
        errors.append(FieldError("cloud_scheduler.config_file", error.located()))
        return classic.Found(None, {})


def _with_run_time_defaults(values: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    values = dict(values)
    state = values.get("state.dir") or _default_state(environ)
    values["state.dir"] = os.path.abspath(state)
    values["database.url"] = values.get("database.url") or f"sqlite:///{values['state.dir']}/cloudsched.db"
    for key, name in (("cloud_scheduler.ban_file", "banned.json"),
                      ("cloud_scheduler.persistence_file", "cloudscheduler.persistence")):
        values.setdefault(key, os.path.join(values["state.dir"], name))
    return values


def _default_state(environ: Mapping[str, str]) -> str:
    if os.geteuid() == 0:
        return "/var/lib/cloudsched"
    home = environ.get("HOME") or os.path.expanduser("~")
    base = environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state")
    return os.path.join(base, "cloudsched")


def _build(values: Mapping[str, Any]) -> Settings:
    sections = {name: cls(**_chosen(values, name, cls)) for name, cls in SECTIONS.items()
                if name != "cloud_scheduler"}
    general, job, logging = (cls(**_chosen(values, "cloud_scheduler", cls) | _mirrored(values, cls))
                             for _, cls in classic.PARTS.values())
    own = _chosen(values, "cloud_scheduler", SECTIONS["cloud_scheduler"])
    part = SECTIONS["cloud_scheduler"](**own, general=general, job=job, logging=logging)
    return Settings(**sections, cloud_scheduler=part)


def _chosen(values: Mapping[str, Any], section: str, cls: type) -> dict[str, Any]:
    return {item.name: values[f"{section}.{item.name}"] for item in fields(cls)
            if f"{section}.{item.name}" in values}


def _mirrored(values: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """Keys that are ours stand in the classic part too, where code that knows the contract looks for them."""
    shared = ((item.name, classic.OURS[item.name]) for item in fields(cls) if item.name in classic.OURS)
    return {name: ours.back(values[ours.key]) for name, ours in shared if ours.key in values}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    return "" if value is None else str(value)


def _raise_for(errors: list[FieldError]) -> None:
    if not errors:
        return
    lines = [f"{error.field}: {error.message}" for error in errors]
    raise Invalid("settings: " + "; ".join(lines), errors=errors)
