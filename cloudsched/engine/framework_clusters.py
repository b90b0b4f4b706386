"""What is done with a Spark or Flink cluster that is due? Launched, watched, mended, taken away; no transaction is open
while its place is called.

A step gets a leased row, acts, and writes down what came of it only while the lease holds: whatever a crash leaves is
taken up by the next process, from the row and from what the place says.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from cloudsched import clock
from cloudsched.domain import frameworks as domain
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import ClusterSeen, ClusterWanted, Framework, Handle
from cloudsched.engine.framework_nodes import MoreNodes
from cloudsched.engine.framework_places import Frameworks
from cloudsched.errors import CloudschedError
from cloudsched.services.frameworks import framework_clusters
from cloudsched.settings.dcluster import Dcluster
from cloudsched.store import clusters, dcluster
from cloudsched.store.db import Tx, read, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
RELAUNCH_S = 20.0  # what is missing of a cluster that is being launched is started again after so long
HEAL_FIRST_S = 5.0
STEADY_S = 300.0  # who was up for so long did not come down again at once: its attempts are counted anew
JOBS_END_S = 60.0  # how long a cluster that is taken away waits for its jobs to be ended one by one
RETRY_S, RETRY_MOST_S = 2.0, 60.0


class LostLease(Exception):
    """Another process has this row now, or its state has changed: what was found out is dropped."""


class ClusterSteps:
    """Steps of clusters, for one process."""

    def __init__(self, frameworks: Frameworks, section: Dcluster, *, holder: str) -> None:
        self._frameworks, self._section, self._holder = frameworks, section, holder
        self._nodes = MoreNodes(section)
        self._by_state = {"launching": self._launching, "running": self._watch, "degraded": self._watch,
                          "terminating": self._terminate}

    def step(self, cluster: Cluster) -> None:
        """Do what is due for a leased cluster and let go of it."""
        try:
            pause_s = self._step(cluster)
        except LostLease:
            log.info("cluster %s changed meanwhile: what was found out is dropped", cluster.key)
            pause_s = 0.0
        write(lambda tx: clusters.unlease(tx, cluster.id, holder=self._holder, not_before=clock.now() + pause_s))

    def _step(self, cluster: Cluster) -> float:
        if cluster.goal == "end" and cluster.state != "terminating":
            write(lambda tx: framework_clusters.begin_end(tx, cluster, "system", cluster.reason or "it is wanted gone"))
            return 0.0
        if cluster.state not in self._by_state:
            return dcluster.WAITING
        try:
            framework = self._frameworks.get(cluster.place, cluster.kind)
            return self._by_state[cluster.state](cluster, framework)
        except CloudschedError as error:
            return self._refused(cluster, error)

    def _refused(self, cluster: Cluster, error: CloudschedError) -> float:
        """The place said no, or was not there: said in the record, tried again."""
        text = str(error)[:500]
        log.warning("cluster %s (%s): %s", cluster.key, cluster.state, text)
        if cluster.state == "launching" and cluster.attempts == 0 and not isinstance(error, DriverError):
            self._end(cluster, "fail", reason=text)  # there is no driver: nothing was launched
            return 0.0
        self._note(cluster, reason=text, attempts=cluster.attempts + 1)
        return domain.backoff_s(cluster.attempts, first_s=RETRY_S, most_s=RETRY_MOST_S)

    # launch

    def _launching(self, cluster: Cluster, framework: Framework) -> float:
        at, limit_s = clock.now(), self._section.launch_timeout_s
        launched_at = cluster.launched_at or at
        if at - launched_at > limit_s:
            have = f"{cluster.workers_ready} of {cluster.workers_wanted} workers were there"
            return self._give_up(cluster, framework, f"it was not complete after {limit_s:g} s: {cluster.reason or have}")
        handle: Handle = json.loads(cluster.handle)
        if at >= launched_at + cluster.attempts * RELAUNCH_S:
            try:
                handle = self._launch(cluster, framework, handle)
            except DriverError as error:
                if error.transient:
                    raise
                return self._give_up(cluster, framework, str(error)[:500])
        seen = framework.look(wanted(cluster), handle)
        if _whole(cluster, seen):
            self._up(cluster, seen)
            return self._section.poll_interval_s
        self._nodes.help(cluster, seen)
        if seen.workers != cluster.workers_ready or seen.reason != cluster.reason:
            self._note(cluster, workers_ready=seen.workers, reason=seen.reason)
        return min(self._section.poll_interval_s, 1.0)

    def _launch(self, cluster: Cluster, framework: Framework, handle: Handle) -> Handle:
        """Start what is missing; its attempt counts although the call may fail."""
        made = framework.launch(wanted(cluster), handle, lambda found: self._save(cluster, found))
        self._save(cluster, made, attempts=cluster.attempts + 1)
        return made

    def _save(self, cluster: Cluster, handle: Handle, **facts: Any) -> None:
        """What was started is written down also when the cluster is wanted gone by now."""
        write(lambda tx: self._must(clusters.update(tx, cluster.id, at=clock.now(), lease=self._holder,
                                                    handle=json.dumps(dict(handle)), **facts)))

    def _up(self, cluster: Cluster, seen: ClusterSeen) -> None:
        """Master and workers are there: jobs may come."""
        at = clock.now()
        facts = {**json.loads(cluster.facts), "seen": dict(seen.facts), "up_at": at}

        def up(tx: Tx) -> None:
            self._must(move(tx, "cluster", cluster.id, "run", at=at, lease=self._holder, workers_ready=seen.workers,
                            address=seen.address, web_url=seen.web_url, facts=json.dumps(facts, default=str), reason="",
                            running_at=cluster.running_at or at, idle_since=at,
                            attempts=0 if cluster.state == "launching" else cluster.attempts,
                            note={"workers": seen.workers, "address": seen.address}))
            dcluster.wake(tx, cluster.id)

        write(up)

    # watch and mend

    def _watch(self, cluster: Cluster, framework: Framework) -> float:
        handle = json.loads(cluster.handle)
        seen = framework.look(wanted(cluster), handle)
        whole = _whole(cluster, seen)
        if cluster.state == "running" and not whole:
            self._degrade(cluster, seen)
            return 0.0
        if cluster.state == "degraded" and whole:
            self._up(cluster, seen)
            return self._section.poll_interval_s
        self._keep(cluster, seen)
        if cluster.state == "degraded":
            return self._heal(cluster, framework, seen, handle)
        return self._section.poll_interval_s

    def _degrade(self, cluster: Cluster, seen: ClusterSeen) -> None:
        at = clock.now()
        facts = json.loads(cluster.facts)
        steady = at - facts.get("up_at", 0.0) >= STEADY_S
        reason = seen.reason if not seen.master and seen.reason else (
            f"{seen.workers} of {cluster.workers_wanted} workers are there" if seen.master else "its master is gone")
        facts |= {"degraded_at": at}
        write(lambda tx: self._must(move(
            tx, "cluster", cluster.id, "degrade", at=at, lease=self._holder, workers_ready=seen.workers, reason=reason,
            facts=json.dumps(facts), attempts=0 if steady else cluster.attempts, note={"reason": reason})))

    def _heal(self, cluster: Cluster, framework: Framework, seen: ClusterSeen, handle: Handle) -> float:
        """Start what is missing, a few times, with growing pauses; without a master it has failed then."""
        at, most = clock.now(), self._section.heal_attempts
        since = json.loads(cluster.facts).get("degraded_at", at)
        pause_s = self._section.poll_interval_s
        if at < since + domain.backoff_s(cluster.attempts, first_s=HEAL_FIRST_S, most_s=1e9) - HEAL_FIRST_S:
            return pause_s
        if cluster.attempts < most:
            self._nodes.help(cluster, seen)
            self._note(cluster, event="cluster.heal", note={"attempt": cluster.attempts + 1, "workers": seen.workers})
            self._launch(cluster, framework, handle)
            return min(pause_s, 1.0)
        if not seen.master:
            return self._give_up(cluster, framework, f"its master is gone, and {most} attempts to bring it back were in vain")
        return pause_s

    def _keep(self, cluster: Cluster, seen: ClusterSeen) -> None:
        """Write down what has changed, and since when it runs nothing."""
        busy = seen.busy or bool(dcluster.of_cluster(read(), cluster.id))
        facts = {**json.loads(cluster.facts), "seen": dict(seen.facts)}
        now: dict[str, Any] = {"workers_ready": seen.workers, "idle_since": None if busy else cluster.idle_since or clock.now(),
               "facts": json.dumps(facts, default=str)}
        if seen.master:
            now |= {"address": seen.address, "web_url": seen.web_url}
        changed = {name: value for name, value in now.items() if getattr(cluster, name) != value}
        if changed:
            self._note(cluster, **changed)

    # the end

    def _give_up(self, cluster: Cluster, framework: Framework, reason: str) -> float:
        """It has failed; nothing of it is left when it says so."""
        framework.stop(wanted(cluster), json.loads(cluster.handle))
        self._end(cluster, "fail", reason=reason)
        return 0.0

    def _terminate(self, cluster: Cluster, framework: Framework) -> float:
        """Its jobs are ended one by one (engine/framework_jobs.py), then all of it is taken away."""
        at, facts = clock.now(), json.loads(cluster.facts)
        if "ending_at" not in facts:
            facts["ending_at"] = at
            self._note(cluster, facts=json.dumps(facts))
        if at - facts["ending_at"] < JOBS_END_S and dcluster.of_cluster(read(), cluster.id):
            return min(self._section.poll_interval_s, 0.5)
        if cluster.launched_at is not None:
            framework.stop(wanted(cluster), json.loads(cluster.handle))
        self._end(cluster, "end", reason=cluster.reason)
        return 0.0

    def _end(self, cluster: Cluster, event: str, *, reason: str) -> None:
        def end(tx: Tx) -> None:
            self._must(move(tx, "cluster", cluster.id, event, at=clock.now(), lease=self._holder, reason=reason,
                            workers_ready=0, handle="{}", idle_since=None, note={"reason": reason} if reason else None))
            dcluster.wake(tx, cluster.id)

        write(end)

    def _note(self, cluster: Cluster, *, event: str = "", note: Mapping[str, Any] | None = None, **facts: Any) -> None:
        given = facts or {"not_before": cluster.not_before}
        write(lambda tx: self._must(clusters.update(tx, cluster.id, event=event, note=note, at=clock.now(), lease=self._holder,
                                                    where="state = ?", args=(cluster.state,), **given)))

    @staticmethod
    def _must(done: bool) -> None:
        if not done:
            raise LostLease


def wanted(cluster: Cluster) -> ClusterWanted:
    """What the driver is told of a cluster."""
    spec = json.loads(cluster.spec)
    return ClusterWanted(
        key=cluster.key, kind=cluster.kind, cluster_id=cluster.id, tenant=cluster.org, workers=cluster.workers_wanted,
        worker_cores_m=spec["worker_cores_m"], worker_memory_mb=spec["worker_memory_mb"],
        master_cores_m=spec["master_cores_m"], master_memory_mb=spec["master_memory_mb"],
        settings=spec.get("settings", {}), options=spec.get("options", {}))


def seen_of(cluster: Cluster) -> ClusterSeen:
    """How the cluster was seen last."""
    return ClusterSeen(cluster.state in moves.CLUSTER_UP, cluster.workers_ready, cluster.address, cluster.web_url,
                       reason=cluster.reason, facts=json.loads(cluster.facts).get("seen", {}))


def _whole(cluster: Cluster, seen: ClusterSeen) -> bool:
    return seen.master and seen.workers >= cluster.workers_wanted
