"""How is one number in `cloud_resources.conf` changed and nothing else touched?

Contract 4.2 and B14: comments, order, spelling and line ends stay, the section is found
in any case, and a crash leaves either the old or the new file.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .ini import Section, decode, parse, raw_lines
from .problem import ClassicConfigError

_KEY = "vm_slots"
_VALUE_AND_TAIL = r"(?P<value>.*?)(?P<tail>(?:[ \t]+;[^\r\n]*)?\s*)\Z"
_KEY_LINE = re.compile(r"(?P<head>\s*[^:=\s][^:=]*?\s*[:=][ \t]*)" + _VALUE_AND_TAIL)
_MORE_LINE = re.compile(r"(?P<head>\s*)" + _VALUE_AND_TAIL)
_SEPARATOR = re.compile(r"\s*[^:=\s][^:=]*?(?P<separator>[ \t]*[:=][ \t]*)")


def set_vm_slots(path: str | Path, cloud: str, n: int) -> bool:
    """Writes `vm_slots` of one cloud; answers whether the file had to change.

    The first section whose name matches in any case is edited; without the key it is added
    after the section's last line in use. Raises ClassicConfigError (no such section, broken
    file, negative n) and OSError; the file is then as it was.
    """
    file = Path(path).resolve()
    if n < 0:
        sentence = f"Configuration file problem: {_KEY} must be an integer value of at least 0."
        raise ClassicConfigError(sentence, file=str(file), section=cloud, key=_KEY)
    with _locked(file.parent):
        data = file.read_bytes()
        text, encoding = decode(data)
        changed = _edited(text, cloud, n=n, file=str(file)).encode(encoding)
        if changed == data:
            return False
        _replace(file, changed)
    return True


def _edited(text: str, cloud: str, *, n: int, file: str) -> str:
    section = _find(parse(text, file=file), cloud, file)
    lines = raw_lines(text)
    entry = section.entries.get(_KEY)
    if entry is None or entry.inherited:
        return "".join(_with_new_key(lines, section, n))
    pattern = _KEY_LINE if entry.value_line == entry.line else _MORE_LINE
    match = pattern.match(lines[entry.value_line])
    if match is None:  # the parser has just read this line
        raise ClassicConfigError(f"{_KEY} cannot be found again", file=file, section=cloud, key=_KEY)
    gap = "" if match["head"][-1:].isspace() or match["value"] or entry.value_line != entry.line else " "
    lines[entry.value_line] = f"{match['head']}{gap}{n}{match['tail']}"
    return "".join(lines)


def _find(sections: list[Section], cloud: str, file: str) -> Section:
    for section in sections:
        if section.name.lower() == cloud.lower():
            return section
    raise ClassicConfigError(f"there is no section [{cloud}]", file=file, section=cloud)


def _with_new_key(lines: list[str], section: Section, n: int) -> list[str]:
    """Adds the key in the manner of the line above it: same separator, same line end."""
    above = lines[section.last_line]
    style = _SEPARATOR.match(above) if section.last_line != section.line else None
    separator = style["separator"] if style else ": "
    ends = (line[len(line.rstrip("\r\n")):] for line in (above, *lines))
    end = next((end for end in ends if end), "\n")
    if not above.endswith(("\n", "\r")):
        lines[section.last_line] = above + end
    lines.insert(section.last_line + 1, f"{_KEY}{separator}{n}{end}")
    return lines


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two processes that change two clouds at once must not lose one of the changes."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _replace(file: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        _keep_owner_and_mode(file, temporary)
        temporary.replace(file)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_directory(file.parent)


def _keep_owner_and_mode(old: Path, new: Path) -> None:
    status = old.stat()
    with suppress(PermissionError):
        os.chown(new, status.st_uid, status.st_gid)
    shutil.copymode(old, new)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
