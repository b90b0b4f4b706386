"""How is batch work handed to Slurm, a thousand jobs at a time? Jobs of one shape become one array.

A submission has a key: repeated with the same key, also after its answer was lost, it finds the arrays that are there.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm import states
from cloudsched.drivers.slurm.commands import checked_ids
from cloudsched.drivers.slurm.model import Controller, JobRecord, Submission
from cloudsched.drivers.slurm.options import SlurmOptions

DEFAULT_ARRAY_SIZE = 1_001  # Slurm's MaxArraySize, when it is not told
SCRIPT_BYTES = 1 << 20  # Slurm takes 4 MiB
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_NOT_SAFE = re.compile(r"[^A-Za-z0-9._-]+")

_BEGIN = """#!/bin/sh
PATH="${PATH:-/usr/local/bin:/usr/bin:/bin}"
export PATH
"""


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A command and what it needs. `stdout`: a path on the host, with Slurm's patterns (`%A_%a`), both streams unless
    `stderr` is given; `partition`, `constraint` and `time_limit_s` stand for those of the cloud when they are set."""

    command: tuple[str, ...]
    name: str = "job"
    env: Mapping[str, str] = field(default_factory=dict, hash=False)
    directory: str = "/tmp"  # noqa: S108
    cores: int = 1
    memory_mb: int = 0
    time_limit_s: int = 0
    stdout: str = "/dev/null"
    stderr: str = ""
    partition: str = ""
    constraint: str = ""


class Batch:
    """Submit, cancel, look at, account for. Job ids are Slurm's: `12`, or `12_3` for a task of an array."""

    def __init__(self, controller: Controller, options: SlurmOptions, scope: str) -> None:
        self._controller = controller
        self._options = options
        self._scope = scope

    def submit(self, jobs: BatchJob | Sequence[BatchJob], *, key: str = "") -> list[str]:
        """Ids in the order of `jobs`. Without a `key` the call is not safe to repeat. DriverError (REQUEST) names a bad field
        before anything is submitted; any other may come after a part was: the same key again hands in the rest only."""
        wanted = [jobs] if isinstance(jobs, BatchJob) else list(jobs)
        for job in wanted:
            _check(job)
        parts = self._parts(wanted)
        known = self._known(parts, key) if key and parts else {}
        key = key or uuid.uuid4().hex
        ids = [""] * len(wanted)
        for number, places in enumerate(parts):
            name = self._name(wanted[places[0]], key, number)
            base_id = known.get(number) or self._hand_in(name, [wanted[place] for place in places])
            for task, place in enumerate(places):
                ids[place] = base_id if len(places) == 1 else f"{base_id}_{task}"
        return ids

    def cancel(self, ids: Sequence[str]) -> None:
        """End them, or whole arrays; those that have ended, or that nobody knows, are no error."""
        if ids:
            self._controller.cancel(checked_ids(ids))

    def states(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """What each is now. Ended jobs leave the controller after MinJobAge (300 s unless configured): then accounting or the
        job completion log is asked; where neither is kept, they are `unknown`."""
        wanted = checked_ids(ids)
        records = self._controller.jobs(ids=wanted) if wanted else []
        found = _chosen(wanted, records)
        missing = [one for one in wanted if one not in found]
        if missing:
            kept = self._controller.history(missing)
            found.update(_chosen(missing, kept or ()))
            found.update(_never_began(missing, found, [*records, *kept]) if kept is not None else {})
        return {one: found.get(one) or _unknown(one) for one in wanted}

    def accounting(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """As `states`, with used CPU time and memory where a slurmdbd keeps them; then it is asked first."""
        wanted = checked_ids(ids)
        kept = self._controller.history(wanted) if wanted and self._controller.has_accounting() else None
        if not kept:
            return self.states(wanted)
        final = {one: record for one, record in _chosen(wanted, kept).items() if not record.live}
        # The database may lag behind the controller: only what has ended there is final.
        others = [one for one in wanted if one not in final]
        return {**(self.states(others) if others else {}), **final}

    # -- submitting --------------------------------------------------------------------------------------------

    def _parts(self, jobs: Sequence[BatchJob]) -> list[list[int]]:
        """Places of jobs that go into one array: of one shape, no more than Slurm takes, in a script of bounded size."""
        size = self._array_size() if len(jobs) > 1 else 1
        parts: list[list[int]] = []
        open_parts: dict[BatchJob, list[int]] = {}
        bytes_in: dict[BatchJob, int] = {}
        for place, job in enumerate(jobs):
            shape = replace(job, command=(), env={})
            cost = len(_task(job).encode())
            part = open_parts.get(shape)
            if part is None or len(part) >= size or bytes_in[shape] + cost > SCRIPT_BYTES:
                part = open_parts[shape] = []
                bytes_in[shape] = 0
                parts.append(part)
            part.append(place)
            bytes_in[shape] += cost
        return parts

    def _array_size(self) -> int:
        told = self._controller.facts().get("MaxArraySize", "")
        return max(1, (int(told) if told.isdigit() else DEFAULT_ARRAY_SIZE) - 1)

    def _known(self, parts: Sequence[Sequence[int]], key: str) -> dict[int, str]:
        """Ids of the arrays that an earlier call with this key has left, by their number. Looked for among all our jobs."""
        marks = {self._mark(key, number): number for number in range(len(parts))}
        found: dict[int, str] = {}
        for record in self._controller.jobs():
            number = marks.get(record.name.rpartition("-")[2])
            if number is not None:
                found[number] = min(found.get(number, record.base_id), record.base_id, key=int)
        return found

    def _hand_in(self, name: str, jobs: Sequence[BatchJob]) -> str:
        job, options = jobs[0], self._options
        return self._controller.submit(Submission(
            name, batch_script(jobs), json.dumps({"cloudsched": self._scope}), job.cores, job.memory_mb,
            job.time_limit_s or options.time_limit_s, array=f"0-{len(jobs) - 1}" if len(jobs) > 1 else "",
            directory=job.directory, stdout=job.stdout, stderr=job.stderr, partition=job.partition or options.partition,
            account=options.account, qos=options.qos, constraint=job.constraint or options.constraint,
            reservation=options.reservation))  # fmt: skip

    def _name(self, job: BatchJob, key: str, number: int) -> str:
        return f"{_NOT_SAFE.sub('_', job.name)[:80] or 'job'}-{self._mark(key, number)}"

    def _mark(self, key: str, number: int) -> str:
        return hashlib.sha256(json.dumps([self._scope, key, number]).encode()).hexdigest()[:20]


def batch_script(jobs: Sequence[BatchJob]) -> str:
    """A script that runs the command of its task. One text when all tasks run the same."""
    tasks = [_task(job) for job in jobs]
    if len(set(tasks)) == 1:
        return f"{_BEGIN}{tasks[0]}exec \"$@\"\n"
    cases = "".join(f"{number})\n{task};;\n" for number, task in enumerate(tasks))
    return f"{_BEGIN}case \"$SLURM_ARRAY_TASK_ID\" in\n{cases}*) exit 127;;\nesac\nexec \"$@\"\n"


def _task(job: BatchJob) -> str:
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in job.env.items())
    return f"{exports}set -- {shlex.join(job.command)}\n"


def _chosen(ids: Iterable[str], records: Iterable[JobRecord]) -> dict[str, JobRecord]:
    """The record of each id that is told of. The id of a whole array stands for its tasks together."""
    own: dict[str, JobRecord] = {}
    arrays: dict[str, list[JobRecord]] = {}
    for record in records:
        own[record.id] = record
        arrays.setdefault(record.base_id, []).append(record)
    found = {}
    for one in ids:
        base_id, _, task = one.partition("_")
        if one in own:
            found[one] = own[one]
        elif task and base_id in own and states.plain(own[base_id].raw) == "CANCELLED":  # before it began, told in one line
            found[one] = replace(own[base_id], id=one)
        elif not task and base_id in arrays:
            found[one] = _together(one, arrays[base_id])
    return found


def _never_began(ids: Iterable[str], found: Mapping[str, JobRecord], records: Iterable[JobRecord]) -> dict[str, JobRecord]:
    """Of a task that is cancelled while it waits Slurm keeps nothing. So one that neither the controller nor the history
    knows, of an array that they do know, is such a one; without a history it may as well have been forgotten."""
    arrays = {record.base_id: record.name for record in records}
    return {one: JobRecord(one, "CANCELLED", reason="before it began", name=arrays[base_id], source="none")
            for one in ids if one not in found and (base_id := one.partition("_")[0]) in arrays}


def _unknown(job_id: str) -> JobRecord:
    return JobRecord(job_id, "UNKNOWN", reason="Slurm has forgotten it, or never had it", source="none")


def _together(job_id: str, tasks: Sequence[JobRecord]) -> JobRecord:
    """A whole array as one: running while one task runs, queued while one waits, then the worst that became of one."""
    order = (states.RUNNING, states.QUEUED, states.UNKNOWN, states.FAILED, states.TIMEOUT, states.CANCELLED, states.SUCCEEDED)
    worst = min(tasks, key=lambda one: order.index(one.state))
    return replace(worst, id=job_id)


def _check(job: BatchJob) -> None:
    if not job.command or any("\0" in word for word in job.command):
        raise _refused("command", "must be at least one word, without NUL")
    for name, value in job.env.items():
        if not _VARIABLE.match(name) or "\0" in value:
            raise _refused("env", f"{name!r} must be a variable with a text")
    for name, least in (("cores", 1), ("memory_mb", 0), ("time_limit_s", 0)):
        if getattr(job, name) < least:
            raise _refused(name, f"must be at least {least}")
    for name in ("directory", "stdout", "stderr"):
        path = getattr(job, name)
        if (path or name != "stderr") and (not path.startswith("/") or not path.isprintable()):
            raise _refused(name, f"{path!r} is not an absolute path of printable characters")


def _refused(name: str, why: str) -> DriverError:
    return DriverError(f"{name}: {why}", code=base.REQUEST)
