"""How does a Spark cluster run on this very machine? A standalone master and its workers, as processes of their own.

A cluster's home is `<state_dir>/frameworks/spark/<key>/`. Its ports are chosen before the master starts and kept, so that a
master that died comes back where its workers look for it. Everything listens on 127.0.0.1 alone; a secret per cluster keeps
other users of the machine from sending it work. Jobs are in `frameworks_local.spark_jobs`.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.base import Check, DriverError, Place
from cloudsched.drivers.frameworks import SPARK, ClusterSeen, ClusterWanted, Handle, Save
from cloudsched.drivers.frameworks_local import conf, engines, place, ports, web
from cloudsched.drivers.frameworks_local.framework import LocalFramework
from cloudsched.drivers.frameworks_local.homes import Home, Start
from cloudsched.drivers.frameworks_local.place import LocalPlace, last_words
from cloudsched.drivers.frameworks_local.spark_jobs import SparkJobs
from cloudsched.drivers.frameworks_local.users import User

MASTER = "master"
MASTER_CLASS, WORKER_CLASS = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"
LEAST_MASTER_MB = 128
LEAST_WORKER_MB = 512  # an executor does not start with less than 450 MiB
WORKER_DAEMON_MB = 128  # of a worker itself, beside what it gives to executors
SMALL_JAVA = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData"
LOG4J = """rootLogger.level = info
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n%ex
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
"""


def make(where: Place) -> SparkLocal:
    """Spark clusters of this machine. Options: `spark_home`, `java_home`, `python` (what runs `.py` jobs; our own),
    `run_as` (`auto`, '' or a user), `trusted_settings` (false: settings may not bring code), `driver_host` (where jobs
    listen for masters of other machines). Invalid when an option is wrong or the place has no `state_dir`."""
    return SparkLocal(where)


class SparkLocal(LocalFramework):
    """The Framework protocol for Spark as processes of this machine."""

    kind = SPARK

    def __init__(self, where: Place) -> None:
        here = LocalPlace(where, kind=SPARK, engine=engines.spark)
        super().__init__(here, SparkJobs(here))

    # -- clusters ----------------------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Are Java, Spark, a directory and a user there?"""
        bash = shutil.which("bash")
        return [*self._place.verify(), Check("bash", ok=bool(bash), detail=bash or "Spark's scripts need bash")]

    def launch(self, wanted: ClusterWanted, handle: Handle, save: Save) -> Handle:
        """Start master and workers that are missing, and end workers that are too many; takes some milliseconds for each."""
        place.check_cluster(wanted, kind=SPARK, least_master_mb=LEAST_MASTER_MB, least_worker_mb=LEAST_WORKER_MB)
        settings = conf.spark_settings(wanted.settings, trusted=self._place.trusted)
        with self._place.clusters.locked(wanted.key) as home:
            user = self._place.user(home.facts())
            facts = self._intent(home, wanted, settings, user)
            handle = {"key": wanted.key, "mark": facts["mark"], "address": facts["address"], "web_url": facts["web_url"]}
            save(handle)
            if home.process(MASTER) is None:
                facts = self._start_master(home, wanted, facts, user)
                handle = {**handle, "address": facts["address"], "web_url": facts["web_url"]}
                save(handle)
            for number in range(wanted.workers):
                if home.process(f"worker-{number}") is None:
                    self._start_worker(home, wanted, facts, user, number=number)
            for role in _surplus(home, wanted.workers):
                home.kill(role)
        return handle

    def look(self, wanted: ClusterWanted, handle: Handle) -> ClusterSeen:
        """What is there: the processes, and what the master says of its workers."""
        home = self._place.clusters.at(wanted.key)
        facts = home.facts()
        if not facts.get("address"):
            return ClusterSeen(master=False, workers=0, reason="there is no such cluster")
        told = self._ask_master(home, facts)
        listed = {int(one.get("port", 0)) for one in told.get("workers", ()) if one.get("state") == "ALIVE"}
        alive = {role for role in home.roles() if role != MASTER and home.process(role)}
        there = {role for role in alive if home.role(role).get("port") in listed}
        return ClusterSeen(
            master=bool(told),
            workers=len(there),
            address=facts["address"],
            web_url=facts["web_url"],
            busy=bool(told.get("activeapps")),
            reason=_reason(home, told, alive - there, wanted.workers),
            facts=_public(home, facts, told),
        )

    # -- jobs --------------------------------------------------------------------------------------------------

    def log(self, cluster: ClusterSeen, handle: Handle, *, offset: int = 0, limit: int = 1 << 20) -> bytes:
        """A piece of what the driver wrote."""
        return self._jobs.log(handle, offset=offset, limit=limit)

    # -- starting ----------------------------------------------------------------------------------------------

    def _intent(self, home: Home, wanted: ClusterWanted, settings: Mapping[str, str], user: User) -> dict[str, Any]:
        """What is wanted, written down before anything starts; ports and secret stay those of the first time."""
        facts = home.facts()
        if not facts.get("address"):
            facts = {**facts, **self._addresses(), "secret": os.urandom(24).hex(), "created": time.time()}
        facts |= {"kind": SPARK, "cluster_id": wanted.cluster_id, "tenant": wanted.tenant, "settings": dict(settings),
                  "worker_memory_mb": wanted.worker_memory_mb, "worker_cores": place.whole_cores(wanted.worker_cores_m),
                  "user": user.name}  # fmt: skip
        home.write_facts(facts)
        home.write_conf("log4j2.properties", LOG4J, user)
        home.write_conf("daemon.conf", conf.properties(_daemon_settings(settings, facts["secret"])), user)
        return home.facts()

    def _addresses(self) -> dict[str, Any]:
        taken = self._place.taken_ports()
        rpc = ports.free(taken)
        shown = ports.free({*taken, rpc})
        return {"ports": {"rpc": rpc, "web": shown}, "address": f"spark://127.0.0.1:{rpc}", "web_url": f"http://127.0.0.1:{shown}"}

    def _start_master(self, home: Home, wanted: ClusterWanted, facts: dict[str, Any], user: User) -> dict[str, Any]:
        if not ports.come_free(facts["ports"].values()):  # taken by others: nobody would find us there
            for role in home.roles():
                home.kill(role)
            facts |= self._addresses()
            home.write_facts(facts)
        words = [MASTER_CLASS, "--host", "127.0.0.1", "--port", str(facts["ports"]["rpc"]),
                 "--webui-port", str(facts["ports"]["web"]),
                 "--properties-file", str(home.path / "conf" / "daemon.conf")]  # fmt: skip
        env = self._env(home, user, memory_mb=wanted.master_memory_mb)
        home.start(MASTER, Start(self._command(words), env, home.own_folder("work", user), user, one_log=True))
        return facts

    def _start_worker(self, home: Home, wanted: ClusterWanted, facts: dict[str, Any], user: User, *, number: int) -> None:
        port = ports.free(self._place.taken_ports())
        work = home.own_folder("work", user)
        words = [WORKER_CLASS, "--host", "127.0.0.1", "--port", str(port), "--webui-port", "0",
                 "--cores", str(facts["worker_cores"]), "--memory", f"{wanted.worker_memory_mb}m",
                 "--work-dir", str(work / f"worker-{number}"), "--properties-file", str(home.path / "conf" / "daemon.conf"),
                 facts["address"]]  # fmt: skip
        env = self._env(home, user, memory_mb=WORKER_DAEMON_MB)
        start = Start(self._command(words), env, work, user, wait_port=facts["ports"]["rpc"], one_log=True, facts={"port": port})
        home.start(f"worker-{number}", start)

    def _command(self, words: list[str]) -> list[str]:
        bash = shutil.which("bash")
        if bash is None:
            raise DriverError("there is no bash on this machine: Spark's scripts need it", code=base.REQUEST)
        return [bash, str(self._place.engine().home / "bin" / "spark-class"), *words]

    def _env(self, home: Home, user: User, *, memory_mb: int) -> dict[str, str]:
        return {"JAVA_HOME": str(self._place.java().home), "SPARK_HOME": str(self._place.engine().home),
                "SPARK_CONF_DIR": str(home.path / "conf"), "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_LOCAL_DIRS": str(home.own_folder("tmp", user)), "TMPDIR": str(home.own_folder("tmp", user)),
                "SPARK_DAEMON_MEMORY": f"{memory_mb}m", "SPARK_DAEMON_JAVA_OPTS": SMALL_JAVA,
                "SPARK_LAUNCHER_OPTS": SMALL_JAVA, "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip

    # -- looking -----------------------------------------------------------------------------------------------

    def _ask_master(self, home: Home, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What the master says; empty when it is not there, not ready, or another's."""
        if home.process(MASTER) is None:
            return {}
        try:
            told = web.get(facts["web_url"] + "/json/")
        except DriverError:
            return {}
        return told if told.get("url") == facts["address"] and told.get("status") == "ALIVE" else {}


def _daemon_settings(settings: Mapping[str, str], secret: str) -> dict[str, str]:
    return {
        **conf.spark_daemon_settings(settings),
        "spark.authenticate": "true",
        "spark.authenticate.secret": secret,
        "spark.master.rest.enabled": "false",  # it would listen on a fixed port, and take work without the secret
        "spark.port.maxRetries": "0",  # on our port or not at all
        "spark.ui.killEnabled": "false",  # a page of another site could send that
        "spark.worker.cleanup.enabled": settings.get("spark.worker.cleanup.enabled", "true"),
    }


def _surplus(home: Home, workers: int) -> list[str]:
    return [role for role in home.roles() if role.startswith("worker-") and int(role.partition("-")[2]) >= workers]


def _reason(home: Home, told: Mapping[str, Any], starting: set[str], workers: int) -> str:
    """Why the cluster is not whole; empty when it is."""
    if home.process(MASTER) is None:
        return f"the master is not running. {last_words(home.log_path(MASTER))}".strip()
    if not told:
        return "the master is starting"
    dead = [role for role in (f"worker-{number}" for number in range(workers)) if home.process(role) is None]
    if dead:
        return f"{', '.join(dead)}: not running. {last_words(home.log_path(dead[0]))}".strip()
    return f"{', '.join(sorted(starting))}: starting" if starting else ""


def _public(home: Home, facts: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """What may be shown and kept: no secret."""
    kept = ("mark", "worker_memory_mb", "worker_cores", "user")
    pids = {role: found[0] for role in home.roles() if (found := home.process(role))}
    numbers = {name: told[name] for name in ("cores", "coresused", "memory", "memoryused") if name in told}
    return {"key": home.key, "home": str(home.path), "pids": pids, **{name: facts.get(name) for name in kept}, **numbers}
