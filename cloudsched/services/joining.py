"""How does a machine come in? With the token it was booted with, or with a token of a pool."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from cloudsched import clock
from cloudsched.domain.submission import invalid
from cloudsched.errors import Conflict, Gone, Invalid, NotFound, Unauthenticated
from cloudsched.services import fleet_config, nodelogs, registering
from cloudsched.services.agent_rules import digest, rules
from cloudsched.services.caller import Caller
from cloudsched.store import clouds, jobs, nodes
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

AGENT_CLOUD = "agents"
# A job that an agent does not name for this long after it was handed out has never reached it.
UNCLAIMED_GRACE_S = 5.0


PROFILE_MAX = 1 << 18


class Profile(msgspec.Struct):
    """What a machine says of itself. Unknown members are kept in `facts`."""

    cores: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    storage_gb: Annotated[int, Meta(ge=0, le=1 << 40)] = 0
    slots: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    hostname: Annotated[str, Meta(max_length=1000)] = ""
    device_id: Annotated[str, Meta(max_length=1000)] | None = None


class JoinRequest(msgspec.Struct):
    profile: msgspec.Raw
    token: str = ""
    name: Annotated[str, Meta(max_length=200)] | None = None
    instance: Annotated[str, Meta(max_length=100)] = ""


_join = msgspec.json.Decoder(JoinRequest)
_profile = msgspec.json.Decoder(Profile)


def join(body: bytes, address: str) -> dict[str, Any]:
    """A machine comes in with a token, or a device from near by without one; returns what it needs from now on.

    Raises Unauthenticated, Forbidden, Conflict, Gone, Invalid.
    """
    request, profile = _parse_join(body)
    secret = clock.new_token()
    number, name = write(lambda tx: _admit(tx, request, profile, digest(secret), address))
    lease_s, heartbeat_s = rules.lease_s, rules.heartbeat_s
    if profile.device_id is not None:
        fleet = fleet_config.current()
        lease_s, heartbeat_s = fleet.offline_threshold_s, fleet.heartbeat_interval_s
    return {"node_id": number, "name": name, "secret": secret, "lease_s": lease_s, "heartbeat_s": heartbeat_s,
            "long_poll_s": rules.long_poll_s, "logs": nodelogs.told(number)}


def _parse_join(body: bytes) -> tuple[JoinRequest, Profile]:
    try:
        request = _join.decode(body)
        profile = _profile.decode(request.profile)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    if len(request.profile) > PROFILE_MAX:
        raise Invalid.at("profile", f"has {len(request.profile)} bytes", f"at most {PROFILE_MAX}")
    for field, text in (("name", request.name), ("instance", request.instance), ("profile.hostname", profile.hostname)):
        if text and "\0" in text:
            raise Invalid.at(field, "holds a NUL character")
    if request.name and (not request.name.isprintable() or request.name.isdigit() or request.name != request.name.strip()):
        raise Invalid.at("name", f"{request.name!r} is no name of a node", "printable characters, not digits alone")
    return request, profile


def _admit(tx: Tx, request: JoinRequest, profile: Profile, secret_hash: str, address: str) -> tuple[int, str]:
    at = clock.now()
    token_hash = digest(request.token)
    booted = nodes.by_token(tx, token_hash) if request.token else None
    if booted is not None:
        return _booted_joins(tx, booted, request, profile, secret_hash, address, at)
    if profile.device_id is not None:
        facts = _registration(request, profile, secret_hash, address, at)
        number, name = registering.agent_joins(tx, profile.device_id, json.loads(bytes(request.profile)), facts,
                                               token=request.token, address=address, at=at)
        _doubt_earlier(tx, number, at)
        return number, name
    return _machine_joins(tx, token_hash, request, profile, secret_hash, address, at)


def _booted_joins(tx: Tx, row: tuple[Any, ...], request: JoinRequest, profile: Profile, secret_hash: str, address: str,
                  at: float) -> tuple[int, str]:
    number, state = row
    if state not in ("requested", "starting", "running"):
        raise Gone("this node has ended")
    facts = _registration(request, profile, secret_hash, address, at)
    node = nodes.get(number)
    assert node is not None
    move(tx, "node", number, "run", at=at, status="Running", running_at=at, status_changed_at=at,
         boot_s=at - (node.boot_requested_at or at), note={"by": "join"})
    if node.hostname:  # the cloud's word counts more than what a machine calls itself
        facts.pop("hostname")
    nodes.update(tx, number, event="node.join", at=at, note={"address": address}, **facts)
    registering.remember(tx, number, node.name, json.loads(bytes(request.profile)), at=at, seen_at=node.last_seen_at)
    _doubt_earlier(tx, number, at)
    return number, node.name


def _machine_joins(tx: Tx, token_hash: str, request: JoinRequest, profile: Profile, secret_hash: str, address: str,
                   at: float) -> tuple[int, str]:
    name = request.name or f"{profile.hostname or 'node'}-{clock.new_suffix(6)}"
    known = nodes.by_name(name)
    again = known is not None and known.state in ("starting", "running")
    found = nodes.use_join_token(tx, token_hash, at=at, new_node=not again)
    if found is None:
        raise Unauthenticated("the join token is not valid (unknown, used up or expired)")
    facts = _registration(request, profile, secret_hash, address, at)
    if again and known is not None:
        if json.loads(known.handle).get("pool") != token_hash:
            raise Conflict(f"another machine named {name} is here: choose another name")
        nodes.update(tx, known.id, event="node.join", at=at, note={"address": address}, **facts)
        registering.remember(tx, known.id, name, json.loads(bytes(request.profile)), at=at, seen_at=known.last_seen_at)
        _doubt_earlier(tx, known.id, at)
        return known.id, name
    if known is not None:
        name = f"{name}-{clock.new_suffix(4)}"
    cloud_id, user, vm_type = found
    number = nodes.insert(tx, {
        "name": name, "external_id": name, "cloud_id": cloud_id, "state": "running", "status": "Running", "user": user,
        "vm_type": vm_type, "cores": profile.cores, "memory_mb": profile.memory_mb, "storage_gb": profile.storage_gb,
        "slots": profile.slots or profile.cores, "boot_requested_at": at, "running_at": at,
        "handle": json.dumps({"pool": token_hash}),
        **facts}, at=at, event="node.join", note={"address": address})
    registering.remember(tx, number, name, json.loads(bytes(request.profile)), at=at, seen_at=None)
    return number, name


def _registration(request: JoinRequest, profile: Profile, secret_hash: str, address: str, at: float) -> dict[str, Any]:
    return {"secret_hash": secret_hash, "instance": request.instance or "-", "facts": bytes(request.profile).decode(),
            "hostname": profile.hostname, "address": address, "registered_at": at, "last_seen_at": at, "idle_since": at}


def _doubt_earlier(tx: Tx, number: int, at: float) -> None:
    """The agent may have kept its jobs over a reconnect: its first `holding` says so; what it does not name goes back."""
    jobs.doubt(tx, number, at=at - UNCLAIMED_GRACE_S)


def new_pool_token(caller: Caller, *, cloud: str = AGENT_CLOUD, user: str = "", vm_type: str = "", ttl_s: float | None = 86_400,
                   uses: int | None = None) -> dict[str, Any]:
    """A token with which machines may join the given cloud (default: the pool of machines that came by themselves)."""
    caller.require("operator")
    token = clock.new_token()
    at = clock.now()
    expires = at + ttl_s if ttl_s else None

    def make(tx: Tx) -> None:
        found = clouds.by_name(cloud)
        if found is None and cloud != AGENT_CLOUD:
            raise NotFound(f"there is no cloud {cloud}")
        cloud_id = found.id if found else clouds.insert(
            tx, {"name": AGENT_CLOUD, "title": AGENT_CLOUD, "kind": "Agent", "max_slots": -1, "enabled": 1, "position": 9999,
                 "address": "", "source": "system"}, at=at, actor=caller.name)
        nodes.add_join_token(tx, digest(token), cloud_id=cloud_id, user=user, vm_type=vm_type, uses=uses, expires_at=expires,
                             at=at)

    write(make)
    return {"token": token, "expires_at": clock.rfc3339(expires)}
