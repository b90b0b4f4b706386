"""How does a job look to a reader? Pages, counts and single jobs as flat records, made for speed.

What a job asks for is read once per shape; its command and environment pass through as JSON text, unparsed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw

from cloudsched import clock
from cloudsched.domain import moves
from cloudsched.domain.entities import Job
from cloudsched.domain.scheduling.model import Require
from cloudsched.errors import Invalid, NotFound
from cloudsched.services import jobs as job_service
from cloudsched.store import events, listings, shapes
from cloudsched.store.db import Database, Row, current
from cloudsched.store.jobs import count, data_names

STATES = moves.JOB_STATES
_NULL, _LIST, _OBJECT = Raw(b"null"), Raw(b"[]"), Raw(b"{}")
_PLACES_KEPT = 20_000


class JobView(msgspec.Struct):
    """A job as readers see it; field order is the order in the answer. Times are RFC 3339."""

    id: int
    key: str
    batch_id: int
    index: int
    source: str
    state: str
    goal: str
    attempt: int
    node: str | None
    node_id: int | None
    cloud: str | None
    name: str
    user: str
    org: str
    kind: str
    payload: Raw
    command: Raw
    env: Raw
    stdin: Raw
    input_files: Raw
    output_files: Raw
    gpus: int
    vm_type: str
    cores: int
    memory_mb: int
    storage_gb: int
    network: str
    high_priority: int
    targets: Raw
    image: Raw
    instance_type: Raw
    keep_alive_s: int | None
    vmtype_limit: int
    job_per_core: bool
    maximum_price: float
    security_groups: Raw
    require: Raw
    priority: int
    time_limit_s: float | None
    max_retries: int
    retries: int
    backoff_s: float
    hold: bool
    after_ok: list[int]
    after_any: list[int]
    depends_fail: str
    array: None
    batch: str
    attributes: Raw
    retry_of: int | None
    submitted_at: str | None
    queued_at: str | None
    started_at: str | None
    ended_at: str | None
    not_before: str | None
    exit_code: int | None
    signal: int | None
    reason: str | None
    ran_s: float | None
    cpu_s: float | None
    max_rss_mb: int | None
    result: Raw
    output_size: int
    error_size: int
    output_truncated: bool
    error_truncated: bool
    placed: bool


class _SpecView(msgspec.Struct):
    payload: Raw = _NULL
    command: Raw = _LIST
    env: Raw = _OBJECT
    stdin: Raw = _NULL
    input_files: Raw = _LIST
    output_files: Raw = _LIST
    gpus: int = 0


_spec = msgspec.json.Decoder(_SpecView).decode
_encode = msgspec.json.Encoder().encode


def page(*, states: Sequence[str] = (), after: int | None = None, newest_first: bool = True, limit: int = 100,
         node: str = "", **equal: Any) -> list[JobView]:
    """Jobs under filters, keyset-paged by id. Raises Invalid for an unknown state."""
    check_states(states)
    node_id = _node(node)
    if node and node_id is None:
        return []
    rows = listings.job_rows(states=states, after=after, newest_first=newest_first, limit=limit, node=node_id,
                             **equal)
    return views(rows)


def version() -> tuple[str, int]:
    """Changes with every change of a state anywhere: what was read at one version is good until the next."""
    return current().url, events.last_id()


def counts(*, states: Sequence[str] = (), node: str = "", **equal: Any) -> dict[str, int]:
    """Number of jobs in every state (0 included) under the same filters."""
    check_states(states)
    node_id = _node(node)
    found = {} if node and node_id is None else count(states=states, node=node_id, **equal)
    return {state: found.get(state, 0) for state in (states or STATES)}


def one(reference: int | str) -> JobView:
    """One job by number or key. Raises NotFound."""
    row = listings.job_row(job_service.find(reference).id)
    if row is None:
        raise NotFound(f"there is no job {reference}")
    return views([row])[0]


def of(job: Job) -> JobView:
    """The view of a job just read or changed."""
    return one(job.id)


def output_files(job: Job, attempt: int | None = None) -> list[dict[str, Any]]:
    """[{name, size, attempt}] of the files kept from the job's latest (or the given) attempt."""
    wanted = job.attempt if attempt is None else attempt
    return [{"name": name[4:], "size": size, "attempt": wanted} for number, name, size in data_names(job.id)
            if number == wanted and name.startswith("out/")]


def check_states(states: Sequence[str]) -> None:
    """Raise Invalid unless all are states of a job."""
    for state in states:
        if state not in STATES:
            raise Invalid.at("state", f"{state!r} is no job state", ", ".join(STATES))


def views(rows: Sequence[Row]) -> list[JobView]:
    """Rows of store.listings.JOB_COLUMNS as records."""
    places = _places([row[14] for row in rows if row[14] is not None])
    sizes, cut = listings.output_sizes([row[0] for row in rows if row[15]])
    waits = _waits([row[0] for row in rows if row[20]])
    return [_view(row, places, sizes, cut, waits) for row in rows]


def _view(row: Row, places: dict[int, tuple[str, str]], sizes: dict[tuple[int, int, str], int],
          cut: set[tuple[int, int, str]], waits: dict[int, tuple[list[int], list[int]]]) -> JobView:
    (number, source, key, batch_id, proc, name, user, org, kind, shape_id, state, goal, priority, placed, node_id,
     attempt, retries, max_retries, backoff_s, time_limit_s, needs, depends_fail, not_before, submitted_at, queued_at,
     started_at, ended_at, exit_code, signal, reason, ran_s, cpu_s, max_rss_mb, result, spec, attributes, retry_of,
     _, _, label) = row
    if node_id is None or state in moves.JOB_WAITING:
        node, cloud, node_id = None, None, None
    else:
        node, cloud = places.get(node_id, (None, None))
    asked = _spec(spec or "{}")
    ok, either = waits[number] if needs else ((), ())
    # The checker does not know how long the shape's part is.
    return JobView(  # type: ignore[call-arg]
        number, key, batch_id, proc, source, state, goal, attempt, node, node_id, cloud, name, user, org, kind,
        asked.payload, asked.command, asked.env, asked.stdin, asked.input_files, asked.output_files, asked.gpus,
        *_shape(shape_id), priority, time_limit_s, max_retries, retries, backoff_s, state == "held", ok, either, depends_fail,
        None, label, _OBJECT if attributes == "{}" else Raw(attributes.encode()), retry_of,
        rfc3339(submitted_at), rfc3339(queued_at), rfc3339(started_at), rfc3339(ended_at), rfc3339(not_before),
        exit_code, signal, reason, ran_s, cpu_s, max_rss_mb, _NULL if result is None else Raw(result.encode()),
        sizes.get((number, attempt, "stdout"), 0) if attempt else 0,
        sizes.get((number, attempt, "stderr"), 0) if attempt else 0,
        (number, attempt, "stdout") in cut, (number, attempt, "stderr") in cut, bool(placed))


@lru_cache(maxsize=8192)
def _second(whole: int) -> str:
    return (clock.rfc3339(whole) or "")[:20]


def rfc3339(at: float | None) -> str | None:
    """`clock.rfc3339`, several times as fast for times that lie close together."""
    if at is None:
        return None
    whole = int(at)
    return f"{_second(whole)}{min(int((at - whole) * 1e6 + 0.5) // 1000, 999):03d}Z"


def _waits(ids: Sequence[int]) -> dict[int, tuple[list[int], list[int]]]:
    found: dict[int, tuple[list[int], list[int]]] = {number: ([], []) for number in ids}
    for number, on, kind in listings.open_needs(ids):
        if kind in ("ok", "any"):
            found[number][kind == "any"].append(on)
    return found


class _Kept:
    """What never changes once it is read: shapes as answer members, and the names of nodes."""

    def __init__(self, database: Database | None) -> None:
        self.database = database
        self.shapes: dict[int, tuple[Any, ...]] = {}
        self.places: dict[int, tuple[str, str]] = {}


_kept = _Kept(None)


def _fresh() -> _Kept:
    if _kept.database is not current():
        _kept.__init__(current())  # type: ignore[misc]
    return _kept


def _shape(number: int) -> tuple[Any, ...]:
    kept = _fresh().shapes
    if number not in kept:
        shape = shapes.get(number)
        kept[number] = (
            shape.vm_type, shape.cores, shape.memory_mb, shape.storage_gb, shape.network, shape.high_priority,
            Raw(_encode(list(shape.targets))), Raw(_encode(_choice(shape.images))),
            Raw(_encode(_choice(shape.instance_types))), shape.keep_alive_s, shape.type_limit, shape.job_per_core,
            shape.maximum_price, Raw(_encode(list(shape.security_groups))), _require(shape.require))
    return kept[number]


def _require(asked: Require | None) -> Raw:
    """What it asks of a machine beside room, as it was asked for."""
    if asked is None:
        return _NULL
    found = {name: value for name, value in asdict(asked).items() if value and name != "kind"}
    return Raw(_encode({**found, "tags": sorted(asked.tags)} if asked.tags else found))


def _choice(by_cloud: Any) -> Any:
    """As it was asked for: a plain value, one per cloud, or nothing."""
    if not by_cloud:
        return None
    return by_cloud["default"] if list(by_cloud) == ["default"] else dict(by_cloud)


def _places(ids: Sequence[int]) -> dict[int, tuple[str, str]]:
    kept = _fresh().places
    missing = set(ids) - kept.keys()
    if missing:
        if len(kept) > _PLACES_KEPT:
            kept.clear()
            missing = set(ids)
        kept.update(listings.node_places(missing))
    return kept


def _node(name: str) -> int | None:
    if name.isascii() and name.isdigit() and len(name) < 19:
        return int(name)
    return listings.node_id_of(name) if name else None
