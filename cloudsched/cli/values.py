"""What do 1h30m, 2G, K=V and 1-100 mean? Readers for the command line, and the writers of the same units."""

from __future__ import annotations

import argparse
import math
import re
from datetime import datetime

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_UNITS_MB = {"": 1.0, "k": 1 / 1024, "m": 1.0, "g": 1024.0, "t": 1024.0 * 1024}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhdw])+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


def duration_s(text: str) -> int:
    """Whole seconds from 90, 90s, 5m, 2h, 1d or 1h30m."""
    text = text.strip().lower()
    if re.fullmatch(r"\d+", text):
        return int(text)
    if not _DURATION.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no duration (allowed: 90, 90s, 5m, 2h, 1d, 1h30m)")
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    return math.ceil(sum(float(number) * _UNITS_S[unit] for number, unit in parts))


def memory_mb(text: str) -> int:
    """MiB from 512, 512M, 2G or 2GiB (a bare number is MiB; parts of one are rounded up)."""
    return _size(text, bare="m", unit_mb=1)


def storage_gb(text: str) -> int:
    """GiB from 10, 10G, 500M or 1T (a bare number is GiB; parts of one are rounded up)."""
    return _size(text, bare="g", unit_mb=1024)


def whole(text: str) -> int:
    """A whole number, zero or more."""
    if not re.fullmatch(r"\d+", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number (allowed: 0, 1, 2, ...)")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is too small (allowed: 1, 2, ...)")
    return number


def signed(text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number (allowed: e.g. -5, 0, 10)") from None


def number(text: str) -> float:
    """A number, zero or more."""
    if not re.fullmatch(r"\d+(\.\d+)?", text.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number (allowed: e.g. 0.25)")
    return float(text)


def pair(text: str) -> tuple[str, str]:
    """KEY and VALUE from KEY=VALUE."""
    key, sign, value = text.partition("=")
    if not sign or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is no pair (allowed: KEY=VALUE)")
    return key, value


def array(text: str) -> dict[str, object]:
    """An array's indices from N (0 to N-1), 1-100, 1-99:2 or 1,4,9-12."""
    if re.fullmatch(r"\d+", text):
        return {"size": positive(text)}
    indices: list[int] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if not found:
            raise argparse.ArgumentTypeError(f"{text!r} is no array (allowed: 100, 1-100, 1-99:2, 1,4,9-12)")
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if last < first or step < 1:
            raise argparse.ArgumentTypeError(
                f"{part!r} is empty (allowed: FIRST-LAST with FIRST <= LAST, step from 1)"
            )
        indices += range(first, last + 1, step)
    if len(set(indices)) < len(indices):
        raise argparse.ArgumentTypeError(f"{text!r} names an index twice (allowed: each index once)")
    return {"indices": indices}


def job_refs(text: str) -> list[int | str]:
    """Job ids and keys from a comma list; numbers stay numbers."""
    return [
        int(part) if part.isdigit() else part for part in (piece.strip() for piece in text.split(",")) if part
    ]


def show_duration(seconds: float | None) -> str:
    """0.42s, 12s, 5m03s, 2h05m, 3d04h; empty for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.2f}".rstrip("0").rstrip(".") + "s"
    whole_s = round(seconds)
    for limit, unit, small, smaller in ((86400, "d", "h", 3600), (3600, "h", "m", 60), (60, "m", "s", 1)):
        if whole_s >= limit:
            return f"{whole_s // limit}{unit}{whole_s % limit // smaller:02d}{small}"
    return f"{whole_s}s"


def show_mb(mb: float | None) -> str:
    """512M, 2G, 1.5G; empty for None."""
    if mb is None:
        return ""
    return f"{mb / 1024:.1f}".rstrip("0").rstrip(".") + "G" if mb >= 1024 else f"{mb:g}M"


def show_time(rfc3339: str | None) -> str:
    """Local time of an API time, to the second; empty for None, as it is when it cannot be read."""
    moment = _moment(rfc3339)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else rfc3339 or ""


def show_clock(rfc3339: str | None) -> str:
    """Local time of day of an API time with milliseconds."""
    moment = _moment(rfc3339)
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3] if moment else rfc3339 or ""


def epoch_s(rfc3339: str | None) -> float | None:
    """Epoch seconds of an API time."""
    moment = _moment(rfc3339)
    return moment.timestamp() if moment else None


def _moment(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except (ValueError, TypeError):
        return None


def _size(text: str, *, bare: str, unit_mb: int) -> int:
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size (allowed: 512M, 2G, 1.5G, 2GiB, 1T; units of 1024)"
        )
    unit = found[2].lower() or bare
    return math.ceil(float(found[1]) * _UNITS_MB[unit] / unit_mb)
