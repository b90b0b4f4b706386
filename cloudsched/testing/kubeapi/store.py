"""Where does the stand-in keep its objects? In memory, each change with a version, and a history that can be forgotten."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from cloudsched.testing.kubeapi.kinds import Kind, Object

Key = tuple[str, str]
Place = tuple[Kind, str, str]  # kind, namespace, name
KEPT = 20_000


@dataclass(frozen=True, slots=True)
class Change:
    """One entry of the history. `before`: the object as it was, for selectors that it no longer matches."""

    version: int
    type: str
    thing: Object
    before: Object | None


class Store:
    """Objects are never changed in place: a write puts a new one. Hold `lock` around whatever belongs together."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.version = 1
        self.late_accounts = False  # a new namespace has no default account, so that it takes no pods yet
        self.dirty: deque[Place] = deque()
        self.gone: dict[Place, Object] = {}  # what was dropped and not yet looked at
        self._dirty: set[Place] = set()
        self._things: dict[Kind, dict[Key, Object]] = {}
        self._history: dict[Kind, list[Change]] = {}
        self._oldest: dict[Kind, int] = {}
        self._owned: dict[str, set[Place]] = {}

    def get(self, kind: Kind, namespace: str, name: str) -> Object | None:
        return self._things.get(kind, {}).get((namespace, name))

    def all(self, kind: Kind, namespace: str = "") -> list[Object]:
        """Sorted by namespace and name, as etcd would."""
        things = self._things.get(kind, {})
        return [things[key] for key in sorted(things) if not namespace or key[0] == namespace]

    def kinds(self) -> list[Kind]:
        return list(self._things)

    def count(self, kind: Kind) -> int:
        return len(self._things.get(kind, {}))

    def put(self, kind: Kind, thing: Object) -> Object:
        """Keep `thing` under its name with the next version; returns it."""
        metadata = thing["metadata"]
        key = (metadata.get("namespace", ""), metadata["name"])
        things = self._things.setdefault(kind, {})
        before = things.get(key)
        metadata["resourceVersion"] = self._next()
        things[key] = thing
        self._index(kind, key, before, thing)
        self._record(kind, "MODIFIED" if before else "ADDED", thing, before)
        return thing

    def drop(self, kind: Kind, namespace: str, name: str) -> Object | None:
        """Take it away for good; returns what it was."""
        before = self._things.get(kind, {}).pop((namespace, name), None)
        if before is None:
            return None
        self._index(kind, (namespace, name), before, None)
        self.gone[kind, namespace, name] = before
        last = {**before, "metadata": {**before["metadata"], "resourceVersion": self._next()}}
        self._record(kind, "DELETED", last, before)
        return before

    def owned_by(self, uid: str) -> list[tuple[Kind, Object]]:
        """Everything that names `uid` as an owner."""
        found = []
        for kind, namespace, name in sorted(self._owned.get(uid, ()), key=lambda one: (one[0].kind, *one[1:])):
            thing = self.get(kind, namespace, name)
            if thing is not None:
                found.append((kind, thing))
        return found

    def since(self, kind: Kind, version: int, *, going_on: bool = False) -> list[Change]:
        """The changes of a kind after `version`; LookupError when they are no longer known. A watch that is `going_on` has
        seen what was forgotten."""
        if version < self._oldest.get(kind, 0) and not going_on:
            raise LookupError(self._oldest[kind])
        history = self._history.get(kind, [])
        return history[bisect_right(history, version, key=lambda one: one.version):]

    def forget(self) -> None:
        """Compaction: no watch can begin from a version before now."""
        with self.lock:
            for kind in [*self._things, *self._history]:
                self._oldest[kind] = self.version

    def touch(self, place: Place) -> None:
        """Have the controllers look at an object."""
        if place not in self._dirty:
            self._dirty.add(place)
            self.dirty.append(place)
            self.changed.notify_all()

    def next_dirty(self) -> Place | None:
        if not self.dirty:
            return None
        place = self.dirty.popleft()
        self._dirty.discard(place)
        return place

    def _next(self) -> str:
        self.version += 1
        return str(self.version)

    def _record(self, kind: Kind, sort: str, thing: Object, before: Object | None) -> None:
        history = self._history.setdefault(kind, [])
        history.append(Change(self.version, sort, thing, before))
        if len(history) > KEPT:
            self._oldest[kind] = history[KEPT // 2].version
            del history[: KEPT // 2 + 1]
        metadata = thing["metadata"]
        self.touch((kind, metadata.get("namespace", ""), metadata["name"]))
        self.changed.notify_all()

    def _index(self, kind: Kind, key: Key, before: Object | None, after: Object | None) -> None:
        old, new = set(_owners(before)), set(_owners(after))
        for uid in old - new:
            self._owned.get(uid, set()).discard((kind, *key))
        for uid in new - old:
            self._owned.setdefault(uid, set()).add((kind, *key))


def _owners(thing: Object | None) -> Iterator[str]:
    for one in ((thing or {}).get("metadata") or {}).get("ownerReferences") or ():
        yield one["uid"]
