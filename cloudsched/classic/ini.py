"""Which sections, keys and values stand in an INI file, and on which lines?

The files were written for the Python 2 `ConfigParser`, whose rules differ from today's
`configparser`: only `;` after a blank starts a comment inside a line, a repeated section
continues the earlier one, the last of a repeated key wins, any indented line continues
the value above, `[DEFAULT]` lends its keys to every section. `%` is an ordinary character
(contract 6). Line numbers are kept so that one line can be rewritten in place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from .problem import ClassicConfigError

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SECTION = re.compile(r"\s*\[(?P<name>[^\]]+)\]")
_ENTRY = re.compile(r"(?P<key>[^:=\s\[][^:=]*?)\s*[:=]\s*(?P<value>.*)$")
_COMMENT = re.compile(r"\s*(?:[#;].*)?$")
_INLINE_COMMENT = re.compile(r"(?:^|\s)\s*;.*$")


@dataclass
class Entry:
    """One key. `line` is where it stands, `value_line` where its value starts (both from 0)."""

    key: str
    value: str
    line: int
    value_line: int
    inherited: bool = False


@dataclass
class Section:
    """One section: `entries` by lower-case key, in file order; `last_line` is its last line in use."""

    name: str
    line: int
    last_line: int
    entries: dict[str, Entry] = field(default_factory=dict)


def load(path: str | Path) -> list[Section]:
    """The sections of a file, `[DEFAULT]` already lent out. Raises ClassicConfigError."""
    file = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        sentence = f"Configuration file problem: cannot read {file}: {reason}."
        raise ClassicConfigError(sentence, file=file) from error
    return parse(decode(data)[0], file=file)


def parse(text: str, *, file: str = "configuration") -> list[Section]:
    """The sections of a text. Raises ClassicConfigError for a line that means nothing."""
    found: dict[str, Section] = {}
    section: Section | None = None
    entry: Entry | None = None
    for number, line in enumerate(split_lines(text)):
        if _COMMENT.match(line):
            continue
        if section is not None and entry is not None and line[0].isspace():
            _continue_value(entry, _without_comment(line), number)
            section.last_line = number
            continue
        header = _SECTION.match(line)
        if header:
            name = header["name"]
            section = found.setdefault(name, Section(name, number, number))
            section.last_line = number
            entry = None
            continue
        section, entry = _new_entry(section, line, number=number, file=file)
    return _with_defaults(found)


def decode(data: bytes) -> tuple[str, str]:
    """Text and the encoding that gives the same bytes back."""
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("latin-1"), "latin-1"


def split_lines(text: str) -> Iterator[str]:
    """Lines without their ends; only CR, LF and CR LF end a line."""
    for number, match in enumerate(_LINE.finditer(text)):
        line = match[0].rstrip("\r\n")
        yield line.removeprefix("\ufeff") if number == 0 else line


def raw_lines(text: str) -> list[str]:
    """Lines with their ends: joined, they are the text again."""
    return [match[0] for match in _LINE.finditer(text)]


def _continue_value(entry: Entry, more: str, number: int) -> None:
    if not more:
        return
    if not entry.value:
        entry.value_line = number
    entry.value = f"{entry.value}\n{more}".strip()


def _without_comment(text: str) -> str:
    return _INLINE_COMMENT.sub("", text, count=1).strip()


def _new_entry(section: Section | None, line: str, *, number: int, file: str) -> tuple[Section, Entry]:
    if section is None:
        sentence = f"Configuration file problem: line {number + 1} stands before any [section]."
        raise ClassicConfigError(sentence, file=file, line=number + 1)
    match = _ENTRY.match(line.strip())
    if match is None:
        sentence = f"Configuration file problem: line {number + 1} is neither [section] nor key: value."
        raise ClassicConfigError(sentence, file=file, section=section.name, line=number + 1)
    key = match["key"].rstrip().lower()
    value = _without_comment(match["value"])
    entry = Entry(key, "" if value == '""' else value, number, number)
    known = section.entries.get(key)
    if known is not None:
        # The last one wins, but the key keeps its place in the listing (T9).
        known.value, known.line, known.value_line = entry.value, number, number
        entry = known
    section.entries[key] = entry
    section.last_line = number
    return section, entry


def _with_defaults(found: dict[str, Section]) -> list[Section]:
    defaults = found.pop("DEFAULT", None)
    if defaults is None:
        return list(found.values())
    lent = {key: replace(entry, inherited=True) for key, entry in defaults.entries.items()}
    for section in found.values():
        section.entries = {**lent, **section.entries}
    return list(found.values())
