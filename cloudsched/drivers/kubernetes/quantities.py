"""How much is `500m` or `8Gi`? Kubernetes' quantities, exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from cloudsched.errors import Invalid

_FORM = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+))(?:([eE][+-]?\d+)|([numkMGTPE]|[KMGTPE]i))?")
_FACTORS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3),
            "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
            **{letter + "i": Decimal(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)}}
MIB, GIB = 2**20, 2**30
GPU = "nvidia.com/gpu"


def number(text: Any, field: str = "quantity") -> Decimal:
    """A quantity as a number. Invalid, with the field, for what is none."""
    found = _FORM.fullmatch(str(text).strip())
    if found is None:
        raise Invalid.at(field, f"{text!r} is not a quantity", "such as 500m, 2, 8Gi, 8G")
    return Decimal(found[1] + (found[2] or "")) * _FACTORS[found[3] or ""]


def cores(text: Any) -> float:
    return float(number(text or 0))


def megabytes(text: Any) -> int:
    return int(number(text or 0) / MIB)


def gigabytes(text: Any) -> int:
    return int(number(text or 0) / GIB)


def added(parts: Iterable[Mapping[str, Any]]) -> dict[str, Decimal]:
    """The sum of several resource maps, by resource."""
    total: dict[str, Decimal] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, Decimal(0)) + number(value, name)
    return total


def asked(pod: Mapping[str, Any], sort: str = "requests") -> dict[str, Decimal]:
    """What a pod's containers ask for together, or what the largest of its first ones asks for, whichever is more."""
    spec = pod.get("spec") or {}
    total = added(((one.get("resources") or {}).get(sort) or {}) for one in spec.get("containers") or ())
    for one in spec.get("initContainers") or ():
        for name, value in ((one.get("resources") or {}).get(sort) or {}).items():
            total[name] = max(total.get(name, Decimal(0)), number(value, name))
    return total
