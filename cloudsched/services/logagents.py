"""Which log agents are there, and are they heard from? The list of one master: in memory, kept in the database.

A heartbeat of a known agent costs a dictionary look-up: its last contact is written behind, within FLUSH_S. A new agent
or a new tag is durable before it is acknowledged. Several masters on one database see each other's changes of the list
at once (a counter), and each other's contacts within LOOK_S. No lock is held while an agent is called.
"""

from __future__ import annotations

import itertools
import logging
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import msgspec

from cloudsched import clock
from cloudsched.errors import Invalid, Unavailable
from cloudsched.store import logagents as store
from cloudsched.store.db import Tx, write

log = logging.getLogger(__name__)

# Contract 3: ages in seconds.
OK_BELOW_S, BAD_UP_TO_S = 31.0, 60.0
OK, BAD, LOST = "ok", "bad", "lost"
FLUSH_S, LOOK_S, VERSION_S, QUICK_LIST_S = 0.4, 1.0, 0.2, 0.05
URL_MAX, TAG_MAX, BODIES_KEPT = 2000, 1000, 200_000
LABELS_MAX, LABEL_CHARS = 16, 300
_NEVER = float("inf")
_UNFIT_URL = re.compile(r"[\x00-\x20\x7f-\xa0?#\\\ud800-\udfff]")
_UNFIT_TAG = re.compile(r"[\x00\ud800-\udfff]")
_encode = msgspec.json.Encoder().encode

# The age of a contact is measured with this; replaced in tests.
steady: Callable[[], float] = time.monotonic


class Heartbeat(msgspec.Struct):
    """What an agent sends. Unknown members are ignored."""

    url: str = ""
    tag: str = ""
    labels: msgspec.Raw = msgspec.Raw(b"{}")


_heartbeat = msgspec.json.Decoder(Heartbeat).decode
_labels = msgspec.json.Decoder(dict[str, str]).decode


@dataclass(slots=True, eq=False)
class LogAgent:
    """One agent in memory. `heard` is in the time of `steady`, `seen_at` in epoch seconds."""

    id: int
    node_id: int
    url: str
    tag: str
    by_hand: bool
    seen_at: float
    heard: float
    listed: bool = True
    word: str = OK
    until: float = 0.0
    text: bytes = b""
    head: bytes = field(default=b"")

    def status(self, now: float | None = None) -> str:
        """ok, bad or lost, by the age of the last contact."""
        return status_of((steady() if now is None else now) - self.heard)

    def render(self, now: float) -> None:
        """The record as JSON (contract 3), good until `until`."""
        self.word = self.status(now)
        self.until = self.heard + {OK: OK_BELOW_S, BAD: BAD_UP_TO_S, LOST: _NEVER}[self.word]
        if not self.head:
            self.head = b'{"url":%s,"tag":%s,"status":"' % (_encode(self.url), _encode(self.tag))
        self.text = b'%s%s","last_touch":"%s"}' % (
            self.head, self.word.encode(), (clock.rfc3339(self.seen_at) or "").encode())


def status_of(age_s: float) -> str:
    """Contract 3: under 31 s `ok`, up to 60 s `bad`, else `lost`."""
    return OK if age_s < OK_BELOW_S else BAD if age_s <= BAD_UP_TO_S else LOST


def normal_url(text: str) -> str:
    """A URL as it is registered (contract 2): with a scheme, without a slash at its end."""
    if not text.startswith(("http://", "https://")):
        text = "http://" + text
    return text.rstrip("/")


def checked_url(text: str) -> str:
    """The normal form of an agent's URL. Raises Invalid when nobody could be called there."""
    if len(text) > URL_MAX or _UNFIT_URL.search(text):
        raise Invalid.at("url", "it cannot be an agent's URL", "http://HOST:PORT, no spaces, no query")
    url = normal_url(text)
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        fine = False
    if not fine:
        # A password in it is not repeated.
        shown = repr(text[:80]) if "@" not in text else "this URL"
        raise Invalid.at("url", f"{shown} has no host that can be called", "http://HOST:PORT, without a user")
    return url


def checked_tag(tag: str) -> str:
    """The tag. Raises Invalid for what cannot be kept."""
    if len(tag) > TAG_MAX or _UNFIT_TAG.search(tag):
        raise Invalid.at("tag", "cannot be kept", f"text of at most {TAG_MAX} characters")
    return tag


def parse_heartbeat(body: bytes) -> Heartbeat:
    """Raises Invalid: no JSON object, or `url` or `tag` of another type (contract 2)."""
    try:
        beat = _heartbeat(body)
    except msgspec.ValidationError as error:
        raise Invalid(f"the body must be an object with the texts url and tag: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"the body is not JSON: {error}") from None
    return Heartbeat(checked_url(beat.url), checked_tag(beat.tag), beat.labels)


def labels_of(beat: Heartbeat) -> dict[str, str]:
    """What our own agents say beside URL and tag (node, node_id, cloud, cluster). What is no such thing is not kept."""
    try:
        found = _labels(beat.labels)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return {name: text for name, text in list(found.items())[:LABELS_MAX]
            if len(name) <= LABEL_CHARS and len(text) <= LABEL_CHARS and not _UNFIT_TAG.search(name + text)}


class Fleet:
    """The list of one process. Safe for threads."""

    def __init__(self, *, agents_max: int = 50_000) -> None:
        self.agents_max = agents_max
        self.generation = 0
        self._count = itertools.count(1)
        self._lock = threading.RLock()
        self._by_url: dict[str, LogAgent] = {}
        self._by_body: dict[bytes, LogAgent] = {}
        self._order: list[LogAgent] = []
        self._version = -1
        self._own: set[int] = set()
        self._check_at = self._look_at = self._checked_at = 0.0
        self._dirty: dict[int, LogAgent] = {}
        self._lists: dict[tuple[str, str], tuple[int, float, bytes]] = {}
        self._flusher: threading.Thread | None = None
        self._stop = threading.Event()

    # heartbeats

    def register(self, body: bytes) -> None:
        """One heartbeat (contract 2). Raises Invalid; Unavailable when it is new and cannot be made durable."""
        now = steady()
        if now >= self._check_at:
            self._refresh_quietly()
        agent = self._by_body.get(body)
        if agent is None or not agent.listed:
            agent = self._admit(body)
            if agent is None:
                return
        self._touch(agent, now)

    def heard_of(self, body: bytes) -> bool:
        """A heartbeat taken from memory alone, without a look at the database; False when that cannot be."""
        now = steady()
        agent = self._by_body.get(body)
        if agent is None or not agent.listed or now >= self._check_at:
            return False
        self._touch(agent, now)
        return True

    def kept_list(self, tag: str, url: str) -> bytes | None:
        """`listed` from memory alone: the list as it was rendered, while it is still true and was checked a moment ago."""
        kept, now = self._lists.get((tag, url)), steady()
        if kept is None or kept[0] != self.generation or now >= kept[1] or now >= self._checked_at + QUICK_LIST_S:
            return None
        return kept[2]

    def _touch(self, agent: LogAgent, now: float) -> None:
        # The agent first, then the generation: who reads the new generation sees the contact.
        agent.seen_at, agent.heard, agent.until = clock.now(), now, 0.0
        self._dirty[agent.node_id] = agent
        self.generation = next(self._count)
        if self._flusher is None:
            self._start_flusher()

    def _admit(self, body: bytes) -> LogAgent | None:
        """A heartbeat that was not seen like this before: known with the same tag, or written down now (None)."""
        beat = parse_heartbeat(body)
        agent = self._by_url.get(beat.url)
        labels = labels_of(beat)
        if agent is not None and agent.tag == beat.tag:
            if labels and store.labels([agent.node_id]).get(agent.node_id) != labels:
                node_id = agent.node_id
                write(lambda tx: store.set_labels(tx, node_id, beat.url, beat.tag, labels))
            self._remember(body, agent)
            return agent
        if agent is None and len(self._by_url) >= self.agents_max:
            raise Invalid(f"{len(self._by_url)} agents are on the list: no more are taken (logkit.agents_max)")
        row, version = write(lambda tx: _write_down(tx, beat.url, beat.tag, clock.now(), labels))
        self._take(row, version, body)
        return None

    def _take(self, row: store.Row, version: int, body: bytes) -> None:
        """What this process has just written down is put into its list, without reading the others again."""
        with self._lock:
            agent = self._by_url.get(row.url)
            if agent is None or agent.id != row.id:
                if agent is not None:
                    agent.listed = False
                    self._order.remove(agent)
                agent = LogAgent(row.id, row.node_id, row.url, row.tag, bool(row.by_hand), row.seen_at, steady())
                self._by_url[row.url] = agent
                if self._order and self._order[-1].id > row.id:
                    self._order = sorted([*self._order, agent], key=lambda one: one.id)
                else:
                    self._order.append(agent)
            if agent.tag != row.tag:
                agent.tag, agent.head = row.tag, b""
                self._by_body = {kept: one for kept, one in self._by_body.items() if one is not agent}
            agent.seen_at, agent.heard, agent.until = clock.now(), steady(), 0.0
            self._remember(body, agent)
            # Changes of other processes in between are seen by their numbers, which are missing here.
            self._own.add(version)
            while self._version + 1 in self._own:
                self._version += 1
                self._own.remove(self._version)
            self._lists.clear()
            self.generation = next(self._count)

    def _remember(self, body: bytes, agent: LogAgent) -> None:
        with self._lock:
            if len(self._by_body) >= BODIES_KEPT:
                self._by_body.clear()
            self._by_body[body] = agent

    # looking

    def listed(self, *, tag: str = "", url: str = "") -> bytes:
        """The records as a JSON array (contract 3), in the order of first registration."""
        self.refresh()
        now, generation, key = steady(), self.generation, (tag, url)
        kept = self._lists.get(key)
        if kept is not None and kept[0] == generation and now < kept[1]:
            return kept[2]
        found = self._matching(tag, url)
        good_until = _NEVER
        for agent in found:
            if now >= agent.until:
                agent.render(now)
            good_until = min(good_until, agent.until)
        text = b"[%s]" % b",".join([agent.text for agent in found])
        if len(self._lists) >= 64:
            self._lists.clear()
        self._lists[key] = (generation, good_until, text)
        return text

    def select(self, *, tag: str = "", url: str = "") -> list[LogAgent]:
        """The agents that match (contract 6.1); an empty filter matches all."""
        self.refresh()
        return self._matching(tag, url)

    def _matching(self, tag: str, url: str) -> list[LogAgent]:
        if url:
            agent = self._by_url.get(normal_url(url))
            return [agent] if agent is not None and (not tag or agent.tag == tag) else []
        # A list of its own: another thread may add to the order meanwhile.
        return [agent for agent in self._order if agent.tag == tag] if tag else list(self._order)

    # forgetting

    def forget(self, *, tag: str = "", url: str = "", actor: str = "") -> int:
        """Drop the matching agents from the list (contract 6.4); returns how many."""
        wanted = normal_url(url) if url else ""
        gone = write(lambda tx: store.remove(tx, tag=tag, url=wanted, at=clock.now(), actor=actor))
        self.refresh(now=True)
        return len(gone)

    # the database

    def refresh(self, *, now: bool = False) -> None:
        """See what other masters changed: of the list at once, of contacts every LOOK_S."""
        version = store.version()
        at = steady()
        self._checked_at = at
        if version == self._version and at < self._look_at and not now:
            return
        with self._lock:
            if version != self._version:
                self._load(version)
            elif at >= self._look_at:
                self._hear()
            self._look_at, self._check_at = at + LOOK_S, at + VERSION_S

    def _refresh_quietly(self) -> None:
        """For heartbeats: a known agent is taken also while the database is away."""
        self._check_at = steady() + VERSION_S
        try:
            self.refresh()
        except Unavailable as error:
            log.warning("the list of log agents was not read: %s", error)

    def _load(self, version: int) -> None:
        """The whole list. The version was read first: what is newer is seen again next time."""
        wall, now = clock.now(), steady()
        order: list[LogAgent] = []
        for row in store.rows():
            agent = self._by_url.get(row.url)
            if agent is None or agent.id != row.id:
                agent = LogAgent(row.id, row.node_id, row.url, row.tag, bool(row.by_hand), row.seen_at,
                                 now - max(0.0, wall - row.seen_at))
            elif row.seen_at > agent.seen_at:
                agent.seen_at, agent.heard = row.seen_at, now - max(0.0, wall - row.seen_at)
            if agent.tag != row.tag:
                agent.tag, agent.head = row.tag, b""
            agent.by_hand, agent.until = bool(row.by_hand), 0.0
            order.append(agent)
        kept = set(map(id, order))
        for agent in self._order:
            agent.listed = id(agent) in kept
        self._order, self._by_url = order, {agent.url: agent for agent in order}
        self._by_body = {body: agent for body, agent in self._by_body.items()
                         if agent.listed and self._same_tag(body, agent)}
        self._version, self.generation = version, next(self._count)
        self._own = {number for number in self._own if number > version}
        self._lists.clear()

    def _same_tag(self, body: bytes, agent: LogAgent) -> bool:
        return _heartbeat(body).tag == agent.tag

    def _hear(self) -> None:
        wall, now, changed = clock.now(), steady(), False
        by_id = {agent.id: agent for agent in self._order}
        for number, seen_at in store.seen():
            agent = by_id.get(number)
            if agent is not None and seen_at is not None and seen_at > agent.seen_at:
                agent.seen_at, agent.heard, agent.until = seen_at, now - max(0.0, wall - seen_at), 0.0
                changed = True
        if changed:
            self.generation = next(self._count)

    # writing behind

    def flush(self) -> int:
        """Write down who was heard from since the last time; returns how many."""
        dirty, self._dirty = self._dirty, {}
        contacts = [(agent.seen_at, agent.node_id) for agent in list(dirty.values()) if agent.listed]
        if contacts:
            write(lambda tx: store.touch(tx, contacts))
        return len(contacts)

    def _start_flusher(self) -> None:
        with self._lock:
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_on, name="logkit-contacts", daemon=True)
                self._flusher.start()

    def _flush_on(self) -> None:
        while not self._stop.wait(FLUSH_S):
            try:
                self.flush()
            except Unavailable as error:
                log.warning("contacts of log agents were not written: %s", error)
            except Exception:
                log.exception("contacts of log agents were not written")

    def close(self) -> None:
        """Write what is left and end the thread."""
        self._stop.set()
        if self._flusher is not None:
            self._flusher.join()
        self.flush()


def _write_down(tx: Tx, url: str, tag: str, at: float, labels: dict[str, str] | None = None) -> tuple[store.Row, int]:
    """(the agent as it is now, the number of this change)."""
    known = store.by_url(tx, url)
    if known is None:
        known = store.add(tx, url, tag, at=at, labels=labels)
    if known.tag != tag:
        store.set_tag(tx, known.id, tag, at=at, labels=labels)
        known = known._replace(tag=tag, seen_at=at)
    return known, store.version(tx)
