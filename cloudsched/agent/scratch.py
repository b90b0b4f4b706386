"""Where do jobs run and where does their output go? Scratch directories and capture files, cheap to take and give back.

A scratch directory is `<work_dir>/scratch/<job>.<attempt>`, empty at the start and gone at the end. One that a job
left untouched is renamed for the next job instead of removed and made again: half the file-system work of a short
job. Capture files have no name at all where the file system can do that, so nothing of them is left after a crash.
"""

from __future__ import annotations

import os
import stat
import tempfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DIR_MODE = 0o700
MAX_SPARE = 40


class Scratch:
    """The scratch directories below `root`."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._spare: list[str] = []
        self._ready: dict[str, str] = {}  # of jobs that wait to be started
        os.makedirs(root, DIR_MODE, exist_ok=True)

    def take(self, label: str) -> str:
        """An empty directory of that label; what was there before is removed."""
        path = self._ready.pop(label, None) or self._renamed(label)
        if path is not None:
            return path
        path = os.path.join(self.root, label)
        try:
            os.mkdir(path, DIR_MODE)
        except FileExistsError:
            remove_tree(path)
            os.mkdir(path, DIR_MODE)
        return path

    def make_ready(self, labels: list[str]) -> None:
        """Have directories for these, as far as there are spare ones: many at once cost less than one between two jobs."""
        for label in set(self._ready).difference(labels):
            self._spare.append(self._ready.pop(label))
        for label in labels:
            path = None if label in self._ready else self._renamed(label)
            if path is not None:
                self._ready[label] = path

    def give_back(self, path: str) -> None:
        """The job is over and none of its processes is left."""
        if len(self._spare) < MAX_SPARE and _untouched(path):
            self._spare.append(path)
        else:
            remove_tree(path)

    def drop_spare(self) -> None:
        """Remove the empty directories kept for the next jobs."""
        spare, self._spare, self._ready = [*self._spare, *self._ready.values()], [], {}
        for path in spare:
            remove_tree(path)

    def clear(self) -> None:
        """Remove everything below the root (leftovers of an earlier life)."""
        self._spare, self._ready = [], {}
        for name in os.listdir(self.root):
            remove_tree(os.path.join(self.root, name))

    def _renamed(self, label: str) -> str | None:
        if not self._spare:
            return None
        path = os.path.join(self.root, label)
        try:
            os.rename(self._spare[-1], path)
        except OSError:
            self.drop_spare()
            return None
        self._spare.pop()
        return path


class Captures:
    """Pairs of files for stdout and stderr, used again after they were emptied."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._spare: list[tuple[int, int]] = []
        os.makedirs(folder, DIR_MODE, exist_ok=True)
        for name in os.listdir(folder):
            remove_tree(os.path.join(folder, name))

    def take(self) -> tuple[int, int]:
        """Two empty files opened for appending and reading: (stdout, stderr)."""
        if self._spare:
            return self._spare.pop()
        return nameless_file(self.folder, append=True), nameless_file(self.folder, append=True)

    def give_back(self, pair: tuple[int, int], *, untouched: bool = False) -> None:
        """No process of the job is left, so nobody else writes to them; `untouched`: nobody has."""
        if len(self._spare) >= MAX_SPARE:
            os.close(pair[0])
            os.close(pair[1])
            return
        for handle in () if untouched else pair:
            if os.fstat(handle).st_size:
                os.ftruncate(handle, 0)
        self._spare.append(pair)

    def close(self) -> None:
        for pair in self._spare:
            os.close(pair[0])
            os.close(pair[1])
        self._spare = []


def nameless_file(folder: str, *, append: bool = False) -> int:
    """A file that nobody can find and that is gone with its last descriptor."""
    extra = os.O_APPEND if append else 0
    if hasattr(os, "O_TMPFILE"):
        try:
            return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC | extra, 0o600)
        except OSError:
            pass  # the file system can't; a name that lives for a moment will do
    handle, path = tempfile.mkstemp(dir=folder)
    try:
        if not append:
            return handle
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | extra)
    finally:
        os.unlink(path)
        if append:
            os.close(handle)


def checked_name(name: object) -> str:
    """`name` if it is a relative path that stays inside; raises ValueError with what is wrong."""
    if not isinstance(name, str) or not name:
        raise ValueError("%r is not a file name" % (name,))
    if "\0" in name:
        raise ValueError("%r has a NUL in it" % name)
    if name.startswith(("/", "~")):
        raise ValueError("%r is not relative to the scratch directory" % name)
    if any(part in ("", ".", "..") for part in name.split("/")):
        raise ValueError("%r leaves the scratch directory or is not in plain form" % name)
    return name


def create_input(folder: str, name: str, *, mode: int) -> int:
    """Make `name` below `folder` (never through a link) and open it for writing."""
    path = os.path.join(folder, checked_name(name))
    os.makedirs(os.path.dirname(path), DIR_MODE, exist_ok=True)
    if not inside(folder, os.path.dirname(path)):
        raise ValueError("%r leads out of the scratch directory" % name)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, (mode & 0o777) | 0o600)
    return handle


def inside(folder: str, path: str) -> bool:
    """Does `path` with all links resolved lie in `folder`?"""
    root, real = os.path.realpath(folder), os.path.realpath(path)
    return real == root or real.startswith(root + "/")


def matches(folder: str, pattern: str) -> list[str]:
    """Files below `folder` that `pattern` names, as relative paths in order; directories count with all they hold.

    Raises ValueError for a pattern that leaves the directory, or a link that does, OSError for what cannot be read.
    """
    import glob

    checked_name(pattern.rstrip("/") if isinstance(pattern, str) else pattern)
    base = os.path.join(glob.escape(folder), pattern)
    names: list[str] = []
    for path in sorted(glob.glob(base, recursive=True)):
        if not inside(folder, path):
            raise ValueError("%r is a link that leads out of the scratch directory" % os.path.relpath(path, folder))
        if os.path.isdir(path):
            names += _files_below(path)
        elif os.path.isfile(path):
            names.append(path)
    return list(dict.fromkeys(os.path.relpath(name, folder) for name in names))


def used_bytes(folder: str) -> int:
    """Disk space that `folder` holds now."""
    total = 0
    for entry in _walk(folder):
        try:
            total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            continue
    return total


def remove_tree(path: str) -> None:
    """Take `path` away whatever modes the job left; never follows a link; a missing path is no error."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except NotADirectoryError:
        _unlink(path)
        return
    except OSError:
        pass
    _open_up(path)
    try:
        entries = list(os.scandir(path))
    except OSError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(entry.path)
        else:
            _unlink(entry.path)
    try:
        os.rmdir(path)
    except OSError:
        pass


def _untouched(path: str) -> bool:
    try:
        facts = os.stat(path, follow_symlinks=False)
        plain = stat.S_ISDIR(facts.st_mode) and stat.S_IMODE(facts.st_mode) == DIR_MODE
        return plain and facts.st_uid == os.geteuid() and not os.listdir(path)
    except OSError:
        return False


def _files_below(path: str) -> list[str]:
    """Raises PermissionError for a directory that we may not read: not to see its files is not that there are none."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    found = (os.path.join(place, name) for place, _, names in os.walk(path, onerror=refuse) for name in names)
    return sorted(name for name in found if os.path.isfile(name) and not os.path.islink(name))


def _walk(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        yield entry
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass


def _open_up(path: str) -> None:
    try:
        if not os.path.islink(path):
            os.chmod(path, 0o700)
    except OSError:
        pass
