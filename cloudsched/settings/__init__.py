"""How is this instance set up? One frozen `Settings`, made once from flags, environment, files and defaults.

    settings = load({"state": args.state, "port_offset": args.port_offset})
    settings.engine.lease_s; settings.listeners(); settings.origin("listen.native")

`sections` is the table of what can be set, `declare` how one key is declared, `sources` and `classic` where
raw values come from, `loading` which of them counts, `rules` what cannot stand together, `machine` what is
wrong on this machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .loading import hand_over, load
from .rules import is_loopback, keys_always, retire_cluster_keys
from .sections import CloudScheduler, Listener, LocalCloud, Row, Settings, mask_url

if TYPE_CHECKING:
    from .machine import Finding

__all__ = ["CloudScheduler", "Listener", "LocalCloud", "Row", "Settings", "check", "hand_over", "is_loopback",
           "keys_always", "load", "mask_url", "retire_cluster_keys"]


def check(settings: Settings, *, ports: bool = True) -> list[Finding]:
    """What keeps these settings from working on this machine: `Finding(level, key, text)`, level `ok`,
    `warning` or `error`. `ports=False` leaves the ports out, for when the server is running."""
    from . import machine  # late: reading clouds and users is for this command alone

    return machine.check(settings, ports=ports)
