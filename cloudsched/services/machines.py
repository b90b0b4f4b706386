"""What may each machine run? What machines say of themselves, as admission wants it, read once per change.

A profile is parsed once for each version of its node; the board of all machines is read again when a machine comes, goes or
says something else (a counter), so that thousands of submissions a second cost no look at thousands of machines.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from cloudsched.domain.admission import Machine, meets
from cloudsched.domain.devices import MACHINE_ROLE, Facts, facts_of
from cloudsched.domain.scheduling.fit import called
from cloudsched.domain.scheduling.model import Require
from cloudsched.store import clouds, jobs, nodes, shapes
from cloudsched.store import devices as store
from cloudsched.store.db import Database, Tx, current
from cloudsched.store.devices import Listed

_decode = msgspec.json.Decoder(dict[str, Any]).decode
KEPT = 50_000


class _Known:
    """What this process has read of one database."""

    def __init__(self, database: Database | None) -> None:
        self.database = database
        self.facts: dict[int, tuple[int, Facts]] = {}
        self.board: Board | None = None


_known = _Known(None)
_lock = threading.Lock()


def _fresh() -> _Known:
    if _known.database is not current():
        _known.__init__(current())  # type: ignore[misc]
    return _known


def facts(number: int, version: int) -> Facts:
    """What the node says of itself at this version of its row."""
    kept = _fresh().facts
    found = kept.get(number)
    if found is None or found[0] != version:
        if len(kept) >= KEPT:
            kept.clear()
        found = kept[number] = version, parsed(nodes.facts(number))
    return found[1]


def parsed(text: str) -> Facts:
    """The facts of a profile as it is kept."""
    return facts_of(profile(text))


def profile(text: str) -> dict[str, Any]:
    """A profile as it is kept; what is no object is none."""
    try:
        return _decode(text or "{}")
    except msgspec.MsgspecError:
        return {}


def machine(said: Facts, number: int, *, user: str, vm_type: str, cores: int, memory_mb: int, storage_gb: int,
            cloud_names: frozenset[str], takes: frozenset[str] | None = None) -> Machine:
    """A node with what it says of itself as admission looks at it; `takes`: only these kinds now."""
    kinds = said.kinds if takes is None else said.kinds & takes
    return Machine(user, vm_type, cores, memory_mb, storage_gb, cloud_names, said.tags, kinds, number, said.os,
                   said.role or MACHINE_ROLE, said.gpus, said.internet, said.cores or cores, said.memory_mb or memory_mb,
                   said.storage_gb or storage_gb)


def free_gpus(tx: Tx, of: Machine) -> int:
    """GPUs of a machine that no job in its hands has."""
    known = shapes.known()
    taken = sum(known[shape_id].gpus * count for shape_id, count in jobs.shapes_in_hand(tx, of.node_id) if shape_id in known)
    return of.gpus - taken


def takes_of(text: str | None) -> frozenset[str] | None:
    """`device.takes` as kinds; None: all it announced."""
    return frozenset(json.loads(text)) if text else None


@dataclass
class Board:
    """All machines that are here, at one version of the list."""

    version: int
    entries: list[tuple[Listed, Facts, Machine]]
    announced: frozenset[str]
    _fitting: dict[Require, bool] = field(default_factory=dict)

    def takers(self) -> Iterator[tuple[Listed, Facts, Machine]]:
        """Machines that take tasks: those of our agents, and workers that have asked for one."""
        return ((row, said, one) for row, said, one in self.entries if accepts_tasks(row, said))

    def could_run(self, require: Require) -> bool | None:
        """Could any machine that takes tasks ever run this? None: no machine takes tasks at all. Whether it is online, and
        what its battery allows now, does not matter."""
        if require not in self._fitting:
            if len(self._fitting) > 1000:
                self._fitting.clear()
            self._fitting[require] = any(meets(one, require) for _, _, one in self.takers())
        if not self._fitting[require] and next(self.takers(), None) is None:
            return None
        return self._fitting[require]


def accepts_tasks(row: Listed, said: Facts) -> bool:
    """Contract 10.2: it asks for tasks, or has said which it runs."""
    if row.via is None:
        return False
    return bool(row.accepts_tasks) if row.via in (store.WORKER, store.LEGACY) else said.announced


def board() -> Board:
    """All machines as they are now."""
    known, version = _fresh(), store.version()
    kept = known.board
    if kept is not None and kept.version == version:
        return kept
    with _lock:
        kept = known.board
        if kept is None or kept.version != version:
            kept = known.board = _read_board(version)
    return kept


def _read_board(version: int) -> Board:
    entries = here()
    announced = {kind for row, said, _ in entries if row.via is not None and said.announced for kind in said.kinds}
    return Board(version, entries, frozenset(announced))


def here() -> list[tuple[Listed, Facts, Machine]]:
    """All machines that have not ended, read now."""
    rows, kept = store.listed(), _fresh().facts
    missing = [row.node_id for row in rows if row.node_id not in kept or kept[row.node_id][0] != row.version]
    texts = store.texts(missing, "facts")
    for row in rows:
        if row.node_id in texts:
            kept[row.node_id] = row.version, parsed(texts[row.node_id])
    names = cloud_names()
    entries = []
    for row in rows:
        said = facts(row.node_id, row.version)
        entries.append((row, said, machine(
            said, row.node_id, user=row.user, vm_type=row.vm_type, cores=row.cores, memory_mb=row.memory_mb,
            storage_gb=row.storage_gb, cloud_names=names.get(row.cloud_id, frozenset()))))
    return entries


def cloud_names() -> dict[int, frozenset[str]]:
    """cloud id -> the names by which a target means it, lower case."""
    found = clouds.all_clouds(removed=True)
    names = called(clouds.aliases(), [cloud.name for cloud in found])
    return {cloud.id: names[cloud.name] for cloud in found}
