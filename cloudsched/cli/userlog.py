"""What does the `log` file of a submit description say? The life of a job in the lines that HTCondor tools
read."""

from __future__ import annotations

from typing import Any

from cloudsched.cli.values import show_time


def user_log(job: dict[str, Any]) -> str:
    """The log of one ended job: submitted, executing, and terminated or aborted."""
    head = f"({_number(job.get('batch_id') or job['id']):03d}.{_number(job.get('index')):03d}.000)"
    node = job.get("node") or ""
    parts = [_event("000", head, job.get("submitted_at"), f"Job submitted from host: <{_host(job)}>")]
    if job.get("started_at"):
        parts.append(_event("001", head, job["started_at"], f"Job executing on host: <{node}>"))
    parts.append(_end(job, head))
    return "".join(parts)


def _end(job: dict[str, Any], head: str) -> str:
    if job["state"] == "cancelled":
        return _event("009", head, job.get("ended_at"), "Job was aborted.", job.get("reason") or "cancelled")
    if job["state"] == "timeout":
        return _event("009", head, job.get("ended_at"), "Job was aborted.", job.get("reason") or "time limit")
    if job.get("signal"):
        return _event(
            "005",
            head,
            job.get("ended_at"),
            "Job terminated.",
            f"(0) Abnormal termination (signal {job['signal']})",
        )
    text = f"(1) Normal termination (return value {_number(job.get('exit_code'))})"
    return _event("005", head, job.get("ended_at"), "Job terminated.", text)


def _event(code: str, head: str, at: str | None, text: str, more: str = "") -> str:
    lines = [f"{code} {head} {show_time(at)} {text}"] + ([f"\t{more}"] if more else []) + ["..."]
    return "\n".join(lines) + "\n"


def _host(job: dict[str, Any]) -> str:
    return str(job.get("key") or "").partition("#")[0]


def _number(value: Any) -> int:
    return int(value) if isinstance(value, (int, float)) else 0
