"""How is it kept what was used and what may be spent? Periods to be metered, metered hours, months, budgets.

An hour is metered once: the mark that says how far it has come moves in the same transaction as the rows are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cloudsched.domain.entities import columns
from cloudsched.domain.pricing import Price
from cloudsched.store.db import Row, Tx, read

MARK, LOOKED = "metered_until", "budgets_looked_at"
History = dict[tuple[str, str, str], list[tuple[float, Price]]]


@dataclass(frozen=True, slots=True)
class Budget:
    """What an organisation may spend in a month (store.tables_parts.Budget says what the columns mean)."""

    org: str
    amount_nano: int
    warn_percent: int
    hard: int
    stop: int
    warned: str
    spent: str
    actor: str
    updated_at: float


@dataclass(frozen=True, slots=True)
class Used:
    """What an instance used in one hour; sums are base units times seconds."""

    hour: int
    instance: str
    org: str
    centre: str
    cluster_key: str
    seconds: float
    cpu_s: int
    memory_s: int
    disk_s: int
    gpu_s: int
    cost_nano: int
    parts: str


BUDGET, USED = columns(Budget), columns(Used)


# what is to be metered

_PERIOD = "instance_key, org, centre_key, cluster_key, began_at, ended_at, amounts"


def periods(tx: Tx, since: float, until: float, *, org: str | None = None) -> list[Row]:
    """(instance, org, centre, cluster, began_at, ended_at, amounts) of all periods that touch a time, by instance and begin."""
    mine, args = ("", ()) if org is None else (" AND org = ?", (org,))  # type: tuple[str, tuple[str, ...]]
    return tx.all(f"SELECT {_PERIOD} FROM instance_period WHERE (ended_at IS NULL OR ended_at > ?) AND began_at < ?{mine} "
                  "ORDER BY instance_key, began_at", (since, until, *args))


def first_period(tx: Tx, since: float | None = None) -> float | None:
    """When the first period begins that has not ended by `since`."""
    where, args = ("", ()) if since is None else (" WHERE ended_at IS NULL OR ended_at > ?", (since,))
    value = tx.value(f"SELECT min(began_at) FROM instance_period{where}", args)
    return None if value is None else float(value)


def prices(tx: Tx) -> History:
    """(centre, type, model) -> its prices (from when, price), oldest first."""
    found: History = {}
    for row in tx.all("SELECT centre, type, model, at, unit_price, resource_unit, charge_unit, account_unit FROM part_price "
                      "ORDER BY centre, type, model, at"):
        found.setdefault((row[0], row[1], row[2]), []).append((row[3], Price(Decimal(row[4]), row[5], row[6], row[7])))
    return found


# how far it has come


def counter(tx: Tx, name: str) -> int | None:
    """A kept number; None when it was never set."""
    value = tx.value("SELECT value FROM counter WHERE name = ?", (name,))
    return None if value is None else int(value)


def hold_mark(tx: Tx) -> None:
    """Nothing is metered until this transaction ends: the metered hours and what came after them are read as one."""
    if tx.pg:
        tx.run("SELECT value FROM counter WHERE name = ? FOR SHARE", (MARK,))


def set_counter(tx: Tx, name: str, value: int, *, expected: int | None) -> bool:
    """Move a kept number on; False when it is not `expected` any more: somebody else did it."""
    if expected is None:
        done = tx.run("INSERT INTO counter (name, value) VALUES (?, ?) ON CONFLICT DO NOTHING", (name, value))
    else:
        done = tx.run("UPDATE counter SET value = ? WHERE name = ? AND value = ?", (value, name, expected))
    return bool(done.rowcount == 1)


def insert(tx: Tx, rows: Sequence[Used]) -> None:
    """Write metered hours. An hour of an instance that is there already is an error."""
    marks = ", ".join("?" * len(USED.split(",")))
    names = USED.split(", ")
    tx.many(f"INSERT INTO usage_hour ({USED}) VALUES ({marks})", [tuple(getattr(row, name) for name in names) for row in rows])


def add_month(tx: Tx, month: str, costs: Mapping[str, int]) -> None:
    """Add to what organisations spent in a month."""
    tx.many("INSERT INTO usage_month (org, month, cost_nano) VALUES (?, ?, ?) ON CONFLICT (org, month) DO UPDATE SET "
            "cost_nano = usage_month.cost_nano + excluded.cost_nano",
            [(org, month, cost) for org, cost in sorted(costs.items())])


def month_cost(tx: Tx, org: str, month: str) -> int:
    """What the metered hours of an organisation cost in a month, in billionths of 元."""
    return int(tx.value("SELECT cost_nano FROM usage_month WHERE org = ? AND month = ?", (org, month)) or 0)


# what was used

# How rows may be put together: by -> (begin of the time or NULL, which other columns tell them apart).
GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "hour": ("hour", ("instance", "org", "centre", "cluster_key")),
    "day": ("hour / 86400 * 86400", ("instance", "org", "centre", "cluster_key")),
    "instance": ("NULL", ("instance", "org", "centre", "cluster_key")),
    "cluster": ("NULL", ("org", "centre", "cluster_key")),
    "org": ("NULL", ("org",)),
}
_SUMS = ("SUM(seconds), SUM(cpu_s), SUM(memory_s), SUM(disk_s), SUM(gpu_s), SUM(cost_nano), "
         "SUM(CASE WHEN parts LIKE ? THEN 1 ELSE 0 END)")
_UNPRICED = "%, true]%"  # how an entry of `parts` ends whose part had no price


def usage(by: str, *, where: Mapping[str, Any], since: int, until: int, limit: int | None = None, offset: int = 0,
          ) -> list[dict[str, Any]]:
    """Sums of metered hours from `since` until before `until`: `at` (where time tells them apart), who and where, `seconds`,
    `cpu_s`, `memory_s`, `disk_s`, `gpu_s`, `cost_nano`, `unpriced` (in how many hours something had no price)."""
    at, others = GROUPS[by]
    group = ", ".join([*([at] if at != "NULL" else []), *others])
    condition, args = _where(where, since, until)
    sql = f"SELECT {at}, {', '.join(others)}, {_SUMS} FROM usage_hour WHERE {condition} GROUP BY {group} ORDER BY {group}"
    if limit is not None:
        sql += f" LIMIT {int(limit)} OFFSET {int(offset)}"
    names = ("at", *others, "seconds", "cpu_s", "memory_s", "disk_s", "gpu_s", "cost_nano", "unpriced")
    whole = names[-6:]
    rows = [dict(zip(names, row, strict=True)) for row in read().all(sql, [_UNPRICED, *args])]
    return [{**row, "seconds": float(row["seconds"]), **{name: int(row[name]) for name in whole}} for row in rows]


def usage_total(by: str, *, where: Mapping[str, Any], since: int, until: int) -> tuple[int, int]:
    """(how many rows `usage` has, billionths of 元 over all of them)."""
    at, others = GROUPS[by]
    group = ", ".join([*([at] if at != "NULL" else []), *others])
    condition, args = _where(where, since, until)
    row = read().one(f"SELECT count(*), COALESCE(SUM(cost), 0) FROM (SELECT SUM(cost_nano) AS cost FROM usage_hour "
                     f"WHERE {condition} GROUP BY {group}) AS grouped", args)
    return (int(row[0]), int(row[1])) if row else (0, 0)


def hours(*, where: Mapping[str, Any], since: int, until: int, after: tuple[int, str] = (-1, ""), limit: int = 1000,
          ) -> list[Used]:
    """Metered hours in the order of time and instances, after (hour, instance)."""
    condition, args = _where(where, since, until)
    return [Used(*row) for row in read().all(
        f"SELECT {USED} FROM usage_hour WHERE {condition} AND (hour > ? OR (hour = ? AND instance > ?)) "
        "ORDER BY hour, instance LIMIT ?", (*args, after[0], after[0], after[1], limit))]


def _where(equal: Mapping[str, Any], since: int, until: int) -> tuple[str, list[Any]]:
    given = {name: value for name, value in equal.items() if value is not None}
    assert given.keys() <= {"org", "instance", "centre", "cluster_key"}
    return (" AND ".join(["hour >= ?", "hour < ?", *(f"{name} = ?" for name in given)]), [since, until, *given.values()])


# budgets


def budget(org: str) -> Budget | None:
    """What an organisation may spend; None: it is not limited."""
    row = read().one(f"SELECT {BUDGET} FROM budget WHERE org = ?", (org,))
    return Budget(*row) if row else None


def budgets() -> list[Budget]:
    """All budgets by organisation."""
    return [Budget(*row) for row in read().all(f"SELECT {BUDGET} FROM budget ORDER BY org")]


def set_budget(tx: Tx, values: Mapping[str, Any]) -> None:
    """Set an organisation's budget; what was noted of this month is forgotten."""
    names = tuple(values)
    sets = ", ".join(f"{name} = excluded.{name}" for name in names if name != "org")
    tx.run(f"INSERT INTO budget ({', '.join(names)}) VALUES ({', '.join('?' * len(names))}) "
           f"ON CONFLICT (org) DO UPDATE SET {sets}, warned = '', spent = ''", tuple(values.values()))


def drop_budget(tx: Tx, org: str) -> bool:
    """The organisation is not limited any more; False when it was not."""
    return bool(tx.run("DELETE FROM budget WHERE org = ?", (org,)).rowcount == 1)


def note_budget(tx: Tx, org: str, column: str, month: str) -> bool:
    """Note `warned` or `spent` for a month; False when that is noted already."""
    assert column in ("warned", "spent")
    return bool(tx.run(f"UPDATE budget SET {column} = ? WHERE org = ? AND {column} <> ?", (month, org, month)).rowcount == 1)
