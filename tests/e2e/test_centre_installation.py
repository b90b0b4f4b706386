"""Does an installation bring up a Slurm cluster that runs jobs, whoever is killed meanwhile, and does it take it away again?

Three real sshd hosts of one machine, each with directories and ports of its own; the account logs in by password where root can
make one. The process that does the operations is a real one, killed and replaced.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloudsched import settings as settings_module
from cloudsched.agent import processes
from cloudsched.drivers.installing import slurm
from cloudsched.drivers.installing.hosts import Host, Script
from cloudsched.errors import Conflict, NotFound
from cloudsched.services import operations
from cloudsched.services.centre import executor
from cloudsched.services.centre import executor_ops as ops
from cloudsched.services.centre.executor import Access, Where
from cloudsched.settings import Settings
from cloudsched.store import db, migrations
from tests.drivers.slurm.cluster import missing
from tests.drivers.ssh.sshd import Account, Sshd, Sshds, free_port, why_not

pytestmark = [pytest.mark.engines, pytest.mark.timeout(400)]
LIMIT_S = 180.0
LEASE_S = 3.0
_WORKER = """
import sys, time
from cloudsched import settings
from cloudsched.services.centre import executor
from cloudsched.services import operations
from cloudsched.store import db
found = settings.load({"state": sys.argv[1]}, environ={})
db.open_database(sys.argv[2])
executor.configure(found)
while True:
    operations.work(sys.argv[3], lease_s=float(sys.argv[4]))
    time.sleep(0.05)
"""


class Site:
    """Three hosts, a database, and a process that does what is due."""

    def __init__(self, root: Path, house: Sshds, account: Account | None) -> None:
        self.root, self.account = root, account
        self.state = root / "state"
        self.state.mkdir(mode=0o700)
        self.settings: Settings = settings_module.load({"state": str(self.state)}, environ={})
        self.url = f"sqlite:///{self.state}/cloudsched.db"
        self.database = db.open_database(self.url)
        migrations.migrate(self.database)
        executor.configure(self.settings)
        self.hosts = [house.start(password=account is not None) for _ in range(3)]
        for one in self.hosts:
            (one.folder / "slurm").mkdir()
            if account is not None:
                os.chown(one.folder / "slurm", *account.ids)
                os.chown(one.home, *account.ids)
        self.port = free_port()
        self.workers = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.shown: set[str] = set()
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def access(self, host: Sshd) -> Access:
        if self.account is not None:
            return Access(host.address, host.port, self.account.name, self.account.password, host_key=host.host_key())
        return Access(host.address, host.port, getpass.getuser(), key=host.client_key.read_text(), host_key=host.host_key())

    def options(self, number: int, **more: Any) -> dict[str, Any]:
        return {"prefix": str(self.hosts[number].folder / "slurm" / "all"), "node_name": f"n{number}",
                "slurmd_port": free_port(), "cores": 4, "memory_mb": 4000, **more}

    def prefix(self, number: int) -> Path:
        return self.hosts[number].folder / "slurm" / "all"

    @property
    def where(self) -> Where:
        return Where(self.access(self.hosts[0]))

    def start(self) -> None:
        self.workers += 1
        with (self.root / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, str(self.state), self.url, f"w{self.workers}", str(LEASE_S)],
                stdout=log, stderr=log, start_new_session=True)  # fmt: skip

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=20)
            self.process = None

    def done(self, number: int) -> dict[str, Any]:
        ended, ok, result, error = executor.wait(number, LIMIT_S)
        assert ended and ok, f"{error}\n{operations.one(number)['steps']}\n{self.tails()}"
        return result

    def slurm(self, *words: str) -> str:
        """A command on the controller."""
        found = Host(ops.connect(self.access(self.hosts[0]), sudo=False))
        return found.asked(slurm.command(str(self.prefix(0)), *words), words[0])

    def processes(self, name: str) -> list[int]:
        """Daemons of that name of this site."""
        found = []
        for pid in processes.every_pid():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().strip() == name and \
                        str(self.root).encode() in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def tails(self) -> str:
        logs = [path for one in self.hosts for path in sorted((one.folder / "slurm").glob("all/log/*"))]
        return "\n".join(f"--- {path}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-6:])
                         for path in [self.root / "worker.log", *logs])  # fmt: skip

    def _watch(self) -> None:
        """Every command line there is while this runs."""
        while not self._watching.wait(0.02):
            for pid in processes.every_pid():
                with contextlib.suppress(OSError):
                    self.shown.add(Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace"))

    def close(self) -> None:
        self._watching.set()
        self._watcher.join()
        self.kill()
        ops._connections.close()
        self.database.close()


@pytest.fixture
def site() -> Iterator[Site]:
    if why := why_not() or missing():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cs-centre-", ignore_cleanup_errors=True)))
        root.chmod(0o711)
        account = stack.enter_context(Account(root / "home")) if os.geteuid() == 0 else None
        made = Site(root, stack.enter_context(Sshds(root)), account)
        stack.callback(made.close)
        yield made


def until(condition: Callable[[], Any], what: str, limit_s: float = LIMIT_S) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def step_states(number: int) -> dict[str, str]:
    return {row["name"]: row["state"] for row in operations.one(number)["steps"]}


def test_a_cluster_its_life_and_its_end(site: Site) -> None:
    site.start()
    number = executor.new_cluster(site.access(site.hosts[0]), kind="slurm", role="master", actor="ada",
                                  options=site.options(0, slurmctld_port=site.port, cluster_name="demo", compute=True))
    made = site.done(number)
    assert made["version"] and made["node_name"] == "n0"
    join = executor.result(number, site.settings)["join_command"]
    assert join.startswith(f"slurm join 127.0.0.1:{site.port} --token ")

    options = {at: site.options(at) for at in (1, 2)}

    def join_in(at: int) -> dict[str, Any]:
        return site.done(executor.new_worker(site.access(site.hosts[at]), kind="slurm", join_command=join, role="worker",
                                             actor="ada", options=options[at]))  # fmt: skip

    assert [join_in(at)["node_name"] for at in (1, 2)] == ["n1", "n2"]
    found = {row["node_name"]: row for row in executor.nodes(site.where)}
    assert sorted(found) == ["n0", "n1", "n2"] and found["n0"]["node_role"] == "control-plane"
    until(lambda: set(statuses(site).values()) == {"Ready"}, "all nodes answer after the controller's new start")
    assert {one.name: one.cpu_m for one in executor.free_nodes(site.where)} == {"n0": 4000, "n1": 4000, "n2": 4000}
    # every node has the same list of nodes
    assert len({(site.prefix(at) / "etc" / "nodes.conf").read_text() for at in range(3)}) == 1

    # jobs: on each node, and one over all of them
    out = site.prefix(0) / "state" / "out"
    site.slurm("sbatch", "-D", "/", "-N3", "-o", str(out), "--wrap", "srun -l sh -c 'echo $SLURMD_NODENAME'")
    until(lambda: out.exists() and sorted(line.split()[-1] for line in out.read_text().splitlines()) == ["n0", "n1", "n2"],
          f"the job has run everywhere: {out.read_text() if out.exists() else site.slurm('squeue')}")
    site.slurm("sbatch", "-D", "/", "-w", "n2", "-J", "busy", "-o", "/dev/null", "--wrap", "sleep 600")
    running = until(lambda: [row for row in executor.pods(site.where) if row["pod_name"].startswith("busy")
                             and row["pod_running"] == "Running"], "the job runs")
    assert running[0]["pod_node"] == "n2" and running[0]["pod_ready"] == "1/1" and running[0]["pod_namespace"] == "main"
    assert {one.name: one.cpu_m for one in executor.free_nodes(site.where)}["n2"] == 3000

    # a label, a switch, a node that leaves
    assert executor.label(site.where, "n1", "zone=a") == {"zone": "a"}
    before = site.processes("slurmctld"), site.processes("slurmd")
    join_in(1)  # the same again: nothing is started anew, and the label is kept
    assert (site.processes("slurmctld"), site.processes("slurmd")) == before
    assert executor.label(site.where, "n1", "zone=a", "unlabel") == {}
    assert executor.switch(site.where, "n1", state="cordon") == {"node_name": "n1", "state": "cordon", "drain": False}
    assert statuses(site)["n1"] == "Ready,SchedulingDisabled"
    executor.switch(site.where, "n1", state="uncordon")
    assert statuses(site)["n1"] == "Ready"
    with pytest.raises(Conflict, match="1 jobs run on n2"):
        executor.delete_node(site.where, "n2")
    executor.switch(site.where, "n2", state="cordon", drain=True)
    assert [row["pod_running"] for row in executor.pods(site.where) if row["pod_name"].startswith("busy")] == ["Pending"]
    executor.delete_node(site.where, "n2", force=True)
    assert sorted(statuses(site)) == ["n0", "n1"]
    assert "n2" not in (site.prefix(1) / "etc" / "nodes.conf").read_text()
    with pytest.raises(NotFound):
        executor.delete_node(site.where, "n2")
    site.done(executor.take_apart(site.access(site.hosts[2]), kind="slurm", actor="ada"))
    assert not site.prefix(2).exists() and os.listdir(site.hosts[2].home) == []

    for at in (1, 0):
        site.done(executor.take_apart(site.access(site.hosts[at]), kind="slurm", actor="ada"))
    for name in ("munged", "slurmctld", "slurmd", "slurmstepd"):
        until(lambda name=name: not site.processes(name), f"no {name} is left: {site.processes(name)}", 20)  # type: ignore[misc]
    assert [os.listdir(one.home) for one in site.hosts] == [[], [], []]
    assert not any(site.prefix(at).exists() for at in range(3))
    nothing_secret(site, join)


def statuses(site: Site) -> dict[str, str]:
    return {row["node_name"]: row["node_status"] for row in executor.nodes(site.where)}


def nothing_secret(site: Site, join: str) -> None:
    """Neither database, logs, events nor any command line of all that time."""
    token = slurm.parse_join(join)
    clear = ops._cluster("slurm", join)
    words = {"token": token.token, "munge key": clear["key"]}
    if site.account is not None:
        words["password"] = site.account.password
    kept = b"".join(path.read_bytes() for path in site.state.rglob("*") if path.is_file() and path.name != "secret.key")
    kept += (site.root / "worker.log").read_bytes()
    for what, word in words.items():
        assert word.encode() not in kept, f"the {what} is in the state directory"
        assert not [line for line in site.shown if word in line], f"the {what} was in a list of processes"
    assert any("slurmctld" in line for line in site.shown)


def test_killed_in_the_middle_it_goes_on(site: Site) -> None:
    """The process is killed again and again; every daemon is started once, and the cluster comes up."""
    number = executor.new_cluster(site.access(site.hosts[0]), kind="slurm", actor="ada",
                                  options=site.options(0, slurmctld_port=site.port))
    kill_until_done(site, number, pause_s=0.35)
    site.start()
    join = executor.result(number)["join_command"]
    site.kill()
    begun = executor.new_worker(site.access(site.hosts[1]), kind="slurm", join_command=join, actor="ada", options=site.options(1))
    kill_until_done(site, begun, pause_s=0.5)
    until(lambda: statuses(site) == {"n1": "Ready"}, "the node answers")
    assert len(site.processes("slurmctld")) <= 2 and len(site.processes("slurmd")) == 1  # slurmctld has a helper of its own name
    assert len(site.processes("munged")) == 2
    site.slurm("sbatch", "-D", "/", "-W", "-o", "/dev/null", "--wrap", "true")
    site.start()
    for at in (1, 0):
        site.done(executor.take_apart(site.access(site.hosts[at]), kind="slurm"))
    assert not site.processes("slurmd") and not site.processes("munged")


def kill_until_done(site: Site, number: int, *, pause_s: float) -> None:
    """Start, kill, start ...; the steps that are done stay done."""
    done_before: set[str] = set()
    for _ in range(4):
        site.start()
        deadline = time.monotonic() + LEASE_S + pause_s
        while time.monotonic() < deadline and operations.one(number)["state"] not in ("succeeded", "failed"):
            time.sleep(0.05)
        site.kill()
        done = {name for name, state in step_states(number).items() if state == "done"}
        assert done >= done_before
        done_before = done
    site.start()
    site.done(number)
    site.kill()


def test_what_is_wrong_is_said_with_host_and_step(site: Site) -> None:
    site.start()
    host = site.hosts[0]
    wrong = replace(site.access(host), password="wrong-" + secrets.token_hex(4), key="")
    number = executor.new_cluster(wrong, kind="slurm", options=site.options(0))
    ended, ok, _, error = executor.wait(number, LIMIT_S)
    assert ended and not ok and f"127.0.0.1:{host.port}" in error and "is not let in" in error
    assert wrong.password not in str(operations.one(number))

    number = executor.new_cluster(site.access(host), kind="slurm", options=site.options(0, slurmctld_port=host.port))
    ended, ok, _, error = executor.wait(number, LIMIT_S)
    assert not ok and f"port {host.port} is taken" in error and "look at the host" in error

    theirs = site.prefix(0)
    theirs.mkdir()
    (theirs / "precious").write_text("x")
    number = executor.new_cluster(site.access(host), kind="slurm", options=site.options(0, slurmctld_port=site.port))
    assert "is not ours" in executor.wait(number, LIMIT_S)[3]
    assert (theirs / "precious").read_text() == "x"
    site.done(executor.take_apart(site.access(host), kind="slurm"))  # nothing there is no error
    assert (theirs / "precious").exists()


# where the distribution has it

_OWN_SYSTEM = """\
set -e
for place in /etc/slurm /etc/munge /etc/default /var/lib/slurm /var/lib/munge /var/log /run; do
  mkdir -p $place
  cp -a $place $1$place.before 2>/dev/null || true
  mount -t tmpfs none $place
done
mkdir -p /run/sshd $2
shift 2
exec "$@"
"""
_SYSTEMCTL = """#!/bin/sh
# Units as Debian has them, for a system without an init.
end() {
  [ ! -f /run/unit-$1 ] || kill $(cat /run/unit-$1)
  rm -f /run/unit-$1
  [ $1 != munge ] || pkill -F /run/munge/munged.pid
}
begin() {
  case $1 in
  munge)
    for name in /run/munge /var/lib/munge /var/log/munge; do mkdir -p $name; chown munge:munge $name; chmod 700 $name; done
    chmod 755 /run/munge; exec runuser -u munge -- munged --force;;
  esac
  SLURMD_OPTIONS=; [ $1 = slurmctld ] || . /etc/default/slurmd
  setsid env -u SLURM_CONF /usr/sbin/$1 -D $SLURMD_OPTIONS < /dev/null > /dev/null 2>&1 7>&- 8>&- 9>&- &
  echo $! > /run/unit-$1
}
echo "$*" >> /run/systemd/calls
case $1 in
start) [ -f /run/unit-$2 ] || begin $2;;
restart) end $2; sleep 1; begin $2;;
stop) end $2;;
disable) end $3;;
esac
exit 0
"""


@pytest.fixture(params=["no init", "units"])
def systems(site: Site, request: pytest.FixtureRequest) -> Iterator[list[Sshd]]:
    """Two hosts that have the system's directories for themselves, with daemons started as they are, or as units (by a
    stand-in of systemctl); only root can make such hosts."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        pytest.skip("mount namespaces cannot be made here")
    script = site.root / "own-system"
    script.write_text(_OWN_SYSTEM)
    (site.root / "kept").mkdir()
    units = request.param == "units"
    (site.root / "bin").mkdir()
    (site.root / "bin" / "systemctl").write_text(_SYSTEMCTL)
    (site.root / "bin" / "systemctl").chmod(0o755)
    enter = site.root / "enter"
    enter.write_text(f'PATH={site.root}/bin:$PATH; export PATH; exec /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n')
    words = ("unshare", "--mount", "--propagation", "private", "/bin/sh", str(script), "/x",
             "/run/systemd/system" if units else "/run/none")  # fmt: skip
    with Sshds(site.root / "kept") as house:
        yield [house.start(password=True, prefix=words, settings=(f"ForceCommand /bin/sh {enter}",) if units else ())
               for _ in range(2)]  # fmt: skip


@pytest.fixture
def sudoer(site: Site) -> Iterator[Account]:
    with Account(site.root / "sudoer", sudo="password") as made:
        yield made


def test_without_a_directory_of_its_own(site: Site, systems: list[Sshd], sudoer: Account) -> None:
    """Slurm as Debian has it: its paths, its users, its units; on one host by an account that becomes root by sudo."""
    units = "ForceCommand" in (systems[0].folder / "sshd_config").read_text()
    first, second = (Access(one.address, one.port, "root", key=one.client_key.read_text(), host_key=one.host_key())
                     for one in systems)
    if not units:  # sudo has a path of its own, where the stand-in is not
        second = replace(second, user=sudoer.name, password=sudoer.password, key="")
    site.start()
    ports = {"slurmctld_port": site.port, "slurmd_port": free_port(), "node_name": "p0", "cores": 2, "memory_mb": 2000}
    number = executor.new_cluster(first, kind="slurm", options=ports)
    assert site.done(number)["slurm_conf"] == "/etc/slurm/slurm.conf"
    join = executor.result(number)["join_command"]
    site.done(executor.new_worker(second, kind="slurm", join_command=join, options={
        "slurmd_port": free_port(), "node_name": "p1", "cores": 2, "memory_mb": 2000}))
    where = Where(first)
    until(lambda: [row["node_status"] for row in executor.nodes(where)] == ["Ready"], "the node answers")
    found = Host(ops.connect(first, sudo=False))
    out = site.root / "out"
    site.root.chmod(0o777)
    found.asked(slurm.command("", "sbatch", "-D", "/", "-W", "-o", str(out), "--wrap", "id -un; echo $SLURMD_NODENAME"), "sbatch")
    assert out.read_text().split() == ["root", "p1"]
    if units:
        there = Host(ops.connect(second, sudo=False))
        assert "restart slurmctld" in found.asked(Script("cat /run/systemd/calls", limit_s=20), "calls")
        assert "start slurmd" in there.asked(Script("cat /run/systemd/calls", limit_s=20), "calls")
    executor.delete_node(where, "p1")
    for access in (second, first):
        site.done(executor.take_apart(access, kind="slurm"))
    left = found.asked(Script("ls -A /etc/slurm /etc/munge /run/slurm; pgrep -x munged || true", limit_s=20), "what is left")
    assert "slurm.conf" not in left and "munge.key" not in left
    assert not [line for line in site.shown if sudoer.password in line]
