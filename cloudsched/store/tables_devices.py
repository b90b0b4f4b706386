"""What is kept of machines that report to us? Their tables, and those of request counters, beside those of tables.py.

The machine itself is a node: its profile, latest sample and last contact are in `node`. Here is what only such machines
have, their history in figures, and what is bounded by time.
"""

from __future__ import annotations

from typing import Any

from peewee import (
    SQL,
    BigIntegerField,
    BlobField,
    CompositeKey,
    DoubleField,
    IntegerField,
    TextField,
)

from cloudsched.store.tables import Table, number, text


def _big() -> BigIntegerField:
    return BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])


def _sum() -> DoubleField:
    return DoubleField(default=0, constraints=[SQL("DEFAULT 0")])


class Device(Table):
    """One machine that reports. `online_since` is null while it is offline; `removed_at` when it was taken out.

    `via`: `agent` (a device with our agent), `worker` (native protocol), `legacy` (reports only), `machine` (our agent on a
    machine that is no device by itself). `takes`: JSON list of the kinds it takes now, empty when all it announced.
    `asked`: what its agent is to be told, in bits (1 ping, 2 upgrade). `stops`: JSON {task id: until} for a worker.
    `sent`, `received`: the counters of its last sample.
    """

    node_id = BigIntegerField(primary_key=True)
    device_id = TextField()
    role = text()
    os = text()
    via = TextField()
    token_hash = text()
    accepts_tasks = number()
    internet = IntegerField(default=1, constraints=[SQL("DEFAULT 1")])
    online_since = DoubleField(null=True)
    heartbeats = _big()
    completed = _big()
    failed = _big()
    last_error = text()
    takes = text()
    asked = number()
    stops = text()
    sent = DoubleField(null=True)
    received = DoubleField(null=True)
    registered_at = DoubleField()
    removed_at = DoubleField(null=True)


class DevicePeriod(Table):
    """A time of being online that is over."""

    node_id = BigIntegerField()
    began_at = DoubleField()
    last_contact_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("node_id", "began_at")


class DeviceSeries(Table):
    """Samples of a machine in one bucket: `width_s` 60, 600 or 3600, from `start` (epoch seconds) on."""

    node_id = BigIntegerField()
    width_s = IntegerField()
    start = BigIntegerField()
    cpu_n = number()
    cpu_sum = _sum()
    cpu_max = _sum()
    memory_n = number()
    memory_sum = _sum()
    memory_max = _sum()
    disk_n = number()
    disk_sum = _sum()
    disk_max = _sum()
    sent = _sum()
    received = _sum()

    class Meta:
        primary_key = CompositeKey("node_id", "width_s", "start")


class DevicePing(Table):
    """A probe on its way: asked, handed to the agent, answered."""

    id = BigIntegerField(primary_key=True)
    node_id = BigIntegerField()
    asked_at = DoubleField()
    sent_at = DoubleField(null=True)
    answered_at = DoubleField(null=True)


class JobCheckpoint(Table):
    """How far a job has come, in its own words; given back with its next attempt."""

    job_id = BigIntegerField(primary_key=True)
    attempt = IntegerField()
    at = DoubleField()
    data = TextField()


class RateWindow(Table):
    """Requests of one caller in a window that runs."""

    identity = BlobField(primary_key=True)
    ends_at = DoubleField()
    n = BigIntegerField()


class StreamPlace(Table):
    """A stream that is open: one of the numbered places of its caller, until its lease ends."""

    identity = BlobField()
    place = IntegerField()
    id = BigIntegerField()
    ends_at = DoubleField()

    class Meta:
        primary_key = CompositeKey("identity", "place")


class ApiMinute(Table):
    """API requests of all processes in one minute (`minute`: epoch seconds of its start)."""

    minute = BigIntegerField(primary_key=True)
    n = _big()
    errors = _big()
    took_ms = _sum()


ALL: tuple[type[Any], ...] = (Device, DevicePeriod, DeviceSeries, DevicePing, JobCheckpoint, RateWindow, StreamPlace, ApiMinute)

INDEXES = (
    "CREATE UNIQUE INDEX device_here ON device (device_id) WHERE removed_at IS NULL",
    "CREATE INDEX device_online ON device (node_id) WHERE online_since IS NOT NULL",
    "CREATE INDEX device_series_bucket ON device_series (width_s, start)",
    "CREATE INDEX device_ping_open ON device_ping (node_id) WHERE answered_at IS NULL",
    "CREATE INDEX rate_window_end ON rate_window (ends_at)",
    "CREATE INDEX stream_place_id ON stream_place (id)",
    # Figures of a period read this index alone, however many jobs there ever were.
    "CREATE INDEX job_ended ON job (ended_at, state, node_id, kind, ran_s) WHERE ended_at IS NOT NULL",
)
