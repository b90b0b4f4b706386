"""Which hosts does a list of hosts name? Names, addresses and networks, each with a port or without.

A network names addresses alone: what a host name leads to may change between the look and the call, so a name must be listed as
one, or by `*.` and its domain.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PARTS = re.compile(r"(?:\[(?P<bare>[0-9A-Fa-f:.]+)\]|(?P<host>[^\[\]\s:]+))(?::(?P<port>[0-9]{1,5}))?")
_NAME = re.compile(r"(\*\.)?[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
_DIGITS = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")  # an address that is spelled oddly is no name


class Host(NamedTuple):
    """One entry. `name`: a host name, or `*.DOMAIN`; or `network`. `port` None: any."""

    name: str
    network: Network | None
    port: int | None


def parse(text: str) -> Host:
    """One entry of a list. Raises ValueError."""
    whole = _network(text)
    if whole is not None:
        return Host("", whole, None)
    found = _PARTS.fullmatch(text)
    port = int(found["port"]) if found and found["port"] else None
    if found is None or (port is not None and not 0 < port < 65536):
        raise ValueError(f"{text!r} is no host")
    host = (found["bare"] or found["host"]).lower()
    network = _network(host)
    if network is None and (found["bare"] or not _NAME.fullmatch(host) or _DIGITS.fullmatch(host)):
        raise ValueError(f"{text!r} is no host")
    return Host("" if network else host, network, port)


def names(entries: Iterable[str], host: str, port: int) -> bool:
    """Is this host, at this port, one of them? Link-local and multicast addresses never are."""
    plain = host.lower().rstrip(".")
    address = as_address(plain)
    if address is not None and not address.is_loopback and (
            address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved):
        return False
    return any(one.port in (None, port) and _fits(one, plain, address) for one in map(parse, entries))


def as_address(host: str) -> Address | None:
    """The address that is written there; an IPv4 address in IPv6's clothes is the IPv4 address. None for a name."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _fits(one: Host, name: str, address: Address | None) -> bool:
    if address is not None:
        return one.network is not None and address in one.network
    if one.name.startswith("*."):
        return name.endswith(one.name[1:]) and len(name) > len(one.name) - 1
    return bool(one.name) and name == one.name


def _network(text: str) -> Network | None:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
