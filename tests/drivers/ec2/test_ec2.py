"""What is asked of an EC2 API, and what is made of its answers? Without a server that behaves like one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.drivers import base, registry
from cloudsched.drivers.base import DriverError, Place, Wanted
from cloudsched.drivers.ec2 import Ec2Driver, driver, make
from cloudsched.drivers.ec2.errors import CODES, meaning
from cloudsched.drivers.ec2.instances import Instance, Launch, first_token, next_token, run_params
from cloudsched.drivers.ec2.setup import read_setup
from cloudsched.drivers.sizes import InstanceType, TypeRules, smallest
from cloudsched.errors import Invalid
from cloudsched.testing.faultproxy import Answered, FaultProxy

from .proxy import action, canned, refusal

KEYS = {"access_key_id": "AKIATEST", "secret_access_key": "very-secret-key"}
WANTED = Wanted("node-1", 7, 2, 2048, 10, join_token="very-secret-token", server_url="http://10.0.0.1:8100")
IMAGE = ("<imagesSet><item><imageId>ami-1</imageId><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item>"
         "<deviceName>/dev/xvda</deviceName><ebs><volumeSize>8</volumeSize></ebs></item></blockDeviceMapping></item></imagesSet>")
RUN = ("<instancesSet><item><instanceId>i-1</instanceId><instanceState><name>pending</name></instanceState>"
       "<tagSet><item><key>cloudsched-node</key><value>node-1</value></item></tagSet></item></instancesSet>")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "RETRY_S", (0.001,))


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    with FaultProxy("", between=canned({"DescribeImages": IMAGE, "RunInstances": RUN})) as found:
        yield found


def place(url: str = "http://127.0.0.1:1", kind: str = "AmazonEC2", **options: Any) -> Place:
    basic = {"endpoint": url, "regions": ["r1"], "image": "ami-1", "instance_type": "m5.large"}
    return Place("one", kind, {**basic, **options}, credentials=KEYS, server_url="http://10.0.0.1:8100", instance="house")


def made(proxy: FaultProxy, **options: Any) -> Ec2Driver:
    return make(place(proxy.url, **options))


def test_the_request(proxy: FaultProxy) -> None:
    made(proxy, volume_type="gp3", security_group="a, sg-2").boot(WANTED)
    params = proxy.asked[-1].params
    told = {key: value for key, value in params.items() if key not in ("UserData", "Action", "Version")}
    tags = {"Name": "node-1", "cloudsched-instance": "house", "cloudsched-cloud": "one", "cloudsched-node": "node-1",
            "cloudsched-node-id": "7"}
    marks = {f"TagSpecification.{resource}.Tag.{number}.{part}": text for resource in (1, 2)
             for number, pair in enumerate(tags.items(), 1) for part, text in zip(("Key", "Value"), pair, strict=True)}
    assert told == {
        **marks, "TagSpecification.1.ResourceType": "instance", "TagSpecification.2.ResourceType": "volume",
        "ImageId": "ami-1", "MinCount": "1", "MaxCount": "1", "InstanceType": "m5.large",
        "InstanceInitiatedShutdownBehavior": "terminate", "SecurityGroup.1": "a", "SecurityGroupId.1": "sg-2",
        "BlockDeviceMapping.1.DeviceName": "/dev/xvda", "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        "BlockDeviceMapping.1.Ebs.VolumeSize": "18", "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
        "ClientToken": first_token(place(), "node-1")}
    assert proxy.asked[-1].method == "POST"
    assert "/r1/ec2/aws4_request" in proxy.asked[-1].headers["Authorization"]


def test_old_servers_are_asked_in_their_way(proxy: FaultProxy) -> None:
    """Signature 2, no tags in the request; tags are put on right after."""
    driver = make(place(proxy.url + "/services/Cloud", "OpenStack", signature="2"))
    proxy.between = canned({"DescribeImages": IMAGE, "RunInstances": RUN.replace("cloudsched-node", "other")})
    driver.boot(WANTED)
    actions = [asked.params["Action"] for asked in proxy.asked]
    assert actions == ["DescribeInstances", "DescribeImages", "RunInstances", "CreateTags", "DescribeInstances"]
    assert {(asked.method, asked.path.split("?")[0], asked.params["SignatureVersion"]) for asked in proxy.asked} == {
        ("GET", "/services/Cloud/", "2")}
    assert not any(key.startswith("TagSpecification") for key in proxy.asked[2].params)
    assert "cloudsched-node" in proxy.asked[3].params.values()


def test_temporary_credentials_send_their_token(proxy: FaultProxy) -> None:
    given = place(proxy.url)
    make(Place(given.name, given.kind, given.options, {**KEYS, "session_token": "very-secret-session"})).machines()
    assert proxy.asked[-1].headers["x-amz-security-token"] == "very-secret-session"


@pytest.mark.parametrize(
    ("wanted_price", "options", "spot"),
    [(0, {}, {}), (0, {"max_price": 1}, {}), (0, {"spot": True}, {"MarketType": "spot"}),
     (0, {"spot": "yes", "max_price": "0.5"}, {"MarketType": "spot", "SpotOptions.MaxPrice": "0.5"}),
     (0.00001, {}, {"MarketType": "spot", "SpotOptions.MaxPrice": "0.00001"})],
)  # fmt: skip
def test_spot(wanted_price: float, options: Any, spot: dict[str, str]) -> None:
    wanted = Wanted("n", 1, 1, 1, 0, max_price=wanted_price)
    params = run_params(Launch("ami", "t", b""), wanted, read_setup(place(**options)), tags={})
    found = {key.removeprefix("InstanceMarketOptions."): value for key, value in params.items() if "MarketOptions" in key}
    usual = {"SpotOptions.SpotInstanceType": "one-time", "SpotOptions.InstanceInterruptionBehavior": "terminate"}
    assert found == ({**spot, **usual} if spot else {})


@pytest.mark.parametrize(
    ("code", "status", "found"),
    [("InstanceLimitExceeded", 400, (base.QUOTA, False)), ("Client.InstanceLimitExceeded", 400, (base.QUOTA, False)),
     ("FutureThingLimitExceeded", 400, (base.QUOTA, False)), ("InsufficientFutureCapacity", 500, (base.QUOTA, True)),
     ("RequestLimitExceeded", 503, (base.OTHER, True)), ("Throttling", 400, (base.OTHER, True)),
     ("AuthFailure", 401, (base.AUTH, False)), ("ExpiredToken", 400, (base.AUTH, False)),
     ("OptInRequired", 403, (base.DENIED, False)), ("InvalidAMIID.NotFound", 400, (base.OTHER, False)),
     ("InvalidParameterValue", 400, (base.REQUEST, False)), ("MissingParameter", 400, (base.REQUEST, False)),
     ("Server.InternalError", 500, (base.ENDPOINT, True)), ("Unavailable", 503, (base.ENDPOINT, True)),
     ("", 401, (base.AUTH, False)), ("", 403, (base.DENIED, False)), ("", 404, (base.ENDPOINT, False)),
     ("", 429, (base.OTHER, True)), ("", 502, (base.ENDPOINT, True)), ("Strange", 400, (base.OTHER, False))],
)  # fmt: skip
def test_meanings(code: str, status: int, found: tuple[int, bool]) -> None:
    assert meaning(code, status) == found


def test_every_code_of_the_table_comes_through(proxy: FaultProxy) -> None:
    driver = made(proxy)
    for code, (result, transient) in CODES.items():
        proxy.clear()
        proxy.schedule("answer", times=-1, answer=refusal(code, "because of very-secret-token"), when=action("RunInstances"))
        with pytest.raises(DriverError) as caught:
            driver.boot(WANTED)
        assert (caught.value.code, caught.value.transient, caught.value.details["error"]) == (result, transient, code)
        assert "very-secret" not in str(caught.value)


def test_user_data_that_is_quoted_back_is_not_shown(proxy: FaultProxy) -> None:
    driver = made(proxy)
    driver.boot(WANTED)
    data = proxy.asked[-1].params["UserData"]
    proxy.schedule("answer", answer=refusal("InvalidParameterValue", f"Value ({data}) for UserData"), when=action("RunInstances"))
    with pytest.raises(DriverError) as caught:
        driver.boot(WANTED)
    assert data[:100] not in str(caught.value) and "[...]" in str(caught.value)


def test_what_is_no_ec2_api(proxy: FaultProxy) -> None:
    for status, code in ((200, base.ENDPOINT), (404, base.ENDPOINT), (502, base.ENDPOINT), (403, base.DENIED)):
        proxy.schedule("answer", answer=Answered(status, b"<html>It works!"))
        with pytest.raises(DriverError) as caught:
            made(proxy).machines()
        assert caught.value.code == code
        assert "html" not in str(caught.value)


def test_no_answer_in_time(proxy: FaultProxy) -> None:
    proxy.schedule("stall", pause_s=1.0)
    with pytest.raises(DriverError, match="no answer in time") as caught:
        made(proxy, timeout_s=0.2).machines()
    assert (caught.value.code, caught.value.transient) == (base.ENDPOINT, True)


def test_nobody_listens() -> None:
    with pytest.raises(DriverError) as caught:
        make(place()).machines()
    assert str(caught.value) == ("list of machines: http://127.0.0.1:1: Failed to establish a new connection: "
                                 "[Errno 111] Connection refused")


def test_tokens_of_names() -> None:
    one, two = first_token(place(), "a"), first_token(place(), "b")
    assert one != two and len(one) <= 64
    assert next_token(place(), one, "i-1") not in (one, next_token(place(), one, "i-2"))


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [({"state": "pending"}, "Starting", ""), ({"state": "running"}, "Running", ""), ({"state": "shutting-down"}, "Shutdown", "x"),
     ({"state": "stopped"}, "Starting", "x"), ({"state": "error"}, "Error", "x"), ({"state": "new word"}, "Starting", "x")],
)  # fmt: skip
def test_states_of_the_contract(facts: dict[str, str], state: str, reason: str) -> None:
    found = Instance("i-1", **facts).machine(read_setup(place()))
    assert (found.state, bool(found.reason)) == (state, bool(reason))


@pytest.mark.parametrize(
    ("kind", "options", "url"),
    [("AmazonEC2", {}, "https://ec2.r1.amazonaws.com"),
     ("AmazonEC2", {"host": "ec2.amazonaws.com", "port": 8773, "secure_connection": False}, "https://ec2.r1.amazonaws.com"),
     ("AmazonEC2", {"host": "ec2.eu-west-1.amazonaws.com", "port": 443}, "https://ec2.eu-west-1.amazonaws.com"),
     ("AmazonEC2", {"host": "ec2.private.example.org", "port": 8773}, "http://ec2.private.example.org:8773"),
     ("OpenStack", {"host": "h", "port": 8773}, "http://h:8773/services/Cloud"),
     ("OpenStack", {"host": "h", "port": 8788, "path": "/"}, "http://h:8788"),
     ("Eucalyptus", {"host": "h", "secure_connection": True}, "https://h:8773/services/Eucalyptus"),
     ("Eucalyptus", {"endpoint": "https://compute.cloud.example.org/"}, "https://compute.cloud.example.org")],
)  # fmt: skip
def test_where_the_api_is(kind: str, options: dict[str, Any], url: str) -> None:
    given = Place("one", kind, {"regions": "r1", **options}, credentials=KEYS)
    assert read_setup(given).endpoint.url == url


@pytest.mark.parametrize(
    ("options", "field"),
    [({"regions": []}, "regions"), ({"endpoint": "h:1"}, "endpoint"), ({"port": 99999}, "port"), ({"signature": 3}, "signature"),
     ({"tagging": "never"}, "tagging"), ({"images": {"a": ""}}, "images.a"), ({"images": "ami-1"}, "images"),
     ({"max_price": "cheap"}, "max_price"), ({"spot": "maybe"}, "spot"), ({"security_group": [1]}, "security_group"),
     ({"instance_types": 7}, "instance_types"), ({"regoin": "r1"}, "regoin"), ({"public_ip": "perhaps"}, "public_ip")],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        make(place(**options))
    assert caught.value.errors[0].field == field


def test_missing_credentials_are_named() -> None:
    with pytest.raises(Invalid, match=r"credentials\.secret_access_key: is missing"):
        make(Place("one", "AmazonEC2", {"regions": "r1"}, credentials={"access_key_id": "x"}))


def test_secrets_are_not_in_any_repr() -> None:
    given = place()
    setup = read_setup(given)
    assert "very-secret" not in repr((given, setup, make(given), Launch("a", "b", b"very-secret")))


def test_the_kinds_and_their_pauses() -> None:
    for kind in ("AmazonEC2", "OpenStack", "Eucalyptus"):
        found = registry.make(place(kind=kind))
        assert found.kind == kind
        assert isinstance(found, Ec2Driver)
        assert found.poll_pause_s == {"Starting": 120, "Running": 900}
    assert make(place(poll_running_s=5)).poll_pause_s["Running"] == 5


SIZES = [InstanceType("gpu", 2, 4096, gpus=1), InstanceType("big", 8, 16384, 100), InstanceType("small", 1, 1024),
         InstanceType("arm", 2, 4096, arch="arm64"), InstanceType("two", 2, 4096, arch="x86_64")]


@pytest.mark.parametrize(
    ("needs", "rules", "found"),
    [({"cores": 1, "memory_mb": 1}, {}, "small"), ({"cores": 2, "memory_mb": 1}, {}, "big"),
     ({"cores": 2, "memory_mb": 1}, {"arch": "x86_64", "allowed": ("two", "big", "gpu")}, "two"),
     ({"cores": 2, "memory_mb": 1}, {"arch": "arm64", "allowed": ("two", "arm")}, "arm"),
     ({"cores": 1, "memory_mb": 1}, {"allowed": ("gpu",)}, "gpu"), ({"cores": 1, "memory_mb": 1, "gpus": 1}, {}, "gpu"),
     ({"cores": 1, "memory_mb": 1, "gpus": 2}, {}, None), ({"cores": 9, "memory_mb": 1}, {}, None),
     ({"cores": 1, "memory_mb": 1, "storage_gb": 50}, {}, "big")],
)  # fmt: skip
def test_the_smallest_that_fits(needs: Any, rules: Any, found: str | None) -> None:
    chosen = smallest([one for one in SIZES if one.name not in ("arm", "two") or rules], rules=TypeRules(**rules), **needs)
    assert (chosen.name if chosen else None) == found


def test_declared_sizes_and_prices() -> None:
    sizes = {"a": {"cores": 1, "memory_mb": 512, "price_per_hour": 0.2}, "b": {"cores": 1, "memory_mb": 256}}
    options = {"instance_types": sizes, "prices": {"b": 0.1}, "currency": "EUR", "instance_type": ""}
    driver = make(place(kind="OpenStack", **options))
    assert [(one.name, one.price_per_hour) for one in driver.types()] == [("a", 0.2), ("b", 0.1)]
    assert [(one.instance_type, one.per_hour, one.currency) for one in driver.prices()] == [("b", 0.1, "EUR"), ("a", 0.2, "EUR")]
