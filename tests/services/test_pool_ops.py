"""Do the operations on clouds and nodes write what they should, on both databases?"""

from __future__ import annotations

from pathlib import Path

import pytest

from cloudsched import clock
from cloudsched.domain.entities import Node
from cloudsched.errors import Invalid
from cloudsched.services import (
    pool,
    pool_limits,
    pool_ops,
    pool_proxies,
    pool_switches,
    pool_sync,
    pool_views,
    snapshot,
)
from cloudsched.settings import Settings, load
from cloudsched.store import clouds, events, jobs, nodes
from cloudsched.store.db import Database, write
from cloudsched.store.moves import move
from cloudsched.testing.factories import make_cloud, make_job, make_jobs, make_node


@pytest.fixture
def settings(database: Database, tmp_state: Path) -> Settings:
    (tmp_state / "limits.json").write_text('{"alice": 5}')
    found = load({"state": str(tmp_state), "cloud_scheduler.config_file": "none",
                  "cloud_scheduler.user_limit_file": str(tmp_state / "limits.json")}, environ={"HOME": str(tmp_state)})
    snapshot.configure(found)
    return found


def now(node: Node) -> Node:
    found = nodes.get(node.id)
    assert found is not None
    return found


def test_what_remains(settings: Settings) -> None:
    cloud = make_cloud("alpha", max_slots=2, memory_mb=1500, storage_gb=-1)
    for retired in (0, 0, 0, 1):
        make_node(cloud, retired=retired, memory_mb=700)
    make_node(cloud, state="gone")
    facts = pool.cloud_facts("ALPHA")
    assert (len(facts.nodes), len(facts.retired)) == (3, 1)
    # More is used than there is, as after a change of the limits: nothing is left, and no less.
    assert (facts.free_slots, facts.free_memory_mb, facts.free_storage_gb) == (0, 0, -1)
    for name in ("no", "a\0b", "\ud800", ""):
        with pytest.raises(pool.UnknownCloud):
            pool.cloud_facts(name)
        with pytest.raises(pool.UnknownNode):
            pool.find_node(facts, name)


def test_a_life_of_operations(settings: Settings) -> None:
    cloud = make_cloud("alpha", disabled_at=1.0, enabled=0)
    first, second, third, fourth = (make_node(cloud, external_id=str(number)) for number in range(4))
    job = make_job(state="running", node_id=second.id)
    pool_ops.switch_cloud("Alpha", enabled=True, actor="ann")
    enabled = clouds.by_name("alpha")
    assert enabled and (enabled.enabled, enabled.disabled_at) == (1, None)

    assert [each.gone for each in pool_ops.shut_down_nodes("alpha", 1, limit_s=0.0)] == [False]
    assert (now(first).state, now(first).goal) == ("stopping", "gone")
    assert not pool_ops.retire_node("alpha", "0", settings=settings).accepted  # it is on its way out

    assert pool_ops.release_node("alpha", "1").retired is False
    released = jobs.get(job.id)
    assert now(second).state == "released" and released and released.state == "queued"

    adjustment = pool_ops.adjust_allocation("alpha", 2, settings=settings)
    assert [each.node.id for each in adjustment.retired] == [fourth.id]
    assert (now(fourth).retired, now(fourth).goal, now(third).retired) == (1, "drain", 0)
    assert pool_ops.adjust_allocation("alpha", 2, settings=settings).changed is False
    with pytest.raises(Invalid):
        pool_ops.adjust_allocation("alpha", -1, settings=settings)

    assert pool_ops.reset_override("alpha", "3").goal == "run"
    assert (now(fourth).override, now(fourth).goal, now(fourth).retired) == (None, "run", 1)
    assert pool_ops.release_nodes("alpha") == 2
    assert [node.state for node in map(now, (first, third, fourth))] == ["released", "released", "running"]
    kinds = [event.kind for event in events.since(0, subject_kind="node", subject_id=fourth.id)]
    assert kinds == ["node.request", "node.shadow", "node.drain", "node.reset"]


def test_a_node_that_goes_away_by_itself_counts_as_gone(settings: Settings) -> None:
    cloud = make_cloud("alpha")
    node = make_node(cloud, external_id="x", state="stopping")
    facts = pool.cloud_facts("alpha")
    write(lambda tx: move(tx, "node", node.id, "destroy", at=1.0))
    assert [each.gone for each in pool_ops._shut_down(facts.nodes, 5.0, actor="")] == [True]


def test_switches_and_limits(settings: Settings) -> None:
    assert [pool_switches.toggle_quick_shutdown(), pool_switches.quick_shutdown()] == [True, True]
    assert [pool_switches.toggle_quick_shutdown(), pool_switches.quick_shutdown()] == [False, False]
    assert pool_limits.reload_limits(settings) is True
    assert pool_limits.limits() == {"alice": 5}
    assert pool_limits.reload_aliases(settings) is False


def test_lists_and_counts(settings: Settings) -> None:
    cloud = make_cloud("alpha")
    node = make_node(cloud)
    make_jobs(3)
    make_job(state="running", node_id=node.id)
    make_job(state="pending", placed=1)
    for status in range(8):
        make_job(source="condor", key=f"c#{status}", state="queued", batch_status=status)
    assert pool_views.job_counts() == (5, 3)
    assert {which: len(pool_views.job_list(which)) for which in pool_views.JOB_LISTS} == {
        "new": 5, "sched": 3, "idle": 5, "running": 2, "complete": 1, "held": 1, "high": 0}
    assert pool_views.job_list("nothing") == []
    assert [row.cloud for row in pool_views.job_list("running")] == ["alpha", ""]
    facts = pool_views.job_facts("c#7")
    assert facts is not None and facts.status == 7
    new, scheduled = pool_views.job_pool()
    assert (len(new), len(scheduled)) == (5, 3)


def test_clouds_of_the_kept_pool_in_words_of_the_file(settings: Settings) -> None:
    make_cloud("alpha", networks=["a", "b"], storage_gb=-1)
    assert pool_views.cloud_settings(settings) == [("alpha", [
        ("host", "alpha.example.org"), ("cloud_type", "OpenStack"), ("vm_slots", "10"), ("memory", "20480"),
        ("cpu_cores", "8"), ("networks", "a,b"), ("priority", "1")])]


def test_beats_before_any_engine(settings: Settings) -> None:
    beats = pool_views.heart_beats(settings, created_at=clock.now() - 7.5)
    assert list(beats) == list(pool_views.LOOPS)
    assert {(beat.interval_s, int(beat.since_s)) for beat in beats.values()} == {(5.0, 7)}


def test_nobody_has_credentials(settings: Settings) -> None:
    make_job(attributes={"myproxy_creds_name": None})
    assert pool_proxies.refresh_jobs("alice", settings=settings) == []
    assert pool_proxies.refresh_nodes("a\0", settings=settings) == []


def test_start_on_both_databases(settings: Settings) -> None:
    pool_sync.start(settings)
    assert [cloud.name for cloud in clouds.all_clouds()] == ["local-a", "local-b"]
    assert pool_limits.limits() == {"alice": 5}
