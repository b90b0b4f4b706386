"""How are clusters installed on hosts, as operations that go on where they stopped?

Kinds `hosts.new_cluster`, `hosts.new_worker`, `hosts.take_apart`. What a step does on a host is in `drivers/installing`; here it
is recorded. The request holds nothing secret in the clear; what is found out on the way (and the result) is one sealed
text per operation in the installation's settings, under `executor:<nonce>`.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cloudsched import clock
from cloudsched import settings as settings_module
from cloudsched.drivers.base import AUTH, DriverError
from cloudsched.drivers.installing import given, kubeadm, slurm
from cloudsched.drivers.installing.access import Access, access_from
from cloudsched.drivers.installing.hosts import Host, Script, StepFailed
from cloudsched.drivers.installing.job import (
    CONTROLLER,
    KINDS,
    NEW_CLUSTER,
    NEW_WORKER,
    SLURM,
    STEPS,
    TAKE_APART,
    WORKER,
    Job,
    Step,
)
from cloudsched.drivers.ssh.connection import Connection, Connections, on_all
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.sealed import Sealer, SealError
from cloudsched.services import operations
from cloudsched.services.operations import Later, Work
from cloudsched.settings import Settings
from cloudsched.store import operations as store
from cloudsched.store import system
from cloudsched.store.db import write

POLL_S = 1.0
AGAIN_S = 5.0
TRIES_MOST = 12  # of a host that is out of reach
APART_AWAY_S = 45.0  # so long after its first silence a host that is to be taken apart is asked again: with the tries, a minute
TEMPORARY_MOST = 4  # of a script that says it may go well later
OTHERS_AT_ONCE = 16
OTHERS_S = 60.0
ROLES = {NEW_CLUSTER: CONTROLLER, NEW_WORKER: WORKER}
_KEY = "executor:"
_BEGIN = r"""
umask 077
base=$HOME/.cloudsched-install
find "$base/runs" -mindepth 1 -maxdepth 1 -mtime +1 -exec rm -rf {} + 2>/dev/null
cat "$base/options" 2>/dev/null; echo; echo ::; cat "$base/installed" 2>/dev/null; exit 0
"""
_CLEAR = r"""
base=$HOME/.cloudsched-install
rm -rf "$base/runs" "$base/members" "$base"/told-*; rm -f "$base/installed" "$base/host.lock" "$base/known"
rmdir "$base" 2>/dev/null; exit 0
"""
_INSTALLERS = {SLURM: slurm.steps, "kubernetes": kubeadm.steps}
_settings: Settings | None = None
_connections = Connections()


def configure(settings: Settings) -> None:
    """Which installation this is: where its key is and what it knows of hosts. Said once by each process."""
    global _settings
    _settings = settings


def settings_now() -> Settings:
    """Those of `configure`; a process that was not told reads its environment."""
    return _settings if _settings is not None else settings_module.load({})


def sealer() -> Sealer:
    return Sealer.load(settings_now().state.dir)


def connect(access: Access, *, sudo: bool) -> Connection:
    """A connection that is kept for a while; host keys are pinned on first use."""
    pins = Path(settings_now().state.dir) / "ssh" / "hosts.pins"
    pins.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _connections.get(access.target(pins=str(pins), sudo=sudo))


def host(access: Access, *, prefix: str = "") -> Host:
    """One host; whoever is not root becomes root, unless all is below a directory of its own."""
    return Host(connect(access, sudo=not prefix))


def checked(action: str, access: Access, *, kind: str, options: Mapping[str, Any], join_command: str = "") -> Job:
    """What is asked for, as far as can be judged here. Raises Invalid naming the field."""
    if kind not in KINDS:
        raise Invalid.at("cluster_type", f"{kind!r} is no kind of cluster", ", ".join(KINDS))
    access.target(pins="")
    job = Job(action, kind, ROLES.get(action, ""), access, given.read(options), join_command=join_command)
    if action == NEW_WORKER:
        job.cluster = _cluster(kind, join_command)
    return job


def begin(action: str, access: Access, *, kind: str, role: str, actor: str, options: Mapping[str, Any],
          join_command: str = "", org: str = "") -> int:
    """Write the operation down, as one of `org`; the engine does it. Raises Invalid naming the field."""
    checked(action, access, kind=kind, options=options, join_command=join_command)
    sealed = sealer().seal(json.dumps({"access": json.loads(access.to_json()), "join_command": join_command}))
    request = {"host": access.label, "user": access.user, "org": org, "cluster": kind, "role": role or ROLES.get(action, ""),
               "options": {key: value for key, value in options.items() if key != "dry_run"},
               "nonce": secrets.token_hex(8), "sealed": sealed}  # fmt: skip
    return operations.begin(f"hosts.{action}", request, actor=actor)


def dry_run(action: str, access: Access, *, kind: str, options: Mapping[str, Any], join_command: str = "") -> dict[str, Any]:
    """What would be done, nothing of it done and no host asked: steps with their scripts, without what is secret."""
    job = checked(action, access, kind=kind, options=options, join_command=join_command)
    job.facts = {"host_name": job.node, "user": access.user}
    plan = _INSTALLERS[kind](job)
    where = {"host": access.label, "controller": job.cluster.get("label", "the controller")}
    return {"dry_run": True, "host": access.label, "steps": [
        {"step": str(step), "commands": [{"host": where[script.on], "script": script.shown()} for script in plan.get(step, ())]}
        for step in STEPS[action]]}  # fmt: skip


def state_of(number: int) -> dict[str, Any]:
    """What is known of an operation of ours, opened. Raises NotFound, SealError."""
    found = store.get(number)
    if found is None or not found.kind.startswith("hosts."):
        raise NotFound(f"there is no installation {number}")
    return _load(json.loads(found.request)["nonce"])


def forget(number: int) -> None:
    """Nothing is known any more of what an operation of ours gave. Raises NotFound."""
    found = store.get(number)
    if found is None or not found.kind.startswith("hosts."):
        raise NotFound(f"there is no installation {number}")
    nonce = json.loads(found.request)["nonce"]
    write(lambda tx: system.put_setting(tx, _KEY + nonce, ""))


def tell_others(members: Mapping[str, str], nodes: str, *, without: str = "") -> list[str]:
    """Give the nodes of a Slurm cluster its list of nodes as it is now; returns those that were not reached, with why."""
    box = sealer()
    reached, failed = {}, []
    for name, sealed in members.items():
        if name == without:
            continue
        try:
            told = json.loads(box.open(sealed))
            access = access_from(told["access"])
            connection = connect(access, sudo=not told["prefix"])
            reached[connection.target] = (name, told["prefix"])
        except (SealError, Invalid, ValueError):
            failed.append(f"{name}: how it is reached is not known to this server")
    results = on_all(list(reached), lambda target: Host(_connections.get(target)).asked(
        slurm.retell(reached[target][1], nodes=nodes), "its list of nodes"), parallel=OTHERS_AT_ONCE, timeout_s=OTHERS_S)
    return failed + [result.message for result in results if not result.ok]


def read_members(fact: str) -> dict[str, str]:
    """name -> sealed, as a script on the controller told them."""
    return {name: sealed for name, _, sealed in (word.partition(":") for word in fact.split()) if sealed}


# steps


class _Run:
    """One operation while one of its steps is looked at."""

    def __init__(self, told: Work) -> None:
        request = told.request
        self.nonce = request["nonce"]
        self.state = _load(self.nonce)
        secret = json.loads(sealer().open(request["sealed"]))
        access = access_from(secret["access"])
        action = told.operation.kind.removeprefix("hosts.")
        cluster = _cluster(request["cluster"], secret["join_command"]) if action == NEW_WORKER else {}
        first, last = _inherited(request["cluster"], cluster)
        options = given.read({**first, **self.state.get("host_options", {}), **request["options"], **last})
        role = ROLES.get(action, "") or self.state["facts"].get("role", "")
        self.job = Job(action, request["cluster"], role, access, options, facts=self.state["facts"],
                       cluster=cluster, join_command=secret["join_command"])  # fmt: skip
        if request["cluster"] == SLURM:
            self.job.member = self._member()

    def go(self, step: Step) -> Later | str | None:
        if self.job.action == TAKE_APART and step != Step.LOOK and not self.state["installed"]:
            return "nothing to do"
        try:
            said = _SPECIAL.get(step, _Run._scripts)(self, step)
        except DriverError as error:
            if not error.transient or self._given_up():
                raise
            return Later(AGAIN_S, error.message)
        if self.state["tries"].get("reach"):
            self.state["tries"]["reach"] = 0
            self.state.pop("away_since", None)
            self._save()
        return said

    def _given_up(self) -> bool:
        """Was a host that is out of reach asked often enough, and for one that is to be taken apart, long enough?"""
        since = self.state.setdefault("away_since", clock.now())
        long_enough = self.job.action == TAKE_APART and clock.now() - since >= APART_AWAY_S
        return self._tried("reach") >= TRIES_MOST or long_enough

    def _scripts(self, step: Step) -> Later | str | None:
        """All scripts of the step, one after the other; None when there is nothing to do."""
        number, said = 0, ""
        while number < len(scripts := _INSTALLERS[self.job.kind](self.job).get(step, [])):
            outcome = self._script(step, number, scripts[number])
            if isinstance(outcome, Later):
                return outcome
            said, number = outcome, number + 1
        return said or None

    def _script(self, step: Step, number: int, script: Script) -> Later | str:
        name = f"{list(Step).index(step)}-{number}"
        done: dict[str, str] = self.state["done"]
        if name in done:
            return done[name]
        where = self._where(script)
        progress = where.step(f"{self.nonce}-{name}-{self.state['tries'].get(name, 0)}", script)
        said = f"{where.label}: {progress.short() or 'done'}"
        if not progress.done:
            return Later(POLL_S, said if progress.short() else f"{where.label}: it runs")
        if progress.again and self._tried(name) < TEMPORARY_MOST:
            return Later(AGAIN_S, said)
        if progress.code:
            raise StepFailed(f"{where.label}: {step}: {progress.short() or f'exit status {progress.code}'}")
        self.state["facts"].update(progress.facts)
        done[name] = said
        self._save()
        return said

    def _look(self, step: Step) -> Later | str | None:
        """The host's own options count from here on."""
        if "host_options" not in self.state:
            options, marks = self._found_there()
            self.state |= {"host_options": options, "installed": marks}
            if self.job.action == TAKE_APART:
                self._taken(marks)
            self._save()
            return Later(0.0, f"{self.job.access.label}: it is there")
        if self.job.action == TAKE_APART:
            marks = self.state["installed"]
            told = f"{marks['role']} of the {marks['kind']} cluster {marks['cluster']}" if marks else "nothing of ours is there"
            return f"{self.job.access.label}: {told}"
        return self._scripts(step)

    def _found_there(self) -> tuple[dict[str, str], dict[str, str]]:
        """The host's own options, and what is installed: as the account itself, then as root unless all is in a directory."""
        own, root = host(self.job.access, prefix="own"), host(self.job.access)
        options, marks = _first_look(own)
        if self.job.access.user == "root" or self.job.options.prefix or options.get("prefix") or marks.get("prefix"):
            return options, marks
        try:
            return _first_look(root)
        except DriverError as error:
            if error.code != AUTH or self.job.action != TAKE_APART:
                raise
            return options, marks  # who cannot become root has installed nothing as root

    def _taken(self, marks: Mapping[str, str]) -> None:
        """What is there decides what is taken apart, and where it is."""
        if marks and marks.get("kind") != self.job.kind:
            raise Conflict(f"{self.job.access.label}: this host belongs to a {marks.get('kind')} cluster, not to a "
                           f"{self.job.kind} one")  # fmt: skip
        self.state["facts"]["role"] = marks.get("role", "")
        if marks.get("prefix"):
            self.state["host_options"]["prefix"] = marks["prefix"]

    def _others(self, _: Step) -> Later | str | None:
        if self.job.kind != SLURM:
            return None
        waiting = self.state.setdefault("others", [name for name in read_members(self.job.facts.get("members", ""))
                                                   if name != self.job.node])  # fmt: skip
        members = read_members(self.job.facts.get("members", ""))
        now, rest = waiting[:OTHERS_AT_ONCE], waiting[OTHERS_AT_ONCE:]
        nodes = slurm.decoded(self.job.facts.get("nodes", ""))
        failed = tell_others({name: members[name] for name in now}, nodes) if now else []
        missed = self.state.setdefault("missed", []) + failed
        self.state |= {"others": rest, "missed": missed}
        self._save()
        if rest:
            return Later(0.05, f"{len(rest)} nodes to be told")
        return f"not told, until the next change: {'; '.join(missed)}"[:400] if missed else "all others know it"

    def _result(self, _: Step) -> Later | str | None:
        """What the next hosts need, read back and sealed."""
        job, where = self.job, host(self.job.access, prefix=self.job.options.prefix)
        if job.kind == SLURM:
            key = where.asked(slurm.read_key(job.options.prefix), "the munge key").strip()
            if len(base64.b64decode(key)) < 32:
                raise StepFailed(f"{where.label}: the munge key cannot be read")
            token = {"key": key, "conf": slurm.cluster_conf(job.options, job.facts, address=job.address),
                     "prefix": job.options.prefix, "cluster": job.options.cluster_name, "version": job.facts.get("version", ""),
                     "slurmd_port": job.options.slurmd_port, "access": json.loads(job.access.to_json())}  # fmt: skip
            sealed = sealer().seal(json.dumps(token))
            found = {"join_command": slurm.Join(job.address, job.options.slurmctld_port, sealed).text}
        else:
            found = kubeadm.read_result(where)
        self.state["result"] = found
        self._save()
        return f"{where.label}: the join command is kept, sealed"

    def _tidy(self, _: Step) -> Later | str | None:
        job, where = self.job, host(self.job.access, prefix=self.job.options.prefix)
        if job.action == TAKE_APART:
            where.asked(Script(_CLEAR, limit_s=30), "tidy up")
            return f"{where.label}: nothing of ours is left"
        where.forget(self.nonce)
        if job.action == NEW_WORKER and job.kind == SLURM:
            self._controller().forget(self.nonce)
        self.state["facts"] = {key: value for key, value in self.state["facts"].items() if key not in ("nodes", "members")}
        self.state["facts"] |= {"node_name": job.node, "address": job.address}
        if job.kind == SLURM:
            self.state["facts"]["slurm_conf"] = slurm.conf_path(job.options.prefix)
        self._save()
        return f"{where.label}: done"

    def _where(self, script: Script) -> Host:
        return self._controller() if script.on == CONTROLLER else host(self.job.access, prefix=self.job.options.prefix)

    def _controller(self) -> Host:
        cluster: Mapping[str, Any] = self.job.cluster
        return host(access_from(cluster["access"]), prefix=cluster["prefix"])

    def _member(self) -> str:
        """Sealed once: a script that runs again is the same script."""
        if "member" not in self.state:
            told = {"access": json.loads(self.job.access.to_json()), "prefix": self.job.options.prefix}
            self.state["member"] = sealer().seal(json.dumps(told))
        return str(self.state["member"])

    def _tried(self, name: str) -> int:
        """How often it was, this time counted."""
        tries: dict[str, int] = self.state["tries"]
        tries[name] = tries.get(name, 0) + 1
        self._save()
        return tries[name]

    def _save(self) -> None:
        text = sealer().seal(json.dumps(self.state))
        write(lambda tx: system.put_setting(tx, _KEY + self.nonce, text))


_SPECIAL: dict[Step, Callable[[_Run, Step], Later | str | None]] = {
    Step.LOOK: _Run._look, Step.OTHERS: _Run._others, Step.RESULT: _Run._result, Step.TIDY: _Run._tidy}


def _first_look(where: Host) -> tuple[dict[str, str], dict[str, str]]:
    said = where.asked(Script(_BEGIN, limit_s=30), "what is there")
    options, _, installed = said.partition("\n::\n")
    return given.parse_host_options(options), dict(line.split("=", 1) for line in installed.splitlines() if "=" in line)


def _load(nonce: str) -> dict[str, Any]:
    kept = system.setting(_KEY + nonce)
    found: dict[str, Any] = json.loads(sealer().open(kept)) if kept else {}
    return {"tries": {}, "facts": {}, "done": {}} | found


def _cluster(kind: str, join_command: str) -> dict[str, Any]:
    """What a join command says. Raises Invalid at `join_command`."""
    if kind != SLURM:
        return kubeadm.parse_join(join_command)
    join = slurm.parse_join(join_command)
    try:
        found: dict[str, Any] = json.loads(sealer().open(join.token))
    except (SealError, ValueError):
        raise Invalid.at("join_command", "was not made by this server, or with a key that it has forgotten",
                         "the join command of a cluster that was installed from here") from None  # fmt: skip
    found["label"] = access_from(found["access"]).label
    return found


def _inherited(kind: str, cluster: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a node has from its cluster: unless somebody says otherwise, and whatever anybody says."""
    if kind != SLURM or not cluster:
        return {}, {}
    return {"slurmd_port": cluster["slurmd_port"]}, {"cluster_name": cluster["cluster"]}


def _step(step: Step) -> Callable[[Work], Later | str | None]:
    return lambda told: _Run(told).go(step)


def _register() -> None:
    for action, names in STEPS.items():
        plan: Sequence[tuple[str, Callable[[Work], Later | str | None]]] = [(str(name), _step(name)) for name in names]
        operations.register(f"hosts.{action}", plan)


_register()
