"""What can be done with the parts of a compute centre? Prices, stock of hosts, consumption of instances, and the count of it all.

`move_host`, `consume` and `release` are called inside the transaction of whoever adds a host or sells an instance: the books and
that row are kept together, or neither is. Amounts are base units (domain/stock.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from cloudsched import clock
from cloudsched.domain import pricing
from cloudsched.domain.stock import (
    HELD,
    Amount,
    Book,
    Key,
    Part,
    StockInUse,
    StockShort,
    merged,
    of_host,
    of_json,
    shown,
    to_base,
)
from cloudsched.domain.stock import a_type as known_type
from cloudsched.domain.stock import factor as unit_factor
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services.centre.centres import attempt, new_key, refused
from cloudsched.store import centres, clusters, events
from cloudsched.store import parts as store
from cloudsched.store.centres import Centre
from cloudsched.store.db import Tx, write

__all__ = ["Amount", "Difference", "Listed", "PartExists", "StockInUse", "StockShort", "add", "cluster_of", "consume", "find",
           "free_gpus", "listed", "move_host", "rebuild", "recount", "release", "remove", "set_price"]

Place = tuple[str, Sequence[Amount]]
NO_PRICE, CHARGE_UNIT, ACCOUNT_UNIT = "", "小时", "元"  # no price is not a price of 0
MOST_MODEL_CHARS = 200


class PartExists(Conflict):
    """The centre has that type and model already."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A part with its books; `stock` and `consumed` are the sums over them, in base units."""

    part: Part
    books: tuple[Book, ...]
    stock: int = field(init=False)
    consumed: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stock", sum(book.stock for book in self.books))
        object.__setattr__(self, "consumed", sum(book.consumed for book in self.books))


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a book was not what was counted, in base units. `oversold`: so much is in use that no host has."""

    type: str
    model: str
    cluster: str
    stock: tuple[int, int]
    consumed: tuple[int, int]
    oversold: int = 0


# parts and prices


def add(centre: str, *, kind: str, model: str, unit_price: Any, resource_unit: str = "", charge_unit: str = CHARGE_UNIT,
        account_unit: str = ACCOUNT_UNIT, stock: Any = 0, cluster_key: str = "", add_stock: bool = False, actor: str,
        dry_run: bool = False) -> Part:
    """A new part, with stock that came with no host in a cluster's book; `add_stock`: of one that exists only the stock is added,
    and its price set where it had none; another price than it has is refused (Conflict).

    `stock` is in `resource_unit` (when that is not given, in the unit of an existing part), and may be negative with
    `add_stock`. Raises Invalid naming the field, PartExists, StockInUse.
    """
    values = _checked(kind=kind, model=model, unit_price=unit_price, resource_unit=resource_unit, charge_unit=charge_unit,
                      account_unit=account_unit)
    return attempt(lambda tx: _add(tx, centre, values, stock=stock, unit=resource_unit, cluster_key=cluster_key,
                                   add_stock=add_stock, actor=actor), dry_run=dry_run)


def set_price(centre: str, *, key: str = "", kind: str = "", model: str = "", unit_price: Any, actor: str,
              dry_run: bool = False) -> Part:
    """Change what a part costs from now on; nothing else of it can change. Raises Invalid, NotFound."""
    price = pricing.a_price(unit_price)

    def change(tx: Tx) -> Part:
        part, at = find(centre, key=key, kind=kind, model=model), clock.now()
        store.set_price(tx, part.id, price, at=at)
        events.append(tx, "part.price", ("part", part.id), at=at, actor=actor, **_named(part), unit_price=price,
                      before=part.unit_price)
        return find(centre, key=part.key)

    return attempt(change, dry_run=dry_run)


def remove(centre: str, key: str, *, actor: str, dry_run: bool = False) -> Part:
    """Forget a part. Raises NotFound, Conflict while there is stock or consumption of it."""

    def forget(tx: Tx) -> Part:
        part = find(centre, key=key)
        if not store.delete(tx, part.id):
            there = Listed(part, tuple(store.books(centre).get(part.id, ())))
            facts = {"type": part.type, "model": part.model, "stock": shown(part.type, there.stock, part.resource_unit),
                     "consumed": shown(part.type, there.consumed, part.resource_unit)}
            raise refused(Conflict, "part_in_use", "{type} {model} has stock {stock} and consumption {consumed}".format(**facts),
                          **facts)
        events.append(tx, "part.delete", ("part", part.id), at=clock.now(), actor=actor, **_named(part))
        return part

    return attempt(forget, dry_run=dry_run)


def find(centre: str, *, key: str = "", kind: str = "", model: str = "") -> Part:
    """A part of a centre by its key, or by type and model. Raises NotFound."""
    part = store.by_key(key) if key else store.by_model(centre, kind, model)
    if part is None or part.centre != centre:
        name = key or f"{kind} {model}"
        raise refused(NotFound, "part_missing", f"the centre has no part {name}", part=name)
    if key and (kind or model) and (kind or part.type, model or part.model) != (part.type, part.model):
        raise Invalid.at("id", f"part {key} is {part.type} {part.model}, not {kind} {model}".strip())
    return part


def listed(centre: str) -> list[Listed]:
    """All parts of a centre by type (cpu, disk, gpu, memory) and model, with their books."""
    books = store.books(centre)
    return [Listed(part, tuple(books.get(part.id, ()))) for part in store.of_centre(centre)]


def free_gpus(*, centre: str | None = None, cluster: str | None = None) -> dict[str, int]:
    """model -> free cards over a centre, a cluster, or everything."""
    return {model: cards for (_, model), cards in store.free(centre=centre, cluster=cluster, kind="gpu").items()}


def cluster_of(centre: Centre | None, key: str) -> str:
    """A cluster's key, checked to be one of the centre; an empty key stays empty. Raises NotFound."""
    if key:
        cluster = clusters.by_key(key)
        if cluster is None or (centre is not None and cluster.cloud_id != centre.cloud_id):
            raise refused(NotFound, "no_cluster_here", f"there is no cluster {key} in the centre", id=key)
    return key


# books, inside the caller's transaction


def move_host(tx: Tx, centre: str, *, before: Place | None, after: Place | None, actor: str) -> None:
    """Move a host's parts: (cluster key, amounts) before and after; None where it is not. Parts that are missing are made.

    Covers adding, changing, removing a host and its going to another cluster. Raises StockInUse (a Conflict) naming part and
    cluster when more would be in use than is left.
    """
    delta: Counter[tuple[Key, str]] = Counter()
    for place, sign in ((before, -1), (after, 1)):
        if place is not None:
            for key, amount in merged(place[1]).items():
                delta[key, place[0]] += sign * amount
    changes = [(key, cluster, amount) for (key, cluster), amount in sorted(delta.items()) if amount]
    if not changes:
        return
    store.lock(tx)
    parts = _made(tx, centre, {key for key, _, _ in changes}, actor=actor)
    store.open_books(tx, [(parts[key], cluster) for key, cluster, _ in changes])
    for key, cluster, amount in changes:
        if not store.add_stock(tx, parts[key], cluster, amount):
            stock, by_hand, consumed = store.book(tx, parts[key], cluster)
            raise StockInUse(Amount(*key, -amount), cluster=cluster, free=stock - max(consumed, by_hand))
    _note(tx, "part.stock", centre, parts, changes, actor=actor)


def consume(tx: Tx, centre: str, cluster_key: str, wanted: Iterable[Amount], *, actor: str) -> None:
    """Take what an instance uses out of what is free in a cluster, all of it or nothing.

    Raises StockShort (a Conflict) with type, model, stock (free) and asked; the caller's transaction is then rolled back.
    """
    _use(tx, centre, cluster_key, merged(wanted), actor=actor, sign=1)


def release(tx: Tx, centre: str, cluster_key: str, held: Iterable[Amount], *, actor: str) -> None:
    """Give back what `consume` took. Raises Conflict when that much was not taken (the books are then wrong: rebuild)."""
    _use(tx, centre, cluster_key, merged(held), actor=actor, sign=-1)


# counting again


def rebuild(tx: Tx, centre: str, *, hosts: Iterable[Mapping[str, Any]], instances: Iterable[tuple[str, str | Sequence[Any]]],
            actor: str, dry_run: bool = False) -> list[Difference]:
    """Set a centre's books to what its hosts have and its instances use; returns where they were not so.

    `hosts`: rows with `cluster_key` and the columns of domain/stock.of_host. `instances`: (cluster key, amounts as JSON text or
    [[type, model, base units], ...]) of those that use something. Both are read in this transaction, after `store.lock`.
    Stock that came with no host stays. Where more is in use than there is, the stock is what is in use: nothing more is sold.
    """
    store.lock(tx)
    stock, used = _counted(hosts, instances)
    kept = {((row[0], row[1]), row[2]): (row[3], row[4], row[5]) for row in store.book_rows(tx, centre)}
    found: list[tuple[Key, str, Difference, tuple[int, int]]] = []
    for key, cluster in sorted({*kept, *stock, *used}):
        was_stock, by_hand, was_used = kept.get((key, cluster), (0, 0, 0))
        have, use = stock[key, cluster] + by_hand, used[key, cluster]
        if (have, use) != (was_stock, was_used):
            difference = Difference(*key, cluster, (was_stock, have), (was_used, use), max(0, use - have))
            found.append((key, cluster, difference, (max(have, use), use)))
    if found and not dry_run:
        _set_books(tx, centre, found, actor=actor)
    return [difference for _, _, difference, _ in found]


def recount(centre: str, *, actor: str, dry_run: bool = False) -> list[Difference]:
    """`rebuild` from the hosts and instances that the tables have now, in a transaction of its own."""

    def count(tx: Tx) -> list[Difference]:
        store.lock(tx)
        return rebuild(tx, centre, hosts=store.host_rows(tx, centre), instances=store.instance_rows(tx, centre), actor=actor,
                       dry_run=dry_run)

    return write(count)


def _checked(*, kind: str, model: str, unit_price: Any, resource_unit: str, charge_unit: str,
             account_unit: str) -> dict[str, str]:
    known_type(kind)
    if not model.strip() or len(model) > MOST_MODEL_CHARS or not model.isprintable():
        raise Invalid.at("model", f"{model[:40]!r} is no model", f"1 to {MOST_MODEL_CHARS} printable characters")
    unit = resource_unit or HELD[kind]
    unit_factor(kind, unit)
    charge_unit = pricing.one_of(pricing.CHARGE_S, charge_unit, "charge_unit")
    account_unit = pricing.one_of(pricing.YUAN, account_unit, "account_unit")
    return {"type": kind, "model": model.strip(), "unit_price": pricing.a_price(unit_price), "resource_unit": unit,
            "charge_unit": charge_unit, "account_unit": account_unit}


def _add(tx: Tx, centre: str, values: Mapping[str, str], *, stock: Any, unit: str, cluster_key: str, add_stock: bool,
         actor: str) -> Part:
    store.lock(tx)
    at, kind = clock.now(), values["type"]
    number = _insert(tx, centre, values, at=at)
    if number is None and not add_stock:
        raise refused(PartExists, "part_exists", f"the centre has {kind} {values['model']} already")
    part = find(centre, kind=kind, model=values["model"])
    if number is None:
        _check_price(tx, part, values, at=at, actor=actor)
    amount = to_base(kind, stock, unit or part.resource_unit, field="stock", signed=add_stock)
    store.open_books(tx, [(part.id, cluster_key)])
    if amount and not store.add_stock(tx, part.id, cluster_key, amount, by_hand=True):
        total, by_hand, consumed = store.book(tx, part.id, cluster_key)
        raise StockInUse(Amount(kind, part.model, -amount), cluster=cluster_key, free=min(by_hand, total - consumed))
    if number is None:
        store.touch(tx, [part.id], at=at)
    told = {name: values[name] for name in ("unit_price", "resource_unit", "charge_unit", "account_unit")} if number else {}
    events.append(tx, "part.add" if number else "part.stock", ("part", part.id), at=at, actor=actor, **_named(part), **told,
                  cluster=cluster_key, amount=amount)
    return find(centre, key=part.key)


def _check_price(tx: Tx, part: Part, values: Mapping[str, str], *, at: float, actor: str) -> None:
    """More of a part that exists, with a price: the first one it has, or the one that it has."""
    price = values["unit_price"]
    if part.unit_price == NO_PRICE:
        units = {name: values[name] for name in ("resource_unit", "charge_unit", "account_unit")}
        store.set_price(tx, part.id, price, at=at, **units)
        events.append(tx, "part.price", ("part", part.id), at=at, actor=actor, **_named(part), unit_price=price, before=NO_PRICE)
    elif Decimal(price) != Decimal(part.unit_price):
        raise refused(Conflict, "part_price_differs", f"{part.type} {part.model} costs {part.unit_price}, not {price}: "
                      "its price is changed by an update", type=part.type, model=part.model, price=part.unit_price, given=price)


def _insert(tx: Tx, centre: str, values: Mapping[str, str], *, at: float) -> int | None:
    return store.insert(tx, {"key": new_key(), "centre": centre, **values, "created_at": at, "updated_at": at})


def _made(tx: Tx, centre: str, keys: Iterable[Key], *, actor: str) -> dict[Key, int]:
    """Ids of parts; those the centre has not are made, at no price."""
    wanted = set(keys)
    found = store.ids(tx, centre, wanted)
    at = clock.now()
    for kind, model in sorted(wanted - found.keys()):
        values = {"type": known_type(kind), "model": model, "unit_price": NO_PRICE, "resource_unit": HELD[kind],
                  "charge_unit": CHARGE_UNIT, "account_unit": ACCOUNT_UNIT}
        number = _insert(tx, centre, values, at=at)
        assert number is not None, "made under the lock"
        found[kind, model] = number
        events.append(tx, "part.add", ("part", number), at=at, actor=actor, org=_org(centre), centre=centre, type=kind,
                      model=model, unit_price=NO_PRICE)
    return found


def _use(tx: Tx, centre: str, cluster_key: str, amounts: Mapping[Key, int], *, actor: str, sign: int) -> None:
    if not amounts:
        return
    store.lock(tx)
    parts = store.ids(tx, centre, amounts)
    for key, amount in amounts.items():
        if amount < 0:
            raise Invalid.at("amount", f"{key[0]} {key[1]}: {amount} is negative", "0 or more")
        if key not in parts or not store.consume(tx, parts[key], cluster_key, sign * amount):
            stock, _, consumed = store.book(tx, parts.get(key, 0), cluster_key)
            kind = StockShort if sign > 0 else StockInUse
            raise kind(Amount(*key, amount), cluster=cluster_key, free=stock - consumed if sign > 0 else consumed)
    changes = [(key, cluster_key, amount) for key, amount in amounts.items()]
    _note(tx, "part.consume" if sign > 0 else "part.release", centre, parts, changes, actor=actor)


def _note(tx: Tx, kind: str, centre: str, parts: Mapping[Key, int], changes: Sequence[tuple[Key, str, int]], *,
          actor: str) -> None:
    at, org = clock.now(), _org(centre)
    rows = [(at, kind, "part", parts[key], actor,
             json.dumps({"org": org, "centre": centre, "type": key[0], "model": key[1], "cluster": cluster, "amount": amount}))
            for key, cluster, amount in changes]
    if kind == "part.stock":
        store.touch(tx, sorted({row[3] for row in rows}), at=at)
    events.append_many(tx, rows)


def _counted(hosts: Iterable[Mapping[str, Any]], instances: Iterable[tuple[str, str | Sequence[Any]]],
             ) -> tuple[Counter[tuple[Key, str]], Counter[tuple[Key, str]]]:
    stock: Counter[tuple[Key, str]] = Counter()
    used: Counter[tuple[Key, str]] = Counter()
    for host in hosts:
        for one in of_host(host):
            stock[one.key, host["cluster_key"]] += one.amount
    for cluster, amounts in instances:
        for one in of_json(amounts):
            used[one.key, cluster] += one.amount
    return stock, used


def _set_books(tx: Tx, centre: str, found: Sequence[tuple[Key, str, Difference, tuple[int, int]]], *, actor: str) -> None:
    parts = _made(tx, centre, {key for key, _, _, _ in found}, actor=actor)
    store.open_books(tx, [(parts[key], cluster) for key, cluster, _, _ in found])
    at = clock.now()
    for key, cluster, difference, (stock, consumed) in found:
        store.set_book(tx, parts[key], cluster, stock=stock, consumed=consumed)
        events.append(tx, "part.rebuild", ("part", parts[key]), at=at, actor=actor, org=_org(centre), centre=centre,
                      **asdict(difference))


def _named(part: Part) -> dict[str, str]:
    return {"org": _org(part.centre), "centre": part.centre, "type": part.type, "model": part.model}


def _org(centre: str) -> str:
    """Whose the centre is: the audit shows it to them."""
    found = centres.centre(centre, removed=True)
    return found.org if found else ""


