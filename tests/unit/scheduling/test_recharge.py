"""What happens to nodes when limits change?  (contract 4.2, 4.11, 7.10)"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.model import ERROR, Policy
from cloudsched.domain.scheduling.recharge import Allocation, allocate, recharge, reconfig

from .build import cloud, node, nodes


def test_restart_charges_in_boot_order_and_retires_the_rest() -> None:
    plan = recharge([cloud(max_slots=2)], list(reversed(nodes(3))), Policy())
    assert [(order.node_id, order.to_shadow) for order in plan.retires] == [(3, True)]
    assert plan.destroys == []


def test_restart_without_retire_reallocate_destroys() -> None:
    plan = recharge([cloud(max_slots=2)], nodes(3), Policy(retire_reallocate=False))
    assert [order.node_id for order in plan.destroys] == [3]


def test_restart_looks_at_memory_and_storage_too() -> None:
    fleet = [
        node(1, memory_mb=600),
        node(2, memory_mb=600),
        node(3, memory_mb=400),
        node(4, memory_mb=0, storage_gb=9),
    ]
    plan = recharge([cloud(max_memory_mb=1000, max_storage_gb=8)], fleet, Policy())
    assert [order.node_id for order in plan.retires] == [2, 4]


def test_restart_destroys_nodes_of_clouds_that_are_gone_and_spares_the_shadow() -> None:
    fleet = [node(1, cloud="gone"), node(2, retired=True), node(3)]
    plan = recharge([cloud(max_slots=1)], fleet, Policy())
    assert plan.going == {1: "cloud_gone"}


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        (5, Allocation("same", 5, 2)),
        (8, Allocation("grow", 8, 5)),
        (3, Allocation("shrink", 3, 0)),
        (1, Allocation("evict", 1, 0, (3, 2))),
        (0, Allocation("evict", 0, 0, (3, 2, 1))),
    ],
)
def test_allocation(slots: int, expected: Allocation) -> None:
    fleet = [*nodes(3), node(8, cloud="beta"), node(9, retired=True)]
    assert allocate(cloud(max_slots=5), fleet, slots) == expected


def test_a_negative_allocation_is_refused() -> None:
    with pytest.raises(ValueError, match="slots: -1 is negative"):
        allocate(cloud(), [], -1)


def test_reconfig_destroys_errors_first_then_the_newest() -> None:
    fleet = [node(1, state=ERROR), node(2), node(3), node(4, cloud="old")]
    result = reconfig([cloud(), cloud("old")], [cloud(max_slots=1), cloud("new")], fleet)
    assert (result.added, result.vanished, result.kept) == (("new",), ("old",), ("alpha",))
    assert [(order.node_id, order.rule) for order in result.plan.destroys] == [
        (4, "cloud_gone"),
        (1, "recharge"),
        (3, "recharge"),
    ]


def test_reconfig_keeps_errors_when_they_fit() -> None:
    assert reconfig([cloud()], [cloud()], [node(1, state=ERROR), node(2)]).plan.going == {}
