"""Which driver runs the Spark and Flink clusters of a place? Made when first needed, kept for the life of the process."""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable
from typing import Any

from cloudsched.domain.frameworks import FLINK, SPARK, Room
from cloudsched.drivers.base import Place
from cloudsched.drivers.frameworks import Framework
from cloudsched.engine.places import Places
from cloudsched.errors import Invalid
from cloudsched.settings import Settings
from cloudsched.store import clouds, system

LOCAL, KUBERNETES, FAKE = "local", "kubernetes", "fake"
PLACES_ALLOWED = "local, kubernetes:CLOUD"


# Processes on one machine share its cores, and masters hardly use theirs: a small cluster fits on two cores.
OVERSUBSCRIBED = 2


class Frameworks:
    """Drivers by place and kind. `get` raises Invalid for a place that is none, and what the driver's making raises."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings, self._places = settings, places
        self._made: dict[tuple[str, str], Framework] = {}
        self._lock = threading.Lock()
        self._make: dict[str, Callable[[str, str], Any]] = {LOCAL: self._local, KUBERNETES: self._kubernetes, FAKE: self._fake}

    def get(self, place: str, kind: str) -> Framework:
        """The driver of clusters of `kind` in `place`."""
        with self._lock:
            if (place, kind) not in self._made:
                sort, _, name = place.partition(":")
                if sort not in self._make:
                    raise Invalid.at("dcluster.place", f"{place!r} is no place of clusters", PLACES_ALLOWED)
                self._made[place, kind] = self._make[sort](kind, name)
            return self._made[place, kind]

    def close(self) -> None:
        """Let go of connections; clusters and jobs go on."""
        for framework in self._made.values():
            if callable(close := getattr(framework, "close", None)):
                close()
        self._made.clear()

    def _local(self, kind: str, _name: str) -> Any:
        module = {SPARK: "spark_local", FLINK: "flink_local"}[kind]
        given = self._settings.dcluster
        options: dict[str, Any] = {f"{kind}_home": getattr(given, f"{kind}_home"), "java_home": given.java_home,
                                   "run_as": given.run_as, "trusted_settings": given.trusted_settings}
        if kind == SPARK:
            options |= {"python": given.python, "driver_host": given.driver_host}
        place = Place(name=LOCAL, kind=kind, options={key: value for key, value in options.items() if value != ""},
                      state_dir=self._settings.state.dir, server_url=self._settings.native_url,
                      instance=system.setting("instance", "cloudsched"))
        return importlib.import_module(f"cloudsched.drivers.{module}").make(place)

    def _kubernetes(self, kind: str, name: str) -> Any:
        cloud = clouds.by_name(name)
        if cloud is None:
            raise Invalid.at("dcluster.place", f"there is no cloud {name!r}", PLACES_ALLOWED)
        make = importlib.import_module("cloudsched.drivers.kubernetes.frameworks").make
        return make(kind, self._places.place(cloud), self._settings.dcluster)

    def _fake(self, kind: str, _name: str) -> Any:
        """Played clusters, for demonstrations and tests."""
        return importlib.import_module("cloudsched.testing.fakeframework").make(kind, self._settings.state.dir)


def room(settings: Settings) -> Room:
    """How much clusters may take together (`[dcluster] clusters_max, capacity_*`)."""
    given = settings.dcluster
    local = given.place.partition(":")[0] == LOCAL
    return Room(given.clusters_max or None, given.capacity_cores_m or (_cores_m() if local else None),
                given.capacity_memory_mb or (_memory_mb() if local else None))


def _cores_m() -> int:
    return OVERSUBSCRIBED * 1000 * (os.cpu_count() or 1)


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
