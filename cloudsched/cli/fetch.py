"""Where do results go? Outputs and files of jobs, to the places named at submission or below a directory.

Places come back from the server with the job, and another person may have submitted it: unless this very
command submitted the job, only places below the current directory (or below --to) are written.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cloudsched.cli.commands import EXIT_FAILED, EXIT_NOT_FOUND, EXIT_OK
from cloudsched.cli.job_words import ENDED, cut_text, job_path
from cloudsched.cli.problems import fail
from cloudsched.cli.session import Session
from cloudsched.cli.submission import local_paths
from cloudsched.cli.userlog import user_log


def fetch_jobs(session: Session, ids: Sequence[str], *, to: str | None) -> int:
    """`jobs fetch BATCH|ID...`: everything that the ended jobs left."""
    jobs = [job for one in ids for job in _jobs(session, one)]
    if not jobs:
        return fail(f"no such batch or job: {', '.join(ids)}", EXIT_NOT_FOUND)
    ended = [job for job in jobs if job["state"] in ENDED]
    files: list[dict[str, Any]] = []
    failed = write_results(session, ended, to=to, within=Path(to or ".").resolve(), files=files)
    if session.screen.as_json:
        session.screen.json({"files": files})
    open_jobs = [job["id"] for job in jobs if job["state"] not in ENDED]
    if open_jobs:
        return fail(
            f"{len(open_jobs)} of {len(jobs)} jobs have not ended yet; fetch again later", EXIT_FAILED
        )
    return EXIT_FAILED if failed else EXIT_OK


def write_results(
    session: Session, jobs: Sequence[dict[str, Any]], *, to: str | None = None, within: Path | None = None,
    files: list[dict[str, Any]] | None = None,
) -> int:
    """Write the results of ended jobs; says each path; returns how many were not written. `within`: nowhere
    else. `files` gets what was written."""
    failed = 0
    written: set[Path] = set()
    for job in jobs:
        for name, path in _places(session, job, to):
            if within is not None and not path.resolve().is_relative_to(within):
                failed += 1
                fail(f"job {job['id']}, {name}: {path} is outside of {within}: go there, or use --to DIR")
                continue
            try:
                size = _write(session, job, name, path, fresh=path not in written)
            except OSError as error:
                failed += 1
                fail(f"job {job['id']}, {name}: {path}: {error.strerror}")
                continue
            written.add(path)
            _say(session, job, path, size)
            if files is not None:
                files.append(_written(job["id"], name, path, size))
            cut = cut_text(job, name) if name in ("stdout", "stderr") else None
            if cut:
                fail(f"job {job['id']}: {cut}")
    return failed


def fetch_files(session: Session, job: str, *, names: Sequence[str] | None, to: str) -> int:
    """Write output files of one job below `to`; None: all of them."""
    found = [str(one["name"]) for one in session.client.get(f"{job_path(job)}/files")["items"]]
    wanted = found if names is None else list(names)
    missing = [name for name in wanted if name not in found]
    if missing:
        has = ", ".join(found) or "none"
        return fail(f"job {job} has no file {', '.join(missing)} (allowed: {has})", EXIT_NOT_FOUND)
    files = []
    for name in wanted:
        path = below(Path(to), name)
        size = _write(session, {"id": job}, name, path, fresh=True)
        _say(session, {"id": job}, path, size)
        files.append(_written(job, name, path, size))
    if session.screen.as_json:
        session.screen.json({"files": files})
    return EXIT_OK


def below(directory: Path, name: str) -> Path:
    """The path of `name` inside `directory`; parts that would lead out of it are dropped."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return directory.joinpath(*parts) if parts else directory / "file"


def _jobs(session: Session, one: str) -> list[dict[str, Any]]:
    if one.isdigit() or "#" in one:
        return [session.client.get(job_path(one))]
    return list(session.client.items("/jobs", batch=one, order="id"))


def _places(session: Session, job: dict[str, Any], to: str | None) -> list[tuple[str, Path]]:
    """(`stdout`, `stderr` or a file's name, where it goes)."""
    named = local_paths(job)
    files = []
    if job.get("output_files"):
        files = [str(one["name"]) for one in session.client.get(f"{job_path(job['id'])}/files")["items"]]
    if to is None and named:
        streams = [(name, Path(named[name])) for name in ("stdout", "stderr", "log") if name in named]
        return streams + [(name, Path(place)) for name in files if (place := _named(named, name))]
    base = Path(to or ".") / f"job-{job['id']}"
    return [(name, below(base, name)) for name in ("stdout", "stderr", *files)]


def _named(named: dict[str, str], name: str) -> str | None:
    """Where a file goes: its own entry, or the directory of the pattern that it was kept by."""
    if name in named:
        return named[name]
    for pattern, place in named.items():
        if place.endswith("/") and fnmatch.fnmatch(name, pattern):
            return str(below(Path(place), name))
    return None


def _write(session: Session, job: dict[str, Any], name: str, path: Path, *, fresh: bool) -> int:
    """`fresh` False: another job of this batch writes to the same file, so this one is added to it."""
    from cloudsched.client.http import segment

    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "log":
        with path.open("a", encoding="utf-8") as log:
            return log.write(user_log(job))
    if path.exists() and not path.is_file():
        with path.open("wb") as device:  # /dev/null and the like
            return _stream(session, job, name, device)
    scratch = path.with_name(f".{path.name}.part")
    try:
        with scratch.open("wb") as file:
            if not fresh:
                file.write(path.read_bytes())
            if name in ("stdout", "stderr"):
                size = _stream(session, job, name, file)
            else:
                size = session.client.download(f"{job_path(job['id'])}/files/{segment(name)}", file)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)
    return size


def _stream(session: Session, job: dict[str, Any], name: str, file: Any) -> int:
    return sum(file.write(piece) for piece in session.client.output(job["id"], name))


def _written(job: int | str, name: str, path: Path, size: int) -> dict[str, Any]:
    """A written file, as JSON tells it."""
    return {"job": job, "name": name, "path": str(path), "size": size}


def _say(session: Session, job: dict[str, Any], path: Path, size: int) -> None:
    if session.screen.as_json:
        return
    gap = "  " if session.screen.terminal else "\t"
    session.screen.line(gap.join([str(job["id"]), str(path), f"{size} bytes"]))
