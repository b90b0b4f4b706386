"""How is an OpenStack cloud driven through its own services? Keystone v3, Nova, Glance and Neutron."""

from __future__ import annotations

from cloudsched.drivers.base import Place
from cloudsched.drivers.openstack.driver import StackDriver
from cloudsched.drivers.openstack.setup import read_setup

__all__ = ["StackDriver", "make"]


def make(place: Place) -> StackDriver:
    """The driver of an OpenStack cloud; docs/howto-ec2-openstack.md lists the options.

    Credentials: `username` and `password`, or `application_credential_id` and `application_credential_secret`. Options:
    `auth_url`, `tenant_name`, `user_domain_name`, `project_domain_name`, `regions` (the first is used), `interface`,
    `cacert`, `image`, `images`, `instance_type`, `instance_types`, `prices`, `security_group`, `key_name`,
    `placement_zone`, `network`, `boot_from_volume`, `config_drive`, `labels`, time limits, and those of the agent
    (drivers/cloudinit.py). Raises Invalid naming the one that is wrong.
    """
    return StackDriver(place, read_setup(place))
