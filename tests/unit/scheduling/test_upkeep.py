"""What is set right in the queue and on the clouds?  (contract 7.8 steps 4, 5, 12 to 14)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.model import Policy, RunningJob, Snapshot
from cloudsched.domain.scheduling.passes import clean_up
from cloudsched.domain.scheduling.plan import Hold, Place, Plan, StrayMachine

from .build import NOW, cloud, group, node, nodes, shape, slot


def run(*groups, clouds=None, policy=None, **more) -> Plan:
    pool = (cloud(),) if clouds is None else clouds
    return clean_up(Snapshot(clouds=pool, groups=groups, **more), policy or Policy(), NOW)


@pytest.mark.parametrize(
    ("limits", "asks", "held"),
    [
        ({}, {"targets": ("nowhere",)}, True),
        ({}, {"targets": ("nowhere", "ALPHA")}, False),
        ({"networks": ("a",)}, {"network": "b"}, True),
        ({"networks": ()}, {"network": "b"}, False),
        ({"max_node_memory_mb": 100}, {"memory_mb": 101}, True),
        ({"max_memory_mb": 100}, {"memory_mb": 101}, True),
        ({"max_storage_gb": 10}, {"storage_gb": 11}, True),
        ({"cpu_cores": 4}, {"cores": 5}, True),
        ({"enabled": False}, {}, False),
        ({"max_slots": 0}, {}, False),
        ({"requires_image": True}, {}, False),
    ],
)
def test_step_4_holds_what_no_cloud_could_ever_take(limits: dict, asks: dict, held: bool) -> None:
    job = group(shape(**asks), 1)
    reason = "Failed to find matching cloud:check targetcloud, memory, etc."
    assert run(job, clouds=(cloud(**limits),)).holds == ([Hold(job.shape.id, reason)] if held else [])


def test_step_4_the_limits_of_one_cloud_must_all_be_kept() -> None:
    clouds = (cloud("a", max_node_memory_mb=100), cloud("b", cpu_cores=1))
    assert run(group(shape(memory_mb=200, cores=2), 1), clouds=clouds).holds
    assert not run(group(shape(memory_mb=200, cores=1), 1), clouds=clouds).holds


def test_step_4_an_empty_pool_and_running_jobs_hold_nothing() -> None:
    assert run(group(shape(), 1), clouds=()).holds == []
    assert run(group(shape(cores=99), running=3), clouds=(cloud(cpu_cores=1),)).holds == []


def test_step_5_machines_without_a_node() -> None:
    machines = [slot(1), slot(7, number=1), slot(7, number=2)]
    plan = run(nodes=nodes(1), slots=machines, policy=Policy(cleanup_missing=True))
    assert plan.strays == [StrayMachine("node7.example.org", "<10.0.0.7:9618>")]
    assert plan.invalidate == plan.strays
    assert run(nodes=nodes(1), slots=machines).invalidate == []


def test_step_12_running_jobs_become_scheduled() -> None:
    assert run(group(shape(), running=2, running_unscheduled_ids=(4, 5))).mark_scheduled == [4, 5]


def test_step_12_surplus_scheduled_jobs_wait_again() -> None:
    job = group(shape(), running=2, scheduled_idle=3, scheduled_idle_ids=(9, 8, 7))
    assert run(job, nodes=nodes(3)).unschedule == [9, 8]
    assert run(job, nodes=nodes(5)).unschedule == []
    assert run(job).unschedule == [9, 8, 7]
    assert run(job, nodes=nodes(9, "bob", "x")).unschedule == [9, 8, 7]


def test_step_12_a_node_with_job_per_core_has_its_cores_as_slots() -> None:
    job = group(shape(), scheduled_idle=5, scheduled_idle_ids=(9, 8, 7, 6, 5))
    assert run(job, nodes=[node(1, cores=4, job_per_core=True)]).unschedule == [9]
    assert run(job, nodes=[node(1, cores=4)]).unschedule == [9, 8, 7, 6]


def test_step_12_newest_first_over_several_groups() -> None:
    one = group(shape(), scheduled_idle=2, scheduled_idle_ids=(8, 2))
    two = group(shape(memory_mb=9), scheduled_idle=1, scheduled_idle_ids=(5,))
    assert run(one, two, nodes=nodes(1)).unschedule == [8, 5]


def test_step_12_nodes_of_the_shadow_still_count() -> None:
    job = group(shape(), running=1, scheduled_idle=1, scheduled_idle_ids=(9,))
    assert run(job, nodes=[node(1, retired=True), node(2)]).unschedule == []


def test_b26_running_jobs_are_placed_whatever_the_slots_name() -> None:
    jobs = [
        RunningJob(1, "slot1_2@NODE1.example.org"),
        RunningJob(2, "node2"),
        RunningJob(3, "elsewhere"),
        RunningJob(4, "node2.example.org", noted_cloud="beta", noted_node_id=2),
    ]
    fleet = [node(1), node(2, cloud="beta")]
    assert run(nodes=fleet, running_jobs=jobs).places == [Place(1, "alpha", 1), Place(2, "beta", 2)]


def switches(**of_cloud) -> list[tuple[str, bool]]:
    plan = run(clouds=(cloud(**of_cloud),))
    return [(order.cloud, order.enabled) for order in plan.switches]


def test_step_14_disables_after_the_threshold() -> None:
    assert switches(connection_failed_at=NOW - 3601) == [("alpha", False)]
    assert switches(connection_failed_at=NOW - 3600) == []
    assert switches(connection_failed_at=NOW - 9999, enabled=False) == []


def test_b47_enables_again_only_what_was_disabled_automatically() -> None:
    since = NOW - 3600 - 7200 - 1
    assert switches(enabled=False, auto_disabled=True, connection_failed_at=since) == [("alpha", True)]
    assert switches(enabled=False, auto_disabled=True, connection_failed_at=since + 1) == []
    assert switches(enabled=False, connection_failed_at=since) == []
    assert switches(enabled=False, auto_disabled=True) == [("alpha", True)]


def test_step_14_works_before_the_queue_is_read() -> None:
    plan = run(clouds=(cloud(connection_failed_at=0.0),), queue_read=False)
    assert len(plan.switches) == 1
