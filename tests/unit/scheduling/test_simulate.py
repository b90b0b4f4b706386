"""Do the plans, carried out cycle after cycle, drain a queue and give every node back?"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest

from cloudsched.domain.scheduling.model import (
    RETIRING,
    RUNNING,
    STARTING,
    CloudView,
    Head,
    JobGroup,
    NodeView,
    Policy,
    Shape,
    SlotView,
    Snapshot,
)
from cloudsched.domain.scheduling.passes import clean_up, schedule

from .build import cloud, shape

CYCLE_S = 60.0
BOOT_CYCLES = 2


@dataclass
class Job:
    shape: Shape
    work: int  # cycles it runs
    scheduled: bool = False
    node_id: int | None = None
    done: bool = False


@dataclass
class World:
    """Clouds that always accept, machines that register when they are up, jobs that run for some cycles."""

    clouds: list[CloudView]
    jobs: dict[int, Job]
    policy: Policy = field(default_factory=Policy)
    now: float = 1000.0
    nodes: dict[int, NodeView] = field(default_factory=dict)
    age: dict[int, int] = field(default_factory=dict)
    booted: int = 0
    most: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    retires: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def cycle(self) -> None:
        self.now += CYCLE_S
        self._machines_work()
        self._carry_out_clean_up()
        self._carry_out_boots()
        for user_type in {node.user_type for node in self.nodes.values()}:
            count = sum(1 for node in self.nodes.values() if node.user_type == user_type)
            self.most[user_type] = max(self.most[user_type], count)
        for view in self.clouds:
            assert sum(1 for node in self.nodes.values() if node.cloud == view.name) <= view.max_slots

    def finished(self) -> bool:
        return not self.nodes and all(job.done for job in self.jobs.values())

    def run(self, cycles: int) -> int:
        for number in range(1, cycles + 1):
            self.cycle()
            if self.finished():
                return number
        left = sum(1 for job in self.jobs.values() if not job.done)
        raise AssertionError(f"{left} jobs and {len(self.nodes)} nodes are left after {cycles} cycles")

    def snapshot(self) -> Snapshot:
        return Snapshot(
            clouds=self.clouds, nodes=list(self.nodes.values()), groups=self._groups(), slots=self._slots()
        )

    def _groups(self) -> list[JobGroup]:
        by_shape: dict[int, list[tuple[int, Job]]] = defaultdict(list)
        for job_id, job in self.jobs.items():
            if not job.done:
                by_shape[job.shape.id].append((job_id, job))
        groups = []
        for jobs in by_shape.values():
            waiting = [number for number, job in jobs if not job.scheduled]
            idle = [number for number, job in jobs if job.scheduled and job.node_id is None]
            running = [number for number, job in jobs if job.node_id is not None]
            heads = tuple(Head(number) for number in waiting[:8])
            counts = {"unscheduled": len(waiting), "scheduled_idle": len(idle), "running": len(running)}
            ids = tuple(reversed(idle))
            groups.append(JobGroup(shape=jobs[0][1].shape, heads=heads, scheduled_idle_ids=ids, **counts))
        return groups

    def _slots(self) -> list[SlotView]:
        busy = {job.node_id for job in self.jobs.values() if job.node_id is not None}
        return [
            SlotView(
                name=f"slot1@{node.hostname}",
                machine=node.hostname,
                state="Claimed" if node.id in busy else "Unclaimed",
                activity="Busy" if node.id in busy else "Idle",
            )
            for node in self.nodes.values()
            if node.state == RUNNING and not (node.override == RETIRING and node.id not in busy)
        ]

    def _machines_work(self) -> None:
        for number, node in list(self.nodes.items()):
            self.age[number] += 1
            if node.state == STARTING and self.age[number] >= BOOT_CYCLES:
                self._change(number, state=RUNNING, running_since=self.now)
        for job in self.jobs.values():
            if job.node_id is None:
                continue
            job.work -= 1
            if job.work <= 0 or job.node_id not in self.nodes:
                job.done, job.node_id = job.work <= 0, None
        busy = {job.node_id for job in self.jobs.values()}
        for number, node in self.nodes.items():
            if node.state == RUNNING and node.override != RETIRING and number not in busy:
                self._start_a_job(node)

    def _start_a_job(self, node: NodeView) -> None:
        for job in self.jobs.values():
            if job.node_id is None and not job.done and job.shape.user_type == node.user_type:
                job.node_id, job.scheduled = node.id, True
                return

    def _carry_out_clean_up(self) -> None:
        plan = clean_up(self.snapshot(), self.policy, self.now)
        assert plan.holds == []
        for register in plan.registers:
            self._change(register.node_id, registered_name=register.name)
        for idle in plan.set_idle:
            self._change(idle.node_id, idle_since=idle.idle_since)
        for forgotten in plan.forgets:
            self._change(forgotten.node_id, registered_name="", register_clock_at=self.now)
        for job_id in plan.unschedule:
            self.jobs[job_id].scheduled = False
        for retire in plan.retires:
            self.retires[retire.rule] += 1
            self._change(retire.node_id, override=RETIRING)
            if retire.then_destroy:
                del self.nodes[retire.node_id]
        for destroy in plan.destroys:
            self.retires[destroy.rule] += 1
            del self.nodes[destroy.node_id]

    def _carry_out_boots(self) -> None:
        shapes = {job.shape.id: job.shape for job in self.jobs.values()}
        for boot in schedule(self.snapshot(), self.policy, self.now).boots:
            self.booted += 1
            what, chosen = shapes[boot.shape_id], boot.candidates[0]
            self.nodes[self.booted] = NodeView(
                id=self.booted,
                cloud=chosen.cloud,
                user=what.user,
                vm_type=what.vm_type,
                cores=what.cores,
                memory_mb=what.memory_mb,
                state=STARTING,
                boot_requested_at=self.now,
                hostname=f"n{self.booted}.example.org",
                keep_alive_s=chosen.keep_alive_s,
            )
            self.age[self.booted] = 0
            for job_id in (boot.job_id, *boot.also_schedule):
                self.jobs[job_id].scheduled = True

    def _change(self, number: int, **facts: object) -> None:
        fields = {
            name: getattr(self.nodes[number], name) for name in NodeView.__slots__ if name != "user_type"
        }
        self.nodes[number] = NodeView(**{**fields, **facts})


def queue(*parts: tuple[Shape, int, int]) -> dict[int, Job]:
    """(shape, number of jobs, cycles each) to jobs by id."""
    jobs = [Job(what, work) for what, count, work in parts for _ in range(count)]
    return dict(enumerate(jobs, start=1))


@pytest.mark.parametrize("algorithm", ["fairshare", "fifo"])
def test_one_users_queue_is_drained_and_the_nodes_go(algorithm: str) -> None:
    world = World([cloud(max_slots=4)], queue((shape("a"), 20, 3)), Policy(algorithm=algorithm))
    world.run(60)
    assert world.most["a:x"] == 4


@pytest.mark.parametrize("algorithm", ["fairshare", "fifo"])
@pytest.mark.parametrize("keep_alive_s", [0, 300])
def test_three_users_on_two_clouds(algorithm: str, keep_alive_s: int) -> None:
    pool = [cloud("alpha", 5, keep_alive_s=keep_alive_s), cloud("beta", 4, priority=1)]
    jobs = queue((shape("a"), 25, 4), (shape("b"), 25, 4), (shape("c", memory_mb=900), 10, 4))
    world = World(pool, jobs, Policy(algorithm=algorithm))
    world.run(200)
    assert world.booted < 60


def test_a_late_user_gets_a_fair_part() -> None:
    first, late = shape("a"), shape("b")
    world = World([cloud(max_slots=8)], queue((first, 80, 6)))
    for _ in range(15):
        world.cycle()
    assert world.most["a:x"] == 8
    world.jobs.update({number + 1000: job for number, job in queue((late, 40, 6)).items()})
    for _ in range(25):
        world.cycle()
    counts = defaultdict(int)
    for node in world.nodes.values():
        counts[node.user_type] += 1
    assert 3 <= counts["b:x"] <= 5
    assert world.retires["rebalance"] >= 3
    world.run(300)


def test_rebalancing_settles_instead_of_swapping_for_ever() -> None:
    world = World([cloud(max_slots=6)], queue((shape("a"), 400, 5), (shape("b"), 400, 5)))
    for _ in range(40):
        world.cycle()
    before = world.retires["rebalance"]
    for _ in range(40):
        world.cycle()
    assert world.retires["rebalance"] - before <= 2


def test_a_user_limit_is_never_passed() -> None:
    world = World([cloud(max_slots=8)], queue((shape("a"), 30, 3), (shape("b"), 30, 3)))
    snapshot = world.snapshot
    world.snapshot = lambda: replace(snapshot(), limits={"a": 2})  # type: ignore[method-assign]
    world.run(200)
    assert world.most["a:x"] == 2
    assert world.most["b:x"] >= 6
