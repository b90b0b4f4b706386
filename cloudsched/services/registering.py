"""How does a device come in, and who may call itself by its id? Contract 12.7, for our agent and for native workers alike.

A token that is configured, or a token of a pool, is trusted. Where none is configured, this machine and the networks of
`access.retire_cluster_networks` are. Workers without the token may be let in to report only. An id that was registered with
a token cannot be used without it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched import clock
from cloudsched.domain import devices as domain
from cloudsched.domain import moves
from cloudsched.domain.devices import Facts
from cloudsched.errors import Conflict, Forbidden, Gone, Invalid, Unauthenticated
from cloudsched.services import contacts, fleet_config
from cloudsched.services.access import Networks, is_inside, networks_of
from cloudsched.services.agent_rules import digest
from cloudsched.settings import Settings
from cloudsched.store import devices as store
from cloudsched.store import jobs, nodes
from cloudsched.store.db import Tx
from cloudsched.store.devices import AGENT, LEGACY, MACHINE, WORKER, Device

TOKEN, OPEN, REPORTS = "token", "open", "reports"
_WRONG = "the join token is not valid"


@dataclass
class _Rules:
    token: str = ""
    legacy: bool = False
    networks: Networks = frozenset()


_rules = _Rules()


def configure(settings: Settings) -> None:
    """Called once when a process starts."""
    section = settings.retire_cluster
    _rules.token, _rules.legacy = section.join_token, section.allow_legacy_workers
    _rules.networks = networks_of(settings.access.retire_cluster_networks)


def standing(token: str, address: str) -> str:
    """What a caller is: `token` (it has the configured one), `open` (none is needed from there), `reports` (it may register
    and report). Raises Unauthenticated."""
    if _rules.token:
        if token and hmac.compare_digest(token.encode("utf-8", "replace"), _rules.token.encode()):
            return TOKEN
        if token or not _rules.legacy:
            raise Unauthenticated(_WRONG if token else "a join token is needed")
        return REPORTS
    if is_inside(address, _rules.networks):
        return OPEN
    if _rules.legacy:
        return REPORTS
    raise Unauthenticated("without a join token (retire_cluster.join_token) only machines of this host may join")


def check_owner(known: Device, standing_: str, token: str) -> None:
    """Raise unless a caller of this standing may speak for the device (an id registered with a token needs it)."""
    if not known.token_hash or standing_ == TOKEN:
        return
    if not token or not hmac.compare_digest(digest(token), known.token_hash):
        raise Forbidden(f"the device {known.device_id} was registered with a token: it is needed here too")


def present(tx: Tx, device_id: str) -> Device | None:
    """The device of this id whose node has not ended; one whose node has is taken out here."""
    known = store.by_id(tx, device_id)
    if known is not None and known.state in moves.NODE_FINAL:
        store.remove(tx, known, at=clock.now(), actor="", reason="its node has ended")
        return None
    return known


# our agent


def agent_joins(tx: Tx, device_id: str, said: Mapping[str, Any], facts: Mapping[str, Any], *, token: str, address: str,
                at: float) -> tuple[int, str]:
    """Our agent on a device joins (`facts`: columns of its node); (node, name). A pool token decides the cloud.

    Raises Unauthenticated, Forbidden, Conflict, Gone, Invalid.
    """
    if not domain.is_id(device_id):
        raise Invalid.at("profile.device_id", "is no id of a device", domain.ID_RULE)
    known = present(tx, device_id)
    pool = nodes.use_join_token(tx, digest(token), at=at, new_node=known is None) if token else None
    rank = TOKEN if pool is not None and known is None else standing(token, address) if pool is None else OPEN
    if rank == REPORTS:
        raise Unauthenticated("a join token is needed")
    values = {**facts, **columns(domain.facts_of(said), said)}
    if known is None:
        where = {"cloud_id": pool[0], "user": pool[1], "vm_type": pool[2]} if pool else {"cloud_id": store.cloud_id(tx, at)}
        return new_node(tx, device_id, values | where, said, via=AGENT, token=token, at=at, address=address)
    check_owner(known, rank, token)
    if known.via == MACHINE:
        raise Conflict(f"a machine that was booted is called {device_id}: choose another id")
    if known.state != "running" or known.goal == "gone":
        raise Gone("this device is being removed")
    renew(tx, known, values, said, via=AGENT, token=token, at=at, address=address)
    node = nodes.get(known.node_id)
    assert node is not None
    return known.node_id, node.name


def remember(tx: Tx, node_id: int, name: str, said: Mapping[str, Any], *, at: float, seen_at: float | None) -> None:
    """An ordinary machine has joined (or joined again): its row, so that it is shown with a history."""
    known = store.of_node(tx, node_id)
    facts = domain.facts_of(said)
    if known is None:
        if present(tx, name) is None:
            store.insert(tx, node_id, {"device_id": name, "via": MACHINE, **_own(facts, MACHINE)}, at=at,
                         note={"role": facts.role or domain.MACHINE_ROLE, "via": MACHINE})
        return
    contacts.heard(tx, node_id, known.device_id, at=at, seen_at=seen_at, online_since=known.online_since)
    store.update(tx, node_id, **_own(facts, MACHINE))
    store.told(tx, node_id, clear=store.UPGRADE | store.UPGRADE_TOLD)
    store.changed(tx)


# nodes of devices


def new_node(tx: Tx, device_id: str, values: Mapping[str, Any], said: Mapping[str, Any], *, via: str, token: str, at: float,
             address: str) -> tuple[int, str]:
    """A device comes for the first time: its node and its row; (node, name)."""
    name = _name(device_id)
    number = nodes.insert(tx, {
        "name": name, "external_id": device_id, "state": "running", "status": "Running", "boot_requested_at": at,
        "running_at": at, **values}, at=at, event="node.join", note={"address": address, "device": device_id})
    facts = domain.facts_of(said)
    own = _own(facts, via)
    store.insert(tx, number, {"device_id": device_id, "via": via, "token_hash": digest(token) if token else "", **own}, at=at,
                 note={"role": own["role"], "os": facts.os, "via": via, "address": address})
    return number, name


def renew(tx: Tx, known: Device, values: Mapping[str, Any], said: Mapping[str, Any], *, via: str, token: str, at: float,
          address: str) -> None:
    """A device that is known comes again: its record is replaced, its time of registration stays."""
    contacts.heard(tx, known.node_id, known.device_id, at=at, seen_at=known.last_seen_at, online_since=known.online_since)
    nodes.update(tx, known.node_id, event="node.join", at=at, note={"address": address, "device": known.device_id}, **values)
    kept = {"token_hash": digest(token)} if token else {}
    store.update(tx, known.node_id, via=via, **_own(domain.facts_of(said), via), **kept)
    store.told(tx, known.node_id, clear=store.UPGRADE | store.UPGRADE_TOLD)
    store.changed(tx)


def columns(facts: Facts, said: Mapping[str, Any]) -> dict[str, Any]:
    """What a profile says, as columns of the node. A machine that does not say how much it has, has nothing to spare."""
    memory_mb, storage_gb = said.get("memory_mb"), said.get("storage_gb")
    return {
        "cores": facts.cores or 1, "memory_mb": memory_mb if _is_count(memory_mb) else facts.memory_mb,
        "storage_gb": storage_gb if _is_count(storage_gb) else int(facts.storage_gb),
        "slots": facts.capacity or (facts.cores or domain.DEFAULT_CAPACITY if "cores" in said else domain.DEFAULT_CAPACITY),
        "hostname": facts.hostname}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _own(facts: Facts, via: str) -> dict[str, Any]:
    role = facts.role or (domain.MACHINE_ROLE if via == MACHINE else domain.DEFAULT_ROLE)
    accepts = facts.announced and via != LEGACY
    return {"role": role, "os": facts.os, "internet": int(facts.internet), "accepts_tasks": int(accepts), "takes": ""}


def _name(device_id: str) -> str:
    """Its id; where a node cannot be called so, `device-ID`."""
    if not device_id.isdigit() and nodes.by_name(device_id) is None:
        return device_id
    name = f"device-{device_id}"
    return name if nodes.by_name(name) is None else f"{name}-{clock.new_suffix(6)}"


# native workers


def worker_registers(tx: Tx, device_id: str, said: Mapping[str, Any], *, via: str, token: str, address: str) -> tuple[int, bool]:
    """A worker of the native protocol registers; (node, is it new?). Raises as `agent_joins`."""
    at = clock.now()
    rank = standing(token, address)
    known = present(tx, device_id)
    found = domain.facts_of(said)
    via = LEGACY if rank == REPORTS or via == LEGACY else WORKER
    values = {**columns(found, said), "facts": json.dumps(said), "address": address, "registered_at": at, "last_seen_at": at,
              "instance": "-", "secret_hash": ""}
    if known is None:
        number, _ = new_node(tx, device_id, values | {"cloud_id": store.cloud_id(tx, at)}, said, via=via, token=token, at=at,
                             address=address)
        return number, True
    check_owner(known, rank, token)
    if known.via == MACHINE or (known.via == AGENT and _is_online(known, at)):
        raise Conflict(f"the id {device_id} belongs to a machine with an agent that is here: choose another id")
    if known.state != "running" or known.goal == "gone":
        raise Gone("this device is being removed")
    if known.via == AGENT:  # its agent is gone for good: what it held is not this worker's
        jobs.doubt(tx, known.node_id, at=0.0)
    renew(tx, known, values, said, via=via, token=token, at=at, address=address)
    return known.node_id, False


def _is_online(known: Device, at: float) -> bool:
    return known.last_seen_at is not None and at - known.last_seen_at <= fleet_config.recent().offline_threshold_s
