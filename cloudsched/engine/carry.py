"""How is a plan carried out? The scheduling job's two loops: decide on a snapshot, then write down what is wanted.

Nothing here touches a cloud: boots and destroys become rows that the workers (boots.py) claim. Commands of an external
batch system are run with no transaction open. A plan is dropped when another process leads by then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched import clock
from cloudsched.domain import admission
from cloudsched.domain.entities import UNDRIVEN
from cloudsched.domain.scheduling.model import Shape, Snapshot
from cloudsched.domain.scheduling.passes import clean_up, schedule
from cloudsched.domain.scheduling.plan import Boot, Destroy, Hold, Plan, Retire
from cloudsched.drivers.base import OTHER
from cloudsched.drivers.condor import CondorError
from cloudsched.engine.images import note_failed_image
from cloudsched.engine.loops import assert_lead
from cloudsched.engine.places import Places
from cloudsched.engine.pool import SOURCE, ExternalPool
from cloudsched.engine.requests import Rooms, request_node
from cloudsched.services import lifecycle, machines, snapshot
from cloudsched.store import boots as kept
from cloudsched.store import clouds, jobs, nodes, shapes, system
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
SCHEDULER, CLEANUP = "scheduler", "cleanup"
# Retires of idle nodes: one that was handed a job meanwhile is not idle any more.
IDLE_RULES = frozenset({"unneeded", "excess", "idle_misfit"})
HOLDS_PER_CYCLE = 2000


class SchedulingJob:
    """Contract section 7: `schedule` boots, `clean_up` takes away."""

    def __init__(self, places: Places, *, holder: str, pool: ExternalPool | None = None) -> None:
        self.places = places
        self.holder = holder
        self.pool = pool

    # boots

    def schedule(self) -> Plan:
        """One Scheduler cycle (7.6)."""
        now = clock.now()
        seen = snapshot.build(now)
        plan = schedule(seen, snapshot.policy(), now)
        if not seen.queue_read:
            # The external queue as it was before a restart: nothing is booted for what may be gone.
            plan.boots = [boot for boot in plan.boots if shapes.get(boot.shape_id).source != SOURCE]
        if plan.boots:
            out = self._undrivable(plan.boots)
            write(lambda tx: self._boots(tx, plan.boots, out, now))
        for rule, text in plan.skipped.items():
            log.debug("no boots: %s: %s", rule, text)
        return plan

    def _undrivable(self, boots: Sequence[Boot]) -> dict[str, str]:
        """Candidate clouds that have no driver here, or one that cannot be made: name -> why."""
        names = {candidate.cloud for boot in boots for candidate in boot.candidates}
        found = {cloud.name: self.places.problem(cloud) for cloud in clouds.all_clouds() if cloud.name in names}
        return {name: problem for name, problem in found.items() if problem}

    def _boots(self, tx: Tx, boots: Sequence[Boot], out: Mapping[str, str], now: float) -> None:
        assert_lead(tx, SCHEDULER, self.holder)
        rooms = Rooms(tx, out=out)
        for boot in boots:
            if not jobs.place(tx, boot.job_id):
                continue
            _refuse_undrivable(tx, boot, out, now)
            made = request_node(tx, shapes.get(boot.shape_id), boot.candidates, rooms=rooms, job_id=boot.job_id, at=now,
                                note={"rule": boot.rule, "reason": boot.reason})
            if made is None:
                kept.unplace(tx, boot.job_id)
                continue
            for number in boot.also_schedule:
                jobs.place(tx, number)

    # clean-up

    def clean_up(self) -> Plan:
        """One Cleanup cycle (7.8, 7.9)."""
        now = clock.now()
        seen = snapshot.build(now)
        plan = clean_up(seen, snapshot.policy(), now)
        refused = self._external_retires(plan)
        self._external_holds(plan)
        write(lambda tx: self._carry_out(tx, plan, refused, seen, now))
        return plan

    def _carry_out(self, tx: Tx, plan: Plan, refused: Mapping[int, str], seen: Snapshot, now: float) -> None:
        assert_lead(tx, CLEANUP, self.holder)
        by_id = {node.id: node for node in seen.nodes}
        for destroy in plan.destroys:
            _destroy(tx, destroy, by_id[destroy.node_id].cloud, by_id[destroy.node_id].image, now)
        for retire in plan.retires:
            _retire(tx, retire, refused, now)
        for hold in plan.holds:
            _hold_built_in(tx, hold, now)
        jobs.set_placed(tx, plan.unschedule, False)
        jobs.set_placed(tx, plan.mark_scheduled, True)
        _note_machines(tx, plan, seen, now)
        jobs.set_nodes(tx, [(place.job_id, place.node_id) for place in plan.places])
        _switch(tx, plan, now)
        strays = json.dumps([[stray.name, stray.address] for stray in plan.strays])
        if system.setting("strays", "[]") != strays:
            system.put_setting(tx, "strays", strays)

    # the external batch system, with no transaction open

    def _external_retires(self, plan: Plan) -> dict[int, str]:
        """Tell machines of an external pool to stop; node -> why it was refused."""
        if self.pool is None:
            return {}
        refused = {}
        for order in plan.retires:
            node = nodes.get(order.node_id)
            if node is not None and node.slot_name:
                answer = self.pool.off(node.slot_address, node.master_address)
                if answer is not None:
                    refused[order.node_id] = answer
                    log.warning("node %s was not retired: %s", node.name, answer)
        agents = {node.name for node in nodes.live() if node.instance} if plan.invalidate else set()
        for stray in plan.invalidate:
            if stray.name not in agents:
                self.pool.invalidate(stray.name)
        return refused

    def _external_holds(self, plan: Plan) -> None:
        if self.pool is None:
            return
        for hold in plan.holds:
            if shapes.get(hold.shape_id).source == SOURCE:
                try:
                    self.pool.hold(hold)
                except CondorError as error:
                    log.warning("holding jobs: %s", error)


def _refuse_undrivable(tx: Tx, boot: Boot, out: Mapping[str, str], now: float) -> None:
    """The job says why (T11), and is not offered to that cloud again for a while."""
    for candidate in boot.candidates:
        cloud = clouds.by_name(candidate.cloud) if candidate.cloud in out else None
        if cloud is not None:
            log.warning("job %s: %s", boot.job_id, out[cloud.name])
            kept.add_failure(tx, boot.job_id, cloud=cloud.name, code=OTHER, text=out[cloud.name], at=now)
            kept.block(tx, boot.job_id, cloud.id, until=now + snapshot.policy().job_ban_timeout_s)


def _destroy(tx: Tx, order: Destroy, cloud: str, image: str, now: float) -> None:
    if order.note_image and image:
        note_failed_image(tx, cloud, image, at=now)
    lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=f"{order.rule}: {order.reason}")


def _retire(tx: Tx, order: Retire, refused: Mapping[int, str], now: float) -> None:
    reason = f"{order.rule}: {order.reason}"
    if order.rule in IDLE_RULES and kept.held_jobs(tx, order.node_id):
        return
    if order.to_shadow:
        nodes.update(tx, order.node_id, event="node.shadow", at=now, actor=CLEANUP, retired=1)
    accepted = order.node_id not in refused and lifecycle.drain(tx, order.node_id, at=now, actor=CLEANUP, reason=reason)
    if order.then_destroy and accepted:
        lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=reason)
    elif not accepted and order.on_failure == "destroy":
        lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=f"{reason}; retiring was refused")


def _note_machines(tx: Tx, plan: Plan, seen: Snapshot, now: float) -> None:
    """Registrations and idle clocks. Names and addresses of slots are those of an external batch system alone."""
    nodes.set_idle(tx, [(order.node_id, order.idle_since) for order in plan.set_idle])
    ours = {slot.node_id for slot in seen.slots if slot.node_id is not None}
    for seen_as in plan.registers:
        names = {} if seen_as.node_id in ours else {
            "slot_name": seen_as.name, "slot_address": seen_as.address, "master_address": seen_as.master_address}
        nodes.update(tx, seen_as.node_id, event="node.register", at=now, note={"name": seen_as.name}, registered_at=now, **names)
    for forgotten in plan.forgets:
        nodes.update(tx, forgotten.node_id, event="node.unregister", at=now, slot_name="", slot_address="", master_address="",
                     registered_at=None, status_changed_at=now)


def _switch(tx: Tx, plan: Plan, now: float) -> None:
    for switch in plan.switches:
        cloud = clouds.by_name(switch.cloud)
        if cloud is None or bool(cloud.enabled) == switch.enabled:
            continue
        facts: dict[str, Any]
        if switch.enabled:
            facts = {"enabled": 1, "disabled_at": None, "error_since": None, "error_text": ""}
        else:
            facts = {"enabled": 0, "disabled_at": now}
        clouds.update(tx, cloud.id, at=now, event="cloud.enable" if switch.enabled else "cloud.disable", actor=CLEANUP,
                      note={"reason": switch.reason}, **facts)


def _hold_built_in(tx: Tx, hold: Hold, now: float) -> None:
    shape = shapes.get(hold.shape_id)
    if shape.source == SOURCE or _joined_takes(shape):
        return
    found = jobs.queued_of(tx, hold.shape_id, unscheduled=hold.scope == "unscheduled", before=hold.queued_before)
    for number in found[:HOLDS_PER_CYCLE]:
        move(tx, "job", number, "hold", at=now, actor=CLEANUP, reason=hold.reason, override=hold.override or None,
             note={"reason": hold.reason})


def _joined_takes(shape: Shape) -> bool:
    """Is there a machine that came by itself and may run such a job, whatever the clouds can do?"""
    own = {cloud.id for cloud in clouds.all_clouds(removed=True) if cloud.kind in UNDRIVEN}
    return any(admission.admits(machine, shape) for row, _, machine in machines.here()
               if row.cloud_id in own and row.state == "running" and row.goal == "run")
