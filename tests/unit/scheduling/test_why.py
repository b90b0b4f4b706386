"""Do the answers to "why" name the rules that decide?"""

from __future__ import annotations

import pytest

from cloudsched.domain.scheduling.model import RETIRING, STARTING, Policy, Snapshot
from cloudsched.domain.scheduling.why import why_job, why_node

from .build import NOW, cloud, group, node, nodes, shape, slot, slots, waiting


def job(snapshot: Snapshot, which: int = 0, policy: Policy | None = None, **more):
    return why_job(snapshot, policy or Policy(), NOW, shape_id=snapshot.groups[which].shape.id, **more)


def test_a_job_that_boots_this_cycle() -> None:
    answer = job(Snapshot(clouds=(cloud(),), groups=[waiting("a", "x", 2)]), job_id=1)
    assert answer.verdict == "boots"
    assert answer.clouds == {"alpha": ()}
    assert "alpha" in answer.text


def test_per_cloud_the_first_and_all_rules() -> None:
    clouds = (cloud("alpha", enabled=False, cpu_cores=1), cloud("beta", 1), cloud("gamma", networks=("n",)))
    snapshot = Snapshot(
        clouds=clouds, nodes=[node(1, "b", "y", cloud="beta")], groups=[group(shape(cores=2, network="m"), 1)]
    )
    answer = job(snapshot)
    assert answer.verdict == "waits"
    assert [refusal.rule for refusal in answer.clouds["alpha"]] == ["disabled", "cores"]
    assert answer.first("Beta").rule == "slots"
    assert answer.first("gamma").text == "gamma offers the networks n; the job asks m."
    assert answer.first("unknown") is None
    assert answer.text.startswith("No cloud can take it now: alpha is disabled.")


def test_blocked_cloud_of_one_job() -> None:
    one = group(shape(), 1, 2, blocked={1: frozenset({"alpha"})})
    assert job(Snapshot(clouds=(cloud(),), groups=[one]), job_id=1).first("alpha").rule == "blocked"
    assert job(Snapshot(clouds=(cloud(),), groups=[one]), job_id=2).verdict == "boots"


@pytest.mark.parametrize(
    ("more", "policy", "rule"),
    [
        ({"limits": {"a": 2}}, Policy(), "user_limit"),
        ({}, Policy(max_starting=1), "max_starting"),
        ({}, Policy(), "share"),
    ],
)
def test_general_reasons(more: dict, policy: Policy, rule: str) -> None:
    fleet = [*nodes(6, "a", "x"), node(7, "b", "y", state=STARTING)]
    groups = [waiting("a", "x", 3), waiting("b", "y", 3, first=10)]
    answer = job(Snapshot(clouds=(cloud(max_slots=20),), nodes=fleet, groups=groups, **more), policy=policy)
    assert (answer.verdict, answer.general[0].rule, answer.text) == ("waits", rule, answer.general[0].text)


def test_type_limit_order_ban_and_high_priority() -> None:
    limited = Snapshot(
        clouds=(cloud(),), nodes=nodes(2, "a", "x"), groups=[waiting("a", "x", 3, type_limit=2)]
    )
    assert job(limited).general[0].rule == "type_limit"
    behind = job(Snapshot(clouds=(cloud(),), groups=[waiting("a", "x", 3)]), job_id=3)
    assert [refusal.rule for refusal in behind.general] == ["order"]
    assert job(Snapshot(clouds=(cloud(),), groups=[waiting("a", "x", 3)]), banned=True).verdict == "banned"
    high = Snapshot(
        clouds=(cloud(),), groups=[waiting("a", "x", 1), waiting("h", "x", 3, first=9, high_priority=1)]
    )
    answer = job(high, policy=Policy(high_priority_support=True))
    assert "high_priority" in [refusal.rule for refusal in answer.general]


def test_impossible_job() -> None:
    answer = job(Snapshot(clouds=(cloud(),), groups=[group(shape(targets=("nowhere",)), 1)]))
    assert answer.verdict == "impossible"


def test_without_clouds() -> None:
    assert job(Snapshot(groups=[waiting("a", "x", 1)])).text == "No cloud is configured."


def test_unknown_shape_and_node() -> None:
    with pytest.raises(KeyError):
        why_job(Snapshot(), Policy(), NOW, shape_id=1)
    with pytest.raises(KeyError):
        why_node(Snapshot(), Policy(), NOW, node_id=1)


def answer_for(one, *groups, machines=(), policy=None, **more):
    snapshot = Snapshot(clouds=(cloud(),), nodes=[one], groups=groups, slots=machines, **more)
    return why_node(snapshot, policy or Policy(), NOW, node_id=one.id)


def test_node_kept_because_busy_or_within_its_keep_alive() -> None:
    jobs = group(shape(), running=1)
    busy = answer_for(node(1), jobs, machines=[slot(1, busy=True)])
    assert (busy.verdict, busy.reasons[0].rule) == ("kept", "busy")
    idle = answer_for(node(1, idle_since=NOW - 10, keep_alive_s=60), machines=[slot(1)])
    assert (idle.verdict, idle.reasons[0].rule, idle.reasons[0].have, idle.reasons[0].need) == (
        "kept", "keep_alive", 10, 60,
    )  # fmt: skip
    assert [refusal.rule for refusal in idle.reasons] == ["keep_alive", "needed", "rebalance"]


def test_node_taken() -> None:
    gone = answer_for(node(1, idle_since=NOW - 99), machines=[slot(1)])
    assert (gone.verdict, gone.rule) == ("retire", "unneeded")
    slow = answer_for(node(1, state=STARTING, boot_requested_at=0.0), policy=Policy(boot_timeout_s=5))
    assert (slow.verdict, slow.rule) == ("destroy", "boot_timeout")


def test_node_starting_retiring_unregistered() -> None:
    starting = answer_for(node(1, state=STARTING, boot_requested_at=NOW - 5))
    assert starting.text == "It is Starting for 5 s; there is no boot timeout."
    retiring = answer_for(
        node(1, override=RETIRING), group(shape(), running=1), machines=[slot(1, busy=True)]
    )
    assert retiring.verdict == "retiring"
    unregistered = answer_for(node(1, running_since=NOW - 5))
    assert unregistered.reasons[0].rule == "not_registered"


def test_node_of_a_type_that_gives() -> None:
    fleet = nodes(10, "a", "x")
    groups = [waiting("a", "x", 20), waiting("b", "x", 20, first=100)]
    snapshot = Snapshot(clouds=(cloud(),), nodes=fleet, groups=groups, slots=slots(fleet, busy=True))
    assert why_node(snapshot, Policy(), NOW, node_id=10).rule == "rebalance"
    kept = why_node(snapshot, Policy(), NOW, node_id=1)
    assert kept.reasons[-1].text == "a:x gives 5 nodes; others are cheaper to lose or are going already."
