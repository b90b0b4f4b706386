"""Where do Slurm's commands run? On this machine, or on a login or controller host over SSH.

A command is a list of words, never a line for a shell: over SSH each word is quoted for the shell over there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError

_KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TZ")
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
FILE_LIMIT_S = 60.0
MAX_OUTPUT = 256 << 20


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended; the texts are UTF-8 with anything else replaced."""

    code: int
    stdout: str = ""
    stderr: str = ""


class Transport(Protocol):
    """Raises DriverError (ENDPOINT, transient) when the time is over or the host is out of reach."""

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result: ...

    def put(self, data: bytes, path: str, *, mode: int) -> None:
        """Write a small file in one step: whoever looks sees all of it or nothing."""
        ...

    def get(self, path: str, *, max_bytes: int) -> bytes | None:
        """A file; None when it is not there. DriverError (REQUEST) when it is larger."""
        ...


class LocalTransport:
    """Commands on this machine, with a small environment of their own: nothing of the server's is inherited by a job."""

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result:
        env = {name: os.environ[name] for name in _KEPT if name in os.environ}
        env.setdefault("PATH", _PATH)
        try:
            process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, cwd="/",
                start_new_session=True)  # fmt: skip
        except OSError as error:
            raise DriverError(f"{Path(argv[0]).name} cannot be started: {error.strerror}", code=base.ENDPOINT) from error
        with process:
            try:
                out, err = process.communicate(input, timeout=timeout_s)
            except subprocess.TimeoutExpired:
                _kill_group(process)
                raise DriverError(f"no answer within {timeout_s:g} s", code=base.ENDPOINT, transient=True) from None
            except BaseException:
                _kill_group(process)
                raise
        return Result(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))

    def put(self, data: bytes, path: str, *, mode: int) -> None:
        try:
            handle, draft = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                os.chmod(draft, mode)
                os.replace(draft, path)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(draft)
                raise
        except OSError as error:
            raise DriverError(f"{path} cannot be written: {error.strerror}", code=_code_of(error)) from error

    def get(self, path: str, *, max_bytes: int) -> bytes | None:
        try:
            with open(path, "rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DriverError(f"{path} cannot be read: {error.strerror}", code=_code_of(error)) from error
        if len(data) > max_bytes:
            raise DriverError(f"{path} is larger than {max_bytes} bytes", code=base.REQUEST)
        return data


class SshTransport:
    """Commands on a host over SSH. Options and credentials are those of a cloud of kind SSH (`user`, `port`, keys, ...);
    `pins`: the file that collects host keys on first use."""

    def __init__(self, host: str, options: Mapping[str, Any], credentials: Mapping[str, str], *, pins: str = "") -> None:
        from cloudsched.drivers.ssh.connection import Connection, target_from

        self._connection = Connection(target_from(options, credentials, host, pins=pins))

    def run(self, argv: Sequence[str], *, input: bytes = b"", timeout_s: float) -> Result:
        done = self._connection.run(list(argv), input=input, timeout_s=timeout_s, max_output=MAX_OUTPUT)
        if done.truncated:
            raise DriverError(f"the answer is larger than {MAX_OUTPUT >> 20} MiB", code=base.OTHER)
        return Result(done.code, done.stdout, done.stderr)

    def put(self, data: bytes, path: str, *, mode: int) -> None:
        self._connection.put(data, path, mode=mode)

    def get(self, path: str, *, max_bytes: int) -> bytes | None:
        there = self.run(["test", "-e", path], timeout_s=FILE_LIMIT_S)
        return None if there.code else self._connection.get(path, max_bytes=max_bytes)

    def close(self) -> None:
        """End the connection; the next call opens it again."""
        self._connection.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _code_of(error: OSError) -> int:
    return base.QUOTA if error.errno in (28, 122) else base.DENIED if error.errno in (1, 13) else base.OTHER

