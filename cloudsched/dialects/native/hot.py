"""How are jobs submitted and listed at speed? `POST /jobs` and `GET /jobs`, parsed and written by msgspec alone.

Both are described with the other routes in `jobs.py`, so that the OpenAPI document has them.
"""

from __future__ import annotations

import hashlib
import time
from typing import Any

import msgspec

from cloudsched.dialects.native import paging, wire
from cloudsched.dialects.native.problems import HttpProblem
from cloudsched.dialects.native.wire import JSON, Answer
from cloudsched.domain import submission
from cloudsched.errors import Invalid
from cloudsched.incoming import Environ, read_body
from cloudsched.services import jobs, listing
from cloudsched.services.caller import Caller

PATH = "/api/v2/jobs"
FILTERS = ("user", "vm_type", "batch", "node", "source", "name")
LIST_QUERY = frozenset({"state", "order", *FILTERS, *paging.PAGED})
IDEMPOTENCY_KEY_MAX = 255
# Members that land in columns of their own, where a database takes no NUL.
_COLUMNS = ("name", "user", "vm_type", "network", "batch")
_encode = msgspec.json.Encoder().encode


def answer(environ: Environ, caller: Caller, max_body: int) -> Answer:
    """The answer to a call of `/api/v2/jobs`. Raises CloudschedError kinds."""
    method = environ["REQUEST_METHOD"]
    if method == "POST":
        return _submit(environ, caller, max_body)
    if method in ("GET", "HEAD"):
        caller.require("viewer")
        return 200, JSON, [_kept_list(environ)]
    raise HttpProblem(405, f"{method} is not possible here", headers=[("Allow", "GET, HEAD, POST")])


def _submit(environ: Environ, caller: Caller, max_body: int) -> Answer:
    caller.require("submitter")
    wire.query(environ, ())
    check_json(environ)
    body = read_body(environ, max_body)
    requests, batch = submission.parse(body)
    if b"\\u0000" in body:
        _check_text(requests, "jobs[{}]." if batch else "")
    given = environ.get("HTTP_IDEMPOTENCY_KEY")
    idempotency = None
    if given is not None:
        idempotency = idempotency_key(given, caller), hashlib.sha256(b"POST jobs\n" + body).hexdigest()
    made = jobs.submit(requests, caller, idempotency=idempotency)
    single = not batch and requests[0].array is None
    headers = [*JSON, ("Location", f"{PATH}/{made.ids[0]}")] if single else JSON
    return 201, headers, [_encode({"id": made.ids[0], "key": made.keys[0]} if single else made)]


# Pages as they were written, good while no event has happened since: {query: (version, until, page)}. The second is for
# what changes without an event (bytes of output so far).
_pages: dict[str, tuple[tuple[str, int], float, bytes]] = {}
PAGE_KEPT_S, PAGES_KEPT, PAGE_KEPT_BYTES = 1.0, 64, 1 << 18


def _kept_list(environ: Environ) -> bytes:
    asked, version, now = environ.get("QUERY_STRING", ""), listing.version(), time.monotonic()
    kept = _pages.get(asked)
    if kept is not None and kept[0] == version and kept[1] > now:
        return kept[2]
    page = _list(environ)
    if len(page) <= PAGE_KEPT_BYTES:
        if len(_pages) >= PAGES_KEPT:
            _pages.clear()
        _pages[asked] = (version, now + PAGE_KEPT_S, page)
    return page


def _list(environ: Environ) -> bytes:
    pairs = wire.query(environ, LIST_QUERY)
    most = paging.limit(pairs)
    order = wire.single(pairs, "order") or "-id"
    if order not in ("id", "-id"):
        raise Invalid.at("order", f"{order[:40]!r} is no order", "id, -id")
    chosen = filters(pairs)
    found = listing.page(after=paging.position(pairs), newest_first=order == "-id", limit=most, **chosen)
    next_page = paging.following(pairs, found, most, found[-1].id if found else None)
    return _encode({"items": found, "next": next_page})


def filters(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """The filters of job lists and counts as `services.listing` takes them."""
    chosen: dict[str, Any] = {name: value for name in FILTERS if (value := wire.single(pairs, name))}
    chosen["states"] = wire.words(pairs, "state")
    return chosen


def check_json(environ: Environ) -> None:
    """Raise 415 for a body that says it is something else than JSON."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        raise HttpProblem(415, f"the body is {kind[:100]}; this takes application/json",
                          headers=[("Accept", "application/json")])


def idempotency_key(given: str, caller: Caller) -> str:
    """The key as it is kept: every caller has keys of its own. Raises Invalid."""
    if not 0 < len(given) <= IDEMPOTENCY_KEY_MAX or not given.isascii() or not given.isprintable():
        raise Invalid.at("Idempotency-Key", "cannot be used", f"1 to {IDEMPOTENCY_KEY_MAX} printable ASCII characters")
    return f"{caller.key_id or ''}:{caller.name}:{given}"


def _check_text(requests: list[submission.JobRequest], prefix: str) -> None:
    for index, request in enumerate(requests):
        files = [item.name for item in request.input_files]
        texts = {name: [getattr(request, name)] for name in _COLUMNS}
        texts |= {"input_files": files, "after_ok": request.after_ok, "after_any": request.after_any}
        for name, values in texts.items():
            if any(isinstance(value, str) and "\0" in value for value in values):
                raise Invalid.at(prefix.format(index) + name, "holds a NUL character")
