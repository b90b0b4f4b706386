"""What does the engine make of an EC2 cloud? Boots, polls, sweeps and faults, with nothing left over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cloudsched.drivers.ec2 import driver
from cloudsched.services import pool_clouds
from cloudsched.store import nodes, system
from cloudsched.store.db import Tx
from cloudsched.testing.faultproxy import FaultProxy
from tests.engine.conftest import House, light

from .moto_server import REGION, Moto
from .proxy import Tokens, action, refusal

__all__ = ["light"]
pytestmark = pytest.mark.engines


@pytest.fixture
def proxy(moto: Moto) -> Iterator[FaultProxy]:
    with FaultProxy(moto.url, between=Tokens()) as found:
        yield found


@pytest.fixture
def house(light: House, moto: Moto, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house with one EC2 cloud, `amazon`."""
    monkeypatch.setattr(driver, "LOOK_AGAIN_S", (0.001,))
    monkeypatch.setattr(driver, "RETRY_S", (0.001, 0.001))
    options = {"endpoint": proxy.url, "regions": [REGION], "image": moto.image, "instance_types": ["t3.nano", "m5.large"]}
    keys = {"access_key_id": "AKIATEST", "secret_access_key": "very-secret-key"}
    light.database.write(lambda tx: _name(tx, moto.owner))
    light.add_cloud("amazon", kind="AmazonEC2", slots=3, options=json.dumps(options),
                    credentials=pool_clouds.seal(keys, light.settings), keep_alive_s=0)
    return light


def _name(tx: Tx, owner: str) -> None:
    system.put_setting(tx, "instance", owner)


def submit(house: House, moto: Moto, count: int = 1, **more: Any) -> list[int]:
    return house.submit(count, image=moto.image, memory_mb=256, **more)


def test_a_job_gets_a_machine_and_the_machine_goes(house: House, moto: Moto) -> None:
    (number,) = submit(house, moto)
    house.cycle(2)
    (node,) = house.nodes("amazon")
    (item,) = moto.instances()
    assert (node.external_id, node.address) == (item.findtext("instanceId"), item.findtext("ipAddress"))
    assert house.engine.places.token(node.name).encode() in moto.user_data(node.external_id)
    (agent,) = house.join_all()
    assert agent.run_all() == [number]
    house.cycle(6)
    assert (house.nodes("amazon"), moto.instances()) == ([], [])


def test_what_was_created_behind_our_back_is_swept(house: House, moto: Moto) -> None:
    """Machines with our marks and no row: they may be seen once, not twice. Others' machines stay."""
    submit(house, moto)
    house.cycle(2)
    mine = house.nodes("amazon")[0].external_id
    orphan = _run(moto, {"cloudsched-instance": moto.owner, "cloudsched-cloud": "amazon", "cloudsched-node": "amazon-orphan"})
    strangers = [_run(moto, {"cloudsched-instance": "somebody-else", "cloudsched-cloud": "amazon", "cloudsched-node": "theirs"}),
                 _run(moto, {"Name": "a person's"})]
    assert house.engine.poller.sweep() == 0
    assert orphan in _ids(moto)
    assert house.engine.poller.sweep() == 1
    assert _ids(moto) == [mine]
    found = moto.call("DescribeInstances", **{f"InstanceId.{n}": one for n, one in enumerate(strangers, 1)})
    states = [one.text for one in found.findall("reservationSet/item/instancesSet/item/instanceState/name")]
    assert states == ["running", "running"]
    moto.call("TerminateInstances", **{f"InstanceId.{n}": one for n, one in enumerate(strangers, 1)})


def test_a_boot_whose_answer_was_lost_leaves_nothing(house: House, moto: Moto, proxy: FaultProxy) -> None:
    proxy.schedule("answer_lost", when=action("RunInstances"))
    (number,) = submit(house, moto)
    house.cycle()
    assert "no answer" in _why(house) or "aborted" in _why(house)
    house.cycle(3)
    alive = {node.external_id for node in house.nodes("amazon")}
    assert set(_ids(moto)) == alive and len(alive) == 1
    assert house.job(number).placed == 1


def test_an_engine_that_dies_in_the_middle_of_a_boot_finds_its_machine(house: House, moto: Moto) -> None:
    submit(house, moto)
    house.engine.job.schedule()
    (node,) = house.engine.workers._claim("boot")
    cloud = house.cloud("amazon")
    booter = house.engine.workers._work["boot"].__self__  # type: ignore[attr-defined]
    house.engine.places.driver(cloud).boot(booter._wanted(node, cloud, house.engine.places.token(node.name)))
    house.restart()  # nobody has written down what was booted
    house.clock.advance(60)
    house.work()
    (again,) = house.nodes("amazon")
    assert again.id == node.id
    assert _ids(moto) == [again.external_id]


@pytest.mark.parametrize("code", ["InstanceLimitExceeded", "RequestLimitExceeded", "ExpiredToken"])
def test_refusals_are_told_and_leave_nothing(house: House, moto: Moto, proxy: FaultProxy, code: str) -> None:
    proxy.schedule("answer", times=-1, answer=refusal(code), when=action("RunInstances"))
    submit(house, moto)
    house.cycle(2)
    for _ in range(6):  # a busy API is asked again after pauses, before it counts as a refusal
        house.clock.advance(120)
        house.work()
    assert code in _why(house)
    assert moto.instances() == []


def test_an_api_that_is_away_for_minutes_costs_no_machine(house: House, moto: Moto, proxy: FaultProxy) -> None:
    submit(house, moto, 2)
    house.cycle(3)
    before = _ids(moto)
    assert len(before) == 2
    house.join_all()
    proxy.schedule("unreachable", times=-1)
    for _ in range(20):
        house.clock.advance(9)
        house.engine.poller.tick()
        assert house.engine.poller.sweep() == 0
    assert house.cloud("amazon").error_since is not None
    proxy.clear()
    house.engine.poller.tick()
    assert house.cloud("amazon").error_since is None
    assert (_ids(moto), len(house.nodes("amazon"))) == (before, 2)


def test_a_machine_that_vanishes_is_noticed(house: House, moto: Moto) -> None:
    submit(house, moto)
    house.cycle(2)
    (node,) = house.nodes("amazon")
    moto.call("TerminateInstances", **{"InstanceId.1": node.external_id})
    for _ in range(12):
        house.clock.advance(1000)  # longer than any pause between two polls
        house.engine.poller.tick()
        house.work()
    gone = house.node(node.id)
    assert gone.state == "gone" and "Error state" in gone.reason
    assert moto.instances() == []


def _run(moto: Moto, tags: dict[str, str]) -> str:
    marks = {f"TagSpecification.1.Tag.{number}.{part}": text for number, pair in enumerate(tags.items(), 1)
             for part, text in zip(("Key", "Value"), pair, strict=True)}
    made = moto.call("RunInstances", ImageId=moto.image, MinCount="1", MaxCount="1", InstanceType="t3.nano",
                     **{"TagSpecification.1.ResourceType": "instance", **marks})
    return made.findtext("instancesSet/item/instanceId") or ""


def _ids(moto: Moto) -> list[str]:
    return sorted(item.findtext("instanceId") or "" for item in moto.instances())


def _why(house: House) -> str:
    failed = [node.reason for node in nodes.find(states=("failed",), limit=100)]
    return " ".join(failed)
