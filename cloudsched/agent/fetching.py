"""What does a task's URL answer? One request, followed with care: every address is looked at before it is called.

http and https alone. A name is resolved once, all its addresses must be public (unless the device's owner allows private
ones), and the connection goes to the very address that was checked, at every redirect anew.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import ssl
import time
from urllib.parse import urljoin, urlsplit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_BYTES = 512 * 1024
MAX_REDIRECTS = 5
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REDIRECTS = (301, 302, 303, 307, 308)
# Headers that belong to the connection, not to the asker.
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "trailer"})
# With the first redirect to another host these stay behind.
_PRIVATE_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


class Refused(ValueError):
    """The request is not made, or not followed; the message says why."""


def fetch(payload: dict[str, Any], *, allow_private: bool) -> dict[str, Any]:
    """{status_code, headers, content, url} and `truncated` when the content was cut (contract 11.2). Refused, OSError."""
    method = str(payload.get("method") or "GET").upper()
    if method not in METHODS:
        raise Refused("method %s is not one of %s" % (method, ", ".join(METHODS)))
    url = payload.get("url")
    if not isinstance(url, str) or not url:
        raise Refused("url is missing")
    until = time.monotonic() + _timeout_s(payload.get("timeout"))
    headers, body = _headers(payload.get("headers")), _body(payload.get("data"))
    if isinstance(payload.get("data"), (dict, list)):
        headers.setdefault("Content-Type", "application/json")
    for _ in range(MAX_REDIRECTS + 1):
        answer = _once(method, url, headers, body, until=until, allow_private=allow_private)
        target = answer.pop("location", None)
        if target is None:
            return answer
        if urlsplit(target).netloc != urlsplit(url).netloc:
            headers = {name: value for name, value in headers.items() if name.lower() not in _PRIVATE_HEADERS}
        if answer["status_code"] == 303 or (answer["status_code"] in (301, 302) and method == "POST"):
            method, body = "GET", None
            headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
        url = target
    raise Refused("more than %d redirects" % MAX_REDIRECTS)


def _once(method: str, url: str, headers: dict[str, str], body: bytes | None, *, until: float,
          allow_private: bool) -> dict[str, Any]:
    parts = _parts(url)
    address = _address(parts.hostname or "", _port(parts), allow_private=allow_private)
    left_s = max(0.01, until - time.monotonic())
    connection = _connection(parts, address, left_s)
    try:
        target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        connection.request(method, target, body=body, headers={"User-Agent": "cloudsched-agent", **headers})
        answer = connection.getresponse()
        location = answer.getheader("Location")
        if answer.status in _REDIRECTS and location:
            return {"status_code": answer.status, "location": urljoin(url, location)}
        content, cut = _read(answer, until)
        found = {"status_code": answer.status, "headers": dict(answer.getheaders()), "content": _text(answer, content)}
        found["url"] = url
        if cut:
            found["truncated"] = True
        return found
    except http.client.HTTPException as error:
        raise OSError("the answer is no HTTP: %s" % type(error).__name__) from None
    finally:
        connection.close()


class _Plain(http.client.HTTPConnection):
    """A connection to an address that was checked, whatever the name resolves to meanwhile."""

    checked: tuple[Any, ...] = ()

    def connect(self) -> None:
        self.sock = socket.create_connection(self.checked[:2], self.timeout)


class _Safe(http.client.HTTPSConnection):
    checked: tuple[Any, ...] = ()

    def connect(self) -> None:
        raw = socket.create_connection(self.checked[:2], self.timeout)
        self.sock = ssl.create_default_context().wrap_socket(raw, server_hostname=self.host)


def _connection(parts: Any, address: tuple[Any, ...], timeout_s: float) -> Any:
    kind = _Safe if parts.scheme == "https" else _Plain
    made = kind(parts.hostname, _port(parts), timeout=timeout_s)
    made.checked = address
    return made


def _parts(url: str) -> Any:
    try:
        parts = urlsplit(url)
        _port(parts)
    except ValueError:
        raise Refused("%r is no URL" % url[:200]) from None
    if parts.scheme not in ("http", "https"):
        raise Refused("only http and https URLs are fetched")
    if not parts.hostname:
        raise Refused("%r is no URL" % url[:200])
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in url):
        raise Refused("the URL holds blanks or control characters")
    if parts.username is not None:
        raise Refused("a URL with a user name is not fetched: give a header")
    return parts


def _port(parts: Any) -> int:
    return int(parts.port or (443 if parts.scheme == "https" else 80))


def _address(host: str, port: int, *, allow_private: bool) -> tuple[Any, ...]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise Refused("%s cannot be resolved" % host[:200]) from None
    for entry in found:
        if not allow_private and not _is_public(str(entry[4][0])):
            raise Refused("%s is an address of a private or local network, which this device does not allow" % host[:200])
    return tuple(found[0][4])


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    for inner in (getattr(address, "ipv4_mapped", None), getattr(address, "sixtofour", None)):
        if inner is not None and not inner.is_global:
            return False
    teredo = getattr(address, "teredo", None)
    if teredo is not None and not teredo[1].is_global:
        return False
    if address in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.ip_address(int(address) & 0xFFFFFFFF).is_global
    return address.is_global and not address.is_multicast


def _timeout_s(value: Any) -> float:
    if value is None:
        return 30.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 86_400:
        raise Refused("timeout is not a number of seconds")
    return float(value)


def _headers(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("headers is not an object")
    found = {}
    for name, text in value.items():
        if not isinstance(text, (str, int, float)) or any(letter in "%s%s" % (name, text) for letter in "\r\n\0"):
            raise Refused("headers: %r cannot be sent" % name)
        if str(name).lower() not in _OWN_HEADERS:
            found[str(name)] = str(text)
    return found


def _body(value: Any) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def _read(answer: Any, until: float) -> tuple[bytes, bool]:
    content = b""
    while len(content) <= MAX_BYTES:
        if time.monotonic() > until:
            raise OSError("the answer took too long")
        piece = answer.read1(65_536)
        if not piece:
            return content, False
        content += piece
    return content[:MAX_BYTES], True


def _text(answer: Any, content: bytes) -> str:
    charset = answer.headers.get_content_charset() or "utf-8"
    try:
        return content.decode(charset, "replace")
    except LookupError:
        return content.decode("utf-8", "replace")
