"""Does a watch go on after everything that can happen to it, and does it say when something was missed?"""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.kubernetes import Change, KubernetesDriver
from cloudsched.testing.kubeapi import KubeApi, Rule
from tests.drivers.kubernetes.conftest import in_thread, on, until


def config(name: str, **facts: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": facts.get("labels", {})},
            "data": {"a": facts.get("a", "1")}}


class Reader:
    """Reads a watch in a thread of its own."""

    def __init__(self, driver: KubernetesDriver, **how: Any) -> None:
        self.changes: list[Change] = []
        self.error: DriverError | None = None
        self.stop = threading.Event()
        self._thread = in_thread(lambda: self._read(driver, how))

    def _read(self, driver: KubernetesDriver, how: dict[str, Any]) -> None:
        try:
            for change in driver.watch("ConfigMap", stop=self.stop, **how):
                self.changes.append(change)
        except DriverError as error:
            self.error = error

    @property
    def seen(self) -> list[tuple[str, str]]:
        return [(one.type, one.object.get("metadata", {}).get("name", "")) for one in list(self.changes)
                if one.object.get("metadata", {}).get("name") != "kube-root-ca.crt"]

    def expect(self, *wanted: tuple[str, str]) -> None:
        until(lambda: self.seen[-len(wanted):] == list(wanted), f"{wanted}, seen: {self.seen}")

    def close(self) -> None:
        self.stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def test_what_is_there_then_what_changes(driver: KubernetesDriver) -> None:
    driver.apply([config("old")])
    with Reader(driver) as reader:
        reader.expect(("present", "old"), ("synced", ""))
        driver.apply([config("new")])
        driver.apply([config("new", a="2")])
        driver.delete([config("new")])
        until(lambda: ("deleted", "new") in reader.seen, "the end is seen")
        kinds = [sort for sort, name in reader.seen if name == "new"]
        assert kinds[0] == "added"
        assert set(kinds[1:-1]) == {"modified"}
    version = next(one.version for one in reader.changes if one.type == "synced")
    with Reader(driver, since=version) as again:
        until(lambda: ("deleted", "new") in again.seen, "the same again from that version on")
        assert again.seen[0] == ("added", "new")
        assert ("present", "old") not in again.seen


def test_a_selector_shows_what_comes_and_goes(driver: KubernetesDriver) -> None:
    with Reader(driver, selector="show=yes") as reader:
        reader.expect(("synced", ""))
        driver.apply([config("hidden"), config("shown", labels={"show": "yes"})])
        reader.expect(("added", "shown"))
        driver.apply([config("shown", labels={"show": "no"})])
        reader.expect(("added", "shown"), ("deleted", "shown"))


def test_it_stops_while_nothing_happens(driver: KubernetesDriver) -> None:
    reader = Reader(driver, fields="metadata.name=none")
    until(lambda: reader.seen, "it has begun")
    reader.close()
    assert reader.error is None


# -- what only the stand-in can do ---------------------------------------------------------------------------------


def test_a_broken_connection_loses_nothing(kube: KubeApi) -> None:
    driver = on(kube)
    with Reader(driver, selector="set=mine") as reader:
        reader.expect(("synced", ""))
        for number in range(5):
            driver.apply([config(f"c{number}", labels={"set": "mine"})])
            kube.restart()
        until(lambda: len(reader.seen) == 6, f"all five: {reader.seen}")
    assert reader.seen == [("synced", ""), *(("added", f"c{number}") for number in range(5))]


@pytest.mark.parametrize("as_status", [False, True])
def test_after_410_there_is_a_gap_and_it_is_said(as_status: bool) -> None:
    with KubeApi(gone_as_status=as_status) as kube:
        driver = on(kube)
        driver.apply([config("stays", labels={"set": "mine"}), config("goes", labels={"set": "mine"})])
        with Reader(driver, selector="set=mine") as reader:
            reader.expect(("synced", ""))
            kube.stop()
            kube.api.delete(kube.kind_at("", "v1", "configmaps"), "default", "goes")  # type: ignore[arg-type]
            kube.forget_history()
            kube.start()
            reader.expect(("gap", ""), ("deleted", "goes"), ("present", "stays"), ("synced", ""))
            driver.apply([config("new", labels={"set": "mine"})])
            reader.expect(("added", "new"))


def test_since_a_version_that_is_forgotten_or_never_was(kube: KubeApi) -> None:
    driver = on(kube)
    driver.apply([config("one", labels={"set": "mine"})])
    kube.forget_history()
    for since in ("2", "999999999"):
        with Reader(driver, since=since, selector="set=mine") as reader:
            reader.expect(("gap", ""), ("present", "one"), ("synced", ""))


def test_quiet_watches_hear_where_they_are() -> None:
    """A bookmark moves the version on: what is forgotten before it is not missed."""
    with KubeApi(bookmark_s=0.05) as kube:
        driver = on(kube)
        with Reader(driver, selector="set=mine") as reader:
            reader.expect(("synced", ""))
            driver.apply([config(f"other{number}") for number in range(3)])
            until(lambda: kube.bookmarked == kube.store.version, "the watch has been told")
            kube.forget_history()
            kube.restart()
            driver.apply([config("mine", labels={"set": "mine"})])
            reader.expect(("synced", ""), ("added", "mine"))
        assert ("gap", "") not in reader.seen


def test_a_server_that_is_away_for_a_while(kube: KubeApi) -> None:
    driver = on(kube)
    with Reader(driver, selector="set=mine") as reader:
        reader.expect(("synced", ""))
        kube.fail("unreachable", times=3)
        kube.restart()
        until(lambda: not kube._faults, "it has tried until it was heard")
        driver.apply([config("later", labels={"set": "mine"})])
        reader.expect(("added", "later"))


def test_who_may_not_watch_is_told(kube: KubeApi) -> None:
    token = kube.add_user("lister", denied=[Rule(("watch",), ("configmaps",))])
    reader = Reader(on(kube, token=token))
    until(lambda: reader.error, "it ends")
    assert reader.error is not None
    assert reader.error.code == base.DENIED
    reader.close()
