"""How does a device run a task? Which types it takes, what each becomes, and what is told of its end (contract 11.2).

`echo` and `system_info` are answered on the spot. The others run in a process of their own: `sleep`, `http_request` and
`python_eval` in ours (taskrun.py), `program` and the owner's own types as the program that the owner listed. What runs code
or reaches out is off unless the owner of this device switched it on.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys

import cloudsched

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from cloudsched.agent.jobs import Job

INLINE = frozenset({"echo", "system_info"})
SAFE = ("echo", "sleep", "system_info")
ON_DEMAND = ("http_request", "python_eval")
OUTPUT_MAX = 1 << 20
RESULT_FILE, PROGRESS_FILE = "task.result", "task.progress"
DEFAULT_PROGRAM_S = 30.0
BATCH = ("command", "noop")
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(cloudsched.__file__)))
_START = "import sys; sys.path.insert(0, %r); from cloudsched.agent.taskrun import main; sys.exit(main())" % _ROOT


class Unfit(ValueError):
    """The payload cannot be run; the message is for the one who submitted it."""


class Rules:
    """What the owner of this device allows. `programs`: name -> path; `handlers`: task type -> path."""

    def __init__(self, *, allow: Iterable[str] = (), programs: Mapping[str, str] | None = None,
                 handlers: Mapping[str, str] | None = None, private_addresses: bool = False, batch: bool = True) -> None:
        self.programs = dict(programs or {})
        self.handlers = dict(handlers or {})
        self.private_addresses = private_addresses
        on_demand = [kind for kind in ON_DEMAND if kind in set(allow)]
        own = ["program"] if self.programs else []
        self.kinds = [*SAFE, *on_demand, *own, *sorted(self.handlers), *(BATCH if batch else ())]


def prepare(job: Job, rules: Rules, profile: Mapping[str, Any]) -> None:
    """Make a task ready: `job.answer` for one that is answered on the spot, `job.argv` and `job.stdin` for the others.
    One that cannot run gets a `fault`."""
    payload = job.payload or {}
    try:
        if job.kind not in rules.kinds:
            raise Unfit("the task type %s is not enabled on this device" % ("command" if job.kind == "program" else job.kind))
        if job.payload is None:  # a batch job is ready as it came
            return
        make = _MAKE.get(job.kind, _own_type)
        make(job, payload, rules, profile)
    except Unfit as error:
        job.fault = str(error)


def result(job: Job) -> dict[str, Any] | None:
    """What is told of a task beside its state: data, output, exit code, error, usage (docs/design/agent-protocol.md).
    To be read before its directory goes."""
    found: dict[str, Any] = dict(job.answer) if job.answer is not None else {}
    if job.answer is None and job.pid:
        found = _OUTCOME.get(job.kind, _of_program)(job)
    if job.verdict is not None:  # ended by us: that is the reason, whatever it said of itself
        found["error"] = job.verdict[1] or found.get("error") or job.verdict[0]
    usage = {"peak_memory_mb": job.max_rss_mb, "total_cpu_time_seconds": job.cpu_s, "peak_cpu_percent": _cpu_percent(job)}
    found["usage"] = {name: value for name, value in usage.items() if value is not None}
    return found


def progress(job: Job) -> Any:
    """How far the task is, as it says; None when it says nothing new that can be read."""
    if job.scratch is None or job.kind in INLINE:
        return None
    value = _read(os.path.join(job.scratch, PROGRESS_FILE), 1 << 16)
    return value if isinstance(value, dict) else None


# what each type becomes


def _echo(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    repeat = payload.get("repeat", 1)
    if isinstance(repeat, bool) or not isinstance(repeat, int) or not 1 <= repeat <= 1000:
        raise Unfit("repeat is not a whole number from 1 to 1000")
    job.answer = {"data": {"echo": dict(payload)}}


def _system_info(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    job.answer = {"data": dict(profile)}


def _sleep(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    duration = payload.get("duration", 1.0)
    number = isinstance(duration, (int, float)) and not isinstance(duration, bool)
    limit_s = job.time_limit_s or 86_400.0
    if not number or not math.isfinite(duration) or not 0 <= duration <= limit_s:
        raise Unfit("duration is not a number of seconds from 0 to the time limit of the task (%g)" % limit_s)
    _in_ours(job, payload, rules)


def _python_eval(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    if not payload.get("expression"):
        raise Unfit("No expression provided")
    if not isinstance(payload["expression"], str):
        raise Unfit("expression is not text")
    _in_ours(job, payload, rules)


def _http_request(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    if not isinstance(payload.get("url"), str):
        raise Unfit("url is missing")
    _in_ours(job, payload, rules)


def _in_ours(job: Job, payload: Mapping[str, Any], rules: Rules) -> None:
    job.argv = [sys.executable, "-I", "-c", _START]
    job.stdin = json.dumps({"kind": job.kind, "payload": dict(payload), "checkpoint": job.checkpoint,
                            "allow_private": rules.private_addresses})


def _program(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    command = payload.get("command")
    if not isinstance(command, str) or not command.strip() or "\0" in command:
        raise Unfit("command is missing")
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Unfit("command cannot be read: %s" % error) from None
    if not words or words[0] not in rules.programs:
        raise Unfit("%s is not among the programs this device allows (%s)"
                    % ((words or ["nothing"])[0][:100], ", ".join(sorted(rules.programs)) or "none"))
    timeout = payload.get("timeout", DEFAULT_PROGRAM_S)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= 86_400:
        raise Unfit("timeout is not a number of seconds")
    job.argv = [rules.programs[words[0]], *words[1:]]
    job.time_limit_s = min(float(timeout), job.time_limit_s or float(timeout))


def _own_type(job: Job, payload: Mapping[str, Any], rules: Rules, profile: Mapping[str, Any]) -> None:
    """The owner's program gets the payload on standard input; what it prints is the result."""
    job.argv = [rules.handlers[job.kind]]
    job.stdin = json.dumps({"payload": dict(payload), "checkpoint": job.checkpoint})


_MAKE: dict[str, Callable[[Job, Mapping[str, Any], Rules, Mapping[str, Any]], None]] = {
    "echo": _echo, "sleep": _sleep, "system_info": _system_info, "python_eval": _python_eval, "http_request": _http_request,
    "program": _program,
}  # fmt: skip


# what came out


def _of_ours(job: Job) -> dict[str, Any]:
    found = _read(os.path.join(job.scratch or "", RESULT_FILE), OUTPUT_MAX + 65_536)
    if isinstance(found, dict):
        return {**found, "exit_code": 0 if "data" in found else 1}
    return {} if job.verdict is not None else {"error": "the task ended without a result"}


def _of_program(job: Job) -> dict[str, Any]:
    texts, cut = [], False
    for number in (0, 1):
        text, more = _captured(job, number)
        texts.append(text)
        cut = cut or more
    if job.kind == "program":
        code = job.exit_code if job.exit_code is not None else -1
        found: dict[str, Any] = {"exit_code": code, "data": {"return_code": code, "stdout": texts[0], "stderr": texts[1],
                                                             "command": str((job.payload or {}).get("command"))}}
        if code:
            found["error"] = "exit code %d" % code
    else:
        found = {"data": _parsed(texts[0]), "exit_code": job.exit_code}
        if job.exit_code:
            found["error"] = texts[1].strip()[-500:] or "exit code %s" % job.exit_code
    if cut:
        found["truncated"] = True
    return found


_OUTCOME = {"sleep": _of_ours, "python_eval": _of_ours, "http_request": _of_ours}


def _parsed(text: str) -> Any:
    """The owner's program prints JSON, or just text."""
    try:
        return json.loads(text)
    except ValueError:
        return {"output": text}


def _captured(job: Job, number: int) -> tuple[str, bool]:
    if job.captured is None:
        return "", False
    most = OUTPUT_MAX // 4
    size = os.fstat(job.captured[number]).st_size
    return os.pread(job.captured[number], most, 0).decode("utf-8", "replace"), size > most


def _cpu_percent(job: Job) -> float | None:
    """On average over the run: a peak is not measured."""
    if job.cpu_s is None or job.started is None or job.ended - job.started <= 0:
        return None
    return round(100.0 * job.cpu_s / (job.ended - job.started), 1)


def _read(path: str, most: int) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(most))
    except (OSError, ValueError):
        return None
