"""What do the answers of a HTCondor pool say: which jobs wait, which slots are registered?

Pure parsing, no process is run here. Blocks of ``Name = value`` lines separated by an empty line become
ads; ads become `QueuedJob` (contract 7.2) and `Slot` (contract 7.3). A line or an ad that cannot be used
is left out and named in the returned warnings, so that one odd line never costs the whole picture
(contract B25); an answer that is no ClassAd text at all, or was cut off, raises `AdError`.
"""

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Ad = dict[str, str]
"""One ad: attribute name in lower case to its value as text, strings without their quotes."""

_SHOWN_CHARS = 80
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"\Z')
_HEADERS = ("-- ", "All queues are empty", "Warning:")
_VM_TYPE = re.compile(r'(?<!\w)VMType\s*(?:=\?=|\bis\b)\s*"([^"]+)"', re.IGNORECASE)
_START_OWNER = re.compile(r'(?<!\w)Owner\s*==\s*"([^"]*)"', re.IGNORECASE)
_SLOT_PREFIX = re.compile(r"slot[^@]*@", re.IGNORECASE)
_KIB_PER_GB = 1_000_000  # the factor users of vm_reqs_from_condor_reqs have relied on
_TRUE = frozenset({"true", "yes", "on", "1"})


class AdError(ValueError):
    """The text as a whole cannot be trusted: no ClassAd in it, or it ends in the middle of one."""


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """One job of an external queue in plain facts (contract 7.2); defaults are already filled in."""

    id: str  # GlobalJobId
    user: str  # Owner
    cluster_id: int
    proc_id: int
    priority: int  # JobPrio, 1 when not given
    status: int  # JobStatus as reported: 0 new, 1 idle, 2 running, 3 removed, 4 complete, 5 held, 6 and up
    vm_type: str  # quoted word after `VMType =?=` in Requirements
    network: str  # VMNetwork; empty = any
    image_name: str  # VMName
    amis: Mapping[str, str]  # VMAMI: lower-case cloud name, or "default", to image
    instance_types: Mapping[str, str]  # VMInstanceType, same shape
    memory_mb: int  # VMMem
    cores: int  # VMCPUCores
    storage_gb: int  # VMStorage
    keep_alive_s: int  # VMKeepAlive (minutes there), limited by max_keepalive; 0 = not set
    high_priority: int  # VMHighPriority; 0 = no
    vm_type_limit: int  # VMTypeLimit; -1 = none
    job_per_core: bool  # VMJobPerCore
    maximum_price: float  # VMMaximumPrice, cents per hour; 0 = none
    targets: tuple[str, ...]  # TargetClouds as written, aliases not expanded
    security_groups: tuple[str, ...]  # VMSecurityGroup
    key_name: str | None  # VMKeyName
    user_data: tuple[str, ...]  # VMUserData: files
    ami_config: str | None  # VMAMIConfig
    inject_ca: bool  # VMInjectCA
    image_id: str | None  # VMImageID
    location: str | None  # VMLocation
    remote_host: str | None  # RemoteHost, e.g. slot1@host, while running
    server_time: int  # ServerTime, epoch seconds; 0 = not told
    job_start_time: int  # JobStartDate, epoch seconds; 0 = not started
    spool_dir: str | None  # Iwd
    x509userproxy: str | None
    x509userproxysubject: str | None
    original_x509userproxy: str | None  # SUBMIT_x509userproxy
    myproxy_server: str | None  # CSMyProxyServer
    myproxy_server_port: str | None  # CSMyProxyServerPort
    myproxy_creds_name: str | None  # CSMyProxyCredsName
    proxy_renew_time: str  # CSMyProxyRenewalTime, hours, "12" when not given
    proxy_non_boot: bool  # VMProxyNonBoot
    vmimage_proxy_file: str | None  # VMImageProxyFile

    @property
    def batch_id(self) -> str:
        """``CLUSTER.PROC``, the id the hold and release commands take."""
        return f"{self.cluster_id}.{self.proc_id}"

    @property
    def user_vm_type(self) -> str:
        return f"{self.user}:{self.vm_type}"


@dataclass(frozen=True, slots=True)
class Slot:
    """One registered slot of an external pool (contract 7.3)."""

    name: str  # Name, e.g. slot1@host
    machine: str  # Machine: host name
    state: str  # State: Owner, Unclaimed, Matched, Claimed, Preempting, Drained ...
    activity: str  # Activity: Idle, Busy, Retiring, Vacating ...
    address: str  # MyAddress of the start daemon
    master_address: str  # MasterIpAddr of the machine's master; empty = unknown
    vm_type: str  # VMType
    job_id: str | None  # JobId, e.g. 12.0
    global_job_id: str | None  # GlobalJobId
    start: str  # Start expression as text
    remote_owner: str | None  # RemoteOwner, e.g. alice@example.org
    user: str | None  # RemoteOwner up to @, else the owner the Start expression admits
    slot_type: str  # SlotType: Static, Partitionable, Dynamic
    total_slots: int  # TotalSlots of the machine
    my_current_time: int  # MyCurrentTime, epoch seconds; 0 = not told
    entered_current_state: int  # EnteredCurrentState, epoch seconds; 0 = not told


@dataclass(frozen=True, slots=True)
class JobDefaults:
    """Section ``[job]`` of the configuration: what a job gets that does not say (contract 6.1)."""

    vm_type: str = "default"
    network: str = ""
    image_name: str = "Default-Image"
    amis: Mapping[str, str] = field(default_factory=dict)
    instance_types: Mapping[str, str] = field(default_factory=dict)
    memory_mb: int = 512
    cores: int = 1
    storage_gb: int = 0
    maximum_price: float = 0.0
    proxy_non_boot: bool = False
    user_data: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    ami_config: str | None = None
    inject_ca: bool = True
    job_per_core: bool = False

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> "JobDefaults":
        """`section`: keys ``default_VMMem`` ... in any case, values as text or already typed.

        ValueError names the key whose value cannot be used. Keys of other meaning are ignored.
        """
        given = {key.lower(): value for key, value in section.items() if value is not None}
        found: dict[str, Any] = {}
        for name, (key, convert) in _DEFAULT_KEYS.items():
            if key.lower() not in given or given[key.lower()] == "":
                continue
            found[name] = _converted(key, given[key.lower()], convert)
        plain = given.get("default_vminstancetype")
        if plain and "default" not in found.get("instance_types", {}):
            found["instance_types"] = {"default": str(plain), **found.get("instance_types", {})}
        return cls(**found)


def parse_ads(text: str, *, wanted: Iterable[str] = ()) -> tuple[list[Ad], list[str]]:
    """Blocks of ``Name = value`` lines as ads, and a warning per line that is none (contract 7.2, B25).

    `wanted` limits the attributes kept (any case; empty = all): a long queue has a hundred per job of which
    forty are used. Blocks without one usable line are dropped.
    """
    keep = frozenset(name.lower() for name in wanted)
    ads: list[Ad] = []
    warnings: list[str] = []
    ad: Ad = {}
    for number, raw_line in enumerate(text.split("\n"), start=1):
        line = raw_line.strip()
        if not line:
            if ad:
                ads.append(ad)
                ad = {}
            continue
        name, equals, value = line.partition("=")
        name = name.rstrip()
        if not equals or not _NAME.match(name):
            if not line.startswith(_HEADERS):
                warnings.append(f"line {number} is not 'Name = value', skipped: {line[:_SHOWN_CHARS]!r}")
            continue
        name = name.lower()
        if not keep or name in keep:
            ad[name] = _unquoted(value.strip())
    if ad:
        ads.append(ad)
    return ads, warnings


def parse_jobs(
    text: str, defaults: JobDefaults, *, max_keep_alive_s: int, reqs_from_requirements: bool = False
) -> tuple[list[QueuedJob], list[str]]:
    """The answer of ``condor_q -l`` as jobs, and warnings (contract 7.2).

    `max_keep_alive_s` limits VMKeepAlive. `reqs_from_requirements` is vm_reqs_from_condor_reqs: memory,
    storage and cores the job does not name are taken from its Requirements. A job with an unusable number
    is skipped with a warning. AdError: the answer holds no ad, or its last one is cut off.
    """
    ads, warnings = parse_ads(text, wanted=_JOB_ATTRIBUTES)
    _refuse_garbage(text, ads, warnings, _JOB_IDENTITY)
    jobs = []
    for ad in ads:
        try:
            jobs.append(
                job_from_ad(
                    ad,
                    defaults,
                    max_keep_alive_s=max_keep_alive_s,
                    reqs_from_requirements=reqs_from_requirements,
                )
            )
        except ValueError as problem:
            warnings.append(f"job {ad.get('globaljobid', '(no GlobalJobId)')} skipped: {problem}")
    return jobs, warnings


def job_from_ad(
    ad: Ad, defaults: JobDefaults, *, max_keep_alive_s: int, reqs_from_requirements: bool = False
) -> QueuedJob:
    """One ad as a job; ValueError names the attribute that is missing or unusable (contract 7.2)."""
    for name in _JOB_IDENTITY:
        if not ad.get(name.lower()):
            raise ValueError(f"{name} is missing")
    if reqs_from_requirements:
        ad = {**_requests_in_requirements(ad), **ad}
    return QueuedJob(
        id=ad["globaljobid"],
        user=ad["owner"],
        cluster_id=_count(ad, "ClusterId", 0),
        proc_id=_count(ad, "ProcId", 0),
        priority=_integer(ad, "JobPrio", 1),
        status=_count(ad, "JobStatus", 0),
        vm_type=vm_type_in(ad.get("requirements", "")) or defaults.vm_type,
        network=ad.get("vmnetwork") or defaults.network,
        image_name=ad.get("vmname") or defaults.image_name,
        amis=cloud_values(ad.get("vmami", "")) or defaults.amis,
        instance_types=cloud_values(ad.get("vminstancetype", "")) or defaults.instance_types,
        memory_mb=_count(ad, "VMMem", defaults.memory_mb),
        cores=_count(ad, "VMCPUCores", defaults.cores),
        storage_gb=_count(ad, "VMStorage", defaults.storage_gb),
        keep_alive_s=min(max(_integer(ad, "VMKeepAlive", 0), 0) * 60, max_keep_alive_s),
        high_priority=_integer(ad, "VMHighPriority", 0),
        vm_type_limit=_integer(ad, "VMTypeLimit", -1),
        job_per_core=_boolean(ad, "VMJobPerCore", defaults.job_per_core),
        maximum_price=_decimal(ad, "VMMaximumPrice", defaults.maximum_price),
        targets=_words(ad.get("targetclouds", "")) or defaults.targets,
        security_groups=_words(ad.get("vmsecuritygroup", "")),
        key_name=ad.get("vmkeyname") or None,
        user_data=_words(ad.get("vmuserdata", "")) or defaults.user_data,
        ami_config=ad.get("vmamiconfig") or defaults.ami_config,
        inject_ca=_boolean(ad, "VMInjectCA", defaults.inject_ca),
        image_id=ad.get("vmimageid") or None,
        location=ad.get("vmlocation") or None,
        remote_host=ad.get("remotehost") or None,
        server_time=_integer(ad, "ServerTime", 0),
        job_start_time=_integer(ad, "JobStartDate", 0),
        spool_dir=ad.get("iwd") or None,
        x509userproxy=ad.get("x509userproxy") or None,
        x509userproxysubject=ad.get("x509userproxysubject") or None,
        original_x509userproxy=ad.get("submit_x509userproxy") or None,
        myproxy_server=ad.get("csmyproxyserver") or None,
        myproxy_server_port=ad.get("csmyproxyserverport") or None,
        myproxy_creds_name=ad.get("csmyproxycredsname") or None,
        proxy_renew_time=ad.get("csmyproxyrenewaltime") or "12",
        proxy_non_boot=_boolean(ad, "VMProxyNonBoot", defaults.proxy_non_boot),
        vmimage_proxy_file=ad.get("vmimageproxyfile") or None,
    )


def parse_slots(text: str, masters: Mapping[str, str]) -> tuple[list[Slot], list[str]]:
    """The answer of ``condor_status -l`` as slots, and warnings (contract 7.3).

    `masters`: lower-case machine name to master address, from `parse_masters`. Partitionable parents of a
    machine with more than one slot are left out. AdError as in `parse_jobs`.
    """
    ads, warnings = parse_ads(text, wanted=_SLOT_ATTRIBUTES)
    _refuse_garbage(text, ads, warnings, _SLOT_IDENTITY)
    slots = []
    for ad in ads:
        try:
            slot = slot_from_ad(ad, masters)
        except ValueError as problem:
            warnings.append(f"slot {ad.get('name', '(no Name)')} skipped: {problem}")
            continue
        if slot.slot_type.lower() != "partitionable" or slot.total_slots <= 1:
            slots.append(slot)
    return slots, warnings


def slot_from_ad(ad: Ad, masters: Mapping[str, str]) -> Slot:
    """One ad as a slot; ValueError names the attribute that is missing or unusable (contract 7.3)."""
    for name in _SLOT_IDENTITY:
        if not ad.get(name.lower()):
            raise ValueError(f"{name} is missing")
    return Slot(
        name=ad["name"],
        machine=ad["machine"],
        state=ad.get("state", ""),
        activity=ad.get("activity", ""),
        address=ad.get("myaddress", ""),
        master_address=masters.get(ad["machine"].lower(), ""),
        vm_type=ad.get("vmtype", ""),
        job_id=ad.get("jobid") or None,
        global_job_id=ad.get("globaljobid") or None,
        start=ad.get("start", ""),
        remote_owner=ad.get("remoteowner") or None,
        user=slot_user(ad.get("remoteowner", ""), ad.get("start", "")),
        slot_type=ad.get("slottype", ""),
        total_slots=_count(ad, "TotalSlots", 1),
        my_current_time=_integer(ad, "MyCurrentTime", 0),
        entered_current_state=_integer(ad, "EnteredCurrentState", 0),
    )


def parse_masters(text: str) -> tuple[dict[str, str], list[str]]:
    """The answer of ``condor_status -master -l``: lower-case Machine to MasterIpAddr, and warnings.

    Newer releases call the address MyAddress; it is used where MasterIpAddr is missing.
    """
    ads, warnings = parse_ads(text, wanted=("Name", "Machine", "MasterIpAddr", "MyAddress"))
    _refuse_garbage(text, ads, warnings, ("Machine",))
    masters = {}
    for ad in ads:
        address = ad.get("masteripaddr") or ad.get("myaddress")
        if ad.get("machine") and address:
            masters[ad["machine"].lower()] = address
        else:
            name = ad.get("name", "(no Name)")
            warnings.append(f"master {name} skipped: Machine or MasterIpAddr is missing")
    return masters, warnings


def vm_type_in(requirements: str) -> str:
    """The quoted word after ``VMType =?=``, one letter included (B24); empty when there is none."""
    found = _VM_TYPE.search(requirements)
    return found.group(1) if found else ""


def slot_user(remote_owner: str, start: str) -> str | None:
    """Whom a slot belongs to: RemoteOwner up to ``@``, else the word after ``Owner == "`` in Start."""
    owner = remote_owner.partition("@")[0].strip()
    if owner:
        return owner
    found = _START_OWNER.search(start)
    return found.group(1) or None if found else None


def same_machine(left: str, right: str) -> bool:
    """Do two host names mean one machine (contract 7.3, B26)?

    A ``slotN@`` prefix does not count; equal, or, unless one is an IP address, equal first labels.
    Case does not count; an empty name equals nothing.
    """
    left = _SLOT_PREFIX.sub("", left, count=1).strip().lower()
    right = _SLOT_PREFIX.sub("", right, count=1).strip().lower()
    if not left or not right:
        return False
    if left == right:
        return True
    if _is_address(left) or _is_address(right):
        return False
    return left.partition(".")[0] == right.partition(".")[0]


def cloud_values(text: str) -> dict[str, str]:
    """``cloud:value, cloud:value`` or one plain value as a mapping (contract 7.2, J4).

    Keys are lower-case cloud names (or network addresses); a plain value has the key ``default``. A URL is
    a plain value, not a cloud called ``http``.
    """
    values = {}
    for word in _words(text):
        cloud, colon, value = word.partition(":")
        if not colon or value.startswith("//"):
            values["default"] = word
        elif value.strip():
            values[cloud.strip().lower()] = value.strip()
    return values


def _unquoted(value: str) -> str:
    if value.startswith('"'):
        if _STRING.match(value):
            return value[1:-1].replace('\\"', '"')
    elif value.lower() == "undefined":
        return ""
    return value


def _refuse_garbage(text: str, ads: Sequence[Ad], warnings: Sequence[str], identity: Sequence[str]) -> None:
    """A picture is replaced only by a whole one: half an answer would make running jobs vanish."""
    if not ads:
        if warnings:
            raise AdError(f"the answer holds no ClassAd; {warnings[0]}")
        return
    missing = [name for name in identity if not ads[-1].get(name.lower())]
    if missing:
        raise AdError(f"the answer is cut off: its last ad has no {missing[0]}")
    last_line = text.rstrip(" \t").rpartition("\n")[2]
    if last_line and (last_line.count('"') - last_line.count('\\"')) % 2:
        raise AdError("the answer is cut off: its last line ends inside a string")


def _requests_in_requirements(ad: Ad) -> Ad:
    """VMMem, VMStorage and VMCPUCores as asked for in Requirements (vm_reqs_from_condor_reqs)."""
    found: Ad = {}
    for name, attribute in (("vmmem", "Memory"), ("vmstorage", "Disk"), ("vmcpucores", "Cpus")):
        amount = _asked(ad, attribute)
        if amount is None:
            continue
        if attribute == "Disk":
            amount = max(1, math.ceil(amount / _KIB_PER_GB))
        found[name] = str(amount)
    return found


def _asked(ad: Ad, attribute: str) -> int | None:
    pattern = rf"(?<!\w){attribute}\s*(>=|>|=\?=|==)\s*\(*\s*([0-9.]+|[A-Za-z_]\w*)"
    for operator, operand in re.findall(pattern, ad.get("requirements", ""), re.IGNORECASE):
        try:
            # HTCondor itself adds `TARGET.Memory >= RequestMemory`: the number is in that attribute.
            amount = math.ceil(float(ad.get(operand.lower(), operand)))
        except (ValueError, OverflowError):
            continue
        return amount + 1 if operator == ">" else amount
    return None


def _integer(ad: Ad, name: str, default: int) -> int:
    text = ad.get(name.lower(), "")
    return _converted(name, text, _whole) if text else default


def _count(ad: Ad, name: str, default: int) -> int:
    number = _integer(ad, name, default)
    if number < 0:
        raise ValueError(f"{name} is {number}, must not be negative")
    return number


def _decimal(ad: Ad, name: str, default: float) -> float:
    text = ad.get(name.lower(), "")
    return _converted(name, text, _number) if text else default


def _boolean(ad: Ad, name: str, default: bool) -> bool:
    text = ad.get(name.lower(), "")
    return text.lower() in _TRUE if text else default


def _converted(name: str, value: Any, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (ValueError, OverflowError):
        wanted = "a whole number" if convert is _whole else "a number"
        raise ValueError(f"{name} is {str(value)[:_SHOWN_CHARS]!r}, must be {wanted}") from None


def _whole(value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value):
        return int(value)
    number = float(value)
    if not number.is_integer() or abs(number) >= 1e18:
        raise ValueError("not a whole number")
    return int(number)


def _number(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not finite")
    return number


def _flag(value: Any) -> bool:
    return str(value).strip().lower() in _TRUE


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str):
        return tuple(str(word) for word in value)
    return tuple(word for word in (part.strip().strip('"').strip() for part in value.split(",")) if word)


def _by_cloud(value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(cloud).lower(): str(image) for cloud, image in value.items()}
    return cloud_values(str(value))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


_DEFAULT_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "vm_type": ("default_VMType", str),
    "network": ("default_VMNetwork", str),
    "image_name": ("default_VMName", str),
    "amis": ("default_VMAMI", _by_cloud),
    "instance_types": ("default_VMInstanceTypeList", _by_cloud),
    "memory_mb": ("default_VMMem", _whole),
    "cores": ("default_VMCPUCores", _whole),
    "storage_gb": ("default_VMStorage", _whole),
    "maximum_price": ("default_VMMaximumPrice", _number),
    "proxy_non_boot": ("default_VMProxyNonBoot", _flag),
    "user_data": ("default_VMUserData", _words),
    "targets": ("default_TargetClouds", _words),
    "ami_config": ("default_VMAMIConfig", str),
    "inject_ca": ("default_VMInjectCA", _flag),
    "job_per_core": ("default_VMJobPerCore", _flag),
}

_JOB_IDENTITY = ("GlobalJobId", "ClusterId", "ProcId", "Owner", "JobStatus")
_JOB_ATTRIBUTES = (
    *_JOB_IDENTITY, "JobPrio", "Requirements", "VMAMI", "VMInstanceType", "VMMem", "VMCPUCores", "VMStorage",
    "VMNetwork", "VMName", "VMKeepAlive", "VMHighPriority", "VMTypeLimit", "VMJobPerCore", "VMMaximumPrice",
    "TargetClouds", "VMSecurityGroup", "VMKeyName", "VMUserData", "VMAMIConfig", "VMInjectCA", "VMImageID",
    "VMLocation", "RemoteHost", "ServerTime", "JobStartDate", "Iwd", "x509userproxy", "x509userproxysubject",
    "SUBMIT_x509userproxy", "CSMyProxyServer", "CSMyProxyServerPort", "CSMyProxyCredsName",
    "CSMyProxyRenewalTime", "VMProxyNonBoot", "VMImageProxyFile",
    "RequestMemory", "RequestDisk", "RequestCpus",
)  # fmt: skip
_SLOT_IDENTITY = ("Name", "Machine")
_SLOT_ATTRIBUTES = (
    *_SLOT_IDENTITY, "State", "Activity", "MyAddress", "VMType", "JobId", "GlobalJobId", "Start",
    "RemoteOwner", "SlotType", "TotalSlots", "MyCurrentTime", "EnteredCurrentState",
)  # fmt: skip
