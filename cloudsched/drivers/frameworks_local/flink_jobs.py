"""How does a Flink job run on a session cluster? Its jar is uploaded and run over REST, under an id chosen beforehand.

A job's home is `<state_dir>/frameworks/flink-jobs/<key>/`. The job's id follows from what is written there before the cluster is
touched, so that after a crash the job is found again and never started twice. What the cluster says about an ended job it
forgets after a while: the end and the log are kept in the home.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudsched.agent.session import write_private
from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import (
    FAILED,
    KILLED,
    LOST,
    RUNNING,
    SUBMITTED,
    SUCCEEDED,
    ClusterSeen,
    Handle,
    JobSeen,
    JobWanted,
    Save,
)
from cloudsched.drivers.frameworks_local import conf, flink_log, place, web
from cloudsched.drivers.frameworks_local.flink_log import JOB_TAG
from cloudsched.drivers.frameworks_local.homes import Home, read_piece
from cloudsched.drivers.frameworks_local.place import LocalPlace

__all__ = ["JOB_TAG", "FlinkJobs"]

NO_PYTHON = "a Python job needs pyflink's Python API, which apache-flink-libraries does not have: Flink modules are .jar files"
RUN_TIMEOUT_S = 180.0
CANCEL_TIMEOUT_S = 90.0
NOT_NOW = 503
ENDED_FILE = "ended.json"

# Flink's words, and ours.
STATES = {
    "INITIALIZING": SUBMITTED, "CREATED": SUBMITTED, "RECONCILING": SUBMITTED, "RUNNING": RUNNING, "RESTARTING": RUNNING,
    "FAILING": RUNNING, "CANCELLING": RUNNING, "SUSPENDED": RUNNING, "FINISHED": SUCCEEDED, "FAILED": FAILED, "CANCELED": KILLED,
}  # fmt: skip
BEGUN = ("DEPLOYING", "INITIALIZING", "RUNNING", "FINISHED", "CANCELING", "FAILED")


class FlinkJobs:
    """Flink jobs on clusters of this machine, or on others by their REST address."""

    def __init__(self, where: LocalPlace) -> None:
        self._place = where

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """Run the jar unless it was. What the program itself gets wrong is the job's failure, not ours."""
        if job.entry.endswith(".py"):
            raise DriverError(f"entry: {NO_PYTHON}", code=base.REQUEST)
        entry = place.check_job(job, (".jar",))
        if job.env:
            raise DriverError("env: a Flink job runs inside the cluster's processes and has no variables of its own",
                              code=base.REQUEST)  # fmt: skip
        body: dict[str, Any] = {"entryClass": job.main_class, "programArgsList": conf.arguments(job.arguments),
                                "flinkConfiguration": conf.flink_settings(job.settings, trusted=self._place.trusted)}  # fmt: skip
        _check_address(cluster.address)
        with self._place.jobs.locked(job.key) as home:
            facts = self._intent(home, cluster, job)
            handle = {"key": job.key, "address": cluster.address, "job_id": facts["flink_job"]}
            save(handle)
            if facts.get("ran") or _ended(home) or self._ask(facts):
                return handle
            body |= {"jobId": facts["flink_job"], "parallelism": job.cores_max or _free_slots(cluster.address, job)}
            name = f"{job.key}-{facts['mark']}.jar"
            jar = _uploaded(cluster.address, name) or _upload(cluster.address, entry, name)
            self._run(home, facts, jar, {name: value for name, value in body.items() if value})
        return handle

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        """How is it now?"""
        home = self._home(handle)
        facts = home.facts() if home else {}
        if home is None or not facts.get("flink_job"):
            return JobSeen(LOST, reason="nothing is known of this job here")
        kept = _ended(home)
        if kept:
            return kept
        told = self._ask(facts, lost_with_cluster=True)
        if told and (seen := _seen(facts, told)).state in (SUBMITTED, RUNNING):
            self._collect(home, facts)
            return seen
        with self._place.jobs.locked(home.key):
            facts = home.facts()
            told = self._ask(facts, lost_with_cluster=True)  # it may have been run while we waited for the lock
            seen = _seen(facts, told)
            return seen if seen.state in (SUBMITTED, RUNNING) else self._keep_end(home, facts, seen, str(told.get("state") or ""))

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        """Cancel it; DriverError when it does not end."""
        home = self._home(handle)
        facts = home.facts() if home else {}
        if home is None or not facts.get("flink_job") or _ended(home):
            return
        told = self._ask(facts, lost_with_cluster=True)
        if told:
            self._cancel(facts)
        deadline = time.monotonic() + CANCEL_TIMEOUT_S
        while self.job(cluster, handle).state in (SUBMITTED, RUNNING):
            if time.monotonic() > deadline:
                raise DriverError(f"job {facts['flink_job']} does not end", transient=True)
            time.sleep(0.2)

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int, limit: int) -> bytes:
        """A piece of the log."""
        home = self._home(handle)
        facts = home.facts() if home else {}
        if home is None or not facts:
            return b""
        if not _ended(home):
            self._collect(home, facts)
        return read_piece(flink_log.path(home), offset, limit)

    def forget(self, handle: Handle) -> None:
        """Remove what is kept."""
        home = self._home(handle)
        if home is None or not home.path.exists():
            return
        with self._place.jobs.locked(home.key):
            home.remove()

    # -- parts -------------------------------------------------------------------------------------------------

    def _home(self, handle: Handle) -> Home | None:
        key = handle.get("key")
        return self._place.jobs.at(str(key)) if key else None

    def _intent(self, home: Home, cluster: ClusterSeen, job: JobWanted) -> dict[str, Any]:
        facts = home.facts()
        if facts.get("flink_job"):
            return facts
        own = self._place.own_cluster(cluster)
        home.write_facts({"job_id": job.job_id, "address": cluster.address.rstrip("/"), "created": time.time(),
                          "cluster": own.key if own else "", "cluster_mark": own.facts()["mark"] if own else ""})  # fmt: skip
        if own:
            flink_log.begin(home, own)
        facts = home.facts()
        home.write_facts({**facts, "flink_job": hashlib.sha256(f"{home.key} {facts['mark']}".encode()).hexdigest()[:32]})
        return home.facts()

    def _run(self, home: Home, facts: Mapping[str, Any], jar: str, body: Mapping[str, Any]) -> None:
        address = facts["address"]
        try:
            web.send("POST", f"{address}/jars/{jar}/run", body, timeout_s=RUN_TIMEOUT_S)
        except web.Refused as error:
            if error.status == NOT_NOW:
                raise
            if not self._ask(facts):
                self._keep_end(home, facts, JobSeen(FAILED, reason=error.reason, ended_at=time.time()), "refused")
        home.write_facts({**facts, "ran": True})
        try:
            web.send("DELETE", f"{address}/jars/{jar}")  # the job has its own copy
        except DriverError:
            pass

    def _ask(self, facts: Mapping[str, Any], *, lost_with_cluster: bool = False) -> dict[str, Any]:
        """What the job manager says of the job; empty when it knows no such job. DriverError when it cannot be asked:
        unless the cluster is one of ours and has no job manager any more, which is the end of its jobs."""
        try:
            return web.get(f"{facts['address']}/jobs/{facts['flink_job']}")
        except web.Refused as error:
            if error.status == 404:
                return {}
            raise
        except DriverError:
            if lost_with_cluster and facts.get("cluster") and not self._lives(facts):
                return {}
            raise

    def _lives(self, facts: Mapping[str, Any]) -> bool:
        home = self._place.clusters.at(facts["cluster"])
        return home.facts().get("mark") == facts["cluster_mark"] and home.process("master") is not None

    def _cancel(self, facts: Mapping[str, Any]) -> None:
        try:
            web.send("PATCH", f"{facts['address']}/jobs/{facts['flink_job']}?mode=cancel")
        except web.Refused as error:
            if error.status not in (404, 409):  # ended meanwhile
                raise

    def _collect(self, home: Home, facts: Mapping[str, Any]) -> None:
        if not facts.get("cluster"):
            return
        cluster = self._place.clusters.at(facts["cluster"])
        if cluster.facts().get("mark") == facts["cluster_mark"]:
            with self._place.jobs.locked(home.key):
                flink_log.collect(home, cluster, facts["flink_job"])

    def _keep_end(self, home: Home, facts: Mapping[str, Any], seen: JobSeen, word: str) -> JobSeen:
        """Write down how it ended, with its log; the caller holds the lock."""
        kept = _ended(home)
        if kept:
            return kept
        errors = _exceptions(facts) if word else ""
        cluster = self._place.clusters.at(facts["cluster"]) if facts.get("cluster") else None
        if cluster and cluster.facts().get("mark") == facts["cluster_mark"]:
            flink_log.collect(home, cluster, facts["flink_job"], last=True)
        reason = seen.reason or (_cause(errors) if seen.state == FAILED else "")
        flink_log.end(home, f"the job is {word or seen.state}" + (f": {reason}" if reason else ""), errors)
        known: dict[str, Any] = {"state": seen.state, "application_id": seen.application_id or facts["flink_job"],
                                 "reason": reason, "started_at": seen.started_at, "ended_at": seen.ended_at}  # fmt: skip
        write_private(str(home.path / ENDED_FILE), json.dumps(known))
        return JobSeen(**known)


def _seen(facts: Mapping[str, Any], told: Mapping[str, Any]) -> JobSeen:
    job_id = facts["flink_job"]
    if not told:
        reason = "its job manager is gone, or was restarted" if facts.get("ran") else "it was never started"
        return JobSeen(LOST, job_id, reason=reason)
    state = STATES.get(str(told.get("state")), RUNNING)
    began = _seconds(told.get("start-time"))
    counts = told.get("status-counts") or {}
    if told.get("state") == "RUNNING" and not any(counts.get(word) for word in BEGUN):
        return JobSeen(SUBMITTED, job_id, reason="waits for slots of the cluster", started_at=began)
    ended = _seconds(told.get("end-time")) if state not in (SUBMITTED, RUNNING) else None
    return JobSeen(state, job_id, started_at=began, ended_at=ended)


def _ended(home: Home) -> JobSeen | None:
    try:
        return JobSeen(**json.loads((home.path / ENDED_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _check_address(address: str) -> None:
    if not address.startswith(("http://", "https://")):
        raise DriverError(f"address: {address!r} is not http://HOST:PORT", code=base.REQUEST)


def _free_slots(address: str, job: JobWanted) -> int:
    """As many tasks at once as there is room for; 0 leaves it to the settings."""
    if "parallelism.default" in job.settings:
        return 0
    overview = web.get(address.rstrip("/") + "/overview")
    return int(overview.get("slots-available") or overview.get("slots-total") or 0)


def _uploaded(address: str, name: str) -> str:
    """The jar that an interrupted try has uploaded; empty when there is none."""
    files = web.get(address.rstrip("/") + "/jars").get("files", [])
    return next((str(one["id"]) for one in files if one.get("name") == name), "")


def _upload(address: str, entry: Path, name: str) -> str:
    told = web.upload(address.rstrip("/") + "/jars/upload", "jarfile", entry, name=name)
    return str(told.get("filename", "")).rpartition("/")[2]


def _exceptions(facts: Mapping[str, Any]) -> str:
    """Stack traces that the job manager keeps of the job."""
    try:
        told = web.get(f"{facts['address']}/jobs/{facts['flink_job']}/exceptions")
    except DriverError:
        return ""
    entries = (told.get("exceptionHistory") or {}).get("entries") or []
    return "\n".join(str(one.get("stacktrace", "")) for one in reversed(entries)) or str(told.get("root-exception") or "")


def _cause(errors: str) -> str:
    """The innermost cause of the last exception."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    causes = [line.removeprefix("Caused by: ") for line in lines if line.startswith("Caused by: ")]
    return (causes or lines or [""])[-1 if causes else 0][:500]


def _seconds(milliseconds: Any) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) and milliseconds > 0 else None
