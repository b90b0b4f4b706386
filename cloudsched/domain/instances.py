"""What is a resource instance? What was asked for, checked field by field; its amounts, its states, its names on Kubernetes.

Fields go by the names they have on the wire (contract kboss, `new_cpcpodyaml`), because a refusal names them. The manifests
are made in `instance_manifests`.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

from cloudsched.domain.moves import Moves
from cloudsched.errors import FieldError, Invalid

ALWAYS, ON_FAILURE, NEVER = RESTARTS = ("Always", "OnFailure", "Never")
STATEFUL_SET, DEPLOYMENT, DAEMON_SET, CRON_JOB, JOB, STANDALONE = (
    "StatefulSet", "Deployment", "DaemonSet", "CronJob", "Job", "Standalone")
# Which restart policies the controllers take.
ENGINES: Mapping[str, tuple[str, ...]] = {
    STATEFUL_SET: (ALWAYS,), DEPLOYMENT: (ALWAYS,), DAEMON_SET: (ALWAYS,), CRON_JOB: (ON_FAILURE, NEVER),
    JOB: (ON_FAILURE, NEVER), STANDALONE: RESTARTS,
}
SCALED = (STATEFUL_SET, DEPLOYMENT)
LINUX, DATABASE = KINDS = ("LinuxOS", "RelationalDB")
NODE_PORT, INGRESS, LOAD_BALANCER = PORT_MODES = ("NodePort", "Ingress", "LoadBalancer")
NODE_PORTS = range(30000, 32768)
PORTS = range(1, 65536)
REPLICAS_MOST, GPUS_MOST = 1000, 64
SYSTEM_DISK, DATA_DISK = "SYS", "DATA"  # models of the part type `disk`
GPU = "nvidia.com/gpu"
HOURLY = "0 * * * *"
KEY_CHARS = 21

# wanted: on its way into the cluster (new, changed or started again). failed: nothing of it holds stock any more.
STATES: Moves = {
    "wanted": {"apply": "applied", "halt": "stopped", "restore": "applied", "fail": "failed", "delete": "deleting"},
    "applied": {"change": "wanted", "stop": "wanted", "delete": "deleting"},
    "stopped": {"change": "wanted", "delete": "deleting"},
    "failed": {"change": "wanted", "delete": "deleting"},
    "deleting": {"end": "deleted"},
    "deleted": {},
}
HOLDING = ("wanted", "applied", "stopped", "deleting")  # states whose amounts are in the books
KEPT = (*HOLDING, "failed")  # what lists show

Amounts = list[tuple[str, str, int]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One field that is wrong. `sort`: missing, choice, quantity, range, form, clash, fixed; `allowed` in its own words."""

    field: str
    sort: str
    allowed: str = ""
    given: str = ""

    @property
    def message(self) -> str:
        return _SAID[self.sort].format(given=self.given)


_SAID = {
    "missing": "is missing", "choice": "{given!r} is none of those allowed", "quantity": "{given!r} is not a quantity",
    "range": "{given!r} is out of range", "form": "{given!r} has not the right form", "clash": "{given} is taken",
    "fixed": "cannot be changed to {given!r}",
}


class InvalidInstance(Invalid):
    """What was asked for cannot be; `faults` are for dialects that speak other languages."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        shown = "; ".join(f"{one.field}: {one.message}" + (f" (allowed: {one.allowed})" if one.allowed else "") for one in faults)
        super().__init__(shown, errors=[FieldError(one.field, one.message, one.allowed or None) for one in faults])
        self.faults = tuple(faults)


class _Bad(Exception):
    def __init__(self, sort: str, allowed: str = "") -> None:
        self.sort, self.allowed = sort, allowed


# -- what is asked for -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """One instance as asked for. Texts are kept as they came (`source_cpurate` "1000m"); the numbers are below."""

    source_name: str
    source_authuser: str
    source_podengine: str
    source_replicasetnum: int
    instance_type: str
    pod_imagepath: str
    source_memrate: str
    source_cpurate: str
    source_selflabel: str
    source_gpu: int
    source_portmode: str
    source_restartpolicy: str
    source_apiport: int
    source_insideport: int
    source_outsideport: int
    source_mountpath: str
    source_storagelimits: str
    source_nodeselector: str
    cpu_model: str = ""
    gpu_model: str = ""
    memory_model: str = ""
    disk_sys_limit: str = ""
    source_replicasetmax: int = 0
    source_schedule: str = ""
    source_command: str = ""

    @property
    def cpu_m(self) -> int:
        return cpu_thousandths(self.source_cpurate)

    @property
    def memory_mi(self) -> int:
        return memory_mi(self.source_memrate)

    @property
    def storage_gi(self) -> int:
        return disk_gi(self.source_storagelimits)

    @property
    def system_gi(self) -> int:
        return disk_gi(self.disk_sys_limit)

    @property
    def pods(self) -> int:
        """How many there are at most."""
        return max(self.source_replicasetnum, self.source_replicasetmax)

    @property
    def labels(self) -> dict[str, str]:
        return pairs(self.source_selflabel, "source_selflabel")

    @property
    def node_selector(self) -> dict[str, str]:
        return pairs(self.source_nodeselector, "source_nodeselector")

    def amounts(self) -> Amounts:
        """What it holds, as (type, model, amount) in base units: cpu thousandths, memory Mi, disk Gi, gpu cards."""
        lines = (("cpu", self.cpu_model, self.cpu_m), ("memory", self.memory_model, self.memory_mi),
                 ("disk", SYSTEM_DISK, self.system_gi), ("disk", DATA_DISK, self.storage_gi),
                 ("gpu", self.gpu_model, self.source_gpu))
        return [(sort, model, amount * self.pods) for sort, model, amount in lines if amount]

    def as_fields(self) -> dict[str, Any]:
        """By wire name, as they are kept; the password is not among them."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


def read(given: Mapping[str, Any], *, was: Spec | None = None) -> Spec:
    """What was asked for, from wire fields as text or numbers; `was` stands in for fields that are not given.

    Raises InvalidInstance with every field that is wrong.
    """
    faults: list[Fault] = []
    found: dict[str, Any] = {}
    for name, (reader, default) in _READERS.items():
        value = given.get(name)
        if value is None and was is not None:
            found[name] = getattr(was, name)
            continue
        text = "" if value is None else str(value).strip()
        if not text and default is None:
            faults.append(Fault(name, "missing", _ALLOWED.get(name, "")))
            continue
        try:
            found[name] = reader(text) if text else default
        except _Bad as bad:
            faults.append(Fault(name, bad.sort, bad.allowed or _ALLOWED.get(name, ""), text[:100]))
    faults += _together(found)
    if faults:
        raise InvalidInstance(faults)
    return Spec(**found)


def check_password(given: Any, *, required: bool = True) -> str:
    """The password as it was given. Raises InvalidInstance at `source_authpasswd`; its text is not repeated."""
    text = "" if given is None else str(given)
    allowed = "1..128"
    if not text and not required:
        return ""
    if not text:
        raise InvalidInstance([Fault("source_authpasswd", "missing", allowed)])
    if len(text) > 128 or not text.isprintable():
        raise InvalidInstance([Fault("source_authpasswd", "form", allowed, "***")])
    return text


def _together(found: Mapping[str, Any]) -> list[Fault]:
    """What fits each field but not the others."""
    engine, faults = found.get("source_podengine", ""), []
    restart = found.get("source_restartpolicy")
    if engine in ENGINES and restart and restart not in ENGINES[engine]:
        faults.append(Fault("source_restartpolicy", "choice", f"{', '.join(ENGINES[engine])} ({engine})", restart))
    most, least = found.get("source_replicasetmax") or 0, found.get("source_replicasetnum") or 0
    if most and engine and engine not in SCALED:
        faults.append(Fault("source_replicasetmax", "choice", f"0 ({engine})", str(most)))
    elif most and most < least:
        faults.append(Fault("source_replicasetmax", "range", f"{least}..{REPLICAS_MOST}", str(most)))
    if engine == STANDALONE and least > 1:
        faults.append(Fault("source_replicasetnum", "range", "1 (Standalone)", str(least)))
    if found.get("source_storagelimits") and found.get("source_mountpath") == "":
        faults.append(Fault("source_mountpath", "missing", _ALLOWED["source_mountpath"]))
    if found.get("source_portmode") != NODE_PORT and "source_outsideport" in found:
        return faults  # it is of no use there, and the front end sends one all the same
    port = found.get("source_outsideport")
    if port and port not in NODE_PORTS:
        faults.append(Fault("source_outsideport", "range", _ALLOWED["source_outsideport"], str(port)))
    return faults


# -- quantities and pairs --------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"(\d{1,15}(?:\.\d{1,9})?)([numkMGTPE]|[KMGTPE]i)?")
_FACTORS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1), "k": Decimal(10**3),
            "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15), "E": Decimal(10**18),
            **{letter + "i": Decimal(2 ** (10 * power)) for power, letter in enumerate("KMGTPE", 1)}}
_MI, _GI = Decimal(2**20), Decimal(2**30)


def cpu_thousandths(text: str) -> int:
    """`500m`, `2`, `0.5` -> thousandths of a core."""
    return _whole(_number(text) * 1000)


def memory_mi(text: str) -> int:
    """`512Mi`, `2Gi` -> Mi, rounded up."""
    return _whole(_number(text) / _MI)


def disk_gi(text: str) -> int:
    """`49Gi`, `1Ti` -> Gi, rounded up; a plain number is Gi already; nothing is 0."""
    if not text:
        return 0
    return _whole(_number(text) / (1 if text.isdigit() else _GI))


def _number(text: str) -> Decimal:
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise _Bad("quantity")
    return Decimal(found[1]) * _FACTORS[found[2] or ""]


def _whole(value: Decimal) -> int:
    return int(value.to_integral_value(rounding="ROUND_CEILING"))


_LABEL_PART = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_PREFIX = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*")
_OURS = ("cloudsched.io", "kubernetes.io", "k8s.io")


def pairs(text: str, field: str = "") -> dict[str, str]:
    """`app:web,tier=db` -> labels. Raises InvalidInstance at `field`."""
    try:
        return _pairs(text)
    except _Bad as bad:
        raise InvalidInstance([Fault(field, bad.sort, _ALLOWED["source_selflabel"], text[:100])]) from None


def _pairs(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in (one.strip() for one in text.split(",") if one.strip()):
        key, sign, value = re.sub(r"\s*[=:]\s*", "=", part, count=1).partition("=")
        prefix, _, name = key.rpartition("/")
        good = sign and _LABEL_PART.fullmatch(name) and (not value or _LABEL_PART.fullmatch(value))
        if not good or (prefix and (len(prefix) > 253 or not _LABEL_PREFIX.fullmatch(prefix))):
            raise _Bad("form")
        found[key] = value
    return found


# -- readers of single fields ----------------------------------------------------------------------------------

Reader = Callable[[str], Any]
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}")
_IMAGE = re.compile(r"(?=.{1,512}\Z)(?:(?:localhost|[a-zA-Z0-9-]+(?:\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9-]+(?=:))(?::\d{1,5})?/)?"
                    r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*"
                    r"(?::\w[\w.-]{0,127})?(?:@sha256:[0-9a-f]{64})?")
_PATH = re.compile(r"(?:/[A-Za-z0-9._+@-]+)+/?")
_CRON_PART = re.compile(r"(?:\*|\d{1,2}(?:-\d{1,2})?)(?:/\d{1,2})?(?:,(?:\*|\d{1,2}(?:-\d{1,2})?)(?:/\d{1,2})?)*")
_SYSTEM_PATHS = ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")


def _one_of(allowed: Iterable[str]) -> Reader:
    by_lower = {one.lower(): one for one in allowed}

    def reader(text: str) -> str:
        found = by_lower.get(text.lower())
        if found is None:
            raise _Bad("choice")
        return found

    return reader


def _whole_number(low: int, high: int) -> Reader:
    def reader(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or not low <= int(text[:10]) <= high or len(text) > 10:
            raise _Bad("range")
        return int(text)

    return reader


def _like(pattern: re.Pattern[str], sort: str = "form") -> Reader:
    def reader(text: str) -> str:
        if not pattern.fullmatch(text):
            raise _Bad(sort)
        return text

    return reader


def _amount(measure: Callable[[str], int], most: int, *, least: int = 1) -> Reader:
    def reader(text: str) -> str:
        if not least <= measure(text) <= most:
            raise _Bad("range")
        return text if measure(text) else ""

    return reader


def _text(most: int) -> Reader:
    def reader(text: str) -> str:
        if len(text) > most or not text.isprintable():
            raise _Bad("form")
        return text

    return reader


def _command(text: str) -> str:
    if len(text) > 4096 or "\0" in text:
        raise _Bad("form")
    return text


def _labels(text: str) -> str:
    if any(key.rpartition("/")[0].endswith(_OURS) for key in _pairs(text)):
        raise _Bad("form")
    return text


def _selector(text: str) -> str:
    _pairs(text)
    return text


def _mount(text: str) -> str:
    path = text.rstrip("/") or "/"
    parts = path.split("/")
    if not _PATH.fullmatch(text) or ".." in parts or "." in parts or path in _SYSTEM_PATHS or len(path) > 255:
        raise _Bad("form")
    return path


def _schedule(text: str) -> str:
    parts = text.split()
    limits = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
    if len(parts) != len(limits) or not all(_CRON_PART.fullmatch(one) for one in parts):
        raise _Bad("form")
    for part, (low, high) in zip(parts, limits, strict=True):
        if any(not low <= int(one) <= high for one in re.findall(r"(?<![/\d])\d+", part)) or "/0" in part:
            raise _Bad("form")
    return " ".join(parts)


_DISK_MOST_GI, _MEMORY_MOST_MI, _CPU_MOST_M = 1 << 20, 1 << 26, 10_000_000
# Field -> how it is read, and what it is when empty; None: it must be given.
_READERS: Mapping[str, tuple[Reader, Any]] = {
    "source_name": (_text(100), None),
    "source_authuser": (_like(_USER), None),
    "source_podengine": (_one_of(ENGINES), STATEFUL_SET),
    "source_replicasetnum": (_whole_number(1, REPLICAS_MOST), 1),
    "instance_type": (_one_of(KINDS), LINUX),
    "pod_imagepath": (_like(_IMAGE), None),
    "source_memrate": (_amount(memory_mi, _MEMORY_MOST_MI), None),
    "source_cpurate": (_amount(cpu_thousandths, _CPU_MOST_M), None),
    "source_selflabel": (_labels, ""),
    "source_gpu": (_whole_number(0, GPUS_MOST), 0),
    "source_portmode": (_one_of(PORT_MODES), NODE_PORT),
    "source_restartpolicy": (_one_of(RESTARTS), ALWAYS),
    "source_apiport": (_whole_number(1, 65535), None),
    "source_insideport": (_whole_number(1, 65535), None),
    "source_outsideport": (_whole_number(0, 65535), 0),
    "source_mountpath": (_mount, ""),
    "source_storagelimits": (_amount(disk_gi, _DISK_MOST_GI, least=0), ""),
    "source_nodeselector": (_selector, ""),
    "cpu_model": (_text(200), ""),
    "gpu_model": (_text(200), ""),
    "memory_model": (_text(200), ""),
    "disk_sys_limit": (_amount(disk_gi, _DISK_MOST_GI, least=0), ""),
    "source_replicasetmax": (_whole_number(0, REPLICAS_MOST), 0),
    "source_schedule": (_schedule, ""),
    "source_command": (_command, ""),
}
FIELDS = tuple(_READERS)
_ALLOWED = {
    "source_name": "1..100", "source_authuser": "[A-Za-z_][A-Za-z0-9_.-]{0,31}", "source_podengine": ", ".join(ENGINES),
    "source_replicasetnum": f"1..{REPLICAS_MOST}", "instance_type": ", ".join(KINDS),
    "pod_imagepath": "[registry[:port]/]name[:tag][@sha256:...]", "source_memrate": "512Mi, 2Gi",
    "source_cpurate": "500m, 2, 0.5",
    "source_selflabel": "key:value,key=value", "source_gpu": f"0..{GPUS_MOST}", "source_portmode": ", ".join(PORT_MODES),
    "source_restartpolicy": ", ".join(RESTARTS), "source_apiport": "1..65535", "source_insideport": "1..65535",
    "source_outsideport": f"{NODE_PORTS.start}..{NODE_PORTS.stop - 1}", "source_mountpath": "/mnt/data",
    "source_storagelimits": "0, 20Gi, 1Ti", "source_nodeselector": "key=value,key=value", "disk_sys_limit": "0, 20Gi",
    "source_replicasetmax": f"0..{REPLICAS_MOST}", "source_schedule": "minute hour day month weekday",
    "source_command": "1..4096", "cpu_model": "1..200", "gpu_model": "1..200", "memory_model": "1..200",
}


# -- names -----------------------------------------------------------------------------------------------------

_OTHER = re.compile(r"[^a-z0-9-]")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_NANOID = re.compile(r"[A-Za-z0-9_-]{21}")
_LETTERS, _ALPHABET = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789"


@dataclass(frozen=True, slots=True)
class Names:
    """What the objects of one instance are called. `key` is the label that all of them carry."""

    key: str
    namespace: str
    account: str
    controller: str
    service: str

    def of(self, ending: str) -> str:
        return f"{self.key}-{ending}"

    @property
    def secret(self) -> str:
        return self.of("secret")

    @property
    def claim(self) -> str:
        return self.of("claim")


def new_key() -> str:
    """21 lower-case letters and digits, a letter first: a name on Kubernetes as it is, also of a Service."""
    return secrets.choice(_LETTERS) + "".join(secrets.choice(_ALPHABET) for _ in range(KEY_CHARS - 1))


def dns_label(text: str) -> str:
    """Lower-cased and fit for a name on Kubernetes; an id that begins or ends with a sign gets an `x` there.

    Ids of the 21-character form stay recognisable (contract kboss); any other text that is changed by this, or is too
    long, gets a hash, so that no two are taken for one another.
    """
    plain = _OTHER.sub("-", text.lower())
    plain = ("x" if plain[:1] in ("-", "") else "") + plain + ("x" if plain[-1:] == "-" else "")
    if (plain == text or _NANOID.fullmatch(text)) and len(plain) <= 30:
        return plain
    mark = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain[:20].rstrip('-')}-{mark}"


def names_of(key: str, *, cluster: str, org: str, engine: str) -> Names:
    """The names of contract kboss, `new_cpcpodyaml`."""
    namespace = f"{dns_label(cluster)}-{dns_label(org or 'default')}"
    label = dns_label(key)
    return Names(label, namespace, f"{namespace}-serviceaccount", f"{label}-{engine.lower()}", f"{label}-service")


def is_label(text: str, most: int = 63) -> bool:
    """May an object on Kubernetes be called so?"""
    return len(text) <= most and bool(_DNS_LABEL.fullmatch(text))
