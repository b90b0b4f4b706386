"""How much is `500m`, `8Gi` or `4g`? Quantities as Kubernetes and Java write them, as whole numbers of the core."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from cloudsched.errors import Invalid

_FORM = re.compile(r"(\d{1,15}(?:\.\d{1,9})?|\.\d{1,9})(?:[eE](\+?\d{1,2}))?([A-Za-z]{0,2})", re.ASCII)
MIB = 2**20
_CORES = {"": Decimal(1000), "m": Decimal(1), "k": Decimal(10**6)}
# Kubernetes' suffixes mean what they mean there. Java's (`512m`, `4g`) are binary: a thousandth of a byte is no memory.
_BYTES = {"": Decimal(1), "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12),
          "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40),
          "m": Decimal(2**20), "g": Decimal(2**30), "t": Decimal(2**40)}
CORES_ALLOWED = "a number of cores such as 2, 0.5 or 500m"
MEMORY_ALLOWED = "an amount of memory such as 512Mi, 8Gi, 8G or 4g"
CORES_MOST_M = 10_000_000
MEMORY_MOST_MB = 100 * 2**20


def cores_m(value: Any, field: str, *, least_m: int = 1) -> int:
    """Thousandths of a core (`2`, `"500m"`). Raises Invalid naming `field` for what is none, or is out of range."""
    found = _number(value, field, _CORES, CORES_ALLOWED)
    if not least_m <= found <= CORES_MOST_M or found != int(found):
        raise Invalid.at(field, f"{value!r} is out of range", f"{least_m}m to {CORES_MOST_M // 1000} cores, in thousandths")
    return int(found)


def memory_mb(value: Any, field: str, *, least_mb: int = 1) -> int:
    """MiB, rounded up (`"8Gi"`, `"8G"`, Java's `"4g"`; a bare number is bytes, as in Kubernetes). Raises Invalid."""
    found = _number(value, field, _BYTES, MEMORY_ALLOWED)
    whole = -(-int(found) // MIB)
    if not least_mb <= whole <= MEMORY_MOST_MB:
        raise Invalid.at(field, f"{value!r} is out of range", f"{least_mb}Mi to {MEMORY_MOST_MB >> 20}Ti")
    return whole


def gigabytes_mb(value: Any, field: str, *, least_mb: int = 1) -> int:
    """MiB of a number of GiB (`4`, `"0.5"`); with a suffix as `memory_mb`. Raises Invalid."""
    text = str(value).strip()
    if not isinstance(value, bool) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text, re.ASCII):
        text += "Gi"
    return memory_mb(value if isinstance(value, bool) else text, field, least_mb=least_mb)


def _number(value: Any, field: str, factors: dict[str, Decimal], allowed: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise Invalid.at(field, f"{_shown(value)} is not a quantity", allowed)
    found = _FORM.fullmatch(str(value).strip())
    if found is None or found[3] not in factors:
        raise Invalid.at(field, f"{_shown(value)} is not a quantity", allowed)
    return Decimal(found[1]) * Decimal(10) ** int(found[2] or 0) * factors[found[3]]


def _shown(value: Any) -> str:
    return repr(value)[:100]
