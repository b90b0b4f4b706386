"""How is a Slurm cluster driven? Its partitions and hosts, batch jobs by the thousand, and machines that are pilot jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cloudsched.drivers.base import Place
    from cloudsched.drivers.slurm.driver import SlurmDriver


def make(place: Place) -> SlurmDriver:
    """The driver of a Slurm cluster; docs/howto-slurm.md lists its options. Invalid when one of them is wrong."""
    from cloudsched.drivers.slurm.driver import SlurmDriver

    return SlurmDriver(place)
