"""What holds for every fleet and queue?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloudsched.domain.scheduling.model import CloudView, Head, JobGroup, NodeView, Policy, Shape, Snapshot
from cloudsched.domain.scheduling.passes import TYPE_RULES, clean_up, decide, schedule
from cloudsched.domain.scheduling.plan import Plan
from cloudsched.domain.scheduling.shares import shares

from .build import NOW, cloud, slot

USERS = ("ann", "bob", "cid")
TYPES = ("x", "y")
CLOUDS = ("alpha", "beta", "gamma")
STATES = ("Running", "Running", "Running", "Starting", "Error", "Suspended")


class Dice(random.Random):
    """Random fleets from a seed: far quicker than drawing each field, so that many more are looked at."""

    def clouds(self) -> list[CloudView]:
        return [
            CloudView(
                name=name,
                max_slots=self.randint(0, 6),
                enabled=self.random() < 0.7,
                priority=self.randint(0, 2),
                max_memory_mb=self.choice((-1, 1000, 3000)),
                max_storage_gb=self.choice((-1, 20)),
                cpu_cores=self.choice((-1, 2)),
                networks=self.choice(((), ("n",))),
                banned_images=self.choice((frozenset(), frozenset({"bad"}))),
            )
            for name in CLOUDS[: self.randint(0, 3)]
        ]

    def fleet(self, pool: list[CloudView]) -> list[NodeView]:
        """Nodes that fit their clouds' slots, memory and storage."""
        fleet: list[NodeView] = []
        for view in pool:
            left_mb = view.max_memory_mb if view.max_memory_mb >= 0 else 10**9
            left_gb = view.max_storage_gb if view.max_storage_gb >= 0 else 10**9
            for _ in range(self.randint(0, view.max_slots)):
                memory_mb, storage_gb = self.choice(((200, 0), (400, 5)))
                if memory_mb <= left_mb and storage_gb <= left_gb:
                    left_mb, left_gb = left_mb - memory_mb, left_gb - storage_gb
                    fleet.append(self.node(view.name, len(fleet) + 1, memory_mb, storage_gb))
        return fleet

    def node(self, name: str, number: int, memory_mb: int, storage_gb: int) -> NodeView:
        return NodeView(
            id=number,
            cloud=name,
            user=self.choice(USERS),
            vm_type=self.choice(TYPES),
            memory_mb=memory_mb,
            storage_gb=storage_gb,
            cores=self.randint(1, 2),
            state=self.choice(STATES),
            override=self.choice(("", "", "Retiring")),
            destroying=self.random() < 0.1,
            hostname=f"node{number}.example.org",
            running_since=NOW - self.randint(0, 2000),
            boot_requested_at=NOW - self.randint(0, 2000),
            idle_since=self.choice((None, NOW - 500)),
            keep_alive_s=self.choice((0, 600)),
        )

    def group(self, number: int) -> JobGroup:
        first, waiting = number * 100, self.randint(0, 8)
        shape = Shape(
            id=number,
            user=self.choice(USERS),
            vm_type=self.choice(TYPES),
            memory_mb=self.choice((200, 400, 2000)),
            storage_gb=self.choice((0, 5)),
            cores=self.randint(1, 3),
            network=self.choice(("", "n", "m")),
            targets=self.choice(((), (), ("ALPHA",), ("beta", "nowhere"))),
            high_priority=self.choice((0, 0, 2)),
            type_limit=self.choice((-1, -1, 2)),
            job_per_core=self.random() < 0.5,
            images=self.choice(({}, {"default": "bad"})),
        )
        heads = sorted(
            (Head(first + each, self.randint(1, 3)) for each in range(waiting)),
            key=lambda head: (-head.priority, head.job_id),
        )
        return JobGroup(
            shape=shape,
            unscheduled=waiting,
            scheduled_idle=self.randint(0, 2),
            running=self.randint(0, 2),
            banned=self.randint(0, 2),
            heads=tuple(heads),
            blocked={first: frozenset({"alpha"})},
            scheduled_idle_ids=(first + 50, first + 51),
        )

    def snapshot(self) -> Snapshot:
        pool = self.clouds()
        fleet = self.fleet(pool)
        registered = [node for node in fleet if node.state == "Running" and self.random() < 0.7]
        return Snapshot(
            clouds=pool,
            nodes=fleet,
            groups=[self.group(number) for number in range(self.randint(0, 6))],
            slots=[slot(node.id, busy=self.random() < 0.6) for node in registered],
            limits={user: self.randint(0, 6) for user in USERS if self.random() < 0.4},
        )

    def policy(self) -> Policy:
        return Policy(
            algorithm=self.choice(("fairshare", "fairshare", "fifo")),
            metric=self.choice(("slot", "memory", "memory_cpu", "memory_cpu_storage")),
            distribution=self.choice(("normal", "split")),
            high_priority_support=self.random() < 0.5,
            graceful_shutdown=self.random() < 0.5,
            max_starting=self.choice((-1, -1, 2)),
            clean_shutdown_idle=self.random() < 0.5,
        )


def for_every_fleet(test: Callable[[Snapshot, Policy], None]) -> Callable[[], None]:
    """Run the test over many random fleets; a failing seed is printed and can be replayed."""

    @settings(max_examples=200, deadline=None)
    @given(seed=st.integers(0, 2**32))
    def run(seed: int) -> None:
        dice = Dice(seed)
        test(dice.snapshot(), dice.policy())

    run.__name__ = test.__name__
    return run


@for_every_fleet
def test_no_plan_goes_over_a_cloud(snapshot: Snapshot, policy: Policy) -> None:
    shapes = {group.shape.id: group.shape for group in snapshot.groups}
    boots = schedule(snapshot, policy, NOW).boots
    for view in snapshot.clouds:
        mine = [shapes[boot.shape_id] for boot in boots if boot.candidates[0].cloud == view.name]
        everything = [*mine, *(node for node in snapshot.nodes if node.cloud == view.name)]
        if mine:
            assert view.enabled
        assert len(everything) <= view.max_slots
        assert view.max_memory_mb < 0 or sum(each.memory_mb for each in everything) <= view.max_memory_mb
        assert view.max_storage_gb < 0 or sum(each.storage_gb for each in everything) <= view.max_storage_gb
        assert all(view.cpu_cores < 0 or each.cores <= view.cpu_cores for each in mine)


@for_every_fleet
def test_no_plan_goes_over_a_limit(snapshot: Snapshot, policy: Policy) -> None:
    shapes = {group.shape.id: group.shape for group in snapshot.groups}
    users, types = Counter(), Counter()
    for node in snapshot.nodes:
        users[node.user] += 1
        types[node.user_type] += 1
    for boot in schedule(snapshot, policy, NOW).boots:
        shape = shapes[boot.shape_id]
        assert users[shape.user] < snapshot.limits.get(shape.user, 10**9)
        assert shape.type_limit < 0 or types[shape.user_type] < shape.type_limit
        users[shape.user] += 1
        types[shape.user_type] += 1


@for_every_fleet
def test_jobs_are_booted_for_once_and_fairshare_grows_a_type_by_one(
    snapshot: Snapshot, policy: Policy
) -> None:
    boots = schedule(snapshot, policy, NOW).boots
    jobs = [job for boot in boots for job in (boot.job_id, *boot.also_schedule)]
    assert len(jobs) == len(set(jobs))
    if policy.algorithm == "fairshare":
        normal = Counter(boot.user_type for boot in boots if boot.rule != "high_priority")
        assert not normal or max(normal.values()) == 1


@for_every_fleet
def test_shares_add_up_to_one(snapshot: Snapshot, policy: Policy) -> None:
    found = shares(snapshot, policy)
    assert not found.current or sum(found.current.values()) == pytest.approx(1.0)
    assert not found.desired or sum(found.desired.values()) == pytest.approx(1.0)
    assert set(found.diff) == set(found.current) | set(found.desired)
    assert all(value > 0 for value in (*found.current.values(), *found.desired.values()))


@for_every_fleet
def test_no_type_both_grows_and_shrinks(snapshot: Snapshot, policy: Policy) -> None:
    plan = decide(snapshot, policy, NOW)
    losing = {
        order.user_type
        for order in (*plan.retires, *plan.destroys, *plan.deferred)
        if order.rule in TYPE_RULES
    }
    assert not losing & {boot.user_type for boot in plan.boots}


@for_every_fleet
def test_the_same_snapshot_gives_the_same_plan(snapshot: Snapshot, policy: Policy) -> None:
    assert decide(snapshot, policy, NOW) == decide(snapshot, policy, NOW)


@for_every_fleet
def test_a_disabled_cloud_changes_nothing(snapshot: Snapshot, policy: Policy) -> None:
    more = replace(snapshot, clouds=[*snapshot.clouds, cloud("zeta", 50, enabled=False)])
    before, after = decide(snapshot, policy, NOW), decide(more, policy, NOW)
    assert after.boots == before.boots
    assert after.going == before.going
    assert (after.retires, after.destroys) == (before.retires, before.destroys)


@for_every_fleet
def test_one_order_per_node_and_never_the_destroying_ones(snapshot: Snapshot, policy: Policy) -> None:
    plan: Plan = clean_up(snapshot, policy, NOW)
    orders = [order.node_id for order in (*plan.retires, *plan.destroys, *plan.deferred)]
    assert len(orders) == len(set(orders))
    assert not {order.node_id for order in plan.destroys} & {
        node.id for node in snapshot.nodes if node.destroying
    }


@for_every_fleet
def test_rebalancing_takes_no_more_than_others_can_use(snapshot: Snapshot, policy: Policy) -> None:
    plan = clean_up(snapshot, policy, NOW)
    taken = [order for order in (*plan.retires, *plan.destroys) if order.rule == "rebalance"]
    waiting = sum(group.unscheduled for group in snapshot.groups)
    assert len(taken) <= waiting
