"""What can be asked of clusters, whichever dialect they came by? Look, and have one taken away."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Cluster
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, nodes
from cloudsched.store import clusters as store
from cloudsched.store.db import Tx, write

STATES, FINAL = moves.CLUSTER_STATES, moves.CLUSTER_FINAL
KINDS = ("flink", "kubernetes", "slurm", "spark")
End = Callable[[Tx, Cluster, str, str], None]
Cost = Callable[[Cluster], dict[str, Any] | None]
_ends: dict[str, End] = {}
_costs: dict[str, Cost] = {}


def on_end(origin: str, begin: End) -> None:
    """Say how the end of a dialect's clusters begins: called with (tx, cluster, actor, reason) once it is wanted."""
    _ends[origin] = begin


def on_cost(origin: str, cost: Cost) -> None:
    """Say what a dialect's clusters cost, where that is known."""
    _costs[origin] = cost


def find(reference: int | str) -> Cluster:
    """One cluster by number, key or name (the newest of that name). Raises NotFound."""
    text = str(reference)
    cluster = store.get(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
    cluster = cluster or store.by_key(text) or store.by_name(text)
    if cluster is None:
        raise NotFound(f"there is no cluster {text}")
    return cluster


def page(*, states: Sequence[str] = (), kind: str = "", cloud: str = "", org: str = "", after: int | None = None,
         limit: int = 100) -> list[dict[str, Any]]:
    """Clusters under filters, newest first, keyset-paged by id. Raises Invalid for an unknown state or kind."""
    for state in states:
        if state not in STATES:
            raise Invalid.at("state", f"{state!r} is no state of a cluster", ", ".join(STATES))
    if kind and kind not in KINDS:
        raise Invalid.at("kind", f"{kind!r} is no kind of cluster", ", ".join(KINDS))
    cloud_id = None
    if cloud:
        found = clouds.by_name(cloud, removed=True)
        if found is None:
            return []
        cloud_id = found.id
    return views(store.find(states=states, after=after, limit=limit, kind=kind, org=org, cloud_id=cloud_id))


def one(reference: int | str) -> dict[str, Any]:
    """One cluster as readers see it, with its nodes. Raises NotFound."""
    cluster = find(reference)
    cost = _costs[cluster.origin](cluster) if cluster.origin in _costs else None
    return {**views([cluster])[0], "nodes": _members(cluster), "cost": cost}


def views(rows: Sequence[Cluster]) -> list[dict[str, Any]]:
    """Clusters as readers see them; what is secret is not in it."""
    names = {cloud.id: cloud.name for cloud in clouds.all_clouds(removed=True)} if rows else {}
    return [_view(cluster, names) for cluster in rows]


def _view(cluster: Cluster, clouds_by_id: dict[int, str]) -> dict[str, Any]:
    plain = ("id", "key", "name", "kind", "origin", "org", "user", "place", "job_id", "state", "goal", "workers_wanted",
             "workers_ready", "address", "web_url", "idle_limit_s", "version")
    times = ("created_at", "launched_at", "running_at", "idle_since", "ended_at")
    return {
        **{name: getattr(cluster, name) for name in plain},
        "cloud": clouds_by_id.get(cluster.cloud_id or 0), "made_cloud": clouds_by_id.get(cluster.made_cloud_id or 0),
        "reason": cluster.reason or None, "facts": json.loads(cluster.facts or "{}"),
        **{name: clock.rfc3339(getattr(cluster, name)) for name in times},
    }


def _members(cluster: Cluster) -> list[dict[str, Any]]:
    found = []
    for node_id, role, name, joined_at in store.members(cluster.id):
        node = nodes.get(node_id)
        found.append({"id": node_id, "node": node.name if node else None, "role": role, "name": name,
                      "joined_at": clock.rfc3339(joined_at)})
    return found


def terminate(reference: int | str, caller: Caller, *, reason: str = "asked for") -> Cluster:
    """Have a cluster taken away; asking again is no error. Raises NotFound, Conflict when its dialect does not allow it now."""
    caller.require("operator")
    cluster = find(reference)
    write(lambda tx: end(tx, cluster, actor=caller.name, reason=reason))
    return find(cluster.id)


def end(tx: Tx, cluster: Cluster, *, actor: str, reason: str) -> bool:
    """In a transaction: the cluster is wanted gone; False when it is gone, or that is wanted already."""
    if cluster.state == "terminated":
        return False
    if cluster.origin not in _ends and cluster.state == "failed":
        raise Conflict(f"cluster {cluster.name or cluster.key} has failed: nothing of it is left")
    if not store.want_end(tx, cluster.id, at=clock.now(), actor=actor, reason=reason):
        return False
    if cluster.origin in _ends:
        _ends[cluster.origin](tx, cluster, actor, reason)
    return True
