"""Is an answer read the same however its bytes come, and is one that is not whole never taken for one?"""

from __future__ import annotations

import pytest

from cloudsched.drivers.logagent_http import Closed, Reading, Refused

OK = b"HTTP/1.1 200 OK\r\n"
WHOLE = {
    "length": (OK + b"Content-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "nothing": (OK + b"content-length: 0\r\n\r\n", 200, b"", True),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "closing": (OK + b"Connection: Close\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
    "early": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", True),
    "chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nA: b\r\n\r\n", 200, b"hello", True),
    "bare_ends": (OK + b"Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", 200, b"hello", True),
    "old": (b"HTTP/1.0 503\r\nContent-Length: 2\r\n\r\nno", 503, b"no", True),
}


def reading(most: int = 1 << 20, **how: bool) -> Reading:
    def account(size: int, added: int) -> None:
        if size > most:
            raise Refused("too large")

    return Reading(account, **how)


@pytest.mark.parametrize("name", WHOLE)
def test_whole_and_in_single_bytes(name: str) -> None:
    raw, status, body, reusable = WHOLE[name]
    whole, drops = reading(), reading()
    assert whole.feed(raw)
    assert [drops.feed(raw[index : index + 1]) for index in range(len(raw))] == [False] * (len(raw) - 1) + [True]
    for one in (whole, drops):
        assert (one.status, one.body, one.reusable) == (status, body, reusable)


@pytest.mark.parametrize("name", WHOLE)
def test_cut_off_anywhere(name: str) -> None:
    raw = WHOLE[name][0]
    for end in range(len(raw)):
        one = reading()
        assert not one.feed(raw[:end]) and not one.reusable
        with pytest.raises(Refused, match="closed the connection"):
            one.end()


def test_a_body_that_ends_with_the_connection() -> None:
    one = reading()
    assert not one.feed(OK + b"\r\nhel") and not one.feed(b"lo")
    one.end()
    assert (one.body, one.reusable) == (b"hello", False)


def test_what_comes_behind_an_answer_spoils_the_connection() -> None:
    one = reading()
    assert one.feed(WHOLE["length"][0] + b"HTTP/1.1 200 OK\r\n") and one.body == b"hello" and not one.reusable


def test_nothing_at_all_may_be_asked_again() -> None:
    with pytest.raises(Closed):
        reading(may_repeat=True).end()
    begun = reading(may_repeat=True)
    begun.feed(b"H")
    with pytest.raises(Refused, match="within the head"):
        begun.end()


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "no HTTP"),
        (b"x" * 70_000, "no HTTP"),
        (OK + b"A: b\r\n" * 20_000, "too large a head"),
        (OK + b"Content-Length: -5\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", "Content-Length"),
        (OK + b"Content-Length: 101\r\n\r\n", "too large"),
        (OK + b"\r\n" + b"x" * 101, "too large"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n65\r\n", "too large"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nhello\r\n", "not chunked"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n", "not chunked"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 2000, "not chunked"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi!!", "not chunked|$"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"x" * 70_000, "not chunked"),
    ],
)
def test_what_cannot_be_used(raw: bytes, said: str) -> None:
    one = reading(100)
    with pytest.raises(Refused, match=said):
        one.feed(raw)
        one.end()
