"""Does the engine heed what places need? Files of user data, keys and prices, pauses between polls, places too busy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cloudsched.drivers.base import Machine, Wanted
from cloudsched.engine.booting import PUT_OFF_S
from cloudsched.engine.userdata import FILE_BYTES, MOST_FILES, UserDataRefused, read
from cloudsched.services import jobs as job_service
from cloudsched.services import pool_views, why
from cloudsched.store import clouds, shapes

from .conftest import ADA, House

SCRIPT = "#!/bin/sh\necho hello\n"
CONFIG = "#cloud-config\npackages: [git]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    (made / "script.sh").write_text(SCRIPT)
    (made / "more.yaml").write_text(CONFIG)
    (tmp_path / "outside.sh").write_text(SCRIPT)
    return made


def wanted_by(house: House, cloud: str) -> list[Wanted]:
    """What the cloud is asked for from now on."""
    seen: list[Wanted] = []
    driver = house.driver(cloud)
    boot = driver.boot

    def noted(wanted: Wanted) -> Machine:
        seen.append(wanted)
        return boot(wanted)

    driver.boot = noted  # type: ignore[method-assign]
    return seen


def submit_with(house: House, **placement: Any) -> int:
    """A job whose shape carries what an external queue would have said."""
    (number,) = house.submit()
    values = {"source": "pool", "user": "ada", "vm_type": "default", "cores": 1, "memory_mb": 512, "storage_gb": 0,
              "network": "", "high_priority": 0, "placement": placement}
    house.database.write(lambda tx: tx.run("UPDATE job SET shape_id = ? WHERE id = ?", (shapes.ensure(tx, values), number)))
    return number


def reasons(number: int) -> str:
    return "\n".join(one["text"] for one in why.job(number)["reasons"])


# user data


def test_one_file_goes_as_it_is_and_several_as_mime(folder: Path) -> None:
    assert read(["script.sh"], folder=str(folder)) == SCRIPT
    assert read([str(folder / "script.sh")], folder=str(folder)) == SCRIPT
    both = read(["script.sh", "more.yaml"], folder=str(folder))
    assert both.startswith("Content-Type: multipart/mixed")
    assert "text/x-shellscript" in both
    assert "text/cloud-config" in both
    assert read([], folder="") == ""


@pytest.mark.parametrize(("name", "said"), [
    ("missing.sh", "no file below"), ("../outside.sh", "no file below"), ("/etc/passwd", "no file below"),
    ("link.sh", "no file below"), ("loop", "no file below"), ("a\0b", "no name of a file"), ("pipe", "no plain file"),
    (".", "no plain file"), ("long.sh", f"more than {FILE_BYTES} bytes"), ("binary", "not UTF-8 text"),
])
def test_only_plain_short_text_below_the_directory_is_read(folder: Path, name: str, said: str) -> None:
    (folder / "link.sh").symlink_to(folder.parent / "outside.sh")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    (folder / "long.sh").write_text(SCRIPT + "#" * FILE_BYTES)
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserDataRefused, match=said):
        read([name], folder=str(folder))


def test_too_many_files_and_what_cloud_init_would_not_read_are_refused(folder: Path) -> None:
    with pytest.raises(UserDataRefused, match=f"at most {MOST_FILES}"):
        read(["script.sh"] * (MOST_FILES + 1), folder=str(folder))
    (folder / "text").write_text("just words\n")
    with pytest.raises(UserDataRefused, match="first line"):
        read(["text", "script.sh"], folder=str(folder))
    with pytest.raises(UserDataRefused, match="user_data_dir is not set"):
        read(["script.sh"], folder="")


def test_user_data_key_and_price_come_to_the_driver(light: House, folder: Path) -> None:
    light.set(user_data_dir=str(folder))
    light.add_cloud("alpha")
    seen = wanted_by(light, "alpha")
    submit_with(light, maximum_price=0.25, extras={"user_data": ["script.sh"], "key_name": "ada-key"})
    light.cycle()
    (wanted,) = seen
    assert (wanted.user_data, wanted.key_name, wanted.max_price) == (SCRIPT, "ada-key", 0.25)


def test_a_job_whose_files_cannot_be_had_waits_and_says_why(light: House) -> None:
    light.add_cloud("alpha")
    light.add_cloud("beta", priority=1)
    number = submit_with(light, extras={"user_data": ["script.sh"]})
    light.cycle(4)
    assert light.machines() == []
    assert light.job(number).state == "queued"
    assert light.job(number).ban_until is not None  # not tried again and again
    assert "VMUserData: 'script.sh' is a file of the server, and cloud_scheduler.user_data_dir is not set" in reasons(number)
    assert pool_views.boot_failures() == {light.job(number).key: ["Error when making VM request: check log"]}


# places too busy


def test_a_throttled_boot_is_tried_again_with_growing_pauses(house: House) -> None:
    house.add_cloud("alpha")
    (number,) = house.submit()
    house.driver("alpha").schedule("throttled", times=3, call="boot")
    house.cycle()
    (node,) = house.nodes()
    assert (node.state, house.job(number).state) == ("requested", "queued")
    assert "Other VM Create Error: too many requests: slow down; tried again after 1 s" in reasons(number)
    tries = [house.driver("alpha").counters["boot"]]
    for _ in range(12):
        house.cycle()
        tries.append(house.driver("alpha").counters["boot"])
    assert tries[-1] == 4
    assert [again.name for again in house.nodes()] == [node.name] == house.machines()
    assert not clouds.image_records()
    assert reasons(number).count("slow down") == 0  # it is history now
    house.join_all()[0].run_all()
    assert house.job(number).state == "succeeded"


def test_one_that_stays_throttled_leaves_the_job_to_the_next_cloud_and_blocks_nothing(house: House) -> None:
    house.add_cloud("alpha", slots=1)
    house.add_cloud("beta", priority=1)
    (number,) = house.submit(image="sl7")
    house.driver("alpha").schedule("throttled", times=-1, call="boot")
    for _ in range(int(sum(PUT_OFF_S)) + 3 * len(PUT_OFF_S)):
        house.cycle()
        if house.machines("beta"):
            break
    assert house.machines("alpha") == []
    assert len(house.machines("beta")) == 1
    assert house.database.read().all("SELECT * FROM job_block") == []
    assert house.job(number).state == "queued"


def test_a_boot_that_is_put_off_can_be_cancelled(light: House) -> None:
    light.add_cloud("alpha")
    (number,) = light.submit()
    light.driver("alpha").schedule("throttled", times=-1, call="boot")
    light.cycle()
    job_service.cancel(number, ADA)
    light.cycle(60)
    assert light.nodes() == []
    assert light.machines() == []


# polls


def polls(house: House, cloud: str) -> int:
    return house.driver(cloud).counters.get("machines", 0)


def test_a_place_with_pauses_is_asked_when_a_machine_is_due(light: House) -> None:
    light.add_cloud("alpha", options='{"boot_s": 100}')
    light.add_cloud("beta", options='{"boot_s": 100}', priority=1)
    pauses: Mapping[str, float] = {"Starting": 120, "Running": 900}
    light.driver("alpha").poll_pause_s = pauses  # type: ignore[attr-defined]
    for cloud in ("alpha", "beta"):
        light.submit(targets=[cloud])
    light.cycle(3)
    assert [len(light.machines(cloud)) for cloud in ("alpha", "beta")] == [1, 1]
    before = polls(light, "beta")
    light.cycle(5)
    assert (polls(light, "alpha"), polls(light, "beta") - before) == (1, 5)
    light.clock.advance(120)
    light.engine.poller.tick()
    assert polls(light, "alpha") == 2
    assert light.nodes("alpha")[0].status == "Running"
    light.clock.advance(800)
    light.engine.poller.tick()
    assert polls(light, "alpha") == 2
    light.clock.advance(100)
    light.engine.poller.tick()
    assert polls(light, "alpha") == 3
    light.restart()
    light.driver("alpha").poll_pause_s = pauses  # type: ignore[attr-defined]
    light.engine.poller.tick()
    assert polls(light, "alpha") == 4  # nobody knows when it was asked


def test_a_place_in_trouble_is_asked_in_each_cycle(light: House) -> None:
    light.add_cloud("alpha")
    light.driver("alpha").poll_pause_s = {"Starting": 120, "Running": 900}  # type: ignore[attr-defined]
    light.submit()
    light.driver("alpha").schedule("unreachable", call="machines", times=2)
    light.cycle(5)
    assert light.cloud("alpha").error_since is None
    assert polls(light, "alpha") == 3


# images


@pytest.mark.parametrize(("options", "needs"), [
    ("{}", True), ('{"image": "ami-1"}', False), ('{"images": {"sl7": "ami-1"}}', False)])
def test_an_ec2_cloud_with_an_image_of_its_own_needs_none_from_jobs(light: House, options: str, needs: bool) -> None:
    light.add_cloud("amazon", kind="AmazonEC2", options=options)
    (view,) = light.picture().clouds
    assert view.requires_image is needs
