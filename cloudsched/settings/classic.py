"""What does `cloud_scheduler.conf` say, in the words of our own settings?

The classic file stands between `cloudsched.toml` and the defaults. Keys that mean the same as one of ours set
that one (`OURS`); all others are keys of [cloud_scheduler] under the field names of `classic.server_conf`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from cloudsched.classic import ini
from cloudsched.classic.problem import ClassicConfigError
from cloudsched.classic.server_conf import (
    GeneralConf,
    JobDefaults,
    LoggingConf,
    ServerConf,
    find_file,
    parse_server_conf,
)

from .declare import Key

# Section of the file -> its part of `CloudScheduler` and the dataclass of that part.
PARTS: Mapping[str, tuple[str, type]] = MappingProxyType({
    "global": ("general", GeneralConf), "job": ("job", JobDefaults), "logging": ("logging", LoggingConf)})

_MB = 1024 * 1024


class Ours(NamedTuple):
    """Our key for a key of the file, and how a value goes over and back."""

    key: str
    over: Callable[[Any], Any] = lambda value: value
    back: Callable[[Any], Any] = lambda value: value


def _pause(key: str) -> Ours:
    return Ours(key, lambda pause: max(pause, 0.05), int)


# Key of the file -> ours. The value in force goes back into the classic part, so both always say the same.
OURS: Mapping[str, Ours] = MappingProxyType({
    "info_server_port": Ours("listen.cloud_scheduler_info"),
    "admin_server_port": Ours("listen.cloud_scheduler_admin"),
    "scheduler_interval": _pause("engine.scheduler_interval_s"),
    "cleanup_interval": _pause("engine.cleanup_interval_s"),
    "vm_poller_interval": _pause("engine.node_poller_interval_s"),
    "job_poller_interval": _pause("engine.job_poller_interval_s"),
    "machine_poller_interval": _pause("engine.machine_poller_interval_s"),
    "max_destroy_threads": Ours("engine.destroy_threads", lambda count: min(count, 256)),
    "log_level": Ours("log.level"),
    "log_location": Ours("log.file", lambda path: path or "", lambda path: path or None),
    "log_max_size": Ours("log.max_size_mb", lambda size: (size or 0) / _MB,
                         lambda size_mb: int(size_mb * _MB) or None),
    "log_syslog": Ours("log.syslog"),
    "log_format": Ours("log.pattern"),
})


class ClassicKey(NamedTuple):
    """One key of [cloud_scheduler] that the classic file has too. `name` is its spelling there."""

    section: str
    field: str
    name: str
    key: Key
    default: Any


@dataclass(frozen=True)
class Found:
    """The classic file as a source: `section.key` -> value and origin. `path` None: there is none."""

    path: str | None
    values: Mapping[str, tuple[Any, str]]
    notes: tuple[str, ...] = ()


def _declared() -> dict[str, ClassicKey]:
    found = {}
    for section, (_, cls) in PARTS.items():
        for item in fields(cls):
            if item.name in OURS:
                continue
            spec = item.metadata["key"]
            found[f"cloud_scheduler.{item.name}"] = ClassicKey(section, item.name, spec.name or item.name,
                                                               _our_key(spec, item.default), item.default)
    return found


def _our_key(spec: Any, default: Any) -> Key:
    kind = {"decimal": "number", "path": "path" if isinstance(default, str) else "optional path"}
    factor = spec.factor
    low, high = (None if bound is None else bound * factor for bound in (spec.low, spec.high))
    name = f" (there in minutes: `{spec.name}`)" if factor != 1 else f" (`{spec.name}`)" if spec.name else ""
    return Key(kind.get(spec.kind, spec.kind), f"Key of `cloud_scheduler.conf`{name}.", low, high,
               tuple(spec.words))


CLASSIC_KEYS: Mapping[str, ClassicKey] = MappingProxyType(_declared())


def read(wanted: str, environ: Mapping[str, str]) -> Found:
    """The classic file as a source. `wanted`: a path, `none`, or empty to search (contract 6.1).

    Raises ClassicConfigError for a file that cannot be used."""
    if wanted == "none":
        return Found(None, {})
    path = wanted or find_file("cloud_scheduler.conf", environ=environ)
    if path is None:
        return Found(None, {})
    conf = parse_server_conf(path)
    lines = _lines(path)
    values = {}
    for section, name in sorted(conf.given):
        key, value = _ours(conf, section, name)
        spelling = CLASSIC_KEYS[key].name if key in CLASSIC_KEYS else name
        line = lines.get((section, spelling.lower()))
        values[key] = (value, f"classic file {path}" + (f":{line}" if line else ""))
    return Found(str(path), values, tuple(str(note) for note in conf.notes))


def _ours(conf: ServerConf, section: str, name: str) -> tuple[str, Any]:
    part, _ = PARTS[section]
    value = getattr(getattr(conf, part), name)
    if name not in OURS:
        return f"cloud_scheduler.{name}", value
    ours = OURS[name]
    return ours.key, ours.over(value)


def _lines(path: str | Path) -> dict[tuple[str, str], int]:
    return {(section.name.lower(), entry.key): entry.line + 1
            for section in ini.load(path) for entry in section.entries.values()}


__all__ = ["CLASSIC_KEYS", "OURS", "PARTS", "ClassicConfigError", "ClassicKey", "Found", "read"]
