"""What do the clouds say of their machines? The poller (contract 7.4) and the sweep for what nobody knows of."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cloudsched import clock
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.scheduling.model import ERROR, RUNNING, SHUTDOWN
from cloudsched.drivers.base import Driver, Machine
from cloudsched.engine.places import Places
from cloudsched.errors import CloudschedError
from cloudsched.services import lifecycle, snapshot
from cloudsched.store import clouds, events, nodes
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
BAD = (ERROR, SHUTDOWN)
GRACE_S = 30.0


class Poller:
    """Asks every cloud once a cycle; `missing` remembers stray machines between sweeps."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self._strays: dict[tuple[int, str], int] = {}

    def tick(self) -> None:
        """One VMPoller cycle over active and removed clouds."""
        live: dict[int, list[Node]] = {}
        for node in nodes.live():
            live.setdefault(node.cloud_id, []).append(node)
        for cloud, driver in self.places.usable():
            if live.get(cloud.id):
                self._poll(cloud, driver, live[cloud.id])

    def _poll(self, cloud: Cloud, driver: Driver, known: list[Node]) -> None:
        seen = _ask(cloud, driver)
        if seen is None:
            return
        at = clock.now()
        for node in known:
            if node.state in ("starting", "running"):
                machine = seen.get(node.name)
                if _differs(node, machine, at):
                    write(lambda tx, node=node, machine=machine: _observe(tx, node, machine, at))

    def sweep(self) -> int:
        """Destroy machines with one of our names but no live row, seen in two sweeps; returns how many."""
        found: dict[tuple[int, str], int] = {}
        gone = 0
        for cloud, driver in self.places.usable():
            seen = _ask(cloud, driver)
            for name, machine in (seen or {}).items():
                if not self._is_stray(name):
                    continue
                count = found[cloud.id, name] = self._strays.get((cloud.id, name), 0) + 1
                if count >= 2:
                    gone += _remove_stray(cloud, driver, machine)
        self._strays = found
        return gone

    def _is_stray(self, name: str) -> bool:
        node = nodes.by_name(name)
        return node is None or node.state in ("gone", "failed")


def _ask(cloud: Cloud, driver: Driver) -> Mapping[str, Machine] | None:
    """The machines of a cloud by name; None when it cannot be reached (that is noted once)."""
    try:
        machines = {machine.name: machine for machine in driver.machines()}
    except CloudschedError as error:
        log.warning("%s: %s", cloud.name, error)
        text = str(error)[:300]
        if cloud.error_since is None:
            write(lambda tx: clouds.update(tx, cloud.id, at=clock.now(), event="cloud.unreachable", note={"reason": text},
                                           error_since=clock.now(), error_text=text))
        return None
    if cloud.error_since is not None and not cloud.disabled_at:
        write(lambda tx: clouds.update(tx, cloud.id, at=clock.now(), event="cloud.reachable", error_since=None, error_text=""))
    return machines


def _differs(node: Node, machine: Machine | None, at: float) -> bool:
    if machine is None:
        return node.state == "running" or (node.boot_requested_at or 0) < at - GRACE_S
    status = _status(node, machine)
    return (status != node.status or status in BAD or node.error_count > 0
            or bool(machine.address and machine.address != node.address and not node.instance)
            or bool(machine.external_id and machine.external_id != node.external_id))


def _status(node: Node, machine: Machine) -> str:
    """A node whose agent has joined runs, whatever the place says about its start."""
    return RUNNING if machine.state == "Starting" and node.state == "running" else machine.state


def _observe(tx: Tx, node: Node, machine: Machine | None, at: float) -> None:
    """Write down what was seen; enough bad polls in a row and the node is destroyed."""
    status = SHUTDOWN if machine is None else _status(node, machine)
    bad = status in BAD
    errors = node.error_count + 1 if bad else 0
    facts: dict[str, object] = {"error_count": errors, "last_poll_at": at}
    if machine is not None:
        facts.update(external_id=machine.external_id or node.external_id, hostname=machine.hostname or node.hostname)
        if machine.address and not node.instance:
            facts["address"] = machine.address
    if status != node.status:
        facts.update(status=status, status_changed_at=at)
        nodes.update(tx, node.id, event="node.status", at=at, note={"from": node.status, "to": status,
                                                                    "reason": machine.reason if machine else "not there"},
                     **facts)
        if status == RUNNING and node.state == "starting":
            move(tx, "node", node.id, "run", at=at, running_at=at,
                 boot_s=at - node.boot_requested_at if node.boot_requested_at else None, note={"by": "poll"})
    else:
        nodes.update(tx, node.id, **facts)
    if bad and errors >= max(1, snapshot.policy().polling_error_threshold):
        lifecycle.stop(tx, node.id, at=at, actor="node_poller", reason="VM is in an Error state.")


def _remove_stray(cloud: Cloud, driver: Driver, machine: Machine) -> int:
    log.warning("%s: %s has no row: destroyed", cloud.name, machine.name)
    try:
        driver.destroy(machine.name, machine.handle)
    except CloudschedError as error:
        log.warning("%s: stray %s: %s", cloud.name, machine.name, error)
        return 0
    write(lambda tx: events.append(tx, "cloud.stray_destroyed", ("cloud", cloud.id), at=clock.now(), name=machine.name))
    return 1
