"""Counters that are exact whoever asks, and places of streams that a killed process gives back."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from cloudsched import clock
from cloudsched.clock import ManualClock
from cloudsched.services import ratelimits
from cloudsched.store.db import Database


@pytest.fixture(autouse=True)
def stepped(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    time = ManualClock()
    monkeypatch.setattr(clock, "now", time.now)
    ratelimits.reset()
    return time


def at_once(database: Database, count: int, work: object) -> list[object]:
    together, found = threading.Barrier(count), []

    def run() -> None:
        together.wait(30)
        try:
            found.append(work())  # type: ignore[operator]
        finally:
            database.close_thread()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_a_window_begins_with_its_first_request(database: Database, stepped: ManualClock) -> None:
    began = stepped.now()
    for left in (1, 0):
        found = ratelimits.count("key", "read", limit=2, window_s=900)
        assert (found.allowed, found.remaining, found.reset_at) == (True, left, began + 900)
        stepped.advance(100)
    for _ in range(3):
        found = ratelimits.count("key", "read", limit=2, window_s=900)
        assert (found.allowed, found.remaining, found.reset_at) == (False, 0, began + 900)
    assert database.read().value("SELECT n FROM rate_window") == 3  # refused ones are not written again and again
    assert ratelimits.count("key", "write", limit=2, window_s=900).allowed
    assert ratelimits.count("other", "read", limit=2, window_s=900).allowed
    stepped.advance(700)
    assert ratelimits.count("key", "read", limit=2, window_s=900).reset_at == stepped.now() + 900


def test_exactly_so_many_of_many_at_once(database: Database) -> None:
    def ask() -> int:
        ratelimits.reset()  # as another process would
        return sum(ratelimits.count("key", "read", limit=50, window_s=900).allowed for _ in range(20))

    assert sum(at_once(database, 5, ask)) == 50  # type: ignore[arg-type]


def test_places_for_streams(database: Database, stepped: ManualClock) -> None:
    found = at_once(database, 8, lambda: ratelimits.take_stream("key", limit=5))
    places = [place for place in found if place is not None]
    assert Counter(place is None for place in found) == {False: 5, True: 3}
    assert len({place.id for place in places}) == 5  # type: ignore[attr-defined]
    assert ratelimits.take_stream("other", limit=5) is not None
    ratelimits.leave_stream(places[0].id)  # type: ignore[attr-defined]
    again = ratelimits.take_stream("key", limit=5)
    assert again is not None and again.open == 5 and ratelimits.take_stream("key", limit=5) is None
    stepped.advance(50)
    ratelimits.keep_streams([again.id])
    stepped.advance(50)  # the others were not renewed: their process is gone
    last = ratelimits.take_stream("key", limit=5)
    assert last is not None and last.open == 2
