"""Do the rules of contract 7.5 to 7.7 reach the machines? One whole run for each, from submit to boot."""

from __future__ import annotations

from collections import Counter

import pytest

from cloudsched.services import pool_ops, why
from cloudsched.store import clouds, nodes

from .conftest import House


def wanted(house: House) -> Counter[str]:
    return Counter(node.user_type for node in house.nodes())


def test_a_node_per_core_takes_as_many_jobs_as_it_has_cores(house: House) -> None:
    house.add_cloud("alpha")
    ids = house.submit(6, cores=4, job_per_core=True)
    house.cycle()
    (node,) = house.nodes()
    assert (node.slots, node.cores, node.job_per_core) == (4, 4, 1)
    assert [house.job(number).placed for number in ids] == [1, 1, 1, 1, 0, 0]
    (agent,) = house.join_all()
    assert len(agent.sync(want=4).jobs) == 4
    house.cycle()
    slots = Counter((slot.state, slot.node_id) for slot in house.picture().slots)
    assert slots == {("Claimed", node.id): 4}
    held = [(row.id, row.attempt) for row in house.jobs_of(node.id)]
    agent.sync(done=[{"id": job, "attempt": attempt, "state": "succeeded"} for job, attempt in held[:3]], holding=held[3:])
    slots = Counter((slot.state, slot.name) for slot in house.picture().slots if slot.node_id == node.id)
    assert slots == {("Claimed", f"slot1@{node.name}"): 1, **{("Unclaimed", f"slot{n}@{node.name}"): 1 for n in (2, 3, 4)}}
    house.cycle()
    assert house.node(node.id).override is None


def test_user_limits_are_looked_at_before_each_boot(light: House) -> None:
    light.add_cloud("alpha", slots=10)
    light.database.write(lambda tx: clouds.set_limits(tx, {"ada": 2, "bob": 0}, at=1.0))
    for vm_type in ("a", "b", "c"):
        light.submit(2, vm_type=vm_type)
    light.submit(2, user="bob")
    light.submit(2, user="carol")
    light.cycle(5)
    assert Counter(node.user for node in light.nodes()) == {"ada": 2, "carol": 2}


def test_a_type_limit_is_kept(light: House) -> None:
    light.add_cloud("alpha", slots=10)
    light.submit(5, vm_type="few", vmtype_limit=2)
    (late,) = light.submit(vm_type="few", vmtype_limit=2)
    light.submit(4, vm_type="many")
    light.cycle(6)
    assert wanted(light) == {"ada:few": 2, "ada:many": 4}
    assert any(reason["rule"] == "type_limit" for reason in why.job(late)["reasons"])


@pytest.mark.parametrize("on", [False, True])
def test_high_priority_jobs_go_first_when_switched_on(light: House, on: bool) -> None:
    light.set(high_priority_job_support=on)
    light.add_cloud("alpha", slots=10)
    light.submit(3, user="ada")
    light.submit(2, user="bob", high_priority=5)
    light.cycle()
    assert wanted(light) == ({"bob:default": 1} if on else {"ada:default": 1, "bob:default": 1})
    light.cycle()
    assert wanted(light)["bob:default"] == 2


def test_a_banned_high_priority_job_stops_nobody(light: House) -> None:
    light.set(high_priority_job_support=True)
    light.add_cloud("alpha")
    (number,) = light.submit(user="bob", high_priority=5)
    light.driver("alpha").schedule("auth_expired", call="boot")
    light.cycle()
    assert light.job(number).override == "TempBanned"
    light.submit(user="ada")
    light.cycle()
    assert wanted(light) == {"ada:default": 1}


def test_first_in_first_out(house: House) -> None:
    house.set(scheduling_algorithm="fifo")
    house.add_cloud("alpha", slots=3)
    first = house.submit(2, user="ada")
    second = house.submit(4, user="bob")
    house.cycle()
    assert [node.job_id for node in house.nodes()] == [*first, second[0]]
    agents = house.join_all()
    for agent in agents:
        assert agent.sync(want=1).jobs
    house.cycle()
    assert [node.user for node in house.nodes() if node.override == "Retiring"] == ["ada", "ada"]


def test_split_distribution_gives_each_type_its_part(light: House) -> None:
    light.set(job_distribution_type="split")
    light.add_cloud("alpha", slots=4)
    for vm_type in ("a", "b"):
        light.submit(10, user="ada", vm_type=vm_type)
    light.submit(10, user="bob", vm_type="c")
    light.cycle(4)
    assert wanted(light) == {"ada:a": 1, "ada:b": 1, "bob:c": 2}


def test_target_clouds_and_aliases_in_any_case(house: House) -> None:
    for name in ("alpha", "beta", "gamma"):
        house.add_cloud(name)
    house.database.write(lambda tx: clouds.set_aliases(tx, {"West": ["Beta", "nowhere"]}, at=1.0))
    (one,) = house.submit(targets=["GAMMA"], vm_type="a")
    (two,) = house.submit(targets=["west"], vm_type="b")
    (three,) = house.submit(targets=["nowhere"], vm_type="c")
    house.cycle()
    assert [node.job_id for node in house.nodes("gamma")] == [one]
    assert [node.job_id for node in house.nodes("beta")] == [two]
    assert not house.nodes("alpha")
    assert house.job(three).state == "held"
    for agent in house.join_all():
        assert [job.id for job in agent.sync(want=5).jobs] == [house.node(agent.node_id).job_id]


def test_fitting_by_memory_cores_storage_network_and_priority(light: House) -> None:
    light.add_cloud("alpha", priority=1, memory_mb=1000, cores=2, storage_gb=5, networks='["inside"]')
    light.add_cloud("beta", priority=2, slots=9)
    shapes = [{"memory_mb": 1001}, {"cores": 3}, {"storage_gb": 6}, {"network": "outside"},
              {"memory_mb": 600, "network": "inside"}, {"memory_mb": 600}]
    for index, fields in enumerate(shapes):
        light.submit(vm_type=f"t{index}", **fields)
    light.cycle()
    where = {node.vm_type: node.cloud_id for node in light.nodes()}
    assert where["t0"] == where["t1"] == where["t2"] == where["t3"] == light.cloud("beta").id
    assert sorted([where["t4"], where["t5"]]) == [light.cloud("alpha").id, light.cloud("beta").id]


def test_equal_clouds_fill_evenly(light: House) -> None:
    light.add_cloud("alpha", slots=4)
    light.add_cloud("beta", slots=2)
    for index in range(3):
        light.submit(vm_type=f"t{index}")
    light.cycle()
    assert (len(light.nodes("alpha")), len(light.nodes("beta"))) == (2, 1)


def test_nothing_is_booted_while_too_many_start(light: House) -> None:
    light.set(max_starting_vm=2)
    light.add_cloud("alpha", slots=9, options='{"boot_s": 10}')
    for index in range(5):
        light.submit(vm_type=f"t{index}", user=f"u{index}")
    light.cycle(1)
    first = len(light.nodes())
    light.cycle(5)
    assert len(light.nodes()) == first
    light.clock.advance(10)
    light.cycle(2)
    assert {node.status for node in light.nodes()[:first]} == {"Running"}


def test_a_disabled_cloud_gets_nothing_new_and_holds_nothing(light: House) -> None:
    light.add_cloud("alpha", enabled=0)
    (number,) = light.submit()
    light.cycle(2)
    assert light.job(number).state == "queued"
    assert not light.nodes()


def test_room_that_was_taken_between_decision_and_record_is_not_taken_twice(light: House) -> None:
    light.add_cloud("alpha", slots=1)
    (number,) = light.submit()
    record = light.engine.job._boots

    def late(tx: object, *given: object) -> None:
        light.database.write(lambda inside: nodes.insert(inside, {"name": "other", "cloud_id": 1, "state": "requested"}, at=1.0))
        record(tx, *given)  # type: ignore[arg-type]

    light.engine.job._boots = late  # type: ignore[method-assign,assignment]
    light.engine.job.schedule()
    assert [node.name for node in light.nodes()] == ["other"]
    assert light.job(number).placed == 0


def test_security_groups_and_image_of_the_chosen_cloud_reach_the_driver(light: House) -> None:
    light.add_cloud("alpha", options='{"security_group": ["default", "web"]}')
    (number,) = light.submit(security_groups=["web", "other"], image={"ALPHA": "img-a", "default": "img"},
                             instance_type="big", network="n1")
    seen = []
    driver = light.driver("alpha")
    boot = driver.boot
    driver.boot = lambda wanted: (seen.append(wanted), boot(wanted))[1]  # type: ignore[method-assign,func-returns-value]
    light.cycle()
    (asked,) = seen
    assert (asked.security_groups, asked.image, asked.instance_type, asked.network) == (("web",), "img-a", "big", "n1")
    assert (asked.user, asked.vm_type, asked.slots) == ("ada", "default", 1)
    assert light.nodes()[0].job_id == number


def test_a_cloud_disabled_after_the_decision_boots_nothing(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()
    light.engine.job.schedule()
    pool_ops.switch_cloud("alpha", enabled=False)
    light.work()
    assert light.driver("alpha").counters.get("boot", 0) == 0
    assert light.job(number).placed == 0
    assert not light.nodes()
