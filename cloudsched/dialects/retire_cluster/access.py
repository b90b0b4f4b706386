"""Who is calling, and how far may they go? Keys with levels (contract 5), networks, and a line in the log for strangers."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from cloudsched.dialects.retire_cluster.envelope import Refused
from cloudsched.errors import CloudschedError, Forbidden
from cloudsched.services.access import Gate, Request, is_inside, networks_of
from cloudsched.services.caller import Caller
from cloudsched.settings import Settings, retire_cluster_keys

OPEN, READ, WRITE, ADMIN = "open", "read", "write", "admin"
LEVELS = (OPEN, READ, WRITE, ADMIN)
# A level is a role of the whole system, and the other way round.
ROLE = {READ: "viewer", WRITE: "operator", ADMIN: "admin"}
_LEVEL = {"viewer": READ, "submitter": WRITE, "operator": WRITE, "admin": ADMIN}
NOTED_EVERY_S = 60.0
NOTED_MAX = 1000
_KEY_MAX = 1024


@dataclass(frozen=True, slots=True)
class Who:
    """A caller; `identity` is whose requests are counted together, `keyed`: a key said who it is."""

    caller: Caller
    level: str
    identity: str
    keyed: bool = False

    def reaches(self, level: str) -> bool:
        """Is the caller's level at least this one?"""
        return LEVELS.index(self.level) >= LEVELS.index(level)


class Door:
    """Decides over callers, for one process. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        self._given = tuple(_parsed(settings.retire_cluster.api_keys))
        self._networks = networks_of(settings.access.retire_cluster_networks)
        self._always = retire_cluster_keys(settings)
        self._never = settings.retire_cluster.auth == "no"
        # Only its keys are of interest: networks and the need of a key are this dialect's own.
        self._system = _Gate(replace(settings, access=replace(settings.access, native_networks=(), require_keys="auto"),
                                     listen=replace(settings.listen, native=0)))
        self._noted: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        """Must callers have a key now?"""
        return self._always or not (self._never or not self._system.needs_key())

    def check_network(self, address: str) -> None:
        """Raise Forbidden for an address outside the allow-list (loopback never is; without a list none is)."""
        if self._networks and address and not is_inside(address, self._networks):
            raise Forbidden("this address may not call this port")

    def who(self, environ: dict[str, Any]) -> Who:
        """The caller of a request; level `open` without a key where one is needed."""
        address = environ.get("REMOTE_ADDR", "")
        key = presented(environ)
        found = self._known(key, address) if key else None
        if found is not None:
            return found
        level = OPEN if self.on else ADMIN
        return Who(Caller(f"retire-cluster@{address}" if address else "retire-cluster", ROLE.get(level, "viewer")), level,
                   f"address:{address}")

    def refusal(self, environ: dict[str, Any], who: Who, level: str) -> Refused:
        """Why `who` may not do what needs `level`: 401 or 403 (contract 4)."""
        if who.keyed or who.level != OPEN:
            text = "this needs a key of the level admin" if level == ADMIN and not who.keyed else (
                f"this needs a key of the level {level}; the key has the level {who.level}")
            return Refused("PERMISSION_DENIED", text, details={"required_level": level})
        reason = "invalid_api_key" if presented(environ) else "missing_api_key"
        self._note(environ.get("REMOTE_ADDR", ""), reason)
        text = "the API key is not known" if reason == "invalid_api_key" else (
            "an API key is needed: send it as X-API-Key, or as Authorization: Bearer")
        return Refused("AUTHENTICATION_REQUIRED", text, details={"reason": reason},
                       headers=[("WWW-Authenticate", 'Bearer realm="retire-cluster"')])

    def _known(self, key: str, address: str) -> Who | None:
        if len(key) > _KEY_MAX:
            return None
        digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
        match: tuple[str, str] | None = None
        for number, (given, level) in enumerate(self._given, start=1):  # all of them, so that time says nothing
            if hmac.compare_digest(given, digest):
                match = f"api-key-{number}", level
        identity = f"key:{digest.hex()[:32]}"
        if match is not None:
            return Who(Caller(match[0], ROLE[match[1]]), match[1], identity, keyed=True)
        try:
            caller = self._system.caller(Request(address, api_key=key))
        except CloudschedError as error:
            if error.kind == "unavailable":
                raise
            return None
        return Who(caller, _LEVEL[caller.role], identity, keyed=True)

    def _note(self, address: str, reason: str) -> None:
        """One line in the log a minute for each address."""
        now = time.monotonic()
        with self._lock:
            if self._noted.get((address, reason), -NOTED_EVERY_S) > now - NOTED_EVERY_S:
                return
            if len(self._noted) >= NOTED_MAX:
                self._noted.clear()
            self._noted[address, reason] = now
        from cloudsched.services import figures

        figures.note_refused(address, reason)


class _Gate(Gate):
    """The keys of the whole system. Wrong ones are not counted apart here: every request has a limit (contract 6)."""

    def _check_failures(self, address: str, now: float) -> None:
        """Nothing is counted."""

    def _count_failure(self, address: str, now: float) -> None:
        """Nothing is counted."""


def presented(environ: dict[str, Any]) -> str:
    """The key of a request: X-API-Key, `Authorization: Bearer KEY`, or a bare key as the whole Authorization."""
    key = environ.get("HTTP_X_API_KEY", "").strip()
    if key:
        return str(key)
    scheme, _, value = environ.get("HTTP_AUTHORIZATION", "").strip().partition(" ")
    if not value:
        return str(scheme) if scheme.lower() != "bearer" else ""
    return str(value).strip() if scheme.lower() == "bearer" else ""


def _parsed(keys: Iterable[str]) -> Iterable[tuple[bytes, str]]:
    """(digest, level) of `KEY` or `KEY:level`; a plain key is an admin's."""
    for text in keys:
        key, colon, level = text.rpartition(":")
        if not colon or level not in ROLE:
            key, level = text, ADMIN
        yield hashlib.sha256(key.encode()).digest(), level
