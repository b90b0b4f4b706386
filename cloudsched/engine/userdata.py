"""Which files does a job want its machine to start with? `VMUserData` names files of the server; here they are read.

A submitter names a file and thereby reads it, as the machine is his: so only files below one directory that the
operator chose (`cloud_scheduler.user_data_dir`) are read, wherever links lead.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cloudsched.drivers import cloudinit
from cloudsched.drivers.base import REQUEST, DriverError

MOST_FILES = 16
FILE_BYTES = 64 * 1024
ALL_BYTES = 256 * 1024


class UserDataRefused(DriverError):
    """The files cannot be had, on whichever cloud: the job waits, and its reasons say why."""

    def __init__(self, message: str) -> None:
        super().__init__(f"VMUserData: {message}", code=REQUEST)


def read(names: Sequence[str] | str, *, folder: str) -> str:
    """The files as one text that cloud-init reads (contract 7.1); empty for no names. `folder`: where files must lie.

    Raises UserDataRefused naming the file and what is wrong with it.
    """
    wanted = [part for part in ([names] if isinstance(names, str) else map(str, names)) if part.strip()]
    if not wanted:
        return ""
    if not folder:
        raise UserDataRefused(f"{wanted[0][:200]!r} is a file of the server, and cloud_scheduler.user_data_dir is not set, so "
                              "none may be read")
    if len(wanted) > MOST_FILES:
        raise UserDataRefused(f"{len(wanted)} files (at most {MOST_FILES})")
    texts = [_content(name.strip(), Path(folder)) for name in wanted]
    if sum(map(len, texts)) > ALL_BYTES:
        raise UserDataRefused(f"the files have more than {ALL_BYTES} bytes together")
    try:
        return cloudinit.combine(texts)
    except DriverError as error:
        raise UserDataRefused(error.message) from None


def _content(name: str, folder: Path) -> str:
    shown = repr(name[:200])
    if "\0" in name:
        raise UserDataRefused(f"{shown} is no name of a file")
    try:
        base = folder.resolve(strict=True)
        path = (base / name).resolve(strict=True)
        inside = path.is_relative_to(base)
    except (OSError, RuntimeError):  # what lies elsewhere is not told apart from what is not there
        inside = False
    if not inside:
        raise UserDataRefused(f"{shown} is no file below the directory of user data")
    raw = _bytes(path, shown)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserDataRefused(f"{shown} is not UTF-8 text")
    return text


def _bytes(path: Path, shown: str) -> bytes:
    """A regular file that is not too long; never waits for a pipe, never follows a link that came meanwhile."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise UserDataRefused(f"{shown} cannot be read: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UserDataRefused(f"{shown} is no plain file")
        raw = os.read(handle, FILE_BYTES + 1)
    finally:
        os.close(handle)
    if len(raw) > FILE_BYTES:
        raise UserDataRefused(f"{shown} has more than {FILE_BYTES} bytes")
    return raw
