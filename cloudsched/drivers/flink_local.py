"""How does a Flink cluster run on this very machine? A session cluster: a job manager and task managers, as processes.

A cluster's home is `<state_dir>/frameworks/flink/<key>/`, with a configuration directory of its own. Ports are chosen before the
job manager starts and kept, so that one that died comes back where its task managers look for it. Everything listens on
127.0.0.1 alone. Jobs are in `frameworks_local.flink_jobs`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cloudsched.drivers.base import Check, DriverError, Place
from cloudsched.drivers.frameworks import FLINK, ClusterSeen, ClusterWanted, Handle, Save
from cloudsched.drivers.frameworks_local import conf, engines, flink_log, place, ports, web
from cloudsched.drivers.frameworks_local.flink_jobs import JOB_TAG, FlinkJobs
from cloudsched.drivers.frameworks_local.framework import LocalFramework
from cloudsched.drivers.frameworks_local.homes import Home, Start
from cloudsched.drivers.frameworks_local.place import LocalPlace
from cloudsched.drivers.frameworks_local.users import User

MASTER = "master"
MASTER_CLASS = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
WORKER_CLASS = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"
LEAST_MASTER_MB = 384
LEAST_WORKER_MB = 512
# Of a process's memory beside its heap: classes, direct buffers, and what Java itself takes.
METASPACE_MB, OVERHEAD_MB, MASTER_OFF_HEAP_MB = 128, 64, 64
# What Flink itself needs of a task manager; the rest is for tasks.
FRAMEWORK_HEAP_MB, FRAMEWORK_OFF_HEAP_MB = 64, 64
BATCH_READ_MB = 32  # of the off-heap part: buffers of batch jobs, which would take all of it, and fail
NETWORK_SHARE, LEAST_NETWORK_MB = 0.1, 32
MANAGED_SHARE, LEAST_MANAGED_MB = 0.3, 16
SMALL_MB = 2048
SMALL_JAVA = ["-XX:+UseSerialGC", "-XX:-UsePerfData"]  # what a small heap is best with
QUICK_JAVA = ["-XX:TieredStopAtLevel=1"]  # a job manager does little: start fast
# What Flink reaches for inside Java 17.
OPENED = (
    *(("exports", name) for name in (
        "java.rmi/sun.rmi.registry", "java.security.jgss/sun.security.krb5", "jdk.compiler/com.sun.tools.javac.api",
        "jdk.compiler/com.sun.tools.javac.file", "jdk.compiler/com.sun.tools.javac.parser",
        "jdk.compiler/com.sun.tools.javac.tree", "jdk.compiler/com.sun.tools.javac.util")),
    *(("opens", f"java.base/{name}") for name in (
        "java.io", "java.lang", "java.lang.reflect", "java.net", "java.nio", "java.text", "java.time", "java.util",
        "java.util.concurrent", "java.util.concurrent.atomic", "java.util.concurrent.locks", "sun.nio.ch")),
)  # fmt: skip
# A line says whose job it is about: so a job's log is found in those of all.
LOG4J = f"""rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.name = console
appender.console.type = Console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss.SSS}} %-5p {JOB_TAG[0]}%X{{flink-job-id}}{JOB_TAG[1]} %c{{1}}: %m%n%ex
"""


def make(where: Place) -> FlinkLocal:
    """Flink clusters of this machine. Options: `flink_home`, `java_home`, `run_as` (`auto`, '' or a user),
    `trusted_settings` (false: settings may not bring code). Invalid when an option is wrong or there is no `state_dir`."""
    return FlinkLocal(where)


class FlinkLocal(LocalFramework):
    """The Framework protocol for Flink as processes of this machine."""

    kind = FLINK

    def __init__(self, where: Place) -> None:
        here = LocalPlace(where, kind=FLINK, engine=engines.flink)
        super().__init__(here, FlinkJobs(here))

    # -- clusters ----------------------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Are Java, Flink, a directory and a user there?"""
        return self._place.verify()

    def launch(self, wanted: ClusterWanted, handle: Handle, save: Save) -> Handle:
        """Start job manager and task managers that are missing, and end those that are too many."""
        place.check_cluster(wanted, kind=FLINK, least_master_mb=LEAST_MASTER_MB, least_worker_mb=LEAST_WORKER_MB)
        settings = conf.flink_settings(wanted.settings, trusted=self._place.trusted)
        with self._place.clusters.locked(wanted.key) as home:
            user = self._place.user(home.facts())
            facts = self._intent(home, wanted, settings, user)
            handle = {"key": wanted.key, "mark": facts["mark"], "address": facts["address"], "web_url": facts["address"]}
            save(handle)
            if home.process(MASTER) is None:
                facts = self._start_master(home, wanted, facts, user)
                handle = {**handle, "address": facts["address"], "web_url": facts["address"]}
                save(handle)
            for number in range(wanted.workers):
                if home.process(f"worker-{number}") is None:
                    self._start_worker(home, wanted, facts, user, number=number)
            for role in _surplus(home, wanted.workers):
                home.kill(role)
        return handle

    def look(self, wanted: ClusterWanted, handle: Handle) -> ClusterSeen:
        """What is there: the processes, and what the job manager says of its task managers."""
        home = self._place.clusters.at(wanted.key)
        facts = home.facts()
        if not facts.get("address"):
            return ClusterSeen(master=False, workers=0, reason="there is no such cluster")
        overview, listed = _ask(home, facts)
        alive = {role for role in home.roles() if role != MASTER and home.process(role)}
        there = {role for role in alive if home.role(role).get("resource_id") in listed}
        return ClusterSeen(
            master=bool(overview),
            workers=len(there),
            address=facts["address"],
            web_url=facts["address"],
            busy=bool(overview.get("jobs-running")),
            reason=_reason(home, overview, alive - there, wanted.workers),
            facts=_public(home, facts, overview),
        )

    # -- jobs --------------------------------------------------------------------------------------------------

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """A piece of what the cluster's processes wrote about the job, and of what its tasks printed."""
        return self._jobs.log(cluster, handle, offset=offset, limit=limit)

    # -- starting ----------------------------------------------------------------------------------------------

    def _intent(self, home: Home, wanted: ClusterWanted, settings: Mapping[str, str], user: User) -> dict[str, Any]:
        """What is wanted, written down before anything starts; ports stay those of the first time."""
        facts = home.facts()
        if not facts.get("address"):
            facts = {**facts, **self._addresses(), "created": time.time()}
        slots = settings.get("taskmanager.numberOfTaskSlots") or str(place.whole_cores(wanted.worker_cores_m))
        facts |= {"kind": FLINK, "cluster_id": wanted.cluster_id, "tenant": wanted.tenant, "settings": dict(settings),
                  "worker_memory_mb": wanted.worker_memory_mb, "worker_cores": place.whole_cores(wanted.worker_cores_m),
                  "slots": slots, "user": user.name}  # fmt: skip
        home.write_facts(facts)
        return home.facts()

    def _addresses(self) -> dict[str, Any]:
        taken = self._place.taken_ports()
        rpc = ports.free(taken)
        shown = ports.free({*taken, rpc})
        return {"ports": {"rpc": rpc, "web": shown}, "address": f"http://127.0.0.1:{shown}"}

    def _configure(self, home: Home, facts: Mapping[str, Any], user: User) -> None:
        scratch = home.own_folder("tmp", user)
        given = {"parallelism.default": facts["slots"], "heartbeat.interval": "3000", "heartbeat.timeout": "20000",
                 "taskmanager.numberOfTaskSlots": facts["slots"], **facts["settings"]}  # fmt: skip
        here = dict.fromkeys(("jobmanager.rpc.address", "jobmanager.bind-host", "rest.address", "rest.bind-address",
                              "taskmanager.host", "taskmanager.bind-host"), "127.0.0.1")  # fmt: skip
        listening = {"jobmanager.rpc.port": facts["ports"]["rpc"], "rest.port": facts["ports"]["web"],
                     "rest.bind-port": facts["ports"]["web"], "blob.server.port": "0"}  # fmt: skip
        kept = {**dict.fromkeys(("io.tmp.dirs", "blob.storage.directory", "web.upload.dir"), str(scratch)),
                "execution.checkpointing.dir": f"{scratch.as_uri()}/checkpoints",
                "execution.checkpointing.savepoint-dir": f"{scratch.as_uri()}/savepoints"}  # fmt: skip
        home.write_conf("log4j.properties", LOG4J, user)
        home.write_conf("config.yaml", conf.yaml(given | here | listening | kept), user)

    def _start_master(self, home: Home, wanted: ClusterWanted, facts: dict[str, Any], user: User) -> dict[str, Any]:
        if not ports.come_free(facts["ports"].values()):  # taken by others: nobody would find us there
            for role in home.roles():
                home.kill(role)
            facts |= self._addresses()
            home.write_facts(facts)
        self._configure(home, facts, user)
        heap_mb = wanted.master_memory_mb - METASPACE_MB - OVERHEAD_MB - MASTER_OFF_HEAP_MB
        machine = [f"-Xmx{heap_mb}m", f"-XX:MaxMetaspaceSize={METASPACE_MB}m", *QUICK_JAVA, *_garbage(heap_mb),
                   *conf.flink_java_options(wanted.settings, "jobmanager")]  # fmt: skip
        sizes = {"heap.size": heap_mb, "off-heap.size": MASTER_OFF_HEAP_MB, "jvm-metaspace.size": METASPACE_MB,
                 "jvm-overhead.min": OVERHEAD_MB, "jvm-overhead.max": OVERHEAD_MB}  # fmt: skip
        words = [MASTER_CLASS, "--configDir", str(home.path / "conf"), *_options("jobmanager.memory", sizes)]
        command = self._command(home, MASTER, machine, words)
        home.start(MASTER, Start(command, self._env(home, user), home.own_folder("work", user), user))
        return facts

    def _start_worker(self, home: Home, wanted: ClusterWanted, facts: dict[str, Any], user: User, *, number: int) -> None:
        role = f"worker-{number}"
        resource_id = f"{role}-{int(home.role(role).get('generation', 0)) + 1}"
        sizes = worker_memory(wanted.worker_memory_mb)
        machine = [f"-Xmx{sizes.heap}m", f"-XX:MaxDirectMemorySize={sizes.direct}m", f"-XX:MaxMetaspaceSize={METASPACE_MB}m",
                   *_garbage(sizes.heap), *conf.flink_java_options(wanted.settings, "taskmanager")]  # fmt: skip
        words = [WORKER_CLASS, "--configDir", str(home.path / "conf"), "-D", f"taskmanager.resource-id={resource_id}",
                 "-D", f"taskmanager.cpu.cores={facts['worker_cores']}",
                 *_options("taskmanager.memory", sizes.settings())]  # fmt: skip
        start = Start(self._command(home, role, machine, words), self._env(home, user), home.own_folder("work", user), user,
                      wait_port=facts["ports"]["rpc"], facts={"resource_id": resource_id})  # fmt: skip
        home.start(role, start)

    def _command(self, home: Home, role: str, machine: list[str], words: list[str]) -> list[str]:
        opened = [f"--add-{how}={what}=ALL-UNNAMED" for how, what in OPENED]
        logs = [f"-Dlog.file={home.log_path(role)}", f"-Dlog4j.configurationFile=file:{home.path / 'conf' / 'log4j.properties'}",
                f"-Djava.io.tmpdir={home.path / 'tmp'}"]  # fmt: skip
        libraries = str(self._place.engine().home / "lib" / "*")
        return [str(self._place.java().home / "bin" / "java"), *machine, *opened, *logs, "-cp", libraries, *words]

    def _env(self, home: Home, user: User) -> dict[str, str]:
        flink = self._place.engine().home
        return {"JAVA_HOME": str(self._place.java().home), "FLINK_CONF_DIR": str(home.path / "conf"),
                "FLINK_LIB_DIR": str(flink / "lib"), "FLINK_PLUGINS_DIR": str(flink / "plugins"),
                "TMPDIR": str(home.own_folder("tmp", user))}  # fmt: skip


@dataclass(frozen=True)
class WorkerMemory:
    """How a task manager's memory is divided; all in MiB."""

    network: int
    managed: int
    task_heap: int

    @property
    def heap(self) -> int:
        """Java's heap."""
        return self.task_heap + FRAMEWORK_HEAP_MB

    @property
    def direct(self) -> int:
        """Java's direct buffers."""
        return self.network + FRAMEWORK_OFF_HEAP_MB

    def settings(self) -> dict[str, int]:
        """The same in Flink's words: a task manager that is started without its scripts wants all of them."""
        return {"framework.heap.size": FRAMEWORK_HEAP_MB, "task.heap.size": self.task_heap,
                "framework.off-heap.size": FRAMEWORK_OFF_HEAP_MB, "framework.off-heap.batch-shuffle.size": BATCH_READ_MB,
                "task.off-heap.size": 0, "network.min": self.network, "network.max": self.network,
                "managed.size": self.managed, "jvm-metaspace.size": METASPACE_MB, "jvm-overhead.min": OVERHEAD_MB,
                "jvm-overhead.max": OVERHEAD_MB}  # fmt: skip


def worker_memory(memory_mb: int) -> WorkerMemory:
    """Divide the memory of a task manager's process."""
    flink = memory_mb - METASPACE_MB - OVERHEAD_MB
    network = max(LEAST_NETWORK_MB, int(flink * NETWORK_SHARE))
    managed = max(LEAST_MANAGED_MB, int((flink - network) * MANAGED_SHARE))
    return WorkerMemory(network, managed, flink - network - managed - FRAMEWORK_HEAP_MB - FRAMEWORK_OFF_HEAP_MB)


def _garbage(heap_mb: int) -> list[str]:
    return SMALL_JAVA if heap_mb <= SMALL_MB else SMALL_JAVA[1:]


def _options(section: str, sizes: Mapping[str, int]) -> list[str]:
    return [word for name, size_mb in sizes.items() for word in ("-D", f"{section}.{name}={size_mb}m")]


def _surplus(home: Home, workers: int) -> list[str]:
    return [role for role in home.roles() if role.startswith("worker-") and int(role.partition("-")[2]) >= workers]


def _ask(home: Home, facts: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """What the job manager says of the cluster, and ids of its task managers; empty when it is not there or not ready."""
    if home.process(MASTER) is None:
        return {}, set()
    try:
        overview = web.get(facts["address"] + "/overview")
        listed = web.get(facts["address"] + "/taskmanagers").get("taskmanagers", [])
    except DriverError:
        return {}, set()
    return overview, {str(one.get("id")) for one in listed}


def _reason(home: Home, overview: Mapping[str, Any], starting: set[str], workers: int) -> str:
    """Why the cluster is not whole; empty when it is."""
    if home.process(MASTER) is None:
        return f"the job manager is not running. {flink_log.own_words(home, MASTER)}".strip()
    if not overview:
        return "the job manager is starting"
    dead = [role for role in (f"worker-{number}" for number in range(workers)) if home.process(role) is None]
    if dead:
        return f"{', '.join(dead)}: not running. {flink_log.own_words(home, dead[0])}".strip()
    return f"{', '.join(sorted(starting))}: starting" if starting else ""


def _public(home: Home, facts: Mapping[str, Any], overview: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("mark", "worker_memory_mb", "worker_cores", "user")
    pids = {role: found[0] for role in home.roles() if (found := home.process(role))}
    numbers = {name.replace("-", "_"): value for name, value in overview.items() if isinstance(value, int)}
    return {"key": home.key, "home": str(home.path), "pids": pids, **{name: facts.get(name) for name in kept}, **numbers}
