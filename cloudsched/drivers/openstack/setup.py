"""What does the configuration say about an OpenStack cloud? Options and credentials, checked by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudsched.drivers.base import Place
from cloudsched.drivers.cloudinit import AgentSetup
from cloudsched.drivers.given import Given
from cloudsched.drivers.openstack.calls import StackEndpoint
from cloudsched.drivers.sizes import TypeRules
from cloudsched.errors import Invalid

# Keys of the classic file that say something to other kinds.
_IGNORED = ("host", "port", "secure_connection", "reverse_dns_lookup", "blob_url", "service_name", "keycert",
            "auth_dat_file", "secret_file", "project_id", "contextualization")
VOLUME_WORDS = ("auto", "always", "never")


@dataclass(frozen=True)
class StackSetup:
    """One OpenStack cloud as configured. `boot_from_volume`: `auto` (when the flavor's disk is too small), `always`,
    `never`."""

    endpoint: StackEndpoint
    agent: AgentSetup
    types: TypeRules
    image: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    default_type: str = ""
    security_groups: tuple[str, ...] = ()
    key_name: str = ""
    zone: str = ""
    network: str = ""
    boot_from_volume: str = "auto"
    volume_type: str = ""
    config_drive: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    fixed_address: bool = False
    boot_watch_s: float = 2.0
    destroy_wait_s: float = 300.0


def read_setup(place: Place) -> StackSetup:
    """Raises Invalid naming the option or credential that is wrong, missing or unknown."""
    given = Given(place)
    given.ignore(*_IGNORED)
    made = StackSetup(
        endpoint=_endpoint(given),
        agent=AgentSetup.of(given),
        types=TypeRules.of(given),
        image=given.text("image"),
        images=given.texts("images"),
        default_type=given.text("instance_type"),
        security_groups=given.names("security_group"),
        key_name=given.text("key_name"),
        zone=given.text("placement_zone"),
        network=given.text("network"),
        boot_from_volume=given.text("boot_from_volume", "auto", allowed=VOLUME_WORDS),
        volume_type=given.text("volume_type"),
        config_drive=given.flag("config_drive"),
        labels=given.texts("labels"),
        fixed_address=given.text("address", "floating", allowed=("floating", "fixed")) == "fixed",
        boot_watch_s=given.number("boot_watch_s", 2, low=0, high=600),
        destroy_wait_s=given.number("destroy_wait_s", 300, low=1, high=3600))
    given.done()
    return made


def _endpoint(given: Given) -> StackEndpoint:
    auth_url = given.url("auth_url")
    if not auth_url:
        raise Invalid.at("auth_url", "is missing", "the URL of Keystone, e.g. https://cloud.example.org:5000/v3")
    regions = given.names("regions") or tuple(filter(None, [given.text("region")]))
    given.ignore("region")
    by_credential = bool(given.secret("application_credential_id", needed=False))
    project = given.text("tenant_name") or given.text("project")
    given.ignore("project")
    if not project and not by_credential:
        raise Invalid.at("tenant_name", "is missing", "the name of the project (or an application credential)")
    names = ("application_credential_id", "application_credential_secret") if by_credential else ("username", "password")
    return StackEndpoint(
        # Libcloud puts the version behind it by itself.
        auth_url=re.sub(r"/v(3|2\.0)$", "", auth_url),
        username=given.secret(names[0]), password=given.secret(names[1]), project=project,
        user_domain=given.text("user_domain_name", "Default"), project_domain=given.text("project_domain_name", "Default"),
        application_credential=by_credential, region=regions[0] if regions else "",
        interface=given.text("interface", "public", allowed=("public", "internal", "admin")),
        cacert=given.text("cacert"), timeout_s=given.number("timeout_s", 30, low=0.1, high=600))
