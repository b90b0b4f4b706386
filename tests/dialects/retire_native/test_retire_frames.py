"""Is the end of a request found, in whatever pieces it comes?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudsched.dialects.retire_cluster.frames import MAX_BYTES, MAX_DEPTH, Frame, FrameError

_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=4)
                     | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)  # fmt: skip


@given(st.dictionaries(st.text(), _json, max_size=5), st.booleans(), st.data())
def test_any_object_in_any_pieces(found: dict[str, Any], escaped: bool, data: st.DataObject) -> None:
    blanks = data.draw(st.sampled_from(["", " ", "\r\n\t"]))
    text = (blanks + json.dumps(found, ensure_ascii=escaped)).encode("utf-8", "surrogatepass")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    frame, result = Frame(), None
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        assert result is None or start == end or not text[start:end].strip()
        result = frame.feed(text[start:end]) or result
    assert result is not None
    assert result.strip() == text.strip()


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_waits_for_more(data: bytes) -> None:
    frame = Frame()
    try:
        found = frame.feed(data)
    except FrameError:
        return
    assert found is None or found.endswith(b"}")


def test_byte_by_byte() -> None:
    text = b'{"a": "\\\\\\"}{", "b": [{}]}'
    frame = Frame()
    assert [frame.feed(text[i : i + 1]) for i in range(len(text) - 1)] == [None] * (len(text) - 1)
    assert frame.feed(text[-1:]) == text


@pytest.mark.parametrize("tail", [b"{}", b"x", b" {"])
def test_two_objects_are_refused(tail: bytes) -> None:
    with pytest.raises(FrameError, match="one JSON object"):
        Frame().feed(b"{}" + tail)


def test_a_newline_behind_it_is_fine() -> None:
    assert Frame().feed(b'{"a":1}\r\n ') == b'{"a":1}'


@pytest.mark.parametrize("start", [b"[", b"GET / HTTP/1.1", b"\x16\x03\x01", b"1", b'"'])
def test_what_is_no_object_is_refused_at_once(start: bytes) -> None:
    with pytest.raises(FrameError, match="begins with"):
        Frame().feed(start)


def test_too_long_and_too_deep() -> None:
    frame = Frame()
    frame.feed(b'{"a": "' + b"x" * (MAX_BYTES - 20))
    with pytest.raises(FrameError, match="longer"):
        frame.feed(b"x" * 100)
    with pytest.raises(FrameError, match="deeper"):
        Frame().feed(b'{"a":' * (MAX_DEPTH + 1))


def test_empty() -> None:
    frame = Frame()
    assert frame.empty
    frame.feed(b" \n")
    assert frame.empty
    frame.feed(b"{")
    assert not frame.empty
