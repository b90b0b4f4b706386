"""What may be said of a Slurm cloud? Its options and credentials, read once and checked by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudsched.drivers.base import Place
from cloudsched.drivers.given import Given
from cloudsched.errors import Invalid

# Read by the SSH connection, when there is a `host`.
SSH_KEYS = ("user", "port", "key", "use_agent", "sudo", "jump", "host_key", "known_hosts", "host_key_policy",
            "connect_timeout_s")  # fmt: skip
REST_VERSIONS = ("v0.0.37", "v0.0.38", "v0.0.39", "v0.0.40", "v0.0.41")
LOG_LEVELS = ("debug", "info", "warning", "error")
DAY_S = 86_400

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_WORD = re.compile(r"[^\s,\x00-\x1f]+\Z")


@dataclass(frozen=True)
class SlurmOptions:
    """One cluster and how pilots are asked for on it; `make` in the package says what each option means."""

    partition: str
    account: str
    qos: str
    constraint: str
    reservation: str
    time_limit_s: int
    drain_s: int
    work_dir: str
    scratch_dir: str
    python: str
    run_as: str
    orphan_timeout_s: float
    log_level: str
    tags: str
    bin_dir: str
    env: Mapping[str, str]
    command_limit_s: float
    destroy_limit_s: float
    host: str
    ssh: Mapping[str, Any]
    rest_url: str
    rest_version: str
    rest_user: str
    rest_token: str = field(repr=False)


def read(place: Place) -> SlurmOptions:
    """Raises Invalid for the first option that is wrong or not known."""
    given = Given(place)
    given.ignore("security_group")
    host = given.text("host")
    ssh = {key: place.options[key] for key in SSH_KEYS if key in place.options}
    if ssh and not host:
        raise Invalid.at(next(iter(ssh)), "is for a controller that is reached over SSH", "only together with host")
    given.ignore(*SSH_KEYS)
    constraint, features = given.text("constraint"), given.names("features")
    if constraint and features:
        raise Invalid.at("features", "is given beside constraint", "one of them")
    options = SlurmOptions(
        partition=_word(given, "partition"), account=_word(given, "account"), qos=_word(given, "qos"),
        constraint=_printable("constraint", constraint or "&".join(features)), reservation=_word(given, "reservation"),
        time_limit_s=int(given.number("time_limit_s", 0, low=0, high=365 * DAY_S)),
        drain_s=int(given.number("drain_s", 120, low=0, high=65_535)),
        work_dir=_directory(given, "work_dir"), scratch_dir=_directory(given, "scratch_dir"),
        python=_printable("python", given.text("python", "python3")), run_as=_word(given, "run_as", "auto"),
        orphan_timeout_s=given.number("orphan_timeout_s", 600, low=0, high=1e9),
        log_level=given.text("log_level", "info", allowed=LOG_LEVELS), tags=_printable("tags", ",".join(given.names("tags"))),
        bin_dir=_directory(given, "bin_dir"), env=_variables(given.raw("env")),
        command_limit_s=given.number("command_limit_s", 60, low=1, high=3600),
        destroy_limit_s=given.number("destroy_limit_s", 90, low=1, high=3600),
        host=host, ssh=ssh, rest_url=_rest_url(given), rest_version=given.text("rest_version", "v0.0.38", allowed=REST_VERSIONS),
        rest_user=_word(given, "rest_user"), rest_token=given.secret("rest_token", "token", needed=False))  # fmt: skip
    given.done()
    return _together(options)


def _together(options: SlurmOptions) -> SlurmOptions:
    """What is right alone may be wrong beside another."""
    if options.time_limit_s and options.drain_s >= options.time_limit_s:
        raise Invalid.at("drain_s", f"{options.drain_s} is not before the end", f"less than time_limit_s, {options.time_limit_s}")
    if options.rest_url and options.host:
        raise Invalid.at("rest_url", "is given beside host", "one of them")
    if options.rest_url and options.work_dir:
        raise Invalid.at("work_dir", "cannot be written over REST", "host, or neither: the pilot then carries all it needs")
    if options.rest_token and any(ord(letter) < 33 for letter in options.rest_token):
        raise Invalid.at("credentials.rest_token", "holds blanks or control characters")
    return options


def _word(given: Given, key: str, default: str = "") -> str:
    text = given.text(key, default)
    if text and not _WORD.match(text.replace(",", "") if key in ("partition",) else text):
        raise Invalid.at(key, f"{text!r} is not a name", "no blanks, commas or control characters")
    return text


def _printable(key: str, text: str) -> str:
    if not text.isprintable():
        raise Invalid.at(key, f"{text!r} is not right", "printable characters")
    return text


def _directory(given: Given, key: str) -> str:
    text = given.text(key)
    if text and (not text.startswith("/") or not text.isprintable() or "\\" in text):
        raise Invalid.at(key, f"{text!r} is not a directory", "an absolute path of printable characters, without backslash")
    return text.rstrip("/") or ("/" if text else "")


def _variables(value: Any) -> dict[str, str]:
    """A table, or a text `A=1 B=2`."""
    pairs = value.items() if isinstance(value, Mapping) else (one.partition("=")[::2] for one in str(value or "").split())
    found = {}
    for name, text in pairs:
        if not _VARIABLE.match(str(name)) or isinstance(text, (Mapping, list)) or "\0" in str(text):
            raise Invalid.at("env", f"{name!r} is not a variable with a text", "SLURM_CONF=/etc/slurm/slurm.conf")
        found[str(name)] = str(text)
    return found


def _rest_url(given: Given) -> str:
    text = given.text("rest_url")
    if text and not re.match(r"(https?://[^/?#\s]+(/[^?#\s]*)?|unix:/[^\x00]+)\Z", text):
        raise Invalid.at("rest_url", f"{text!r} is not a URL", "http://host:port, https://host:port or unix:/path")
    return text.rstrip("/")
