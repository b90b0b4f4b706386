"""How is a server of Nova one of our machines? Its marks, its state in our words, and the request that makes it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudsched.drivers.base import Machine, Place, Wanted
from cloudsched.drivers.openstack.setup import StackSetup
from cloudsched.drivers.sizes import InstanceType

INSTANCE_TAG, CLOUD_TAG, NODE_TAG, ID_TAG = "cloudsched-instance", "cloudsched-cloud", "cloudsched-node", "cloudsched-node-id"
# Nova takes 65535 characters of base64.
USER_DATA_LIMIT = 65535 * 3 // 4
# Contract 5.1; other words are shown as they are.
STATES = {"BUILD": "Starting", "ACTIVE": "Running", "SHUTOFF": "Shutdown", "SUSPENDED": "Suspended", "STOPPED": "Stopped",
          "PAUSED": "Paused", "ERROR": "Error", "VERIFY_RESIZE": "Error"}
ENDED = ("DELETED", "SOFT_DELETED")


@dataclass(frozen=True, slots=True)
class Server:
    """One server as Nova tells it."""

    id: str
    status: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    fault: str = ""
    fixed: str = ""
    floating: str = ""
    created: str = ""
    flavor: str = ""

    @property
    def name(self) -> str:
        return self.metadata.get(NODE_TAG, "")

    @property
    def ending(self) -> bool:
        return self.task == "deleting" or self.status in ENDED

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Server:
        fault = facts.get("fault") or {}
        flavor = facts.get("flavor") or {}
        return cls(
            id=str(facts["id"]), status=str(facts.get("status") or "BUILD").upper(), metadata=dict(facts.get("metadata") or {}),
            task=str(facts.get("OS-EXT-STS:task_state") or ""), fault=str(fault.get("message") or ""),
            fixed=_address(facts, "fixed"), floating=_address(facts, "floating"), created=str(facts.get("created") or ""),
            flavor=str(flavor.get("original_name") or flavor.get("id") or ""))

    def machine(self, setup: StackSetup) -> Machine:
        first, second = (self.fixed, self.floating) if setup.fixed_address else (self.floating, self.fixed)
        state = "Shutdown" if self.ending else STATES.get(self.status, self.status)
        return Machine(name=self.name, external_id=self.id, state=state, hostname=self.name, address=first or second,
                       handle={"id": self.id}, reason="" if state in ("Starting", "Running") else self._why())

    def _why(self) -> str:
        return f"{self.status}{' (' + self.task + ')' if self.task else ''}{': ' + self.fault if self.fault else ''}"


def _address(facts: Mapping[str, Any], kind: str) -> str:
    found = [one for ports in (facts.get("addresses") or {}).values() for one in ports
             if (one.get("OS-EXT-IPS:type") or "fixed") == kind and one.get("addr")]
    return str(min(found, key=lambda one: one.get("version") or 4)["addr"]) if found else ""


def marks(place: Place) -> dict[str, str]:
    """The metadata that every machine of this cloud and installation carries."""
    return {INSTANCE_TAG: place.instance, CLOUD_TAG: place.name}


@dataclass(frozen=True, slots=True)
class Launch:
    """What was found out before a server is asked for. `volume_gb` above 0: it boots from a volume of that size."""

    image: str
    flavor: InstanceType
    user_data: bytes = field(repr=False)
    network: str = ""
    volume_gb: int = 0


def create_body(place: Place, launch: Launch, wanted: Wanted, setup: StackSetup) -> dict[str, Any]:
    """The body of POST /servers. Our ids are in its metadata: nothing is ever there without them."""
    metadata = {**setup.labels, **wanted.labels, **marks(place), NODE_TAG: wanted.name, ID_TAG: str(wanted.node_id)}
    server: dict[str, Any] = {
        "name": wanted.name.strip() or "cloudsched", "flavorRef": launch.flavor.id or launch.flavor.name, "metadata": metadata,
        "user_data": base64.b64encode(launch.user_data).decode(), "min_count": 1, "max_count": 1,
        **({"networks": [{"uuid": launch.network}]} if launch.network else {}),
        **({"key_name": wanted.key_name or setup.key_name} if wanted.key_name or setup.key_name else {}),
        **({"availability_zone": setup.zone} if setup.zone else {}),
        **({"config_drive": True} if setup.config_drive else {})}
    groups = wanted.security_groups or setup.security_groups
    if groups:
        server["security_groups"] = [{"name": name} for name in groups]
    if launch.volume_gb:
        # The volume is made by Nova and goes with the server: nothing of it is ours to forget.
        server["block_device_mapping_v2"] = [{
            "boot_index": 0, "uuid": launch.image, "source_type": "image", "destination_type": "volume",
            "volume_size": launch.volume_gb, "delete_on_termination": True}]
    else:
        server["imageRef"] = launch.image
    return {"server": server}
