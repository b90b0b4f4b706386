"""Which statements does a submit description hold?

Physical lines become statements: comments go, continued lines are joined, ``name @=tag`` blocks and the item
lists of ``queue`` statements are gathered. Nothing is expanded and no condition is decided here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from cloudsched.client.submit.errors import Place, SubmitError

_NAME = r"\+?[A-Za-z_][A-Za-z0-9_.]*"
_ASSIGN = re.compile(rf"({_NAME})\s*=(?!=)\s*(.*)\Z", re.DOTALL)
_BLOCK = re.compile(rf"({_NAME})\s*@=\s*(\S+)\s*\Z")
_QUEUE = re.compile(r"queue(?:\s+(?!=)(.*))?\Z", re.IGNORECASE | re.DOTALL)
_LIST = re.compile(
    r"(.*?(?<![\w.$(])(?:in|from|matching)(?![\w.])\s*(?:(?:files|dirs|any)\b\s*)?(?:\[[^\]]*\]\s*)?)\((.*)\Z",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(r"(if|elif|else|endif)\b\s*(.*)\Z", re.IGNORECASE | re.DOTALL)
_COLON = re.compile(r"(include|use|error|warning)\b([^:=]*):\s*(.*)\Z", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Assign:
    """``name = value``; `name` as written, ``+Name`` already as ``MY.Name``."""

    place: Place
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Condition:
    """``if``, ``elif``, ``else`` or ``endif`` (`word`, lower case) with what follows."""

    place: Place
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Directive:
    """``include``, ``use``, ``error`` or ``warning``: the words before the colon, and the text after it."""

    place: Place
    word: str
    option: str
    text: str


@dataclass(frozen=True, slots=True)
class Queue:
    """``queue`` with the rest of its line; `items`: the lines of a list in parentheses, else None."""

    place: Place
    text: str
    items: tuple[str, ...] | None


Statement = Assign | Condition | Directive | Queue


def statements(text: str, file: str) -> Iterator[Statement]:
    """The statements of one file in order; SubmitError names the first line that is none."""
    refuse_binary(text, file)
    lines = _logical_lines(text)
    for number, line in lines:
        place = Place(file, number)
        if block := _BLOCK.match(line):
            yield Assign(place, _attribute(block[1]), _block_value(lines, block[2], place))
        elif queue := _QUEUE.match(line):
            yield _queue(queue[1] or "", lines, place)
        elif condition := _CONDITION.match(line):
            yield Condition(place, condition[1].lower(), condition[2].strip())
        elif assign := _ASSIGN.match(line):
            yield Assign(place, _attribute(assign[1]), assign[2].strip())
        elif colon := _COLON.match(line):
            yield Directive(place, colon[1].lower(), colon[2].strip().lower(), colon[3].strip())
        else:
            wanted = "'name = value', 'queue ...', if, include or a # comment"
            raise SubmitError(f"{line[:60]!r} is no statement; wanted {wanted}", place)


def refuse_binary(text: str, file: str) -> None:
    """A NUL character can be in no path, argument or environment: SubmitError names its line."""
    at = text.find("\0")
    if at >= 0:
        raise SubmitError("a NUL character; is this a binary file?", Place(file, text.count("\n", 0, at) + 1))


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """(first line number, text) of each line that is not blank or comment, continued lines joined.

    A comment inside a continued line is left out without ending it; a comment that ends in a backslash
    takes the next line along.
    """
    joined = ""
    first = 0
    in_comment = False
    for number, physical in enumerate(text.split("\n"), start=1):
        line = physical.strip()
        continued = line.endswith("\\")
        if in_comment or line.startswith("#"):
            in_comment = continued
            continue
        first = first or number
        joined += line[:-1] if continued else line
        if continued:
            continue
        if joined.strip():
            yield first, joined.strip()
        joined, first = "", 0
    if joined.strip():
        yield first, joined.strip()


def _attribute(name: str) -> str:
    return "MY." + name[1:] if name.startswith("+") else name


def _block_value(lines: Iterator[tuple[int, str]], tag: str, place: Place) -> str:
    kept: list[str] = []
    for _, line in lines:
        if line == f"@{tag}":
            return "\n".join(kept)
        kept.append(line)
    raise SubmitError(f"the block opened with @={tag} is never closed with a line @{tag}", place)


def _queue(text: str, lines: Iterator[tuple[int, str]], place: Place) -> Queue:
    """The statement and, when its line ends with an open parenthesis, the list up to the closing one."""
    found = _LIST.match(text)
    if found is None:
        return Queue(place, text.strip(), None)
    head, inside = found[1], found[2]
    if inside.rstrip().endswith(")"):
        return Queue(place, head.strip(), (inside.rstrip()[:-1].strip(),))
    items = [inside.strip()] if inside.strip() else []
    for _, line in lines:
        if line == ")":
            return Queue(place, head.strip(), tuple(items))
        if line.endswith(")") and line.count("(") < line.count(")"):
            return Queue(place, head.strip(), (*items, line[:-1].strip()))
        items.append(line)
    raise SubmitError("the list of this queue statement is never closed with ')'", place)
