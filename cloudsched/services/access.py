"""Who is calling? Keys, callers of this machine, allow-lists, and the guards against foreign web pages.

Without any key in force, callers on this machine are admin; that is safe only while a web page cannot speak through a
browser, so the Host header must name this machine (DNS rebinding), and state-changing calls must not come from a
foreign origin.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import ipaddress
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.errors import Forbidden, RateLimited, Unauthenticated
from cloudsched.services.caller import LOCAL_ADMIN, Caller
from cloudsched.settings import Settings, is_loopback, keys_always
from cloudsched.store import system
from cloudsched.store.db import write

Networks = frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network]
CACHE_S = 3.0
CACHED_MAX = 4096
USED_EVERY_S = 60.0
FAILURES_MAX = 20
FAILURES_WINDOW_S = 60.0
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_USER_MAX = 100


@dataclass(frozen=True, slots=True)
class Request:
    """What of a request says who is calling; headers as sent, empty when absent."""

    address: str
    method: str = "GET"
    host: str = ""
    origin: str = ""
    fetch_site: str = ""
    api_key: str = ""
    authorization: str = ""
    user: str = ""
    forwarded: bool = False


def networks_of(texts: Iterable[str]) -> Networks:
    """An allow-list of the settings, ready to be asked."""
    return frozenset(ipaddress.ip_network(text, strict=False) for text in texts)


def is_inside(address: str, networks: Networks) -> bool:
    """Is it an address of this machine, or of one of the networks? An IPv4 address that came in over IPv6 counts as itself; what
    is no address is nowhere inside."""
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return False
    found = getattr(given, "ipv4_mapped", None) or given
    return found.is_loopback or any(found in network for network in networks)


class Gate:
    """The door of one process. Safe for threads."""

    def __init__(self, settings: Settings, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._always = keys_always(settings)
        self._auto = settings.access.require_keys == "auto"
        self._networks = networks_of(settings.access.native_networks)
        self._hosts = _own_hosts(settings)
        self._lock = threading.Lock()
        self._keys: dict[str, tuple[float, Caller | None, float | None]] = {}
        self._has_keys: tuple[float, bool] = (0.0, False)
        self._used: dict[int, float] = {}
        self._failures: dict[str, tuple[float, int]] = {}

    # the questions

    def check_network(self, request: Request) -> None:
        """Raise Forbidden when the address is outside the allow-list (loopback never is)."""
        if self._networks and not is_inside(request.address, self._networks):
            raise Forbidden(f"calls from {request.address} are not allowed (access.native_networks)")

    def check_origin(self, request: Request) -> None:
        """Raise Forbidden for a state-changing call that a foreign web page makes through a browser."""
        if request.method in _SAFE:
            return
        if request.fetch_site in ("cross-site", "same-site") or (
                request.origin and request.origin.partition("://")[2] != request.host):
            raise Forbidden("a web page of another origin may not change anything here")

    def caller(self, request: Request) -> Caller:
        """The caller. Raises Unauthenticated, Forbidden (network, host, origin), RateLimited."""
        self.check_network(request)
        self.check_origin(request)
        key = presented(request)
        if key:
            return self._known(key, request.address)
        if self.needs_key():
            raise Unauthenticated("a key is needed: send it as X-API-Key or Authorization: Bearer")
        return self._local(request)

    def needs_key(self) -> bool:
        """Is a key needed now? With `auto` on loopback: as soon as one is in force (looked up every few seconds)."""
        if self._always:
            return True
        if not self._auto:
            return False
        until, found = self._has_keys
        if until < self._monotonic():
            found = system.has_keys()
            self._has_keys = (self._monotonic() + CACHE_S, found)
        return found

    def forget(self) -> None:
        """Keys have changed: look again."""
        self._keys.clear()
        self._has_keys = (0.0, False)

    # callers without a key

    def _local(self, request: Request) -> Caller:
        if request.forwarded or not is_loopback(_plain(request.address)):
            raise Unauthenticated("without a key only callers on this machine are let in, and not through a proxy")
        if request.host and _host_name(request.host) not in self._hosts:
            raise Forbidden(f"the Host header names {_host_name(request.host)[:100]!r}, which is not this server "
                            "(set listen.public_url, or use a key)")
        name = request.user.strip()
        if not name:
            return LOCAL_ADMIN
        if len(name) > _USER_MAX or not name.isprintable():
            raise Forbidden("X-Cloudsched-User: at most 100 printable characters")
        return Caller(name, "admin")

    # callers with a key

    def _known(self, key: str, address: str) -> Caller:
        digest = hashlib.sha256(key.encode()).hexdigest()
        now = self._monotonic()
        kept = self._keys.get(digest)
        if kept is None or kept[0] < now:
            self._check_failures(address, now)
            kept = self._look_up(digest, now)
        _, caller, expires_at = kept
        if caller is None or (expires_at is not None and expires_at <= clock.now()):
            self._count_failure(address, now)
            raise Unauthenticated("the key is not valid (unknown, revoked or expired)")
        self._note_use(caller, now)
        return caller

    def _look_up(self, digest: str, now: float) -> tuple[float, Caller | None, float | None]:
        row = system.key_by_hash(digest)
        caller, expires_at = None, None
        if row is not None and row[5] is None:
            caller, expires_at = Caller(row[1], row[2], row[3], row[0]), row[4]
        kept = (now + CACHE_S, caller, expires_at)
        with self._lock:
            if len(self._keys) >= CACHED_MAX:
                self._keys.clear()
            if caller is not None:
                self._keys[digest] = kept
        return kept

    def _note_use(self, caller: Caller, now: float) -> None:
        number = caller.key_id
        if number is None or self._used.get(number, -USED_EVERY_S) > now - USED_EVERY_S:
            return
        self._used[number] = now
        write(lambda tx: system.key_used(tx, number, at=clock.now()))

    def _check_failures(self, address: str, now: float) -> None:
        began, count = self._failures.get(address, (now, 0))
        left_s = began + FAILURES_WINDOW_S - now
        if count >= FAILURES_MAX and left_s > 0:
            raise RateLimited("too many wrong keys from this address", retry_after_s=left_s)

    def _count_failure(self, address: str, now: float) -> None:
        with self._lock:
            began, count = self._failures.get(address, (now, 0))
            if now - began > FAILURES_WINDOW_S:
                began, count = now, 0
            if len(self._failures) > CACHED_MAX:
                self._failures.clear()
            self._failures[address] = (began, count + 1)


def presented(request: Request) -> str:
    """The key a request carries: X-API-Key, Authorization: Bearer, or the password of Basic. Raises Unauthenticated."""
    if request.api_key:
        return request.api_key.strip()
    if not request.authorization:
        return ""
    scheme, _, value = request.authorization.partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, ValueError):
            pass
    raise Unauthenticated("the Authorization header is neither 'Bearer KEY' nor Basic with the key as password")


def _own_hosts(settings: Settings) -> frozenset[str]:
    found = {"localhost", "127.0.0.1", "::1"}
    native = settings.listener("native")
    if native is not None:
        found.add(native.host.lower().strip("[]"))
    if settings.listen.public_url:
        found.add((urlsplit(settings.listen.public_url).hostname or "localhost").lower())
    return frozenset(found)


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    text = host.strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _plain(address: str) -> str:
    """An IPv4 address that came in over IPv6, as itself."""
    return address[7:] if address.startswith("::ffff:") else address
