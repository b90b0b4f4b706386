"""What follows from the answer to a boot?  (contract 7.7, B27, B41)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.model import Policy
from cloudsched.domain.scheduling.outcomes import ImageResults, banned_images, outcome


@pytest.mark.parametrize(
    ("code", "consequence", "reason"),
    [
        (0, "booted", ""),
        (-1, "ban", "Proxy/Auth related issue"),
        (-2, "queue", "Resource Availability / Quota Problem"),
        (-3, "block", "Other VM Create Error"),
        (None, "block", "Other VM Create Error"),
        (-4, "queue", "Endpoint / Region problem"),
        (1, "queue", "Error when making VM request: check log"),
        (2, "queue", "Resource Request Denied"),
        (99, "block", "Other VM Create Error"),
    ],
)
def test_table(code, consequence, reason) -> None:
    assert (outcome(code).consequence, outcome(code).reason) == (consequence, reason)


def test_b27_quota_adds_its_own_line() -> None:
    assert outcome(-2).note == "Insufficient Resources on cloud"


def test_b41_images_are_banned_by_count_and_rate() -> None:
    results = [
        ImageResults("bad", "b", 0, 5),
        ImageResults("bad", "a", 0, 9),
        ImageResults("few", "a", 0, 4),
        ImageResults("some", "a", 1, 9),
        ImageResults("none", "a", 0, 0),
    ]
    policy = Policy(ban_tracking=True)
    assert banned_images(results, policy) == {"bad": ["a", "b"]}
    lower = Policy(ban_tracking=True, ban_failrate_threshold=0.9, ban_min_track=0)
    assert banned_images(results, lower) == {"bad": ["a", "b"], "few": ["a"], "some": ["a"]}
    assert banned_images(results, Policy()) == {}
