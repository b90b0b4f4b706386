"""What is kept of parts, their stock and prices, and what was used? Their tables, beside those of tables.py.

Amounts are whole base units (domain/stock.py), money is an exact decimal text or whole billionths of 元. The checks are the
last guard: whatever the code above does, nothing is sold that is not there.
"""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, Check, CompositeKey, DoubleField, TextField

from cloudsched.store.tables import Table, number, text


class Part(Table):
    """A kind of hardware of a compute centre and its price now."""

    id = BigAutoField()
    key = TextField(unique=True)
    centre = TextField()
    type = TextField()
    model = TextField()
    unit_price = text("0")
    resource_unit = TextField()
    charge_unit = TextField()
    account_unit = TextField()
    created_at = DoubleField()
    updated_at = DoubleField()


class PartPrice(Table):
    """What a part costs from `at` on. Kept when the part is gone: what was used before is still charged."""

    centre = TextField()
    type = TextField()
    model = TextField()
    at = DoubleField()
    unit_price = TextField()
    resource_unit = TextField()
    charge_unit = TextField()
    account_unit = TextField()

    class Meta:
        primary_key = CompositeKey("centre", "type", "model", "at")


class PartStock(Table):
    """The book of one part in one cluster ('' for hosts in none); `by_hand` of the stock came with no host."""

    part_id = BigIntegerField()
    cluster_key = text()
    stock = BigIntegerField(default=0)
    by_hand = BigIntegerField(default=0)
    consumed = BigIntegerField(default=0)

    class Meta:
        primary_key = CompositeKey("part_id", "cluster_key")
        constraints = (Check("consumed >= 0"), Check("consumed <= stock"), Check("by_hand >= 0"), Check("by_hand <= stock"))


class UsageHour(Table):
    """What one instance used in the hour that began at `hour` (epoch seconds), and its cost at the prices of the time.

    `cpu_s` and the others are base units times seconds; `parts` has them per model: [[type, model, base units x seconds,
    billionths of 元], ...], with a fifth member `true` where the part had no price for some of the time.
    """

    hour = BigIntegerField()
    instance = TextField()
    org = text()
    centre = text()
    cluster_key = text()
    seconds = DoubleField()
    cpu_s = BigIntegerField(default=0)
    memory_s = BigIntegerField(default=0)
    disk_s = BigIntegerField(default=0)
    gpu_s = BigIntegerField(default=0)
    cost_nano = BigIntegerField(default=0)
    parts = text("[]")

    class Meta:
        primary_key = CompositeKey("hour", "instance")


class UsageMonth(Table):
    """What an organisation's metered hours of one month (`YYYY-MM`, UTC) cost together."""

    org = TextField()
    month = TextField()
    cost_nano = BigIntegerField(default=0)

    class Meta:
        primary_key = CompositeKey("org", "month")


class Budget(Table):
    """What an organisation may spend in a month. `hard`: nothing new beyond it; `stop`: what runs is stopped too.

    `warned` and `spent`: the month in which that was noted.
    """

    org = TextField(primary_key=True)
    amount_nano = BigIntegerField()
    warn_percent = number(80)
    hard = number(1)
    stop = number()
    warned = text()
    spent = text()
    actor = text()
    updated_at = DoubleField()


ALL: tuple[type[Table], ...] = (Part, PartPrice, PartStock, UsageHour, UsageMonth, Budget)

INDEXES: tuple[str, ...] = (
    "CREATE UNIQUE INDEX part_model ON part (centre, type, model)",
    "CREATE INDEX part_stock_cluster ON part_stock (cluster_key, part_id)",
    "CREATE INDEX usage_hour_org ON usage_hour (org, hour)",
    "CREATE INDEX usage_hour_instance ON usage_hour (instance, hour)",
)
