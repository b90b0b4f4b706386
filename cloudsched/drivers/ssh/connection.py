"""How is one host talked to? Commands with limits, files, facts; and one live connection per target for all callers.

Fabric opens the connection (through jump hosts as well) and the file transfer; commands run over channels of it, so
that their time, output and end are under our control. Everything raises DriverError: AUTH (not let in, wrong host key,
sudo refused), ENDPOINT (not reached, broken; transient), REQUEST (a wrong argument), OTHER.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fabric
import paramiko

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh import opening, shell
from cloudsched.drivers.ssh.facts import SCRIPT as FACTS_SCRIPT
from cloudsched.drivers.ssh.facts import Facts, parse_facts
from cloudsched.drivers.ssh.many import HostResult, on_all
from cloudsched.drivers.ssh.session import Finished, RunFailed, Session
from cloudsched.drivers.ssh.targets import Target, target_from

__all__ = ["Connection", "Connections", "Facts", "HostResult", "Result", "RunFailed", "Target", "on_all", "target_from"]

MIB = 1 << 20
KILL_S = 15.0
FACTS_S = 20.0
IDLE_S = 60.0
SESSIONS = 8  # a server allows ten on one connection unless told otherwise
_PIECE = 32_768
_AGAIN_S = 0.05

log = logging.getLogger(__name__)
Output = Callable[[str, str], None]


@dataclass(frozen=True)
class Result:
    """What a command gave. `code` is its exit status, 128 + n when signal n ended it."""

    host: str
    code: int
    stdout: str
    stderr: str
    seconds: float
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0


class Connection:
    """A connection to one target, opened when first used, and again when it broke. Safe for several threads.

    `via`: the connection to `target.jump`, when others use it as well; without, an own one is made.
    """

    def __init__(self, target: Target, *, via: Connection | None = None) -> None:
        self.target = target
        self.host = target.label
        self.last_used = time.monotonic()
        self._via = via if via is not None or target.jump is None else Connection(target.jump)
        self._owns_via = via is None and self._via is not None
        self._lock = threading.Lock()
        self._live: fabric.Connection | None = None
        self._no_sftp = False
        self._slots = threading.BoundedSemaphore(SESSIONS)
        self._busy = 0
        self._busy_lock = threading.Lock()

    # -- life --------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect unless connected; within some `connect_timeout_s`. Raises DriverError."""
        self._opened()

    @property
    def is_open(self) -> bool:
        return self._live is not None and opening.is_alive(self._live)

    @property
    def busy(self) -> bool:
        """Something runs over it now."""
        return self._busy > 0

    def close(self) -> None:
        """End it, and an own connection to the jump host; a later call opens it again."""
        with self._lock:
            self._drop()
        if self._owns_via and self._via is not None:
            self._via.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> fabric.Connection:
        with self._lock:
            if self._live is None or not opening.is_alive(self._live):
                self._drop()
                through = self._via._opened() if self._via is not None else None
                self._live = opening.connect(self.target, through)
            return self._live

    def _drop(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            opening.disconnect(live)

    # -- commands ----------------------------------------------------------------------------------------------

    def run(self, command: str | Sequence[str], *, input: bytes = b"", timeout_s: float, sudo: bool = False,
            env: Mapping[str, str] | None = None, on_output: Output | None = None, max_output: int = MIB) -> Result:
        """Run a command (text for the shell, or words) and wait for its end.

        `timeout_s`: then it is killed on the host with all its processes, and RunFailed (transient) is raised.
        `on_output(stream, text)` is called with all output as it comes; the result holds the first `max_output` bytes
        of each stream. An exit status other than 0 is a result, no error.
        """
        done = self._run(command, input=input, timeout_s=timeout_s, sudo=sudo, env=env, on_output=on_output,
                         max_output=max_output)  # fmt: skip
        return Result(self.host, done.code, _text(done.stdout), _text(done.stderr), done.seconds, done.truncated)

    def ping(self, *, timeout_s: float = 10.0) -> float:
        """Seconds that the shortest command takes there and back."""
        began = time.monotonic()
        self.run(":", timeout_s=timeout_s)
        return time.monotonic() - began

    def facts(self, *, path: str = ".", python: str = "", timeout_s: float = FACTS_S) -> Facts:
        """Cores, memory, disk space at `path`, system, Python (the first that fits, or `python`), architecture."""
        done = self.run(["/bin/sh", "-c", FACTS_SCRIPT, "facts", path, python], timeout_s=timeout_s)
        return parse_facts(self.host, done.stdout)

    def _run(self, command: str | Sequence[str], *, timeout_s: float, input: bytes = b"", sudo: bool = False,
             env: Mapping[str, str] | None = None, on_output: Output | None = None, max_output: int = MIB) -> Finished:
        if not timeout_s > 0:
            raise DriverError(f"timeout_s: {timeout_s!r} must be more than 0", code=base.REQUEST)
        mark = shell.new_mark()
        script = shell.script(mark, command, env)
        become = "" if not (sudo or self.target.sudo) else "password" if self.target.sudo_password else "plain"
        with self._session(mark, become, timeout_s=timeout_s) as session:
            try:
                return session.finish(script + input, on_output=on_output, max_output=max_output)
            except RunFailed as error:
                if not error.timed_out:
                    raise
                failure = error
        # Its place is free again: as many may hang as can run, and each needs one for this.
        failure.left = self._kill(mark, session.pid, sudo=bool(become))
        failure.add_left()
        raise failure

    @contextlib.contextmanager
    def _session(self, mark: str, become: str, *, timeout_s: float) -> Iterator[Session]:
        until = time.monotonic() + timeout_s
        with self._slot(until):
            channel = self._channel(until)
            try:
                yield Session(self.target, channel, mark, become, until=until, timeout_s=timeout_s)
            finally:
                channel.close()

    @contextlib.contextmanager
    def _slot(self, until: float) -> Iterator[None]:
        """One of the sessions that the server allows; the connection is not idle meanwhile."""
        if not self._slots.acquire(timeout=max(0.0, until - time.monotonic())):
            raise DriverError(f"{self.host}: {SESSIONS} commands run there already", code=base.OTHER, transient=True)
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
            self._slots.release()

    def _count(self, change: int) -> None:
        with self._busy_lock:
            self._busy += change
            self.last_used = time.monotonic()

    def _channel(self, until: float) -> paramiko.Channel:
        """A channel for one command. A connection that was kept and broke meanwhile is opened once more; a server that
        has not yet counted off the channels that ended is asked again."""
        until = min(until, time.monotonic() + self.target.connect_timeout_s)
        broke = False
        while True:
            live = self._opened()
            try:
                return live.transport.open_session(timeout=max(1.0, until - time.monotonic()))
            except (paramiko.SSHException, EOFError, OSError) as error:
                alive = opening.is_alive(live)  # alive and slow: others may be at work over it
                if time.monotonic() > until if alive else broke:
                    raise opening.explained(self.target, error) from error
                broke = not alive
                time.sleep(_AGAIN_S)

    def _kill(self, mark: str, pid: int, *, sudo: bool) -> str:
        """What is left of that run on the host: '' when nothing is, else why that is not known or which processes."""
        try:
            done = self.run(shell.kill_script(mark, pid), timeout_s=KILL_S, sudo=sudo and not self.target.sudo)
        except DriverError as error:
            return error.message
        return "" if done.code == 0 else f"processes{done.stdout.rstrip()} do not die"

    # -- files -------------------------------------------------------------------------------------------------

    def put(self, data: bytes | Path, remote: str, *, mode: int = 0o600, sudo: bool = False, timeout_s: float = 120.0) -> None:
        """Write a file in one step: whoever looks sees the old one or the new one. `remote` may begin with `~/`.

        By SFTP; with sudo, or where the server has no SFTP, by `cat`.
        """
        content = data.read_bytes() if isinstance(data, Path) else data
        path = _remote(remote)
        if not (sudo or self.target.sudo or self._no_sftp):
            try:
                self._put_by_sftp(content, path, mode, timeout_s)
                return
            except _NoSftp:
                self._no_sftp = True
        self._put_by_cat(content, path, mode, sudo=sudo, timeout_s=timeout_s)

    def get(self, remote: str, *, max_bytes: int = 16 * MIB, sudo: bool = False, timeout_s: float = 120.0) -> bytes:
        """A file's content. Raises DriverError (REQUEST) when it is not there, cannot be read or is larger."""
        path = _remote(remote)
        if not (sudo or self.target.sudo or self._no_sftp):
            try:
                return self._get_by_sftp(path, max_bytes, timeout_s)
            except _NoSftp:
                self._no_sftp = True
        done = self._run(f"exec head -c {max_bytes + 1} {shlex.quote(path)}", timeout_s=timeout_s, sudo=sudo,
                         max_output=max_bytes + 1)  # fmt: skip
        if done.code:
            raise DriverError(f"{self.host}: {remote}: {_text(done.stderr).strip()[:200]}", code=base.REQUEST)
        return self._bounded(done.stdout, remote, max_bytes)

    def _put_by_sftp(self, content: bytes, path: str, mode: int, timeout_s: float) -> None:
        until = time.monotonic() + timeout_s
        draft = f"{path}.{secrets.token_hex(4)}.new"
        with self._sftp(path, until) as sftp:
            try:
                with sftp.open(draft, "wx") as file:
                    file.chmod(0o600)
                    file.set_pipelined(True)
                    for start in range(0, len(content), _PIECE):
                        self._check_time(path, until)
                        file.write(content[start : start + _PIECE])
                if sftp.stat(draft).st_size != len(content):
                    raise DriverError(f"{self.host}: {path}: not all of it arrived", code=base.OTHER, transient=True)
                sftp.chmod(draft, mode)
                sftp.posix_rename(draft, path)
            except BaseException:
                with contextlib.suppress(Exception):
                    sftp.remove(draft)
                raise

    def _put_by_cat(self, content: bytes, path: str, mode: int, *, sudo: bool, timeout_s: float) -> None:
        script = ('umask 077; cat > "$1" && [ "$(wc -c < "$1")" -eq "$2" ] && chmod "$3" "$1" && mv -f "$1" "$4" && exit 0; '
                  'r=$?; rm -f "$1"; exit $r')
        draft = f"{path}.{secrets.token_hex(4)}.new"
        words = ["/bin/sh", "-c", script, "put", draft, str(len(content)), f"{mode:o}", path]
        done = self.run(words, input=content, timeout_s=timeout_s, sudo=sudo)
        if done.code:
            raise DriverError(f"{self.host}: {path}: {done.stderr.strip()[:200] or 'not all of it arrived'}", code=base.REQUEST)

    def _get_by_sftp(self, path: str, max_bytes: int, timeout_s: float) -> bytes:
        until = time.monotonic() + timeout_s
        with self._sftp(path, until) as sftp, sftp.open(path, "rb") as file:
            if (file.stat().st_size or 0) > max_bytes:
                return self._bounded(b"x" * (max_bytes + 1), path, max_bytes)
            pieces: list[bytes] = []
            size = 0
            while size <= max_bytes and (piece := file.read(_PIECE)):
                self._check_time(path, until)
                pieces.append(piece)
                size += len(piece)
            return self._bounded(b"".join(pieces), path, max_bytes)

    @contextlib.contextmanager
    def _sftp(self, path: str, until: float) -> Iterator[Any]:
        """An SFTP session for one transfer; its errors as ours. Raises _NoSftp when the server has none."""
        with self._slot(until):
            channel = self._channel(until)
            channel.settimeout(max(0.1, until - time.monotonic()))
            try:
                try:
                    channel.invoke_subsystem("sftp")
                    sftp = paramiko.SFTPClient(channel)
                except (paramiko.SSHException, EOFError) as error:
                    if self.is_open:
                        raise _NoSftp from error
                    raise opening.explained(self.target, error) from error
                yield sftp
            except (TimeoutError, EOFError, paramiko.SSHException) as error:
                raise DriverError(f"{self.host}: {path}: the transfer did not come to its end", code=base.ENDPOINT,
                                  transient=True) from error  # fmt: skip
            except OSError as error:
                raise DriverError(f"{self.host}: {path}: {error.strerror or error}", code=base.REQUEST) from error
            finally:
                channel.close()

    def _check_time(self, path: str, until: float) -> None:
        if time.monotonic() > until:
            raise DriverError(f"{self.host}: {path}: the transfer took too long", code=base.ENDPOINT, transient=True)

    def _bounded(self, content: bytes, remote: str, max_bytes: int) -> bytes:
        if len(content) > max_bytes:
            raise DriverError(f"{self.host}: {remote} is larger than {max_bytes} bytes", code=base.REQUEST)
        return content


class Connections:
    """One connection for each target, kept while it is used and closed `idle_s` after its last use."""

    def __init__(self, *, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._kept: dict[Target, Connection] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def get(self, target: Target) -> Connection:
        """The connection of `target`; jump hosts are shared. It is opened by its first call."""
        via = self.get(target.jump) if target.jump is not None else None
        with self._lock:
            kept = self._kept.get(target)
            if kept is None:
                kept = self._kept[target] = Connection(target, via=via)
            kept.last_used = time.monotonic()
            self._watch()
            return kept

    def close(self) -> None:
        """Close all; the next call opens what it needs."""
        with self._lock:
            kept, self._kept = list(self._kept.values()), {}
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        for connection in kept:
            connection.close()

    def __len__(self) -> int:
        return len(self._kept)

    def __enter__(self) -> Connections:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _watch(self) -> None:
        if self._timer is None and self._kept:
            self._timer = threading.Timer(max(0.05, self._idle_s / 2), self._close_idle)
            self._timer.daemon = True
            self._timer.start()

    def _close_idle(self) -> None:
        before = time.monotonic() - self._idle_s
        with self._lock:
            self._timer = None
            hops = {connection.target.jump for connection in self._kept.values()}
            old = [target for target, connection in self._kept.items()
                   if not connection.busy and connection.last_used < before and target not in hops]  # fmt: skip
            closed = [self._kept.pop(target) for target in old]
            self._watch()
        for connection in closed:
            connection.close()


class _NoSftp(Exception):
    """The server has no such subsystem."""


def _remote(path: str) -> str:
    """A path as SFTP and the shell both understand it: relative ones begin in the home directory."""
    if not path or "\0" in path or path.endswith("/"):
        raise DriverError(f"remote: {path!r} is not the path of a file", code=base.REQUEST)
    plain = path[2:] if path.startswith("~/") else path
    return plain if plain.startswith("/") else f"./{plain}"


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")
