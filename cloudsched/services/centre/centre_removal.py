"""How does a worker leave its cluster, and how is a cluster taken apart? The steps; centre_ops puts them together."""

from __future__ import annotations

from contextlib import suppress

from cloudsched import clock
from cloudsched.drivers.installing.job import Step
from cloudsched.errors import CloudschedError, Conflict
from cloudsched.services import operations, pool_clouds
from cloudsched.services.centre import centre_clusters as cc
from cloudsched.services.centre import centre_hosts, parts
from cloudsched.services.centre.centre_calls import CANCEL, ENDED, access_of
from cloudsched.services.centre.centre_growth import follow_cloud, resize
from cloudsched.services.centre.centre_work import AWAY_AGAIN_S, LOOK_AGAIN_S, Later, Told, asked, leave, patient, waited
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters, nodes
from cloudsched.store.centres import Host
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

STOP_LIMIT_S = 30.0
# With force a host that was not reached so long after the removal was asked for is left; it is given some time in any case.
REACH_LIMIT_S, REACH_LEAST_S = 60.0, 20.0


def remove_node(told: Told) -> str:
    """The node is drained and taken out of the cluster."""
    name = next((name for node_id, _, name, _ in clusters.members(told.cluster.id) if node_id == told.host.node_id),
                cc.node_name(told.host))
    try:
        told.executor.delete_node(told.where, name, force=told.force)
    except CloudschedError as error:
        if not told.force:
            raise
        return f"left in the cluster: {error.message}"
    return f"{name} is no node of it any more"


def ask_apart(told: Told) -> str:
    """The centre is asked to take the worker apart."""
    return _apart(told, told.host, cc.WORKER)


def _apart(told: Told, host: Host, role: str) -> str:
    try:
        number = asked(told, f"apart:{host.key}", lambda reference: told.executor.take_apart(
            access_of(host, told.settings), kind=told.cluster.kind, role=role, actor=told.actor, options=told.options(host),
            reference=reference))
    except CloudschedError as error:
        if not told.force:
            raise
        return f"{host.name} {cc.LEFT}: {error.message}"
    return f"the centre does it as its operation {number}"


def wait_apart(told: Told) -> Later | str:
    """It is waited for."""
    return _waited_apart(told, told.host)


def _waited_apart(told: Told, host: Host) -> Later | str:
    part = f"apart:{host.key}"
    try:
        said = waited(told, part)
        return _unreached(told, host, part, said.detail) or said if told.force and isinstance(said, Later) else said
    except CloudschedError as error:
        if not told.force:
            raise
        return f"{host.name} {cc.LEFT}: {error.message}"


def _unreached(told: Told, host: Host, part: str, detail: str) -> str:
    """A host that hangs is not waited for beyond a limit, however long each try takes; nothing for one that was reached."""
    where, colon, why = detail.partition(": ")
    number, asked_at = store.begun_at(told.reference(part) + "*")
    until = max(told.work.operation.created_at + REACH_LIMIT_S, asked_at + REACH_LEAST_S)
    if where != Step.LOOK or not colon or clock.now() < until:
        return ""
    with suppress(CloudschedError):  # it is not reached: that it goes on trying does no harm
        told.executor.call(CANCEL, {"id": number, "actor": told.actor})
    late = f"not reached within {REACH_LIMIT_S:.0f} s: {why}"
    return f"{host.name} {cc.LEFT}: {late}"


def worker_gone(told: Told) -> str:
    """The host is idle, and in no cluster."""
    host = told.host

    def free(tx: Tx) -> None:
        at = clock.now()
        store.update(tx, "centre_host", host.id, node_status=store.IDLE, role="", updated_at=at, where="cluster_key = ''")
        leave(tx, told, host, at)
        store.note(tx, "centre.host_free", ("node", host.node_id), at=at, actor=told.actor, org=told.centre.org, id=host.key,
                   name=host.name, cluster=told.cluster.key)

    write(free)
    resize(told.cluster, told.settings, actor=told.actor)
    disabled = follow_cloud(told.cluster, told.settings, actor=told.actor)
    return f"{host.name} is idle; {disabled}" if disabled else f"{host.name} is idle"


def worker_stays(told: Told, why: str) -> None:
    """It could not be taken out: it is the cluster's again, with all that it holds."""
    host = store.host(str(told.work.request["host"]))

    def back(tx: Tx) -> None:
        if host is None or not store.update(tx, "centre_host", host.id, cluster_key=told.cluster.key, updated_at=clock.now(),
                                            where="cluster_key = '' AND node_status = '1'"):
            return
        parts.move_host(tx, told.centre.key, before=("", centre_hosts.amounts(host)),
                        after=(told.cluster.key, centre_hosts.amounts(host)), actor=told.actor)
        store.note(tx, "centre.worker_stays", ("cluster", told.cluster.id), at=clock.now(), actor=told.actor, org=told.centre.org,
                   id=told.cluster.key, host=host.key, why=why[:1000])

    write(back)


# a cluster goes


def stop_work(told: Told) -> Later | str:
    """What was under way for it when it was told to go has ended, here and in the executor."""
    stopped = [int(number) for number in told.work.request.get("stopped") or ()]
    going = [number for number in stopped if operations.one(number)["state"] not in ENDED]
    if going:
        return Later(LOOK_AGAIN_S, f"operation {going[0]} is being cancelled")
    said = [one for number in stopped for one in _stopped(told, number)]
    waiting = next((one for one in said if isinstance(one, Later)), None)
    if waiting is not None:
        return waiting
    return f"cancelled: {', '.join(map(str, stopped))}" if stopped else "nothing was under way"


def _stopped(told: Told, number: int) -> list[Later | str]:
    parts_of = ("new", "worker", *(f"apart:{host.key}" for host in _hosts(told)))
    begun = [store.begun(f"{told.cluster.key}:{number}:{part}*") for part in parts_of]
    return [_executor_stopped(told, one) for one in begun if one is not None]


def _executor_stopped(told: Told, number: int) -> Later | str:
    """It is cancelled where it is done; one that cannot be is waited for a while."""
    try:
        if told.executor.progress(number).done:
            return f"{number} has ended"
        told.executor.call(CANCEL, {"id": number, "actor": told.actor})
        ended = told.executor.progress(number).done
    except CloudschedError as error:
        return f"{number}: {error.message}"
    if ended or clock.now() - told.work.operation.created_at > STOP_LIMIT_S:
        return f"{number} is cancelled"
    return Later(LOOK_AGAIN_S, f"the executor's operation {number} is being cancelled")


def look_for_instances(told: Told) -> str:
    """Nothing that was sold is lost unless that was said."""
    count = cc.count_instances(told.cluster)
    if count and not told.force:
        raise Conflict(f"the cluster has {count} resource instances")
    return f"{count} resource instances go with it"


def leave_queue(told: Told) -> Later | str:
    """It is no cloud of the batch queue any more; what ran there for it is ended first."""
    made = clouds.get(told.cluster.made_cloud_id or 0)
    if made is None:
        return "it is no cloud of the batch queue"
    if made.state == "active":
        pool_clouds.remove_cloud(made.name, actor=told.actor)
    left = len(nodes.live(cloud_id=made.id))
    if left and not told.force and patient(told):
        return Later(LOOK_AGAIN_S, f"{left} nodes of the batch queue are left")
    return f"cloud {made.name} is removed"


def _hosts(told: Told) -> list[Host]:
    """Workers first, the controller last."""
    return cc.hosts_in(told.cluster)


def ask_all_apart(told: Told) -> str:
    """The controller comes last: workers may have to tell it that they go."""
    hosts = [host for host in _hosts(told) if host.role != cc.MASTER]
    said = [_apart(told, host, cc.WORKER) for host in hosts]
    return "; ".join(said)[:1000] if said else "it has no workers"


def wait_all_apart(told: Told) -> Later | str:
    """All workers are waited for."""
    left = []
    for host in _hosts(told):
        if host.role == cc.MASTER or store.begun(told.reference(f"apart:{host.key}") + "*") is None:
            continue  # one that could not be asked is told of where it was
        said = _waited_apart(told, host)
        if isinstance(said, Later):
            return Later(said.pause_s, f"{host.name}: {said.detail}")
        left += [said] if cc.LEFT in said else []
    return "; ".join(left)[:1000] or "its workers are apart"


def controller_apart(told: Told) -> Later | str:
    """The controller is taken apart, and waited for."""
    for host in _hosts(told):
        if host.role == cc.MASTER:
            reference = told.reference(f"apart:{host.key}") + "*"
            said = _apart(told, host, cc.MASTER) if store.begun(reference) is None else ""
            return said if store.begun(reference) is None else _waited_apart(told, host)
    return "it has no controller"


def cluster_gone(told: Told) -> Later | str:
    """The cluster has ended with all that was in it; its hosts are idle."""
    from cloudsched.services.centre import instances

    hosts = _hosts(told)

    def end(tx: Tx) -> None:
        at = clock.now()
        instances.forget_cluster(tx, told.cluster.key, actor=told.actor, reason="its cluster is gone")
        for host in hosts:
            centre_hosts.free(tx, host, actor=told.actor)
            clusters.remove_node(tx, told.cluster.id, host.node_id, at=at, actor=told.actor)
        clusters.update(tx, told.cluster.id, secrets="", workers_wanted=0, workers_ready=0)
        move(tx, "cluster", told.cluster.id, "end", at=at, actor=told.actor, reason="")
        store.note(tx, "centre.cluster_gone", ("cluster", told.cluster.id), at=at, actor=told.actor, org=told.centre.org,
                   id=told.cluster.key, name=told.cluster.name)

    try:
        write(end)
    except Conflict as error:  # an instance is just being changed
        if patient(told):
            return Later(AWAY_AGAIN_S, error.message)
        raise
    return f"{len(hosts)} hosts are idle"


def cluster_stays(told: Told, why: str) -> None:
    """It could not be taken apart: why is in its row, and asking again begins anew."""
    write(lambda tx: clusters.update(tx, told.cluster.id, reason=why[:1000], event="cluster.end_fail", at=clock.now(),
                                     actor=told.actor, note={"why": why[:1000]}))
