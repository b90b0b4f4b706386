"""How is this very machine a cloud? A "VM" is an agent in a process of its own, with a share of cores and memory.

What is known of a machine lives in `<state_dir>/local/<cloud>/<name>/`: `machine.json` (the intent, then the process
id with its start time), `token`, `agent.log` and `work/`. The directory is there before the process and goes after
it, so whoever comes next, the same process or another one after a crash, finds every machine and can adopt or
destroy it. The process carries the machine's mark in its environment: one that was started but not yet written down
is found by it, and so is every job process, however far it has run away.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import cloudsched
from cloudsched.agent import privileges, processes, scratch
from cloudsched.agent.session import write_private
from cloudsched.drivers import base, children
from cloudsched.drivers.base import Check, DriverError, Machine, Place, Wanted
from cloudsched.errors import Invalid

KIND = "Local"
DIR_MODE = 0o711  # an unprivileged agent passes through, and lists nothing
NODE, INSTANCE, MARK = "CLOUDSCHED_NODE", "CLOUDSCHED_INSTANCE", "CLOUDSCHED_MACHINE"
UNPRIVILEGED = "nobody"
STOP_GRACE_S = 3.0
KILL_TIMEOUT_S = 10.0
MAX_NAME = 255

OPTIONS = ("log_level", "orphan_timeout_s", "run_as", "tags")
_LOG_LEVELS = ("debug", "info", "warning", "error")


def make(place: Place) -> LocalDriver:
    """The driver of a local cloud. Options: `run_as` (`auto`, '' or a user), `orphan_timeout_s` (600), `log_level`
    (`info`), `tags` (text, comma between); Invalid when one of them is wrong or the place has no `state_dir`."""
    return LocalDriver(place)


class LocalDriver:
    """Agents on this machine."""

    kind = KIND
    capabilities = frozenset({base.BOOT, base.DESTROY, base.LIST})

    def __init__(self, place: Place) -> None:
        if not place.state_dir:
            raise Invalid.at("state_dir", "a local cloud needs a directory for its machines")
        self._place = place
        self._root = Path(place.state_dir).absolute() / "local" / _folder(place.name or "local")
        self._run_as = str(place.options.get("run_as", "auto") or "")
        self._orphan_timeout_s = _seconds(place.options.get("orphan_timeout_s", 600))
        self._log_level = str(place.options.get("log_level") or "info")
        self._tags = str(place.options.get("tags") or "")
        if self._log_level not in _LOG_LEVELS:
            raise Invalid.at("log_level", f"{self._log_level!r} is not a level", ", ".join(_LOG_LEVELS))

    # -- the Driver protocol -----------------------------------------------------------------------------------

    def verify(self) -> list[Check]:
        """Can agents be started here?"""
        return [self._check_directory(), self._check_python(), self._check_user(), self._check_proc()]

    def boot(self, wanted: Wanted) -> Machine:
        """Start the agent of `wanted.name` unless it runs; a dead one is started afresh. Takes some milliseconds."""
        _check_wanted(wanted)
        server_url = wanted.server_url or self._place.server_url
        if urlsplit(server_url).scheme not in ("http", "https"):
            raise DriverError(f"server_url: {server_url!r} is not a URL the agent can call", code=base.REQUEST)
        try:
            with self._locked(wanted.name) as home:
                return self._boot(home, wanted, server_url)
        except OSError as error:
            code = base.QUOTA if error.errno in (11, 12, 24, 28) else base.OTHER
            raise DriverError(
                f"cannot start the agent of {wanted.name}: {error.strerror}", code=code, transient=code == base.QUOTA
            ) from error

    def machines(self) -> list[Machine]:
        """One for each directory; a dead agent is `Shutdown` as long as its directory is there."""
        children.reap()
        found = []
        for home in self._homes():
            facts = _read_facts(home)
            if facts is not None:
                found.append(self._machine(home, facts))
        return found

    def destroy(self, name: str, handle: Mapping[str, Any]) -> None:
        """Stop the agent, kill every process of it and of its jobs, remove the directory; returns when proved."""
        home = self._root / _folder(name)
        if not home.is_dir():
            return
        with self._locked(name):
            facts = _read_facts(home) or {"name": name}
            _stop_agent(facts)
            self._kill_all(home, facts)
            _remove(home)
            if home.exists():
                raise DriverError(f"the directory of {name} cannot be removed: {home}", transient=True)
            self._lock_path(name).unlink(missing_ok=True)

    # -- boot --------------------------------------------------------------------------------------------------

    def _boot(self, home: Path, wanted: Wanted, server_url: str) -> Machine:
        facts = _read_facts(home)
        if facts is not None and _agent_process(facts) is not None:
            return self._machine(home, facts)
        if facts is not None or home.exists():  # interrupted or dead: away with what is left, then afresh
            self._kill_all(home, facts or {"name": wanted.name})
            _remove(home)
        user, note = self._user()
        facts = _intent(wanted, instance=self._place.instance, server_url=server_url, user=user, note=note)
        self._prepare(home, facts, wanted.join_token)
        facts["pid"], facts["started"] = self._spawn(home, facts)
        _write_facts(home, facts)
        return self._machine(home, facts)

    def _prepare(self, home: Path, facts: dict[str, Any], token: str) -> None:
        home.mkdir(DIR_MODE)
        home.chmod(DIR_MODE)
        _write_facts(home, facts)
        write_private(str(home / "token"), token)
        (home / "work").mkdir(0o700)

    def _spawn(self, home: Path, facts: dict[str, Any]) -> tuple[int, int]:
        log = os.open(home / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            actions = [(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate((null, null, log))]
            pid = os.posix_spawn(
                sys.executable,
                self._command(home, facts),
                self._environment(facts),
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        finally:
            os.close(log)
            os.close(null)
        children.started(pid)
        return pid, processes.start_time(pid) or 0

    def _command(self, home: Path, facts: dict[str, Any]) -> list[str]:
        wanted = facts["wanted"]
        command = [sys.executable, "-S", "-m", "cloudsched.agent", "--server", facts["server_url"],
                   "--token-file", str(home / "token"), "--name", facts["name"], "--work-dir", str(home / "work"),
                   "--cores", str(wanted["cores"]), "--memory-mb", str(wanted["memory_mb"]),
                   "--storage-gb", str(wanted["storage_gb"]), "--slots", str(max(1, wanted["slots"])),
                   "--orphan-timeout", f"{self._orphan_timeout_s:g}", "--log-level", self._log_level]  # fmt: skip
        if facts["run_as"]:
            command += ["--run-as", facts["run_as"]]
        if self._tags:
            command += ["--tags", self._tags]
        return command

    def _environment(self, facts: dict[str, Any]) -> dict[str, str]:
        source = str(Path(cloudsched.__file__).parent.parent)
        kept = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and part != source]
        env = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ", "PREFIX") if name in os.environ}
        env["PYTHONPATH"] = os.pathsep.join([source, *kept])
        env["PYTHONDONTWRITEBYTECODE"] = "1"
        env[NODE], env[INSTANCE], env[MARK] = facts["name"], facts["instance"], facts["mark"]
        return env

    def _user(self) -> tuple[str, str]:
        """Whom the agent becomes ('' for nobody else), and what there is to say about it."""
        if self._run_as != "auto":
            return ("" if self._run_as == _own_name() else self._run_as), ""
        if os.geteuid() != 0:
            return "", ""
        try:
            entry = pwd.getpwnam(UNPRIVILEGED)
        except KeyError:
            return "", f"jobs run as root: there is no user {UNPRIVILEGED}"
        if privileges.reachable(str(self._root / "x"), entry.pw_uid, entry.pw_gid):
            return UNPRIVILEGED, ""
        return "", f"jobs run as root: {UNPRIVILEGED} cannot reach {self._root} (mode 711 on what is above it helps)"

    # -- what is there -----------------------------------------------------------------------------------------

    def _machine(self, home: Path, facts: dict[str, Any]) -> Machine:
        process = _agent_process(facts)
        joined = (home / "work" / "agent.json").exists()
        state = "Shutdown" if process is None else "Running" if joined else "Starting"
        reason = facts.get("note", "")
        if process is None:
            reason = _last_words(home) if facts.get("pid") else "its start was interrupted"
        pid, started = process or (facts.get("pid") or 0, facts.get("started") or 0)
        return Machine(
            name=facts["name"],
            external_id=facts["mark"],
            state=state,
            hostname=facts["name"],
            address="127.0.0.1",
            handle={"pid": pid, "started": started, "mark": facts["mark"], "directory": str(home)},
            reason=reason,
        )

    def _homes(self) -> list[Path]:
        try:
            return sorted(path for path in self._root.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []

    # -- the end -----------------------------------------------------------------------------------------------

    def _kill_all(self, home: Path, facts: Mapping[str, Any]) -> None:
        """Every process of that machine; one of the same name whose mark says otherwise belongs to others."""
        deadline = time.monotonic() + KILL_TIMEOUT_S
        pause_s = 0.001
        while True:
            found = self._processes_of(home, facts)
            children.reap()
            if not found:
                return
            if time.monotonic() > deadline:
                pids = ", ".join(str(pid) for pid, _ in found)
                raise DriverError(f"processes of {facts['name']} do not die: {pids}", transient=True)
            for pid, started in found:
                processes.send(pid, started, signal.SIGKILL)
            time.sleep(pause_s)
            pause_s = min(0.05, pause_s * 2)

    def _processes_of(self, home: Path, facts: Mapping[str, Any]) -> set[tuple[int, int]]:
        instance = str(facts.get("instance", self._place.instance))
        found = set(processes.standing_in(str(home)))
        mark = str(facts.get("mark", ""))
        for pid, started in processes.marked({NODE: str(facts["name"]), INSTANCE: instance}):
            theirs = _mark_of(pid)
            if theirs == mark or (not theirs and mark):
                found.add((pid, started))
        if not processes.LINUX:
            agent = _agent_process(facts)
            found |= {agent} if agent else set()
        return found

    # -- locks -------------------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self, name: str) -> Iterator[Path]:
        """One at a time per name, over all processes."""
        self._make_root()
        path = self._lock_path(name)
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_file_at(handle, path):
                    yield self._root / _folder(name)
                    return
            finally:
                os.close(handle)

    def _lock_path(self, name: str) -> Path:
        return self._root / (_folder(name) + ".lock")

    def _make_root(self) -> None:
        for folder in (self._root.parent, self._root):
            folder.mkdir(DIR_MODE, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o777 != DIR_MODE:
                folder.chmod(DIR_MODE)

    # -- verify ------------------------------------------------------------------------------------------------

    def _check_directory(self) -> Check:
        try:
            self._make_root()
            free_gb = shutil.disk_usage(self._root).free / 1e9
        except OSError as error:
            return Check("state directory", ok=False, detail=f"{self._root}: {error.strerror}")
        good = os.access(self._root, os.W_OK | os.X_OK)
        return Check("state directory", ok=good, detail=f"{self._root}, {free_gb:.0f} GB free")

    def _check_python(self) -> Check:
        good = bool(sys.executable) and os.access(sys.executable, os.X_OK)
        return Check("python", ok=good, detail=sys.executable or "the interpreter's own path is unknown")

    def _check_user(self) -> Check:
        user, note = self._user()
        if not user:
            return Check("job user", ok=True, detail=note or f"jobs run as {_own_name()}")
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            return Check("job user", ok=False, detail=f"run_as: there is no user {user!r} on this machine")
        if os.geteuid() not in (0, entry.pw_uid):
            return Check("job user", ok=False, detail=f"run_as: only root can start agents as {user}")
        good = privileges.reachable(str(self._root / "x"), entry.pw_uid, entry.pw_gid)
        detail = f"jobs run as {user}" if good else f"run_as: {user} cannot reach {self._root}; 711 above it helps"
        return Check("job user", ok=good, detail=detail)

    def _check_proc(self) -> Check:
        good = os.path.isdir("/proc/self")
        detail = "/proc" if good else "there is no /proc: processes that leave their group cannot be found"
        return Check("process list", ok=True, detail=detail)


def _intent(wanted: Wanted, *, instance: str, server_url: str, user: str, note: str) -> dict[str, Any]:
    share = {name: getattr(wanted, name) for name in ("node_id", "cores", "memory_mb", "storage_gb", "slots")}
    return {"name": wanted.name, "mark": os.urandom(8).hex(), "instance": instance, "server_url": server_url,
            "run_as": user, "note": note, "created": time.time(), "wanted": share, "pid": None,
            "started": None}  # fmt: skip


def _agent_process(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    """The agent's process: as written down, or found by its mark when the writing was interrupted."""
    pid, started = facts.get("pid"), facts.get("started")
    if pid and processes.alive(pid, started or 0):
        return pid, started or 0
    children.reap()
    for found in processes.marked({MARK: str(facts.get("mark", ""))}):
        if b"CLOUDSCHED_JOB_ID=" not in processes.environment(found[0]):
            return found
    return None


def _stop_agent(facts: Mapping[str, Any]) -> None:
    """Ask the agent to kill its jobs, clean up and end; whoever does not listen is killed after this."""
    process = _agent_process(facts)
    if process is None or not processes.send(*process, signal.SIGINT):
        return
    deadline = time.monotonic() + STOP_GRACE_S
    while processes.alive(*process) and time.monotonic() < deadline:
        children.reap()
        time.sleep(0.005)


def _mark_of(pid: int) -> str:
    prefix = MARK.encode() + b"="
    for entry in processes.environment(pid).split(b"\0"):
        if entry.startswith(prefix):
            return entry[len(prefix) :].decode("utf-8", "replace")
    return ""


def _read_facts(home: Path) -> dict[str, Any] | None:
    """What was written down; None when there is nothing that can be used."""
    try:
        facts = json.loads((home / "machine.json").read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("name") and facts.get("mark") else None


def _write_facts(home: Path, facts: dict[str, Any]) -> None:
    write_private(str(home / "machine.json"), json.dumps(facts))


def _remove(home: Path) -> None:
    """The facts go last: a directory half removed still says whose it was."""
    if home.is_dir():
        for entry in list(os.scandir(home)):
            if entry.name != "machine.json":
                scratch.remove_tree(entry.path)
    scratch.remove_tree(str(home))


def _last_words(home: Path) -> str:
    """The last error in the agent's log, if that is why it ended."""
    try:
        with open(home / "agent.log", "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return "the agent has ended"
    for line in reversed(lines):
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("level") == "error":
            return f"the agent has ended: {said.get('message')}: {said.get('error') or said.get('detail') or ''}"
    return "the agent has ended"


def _folder(name: str) -> str:
    """A directory name for any text: readable where possible, never `.`, `..` or too long."""
    plain = quote(name, safe="").replace("%20", "+")
    if plain.startswith("."):
        plain = "%2E" + plain[1:]
    if plain.endswith(".lock"):
        plain = plain[: -len(".lock")] + "%2Elock"
    if len(plain) <= 180:
        return plain
    return plain[:140] + "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _check_wanted(wanted: Wanted) -> None:
    if not wanted.name or "\0" in wanted.name or len(wanted.name) > MAX_NAME:
        raise _refused("name", "must be 1 to 255 characters without NUL")
    if not wanted.name.isprintable():
        raise _refused("name", "must be printable")
    if wanted.cores < 1:
        raise _refused("cores", "must be at least 1")
    for field in ("memory_mb", "storage_gb", "slots"):
        if getattr(wanted, field) < 0:
            raise _refused(field, "must not be negative")
    if not wanted.join_token:
        raise _refused("join_token", "is missing")


def _refused(field: str, problem: str) -> DriverError:
    return DriverError(f"{field}: {problem}", code=base.REQUEST)


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise Invalid.at("orphan_timeout_s", f"{value!r} is not a number of seconds", "0 or more; 0 is never")
    return seconds


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
