"""The event stream: order, resume, gaps, a bounded number; and following output while a job runs."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudsched.client.sse import EventReader
from cloudsched.services import watch
from cloudsched.store.db import write

SSE = {"Accept": "text/event-stream"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.01)


def events_of(answer: Any) -> Iterator[Any]:
    """Events of an open stream, as our own client reads them."""
    lines = (line + b"\n" for piece in answer.response for line in piece.split(b"\n")[:-1])
    return EventReader().read(lines)


def test_list_with_filters(api: Any) -> None:
    job = api.submit()
    api.post(f"/jobs/{job}/hold")
    api.node()
    kinds = [one["kind"] for one in api.get("/events").json["items"]]
    assert kinds[:2] == ["job.submit", "job.hold"]
    assert [one["id"] for one in api.get("/events?since=1&limit=1").json["items"]] == [2]
    assert {one["subject_kind"] for one in api.get("/events?kind=job.").json["items"]} == {"job"}
    assert api.get(f"/events?subject_kind=job&subject_id={job}&kind=job.hold").json["items"][0]["actor"] == "local"
    first = api.get("/events?limit=1").json
    assert api.get(f"/events?limit=1&cursor={first['next']}").json["items"][0]["id"] == 2


def test_stream_and_resume(api: Any) -> None:
    jobs = [api.submit() for _ in range(3)]
    answer = api.get("/events?since=0", headers=SSE, buffered=False)
    assert answer.content_type.startswith("text/event-stream")
    stream = events_of(answer)
    assert [next(stream).data["subject_id"] for _ in jobs] == jobs
    late = threading.Timer(0.02, api.submit)
    late.start()
    assert next(stream).data["subject_id"] == jobs[-1] + 1
    late.join()
    answer.close()
    again = api.get("/events", headers={**SSE, "Last-Event-ID": "2"}, buffered=False)
    event = next(events_of(again))
    assert (event.id, event.kind, event.data["kind"]) == ("3", "message", "job.submit")
    again.close()


def test_without_since_it_starts_now(api: Any) -> None:
    api.submit()
    answer = api.get("/events?kind=job.hold", headers=SSE, buffered=False)
    stream = events_of(answer)
    job = api.submit()
    threading.Timer(0.05, lambda: api.post(f"/jobs/{job}/hold")).start()
    assert next(stream).data["kind"] == "job.hold"
    answer.close()


def test_a_stream_that_broke_before_its_first_event_is_resumed_where_it_began(api: Any) -> None:
    api.submit()
    answer = api.get("/events", headers=SSE, buffered=False)
    reader, head = EventReader(), next(iter(answer.response))
    assert list(reader.read(line + b"\n" for line in head.split(b"\n")[:-1])) == [] and reader.last_id == "1"
    answer.close()
    job = api.submit()
    again = api.get("/events", headers={**SSE, "Last-Event-ID": reader.last_id}, buffered=False)
    assert next(events_of(again)).data["subject_id"] == job
    again.close()


def test_a_hole_is_told(api: Any) -> None:
    for _ in range(5):
        api.submit()
    write(lambda tx: tx.run("DELETE FROM event WHERE id <= 3"))
    answer = api.get("/events", headers={**SSE, "Last-Event-ID": "1"}, buffered=False)
    stream = events_of(answer)
    gap, event = next(stream), next(stream)
    assert (gap.kind, gap.id, gap.data["data"]) == ("gap", "3", {"from": 2, "to": 3}) and event.id == "4"
    answer.close()
    answer = api.get("/events?since=0", headers=SSE, buffered=False)
    assert next(events_of(answer)).id == "4"  # from the oldest: nothing is missing
    answer.close()


def test_signs_of_life(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "HEARTBEAT_S", 0.0)
    answer = api.get("/events", headers=SSE, buffered=False)
    pieces = iter(answer.response)
    assert next(pieces).startswith(b"retry:") and next(pieces).startswith(b":")
    answer.close()


def test_streams_are_bounded(make_api: Callable[..., Any]) -> None:
    api = make_api(**{"web.threads": 8, "web.long_poll_waiting_max": 2})
    first = [api.get("/events", headers=SSE, buffered=False) for _ in range(2)]
    refused = api.get("/events", headers=SSE)
    assert refused.status_code == 503 and refused.headers["Retry-After"] and refused.json["streams"] == 2
    assert api.get(f"/jobs/{api.submit()}/output?follow=1").status_code == 503
    for one in first:
        next(iter(one.response))
        one.close()
    again = api.get("/events", headers=SSE, buffered=False)
    assert again.status_code == 200
    again.close()


@pytest.mark.parametrize("value", ["x", "-1", "1.5", "9" * 30])
def test_bad_positions(api: Any, value: str) -> None:
    answer = api.get("/events", headers={**SSE, "Last-Event-ID": value})
    assert answer.status_code == 400 and answer.json["errors"][0]["field"] == "Last-Event-ID"


def test_output_is_followed_over_a_retry_until_the_end(api: Any) -> None:
    job = api.submit(max_retries=1)
    _, bearer = api.node()
    auth = {"Authorization": f"Bearer {bearer}"}

    def say(attempt: int, text: bytes, offset: int = 0) -> None:
        api.post(f"/agent/output?job={job}&attempt={attempt}&offset={offset}", data=text, headers=auth)

    answer = api.get(f"/jobs/{job}/output?follow=1", buffered=False)
    pieces = filter(None, answer.response)
    api.sync(bearer, want=1)
    say(1, b"one")
    assert next(pieces) == b"one"
    say(1, b" two", 3)
    assert next(pieces) == b" two"
    api.sync(bearer, done=[{"id": job, "attempt": 1, "state": "failed", "exit_code": 1}])
    api.sync(bearer, want=1)
    say(2, b"again")
    assert next(pieces) == b"again"
    api.sync(bearer, done=[{"id": job, "attempt": 2, "state": "succeeded", "exit_code": 0, "stdout": "!"}])
    assert list(pieces) == [b"!"]
    assert api.get(f"/jobs/{job}/output?attempt=1").data == b"one two"


def test_a_client_that_went_away_frees_its_thread(api: Any) -> None:
    import socket

    ours, theirs = socket.socketpair()
    answer = api.get("/events", headers=SSE, buffered=False, environ={"gunicorn.socket": ours})
    pieces = iter(answer.response)
    next(pieces)
    theirs.close()
    assert list(pieces) == []
    ours.close()


def test_events_hold_no_secret(api: Any) -> None:
    token = api.post("/nodes/tokens", json={}).json["token"]
    assert token not in json.dumps(api.get("/events?limit=1000").json)
