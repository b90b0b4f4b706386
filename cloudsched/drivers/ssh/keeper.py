"""How is a host told to list, start or end machines? One call: `remote.py` runs there on the agent file it is given.

The agent's file travels when the host does not have it, or has other bytes under its name. The Python that ran last
time is asked first; else each of the usual names.
"""

from __future__ import annotations

import json
import shlex
import threading
from functools import cache
from pathlib import Path
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.agentfile import agent_digest, agent_pyz
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh import remote
from cloudsched.drivers.ssh.connection import Connection
from cloudsched.drivers.ssh.facts import MIN_PYTHON
from cloudsched.drivers.ssh.hosts import Host

CALL_S = 60.0
_USUAL = ("python3", *(f"python3.{minor}" for minor in range(14, 7, -1)), "/usr/bin/python3", "/usr/local/bin/python3")
_PUT_S = 120.0
_NO_SPACE = (11, 12, 24, 28, 122)  # of processes, memory, files, disk, quota

# Reads one line of JSON, then the program. It must be understood by any Python 3: it may find that it is too old.
_FIRST = """
import hashlib, json, os, sys
asked = json.loads(sys.stdin.buffer.readline().decode("ascii"))
usual = "/var/lib/cloudsched-ssh" if os.geteuid() == 0 else "~/.cloudsched-ssh"
asked["root"] = os.path.expanduser(asked["root"] or usual)
path = os.path.join(asked["root"], asked["agent"])
try:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
except OSError:
    digest = ""
if digest != asked["digest"]:
    print(json.dumps({"missing": path, "root": asked["root"]}))
else:
    sys.path.insert(0, path)
    names = {"__name__": "remote"}
    exec(compile(sys.stdin.buffer.read(), "remote.py", "exec"), names)
    print(json.dumps(names["answer"](asked)))
"""
_FIND = """
for p in PYTHONS; do
  if "$p" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' </dev/null 2>/dev/null; then exec "$p" -I -S -c FIRST; fi
done
v=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' </dev/null 2>/dev/null)
echo '{"no_python": "'"$v"'"}'
"""


class KeeperFailed(DriverError):
    """The host began, and could not do it; what is left of it there, a destroy finds."""


class Keeper:
    """The calls to one host; safe for several threads."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self._python = ""
        self._lock = threading.Lock()

    def call(self, connection: Connection, do: str, *, timeout_s: float = CALL_S, **facts: Any) -> dict[str, Any]:
        """What `remote.answer` says to `do`. DriverError: REQUEST no usable Python there; QUOTA no disk or memory; OTHER."""
        asked = {"do": do, "root": self.host.work_dir, "limits": self.host.limits, "agent": agent_name(),
                 "digest": agent_digest(), **facts}  # fmt: skip
        said = self._ask(connection, asked, timeout_s)
        if "missing" in said:
            with self._lock:  # one thread installs it, the others find it
                said = self._ask(connection, asked, timeout_s)
                if "missing" in said:
                    self._install(connection, said["root"], said["missing"])
                    said = self._ask(connection, asked, timeout_s)
        if "missing" in said:
            raise self._error("the agent's file cannot be read back", code=base.OTHER)
        self._python = said.get("python") or self._python
        if "error" in said:
            code = base.QUOTA if said.get("errno") in _NO_SPACE else base.OTHER
            raise KeeperFailed(f"{self.host.label}: {said['error']}", code=code, transient=code == base.QUOTA)
        return said

    def _ask(self, connection: Connection, asked: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        lines = json.dumps(asked).encode("ascii") + b"\n" + _source()
        done = connection.run(_finder(self.host.python, self._python), input=lines, timeout_s=timeout_s)
        try:
            said = json.loads(done.stdout.strip().rpartition("\n")[2])
        except ValueError:
            said = None
        if done.code or not isinstance(said, dict):
            raise KeeperFailed(f"{self.host.label}: the call {asked['do']} failed there (status {done.code}): "
                               f"{_last(done.stderr)}", code=base.OTHER, transient=True)  # fmt: skip
        if "no_python" in said:
            raise self._error(_no_python(self.host.python, said["no_python"]), code=base.REQUEST)
        return said

    def _install(self, connection: Connection, root: str, path: str) -> None:
        script = '[ -d "$1" ] || { mkdir -p -- "$1" && chmod 711 "$1"; }'
        made = connection.run(["/bin/sh", "-c", script, "install", root], timeout_s=_PUT_S)
        if made.code:
            raise self._error(f"work_dir: {root} cannot be made: {_last(made.stderr)}", code=base.REQUEST)
        connection.put(agent_pyz(), path, mode=0o644, timeout_s=_PUT_S)

    def _error(self, text: str, **how: Any) -> DriverError:
        return DriverError(f"{self.host.label}: {text}", **how)


def agent_name() -> str:
    """The agent's file on a host; another agent has another name."""
    return f"agent-{agent_digest()[:16]}.pyz"


@cache
def _source() -> bytes:
    return Path(remote.__file__).read_bytes()


def _finder(chosen: str, last: str) -> str:
    names = (chosen,) if chosen else ((last,) if last else ()) + _USUAL
    return _FIND.replace("PYTHONS", " ".join(map(shlex.quote, names))).replace("FIRST", shlex.quote(_FIRST))


def _no_python(chosen: str, version: str) -> str:
    least = ".".join(map(str, MIN_PYTHON))
    what = f"{chosen} is no Python {least} or later" if chosen else f"there is no Python {least} or later"
    return f"{what}{f' (python3 is {version})' if version else ''}; the agent needs it (option python)"


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "without a word"
