"""Which clouds are there, what runs on them, and what is left? The pool as the classic dialect looks at it.

A cloud's active nodes use its slots, memory and storage. Its *retired shadow* holds nodes on their way out that are
charged to nobody any more: those marked so, and all nodes of a cloud that was removed (contract 4.2, 4.11).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.moves import NODE_LIVE
from cloudsched.errors import NotFound
from cloudsched.store import clouds, events, nodes

UNLIMITED = -1
_UNSTORABLE = re.compile("[\\0\\ud800-\\udfff]")


class UnknownCloud(NotFound):
    """No cloud of that name."""


class UnknownNode(NotFound):
    """The cloud has no node of that id."""


@dataclass(frozen=True, slots=True)
class CloudFacts:
    """One cloud with its live nodes in boot order; `retired` are those of its shadow."""

    cloud: Cloud
    nodes: tuple[Node, ...] = ()
    retired: tuple[Node, ...] = ()

    @property
    def name(self) -> str:
        return self.cloud.name

    @property
    def type_name(self) -> str:
        """The cloud's type as listings show it."""
        return self.cloud.kind

    @property
    def free_slots(self) -> int:
        """Slots no active node uses."""
        return max(0, self.cloud.max_slots - len(self.nodes))

    @property
    def free_memory_mb(self) -> int:
        """Memory no active node uses; -1 when the cloud sets no limit."""
        return _left(self.cloud.memory_mb, [node.memory_mb for node in self.nodes])

    @property
    def free_storage_gb(self) -> int:
        """Storage no active node uses; -1 when the cloud sets no limit."""
        return _left(self.cloud.storage_gb, [node.storage_gb for node in self.nodes])

    def option(self, key: str) -> Any:
        """One member of the cloud's options, None when it is not there."""
        return self.cloud.option.get(key)

    def every(self) -> Iterator[Node]:
        """The active nodes, then those of the shadow."""
        yield from self.nodes
        yield from self.retired


@dataclass(frozen=True, slots=True)
class Pool:
    """All active clouds in configuration order; `gone`: removed clouds that still have nodes."""

    clouds: tuple[CloudFacts, ...] = ()
    gone: tuple[CloudFacts, ...] = ()

    def nodes(self) -> Iterator[tuple[CloudFacts, Node]]:
        """The active nodes with their clouds."""
        return ((cloud, node) for cloud in self.clouds for node in cloud.nodes)

    def retired(self) -> list[tuple[CloudFacts, Node]]:
        """The nodes of all shadows with their clouds."""
        return [(cloud, node) for cloud in (*self.clouds, *self.gone) for node in cloud.retired]


def pool() -> Pool:
    """The whole pool as it is now."""
    by_cloud: dict[int, list[Node]] = {}
    for node in nodes.live():
        by_cloud.setdefault(node.cloud_id, []).append(node)
    active, gone = [], []
    for cloud in clouds.all_clouds(removed=True):
        facts = _facts(cloud, by_cloud.get(cloud.id, ()))
        if cloud.state == "active":
            active.append(facts)
        elif facts.retired:
            gone.append(facts)
    return Pool(tuple(active), tuple(gone))


def cloud_facts(name: str) -> CloudFacts:
    """One active cloud by name in any case. Raises UnknownCloud."""
    cloud = _by_name(name)
    if cloud is None or cloud.state != "active":
        raise UnknownCloud(f"there is no cloud {name!r}")
    return _facts(cloud, nodes.live(cloud_id=cloud.id))


def cloud_or_shadow(name: str) -> CloudFacts:
    """As `cloud_facts`, but also a removed cloud that still has nodes on their way out. Raises UnknownCloud."""
    cloud = _by_name(name)
    facts = _facts(cloud, nodes.live(cloud_id=cloud.id)) if cloud else None
    if facts is None or (facts.cloud.state != "active" and not facts.retired):
        raise UnknownCloud(f"there is no cloud {name!r}")
    return facts


def find_node(cloud: CloudFacts, node_id: str) -> Node:
    """A live node by any of its ids: the active ones first, then the shadow. In each, the id a node is listed under
    comes before the names that are not shown. Raises UnknownNode."""
    for part in (cloud.nodes, cloud.retired):
        found = [node for node in part if node_id in names_of(node)]
        if found:
            return next((node for node in found if shown_id(node) == node_id), found[0])
    raise UnknownNode(f"cloud {cloud.name} has no node {node_id!r}")


def names_of(node: Node) -> tuple[str, ...]:
    """Every id a node answers to: the one its cloud gave, our name, and its spot request."""
    known = (node.external_id, node.name, spot_id(node))
    return tuple(name for name in known if name)


def cloud_id(node: Node) -> str:
    """The id its cloud gave the node; empty for a spot request not filled yet."""
    return node.external_id or ("" if spot_id(node) else node.name)


def shown_id(node: Node) -> str:
    """The id a node is listed under: the cloud's, else the spot request's, else our name."""
    return node.external_id or spot_id(node) or node.name


def spot_id(node: Node) -> str:
    """The id of the spot request the node came from, or empty."""
    if "spot_id" not in node.facts:
        return ""
    return str(json.loads(node.facts).get("spot_id") or "")


def shown_status(node: Node) -> str:
    """The override if one is set, otherwise the place's word (contract T4)."""
    return node.override or node.status


def is_live(state: str) -> bool:
    """May a node in this state still hold a machine?"""
    return state in NODE_LIVE


def last_event() -> int:
    """The newest number of the event sequence: what was rendered at this number is good until the next one."""
    return events.last_id()


def _facts(cloud: Cloud, live: Sequence[Node]) -> CloudFacts:
    if cloud.state != "active":
        return CloudFacts(cloud, (), tuple(live))
    return CloudFacts(cloud, tuple(node for node in live if not node.retired),
                      tuple(node for node in live if node.retired))


def _by_name(name: str) -> Cloud | None:
    # PostgreSQL refuses these in a text parameter; no cloud has them in its name.
    if not storable(name):
        return None
    return clouds.by_name(name, removed=True)


def storable(text: str) -> bool:
    """Can a database hold this text?"""
    return not _UNSTORABLE.search(text)


def _left(limit: int, used: Sequence[int]) -> int:
    return UNLIMITED if limit < 0 else max(0, limit - sum(used))
