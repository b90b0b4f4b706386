"""What is kept? Every table, once. Hot code uses the same names in hand-written SQL; the rest uses these models.

Times are epoch seconds (double precision); flags are small integers; structured columns hold JSON text.
"""

from __future__ import annotations

from typing import Any

from peewee import (
    SQL,
    AutoField,
    BigAutoField,
    BigIntegerField,
    BlobField,
    CompositeKey,
    DatabaseProxy,
    DoubleField,
    IntegerField,
    Model,
    TextField,
)

proxy: Any = DatabaseProxy()


class Table(Model):
    """Base of every table: in the one database, named after its class."""

    class Meta:
        database = proxy
        legacy_table_names = False


def number(default: int = 0) -> IntegerField:
    """A whole number that is never null."""
    return IntegerField(default=default, constraints=[SQL(f"DEFAULT {default}")])


def text(default: str = "") -> TextField:
    """A text that is never null."""
    return TextField(default=default, constraints=[SQL(f"DEFAULT '{default}'")])


class Setting(Table):
    """Facts of this installation that outlive a restart: instance id, schema version, quick-shutdown flag."""

    key = TextField(primary_key=True)
    value = TextField()


class Counter(Table):
    """Numbers handed out in blocks (batch ids; row ids on SQLite)."""

    name = TextField(primary_key=True)
    value = BigIntegerField(default=0)


class Cloud(Table):
    """A place nodes come from. A limit of -1 means: not limited."""

    id = AutoField()
    name = TextField(unique=True)
    title = text()
    address = text()
    kind = TextField()
    state = text("active")
    enabled = number()
    disabled_at = DoubleField(null=True)
    error_since = DoubleField(null=True)
    error_text = text()
    priority = IntegerField(default=0)
    max_slots = IntegerField()
    memory_mb = IntegerField(default=-1)
    storage_gb = IntegerField(default=-1)
    cores = IntegerField(default=-1)
    max_node_memory_mb = IntegerField(default=-1)
    networks = text("[]")
    keep_alive_s = IntegerField(default=0)
    boot_timeout_s = IntegerField(null=True)
    options = text("{}")
    credentials = text()
    failed_images = text("[]")
    source = text("api")
    position = IntegerField(default=0)
    version = IntegerField(default=1)
    created_at = DoubleField()


class Node(Table):
    """A machine that can run jobs: a booted VM, a device that joined, a host."""

    id = BigAutoField()
    name = TextField(unique=True)
    cloud_id = IntegerField()
    external_id = text()
    state = TextField()
    goal = text("run")
    status = text("Starting")
    override = TextField(null=True)
    force_retire = number()
    retired = number()
    user = text()
    vm_type = text()
    cores = IntegerField(default=1)
    memory_mb = IntegerField(default=0)
    storage_gb = IntegerField(default=0)
    network = text()
    image = text()
    instance_type = text()
    slots = IntegerField(default=1)
    job_per_core = number()
    shape_id = IntegerField(null=True)
    job_id = BigIntegerField(null=True)
    hostname = text()
    address = text()
    ssh_port = IntegerField(default=22)
    handle = text("{}")
    facts = text("{}")
    metrics = text("{}")
    keep_alive_s = IntegerField(default=0)
    idle_since = DoubleField(null=True)
    error_count = IntegerField(default=0)
    error_since = DoubleField(null=True)
    last_poll_at = DoubleField(null=True)
    status_changed_at = DoubleField(null=True)
    boot_requested_at = DoubleField(null=True)
    running_at = DoubleField(null=True)
    registered_at = DoubleField(null=True)
    boot_s = DoubleField(null=True)
    last_seen_at = DoubleField(null=True)
    instance = text()
    token_hash = text()
    secret_hash = text()
    lease_holder = text()
    lease_until = DoubleField(default=0)
    candidates = text("[]")
    slot_name = text()
    slot_address = text()
    master_address = text()
    run_times = text("[]")
    reason = text()
    version = IntegerField(default=1)
    created_at = DoubleField()
    ended_at = DoubleField(null=True)


class Shape(Table):
    """What a job asks for. Jobs that ask for the same share one row, so that placing costs the same for 10 and 1e6."""

    id = AutoField()
    digest = TextField(unique=True)
    source = TextField()
    user = TextField()
    vm_type = TextField()
    cores = IntegerField()
    memory_mb = IntegerField()
    storage_gb = IntegerField()
    network = text()
    high_priority = IntegerField(default=0)
    placement = text("{}")


class Job(Table):
    """One piece of work. `spec` is what the agent needs; `attributes` what only people and dialects need."""

    id = BigAutoField()
    source = text("queue")
    key = TextField()
    batch_id = BigIntegerField()
    proc = IntegerField(default=0)
    name = text()
    label = text()
    user = TextField()
    org = text()
    kind = text("command")
    shape_id = IntegerField()
    state = TextField()
    goal = text("run")
    priority = IntegerField(default=0)
    placed = number()
    ban_until = DoubleField(null=True)
    override = TextField(null=True)
    node_id = BigIntegerField(null=True)
    attempt = IntegerField(default=0)
    retries = IntegerField(default=0)
    max_retries = IntegerField(default=0)
    backoff_s = DoubleField(default=0)
    time_limit_s = DoubleField(null=True)
    needs = IntegerField(default=0)
    has_dependents = number()
    depends_fail = text("cancel")
    not_before = DoubleField(null=True)
    submitted_at = DoubleField()
    queued_at = DoubleField(null=True)
    assigned_at = DoubleField(null=True)
    started_at = DoubleField(null=True)
    ended_at = DoubleField(null=True)
    exit_code = IntegerField(null=True)
    signal = IntegerField(null=True)
    reason = TextField(null=True)
    ran_s = DoubleField(null=True)
    cpu_s = DoubleField(null=True)
    max_rss_mb = IntegerField(null=True)
    result = TextField(null=True)
    spec = TextField()
    attributes = text("{}")
    retry_of = BigIntegerField(null=True)
    batch_status = IntegerField(null=True)
    remote_host = TextField(null=True)


class JobNeed(Table):
    """`job_id` waits for `on_id`: kind `ok` (must succeed) or `any` (must end)."""

    job_id = BigIntegerField()
    on_id = BigIntegerField()
    kind = TextField()

    class Meta:
        primary_key = CompositeKey("on_id", "job_id", "kind")


class JobData(Table):
    """Bytes of a job in pieces: `stdout`, `stderr` (of one attempt), `in/NAME` (attempt 0), `out/NAME`."""

    job_id = BigIntegerField()
    attempt = IntegerField()
    name = TextField()
    offset = BigIntegerField()
    size = IntegerField()
    data = BlobField()

    class Meta:
        primary_key = CompositeKey("job_id", "attempt", "name", "offset")


class JobBootFailure(Table):
    """Why no machine could be booted for a job (cleared by the next success)."""

    id = BigAutoField()
    job_id = BigIntegerField(index=True)
    cloud = text()
    code = IntegerField()
    text = TextField()
    at = DoubleField()


class JobBlock(Table):
    """A cloud that is not tried for a job until the given time."""

    job_id = BigIntegerField()
    cloud_id = IntegerField()
    until = DoubleField()

    class Meta:
        primary_key = CompositeKey("job_id", "cloud_id")


class ImageRecord(Table):
    """Boot results per image and cloud; `banned` when the failure rate was too high."""

    image = TextField()
    cloud = TextField()
    succeeded = IntegerField(default=0)
    failed = IntegerField(default=0)
    banned = number()

    class Meta:
        primary_key = CompositeKey("image", "cloud")


class Slot(Table):
    """A slot that an external batch system reports."""

    name = TextField(primary_key=True)
    facts = TextField()
    seen_at = DoubleField()


class UserLimit(Table):
    """Largest number of nodes a user may have."""

    user = TextField(primary_key=True)
    limit = IntegerField(column_name="max_nodes")
    position = IntegerField(default=0)


class CloudAlias(Table):
    """A name for several clouds."""

    name = TextField(primary_key=True, column_name="alias")
    clouds = TextField()
    position = IntegerField(default=0)


class Event(Table):
    """The one append-only sequence. `id` order is commit order."""

    id = BigAutoField()
    at = DoubleField()
    kind = TextField()
    subject_kind = TextField()
    subject_id = BigIntegerField()
    actor = text()
    data = text("{}")


class Operation(Table):
    """A long piece of work in recorded steps."""

    id = BigAutoField()
    kind = TextField()
    state = text("queued")
    goal = text("run")
    subject_kind = text()
    subject_id = BigIntegerField(null=True)
    actor = text()
    request = text("{}")
    steps = text("[]")
    result = TextField(null=True)
    error = TextField(null=True)
    attempt = IntegerField(default=0)
    not_before = DoubleField(default=0)
    lease_holder = text()
    lease_until = DoubleField(default=0)
    created_at = DoubleField()
    ended_at = DoubleField(null=True)
    version = IntegerField(default=1)


class Lease(Table):
    """Who leads: one row per engine loop."""

    name = TextField(primary_key=True)
    holder = TextField()
    until = DoubleField()
    fence = BigIntegerField(default=0)


class Loop(Table):
    """The pulse of each engine loop."""

    name = TextField(primary_key=True)
    interval_s = DoubleField()
    created_at = DoubleField()
    last_cycle_at = DoubleField(null=True)
    last_error = text()
    last_error_at = DoubleField(null=True)
    took_s = DoubleField(null=True)


class ApiKey(Table):
    """A caller's key: only its hash is kept."""

    id = AutoField()
    name = TextField()
    prefix = TextField()
    hash = TextField(unique=True)
    role = TextField()
    org = text()
    created_at = DoubleField()
    expires_at = DoubleField(null=True)
    revoked_at = DoubleField(null=True)
    last_used_at = DoubleField(null=True)


class JoinToken(Table):
    """A token with which machines may join."""

    hash = TextField(primary_key=True)
    cloud_id = IntegerField()
    user = text()
    vm_type = text()
    uses_left = IntegerField(null=True)
    expires_at = DoubleField(null=True)
    created_at = DoubleField()


class Idempotency(Table):
    """Answers to POSTs that carried an Idempotency-Key."""

    key = TextField(primary_key=True)
    digest = TextField()
    status = IntegerField(null=True)
    body = TextField(null=True)
    at = DoubleField()


ALL: tuple[type[Table], ...] = (
    Setting, Counter, Cloud, Node, Shape, Job, JobNeed, JobData, JobBootFailure, JobBlock, ImageRecord, Slot,
    UserLimit, CloudAlias, Event, Operation, Lease, Loop, ApiKey, JoinToken, Idempotency,
)

INDEXES = (
    "CREATE INDEX job_queue ON job (shape_id, priority DESC, id) WHERE state = 'queued'",
    "CREATE INDEX job_placed ON job (shape_id, id) WHERE state = 'queued' AND placed = 1",
    "CREATE INDEX job_banned ON job (ban_until) WHERE ban_until IS NOT NULL",
    "CREATE INDEX job_in_hand ON job (node_id) WHERE state IN ('assigned', 'running')",
    "CREATE INDEX job_due ON job (not_before) WHERE state = 'pending' AND not_before IS NOT NULL",
    "CREATE INDEX job_state ON job (state, id)",
    "CREATE INDEX job_batch ON job (batch_id, proc)",
    "CREATE INDEX job_label ON job (label, id) WHERE label <> ''",
    'CREATE INDEX job_user ON job ("user", id)',
    "CREATE UNIQUE INDEX job_foreign_key ON job (source, key) WHERE source <> 'queue'",
    "CREATE INDEX job_need_waiting ON job_need (job_id)",
    "CREATE INDEX node_cloud ON node (cloud_id, id)",
    "CREATE INDEX node_live ON node (id) WHERE state IN ('requested', 'starting', 'running', 'stopping')",
    "CREATE INDEX event_subject ON event (subject_kind, subject_id, id)",
    "CREATE INDEX operation_due ON operation (not_before, id) WHERE state IN ('queued', 'running')",
)
