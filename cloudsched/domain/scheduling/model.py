"""What does the scheduling job look at?  The snapshot: clouds, nodes, grouped jobs, registered slots, policy.

Everything here is plain immutable data.  Times are epoch seconds, cloud names are lower case, memory is MB,
storage GB; -1 means "not limited".  Jobs come grouped by what they ask for (`Shape`), so that a pass costs
the same for a thousand and a million queued jobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

STARTING = "Starting"
RUNNING = "Running"
ERROR = "Error"
SHUTDOWN = "Shutdown"
RETIRING = "Retiring"

# The kinds driven through the EC2 interface: a boot there needs an image (contract 7.7).
EC2_TYPES = frozenset({"AmazonEC2", "Eucalyptus", "OpenStack"})

DEFAULT = "default"


def folded(names: Iterable[str]) -> list[str]:
    """Names of clouds and aliases as they are compared (B32): without blanks around, lower case, each once, no empty one."""
    return list(dict.fromkeys(lowered for name in names if (lowered := name.strip().lower())))


@dataclass(frozen=True, slots=True)
class Require:
    """What a job asks of a machine beside its room; empty members ask nothing.

    `kind`: the machine must run jobs of this kind. `node`: this very node (its number). `min_*`: of the whole machine, not
    of what is free; a machine that did not report a number has 0.
    """

    kind: str = "command"
    os: str = ""
    role: str = ""
    tags: frozenset[str] = frozenset()
    gpu: bool = False
    internet: bool = False
    node: int | None = None
    min_cores: int = 0
    min_memory_mb: int = 0
    min_storage_gb: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """What a job asks for; all jobs of one group share it.

    `targets`, and the keys of `images` and `instance_types`, are cloud names, aliases or network addresses as
    the job wrote them, in any case; the key "default" of the two mappings is the job's plain value.  `wanted` are the
    targets as they are compared (`folded`); empty: any cloud.
    `keep_alive_s` None means the job sets none; `type_limit` is VMTypeLimit (-1 none).
    """

    id: int
    user: str
    vm_type: str
    source: str = "queue"  # "queue" built in, "task" the same but nothing is booted for it, "condor" external
    cores: int = 1
    memory_mb: int = 512
    storage_gb: int = 0
    gpus: int = 0
    network: str = ""
    targets: tuple[str, ...] = ()
    high_priority: int = 0
    type_limit: int = -1
    job_per_core: bool = False
    keep_alive_s: int | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    instance_types: Mapping[str, str] = field(default_factory=dict)
    maximum_price: float = 0.0
    security_groups: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)  # carried along for the boot, never looked at
    require: Require | None = None  # None: any machine that runs commands
    user_type: str = field(init=False)
    wanted: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_type", f"{self.user}:{self.vm_type}")
        object.__setattr__(self, "wanted", frozenset(folded(self.targets)))


class Head(NamedTuple):
    """One waiting job: its number (ascending = older) and its priority (higher = sooner)."""

    job_id: int
    priority: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class JobGroup:
    """All jobs of one shape.  A job is counted in exactly one of the counts.

    `unscheduled`: status New or Idle, Unscheduled, not banned.  `scheduled_idle`: the same but Scheduled.
    `running`: status Running.  `banned`: New or Idle and under a ban.  `held`: for display only.
    `heads`: the first unscheduled, not banned jobs, descending priority then ascending id; at least
    min(unscheduled, max(cores if job_per_core else 1, 8)) of them.
    `blocked`: job id to the clouds blocked for it (lower case); may name only the heads.
    `scheduled_idle_ids`: the jobs to unschedule first come first (lowest priority, then newest).
    `running_unscheduled_ids`: Running jobs that are not marked Scheduled yet (they count in `running`).
    `oldest_idle_at`: when the job waiting longest was queued; None = not known.
    """

    shape: Shape
    unscheduled: int = 0
    scheduled_idle: int = 0
    running: int = 0
    banned: int = 0
    held: int = 0
    heads: tuple[Head, ...] = ()
    blocked: Mapping[int, frozenset[str]] = field(default_factory=dict)
    scheduled_idle_ids: tuple[int, ...] = ()
    running_unscheduled_ids: tuple[int, ...] = ()
    oldest_idle_at: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CloudView:
    """One configured cloud and its maxima; what remains is computed from the active nodes.

    `networks` empty = every network (B34).  `node_gpus`: of each node that is booted there.
    `boot_timeout_s`: None = the policy's default, -1 = none.
    `auto_disabled` is true only when the scheduling job itself disabled the cloud (B47);
    `connection_failed_at` is the first failure of the present row of failures.
    `requires_image`: EC2 kinds (`EC2_TYPES`).
    """

    name: str
    max_slots: int
    address: str = ""
    cloud_type: str = ""
    enabled: bool = True
    priority: int = 0
    max_memory_mb: int = -1
    max_storage_gb: int = -1
    cpu_cores: int = -1
    max_node_memory_mb: int = -1
    node_gpus: int = 0
    networks: tuple[str, ...] = ()
    boot_timeout_s: int | None = None
    keep_alive_s: int = 0
    security_groups: tuple[str, ...] = ()
    requires_image: bool = False
    banned_images: frozenset[str] = frozenset()
    connection_problem: bool = False
    connection_failed_at: float | None = None
    auto_disabled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class NodeView:
    """One node.  `retired` = it lives in the retired shadow and is charged to no cloud.

    `id` ascends in boot order.  `override` is "" or a word of contract 5.2 (`Retiring` ...).
    `registered_name` is the name it was last seen under in the batch system ("" = not registered);
    `register_clock_at`: since when it is Running without being registered (None = `running_since`).
    `destroying`: a destroy is under way.  `error_polls`: bad polls in a row.
    """

    id: int
    cloud: str
    user: str
    vm_type: str
    cores: int = 1
    memory_mb: int = 512
    storage_gb: int = 0
    network: str = ""
    state: str = RUNNING
    override: str = ""
    force_retire: bool = False
    retired: bool = False
    destroying: bool = False
    job_per_core: bool = False
    image: str = ""
    boot_requested_at: float = 0.0
    running_since: float | None = None
    hostname: str = ""
    alt_hostname: str = ""
    ip_address: str = ""
    registered_name: str = ""
    registered_address: str = ""
    registered_master: str = ""
    register_clock_at: float | None = None
    idle_since: float | None = None
    keep_alive_s: int = 0
    error_polls: int = 0
    expires_at: float | None = None
    average_run_s: float | None = None
    proxy_expires_at: float | None = None
    user_type: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "user_type", f"{self.user}:{self.vm_type}")


@dataclass(frozen=True, slots=True, eq=False)
class SlotView:
    """One slot as registered in the batch system (or reported by an agent of the built-in queue).

    `name` may carry a `slotN@` prefix; `node_id` may be given when the node is known for certain, then names
    are not compared.  `user` is the owner per contract 7.3 (`matching.slot_user` computes it).
    `since`: when the slot entered its present state.  `job_changed`: its job differs from the one of the
    previous poll.  A slot_type "Partitionable" with total_slots > 1 is a parent and does not count (7.3).
    """

    name: str
    machine: str = ""
    state: str = "Unclaimed"
    activity: str = "Idle"
    since: float = 0.0
    address: str = ""
    master_address: str = ""
    user: str = ""
    vm_type: str = ""
    slot_type: str = "Static"
    total_slots: int = 1
    job_id: str = ""
    job_changed: bool = False
    node_id: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RunningJob:
    """A Running job and where the batch system says it runs; `noted_*` is what is recorded already."""

    job_id: int
    remote_host: str
    noted_cloud: str = ""
    noted_node_id: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """Every key of `cloud_scheduler.conf` (contract 6.1) the decisions use; times in seconds.

    `default_images`/`default_instance_types`: as in `Shape`, the configured defaults (key "default" = plain).
    """

    algorithm: str = "fairshare"  # or "fifo"; any other word counts as fairshare
    metric: str = "slot"  # memory, memory_cpu, memory_cpu_storage
    distribution: str = "normal"  # or "split"
    cpu_weight: float = 1.0
    memory_weight: float = 1.0
    storage_weight: float = 1.0
    high_priority_support: bool = False
    high_priority_weight: int = 1
    graceful_shutdown: bool = True
    max_starting: int = -1
    max_destroys: int = 10
    max_keep_alive_s: int = 3600
    boot_timeout_s: int = -1
    register_time_limit_s: int = 900
    polling_error_threshold: int = 5
    idle_threshold_s: int = 300
    clean_shutdown_idle: bool = False
    cleanup_missing: bool = False
    retire_before_lifetime: bool = False
    retire_before_lifetime_factor: float = 1.5
    retire_reallocate: bool = True
    connection_fail_threshold_s: int = 3600
    connection_fail_disable_s: int = 7200
    proxy_shutdown_threshold_s: int = 1800
    ban_tracking: bool = False
    ban_min_track: int = 5
    ban_failrate_threshold: float = 1.0
    job_ban_timeout_s: int = 3600
    default_images: Mapping[str, str] = field(default_factory=dict)
    default_instance_types: Mapping[str, str] = field(default_factory=lambda: {DEFAULT: "m1.small"})


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """All that one pass looks at.

    `clouds` in configuration order; `nodes` active and retired ones; `limits` user to largest number of nodes
    (0 = never); `aliases` name to cloud names (a plain string counts as one name, B35).
    `waiting`: needed for `fifo` only: the first unscheduled, not banned jobs in ascending id as (job id,
    shape id), as many as the enabled clouds have slots; None = taken from the groups' heads.
    `queue_read`, `machines_read`: the queue, the machine list was read at least once since the start.
    `active_destroys`: destroys under way.
    """

    clouds: Sequence[CloudView] = ()
    nodes: Sequence[NodeView] = ()
    groups: Sequence[JobGroup] = ()
    slots: Sequence[SlotView] = ()
    running_jobs: Sequence[RunningJob] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, Sequence[str] | str] = field(default_factory=dict)
    waiting: Sequence[tuple[int, int]] | None = None
    queue_read: bool = True
    machines_read: bool = True
    active_destroys: int = 0
