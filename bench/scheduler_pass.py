"""What does one scheduler pass cost, and does it stay flat in the number of queued jobs?

Builds 10,000 nodes on 50 clouds and 200 user-types with 100,000 and with 1,000,000 queued jobs, and prints
the median of five runs of each pass, beside a reference measured in the same run: one loop over the nodes.

    python bench/scheduler_pass.py [--nodes N] [--clouds N] [--types N] [--jobs N ...] [--shapes-per-type N]
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cloudsched.domain.scheduling.model import (
    CloudView,
    Head,
    JobGroup,
    NodeView,
    Policy,
    Shape,
    SlotView,
    Snapshot,
)
from cloudsched.domain.scheduling.passes import clean_up, decide, schedule
from cloudsched.domain.scheduling.shares import shares
from cloudsched.domain.scheduling.why import why_job

NOW = 1_000_000.0
HEADS = 16
RUNS = 5


def main() -> None:
    options = arguments()
    reference = None
    for jobs in options.jobs:
        for full in (False, True):
            snapshot = fleet(options, jobs=jobs, full=full)
            reference = reference or median_ms(partial(loop, snapshot))
            room = "no free slot" if full else "free slots"
            print(
                f"\n{len(snapshot.nodes)} nodes, {jobs} queued jobs in {len(snapshot.groups)} groups, {room}"
            )
            report("reference: one loop over the nodes", reference, reference)
            for name, run in passes(snapshot):
                report(name, median_ms(run), reference)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--clouds", type=int, default=50)
    parser.add_argument("--types", type=int, default=200)
    parser.add_argument("--shapes-per-type", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", default=[100_000, 1_000_000])
    return parser.parse_args()


def passes(snapshot: Snapshot) -> list[tuple[str, Callable[[], object]]]:
    fair, fifo = Policy(), Policy(algorithm="fifo")
    boots = len(schedule(snapshot, fair, NOW).boots)
    in_order = len(schedule(snapshot, fifo, NOW).boots)
    taken = len(clean_up(snapshot, fair, NOW).going)
    shape_id = snapshot.groups[-1].shape.id
    return [
        (f"schedule, fairshare ({boots} boots)", lambda: schedule(snapshot, fair, NOW)),
        (f"clean_up, fairshare ({taken} nodes go)", lambda: clean_up(snapshot, fair, NOW)),
        ("decide: both", lambda: decide(snapshot, fair, NOW)),
        (f"schedule, fifo ({in_order} boots)", lambda: schedule(snapshot, fifo, NOW)),
        ("shares (T10)", lambda: shares(snapshot, fair)),
        ("why one job waits", lambda: why_job(snapshot, fair, NOW, shape_id=shape_id)),
    ]  # fmt: skip


def fleet(options: argparse.Namespace, *, jobs: int, full: bool) -> Snapshot:
    """Nodes spread unevenly over types and evenly over clouds, nearly all registered, nine of ten busy."""
    dice = random.Random(1)
    per_cloud = -(-options.nodes // options.clouds)
    slots = per_cloud if full else per_cloud + per_cloud // 10
    types = [(f"user{number % 100}", f"type{number}") for number in range(options.types)]
    nodes = [
        node(number, options.clouds, dice.choice(types), busy=dice.random() < 0.9)
        for number in range(options.nodes)
    ]
    return Snapshot(
        clouds=[CloudView(f"cloud{number}", slots, priority=number % 5) for number in range(options.clouds)],
        nodes=nodes,
        groups=groups(types, jobs=jobs, shapes=options.shapes_per_type, clouds=options.clouds),
        slots=[registered(each) for each in nodes if each.state == "Running"],
        limits={f"user{number}": 150 for number in range(0, 100, 3)},
    )


def node(number: int, clouds: int, owner: tuple[str, str], *, busy: bool) -> NodeView:
    hostname = f"node{number}.cloud{number % clouds}.example.org"
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return NodeView(
        id=number,
        cloud=f"cloud{number % clouds}",
        user=owner[0],
        vm_type=owner[1],
        memory_mb=2048,
        cores=2,
        storage_gb=20,
        state="Starting" if number % 50 == 0 else "Running",
        boot_requested_at=NOW - 100,
        running_since=NOW - 60,
        hostname=hostname,
        ip_address=address,
        registered_name=hostname,
        registered_address=f"<{address}:9618>",
        idle_since=None if busy else NOW - 60,
        keep_alive_s=600,
    )


def groups(types: list[tuple[str, str]], *, jobs: int, shapes: int, clouds: int) -> list[JobGroup]:
    count = len(types) * shapes
    each = jobs // count
    found = []
    for number in range(count):
        user, vm_type = types[number % len(types)]
        targets = (f"Cloud{number % clouds}", f"cloud{(number + 7) % clouds}") if number % 4 == 0 else ()
        wants = Shape(
            id=number, user=user, vm_type=vm_type, memory_mb=1024 * (1 + number % 3), cores=1 + number % 2,
            storage_gb=10, targets=targets,
        )  # fmt: skip
        first = number * each
        heads = tuple(Head(first + offset, 1 + number % 4) for offset in range(min(HEADS, each)))
        found.append(JobGroup(wants, unscheduled=each, running=15, heads=heads))
    return found


def registered(owner: NodeView) -> SlotView:
    busy = owner.idle_since is None
    return SlotView(
        name=f"slot1@{owner.hostname}",
        machine=owner.hostname,
        state="Claimed" if busy else "Unclaimed",
        activity="Busy" if busy else "Idle",
        address=f"<{owner.ip_address}:9618>",
    )


def loop(snapshot: Snapshot) -> int:
    """The reference: what one look at every node costs in this Python."""
    total = 0
    for each in snapshot.nodes:
        total += each.cores
    return total


def median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def report(name: str, took_ms: float, reference_ms: float) -> None:
    print(f"  {name:<44} {took_ms:9.2f} ms {took_ms / reference_ms:9.0f} x the reference")


if __name__ == "__main__":
    main()
