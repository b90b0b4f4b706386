"""How is a cloud with an EC2 API driven? Amazon's own, and those of Eucalyptus and OpenStack that speak like it."""

from __future__ import annotations

from cloudsched.drivers.base import Place
from cloudsched.drivers.ec2.driver import Ec2Driver
from cloudsched.drivers.ec2.setup import read_setup

__all__ = ["Ec2Driver", "make"]


def make(place: Place) -> Ec2Driver:
    """The driver of an EC2 cloud; docs/howto-ec2-openstack.md lists the options.

    Credentials: `access_key_id`, `secret_access_key`, and `session_token` for temporary ones. Options: `regions` (the
    first is used; or `region`), `endpoint` (a URL), or `host`, `port`, `secure_connection`, `path`; `image`, `images`,
    `instance_type`, `instance_types`, `prices`, `security_group`, `key_name`, `placement_zone`, `subnet`, `public_ip`,
    `volume_type`, `spot`, `max_price`, `labels`, `tagging`, time limits, and those of the agent (drivers/cloudinit.py).
    Raises Invalid naming the one that is wrong.
    """
    return Ec2Driver(place, read_setup(place))
