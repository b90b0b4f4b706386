"""Which images do not come up where? Failed images (contract T12), boot results and bans per cloud (9, B41)."""

from __future__ import annotations

import json
import logging
import os

from cloudsched.domain.entities import Cloud
from cloudsched.domain.scheduling.outcomes import ImageResults, banned_images
from cloudsched.services import snapshot
from cloudsched.store import clouds
from cloudsched.store.db import Tx

log = logging.getLogger(__name__)


def note_failed_image(tx: Tx, cloud_name: str, image: str, *, at: float) -> None:
    """Remember an image that did not come up on a cloud (T12)."""
    cloud = clouds.by_name(cloud_name, removed=True)
    if cloud is None:
        return
    known = json.loads(cloud.failed_images)
    if image not in known:
        clouds.update(tx, cloud.id, at=at, event="cloud.image_failed", note={"image": image},
                      failed_images=json.dumps([*known, image]))


def count_result(tx: Tx, image: str, cloud: Cloud, *, ok: bool, ban_file: str) -> None:
    """Count one boot of an image; when that begins or ends its ban on the cloud, `ban_file` follows after the commit."""
    policy = snapshot.policy()
    if not policy.ban_tracking or not image:
        return
    before = _banned()
    succeeded, failed = clouds.count_image(tx, image, cloud.name, ok=ok)
    banned = bool(banned_images([ImageResults(image, cloud.name, succeeded, failed)], policy))
    if banned == (cloud.name in before.get(image, ())):
        return
    log.warning("image %s is %s on %s (%d of %d boots failed)", image, "banned" if banned else "not banned any more",
                cloud.name, failed, succeeded + failed)
    clouds.ban_image(tx, image, cloud.name, banned=banned)
    if ban_file:
        tx.after.append(lambda: write_ban_file(ban_file))


def write_ban_file(path: str) -> None:
    """The bans in force as JSON, image to list of clouds; replaced as a whole. A file that cannot be written is logged."""
    fresh = f"{path}.new"
    try:
        with open(fresh, "w", encoding="utf-8") as file:
            json.dump(_banned(), file, indent=1)
            file.write("\n")
        os.replace(fresh, path)
    except OSError as error:
        log.error("the ban file %s could not be written: %s", path, error.strerror)


def _banned() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for image, cloud, _, _, banned in sorted(clouds.image_records()):
        if banned:
            found.setdefault(image, []).append(cloud)
    return found
