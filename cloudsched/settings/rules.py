"""Which settings cannot stand together? Pure rules over one `Settings`; each refusal says what to set."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

from cloudsched.errors import FieldError

from .sections import Settings

TOKEN_MIN = 4
# Dialects that carry no authentication of their own -> the key with their allow-list.
FENCED = {"cloud_scheduler": "access.cloud_scheduler_networks", "logkit": "access.logkit_networks",
          "dcluster": "access.dcluster_networks"}


def contradictions(settings: Settings) -> list[FieldError]:
    """Everything that must be mended before a server may start."""
    return [error for rule in _RULES for error in rule(settings)]


def is_loopback(host: str) -> bool:
    """Is this bind address reachable from this machine alone?"""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def keys_always(settings: Settings) -> bool:
    """Must every caller of the native API have a key, whether or not keys exist yet?"""
    native = settings.listener("native")
    beyond = native is not None and not is_loopback(native.host)
    return settings.access.require_keys == "yes" or (settings.access.require_keys == "auto" and beyond)


def retire_cluster_keys(settings: Settings) -> bool:
    """Must callers of the retire_cluster dialect have a key, whether or not the system has keys of its own?

    With `auto` the first key in force asks for keys too (`services.access.Gate.needs_key`).
    """
    section, listener = settings.retire_cluster, settings.listener("retire_cluster")
    beyond = listener is not None and not is_loopback(listener.host) and not settings.access.retire_cluster_networks
    return section.auth == "yes" or (section.auth == "auto" and (bool(section.api_keys) or beyond))


def _binding(settings: Settings) -> list[FieldError]:
    errors = []
    for dialect, key in FENCED.items():
        open_to = sorted({item.host for item in settings.listeners()
                          if item.dialect == dialect and not is_loopback(item.host)})
        if open_to and not settings.value(key):
            errors.append(FieldError(
                f"listen.{dialect}_bind", f"the {dialect} dialect has no keys of its own and would listen on "
                f"{', '.join(open_to)}; set {key} to the networks that may call it, or bind 127.0.0.1"))
    native = settings.listener("native")
    if native and not is_loopback(native.host) and settings.access.require_keys == "no":
        errors.append(FieldError(
            "access.require_keys", f"the native API would listen on {native.host} without keys; set "
            "access.require_keys to yes, or bind 127.0.0.1"))
    return errors


def _retire_cluster(settings: Settings) -> list[FieldError]:
    """Contract 5, 12.7: what must be said before anybody beyond this machine is listened to."""
    section, errors = settings.retire_cluster, []
    http, tcp = settings.listener("retire_cluster"), settings.listener("retire_cluster_tcp")
    if section.auth == "yes" and not section.api_keys:
        errors.append(FieldError("retire_cluster.api_keys", "retire_cluster.auth is on, but there is no key: set at least one, "
                                 "or set retire_cluster.auth to auto"))
    if http and not is_loopback(http.host) and section.auth == "no" and not settings.access.retire_cluster_networks:
        errors.append(FieldError(
            "retire_cluster.auth", f"the retire_cluster dialect would listen on {http.host} without keys; set "
            "retire_cluster.auth to yes or auto, set access.retire_cluster_networks to those that may call, or bind 127.0.0.1"))
    if tcp and not is_loopback(tcp.host) and not section.join_token and not section.allow_legacy_workers:
        errors.append(FieldError(
            "listen.retire_cluster_bind", f"native workers would be listened to on {tcp.host} without a token; set "
            "retire_cluster.join_token, allow those that only report with retire_cluster.allow_legacy_workers, set "
            "listen.retire_cluster_tcp to 0, or bind 127.0.0.1"))
    if section.join_token and len(section.join_token) < TOKEN_MIN:
        errors.append(FieldError("retire_cluster.join_token", f"is too short; use at least {TOKEN_MIN} characters"))
    errors += [FieldError("retire_cluster.api_keys", f"key {number} is too short; use at least {TOKEN_MIN} characters")
               for number, key in enumerate(section.api_keys, start=1) if len(_plain_key(key)) < TOKEN_MIN]
    if section.offline_threshold_s < section.heartbeat_interval_s:
        errors.append(FieldError("retire_cluster.offline_threshold_s", "must be at least retire_cluster.heartbeat_interval_s "
                                 f"({section.heartbeat_interval_s})"))
    return errors


def _plain_key(text: str) -> str:
    key, colon, level = text.rpartition(":")
    return key if colon and level in ("read", "write", "admin") else text


def _ports(settings: Settings) -> list[FieldError]:
    errors = []
    taken: dict[int, str] = {}
    for item in settings.listeners():
        if item.port > 65535:
            errors.append(FieldError("listen.port_offset", f"moves listen.{item.name} to port {item.port}; "
                                     "the highest port is 65535"))
        elif item.port in taken:
            errors.append(FieldError(f"listen.{item.name}", f"has the same port {item.port} as "
                                     f"listen.{taken[item.port]}; each listener needs its own"))
        taken.setdefault(item.port, item.name)
    if not taken:
        errors.append(FieldError("listen", "every port is 0: nothing would listen; set at least one"))
    return errors


def _database(settings: Settings) -> list[FieldError]:
    scheme = settings.database.url.partition(":")[0]
    if scheme not in ("sqlite", "postgresql", "postgres"):
        return [FieldError("database.url", f"starts with {scheme!r}; allowed are sqlite:///FILE and "
                           "postgresql://USER:PASSWORD@HOST/NAME")]
    if scheme == "sqlite" and not settings.database.url.startswith("sqlite:///"):
        return [FieldError("database.url", "an SQLite URL has three slashes before the file: sqlite:///FILE")]
    if scheme == "sqlite" and settings.web.workers > 1:
        return [FieldError("web.workers", "more than 1 web process needs PostgreSQL: set database.url to a "
                           "postgresql:// URL, or web.workers to 1")]
    return []


def _times(settings: Settings) -> list[FieldError]:
    agent, web = settings.agent, settings.web
    errors = []
    if agent.heartbeat_s * 2 > agent.lease_s:
        errors.append(FieldError("agent.heartbeat_s", f"must be at most half of agent.lease_s "
                                 f"({agent.lease_s:g}), or one lost request loses the job"))
    if agent.long_poll_s > web.long_poll_max_s:
        errors.append(FieldError("agent.long_poll_s", "must be at most web.long_poll_max_s "
                                 f"({web.long_poll_max_s:g})"))
    if web.long_poll_waiting_max >= web.threads:
        errors.append(FieldError("web.long_poll_waiting_max", f"must be less than web.threads "
                                 f"({web.threads}), or held requests leave no thread for others"))
    return errors


def _public_url(settings: Settings) -> list[FieldError]:
    url = settings.listen.public_url
    if not url:
        return []
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.password
    except ValueError:
        fine = False
    return [] if fine else [FieldError("listen.public_url", "must be http:// or https:// with a host and no "
                                       "password")]


_RULES: tuple[Callable[[Settings], list[FieldError]], ...] = (
    _binding, _retire_cluster, _ports, _database, _times, _public_url)
