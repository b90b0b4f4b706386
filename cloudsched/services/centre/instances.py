"""What can be asked of resource instances? Buy, change, stop, give back, list; stock, row and events in one transaction.

The row comes first: it holds the stock while the centre's executor works on the cluster, with no transaction open. What fails
gives the stock back; what is left on its way by a death of this process is gone on with by `instance_watch`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cloudsched import clock
from cloudsched.domain import instance_manifests as manifests
from cloudsched.domain import instances as domain
from cloudsched.domain.entities import Cluster
from cloudsched.domain.instances import Amounts, Fault, InvalidInstance, Spec
from cloudsched.domain.stock import STANDARD, Amount
from cloudsched.errors import CloudschedError, Conflict, NotFound
from cloudsched.services.centre import centres, instance_objects, instance_places, metering, parts
from cloudsched.services.centre.centres import refused
from cloudsched.services.centre.instance_places import Place
from cloudsched.settings import Settings
from cloudsched.store import clusters
from cloudsched.store import instances as store
from cloudsched.store import parts as books
from cloudsched.store.db import Tx, write
from cloudsched.store.instances import Instance

__all__ = ["COLUMNS", "Instance", "NotDone", "Planned", "add", "ask", "carry_out", "change", "check_centre", "count", "find",
           "follow_nodes", "forget_cluster", "held", "listed", "plan", "remove", "stop", "take_away", "tidy"]

APPLY_LIMIT_S = 120.0
LEASE_S = 2 * APPLY_LIMIT_S  # so long nobody else looks after an instance that is being worked on
RETRY_S = 60.0
CLEAN_UP, APPLY_AGAIN = 1, 2  # values of the column `sweep`
COLUMNS = {"id": "key", "source_name": "name", "source_podengine": "engine", "username": "user", "state": "state"}


class NotDone(CloudschedError):
    """The cluster did not do what was asked; `found`: the instance as it is now. The message says why."""

    kind = "driver"

    def __init__(self, found: Instance, say: str, error: CloudschedError) -> None:
        super().__init__(error.message, details={"say": say, "reason": error.message, "id": found.key})
        self.found, self.cause = found, error


@dataclass(frozen=True, slots=True)
class Planned:
    """What a dry run found: the instance as it would be, and its objects as YAML."""

    found: Instance
    yaml: str


# -- buy and change --------------------------------------------------------------------------------------------


def add(given: Mapping[str, Any], *, cluster_key: str, org: str, user: str, actor: str, settings: Settings) -> Instance:
    """A new instance from fields by wire name: stock is taken, the row written, the objects made in the cluster.

    Raises InvalidInstance with every wrong field; StockShort, BudgetSpent; NotFound, Conflict for the cluster; NotDone when
    the cluster refuses: the stock is then given back and the row says `failed` with why.
    """
    place, values = _planned(given, cluster_key=cluster_key, org=org, user=user, settings=settings)
    number = write(lambda tx: _insert(tx, place, values, actor=actor))
    return carry_out(_row(number), place, actor=actor, settings=settings)


def plan(given: Mapping[str, Any], *, cluster_key: str, org: str, user: str, actor: str, settings: Settings) -> Planned:
    """What `add` would do: everything is checked, stock and budget too, and nothing changes. Raises what `add` raises."""
    place, values = _planned(given, cluster_key=cluster_key, org=org, user=user, settings=settings)
    found = centres.attempt(lambda tx: _row(_insert(tx, place, values, actor=actor)), dry_run=True)
    return Planned(found, manifests.as_yaml(manifests.all_of(found.names, found.wanted, "***")))


def change(key: str, given: Mapping[str, Any], *, scope: str | None, actor: str, settings: Settings, force: bool = False,
           dry_run: bool = False) -> Instance | Planned:
    """Change what is given; stock moves by the difference. A stopped or failed instance is started with it.

    What cannot be changed in place is made anew. `force`: also when a volume with its data is lost by that. Raises as `add`;
    after NotDone the instance is what it was.
    """
    found = find(key, scope=scope)
    _idle(found)
    place = instance_places.of_cluster(found.cluster_key, settings)
    was = found.wanted
    spec = _complete(domain.read(given, was=was), place)
    password = _password(given, found, settings)
    _check_change(was, spec, given, found, force=force)
    names = domain.names_of(found.key, cluster=found.cluster_key, org=found.org, engine=spec.source_podengine)
    chosen = found.node_port if spec.source_portmode == domain.NODE_PORT else 0  # by the cluster, when none was asked for
    facts = {"name": spec.source_name, "engine": spec.source_podengine, "spec": _text(spec.as_fields()), "password": password,
             "controller": names.controller, "node_port": _node_port(spec) or chosen, "stopped": 0}

    def begin(tx: Tx) -> Instance:
        _begin_change(tx, found, spec.amounts(), facts, actor=actor)
        return _row(found.id)

    changed = centres.attempt(begin, dry_run=dry_run)
    if dry_run:
        return Planned(changed, manifests.as_yaml(manifests.all_of(changed.names, spec, "***")))
    return carry_out(changed, place, actor=actor, settings=settings)


def stop(key: str, *, scope: str | None, actor: str, settings: Settings, reason: str = "", dry_run: bool = False) -> Instance:
    """Nothing of it runs any more; its data stays, and the disks it holds. Raises NotFound, Conflict, NotDone. A dry run answers
    the instance as it is."""
    found = find(key, scope=scope)
    if found.state == "stopped":
        return found
    place = instance_places.of_cluster(found.cluster_key, settings)

    def begin(tx: Tx) -> None:
        note = {"reason": reason} if reason else {}
        if not store.move(tx, found, "stop", at=clock.now(), actor=actor, note=note, stopped=1, previous=_before(found),
                          reason=reason, not_before=clock.now() + LEASE_S):
            raise _busy(found)

    centres.attempt(begin, dry_run=dry_run)
    return found if dry_run else carry_out(_row(found.id), place, actor=actor, settings=settings)


def follow_nodes(found: Instance, nodes: int, *, actor: str) -> bool:
    """A daemon set has come to run on another number of nodes: the books follow. Raises StockShort when there is less left."""
    spec = replace(found.wanted, source_replicasetnum=nodes)
    amounts, at = spec.amounts(), clock.now()

    def book(tx: Tx) -> bool:
        parts.consume(tx, found.centre_key, found.cluster_key, _as_amounts(_minus(amounts, found.held)), actor=actor)
        parts.release(tx, found.centre_key, found.cluster_key, _as_amounts(_minus(found.held, amounts)), actor=actor)
        if not store.update(tx, found, at=at, event="follow", actor=actor, note={"nodes": nodes}, spec=_text(spec.as_fields()),
                            amounts=_text(amounts), reason=""):
            raise _busy(found)
        store.open_period(tx, found, amounts, at=at)
        return True

    return write(book)


# -- give back -------------------------------------------------------------------------------------------------


def remove(key: str, *, scope: str | None, actor: str, settings: Settings, dry_run: bool = False) -> list[dict[str, str]]:
    """Take everything of it away; returns the objects that went. Asking again goes on with it.

    Raises NotFound, Conflict while it is on its way into the cluster, NotDone with what is left (it is tried again).
    """
    found = find(key, scope=scope)
    if found.state == "wanted" and found.not_before > clock.now():
        raise _busy(found)
    if dry_run:
        return _would_go(found)
    if found.state != "deleting":
        write(lambda tx: _begin_removal(tx, found, actor=actor))
    return take_away(_row(found.id), actor=actor, settings=settings)


def _would_go(found: Instance) -> list[dict[str, str]]:
    """What a removal would take away, in its order: with the volumes that the stateful set made, and the namespace with the last
    instance in it."""
    spec, names = found.wanted, found.names
    claims = ()  # type: tuple[str, ...]
    if spec.source_podengine == domain.STATEFUL_SET and spec.storage_gi:
        claims = tuple(f"data-{names.controller}-{number}" for number in range(spec.pods))
    made = [(one["kind"], one["metadata"]["name"]) for one in manifests.rest(names, spec)]
    made += [*(("PersistentVolumeClaim", claim) for claim in claims), ("Secret", names.secret)]
    made.sort(key=lambda one: manifests.KINDS.index(one[0]))
    beside = store.listed(cluster=found.cluster_key, org=found.org)[1]
    if not any(one.namespace == found.namespace and one.key != found.key for one in beside):
        made += [("ServiceAccount", names.account), ("Namespace", names.namespace)]
    return [{"kind": kind, "name": name, "action": "dry run"} for kind, name in made]


def forget_cluster(tx: Tx, cluster_key: str, *, actor: str, reason: str) -> int:
    """In the transaction in which a cluster ends with everything in it: its instances are gone too, and their stock is free.

    Returns how many there were.
    """
    at, count = clock.now(), 0
    for found in store.listed(cluster=cluster_key)[1]:
        if found.state != "deleting":
            _begin_removal(tx, found, actor=actor)
        _end(tx, _row(found.id), at=at, actor=actor, reason=reason)
        count += 1
    return count


# -- ask -------------------------------------------------------------------------------------------------------


def find(key: str, *, scope: str | None = None) -> Instance:
    """One instance by id. Raises NotFound, also for one of another organisation than `scope`, or one that was deleted."""
    found = store.by_key(key)
    if found is None or found.state == "deleted" or (scope is not None and found.org != scope):
        raise refused(NotFound, "no_instance", f"there is no resource instance {key}", id=key)
    return found


def check_centre(centre: str, cluster_key: str) -> None:
    """Is the cluster one of this centre? An empty centre says nothing. Raises NotFound, for a centre that is not there too."""
    if not centre:
        return
    cloud_id = centres.find(centre).cloud_id
    cluster = clusters.by_key(cluster_key)
    if cluster is not None and cluster.cloud_id != cloud_id:
        raise refused(NotFound, "not_its_centre", f"cluster {cluster_key} is not of the compute centre {centre}",
                      cluster=cluster.name, centre=centre)


def listed(*, centre: str = "", cluster: str = "", scope: str | None = None, limit: int | None = None, offset: int = 0,
           order: str = "id", down: bool = False) -> tuple[int, list[Instance]]:
    """(how many there are, one page) of those not deleted; `order` is one of `COLUMNS`."""
    return store.listed(centre=centre, cluster=cluster, org=scope, limit=limit, offset=offset, order=order, down=down)


def count(cluster_key: str) -> int:
    """How many instances a cluster has."""
    return store.count(cluster_key)


def held(tx: Tx, centre: str) -> list[tuple[str, str]]:
    """(cluster key, amounts as JSON) of what the books of a centre must hold (for their rebuild)."""
    return [(row[0], row[1]) for row in store.held(tx, centre)]


# -- carried out by the centre ---------------------------------------------------------------------------------


def carry_out(found: Instance, place: Place, *, actor: str, settings: Settings) -> Instance:
    """Have the cluster as the row wants it, and write down what came of it. Raises NotDone."""
    try:
        result = ask(place, found, instance_objects.APPLY, settings=settings)
    except CloudschedError as error:
        why = error
        write(lambda tx: _not_applied(tx, found, why, actor=actor))
        with contextlib.suppress(CloudschedError):  # it is tried again later
            tidy(_row(found.id), place, settings=settings)
        raise NotDone(_row(found.id), "instance_not_applied", error) from error
    write(lambda tx: _applied(tx, found, int(result.get("node_port") or 0), actor=actor))
    return _row(found.id)


def take_away(found: Instance, *, actor: str, settings: Settings) -> list[dict[str, str]]:
    """Have everything of a `deleting` instance gone from the cluster, and give back what it held. Raises NotDone."""
    gone: list[dict[str, str]] = []
    try:
        if not instance_places.is_gone(found.cluster_key):
            place = instance_places.of_cluster(found.cluster_key, settings)
            gone = ask(place, found, instance_objects.DELETE, settings=settings).get("objects", [])
    except CloudschedError as error:
        reason, at = error.message[:400], clock.now()
        write(lambda tx: store.update(tx, found, at=at, event="delete_fail", actor=actor, reason=reason, note={"reason": reason},
                                      not_before=at + RETRY_S))
        raise NotDone(_row(found.id), "instance_left_over", error) from error
    write(lambda tx: _end(tx, found, at=clock.now(), actor=actor))
    return gone


def ask(place: Place, found: Instance, action: str, *, settings: Settings) -> dict[str, Any]:
    """The executor's verb `yaml_apply_delete` for an instance. Raises what it raises."""
    given = {**place.params, "action": action, "id": found.key, "namespace_name": found.namespace,
             "serviceaccount_name": found.account, "podcd_name": found.controller, "service_name": found.service,
             "clusterid": found.cluster_key, "cpcid": found.centre_key, "orgid": found.org, "detail": "1",
             "source_stopped": str(found.stopped), "limit_s": str(APPLY_LIMIT_S)}
    if action == instance_objects.APPLY:
        given |= {**json.loads(found.spec), "source_authpasswd": centres.opened(found.password, settings)}
    answer = place.executor.call("yaml_apply_delete", given, limit_s=APPLY_LIMIT_S + 30.0)
    return answer if isinstance(answer, dict) else {}  # a centre of another make does it and tells nothing


def tidy(found: Instance, place: Place, *, settings: Settings) -> None:
    """After a failure: what was made of it goes, or is again what the row says. Raises what the centre says."""
    action = {CLEAN_UP: instance_objects.DELETE, APPLY_AGAIN: instance_objects.APPLY}.get(found.sweep)
    if action is not None:
        ask(place, found, action, settings=settings)
        write(lambda tx: store.update(tx, found, at=clock.now(), sweep=0))


# -- in transactions -------------------------------------------------------------------------------------------


def _planned(given: Mapping[str, Any], *, cluster_key: str, org: str, user: str,
             settings: Settings) -> tuple[Place, dict[str, Any]]:
    """The place and the row of a new instance, checked as far as it goes without the books."""
    faults: list[Fault] = []
    try:
        password = domain.check_password(given.get("source_authpasswd"))
    except InvalidInstance as invalid:
        faults, password = [*invalid.faults], ""
    try:
        spec = domain.read(given)
    except InvalidInstance as invalid:
        raise InvalidInstance([*invalid.faults, *faults]) from None
    if faults:
        raise InvalidInstance(faults)
    place = instance_places.of_cluster(cluster_key, settings)
    spec = _complete(spec, place)
    key = domain.new_key()
    names = domain.names_of(key, cluster=cluster_key, org=org, engine=spec.source_podengine)
    return place, {
        "key": key, "centre_key": place.centre.key, "cluster_key": cluster_key, "org": org, "user": user,
        "name": spec.source_name, "engine": spec.source_podengine,
        "spec": _text(spec.as_fields()), "password": centres.resealed("source_authpasswd", password, "", settings),
        "amounts": _text(spec.amounts()), "node_port": _node_port(spec), "namespace": names.namespace, "account": names.account,
        "controller": names.controller, "service": names.service, "not_before": clock.now() + LEASE_S}


def _insert(tx: Tx, place: Place, values: Mapping[str, Any], *, actor: str) -> int:
    metering.check_budget(tx, values["org"])
    books.lock(tx)  # nobody else takes the port meanwhile either
    _check_port(tx, place.cluster, int(values["node_port"]))
    wanted = [Amount(*one) for one in json.loads(values["amounts"])]
    parts.consume(tx, place.centre.key, place.cluster.key, wanted, actor=actor)
    return store.insert(tx, values, at=clock.now(), actor=actor)


def _begin_change(tx: Tx, found: Instance, wanted: Amounts, facts: Mapping[str, Any], *, actor: str) -> None:
    """Take what it needs more; what it needs less is given back when the change is done."""
    held = found.held
    more = _minus(wanted, held)
    if more:
        begins = found.state in ("stopped", "failed")
        metering.check_budget(tx, found.org, say="budget_spent_start" if begins else "budget_spent_more")
    books.lock(tx)
    port = int(facts["node_port"])
    if port and store.with_node_port(tx, found.cluster_key, port, but=found.key):
        raise InvalidInstance([Fault("source_outsideport", "clash", "", str(port))])
    parts.consume(tx, found.centre_key, found.cluster_key, _as_amounts(more), actor=actor)
    note = {"changed": _changed(json.loads(found.spec), json.loads(facts["spec"]))}
    if not store.move(tx, found, "change", at=clock.now(), actor=actor, note=note, **facts, previous=_before(found),
                      amounts=_text(_plus(held, more)), reason="", sweep=0, not_before=clock.now() + LEASE_S):
        raise _busy(found)


def _applied(tx: Tx, found: Instance, node_port: int, *, actor: str) -> None:
    at = clock.now()
    amounts = found.wanted.amounts()
    if found.stopped:
        amounts = [one for one in amounts if one[0] == "disk"]
    parts.release(tx, found.centre_key, found.cluster_key, _as_amounts(_minus(found.held, amounts)), actor=actor)
    done = store.move(tx, found, "halt" if found.stopped else "apply", at=at, actor=actor, previous="", amounts=_text(amounts),
                      reason=found.reason if found.stopped else "", live="", sweep=0, applied_at=at, not_before=0.0,
                      node_port=node_port or found.node_port)
    if not done:
        raise _busy(found)
    store.open_period(tx, found, amounts, at=at)


def _not_applied(tx: Tx, found: Instance, error: CloudschedError, *, actor: str) -> None:
    """What was bought for it is given back: it is what it was before, or failed."""
    before: dict[str, Any] = json.loads(found.previous) if found.previous else {"state": "failed", "amounts": []}
    parts.release(tx, found.centre_key, found.cluster_key, _as_amounts(_minus(found.held, before["amounts"])), actor=actor)
    at, reason = clock.now(), error.message[:1000]
    facts: dict[str, Any] = {"amounts": _text(before["amounts"]), "reason": reason, "previous": "", "not_before": at + RETRY_S}
    event = {"applied": "restore", "stopped": "halt"}.get(before["state"], "fail")
    if event == "fail":
        facts |= {"sweep": CLEAN_UP}
        store.close_period(tx, found.key, at=at, why="failed")
    else:
        facts |= {"sweep": APPLY_AGAIN, **before["facts"]}
    if not store.move(tx, found, event, at=at, actor=actor, note={"reason": reason[:400]}, **facts):
        raise _busy(found)


def _begin_removal(tx: Tx, found: Instance, *, actor: str) -> None:
    at = clock.now()
    if not store.move(tx, found, "delete", at=at, actor=actor, previous="", not_before=at + LEASE_S):
        raise _busy(found)
    store.close_period(tx, found.key, at=at, why="deleted")


def _end(tx: Tx, found: Instance, *, at: float, actor: str, reason: str = "") -> None:
    parts.release(tx, found.centre_key, found.cluster_key, _as_amounts(found.held), actor=actor)
    if not store.move(tx, found, "end", at=at, actor=actor, amounts="[]", sweep=0, live="", reason=reason, ended_at=at):
        raise _busy(found)


def _check_port(tx: Tx, cluster: Cluster, port: int) -> None:
    if port and store.with_node_port(tx, cluster.key, port):
        raise InvalidInstance([Fault("source_outsideport", "clash", "", str(port))])


# -- checks ----------------------------------------------------------------------------------------------------


def _complete(spec: Spec, place: Place) -> Spec:
    """Models that were not said: the one of which most is free. A daemon set has one pod on each node that it chooses."""
    free = books.free(centre=place.centre.key, cluster=place.cluster.key)

    def model(sort: str, given: str) -> str:
        of_sort = [(amount, name) for (kind, name), amount in free.items() if kind == sort]
        return given or (max(of_sort)[1] if of_sort else STANDARD)

    spec = replace(spec, cpu_model=model("cpu", spec.cpu_model), memory_model=model("memory", spec.memory_model),
                   gpu_model=model("gpu", spec.gpu_model) if spec.source_gpu else spec.gpu_model)
    if spec.source_podengine != domain.DAEMON_SET:
        return spec
    wanted = spec.node_selector.items()
    fitting = [one for one in place.executor.free_nodes(place.where) if one.ready and wanted <= one.labels.items()]
    if not fitting:
        raise InvalidInstance([Fault("source_nodeselector", "choice", "", spec.source_nodeselector or "-")])
    return replace(spec, source_replicasetnum=len(fitting))


def _check_change(was: Spec, spec: Spec, given: Mapping[str, Any], found: Instance, *, force: bool) -> None:
    faults = []
    cluster = str(given.get("clusterid") or found.cluster_key)
    if cluster != found.cluster_key:
        faults.append(Fault("clusterid", "fixed", found.cluster_key, cluster[:80]))
    keeps_data = found.state != "failed" and bool(was.storage_gi) and not force
    if keeps_data and spec.source_podengine != was.source_podengine:
        faults.append(Fault("source_podengine", "fixed", f"{was.source_podengine}, force=1", spec.source_podengine))
    elif keeps_data and spec.storage_gi < was.storage_gi:
        faults.append(Fault("source_storagelimits", "fixed", f">= {was.source_storagelimits}", spec.source_storagelimits or "0"))
    if faults:
        raise InvalidInstance(faults)


def _password(given: Mapping[str, Any], found: Instance, settings: Settings) -> str:
    """What is kept of the password: the old one when none is given, or what was read is given back."""
    text = given.get("source_authpasswd")
    if text is None or text == "":
        return found.password
    if text == found.password:
        return found.password
    return centres.resealed("source_authpasswd", domain.check_password(text), found.password, settings)


def _idle(found: Instance) -> None:
    if found.state in ("wanted", "deleting"):
        raise _busy(found)


def _busy(found: Instance) -> Conflict:
    return refused(Conflict, "instance_busy", f"resource instance {found.key} is being changed (state {found.state})",
                   id=found.key, state=found.state)


# -- parts -----------------------------------------------------------------------------------------------------


def _before(found: Instance) -> str:
    facts = {name: getattr(found, name) for name in ("name", "engine", "spec", "password", "controller", "node_port", "stopped")}
    return _text({"state": found.state, "amounts": found.held, "facts": facts})


def _row(number: int) -> Instance:
    found = store.get(number)
    if found is None:
        raise NotFound(f"there is no resource instance {number}")
    return found


def _node_port(spec: Spec) -> int:
    return spec.source_outsideport if spec.source_portmode == domain.NODE_PORT else 0


def _changed(was: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(name for name, value in now.items() if was.get(name) != value)


def _minus(some: Any, less: Any) -> Amounts:
    """What of `some` is more than in `less`, by type and model."""
    left = {(sort, model): amount for sort, model, amount in less}
    return [(sort, model, amount - left.get((sort, model), 0)) for sort, model, amount in some
            if amount > left.get((sort, model), 0)]


def _plus(some: Amounts, more: Amounts) -> Amounts:
    total = {(sort, model): amount for sort, model, amount in some}
    for sort, model, amount in more:
        total[sort, model] = total.get((sort, model), 0) + amount
    return [(sort, model, amount) for (sort, model), amount in total.items()]


def _as_amounts(some: Amounts) -> list[Amount]:
    return [Amount(*one) for one in some]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
