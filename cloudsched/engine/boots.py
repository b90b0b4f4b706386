"""How are machines really booted and destroyed? Workers claim rows, call the driver with no transaction open, settle.

A crash anywhere leaves a row that is claimed again; booting the same name twice is one machine (drivers/base.py).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cloudsched import clock
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.scheduling.model import Shape
from cloudsched.domain.scheduling.outcomes import OUTCOMES, TEMP_BANNED, ImageResults, banned_images, outcome
from cloudsched.domain.scheduling.plan import Candidate
from cloudsched.drivers.base import OTHER, DriverError, Machine, Wanted
from cloudsched.engine.carry import note_failed_image, request_node
from cloudsched.engine.places import Places
from cloudsched.errors import CloudschedError
from cloudsched.services import lifecycle, snapshot
from cloudsched.services.agents import digest
from cloudsched.store import boots as kept
from cloudsched.store import clouds, nodes, shapes
from cloudsched.store.db import Tx, current, read, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
BOOT_LEASE_S = 300.0
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Workers:
    """Claims requested nodes to boot and stopping nodes to destroy, each with its own threads."""

    def __init__(self, places: Places, *, holder: str, boot_threads: int, destroy_threads: int) -> None:
        self.places = places
        self.holder = holder
        self._limits = {"boot": boot_threads, "destroy": destroy_threads}
        self._work: dict[str, Callable[[Node], None]] = {"boot": self.boot, "destroy": self.destroy}
        self._pools = {kind: ThreadPoolExecutor(most, thread_name_prefix=kind) for kind, most in self._limits.items()}
        self._busy = {"boot": 0, "destroy": 0}
        self._lock = threading.Lock()

    def tick(self) -> int:
        """Claim what is due, as far as threads are free; returns how much was claimed."""
        started = 0
        for kind in ("destroy", "boot"):
            for node in self._claim(kind):
                started += 1
                self._pools[kind].submit(self._run, kind, node)
        return started

    def step(self) -> int:
        """The same on the calling thread, for tests."""
        claimed = [(kind, node) for kind in ("destroy", "boot") for node in self._claim(kind)]
        for kind, node in claimed:
            self._run(kind, node)
        return len(claimed)

    def stop(self) -> None:
        """Wait for the calls under way."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _claim(self, kind: str) -> list[Node]:
        at = clock.now()
        with self._lock:
            free = self._limits[kind] - self._busy[kind]
            if free <= 0 or not kept.has_due(read(), kind, at):
                return []
            found = write(lambda tx: kept.claim_due(tx, kind, holder=self.holder, at=at, lease_s=BOOT_LEASE_S, limit=free))
            self._busy[kind] += len(found)
        return found

    def _run(self, kind: str, node: Node) -> None:
        try:
            self._work[kind](node)
        except CloudschedError as error:
            log.warning("%s of %s: %s (tried again)", kind, node.name, error)
        except Exception:
            log.exception("%s of %s failed", kind, node.name)
        finally:
            with self._lock:
                self._busy[kind] -= 1
            if threading.current_thread() is not threading.main_thread():
                current().close_thread()

    # boot

    def boot(self, node: Node) -> None:
        """Boot one claimed node and settle."""
        cloud = clouds.get(node.cloud_id)
        assert cloud is not None
        token = self.places.token(node.name)
        write(lambda tx: nodes.update(tx, node.id, token_hash=digest(token)))
        try:
            machine = self.places.driver(cloud).boot(self._wanted(node, cloud, token))
        except CloudschedError as error:
            code = error.code if isinstance(error, DriverError) else OTHER
            log.warning("boot of %s on %s: %s", node.name, cloud.name, error)
            text = str(error)
            write(lambda tx: self._boot_failed(tx, node, cloud, code, text))
            return
        write(lambda tx: _booted(tx, node, cloud, machine, self.holder))

    def _wanted(self, node: Node, cloud: Cloud, token: str) -> Wanted:
        place = self.places.place(cloud)
        extras = shapes.get(node.shape_id).extras if node.shape_id else {}
        return Wanted(
            name=node.name, node_id=node.id, cores=node.cores, memory_mb=node.memory_mb, storage_gb=node.storage_gb,
            image=node.image, instance_type=node.instance_type, network=node.network,
            security_groups=tuple(cloud.option.get("security_group", ())), user=node.user, vm_type=node.vm_type,
            join_token=token, server_url=place.server_url, slots=node.slots, user_data=str(extras.get("user_data", "") or ""),
            labels={"cloudsched-instance": place.instance, "cloudsched-node": node.name})

    def _boot_failed(self, tx: Tx, node: Node, cloud: Cloud, code: int, text: str) -> None:
        """Try the next candidate, or let the last code decide what happens to the job (contract 7.7)."""
        at = clock.now()
        result = outcome(code)
        if node.job_id is not None:
            kept.add_failure(tx, node.job_id, cloud=cloud.name, code=code, text=result.note or OUTCOMES[OTHER].note, at=at)
        _count_image(tx, node, cloud, ok=False)
        if result.consequence == "block" and node.image:
            note_failed_image(tx, cloud.name, node.image, at=at)
        if not lifecycle.end(tx, node.id, "boot_fail", at=at, reason=text[:500], holder=self.holder,
                             note={"code": code, "reason": text[:500], "cloud": cloud.name}):
            return
        rest = [_candidate(item) for item in json.loads(node.candidates)]
        if rest and node.goal == "run" and node.shape_id is not None and self._next(tx, node, rest, at):
            return
        if node.job_id is not None:
            self._consequence(tx, node, result.consequence, at)

    def _next(self, tx: Tx, node: Node, rest: list[Candidate], at: float) -> bool:
        """Ask for the node on the next cloud that still has room."""
        assert node.shape_id is not None
        shape = shapes.get(node.shape_id)
        while rest and not _has_room(tx, rest[0].cloud, shape):
            rest = rest[1:]
        if not rest:
            return False
        return request_node(tx, shape, rest, job_id=node.job_id, at=at, note={"after": node.name}) is not None

    def _consequence(self, tx: Tx, node: Node, consequence: str, at: float) -> None:
        assert node.job_id is not None
        until = at + snapshot.policy().job_ban_timeout_s
        kept.unplace(tx, node.job_id)
        if consequence == "ban":
            kept.ban(tx, node.job_id, until=until, override=TEMP_BANNED, at=at)
        elif consequence == "block":
            tried = {cloud for cloud in kept.failed_clouds(tx, node.job_id)}
            for cloud in clouds.all_clouds():
                if cloud.name in tried:
                    kept.block(tx, node.job_id, cloud.id, until=until)

    # destroy

    def destroy(self, node: Node) -> None:
        """Destroy one claimed node, prove it gone, settle; a refusal is tried again with growing pauses."""
        cloud = clouds.get(node.cloud_id)
        assert cloud is not None
        if cloud.kind == "Agent":
            write(lambda tx: lifecycle.end(tx, node.id, "destroy", at=clock.now(), reason=node.reason, holder=self.holder))
            return
        try:
            self.places.driver(cloud).destroy(node.name, json.loads(node.handle))
        except CloudschedError as error:
            pause = RETRY_S[min(node.error_count, len(RETRY_S) - 1)]
            text = str(error)[:500]
            log.warning("destroy of %s on %s: %s", node.name, cloud.name, text)
            write(lambda tx: move(tx, "node", node.id, "destroy_fail", at=clock.now(), lease=self.holder,
                                  error_count=node.error_count + 1, lease_until=clock.now() + pause, lease_holder="",
                                  note={"reason": text, "again_in_s": pause}))
            return
        write(lambda tx: lifecycle.end(tx, node.id, "destroy", at=clock.now(), reason=node.reason, holder=self.holder))


def _booted(tx: Tx, node: Node, cloud: Cloud, machine: Machine, holder: str) -> None:
    """The cloud accepted: keep the handle whatever has become of the node meanwhile."""
    at = clock.now()
    nodes.update(tx, node.id, external_id=machine.external_id or node.name, handle=json.dumps(dict(machine.handle)),
                 hostname=machine.hostname or node.hostname or node.name, ssh_port=machine.ssh_port)
    if machine.address and not node.address:
        nodes.update(tx, node.id, address=machine.address)
    move(tx, "node", node.id, "boot", at=at, lease=holder, status=machine.state or "Starting", status_changed_at=at, lease_until=0,
         note={"cloud": cloud.name, "external_id": machine.external_id, "detail": machine.reason})
    nodes.unlease(tx, node.id, holder=holder)
    if node.job_id is not None:
        kept.clear_failures(tx, node.job_id)
    _count_image(tx, node, cloud, ok=True)


def _count_image(tx: Tx, node: Node, cloud: Cloud, *, ok: bool) -> None:
    """Ban tracking (B41)."""
    policy = snapshot.policy()
    if not policy.ban_tracking or not node.image:
        return
    succeeded, failed = clouds.count_image(tx, node.image, cloud.name, ok=ok)
    banned = banned_images([ImageResults(node.image, cloud.name, succeeded, failed)], policy)
    clouds.ban_image(tx, node.image, cloud.name, banned=bool(banned))


def _has_room(tx: Tx, cloud_name: str, shape: Shape) -> bool:
    cloud = clouds.by_name(cloud_name)
    if cloud is None or not cloud.enabled:
        return False
    count, memory_mb, storage_gb = kept.used(tx, cloud.id)
    return (count < cloud.max_slots and (cloud.memory_mb < 0 or memory_mb + shape.memory_mb <= cloud.memory_mb)
            and (cloud.storage_gb < 0 or storage_gb + shape.storage_gb <= cloud.storage_gb))


def _candidate(item: dict[str, object]) -> Candidate:
    return Candidate(**{**item, "security_groups": tuple(item.get("security_groups", ()))})  # type: ignore[arg-type]
