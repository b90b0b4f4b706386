"""Which clouds exist without any configuration? The embedded local ones, when nothing else is configured."""

from __future__ import annotations

import json

from cloudsched import clock
from cloudsched.settings import LocalCloud, Settings
from cloudsched.store import clouds
from cloudsched.store.db import Tx, write

SOURCE = "embedded"


def ensure(settings: Settings) -> list[str]:
    """Make the embedded clouds if they are wanted (`local.enabled`: auto = no other cloud anywhere); returns new ones."""
    if settings.local.enabled == "no":
        return []
    if settings.local.enabled == "auto" and settings.cloud_scheduler.resources_file:
        return []
    return write(lambda tx: _ensure(tx, settings))


def _ensure(tx: Tx, settings: Settings) -> list[str]:
    there = clouds.all_clouds(removed=True)
    others = [cloud for cloud in there if cloud.source not in (SOURCE, "system")]
    if settings.local.enabled == "auto" and others:
        return []
    known = {cloud.name for cloud in there}
    made = []
    for position, cloud in enumerate(settings.local.clouds):
        if cloud.name.lower() not in known:
            clouds.insert(tx, _row(cloud, position), at=clock.now(), actor="system")
            made.append(cloud.name.lower())
    return made


def _row(cloud: LocalCloud, position: int) -> dict[str, object]:
    return {
        "name": cloud.name.lower(), "title": cloud.name, "address": "localhost", "kind": "Local", "enabled": 1,
        "priority": cloud.priority, "max_slots": cloud.slots, "memory_mb": cloud.memory_mb, "storage_gb": cloud.storage_gb,
        "cores": cloud.cores, "keep_alive_s": int(cloud.keep_alive_s), "boot_timeout_s": int(cloud.boot_timeout_s),
        "options": json.dumps({}), "source": SOURCE, "position": position,
    }
