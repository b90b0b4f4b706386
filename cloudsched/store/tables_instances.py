"""What is kept of resource instances? Their tables, beside those of tables.py.

`spec` holds the fields as they were asked for, `amounts` what the books hold for it now: [[type, model, base units], ...],
empty when that is nothing. So the books are always the sum of `amounts`, whatever the states.
"""

from __future__ import annotations

from peewee import BigAutoField, DoubleField, TextField

from cloudsched.store.tables import Table, number, text


class Instance(Table):
    """One resource instance (domain.instances says what its states are).

    `password` is a sealed token. `previous`: what it was before a change that is on its way. `stopped`: it is wanted that
    nothing of it runs. `node_port`: taken on every node of its cluster. `sweep`: 1: objects of it may be left in the cluster;
    2: they may be others than the row says. `live`, `live_ready`: as last seen there. `not_before`: looked after from then on.
    """

    id = BigAutoField()
    key = TextField(unique=True)
    centre_key = TextField()
    cluster_key = TextField()
    org = text()
    user = text()
    name = text()
    engine = TextField()
    state = TextField()
    stopped = number()
    reason = text()
    spec = TextField()
    password = text()
    previous = text()
    amounts = text("[]")
    node_port = number()
    namespace = TextField()
    account = TextField()
    controller = TextField()
    service = TextField()
    sweep = number()
    live = text()
    live_ready = number()
    live_reason = text()
    live_at = DoubleField(null=True)
    not_before = DoubleField(default=0)
    version = number(1)
    created_at = DoubleField()
    updated_at = DoubleField()
    applied_at = DoubleField(null=True)
    ended_at = DoubleField(null=True)


class InstancePeriod(Table):
    """From when to when an instance had these amounts running; what is metered (`ended_at` is null: it still does)."""

    id = BigAutoField()
    instance_key = TextField()
    org = text()
    centre_key = TextField()
    cluster_key = TextField()
    amounts = text("[]")
    began_at = DoubleField()
    ended_at = DoubleField(null=True)
    why = text()


ALL: tuple[type[Table], ...] = (Instance, InstancePeriod)

INDEXES: tuple[str, ...] = (
    "CREATE INDEX instance_cluster ON instance (cluster_key, id) WHERE state <> 'deleted'",
    "CREATE INDEX instance_centre ON instance (centre_key, id) WHERE state <> 'deleted'",
    "CREATE INDEX instance_org ON instance (org, id) WHERE state <> 'deleted'",
    "CREATE INDEX instance_due ON instance (not_before, id) WHERE state IN ('wanted', 'deleting')",
    "CREATE INDEX instance_sweep ON instance (not_before, id) WHERE sweep > 0",
    "CREATE UNIQUE INDEX instance_node_port ON instance (cluster_key, node_port) WHERE node_port > 0 AND state IN "
    "('wanted', 'applied', 'stopped', 'deleting')",
    "CREATE UNIQUE INDEX instance_period_open ON instance_period (instance_key) WHERE ended_at IS NULL",
    "CREATE INDEX instance_period_time ON instance_period (ended_at, began_at)",
    "CREATE INDEX instance_period_instance ON instance_period (instance_key, began_at)",
)
