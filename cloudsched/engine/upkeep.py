"""What keeps the queue honest? Lost agents, jobs whose pause is over, bans, and what retention removes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudsched import clock
from cloudsched.services import lifecycle, nodelogs, settling
from cloudsched.settings import Settings
from cloudsched.store import answers, boots, events, jobs, nodes, system
from cloudsched.store.db import Tx, read, write

log = logging.getLogger(__name__)
DAY_S = 86400.0
ANSWER_KEPT_S = DAY_S


class Upkeep:
    """Small loops over the store alone. `started_at`: silence is counted from here at the earliest."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        nodelogs.configure(settings)
        self._started_at = clock.now()

    def lost(self) -> int:
        """Jobs of nodes that were not heard from for a lease go back to the queue; returns how many nodes."""
        at = clock.now()
        since = max(self._started_at, float(system.setting("serving_since", "0")))
        if at - since < self._settings.agent.lease_s:
            return 0
        before = at - self._settings.agent.lease_s
        silent = nodes.silent(read(), before)
        for number in silent:
            write(lambda tx, number=number: _give_up(tx, number, before, at))  # type: ignore[misc]
        return len(silent)

    def due(self) -> int:
        """Jobs whose pause before a retry is over are queued."""
        at = clock.now()
        if not jobs.due(read(), at, limit=1):
            return 0
        return len(write(lambda tx: settling.release_due(tx, at)))

    def lift(self) -> None:
        """Bans and blocks whose time is over end (contract 7.2); reasons of jobs that run or have ended go."""
        if boots.to_lift(read(), clock.now()):
            write(lambda tx: boots.lift(tx, clock.now()))

    def forget(self) -> None:
        """Old events, ended jobs and nodes and idempotent answers are removed, in small bites."""
        at = clock.now()
        kept = self._settings
        if kept.events.retention_days:
            _in_bites(lambda tx: events.forget(tx, at - kept.events.retention_days * DAY_S))
        if kept.jobs.retention_days:
            _in_bites(lambda tx: jobs.forget(tx, at - kept.jobs.retention_days * DAY_S))
            _in_bites(lambda tx: boots.forget_nodes(tx, at - kept.jobs.retention_days * DAY_S))
        nodelogs.forget(kept)
        write(lambda tx: answers.forget(tx, at - ANSWER_KEPT_S))
        write(lambda tx: boots.forget_processes(tx, at - DAY_S))


def _give_up(tx: Tx, number: int, before: float, at: float) -> None:
    """Once more under the lock: the node may have called meanwhile."""
    if number in nodes.silent(tx, before):
        lifecycle.give_up_jobs(tx, number, at=at, reason="the node was not heard from")
        log.warning("node %s is silent: its jobs go back to the queue", number)


def _in_bites(bite: Callable[[Tx], int]) -> None:
    while write(bite) >= 2000:
        pass
