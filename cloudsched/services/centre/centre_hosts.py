"""What can be asked of the hosts of a compute centre? Add, change, remove, list, reserve for a cluster, set free.

A host is a node of the centre's cloud with a row of its own beside it. What it holds is in the centre's books: adding,
changing, moving and removing it moves stock in the same transaction.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cloudsched import clock
from cloudsched.domain.stock import Amount, of_host
from cloudsched.drivers.installing.given import Options
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.services import lifecycle
from cloudsched.services.centre import parts
from cloudsched.services.centre.centres import (
    LAST_DAY,
    attempt,
    checked_date,
    checked_name,
    find,
    host_taken,
    in_order,
    needs_secret,
    new_key,
    refused,
    resealed,
    same_executor,
    slug,
    today,
    wrong,
)
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters, nodes
from cloudsched.store import parts as books
from cloudsched.store.centres import IDLE, OCCUPIED, Centre, Host
from cloudsched.store.db import Row, Tx

__all__ = ["LISTED", "NOT_SET", "ORDER", "Host", "add", "amounts", "change", "drop", "find_host", "free", "of_centre", "page",
           "remove", "renew_node", "reserve"]
ORDER, LISTED = store.HOST_ORDER, store.HOST_LISTED
NOT_SET = "未设置"  # what the contract's rows say where no external address is known
MOST = {"cpu_stock": 100_000, "memory_stock": 10_000_000, "sysdisk_stock": 100_000_000, "datadisk_stock": 100_000_000,
        "gpu_stock": 10_000}
MODELS = ("cpu_model", "memory_model", "gpu_model")
ROLES = ("", "master", "worker")
_ADDRESS = ("ip", "sshport")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?\Z")


def amounts(host: Host | Mapping[str, Any]) -> list[Amount]:
    """What a host holds, in base units; what it has nothing of is left out."""
    return list(of_host(host if isinstance(host, Mapping) else asdict(host)))


def find_host(key: str, *, centre: Centre | None = None, scope: str | None = None) -> Host:
    """One host by its id, of this centre if one is given. Raises NotFound, also for one of another organisation."""
    host = store.host(key)
    if host is not None and scope is not None:
        owner = store.centre(host.centre_key)
        host = host if owner is not None and owner.org == scope else None
    if host is None or (centre is not None and host.centre_key != centre.key):
        raise refused(NotFound, "no_host", f"there is no host {key}", id=key)
    return host


def of_centre(centre: Centre) -> list[Host]:
    """All hosts of a centre."""
    return store.hosts_of(centre.key)


def page(centre: Centre, *, order: str = "id", down: bool = False, limit: int | None = None, offset: int = 0,
         idle: bool = False) -> tuple[int, list[Row]]:
    """(how many there are, rows): tuples of `LISTED` and then the name of the cluster or None; lists can be long."""
    return store.host_page(centre.key, order=order, down=down, limit=limit, offset=offset, status=IDLE if idle else None)


def add(centre: Centre, values: Mapping[str, Any], *, actor: str, settings: Settings, dry_run: bool = False) -> Host:
    """Add a host from the contract's members. Raises Invalid; Conflict when the centre has that address already."""
    columns = _columns(values, None, settings)
    key = new_key()

    def insert(tx: Tx) -> Host:
        at = clock.now()
        _address_free(tx, centre, columns, None, settings)
        node_id = _insert_node(tx, centre, columns, at=at, actor=actor)
        store.insert(tx, "centre_host", {**columns, "key": key, "node_id": node_id, "centre_key": centre.key, "created_at": at,
                                         "updated_at": at})
        parts.move_host(tx, centre.key, before=None, after=("", amounts(columns)), actor=actor)
        store.note(tx, "centre.host_add", ("node", node_id), at=at, actor=actor, org=centre.org, id=key, name=columns["name"],
                   centre=centre.key)
        _count(tx, centre, at=at, by=+1)
        return find_host(key)

    return attempt(insert, dry_run=dry_run)


def change(host: Host, values: Mapping[str, Any], *, actor: str, settings: Settings, dry_run: bool = False) -> Host:
    """Change what is given of a host; another `ip`, `sshport` or `adminuser` needs `adminpwd` given anew.

    Raises Invalid; Conflict when more is in use than would be left, or the cluster that it is in does not allow it."""
    centre = find(host.centre_key)
    columns = _columns(values, host, settings)
    _check_in_cluster(host, columns, str(values.get("role") or "").strip())

    def update(tx: Tx) -> Host:
        at = clock.now()
        now = find_host(host.key)
        for name in (*_ADDRESS, "adminuser"):
            if columns[name] != getattr(now, name):
                needs_secret("adminpwd", name, values.get("adminpwd"), now.adminpwd)
        _address_free(tx, centre, columns, host, settings)
        if not store.update(tx, "centre_host", host.id, **columns, updated_at=at,
                            where="cluster_key = ? AND node_status = ?", args=(host.cluster_key, host.node_status)):
            raise refused(Conflict, "host_changed", f"host {host.name} was changed meanwhile", name=host.name)
        place = host.cluster_key
        parts.move_host(tx, centre.key, before=(place, amounts(host)), after=(place, amounts(columns)), actor=actor)
        changed = sorted(name for name, value in columns.items() if value != getattr(host, name))
        nodes.update(tx, host.node_id, **_node_columns(columns))
        store.note(tx, "centre.host_change", ("node", host.node_id), at=at, actor=actor, org=centre.org, id=host.key,
                   changed=changed)
        return find_host(host.key)

    return attempt(update, dry_run=dry_run)


def remove(host: Host, *, actor: str, dry_run: bool = False) -> None:
    """Remove a host that is idle. Raises Conflict while it is in a cluster or occupied, or what it holds is in use."""
    if host.cluster_key:
        raise refused(Conflict, "host_in_cluster", f"host {host.name} is in a cluster", name=host.name)
    if host.node_status != IDLE:
        raise refused(Conflict, "host_occupied", f"host {host.name} is occupied", name=host.name)

    def delete(tx: Tx) -> None:
        drop(tx, host, actor=actor)

    attempt(delete, dry_run=dry_run)


def drop(tx: Tx, host: Host, *, actor: str) -> None:
    """In a transaction: the host is gone, and what it held with it. Raises Conflict when it was taken meanwhile."""
    at = clock.now()
    if not store.update(tx, "centre_host", host.id, removed_at=at, updated_at=at, adminpwd="",
                        where="cluster_key = '' AND node_status = '0' AND removed_at IS NULL"):
        raise refused(Conflict, "host_occupied", f"host {host.name} is occupied", name=host.name)
    centre = find(host.centre_key)
    parts.move_host(tx, centre.key, before=("", amounts(host)), after=None, actor=actor)
    lifecycle.end(tx, host.node_id, "vanish", at=at, reason="removed from its compute centre")
    store.note(tx, "centre.host_remove", ("node", host.node_id), at=at, actor=actor, org=centre.org, id=host.key, name=host.name,
               centre=centre.key)
    _count(tx, centre, at=at, by=-1)


def renew_node(tx: Tx, host: Host, *, actor: str) -> None:
    """In a transaction: the node behind a host was taken away while the host is in use: it gets another."""
    centre = find(host.centre_key)
    columns = {name: getattr(host, name) for name in ("name", "ip", "sshport", *MODELS, *MOST)}
    at = clock.now()
    node_id = _insert_node(tx, centre, columns, at=at, actor=actor)
    store.update(tx, "centre_host", host.id, node_id=node_id, updated_at=at)
    member = clusters.of_nodes([host.node_id]).get(host.node_id)
    if member is not None:
        name = next(row[2] for row in clusters.members(member[0]) if row[0] == host.node_id)
        clusters.remove_node(tx, member[0], host.node_id, at=at, actor=actor)
        clusters.add_node(tx, member[0], node_id, role=member[2], name=name, at=at, actor=actor)


# hosts and clusters


def reserve(tx: Tx, host: Host, *, cluster_key: str, role: str, actor: str) -> None:
    """In a transaction: an idle host belongs to a cluster from now on. Raises Conflict when it is not idle."""
    if not store.update(tx, "centre_host", host.id, node_status=OCCUPIED, cluster_key=cluster_key, role=role,
                        updated_at=clock.now(), where="node_status = '0' AND cluster_key = '' AND removed_at IS NULL"):
        raise refused(Conflict, "host_occupied", f"host {host.name} is occupied", name=host.name)
    parts.move_host(tx, host.centre_key, before=("", amounts(host)), after=(cluster_key, amounts(host)), actor=actor)
    _note_move(tx, host, "centre.host_occupy", cluster_key, actor)


def free(tx: Tx, host: Host, *, actor: str, options: Mapping[str, Any] | None = None) -> bool:
    """In a transaction: a host leaves its cluster and is idle; False when it is in none.

    Raises Conflict when what it holds is in use there."""
    if not host.cluster_key or not store.update(
            tx, "centre_host", host.id, node_status=IDLE, cluster_key="", role="", updated_at=clock.now(),
            where="cluster_key = ?", args=(host.cluster_key,)):
        return False
    parts.move_host(tx, host.centre_key, before=(host.cluster_key, amounts(host)), after=("", amounts(host)), actor=actor)
    _note_move(tx, host, "centre.host_free", host.cluster_key, actor)
    return True


def _note_move(tx: Tx, host: Host, kind: str, cluster_key: str, actor: str) -> None:
    centre = find(host.centre_key)
    store.note(tx, kind, ("node", host.node_id), at=clock.now(), actor=actor, org=centre.org, id=host.key, name=host.name,
               cluster=cluster_key)


def _check_in_cluster(host: Host, columns: Mapping[str, Any], role: str) -> None:
    """A cluster knows its hosts by their addresses and roles, and what it holds is occupied. Raises Conflict."""
    if not host.cluster_key:
        return
    if columns["node_status"] != OCCUPIED:
        raise refused(Conflict, "host_in_cluster", f"host {host.name} is in a cluster", name=host.name)
    fixed = [name for name in _ADDRESS if columns[name] != getattr(host, name)]
    if role and _word("role", role, ROLES) != host.role:
        fixed.append("role")
    if fixed:
        raise refused(Conflict, "host_fixed", f"{fixed[0]}: host {host.name} is in a cluster that knows it by its "
                      f"{fixed[0]}; take it out first", name=host.name, field=fixed[0])


# rows


def _insert_node(tx: Tx, centre: Centre, columns: Mapping[str, Any], *, at: float, actor: str) -> int:
    cloud = clouds.get(centre.cloud_id)
    name = slug(columns["name"], "host")
    while nodes.by_name(name) is not None:
        name = f"{slug(columns['name'], 'host')}-{clock.new_suffix()}"
    return nodes.insert(tx, {"name": name, "cloud_id": centre.cloud_id, "state": "running", "status": "Running", "running_at": at,
                             "slots": 0, **_node_columns(columns)}, at=at, event="node.add", actor=actor,
                        note={"name": name, "cloud": cloud.name if cloud else ""})


def _node_columns(columns: Mapping[str, Any]) -> dict[str, Any]:
    facts = {"model": columns["cpu_model"], "gpus": columns["gpu_stock"], "gpu_model": columns["gpu_model"]}
    return {"address": columns["ip"], "hostname": columns["name"], "ssh_port": columns["sshport"],
            "cores": columns["cpu_stock"], "memory_mb": columns["memory_stock"] * 1024,
            "storage_gb": columns["sysdisk_stock"] + columns["datadisk_stock"], "facts": json.dumps(facts)}


def _count(tx: Tx, centre: Centre, *, at: float, by: int) -> None:
    cloud = clouds.get(centre.cloud_id)
    if cloud is not None:
        clouds.update(tx, cloud.id, at=at, event="cloud.change", note={"changed": ["max_slots"]},
                      max_slots=max(cloud.max_slots + by, 0))


def _address_free(tx: Tx, centre: Centre, columns: Mapping[str, Any], host: Host | None, settings: Settings) -> None:
    """One executor installs on a machine for one centre alone. Raises Conflict."""
    if host is not None and all(columns[name] == getattr(host, name) for name in _ADDRESS):
        return
    books.lock(tx)  # nobody else takes the address in another centre meanwhile
    for known in store.hosts_at(columns["ip"], columns["sshport"]):
        if known.centre_key == centre.key:
            raise refused(Conflict, "host_exists", f"host {known.name} of this centre has the address {known.ip}:{known.sshport}",
                          name=known.name, address=f"{known.ip}:{known.sshport}")
        if same_executor(find(known.centre_key), centre, settings):
            raise host_taken(centre, known)


def _columns(values: Mapping[str, Any], known: Host | None, settings: Settings) -> dict[str, Any]:
    def of(name: str, default: Any = "") -> Any:
        return values[name] if values.get(name) is not None else (getattr(known, name) if known else default)

    begins = checked_date("enable_date", of("enable_date"), today())
    ends = checked_date("export_date", of("export_date"), LAST_DAY)
    in_order("enable_date", begins, "export_date", ends)
    user = str(of("adminuser")).strip()
    if not _USER.match(user):
        raise wrong("adminuser", user[:40] or "-", "bad_user")
    role = str(known.role if known and known.cluster_key else of("role")).strip()
    return {
        "name": checked_name("name", str(of("name"))), "ip": _address("ip", str(of("ip"))),
        "devicetype": _word("devicetype", of("devicetype", "0"), ("0", "1")),
        "node_status": _word("node_status", of("node_status", IDLE), (IDLE, OCCUPIED)),
        "sshport": _whole("sshport", of("sshport", 22), 1, 65535), "adminuser": user,
        "adminpwd": resealed("adminpwd", str(of("adminpwd")), known.adminpwd if known else "", settings),
        "external_ip": _external(str(of("external_ip")).strip()), "role": _word("role", role, ROLES),
        "enable_date": begins, "export_date": ends,
        "options": _options(values["options"]) if values.get("options") is not None else of("options", "{}"),
        **{name: _model(name, str(of(name, "STANDARD"))) for name in MODELS},
        **{name: _whole(name, of(name, 0), 0, most) for name, most in MOST.items()},
    }


def _address(field: str, text: str) -> str:
    """An IP address or a host name. Raises Invalid."""
    address = text.strip()
    try:
        return str(ipaddress.ip_address(address.strip("[]")))
    except ValueError:
        pass
    if not _NAME.match(address) or re.fullmatch(r"[0-9.]+", address):
        raise wrong(field, address[:80] or "-", "bad_address")
    return address


def _external(text: str) -> str:
    return _address("external_ip", text) if text and text != NOT_SET else NOT_SET


def _model(field: str, text: str) -> str:
    return checked_name(field, text) if text.strip() else "STANDARD"


def _word(field: str, value: Any, allowed: tuple[str, ...]) -> str:
    text = str(value).strip()
    if text not in allowed:
        raise wrong(field, text[:40], "bad_word", allowed=", ".join(word or '""' for word in allowed))
    return text


def _whole(field: str, value: Any, low: int, high: int) -> int:
    text = str(value).strip() or "0"
    number = int(text) if re.fullmatch(r"[+-]?[0-9]{1,1000}", text) and not isinstance(value, bool) else None
    if number is None or not low <= number <= high:
        raise wrong(field, text[:40], "bad_integer" if number is None else "bad_range", allowed=f"{low}..{high}")
    return number


def _options(value: Any) -> str:
    """How the host is set up, beyond the contract: a JSON object for the installation (directories, ports, names)."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise Invalid.at("options", "is not JSON", "an object") from None
    if not isinstance(found, Mapping):
        raise Invalid.at("options", "is not right", "an object")
    known = (*Options.__dataclass_fields__, "host_key")
    unknown = sorted(str(name) for name in found if name not in known)
    if unknown:
        raise Invalid.at(f"options.{unknown[0][:40]}", "is no option", ", ".join(known))
    return json.dumps(dict(found), sort_keys=True)
