"""What would a set of parts cost for a time, and can it be had? (contract: accrual_price)

Every line is judged: what is wrong with one does not keep the others from being priced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from cloudsched.domain import pricing
from cloudsched.domain.pricing import Line, Offer, Price, Refusal
from cloudsched.domain.stock import ASKED, TYPES, Amount, Key, Part, shown, to_base
from cloudsched.errors import Invalid
from cloudsched.store import parts as store

MOST_LINES, MOST_DURATION = 1000, 1_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an answer: the type as it was asked for, and the line or why there is none."""

    type: str
    line: Line | None
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class Priced:
    """A quote as it is told; `total` in 元 is that of the lines that can be had."""

    entries: tuple[Entry, ...]
    total: Fraction

    @property
    def refusals(self) -> list[Refusal]:
        """Each reason once, in the order of the lines."""
        found: list[Refusal] = []
        for entry in self.entries:
            if entry.refusal is not None and entry.refusal not in found:
                found.append(entry.refusal)
        return found


def quote(centre: str, resources: Any, *, duration: int, duration_unit: str, cluster_key: str | None = None) -> Priced:
    """Price a list of {"type", "model", "amount"} for a time, against what is free in the centre or in one cluster of it.

    Amounts are cores, Mi, Gi and cards. Raises Invalid for what is no list of such, and for the time.
    """
    unit = pricing.one_of(pricing.DURATION_S, duration_unit, "duration_unit")
    if not 0 < duration <= MOST_DURATION:
        raise Invalid.at("duration", f"{duration} is out of range", f"1 to {MOST_DURATION}")
    asked = [_asked(entry, place) for place, entry in enumerate(_listed(resources))]
    wanted = [one for one in asked if isinstance(one, Amount)]
    priced = pricing.quote(wanted, offers(centre, cluster_key), seconds=duration * pricing.DURATION_S[unit])
    lines = iter(priced.lines)
    return Priced(tuple(_entry(one, lines) for one in asked), priced.total)


def offers(centre: str, cluster_key: str | None = None) -> dict[Key, Offer]:
    """(type, model) -> price, and base units free in the centre or in one cluster of it."""
    free = store.free(centre=centre, cluster=cluster_key)
    keys = {(part.type, part.model): part for part in store.of_centre(centre)}
    return {key: Offer(_price(part), free.get(key, 0)) for key, part in keys.items()}


def view(line: Line) -> dict[str, Any]:
    """A line that can be had, in the part's own unit and in 元: amount x unit price x periods is the subtotal."""
    assert line.price is not None
    one, unit = line.wanted, line.price.resource_unit
    return {"resource_name": f"{one.type} {one.model}", "resource_type": one.type, "amount": shown(one.type, one.amount, unit),
            "resource_unit": unit, "unit_price": pricing.number(line.price.yuan), "subtotal": pricing.number(line.subtotal)}


def facts(refusal: Refusal) -> dict[str, Any]:
    """What the sentence of a refusal says, in the units people ask in."""
    values = dict(refusal.facts)
    if refusal.code == "short":
        unit = ASKED[values["type"]]
        values |= {"stock": shown(values["type"], values["free"], unit), "asked": shown(values["type"], values["asked"], unit),
                   "unit": unit}
    return values


def _price(part: Part) -> Price | None:
    if not part.unit_price:
        return None
    return Price(Decimal(part.unit_price), part.resource_unit, part.charge_unit, part.account_unit)


def _listed(resources: Any) -> Sequence[Any]:
    if isinstance(resources, Mapping) and "resources" in resources:
        resources = resources["resources"]
    if isinstance(resources, Mapping):
        resources = [resources]
    if not isinstance(resources, list) or not resources:
        raise Invalid.at("resources", "is no list of parts", '[{"type": ..., "model": ..., "amount": ...}, ...]')
    if len(resources) > MOST_LINES:
        raise Invalid.at("resources", f"has {len(resources)} lines", f"at most {MOST_LINES}")
    return resources


def _asked(entry: Any, place: int) -> Amount | tuple[str, Refusal]:
    where = f"resources[{place}]"
    if not isinstance(entry, Mapping):
        raise Invalid.at(where, "is no object", '{"type": ..., "model": ..., "amount": ...}')
    kind, model = str(entry.get("type", "")), str(entry.get("model", ""))
    if kind not in TYPES:
        return kind, Refusal("no_type", {"type": kind})
    if entry.get("amount") is None:
        return kind, Refusal("no_amount", {"field": f"{where}.amount"})
    try:
        return Amount(kind, model, to_base(kind, entry["amount"], field=f"{where}.amount"))
    except Invalid as error:
        return kind, Refusal("bad_amount", {"reason": error.message})


def _entry(asked: Amount | tuple[str, Refusal], lines: Any) -> Entry:
    if not isinstance(asked, Amount):
        return Entry(asked[0], None, asked[1])
    line: Line = next(lines)
    return Entry(asked.type, line if line.refusal is None else None, line.refusal)
