"""Which kinds of places are there, and who drives them? Kinds are loaded when first asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from cloudsched.drivers.base import Driver, Place
from cloudsched.errors import Invalid

Factory = Callable[[Place], Driver]

# Kind (any case) -> module and factory in it. A module imports its cloud's library, so it is loaded late.
_MODULES: dict[str, tuple[str, str]] = {
    "Local": ("cloudsched.drivers.local", "make"),
    "Fake": ("cloudsched.drivers.fake", "make"),
    "SSH": ("cloudsched.drivers.ssh", "make"),
    "Slurm": ("cloudsched.drivers.slurm", "make"),
    "Kubernetes": ("cloudsched.drivers.kubernetes", "make"),
    "AmazonEC2": ("cloudsched.drivers.ec2", "make"),
    "OpenStack": ("cloudsched.drivers.ec2", "make"),
    "Eucalyptus": ("cloudsched.drivers.ec2", "make"),
    "OpenStackNative": ("cloudsched.drivers.openstack", "make"),
}
_factories: dict[str, Factory] = {}


def kinds() -> list[str]:
    """Names of all kinds, as they are shown."""
    return sorted({*_MODULES, *_factories})


def canonical(kind: str) -> str:
    """The kind as it is shown; Invalid (field `kind`) when there is none of that name."""
    for name in kinds():
        if name.lower() == str(kind).strip().lower():
            return name
    raise Invalid.at("kind", f"{kind!r} is not a kind of cloud", ", ".join(kinds()))


def make(place: Place) -> Driver:
    """The driver of `place`; Invalid when its kind is unknown or an option of it is wrong."""
    return factory(place.kind)(place)


def options(kind: str) -> tuple[str, ...] | None:
    """The options that a place of this kind can have; None where its driver alone knows."""
    module, _ = _MODULES.get(canonical(kind), ("", ""))
    return getattr(importlib.import_module(module), "OPTIONS", None) if module else None


def factory(kind: str) -> Factory:
    """The factory of a kind."""
    name = canonical(kind)
    if name not in _factories:
        module, attribute = _MODULES[name]
        _factories[name] = getattr(importlib.import_module(module), attribute)
    return _factories[name]


def register(kind: str, made_by: Factory) -> None:
    """Add a kind, or replace one (a fake with a stepped clock, in tests)."""
    name = next((one for one in kinds() if one.lower() == kind.lower()), kind)
    _factories[name] = made_by
