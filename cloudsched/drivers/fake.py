"""What would a cloud do, good and bad, if we could script it? Machines in memory (or in a file), faults on demand.

Faults are scheduled by name, in the options of the cloud or by `schedule`; each call that could show one takes the
first that fits. With a `state_dir` the world is kept in `<state_dir>/fake/<cloud>.json`, so that a restarted engine
finds it as it was, whoever asks.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.errors import Invalid

KIND = "Fake"

# What a fault does and in which calls it can show.
FAULTS: dict[str, frozenset[str]] = {
    "create_succeeds_answer_lost": frozenset({"boot"}),
    "half_created": frozenset({"boot"}),
    "quota": frozenset({"boot"}),
    "denied": frozenset({"boot"}),
    "slow": frozenset({"boot"}),
    "error_state": frozenset({"boot"}),
    "vanish": frozenset({"machines"}),
    "throttled": frozenset({"boot", "machines", "destroy"}),
    "auth_expired": frozenset({"boot", "machines", "destroy", "verify"}),
    "unreachable": frozenset({"boot", "machines", "destroy", "verify"}),
    "destroy_answer_lost": frozenset({"destroy"}),
    "destroy_ignored": frozenset({"destroy"}),
}
_REFUSALS: dict[str, tuple[str, int, bool]] = {
    "quota": ("the quota of this cloud is used up", base.QUOTA, False),
    "denied": ("the request was denied", base.DENIED, False),
    "throttled": ("too many requests: slow down", base.OTHER, True),
    "auth_expired": ("the credentials have expired", base.AUTH, False),
    "unreachable": ("the endpoint cannot be reached", base.ENDPOINT, True),
}
SLOW_FACTOR = 10


def make(place: Place) -> FakeDriver:
    """Options: `boot_s` (0), `capacity` (machines, none: no limit), `faults` (list of names or of
    `{"fault", "times", "name", "call"}`). Invalid when one of them is wrong."""
    return FakeDriver(place)


class FakeDriver:
    """A scripted cloud; `now` is any callable that gives seconds."""

    kind = KIND
    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST})

    def __init__(self, place: Place, *, now: Callable[[], float] = time.time) -> None:
        self._place = place
        self._now = now
        self._lock = threading.RLock()
        self._boot_s = _number(place.options.get("boot_s", 0), "boot_s")
        capacity = place.options.get("capacity")
        self._capacity = None if capacity in (None, "") else int(_number(capacity, "capacity"))
        self._file = _world_file(place)
        self._world = _new_world()
        scripted = [_fault(one) for one in place.options.get("faults") or ()]
        with self._using() as world:
            if not world["scripted"]:  # a restart must not show the faults of the options once more
                world["scripted"] = True
                world["faults"] += scripted

    # -- the script --------------------------------------------------------------------------------------------

    def schedule(self, fault: str, *, times: int = 1, name: str | None = None, call: str | None = None) -> None:
        """Let `fault` show `times` times (-1: until `clear_faults`), for that machine or call only when given."""
        with self._using() as world:
            world["faults"].append(_fault({"fault": fault, "times": times, "name": name, "call": call}))

    def clear_faults(self) -> None:
        with self._using() as world:
            world["faults"] = []

    def vanish(self, name: str) -> None:
        """The machine is gone, without a word to anybody."""
        with self._using() as world:
            world["machines"].pop(name, None)

    def set_state(self, name: str, state: str, *, reason: str = "") -> None:
        """The place shows that machine in `state` from now on."""
        with self._using() as world:
            world["machines"][name].update(state=state, reason=reason)

    @property
    def counters(self) -> dict[str, int]:
        """Calls made, machines created and destroyed, faults shown: `boot`, `created`, `fault:quota`, ..."""
        with self._using() as world:
            return dict(world["counters"])

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """The faults `auth_expired` and `unreachable` show here as checks that failed."""
        with self._using() as world:
            _count(world, "verify")
            shown = _take_fault(world, "verify", None)
        return [
            Check("endpoint", ok=shown != "unreachable", detail=_detail(shown, "unreachable")),
            Check("credentials", ok=shown is None, detail=_detail(shown, "auth_expired")),
        ]

    def boot(self, wanted: Wanted) -> Machine:
        """A machine that is `Starting` for `boot_s` seconds of the given clock, then `Running`."""
        _check_wanted(wanted)
        with self._using() as world:
            _count(world, "boot")
            shown = _take_fault(world, "boot", wanted.name)
            _refuse(shown)
            facts = world["machines"].get(wanted.name)
            if facts is None or facts["half"]:
                facts = self._create(world, wanted, shown)
        if shown == "half_created":
            raise DriverError("the machine was created only in part", code=base.OTHER)
        if shown == "create_succeeds_answer_lost":
            raise DriverError("no answer to the create request", code=base.ENDPOINT, transient=True)
        return self._machine(facts)

    def machines(self) -> list[Machine]:
        """All of this cloud and installation."""
        with self._using() as world:
            _count(world, "machines")
            shown = _take_fault(world, "machines", None, among=world["machines"])
            _refuse(shown)
            return [self._machine(facts) for facts in world["machines"].values()]

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Gone at once."""
        with self._using() as world:
            _count(world, "destroy")
            shown = _take_fault(world, "destroy", name)
            _refuse(shown)
            if shown != "destroy_ignored" and world["machines"].pop(name, None) is not None:
                _count(world, "destroyed")
        if shown == "destroy_answer_lost":
            raise DriverError("no answer to the destroy request", code=base.ENDPOINT, transient=True)

    # -- the world ---------------------------------------------------------------------------------------------

    def _create(self, world: dict[str, Any], wanted: Wanted, shown: str | None) -> dict[str, Any]:
        if wanted.name not in world["machines"]:
            if self._capacity is not None and len(world["machines"]) >= self._capacity:
                _refuse("quota")
            world["serial"] += 1
        _count(world, "created")
        boot_s = self._boot_s * (SLOW_FACTOR if shown == "slow" else 1)
        facts = {
            "name": wanted.name,
            "id": f"fake-{world['serial']}",
            "address": f"10.0.{world['serial'] // 250}.{world['serial'] % 250 + 1}",
            "ready": self._now() + boot_s,
            "half": shown == "half_created",
            "state": "Error" if shown == "error_state" else "",
            "reason": "the machine came up in error" if shown == "error_state" else "",
            "cores": wanted.cores,
            "memory_mb": wanted.memory_mb,
            "storage_gb": wanted.storage_gb,
        }
        world["machines"][wanted.name] = facts
        return facts

    def _machine(self, facts: Mapping[str, Any]) -> Machine:
        ready = self._now() >= facts["ready"] and not facts["half"]
        return Machine(
            name=facts["name"],
            external_id=facts["id"],
            state=facts["state"] or ("Running" if ready else "Starting"),
            hostname=facts["name"],
            address=facts["address"] if ready else "",
            handle={"id": facts["id"]},
            reason=facts["reason"],
        )

    @contextmanager
    def _using(self) -> Iterator[dict[str, Any]]:
        """The world, for one caller at a time; kept even when the caller was refused."""
        with self._lock:
            if self._file is None:
                yield self._world
                return
            with _locked_file(self._file) as handle:
                world = _load(handle)
                try:
                    yield world
                finally:
                    _save(handle, world)


def _new_world() -> dict[str, Any]:
    return {"serial": 0, "scripted": False, "machines": {}, "faults": [], "counters": {}}


def _world_file(place: Place) -> Path | None:
    if not place.state_dir:
        return None
    owner = "" if place.instance == "cloudsched" else quote(place.instance, safe="") + "@"
    return Path(place.state_dir) / "fake" / (owner + quote(place.name or "fake", safe="") + ".json")


@contextmanager
def _locked_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle
    finally:
        os.close(handle)


def _load(handle: int) -> dict[str, Any]:
    data = os.pread(handle, os.fstat(handle).st_size, 0)
    try:
        world = json.loads(data)
    except ValueError:
        return _new_world()
    return world if isinstance(world, dict) else _new_world()


def _save(handle: int, world: Mapping[str, Any]) -> None:
    data = json.dumps(world).encode()
    os.pwrite(handle, data, 0)
    os.ftruncate(handle, len(data))


def _take_fault(
    world: dict[str, Any], call: str, name: str | None, *, among: dict[str, Any] | None = None
) -> str | None:
    for fault in world["faults"]:
        if call not in FAULTS[fault["fault"]] or fault["call"] not in (None, call):
            continue
        if fault["fault"] == "vanish":
            if not _vanish(among or {}, fault["name"]):
                continue
        elif fault["name"] not in (None, name):
            continue
        fault["times"] -= 1
        if fault["times"] == 0:
            world["faults"].remove(fault)
        _count(world, "fault:" + fault["fault"])
        return str(fault["fault"])
    return None


def _vanish(machines: dict[str, Any], name: str | None) -> bool:
    victim = name if name is not None else next(iter(machines), None)
    return victim is not None and machines.pop(victim, None) is not None


def _refuse(shown: str | None) -> None:
    if shown in _REFUSALS:
        message, code, transient = _REFUSALS[shown]
        raise DriverError(message, code=code, transient=transient)


def _detail(shown: str | None, fault: str) -> str:
    return _REFUSALS[fault][0] if shown == fault else ""


def _count(world: dict[str, Any], what: str) -> None:
    world["counters"][what] = world["counters"].get(what, 0) + 1


def _fault(given: Any) -> dict[str, Any]:
    facts = {"fault": given} if isinstance(given, str) else dict(given)
    name = facts.get("fault")
    if name not in FAULTS:
        raise Invalid.at("faults", f"{name!r} is not a fault", ", ".join(FAULTS))
    call = facts.get("call")
    if call is not None and call not in FAULTS[name]:
        raise Invalid.at("faults", f"{name} does not show in {call!r}", ", ".join(sorted(FAULTS[name])))
    return {"fault": name, "times": int(facts.get("times", 1)), "name": facts.get("name"), "call": call}


def _check_wanted(wanted: Wanted) -> None:
    if not wanted.name or "\0" in wanted.name or len(wanted.name) > 255 or not wanted.name.isprintable():
        raise DriverError("name: must be 1 to 255 printable characters", code=base.REQUEST)
    for field, least in (("cores", 1), ("memory_mb", 0), ("storage_gb", 0), ("slots", 0)):
        if getattr(wanted, field) < least:
            raise DriverError(f"{field}: must be at least {least}", code=base.REQUEST)
    if not wanted.join_token:
        raise DriverError("join_token: is missing", code=base.REQUEST)


def _number(value: Any, field: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 1e12:
        raise Invalid.at(field, f"{value!r} is not a number", "0 or more")
    return number
