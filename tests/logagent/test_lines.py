"""Are records cut where they end, whatever lies across the reads?"""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudsched.logagent.lines import Framing, cut, head_pattern, known_encoding

PLAIN = Framing()


def texts(data: bytes, framing: Framing = PLAIN, *, complete: bool = True, quiet: bool = False) -> list[str]:
    found = cut(data, framing, complete=complete, quiet=quiet)
    return found.texts if found else []


def test_only_whole_lines_are_delivered() -> None:
    assert texts(b"one\ntwo\nthr") == ["one\n", "two\n"]
    assert texts(b"thr") == []


def test_an_unterminated_line_is_delivered_when_the_file_is_quiet() -> None:
    assert texts(b"one\nthr", quiet=True) == ["one\n", "thr"]
    assert texts(b"thr", quiet=True, complete=False) == []


def test_carriage_returns_stay() -> None:
    assert texts(b"one\r\n\r\ntwo\rx\n") == ["one\r\n", "\r\n", "two\rx\n"]


def test_only_the_newline_ends_a_line() -> None:
    assert texts("a\u2028b\x0bc\x0cd\x85e\n".encode()) == ["a\u2028b\x0bc\x0cd\x85e\n"]


def test_a_character_cut_in_the_middle_waits_for_its_line() -> None:
    whole = "grün 日本\n".encode()
    for end in range(len(whole)):
        assert texts(b"x\n" + whole[:end]) == ["x\n"]
    assert texts(whole) == ["grün 日本\n"]


def test_bytes_that_are_no_utf8_are_replaced_and_take_no_newline_with_them() -> None:
    assert texts(b"\xe6\x97\n\xff\nok\n") == ["\ufffd\n", "\ufffd\n", "ok\n"]


def test_a_giant_line_comes_in_pieces_that_do_not_split_characters() -> None:
    line = "é" * 1000 + "\n"
    framing = Framing(max_line_bytes=101)
    pieces = texts(line.encode(), framing)
    assert "".join(pieces) == line and max(len(piece.encode()) for piece in pieces) <= 101 and "\ufffd" not in "".join(pieces)


def test_a_giant_line_without_an_end_is_not_kept_waiting() -> None:
    framing = Framing(max_line_bytes=100)
    found = cut(b"y" * 250, framing, complete=False, quiet=False)
    assert found and found.texts == ["y" * 100] and found.size == 100


def test_ends_are_counted_in_bytes() -> None:
    found = cut("é\nab\n\xff\n".encode(), PLAIN, complete=True, quiet=False)
    assert found and [found.end(count) for count in range(4)] == [0, 3, 6, 9]


@pytest.mark.parametrize("framing", [PLAIN, Framing(max_line_bytes=7), Framing("latin-1"), Framing(head=re.compile("^a"))])
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # other work on the machine is no fault
@given(data=st.binary(max_size=200), chunk=st.integers(1, 60))
def test_nothing_is_lost_and_nothing_twice(framing: Framing, data: bytes, chunk: int) -> None:
    """Read as a file that grows: what is delivered is exactly what was written."""
    at, spans = 0, []
    for end in [*range(chunk, len(data), chunk), len(data), len(data)]:
        found = cut(data[at:end], framing, complete=True, quiet=end == len(data))
        if found:
            spans.append(data[at : at + found.size])
            ends = [found.end(count) for count in range(len(found.texts) + 1)]
            assert ends == sorted(set(ends)) and ends[-1] == found.size
            at += found.size
    assert b"".join(spans) == data


MULTI = Framing(head=re.compile(r"^\d\d:"))


def test_lines_join_the_last_head() -> None:
    data = b"10: one\n  at a\n  at b\n11: two\n12: three\n  at c\n"
    assert texts(data, MULTI) == ["10: one\n  at a\n  at b\n", "11: two\n"]
    assert texts(data, MULTI, quiet=True) == ["10: one\n  at a\n  at b\n", "11: two\n", "12: three\n  at c\n"]


def test_lines_before_the_first_head_are_a_record() -> None:
    assert texts(b"tail of something\nmore\n10: one\n11: two\n", MULTI) == ["tail of something\nmore\n", "10: one\n"]


def test_a_record_that_never_ends_is_delivered_in_pieces() -> None:
    framing = Framing(head=re.compile("^H"), max_line_bytes=50)
    data = b"H\n" + b"0123456789\n" * 30
    found = cut(data, framing, complete=True, quiet=False)
    assert found and all(len(text) <= 50 for text in found.texts)
    assert data.startswith("".join(found.texts).encode())


def test_encodings_whose_newline_is_another_byte_are_refused() -> None:
    assert known_encoding("") == "utf-8" and known_encoding("GBK") == "gbk"
    for name in ("utf-16", "utf-32", "nonsense", "base64"):
        with pytest.raises(ValueError, match="encoding"):
            known_encoding(name)
    with pytest.raises(ValueError, match="head_pattern"):
        head_pattern("(")


def test_gbk_is_decoded_line_by_line() -> None:
    assert texts("日志\n第二\n".encode("gbk"), Framing("gbk")) == ["日志\n", "第二\n"]
    assert texts(b"\xc8\nok\n", Framing("gbk"))[1] == "ok\n"
