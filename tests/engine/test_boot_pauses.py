"""Is a cloud that keeps saying no left alone for a while, and asked again?"""

from __future__ import annotations

import itertools

from cloudsched.drivers.base import QUOTA, DriverError

from .conftest import House


def refusing(house: House) -> list[float]:
    """The cloud `alpha` has no room; when it was asked."""
    house.add_cloud("alpha", slots=1)
    asked: list[float] = []

    def no() -> None:
        asked.append(house.clock.now())
        raise DriverError("no room", code=QUOTA)

    house.driver("alpha").before_boot = no
    return asked


def test_a_cloud_without_room_is_asked_ever_more_rarely(light: House) -> None:
    asked = refusing(light)
    light.submit()
    for _ in range(150):
        light.cycle()
    pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert pauses[:2] == [1.0, 1.0]
    assert 6 <= len(asked) <= 10 and pauses == sorted(pauses) and max(pauses) <= 62


def test_and_gets_the_job_when_it_has_room_again(light: House) -> None:
    refusing(light)
    (number,) = light.submit()
    for _ in range(20):
        light.cycle()
    light.driver("alpha").before_boot = None
    for _ in range(70):
        light.cycle()
    assert light.nodes("alpha") and light.job(number).placed == 1
