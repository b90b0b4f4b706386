"""How is a controller driven by Slurm's own commands? sbatch, squeue, scancel, scontrol, sinfo, sacct.

Many ids go in one command, arrays as one id. Nothing of the caller's locale or environment changes what is printed.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from cloudsched.drivers import base
from cloudsched.drivers.base import DriverError
from cloudsched.drivers.slurm import parsing
from cloudsched.drivers.slurm.model import WARNING, ClusterNode, JobRecord, Partition, Submission
from cloudsched.drivers.slurm.options import SlurmOptions
from cloudsched.drivers.slurm.refusals import refusal
from cloudsched.drivers.slurm.transport import Result, Transport

# What decides about the form of answers; the cloud's own variables come after these.
_PLAIN = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s"}
_UNWANTED = ("SQUEUE_FORMAT", "SQUEUE_FORMAT2", "SQUEUE_STATES", "SQUEUE_USERS", "SQUEUE_PARTITION", "SQUEUE_ACCOUNT",
             "SINFO_FORMAT", "SINFO_PARTITION", "SACCT_FORMAT")  # fmt: skip
_CLEAN = ('exec env -i PATH="$PATH" HOME="$HOME" USER="$(id -un)" ${SLURM_CONF:+"SLURM_CONF=$SLURM_CONF"} '
          '${LD_LIBRARY_PATH:+"LD_LIBRARY_PATH=$LD_LIBRARY_PATH"} "$@"')
# The first lines of what comes in are the values of variables, which are then in nobody's list of processes.
_WITH_SECRETS = 'while [ "$1" != -- ]; do IFS= read -r value || exit 3; export "$1=$value"; shift; done; shift; exec "$@"'
_LOG_LINES = 'date +%z; LC_ALL=C exec grep -aE "$1" -- "$2"'
_WORDS_PER_COMMAND = 500
_ARRAY_TEXT = 2_000
_NOT_KNOWN = re.compile(r"invalid job id|already completing or completed|job has already finished|does not exist", re.IGNORECASE)
_JOB_ID = re.compile(r"\d+(_\d+)?\Z")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


class CommandController:
    """Slurm's commands, run wherever `transport` runs them."""

    can_drain = True
    can_warn = True

    def __init__(self, transport: Transport, options: SlurmOptions) -> None:
        self._transport = transport
        self._options = options
        self._facts: dict[str, str] = {}
        self._lock = threading.Lock()

    # -- the controller ----------------------------------------------------------------------------------------

    def ping(self) -> str:
        done = self._run("scontrol", "ping")
        if " is UP" not in done.stdout:
            raise refusal("scontrol ping", "Unable to contact slurm controller: " + " ".join(done.stdout.split())[:120])
        return next(line.strip() for line in done.stdout.splitlines() if " is UP" in line)

    def facts(self) -> Mapping[str, str]:
        """Asked once for each driver."""
        with self._lock:
            if not self._facts:
                self._facts = parsing.config(self._good("scontrol", "show", "config"))
            return self._facts

    def has_accounting(self) -> bool:
        return self.facts().get("AccountingStorageType", "").endswith("slurmdbd")

    # -- jobs --------------------------------------------------------------------------------------------------

    def check(self, submission: Submission) -> str:
        done = self._sbatch(replace(submission, secrets={}), "--test-only")
        if done.code:
            raise refusal("sbatch", done.stderr)
        return " ".join(done.stderr.replace("sbatch:", "").split())

    def submit(self, submission: Submission) -> str:
        done = self._sbatch(submission)
        job_id = done.stdout.strip().splitlines()[-1].partition(";")[0] if done.stdout.strip() else ""
        if done.code or not job_id.isdigit():
            raise refusal("sbatch", done.stderr or done.stdout)
        return job_id

    def cancel(self, ids: Sequence[str]) -> None:
        words = _grouped(checked_ids(ids))
        for part in _chunks(words):
            done = self._run("scancel", *part)
            lines = [line for line in done.stderr.splitlines() if "error" in line.lower() and not _NOT_KNOWN.search(line)]
            if lines:
                raise refusal("scancel", "\n".join(lines))

    def jobs(self, *, names: Iterable[str] = (), ids: Iterable[str] = ()) -> list[JobRecord]:
        wanted, named = sorted({one.partition("_")[0] for one in checked_ids(ids)}, key=int), sorted(set(names))
        chosen = [f"--jobs={','.join(part)}" for part in _chunks(wanted)]
        chosen = chosen or [f"--name={','.join(part)}" for part in _chunks(named)] or ["--me"]
        found: list[JobRecord] = []
        for choice in chosen:
            own = () if choice.startswith("--jobs") else ("--me",)
            done = self._run("squeue", "--noheader", "--array", "--states=all", *dict.fromkeys((*own, choice)),
                             f"--Format={parsing.format_of(parsing.JOB_FIELDS)}")  # fmt: skip
            if done.code and not _NOT_KNOWN.search(done.stderr):
                raise refusal("squeue", done.stderr)
            found += parsing.jobs(done.stdout)
        return found

    def history(self, ids: Sequence[str]) -> list[JobRecord] | None:
        wanted = sorted({one.partition("_")[0] for one in checked_ids(ids)}, key=int)
        facts = self.facts()
        if self.has_accounting():
            return [record for part in _chunks(wanted) for record in self._accounts(part)]
        path = facts.get("JobCompLoc", "")
        if facts.get("JobCompType") != "jobcomp/filetxt" or not path.startswith("/"):
            return None
        found = [self._completions(part, path) for part in _chunks(wanted)]
        return None if None in found else [record for part in found for record in part or ()]

    def _accounts(self, ids: Sequence[str]) -> list[JobRecord]:
        text = self._good("sacct", "--noheader", "--parsable2", f"--delimiter={parsing.FIELD}",
                          f"--jobs={','.join(ids)}", f"--format={','.join(parsing.ACCOUNT_FIELDS)}")  # fmt: skip
        return parsing.accounts(text)

    def _completions(self, ids: Sequence[str], path: str) -> list[JobRecord] | None:
        """The log may be long and may be ours to read or not: only its lines about these jobs travel."""
        pattern = rf"(^JobId|ArrayJobId)=({'|'.join(ids)}) "
        done = self._transport.run(["sh", "-c", _LOG_LINES, "sh", pattern, path], timeout_s=self._options.command_limit_s)
        return parsing.completions(done.stdout) if done.code in (0, 1) else None

    # -- the cluster -------------------------------------------------------------------------------------------

    def partitions(self) -> list[Partition]:
        return parsing.partitions(self._good("scontrol", "--oneliner", "show", "partition"))

    def nodes(self) -> list[ClusterNode]:
        text = self._good("sinfo", "--noheader", "--Node", "--all", f"--Format={parsing.format_of(parsing.NODE_FIELDS)}")
        return parsing.nodes(text)

    def set_node(self, name: str, state: str, reason: str) -> None:
        words = [f"NodeName={checked_node(name)}", f"State={state}", *([f"Reason={reason}"] if reason else [])]
        done = self._run("scontrol", "update", *words)
        if done.code:
            raise refusal(f"scontrol update {name}", done.stderr or done.stdout)

    # -- running them ------------------------------------------------------------------------------------------

    def _sbatch(self, job: Submission, *more: str) -> Result:
        """With an environment that is empty but for a few names, all of which the job gets. (`--export=NONE`, or a list
        of names, would make slurmd ask a login shell for the user's environment, which takes seconds for each job.)"""
        words = [f"{name}={value}" for name, value in _switches(job).items() if value]
        words += ["--dependency=singleton"] if job.singleton else []
        words += ["--export=ALL", "--no-requeue", "--parsable", *more]
        env = [f"{key}={value}" for key, value in {**self._options.env, "LC_ALL": "C.UTF-8"}.items()]
        secrets = ["sh", "-c", _WITH_SECRETS, "sh", *job.secrets, "--"] if job.secrets else []
        argv = ["sh", "-c", _CLEAN, "sh", *env, *secrets, self._program("sbatch"), *words]
        values = "".join(f"{value}\n" for value in job.secrets.values())
        return self._ran("sbatch", argv, (values + job.script).encode())

    def _good(self, name: str, *words: str) -> str:
        done = self._run(name, *words)
        if done.code:
            raise refusal(name, done.stderr or done.stdout)
        return done.stdout

    def _run(self, name: str, *words: str) -> Result:
        unset = [word for variable in _UNWANTED for word in ("-u", variable)]
        env = [f"{key}={value}" for key, value in {**self._options.env, **_PLAIN}.items()]
        return self._ran(name, ["env", *unset, *env, self._program(name), *words])

    def _ran(self, name: str, argv: Sequence[str], input: bytes = b"") -> Result:
        try:
            done = self._transport.run(argv, input=input, timeout_s=self._options.command_limit_s)
        except DriverError as error:
            raise DriverError(f"{name}: {error.message}", code=error.code, transient=error.transient) from error
        if done.code == 127:
            raise DriverError(f"{name} is not there; the option bin_dir says where Slurm's commands are", code=base.ENDPOINT)
        return done

    def _program(self, name: str) -> str:
        return f"{self._options.bin_dir}/{name}" if self._options.bin_dir else name


def checked_ids(ids: Iterable[str]) -> list[str]:
    """Ids as given; DriverError (REQUEST) for what is not `12` or `12_3`."""
    found = list(ids)
    for one in found:
        if not isinstance(one, str) or not _JOB_ID.match(one):
            raise DriverError(f"ids: {one!r} is not a job, nor a task of an array (12, 12_3)", code=base.REQUEST)
    return found


def checked_node(name: str) -> str:
    """One host's name; DriverError (REQUEST) for lists and patterns, and for ALL."""
    if not _NODE_NAME.match(name) or name.upper() == "ALL":
        raise DriverError(f"node: {name!r} is not the name of one host", code=base.REQUEST)
    return name


def _switches(job: Submission) -> dict[str, str]:
    """Options of sbatch with their values; an empty value is left out."""
    return {
        "--job-name": job.name, "--comment": job.comment, "--nodes": "1", "--ntasks": "1", "--cpus-per-task": str(job.cores),
        "--mem": f"{job.memory_mb}M" if job.memory_mb else "", "--time": minutes(job.time_limit_s), "--array": job.array,
        "--chdir": job.directory, "--input": "/dev/null", "--output": job.stdout, "--error": job.stderr,
        "--open-mode": "append", "--partition": job.partition, "--account": job.account, "--qos": job.qos,
        "--constraint": job.constraint, "--reservation": job.reservation,
        "--signal": f"B:{WARNING}@{job.warn_s}" if job.warn_s else "",
    }  # fmt: skip


def minutes(seconds: int) -> str:
    """Slurm counts minutes: the next whole one, empty for no limit of ours."""
    return str(-(-seconds // 60)) if seconds else ""


def _grouped(ids: Iterable[str]) -> list[str]:
    """Tasks of one array as one word: `12_[0-99,107]`; words stay shorter than Slurm's parser allows."""
    words: list[str] = []
    tasks: dict[str, list[int]] = {}
    for one in ids:
        base_id, _, task = one.partition("_")
        if task:
            tasks.setdefault(base_id, []).append(int(task))
        else:
            words.append(base_id)
    for base_id, found in tasks.items():
        line = ""
        for span in parsing.spans(found):
            if line and len(line) + len(span) >= _ARRAY_TEXT:
                words.append(f"{base_id}_[{line}]")
                line = ""
            line = f"{line},{span}" if line else span
        words.append(f"{base_id}_[{line}]")
    return words


def _chunks(words: Sequence[str]) -> list[Sequence[str]]:
    return [words[start:start + _WORDS_PER_COMMAND] for start in range(0, len(words), _WORDS_PER_COMMAND)]
