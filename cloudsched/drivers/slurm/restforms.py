"""What do slurmrestd's bodies look like, in which version of its API? Written and read here, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cloudsched.drivers.slurm import parsing, states
from cloudsched.drivers.slurm.commands import minutes
from cloudsched.drivers.slurm.model import WARNING, ClusterNode, JobRecord, Partition, Submission

OBJECTS_FROM = 39  # numbers become objects, words lists, the environment a list
SCRIPT_IN_JOB_FROM = 40
_PATH = "/usr/local/bin:/usr/bin:/bin"


def submission(job: Submission, version: int) -> dict[str, Any]:
    """The body of POST /job/submit. `version`: the last number of the API's."""
    environment = {"PATH": _PATH, **job.secrets}
    facts: dict[str, Any] = {
        "name": job.name, "comment": job.comment, "tasks": 1, "cpus_per_task": job.cores, "array": job.array,
        "current_working_directory": job.directory, "standard_input": "/dev/null", "standard_output": job.stdout,
        "standard_error": job.stderr, "partition": job.partition, "account": job.account, "qos": job.qos,
        "constraints": job.constraint, "reservation": job.reservation, "requeue": False,
        "dependency": "singleton" if job.singleton else "",
    }  # fmt: skip
    facts = {name: value for name, value in facts.items() if value != ""}
    if job.memory_mb:
        facts["memory_per_node"] = _amount(job.memory_mb, version)
    if job.time_limit_s:
        facts["time_limit"] = _amount(int(minutes(job.time_limit_s)), version)
    facts |= _by_version(job, environment, version)
    if version >= SCRIPT_IN_JOB_FROM:
        return {"job": {**facts, "script": job.script}}
    return {"job": facts, "script": job.script}


def jobs(row: Mapping[str, Any]) -> list[JobRecord]:
    """A member of `jobs` of /slurm/.../jobs; a waiting array, which is one member, task by task."""
    job_id, array, task = str(row.get("job_id")), number(row.get("array_job_id")), number(row.get("array_task_id"))
    raw = states.joined(words(row.get("job_state")))
    live = states.is_live(raw)
    code, signal = (None, None) if live else exit_status(row.get("exit_code"))
    waiting = str(row.get("array_task_string") or "").strip("[]").partition("%")[0]
    ids = [job_id]
    if array and task is not None:
        ids = [f"{array}_{task}"]
    elif array and waiting:
        ids = [f"{array}_{one}" for one in parsing.numbers(waiting)]
    return [JobRecord(
        one, raw, reason=_text(row.get("state_reason")), name=str(row.get("name") or ""), comment=_comment(row.get("comment")),
        partition=str(row.get("partition") or ""), nodes=str(row.get("nodes") or ""), exit_code=code, signal=signal,
        submitted_at=_time(row.get("submit_time")), started_at=_time(row.get("start_time")),
        ended_at=None if live else _time(row.get("end_time"))) for one in ids]  # fmt: skip


def account(row: Mapping[str, Any]) -> JobRecord:
    """A member of `jobs` of /slurmdb/.../jobs."""
    array, times, state = row.get("array") or {}, row.get("time") or {}, row.get("state") or {}
    base, task = number(array.get("job_id")), number(array.get("task_id", array.get("task")))
    raw = states.joined(words(state.get("current")))
    code, signal = (None, None) if states.is_live(raw) else exit_status(row.get("exit_code"))
    if code == 0 and states.job_word(raw) == states.FAILED:  # v0.0.38 tells 0 for every job
        code = None
    steps = row.get("steps") or []
    cpu_s = max(_cpu_s(times), sum(_cpu_s(step.get("time") or {}) for step in steps))
    peaks = [_peak_mb(step) for step in steps]
    return JobRecord(
        f"{base}_{task}" if base and task is not None else str(row.get("job_id")), raw, reason=_text(state.get("reason")),
        name=str(row.get("name") or ""), comment=_comment(row.get("comment")), partition=str(row.get("partition") or ""),
        nodes=_text(row.get("nodes")), exit_code=code, signal=signal, submitted_at=_time(times.get("submission")),
        started_at=_time(times.get("start")), ended_at=_time(times.get("end")), cpu_s=cpu_s,
        max_rss_mb=max((peak for peak in peaks if peak is not None), default=None), source="slurmdbd")  # fmt: skip


def node(row: Mapping[str, Any]) -> ClusterNode:
    """A member of `nodes`."""
    raw = "+".join([*words(row.get("state")), *words(row.get("state_flags"))]).lower()
    return ClusterNode(
        str(row.get("name")), states.node_state(raw), raw, reason=_text(row.get("reason")), cores=number(row.get("cpus")) or 0,
        cores_allocated=number(row.get("alloc_cpus")) or 0, memory_mb=number(row.get("real_memory")) or 0,
        memory_allocated_mb=number(row.get("alloc_memory")) or 0, gres=_text(row.get("gres")),
        gres_allocated=_text(row.get("gres_used")), features=tuple(words(row.get("features"))),
        partitions=tuple(sorted(words(row.get("partitions")))))  # fmt: skip


def partition(row: Mapping[str, Any]) -> Partition:
    """A member of `partitions`: flat up to v0.0.38, in groups after."""
    nodes, cpus, limits, inner = (_group(row.get(name)) for name in ("nodes", "cpus", "maximums", "partition"))
    limit = number(limits.get("time", row.get("max_time_limit")))
    flags = [word.upper() for word in words(row.get("flags"))]
    return Partition(
        str(row.get("name")), "+".join(words(inner.get("state", row.get("state")))).lower(),
        any("DEFAULT" in flag for flag in flags), number(nodes.get("total", row.get("total_nodes"))) or 0,
        number(cpus.get("total", row.get("total_cpus"))) or 0, limit * 60 if limit is not None and limit >= 0 else None)


def number(value: Any) -> int | None:
    """A number, plain or in an object; None when it is not set or without end."""
    if isinstance(value, dict):
        known = value.get("set", True) and not value.get("infinite")
        value = value.get("number") if known else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return int(value)
    except ValueError:
        return None


def words(value: Any) -> list[str]:
    """A list of words, or a text with commas between."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [str(word) for word in value] if isinstance(value, list) else []


def exit_status(value: Any) -> tuple[int | None, int | None]:
    """(exit code, signal) of the number that wait() gives, or of an object with both."""
    if not isinstance(value, dict) or "number" in value:
        status = number(value)
        return (None, None) if status is None else parsing.exit_status(str(status))
    signal = value.get("signal") or {}
    found = number(signal.get("signal_id", signal.get("id"))) if isinstance(signal, dict) else number(signal)
    return (None, found) if found else (number(value.get("return_code")), None)


def _by_version(job: Submission, environment: Mapping[str, str], version: int) -> dict[str, Any]:
    if version < OBJECTS_FROM:  # `signal` there cannot name the batch script
        return {"environment": dict(environment), "nodes": [1, 1], "open_mode": "append"}
    warning = {"kill_warning_flags": ["BATCH_JOB"], "kill_warning_signal": WARNING,
               "kill_warning_delay": _amount(job.warn_s, version)}  # fmt: skip
    return {"environment": [f"{name}={value}" for name, value in environment.items()], "minimum_nodes": 1, "maximum_nodes": 1,
            "open_mode": ["APPEND"], **(warning if job.warn_s else {})}  # fmt: skip


def _group(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _amount(value: int, version: int) -> Any:
    return value if version < OBJECTS_FROM else {"set": True, "infinite": False, "number": value}


def _time(value: Any) -> float | None:
    return float(number(value) or 0) or None


def _text(value: Any) -> str:
    return "" if value is None or str(value) in parsing.EMPTY else str(value)


def _comment(value: Any) -> str:
    """A text, or in accounting an object of several comments."""
    return str((value.get("job") if isinstance(value, dict) else value) or "")


def _cpu_s(times: Mapping[str, Any]) -> float:
    total = times.get("total") or {}
    return (number(total.get("seconds")) or 0) + (number(total.get("microseconds")) or 0) / 1e6


def _peak_mb(step: Mapping[str, Any]) -> int | None:
    """The memory of the biggest task of a step, in bytes over there."""
    for entry in (((step.get("tres") or {}).get("requested") or {}).get("max")) or []:
        if entry.get("type") == "mem":
            count = number(entry.get("count"))
            return None if count is None else count >> 20
    return None
