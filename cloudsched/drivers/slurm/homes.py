"""What lies on the shared file system for each pilot? A directory of its own: who it is, its token, its log.

The directory is there before the job and goes after it, so a pilot that has ended is still known, with its last words,
until it is destroyed. Below `work_dir`: `agent/<digest>.pyz`, and `machines/<scope>/<job name>/`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cloudsched.drivers import base
from cloudsched.drivers.agentfile import agent_digest, agent_pyz
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm.transport import Result, Transport

# Fixed texts; what varies comes as arguments.
_LIST = 'cd -- "$1" 2> /dev/null || exit 0; for file in */machine.json; do [ -e "$file" ] && cat -- "$file" && echo; done; true'
_TAILS = 'for home; do tail -c 4096 -- "$home/agent.log" 2> /dev/null; printf "\\036"; done; true'
_MAKE = 'mkdir -p -m 755 -- "$1" && mkdir -p -m 711 -- "$2" "$3" && mkdir -p -m 700 -- "$3/work" && : > "$3/agent.log"'
_WRITABLE = 'mkdir -p -m 755 -- "$1" && [ -w "$1" ] && [ -x "$1" ]'
_TAILS_PER_COMMAND = 200


class Homes:
    """The directories of one place's pilots."""

    def __init__(self, transport: Transport, work_dir: str, scope: str, *, limit_s: float) -> None:
        self._transport = transport
        self._work_dir = work_dir
        self._root = f"{work_dir}/machines/{scope}"
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._agent = ""

    def path(self, job_name: str) -> str:
        return f"{self._root}/{job_name}"

    def check(self) -> str:
        """Empty when pilots' directories can be made there, else why not."""
        done = self._sh(_WRITABLE, self._work_dir)
        return "" if done.code == 0 else done.stderr.strip() or f"{self._work_dir} cannot be written to"

    def make(self, job_name: str, facts: Mapping[str, Any], token: str) -> str:
        """The directory with its facts and token; repeating it changes nothing. Returns the agent's path."""
        home = self.path(job_name)
        done = self._sh(_MAKE, f"{self._work_dir}/agent", self._root, home)
        if done.code:
            raise DriverError(f"{home} cannot be made: {done.stderr.strip()[:200]}", code=base.DENIED)
        self._transport.put(json.dumps(facts).encode(), f"{home}/machine.json", mode=0o600)
        self._transport.put(token.encode(), f"{home}/token", mode=0o600)
        return self._agent_file()

    def list(self) -> dict[str, dict[str, Any]]:
        """Facts by job name, of every directory that says whose it is."""
        done = self._sh(_LIST, self._root)
        if done.code:
            raise DriverError(f"{self._root} cannot be read: {done.stderr.strip()[:200]}", code=base.OTHER, transient=True)
        found = {}
        for line in done.stdout.splitlines():
            facts = _facts(line)
            if facts is not None:
                found[facts["job_name"]] = facts
        return found

    def last_words(self, job_names: Sequence[str]) -> dict[str, str]:
        """The last error in each pilot's log; nothing for those that said none."""
        found = {}
        for start in range(0, len(job_names), _TAILS_PER_COMMAND):
            part = job_names[start:start + _TAILS_PER_COMMAND]
            done = self._sh(_TAILS, *(self.path(name) for name in part))
            for name, tail in zip(part, done.stdout.split("\x1e"), strict=False):
                said = last_error(tail)
                if said:
                    found[name] = said
        return found

    def remove(self, job_name: str) -> None:
        done = self._transport.run(["rm", "-rf", "--", self.path(job_name)], timeout_s=self._limit_s)
        if done.code:
            raise DriverError(f"{self.path(job_name)} cannot be removed: {done.stderr.strip()[:200]}", code=base.OTHER,
                              transient=True)  # fmt: skip

    def _agent_file(self) -> str:
        """Put there once, under its digest: pilots of an older version keep theirs."""
        path = f"{self._work_dir}/agent/{agent_digest()[:16]}.pyz"
        with self._lock:
            if self._agent != path:
                there = self._transport.run(["test", "-s", path], timeout_s=self._limit_s)
                if there.code:
                    self._transport.put(agent_pyz(), path, mode=0o644)
                self._agent = path
        return path

    def _sh(self, script: str, *words: str) -> Result:
        return self._transport.run(["sh", "-c", script, "sh", *words], timeout_s=self._limit_s)


def last_error(log: str) -> str:
    """What a pilot's log ends with: the agent's last error, or the last line that is not of the agent."""
    for line in reversed(log.splitlines()):
        try:
            said = json.loads(line)
        except ValueError:
            if line.strip() and not line.startswith("slurmstepd"):
                return line.strip()[:200]
            continue
        if isinstance(said, dict) and said.get("level") == "error":
            detail = said.get("error") or said.get("detail") or ""
            return f"{said.get('message')}{': ' + str(detail) if detail else ''}"[:200]
    return ""


def _facts(line: str) -> dict[str, Any] | None:
    try:
        facts = json.loads(line)
    except ValueError:
        return None
    good = isinstance(facts, dict) and isinstance(facts.get("name"), str) and isinstance(facts.get("job_name"), str)
    return facts if good else None
