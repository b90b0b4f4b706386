"""Who gets a node this cycle?  (contract 7.6, B42, B44)"""

from __future__ import annotations

from cloudsched.domain.scheduling.model import STARTING, Policy, Snapshot
from cloudsched.domain.scheduling.passes import schedule

from .build import NOW, cloud, group, node, nodes, shape, waiting

HIGH = Policy(high_priority_support=True)


def boots(*groups, clouds=None, fleet=(), policy=None, limits=None):
    snapshot = Snapshot(
        clouds=(cloud(max_slots=100),) if clouds is None else clouds,
        nodes=fleet,
        groups=groups,
        limits=limits or {},
    )
    return schedule(snapshot, policy or Policy(), NOW).boots


def types(found) -> list[str]:
    return sorted(boot.user_type for boot in found)


def test_a_type_grows_by_one_node_per_cycle() -> None:
    found = boots(waiting("a", "x", 5), waiting("b", "y", 5, first=10))
    assert types(found) == ["a:x", "b:y"]
    assert {boot.job_id for boot in found} == {1, 10}
    assert all(boot.rule == "share" for boot in found)


def test_the_highest_priority_job_of_the_type_is_taken() -> None:
    found = boots(group(shape("a", "x"), (1, 1), (2, 9)), group(shape("a", "x", memory_mb=1), (3, 8)))
    assert [boot.job_id for boot in found] == [2]


def test_a_job_no_cloud_is_open_to_gives_way_to_the_next() -> None:
    stuck = group(shape("a", "x"), (1, 9), (2, 8), blocked={1: frozenset({"alpha"})})
    assert [boot.job_id for boot in boots(stuck)] == [2]


def test_a_job_that_only_lacks_room_is_the_types_one_attempt() -> None:
    big, small = shape("a", "x", memory_mb=900), shape("a", "x", memory_mb=100)
    full = cloud(max_memory_mb=1000)
    fleet = [node(1, "b", "y", memory_mb=500)]
    assert boots(group(big, (1, 9)), group(small, (2, 1)), clouds=(full,), fleet=fleet) == []


def test_above_its_share_nothing_while_others_below_could_use_the_room() -> None:
    fleet = nodes(6, "a", "x")
    found = boots(waiting("a", "x", 5), waiting("b", "y", 5, first=10), fleet=fleet)
    assert types(found) == ["b:y"]


def test_over_allocation_when_nobody_below_can_use_the_room() -> None:
    fleet = nodes(6, "a", "x")
    too_big = group(shape("b", "y", memory_mb=5000), 10)
    found = boots(waiting("a", "x", 5), too_big, clouds=(cloud(max_node_memory_mb=1000),), fleet=fleet)
    assert [(boot.user_type, boot.rule) for boot in found] == [("a:x", "over_allocation")]


def test_over_allocation_ignores_users_at_limit_and_types_at_limit() -> None:
    fleet = [*nodes(6, "a", "x"), node(7, "b", "y"), node(8, "c", "z")]
    found = boots(
        group(shape("b", "y"), 10),
        group(shape("c", "z", type_limit=1), 11),
        waiting("a", "x", 5),
        fleet=fleet,
        limits={"b": 1},
    )
    assert types(found) == ["a:x"]


def test_the_users_other_types_get_only_left_over_room() -> None:
    first, other = group(shape("a", "x"), (1, 5), (3, 5)), group(shape("a", "y"), (2, 1))
    assert types(boots(first, other)) == ["a:x"]
    unplaceable = group(shape("a", "x", cores=64), (1, 5))
    found = boots(unplaceable, other, clouds=(cloud(cpu_cores=8),))
    assert [(boot.user_type, boot.rule) for boot in found] == [("a:y", "over_allocation")]


def test_user_limit() -> None:
    fleet = nodes(2, "a", "x")
    assert boots(waiting("a", "x", 5), fleet=fleet, limits={"a": 2}) == []
    assert len(boots(waiting("a", "x", 5), fleet=fleet, limits={"a": 3})) == 1
    assert boots(waiting("a", "x", 5), limits={"a": 0}) == []


def test_b44_the_limit_is_checked_before_each_boot() -> None:
    policy = Policy(distribution="split")
    groups = [group(shape("a", name), number) for number, name in enumerate("xyz", start=1)]
    assert len(boots(*groups, policy=policy)) == 3
    assert len(boots(*groups, policy=policy, limits={"a": 2})) == 2


def test_nodes_in_any_state_count_for_the_limit_but_not_the_retired_ones() -> None:
    fleet = [node(1, "a", "x", state="Error"), node(2, "a", "x", retired=True)]
    assert boots(waiting("a", "x", 5), fleet=fleet, limits={"a": 1}) == []
    assert len(boots(waiting("a", "x", 5), fleet=fleet, limits={"a": 2})) == 1


def test_vmtype_limit_counts_the_user_type() -> None:
    limited = group(shape("a", "x", type_limit=2), 1, 2, 3)
    assert boots(limited, fleet=nodes(2, "a", "x")) == []
    assert len(boots(limited, fleet=[node(1, "a", "x"), *nodes(5, "b", "x", first=2)])) == 1


def test_max_starting_stops_all_boots() -> None:
    fleet = nodes(3, "b", "y", state=STARTING)
    assert boots(waiting("a", "x", 1), fleet=fleet, policy=Policy(max_starting=3)) == []
    assert len(boots(waiting("a", "x", 1), fleet=fleet, policy=Policy(max_starting=4))) == 1
    assert len(boots(waiting("a", "x", 1), fleet=fleet, policy=Policy(max_starting=-1))) == 1


def test_disabled_and_full_clouds_get_nothing() -> None:
    assert boots(waiting("a", "x", 1), clouds=(cloud(enabled=False),)) == []
    assert boots(waiting("a", "x", 1), clouds=(cloud(max_slots=1),), fleet=[node(1, "b", "y")]) == []
    assert boots(waiting("a", "x", 1), clouds=()) == []


def test_scarce_room_goes_to_those_furthest_below_their_share() -> None:
    fleet = [*nodes(3, "a", "x"), *nodes(1, "b", "y", first=10), *nodes(5, "c", "z", first=20)]
    found = boots(
        waiting("a", "x", 5), waiting("b", "y", 5, first=10), clouds=(cloud(max_slots=10),), fleet=fleet
    )
    assert types(found) == ["b:y"]


def test_banned_jobs_are_not_booted_for() -> None:
    assert boots(group(shape("a", "x"), banned=3)) == []


def test_job_per_core_schedules_the_companions() -> None:
    wide = {"cores": 4, "job_per_core": True}
    found = boots(
        group(shape("a", "x", **wide), 1, 2), group(shape("a", "x", **wide), 3, 4, 5),
        group(shape("a", "x", cores=2, job_per_core=True), 6), group(shape("b", "x", **wide), 7),
    )  # fmt: skip
    mine = next(boot for boot in found if boot.user_type == "a:x")
    assert (mine.job_id, mine.also_schedule) == (1, (2, 3, 4))


def test_one_job_per_node_has_no_companions() -> None:
    assert boots(waiting("a", "x", 5, cores=4))[0].also_schedule == ()


def test_high_priority_goes_first_and_alone_while_it_waits() -> None:
    high = group(shape("h", "x", high_priority=1), 50, 51)
    found = boots(waiting("a", "x", 5), high, policy=HIGH)
    assert [(boot.job_id, boot.rule) for boot in found] == [(50, "high_priority")]


def test_when_no_high_priority_job_is_left_the_others_follow_in_the_same_cycle() -> None:
    found = boots(waiting("a", "x", 5), group(shape("h", "x", high_priority=1), 50), policy=HIGH)
    assert types(found) == ["a:x", "h:x"]


def test_one_high_priority_node_per_user_and_cycle_highest_first() -> None:
    found = boots(
        group(shape("h", "x", high_priority=1), 1),
        group(shape("h", "y", high_priority=9), 2),
        group(shape("g", "x", high_priority=5), 3),
        policy=HIGH,
    )
    assert [boot.job_id for boot in found if boot.rule == "high_priority"] == [2, 3]


def test_b42_the_switch_is_honoured() -> None:
    high = group(shape("h", "x", high_priority=1), 50, 51)
    assert types(boots(waiting("a", "x", 5), high)) == ["a:x", "h:x"]


def test_b42_banned_and_limited_high_priority_jobs_do_not_stop_the_rest() -> None:
    banned = group(shape("h", "x", high_priority=1), banned=1)
    limited = group(shape("g", "x", high_priority=1), 60)
    nowhere = group(shape("f", "x", high_priority=1, cores=99), 70)
    found = boots(
        waiting("a", "x", 5),
        banned,
        limited,
        nowhere,
        policy=HIGH,
        limits={"g": 0},
        clouds=(cloud(cpu_cores=8),),
    )
    assert types(found) == ["a:x"]


def test_high_priority_waiting_for_room_keeps_the_others_back() -> None:
    big = group(shape("h", "x", high_priority=1, memory_mb=900), 50)
    fleet = [node(1, "b", "y", memory_mb=500)]
    found = boots(waiting("a", "x", 5), big, policy=HIGH, clouds=(cloud(max_memory_mb=1000),), fleet=fleet)
    assert found == []


def test_candidates_are_in_the_order_to_try() -> None:
    found = boots(waiting("a", "x", 1), clouds=(cloud("later", priority=2), cloud("first", priority=1)))
    assert [candidate.cloud for candidate in found[0].candidates] == ["first", "later"]


def test_unknown_algorithm_counts_as_fairshare() -> None:
    assert boots(waiting("a", "x", 1), policy=Policy(algorithm="lottery"))[0].rule == "share"
