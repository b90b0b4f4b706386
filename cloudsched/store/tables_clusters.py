"""What is kept of clusters? Their table and who is in them, beside those of tables.py."""

from __future__ import annotations

from peewee import BigAutoField, BigIntegerField, CompositeKey, DoubleField, IntegerField, TextField

from cloudsched.store.tables import Table, number, text


class Cluster(Table):
    """Many nodes as one (domain.entities.Cluster says what the columns mean)."""

    id = BigAutoField()
    key = TextField(unique=True)
    name = text()
    kind = TextField()
    origin = TextField()
    org = text()
    user = text()
    place = text()
    cloud_id = IntegerField(null=True)
    made_cloud_id = IntegerField(null=True)
    job_id = BigIntegerField(null=True)
    state = TextField()
    goal = text("run")
    workers_wanted = number()
    workers_ready = number()
    address = text()
    web_url = text()
    spec = text("{}")
    facts = text("{}")
    handle = text("{}")
    secrets = text()
    reason = text()
    idle_limit_s = DoubleField(null=True)
    idle_since = DoubleField(null=True)
    attempts = number()
    not_before = DoubleField(default=0)
    lease_holder = text()
    lease_until = DoubleField(default=0)
    version = number(1)
    created_at = DoubleField()
    launched_at = DoubleField(null=True)
    running_at = DoubleField(null=True)
    ended_at = DoubleField(null=True)


class ClusterNode(Table):
    """A node is in a cluster, under the name it has there. A node is in one cluster at a time."""

    cluster_id = BigIntegerField()
    node_id = BigIntegerField(unique=True)
    role = text("worker")
    name = text()
    joined_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("cluster_id", "node_id")


ALL: tuple[type[Table], ...] = (Cluster, ClusterNode)

INDEXES = (
    "CREATE INDEX cluster_due ON cluster (not_before, id) "
    "WHERE state IN ('pending', 'launching', 'running', 'degraded', 'terminating')",
    "CREATE INDEX cluster_state ON cluster (state, id)",
    "CREATE INDEX cluster_name ON cluster (name, id)",
    "CREATE INDEX cluster_cloud ON cluster (cloud_id, id)",
    "CREATE INDEX cluster_job ON cluster (job_id) WHERE job_id IS NOT NULL",
)
