"""What may be asked of the built-in queue? The request for a job, checked field by field."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cloudsched.errors import FieldError, Invalid

Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Text = Annotated[str, Meta(max_length=1000)]
Name = Annotated[str, Meta(max_length=200)]
Reference = int | str

MAX_BATCH = 10_000
PAYLOAD_MAX = 1 << 18
BATCH = ("command", "noop")
MAX_ARRAY = 100_000
# As the agent takes names: relative, every part a name of its own.
_UNSAFE_NAME = re.compile(r"^[/~]|(^|/)\.{0,2}(/|$)|\x00")
_KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class InputFile(msgspec.Struct, forbid_unknown_fields=True):
    """A file that lies in the scratch directory when the job starts: its content here, or `size` and an upload later."""

    name: Text
    content_base64: str | None = None
    size: Count | None = None
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o644


class Array(msgspec.Struct, forbid_unknown_fields=True):
    """Many jobs of one request: `size` (indices 0..size-1) or `indices`."""

    size: Annotated[int, Meta(ge=1, le=MAX_ARRAY)] | None = None
    indices: Annotated[list[Annotated[int, Meta(ge=0, le=1_000_000_000)]], Meta(min_length=1, max_length=MAX_ARRAY)] | None = None


class Wants(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a job asks of a machine beside its room (domain/scheduling/model.Require). Only machines that are there count:
    nothing is booted for a job that asks."""

    os: Annotated[str, Meta(max_length=100)] = ""
    role: Annotated[str, Meta(max_length=100)] = ""
    tags: Annotated[list[Name], Meta(max_length=100)] = []
    gpu: bool = False
    internet: bool = False
    node: int | Name | None = None
    min_cores: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    min_memory_mb: Count = 0
    min_storage_gb: Annotated[float, Meta(ge=0, le=1e9)] = 0


class JobRequest(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One job as asked for. Units: MB, GB, seconds. See docs/design/native-api.md."""

    command: Annotated[list[Annotated[str, Meta(max_length=131_072)]], Meta(max_length=1000)] = []
    kind: Annotated[str, Meta(min_length=1, max_length=100)] = "command"
    payload: dict[str, Any] | None = None
    require: Wants | None = None
    name: Name = ""
    user: Annotated[str, Meta(max_length=100)] | None = None
    env: dict[str, Annotated[str, Meta(max_length=131_072)]] = {}
    stdin: Annotated[str, Meta(max_length=1_048_576)] | None = None
    vm_type: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    cores: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    memory_mb: Count | None = None
    storage_gb: Count | None = None
    gpus: Annotated[int, Meta(ge=0, le=1000)] = 0
    network: Annotated[str, Meta(max_length=100)] | None = None
    priority: Annotated[int, Meta(ge=-1_000_000, le=1_000_000)] = 0
    time_limit_s: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 0
    backoff_s: Annotated[float, Meta(ge=0, le=3600)] = 0
    hold: bool = False
    after_ok: Annotated[list[Reference], Meta(max_length=1000)] = []
    after_any: Annotated[list[Reference], Meta(max_length=1000)] = []
    depends_fail: Literal["cancel", "hold"] = "cancel"
    input_files: Annotated[list[InputFile], Meta(max_length=1000)] = []
    output_files: Annotated[list[Text], Meta(max_length=1000)] = []
    targets: Annotated[list[Name], Meta(max_length=1000)] = []
    image: str | dict[str, str] | None = None
    instance_type: str | dict[str, str] | None = None
    keep_alive_s: Count | None = None
    high_priority: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    vmtype_limit: Annotated[int, Meta(ge=-1, le=1_000_000)] = -1
    job_per_core: bool = False
    maximum_price: Annotated[float, Meta(ge=0, le=1e9)] = 0
    security_groups: Annotated[list[Name], Meta(max_length=100)] = []
    attributes: dict[str, Any] = {}
    array: Array | None = None
    batch: Name = ""
    batch_id: Annotated[int, Meta(ge=1, le=2**53)] | None = None

    @property
    def is_batch(self) -> bool:
        """Is it work for the batch queue (a command, or nothing), and not a task of some type?"""
        return self.kind in BATCH

    def count(self) -> int:
        """How many jobs this request makes."""
        if self.array is None:
            return 1
        return self.array.size or len(self.array.indices or [])


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """Many jobs at once, all or nothing."""

    jobs: Annotated[list[JobRequest], Meta(min_length=1, max_length=MAX_BATCH)]


_single = msgspec.json.Decoder(JobRequest)
_batch = msgspec.json.Decoder(BatchRequest)
_starts_batch = re.compile(rb'\s*\{\s*"jobs"\s*:')
_AT = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<where>.*)`)?$", re.S)


def parse(body: bytes) -> tuple[list[JobRequest], bool]:
    """The jobs of a POST body and whether it was a batch. Raises Invalid naming each bad field."""
    batch = bool(_starts_batch.match(body)) or _has_jobs(body)
    try:
        found = _batch.decode(body).jobs if batch else [_single.decode(body)]
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}", errors=[FieldError("body", str(error), "a JSON object")]) from None
    problems = [problem for index, job in enumerate(found) for problem in check(job, f"jobs[{index}]." if batch else "")]
    if problems:
        raise Invalid("; ".join(f"{p.field}: {p.message}" for p in problems[:5]), errors=problems[:100])
    return found, batch


def _has_jobs(body: bytes) -> bool:
    """A batch whose first member is not `jobs` (rare: only then is the body read twice)."""
    if b'"jobs"' not in body:
        return False
    try:
        loose = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return isinstance(loose, dict) and "jobs" in loose


def unsafe_name(name: str) -> bool:
    """Could this name of a file lead out of the directory it belongs to, or name the directory itself?"""
    return _UNSAFE_NAME.search(name) is not None


def invalid(error: msgspec.ValidationError) -> Invalid:
    """msgspec's complaint as an Invalid that names the field."""
    match = _AT.match(str(error))
    assert match is not None
    where = (match["where"] or "").lstrip(".") or "body"
    message = match["what"]
    unknown = re.search(r"unknown field `(.+)`", message)
    if unknown:
        where = f"{where}.{unknown[1]}" if where != "body" else unknown[1]
        message = "unknown field"
    return Invalid(f"{where}: {message}", errors=[FieldError(where, message)])


def check(job: JobRequest, prefix: str = "") -> list[FieldError]:
    """What types alone cannot say."""
    problems = []
    if not job.is_batch or job.payload is not None:
        problems += _check_task(job, prefix)
    if job.kind == "command" and not job.command:
        problems.append(FieldError(prefix + "command", "is missing", "a list of at least one string"))
    if job.command and not job.command[0]:
        problems.append(FieldError(prefix + "command[0]", "is empty", "the program to run"))
    if any("\x00" in word for word in job.command):
        problems.append(FieldError(prefix + "command", "holds a NUL character", "strings without NUL"))
    problems += [FieldError(f"{prefix}env", f"{name!r} is no variable name", "letters, digits and _")
                 for name in job.env if not _ENV_NAME.match(name)]
    problems += [FieldError(f"{prefix}env.{name}", "holds a NUL character") for name, value in job.env.items() if "\x00" in value]
    problems += [FieldError(f"{prefix}input_files[{i}].name", f"{item.name!r} is no plain name below the scratch directory",
                            "a relative path without empty parts, '.' and '..'")
                 for i, item in enumerate(job.input_files) if _UNSAFE_NAME.search(item.name)]
    problems += [FieldError(f"{prefix}output_files[{i}]", f"{name!r} is no plain name below the scratch directory",
                            "a relative path or pattern without empty parts, '.' and '..'")
                 for i, name in enumerate(job.output_files) if _UNSAFE_NAME.search(name.rstrip("/"))]
    names = [item.name for item in job.input_files]
    if len(set(names)) != len(names):
        problems.append(FieldError(prefix + "input_files", "two files have the same name"))
    folders = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
    problems += [FieldError(f"{prefix}input_files[{i}].name", f"{name!r} is a directory of another file")
                 for i, name in enumerate(names) if name in folders]
    if job.array is not None and (job.array.size is None) == (job.array.indices is None):
        problems.append(FieldError(prefix + "array", "give size or indices, one of them"))
    if job.array is not None and job.array.indices is not None and (twice := _first_twice(job.array.indices)) is not None:
        problems.append(FieldError(prefix + "array.indices", f"holds {twice} twice", "each index once"))
    if job.user is not None and not job.user.strip():
        problems.append(FieldError(prefix + "user", "is empty"))
    problems += [FieldError(prefix + name, "holds a control character", "printable text")
                 for name, text in (("user", job.user), ("name", job.name), ("batch", job.batch))
                 if text and _CONTROL.search(text)]
    return problems


def _first_twice(indices: list[int]) -> int | None:
    if len(set(indices)) == len(indices):
        return None
    seen: set[int] = set()
    return next(index for index in indices if index in seen or seen.add(index))  # type: ignore[func-returns-value]


def _check_task(job: JobRequest, prefix: str) -> list[FieldError]:
    """Members of jobs that are no commands."""
    problems = []
    if not _KIND.match(job.kind):
        problems.append(FieldError(prefix + "kind", f"{job.kind[:40]!r} is no kind of job", "letters, digits and _ . : -"))
    if job.is_batch:
        problems.append(FieldError(prefix + "payload", f"a job of kind {job.kind} takes none", "command, env, stdin"))
    elif job.payload is not None and len(msgspec.json.encode(job.payload)) > PAYLOAD_MAX:
        problems.append(FieldError(prefix + "payload", "is too large", f"at most {PAYLOAD_MAX >> 10} KiB as JSON"))
    if job.command and not job.is_batch:
        problems.append(FieldError(prefix + "command", f"a job of kind {job.kind} takes none", "payload"))
    return problems
