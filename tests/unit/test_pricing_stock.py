"""Amounts: whole base units from what people write, and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.domain import stock
from cloudsched.domain.stock import TYPES, UNITS, Amount
from cloudsched.errors import Invalid


@pytest.mark.parametrize(("kind", "value", "unit", "base"), [
    ("cpu", 4, "", 4000), ("cpu", "0.5", "", 500), ("cpu", "500m", "", 500), ("cpu", 2.5, "核", 2500), ("cpu", 250, "m", 250),
    ("memory", 8192, "", 8192), ("memory", "8Gi", "", 8192), ("memory", 8, "Gi", 8192), ("memory", "1.5", "Gi", 1536),
    ("disk", 512, "", 512), ("disk", "1Ti", "", 1024), ("gpu", "2", "", 2), ("gpu", 2.0, "张", 2), ("memory", " 512Mi ", "", 512),
    ("disk", "20Gi存储", "", 20),
])
def test_amounts_as_people_write_them(kind: str, value: object, unit: str, base: int) -> None:
    assert stock.to_base(kind, value, unit) == base


@pytest.mark.parametrize(("kind", "value"), [
    ("cpu", "x"), ("cpu", ""), ("cpu", None), ("cpu", True), ("cpu", -1), ("cpu", "nan"), ("cpu", "inf"), ("cpu", 0.0005),
    ("gpu", 0.5),
    ("disk", "512Mi"), ("memory", [1]), ("gpu", 10**30), ("memory", "9e15Gi"), ("cpu", "m"), ("cpu", {"a": 1}),
])
def test_what_is_no_amount(kind: str, value: object) -> None:
    with pytest.raises(Invalid, match=r"^x\[0\].amount"):
        stock.to_base(kind, value, field="x[0].amount")


def test_a_negative_amount_only_where_it_is_meant() -> None:
    assert stock.to_base("gpu", "-2", signed=True) == -2
    with pytest.raises(Invalid, match="negative"):
        stock.to_base("gpu", "-2")


@given(st.sampled_from(TYPES), st.integers(0, 2**20), st.data())
def test_shown_and_read_again(kind: str, base: int, data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from([name for name, size in UNITS[kind].items() if size <= 1024]))
    seen = stock.shown(kind, base, unit)
    assert stock.to_base(kind, seen, unit) == base
    assert isinstance(seen, int) == (base % UNITS[kind][unit] == 0)


def test_a_host_in_base_units() -> None:
    row = {"cpu_model": "C", "cpu_stock": 8, "memory_model": "", "memory_stock": 2, "sysdisk_stock": 40, "datadisk_stock": 0,
           "gpu_model": "G", "gpu_stock": 0}
    assert stock.of_host(row) == [Amount("cpu", "C", 8000), Amount("memory", "STANDARD", 2048), Amount("disk", "SYS", 40)]


@given(st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from("AB"), st.integers(0, 9))))
def test_amounts_as_rows_keep_them(rows: list[tuple[str, str, int]]) -> None:
    held = [Amount(*row) for row in rows]
    assert stock.merged(stock.of_json(stock.to_json(held))) == stock.merged(held)


def test_what_has_no_room_says_so_with_facts() -> None:
    short = stock.StockShort(Amount("cpu", "X", 1500), cluster="c1", free=500)
    assert (short.type, short.model, short.stock, short.asked) == ("cpu", "X", 500, 1500)
    assert str(short) == "cpu X: 0.5 核 free in cluster c1, 1.5 核 asked for"
    assert short.details["say"] == "stock_short"
