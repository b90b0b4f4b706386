"""How is the EC2 API called? Actions in, XML without namespaces out, over Libcloud's signed connection."""

# mypy: disable-error-code="no-untyped-call, assignment"
# Libcloud has hardly any types.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

from libcloud.common.aws import AWSRequestSignerAlgorithmV4, SignedAWSConnection

from cloudsched.drivers.libcloud import MAX_TEXT, Named, PerThread, Refused, Unreachable, Utf8Response, asked, trusting

EC2_API_VERSION = "2016-11-15"


@dataclass(frozen=True)
class Ec2Endpoint:
    """Where an EC2 API is and who calls it. `signature`: "4", or "2" for old servers."""

    url: str
    region: str
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    signature: str = "4"
    cacert: str = ""
    timeout_s: float = 30.0


class Ec2:
    """Calls actions of the EC2 API; safe to use from many threads."""

    def __init__(self, endpoint: Ec2Endpoint) -> None:
        self._endpoint = endpoint
        self._connections = PerThread(lambda: _ec2_connection(endpoint))

    def call(self, action: str, params: Mapping[str, str] | None = None) -> ET.Element:
        """One action; its answer without namespaces. Raises Refused, Unreachable."""
        given = {"Action": action, **(params or {})}

        def ask() -> ET.Element:
            connection = self._connections.get()
            if self._endpoint.signature == "2":  # Libcloud signs this version for GET alone
                return connection.request("/", params=given).object
            body = urlencode({**given, "Version": EC2_API_VERSION})
            headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
            return connection.request("/", data=body, headers=headers, method="POST").object

        try:
            return asked(ask)
        except Unreachable:
            self._connections.forget()
            raise


def text_of(element: ET.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


class _Ec2Response(Utf8Response):
    def success(self) -> bool:
        return self.status in (200, 201, 202)

    def parse_body(self) -> ET.Element:
        try:
            return _plain(ET.fromstring(str(self.body)))  # noqa: S314 - the cloud that runs our machines is trusted that far
        except ET.ParseError:
            raise Unreachable("what answers there is not an EC2 API") from None

    def parse_error(self) -> str:
        text = str(self.body)
        try:
            found = _plain(ET.fromstring(text))  # noqa: S314
        except ET.ParseError:
            raise Refused(self.status, "", text if len(text) < MAX_TEXT and "<" not in text else "") from None
        raise Refused(self.status, found.findtext(".//Code") or "", found.findtext(".//Message") or "")


def _plain(root: ET.Element) -> ET.Element:
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


class _Signer(AWSRequestSignerAlgorithmV4):
    def get_request_headers(self, params: Any, headers: Any, method: str = "GET", path: str = "/", data: Any = None) -> Any:
        # Libcloud's own asks for the time in a way that newer Pythons warn of.
        now = datetime.now(UTC)
        headers["X-AMZ-Date"] = now.strftime("%Y%m%dT%H%M%SZ")
        headers["X-AMZ-Content-SHA256"] = self._get_payload_hash(method, data)
        headers["Authorization"] = self._get_authorization_v4_header(
            params=params, headers=_signed(headers), dt=now, method=method, path=path, data=data)
        return params, headers


def _signed(headers: Mapping[str, str]) -> dict[str, str]:
    """Proxies may change the others on the way."""
    return {key: value for key, value in headers.items()
            if key.lower() in ("host", "content-type") or key.lower().startswith("x-amz-")}


class _Ec2Connection(SignedAWSConnection):
    version = EC2_API_VERSION
    service_name = "ec2"
    responseCls = _Ec2Response


def _ec2_connection(endpoint: Ec2Endpoint) -> _Ec2Connection:
    made = _Ec2Connection(
        endpoint.access_key_id, endpoint.secret_access_key, url=endpoint.url, timeout=endpoint.timeout_s,
        token=endpoint.session_token or None, signature_version=endpoint.signature)
    made.driver = Named("EC2", endpoint.region)
    made.conn_class = trusting(endpoint.cacert)
    if endpoint.signature == "4":
        made.signer = _Signer(access_key=endpoint.access_key_id, access_secret=endpoint.secret_access_key,
                              version=EC2_API_VERSION, connection=made)
    return made
