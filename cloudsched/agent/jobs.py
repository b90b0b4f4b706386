"""What does the agent know about one job attempt in hand?"""

from __future__ import annotations

import time

from cloudsched.agent.scratch import checked_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WAITING = "waiting"  # claimed, not started
FETCHING = "fetching"  # input files are on their way
RUNNING = "running"
ENDING = "ending"  # the main process is dead; its leftovers are being killed
SENDING = "sending"  # output is on its way
STARTED = (FETCHING, RUNNING, ENDING)  # phases that hold cores, memory and a slot


class Batch:
    """Jobs that came in one answer: how long does such a batch take?"""

    __slots__ = ("asked", "left", "received", "size")

    def __init__(self, asked: int, size: int, received: float) -> None:
        self.asked = asked
        self.size = size
        self.left = size
        self.received = received


class Job:
    """One attempt; times are of the monotonic clock."""

    __slots__ = (
        "answer",
        "argv",
        "attempt",
        "batch",
        "captured",
        "checkpoint",
        "cores",
        "cpu_s",
        "cut",
        "dropped",
        "ended",
        "env",
        "exit_code",
        "fault",
        "id",
        "inputs",
        "key",
        "kill_at",
        "kind",
        "logged",
        "max_rss_mb",
        "memory_mb",
        "occupies",
        "outputs",
        "payload",
        "phase",
        "pid",
        "received",
        "scratch",
        "sent",
        "signal",
        "started",
        "stdin",
        "storage_gb",
        "storage_seen",
        "streaming",
        "tell_start",
        "time_limit_s",
        "verdict",
    )

    def __init__(self, job_id: int, attempt: int) -> None:
        self.id = job_id
        self.attempt = attempt
        self.key = (job_id, attempt)
        self.kind = "command"
        self.argv: list[str] = []
        self.env: dict[str, str] = {}
        self.stdin: str | None = None
        self.cores = 0
        self.memory_mb = 0
        self.storage_gb = 0.0
        self.time_limit_s: float | None = None
        self.inputs: list[dict[str, Any]] = []
        self.outputs: list[str] = []
        self.payload: dict[str, Any] | None = None  # of a task (tasks.py); None: a batch job
        self.checkpoint: Any = None  # how far an earlier attempt came, as it said
        self.answer: dict[str, Any] | None = None  # of a task that was answered on the spot
        self.fault: str | None = None
        self.batch: Batch | None = None
        self.phase = WAITING
        self.received = time.monotonic()
        self.started: float | None = None
        self.ended = 0.0
        self.pid = 0
        self.scratch: str | None = None
        self.captured: tuple[int, int] | None = None
        self.sent = [0, 0]
        self.cut = [False, False]  # the server takes no more of that stream
        self.streaming = False
        self.logged: list[int] | None = None  # collected so far of each stream; None: its output is not collected
        self.tell_start = False
        self.storage_seen = 0.0
        self.verdict: tuple[str, str | None] | None = None  # state and reason decided before the process ended
        self.kill_at: float | None = None
        self.dropped = False
        self.occupies = False  # it has taken a slot, cores and memory
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.cpu_s: float | None = None
        self.max_rss_mb: int | None = None

    @property
    def instant(self) -> bool:
        """Does it need no room, because it is over at once?"""
        return self.kind in ("noop", "echo", "system_info")

    @property
    def label(self) -> str:
        return "%d.%d" % self.key


def parse(item: Any) -> Job:
    """A job from the `jobs` of an answer. One that cannot be run is returned with `fault` set; it is reported as
    failed. Raises ValueError when not even its number is known."""
    if not isinstance(item, dict) or not _is_count(item.get("id")) or not _is_count(item.get("attempt")):
        raise ValueError("a job without id and attempt")
    job = Job(item["id"], item["attempt"])
    spec = item.get("spec")
    if not isinstance(spec, dict):
        job.fault = "cannot start: the job has no spec"
        return job
    try:
        _fill(job, spec)
    except (ValueError, TypeError) as error:
        job.fault = str(error) if str(error).startswith("input file") else "cannot start: %s" % error
    return job


def _fill(job: Job, spec: dict[str, Any]) -> None:
    job.kind = spec.get("kind") or "command"
    job.cores = int(spec.get("cores") or 0)
    job.memory_mb = int(spec.get("memory_mb") or 0)
    job.storage_gb = float(spec.get("storage_gb") or 0)
    if job.kind == "noop":
        return
    limit = spec.get("time_limit_s")
    job.time_limit_s = None if limit is None else float(limit)
    if job.kind != "command":
        job.payload = spec.get("payload") or {}
        if not isinstance(job.kind, str) or not isinstance(job.payload, dict):
            raise ValueError("a task is a kind and a payload")
        job.checkpoint = spec.get("checkpoint")
        job.env = _environment(spec)
        return
    job.argv = _strings(spec.get("command"), "command")
    if not job.argv:
        raise ValueError("command is empty")
    job.env = _environment(spec)
    job.stdin = spec.get("stdin")
    if job.stdin is not None and not isinstance(job.stdin, str):
        raise ValueError("stdin is not text")
    job.outputs = [checked_name(name.rstrip("/")) for name in _strings(spec.get("output_files") or [], "output_files")]
    job.inputs = spec.get("input_files") or []
    for one in job.inputs:
        try:
            checked_name(one.get("name") if isinstance(one, dict) else one)
        except ValueError as error:
            raise ValueError("input file %s" % error) from None


def _environment(spec: dict[str, Any]) -> dict[str, str]:
    env = {str(name): str(value) for name, value in (spec.get("env") or {}).items()}
    env["CLOUDSCHED_JOB"] = str(spec.get("key") or "")
    if spec.get("array_index") is not None:
        env["CLOUDSCHED_ARRAY_INDEX"] = str(spec["array_index"])
    for name, value in env.items():
        if not name or "=" in name or "\0" in name + value:
            raise ValueError("env: %r is not a variable that can be set" % name)
    return env


def _strings(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("%s is not a list of texts" % field)
    if any("\0" in one for one in value):
        raise ValueError("%s has a NUL in it" % field)
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
