"""What may one setting be? A key's declaration, and how a raw value becomes the typed one.

A section is a frozen dataclass; each of its fields is declared by one of the functions here, which note
type, bounds and meaning in the field's metadata. The reference page is made from the same notes.
"""

from __future__ import annotations

import ipaddress
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from . import hosts as host_lists

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_BOOLEANS = {"yes": True, "true": True, "on": True, "1": True,
             "no": False, "false": False, "off": False, "0": False}


@dataclass(frozen=True)
class Key:
    """One declared setting. `shown_default` replaces a default that is only known at run time."""

    kind: str
    doc: str
    low: float | None = None
    high: float | None = None
    words: tuple[str, ...] = ()
    secret: bool = False
    shown_default: str = ""

    def allowed(self) -> str:
        """What a value may be, for messages and the reference."""
        if self.words:
            return ", ".join(self.words)
        text = _ALLOWED[self.kind]
        if self.low is not None and self.high is not None:
            return f"{text} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{text} of at least {self.low:g}"
        return text


def integer(default: int, doc: str, *, low: int, high: int | None = None) -> int:
    return _declare(default, Key("integer", doc, low, high))


def seconds(default: float, doc: str, *, low: float, high: float | None = None) -> float:
    return _declare(default, Key("number", doc, low, high))


def boolean(default: bool, doc: str) -> bool:
    return _declare(default, Key("boolean", doc))


def word(default: str, doc: str, *, words: tuple[str, ...]) -> str:
    """One of `words`; any case is taken, the spelling declared here is kept."""
    return _declare(default, Key("word", doc, words=words))


def text(default: str, doc: str, *, shown_default: str = "") -> str:
    return _declare(default, Key("text", doc, shown_default=shown_default))


def path(default: str, doc: str, *, shown_default: str = "") -> str:
    """A file or directory; `~` is expanded, a relative path in a file counts from that file."""
    return _declare(default, Key("path", doc, shown_default=shown_default))


def url(default: str, doc: str, *, shown_default: str = "") -> str:
    """A URL that may hold a password: shown with the password masked."""
    return _declare(default, Key("url", doc, secret=True, shown_default=shown_default), hidden=True)


def secret(default: str, doc: str) -> str:
    """A text that is never shown."""
    return _declare(default, Key("text", doc, secret=True), hidden=True)


def names(default: tuple[str, ...], doc: str) -> tuple[str, ...]:
    """A list of words, in text with commas between."""
    return _declare(default, Key("names", doc))


def secrets(doc: str) -> tuple[str, ...]:
    """A list of words that are never shown."""
    return _declare((), Key("names", doc, secret=True), hidden=True)


def networks(doc: str) -> tuple[str, ...]:
    """A list of networks in CIDR form."""
    return _declare((), Key("networks", doc))


def hosts(doc: str) -> tuple[str, ...]:
    """A list of host names, addresses and networks, each with a port or without (settings.hosts)."""
    return _declare((), Key("hosts", doc))


def declared(cls: type) -> dict[str, Key]:
    """Field name -> declaration, in the order of the class."""
    return {item.name: item.metadata["key"] for item in fields(cls) if "key" in item.metadata}


def convert(key: Key, raw: object) -> Any:
    """The typed value of `raw` (text, or what TOML gives). Raises ValueError that says what is allowed."""
    return _CONVERT[key.kind](key, raw)


def _declare(default: Any, key: Key, *, hidden: bool = False) -> Any:
    return field(default=default, metadata={"key": key}, repr=not hidden)


def _integer(key: Key, raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, (int, str)) or not _INTEGER.match(str(raw).strip()):
        raise ValueError(f"must be {key.allowed()}")
    return int(_in_range(key, int(raw)))


def _number(key: Key, raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float, str)):
        raise ValueError(f"must be {key.allowed()}")
    try:
        value = float(raw)
    except ValueError:
        raise ValueError(f"must be {key.allowed()}") from None
    return _in_range(key, value)


def _in_range(key: Key, value: float) -> float:
    too_low = key.low is not None and value < key.low
    too_high = key.high is not None and value > key.high
    if too_low or too_high or not math.isfinite(value):
        raise ValueError(f"must be {key.allowed()}")
    return value


def _boolean(key: Key, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    try:
        return _BOOLEANS[str(raw).strip().lower()]
    except KeyError:
        raise ValueError(f"must be {key.allowed()}") from None


def _word(key: Key, raw: object) -> str:
    wanted = {True: "yes", False: "no"}[raw] if isinstance(raw, bool) else str(raw)
    for known in key.words:
        if known.lower() == wanted.strip().lower():
            return known
    raise ValueError(f"must be one of: {key.allowed()}")


def _text(key: Key, raw: object) -> str:
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError(f"must be {key.allowed()}")
    return raw


def _path(key: Key, raw: object) -> str:
    value = os.fspath(raw) if isinstance(raw, os.PathLike) else raw
    return os.path.expanduser(_text(key, value))


def _networks(key: Key, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [item for item in re.split(r"[,\s]+", raw) if item]
    if not isinstance(raw, (list, tuple)):
        raise ValueError(f"must be {key.allowed()}")
    try:
        return tuple(str(ipaddress.ip_network(_text(key, item), strict=False)) for item in raw)
    except ValueError as error:
        raise ValueError(f"must be {key.allowed()}: {error}") from None


def _hosts(key: Key, raw: object) -> tuple[str, ...]:
    if isinstance(raw, str):
        raw = [item for item in re.split(r"[,\s]+", raw) if item]
    if not isinstance(raw, (list, tuple)):
        raise ValueError(f"must be {key.allowed()}")
    for item in raw:
        try:
            host_lists.parse(_text(key, item))
        except ValueError as error:
            raise ValueError(f"must be {key.allowed()}: {error}") from None
    return tuple(raw)


def _names(key: Key, raw: object) -> tuple[str, ...]:
    items = raw.split(",") if isinstance(raw, str) else raw
    if not isinstance(items, (list, tuple)):
        raise ValueError(f"must be {key.allowed()}")
    return tuple(name for item in items if (name := _text(key, item).strip()))


_ALLOWED = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "yes or no (also true, false, on, off, 1, 0)",
    "text": "text",
    "path": "a path",
    "url": "a URL",
    "networks": 'a list of networks such as ["10.0.0.0/8", "192.168.1.20"]',
    "hosts": 'a list of hosts such as ["spark.example.com:7077", "*.example.org", "10.1.0.0/16", "10.2.0.7:8081"]',
    "names": "a list of words",
    "optional text": "text",
    "optional path": "a path",
}

_CONVERT: dict[str, Callable[[Key, object], Any]] = {
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "word": _word,
    "text": _text,
    "path": _path,
    "url": _text,
    "networks": _networks,
    "hosts": _hosts,
    "names": _names,
    "optional text": lambda key, raw: _text(key, raw) or None,
    "optional path": lambda key, raw: _path(key, raw) or None,
}
