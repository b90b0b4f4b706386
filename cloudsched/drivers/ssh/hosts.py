"""Which hosts are in the pool, how is each reached, and how much of it may be used?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloudsched.drivers.base import Place
from cloudsched.drivers.ssh.targets import Target, number, split_host, target_from
from cloudsched.errors import Invalid

LIMITS = ("cores", "memory_mb", "storage_gb", "machines")
_OWN = ("host", "port", "user", "key", "use_agent", "sudo", "jump", "host_key", "known_hosts", "host_key_policy",
        "connect_timeout_s")  # fmt: skip
HOST_KEYS = (*_OWN, "work_dir", "python", *LIMITS)


@dataclass(frozen=True)
class Host:
    """One host of the pool. `work_dir` '' is the usual one, `python` '' the first that fits; a limit of 0 is what it has.
    `leaving`: it is no longer in the configuration, but machines of ours are remembered there."""

    target: Target
    work_dir: str = ""
    python: str = ""
    cores: int = 0
    memory_mb: int = 0
    storage_gb: int = 0
    machines: int = 0
    leaving: bool = False

    @property
    def label(self) -> str:
        """Its name in messages and results."""
        return self.target.label

    @property
    def limits(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in LIMITS}


def hosts_of(place: Place) -> list[Host]:
    """The option `hosts` (a list of `host[:port]` or of tables, or text with commas or as JSON) with the options of the
    cloud as defaults. Raises Invalid naming the entry and the field."""
    given = _listed(place.options.get("hosts"))
    if not given:
        raise Invalid.at("hosts", "is missing", "a list of hosts: host, host:port, or tables with host, port, user, cores, ...")
    found: dict[str, Host] = {}
    for index, entry in enumerate(given):
        try:
            host = _host(entry, place)
        except Invalid as error:
            raise Invalid.at(f"hosts[{index}]", error.message) from None
        if host.label in found:
            raise Invalid.at(f"hosts[{index}]", f"{host.label} is there twice")
        found[host.label] = host
    return list(found.values())


def leaving_host(label: str, place: Place) -> Host | None:
    """A host that was taken out of the option, reached by the cloud's own options; None when these do not fit."""
    try:
        return replace(_host(label, place), leaving=True)
    except Invalid:
        return None


def pin_file(place: Place) -> str:
    """Where host keys of this cloud are pinned on first use; '' without a state directory."""
    return str(state_folder(place) / f"known_hosts-{plain_name(place.name)}") if place.state_dir else ""


def state_folder(place: Place) -> Path:
    """Where an SSH cloud remembers things."""
    return Path(place.state_dir).absolute() / "ssh"


def plain_name(name: str) -> str:
    """Any name as a file name: readable where possible."""
    plain = quote(name, safe=" ").replace(" ", "+").replace("~", "%7E")
    if len(plain) <= 120 and not plain.startswith("."):
        return plain
    return plain.lstrip(".")[:80] + "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _host(entry: Any, place: Place) -> Host:
    table = dict(entry) if isinstance(entry, Mapping) else {"host": entry}
    unknown = sorted(set(table) - set(HOST_KEYS))
    if unknown:
        raise Invalid.at(unknown[0], "is not known here", ", ".join(HOST_KEYS))
    if not isinstance(table.get("host"), str) or not table["host"].strip():
        raise Invalid.at("host", "is missing", "the name or address of the host")
    options = {name: place.options[name] for name in _OWN if name in place.options and name != "host"}
    options |= {name: value for name, value in table.items() if name in _OWN and value is not None}
    if "known_hosts" in table and "host_key_policy" not in table:
        options.pop("host_key_policy", None)
    _, name, port = split_host(table["host"])
    label = Target(name, port or number(options, "port", 22, low=1, high=65535)).label
    target = target_from(options, _credentials(place.credentials, label), table["host"], pins=pin_file(place))
    work_dir, python = (str(table.get(one) or place.options.get(one) or "") for one in ("work_dir", "python"))
    if work_dir and not work_dir.startswith(("/", "~/")):
        raise Invalid.at("work_dir", f"{work_dir!r} is not an absolute path", "/path or ~/path")
    return Host(target, work_dir, python, *(number(table, one, 0, low=0, high=2**31) for one in LIMITS))


def _credentials(given: Mapping[str, str], label: str) -> dict[str, str]:
    """Those of the cloud, with `password@host` and the like of that host over them."""
    common = {name: value for name, value in given.items() if "@" not in name}
    own = {name.split("@", 1)[0]: value for name, value in given.items() if name.endswith(f"@{label}")}
    return {**common, **own}


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str):
        text = given.strip()
        if text.startswith("["):
            try:
                given = json.loads(text)
            except ValueError:
                given = text  # [v6]:port
        if isinstance(given, str):
            return [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    if given is not None and not isinstance(given, list | tuple):
        raise Invalid.at("hosts", f"{type(given).__name__} is no list", "a list of hosts")
    return list(given or [])
