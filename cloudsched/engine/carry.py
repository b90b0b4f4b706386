"""How is a plan carried out? The scheduling job's two loops: decide on a snapshot, then write down what is wanted.

Nothing here touches a cloud: boots and destroys become rows that the workers (boots.py) claim. Commands of an external
batch system are run with no transaction open.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence

from cloudsched import clock
from cloudsched.domain.scheduling.model import Shape, Snapshot
from cloudsched.domain.scheduling.passes import clean_up, schedule
from cloudsched.domain.scheduling.plan import Boot, Candidate, Destroy, Hold, Plan, Retire
from cloudsched.drivers.condor import CondorError
from cloudsched.engine.loops import assert_lead
from cloudsched.engine.pool import ExternalPool
from cloudsched.services import lifecycle, snapshot
from cloudsched.store import clouds, jobs, nodes, shapes, system
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
SCHEDULER, CLEANUP = "scheduler", "cleanup"


class SchedulingJob:
    """Contract section 7: `schedule` boots, `clean_up` takes away. `wake_boots` tells the workers there is work."""

    def __init__(self, *, holder: str, pool: ExternalPool | None = None,
                 wake: Callable[[], None] = lambda: None) -> None:
        self.holder = holder
        self.pool = pool
        self.wake = wake

    def schedule(self) -> Plan:
        """One Scheduler cycle (7.6)."""
        now = clock.now()
        seen = snapshot.build(now)
        plan = schedule(seen, snapshot.policy(), now)
        if plan.boots:
            write(lambda tx: self._boots(tx, plan.boots, now))
            self.wake()
        for rule, text in plan.skipped.items():
            log.debug("no boots: %s: %s", rule, text)
        return plan

    def _boots(self, tx: Tx, boots: Sequence[Boot], now: float) -> None:
        assert_lead(tx, SCHEDULER, self.holder)
        for boot in boots:
            if self._place(tx, boot):
                request_node(tx, shapes.get(boot.shape_id), boot.candidates, job_id=boot.job_id, at=now,
                             note={"rule": boot.rule, "reason": boot.reason})

    def _place(self, tx: Tx, boot: Boot) -> bool:
        """Mark the job (and those that share its machine) Scheduled; False when it is not waiting any more."""
        if not jobs.place(tx, boot.job_id):
            return False
        for number in boot.also_schedule:
            jobs.place(tx, number)
        return True

    def clean_up(self) -> Plan:
        """One Cleanup cycle (7.8, 7.9)."""
        now = clock.now()
        seen = snapshot.build(now)
        plan = clean_up(seen, snapshot.policy(), now)
        refused = self._external_retires(plan, seen)
        self._external_holds(plan)
        write(lambda tx: self._carry_out(tx, plan, refused, seen, now))
        if plan.destroys or plan.retires:
            self.wake()
        return plan

    def _carry_out(self, tx: Tx, plan: Plan, refused: Mapping[int, str], seen: Snapshot, now: float) -> None:
        assert_lead(tx, CLEANUP, self.holder)
        by_id = {node.id: node for node in seen.nodes}
        for destroy in plan.destroys:
            self._destroy(tx, destroy, by_id[destroy.node_id].cloud, by_id[destroy.node_id].image, now)
        for retire in plan.retires:
            self._retire(tx, retire, refused, now)
        for hold in plan.holds:
            _hold_built_in(tx, hold, now)
        jobs.set_placed(tx, plan.unschedule, False)
        jobs.set_placed(tx, plan.mark_scheduled, True)
        nodes.set_idle(tx, [(order.node_id, order.idle_since) for order in plan.set_idle])
        for seen_as in plan.registers:
            nodes.update(tx, seen_as.node_id, slot_name=seen_as.name, slot_address=seen_as.address,
                         master_address=seen_as.master_address, registered_at=now)
        for forgotten in plan.forgets:
            nodes.update(tx, forgotten.node_id, event="node.unregistered", at=now, slot_name="", status_changed_at=now)
        jobs.set_nodes(tx, [(place.job_id, place.node_id) for place in plan.places])
        self._switches(tx, plan, now)
        strays = json.dumps([[stray.name, stray.address] for stray in plan.strays])
        if system.setting("strays", "[]") != strays:
            system.put_setting(tx, "strays", strays)

    def apply_orders(self, tx: Tx, plan: Plan, now: float) -> None:
        """Only the retires and destroys of a plan (restart, reconfig)."""
        for destroy in plan.destroys:
            self._destroy(tx, destroy, "", "", now)
        for retire in plan.retires:
            self._retire(tx, retire, {}, now)

    def _destroy(self, tx: Tx, order: Destroy, cloud: str, image: str, now: float) -> None:
        if order.note_image and image:
            note_failed_image(tx, cloud, image, at=now)
        lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=f"{order.rule}: {order.reason}")

    def _retire(self, tx: Tx, order: Retire, refused: Mapping[int, str], now: float) -> None:
        reason = f"{order.rule}: {order.reason}"
        if order.to_shadow:
            nodes.update(tx, order.node_id, event="node.shadow", at=now, actor=CLEANUP, retired=1)
        accepted = order.node_id not in refused and lifecycle.drain(tx, order.node_id, at=now, actor=CLEANUP, reason=reason)
        if order.then_destroy and accepted:
            lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=reason)
        elif not accepted and order.on_failure == "destroy":
            lifecycle.stop(tx, order.node_id, at=now, actor=CLEANUP, reason=f"{reason}; retiring was refused")

    def _switches(self, tx: Tx, plan: Plan, now: float) -> None:
        for switch in plan.switches:
            cloud = clouds.by_name(switch.cloud)
            if cloud is None:
                continue
            facts = {"enabled": 1, "disabled_at": None, "error_since": None} if switch.enabled else {"enabled": 0, "disabled_at": now}
            clouds.update(tx, cloud.id, at=now, event="cloud.enable" if switch.enabled else "cloud.disable", actor=CLEANUP,
                          note={"reason": switch.reason}, **facts)

    # the external batch system, with no transaction open

    def _external_retires(self, plan: Plan, seen: Snapshot) -> dict[int, str]:
        """Tell machines of an external pool to stop; node -> why it was refused."""
        if self.pool is None:
            return {}
        external = {slot.name for slot in seen.slots if slot.node_id is None}
        by_id = {node.id: node for node in seen.nodes}
        refused = {}
        for order in plan.retires:
            node = by_id[order.node_id]
            if node.registered_name in external:
                answer = self.pool.off(node.registered_address, node.registered_master)
                if answer is not None:
                    refused[order.node_id] = answer
                    log.warning("node %s: %s", order.node_id, answer)
        for stray in plan.invalidate:
            self.pool.invalidate(stray.name)
        return refused

    def _external_holds(self, plan: Plan) -> None:
        if self.pool is None:
            return
        for hold in plan.holds:
            if shapes.get(hold.shape_id).source == "condor":
                try:
                    self.pool.hold(hold)
                except CondorError as error:
                    log.warning("holding jobs: %s", error)


def request_node(tx: Tx, shape: Shape, candidates: Sequence[Candidate], *, job_id: int | None, at: float,
                 note: Mapping[str, object]) -> int | None:
    """Write down a node for a job on the first candidate; the others are kept for when it refuses."""
    first, rest = candidates[0], candidates[1:]
    cloud = clouds.by_name(first.cloud)
    if cloud is None:
        return None
    name = f"{cloud.name.replace('_', '-')}-{clock.new_suffix(10)}"
    cores = max(1, shape.cores)
    return lifecycle.request(tx, {
        "name": name, "cloud_id": cloud.id, "user": shape.user, "vm_type": shape.vm_type, "cores": cores,
        "memory_mb": shape.memory_mb, "storage_gb": shape.storage_gb, "network": shape.network, "image": first.image,
        "instance_type": first.instance_type, "slots": cores if shape.job_per_core else 1,
        "job_per_core": int(shape.job_per_core), "shape_id": shape.id, "job_id": job_id, "keep_alive_s": first.keep_alive_s,
    }, [_candidate(candidate) for candidate in rest], at=at, actor=SCHEDULER, note={**note, "cloud": cloud.name, "job": job_id})


def _candidate(candidate: Candidate) -> dict[str, object]:
    return {"cloud": candidate.cloud, "image": candidate.image, "instance_type": candidate.instance_type,
            "security_groups": list(candidate.security_groups), "keep_alive_s": candidate.keep_alive_s}


def note_failed_image(tx: Tx, cloud_name: str, image: str, *, at: float) -> None:
    """Remember an image that did not come up on a cloud (T12)."""
    cloud = clouds.by_name(cloud_name, removed=True)
    if cloud is None:
        return
    known = json.loads(cloud.failed_images)
    if image not in known:
        clouds.update(tx, cloud.id, at=at, event="cloud.image_failed", note={"image": image},
                      failed_images=json.dumps([*known, image]))


def _hold_built_in(tx: Tx, hold: Hold, now: float) -> None:
    shape = shapes.get(hold.shape_id)
    if shape.source != "queue":
        return
    for number in jobs.queued_of(tx, hold.shape_id, unscheduled=hold.scope == "unscheduled", before=hold.queued_before):
        move(tx, "job", number, "hold", at=now, actor=CLEANUP, reason=hold.reason, override=hold.override or None,
             note={"reason": hold.reason})
