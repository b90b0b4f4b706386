"""Do clouds come, change and go through the services of the native API as they should?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import registry
from cloudsched.drivers.base import BOOT, Check, DriverError, Machine, Place, Wanted
from cloudsched.errors import Conflict, Invalid, Stale
from cloudsched.services import pool, pool_clouds, snapshot
from cloudsched.settings import Settings, load
from cloudsched.store import clouds, events, nodes
from cloudsched.store.db import Database
from cloudsched.testing.factories import make_node

GIVEN = {"name": "Lab", "kind": "picky", "slots": 2, "credentials": {"password": "open sesame"}, "networks": ["a"],
         "options": {"region": "x"}, "boot_timeout_s": None, "memory_mb": 100}


class Picky:
    """A driver that knows one password."""

    kind = "Picky"
    capabilities = frozenset({BOOT})

    def __init__(self, place: Place) -> None:
        self.place = place

    def verify(self) -> list[Check]:
        if self.place.options.get("region") == "away":
            raise DriverError("the place is away")
        ok = self.place.credentials.get("password") == "open sesame"
        return [Check("address", True), Check("password", ok, "" if ok else "is not the right one")]

    def boot(self, wanted: Wanted) -> Machine:
        raise DriverError("never")

    def machines(self) -> list[Machine]:
        return []

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """There is nothing."""


@pytest.fixture(autouse=True)
def picky() -> Iterator[None]:
    registry.register("Picky", Picky)
    yield
    registry._factories.pop("Picky")


@pytest.fixture
def database(sqlite_database: Database) -> Database:
    return sqlite_database


@pytest.fixture
def settings(database: Database, tmp_state: Path) -> Settings:
    found = load({"state": str(tmp_state), "cloud_scheduler.config_file": "none"}, environ={"HOME": str(tmp_state)})
    snapshot.configure(found)
    return found


def test_options_that_no_such_cloud_has_are_refused(settings: Settings) -> None:
    options = {"run_as": "", "log_agent": True, "cluster": "k"}
    given = {"name": "here", "kind": "Local", "slots": 1}
    with pytest.raises(Invalid) as caught:
        pool_clouds.add_cloud({**given, "options": {**options, "zz": 1}}, settings=settings, verify=False)
    assert [error.field for error in caught.value.errors] == ["options.zz"] and "run_as" in str(caught.value.errors[0].allowed)
    made = pool_clouds.add_cloud({**given, "options": options}, settings=settings, verify=False).cloud
    assert made is not None and pool_clouds.place_of(made, settings=settings).options == {"run_as": ""}
    with pytest.raises(Invalid):
        pool_clouds.set_cloud("here", {"options": {**options, "zz": 1}}, settings=settings, verify=False)
    assert pool_clouds.set_cloud("here", {"options": {**options, "tags": "a"}}, settings=settings, verify=False).cloud


def test_add(settings: Settings) -> None:
    change = pool_clouds.add_cloud(GIVEN, settings=settings, actor="ann")
    assert change.cloud is not None
    made = change.cloud
    assert (made.name, made.title, made.kind, made.enabled, made.max_slots, made.network_names, made.option) == (
        "lab", "Lab", "Picky", 1, 2, ("a",), {"region": "x"})
    assert [check.ok for check in change.checks] == [True, True]
    assert "sesame" not in made.credentials
    assert pool_clouds.place_of(made, settings=settings).credentials == {"password": "open sesame"}
    assert "sesame" not in repr(pool_clouds.place_of(made, settings=settings))
    event = events.since(0)[-1]
    assert (event.kind, event.actor) == ("cloud.add", "ann")
    with pytest.raises(Conflict):
        pool_clouds.add_cloud({**GIVEN, "name": "LAB"}, settings=settings)


def test_dry_run_and_refused_credentials_keep_nothing(settings: Settings) -> None:
    assert pool_clouds.add_cloud(GIVEN, settings=settings, dry_run=True).dry_run
    wrong = {**GIVEN, "credentials": {"password": "guess"}}
    with pytest.raises(Invalid) as caught:
        pool_clouds.add_cloud(wrong, settings=settings)
    assert [(error.field, error.message) for error in caught.value.errors] == [
        ("credentials", "password: is not the right one")]
    with pytest.raises(Invalid, match="the place is away"):
        pool_clouds.add_cloud({**GIVEN, "options": {"region": "away"}}, settings=settings)
    assert clouds.all_clouds() == []
    assert pool_clouds.add_cloud(wrong, settings=settings, verify=False).cloud is not None
    assert [check.ok for check in pool_clouds.verify_cloud("lab", settings=settings)] == [True, False]


@pytest.mark.parametrize(("member", "value"), [
    ("name", ""), ("name", "  "), ("name", 7), ("name", "a\0b"), ("name", "x" * 201), ("name", None), ("kind", "Nothing"),
    ("kind", 3), ("slots", -1), ("slots", 1.5), ("slots", True), ("slots", "3"), ("slots", 2**40), ("memory_mb", -2),
    ("networks", "a"), ("networks", [1]), ("enabled", 1), ("keep_alive_s", -1), ("boot_timeout_s", "soon"),
    ("options", []), ("credentials", []), ("credentials", {"password": 1}), ("colour", "blue")])
def test_bad_members_are_named(settings: Settings, member: str, value: object) -> None:
    with pytest.raises(Invalid) as caught:
        pool_clouds.add_cloud({**GIVEN, member: value}, settings=settings)
    assert [error.field for error in caught.value.errors] == [member]
    assert clouds.all_clouds() == []


def test_change(settings: Settings) -> None:
    made = pool_clouds.add_cloud(GIVEN, settings=settings).cloud
    assert made is not None
    changed = pool_clouds.set_cloud("LAB", {"priority": 3, "enabled": False}, settings=settings, version=made.version).cloud
    assert changed is not None
    assert (changed.priority, changed.enabled, changed.version) == (3, 0, made.version + 1)
    with pytest.raises(Stale):
        pool_clouds.set_cloud("lab", {"priority": 4}, settings=settings, version=made.version)
    with pytest.raises(Invalid, match="cannot be changed"):
        pool_clouds.set_cloud("lab", {"kind": "Local"}, settings=settings)
    with pytest.raises(Invalid, match="password"):
        pool_clouds.set_cloud("lab", {"credentials": {"password": "guess"}}, settings=settings)
    with pytest.raises(pool.UnknownCloud):
        pool_clouds.set_cloud("no", {}, settings=settings)
    assert pool_clouds.set_cloud("lab", {"options": {"region": "y"}}, settings=settings, dry_run=True).cloud == changed
    fresh = pool_clouds.set_cloud("lab", {"options": {"region": "y"}}, settings=settings).cloud
    assert fresh is not None
    assert fresh.option == {"region": "y"}


def test_fewer_slots_retire_the_newest(settings: Settings) -> None:
    made = pool_clouds.add_cloud(GIVEN, settings=settings).cloud
    assert made is not None
    old, new = make_node(made), make_node(made)
    pool_clouds.set_cloud("lab", {"slots": 1}, settings=settings)
    found = [nodes.get(old.id), nodes.get(new.id)]
    assert [(node.retired, node.override) for node in found if node] == [(0, None), (1, "Retiring")]


def test_remove_and_add_again(settings: Settings) -> None:
    made = pool_clouds.add_cloud(GIVEN, settings=settings).cloud
    assert made is not None
    node = make_node(made)
    with pytest.raises(Stale):
        pool_clouds.remove_cloud("lab", version=made.version + 9)
    pool_clouds.remove_cloud("Lab", version=made.version)
    found = nodes.get(node.id)
    assert found and (found.state, found.retired, found.goal) == ("stopping", 1, "gone")
    with pytest.raises(pool.UnknownCloud):
        pool_clouds.remove_cloud("lab")
    again = pool_clouds.add_cloud({**GIVEN, "slots": 9}, settings=settings).cloud
    assert again is not None
    assert (again.id, again.max_slots, again.state) == (made.id, 9, "active")
    assert pool.cloud_facts("lab").nodes == ()  # what is on its way out stays in the shadow
