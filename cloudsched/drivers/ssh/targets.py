"""Which account on which host is meant, and how does one get in? Options and credentials, read once and checked.

`target_from` is shared by everything that reaches a host: SSH pools, Slurm over SSH, cluster installation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cloudsched.errors import Invalid

PIN, KNOWN_HOSTS = "pin", "known_hosts"
POLICIES = (PIN, KNOWN_HOSTS)
CONNECT_TIMEOUT_S = 10.0
MAX_HOPS = 4

_HOST = re.compile(r"[A-Za-z0-9_.:%-]+\Z")
_USER = re.compile(r"[A-Za-z0-9_.@\\+$-]+\Z")
_HOST_KEY = re.compile(r"(SHA256:[A-Za-z0-9+/]{43}=?|[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}( .*)?)\Z")
_TRUE, _FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0", ""}


@dataclass(frozen=True)
class Target:
    """One account on one host. `key` is the text of a private key or a path; `host_key` one pinned key a line
    (`ssh-ed25519 AAAA...` or `SHA256:...`); `known_hosts` the file that holds, or under the policy `pin` collects, keys.
    With `sudo` every command runs as root. An empty `user` is the one that we run as."""

    host: str
    port: int = 22
    user: str = ""
    password: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    key_passphrase: str = field(default="", repr=False)
    use_agent: bool = False
    sudo: bool = False
    sudo_password: str = field(default="", repr=False)
    jump: Target | None = None
    host_key: str = ""
    known_hosts: str = ""
    host_key_policy: str = PIN
    connect_timeout_s: float = CONNECT_TIMEOUT_S

    @property
    def label(self) -> str:
        """How the host is named in results and messages: `host`, or `host:port` when the port is not 22."""
        if self.port == 22:
            return self.host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never be shown, of the jump hosts as well."""
        own = (self.password, self.key_passphrase, self.sudo_password, self.key if is_key_text(self.key) else "")
        return tuple(one for one in own if one) + (self.jump.secrets if self.jump else ())


def target_from(options: Mapping[str, Any], credentials: Mapping[str, str], host: str, *, pins: str = "") -> Target:
    """The target of `host` (`host`, `host:port`, `user@host:port`, `[v6]:port`).

    Options: `user`, `port`, `key` (a path), `use_agent`, `sudo`, `jump` (`user@host:port`, several with commas, or a
    table of these options with `host`), `host_key`, `known_hosts` (a file; makes the policy `known_hosts`),
    `host_key_policy`, `connect_timeout_s`. Credentials: `password`, `key` (text or path), `key_passphrase`,
    `sudo_password`, and the same with `jump_` before it for the jump hosts (without: the target's own).
    `pins`: the file that collects keys on first use when no `known_hosts` is given. Raises Invalid naming the field.
    """
    user, name, port = split_host(host)
    known_hosts = _text(options, "known_hosts")
    policy = _text(options, "host_key_policy") or (KNOWN_HOSTS if known_hosts else PIN)
    if policy not in POLICIES:
        raise Invalid.at("host_key_policy", f"{policy!r} is no policy", ", ".join(POLICIES))
    if policy == KNOWN_HOSTS and not known_hosts:
        raise Invalid.at("known_hosts", "is missing", "the path of a known_hosts file")
    key = str(credentials.get("key") or _text(options, "key"))
    if "PRIVATE KEY" in _text(options, "key"):
        raise Invalid.at("key", "the text of a private key is a secret", "a path here, or the text in credentials.key")
    target = Target(
        host=name, port=port or number(options, "port", 22, low=1, high=65535), user=user or _user(options),
        password=str(credentials.get("password") or ""), key=key, key_passphrase=str(credentials.get("key_passphrase") or ""),
        use_agent=flag(options, "use_agent"), sudo=flag(options, "sudo"),
        sudo_password=str(credentials.get("sudo_password") or ""), host_key=_host_keys(options.get("host_key")),
        known_hosts=known_hosts or pins, host_key_policy=policy,
        connect_timeout_s=float(number(options, "connect_timeout_s", CONNECT_TIMEOUT_S, low=0.1, high=600)))  # fmt: skip
    return replace(target, jump=_jump(options.get("jump"), target, credentials))


def split_host(text: str) -> tuple[str, str, int]:
    """(user, host, port) of `user@host:port`; '' and 0 for what is not said. Raises Invalid (field `host`)."""
    given = str(text or "").strip()
    user, _, rest = given.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        port = after[1:]
        if not bracket or (after and not after.startswith(":")):
            raise Invalid.at("host", f"{given!r} is not a host", "host, host:port, user@host:port or [v6]:port")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if not _HOST.match(host) or host.startswith("-") or (user and not _USER.match(user)):
        raise Invalid.at("host", f"{given!r} is not a host", "host, host:port, user@host:port or [v6]:port")
    if (rest.endswith(":") and rest.count(":") == 1) or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise Invalid.at("port", f"{port!r} is not a port", "1 to 65535")
    return user, host, int(port or 0)


def is_key_text(key: str) -> bool:
    """A private key itself, not the path of one?"""
    return "-----BEGIN" in key or "PRIVATE KEY" in key


def flag(options: Mapping[str, Any], name: str, default: bool = False) -> bool:
    """An option that is true or false (also as a word). Raises Invalid."""
    value = options.get(name)
    if value is None:
        return default
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise Invalid.at(name, f"{value!r} is neither true nor false", "true, false")
    return word in _TRUE


def number(options: Mapping[str, Any], name: str, default: Any, *, low: float, high: float) -> Any:
    """A numeric option within bounds, of the type of `default` (None: a whole number). Raises Invalid."""
    value = options.get(name)
    if value is None or value == "":
        return default
    kind = float if isinstance(default, float) else int
    try:
        found = kind(str(value).strip()) if not isinstance(value, bool) else None
    except ValueError:
        found = None
    if found is None or not low <= found <= high:
        raise Invalid.at(name, f"{value!r} is not allowed", f"{low:g} to {high:g}")
    return found


def _jump(given: Any, target: Target, credentials: Mapping[str, str]) -> Target | None:
    """The chain of jump hosts: the last of them is the one that reaches the target."""
    if given in (None, "", [], {}):
        return None
    own = {key[5:]: value for key, value in credentials.items() if key.startswith("jump_") and value}
    hops = given if isinstance(given, list | tuple) else [given] if isinstance(given, Mapping) else str(given).split(",")
    if len(hops) > MAX_HOPS:
        raise Invalid.at("jump", f"{len(hops)} hosts", f"at most {MAX_HOPS}")
    found: Target | None = None
    for hop in hops:
        table = dict(hop) if isinstance(hop, Mapping) else {"host": str(hop).strip()}
        try:
            found = replace(_hop(table, target, own or credentials), jump=found)
        except Invalid as error:
            raise Invalid.at("jump", error.message) from None
    return found


def _hop(table: Mapping[str, Any], target: Target, credentials: Mapping[str, str]) -> Target:
    if not table.get("host"):
        raise Invalid.at("host", "is missing", "the name or address of the jump host")
    common = {"user": target.user, "use_agent": target.use_agent, "connect_timeout_s": target.connect_timeout_s,
              "known_hosts": target.known_hosts, "host_key_policy": target.host_key_policy}  # fmt: skip
    if not is_key_text(target.key):
        common["key"] = target.key
    plain = {key: value for key, value in table.items() if key != "jump"}
    made = target_from({**common, **plain}, {**credentials, "sudo_password": ""}, str(table["host"]))
    return replace(made, sudo=False, sudo_password="")


def _user(options: Mapping[str, Any]) -> str:
    user = _text(options, "user")
    if user and not _USER.match(user):
        raise Invalid.at("user", f"{user!r} is not the name of an account")
    return user


def _host_keys(given: Any) -> str:
    lines = given if isinstance(given, list | tuple) else str(given or "").replace(",", "\n").splitlines()
    keys = [str(line).strip() for line in lines if str(line).strip()]
    for key in keys:
        if not _HOST_KEY.match(key):
            raise Invalid.at("host_key", f"{key[:80]!r} is not a public key", "ssh-ed25519 AAAA... or SHA256:...")
    return "\n".join(keys)


def _text(options: Mapping[str, Any], name: str) -> str:
    value = options.get(name)
    if value is None:
        return ""
    if isinstance(value, Mapping | list) or "\0" in str(value):
        raise Invalid.at(name, "must be text")
    return str(value).strip()
