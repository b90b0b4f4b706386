"""How are the APIs of clouds called? What the EC2 and the OpenStack calls share of Libcloud's connections.

Libcloud's node drivers know neither idempotency tokens nor tags at creation nor error codes as such. Its connections,
which sign, authenticate, find the services and pool the sockets, are used with requests of our own.
"""

# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import requests
from libcloud.common.base import Response
from libcloud.http import LibcloudConnection

MAX_TEXT = 500
# What is shorter would be found in any sentence.
_LEAST_SECRET = 8
_WHO = re.compile(r"^(<[^>]*>|HTTPS?Connection(Pool)?\([^)]*\)): ")
# User data that is quoted back at us: it holds the join token.
_ENCODED = re.compile(r"[A-Za-z0-9+/=_-]{80,}")

T = TypeVar("T")


class Refused(Exception):
    """The place answered with an error. `code`: its own word for it, empty when it gave none."""

    def __init__(self, status: int, code: str, message: str) -> None:
        text = _ENCODED.sub("[...]", " ".join(message.split()))[:MAX_TEXT]
        super().__init__(f"{code}: {text}" if code else text or f"HTTP status {status}")
        self.status, self.code, self.message = status, code, text


class Unreachable(Exception):
    """Nobody answered, or not in time, or not in the language of the API."""


class PerThread:
    """One connection for each thread: Libcloud's keep the request under way in themselves."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._local = threading.local()

    def get(self) -> Any:
        if not hasattr(self._local, "made"):
            self._local.made = self._make()
        return self._local.made

    def forget(self) -> None:
        """The next call makes a new one (a session that was cut off, a token that is not good any more)."""
        self._local.__dict__.pop("made", None)


def without(text: str, secrets: Iterable[str]) -> str:
    """The text with these secrets blotted out."""
    for secret in secrets:
        text = text.replace(secret, "***") if len(secret) >= _LEAST_SECRET else text
    return text


def asked(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except requests.exceptions.SSLError as error:
        raise Unreachable(f"the certificate is not trusted: {_cause(error)}") from None
    except requests.exceptions.Timeout:
        raise Unreachable("no answer in time") from None
    except (requests.exceptions.RequestException, OSError) as error:
        raise Unreachable(_cause(error)) from None


def _cause(error: BaseException) -> str:
    """The innermost reason; the texts around it hold whole URLs with their parameters."""
    while error.args and isinstance(error.args[0], BaseException):
        error = error.args[0]
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _cause(inner)
    text = (getattr(error, "strerror", None) or str(error)).split("(Caused by")[0]
    text = _WHO.sub("", text) or type(error).__name__
    return text.partition(" with url: ")[0][:200]


def trusting(cacert: str) -> type[LibcloudConnection]:
    """Connections that trust this authority; Libcloud has but one for the whole process."""

    class Trusting(LibcloudConnection):
        def _setup_ca_cert(self, **kwargs: Any) -> None:
            super()._setup_ca_cert(**kwargs)
            self.ca_cert = cacert or self.ca_cert

    return Trusting


@dataclass(frozen=True)
class Named:
    """The little that Libcloud's connections want to know of a driver."""

    name: str
    region_name: str = ""


class Utf8Response(Response):
    """An answer whose text is what it says, whatever its headers say of its encoding."""

    def __init__(self, response: Any, connection: Any) -> None:
        response.encoding = "utf-8"
        super().__init__(response, connection)
