"""How does a Spark job run on this machine? spark-submit in client mode, below a supervisor that notes how it ended.

A job's home is `<state_dir>/frameworks/spark-jobs/<key>/`: a copy of its code, one log, and the supervisor's file with the exit
code. Whoever comes next, the same process or another one after a crash, reads there how the job is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cloudsched.agent import processes
from cloudsched.drivers import base, children
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks import (
    FAILED,
    KILLED,
    LOST,
    RUNNING,
    SUBMITTED,
    SUCCEEDED,
    ClusterSeen,
    Handle,
    JobSeen,
    JobWanted,
    Save,
)
from cloudsched.drivers.frameworks_local import conf, place, web
from cloudsched.drivers.frameworks_local.homes import Home, Start, read_piece
from cloudsched.drivers.frameworks_local.place import LocalPlace, last_words
from cloudsched.drivers.frameworks_local.users import User

DRIVER = "driver"
SUBMIT_CLASS = "org.apache.spark.deploy.SparkSubmit"
LEAST_MB = 512  # Spark refuses to start with less than 450 MiB of heap
MAX_MB = 1 << 22
KILL_TIMEOUT_S = 20.0
GONE_TIMEOUT_S = 30.0
HEAD = 4 << 20  # where the application's id is found in the log
LOG4J = """rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %p %c{1}: %m%n%ex
logger.native.name = org.apache.hadoop.util.NativeCodeLoader
logger.native.level = error
logger.backend.name = org.apache.spark.scheduler.cluster.StandaloneSchedulerBackend
logger.backend.level = info
logger.backend.additivity = false
logger.backend.appenderRef.console.ref = console
"""

_APPLICATION = re.compile(rb"Connected to Spark cluster with app ID (\S{1,200})")
_MASTER = re.compile(r"spark://[A-Za-z0-9.\[\]:_-]+:\d{1,5}(,[A-Za-z0-9.\[\]:_-]+:\d{1,5})*")


class SparkJobs:
    """Spark jobs of this machine, on clusters of this machine or of others."""

    def __init__(self, where: LocalPlace) -> None:
        self._place = where

    def submit(self, cluster: ClusterSeen, job: JobWanted, handle: Handle, save: Save) -> Handle:
        """Start the job unless it was."""
        entry = place.check_job(job, (".py", ".jar"))
        if entry.suffix == ".jar" and not job.main_class:
            raise DriverError("main_class: a .jar needs the class to run", code=base.REQUEST)
        words = conf.arguments(job.arguments)
        user = self._place.user()
        python = self._place.python(user) if entry.suffix == ".py" else None
        with self._place.jobs.locked(job.key) as home:
            settings = self._settings(cluster, job)
            handle = {"key": job.key, "address": cluster.address}
            if _began(home):
                return handle
            home.write_facts({"job_id": job.job_id, "address": cluster.address, "created": time.time()})
            save(handle)
            code = _copy(entry, home)
            home.write_conf("log4j2.properties", LOG4J, user)
            settings_file = home.write_conf("spark.conf", conf.properties(settings), user)
            command = self._command(job, settings_file, code, words)
            env = self._env(home, job, user, python)
            start = Start(command, env, home.own_folder("work", user), user, supervised=True, one_log=True)
            home.start(DRIVER, start)
        return handle

    def job(self, cluster: ClusterSeen, handle: Handle) -> JobSeen:
        """How is it now?"""
        home = self._home(handle)
        if home is None or not home.facts():
            return JobSeen(LOST, reason="nothing is known of this job here")
        alive = home.process(DRIVER) is not None  # before the file: it is written before the process ends
        ended = _exit(home)
        application = _application(home)
        began = float(home.role(DRIVER).get("since", 0)) or None
        if ended:
            return _ended(home, ended, application)
        if not alive:
            return self._lost(home, application, began)
        if not application:
            return JobSeen(SUBMITTED, started_at=began, reason="the driver is starting")
        if _listed(cluster).get(application) == "WAITING":
            return JobSeen(SUBMITTED, application, started_at=began, reason="waits for cores of the cluster")
        return JobSeen(RUNNING, application, started_at=began)

    def kill(self, cluster: ClusterSeen, handle: Handle) -> None:
        """End it; DriverError when that cannot be proved."""
        home = self._home(handle)
        if home is None or not home.facts():
            return
        with self._place.jobs.locked(home.key):
            if not _exit(home):
                _tell(home)
                home.kill_all()
                _note_killed(home)
        self._await_gone(cluster, _application(home))

    def log(self, handle: Handle, *, offset: int, limit: int) -> bytes:
        """A piece of the log."""
        home = self._home(handle)
        return read_piece(home.log_path(DRIVER), offset, limit) if home else b""

    def forget(self, handle: Handle) -> None:
        """Remove what is kept."""
        home = self._home(handle)
        if home is None or not home.path.exists():
            return
        with self._place.jobs.locked(home.key):
            home.remove()

    # -- parts -------------------------------------------------------------------------------------------------

    def _lost(self, home: Home, application: str, began: float | None) -> JobSeen:
        """There is no supervisor and no result; nothing of the job runs on when that is said."""
        with self._place.jobs.locked(home.key):
            if home.process(DRIVER) is not None:  # it was just being started
                return JobSeen(SUBMITTED, started_at=began, reason="the driver is starting")
            if ended := _exit(home):
                return _ended(home, ended, application)
            home.kill_all()
        reason = "its supervisor was killed" if _began(home) else "it was never started"
        return JobSeen(LOST, application, reason=reason, started_at=began)

    def _home(self, handle: Handle) -> Home | None:
        key = handle.get("key")
        return self._place.jobs.at(str(key)) if key else None

    def _settings(self, cluster: ClusterSeen, job: JobWanted) -> dict[str, str]:
        """What is in the job's file: the cluster's settings, the job's, and those nobody may change."""
        if not _MASTER.fullmatch(cluster.address):
            raise DriverError(f"address: {cluster.address!r} is not spark://HOST:PORT", code=base.REQUEST)
        own = self._place.own_cluster(cluster)
        facts = own.facts() if own else {}
        host = self._driver_host(cluster)
        given = conf.spark_settings(job.settings, trusted=self._place.trusted)
        found = {"spark.app.name": job.key, **(facts.get("settings") or {}), **given, **_sizes(job, facts)}
        for name, value in conf.environment(job.env).items():
            found[f"spark.executorEnv.{name}"] = value
        found |= {"spark.master": cluster.address, "spark.submit.deployMode": "client", "spark.driver.host": host,
                  "spark.driver.bindAddress": host, "spark.ui.port": "0", "spark.ui.killEnabled": "false"}  # fmt: skip
        if facts.get("secret"):
            found |= {"spark.authenticate": "true", "spark.authenticate.secret": facts["secret"]}
        return found

    def _driver_host(self, cluster: ClusterSeen) -> str:
        if place.is_loopback(cluster.address.partition(",")[0]):
            return "127.0.0.1"
        host = str(self._place.options.get("driver_host") or "")
        if not host:
            raise DriverError(f"{cluster.address} is not on this machine, and jobs listen on 127.0.0.1 alone: set driver_host to "
                              "the address where its executors can call them", code=base.REQUEST)  # fmt: skip
        return host

    def _command(self, job: JobWanted, settings_file: Path, code: Path, words: list[str]) -> list[str]:
        bash = shutil.which("bash")
        if bash is None:
            raise DriverError("there is no bash on this machine: Spark's scripts need it", code=base.REQUEST)
        class_words = ["--class", job.main_class] if job.main_class else []
        program = str(self._place.engine().home / "bin" / "spark-class")
        return [bash, program, SUBMIT_CLASS, "--properties-file", str(settings_file), *class_words, str(code), *words]

    def _env(self, home: Home, job: JobWanted, user: User, python: Path | None) -> dict[str, str]:
        scratch = str(home.own_folder("tmp", user))
        address = str(home.facts().get("address", ""))
        here = "127.0.0.1" if place.is_loopback(address.partition(",")[0]) else str(self._place.options.get("driver_host"))
        homes = {"JAVA_HOME": str(self._place.java().home), "SPARK_HOME": str(self._place.engine().home)}
        pythons = {"PYSPARK_PYTHON": str(python), "PYSPARK_DRIVER_PYTHON": str(python)} if python else {}
        return {**conf.environment(job.env), **homes, **pythons,
                "SPARK_CONF_DIR": str(home.path / "conf"), "SPARK_LOCAL_IP": here, "SPARK_LOCAL_DIRS": scratch, "TMPDIR": scratch,
                "SPARK_LAUNCHER_OPTS": "-XX:+UseSerialGC -XX:TieredStopAtLevel=1", "PYTHONUNBUFFERED": "1",
                "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip

    def _await_gone(self, cluster: ClusterSeen, application: str) -> None:
        """The master takes an application away when its driver hangs up; here that is seen."""
        deadline = time.monotonic() + GONE_TIMEOUT_S
        while application and application in _listed(cluster):
            if time.monotonic() > deadline:
                raise DriverError(f"the master still lists {application}", transient=True)
            time.sleep(0.2)


def _sizes(job: JobWanted, facts: Mapping[str, Any]) -> dict[str, str]:
    """Memory and cores: of the job, else what fits the cluster."""
    found = {}
    most = int(facts.get("worker_memory_mb") or MAX_MB)
    for field, value, high, key in (
        ("driver_memory_mb", job.driver_memory_mb, MAX_MB, "spark.driver.memory"),
        ("executor_memory_mb", job.executor_memory_mb, most, "spark.executor.memory"),
    ):
        if value:
            place.check_number(field, value, low=LEAST_MB, high=high)
            found[key] = f"{value}m"
    if facts.get("worker_memory_mb") and not {"spark.executor.memory"} & {*found, *job.settings, *facts.get("settings", {})}:
        found["spark.executor.memory"] = f"{most}m"
    if job.cores_max:
        found["spark.cores.max"] = str(job.cores_max)
    return found


def _copy(entry: Path, home: Home) -> Path:
    """The code as it is now: what the catalogue holds may change while the job runs."""
    folder = home.path / "code"
    folder.mkdir(0o711, exist_ok=True)
    folder.chmod(0o711)
    target = folder / entry.name
    shutil.copyfile(entry, target)
    target.chmod(0o644)
    return target


def _began(home: Home) -> bool:
    """Was its process started, or is it just being? What was interrupted before that may begin again."""
    return (home.path / f"{DRIVER}.exit.began").exists() or bool(_exit(home)) or home.process(DRIVER) is not None


def _exit(home: Home) -> dict[str, Any]:
    try:
        found = json.loads((home.path / f"{DRIVER}.exit").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _ended(home: Home, ended: Mapping[str, Any], application: str) -> JobSeen:
    code = ended.get("code")
    state = SUCCEEDED if code == 0 else KILLED if ended.get("killed") else FAILED
    reason = ""
    if state == FAILED:
        said = last_words(home.log_path(DRIVER)) or (f"killed by signal {ended['signal']}" if ended.get("signal") else "")
        reason = f"exit code {code}" + (f": {said}" if said else "")
    return JobSeen(state, application, exit_code=code, reason=reason, started_at=ended.get("began"), ended_at=ended.get("ended"))


def _application(home: Home) -> str:
    """The id that Spark gave it, from the log; kept beside it once found."""
    kept = home.path / "application"
    try:
        return kept.read_text(encoding="ascii")
    except OSError:
        pass
    found = _APPLICATION.search(read_piece(home.log_path(DRIVER), 0, HEAD))
    if not found:
        return ""
    name = found[1].decode("ascii", "replace")
    try:
        kept.write_text(name, encoding="ascii")
    except (OSError, UnicodeError):
        pass
    return name


def _listed(cluster: ClusterSeen) -> dict[str, str]:
    """Applications that the master holds, with their states; empty when there is no master to ask."""
    if not cluster.web_url:
        return {}
    try:
        told = web.get(cluster.web_url.rstrip("/") + "/json/")
    except DriverError:
        return {}
    return {str(one.get("id")): str(one.get("state")) for one in told.get("activeapps", ())}


def _tell(home: Home) -> None:
    """Ask the supervisor to end the job; it does so within its own grace."""
    process = home.process(DRIVER)
    if process is None or not processes.send(*process, signal.SIGTERM):
        return
    deadline = time.monotonic() + KILL_TIMEOUT_S
    while processes.alive(*process) and not _exit(home) and time.monotonic() < deadline:
        children.reap()
        time.sleep(0.02)


def _note_killed(home: Home) -> None:
    """The supervisor could not say it any more."""
    if _exit(home):
        return
    beside = home.path / f"{DRIVER}.exit.new"
    known = home.role(DRIVER)
    beside.write_text(json.dumps({"code": None, "signal": 9, "killed": True, "began": known.get("since"), "ended": time.time()}))
    os.replace(beside, home.path / f"{DRIVER}.exit")
