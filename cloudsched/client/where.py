"""Which server is meant, and with which key? Flag, environment, what the instance wrote, default: in this
order."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from cloudsched.client.errors import ClientError
from cloudsched.client.http import Client

DEFAULT_PORT = 8100
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


class Address(NamedTuple):
    """A server address and where it was found (told when the server is away)."""

    url: str
    origin: str


def locate(
    server: str | None = None,
    *,
    state: str | None = None,
    key_file: str | None = None,
    timeout_s: float = 30.0,
    env: Mapping[str, str] = os.environ,
) -> Client:
    """A `Client` for the server and key found by the rules of this module. ClientError: an unusable address
    or key."""
    address = find_server(server, state, env=env)
    key = find_key(key_file, state, address=address, env=env)
    return Client(address.url, key, timeout_s=timeout_s, user=login_name(env))


def state_dir(state: str | None = None, *, env: Mapping[str, str] = os.environ) -> str:
    """--state, CLOUDSCHED_STATE, else /var/lib/cloudsched for root and ~/.local/state/cloudsched for others."""
    if state:
        return os.path.abspath(state)
    if env.get("CLOUDSCHED_STATE"):
        return os.path.abspath(env["CLOUDSCHED_STATE"])
    if os.geteuid() == 0:
        return "/var/lib/cloudsched"
    return os.path.join(env.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "cloudsched")


def find_server(
    server: str | None, state: str | None = None, *, env: Mapping[str, str] = os.environ
) -> Address:
    """--server, CLOUDSCHED_SERVER_URL, STATE/server.json, then 127.0.0.1:(8100 + CLOUDSCHED_PORT_OFFSET)."""
    if server:
        return Address(_checked(server, "--server"), "--server")
    if env.get("CLOUDSCHED_SERVER_URL") and not state:
        return Address(
            _checked(env["CLOUDSCHED_SERVER_URL"], "CLOUDSCHED_SERVER_URL"), "CLOUDSCHED_SERVER_URL"
        )
    written = _written_url(state_dir(state, env=env))
    if written:
        return written
    offset = env.get("CLOUDSCHED_PORT_OFFSET") or "0"
    if not offset.lstrip("-").isdigit() or not 0 < DEFAULT_PORT + int(offset) < 65536:
        raise ClientError(
            f"CLOUDSCHED_PORT_OFFSET: {offset!r} is no usable offset (allowed: whole numbers, e.g. 100)"
        )
    return Address(f"http://127.0.0.1:{DEFAULT_PORT + int(offset)}", "the default")


def find_key(
    key_file: str | None,
    state: str | None = None,
    *,
    address: Address,
    env: Mapping[str, str] = os.environ,
) -> str | None:
    """--key-file, CLOUDSCHED_KEY, STATE/admin.key. The last one is this instance's own: it is never sent
    elsewhere than to a loopback address or to the address which that instance wrote down itself.
    """
    if key_file:
        return _read_key(key_file)
    if env.get("CLOUDSCHED_KEY"):
        return env["CLOUDSCHED_KEY"].strip()
    directory = state_dir(state, env=env)
    written = _written_url(directory)
    if urlsplit(address.url).hostname not in _LOOPBACK and (written is None or written.url != address.url):
        return None
    path = os.path.join(directory, "admin.key")
    return _read_key(path) if os.access(path, os.R_OK) else None


def login_name(env: Mapping[str, str] = os.environ) -> str | None:
    """The name of the person at the keyboard (the user of jobs when the key does not say another)."""
    for name in ("LOGNAME", "USER"):
        if env.get(name):
            return env[name]
    import pwd  # only where the environment does not tell

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def _written_url(directory: str) -> Address | None:
    path = os.path.join(directory, "server.json")
    try:
        with open(path, encoding="utf-8") as file:
            url = json.load(file)["native_url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no instance there (yet): the default address is told when it does not answer
    return Address(_checked(str(url), path), path)


def _checked(url: str, origin: str) -> str:
    if "://" not in url:
        url = "http://" + url
    try:
        parts = urlsplit(url)
        good = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
        )
    except ValueError:
        good = False
    if not good:
        raise ClientError(
            f"{origin}: {url!r} is no server address (allowed: http://HOST:PORT or https://HOST:PORT)"
        )
    return url.rstrip("/")


def _read_key(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            key = file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(
            f"key file {path}: {getattr(error, 'strerror', None) or 'not a text file'}"
        ) from None
    if not key or not key.isprintable() or " " in key:
        raise ClientError(f"key file {path}: no key in it (allowed: one line holding the key)")
    return key
