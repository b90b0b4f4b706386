"""What does the configuration file say? One JSON object with `#` comments (contract 1)."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from cloudsched.logagent.errors import BadConfig

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Union

    Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

STYLES = ("envelope", "document")
FIRST_PORT, PORTS, ANY_PORT = 3000, 1000, -1
HEARTBEAT_S, MASTER_TIMEOUT_S = 15.0, 5.0


@dataclass(frozen=True)
class Settings:
    """The checked configuration. `port` ANY_PORT: the first free one from 3000 upwards; 0: any free one."""

    host: str = "127.0.0.1"
    port: int = ANY_PORT
    rest_dir: str = ".logkitconfs"
    meta_dir: str = ""
    response_style: str = "envelope"
    allow_networks: tuple[Network, ...] = ()
    read_roots: tuple[str, ...] = ()
    write_roots: tuple[str, ...] = ()
    max_body_bytes: int = 1 << 20
    cluster_enabled: bool = False
    masters: tuple[str, ...] = ()
    address: str = ""
    tag: str = "default"
    heartbeat_s: float = HEARTBEAT_S
    labels: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


def load(path: str) -> Settings:
    """Read and check the file; BadConfig names the key that is wrong."""
    try:
        with open(path, encoding="utf-8") as file:
            value = json.loads(without_comments(file.read()))
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from None
    except ValueError as error:
        raise BadConfig(f"{path} is not JSON (with # comments): {error}") from None
    return check(value, base=os.path.dirname(os.path.abspath(path)))


def without_comments(text: str) -> str:
    """Blank out from each `#` outside a string to the end of its line; lines keep their numbers."""
    return "\n".join(_without_comment(line) for line in text.split("\n"))


def check(value: Any, *, base: str = ".") -> Settings:
    """Settings from the parsed file; relative folders are below `base`."""
    top = _Keys(value, "")
    cluster = _Keys(top.take("cluster", {}), "cluster.")
    host, port = _bind(top.text("bind_host"))
    networks = _networks(top.texts("allow_networks"))
    if not _loopback(host) and not networks:
        raise BadConfig(f"bind_host {host}: to listen beyond loopback set allow_networks, e.g. [\"10.0.0.0/8\"]")
    style = top.text("response_style", "envelope")
    if style not in STYLES:
        raise BadConfig(f"response_style is {style!r}; allowed: {', '.join(STYLES)}")
    enabled, masters = cluster.flag("enable"), cluster.texts("master_url")
    if enabled and not masters and not cluster.flag("is_master"):
        raise BadConfig("cluster.master_url is empty; name at least one master, or set cluster.enable to false")
    rest_dir = os.path.join(base, top.text("rest_dir", ".logkitconfs"))
    return Settings(
        host=host,
        port=port,
        rest_dir=os.path.abspath(rest_dir),
        meta_dir=os.path.abspath(os.path.join(base, top.text("meta_dir") or os.path.join(rest_dir, "meta"))),
        response_style=style,
        allow_networks=networks,
        read_roots=tuple(os.path.realpath(os.path.join(base, root)) for root in top.texts("read_roots")),
        write_roots=tuple(os.path.realpath(os.path.join(base, root)) for root in top.texts("write_roots")),
        max_body_bytes=top.count("max_body_bytes", 1 << 20),
        cluster_enabled=enabled,
        masters=tuple(_master(url) for url in masters),
        address=_with_scheme(cluster.text("address")).rstrip("/"),
        tag=cluster.text("tag", "default"),
        heartbeat_s=float(cluster.count("heartbeat_s", int(HEARTBEAT_S))),
        labels=cluster.words("labels"),
        variables=top.words("variables"),
    )


def advertised(settings: Settings, port: int) -> str:
    """The URL this agent registers itself under."""
    if settings.address:
        return settings.address
    host = settings.host
    if host in ("", "0.0.0.0", "::"):  # noqa: S104 - compared, not bound
        host = _own_address()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Keys:
    """A JSON object whose values are checked when they are taken."""

    def __init__(self, value: Any, prefix: str) -> None:
        if not isinstance(value, dict):
            raise BadConfig(f"{prefix.rstrip('.') or 'the configuration'} must be a JSON object")
        self._value, self._prefix = value, prefix

    def take(self, key: str, default: Any) -> Any:
        found = self._value.get(key)
        return default if found is None else found

    def text(self, key: str, default: str = "") -> str:
        return str(self._typed(key, default, str, "a string"))

    def flag(self, key: str) -> bool:
        return bool(self._typed(key, False, bool, "true or false"))

    def count(self, key: str, default: int) -> int:
        value = self._typed(key, default, int, "a positive whole number")
        if isinstance(value, bool) or value < 1:
            raise BadConfig(f"{self._prefix}{key} must be a positive whole number")
        return int(value)

    def texts(self, key: str) -> list[str]:
        value = self._typed(key, [], list, "an array of strings")
        if not all(isinstance(item, str) and item for item in value):
            raise BadConfig(f"{self._prefix}{key} must be an array of strings")
        return [str(item) for item in value]

    def words(self, key: str) -> dict[str, str]:
        value = self._typed(key, {}, dict, "an object of strings")
        if not all(isinstance(item, str) for item in value.values()):
            raise BadConfig(f"{self._prefix}{key} must be an object of strings")
        return dict(value)

    def _typed(self, key: str, default: Any, kind: type, words: str) -> Any:
        value = self.take(key, default)
        if not isinstance(value, kind):
            raise BadConfig(f"{self._prefix}{key} must be {words}")
        return value


def _without_comment(line: str) -> str:
    inside = escaped = False
    for index, character in enumerate(line):
        if escaped:
            escaped = False
        elif character == "\\" and inside:
            escaped = True
        elif character == '"':
            inside = not inside
        elif character == "#" and not inside:
            return line[:index]
    return line


def _bind(text: str) -> tuple[str, int]:
    if not text:
        return "127.0.0.1", ANY_PORT
    parts = urlsplit(text if "//" in text else "//" + text)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("", "http") or port is None:
        raise BadConfig(f"bind_host is {text!r}; allowed: host:port, optionally with http://")
    return parts.hostname or "0.0.0.0", port  # noqa: S104 - refused below without allow_networks


def _networks(texts: list[str]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise BadConfig(f"allow_networks: {error}; allowed: networks such as 10.0.0.0/8") from None


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _master(url: str) -> str:
    full = _with_scheme(url).rstrip("/")
    try:
        parts = urlsplit(full)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise BadConfig(f"cluster.master_url holds {url!r}; allowed: host:port, http://... or https://...")
    return full


def _with_scheme(url: str) -> str:
    if not url or url.startswith(("http://", "https://")):
        return url
    return "http://" + url


def _own_address() -> str:
    """The first address that is not loopback; asking for a route sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
