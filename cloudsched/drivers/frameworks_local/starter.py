"""How does a process of Spark or Flink begin? As this small program, which waits, becomes the right user and steps aside.

Usage: `python -I -S starter.py SPEC`; SPEC is a JSON file with `command`, `cwd`, `uid`, `gid` (null: stay who we are),
`wait_port` and `wait_s` (begin when something listens there on 127.0.0.1), and `exit_file`. Without `exit_file` this process
becomes the command. With it the command is a child: this process stays, notes the end in that file in one step, and kills
whatever the command left behind. So the result of a job is known, whoever is still there to ask.

Told to stop (SIGTERM), it tells the command, and kills it when it does not listen. When this process is killed itself, the
command dies with it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[3]))

from cloudsched.agent import processes  # run as a file: only now it can be found

TERM_GRACE_S = 5.0
KILL_LIMIT_S = 10.0
IDLE_S, POLL_S = 3600.0, 0.1
WAITED_FOR = {signal.SIGTERM, signal.SIGCHLD}


def main(words: list[str]) -> int:
    with open(words[0], encoding="utf-8") as file:
        spec = json.load(file)
    if spec["wait_port"] and not listens(spec["wait_port"], spec["wait_s"]):
        sys.stderr.write(f"nothing listens on port {spec['wait_port']} after {spec['wait_s']} s\n")
        return 1
    if spec["exit_file"]:
        return supervise(spec)
    return become(spec)


def listens(port: int, wait_s: float) -> bool:
    """Wait until a connection to that port of this machine is taken."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def become(spec: Mapping[str, Any]) -> int:
    """Become the command, as the user it runs as; returns only when that fails. The umask is the server's: what a job writes for
    its people is as open as what the server's user writes; our own directories are closed by their modes."""
    if spec["uid"] is not None:
        os.setgroups([])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    os.chdir(spec["cwd"])
    try:
        os.execv(spec["command"][0], spec["command"])  # noqa: S606 (no shell is the point)
    except OSError as error:
        sys.stderr.write(f"cannot start {spec['command'][0]}: {error.strerror}\n")
        return 127


def supervise(spec: Mapping[str, Any]) -> int:
    """Run the command once; a second supervisor of the same job finds that it has begun, and leaves."""
    try:
        os.close(os.open(spec["exit_file"] + ".began", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return 0
    processes.become_subreaper()
    began = time.time()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, WAITED_FOR)  # from here on they are taken one by one
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(_child(spec, supervisor))
    status, killed = _wait_for(child)
    _kill_all()
    _note(spec["exit_file"], status, began=began, killed=killed)
    return 0


def _child(spec: Mapping[str, Any], supervisor: int) -> int:
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, WAITED_FOR)
        if spec["uid"] is not None:
            os.setgroups([])
            os.setgid(spec["gid"])
            os.setuid(spec["uid"])
        processes.signal_at_death_of_parent(signal.SIGKILL)  # after the change of user, which forgets it
        if os.getppid() != supervisor:  # it died before we asked to be told
            return 1
        return become({**spec, "uid": None})
    except OSError as error:
        sys.stderr.write(f"cannot start the job: {error.strerror}\n")
        return 127


def _wait_for(child: int) -> tuple[int, bool]:
    """The status of the command, and were we told to end it? Orphans that come to us meanwhile are reaped."""
    told_at = None
    while True:
        for pid, status in _ended():
            if pid == child:
                return status, told_at is not None
        if told_at is not None and time.monotonic() >= told_at + TERM_GRACE_S:
            _signal_group(child, signal.SIGKILL)
        got = signal.sigtimedwait(WAITED_FOR, IDLE_S if told_at is None else POLL_S)
        if got is not None and got.si_signo == signal.SIGTERM:
            told_at = told_at or time.monotonic()
            _signal_group(child, signal.SIGTERM)


def _ended() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status))


def _kill_all() -> None:
    """What descends from us now was left behind by the command."""
    deadline = time.monotonic() + KILL_LIMIT_S
    while time.monotonic() < deadline:
        left = processes.descendants(processes.children(os.getpid()))
        for pid in left:
            _signal(pid, signal.SIGKILL)
        _ended()
        if not left:
            return
        time.sleep(0.01)


def _note(path: str, status: int, *, began: float, killed: bool) -> None:
    code = os.waitstatus_to_exitcode(status)
    facts = {"code": code if code >= 0 else 128 - code, "signal": -code if code < 0 else 0, "began": began,
             "ended": time.time(), "killed": killed}  # fmt: skip
    beside = path + ".new"
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(facts, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _signal_group(leader: int, number: int) -> None:
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        _signal(leader, number)
    except PermissionError:
        pass


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
