"""How do the clouds of the configuration get into the pool? At the start, and when the file is read again (4.11).

The database remembers whether a cloud is enabled; everything else of a cloud from the file is what the file says. A
section that is there but cannot be used leaves its cloud as it was: a slip of the pen destroys nothing.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.classic import clouds_conf
from cloudsched.classic.clouds_conf import CloudConf
from cloudsched.classic.problem import ClassicConfigError, Secret
from cloudsched.domain.entities import UNDRIVEN, Cloud
from cloudsched.domain.scheduling.plan import Plan
from cloudsched.domain.scheduling.recharge import recharge, reconfig
from cloudsched.services import pool_clouds, pool_limits, pool_ops, pool_switches, snapshot
from cloudsched.settings import LocalCloud, Settings
from cloudsched.store import clouds, events, nodes
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

FROM_FILE = "file"
FROM_SETTINGS = "local"

# Fields of a section that have a column of their own, or are no option of a driver.
_NOT_OPTIONS = frozenset({
    "section", "name", "cloud_type", "file", "line", "options", "vm_slots", "memory", "storage", "cpu_cores",
    "max_vm_mem", "max_vm_storage", "total_cpu_cores", "networks", "priority", "vm_keep_alive_s", "boot_timeout", "enabled"})
_SECRETS = frozenset({"access_key_id", "secret_access_key", "username", "password"})
# Kinds whose machines boot by cloud-init; and those that log in as somebody, whose name their drivers call `user`.
_BOOTED = frozenset({"ec2", "openstack"})
_LOGGED_IN = frozenset({"ssh", "slurm"})


@dataclass(frozen=True, slots=True)
class Synced:
    """Names of the clouds that were added, changed and removed. `problem`: why nothing was done."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    problem: str = ""


def start(settings: Settings) -> Synced:
    """Everything a start takes from the configuration: clouds, limits, aliases; then every node is charged again and
    what does not fit any more is retired or destroyed (contract 7.10)."""
    pool_switches.forget_log_level()
    pool_switches.forget_quick_shutdown()
    synced = sync_clouds_from_file(settings, actor="start")
    sync_local_clouds(settings, actor="start")
    pool_limits.load(settings)
    picture = snapshot.build(clock.now())
    _carry_out(recharge(picture.clouds, picture.nodes, snapshot.policy()), settings, actor="start")
    return synced


def reconfigure(settings: Settings, *, actor: str = "") -> Synced:
    """Read the cloud file again (contract 4.11, B15). When it cannot be read the pool stays as it is."""
    before = snapshot.build(clock.now())
    synced = sync_clouds_from_file(settings, actor=actor)
    if synced.problem:
        return synced
    after = snapshot.build(clock.now())
    _carry_out(reconfig(before.clouds, after.clouds, after.nodes).plan, settings, actor=actor)
    return synced


def sync_clouds_from_file(settings: Settings, *, actor: str = "start") -> Synced:
    """Add, change and remove clouds as the file says; nodes of removed clouds are destroyed, others left alone."""
    file = settings.cloud_scheduler.resources_file
    if not file:
        return Synced()
    try:
        read = clouds_conf.read_clouds(file)
    except ClassicConfigError as error:
        return _unreadable(error.located(), actor)
    if not (read.clouds or read.problems) and any(cloud.source == FROM_FILE for cloud in clouds.all_clouds()):
        return _unreadable(f"{file}: holds no section: it may be half written; `cloudsched clouds remove` removes clouds", actor)
    for problem in read.problems:
        log.error("%s", problem)
    sections = [name.lower() for name, _ in clouds_conf.raw_sections(file)]
    order = {name: sections.index(name) for name in sections}
    wanted = [_columns(conf, order.get(conf.name, len(order)), settings) for conf in read.clouds]
    return _sync(wanted, source=FROM_FILE, keep=order, settings=settings, actor=actor)


def sync_local_clouds(settings: Settings, *, actor: str = "start") -> Synced:
    """The embedded clouds of `[local]`: with `auto` only when there is no other cloud anywhere."""
    others = [cloud for cloud in clouds.all_clouds() if cloud.source != FROM_SETTINGS and cloud.kind not in UNDRIVEN]
    on = settings.local.enabled == "yes" or (settings.local.enabled == "auto" and not others)
    taken = {cloud.name for cloud in others}
    wanted = [_local_columns(local, position) for position, local in enumerate(settings.local.clouds if on else ())
              if local.name.lower() not in taken]
    return _sync(wanted, source=FROM_SETTINGS, keep=frozenset(), settings=settings, actor=actor)


def _unreadable(problem: str, actor: str) -> Synced:
    log.error("the clouds stay as they are: %s", problem)
    write(lambda tx: events.append(tx, "system.reconfig_fail", ("system", 0), at=clock.now(), actor=actor, problem=problem))
    return Synced(problem=problem)


def _sync(wanted: Iterable[dict[str, Any]], *, source: str, keep: Iterable[str], settings: Settings,
          actor: str) -> Synced:
    wanted = list(wanted)
    names = {values["name"] for values in wanted} | set(keep)
    vanished = [cloud for cloud in clouds.all_clouds() if cloud.source == source and cloud.name not in names]
    added, changed = [], []
    for values in wanted:
        known = clouds.by_name(values["name"])
        if known is None:
            write(lambda tx, values=values: pool_clouds.put(tx, values, actor=actor))  # type: ignore[misc]
            added.append(values["name"])
        elif _update(known, values, settings=settings, actor=actor):
            changed.append(known.name)
    for cloud in vanished:
        pool_clouds.remove_cloud(cloud.name, actor=actor)
    return Synced(tuple(added), tuple(changed), tuple(cloud.name for cloud in vanished))


def _update(known: Cloud, values: Mapping[str, Any], *, settings: Settings, actor: str) -> bool:
    """Write what differs; the enabled flag is the one thing the database knows better."""
    new = {key: value for key, value in values.items()
           if key not in ("name", "enabled", "credentials") and getattr(known, key) != value}
    if _differs(known, values, settings):
        new["credentials"] = values["credentials"]
    if not new:
        return False

    def change(tx: Tx) -> bool:
        return clouds.update(tx, known.id, at=clock.now(), event="cloud.change", actor=actor,
                             note={"name": known.name, "changed": sorted(new)}, **new)

    return write(change)


def _differs(known: Cloud, values: Mapping[str, Any], settings: Settings) -> bool:
    """Sealing the same text twice gives two different tokens: compare what is inside."""
    sealed = values.get("credentials", "")
    if not sealed or not known.credentials:
        return bool(sealed) != bool(known.credentials)
    try:
        before = pool_clouds.opened(known, settings)
    except pool_clouds.SealError:
        return True
    return before != pool_clouds.open_text(sealed, settings)


def _columns(conf: CloudConf, position: int, settings: Settings) -> dict[str, Any]:
    options, secrets = _options(conf)
    options |= _batch_system(settings) if conf.family in _BOOTED else {}
    return {
        "name": conf.name, "title": conf.section, "address": conf.network_address, "kind": conf.cloud_type,
        "enabled": int(bool(conf.enabled)), "priority": conf.priority, "max_slots": conf.vm_slots,
        "memory_mb": conf.memory, "storage_gb": conf.storage, "cores": conf.cpu_cores,
        "max_node_memory_mb": conf.max_vm_mem, "networks": json.dumps(list(conf.networks)),
        "keep_alive_s": conf.vm_keep_alive_s, "boot_timeout_s": conf.boot_timeout,
        "options": json.dumps(options), "credentials": pool_clouds.seal(secrets, settings),
        "source": FROM_FILE, "position": position,
    }


def _options(conf: CloudConf) -> tuple[dict[str, Any], dict[str, str]]:
    """(options of the driver, credentials): whatever looks secret is kept sealed."""
    own = conf.family in clouds_conf.OWN_FAMILIES
    given = {item.name: getattr(conf, item.name) for item in fields(conf) if item.name not in _NOT_OPTIONS
             # A default of the original's kinds says nothing to a driver of ours.
             and not (own and getattr(conf, item.name) == item.default)}
    given |= conf.options
    if conf.family in _LOGGED_IN and conf.username:
        given = {"user": given.pop("username"), **given}
    options: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    for key, value in given.items():
        if value in (None, "", ()):
            continue
        if isinstance(value, Secret):
            secrets[key] = value.reveal()
        elif key in _SECRETS:
            secrets[key] = str(value)
        else:
            options[key] = list(value) if isinstance(value, tuple) else value
    return options, secrets


def _batch_system(settings: Settings) -> dict[str, Any]:
    """What machines are told of the external batch system, when there is one (contract 6.1, 7.7)."""
    if settings.origin("cloud_scheduler.condor_q_command") == "default":
        return {}
    general = settings.cloud_scheduler.general
    host = general.condor_host_on_vm or urlsplit(general.condor_webservice_url).hostname or ""
    if host in ("", "localhost") or host.startswith("127."):
        return {}  # the machine itself, over there
    return {"condor_host": host, "condor_context_file": general.condor_context_file,
            "override_vmtype": general.override_vmtype}


def _local_columns(local: LocalCloud, position: int) -> dict[str, Any]:
    return {
        "name": local.name.lower(), "title": local.name, "address": "localhost", "kind": "Local", "enabled": 1,
        "priority": local.priority, "max_slots": local.slots, "memory_mb": local.memory_mb,
        "storage_gb": local.storage_gb, "cores": local.cores or os.cpu_count() or 1, "keep_alive_s": int(local.keep_alive_s),
        "boot_timeout_s": int(local.boot_timeout_s), "source": FROM_SETTINGS, "position": position,
    }


def _carry_out(plan: Plan, settings: Settings, *, actor: str) -> None:
    """Destroys at once; retires through the shadow, or destroys what cannot be told to finish."""
    for order in plan.destroys:
        node = nodes.get(order.node_id)
        if node is not None:
            pool_ops.stop_nodes([node], actor=actor, reason=order.reason)
    for retire in plan.retires:
        pool_ops.retire_to_shadow(retire.node_id, settings=settings, actor=actor, reason=retire.reason,
                                  or_destroy=retire.on_failure == "destroy")
