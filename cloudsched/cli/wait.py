"""When have these jobs ended, and how? Progress goes to standard error, so that the output stays the
command's own."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cloudsched.cli.job_words import ENDED, STATES, job_path
from cloudsched.cli.screen import Block, Screen, bar
from cloudsched.cli.session import Session
from cloudsched.cli.table import STATE_COLOURS
from cloudsched.cli.values import show_duration

if TYPE_CHECKING:
    from cloudsched.client import Client

EXIT_TIMEOUT = 124
EXIT_SIGNAL = 128
_ACTIVE = tuple(state for state in STATES if state not in ENDED)
_ROUND = 100
_OVER = ENDED | {"ended"}  # `ended`: gone from the open jobs, how is read at the end


def wait_for(
    session: Session, ids: Sequence[int | str], *, batch: str | None = None, quiet: bool = False
) -> list[dict[str, Any]]:
    """The jobs as they ended, in the order of `ids`. `batch`: a label that all of them carry (cheaper to
    watch)."""
    screen = Screen(sys.stderr)
    block = Block(screen, every_s=5.0)
    started = time.monotonic()
    ended: dict[int | str, dict[str, Any]] = {}
    states: dict[int | str, str] = dict.fromkeys(ids, "queued")
    pause_s = 0.05
    while True:
        asked = time.monotonic()
        counts = _look(session.client, states, ended, batch=batch)
        jobs = None
        if _over(counts) == len(states):
            jobs = _collect(session.client, ids, ended, batch=batch)
            counts = Counter(job["state"] for job in jobs)
        if not quiet and (len(ids) > 1 or screen.terminal):
            block.show(*_picture(screen, counts, time.monotonic() - started), final=jobs is not None)
        if jobs is not None:
            return jobs
        time.sleep(max(pause_s, 2 * (time.monotonic() - asked)))
        pause_s = min(pause_s * 1.5, 1.0)


def exit_status(jobs: Sequence[dict[str, Any]]) -> int:
    """One job: its own exit status (128+N for a signal, 124 for its time limit); several: 0 when all
    succeeded."""
    if len(jobs) != 1:
        return 0 if all(job["state"] == "succeeded" for job in jobs) else 1
    job = jobs[0]
    if job["state"] == "succeeded":
        return 0
    if job["state"] == "timeout":
        return EXIT_TIMEOUT
    if job.get("signal"):
        return EXIT_SIGNAL + int(job["signal"])
    return int(job.get("exit_code") or 1)


def follow(client: Client, job: int | str, *, titled: bool) -> None:
    """Both outputs of a job as they come, until it has ended."""
    if titled:
        print(f"==> {job} <==", flush=True)
    failed: list[Exception] = []

    def copy_errors() -> None:
        try:
            _copy(client, job, "stderr")
        except Exception as error:
            failed.append(error)

    errors = threading.Thread(target=copy_errors, daemon=True)
    errors.start()
    _copy(client, job, "stdout")
    errors.join()
    if failed:
        raise failed[0]


def counts_text(counts: Counter[str], screen: Screen) -> str:
    """`3 queued, 2 running, 95 succeeded`, each in its colour."""
    shown = [(state, counts[state]) for state in (*STATES, "ended") if counts[state]]
    return ", ".join(screen.paint(f"{n} {state}", STATE_COLOURS.get(state)) for state, n in shown)


def _look(
    client: Client, states: dict[int | str, str], ended: dict[int | str, dict[str, Any]], *, batch: str | None
) -> Counter[str]:
    """How many are in which state? Many jobs are counted, of others `states` is brought up to date; without a batch at
    most `_ROUND` of the open jobs at a time."""
    open_ids = [one for one, state in states.items() if state not in _OVER]
    if batch and len(open_ids) > _ROUND:
        found = client.get("/jobs/count", batch=batch)
        if found["total"] == len(states):  # else others carry that label too
            return Counter(found["by_state"])
    if batch and len(open_ids) > 1:
        active = {
            job["id"]: job["state"]
            for job in client.items("/jobs", batch=batch, state=list(_ACTIVE), order="id")
        }
        for one in open_ids:
            states[one] = active.get(one, "ended")
        return Counter(states.values())
    for one in open_ids[:_ROUND]:
        job = client.get(job_path(one))
        states[one] = job["state"]
        if job["state"] in ENDED:
            ended[one] = job
    return Counter(states.values())


def _over(counts: Counter[str]) -> int:
    return sum(counts[state] for state in _OVER)


def _collect(
    client: Client, ids: Sequence[int | str], ended: dict[int | str, dict[str, Any]], *, batch: str | None
) -> list[dict[str, Any]]:
    if batch and len(ended) < len(ids):
        ended |= {job["id"]: job for job in client.items("/jobs", batch=batch, order="id")}
    return [ended.get(one) or client.get(job_path(one)) for one in ids]


def _picture(screen: Screen, counts: Counter[str], seconds: float) -> tuple[list[str], str]:
    done, total = _over(counts), counts.total()
    text = f"{done}/{total}  {show_duration(round(seconds))}"
    return [
        f"{bar(done, total)} {text}  {counts_text(counts, screen)}"
    ], f"{text}  {counts_text(counts, screen)}"


def _copy(client: Client, job: int | str, stream: str) -> None:
    out = sys.stderr.buffer if stream == "stderr" else sys.stdout.buffer
    for piece in client.output(job, stream, follow=True):
        out.write(piece)
        out.flush()
