"""What does an amount of a part cost for a time? Exact fractions of 元; rounding happens once, where a number is shown.

Subtotal = amount in the part's unit x unit price x charge periods in the time (contract: accrual_price). A period need not be
whole: half an hour of a part charged by the hour costs half its price.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from typing import Any

from cloudsched.domain.stock import Amount, Key, decimal_of, factor
from cloudsched.errors import Invalid

CURRENCY = "元"
CHARGE_S = {"秒": 1, "分钟": 60, "小时": 3600, "天": 86400}
DURATION_S = {**CHARGE_S, "周": 7 * 86400, "月": 30 * 86400}
# What else the units are called by those who do not write Chinese; the first of each is the one that is told.
WORDS = {"秒": ("second", "seconds", "sec", "s"), "分钟": ("minute", "minutes", "min", "分"),
         "小时": ("hour", "hours", "h", "时"), "天": ("day", "days", "d", "日"),
         "周": ("week", "weeks", "w", "星期"), "月": ("month", "months", "mo"),
         "元": ("yuan", "cny", "rmb"), "角": ("jiao",), "分": ("fen",)}
YUAN = {"元": Fraction(1), "角": Fraction(1, 10), "分": Fraction(1, 100)}
NANO = 10**9
# Decimal places of prices and of amounts of money as they are shown.
PRICE_PLACES, SHOWN_PLACES = 12, 12
_WIDE = Context(prec=60, rounding=ROUND_HALF_EVEN)


@dataclass(frozen=True, slots=True)
class Price:
    """So much `account_unit` for one `resource_unit` during one `charge_unit`."""

    unit_price: Decimal
    resource_unit: str
    charge_unit: str
    account_unit: str

    @property
    def yuan(self) -> Fraction:
        """The unit price in 元."""
        return Fraction(self.unit_price) * YUAN[self.account_unit]


@dataclass(frozen=True, slots=True)
class Offer:
    """A part that can be had: its price (None: it has none yet), and how many base units are free."""

    price: Price | None
    free: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why something cannot be had, as data: `code` and the facts of its sentence."""

    code: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a quote: what was asked for and what it costs in 元, or why it cannot be had."""

    wanted: Amount
    price: Price | None = None
    subtotal: Fraction = Fraction(0)
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Quote:
    """Lines in the order they were asked for; the total is that of the lines that can be had."""

    lines: tuple[Line, ...]
    total: Fraction

    @property
    def refusals(self) -> list[Refusal]:
        return [line.refusal for line in self.lines if line.refusal is not None]


def a_price(value: Any, field_name: str = "unit_price") -> str:
    """A unit price as given, as the exact text that is kept. Raises Invalid naming the field."""
    allowed = f"a decimal number from 0 with at most {PRICE_PLACES} places"
    number = decimal_of(value)
    if number is None:
        raise Invalid.at(field_name, f"{value!r} is no number", allowed)
    if number < 0 or number >= NANO:
        raise Invalid.at(field_name, f"{value!r} is no price", allowed)
    exponent = number.normalize(_WIDE).as_tuple().exponent
    if isinstance(exponent, int) and exponent < -PRICE_PLACES:
        raise Invalid.at(field_name, f"{value!r} is finer than prices are kept", allowed)
    return format(number, "f")


def one_of(table: Mapping[str, Any], value: Any, field_name: str) -> str:
    """A unit of a table (CHARGE_S, DURATION_S, YUAN), by its own word or one of WORDS. Raises Invalid naming the field."""
    if value in table:
        return str(value)
    word = str(value).strip().lower()
    for unit in table:
        if word in (unit, *WORDS[unit]):
            return unit
    raise Invalid.at(field_name, f"{value!r} is not known", ", ".join(WORDS[unit][0] for unit in table))


def rate(kind: str, price: Price) -> Fraction:
    """元 for one base unit during one second."""
    return price.yuan / factor(kind, price.resource_unit) / CHARGE_S[price.charge_unit]


def cost(amount: Amount, price: Price, seconds: Fraction | int) -> Fraction:
    """元 for an amount during a time."""
    return rate(amount.type, price) * amount.amount * seconds


def quote(wanted: Sequence[Amount], offers: Mapping[Key, Offer], *, seconds: int) -> Quote:
    """Price what is wanted for a time. Lines are judged in any order alike: lines of one part share what is free of it."""
    types = {kind for kind, _ in offers}
    asked: Counter[Key] = Counter()
    for one in wanted:
        asked[one.key] += one.amount
    lines = tuple(_line(one, offers, types=types, asked=asked[one.key], seconds=seconds) for one in wanted)
    return Quote(lines, sum((line.subtotal for line in lines), Fraction(0)))


def metered(amount: Amount, prices: Sequence[tuple[float, Price]], *, since: float, until: float) -> Fraction:
    """元 for an amount from `since` to `until` (epoch seconds), each second at the price of its time.

    `prices`: (from when, price), oldest first; before the first of them it has no price and costs nothing (`unpriced`). Times
    count in whole milliseconds.
    """
    total = Fraction(0)
    for place, (begins, price) in enumerate(prices):
        ends = prices[place + 1][0] if place + 1 < len(prices) else until
        seconds = duration(max(begins, since), min(ends, until))
        if seconds > 0:
            total += cost(amount, price, seconds)
    return total


def unpriced(prices: Sequence[tuple[float, Price]], *, since: float) -> bool:
    """Is there a time after `since` for which the part had no price yet?"""
    return not prices or prices[0][0] > since


def duration(since: float, until: float) -> Fraction:
    """Seconds between two times, exact in whole milliseconds; never negative."""
    return max(Fraction(0), Fraction(round(until * 1000) - round(since * 1000), 1000))


def number(value: Fraction) -> int | float:
    """An amount of money as a JSON number: whole where it is whole, else with at most 12 places."""
    if value.denominator == 1:
        return value.numerator
    exact = _WIDE.divide(Decimal(value.numerator), Decimal(value.denominator))
    return float(exact.quantize(Decimal(1).scaleb(-SHOWN_PLACES), context=_WIDE))


def to_nano(value: Fraction) -> int:
    """元 as whole billionths, half to even: what is kept of what was used."""
    return round(value * NANO)


def nano_text(nano: int) -> str:
    """Billionths of 元 as an exact decimal text without trailing zeros."""
    whole, rest = divmod(abs(nano), NANO)
    places = f"{rest:09d}".rstrip("0")
    return f"{'-' if nano < 0 else ''}{whole}{'.' + places if places else ''}"


def nano_of(text: Any, field_name: str) -> int:
    """An amount of 元 as given, in billionths. Raises Invalid naming the field."""
    allowed = "a decimal number of yuan from 0 with at most 9 places"
    value = decimal_of(text)
    if value is None:
        raise Invalid.at(field_name, f"{text!r} is no number", allowed)
    if value < 0 or value >= NANO:
        raise Invalid.at(field_name, f"{text!r} is out of range", f"{allowed}, below {NANO}")
    nano = _WIDE.multiply(value, Decimal(NANO))
    if nano != nano.to_integral_value(context=_WIDE):
        raise Invalid.at(field_name, f"{text!r} is too fine", allowed)
    return int(nano)


def _line(one: Amount, offers: Mapping[Key, Offer], *, types: set[str], asked: int, seconds: int) -> Line:
    if one.type not in types:
        return Line(one, refusal=Refusal("no_type", {"type": one.type}))
    offer = offers.get(one.key)
    if offer is None:
        return Line(one, refusal=Refusal("no_model", {"type": one.type, "model": one.model}))
    if asked > offer.free:
        return Line(one, refusal=Refusal("short", {"type": one.type, "model": one.model, "free": offer.free, "asked": asked}))
    if offer.price is None:
        return Line(one, refusal=Refusal("no_price", {"type": one.type, "model": one.model}))
    return Line(one, offer.price, cost(one, offer.price, seconds))
