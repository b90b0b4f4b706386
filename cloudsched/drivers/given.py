"""What was a driver told? The options and credentials of a place, taken out one by one and checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Place, Wanted
from cloudsched.errors import Invalid

MAX_NAME = 255
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Given:
    """The options of one place. Each is asked for once; `done` refuses what nobody asked for.

    Lists may be texts with commas between, flags `true`/`false` texts: that is how configuration files give them.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self._left = {key: value for key, value in place.options.items() if value is not None}
        self._known: list[str] = []

    def text(self, key: str, default: str = "", *, allowed: tuple[str, ...] = ()) -> str:
        value = self._take(key)
        if value is None or value == "":
            return default
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise Invalid.at(key, f"{value!r} is not a text", ", ".join(allowed) or None)
        text = str(value).strip()
        if allowed and text not in allowed:
            raise Invalid.at(key, f"{text!r} is not right", ", ".join(allowed))
        return text

    def flag(self, key: str, default: bool = False) -> bool:
        value = self._take(key)
        if value is None or value == "":
            return default
        found = value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower())
        if found is None:
            raise Invalid.at(key, f"{value!r} is neither true nor false", "true, false")
        return found

    def number(self, key: str, default: float, *, low: float, high: float) -> float:
        value = self._take(key)
        if value is None or value == "":
            return default
        try:
            number = float("nan") if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not low <= number <= high:
            raise Invalid.at(key, f"{value!r} is not a number in range", f"{low:g} to {high:g}")
        return number

    def names(self, key: str) -> tuple[str, ...]:
        value = self._take(key)
        parts = value.split(",") if isinstance(value, str) else value or ()
        if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
            raise Invalid.at(key, f"{value!r} is not a list of names", "a list, or a text with commas between")
        return tuple(part.strip() for part in parts if part.strip())

    def table(self, key: str) -> Mapping[str, Any]:
        value = self._take(key) or {}
        if not isinstance(value, Mapping):
            raise Invalid.at(key, f"{value!r} is not a table", "an object of names and values")
        return dict(value)

    def texts(self, key: str) -> dict[str, str]:
        """A table of texts."""
        table = self.table(key)
        for name, value in table.items():
            if not isinstance(value, str) or not value:
                raise Invalid.at(f"{key}.{name}", f"{value!r} is not a text")
        return {name: str(value) for name, value in table.items()}

    def url(self, key: str, default: str = "") -> str:
        text = self.text(key, default)
        if text and (urlsplit(text).scheme not in ("http", "https") or not urlsplit(text).hostname):
            raise Invalid.at(key, f"{text!r} is not a URL", "http://host:port or https://host:port")
        return text.rstrip("/")

    def raw(self, key: str) -> Any:
        return self._take(key)

    def secret(self, key: str, *others: str, needed: bool = True) -> str:
        """A credential; the first that is there of several names."""
        for name in (key, *others):
            value = str(self.place.credentials.get(name) or "").strip()
            if value:
                return value
        if needed:
            raise Invalid.at(f"credentials.{key}", "is missing")
        return ""

    def ignore(self, *keys: str) -> None:
        """Keys of the classic file that say nothing to this kind."""
        for key in keys:
            self._left.pop(key, None)

    def done(self) -> None:
        """Raises Invalid for the first option that was not asked for."""
        for key in self._left:
            raise Invalid.at(key, f"is not an option of {self.place.kind} clouds", ", ".join(sorted(self._known)))

    def _take(self, key: str) -> Any:
        self._known.append(key)
        return self._left.pop(key, None)


def check_wanted(wanted: Wanted) -> None:
    """Refuse a bad field by its name, before anything is created."""
    if not 1 <= len(wanted.name) <= MAX_NAME or not wanted.name.isprintable():
        raise refused("name", f"must be 1 to {MAX_NAME} printable characters")
    for field, least in (("cores", 1), ("memory_mb", 0), ("storage_gb", 0), ("slots", 0)):
        if getattr(wanted, field) < least:
            raise refused(field, f"must be at least {least}")
    if not wanted.join_token:
        raise refused("join_token", "is missing")


def refused(field: str, why: str) -> DriverError:
    """The request itself is wrong: the same call fails again until somebody changes it."""
    return DriverError(f"{field}: {why}", code=base.REQUEST)
