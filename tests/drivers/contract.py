"""What does every driver promise? Inherited by the test class of each driver.

A subclass gives `place(name)` (a place of its own for each name; the same name gives the same place again),
`make(place)` and, when machines take a while, `settle`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, Driver, DriverError, Machine, Place, Wanted

ODD_NAMES = ["a b", "ü-ñ-漢", "x/../y", "..", ".", ".hidden", "100%", "a#b?c&d", "quote'\"", "-rf", "n" * 255, "x.lock"]


class DriverCase:
    """What the rows need: places, drivers, and the clean-up."""

    @pytest.fixture(autouse=True)
    def _world(self, tmp_path: Path) -> Any:
        self.tmp = tmp_path
        self._drivers: list[Driver] = []
        yield
        for driver in self._drivers:
            self.calm(driver)
            for machine in driver.machines():
                driver.destroy(machine.name, machine.handle)

    def place(self, name: str) -> Place:
        raise NotImplementedError

    def make(self, place: Place) -> Driver:
        raise NotImplementedError

    def calm(self, driver: Driver) -> None:
        """Let nothing stand in the way of the clean-up."""

    def settle(self, driver: Driver, name: str) -> Machine:
        """Wait until that machine runs."""
        return next(machine for machine in driver.machines() if machine.name == name)

    def driver(self, name: str = "one") -> Driver:
        made = self.make(self.place(name))
        self._drivers.append(made)
        return made

    def wanted(self, name: str = "node-1", **facts: Any) -> Wanted:
        basic = Wanted(name, node_id=1, cores=1, memory_mb=256, storage_gb=1, join_token="t", server_url="")
        return replace(basic, **facts)

    def names(self, driver: Driver) -> list[str]:
        return sorted(machine.name for machine in driver.machines())


class DriverContract(DriverCase):
    """The rows every driver passes."""

    def test_nothing_is_there_at_first(self) -> None:
        assert self.driver().machines() == []

    def test_says_what_it_can(self) -> None:
        driver = self.driver()
        assert driver.kind
        assert driver.capabilities <= base.CAPABILITIES
        assert {base.BOOT, base.DESTROY, base.LIST} <= driver.capabilities

    def test_verify_says_yes(self) -> None:
        checks = self.driver().verify()
        assert checks
        assert all(isinstance(check, Check) for check in checks)
        assert [check for check in checks if not check.ok] == []

    def test_a_booted_machine_is_listed_and_runs(self) -> None:
        driver = self.driver()
        booted = driver.boot(self.wanted())
        assert booted.name == "node-1"
        assert booted.external_id
        assert booted.state in ("Starting", "Running")
        settled = self.settle(driver, "node-1")
        assert (settled.state, settled.external_id) == ("Running", booted.external_id)

    def test_boot_twice_is_one_machine(self) -> None:
        driver = self.driver()
        first = driver.boot(self.wanted())
        second = driver.boot(self.wanted())
        assert first.external_id == second.external_id
        assert self.names(driver) == ["node-1"]

    def test_another_process_finds_the_machine_and_takes_it_away(self) -> None:
        first = self.driver().boot(self.wanted())
        again = self.driver()
        assert again.boot(self.wanted()).external_id == first.external_id
        again.destroy("node-1", {})
        assert self.driver().machines() == []

    def test_destroy_takes_it_away(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        driver.destroy("node-1", machine.handle)
        assert driver.machines() == []

    def test_destroy_twice_and_of_an_unknown_name_is_no_error(self) -> None:
        driver = self.driver()
        machine = driver.boot(self.wanted())
        driver.destroy("node-1", machine.handle)
        driver.destroy("node-1", machine.handle)
        driver.destroy("never-there", {"pid": 1, "started": 1, "id": "x"})
        assert driver.machines() == []

    def test_a_name_can_be_used_again(self) -> None:
        driver = self.driver()
        first = driver.boot(self.wanted())
        driver.destroy("node-1", first.handle)
        assert driver.boot(self.wanted()).external_id != first.external_id

    def test_several_machines_are_told_apart(self) -> None:
        driver = self.driver()
        for number in range(3):
            driver.boot(self.wanted(f"node-{number}"))
        driver.destroy("node-1", {})
        assert self.names(driver) == ["node-0", "node-2"]

    def test_two_places_do_not_see_each_other(self) -> None:
        one, two = self.driver("one"), self.driver("two")
        one.boot(self.wanted())
        assert two.machines() == []
        two.destroy("node-1", {})
        assert self.names(one) == ["node-1"]

    def test_odd_names_stay_as_they_are(self) -> None:
        driver = self.driver("odd / cloud")
        for name in ODD_NAMES:
            assert driver.boot(self.wanted(name)).name == name
        assert self.names(driver) == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            driver.destroy(name, {})
        assert driver.machines() == []

    @pytest.mark.parametrize(
        ("field", "value"),
        [("name", ""), ("name", "a\0b"), ("name", "n" * 300), ("cores", 0), ("cores", -1), ("memory_mb", -1),
         ("storage_gb", -1), ("slots", -1), ("join_token", "")],
    )  # fmt: skip
    def test_bad_wanted_values_are_refused_by_name(self, field: str, value: Any) -> None:
        driver = self.driver()
        with pytest.raises(DriverError, match=field) as caught:
            driver.boot(self.wanted(**{field: value}))
        assert (caught.value.code, caught.value.transient) == (base.REQUEST, False)
        assert driver.machines() == []

    def test_no_secret_is_shown(self) -> None:
        driver = self.driver()
        wanted = self.wanted(join_token="very-secret-token")
        machine = driver.boot(wanted)
        assert "very-secret-token" not in repr((wanted, machine, driver.machines(), driver.verify()))
