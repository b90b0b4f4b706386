"""How does a value in a classic configuration file become a typed field?

A section is a frozen dataclass; each field is declared by one of the functions here,
which note the spelling of the key, its type and its bounds in the field's metadata.
`fill` reads an INI section by that declaration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from .ini import Entry, Section
from .problem import ClassicConfigError, Problem, Secret

T = TypeVar("T")

_INTEGER = re.compile(r"[+-]?[0-9]+\Z")
_BOOLEANS = {"yes": True, "true": True, "on": True, "1": True,
             "no": False, "false": False, "off": False, "0": False}


@dataclass(frozen=True)
class Key:
    """What one key accepts. `name` is its spelling in the file; None: the field's own name."""

    kind: str
    name: str | None = None
    low: int | None = None
    high: int | None = None
    words: tuple[str, ...] = ()
    factor: int = 1


SECRET = {"key": Key("secret")}  # metadata of a field that holds a `Secret`


@dataclass(frozen=True)
class Filled:
    """Field values found in one section, what was wrong, and the keys nobody declared."""

    values: dict[str, Any]
    errors: list[ClassicConfigError]
    notes: list[Problem]
    unknown: list[Entry]


def integer(default: int, *, low: int | None = None, high: int | None = None, name: str | None = None) -> int:
    return _declare(default, Key("integer", name, low, high))


def optional_integer(default: int | None = None, *, low: int | None = None) -> int | None:
    return _declare(default, Key("integer", low=low))


def minutes(default: int, *, name: str, low: int | None = None) -> int:
    """A key in minutes, kept in seconds: the field is named `<key>_s`."""
    return _declare(default * 60, Key("integer", name, low, factor=60))


def decimal(default: float, *, low: int | None = None, name: str | None = None) -> float:
    return _declare(default, Key("decimal", name, low))


def boolean(default: bool, *, name: str | None = None) -> bool:
    return _declare(default, Key("boolean", name))


def optional_boolean() -> bool | None:
    return _declare(None, Key("boolean"))


def text(default: str = "", *, name: str | None = None) -> str:
    return _declare(default, Key("text", name))


def optional_text() -> str | None:
    return _declare(None, Key("optional text"))


def path(default: str) -> str:
    return _declare(default, Key("path"))


def optional_path() -> str | None:
    return _declare(None, Key("path"))


def word(default: str, words: tuple[str, ...]) -> str:
    """One of `words`, any case; anything else counts as the default and leaves a note."""
    return _declare(default, Key("word", words=words))


def names(*, name: str | None = None) -> tuple[str, ...]:
    """A comma list; empty items are dropped."""
    return _declare((), Key("names", name))


def key_names(cls: type) -> dict[str, str]:
    """Lower-case key -> field name, for every declared field of a section's dataclass."""
    return {(spec.name or name).lower(): name for name, spec in _specs(cls).items()}


def fill(cls: type, section: Section, file: str) -> Filled:
    """Reads one section by the fields `cls` declares. Never raises; see `Filled.errors`."""
    result = Filled({}, [], [], [])
    known = key_names(cls)
    specs = _specs(cls)
    for entry in section.entries.values():
        field_name = known.get(entry.key)
        if field_name is None:
            result.unknown.append(entry)
            continue
        spec = specs[field_name]
        shown = spec.name or field_name
        try:
            value = _CONVERT[spec.kind](spec, entry.value)
        except _NotAWord:
            result.notes.append(_note(shown, entry, section=section.name, file=file, spec=spec))
        except ValueError as error:
            sentence = f"Configuration file problem: {shown} must be {error}."
            result.errors.append(ClassicConfigError(sentence, file=file, section=section.name,
                                                    key=shown, line=entry.line + 1))
        else:
            if value is not None:  # an empty path or text: the default stays
                result.values[field_name] = value
    return result


class _NotAWord(ValueError):
    pass


def _declare(default: T, key: Key) -> T:
    return field(default=default, metadata={"key": key})


def _specs(cls: type) -> dict[str, Key]:
    return {item.name: item.metadata["key"] for item in fields(cls) if "key" in item.metadata}


def _integer(spec: Key, value: str) -> int:
    if not _INTEGER.match(value) or len(value) > 18:
        raise ValueError("an integer value")
    number = int(value)
    if spec.low is not None and number < spec.low:
        upper = "" if spec.high is None else f" and at most {spec.high}"
        raise ValueError(f"an integer value of at least {spec.low}{upper}")
    if spec.high is not None and number > spec.high:
        raise ValueError(f"an integer value of at most {spec.high}")
    return number * spec.factor


def _decimal(spec: Key, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        raise ValueError("a floating point value") from None
    if not math.isfinite(number):
        raise ValueError("a floating point value")
    if spec.low is not None and number < spec.low:
        raise ValueError(f"a floating point value of at least {spec.low}")
    return number


def _boolean(spec: Key, value: str) -> bool:
    try:
        return _BOOLEANS[value.lower()]
    except KeyError:
        raise ValueError("a Boolean value (yes, no, true, false, on, off, 1 or 0)") from None


def _word(spec: Key, value: str) -> str:
    for known in spec.words:
        if known.lower() == value.lower():
            return known
    raise _NotAWord


def _names(spec: Key, value: str) -> tuple[str, ...]:
    items = (item.strip() for item in value.replace("\n", ",").split(","))
    return tuple(item for item in items if item)


_CONVERT: dict[str, Callable[[Key, str], Any]] = {
    "integer": _integer,
    "decimal": _decimal,
    "boolean": _boolean,
    "text": lambda spec, value: value,
    "optional text": lambda spec, value: value or None,
    "path": lambda spec, value: str(Path(value).expanduser()) if value else None,
    "word": _word,
    "names": _names,
    "secret": lambda spec, value: Secret(value),
}


def _note(shown: str, entry: Entry, *, section: str, file: str, spec: Key) -> Problem:
    allowed = ", ".join(spec.words)
    return Problem(file, f"{shown} is {entry.value!r}, not one of {allowed}: the default is used",
                   section=section, key=shown, line=entry.line + 1)
