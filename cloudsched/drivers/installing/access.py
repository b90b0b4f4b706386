"""Which host, and how does one get in? What a call of the executor is given, checked, as a target for SSH."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from cloudsched.drivers.ssh.targets import Target, is_key_text, number, split_host, target_from
from cloudsched.errors import Invalid

_SECRET = ("password", "key", "key_passphrase")


@dataclass(frozen=True)
class Access:
    """An account on a host. `key`: a private key or its path, where there is no password; `host_key`: a pinned key, else the
    first one seen is kept. An account other than root becomes root by sudo unless all is done below an own directory."""

    host: str
    port: int = 22
    user: str = "root"
    password: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    key_passphrase: str = field(default="", repr=False)
    host_key: str = ""

    @property
    def label(self) -> str:
        return self.host if self.port == 22 else f"{self.host}:{self.port}"

    def plain(self) -> dict[str, Any]:
        """What may be written down as it is."""
        return {name: value for name, value in asdict(self).items() if name not in _SECRET}

    def to_json(self) -> str:
        """All of it: to be sealed."""
        return json.dumps(asdict(self))

    def target(self, *, pins: str, sudo: bool = False) -> Target:
        """How SSH gets in; `pins`: the file that collects host keys. Raises Invalid naming the field."""
        options: dict[str, Any] = {"user": self.user, "port": self.port, "sudo": sudo and self.user != "root",
                                   "host_key": self.host_key}
        credentials = {"password": self.password, "key": self.key, "key_passphrase": self.key_passphrase}
        if options["sudo"]:
            credentials["sudo_password"] = self.password
        return target_from(options, credentials, self.host, pins=pins)


def access_from(given: Mapping[str, Any]) -> Access:
    """`host`, `port` (a number or its text), `user`, `password`, and `key`, `key_passphrase`, `host_key`. Raises Invalid."""
    unknown = set(given) - set(Access.__dataclass_fields__)
    if unknown:
        raise Invalid.at(sorted(unknown)[0], "is nothing that leads to a host", ", ".join(Access.__dataclass_fields__))
    text = {name: str(given.get(name) or "").strip() for name in ("host", "user", "host_key")}
    if not text["host"]:
        raise Invalid.at("host", "is missing", "the name or address of the host")
    user, host, port = split_host(text["host"])
    secret = {name: str(given.get(name) or "") for name in _SECRET}
    if secret["key"] and not is_key_text(secret["key"]):  # a path would be one of this server's own files
        raise Invalid.at("key", "is not the text of a private key", "PEM or OpenSSH text")
    access = Access(host, port or number(given, "port", 22, low=1, high=65535), text["user"] or user or "root",
                    host_key=text["host_key"], **secret)
    if not (access.password or access.key):
        raise Invalid.at("password", "is missing", "the account's password, or a key")
    access.target(pins="")
    return access
