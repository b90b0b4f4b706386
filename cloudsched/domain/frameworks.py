"""What is true of Spark and Flink clusters and jobs? Their requests, names, API states, and the order of launches.

Field names are those of the dcluster API; a field that is not named here is kept with the record and ignored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from cloudsched.domain.framework_fields import Fields

SPARK, FLINK = "spark", "flink"
KINDS = (SPARK, FLINK)
# What `type` may say -> kind.
TYPES = {"spark": SPARK, "spark3": SPARK, "flink": FLINK}
ORIGIN = SOURCE = "dcluster"
NAME_MOST = 63
_SUFFIX = re.compile(r"[A-Za-z0-9-]{0,20}", re.ASCII)
_URLS = {SPARK: re.compile(r"spark://[^\s/?#@]{1,300}"), FLINK: re.compile(r"https?://[^\s?#@]{1,300}")}
# The setting of a job that names a cluster that is not ours.
_EXTERNAL = {SPARK: ("spark.master",), FLINK: ("rest.url", "jobmanager.url")}

# State of a job of the core -> word of the API (contract "Jobs"); a job that is to be cancelled is TERMINATING.
JOB_WORDS = {"pending": "SUBMITTED", "held": "SUBMITTED", "queued": "SUBMITTED", "assigned": "QUEUED", "running": "RUNNING",
             "succeeded": "SUCCEEDED", "failed": "FAILED", "timeout": "FAILED", "cancelled": "TERMINATED"}
API_STATES = ("SUBMITTED", "QUEUED", "RUNNING", "SUCCEEDED", "FAILED", "TERMINATING", "TERMINATED")


@dataclass(frozen=True, slots=True)
class ModuleSpec:
    """An application of the module catalogue, for one request. `entry`: the absolute path of its `.py` or `.jar` on the
    server's machine; `arguments`: as they are passed (services.modules has filled them in); limits in seconds."""

    name: str
    kind: str
    entry: str
    main_class: str = ""
    arguments: tuple[str, ...] = ()
    time_limit_s: float | None = None
    alert_after_s: float | None = None
    max_retries: int = 0
    backoff_s: float = 10.0
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a cluster gets that does not say, and how many workers it may have at most."""

    workers: int = 1
    worker_cores_m: int = 1000
    worker_memory_mb: int = 1024
    master_cores_m: int = 500
    master_memory_mb: int = 512
    workers_max: int = 1000


@dataclass(frozen=True, slots=True)
class ClusterAsk:
    """A cluster as asked for. `options`: what only some places know (drivers.frameworks.ClusterWanted)."""

    kind: str
    type: str
    tenant: str
    workers: int
    worker_cores_m: int
    worker_memory_mb: int
    master_cores_m: int
    master_memory_mb: int
    suffix: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    idle_limit_s: float | None = None

    @property
    def cores_m(self) -> int:
        return self.workers * self.worker_cores_m + self.master_cores_m

    @property
    def memory_mb(self) -> int:
        return self.workers * self.worker_memory_mb + self.master_memory_mb

    def spec(self, request: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        """What is kept with the cluster: the request as it came, and what was understood."""
        plain = ("type", "workers", "worker_cores_m", "worker_memory_mb", "master_cores_m", "master_memory_mb")
        return {**{name: getattr(self, name) for name in plain}, "cores_m": self.cores_m, "memory_mb": self.memory_mb,
                "settings": dict(self.settings), "options": dict(self.options), "request": dict(request), **more}


@dataclass(frozen=True, slots=True)
class JobAsk:
    """A job as asked for. `external`: the address of a cluster that is not ours; `ask`: the cluster of its own."""

    kind: str
    client: str
    module: str
    cluster_name: str
    long_living: bool
    external: str
    keep_alive: bool
    driver_memory_mb: int
    executor_memory_mb: int
    cores_max: int
    settings: Mapping[str, str]
    arguments: tuple[str, ...]
    time_limit_s: float | None
    max_retries: int
    ask: ClusterAsk


# requests


def cluster_ask(kind: str, given: Mapping[str, Any], sizes: Sizes) -> ClusterAsk:
    """A request for a cluster, understood (seed: ClusterEntity). Raises Invalid naming every wrong field."""
    fields = Fields(given)
    words = tuple(word for word, of in TYPES.items() if of == kind)
    suffix = fields.text("clusterSuffix", most=20)
    if not _SUFFIX.fullmatch(suffix):
        fields.wrong("clusterSuffix", f"{suffix!r} does not fit into a name", "up to 20 letters, digits and -")
    found = ClusterAsk(
        kind=kind, type=fields.word("type", words, kind), tenant=fields.name("tenant", required=True),
        workers=fields.count("workers", sizes.workers, low=1, high=sizes.workers_max),
        worker_cores_m=fields.cores_m("workerCpu", sizes.worker_cores_m),
        worker_memory_mb=fields.memory_mb("workerMemory", sizes.worker_memory_mb),
        master_cores_m=fields.cores_m("masterCpu", sizes.master_cores_m),
        master_memory_mb=fields.memory_mb("masterMemory", sizes.master_memory_mb),
        suffix=suffix, settings=fields.settings("extraConfigs"), idle_limit_s=fields.seconds("idleLimitSeconds"),
        options={
            "on_demand_master": fields.flag("useOnDemandMaster"), "launch_new_node": fields.flag("launchNewNode"),
            "dynamic_disk": fields.flag("launchDynamicDisk"), "external_namespace": fields.flag("useExternalNamespace"),
        })
    fields.check()
    return found


def job_ask(given: Mapping[str, Any], module: ModuleSpec, sizes: Sizes, *, external_url: str = "") -> JobAsk:
    """A request for a job, understood (seed: JobsTableEntity). Raises Invalid naming every wrong field.

    `external_url`: the configured cluster for jobs with `useExternalCluster` that name none in `extraCmd`.
    """
    fields = Fields(given)
    client, name = fields.name("client", required=True), fields.name("module", required=True)
    for said in ("jobType", "moduleType"):
        word = fields.word(said, tuple(TYPES), module.kind)
        if TYPES[word] != module.kind:
            fields.wrong(said, f"module {module.name} is of the type {module.kind}", module.kind)
    settings = {**module.settings, **fields.settings("extraCmd")}
    external = _external(fields, module.kind, settings, external_url) if fields.flag("useExternalCluster") else ""
    worker_mb = fields.gigabytes_mb("workerMemGb", sizes.worker_memory_mb)
    workers = fields.count("numWorkers", sizes.workers, low=1, high=sizes.workers_max)
    worker_cores_m = fields.cores_m("workerCpu", sizes.worker_cores_m)
    shared = bool(external or fields.has("clusterName") or fields.flag("useLongLivingCluster"))
    sized = fields.has("numWorkers") or fields.has("workerCpu")
    own = ClusterAsk(
        kind=module.kind, type=module.kind, tenant=client, workers=workers, worker_cores_m=worker_cores_m,
        worker_memory_mb=worker_mb, master_cores_m=sizes.master_cores_m,
        master_memory_mb=fields.memory_mb("masterMemory", sizes.master_memory_mb),
        options={"external_namespace": fields.flag("useExternalNamespace"),
                 **({"image": fields.text("dockerImageName", most=500)} if fields.has("dockerImageName") else {}),
                 **({"worker_daemon_memory_mb": fields.memory_mb("workerDaemonMemory", 0)}
                    if fields.has("workerDaemonMemory") else {})})
    found = JobAsk(
        kind=module.kind, client=client, module=name, cluster_name=fields.name("clusterName"),
        long_living=fields.flag("useLongLivingCluster"), external=external, keep_alive=fields.flag("keepAlive"),
        driver_memory_mb=fields.gigabytes_mb("driverMemGb", 0), settings=settings,
        # 0: what the cluster has. On a cluster of its own that is what was asked for; on another only what the request says.
        executor_memory_mb=worker_mb if shared and fields.has("workerMemGb") else 0,
        cores_max=max(1, workers * worker_cores_m // 1000) if shared and sized else 0,
        arguments=module.arguments,
        time_limit_s=fields.seconds("timeLimitSeconds") or module.time_limit_s,
        max_retries=fields.count("maxRetries", module.max_retries, low=0, high=100), ask=own)
    fields.check()
    return found


def _external(fields: Fields, kind: str, settings: dict[str, str], configured: str) -> str:
    said = [settings.pop(key) for key in _EXTERNAL[kind] if key in settings]
    url = said[0] if said else configured
    if not url:
        fields.wrong("useExternalCluster", f"no cluster is named: set {_EXTERNAL[kind][0]} in extraCmd, or "
                     f"dcluster.external_{kind}_url in the configuration")
    elif not _is_external(kind, url):
        fields.wrong("extraCmd" if said else "useExternalCluster", f"{url[:100]!r} is not the address of a {kind} cluster",
                     "spark://HOST:PORT" if kind == SPARK else "http://HOST:PORT")
    return url


def external_hosts(kind: str, url: str) -> list[tuple[str, int]]:
    """(host, port) of each master that the address of a cluster of others names (`spark://A:7077,B:7077`). Raises ValueError."""
    if kind == FLINK:
        parts = urlsplit(url)
        return [(parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))]
    found = [urlsplit(f"spark://{one}") for one in url.removeprefix("spark://").split(",")]
    return [(one.hostname or "", one.port or 0) for one in found]


def _is_external(kind: str, url: str) -> bool:
    try:
        return bool(_URLS[kind].fullmatch(url)) and all(host and port for host, port in external_hosts(kind, url))
    except ValueError:
        return False


# names


def label(text: str, *, most: int = NAME_MOST) -> str:
    """The text as (a part of) a DNS label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:most].strip("-") or "x"


def cluster_key(ask: ClusterAsk, env: str, stamp: int) -> str:
    """`{type}-{env}-{tenant}-{timestamp}[-{suffix}]`: a DNS label of at most 63 characters (contract "Clusters").

    `stamp`: milliseconds since the epoch. What has to give way is the tenant's name.
    """
    head, tail = f"{ask.type}-{label(env, most=12)}-", f"-{stamp}" + (f"-{label(ask.suffix, most=20)}" if ask.suffix else "")
    return head + label(ask.tenant, most=NAME_MOST - len(head) - len(tail)) + tail


def long_living_name(kind: str, env: str, tenant: str) -> str:
    """What the tenant's long-living cluster is called, whichever one it is now. Tenants whose names look alike as a DNS label
    do not share one: what was changed about the name is told apart by a digest."""
    plain = f"{kind}-{label(env, most=12)}-{tenant}"
    found = label(plain, most=NAME_MOST - 12)
    if found != plain:
        digest = hashlib.sha256(tenant.encode()).hexdigest()[:8]
        found = label(plain, most=NAME_MOST - 21) + f"-{digest}"
    return found + "-long-living"


def active_key(client: str, module: str) -> str:
    """One job of this pair may be active at a time."""
    return f"{client}\n{module}"


def job_word(state: str, goal: str) -> str:
    """The API's word for a job's state."""
    return "TERMINATING" if goal == "cancel" and state in ("assigned", "running") else JOB_WORDS[state]


def states_of(word: str) -> tuple[tuple[str, ...], str]:
    """(states of the core, goal or empty) that an API word stands for; no states for an unknown word."""
    upper = word.strip().upper()
    if upper == "TERMINATING":
        return ("assigned", "running"), "cancel"
    states = tuple(state for state, said in JOB_WORDS.items() if said == upper)
    return states, "run" if upper in ("QUEUED", "RUNNING") else ""


# whose cluster is launched next


@dataclass(frozen=True, slots=True)
class Waiting:
    """A cluster that is to be launched."""

    id: int
    tenant: str
    cores_m: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Room:
    """What clusters may take: how many, cores in thousandths, MiB. None: as much as they like."""

    clusters: int | None = None
    cores_m: int | None = None
    memory_mb: int | None = None

    def takes(self, one: Waiting) -> bool:
        return (self._fits(self.clusters, 1) and self._fits(self.cores_m, one.cores_m)
                and self._fits(self.memory_mb, one.memory_mb))

    def without(self, clusters: int, cores_m: int, memory_mb: int) -> Room:
        """What is left when so much is taken."""
        return Room(*(None if have is None else have - less for have, less in
                      ((self.clusters, clusters), (self.cores_m, cores_m), (self.memory_mb, memory_mb))))

    @staticmethod
    def _fits(have: int | None, need: int) -> bool:
        return have is None or need <= have


def next_launches(waiting: Iterable[Waiting], running: Mapping[str, int], room: Room) -> list[Waiting]:
    """Which clusters are launched now: the tenant with fewest running first, then the oldest of it.

    The first that does not fit ends the round: it is not overtaken for ever by smaller ones. (What can never fit is not in
    `waiting`.) `waiting` is in the order of asking.
    """
    queues: dict[str, list[Waiting]] = {}
    for one in waiting:
        queues.setdefault(one.tenant, []).append(one)
    have = dict(running)
    chosen: list[Waiting] = []
    while queues:
        tenant = min(queues, key=lambda name: (have.get(name, 0), queues[name][0].id))
        one = queues[tenant].pop(0)
        if not room.takes(one):
            break
        room = room.without(1, one.cores_m, one.memory_mb)
        have[tenant] = have.get(tenant, 0) + 1
        chosen.append(one)
        if not queues[tenant]:
            del queues[tenant]
    return chosen


def backoff_s(attempts: int, *, first_s: float, most_s: float = 600.0) -> float:
    """Pause after this many attempts: doubled each time."""
    return float(min(most_s, first_s * 2.0 ** min(attempts, 30)))
