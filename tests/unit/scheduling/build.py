"""How do the tests write down a fleet?  Short builders with the defaults a test does not care about."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from cloudsched.domain.scheduling.model import CloudView, Head, JobGroup, NodeView, Shape, SlotView

NOW = 1_000_000.0
_shape_ids = itertools.count(1)


def cloud(name: str = "alpha", max_slots: int = 10, **more: Any) -> CloudView:
    return CloudView(name=name, max_slots=max_slots, **more)


def shape(user: str = "alice", vm_type: str = "x", **more: Any) -> Shape:
    more.setdefault("id", next(_shape_ids))
    return Shape(user=user, vm_type=vm_type, **more)


def group(what: Shape, *heads: int | tuple[int, int], **more: Any) -> JobGroup:
    """`heads`: job ids, or (id, priority); they are put in order here."""
    jobs = [Head(*head) if isinstance(head, tuple) else Head(head) for head in heads]
    jobs.sort(key=lambda head: (-head.priority, head.job_id))
    more.setdefault("unscheduled", len(jobs))
    return JobGroup(shape=what, heads=tuple(jobs), **more)


def waiting(user: str, vm_type: str, count: int, *, first: int = 1, **more: Any) -> JobGroup:
    """`count` waiting jobs of one shape, ids from `first`."""
    return group(shape(user, vm_type, **more), *range(first, first + count))


def node(node_id: int, user: str = "alice", vm_type: str = "x", **more: Any) -> NodeView:
    more.setdefault("cloud", "alpha")
    more.setdefault("hostname", f"node{node_id}.example.org")
    return NodeView(id=node_id, user=user, vm_type=vm_type, **more)


def nodes(
    count: int, user: str = "alice", vm_type: str = "x", *, first: int = 1, **more: Any
) -> list[NodeView]:
    return [node(number, user, vm_type, **more) for number in range(first, first + count)]


def slot(number_of_node: int, *, busy: bool = False, number: int = 1, **more: Any) -> SlotView:
    more.setdefault("machine", f"node{number_of_node}.example.org")
    more.setdefault("name", f"slot{number}@node{number_of_node}.example.org")
    if busy:
        more.setdefault("state", "Claimed")
        more.setdefault("activity", "Busy")
    return SlotView(
        address=f"<10.0.0.{number_of_node}:9618>", master_address=f"<10.0.0.{number_of_node}:9619>", **more
    )


def slots(fleet: Sequence[NodeView], *, busy: bool = False) -> list[SlotView]:
    return [slot(each.id, busy=busy) for each in fleet]
