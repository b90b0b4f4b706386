"""Prices: linear, in any order the same, exact; units converted; nothing sold that is not there."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.domain import pricing
from cloudsched.domain.pricing import CHARGE_S, DURATION_S, YUAN, Offer, Price
from cloudsched.domain.stock import TYPES, UNITS, Amount
from cloudsched.errors import Invalid

MUCH = 10**12
PRICES = st.decimals(min_value=0, max_value=1000, places=4, allow_nan=False, allow_infinity=False)
SECONDS = st.builds(lambda number, unit: number * DURATION_S[unit], st.integers(1, 1000), st.sampled_from(sorted(DURATION_S)))


@st.composite
def offers(draw: st.DrawFn) -> tuple[Amount, Price]:
    kind = draw(st.sampled_from(TYPES))
    price = Price(draw(PRICES), draw(st.sampled_from(sorted(UNITS[kind]))), draw(st.sampled_from(sorted(CHARGE_S))),
                  draw(st.sampled_from(sorted(YUAN))))
    return Amount(kind, f"M{draw(st.integers(0, 5))}", draw(st.integers(0, 10**6))), price


def seed(kind: str, model: str, amount: int, price: str, unit: str) -> tuple[Amount, Offer]:
    return Amount(kind, model, amount), Offer(Price(Decimal(price), unit, "小时", "元"), MUCH)


def test_the_example_of_the_contract() -> None:
    lines = [seed("cpu", "X", 4000, "1.5", "核"), seed("memory", "S", 8192, "0.005", "Mi"),
             seed("disk", "DATA", 512, "0.01", "Gi"), seed("gpu", "R", 2, "6", "卡")]
    found = pricing.quote([one for one, _ in lines], {one.key: offer for one, offer in lines}, seconds=3600)
    assert [pricing.number(line.subtotal) for line in found.lines] == [6, 40.96, 5.12, 12]
    assert pricing.number(found.total) == 64.08


@pytest.mark.parametrize(("unit", "price"), [("Mi", "0.005"), ("Gi", "5.12"), ("Ti", "5242.88")])
def test_memory_is_asked_in_mi_and_priced_in_its_own_unit(unit: str, price: str) -> None:
    one, offer = seed("memory", "S", 8192, price, unit)
    assert pricing.number(pricing.cost(one, offer.price, 3600)) == 40.96


@pytest.mark.parametrize(("unit", "factor"), [("元", 1), ("角", Fraction(1, 10)), ("分", Fraction(1, 100))])
def test_prices_become_yuan(unit: str, factor: Fraction) -> None:
    price = Price(Decimal("199"), "卡", "小时", unit)
    assert pricing.cost(Amount("gpu", "A", 1), price, 3600) == 199 * factor


@pytest.mark.parametrize(("duration", "periods"), [
    (("秒", 1), Fraction(1, 3600)), (("分钟", 1), Fraction(1, 60)), (("小时", 1), 1), (("天", 2), 48), (("周", 1), 168),
    (("月", 1), 720)])
def test_periods_of_a_time(duration: tuple[str, int], periods: Fraction) -> None:
    price = Price(Decimal(3), "核", "小时", "元")
    assert pricing.cost(Amount("cpu", "A", 1000), price, duration[1] * DURATION_S[duration[0]]) == 3 * periods


@given(offers(), st.integers(1, 1000), SECONDS)
def test_linear_in_amount_and_time(offer: tuple[Amount, Price], times: int, seconds: int) -> None:
    one, price = offer
    once = pricing.cost(one, price, seconds)
    assert pricing.cost(Amount(one.type, one.model, one.amount * times), price, seconds) == once * times
    assert pricing.cost(one, price, seconds * times) == once * times
    assert once >= 0


@given(offers(), st.integers(0, 10**6), SECONDS, SECONDS)
def test_parts_add_up(offer: tuple[Amount, Price], more: int, first: int, second: int) -> None:
    one, price = offer
    other = Amount(one.type, one.model, more)
    both = Amount(one.type, one.model, one.amount + more)
    assert pricing.cost(one, price, first) + pricing.cost(other, price, first) == pricing.cost(both, price, first)
    assert pricing.cost(one, price, first) + pricing.cost(one, price, second) == pricing.cost(one, price, first + second)


@given(st.lists(offers(), min_size=1, max_size=12), SECONDS, st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_lines_does_not_matter(given_lines: list[tuple[Amount, Price]], seconds: int, free: int,
                                            shuffler: random.Random) -> None:
    known = {one.key: Offer(price, free) for one, price in given_lines}
    wanted = [one for one, _ in given_lines]
    mixed = wanted[:]
    shuffler.shuffle(mixed)
    first, second = (pricing.quote(lines, known, seconds=seconds) for lines in (wanted, mixed))
    assert first.total == second.total
    assert sorted(map(repr, first.lines)) == sorted(map(repr, second.lines))
    good = [line for line in first.lines if line.refusal is None]
    assert first.total == sum((line.subtotal for line in good), Fraction(0))
    for line in good:
        assert sum(one.amount for one in wanted if one.key == line.wanted.key) <= free


@given(st.integers(1, 100_000), st.sampled_from(["0.1", "0.0001", "0.2", "1.99", "0.07"]))
def test_no_float_creeps_in(count: int, price: str) -> None:
    offer = Price(Decimal(price), "卡", "秒", "元")
    total = sum((pricing.cost(Amount("gpu", "A", 1), offer, 1) for _ in range(min(count, 50))), Fraction(0))
    assert total == Fraction(Decimal(price)) * min(count, 50)
    exact = Decimal(price) * count
    assert Decimal(str(pricing.number(pricing.cost(Amount("gpu", "A", count), offer, 1)))) == exact


@given(offers(), st.lists(st.tuples(st.integers(0, 7200), PRICES), max_size=5), st.integers(0, 7200), st.integers(0, 7200))
def test_each_second_costs_what_it_cost_then(offer: tuple[Amount, Price], changes: list[tuple[int, Decimal]], one: int,
                                             other: int) -> None:
    amount, price = offer
    history = [(float(at), Price(number, price.resource_unit, price.charge_unit, price.account_unit))
               for at, number in sorted(dict(changes).items())]
    begin, end = sorted((one, other))
    by_second = Fraction(0)
    for place, (at, then) in enumerate(history):
        until = history[place + 1][0] if place + 1 < len(history) else 10**6
        overlap = max(0, min(end, int(until)) - max(begin, int(at)))
        by_second += pricing.cost(amount, then, overlap)
    assert pricing.metered(amount, history, since=begin, until=end) == by_second


def test_why_a_line_cannot_be_had() -> None:
    known = {("gpu", "A"): Offer(Price(Decimal(6), "卡", "小时", "元"), 5)}
    wanted = [Amount("gpu", "A", 3), Amount("gpu", "B", 1), Amount("cpu", "A", 1), Amount("gpu", "A", 3)]
    found = pricing.quote(wanted, known, seconds=3600)
    assert [refusal.code for refusal in found.refusals] == ["short", "no_model", "no_type", "short"]
    assert found.refusals[0].facts == {"type": "gpu", "model": "A", "free": 5, "asked": 6}
    assert found.total == 0


@pytest.mark.parametrize("value", ["", "x", "-1", "nan", "Infinity", "1e9", "0.0000000000001", True, None, "1,5"])
def test_what_is_no_price(value: object) -> None:
    with pytest.raises(Invalid, match="unit_price"):
        pricing.a_price(value)


@pytest.mark.parametrize(("value", "kept"), [("1.99", "1.99"), (2, "2"), (0.005, "0.005"), ("1E-4", "0.0001"), (" 3.0 ", "3.0")])
def test_a_price_is_kept_as_exact_text(value: object, kept: str) -> None:
    assert pricing.a_price(value) == kept


@given(st.integers(-10**18, 10**18))
def test_money_as_text_and_back(nano: int) -> None:
    text = pricing.nano_text(nano)
    assert Decimal(text) * pricing.NANO == nano
    if 0 <= nano < 10**18:
        assert pricing.nano_of(text, "amount") == nano


@pytest.mark.parametrize("value", ["", "x", "-1", "1e9", "0.0000000001", True, "nan"])
def test_what_is_no_amount_of_money(value: object) -> None:
    with pytest.raises(Invalid, match="amount"):
        pricing.nano_of(value, "amount")


@pytest.mark.parametrize(("value", "number"), [(Fraction(6), 6), (Fraction(1, 3), 0.333333333333), (Fraction(2, 10**13), 0.0),
                                               (Fraction(4096, 100), 40.96)])
def test_shown_numbers(value: Fraction, number: float) -> None:
    assert pricing.number(value) == number
    assert isinstance(pricing.number(Fraction(6)), int)
