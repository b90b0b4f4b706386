"""How is one thing posted to a foreign URL without being led elsewhere? Checked address, no redirects, no proxies, a time limit.

The name is resolved once, the address is checked, and the connection goes to that address: a name that answers otherwise the
second time gains nothing. `http` goes to loopback alone; `https` to public addresses, and to private ones where
`[dcluster] webhook_private` allows it; link-local addresses (metadata services) never.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from cloudsched.errors import Invalid

URL_MOST = 2000
_ALLOWED = "https://HOST/..., or http:// to this machine"
_SECRET_LIKE = re.compile(r"[A-Za-z0-9_\-+=~.]{20,}")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Forbidden(Exception):
    """The URL leads to an address that is not allowed."""


class Posted(NamedTuple):
    """How it went: the status of the answer, or what kept one from coming."""

    status: int | None
    error: str = ""
    retry_after_s: float = 0.0
    took_s: float = 0.0


def check_url(url: str, field: str = "url") -> str:
    """The URL, if its form may be used. Raises Invalid. Where it leads is looked at when something is posted."""
    if len(url) > URL_MOST or not url.isascii() or any(char.isspace() or not char.isprintable() for char in url):
        raise Invalid.at(field, "cannot be used", f"up to {URL_MOST} printable ASCII characters without blanks")
    parts, port = _split(url, field)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise Invalid.at(field, "is no URL that webhooks can go to", _ALLOWED)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise Invalid.at(field, "holds a name, password or fragment", "a plain URL; deliveries are signed with the secret")
    try:
        literal: Address | None = ipaddress.ip_address(parts.hostname)
    except ValueError:
        literal = None
    if literal is None and parts.scheme == "http" and parts.hostname != "localhost":
        raise Invalid.at(field, "http is not encrypted", _ALLOWED)
    if literal is not None and (problem := _problem(literal, secure=parts.scheme == "https", private=True)):
        raise Invalid.at(field, problem, _ALLOWED)
    return url


def masked(url: str) -> str:
    """The URL without values of its query and without path segments that look like tokens."""
    parts = urlsplit(url)
    path = "/".join("***" if _SECRET_LIKE.fullmatch(piece) else piece for piece in parts.path.split("/"))
    query = "&".join(f"{pair.partition('=')[0]}=***" if "=" in pair else "***" for pair in parts.query.split("&") if pair)
    return f"{parts.scheme}://{parts.netloc}{path}" + (f"?{query}" if query else "")


def post(url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, private: bool, ca_file: str = "") -> Posted:
    """POST once; never raises for the receiver's sake. The whole exchange takes at most `timeout_s`."""
    began = time.monotonic()
    try:
        status, retry_after_s = _exchange(url, body, headers, began + timeout_s, private=private, ca_file=ca_file)
    except Forbidden as error:
        return Posted(None, str(error), took_s=time.monotonic() - began)
    except (OSError, http.client.HTTPException, ValueError) as error:
        took_s = time.monotonic() - began
        late = isinstance(error, TimeoutError) or took_s >= timeout_s
        return Posted(None, f"no answer within {timeout_s:g} s" if late else _reason(error), took_s=took_s)
    return Posted(status, "" if 200 <= status < 300 else f"answered {status}", retry_after_s, time.monotonic() - began)


def _exchange(url: str, body: bytes, headers: Mapping[str, str], until: float, *, private: bool,
              ca_file: str) -> tuple[int, float]:
    parts, port = _split(url, "url")
    secure, host = parts.scheme == "https", parts.hostname or ""
    port = port or (443 if secure else 80)
    address = _resolved(host, port, secure=secure, private=private)
    connection = _Connection(host, port, address, timeout_s=max(0.05, until - time.monotonic()),
                             context=ssl.create_default_context(cafile=ca_file or None) if secure else None)
    # A receiver that sends a byte now and then must not hold us: the socket's own limit counts silence alone.
    watchdog = threading.Timer(max(0.05, until - time.monotonic()), connection.cut)
    watchdog.daemon = True
    watchdog.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", target, body=body, headers={**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        return answer.status, _seconds(answer.headers.get("Retry-After"))
    finally:
        watchdog.cancel()
        connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection to one address, under the name that was asked for."""

    def __init__(self, host: str, port: int, address: str, *, timeout_s: float, context: ssl.SSLContext | None) -> None:
        super().__init__(host, port, timeout=timeout_s)
        if context is not None:
            self.default_port = 443
        self._address, self._context = (address, port), context
        self._raw: socket.socket | None = None

    def connect(self) -> None:
        self._raw = socket.create_connection(self._address, self.timeout)
        self.sock = self._raw
        if self._context is not None:
            # The socket is known before the handshake, so that `cut` reaches it.
            self.sock = self._context.wrap_socket(self._raw, server_hostname=self.host, do_handshake_on_connect=False)
            self.sock.do_handshake()

    def cut(self) -> None:
        """End it from another thread."""
        raw = self.sock or self._raw
        if raw is not None:
            try:
                raw.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _resolved(host: str, port: int, *, secure: bool, private: bool) -> str:
    """The first address of a name, if all of them are allowed. Raises Forbidden, OSError."""
    found = [str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for text in found:
        problem = _problem(ipaddress.ip_address(text), secure=secure, private=private)
        if problem:
            raise Forbidden(f"{host}: {problem}")
    return found[0]


def _problem(address: Address, *, secure: bool, private: bool) -> str:
    """Why nothing is sent there; empty when it may be."""
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    address = mapped or address
    if address.is_loopback:
        return ""
    if not secure:
        return f"{address} is not this machine, and http is not encrypted: use https"
    if address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved:
        return f"nothing is sent to {address}"
    if not address.is_global and not private:
        return f"{address} is a private address, and dcluster.webhook_private is off"
    return ""


def _split(url: str, field: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        return parts, parts.port
    except ValueError:
        raise Invalid.at(field, "is no URL", _ALLOWED) from None


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isdigit() and len(text) < 8 else 0.0


def _reason(error: Exception) -> str:
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not trusted: {error.verify_message}"
    return f"no answer: {getattr(error, 'strerror', None) or error or type(error).__name__}"[:200]
