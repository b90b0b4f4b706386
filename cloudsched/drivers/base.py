"""What must every kind of place be able to do? The Driver protocol and its plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cloudsched.errors import CloudschedError

# Result codes of a failed boot (contract cloud-scheduler 7.7); they decide what happens to the job.
AUTH = -1
QUOTA = -2
OTHER = -3
ENDPOINT = -4
REQUEST = 1
DENIED = 2

REASONS = {
    AUTH: "Proxy/Auth related issue",
    QUOTA: "Resource Availability / Quota Problem",
    OTHER: "Other VM Create Error",
    ENDPOINT: "Endpoint / Region problem",
    REQUEST: "Error when making VM request: check log",
    DENIED: "Resource Request Denied",
}

# What a driver may be able to do; services refuse early, with a reason, what is missing.
BOOT = "boot"
DESTROY = "destroy"
LIST = "list"
PRICES = "prices"
CONSOLE = "console"
BATCH = "batch"
NODES = "nodes"
DRAIN = "drain"
TYPES = "types"  # `types()`: the sizes of machine that can be had
SPOT = "spot"  # machines at the price of the day, taken away when others pay more
RUN = "run"  # commands on the hosts themselves
FACTS = "facts"
PING = "ping"
FILES = "files"
APPLY = "apply"  # manifests become objects, and go again
WATCH = "watch"
LOGS = "logs"
USAGE = "usage"  # what is used, where it is measured
CAPABILITIES = frozenset({BOOT, DESTROY, LIST, PRICES, CONSOLE, BATCH, NODES, DRAIN, TYPES, SPOT, RUN, FACTS, PING, FILES,
                          APPLY, WATCH, LOGS, USAGE})


class DriverError(CloudschedError):
    """The place said no, or could not be reached. `code` is one of the result codes above.

    `transient` is True when the same call may succeed later without anybody changing anything.
    The message never holds a secret.
    """

    kind = "driver"

    def __init__(self, message: str, *, code: int = OTHER, transient: bool = False, **kw: Any) -> None:
        super().__init__(message, **kw)
        self.code = code
        self.transient = transient


@dataclass(frozen=True, slots=True)
class Wanted:
    """A node to boot. `name` is deterministic and unique: booting the same name twice is one machine."""

    name: str
    node_id: int
    cores: int
    memory_mb: int
    storage_gb: int
    image: str = ""
    instance_type: str = ""
    network: str = ""
    security_groups: tuple[str, ...] = ()
    user: str = ""
    vm_type: str = ""
    join_token: str = field(default="", repr=False)
    server_url: str = ""
    slots: int = 1
    user_data: str = field(default="", repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    key_name: str = ""
    max_price: float = 0.0  # of an hour; above 0: a spot machine that costs no more
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine as the place sees it. `state` is a word of contract 5.1: Starting, Running, Error, Shutdown, or raw."""

    name: str
    external_id: str
    state: str
    hostname: str = ""
    address: str = ""
    ssh_port: int = 22
    handle: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was verified: `ok`, what it was, and what to do when it is not."""

    name: str
    ok: bool
    detail: str = ""


class Driver(Protocol):
    """One configured place. Made by a factory `make(place: Place) -> Driver`; calls may block, and are made with no
    transaction open. Every call is safe to repeat."""

    kind: str
    capabilities: frozenset[str]

    def verify(self) -> list[Check]:
        """Can this place be used with these credentials? Never raises for a 'no': it is in the checks."""
        ...

    def boot(self, wanted: Wanted) -> Machine:
        """Boot `wanted.name` unless it is there already; returns it. Raises DriverError with a result code."""
        ...

    def machines(self) -> list[Machine]:
        """Every machine there that carries one of our names, dead ones included while they hold anything."""
        ...

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Take the machine away with all it holds; returns when it is gone. A missing machine is no error."""
        ...


@dataclass(frozen=True)
class Place:
    """What a driver is made from: one cloud's configuration. `instance` tells our installations apart in shared places."""

    name: str
    kind: str
    options: Mapping[str, Any]
    credentials: Mapping[str, str] = field(repr=False, default_factory=dict)
    state_dir: str = ""
    server_url: str = ""
    instance: str = "cloudsched"
