"""What moment does a text in a log mean, and how is it written? RFC 3339, with the offset the log had."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_ISO = re.compile(
    r"(\d{4})-?(\d\d)-?(\d\d)(?:[T ,]+(\d\d):?(\d\d)(?::?(\d\d)(?:[.,](\d{1,9})\d*)?)?)?\s*(Z|UTC|[+-]\d\d:?\d\d)?", re.I
)
_HTTP = re.compile(r"\[?(\d{1,2})/(\w{3})/(\d{4}):(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:\s+([+-]\d{4}))?\]?")
_SYSLOG = re.compile(r"(\w{3})\s+(\d{1,2})\s+(\d\d):(\d\d):(\d\d)(?:\.(\d+))?")
_MONTHS = {name: number for number, name in enumerate(
    ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"), 1)}  # fmt: skip
_UNIX_SCALE = {"unix": 0, "unix_ms": 3, "unix_us": 6, "unix_ns": 9}
LAYOUTS = ("auto", "iso8601", "httpdate", "syslog", *_UNIX_SCALE)


def now_text() -> str:
    """This moment with nanoseconds, in the local offset."""
    ns = time.time_ns()
    local = time.localtime(ns // 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + f".{ns % 10**9:09d}" + _offset_text(local.tm_gmtoff)


def to_rfc3339(value: Any, layout: str = "auto", zone_s: int = 0) -> str:
    """The moment that `value` means; ValueError when it means none.

    layout: one of LAYOUTS, or a strptime pattern (with %). zone_s: seconds east of UTC for times that name no offset.
    """
    if layout in _READERS:
        return _READERS[layout](value, zone_s)
    if layout in _UNIX_SCALE:
        return _unix(value, _UNIX_SCALE[layout], zone_s)
    moment = datetime.strptime(str(value).strip(), layout)  # noqa: DTZ007 - the offset is added below
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone(timedelta(seconds=zone_s)))
    return _text(moment.isoformat())


def offset_s(text: str) -> int:
    """Seconds east of UTC of `+08:00`, `-0330`, `8`, `Z` or nothing; ValueError otherwise."""
    if text in ("", "Z", "UTC"):
        return 0
    match = re.fullmatch(r"([+-]?)(\d{1,2})(?::?(\d\d))?", text)
    if not match:
        raise ValueError(f"offset {text!r}; allowed: +08:00, -0330, 8, Z")
    seconds = int(match[2]) * 3600 + int(match[3] or 0) * 60
    if seconds >= 86400:
        raise ValueError(f"offset {text!r} is a day or more")
    return -seconds if match[1] == "-" else seconds


def _auto(value: Any, zone_s: int) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        size = abs(value)
        scale = 0 if size < 1e11 else 3 if size < 1e14 else 6 if size < 1e17 else 9
        return _unix(value, scale, zone_s)
    text = str(value).strip()
    if re.fullmatch(r"\d{9,19}(\.\d+)?", text):
        return _auto(float(text) if "." in text else int(text), zone_s)
    for read in (_iso, _httpdate, _syslog):
        try:
            return read(text, zone_s)
        except ValueError:
            continue
    raise ValueError("not a time")


def _iso(value: Any, zone_s: int) -> str:
    match = _ISO.fullmatch(str(value).strip())
    if not match:
        raise ValueError("not an ISO 8601 time")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    east = zone_s if zone is None else offset_s("" if zone.upper() in ("Z", "UTC") else zone)
    return _checked(int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0), fraction, east)


def _httpdate(value: Any, zone_s: int) -> str:
    match = _HTTP.fullmatch(str(value).strip())
    if not match:
        raise ValueError("not a time as web servers log it")
    day, month, year, hour, minute, second, fraction, zone = match.groups()
    east = zone_s if zone is None else offset_s(zone)
    return _checked(int(year), _month(month), int(day), int(hour), int(minute), int(second), fraction, east)


def _syslog(value: Any, zone_s: int) -> str:
    """No year is written: this one, or the last when that would lie more than a day ahead."""
    match = _SYSLOG.fullmatch(str(value).strip())
    if not match:
        raise ValueError("not a syslog time")
    name, day, hour, minute, second, fraction = match.groups()
    today = datetime.now(timezone(timedelta(seconds=zone_s)))
    month = _month(name)
    tomorrow = today + timedelta(days=1)
    year = today.year - (1 if (month, int(day)) > (tomorrow.month, tomorrow.day) and tomorrow.year == today.year else 0)
    return _checked(year, month, int(day), int(hour), int(minute), int(second), fraction, zone_s)


def _unix(value: Any, scale: int, zone_s: int) -> str:
    whole, _, rest = str(value).strip().partition(".")
    if isinstance(value, float):
        whole, _, rest = f"{value:.9f}".partition(".")
    ns = int(whole + (rest + "0" * 9)[: 9 - scale]) if scale < 9 else int(whole)
    seconds, fraction = divmod(ns, 10**9)
    try:
        moment = datetime.fromtimestamp(seconds, timezone(timedelta(seconds=zone_s)))
    except (OverflowError, OSError) as error:
        raise ValueError(str(error)) from None
    digits = f"{fraction:09d}".rstrip("0")
    return moment.strftime("%Y-%m-%dT%H:%M:%S") + ("." + digits if digits else "") + _offset_text(zone_s)


def _checked(year: int, month: int, day: int, hour: int, minute: int, second: int, fraction: str | None, east: int) -> str:
    # A leap second is written down as it was logged.
    datetime(year, month, day, hour, minute, min(second, 59) if second == 60 else second)  # noqa: DTZ001
    digits = "." + fraction if fraction else ""
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}{digits}{_offset_text(east)}"


def _month(name: str) -> int:
    month = _MONTHS.get(name.lower())
    if month is None:
        raise ValueError(f"{name} is not a month")
    return month


def _offset_text(seconds: int) -> str:
    if not seconds:
        return "Z"
    minutes = abs(seconds) // 60
    return f"{'-' if seconds < 0 else '+'}{minutes // 60:02d}:{minutes % 60:02d}"


def _text(iso: str) -> str:
    return iso[:-6] + "Z" if iso.endswith("+00:00") else iso


_READERS: dict[str, Callable[[Any, int], str]] = {"auto": _auto, "iso8601": _iso, "httpdate": _httpdate, "syslog": _syslog}
