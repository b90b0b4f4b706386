"""What happens by itself with Spark and Flink clusters and their jobs?

Clusters that wait are launched as far as there is room, fairly by tenant; whatever is due is claimed with a lease and worked
on by a small pool of threads with no transaction open (engine/framework_clusters.py, engine/framework_jobs.py); a sweep
finds clusters that run without a record. Another process goes on where this one was killed.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cloudsched import clock
from cloudsched.domain.frameworks import KINDS, ORIGIN, Room, Waiting, next_launches
from cloudsched.drivers.frameworks import ClusterWanted
from cloudsched.engine.framework_clusters import ClusterSteps
from cloudsched.engine.framework_jobs import RETRY_S, JobSteps
from cloudsched.engine.framework_places import Frameworks, room
from cloudsched.engine.places import Places
from cloudsched.errors import CloudschedError
from cloudsched.services.frameworks import cloud_nodes, framework_clusters
from cloudsched.settings import Settings
from cloudsched.store import clusters, dcluster, events, system
from cloudsched.store.db import Tx, current, read, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
INTERVAL_S = 0.5
LEASE_S = 30.0
EACH_TENANT = 20
DAY_S = 86400.0
Item = tuple[str, int]


class DclusterLoop:
    """The loop of Spark and Flink clusters and their jobs. `frameworks`: drivers, if not those of the settings; `lease_s`: how
    long a row is this process's without a sign of life (0: as long as the engine's own leases allow)."""

    def __init__(self, settings: Settings, places: Places, *, holder: str, frameworks: Frameworks | None = None,
                 lease_s: float = 0.0) -> None:
        self._settings, self._holder = settings, holder
        self._lease_s = lease_s or min(LEASE_S, 2 * settings.engine.lease_s)
        self._frameworks = frameworks or Frameworks(settings, places)
        framework_clusters.configure(settings)
        cloud_nodes.configure(settings)
        self._clusters = ClusterSteps(self._frameworks, settings.dcluster, holder=holder)
        self._made_jobs: JobSteps | None = None
        self._held: dict[Item, float] = {}
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self._swept_at = 0.0
        self._orphans: set[str] = set()

    def tick(self) -> None:
        """One cycle: decide, then hand what is due to the threads."""
        self.renew()
        self.decide()
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._settings.dcluster.threads, thread_name_prefix="dcluster")
        if clock.now() - self._swept_at >= self._settings.dcluster.sweep_interval_s and self._hold(("sweep", 0)):
            self._swept_at = clock.now()
            self._pool.submit(self._on_thread, ("sweep", 0), self._sweep)
        for item, work in self._claim(self._settings.dcluster.threads):
            self._pool.submit(self._on_thread, item, work)

    def step(self, most: int = 1000) -> int:
        """The same on the calling thread, until nothing is due, for tests; returns how much was done."""
        done = 0
        while done < most:
            self.decide()
            found = self._claim(1)
            if not found:
                break
            for item, work in found:
                self._run(item, work)
                done += 1
        return done

    def close(self) -> None:
        """Let go of what is held in this process; clusters and jobs go on."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._frameworks.close()

    # decide

    def decide(self) -> None:
        """What needs no call: launches as far as there is room, ends of idle and outlived clusters, jobs to look at."""
        at = clock.now()
        if dcluster.any_new(read(), at):
            write(lambda tx: self._jobs.assign_new(tx, at, lease_s=self._lease_s))
        if dcluster.any_waiting(read()) and any(self._choose(read())[:2]):
            write(self._admit)
        if dcluster.outlived(read()) or dcluster.idle(read(), at):
            write(lambda tx: framework_clusters.reap(tx, at))
        if told := dcluster.told_to_stop(read(), at + RETRY_S):
            write(lambda tx: dcluster.pick_up(tx, told, at))

    def _admit(self, tx: Tx) -> None:
        """Clusters that fit are launched; those that never could have failed."""
        at = clock.now()
        dcluster.serialize(tx)
        chosen, too_large, whole = self._choose(tx)
        for one in too_large:
            self._too_large(tx, one, whole, at)
        for one in chosen:
            move(tx, "cluster", one.id, "launch", at=at, launched_at=at, attempts=0, not_before=0.0,
                 guard=("goal = 'run' AND state = 'pending'", ()))

    def _choose(self, tx: Tx) -> tuple[list[Waiting], list[Waiting], Room]:
        """(to launch now, never to be launched, room in all); nothing is read of the queue while there is no room."""
        whole = room(self._settings)
        running: Counter[str] = Counter()
        cores_m = memory_mb = 0
        for tenant, spec in dcluster.taking_room(tx):
            asked = json.loads(spec)
            running[tenant] += 1
            cores_m, memory_mb = cores_m + asked["cores_m"], memory_mb + asked["memory_mb"]
        left = whole.without(running.total(), cores_m, memory_mb)
        each = EACH_TENANT if left.clusters is None else min(EACH_TENANT, left.clusters)
        if each <= 0:
            return [], [], whole
        waiting = []
        for number, tenant, spec in dcluster.waiting(tx, each=each):
            asked = json.loads(spec)
            waiting.append(Waiting(number, tenant, asked["cores_m"], asked["memory_mb"]))
        fitting = [one for one in waiting if whole.takes(one)]
        return next_launches(fitting, running, left), [one for one in waiting if not whole.takes(one)], whole

    @staticmethod
    def _too_large(tx: Tx, one: Waiting, whole: Room, at: float) -> None:
        reason = (f"it asks for {one.cores_m / 1000:g} cores and {one.memory_mb} MiB; all clusters together may have "
                  f"{'any' if whole.cores_m is None else format(whole.cores_m / 1000, 'g')} cores and "
                  f"{'any' if whole.memory_mb is None else whole.memory_mb} MiB (dcluster.capacity_cores_m, "
                  "dcluster.capacity_memory_mb)")
        if move(tx, "cluster", one.id, "fail", at=at, reason=reason, note={"reason": reason},
                guard=("state = 'pending'", ())):
            dcluster.wake(tx, one.id)

    # claim and work

    @property
    def _jobs(self) -> JobSteps:
        if self._made_jobs is None:
            self._made_jobs = JobSteps(self._frameworks, self._settings.dcluster, holder=self._holder,
                                       instance=system.setting("instance", "cloudsched"))
        return self._made_jobs

    def renew(self) -> None:
        """Extend the leases of calls that take long."""
        at = clock.now()
        with self._lock:
            late = [item for item, until in self._held.items() if item[1] and until - at < self._lease_s * 2 / 3]
            if not late:
                return

            def extend(tx: Tx) -> None:
                for noun in ("cluster", "job"):
                    dcluster.renew(tx, noun, [number for sort, number in late if sort == noun], holder=self._holder,
                                   until=at + self._lease_s)

            write(extend)
            self._held.update(dict.fromkeys(late, at + self._lease_s))

    def _claim(self, most: int) -> list[tuple[Item, Callable[[], None]]]:
        """Clusters and jobs that are due, as far as threads are free."""
        at = clock.now()
        with self._lock:
            free = min(most, self._settings.dcluster.threads - len(self._held))
            if self._closed or free <= 0 or not dcluster.any_due(read(), at):
                return []

            def claim(tx: Tx) -> tuple[Sequence[Any], Sequence[Any]]:
                some = clusters.claim(tx, ORIGIN, holder=self._holder, at=at, lease_s=self._lease_s, limit=free)
                left = free - len(some)
                return some, dcluster.claim(tx, holder=self._holder, at=at, lease_s=self._lease_s, limit=left) if left else []

            some, others = write(claim)
            found: list[tuple[Item, Callable[[], None]]] = [
                *((("cluster", one.id), lambda one=one: self._clusters.step(one)) for one in some),
                *((("job", one.job.id), lambda one=one: self._jobs.step(one)) for one in others)]
            # A call of ours that outlived its lease (the database was away) is still under way: not begun a second time.
            found = [(item, work) for item, work in found if item not in self._held]
            self._held.update({item: at + self._lease_s for item, _ in found})
        return found

    def _hold(self, item: Item) -> bool:
        with self._lock:
            if item in self._held:
                return False
            self._held[item] = clock.now() + self._lease_s
            return True

    def _on_thread(self, item: Item, work: Callable[[], None]) -> None:
        """This one, and then whatever else is due."""
        try:
            self._run(item, work)
            while found := self._claim(1):
                self._run(*found[0])
        except Exception:
            log.exception("claiming clusters and jobs failed")
        finally:
            current().close_thread()

    def _run(self, item: Item, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("%s %s failed (tried again when its lease is over)", *item)
        finally:
            with self._lock:
                self._held.pop(item, None)

    # what runs without a record

    def _sweep(self) -> None:
        self.sweep()

    def sweep(self) -> int:
        """Clusters that are there though no record of ours wants them are taken away at the second sight; returns how many.
        Rows that retention has left behind go."""
        place, found = self._settings.dcluster.place, set()
        for kind in KINDS:
            try:
                framework = self._frameworks.get(place, kind)
                found |= {(kind, key) for key in framework.clusters()}
            except CloudschedError as error:
                log.debug("sweep of %s clusters in %s: %s", kind, place, error)
        known = dcluster.live_keys()
        strays = [(kind, key) for kind, key in sorted(found) if key not in known]
        done = sum(self._take_away(place, kind, key) for kind, key in strays if key in self._orphans)
        self._orphans = {key for _, key in strays}
        days = self._settings.jobs.retention_days
        write(lambda tx: dcluster.forget(tx, clusters_before=clock.now() - days * DAY_S if days else None))
        return done

    def _take_away(self, place: str, kind: str, key: str) -> bool:
        try:
            self._frameworks.get(place, kind).stop(ClusterWanted(key, kind, 0, "", 0, 0, 0, 0, 0), {})
        except CloudschedError as error:
            log.warning("cluster %s runs without a record and cannot be stopped: %s", key, error)
            return False
        log.warning("cluster %s ran without a record: it was stopped", key)
        write(lambda tx: events.append(tx, "cluster.sweep", ("system", 0), at=clock.now(), key=key, cluster_kind=kind,
                                       place=place))
        return True
