"""What may be asked for when a cluster is installed? Options of the call and of the host itself, read once, checked by name.

The host's own come from `options` in the work directory there (lines of `name=value`), for what only its administrator knows;
those of the call count before them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers.ssh.targets import flag, number
from cloudsched.errors import Invalid

FOUND, APT, BUNDLE = "found", "apt", "bundle"
PROCESSES, CGROUP = "processes", "cgroup"
KUBERNETES_VERSION = "1.31.4"
STEP_LIMIT_S = 1800.0

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")
_CLUSTER = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}\Z")
_PATH = re.compile(r"/[A-Za-z0-9_.@+-]+(/[A-Za-z0-9_.@+-]+)*\Z")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[A-Za-z0-9._~/%+-]*)?\Z")
_ADDRESS = re.compile(r"[A-Za-z0-9.:-]{1,253}\Z")
_VERSION = re.compile(r"\d+\.\d+\.\d+\Z")
_CIDR = re.compile(r"[0-9a-fA-F.:]+/\d{1,3}\Z")
_IMAGES = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*\Z")


@dataclass(frozen=True)
class Options:
    """Everything has a default. Slurm: `prefix` (a directory that holds all of it, for hosts without root's rights, or several
    on one machine; empty: where the distribution has it), ports, `cores`, `memory_mb`, `gpus` of the host (0: as found),
    `isolation`, `compute` (the controller runs jobs as well). Kubernetes: version, mirror, networks, CNI manifest."""

    node_name: str = ""
    address: str = ""
    packages: str = FOUND
    bundle: str = ""
    step_limit_s: float = STEP_LIMIT_S
    # Slurm
    cluster_name: str = "cluster"
    prefix: str = ""
    slurmctld_port: int = 6817
    slurmd_port: int = 6818
    cores: int = 0
    memory_mb: int = 0
    gpus: int = 0
    isolation: str = PROCESSES
    compute: bool = False
    # Kubernetes
    version: str = KUBERNETES_VERSION
    mirror: str = ""
    mirror_key: str = ""
    images: str = ""
    pod_network: str = "10.244.0.0/16"
    service_network: str = "10.96.0.0/12"
    cni_manifest: str = ""
    swap_off: bool = True


def read(given: Mapping[str, Any]) -> Options:
    """Raises Invalid for the first option that is not known or not right."""
    unknown = sorted(set(given) - set(Options.__dataclass_fields__) - {"dry_run"})
    if unknown:
        raise Invalid.at(f"options.{unknown[0]}", "is no option", ", ".join(Options.__dataclass_fields__))
    try:
        return _checked(given)
    except Invalid as error:
        first = error.errors[0]
        raise Invalid.at(f"options.{first.field}", first.message, first.allowed) from None


def parse_host_options(text: str) -> dict[str, str]:
    """`name=value` lines; comments and what is no option are left out."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    found = {name.strip(): value.strip() for name, _, value in pairs}
    return {name: value for name, value in found.items() if name in Options.__dataclass_fields__}


def node_name(text: str, field: str = "node_name") -> str:
    """The name of a node, as Kubernetes and Slurm both take it. Raises Invalid."""
    if not _NAME.match(text):
        raise Invalid.at(field, f"{text!r} is not the name of a node",
                         "1 to 63 of a-z, 0-9 and '-', a letter or digit first and last")
    return text


def _checked(given: Mapping[str, Any]) -> Options:
    prefix = _text(given, "prefix", _PATH, "an absolute path of plain characters")
    if prefix and (prefix.count("/") < 2 or "/.." in prefix):
        raise Invalid.at("prefix", f"{prefix!r} is not a directory of its own", "such as /srv/slurm")
    packages = _word(given, "packages", (FOUND, APT, BUNDLE))
    bundle = _text(given, "bundle", _PATH, "an absolute path on the host")
    if packages == BUNDLE and not bundle:
        raise Invalid.at("bundle", "is missing", "the directory on the host that holds the packages")
    return Options(
        node_name=node_name(str(given["node_name"])) if given.get("node_name") else "",
        address=_text(given, "address", _ADDRESS, "a name or address that the other hosts reach it by"),
        packages=packages, bundle=bundle,
        step_limit_s=number(given, "step_limit_s", STEP_LIMIT_S, low=5, high=86_400),
        cluster_name=_text(given, "cluster_name", _CLUSTER, "1 to 40 of a-z, 0-9, '_' and '-'") or Options.cluster_name,
        prefix=prefix, slurmctld_port=_port(given, "slurmctld_port"), slurmd_port=_port(given, "slurmd_port"),
        cores=number(given, "cores", 0, low=0, high=65_535), memory_mb=number(given, "memory_mb", 0, low=0, high=2**31),
        gpus=number(given, "gpus", 0, low=0, high=1024), isolation=_word(given, "isolation", (PROCESSES, CGROUP)),
        compute=flag(given, "compute"),
        version=_text(given, "version", _VERSION, "such as 1.31.4").removeprefix("v") or KUBERNETES_VERSION,
        mirror=_text(given, "mirror", _URL, "the URL of a package repository"),
        mirror_key=_text(given, "mirror_key", _PATH, "the path of the repository's key on the host"),
        images=_text(given, "images", _IMAGES, "a registry such as mirror.example/kubernetes"),
        pod_network=_text(given, "pod_network", _CIDR, "such as 10.244.0.0/16") or Options.pod_network,
        service_network=_text(given, "service_network", _CIDR, "such as 10.96.0.0/12") or Options.service_network,
        cni_manifest=_text(given, "cni_manifest", _PATH, "the path of a manifest on the host"),
        swap_off=flag(given, "swap_off", True))  # fmt: skip


def _port(given: Mapping[str, Any], name: str) -> int:
    return int(number(given, name, getattr(Options, name), low=1, high=65_535))


def _word(given: Mapping[str, Any], name: str, words: tuple[str, ...]) -> str:
    word = str(given.get(name) or words[0])
    if word not in words:
        raise Invalid.at(name, f"{word!r} is not allowed", ", ".join(words))
    return word


def _text(given: Mapping[str, Any], name: str, form: re.Pattern[str], allowed: str) -> str:
    text = str(given.get(name) or "").strip()
    if text and not form.match(text):
        raise Invalid.at(name, f"{text[:80]!r} is not allowed", allowed)
    return text
