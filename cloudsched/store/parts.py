"""How are parts and their books kept? Look up, price, and guarded changes of stock and consumption.

Every change of a book first takes the lock that orders events: whoever holds a book's row has that lock already, so two
transactions that touch the same books in another order cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from cloudsched.domain.entities import columns
from cloudsched.domain.stock import Book, Key, Part
from cloudsched.store.db import EVENT_LOCK_KEY, Row, Tx, read

COLUMNS = columns(Part)


def lock(tx: Tx) -> None:
    """No book changes but ours until this transaction ends (SQLite has one writer anyway)."""
    if tx.pg:
        tx.run("SELECT pg_advisory_xact_lock(?)", (EVENT_LOCK_KEY,))


# parts


def insert(tx: Tx, values: Mapping[str, Any]) -> int | None:
    """A new part with its first price, if `unit_price` says one; its id, or None when the centre has that type and model."""
    names = tuple(values)
    number = tx.value(f"INSERT INTO part ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
                      "ON CONFLICT DO NOTHING RETURNING id", tuple(values.values()))
    if number is not None and values.get("unit_price"):
        add_price(tx, int(number), at=values["created_at"])
    return None if number is None else int(number)


def set_price(tx: Tx, number: int, unit_price: str, *, at: float, **units: str) -> None:
    """What a part costs from now on; `units`: columns of what the price is of (resource_unit, charge_unit, account_unit)."""
    values = {"unit_price": unit_price, **units, "updated_at": at}
    tx.run(f"UPDATE part SET {', '.join(f'{name} = ?' for name in values)} WHERE id = ?", (*values.values(), number))
    add_price(tx, number, at=at)


def add_price(tx: Tx, number: int, *, at: float) -> None:
    """Write a part's price of now into its history."""
    tx.run("INSERT INTO part_price (centre, type, model, at, unit_price, resource_unit, charge_unit, account_unit) "
           "SELECT centre, type, model, ?, unit_price, resource_unit, charge_unit, account_unit FROM part WHERE id = ? "
           "ON CONFLICT (centre, type, model, at) DO UPDATE SET unit_price = excluded.unit_price, "
           "resource_unit = excluded.resource_unit, charge_unit = excluded.charge_unit, account_unit = excluded.account_unit",
           (at, number))


def delete(tx: Tx, number: int) -> bool:
    """Forget a part and its books; False (and nothing is done) while a book of it has stock or consumption."""
    lock(tx)
    if tx.value("SELECT count(*) FROM part_stock WHERE part_id = ? AND (stock > 0 OR consumed > 0)", (number,)):
        return False
    tx.run("DELETE FROM part_stock WHERE part_id = ?", (number,))
    tx.run("DELETE FROM part WHERE id = ?", (number,))
    return True


def touch(tx: Tx, numbers: Iterable[int], *, at: float) -> None:
    """The stock of these parts was changed now."""
    tx.many("UPDATE part SET updated_at = ? WHERE id = ?", [(at, number) for number in numbers])


def by_key(key: str) -> Part | None:
    """One part by the id people know."""
    row = read().one(f"SELECT {COLUMNS} FROM part WHERE key = ?", (key,))
    return Part(*row) if row else None


def by_model(centre: str, kind: str, model: str) -> Part | None:
    """The part of that type and model in a centre."""
    row = read().one(f"SELECT {COLUMNS} FROM part WHERE centre = ? AND type = ? AND model = ?", (centre, kind, model))
    return Part(*row) if row else None


def of_centre(centre: str) -> list[Part]:
    """All parts of a centre by type and model."""
    return [Part(*row) for row in read().all(f"SELECT {COLUMNS} FROM part WHERE centre = ? ORDER BY type, model", (centre,))]


def ids(tx: Tx, centre: str, keys: Iterable[Key]) -> dict[Key, int]:
    """(type, model) -> id, for those the centre has."""
    wanted = set(keys)
    if not wanted:
        return {}
    models = sorted({model for _, model in wanted})
    found: dict[Key, int] = {}
    for start in range(0, len(models), 500):
        some = models[start:start + 500]
        rows = tx.all(f"SELECT type, model, id FROM part WHERE centre = ? AND model IN ({', '.join('?' * len(some))})",
                      (centre, *some))
        found.update({(row[0], row[1]): row[2] for row in rows if (row[0], row[1]) in wanted})
    return found


# books

_BOOKS = ("SELECT s.part_id, s.cluster_key, COALESCE(c.name, ''), s.stock, s.by_hand, s.consumed FROM part_stock s "
          "JOIN part p ON p.id = s.part_id LEFT JOIN cluster c ON c.key = s.cluster_key")

# An empty book of a cluster that is gone says nothing any more.
_SHOWN = "s.stock > 0 OR s.consumed > 0 OR COALESCE(c.state, 'terminated') NOT IN ('terminated', 'failed')"


def books(centre: str) -> dict[int, list[Book]]:
    """part -> its books in the order of clusters, with the clusters' names."""
    found: dict[int, list[Book]] = {}
    for row in read().all(f"{_BOOKS} WHERE p.centre = ? AND ({_SHOWN}) ORDER BY s.part_id, s.cluster_key", (centre,)):
        found.setdefault(row[0], []).append(Book(*row))
    return found


def free(*, centre: str | None = None, cluster: str | None = None, kind: str | None = None) -> dict[Key, int]:
    """(type, model) -> base units free, over a centre, a cluster, or everything."""
    given = [(column, value) for column, value in (("p.centre", centre), ("s.cluster_key", cluster), ("p.type", kind))
             if value is not None]
    where = " AND ".join(f"{column} = ?" for column, _ in given) or "1 = 1"
    rows = read().all("SELECT p.type, p.model, SUM(s.stock - s.consumed) FROM part_stock s JOIN part p ON p.id = s.part_id "
                      f"WHERE {where} GROUP BY p.type, p.model ORDER BY p.type, p.model", [value for _, value in given])
    return {(row[0], row[1]): int(row[2]) for row in rows}


def book_rows(tx: Tx, centre: str) -> list[Row]:
    """(type, model, cluster_key, stock, by_hand, consumed) of a centre."""
    return tx.all("SELECT p.type, p.model, s.cluster_key, s.stock, s.by_hand, s.consumed FROM part_stock s "
                  "JOIN part p ON p.id = s.part_id WHERE p.centre = ?", (centre,))


_HOST = ("cluster_key", "cpu_model", "cpu_stock", "memory_model", "memory_stock", "sysdisk_stock", "datadisk_stock", "gpu_model",
         "gpu_stock")


def host_rows(tx: Tx, centre: str) -> Iterator[dict[str, Any]]:
    """Where the hosts of a centre are and what they hold."""
    rows = tx.all(f"SELECT {', '.join(_HOST)} FROM centre_host WHERE centre_key = ? AND removed_at IS NULL", (centre,))
    return (dict(zip(_HOST, row, strict=True)) for row in rows)


def instance_rows(tx: Tx, centre: str) -> list[Row]:
    """(cluster key, amounts as JSON) of the instances of a centre that hold something."""
    return tx.all("SELECT cluster_key, amounts FROM instance WHERE centre_key = ? AND amounts <> '[]'", (centre,))


def open_books(tx: Tx, rows: Sequence[tuple[int, str]]) -> None:
    """Make the books (part, cluster) that are missing."""
    tx.many("INSERT INTO part_stock (part_id, cluster_key, stock, by_hand, consumed) VALUES (?, ?, 0, 0, 0) "
            "ON CONFLICT DO NOTHING", rows)


def add_stock(tx: Tx, part: int, cluster_key: str, amount: int, *, by_hand: bool = False) -> bool:
    """Change a book's stock; False when it would fall below what is in use, or below what was added by hand."""
    hand = amount if by_hand else 0
    sql = ("UPDATE part_stock SET stock = stock + ?, by_hand = by_hand + ? WHERE part_id = ? AND cluster_key = ? "
           "AND stock + ? >= consumed AND by_hand + ? >= 0 AND stock + ? >= by_hand + ?")
    return bool(tx.run(sql, (amount, hand, part, cluster_key, amount, hand, amount, hand)).rowcount == 1)


def consume(tx: Tx, part: int, cluster_key: str, amount: int) -> bool:
    """Take (or, negative, give back) so much of a book; False when that much is not free, or was not taken."""
    sql = ("UPDATE part_stock SET consumed = consumed + ? WHERE part_id = ? AND cluster_key = ? "
           "AND consumed + ? <= stock AND consumed + ? >= 0")
    return bool(tx.run(sql, (amount, part, cluster_key, amount, amount)).rowcount == 1)


def book(tx: Tx, part: int, cluster_key: str) -> tuple[int, int, int]:
    """(stock, by_hand, consumed) of one book; zeros when there is none."""
    row = tx.one("SELECT stock, by_hand, consumed FROM part_stock WHERE part_id = ? AND cluster_key = ?", (part, cluster_key))
    return (int(row[0]), int(row[1]), int(row[2])) if row else (0, 0, 0)


def set_book(tx: Tx, part: int, cluster_key: str, *, stock: int, consumed: int) -> None:
    """Set a book to what was counted."""
    tx.run("UPDATE part_stock SET stock = ?, consumed = ? WHERE part_id = ? AND cluster_key = ?",
           (stock, consumed, part, cluster_key))
