"""Does the EC2 driver keep the promises of a driver, against a server that behaves like Amazon's?"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Place
from cloudsched.drivers.cloudinit import user_data
from cloudsched.drivers.ec2 import Ec2Driver, driver, make
from cloudsched.drivers.ec2.setup import read_setup
from cloudsched.testing.faultproxy import Answered, Asked, FaultProxy
from tests.drivers.contract import DriverCase, DriverContract

from .moto_server import REGION, Moto
from .proxy import Forward, Tokens, action, refusal

pytestmark = pytest.mark.engines
SERVER = "http://10.0.0.1:8100"
KEYS = {"access_key_id": "AKIATEST", "secret_access_key": "very-secret-key"}
TYPES = ["t3.nano", "m5.large", "m5.2xlarge"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_AGAIN_S", (0.001,))
    monkeypatch.setattr(driver, "RETRY_S", (0.001, 0.001))


def place_at(moto: Moto, name: str = "one", *, kind: str = "AmazonEC2", **options: Any) -> Place:
    basic: Mapping[str, Any] = {"endpoint": moto.url, "regions": [REGION], "image": moto.image, "instance_types": TYPES,
                                "destroy_wait_s": 10}
    return Place(name, kind, {**basic, **options}, credentials=KEYS, server_url=SERVER, instance=moto.owner)


class Ec2Case(DriverCase):
    @pytest.fixture(autouse=True)
    def _moto(self, moto: Moto) -> None:
        self.moto = moto

    def place(self, name: str, **options: Any) -> Place:
        return place_at(self.moto, name, **options)

    def make(self, place: Place) -> Ec2Driver:
        return make(place)

    def ec2(self, **options: Any) -> Ec2Driver:
        made = self.make(self.place("one", **options))
        self._drivers.append(made)
        return made

    def refused(self, made: Ec2Driver, **wanted: Any) -> DriverError:
        with pytest.raises(DriverError) as caught:
            made.boot(self.wanted(**wanted))
        return caught.value


class TestContract(Ec2Case, DriverContract):
    """Every row."""


class TestTaggedAfterwards(Ec2Case):
    """Servers that cannot tag at creation."""

    test_listed = DriverContract.test_a_booted_machine_is_listed_and_runs
    test_twice = DriverContract.test_boot_twice_is_one_machine
    test_apart = DriverContract.test_two_places_do_not_see_each_other
    test_again = DriverContract.test_a_name_can_be_used_again

    def place(self, name: str, **options: Any) -> Place:
        return place_at(self.moto, name, kind="Eucalyptus", **options)

    @pytest.mark.parametrize("found_by", ["boot", "sweep"])
    def test_a_crash_before_the_tags_leaves_nothing_that_is_not_found(self, found_by: str) -> None:
        with FaultProxy(self.moto.url) as proxy:
            made = self.ec2(endpoint=proxy.url)
            proxy.schedule("answer_lost", when=action("RunInstances"))
            assert self.refused(made).code == base.ENDPOINT
            (stray,) = made.machines()
            assert stray.name.startswith("cs-"), "it has no name yet, but a token of ours"
            if found_by == "boot":
                assert made.boot(self.wanted()).external_id == stray.external_id
                assert self.names(made) == ["node-1"]
            made.destroy("node-1" if found_by == "boot" else stray.name, stray.handle)
            assert made.machines() == []


class TestBoot(Ec2Case):
    def test_a_whole_life(self) -> None:
        made = self.ec2(labels={"team": "blue"}, key_name="ada", placement_zone="us-east-1a")
        self.moto.key("ada")
        wanted = self.wanted(user_data="#!/bin/sh\necho hello ü\n", memory_mb=1024,
                             labels={"cloudsched-node": "x", "colour": "red"})
        machine = made.boot(wanted)
        (item,) = self.moto.instances()
        tags = {tag.findtext("key"): tag.findtext("value") for tag in item.findall("tagSet/item")}
        assert tags == {"Name": "node-1", "team": "blue", "colour": "red", "cloudsched-instance": self.moto.owner,
                        "cloudsched-cloud": "one", "cloudsched-node": "node-1", "cloudsched-node-id": "1"}
        assert (item.findtext("keyName"), item.findtext("placement/availabilityZone")) == ("ada", "us-east-1a")
        assert item.findtext("instanceType") == "m5.large"
        assert machine.external_id == item.findtext("instanceId")
        listed = made.machines()[0]
        assert (listed.state, listed.address) == ("Running", item.findtext("ipAddress"))
        assert listed.hostname == item.findtext("dnsName")
        setup = read_setup(self.place("one")).agent
        expected = user_data(wanted, setup, kind="AmazonEC2", cloud="one", limit_bytes=16384)
        assert self.moto.user_data(machine.external_id) == expected
        assert isinstance(made.console("node-1", machine.handle), str)
        made.destroy("node-1", machine.handle)
        assert (made.machines(), self.moto.instances()) == ([], [])
        volumes = self.moto.api.call("DescribeVolumes").findall("volumeSet/item/attachmentSet/item/instanceId")
        assert machine.external_id not in [one.text for one in volumes]

    def test_long_user_data_is_compressed(self) -> None:
        made = self.ec2()
        machine = made.boot(self.wanted(user_data="#!/bin/sh\n" + "echo again\n" * 3000))
        data = self.moto.user_data(machine.external_id)
        assert len(data) <= 16384
        assert gzip.decompress(data).count(b"echo again") == 3000

    def test_the_root_volume_has_room_for_what_is_wanted(self) -> None:
        made = self.ec2(volume_type="gp3")
        machine = made.boot(self.wanted(storage_gb=40))
        found = self.moto.api.call("DescribeVolumes").findall("volumeSet/item")
        (volume,) = [one for one in found if one.findtext("attachmentSet/item/instanceId") == machine.external_id]
        assert int(volume.findtext("size") or 0) >= 48
        assert volume.findtext("volumeType") == "gp3"
        tags = {tag.findtext("key"): tag.findtext("value") for tag in volume.findall("tagSet/item")}
        assert tags["cloudsched-node"] == "node-1"

    @pytest.mark.parametrize(
        ("options", "wanted", "chosen"),
        [({}, {"cores": 2, "memory_mb": 600}, "m5.large"), ({}, {"cores": 1, "memory_mb": 500}, "t3.nano"),
         ({}, {"cores": 8, "memory_mb": 9000}, "m5.2xlarge"), ({}, {"instance_type": "m5.2xlarge"}, "m5.2xlarge"),
         ({}, {"instance_type": "m1.small", "memory_mb": 4000}, "m5.large"),
         ({"prices": {"m5.2xlarge": 0.01}}, {}, "m5.2xlarge"), ({"instance_type": "m5.large"}, {}, "m5.large")],
    )  # fmt: skip
    def test_the_smallest_type_that_fits(self, options: Any, wanted: Any, chosen: str) -> None:
        assert self.ec2(**options).boot(self.wanted(**wanted)).handle["type"] == chosen

    def test_spot_machines(self) -> None:
        with FaultProxy(self.moto.url) as proxy:
            made = self.ec2(endpoint=proxy.url)
            made.boot(self.wanted(max_price=0.05))
            assert [item.findtext("instanceLifecycle") for item in self.moto.instances()] == ["spot"]
            asked = next(one.params for one in proxy.asked if one.params["Action"] == "RunInstances")
            assert asked["InstanceMarketOptions.SpotOptions.MaxPrice"] == "0.05"
            made.destroy("node-1", {})

    def test_types_and_prices(self) -> None:
        made = self.ec2(instance_types=[*TYPES, "g4dn.xlarge"], prices={"m5.large": 0.096}, spot=True)
        types = {one.name: one for one in made.types()}
        assert (types["m5.large"].cores, types["m5.large"].memory_mb, types["m5.large"].price_per_hour) == (2, 8192, 0.096)
        assert (types["g4dn.xlarge"].gpus, types["g4dn.xlarge"].gpu_kind) == (1, "NVIDIA T4")
        assert types["t3.nano"].price_per_hour is None
        prices = made.prices()
        assert [(one.instance_type, one.per_hour) for one in prices if one.kind == "on-demand"] == [("m5.large", 0.096)]
        assert {one.instance_type for one in prices if one.kind == "spot"} <= {*TYPES, "g4dn.xlarge"}

    def test_a_subnet_by_name_with_groups_by_name(self) -> None:
        network = self.moto.call("CreateVpc", CidrBlock="10.7.0.0/16").findtext("vpc/vpcId") or ""
        subnet = self.moto.call("CreateSubnet", VpcId=network, CidrBlock="10.7.1.0/24").findtext("subnet/subnetId") or ""
        self.moto.call("CreateTags", **{"ResourceId.1": subnet, "Tag.1.Key": "Name", "Tag.1.Value": self.moto.owner})
        group = self.moto.call("CreateSecurityGroup", GroupName="work", GroupDescription="x", VpcId=network).findtext("groupId")
        made = self.ec2(security_group="work", public_ip=True)
        made.boot(self.wanted(network=self.moto.owner))
        (item,) = self.moto.instances()
        assert item.findtext("subnetId") == subnet
        assert [one.text for one in item.findall("networkInterfaceSet/item/groupSet/item/groupId")] == [group]
        assert "there is no group 'other'" in str(self.refused(made, name="b", network=subnet, security_groups=("other",)))

    @pytest.mark.parametrize(
        ("options", "wanted", "code", "text"),
        [({}, {"image": "ami-00000000"}, base.OTHER, "InvalidAMIID.NotFound"), ({"image": ""}, {}, base.REQUEST, "image: is not"),
         ({}, {"image": "no such name"}, base.OTHER, "image: 'no such name' is not there"),
         ({}, {"cores": 999}, base.REQUEST, "instance_type: none fits 999 cores"),
         ({}, {"instance_type": "x1.huge"}, base.REQUEST, "instance_type: 'x1.huge' is not among"),
         ({}, {"network": "nowhere"}, base.REQUEST, "network: there is no subnet"),
         ({}, {"security_groups": ("sg-12345678",)}, base.REQUEST, "sg-12345678")],
    )  # fmt: skip
    def test_wrong_requests_name_what_is_wrong(self, options: Any, wanted: Any, code: int, text: str) -> None:
        error = self.refused(self.ec2(**options), **wanted)
        assert (error.code, error.transient) == (code, False)
        assert text in str(error)
        assert self.moto.instances() == []

    def test_an_image_by_name_is_the_newest(self) -> None:
        machine = self.ec2().boot(self.wanted())
        for _ in range(2):
            self.moto.call("CreateImage", InstanceId=machine.external_id, Name=f"worker {self.moto.owner}")
        made = self.ec2(images={"gpu-worker": f"worker {self.moto.owner}"})
        made.boot(self.wanted("two", vm_type="gpu-worker"))
        assert {item.findtext("imageId") for item in self.moto.instances()} != {self.moto.image}

    def test_what_verify_finds(self) -> None:
        made = self.ec2(security_group="default, open", key_name="nobody", placement_zone="us-east-1z", subnet="nowhere",
                        image="no such name", instance_types=["m5.large", "x9.odd"])
        checks = {check.name: check for check in made.verify()}
        assert [name for name, check in checks.items() if not check.ok] == [
            "security group", "key pair", "zone", "subnet", "image", "instance types"]
        fine = self.ec2(security_group="default", placement_zone="us-east-1a")
        assert [check for check in fine.verify() if not check.ok] == []

    def test_many_machines_are_listed_page_by_page(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(driver, "PAGE", "5")
        made = self.ec2()
        names = [f"node-{number}" for number in range(12)]
        for name in names:
            made.boot(self.wanted(name))
        assert self.names(made) == sorted(names)

    def test_signatures_are_right(self) -> None:
        """The one test in which moto looks at them."""
        keys = self.moto.iam_user(allowed=["ec2:DescribeInstances"])
        with self.moto.checking_signatures():
            made = make(replace(self.place("one"), credentials=keys))
            assert made.machines() == []
            error = self.refused(made, instance_type="m5.large")
            assert (error.code, error.transient) == (base.DENIED, False)
            assert "AccessDenied" in str(error)
            wrong = make(replace(self.place("one"), credentials={**keys, "secret_access_key": "not-the-right-one"}))
            checks = {check.name: check for check in wrong.verify()}
            assert (checks["endpoint"].ok, checks["credentials"].ok) == (True, False)
            assert "AuthFailure" in checks["credentials"].detail or "SignatureDoesNotMatch" in checks["credentials"].detail


class TestFaults(Ec2Case):
    """What goes wrong between us and the API: no machine leaks, and the code says what it was."""

    @pytest.fixture(autouse=True)
    def _proxy(self, _moto: None) -> Iterator[None]:
        self.tokens = Tokens()
        with FaultProxy(self.moto.url, between=self.tokens) as self.proxy:
            yield
            self.proxy.clear()
            for made in self._drivers:
                for machine in made.machines():
                    made.destroy(machine.name, machine.handle)
        self._drivers.clear()

    def calm(self, driver: base.Driver) -> None:
        self.proxy.clear()

    def place(self, name: str, **options: Any) -> Place:
        return place_at(self.moto, name, endpoint=self.proxy.url, **options)

    def runs(self) -> list[Mapping[str, str]]:
        return [asked.params for asked in self.proxy.asked if asked.params.get("Action") == "RunInstances"]

    def test_the_answer_to_the_create_is_lost(self) -> None:
        made = self.ec2()
        self.proxy.schedule("answer_lost", when=action("RunInstances"))
        error = self.refused(made)
        assert (error.code, error.transient) == (base.ENDPOINT, True)
        assert len(self.moto.instances()) == 1
        machine = self.ec2().boot(self.wanted())
        assert [machine.external_id] == [item.findtext("instanceId") for item in self.moto.instances()]
        made.destroy("node-1", {})
        assert self.moto.instances() == []

    def test_the_place_does_not_show_yet_what_it_made(self) -> None:
        """The list is behind: only the token tells that it is the same machine."""
        made = self.ec2()
        first = made.boot(self.wanted())
        self.proxy.schedule("answer", answer=Answered(200, b"<DescribeInstancesResponse/>"), when=action("DescribeInstances"))
        assert made.boot(self.wanted()).external_id == first.external_id
        assert len({params["ClientToken"] for params in self.runs()}) == 1
        assert len(self.moto.instances()) == 1

    def test_asked_for_again_by_a_server_of_another_address(self) -> None:
        first = self.ec2().boot(self.wanted())
        other = self.ec2(server_url="http://10.9.9.9:8100")
        self.proxy.schedule("answer", answer=Answered(200, b"<DescribeInstancesResponse/>"), when=action("DescribeInstances"))
        assert other.boot(self.wanted()).external_id == first.external_id

    def test_a_name_has_a_new_token_after_each_end(self) -> None:
        made, seen = self.ec2(), set()
        for _ in range(3):
            machine = made.boot(self.wanted())
            seen.add(machine.external_id)
            made.destroy("node-1", machine.handle)
        # Another one, to which the place shows nothing of the past, comes to the same end.
        self.proxy.schedule("answer", answer=Answered(200, b"<DescribeInstancesResponse/>"), when=action("DescribeInstances"))
        seen.add(make(self.place("one")).boot(self.wanted()).external_id)
        assert len(seen) == 4
        assert len(self.moto.instances()) == 1

    @pytest.mark.parametrize(
        ("code", "result", "transient"),
        [("InstanceLimitExceeded", base.QUOTA, False), ("VcpuLimitExceeded", base.QUOTA, False),
         ("MaxSpotInstanceCountExceeded", base.QUOTA, False), ("InsufficientInstanceCapacity", base.QUOTA, True),
         ("RequestLimitExceeded", base.OTHER, True), ("UnauthorizedOperation", base.AUTH, False),
         ("PendingVerification", base.DENIED, False), ("InternalError", base.ENDPOINT, True)],
    )  # fmt: skip
    def test_a_refusal_leaves_nothing(self, code: str, result: int, transient: bool) -> None:
        made = self.ec2()
        self.proxy.schedule("answer", times=-1, answer=refusal(code), when=action("RunInstances"))
        error = self.refused(made)
        assert (error.code, error.transient, error.details["error"]) == (result, transient, code)
        assert self.moto.instances() == []
        self.proxy.clear()
        assert made.boot(self.wanted()).external_id

    def test_throttled_calls_are_made_again(self) -> None:
        self.proxy.schedule("answer", times=2, answer=refusal("RequestLimitExceeded", status=503))
        assert self.ec2().machines() == []

    def test_half_a_machine_ends_with_its_reason(self) -> None:
        made = self.ec2()
        machine = made.boot(self.wanted())
        self.end(machine.external_id, "Client.VolumeLimitExceeded", "Volume limit exceeded")
        listed = made.machines()[0]
        assert (listed.state, listed.reason) == ("Shutdown", "terminated (Client.VolumeLimitExceeded: Volume limit exceeded)")
        made.destroy("node-1", listed.handle)
        assert made.machines() == []

    def test_a_spot_machine_that_is_taken_back_says_so(self) -> None:
        made = self.ec2(spot=True)
        machine = made.boot(self.wanted())
        self.end(machine.external_id, "Server.SpotInstanceTermination", "Spot instance termination")
        listed = made.machines()[0]
        assert (listed.state, listed.reason) == ("Shutdown", "the spot machine was taken back (Spot instance termination)")

    def test_a_machine_that_somebody_terminated_is_not_there(self) -> None:
        made = self.ec2()
        machine = made.boot(self.wanted())
        self.moto.call("TerminateInstances", **{"InstanceId.1": machine.external_id})
        assert made.machines() == []
        made.destroy("node-1", machine.handle)

    def test_credentials_that_expire(self) -> None:
        made = self.ec2()
        made.boot(self.wanted())
        self.proxy.schedule("answer", times=-1, answer=refusal("ExpiredToken", "The security token is expired", 401))
        for call in (made.machines, lambda: made.boot(self.wanted("two")), lambda: made.destroy("node-1", {})):
            with pytest.raises(DriverError, match="ExpiredToken") as caught:
                call()
            assert (caught.value.code, caught.value.transient) == (base.AUTH, False)
        assert {check.name: check.ok for check in made.verify()}["credentials"] is False

    def test_the_api_is_away_for_minutes(self) -> None:
        made = self.ec2()
        made.boot(self.wanted())
        self.proxy.schedule("unreachable", times=-1)
        for call in (made.machines, lambda: made.boot(self.wanted("two")), lambda: made.destroy("node-1", {})):
            with pytest.raises(DriverError) as caught:
                call()
            assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)
            assert KEYS["access_key_id"] not in str(caught.value)
        self.proxy.clear()
        assert self.names(made) == ["node-1"]

    def test_an_end_that_takes_too_long_is_not_believed(self) -> None:
        made = self.ec2(destroy_wait_s=1)
        made.boot(self.wanted())
        self.proxy.schedule("answer", answer=Answered(200, b"<TerminateInstancesResponse/>"), when=action("TerminateInstances"))
        with pytest.raises(DriverError, match=r"not gone yet: i-[0-9a-f]+ is running") as caught:
            made.destroy("node-1", {})
        assert caught.value.transient
        made.destroy("node-1", {})
        assert self.moto.instances() == []

    def end(self, number: str, code: str, message: str) -> None:
        """The place ends that machine, for a reason of its own."""
        self.moto.call("TerminateInstances", **{"InstanceId.1": number})

        def tell(asked: Asked, forward: Forward) -> Answered:
            answer = self.tokens(asked, forward)
            body = answer.body.replace(b"Client.UserInitiatedShutdown</code>", f"{code}</code>".encode())
            body = re.sub(rb"<message>[^<]*</message>", f"<message>{message}</message>".encode(), body)
            return replace(answer, body=body)

        self.proxy.between = tell


def test_documents_are_json(moto: Moto) -> None:
    """What is kept of a machine can be written down."""
    machine = make(place_at(moto)).boot(DriverCase().wanted())
    assert json.loads(json.dumps(dict(machine.handle))) == machine.handle
    make(place_at(moto)).destroy("node-1", machine.handle)
