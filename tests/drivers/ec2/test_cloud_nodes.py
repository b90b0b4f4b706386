"""Do nodes for clusters come and go at an EC2 API, through the same engine as all others?"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from cloudsched.drivers.ec2 import driver
from cloudsched.errors import Unavailable
from cloudsched.services import pool_clouds
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks import cloud_nodes, cloud_offers
from cloudsched.store import events, system
from cloudsched.testing.faultproxy import FaultProxy
from tests.engine.conftest import House, light

from .moto_server import REGION, Moto
from .proxy import Tokens, action

__all__ = ["light"]
pytestmark = pytest.mark.engines
ANN = Caller("ann", "operator")


@pytest.fixture
def proxy(moto: Moto) -> Iterator[FaultProxy]:
    with FaultProxy(moto.url, between=Tokens()) as found:
        yield found


@pytest.fixture
def house(light: House, moto: Moto, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house with one EC2 cloud, `amazon`, that offers two types."""
    monkeypatch.setattr(driver, "LOOK_AGAIN_S", (0.001,))
    monkeypatch.setattr(driver, "RETRY_S", (0.001, 0.001))
    monkeypatch.setattr(cloud_offers, "_failed_at", {})
    options = {"endpoint": proxy.url, "regions": [REGION], "image": moto.image, "instance_types": ["t3.nano", "m5.large"]}
    keys = {"access_key_id": "AKIATEST", "secret_access_key": "very-secret-key"}
    light.database.write(lambda tx: system.put_setting(tx, "instance", moto.owner))
    light.add_cloud("amazon", kind="AmazonEC2", slots=5, options=json.dumps(options),
                    credentials=pool_clouds.seal(keys, light.settings), keep_alive_s=0)
    cloud_nodes.configure(light.settings)
    return light


def ids(moto: Moto) -> list[str]:
    return sorted(item.findtext("instanceId") or "" for item in moto.instances())


def launch(house: House, count: int = 2) -> list[str]:
    names = cloud_nodes.launch({"nodeCount": count, "instanceType": "m5.large", "region": REGION}, ANN)
    house.work()
    return names


def test_they_are_booted_stay_and_are_destroyed(house: House, moto: Moto) -> None:
    names = launch(house)
    machines = moto.instances()
    assert {item.findtext("instanceType") for item in machines} == {"m5.large"}
    tags = {tag.findtext("key"): tag.findtext("value") for item in machines for tag in item.findall("tagSet/item")}
    assert tags["cloudsched-node"] in names
    house.cycle(2)
    agents = house.join_all()
    house.cycle(2)
    house.clock.advance(50_000)  # idle for long: the queue's own clean-up lets them be
    for agent in agents:
        agent.sync()
    house.cycle(3)
    assert [(node.name, node.goal, node.override) for node in house.nodes("amazon")] == [(name, "run", None) for name in names]
    first, second = house.nodes("amazon")
    cloud_nodes.destroy({"nodeIds": [first.external_id, second.name], "region": REGION}, ANN)
    house.work()
    assert (house.nodes("amazon"), moto.instances()) == ([], [])
    assert (house.node(first.id).state, house.node(first.id).reason) == ("gone", "asked for")


def test_a_job_of_the_queue_may_run_there(house: House, moto: Moto) -> None:
    launch(house, 1)
    house.cycle()
    (agent,) = house.join_all()
    (job,) = house.submit(1, memory_mb=256)
    assert agent.run_all() == [job]
    assert house.job(job).state == "succeeded"


def test_idle_ones_are_cleaned_up(house: House, moto: Moto) -> None:
    names = launch(house)
    house.cycle(2)
    house.join_all()
    house.cycle(2)
    house.clock.advance(3700)
    assert sorted(cloud_nodes.clean_up(ANN).destroyed) == names
    house.work()
    assert moto.instances() == []


def test_an_answer_that_was_lost_costs_no_machine(house: House, moto: Moto, proxy: FaultProxy) -> None:
    cloud_nodes.instance_types()
    proxy.schedule("answer_lost", when=action("RunInstances"))
    launch(house, 2)
    house.cycle(3)
    assert set(ids(moto)) == {node.external_id for node in house.nodes("amazon") if node.external_id}


def test_all_instances_of_the_account_are_counted(house: House, moto: Moto) -> None:
    before = cloud_nodes.refresh_inventory(ANN)
    theirs = moto.call("RunInstances", ImageId=moto.image, MinCount="1", MaxCount="1", InstanceType="t3.nano")
    stranger = theirs.findtext("instancesSet/item/instanceId") or ""
    names = launch(house, 2)
    try:
        assert cloud_nodes.refresh_inventory(ANN) == before + 3
        at, found = cloud_offers.inventory(REGION)
        assert at == house.clock.now()
        by_id = {one["id"]: one for one in found}
        assert by_id[stranger]["node"] == ""
        assert sorted(one["node"] for one in found if one["node"]) == names
        event = events.since(0, kind="cloud.inventory")[-1]
        assert (event.actor, json.loads(event.data)["count"]) == ("ann", before + 3)
        assert json.loads(event.data)["ours"] == 2
    finally:
        moto.call("TerminateInstances", **{"InstanceId.1": stranger})


def test_a_provider_that_is_away(house: House, moto: Moto, proxy: FaultProxy) -> None:
    assert cloud_nodes.instance_types(REGION) == ["m5.large", "t3.nano"]
    proxy.schedule("unreachable", times=-1)
    house.clock.advance(90_000)
    assert cloud_nodes.instance_types(REGION) == ["m5.large", "t3.nano"]
    with pytest.raises(Unavailable, match="cannot be had") as caught:
        cloud_nodes.refresh_inventory(ANN)
    assert "very-secret" not in caught.value.message
