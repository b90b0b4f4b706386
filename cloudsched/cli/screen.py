"""Where does the output of a command go, and in which form? A terminal, a pipe, or JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TextIO

from cloudsched.cli.table import Column, cut, fitted_table, paint, plain_table


class Screen:
    """One output. `as_json`: documents alone; `width`: of the terminal, when it is to be taken for one."""

    def __init__(self, out: TextIO | None = None, *, as_json: bool = False, width: int | None = None) -> None:
        self.out = out or sys.stdout
        self.as_json = as_json
        self.terminal = width is not None or self.out.isatty()
        self.colour = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = width

    @property
    def width(self) -> int:
        return self._width or shutil.get_terminal_size((100, 24)).columns

    def line(self, text: str = "") -> None:
        print(text, file=self.out, flush=True)

    def paint(self, text: str, colour: str | None) -> str:
        return paint(text, colour) if self.colour else text

    def json(self, value: Any) -> None:
        """One document: readable in a terminal, one line in a pipe."""
        layout: dict[str, Any] = {"indent": 2} if self.terminal else {"separators": (",", ":")}
        self.line(json.dumps(value, ensure_ascii=False, **layout))

    def json_line(self, value: Any) -> None:
        """One line of a stream of documents."""
        self.line(json.dumps(value, ensure_ascii=False, separators=(",", ":")))

    def table(
        self, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, none: str = "nothing there"
    ) -> None:
        """A table; without rows a terminal is told `none`, a pipe gets the header."""
        for text in self.table_lines(columns, rows, none=none):
            self.line(text)

    def table_lines(
        self, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, none: str
    ) -> list[str]:
        rows = list(rows)
        if not self.terminal:
            return plain_table(columns, rows)
        if not rows:
            return [self.paint(none, "dim")]
        return fitted_table(columns, rows, width=self.width, colour=self.colour)

    def fields(self, pairs: Iterable[tuple[str, Any]]) -> None:
        """One thing: a name and a value per line; empty values are left out."""
        shown = [(name, _cell(value)) for name, value in pairs]
        shown = [(name, text) for name, text in shown if text]
        gap = max((len(name) for name, _ in shown), default=0) + 2
        for name, text in shown:
            self.line(self.paint(name.ljust(gap), "dim") + text if self.terminal else f"{name}\t{text}")


class Block:
    """A few lines drawn over each other in a terminal; in a pipe a line is written when it says something
    new."""

    def __init__(
        self, screen: Screen, *, every_s: float = 1.0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.screen = screen
        self._drawn = 0
        self._last_text = ""
        self._last_at = float("-inf")
        self._every_s = every_s
        self._monotonic = monotonic

    def show(self, lines: Sequence[str], plain: str | None = None, *, final: bool = False) -> None:
        """Draw `lines`; a pipe gets `plain` (default: the first line) at most every `every_s`, and when
        `final`."""
        if self.screen.terminal:
            self._draw(lines)
            return
        text = plain if plain is not None else lines[0]
        now = self._monotonic()
        if text == self._last_text or (not final and now < self._last_at + self._every_s):
            return
        self._last_text, self._last_at = text, now
        self.screen.line(text)

    def leave(self) -> None:
        """Keep what is drawn; the next block starts below it."""
        self._drawn = 0

    def _draw(self, lines: Sequence[str]) -> None:
        start = f"\x1b[{self._drawn}A\r\x1b[J" if self._drawn else ""
        width = self.screen.width - 1
        body = "\n".join(line if "\x1b" in line else cut(line, width) for line in lines)
        self.screen.out.write(start + body + "\n")
        self.screen.out.flush()
        self._drawn = len(lines)


def bar(done: int, total: int, *, width: int = 30) -> str:
    """A progress bar of `width` columns."""
    full = width * done // total if total else width
    return "█" * full + "░" * (width - full)


def watch(screen: Screen, every_s: float, draw: Callable[[Screen], None]) -> int:
    """`draw` again and again until Ctrl-C (the normal end: 0). A terminal shows the newest picture alone."""
    try:
        while True:
            if screen.terminal:
                screen.out.write("\x1b[H\x1b[2J")
            draw(screen)
            if not screen.terminal and not screen.as_json:
                screen.line()
            time.sleep(every_s)
    except KeyboardInterrupt:
        return 0


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, (list, dict)) and not value):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
