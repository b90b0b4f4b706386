"""What do the options of a Kubernetes cloud say? Read once, each wrong one refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudsched.drivers.base import Place
from cloudsched.errors import Invalid

CARRIED, IN_IMAGE = "carried", "image"
_LOG_LEVELS = ("debug", "info", "warning", "error")
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Options:
    """Times in seconds. `agent`: `carried` in a configuration map, or already in the `image`."""

    kubeconfig: str = ""
    context: str = ""
    in_cluster: bool = False
    allow_exec: bool = False
    namespace: str = ""
    create_namespace: bool = False
    image: str = "python:3-slim"
    agent: str = CARRIED
    server_url: str = ""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    resources: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    priority_class: str = ""
    pull_secrets: tuple[str, ...] = ()
    instance_type_label: str = ""  # which node label an instance type chooses; empty: none, as most jobs name a default
    run_as_user: int = 65534
    timeout_s: float = 30.0
    destroy_timeout_s: float = 60.0
    pending_timeout_s: float = 300.0
    orphan_timeout_s: float = 600.0
    grace_s: int = 10
    log_level: str = "info"
    tags: str = ""


def read(place: Place) -> Options:
    """Invalid, with the option's name, when one cannot be used. Text is taken apart where a list or map is wanted, as
    configuration files have nothing else."""
    given = {name: place.options[name] for name in _READERS if place.options.get(name) not in (None, "")}
    options = Options(**{name: _READERS[name](value, name) for name, value in given.items()})
    if options.namespace and (not _LABEL.fullmatch(options.namespace) or len(options.namespace) > 63):
        raise Invalid.at("namespace", f"{options.namespace!r} is not a namespace", "lower-case letters, digits and '-'")
    if options.agent not in (CARRIED, IN_IMAGE):
        raise Invalid.at("agent", f"{options.agent!r} is not a way the agent comes", f"{CARRIED}, {IN_IMAGE}")
    if options.log_level not in _LOG_LEVELS:
        raise Invalid.at("log_level", f"{options.log_level!r} is not a level", ", ".join(_LOG_LEVELS))
    if options.in_cluster and (options.kubeconfig or place.credentials.get("kubeconfig")):
        raise Invalid.at("in_cluster", "cannot be used together with a kubeconfig")
    return options


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Invalid.at(name, f"{value!r} is not text")
    return value.strip()


def _flag(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower()
    if word not in ("true", "yes", "1", "on", "false", "no", "0", "off"):
        raise Invalid.at(name, f"{value!r} is not a switch", "true, false")
    return word in ("true", "yes", "1", "on")


def _seconds(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < 1e9 or isinstance(value, bool):
        raise Invalid.at(name, f"{value!r} is not a number of seconds", "more than 0")
    return number


def _count(value: Any, name: str) -> int:
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not 0 <= number < 2**31:
        raise Invalid.at(name, f"{value!r} is not a whole number", "0 or more")
    return number


def _map(value: Any, name: str) -> dict[str, str]:
    """A map, its JSON, or `a=b,c=d`."""
    value = _structured(value)
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not sign for _, sign, _ in pairs):
            raise Invalid.at(name, f"{value!r} cannot be read", "a=b,c=d")
        value = {key.strip(): one.strip() for key, _, one in pairs}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) and isinstance(one, str | int | float)
                                                 for key, one in value.items()):
        raise Invalid.at(name, f"{value!r} is not a map of texts", "a=b,c=d")
    return {key: str(one) for key, one in value.items()}


def _names(value: Any, name: str) -> tuple[str, ...]:
    value = _structured(value)
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(one, str) for one in parts):
        raise Invalid.at(name, f"{value!r} is not a list of names", "a,b")
    names = tuple(one.strip() for one in parts if one.strip())
    for one in names:
        _object_name(one, name)
    return names


def _object_name(value: Any, name: str) -> str:
    text = _text(value, name)
    if not _NAME.fullmatch(text) or len(text) > 253:
        raise Invalid.at(name, f"{text!r} is not a name", "lower-case letters, digits, '-' and '.'")
    return text


def _tolerations(value: Any, name: str) -> tuple[Mapping[str, Any], ...]:
    """A list of tolerations, its JSON, or `key=value:Effect,key:Effect,key`."""
    value = _structured(value)
    parts = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise Invalid.at(name, f"{value!r} is not a list", "key=value:Effect,key:Effect")
    return tuple(_toleration(one, name) for one in parts)


def _toleration(one: Any, name: str) -> Mapping[str, Any]:
    if isinstance(one, Mapping):
        effect = one.get("effect", "")
        made = dict(one)
    else:
        key, _, effect = str(one).partition(":")
        key, sign, text = key.partition("=")
        made = {"key": key, "operator": "Equal", "value": text} if sign else {"key": key, "operator": "Exists"}
        made |= {"effect": effect} if effect else {}
    if effect and effect not in _EFFECTS:
        raise Invalid.at(name, f"{effect!r} is not an effect of a taint", ", ".join(_EFFECTS))
    return made


def _structured(value: Any) -> Any:
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


_READERS: dict[str, Callable[[Any, str], Any]] = {
    "kubeconfig": _text, "context": _text, "in_cluster": _flag, "allow_exec": _flag, "namespace": _text,
    "create_namespace": _flag, "image": _text, "agent": _text, "server_url": _text, "node_selector": _map,
    "tolerations": _tolerations, "resources": _map, "service_account": _object_name, "priority_class": _object_name,
    "pull_secrets": _names, "instance_type_label": _text,
    "run_as_user": _count, "timeout_s": _seconds, "destroy_timeout_s": _seconds,
    "pending_timeout_s": _seconds, "orphan_timeout_s": _seconds, "grace_s": _count, "log_level": _text, "tags": _text,
}
