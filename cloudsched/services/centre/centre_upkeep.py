"""What must be seen to in compute centres by itself? Days that are over, and what was taken away through another API."""

from __future__ import annotations

import json
import logging

from cloudsched import clock
from cloudsched.errors import CloudschedError
from cloudsched.services.centre import centre_clusters, centre_hosts
from cloudsched.services.centre.centres import today
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters
from cloudsched.store.centres import Centre
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
ACTOR = "system"
_GONE = ("gone", "failed", "released")


def note_expired() -> int:
    """One event for each centre and cluster whose last day is over, once. Nothing is switched off. Returns how many."""
    day, count = today(), 0
    for centre in store.all_centres():
        if centre.expire_date < day and centre.expiry_noted != centre.expire_date:
            write(lambda tx, centre=centre: _note_centre(tx, centre))  # type: ignore[misc]
            count += 1
        for cluster in centre_clusters.listed(centre):
            spec = centre_clusters.spec_of(cluster)
            ends = str(spec.get("export_date", ""))
            if ends and ends < day and spec.get("expiry_noted") != ends:
                noted = json.dumps({**spec, "expiry_noted": ends})
                write(lambda tx, number=cluster.id, noted=noted, ends=ends: clusters.update(  # type: ignore[misc]
                    tx, number, spec=noted, event="cluster.expire", at=clock.now(), actor=ACTOR, note={"last_day": ends}))
                count += 1
    return count


def _note_centre(tx: Tx, centre: Centre) -> None:
    store.update(tx, "centre", centre.id, expiry_noted=centre.expire_date)
    store.note(tx, "centre.expire", ("cloud", centre.cloud_id), at=clock.now(), actor=ACTOR, org=centre.org, id=centre.key,
               last_day=centre.expire_date)


def follow_removed() -> int:
    """Hosts whose node, and centres whose cloud, was taken away through another API go too, if nothing uses them.

    A host in a cluster and a centre with something in it come back: they are still there. Returns how many were looked after.
    """
    return sum(_follow(centre) for centre in store.all_centres())


def forget_requests(tx: Tx, before: float) -> None:
    """Drop what managing servers asked before a time."""
    store.forget_requests(tx, before)


def _follow(centre: Centre) -> int:
    count = 0
    for host in store.hosts_with_nodes(centre.key, _GONE):
        try:
            if host.cluster_key or host.node_status != store.IDLE:
                write(lambda tx, host=host: centre_hosts.renew_node(tx, host, actor=ACTOR))  # type: ignore[misc]
            else:
                write(lambda tx, host=host: centre_hosts.drop(tx, host, actor=ACTOR))  # type: ignore[misc]
            count += 1
        except CloudschedError as error:
            log.warning("host %s: %s", host.key, error.message)
    cloud = clouds.get(centre.cloud_id)
    if cloud is not None and cloud.state == "removed":
        write(lambda tx: _follow_cloud(tx, centre))
        count += 1
    return count


def _follow_cloud(tx: Tx, centre: Centre) -> None:
    at = clock.now()
    if store.count_hosts(centre.key) or centre_clusters.listed(centre):
        move(tx, "cloud", centre.cloud_id, "restore", at=at, actor=ACTOR, note={"reason": "the centre is in use"})
        return
    store.update(tx, "centre", centre.id, removed_at=at, updated_at=at)
    store.note(tx, "centre.remove", ("cloud", centre.cloud_id), at=at, actor=ACTOR, org=centre.org, id=centre.key,
               name=centre.name)
