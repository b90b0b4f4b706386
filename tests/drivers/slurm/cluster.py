"""How does a test get a real Slurm cluster? munged, slurmctld and slurmd on this machine, all below one directory.

    with SlurmCluster(tmp) as cluster:
        cluster.run("sbatch", "--wrap", "hostname")

Every daemon has its own key, socket and port and listens on loopback; hosts claim more cores than there are. `rest` adds a
slurmrestd on a socket file, `jwt` one on a port that wants a token, `accounting` a slurmdbd with its database.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo", "sacct")
REST = ("slurmrestd",)
ACCOUNTING = ("slurmdbd", "mariadbd", "mariadb-install-db", "my_print_defaults", "sacctmgr")
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_LIMIT_S = 60.0

_CONFIG = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType={gather}
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=default_queue_depth=10000,sched_min_interval=0,bf_interval=1
MaxArraySize=10001
MaxJobCount=100000
MinJobAge={min_job_age_s}
KillWait=15
MessageTimeout=5
BatchStartTimeout=60
SlurmdTimeout=60
DefMemPerCPU=100
JobCompType=jobcomp/filetxt
JobCompLoc={root}/completions.log
{more}
"""
_NODE = ("NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cores} RealMemory={memory_mb}"
         " Feature={feature}\n")
_PARTITIONS = """PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE
PartitionName=later Nodes={nodes} State=DOWN"""
_DBD = """
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
LogFile={root}/slurmdbd.log
PidFile={root}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageLoc=slurm_acct
StorageUser={user}
"""


def missing(*more: str) -> str:
    """Why no cluster can be started here; empty when one can. `more`: further programs, as REST and ACCOUNTING."""
    lacking = [name for name in (*PROGRAMS, *more) if shutil.which(name, path=_PATH) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else ""


class SlurmCluster:
    """A cluster below `root`. `nodes`: names of its hosts, the first has the feature `fast`, the others `slow`;
    `partitions`: lines of slurm.conf, unless given `main` with all hosts, and `later`, where nothing begins; `config`:
    further lines."""

    def __init__(self, root: Path, *, nodes: tuple[str, ...] = ("n1", "n2"), cores: int = 8, memory_mb: int = 64_000,
                 partitions: str = "", config: str = "", min_job_age_s: int = 300, rest: bool = False, jwt: bool = False,
                 accounting: bool = False, name: str = "test") -> None:
        self.root = root
        self.nodes = nodes
        self.name = name
        self._wants = {"rest": rest, "jwt": jwt, "accounting": accounting}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._ports: dict[str, int] = {}
        self._shape = {"cores": cores, "memory_mb": memory_mb}
        self._more = {"partitions": partitions or _PARTITIONS.format(nodes=",".join(nodes)),
                      "config": config}  # fmt: skip
        self._min_job_age_s = min_job_age_s

    # -- what a driver is told ---------------------------------------------------------------------------------

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    @property
    def env(self) -> dict[str, str]:
        """The option `env` of a cloud on this cluster."""
        return {"SLURM_CONF": str(self.conf)}

    @property
    def rest_socket(self) -> Path:
        return self.root / "rest" / "slurmrestd.sock"

    @property
    def rest_port(self) -> int:
        return self._port("rest")

    def token(self, user: str = "", *, lifespan_s: int = 3600) -> str:
        """A JWT for slurmrestd (needs `jwt`)."""
        done = self.run("scontrol", "token", f"username={user or getpass.getuser()}", f"lifespan={lifespan_s}")
        return done.stdout.strip().partition("=")[2]

    # -- life --------------------------------------------------------------------------------------------------

    def __enter__(self) -> SlurmCluster:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        if error is not None:
            error.add_note(self.tails())
        self.stop()

    def start(self) -> SlurmCluster:
        """Until every host is idle."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for folder in ("state", "rest", *(f"spool-{node}" for node in self.nodes)):
            (self.root / folder).mkdir(exist_ok=True)
        (self.root / "rest").chmod(0o777)
        self._write_files()
        self.start_munge()
        if self._wants["accounting"]:
            self._start_accounting()
        self.start_controller()
        for node in self.nodes:
            self.start_node(node)
        until(lambda: self.idle() == len(self.nodes), "all hosts are idle", note=self.tails)
        if self._wants["rest"] or self._wants["jwt"]:
            self._start_rest()
        return self

    def stop(self) -> None:
        """Whatever happened: no process that knows of this directory is left."""
        for name in ("slurmctld", "slurmrestd", *(f"slurmd-{node}" for node in self.nodes), "slurmdbd", "munged", "mariadbd"):
            self.kill(name, signal.SIGTERM if name in ("mariadbd", "slurmdbd") else signal.SIGKILL)
        for _ in range(100):
            left = self.processes()
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if not left:
                return
            time.sleep(0.05)

    def start_munge(self) -> None:
        self._start("munged", "-F", f"--key-file={self.root}/munge.key", f"--socket={self.root}/munge.sock",
                    f"--pid-file={self.root}/munged.pid", f"--log-file={self.root}/munged.log",
                    f"--seed-file={self.root}/munge.seed", "--num-threads=2", "--force")  # fmt: skip
        until((self.root / "munge.sock").exists, "munged listens", note=self.tails)

    def start_controller(self) -> None:
        """Start slurmctld (again), until it answers."""
        self._start("slurmctld", "-D")
        until(lambda: " is UP" in self.run("scontrol", "ping", check=False).stdout, "slurmctld answers", note=self.tails)

    def start_node(self, node: str) -> None:
        self._start(f"slurmd-{node}", "-D", "-N", node)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End one daemon: `slurmctld`, `slurmd-n1`, `munged`, `slurmrestd`, ..."""
        process = self._daemons.pop(name, None)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)

    def wait_saved(self, name: str) -> None:
        """Until slurmctld has written down the job of that name, which takes some seconds: killed before, it forgets it."""
        path = self.root / "state" / "job_state"
        until(lambda: path.exists() and name.encode() in path.read_bytes(),
              f"job {name} is in {path.name}", note=self.tails)  # fmt: skip

    # -- looking -----------------------------------------------------------------------------------------------

    def run(self, *argv: str, check: bool = True, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command of this cluster."""
        return subprocess.run(argv, env=self.environment() | (env or {}), capture_output=True, text=True, timeout=_LIMIT_S,
                              check=check, cwd="/")  # fmt: skip

    def environment(self) -> dict[str, str]:
        return {"PATH": _PATH, "LC_ALL": "C", "HOME": str(self.root), "SLURM_CONF": str(self.conf)}

    def idle(self) -> int:
        """How many hosts have nothing to do."""
        done = self.run("sinfo", "--noheader", "--Node", "--Format=NodeList:|,StateCompact:|", check=False)
        return len({line for line in done.stdout.splitlines() if line.endswith("|idle|")})

    def queue(self) -> list[str]:
        """Ids of jobs that wait or run."""
        return self.run("squeue", "--noheader", "--array", "--format=%i").stdout.split()

    def clear(self) -> None:
        """Cancel everything and wait until it is gone."""
        self.run("scancel", f"--user={getpass.getuser()}", check=False)
        until(lambda: not self.queue(), "the queue is empty", note=self.tails)

    def processes(self) -> list[int]:
        """Ids of all processes that carry this directory in their words or environment, jobs too."""
        mark, found = str(self.root).encode(), []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    base = Path(entry.path)
                    if b") Z " in (base / "stat").read_bytes():
                        continue
                    if mark in (base / "cmdline").read_bytes() or mark in (base / "environ").read_bytes():
                        found.append(int(entry.name))
        return found

    def batch_process(self, job_id: str) -> int:
        """The process that the batch script of a running job is."""
        mark = f"SLURM_JOB_ID={job_id}\0".encode()
        for pid in self.processes():
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            above = Path(f"/proc/{parent}/cmdline").read_bytes()
            if b"slurmstepd" in above and mark in Path(f"/proc/{pid}/environ").read_bytes():
                return pid
        raise AssertionError(f"no batch process of job {job_id}\n{self.tails()}")

    def tails(self) -> str:
        """The ends of all logs, for a failed test."""
        found = []
        for path in sorted(self.root.glob("*.log")):
            if path.name.endswith(".out.log") and path.with_name(path.name.replace(".out", "")).exists():
                continue
            with contextlib.suppress(OSError):
                found.append(f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-15:]))
        return "\n".join(found)

    # -- parts -------------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        key = self.root / "munge.key"
        if not key.exists():
            _private(key, os.urandom(1024))
            _private(self.root / "jwt.key", os.urandom(32))
        more = [self._more["config"]]
        if self._wants["jwt"]:
            more.append(f"AuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key={self.root}/jwt.key")
        if self._wants["accounting"]:
            more.append(f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
                        f"AccountingStoragePort={self._port('slurmdbd')}\nAccountingStoragePass={self.root}/munge.sock\n"
                        "JobAcctGatherFrequency=1")  # fmt: skip
        facts = {"root": self.root, "host": socket.gethostname().partition(".")[0], "user": getpass.getuser(),
                 "name": self.name, "min_job_age_s": self._min_job_age_s, "port": self._port("slurmctld"),
                 "gather": "jobacct_gather/linux" if self._wants["accounting"] else "jobacct_gather/none",
                 "more": "\n".join(more)}  # fmt: skip
        text = _CONFIG.format(**facts)
        for number, node in enumerate(self.nodes):
            text += _NODE.format(name=node, host=facts["host"], port=self._port(node), feature="slow" if number else "fast",
                                 **self._shape)  # fmt: skip
        self.conf.write_text(text + self._more["partitions"] + "\n")
        if self._wants["accounting"]:
            text = _DBD.format(**{**facts, "port": self._port("slurmdbd")})
            if self._wants["jwt"]:
                text += f"AuthAltTypes=auth/jwt\nAuthAltParameters=jwt_key={self.root}/jwt.key\n"
            _private(self.root / "slurmdbd.conf", text.encode())

    def _start_accounting(self) -> None:
        data, user = self.root / "db", getpass.getuser()
        self.run("mariadb-install-db", "--no-defaults", f"--datadir={data}", f"--user={user}", "--skip-test-db",
                 "--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}")  # fmt: skip
        link = self.root / "db.sock"
        self._start("mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={link}", f"--user={user}", "--skip-networking",
                    "--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900")  # fmt: skip
        until(link.exists, "mariadbd listens", note=self.tails)
        # The client library finds the socket by this variable.
        self._start("slurmdbd", "-D", MYSQL_UNIX_PORT=str(link))
        until(lambda: self.run("sacctmgr", "-n", "list", "cluster", check=False).returncode == 0, "slurmdbd answers",
              note=self.tails)  # fmt: skip
        for words in (("cluster", self.name), ("account", "science", f"cluster={self.name}"),
                      ("user", user, "account=science", f"cluster={self.name}")):
            self.run("sacctmgr", "-i", "add", *words)

    def _start_rest(self) -> None:
        """slurmrestd does not run as root: root's runs as nobody, and so do the jobs it is given over the socket."""
        change = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        plugins = "openapi/v0.0.37,openapi/v0.0.38" + (",openapi/dbv0.0.38" if self._wants["accounting"] else "")
        if self._wants["jwt"]:
            words, env = ["-a", "rest_auth/jwt", f"127.0.0.1:{self.rest_port}"], {"SLURM_JWT": "daemon"}
        else:
            words, env = ["-a", "rest_auth/local", f"unix:{self.rest_socket}"], {}
        self._start("slurmrestd", "-s", plugins, *words, before=change, **env)
        if self._wants["jwt"]:
            until(lambda: _answers(self.rest_port), "slurmrestd listens", note=self.tails)
        else:
            until(self.rest_socket.exists, "slurmrestd listens", note=self.tails)

    def _start(self, name: str, *words: str, before: list[str] | None = None, **env: str) -> None:
        program = shutil.which(name.partition("-")[0], path=_PATH)
        assert program is not None, missing(name)
        # Whoever kills the tests kills the cluster.
        bound = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv", path=_PATH) else []
        with (self.root / f"{name}.out.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*(before or ()), *bound, program, *words], env=self.environment() | env, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, cwd="/", start_new_session=True)  # fmt: skip

    def _port(self, name: str) -> int:
        if name not in self._ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self._ports[name] = probe.getsockname()[1]
        return self._ports[name]


@contextlib.contextmanager
def cluster_in(folder: Path, **how: Any) -> Iterator[SlurmCluster]:
    """A cluster for as long as the block lasts; skips the test when Slurm is not installed."""
    import pytest

    needed = (*(REST if how.get("rest") or how.get("jwt") else ()), *(ACCOUNTING if how.get("accounting") else ()))
    why = missing(*needed)
    if why:
        pytest.skip(why)
    with SlurmCluster(folder, **how) as cluster:
        yield cluster


def until(condition: Callable[[], Any], what: str, *, limit_s: float = _LIMIT_S, note: Callable[[], str] | None = None) -> Any:
    """Poll until it is true, and return what it was."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:g} s: {what}\n{note() if note else ''}")
        time.sleep(0.05)
    return found


def _private(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
