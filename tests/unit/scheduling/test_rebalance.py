"""Does rebalancing take what contract 7.9 says, and nothing else?  (B43, B46)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.board import Board
from cloudsched.domain.scheduling.matching import match_machines
from cloudsched.domain.scheduling.model import ERROR, RETIRING, STARTING, Policy, Snapshot
from cloudsched.domain.scheduling.plan import Plan
from cloudsched.domain.scheduling.rebalance import balance, damped, lessen_evenly, rebalance, rounded

from .build import cloud, group, node, nodes, shape, slot, slots, waiting


def run(*groups, fleet, clouds=None, policy=None, limits=None, machines=None) -> Plan:
    snapshot = Snapshot(
        clouds=clouds or (cloud(max_slots=10),),
        nodes=fleet,
        groups=groups,
        limits=limits or {},
        slots=slots(fleet, busy=True) if machines is None else machines,
    )
    plan = Plan()
    rebalance(Board(snapshot, policy or Policy()), plan, match_machines(snapshot.nodes, snapshot.slots))
    return plan


def taken(plan: Plan) -> tuple[int, int]:
    assert all(order.user_type == "a:x" for order in [*plan.retires, *plan.destroys])
    return len(plan.retires), len(plan.destroys)


@pytest.mark.parametrize(
    ("max_slots", "a_waiting", "b_waiting", "limits", "retired"),
    [
        (10, 20, 20, {}, 5),
        (10, 20, 2, {}, 2),
        (11, 20, 20, {}, 0),
        (10, 0, 20, {}, 10),
        (10, 20, 20, {"b": 0}, 0),
        (10, 20, 20, {"b": 1}, 1),
    ],
)
def test_reference_results(max_slots, a_waiting, b_waiting, limits, retired) -> None:
    plan = run(
        waiting("a", "x", a_waiting, first=1),
        waiting("b", "x", b_waiting, first=100),
        fleet=nodes(10, "a", "x"),
        clouds=(cloud(max_slots=max_slots),),
        limits=limits,
    )
    assert taken(plan) == (retired, 0)


def test_a_second_pass_counts_those_already_retiring() -> None:
    fleet = [*nodes(5, "a", "x", override=RETIRING), *nodes(5, "a", "x", first=6)]
    assert taken(run(waiting("a", "x", 20), waiting("b", "x", 20, first=100), fleet=fleet)) == (0, 0)
    fleet = [*nodes(2, "a", "x", override=RETIRING), *nodes(8, "a", "x", first=6)]
    assert taken(run(waiting("a", "x", 20), waiting("b", "x", 20, first=100), fleet=fleet)) == (3, 0)


def test_forcibly_retired_ones_are_not_counted_and_not_taken_again() -> None:
    forced = nodes(2, "a", "x", override=RETIRING, force_retire=True)
    plan = run(
        waiting("a", "x", 20), waiting("b", "x", 20, first=100), fleet=[*forced, *nodes(8, "a", "x", first=3)]
    )
    assert taken(plan) == (5, 0)
    assert not {1, 2} & {order.node_id for order in plan.retires}


def test_error_first_then_starting_then_idle_then_busy() -> None:
    fleet = [
        *nodes(6, "a", "x"),
        node(7, "a", "x", state=STARTING),
        node(8, "a", "x", state=ERROR),
        *nodes(2, "a", "x", first=9),
    ]
    machines = [slot(each.id, busy=each.id != 3) for each in fleet]
    plan = run(waiting("a", "x", 20), waiting("b", "x", 20, first=100), fleet=fleet, machines=machines)
    assert [order.node_id for order in plan.destroys] == [8, 7]
    assert [order.node_id for order in plan.retires] == [3, 10, 9]


def test_the_last_node_of_a_type_is_not_destroyed_when_retiring_fails() -> None:
    plan = run(waiting("b", "x", 20, first=100), fleet=nodes(10, "a", "x"))
    assert [order.on_failure for order in plan.retires] == ["destroy"] * 9 + ["keep"]


def test_only_on_clouds_that_could_host_the_wanting_type() -> None:
    clouds = (cloud("alpha", 5), cloud("small", 5, max_node_memory_mb=512))
    fleet = [*nodes(5, "a", "x"), *nodes(5, "a", "x", first=6, cloud="small")]
    plan = run(waiting("b", "y", 20, first=100, memory_mb=600), fleet=fleet, clouds=clouds)
    assert {order.node_id for order in plan.retires} == {1, 2, 3, 4, 5}


def test_nothing_for_a_type_no_cloud_could_host() -> None:
    plan = run(
        waiting("b", "y", 20, first=100, cores=99), fleet=nodes(10, "a", "x"), clouds=(cloud(cpu_cores=8),)
    )
    assert taken(plan) == (0, 0)


def test_a_type_no_cloud_could_host_does_not_make_it_act() -> None:
    # b finds one free slot; d finds none, but no node taken away would help d.
    groups = (
        waiting("a", "x", 20),
        waiting("b", "x", 20, first=100),
        waiting("d", "x", 20, first=200, cores=99),
    )
    clouds = (cloud(max_slots=11, cpu_cores=8),)
    assert taken(run(*groups, fleet=nodes(10, "a", "x"), clouds=clouds)) == (0, 0)


def test_what_a_limited_user_may_not_use_is_reached_by_the_others() -> None:
    # b may not grow, so a and c are to have half each, not a third.
    groups = (waiting("a", "x", 20), waiting("b", "x", 20, first=100), waiting("c", "x", 20, first=200))
    assert taken(run(*groups, fleet=nodes(10, "a", "x"), limits={"b": 0})) == (5, 0)


def test_one_type_without_room_makes_it_act_and_free_room_lessens_the_wish() -> None:
    # b fits the one free slot of "tiny"; c fits alpha only, which is full.
    clouds = (cloud("alpha", 10), cloud("tiny", 1, max_node_memory_mb=100))
    fleet = nodes(10, "a", "x")
    groups = (
        waiting("b", "x", 1, first=100, memory_mb=100),
        waiting("c", "x", 2, first=200),
        waiting("a", "x", 20, first=300),
    )
    result = balance(Board(Snapshot(clouds=clouds, nodes=fleet, groups=groups), Policy()))
    assert result.wanted == {"c:x": 2}
    assert result.too_many == {"a:x": 2}


def test_b46_free_room_is_computed_with_the_types_own_job() -> None:
    # 600 MB are free: enough for another type's 512 MB job, not for b's own 1000 MB.
    clouds = (cloud("alpha", 20, max_memory_mb=10 * 512 + 600),)
    plan = run(
        waiting("a", "x", 20),
        waiting("b", "x", 20, first=100, memory_mb=1000),
        fleet=nodes(10, "a", "x"),
        clouds=clouds,
    )
    assert len(plan.retires) == 5


def test_b43_growth_a_limit_forbids_is_not_taken_from_the_others() -> None:
    groups = (waiting("a", "x", 20), waiting("b", "x", 20, first=100), waiting("b", "y", 20, first=200))
    assert taken(run(*groups, fleet=nodes(10, "a", "x"), limits={"b": 1})) == (1, 0)
    limited = waiting("b", "x", 20, first=100, type_limit=2)
    assert taken(run(waiting("a", "x", 20), limited, fleet=nodes(10, "a", "x"))) == (2, 0)


def test_types_of_one_user_share_what_the_limit_leaves() -> None:
    groups = (waiting("a", "x", 20), waiting("b", "x", 20, first=100), waiting("b", "y", 20, first=200))
    plan = run(*groups, fleet=nodes(10, "a", "x"), limits={"b": 3}, policy=Policy(distribution="split"))
    assert taken(plan) == (3, 0)


def test_job_per_core_types_want_no_more_nodes_than_their_jobs_fill() -> None:
    wide = waiting("b", "x", 8, first=100, cores=4, job_per_core=True)
    assert taken(run(waiting("a", "x", 20), wide, fleet=nodes(10, "a", "x"))) == (2, 0)


def test_a_type_gives_no_more_nodes_than_it_has() -> None:
    fleet = [*nodes(5, "a", "x"), *nodes(5, "c", "x", first=6)]
    plan = run(waiting("b", "x", 2, first=100), fleet=fleet)
    assert sorted(order.user_type for order in plan.retires) == ["a:x", "c:x"]


def test_anti_flip_takes_nothing_when_giving_would_turn_the_tables() -> None:
    # By memory a's two large nodes are far too much, but without them a would want nodes again.
    fleet = [*nodes(2, "a", "x", memory_mb=4000), *nodes(8, "c", "z", first=3, memory_mb=100)]
    groups = (
        waiting("a", "x", 20, memory_mb=4000),
        waiting("c", "z", 20, first=100, memory_mb=100),
        waiting("b", "y", 20, first=200, memory_mb=100),
    )
    snapshot = Snapshot(clouds=(cloud(),), nodes=fleet, groups=groups)
    assert balance(Board(snapshot, Policy(metric="memory"))).too_many == {}
    by_count = balance(Board(snapshot, Policy(metric="slot")))
    assert by_count.too_many == {"c:z": 4}


def test_anti_flip_adds_the_two_numbers() -> None:
    fleet = [*nodes(4, "a", "x", memory_mb=2000), *nodes(6, "c", "z", first=5, memory_mb=1000)]
    board = Board(
        Snapshot(
            clouds=(cloud(),),
            nodes=fleet,
            groups=(waiting("a", "x", 20, memory_mb=2000), waiting("b", "y", 20, first=100, memory_mb=1000)),
        ),
        Policy(metric="memory"),
    )
    positive, wanted = damped(board, {"a:x": 4}, {"b:y": 4})
    # After giving all 4: 10 nodes, a has 0 of a desired 1/2, which is 5 short: 4 - 5 is nothing.
    assert positive == {"a:x": 0}
    assert wanted == {"b:y": 4}
    positive, _ = damped(board, {"a:x": 3}, {"b:y": 3})
    # After giving 3: a has 2000 of 11000, b 3000, c 6000: a is 0.318 = 3 nodes short: 3 - 3 is nothing.
    assert positive == {"a:x": 0}
    positive, _ = damped(board, {"a:x": 1}, {"b:y": 1})
    # After giving 1: a has 6000 of 13000, 0.038 = 0 nodes short: no flip.
    assert positive == {"a:x": 1}
    positive, _ = damped(board, {"a:x": 2}, {"b:y": 2})
    # After giving 2: a has 4000 of 12000, 0.167 = 2 nodes short: 2 - 2 is nothing.
    assert positive == {"a:x": 0}


def test_without_graceful_shutdown_only_what_loses_little_work() -> None:
    policy = Policy(graceful_shutdown=False)
    fleet = [*nodes(8, "a", "x"), *nodes(2, "a", "x", first=9, state=STARTING)]
    machines = [slot(each.id, busy=True, job_changed=each.id == 4) for each in fleet[:8]]
    plan = run(
        waiting("a", "x", 20), waiting("b", "x", 20, first=100), fleet=fleet, policy=policy, machines=machines
    )
    assert plan.retires == []
    assert [order.node_id for order in plan.destroys] == [10, 9, 4]


def test_clouds_with_connection_trouble_and_nodes_being_destroyed_are_left_alone() -> None:
    fleet = nodes(10, "a", "x", state=STARTING)
    trouble = (cloud(connection_problem=True),)
    assert taken(run(waiting("b", "x", 20, first=100), fleet=fleet, clouds=trouble)) == (0, 0)
    fleet = nodes(10, "a", "x", state=STARTING, destroying=True)
    assert taken(run(waiting("b", "x", 20, first=100), fleet=fleet)) == (0, 0)


def test_nothing_to_do_says_why() -> None:
    board = Board(Snapshot(clouds=(cloud(),), nodes=nodes(3, "a", "x")), Policy())
    assert balance(board).why_nothing == "no type could use more nodes than it has"


@pytest.mark.parametrize(
    ("value", "expected"), [(2.5, 3), (-2.5, -3), (2.4, 2), (-0.4, 0), (4.999999999999, 5)]
)
def test_rounding(value: float, expected: int) -> None:
    assert rounded(value) == expected


@pytest.mark.parametrize(
    ("numbers", "by", "expected"),
    [
        ({"a": 5}, 3, {"a": 2}),
        ({"a": 5, "b": 5}, 4, {"a": 3, "b": 3}),
        ({"a": 5, "b": 1}, 4, {"a": 2, "b": 0}),
        ({"a": 5, "b": 4}, 1, {"a": 4, "b": 4}),
        ({"a": 2}, 9, {"a": 0}),
        ({}, 3, {}),
        ({"a": 2}, 0, {"a": 2}),
    ],
)
def test_lessen_evenly(numbers: dict, by: int, expected: dict) -> None:
    assert lessen_evenly(numbers, by) == expected


def test_idle_head_of_an_unhosted_group_is_no_wish() -> None:
    assert taken(run(group(shape("b", "x"), banned=5), fleet=nodes(10, "a", "x"))) == (0, 0)
