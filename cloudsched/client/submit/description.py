"""What happens, statement by statement, when a submit description is read?

Assignments fill the variables, conditions and includes decide what is read, and each ``queue`` makes jobs of
the variables as they stand there. Paths are taken as HTCondor does: the executable, includes and item files
from the directory the command is given in, everything else from ``initialdir``.
"""

from __future__ import annotations

import os
import platform
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cloudsched.client.submit import queue, translate
from cloudsched.client.submit.errors import Place, SubmitError
from cloudsched.client.submit.lexer import (
    Assign,
    Condition,
    Directive,
    Queue,
    Statement,
    refuse_binary,
    statements,
)
from cloudsched.client.submit.macros import Macros

# The release of the language this reader follows; what `if version >= ...` compares with.
LANGUAGE_VERSION = (10, 0, 0)

_MAX_INCLUDES = 20
_VERSION = re.compile(r"version\s*(==|!=|>=|<=|>|<)\s*v?(\d+(?:\.\d+){0,2})\Z", re.IGNORECASE)
_DEFINED = re.compile(r"defined\b\s*(.*)\Z", re.IGNORECASE | re.DOTALL)
_BOOLEANS = {"true": True, "yes": True, "t": True, "false": False, "no": False, "f": False, "": False}
_COMMAND_LINE = Place("command line")


@dataclass
class Submission:
    """`jobs`: one dictionary per job as ``POST /api/v2/jobs`` takes it, plus ``input_files`` with local paths
    and ``outputs`` (``stdout``, ``stderr``, ``dir``, ``remaps``: local paths), which the client keeps.

    `job_ids`: (cluster, process) of each job as ``$(Cluster)`` and ``$(Process)`` said; `logs`: each job's
    ``log`` path or None; `log`: the first of them; `initialdir`: that of the first job; `warnings`: what was
    accepted and has no effect, with file and line.
    """

    jobs: list[dict[str, Any]]
    job_ids: list[tuple[int, int]] = field(default_factory=list)
    logs: list[str | None] = field(default_factory=list)
    initialdir: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def log(self) -> str | None:
        return next((log for log in self.logs if log), None)


def read(path: str | Path, **options: Any) -> Submission:
    """The jobs of a submit description file; `options` as in `read_text`."""
    base = Path(options.get("directory") or Path.cwd())
    whole = base / path
    return read_text(_text_of(whole, Place(str(path))), file=str(path), submit_file=str(whole), **options)


def read_text(
    text: str,
    *,
    file: str = "submit description",
    submit_file: str = "",
    directory: str | Path | None = None,
    define: Mapping[str, str] | None = None,
    append: Sequence[str] = (),
    queue_arguments: str | None = None,
    environ: Mapping[str, str] | None = None,
    cluster: int = 1,
    lenient: bool = False,
    max_jobs: int = 100_000,
    seed: int | None = None,
    now: datetime | None = None,
) -> Submission:
    """The jobs of a submit description.

    `directory`: what relative paths start from (the working directory). `define`: variables set before the
    first line; `append`: lines put before the first ``queue``; `queue_arguments`: a queue statement's rest,
    only for a description without one. `environ` answers ``$ENV`` and ``getenv``. `cluster`: the number
    ``$(Cluster)`` gives; a later ``queue`` with another executable counts one up. `lenient`: a requirements
    clause that is not understood is a warning. `seed` makes ``$RANDOM_...`` repeatable.

    SubmitError names file and line of the first thing that cannot be done; nothing is run.
    """
    base = Path(directory or Path.cwd()).absolute()
    reader = _Reader(
        base,
        os.environ if environ is None else environ,
        append=list(append),
        cluster=cluster,
        lenient=lenient,
        max_jobs=max_jobs,
        chance=random.Random(seed),  # noqa: S311 - no secret is made of it
    )
    reader.set_automatic(submit_file, now or datetime.now().astimezone())
    for name, value in (define or {}).items():
        refuse_binary(value, _COMMAND_LINE.file)
        reader.macros.assign(_attribute(name), value, _COMMAND_LINE)
    reader.run(text, file)
    if queue_arguments is not None:
        if reader.queued:
            raise SubmitError("-queue is only for a description without a queue statement", _COMMAND_LINE)
        reader.run(f"queue {queue_arguments}", _COMMAND_LINE.file)
    return reader.finished(file)


class _Reader:
    """One pass over a description and what it includes."""

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str],
        *,
        append: list[str],
        cluster: int,
        lenient: bool,
        max_jobs: int,
        chance: random.Random,
    ) -> None:
        self.macros = Macros(environ, str(directory), chance)
        self.queued = False
        self._directory = directory
        self._append = append
        self._lenient = lenient
        self._max_jobs = max_jobs
        self._cluster = cluster
        self._process = 0
        self._executable: str | None = None
        self._context = translate.Context(self.macros, directory, environ, lenient)
        self._submission = Submission([])

    def set_automatic(self, submit_file: str, now: datetime) -> None:
        """Variables every description may use without setting them."""
        automatic = {
            "ARCH": platform.machine().upper(), "OPSYS": platform.system().upper(),
            "IsLinux": str(platform.system() == "Linux").lower(), "IsWindows": "false",
            "SUBMIT_FILE": submit_file, "SUBMIT_TIME": str(int(now.timestamp())), "YEAR": f"{now:%Y}",
            "MONTH": f"{now:%m}", "DAY": f"{now:%d}", "Node": "",
        }  # fmt: skip
        for name, value in automatic.items():
            self.macros.assign(name, value, Place())
            self.macros.used.add(name.lower())

    def run(self, text: str, file: str, depth: int = 0) -> None:
        """Read one file to its end. Conditions must close in the file that opened them."""
        branches: list[_Branch] = []
        for statement in statements(text, file):
            if isinstance(statement, Condition):
                self._branch(statement, branches)
            elif all(branch.taken for branch in branches):
                self._statement(statement, depth)
        if branches:
            raise SubmitError("this if has no endif", branches[-1].place)

    def finished(self, file: str) -> Submission:
        if not self.queued:
            raise SubmitError("there is no queue statement, so no job", Place(file))
        if not self._submission.jobs:
            raise SubmitError("the queue statements ask for no job at all", Place(file))
        self._warn_of_unused()
        self._submission.warnings.extend([*self._context.warnings, *self.macros.warnings])
        return self._submission

    def _statement(self, statement: Statement, depth: int) -> None:
        if isinstance(statement, Assign):
            self.macros.assign(statement.name, statement.value, statement.place)
        elif isinstance(statement, Queue):
            self._queue(statement)
        elif isinstance(statement, Directive):
            self._directive(statement, depth)

    def _directive(self, statement: Directive, depth: int) -> None:
        place = statement.place
        text = self.macros.expand(statement.text, place).strip()
        if statement.word == "error":
            raise SubmitError(text, place)
        if statement.word == "warning":
            self._warn(place, text)
            return
        if statement.word == "use":
            raise SubmitError("'use' is not supported: there are no templates here; include a file", place)
        if text.endswith("|") or "command" in statement.option:
            raise SubmitError("an include of a command's output is not supported; include a file", place)
        if depth >= _MAX_INCLUDES:
            raise SubmitError(f"includes are nested more than {_MAX_INCLUDES} deep", place)
        path = self._directory / text
        if "ifexist" in statement.option and not os.path.exists(path):
            return
        self.run(_text_of(path, place), text, depth + 1)

    def _branch(self, statement: Condition, branches: list[_Branch]) -> None:
        place = statement.place
        if statement.word == "if":
            alive = all(branch.taken for branch in branches)
            taken = alive and self._holds(statement)
            branches.append(_Branch(place, taken, taken or not alive))
            return
        if not branches:
            raise SubmitError(f"{statement.word} without an if", place)
        branch = branches[-1]
        if statement.word == "endif":
            branches.pop()
            return
        if branch.closed:
            raise SubmitError(f"{statement.word} after else", place)
        branch.closed = statement.word == "else"
        branch.taken = not branch.done and (branch.closed or self._holds(statement))
        branch.done = branch.done or branch.taken

    def _holds(self, statement: Condition) -> bool:
        text = statement.text
        if text.startswith("!"):
            return not self._holds(Condition(statement.place, statement.word, text[1:].strip()))
        if defined := _DEFINED.match(text):
            name = self.macros.expand(defined[1], statement.place).strip()
            return self.macros.defined(_attribute(name)) if name else False
        if version := _VERSION.match(text):
            return _compares(version[1], tuple(int(part) for part in version[2].split(".")))
        value = self.macros.expand(text, statement.place).strip().lower()
        if value in _BOOLEANS:
            return _BOOLEANS[value]
        if re.fullmatch(r"[+-]?\d+(\.\d*)?", value):
            return float(value) != 0
        raise SubmitError(
            f"the condition {text!r} is not supported; wanted true or false, a number, "
            "[!] defined NAME, or version >= x.y.z",
            statement.place,
        )

    def _queue(self, statement: Queue) -> None:
        if not self.queued:
            self.run("\n".join(self._append), "command line (append)")
        self.queued = True
        wanted = queue.plan(statement, self.macros, self._directory)
        if wanted.count * len(wanted.rows) + len(self._submission.jobs) > self._max_jobs:
            raise SubmitError(f"more than {self._max_jobs} jobs are asked for", statement.place)
        if not wanted.rows:
            self._warn(statement.place, "the list of items is empty: no job")
        executable = self._context.raw("executable")
        if self._executable is not None and executable != self._executable:
            self._cluster, self._process = self._cluster + 1, 0
        self._executable = executable
        for row in wanted.rows:
            for step in range(wanted.count):
                self._job(statement.place, row, step)
        self.macros.live.clear()

    def _job(self, place: Place, row: queue.Row, step: int) -> None:
        cluster, process, index = str(self._cluster), str(self._process), str(row.index)
        self.macros.live = {
            **{name.lower(): value for name, value in row.values.items()},
            "cluster": cluster, "clusterid": cluster, "process": process, "procid": process,
            "step": str(step), "itemindex": index, "row": index,
        }  # fmt: skip
        job, log, initialdir = translate.job(self._context, place)
        self._submission.jobs.append(job)
        self._submission.job_ids.append((self._cluster, self._process))
        self._submission.logs.append(log)
        if len(self._submission.jobs) == 1:
            self._submission.initialdir = initialdir
        self._process += 1

    def _warn_of_unused(self) -> None:
        for name, variable in self.macros.variables.items():
            if name in self.macros.used or name.startswith("my.") or translate.is_command(name):
                continue
            self._warn(variable.place, f"{name} is no known command and is used nowhere: misspelt?")

    def _warn(self, place: Place, text: str) -> None:
        self._submission.warnings.append(f"{place}: {text}")


@dataclass(slots=True)
class _Branch:
    """An open ``if``: is this part of it read, was any, is ``else`` behind us?"""

    place: Place
    taken: bool
    done: bool
    closed: bool = False


def _compares(operator: str, wanted: tuple[int, ...]) -> bool:
    """Only as many parts count as are given: 10.0.3 equals 10.0."""
    ours = LANGUAGE_VERSION[: len(wanted)]
    return {
        "==": ours == wanted, "!=": ours != wanted, ">=": ours >= wanted,
        "<=": ours <= wanted, ">": ours > wanted, "<": ours < wanted,
    }[operator]  # fmt: skip


def _attribute(name: str) -> str:
    return "MY." + name[1:] if name.startswith("+") else name


def _text_of(path: Path, place: Place) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise SubmitError(f"cannot read {path}: {why}", place) from None
