"""Do jobs get the GPUs they ask for? Where machines are booted, where jobs are handed out, and what `why` says."""

from __future__ import annotations

import json
import threading
import time

from cloudsched.services import agents, joining, snapshot, waiters, why
from cloudsched.testing.factories import make_cloud

from .conftest import House, Played


def joined(house: House, *, gpus: int) -> list[Played]:
    """Every started node joins, and says how many GPUs it has."""
    found = []
    for node in house.nodes():
        if not node.instance:
            profile = {"cores": node.cores, "memory_mb": node.memory_mb, "gpus": gpus, "slots": 4}
            body = {"token": house.engine.places.token(node.name), "instance": "one", "profile": profile}
            answer = joining.join(json.dumps(body).encode(), "127.0.0.1")
            found.append(Played(answer["node_id"], answer["secret"]))
    return found


def rules_of(number: int, **where: str) -> list[str]:
    return [one["rule"] for one in why.job(number)["reasons"] if all(one.get(key) == value for key, value in where.items())]


def test_nothing_is_booted_where_there_are_too_few(house: House) -> None:
    house.add_cloud("plain")
    house.add_cloud("two", options=json.dumps({"gpus": 2}))
    (fits,) = house.submit(1, gpus=2)
    (never,) = house.submit(1, gpus=3)
    assert rules_of(never, cloud="plain") == rules_of(never, cloud="two") == ["gpus"]
    house.cycle(2)
    (node,) = house.nodes()
    assert node.job_id == fits and house.cloud("two").id == node.cloud_id
    assert house.driver("two").machines()[0].name == node.name
    assert house.job(never).state == "held" and rules_of(never, cloud="two") == ["gpus"]


def test_a_node_takes_what_its_gpus_allow(house: House) -> None:
    house.add_cloud("one", options=json.dumps({"gpus": 1}), slots=1)
    first, second = house.submit(2, gpus=1)
    (plain,) = house.submit(1)
    house.cycle()
    (agent,) = joined(house, gpus=1)
    assert [job.id for job in agent.sync(want=4).jobs] == [first, plain]
    assert agent.sync(want=4, holding=[[first, 1], [plain, 1]]).jobs == []
    name = house.node(agent.node_id).name
    assert rules_of(second, node=name) == ["gpus"]
    done = {"id": first, "attempt": 1, "state": "succeeded", "exit_code": 0}
    assert [job.id for job in agent.sync(want=4, holding=[[plain, 1]], done=[done]).jobs] == [second]


def test_a_node_without_gpus_takes_no_such_job(house: House) -> None:
    house.add_cloud("said", options=json.dumps({"gpus": 1}))
    (number,) = house.submit(1, gpus=1)
    house.cycle()
    (agent,) = joined(house, gpus=0)
    assert agent.sync(want=1).jobs == []
    assert rules_of(number, node=house.node(agent.node_id).name) == ["gpus"]


def test_a_held_request_gets_the_job_when_the_gpu_is_free_again(light: House) -> None:
    light.add_cloud("one", options=json.dumps({"gpus": 1}), slots=1)
    first, second = light.submit(2, gpus=1)
    light.cycle()
    (agent,) = joined(light, gpus=1)
    assert [job.id for job in agent.sync(want=1).jobs] == [first]
    got: list[agents.Reply] = []

    def hold() -> None:
        body = json.dumps({"want": 1, "wait_s": 20, "holding": [[first, 1]]}).encode()
        got.append(agents.sync(f"{agent.node_id}.{agent.secret}", body))
        light.database.close_thread()

    held = threading.Thread(target=hold)
    held.start()
    until = time.monotonic() + 20
    while not waiters.held() and time.monotonic() < until:
        time.sleep(0.01)
    agent.sync(holding=[], done=[{"id": first, "attempt": 1, "state": "succeeded", "exit_code": 0}])
    held.join(30)
    assert [job.id for job in got[0].jobs] == [second]


def test_what_a_cloud_says_of_its_gpus(light: House) -> None:
    sizes = {"small": {"cores": 1, "memory_mb": 1}, "big": {"cores": 8, "memory_mb": 1, "gpus": 4}}
    for name, (options, gpus) in enumerate((({}, 0), ({"gpus": 2, "instance_types": sizes}, 2), ({"instance_types": sizes}, 4),
                          ({"instance_types": ["a", "b"]}, 0), ({"resources": {"nvidia.com/gpu": "1"}}, 1))):
        assert snapshot.node_gpus(make_cloud(f"c{name}", kind="Fake", options=json.dumps(options))) == gpus
