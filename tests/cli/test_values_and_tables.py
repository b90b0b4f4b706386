"""Durations, sizes, arrays; and how tables, blocks and bars are drawn."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from typing import Any

import pytest

from cloudsched.cli import values
from cloudsched.cli.screen import Block, Screen, bar
from cloudsched.cli.table import Column, cut, fitted_table, plain_table, text_width

GOLDEN = [
    "ID  STATE    NAME",
    " 1  running  a",
    "12  failed   日本語",
]
COLUMNS = (Column("ID", right=True), Column("STATE", colours={"failed": "red"}), Column("NAME"))
ROWS = [["1", "running", "a"], ["12", "failed", "日本語"]]


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (values.duration_s, "90", 90), (values.duration_s, "90s", 90), (values.duration_s, "5m", 300),
        (values.duration_s, "2h", 7200), (values.duration_s, "1d", 86400), (values.duration_s, "1h30m", 5400),
        (values.duration_s, "1.5h", 5400), (values.duration_s, "0.5s", 1), (values.duration_s, "1W", 604800),
        (values.memory_mb, "512", 512), (values.memory_mb, "512M", 512), (values.memory_mb, "2G", 2048),
        (values.memory_mb, "2GiB", 2048), (values.memory_mb, "1.5g", 1536), (values.memory_mb, "100K", 1),
        (values.memory_mb, "1T", 1048576), (values.storage_gb, "10", 10), (values.storage_gb, "10G", 10),
        (values.storage_gb, "500M", 1), (values.storage_gb, "1T", 1024),
        (values.array, "3", {"size": 3}), (values.array, "1-3", {"indices": [1, 2, 3]}),
        (values.array, "1-9:4", {"indices": [1, 5, 9]}), (values.array, "7,1-2", {"indices": [7, 1, 2]}),
        (values.job_refs, "1,h#1.0#2,#3", [1, "h#1.0#2", "#3"]),
    ],
)  # fmt: skip
def test_readers(read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (values.duration_s, ""), (values.duration_s, "-5"), (values.duration_s, "5 minutes"), (values.duration_s, "h"),
        (values.memory_mb, "big"), (values.memory_mb, "-1"), (values.memory_mb, "2X"), (values.storage_gb, ""),
        (values.array, "0"), (values.array, "5-1"), (values.array, "1,1"), (values.array, "a-b"), (values.array, "1-5:0"),
        (values.pair, "novalue"), (values.pair, "=x"), (values.whole, "-1"), (values.positive, "0"), (values.number, "x"),
        (values.signed, "1.5"),
    ],
)  # fmt: skip
def test_bad_values_say_what_is_allowed(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="allowed"):
        read(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0, "0s"), (0.25, "0.25s"), (9.999, "10s"), (59.7, "1m00s"), (303, "5m03s"), (7500, "2h05m"),
     (360000, "4d04h")],
)  # fmt: skip
def test_durations_are_shown(seconds: float | None, text: str) -> None:
    assert values.show_duration(seconds) == text


def test_sizes_are_shown() -> None:
    assert [values.show_mb(mb) for mb in (None, 512, 1024, 1536, 20480)] == ["", "512M", "1G", "1.5G", "20G"]


def test_a_table_that_fits() -> None:
    assert fitted_table(COLUMNS, ROWS, width=80, colour=False) == GOLDEN


def test_colours_and_a_bold_header() -> None:
    lines = fitted_table(COLUMNS, ROWS, width=80)
    assert lines[0] == "\x1b[1mID  STATE    NAME\x1b[0m"
    assert lines[2] == "12  \x1b[31mfailed\x1b[0m   日本語"


def test_the_widest_column_is_cut_to_fit() -> None:
    rows = [["1", "running", "x" * 100], ["2", "failed", "日本語" * 20]]
    lines = fitted_table(COLUMNS, rows, width=30, colour=False)
    assert max(map(text_width, lines)) == 30
    assert lines[1].endswith("x…") and lines[2].endswith("…")


def test_control_characters_do_not_reach_the_terminal() -> None:
    (_, line) = fitted_table((Column("NAME"),), [["a\x1b[2J\nb"]], width=80, colour=False)
    assert line == "a [2J b"
    assert plain_table((Column("A"), Column("B")), [["x\ty", ""]]) == ["A\tB", "x y\t-"]


def test_cut() -> None:
    assert [cut("abcdef", n) for n in (6, 5, 1)] == ["abcdef", "abcd…", "…"]


def test_a_block_is_drawn_over_itself_in_a_terminal() -> None:
    out = io.StringIO()
    block = Block(Screen(out, width=20))
    block.show(["one", "two"])
    block.show(["three" * 9])
    assert out.getvalue() == "one\ntwo\n" + "\x1b[2A\r\x1b[J" + ("three" * 9)[:18] + "…\n"


def test_a_block_in_a_pipe_says_only_what_is_new_and_not_too_often() -> None:
    out, now = io.StringIO(), [0.0]
    block = Block(Screen(out), every_s=1.0, monotonic=lambda: now[0])
    for at, text in ((0.0, "a"), (0.5, "b"), (1.0, "b"), (1.5, "c"), (2.5, "c"), (2.9, "d")):
        now[0] = at
        block.show([text])
    block.show(["end"], final=True)
    assert out.getvalue() == "a\nb\nc\nend\n"


def test_a_bar() -> None:
    assert [bar(n, 4, width=4) for n in (0, 1, 4)] == ["░░░░", "█░░░", "████"]
    assert bar(0, 0, width=2) == "██"


def test_a_time_loses_its_date_and_is_never_cut() -> None:
    columns = (Column("ID"), Column("SUBMITTED"), Column("COMMAND"))
    rows = [["1", "2026-11-23 09:08:07", "a long command " * 9], ["2", "2026-11-22 23:08:07", "x"], ["3", "", "x"]]
    assert fitted_table(columns, rows, width=30, colour=False, today="2026-11-23") == [
        "ID  SUBMITTED    COMMAND", "1   09:08:07     a long comma…", "2   11-22 23:08  x", "3                x",
    ]  # fmt: skip
    assert "2026-11-23 09:08:07" in fitted_table(columns, rows, width=200, colour=False, today="2026-11-23")[1]
    assert "09:08:07   a lon…" in fitted_table(columns, rows[:1], width=15, colour=False, today="2026-11-23")[1]
