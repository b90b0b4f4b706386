"""How do events get to webhooks? Read on from where each hook is, write down what it is to be sent, post, note how it went.

What one hook is sent goes out in order, one after the other. A receiver that is away (no answer, 5xx, 408, 425, 429) makes all
of its deliveries wait; one that refuses a single event (another answer) gets the next ones meanwhile. Each attempt waits
longer than the one before; after `[dcluster] webhook_attempts` the delivery is given up, with an event. A delivery may come
twice when a process dies between the answer and its note: `X-Cloudsched-Delivery` tells.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable

from cloudsched import __version__, clock
from cloudsched.sealed import Sealer, SealError
from cloudsched.services.notices import webhooks
from cloudsched.services.notices.webhooks_post import Posted, post
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import webhooks as store
from cloudsched.store.db import Tx, write
from cloudsched.store.webhooks import DEAD, DELIVERED, PENDING, Delivery, Hook

log = logging.getLogger(__name__)
PAGE = 500
WAITING_MOST = 1000
BATCH = 50
# A slow receiver gets no more than this at a time: others use the same threads.
TURN_S = 20.0
# Without anything to send a hook's position is written down only so often: it saves a write for each look.
LAG_MOST = 5000
PAUSE_FIRST_S, PAUSE_MOST_S = 2.0, 3600.0
_AWAY = frozenset({408, 425, 429})
Post = Callable[..., Posted]


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """The value of X-Cloudsched-Signature: `v1=` and the hex HMAC-SHA256 of `TIMESTAMP.BODY` under the secret."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def pause_s(failures: int) -> float:
    """How long after the given number of failures in a row."""
    return float(min(PAUSE_MOST_S, PAUSE_FIRST_S * 2 ** min(failures - 1, 30)))


class Sender:
    """What one process knows while it sends. `collect` reads the events; `deliver` posts, on a thread of its own."""

    def __init__(self, settings: Settings, *, holder: str, posting: Post = post) -> None:
        self.settings, self.holder, self._post = settings, holder, posting
        self._looked: dict[int, int] = {}

    def collect(self) -> list[Hook]:
        """Write down what hooks are to be sent; returns the hooks that have something to be sent now."""
        at = clock.now()
        found = store.ready(at)
        for hook in found:
            while self._collect_one(hook):
                pass
        return [hook for hook in found if store.due(hook.id, at, limit=1)]

    def _collect_one(self, hook: Hook) -> bool:
        """One page of events; True when there may be more."""
        after = max(hook.position, self._looked.get(hook.id, 0))
        page = events.since(after, limit=PAGE)
        if not page or store.pending(hook.id) >= WAITING_MOST:
            return False
        rows = [(event.id, event.kind, webhooks.body_of(event)) for event in page if webhooks.wants(hook, event)]
        first = events.first_id()
        if first > after + 1:
            rows.insert(0, _gap(after + 1, first - 1))
        self._looked[hook.id] = last = page[-1].id
        if rows or last - hook.position >= LAG_MOST:
            write(lambda tx: store.enqueue(tx, hook.id, rows, position=last, at=clock.now()))
        return len(page) == PAGE

    def deliver(self, hook: Hook, *, stopping: Callable[[], bool] = lambda: False) -> int:
        """Send a hook what is due, in order, until something keeps its receiver away; how many were delivered."""
        lease_s = 2 * self.settings.dcluster.webhook_timeout_s + 30
        if not write(lambda tx: store.claim(tx, hook.id, holder=self.holder, at=clock.now(), lease_s=lease_s)):
            return 0
        try:
            return self._deliver(hook, lease_s, stopping)
        finally:
            write(lambda tx: store.unclaim(tx, hook.id, holder=self.holder))

    def _deliver(self, hook: Hook, lease_s: float, stopping: Callable[[], bool]) -> int:
        def ours() -> bool:
            return write(lambda tx: store.renew(tx, hook.id, holder=self.holder, at=clock.now(), lease_s=lease_s))

        sent, fresh, until = 0, store.get(hook.id), time.monotonic() + TURN_S
        if fresh is None:
            return 0
        for delivery in store.due(fresh.id, clock.now(), limit=BATCH):
            if stopping() or time.monotonic() > until or not ours():
                break
            posted = self._attempt(fresh, delivery)
            fresh = write(lambda tx, one=delivery, how=posted, at_hook=fresh: self._settle(tx, at_hook, one, how))  # type: ignore[misc]
            if fresh is None or fresh.failures:
                break
            sent += posted.status is not None and 200 <= posted.status < 300
        return sent

    def _attempt(self, hook: Hook, delivery: Delivery) -> Posted:
        conf = self.settings.dcluster
        try:
            found = json.loads(Sealer.load(self.settings.state.dir).open(hook.sealed))
        except SealError as error:
            return Posted(None, error.message)
        body, timestamp = delivery.body.encode(), str(int(clock.now()))
        headers = {
            "Content-Type": "application/json", "User-Agent": f"cloudsched/{__version__}",
            "X-Cloudsched-Event": delivery.kind, "X-Cloudsched-Event-Id": str(delivery.event_id),
            "X-Cloudsched-Delivery": str(delivery.id), "X-Cloudsched-Attempt": str(delivery.attempts + 1),
            "X-Cloudsched-Timestamp": timestamp, "X-Cloudsched-Signature": sign(found["secret"], timestamp, body)}
        return self._post(found["url"], body, headers, timeout_s=conf.webhook_timeout_s, private=conf.webhook_private,
                          ca_file=conf.webhook_ca_file)

    def _settle(self, tx: Tx, hook: Hook, delivery: Delivery, posted: Posted) -> Hook | None:
        """Note an attempt; the hook as it is now."""
        at = clock.now()
        facts = {"status": posted.status, "error": posted.error[:300], "took_s": round(posted.took_s, 3)}
        if posted.status is not None and 200 <= posted.status < 300:
            store.tried(tx, delivery, state=DELIVERED, at=at, **facts)
            store.change(tx, hook.id, failures=0, not_before=0, last_ok_at=at, last_error="")
            return store.get(hook.id)
        away = posted.status is None or posted.status >= 500 or posted.status in _AWAY
        dead = delivery.attempts + 1 >= self.settings.dcluster.webhook_attempts
        again = at + max(pause_s(hook.failures + 1 if away else delivery.attempts + 1), min(posted.retry_after_s, PAUSE_MOST_S))
        if store.tried(tx, delivery, state=DEAD if dead else PENDING, at=at, not_before=0 if away else again, **facts) and dead:
            events.append(tx, "webhook.dead", (store.NOUN, hook.id), at=at, name=hook.name, delivery=delivery.id,
                          event=delivery.event_id, attempts=delivery.attempts + 1, error=posted.error[:200])
        store.change(tx, hook.id, failures=hook.failures + 1 if away else 0, not_before=again if away else 0,
                     last_error=posted.error[:300])
        return store.get(hook.id)


def forget(before: float) -> int:
    """Remove what ended before from the logs; returns how many."""
    return write(lambda tx: store.forget(tx, before))


def _gap(first: int, last: int) -> tuple[int, str, str]:
    """Retention was faster than the receiver: it is told what it will never get."""
    body = {"id": last, "kind": "gap", "data": {"first": first, "last": last}}
    return last, "gap", json.dumps(body)
