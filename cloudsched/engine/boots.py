"""How are machines really booted and destroyed? Workers claim rows, call the driver with no transaction open, settle.

A claim is a short lease that is renewed while the call is under way: a crash anywhere leaves a row that is soon claimed
again, and a long call is not taken for a dead one. Booting the same name twice is one machine (drivers/base.py).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cloudsched import clock
from cloudsched.domain.entities import UNDRIVEN, Node
from cloudsched.engine.booting import Booter
from cloudsched.engine.places import Places
from cloudsched.errors import CloudschedError
from cloudsched.services import lifecycle
from cloudsched.store import boots as kept
from cloudsched.store import clouds
from cloudsched.store.db import current, read, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
LEASE_S = 30.0
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
KINDS = ("destroy", "boot")


class Workers:
    """Claims requested nodes to boot and stopping nodes to destroy, each with its own threads."""

    def __init__(self, places: Places, *, holder: str, boot_threads: int, destroy_threads: int, ban_file: str = "",
                 user_data_dir: str = "", lease_s: float = LEASE_S) -> None:
        self.places = places
        self.holder = holder
        self._lease_s = lease_s
        self._limits = {"boot": boot_threads, "destroy": destroy_threads}
        self._work: dict[str, Callable[[Node], None]] = {
            "boot": Booter(places, holder=holder, ban_file=ban_file, user_data_dir=user_data_dir).boot, "destroy": self.destroy}
        self._pools = {kind: ThreadPoolExecutor(most, thread_name_prefix=kind) for kind, most in self._limits.items()}
        self._held: dict[str, dict[int, float]] = {kind: {} for kind in KINDS}
        self._lock = threading.Lock()

    def tick(self) -> int:
        """Renew what is under way, claim what is due as far as threads are free; returns how much was claimed."""
        self.renew()
        started = 0
        for kind in KINDS:
            for node in self._claim(kind):
                started += 1
                self._pools[kind].submit(self._on_thread, kind, node)
        return started

    def step(self) -> int:
        """The same on the calling thread, for tests."""
        claimed = [(kind, node) for kind in KINDS for node in self._claim(kind)]
        for kind, node in claimed:
            self._run(kind, node)
        return len(claimed)

    def renew(self) -> None:
        """Extend the leases of calls that take long."""
        at = clock.now()
        with self._lock:
            late = [number for held in self._held.values() for number, until in held.items()
                    if until - at < self._lease_s * 2 / 3]
            if not late:
                return
            write(lambda tx: kept.renew(tx, late, holder=self.holder, until=at + self._lease_s))
            for held in self._held.values():
                held.update({number: at + self._lease_s for number in late if number in held})

    def stop(self) -> None:
        """Wait for the calls under way."""
        for pool in self._pools.values():
            pool.shutdown(wait=True, cancel_futures=True)

    def _claim(self, kind: str) -> list[Node]:
        at = clock.now()
        with self._lock:
            held = self._held[kind]
            free = self._limits[kind] - len(held)
            if free <= 0 or not kept.has_due(read(), kind, at):
                return []
            found = write(lambda tx: kept.claim_due(tx, kind, holder=self.holder, at=at, lease_s=self._lease_s, limit=free))
            # A call of ours that outlived its lease (the database was away) is still under way: not begun a second time.
            fresh = [node for node in found if node.id not in held]
            held.update({node.id: at + self._lease_s for node in found})
        return fresh

    def _on_thread(self, kind: str, node: Node) -> None:
        try:
            self._run(kind, node)
        finally:
            current().close_thread()

    def _run(self, kind: str, node: Node) -> None:
        try:
            self._work[kind](node)
        except CloudschedError as error:
            log.warning("%s of %s: %s (tried again)", kind, node.name, error)
        except Exception:
            log.exception("%s of %s failed (tried again)", kind, node.name)
        finally:
            with self._lock:
                self._held[kind].pop(node.id, None)

    def destroy(self, node: Node) -> None:
        """Destroy one claimed node, prove it gone, settle; a refusal is tried again with growing pauses."""
        cloud = clouds.get(node.cloud_id)
        assert cloud is not None
        try:
            if cloud.kind not in UNDRIVEN:  # a machine that came by itself goes by itself
                self.places.driver(cloud).destroy(node.name, json.loads(node.handle))
        except Exception as error:
            self._refused(node, cloud.name, error)
            return
        write(lambda tx: lifecycle.end(tx, node.id, "destroy", at=clock.now(), reason=node.reason, holder=self.holder))

    def _refused(self, node: Node, cloud: str, error: Exception) -> None:
        pause_s = RETRY_S[min(node.error_count, len(RETRY_S) - 1)]
        text = (str(error) if isinstance(error, CloudschedError) else f"{type(error).__name__}: {error}")[:500]
        log.warning("destroy of %s on %s: %s", node.name, cloud, text)
        at = clock.now()
        write(lambda tx: move(tx, "node", node.id, "destroy_fail", at=at, lease=self.holder, error_count=node.error_count + 1,
                              lease_until=at + pause_s, lease_holder="", note={"reason": text, "again_in_s": pause_s}))
