"""What can be asked of a Slurm cluster? The Driver verbs, and those of an engine: partitions, hosts, batch jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.drivers.slurm.batch import Batch, BatchJob
from cloudsched.drivers.slurm.commands import CommandController
from cloudsched.drivers.slurm.homes import Homes
from cloudsched.drivers.slurm.model import ClusterNode, Controller, JobRecord, Partition, Submission
from cloudsched.drivers.slurm.options import SlurmOptions, read
from cloudsched.drivers.slurm.pilots import Pilots, scope_of
from cloudsched.drivers.slurm.rest import RestController
from cloudsched.drivers.slurm.transport import LocalTransport, SshTransport, Transport

__all__ = ["BatchJob", "ClusterNode", "JobRecord", "Partition", "SlurmDriver"]

KIND = "Slurm"
_OUT_OF_USE = ("drain", "drng", "down", "fail", "error")  # what RESUME ends; Slurm refuses it for other hosts


class SlurmDriver:
    """One cluster: commands here or on a host over SSH, or slurmrestd. Safe for several threads.

    `transport` and `controller` stand for those that the options name (a proxy with faults, in tests).
    """

    kind = KIND

    def __init__(self, place: Place, *, transport: Transport | None = None, controller: Controller | None = None) -> None:
        self._options = read(place)
        self._place = place
        self._transport = transport
        if not self._options.rest_url and transport is None:
            self._transport = _transport(place, self._options)
        self._controller = controller or self._make_controller()
        scope = scope_of(place)
        homes = None
        if self._options.work_dir and self._transport is not None:
            homes = Homes(self._transport, self._options.work_dir, scope, limit_s=self._options.command_limit_s)
        self._homes = homes
        self._pilots = Pilots(self._controller, self._options, place, homes)
        self._batch = Batch(self._controller, self._options, scope)
        self._node_lock = threading.Lock()

    @property
    def capabilities(self) -> frozenset[str]:
        """Hosts can be drained with commands, and over REST from v0.0.39 on."""
        found = {base.BOOT, base.DESTROY, base.LIST, base.BATCH, base.NODES}
        return frozenset(found | {base.DRAIN} if self._controller.can_drain else found)

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Does the controller answer, would it take our jobs, can pilots be put where they belong?"""
        checks = [_checked("controller", self._controller.ping)]
        if not checks[0].ok:
            return checks
        checks.append(_checked("partition", self._partition_said))
        checks.append(_checked("submission", self._trial))
        if self._homes is not None:
            problem = _checked("work_dir", self._homes.check)
            good = problem.ok and not problem.detail
            checks.append(Check("work_dir", good, problem.detail or self._options.work_dir))
        checks.append(_checked("records", self._records_said))
        return [*checks, *self._warnings()]

    def boot(self, wanted: Wanted) -> Machine:
        """Submit the pilot of that name unless it is in the queue; `Starting` while it waits there."""
        return self._pilots.boot(wanted)

    def machines(self) -> list[Machine]:
        """Every pilot of this place. One that ended by itself, was preempted, or ran out of time is shown until destroyed."""
        return self._pilots.all()

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Cancel the pilot; returns when Slurm says that its last process is gone (`destroy_limit_s`)."""
        self._pilots.destroy(name)

    # -- the cluster -------------------------------------------------------------------------------------------

    def partitions(self) -> list[Partition]:
        return self._controller.partitions()

    def nodes(self) -> list[ClusterNode]:
        return self._controller.nodes()

    def drain(self, node: str, reason: str) -> None:
        """No new job begins on the host; what runs goes on. `reason` is kept by Slurm and shown by `nodes`."""
        if not reason.strip() or not reason.isprintable():
            raise DriverError("reason: must be a printable text", code=base.REQUEST)
        self._controller.set_node(node, "DRAIN", reason)

    def resume(self, node: str) -> None:
        """Let jobs begin there again. A host that is in use already is no error."""
        with self._node_lock:
            found = next((one for one in self.nodes() if one.name == node), None)
            if found is None:
                raise DriverError(f"node: there is no host {node!r} in this cluster", code=base.REQUEST)
            if any(word.startswith(_OUT_OF_USE) for word in found.raw.lower().split("+")):
                self._controller.set_node(node, "RESUME", "")

    # -- batch work --------------------------------------------------------------------------------------------

    def submit(self, jobs: BatchJob | Sequence[BatchJob], *, key: str = "") -> list[str]:
        """Hand in jobs, those of one shape as arrays; ids in their order. With a `key` it is safe to repeat."""
        return self._batch.submit(jobs, key=key)

    def cancel(self, ids: Sequence[str]) -> None:
        self._batch.cancel(ids)

    def states(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """What each job is now; one command for all of them, one more when the controller has forgotten some."""
        return self._batch.states(ids)

    def accounting(self, ids: Sequence[str]) -> dict[str, JobRecord]:
        """As `states`, with the CPU time and memory that a slurmdbd keeps."""
        return self._batch.accounting(ids)

    # -- verify ------------------------------------------------------------------------------------------------

    def _make_controller(self) -> Controller:
        if self._options.rest_url:
            return RestController(self._options)
        assert self._transport is not None
        return CommandController(self._transport, self._options)

    def _partition_said(self) -> str:
        found = {one.name: one for one in self.partitions()}
        default = next((one.name for one in found.values() if one.default), "")
        for name in (self._options.partition or default).split(","):
            if name not in found:
                there = ", ".join(found) or "none"
                raise DriverError(f"partition: there is no {name!r} (there are: {there})" if name else
                                  f"partition: there is no default one; choose one of {there}", code=base.REQUEST)  # fmt: skip
            if found[name].state != "up":
                raise DriverError(f"partition: {name} is {found[name].state}", code=base.DENIED)
        return self._options.partition or default

    def _trial(self) -> str:
        options = self._options
        return self._controller.check(Submission(
            "cloudsched-verify", "#!/bin/sh\nexit 0\n", time_limit_s=options.time_limit_s, partition=options.partition,
            account=options.account, qos=options.qos, constraint=options.constraint, reservation=options.reservation))

    def _records_said(self) -> str:
        if self._controller.has_accounting():
            return "slurmdbd keeps what becomes of jobs"
        facts = self._controller.facts()
        age = facts.get("MinJobAge", "300 sec")
        if facts.get("JobCompType") == "jobcomp/filetxt":
            return f"the controller remembers jobs for {age}, then {facts.get('JobCompLoc')}"
        return f"the controller remembers ended jobs for {age}; after that their result is not known"

    def _warnings(self) -> list[Check]:
        """What works and is better known."""
        facts, found = self._controller.facts(), []
        if self._homes is None and "job_env" in facts.get("AccountingStoreFlags", "").lower():
            found.append(Check("join token", ok=False, detail="AccountingStoreFlags=job_env keeps jobs' environments, and with "
                               "them join tokens: set work_dir, tokens then travel in files"))  # fmt: skip
        return found


def _transport(place: Place, options: SlurmOptions) -> Transport:
    if not options.host:
        return LocalTransport()
    from cloudsched.drivers.ssh.hosts import pin_file

    return SshTransport(options.host, options.ssh, place.credentials, pins=pin_file(place))


def _checked(name: str, ask: Callable[[], str]) -> Check:
    try:
        return Check(name, ok=True, detail=ask())
    except DriverError as error:
        return Check(name, ok=False, detail=str(error))
