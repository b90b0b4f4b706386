"""What was used, what did it cost, and may an organisation go on spending? Hours are metered once, however late.

An instance's running periods are the truth: amounts times the seconds of the hour in which it ran, each second at the price of
its time. Months and hours are those of UTC. Money is kept in whole billionths of 元, rounded once per part, instance and hour.
"""

from __future__ import annotations

import csv
import io
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from cloudsched import clock
from cloudsched.domain import pricing
from cloudsched.domain.stock import TYPES, Amount, merged, of_json
from cloudsched.errors import Conflict, Invalid
from cloudsched.services.centre.centres import attempt, refused, wrong
from cloudsched.store import events
from cloudsched.store import metering as store
from cloudsched.store.db import Row, Tx, current, write
from cloudsched.store.metering import Budget, History, Used

log = logging.getLogger(__name__)

HOUR_S, DAY_S = 3600, 86400
# So long after its end an hour is metered: what began or ended within it is then written.
GRACE_S = 120
HOURS_PER_TICK = 24
LOOK_S = 60
EXPORT_ROWS = 200_000
GROUPS = tuple(store.GROUPS)
# Columns of sums: base units x seconds of each in one of these, times an hour.
_PER_HOUR = {"cpu": ("core_hours", 1000), "memory": ("gi_hours", 1024), "disk": ("gi_hours", 1), "gpu": ("card_hours", 1)}
_EXPORT = ("hour", "org", "instance", "centre", "cluster", "type", "model", "unit", "amount_hours", "cost_yuan", "unpriced")
_stops: list[Callable[[str], int]] = []


class BudgetSpent(Conflict):
    """The organisation's money of this month is spent."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one cycle did."""

    hours: int = 0
    rows: int = 0
    warned: tuple[str, ...] = ()
    spent: tuple[str, ...] = ()
    stopped: int = 0


@dataclass(frozen=True, slots=True)
class Spending:
    """An organisation's budget (None: not limited) and what it has spent this month, in billionths of 元."""

    org: str
    month: str
    spent_nano: int
    budget: Budget | None

    @property
    def over(self) -> bool:
        return self.budget is not None and self.spent_nano >= self.budget.amount_nano

    @property
    def to_warn(self) -> bool:
        return self.budget is not None and 100 * self.spent_nano >= self.budget.warn_percent * self.budget.amount_nano


def on_overspent(stop: Callable[[str], int]) -> None:
    """Say how the running instances of an organisation are stopped: called with it outside a transaction, returns how many."""
    if stop not in _stops:
        _stops.append(stop)


def tick() -> Ticked:
    """One cycle: meter the hours that are over, some at a time; once a minute look at the budgets."""
    hours = rows = 0
    while hours < HOURS_PER_TICK:
        done = write(_meter_next)
        if done is None:
            break
        hours, rows = hours + 1, rows + done
    if not write(_look_due):
        return Ticked(hours, rows)
    warned, spent, over = write(_note_budgets)
    return Ticked(hours, rows, warned, spent, sum(stop(org) for org in over for stop in _stops))


# budgets


def check_budget(tx: Tx, org: str, *, say: str = "budget_spent") -> None:
    """May an organisation start something new? Raises BudgetSpent, told by the text `say`, when its money of this month is spent
    and that is a stop."""
    if store.budget(org) is None:
        return
    store.hold_mark(tx)
    found = _spending(tx, org)
    if found.budget is not None and found.budget.hard and found.over:
        facts = {"org": org, "month": found.month, "amount": pricing.nano_text(found.budget.amount_nano),
                 "spent": pricing.nano_text(found.spent_nano)}
        raise refused(BudgetSpent, say,
                      "the budget of {org} for {month} is spent: {spent} of {amount} yuan".format(**facts), **facts)


def spending(org: str) -> Spending:
    """An organisation's budget and what it has spent this month: the metered hours, and what runs since the last of them."""
    with current().snapshot() as tx:
        return _spending(tx, org)


def set_budget(org: str, *, amount: Any = None, warn_percent: int | None = None, hard: bool | None = None,
               stop: bool | None = None, actor: str, dry_run: bool = False) -> Spending:
    """What an organisation may spend in a month: `amount` in 元, blank for no limit. What is None stays as it is.

    `warn_percent` (80 in a new one): from there on it is noted; `hard` (yes): beyond it nothing new is started; `stop` (no):
    what runs is stopped too. Raises Invalid naming the field.
    """
    if not org:
        raise Invalid.at("orgid", "is missing", "an organisation")
    if warn_percent is not None and not 1 <= warn_percent <= 100:
        raise Invalid.at("warn", f"{warn_percent} is out of range", "1 to 100 percent")
    blank = amount is not None and str(amount).strip() == ""
    nano = None if amount is None or blank else pricing.nano_of(amount, "amount")

    def change(tx: Tx) -> Spending:
        at = clock.now()
        if blank:
            store.drop_budget(tx, org)
            told: dict[str, Any] = {"amount": None}
        else:
            given = {"amount_nano": nano, "warn_percent": warn_percent, "hard": hard, "stop": stop}
            facts = _budget_facts(store.budget(org), given)
            store.set_budget(tx, {"org": org, **facts, "actor": actor, "updated_at": at})
            told = {"amount": pricing.nano_text(facts["amount_nano"]), "warn_percent": facts["warn_percent"],
                    "hard": bool(facts["hard"]), "stop": bool(facts["stop"])}
        events.append(tx, "budget.set", ("budget", 0), at=at, actor=actor, org=org, **told)
        return _spending(tx, org)

    return attempt(change, dry_run=dry_run)


def _budget_facts(known: Budget | None, given: Mapping[str, int | None]) -> dict[str, int]:
    """What was said of a budget, and what it has beside that. Raises Invalid."""
    new = {"warn_percent": 80, "hard": 1, "stop": 0}
    kept = {name: getattr(known, name) for name in given} if known is not None else new
    found = {name: value if value is not None else kept.get(name) for name, value in given.items()}
    if found["amount_nano"] is None:
        raise wrong("amount", "is missing", "missing")
    if found["stop"] and not found["hard"]:
        raise Invalid.at("stop", "what runs cannot be stopped while new instances are allowed", "stop=1 with hard=1")
    return {name: int(value) for name, value in found.items() if value is not None}


def budgets(org: str | None = None) -> list[Spending]:
    """Budgets and spending of one organisation, or of all that have a budget."""
    return [spending(org)] if org is not None else [spending(found.org) for found in store.budgets()]


# what was used


def usage(*, org: str | None, by: str, since: float | None = None, until: float | None = None, instance: str | None = None,
          centre: str | None = None, cluster: str | None = None, limit: int | None = None, offset: int = 0) -> dict[str, Any]:
    """Metered hours put together `by` hour, day, instance, cluster or org: `total` rows, `cost_nano` over all of them, `rows` of
    this page with `at` (epoch seconds; None where time does not tell them apart), who and where, `seconds`, `core_hours`,
    `memory_gi_hours`, `disk_gi_hours`, `gpu_hours`, `cost_nano`, and `unpriced`: in how many of the metered hours something had
    no price, so that the cost is not all of it. Without times: this month. Raises Invalid.
    """
    if by not in GROUPS:
        raise Invalid.at("by", f"{by!r} is not known", ", ".join(GROUPS))
    begin, end = _span(since, until)
    where = {"org": org, "instance": instance, "centre": centre, "cluster_key": cluster}
    total, cost = store.usage_total(by, where=where, since=begin, until=end)
    rows = store.usage(by, where=where, since=begin, until=end, limit=limit, offset=offset)
    return {"total": total, "cost_nano": cost, "rows": [_in_hours(row) for row in rows]}


def export(*, org: str | None, since: float | None = None, until: float | None = None, instance: str | None = None,
           centre: str | None = None, cluster: str | None = None) -> str:
    """Metered hours as CSV (RFC 4180), one line per part: hour, org, instance, centre, cluster, type, model, unit, amount_hours
    (exact to a millionth), cost_yuan (exact), unpriced (`yes` where the part had no price for some of it). Without times: this
    month. Raises Invalid when that is too much at once.
    """
    begin, end = _span(since, until)
    where = {"org": org, "instance": instance, "centre": centre, "cluster_key": cluster}
    total, _ = store.usage_total("hour", where=where, since=begin, until=end)
    if total > EXPORT_ROWS:
        raise Invalid.at("from", f"{total} hours of instances are too many for one export", f"a time with at most {EXPORT_ROWS}")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(_EXPORT)
    for row in _all_hours(where, begin, end):
        writer.writerows(_export_lines(row))
    return out.getvalue()


def _spending(tx: Tx, org: str) -> Spending:
    now = clock.now()
    since, prices = _unmetered_since(tx, now), store.prices(tx)
    running = sum(_cost(row, prices, since=since, until=now) for row in store.periods(tx, since, now, org=org))
    return Spending(org, _month(now), store.month_cost(tx, org, _month(now)) + running, store.budget(org))


def _meter_next(tx: Tx) -> int | None:
    """Meter the oldest hour that is over and was not; how many instances used something in it, None when there is none."""
    mark, last = store.counter(tx, store.MARK), _hour(clock.now() - GRACE_S)
    if mark is None:
        begins = store.first_period(tx)
        first = min(last, _hour(begins)) if begins is not None else last
        return 0 if store.set_counter(tx, store.MARK, first, expected=None) and first < last else None
    if mark >= last:
        return None
    rows = _metered_hour(tx, mark)
    following = mark + HOUR_S
    if not rows:
        # Nothing ran: go on where something does.
        begins = store.first_period(tx, since=following)
        following = max(following, min(last, _hour(begins) if begins is not None else last))
    if not store.set_counter(tx, store.MARK, following, expected=mark):
        return None
    store.insert(tx, rows)
    costs: Counter[str] = Counter()
    for row in rows:
        costs[row.org] += row.cost_nano
    store.add_month(tx, _month(mark), costs)
    return len(rows)


def _metered_hour(tx: Tx, hour: int) -> list[Used]:
    end = hour + HOUR_S
    by_instance: dict[str, list[Row]] = defaultdict(list)
    for row in store.periods(tx, hour, end):
        by_instance[row[0]].append(row)
    prices = store.prices(tx) if by_instance else {}
    found = (_used(rows, prices, hour=hour) for rows in by_instance.values())
    return [row for row in found if row.seconds > 0]


def _used(rows: Sequence[Row], prices: History, *, hour: int) -> Used:
    """One instance's periods within an hour as one row."""
    seconds = Fraction(0)
    amounts: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    costs: defaultdict[tuple[str, str], Fraction] = defaultdict(Fraction)
    free: set[tuple[str, str]] = set()  # what had no price, for some of the time
    for _, _, centre, _, began_at, ended_at, held in rows:
        begin, end = max(began_at, hour), min(_end(ended_at, hour + HOUR_S), hour + HOUR_S)
        ran = pricing.duration(begin, end)
        seconds += ran
        for one in _amounts(held):
            known = prices.get((centre, *one.key), ())
            amounts[one.key] += one.amount * ran
            costs[one.key] += pricing.metered(one, known, since=begin, until=end)
            if pricing.unpriced(known, since=begin):
                free.add(one.key)
    parts: list[tuple[Any, ...]] = [
        (*key, round(amounts[key]), pricing.to_nano(costs[key]), *((True,) if key in free else ())) for key in sorted(amounts)]
    sums = {kind: sum(part[2] for part in parts if part[0] == kind) for kind in TYPES}
    instance, org, centre, cluster = rows[-1][:4]
    return Used(hour, instance, org, centre, cluster, float(seconds), sums["cpu"], sums["memory"], sums["disk"], sums["gpu"],
                sum(part[3] for part in parts), json.dumps(parts, ensure_ascii=False))


def _cost(row: Row, prices: History, *, since: float, until: float) -> int:
    _, _, centre, _, began_at, ended_at, held = row
    begin, end = max(began_at, since), min(_end(ended_at, until), until)
    return sum(pricing.to_nano(pricing.metered(one, prices.get((centre, *one.key), ()), since=begin, until=end))
               for one in _amounts(held))


def _amounts(held: str) -> Iterable[Amount]:
    return [Amount(*key, amount) for key, amount in merged(of_json(held)).items()]


def _look_due(tx: Tx) -> bool:
    looked, now = store.counter(tx, store.LOOKED), int(clock.now())
    if looked is not None and looked <= now < looked + LOOK_S:
        return False
    return store.set_counter(tx, store.LOOKED, now, expected=looked)


def _note_budgets(tx: Tx) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Events of budgets that come near their end or reach it, once a month each; and whose instances are to be stopped."""
    warned, spent, over = [], [], []
    kept = store.budgets()
    costs = _spent_by_org(tx) if kept else {}
    for budget in kept:
        found = Spending(budget.org, _month(clock.now()), costs.get(budget.org, 0), budget)
        if found.to_warn and _note(tx, found, "warned", "budget.warn"):
            warned.append(budget.org)
        if found.over and _note(tx, found, "spent", "budget.spent"):
            spent.append(budget.org)
        if found.over and budget.stop:
            over.append(budget.org)
    return tuple(warned), tuple(spent), tuple(over)


def _note(tx: Tx, found: Spending, column: str, kind: str) -> bool:
    assert found.budget is not None
    if not store.note_budget(tx, found.org, column, found.month):
        return False
    events.append(tx, kind, ("budget", 0), at=clock.now(), actor="system", org=found.org, month=found.month,
                  spent=pricing.nano_text(found.spent_nano), amount=pricing.nano_text(found.budget.amount_nano))
    return True


def _spent_by_org(tx: Tx) -> dict[str, int]:
    """What every organisation with a budget has spent this month, in one go over what runs."""
    now = clock.now()
    since, prices = _unmetered_since(tx, now), store.prices(tx)
    costs = Counter({found.org: store.month_cost(tx, found.org, _month(now)) for found in store.budgets()})
    for row in store.periods(tx, since, now):
        if row[1] in costs:
            costs[row[1]] += _cost(row, prices, since=since, until=now)
    return costs


def _unmetered_since(tx: Tx, now: float) -> float:
    """From when on this month's use is not in its metered hours yet."""
    begin = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    return max(begin, float(store.counter(tx, store.MARK) or 0))


def _span(since: float | None, until: float | None) -> tuple[int, int]:
    now = clock.now()
    begin = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp()
    found = int(begin if since is None else since), int(now + 1 if until is None else until)
    if found[1] < found[0]:
        raise Invalid.at("to", "is before `from`", "a later time")
    return found


def _in_hours(row: Mapping[str, Any]) -> dict[str, Any]:
    sums = {"core_hours": ("cpu_s", 1000), "memory_gi_hours": ("memory_s", 1024), "disk_gi_hours": ("disk_s", 1),
            "gpu_hours": ("gpu_s", 1)}
    plain = {name: value for name, value in row.items() if name not in ("cpu_s", "memory_s", "disk_s", "gpu_s")}
    return {**plain, **{name: pricing.number(Fraction(row[column], size * HOUR_S)) for name, (column, size) in sums.items()}}


def _all_hours(where: Mapping[str, Any], begin: int, end: int) -> Iterator[Used]:
    after = (-1, "")
    while rows := store.hours(where=where, since=begin, until=end, after=after):
        yield from rows
        after = (rows[-1].hour, rows[-1].instance)


def _export_lines(row: Used) -> Iterator[list[str]]:
    at = clock.rfc3339(row.hour) or ""
    for kind, model, amount_s, cost, *unpriced in json.loads(row.parts):
        unit, size = _PER_HOUR[kind]
        hours = Fraction(amount_s, size * HOUR_S)
        yield [at, _cell(row.org), _cell(row.instance), row.centre, row.cluster_key, kind, _cell(model), unit,
               f"{float(hours):.6f}", pricing.nano_text(cost), "yes" if unpriced else ""]


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "@", "\t", "\r") else text


def _end(ended_at: float | None, default: float) -> float:
    return default if ended_at is None else ended_at


def _hour(at: float) -> int:
    return int(at // HOUR_S * HOUR_S)


def _month(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m")
