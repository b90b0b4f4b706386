"""How is an instance of EC2 one of our machines? Its marks, its state in our words, and the request that makes it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.etree import ElementTree as ET

from cloudsched.drivers.base import Machine, Place, Wanted
from cloudsched.drivers.ec2.calls import text_of
from cloudsched.drivers.ec2.setup import Ec2Setup

INSTANCE_TAG, CLOUD_TAG, NODE_TAG, ID_TAG = "cloudsched-instance", "cloudsched-cloud", "cloudsched-node", "cloudsched-node-id"
USER_DATA_LIMIT = 16384
# Contract 5.1; other words are Starting.
STATES = {"pending": "Starting", "running": "Running", "shutting-down": "Shutdown", "terminated": "Shutdown", "error": "Error"}
ENDING = ("shutting-down", "terminated")
# Somebody asked for the end; other reasons are the place's own and are told.
_ASKED_FOR = ("Client.UserInitiatedShutdown", "User initiated", "")
SPOT_END = "Server.SpotInstanceTermination"


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance as DescribeInstances or RunInstances tells it."""

    id: str
    state: str
    token: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    reason_code: str = ""
    reason: str = ""
    public_ip: str = ""
    private_ip: str = ""
    public_name: str = ""
    private_name: str = ""
    type: str = ""
    spot_id: str = ""
    launched: str = ""

    @property
    def name(self) -> str:
        return self.tags.get(NODE_TAG, "") or self.token

    @property
    def ending(self) -> bool:
        return self.state in ENDING

    @property
    def taken(self) -> bool:
        """Ended by the place, not by anybody's wish."""
        return self.state == "terminated" and self.reason_code not in _ASKED_FOR

    @classmethod
    def of(cls, item: ET.Element) -> Instance:
        return cls(
            id=text_of(item, "instanceId"), state=text_of(item, "instanceState/name"), token=text_of(item, "clientToken"),
            tags={text_of(tag, "key"): text_of(tag, "value") for tag in item.findall("tagSet/item")},
            reason_code=text_of(item, "stateReason/code"), reason=text_of(item, "stateReason/message") or text_of(item, "reason"),
            public_ip=text_of(item, "ipAddress"), private_ip=text_of(item, "privateIpAddress"),
            public_name=text_of(item, "dnsName"), private_name=text_of(item, "privateDnsName"),
            type=text_of(item, "instanceType"), spot_id=text_of(item, "spotInstanceRequestId"),
            launched=text_of(item, "launchTime"))

    def machine(self, setup: Ec2Setup) -> Machine:
        public = not setup.private_address
        return Machine(
            name=self.name, external_id=self.id, state=STATES.get(self.state, "Starting"),
            hostname=(public and self.public_name) or self.private_name or self.public_name,
            address=(public and self.public_ip) or self.private_ip or self.public_ip,
            handle={"id": self.id, "type": self.type, **({"spot": self.spot_id} if self.spot_id else {})},
            reason=self._why())

    def _why(self) -> str:
        if self.state in ("pending", "running"):
            return ""
        if self.reason_code == SPOT_END:
            return f"the spot machine was taken back ({self.reason or self.reason_code})"
        said = ": ".join(filter(None, (self.reason_code, self.reason)))
        return f"{self.state}{f' ({said})' if said else ''}"


def marks(place: Place) -> dict[str, str]:
    """The tags that every machine of this cloud and installation carries."""
    return {INSTANCE_TAG: place.instance, CLOUD_TAG: place.name}


def token_prefix(place: Place) -> str:
    return "cs-" + _hash(place.instance, place.name)[:12] + "-"


def first_token(place: Place, name: str) -> str:
    """The ClientToken of a name: a request that is repeated is the same machine."""
    return token_prefix(place) + _hash(place.instance, place.name, name)[:40]


def next_token(place: Place, token: str, ended: str) -> str:
    """When the machine of a token has ended, the name's next one; follows from what has ended, so it is the same for all."""
    return token_prefix(place) + _hash(token, ended)[:40]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def tags_of(place: Place, wanted: Wanted, setup: Ec2Setup) -> dict[str, str]:
    """What is written on a machine, ours last: nobody's label replaces it."""
    return {"Name": wanted.name, **setup.labels, **wanted.labels, **marks(place), NODE_TAG: wanted.name,
            ID_TAG: str(wanted.node_id)}


@dataclass(frozen=True, slots=True)
class Launch:
    """What was found out before an instance is asked for."""

    image: str
    instance_type: str
    user_data: bytes = field(repr=False)
    root_device: str = ""
    root_gb: int = 0
    subnet: str = ""
    group_ids: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()


def run_params(launch: Launch, wanted: Wanted, setup: Ec2Setup, *, tags: Mapping[str, str]) -> dict[str, str]:
    """The parameters of RunInstances, all but the ClientToken. `tags` empty: they are put on afterwards."""
    params = {"ImageId": launch.image, "MinCount": "1", "MaxCount": "1",
              "UserData": base64.b64encode(launch.user_data).decode()}
    if launch.instance_type:
        params["InstanceType"] = launch.instance_type
    if key := wanted.key_name or setup.key_name:
        params["KeyName"] = key
    if setup.zone and not launch.subnet:
        params["Placement.AvailabilityZone"] = setup.zone
    params |= _network(launch, setup)
    params |= _root_volume(launch, wanted, setup)
    params |= _spot(wanted, setup)
    if tags:
        params["InstanceInitiatedShutdownBehavior"] = "terminate"
        for number, resource in enumerate(("instance", "volume"), 1):
            params |= tag_params(tags, f"TagSpecification.{number}.")
            params[f"TagSpecification.{number}.ResourceType"] = resource
    return params


def tag_params(tags: Mapping[str, str], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for number, (key, value) in enumerate(tags.items(), 1):
        found |= {f"{prefix}Tag.{number}.Key": key, f"{prefix}Tag.{number}.Value": value}
    return found


def _network(launch: Launch, setup: Ec2Setup) -> dict[str, str]:
    prefix = "NetworkInterface.1." if setup.public_ip is not None and launch.subnet else ""
    params = numbered(f"{prefix}SecurityGroupId", launch.group_ids) | numbered("SecurityGroup", launch.group_names)
    if launch.subnet:
        params[f"{prefix}SubnetId"] = launch.subnet
    if prefix:
        params |= {f"{prefix}DeviceIndex": "0", f"{prefix}DeleteOnTermination": "true",
                   f"{prefix}AssociatePublicIpAddress": str(setup.public_ip).lower()}
    return params


def _root_volume(launch: Launch, wanted: Wanted, setup: Ec2Setup) -> dict[str, str]:
    """The image's own size and the space wanted beside it, gone with the machine."""
    if not launch.root_device:
        return {}
    prefix = "BlockDeviceMapping.1."
    params = {f"{prefix}DeviceName": launch.root_device, f"{prefix}Ebs.DeleteOnTermination": "true"}
    if launch.root_gb or wanted.storage_gb:
        params[f"{prefix}Ebs.VolumeSize"] = str(launch.root_gb + wanted.storage_gb)
    if setup.volume_type:
        params[f"{prefix}Ebs.VolumeType"] = setup.volume_type
    return params


def _spot(wanted: Wanted, setup: Ec2Setup) -> dict[str, str]:
    price = wanted.max_price or setup.max_price
    if not setup.spot and not wanted.max_price:
        return {}
    params = {"InstanceMarketOptions.MarketType": "spot",
              "InstanceMarketOptions.SpotOptions.SpotInstanceType": "one-time",
              "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior": "terminate"}
    return params | ({"InstanceMarketOptions.SpotOptions.MaxPrice": f"{price:.10f}".rstrip("0").rstrip(".")} if price else {})


def numbered(name: str, values: tuple[str, ...]) -> dict[str, str]:
    """A list as EC2 parameters have it."""
    return {f"{name}.{number}": value for number, value in enumerate(values, 1)}


def filtered(filters: Mapping[str, str | tuple[str, ...]]) -> dict[str, str]:
    """Filters as EC2 parameters have them."""
    params: dict[str, str] = {}
    for number, (name, values) in enumerate(filters.items(), 1):
        params[f"Filter.{number}.Name"] = name
        params |= numbered(f"Filter.{number}.Value", (values,) if isinstance(values, str) else values)
    return params
