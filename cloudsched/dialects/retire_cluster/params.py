"""What may a query hold? Parameters as a table: the same rows check a request and describe it (contract 2, 9).

Unknown parameters are ignored; of one that is given twice the first counts. What is wrong is 400 INVALID_PARAMETER.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import parse_qsl

from cloudsched.dialects.retire_cluster.envelope import Refused, wrong_parameter

_UNSTORABLE = re.compile("[\\0\\ud800-\\udfff]")
_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?"
                   r"\s*(?:([Zz])|([+ -])(\d\d):?(\d\d))?)?\Z", re.ASCII)
_EPOCH = re.compile(r"-?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})(?:[eE][+-]?\d{1,4})?\Z", re.ASCII)
_INT = re.compile(r"[+-]?\d{1,18}\Z", re.ASCII)
_LATEST = 253402300799.0
PRINTABLE = "^[^\\u0000]*$"
TRUE, FALSE = ("true", "1"), ("false", "0")
Values = dict[str, Any]


class Param(Protocol):
    """One query parameter: its name, how its values become one, and its JSON schema."""

    @property
    def name(self) -> str: ...

    def of(self, given: list[str]) -> Any: ...

    def schema(self) -> dict[str, Any]: ...


def parse(table: Iterable[Param], query: str) -> Values:
    """The value of every parameter of the table. Raises Refused."""
    given: dict[str, list[str]] = {}
    if query:
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="replace", max_num_fields=1000)
        except ValueError:
            raise wrong_parameter("query", "has too many members", "at most 1000") from None
        for name, value in pairs:
            given.setdefault(name, []).append(value)
    values: Values = {}
    for param in table:
        found = given.get(param.name, [])
        if any(_UNSTORABLE.search(value) for value in found):
            raise wrong_parameter(param.name, "holds a character that no value can have")
        values[param.name] = param.of(found)
    return values


@dataclass(frozen=True)
class Whole:
    """A whole number within bounds; above `cap` it counts as `cap`."""

    name: str
    low: int
    high: int | None
    default: int | None
    cap: int | None = None

    def of(self, given: list[str]) -> int | None:
        if not given:
            return self.default
        number = int(given[0]) if _INT.match(given[0]) else None
        if number is None or number < self.low or (self.high is not None and number > self.high):
            raise wrong_parameter(self.name, f"{given[0][:40]!r} is no such number", self._allowed())
        return number if self.cap is None else min(number, self.cap)

    def _allowed(self) -> str:
        return f"{self.low} to {self.high}" if self.high is not None else f"{self.low} or more"

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "integer", "minimum": self.low}
        made["maximum"] = self.high if self.high is not None else 10**18 - 1
        return made if self.default is None else {**made, "default": self.default}


@dataclass(frozen=True)
class Word:
    """One word of several, whatever its case when `fold`."""

    name: str
    words: tuple[str, ...]
    default: str | None = None
    fold: bool = False
    code: str = "INVALID_PARAMETER"

    def of(self, given: list[str]) -> str | None:
        if not given:
            return self.default
        word = given[0].lower() if self.fold else given[0]
        if word in self.words:
            return word
        refused = wrong_parameter(self.name, f"{given[0][:40]!r} is none", ", ".join(self.words))
        raise Refused(self.code, refused.message, details=refused.details)

    def schema(self) -> dict[str, Any]:
        made: dict[str, Any] = {"type": "string", "enum": list(self.words)}
        return made if self.default is None else {**made, "default": self.default}


@dataclass(frozen=True)
class Words:
    """Some words of several: a comma list, or repeated; none: all."""

    name: str
    words: tuple[str, ...]

    def of(self, given: list[str]) -> tuple[str, ...]:
        found = [word.strip() for value in given for word in value.split(",") if word.strip()]
        for word in found:
            if word not in (*self.words, "all"):
                raise wrong_parameter(self.name, f"{word[:40]!r} is none", ", ".join(self.words))
        return tuple(dict.fromkeys(found)) if found and "all" not in found else self.words

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string", "enum": [*self.words, "all"]}}


@dataclass(frozen=True)
class Text:
    """Any text; empty is as if it were not there."""

    name: str
    longest: int = 256

    def of(self, given: list[str]) -> str | None:
        if given and len(given[0]) > self.longest:
            raise wrong_parameter(self.name, "is too long", f"at most {self.longest} characters")
        return (given[0] or None) if given else None

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "maxLength": self.longest, "pattern": PRINTABLE}


@dataclass(frozen=True)
class Texts:
    """Texts, all of which count: repeated, or a comma list."""

    name: str

    def of(self, given: list[str]) -> tuple[str, ...]:
        return tuple(part.strip() for value in given for part in value.split(",") if part.strip())

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "string", "pattern": PRINTABLE}}


@dataclass(frozen=True)
class Flag:
    """`true false 1 0`."""

    name: str
    default: bool = False

    def of(self, given: list[str]) -> bool:
        if not given:
            return self.default
        word = given[0].lower()
        if word not in (*TRUE, *FALSE):
            raise wrong_parameter(self.name, f"{given[0][:40]!r} is neither", "true, false, 1, 0")
        return word in TRUE

    def schema(self) -> dict[str, Any]:
        return {"type": "string", "enum": [*TRUE, *FALSE], "default": "true" if self.default else "false"}


@dataclass(frozen=True)
class Since:
    """A moment (contract 2): ISO 8601, or epoch seconds; as epoch seconds."""

    name: str = "since"

    def of(self, given: list[str]) -> float | None:
        if not given:
            return None
        found = moment(given[0])
        if found is None:
            raise wrong_parameter(self.name, f"{given[0][:60]!r} is no time", "ISO 8601, or seconds since 1970")
        return found

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number"}]}


def moment(text: str) -> float | None:
    """Epoch seconds of `since` style input (contract 2); None when it is no time."""
    text = text.strip()
    if _EPOCH.match(text):
        number = float(text)
        return min(max(number, -_LATEST), _LATEST) if math.isfinite(number) else None
    found = _TIME.match(text)
    if found is None:
        return None
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    try:
        at = datetime(max(year, 1), month, day, hour, minute, min(second, 59) if second <= 60 else second, tzinfo=UTC)
    except ValueError:
        return None
    epoch = at.timestamp() + (1.0 if second == 60 else 0.0) + float(f"0.{found[7] or 0}")
    if found[9]:  # a `+` that URL decoding made a space is one (contract 2)
        hours, minutes = int(found[10]), int(found[11])
        if hours > 23 or minutes > 59:
            return None
        epoch -= (-1 if found[9] == "-" else 1) * (hours * 3600 + minutes * 60)
    return epoch
