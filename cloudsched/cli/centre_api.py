"""How do the commands of compute centres call their server? One POST with a form, one answer that says yes or no.

Standard library alone: a command line must start at once. Nothing is repeated, as calls may change something.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

from cloudsched.client.errors import ClientError
from cloudsched.client.where import Address, find_key, state_dir

DEFAULT_PORT = 8088
VARIABLE = "CLOUDSCHED_KBOSS_URL"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is bound everywhere is asked here


class Said(NamedTuple):
    """An answer: did it say yes, its text, its data, and everything that came."""

    yes: bool
    text: str
    data: Any
    body: dict[str, Any]


class NoAnswer(ClientError):
    """Nobody answered: the message says where and why."""


class NotAllowed(ClientError):
    """401 or 403."""


class CentreApi:
    """The kboss API at an address."""

    def __init__(self, address: Address, key: str | None, *, timeout_s: float = 900.0, language: str = "en") -> None:
        self.address, self._timeout_s = address, timeout_s
        self._headers = {"Accept": "application/json", "Accept-Language": language,
                         "Content-Type": "application/x-www-form-urlencoded"}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"

    def call(self, path: str, params: Mapping[str, Any]) -> Said:
        """An answer, yes or no. Raises NotAllowed, NoAnswer; ClientError for one that is no answer of this API."""
        status, media, raw = self._post(path, params)
        if "json" not in media:
            return Said(status == 200, "", raw.decode("utf-8-sig", "replace"), {})
        try:
            body = json.loads(raw)
        except ValueError:
            raise ClientError(f"{self.address.url} answers {status} without JSON: is it the kboss port?") from None
        if not isinstance(body, dict) or "status" not in body:
            raise ClientError(f"{self.address.url} is no kboss API (its port is 8088 unless configured otherwise)")
        text = str(body.get("msg") or body.get("info") or "")
        if status in (401, 403):
            raise NotAllowed(text)
        return Said(status == 200 and body["status"] is True, text or f"HTTP {status}", body.get("data"), body)

    def _post(self, path: str, params: Mapping[str, Any]) -> tuple[int, str, bytes]:
        parts = urlsplit(self.address.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._timeout_s)
        form = urlencode([(name, _text(value)) for name, value in params.items() if value is not None])
        try:
            connection.request("POST", parts.path.rstrip("/") + path, body=form.encode(), headers=self._headers)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read()
        except (http.client.HTTPException, OSError) as error:
            raise NoAnswer(f"no answer from {self.address.url} ({_reason(error)}); the address is from {self.address.origin}\n"
                           f"  name another one: --server URL, {VARIABLE}") from None
        finally:
            connection.close()


def locate(server: str | None, *, state: str | None, key_file: str | None, env: Mapping[str, str] = os.environ) -> CentreApi:
    """The API by --server, CLOUDSCHED_KBOSS_URL, STATE/server.json, 127.0.0.1:8088 (shifted). Raises ClientError."""
    address = _address(server, state, env)
    return CentreApi(address, find_key(key_file, state, address=address, env=env))


def _address(server: str | None, state: str | None, env: Mapping[str, str]) -> Address:
    if server or (env.get(VARIABLE) and not state):
        url, origin = (server, "--server") if server else (env[VARIABLE], VARIABLE)
        return Address(_checked(url or "", origin), origin)
    path = os.path.join(state_dir(state, env=env), "server.json")
    try:
        with open(path, encoding="utf-8") as file:
            found = urlsplit(json.load(file)["listeners"]["kboss"])
        host = found.hostname or "127.0.0.1"
        host = _EVERYWHERE.get(host, host)
        return Address(f"http://{f'[{host}]' if ':' in host else host}:{found.port}", path)
    except (OSError, ValueError, KeyError, TypeError):
        offset = env.get("CLOUDSCHED_PORT_OFFSET") or "0"
        port = DEFAULT_PORT + (int(offset) if offset.isdigit() else 0)
        return Address(f"http://127.0.0.1:{port}", "the default")


def _checked(url: str, origin: str) -> str:
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ClientError(f"{origin}: {url!r} is no server address (allowed: http://HOST:PORT or https://HOST:PORT)")
    return text.rstrip("/")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "unknown host name"
    return getattr(error, "strerror", None) or type(error).__name__
