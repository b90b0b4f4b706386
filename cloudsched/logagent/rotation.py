"""Where did a rotated file go, and what was written and rotated away while nobody looked?"""

from __future__ import annotations

import os
import re
import stat

from cloudsched.logagent.generation import begins_like, key_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cloudsched.logagent.generation import Position

    Found = tuple[str, os.stat_result]

# app.log.1, app.log-20261122, app.log.2026-11-22_10, app.log.old; not app.log.wf, which is a log of its own.
ROTATED = re.compile(r"[._-](\d[\dT:._-]*|old|bak|prev)")
PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".lz4")


class Folders:
    """What lies in the folders, read once: made anew for each scan."""

    def __init__(self) -> None:
        self._read: dict[str, list[Found]] = {}

    def neighbours(self, path: str) -> list[Found]:
        """Regular files in the folder of `path` and, when it is a link, in the folder of its target."""
        folder, target = os.path.dirname(path), os.path.dirname(os.path.realpath(path))
        return self._files(folder) + (self._files(target) if target != os.path.realpath(folder) else [])

    def find_inode(self, path: str, inode: int) -> str | None:
        """Where in the folder of `path` the file with this inode lies now."""
        return next((full for full, state in self.neighbours(path) if state.st_ino == inode), None)

    def find_copy(self, path: str, head: bytes, position: Position, known: Callable[[str, os.stat_result], bool]) -> Found | None:
        """The copy that copy-truncate made of the file at `path`: named after it, begins alike, and has our position."""
        if not position.offset:
            return None
        for full, state in self.related(path):
            if begins_like(full, head, position, key=key_of(state)) and not known(full, state):
                return full, state
        return None

    def related(self, path: str) -> Iterator[Found]:
        """Files named after `path`: its name and something behind it."""
        name = os.path.basename(path)
        for full, state in self.neighbours(path):
            other = os.path.basename(full)
            if other != name and other.startswith(name):
                yield full, state

    def _files(self, folder: str) -> list[Found]:
        found = self._read.get(folder)
        if found is None:
            found = self._read[folder] = _files_in(folder)
        return found


def _files_in(folder: str) -> list[Found]:
    """Listed again when names moved meanwhile: a file that is renamed during a listing may be in it twice or not at all."""
    found: list[Found] = []
    for _ in range(3):
        before = changed_ns(folder)
        found = list(_list(folder))
        if before == changed_ns(folder):
            break
    return found


def changed_ns(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def _list(folder: str) -> Iterator[Found]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        full = os.path.join(folder, name)
        try:
            state = os.lstat(full)
        except OSError:
            continue
        if stat.S_ISREG(state.st_mode):
            yield full, state


def is_rotated(path: str, of: str) -> bool:
    """Is `path` named like a rotated, unpacked `of`?"""
    name, base = os.path.basename(path), os.path.basename(of)
    return name.startswith(base) and ROTATED.fullmatch(name[len(base) :]) is not None and not name.endswith(PACKED)
