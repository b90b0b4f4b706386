"""What follows from a boot's answer, and which images are banned where?  (contract 7.7 results, B41)"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from cloudsched.domain.scheduling.model import Policy

TEMP_BANNED = "TempBanned"


class Outcome(NamedTuple):
    """A boot's answer as the contract's table has it.

    `consequence`: "booted", "ban" (the job, for `job_ban_timeout`, override `TempBanned`), "block" (all its
    candidate clouds, for the same time) or "queue" (it stays queued).  `note`: the line in T11 ("" = none).
    """

    code: int | None
    consequence: str
    reason: str = ""
    note: str = ""


_OTHER = "Other VM Create Error"
_SHORT = "Resource Availability / Quota Problem"
OUTCOMES: Mapping[int | None, Outcome] = {
    0: Outcome(0, "booted"),
    -1: Outcome(-1, "ban", "Proxy/Auth related issue", "Proxy/Auth related issue"),
    # B27: the sentence joins the list of reasons, it does not replace it.
    -2: Outcome(-2, "queue", _SHORT, "Insufficient Resources on cloud"),
    -3: Outcome(-3, "block", _OTHER, _OTHER),
    None: Outcome(None, "block", _OTHER, _OTHER),
    -4: Outcome(-4, "queue", "Endpoint / Region problem", "Endpoint / Region problem"),
    1: Outcome(
        1, "queue", "Error when making VM request: check log", "Error when making VM request: check log"
    ),
    2: Outcome(2, "queue", "Resource Request Denied", "Resource Request Denied"),
}


def outcome(code: int | None) -> Outcome:
    """The consequence of a boot's code; an unknown code counts as -3."""
    return OUTCOMES.get(code, OUTCOMES[-3])


class ImageResults(NamedTuple):
    """How boots of one image on one cloud went."""

    image: str
    cloud: str
    booted: int
    failed: int


def banned_images(results: Iterable[ImageResults], policy: Policy) -> dict[str, list[str]]:
    """Image to the clouds where it is banned, both sorted; the form of `ban_file`.

    An image is banned on a cloud with at least `ban_min_track` results there and a failure rate not below
    `ban_failrate_threshold`; never while `ban_tracking` is off.
    """
    banned: dict[str, list[str]] = {}
    for result in results if policy.ban_tracking else ():
        count = result.booted + result.failed
        if count and count >= policy.ban_min_track and result.failed / count >= policy.ban_failrate_threshold:
            banned.setdefault(result.image, []).append(result.cloud)
    return {image: sorted(banned[image]) for image in sorted(banned)}
