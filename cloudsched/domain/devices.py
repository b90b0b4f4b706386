"""What does a device report, and what follows from it? Profiles and samples as they come, and the facts made of them.

Two kinds of profile come in: that of our agent (docs/design/agent-protocol.md) and that of native workers (contract 10.1).
Their members do not collide, and ours may carry both. Contract 10.2 says what is derived.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cloudsched.domain.admission import BATCH_KINDS
from cloudsched.domain.tasks import kind_of, type_of

ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}\Z")
ID_RULE = "1 to 128 characters of A-Z a-z 0-9 . _ : @ -, not `summary`"
RESERVED_IDS = frozenset({"summary"})
DEFAULT_ROLE, MACHINE_ROLE = "worker", "compute"
DEFAULT_CAPACITY = 2
TEXT_MAX, LIST_MAX, TAG_MAX = 1000, 200, 200
NUMBER_MAX = 1e12
# A name of a kind of job that a device may announce.
KIND = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,99}\Z")
_GROUPS = ("computational", "services", "automation")
_SHOWN_GROUP = {"services": "network_services"}
_INTERNET_TAG = "internet"


@dataclass(frozen=True, slots=True)
class Facts:
    """What a profile says, in one shape. Sizes of the whole machine; 0: not said."""

    kinds: frozenset[str] = BATCH_KINDS
    announced: bool = False  # did it say what it runs?
    os: str = ""
    role: str = ""
    tags: frozenset[str] = frozenset()
    gpus: int = 0  # one that is said to be there counts as one
    internet: bool = True
    cores: int = 0
    memory_mb: int = 0
    storage_gb: float = 0.0
    capacity: int = 0  # 0: not said
    arch: str = ""
    python_version: str = ""
    hostname: str = ""
    description: str = ""
    agent_version: str = ""
    groups: Mapping[str, tuple[str, ...]] | None = None
    interfaces: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    listed_capabilities: tuple[str, ...] = ()

    @property
    def gpu(self) -> bool:
        """Has it a GPU?"""
        return self.gpus > 0

    def capabilities(self) -> tuple[str, ...]:
        """Contract 10.2: names of the groups that hold something; a reported list as it is."""
        if self.listed_capabilities:
            return self.listed_capabilities
        return tuple(_SHOWN_GROUP.get(name, name) for name, members in (self.groups or {}).items() if members)


@dataclass(frozen=True, slots=True)
class Sample:
    """The numbers of one heartbeat; None: not measured. Usages in percent, counters in bytes."""

    cpu: float | None = None
    memory: float | None = None
    disk: float | None = None
    sent: float | None = None
    received: float | None = None

    def __bool__(self) -> bool:
        return not (self.cpu is None and self.memory is None and self.disk is None and self.sent is None
                    and self.received is None)


def is_id(text: object) -> bool:
    """May a device be called so? Contract 2."""
    return isinstance(text, str) and bool(ID.match(text)) and text not in RESERVED_IDS


def facts_of(profile: Mapping[str, Any]) -> Facts:
    """The facts of a profile, whatever it holds: what is no fact is left out."""
    details = _mapping(profile.get("platform_details"))
    groups, listed = _groups(profile.get("capabilities"))
    tags = frozenset(_texts(profile.get("tags"), most=TAG_MAX))
    kinds = _kinds(profile)
    return Facts(
        kinds=BATCH_KINDS if kinds is None else kinds, announced=kinds is not None,
        os=_os(profile, details), role=_text(profile.get("role"))[:100].lower(), tags=tags,
        gpus=max(min(1000, math.ceil(_number(profile.get("gpus")))),
                 int(profile.get("has_gpu") is True or _computes_on_gpu(groups, listed))),
        internet=profile.get("internet") is not False or _INTERNET_TAG in tags,
        cores=int(_number(profile.get("cpu_count")) or _number(profile.get("cores"))),
        memory_mb=_memory_mb(profile), storage_gb=_number(profile.get("storage_total_gb")) or _number(profile.get("storage_gb")),
        capacity=min(100_000, int(_number(profile.get("max_concurrent_tasks")) or _number(profile.get("slots")))),
        arch=_text(details.get("machine")) or _text(profile.get("arch")),
        python_version=_text(details.get("python_version")) or _text(profile.get("python_version")),
        hostname=_text(profile.get("hostname")), description=_text(profile.get("description")),
        agent_version=_text(profile.get("agent_version")), groups=groups,
        interfaces=_texts(profile.get("network_interfaces")), sensors=_texts(profile.get("sensors")), listed_capabilities=listed)


def sample_of(metrics: Mapping[str, Any] | None) -> Sample:
    """The numbers of a heartbeat (contract 10.1); usages outside 0..100 and what is not finite are left out."""
    if not metrics:
        return Sample()
    return Sample(
        _percent(metrics.get("cpu_usage")), _percent(metrics.get("memory_usage")), _percent(metrics.get("storage_usage")),
        _counter(metrics.get("network_bytes_sent")), _counter(metrics.get("network_bytes_recv")))


def cleaned(value: Any, *, depth: int = 6) -> Any:
    """What a stranger sent, fit to be kept and shown: finite numbers, texts of bounded length, lists and objects of bounded
    size; everything else is None. NUL characters are replaced: no database takes them."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (int, float)):
        return value if math.isfinite(value) and abs(value) <= 2**63 else None
    if isinstance(value, str):
        return value[:TEXT_MAX].replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if depth <= 0:
        return None
    if isinstance(value, Mapping):
        return {cleaned(str(name), depth=0): cleaned(member, depth=depth - 1) for name, member in list(value.items())[:LIST_MAX]}
    if isinstance(value, (list, tuple)):
        return [cleaned(member, depth=depth - 1) for member in value[:LIST_MAX]]
    return None


def battery_of(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Contract 10.2: {level, charging}, or None."""
    level = _percent(metrics.get("battery_percent"))
    if level is None:
        return None
    return {"level": int(level) if level == int(level) else level, "charging": bool(metrics.get("battery_charging"))}


def used_gb(total_gb: float, percent: float | None) -> float:
    """Contract 10.2: total x percent, never total minus free."""
    return rounded(total_gb * (percent or 0.0) / 100, 2)


def rounded(value: float, digits: int = 1) -> float:
    """Half away from zero (contract 15)."""
    scale = 10.0 ** digits
    # What is a half in decimal is a little less or more in binary: a nudge of the last bits makes it one again.
    moved = abs(value) * scale
    found = math.floor(moved + 0.5 + moved * 1e-12) / scale
    return math.copysign(found, value) if found else 0.0


def percent(part: float, whole: float) -> float:
    """100 x part / whole with one decimal; 0.0 of nothing."""
    return rounded(100.0 * part / whole) if whole else 0.0


def covered(intervals: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Length of the union of intervals inside [begin, end]."""
    total, reached = 0.0, begin
    for first, last in sorted(intervals):
        from_here, to_there = max(first, reached), min(last, end)
        if to_there > from_here:
            total += to_there - from_here
            reached = to_there
    return total


# reading what a stranger wrote


def _kinds(profile: Mapping[str, Any]) -> frozenset[str] | None:
    """What it runs, as kinds of jobs: our `kinds`, or the `supported_task_types` of a worker; None when it does not say."""
    ours, types = profile.get("kinds"), profile.get("supported_task_types")
    if not isinstance(ours, list) and not isinstance(types, list):
        return None
    found = {name for name in _texts(ours, most=LIST_MAX) if KIND.match(name)}
    return frozenset(found | {kind_of(name) for name in _texts(types, most=LIST_MAX) if KIND.match(name)})


def types_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """Kinds of jobs in the words of the contract, sorted."""
    return tuple(sorted({type_of(kind) for kind in kinds}))


def _os(profile: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    name = _text(profile.get("platform")).lower() or _text(profile.get("os")).lower()
    return "android" if details.get("is_android") is True and name in ("linux", "android", "") else name[:100]


def _memory_mb(profile: Mapping[str, Any]) -> int:
    total_gb = _number(profile.get("memory_total_gb"))
    return int(rounded(total_gb * 1024, 0)) if total_gb else int(_number(profile.get("memory_mb")))


def _groups(given: Any) -> tuple[dict[str, tuple[str, ...]] | None, tuple[str, ...]]:
    if isinstance(given, Mapping):
        return {name: _texts(given.get(name)) for name in _GROUPS}, ()
    return None, _texts(given)


def _computes_on_gpu(groups: Mapping[str, Sequence[str]] | None, listed: Sequence[str]) -> bool:
    return "gpu_compute" in listed or "gpu_compute" in (groups or {}).get("computational", ())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value[:TEXT_MAX].replace("\0", "\ufffd") if isinstance(value, str) else ""


def _texts(value: Any, *, most: int = LIST_MAX) -> tuple[str, ...]:
    given: Sequence[Any] = value if isinstance(value, (list, tuple)) else ()
    return tuple(_text(item) for item in given[:most] if isinstance(item, str) and item)


def _number(value: Any) -> float:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and 0 < value <= NUMBER_MAX else 0.0


def _percent(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100
    return float(value) if good else None


def _counter(value: Any) -> float | None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 2**63
    return float(value) if good else None
