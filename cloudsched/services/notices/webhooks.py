"""What can be asked of webhooks? Add, list, switch, remove, try; and the log of what they were sent.

A hook gets every event of its kinds after the moment it was added (or after a sequence number), in the order of the event
sequence, at least once; webhooks_send.py sends them. The URL and the secret are kept sealed together: many receivers
put a token into the URL.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from cloudsched import clock
from cloudsched.errors import Conflict, Invalid, NotFound
from cloudsched.sealed import Sealer
from cloudsched.services.caller import Caller
from cloudsched.services.notices import webhooks_post
from cloudsched.settings import Settings
from cloudsched.store import events
from cloudsched.store import webhooks as store
from cloudsched.store.db import Tx, write
from cloudsched.store.webhooks import Delivery, Hook

KINDS_MOST, SECRET_LEAST, SECRET_MOST = 50, 16, 200
STATES = store.STATES
TEST_KIND = "webhook.test"
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?\Z")
_KIND = re.compile(r"(?:\*|[a-z0-9_]+(?:\.[a-z0-9_]*)*\*?)\Z")


def add(name: str, url: str, caller: Caller, *, settings: Settings, kinds: Sequence[str] = (), secret: str = "",
        since: int | None = None) -> dict[str, Any]:
    """A new hook. `kinds`: kinds of events or how they begin (`job.`), none or `*`: all. `secret`: signs deliveries, made
    when none is given. `since`: also the events after this sequence number that are still kept.

    The answer holds the secret, this once. Raises Invalid naming the field, Conflict for a name in use, Forbidden.
    """
    caller.require("admin")
    made_secret = _secret(secret) if secret else clock.new_token(32)
    newest = events.last_id()
    if since is not None and not 0 <= since <= newest:
        raise Invalid.at("since", f"there is no event {since}", f"0 to {newest}")
    url = webhooks_post.check_url(url)
    sealed = Sealer.load(settings.state.dir).seal(json.dumps({"url": url, "secret": made_secret}))
    values = {"name": _name(name), "shown": webhooks_post.masked(url), "sealed": sealed, "kinds": json.dumps(_kinds(kinds)),
              "position": newest if since is None else since}
    number = write(lambda tx: store.insert(tx, values, at=clock.now(), actor=caller.name))
    if number is None:
        raise Conflict(f"there is a webhook {name!r} already")
    return {**one(name), "secret": made_secret}


def listed(caller: Caller) -> list[dict[str, Any]]:
    """All hooks by name; neither secrets nor what may be one in their URLs."""
    caller.require("operator")
    counts = store.counts()
    return [_view(hook, counts.get(hook.id, {})) for hook in store.hooks()]


def one(name: str) -> dict[str, Any]:
    """One hook. Raises NotFound."""
    hook = _find(name)
    return _view(hook, store.counts().get(hook.id, {}))


def remove(name: str, caller: Caller) -> None:
    """Forget a hook and its log. Raises NotFound, Forbidden."""
    caller.require("admin")
    hook = _find(name)
    write(lambda tx: store.remove(tx, hook, at=clock.now(), actor=caller.name))


def switch(name: str, on: bool, caller: Caller) -> dict[str, Any]:
    """Send no more, or go on where it was left. Raises NotFound, Forbidden."""
    caller.require("admin")
    hook = _find(name)
    if bool(hook.enabled) != on:
        write(lambda tx: store.change(tx, hook.id, event="webhook.enable" if on else "webhook.disable", at=clock.now(),
                                      actor=caller.name, note={"name": hook.name}, enabled=int(on), not_before=0, failures=0))
    return one(name)


def retry(name: str, caller: Caller) -> int:
    """Deliveries that were given up begin anew, and the receiver is tried at once; how many. Raises NotFound, Forbidden."""
    caller.require("operator")
    hook = _find(name)

    def revive(tx: Tx) -> int:
        store.change(tx, hook.id, not_before=0, failures=0)
        return store.revive(tx, hook.id)

    return write(revive)


def test(name: str, caller: Caller) -> dict[str, Any]:
    """Send a hook an event of its own, whatever it filters; answers the delivery, which goes out in the background.

    Raises NotFound, Conflict when the hook is switched off, Forbidden.
    """
    caller.require("operator")
    hook = _find(name)
    if not hook.enabled:
        raise Conflict(f"webhook {name} is switched off: enable it first")

    def put(tx: Tx) -> int:
        at = clock.now()
        events.append(tx, TEST_KIND, (store.NOUN, hook.id), at=at, actor=caller.name, name=hook.name)
        event = events.Event(int(tx.value("SELECT max(id) FROM event")), at, TEST_KIND, store.NOUN, hook.id, caller.name,
                             json.dumps({"name": hook.name}))
        store.change(tx, hook.id, not_before=0)
        return store.add(tx, hook.id, event.id, TEST_KIND, body_of(event), at=at)

    return delivery(write(put))


def deliveries(name: str, caller: Caller, *, state: str = "", after: int | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """What a hook was sent, newest first, paged by id. Raises NotFound, Invalid for an unknown state, Forbidden."""
    caller.require("operator")
    if state and state not in store.STATES:
        raise Invalid.at("state", f"{state!r} is no state of a delivery", ", ".join(store.STATES))
    return [_delivery(row) for row in store.deliveries(_find(name).id, state=state, after=after, limit=limit)]


def delivery(number: int) -> dict[str, Any]:
    """One delivery. Raises NotFound."""
    found = store.delivery(number)
    if found is None:
        raise NotFound(f"there is no delivery {number}")
    return _delivery(found)


def wants(hook: Hook, event: events.Event) -> bool:
    """Does a hook get this event? Never one about itself; those about other hooks only when it asks for them by kind."""
    if event.subject_kind == store.NOUN and (event.subject_id == hook.id or event.kind == TEST_KIND):
        return False
    kinds = json.loads(hook.kinds)
    if event.subject_kind == store.NOUN:
        kinds = [kind for kind in kinds if kind.startswith("webhook")]
        return any(_matches(kind, event.kind) for kind in kinds)
    return not kinds or any(_matches(kind, event.kind) for kind in kinds)


def body_of(event: events.Event) -> str:
    """What is sent for an event: the same members as in the event list."""
    return json.dumps({
        "id": event.id, "at": clock.rfc3339(event.at), "kind": event.kind, "subject_kind": event.subject_kind,
        "subject_id": event.subject_id, "actor": event.actor, "data": json.loads(event.data or "{}")}, ensure_ascii=False)


def _matches(wanted: str, kind: str) -> bool:
    """`job.fail` is that kind; `job.`, `job.*` and `job` are all of jobs; `*` is everything."""
    begin = wanted.removesuffix("*")
    return begin in ("", kind) or kind.startswith(begin if begin != wanted or begin.endswith(".") else begin + ".")


def _find(name: str) -> Hook:
    hook = store.by_name(name)
    if hook is None:
        raise NotFound(f"there is no webhook {name[:100]}")
    return hook


def _view(hook: Hook, counts: dict[str, int]) -> dict[str, Any]:
    waits = hook.not_before > clock.now()
    return {
        "id": hook.id, "name": hook.name, "url": hook.shown, "kinds": json.loads(hook.kinds), "enabled": bool(hook.enabled),
        "position": hook.position, "failures": hook.failures, "last_ok_at": clock.rfc3339(hook.last_ok_at),
        "last_error": hook.last_error or None, "retry_at": clock.rfc3339(hook.not_before) if waits else None,
        **{state: counts.get(state, 0) for state in store.STATES}, "created_by": hook.actor,
        "created_at": clock.rfc3339(hook.created_at)}


def _delivery(row: Delivery) -> dict[str, Any]:
    return {"id": row.id, "event_id": row.event_id, "kind": row.kind, "state": row.state, "attempts": row.attempts,
            "status": row.status, "error": row.error or None, "took_s": row.took_s, "created_at": clock.rfc3339(row.created_at),
            "tried_at": clock.rfc3339(row.tried_at), "ended_at": clock.rfc3339(row.ended_at)}


def _name(name: str) -> str:
    if not _NAME.match(name):
        raise Invalid.at("name", f"{name[:100]!r} cannot be used", "1 to 64 of a-z, 0-9, - _ . and no sign at an end")
    return name


def _secret(secret: str) -> str:
    if not SECRET_LEAST <= len(secret) <= SECRET_MOST or not secret.isascii() or not secret.isprintable():
        raise Invalid.at("secret", "cannot be used", f"{SECRET_LEAST} to {SECRET_MOST} printable ASCII characters")
    return secret


def _kinds(kinds: Sequence[str]) -> list[str]:
    for kind in kinds:
        if not _KIND.match(kind) or len(kind) > 100:
            raise Invalid.at("kinds", f"{kind[:100]!r} is no kind of event", "a kind: job.fail; how kinds begin: job.; all: *")
    if len(kinds) > KINDS_MOST:
        raise Invalid.at("kinds", f"{len(kinds)} kinds", f"at most {KINDS_MOST}")
    return list(dict.fromkeys(kinds))
