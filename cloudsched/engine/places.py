"""Which driver drives which cloud? Made from the cloud's row, kept while what it is made from does not change."""

from __future__ import annotations

import json
import logging
import threading

from cloudsched import clock
from cloudsched.domain.entities import UNDRIVEN, Cloud
from cloudsched.drivers import registry
from cloudsched.drivers.base import Driver, Place
from cloudsched.errors import CloudschedError, Invalid, Unsupported
from cloudsched.sealed import Sealer
from cloudsched.settings import Settings
from cloudsched.store import clouds, system
from cloudsched.store.db import write

log = logging.getLogger(__name__)


def note_unreachable(cloud: Cloud, text: str) -> None:
    """A call to the cloud found nobody: the clock of its connection trouble starts with the first one (contract 9, B47)."""
    at = clock.now()
    if cloud.error_since is None or not cloud.error_text:
        since = at if cloud.error_since is None else cloud.error_since
        write(lambda tx: clouds.update(tx, cloud.id, at=at, event="cloud.unreachable", note={"reason": text[:300]},
                                       error_since=since, error_text=text[:300] or "unreachable"))


def note_reachable(cloud: Cloud) -> None:
    """The cloud answered. One that was switched off for its trouble keeps the clock until it is switched on again."""
    if cloud.error_since is None or (cloud.disabled_at is not None and not cloud.error_text):
        return
    since = cloud.error_since if cloud.disabled_at is not None else None
    write(lambda tx: clouds.update(tx, cloud.id, at=clock.now(), event="cloud.reachable", error_since=since, error_text=""))


class Places:
    """Drivers by cloud, made when first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._sealer: Sealer | None = None
        self._made: dict[int, tuple[tuple[str, ...], Driver]] = {}
        self._lock = threading.Lock()

    def driver(self, cloud: Cloud) -> Driver:
        """The cloud's driver. Raises Unsupported for a kind that has none here, SealError for unreadable credentials."""
        key = (cloud.name, cloud.kind, cloud.options, cloud.credentials)
        with self._lock:
            made = self._made.get(cloud.id)
            if made is None or made[0] != key:
                made = self._made[cloud.id] = (key, registry.make(self.place(cloud)))
            return made[1]

    def problem(self, cloud: Cloud) -> str:
        """Why nothing can be booted on the cloud from here; empty when its driver can be made."""
        try:
            self.driver(cloud)
        except CloudschedError as error:
            return f"{cloud.name} cannot be used here: {error}"
        return ""

    def place(self, cloud: Cloud) -> Place:
        """What a driver is made from."""
        return Place(
            name=cloud.name, kind=cloud.kind, options=cloud.option, credentials=self._credentials(cloud),
            state_dir=self._settings.state.dir, server_url=self._settings.native_url,
            instance=system.setting("instance", "cloudsched"))

    def token(self, node_name: str) -> str:
        """The join token of a booted node: the same each time, so that a boot can be repeated after a crash."""
        return f"cn_{self.sealer.derive('join:' + node_name)}"

    @property
    def sealer(self) -> Sealer:
        if self._sealer is None:
            self._sealer = Sealer.load(self._settings.state.dir)
        return self._sealer

    def usable(self) -> list[tuple[Cloud, Driver]]:
        """Every cloud that has a driver here, removed ones included (their nodes must still be watched)."""
        found = []
        for cloud in clouds.all_clouds(removed=True):
            if cloud.kind in UNDRIVEN:
                continue
            try:
                found.append((cloud, self.driver(cloud)))
            except (Unsupported, Invalid) as error:
                log.debug("%s: %s", cloud.name, error)
            except CloudschedError as error:
                log.warning("%s: %s", cloud.name, error)
        return found

    def _credentials(self, cloud: Cloud) -> dict[str, str]:
        if not cloud.credentials:
            return {}
        opened: dict[str, str] = json.loads(self.sealer.open(cloud.credentials))
        return opened
