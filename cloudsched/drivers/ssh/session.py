"""How does one command run over a channel: its input, its two outputs, its end, its time?"""

from __future__ import annotations

import codecs
import select
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paramiko

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.ssh import opening, shell
from cloudsched.drivers.ssh.targets import Target

_PIECE = 65_536
_SENT_AT_ONCE = 32_768
NOISE_BYTES = 65_536  # what an account's shell may say before our command begins
END_GRACE_S = 0.5  # the command has ended, and something that it left behind holds its output
_LOOK_S = 0.2
_SEND_LOOK_S = 0.01


class RunFailed(DriverError):
    """The command did not come to its end: its time was over, or the connection broke. Output so far is in `stdout` and
    `stderr`; `left` says what may still run on the host ('' when nothing does)."""

    def __init__(self, message: str, *, code: int, stdout: bytes, stderr: bytes, timed_out: bool = False) -> None:
        super().__init__(message, code=code, transient=True)
        self.stdout = stdout.decode("utf-8", "replace")
        self.stderr = stderr.decode("utf-8", "replace")
        self.timed_out = timed_out
        self.left = ""

    def add_left(self) -> None:
        """Say in the message what became of its processes."""
        self.message += f"; what is left of it: {self.left}" if self.left else "; it was killed"
        self.args = (self.message,)


@dataclass(frozen=True)
class Finished:
    """A command that ended: raw output, the first bytes of each stream."""

    code: int
    stdout: bytes
    stderr: bytes
    seconds: float
    truncated: bool


class Session:
    """One command on one channel. `become`: '', `plain` or `password` (see shell.around)."""

    def __init__(self, target: Target, channel: paramiko.Channel, mark: str, become: str, *, until: float,
                 timeout_s: float) -> None:
        self.pid = 0
        self._target, self._channel, self._mark, self._become = target, channel, mark, become
        self._until, self._timeout_s = until, timeout_s
        self._began = time.monotonic()
        self._prompts = 0
        self._early = b""  # stdout before the line that says "begun"
        self._noise = b""  # stderr before it, under sudo
        self._to_send = memoryview(b"")
        self._closed_input = False

    def finish(self, sent: bytes, *, on_output: Callable[[str, str], None] | None, max_output: int) -> Finished:
        """Start the command, feed it, and collect until it ends. Raises RunFailed, DriverError."""
        self._out = _Stream("stdout", on_output, max_output)
        self._err = _Stream("stderr", on_output, max_output)
        self._sent = sent
        try:
            self._channel.exec_command(shell.around(self._mark, timeout_s=self._timeout_s, sudo=self._become))
            if not self._become:  # under sudo the first line could be taken for a password
                self._to_send = memoryview(sent)
            self._pump()
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._broken() from error
        self._out.end()
        self._err.end()
        code = self._channel.exit_status
        if not self.pid:
            raise self._not_begun(code)
        if code < 0:
            raise self._broken()
        return Finished(code, bytes(self._out.kept), bytes(self._err.kept), time.monotonic() - self._began,
                        self._out.cut or self._err.cut)  # fmt: skip

    def _pump(self) -> None:
        poller = select.poll()
        poller.register(self._channel.fileno(), select.POLLIN)
        quiet_since: float | None = None
        while True:
            moved = self._read() | self._send()
            now = time.monotonic()
            if self._is_over(moved, now, quiet_since):
                return
            if self._channel.exit_status_ready():
                quiet_since = now if moved or quiet_since is None else quiet_since
            if now > self._until:
                raise RunFailed(f"{self._target.label}: the command did not end within {self._timeout_s:g} s",
                                code=base.OTHER, stdout=bytes(self._out.kept), stderr=bytes(self._err.kept),
                                timed_out=True)  # fmt: skip
            if not moved:
                self._wait(poller, min(self._until - now, _LOOK_S))

    def _is_over(self, moved: bool, now: float, quiet_since: float | None) -> bool:
        channel: Any = self._channel
        if moved or not channel.exit_status_ready() or channel.recv_ready() or channel.recv_stderr_ready():
            return False
        return channel.eof_received or channel.closed or (quiet_since is not None and now - quiet_since > END_GRACE_S)

    def _wait(self, poller: select.poll, limit_s: float) -> None:
        if len(self._to_send):
            limit_s = min(limit_s, _SEND_LOOK_S)  # nothing tells that the other end takes more
        if self._channel.eof_received:
            self._channel.status_event.wait(limit_s)
        else:
            poller.poll(max(0, limit_s) * 1000)

    def _read(self) -> bool:
        moved = False
        while self._channel.recv_ready():
            self._hear_out(self._channel.recv(_PIECE))
            moved = True
        while self._channel.recv_stderr_ready():
            self._hear_err(self._channel.recv_stderr(_PIECE))
            moved = True
        return moved

    def _hear_out(self, data: bytes) -> None:
        if self.pid:
            self._out.take(data)
            return
        self._early += data
        _, found, after = self._early.partition(self._mark.encode() + b" ")
        number, newline, rest = after.partition(b"\n")
        if found and newline:
            self.pid = int(number) if number.strip().isdigit() else -1
            self._early = b""
            if self._become:
                self._to_send = memoryview(self._sent)
            self._out.take(rest)
        elif len(self._early) > NOISE_BYTES:
            self._early = self._early[-1000:]

    def _hear_err(self, data: bytes) -> None:
        if self.pid or not self._become:
            self._err.take(data)
            return
        self._noise = (self._noise + data)[-NOISE_BYTES:]
        asked = self._noise.count(shell.prompt(self._mark).encode())
        if asked > self._prompts:
            self._prompts = asked
            if asked > 1:
                raise self._no_sudo("the sudo password is wrong")
            self._channel.sendall(self._target.sudo_password.encode() + b"\n")

    def _send(self) -> bool:
        moved = False
        while len(self._to_send) and self._channel.send_ready() and not self._channel.closed:
            count = self._channel.send(self._to_send[:_SENT_AT_ONCE])
            self._to_send = self._to_send[count:]
            moved = True
            if not count:
                break
        if not len(self._to_send) and not self._closed_input and (self.pid or not self._become):
            self._channel.shutdown_write()
            self._closed_input = True
        return moved

    def _broken(self) -> DriverError:
        why = "the command's session was ended there" if self._alive() else "the connection broke while the command ran"
        return RunFailed(f"{self._target.label}: {why}", code=base.ENDPOINT, stdout=bytes(self._out.kept),
                         stderr=bytes(self._err.kept))  # fmt: skip

    def _alive(self) -> bool:
        transport = self._channel.get_transport()
        return bool(transport and transport.is_active())

    def _not_begun(self, code: int) -> DriverError:
        said = (self._noise + bytes(self._err.kept) + self._early).decode("utf-8", "replace")
        said = " ".join(said.replace(shell.prompt(self._mark), "").split())[-200:]
        if not self._alive():
            return self._broken()
        if self._become:
            return self._no_sudo(said or f"sudo ended with status {code}")
        text = f"the account's shell did not start the command (status {code}): {opening.cleaned(self._target, said)}"
        return DriverError(f"{self._target.label}: {text}", code=base.AUTH)

    def _no_sudo(self, why: str) -> DriverError:
        return DriverError(f"{self._target.label}: sudo is refused: {opening.cleaned(self._target, why)}", code=base.AUTH)


class _Stream:
    """One output: told as it comes, kept up to a limit."""

    def __init__(self, name: str, on_output: Callable[[str, str], None] | None, limit: int) -> None:
        self.kept = bytearray()
        self.cut = False
        self._name, self._tell, self._limit = name, on_output, limit
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def take(self, data: bytes) -> None:
        room = max(0, self._limit - len(self.kept))
        self.kept += data[:room]
        self.cut = self.cut or len(data) > room
        if self._tell is not None and (text := self._decoder.decode(data)):
            self._tell(self._name, text)

    def end(self) -> None:
        if self._tell is not None and (text := self._decoder.decode(b"", final=True)):
            self._tell(self._name, text)
