"""What is left when an engine dies between any two steps? One machine per row, a row per machine, and it goes on."""

from __future__ import annotations

import pytest

from cloudsched.drivers.base import ENDPOINT, DriverError
from cloudsched.engine.boots import LEASE_S
from cloudsched.services import lifecycle
from cloudsched.store import boots, events, nodes

from .conftest import House


class Killed(BaseException):
    """The process is gone: nothing after this line happens."""


def die() -> None:
    raise Killed


def agree(house: House) -> None:
    """One row for each machine and one machine for each row."""
    assert house.machines() == sorted(node.name for node in house.nodes())


@pytest.mark.parametrize("moment", ["before_boot", "after_boot"])
def test_killed_while_booting(house: House, moment: str) -> None:
    house.add_cloud("alpha", slots=3)
    house.submit(3)
    driver = house.driver("alpha")
    setattr(driver, moment, die)
    house.engine.job.schedule()
    with pytest.raises(Killed):
        house.engine.workers.step()
    setattr(driver, moment, None)
    house.restart()
    house.cycle()
    house.clock.advance(LEASE_S)
    house.cycle()
    agree(house)
    house.cycle(3)
    assert driver.counters["created"] == len(house.nodes()) == 3


def test_killed_after_the_decision_and_before_any_boot(house: House) -> None:
    house.add_cloud("alpha")
    house.submit()
    house.engine.job.schedule()
    house.restart()
    house.cycle()
    agree(house)
    assert house.driver("alpha").counters["created"] == 1


def test_killed_while_destroying(house: House) -> None:
    house.add_cloud("alpha")
    house.submit()
    house.cycle()
    (node,) = house.nodes()
    house.database.write(lambda tx: lifecycle.stop(tx, node.id, at=house.clock.now(), actor="", reason="test"))
    assert house.database.write(lambda tx: boots.claim_due(
        tx, "destroy", holder="dead", at=house.clock.now(), lease_s=LEASE_S, limit=1))
    house.driver("alpha").destroy(node.name, {})
    house.restart()
    house.work()
    assert house.node(node.id).state == "stopping"
    house.clock.advance(LEASE_S + 1)
    house.work()
    assert house.node(node.id).state == "gone"
    house.cycle(2)
    agree(house)


@pytest.mark.parametrize("fault", ["create_succeeds_answer_lost", "half_created"])
def test_a_boot_whose_answer_is_lost_leaves_nothing(light: House, fault: str) -> None:
    light.add_cloud("alpha")
    light.submit()
    light.driver("alpha").schedule(fault)
    light.engine.job.schedule()
    light.work()
    assert not light.machines()
    light.clock.advance(light.settings.cloud_scheduler.general.job_ban_timeout_s)
    light.cycle(2)
    agree(light)
    assert len(light.machines()) == 1


def test_a_machine_without_a_row_goes_with_the_second_sweep(light: House) -> None:
    light.add_cloud("alpha")
    light.submit()
    light.driver("alpha").schedule("create_succeeds_answer_lost")
    light.driver("alpha").schedule("unreachable", call="destroy")
    light.engine.job.schedule()
    light.work()
    assert len(light.machines()) == 1
    assert light.engine.poller.sweep() == 0
    light.driver("alpha").schedule("unreachable", call="machines")
    assert light.engine.poller.sweep() == 0
    assert light.engine.poller.sweep() == 1
    assert not light.machines()


def test_a_row_without_a_machine_is_ended_after_the_threshold(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit()
    house.cycle()
    (agent,) = house.join_all()
    (job,) = agent.sync(want=1).jobs
    house.driver("alpha").vanish(house.node(agent.node_id).name)
    threshold = house.settings.cloud_scheduler.general.polling_error_threshold
    house.cycle(threshold - 1)
    assert house.node(agent.node_id).error_count == threshold - 1
    assert house.node(agent.node_id).status == "Shutdown"
    house.cycle(2)
    assert house.node(agent.node_id).state == "gone"
    assert house.node(agent.node_id).reason == "VM is in an Error state."
    assert job.id == number
    assert house.job(number).state == "queued"
    house.cycle(2)
    agree(house)


def test_a_good_poll_clears_the_count(light: House) -> None:
    light.add_cloud("alpha")
    light.submit()
    light.cycle()
    (node,) = light.nodes()
    driver = light.driver("alpha")
    driver.set_state(node.name, "Error")
    light.cycle(3)
    assert light.node(node.id).error_count == 3
    driver.set_state(node.name, "")
    light.cycle()
    assert light.node(node.id).error_count == 0
    assert light.node(node.id).status == "Running"


def test_stopping_while_a_boot_is_under_way_waits_for_its_end(house: House) -> None:
    house.add_cloud("alpha")
    house.submit()
    house.engine.job.schedule()
    (node,) = house.nodes()
    seen: list[int] = []

    def stop_meanwhile() -> None:
        house.database.write(lambda tx: lifecycle.stop(tx, node.id, at=house.clock.now(), actor="ada", reason="asked for"))
        seen.extend(found.id for found in house.database.write(lambda tx: boots.claim_due(
            tx, "destroy", holder="other", at=house.clock.now(), lease_s=LEASE_S, limit=5)))

    house.driver("alpha").before_boot = stop_meanwhile
    house.engine.workers.step()
    assert not seen
    assert house.node(node.id).state == "stopping"
    assert house.machines() == [node.name]
    house.driver("alpha").before_boot = None
    house.engine.workers.step()
    assert house.node(node.id).state == "gone"
    assert not house.machines()


def test_stopping_a_requested_node_before_its_boot(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()
    light.engine.job.schedule()
    (node,) = light.nodes()
    light.database.write(lambda tx: lifecycle.stop(tx, node.id, at=light.clock.now(), actor="ada", reason="asked for"))
    light.work()
    assert light.node(node.id).state == "gone"
    assert light.driver("alpha").counters.get("boot", 0) == 0
    light.cycle(2)
    assert [found.job_id for found in light.nodes()] == [number]


def test_a_boot_that_takes_longer_than_its_lease_is_not_begun_twice(house: House) -> None:
    house.add_cloud("alpha")
    house.submit()
    house.engine.job.schedule()
    other = house.new_engine()
    begun: list[int] = []

    def long() -> None:
        for _ in range(5):
            house.clock.advance(LEASE_S / 2)
            house.engine.workers.renew()
            begun.append(other.workers.step())

    house.driver("alpha").before_boot = long
    house.engine.workers.step()
    assert begun == [0] * 5
    assert [node.state for node in house.nodes()] == ["starting"]
    assert house.driver("alpha").counters["boot"] == 1


def test_a_boot_whose_lease_was_lost_settles_nothing_and_is_one_machine(house: House) -> None:
    house.add_cloud("alpha")
    house.submit()
    house.engine.job.schedule()
    other = house.new_engine()

    def lost() -> None:
        house.driver("alpha").before_boot = None
        house.clock.advance(LEASE_S + 1)
        assert other.workers.step() == 1

    house.driver("alpha").before_boot = lost
    house.engine.workers.step()
    (node,) = house.nodes()
    assert node.state == "starting"
    assert house.driver("alpha").counters["created"] == 1
    assert [event.kind for event in events.since(0, subject_kind="node", subject_id=node.id)].count("node.boot") == 1
    agree(house)


def test_a_refusal_after_the_lease_was_lost_changes_nothing(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()
    light.engine.job.schedule()
    other = light.new_engine()

    def lost() -> None:
        light.driver("alpha").before_boot = None
        light.clock.advance(LEASE_S + 1)
        other.workers.step()
        raise DriverError("too late", code=-2)

    light.driver("alpha").before_boot = lost
    light.engine.workers.step()
    assert light.job(number).placed == 1
    agree(light)


def test_a_destroy_that_is_refused_is_tried_again_with_growing_pauses(light: House) -> None:
    light.add_cloud("alpha")
    light.submit()
    light.cycle()
    (node,) = light.nodes()
    light.driver("alpha").schedule("unreachable", times=3, call="destroy")
    light.database.write(lambda tx: lifecycle.stop(tx, node.id, at=light.clock.now(), actor="", reason="test"))
    for pause_s in (1, 2, 5):
        light.work()
        light.clock.advance(pause_s - 0.1)
        assert light.engine.workers.step() == 0
        light.clock.advance(0.2)
    light.work()
    assert light.node(node.id).state == "gone"
    failed = [event for event in events.since(0, subject_kind="node", subject_id=node.id) if event.kind == "node.destroy_fail"]
    assert len(failed) == 3


def test_a_driver_that_breaks_in_an_unforeseen_way_is_a_failed_boot(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()

    def broken() -> None:
        raise ZeroDivisionError("no such cloud")

    light.driver("alpha").before_boot = broken
    light.cycle()
    assert light.job(number).placed == 0
    assert not light.nodes()
    (ended,) = nodes.select("state = 'failed'")
    assert "ZeroDivisionError" in ended.reason


def test_an_unreachable_boot_starts_the_clouds_clock(light: House) -> None:
    light.add_cloud("alpha")
    light.submit()

    def away() -> None:
        raise DriverError("connection refused", code=ENDPOINT, transient=True)

    light.driver("alpha").before_boot = away
    began = light.clock.now()
    light.engine.job.schedule()
    light.engine.workers.step()
    assert light.cloud("alpha").error_since == began
    light.engine.poller.tick()
    assert light.cloud("alpha").error_since is None
