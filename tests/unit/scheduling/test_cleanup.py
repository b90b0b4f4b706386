"""Which nodes does the clean-up take, and what does it note?  (contract 7.8 steps 1 to 10, B10, B45, B49)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling import cleanup
from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.model import ERROR, RETIRING, SHUTDOWN, STARTING, Policy, Snapshot
from cloudsched.domain.scheduling.passes import clean_up
from cloudsched.domain.scheduling.plan import Destroy, ForgetRegistration, Plan, Register, Retire, SetIdle

from .build import NOW, cloud, group, node, nodes, shape, slot, waiting


def run(*fleet, clouds=None, groups=(), slots=(), policy=None, **more) -> Plan:
    snapshot = Snapshot(clouds=clouds or (cloud(),), nodes=fleet, groups=groups, slots=slots, **more)
    return clean_up(snapshot, policy or Policy(), NOW)


def rules(plan: Plan) -> dict[int, str]:
    return plan.going


def needed(user: str = "alice", vm_type: str = "x"):
    """Jobs enough that nothing goes for want of work."""
    return waiting(user, vm_type, 8, first=1000)


def registered(node_id: int, **more):
    name = f"node{node_id}.example.org"
    more.setdefault("registered_address", f"<10.0.0.{node_id}:9618>")
    more.setdefault("registered_master", f"<10.0.0.{node_id}:9619>")
    return node(node_id, registered_name=name, **more)


def test_step_1_lifetime() -> None:
    short = node(1, state=STARTING, expires_at=NOW + 100, average_run_s=80.0)
    long = node(2, state=STARTING, expires_at=NOW + 121, average_run_s=80.0)
    policy = Policy(retire_before_lifetime=True)
    assert rules(run(short, long, policy=policy)) == {1: "lifetime"}
    assert rules(run(short, long)) == {}


def test_step_2_proxy() -> None:
    plan = run(
        node(1, state=STARTING, proxy_expires_at=NOW + 1800),
        node(2, state=STARTING, proxy_expires_at=NOW + 1801),
    )
    assert rules(plan) == {1: "proxy"}


@pytest.mark.parametrize(
    ("of_cloud", "of_policy", "age", "goes"),
    [
        (600, -1, 601, True),
        (600, -1, 600, False),
        (None, 300, 301, True),
        (-1, 300, 9999, False),
        (None, -1, 9999, False),
    ],
)
def test_step_3_boot_timeout(of_cloud, of_policy, age, goes) -> None:
    slow = node(1, state=STARTING, boot_requested_at=NOW - age)
    plan = run(slow, clouds=(cloud(boot_timeout_s=of_cloud),), policy=Policy(boot_timeout_s=of_policy))
    assert [order.node_id for order in plan.destroys] == ([1] if goes else [])
    assert all(order.note_image for order in plan.destroys)


def test_b10_every_slow_node_is_found() -> None:
    fleet = nodes(5, state=STARTING, boot_requested_at=NOW - 100)
    plan = run(*fleet, policy=Policy(boot_timeout_s=50))
    assert [order.node_id for order in plan.destroys] == [1, 2, 3, 4, 5]


def test_bad_polls() -> None:
    fleet = [
        node(1, state=ERROR, error_polls=5),
        node(2, state=SHUTDOWN, error_polls=4),
        node(3, error_polls=9),
    ]
    plan = Plan()
    cleanup.destroy_bad_polls(Board(Snapshot(clouds=(cloud(),), nodes=fleet), Policy()), plan)
    assert plan.destroys == [Destroy(1, "alice:x", "polling_errors", "VM is in an Error state.")]


def test_step_6_records_name_and_addresses_once() -> None:
    plan = run(node(1), groups=[needed()], slots=[slot(1)])
    assert plan.registers == [Register(1, "node1.example.org", "<10.0.0.1:9618>", "<10.0.0.1:9619>")]
    again = run(registered(1, idle_since=NOW), groups=[needed()], slots=[slot(1)])
    assert again.registers == [] and again.set_idle == []


def test_step_6_idle_is_set_and_cleared() -> None:
    assert run(node(1), groups=[needed()], slots=[slot(1)]).set_idle == [SetIdle(1, NOW)]
    busy = run(node(1, idle_since=5.0), groups=[needed()], slots=[slot(1, busy=True)])
    assert busy.set_idle == [SetIdle(1, None)]
    assert run(node(1, idle_since=5.0), groups=[needed()], slots=[slot(1, state="Owner")]).set_idle == []


def test_b45_idle_only_if_all_slots_are() -> None:
    machines = [slot(1, busy=True, number=1), slot(1, number=2)]
    assert run(node(1), groups=[needed()], slots=machines).set_idle == []
    machines = [slot(1, number=1), slot(1, number=2)]
    assert run(node(1), groups=[needed()], slots=machines).set_idle == [SetIdle(1, NOW)]


def test_step_6_retiring_machine_that_is_gone() -> None:
    plan = run(registered(1, override=RETIRING), groups=[needed()])
    assert plan.destroys == [Destroy(1, "alice:x", "retired", "VM Finished Retiring.")]
    assert run(registered(1, override=RETIRING), groups=[needed()], slots=[slot(1, busy=True)]).destroys == []


def test_step_6_lost_registration_starts_the_clock_again() -> None:
    plan = run(registered(1, running_since=0.0, idle_since=5.0), groups=[needed()])
    assert plan.forgets == [ForgetRegistration(1)]
    assert plan.set_idle == [SetIdle(1, None)]
    assert plan.destroys == []


@pytest.mark.parametrize(
    ("since", "clock", "goes"), [(901, None, True), (900, None, False), (9999, 10, False), (9999, 901, True)]
)
def test_step_6_register_time_limit(since, clock, goes) -> None:
    at = None if clock is None else NOW - clock
    plan = run(node(1, running_since=NOW - since, register_clock_at=at), groups=[needed()])
    assert [(order.rule, order.note_image) for order in plan.destroys] == (
        [("not_registered", True)] if goes else []
    )


def test_step_6_waits_until_the_machines_are_known() -> None:
    plan = run(
        registered(1, override=RETIRING), node(2, running_since=0.0), groups=[needed()], machines_read=False
    )
    assert plan.going == {} and plan.forgets == []


def test_step_7_the_shadow_is_looked_after_too() -> None:
    gone = registered(1, retired=True, override=RETIRING)
    working = registered(2, retired=True)
    plan = run(gone, working, groups=[needed()], slots=[slot(2, busy=True)])
    assert rules(plan) == {1: "retired", 2: "shadow"}


def test_step_8_unneeded_type_after_its_keep_alive() -> None:
    fleet = [registered(n, idle_since=NOW - 100, keep_alive_s=keep) for n, keep in ((1, 99), (2, 100))]
    plan = run(*fleet, slots=[slot(1), slot(2)])
    assert rules(plan) == {1: "unneeded"}
    assert (plan.retires[0].on_failure, plan.retires[0].then_destroy) == ("destroy", True)


@pytest.mark.parametrize(
    ("counts", "goes"),
    [({"running": 1}, False), ({"scheduled_idle": 1}, False), ({"banned": 3}, True), ({"held": 3}, True)],
)
def test_step_8_which_jobs_need_the_type(counts: dict, goes: bool) -> None:
    idle = registered(1, idle_since=NOW - 100)
    plan = run(idle, groups=[group(shape(), **counts)], slots=[slot(1)])
    assert bool(plan.retires) == goes


def test_step_8_another_users_type_of_the_same_name_does_not_count() -> None:
    idle = registered(1, idle_since=NOW - 100)
    assert rules(run(idle, groups=[needed("bob", "x")], slots=[slot(1)])) == {1: "unneeded"}


def test_step_8_busy_and_retiring_nodes_stay() -> None:
    fleet = [registered(1, idle_since=5.0), registered(2, idle_since=5.0, override=RETIRING)]
    assert rules(run(*fleet, slots=[slot(1, busy=True), slot(2)])) == {}


IDLE = Policy(clean_shutdown_idle=True, idle_threshold_s=300)


def test_step_9_a_node_that_fits_none_of_the_owners_jobs_retires() -> None:
    idle = registered(1, idle_since=NOW - 301, memory_mb=100, keep_alive_s=9999)
    other = group(shape(memory_mb=200), 1)
    assert rules(run(idle, groups=[other], slots=[slot(1)], policy=IDLE)) == {1: "idle_misfit"}
    fresh = registered(1, idle_since=NOW - 300, memory_mb=100, keep_alive_s=9999)
    assert rules(run(fresh, groups=[other], slots=[slot(1)], policy=IDLE)) == {}
    assert rules(run(idle, groups=[other], slots=[slot(1)])) == {}


def test_step_9_a_job_that_should_have_fitted_is_held() -> None:
    idle = registered(1, idle_since=NOW - 301, keep_alive_s=9999)
    job = group(shape(), 1)
    plan = run(idle, groups=[job], slots=[slot(1)], policy=IDLE)
    (hold,) = plan.holds
    assert (hold.shape_id, hold.reason, hold.override) == (
        job.shape.id,
        "Bad job requirements.",
        "HeldBadReqs",
    )
    assert (hold.scope, hold.queued_before) == ("idle", NOW - 300)
    assert plan.retires == []


def test_step_9_a_job_that_has_just_come_is_not_held() -> None:
    idle = registered(1, idle_since=NOW - 301, keep_alive_s=9999)
    job = group(shape(), 1, oldest_idle_at=NOW - 10)
    assert run(idle, groups=[job], slots=[slot(1)], policy=IDLE).holds == []


def test_step_9_without_idle_jobs_of_the_owner_nothing_happens() -> None:
    idle = registered(1, idle_since=NOW - 301, keep_alive_s=9999)
    plan = run(idle, groups=[group(shape(), running=1), needed("bob", "x")], slots=[slot(1)], policy=IDLE)
    assert plan.holds == [] and plan.retires == []


@pytest.mark.parametrize(
    ("asks", "fits"),
    [
        ({}, True), ({"cores": 2}, False), ({"storage_gb": 1}, False), ({"network": "private"}, False),
        ({"targets": ("beta",)}, False), ({"targets": ("ALPHA",)}, True), ({"vm_type": "y"}, False),
    ],
)  # fmt: skip
def test_step_9_what_fits_a_node(asks: dict, fits: bool) -> None:
    board = Board(Snapshot(clouds=(cloud(), cloud("beta"))), Policy())
    assert cleanup.runs_on(shape(**asks), node(1), board=board) == fits


def excess(jobs: int, fleet, machines) -> list[int]:
    plan = run(*fleet, groups=[group(shape(), running=jobs)], slots=machines)
    return [order.node_id for order in plan.retires if order.rule == "excess"]


def test_step_10_excess_idle_nodes_go_longest_idle_first() -> None:
    fleet = [registered(n, idle_since=NOW - 10 * n) for n in (1, 2, 3)]
    machines = [slot(n) for n in (1, 2, 3)]
    assert excess(1, fleet, machines) == [3, 2]
    assert excess(3, fleet, machines) == []


def test_step_10_keep_alive_and_busy_slots_protect() -> None:
    fleet = [registered(1, idle_since=NOW - 10, keep_alive_s=10), registered(2, idle_since=NOW - 10)]
    assert excess(1, fleet, [slot(1), slot(2, busy=True), slot(2, number=2)]) == []


def test_step_10_a_node_goes_only_with_all_its_slots_in_excess() -> None:
    fleet = [registered(1, idle_since=NOW - 10), registered(2, idle_since=NOW - 5)]
    machines = [slot(1, number=1), slot(1, number=2), slot(2)]
    assert excess(2, fleet, machines) == [2]


def test_step_10_retiring_nodes_are_not_counted_twice() -> None:
    fleet = [
        registered(1, override=RETIRING, idle_since=NOW - 9),
        *(registered(n, idle_since=NOW - 9) for n in (2, 3)),
    ]
    assert excess(2, fleet, [slot(1), slot(2), slot(3)]) == []


def test_nothing_of_steps_4_to_11_before_the_queue_was_read() -> None:
    idle = registered(1, idle_since=NOW - 100)
    plan = run(
        idle,
        groups=[group(shape(cores=99), 1)],
        clouds=(cloud(cpu_cores=1),),
        slots=[slot(1)],
        queue_read=False,
    )
    assert plan.going == {} and plan.holds == [] and plan.set_idle == []


def test_no_destroy_on_a_cloud_with_trouble_or_twice() -> None:
    slow = {"state": STARTING, "boot_requested_at": 0.0}
    policy = Policy(boot_timeout_s=10)
    assert run(node(1, **slow), clouds=(cloud(connection_problem=True),), policy=policy).destroys == []
    assert run(node(1, **slow, destroying=True), policy=policy).destroys == []
    both = run(node(1, **slow, proxy_expires_at=NOW), policy=policy)
    assert [order.rule for order in both.destroys] == ["proxy"]


def test_b4_max_destroys_defers_the_rest() -> None:
    fleet = nodes(5, state=STARTING, boot_requested_at=0.0)
    plan = run(*fleet, policy=Policy(boot_timeout_s=10, max_destroys=3), active_destroys=1)
    assert [order.node_id for order in plan.destroys] == [1, 2]
    assert [order.node_id for order in plan.deferred] == [3, 4, 5]


def test_a_destroy_after_a_retire_counts_as_a_destroy() -> None:
    fleet = [registered(n, idle_since=NOW - 100) for n in (1, 2)]
    plan = run(*fleet, slots=[slot(1), slot(2)], policy=Policy(max_destroys=1))
    assert [order.then_destroy for order in plan.retires] == [True, False]


def test_one_order_per_node() -> None:
    plan = Plan()
    assert plan.retire(Retire(1, "a:x", "excess", ""))
    assert not plan.destroy(Destroy(1, "a:x", "proxy", ""))
    assert not plan.retire(Retire(1, "a:x", "rebalance", ""))
