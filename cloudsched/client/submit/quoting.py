"""How do one-line arguments and environments split into words?

HTCondor knows two syntaxes for each. A value in double quotes is *new*: blanks separate, single quotes
protect, a quote of either kind is written twice to mean itself. Anything else is *old*.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_BLANKS = " \t\r\n"


def split_arguments(text: str) -> list[str]:
    """The argument list of an ``arguments`` value in either syntax; ValueError says what is wrong."""
    text = text.strip()
    if text.startswith('"'):
        return split_new(_inside_double_quotes(text))
    if re.search(r'(?<!\\)"', text):
        raise ValueError(
            'a double quote inside arguments must be written \\" (old syntax), '
            "or the whole value be put in double quotes (new syntax)"
        )
    return [word for word in re.split(r"[ \t\r\n]+", text.replace('\\"', '"')) if word]


def join_arguments(words: Sequence[str]) -> str:
    """An ``arguments`` value in the new syntax that `split_arguments` takes apart into the same words."""
    raw = " ".join(_protected(word) for word in words)
    return '"' + raw.replace('"', '""') + '"'


def split_environment(text: str) -> dict[str, str]:
    """Name to value of an ``environment`` value in either syntax; ValueError says what is wrong."""
    text = text.strip()
    if text.startswith('"'):
        entries = split_new(_inside_double_quotes(text))
    else:
        entries = [entry for entry in text.split(";") if entry.strip()]
    environment = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"{entry[:60]!r} is not NAME=value")
        environment[name.strip()] = value
    return environment


def split_new(raw: str) -> list[str]:
    """Words of the new syntax, its outer double quotes already taken off."""
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(raw):
        char = raw[at]
        if char in _BLANKS:
            if word is not None:
                words.append(word)
            word = None
            at += 1
        elif char == "'":
            section, at = _quoted_section(raw, at)
            word = (word or "") + section
        else:
            word = (word or "") + char
            at += 1
    if word is not None:
        words.append(word)
    return words


def _inside_double_quotes(text: str) -> str:
    if len(text) < 2 or not text.endswith('"'):
        raise ValueError('it begins with a double quote and must end with one; write "" for a quote inside')
    inside = text[1:-1]
    if '"' in inside.replace('""', ""):
        raise ValueError('a double quote inside a value in double quotes must be written twice: ""')
    return inside.replace('""', '"')


def _quoted_section(raw: str, start: int) -> tuple[str, int]:
    """The text of the section that opens at `start` with a single quote, and where the rest begins."""
    section = ""
    at = start + 1
    while True:
        end = raw.find("'", at)
        if end < 0:
            raise ValueError(f"a single quote is never closed: {raw[start : start + 40]!r}")
        section += raw[at:end]
        if raw[end + 1 : end + 2] != "'":
            return section, end + 1
        section += "'"
        at = end + 2


def _protected(word: str) -> str:
    if word and not any(char in word for char in "'" + _BLANKS):
        return word
    return "'" + word.replace("'", "''") + "'"
