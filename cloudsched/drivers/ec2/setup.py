"""What does the configuration say about an EC2 cloud? Options and credentials, checked by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cloudsched.drivers.base import Place
from cloudsched.drivers.cloudinit import AgentSetup
from cloudsched.drivers.ec2.calls import Ec2Endpoint
from cloudsched.drivers.given import Given
from cloudsched.drivers.sizes import TypeRules
from cloudsched.errors import Invalid

AMAZON = "AmazonEC2"
# Where these servers have the API on their port, unless told otherwise (contract 6.3: host and port alone are given).
_PATHS = {"OpenStack": "/services/Cloud", "Eucalyptus": "/services/Eucalyptus"}
_CLASSIC_PORT = 8773
# Keys that the classic reader gives to every cloud.
_IGNORED = ("reverse_dns_lookup", "user_domain_name", "project_domain_name", "auth_url", "tenant_name", "blob_url",
            "service_name", "keycert", "auth_dat_file", "secret_file", "project_id", "contextualization")


@dataclass(frozen=True)
class Ec2Setup:
    """One EC2 cloud as configured."""

    endpoint: Ec2Endpoint
    agent: AgentSetup
    types: TypeRules
    image: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    default_type: str = ""
    security_groups: tuple[str, ...] = ()
    key_name: str = ""
    zone: str = ""
    subnet: str = ""
    public_ip: bool | None = None
    volume_type: str = ""
    spot: bool = False
    max_price: float = 0.0
    labels: Mapping[str, str] = field(default_factory=dict)
    tags_at_creation: bool = True
    private_address: bool = False
    destroy_wait_s: float = 300.0
    poll_pause_s: Mapping[str, float] = field(default_factory=dict)


def read_setup(place: Place) -> Ec2Setup:
    """Raises Invalid naming the option or credential that is wrong, missing or unknown."""
    given = Given(place)
    given.ignore(*_IGNORED)
    made = Ec2Setup(
        endpoint=_endpoint(given),
        agent=AgentSetup.of(given),
        types=TypeRules.of(given),
        image=given.text("image"),
        images=given.texts("images"),
        default_type=given.text("instance_type"),
        security_groups=given.names("security_group"),
        key_name=given.text("key_name"),
        zone=given.text("placement_zone"),
        subnet=given.text("subnet"),
        public_ip=_optional_flag(given, "public_ip"),
        volume_type=given.text("volume_type"),
        spot=given.flag("spot"),
        max_price=given.number("max_price", 0, low=0, high=1e6),
        labels=given.texts("labels"),
        tags_at_creation=given.text("tagging", "at creation" if place.kind == AMAZON else "after",
                                    allowed=("at creation", "after")) == "at creation",
        private_address=given.text("address", "public", allowed=("public", "private")) == "private",
        destroy_wait_s=given.number("destroy_wait_s", 300, low=1, high=3600),
        poll_pause_s={"Starting": given.number("poll_starting_s", 120, low=0, high=86400),
                      "Running": given.number("poll_running_s", 900, low=0, high=86400)})
    given.done()
    return made


def _endpoint(given: Given) -> Ec2Endpoint:
    regions = given.names("regions") or tuple(filter(None, [given.text("region")]))
    given.ignore("region")
    region = regions[0] if regions else ""
    return Ec2Endpoint(
        url=_url(given, region), region=region,
        access_key_id=given.secret("access_key_id"), secret_access_key=given.secret("secret_access_key"),
        session_token=given.secret("session_token", needed=False),
        signature=given.text("signature", "4", allowed=("2", "4")),
        cacert=given.text("cacert"), timeout_s=given.number("timeout_s", 30, low=0.1, high=600))


def _url(given: Given, region: str) -> str:
    """`endpoint` as it is; or `host`, `port`, `secure_connection` and `path`; or Amazon's own for the region."""
    url, host = given.url("endpoint"), given.text("host")
    port = int(given.number("port", 0, low=0, high=65535))
    secure = given.flag("secure_connection", port in (0, 443))
    path = given.text("path", _PATHS.get(given.place.kind, ""))
    amazon = given.place.kind == AMAZON and (not host or host.endswith(("amazonaws.com", "amazonaws.com.cn")))
    if not region and (amazon or given.place.kind == AMAZON):
        raise Invalid.at("regions", "is missing", "the name of a region, e.g. us-east-1")
    if url:
        return url
    if amazon:
        # The classic file's port is 8773 and not secure when nothing is said: Amazon has neither.
        named = host.startswith("ec2.") and host.count(".") > 2
        return f"https://{host}" if named else f"https://ec2.{region}.{host.removeprefix('ec2.') or 'amazonaws.com'}"
    if not host:
        raise Invalid.at("endpoint", "is missing", "the URL of the EC2 API, or host and port")
    port = port or _CLASSIC_PORT
    return f"{'https' if secure else 'http'}://{host}:{port}/{path.strip('/')}".rstrip("/")


def _optional_flag(given: Given, key: str) -> bool | None:
    return given.flag(key) if given.place.options.get(key) is not None else None
