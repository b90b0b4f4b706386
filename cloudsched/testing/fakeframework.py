"""What do Spark and Flink clusters look like without Spark and Flink? The protocol of drivers.frameworks, played.

A `World` is what outlives a server: clusters and jobs by key, in memory or (with a path) in a file, so that a second driver
object, or another process, finds what the first one left. Time is `clock.now()`, so tests step it.

How a job goes is said by its arguments: `--fake-run-s=30` (how long it runs), `--fake-exit=3` (its exit code),
`--fake-log=LINES` (how many lines it prints); by default it runs for `World.job_s` and succeeds.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cloudsched import clock
from cloudsched.drivers.base import Check, DriverError
from cloudsched.drivers.frameworks import (
    FAILED,
    KILLED,
    LOST,
    RUNNING,
    SPARK,
    SUBMITTED,
    SUCCEEDED,
    ClusterSeen,
    ClusterWanted,
    Handle,
    JobSeen,
    JobWanted,
    Save,
)

Facts = dict[str, Any]


class World:
    """What really runs. `ready_s`: how long masters and workers take to come up; `refuse`: verb -> errors raised by the next
    calls of it, in order; `calls`: (verb, key) of every call; `before`, `after`: hooks around the effect of a call."""

    def __init__(self, path: Path | None = None, *, ready_s: float = 0.0, job_s: float = 0.0) -> None:
        self.path, self.ready_s, self.job_s = path, ready_s, job_s
        self.refuse: dict[str, list[Exception]] = {}
        self.calls: list[tuple[str, str]] = []
        self.before: Callable[[str, str], None] | None = None
        self.after: Callable[[str, str], None] | None = None
        self._facts: Facts = {"clusters": {}, "jobs": {}}
        self._lock = threading.RLock()

    @contextmanager
    def open(self) -> Iterator[Facts]:
        """The facts, to be changed: {"clusters": {key: facts}, "jobs": {key: facts}}."""
        with self._lock:
            if self.path is None:
                yield self._facts
                return
            with open(f"{self.path}.lock", "ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                facts = json.loads(self.path.read_text()) if self.path.exists() else {"clusters": {}, "jobs": {}}
                yield facts
                fresh = self.path.with_suffix(".new")
                fresh.write_text(json.dumps(facts))
                os.replace(fresh, self.path)

    def count(self, verb: str) -> int:
        """How often a verb was called."""
        return sum(1 for name, _ in self.calls if name == verb)

    def keys(self) -> list[str]:
        """Keys of the clusters that are there."""
        with self.open() as facts:
            return sorted(facts["clusters"])

    def running_jobs(self) -> list[str]:
        """Keys of the jobs that run now."""
        with self.open() as facts:
            return sorted(key for key, job in facts["jobs"].items() if _state(job) in (SUBMITTED, RUNNING))

    def kill_worker(self, key: str, count: int = 1) -> None:
        """Workers of a cluster are gone."""
        with self.open() as facts:
            del facts["clusters"][key]["workers"][:count]

    def kill_master(self, key: str) -> None:
        """Its master is gone."""
        with self.open() as facts:
            facts["clusters"][key]["master_at"] = None

    def end_job(self, key: str, state: str = SUCCEEDED, *, exit_code: int | None = 0) -> None:
        """A job ends now."""
        with self.open() as facts:
            facts["jobs"][key] |= {"ends_at": clock.now(), "end": state, "exit_code": exit_code}

    def lose_job(self, key: str) -> None:
        """Nothing is known of the job any more."""
        with self.open() as facts:
            facts["jobs"][key]["lost"] = True


class FakeFramework:
    """Clusters of one kind in one world. `missing`: what `verify` says is missing."""

    def __init__(self, kind: str, world: World, *, missing: str = "") -> None:
        self.kind, self.world, self.missing = kind, world, missing

    def verify(self) -> list[Check]:
        return [Check(self.kind, not self.missing, self.missing or "played")]

    def launch(self, wanted: ClusterWanted, handle: Handle, save: Save) -> Handle:
        with self._call("launch", wanted.key):
            now = clock.now()
            with self.world.open() as facts:
                found = facts["clusters"].setdefault(wanted.key, {
                    "kind": self.kind, "id": wanted.cluster_id, "tenant": wanted.tenant, "master_at": None, "workers": [],
                    "settings": dict(wanted.settings), "options": dict(wanted.options), "wanted": wanted.workers})
                if found["master_at"] is None:
                    found["master_at"] = now + self.world.ready_s
                found["workers"] += [now + self.world.ready_s] * (wanted.workers - len(found["workers"]))
            made = {**handle, "key": wanted.key}
            save(made)
            return made

    def look(self, wanted: ClusterWanted, handle: Handle) -> ClusterSeen:
        with self._call("look", wanted.key), self.world.open() as facts:
            found = facts["clusters"].get(wanted.key)
            if found is None:
                return ClusterSeen(False, 0, reason="it is not there")
            now = clock.now()
            master = found["master_at"] is not None and found["master_at"] <= now
            workers = sum(at <= now for at in found["workers"]) if master else 0
            busy = any(job["cluster"] == wanted.key and _state(job) in (SUBMITTED, RUNNING) for job in facts["jobs"].values())
            scheme, port = ("spark", 7077) if self.kind == SPARK else ("http", 8081)
            return ClusterSeen(master, workers, f"{scheme}://{wanted.key}:{port}", f"http://{wanted.key}:8080", busy,
                               "" if master else "the master does not answer", {"key": wanted.key})

    def stop(self, wanted: ClusterWanted, handle: Handle) -> None:
        with self._call("stop", wanted.key), self.world.open() as facts:
            facts["clusters"].pop(wanted.key, None)
            for job in facts["jobs"].values():
                if job["cluster"] == wanted.key and _state(job) in (SUBMITTED, RUNNING):
                    job |= {"ends_at": clock.now(), "end": KILLED, "exit_code": 143}

    def clusters(self) -> list[str]:
        with self._call("clusters", ""), self.world.open() as facts:
            return sorted(key for key, found in facts["clusters"].items() if found["kind"] == self.kind)

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        with self._call("submit", job.key):
            with self.world.open() as facts:
                if job.key not in facts["jobs"]:
                    facts["jobs"][job.key] = self._job(cluster, job, len(facts["jobs"]) + 1)
            made = {**handle, "key": job.key}
            save(made)
            return made

    def _job(self, cluster: ClusterSeen, job: JobWanted, number: int) -> Facts:
        said = dict(word.removeprefix("--fake-").partition("=")[::2] for word in job.arguments if word.startswith("--fake-"))
        now, exit_code = clock.now(), int(said.get("exit", 0))
        lines = [f"{job.entry} {' '.join(job.arguments)}", *(f"line {line}" for line in range(1, int(said.get("log", 2)) + 1))]
        return {"cluster": cluster.facts.get("key", ""), "address": cluster.address, "number": number, "entry": job.entry,
                "main_class": job.main_class, "arguments": list(job.arguments), "settings": dict(job.settings),
                "driver_memory_mb": job.driver_memory_mb, "executor_memory_mb": job.executor_memory_mb,
                "cores_max": job.cores_max, "started_at": now, "ends_at": now + float(said.get("run-s", self.world.job_s)),
                "end": FAILED if exit_code else SUCCEEDED, "exit_code": exit_code, "log": "\n".join(lines) + "\n"}

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        key = str(handle.get("key", ""))
        with self._call("job", key), self.world.open() as facts:
            found = facts["jobs"].get(key)
            if found is None or found.get("lost"):
                return JobSeen(LOST, reason="nothing is known of it")
            state = _state(found)
            ended = state not in (SUBMITTED, RUNNING)
            return JobSeen(state, f"app-{found['number']:04d}", found["exit_code"] if ended else None,
                           "" if state != FAILED else f"exit code {found['exit_code']}", found["started_at"],
                           found["ends_at"] if ended else None)

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        key = str(handle.get("key", ""))
        with self._call("kill", key), self.world.open() as facts:
            found = facts["jobs"].get(key)
            if found is not None and _state(found) in (SUBMITTED, RUNNING):
                found |= {"ends_at": clock.now(), "end": KILLED, "exit_code": 143}

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        with self._call("log", str(handle.get("key", ""))), self.world.open() as facts:
            found = facts["jobs"].get(str(handle.get("key", "")))
            return str(found["log"]).encode()[offset:offset + limit] if found else b""

    def forget(self, handle: Handle) -> None:
        with self._call("forget", str(handle.get("key", ""))), self.world.open() as facts:
            facts["jobs"].pop(str(handle.get("key", "")), None)

    @contextmanager
    def _call(self, verb: str, key: str) -> Iterator[None]:
        self.world.calls.append((verb, key))
        if self.missing:
            raise DriverError(self.missing)
        if waiting := self.world.refuse.get(verb):
            raise waiting.pop(0)
        if self.world.before is not None:
            self.world.before(verb, key)
        yield
        if self.world.after is not None:
            self.world.after(verb, key)


def make(kind: str, state_dir: str, options: Mapping[str, Any] | None = None) -> FakeFramework:
    """The place `fake` of a server: its world is a file in the state directory."""
    given = dict(options or {})
    world = World(Path(state_dir) / "fakeframework.json", ready_s=float(given.get("ready_s", 0.5)),
                  job_s=float(given.get("job_s", 0.5)))
    return FakeFramework(kind, world)


def _state(job: Facts) -> str:
    if clock.now() < job["ends_at"]:
        return RUNNING
    return str(job["end"])
