"""How does a test run a real instance? Its processes in a directory of their own, on ports of their own, all of them found.

Everything below one directory: `state/` (the instance's), `home/` and `tmp/` (must stay empty), `logs/`, and
`cloudsched.toml`. Its name carries a random mark. Whatever the instance starts has the mark in its environment, its
command line or its working directory, so leftovers are found by looking through /proc, however they were started.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import cloudsched
from cloudsched.settings.sections import LISTENERS, Listen

MARK = "CLOUDSCHED_TEST_INSTANCE"
NATIVE, INFO, ADMIN = 8100, 8111, 8112
SOURCE = Path(cloudsched.__file__).parent.parent
KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH")
TAIL_LINES = 40

T = TypeVar("T")

# Reacts within a fraction of a second, so that tests need not wait; every value is one a user may set.
QUICK: Mapping[str, Mapping[str, Any]] = {
    "engine": {f"{name}_interval_s": 0.2 for name in (
        "job_poller", "machine_poller", "node_poller", "scheduler", "cleanup")} | {"sweep_interval_s": 1.0, "lease_s": 3},
    "agent": {"lease_s": 5, "heartbeat_s": 0.5, "long_poll_s": 2},
    "web": {"shutdown_grace_s": 3},
    "cloud_scheduler": {"config_file": "none"},
}


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Process:
    """One process of an instance; it can be started again after its end."""

    def __init__(self, name: str, argv: list[str], *, env: dict[str, str], log: Path, cwd: Path) -> None:
        self.name, self.argv, self.env, self.log, self.cwd = name, argv, env, log, cwd
        self.popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen is not None and self.popen.poll() is None

    def start(self) -> Process:
        """Start it (again); its output goes behind what is in the log."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(self.argv, env=self.env, cwd=self.cwd, stdin=subprocess.DEVNULL, stdout=log,
                                          stderr=log, start_new_session=True)
        return self

    def stop(self, number: int = signal.SIGTERM, *, limit_s: float = 40.0) -> int:
        """Ask it to end; returns its exit status. Raises TimeoutExpired when it does not."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(timeout=limit_s)

    def kill(self) -> None:
        """kill -9, nothing else: its own children are left to whoever cares."""
        assert self.popen is not None
        with contextlib.suppress(ProcessLookupError):
            self.popen.kill()
        self.popen.wait(timeout=10)

    def restart(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal and start it again."""
        if number == signal.SIGKILL:
            self.kill()
        else:
            self.stop(number)
        self.start()


class Instance:
    """One instance of cloudsched in a directory and a range of ports of its own.

    `config`: sections of cloudsched.toml over QUICK; `clouds`: tables of [[local.clouds]]; `database_url`: Postgres.
    """

    def __init__(self, *, config: Mapping[str, Mapping[str, Any]] | None = None, clouds: Iterable[Mapping[str, Any]] = (),
                 database_url: str = "", quick: bool = True) -> None:
        self.mark = os.urandom(8).hex()
        self.root = Path(tempfile.mkdtemp(prefix=f"cs-{self.mark}-"))
        # Passable, as a state directory is where jobs of root's instance run as somebody else.
        self.root.chmod(0o711)
        self.state, self.logs, self.home, self.tmp = (self.root / name for name in ("state", "logs", "home", "tmp"))
        for folder in (self.logs, self.home, self.tmp):
            folder.mkdir()
        self.database_url = database_url
        self.offset = free_offset()
        self.processes: dict[str, Process] = {}
        self.config_file = self.root / "cloudsched.toml"
        self.config_file.write_text(_toml(_merged(QUICK if quick else {}, config or {}), clouds))

    # -- addresses ---------------------------------------------------------------------------------------------

    @property
    def native(self) -> int:
        return NATIVE + self.offset

    @property
    def info(self) -> int:
        return INFO + self.offset

    @property
    def admin(self) -> int:
        return ADMIN + self.offset

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.native}"

    def environment(self) -> dict[str, str]:
        """What every process of the instance gets, clients included."""
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE), env.get("PYTHONPATH", "")]))
        env |= {MARK: self.mark, "HOME": str(self.home), "TMPDIR": str(self.tmp),
                "CLOUDSCHED_STATE": str(self.state), "CLOUDSCHED_PORT_OFFSET": str(self.offset),
                "CLOUDSCHED_CONFIG": str(self.config_file), "NO_COLOR": "1"}
        if self.database_url:
            env["CLOUDSCHED_DATABASE_URL"] = self.database_url
        return env

    # -- processes ---------------------------------------------------------------------------------------------

    def start(self, command: str, *more: str, name: str = "") -> Process:
        """Start `cloudsched COMMAND` (`up`, `serve`, `engine`) under a name of its own."""
        name = name or command
        known = self.processes.get(name)
        if known is not None:
            return known.start()
        argv = [sys.executable, "-m", "cloudsched", command, *more]
        made = Process(name, argv, env=self.environment(), log=self.logs / f"{name}.log", cwd=self.root)
        self.processes[name] = made
        return made.start()

    def start_all(self) -> Instance:
        """One `serve` and one `engine`, until the native API answers."""
        self.start("serve")
        self.start("engine")
        self.wait_ready()
        return self

    def wait_ready(self, limit_s: float = 30.0) -> None:
        """Until /healthz answers 200."""
        self.until(self.answers, "an answer of /healthz", limit_s=limit_s, pause_s=0.03)

    def answers(self) -> bool:
        """Does the server say that it is alive?"""
        try:
            return self.call("GET", "/healthz").status == 200
        except (OSError, HTTPException):
            return False

    def stop(self, *, check: bool = True) -> None:
        """Stop all processes, engines first; raises AssertionError with the logs when something is left and `check`."""
        for process in sorted(self.processes.values(), key=lambda one: one.name.startswith("serve")):
            if process.running:
                try:
                    process.stop()
                except subprocess.TimeoutExpired:
                    process.kill()
                    if check:
                        raise AssertionError(f"{process.name} does not stop\n{self.tails()}") from None
        if check:
            self.check_clean()

    def destroy(self) -> None:
        """Whatever happened: no process and no directory of this instance is left."""
        for process in self.processes.values():
            if process.running:
                process.kill()
        for _ in range(100):
            found = self.marked()
            if not found:
                break
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        shutil.rmtree(self.root, ignore_errors=True)

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        try:
            if error is not None:
                error.add_note(self.tails())
        finally:
            self.destroy()

    # -- what is there -----------------------------------------------------------------------------------------

    def marked(self) -> dict[int, str]:
        """Every living process of this instance: id -> command line. Ourselves and zombies are left out."""
        found = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid() and self._is_ours(name):
                found[int(name)] = _command_line(name)
        return found

    def _is_ours(self, pid: str) -> bool:
        mark = self.mark.encode()
        try:
            if _state(pid) in "ZX":
                return False
            if mark in Path(f"/proc/{pid}/cmdline").read_bytes() or mark in Path(f"/proc/{pid}/environ").read_bytes():
                return True
            return self.mark in os.readlink(f"/proc/{pid}/cwd")
        except (OSError, IndexError):
            return False

    def agents(self) -> list[int]:
        """Process ids of the machines of this instance: the guard above each agent leads a session."""
        return [pid for pid in self.agent_processes() if _session(pid) == pid]

    def agent_processes(self) -> list[int]:
        """Guards and agents."""
        return sorted(pid for pid, line in self.marked().items() if " cloudsched.agent " in line)

    def machine_directories(self) -> list[Path]:
        """Directories of local machines, of whatever cloud."""
        return sorted(path for path in self.state.glob("local/*/*") if path.is_dir())

    def scratch_directories(self) -> list[Path]:
        """Directories that jobs ran in."""
        return sorted(self.state.glob("local/*/*/work/scratch/*"))

    def check_clean(self) -> None:
        """After a stop: no process, no machine, no scratch directory, and nothing outside the state directory."""
        left = self.marked()
        folders = [str(path.relative_to(self.root)) for path in self.machine_directories()]
        stray = [str(path) for folder in (self.home, self.tmp) for path in folder.rglob("*")]
        stray += [str(path) for path in self.root.iterdir()
                  if path.name not in ("state", "logs", "home", "tmp", "cloudsched.toml")]
        if left or folders or stray:
            raise AssertionError(f"left behind: processes {left}, machines {folders}, files {stray}\n{self.tails()}")

    def tails(self) -> str:
        """The ends of all logs, for a failed test."""
        paths = [*self.logs.glob("*.log"), *self.state.glob("*.log"), *self.state.glob("local/*/*/agent.log")]
        return "\n".join(f"--- {path.relative_to(self.root)}\n{_tail(path)}" for path in sorted(paths))

    def log_text(self) -> str:
        """All of what serve, engine and up have written."""
        paths = [*self.logs.glob("*.log"), *self.state.glob("*.log")]
        return "".join(path.read_text(errors="replace") for path in sorted(paths))

    # -- talking -----------------------------------------------------------------------------------------------

    def call(self, method: str, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None, port: int = 0,
             timeout_s: float = 40.0) -> Answer:
        """One request as it is given: `body` bytes, text, or a value sent as JSON. Raises OSError, HTTPException."""
        raw, given = body, dict(headers or {})
        if body is not None and not isinstance(body, bytes | str):
            raw = json.dumps(body)
            given.setdefault("Content-Type", "application/json")
        connection = HTTPConnection("127.0.0.1", port or self.native, timeout=timeout_s)
        try:
            connection.request(method, path, body=raw.encode() if isinstance(raw, str) else raw, headers=given)
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def api(self, method: str, path: str, body: Any = None, *, expect: int | tuple[int, ...] = (200, 201, 202, 204),
            **query: Any) -> Any:
        """A request below /api/v2 that must work; returns the JSON (None for an empty body)."""
        asked = f"/api/v2{path}" + (f"?{urlencode(query, doseq=True)}" if query else "")
        answer = self.call(method, asked, body)
        allowed = (expect,) if isinstance(expect, int) else expect
        assert answer.status in allowed, f"{method} {asked}: {answer.status} {answer.text[:2000]}"
        return answer.json if answer.body else None

    def submit(self, *command: str, **fields: Any) -> int:
        """One job; returns its id. The default shape fits one machine of a local cloud."""
        job = {"memory_mb": 64, **fields} | ({"command": list(command)} if command else {})
        return int(self.api("POST", "/jobs", job)["id"])

    def shell(self, script: str, **fields: Any) -> int:
        """One job that runs `/bin/sh -c SCRIPT`."""
        return self.submit("/bin/sh", "-c", script, **fields)

    def job(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self.api("GET", f"/jobs/{number}")
        return found

    def output(self, number: int, stream: str = "stdout") -> str:
        return self.call("GET", f"/api/v2/jobs/{number}/output?stream={stream}").text

    def wait_state(self, number: int, *states: str, limit_s: float = 40.0) -> dict[str, Any]:
        """Until the job is in one of these states; fails at once when it has ended in another."""
        final = {"succeeded", "failed", "timeout", "cancelled"}

        def look() -> dict[str, Any] | None:
            job = self.job(number)
            assert job["state"] in states or job["state"] not in final, f"not {states}: {job}"
            return job if job["state"] in states else None

        found = self.until(look, f"job {number} in {states}", limit_s=limit_s)
        assert found is not None
        return found

    def run(self, *argv: str, env: Mapping[str, str] | None = None, cwd: Path | None = None, limit_s: float = 60.0,
            stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A program of this instance's user, e.g. `sys.executable -m cloudsched ...`."""
        return subprocess.run(argv, env={**self.environment(), **(env or {})}, cwd=cwd or self.root, capture_output=True,
                              text=True, timeout=limit_s, check=False, input=stdin)

    def cli(self, *argv: str, **how: Any) -> subprocess.CompletedProcess[str]:
        """`cloudsched ARGV` against this instance."""
        return self.run(sys.executable, "-m", "cloudsched", *argv, **how)

    def until(self, condition: Callable[[], T], what: str, *, limit_s: float = 30.0, pause_s: float = 0.05) -> T:
        """Poll until `condition()` is true, and return what it returned. AssertionError after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {limit_s:g} s: {what}")
            time.sleep(pause_s)


def free_offset() -> int:
    """An offset at which the ports of all listeners are free now."""
    chance = random.SystemRandom()
    ports = [getattr(Listen(), name) for name in LISTENERS]
    for _ in range(200):
        offset = chance.randrange(2_000, 24_000)
        if all(_is_free(port + offset) for port in ports):
            return offset
    raise RuntimeError("no free range of ports was found")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _merged(base: Mapping[str, Mapping[str, Any]], over: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in {**base, **over}}


def _toml(sections: Mapping[str, Mapping[str, Any]], clouds: Iterable[Mapping[str, Any]]) -> str:
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
    for cloud in clouds:
        lines += ["[[local.clouds]]", *(f"{key} = {json.dumps(value)}" for key, value in cloud.items())]
    return "\n".join(lines) + "\n"


def _state(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace") + " "
    except OSError:
        return ""


def _tail(path: Path) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-TAIL_LINES:])
    except OSError as error:
        return str(error)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0
