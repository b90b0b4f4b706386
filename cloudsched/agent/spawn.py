"""How is a process of a job started? As quickly as the system can, in a session of its own.

`posix_spawn` uses vfork: its cost does not grow with the agent, and two thirds of `fork`'s work are saved. The
directory is changed in the agent itself just before, which is safe because one thread alone starts processes and
nothing else here uses relative paths.
"""

from __future__ import annotations

import errno
import os
import signal

from cloudsched.agent.scratch import nameless_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cloudsched.agent.jobs import Job

# Python ignores these two; a job must start with the defaults.
_DEFAULT_SIGNALS = [getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)]
ADDRESS_SPACE_FACTOR = 4
ADDRESS_SPACE_FLOOR_MB = 1024

_LAUNCH_ERRORS = {
    errno.ENOENT: "no such file",
    errno.EACCES: "permission denied",
    errno.ENOEXEC: "not an executable this machine can run",
    errno.E2BIG: "command and environment are too long",
}


class CannotStart(Exception):
    """Why, in words for the job's owner."""


class Launcher:
    """Starts jobs; `base_env` is what every job gets, `own_env` what no job may change."""

    def __init__(self, folder: str, *, base_env: dict[str, str], own_env: dict[str, str]) -> None:
        self._folder = folder
        self._base_env = base_env
        self._own_env = own_env
        self._null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._spawn = _posix_spawn if hasattr(os, "posix_spawn") else _popen
        try:
            import resource

            self._prlimit = getattr(resource, "prlimit", None)
            self._limit_as = resource.RLIMIT_AS
        except (ImportError, AttributeError):
            self._prlimit = None

    def start(self, job: Job) -> int:
        """Start `job` in its scratch directory with its capture files; returns the process id."""
        assert job.scratch is not None and job.captured is not None
        env = self._environment(job)
        stdin = self._null if job.stdin is None else self._stdin(job.stdin)
        try:
            os.chdir(job.scratch)
            path = resolve(job.argv[0], env.get("PATH", os.defpath))
            pid = self._launch(path, job, env, stdin)
        except (OSError, ValueError) as error:
            raise CannotStart(explain(job.argv[0], error)) from None
        finally:
            if stdin != self._null:
                os.close(stdin)
        if job.memory_mb and self._prlimit is not None:
            self._limit_memory(pid, job.memory_mb)
        return pid

    def _environment(self, job: Job) -> dict[str, str]:
        env = dict(self._base_env)
        env["HOME"] = env["TMPDIR"] = str(job.scratch)
        env.update(job.env)
        env.update(self._own_env)
        env["CLOUDSCHED_JOB_ID"] = str(job.id)
        env["CLOUDSCHED_ATTEMPT"] = str(job.attempt)
        return env

    def _stdin(self, text: str) -> int:
        handle = nameless_file(self._folder)
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(handle, data) :]
        os.lseek(handle, 0, os.SEEK_SET)
        return handle

    def _launch(self, path: str, job: Job, env: dict[str, str], stdin: int) -> int:
        assert job.captured is not None
        try:
            return self._spawn(path, job.argv, env, (stdin, *job.captured))
        except NotImplementedError:  # no setsid in this system's posix_spawn
            self._spawn = _popen
            return self._spawn(path, job.argv, env, (stdin, *job.captured))

    def _limit_memory(self, pid: int, memory_mb: int) -> None:
        # A stop for what runs away between two samples; virtual memory is far more than what is used.
        limit = max(ADDRESS_SPACE_FLOOR_MB, memory_mb * ADDRESS_SPACE_FACTOR) * 1_048_576
        try:
            assert self._prlimit is not None
            self._prlimit(pid, self._limit_as, (limit, limit))
        except (OSError, ValueError):
            pass  # ended already, or may not have more than the agent has


def resolve(program: str, path: str) -> str:
    """The file that `program` means, by the job's own PATH; one that may not be run is passed over."""
    if "/" in program:
        return program
    denied = False
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder or ".", program)
        if os.access(candidate, os.X_OK):
            if not os.path.isdir(candidate):
                return candidate
        elif os.path.lexists(candidate):
            denied = True
    raise OSError(errno.EACCES if denied else errno.ENOENT, "not in PATH")


def explain(program: str, error: Exception) -> str:
    """Words for a failed start."""
    number = getattr(error, "errno", None)
    if number == errno.ENOENT and "/" not in program:
        return "%s: not found in PATH" % program
    if number == errno.ENOENT and os.path.exists(program):
        return "%s: its interpreter does not exist" % program
    if isinstance(number, int):
        return "%s: %s" % (program, _LAUNCH_ERRORS.get(number, os.strerror(number).lower()))
    return "%s: %s" % (program, error)


def _posix_spawn(path: str, argv: list[str], env: dict[str, str], handles: tuple[int, int, int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, handle, target) for target, handle in enumerate(handles)]
    return os.posix_spawn(path, argv, env, file_actions=actions, setsid=True, setsigdef=_DEFAULT_SIGNALS)


def _popen(path: str, argv: list[str], env: dict[str, str], handles: tuple[int, int, int]) -> int:
    import subprocess

    process = subprocess.Popen(
        argv,
        executable=path,
        env=env,
        stdin=handles[0],
        stdout=handles[1],
        stderr=handles[2],
        start_new_session=True,
    )
    process.returncode = 0  # reaped by the runner, not by this object
    return process.pid
