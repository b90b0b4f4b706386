"""How are the fields of a request read? Numbers that came as text, flags, names, JSON in a string; every mistake is named."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from cloudsched.domain import quantities
from cloudsched.errors import FieldError, Invalid

_FLAGS = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False, "": False}
# What ends up in names of files, objects and addresses: nothing that leads elsewhere.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 _@+:-]|\.(?!\.)){0,99}", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d{1,18}", re.ASCII)
NAME_ALLOWED = "1 to 100 letters, digits, spaces and . _ - @ + : beginning with a letter or digit"
TEXT_MOST = 10_000
SETTINGS_MOST = 500


class Fields:
    """Reads fields and collects what is wrong with them; `check` raises all of it at once."""

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self.errors: list[FieldError] = []

    def check(self) -> None:
        """Raise Invalid when any field was wrong."""
        if self.errors:
            shown = [f"{one.field}: {one.message}" + (f" (allowed: {one.allowed})" if one.allowed else "") for one in self.errors]
            raise Invalid("; ".join(shown), errors=self.errors)

    def wrong(self, field: str, message: str, allowed: str | None = None) -> None:
        self.errors.append(FieldError(field, message, allowed))

    def has(self, field: str) -> bool:
        """Was the field given with a value?"""
        value = self._given.get(field)
        return value is not None and value != ""

    def name(self, field: str, *, required: bool = False) -> str:
        """A name of a tenant, client, module, cluster."""
        if not self.has(field):
            if required:
                self.wrong(field, "is missing", NAME_ALLOWED)
            return ""
        value = self._given[field]
        text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
        if not _NAME.fullmatch(text):
            self.wrong(field, f"{_shown(value)} is not a name", NAME_ALLOWED)
            return ""
        return text

    def text(self, field: str, *, most: int = TEXT_MOST) -> str:
        """Any text without NUL; a number becomes text."""
        if not self.has(field):
            return ""
        value = self._given[field]
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            self.wrong(field, "is not text", "a string")
            return ""
        text = str(value)
        if not _is_text(text) or len(text) > most:
            self.wrong(field, f"is {len(text)} characters long" if _is_text(text) else "holds what is no character",
                       f"text of up to {most} characters")
            return ""
        return text

    def word(self, field: str, words: tuple[str, ...], default: str) -> str:
        """One of some words, in any case."""
        if not self.has(field):
            return default
        text = str(self._given[field]).strip().lower()
        if text not in words:
            self.wrong(field, f"{_shown(self._given[field])} is not one of them", ", ".join(words))
            return default
        return text

    def count(self, field: str, default: int, *, low: int, high: int) -> int:
        """A whole number, as a number or as text."""
        if not self.has(field):
            return default
        value = self._given[field]
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (int, str)) or not _WHOLE.fullmatch(str(value).strip()):
            self.wrong(field, f"{_shown(value)} is not a whole number", f"{low} to {high}")
            return default
        number = int(value)
        if not low <= number <= high:
            self.wrong(field, f"{number} is out of range", f"{low} to {high}")
            return default
        return number

    def flag(self, field: str) -> bool:
        """true or false, as such or as text; false when it is not given."""
        value = self._given.get(field)
        if isinstance(value, bool) or value is None:
            return bool(value)
        if isinstance(value, (str, int)) and str(value).strip().lower() in _FLAGS:
            return _FLAGS[str(value).strip().lower()]
        self.wrong(field, f"{_shown(value)} is neither true nor false", "true, false")
        return False

    def cores_m(self, field: str, default: int) -> int:
        """A quantity of cores, in thousandths."""
        return self._quantity(field, default, lambda value: quantities.cores_m(value, field, least_m=10))

    def memory_mb(self, field: str, default: int) -> int:
        """A quantity of memory, in MiB."""
        return self._quantity(field, default, lambda value: quantities.memory_mb(value, field, least_mb=64))

    def gigabytes_mb(self, field: str, default: int) -> int:
        """A number of GiB, in MiB."""
        return self._quantity(field, default, lambda value: quantities.gigabytes_mb(value, field, least_mb=64))

    def seconds(self, field: str) -> float | None:
        """A number of seconds above 0; None when it is not given."""
        if not self.has(field):
            return None
        try:
            found = float("nan") if isinstance(self._given[field], bool) else float(self._given[field])
        except (TypeError, ValueError):
            found = float("nan")
        if not 0 < found <= 1e9:
            self.wrong(field, f"{_shown(self._given[field])} is not a number of seconds", "above 0, up to 1000000000")
            return None
        return found

    def settings(self, field: str) -> dict[str, str]:
        """A JSON string that holds an object of settings (or the object itself); values become text."""
        if not self.has(field):
            return {}
        value = self._given[field]
        try:
            found = json.loads(value) if isinstance(value, str) else value
        except json.JSONDecodeError as error:
            self.wrong(field, f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
                       "a JSON object of settings, as a string")
            return {}
        except RecursionError:
            self.wrong(field, "is nested too deeply", "a JSON object of settings, as a string")
            return {}
        return self._settings(field, found)

    def _settings(self, field: str, found: Any) -> dict[str, str]:
        if not isinstance(found, dict) or len(found) > SETTINGS_MOST:
            self.wrong(field, "does not hold a JSON object" if not isinstance(found, dict) else f"holds {len(found)} settings",
                       f"an object of up to {SETTINGS_MOST} settings")
            return {}
        settings: dict[str, str] = {}
        for key, value in found.items():
            if not key or not _is_text(key) or any(ord(letter) < 33 or letter == "=" for letter in key):
                self.wrong(field, f"{_shown(key)} is not the name of a setting", "no spaces, no =, no control characters")
            elif isinstance(value, (dict, list)) or value is None:
                self.wrong(field, f"the value of {key[:100]} is not plain", "text, a number, true or false")
            elif not _is_text(str(value)) or any(letter in str(value) for letter in "\r\n"):
                self.wrong(field, f"the value of {key[:100]} holds a line break or what is no character", "one line of text")
            else:
                settings[key] = str(value).lower() if isinstance(value, bool) else str(value)
        return settings

    def _quantity(self, field: str, default: int, read: Callable[[Any], int]) -> int:
        if not self.has(field):
            return default
        try:
            return read(self._given[field])
        except Invalid as error:
            self.errors += error.errors
            return default


def _is_text(text: str) -> bool:
    """Can it be kept and passed on? No NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def _shown(value: Any) -> str:
    return repr(value)[:100]
