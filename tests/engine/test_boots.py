"""What follows from a boot's answer? Each row of contract 7.7, the next candidate, images, bans."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloudsched.domain.scheduling.outcomes import TEMP_BANNED
from cloudsched.drivers.base import AUTH, DENIED, ENDPOINT, OTHER, QUOTA, REQUEST, DriverError
from cloudsched.services import jobs as job_service
from cloudsched.services import pool_views, why
from cloudsched.store import clouds, nodes, pool

from .conftest import ADA, House


def refuse(house: House, cloud: str, code: int) -> None:
    def no() -> None:
        raise DriverError(f"refused with {code}", code=code)

    house.driver(cloud).before_boot = no


def blocked(house: House) -> dict[int, list[str]]:
    return {job: [cloud for cloud, _ in found] for job, found in pool.blocks(house.clock.now()).items()}


@pytest.mark.parametrize(("code", "reason", "consequence"), [
    (AUTH, "Proxy/Auth related issue", "ban"),
    (QUOTA, "Insufficient Resources on cloud", "queue"),
    (OTHER, "Other VM Create Error", "block"),
    (-99, "Other VM Create Error", "block"),
    (ENDPOINT, "Endpoint / Region problem", "queue"),
    (REQUEST, "Error when making VM request: check log", "queue"),
    (DENIED, "Resource Request Denied", "queue"),
])
def test_each_code_has_its_consequence(light: House, code: int, reason: str, consequence: str) -> None:
    light.add_cloud("alpha", slots=1)
    (number,) = light.submit()
    refuse(light, "alpha", code)
    light.engine.job.schedule()
    assert light.job(number).placed == 1
    light.engine.workers.step()
    job = light.job(number)
    assert job.placed == 0
    assert pool_views.boot_failures() == {job.key: [reason]}
    assert (job.override, job.ban_until is not None) == ((TEMP_BANNED, True) if consequence == "ban" else (None, False))
    assert blocked(light) == ({number: ["alpha"]} if consequence == "block" else {})
    assert not light.nodes()
    light.engine.poller.tick()  # a place that was out of reach answers again
    light.engine.job.schedule()
    assert len(light.nodes()) == (1 if consequence == "queue" else 0)


def test_bans_and_blocks_end_after_their_time(house: House) -> None:
    house.add_cloud("alpha")
    for code in (AUTH, OTHER):
        (number,) = house.submit()
        refuse(house, "alpha", code)
        house.cycle()
        house.driver("alpha").before_boot = None
        house.cycle(2)
        assert not house.nodes()
        house.clock.advance(house.settings.cloud_scheduler.general.job_ban_timeout_s)
        house.cycle(2)
        assert house.job(number).override is None
        assert len(house.nodes()) == 1
        job_service.cancel(number, ADA)
        house.join_all()
        house.cycle(3)
        assert not house.nodes()


def test_the_next_candidate_is_tried_and_the_last_code_decides(house: House) -> None:
    for name, priority in (("alpha", 1), ("beta", 2), ("gamma", 3)):
        house.add_cloud(name, priority=priority)
    (number,) = house.submit()
    refuse(house, "alpha", QUOTA)
    refuse(house, "beta", OTHER)
    refuse(house, "gamma", OTHER)
    house.engine.job.schedule()
    house.work()
    assert pool_views.boot_failures() == {house.job(number).key: [
        "Insufficient Resources on cloud", "Other VM Create Error", "Other VM Create Error"]}
    assert blocked(house) == {number: ["alpha", "beta", "gamma"]}


def test_a_success_clears_the_reasons(light: House) -> None:
    light.add_cloud("alpha", priority=1)
    light.add_cloud("beta", priority=2)
    (number,) = light.submit()
    refuse(light, "alpha", OTHER)
    light.cycle()
    assert pool_views.boot_failures() == {}
    assert [node.job_id for node in light.nodes("beta")] == [number]
    assert blocked(light) == {}


def test_a_candidate_without_room_is_left_out(light: House) -> None:
    light.add_cloud("alpha", priority=1)
    light.add_cloud("beta", priority=2, memory_mb=1024)
    (number,) = light.submit(memory_mb=1024)
    refuse(light, "alpha", OTHER)
    light.engine.job.schedule()
    light.database.write(lambda tx: nodes.insert(tx, {
        "name": "meanwhile", "cloud_id": light.cloud("beta").id, "state": "running", "memory_mb": 512}, at=1.0))
    light.work()
    assert [node.name for node in light.nodes()] == ["meanwhile"]
    assert blocked(light) == {number: ["alpha"]}


def test_jobs_behind_blocked_ones_get_their_turn(light: House) -> None:
    light.add_cloud("alpha", slots=2)
    first = light.submit(10)
    refuse(light, "alpha", OTHER)
    light.cycle(10)
    assert set(blocked(light)) == set(first)
    light.driver("alpha").before_boot = None
    (last,) = light.submit()
    light.cycle()
    assert [node.job_id for node in light.nodes()] == [last]


def test_a_cloud_without_a_driver_eats_no_boots_and_says_so(light: House) -> None:
    light.add_cloud("alpha", priority=1, kind="OpenNebula")
    light.add_cloud("beta", priority=2)
    (number,) = light.submit()
    light.cycle()
    assert [node.job_id for node in light.nodes("beta")] == [number]
    (only,) = light.submit(targets=["alpha"])
    light.engine.job.schedule()
    assert not light.nodes("alpha")
    (reason,) = pool_views.boot_failures()[light.job(only).key]
    assert reason.startswith("alpha cannot be used here: ")
    assert "OpenNebula" in reason
    assert light.job(only).placed == 0
    assert any("OpenNebula" in one["text"] for one in why.job(only)["reasons"])
    light.cycle(3)
    assert len(pool_views.boot_failures()[light.job(only).key]) == 1


def test_reasons_of_a_job_that_runs_elsewhere_go(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()
    refuse(light, "alpha", QUOTA)
    for _ in range(30):  # refusals of the last ten minutes count: a pause lasts a minute at most
        light.cycle()
        light.clock.advance(61)
    assert len(pool_views.boot_failures()[light.job(number).key]) == 20
    job_service.cancel(number, ADA)
    light.engine.upkeep.lift()
    assert pool_views.boot_failures() == {}


# images


def test_images_that_do_not_come_up_are_noted(light: House) -> None:
    light.add_cloud("alpha", boot_timeout_s=60, options=json.dumps({"boot_s": 1000}))
    light.add_cloud("beta")
    light.add_cloud("gamma")
    light.submit(targets=["alpha"], image="slow")
    light.submit(targets=["beta"], image="mute", vm_type="b")
    light.submit(targets=["gamma"], image="missing", vm_type="c")
    refuse(light, "gamma", OTHER)
    light.cycle()
    assert pool_views.image_failures() == {"gamma": ["missing"]}
    light.clock.advance(60)
    light.cycle()
    assert pool_views.image_failures() == {"alpha": ["slow"], "gamma": ["missing"]}
    light.clock.advance(light.settings.cloud_scheduler.general.condor_register_time_limit_s)
    (mute,) = light.nodes("beta")
    light.cycle()
    assert pool_views.image_failures() == {"alpha": ["slow"], "beta": ["mute"], "gamma": ["missing"]}
    assert light.node(mute.id).state == "gone"
    assert "not_registered" in light.node(mute.id).reason


def test_an_image_that_fails_too_often_is_banned_and_the_file_says_so(light: House, tmp_path: Path) -> None:
    file = tmp_path / "banned"
    light.set(ban_tracking=True, ban_min_track=2, ban_failrate_threshold=0.6, ban_file=str(file))
    light.add_cloud("alpha")
    light.add_cloud("beta", enabled=0)
    refuse(light, "alpha", QUOTA)
    light.submit(image="bad")
    light.cycle()
    assert not file.exists()
    light.cycle()
    assert json.loads(file.read_text()) == {"bad": ["alpha"]}
    boots = light.driver("alpha").counters.get("boot", 0)
    light.driver("alpha").before_boot = None
    light.cycle(2)
    assert light.driver("alpha").counters.get("boot", 0) == boots
    light.submit(image="good", vm_type="other")
    light.cycle()
    assert [node.image for node in light.nodes()] == ["good"]
    assert (clouds.image_records()) and light.restart() is None
    light.cycle()
    assert [node.image for node in light.nodes()] == ["good"]


def test_a_ban_file_that_cannot_be_written_is_only_logged(light: House, caplog: pytest.LogCaptureFixture) -> None:
    light.set(ban_tracking=True, ban_min_track=1, ban_file="/nowhere/at/all")
    light.add_cloud("alpha")
    refuse(light, "alpha", QUOTA)
    (number,) = light.submit(image="bad")
    light.cycle()
    assert "ban file /nowhere/at/all could not be written" in caplog.text
    assert light.job(number).placed == 0


def test_what_a_boot_waits_for_does_not_count_as_booting(light: House) -> None:
    light.add_cloud("alpha", boot_timeout_s=10)
    light.submit()
    light.engine.job.schedule()
    light.clock.advance(100)
    light.engine.job.clean_up()
    assert [node.state for node in light.nodes()] == ["requested"]
    light.cycle()
    assert [node.status for node in light.nodes()] == ["Running"]
