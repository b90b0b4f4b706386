"""Which addresses does an allow-list let in? One answer for all listeners."""

from __future__ import annotations

import pytest

from cloudsched.services.access import is_inside, networks_of

LISTED = networks_of(("10.1.0.0/16", "192.168.7.9", "fd00:7::/32"))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
def test_this_machine_is_inside_whatever_is_listed(address: str) -> None:
    assert is_inside(address, LISTED) and is_inside(address, networks_of(()))


@pytest.mark.parametrize("address", ["10.1.255.255", "::ffff:10.1.2.3", "::ffff:a01:203", "192.168.7.9", "fd00:7::1"])
def test_what_is_listed_is_inside(address: str) -> None:
    assert is_inside(address, LISTED) and not is_inside(address, networks_of(()))


@pytest.mark.parametrize("address", ["10.2.0.1", "192.168.7.10", "fd00:8::1", "::ffff:10.2.0.1", "", "localhost", "x"])
def test_others_are_not(address: str) -> None:
    assert not is_inside(address, LISTED)
