"""What do instances say of themselves? Each saying is an event, found again by the instance's id."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from cloudsched import clock
from cloudsched.errors import Invalid
from cloudsched.services.frameworks.cloud_offers import ec2_clouds
from cloudsched.services.pool import names_of, storable
from cloudsched.store import events, nodes
from cloudsched.store.db import write

LOG_BYTES = 65_536
_SECRET = re.compile(r"pass(word|wd|phrase)?$|secret|token|credential|private.?key|access.?key|api.?key", re.IGNORECASE)


def log_instance(instance_id: str, body: Any, actor: str) -> None:
    """Keep what was said of an instance as an event `instance.log`; members that look like secrets are masked. Raises Invalid
    for an id that is none, or more than 64 KiB."""
    instance = _instance_id(instance_id)
    text = json.dumps(body, default=str)
    if len(text) > LOG_BYTES:
        raise Invalid.at("body", f"has {len(text)} characters", f"at most {LOG_BYTES} of JSON")
    node = next((one for cloud in ec2_clouds(removed=True) for one in nodes.live(cloud_id=cloud.id)
                 if instance in names_of(one)), None)
    note = {"instance": instance, "said": _masked(body), **({"node": node.id} if node is not None else {})}
    write(lambda tx: events.append(tx, "instance.log", ("instance", _number(instance)), at=clock.now(), actor=actor, **note))


def instance_log(instance_id: str, *, after: int = 0, limit: int = 500) -> list[dict[str, Any]]:
    """What was kept of an instance, oldest first: `id` (of the event), `at`, `actor`, `said`."""
    instance = _instance_id(instance_id)
    found = []
    for event in events.since(after, limit=limit, subject_kind="instance", subject_id=_number(instance), kind="instance.log"):
        data = json.loads(event.data)
        if data.get("instance") == instance:
            found.append({"id": event.id, "at": clock.rfc3339(event.at), "actor": event.actor, "said": data.get("said")})
    return found


def _instance_id(text: str) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= 255 or not text.isprintable() or not storable(text):
        raise Invalid.at("instanceId", "is not an id of an instance", "1 to 255 printable characters")
    return text


def _number(instance: str) -> int:
    """Events have numbers as their subjects: the instance's is made of its id, and the id stands in the event. Below 2**53, so
    that it is the same number in every JSON reader."""
    return int.from_bytes(hashlib.sha256(instance.encode()).digest()[:7], "big") >> 3


def _masked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): "***" if _SECRET.search(str(key)) and not isinstance(one, (Mapping, list)) else _masked(one)
                for key, one in value.items()}
    return [_masked(one) for one in value] if isinstance(value, list) else value
