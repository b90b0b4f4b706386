"""Who may call the kboss API? Keys as in the native API; for the pcapi half also a configured name and password.

On loopback without keys it is open, as the native API is, with the same guards against web pages of other origins. Calls
that change something by GET are guarded like a POST.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from dataclasses import replace
from typing import Any

from cloudsched.dialects.kboss.calls import PCAPI, Refusal, Route
from cloudsched.errors import Forbidden, Unauthenticated
from cloudsched.services.access import Gate, Request, is_inside, networks_of
from cloudsched.services.caller import Caller
from cloudsched.settings import Settings

Environ = dict[str, Any]
CHALLENGE = ("WWW-Authenticate", 'Basic realm="cloudsched"')


class Door:
    """Decides over callers, for one process. Safe for threads."""

    def __init__(self, settings: Settings) -> None:
        listen, own = settings.listen, settings.listener("kboss")
        # The same door as the native API's, at another address.
        self._gate = Gate(replace(
            settings, access=replace(settings.access, native_networks=()),
            listen=replace(listen, native=listen.kboss, native_bind=own.host if own else listen.bind)))
        self._networks = networks_of(settings.access.kboss_networks)
        self._pair = (settings.centres.api_user, settings.centres.api_password)

    def check_network(self, address: str) -> None:
        """Raise Refusal (403) for an address outside access.kboss_networks; loopback never is, without a list none is."""
        if self._networks and address and not is_inside(address, self._networks):
            raise Refusal("bad_network", http=403)

    def caller(self, environ: Environ, route: Route) -> Caller:
        """Who calls, with a role that is enough for the route. Raises Refusal (401, 403), RateLimited."""
        try:
            found = self._caller(environ, route)
        except Unauthenticated as error:
            key = "bad_authorization" if _presented(environ) else "no_authorization"
            raise Refusal(key, http=401) from error
        except Forbidden as error:
            raise Refusal("bad_origin", http=403) from error
        if not found.may(route.role):
            raise Refusal("bad_role", http=403, role=route.role)
        return found

    def _caller(self, environ: Environ, route: Route) -> Caller:
        asked = _request(environ, route)
        if route.half == PCAPI and self._pair[1]:
            user, password = _basic(asked.authorization)
            if hmac.compare_digest(f"{user}\0{password}".encode(), "\0".join(self._pair).encode()):
                return Caller(self._pair[0] or "pcapi", "operator")
            if not asked.api_key and not asked.authorization:
                raise Unauthenticated("a name and password are needed")
        return self._gate.caller(asked)


def _request(environ: Environ, route: Route) -> Request:
    get = environ.get
    method = environ["REQUEST_METHOD"] if route.role == "viewer" else "POST"
    return Request(get("REMOTE_ADDR", ""), method, get("HTTP_HOST", ""), get("HTTP_ORIGIN", ""),
                   get("HTTP_SEC_FETCH_SITE", ""), get("HTTP_X_API_KEY", ""), get("HTTP_AUTHORIZATION", ""),
                   forwarded="HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ)


def _presented(environ: Environ) -> bool:
    return bool(environ.get("HTTP_X_API_KEY") or environ.get("HTTP_AUTHORIZATION"))


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return "", ""
    return user, password


