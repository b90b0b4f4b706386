"""What happens by itself in compute centres? Metering, the live state of instances, ends that came due, what was left lying."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cloudsched import clock
from cloudsched.engine.places import Places
from cloudsched.errors import CloudschedError
from cloudsched.settings import Settings
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)
INTERVAL_S = 5.0
UPKEEP_S = 60.0
_DAY_S = 86400.0


class CentreLoop:
    """The loop of compute centres."""

    def __init__(self, settings: Settings, places: Places) -> None:
        from cloudsched.services.centre import centre_ops, executor

        self._settings, self._places = settings, places
        self._upkept_at = float("-inf")
        centre_ops.configure(settings)
        executor.configure(settings)

    def tick(self) -> None:
        """One cycle: each part by itself, so that one that fails keeps no other from its work."""
        for part in (self._settle, self._instances, self._meter, self._upkeep):
            self._try(part)

    def _try(self, part: Callable[[], None]) -> None:
        try:
            part()
        except CloudschedError as error:
            log.warning("centres: %s", error.message)
        except Exception:
            log.exception("centres: %s failed", part.__name__.lstrip("_"))

    def _settle(self) -> None:
        from cloudsched.services.centre import centre_ops

        centre_ops.settle()

    def _instances(self) -> None:
        from cloudsched.services.centre import instance_watch

        instance_watch.tick(self._settings)

    def _meter(self) -> None:
        from cloudsched.services.centre import metering

        metering.tick()

    def _upkeep(self) -> None:
        """Once a minute: days that are over, hosts and centres that were taken away elsewhere, old requests."""
        now = clock.now()
        if now < self._upkept_at + UPKEEP_S:
            return
        self._upkept_at = now
        from cloudsched.services.centre import centre_upkeep

        centre_upkeep.note_expired()
        centre_upkeep.follow_removed()

        def forget(tx: Tx) -> None:
            centre_upkeep.forget_requests(tx, now - self._settings.centres.forget_requests_days * _DAY_S)

        write(forget)
