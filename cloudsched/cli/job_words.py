"""What does every command about jobs know? Their states, and where a job is asked for."""

from __future__ import annotations

STATES = ("pending", "held", "queued", "assigned", "running", "succeeded", "failed", "timeout", "cancelled")
ENDED = frozenset({"succeeded", "failed", "timeout", "cancelled"})


def job_path(job: int | str) -> str:
    """The path of a job by number or key."""
    from cloudsched.client.http import segment

    return f"/jobs/{segment(job)}"
