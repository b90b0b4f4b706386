"""How are the services of an OpenStack called? JSON in, JSON out, with a Keystone v3 token kept by Libcloud's connection."""

# mypy: disable-error-code="no-untyped-call, assignment, override"
# Libcloud has hardly any types.

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from libcloud.common.openstack import OpenStackBaseConnection
from libcloud.common.openstack_identity import (
    OpenStackAuthResponse,
    OpenStackIdentity_3_0_Connection,
    OpenStackIdentity_3_0_Connection_AppCred,
)
from libcloud.common.types import InvalidCredsError, LibcloudError

from cloudsched.drivers.libcloud import MAX_TEXT, Named, PerThread, Refused, Unreachable, Utf8Response, asked, trusting

NO_SERVICE = "NoSuchService"


@dataclass(frozen=True)
class StackEndpoint:
    """Where a Keystone is and who asks it. With `application_credential`, `username` and `password` are its id and
    secret, and no project is named."""

    auth_url: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    project: str = ""
    user_domain: str = "Default"
    project_domain: str = "Default"
    application_credential: bool = False
    region: str = ""
    interface: str = "public"
    cacert: str = ""
    timeout_s: float = 30.0


class Stack:
    """Calls services of one OpenStack; they share a token, which is renewed when it has ended. Safe to use from many
    threads."""

    def __init__(self, endpoint: StackEndpoint) -> None:
        self._endpoint = endpoint
        self._token = _Token(endpoint)
        self._services: dict[str, PerThread] = {}
        self._lock = threading.Lock()

    def call(self, service: str, path: str, *, method: str = "GET", body: Any = None,
             params: Mapping[str, Any] | None = None, microversion: str = "") -> Any:
        """One request; the parsed JSON, None for an empty answer. Raises Refused, Unreachable.

        A token that is refused is renewed once.
        """
        for again in (True, False):
            connection = self._connections(service).get()
            try:
                return asked(lambda: self._ask(connection, service, path, method, body, dict(params or {}), microversion))  # noqa: B023
            except Refused as error:
                if error.status != 401 or not again or not self._token.forget(connection.auth_token):
                    raise
            except Unreachable:
                self._connections(service).forget()
                raise
        raise AssertionError("unreachable")

    def _ask(self, connection: Any, service: str, path: str, method: str, body: Any, params: dict[str, Any],
             microversion: str) -> Any:
        headers = {"OpenStack-API-Version": f"{service} {microversion}"} if microversion else {}
        data = json.dumps(body) if body is not None else ""
        try:
            return connection.request(path, params=params, data=data, headers=headers, method=method).object
        except InvalidCredsError:
            raise Refused(401, "", "Keystone does not know this user, password and project") from None
        except LibcloudError:
            raise Unreachable("what answers there is not an OpenStack API") from None

    def _connections(self, service: str) -> PerThread:
        with self._lock:
            if service not in self._services:
                self._services[service] = PerThread(lambda: _stack_connection(self._endpoint, service, self._token))
            return self._services[service]


class _Token:
    """The token and the catalog that came with it, asked for by one thread at a time."""

    def __init__(self, endpoint: StackEndpoint) -> None:
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._identity: Any = None

    def get(self) -> tuple[str, list[dict[str, Any]]]:
        """(token, catalog), fresh ones when there are none."""
        with self._lock:
            if self._identity is None:
                self._identity = _identity(self._endpoint)
            if not _is_fresh(self._identity):
                self._identity.authenticate(force=True)
            return self._identity.auth_token, self._identity.urls or []

    def forget(self, token: str | None) -> bool:
        """That token was refused. False when Keystone itself refused us: asking again would not help."""
        with self._lock:
            if not token or self._identity is None:
                return False
            if self._identity.auth_token == token:
                self._identity = None
            return True


class _AuthResponse(OpenStackAuthResponse):
    def success(self) -> bool:
        return True  # judged by what reads the token, which knows the statuses

    def parse_body(self) -> Any:
        return self.body


class _Read:
    """Reads Keystone's answer; an error is its own, not a malformed token."""

    responseCls = _AuthResponse

    def _parse_token_response(self, response: Any, **kwargs: Any) -> None:
        if response.status not in (200, 201, 401):
            message = _fault(str(response.body))[1]
            raise Refused(response.status, "", f"Keystone: {message}" if message else "")
        super()._parse_token_response(response, **kwargs)  # type: ignore[misc]


class _Password(_Read, OpenStackIdentity_3_0_Connection):  # type: ignore[misc]
    """A password within a project, both domains by name (Libcloud takes the project's by id alone)."""

    project_domain = ""

    def _get_auth_data(self) -> dict[str, Any]:
        data: dict[str, Any] = super()._get_auth_data()
        data["auth"]["scope"]["project"]["domain"] = {"name": self.project_domain}
        return data


class _AppCredential(_Read, OpenStackIdentity_3_0_Connection_AppCred):  # type: ignore[misc]
    """An application credential, which knows its project."""


def _identity(endpoint: StackEndpoint) -> Any:
    cls = _AppCredential if endpoint.application_credential else _Password
    made: Any = cls(auth_url=endpoint.auth_url, user_id=endpoint.username, key=endpoint.password,
                    tenant_name=endpoint.project, domain_name=endpoint.user_domain, timeout=endpoint.timeout_s)
    made.project_domain = endpoint.project_domain
    made.driver = Named("OpenStack", endpoint.region)
    made.conn_class = trusting(endpoint.cacert)
    return made


def _is_fresh(identity: Any) -> bool:
    """Good for half a minute more. (Libcloud's own asks for the time in a way that newer Pythons warn of.)"""
    ends = identity.auth_token_expires
    if not identity.auth_token or ends is None:
        return False
    return bool((ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp() - 30 > datetime.now(UTC).timestamp())


class _StackResponse(Utf8Response):
    def success(self) -> bool:
        return 200 <= self.status <= 299

    def parse_body(self) -> Any:
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            raise Unreachable("what answers there is not an OpenStack API") from None

    def parse_error(self) -> str:
        raise Refused(self.status, *_fault(str(self.body)))


class _StackConnection(OpenStackBaseConnection):
    accept_format = "application/json"
    default_content_type = "application/json"
    responseCls = _StackResponse
    endpoint_facts: StackEndpoint
    shared: _Token

    def _populate_hosts_and_request_paths(self) -> None:
        self.auth_token = None
        self.auth_token, catalog = self.shared.get()
        self._set_up_connection_info(url=_service_url(str(self.service_type), catalog, self.endpoint_facts))


def _service_url(service: str, catalog: list[dict[str, Any]], facts: StackEndpoint) -> str:
    for entry in catalog:
        if entry.get("type") in _SERVICES.get(service, (service,)):
            for one in entry.get("endpoints", ()):
                if one.get("interface") == facts.interface and facts.region in ("", one.get("region"), one.get("region_id")):
                    return _versioned(service, one["url"])
    where = f" in region {facts.region}" if facts.region else ""
    raise Refused(404, NO_SERVICE, f"the catalog has no {facts.interface} endpoint of a {service} service{where}")


_SERVICES: Mapping[str, tuple[str, ...]] = {
    "compute": ("compute",), "image": ("image",), "network": ("network",),
    "volume": ("volumev3", "block-storage", "volume"),
}
# Catalogs give these services without the version of their API.
_VERSIONS = {"image": "v2", "network": "v2.0"}


def _versioned(service: str, url: str) -> str:
    version = _VERSIONS.get(service)
    if version is None or any(part.startswith("v") and part[1:2].isdigit() for part in urlsplit(url).path.split("/")):
        return url.rstrip("/")
    return f"{url.rstrip('/')}/{version}"


def _stack_connection(endpoint: StackEndpoint, service: str, token: _Token) -> _StackConnection:
    made = _StackConnection(endpoint.username, endpoint.password, timeout=endpoint.timeout_s,
                            ex_force_auth_url=endpoint.auth_url, ex_force_auth_version="3.x_password")
    made.endpoint_facts, made.shared = endpoint, token
    made.service_type = service
    made.driver = Named("OpenStack", endpoint.region)
    made.conn_class = trusting(endpoint.cacert)
    return made


def _fault(body: str) -> tuple[str, str]:
    """(word, message) of an error body: Nova's `{"forbidden": {"message"}}`, Neutron's `{"NeutronError": {"type"}}`."""
    try:
        found = json.loads(body)
        word, facts = next(iter(found.items()))
        return str(facts.get("type") or word), str(facts.get("message") or "")
    except (ValueError, StopIteration, AttributeError):
        return "", body if len(body) < MAX_TEXT and "<" not in body else ""
