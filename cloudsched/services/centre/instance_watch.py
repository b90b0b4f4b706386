"""Are resource instances as they should be? Looked at in batches by the engine; what was left on its way is gone on with.

One request per kind of controller and cluster, however many instances there are; only what changed is written down. A cluster
that cannot be asked is left alone for a while, and says nothing about its instances.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain.instances import DAEMON_SET
from cloudsched.domain.stock import StockShort
from cloudsched.errors import CloudschedError
from cloudsched.services.centre import instance_objects, instance_places, instances, metering
from cloudsched.services.centre.centre_calls import register_verb
from cloudsched.settings import Settings
from cloudsched.store import instances as store
from cloudsched.store.db import Tx, write
from cloudsched.store.instances import Instance

log = logging.getLogger(__name__)

LOOK_S = 15.0  # so often a cluster is looked at
AWAY_S = 60.0  # so long one that did not answer is left alone
STATES = "get_instance_states"
DUE_MOST, STOP_MOST = 10, 20
MISSING, STOPPED = "missing", "stopped"
# Phases in which what an instance has bought is in use.
_IN_USE = ("running", "starting", STOPPED)
_SEEN = frozenset({"phase", "ready", "wanted", "reason"})
_ACTOR = "system"
_look_next: dict[str, float] = {}
_settings: Settings | None = None


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one cycle did: instances looked at, those whose phase changed, those gone on with, clusters that were away."""

    seen: int = 0
    changed: int = 0
    resumed: int = 0
    away: int = 0


def wire(settings: Settings) -> None:
    """Once per process: budgets may stop instances, and the executor's verbs of instances are known."""
    global _settings
    _settings = settings
    metering.on_overspent(_stop_org)


def tick(settings: Settings) -> Ticked:
    """One cycle of the engine."""
    wire(settings)
    resumed = _resume(settings)
    seen = changed = away = 0
    for cluster in store.clusters_in_use():
        if clock.now() < _look_next.get(cluster, 0.0):
            continue
        members = store.to_look_at(cluster)
        try:
            live = states(cluster, settings)
        except CloudschedError as error:
            log.warning("cluster %s: its instances cannot be looked at: %s", cluster, error.message)
            _look_next[cluster] = clock.now() + AWAY_S
            away += 1
            continue
        _look_next[cluster] = clock.now() + LOOK_S
        seen += len(members)
        changed += settle(members, live)
        _follow([one for one in members if one.engine == DAEMON_SET and one.state == "applied"], live)
    return Ticked(seen, changed, resumed, away)


def states(cluster: str, settings: Settings) -> dict[str, dict[str, Any]]:
    """How the instances of a cluster are, by the label of their objects. Raises what the centre says."""
    place = instance_places.of_cluster(cluster, settings)
    answer = place.executor.call(STATES, place.params)
    if not isinstance(answer, dict) or not all(isinstance(one, dict) and one.keys() >= _SEEN for one in answer.values()):
        raise CloudschedError("the centre answers in another shape than this server knows")
    return answer


def settle(members: Sequence[Instance], live: Mapping[str, Mapping[str, Any]]) -> int:
    """Write down what is different from before, and from when to when it ran; returns in how many the phase changed."""
    pairs = [(one, _seen(one, live.get(one.names.key))) for one in members]
    different = [(one, seen) for one, seen in pairs
                 if (one.live, one.live_ready, one.live_reason) != (seen["phase"], seen["ready"], seen["reason"])]
    running = store.running_keys()
    metered = [(one, seen) for one, seen in pairs
               if (seen["phase"] in _IN_USE and one.amounts != "[]") != (one.key in running)]
    # Missing twice in a row: somebody took it away, it is made again.
    lost = [one for one, seen in pairs if seen["phase"] == MISSING and one.live == MISSING and not one.sweep]
    if different or metered or lost:
        write(lambda tx: _write_down(tx, different, metered, lost))
    return sum(one.live != seen["phase"] for one, seen in different)


def _write_down(tx: Tx, different: Sequence[tuple[Instance, Mapping[str, Any]]],
                metered: Sequence[tuple[Instance, Mapping[str, Any]]], lost: Sequence[Instance]) -> None:
    at = clock.now()
    store.see(tx, different, at=at)
    for one, seen in metered:
        now = store.get(one.id)
        if now is None or now.version != one.version:  # it was changed since we looked: the next look tells
            continue
        if seen["phase"] in _IN_USE:
            store.open_period(tx, one, one.held, at=at)
        else:
            store.close_period(tx, one.key, at=at, why=seen["phase"])
    for one in lost:
        store.update(tx, one, at=at, event="lost", actor=_ACTOR, sweep=instances.APPLY_AGAIN, not_before=at)


def _follow(members: Sequence[Instance], live: Mapping[str, Mapping[str, Any]]) -> None:
    """Nodes came or went: daemon sets hold what they really use, as far as there is stock."""
    for one in members:
        nodes = int(live.get(one.names.key, {}).get("wanted") or 0)
        if nodes in (0, one.wanted.source_replicasetnum):
            continue
        try:
            instances.follow_nodes(one, nodes, actor=_ACTOR)
        except StockShort as short:
            reason = short.message
            if one.reason != reason:
                write(lambda tx, one=one, reason=reason: store.update(  # type: ignore[misc]
                    tx, one, at=clock.now(), event="over", actor=_ACTOR, reason=reason, note={"reason": reason}))
        except CloudschedError as error:
            log.warning("instance %s: %s", one.key, error.message)


def _seen(one: Instance, found: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if found is not None:
        return found
    # Of a stopped daemon set or pod nothing is left to be seen.
    return {"phase": STOPPED if one.state == STOPPED else MISSING, "ready": 0, "reason": ""}


# -- what was left on its way ----------------------------------------------------------------------------------


def _resume(settings: Settings) -> int:
    done = 0
    for found in store.due(clock.now(), limit=DUE_MOST):
        number, at = found.id, clock.now()
        if write(lambda tx, number=number, at=at: store.claim(tx, number, at=at, until=at + instances.LEASE_S)):  # type: ignore[misc]
            _go_on(found, settings)
            done += 1
    return done


def _go_on(found: Instance, settings: Settings) -> None:
    try:
        if found.state == "deleting":
            instances.take_away(found, actor=_ACTOR, settings=settings)
        elif instance_places.is_gone(found.cluster_key):
            write(lambda tx: store.update(tx, found, at=clock.now(), sweep=0))
        else:
            place = instance_places.of_cluster(found.cluster_key, settings)
            if found.state == "wanted":
                instances.carry_out(found, place, actor=_ACTOR, settings=settings)
            else:
                instances.tidy(found, place, settings=settings)
    except CloudschedError as error:
        log.warning("instance %s: %s", found.key, error.message)
        again = clock.now() + instances.RETRY_S
        write(lambda tx: store.put_off(tx, found.id, until=again))


def _stop_org(org: str) -> int:
    """The budget of an organisation is spent: what it runs is stopped."""
    if _settings is None:
        return 0
    stopped = 0
    for found in store.of_org(org, states=("applied",))[:STOP_MOST]:  # the others in a minute, when it is asked again
        try:
            instances.stop(found.key, scope=None, actor=_ACTOR, settings=_settings, reason="budget")
            stopped += 1
        except CloudschedError as error:
            log.warning("instance %s could not be stopped: %s", found.key, error.message)
    return stopped


# -- the executor's side ---------------------------------------------------------------------------------------


def look(params: Mapping[str, Any], settings: Settings) -> dict[str, dict[str, Any]]:
    """The verb `get_instance_states`: phase, ready, wanted and reason of every instance in the cluster, by label."""
    return instance_objects.look(instance_objects.open_cluster(instance_objects.kubeconfig_of(params), settings))


register_verb(STATES, look)
