"""What happens on the host itself when machines there are listed, started or ended? Runs under the host's own Python.

Its source travels over the connection with each call, after one line of JSON that says what to do; it imports the rest
from our agent's file there (`agent-<digest>.pyz`), prints one line of JSON and ends. Python 3.8 syntax, standard library.

Below the work directory: `agent-<digest>.pyz`; `lock`; and for each cloud `<hash>/`, with a directory for each machine,
`<hash of its name>/`: `machine.json` (the intent, then the process id with its start time), `token`, `agent.log`, `work/`.
The directory is there before the process and goes after it, so whoever asks next finds every machine. All processes of a
machine carry its mark in their environment.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from cloudsched.agent import privileges, processes, scratch
from cloudsched.agent.session import write_private

NODE, INSTANCE, MARK = "CLOUDSCHED_NODE", "CLOUDSCHED_INSTANCE", "CLOUDSCHED_MACHINE"
DIR_MODE = 0o711  # an unprivileged agent passes through, and lists nothing
UNPRIVILEGED = "nobody"
STOP_GRACE_S = 3.0
KILL_TIMEOUT_S = 10.0
OLD_DRAFT_S = 600.0
_POOL, _DRAFT = re.compile(r"[0-9a-f]{32}\Z"), re.compile(r"\.[0-9a-f]{32}\.[0-9]+\Z")
_SIZES = ("cores", "memory_mb", "storage_gb")


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    """Do what `asked["do"]` says. A failure of this host is `{"error", "errno"}`, never an exception."""
    try:
        _make_folders(asked["root"])
        said = ACTIONS[asked["do"]](asked)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        said = {"error": what, "errno": error.errno}
    except _Stuck as error:
        said = {"error": str(error), "errno": 0}
    said["python"] = sys.executable
    return said


def list_machines(asked: dict[str, Any]) -> dict[str, Any]:
    """All machines of one cloud here, and what there is room for."""
    found = [_seen(home, facts) for home, facts in _homes(_pool(asked))]
    return {"machines": found, **_room(asked)}


def boot(asked: dict[str, Any]) -> dict[str, Any]:
    """Start the agent of `asked["wanted"]` unless it runs; a dead one is started afresh. `{"full": why}` without room."""
    home = _home(asked, asked["wanted"]["name"])
    with _locked(home + ".lock"):
        facts = _read(home)
        if facts is not None and _agent_process(facts) is None:
            _end(home, facts)
            facts = None
        if facts is None:
            with _locked(os.path.join(asked["root"], "lock")):
                full = _why_full(asked)
                if full:
                    os.unlink(home + ".lock")
                    return {"full": full, **_room(asked)}
                facts = _write_intent(home, asked)
            _start(home, facts, asked)
        return {"machine": _seen(home, facts), **_room(asked)}


def destroy(asked: dict[str, Any]) -> dict[str, Any]:
    """Kill the agent and all its jobs, remove the directory; returns when that is proved."""
    home = _home(asked, asked["name"])
    if not os.path.isdir(home) and not os.path.exists(home + ".lock"):
        return {"found": False}
    with _locked(home + ".lock"):
        facts = _read(home)
        if facts is not None:
            _end(home, facts)
        for draft in glob.glob(_draft(glob.escape(home), "*")):  # a start that was interrupted
            scratch.remove_tree(draft)
        os.unlink(home + ".lock")
    with contextlib.suppress(OSError):
        os.rmdir(_pool(asked))
    return {"found": facts is not None}


def check(asked: dict[str, Any]) -> dict[str, Any]:
    """Can agents run here, as whom, and do they reach the server?"""
    user, note = _user(asked)
    said: dict[str, Any] = {"root": asked["root"], "run_as": user or _own_name(), "note": note, "server": "", **_room(asked)}
    if user and not note:
        said["note"] = _why_not_user(user, asked["root"])
        said["bad_user"] = bool(said["note"])
    if asked.get("server_url"):
        said["server"] = _why_not_reached(asked["server_url"])
    said["writable"] = os.access(asked["root"], os.W_OK | os.X_OK)
    return said


def upgrade(asked: dict[str, Any]) -> dict[str, Any]:
    """Restart agents of an older file with the one of today: idle ones, with `asked["busy"]` those with jobs as well."""
    told: dict[str, Any] = {"current": [], "restarted": [], "busy": [], "removed": []}
    for home, _ in _homes(_pool(asked)):
        with _locked(home + ".lock"):
            facts = _read(home)
            if facts is None:
                continue
            process = _agent_process(facts)
            if facts.get("agent") == asked["agent"] or process is None:
                told["current"].append(facts["name"])
            elif _has_jobs(facts) and not asked.get("busy"):
                told["busy"].append(facts["name"])
            else:
                _stop_agent(facts)
                _kill(home, facts)
                _start(home, facts, asked)
                told["restarted"].append(facts["name"])
    told["removed"] = _remove_old_agents(asked)
    return told


def remove(asked: dict[str, Any]) -> dict[str, Any]:
    """Take our agent off the host; machines of any cloud keep it."""
    names = [facts["name"] for pool in _pools(asked["root"]) for _, facts in _homes(pool)]
    if names:
        return {"machines": names}
    root = glob.escape(asked["root"])
    for path in [*_pools(asked["root"]), *glob.glob(os.path.join(root, "agent-*.pyz")), os.path.join(asked["root"], "lock")]:
        scratch.remove_tree(path)
    with contextlib.suppress(OSError):
        os.rmdir(asked["root"])
    return {"removed": not glob.glob(os.path.join(root, "agent-*.pyz"))}


ACTIONS = {"list": list_machines, "boot": boot, "destroy": destroy, "check": check, "upgrade": upgrade, "remove": remove}


class _Stuck(Exception):
    """Something does not die, or does not go."""


# -- start -----------------------------------------------------------------------------------------------------


def _write_intent(home: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The machine's directory with its facts, there at once or not at all."""
    wanted = asked["wanted"]
    user, note = _user(asked)
    facts = {"name": wanted["name"], "mark": os.urandom(8).hex(), "instance": asked["instance"], "cloud": asked["cloud"],
             "server_url": asked["server_url"], "run_as": user, "note": note, "created": time.time(), "wanted": wanted,
             "agent": "", "pid": None, "started": None}  # fmt: skip
    draft = _draft(home, str(os.getpid()))
    os.mkdir(draft, DIR_MODE)
    os.chmod(draft, DIR_MODE)
    _write(draft, facts)
    write_private(os.path.join(draft, "token"), asked["token"])
    os.mkdir(os.path.join(draft, "work"), 0o700)
    os.rename(draft, home)
    return facts


def _draft(home: str, suffix: str) -> str:
    return os.path.join(os.path.dirname(home), f".{os.path.basename(home)}.{suffix}")


def _start(home: str, facts: dict[str, Any], asked: dict[str, Any]) -> None:
    """The agent in a session of its own, with nothing of the connection's environment."""
    facts["agent"] = asked["agent"]
    env = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ}
    env.update({NODE: facts["name"], INSTANCE: facts["instance"], MARK: facts["mark"], "HOME": home})
    env.update({str(name): str(value) for name, value in (asked.get("env") or {}).items()})
    log = os.open(os.path.join(home, "agent.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        started = subprocess.Popen(_command(home, facts, asked), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=log, env=env, cwd=home, start_new_session=True)  # fmt: skip
    finally:
        os.close(log)
    facts["pid"], facts["started"] = started.pid, processes.start_time(started.pid) or 0
    started.returncode = 0  # it outlives us; nobody here waits for it
    _write(home, facts)


def _command(home: str, facts: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    wanted, told = facts["wanted"], asked["told"]
    words = [sys.executable, "-I", "-S", os.path.join(asked["root"], facts["agent"]), "--server", facts["server_url"],
             "--token-file", os.path.join(home, "token"), "--name=" + facts["name"],
             "--work-dir", os.path.join(home, "work"), "--cores", str(wanted["cores"]),
             "--memory-mb", str(wanted["memory_mb"]), "--storage-gb", str(wanted["storage_gb"]),
             "--slots", str(max(1, wanted["slots"])), "--orphan-timeout", f"{told['orphan_timeout_s']:g}",
             "--log-level", told["log_level"]]  # fmt: skip
    if facts["run_as"]:
        words += ["--run-as", facts["run_as"]]
    if told["tags"]:
        words += ["--tags", told["tags"]]
    return words


def _user(asked: dict[str, Any]) -> tuple[str, str]:
    """Whom the agent becomes ('' for nobody else), and what there is to say about it."""
    wanted = asked["told"]["run_as"]
    if wanted != "auto":
        return ("" if wanted == _own_name() else wanted), ""
    if os.geteuid() != 0:
        return "", ""
    problem = _why_not_user(UNPRIVILEGED, asked["root"])
    return ("", "jobs run as root: " + problem) if problem else (UNPRIVILEGED, "")


def _why_not_user(user: str, root: str) -> str:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return f"run_as: there is no user {user} on this host"
    if os.geteuid() not in (0, entry.pw_uid):
        return f"run_as: only root can start agents as {user} (option sudo)"
    if not privileges.reachable(os.path.join(root, "x"), entry.pw_uid, entry.pw_gid):
        return f"{user} cannot reach {root} (mode 711 on what is above it helps)"
    return ""


def _why_not_reached(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=5).close()
    except OSError as error:
        return f"{url}: {error.strerror or error}"
    return ""


# -- room ------------------------------------------------------------------------------------------------------


def _room(asked: dict[str, Any]) -> dict[str, Any]:
    """What the host has (its own figures, or the limits given for it), and what all our machines on it hold."""
    limits = asked.get("limits") or {}
    has = {"cores": limits.get("cores") or os.cpu_count() or 1, "memory_mb": limits.get("memory_mb") or _memory_mb(),
           "storage_gb": limits.get("storage_gb") or int(shutil.disk_usage(asked["root"]).free / 1e9),
           "machines": limits.get("machines") or 0}  # fmt: skip
    held = dict.fromkeys((*_SIZES, "machines"), 0)
    for pool in _pools(asked["root"]):
        for _, facts in _homes(pool):
            if facts.get("pid") is None or _agent_process(facts) is not None:
                held["machines"] += 1
                for name in _SIZES:
                    held[name] += int(facts["wanted"][name])
    return {"has": has, "held": held}


def _why_full(asked: dict[str, Any]) -> str:
    room = _room(asked)
    has, held = room["has"], room["held"]
    for name in _SIZES:
        free = max(0, has[name] - held[name])
        if (has[name] or name != "memory_mb") and asked["wanted"][name] > free:
            return f"{name}: {asked['wanted'][name]} wanted, {free} of {has[name]} free"
    if has["machines"] and held["machines"] >= has["machines"]:
        return f"machines: {held['machines']} of {has['machines']} are there"
    return ""


def _memory_mb() -> int:
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1048576)
    except (ValueError, OSError):
        return 0


# -- what is there ---------------------------------------------------------------------------------------------


def _seen(home: str, facts: dict[str, Any]) -> dict[str, Any]:
    process = _agent_process(facts)
    joined = os.path.exists(os.path.join(home, "work", "agent.json"))
    state = "Shutdown" if process is None else "Running" if joined else "Starting"
    reason = facts.get("note", "")
    if process is None:
        reason = _last_words(home) if facts.get("pid") else "its start was interrupted"
    pid, started = process or (facts.get("pid") or 0, facts.get("started") or 0)
    return {"name": facts["name"], "mark": facts["mark"], "state": state, "reason": reason, "pid": pid, "started": started,
            "agent": facts.get("agent", ""), "directory": home, **{name: facts["wanted"][name] for name in _SIZES}}


def _homes(pool: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for name in sorted(os.listdir(pool)) if os.path.isdir(pool) else []:
        home = os.path.join(pool, name)
        facts = None if name.startswith(".") else _read(home)
        if facts is not None:
            found.append((home, facts))
        elif _DRAFT.match(name) and _age_s(home) > OLD_DRAFT_S:
            scratch.remove_tree(home)
    return found


def _age_s(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except OSError:
        return 0.0


def _agent_process(facts: dict[str, Any]) -> tuple[int, int] | None:
    """The agent's process: as written down, or found by its mark when the writing was interrupted."""
    pid, started = facts.get("pid"), facts.get("started")
    if pid and processes.alive(pid, started or 0):
        return pid, started or 0
    for found in processes.marked({MARK: facts["mark"]}):
        if b"CLOUDSCHED_JOB_ID=" not in processes.environment(found[0]):
            return found
    return None


def _has_jobs(facts: dict[str, Any]) -> bool:
    return any(b"CLOUDSCHED_JOB_ID=" in processes.environment(pid) for pid, _ in processes.marked({MARK: facts["mark"]}))


def _last_words(home: str) -> str:
    """The last error in the agent's log, if that is why it ended."""
    try:
        with open(os.path.join(home, "agent.log"), "rb") as file:
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
            why = said.get("error") or said.get("detail") or ""
            return f"the agent has ended: {said.get('message')}: {why}"[:500]
    return "the agent has ended"


# -- the end ---------------------------------------------------------------------------------------------------


def _end(home: str, facts: dict[str, Any]) -> None:
    _stop_agent(facts)
    _kill(home, facts)
    for entry in list(os.scandir(home)):  # the facts go last: a directory half removed still says whose it was
        if entry.name != "machine.json":
            scratch.remove_tree(entry.path)
    scratch.remove_tree(home)
    if os.path.exists(home):
        raise _Stuck(f"the directory of {facts['name']} cannot be removed: {home}")


def _stop_agent(facts: dict[str, Any]) -> None:
    """Ask the agent to kill its jobs, clean up and end; whoever does not listen is killed after this."""
    process = _agent_process(facts)
    if process is None or not processes.send(process[0], process[1], signal.SIGINT):
        return
    deadline = time.monotonic() + STOP_GRACE_S
    while processes.alive(*process) and time.monotonic() < deadline:
        time.sleep(0.01)


def _kill(home: str, facts: dict[str, Any]) -> None:
    process = _agent_process(facts)
    gone = processes.kill_until_gone({MARK: facts["mark"]}, folder=home, timeout_s=KILL_TIMEOUT_S)
    if process is not None and not processes.LINUX:  # without /proc the agent's own group is all that is known
        with contextlib.suppress(OSError):
            os.killpg(process[0], signal.SIGKILL)
    if not gone:
        raise _Stuck(f"processes of {facts['name']} do not die")


def _remove_old_agents(asked: dict[str, Any]) -> list[str]:
    used = {asked["agent"]} | {facts.get("agent") for pool in _pools(asked["root"]) for _, facts in _homes(pool)}
    removed = []
    for path in glob.glob(os.path.join(glob.escape(asked["root"]), "agent-*.pyz")):
        if os.path.basename(path) not in used:
            os.unlink(path)
            removed.append(os.path.basename(path))
    return removed


# -- folders ---------------------------------------------------------------------------------------------------


def _make_folders(root: str) -> None:
    if not os.path.isdir(root):
        os.makedirs(root, DIR_MODE, exist_ok=True)
        os.chmod(root, DIR_MODE)


def _pools(root: str) -> list[str]:
    """Ours alone: the work directory may have been given to us with other things in it."""
    return sorted(entry.path for entry in os.scandir(root)
                  if entry.is_dir(follow_symlinks=False) and _POOL.match(entry.name))  # fmt: skip


def _pool(asked: dict[str, Any]) -> str:
    return os.path.join(asked["root"], _short(f"{asked['instance']}\n{asked['cloud']}"))


def _home(asked: dict[str, Any], name: str) -> str:
    pool = _pool(asked)
    if asked["do"] == "boot":
        os.makedirs(pool, DIR_MODE, exist_ok=True)
        os.chmod(pool, DIR_MODE)
    return os.path.join(pool, _short(name))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@contextlib.contextmanager
def _locked(path: str) -> Iterator[None]:
    """One at a time; whoever holds it may remove the file."""
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the last machine of the cloud took the directory along
            os.makedirs(os.path.dirname(path), DIR_MODE, exist_ok=True)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(handle, path):
                yield
                return
        finally:
            os.close(handle)


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _read(home: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(home, "machine.json")) as file:
            facts = json.load(file)
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("name") and facts.get("mark") else None


def _write(home: str, facts: dict[str, Any]) -> None:
    write_private(os.path.join(home, "machine.json"), json.dumps(facts))


def _own_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
