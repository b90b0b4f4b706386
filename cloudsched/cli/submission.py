"""What is sent when work is submitted, and what is kept to find its results again?"""

from __future__ import annotations

import argparse
import base64
import copy
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudsched.client import Client

MAX_JOBS = 10_000  # of one request (native API)
_INLINE_BYTES = 256 * 1024  # of one job; more is uploaded after it
_REQUEST_BYTES = 8 * 1024 * 1024  # of inline content in one request
_LOCAL = "path"
# Where a job's results go on the machine that submitted it; kept with the job, so that `jobs fetch` finds them.
LOCAL_PATHS = "cloudsched_local_paths"


class Submission:
    """Jobs as the API takes them; once sent also `ids`, `batch` and the server's `answer`."""

    def __init__(self, jobs: list[dict[str, Any]]) -> None:
        self.jobs = jobs
        self.ids: list[int] = []
        self.batch: str | None = None
        self.answer: Any = None

    @property
    def has_local_paths(self) -> bool:
        """Whether some result has a place on this machine."""
        return any(LOCAL_PATHS in (job.get("attributes") or {}) for job in self.jobs)

    @property
    def has_results(self) -> bool:
        return self.has_local_paths or any(job.get("output_files") for job in self.jobs)

    def repeat(self, count: int) -> None:
        """Every job `count` times."""
        self.jobs = [copy.copy(job) for job in self.jobs for _ in range(count)]


def input_file(path: Path, name: str) -> dict[str, Any]:
    """An input file to be read when the job is sent. ArgumentTypeError: no readable regular file."""
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"--input {path}: no such file (allowed: FILE or FILE:NAME)")
    if not os.access(path, os.R_OK):
        raise argparse.ArgumentTypeError(f"--input {path}: may not be read")
    return {"name": name, _LOCAL: str(path.absolute())}


def send(client: Client, work: Submission, *, must_name_batch: bool = False) -> Submission:
    """Submit, in one request where it fits; big input files follow it, and the jobs wait for them by
    themselves."""
    several = len(work.jobs) > 1 or "array" in work.jobs[0]
    if several or must_name_batch:
        _name_batch(work)
    batches = {job.get("batch") for job in work.jobs}
    work.batch = batches.pop() if len(batches) == 1 else None
    parts = list(_requests(work.jobs))
    if len(parts) > 1:  # one number is good for one request
        for part in parts:
            part[:] = [{name: value for name, value in job.items() if name != "batch_id"} for job in part]
    if len(parts) > 1 and _refers_inside(work.jobs):
        raise argparse.ArgumentTypeError(
            f'{len(work.jobs)} jobs that name each other by "#N" must fit one request (allowed: {MAX_JOBS} jobs, '
            f"{_REQUEST_BYTES // 1024 // 1024}M of small files)"
        )
    answers = _sent(client, work, parts)
    work.answer = answers[0] if len(answers) == 1 else _joined(answers)
    _upload(client, work)
    return work


def _sent(client: Client, work: Submission, parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The answers to all requests; when it ends before the last of them, what is there already is said."""
    if len(parts) > 1:
        print(f"cloudsched: {_all_jobs(work)} jobs in {len(parts)} requests{_as_batch(work)}", file=sys.stderr)
    answers = []
    try:
        for part in parts:
            answers.append(client.create("/jobs", part[0] if len(part) == 1 else {"jobs": part}))
            work.ids += answers[-1].get("ids") or [answers[-1].get("id")]
    except BaseException as error:
        if len(parts) > 1:
            _tell_rest(client, work, error)
        raise
    return answers


def _tell_rest(client: Client, work: Submission, error: BaseException) -> None:
    """Of a submission that stopped halfway: which jobs are there, and how to be rid of them."""
    from cloudsched.client import ApiError

    # Nobody knows whether a request without an answer arrived.
    least = "" if isinstance(error, ApiError) else "at least "
    if not work.ids and not isinstance(error, KeyboardInterrupt):
        return
    _cancel(client, [number for number, job in _owners(work) if _local_bytes(job) > _INLINE_BYTES])
    there = f"{least}{len(work.ids)} of {_all_jobs(work)} jobs were submitted{_as_batch(work)}"
    if work.batch:
        there += f"; cancel them with: cloudsched jobs cancel --batch {shlex.quote(work.batch)}"
    elif work.ids:
        there += f", numbers {work.ids[0]} to {work.ids[-1]}"
    print(f"cloudsched: {there}", file=sys.stderr)


def _as_batch(work: Submission) -> str:
    return f" as batch {work.batch}" if work.batch else ""


def _all_jobs(work: Submission) -> int:
    return sum(map(_array_size, work.jobs))


def _owners(work: Submission) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each number with the job that it was given for, as far as there are numbers."""
    return zip(work.ids, (job for job in work.jobs for _ in range(_array_size(job))), strict=False)


def _cancel(client: Client, ids: list[int]) -> None:
    """Cancel jobs whose files will not come: they would wait for ever."""
    from cloudsched.client import ClientError

    if not ids:
        return
    client.close()  # it may have been interrupted in the middle of a call
    try:
        for start in range(0, len(ids), MAX_JOBS):
            client.post("/jobs/cancel", {"ids": ids[start : start + MAX_JOBS]})
        print(f"cloudsched: {len(ids)} jobs were cancelled, as not all their input files were sent", file=sys.stderr)
    except ClientError as error:
        print(f"cloudsched: jobs {ids[0]} to {ids[-1]} wait for input files that will not come, and could not be "
              f"cancelled: {error}", file=sys.stderr)


def _name_batch(work: Submission) -> None:
    from cloudsched.clock import new_suffix

    label = f"submit-{new_suffix(6)}"
    for job in work.jobs:
        job.setdefault("batch", label)


def _refers_inside(jobs: list[dict[str, Any]]) -> bool:
    refs = (ref for job in jobs for name in ("after_ok", "after_any") for ref in job.get(name, []))
    return any(isinstance(ref, str) and ref.startswith("#") for ref in refs)


def _joined(answers: list[dict[str, Any]]) -> dict[str, Any]:
    """The answers to several requests as if it had been one."""
    return {
        name: [one for answer in answers for one in answer.get(name) or [answer.get(name[:-1])]]
        for name in ("ids", "keys")
    }


def _requests(jobs: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The jobs as they are sent, cut into requests that the server takes."""
    encoded: dict[str, str] = {}
    part: list[dict[str, Any]] = []
    inline = 0
    for job in jobs:
        body, size = _body(job, encoded)
        if part and (len(part) == MAX_JOBS or inline + size > _REQUEST_BYTES):
            yield part
            part, inline = [], 0
        part.append(body)
        inline += size
    yield part


def _body(job: dict[str, Any], encoded: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The job as it is sent, and the bytes of its small files; of big ones only name and size are in it."""
    files = job.get("input_files")
    if not files:
        return job, 0
    total = _local_bytes(job)
    inline = total <= _INLINE_BYTES
    sent = [_file(one, job, encoded if inline else None) for one in files]
    return {**job, "input_files": sent}, total if inline else 0


def _local_bytes(job: dict[str, Any]) -> int:
    return sum(Path(one[_LOCAL]).stat().st_size for one in job.get("input_files", []) if _LOCAL in one)


def _file(one: dict[str, Any], job: dict[str, Any], encoded: dict[str, str] | None) -> dict[str, Any]:
    """`encoded`: contents read already (many jobs share their files); None: announce it, it is uploaded
    later."""
    if _LOCAL not in one:
        return one
    local = one[_LOCAL]
    kept = {key: value for key, value in one.items() if key != _LOCAL}
    if os.access(local, os.X_OK) or job.get("command", [""])[0] == "./" + one["name"]:
        kept.setdefault("mode", 0o755)
    if encoded is None:
        return {**kept, "size": Path(local).stat().st_size}
    if local not in encoded:
        encoded[local] = base64.b64encode(Path(local).read_bytes()).decode()
    text = encoded[local]  # its size, not the file's: that may have grown meanwhile
    return {**kept, "size": len(text) * 3 // 4 - text.count("=", -2), "content_base64": text}


def _upload(client: Client, work: Submission) -> None:
    """Send what was announced by size alone. When that fails or is interrupted the jobs are cancelled."""
    try:
        for number, job in _owners(work):
            if _local_bytes(job) > _INLINE_BYTES:
                _upload_files(client, number, job)
    except BaseException:
        _cancel(client, work.ids)
        raise


def _upload_files(client: Client, number: int, job: dict[str, Any]) -> None:
    from cloudsched.client.http import segment

    for one in job["input_files"]:
        if _LOCAL in one:
            client.upload(f"/jobs/{number}/files/{segment(one['name'])}", Path(one[_LOCAL]).read_bytes())


def _array_size(job: dict[str, Any]) -> int:
    array = job.get("array")
    if not array:
        return 1
    return int(array["size"]) if "size" in array else len(array["indices"])


def with_local_paths(job: dict[str, Any], paths: dict[str, str]) -> dict[str, Any]:
    """The job with the places of its results: `stdout`, `stderr`, `log`, a file's name or a pattern -> path."""
    if not paths:
        return job
    return {**job, "attributes": {**job.get("attributes", {}), LOCAL_PATHS: json.dumps(paths)}}


def local_paths(job: dict[str, Any]) -> dict[str, str]:
    """The places named at submission; {} when there are none."""
    try:
        found = json.loads((job.get("attributes") or {}).get(LOCAL_PATHS) or "{}")
    except (TypeError, ValueError):
        return {}
    return {str(name): str(path) for name, path in found.items()} if isinstance(found, dict) else {}


def names_cluster(path: str) -> bool:
    """Does a submit file use `$(Cluster)` or `$(ClusterId)`, so that its number must be known first?"""
    try:
        return "$(cluster" in Path(path).read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return False  # reading it properly says what is wrong


def from_submit_file(path: str, overrides: dict[str, Any], *, cluster: int | None = None) -> Submission:
    """The jobs of an HTCondor submit description file; options of the command line win.

    `cluster`: the reserved batch number, for files that use it. ArgumentTypeError: the file cannot be read or understood
    (file and line are named).
    """
    from cloudsched.client.submit import SubmitError, read

    try:
        found = read(path, cluster=cluster or 1)
    except SubmitError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    for warning in found.warnings:
        print(f"cloudsched: warning: {warning}", file=sys.stderr)
    jobs = []
    for job, log in zip(found.jobs, found.logs, strict=True):
        outputs = job.get("outputs") or {}
        body = {name: value for name, value in job.items() if name != "outputs"}
        body = {**body, **overrides, **({"batch_id": cluster} if cluster else {})}
        for merged in ("env", "attributes"):
            if merged in overrides:
                body[merged] = {**job.get(merged, {}), **overrides[merged]}
        jobs.append(with_local_paths(body, _paths(outputs, log)))
    return Submission(jobs)


def _paths(outputs: dict[str, Any], log: str | None) -> dict[str, str]:
    """Where the results of a submit file's job go: streams, single files, and all others (`*`) to its
    directory."""
    paths = {name: str(outputs[name]) for name in ("stdout", "stderr") if outputs.get(name)}
    paths |= {str(name): str(place) for name, place in (outputs.get("remaps") or {}).items()}
    if outputs.get("dir"):
        paths["*"] = str(outputs["dir"]).rstrip("/") + "/"
    return {**paths, "log": log} if log else paths
