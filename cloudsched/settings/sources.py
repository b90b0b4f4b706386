"""Where do raw values come from? Flags, environment and cloudsched.toml, each value with its origin."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from cloudsched.errors import FieldError

from .sections import SECTIONS, all_keys

FILE_NAME = "cloudsched.toml"
PREFIX = "CLOUDSCHED_"

# Short names of flags and variables.
SHORT = {"state": "state.dir", "port_offset": "listen.port_offset", "database_url": "database.url"}
_SHORT_VARIABLES = {"CLOUDSCHED_STATE": "state.dir", "CLOUDSCHED_PORT_OFFSET": "listen.port_offset"}

_HEADER = re.compile(r"\s*\[\[?\s*([A-Za-z0-9_.-]+)\s*\]\]?")
_ENTRY = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")


class Raw(NamedTuple):
    """One value as it was given."""

    value: Any
    origin: str
    base: str = ""  # directory relative paths count from


class Source(NamedTuple):
    """What one source says, by `section.key`, and what is wrong with it."""

    values: dict[str, Raw]
    errors: list[FieldError]
    path: str | None = None


def from_flags(flags: Mapping[str, object]) -> Source:
    """Flags: `section.key` or a short name; None means not given."""
    source = Source({}, [])
    known = set(all_keys())
    for name, value in flags.items():
        key = SHORT.get(name, name)
        if value is None or name == "config":
            continue
        if key not in known:
            source.errors.append(_unknown(name, "flag", sorted(known | set(SHORT))))
            continue
        shown = f"--{name.replace('_', '-')}" if name in SHORT else name
        source.values[key] = Raw(value, f"flag {shown}", str(Path.cwd()))
    return source


def from_environment(environ: Mapping[str, str]) -> Source:
    """Variables CLOUDSCHED_SECTION_KEY, CLOUDSCHED_STATE and CLOUDSCHED_PORT_OFFSET."""
    source = Source({}, [])
    names = variables()
    for name in sorted(environ):
        if name in names:
            source.values[names[name]] = Raw(environ[name], f"environment {name}", str(Path.cwd()))
        elif _looks_like_ours(name):
            source.errors.append(_unknown(name, "environment", list(names)))
    return source


def from_file(path: str | Path) -> Source:
    """cloudsched.toml: tables are sections. Unknown ones are errors with their line."""
    source = Source({}, [], str(path))
    try:
        text = Path(path).read_text(encoding="utf-8")
        tables = tomllib.loads(text)
    except OSError as error:
        source.errors.append(FieldError("config_file", f"cannot read {path}: {error.strerror}"))
        return source
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        source.errors.append(FieldError("config_file", f"{path} is not TOML: {error}"))
        return source
    lines = _lines(text)
    known = set(all_keys())
    for key, value in _flat(tables):
        origin = f"file {path}" + (f":{lines[key]}" if key in lines else "")
        if key in known:
            source.values[key] = Raw(value, origin, str(Path(path).absolute().parent))
        else:
            source.errors.append(_unknown(key, origin, sorted(known) if "." in key else list(SECTIONS)))
    return source


def find_file(flags: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    """The cloudsched.toml that counts: named by flag or CLOUDSCHED_CONFIG, else the first one that exists in
    the state directory (when that is given), ~/.config/cloudsched, /etc/cloudsched."""
    named = flags.get("config") or environ.get("CLOUDSCHED_CONFIG")
    if named:
        return os.path.expanduser(str(named))
    state = flags.get("state") or flags.get("state.dir") or environ.get("CLOUDSCHED_STATE") \
        or environ.get("CLOUDSCHED_STATE_DIR")
    user = environ.get("HOME") or os.path.expanduser("~")
    home = environ.get("XDG_CONFIG_HOME") or os.path.join(user, ".config")
    places = [str(state)] if state else []
    places += [os.path.join(home, "cloudsched"), "/etc/cloudsched"]
    return next((file for place in places if os.path.isfile(file := os.path.join(place, FILE_NAME))), None)


def variables() -> dict[str, str]:
    """Variable name -> `section.key`, short ones first."""
    return _SHORT_VARIABLES | {variable(key): key for key in all_keys()}


def variable(key: str) -> str:
    """The environment variable of `section.key`."""
    return PREFIX + key.replace(".", "_").upper()


def _looks_like_ours(name: str) -> bool:
    # Agents, clients and jobs have variables of their own that are no settings, such as CLOUDSCHED_URL.
    sections = [section for section in SECTIONS if section != "agent"]
    return any(name.startswith(f"{PREFIX}{section.upper()}_") for section in sections)


def _flat(tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """`section.key` and value; an unknown section, or a key outside any, under its own name."""
    for section, table in tables.items():
        if section not in SECTIONS or not isinstance(table, dict):
            yield section, table
            continue
        for name, value in table.items():
            yield f"{section}.{name}", value


def _lines(text: str) -> dict[str, int]:
    """Line of each `section.key` (and of `section.table` for sub-tables), as far as plain lines show it."""
    found: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = _HEADER.match(line)
        entry = _ENTRY.match(line)
        if header:
            section = header[1]
            found.setdefault(section, number)
        elif entry:
            found.setdefault(f"{section}.{entry[1]}" if section else entry[1], number)
    return found


def _unknown(name: str, origin: str, candidates: list[str]) -> FieldError:
    near = get_close_matches(name, candidates, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return FieldError(name, f"unknown setting ({origin}){hint}")
