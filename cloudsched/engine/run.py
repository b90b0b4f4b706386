"""What makes up an engine? All loops of one process, their start, and a graceful stop."""

from __future__ import annotations

import logging
import threading
import time

from cloudsched import clock
from cloudsched.domain.entities import UNDRIVEN
from cloudsched.engine.boots import LEASE_S, Workers
from cloudsched.engine.carry import CLEANUP, SCHEDULER, SchedulingJob
from cloudsched.engine.centres import INTERVAL_S as CENTRES_S
from cloudsched.engine.centres import CentreLoop
from cloudsched.engine.dcluster import INTERVAL_S as DCLUSTER_S
from cloudsched.engine.dcluster import DclusterLoop
from cloudsched.engine.devices import INTERVAL_S as DEVICES_S
from cloudsched.engine.devices import DeviceLoop
from cloudsched.engine.loops import Loop, Runner
from cloudsched.engine.notices import Notices
from cloudsched.engine.places import Places
from cloudsched.engine.polling import Poller
from cloudsched.engine.pool import ExternalPool
from cloudsched.engine.runners import RunnerLoop
from cloudsched.engine.upkeep import Upkeep
from cloudsched.services import lifecycle, operations
from cloudsched.services.agent_rules import instance_id
from cloudsched.services.caller import SYSTEM
from cloudsched.services.frameworks import cloud_nodes
from cloudsched.settings import Settings
from cloudsched.store import clouds, events, nodes, system
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)
PRESENCE = "engine:"
STOP_LIMIT_S = 120.0
# Whether the external queue and its machines were read since the start: waiting, read, or off (there is no such pool).
QUEUE, MACHINES = "external_queue", "external_machines"
# Credential or connection trouble: such nodes are not destroyed at a stop but reported as left (contract 5.2).
KEPT_AT_STOP = frozenset({"NoProxy", "ExpiredProxy", "ConnectionRefused", "BrokenPipe"})


class Engine:
    """One engine process. Several may run on one database: each loop is led by one of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.holder = instance_id()
        self.places = Places(settings)
        self.pool = ExternalPool.from_settings(settings)
        self.poller = Poller(self.places)
        self.upkeep = Upkeep(settings)
        self.runners = RunnerLoop(settings)
        self.fleet = DeviceLoop(settings)
        self.centres = CentreLoop(settings, self.places)
        self.dcluster = DclusterLoop(settings, self.places, holder=self.holder)
        self.notices = Notices(settings)
        self.workers = Workers(self.places, holder=self.holder, boot_threads=settings.engine.boot_threads,
                               destroy_threads=settings.cloud_scheduler.general.max_destroy_threads,
                               ban_file=settings.cloud_scheduler.general.ban_file or "",
                               user_data_dir=settings.cloud_scheduler.user_data_dir,
                               lease_s=min(LEASE_S, 2 * settings.engine.lease_s))
        self.job = SchedulingJob(self.places, holder=self.holder, pool=self.pool)
        self.runner = Runner(self._loops(), holder=self.holder, lease_s=settings.engine.lease_s, presence=PRESENCE + self.holder)

    def _loops(self) -> list[Loop]:
        every = self.settings.engine
        return [
            Loop("job_poller", every.job_poller_interval_s, self.poll_jobs),
            Loop("machine_poller", every.machine_poller_interval_s, self.poll_machines),
            Loop("node_poller", every.node_poller_interval_s, self.poller.tick),
            Loop(SCHEDULER, every.scheduler_interval_s, self.job.schedule),
            Loop(CLEANUP, every.cleanup_interval_s, self.job.clean_up),
            Loop("upkeep", 1.0, self.keep_up),
            Loop("retention", 300.0, self.upkeep.forget),
            Loop("sweep", every.sweep_interval_s, self.poller.sweep),
            Loop("log_runners", 1.0, self.runners.tick),
            Loop("devices", DEVICES_S, self.fleet.tick),
            Loop("centres", CENTRES_S, self.centres.tick),
            Loop("dcluster", DCLUSTER_S, self.dcluster.tick),
            Loop("notices", 1.0, self.notices.tick),
            Loop("cloud_nodes", 300.0, lambda: cloud_nodes.clean_up(SYSTEM)),
            Loop("operations", 0.5, lambda: operations.work(self.holder), led=False),
            Loop("workers", 0.1, self.workers.tick, led=False),
        ]

    def start(self) -> None:
        """Announce this process, start the loops."""
        self.announce()
        self.runner.start()

    def announce(self) -> None:
        """Say that this process is here, and that an external queue is to be read before anything is taken away."""
        lease_s, word = self.settings.engine.lease_s, "waiting" if self.pool else "off"
        write(lambda tx: system.take_lease(tx, PRESENCE + self.holder, self.holder, at=clock.now(), lease_s=lease_s))
        for key in (QUEUE, MACHINES):
            write(lambda tx, key=key: system.put_setting(tx, key, word))  # type: ignore[misc]

    def poll_jobs(self) -> None:
        """JobPoller (contract 7.2)."""
        self.upkeep.lift()
        if self.pool is not None:
            self.pool.read_queue()
            _note_read(QUEUE)

    def poll_machines(self) -> None:
        """MachinePoller (contract 7.3)."""
        if self.pool is not None:
            self.pool.read_machines()
            _note_read(MACHINES)

    def keep_up(self) -> None:
        """What must not wait for a slow cloud."""
        self.upkeep.due()
        self.upkeep.lost()

    def stop(self, *, destroy: bool | None = None) -> int:
        """Stop the loops; then destroy all booted nodes, unless told not to, quick shutdown is set or another engine
        goes on. Returns how many nodes are left that should be gone."""
        self.runner.stop()
        left = 0
        if destroy if destroy is not None else self._is_last():
            left = self.destroy_all()
        self.workers.stop()
        self.poller.stop()
        self.runners.close()
        self.dcluster.close()
        self.notices.close()
        write(lambda tx: system.drop_leases(tx, self.holder))
        return left

    def _is_last(self) -> bool:
        if system.setting("quick_shutdown", "0") == "1":
            log.info("quick shutdown: nodes are left running")
            return False
        # One that was killed seems to be here until its lease is over: only one that renews goes on.
        known = others = self._others()
        while others:
            if any(until > known.get(name, 0.0) for name, until in others.items()):
                return False
            time.sleep(0.1)
            others = self._others()
        return True

    def _others(self) -> dict[str, float]:
        """Engines that seem to be here: name -> until when."""
        now = clock.now()
        return {name: until for name, holder, until, _ in system.leases()
                if name.startswith(PRESENCE) and holder != self.holder and until > now}

    def destroy_all(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Have every booted node destroyed and wait for the proof; returns how many are left."""
        managed = {cloud.id for cloud in clouds.all_clouds(removed=True) if cloud.kind not in UNDRIVEN}
        write(lambda tx: _stop_all(tx, managed))
        until = time.monotonic() + limit_s
        while True:
            left = [node for node in nodes.live() if node.cloud_id in managed]
            if all(node.override in KEPT_AT_STOP for node in left) or time.monotonic() > until:
                return len(left)
            self.workers.tick()
            time.sleep(0.05)


def _note_read(key: str) -> None:
    if system.setting(key) != "read":
        write(lambda tx: system.put_setting(tx, key, "read"))


def _stop_all(tx: Tx, managed: set[int]) -> None:
    at = clock.now()
    for node in nodes.live():
        if node.cloud_id in managed and node.state != "stopping" and node.override not in KEPT_AT_STOP:
            lifecycle.stop(tx, node.id, at=at, actor="engine", reason="the engine was stopped")
    events.append(tx, "engine.stop", ("system", 0), at=at)


def serve(engine: Engine, stopping: threading.Event) -> int:
    """Run an engine until `stopping` is set; returns the exit status."""
    engine.start()
    stopping.wait()
    return 1 if engine.stop() else 0
