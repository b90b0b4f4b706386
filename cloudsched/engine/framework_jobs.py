"""What is done with a Spark or Flink job that is due? Given its cluster, handed over, watched, its log kept, ended.

A step gets a leased row and writes down what came of it only while the lease holds; what has happened outside is found again
by the handle that the driver saved.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from cloudsched import clock
from cloudsched.domain import frameworks as domain
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster
from cloudsched.drivers import frameworks as words
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import ClusterSeen, Framework, JobSeen, JobWanted
from cloudsched.engine.framework_clusters import LostLease, seen_of
from cloudsched.engine.framework_logs import Log
from cloudsched.engine.framework_places import Frameworks
from cloudsched.errors import CloudschedError
from cloudsched.services.frameworks import framework_clusters, framework_jobs
from cloudsched.services.settling import BACKOFF_MAX_S, after_end
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import clusters, dcluster, jobs
from cloudsched.store.db import Tx, write
from cloudsched.store.dcluster import Extra, FrameworkJob
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
WAIT_S = 15.0  # a job that waits for its cluster is woken when that changes; this is for what nobody tells of
RETRY_S = 5.0
SUBMIT_LIMIT_S = 600.0
NEW_MOST = 200
# What the driver says -> event of moves.JOB; what was killed or lost by others than us has failed.
_EVENTS = {words.SUCCEEDED: "succeed", words.FAILED: "fail", words.KILLED: "fail", words.LOST: "fail"}
_REASONS = {words.KILLED: "it was killed on its cluster", words.LOST: "its cluster knows nothing of it any more"}


class JobSteps:
    """Steps of jobs, for one process. `instance` tells our installations apart in shared places."""

    def __init__(self, frameworks: Frameworks, section: Dcluster, *, holder: str, instance: str) -> None:
        self._frameworks, self._section, self._holder, self._instance = frameworks, section, holder, instance
        self._ending: dict[int, float] = {}  # jobs on clusters of others: since when they are to end
        self._silent: dict[int, float] = {}  # jobs on clusters of others that cannot be asked: since when
        self._by_state: dict[str, Callable[[FrameworkJob], float]] = {
            "pending": self._pending, "held": lambda _: RETRY_S, "queued": lambda _: RETRY_S, "assigned": self._assigned,
            "running": self._running}

    def step(self, found: FrameworkJob) -> None:
        """Do what is due for a leased job and let go of it."""
        number = found.job.id
        try:
            pause_s = self._by_state.get(found.job.state, self._close)(found)
        except LostLease:
            log.info("job %s changed meanwhile: what was found out is dropped", number)
            pause_s = 0.0
        except CloudschedError as error:
            log.warning("job %s (%s): %s (tried again)", number, found.job.state, error)
            pause_s = RETRY_S
        write(lambda tx: dcluster.unlease(tx, number, holder=self._holder, not_before=clock.now() + pause_s))

    # before it runs

    def assign_new(self, tx: Tx, at: float, *, lease_s: float) -> int:
        """Many new jobs get their clusters in one transaction: a burst of submissions costs the database little."""
        found = dcluster.claim(tx, holder=self._holder, at=at, lease_s=lease_s, limit=NEW_MOST, new=True)
        up: dict[int, bool] = {}
        rows = jobs.locked(tx, [one.job.id for one in found])
        for one in found:
            if rows[one.job.id][1] != "pending":  # cancelled or held meanwhile
                dcluster.update(tx, one.job.id, lease_until=0.0, not_before=0.0)
                continue
            self._assign(tx, one)
            number = one.extra.cluster_id
            if number is not None and number not in up:
                cluster = dcluster.cluster(tx, number)
                up[number] = cluster is None or cluster.state not in ("pending", "launching")
            dcluster.update(tx, one.job.id, lease_until=0.0, not_before=0.0 if number is None or up[number] else at + WAIT_S)
        return len(found)

    def _pending(self, found: FrameworkJob) -> float:
        """It gets its cluster: from now on it waits for that one."""
        at, job = clock.now(), found.job
        if job.not_before is not None and job.not_before > at:
            return job.not_before - at
        self._forget(found)
        try:
            write(lambda tx: self._assign(tx, found))
        except CloudschedError as error:  # the cluster it names is none any more
            self._settle(found, "fail", reason=error.message, retry=False)
        return 0.0

    def _assign(self, tx: Tx, found: FrameworkJob) -> None:
        at, job, extra = clock.now(), found.job, found.extra
        cluster = dcluster.cluster(tx, extra.cluster_id) if extra.cluster_id else None
        gone = cluster is None or cluster.goal != "run" or cluster.state in moves.CLUSTER_FINAL
        if job.attempt and gone and not extra.address:  # the first attempt ends with the cluster it was promised
            place = framework_jobs.choose(tx, json.loads(job.spec)["payload"], job.id, actor="system")
        else:
            place = framework_jobs.Place(extra.cluster_id, extra.cluster_name, extra.address)
        self._must(dcluster.update(
            tx, job.id, lease=self._holder, at=at, cluster_id=place.cluster_id, cluster_name=place.name, address=place.address,
            handle="{}", application_id="", end_reason="", submitted_at=None, deadline=None, log_offset=0, log_at=0.0, tail=""))
        self._must(move(tx, "job", job.id, "release", at=at, queued_at=at, guard=("state = 'pending'", ())))
        self._must(move(tx, "job", job.id, "claim", at=at, assigned_at=at, attempt=job.attempt + 1, started_at=None,
                        not_before=None, reason=None, exit_code=None,
                        note={"cluster": place.cluster_id, "address": place.address, "attempt": job.attempt + 1}))

    def _assigned(self, found: FrameworkJob) -> float:
        job, extra = found.job, found.extra
        if job.goal == "cancel":
            return self._cancel(found)
        cluster = clusters.get(extra.cluster_id) if extra.cluster_id else None
        if not extra.address:
            if (ended := self._cluster_ended(found, cluster)) is not None:
                return ended
            assert cluster is not None
            if cluster.state not in moves.CLUSTER_UP or not cluster.workers_ready:
                return WAIT_S
        elif extra.submitted_at is None and (refusal := _refusal(extra)):
            self._settle(found, "fail", reason=refusal, retry=False)
            return 0.0
        if extra.submitted_at is None and not write(lambda tx: dcluster.take_slot(
                tx, job.id, cluster_id=extra.cluster_id, address=extra.address, most=self._section.jobs_per_cluster,
                at=clock.now(), holder=self._holder)):
            return WAIT_S
        return self._submit(found, cluster)

    def _cluster_ended(self, found: FrameworkJob, cluster: Cluster | None) -> float | None:
        """A job whose cluster is no more ends with it, or tries another one; None when the cluster lives."""
        if cluster is None:
            self._settle(found, "fail", reason=f"cluster {found.extra.cluster_name} is not there any more")
        elif cluster.state == "failed":
            self._settle(found, "fail", reason=f"cluster {cluster.key} failed: {cluster.reason}")
        elif cluster.state in ("terminating", "terminated"):
            self._settle(found, "cancel", reason=f"cluster {cluster.key} was ended: {cluster.reason}")
        else:
            return None
        return 0.0

    def _submit(self, found: FrameworkJob, cluster: Cluster | None) -> float:
        """Hand it over; the handle is kept as soon as there is one, so that a crash here makes no second job."""
        framework, seen = self._framework(found, cluster), self._seen(found, cluster)
        handle = json.loads(found.extra.handle)
        try:
            handle = framework.submit(seen, self._wanted(found), handle,
                                      lambda made: self._note(found, handle=json.dumps(dict(made))))
        except DriverError as error:
            since = found.extra.submitted_at or clock.now()
            most_s = self._section.external_give_up_s if found.extra.address else SUBMIT_LIMIT_S
            late = error.transient and clock.now() - since > most_s
            if error.transient and not late:
                self._note_silence(found, error, since=since, most_s=most_s)
                raise
            self._settle(found, "fail", reason=str(error)[:500] + (f"; given up after {most_s:g} s" if late else ""))
            return 0.0
        at, limit_s = clock.now(), found.job.time_limit_s

        def start(tx: Tx) -> None:
            self._must(dcluster.update(tx, found.job.id, lease=self._holder, at=at, handle=json.dumps(dict(handle)),
                                       deadline=None if limit_s is None else at + limit_s))
            self._must(move(tx, "job", found.job.id, "start", at=at, started_at=at, reason=None,
                            note={"cluster": found.extra.cluster_id, "attempt": found.job.attempt}))

        write(start)
        return 0.0

    def _wanted(self, found: FrameworkJob) -> JobWanted:
        job = found.job
        asked: dict[str, Any] = json.loads(job.spec)["payload"]
        return JobWanted(
            key=f"cs{self._instance}-j{job.id}-{job.attempt}", job_id=job.id, entry=asked["entry"],
            main_class=asked["main_class"], arguments=tuple(asked["arguments"]), settings=asked["settings"],
            driver_memory_mb=asked["driver_memory_mb"], executor_memory_mb=asked["executor_memory_mb"],
            cores_max=asked["cores_max"])

    # while it runs

    def _running(self, found: FrameworkJob) -> float:
        if found.job.goal == "cancel":
            return self._cancel(found)
        cluster = clusters.get(found.extra.cluster_id) if found.extra.cluster_id else None
        framework, at = self._framework(found, cluster), clock.now()
        gone = not found.extra.address and (cluster is None or cluster.state in moves.CLUSTER_FINAL)
        try:
            seen = framework.job(self._seen(found, cluster), json.loads(found.extra.handle))
        except DriverError as error:
            if found.extra.address and found.extra.deadline is not None and at >= found.extra.deadline:
                return self._time_out(found, cluster)
            if not gone:
                self._note_silence(found, error)
                raise
            seen = JobSeen(words.LOST, reason=str(error))  # who could tell is there no more
        if seen.state in words.ENDED:
            return self._ended(found, cluster, framework, seen)
        if gone:
            ended = self._cluster_ended(found, cluster)
            assert ended is not None
            return ended
        self._note_answer(found)
        if found.extra.deadline is not None and at >= found.extra.deadline:
            return self._time_out(found, cluster)
        self._keep_log(found, cluster, framework, seen)
        return self._section.job_poll_interval_s

    def _ended(self, found: FrameworkJob, cluster: Cluster | None, framework: Framework, seen: JobSeen) -> float:
        if seen.state in (words.LOST, words.KILLED) and cluster is not None and cluster.state not in moves.CLUSTER_UP:
            ended = self._cluster_ended(found, cluster)
            assert ended is not None
            return ended
        reason = seen.reason or _REASONS.get(seen.state, "")
        self._settle(found, _EVENTS[seen.state], reason=reason, seen=seen, kept=self._whole_log(found, cluster, framework))
        return 0.0

    def _keep_log(self, found: FrameworkJob, cluster: Cluster | None, framework: Framework, seen: JobSeen) -> None:
        """What is new of its log, now and then; its application, once it is known."""
        extra, facts = found.extra, {}
        if seen.application_id and seen.application_id != extra.application_id:
            facts["application_id"] = seen.application_id
        if clock.now() - extra.log_at < Log.PAUSE_S:
            if facts:
                self._note(found, **facts)
            return
        kept = self._log(found, cluster, framework)
        kept.go_on()

        def keep(tx: Tx) -> None:
            self._must(dcluster.update(tx, found.job.id, lease=self._holder, at=clock.now(), log_at=clock.now(),
                                       log_offset=kept.offset, tail=kept.tail, **facts))
            jobs.append_output(tx, [(found.job.id, found.job.attempt, "stdout", piece) for piece in kept.pieces])

        write(keep)

    def _whole_log(self, found: FrameworkJob, cluster: Cluster | None, framework: Framework) -> Log:
        kept = self._log(found, cluster, framework)
        try:
            kept.finish()
        except CloudschedError as error:
            log.warning("the log of job %s could not be read to its end: %s", found.job.id, error)
        return kept

    def _log(self, found: FrameworkJob, cluster: Cluster | None, framework: Framework) -> Log:
        seen, handle = self._seen(found, cluster), json.loads(found.extra.handle)

        def read(offset: int, limit: int) -> bytes:
            return framework.log(seen, handle, offset=offset, limit=limit)

        return Log(read, offset=found.extra.log_offset, tail=found.extra.tail, keep=self._section.log_keep_kb * 1024)

    # its end

    def _time_out(self, found: FrameworkJob, cluster: Cluster | None) -> float:
        return self._kill(found, cluster, "time_out", f"it ran longer than its limit of {found.job.time_limit_s:g} s")

    def _cancel(self, found: FrameworkJob) -> float:
        cluster = clusters.get(found.extra.cluster_id) if found.extra.cluster_id else None
        return self._kill(found, cluster, "cancel", found.extra.end_reason or "it was terminated")

    def _kill(self, found: FrameworkJob, cluster: Cluster | None, event: str, reason: str) -> float:
        """End it and have the proof; one that had ended by itself keeps its result."""
        handle = json.loads(found.extra.handle)
        if found.extra.submitted_at is None or (not found.extra.address and cluster is None):
            self._settle(found, event, reason=reason)
            return 0.0
        framework, there = self._framework(found, cluster), self._seen(found, cluster)
        if not handle:  # handed over, but nobody knows how far: handing over again is the same job
            return self._submit(found, cluster) if there.master else self._nothing_there(found, event, reason)
        try:
            framework.kill(there, handle)
            seen = framework.job(there, handle)
        except DriverError as error:
            most_s = self._section.external_give_up_s
            if cluster is None and clock.now() - self._ending.setdefault(found.job.id, clock.now()) > most_s:
                self._settle(found, event, reason=f"{reason}; not proved ended after {most_s:g} s: {error}"[:500],
                             retry=False)  # it may run on: a second one must not run beside it
                return 0.0
            if cluster is None or cluster.state not in moves.CLUSTER_FINAL:
                self._note_silence(found, error, since=self._ending.get(found.job.id), most_s=most_s)
                raise
            return self._nothing_there(found, event, reason)  # it went with its cluster, and that is proved gone
        if seen.state not in words.ENDED:
            return 1.0
        kept = self._whole_log(found, cluster, framework)
        if seen.state == words.SUCCEEDED:
            event, reason = "succeed", ""
        self._settle(found, event, reason=reason, seen=seen, kept=kept)
        return 0.0

    def _nothing_there(self, found: FrameworkJob, event: str, reason: str) -> float:
        self._settle(found, event, reason=reason)
        return 0.0

    def _settle(self, found: FrameworkJob, event: str, *, reason: str = "", seen: JobSeen | None = None, kept: Log | None = None,
                retry: bool = True) -> None:
        """Write down how the attempt ended: for good, or to be tried again after a pause."""
        job = found.job
        self._ending.pop(job.id, None)
        self._silent.pop(job.id, None)
        again = retry and event in ("fail", "time_out") and job.goal == "run" and job.retries < job.max_retries
        write(lambda tx: self._write_end(tx, found, "retry" if again else event, reason=reason, seen=seen, kept=kept))

    def _write_end(self, tx: Tx, found: FrameworkJob, event: str, *, reason: str, seen: JobSeen | None, kept: Log | None) -> None:
        at, job, extra = clock.now(), found.job, found.extra
        exit_code = seen.exit_code if seen else None
        application = (seen.application_id if seen else "") or extra.application_id
        about: dict[str, Any] = {"application_id": application}
        if kept is not None:
            about |= {"tail": kept.tail, "log_offset": kept.offset}
            jobs.append_output(tx, [(job.id, job.attempt, "stdout", piece) for piece in kept.pieces])
        if event != "retry":
            about["active"] = None
        self._must(dcluster.update(tx, job.id, lease=self._holder, at=at, **about))
        facts: dict[str, Any] = {"reason": reason or None, "exit_code": exit_code}
        if event == "retry":
            pause_s = domain.backoff_s(job.retries, first_s=job.backoff_s, most_s=BACKOFF_MAX_S)
            facts |= {"retries": job.retries + 1, "not_before": at + pause_s, "started_at": None}
        else:
            facts["result"] = json.dumps({"cluster": extra.cluster_name or extra.address, "application_id": application,
                                          "exit_code": exit_code})
            facts["ran_s"] = max(0.0, at - job.started_at) if job.started_at else None
        guard = ("goal = 'run'", ()) if event == "retry" else None
        self._must(move(tx, "job", job.id, event, at=at, guard=guard, note={
            "cluster": extra.cluster_id, "attempt": job.attempt, "exit_code": exit_code, "reason": reason}, **facts))
        if event != "retry":
            after_end(tx, [(job.id, moves.target(moves.JOB, event))], at=at)
        if extra.cluster_id:
            dcluster.update(tx, job.id, submitted_at=None)
            dcluster.wake_waiting(tx, extra.cluster_id, limit=self._section.jobs_per_cluster)

    def _close(self, found: FrameworkJob) -> float:
        """It has ended: what the place keeps of it goes, and nothing is left to do."""
        self._forget(found)
        self._note(found, done=1, active=None)
        return 0.0

    def _forget(self, found: FrameworkJob) -> None:
        """Its place may forget the attempt whose log is kept here."""
        handle = json.loads(found.extra.handle)
        if not handle:
            return
        cluster = clusters.get(found.extra.cluster_id) if found.extra.cluster_id else None
        try:
            self._framework(found, cluster).forget(handle)
        except CloudschedError as error:
            log.warning("what is kept of job %s in its place stays there: %s", found.job.id, error)

    # clusters of others that are away

    def _note_silence(self, found: FrameworkJob, error: DriverError, *, since: float | None = None, most_s: float = 0.0) -> None:
        """A job on a cluster of others says that it cannot be asked, since when, and when that is given up (0: it is not)."""
        if not found.extra.address:
            return
        first = self._silent.setdefault(found.job.id, clock.now())
        at = clock.rfc3339(first if since is None else since)
        text = f"{found.extra.address} cannot be asked since {at}: {error}"[:500]
        self._say(found, text + (f" (given up {most_s:g} s after that)" if most_s else ""))

    def _note_answer(self, found: FrameworkJob) -> None:
        """It answers, again."""
        self._silent.pop(found.job.id, None)
        if found.extra.address and found.job.reason:
            self._say(found, None)

    def _say(self, found: FrameworkJob, reason: str | None) -> None:
        if reason != found.job.reason:
            write(lambda tx: dcluster.say(tx, found.job.id, reason, lease=self._holder, at=clock.now()))

    # small things

    def _framework(self, found: FrameworkJob, cluster: Cluster | None) -> Framework:
        return self._frameworks.get(cluster.place if cluster else framework_clusters.section().place, found.extra.kind)

    @staticmethod
    def _seen(found: FrameworkJob, cluster: Cluster | None) -> ClusterSeen:
        if cluster is not None:
            return seen_of(cluster)
        return ClusterSeen(bool(found.extra.address), 0, found.extra.address, facts={"external": True})

    def _note(self, found: FrameworkJob, **facts: Any) -> None:
        write(lambda tx: self._must(dcluster.update(tx, found.job.id, lease=self._holder, at=clock.now(), **facts)))

    @staticmethod
    def _must(done: bool) -> None:
        if not done:
            raise LostLease


def _refusal(extra: Extra) -> str:
    """Why the job may not go where it is to go, by the settings of now; empty when it may."""
    try:
        framework_clusters.check_external(extra.kind, extra.address, field="useExternalCluster")
    except CloudschedError as error:
        return error.message
    return ""
