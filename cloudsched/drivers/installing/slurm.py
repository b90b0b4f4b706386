"""How does a host become the controller or a node of a Slurm cluster? Its configuration, its join command, its steps.

Nodes stand in `nodes.conf`, which the controller and all nodes have; a new one is written there, slurmctld starts again, and the
others are told. What tells hosts apart (directories, the munge socket) is in each host's own `slurm.conf`.
"""

from __future__ import annotations

import base64
import ipaddress
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cloudsched.drivers.installing import slurm_scripts as sh
from cloudsched.drivers.installing.given import CGROUP, Options
from cloudsched.drivers.installing.hosts import Script
from cloudsched.drivers.installing.job import CONTROLLER, WORKER, Job, Step
from cloudsched.errors import Invalid

DEBS = {CONTROLLER: "munge slurmctld slurm-client", WORKER: "munge slurmd slurm-client"}
PROGRAMS = {CONTROLLER: "munged munge slurmctld scontrol sinfo squeue scancel", WORKER: "munged munge slurmd scontrol"}
SHOWN_FORM = "slurm join HOST:PORT --token TOKEN"

_JOIN = re.compile(r"slurm join (?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9._-]+):(?P<port>\d{1,5}) --token (?P<token>\S+)\Z")
_LOOPBACK = "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny\n"
_CLUSTER = """\
ClusterName={cluster}
SlurmctldHost={host}({address})
SlurmctldPort={slurmctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
CredType=cred/munge
SlurmUser={user}
{slurmd_user}ProctrackType={proctrack}
TaskPlugin={task}
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
GresTypes=gpu
ReturnToService=2
MaxNodeCount=4096
TreeWidth=65533
DebugFlags=NO_CONF_HASH
MailProg=/bin/true
DefMemPerCPU=100
{communication}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_PLUGINS = {CGROUP: ("proctrack/cgroup", "task/cgroup,task/affinity")}
_PLAIN_PLUGINS = ("proctrack/linuxproc", "task/none")
_CGROUP = "ConstrainCores=yes\nConstrainRAMSpace=yes\nConstrainDevices=yes\n"


@dataclass(frozen=True)
class Join:
    """A join command in its parts."""

    host: str
    port: int
    token: str

    @property
    def text(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"slurm join {host}:{self.port} --token {self.token}"


def parse_join(text: str) -> Join:
    """The one-line form. Raises Invalid at `join_command`, which never repeats the token."""
    found = _JOIN.match(" ".join(text.split()))
    if not found or not 0 < int(found["port"]) < 65536:
        raise Invalid.at("join_command", "is not a Slurm cluster's", SHOWN_FORM)
    return Join(found["host"].strip("[]"), int(found["port"]), found["token"])


def cluster_conf(options: Options, facts: Mapping[str, str], *, address: str) -> str:
    """What all hosts of the cluster have in common; `address`: where the controller is reached."""
    proctrack, task = _PLUGINS.get(options.isolation, _PLAIN_PLUGINS)
    user = facts.get("user", "") if options.prefix else "slurm"
    return _CLUSTER.format(
        cluster=options.cluster_name, host=facts.get("host_name", ""), address=address, slurmctld_port=options.slurmctld_port,
        slurmd_port=options.slurmd_port, user=user, slurmd_user=f"SlurmdUser={user}\n" if options.prefix else "",
        proctrack=proctrack, task=task, communication=_LOOPBACK if is_loopback(address) else "")  # fmt: skip


def node_line(options: Options, facts: Mapping[str, str], *, name: str, address: str) -> str:
    """A node's line in nodes.conf."""
    gpus = _gpus(options, facts)
    return (f"NodeName={name} NodeHostname={facts.get('host_name', '')} NodeAddr={address} Port={options.slurmd_port} "
            f"CPUs={options.cores or facts.get('cores', 1)} RealMemory={options.memory_mb or facts.get('memory_mb', 1)}"
            f"{f' Gres=gpu:{gpus}' if gpus else ''} State=UNKNOWN")


def conf_path(prefix: str) -> str:
    """Where a host's configuration is, for SLURM_CONF."""
    return f"{prefix}/etc/slurm.conf" if prefix else "/etc/slurm/slurm.conf"


def is_loopback(address: str) -> bool:
    """Does only this machine reach it?"""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


# the steps


def steps(job: Job) -> dict[Step, list[Script]]:
    """What each step runs, as far as is known now: facts come as the steps go on."""
    return _ACTIONS[job.action](job)


def _new_cluster(job: Job) -> dict[Step, list[Script]]:
    options, node = job.options, job.node
    common = cluster_conf(options, job.facts, address=job.address)
    gpus = _gpus(options, job.facts) if options.compute else 0
    line = node_line(options, job.facts, name=node, address=job.address)
    work = [register(options.prefix, node=node, line=line, member=job.member), start_node(options, node=node),
            ready(options.prefix, node=node)] if options.compute else []  # fmt: skip
    return {
        Step.LOOK: [look(options, CONTROLLER)], Step.PACKAGES: [packages(options, CONTROLLER)],
        Step.PREPARE: [prepare(options, CONTROLLER, node=node)],
        Step.CONFIGURE: [configure(options, CONTROLLER, node=node, common=common, gpus=gpus)],
        Step.START: [start_controller(options)], Step.FINISH: [replace(script, on="host") for script in work],
    }  # fmt: skip


def _new_worker(job: Job) -> dict[Step, list[Script]]:
    options, node, cluster = job.options, job.node, job.cluster
    line = node_line(options, job.facts, name=node, address=job.address)
    nodes = decoded(job.facts.get("nodes", ""))
    prefix = cluster.get("prefix", "")
    return {
        Step.LOOK: [look(options, WORKER)],
        Step.PACKAGES: [packages(options, WORKER, controller_version=cluster.get("version", ""))],
        Step.PREPARE: [prepare(options, WORKER, node=node, munge_key=cluster.get("key", ""))],
        Step.TELL: [register(prefix, node=node, line=line, member=job.member)],
        Step.CONFIGURE: [configure(options, WORKER, node=node, common=cluster.get("conf", ""), nodes=nodes,
                                   gpus=_gpus(options, job.facts))],
        Step.JOIN: [start_node(options, node=node)], Step.READY: [ready(prefix, node=node)],
    }  # fmt: skip


def _take_apart(job: Job) -> dict[Step, list[Script]]:
    prefix = job.options.prefix
    return {Step.STOP: [stop(prefix, job.role)], Step.ERASE: [erase(prefix, job.role)]}


_ACTIONS = {"new_cluster": _new_cluster, "new_worker": _new_worker, "take_apart": _take_apart}


def _gpus(options: Options, facts: Mapping[str, str]) -> int:
    return options.gpus or int(facts.get("gpus", 0))


def look(options: Options, role: str) -> Script:
    values = {**_base(options, role), "slurmctld_port": str(options.slurmctld_port), "slurmd_port": str(options.slurmd_port)}
    return _script(sh.LOOK, values)


def packages(options: Options, role: str, *, controller_version: str = "") -> Script:
    """`compute`: the controller needs what a node needs."""
    both = role == CONTROLLER and options.compute
    programs = f"{PROGRAMS[role]} slurmd" if both else PROGRAMS[role]
    debs = f"{DEBS[role]} slurmd" if both else DEBS[role]
    values = {**_base(options, role), "programs": programs, "debs": debs, "packages": options.packages, "bundle": options.bundle,
              "daemon": "slurmctld" if role == CONTROLLER else "slurmd", "controller_version": controller_version}
    return _script(sh.PACKAGES, values, limit_s=options.step_limit_s)


def prepare(options: Options, role: str, *, node: str, munge_key: str = "") -> Script:
    """`munge_key` in base64; the controller makes its own."""
    secrets = {"MUNGE_KEY": munge_key} if role == WORKER else {}
    return _script(sh.PREPARE, {**_base(options, role), "node": node}, secrets=secrets)


def configure(options: Options, role: str, *, node: str, common: str, nodes: str = "", gpus: int = 0) -> Script:
    gres = f"Name=gpu File=/dev/nvidia[0-{gpus - 1}]\n" if gpus > 1 else "Name=gpu File=/dev/nvidia0\n" if gpus else ""
    cgroup = _CGROUP if "proctrack/cgroup" in common else ""
    return _script(sh.CONFIGURE, {**_base(options, role), "node": node, "cluster_conf": common, "nodes_conf": nodes,
                                  "gres_conf": gres, "cgroup_conf": cgroup})


def start_controller(options: Options) -> Script:
    return _script(sh.START_CONTROLLER, {**_base(options, CONTROLLER), "slurmctld_port": str(options.slurmctld_port)})


def register(prefix: str, *, node: str, line: str, member: str) -> Script:
    """On the controller: write a node down; `member`: how it is reached, sealed, for when the others are told."""
    return _script(sh.REGISTER, {"prefix": prefix, "node": node, "node_line": line}, secrets={"MEMBER": member}, on=CONTROLLER)


def start_node(options: Options, *, node: str) -> Script:
    return _script(sh.START_NODE, {**_base(options, WORKER), "node": node})


def ready(prefix: str, *, node: str) -> Script:
    return _script(sh.READY, {"prefix": prefix, "node": node}, on=CONTROLLER)


def retell(prefix: str, *, nodes: str) -> Script:
    """On a node: the list of nodes as it is now."""
    return _script(sh.RETELL, {"prefix": prefix, "nodes_conf": nodes}, limit_s=90)


def remove_node(prefix: str, *, node: str, force: bool) -> Script:
    return _script(sh.REMOVE_NODE, {"prefix": prefix, "node": node, "force": "yes" if force else "no"})


def switch(prefix: str, *, node: str, state: str, drain: bool, reason: str) -> Script:
    return _script(sh.SWITCH, {"prefix": prefix, "node": node, "want": state, "drain": "yes" if drain else "no",
                               "reason": reason}, limit_s=90)


def stop(prefix: str, role: str) -> Script:
    return _script(sh.STOP, {"prefix": prefix, "role": role})


def erase(prefix: str, role: str) -> Script:
    return _script(sh.ERASE, {"prefix": prefix, "role": role})


def read_key(prefix: str) -> Script:
    """The munge key, in base64, as output."""
    return _script('base64 < "$key" | tr -d "\\n"', {"prefix": prefix}, limit_s=30)


def command(prefix: str, *words: str) -> Script:
    """One of Slurm's commands, with its configuration."""
    return _script(f"exec {shlex.join(words)} < /dev/null", {"prefix": prefix}, limit_s=60)


def nodes_json(prefix: str) -> Script:
    """Newer versions tell hosts by scontrol; older ones do not know the word there."""
    text = "scontrol show nodes --json 2>/dev/null < /dev/null || exec sinfo --json < /dev/null"
    return _script(text, {"prefix": prefix}, limit_s=60)


def controller_node(prefix: str) -> Script:
    """The name that the controller has as a node, where it is one."""
    text = 'grep -q "^NodeName=$(marked node) " "$conf/nodes.conf" 2>/dev/null && marked node; exit 0'
    return _script(text, {"prefix": prefix}, limit_s=30)


def features(prefix: str, *, node: str, words: Sequence[str]) -> Script:
    """Set a node's features, now and for the next start of the controller."""
    return _script(sh.FEATURES, {"prefix": prefix, "node": node, "features": ",".join(words)}, limit_s=60)


def decoded(fact: str) -> str:
    """A file that was told as a fact."""
    return base64.b64decode(fact).decode()


def _base(options: Options, role: str) -> dict[str, str]:
    return {"prefix": options.prefix, "role": role, "cluster": options.cluster_name}


def _script(text: str, values: Mapping[str, str], *, secrets: Mapping[str, str] | None = None, limit_s: float = 300.0,
            on: str = "host") -> Script:
    return Script(text, values, secrets or {}, limit_s, on, sh.COMMON)
