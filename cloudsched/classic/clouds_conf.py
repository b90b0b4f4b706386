"""Which clouds does `cloud_resources.conf` describe?

Contract 6.3. A section that cannot be used is skipped and reported; the others still
load. Next to the original's cloud types stand our own (`Local`, `Fake`, `Kubernetes`,
`Slurm`, `SSH`), which may carry further keys: those go to the driver as options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from .ini import Entry, Section, load
from .keys import (
    SECRET,
    boolean,
    fill,
    integer,
    key_names,
    minutes,
    names,
    optional_boolean,
    optional_integer,
    optional_text,
    text,
)
from .problem import ClassicConfigError, Problem, Secret

UNLIMITED = -1

_EC2_KEYS = ("host", "regions", "security_group", "access_key_id", "secret_access_key")
_GCE_KEYS = ("security_group", "auth_dat_file", "secret_file", "project_id")

# Cloud type as it is shown -> (family a driver serves, keys it cannot do without).
# `memory` is marked as required in the original, but may be missing (B30).
CLOUD_TYPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "AmazonEC2": ("ec2", _EC2_KEYS),
    "Eucalyptus": ("ec2", _EC2_KEYS),
    "OpenStack": ("ec2", _EC2_KEYS),
    "OpenNebula": ("opennebula", ("host", "access_key_id", "secret_access_key")),
    "OpenStackNative": ("openstack", ("auth_url", "username", "password", "tenant_name", "regions",
                                      "security_group")),
    "GoogleComputeEngine": ("gce", _GCE_KEYS),
    "GCE": ("gce", _GCE_KEYS),
    "Azure": ("azure", ("regions", "blob_url")),
    "StratusLab": ("stratuslab", ("host", "contextualization")),
    "Nimbus": ("nimbus", ()),
    "IBMSmartCloud": ("ibm", ()),
    "Local": ("local", ()),
    "Fake": ("fake", ()),
    "Kubernetes": ("kubernetes", ()),
    "Slurm": ("slurm", ()),
    "SSH": ("ssh", ()),
}
OWN_FAMILIES = frozenset({"local", "fake", "kubernetes", "slurm", "ssh"})
# Families of ours whose further keys are known here; those of the others are known to their drivers alone.
OWN_KEYS = {"local": frozenset({"cluster", "log_agent", "log_level", "orphan_timeout_s", "run_as", "tags"})}
IGNORED_KEYS = frozenset({"cpu_archs", "image_attach_device", "scratch_attach_device", "temp_lease_storage",
                          "vm_lifetime", "hypervisor", "vm_domain_name"})
HIDDEN_KEYS = frozenset({"password", "access_key_id", "secret_access_key", "username"})

_LOOKS_SECRET = re.compile(r"(?:^|_)(?:password|passphrase|passwd|token|secret|api_key|private_key)$")
_MAY_BE_EMPTY = frozenset({"security_group"})
_BY_LOWER_NAME = {name.lower(): name for name in CLOUD_TYPES}


@dataclass(frozen=True)
class CloudConf:
    """One usable section.

    `section` is the name as written, `name` the cloud's name (lower case). Memory is in
    MB, storage in GB, `boot_timeout` in seconds; -1 means not limited. `boot_timeout` None:
    the server's `vm_start_running_timeout` counts. `enabled` None: not said, start disabled
    (B31). `gpus`, a key of our own: of each machine; None: not said. `options` holds the
    further keys of our own cloud types, secret-looking ones as `Secret`.
    """

    section: str
    name: str
    cloud_type: str
    file: str = ""
    line: int = 0
    options: Mapping[str, str | Secret] = field(default_factory=dict, hash=False)

    host: str = text()
    port: int = integer(8773, low=1, high=65535)
    vm_slots: int = integer(0, low=0)
    memory: int = integer(UNLIMITED, low=-1)
    storage: int = integer(UNLIMITED, low=-1)
    cpu_cores: int = integer(UNLIMITED, low=-1)
    max_vm_mem: int = integer(UNLIMITED, low=-1)
    gpus: int | None = optional_integer(low=0)
    max_vm_storage: int = integer(UNLIMITED, low=-1)
    total_cpu_cores: int = integer(UNLIMITED, low=-1)
    networks: tuple[str, ...] = names()
    priority: int = integer(0)
    vm_keep_alive_s: int = minutes(0, name="vm_keep_alive", low=0)
    boot_timeout: int | None = optional_integer(low=-1)
    regions: tuple[str, ...] = names()
    security_group: tuple[str, ...] = names()
    key_name: str | None = optional_text()
    placement_zone: str | None = optional_text()
    secure_connection: bool = boolean(False)
    reverse_dns_lookup: bool = boolean(False)
    access_key_id: Secret | None = field(default=None, metadata=SECRET)
    secret_access_key: Secret | None = field(default=None, metadata=SECRET)
    auth_url: str | None = optional_text()
    username: str | None = optional_text()
    password: Secret | None = field(default=None, metadata=SECRET)
    tenant_name: str | None = optional_text()
    user_domain_name: str = text("Default")
    project_domain_name: str = text("Default")
    cacert: str | None = optional_text()
    blob_url: str | None = optional_text()
    service_name: str | None = optional_text()
    keycert: str | None = optional_text()
    auth_dat_file: str | None = optional_text()
    secret_file: str | None = optional_text()
    project_id: str | None = optional_text()
    contextualization: str | None = optional_text()
    enabled: bool | None = optional_boolean()

    @property
    def family(self) -> str:
        """The kind of driver that serves this cloud type, e.g. `ec2` for `Eucalyptus`."""
        return CLOUD_TYPES[self.cloud_type][0]

    @property
    def network_address(self) -> str:
        """The address listings show (contract 6.3, row `host`)."""
        if self.family == "openstack":
            return self.auth_url or ""
        if self.family == "azure":
            return "azure.microsoft.com"
        return self.host or ("localhost" if self.family in ("local", "fake") else "")


@dataclass(frozen=True)
class CloudsFile:
    """A read `cloud_resources.conf`: usable clouds in file order, and why the others are missing."""

    path: str
    clouds: tuple[CloudConf, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_clouds(path: str | Path) -> CloudsFile:
    """Reads the clouds (contract 6.3). Raises ClassicConfigError only for an unreadable file."""
    clouds: dict[str, CloudConf] = {}
    problems: list[Problem] = []
    seen: dict[str, str] = {}
    for section in load(path):
        name = section.name.lower()
        cloud, found = _read_section(section, str(path))
        if name in seen:
            found.append(_problem(section, str(path), f"is the same cloud as [{seen[name]}] above"))
        seen.setdefault(name, section.name)
        problems += found
        if cloud is not None and not found:
            clouds[name] = cloud
    return CloudsFile(str(path), tuple(clouds.values()), tuple(problems))


def raw_sections(path: str | Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Section names as written with (lower-case key, raw value) in file order, for T9.

    Secrets are left out, values are not interpreted (`%` stays, B20). A file that cannot
    be read gives an empty list.
    """
    try:
        sections = load(path)
    except ClassicConfigError:
        return []
    return [(section.name, [(entry.key, entry.value) for entry in section.entries.values()
                            if not is_hidden(entry.key)]) for section in sections]


def is_hidden(key: str) -> bool:
    """Is the value of this lower-case key left out of listings? `password@host` is the password of one host."""
    return key in HIDDEN_KEYS or bool(_LOOKS_SECRET.search(key.partition("@")[0]))


def _read_section(section: Section, file: str) -> tuple[CloudConf | None, list[Problem]]:
    declared = section.entries.get("cloud_type")
    if declared is None:
        return None, [_problem(section, file, "cloud_type is missing", key="cloud_type")]
    cloud_type = _BY_LOWER_NAME.get(declared.value.lower())
    if cloud_type is None:
        known = ", ".join(CLOUD_TYPES)
        return None, [_problem(section, file, f"cloud_type {declared.value!r} is not one of {known}",
                               key="cloud_type", line=declared.line)]
    filled = fill(CloudConf, section, file)
    family = CLOUD_TYPES[cloud_type][0]
    further = [entry for entry in filled.unknown if entry.key not in IGNORED_KEYS | {"cloud_type"}]
    problems = _missing(section, cloud_type, file)
    problems += [_problem(section, file, f"{entry.key} is not a key of {cloud_type} clouds{_hint(entry.key, family)}",
                          key=entry.key, line=entry.line) for entry in further if not _takes(family, entry.key)]
    problems += [Problem(file, f"section skipped: {error.key} must be {_wanted(error)}", section=section.name,
                         key=error.key, line=error.line) for error in filled.errors]
    if problems:
        return None, problems
    return CloudConf(section.name, section.name.lower(), cloud_type, file, section.line + 1,
                     _options(further), **filled.values), []


def _missing(section: Section, cloud_type: str, file: str) -> list[Problem]:
    problems = []
    for key in ("vm_slots", *CLOUD_TYPES[cloud_type][1]):
        entry = section.entries.get(key)
        if entry is None or not (entry.value or key in _MAY_BE_EMPTY):
            problems.append(_problem(section, file, f"{key} is required for {cloud_type} clouds", key=key))
    return problems


def _wanted(error: ClassicConfigError) -> str:
    return error.message.partition(" must be ")[2].removesuffix(".")


def _takes(family: str, key: str) -> bool:
    return family in OWN_FAMILIES and key in OWN_KEYS.get(family, (key,))


def _hint(key: str, family: str) -> str:
    close = get_close_matches(key, [*key_names(CloudConf), "cloud_type", *OWN_KEYS.get(family, ())], n=1, cutoff=0.8)
    return f" (did you mean {close[0]}?)" if close else ""


def _options(entries: list[Entry]) -> dict[str, str | Secret]:
    return {entry.key: Secret(entry.value) if is_hidden(entry.key) else entry.value for entry in entries}


def _problem(section: Section, file: str, why: str, *, key: str | None = None,
             line: int | None = None) -> Problem:
    at = section.line if line is None else line
    return Problem(file, f"section skipped: {why}", section=section.name, key=key, line=at + 1)
