"""Who looks after the log agent? Its start, its death, what it is told, and its end.

Called by the agent's one loop; what must wait for an answer is done on a line. The log agent is started by the guard
(`beside`), or by us where there is none; it is known by the id it writes down.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from urllib.parse import quote

from cloudsched.agent import lines, log, processes
from cloudsched.agent.session import write_private
from cloudsched.agent.wire import Address, Connection, Unreachable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PATH = "/api/v2/agent/logs"
TIMEOUT_S = 15.0
APPLY_TIMEOUT_S = 30.0
LAST_CALL_S = 2.0
AGAIN_S = 5.0
ASKED_S = 15.0  # the guard was asked: if it is not there by then, it is asked again
FIRST_BACKOFF_S, MAX_BACKOFF_S = 1.0, 30.0
HELD_S = 20.0  # a log agent that lived so long was well: its next start is not held back
_KEPT_ENV = ("PATH", "LANG", "LC_ALL", "TZ", "PREFIX", "SSL_CERT_FILE", "SSL_CERT_DIR",
             "CLOUDSCHED_NODE", "CLOUDSCHED_INSTANCE", "CLOUDSCHED_MACHINE")  # fmt: skip


class Keeper:
    """The log agent of one work directory; `folder` is its own. `on_told` gets what the server wants now."""

    def __init__(self, folder: str, server: str, *, asks: int, post: Callable[..., None], headers: Callable[[], dict[str, str]],
                 on_told: Callable[[object], None]) -> None:  # fmt: skip
        self.pids: set[int] = set()  # a child of ours that is no job's; empty when the guard has it
        self._folder, self._asks, self._headers, self._on_told = folder, asks, headers, on_told
        self._server, self._address = server.rstrip("/"), Address(server)
        self._line = lines.Line("logs", self._address, post)
        self._wanted: dict[str, Any] | None = None
        self._process: tuple[int, int] | None = None
        self._started_at = self._start_at = 0.0
        self._any_port = self._awaited = False
        self._backoff_s = FIRST_BACKOFF_S
        self._turn, self._closed = threading.Lock(), False
        self._applied: tuple[Any, ...] = ()
        self._apply_at = self._refresh_at = 0.0
        self._reported: dict[str, Any] = {}

    @property
    def there(self) -> bool:
        return self._process is not None

    def tell(self, wanted: dict[str, Any]) -> None:
        """This is wanted from now on. Raises OSError, KeyError, TypeError, ValueError."""
        for name in ("", "configs", "meta"):
            os.makedirs(os.path.join(self._folder, name), 0o700, exist_ok=True)
        self._refresh_at = time.monotonic() + float(wanted["refresh_s"])
        write_private(self._in("authorization"), self._headers()["Authorization"])
        write_private(self._in("told.json"), json.dumps(wanted))
        before, self._wanted = self._wanted, wanted
        if before is not None and _config(before) != _config(wanted):
            self._end()  # started again with the new configuration
        self._applied, self._apply_at = (), 0.0

    def dismiss(self) -> None:
        """Nothing is wanted any more."""
        self._wanted = None
        self._end()

    def checkpoint(self, runner: str) -> str:
        """Where the log agent notes how far a runner has come."""
        return os.path.join(self._in("meta"), "runners", _digest(runner), "checkpoint.json")

    def watch(self, now: float) -> None:
        """Is it there? Started again when it is not, with growing pauses."""
        if self._process is not None:
            if processes.alive(*self._process):
                return
            _reap(self._process[0])
            self.pids.discard(self._process[0])
            self._process, self._applied = None, ()
            _unlink(self._in("pid"))
            self._any_port = not os.path.exists(self._in("port"))  # perhaps another took it
            if self._wanted is not None:
                self._backoff_s = FIRST_BACKOFF_S if now - self._started_at > HELD_S else min(MAX_BACKOFF_S, self._backoff_s * 2)
                self._start_at = now + (0.0 if now - self._started_at > HELD_S else self._backoff_s)
                log.say("warning", "the log agent has ended", again_in_s=round(max(0.0, self._start_at - now), 1))
        elif self._awaited and self._seen():
            return
        if self._wanted is not None and now >= self._start_at:
            self._start(now)

    def talk(self, now: float) -> None:
        """The runners that are wanted to the log agent; how that went to the server, which answers what is wanted now."""
        if self._wanted is None or self._line.busy:
            return
        if not self._applied and self._listens() and now >= self._apply_at:
            wanted, port, process = self._wanted, self._port(), self._process
            self._line.call(lambda _: self._apply(port, wanted), lambda result: self._was_applied(result, process))
        elif now >= self._refresh_at:
            self._refresh_at = now + float(self._wanted["refresh_s"])
            body = json.dumps({"runners": self._reported}).encode()
            self._line.call(lambda connection: self._ask(connection, body), self._was_told)

    def make_ready(self, until: float) -> None:
        """A machine may have lived so shortly that its log agent is not up yet, or was killed a moment ago."""
        assert self._wanted is not None
        if not self._awaited:
            self._start_at = 0.0
        while time.monotonic() < until - 0.5:
            self.watch(time.monotonic())
            if self._listens():
                try:
                    self._applied = self._applied or (self._apply(self._port(), self._wanted),)
                    return
                except (OSError, ValueError, Unreachable) as error:
                    log.say("debug", "the log agent was not told its runners", error=str(error))
            time.sleep(0.02)

    def stop(self, until: float) -> None:
        """End it, by force when it is not gone by then."""
        if self._process is None:
            return
        self._end()
        while processes.alive(*self._process) and time.monotonic() < until:
            time.sleep(0.02)
        processes.send(self._process[0], self._process[1], signal.SIGKILL)
        _reap(self._process[0], wait=True)
        self.pids.discard(self._process[0])
        self._process = None

    def say_goodbye(self) -> None:
        """The server need not wait for more from this machine."""
        connection = Connection(self._address)
        try:
            connection.request("POST", PATH + "?final=1", headers=self._headers(), timeout_s=LAST_CALL_S)
        except Unreachable:
            pass
        connection.close()

    def close(self) -> None:
        """Nothing is written into the folder any more when this returns."""
        self._line.abandon()
        with self._turn:
            self._closed = True

    def _start(self, now: float) -> None:
        assert self._wanted is not None
        config = _config(self._wanted)
        host = "0.0.0.0" if config["allow_networks"] else "127.0.0.1"  # noqa: S104 - with an allow-list
        config["bind_host"] = "%s:%d" % (host, 0 if self._any_port else self._port())
        config.update(rest_dir=self._in("configs"), meta_dir=self._in("meta"), variables=self._variables())
        try:
            write_private(self._in("logagent.json"), json.dumps(config))
            if os.path.exists(self._in("port")):
                os.replace(self._in("port"), self._in("port.before"))
            drain_s = float(self._wanted["flush_s"]) * 0.8
            argv = ["--config", self._in("logagent.json"), "--port-file", self._in("port"), "--drain", "%g" % drain_s,
                    "--log-level", "warning"]  # fmt: skip
            write_private(self._in("command.json"), json.dumps(argv))
            _unlink(self._in("pid"))
            if self._asks >= 0:
                os.write(self._asks, b"s")
                self._awaited = True
            else:
                self._hold(_spawn(argv, self._folder))
                self.pids.update(self._process[:1] if self._process else ())
        except OSError as error:
            self._start_at = now + MAX_BACKOFF_S
            log.say("error", "the log agent cannot be started", error=error.strerror, again_in_s=MAX_BACKOFF_S)
            return
        self._started_at, self._start_at = now, now + ASKED_S

    def _seen(self) -> bool:
        """The guard started it, and it has said which process it is."""
        try:
            with open(self._in("pid")) as file:
                self._hold(int(file.read()))
        except (OSError, ValueError):
            return False
        return True

    def _hold(self, pid: int) -> None:
        self._process, self._awaited = (pid, processes.start_time(pid) or 0), False

    def _end(self) -> None:
        if self._process is not None:
            processes.send(self._process[0], self._process[1], signal.SIGTERM)
            self._start_at = 0.0

    def _variables(self) -> dict[str, str]:
        return {"CLOUDSCHED_LOGS": self._folder, "CLOUDSCHED_COLLECT": self._server + PATH,
                "CLOUDSCHED_AUTHORIZATION": self._in("authorization")}  # fmt: skip

    def _port(self) -> int:
        """Where it listens now, or listened before; 0: anywhere."""
        for name in ("port", "port.before"):
            try:
                with open(self._in(name)) as file:
                    return int(file.read())
            except (OSError, ValueError):
                continue
        return 0

    def _listens(self) -> bool:
        return self._process is not None and os.path.exists(self._in("port"))

    def _in(self, name: str) -> str:
        return os.path.join(self._folder, name) if name else self._folder

    def _apply(self, port: int, wanted: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """On a line, and at the end by the loop: one after the other, and not when the folder is gone."""
        with self._turn:
            return {} if self._closed else _apply(port, wanted, self._in("ours.json"))

    def _was_applied(self, result: Any, process: tuple[int, int] | None) -> None:
        if isinstance(result, Exception) or process != self._process:
            self._apply_at = time.monotonic() + AGAIN_S
            lines.complain("the log agent was not told its runners", result if isinstance(result, Exception) else "it has ended")
            return
        changed = result != self._reported
        self._reported, self._applied = result, (True,)
        failed = {name: one["reason"] for name, one in result.items() if one["state"] != "applied"}
        if failed:
            self._applied, self._apply_at = (), time.monotonic() + MAX_BACKOFF_S
            log.say("warning", "runners were not taken", **failed)
        if changed:
            self._refresh_at = 0.0

    def _ask(self, connection: Connection, body: bytes) -> Any:
        headers = {"Content-Type": "application/json", **self._headers()}
        answer = connection.request("POST", PATH + "/state", body=body, headers=headers, timeout_s=TIMEOUT_S)
        if answer.status != 200:
            raise Unreachable("status %d" % answer.status)
        return json.loads(answer.body)["logs"]

    def _was_told(self, result: Any) -> None:
        if isinstance(result, Exception):
            log.say("debug", "what is to be collected was not learnt", error=str(result))
        elif result != self._wanted:
            self._on_told(result)


def _config(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of the log agent, as far as the server decides it."""
    masters = list(wanted.get("masters") or ())
    cluster = {"enable": bool(masters), "master_url": masters, "tag": str(wanted.get("tag") or ""),
               "address": str(wanted.get("address") or ""), "labels": dict(wanted.get("labels") or {})}  # fmt: skip
    return {"allow_networks": list(wanted.get("networks") or ()), "cluster": cluster}


def _apply(port: int, wanted: Mapping[str, Any], kept: str) -> dict[str, dict[str, str]]:
    """Make the log agent run what is wanted of it; returns how that went, by runner. Raises Unreachable, OSError.

    `kept`: which runners are there because we put them there, and which configuration each has. Others are left alone.
    """
    connection = Connection(Address("http://127.0.0.1:%d" % port))
    try:
        there = set(_call(connection, "GET", "/logkit/runners"))
        ours, outcome = _ours(kept), {}
        runners: dict[str, dict[str, Any]] = wanted["runners"]
        for name, one in runners.items():
            outcome[name] = _apply_one(connection, name, one, there, ours)
        for name in [name for name in ours if name not in runners]:
            del ours[name]
            if name in there and name not in wanted.get("leave", ()):
                _call(connection, "DELETE", "/logkit/configs/" + quote(name, safe=""))
        write_private(kept, json.dumps(ours))
        return outcome
    finally:
        connection.close()


def _apply_one(connection: Connection, name: str, one: dict[str, Any], there: set[str], ours: dict[str, str]) -> dict[str, str]:
    path = "/logkit/configs/" + quote(name, safe="")
    said = {"hash": str(one.get("hash") or ""), "state": "applied", "reason": ""}
    config = dict(one["config"])
    if one.get("run") == "stopped":
        config["is_stopped"] = True
    digest = _digest(json.dumps(config, sort_keys=True))
    try:
        if name not in there or ours.get(name) != digest:
            _call(connection, "PUT" if name in there else "POST", path, config)
            ours[name] = digest
    except ValueError as error:
        said.update(state="failed", reason=str(error)[:1000])
    return said


def _call(connection: Connection, method: str, path: str, body: object = None) -> Any:
    """The payload of the answer; ValueError with its text when the log agent refuses."""
    data = b"" if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "X-Logkit-Style": "envelope"}
    answer = connection.request(method, path, body=data, headers=headers, timeout_s=APPLY_TIMEOUT_S)
    value = json.loads(answer.body)
    if answer.status != 200:
        raise ValueError(str(value.get("message") or "status %d" % answer.status))
    return value.get("data")


def _ours(path: str) -> dict[str, str]:
    try:
        with open(path) as file:
            return {str(name): str(digest) for name, digest in json.load(file).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def _spawn(argv: list[str], folder: str) -> int:
    """Where there is no guard: a child of ours."""
    root, archive = _source()
    what = [archive, "logagent"] if archive else ["-m", "cloudsched.logagent"]
    command = [sys.executable, "-S", *what, *argv, "--with-parent", str(os.getpid())]
    env = {name: os.environ[name] for name in _KEPT_ENV if name in os.environ}
    env.update(PYTHONPATH=root, PYTHONDONTWRITEBYTECODE="1")
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.chdir(folder)
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1)]
        # In a group of its own: Ctrl-C is for us, it ends after us.
        return os.posix_spawn(sys.executable, command, env, file_actions=actions, setpgroup=0,
                              setsigmask=[], setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM])  # fmt: skip
    finally:
        os.close(null)


def _source() -> tuple[str, str]:
    """(where the packages are, the archive if it is one) of this very program."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return root, root if os.path.isfile(root) else ""


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _reap(pid: int, *, wait: bool = False) -> None:
    """It may have been reaped with the jobs."""
    until = time.monotonic() + 2.0
    try:
        while not os.waitpid(pid, os.WNOHANG)[0] and wait and time.monotonic() < until:
            time.sleep(0.005)
    except OSError:
        pass


def _digest(text: str) -> str:
    """As the log agent names the folder of a runner."""
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()
