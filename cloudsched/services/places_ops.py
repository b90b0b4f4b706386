"""What more can be asked of a cloud than machines? Its hosts, their commands; its nodes; its objects; its batch work.

A driver says what it can (`capabilities`); what it can't is refused before anything is asked, with the reason. Every act is
an event with its actor before it begins; commands, manifests and outputs are no part of it: they may hold secrets.
"""

from __future__ import annotations

import inspect
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from decimal import Decimal
from importlib import import_module
from typing import Any

import msgspec

from cloudsched import clock
from cloudsched.domain.entities import Cloud
from cloudsched.drivers import base, registry
from cloudsched.drivers.base import DriverError
from cloudsched.errors import CloudschedError, Conflict, Invalid, NotFound, TooLarge, Unavailable, Unsupported
from cloudsched.services import pool, pool_clouds
from cloudsched.services.caller import Caller
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store.db import write

LOG_BYTES = 1 << 20
MOST_MANIFESTS = 1000

# What a capability lets one do, for the reason of a refusal.
_DOES = {
    base.RUN: "run commands on its hosts", base.FACTS: "tell facts of its hosts", base.PING: "ping its hosts",
    base.NODES: "list its nodes", base.DRAIN: "cordon and drain its nodes", base.TYPES: "list types of machines",
    base.PRICES: "tell prices", base.APPLY: "apply and delete manifests", base.BATCH: "take batch jobs",
    base.LOGS: "show logs of its pods",
}
Plain = dict[str, Any]


@dataclass(frozen=True)
class _Open:
    cloud: Cloud
    driver: Any


# Drivers keep connections: one for each cloud of this process, until what it is made from changes.
_kept: dict[int, tuple[tuple[str, ...], Any]] = {}
_lock = threading.Lock()


def capabilities(name: str, *, settings: Settings) -> Plain:
    """{"name", "kind", "capabilities": [...]}. Raises UnknownCloud, Invalid for options that no driver takes."""
    found = _opened(name, settings)
    return {"name": found.cloud.name, "kind": found.cloud.kind, "capabilities": sorted(found.driver.capabilities)}


# hosts


def run(name: str, command: str | Sequence[str], *, caller: Caller, settings: Settings, hosts: Sequence[str] | None = None,
        sudo: bool = False, timeout_s: float = 60.0) -> list[Plain]:
    """A command on all hosts or on those: per host `ok`, `error`, `message`, `seconds`, and of a command that ended `code`,
    `stdout`, `stderr`, `truncated`. One that cannot be reached is a result too."""
    found = _able(name, base.RUN, settings)
    note = {"hosts": list(hosts) if hosts is not None else "all", "sudo": sudo, "timeout_s": timeout_s}
    with _acting(found, "run", caller, note):
        results = found.driver.run_all(command if isinstance(command, str) else list(command), hosts=hosts, sudo=sudo,
                                       timeout_s=timeout_s)
    return [_of_host(one, plain(one.value) if one.value is not None else {}) for one in results]


def host_facts(name: str, *, settings: Settings, timeout_s: float = 30.0) -> list[Plain]:
    """Per host `ok`, `error`, `message`, `seconds`, and `facts` when it answered."""
    found = _able(name, base.FACTS, settings)
    with _asking():
        return [_of_host(one, {"facts": plain(one.value)}) for one in found.driver.facts_all(timeout_s=timeout_s)]


def ping(name: str, *, caller: Caller, settings: Settings, timeout_s: float = 15.0) -> list[Plain]:
    """Per host `ok`, `error`, `message`, and `ping_s`: there and back."""
    found = _able(name, base.PING, settings)
    with _acting(found, "ping", caller, {}):
        return [_of_host(one, {"ping_s": one.value}) for one in found.driver.ping_all(timeout_s=timeout_s)]


def _of_host(one: Any, more: Mapping[str, Any]) -> Plain:
    return {"host": one.host, "ok": one.ok, "error": one.error, "message": one.message, "transient": one.transient,
            "seconds": round(one.seconds, 3), **{key: value for key, value in more.items() if key not in ("host", "seconds")}}


# nodes of the place itself


def nodes(name: str, *, settings: Settings) -> list[Plain]:
    """The place's own nodes, as its driver describes them."""
    found = _able(name, base.NODES, settings)
    with _asking():
        return [plain(one) for one in found.driver.nodes()]


# Verb -> what a driver may call it.
_NODE_VERBS = {"cordon": ("cordon",), "uncordon": ("uncordon", "resume"), "drain": ("drain",), "resume": ("resume", "uncordon")}


def node_verb(name: str, node: str, verb: str, *, caller: Caller, settings: Settings,
              how: Mapping[str, Any] | None = None) -> Plain:
    """`cordon`, `uncordon`, `drain` or `resume` one of its nodes. `how`: what the kind of place takes for a drain (`reason`;
    `timeout_s`, `force`, `delete_local_data`). The answer holds `node`, `verb` and what the driver says."""
    found = _able(name, base.DRAIN, settings)
    act = next((getattr(found.driver, one) for one in _NODE_VERBS[verb] if hasattr(found.driver, one)), None)
    if act is None:
        raise Unsupported(f"{found.cloud.name} is a {found.cloud.kind} cloud, whose nodes know no {verb} (drain does it there)",
                          details={"cloud_kind": found.cloud.kind, "verb": verb})
    given = _fitting(act, how or {}, found.cloud.kind)
    if verb == "drain" and "reason" in inspect.signature(act).parameters:
        given.setdefault("reason", f"drained by {caller.name}")
    with _acting(found, f"node_{verb}", caller, {"node": node}):
        answer = act(node, **given)
    return {"node": node, "verb": verb, "result": plain(answer)}


def _fitting(act: Callable[..., Any], how: Mapping[str, Any], kind: str) -> Plain:
    known = list(inspect.signature(act).parameters)[1:]
    for key in how:
        if key not in known:
            raise Invalid.at(key, f"means nothing for a {kind} cloud", ", ".join(known) or "nothing")
    return dict(how)


# what can be had


def types(name: str, *, settings: Settings) -> list[Plain]:
    """Sizes of machine: `name`, `cores`, `memory_mb`, `storage_gb`, `gpus`, `price_per_hour` (null: nobody said), ..."""
    found = _able(name, base.TYPES, settings)
    with _asking():
        return [plain(one) for one in found.driver.types()]


def prices(name: str, *, settings: Settings) -> list[Plain]:
    """`instance_type`, `per_hour`, `currency`, `kind` (`on-demand` or `spot`), `zone`, `at`."""
    found = _able(name, base.PRICES, settings)
    with _asking():
        return [plain(one) for one in found.driver.prices()]


# objects


def apply(name: str, manifests: Sequence[Any] | str, *, caller: Caller, settings: Settings, dry_run: bool = False,
          force: bool = False, namespace: str | None = None) -> list[Plain]:
    """Manifests (a list of objects, or text of YAML or JSON documents): `kind`, `namespace`, `name`, `action`, `diff` each."""
    found = _able(name, base.APPLY, settings)
    given = documents(manifests)
    with _acting(found, "apply", caller, {"objects": _named(given), "dry_run": dry_run, "force": force}):
        done = found.driver.apply(given, dry_run=dry_run, force=force, namespace=namespace)
    return [{key: value for key, value in plain(one).items() if key != "object"} for one in done]


def delete(name: str, *, caller: Caller, settings: Settings, manifests: Sequence[Any] | str | None = None, labels: str = "",
           kinds: Sequence[str] = (), namespace: str | None = None, wait: bool = True, timeout_s: float = 120.0) -> list[Plain]:
    """Objects named by manifests, or all with these labels, with what they own: `kind`, `namespace`, `name`, `state` each."""
    found = _able(name, base.APPLY, settings)
    if bool(labels.strip()) == (manifests is not None):
        raise Invalid.at("manifests", "either manifests or labels name what is deleted", "one of the two")
    if manifests is not None:
        what: Any = documents(manifests)
        note: Plain = {"objects": _named(what)}
    else:
        more = {"kinds": tuple(kinds)} if kinds else {}
        what, note = _part(found.driver, "Selection")(labels, **more), {"labels": labels[:300]}
    with _acting(found, "delete", caller, {**note, "namespace": namespace}):
        done = found.driver.delete(what, wait=wait, timeout_s=timeout_s, namespace=namespace)
    return [plain(one) for one in done]


def documents(manifests: Sequence[Any] | str) -> list[Mapping[str, Any]]:
    """Manifests as objects. Raises Invalid naming what cannot be read; aliases are refused: a few lines of them are
    gigabytes."""
    found = _read_yaml(manifests) if isinstance(manifests, str) else list(manifests)
    if not found or len(found) > MOST_MANIFESTS:
        raise Invalid.at("manifests", f"{len(found)} documents", f"1 to {MOST_MANIFESTS} objects")
    for number, one in enumerate(found):
        if not isinstance(one, Mapping):
            raise Invalid.at(f"manifests[{number}]", "is no object")
    return found


def _read_yaml(text: str) -> list[Any]:
    import yaml  # type: ignore[import-untyped]

    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise Invalid.at("manifests", "has aliases", "YAML without * references")
        return [one for one in yaml.safe_load_all(text) if one is not None]
    except (yaml.YAMLError, RecursionError) as error:
        raise Invalid.at("manifests", f"is not YAML: {' '.join(str(error).split())[:300]}") from None


def _named(manifests: Sequence[Mapping[str, Any]]) -> list[str]:
    shown = [f"{one.get('kind')} {(one.get('metadata') or {}).get('name')}"[:200]
             for one in manifests[:50] if isinstance(one.get("metadata") or {}, Mapping)]
    return [*shown, *([f"and {len(manifests) - 50} more"] if len(manifests) > 50 else [])]


def pod_log(name: str, namespace: str, pod: str, *, caller: Caller, settings: Settings, container: str = "",
            tail: int = 1000, previous: bool = False) -> str:
    """The last lines of a container's log, at most 1 MiB of them."""
    found = _able(name, base.LOGS, settings)
    with _acting(found, "pod_log", caller, {"namespace": namespace, "pod": pod}):
        lines = found.driver.logs(pod, namespace=namespace, container=container, tail=tail, previous=previous)
        pieces, size = [], 0
        for line in itertools.islice(lines, tail):
            pieces.append(line.rstrip("\n"))
            size += len(pieces[-1]) + 1
            if size > LOG_BYTES:
                raise TooLarge(f"the log has more than {LOG_BYTES} bytes in these lines: ask for fewer")
    return "".join(f"{piece}\n" for piece in pieces)


# batch work


def batch_submit(name: str, jobs: Sequence[Mapping[str, Any]], *, caller: Caller, settings: Settings, key: str = "") -> list[str]:
    """Hand jobs to the engine itself; ids in their order. Members of a job are those of the kind's `BatchJob`; with a `key`
    it is safe to repeat where the kind takes one."""
    found = _able(name, base.BATCH, settings)
    shape = _part(found.driver, "BatchJob")
    given = [_job(shape, one, number) for number, one in enumerate(jobs)]
    more = _fitting(found.driver.submit, {"key": key} if key else {}, found.cloud.kind)
    with _acting(found, "batch_submit", caller, {"jobs": len(given)}):
        made = found.driver.submit(given, **more)
    return [one if isinstance(one, str) else str(one.name) for one in made]


def batch_states(name: str, ids: Sequence[str], *, settings: Settings) -> list[Plain]:
    """What each of these jobs is now: `id`, `state`, and what the engine tells; those it does not know are left out."""
    found = _able(name, base.BATCH, settings)
    with _asking():
        states = found.driver.states(list(ids))
    return [{**plain(one), "id": number, "state": one.state} for number, one in states.items()]


def batch_cancel(name: str, ids: Sequence[str], *, caller: Caller, settings: Settings) -> None:
    """End jobs; those that have ended are no error."""
    found = _able(name, base.BATCH, settings)
    with _acting(found, "batch_cancel", caller, {"ids": list(ids)[:50], "count": len(ids)}):
        found.driver.cancel(list(ids))


def _job(shape: type[Any], given: Mapping[str, Any], number: int) -> Any:
    known = [one.name for one in fields(shape)]
    for key in given:
        if key not in known:
            raise Invalid.at(f"jobs[{number}].{key}", "is not known", ", ".join(known))
    try:
        return msgspec.convert(dict(given), shape)
    except msgspec.ValidationError as error:
        raise Invalid.at(f"jobs[{number}]", str(error)) from None


def _part(driver: Any, name: str) -> Any:
    """A class that the driver's calls take, from where the driver itself has it."""
    return getattr(driver, name, None) or getattr(import_module(type(driver).__module__), name)


# the driver


def _able(name: str, capability: str, settings: Settings) -> _Open:
    """The cloud with its driver. Raises Unsupported when it lacks the capability, before anything is asked."""
    found = _opened(name, settings)
    if capability not in found.driver.capabilities:
        raise Unsupported(f"{found.cloud.name} is a {found.cloud.kind} cloud, which cannot {_DOES[capability]}: it lacks the "
                          f"capability {capability!r}",
                          details={"cloud_kind": found.cloud.kind, "capability": capability,
                                   "capabilities": sorted(found.driver.capabilities)})
    return found


def _opened(name: str, settings: Settings) -> _Open:
    cloud = pool.cloud_facts(name).cloud
    key = (cloud.name, cloud.kind, cloud.options, cloud.credentials, settings.state.dir)
    with _lock:
        made = _kept.get(cloud.id)
        if made is not None and made[0] == key:
            return _Open(cloud, made[1])
        driver = registry.make(pool_clouds.place_of(cloud, settings=settings))
        _kept[cloud.id] = (key, driver)
    if made is not None and hasattr(made[1], "close"):
        made[1].close()
    return _Open(cloud, driver)


@contextmanager
def _acting(found: _Open, verb: str, caller: Caller, note: Mapping[str, Any]) -> Iterator[None]:
    """Write down who does what, then let it be done."""
    write(lambda tx: events.append(tx, f"cloud.{verb}", ("cloud", found.cloud.id), at=clock.now(), actor=caller.name,
                                   name=found.cloud.name, **({"of": dict(note)} if note else {})))
    with _asking():
        yield


@contextmanager
def _asking() -> Iterator[None]:
    """A refusal of the place as the kind of error that it is."""
    try:
        yield
    except DriverError as error:
        raise _meant(error) from None


def _meant(error: DriverError) -> CloudschedError:
    details = dict(error.details)
    if conflicts := getattr(error, "conflicts", None):
        return Conflict(error.message, details={**details, "conflicts": conflicts})
    if getattr(error, "status", None) == 404:
        return NotFound(error.message, details=details)
    if error.code == base.REQUEST:
        return Invalid(error.message, details=details)
    if error.code in (base.QUOTA, base.DENIED):
        return Conflict(error.message, details=details)
    if error.transient:
        return Unavailable(error.message, details=details)
    return error


def plain(value: Any) -> Any:
    """What drivers answer as JSON knows it; exceptions and objects without a shape of their own are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)
                if not isinstance(getattr(value, one.name), BaseException)}
    if isinstance(value, Mapping):
        return {"/".join(key) if isinstance(key, tuple) else str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return float(value) if isinstance(value, Decimal) else value
