"""What was answered to this POST before? The same Idempotency-Key again gets the same answer, for 24 h."""

from __future__ import annotations

from collections.abc import Callable

from cloudsched import clock
from cloudsched.errors import Conflict
from cloudsched.sealed import Sealer, is_sealed
from cloudsched.store import answers
from cloudsched.store.db import write

ABANDONED_S = 120.0
Answer = tuple[int, str]


def once(key: str, digest: str, work: Callable[[], Answer], *, state_dir: str, secret: bool = False) -> Answer:
    """(status, body) of `work()`, done once for this key; errors are not remembered, so they can be mended and retried.

    `secret`: the body holds a secret and is kept sealed. Raises Conflict when the key was used for another request, or
    when the first one is still at work; and what `work` raises.
    """
    at = clock.now()
    earlier = write(lambda tx: answers.reserve(tx, key, digest, at=at, abandoned_before=at - ABANDONED_S))
    if earlier is not None:
        return _again(earlier, digest, state_dir)
    try:
        status, body = work()
    except BaseException:
        write(lambda tx: answers.drop(tx, key))
        raise
    if status >= 300:
        write(lambda tx: answers.drop(tx, key))
    else:
        kept = Sealer.load(state_dir).seal(body) if secret else body
        write(lambda tx: answers.keep(tx, key, status=status, body=kept))
    return status, body


def _again(earlier: tuple[str, int | None, str | None], digest: str, state_dir: str) -> Answer:
    known, status, body = earlier
    if known != digest:
        raise Conflict("this Idempotency-Key was used for another request")
    if status is None or body is None:
        raise Conflict("the first request with this Idempotency-Key is still at work")
    return status, Sealer.load(state_dir).open(body) if is_sealed(body) else body
