"""Does fifo boot by arrival and make room for the first in line?  (B40)"""

from __future__ import annotations

from cloudsched.domain.scheduling.model import STARTING, Policy, Snapshot
from cloudsched.domain.scheduling.passes import clean_up, schedule

from .build import NOW, cloud, group, node, nodes, shape, slots, waiting

FIFO = Policy(algorithm="fifo")


def booted(*groups, clouds=None, policy=FIFO, **more) -> list[int]:
    snapshot = Snapshot(clouds=clouds or (cloud(max_slots=3),), groups=groups, **more)
    return [boot.job_id for boot in schedule(snapshot, policy, NOW).boots]


def test_boots_by_job_id_while_slots_last_whatever_the_priority() -> None:
    assert booted(group(shape("a"), (4, 9), (1, 1)), group(shape("b"), (2, 5), (3, 1))) == [1, 2, 3]


def test_the_waiting_list_of_the_snapshot_is_used() -> None:
    one, two = group(shape("a"), 10, 11, unscheduled=50), group(shape("b"), 2)
    order = [(2, two.shape.id), (10, one.shape.id), (12, one.shape.id)]
    assert booted(one, two, waiting=order) == [2, 10, 12]


def test_limits_hold_and_others_go_on() -> None:
    assert booted(waiting("a", "x", 5), waiting("b", "y", 5, first=10), limits={"a": 1}) == [1, 10, 11]
    assert booted(waiting("a", "x", 5, type_limit=2)) == [1, 2]


def test_a_job_without_room_does_not_stop_the_next() -> None:
    big = group(shape("a", memory_mb=600), 1, 2)
    small = group(shape("b", memory_mb=300), 3)
    assert booted(big, small, clouds=(cloud(max_memory_mb=1000),)) == [1, 3]


def test_max_starting() -> None:
    policy = Policy(algorithm="fifo", max_starting=1)
    assert booted(waiting("a", "x", 1), policy=policy, nodes=[node(1, state=STARTING)]) == []


def test_job_per_core_takes_its_companions() -> None:
    assert booted(waiting("a", "x", 5, cores=4, job_per_core=True)) == [1, 5]


def retired(*groups, fleet) -> set[int]:
    snapshot = Snapshot(
        clouds=(cloud(max_slots=3),), nodes=fleet, groups=groups, slots=slots(fleet, busy=True)
    )
    return {order.node_id for order in clean_up(snapshot, FIFO, NOW).retires}


def test_types_no_job_in_front_wants_are_retired() -> None:
    fleet = [*nodes(2, "a", "x"), node(3, "b", "y")]
    running = group(shape("a", "x"), running=2)
    assert retired(running, waiting("b", "y", 1), fleet=fleet) == {1, 2}


def test_jobs_beyond_the_slots_do_not_count() -> None:
    fleet = [*nodes(2, "a", "x"), node(3, "b", "y")]
    late = group(shape("a", "x"), 99, running=2)
    assert retired(late, waiting("b", "y", 3), fleet=fleet) == {1, 2}
    assert retired(late, waiting("b", "y", 2), fleet=fleet) == set()


def test_nothing_is_retired_while_there_is_room_or_nobody_waits() -> None:
    running = group(shape("a", "x"), running=2)
    assert retired(running, waiting("b", "y", 1), fleet=nodes(2, "a", "x")) == set()
    assert retired(running, fleet=nodes(3, "a", "x")) == set()


def test_a_type_whose_job_waits_for_its_node_is_wanted() -> None:
    fleet = [*nodes(2, "a", "x"), node(3, "b", "y")]
    scheduled = group(shape("a", "x"), running=1, scheduled_idle=1)
    assert retired(scheduled, waiting("b", "y", 1), fleet=fleet) == set()
