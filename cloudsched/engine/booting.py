"""How does one boot go, and what follows from its answer? (contract 7.7)

The row was there before the cloud is asked, and the name is the machine's: a boot repeated after a crash finds the same
machine. A failed boot that may have left something is followed by a destroy at once; the sweep is the second net.
"""

from __future__ import annotations

import json
import logging

from cloudsched import clock
from cloudsched.domain.entities import Cloud, Node
from cloudsched.domain.scheduling.outcomes import TEMP_BANNED, Outcome, outcome
from cloudsched.drivers.base import DENIED, ENDPOINT, OTHER, Driver, DriverError, Machine, Wanted
from cloudsched.engine.images import count_result, note_failed_image
from cloudsched.engine.places import Places, note_unreachable
from cloudsched.engine.requests import Rooms, candidates_of, request_node
from cloudsched.engine.userdata import UserDataRefused
from cloudsched.engine.userdata import read as read_user_data
from cloudsched.errors import CloudschedError
from cloudsched.services import lifecycle, snapshot
from cloudsched.services.agent_rules import digest
from cloudsched.services.frameworks import cloud_nodes
from cloudsched.store import boots as kept
from cloudsched.store import clouds, nodes, shapes
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

log = logging.getLogger(__name__)
# Pauses of a place that is too busy to answer; after the last one the next cloud is asked.
PUT_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
# Refusals that leave a job queued (no room, no quota): tried again at once a few times, then after growing pauses.
FREE_TRIES, FIRST_PAUSE_S, LONGEST_PAUSE_S, FRESH_S = 3, 2.0, 60.0, 600.0


class Booter:
    """Boots claimed nodes. `holder` names this process in leases; `ban_file`: where image bans are written, or empty;
    `user_data_dir`: where the files that jobs name must lie, or empty."""

    def __init__(self, places: Places, *, holder: str, ban_file: str = "", user_data_dir: str = "") -> None:
        self.places = places
        self.holder = holder
        self.ban_file = ban_file
        self.user_data_dir = user_data_dir

    def boot(self, node: Node) -> None:
        """Boot one claimed node and settle; a result that comes after the lease was lost changes nothing."""
        cloud = clouds.get(node.cloud_id)
        assert cloud is not None
        token, at = self.places.token(node.name), clock.now()
        write(lambda tx: nodes.update(tx, node.id, token_hash=digest(token), boot_requested_at=at))
        driver: Driver | None = None
        try:
            driver = self.places.driver(cloud)
            if not cloud.enabled or cloud.state != "active":
                raise DriverError(f"{cloud.name} was disabled meanwhile", code=DENIED, transient=True)
            machine = driver.boot(self._wanted(node, cloud, token))
        except Exception as error:
            self._refused(node, cloud, driver, error)
            return
        write(lambda tx: self._booted(tx, node, cloud, machine))

    def _wanted(self, node: Node, cloud: Cloud, token: str) -> Wanted:
        place = self.places.place(cloud)
        shape = shapes.get(node.shape_id) if node.shape_id else None
        extras = shape.extras if shape else {}
        asked_by = cloud_nodes.asked_by(node.id)
        chosen = next((one for one in candidates_of(node.candidates) if one.cloud == cloud.name), None)
        groups = chosen.security_groups if chosen else tuple(cloud.option.get("security_group", ()))
        return Wanted(
            name=node.name, node_id=node.id, cores=node.cores, memory_mb=node.memory_mb, storage_gb=node.storage_gb,
            image=node.image, instance_type=node.instance_type, network=node.network, security_groups=groups, user=node.user,
            vm_type=node.vm_type, join_token=token, server_url=place.server_url, slots=node.slots,
            user_data=read_user_data(extras.get("user_data") or (), folder=self.user_data_dir),
            key_name=str(extras.get("key_name") or ""), max_price=shape.maximum_price if shape else 0.0,
            gpus=shape.gpus if shape else 0,
            labels={"cloudsched-instance": place.instance, "cloudsched-node": node.name,
                    **({"cloudsched-asked-by": asked_by} if asked_by else {})})

    def _booted(self, tx: Tx, node: Node, cloud: Cloud, machine: Machine) -> None:
        """The cloud accepted: keep the handle whatever has become of the node meanwhile."""
        at = clock.now()
        nodes.update(tx, node.id, external_id=machine.external_id or node.name, handle=json.dumps(dict(machine.handle)),
                     hostname=machine.hostname or node.hostname or node.name, ssh_port=machine.ssh_port, error_count=0)
        if machine.address and not node.address:
            nodes.update(tx, node.id, address=machine.address, where="instance = ''")
        move(tx, "node", node.id, "boot", at=at, lease=self.holder, status=machine.state or "Starting", status_changed_at=at,
             note={"cloud": cloud.name, "external_id": machine.external_id, "detail": machine.reason})
        nodes.unlease(tx, node.id, holder=self.holder)
        if node.job_id is not None:
            kept.clear_failures(tx, node.job_id)
        count_result(tx, node.image, cloud, ok=True, ban_file=self.ban_file)

    # refused

    def _refused(self, node: Node, cloud: Cloud, driver: Driver | None, error: Exception) -> None:
        code = error.code if isinstance(error, DriverError) else OTHER
        text = str(error) if isinstance(error, CloudschedError) else f"{type(error).__name__}: {error}"
        if isinstance(error, CloudschedError):
            log.warning("boot of %s on %s: %s", node.name, cloud.name, text)
        else:
            log.error("boot of %s on %s", node.name, cloud.name, exc_info=error)
        busy = code == OTHER and isinstance(error, DriverError) and error.transient
        if busy and node.error_count < len(PUT_OFF_S):
            write(lambda tx: self._put_off(tx, node, cloud, text[:500]))
            return
        if driver is not None and (code in (OTHER, ENDPOINT) or getattr(error, "transient", False)):
            _leave_nothing(driver, node)
        if code == ENDPOINT:
            note_unreachable(cloud, text)
        result = outcome(code)
        note = result.note if driver is not None else f"{cloud.name} cannot be used here"
        if isinstance(error, UserDataRefused):
            result = result._replace(consequence="ban")
        elif busy:
            result = result._replace(consequence="queue")
        told = (note, text[:500], not isinstance(error, UserDataRefused))
        write(lambda tx: self._settle_refused(tx, node, cloud, result, *told))

    def _put_off(self, tx: Tx, node: Node, cloud: Cloud, text: str) -> None:
        """The place is too busy to answer: the same node is tried again after a pause, nobody is to blame."""
        at, pause_s = clock.now(), PUT_OFF_S[node.error_count]
        done = nodes.update(tx, node.id, event="node.boot_put_off", at=at, note={"reason": text, "again_in_s": pause_s},
                            where="state = 'requested' AND lease_holder = ?", args=(self.holder,),
                            error_count=node.error_count + 1, lease_until=at + pause_s, lease_holder="")
        if done and node.job_id is not None and kept.waits(tx, node.job_id):
            kept.add_failure(tx, node.job_id, cloud=cloud.name, code=OTHER, at=at,
                             text=f"{outcome(OTHER).note}\n{text}; tried again after {pause_s:g} s")

    def _settle_refused(self, tx: Tx, node: Node, cloud: Cloud, result: Outcome, note: str, text: str, elsewhere: bool) -> None:
        """Try the next candidate (`elsewhere`), or let the last code decide what happens to the job."""
        at = clock.now()
        ended = lifecycle.end(tx, node.id, "boot_fail", at=at, reason=text, holder=self.holder,
                              note={"code": result.code, "reason": text, "cloud": cloud.name})
        nodes.unlease(tx, node.id, holder=self.holder)
        if not ended:
            return
        if elsewhere and not (result.code == OTHER and result.consequence == "queue"):  # the image is to blame, or may be
            count_result(tx, node.image, cloud, ok=False, ban_file=self.ban_file)
        if result.consequence == "block" and node.image:
            note_failed_image(tx, cloud.name, node.image, at=at)
        if node.job_id is None or not kept.waits(tx, node.job_id):
            return
        code = OTHER if result.code is None else result.code
        # The first line is the contract's sentence (T11); the rest is for `why`.
        kept.add_failure(tx, node.job_id, cloud=cloud.name, code=code, text=f"{note}\n{text}", at=at)
        if not (elsewhere and self._next(tx, node, cloud, at)):
            _consequence(tx, node, cloud, result.consequence, at)

    def _next(self, tx: Tx, node: Node, cloud: Cloud, at: float) -> bool:
        """Ask for the node on the next cloud that still has room."""
        if node.shape_id is None:
            return False
        made = request_node(tx, shapes.get(node.shape_id), candidates_of(node.candidates), rooms=Rooms(tx), job_id=node.job_id,
                            at=at, note={"after": node.name}, after=cloud.name)
        return made is not None


def _leave_nothing(driver: Driver, node: Node) -> None:
    """The answer does not say whether a machine, or half of one, was made."""
    try:
        driver.destroy(node.name, json.loads(node.handle))
    except CloudschedError as error:
        log.warning("after the failed boot of %s: %s (the sweep looks again)", node.name, error)
    except Exception:
        log.exception("after the failed boot of %s (the sweep looks again)", node.name)


def _consequence(tx: Tx, node: Node, cloud: Cloud, consequence: str, at: float) -> None:
    """What the last code means for the job (contract 7.7, table)."""
    assert node.job_id is not None
    until = at + snapshot.policy().job_ban_timeout_s
    kept.unplace(tx, node.job_id)
    if consequence == "ban":
        kept.ban(tx, node.job_id, until=until, override=TEMP_BANNED, at=at)
    elif consequence == "block":
        names = [candidate.cloud for candidate in candidates_of(node.candidates)] or [cloud.name]
        for name in names[:names.index(cloud.name) + 1 if cloud.name in names else len(names)]:
            tried = clouds.by_name(name)
            if tried is not None:
                kept.block(tx, node.job_id, tried.id, until=until)
    elif (pause_s := _pause_s(kept.failures(tx, node.job_id, cloud.name, since=at - FRESH_S))) > 0:
        # It stays queued, but a cloud that has just said no several times is not asked with every pass.
        kept.block(tx, node.job_id, cloud.id, until=at + pause_s)


def _pause_s(failures: int) -> float:
    """How long a cloud is left alone for a job after so many refusals in a row: nothing at first, then ever longer."""
    return 0.0 if failures < FREE_TRIES else min(FIRST_PAUSE_S * 2.0 ** (failures - FREE_TRIES), LONGEST_PAUSE_S)
