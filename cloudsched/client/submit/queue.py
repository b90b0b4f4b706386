"""Which jobs does one ``queue`` statement ask for?

Forms: ``queue``, ``queue N``, and ``queue [N] [variables] in|from|matching [slice] items``; the answer is the
number of jobs per row and the rows, each a value per variable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cloudsched.client.submit.errors import Place, SubmitError
from cloudsched.client.submit.lexer import Queue, refuse_binary
from cloudsched.client.submit.macros import Macros

_KEYWORD = re.compile(r"(?<![\w.])(in|from|matching)(?![\w.])", re.IGNORECASE)
_HEAD = re.compile(
    r"(?P<count>[\d+\-*/%()\s]*?)\s*(?P<names>[A-Za-z_][\w.]*(?:[\s,]+[A-Za-z_][\w.]*)*)?\s*\Z"
)
_SLICE = re.compile(r"\[\s*(-?\d*)\s*(?:(:)\s*(-?\d*)\s*(?::\s*(-?\d*)\s*)?)?\](?=\s|\(|\Z)")
_KIND = re.compile(r"(files|dirs|any)(?=\s|\[|\Z)", re.IGNORECASE)
_LISTED = re.compile(r"[,\s]+")


@dataclass(frozen=True, slots=True)
class Row:
    """One item of the list: its index in the whole list, and a value per variable name."""

    index: int
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """`count` jobs for each of `rows`. Without a list there is one row without values."""

    count: int
    rows: tuple[Row, ...]


def plan(statement: Queue, macros: Macros, directory: Path) -> Plan:
    """What a ``queue`` statement asks for; files and patterns are looked for under `directory`.

    SubmitError: the form is unknown, a file cannot be read, or a script is to be run for the items.
    """
    place = statement.place
    text = macros.expand(statement.text, place).strip()
    keyword = _KEYWORD.search(text)
    if keyword is None:
        if statement.items is not None:
            raise SubmitError("a list in parentheses needs in, from or matching before it", place)
        return Plan(_count(text, place), (Row(0, {}),))
    count_text, names = _head(text[: keyword.start()], place)
    word = keyword[1].lower()
    rest = text[keyword.end() :].strip()
    kind = "any"
    if word == "matching" and (found := _KIND.match(rest)):
        kind = found[1].lower()
        rest = rest[found.end() :].strip()
    rest, chosen = _slice(rest, place)
    lines = _lines(statement, macros, rest, expand=word != "from")
    items = _ITEMS[word](lines, directory, place, kind)
    rows = [Row(index, _values(item, names)) for index, item in enumerate(items)]
    return Plan(_count(count_text, place), tuple(rows[chosen]))


def _head(text: str, place: Place) -> tuple[str, list[str]]:
    """The count and the variable names before the keyword."""
    head = _HEAD.match(text)
    if head is None:
        raise SubmitError(f"{text.strip()!r} is neither a number of jobs nor a list of variable names", place)
    names = [name for name in _LISTED.split(head["names"] or "") if name]
    return head["count"], names or ["Item"]


def _count(text: str, place: Place) -> int:
    if not text.strip():
        return 1
    try:
        count = Macros().integer(text, place)
    except SubmitError:
        raise SubmitError(
            f"{text.strip()[:60]!r} is not a number of jobs; forms are: queue, queue N, "
            "queue [N] [variables] in|from|matching [slice] items",
            place,
        ) from None
    if count < 0:
        raise SubmitError(f"the number of jobs is {count}, must not be negative", place)
    return count


def _slice(text: str, place: Place) -> tuple[str, slice]:
    found = _SLICE.match(text)
    if found is None:
        return text, slice(None)
    start, colon, stop, step = (found[group] for group in (1, 2, 3, 4))
    if not colon:
        if not start:
            raise SubmitError("[] is no slice; e.g. [1:3]", place)
        index = int(start)
        return text[found.end() :].strip(), slice(index, index + 1 or None)
    if step and int(step) < 1:
        raise SubmitError(f"the step of a slice is {step}, must be 1 or more", place)
    bounds = (int(bound) if bound else None for bound in (start, stop, step))
    return text[found.end() :].strip(), slice(*bounds)


def _lines(statement: Queue, macros: Macros, rest: str, *, expand: bool) -> list[str]:
    if statement.items is None:
        if "(" in rest and expand:
            reason = f"{rest!r}: the list in parentheses must follow in, from or matching"
            raise SubmitError(reason, statement.place)
        return [rest]
    if rest:
        raise SubmitError(f"{rest!r} before the list in parentheses is not understood", statement.place)
    # Empty first line: tells a list in parentheses from the rest of the statement's own line.
    # A row of `from` is expanded in each job, where $(Process) is known; the others split first.
    items = (macros.expand(item, statement.place) if expand else item for item in statement.items)
    return ["", *items]


def _listed(lines: list[str], _directory: Path, _place: Place, _kind: str) -> Iterable[str]:
    for line in lines:
        yield from (item for item in _LISTED.split(line) if item)


def _from(lines: list[str], directory: Path, place: Place, _kind: str) -> Iterable[str]:
    if lines[0]:
        source = lines[0]
        if source.endswith("|"):
            wanted = "run it yourself into a file and queue from that"
            raise SubmitError(f"'queue ... from {source}' would run a script here; {wanted}", place)
        lines = _read(directory / source, place).split("\n")
    elif len(lines) == 1:
        raise SubmitError("'from' wants a file name or a list in parentheses", place)
    stripped = (line.strip() for line in lines)
    return [line for line in stripped if line and not line.startswith("#")]


def _matching(lines: list[str], directory: Path, place: Place, kind: str) -> Iterable[str]:
    """Names as the pattern spells them: relative patterns give relative names. Each name once."""
    found: dict[str, None] = {}
    for pattern in _listed(lines, directory, place, kind):
        for path in _globbed(pattern, directory, place):
            if _is_kind(directory / path, kind):
                found[path] = None
    return found


def _globbed(pattern: str, directory: Path, place: Place) -> Sequence[str]:
    root = Path(pattern).anchor
    base = Path(root) if root else directory
    relative = pattern[len(root) :].rstrip("/")
    if not relative:
        return []
    try:
        names = [name for name in sorted(base.glob(relative)) if not _hidden(name.name, relative)]
    except (ValueError, NotImplementedError, OSError) as problem:
        raise SubmitError(f"{pattern!r} is no usable pattern: {problem}", place) from None
    return [str(name if root else name.relative_to(base)) for name in names]


def _is_kind(path: Path, kind: str) -> bool:
    try:
        return kind == "any" or (path.is_file() if kind == "files" else path.is_dir())
    except OSError:
        return False


def _hidden(name: str, pattern: str) -> bool:
    return name.startswith(".") and not pattern.rpartition("/")[2].startswith(".")


def _values(item: str, names: Sequence[str]) -> dict[str, str]:
    """One value per name: blanks and commas separate, the last name takes the whole rest."""
    return dict(zip(names, _split_row(item, len(names)), strict=True))


def _split_row(item: str, parts: int) -> Iterator[str]:
    rest = item.strip()
    for _ in range(parts - 1):
        found = re.match(r"([^,\s]*)\s*,?\s*", rest)
        yield found[1] if found else ""
        rest = rest[found.end() :] if found else ""
    yield rest


def _read(path: Path, place: Place) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8 text"
        raise SubmitError(f"cannot read the items of {path}: {why}", place) from None
    refuse_binary(text, str(path))
    return text


_ITEMS = {"in": _listed, "from": _from, "matching": _matching}
