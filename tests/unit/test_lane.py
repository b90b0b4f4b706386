"""Which requests are taken out of the server's hands, what does the application see of them, and what goes back?"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from cloudsched.app.lane import BODY_MOST, LONG_QUEUE, Lane
from cloudsched.incoming import Environ, plain_fields

HEAD = (b"POST /api/v1/tasks HTTP/1.1\r\nHost: here:8081\r\nX-API-Key: k\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n")


class Played:
    """An application that keeps what it was asked, and a lane of it."""

    def __init__(self) -> None:
        self.seen: queue.SimpleQueue[Environ] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[tuple[bytes, bool]] = queue.SimpleQueue()
        self.fails = False
        self.lane = Lane(self.application, "8081", lambda path, body: body != b"no")

    def application(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        if self.fails:
            raise RuntimeError("a mistake")
        self.seen.put({**environ, "body": environ["wsgi.input"].read()})
        start("201 Created", [("Content-Type", "text/plain"), ("X-Request-Id", "7")])
        return [b"ma", b"de"]

    def ask(self, raw: bytes) -> int | None:
        return self.lane(raw, "10.0.0.9", lambda raw, keep: self.answers.put((raw, keep)))


@pytest.fixture
def played() -> Played:
    return Played()


def test_what_the_application_sees_and_what_goes_back(played: Played) -> None:
    assert played.ask(HEAD + b"{}POST /next") == len(HEAD) + 2
    answer, keep = played.answers.get(timeout=30)
    assert keep and answer.startswith(b"HTTP/1.1 201 Created\r\nDate: ")
    assert answer.endswith(b"GMT\r\nConnection: keep-alive\r\nContent-Type: text/plain\r\nX-Request-Id: 7\r\n"
                           b"Content-Length: 4\r\n\r\nmade")
    seen = played.seen.get(timeout=30)
    assert seen["body"] == b"{}" and seen["REMOTE_ADDR"] == "10.0.0.9"
    assert (seen["REQUEST_METHOD"], seen["RAW_URI"], seen["PATH_INFO"], seen["QUERY_STRING"]) == (
        "POST", "/api/v1/tasks", "/api/v1/tasks", "")
    assert (seen["HTTP_HOST"], seen["HTTP_X_API_KEY"], seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"], seen["SERVER_PORT"]) == (
        "here:8081", "k", "application/json", "2", "8081")
    assert "HTTP_CONTENT_TYPE" not in seen and "HTTP_CONTENT_LENGTH" not in seen


def test_heads_are_known_again_without_what_came_with_them(played: Played) -> None:
    for body in (b"{}", b"[]"):
        assert played.ask(HEAD + body) == len(HEAD) + 2
        played.answers.get(timeout=30)
        assert played.seen.get(timeout=30)["body"] == body


def test_a_body_that_is_on_its_way_is_waited_for(played: Played) -> None:
    assert played.ask(HEAD) == -(len(HEAD) + 2)
    assert played.ask(HEAD + b"{") == -(len(HEAD) + 2)
    assert played.ask(HEAD[:-2]) is None  # not even a head
    assert played.seen.empty()


LEFT_TO_THE_SERVER = [
    (b"POST", b"GET"), (b"POST", b"POSTER"), (b"/api/v1/tasks", b"/api/v1/tasks?x=1"), (b"/api/v1/tasks", b"/api/v1/%74asks"),
    (b"/api/v1/tasks", b"http://here/api/v1/tasks"), (b"HTTP/1.1", b"HTTP/1.0"), (b"Host: here:8081\r\n", b""),
    (b"Host: here:8081", b"Host: here\r\nhost: there"), (b"X-API-Key", b"X_API_Key"), (b"X-API-Key: k", b" folded"),
    (b"X-API-Key: k", b"Transfer-Encoding: chunked"), (b"X-API-Key: k", b"Expect: 100-continue"),
    (b"X-API-Key: k", b"Connection: close"), (b"X-API-Key: k", b"Content-Encoding: gzip"), (b"X-API-Key: k", b"A: \xe9"),
    (b"X-API-Key: k", b"A: " + b"x" * 3000), (b"Length: 2", b"Length: +2"), (b"Length: 2", b"Length: -2"),
    (b"Length: 2", b"Length: 2, 2"), (b"Length: 2", b"Length: %d" % (BODY_MOST + 1)), (b"Content-Length: 2\r\n", b""),
    (b"\r\nX-API", b"\nX-API"),
]


@pytest.mark.parametrize(("usual", "unusual"), LEFT_TO_THE_SERVER)
def test_whatever_is_unusual_is_left_to_the_server(played: Played, usual: bytes, unusual: bytes) -> None:
    assert usual in HEAD
    assert played.ask(HEAD.replace(usual, unusual) + b"{}") is None
    assert played.seen.empty()


def test_what_the_application_does_not_call_short_is_left_too(played: Played) -> None:
    assert played.ask(HEAD + b"no") is None


def test_a_long_queue_takes_no_more(played: Played) -> None:
    for _ in range(LONG_QUEUE):
        played.lane._queue.put(None)  # type: ignore[arg-type]
    assert played.ask(HEAD + b"{}") is None


def test_somebody_else_is_asked_first(played: Played) -> None:
    lane = Lane(played.application, "8081", lambda *_: True, before=lambda raw, address, answer: 3 if raw == b"own" else None)
    assert lane(b"own", "10.0.0.9", lambda raw, keep: None) == 3
    assert lane(HEAD, "10.0.0.9", lambda raw, keep: None) == -(len(HEAD) + 2)


def test_a_mistake_is_500_and_the_lane_goes_on(played: Played, caplog: pytest.LogCaptureFixture) -> None:
    played.fails = True
    played.ask(HEAD + b"{}")
    answer, keep = played.answers.get(timeout=30)
    assert answer.startswith(b"HTTP/1.1 500 ") and not keep
    assert "a mistake" in caplog.text
    played.fails = False
    played.ask(HEAD + b"{}")
    assert played.answers.get(timeout=30)[0].startswith(b"HTTP/1.1 201 ")


def test_fields_are_read_in_a_line_of_time() -> None:
    """Many blanks before what is refused: nothing is tried in every way (that took hours for a head)."""
    assert plain_fields(b"Host: here\r\nA:" + b" " * 100_000 + b"\xe9") is None
    assert plain_fields(b"Host: here\r\nA:" + b" \t" * 50_000 + b"b\tc") is None
    assert plain_fields(b"Host: here\r\nA: \t b c\t ") == {b"host": b"here", b"a": b"b c"}


def test_only_common_heads_are_kept(played: Played) -> None:
    for number in range(20):
        assert played.ask(HEAD.replace(b"X-API-Key: k", b"X-API-Key: " + b"k" * (600 + number)) + b"no") is None
        assert played.ask(HEAD.replace(b"X-API-Key: k", b"Expect: %d" % number) + b"{}") is None
    assert len(played.lane._heads) == 0
    played.ask(HEAD + b"{}")
    assert len(played.lane._heads) == 1


def test_what_an_answer_holds_is_let_go(played: Played) -> None:
    closed = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(True)

    def application(environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        start("200 OK", [])
        return Body([b"x"])

    played.lane._application = application
    played.ask(HEAD + b"{}")
    assert played.answers.get(timeout=30)[0].endswith(b"\r\n\r\nx") and closed
