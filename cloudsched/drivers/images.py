"""Which image does a machine start from, and what is known of it? Asked for when needed, kept for an hour."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from cloudsched.drivers.base import Wanted
from cloudsched.drivers.given import refused

KEPT_S = 3600.0
T = TypeVar("T")


class Images(Generic[T]):
    """The images of one cloud. `by_type`: VM type or size of machine -> name; `default`: the cloud's own; `ask`: facts by
    name, from the place."""

    def __init__(self, by_type: Mapping[str, str], default: str, ask: Callable[[str], T]) -> None:
        self._by_type, self._default, self._ask = by_type, default, ask
        self._kept: dict[str, tuple[float, T]] = {}

    def of(self, wanted: Wanted, size: str) -> T:
        """The wanted image; else the cloud's for the VM type or the size, else the cloud's own. Raises DriverError."""
        name = wanted.image or self._by_type.get(wanted.vm_type) or self._by_type.get(size) or self._default
        if not name:
            raise refused("image", "is not given, and the cloud has none of its own (option image)")
        kept = self._kept.get(name)
        if kept is None or kept[0] < time.monotonic():
            kept = self._kept[name] = (time.monotonic() + KEPT_S, self._ask(name))
        return kept[1]
