"""Do the drivers of the real places come out of the settings, and does the loop run a cluster on the Kubernetes stand-in?"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched import clock, settings
from cloudsched.clock import ManualClock
from cloudsched.drivers.frameworks import ClusterSeen
from cloudsched.engine.dcluster import DclusterLoop
from cloudsched.engine.framework_nodes import AGAIN_S, MoreNodes
from cloudsched.engine.framework_places import Frameworks, room
from cloudsched.engine.places import Places
from cloudsched.errors import Conflict, Invalid
from cloudsched.services import pool_clouds
from cloudsched.services.frameworks import cloud_nodes, framework_clusters
from cloudsched.settings import Settings
from cloudsched.store import clouds, clusters, events
from cloudsched.store.db import Database, write
from cloudsched.testing.kubeapi import KubeApi
from tests.frameworks import ADA, ASKED


@pytest.fixture
def load(sqlite_database: Database, tmp_state: Path) -> Iterator[Callable[..., Settings]]:
    """Settings with these keys of `[dcluster]`."""
    def made(**keys: Any) -> Settings:
        flags = {"state": str(tmp_state), "database_url": sqlite_database.url,
                 **{f"dcluster.{key}": value for key, value in keys.items()}}
        return settings.load(flags, environ={"HOME": str(tmp_state)})

    before = framework_clusters.section()
    yield made
    framework_clusters._configured.section = before


@pytest.mark.parametrize("kind", ["spark", "flink"])
def test_this_machine(load: Callable[..., Settings], kind: str) -> None:
    given = load()
    frameworks = Frameworks(given, Places(given))
    found = frameworks.get("local", kind)
    assert found.kind == kind
    assert frameworks.get("local", kind) is found
    assert {check.name for check in found.verify()} >= {"java", kind}
    frameworks.close()


@pytest.mark.parametrize("place", ["nowhere", "kubernetes:none", "kubernetes"])
def test_a_place_that_is_none_is_named(load: Callable[..., Settings], place: str) -> None:
    given = load(place=place)
    with pytest.raises(Invalid) as refused:
        Frameworks(given, Places(given)).get(place, "spark")
    assert refused.value.errors[0].field == "dcluster.place"


def test_a_cluster_whose_place_is_none_has_failed_and_says_so(load: Callable[..., Settings]) -> None:
    given = load(place="nowhere")
    loop = DclusterLoop(given, Places(given), holder="one")
    number = framework_clusters.launch("spark", ASKED, ADA)
    loop.step()
    found = clusters.get(number)
    assert found is not None
    assert (found.state, "nowhere" in found.reason) == ("failed", True)
    loop.close()


def test_room_is_what_the_machine_has_or_what_is_set(load: Callable[..., Settings]) -> None:
    here = room(load())
    assert here.clusters == 20
    assert here.cores_m is not None
    assert here.cores_m >= 1000
    assert here.memory_mb is not None
    there = room(load(place="kubernetes:x", clusters_max=0, capacity_memory_mb=4096))
    assert (there.clusters, there.cores_m, there.memory_mb) == (None, None, 4096)


def test_a_cluster_on_kubernetes_from_launch_to_the_end(load: Callable[..., Settings]) -> None:
    with KubeApi() as kube:
        kube.add_node("node-1")
        given = load(place="kubernetes:k8s", poll_interval_s=0.1)
        write(lambda tx: clouds.insert(tx, {
            "name": "k8s", "kind": "Kubernetes", "max_slots": 1, "enabled": 1,
            "credentials": pool_clouds.seal({"kubeconfig": kube.kubeconfig()}, given)}, at=clock.now()))
        loop = DclusterLoop(given, Places(given), holder="one")
        number = framework_clusters.launch("spark", {**ASKED, "workerCpu": "100m", "masterCpu": "100m"}, ADA)
        _until(loop, number, "running")
        found = clusters.get(number)
        assert found is not None
        assert found.workers_ready == 2
        assert found.cloud_id == clouds.by_name("k8s").id  # type: ignore[union-attr]
        framework_clusters.terminate(number, "spark", ADA)
        _until(loop, number, "terminated")
        assert loop._frameworks.get("kubernetes:k8s", "spark").clusters() == []
        loop.close()


def _until(loop: DclusterLoop, number: int, state: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        loop.step()
        found = clusters.get(number)
        assert found is not None
        if found.state == state:
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"not {state}: {found}")


# nodes for pods that find none


def test_pods_that_find_no_node_get_some_once(load: Callable[..., Settings], manual_clock: ManualClock,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", manual_clock.now)
    asked: list[Any] = []
    monkeypatch.setattr(cloud_nodes, "launch", lambda fields, caller: asked.append((fields, caller.name)) or ["n-1", "n-2"])
    given = load(node_instance_type="m5.large")
    framework_clusters.configure(given)
    number = framework_clusters.launch("spark", {**ASKED, "launchNewNode": True}, ADA)
    cluster = clusters.get(number)
    assert cluster is not None
    pending = [{"pod": name, "since": manual_clock.now()} for name in "ab"]
    seen = ClusterSeen(True, 0, facts={"pending": pending})
    more = MoreNodes(given.dcluster)
    assert more.help(cluster, seen) == 0  # not yet
    manual_clock.advance(61)
    assert more.help(cluster, seen) == 2
    assert asked == [({"nodeCount": 2, "instanceType": "m5.large"}, f"cluster {cluster.key}")]
    assert MoreNodes(given.dcluster).help(cluster, seen) == 0  # another engine knows it too
    plain = replace(cluster, spec=json.dumps({**json.loads(cluster.spec), "options": {}}))
    manual_clock.advance(AGAIN_S)
    assert MoreNodes(given.dcluster).help(plain, seen) == 0
    assert more.help(cluster, replace(seen, facts={})) == 0


def test_a_refusal_of_nodes_is_an_event_of_the_cluster(load: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fields: Any, caller: Any) -> list[str]:
        raise Conflict("no room")

    monkeypatch.setattr(cloud_nodes, "launch", refuse)
    given = load(node_instance_type="m5.large")
    framework_clusters.configure(given)
    cluster = clusters.get(framework_clusters.launch("spark", {**ASKED, "launchNewNode": True}, ADA))
    assert cluster is not None
    seen = ClusterSeen(False, 0, facts={"pending": [{"pod": "a", "since": clock.now() - 100}]})
    assert MoreNodes(given.dcluster).help(cluster, seen) == 0
    (event,) = events.since(0, subject_kind="cluster", subject_id=cluster.id, kind="cluster.nodes_refused")
    assert "no room" in event.data
