"""What is a part, how much of it is there, and in which units? Amounts are whole base units, so that books are exact.

Base units: a thousandth of a core, Mi of memory, Gi of disk, one GPU card. People ask in cores, Mi, Gi and cards (`ASKED`);
a part's stock, consumption and price are shown in its own `resource_unit`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cloudsched.errors import Conflict, Invalid

TYPES = ("cpu", "memory", "disk", "gpu")
SYSTEM_DISK, DATA_DISK = "SYS", "DATA"
STANDARD = "STANDARD"
# Base units in one of each unit; several spellings of one unit are in use.
UNITS: dict[str, dict[str, int]] = {
    "cpu": {"核": 1000, "个": 1000, "个核": 1000, "个cpu": 1000, "core": 1000, "m": 1},
    "memory": {"Mi": 1, "Gi": 1024, "Ti": 1024**2, "Mi内存": 1, "Gi内存": 1024},
    "disk": {"Gi": 1, "Ti": 1024, "Gi存储": 1, "Ti存储": 1024},
    "gpu": {"卡": 1, "张": 1, "块": 1, "个": 1, "张显卡": 1, "块gpu": 1, "card": 1},
}
ASKED = {"cpu": "核", "memory": "Mi", "disk": "Gi", "gpu": "卡"}
HELD = {"cpu": "核", "memory": "Gi", "disk": "Gi", "gpu": "卡"}
LIMIT = 2**53
Key = tuple[str, str]
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Amount:
    """So much of a part, in base units of its type."""

    type: str
    model: str
    amount: int

    @property
    def key(self) -> Key:
        return self.type, self.model


@dataclass(frozen=True, slots=True)
class Part:
    """A kind of hardware of a compute centre and its price (contract: parts).

    `unit_price` is an exact decimal as text, empty where it has no price yet.
    """

    id: int
    key: str
    centre: str
    type: str
    model: str
    unit_price: str
    resource_unit: str
    charge_unit: str
    account_unit: str
    created_at: float
    updated_at: float


@dataclass(frozen=True, slots=True)
class Book:
    """What a cluster has of a part and what of that is in use, in base units; `by_hand` of the stock came with no host."""

    part_id: int
    cluster_key: str
    cluster_name: str
    stock: int
    by_hand: int
    consumed: int


class _OfABook(Conflict):
    """A book does not allow it. The numbers are base units; the details hold them as people read them."""

    say = ""
    sentence = ""

    def __init__(self, amount: Amount, *, cluster: str, free: int) -> None:
        self.type, self.model, self.cluster, self.stock, self.asked = amount.type, amount.model, cluster, free, amount.amount
        unit = ASKED[amount.type]
        facts = {"type": amount.type, "model": amount.model, "cluster": cluster or "-", "unit": unit,
                 "stock": shown(amount.type, free, unit), "asked": shown(amount.type, amount.amount, unit)}
        super().__init__(self.sentence.format(**facts), details={"say": self.say, **facts})


class StockShort(_OfABook):
    """There is less free of a part than is asked for."""

    say = "stock_short"
    sentence = "{type} {model}: {stock} {unit} free in cluster {cluster}, {asked} {unit} asked for"


class StockInUse(_OfABook):
    """Stock cannot be taken away because it is in use, or came another way than it would go."""

    say = "stock_in_use"
    sentence = "{type} {model} of cluster {cluster}: {stock} {unit} can be taken away, {asked} {unit} would have to be"


def decimal_of(value: Any) -> Decimal | None:
    """A number as people and JSON write it, exact; None for what is none: digits are ASCII, with nothing between them."""
    text = str(value).strip()
    if isinstance(value, bool) or len(text) > 400 or not _NUMBER.fullmatch(text):
        return None
    return Decimal(text)


def a_type(value: Any, field: str = "type") -> str:
    """The type of a part. Raises Invalid naming the field."""
    if value not in TYPES:
        raise Invalid.at(field, f"{value!r} is no type of part", ", ".join(TYPES))
    return str(value)


def factor(kind: str, unit: str, field: str = "resource_unit") -> int:
    """Base units in one `unit` of a type of part. Raises Invalid naming the field."""
    found = UNITS[kind].get(unit)
    if found is None:
        raise Invalid.at(field, f"{unit!r} is no unit of {kind}", ", ".join(UNITS[kind]))
    return found


def to_base(kind: str, value: Any, unit: str = "", *, field: str = "amount", signed: bool = False) -> int:
    """An amount as people give it (4, 0.5, "4", "500m", "8Gi") in base units.

    Without a suffix of its own it is in `unit`, by default the unit people ask in. Raises Invalid naming the field.
    """
    text, unit = _split(kind, value, unit or ASKED[kind])
    number = None if isinstance(value, bool) else decimal_of(text)
    if number is None:
        raise Invalid.at(field, f"{value!r} is no number", f"a number of {unit}")
    if number < 0 and not signed:
        raise Invalid.at(field, f"{value!r} is negative", "0 or more")
    if abs(number) >= LIMIT:
        raise Invalid.at(field, f"{value!r} is too much", f"less than {LIMIT}")
    base = number * factor(kind, unit, field)
    if base != base.to_integral_value():
        raise Invalid.at(field, f"{value!r} {unit} is finer than is kept of {kind}", f"multiples of {_finest(kind)}")
    if abs(base) >= LIMIT:
        raise Invalid.at(field, f"{value!r} {unit} is too much", f"less than {LIMIT} {_finest(kind)}")
    return int(base)


def shown(kind: str, base: int, unit: str) -> int | float:
    """Base units as a number of `unit`: whole where it is whole."""
    size = UNITS[kind].get(unit, 1)
    whole, rest = divmod(base, size)
    return whole if not rest else base / size


def merged(amounts: Iterable[Amount]) -> dict[Key, int]:
    """(type, model) -> base units together, in the order of types and models; what is 0 is left out."""
    total: dict[Key, int] = {}
    for one in amounts:
        total[one.key] = total.get(one.key, 0) + one.amount
    return {key: total[key] for key in sorted(total) if total[key]}


def of_host(row: Mapping[str, Any]) -> list[Amount]:
    """The parts in a host, from its columns: cores, and Gi of memory, system disk and data disk, cards (contract: devices)."""
    sizes = (("cpu", row["cpu_model"], row["cpu_stock"], "核"), ("memory", row["memory_model"], row["memory_stock"], "Gi"),
             ("disk", SYSTEM_DISK, row["sysdisk_stock"], "Gi"), ("disk", DATA_DISK, row["datadisk_stock"], "Gi"),
             ("gpu", row["gpu_model"], row["gpu_stock"], "卡"))
    found = [Amount(kind, str(model or STANDARD), to_base(kind, size or 0, unit, field=f"{kind}_stock"))
             for kind, model, size, unit in sizes]
    return [one for one in found if one.amount]


def of_json(amounts: str | Sequence[Any]) -> list[Amount]:
    """Amounts as rows keep them: [[type, model, base units], ...], or that as JSON text; what is 0 is left out."""
    rows: Sequence[Any] = json.loads(amounts) if isinstance(amounts, str) else amounts
    return [Amount(str(kind), str(model), int(amount)) for kind, model, amount in rows if amount]


def to_json(amounts: Iterable[Amount]) -> str:
    """The text that `of_json` reads, one entry per type and model."""
    return json.dumps([[*key, amount] for key, amount in merged(amounts).items()], ensure_ascii=False)


def _split(kind: str, value: Any, unit: str) -> tuple[str, str]:
    text = str(value).strip()
    for suffix in sorted(UNITS[kind], key=len, reverse=True):
        if isinstance(value, str) and text.endswith(suffix) and text != suffix:
            return text[:-len(suffix)].strip(), suffix
    return text, unit


def _finest(kind: str) -> str:
    return next(f"1 {unit}" for unit, size in UNITS[kind].items() if size == 1)
