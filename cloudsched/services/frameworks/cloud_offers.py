"""Which EC2 cloud serves a region, and what is there: instance types that can be had, instances that run?

Instance types are kept for a day in the database, for all processes; when the place cannot be asked, the old ones are
served with their age.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

from cloudsched import clock
from cloudsched.domain.entities import Cloud
from cloudsched.domain.scheduling.model import EC2_TYPES
from cloudsched.drivers import registry
from cloudsched.drivers.base import DriverError
from cloudsched.errors import CloudschedError, Invalid, Unavailable
from cloudsched.services import places_ops, pool_clouds
from cloudsched.services.caller import Caller
from cloudsched.settings import Settings
from cloudsched.store import clouds, events, system
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

TYPES_KEPT_S = 86_400.0
ASK_AGAIN_S = 60.0  # after a place could not be asked
REGION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_configured: list[Settings] = []
_failed_at: dict[int, float] = {}  # cloud -> when it could not be asked


@dataclass(frozen=True, slots=True)
class Types:
    """What can be had in a region: `types` are `{name, cores, memory_mb, gpus}`; `stale`: the place could not be asked."""

    cloud: str
    region: str
    types: tuple[dict[str, Any], ...]
    asked_at: float
    stale: bool = False

    @property
    def names(self) -> list[str]:
        return [one["name"] for one in self.types]

    @property
    def age_s(self) -> float:
        return max(0.0, clock.now() - self.asked_at)


def configure(given: Settings) -> None:
    """Called once when a process starts."""
    _configured[:] = [given]


# which cloud


def cloud_of(region: str) -> Cloud:
    """The EC2 cloud of a region: the configured one, else the only one there. Raises Unavailable saying what is missing, Invalid
    (field `region`) when the configured one is elsewhere."""
    named = settings().dcluster.nodes_cloud
    found = [_named(named)] if named else [one for one in ec2_clouds() if region in ("", region_of(one))]
    if not found:
        where = f" of the region {region}" if region else ""
        raise Unavailable(f"there is no EC2 cloud{where}: add one (cloudsched clouds add NAME --kind AmazonEC2 --option "
                          f"regions={region or 'REGION'} ...), or name one in the setting dcluster.nodes_cloud")
    if len(found) > 1:
        raise Unavailable(f"several clouds would do ({', '.join(one.name for one in found)}): name one in the setting "
                          "dcluster.nodes_cloud")
    cloud = found[0]
    if region and region != region_of(cloud):
        raise Invalid.at("region", f"{region!r} is not that of {cloud.name} (setting dcluster.nodes_cloud)", region_of(cloud))
    if not cloud.credentials:
        raise Unavailable(f"cloud {cloud.name} has no credentials: access_key_id and secret_access_key are needed")
    if not cloud.enabled:
        raise Unavailable(f"cloud {cloud.name} is switched off: switch it on (cloudsched clouds enable {cloud.name})")
    return cloud


def region_of(cloud: Cloud) -> str:
    """The region that an EC2 cloud's driver uses; empty when its options name none."""
    options = cloud.option
    raw = options.get("regions") or options.get("region") or ""
    parts = raw.split(",") if isinstance(raw, str) else [one for one in raw if isinstance(one, str)]
    return next((one.strip() for one in parts if one.strip()), "")


def _named(name: str) -> Cloud:
    cloud = clouds.by_name(name)
    if cloud is None or cloud.kind not in EC2_TYPES:
        what = "there is none of that name" if cloud is None else f"it is a {cloud.kind} cloud"
        raise Unavailable(f"the setting dcluster.nodes_cloud names {name!r}: {what} (an EC2 cloud is needed: "
                          f"{', '.join(sorted(EC2_TYPES))})")
    return cloud


def ec2_clouds(*, removed: bool = False) -> list[Cloud]:
    """All clouds of a kind that has instances of EC2."""
    return [one for one in clouds.all_clouds(removed=removed) if one.kind in EC2_TYPES]


# what can be had, what is there


def instance_types(region: str = "") -> list[str]:
    """Names of the instance types of a region (of the only or the configured cloud's without one), at most a day old; older when
    the place cannot be asked. Raises Unavailable when it never could."""
    return types_of(cloud_of(_checked_region(region))).names


def types_of(cloud: Cloud) -> Types:
    """The same with sizes and age, of one cloud."""
    key, asked_of = f"instance_types:{cloud.id}", hashlib.sha256(cloud.options.encode()).hexdigest()[:16]
    kept = parsed(system.setting(key, "{}"))
    old = None if kept.get("of") != asked_of else Types(cloud.name, region_of(cloud), tuple(kept["types"]), float(kept["at"]))
    if old is not None and old.age_s < TYPES_KEPT_S:
        return old
    if old is not None and 0 <= clock.now() - _failed_at.get(cloud.id, 0.0) < ASK_AGAIN_S:
        return replace(old, stale=True)
    try:
        found = places_ops.types(cloud.name, settings=settings())
    except CloudschedError as error:
        _failed_at[cloud.id] = clock.now()
        if old is None:
            raise Unavailable(f"the instance types of {cloud.name} cannot be had: {error}") from error
        log.warning("instance types of %s: %s (those of %.0f h ago are served)", cloud.name, error, old.age_s / 3600)
        return replace(old, stale=True)
    plain = [{name: one[name] for name in ("name", "cores", "memory_mb", "gpus")} for one in found]
    at = clock.now()
    write(lambda tx: system.put_setting(tx, key, json.dumps({"at": at, "of": asked_of, "types": plain})))
    return Types(cloud.name, region_of(cloud), tuple(plain), at)


def refresh_inventory(caller: Caller, region: str = "") -> int:
    """Ask for all instances of the account in the region, note them (event `cloud.inventory`, `inventory`), and say how many
    there are; ended ones do not count. Raises Unavailable, and what `cloud_of` raises."""
    caller.require("operator")
    cloud = cloud_of(_checked_region(region))
    from cloudsched.drivers.ec2.inventory import inventory as ask  # the kind's library is loaded when it is needed

    try:
        found = [places_ops.plain(one) for one in ask(driver_of(cloud))]
    except DriverError as error:
        raise Unavailable(f"the instances of {cloud.name} cannot be had: {error}") from error
    at, states = clock.now(), [one["state"] for one in found]
    counts = {state: states.count(state) for state in sorted(set(states))}

    def note(tx: Tx) -> None:
        system.put_setting(tx, f"inventory:{cloud.id}", json.dumps({"at": at, "instances": found}))
        events.append(tx, "cloud.inventory", ("cloud", cloud.id), at=at, actor=caller.name, name=cloud.name, count=len(found),
                      states=counts, ours=sum(bool(one["node"]) for one in found))

    write(note)
    return len(found)


def inventory(region: str = "") -> tuple[float | None, list[dict[str, Any]]]:
    """(when, instances) of the last refresh: `id`, `type`, `state`, `name`, `node` (ours), `launched`, `address` each."""
    kept = parsed(system.setting(f"inventory:{cloud_of(_checked_region(region)).id}", "{}"))
    return kept.get("at"), list(kept.get("instances", ()))


def _checked_region(region: str) -> str:
    if region and not REGION.fullmatch(region):
        raise Invalid.at("region", f"{region[:100]!r} is not a region", "a name such as us-west-2")
    return region


# small things


def settings() -> Settings:
    """Those of this process. Raises Unavailable before `configure`."""
    if not _configured:
        raise Unavailable("nodes of clouds are not configured in this process")
    return _configured[0]


def driver_of(cloud: Cloud) -> Any:
    """The driver of a cloud, made afresh."""
    return registry.make(pool_clouds.place_of(cloud, settings=settings()))


def parsed(text: str) -> dict[str, Any]:
    """An object that is kept as JSON."""
    found: dict[str, Any] = json.loads(text)
    return found
