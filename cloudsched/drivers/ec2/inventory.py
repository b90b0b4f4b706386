"""Which instances has an account in the region, whoever made them?"""

from __future__ import annotations

from dataclasses import dataclass

from cloudsched.drivers.ec2.driver import Ec2Driver
from cloudsched.drivers.ec2.instances import NODE_TAG, Instance


@dataclass(frozen=True, slots=True)
class Listed:
    """One instance. `state` in the place's own words; `name`: its tag; `node`: our node's name, empty for somebody else's."""

    id: str
    type: str
    state: str
    name: str
    node: str
    launched: str
    address: str


def inventory(driver: Ec2Driver) -> list[Listed]:
    """All that have not ended, oldest first. DriverError when the place does not say."""
    with driver._saying("list of instances"):
        found = [one for one in driver._described({}) if one.state != "terminated"]
    return [_listed(one, driver) for one in sorted(found, key=lambda one: (one.launched, one.id))]


def _listed(one: Instance, driver: Ec2Driver) -> Listed:
    return Listed(id=one.id, type=one.type, state=one.state, name=one.tags.get("Name", ""),
                  node=one.tags.get(NODE_TAG, "") if driver._is_ours(one) else "", launched=one.launched,
                  address=one.private_ip or one.public_ip)
