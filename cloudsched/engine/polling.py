"""What do the clouds say of their machines? The poller (contract 7.4) and the sweep for what nobody knows of."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from cloudsched import clock
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.scheduling.model import ERROR, RUNNING, SHUTDOWN
from cloudsched.drivers.base import Driver, Machine
from cloudsched.engine.places import Places, note_reachable, note_unreachable
from cloudsched.errors import CloudschedError
from cloudsched.services import lifecycle, snapshot
from cloudsched.store import events, nodes
from cloudsched.store.db import Tx, current, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
BAD = (ERROR, SHUTDOWN)
GRACE_S = 30.0
# A cloud that takes longer is left to answer on its own thread: the others are asked again meanwhile.
PATIENCE_S = 10.0
ASKED_AT_ONCE = 16


class Poller:
    """Asks every cloud once a cycle, each on its own thread; remembers stray machines between sweeps, and when it asked.

    A driver with a `poll_pause_s` (state of a machine -> seconds) is asked only when one of its machines is due (7.4).
    """

    def __init__(self, places: Places) -> None:
        self.places = places
        self._strays: dict[tuple[int, str], int] = {}
        self._asked: dict[int, Future[None]] = {}
        self._asked_at: dict[int, float] = {}  # a restart begins with asking all
        self._threads = ThreadPoolExecutor(ASKED_AT_ONCE, thread_name_prefix="poll")

    def tick(self) -> None:
        """One VMPoller cycle over active and removed clouds."""
        live: dict[int, list[Node]] = {}
        for node in nodes.live():
            live.setdefault(node.cloud_id, []).append(node)
        due = [(cloud, driver) for cloud, driver in self.places.usable()
               if not self._is_asked(cloud) and self._is_due(cloud, driver, live.get(cloud.id, []))]
        if len(due) == 1 and not self._asked:
            self._poll(*due[0], live.get(due[0][0].id, []))
            return
        for cloud, driver in due:
            self._asked[cloud.id] = self._threads.submit(self._on_thread, cloud, driver, live.get(cloud.id, []))
        wait(self._asked.values(), timeout=PATIENCE_S)
        self._asked = {number: future for number, future in self._asked.items() if not future.done()}

    def stop(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _is_asked(self, cloud: Cloud) -> bool:
        future = self._asked.get(cloud.id)
        return future is not None and not future.done()

    def _is_due(self, cloud: Cloud, driver: Driver, known: list[Node]) -> bool:
        if cloud.error_since is not None:
            return True
        pauses: Mapping[str, float] = getattr(driver, "poll_pause_s", None) or {}
        if not pauses:
            return bool(known)
        passed_s = clock.now() - self._asked_at.get(cloud.id, 0.0)
        return any(passed_s >= pauses.get(node.status, 0.0) for node in known if node.state in ("starting", "running"))

    def _on_thread(self, cloud: Cloud, driver: Driver, known: list[Node]) -> None:
        try:
            self._poll(cloud, driver, known)
        except CloudschedError as error:
            log.warning("poll of %s: %s", cloud.name, error)
        except Exception:
            log.exception("poll of %s failed", cloud.name)
        finally:
            if threading.current_thread() is not threading.main_thread():
                current().close_thread()

    def _poll(self, cloud: Cloud, driver: Driver, known: list[Node]) -> None:
        self._asked_at[cloud.id] = clock.now()
        seen = _ask(cloud, driver)
        if seen is None:
            return
        at = clock.now()
        for node in known:
            if node.state in ("starting", "running"):
                machine = seen.get(node.name)
                if _differs(node, machine, at):
                    write(lambda tx, node=node, machine=machine: _observe(tx, node, machine, at))  # type: ignore[misc]

    def sweep(self) -> int:
        """Destroy machines with one of our names but no live row, seen in two sweeps; returns how many."""
        found: dict[tuple[int, str], int] = {}
        gone = 0
        for cloud, driver in self.places.usable():
            seen = _ask(cloud, driver)
            if seen is None:  # not asked: what was seen before is neither confirmed nor forgotten
                found.update({key: count for key, count in self._strays.items() if key[0] == cloud.id})
            for name, machine in (seen or {}).items():
                if not self._is_stray(machine):
                    continue
                count = found[cloud.id, name] = self._strays.get((cloud.id, name), 0) + 1
                if count >= 2:
                    gone += _remove_stray(cloud, driver, machine)
        self._strays = found
        return gone

    def _is_stray(self, machine: Machine) -> bool:
        """A machine that nobody wants; one that was released is somebody else's while it lives."""
        node = nodes.by_name(machine.name)
        return node is None or node.state in ("gone", "failed") or (node.state == "released" and machine.state == SHUTDOWN)


def _ask(cloud: Cloud, driver: Driver) -> Mapping[str, Machine] | None:
    """The machines of a cloud by name; None when it cannot be reached (that is noted once)."""
    try:
        machines = {machine.name: machine for machine in driver.machines()}
    except Exception as error:
        if isinstance(error, CloudschedError):  # told once, not with every poll of an outage
            log.log(logging.DEBUG if cloud.error_text else logging.WARNING, "%s: %s", cloud.name, error)
        else:
            log.exception("%s", cloud.name)
        note_unreachable(cloud, str(error) or type(error).__name__)
        return None
    note_reachable(cloud)
    return machines


def _differs(node: Node, machine: Machine | None, at: float) -> bool:
    if machine is None:
        return node.state == "running" or (node.boot_requested_at or 0) < at - GRACE_S
    status = _status(node, machine)
    return (status != node.status or status in BAD or node.error_count > 0
            or (status == RUNNING and node.state == "starting")  # its boot said so at once
            or bool(machine.address and machine.address != node.address and not node.instance)
            or bool(machine.external_id and machine.external_id != node.external_id)
            or bool(machine.handle and node.handle == "{}"))


def _status(node: Node, machine: Machine) -> str:
    """A node whose agent has joined runs, whatever the place says about its start."""
    return RUNNING if machine.state == "Starting" and node.state == "running" else machine.state


def _observe(tx: Tx, node: Node, machine: Machine | None, at: float) -> None:
    """Write down what was seen; enough bad polls in a row and the node is destroyed."""
    status = SHUTDOWN if machine is None else _status(node, machine)
    bad = status in BAD
    errors = node.error_count + 1 if bad else 0
    facts: dict[str, Any] = {"error_count": errors, "last_poll_at": at, **(_facts(node, machine) if machine else {})}
    event = ""
    if status != node.status:
        facts.update(status=status, status_changed_at=at)
        event = "node.status"
    note = {"from": node.status, "to": status, "reason": machine.reason if machine else "not there"}
    if not nodes.update(tx, node.id, event=event, at=at, note=note, where="state = ? AND status = ?",
                        args=(node.state, node.status), **facts):
        return  # it has changed since it was read: the next poll sees it anew
    if status == RUNNING and node.state == "starting":
        move(tx, "node", node.id, "run", at=at, running_at=at,
             boot_s=at - node.boot_requested_at if node.boot_requested_at else None, note={"by": "poll"})
    if bad and errors >= max(1, snapshot.policy().polling_error_threshold):
        lifecycle.stop(tx, node.id, at=at, actor="node_poller", reason="VM is in an Error state.")


def _facts(node: Node, machine: Machine) -> dict[str, object]:
    facts: dict[str, object] = {"external_id": machine.external_id or node.external_id,
                                "hostname": machine.hostname or node.hostname}
    if machine.address and not node.instance:
        facts["address"] = machine.address
    if machine.handle and node.handle == "{}":  # the boot's own answer was lost
        facts["handle"] = json.dumps(dict(machine.handle))
    return facts


def _remove_stray(cloud: Cloud, driver: Driver, machine: Machine) -> int:
    log.warning("%s: %s has no row: destroyed", cloud.name, machine.name)
    try:
        driver.destroy(machine.name, machine.handle)
    except Exception as error:
        log.warning("%s: stray %s: %s", cloud.name, machine.name, error)
        return 0
    write(lambda tx: events.append(tx, "cloud.stray_destroyed", ("cloud", cloud.id), at=clock.now(), name=machine.name))
    return 1
