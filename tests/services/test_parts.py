"""Parts, prices, quotes and fitting as services: what they refuse and why, and what is written down."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.domain.fitting import NodeFree
from cloudsched.domain.pricing import Refusal
from cloudsched.domain.stock import Amount, StockInUse
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services.centre import fitting, parts, quotes
from cloudsched.store import clusters, events
from cloudsched.store import parts as store
from cloudsched.store.db import Database, write

CENTRE = "centre-1"
GIVEN: dict[str, Any] = {"kind": "gpu", "model": "A", "unit_price": "6", "actor": "ann"}


@pytest.fixture(autouse=True)
def stepped(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    return time


def kinds() -> list[str]:
    return [event.kind for event in events.since(0)]


def free(kind: str = "gpu", model: str = "A", cluster: str | None = None) -> int:
    return store.free(centre=CENTRE, cluster=cluster).get((kind, model), 0)


def test_a_part_is_there_once(stepped: ManualClock) -> None:
    part = parts.add(CENTRE, **GIVEN, stock="2", cluster_key="c1")
    assert (part.resource_unit, part.charge_unit, part.account_unit, len(part.key)) == ("卡", "小时", "元", 21)
    with pytest.raises(parts.PartExists):
        parts.add(CENTRE, **GIVEN, stock="2", cluster_key="c1")
    stepped.advance(5)
    with pytest.raises(Conflict, match="costs 6, not 9") as told:
        parts.add(CENTRE, **{**GIVEN, "unit_price": "9"}, stock="3", cluster_key="c2", add_stock=True)
    assert told.value.details["say"] == "part_price_differs" and free() == 2
    again = parts.add(CENTRE, **{**GIVEN, "unit_price": "6.0"}, stock="3", cluster_key="c2", add_stock=True)
    assert again.key == part.key and again.unit_price == "6" and again.updated_at == stepped.now()
    assert (free(), free(cluster="c2")) == (5, 3)
    assert kinds() == ["part.add", "part.stock"]
    assert parts.add("other", **GIVEN).key != part.key


def test_stock_by_hand_goes_as_it_came() -> None:
    parts.add(CENTRE, **GIVEN, stock=3, cluster_key="c1")
    write(lambda tx: parts.move_host(tx, CENTRE, before=None, after=("c1", [Amount("gpu", "A", 2)]), actor="ann"))
    write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("gpu", "A", 3)], actor="ann"))
    for much in (-3, -4):
        with pytest.raises(StockInUse):
            parts.add(CENTRE, **GIVEN, stock=much, cluster_key="c1", add_stock=True)
    parts.add(CENTRE, **GIVEN, stock=-2, cluster_key="c1", add_stock=True)
    assert free() == 0
    instances = [("c1", '[["gpu", "A", 3]]')]
    found = write(lambda tx: parts.rebuild(tx, CENTRE, hosts=[], instances=instances, actor="ann", dry_run=True))
    assert found == [parts.Difference("gpu", "A", "c1", (3, 1), (3, 3), oversold=2)]
    with pytest.raises(Invalid, match="stock"):
        parts.add(CENTRE, **{**GIVEN, "model": "B"}, stock=-1)


@pytest.mark.parametrize(("wrong", "field"), [
    ({"kind": "tpu"}, "type"), ({"model": " "}, "model"), ({"model": "x" * 201}, "model"), ({"model": "a\nb"}, "model"),
    ({"unit_price": "much"}, "unit_price"),
    ({"resource_unit": "Mi"}, "resource_unit"), ({"charge_unit": "年"}, "charge_unit"), ({"account_unit": "$"}, "account_unit"),
    ({"stock": "some"}, "stock"), ({"stock": 0.5}, "stock"),
])
def test_what_is_wrong_is_named(wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}"):
        parts.add(CENTRE, **{**GIVEN, **wrong})
    assert parts.listed(CENTRE) == []


def test_only_tried() -> None:
    parts.add(CENTRE, **GIVEN, stock=1, dry_run=True)
    assert parts.listed(CENTRE) == [] and kinds() == []
    part = parts.add(CENTRE, **GIVEN)
    assert parts.set_price(CENTRE, key=part.key, unit_price="7", actor="ann", dry_run=True).unit_price == "7"
    parts.remove(CENTRE, part.key, actor="ann", dry_run=True)
    assert parts.find(CENTRE, key=part.key).unit_price == "6"


def test_only_the_price_changes() -> None:
    part = parts.add(CENTRE, **GIVEN)
    assert parts.set_price(CENTRE, kind="gpu", model="A", unit_price="0.0009", actor="ann").unit_price == "0.0009"
    assert parts.set_price(CENTRE, key=part.key, unit_price=7, actor="ann").unit_price == "7"
    with pytest.raises(Invalid, match="id"):
        parts.set_price(CENTRE, key=part.key, kind="gpu", model="B", unit_price="7", actor="ann")
    for where in ({"key": "nothing"}, {"kind": "gpu", "model": "B"}):
        with pytest.raises(NotFound):
            parts.set_price(CENTRE, **where, unit_price="7", actor="ann")
    with pytest.raises(NotFound):
        parts.set_price("other", key=part.key, unit_price="7", actor="ann")


def test_a_part_with_stock_stays() -> None:
    part = parts.add(CENTRE, **GIVEN, stock=1, cluster_key="c1")
    with pytest.raises(Conflict, match="stock 1 and consumption 0"):
        parts.remove(CENTRE, part.key, actor="ann")
    parts.add(CENTRE, **GIVEN, stock=-1, cluster_key="c1", add_stock=True)
    parts.remove(CENTRE, part.key, actor="ann")
    assert parts.listed(CENTRE) == [] and kinds()[-1] == "part.delete"


def test_hosts_bring_their_parts_and_take_them_along() -> None:
    big, small = [Amount("cpu", "X", 8000), Amount("gpu", "A", 2)], [Amount("cpu", "X", 4000), Amount("gpu", "A", 2)]

    def move(before: parts.Place | None, after: parts.Place | None) -> None:
        write(lambda tx: parts.move_host(tx, CENTRE, before=before, after=after, actor="ann"))

    move(None, ("", big))
    assert [(one.part.type, one.part.unit_price, one.stock) for one in parts.listed(CENTRE)] == [
        ("cpu", "", 8000), ("gpu", "", 2)]
    move(("", big), ("c1", big))
    move(("c1", big), ("c1", small))
    move(("c1", small), ("c1", small))
    assert (free("cpu", "X"), free("cpu", "X", "c1"), free("cpu", "X", "")) == (4000, 4000, 0)
    move(("c1", small), None)
    assert all(one.stock == 0 for one in parts.listed(CENTRE))
    told = [json.loads(event.data) for event in events.since(0) if event.kind == "part.stock"]
    assert {(one["model"], one["cluster"], one["amount"]) for one in told} >= {
        ("X", "", 8000), ("X", "", -8000), ("X", "c1", -4000)}
    assert all("org" in one and one["centre"] == CENTRE for one in told)


def test_consuming_is_all_or_nothing() -> None:
    write(lambda tx: parts.move_host(tx, CENTRE, before=None, after=("c1", [Amount("cpu", "X", 8000)]), actor="ann"))
    with pytest.raises(parts.StockShort, match="memory M"):
        write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("cpu", "X", 1), Amount("memory", "M", 1)], actor="ann"))
    with pytest.raises(parts.StockShort) as short:
        write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("cpu", "X", 5000), Amount("cpu", "X", 4000)], actor="ann"))
    assert (short.value.stock, short.value.asked) == (8000, 9000)
    assert free("cpu", "X") == 8000
    for amounts in ([Amount("cpu", "X", -1)], [Amount("cpu", "X", 1)]):
        with pytest.raises((Invalid, StockInUse)):
            write(lambda tx, amounts=amounts: parts.release(tx, CENTRE, "c1", amounts, actor="ann"))
    write(lambda tx: parts.consume(tx, CENTRE, "c1", [Amount("gpu", "none", 0)], actor="ann"))


def cluster(key: str, name: str, *, cloud_id: int = 1, state: str = "running") -> None:
    write(lambda tx: clusters.insert(tx, {"key": key, "name": name, "kind": "kubernetes", "origin": "kboss", "cloud_id": cloud_id,
                                          "state": state, "created_at": clock.now()}, at=clock.now()))


def test_books_of_clusters_that_are_gone_are_not_shown() -> None:
    cluster("c1", "one")
    cluster("c2", "two", state="terminated")
    for key in ("", "c1", "c2"):
        parts.add(CENTRE, **GIVEN, cluster_key=key, add_stock=True)
    assert [(book.cluster_key, book.cluster_name) for book in parts.listed(CENTRE)[0].books] == [("c1", "one")]
    parts.add(CENTRE, **GIVEN, cluster_key="c2", stock=1, add_stock=True)
    assert [book.cluster_key for book in parts.listed(CENTRE)[0].books] == ["c1", "c2"]


def test_free_cards_over_a_cluster_a_centre_and_all() -> None:
    for centre, key, much in ((CENTRE, "c1", 2), (CENTRE, "c2", 3), ("other", "c3", 4)):
        parts.add(centre, **GIVEN, stock=much, cluster_key=key, add_stock=True)
    write(lambda tx: parts.consume(tx, CENTRE, "c2", [Amount("gpu", "A", 3)], actor="ann"))
    parts.add(CENTRE, kind="cpu", model="A", unit_price=1, stock=9, cluster_key="c1", actor="ann")
    assert parts.free_gpus(cluster="c1") == {"A": 2} and parts.free_gpus(cluster="c2") == {"A": 0}
    assert parts.free_gpus(centre=CENTRE) == {"A": 2} and parts.free_gpus() == {"A": 6}


# quotes


def ask(*lines: tuple[str, str, Any], cluster_key: str | None = None, duration: int = 1, unit: str = "小时") -> quotes.Priced:
    return quotes.quote(CENTRE, [dict(zip(("type", "model", "amount"), line, strict=True)) for line in lines], duration=duration,
                        duration_unit=unit, cluster_key=cluster_key)


@pytest.fixture
def priced() -> None:
    parts.add(CENTRE, kind="cpu", model="X", unit_price="1.5", stock=8, cluster_key="c1", actor="ann")
    parts.add(CENTRE, kind="memory", model="M", unit_price="0.005", stock=16, cluster_key="c1", actor="ann")
    parts.add(CENTRE, kind="gpu", model="A", unit_price="600", account_unit="分", stock=4, cluster_key="c2", actor="ann")


@pytest.mark.usefixtures("priced")
def test_lines_in_the_parts_own_units_and_yuan() -> None:
    found = ask(("cpu", "X", 4), ("memory", "M", 8192), ("gpu", "A", "2"), duration=2, unit="天")
    assert [quotes.view(entry.line) for entry in found.entries if entry.line] == [
        {"resource_name": "cpu X", "resource_type": "cpu", "amount": 4, "resource_unit": "核", "unit_price": 1.5,
         "subtotal": 288},
        {"resource_name": "memory M", "resource_type": "memory", "amount": 8, "resource_unit": "Gi", "unit_price": 0.005,
         "subtotal": 1.92},
        {"resource_name": "gpu A", "resource_type": "gpu", "amount": 2, "resource_unit": "卡", "unit_price": 6, "subtotal": 576}]
    assert found.total == 288 + 576 + Fraction(192, 100) and not found.refusals


@pytest.mark.usefixtures("priced")
def test_each_line_has_its_own_error() -> None:
    found = ask(("cpu", "X", 4), ("cpu", "Y", 1), ("tpu", "X", 1), ("disk", "SYS", 1), ("memory", "M", 16385), ("gpu", "A", 0.5),
                ("gpu", "A", None))
    codes = [entry.refusal.code if entry.refusal else "" for entry in found.entries]
    assert codes == ["", "no_model", "no_type", "no_type", "short", "bad_amount", "no_amount"]
    assert found.total == 6
    short = quotes.facts(found.refusals[3])
    assert (short["stock"], short["asked"], short["unit"]) == (16384, 16385, "Mi")


@pytest.mark.usefixtures("priced")
def test_against_one_cluster() -> None:
    assert not ask(("gpu", "A", 4)).refusals and not ask(("gpu", "A", 4), cluster_key="c2").refusals
    assert [one.code for one in ask(("gpu", "A", 1), cluster_key="c1").refusals] == ["short"]


@pytest.mark.parametrize(("change", "field"), [
    ({"resources": "x"}, "resources"), ({"resources": []}, "resources"), ({"resources": [1]}, r"resources\[0\]"),
    ({"resources": [{}] * 1001}, "resources"), ({"duration": 0}, "duration"), ({"duration_unit": "年"}, "duration_unit"),
])
def test_what_is_no_quote(change: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid, match=f"^{field}"):
        quotes.quote(CENTRE, **{"resources": [{}], "duration": 1, "duration_unit": "小时", **change})


# fitting


@pytest.mark.usefixtures("priced")
def test_books_first_then_nodes() -> None:
    asked: list[list[str]] = []

    def live(wanted: Any, labels: Any) -> dict[str, Refusal]:
        asked.append([product.id for product in wanted])
        return fitting.live(lambda: [NodeFree("n", 4000, 4096)])(wanted, labels)

    def unfit(**products: int) -> fitting.Unfit:
        wanted = fitting.products({key: [{"type": "cpu", "model": "X", "amount": much}] for key, much in products.items()})
        return fitting.unfit(CENTRE, "c1", wanted, ask=live)

    found = unfit(c=9, a=4, b=8)
    assert (found.ids, found.reason) == (("c", "b"), "dynamic") and {key: one.code for key, one in found.why.items()} == {
        "c": "short", "b": "no_node"}
    assert (unfit(c=9, a=4).ids, unfit(c=9, a=4).reason) == (("c",), "static")
    assert (unfit(a=4).ids, unfit(a=4).reason) == ((), "")
    asked.clear()
    assert unfit(c=9).reason == "static" and asked == [], "what the books refuse is not asked of the cluster"


def test_products_survive_the_way_to_the_centre() -> None:
    needs = [{"type": "cpu", "model": "X", "amount": "1500m"}, {"type": "memory", "model": "M", "amount": 3}]
    wanted = fitting.products({"a": needs})
    assert fitting.products(json.dumps(fitting.as_resources(wanted))) == wanted


def test_recount_reads_hosts_and_instances(sqlite_database: Database) -> None:
    check: Callable[[], list[parts.Difference]] = lambda: parts.recount(CENTRE, actor="ann")  # noqa: E731
    assert check() == []
    host = {"key": "h", "node_id": 1, "centre_key": CENTRE, "name": "h", "cluster_key": "c1", "ip": "10.0.0.1", "cpu_model": "X",
            "cpu_stock": 4, "created_at": 1.0, "updated_at": 1.0}
    instance = {"key": "i", "centre_key": CENTRE, "cluster_key": "c1", "engine": "Job", "state": "applied", "spec": "{}",
                "amounts": '[["cpu", "X", 1000]]', "namespace": "n", "account": "a", "controller": "c", "service": "s",
                "not_before": 0.0, "created_at": 1.0, "updated_at": 1.0}
    for table, row in (("centre_host", host), ("instance", instance)):
        sql = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
        write(lambda tx, sql=sql, row=row: tx.run(sql, tuple(row.values())))
    assert check() == [parts.Difference("cpu", "X", "c1", (0, 4000), (0, 1000))]
    assert check() == []
