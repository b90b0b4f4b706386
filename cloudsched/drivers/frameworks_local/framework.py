"""What do Spark and Flink clusters on this machine have in common? Their end, their list, and jobs as each kind runs them."""

from __future__ import annotations

from typing import Any

from cloudsched.drivers.frameworks import ClusterSeen, ClusterWanted, Handle, JobSeen, JobWanted, Save
from cloudsched.drivers.frameworks_local.place import LocalPlace


class LocalFramework:
    """Base of both kinds: `place` is where the homes of clusters are, `jobs` runs jobs (drivers.frameworks.Framework)."""

    def __init__(self, place: LocalPlace, jobs: Any) -> None:
        self._place, self._jobs = place, jobs

    def stop(self, wanted: ClusterWanted, handle: Handle) -> None:
        """Kill every process of the cluster, with what it runs for jobs, and remove its home."""
        home = self._place.clusters.at(wanted.key)
        if not home.path.exists():
            home.kill_marked(str(handle.get("mark") or ""))
            return
        with self._place.clusters.locked(wanted.key) as home:
            home.remove()

    def clusters(self) -> list[str]:
        """Keys of all homes, whatever state they are in."""
        return self._place.clusters.keys()

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """Start the job unless it was; it outlives us."""
        found: Handle = self._jobs.submit(cluster, job, handle, save)
        return found

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        """How it is, or how it ended."""
        found: JobSeen = self._jobs.job(cluster, handle)
        return found

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        """End it; returns when that is proved."""
        self._jobs.kill(cluster, handle)

    def forget(self, handle: Handle) -> None:
        """Remove the job's home."""
        self._jobs.forget(handle)
