"""Where does a cluster or a job of this machine live, and which processes are its own?

A home is a directory: `facts.json` (the intent, there before any process), `roles/ROLE.json` (one process each: written before
its start, then with its id and start time), `logs/`, `conf/`, `work/`, `tmp/`. Processes carry the home's mark in their
environment, so that one which was started but not yet written down is found, and so is everything below it. A lock per home
lets one caller at a time change it, over all processes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cloudsched.agent import processes, scratch
from cloudsched.agent.session import write_private
from cloudsched.drivers import base, children
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.frameworks_local.users import User

MARK, ROLE, INSTANCE = "CLOUDSCHED_FRAMEWORK", "CLOUDSCHED_FRAMEWORK_ROLE", "CLOUDSCHED_INSTANCE"
KEY = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
FACTS = "facts.json"
PASSABLE = 0o711  # whom processes run as passes through, and lists nothing
STARTER = Path(__file__).with_name("starter.py")
WAIT_S = 180.0
KILL_TIMEOUT_S = 15.0
KEPT_ENV = ("PATH", "LANG", "LC_ALL", "TZ")


@dataclass(frozen=True)
class Start:
    """How a process is started. `wait_port`: not before something listens there. `supervised`: its end is noted.
    `one_log`: standard output goes where errors go, not to a file of its own."""

    command: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    user: User
    wait_port: int = 0
    supervised: bool = False
    one_log: bool = False
    facts: Mapping[str, Any] | None = None


class Homes:
    """The homes of one sort below one directory."""

    def __init__(self, root: Path, *, instance: str) -> None:
        self.root = root
        self.instance = instance

    def keys(self) -> list[str]:
        """Keys of all homes that are there."""
        try:
            return sorted(path.name for path in self.root.iterdir() if path.is_dir() and KEY.fullmatch(path.name))
        except FileNotFoundError:
            return []

    def at(self, key: str) -> Home:
        """The home of that key, which need not be there. DriverError when the key is no DNS label."""
        if not KEY.fullmatch(key):
            raise DriverError(f"key: {key!r} is not a DNS label (a-z, 0-9 and - inside, 1 to 63 characters)", code=base.REQUEST)
        return Home(self.root / key, instance=self.instance)

    @contextmanager
    def locked(self, key: str) -> Iterator[Home]:
        """One caller at a time per home."""
        home = self.at(key)
        try:
            make_folder(self.root)
            with _lock(self.root / (key + ".lock")):
                try:
                    yield home
                finally:
                    if not home.path.exists():
                        (self.root / (key + ".lock")).unlink(missing_ok=True)
        except OSError as error:
            code = base.QUOTA if error.errno in (11, 12, 24, 28) else base.OTHER
            raise DriverError(f"{key}: {error.strerror}: {error.filename}", code=code, transient=True) from error


class Home:
    """One directory with its processes."""

    def __init__(self, path: Path, *, instance: str) -> None:
        self.path = path
        self.key = path.name
        self._instance = instance

    # -- what is written down ----------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """The intent; empty when there is none."""
        return _read(self.path / FACTS)

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write the intent; the first time the directories appear, and the mark is chosen."""
        for folder in (self.path, self.path / "roles", self.path / "logs", self.path / "conf"):
            make_folder(folder)
        mark = self.facts().get("mark") or os.urandom(8).hex()
        write_private(str(self.path / FACTS), json.dumps({**facts, "mark": mark}))

    def own_folder(self, name: str, user: User) -> Path:
        """A directory in the home that belongs to whom its processes run as."""
        path = self.path / name
        path.mkdir(0o700, exist_ok=True)
        user.own(path)
        return path

    def write_conf(self, name: str, text: str, user: User) -> Path:
        """A file in `conf/` that only we and the processes can read, replaced in one step."""
        path = self.path / "conf" / name
        beside = path.with_name(name + ".new")
        beside.unlink(missing_ok=True)
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            user.own(beside)
            file.write(text)
        os.replace(beside, path)
        return path

    def log_path(self, role: str, suffix: str = "log") -> Path:
        """Where that process writes."""
        return self.path / "logs" / f"{role}.{suffix}"

    # -- processes ---------------------------------------------------------------------------------------------

    def roles(self) -> list[str]:
        """Roles that were ever started here."""
        return sorted(path.stem for path in (self.path / "roles").glob("*.json"))

    def role(self, role: str) -> dict[str, Any]:
        """What is known of a role: `generation`, `pid`, `started`, `since`, `log_at` (where its log begins) and the facts of its
        start; empty: nothing."""
        return _read(self._role_path(role))

    def process(self, role: str) -> tuple[int, int] | None:
        """The living process of that role: as written down, or found by its mark when the writing was interrupted."""
        children.reap()
        known = self.role(role)
        if not known:
            return None
        if known.get("pid"):
            found = int(known["pid"]), int(known["started"])
            return found if processes.alive(*found) else None
        return self._adopt(role, known)

    def start(self, role: str, start: Start) -> dict[str, Any]:
        """Start a role's process; the caller holds the lock and knows that none is there. Returns what is known of it."""
        generation = int(self.role(role).get("generation", 0)) + 1
        known = {**(start.facts or {}), "generation": generation, "pid": 0, "started": 0, "since": time.time(),
                 "log_at": _size(self.log_path(role))}  # fmt: skip
        spec = self.path / "roles" / f"{role}.start"
        write_private(str(spec), json.dumps(self._spec(role, start)))
        write_private(str(self._role_path(role)), json.dumps(known))
        env = {name: os.environ[name] for name in KEPT_ENV if name in os.environ}
        env |= {"HOME": str(start.cwd), **start.env, MARK: self._mark(), ROLE: f"{role}.{generation}", INSTANCE: self._instance}
        known["pid"], known["started"] = self._spawn(role, spec, env, start)
        write_private(str(self._role_path(role)), json.dumps(known))
        return known

    def kill(self, role: str) -> None:
        """End one role's process with all that descends from it."""
        found = self.process(role)
        if found is None:
            return
        deadline = time.monotonic() + KILL_TIMEOUT_S
        below = [(pid, processes.start_time(pid)) for pid in reversed(processes.descendants([found[0]]))]
        while processes.alive(*found):
            for pid, started in below:
                if started is not None:
                    processes.send(pid, started, signal.SIGKILL)
            children.reap()
            if time.monotonic() > deadline:
                raise DriverError(f"{role} of {self.key} does not die: process {found[0]}", transient=True)
            time.sleep(0.005)

    def kill_all(self) -> None:
        """End every process of this home; DriverError when that cannot be proved."""
        mark = self._mark() or "unknown"  # the facts are lost: what stands in here is ours all the same
        gone = processes.kill_until_gone({MARK: mark}, folder=str(self.path), timeout_s=KILL_TIMEOUT_S)
        children.reap()
        if not gone:
            pids = ", ".join(str(pid) for pid, _ in processes.marked({MARK: mark}))
            raise DriverError(f"processes of {self.key} do not die: {pids}", transient=True)

    def kill_marked(self, mark: str) -> None:
        """End processes of a home whose directory somebody took away."""
        if mark and not processes.kill_until_gone({MARK: mark}, timeout_s=KILL_TIMEOUT_S):
            raise DriverError(f"processes of {self.key} do not die", transient=True)

    def remove(self) -> None:
        """Kill what lives and take the directory away; the facts go last, so that a half removed home is still known."""
        if not self.path.is_dir():
            return
        self.kill_all()
        for entry in list(os.scandir(self.path)):
            if entry.name != FACTS:
                scratch.remove_tree(entry.path)
        scratch.remove_tree(str(self.path))
        if self.path.exists():
            raise DriverError(f"the directory of {self.key} cannot be removed: {self.path}", transient=True)

    # -- parts -------------------------------------------------------------------------------------------------

    def _adopt(self, role: str, known: dict[str, Any]) -> tuple[int, int] | None:
        marks = {MARK: self._mark(), ROLE: f"{role}.{known.get('generation')}"}
        for pid, started in processes.marked(marks):
            if _leads_session(pid):
                known["pid"], known["started"] = pid, started
                write_private(str(self._role_path(role)), json.dumps(known))
                return pid, started
        return None

    def _spec(self, role: str, start: Start) -> dict[str, Any]:
        return {"command": list(start.command), "cwd": str(start.cwd), "uid": start.user.uid, "gid": start.user.gid,
                "wait_port": start.wait_port, "wait_s": WAIT_S,
                "exit_file": str(self.path / f"{role}.exit") if start.supervised else ""}  # fmt: skip

    def _spawn(self, role: str, spec: Path, env: dict[str, str], start: Start) -> tuple[int, int]:
        handles = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)]
        try:
            handles += [self._open_log(role, suffix, start.user) for suffix in ("log" if start.one_log else "out", "log")]
            pid = os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", str(STARTER), str(spec)],
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, source, target) for target, source in enumerate(handles)],
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        finally:
            for handle in handles:
                os.close(handle)
        children.started(pid)
        return pid, processes.start_time(pid) or 0

    def _open_log(self, role: str, suffix: str, user: User) -> int:
        """Ours to write and read; the processes may read it too (the web pages show it), and nobody else."""
        path = self.log_path(role, suffix)
        mode = 0o600 if user.gid is None else 0o640
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        if user.gid is not None:
            os.fchown(handle, -1, user.gid)
        return handle

    def _role_path(self, role: str) -> Path:
        return self.path / "roles" / f"{role}.json"

    def _mark(self) -> str:
        return str(self.facts().get("mark", ""))


def make_folder(path: Path) -> None:
    """A directory through which whom processes run as can pass."""
    path.mkdir(PASSABLE, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o777 != PASSABLE:
        path.chmod(PASSABLE)


def read_piece(path: Path, offset: int, limit: int) -> bytes:
    """A piece of a file that never leads elsewhere; empty when it is not there."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(handle, "rb") as file:
        file.seek(max(0, offset))
        return file.read(max(0, limit))


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_file_at(handle, path):  # else it was removed while we waited
                yield
                return
        finally:
            os.close(handle)


def _is_file_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _leads_session(pid: int) -> bool:
    try:
        return os.getsid(pid) == pid
    except OSError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
