"""Which registered machine is which node?  Host names compared as in contract 7.3; strays are T17."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cloudsched.domain.scheduling.model import NodeView, SlotView
from cloudsched.domain.scheduling.plan import StrayMachine

_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}$")
_OWNER = re.compile(r'Owner\s*==\s*"([^"]*)"')
KEPT_EMPTY_POLLS = 3


@dataclass(slots=True)
class Matches:
    """Node id to its slots (partitionable parents left out), and the slots no node owns."""

    by_node: dict[int, list[SlotView]] = field(default_factory=dict)
    unmatched: list[SlotView] = field(default_factory=list)

    def slots_of(self, node_id: int) -> Sequence[SlotView]:
        return self.by_node.get(node_id, ())

    def idle(self, node_id: int) -> bool:
        """Registered, and every slot unclaimed and idle (B45)."""
        slots = self.by_node.get(node_id)
        if not slots:
            return False
        # Plain loops here: most nodes have one slot, and all nodes are asked.
        for slot in slots:  # noqa: SIM110
            if slot.state != "Unclaimed" or slot.activity != "Idle":
                return False
        return True

    def claimed(self, node_id: int) -> bool:
        for slot in self.by_node.get(node_id, ()):  # noqa: SIM110
            if slot.state == "Claimed":
                return True
        return False

    def strays(self) -> list[StrayMachine]:
        """One entry per unmatched machine, in the order of the list."""
        found: dict[str, StrayMachine] = {}
        for slot in self.unmatched:
            name = slot.machine or host_of(slot.name)
            found.setdefault(name, StrayMachine(name, slot.address))
        return list(found.values())


class HostIndex:
    """Host name to node.  Whole names win over first labels; a label two nodes share decides nothing."""

    def __init__(self, nodes: Iterable[NodeView]) -> None:
        whole: dict[str, int] = {}
        for node in nodes:
            for name in (node.hostname, node.alt_hostname, node.registered_name, node.ip_address):
                if name:
                    whole.setdefault(host_of(name), node.id)
        self._whole = whole
        self._labels: dict[str, int | None] | None = None  # built when a whole name is not found

    def find(self, *names: str) -> int | None:
        """The node known under one of the names (each may carry `slotN@`), or None."""
        hosts = [host_of(name) for name in names if name]
        for host in hosts:
            if host in self._whole:
                return self._whole[host]
        for host in hosts:
            found = None if is_address(host) else self._by_label().get(host.partition(".")[0])
            if found is not None:
                return found
        return None

    def _by_label(self) -> dict[str, int | None]:
        if self._labels is None:
            self._labels = {}
            for host, node_id in self._whole.items():
                label = host.partition(".")[0]
                if not is_address(host) and self._labels.setdefault(label, node_id) != node_id:
                    self._labels[label] = None
        return self._labels


def match_machines(nodes: Sequence[NodeView], slots: Sequence[SlotView]) -> Matches:
    """Give every counting slot to its node; a slot with `node_id` needs no comparison."""
    matches = Matches()
    index = HostIndex(nodes)
    known = {node.id for node in nodes}
    by_host: dict[tuple[str, str], int | None] = {}
    by_node, unmatched = matches.by_node, matches.unmatched
    for slot in slots:
        if not counts(slot):
            continue
        node_id = slot.node_id if slot.node_id in known else None
        if node_id is None:
            key = (slot.name.rpartition("@")[2], slot.machine)
            if key not in by_host:
                by_host[key] = index.find(*key)
            node_id = by_host[key]
        if node_id is None:
            unmatched.append(slot)
        elif node_id in by_node:
            by_node[node_id].append(slot)
        else:
            by_node[node_id] = [slot]
    return matches


def same_host(one: str, other: str) -> bool:
    """Equal after removing `slotN@`, or (not for IP addresses) equal first labels; case does not matter."""
    first, second = host_of(one), host_of(other)
    if not first or not second:
        return False
    if first == second:
        return True
    if is_address(first) or is_address(second):
        return False
    return first.partition(".")[0] == second.partition(".")[0]


def host_of(name: str) -> str:
    """The host part of a slot name in lower case: `slot1_2@Node.example.org` is `node.example.org`."""
    return name.rpartition("@")[2].strip().lower()


def is_address(host: str) -> bool:
    return ":" in host or _IPV4.match(host) is not None


def counts(slot: SlotView) -> bool:
    """A partitionable parent with more than one slot in total does not count."""
    return not (slot.slot_type == "Partitionable" and slot.total_slots > 1)


def slot_user(remote_owner: str, start: str) -> str:
    """The user of a slot: `RemoteOwner` up to `@`, or the owner its start expression admits."""
    owner = remote_owner.partition("@")[0].strip()
    if owner:
        return owner
    found = _OWNER.search(start)
    return found.group(1) if found else ""


def keep_previous(
    previous: Sequence[SlotView], fresh: Sequence[SlotView], empty_polls: int
) -> tuple[Sequence[SlotView], int]:
    """A list that is suddenly empty is believed only after three polls: (list to use, empty polls so far)."""
    if fresh or not previous:
        return fresh, 0
    if empty_polls < KEPT_EMPTY_POLLS:
        return previous, empty_polls + 1
    return fresh, 0
