"""Which sizes of machine does a place sell, and which is the smallest that fits?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cloudsched.drivers.given import Given
from cloudsched.errors import Invalid

# What "nobody said" means in the classic configuration (contract cloud-scheduler 6.1, `default_VMInstanceType`).
CLASSIC_DEFAULT = "m1.small"
ON_DEMAND = "on-demand"
SPOT = "spot"


@dataclass(frozen=True, slots=True)
class InstanceType:
    """One size. `storage_gb` is what comes with it, 0 for none; `price_per_hour` is None when nobody said."""

    name: str
    cores: int
    memory_mb: int
    storage_gb: int = 0
    gpus: int = 0
    gpu_kind: str = ""
    arch: str = ""
    spot: bool = True
    price_per_hour: float | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of one size costs, as the place or the configuration says. `kind`: `on-demand` or `spot`."""

    instance_type: str
    per_hour: float
    currency: str
    kind: str = ON_DEMAND
    zone: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class TypeRules:
    """What the configuration says about sizes: which are allowed, what they are and cost where the place does not say."""

    allowed: tuple[str, ...] = ()
    declared: tuple[InstanceType, ...] = ()
    prices: tuple[Price, ...] = ()
    arch: str = ""

    @classmethod
    def of(cls, given: Given) -> TypeRules:
        """Options `instance_types` (names, or a table of name to `{cores, memory_mb, storage_gb, gpus, price_per_hour}`),
        `prices` (table of name to price of an hour), `currency` (USD), `arch` (x86_64; empty: any)."""
        raw = given.raw("instance_types")
        declared = tuple(_declared(name, facts) for name, facts in raw.items()) if isinstance(raw, Mapping) else ()
        allowed = tuple(one.name for one in declared) if declared else _names(raw)
        currency = given.text("currency", "USD")
        prices = {name: _price(name, value) for name, value in given.table("prices").items()}
        prices |= {one.name: one.price_per_hour for one in declared if one.price_per_hour is not None}
        return cls(allowed, declared, tuple(Price(name, value, currency) for name, value in prices.items()),
                   given.text("arch", "x86_64"))

    def priced(self, types: Iterable[InstanceType]) -> list[InstanceType]:
        """The types with what the configuration says of their prices."""
        known = {price.instance_type: price.per_hour for price in self.prices}
        return [replace(one, price_per_hour=known.get(one.name, one.price_per_hour)) for one in types]


def smallest(types: Sequence[InstanceType], *, cores: int, memory_mb: int, rules: TypeRules,
             storage_gb: int = 0, gpus: int = 0) -> InstanceType | None:
    """The cheapest allowed type that fits where prices are known, else the smallest; None when nothing fits."""
    fits = [one for one in types if one.cores >= cores and one.memory_mb >= memory_mb and one.storage_gb >= storage_gb
            and one.gpus >= gpus and (not rules.allowed or one.name in rules.allowed)
            and (not rules.arch or not one.arch or one.arch == rules.arch)]
    return min(fits, key=_size, default=None)


def _size(one: InstanceType) -> tuple[Any, ...]:
    price = (0, one.price_per_hour) if one.price_per_hour is not None else (1, 0.0)
    return (one.gpus, *price, one.cores, one.memory_mb, one.storage_gb, one.name)


def _declared(name: str, facts: Any) -> InstanceType:
    if not isinstance(facts, Mapping):
        raise Invalid.at(f"instance_types.{name}", f"{facts!r} is not a table", "cores, memory_mb, storage_gb, gpus")
    known = {"cores", "memory_mb", "storage_gb", "gpus", "price_per_hour"}
    if unknown := sorted(set(facts) - known):
        raise Invalid.at(f"instance_types.{name}.{unknown[0]}", "is not known", ", ".join(sorted(known)))
    least = {"cores": 1, "memory_mb": 1, "storage_gb": 0, "gpus": 0}
    numbers: dict[str, Any] = {key: _whole(f"instance_types.{name}.{key}", facts.get(key, 0), low=low)
                               for key, low in least.items()}
    price = facts.get("price_per_hour")
    return InstanceType(name, **numbers, price_per_hour=None if price is None else _price(name, price))


def _whole(field: str, value: Any, *, low: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise Invalid.at(field, f"{value!r} is not right", f"a whole number of at least {low}")
    return value


def _price(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise Invalid.at(f"prices.{name}", f"{value!r} is no price of an hour", "a number of at least 0")
    return float(value)


def _names(raw: Any) -> tuple[str, ...]:
    parts = raw.split(",") if isinstance(raw, str) else raw or ()
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, str) for part in parts):
        raise Invalid.at("instance_types", f"{raw!r} is not right", "a list of names, or a table of name to size")
    return tuple(part.strip() for part in parts if part.strip())
