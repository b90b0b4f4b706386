"""What does an EC2 place offer, and what of it is taken for a machine? Types, prices, images, subnets and groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Wanted
from cloudsched.drivers.ec2.calls import text_of
from cloudsched.drivers.ec2.errors import NOT_THERE, bare
from cloudsched.drivers.ec2.instances import Launch, filtered, numbered
from cloudsched.drivers.ec2.setup import Ec2Setup
from cloudsched.drivers.given import refused
from cloudsched.drivers.images import KEPT_S, Images
from cloudsched.drivers.libcloud import Refused
from cloudsched.drivers.sizes import CLASSIC_DEFAULT, SPOT, InstanceType, Price, smallest

MOST_NAMES = 100  # of DescribeInstanceTypes
_ID_STARTS = ("ami-", "emi-", "aki-")

Call = Callable[[str, Mapping[str, str]], ET.Element]
Pages = Callable[[str, Mapping[str, str]], Iterator[ET.Element]]


@dataclass(frozen=True, slots=True)
class Image:
    """One image: its id and the root volume it comes with (no device: none that could be sized)."""

    id: str
    root_device: str = ""
    root_gb: int = 0


class Offers:
    """Asked for when needed, kept for an hour."""

    def __init__(self, call: Call, pages: Pages, setup: Ec2Setup) -> None:
        self._call = call
        self._pages = pages
        self._setup = setup
        self._types: tuple[float, list[InstanceType]] | None = None
        self.images = Images(setup.images, setup.image, self._ask_image)

    def launch(self, wanted: Wanted, user_data: bytes) -> Launch:
        """Everything that RunInstances has to be told. Raises DriverError naming the field that fits nothing here."""
        chosen = self.choose(wanted)
        image = self.images.of(wanted, chosen)
        subnet, network = self.subnet(wanted.network or self._setup.subnet)
        groups = wanted.security_groups or self._setup.security_groups
        ids = self.group_ids(groups, network) if subnet else tuple(one for one in groups if one.startswith("sg-"))
        names = () if subnet else tuple(one for one in groups if not one.startswith("sg-"))
        return Launch(image.id, chosen, user_data, root_device=image.root_device, root_gb=image.root_gb, subnet=subnet,
                      group_ids=ids, group_names=names)

    # types and prices

    def types(self) -> list[InstanceType]:
        """All allowed types, or all that the place has; empty when it cannot say."""
        if self._types is None or self._types[0] < time.monotonic():
            self._types = (time.monotonic() + KEPT_S, self._ask_types())
        return self._types[1]

    def choose(self, wanted: Wanted) -> str:
        """The type that was wanted; when none was, the cloud's own, or the smallest allowed one that fits.

        `m1.small` is what the classic configuration says when nobody says anything: it counts only where it exists.
        """
        named = wanted.instance_type or self._setup.default_type
        allowed = self._setup.types.allowed
        if named and named != CLASSIC_DEFAULT:
            if allowed and named not in allowed:
                raise refused("instance_type", f"{named!r} is not among this cloud's (allowed: {', '.join(allowed)})")
            return named
        types = self.types()
        if named and (not types or any(one.name == named and one.gpus >= wanted.gpus for one in types)):
            return named
        spot = self._setup.spot or wanted.max_price > 0
        usable = [one for one in types if one.spot] if spot else types
        found = smallest(usable, cores=wanted.cores, memory_mb=wanted.memory_mb, gpus=wanted.gpus, rules=self._setup.types)
        if found is None:
            gpus = f", {wanted.gpus} GPUs" if wanted.gpus else ""
            raise refused("instance_type", f"none fits {wanted.cores} cores{gpus} and {wanted.memory_mb} MB "
                                           f"(known: {', '.join(one.name for one in types[:20]) or 'none'})")
        return found.name

    def prices(self) -> list[Price]:
        """The configuration's prices and the spot prices of the moment."""
        return [*self._setup.types.prices, *(self._spot_prices() if self._asks_spot() else ())]

    def _asks_spot(self) -> bool:
        return self._setup.spot or self._setup.tags_at_creation

    def _spot_prices(self) -> list[Price]:
        params = {"StartTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "ProductDescription.1": "Linux/UNIX",
                  **numbered("InstanceType", self._setup.types.allowed)}
        if self._setup.zone:
            params["AvailabilityZone"] = self._setup.zone
        latest: dict[tuple[str, str], Price] = {}
        try:
            for page in self._pages("DescribeSpotPriceHistory", params):
                for item in page.findall("spotPriceHistorySet/item"):
                    one = Price(text_of(item, "instanceType"), float(text_of(item, "spotPrice")), "USD", SPOT,
                                text_of(item, "availabilityZone"), text_of(item, "timestamp"))
                    key = (one.instance_type, one.zone)
                    if key not in latest or latest[key].at < one.at:
                        latest[key] = one
        except Refused as error:
            if bare(error.code) not in NOT_THERE:
                raise
        return sorted(latest.values(), key=lambda one: (one.instance_type, one.zone))

    def _ask_types(self) -> list[InstanceType]:
        rules = self._setup.types
        if rules.declared:
            return rules.priced(rules.declared)
        found: list[InstanceType] = []
        try:
            for params in _type_questions(rules.allowed):
                for page in self._pages("DescribeInstanceTypes", params):
                    found += [_instance_type(item) for item in page.findall("instanceTypeSet/item")]
        except Refused as error:
            if bare(error.code) not in NOT_THERE:
                raise
        return rules.priced(sorted(found, key=lambda one: one.name))

    # images

    def _ask_image(self, name: str) -> Image:
        by_id = name.startswith(_ID_STARTS)
        answer = self._call("DescribeImages", {"ImageId.1": name} if by_id else filtered({"name": name}))
        found = sorted(answer.findall("imagesSet/item"), key=lambda item: text_of(item, "creationDate"))
        if not found:
            raise DriverError(f"image: {name!r} is not there", code=base.OTHER)
        newest = found[-1]
        root = text_of(newest, "rootDeviceName")
        sizes = {text_of(item, "deviceName"): text_of(item, "ebs/volumeSize")
                 for item in newest.findall("blockDeviceMapping/item") if item.find("ebs") is not None}
        return Image(text_of(newest, "imageId"), root if root in sizes else "", int(sizes.get(root) or 0))

    # networks

    def subnet(self, name: str) -> tuple[str, str]:
        """(id of the subnet, id of its network) by id or by its Name tag; empty texts for no name."""
        if not name:
            return "", ""
        question = {"SubnetId.1": name} if name.startswith("subnet-") else filtered({"tag:Name": name})
        found = self._call("DescribeSubnets", question).findall("subnetSet/item")
        if not found:
            raise refused("network", f"there is no subnet {name!r}")
        return text_of(found[0], "subnetId"), text_of(found[0], "vpcId")

    def group_ids(self, groups: tuple[str, ...], network: str) -> tuple[str, ...]:
        """Security groups by id, as a machine in a subnet needs them."""
        names = tuple(one for one in groups if not one.startswith("sg-"))
        if not names:
            return groups
        answer = self._call("DescribeSecurityGroups", filtered({"group-name": names, "vpc-id": network}))
        ids = {text_of(item, "groupName"): text_of(item, "groupId") for item in answer.findall("securityGroupInfo/item")}
        for name in names:
            if name not in ids:
                raise refused("security_groups", f"there is no group {name!r} in {network}")
        return tuple(ids.get(one, one) for one in groups)


def _type_questions(allowed: tuple[str, ...]) -> list[dict[str, str]]:
    if not allowed:
        return [{"MaxResults": str(MOST_NAMES), **filtered({"current-generation": "true"})}]
    return [numbered("InstanceType", allowed[start:start + MOST_NAMES]) for start in range(0, len(allowed), MOST_NAMES)]


def _instance_type(item: ET.Element) -> InstanceType:
    gpus = item.findall("gpuInfo/gpus/item")
    kinds = [" ".join(filter(None, (text_of(gpu, "manufacturer"), text_of(gpu, "name")))) for gpu in gpus]
    archs = [(one.text or "").strip() for one in item.findall("processorInfo/supportedArchitectures/item")]
    classes = [(one.text or "").strip() for one in item.findall("supportedUsageClasses/item")]
    return InstanceType(
        name=text_of(item, "instanceType"), cores=int(text_of(item, "vCpuInfo/defaultVCpus") or 0),
        memory_mb=int(text_of(item, "memoryInfo/sizeInMiB") or 0),
        storage_gb=int(text_of(item, "instanceStorageInfo/totalSizeInGB") or 0),
        gpus=sum(int(text_of(gpu, "count") or 0) for gpu in gpus), gpu_kind=", ".join(kinds),
        arch="x86_64" if "x86_64" in archs else archs[0] if archs else "", spot=not classes or "spot" in classes)

