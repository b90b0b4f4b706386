"""What do bodies and queries look like? marshmallow schemas: they validate the cold routes and describe all of them.

The job routes that must be fast are described here but checked by `domain.submission`.
"""

from __future__ import annotations

from typing import Any

from marshmallow import RAISE, Schema, fields, validate
from webargs.fields import DelimitedList

from cloudsched.domain import moves
from cloudsched.services.caller import ROLES

_BIG = 2**63 - 1
_WAIT_MOST_S = 300


def _time(text: str = "") -> fields.Field[Any]:
    return fields.String(allow_none=True, metadata={"format": "date-time", "description": text})


def _text(**kw: Any) -> fields.Field[Any]:
    return fields.String(validate=validate.Length(max=1000), **kw)


def _plain(**kw: Any) -> fields.Field[Any]:
    """Text that is a name: without control characters."""
    return fields.String(validate=[validate.Length(max=1000), validate.Regexp(
        r"[^\x00-\x1f\x7f]*\Z", error="Holds a control character.")], **kw)


def _maybe(kind: type[fields.Field[Any]]) -> fields.Field[Any]:
    return kind(allow_none=True)


class Strict(Schema):
    """Unknown members are refused by name."""

    class Meta:
        unknown = RAISE


# queries


class PageQuery(Strict):
    limit = fields.Integer(load_default=100, validate=validate.Range(1, 1000))
    cursor = fields.String(load_default=None, metadata={"description": "`next` of the page before"})


class JobFilter(Strict):
    state = DelimitedList(fields.String(validate=validate.OneOf(moves.JOB_STATES)), load_default=[],
                          metadata={"description": "one or more, by comma or repeated"})
    user = fields.String()
    vm_type = fields.String()
    batch = fields.String(metadata={"description": "number of the batch, or the label its jobs were given"})
    node = fields.String(metadata={"description": "number or name"})
    source = fields.String()
    name = fields.String()


class JobListQuery(PageQuery, JobFilter):
    order = fields.String(load_default="-id", validate=validate.OneOf(("id", "-id")))


class NodeListQuery(PageQuery):
    state = DelimitedList(fields.String(validate=validate.OneOf(moves.NODE_STATES)), load_default=[])
    cloud = fields.String(load_default="")
    user = fields.String(load_default="")
    vm_type = fields.String(load_default="")


class OperationListQuery(PageQuery):
    state = DelimitedList(fields.String(validate=validate.OneOf(tuple(moves.OPERATION))), load_default=[])


class EventQuery(PageQuery):
    since = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(0, _BIG),
                           metadata={"description": "only events after this sequence number"})
    subject_kind = fields.String(load_default="")
    subject_id = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(0, _BIG))
    kind = fields.String(load_default="", metadata={"description": "a kind, or how it begins: `job.`"})


class WaitQuery(Strict):
    wait_s = fields.Float(load_default=0, validate=validate.Range(0, _WAIT_MOST_S),
                          metadata={"description": "answer when it is so, at most after so many seconds"})


class OutputQuery(Strict):
    stream = fields.String(load_default="stdout", validate=validate.OneOf(("stdout", "stderr")))
    offset = fields.Integer(load_default=0, validate=validate.Range(0, _BIG))
    attempt = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(1, 2**31 - 1))
    follow = fields.Boolean(load_default=False)


class FilesQuery(PageQuery):
    attempt = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(0, 2**31 - 1))


class FileQuery(Strict):
    attempt = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(0, 2**31 - 1))


class AddCloudQuery(Strict):
    dry_run = fields.Boolean(load_default=False)
    verify = fields.Boolean(load_default=True, metadata={"description": "try the credentials first"})


# bodies


class CancelManyBody(Strict):
    ids = fields.List(fields.Raw(), load_default=[], validate=validate.Length(max=10_000),
                      metadata={"items": {"type": ["integer", "string"]}})
    batch = _text(load_default="")
    user = _text(load_default="")
    name = _text(load_default="")
    vm_type = _text(load_default="")
    node = _text(load_default="")
    state = fields.Raw(load_default=[], metadata={"description": "a state, or a list of states"})


class HoldBody(Strict):
    reason = fields.String(load_default="held by hand", validate=validate.Length(1, 1000))


class RetryBody(Strict):
    priority = fields.Integer(strict=True, load_default=None, allow_none=True,
                              validate=validate.Range(-1_000_000, 1_000_000))
    ignore_dependencies = fields.Boolean(load_default=False)


class TokenBody(Strict):
    cloud = _text(load_default=None, allow_none=True)
    user = _plain(load_default="")
    vm_type = _plain(load_default="")
    ttl_s = fields.Float(load_default=86_400, allow_none=True, validate=validate.Range(1, 10 * 366 * 86_400))
    uses = fields.Integer(strict=True, load_default=None, allow_none=True, validate=validate.Range(1, 1_000_000))


class KeyBody(Strict):
    name = fields.String(required=True, validate=validate.Length(1, 100))
    role = fields.String(load_default="submitter", validate=validate.OneOf(ROLES))
    org = fields.String(load_default="", validate=validate.Length(max=100))
    ttl_s = fields.Float(load_default=None, allow_none=True, validate=validate.Range(1, 10 * 366 * 86_400))


class CloudChangeBody(Strict):
    """Values are checked by the service, which names what is allowed for each."""

    slots = fields.Raw(metadata={"type": "integer", "minimum": 0})
    memory_mb = fields.Raw(metadata={"type": "integer", "minimum": -1, "description": "-1: no limit"})
    storage_gb = fields.Raw(metadata={"type": "integer", "minimum": -1})
    cores = fields.Raw(metadata={"type": "integer", "minimum": -1})
    max_node_memory_mb = fields.Raw(metadata={"type": "integer", "minimum": -1})
    networks = fields.Raw(metadata={"type": "array", "items": {"type": "string"}})
    priority = fields.Raw(metadata={"type": "integer"})
    enabled = fields.Raw(metadata={"type": "boolean"})
    keep_alive_s = fields.Raw(metadata={"type": "integer", "minimum": 0})
    boot_timeout_s = fields.Raw(allow_none=True, metadata={"type": "integer"})
    title = fields.Raw(metadata={"type": "string"})
    address = fields.Raw(metadata={"type": "string"})
    options = fields.Raw(metadata={"type": "object"})
    credentials = fields.Raw(metadata={"type": "object", "writeOnly": True, "description": "never read back"})


class CloudBody(CloudChangeBody):
    name = fields.Raw(required=True, metadata={"type": "string"})
    kind = fields.Raw(required=True, metadata={"type": "string", "description": "what drives it: Local, Fake, ..."})


class InputFileBody(Strict):
    name = fields.String(required=True)
    content_base64 = fields.String(metadata={"contentEncoding": "base64"})
    size = fields.Integer(metadata={"description": "without a content: uploaded later"})
    mode = fields.Integer(metadata={"description": "permission bits, default 0644"})


class ArrayBody(Strict):
    size = fields.Integer(validate=validate.Range(1, 100_000))
    indices = fields.List(fields.Integer())


class RequireBody(Strict):
    """What a job asks of a machine that is here; nothing is booted for a job that asks."""

    os = fields.String()
    role = fields.String()
    tags = fields.List(fields.String())
    gpu = fields.Boolean()
    internet = fields.Boolean()
    node = fields.Raw(metadata={"type": ["integer", "string", "null"], "description": "number or name of this very node"})
    min_cores = fields.Integer(validate=validate.Range(0))
    min_memory_mb = fields.Integer(validate=validate.Range(0))
    min_storage_gb = fields.Float(validate=validate.Range(0))


class JobBody(Strict):
    """One job. What is left out gets the configured default."""

    command = fields.List(fields.String(), validate=validate.Length(1, 1000))
    kind = fields.String(validate=validate.Length(1, 100), metadata={
        "description": "`command`, `noop`, or a type of task: echo, sleep, system_info, python_eval, http_request, program, and "
                       "what machines here announce"})
    payload = fields.Dict(allow_none=True, metadata={"description": "what a task is to do; at most 256 KiB"})
    require = fields.Nested(RequireBody, allow_none=True)
    name = fields.String()
    user = fields.String()
    env = fields.Dict(keys=fields.String(), values=fields.String())
    stdin = _maybe(fields.String)
    vm_type = fields.String()
    cores = fields.Integer(validate=validate.Range(1))
    memory_mb = fields.Integer(validate=validate.Range(0))
    storage_gb = fields.Integer(validate=validate.Range(0))
    gpus = fields.Integer(validate=validate.Range(0))
    network = fields.String()
    priority = fields.Integer()
    time_limit_s = _maybe(fields.Float)
    max_retries = fields.Integer(validate=validate.Range(0, 100))
    backoff_s = fields.Float(validate=validate.Range(0, 3600))
    hold = fields.Boolean()
    after_ok = fields.List(fields.Raw(), metadata={"items": {"type": ["integer", "string"]}})
    after_any = fields.List(fields.Raw(), metadata={"items": {"type": ["integer", "string"]}})
    depends_fail = fields.String(validate=validate.OneOf(("cancel", "hold")))
    input_files = fields.List(fields.Nested(InputFileBody))
    output_files = fields.List(fields.String())
    targets = fields.List(fields.String())
    image = fields.Raw(metadata={"type": ["string", "object", "null"]})
    instance_type = fields.Raw(metadata={"type": ["string", "object", "null"]})
    keep_alive_s = _maybe(fields.Integer)
    high_priority = fields.Integer()
    vmtype_limit = fields.Integer()
    job_per_core = fields.Boolean()
    maximum_price = fields.Float()
    security_groups = fields.List(fields.String())
    attributes = fields.Dict()
    array = fields.Nested(ArrayBody)
    batch = fields.String()
    batch_id = fields.Integer(validate=validate.Range(1))


class SubmitBody(JobBody):
    """One job, or `jobs`: many of them, all or nothing."""

    jobs = fields.List(fields.Nested(JobBody), validate=validate.Length(1, 10_000))


# answers


class Batch(Schema):
    """A number that one later submission may take as its `batch_id`."""

    batch_id = fields.Integer(required=True)


class Submitted(Schema):
    """`id` and `key` of one job; `ids` and `keys` of a batch or an array."""

    id = fields.Integer()
    key = fields.String()
    ids = fields.List(fields.Integer())
    keys = fields.List(fields.String())


class Job(JobBody):
    class Meta:
        unknown = RAISE

    id = fields.Integer()
    key = fields.String()
    batch_id = fields.Integer()
    index = fields.Integer()
    source = fields.String()
    state = fields.String(validate=validate.OneOf(moves.JOB_STATES))
    goal = fields.String()
    attempt = fields.Integer()
    node = _maybe(fields.String)
    node_id = _maybe(fields.Integer)
    cloud = _maybe(fields.String)
    org = fields.String()
    retries = fields.Integer()
    retry_of = _maybe(fields.Integer)
    submitted_at = _time()
    queued_at = _time()
    started_at = _time()
    ended_at = _time()
    not_before = _time()
    exit_code = _maybe(fields.Integer)
    signal = _maybe(fields.Integer)
    reason = _maybe(fields.String)
    ran_s = _maybe(fields.Float)
    cpu_s = _maybe(fields.Float)
    max_rss_mb = _maybe(fields.Integer)
    result = fields.Raw(allow_none=True)
    output_size = fields.Integer()
    error_size = fields.Integer()
    output_truncated = fields.Boolean(metadata={"description": "more came on stdout than is kept (`agent.output_limit_mb`)"})
    error_truncated = fields.Boolean(metadata={"description": "more came on stderr than is kept"})
    placed = fields.Boolean()


class AgentVersion(Schema):
    version = fields.String()
    sha256 = fields.String(metadata={"description": "Of the file at /agent.pyz"})


class Node(Schema):
    id = fields.Integer()
    name = fields.String()
    cloud = fields.String()
    cluster = _maybe(fields.String)
    state = fields.String(validate=validate.OneOf(moves.NODE_STATES))
    goal = fields.String()
    status = fields.String()
    override = _maybe(fields.String)
    user = fields.String()
    vm_type = fields.String()
    cores = fields.Integer()
    memory_mb = fields.Integer()
    storage_gb = fields.Integer()
    network = fields.String()
    image = fields.String()
    instance_type = fields.String()
    slots = fields.Integer()
    jobs = fields.Integer(metadata={"description": "jobs in hand"})
    job_id = _maybe(fields.Integer)
    hostname = fields.String()
    address = fields.String()
    keep_alive_s = fields.Integer()
    external_id = fields.String()
    error_count = fields.Integer()
    version = fields.Integer()
    force_retire = fields.Boolean()
    retired = fields.Boolean()
    boot_s = _maybe(fields.Float)
    created_at = _time()
    boot_requested_at = _time()
    running_at = _time()
    registered_at = _time()
    last_seen_at = _time()
    idle_since = _time()
    status_changed_at = _time()
    ended_at = _time()
    silent_s = _maybe(fields.Float)
    reason = _maybe(fields.String)
    profile = fields.Dict()
    metrics = fields.Dict()


class Cloud(Schema):
    name = fields.String()
    title = fields.String()
    kind = fields.String()
    address = fields.String()
    enabled = fields.Boolean()
    slots = fields.Integer()
    free_slots = fields.Integer()
    memory_mb = fields.Integer()
    free_memory_mb = fields.Integer()
    storage_gb = fields.Integer()
    free_storage_gb = fields.Integer()
    cores = fields.Integer()
    max_node_memory_mb = fields.Integer()
    networks = fields.List(fields.String())
    priority = fields.Integer()
    keep_alive_s = fields.Integer()
    boot_timeout_s = _maybe(fields.Integer)
    options = fields.Dict()
    has_credentials = fields.Boolean()
    source = fields.String()
    nodes = fields.Integer()
    retiring = fields.Integer()
    error_text = _maybe(fields.String)
    error_since = _time()
    disabled_at = _time()
    created_at = _time()
    version = fields.Integer()


class Check(Schema):
    name = fields.String()
    ok = fields.Boolean()
    detail = fields.String()


class CloudChanged(Schema):
    """The cloud after the change (null for a dry run of a new one), and what was verified."""

    name = fields.String()
    cloud = fields.Nested(Cloud, allow_none=True)
    checks = fields.List(fields.Nested(Check))
    dry_run = fields.Boolean()


class CloudRemoved(Schema):
    name = fields.String()
    removed = fields.Boolean()
    operation = _maybe(fields.Integer)


class Checks(Schema):
    name = fields.String()
    ok = fields.Boolean()
    checks = fields.List(fields.Nested(Check))


class Event(Schema):
    id = fields.Integer()
    at = _time()
    kind = fields.String()
    subject_kind = fields.String()
    subject_id = fields.Integer()
    actor = fields.String()
    data = fields.Dict()


class StepView(Schema):
    name = fields.String()
    state = fields.String()
    at = _time()
    detail = fields.String()


class Operation(Schema):
    id = fields.Integer()
    kind = fields.String()
    state = fields.String(validate=validate.OneOf(tuple(moves.OPERATION)))
    goal = fields.String()
    subject_kind = fields.String()
    subject_id = _maybe(fields.Integer)
    actor = fields.String()
    request = fields.Dict()
    steps = fields.List(fields.Nested(StepView))
    result = fields.Dict(allow_none=True)
    error = _maybe(fields.String)
    attempt = fields.Integer()
    created_at = _time()
    ended_at = _time()
    version = fields.Integer()


class Reason(Schema):
    rule = fields.String()
    cloud = fields.String()
    node = fields.String()
    text = fields.String()
    have = fields.Raw(allow_none=True)
    need = fields.Raw(allow_none=True)


class Why(Schema):
    subject = fields.Dict()
    verdict = fields.String()
    reasons = fields.List(fields.Nested(Reason))


class TraceEvent(Event):
    after_s = _maybe(fields.Float)


class Attempt(Schema):
    attempt = fields.Integer()
    node = fields.Raw(allow_none=True)
    node_id = _maybe(fields.Integer)
    state = fields.String()
    claimed_at = _time()
    started_at = _time()
    ended_at = _time()
    waited_s = _maybe(fields.Float)
    ran_s = _maybe(fields.Float)
    exit_code = _maybe(fields.Integer)
    reason = _maybe(fields.String)


class Trace(Schema):
    subject = fields.Dict()
    job = fields.Nested(Job)
    node = fields.Nested(Node)
    events = fields.List(fields.Nested(TraceEvent))
    attempts = fields.List(fields.Nested(Attempt))
    nodes = fields.List(fields.Nested(Node))
    jobs = fields.List(fields.Dict())
    boot_failures = fields.List(fields.Dict())


class Loop(Schema):
    name = fields.String()
    leader = _maybe(fields.String)
    interval_s = fields.Float()
    created_at = _time()
    last_cycle_at = _time()
    took_s = _maybe(fields.Float)
    last_error = _maybe(fields.String)
    last_error_at = _time()
    late = fields.Boolean()


class Key(Schema):
    id = fields.Integer()
    name = fields.String()
    prefix = fields.String()
    role = fields.String(validate=validate.OneOf(ROLES))
    org = fields.String()
    created_at = _time()
    expires_at = _time()
    revoked_at = _time()
    last_used_at = _time()


class NewKey(Key):
    key = fields.String(metadata={"description": "shown this once"})


class Token(Schema):
    token = fields.String(metadata={"description": "shown this once"})
    expires_at = _time()


class Counts(Schema):
    by_state = fields.Dict(keys=fields.String(), values=fields.Integer())
    total = fields.Integer()


class Cancelled(Schema):
    cancelled = fields.Integer()


class FileView(Schema):
    name = fields.String()
    size = fields.Integer()
    attempt = fields.Integer()


class Uploaded(Schema):
    name = fields.String()
    size = fields.Integer()


class Setting(Schema):
    key = fields.String()
    value = fields.String()
    origin = fields.String()


class About(Schema):
    name = fields.String()
    version = fields.String()
    api = fields.String()


class Health(Schema):
    status = fields.String()
    checks = fields.List(fields.Nested(Check))


class BadField(Schema):
    field = fields.String()
    message = fields.String()
    allowed = _maybe(fields.String)


class Problem(Schema):
    """RFC 9457."""

    type = fields.String()
    title = fields.String()
    status = fields.Integer()
    detail = fields.String()
    errors = fields.List(fields.Nested(BadField))


_pages: dict[type[Schema], type[Schema]] = {}


def page_of(item: type[Schema]) -> type[Schema]:
    """The schema of a list of these."""
    if item not in _pages:
        _pages[item] = Schema.from_dict(
            {"items": fields.List(fields.Nested(item)), "next": fields.String(allow_none=True)}, name=f"{item.__name__}Page")
    return _pages[item]
