"""Can this EC2 cloud be used as it is configured? One check for each thing that must be right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree as ET

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Wanted
from cloudsched.drivers.ec2.calls import text_of
from cloudsched.drivers.ec2.errors import driver_error
from cloudsched.drivers.ec2.instances import filtered, numbered
from cloudsched.drivers.ec2.offers import Offers
from cloudsched.drivers.ec2.setup import Ec2Setup
from cloudsched.drivers.libcloud import Refused, Unreachable

Call = Callable[[str, Mapping[str, str]], ET.Element]


def checks(setup: Ec2Setup, call: Call, offers: Offers, *, list_machines: Callable[[], Any]) -> list[Check]:
    """Whatever comes after the first "no" of endpoint or credentials is not asked for."""
    first = _listing(setup, list_machines)
    found = [*first, setup.agent.check()]
    if not all(check.ok for check in first):
        return found
    named: list[tuple[str, Any, Callable[[], str]]] = [
        ("security group", setup.security_groups, lambda: _groups(setup, call, offers)),
        ("key pair", setup.key_name, lambda: _present(call("DescribeKeyPairs", {"KeyName.1": setup.key_name}), "keySet/item")),
        ("zone", setup.zone, lambda: _present(
            call("DescribeAvailabilityZones", {"ZoneName.1": setup.zone}), "availabilityZoneInfo/item")),
        ("subnet", setup.subnet, lambda: offers.subnet(setup.subnet)[0]),
        ("image", setup.image, lambda: offers.images.of(_nothing(setup), "").id),
        ("instance types", setup.types.allowed or setup.default_type, lambda: _types(setup, offers)),
    ]
    return found + [_check(name, ask) for name, given, ask in named if given]


def _listing(setup: Ec2Setup, list_machines: Callable[[], Any]) -> list[Check]:
    try:
        count = len(list_machines())
    except DriverError as error:
        reached = error.code != base.ENDPOINT
        return [Check("endpoint", ok=reached, detail="" if reached else error.message),
                *([Check("credentials", ok=False, detail=error.message)] if reached else [])]
    return [Check("endpoint", ok=True, detail=setup.endpoint.url),
            Check("credentials", ok=True, detail=f"{count} machines of ours are there")]


def _check(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=ask())
    except Refused as error:
        return Check(name, ok=False, detail=driver_error(name, error).message)
    except (DriverError, Unreachable) as error:
        return Check(name, ok=False, detail=str(error))


def _present(answer: ET.Element, path: str) -> str:
    found = answer.find(path)
    if found is None:
        raise DriverError("is not there")
    return text_of(found, "zoneName") or text_of(found, "keyName")


def _groups(setup: Ec2Setup, call: Call, offers: Offers) -> str:
    if setup.subnet:
        return ", ".join(offers.group_ids(setup.security_groups, offers.subnet(setup.subnet)[1]))
    ids = tuple(one for one in setup.security_groups if one.startswith("sg-"))
    names = tuple(one for one in setup.security_groups if not one.startswith("sg-"))
    found: set[str] = set()
    for question in ([numbered("GroupId", ids)] if ids else []) + ([filtered({"group-name": names})] if names else []):
        for item in call("DescribeSecurityGroups", question).findall("securityGroupInfo/item"):
            found |= {text_of(item, "groupId"), text_of(item, "groupName")}
    if missing := [one for one in setup.security_groups if one not in found]:
        raise DriverError(f"there is no group {', '.join(missing)}")
    return ", ".join(setup.security_groups)


def _types(setup: Ec2Setup, offers: Offers) -> str:
    known = {one.name for one in offers.types()}
    wanted = [*setup.types.allowed, *([setup.default_type] if setup.default_type and not setup.types.declared else [])]
    if known and (missing := [one for one in wanted if one not in known]):
        raise DriverError(f"there is no type {', '.join(missing)}")
    return ", ".join(wanted)


def _nothing(setup: Ec2Setup) -> Wanted:
    return Wanted("", node_id=0, cores=1, memory_mb=0, storage_gb=0, image=setup.image)
