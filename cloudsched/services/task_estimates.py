"""When will a task be done? Contract 15, `estimated_completion`: an estimate from what is on record, looked up now and then."""

from __future__ import annotations

from cloudsched import clock
from cloudsched.domain import tasks as domain
from cloudsched.domain.admission import Machine, meets
from cloudsched.domain.scheduling.model import Require
from cloudsched.services import fleet_config, machines
from cloudsched.services.task_views import TaskView
from cloudsched.store import devices as device_rows
from cloudsched.store import shapes
from cloudsched.store import tasks as store
from cloudsched.store.db import Database, current
from cloudsched.store.devices import Listed

MEANS_KEPT_S, LOADS_KEPT_S = 30.0, 1.0
DAY_S = 86_400.0


class _Known:
    """What was read of one database, and until when it may be used."""

    def __init__(self) -> None:
        self.database: Database | None = None
        self.means: dict[str, float] = {}
        self.means_until = 0.0
        self.loads: dict[int, int] = {}
        self.online: frozenset[int] = frozenset()
        self.takers: list[tuple[Listed, Machine]] = []
        self.loads_until = 0.0


_known = _Known()


def completion(view: TaskView) -> float:
    """Epoch seconds: now, the tasks ahead on the chosen device at the mean duration, and this one's own: the mean of its type
    in the last 24 h, or its time limit when there is none."""
    means = _means()
    kind = domain.kind_of(view.type)
    own_s = means.get(kind, view.timeout_s or domain.DEFAULT_TIMEOUT_S)
    return clock.now() + _ahead(view) * means.get(kind, 0.0) + own_s


def _ahead(view: TaskView) -> int:
    """Tasks that the device must finish before it takes this one; none while it has room."""
    require = shapes.get(view.shape_id).require
    if require is None:
        return 0
    chosen = _chosen(require)
    if chosen is None:
        return 0
    active, capacity = chosen
    return max(0, active - capacity + 1)


def _chosen(require: Require) -> tuple[int, int] | None:
    """(tasks in hand, capacity) of the device that would take it: online, fitting, the least loaded (contract 11.4)."""
    known = _loads()
    best: tuple[float, int, int, int] | None = None
    for row, machine in known.takers:
        if row.node_id not in known.online or not meets(machine, require):
            continue
        active, capacity = known.loads.get(row.node_id, 0), max(1, row.slots)
        found = active / capacity, row.node_id, active, capacity
        if best is None or found < best:
            best = found
        if best[0] == 0:
            break
    return (best[2], best[3]) if best else None


def _means() -> dict[str, float]:
    known = _fresh()
    at = clock.now()
    if at >= known.means_until:
        known.means, known.means_until = store.mean_durations(at - DAY_S), at + MEANS_KEPT_S
    return known.means


def _loads() -> _Known:
    known = _fresh()
    at = clock.now()
    if at >= known.loads_until:
        known.loads, known.loads_until = store.active_by_node(), at + LOADS_KEPT_S
        known.takers = [(row, machine) for row, _, machine in machines.board().takers()]
        known.online = device_rows.heard_from(at - fleet_config.recent().offline_threshold_s)
    return known


def _fresh() -> _Known:
    if _known.database is not current():
        _known.__init__()  # type: ignore[misc]
        _known.database = current()
    return _known
