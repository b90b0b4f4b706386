"""What can be set? One frozen dataclass per section, and `Settings`, which holds them all.

The table of keys, defaults and meanings is here and nowhere else; docs/reference/settings.md is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from cloudsched.classic.server_conf import GeneralConf, JobDefaults, LoggingConf

from .centres import Centres
from .dcluster import Dcluster
from .declare import Key, boolean, declared, integer, names, networks, path, seconds, secret, secrets, text, url, word

LEVELS = ("VERBOSE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DAY_S = 86400.0
_PORT = {"low": 0, "high": 65535}
_AUTO = ("auto", "yes", "no")


@dataclass(frozen=True)
class State:
    """Where one instance keeps everything."""

    dir: str = path("", "Directory that holds everything of this instance: database, keys, logs, job files.",
                    shown_default="/var/lib/cloudsched for root, else ~/.local/state/cloudsched")


@dataclass(frozen=True)
class Listen:
    """Addresses and ports. A port of 0 switches that listener off."""

    bind: str = text("127.0.0.1", "Address all listeners bind, unless they have one of their own below.")
    cloud_scheduler_info: int = integer(8111, "Port of the cloud_scheduler dialect for reading.", **_PORT)
    cloud_scheduler_admin: int = integer(8112, "Port of the cloud_scheduler dialect for operations.", **_PORT)
    native: int = integer(8100, "Port of the native API and the dashboard.", **_PORT)
    logkit: int = integer(8090, "Port of the logkit dialect: the master that log agents register with.", **_PORT)
    retire_cluster: int = integer(8081, "Port of the retire_cluster dialect: devices and tasks over HTTP.", **_PORT)
    retire_cluster_tcp: int = integer(8082, "Port of the native protocol of retire_cluster workers (no HTTP).", **_PORT)
    kboss: int = integer(8088, "Port of the kboss dialect: compute centres, their clusters, instances and parts.", **_PORT)
    dcluster: int = integer(8080, "Port of the dcluster dialect: Spark and Flink clusters and their jobs.", **_PORT)
    cloud_scheduler_bind: str = text("", "Address of the two cloud_scheduler listeners.",
                                     shown_default="listen.bind")
    native_bind: str = text("", "Address of the native listener.", shown_default="listen.bind")
    logkit_bind: str = text("", "Address of the logkit listener.", shown_default="listen.bind")
    retire_cluster_bind: str = text("", "Address of the two retire_cluster listeners.", shown_default="listen.bind")
    kboss_bind: str = text("", "Address of the kboss listener.", shown_default="listen.bind")
    dcluster_bind: str = text("", "Address of the dcluster listener.", shown_default="listen.bind")
    port_offset: int = integer(0, "Added to every port, so that instances run side by side.",
                               low=0, high=57000)
    public_url: str = text("", "URL under which nodes reach the native API.",
                           shown_default="made from the native listener")


@dataclass(frozen=True)
class Access:
    """Who may come in. Beyond loopback, a dialect answers only with keys or an allow-list."""

    require_keys: str = word("auto", "Keys on the native API: yes always, no never (loopback only), auto: as "
                                     "soon as a key exists, and always beyond loopback.", words=_AUTO)
    cloud_scheduler_networks: tuple[str, ...] = networks(
        "Networks that may call the cloud_scheduler dialect, which has no keys. Loopback always may.")
    native_networks: tuple[str, ...] = networks(
        "Networks that may call the native API. Empty: any, with a key.")
    logkit_networks: tuple[str, ...] = networks(
        "Networks that may call the logkit dialect, which has no keys: those of its log agents and their "
        "administrators. Loopback always may.")
    retire_cluster_networks: tuple[str, ...] = networks(
        "Networks that may call the retire_cluster dialect, and whose machines may join without a token while "
        "retire_cluster.join_token is not set. Empty: any may call, with a key; those of this machine may join. Loopback "
        "always may.")
    kboss_networks: tuple[str, ...] = networks(
        "Networks that may call the kboss dialect. Empty: any may call, with a key. Loopback always may.")
    dcluster_networks: tuple[str, ...] = networks(
        "Networks that may call the dcluster dialect, which has no keys. Loopback always may.")


@dataclass(frozen=True)
class Database:
    """Where rows are kept."""

    url: str = url("", "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME.",
                   shown_default="sqlite, the file cloudsched.db in the state directory")

    @property
    def is_sqlite(self) -> bool:
        return self.url.startswith("sqlite:")


@dataclass(frozen=True)
class Web:
    """The web processes."""

    workers: int = integer(1, "Web processes. More than 1 is for PostgreSQL.", low=1, high=64)
    threads: int = integer(64, "Threads of each web process; a held request keeps one.", low=4, high=1024)
    max_body_mb: int = integer(32, "Largest request body; beyond it the answer is 413.", low=1, high=4096)
    long_poll_max_s: float = seconds(30, "Longest time a request is held.", low=0, high=300)
    long_poll_waiting_max: int = integer(
        48, "Requests held at once by one process; further ones are not held.", low=0, high=1000)
    operation_wait_s: float = seconds(300, "Longest wait of a call that answers only when machines are proved gone.",
                                      low=0, high=86400)
    shutdown_grace_s: float = seconds(10, "Time running requests get when the server stops.", low=0, high=600)


@dataclass(frozen=True)
class Engine:
    """The loops that act by themselves. An interval is the pause after the work."""

    job_poller_interval_s: float = seconds(5, "Pause of the loop that reads the job queue.",
                                           low=0.05, high=3600)
    machine_poller_interval_s: float = seconds(5, "Pause of the loop that reads the registered machines.",
                                               low=0.05, high=3600)
    node_poller_interval_s: float = seconds(5, "Pause of the loop that asks the clouds for their machines.",
                                            low=0.05, high=3600)
    scheduler_interval_s: float = seconds(5, "Pause of the loop that decides and boots.",
                                          low=0.05, high=3600)
    cleanup_interval_s: float = seconds(5, "Pause of the loop that retires and destroys.",
                                        low=0.05, high=3600)
    sweep_interval_s: float = seconds(60, "Pause of the search for machines without a row, and rows without "
                                          "a machine.", low=0.05, high=86400)
    lease_s: float = seconds(15, "A loop whose leader is silent for this long is taken over.", low=1, high=60)
    boot_threads: int = integer(8, "Boots in parallel.", low=1, high=256)
    destroy_threads: int = integer(10, "Destroys in parallel.", low=1, high=256)


@dataclass(frozen=True)
class Agent:
    """What the server tells its agents."""

    lease_s: float = seconds(60, "A job whose agent is silent for this long is given to another.",
                             low=2, high=3600)
    heartbeat_s: float = seconds(10, "Longest silence of an agent that is well.", low=0.2, high=600)
    long_poll_s: float = seconds(20, "How long an agent may wait for work in one request.", low=0, high=30)
    output_limit_mb: int = integer(16, "Kept of each output stream of a job; the rest is not kept, and the job says so.",
                                   low=0, high=65536)
    run_as: str = text("auto", "User that jobs of local agents run as; auto: an unprivileged user when "
                               "started by root, else the user who started.")


@dataclass(frozen=True)
class Logkit:
    """The master of log agents, and what it wants of them."""

    enable: bool = boolean(True, "Off: every route but `ping` and `ismaster` answers 400.")
    response_style: str = word("document", "Bodies of answers: bare as in the document, or in the envelope that "
                                           "the web front end expects. A path or header may ask for the other.",
                               words=("document", "envelope"))
    refuse_not_ok: bool = boolean(False, "Refuse an operation for all when one of the agents is not ok.")
    desired_state: bool = boolean(False, "Remember operations that came over the logkit dialect, and repeat them "
                                         "for agents that were away. What is applied to a tag over the native API "
                                         "is always remembered.")
    fan_out: int = integer(1000, "Calls to agents under way at once; never more than half of the open files that "
                                 "the process may have.", low=1, high=20_000)
    connect_timeout_s: float = seconds(3, "Time limit for reaching an agent.", low=0.05, high=60)
    read_timeout_s: float = seconds(10, "Time limit for reading from all agents, in total.", low=0.1, high=300)
    change_timeout_s: float = seconds(60, "Time limit for an operation on all agents, in total.", low=0.1, high=600)
    answer_max_mb: int = integer(16, "Largest answer taken from one agent.", low=1, high=1024)
    config_max_mb: int = integer(4, "Largest runner configuration taken.", low=1, high=64)
    agents_max: int = integer(50_000, "Most agents on the list.", low=1, high=1_000_000)
    check_interval_s: float = seconds(30, "How often it is checked whether an agent still has what is wanted.",
                                      low=0.05, high=86400)
    attempts_max: int = integer(10, "Refusals of an agent after which a runner is given up there, until it is applied "
                                    "again.", low=1, high=1000)
    on_nodes: bool = boolean(False, "Nodes get a log agent beside their agent: what jobs write, and what the agents say, "
                                    "outlives the machine. A cloud's option `log_agent` (true, false, or a tag) goes first. "
                                    "Holds for a node from its next join on.")
    node_tag: str = text("nodes", "Tag of the log agents of nodes.")
    node_masters: str = text("", "Masters that log agents of nodes register with: URLs, comma between.",
                             shown_default="the logkit listener, where nodes can reach it")
    node_networks: tuple[str, ...] = networks(
        "Networks that may call the log agents of nodes, which have no keys. Empty: only the node itself; what is wanted "
        "on their tag is then told them through the agent.")
    node_flush_s: float = seconds(10, "How long a machine that is taken away may still deliver its logs.", low=0, high=600)
    node_spool_mb: int = integer(64, "Disk space of a node for what its log agent has not read yet; beyond it, output of "
                                     "jobs that have ended is dropped and counted.", low=1, high=65536)
    node_queue_mb: int = integer(256, "Disk space of a node for what could not be delivered yet.", low=1, high=65536)
    node_rate_mb: float = seconds(8, "MB of logs taken from one node in a second.", low=0.01, high=10_000)
    node_file_mb: int = integer(8, "Size at which a file of collected logs is followed by the next.", low=1, high=1024)
    node_keep_mb: int = integer(64, "Kept of each node; the oldest file goes first.", low=1, high=1 << 20)
    nodes_keep_mb: int = integer(4096, "Kept of all nodes together.", low=1, high=1 << 30)
    node_keep_days: float = seconds(30, "Collected logs older than this are removed; 0 keeps them for ever.", low=0,
                                    high=36500)


@dataclass(frozen=True)
class RetireCluster:
    """Retired machines that join by themselves, and the tasks they run."""

    auth: str = word("auto", "Keys on the retire_cluster dialect: yes, no, auto: as soon as there is a key, and always "
                             "beyond loopback (unless access.retire_cluster_networks says who may call).", words=_AUTO)
    api_keys: tuple[str, ...] = secrets("Keys of this dialect beside those of the system, each KEY, KEY:read, KEY:write or "
                                        "KEY:admin (the same as KEY).")
    rate_limit: bool = boolean(True, "Count requests of each key, or of each address without one.")
    read_limit: int = integer(1000, "Reading requests in a window.", low=1, high=1_000_000_000)
    write_limit: int = integer(100, "Changing requests in a window.", low=1, high=1_000_000_000)
    rate_window_s: float = seconds(900, "Length of a window; it begins with the first request.", low=1, high=86400)
    streams_max: int = integer(10, "Monitor streams of one caller at once.", low=1, high=10_000)
    cors: bool = boolean(True, "Let web pages of other origins read the answers (never with credentials).")
    cors_origins: tuple[str, ...] = names(("*",), "Origins that may; * is any.")
    join_token: str = secret("", "Token with which machines join and native workers speak. Empty: those of this machine, and "
                                 "of access.retire_cluster_networks, need none.")
    allow_legacy_workers: bool = boolean(False, "Let workers without the token register and report. They never get tasks.")
    spill_over: bool = boolean(False, "Boot cloud machines for tasks that no machine here can take now.")
    heartbeat_interval_s: int = integer(60, "Pause between heartbeats of devices. May be changed while the server runs.",
                                        low=10, high=300)
    offline_threshold_s: int = integer(300, "A device that is silent for longer is offline and loses its tasks. May be "
                                            "changed while the server runs.", low=30, high=3600)
    task_timeout_s: int = integer(3600, "Longest time limit of a task. May be changed while the server runs.",
                                  low=1, high=86400)
    max_connections: int = integer(100, "Connections of native workers at once. May be changed while the server runs.",
                                   low=1, high=1000)
    tls_certificate: str = path("", "PEM file with the certificate of the native protocol's port. Empty: no TLS there.")
    tls_key: str = path("", "PEM file with its private key.", shown_default="retire_cluster.tls_certificate")
    task_retention_days: float = seconds(30, "Ended tasks older than this are removed; 0: with other jobs "
                                             "(jobs.retention_days).", low=0, high=36500)


@dataclass(frozen=True)
class Events:
    """The event log."""

    retention_days: float = seconds(30, "Events older than this are removed; 0 keeps them for ever.", low=0,
                                    high=36500)


@dataclass(frozen=True)
class Jobs:
    """Jobs that have ended."""

    retention_days: float = seconds(90, "Ended jobs older than this are removed, with their files; 0 keeps "
                                        "them for ever.", low=0, high=36500)


@dataclass(frozen=True)
class Log:
    """What is written about the running server."""

    level: str = word("INFO", "Least level that is written. VERBOSE lies below DEBUG.", words=LEVELS)
    format: str = word("auto", "json: one object a line; text: for people; auto: text on a terminal, else "
                               "json.", words=("auto", "text", "json"))
    file: str = path("", "Log file.", shown_default="standard error")
    max_size_mb: float = seconds(0, "The file is rotated at this size; 0: never (an outside tool may rotate "
                                    "it and send SIGHUP).", low=0, high=1_000_000)

    keep: int = integer(5, "Rotated files kept.", low=0, high=1000)
    syslog: bool = boolean(False, "Write to the local syslog too.")
    pattern: str = text("", "Text format as a Python logging pattern; used when the format is text.",
                        shown_default="time, level, logger, message, fields")


@dataclass(frozen=True)
class LocalCloud:
    """One embedded cloud: its machines are supervised agent processes on this host."""

    name: str
    slots: int = integer(4, "Machines at once.", low=1, high=1000)
    cores: int = integer(0, "Most cores of one machine; 0: as many as this host has.", low=0, high=4096)
    memory_mb: int = integer(8192, "Memory for all machines together.", low=1, high=2**30)
    storage_gb: int = integer(100, "Storage for all machines together.", low=0, high=2**30)
    keep_alive_s: float = seconds(0, "How long an idle machine is kept.", low=0, high=30 * _DAY_S)
    boot_timeout_s: float = seconds(60, "A machine that is not up after this is destroyed.",
                                    low=1, high=_DAY_S)
    priority: int = integer(0, "Lower comes first.", low=-1_000_000, high=1_000_000)


@dataclass(frozen=True)
class Local:
    """The clouds that exist without any configuration."""

    enabled: str = word("auto", "auto: when no cloud is configured anywhere; yes; no.", words=_AUTO)
    clouds: tuple[LocalCloud, ...] = (LocalCloud("local-a"), LocalCloud("local-b"))


@dataclass(frozen=True)
class CloudScheduler:
    """The classic files. Every key of `cloud_scheduler.conf` may be set here too, by its field name."""

    config_file: str = path("", "Path of `cloud_scheduler.conf`; `none` reads none.",
                            shown_default="searched in ~/.cloudscheduler, /etc/cloudscheduler, "
                                          "/usr/local/share/cloud-scheduler")
    user_data_dir: str = path("", "The directory of files that jobs may name in `VMUserData`: their machines get what is in "
                                  "them. Empty: jobs may name none.")
    general: GeneralConf = GeneralConf()
    job: JobDefaults = JobDefaults()
    logging: LoggingConf = LoggingConf()

    @property
    def resources_file(self) -> str | None:
        """Path of `cloud_resources.conf`."""
        return self.general.cloud_resource_config


class Row(NamedTuple):
    """One line of `cloudsched config show`."""

    key: str
    value: str
    origin: str


class Listener(NamedTuple):
    """One address that is listened on. `name` is its key in [listen]; the offset is in `port` already."""

    name: str
    dialect: str
    host: str
    port: int
    protocol: str = "http"


@dataclass(frozen=True)
class Settings:
    """Everything that can be set, typed and checked. Made by `load`."""

    state: State = State()
    listen: Listen = Listen()
    access: Access = Access()
    database: Database = Database()
    web: Web = Web()
    engine: Engine = Engine()
    agent: Agent = Agent()
    logkit: Logkit = Logkit()
    retire_cluster: RetireCluster = RetireCluster()
    centres: Centres = Centres()
    dcluster: Dcluster = Dcluster()
    events: Events = Events()
    jobs: Jobs = Jobs()
    log: Log = Log()
    local: Local = Local()
    cloud_scheduler: CloudScheduler = CloudScheduler()
    config_file: str | None = None
    classic_file: str | None = None
    notes: tuple[str, ...] = ()
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def origin(self, key: str) -> str:
        """Where `section.key` comes from: `flag ...`, `environment NAME`, `file PATH:LINE`, `classic file
        PATH:LINE` or `default`. Raises KeyError for an unknown key."""
        if key not in self.origins:
            self.value(key)
        return self.origins.get(key, "default")

    def value(self, key: str) -> Any:
        """The value of `section.key`. Raises KeyError for an unknown key."""
        section, _, name = key.partition(".")
        for holder in self._holders(section):
            if name in {item.name for item in fields(holder)}:
                return getattr(holder, name)
        raise KeyError(key)

    def show(self, origin: bool = False) -> list[Row]:
        """Every key with its value as text, secrets masked; `origin` is empty unless asked for."""
        return [Row(key, shown(self.value(key), declared_keys().get(key)), self.origin(key) if origin else "")
                for key in all_keys()]

    def listeners(self) -> tuple[Listener, ...]:
        """The addresses to listen on, ports shifted; those switched off are left out."""
        ports = ((name, dialect, getattr(self.listen, name)) for name, dialect in LISTENERS.items())
        return tuple(Listener(name, dialect, self._host(dialect), port + self.listen.port_offset,
                              "tcp" if name in NOT_HTTP else "http")
                     for name, dialect, port in ports if port)

    def http_listeners(self) -> tuple[Listener, ...]:
        """Those of `listeners()` that speak HTTP: the web server's own."""
        return tuple(item for item in self.listeners() if item.protocol == "http")

    def listener(self, name: str) -> Listener | None:
        """One listener by its key in [listen], or None when it is off."""
        return next((item for item in self.listeners() if item.name == name), None)

    @property
    def native_url(self) -> str:
        """The URL under which nodes reach the native API; empty when it is off."""
        if self.listen.public_url:
            return self.listen.public_url.rstrip("/")
        return self.local_url

    @property
    def local_url(self) -> str:
        """The native API as seen from this machine; empty when its listener is off."""
        native = self.listener("native")
        if native is None:
            return ""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(native.host, native.host)  # noqa: S104
        return f"http://{f'[{host}]' if ':' in host and not host.startswith('[') else host}:{native.port}"

    def _host(self, dialect: str) -> str:
        own: str = getattr(self.listen, f"{dialect}_bind")
        return own or self.listen.bind

    def _holders(self, section: str) -> tuple[Any, ...]:
        if section == "cloud_scheduler":
            part = self.cloud_scheduler
            return part, part.general, part.job, part.logging
        if section in SECTIONS:
            return (getattr(self, section),)
        raise KeyError(section)


# Listener name (its key in [listen]) -> dialect that answers there.
LISTENERS = {"cloud_scheduler_info": "cloud_scheduler", "cloud_scheduler_admin": "cloud_scheduler",
             "native": "native", "logkit": "logkit", "retire_cluster": "retire_cluster",
             "retire_cluster_tcp": "retire_cluster", "kboss": "kboss", "dcluster": "dcluster"}
# Listeners that a server of their own serves.
NOT_HTTP = frozenset({"retire_cluster_tcp"})

SECTIONS: Mapping[str, type] = MappingProxyType({
    "state": State, "listen": Listen, "access": Access, "database": Database, "web": Web, "engine": Engine,
    "agent": Agent, "logkit": Logkit, "retire_cluster": RetireCluster, "centres": Centres,
    "dcluster": Dcluster, "events": Events, "jobs": Jobs, "log": Log, "local": Local, "cloud_scheduler": CloudScheduler,
})


def declared_keys() -> dict[str, Key]:
    """`section.key` -> declaration, for all keys but the classic ones and `local.clouds`."""
    return {f"{section}.{name}": key
            for section, cls in SECTIONS.items() for name, key in declared(cls).items()}


def all_keys() -> list[str]:
    """Every `section.key` that can be set, in the order of the reference."""
    from .classic import CLASSIC_KEYS

    keys = list(declared_keys())
    keys.insert(keys.index("local.enabled") + 1, "local.clouds")
    return keys + list(CLASSIC_KEYS)


def shown(value: Any, key: Key | None = None) -> str:
    """A value as text; a password in a URL becomes asterisks."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key is not None and key.secret and key.kind != "url":
        return "***" if value else ""
    if isinstance(value, tuple):
        return ", ".join(item.name if isinstance(item, LocalCloud) else str(item) for item in value)
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return mask_url(value) if key is not None and key.secret else str(value)


def mask_url(value: str) -> str:
    """The URL without its password and without password-like query members."""
    try:
        parts = urlsplit(value)
        password = parts.password
    except ValueError:
        return "***"
    netloc = parts.netloc
    if password is not None:
        login, _, host = netloc.rpartition("@")
        netloc = f"{login.partition(':')[0]}:***@{host}"
    query = "&".join(_mask_member(member) for member in parts.query.split("&")) if parts.query else ""
    if parts.scheme == "sqlite":
        return value
    return urlunsplit(parts._replace(netloc=netloc, query=query))


def _mask_member(member: str) -> str:
    name = member.partition("=")[0]
    secret = any(part in name.lower() for part in ("pass", "secret", "key", "token"))
    return f"{name}=***" if secret else member
