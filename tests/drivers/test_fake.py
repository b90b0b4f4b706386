"""Does the scripted cloud do what its script says?"""

from __future__ import annotations

import pytest

from cloudsched.clock import ManualClock
from cloudsched.drivers import base, registry
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.fake import FAULTS, FakeDriver
from cloudsched.errors import Invalid
from tests.drivers.contract import DriverContract


class TestFakeContract(DriverContract):
    def place(self, name: str) -> Place:
        return Place(name, "fake", {}, state_dir=str(self.tmp))

    def make(self, place: Place) -> FakeDriver:
        return FakeDriver(place)


class TestFaults(DriverContract):
    """The contract once more with everything in memory, and the faults."""

    def place(self, name: str) -> Place:
        return Place(name, "fake", {"boot_s": 5})

    def make(self, place: Place) -> FakeDriver:
        self.clock = ManualClock()
        return self.known.setdefault(place.name, FakeDriver(place, now=self.clock.now))

    @pytest.fixture(autouse=True)
    def _known(self) -> None:
        self.known: dict[str, FakeDriver] = {}

    def calm(self, driver: base.Driver) -> None:
        assert isinstance(driver, FakeDriver)
        driver.clear_faults()

    def settle(self, driver: base.Driver, name: str) -> base.Machine:
        assert super().settle(driver, name).state == "Starting"
        self.clock.advance(5)
        return super().settle(driver, name)

    def fake(self) -> FakeDriver:
        driver = self.driver()
        assert isinstance(driver, FakeDriver)
        return driver

    @pytest.mark.parametrize(
        ("fault", "code", "transient"),
        [("quota", base.QUOTA, False), ("throttled", base.OTHER, True), ("auth_expired", base.AUTH, False),
         ("unreachable", base.ENDPOINT, True), ("denied", base.DENIED, False)],
    )  # fmt: skip
    def test_a_refusal_has_its_code_and_shows_as_often_as_told(self, fault: str, code: int, transient: bool) -> None:
        driver = self.fake()
        driver.schedule(fault, times=2)
        for _ in range(2):
            with pytest.raises(DriverError) as caught:
                driver.boot(self.wanted())
            assert (caught.value.code, caught.value.transient) == (code, transient)
        assert driver.machines() == []
        driver.boot(self.wanted())
        assert driver.counters["fault:" + fault] == 2
        assert driver.counters["created"] == 1

    def test_an_answer_that_is_lost_leaves_the_machine(self) -> None:
        driver = self.fake()
        driver.schedule("create_succeeds_answer_lost")
        with pytest.raises(DriverError) as caught:
            driver.boot(self.wanted())
        assert caught.value.transient
        assert self.names(driver) == ["node-1"]
        driver.boot(self.wanted())
        assert driver.counters["created"] == 1

    def test_half_a_machine_never_runs_until_it_is_booted_again(self) -> None:
        driver = self.fake()
        driver.schedule("half_created")
        with pytest.raises(DriverError):
            driver.boot(self.wanted())
        self.clock.advance(1000)
        assert [machine.state for machine in driver.machines()] == ["Starting"]
        driver.boot(self.wanted())
        self.clock.advance(5)
        assert [machine.state for machine in driver.machines()] == ["Running"]

    def test_slow_error_and_vanish(self) -> None:
        driver = self.fake()
        driver.schedule("slow", name="a")
        driver.schedule("error_state", name="b")
        for name in ("b", "a", "c"):
            driver.boot(self.wanted(name))
        self.clock.advance(6)
        states = {machine.name: machine.state for machine in driver.machines()}
        assert states == {"a": "Starting", "b": "Error", "c": "Running"}
        driver.schedule("vanish", name="c")
        assert self.names(driver) == ["a", "b"]
        driver.vanish("a")
        assert self.names(driver) == ["b"]

    def test_destroy_faults(self) -> None:
        driver = self.fake()
        driver.boot(self.wanted())
        driver.schedule("destroy_ignored")
        driver.destroy("node-1", {})
        assert self.names(driver) == ["node-1"]
        driver.schedule("destroy_answer_lost")
        with pytest.raises(DriverError):
            driver.destroy("node-1", {})
        assert driver.machines() == []

    def test_verify_shows_expired_credentials(self) -> None:
        driver = self.fake()
        driver.schedule("auth_expired", call="verify")
        assert {check.name: check.ok for check in driver.verify()} == {"endpoint": True, "credentials": False}

    def test_capacity_is_a_quota(self) -> None:
        driver = FakeDriver(Place("small", "fake", {"capacity": 1}))
        driver.boot(self.wanted("a"))
        driver.boot(self.wanted("a"))
        with pytest.raises(DriverError) as caught:
            driver.boot(self.wanted("b"))
        assert caught.value.code == base.QUOTA

    def test_faults_of_the_options_show_once_over_restarts(self) -> None:
        place = Place("kept", "fake", {"faults": ["quota"]}, state_dir=str(self.tmp))
        with pytest.raises(DriverError):
            FakeDriver(place).boot(self.wanted())
        FakeDriver(place).boot(self.wanted())
        assert self.names(FakeDriver(place)) == ["node-1"]

    def test_installations_do_not_see_each_other(self) -> None:
        one, two = (FakeDriver(Place("c", "fake", {}, state_dir=str(self.tmp), instance=name)) for name in "xy")
        one.boot(self.wanted())
        assert two.machines() == []


def test_unknown_faults_and_options_are_refused_by_name() -> None:
    with pytest.raises(Invalid, match=r"faults: 'nonsense'.*quota"):
        FakeDriver(Place("c", "fake", {"faults": ["nonsense"]}))
    with pytest.raises(Invalid, match="boot_s"):
        FakeDriver(Place("c", "fake", {"boot_s": "soon"}))
    assert all(calls <= {"boot", "machines", "destroy", "verify"} for calls in FAULTS.values())


def test_the_registry_finds_kinds_in_any_case() -> None:
    assert registry.make(Place("c", "fAKE", {})).kind == "Fake"
    assert registry.canonical("LOCAL") == "Local"
    with pytest.raises(Invalid, match=r"kind: 'Mars' .*Fake, Kubernetes, Local"):
        registry.make(Place("c", "Mars", {}))


def test_the_registry_takes_another_factory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_factories", {})
    clock = ManualClock()
    registry.register("fake", lambda place: FakeDriver(place, now=clock.now))
    made = registry.make(Place("c", "Fake", {}))
    assert isinstance(made, FakeDriver)
    assert registry.kinds().count("Fake") == 1
