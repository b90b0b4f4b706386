"""How are our objects named and marked? Any node name becomes a DNS label; the full one stays in an annotation."""

from __future__ import annotations

import hashlib
import re

from cloudsched.drivers.base import Place

DOMAIN = "cloudsched.io"
MANAGED = "app.kubernetes.io/managed-by"
PLACE, INSTANCE, AGENT, ROLE = (f"{DOMAIN}/{one}" for one in ("place", "instance", "agent", "role"))
NAME, CLOUD, INSTALLATION, NODE_ID = (f"{DOMAIN}/{one}" for one in ("name", "cloud", "installation", "node-id"))
BATCH, JOB_NAME = f"{DOMAIN}/batch", f"{DOMAIN}/job"
PILOT = "pilot"
_OTHER = re.compile(r"[^a-z0-9]+")
_SLUG = 36


def place_mark(place: Place) -> str:
    """The same for every process of this installation, and no other's: the value of the label `place`."""
    return digest(place.instance, place.name)


def instance_mark(place: Place) -> str:
    return digest(place.instance)


def pod_name(place: Place, name: str) -> str:
    """Of the pilot `name`: readable where it can be, unique by its hash, at most 63 characters."""
    return dns_label(name, digest(place.instance, place.name, name))


def dns_label(name: str, mark: str) -> str:
    plain = _OTHER.sub("-", name.lower())[:_SLUG].strip("-") or "node"
    return f"{plain}-{mark}"


def digest(*parts: str) -> str:
    """16 characters; no two lists of parts are taken for one another."""
    text = "\0".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
