"""What can be asked of compute centres? Add, change, remove, list; and what all services of centres share.

A centre is a cloud of kind `Centre` with a row of its own beside it. Errors say what happened in English; their details hold
`say`, the name of the sentence in the caller's language, and what is put in.
"""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cloudsched import clock
from cloudsched.errors import CloudschedError, Conflict, FieldError, Forbidden, Invalid, NotFound
from cloudsched.sealed import Sealer, is_sealed
from cloudsched.settings import Settings
from cloudsched.store import centres as store
from cloudsched.store import clouds, clusters, pool
from cloudsched.store.centres import Centre
from cloudsched.store.db import Tx, write
from cloudsched.store.moves import move

__all__ = [
    "ALPHABET", "KEY_CHARS", "LAST_DAY", "Centre", "add", "attempt", "change", "checked_date", "checked_name", "find",
    "host_taken", "in_order", "is_local", "listed", "needs_secret", "new_key", "opened", "refused", "remove", "resealed",
    "same_executor", "seal", "shown_time", "slug", "today", "wrong"]
T = TypeVar("T")
E = TypeVar("E", bound=CloudschedError)

_FIRST = string.ascii_letters + string.digits
ALPHABET = _FIRST + "_-"
KEY_CHARS = 21
LAST_DAY = "9999-12-31"
NAME_CHARS = 200
_DATE = re.compile(r"\d{4}-\d\d-\d\d\Z", re.ASCII)
_LOCAL = ("", "local", "embedded")


# what all services of centres share


def new_key() -> str:
    """A random id: 21 characters of `A-Za-z0-9_-`, the first a letter or digit (one with `-` looks like an option)."""
    return secrets.choice(_FIRST) + "".join(secrets.choice(ALPHABET) for _ in range(KEY_CHARS - 1))


def refused(kind: type[E], say: str, message: str, **values: Any) -> E:
    """An error that dialects can tell in the caller's language."""
    return kind(message, details={"say": say, **values})


def wrong(field: str, value: str, say: str = "bad_text", **values: Any) -> Invalid:
    """A bad parameter; `value` says what is wrong with it."""
    return Invalid(f"{field}: {value}", errors=[FieldError(field, value)],
                   details={"say": say, "field": field, "value": value, **values})


class _Trial(Exception):
    def __init__(self, result: Any) -> None:
        super().__init__("only tried")
        self.result = result


def attempt(change: Callable[[Tx], T], *, dry_run: bool) -> T:
    """Run a transaction; with `dry_run` everything is done and then taken back, so that what refuses it is known."""
    if not dry_run:
        return write(change)

    def tried(tx: Tx) -> None:
        raise _Trial(change(tx))

    try:
        write(tried)
    except _Trial as trial:
        result: T = trial.result
        return result
    raise AssertionError("a trial ends in its result")


def seal(text: str, settings: Settings) -> str:
    """A secret as it is kept; an empty one stays empty."""
    return Sealer.load(settings.state.dir).seal(text) if text else ""


def opened(token: str, settings: Settings) -> str:
    """A kept secret in the clear. Raises SealError when no key fits."""
    return Sealer.load(settings.state.dir).open(token) if token else ""


def resealed(field: str, given: str, kept: str, settings: Settings) -> str:
    """What is kept of a secret that was given: a token that was read is given back as it is, and no other token is taken.
    A blank one keeps what there is, as forms do not show passwords."""
    if given == kept or not given.strip():
        return kept
    if is_sealed(given):
        raise wrong(field, "an encrypted value may only be given back where it was read", "bad_token")
    return seal(given, settings)


def needs_secret(field: str, changed: str, given: Any, kept: str) -> None:
    """A kept secret goes nowhere it was not given for: with another address or account it must be given anew.

    `field` holds the secret, `changed` is what is another now. Raises Invalid."""
    if kept and (given is None or not str(given).strip() or str(given) == kept):
        raise wrong(field, f"must be given anew with another {changed}", "secret_anew", changed=changed)


def checked_date(field: str, text: str | None, default: str) -> str:
    """A day as YYYY-MM-DD; blank is the default. Raises Invalid."""
    given = (text or "").strip()
    if not given:
        return default
    try:
        if not _DATE.match(given):
            raise ValueError(given)
        date.fromisoformat(given)
    except ValueError:
        raise wrong(field, given[:40], "bad_date") from None
    return given


def checked_name(field: str, text: str) -> str:
    """A name that people gave: printable, not empty, not too long. Raises Invalid."""
    name = text.strip()
    if not name or not name.isprintable():
        raise wrong(field, "must be printable and not empty", "bad_name")
    if len(name) > NAME_CHARS:
        raise wrong(field, "is too long", "too_long", most=NAME_CHARS)
    return name


def today() -> str:
    """The day it is (UTC)."""
    return datetime.fromtimestamp(clock.now(), UTC).strftime("%Y-%m-%d")


def shown_time(at: float) -> str:
    """A time as `YYYY-MM-DD HH:MM:SS` of this server."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def slug(name: str, default: str) -> str:
    """A name for machines made from one for people."""
    text = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return text if re.search("[a-z]", text) else "-".join(part for part in (default, text) if part)


def is_local(centre: Centre, settings: Settings) -> bool:
    """Is the centre served in this process? Its URL is empty, `local`, or an address of this server."""
    url = centre.pcapi_url.strip().rstrip("/")
    if url.lower() in _LOCAL:
        return True
    listener = settings.listener("kboss")
    parts = urlsplit(url)
    own = {"127.0.0.1", "localhost", "::1", listener.host.strip("[]") if listener else ""}
    return listener is not None and parts.port == listener.port and (parts.hostname or "") in own and parts.path in ("", "/")


def same_executor(one: Centre, other: Centre, settings: Settings) -> bool:
    """Do the same executor's hands reach the hosts of both? Where this server serves them, or their URL is the same."""
    return _executor(one, settings) == _executor(other, settings)


def _executor(centre: Centre, settings: Settings) -> str:
    if is_local(centre, settings):
        return ""
    parts = urlsplit(centre.pcapi_url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return f"{parts.scheme}://{(parts.hostname or '').rstrip('.')}:{port}{parts.path.rstrip('/')}"


# centres


def find(key: str, *, scope: str | None = None) -> Centre:
    """One centre by its id. Raises NotFound, also for one of another organisation than `scope`."""
    centre = store.centre(key)
    if centre is None or (scope is not None and centre.org != scope):
        raise refused(NotFound, "no_centre", f"there is no compute centre {key}", id=key)
    return centre


def listed(*, scope: str | None = None) -> list[Centre]:
    """The centres of an organisation, or all."""
    return store.all_centres(org=scope)


def add(values: Mapping[str, str], *, org: str, actor: str, settings: Settings, dry_run: bool = False) -> Centre:
    """Make a centre from `name`, `pcapi_url`, `api_user`, `api_pwd`, `enable_date`, `expire_date`, `contactname`,
    `contactphone`. Raises Invalid; Conflict when the organisation has one of that name."""
    columns = _columns(values, None, settings)
    key = new_key()

    def insert(tx: Tx) -> Centre:
        at = clock.now()
        _name_free(columns["name"], org, None)
        cloud_id = _insert_cloud(tx, key, columns, at=at, actor=actor)
        number = store.insert(tx, "centre", {**columns, "key": key, "cloud_id": cloud_id, "org": org, "created_at": at,
                                             "updated_at": at})
        store.note(tx, "centre.add", ("cloud", cloud_id), at=at, actor=actor, org=org, id=key, name=columns["name"], row=number)
        return find(key)

    return attempt(insert, dry_run=dry_run)


def change(centre: Centre, values: Mapping[str, str], *, actor: str, settings: Settings, admin: bool = True,
           dry_run: bool = False) -> Centre:
    """Change what is given of a centre; `admin`: may the caller lead its hosts' secrets elsewhere? Another `pcapi_url` or
    `api_user` needs `api_pwd` given anew. Raises Invalid, Conflict, Forbidden."""
    columns = _columns(values, centre, settings)

    def update(tx: Tx) -> Centre:
        at = clock.now()
        _check_led_elsewhere(find(centre.key), columns, values.get("api_pwd"), admin=admin)
        _name_free(columns["name"], centre.org, centre.key)
        noted = centre.expiry_noted if columns["expire_date"] == centre.expire_date else ""
        store.update(tx, "centre", centre.id, **columns, expiry_noted=noted, updated_at=at)
        if _place(columns["pcapi_url"]) != _place(centre.pcapi_url):
            _hosts_free(find(centre.key), settings)
        clouds.update(tx, centre.cloud_id, at=at, event="cloud.change", actor=actor, note={"changed": ["title", "address"]},
                      title=columns["name"], address=columns["pcapi_url"])
        changed = sorted(name for name, value in columns.items() if value != getattr(centre, name))
        store.note(tx, "centre.change", ("cloud", centre.cloud_id), at=at, actor=actor, org=centre.org, id=centre.key,
                   changed=changed)
        return find(centre.key)

    return attempt(update, dry_run=dry_run)


def remove(centre: Centre, *, actor: str, dry_run: bool = False) -> None:
    """Remove a centre that has neither hosts nor clusters. Raises Conflict."""

    def delete(tx: Tx) -> None:
        at = clock.now()
        hosts, live = _content(centre)
        if hosts or live:
            raise refused(Conflict, "centre_in_use", f"compute centre {centre.name} has {hosts} hosts and {live} clusters",
                          name=centre.name, hosts=hosts, clusters=live)
        store.update(tx, "centre", centre.id, removed_at=at, updated_at=at)
        move(tx, "cloud", centre.cloud_id, "remove", at=at, actor=actor, note={"name": centre.name})
        store.note(tx, "centre.remove", ("cloud", centre.cloud_id), at=at, actor=actor, org=centre.org, id=centre.key,
                   name=centre.name)

    attempt(delete, dry_run=dry_run)


def _content(centre: Centre) -> tuple[int, int]:
    """How many hosts and clusters it has."""
    live = [found for found in clusters.find(origin="kboss", cloud_id=centre.cloud_id, limit=1000)
            if found.state not in ("terminated", "failed")]
    return store.count_hosts(centre.key), len(live)


def _check_led_elsewhere(known: Centre, columns: Mapping[str, str], given: str | None, *, admin: bool) -> None:
    """Whoever answers at `pcapi_url` is told the centre's password, and of its hosts and clusters all that opens them."""
    changed = ["pcapi_url"] if _place(columns["pcapi_url"]) != _place(known.pcapi_url) else []
    changed += ["api_user"] if columns["api_user"] != known.api_user else []
    if not changed:
        return
    if _place(columns["pcapi_url"]):  # nothing is sent to this server itself
        needs_secret("api_pwd", changed[0], given, known.api_pwd)
    if not admin and any(_content(known)):
        raise refused(Forbidden, "centre_led_elsewhere", f"another {changed[0]} of a compute centre that has hosts or clusters "
                      "needs the role admin", field=changed[0], name=known.name)


def _hosts_free(centre: Centre, settings: Settings) -> None:
    """No machine is twice at one executor. Raises Conflict when another URL would make it so."""
    others = [one.key for one in store.all_centres() if one.key != centre.key and same_executor(one, centre, settings)]
    found = store.host_of_both(centre.key, others)
    if found is not None:
        raise host_taken(centre, found[1])


def host_taken(centre: Centre, known: store.Host) -> Conflict:
    """A host of another centre stands in the way; whose it is, only its own organisation is told."""
    address = f"{known.ip}:{known.sshport}"
    other = find(known.centre_key)
    if other.org == centre.org:
        return refused(Conflict, "host_exists_there", f"host {known.name} of the centre {other.name} has the address {address}",
                       name=known.name, centre=other.name, address=address)
    return refused(Conflict, "host_taken", f"another host of this executor has the address {address}", address=address)


def _place(url: str) -> str:
    """An address as it is compared: all words for this server are one."""
    return "" if url.lower() in _LOCAL else url


def _insert_cloud(tx: Tx, key: str, columns: Mapping[str, str], *, at: float, actor: str) -> int:
    name = slug(columns["name"], "centre")
    if clouds.by_name(name, removed=True) is not None:
        name = f"{name}-{slug(key, 'c')[:12]}"
    return clouds.insert(tx, {"name": name, "title": columns["name"], "kind": "Centre", "max_slots": 0, "enabled": 1,
                              "address": columns["pcapi_url"], "position": pool.next_position(tx)}, at=at, actor=actor)


def _name_free(name: str, org: str, key: str | None) -> None:
    known = store.centre_named(name, org)
    if known is not None and known.key != key:
        raise refused(Conflict, "centre_exists", f"there is a compute centre named {name} already", name=name)


def _columns(values: Mapping[str, str], known: Centre | None, settings: Settings) -> dict[str, str]:
    def of(name: str, default: str = "") -> str:
        return values[name] if values.get(name) is not None else (getattr(known, name) if known else default)

    begins = checked_date("enable_date", of("enable_date"), today())
    ends = checked_date("expire_date", of("expire_date"), LAST_DAY)
    in_order("enable_date", begins, "expire_date", ends)
    return {
        "name": checked_name("name", of("name")), "pcapi_url": _url(of("pcapi_url")), "api_user": of("api_user").strip(),
        "api_pwd": resealed("api_pwd", of("api_pwd"), known.api_pwd if known else "", settings),
        "enable_date": begins, "expire_date": ends, "contactname": of("contactname").strip(),
        "contactphone": of("contactphone").strip(),
    }


def in_order(first: str, begins: str, last: str, ends: str) -> None:
    """Raise Invalid when a time ends before it begins."""
    if ends < begins:
        raise wrong(last, f"{ends} < {first} {begins}", "bad_order", first=first, begins=begins, ends=ends)


def _url(text: str) -> str:
    url = text.strip().rstrip("/")
    if url.lower() in _LOCAL:
        return url
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.username and not parts.password
        good = good and url.isprintable() and " " not in url and (parts.port is None or parts.port > 0) and not parts.query
    except ValueError:
        good = False
    if not good:
        raise wrong("pcapi_url", url[:200] if "@" not in url else "***", "bad_url")
    return url
