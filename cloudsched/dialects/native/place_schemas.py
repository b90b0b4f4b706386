"""What do bodies and answers look like where a cloud is asked for more than machines?"""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate
from webargs.fields import DelimitedList

from cloudsched.dialects.native.schemas import Strict

MOST_S = 600
_COMMAND = 128 * 1024


def _command(value: Any) -> None:
    listed = isinstance(value, list) and 1 <= len(value) <= 1000 and all(isinstance(one, str) for one in value)
    if not (listed or (isinstance(value, str) and value.strip())) or len(str(value)) > _COMMAND:
        raise ValidationError("must be a text for the shell, or a list of 1 to 1000 texts")


def _manifests(value: Any) -> None:
    if not isinstance(value, (str, list)):
        raise ValidationError("must be a list of objects, or text of YAML documents")


def _limit(default: float) -> fields.Field[Any]:
    return fields.Float(load_default=default, validate=validate.Range(0.1, MOST_S))


class RunBody(Strict):
    command = fields.Raw(required=True, validate=_command, metadata={"description": "a text for the shell, or a list of words"})
    hosts = fields.List(fields.String(), load_default=None, allow_none=True, validate=validate.Length(1, 10_000))
    sudo = fields.Boolean(load_default=False)
    timeout_s = _limit(60)


class CloudDrainBody(Strict):
    """Slurm takes `reason`; Kubernetes the others."""

    reason = fields.String(validate=validate.Length(1, 300))
    timeout_s = fields.Float(validate=validate.Range(0, MOST_S))
    force = fields.Boolean()
    delete_local_data = fields.Boolean()
    ignore_daemon_sets = fields.Boolean()
    grace_s = fields.Integer(strict=True, validate=validate.Range(0, 3600))


class ManifestsBody(Strict):
    manifests = fields.Raw(required=True, validate=_manifests, metadata={"description": "objects, or text of YAML documents"})
    dry_run = fields.Boolean(load_default=False)
    force = fields.Boolean(load_default=False, metadata={"description": "take over fields of other managers"})
    namespace = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 253))


class DeleteBody(Strict):
    """Either `manifests` or `labels` say what."""

    manifests = fields.Raw(load_default=None, allow_none=True, validate=_manifests)
    labels = fields.String(load_default="", validate=validate.Length(max=1000))
    kinds = fields.List(fields.String(), load_default=[], validate=validate.Length(max=100))
    namespace = fields.String(load_default=None, allow_none=True, validate=validate.Length(1, 253))
    wait = fields.Boolean(load_default=True)
    timeout_s = _limit(120)


class BatchBody(Strict):
    jobs = fields.List(fields.Dict(), required=True, validate=validate.Length(1, 10_000))
    key = fields.String(load_default="", validate=validate.Length(max=200),
                        metadata={"description": "with a key it is safe to repeat (Slurm)"})


class BatchIds(Strict):
    ids = fields.List(fields.String(), required=True, validate=validate.Length(1, 10_000))


class BatchQuery(Strict):
    ids = DelimitedList(fields.String(), required=True, validate=validate.Length(1, 1000))


class PodLogQuery(Strict):
    container = fields.String(load_default="")
    tail = fields.Integer(load_default=1000, validate=validate.Range(1, 10_000))
    previous = fields.Boolean(load_default=False)


class Capabilities(Schema):
    name = fields.String()
    kind = fields.String()
    capabilities = fields.List(fields.String())


class HostDone(Schema):
    host = fields.String()
    ok = fields.Boolean(metadata={"description": "reached, and the command came to its end"})
    error = fields.String(metadata={"description": "'' or auth, unreachable, timeout, request, quota, denied, other"})
    message = fields.String()
    transient = fields.Boolean()
    seconds = fields.Float()
    code = fields.Integer(metadata={"description": "of `run`: its exit status"})
    stdout = fields.String()
    stderr = fields.String()
    truncated = fields.Boolean()
    facts = fields.Dict(allow_none=True)
    ping_s = fields.Float(allow_none=True)


class Hosts(Schema):
    items = fields.List(fields.Nested(HostDone))
    failed = fields.Integer(metadata={"description": "hosts that failed, or whose command did"})


class Items(Schema):
    items = fields.List(fields.Dict(), metadata={"description": "as this kind of place has them"})


class NodeDone(Schema):
    node = fields.String()
    verb = fields.String()
    result = fields.Raw(allow_none=True, metadata={"description": "what the place said"})
