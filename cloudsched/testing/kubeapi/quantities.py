"""How much is `500m`, `2Gi`? And what does a pod ask for?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudsched.testing.kubeapi.kinds import Object

_SUFFIXES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
             "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}


def amount(text: Any) -> float:
    """A quantity as a number."""
    value = str(text)
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if value.endswith(suffix):
            return float(value[: -len(suffix)]) * _SUFFIXES[suffix]
    return float(value)


def asked(pod: Object, sort: str = "requests") -> dict[str, float]:
    """The sum over a pod's containers."""
    total: dict[str, float] = {}
    for one in (pod.get("spec") or {}).get("containers") or ():
        for name, value in ((one.get("resources") or {}).get(sort) or {}).items():
            total[name] = total.get(name, 0.0) + amount(value)
    return total


def missing(wanted: Mapping[str, float], free: Mapping[str, float]) -> list[str]:
    """The names of what is not there in that amount."""
    return sorted(name for name, value in wanted.items() if value > free.get(name, 0.0) + 1e-9)
