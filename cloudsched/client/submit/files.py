"""Which local files does a job need, and under which names does it find them?"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

_MAX_STDIN_BYTES = 1_000_000
_MAX_FILES = 10_000
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Entry = dict[str, str]
"""``name``: relative name in the job's directory; ``path``: local path."""


@dataclass
class Transfer:
    """What was looked up already: thousands of jobs of one submission share their files."""

    programs: dict[Path, Entry] = field(default_factory=dict)
    inputs: dict[tuple[Path, bool], list[Entry]] = field(default_factory=dict)
    texts: dict[Path, str] = field(default_factory=dict)


def is_url(text: str) -> bool:
    return bool(_URL.match(text))


def transferred_program(transfer: Transfer, path: Path) -> Entry:
    """The program as an input file; ValueError when there is none."""
    if path not in transfer.programs:
        if not _is_file(path):
            raise ValueError(f"{path} is no file; for a program of the node set transfer_executable = false")
        transfer.programs[path] = {"name": path.name, "path": str(path)}
    return dict(transfer.programs[path])


def input_files(transfer: Transfer, listed: str, home: Path, already: list[Entry]) -> list[Entry]:
    """`already` and the files of a ``transfer_input_files`` value; relative paths start from `home`.

    A directory comes with all it holds, under its own name, or without it if written with a final slash.
    ValueError names what is missing, a URL, or two files that would have one name.
    """
    entries = list(already)
    for part in listed.split(","):
        name = part.strip()
        if not name:
            continue
        if is_url(name):
            raise ValueError(f"{name!r}: URLs are not fetched; name local files")
        entries.extend(_entries(transfer, home / name, contents_only=name.endswith("/")))
    taken: dict[str, str] = {}
    for entry in entries:
        if taken.setdefault(entry["name"], entry["path"]) != entry["path"]:
            both = f"{taken[entry['name']]} and {entry['path']}"
            raise ValueError(f"{both} would both be called {entry['name']!r}")
    return [{"name": name, "path": path} for name, path in taken.items()]


def stdin_text(transfer: Transfer, path: Path) -> str:
    """The text of an ``input`` file; ValueError when it cannot be given as one."""
    if path in transfer.texts:
        return transfer.texts[path]
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as problem:
        raise ValueError(f"cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; give it in transfer_input_files") from None
    if len(content) > _MAX_STDIN_BYTES:
        raise ValueError(f"{path} is larger than {_MAX_STDIN_BYTES} bytes; give it in transfer_input_files")
    transfer.texts[path] = text
    return text


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


def _entries(transfer: Transfer, path: Path, *, contents_only: bool) -> list[Entry]:
    key = (path, contents_only)
    if key not in transfer.inputs:
        transfer.inputs[key] = _listed(path, contents_only=contents_only)
    return transfer.inputs[key]


def _listed(path: Path, *, contents_only: bool) -> list[Entry]:
    try:
        if path.is_file():
            return [{"name": path.name, "path": str(path)}]
        if not path.is_dir():
            raise ValueError(f"{path} does not exist")
        top = path if contents_only else path.parent
        found = sorted(islice((entry for entry in path.rglob("*") if entry.is_file()), _MAX_FILES + 1))
    except OSError as problem:
        raise ValueError(f"cannot read {problem.filename or path}: {problem.strerror}") from None
    if len(found) > _MAX_FILES:
        raise ValueError(f"{path} holds more than {_MAX_FILES} files; give them as one archive")
    return [{"name": str(entry.relative_to(top)), "path": str(entry)} for entry in found]
