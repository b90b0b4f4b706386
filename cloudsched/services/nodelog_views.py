"""What have nodes and jobs written? Collected records, a page at a time or as they come, also of machines that are gone."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.errors import NotFound
from cloudsched.services import jobs as job_service
from cloudsched.services import nodelogs
from cloudsched.services import nodes as node_service
from cloudsched.store import events, listings, logfiles
from cloudsched.store.logfiles import Entry

FIRST_LOOK_S, MOST_LOOK_S = 0.1, 1.0
ALIVE_S = 10.0  # an empty line now and then: who has gone is noticed
LATE_S = 5.0  # what an ended job has written may come so late
PLACES_MOST = 127
_PLACE_BITS = 52
CLAIMS_MOST = 5000
Found = tuple[int, dict[str, Any]]


class Wanted(NamedTuple):
    """Which records. `since`: epoch seconds when they came."""

    job: int | None = None
    attempt: int | None = None
    stream: str = ""
    since: float = 0.0

    def __call__(self, raw: bytes) -> bool:
        if self.job is None and self.attempt is None and not self.stream:
            return True
        try:
            record = logfiles.parse(raw)
        except (ValueError, RecursionError):
            return False
        return (self.job in (None, record.job) and self.attempt in (None, record.attempt)
                and self.stream in ("", record.stream))


class Place(NamedTuple):
    """One node's collected logs."""

    folder: Path
    node: str
    cloud: str


def of_node(reference: str, wanted: Wanted, *, after: int = 0, tail: int | None = None, limit: int = 100) -> tuple[
        list[dict[str, Any]], int]:
    """(records of a node in the order in which they came, position behind the last). Raises NotFound."""
    found, after = _page([place_of(reference)], wanted, after=after, tail=tail, limit=limit)
    return [record for _, record in found], after


def of_job(reference: str, wanted: Wanted, *, after: int = 0, tail: int | None = None, limit: int = 100) -> tuple[
        list[dict[str, Any]], int]:
    """(records of a job, one node it was on after the other, position behind the last). Raises NotFound."""
    job = job_service.find(reference)
    found, after = _page(_places(job.id, job.node_id), wanted._replace(job=job.id), after=after, tail=tail, limit=limit)
    return [record for _, record in found], after


def follow_node(reference: str, wanted: Wanted, *, after: int = 0, tail: int | None = None,
                gone: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, dict[str, Any]] | None]:
    """(position behind it, record) as they come, until whoever asks has gone; None now and then when there are none.

    Raises NotFound.
    """
    place = place_of(reference)
    return _follow(lambda: [place], wanted, after=after, tail=tail, ended=gone)


def follow_job(reference: str, wanted: Wanted, *, after: int = 0, tail: int | None = None,
               gone: Callable[[], bool] = lambda: False) -> Iterator[tuple[int, dict[str, Any]] | None]:
    """The same of a job, until it has ended and its last words had time to come. Raises NotFound."""
    number = job_service.find(reference).id

    def ended() -> bool:
        job = job_service.find(number)
        return gone() or (job.state in moves.JOB_FINAL and clock.now() - (job.ended_at or 0.0) > LATE_S)

    def places() -> list[Place]:
        job = job_service.find(number)
        return _places(job.id, job.node_id)

    return _follow(places, wanted._replace(job=number), after=after, tail=tail, ended=ended)


def place_of(reference: str) -> Place:
    """The logs of a node, by number or name; also of one that the database has forgotten. Raises NotFound."""
    root = nodelogs.root()
    try:
        found = node_service.one(reference)
        return Place(logfiles.folder_of(root, found["cloud"], found["name"]), found["name"], found["cloud"])
    except NotFound:
        for folder in logfiles.find(root, reference):
            facts = logfiles.read_note(folder, "node.json")
            if isinstance(facts, dict):
                return Place(folder, str(facts.get("node")), str(facts.get("cloud")))
        raise


def _places(job: int, node: int | None) -> list[Place]:
    """The nodes that a job was on, in order, as far as they are known."""
    numbers = [json.loads(event.data).get("node") for event in
               events.since(0, limit=CLAIMS_MOST, subject_kind="job", subject_id=job, kind="job.claim")]
    ordered = list(dict.fromkeys(number for number in (*numbers, node) if number))[-PLACES_MOST:]
    known, root = listings.node_places(ordered), nodelogs.root()
    return [Place(logfiles.folder_of(root, known[number][1], known[number][0]), *known[number])
            for number in ordered if number in known]


def _page(places: Sequence[Place], wanted: Wanted, *, after: int, tail: int | None, limit: int) -> tuple[list[Found], int]:
    if tail is not None and not after:
        kept: deque[Found] = deque(maxlen=tail)
        items, after = _read(places, wanted, after=0, limit=1000)
        while items:
            kept.extend(items)
            items, after = _read(places, wanted, after=after, limit=1000)
        return list(kept), after
    return _read(places, wanted, after=after, limit=limit)


def _read(places: Sequence[Place], wanted: Wanted, *, after: int, limit: int) -> tuple[list[Found], int]:
    items: list[Found] = []
    first = after >> _PLACE_BITS
    inner = after & ((1 << _PLACE_BITS) - 1)
    for index in range(first, len(places)):
        place = places[index]
        start = inner if index == first else 0
        found, inner = logfiles.read(place.folder, start, wanted=wanted.__call__, limit=limit - len(items), since=wanted.since)
        place_bits = index << _PLACE_BITS
        items += [(place_bits + entry.after, _view(entry, place)) for entry in found]
        after = place_bits + inner
        if len(items) >= limit:
            break
    return items, after


def _view(entry: Entry, place: Place) -> dict[str, Any]:
    """A record as readers see it: whose it is, is what we know, not what it says."""
    try:
        said = msgspec.json.decode(entry.raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        said = {}
    record = said if isinstance(said, dict) else {}
    return {**record, "node": place.node, "cloud": place.cloud, "received_at": clock.rfc3339(entry.at)}


def _follow(places: Callable[[], list[Place]], wanted: Wanted, *, after: int, tail: int | None,
            ended: Callable[[], bool]) -> Iterator[tuple[int, dict[str, Any]] | None]:
    items, after = _page(places(), wanted, after=after, tail=tail, limit=1000)
    pause_s, said_at = FIRST_LOOK_S, time.monotonic()
    while True:
        yield from items
        if items:
            pause_s, said_at = FIRST_LOOK_S, time.monotonic()
        elif ended():
            return
        else:
            time.sleep(pause_s)
            pause_s = min(MOST_LOOK_S, pause_s * 1.5)
            if time.monotonic() - said_at > ALIVE_S:
                said_at = time.monotonic()
                yield None
        items, after = _read(places(), wanted, after=after, limit=1000)
