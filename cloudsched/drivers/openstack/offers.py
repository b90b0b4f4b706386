"""What does an OpenStack offer, and what of it is taken for a machine? Flavors, images, networks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError, Wanted
from cloudsched.drivers.given import refused
from cloudsched.drivers.images import KEPT_S, Images
from cloudsched.drivers.libcloud import Refused
from cloudsched.drivers.openstack.servers import Launch
from cloudsched.drivers.openstack.setup import StackSetup
from cloudsched.drivers.sizes import CLASSIC_DEFAULT, InstanceType, smallest

PAGE = 1000
# From this version on Nova tells what a flavor has beside cores and memory.
_WITH_SPECS = "2.61"
_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)

Call = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Image:
    """One image and the disk it needs at least."""

    id: str
    min_gb: int


class Offers:
    """Asked for when needed, kept for an hour."""

    def __init__(self, call: Call, setup: StackSetup) -> None:
        self._call = call
        self._setup = setup
        self._flavors: tuple[float, list[InstanceType]] | None = None
        self.images = Images(setup.images, setup.image, self._ask_image)

    def launch(self, wanted: Wanted, user_data: bytes) -> Launch:
        """Everything that a new server has to be told. Raises DriverError naming the field that fits nothing here."""
        flavor = self.choose(wanted)
        image = self.images.of(wanted, flavor.name)
        return Launch(image.id, flavor, user_data, network=self.network(wanted.network or self._setup.network),
                      volume_gb=self._volume_gb(wanted, flavor, image))

    # flavors

    def types(self) -> list[InstanceType]:
        """All allowed flavors, or all there are."""
        if self._flavors is None or self._flavors[0] < time.monotonic():
            rules = self._setup.types
            found = [_flavor(facts) for facts in self._ask_flavors()]
            kept = [one for one in found if not rules.allowed or one.name in rules.allowed or one.id in rules.allowed]
            self._flavors = (time.monotonic() + KEPT_S, rules.priced(sorted(kept, key=lambda one: one.name)))
        return self._flavors[1]

    def choose(self, wanted: Wanted) -> InstanceType:
        """The flavor that was wanted; when none was, the cloud's own, or the smallest allowed one that fits.

        `m1.small` is what the classic configuration says when nobody says anything: it counts only where it exists.
        """
        types, named = self.types(), wanted.instance_type or self._setup.default_type
        known = next((one for one in types if named and named in (one.name, one.id)), None)
        if known is not None and (named != CLASSIC_DEFAULT or known.gpus >= wanted.gpus):
            return known
        names = ", ".join(one.name for one in types[:20]) or "none"
        if named and named != CLASSIC_DEFAULT:
            raise refused("instance_type", f"there is no flavor {named!r} (known: {names})")
        # A flavor with enough disk if there is one; else the space comes from a volume.
        how = self._setup.boot_from_volume
        disks_gb = {"always": (0,), "never": (wanted.storage_gb,), "auto": (wanted.storage_gb, 0)}[how]
        tried = (smallest(types, cores=wanted.cores, memory_mb=wanted.memory_mb, storage_gb=disk_gb, gpus=wanted.gpus,
                          rules=self._setup.types) for disk_gb in disks_gb)
        found = next((one for one in tried if one is not None), None)
        if found is None:
            gpus = f", {wanted.gpus} GPUs" if wanted.gpus else ""
            raise refused("instance_type", f"none fits {wanted.cores} cores{gpus}, {wanted.memory_mb} MB and "
                                           f"{wanted.storage_gb} GB (known: {names})")
        return found

    def _volume_gb(self, wanted: Wanted, flavor: InstanceType, image: Image) -> int:
        """The volume to boot from: the image's own size and the space wanted beside it; 0 for none."""
        how = self._setup.boot_from_volume
        if how == "always" or (how == "auto" and max(wanted.storage_gb, image.min_gb) > flavor.storage_gb):
            return max(1, image.min_gb) + wanted.storage_gb
        if flavor.storage_gb < wanted.storage_gb:
            raise refused("storage_gb", f"{flavor.name} has {flavor.storage_gb} GB, {wanted.storage_gb} are wanted, and this "
                                        "cloud boots from no volume (option boot_from_volume)")
        return 0

    def _ask_flavors(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        version = _WITH_SPECS
        while True:
            params = {"limit": PAGE, **({"marker": found[-1]["id"]} if found else {})}
            try:
                page = self._call("compute", "/flavors/detail", params=params, microversion=version)
            except Refused as error:
                if error.status != 406 or not version:
                    raise
                version = ""
                continue
            found += page["flavors"]
            if not page["flavors"] or not page.get("flavors_links"):
                return found

    # images and networks

    def _ask_image(self, name: str) -> Image:
        found: list[Mapping[str, Any]] = []
        if _UUID.fullmatch(name):
            found = self._one("image", f"/images/{name}")
        if not found:
            found = self._call("image", "/images", params={"name": name, "status": "active"})["images"]
        if not found:
            raise DriverError(f"image: {name!r} is not there", code=base.OTHER)
        newest = max(found, key=lambda facts: str(facts.get("created_at") or ""))
        size_gb = -(-int(newest.get("virtual_size") or newest.get("size") or 0) // (1 << 30))
        return Image(str(newest["id"]), max(int(newest.get("min_disk") or 0), size_gb))

    def network(self, name: str) -> str:
        """The id of a network by id or name; empty for no name."""
        if not name:
            return ""
        if _UUID.fullmatch(name):
            return name
        found = self._call("network", "/networks", params={"name": name})["networks"]
        if len(found) != 1:
            raise refused("network", f"there are {len(found) or 'no'} networks named {name!r}")
        return str(found[0]["id"])

    def _one(self, service: str, path: str) -> list[Mapping[str, Any]]:
        try:
            return [self._call(service, path)]
        except Refused as error:
            if error.status != 404:
                raise
            return []


def _flavor(facts: Mapping[str, Any]) -> InstanceType:
    specs = facts.get("extra_specs") or {}
    gpus, kind = _gpus(specs)
    return InstanceType(name=str(facts["name"]), id=str(facts["id"]), cores=int(facts["vcpus"]), memory_mb=int(facts["ram"]),
                        storage_gb=int(facts.get("disk") or 0), gpus=gpus, gpu_kind=kind,
                        arch=str(specs.get("hw:architecture") or specs.get("architecture") or ""), spot=False)


def _gpus(specs: Mapping[str, str]) -> tuple[int, str]:
    """Devices of the host that a flavor hands over, as its extra specs have them: `pci_passthrough:alias` is `a100:2`."""
    count, kinds = 0, []
    for part in str(specs.get("pci_passthrough:alias") or "").split(","):
        name, _, number = part.strip().partition(":")
        if name:
            count += int(number) if number.isdigit() else 1
            kinds.append(name)
    virtual = str(specs.get("resources:VGPU") or "0")
    if virtual.isdigit() and int(virtual):
        count += int(virtual)
        kinds.append("vGPU")
    return count, ", ".join(kinds)
