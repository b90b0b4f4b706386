"""How does a small file change so that a kill at any moment leaves the old one or the new one?"""

from __future__ import annotations

import contextlib
import json
import os
import shutil

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def write_atomic(path: str, data: bytes) -> None:
    """Replace the file: temporary file beside it, fsync, rename. Readable by its owner alone."""
    temporary = path + ".new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, path)


def write_json(path: str, value: Any) -> None:
    write_atomic(path, json.dumps(value, ensure_ascii=False, indent=1).encode("utf-8", "surrogatepass"))


def read_json(path: str) -> Any:
    """What the file holds; None when there is none. ValueError when it is no JSON."""
    try:
        with open(path, "rb") as file:
            return json.loads(file.read())
    except FileNotFoundError:
        return None


def write_all(fd: int, data: bytes) -> None:
    """`os.write` may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_folder(path: str) -> None:
    """Make the names in a folder as durable as the files: a new or removed file."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def make_folder(path: str) -> None:
    os.makedirs(path, mode=0o700, exist_ok=True)


def remove_tree(path: str) -> None:
    shutil.rmtree(path, ignore_errors=True)
