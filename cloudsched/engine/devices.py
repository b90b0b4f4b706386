"""Who went offline, what is overdue, what is rolled up? What happens by itself to machines that report and to their tasks."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudsched import clock
from cloudsched.domain import tasks as words
from cloudsched.services import devices as device_service
from cloudsched.services import fleet_config, lifecycle, settling, tasks
from cloudsched.settings import Settings
from cloudsched.store import checkpoints, jobs, ratelimits, series, system
from cloudsched.store import devices as store
from cloudsched.store import tasks as task_rows
from cloudsched.store.db import Tx, read, write
from cloudsched.store.devices import Device

log = logging.getLogger(__name__)
INTERVAL_S = 2.0
TIDY_EVERY_S, FORGET_EVERY_S = 60.0, 3600.0
DAY_S = 86_400.0
PINGS_KEPT_S = 300.0
REQUESTS_KEPT_S = 3600.0
BITE = 500


class DeviceLoop:
    """The engine's loop `devices`. `started_at`: silence of those that hold tasks is counted from here at the earliest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started_at = clock.now()
        self._tidied_at = self._forgot_at = float("-inf")

    def tick(self) -> None:
        """One cycle."""
        self.notice()
        self.lose()
        self.time_out()
        self.take_out()
        at = clock.now()
        if at - self._tidied_at >= TIDY_EVERY_S:
            self._tidied_at = at
            self.tidy()
        if at - self._forgot_at >= FORGET_EVERY_S:
            self._forgot_at = at
            self.forget()

    def notice(self) -> int:
        """Devices that have gone offline (contract 10.4): an event each, and their time of being online is kept."""
        at = clock.now()
        gone = store.silent(at - fleet_config.current().offline_threshold_s)
        for begin in range(0, len(gone), BITE):
            part = gone[begin:begin + BITE]
            write(lambda tx, part=part: [store.went_offline(tx, one, at=at) for one in part])  # type: ignore[misc]
        return len(gone)

    def lose(self) -> int:
        """What a device holds that is offline goes back to the queue, or fails (contract 11.5); how many devices."""
        at, threshold_s = clock.now(), fleet_config.current().offline_threshold_s
        since = max(self._started_at, float(system.setting("serving_since", "0")))
        if at - since < threshold_s:
            return 0  # nobody could have reported while no server was there
        silent = store.holding(read(), at - threshold_s)
        for number in silent:
            write(lambda tx, number=number: _lose(tx, number, at - threshold_s, at))  # type: ignore[misc]
        return len(silent)

    def time_out(self) -> int:
        """Tasks that run longer than their limit and ten seconds more: their device should have ended them (11.5)."""
        at = clock.now()
        late = task_rows.overdue(at, words.SERVER_GRACE_S, words.BATCH_KINDS)
        for number, attempt, node_id, limit_s, started_at in late:
            ended = jobs.Result(number, attempt, "time_out", "timeout", reason=f"the task took longer than {limit_s:g} s",
                                ran_s=max(0.0, at - started_at), ended_at=at)
            write(lambda tx, ended=ended, node_id=node_id: _time_out(tx, ended, node_id, at))  # type: ignore[misc]
        return len(late)

    def take_out(self) -> int:
        """Devices whose node has ended are taken out, and tasks that wait for them alone are cancelled."""
        ended = store.ended(read())
        for one in ended:
            write(lambda tx, one=one: _take_out(tx, one))  # type: ignore[misc]
        return len(ended)

    def tidy(self) -> None:
        """Samples grow coarser with age; counters and probes that are over go."""
        at = clock.now()
        for width_s in series.KEPT_S:
            for first, last in series.due(width_s, at):
                write(lambda tx, width_s=width_s, first=first, last=last:  # type: ignore[misc]
                      series.roll(tx, width_s, at, first=first, last=last))
        write(lambda tx: _tidy(tx, at))

    def forget(self) -> None:
        """Old tasks, periods, checkpoints and samples of nodes that are gone."""
        at = clock.now()
        days = self._settings.retire_cluster.task_retention_days
        if days:
            _in_bites(lambda tx: jobs.forget(tx, at - days * DAY_S, not_kinds=words.BATCH_KINDS))
        write(lambda tx: _forget(tx, at))


def _lose(tx: Tx, number: int, before: float, at: float) -> None:
    """Once more under the lock: the device may have called meanwhile."""
    if number not in store.holding(tx, before):
        return
    device = store.of_node(tx, number)
    held = [row[0] for row in jobs.in_hand(tx, number)]
    lifecycle.give_up_jobs(tx, number, at=at, reason="the device went offline")
    if device is not None and device.via == store.WORKER:
        for job in held:
            tasks.tell_to_stop(tx, number, job, at=at)
    log.warning("device %s is offline: its tasks go back to the queue", device.device_id if device else number)


def _time_out(tx: Tx, ended: jobs.Result, node_id: int, at: float) -> None:
    settling.settle(tx, [ended], node_id=node_id, at=at)
    tasks.tell_to_stop(tx, node_id, ended.id, at=at)


def _take_out(tx: Tx, device: Device) -> None:
    if store.remove(tx, device, at=clock.now(), actor="engine", reason="its node has ended"):
        device_service.cancel_pinned(tx, device.node_id, actor="engine")


def _tidy(tx: Tx, at: float) -> None:
    ratelimits.forget(tx, at)
    store.forget_pings(tx, at - PINGS_KEPT_S)
    series.forget_requests(tx, at - REQUESTS_KEPT_S)


def _forget(tx: Tx, at: float) -> None:
    checkpoints.forget(tx)
    store.forget(tx, at - series.KEPT_S[series.HOUR])
    series.forget_nodes(tx)


def _in_bites(bite: Callable[[Tx], int]) -> None:
    while write(bite) >= 2000:
        pass
