"""How do machines for Spark and Flink clusters come and go? EC2 nodes launched, destroyed and cleaned up when asked.

A launched node is a node like any other: its row is written first, the engine's workers boot it, every dialect shows it.
It belongs to no user and no type, so it may run anybody's jobs of the batch queue, and it is kept from the queue's own
clean-up: it goes when it is destroyed, or when no cluster and no job has used it for `dcluster.nodes_idle_limit_s`.
Who asked for it, and when it was last used, is kept in one record beside (contract dcluster, "Nodes and cloud").
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.framework_objects import INSTANCE
from cloudsched.errors import CloudschedError, Conflict, FieldError, Invalid, NotFound
from cloudsched.services import lifecycle
from cloudsched.services.caller import Caller
from cloudsched.services.frameworks.cloud_offers import (
    REGION,
    cloud_of,
    configure,
    driver_of,
    ec2_clouds,
    instance_types,
    parsed,
    refresh_inventory,
    region_of,
    settings,
    types_of,
)
from cloudsched.services.frameworks.instance_log import instance_log, log_instance
from cloudsched.services.pool import names_of, storable
from cloudsched.store import boots, clouds, clusters, nodes, system
from cloudsched.store.db import Tx, write

__all__ = ["Cleaned", "asked_by", "clean_up", "configure", "destroy", "instance_log", "instance_types", "launch", "log_instance",
           "refresh_inventory"]

PURPOSE = "dcluster"  # key of the option `images`, part of names, and what the request says a node is for
MOST_IDS = 1000
NEVER_S = 315_360_000  # ten years idle: the queue does not take it away
_RECORD = "cloud_nodes"
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What a clean-up did: names of the nodes that go, and of those that stay, each with why."""

    destroyed: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)


# launch and destroy


def launch(fields: Mapping[str, Any], caller: Caller) -> list[str]:
    """Have `nodeCount` machines of `instanceType` in `region` booted; their names. They are there when the engine has booted
    them. Raises Invalid naming each wrong field, Unavailable when no cloud can be used (it says what is missing), Conflict
    when the cloud has no room."""
    caller.require("operator")
    count, type_name, region = _asked(fields)
    cloud = cloud_of(region)
    known = types_of(cloud)
    size = next((one for one in known.types if one["name"] == type_name), None)
    if not known.types:  # an old server that cannot list them: it says itself what it has not
        size = {"name": type_name, "cores": 1, "memory_mb": 0}
    if size is None:
        shown = ", ".join(known.names[:20]) + (", ..." if len(known.names) > 20 else "")
        raise Invalid.at("instanceType", f"{type_name!r} cannot be had in {known.region}", shown or "none")
    return write(lambda tx: _request(tx, cloud, size, count, caller))


def destroy(fields: Mapping[str, Any], caller: Caller) -> list[str]:
    """Have nodes of EC2 clouds destroyed, named by `nodeIds` (`i-...`, names or numbers of nodes); their names. `region`, when
    given, must be theirs. All or none: raises NotFound naming every id that is not there, Invalid for wrong fields."""
    caller.require("operator")
    ids, region = _ids(fields)
    places = [one for one in ec2_clouds(removed=True) if region in ("", region_of(one))]
    known: dict[str, Node] = {}
    for cloud in places:
        for node in nodes.live(cloud_id=cloud.id):
            known |= dict.fromkeys((*names_of(node), str(node.id)), node)
    missing = [one for one in ids if one not in known]
    if missing:
        where = f" in {region}" if region else ""
        raise NotFound(f"there is no node {', '.join(missing)}{where}", details={"unknown": missing})
    found = list({known[one].id: known[one] for one in ids}.values())
    write(lambda tx: [lifecycle.stop(tx, node.id, at=clock.now(), actor=caller.name, reason="asked for") for node in found])
    return [node.name for node in found]


def asked_by(node_id: int) -> str:
    """Who had the node launched; empty for one that came otherwise, or that is gone."""
    return str((_read().get("nodes", {}).get(str(node_id)) or {}).get("by", ""))


def _asked(fields: Mapping[str, Any]) -> tuple[int, str, str]:
    faults: list[FieldError] = []
    most = settings().dcluster.nodes_max
    count = _whole(fields.get("nodeCount"), low=1, high=most)
    if count is None:
        faults.append(_fault("nodeCount", fields.get("nodeCount"), "is not a number of nodes", f"1 to {most}"))
    type_name, region = fields.get("instanceType"), fields.get("region") or ""
    if not isinstance(type_name, str) or not _TYPE.fullmatch(type_name):
        faults.append(_fault("instanceType", type_name, "is not an instance type", "a name such as m5.large"))
    if not isinstance(region, str) or (region and not REGION.fullmatch(region)):
        faults.append(_fault("region", region, "is not a region", "a name such as us-west-2"))
    _refuse(faults)
    return count or 0, str(type_name), str(region)


def _ids(fields: Mapping[str, Any]) -> tuple[list[str], str]:
    faults: list[FieldError] = []
    raw, region = fields.get("nodeIds"), fields.get("region") or ""
    ids = [raw] if isinstance(raw, str) else raw
    if not isinstance(ids, (list, tuple)) or not 1 <= len(ids) <= MOST_IDS:
        faults.append(FieldError("nodeIds", "is missing" if raw is None else "is not right", f"a list of 1 to {MOST_IDS} ids"))
        ids = []
    for number, one in enumerate(ids):
        if isinstance(one, bool) or not isinstance(one, (str, int)) or not 1 <= len(str(one)) <= 255 or not storable(str(one)):
            faults.append(_fault(f"nodeIds[{number}]", one, "is not an id", "i-..., or the name or number of a node"))
    if not isinstance(region, str) or (region and not REGION.fullmatch(region)):
        faults.append(_fault("region", region, "is not a region", "a name such as us-west-2"))
    _refuse(faults)
    return list(dict.fromkeys(str(one).strip() for one in ids)), str(region)


def _request(tx: Tx, cloud: Cloud, size: Mapping[str, Any], count: int, caller: Caller) -> list[str]:
    at = clock.now()
    record = parsed(system.locked_setting(tx, _RECORD, "{}"))  # two launches at once: one after the other
    _check_room(tx, cloud, size, count)
    serial, made = int(record.get("serial", 0)), []
    for _ in range(count):
        serial += 1
        name = f"{cloud.name.replace('_', '-')}-{PURPOSE}-{serial}"
        values = {"name": name, "cloud_id": cloud.id, "user": "", "vm_type": "", "cores": max(1, int(size["cores"])),
                  "memory_mb": int(size["memory_mb"]), "slots": 1,  # clusters need the rest of it
                  "instance_type": size["name"], "image": _image(cloud), "keep_alive_s": NEVER_S}
        number = lifecycle.request(tx, values, [], at=at, actor=caller.name, note={
            "cloud": cloud.name, "instance_type": size["name"], "for": PURPOSE, "asked_by": caller.name})
        record.setdefault("nodes", {})[str(number)] = {"by": caller.name, "at": at, "used_at": at}
        made.append(name)
    system.put_setting(tx, _RECORD, json.dumps({**record, "serial": serial}, sort_keys=True))
    return made


def _check_room(tx: Tx, cloud: Cloud, size: Mapping[str, Any], count: int) -> None:
    used, memory_mb, _ = boots.used(tx, cloud.id)
    free = cloud.max_slots - used
    if cloud.memory_mb >= 0 and size["memory_mb"]:
        free = min(free, (cloud.memory_mb - memory_mb) // int(size["memory_mb"]))
    if count > free:
        raise Conflict(f"nodeCount: {cloud.name} has room for {max(0, free)} more nodes of this type, not for {count}",
                       details={"free": max(0, free)})


def _image(cloud: Cloud) -> str:
    """The image for nodes of clusters, where the cloud has one; else its usual one, chosen when it boots."""
    images = cloud.option.get("images")
    return str(images.get(PURPOSE, "")) if isinstance(images, Mapping) else ""


# what nobody uses


def need_cloud() -> None:
    """Raise Unavailable, saying what is missing, where no cloud could have nodes of ours."""
    if not ec2_clouds():
        cloud_of("")


def clean_up(caller: Caller) -> Cleaned:
    """Destroy launched nodes that no cluster and no job has used for the idle limit, Kubernetes nodes only after they were
    drained and taken out of their cluster. A node whose use cannot be known, or that cannot be drained, is kept and told of."""
    caller.require("operator")
    mine = _launched()
    if not mine:
        write(lambda tx: _note_use(tx, ()))
        return Cleaned()
    view, trouble = _kubernetes()
    used = {node.id for node in mine if _is_used(node, view)} | _in_clusters(mine)
    record = write(lambda tx: _note_use(tx, used))
    destroyed, kept = [], {}
    until = time.monotonic() + 2 * settings().dcluster.nodes_drain_s
    for node in mine:
        why = _why_kept(node, record, trouble)
        if not why:
            why = _end(node, view, caller) if time.monotonic() < until else "draining took long: it goes with the next clean-up"
        if why:
            kept[node.name] = why
        else:
            destroyed.append(node.name)
    return Cleaned(tuple(destroyed), kept)


@dataclass(frozen=True, slots=True)
class _View:
    """The Kubernetes cluster of clusters: its nodes by what tells which machine they are, and those with pods of clusters."""

    driver: Any
    names: Mapping[str, str]
    busy: frozenset[str]

    def node(self, node: Node) -> str:
        """The machine's name there; empty when it has not joined."""
        return next((self.names[one] for one in (node.external_id, node.hostname, node.address) if one and one in self.names), "")


def _launched() -> list[Node]:
    """Launched nodes that run and are wanted."""
    found = (nodes.get(int(number)) for number in _read().get("nodes", {}))
    return [node for node in found if node is not None and node.state == "running" and node.goal != "gone"]


def _kubernetes() -> tuple[_View | None, str]:
    """(what is there, why it cannot be said); both empty when clusters do not run in Kubernetes."""
    place, _, name = settings().dcluster.place.partition(":")
    if place != "kubernetes":
        return None, ""
    cloud = clouds.by_name(name)
    if cloud is None:
        return None, f"the setting dcluster.place names {name!r}, and there is no such cloud"
    try:
        driver = driver_of(cloud)
        names: dict[str, str] = {}
        for one in driver.objects("Node", namespace=""):
            names |= dict.fromkeys(_marks(one), str(one["metadata"]["name"]))
        pods = driver.pods("", selector=INSTANCE)  # of clusters, of jobs on them, pilots
    except CloudschedError as error:
        return None, f"{cloud.name} cannot be asked what it uses: {error}"
    return _View(driver, names, frozenset(pod.node for pod in pods if pod.node and pod.phase in ("Pending", "Running"))), ""


def _marks(one: Mapping[str, Any]) -> list[str]:
    """The provider's id of the machine (the last part of `aws:///zone/i-...`), its names and addresses."""
    provider = str((one.get("spec") or {}).get("providerID") or "").rsplit("/", 1)[-1]
    addresses = [str(each.get("address") or "") for each in (one.get("status") or {}).get("addresses") or ()]
    return [each for each in (provider, str(one["metadata"]["name"]), *addresses) if each]


def _is_used(node: Node, view: _View | None) -> bool:
    return view is not None and view.node(node) in view.busy


def _in_clusters(mine: Sequence[Node]) -> set[int]:
    """Those that belong to a cluster that lives, or hold jobs."""
    held = nodes.counts_in_hand()
    busy = {node.id for node in mine if held.get(node.id)}
    for node_id, (cluster_id, _, _) in clusters.of_nodes(node.id for node in mine).items():
        cluster = clusters.get(cluster_id)
        if cluster is not None and cluster.state in moves.CLUSTER_LIVE:
            busy.add(node_id)
    return busy


def _note_use(tx: Tx, used: set[int] | tuple[()]) -> dict[str, Any]:
    """The record with those in use now, without nodes that have ended."""
    record = parsed(system.locked_setting(tx, _RECORD, "{}"))
    live: dict[str, Any] = {}
    for number, facts in record.get("nodes", {}).items():
        node = nodes.get(int(number))
        if node is not None and node.state in moves.NODE_LIVE:
            live[number] = {**facts, "used_at": clock.now()} if int(number) in used else facts
    record["nodes"] = live
    system.put_setting(tx, _RECORD, json.dumps(record, sort_keys=True))
    return record


def _why_kept(node: Node, record: Mapping[str, Any], trouble: str) -> str:
    """Why the node stays; empty when its time is over."""
    if trouble:
        return trouble
    facts = record["nodes"].get(str(node.id), {})
    since = max(float(facts.get("used_at", 0.0)), node.running_at or 0.0, node.idle_since or 0.0)
    idle_s, limit_s = clock.now() - since, settings().dcluster.nodes_idle_limit_s
    return "" if idle_s > limit_s else f"idle for {max(0.0, idle_s):.0f} s of {limit_s:.0f} s"


def _end(node: Node, view: _View | None, caller: Caller) -> str:
    """Drain what is a Kubernetes node, then have the machine destroyed; why not, when that cannot be."""
    name = view.node(node) if view is not None else ""
    if view is not None and name:
        try:
            drained = view.driver.drain(name, timeout_s=settings().dcluster.nodes_drain_s, delete_local_data=True)
            if not drained.complete:
                view.driver.uncordon(name)
                left = "; ".join(str(one) for one in (*drained.refused, *drained.blocked)[:5])
                return f"the Kubernetes node {name} cannot be drained: {left}"
            view.driver.delete_node(name)
        except CloudschedError as error:
            return f"the Kubernetes node {name} cannot be drained: {error}"
    limit_s = settings().dcluster.nodes_idle_limit_s
    write(lambda tx: lifecycle.stop(tx, node.id, at=clock.now(), actor=caller.name,
                                    reason=f"no cluster has used it for {limit_s:.0f} s"))
    return ""


# small things


def _read() -> dict[str, Any]:
    return parsed(system.setting(_RECORD, "{}"))


def _whole(value: Any, *, low: int, high: int) -> int | None:
    """A whole number, as one or as text."""
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not re.fullmatch(r"\s*[0-9]{1,9}\s*", str(value)):
        return None
    return int(value) if low <= int(value) <= high else None


def _fault(name: str, value: Any, what: str, allowed: str) -> FieldError:
    return FieldError(name, "is missing" if value is None else f"{str(value)[:100]!r} {what}", allowed)


def _refuse(faults: Sequence[FieldError]) -> None:
    if faults:
        raise Invalid("; ".join(f"{one.field}: {one.message} (allowed: {one.allowed})" for one in faults), errors=faults)


