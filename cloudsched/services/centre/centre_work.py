"""What does a step of a centre's operation work on, and how does it ask the centre's executor?

The executor has operations of its own, here or on another server; a step that waits for one looks again and again, and holds
nothing meanwhile. Which one it waits for is written down under a reference, so that a step said twice begins nothing twice.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any

from cloudsched import clock
from cloudsched.drivers.base import DriverError
from cloudsched.errors import CloudschedError, Conflict, Unavailable
from cloudsched.services.centre import centre_clusters as cc
from cloudsched.services.centre.centre_calls import FORGET, Executor, Where, access_of, executor_for
from cloudsched.services.operations import Later, Work
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clusters, operations
from cloudsched.store.centres import Host
from cloudsched.store.db import Tx, write

__all__ = ["AWAY_AGAIN_S", "LOOK_AGAIN_S", "Later", "Step", "Told", "Work", "asked", "configure", "leave", "patient", "step",
           "waited", "workers"]
log = logging.getLogger(__name__)

LOOK_AGAIN_S = 1.0
AWAY_AGAIN_S = 5.0
Step = Callable[["Told"], Later | str | None]
_settings: Settings | None = None


def configure(settings: Settings) -> None:
    """Which installation this is. Said once by each process."""
    global _settings
    _settings = settings


class Told:
    """What a step works on."""

    def __init__(self, work: Work) -> None:
        if _settings is None:
            raise Unavailable("this process was not told its settings yet")
        self.settings, self.work = _settings, work
        found = clusters.get(int(work.request["cluster"]))
        if found is None:
            raise Conflict("the cluster is gone")
        self.cluster = found
        self.centre = cc.centre_of(found)
        self.force = bool(work.request.get("force"))
        self.actor = work.actor

    @property
    def host(self) -> Host:
        """The host that the operation is about, as it is now. Raises Conflict when it was removed."""
        found = store.host(str(self.work.request["host"]))
        if found is None:
            raise Conflict("the host is gone")
        return found

    @property
    def executor(self) -> Executor:
        return executor_for(self.centre, self.settings)

    @property
    def where(self) -> Where:
        """The cluster as it is reached, ready or not."""
        spec = cc.spec_of(self.cluster)
        host = store.host(str(spec.get("controllerid", "")))
        kubeconfig = cc.secrets_of(self.cluster, self.settings).get("kubeconfig", "")
        return Where(access_of(host, self.settings) if host else None, kubeconfig, self.cluster.kind)

    def reference(self, part: str) -> str:
        """The name under which the executor's operation for a part of this one is known, here and there."""
        return f"{self.cluster.key}:{self.work.operation.id}:{part}"

    def options(self, host: Host) -> dict[str, Any]:
        """What the installation is told: of the cluster, of the host, of the call; the later count first."""
        return cc.options_for(self.cluster, host, self.work.request.get("options") or {})


def asked(told: Told, part: str, begin: Callable[[str], int]) -> int:
    """The executor's operation for a part: begun once."""
    reference = told.reference(part)
    known = store.begun(reference + "*")
    if known is None:
        known = begin(reference)
        number = known
        write(lambda tx: store.remember(tx, reference + "*", number, at=clock.now()))
    return known


def waited(told: Told, part: str) -> Later | str:
    """Look at the executor's operation for a part. Raises Conflict when it failed."""
    number = store.begun(told.reference(part) + "*")
    if number is None:
        raise Conflict("the centre was not asked")
    progress = told.executor.progress(number)
    if not progress.done:
        return Later(LOOK_AGAIN_S, progress.detail)
    if not progress.ok:
        raise Conflict(progress.error or "the centre could not do it")
    return progress.detail or "done"


def step(do: Step, failed: Callable[[Told, str], None] | None = None) -> Callable[[Work], Later | str | None]:
    """A step that goes on asking a centre that is away for a while, and undoes what was begun when it fails for good."""

    def run(work: Work) -> Later | str | None:
        told = Told(work)
        try:
            said = do(told)
        except Unavailable:
            return Later(AWAY_AGAIN_S, "the database is away")
        except DriverError as error:
            if error.transient and patient(told):
                return Later(AWAY_AGAIN_S, error.message)
            _undo(told, error, failed)
            raise
        except CloudschedError as error:
            _undo(told, error, failed)
            raise
        if not isinstance(said, Later):
            _forgotten(told)
        return said

    return run


def _forgotten(told: Told) -> None:
    """At the last step what the centre gave is kept here: the centre need not keep it any more. That it cannot is no failure."""
    now = operations.get(told.work.operation.id) if told.work.operation.kind == cc.NEW_CLUSTER else None
    number = store.begun(told.reference("new") + "*")
    steps = json.loads(now.steps) if now is not None else []
    if number is None or not steps or any(step["state"] != "done" for step in steps[:-1]):
        return
    try:
        told.executor.call(FORGET, {"id": number})
    except CloudschedError as error:
        log.info("operation %s: the centre keeps what it gave: %s", told.work.operation.id, error.message)


def patient(told: Told) -> bool:
    """Is a centre that is away still waited for? Counted from the last step that was done: installing takes its time too."""
    steps = json.loads(told.work.operation.steps)
    ends = [datetime.fromisoformat(step["at"]).timestamp() for step in steps if step.get("at")]
    since = max([told.work.operation.created_at, *ends])
    section = told.settings.centres
    return clock.now() - since < section.away_limit_s + section.install_limit_s


def _undo(told: Told, error: CloudschedError, failed: Callable[[Told, str], None] | None) -> None:
    log.warning("operation %s: %s", told.work.operation.id, error.message)
    if failed is not None:
        failed(told, error.message)


def leave(tx: Tx, told: Told, host: Host, at: float) -> None:
    """In a transaction: a worker is in the cluster no more."""
    clusters.remove_node(tx, told.cluster.id, host.node_id, at=at, actor=told.actor)
    left = workers(told.cluster.id)
    clusters.update(tx, told.cluster.id, workers_wanted=left, workers_ready=left)


def workers(number: int) -> int:
    """How many workers a cluster has."""
    return sum(1 for _, role, *_ in clusters.members(number) if role == cc.WORKER)
