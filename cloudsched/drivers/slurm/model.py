"""What do we say to a Slurm controller, and what does it tell? Plain data, the same over commands and over REST."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cloudsched.drivers.slurm import states

WARNING = "USR1"  # what a batch script gets before its time limit: Slurm's own SIGTERM means that the end is here


@dataclass(frozen=True, slots=True)
class Submission:
    """One call of sbatch. `array` is Slurm's index list (`0-99`), empty for a single job; `memory_mb` 0 leaves it to the
    partition; `secrets` become environment variables of the job, by a way that shows them nowhere else.
    `warn_s`: so long before the time limit the script gets SIGUSR1."""

    name: str
    script: str
    comment: str = ""
    cores: int = 1
    memory_mb: int = 0
    time_limit_s: int = 0
    array: str = ""
    directory: str = "/"
    stdout: str = "/dev/null"
    stderr: str = ""
    partition: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    reservation: str = ""
    warn_s: int = 0
    singleton: bool = False
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job, or one task of an array (`id` is then `12_3`), as Slurm tells of it.

    `raw` is Slurm's state word, `reason` its reason. Times are epoch seconds. `exit_code` is None until the job has
    ended, and when a signal ended it. `source`: `controller`, `slurmdbd`, `jobcomp`, or `none` when nobody knows it.
    """

    id: str
    raw: str
    reason: str = ""
    name: str = ""
    comment: str = ""
    partition: str = ""
    nodes: str = ""
    exit_code: int | None = None
    signal: int | None = None
    submitted_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    cpu_s: float | None = None
    max_rss_mb: int | None = None
    source: str = "controller"

    @property
    def state(self) -> str:
        """`queued`, `running`, `succeeded`, `failed`, `timeout`, `cancelled` or `unknown`."""
        return states.job_word(self.raw)

    @property
    def live(self) -> bool:
        """Does it still hold or want anything?"""
        return states.is_live(self.raw)

    @property
    def base_id(self) -> str:
        """The id of the array it belongs to, or its own."""
        return self.id.partition("_")[0]

    @property
    def elapsed_s(self) -> float | None:
        """From its start to its end; None while one of them is not known."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0.0, self.ended_at - self.started_at)


@dataclass(frozen=True, slots=True)
class Partition:
    """One queue of the cluster. `time_limit_s` None: no limit."""

    name: str
    state: str
    default: bool
    nodes: int
    cores: int
    time_limit_s: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One host of the cluster. `state`: `idle`, `mixed`, `allocated`, `draining`, `drained`, `down` or `unknown`;
    `raw` is Slurm's own word."""

    name: str
    state: str
    raw: str
    reason: str = ""
    cores: int = 0
    cores_allocated: int = 0
    memory_mb: int = 0
    memory_allocated_mb: int = 0
    gres: str = ""
    gres_allocated: str = ""
    features: tuple[str, ...] = ()
    partitions: tuple[str, ...] = ()


class Controller(Protocol):
    """One way to talk to slurmctld. Every call has a time limit and raises DriverError with a result code."""

    can_drain: bool  # hosts
    can_warn: bool  # the batch script, before its time limit

    def ping(self) -> str:
        """A line about the controller that answers."""
        ...

    def check(self, submission: Submission) -> str:
        """Would the controller take it? Nothing is submitted; returns what it said."""
        ...

    def submit(self, submission: Submission) -> str:
        """Hand in a job or an array; returns its id."""
        ...

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs and array tasks; those that have ended or are not known are no error."""
        ...

    def jobs(self, *, names: Iterable[str] = (), ids: Iterable[str] = ()) -> list[JobRecord]:
        """Jobs the controller remembers, ended ones too, array tasks one by one: our user's own, those of these names,
        or those of these ids (array ids give all their tasks)."""
        ...

    def history(self, ids: Sequence[str]) -> list[JobRecord] | None:
        """What accounting or the job completion log knows of these jobs; None where neither is kept, or ours to read."""
        ...

    def has_accounting(self) -> bool:
        """Is there a slurmdbd, which knows more of a job than the controller?"""
        ...

    def partitions(self) -> list[Partition]: ...

    def nodes(self) -> list[ClusterNode]: ...

    def set_node(self, name: str, state: str, reason: str) -> None:
        """`state`: DRAIN or RESUME."""
        ...

    def facts(self) -> Mapping[str, str]:
        """The controller's configuration, as far as this way shows it."""
        ...
