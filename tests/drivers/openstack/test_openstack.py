"""Does the OpenStack driver keep the promises of a driver, and what does it make of Nova's refusals?"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.openstack import StackDriver, driver, make
from cloudsched.drivers.openstack.errors import meaning
from cloudsched.errors import Invalid
from cloudsched.testing.faultproxy import Answered, FaultProxy
from tests.drivers.contract import DriverCase, DriverContract

from .standin import CREDENTIAL_SECRET, PASSWORD, OpenStack

SERVER = "http://10.0.0.1:8100"
BASIC = {"tenant_name": "physics", "user_domain_name": "People", "project_domain_name": "Projects", "regions": ["One"],
         "security_group": ["default"], "image": "debian-12", "destroy_wait_s": 5}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_AGAIN_S", (0.001,))
    monkeypatch.setattr(driver, "RETRY_S", (0.001, 0.001))


class StackCase(DriverCase):
    @pytest.fixture(autouse=True)
    def _stack(self) -> Iterator[None]:
        with OpenStack() as self.stack, FaultProxy(self.stack.url) as self.proxy:
            yield

    def place(self, name: str, **options: Any) -> Place:
        given = {**BASIC, "auth_url": self.proxy.url + "/v3", **options}
        return Place(name, "OpenStackNative", given, credentials={"username": "ada", "password": PASSWORD}, server_url=SERVER)

    def make(self, place: Place) -> StackDriver:
        return make(place)

    def calm(self, driver: base.Driver) -> None:
        self.proxy.clear()

    def stack_driver(self, **options: Any) -> StackDriver:
        made = self.make(self.place("one", **options))
        self._drivers.append(made)
        return made

    def refused(self, made: StackDriver, **wanted: Any) -> DriverError:
        with pytest.raises(DriverError) as caught:
            made.boot(self.wanted(**wanted))
        return caught.value


class TestContract(StackCase, DriverContract):
    """Every row."""

    def test_pages(self) -> None:
        self.stack.page = 2
        driver = self.driver()
        names = [f"node {number}" for number in range(5)]
        for name in names:
            driver.boot(self.wanted(name))
        assert self.names(driver) == names


class TestBoot(StackCase):
    def test_what_the_machine_gets(self) -> None:
        made = self.stack_driver(key_name="ada", labels={"team": "blue"}, config_drive="yes", network="private")
        machine = made.boot(self.wanted(user_data="#!/bin/sh\necho hello\n", user="bob"))
        facts = self.stack.named("node-1")[0]
        assert facts["metadata"] == {"team": "blue", "cloudsched-instance": "cloudsched", "cloudsched-cloud": "one",
                                     "cloudsched-node": "node-1", "cloudsched-node-id": "1"}
        asked = facts["asked"]
        assert (asked["key_name"], asked["config_drive"], asked["security_groups"], asked["networks"]) == (
            "ada", True, [{"name": "default"}], [{"uuid": self.stack.networks[0]["id"]}])
        data = self.stack.user_data("node-1")
        assert b"text/x-shellscript" in data and b"\necho hello\n" in data and b"--server=http://10.0.0.1:8100" in data
        assert (machine.state, machine.address, machine.handle) == ("Running", "10.1.0.7", {"id": facts["id"]})
        assert made.console("node-1", {}) == "booting node-1\n"

    def test_long_user_data_is_compressed_or_refused(self) -> None:
        made = self.stack_driver()
        made.boot(self.wanted(user_data="#!/bin/sh\n" + "echo again\n" * 6000))
        assert gzip.decompress(self.stack.user_data("node-1")).count(b"echo again") == 6000
        noise = json.dumps([hash((n, "x")) for n in range(9000)])
        assert "user_data: is too long" in str(self.refused(made, name="two", user_data="#!" + noise))

    @pytest.mark.parametrize(
        ("wanted", "flavor", "volume_gb"),
        [({"cores": 1, "storage_gb": 1}, "4", 0), ({"cores": 2, "memory_mb": 3000, "storage_gb": 0}, "7", 2),
         ({"cores": 2, "memory_mb": 3000, "storage_gb": 70}, "4", 0), ({"cores": 2, "storage_gb": 200}, "7", 202),
         ({"instance_type": "g1", "storage_gb": 0}, "9", 0), ({"instance_type": "m1.small"}, "4", 0)],
    )  # fmt: skip
    def test_the_flavor_and_where_the_disk_comes_from(self, wanted: dict[str, Any], flavor: str, volume_gb: int) -> None:
        made = self.stack_driver(instance_types=["m1.large", "d2", "g1"])
        made.boot(self.wanted(**wanted))
        asked = self.stack.named("node-1")[0]["asked"]
        assert asked["flavorRef"] == flavor
        assert [one["volume_size"] for one in asked.get("block_device_mapping_v2", [])] == ([volume_gb] if volume_gb else [])
        assert ("imageRef" in asked) == (not volume_gb)
        made.destroy("node-1", {})
        assert self.stack.volumes == {}

    def test_types_with_devices_and_prices(self) -> None:
        made = self.stack_driver(prices={"m1.large": 0.25}, currency="CHF")
        types = {one.name: one for one in made.types()}
        assert (types["g1"].gpus, types["g1"].gpu_kind, types["m1.large"].price_per_hour) == (2, "a100", 0.25)
        assert types["m1.tiny"].price_per_hour is None
        assert [(one.instance_type, one.per_hour, one.currency) for one in made.prices()] == [("m1.large", 0.25, "CHF")]

    def test_an_old_nova_tells_no_devices(self) -> None:
        self.stack.microversion = 2.38
        assert {one.gpus for one in self.stack_driver().types()} == {0}

    def test_an_application_credential(self) -> None:
        place = self.place("one", tenant_name="")
        keys = {"application_credential_id": "cred-1", "application_credential_secret": CREDENTIAL_SECRET}
        assert make(replace(place, credentials=keys)).machines() == []

    def test_a_cloud_with_soft_deletion_keeps_nothing(self) -> None:
        self.stack.soft_delete = True
        made = self.stack_driver()
        made.boot(self.wanted())
        made.destroy("node-1", {})
        assert self.stack.servers == {}

    def test_all_machines_of_a_name_go(self) -> None:
        made = self.stack_driver()
        made.boot(self.wanted())
        body = {"server": self.stack.named("node-1")[0]["asked"]}
        self.stack.create(body)
        made.destroy("node-1", {})
        assert self.stack.servers == {}


class TestRefusals(StackCase):
    def test_quota_and_right_are_told_apart(self) -> None:
        self.stack.quota["instances"] = 0
        error = self.refused(self.stack_driver())
        assert (error.code, error.transient) == (base.QUOTA, False)
        assert "Quota exceeded for instances" in str(error)
        body = json.dumps({"forbidden": {"code": 403, "message": "Policy doesn't allow os_compute_api:servers:create"}})
        self.proxy.schedule("answer", answer=Answered(403, body.encode(), {"Content-Type": "application/json"}),
                            when=lambda asked: asked.method == "POST" and asked.path.endswith("/servers"))
        assert self.refused(self.stack_driver()).code == base.DENIED

    def test_no_host_has_room_and_nothing_stays(self) -> None:
        self.stack.full = True
        error = self.refused(self.stack_driver())
        assert (error.code, error.transient) == (base.QUOTA, True)
        assert "No valid host" in str(error)
        assert self.stack.servers == {}

    def test_a_machine_that_breaks_later_shows_its_fault(self) -> None:
        self.stack.full, self.stack.looks_to_build = True, 1000
        made = self.stack_driver(boot_watch_s=0)
        assert made.boot(self.wanted()).state == "Starting"
        self.stack.named("node-1")[0]["looks"] = 0
        machine = made.machines()[0]
        assert (machine.state, machine.reason) == (
            "Error", "ERROR: No valid host was found. There are not enough hosts available.")

    @pytest.mark.parametrize(
        ("options", "wanted", "code", "text"),
        [({}, {"instance_type": "x9"}, base.REQUEST, "instance_type: there is no flavor 'x9'"),
         ({}, {"cores": 99}, base.REQUEST, "instance_type: none fits 99 cores"),
         ({}, {"image": "beos"}, base.OTHER, "image: 'beos' is not there"),
         ({"image": ""}, {}, base.REQUEST, "image: is not given"),
         ({}, {"network": "dmz"}, base.REQUEST, "network: there are no networks named 'dmz'"),
         ({"key_name": "eve"}, {}, base.REQUEST, "Invalid key_name"),
         ({}, {"security_groups": ("open",)}, base.REQUEST, "Security group open not found"),
         ({"boot_from_volume": "never"}, {"instance_type": "d2"}, base.REQUEST, "storage_gb: d2 has 0 GB"),
         ({}, {"user_data": "hello"}, base.REQUEST, "user_data: its first line")],
    )  # fmt: skip
    def test_wrong_requests_name_what_is_wrong(self, options: Any, wanted: Any, code: int, text: str) -> None:
        error = self.refused(self.stack_driver(**options), **wanted)
        assert (error.code, error.transient) == (code, False)
        assert text in str(error)
        assert self.stack.servers == {}

    def test_several_networks_and_none_named(self) -> None:
        self.stack.networks.append({"id": "n2", "name": "dmz"})
        error = self.refused(self.stack_driver())
        assert error.code == base.REQUEST and "Multiple possible networks" in str(error)

    def test_a_token_that_ended_is_renewed_once(self) -> None:
        made = self.stack_driver()
        assert made.machines() == []
        self.stack.tokens.clear()
        assert made.machines() == []
        assert self.stack.logins == 2

    def test_one_token_serves_all_services(self) -> None:
        made = self.stack_driver(network="private")
        made.boot(self.wanted())
        made.verify()
        assert self.stack.logins == 1

    def test_wrong_credentials(self) -> None:
        place = replace(self.place("one"), credentials={"username": "ada", "password": "wrong-password"})
        made = make(place)
        error = self.refused(made)
        assert (error.code, error.transient) == (base.AUTH, False)
        checks = {check.name: check.ok for check in made.verify()}
        assert (checks["endpoint"], checks["credentials"]) == (True, False)
        assert "wrong-password" not in repr((made.verify(), error, place))

    def test_a_region_that_is_not_there(self) -> None:
        error = self.refused(self.make(self.place("one", regions=["Nowhere"])))
        assert (error.code, error.transient) == (base.ENDPOINT, False)
        assert "no public endpoint of a compute service in region Nowhere" in str(error)

    def test_what_verify_finds(self) -> None:
        checks = {check.name: check for check in self.stack_driver(
            image="beos", network="dmz", key_name="eve", security_group="default, open", instance_types="m1.large, x9").verify()}
        assert [name for name, check in checks.items() if not check.ok] == [
            "flavors", "image", "network", "key pair", "security group"]
        assert "open" in checks["security group"].detail
        local = make(replace(self.place("one"), server_url="http://127.0.0.1:8100"))
        assert [check.name for check in local.verify() if not check.ok] == ["server address"]
        assert all(check.ok for check in self.stack_driver(server_url="http://127.0.0.1:8100").verify())


class TestFaults(StackCase):
    """What goes wrong between us and the API: nothing leaks, and the code says what it was."""

    def creates(self, asked: Any) -> bool:
        return bool(asked.method == "POST" and asked.path.endswith("/servers"))

    def test_an_answer_that_is_lost(self) -> None:
        made = self.stack_driver()
        self.proxy.schedule("answer_lost", when=self.creates)
        error = self.refused(made)
        assert (error.code, error.transient) == (base.ENDPOINT, True)
        assert len(self.stack.named("node-1")) == 1
        machine = made.boot(self.wanted())
        assert machine.external_id == self.stack.named("node-1")[0]["id"]
        assert self.stack.created == 1

    def test_the_api_is_away_and_comes_back(self) -> None:
        made = self.stack_driver()
        made.boot(self.wanted())
        self.proxy.schedule("unreachable", times=-1)
        for call in (made.machines, lambda: made.boot(self.wanted("two")), lambda: made.destroy("node-1", {})):
            with pytest.raises(DriverError) as caught:
                call()
            assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
            assert "wrong" not in str(caught.value)
        assert [check.ok for check in made.verify() if check.name == "endpoint"] == [False]
        self.proxy.clear()
        assert self.names(made) == ["node-1"]

    def test_too_many_requests_are_asked_again(self) -> None:
        made = self.stack_driver()
        slow = Answered(429, json.dumps({"overLimit": {"code": 429, "message": "This request was rate-limited."}}).encode(),
                        {"Content-Type": "application/json"})
        self.proxy.schedule("answer", answer=slow, when=self.creates)
        made.boot(self.wanted())
        self.proxy.schedule("answer", answer=slow, times=-1, when=self.creates)
        error = self.refused(made, name="two")
        assert (error.code, error.transient) == (base.OTHER, True)

    def test_no_answer_in_time(self) -> None:
        made = self.stack_driver(timeout_s=0.2)
        self.proxy.schedule("stall", pause_s=1.0)
        with pytest.raises(DriverError, match="no answer in time"):
            made.machines()

    def test_something_else_answers(self) -> None:
        made = self.stack_driver()
        self.proxy.schedule("answer", times=-1, answer=Answered(200, b"<html>hello", {"Content-Type": "text/html"}))
        with pytest.raises(DriverError) as caught:
            made.machines()
        assert caught.value.code == base.ENDPOINT

    def test_a_machine_that_vanishes_is_not_listed(self) -> None:
        made = self.stack_driver()
        machine = made.boot(self.wanted())
        self.stack.servers.clear()
        assert made.machines() == []
        made.destroy("node-1", machine.handle)


@pytest.mark.parametrize(
    ("status", "text", "found"),
    [(403, "Quota exceeded for cores, ram: Requested 8, 16384", (base.QUOTA, False)),
     (403, "Maximum number of ports exceeded", (base.QUOTA, False)),
     (409, "OverQuota Quota exceeded for resources: ['port'].", (base.QUOTA, False)),
     (413, "VolumeLimitExceeded: Maximum number of volumes allowed (10) exceeded for quota 'volumes'.", (base.QUOTA, False)),
     (413, "This request was rate-limited.", (base.OTHER, True)), (429, "", (base.OTHER, True)),
     (403, "Policy doesn't allow it to be performed.", (base.DENIED, False)),
     (500, "No valid host was found.", (base.QUOTA, True)), (500, "Unexpected API Error.", (base.ENDPOINT, True)),
     (503, "", (base.ENDPOINT, True)), (404, "Image abc could not be found.", (base.OTHER, False)),
     (400, "Network 7 could not be found.", (base.REQUEST, False)), (401, "", (base.AUTH, False)),
     (418, "", (base.OTHER, False))],
)  # fmt: skip
def test_meanings(status: int, text: str, found: tuple[int, bool]) -> None:
    assert meaning(status, text) == found


@pytest.mark.parametrize(
    ("options", "field"),
    [({"auth_url": ""}, "auth_url"), ({"auth_url": "cloud.example.org"}, "auth_url"), ({"tenant_name": ""}, "tenant_name"),
     ({"boot_from_volume": "maybe"}, "boot_from_volume"), ({"config_drive": "perhaps"}, "config_drive"),
     ({"timeout_s": -1}, "timeout_s"), ({"instance_types": {"a": {"cores": 0, "memory_mb": 1}}}, "instance_types.a.cores"),
     ({"prices": {"a": "cheap"}}, "prices.a"), ({"labels": {"a": 1}}, "labels.a"), ({"colour": "red"}, "colour"),
     ({"instance_types": {"a": {"cpus": 1}}}, "instance_types.a.cpus"), ({"log_level": "loud"}, "log_level")],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any], field: str) -> None:
    given = {**BASIC, "auth_url": "http://127.0.0.1:1/v3", **options}
    with pytest.raises(Invalid) as caught:
        make(Place("one", "OpenStackNative", given, credentials={"username": "ada", "password": "p"}))
    assert caught.value.errors[0].field == field


def test_missing_credentials_are_named() -> None:
    with pytest.raises(Invalid, match=r"credentials\.password: is missing"):
        make(Place("one", "OpenStackNative", {**BASIC, "auth_url": "http://h/v3"}, credentials={"username": "ada"}))
