"""What does every command about jobs know? Their states, and where a job is asked for."""

from __future__ import annotations

from typing import Any

STATES = ("pending", "held", "queued", "assigned", "running", "succeeded", "failed", "timeout", "cancelled")
ENDED = frozenset({"succeeded", "failed", "timeout", "cancelled"})


def cut_text(job: dict[str, Any], stream: str) -> str | None:
    """What is said of an output that was cut; None when it is whole."""
    name = "error" if stream == "stderr" else "output"
    if not job.get(f"{name}_truncated"):
        return None
    what = "error output" if stream == "stderr" else "output"
    return f"the {what} was cut at {job.get(f'{name}_size')} bytes (the rest is not kept)"


def job_path(job: int | str) -> str:
    """The path of a job by number or key."""
    from cloudsched.client.http import segment

    return f"/jobs/{segment(job)}"
