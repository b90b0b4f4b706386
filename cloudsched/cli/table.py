"""How do rows look? Aligned, fitted and coloured in a terminal; tab-separated and whole in a pipe."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple

_COLOURS = {
    "red": "31", "green": "32", "yellow": "33", "blue": "34", "magenta": "35", "cyan": "36", "dim": "2", "bold": "1",
}  # fmt: skip
GAP = "  "
NARROWEST = 6
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

# One colour per state word, for jobs, nodes, operations and clouds alike.
STATE_COLOURS = {
    "pending": "dim", "held": "yellow", "queued": "cyan", "assigned": "blue", "running": "green",
    "succeeded": "green", "failed": "red", "timeout": "red", "cancelled": "magenta",
    "requested": "cyan", "starting": "blue", "stopping": "yellow", "gone": "dim", "released": "dim",
    "done": "green", "error": "red",
    "enabled": "green", "disabled": "yellow", "ok": "green", "refused": "red",
}  # fmt: skip


class Column(NamedTuple):
    """A column: its header, right-aligned or not, and which colour a cell's text has (by the word in it)."""

    header: str
    right: bool = False
    colours: Mapping[str, str] | None = None


def paint(text: str, colour: str | None) -> str:
    """`text` in a colour of a terminal; as it is for None."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour else text


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> list[str]:
    """One line per row, cells separated by one tab, nothing cut; an empty cell is `-`."""
    lines = ["\t".join(column.header for column in columns)]
    for row in rows:
        lines.append("\t".join(_one_line(cell) or "-" for cell in row))
    return lines


def fitted_table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int, colour: bool = True, today: str | None = None
) -> list[str]:
    """Aligned lines no wider than `width`: times lose their date or their seconds, then the widest columns are cut (with
    `…`) until it fits. `today`: as in 2026-01-31, of times of today the date goes."""
    cells = [[_one_line(cell) for cell in row] for row in rows]
    widths = [_widest(index, column, cells) for index, column in enumerate(columns)]
    if sum(widths) + len(GAP) * (len(widths) - 1) > width:
        times = {index for index in range(len(columns)) if _are_times(row[index] for row in cells)}
        today = today or time.strftime("%Y-%m-%d")
        cells = [[_short_time(cell, today) if index in times else cell for index, cell in enumerate(row)] for row in cells]
        widths = [_widest(index, column, cells) for index, column in enumerate(columns)]
        widths = _fit(widths, width, whole=times)
    header = _line([column.header for column in columns], columns, widths)
    lines = [paint(header, "bold") if colour else header]
    for row in cells:
        lines.append(_line(row, columns, widths, colour=colour))
    return lines


def text_width(text: str) -> int:
    """Columns of a terminal that `text` takes (wide characters take two, combining ones none)."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def cut(text: str, width: int) -> str:
    """`text` in at most `width` columns, with `…` where it was cut."""
    if text_width(text) <= width:
        return text
    kept = text[: max(width - 1, 0)]
    while kept and text_width(kept) > width - 1:
        kept = kept[:-1]
    return kept + "…"


def _widest(index: int, column: Column, cells: list[list[str]]) -> int:
    return max([len(column.header), *(text_width(row[index]) for row in cells)])


def _are_times(cells: Iterable[str]) -> bool:
    found = [cell for cell in cells if cell]
    return bool(found) and all(_TIME.fullmatch(cell) for cell in found)


def _short_time(cell: str, today: str) -> str:
    """21:03:04 of today, 11-22 21:03 of another day."""
    date, _, clock = cell.partition(" ")
    return clock if date == today else cell[5:16]


def _fit(widths: list[int], width: int, *, whole: Set[int]) -> list[int]:
    """`whole`: columns that are never cut."""
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    parts = [index for index in range(len(widths)) if index not in whole]
    while over > 0 and parts:
        widest = max(parts, key=widths.__getitem__)
        if widths[widest] <= NARROWEST:
            break
        widths[widest] -= 1
        over -= 1
    return widths


def _line(
    row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], *, colour: bool = False
) -> str:
    parts = []
    for cell, column, width in zip(row, columns, widths, strict=True):
        text = cut(cell, width)
        blank = " " * (width - text_width(text))
        if colour:
            text = paint(text, (column.colours or {}).get(cell))
        parts.append(blank + text if column.right else text + blank)
    return GAP.join(parts).rstrip()


def _one_line(text: str) -> str:
    """No line break, tab or control character of a job's name may move the terminal's cursor."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else " " for char in text)
