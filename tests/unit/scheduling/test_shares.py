"""Are the shares those of contract 7.5?"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.demand import Demand
from cloudsched.domain.scheduling.fleet import Tally
from cloudsched.domain.scheduling.model import Policy, Snapshot
from cloudsched.domain.scheduling.shares import Shares, compute_shares, current_shares, shares

from .build import cloud, group, node, nodes, shape, waiting

HIGH = Policy(high_priority_support=True)


def rounded(table: dict[str, float]) -> dict[str, str]:
    return {key: f"{value:.6f}" for key, value in sorted(table.items())}


def of(*groups, fleet=(), policy=None, limits=None) -> Shares:
    snapshot = Snapshot(clouds=(cloud(),), nodes=fleet, groups=groups, limits=limits or {})
    return shares(snapshot, policy or Policy())


def worked_check() -> dict:
    fleet = (*nodes(2, "alice", "canfar"), node(3, "bob", "x"), node(4, "carol", "y"))
    groups = (
        group(shape("alice", "canfar"), 1),
        group(shape("dave", "z", high_priority=1), 2),
        group(shape("erin", "w"), held=3),
    )
    return {"fleet": fleet, "groups": groups}


def test_worked_check_of_the_contract() -> None:
    case = worked_check()
    found = of(*case["groups"], fleet=case["fleet"], policy=HIGH)
    assert rounded(found.current) == {
        "alice:canfar": "0.500000",
        "bob:x": "0.250000",
        "carol:y": "0.250000",
    }
    assert rounded(found.desired) == {"alice:canfar": "0.333333", "dave:z": "0.666667"}
    assert rounded(found.diff) == {
        "alice:canfar": "0.166667",
        "bob:x": "1.000000",
        "carol:y": "1.000000",
        "dave:z": "-0.666667",
    }


def test_high_priority_switched_off_counts_a_user_once() -> None:
    case = worked_check()
    found = of(*case["groups"], fleet=case["fleet"])
    assert rounded(found.desired) == {"alice:canfar": "0.500000", "dave:z": "0.500000"}


def test_high_priority_weight_divides_the_plain_counts() -> None:
    policy = Policy(high_priority_support=True, high_priority_weight=2)
    found = of(group(shape("a", "x"), 1), group(shape("b", "y", high_priority=1), 2), policy=policy)
    # plain: a 1/2, b 1/2; high: b 2; divided by 2 + 1
    assert rounded(found.desired) == {"a:x": "0.166667", "b:y": "0.833333"}


def test_no_nodes_means_no_current_share() -> None:
    found = of(group(shape("a", "x"), 1))
    assert found.current == {} and found.diff == {"a:x": -1.0}


def test_normal_counts_only_the_type_of_the_first_job() -> None:
    found = of(group(shape("a", "x"), (5, 1)), group(shape("a", "y"), (9, 3)), group(shape("b", "x"), 7))
    assert found.desired == {"a:y": 0.5, "b:x": 0.5}


def test_equal_priority_is_decided_by_the_lower_id() -> None:
    found = of(group(shape("a", "x"), 5), group(shape("a", "y"), 4))
    assert found.desired == {"a:y": 1.0}


def test_banned_and_held_jobs_do_not_count() -> None:
    found = of(group(shape("a", "x"), 1), group(shape("b", "y"), banned=4), group(shape("c", "z"), held=4))
    assert found.desired == {"a:x": 1.0}


def test_split_shares_the_users_one_among_the_types_of_the_highest_priority() -> None:
    found = of(
        group(shape("a", "x"), (1, 5)),
        group(shape("a", "y"), (2, 5)),
        group(shape("a", "low"), (3, 1)),
        group(shape("b", "z"), 4),
        policy=Policy(distribution="split"),
    )
    assert found.desired == {"a:x": 0.25, "a:y": 0.25, "b:z": 0.5}


def test_b51_split_with_a_user_whose_jobs_are_all_banned_adds_up_to_one() -> None:
    policy = Policy(distribution="split")
    found = of(
        group(shape("a", "x"), 1), group(shape("b", "y"), 2), group(shape("c", "z"), banned=2), policy=policy
    )
    assert found.desired == {"a:x": 0.5, "b:y": 0.5}
    assert of(group(shape("c", "z"), banned=2), policy=policy).desired == {}


def test_split_with_high_priority_still_adds_up_to_one() -> None:
    policy = Policy(distribution="split", high_priority_support=True)
    found = of(group(shape("a", "x"), 1), group(shape("b", "y", high_priority=2), 2), policy=policy)
    assert sum(found.desired.values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("slot", 2 / 3),
        ("memory", 2000 / 5000),
        ("memory_cpu", 2000 * 4 / (2000 * 4 + 3000 * 1)),
        ("memory_cpu_storage", 2000 * 4 * 20 / (2000 * 4 * 20 + 3000 * 1)),
    ],
)
def test_metrics(metric: str, expected: float) -> None:
    fleet = (*nodes(2, "a", "x", memory_mb=1000, cores=2, storage_gb=10), node(3, "b", "y", memory_mb=3000))
    current = current_shares(Tally.of(fleet).types, Policy(metric=metric))
    assert current["a:x"] == pytest.approx(expected)
    assert sum(current.values()) == pytest.approx(1.0)


def test_weights_are_for_the_last_metric_only() -> None:
    fleet = (node(1, "a", "x", memory_mb=100, storage_gb=10), node(2, "b", "y", memory_mb=100))
    types = Tally.of(fleet).types
    weighted = Policy(metric="memory_cpu_storage", storage_weight=3.0)
    assert current_shares(types, weighted)["a:x"] == pytest.approx(3000 / 3100)
    assert current_shares(types, Policy(metric="memory", storage_weight=3.0))["a:x"] == 0.5


def test_nodes_without_memory_are_counted_instead() -> None:
    types = Tally.of([node(1, "a", "x", memory_mb=0), node(2, "b", "y", memory_mb=0)]).types
    assert current_shares(types, Policy(metric="memory")) == {"a:x": 0.5, "b:y": 0.5}


def test_retired_nodes_have_no_share() -> None:
    found = of(fleet=(node(1, "a", "x"), node(2, "b", "y", retired=True)))
    assert found.current == {"a:x": 1.0}


def test_user_at_limit_gives_its_wish_to_the_others() -> None:
    fleet = nodes(10, "a", "x")
    found = of(group(shape("a", "x"), 1), group(shape("b", "y"), 2), fleet=fleet, limits={"b": 0})
    assert found.limited == {"b:y"}
    assert found.diff == {"a:x": 0.0, "b:y": -0.5}


def test_type_limit_gives_its_wish_to_the_others() -> None:
    fleet = (node(1, "b", "y"), *nodes(3, "a", "x", first=2))
    found = of(group(shape("a", "x"), 1), group(shape("b", "y", type_limit=1), 2), fleet=fleet)
    assert found.limited == {"b:y"}
    assert found.diff["b:y"] == pytest.approx(-0.25)
    assert found.diff["a:x"] == pytest.approx(0.0)


def test_type_limit_binds_only_when_every_waiting_shape_has_it() -> None:
    groups = (group(shape("b", "y", type_limit=0), 2), group(shape("b", "y"), 3))
    demand = Demand(groups)
    assert not compute_shares(Tally(), demand, Policy(), limits={}).limited


def test_user_types_are_told_apart_by_both_parts() -> None:
    found = of(waiting("a", "x", 1), waiting("b", "x", 1, first=5))
    assert set(found.desired) == {"a:x", "b:x"}
