"""What is one installation, and in which steps is it done? The same steps for every kind of cluster; some have nothing to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cloudsched.drivers.installing.access import Access
from cloudsched.drivers.installing.given import Options

KUBERNETES, SLURM = "kubernetes", "slurm"
KINDS = (KUBERNETES, SLURM)
CONTROLLER, WORKER = "controller", "worker"
NEW_CLUSTER, NEW_WORKER, TAKE_APART = "new_cluster", "new_worker", "take_apart"


class Step(StrEnum):
    """Names that people see."""

    LOOK = "look at the host"
    PACKAGES = "get the packages"
    PREPARE = "prepare the host"
    TELL = "tell the controller"
    CONFIGURE = "write the configuration"
    START = "start the controller"
    FINISH = "finish the cluster"
    JOIN = "join the cluster"
    READY = "wait until the node is ready"
    OTHERS = "tell the other nodes"
    RESULT = "read the result"
    STOP = "stop what runs"
    ERASE = "remove what was installed"
    TIDY = "tidy up"


STEPS: Mapping[str, tuple[Step, ...]] = {
    NEW_CLUSTER: (Step.LOOK, Step.PACKAGES, Step.PREPARE, Step.CONFIGURE, Step.START, Step.FINISH, Step.RESULT, Step.TIDY),
    NEW_WORKER: (Step.LOOK, Step.PACKAGES, Step.PREPARE, Step.TELL, Step.CONFIGURE, Step.JOIN, Step.READY, Step.OTHERS,
                 Step.TIDY),
    TAKE_APART: (Step.LOOK, Step.STOP, Step.ERASE, Step.TIDY),
}


@dataclass
class Job:
    """`facts`: what scripts have told so far. `cluster`: what the join command says of it (secret). `member`: how this host is
    reached, sealed, for the controller to keep."""

    action: str
    kind: str
    role: str
    access: Access
    options: Options
    facts: dict[str, str] = field(default_factory=dict)
    cluster: Mapping[str, str] = field(default_factory=dict, repr=False)
    join_command: str = field(default="", repr=False)
    member: str = field(default="", repr=False)

    @property
    def node(self) -> str:
        """The node's name: as asked for, else the host's own."""
        return self.options.node_name or self.facts.get("host_name", "").lower() or self.access.host

    @property
    def address(self) -> str:
        """Where the other hosts reach this one."""
        return self.options.address or self.access.host
