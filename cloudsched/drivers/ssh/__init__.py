"""How is a pool of hosts driven that are reached by SSH? A "machine" is our agent running on one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudsched.drivers.base import Place
    from cloudsched.drivers.ssh.driver import SshDriver


def make(place: Place) -> SshDriver:
    """The driver of an SSH pool; docs/howto-ssh.md lists its options. Invalid when one of them is wrong."""
    from cloudsched.drivers.ssh.driver import SshDriver

    return SshDriver(place)
