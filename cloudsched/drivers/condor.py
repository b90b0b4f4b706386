"""How is an external HTCondor pool asked and told things?

By its own commands, as configured (``condor_q -l``, ``condor_status -l``, ``condor_off`` ...; contract 6.1,
7.2, 7.3, 7.9). A command is an argument list, never a line for a shell, runs in a process group of its own
and is killed with all its children when its time is over. Reading what they answer is `classads`.
"""

import contextlib
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudsched.drivers import classads
from cloudsched.drivers.classads import AdError, JobDefaults, QueuedJob, Slot
from cloudsched.errors import Unavailable

__all__ = ["CondorCommands", "CondorError", "CondorPool", "JobDefaults", "Machines", "OffAnswer", "Queue",
           "QueuedJob", "Slot", "settle_machines"]  # fmt: skip

EMPTY_POLLS_KEPT = 3
_SHOWN_CHARS = 500
_IDS_PER_COMMAND = 500
_JOB_ID = re.compile(r"\d+\.\d+\Z")
_UPDATE_COMMAND = re.compile(r"[A-Z][A-Z_]*\Z")
_INVALIDATIONS = {
    "startd": ("INVALIDATE_STARTD_ADS", "Machine"),
    "master": ("INVALIDATE_MASTER_ADS", "DaemonMaster"),
}


class CondorError(Unavailable):
    """A command of the pool did not do its work.

    `command`: its name without arguments; `exit_code`: None when it did not end by itself or never started;
    `stderr`: what it said, cut.
    """

    def __init__(self, command: str, problem: str, *, exit_code: int | None = None, stderr: str = "") -> None:
        self.command = command
        self.exit_code = exit_code
        self.stderr = _cut(stderr)
        said = f": {self.stderr}" if self.stderr else ""
        super().__init__(f"{command} {problem}{said}")


@dataclass(frozen=True, slots=True)
class CondorCommands:
    """The configured commands and limits; the defaults are those of contract 6.1.

    With `ssh_key` the stop commands run on `central_host` over SSH. `query_limit_s` is long because a busy
    queue may take minutes to list; any other command gets `command_limit_s` (contract 7.9: 180 s).
    """

    q: str = "condor_q -l"
    status: str = "condor_status -l"
    status_master: str = "condor_status -master -l"
    hold: str = "condor_hold"
    release: str = "condor_release"
    off: str = "/usr/sbin/condor_off"
    advertise: str = "/usr/sbin/condor_advertise"
    ssh_path: str = "/usr/bin/ssh"
    ssh_key: str = ""
    central_host: str = "localhost"
    query_limit_s: float = 1200.0
    command_limit_s: float = 180.0

    @classmethod
    def from_mapping(cls, section: Mapping[str, Any]) -> "CondorCommands":
        """`section`: keys of ``[global]`` in any case (contract 6.1); keys of other meaning are ignored.

        ValueError names the key of a command that is empty or cannot be split into words.
        """
        given = {key.lower(): str(value).strip() for key, value in section.items() if value is not None}
        found = {name: given[key] for key, name in _COMMAND_KEYS.items() if key in given}
        for key, name in _COMMAND_KEYS.items():
            if name in found and name != "ssh_key":
                _checked_words(key, found[name])
        if given.get("condor_webservice_url"):
            found["central_host"] = _host_of(given["condor_webservice_url"])
        return cls(**found)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Queue:
    """One reading of the queue: every job as reported, and what could not be used."""

    jobs: tuple[QueuedJob, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Machines:
    """One reading of the machines, and the memory the next reading needs.

    `empty_polls`: how many readings in a row were empty; while it is 1 to 3, `slots` are those of the last
    reading that was not (contract 7.3).
    """

    slots: tuple[Slot, ...] = ()
    empty_polls: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class OffAnswer:
    """Was the machine told to finish and stop? `detail` says what was answered or why not."""

    ok: bool
    detail: str


class CondorPool:
    """The verbs on one external pool. Holds no state: what one reading leaves for the next is in `Machines`.

    `max_keep_alive_s` limits VMKeepAlive; `reqs_from_requirements` is vm_reqs_from_condor_reqs.
    """

    def __init__(
        self,
        commands: CondorCommands,
        defaults: JobDefaults | None = None,
        *,
        max_keep_alive_s: int = 3600,
        reqs_from_requirements: bool = False,
    ) -> None:
        self._commands = commands
        self._defaults = defaults or JobDefaults()
        self._max_keep_alive_s = max_keep_alive_s
        self._reqs_from_requirements = reqs_from_requirements

    def read_queue(self) -> Queue:
        """Every job of the queue, held and completed ones included (contract 7.2, B22).

        CondorError: keep the old picture.
        """
        text = _run(self._commands.q, limit_s=self._commands.query_limit_s)
        try:
            jobs, warnings = classads.parse_jobs(
                text,
                self._defaults,
                max_keep_alive_s=self._max_keep_alive_s,
                reqs_from_requirements=self._reqs_from_requirements,
            )
        except AdError as problem:
            raise CondorError(_name(self._commands.q), f"cannot be used: {problem}", exit_code=0) from None
        return Queue(tuple(jobs), tuple(warnings))

    def read_machines(self, previous: Machines) -> Machines:
        """The registered slots with their master addresses (contract 7.3).

        `previous`: the last answer, or ``Machines()`` at the start. CondorError: keep the old picture.
        """
        limit_s = self._commands.query_limit_s
        masters_text = _run(self._commands.status_master, limit_s=limit_s)
        slots_text = _run(self._commands.status, limit_s=limit_s)
        try:
            masters, master_warnings = classads.parse_masters(masters_text)
        except AdError as problem:
            name = _name(self._commands.status_master)
            raise CondorError(name, f"cannot be used: {problem}", exit_code=0) from None
        try:
            slots, warnings = classads.parse_slots(slots_text, masters)
        except AdError as problem:
            name = _name(self._commands.status)
            raise CondorError(name, f"cannot be used: {problem}", exit_code=0) from None
        return replace(settle_machines(previous, slots), warnings=(*master_warnings, *warnings))

    def off(self, startd_address: str, master_address: str) -> OffAnswer:
        """Let a machine finish its job and stop: first the start daemon, then the master (contract 7.9).

        Never raises: a missing address, a refusal, an error and a hanging command are all "not told".
        The master is left alone when the start daemon did not accept.
        """
        for subsystem, address in (("startd", startd_address), ("master", master_address)):
            if not address or address.startswith("-"):
                return OffAnswer(False, f"the {subsystem} address of the machine is not known")
        answers = []
        for subsystem, address in (("startd", startd_address), ("master", master_address)):
            answer = self._off_one(subsystem, address)
            if not answer.ok:
                return answer
            answers.append(answer.detail)
        return OffAnswer(True, "; ".join(answers))

    def hold(self, reason: str, batch_ids: Iterable[str]) -> None:
        """Put jobs on hold. `batch_ids`: ``CLUSTER.PROC``. CondorError when refused (contract 7.9)."""
        for ids in _chunks(batch_ids):
            _run(self._commands.hold, "-reason", reason, *ids, limit_s=self._commands.command_limit_s)

    def release(self, batch_ids: Iterable[str]) -> None:
        """Release held jobs. `batch_ids`: ``CLUSTER.PROC``. CondorError when the pool refuses."""
        for ids in _chunks(batch_ids):
            _run(self._commands.release, *ids, limit_s=self._commands.command_limit_s)

    def advertise(self, update_command: str, ad: str) -> None:
        """Send one ad to the collector. `update_command`: e.g. ``UPDATE_STARTD_AD``; `ad`: its lines."""
        if not _UPDATE_COMMAND.match(update_command):
            raise ValueError(f"update_command is {update_command!r}, must be capital letters and _")
        command = self._commands
        # Without a file name the command reads the ad from its standard input.
        _run(command.advertise, update_command, limit_s=command.command_limit_s, stdin=ad)

    def invalidate(self, machine: str, *, subsystem: str = "startd") -> None:
        """Make the collector forget the ads of one machine (cleanup_missing_vms, contract 7.8 step 5).

        `machine`: the host name as registered. `subsystem`: ``startd`` (its slots) or ``master``.
        CondorError when the collector does not take it.
        """
        if subsystem not in _INVALIDATIONS:
            raise ValueError(f"subsystem is {subsystem!r}, must be one of {', '.join(_INVALIDATIONS)}")
        if not machine or not machine.isprintable():
            raise ValueError(f"machine is {machine!r}, must be a host name")
        command, target = _INVALIDATIONS[subsystem]
        name = machine.replace("\\", "\\\\").replace('"', '\\"')
        lines = ('MyType = "Query"', f'TargetType = "{target}"', f'Requirements = Machine == "{name}"')
        self.advertise(command, "\n".join(lines) + "\n")

    def _off_one(self, subsystem: str, address: str) -> OffAnswer:
        argv = [*shlex.split(self._commands.off), "-peaceful", "-addr", address, "-subsystem", subsystem]
        try:
            ended = _ended(self._over_ssh(argv), limit_s=self._commands.command_limit_s)
        except CondorError as problem:
            return OffAnswer(False, str(problem))
        if ended.stdout.startswith("Sent"):
            return OffAnswer(True, _cut(ended.stdout))
        said = _cut(ended.stdout) or _cut(ended.stderr) or f"nothing, exit code {ended.returncode}"
        return OffAnswer(False, f"{_name(self._commands.off)} for the {subsystem} answered {said}")

    def _over_ssh(self, argv: Sequence[str]) -> list[str]:
        """The same command, on the central host if a key is configured.

        SSH hands its words to a shell over there, and addresses hold ``<``, ``>``, ``?`` and ``&``: quoted.
        """
        command = self._commands
        if not command.ssh_key:
            return list(argv)
        ssh = [*shlex.split(command.ssh_path), "-i", command.ssh_key, "-o", "BatchMode=yes"]
        return [*ssh, command.central_host, shlex.join(argv)]


def settle_machines(previous: Machines, slots: Sequence[Slot]) -> Machines:
    """What counts as registered after a reading of `slots` (contract 7.3).

    A list that is suddenly empty is not believed for three readings in a row; the fourth is.
    """
    if slots:
        return Machines(tuple(slots))
    empty_polls = min(previous.empty_polls, EMPTY_POLLS_KEPT) + 1
    if previous.slots and empty_polls <= EMPTY_POLLS_KEPT:
        return Machines(previous.slots, empty_polls)
    return Machines((), empty_polls)


def _run(command: str, *arguments: str, limit_s: float, stdin: str | None = None) -> str:
    """Standard output of a configured command; CondorError if it fails in any way."""
    argv = [*_checked_words("command", command), *arguments]
    ended = _ended(argv, limit_s=limit_s, stdin=stdin)
    if ended.returncode:
        problem = _exit_words(ended.returncode)
        raise CondorError(_name(command), problem, exit_code=ended.returncode, stderr=ended.stderr)
    return ended.stdout


def _ended(
    argv: Sequence[str], *, limit_s: float, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    name = Path(argv[0]).name
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except (OSError, ValueError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise CondorError(name, f"could not be started: {why}") from None
    with process:
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        except subprocess.TimeoutExpired:
            _kill_group(process)
            raise CondorError(name, f"gave no answer within {limit_s:g} s and was killed") from None
        except BaseException:
            _kill_group(process)
            raise
    return subprocess.CompletedProcess(list(argv), process.returncode, out, err)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill the command with its children; pipes are closed unread, so that a stray child cannot hold us."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _chunks(batch_ids: Iterable[str]) -> Iterable[list[str]]:
    ids = list(batch_ids)
    for batch_id in ids:
        if not _JOB_ID.match(batch_id):
            raise ValueError(f"job id is {batch_id!r}, must be CLUSTER.PROC, e.g. 12.0")
    return [ids[start : start + _IDS_PER_COMMAND] for start in range(0, len(ids), _IDS_PER_COMMAND)]


def _checked_words(key: str, command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as problem:
        raise ValueError(f"{key} is {command!r}, its quotes must be balanced ({problem})") from None
    if not words:
        raise ValueError(f"{key} is empty, must be a command")
    return words


def _host_of(url: str) -> str:
    host = urlsplit(url if "//" in url else f"//{url}").hostname
    if not host or host.startswith("-"):
        raise ValueError(f"condor_webservice_url is {url!r}, must be a URL with a host name")
    return host


def _name(command: str) -> str:
    return Path(shlex.split(command)[0]).name


def _exit_words(returncode: int) -> str:
    if returncode < 0:
        return f"was ended by signal {-returncode}"
    return f"failed with exit code {returncode}"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + " ..."


_COMMAND_KEYS = {
    "condor_q_command": "q",
    "condor_status_command": "status",
    "condor_status_master_command": "status_master",
    "condor_hold_command": "hold",
    "condor_release_command": "release",
    "condor_off_command": "off",
    "condor_advertise_command": "advertise",
    "ssh_path": "ssh_path",
    "cloudscheduler_ssh_key": "ssh_key",
}
