"""What did a cluster's processes say about one Flink job? Their logs and outputs, gathered into one file that only grows.

Lines of the logs carry the id of the job they are about. What tasks print carries nothing: all that was printed while the job
ran is taken, under the name of the process. What is gathered stays when the cluster goes.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cloudsched.agent.session import write_private
from cloudsched.drivers.frameworks_local.homes import Home, read_piece
from cloudsched.drivers.frameworks_local.place import TAIL, last_error

JOB_TAG = ("<", ">")
POSITIONS = "positions.json"
PIECE = 4 << 20
MAX_LOG = 64 << 20

# Who speaks of the process itself, be it of its start or of its end.
OWN_LOGGERS = frozenset({"ClusterEntrypoint", "StandaloneSessionClusterEntrypoint", "TaskManagerRunner", "TaskExecutor",
                         "StandaloneResourceManager"})
_OWN_LINE = re.compile(r"\d{4}-\d\d-\d\d [\d:.]+ ([A-Z]+) +<([0-9a-f]*)> ([^\s:]+): ")
_TRACE = re.compile(r"\s+at |\s*\.\.\. \d+ |Caused by: |([\w$]+\.)+[\w$]*(Error|Exception|Interrupt)\b")
_LINE = re.compile(rb"\d{4}-\d\d-\d\d [\d:.]+ [A-Z]+ +<([0-9a-f]*)> ")


def path(home: Home) -> Path:
    """Where a job's log is."""
    return home.log_path("job")


def begin(home: Home, cluster: Home) -> None:
    """Note how long the cluster's files are now: what comes after may be about this job."""
    _write(home, {"at": {name: _size(file) for name, file in _files(cluster)}, "open": {}, "last": ""})


def collect(home: Home, cluster: Home, job_id: str, *, last: bool = False) -> None:
    """Append what is new since the last time; `last`: also a line that is not complete."""
    state = _read(home)
    with _opened(home) as log:
        for name, file in _files(cluster):
            while piece := _new(file, state["at"].get(name, 0), last=last):
                state["at"][name] = state["at"].get(name, 0) + len(piece)
                said = piece if name.endswith(".out") else _about(piece, job_id, state["open"], name)
                if said and log.tell() < MAX_LOG:
                    if state["last"] != name:
                        log.write(f"==> {name} <==\n".encode())
                        state["last"] = name
                    log.write(said)
    _write(home, state)


def end(home: Home, sentence: str, errors: str) -> None:
    """The last words: how it ended and the stack traces."""
    with _opened(home) as log:
        log.write(f"==> {sentence}\n{errors}".encode("utf-8", "replace") + (b"\n" if errors else b""))


def own_words(home: Home, role: str) -> str:
    """The last error that a process of a cluster says of itself; empty when there is none. Its log holds what jobs of all tenants
    say and print, too: nothing of that is quoted, nor what frameworks say about them."""
    file = home.log_path(role)
    begin = int(home.role(role).get("log_at") or 0)
    at = max(begin, _size(file) - TAIL)
    begins = own = at == begin  # before its first line nothing but Java itself speaks
    kept: list[str] = []
    for line in read_piece(file, at, TAIL).decode("utf-8", "replace").splitlines():
        found = _OWN_LINE.match(line)
        if found:
            level, job, logger = found.groups()
            begins, own = False, not job and level in ("ERROR", "FATAL") and logger in OWN_LOGGERS
        elif not begins:
            own = own and bool(_TRACE.match(line))
        if own:
            kept.append(line)
    return last_error(kept)


def _opened(home: Home) -> BinaryIO:
    """The job's log, to be appended to: ours alone."""
    return os.fdopen(os.open(path(home), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")


def _about(piece: bytes, job_id: str, open_at: dict[str, bool], name: str) -> bytes:
    """Lines about the job, with the lines of stack traces that follow them."""
    kept = []
    wanted = job_id.encode()
    for line in piece.splitlines(keepends=True):
        found = _LINE.match(line)
        if found:
            open_at[name] = found[1] == wanted
        if open_at.get(name):
            kept.append(line)
    return b"".join(kept)


def _files(cluster: Home) -> Iterator[tuple[str, Path]]:
    for role in cluster.roles():
        for suffix in ("log", "out"):
            yield f"{role}.{suffix}", cluster.log_path(role, suffix)


def _new(file: Path, offset: int, *, last: bool) -> bytes:
    piece = read_piece(file, offset, PIECE)
    if last or len(piece) == PIECE:
        return piece
    return piece[: piece.rfind(b"\n") + 1]


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _read(home: Home) -> dict[str, Any]:
    try:
        found = json.loads((home.path / POSITIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {"at": {}, "open": {}, "last": ""}
    return dict(found)


def _write(home: Home, state: dict[str, Any]) -> None:
    write_private(str(home.path / POSITIONS), json.dumps(state))
