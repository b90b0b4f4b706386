"""What is kept of Spark and Flink jobs? Their tables, beside those of tables.py."""

from __future__ import annotations

from peewee import BigIntegerField, DoubleField, TextField

from cloudsched.store.tables import Table, number, text


class DclusterJob(Table):
    """A job on a Spark or Flink cluster, beside its row in `job`. `active`: client and module while it is active (unique);
    `request`: JSON, as it came; `handle`: the driver's, of this attempt; `done`: nothing is left to do for it."""

    job_id = BigIntegerField(primary_key=True)
    client = TextField()
    module = TextField()
    kind = TextField()
    active = TextField(null=True)
    request = text("{}")
    cluster_id = BigIntegerField(null=True)
    cluster_name = text()
    address = text()
    keep_alive = number()
    handle = text("{}")
    application_id = text()
    end_reason = text()
    alert_after_s = DoubleField(null=True)
    alerted_at = DoubleField(null=True)
    submitted_at = DoubleField(null=True)
    deadline = DoubleField(null=True)
    log_offset = BigIntegerField(default=0)
    log_at = DoubleField(default=0)
    tail = text()
    done = number()
    not_before = DoubleField(default=0)
    lease_holder = text()
    lease_until = DoubleField(default=0)


ALL: tuple[type[Table], ...] = (DclusterJob,)

INDEXES: tuple[str, ...] = (
    "CREATE UNIQUE INDEX dcluster_job_active ON dcluster_job (active) WHERE active IS NOT NULL",
    "CREATE INDEX dcluster_job_due ON dcluster_job (not_before, job_id) WHERE done = 0",
    "CREATE INDEX dcluster_job_cluster ON dcluster_job (cluster_id, job_id) WHERE done = 0",
    "CREATE INDEX dcluster_job_client ON dcluster_job (client, module, job_id)",
)
